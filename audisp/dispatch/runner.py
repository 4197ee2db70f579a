"""What a runner is, and what all share: a plugin that ends is started again, with back-off, until it is given up.

A runner belongs to one configured plugin: it takes from that plugin's intake and gives to the plugin.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol

import trio

from audisp.config.plugins import PluginConf
from audisp.dispatch.intake import Intake
from audisp.dispatch.restart import Restarts
from audisp.errors import PluginError
from audisp.record import Block

DRAIN_POLL: Final = 0.02
"""Seconds between two looks whether everything is delivered: nothing tells us when a child reads."""


FOREIGN: Final = (Exception, SystemExit)
"""What a plugin's code may raise: anything, and it is the plugin's end and not ours."""


class Elsewhere(PluginError):
    """What a plugin's process, or its end, says for itself: its text needs no name of a class before it."""


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
    """starting, running, stuck, waiting to restart, failed (given up until the next reload), stopped."""

    @property
    def name(self) -> str:
        """The plugin's name."""

    async def run(self) -> None:
        """Serve the plugin until `stop`."""

    def tick(self) -> None:
        """Called once a second in the loop."""

    async def stop(self, deadline: float) -> None:
        """Let what waits be delivered until the deadline (trio time), then end it. Idempotent."""

    def pids(self) -> list[int]:
        """Processes of its own."""

    def detail(self) -> dict[str, str]:
        """What the plugin itself says of its state, for status."""

    def holding(self) -> Iterator[Block]:
        """What it has taken and not acknowledged, oldest first. The intake's lock is held."""


async def keep_running(
    runner: Runner,
    generation: Callable[[], Awaitable[str]],
    stopping: trio.Event,
    say: Say,
    *,
    again: str,
    release: Callable[[], None] = lambda: None,
) -> None:
    """Run one generation of the plugin after the other until `stopping`, or until it is given up and then stopped.

    generation: returns at its end, with the reason for a person. again: "starting it again", for the log.
    release: gives back what is held, before all is booked as lost.
    """
    while not stopping.is_set():
        started = time.monotonic()
        try:
            problem = await generation()
        except FOREIGN as error:
            # A defect of ours, met while serving this plugin: it is said, and costs this plugin a restart and no other.
            problem = f"could not be served: {error!r}"
            say("critical", f"plugin {runner.name}: {problem}", limit=f"defect-{runner.name}")
        if stopping.is_set():
            return
        runner.restarts.ran(time.monotonic() - started)
        delay = runner.restarts.next_delay()
        if delay is None and runner.intake.required:
            # Given up, it would let the stream go by: what is required is waited for, however long.
            delay = runner.restarts.try_on()
            limit = runner.restarts.max_restarts
            say(
                "critical",
                f"plugin {runner.name}: exceeded max_restarts ({limit}), but it is required: the stream waits for it",
                limit=f"required-{runner.name}",
            )
        if delay is None:
            runner.state = "failed"
            release()
            # What spills waits on disk for better times: that is what a spill is for.
            fate = "dropped and counted"
            if runner.intake.stored:
                fate = "kept in the store"
            elif runner.intake.policy == "spill":
                fate = "spilled"
            say(
                "error",
                f"plugin {runner.name}: {problem}; exceeded max_restarts ({runner.restarts.max_restarts}), "
                f"given up until the next reload; its records are {fate}",
            )
            if fate == "dropped and counted":
                runner.intake.abandon("failed")
            await stopping.wait()
            return
        runner.state = "waiting to restart"
        say("warning", f"plugin {runner.name}: {problem}; {again} in {delay:.1f} s", limit=f"restart-{runner.name}")
        with trio.move_on_after(delay):
            await stopping.wait()


async def drain(runner: Runner, everything: Callable[[], bool], deadline: float) -> None:
    """Wait until everything is delivered, or the deadline, or there is no hope."""
    with trio.CancelScope(deadline=deadline):
        while runner.state not in ("failed", "stopped") and not everything():  # noqa: ASYNC110 - see DRAIN_POLL
            await trio.sleep(DRAIN_POLL)


def is_async(deliver: object) -> bool:
    """Whether it is to be awaited."""
    # An object with `async def __call__` is a coroutine function, too.
    return inspect.iscoroutinefunction(deliver) or inspect.iscoroutinefunction(getattr(deliver, "__call__", None))  # noqa: B004


def named(error: BaseException) -> str:
    """What was raised, in words."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(named(each) for each in error.exceptions)
    text = str(error)
    if isinstance(error, Elsewhere):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
