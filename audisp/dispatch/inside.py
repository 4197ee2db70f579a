"""The process of an isolated plugin: what the dispatcher starts as ``python -I -m audisp.dispatch.inside PID``.

It loads one plugin, reads its settings, opens it, and gives it what the dispatcher sends (wire/isolate.py), one
delivery at a time. Everything that `Host` offers goes back as a message; none of it blocks, what finds no room is
counted.

User, capabilities and limits are in force before the interpreter starts (execstep.py). Descriptor 0 is the channel; it
is moved away, so that nothing the plugin starts inherits it. When the dispatcher dies, however it dies, so does this
process at once: an in-process plugin would be gone as well, and none must go on unseen.
"""

from __future__ import annotations

import ctypes
import faulthandler
import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio

from audisp.config.grammar import ConfigErrors, Setting
from audisp.config.plugins import PluginConf, notices_of, settings_of
from audisp.dispatch.host import check_emitted, load_type
from audisp.dispatch.inside_line import Line
from audisp.dispatch.made import files_of, stamp
from audisp.dispatch.runner import FOREIGN, is_async, named
from audisp.enrich.packed import unpack
from audisp.errors import AudispError, ConfigError, ParseError, RemoteProtocolError
from audisp.event import Batch
from audisp.parse.record import RecordReader
from audisp.plugin import Delivery, PluginType, Reactor, Reject, Retry
from audisp.record import Block, Place
from audisp.wire import isolate as wire

