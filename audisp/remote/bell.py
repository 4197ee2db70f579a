"""Something that tasks wait for again and again: one rings, all that wait at that moment go on."""

from __future__ import annotations

import trio


class Bell:
    """To be rung and waited for in the loop."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Let all go on that wait now, or that asked for `next` before."""
        self._event.set()
        self._event = trio.Event()

    def next(self) -> trio.Event:
        """The next ring. Asked for before one looks whether there is anything to wait for, so that a ring that comes
        while one looks is not missed."""
        return self._event

    async def wait(self) -> None:
        """Until the next ring. For who has looked before, with no checkpoint in between."""
        await self._event.wait()
