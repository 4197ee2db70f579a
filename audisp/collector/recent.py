"""What was stored lately, in memory: from here plugins are fed that are up to date. Whoever is further behind than this
reaches back reads on from the segments (reading.py).

What holds: every frame from `first` on is here, in the order of the store; what is not needed any more goes as new
frames come, whether or not somebody has still to read it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import Final, NamedTuple

import trio

from audisp.record import Block

MAX_BYTES: Final = 16 << 20
"""Of records kept: a fraction of a second of what a disk takes, minutes of a hundred busy hosts. Blocks that wait in a
plugin's queue as well are the same objects."""

MAX_PIECES: Final = 16_384
"""Frames kept: of C programs each record is one, and costs more than its bytes say."""


class Piece(NamedTuple):
    """One stored frame. first: its number in the store; next: the number behind it. block: its records, perhaps none;
    its source is the identity."""

    first: int
    next: int
    block: Block


class Recent:
    """The last frames. Belongs to the trio loop. start: number that the store gives next."""

    def __init__(self, start: int, *, max_bytes: int = MAX_BYTES, max_pieces: int = MAX_PIECES) -> None:
        self.first = self.next = start
        """Number of the oldest frame that is here, and the one behind the newest."""
        self.readers = 0
        """Plugins that are fed from here. Without any nothing is kept."""
        self._max_bytes, self._max_pieces = max_bytes, max_pieces
        self._pieces: deque[Piece] = deque()
        self._bytes = 0
        self._news = trio.Event()

    def add(self, first: int, following: int, block: Block) -> None:
        """A frame is on disk; see committer.Feed."""
        self._pieces.append(Piece(first, following, block))
        self._bytes += len(block.data)
        self.next = following
        max_bytes, max_pieces = (self._max_bytes, self._max_pieces) if self.readers else (0, 0)
        while self._pieces and (self._bytes > max_bytes or len(self._pieces) > max_pieces):
            oldest = self._pieces.popleft()
            self._bytes -= len(oldest.block.data)
            self.first = oldest.next
        if not self._news.is_set():
            self._news.set()

    def after(self, number: int, max_bytes: int) -> list[Piece]:
        """What there is from this number on, which must not be before `first`: at least one frame if there is any, and
        about so many bytes."""
        at = bisect_right(self._pieces, number, key=lambda piece: piece.next)
        found: list[Piece] = []
        size = 0
        for piece in islice(self._pieces, at, None):
            found.append(piece)
            size += len(piece.block.data)
            if size >= max_bytes:
                break
        return found

    async def news(self, number: int) -> None:
        """Until there is something behind this number, or `rouse`."""
        if self.next <= number:
            if self._news.is_set():
                self._news = trio.Event()
            await self._news.wait()

    def rouse(self) -> None:
        """Have everybody who waits look again."""
        self._news.set()
