"""The runner of a child program: feeds its stdin, starts it again, captures its stderr, stops it.

The routing thread sends straight into the child's socket while that has room. Only when it is full does a block go to
the queue, and the trio task here empties it. A child that is stopped, slow or dead costs nobody else anything.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final

import attrs
import trio
import trio.lowlevel

from audisp.buffer.queue import MERGE_BYTES
from audisp.config.plugins import PluginConf
from audisp.dispatch.intake import Intake
from audisp.dispatch.launch import Ended, Launched, launch
from audisp.dispatch.restart import Restarts
from audisp.dispatch.runner import Say
from audisp.dispatch.socketpair import Channel
from audisp.dispatch.wakeup import Wakeup
from audisp.errors import PluginError
from audisp.record import Block

TURN_BYTES: Final = 1024 * 1024
"""A child that drains its queue gives the other tasks a turn after this much."""
PIN_SECONDS: Final = 1.0
"""A block of which a child has read a part is copied down to the rest after this long."""
DRAIN_POLL: Final = 0.02
"""How often a drain looks whether the child has read everything: nothing tells us when it reads."""
EOF_GRACE: Final = 2.0
"""Seconds between EOF on a child's stdin and SIGTERM. auditd gives 50 ms, too short for a plugin that must write out."""
TERM_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL. auditd waits for ever, and can be held so."""
STDERR_LINE: Final = 1024
"""Longest piece of a child's stderr that becomes one line in our log."""
STDERR_READ: Final = 8192
"""Read a child's stderr in pieces of this size."""


