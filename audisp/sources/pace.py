"""At what speed a file is replayed: splitting a block into pieces, each with the wait before it.

Pure: nobody sleeps here. Used to show a capture to a person; a replay for its own sake has no pace.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audisp.record import STAMP, Block
from audisp.sources.inlet import Pace

TICK: Final = 0.05
"""Seconds between pieces at a steady rate: twenty a second looks continuous and costs next to nothing."""

LIVE_WAIT_MOST: Final = 0.5
"""Longest pause in seconds that a live replay keeps: an idle hour in the capture is not what somebody waits to see."""


def steady_pace(rate: float) -> Pace:
    """`rate` records per second. Raises ValueError if it is not above 0."""
    if not rate > 0:
        raise ValueError(f"a pace must be above 0 records per second, not {rate}")
    step = max(1, round(rate * TICK))

    def split(block: Block) -> Iterator[tuple[float, Block]]:
        lines = block.lines()
        for start in range(0, len(lines), step):
            piece = lines[start : start + step]
            yield len(piece) / rate, Block(b"".join(piece), len(piece), block.source, block.arrived)

    return split


def live_pace() -> Pace:
    """The rhythm of the stamps: records of one stamp together, and between stamps the time that lay between them.

    Pauses are cut to LIVE_WAIT_MOST, and a step back in time is no pause.
    """
    before: float | None = None

    def split(block: Block) -> Iterator[tuple[float, Block]]:
        nonlocal before
        together: list[bytes] = []
        stamp: tuple[bytes, ...] | None = None
        wait = 0.0
        for line in block.lines():
            found = STAMP.match(line)
            groups = found.groups() if found else stamp
            if together and groups != stamp:
                yield wait, Block(b"".join(together), len(together), block.source, block.arrived)
                together, wait = [], 0.0
            if found and groups != stamp:
                now = int(found[1]) + int(found[2]) / 1000
                wait = 0.0 if before is None else min(max(now - before, 0.0), LIVE_WAIT_MOST)
                before = now
            stamp = groups
            together.append(line)
        if together:
            yield wait, Block(b"".join(together), len(together), block.source, block.arrived)

    return split
