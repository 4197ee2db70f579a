"""How far a stream has what a source reads: what is read again after a crash is known again, and stored once.

Pure. Kept in the books of every frame, so that no crash can separate the two. A stretch is a log of that source
(`record.Place`); the last ones are kept, because a crash makes the source go back by more than one where a log is
rotated all the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from audisp.record import STRETCH_BYTES, Block

KEY: Final = "places"
"""In the books."""
STRETCHES: Final = 32
"""Of one source. What a source reads again is at most what waited in the plugins' queues, and a log that is rotated by
size (auditd's least is 1 MiB) fills no queue of 16 MiB by more."""
SOURCES: Final = 64
"""More than a configuration names. One that is named no more goes when others are new."""
MAX_BYTES: Final = 48 << 10
"""Of all of it in the books, about: the rest of a frame's header has to fit beside it (MAX_SENDER_HEAD), and a source
is named by a path. 64 logs with names of 100 bytes have room."""
_PAIR_BYTES: Final = STRETCH_BYTES + 11
"""A stretch and its number, packed."""


class Places:
    """By source and stretch, the number of the last record stored."""

    def __init__(self, books: Mapping[str, Any]) -> None:
        """books: of the stream's last frame."""
        self._of: dict[str, dict[bytes, int]] = {}
        kept = books.get(KEY)
        for source, stretches in kept.items() if isinstance(kept, dict) else ():
            if isinstance(stretches, list):
                pairs = zip(stretches[::2], stretches[1::2], strict=False)
                self._of[source] = {
                    stretch: end
                    for stretch, end in pairs
                    if isinstance(stretch, bytes) and len(stretch) == STRETCH_BYTES and isinstance(end, int)
                }

    def new_of(self, block: Block) -> Block | None:
        """What of the block is not stored yet; None: nothing."""
        place = block.place
        if place is None:
            return block
        known = self._of.get(block.source, {}).get(place.stretch, 0)
        if place.end <= known:
            return None
        had = known - (place.end - block.records)
        return block if had <= 0 else block.without_first(had)

    def add(self, block: Block) -> None:
        """The block is stored, up to its end."""
        place = block.place
        if place is None:
            return
        stretches = self._of.pop(block.source, {})
        self._of[block.source] = stretches
        stretches.pop(place.stretch, None)
        stretches[place.stretch] = place.end
        if len(stretches) > STRETCHES:
            del stretches[next(iter(stretches))]
        while len(self._of) > 1 and (len(self._of) > SOURCES or self._bytes() > MAX_BYTES):
            del self._of[next(iter(self._of))]

    def _bytes(self) -> int:
        named = ((source.encode("utf-8", "surrogateescape"), stretches) for source, stretches in self._of.items())
        return sum(len(name) + 8 + len(stretches) * _PAIR_BYTES for name, stretches in named)

    def with_(self, block: Block) -> dict[str, list[bytes | int]]:
        """For the books of the frame that the block goes into."""
        after = Places({})
        after._of = {source: dict(stretches) for source, stretches in self._of.items()}
        after.add(block)
        return after.view()

    def view(self) -> dict[str, list[bytes | int]]:
        """For the books."""
        return {source: [each for pair in stretches.items() for each in pair] for source, stretches in self._of.items()}