REPORT_SECONDS: Final = 1.0
"""Between two reports of counters and state: as often as the dispatcher writes its books."""
ASK_STACK: Final = signal.SIGUSR1
"""On this signal the stack of every thread goes to stderr, and so into the dispatcher's log."""
_PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h"""


@attrs.define(eq=False)
class FarHost:
    """What the plugin may ask of the dispatcher, which judges all of it again; implements `audisp.plugin.Host`."""

    name: str
    owner: bool
    runtime_dir: str
    line: Line
    local: bool = True
    state_dir: str = ""
    reactor: Reactor | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _counters: dict[str, int] = attrs.field(factory=dict)
    _lines: Mapping[str, str] = attrs.field(factory=dict)

    def count(self, what: str, by: int = 1) -> None:
        """See Host."""
        what = what[: wire.MAX_NAME]
        with self._lock:
            if what in self._counters or len(self._counters) < wire.MAX_PAIRS:
                self._counters[what] = self._counters.get(what, 0) + by

    def say(self, level: str, message: str) -> None:
        """See Host."""
        if level not in wire.LEVELS:
            raise ValueError(f"{level!r} is none of {', '.join(wire.LEVELS)}")
        if not self.line.post(wire.Said(level, message[: wire.MAX_TEXT]), spare=True):
            self.count("say_dropped")

    def emit(self, type_: int, fields: str) -> None:
        """See Host. Raises ValueError."""
        check_emitted(type_, fields)
        if not self.line.post(wire.Emitted(type_, fields), spare=True):
            self.count("emit_dropped")

    def act(self, action: str, message: str, path: str | None = None) -> None:
        """See Host."""
        if not self.line.post(wire.Acted(action, message[: wire.MAX_TEXT], path), spare=True):
            self.count("act_dropped")

    def report(self, delivery: Delivery) -> None:
        """Send on what has changed since the last time."""
        with self._lock:
            counters, self._counters = self._counters, {}
        if counters:
            self.line.post(wire.Counted(counters))
        if delivery.state is None:
            return
        try:
            said = {str(key): str(value) for key, value in delivery.state().items()}
        except FOREIGN as error:
            said = {"state": f"failed: {named(error)}"}
        lines = {key[: wire.MAX_NAME]: value[: wire.MAX_STATE] for key, value in list(said.items())[: wire.MAX_PAIRS]}
        if lines != self._lines and self.line.post(wire.Stated(lines), spare=True):
            self._lines = lines

    async def keep_reporting(self, delivery: Delivery) -> None:
        """Once a second."""
        while True:
            self.report(delivery)
            await trio.sleep(REPORT_SECONDS)


@attrs.define(eq=False)
class Serving:
    """The opened plugin, and what comes for it."""

    line: Line
    delivery: Delivery
    wants: wire.Wants
    reader: RecordReader = attrs.field(factory=RecordReader)
    failed: bool = False

    def serve(self) -> None:
        """One message after the other, until the end. For a plain function, in a thread of its own."""
        deliver = cast("Callable[[Block], object]", self.delivery.deliver)
        while True:
            received = self.line.receive()
            if received is None or isinstance(received[0], wire.Close):
                return
            error: BaseException | None = None
            try:
                block = self._due(*received)
                if block is not None and inspect.isawaitable(deliver(block)):
                    raise TypeError("deliver returned something to be awaited: make it a coroutine function")
            except FOREIGN as raised:
                error = raised
            if not self._answer(received[0], error):
                return

    async def serve_in_loop(self) -> None:
        """The same for a coroutine function."""
        deliver = cast("Callable[[Block], Awaitable[None]]", self.delivery.deliver)
        while True:
            received = await self.line.receive_in_loop()
            if received is None or isinstance(received[0], wire.Close):
                return
            error: BaseException | None = None
            try:
                block = self._due(*received)
                if block is not None:
                    await deliver(block)
            except FOREIGN as raised:
                error = raised
            if not self._answer(received[0], error):
                return

    def _due(self, message: wire.Down, payload: bytes) -> Block | None:
        """What is to be delivered; a command is carried out, and leaves nothing to deliver."""
        if isinstance(message, wire.Deliver):
            return self._block(message, payload)
        if isinstance(message, wire.Ask):
            command = {"rotate": self.delivery.rotate, "resume": self.delivery.resume}[message.what]
            if command is not None:
                command()
        return None

    def _answer(self, message: wire.Down, error: BaseException | None) -> bool:
        """Say what it came to. False: the plugin is to be closed, in order, and what it has not taken comes to its
        successor."""
        if isinstance(message, wire.Deliver):
            if error is None:
                return self.line.post(wire.Taken(message.sequence))
            if isinstance(error, Retry):
                return self.line.post(wire.Retried(message.sequence, str(error)[: wire.MAX_TEXT]))
            if isinstance(error, Reject):
                return self.line.post(wire.Rejected(message.sequence, str(error)[: wire.MAX_TEXT]))
        if error is not None:
            self.failed = True
            self.line.post(wire.Failed(named(error)[: wire.MAX_TEXT]))
        return error is None

    def _block(self, message: wire.Deliver, data: bytes) -> Block:
        if self.wants == "events":
            marks = dict(zip(message.marks[::2], message.marks[1::2], strict=True))
            batch = Batch(
                data,
                message.records,
                message.source,
                message.arrived,
                self.reader,
                marks or None,
                spooled=message.spooled,
            )
            batch.own = message.own
            if message.contexts is not None:
                try:
                    batch.contexts = list(unpack(message.contexts))
                except ParseError as error:  # a mistake of ours; the records are worth more than what is known of them
                    self.line.post(wire.Said("error", f"what is known of processes is left out: {error}"), spare=True)
            return batch
        return Block(
            data,
            message.records,
            message.source,
            message.arrived,
            own=message.own,
            spooled=message.spooled,
            place=None if message.place is None else Place(*message.place),
        )


def describe(start: wire.Start) -> tuple[wire.Described | wire.Refused, PluginType | None, Any]:
    """Load the plugin and read its settings: what to answer, and its type and settings if they are good."""
    conf = PluginConf(
        name=start.name,
        path=Path(start.path),
        plugin=start.plugin,
        settings=tuple(
            Setting(word.key, word.words, word.line, word.text, None if word.file is None else Path(word.file))
            for word in start.settings
        ),
    )
    try:
        type_ = load_type(start.plugin)
        settings: Any = settings_of(conf, type_.config)
        notices = tuple(text[: wire.MAX_FAULT] for text in notices_of(conf, settings)[: wire.MAX_LIST])
        return wire.Described(type_.wants, notices, stamp(files_of(settings))), type_, settings
    except ConfigErrors as problems:
        return wire.Refused(tuple(_fault(each) for each in problems.errors[: wire.MAX_LIST])), None, None
    except FOREIGN as problem:
        return wire.Refused((_fault(problem),)), None, None


def _handed(start: wire.Start, descriptors: list[int]) -> tuple[str, Reactor | None]:
    """The plugin's folder and the way to the reactor, of what came with the first message. RemoteProtocolError."""
    if len(descriptors) != len(start.descriptors):
        raise RemoteProtocolError(f"{len(descriptors)} descriptors, where {len(start.descriptors)} were announced")
    found = dict(zip(start.descriptors, descriptors, strict=True))
    allowed = {kind: tuple(levels) for kind, *levels in (each.split() for each in start.reactions)}
    reactor = Reactor(found["reactor"], allowed) if "reactor" in found else None
    # A folder that this user could not come to by its path is reached by its descriptor (proc(5), /proc/PID/fd).
    return f"/proc/self/fd/{found['state']}" if "state" in found else "", reactor


