"""A whole collector in this process, with plugins of the test behind its store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from audisp.collector.committer import Account, Parcel
from audisp.collector.main import Collector, Options, plan_of
from audisp.collector.network import Opened
from audisp.collector.store_frames import Numbered, Unnumbered
from audisp.config.collector import CollectorConf
from audisp.config.network import Endpoint
from audisp.dispatch.roster import Entry
from audisp.dispatch.say import Voice
from audisp.wire.peer import Trouble
from tests.collector.running import MASTER
from tests.collector.stores import SECOND, record
from tests.dispatch.voices import Said
from tests.dispatch.worlds import World
from tests.tls.files import put_acl, put_key

HOSTS = ("web1 enabled", "web2 enabled", "db1 enabled", "off disabled")


class Quiet(Account):
    """A connection that only counts what is stored of what it brings."""

    keeps = True

    def __init__(self, identity: str) -> None:
        super().__init__(identity)
        self.acknowledged = 0

    def stored(self, parcels: Sequence[Parcel]) -> None:
        self.acknowledged += len(parcels)

    def given_back(self, parcels: Sequence[Parcel], trouble: Trouble) -> None:
        raise AssertionError("it keeps")

    def refused(self, parcel: Parcel, why: str) -> None:
        raise AssertionError(why)

    def told(self, trouble: Trouble | None, text: str) -> None:
        """Not interested."""

    def cut(self, reason: str) -> None:
        raise AssertionError(reason)

    def end(self) -> None:
        """Not interested."""


@attrs.define(eq=False)
class Behind:
    """One running collector. said: its log."""

    world: World
    collector: Collector
    said: Said
    accounts: dict[str, Quiet] = attrs.field(factory=dict)

    @property
    def port(self) -> int:
        return int(self.collector.network.listening[0].rpartition(":")[2])

    def entry(self, name: str) -> Entry:
        return self.collector.engine.roster.entries[name]

    def put(self, *items: Numbered | Unnumbered) -> None:
        """Have them stored, without waiting."""
        for item in items:
            account = self.accounts.setdefault(item.identity, Quiet(item.identity))
            self.collector.network.committer.put(Parcel(account, item, len(item.data)))

    async def store(self, *items: Numbered | Unnumbered) -> None:
        """Until they are stored, and acknowledged."""
        self.put(*items)
        for account in self.accounts.values():
            with trio.fail_after(20):
                await account.settled()


def conf_of(world: World, **conf: Any) -> CollectorConf:
    """Whose senders are HOSTS and whoever speaks plain TCP."""
    folder = world.folder
    return CollectorConf(
        **{
            "listen": (Endpoint("127.0.0.1", 0),),
            "plain": True,
            "tls_allowed_clients": put_acl(folder / "clients", *HOSTS),
            "tls_psk_master": put_key(folder / "master.key", MASTER, None),
            "store_dir": folder / "store",
            "plugin_dir": folder / "plugins.d",
            "runtime_dir": folder / "run",
            "state_dir": folder / "run" / "state",
            "store_min_free": 0,
            "space_left": (0, "MiB"),
            "admin_space_left": (0, "MiB"),
            "control": False,
            "drain_timeout": 5.0,
            **conf,
        }
    )


@contextlib.asynccontextmanager
async def behind(world: World, *, killed: bool = False, **conf: Any) -> AsyncIterator[Behind]:
    """A collector that runs; stopped at the end of the block, and then the books of its plugins must balance. killed:
    it is not stopped but cut off, as near to a kill as a process can come that goes on."""
    said = Said()
    with contextlib.ExitStack() as held:
        settings = conf_of(world, **conf)
        opened = Opened.take(settings, said, held)
        options = Options(Path("/nowhere"))
        plan = plan_of(settings, options)
        assert not plan.errors, plan.errors
        collector = Collector(opened, options, plan, Voice("stderr", "test", threshold="alert"), said)  # type: ignore[arg-type]
        engine = collector.engine
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield Behind(world, collector, said)
            if killed:
                nursery.cancel_scope.cancel()
            else:
                engine.ask("stop")
        for entry in engine.roster.entries.values():
            assert entry.intake.books().imbalance == 0, (entry.conf.name, entry.intake.books())


def event(serial: int, node: str = "", key: str = "k") -> bytes:
    """An event of three records, as a kernel's that sends EOE."""
    start = f"node={node} " if node else ""
    stamp = f"msg=audit({SECOND}.123:{serial}):"
    return "".join(
        f"{start}type={type_} {stamp} {rest}\n"
        for type_, rest in (("SYSCALL", f'arch=c000003e syscall=59 key="{key}"'), ("CWD", 'cwd="/"'), ("EOE", ""))
    ).encode()


def numbered(first: int, count: int) -> list[bytes]:
    """The records that stores.Host sends."""
    return [record(serial) for serial in range(first, first + count)]
