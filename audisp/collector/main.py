"""From a configuration to a running collector and an exit code. What must come before threads comes here, in order:
configuration, background, folders and pid file, store, sockets, capabilities; then trio.run."""

from __future__ import annotations

import contextlib
import gc
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio

from audisp import __version__
from audisp.collector.admission import Admission
from audisp.collector.committer import Committer, Feed
from audisp.collector.flight import Flight
from audisp.collector.hosts import Hosts, report
from audisp.collector.listener import Listener, bind, context, key_ring
from audisp.collector.services import Services
from audisp.collector.store import Store
from audisp.collector.upkeep import Upkeep, policy_of
from audisp.config.collector import NAME, CollectorConf, load
from audisp.config.grammar import ConfigErrors
from audisp.config.network import TlsKeys
from audisp.config.schema import keys
from audisp.dispatch import daemonize, privileges
from audisp.dispatch.actions import Actions
from audisp.dispatch.control import serve_control
from audisp.dispatch.folder import make_folder
from audisp.dispatch.say import Level, Voice
from audisp.errors import AudispError, ConfigError
from audisp.sources.memory import keep_freed_memory
from audisp.tls.context import ServerContext
from audisp.tls.keyring import KeyRing

IDENT: Final = "audisp-collector"
PACKAGE: Final = Path(__file__).resolve().parents[1]
LIMIT_BURST: Final = 5
LIMIT_SECONDS: Final = 10.0
"""Of one kind of message at most five in ten seconds, then their number, as in audispd."""
SIGNALS: Final = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGHUP: "reload",
    signal.SIGUSR2: "resume",
}
FIXED: Final = (
    *("tcp_listen_port", "listen", "tcp_listen_queue", "transport", "plain"),
    *(name for name in keys(TlsKeys)),
    *("tls_allowed_clients", "tls_psk_master", "tls_psk_epochs"),
    *("store_dir", "runtime_dir", "state_dir", "control", "capabilities", "priority_boost"),
)
"""Keys that a reload cannot change: sockets, the files that keys are read from, folders, the process."""


@attrs.frozen
class Options:
    """The command line."""

    conf_dir: Path
    foreground: bool = False
    allow_links: bool = False


@attrs.frozen
class Speech:
    """`Say` on a Voice."""

    voice: Voice

    def __call__(self, level: str, message: str, *, limit: str | None = None) -> None:
        """See committer.Say."""
        self.voice.say(
            cast("Level", level), message, limit=None if limit is None else (limit, LIMIT_BURST, LIMIT_SECONDS)
        )


def run(options: Options, feed: Feed | None = None) -> int:
    """Run a collector to its end; returns the exit code. feed: see committer.Feed."""
    keep_freed_memory()
    voice = Voice("stderr", IDENT)
    say = Speech(voice)
    readiness = daemonize.in_foreground()
    code = daemonize.EXIT_START
    try:
        conf, notices = load(options.conf_dir / NAME, allow_links=options.allow_links)
        for notice in notices:
            say("notice", notice)
        daemonize.settle()
        _allow_files(conf, say)
        if not options.foreground:
            readiness = daemonize.into_background()
        with contextlib.ExitStack() as held:
            held.enter_context(_signals_wait())
            for folder in (conf.runtime_dir, conf.state_dir, conf.store_dir.parent):
                make_folder(folder)
            held.enter_context(daemonize.PidFile(conf.runtime_dir / "audisp-collector.pid"))
            ring = key_ring(conf)
            tls = None if ring is None else context(conf, ring)
            for notice in (*(ring.notices if ring else ()), *(tls.notices if tls else ())):
                say("notice", notice)
            store = Store(
                conf.store_dir, policy=policy_of(conf), min_free=conf.store_min_free, max_hosts=conf.max_hosts
            )
            held.enter_context(store)
            _say_findings(store, say)
            sockets = bind(conf)
            held.callback(_close, sockets)
            daemonize.boost_priority(conf.priority_boost)
            problem = daemonize.avoid_oom_killer()
            if problem:
                say("notice", problem)
            for line in privileges.keep(_needed(conf)):
                say("info", line)
            collector = Collector(conf, options, store, ring, tls, voice, say, feed)
            trio.run(collector.run, sockets, readiness)
        return 0
    except ConfigErrors as errors:
        for each in errors.errors:
            say("error", str(each))
        code = daemonize.EXIT_CONFIG
    except ConfigError as error:
        say("error", str(error))
        code = daemonize.EXIT_CONFIG
    except daemonize.StartError as error:
        say("error", str(error))
        code = error.code
    except AudispError as error:
        say("error", str(error))
    except BaseExceptionGroup as group:
        rest = group.subgroup(lambda error: not isinstance(error, AudispError))
        if rest is not None:
            # In the background nobody sees the traceback that follows; this line goes to syslog.
            say("critical", f"a defect of our own: {rest.exceptions[0]!r}")
            readiness.failed(code)
            raise
        say("error", f"cannot go on: {group.exceptions[0]}")
    finally:
        voice.close()
    readiness.failed(code)
    return code


