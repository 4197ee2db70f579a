"""The runner of an in-process plugin.

`deliver` functions that are coroutines run in the trio loop; plain ones in a thread that serves this plugin alone, so
that a slow one costs itself. Returning from `deliver` is the acknowledgement. A thread that does not return is
abandoned: what it held is offered to the plugin's successor, and what it comes back with later changes nothing.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, cast

import attrs
import trio

from audisp.buffer.queue import MERGE_BYTES
from audisp.config.plugins import PluginConf
from audisp.dispatch.intake import Intake
from audisp.dispatch.restart import Restarts
from audisp.dispatch.runner import FOREIGN, Say, drain, is_async, keep_running, named
from audisp.dispatch.spool import save_aside
from audisp.dispatch.wakeup import Wakeup
from audisp.plugin import Delivery, Host, PluginType, Reject, Retry
from audisp.record import Block

RETRY_DELAY: Final = 0.1
RETRY_DELAY_MAX: Final = 5.0
"""Seconds between two offers of a block that a plugin could not take: doubled each time up to the second figure."""
POISON_ATTEMPTS: Final = 3
"""A block at which a plugin has failed this often in a row is put into quarantine; without a limit one bad record would
stop the plugin for ever."""
QUARANTINE_BYTES: Final = 64 * 1024 * 1024
"""Most that one plugin's quarantine may hold on disk; beyond it the block is counted and not kept."""
CLOSE_GRACE: Final = 5.0
"""Seconds that a plugin's own closing may take at the end."""

GATHER_RECORDS: Final = 64
"""After a block of this many records or more the next one may gather for GATHER_SECONDS: the stream is fast."""
GATHER_SECONDS: Final = 0.001
"""At full speed each hand-over between the reader's thread and the plugin's costs both a wait for the interpreter. With
this pause between two of them, a plugin that counts bytes took 225 to 255 thousand records a second instead of 205 to
230, at 2.6 instead of 3.2 CPU seconds per million, beside a C reader's 250 (docs/performance.md); at low rates there is
no pause."""


def as_it_is(block: Block) -> Block:
    """The form of a plugin that takes blocks."""
    return block


class _Serving:
    """One opening of the plugin. Flags are set under the intake's lock."""

    __slots__ = ("abandoned", "closing")

    def __init__(self) -> None:
        self.closing = False
        """No more is to be delivered."""
        self.abandoned = False
        """Nobody waits for the delivery that is under way, and what it comes to is not booked."""


