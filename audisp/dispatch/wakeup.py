"""Wake one trio task from any thread, at the price of one flag test when it is awake already."""

from __future__ import annotations

import trio


class Wakeup:
    """A flag that one task waits for. `set` may be called from any thread; many sets make one wake-up."""

    __slots__ = ("_event", "_set", "_token")

    def __init__(self) -> None:
        self._set = False
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def set(self) -> None:
        """Let the task go on. Does nothing if it has been told and has not looked yet."""
        if not self._set:
            self._set = True
            try:
                self._token.run_sync_soon(self._fire)
            except trio.RunFinishedError:
                return  # the loop is gone, and so is the task that would be woken

    def _fire(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Wait until `set` has been called since the last return of this."""
        await self._event.wait()
        self._event = trio.Event()
        self._set = False
