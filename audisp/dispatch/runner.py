"""What a runner is, and the runner of an in-process plugin.

A runner belongs to one configured plugin: it takes from that plugin's intake and gives to the plugin. `deliver`
functions that are coroutines run in the trio loop; plain ones in a thread that serves this plugin alone, so that a
slow one costs itself. Returning from `deliver` is the acknowledgement.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast

import attrs
import trio

from audisp.buffer.queue import MERGE_BYTES
from audisp.config.plugins import PluginConf
from audisp.dispatch.intake import Intake
from audisp.dispatch.restart import Restarts
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
DRAIN_POLL: Final = 0.02


class Say(Protocol):
    """The dispatcher's own log; see dispatch/say.py. Never blocks; from any thread."""

    def __call__(self, level: str, message: str, *, limit: str | None = None) -> None:
        """limit: name under which lines of this kind are rate-limited together."""


class Runner(Protocol):
    """What the engine needs of a plugin's runner."""

    conf: PluginConf
    intake: Intake
    restarts: Restarts
    state: str

    @property
    def name(self) -> str:
        """The plugin's name."""

    async def run(self) -> None:
        """Serve the plugin until `stop`."""

    def tick(self) -> None:
        """Called once a second in the loop."""

    async def stop(self, deadline: float) -> None:
        """Let what waits be delivered until the deadline (trio time), then end it."""

    def pids(self) -> list[int]:
        """Processes of its own."""


