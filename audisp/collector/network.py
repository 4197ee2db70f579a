"""The network as a source: listener, store and what keeps the store within its bounds, behind the contract of sources.

It gives its route nothing. What it receives it stores and acknowledges, and each plugin is fed out of the store on a
way of its own (`supply`), so that none of them can hold up a sender. audisp-collector has no other source; audispd has
this one beside its own when auditd.conf says `tcp_listen_port`.

What holds: cancelled, `run` tells every sender the end, stores what is under way and acknowledges it, within
`drain_timeout`, before it returns.
"""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import attrs
import trio

from audisp.collector.admission import Admission
from audisp.collector.committer import Committer, Say
from audisp.collector.flight import Flight
from audisp.collector.hosts import Hosts, report
from audisp.collector.listener import Listener, bind, context, key_ring
from audisp.collector.presence import Presence
from audisp.collector.recent import Recent
from audisp.collector.services import Services
from audisp.collector.store import Store
from audisp.collector.supply import StoreSupply
from audisp.collector.upkeep import Upkeep, policy_of
from audisp.config.collector import CollectorConf
from audisp.config.grammar import ConfigErrors
from audisp.config.network import TlsKeys
from audisp.config.schema import keys
from audisp.dispatch.actions import Actions
from audisp.dispatch.folder import make_folder
from audisp.dispatch.plan import Plan
from audisp.dispatch.roster import Entry
from audisp.dispatch.router import Router
from audisp.errors import ConfigError
from audisp.record import Block
from audisp.sources.bad import Rejects
from audisp.sources.contract import NETWORK, Kind, Route, SourceBooks
from audisp.sources.memory import collect_rarely
from audisp.tls.context import ServerContext
from audisp.tls.keyring import KeyRing

FIXED: Final = (
    *("tcp_listen_port", "listen", "tcp_listen_queue", "transport", "plain"),
    *keys(TlsKeys),
    *("tls_allowed_clients", "tls_psk_master", "tls_psk_epochs"),
    "store_dir",
)
"""Keys that a reload cannot change: sockets, the files that keys are read from, the store's folder."""

SPARE_FILES: Final = 256
"""Descriptors beside those of connections."""


@attrs.frozen
class Opened:
    """What has to be had before privileges go: keys read, store locked and open, sockets bound."""

    conf: CollectorConf
    store: Store
    sockets: tuple[socket.socket, ...]
    ring: KeyRing | None
    tls: ServerContext | None

    @classmethod
    def take(cls, conf: CollectorConf, say: Say, held: contextlib.ExitStack) -> Self:
        """Raises ConfigError, StoreError. held: gives it all back when it is unwound."""
        _allow_files(conf, say)
        collect_rarely()
        make_folder(conf.store_dir.parent)
        ring = key_ring(conf)
        tls = None if ring is None else context(conf, ring)
        for notice in (*(ring.notices if ring else ()), *(tls.notices if tls else ())):
            say("notice", notice)
        store = Store(conf.store_dir, policy=policy_of(conf), min_free=conf.store_min_free, max_hosts=conf.max_hosts)
        held.enter_context(store)
        for name, count in attrs.asdict(store.findings).items():
            if count:
                level = "info" if name.startswith("torn") else "error"
                say(level, f"{store.path}: at open: {name.replace('_', ' ')}: {count:,}")
        sockets = tuple(bind(conf))
        for each in sockets:
            held.callback(each.close)
        return cls(conf, store, sockets, ring, tls)


