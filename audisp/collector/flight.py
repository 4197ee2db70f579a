"""Bytes that were received and are not stored yet, of everybody and of each host: the bound of a collector's memory."""

from __future__ import annotations

from typing import Final

import trio

from audisp.wire.native import MAX_WEIGHT

BUSY_SECONDS: Final = 5.0
"""For so long a connection waits to be read while too much is under way. Commits take milliseconds; longer means that
the disk takes nothing, or that others hold everything, and then the sender is better off coming back later."""


class Flight:
    """What is under way. total: most bytes of all hosts. each: of one host, whose connections share it.

    A connection that has nothing under way may always be read once more, so that a host that sends nothing but signs of
    life is never cut off because of what others send: what is held beyond `total` is a read's length for each of those.
    """

    def __init__(self, total: int, each: int) -> None:
        self.total, self.each = total, each
        self.used = 0
        self._hosts: dict[str, int] = {}
        self._less = trio.Event()

    def of(self, identity: str) -> int:
        """Bytes of one host."""
        return self._hosts.get(identity, 0)

    def change(self, identity: str, by: int) -> None:
        """More of a host's bytes are under way, or fewer."""
        if not by:
            return
        self.used += by
        left = self._hosts.get(identity, 0) + by
        if left:
            self._hosts[identity] = left
        else:
            self._hosts.pop(identity, None)
        if by < 0:
            self._less.set()

    def has_room(self, identity: str) -> bool:
        """Whether more may be read from this host. One frame beyond its bound: the one that fills its window may be
        followed by signs of life."""
        return self.used < self.total and self.of(identity) < self.each + MAX_WEIGHT

    async def room(self, identity: str, own: int) -> bool:
        """Wait until there is room; False: there was none for BUSY_SECONDS. own: bytes of the connection that asks."""
        if not own or self.has_room(identity):
            return True
        with trio.move_on_after(BUSY_SECONDS):
            while not self.has_room(identity):
                self._less = trio.Event() if self._less.is_set() else self._less
                await self._less.wait()
            return True
        return False
