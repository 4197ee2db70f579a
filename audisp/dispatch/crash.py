"""What a dispatcher that was killed may have lost, as the next one works it out from the last books.

How much it is cannot be known: the books are up to a second old, plugins took records after they were written, and
children read what was in their sockets after our death. What is known is how many records waited in memory then, and
the first serial that was not certain to have been taken. From that one on records may be missing; from where they are
there again, the stream itself shows.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from audisp.record import Block


@attrs.frozen
class Crash:
    """waiting: records in memory alone when the books were last written. first: None if no serial was known."""

    waiting: int
    first: int | None

    def fields(self, plugin: str) -> str:
        """Of the marker."""
        first = "?" if self.first is None else self.first
        return f"op=lost plugin={plugin} count={self.waiting} first={first} last=? reason=crash res=failed"

    def text(self) -> str:
        """For a person."""
        since = "" if self.first is None else f" from serial {self.first} on"
        return (
            f"the last run was killed with {self.waiting} records in memory (by books up to a second old); "
            f"records{since} may be missing"
        )

    def __add__(self, later: Crash) -> Crash:
        """Of two runs, the first of which could not tell the plugin of its predecessor's end."""
        return Crash(self.waiting + later.waiting, self.first if self.first is not None else later.first)


def first_serial(blocks: Iterable[Block]) -> int | None:
    """The first of the kernel's serials in these blocks."""
    return next((serial for block in blocks if (serial := block.first_serial()) is not None), None)
