"""From one source's block to every plugin's intake, by reference, from whatever thread the source reads in.

A live source waits only for plugins marked required; a replayed one waits for every plugin, and so drops nothing. All
others are offered the block first, so that a full plugin never delays its neighbours' copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import trio

from audisp.dispatch.intake import Intake
from audisp.record import Block
from audisp.sources.contract import Stopped

STOP_POLL: Final = 0.25
"""Seconds after which a reader thread that waits for room looks whether it has been told to stop."""


class Router:
    """The intakes that get the stream. `intakes` is replaced as a whole on reload, never changed in place."""

    def __init__(self) -> None:
        self.intakes: tuple[Intake, ...] = ()
        self.stopping = threading.Event()

    def offer(self, block: Block, wait: bool, beside: Intake | None = None) -> list[tuple[Intake, Block]] | None:
        """Offer the block to all but `beside`; return who must be waited for, with what it has not taken."""
        full: list[tuple[Intake, Block]] | None = None
        for intake in self.intakes:
            if intake is beside:
                continue
            rest = intake.offer(block, wait)
            if rest is not None:
                if full is None:
                    full = []
                full.append((intake, rest))
        return full

    def send_own(self, block: Block, beside: Intake | None = None) -> None:
        """Offer one of the dispatcher's own records; nobody waits for it. Every plugin has some room beyond its bound
        for these, or it would miss DAEMON_END just when it is behind, though nothing else was lost to it."""
        for intake, rest in self.offer(block, True, beside) or ():
            intake.squeeze_in(rest)

    def route(self, *, replay: bool, watch: Callable[[Block], None] | None = None) -> SourceRoute:
        """The route for one source. watch: looks at each of its blocks after it has been routed."""
        return SourceRoute(self, replay, watch)


class SourceRoute:
    """One source's way in; implements `audisp.sources.contract.Route`."""

    def __init__(self, router: Router, replay: bool, watch: Callable[[Block], None] | None = None) -> None:
        self._router = router
        self._replay = replay
        self._watch = watch
        self.waiting_for: str | None = None
        """Name of the plugin that the source waits for now."""
        self.last: Block | None = None
        """The last block that everybody was offered."""

    def _offer(self, block: Block) -> list[tuple[Intake, Block]] | None:
        """Offer to all; returns who must be waited for, with what it has not taken."""
        full = self._router.offer(block, self._replay)
        self.last = block
        if self._watch is not None:
            self._watch(block)
        return full

    def send_blocking(self, block: Block) -> None:
        """From a reader thread. Raises Stopped if the engine goes down while a plugin has no room."""
        full = self._offer(block)
        if full is None:
            return
        for intake, rest in full:
            left: Block | None = rest
            while left is not None:
                ready = threading.Event()
                intake.on_room(ready.set)
                self.waiting_for = intake.name
                while not ready.wait(STOP_POLL):
                    if self._router.stopping.is_set():
                        raise Stopped
                left = intake.offer(left, self._replay)
            self.waiting_for = None

    async def send(self, block: Block) -> None:
        """From a trio task. A checkpoint only if it had to wait."""
        full = self._offer(block)
        if full is None:
            return
        token = trio.lowlevel.current_trio_token()
        for intake, rest in full:
            left: Block | None = rest
            while left is not None:
                ready = trio.Event()
                intake.on_room(lambda event=ready: token.run_sync_soon(event.set))  # type: ignore[misc]
                self.waiting_for = intake.name
                await ready.wait()
                left = intake.offer(left, self._replay)
            self.waiting_for = None