@attrs.define(eq=False)
class InProcessRunner:
    """One configured in-process plugin."""

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

    state: str = "starting"
    opened: trio.Event = attrs.field(factory=trio.Event)
    """Set when the plugin has been opened once, or has failed to: the sources start after that."""
    first_problem: str | None = None
    delivery: Delivery | None = None
    _condition: threading.Condition = attrs.field(init=False)
    _wakeup: Wakeup = attrs.field(init=False)
    _commands: list[str] = attrs.field(factory=list)
    _held: Block | None = None
    _attempts: int = 0
    _delivering_since: float | None = None
    _closing: bool = False
    _problem: BaseException | None = None
    _stop: trio.Event = attrs.field(factory=trio.Event)
    _stopped: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._condition = threading.Condition(self.intake.lock)
        self._wakeup = Wakeup()

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.conf.name

    async def run(self) -> None:
        """Keep the plugin open until `stop`. Returns when it is closed for good."""
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                problem = await self._generation()
                if problem is None or self._stop.is_set():
                    break
                if not self.opened.is_set():
                    self.first_problem = problem
                    self.opened.set()
                self.restarts.ran(time.monotonic() - started)
                delay = self.restarts.next_delay()
                if delay is None:
                    self.state = "failed"
                    self.say(
                        "error",
                        f"plugin {self.name}: {problem}; exceeded max_restarts ({self.restarts.max_restarts}), "
                        "given up until the next reload; its records are dropped and counted",
                    )
                    self._release()
                    self.intake.abandon("failed")
                    self.intake.suspend("failed")
                    await self._stop.wait()
                    break
                self.state = "waiting to restart"
                self.say("warning", f"plugin {self.name}: {problem}; opening it again in {delay:.1f} s")
                with trio.move_on_after(delay):
                    await self._stop.wait()
        finally:
            self.state = "stopped"
            self._release()
            self.opened.set()
            self._stopped.set()

    def _release(self) -> None:
        with self.intake.lock:
            if self._held is not None:
                self.intake.give_back(self._held)
                self._held = None

    async def _generation(self) -> str | None:
        """Open, serve, close. None when stopped, else what went wrong, for a person."""
        self._problem = None
        self._closing = False
        try:
            async with self.type.open(self.settings, self.host) as yielded:
                delivery = yielded if isinstance(yielded, Delivery) else Delivery(yielded)
                self.delivery = delivery
                self.state = "running"
                self.opened.set()
                if inspect.iscoroutinefunction(delivery.deliver):
                    self.intake.wake = self._wakeup.set
                    await self._serve_in_loop(delivery)
                else:
                    self.intake.wake = self._condition.notify
                    await trio.to_thread.run_sync(
                        self._serve_in_thread, delivery, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                    )
        except trio.Cancelled:
            raise
        except Exception as error:
            # Whatever a plugin raises is that plugin's end, not ours; it is reported in full and counted as a restart.
            self._problem = error
        finally:
            self.delivery = None
        if self._problem is None:
            return None
        return f"{type(self._problem).__name__}: {self._problem}"

    # ---- a plain function, in its own thread ----

    def _serve_in_thread(self, delivery: Delivery) -> None:
        deliver = cast("Callable[[Block], None]", delivery.deliver)
        delay = RETRY_DELAY
        while True:
            with self._condition:
                while True:
                    if self._closing:
                        return
                    block = self._next(delivery)
                    if block is not None:
                        break
                    self._condition.wait()
            self._delivering_since = time.monotonic()
            try:
                deliver(block)
            except Retry:
                with self._condition:
                    self.intake.redelivered += block.records - block.own
                    if not self._closing:
                        self._condition.wait(delay)
                delay = min(delay * 2, RETRY_DELAY_MAX)
                continue
            except Reject as reason:
                self._quarantine(block, str(reason))
            except Exception as error:
                self._failed(block, error)
                return
            else:
                self._taken(block)
            finally:
                self._delivering_since = None
            delay = RETRY_DELAY

    def _next(self, delivery: Delivery) -> Block | None:
        """What to deliver now; lock held, released while a command runs."""
        while self._commands:
            command = self._commands.pop(0)
            self.intake.lock.release()
            try:
                self._obey(delivery, command)
            finally:
                self.intake.lock.acquire()
        if self._held is None:
            self._held = self.intake.take(MERGE_BYTES)
        return self._held

    def _obey(self, delivery: Delivery, command: str) -> None:
        function = {"rotate": delivery.rotate, "resume": delivery.resume}[command]
        if function is not None:
            function()

    def _taken(self, block: Block) -> None:
        with self.intake.lock:
            self._held = None
            self._attempts = 0
            self.intake.acknowledge(block.records - block.own, block.own, block.arrived, block.spooled)

    def _failed(self, block: Block, error: Exception) -> None:
        self._attempts += 1
        self._problem = error
        if self._attempts >= POISON_ATTEMPTS:
            self._quarantine(block, f"{type(error).__name__}: {error}")
        else:
            with self.intake.lock:
                self.intake.redelivered += block.records - block.own

    def _quarantine(self, block: Block, reason: str) -> None:
        try:
            place = str(save_aside(self.quarantine_dir, self.name, block.data, QUARANTINE_BYTES))
        except Exception as error:
            # Keeping it is a service; that it could not be kept is said, and the block is counted all the same.
            place = f"nowhere ({error})"
        self.say(
            "error", f"plugin {self.name}: {block.records} records refused ({reason}); put in quarantine in {place}"
        )
        with self.intake.lock:
            self._held = None
            self._attempts = 0
            self.intake.quarantine(block)

    # ---- a coroutine, in the loop ----

    async def _serve_in_loop(self, delivery: Delivery) -> None:
        deliver = cast("Callable[[Block], Awaitable[None]]", delivery.deliver)
        delay = RETRY_DELAY
        while not self._closing:
            with self.intake.lock:
                block = self._next(delivery)
            if block is None:
                await self._wakeup.wait()
                continue
            self._delivering_since = time.monotonic()
            try:
                with trio.move_on_after(self.deliver_timeout) as scope:
                    await deliver(block)
                if scope.cancelled_caught:
                    self.say("warning", f"plugin {self.name}: no answer in {self.deliver_timeout:.0f} s; offered again")
                    raise Retry
            except Retry:
                with self.intake.lock:
                    self.intake.redelivered += block.records - block.own
                await trio.sleep(delay)
                delay = min(delay * 2, RETRY_DELAY_MAX)
                continue
            except Reject as reason:
                self._quarantine(block, str(reason))
            except Exception as error:
                # As in _serve_in_thread: the plugin's end, not ours.
                self._failed(block, error)
                return
            else:
                self._taken(block)
            finally:
                self._delivering_since = None
            delay = RETRY_DELAY
            await trio.lowlevel.checkpoint()

    # ---- from the engine ----

    def _rouse(self) -> None:
        with self._condition:
            self._condition.notify()
        self._wakeup.set()

    def command(self, name: str) -> None:
        """Have the plugin rotate or resume, between two deliveries."""
        with self._condition:
            self._commands.append(name)
        self._rouse()

    def tick(self) -> None:
        """Once a second: name a plugin that does not return."""
        since = self._delivering_since
        if self.state == "running" and since is not None and time.monotonic() - since > self.deliver_timeout:
            self.state = "stuck"
            self.say(
                "error",
                f"plugin {self.name}: deliver has not returned for {self.deliver_timeout:.0f} s; its block stays held "
                "and its queue fills; nobody else waits for it",
            )
        elif self.state == "stuck" and since is None:
            self.state = "running"
            self.say("notice", f"plugin {self.name}: deliver has returned; it goes on")

    async def stop(self, deadline: float) -> None:
        """Deliver what waits until the deadline, then close the plugin. Idempotent."""
        with trio.CancelScope(deadline=deadline):
            while self.state == "running" and not self._all_taken():
                await trio.sleep(DRAIN_POLL)
        self._stop.set()
        self._closing = True
        self._rouse()
        with trio.move_on_after(CLOSE_GRACE):
            await self._stopped.wait()
        if not self._stopped.is_set():
            self.say("warning", f"plugin {self.name}: does not end; its thread is abandoned")

    def _all_taken(self) -> bool:
        with self.intake.lock:
            return self.intake.idle() and self._held is None and not self._commands

    def pids(self) -> list[int]:
        """None: it lives in ours."""
        return []