def _fault(error: BaseException) -> wire.Fault:
    if isinstance(error, ConfigError):
        path = None if error.path is None else str(error.path)[: wire.MAX_PATH]
        key = None if error.key is None else error.key[: wire.MAX_NAME]
        return wire.Fault(error.message[: wire.MAX_FAULT], path, error.line, key, True)
    text = str(error) if isinstance(error, AudispError) else named(error)
    return wire.Fault(text[: wire.MAX_FAULT], None, None, None, False)


async def serve(line: Line, type_: PluginType, settings: Any, host: FarHost) -> bool:
    """Open the plugin and keep it open until the dispatcher says so. False if it has failed."""
    serving = None
    try:
        async with type_.open(settings, host) as yielded:
            delivery = yielded if isinstance(yielded, Delivery) else Delivery(yielded)
            serving = Serving(line, delivery, type_.wants)
            line.post(wire.Opened())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.keep_reporting, delivery)
                if is_async(delivery.deliver):
                    await serving.serve_in_loop()
                else:
                    # Abandoned if a task of the plugin's own fails: then nothing more is to be taken.
                    await trio.to_thread.run_sync(serving.serve, abandon_on_cancel=True)
                nursery.cancel_scope.cancel()
            host.report(delivery)
    except FOREIGN as error:
        line.post(wire.Failed(named(error)[: wire.MAX_TEXT]))
        return False
    finally:
        host.report(Delivery(lambda block: None))  # what was counted while it closed
    return not serving.failed


def die_with(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends; at once if that is over."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(word) for word in (signal.SIGKILL, 0, 0, 0)]
    if libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), *words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        raise SystemExit(1)


def main(argv: list[str]) -> int:
    """Entry point. argv: our name, and the dispatcher's pid."""
    die_with(int(argv[1]))
    # What crashes in C leaves a stack in the dispatcher's log; so does what hangs, when the dispatcher asks.
    faulthandler.enable()
    faulthandler.register(ASK_STACK, all_threads=True, chain=False)
    channel = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    line = Line(channel)
    try:
        received = line.receive_first()
        if received is None:
            return 0
        start = received[0]
        if not isinstance(start, wire.Start):
            raise RemoteProtocolError(f"{type(start).__name__} before Start")
        answer, type_, settings = describe(start)
        line.post(answer)
        good = type_ is not None
        if type_ is not None and not start.check:
            host = FarHost(start.name, start.owner, start.runtime_dir, line, start.local, *_handed(start, received[2]))
            good = trio.run(serve, line, type_, settings, host)
    except (RemoteProtocolError, ParseError) as error:
        print(f"what the dispatcher sent cannot be read: {error}", file=sys.stderr, flush=True)
        return 1
    line.flush()
    return 0 if good else 1


if __name__ == "__main__":
    status = main(sys.argv)
    sys.stdout.flush()
    # Not by way of the interpreter's end, which waits for threads that the plugin may have left behind.
    os._exit(status)