class Network:
    """A source; see audisp.sources.contract.Source. To be made inside trio. actions: carry out what is configured for
    the disk."""

    name = NETWORK
    kind: Kind = "replay"
    rejects: Rejects | None = None

    def __init__(self, opened: Opened, actions: Actions, say: Say) -> None:
        conf = self.conf = opened.conf
        self._books = SourceBooks(NETWORK, "replay")
        self.recent = Recent(opened.store.next)
        flight = Flight(conf.max_bytes_in_flight, conf.max_bytes_in_flight_per_host)
        self.committer = Committer(opened.store, say, flight, self._stored)
        self.presence = Presence(profile=conf.profile if opened.tls is not None else "")
        self.services = Services(conf, self.committer, flight, Hosts(conf.max_hosts), say, self.presence)
        self.listener = Listener(self.services, opened.ring, opened.tls, Admission(conf))
        self.listening: list[str] = []
        self._sockets = opened.sockets
        self._actions, self._say = actions, say
        self._upkeep = Upkeep(conf, self.committer, actions, say)
        self._stop = trio.Event()

    def supply(
        self,
        folder: Path,
        router: Router,
        *,
        alone: bool,
        hosts: Callable[[Entry], tuple[str, ...] | None],
    ) -> StoreSupply:
        """What feeds the plugins; see StoreSupply. folder: what keeps their places."""
        return StoreSupply(
            self.committer.store,
            self.recent,
            folder,
            self._say,
            alone=alone,
            reader=router.reader,
            timeout=lambda: router.timeout,
            hosts=hosts,
        )

    @property
    def books(self) -> SourceBooks:
        """See Source: what is stored counts as routed; what waits for the disk is not in them yet."""
        books = self._books
        books.counters["connections"] = self.listener.admission.total
        trouble = self.committer.trouble
        if trouble is not None:
            books.detail["trouble"] = trouble.value
        else:
            books.detail.pop("trouble", None)
        return books

    def _stored(self, first: int, following: int, block: Block) -> None:
        """See committer.Feed."""
        self.recent.add(first, following, block)
        self._books.count_routed(block.records, len(block.data))

    # ---- as a source ----

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See Source. Ends only when it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_cancelled)
            with trio.CancelScope(shield=True):
                await self._live(task_status)

    async def _until_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as storing:
            await storing.start(self.committer.run)
            storing.start_soon(self._upkeep.run)
            self.listening = [_shown(each) for each in self._sockets]
            self._books.detail["listening"] = ", ".join(self.listening)
            task_status.started()
            await self._serve()
            storing.cancel_scope.cancel()

    async def _serve(self) -> None:
        async with trio.open_nursery() as sessions:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self.listener.run, self._sockets, sessions)
                await self._stop.wait()
                accepting.cancel_scope.cancel()
            self._say("info", f"ending; {len(self.services.hosts.connections)} connections are told")
            self.committer.end()
            sessions.cancel_scope.deadline = trio.current_time() + self.conf.drain_timeout
            await self.committer.emptied()
            sessions.cancel_scope.cancel()
        with trio.move_on_after(self.conf.drain_timeout):
            await self.committer.drained()

    # ---- while it runs ----

    def resume(self) -> None:
        """End a suspension; `actions` has been told."""
        self.committer.suspend(False)

    async def follow(self, plan: Plan) -> None:
        """Go over to what audispd's files say now, its keys included."""
        if plan.network is not None:
            self.take(plan.network)
        await self.reread_keys()

    def take(self, conf: CollectorConf) -> None:
        """Go over to other settings, but for those in FIXED: which of these have changed is said."""
        changed = [name for name in FIXED if getattr(conf, name) != getattr(self.conf, name)]
        if changed:
            self._say("warning", f"{', '.join(changed)}: changed, which takes a restart")
            conf = attrs.evolve(conf, **{name: getattr(self.conf, name) for name in changed})
        self.conf = self.services.conf = self.listener.admission.conf = self._upkeep.conf = conf
        flight = self.services.flight
        flight.total, flight.each = conf.max_bytes_in_flight, conf.max_bytes_in_flight_per_host
        self.services.hosts.keep = conf.max_hosts
        self.committer.store.bound(policy_of(conf), conf.store_min_free, conf.max_hosts)

    async def reread_keys(self) -> None:
        """Read the files of keys again, and cut off who may not come in any more. What is wrong is said, and then the
        keys stay as they were."""
        ring = self.listener.ring
        if ring is None:
            return
        try:
            await trio.to_thread.run_sync(ring.reload)
        except ConfigError as error:
            for each in error.errors if isinstance(error, ConfigErrors) else (error,):
                self._say("error", f"{each}; the keys stay as they were")
            return
        for notice in ring.notices:
            self._say("notice", notice)
        dropped = self.listener.revoke()
        self._say("info", f"read again; {dropped} connections were cut off")

    def hosts(self) -> list[dict[str, Any]]:
        """What `audisp-collector hosts` shows."""
        return report(self.services.hosts, self.committer.store.streams(), trio.current_time())

    def status(self) -> dict[str, Any]:
        """Of the whole, in figures."""
        committer, admission = self.committer, self.listener.admission
        return {
            "listening": self.listening,
            "connections": admission.total,
            "unproved": admission.unproved,
            "hosts": len({stream.key.identity for stream in committer.store.streams()}),
            "trouble": committer.trouble.value if committer.trouble is not None else None,
            "waiting": committer.waiting,
            "in_flight": self.services.flight.used,
            "records": committer.records,
            "frames": committer.frames,
            "bytes": committer.bytes,
            "commits": committer.groups,
            "store_bytes": committer.store.size,
        }


def _allow_files(conf: CollectorConf, say: Say) -> None:
    """A descriptor for each connection, and some."""
    wanted = conf.max_connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard < wanted:
            say("warning", f"{hard} files may be open, max_connections wants {wanted}: raise LimitNOFILE")


def _shown(sock: socket.socket) -> str:
    address, port = sock.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
