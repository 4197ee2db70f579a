"""The runner of a child program: feeds its stdin, starts it again, captures its stderr, stops it.

The routing thread sends straight into the child's socket while that has room. Only when it is full does a block go to
the queue, and the trio task here empties it. A child that is stopped, slow or dead costs nobody else anything.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import attrs
import trio
import trio.lowlevel

from audisp.buffer.queue import MERGE_BYTES
from audisp.config.plugins import PluginConf
from audisp.dispatch.intake import Intake
from audisp.dispatch.launch import Ended, Launched, launch
from audisp.dispatch.restart import Restarts
from audisp.dispatch.runner import Say, drain, keep_running
from audisp.dispatch.shaping import Form
from audisp.dispatch.socketpair import Channel
from audisp.dispatch.stderr import LAST_WORDS, capture
from audisp.dispatch.wakeup import Wakeup
from audisp.errors import PluginError
from audisp.record import Block

TURN_BYTES: Final = 1024 * 1024
"""A child that drains its queue gives the other tasks a turn after this much."""
RENDER_INLINE: Final = 16 * 1024
"""Bytes of records that are rendered in the loop, in a millisecond at most: a thread costs a tenth of one."""
EOF_GRACE: Final = 2.0
"""Seconds between EOF on a child's stdin and SIGTERM. auditd gives 50 ms: too short for one that must write out."""
TERM_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL. auditd waits for ever, and can be held so."""


@attrs.define(eq=False)
class ChildRunner:
    """One configured child program. Its thread-safe part is `intake`; all else belongs to the trio loop."""

    conf: PluginConf
    intake: Intake
    restarts: Restarts
    say: Say
    stdout_inherit: bool = False
    form: Form | None = None
    """The shape that the program gets; None for its records as they are."""

    launched: Launched | None = None
    last_end: Ended | None = None
    state: str = "starting"
    _channel: Channel | None = None
    _ready: bool = False
    _wakeup: Wakeup = attrs.field(init=False)
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _stop: trio.Event = attrs.field(init=False, factory=trio.Event)
    _stopped: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._wakeup = Wakeup()
        # A shape is rendered here and not in the routing thread, which has a stream to read.
        self.intake.direct = self._direct if self.form is None else None
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
            with self._scope:
                await keep_running(self, self._generation, self._stop, self.say, again="starting it again")
        finally:
            self.state = "stopped"
            self._stopped.set()

    async def _generation(self) -> str:
        """Start the program, feed it, wait for its end. Returns what happened, for a person."""
        try:
            channel, launched, stderr = self._start()
        except PluginError as error:
            return str(error)
        except OSError as error:
            return f"cannot be started: {error.strerror}"  # out of descriptors or memory: that passes
        self.launched = launched
        self.state = "running"
        with self.intake.lock:
            self._channel = channel
            self._ready = False
        self._wakeup.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, channel, launched)
                nursery.start_soon(capture, self.name, self.say, trio.lowlevel.FdStream(stderr))
                ended = await launched.wait()
                await trio.sleep(LAST_WORDS)
                nursery.cancel_scope.cancel()
        finally:
            self._retire(channel)
            self.launched = None
            # Only after a cancellation of ours: a program without a parent must not go on.
            self._signal(launched, signal.SIGTERM)
        self.last_end = ended
        return ended.description

    def _start(self) -> tuple[Channel, Launched, int]:
        """The socketpair, the program, our end of its stderr. Raises PluginError or OSError; leaves nothing open."""
        assert self.conf.command is not None
        with ExitStack() as undo:
            channel = Channel(binary=self.conf.format == "binary")
            undo.callback(channel.close)
            read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, read_end)
            try:
                # A program does not expect a stderr that says "try again".
                os.set_blocking(write_end, True)
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
            finally:
                os.close(write_end)
            undo.pop_all()
        return channel, launched, read_end

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

    async def _drain(self, channel: Channel, launched: Launched) -> None:
        while True:
            await self._wakeup.wait()
            while not channel.ended:
                if self.form is not None:
                    outcome = await self._pump_shaped(channel, self.form)
                else:
                    with self.intake.lock:
                        outcome = self._pump(channel)
                if outcome == "empty":
                    break
                if channel.refused:
                    # Such a socket is always writable: to wait for it would be to spin.
                    self.say("warning", f"plugin {self.name}: has shut its input down; it is ended")
                    self._signal(launched, signal.SIGTERM)
                    await trio.sleep(TERM_GRACE)
                    self._signal(launched, signal.SIGKILL)
                    return
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
            if channel.finishing:
                return "empty"
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

    async def _pump_shaped(self, channel: Channel, form: Form) -> str:
        """The same for one batch in a shape. It is rendered without the lock, and if it is large, beside the loop."""
        with self.intake.lock:
            if not channel.flush():
                return "full"
            block = None if channel.finishing else self.intake.take(0)
        if block is None:
            return "empty"
        pushed = False
        try:
            if len(block.data) < RENDER_INLINE:
                rendering = form.render(block)
            else:
                rendering = await trio.to_thread.run_sync(form.render, block)
            with self.intake.lock:
                pushed = not channel.finishing and channel.push(block, rendering)
                if channel.due:
                    self._settle(trim=False)
        finally:
            if not pushed:
                with self.intake.lock:
                    self._put_back(block)
        return "more" if pushed else "empty" if channel.finishing else "full"

    def _put_back(self, block: Block) -> None:
        self.intake.give_back(block)
        self.intake.redelivered -= block.records - block.own  # the child never saw a byte of it

    def tick(self) -> None:
        """Once a second: bring the books up to what the child has read, and copy down a block it is slow in."""
        with self.intake.lock:
            if self._channel is not None and self._channel.pending:
                self._settle(trim=True)

    async def stop(self, deadline: float) -> None:
        """Let the child read what waits until `deadline` (trio time), then EOF, SIGTERM, SIGKILL. Idempotent."""
        self._wakeup.set()  # of a loss while it was suspended nobody has told it yet
        await drain(self, self._all_read, deadline)
        self._stop.set()
        launched = self.launched
        if launched is not None:
            with self.intake.lock:
                self._finish()
            if not await self._ends_within(EOF_GRACE):
                with self.intake.lock:
                    if self._channel is not None:
                        self._channel.end()
                self._signal(launched, signal.SIGTERM)
                if not await self._ends_within(TERM_GRACE):
                    self.say("warning", f"plugin {self.name}: still there after SIGTERM, killed")
                    if not self._signal(launched, signal.SIGKILL):
                        self._scope.cancel()
        await self._stopped.wait()

    def _finish(self) -> None:
        """Send the child no record but the rest of the one it has begun to get, then EOF. Lock held."""
        self._ready = False
        if self._channel is not None:
            rest = self._channel.finish()
            if rest is not None:
                self._put_back(rest)
            self._wakeup.set()

    async def _ends_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._stopped.wait()
        return self._stopped.is_set()

    def _signal(self, launched: Launched, number: int) -> bool:
        """False if we may not: then it is left to itself, because nobody must wait for it for ever."""
        try:
            launched.signal(number)
        except PermissionError:
            self.say(
                "error",
                f"plugin {self.name}: pid {launched.pid} runs as another user, and without cap_kill we cannot end it "
                "(audispd.conf: capabilities = cap_kill)",
                limit=f"kill-{self.name}",
            )
            return False
        return True

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

    def detail(self) -> dict[str, str]:
        """How its last process ended."""
        return {} if self.last_end is None else {"last end": self.last_end.description}

    def holding(self) -> Iterator[Block]:
        """See Runner."""
        return iter(()) if self._channel is None else self._channel.blocks()