def _allow_files(conf: CollectorConf, say: Speech) -> None:
    """A descriptor for each connection, and some."""
    wanted = conf.max_connections + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard < wanted:
            say("warning", f"{hard} files may be open, max_connections wants {wanted}: raise LimitNOFILE")


def _needed(conf: CollectorConf) -> dict[str, list[str]]:
    """Capabilities to be kept, with the parts that need them."""
    needed = {name: ["audisp-collector.conf: capabilities"] for name in conf.capabilities}
    for path in (PACKAGE, Path(sys.prefix)):
        if privileges.out_of_reach(path):
            needed.setdefault("cap_dac_read_search", []).append(f"our own code: {path}")
            break
    return needed


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _say_findings(store: Store, say: Speech) -> None:
    for name, count in attrs.asdict(store.findings).items():
        if count:
            level = "info" if name.startswith("torn") else "error"
            say(level, f"{store.path}: at open: {name.replace('_', ' ')}: {count:,}")


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Until trio hears them, signals wait; once it does no more, they are ignored. To be entered before any thread."""
    before = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        for number, action in before.items():
            signal.signal(number, action)


class Collector:
    """A running one. Everything in it lives in one nursery: listener, sessions, committer, upkeep, control socket."""

    def __init__(
        self,
        conf: CollectorConf,
        options: Options,
        store: Store,
        ring: KeyRing | None,
        tls: ServerContext | None,
        voice: Voice,
        say: Speech,
        feed: Feed | None = None,
    ) -> None:
        self.conf, self.options, self.say = conf, options, say
        self._voice = voice
        flight = Flight(conf.max_bytes_in_flight, conf.max_bytes_in_flight_per_host)
        self.committer = Committer(store, say, flight, feed)
        self.services = Services(conf, self.committer, flight, Hosts(conf.max_hosts), say)
        self.listener = Listener(self.services, ring, tls, Admission(conf))
        self._actions = Actions(voice, mail_to=conf.action_mail_acct)
        self._upkeep = Upkeep(conf, self.committer, self._actions, say)
        self._started = time.time()
        self._stop = trio.Event()
        self._commands = trio.open_memory_channel[str](8)
        self._listening: list[str] = []

    async def run(self, sockets: Sequence[socket.socket], readiness: daemonize.Readiness) -> None:
        """Until told to stop; then everybody is told, and what was received is stored, within `drain_timeout`."""
        # What exists now stays; it need not be looked through again and again.
        gc.freeze()
        async with trio.open_nursery() as health:
            with trio.open_signal_receiver(*SIGNALS) as signals:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                health.start_soon(self._hear, signals)
                health.start_soon(self._obey)
                health.start_soon(self._tick)
                await health.start(self.committer.run)
                health.start_soon(self._upkeep.run)
                if self.conf.control:
                    await health.start(serve_control, self.conf.runtime_dir, self._answer)
                self._listening = [_shown(each) for each in sockets]
                self.say("info", f"audisp-collector {__version__} listens at {', '.join(self._listening)}")
                if readiness.background:
                    self._voice.turn("syslog")
                readiness.ready()
                await self._serve(sockets)
            health.cancel_scope.cancel()
        self.say("info", f"ended; {self.committer.records:,} records were stored")

    async def _serve(self, sockets: Sequence[socket.socket]) -> None:
        async with trio.open_nursery() as sessions:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self.listener.run, sockets, sessions)
                await self._stop.wait()
                accepting.cancel_scope.cancel()
            self.say("info", f"ending; {len(self.services.hosts.connections)} connections are told")
            self.committer.end()
            sessions.cancel_scope.deadline = trio.current_time() + self.conf.drain_timeout
            await self.committer.emptied()
            sessions.cancel_scope.cancel()
        with trio.move_on_after(self.conf.drain_timeout):
            await self.committer.drained()

    async def _hear(self, signals: Any) -> None:
        async for number in signals:
            self._command(SIGNALS[number])

    def _command(self, command: str) -> None:
        if command == "stop":
            self._stop.set()
            return
        with contextlib.suppress(trio.WouldBlock):  # the same has been asked for, and is still to be done
            self._commands[0].send_nowait(command)

    async def _obey(self) -> None:
        async for command in self._commands[1]:
            if command == "reload":
                await self.reload()
            elif command == "resume":
                self._actions.resume()
                self.committer.suspend(False)
                self.say("notice", "storing goes on")

    async def _tick(self) -> None:
        while True:
            self._voice.tick()
            await trio.sleep(1.0)

    async def reload(self) -> None:
        """Read configuration and keys again. What is wrong is said, and then what was before stays."""
        path = self.options.conf_dir / NAME
        try:
            conf, notices = await trio.to_thread.run_sync(partial(load, path, allow_links=self.options.allow_links))
        except ConfigErrors as errors:
            for each in errors.errors:
                self.say("error", f"{each}; the configuration stays as it was")
        else:
            for notice in notices:
                self.say("notice", notice)
            self._take(conf)
        ring = self.listener.ring
        if ring is None:
            return
        try:
            await trio.to_thread.run_sync(ring.reload)
        except ConfigErrors as errors:
            for each in errors.errors:
                self.say("error", f"{each}; the keys stay as they were")
            return
        except ConfigError as error:
            self.say("error", f"{error}; the keys stay as they were")
            return
        for notice in ring.notices:
            self.say("notice", notice)
        dropped = self.listener.revoke()
        self.say("info", f"read again; {dropped} connections were cut off")

    def _take(self, conf: CollectorConf) -> None:
        old = self.conf
        changed = [name for name in FIXED if getattr(conf, name) != getattr(old, name)]
        if changed:
            self.say("warning", f"{', '.join(changed)}: changed, which takes a restart")
            conf = attrs.evolve(conf, **{name: getattr(old, name) for name in changed})
        self.conf = self.services.conf = self.listener.admission.conf = self._upkeep.conf = conf
        flight = self.services.flight
        flight.total, flight.each = conf.max_bytes_in_flight, conf.max_bytes_in_flight_per_host
        self.services.hosts.keep = conf.max_hosts
        self.committer.store.bound(policy_of(conf), conf.store_min_free, conf.max_hosts)
        self._actions.mail_to = conf.action_mail_acct

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The control socket's."""
        match request.get("op"):
            case "status":
                return {"ok": True, **self.status()}
            case "hosts":
                now = trio.current_time()
                return {"ok": True, "hosts": report(self.services.hosts, self.committer.store.streams(), now)}
            case "reload" | "resume" | "stop" as command:
                self._command(command)
                return {"ok": True}
        return {"error": f"unknown op {request.get('op')!r:.40}; there are status, hosts, reload, resume, stop"}

    def status(self) -> dict[str, Any]:
        """Of the whole, in figures."""
        committer, admission = self.committer, self.listener.admission
        return {
            "version": __version__,
            "started": self._started,
            "listening": self._listening,
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


def _shown(sock: socket.socket) -> str:
    address, port = sock.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