@attrs.define(eq=False)
class InProcessRunner:
    """One configured in-process plugin."""

    FATE: ClassVar[str] = "is left to itself"
    """What becomes of one that does not end."""

    conf: PluginConf
    type: PluginType
    settings: Any
    """Instance of the type's config class."""
    intake: Intake
    restarts: Restarts
    say: Say
    host: Host
    quarantine_dir: Path
    deliver_timeout: float
    form: Callable[[Block], Block | None] = as_it_is
    """What the plugin is given of a block: the block, its events, its text in a shape; None for nothing to give."""

    state: str = "starting"
    opened: trio.Event = attrs.field(factory=trio.Event)
    """Set when the plugin has been opened once, or has failed to: the sources start after that."""
    first_problem: str | None = None
    delivery: Delivery | None = None
    task: trio.lowlevel.Task | None = None
    """The task that the plugin's coroutines run in, or below."""
    _condition: threading.Condition = attrs.field(init=False)
    _wakeup: Wakeup = attrs.field(init=False, factory=Wakeup)
    _hurry: Wakeup = attrs.field(init=False, factory=Wakeup)
    _commands: list[str] = attrs.field(factory=list)
    _serving: _Serving = attrs.field(factory=_Serving)
    _idle: bool = False
    """The thread waits for a block, and for nothing else."""
    _held: Block | None = None
    _attempts: int = 0
    _delivering_since: float | None = None
    _problem: BaseException | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _stop: trio.Event = attrs.field(factory=trio.Event)
    _stopped: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._condition = threading.Condition(self.intake.lock)

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.conf.name

    async def run(self) -> None:
        """Keep the plugin open until `stop`. Returns when it is closed for good."""
        self.task = trio.lowlevel.current_task()
        try:
            with self._scope:
                await keep_running(
                    self, self._generation, self._stop, self.say, again="opening it again", release=self._release
                )
        except FOREIGN as error:
            self.say("error", f"plugin {self.name}: while it was left to itself: {named(error)}")
        finally:
            self._release()
            self.state = "stopped"
            self.opened.set()
            self._stopped.set()

    async def _generation(self) -> str:
        """Open, serve, close. Returns what went wrong, for a person."""
        self._problem = None
        serving = self._serving = _Serving()
        try:
            async with self.type.open(self.settings, self.host) as yielded:
                delivery = yielded if isinstance(yielded, Delivery) else Delivery(yielded)
                self.delivery = delivery
                self.state = "running"
                self.opened.set()
                await self._serve(delivery, serving)
        except FOREIGN as error:
            if self._stop.is_set():
                self.say("error", f"plugin {self.name}: while it was closed: {named(error)}")
            self._problem = error
        finally:
            self.delivery = None
            with self.intake.lock:
                serving.closing = serving.abandoned = True
        problem = "it ended by itself" if self._problem is None else named(self._problem)
        if not self.opened.is_set():
            self.first_problem = problem
            self.opened.set()
        return problem

    async def _serve(self, delivery: Delivery, serving: _Serving) -> None:
        if is_async(delivery.deliver):
            self.intake.wake = self._wakeup.set
            await self._serve_in_loop(delivery, serving)
        else:
            self.intake.wake = self._wake_thread
            try:
                await trio.to_thread.run_sync(
                    self._serve_in_thread, delivery, serving, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )
            finally:
                # Cancelled, by us or by a task of the plugin's own: the thread may still be in deliver.
                with self._condition:
                    serving.closing = serving.abandoned = True
                    self._condition.notify_all()

    def _release(self) -> None:
        """What is held goes back, to be the first for whoever comes next."""
        with self.intake.lock:
            if self._held is not None:
                self.intake.give_back(self._held)
                self._held = None

    # ---- a plain function, in its own thread ----

    def _worth_gathering(self, block: Block) -> bool:
        """Much came at once, and not so much that a merge is full, which would mean that the plugin is behind. Of a
        queue that does not merge there is nothing to gain."""
        return self.intake.queue.merges and block.records >= GATHER_RECORDS and len(block.data) < MERGE_BYTES // 2

    def _wake_thread(self) -> None:
        if self._idle:
            self._condition.notify()

    def _serve_in_thread(self, delivery: Delivery, serving: _Serving) -> None:
        deliver = cast("Callable[[Block], None]", delivery.deliver)
        delay = RETRY_DELAY
        while True:
            with self._condition:
                block = self._await_block(delivery, serving)
            if block is None:
                return
            self._delivering_since = time.monotonic()
            error: BaseException | None = None
            try:
                given = self.form(block)
                if given is not None and inspect.isawaitable(deliver(given)):
                    raise TypeError("deliver returned something to be awaited: make it a coroutine function")
            except FOREIGN as raised:
                error = raised
            if not serving.abandoned:
                self._delivering_since = None
            outcome = self._book(block, error, serving)
            if outcome == "failed":
                return
            if outcome == "retry":
                with self._condition:
                    self._pause(delay, serving)
                delay = min(delay * 2, RETRY_DELAY_MAX)
            else:
                delay = RETRY_DELAY
                if self._worth_gathering(block):
                    time.sleep(GATHER_SECONDS)

    def _await_block(self, delivery: Delivery, serving: _Serving) -> Block | None:
        """The next block; None at the end. Lock held."""
        while not serving.closing:
            block = self._next(delivery)
            if block is not None:
                return block
            self._idle = True
            self._condition.wait()
            self._idle = False
        return None

    def _pause(self, delay: float, serving: _Serving) -> None:
        """Wait before the next attempt; new blocks do not cut it short, a command does. Lock held."""
        until = time.monotonic() + delay
        while not serving.closing and not self._commands:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._condition.wait(left)

    def _next(self, delivery: Delivery) -> Block | None:
        """What to deliver now; lock held, released while a command runs."""
        while self._commands:
            command = self._commands.pop(0)
            self.intake.lock.release()
            try:
                function = {"rotate": delivery.rotate, "resume": delivery.resume}[command]
                if function is not None:
                    function()
            finally:
                self.intake.lock.acquire()
        if self._held is None:
            self._held = self.intake.take(MERGE_BYTES)
        return self._held

    def _book(self, block: Block, error: BaseException | None, serving: _Serving) -> Literal["done", "retry", "failed"]:
        """Enter what a delivery came to, unless nobody waits for it any more."""
        if isinstance(error, Reject):
            self._quarantine(block, str(error), serving)
            return "done"
        poison = error is not None and not isinstance(error, Retry) and self._attempts + 1 >= POISON_ATTEMPTS
        if poison and error is not None:
            self._quarantine(block, named(error), serving)
        with self.intake.lock:
            if serving.abandoned:
                return "failed"
            if error is None:
                self._held = None
                self._attempts = 0
                self.intake.acknowledge(block.records - block.own, block.own, block.arrived, block.spooled)
                return "done"
            if not poison:
                self.intake.redelivered += block.records - block.own
            if isinstance(error, Retry):
                return "retry"
            self._attempts = 0 if poison else self._attempts + 1
            self._problem = error
            return "failed"

    def _quarantine(self, block: Block, reason: str, serving: _Serving) -> None:
        with self.intake.lock:
            if serving.abandoned:
                return
            self._held = None
            self._attempts = 0
            self.intake.quarantine(block)
        try:
            place = str(save_aside(self.quarantine_dir, self.name, block.data, QUARANTINE_BYTES))
        except Exception as error:  # noqa: BLE001 - keeping it is a service: that it failed is said, the block is counted
            place = f"nowhere ({error})"
        self.say(
            "error",
            f"plugin {self.name}: {block.records} records refused ({reason}); put in quarantine in {place}",
            limit=f"quarantine-{self.name}",
        )

    # ---- a coroutine, in the loop ----

    async def _serve_in_loop(self, delivery: Delivery, serving: _Serving) -> None:
        deliver = cast("Callable[[Block], Awaitable[None]]", delivery.deliver)
        delay = RETRY_DELAY
        while not serving.closing:
            with self.intake.lock:
                block = self._next(delivery)
            if block is None:
                await self._wakeup.wait()
                continue
            self._delivering_since = time.monotonic()
            error: BaseException | None = None
            try:
                given = self.form(block)
                with trio.move_on_after(self.deliver_timeout) as scope:
                    if given is not None:
                        await deliver(given)
                if scope.cancelled_caught:
                    self.say("warning", f"plugin {self.name}: no answer in {self.deliver_timeout:g} s; offered again")
                    error = Retry()
            except FOREIGN as raised:
                error = raised
            finally:
                self._delivering_since = None
            outcome = self._book(block, error, serving)
            if outcome == "failed":
                return
            if outcome == "retry":
                with trio.move_on_after(delay):
                    await self._hurry.wait()
                delay = min(delay * 2, RETRY_DELAY_MAX)
            else:
                delay = RETRY_DELAY
                if self._worth_gathering(block):
                    await trio.sleep(GATHER_SECONDS)
                else:
                    await trio.lowlevel.checkpoint()

    # ---- from the engine ----

    def _rouse(self) -> None:
        with self._condition:
            self._condition.notify_all()
        self._wakeup.set()
        self._hurry.set()

    def command(self, name: str) -> None:
        """Have the plugin rotate or resume, between two deliveries. Asked twice before it gets to it: done once."""
        with self._condition:
            if name not in self._commands:
                self._commands.append(name)
        self._rouse()

    def tick(self) -> None:
        """Once a second: name a plugin that does not return."""
        since = self._delivering_since
        if self.state == "running" and since is not None and time.monotonic() - since > self.deliver_timeout:
            self.state = "stuck"
            self.say(
                "error",
                f"plugin {self.name}: deliver has not returned for {self.deliver_timeout:g} s; its block stays held "
                "and its queue fills; nobody else waits for it",
            )
        elif self.state == "stuck" and since is None:
            self.state = "running"
            self.say("notice", f"plugin {self.name}: deliver has returned; it goes on")

    async def stop(self, deadline: float) -> None:
        """Deliver what waits until the deadline, then close the plugin. Idempotent."""
        self._rouse()  # of a loss while it was suspended nobody has told it yet
        await drain(self, self._all_taken, deadline)
        self._stop.set()
        with self.intake.lock:
            self._serving.closing = True
        self._rouse()
        with trio.move_on_after(CLOSE_GRACE):
            await self._stopped.wait()
        if not self._stopped.is_set():
            self.say("warning", f"plugin {self.name}: does not end, and {self.FATE}")
            self._scope.cancel()
            await self._stopped.wait()

    def _all_taken(self) -> bool:
        with self.intake.lock:
            return self.intake.idle() and self._held is None and not self._commands

    def pids(self) -> list[int]:
        """None: it lives in ours."""
        return []

    def detail(self) -> dict[str, str]:
        """What the plugin's own `state` says."""
        state = None if self.delivery is None else self.delivery.state
        if state is None:
            return {}
        try:
            return {str(key): str(value) for key, value in state().items()}
        except FOREIGN as error:
            return {"state": f"failed: {named(error)}"}

    def holding(self) -> Iterator[Block]:
        """See Runner."""
        return iter(() if self._held is None else (self._held,))