@attrs.define(eq=False)
class ChildRunner:
    """One configured child program. Its thread-safe part is `intake`; all else belongs to the trio loop."""

    conf: PluginConf
    intake: Intake
    restarts: Restarts
    say: Say
    stdout_inherit: bool = False

    launched: Launched | None = None
    last_end: Ended | None = None
    state: str = "starting"
    _channel: Channel | None = None
    _ready: bool = False
    _partial_since: float | None = None
    _wakeup: Wakeup = attrs.field(init=False)
    _stop: trio.Event = attrs.field(init=False, factory=trio.Event)
    _stopped: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._wakeup = Wakeup()
        self.intake.direct = self._direct
        self.intake.wake = self._wakeup.set

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.conf.name

    # ---- in the routing thread, lock held ----

    def _direct(self, block: Block) -> bool:
        channel = self._channel
        if channel is None or not self._ready:
            return False
        if not channel.push(block):
            self._ready = False
            return False
        if channel.unsent:
            self._ready = False
            self._wakeup.set()
        if channel.due:
            self._settle(trim=False)
        return True

    def _settle(self, *, trim: bool) -> None:
        assert self._channel is not None
        for read in self._channel.settle(trim=trim):
            self.intake.acknowledge(read.records, read.own, read.arrived, read.spooled)

    # ---- in the trio loop ----

    async def run(self) -> None:
        """Keep the program running until `stop`. Returns when it is stopped for good."""
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                problem = await self._generation()
                if self._stop.is_set():
                    break
                self.restarts.ran(time.monotonic() - started)
                delay = self.restarts.next_delay()
                if delay is None:
                    self.state = "failed"
                    self.say(
                        "error",
                        f"plugin {self.name}: {problem}; exceeded max_restarts ({self.restarts.max_restarts}), "
                        "given up until the next reload; its records are dropped and counted",
                    )
                    self.intake.abandon("failed")
                    self.intake.suspend("failed")
                    await self._stop.wait()
                    break
                self.state = "waiting to restart"
                self.say("warning", f"plugin {self.name}: {problem}; starting it again in {delay:.1f} s")
                with trio.move_on_after(delay):
                    await self._stop.wait()
        finally:
            self.state = "stopped"
            self._stopped.set()

    async def _generation(self) -> str:
        """Start the program, feed it, wait for its end. Returns what happened, for a person."""
        channel = Channel(binary=self.conf.format == "binary")
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        assert self.conf.command is not None
        try:
            launched = launch(
                self.conf.command,
                stdin_fd=channel.theirs.fileno(),
                stderr_fd=write_end,
                stdout="inherit" if self.stdout_inherit else "null",
                user=self.conf.user,
                capabilities=self.conf.capabilities,
                nice=self.conf.nice,
                memory_max=self.conf.memory_max,
            )
        except PluginError as error:
            channel.close()
            os.close(read_end)
            return str(error)
        finally:
            os.close(write_end)
        self.launched = launched
        self.state = "running"
        with self.intake.lock:
            self._channel = channel
            self._ready = False
        self._wakeup.set()
        stderr = trio.lowlevel.FdStream(read_end)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, channel)
                nursery.start_soon(self._capture, stderr)
                ended = await launched.wait()
                with trio.move_on_after(DRAIN_POLL):
                    await trio.lowlevel.checkpoint()  # what it wrote last is in the pipe already
                    await trio.sleep(DRAIN_POLL)
                nursery.cancel_scope.cancel()
        finally:
            self._retire(channel)
            self.launched = None
        self.last_end = ended
        return ended.description

    def _retire(self, channel: Channel) -> None:
        """The child is dead: what it had read is delivered, the rest is the next to be delivered."""
        with self.intake.lock:
            self._channel = None
            self._ready = False
            done, again = channel.leftover()
            for read in done:
                self.intake.acknowledge(read.records, read.own, read.arrived, read.spooled)
            for block in reversed(again):
                self.intake.give_back(block)
        channel.close()

    async def _drain(self, channel: Channel) -> None:
        while True:
            await self._wakeup.wait()
            while True:
                with self.intake.lock:
                    outcome = self._pump(channel)
                if outcome == "empty":
                    break
                if outcome == "full":
                    await trio.lowlevel.wait_writable(channel.ours)
                else:
                    await trio.lowlevel.checkpoint()

    def _pump(self, channel: Channel) -> str:
        """Send what waits, as far as the socket takes it. Lock held."""
        turn = 0
        while turn < TURN_BYTES:
            if not channel.flush():
                return "full"
            block = self.intake.take(MERGE_BYTES)
            if block is None:
                self._ready = True
                return "empty"
            if not channel.push(block):
                self._put_back(block)
                return "full"
            turn += len(block.data)
            if channel.due:
                self._settle(trim=False)
        return "more"

    def _put_back(self, block: Block) -> None:
        self.intake.give_back(block)
        self.intake.redelivered -= block.records - block.own  # the child never saw a byte of it

    async def _capture(self, stream: trio.lowlevel.FdStream) -> None:
        """The child's stderr, line by line, into our log."""
        pending = b""
        async with stream:
            while True:
                try:
                    data = await stream.receive_some(STDERR_READ)
                except (OSError, trio.BrokenResourceError):
                    data = b""
                *lines, pending = (pending + data).split(b"\n")
                if pending and (not data or len(pending) > STDERR_LINE):
                    lines, pending = [*lines, pending], b""
                for line in lines:
                    text = line[:STDERR_LINE].decode("utf-8", "backslashreplace")
                    self.say("info", f"plugin {self.name} says: {text}", limit=f"stderr-{self.name}")
                if not data:
                    return

    def tick(self) -> None:
        """Once a second: bring the books up to what the child has read, and copy down a block it is slow in."""
        with self.intake.lock:
            if self._channel is not None and self._channel.pending:
                self._settle(trim=True)

    async def stop(self, deadline: float) -> None:
        """Let the child read what waits until `deadline` (trio time), then EOF, SIGTERM, SIGKILL. Idempotent."""
        with trio.CancelScope(deadline=deadline):
            while self.state in ("running", "starting", "waiting to restart") and not self._all_read():
                await trio.sleep(DRAIN_POLL)
        self._stop.set()
        launched, channel = self.launched, self._channel
        if launched is not None and channel is not None:
            with self.intake.lock:
                channel.end()
            for number, grace in ((None, EOF_GRACE), (signal.SIGTERM, TERM_GRACE), (signal.SIGKILL, None)):
                if number is not None and self.launched is not None:
                    if number == signal.SIGKILL:
                        self.say("warning", f"plugin {self.name}: still there after SIGTERM, killed")
                    with suppress(PermissionError):
                        launched.signal(number)
                if grace is None:
                    break
                with trio.move_on_after(grace):
                    await self._stopped.wait()
                if self._stopped.is_set():
                    break
        await self._stopped.wait()

    def _all_read(self) -> bool:
        with self.intake.lock:
            if not self.intake.idle():
                return False
            if self._channel is None:
                return True
            self._settle(trim=False)
            return not self._channel.pending

    def pids(self) -> list[int]:
        """The processes that work for this plugin."""
        return [] if self.launched is None else [self.launched.pid]
