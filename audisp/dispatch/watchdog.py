"""Names the plugin that holds the loop.

A coroutine plugin shares the trio loop with the draining of all other queues, the control socket and the clock. The
stream itself does not pass through the loop, so nothing is lost by a hold alone; but who relied on the loop waits. Each
step of a task is timed; a step of a plugin's own task that takes too long is said when it is over, and while it lasts
by a thread of its own, because the loop cannot say it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import trio

from audisp.dispatch.runner import Say

HELD: Final = 0.25
"""Seconds of one step from which on it is said. A hundred times what a step of ours takes."""
STUCK: Final = 5.0
"""Seconds after which it is said although the step is not over: it may never be."""

WAYS_OUT: Final = (
    "every queue that the loop drains waited for it. Ways out: make deliver a plain function (it then gets a thread of "
    "its own), move the work to trio.to_thread.run_sync, or run it as a child program (path =)"
)

OwnerOf = Callable[[trio.lowlevel.Task], str | None]
"""The name of the plugin that a task belongs to; None for our own tasks."""


class Watchdog(trio.abc.Instrument):
    """Times the steps of all tasks. `look` may be called from another thread."""

    def __init__(self, owner_of: OwnerOf, say: Say) -> None:
        self._owner_of, self._say = owner_of, say
        # One object, so that another thread sees a task and its time together.
        self._step: tuple[trio.lowlevel.Task, float] | None = None
        self._told: tuple[trio.lowlevel.Task, float] | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        self._step = (task, time.monotonic())

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        step, self._step = self._step, None
        if step is not None:
            seconds = time.monotonic() - step[1]
            if seconds >= HELD:
                self._tell(task, f"held the loop for {seconds:.1f} s")

    def look(self) -> None:
        """Say who has held the loop for long, once."""
        step = self._step
        if step is not None and step is not self._told and time.monotonic() - step[1] >= STUCK:
            self._told = step
            self._tell(step[0], f"has held the loop for {STUCK:g} s, and does not let go")

    def _tell(self, task: trio.lowlevel.Task, what: str) -> None:
        name = self._owner_of(task)
        if name is not None:
            self._say("warning", f"plugin {name}: {what}: {WAYS_OUT}", limit=f"held-{name}")


async def watch_loop(owner_of: OwnerOf, say: Say) -> None:
    """Watch the loop that this runs in, until cancelled."""
    watchdog = Watchdog(owner_of, say)
    over = threading.Event()

    def look() -> None:
        while not over.wait(STUCK / 5):
            watchdog.look()

    trio.lowlevel.add_instrument(watchdog)
    # A daemon: if the loop is held for ever, the process must still be able to end.
    threading.Thread(target=look, name="watchdog", daemon=True).start()
    try:
        await trio.sleep_forever()
    finally:
        over.set()
        trio.lowlevel.remove_instrument(watchdog)
