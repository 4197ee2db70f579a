"""A dispatcher inside the test: its folders, a source that the test feeds, plugins of both kinds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from audisp.dispatch.actions import Actions
from audisp.dispatch.engine import Engine
from audisp.dispatch.ledger import NOTHING, Previous
from audisp.dispatch.plan import Options, Plan, load
from audisp.dispatch.roster import Entry
from audisp.dispatch.say import Voice
from audisp.plugin import Batch, Delivery, Event, PluginType, Wants
from audisp.record import Block
from audisp.sources.contract import Kind, Route, SourceBooks, Stopped
from tests.dispatch.intakes import block
from tests.dispatch.voices import Said

KEEP = f"""#!{os.path.realpath(sys.executable)} -IS
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
while data := os.read(0, 65536):
    os.write(out, data)
"""
"""A child that writes down what it reads."""


AUDITD = """local_events = no
log_format = RAW
max_restarts = 5
space_left = 75
admin_space_left = 50
"""
"""auditd.conf, so far as the dispatcher refuses to start without it."""


class Feed:
    """A source that sends what the test gives it: in the loop, or from a thread of its own as netlink does."""

    def __init__(self, kind: Kind = "live", name: str = "feed") -> None:
        self.name, self.kind = name, kind
        self.books = SourceBooks(name, kind)
        self.rejects = None
        self.serial = 0
        self.stopped = threading.Event()
        self.thread: Callable[[Feed], Block | None] | None = None
        self._send, self._receive = trio.open_memory_channel[Block](1000)

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        if self.thread is not None:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stop_when_cancelled)
                    await trio.to_thread.run_sync(self._pump, route)
                    nursery.cancel_scope.cancel()
            finally:
                self.stopped.set()
            return
        async for one in self._receive:
            await route.send(one)
            self.books.count_routed(one.records, len(one))

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.stopped.set()

    def _pump(self, route: Route) -> None:
        assert self.thread is not None
        try:
            while not self.stopped.is_set():
                one = self.thread(self)
                if one is None:
                    return
                route.send_blocking(one)
                self.books.count_routed(one.records, len(one))
        except Stopped:
            self.books.detail["unread"] = "stopped"

    def idle(self) -> None:
        """For `thread`: nothing more comes, and the source does not end."""
        self.stopped.wait()

    def next(self, count: int = 10, size: int = 60) -> Block:
        """A block of the next serials."""
        one = block(self.serial + 1, count, size=size, source=self.name)
        self.serial += count
        return one

    async def send(self, blocks: int, count: int = 10, size: int = 60) -> None:
        """Let the source send so many blocks."""
        for _ in range(blocks):
            await self._send.send(self.next(count, size))

    async def lines(self, *records: str) -> None:
        """Let the source send a block of these records; each ``TYPE SERIAL FIELDS``."""
        made = []
        for each in records:
            type_, serial, fields = each.split(" ", 2)
            made.append(f"type={type_} msg=audit(1700000000.123:{serial}): {fields}\n".encode())
        await self._send.send(Block(b"".join(made), len(made), self.name, time.monotonic()))

    def end(self) -> None:
        """The source ends by itself."""
        self._send.close()


@attrs.frozen
class NoSettings:
    """No keys."""


@attrs.define
class Recorder:
    """An in-process plugin: what each instance was given."""

    name: str
    data: list[bytes] = attrs.field(factory=list)
    opened: int = 0
    closed: int = 0
    commands: list[str] = attrs.field(factory=list)
    before: Callable[[Block], None] = lambda one: None
    """Called with each block; may raise, or take its time."""
    opening: Callable[[], None] = lambda: None
    asynchronous: bool = False
    wants: Wants = "blocks"
    events: list[Event] = attrs.field(factory=list)
    """What an instance that wants events was given."""
    state: Callable[[], dict[str, str]] | None = None
    host: Any = None

    def type(self) -> PluginType:
        @asynccontextmanager
        async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Delivery]:
            self.host = host
            self.opening()
            self.opened += 1

            def deliver(one: Block) -> None:
                self.before(one)
                self.data.append(one.data)
                if self.wants == "events":
                    assert isinstance(one, Batch)
                    self.events += one.events

            async def deliver_async(one: Block) -> None:
                deliver(one)

            yield Delivery(
                deliver_async if self.asynchronous else deliver,
                rotate=lambda: self.commands.append("rotate"),
                resume=lambda: self.commands.append("resume"),
                state=self.state,
            )
            self.closed += 1

        return PluginType(self.name, NoSettings, opener, self.wants)

    @property
    def got(self) -> bytes:
        return b"".join(self.data)


@attrs.define
class World:
    """The folders of one dispatcher."""

    folder: Path
    said: Said = attrs.field(factory=Said)
    recorders: dict[str, Recorder] = attrs.field(factory=dict)
    acts: list[tuple[str, str]] = attrs.field(factory=list)
    previous: Previous = NOTHING

    def __attrs_post_init__(self) -> None:
        for name in ("etc", "plugins.d", "run", "run/state"):
            (self.folder / name).mkdir(0o700)
        self.configure()

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def configure(self, auditd: str = "", own: str = "") -> None:
        """auditd.conf and audispd.conf."""
        self._write("etc/auditd.conf", f"{AUDITD}{auditd}")
        spill = f"spill_dir = {self.folder}/spill\nspill_min_free = 0\n"
        self._write("etc/audispd.conf", f"{spill}{own or 'drain_timeout = 20'}\n")

    def _write(self, name: str, text: str, mode: int = 0o640) -> Path:
        """Whole or not at all: a reload may be looking."""
        path = self.folder / name
        new = self.folder / "new"
        new.write_text(text)
        new.chmod(mode)
        new.rename(path)
        return path

    def child(self, name: str, extra: str = "", *, code: str = KEEP, form: str = "string") -> Path:
        """Configure a child program; returns the file that it writes to."""
        program = self._write(f"{name}.py", code, 0o750)
        out = self.folder / f"{name}.out"
        self._write(
            f"plugins.d/{name}.conf",
            f"active = yes\ndirection = out\npath = {program}\ntype = always\nargs = {out}\nformat = {form}\n",
        )
        self._write(f"plugins.d/{name}.audisp", f"restart_delay = 0.01\nrestart_delay_max = 0.05\n{extra}")
        return out

    def recorder(self, name: str, extra: str = "", **more: Any) -> Recorder:
        """Configure an in-process plugin that remembers."""
        self._write(
            f"plugins.d/{name}.audisp",
            f"active = yes\nplugin = {name}\nrestart_delay = 0.01\nrestart_delay_max = 0.05\n{extra}",
        )
        return self.recorders.setdefault(name, Recorder(name, **more))

    def forget(self, name: str) -> None:
        """Take a plugin out of the configuration."""
        for file in (self.folder / "plugins.d").glob(f"{name}.*"):
            file.unlink()

    def load_type(self, name: str) -> PluginType:
        """Stands in for host.load_type, which would want an installed package."""
        return self.recorders[name].type()

    def plan(self, *sources: str) -> Plan:
        return load(
            Options(
                conf_dir=self.folder / "etc",
                plugin_dir=self.folder / "plugins.d",
                runtime_dir=self.run,
                sources=sources or ("stdin",),
            )
        )

    def engine(self, *feeds: Feed) -> Engine:
        """An engine with these sources, not running yet. Inside trio."""
        plan = self.plan()
        assert not plan.errors, plan.errors
        voice = Voice("stderr")
        engine = Engine(plan, list(feeds), self.said, Actions(voice), lambda *_: NoSettings(), previous=self.previous)
        engine.roster.act = lambda action, message, path: self.acts.append((action, message))
        return engine

    @asynccontextmanager
    async def started(self, *feeds: Feed) -> AsyncIterator[Engine]:
        """A running engine, drained and ended at the end of the block; its books must balance then."""
        engine = self.engine(*feeds)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            try:
                yield engine
            finally:
                engine.ask("stop")
        for entry in engine.roster.entries.values():
            assert entry.intake.books().imbalance == 0, entry.conf.name


def entry(engine: Engine, name: str) -> Entry:
    return engine.roster.entries[name]


def kernel_lines(data: bytes) -> bytes:
    """Without the dispatcher's own records, DAEMON_START and so on; loss markers stay."""
    return b"".join(
        one for one in data.splitlines(keepends=True) if not one.startswith(b"type=DAEMON_") or b"op=lost" in one
    )
