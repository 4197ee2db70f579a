"""What the readers of both stream formats have in common: the interface, and what they reject.

A reader turns bytes, in whatever pieces they come, into whole records of string form. It never raises on input, never
waits, and holds at most a few records' worth of it. Where the input is cut into pieces changes nothing of what comes
out. Every byte fed is, at all times, in exactly one of `accepted_bytes`, `rejected_bytes`, `skipped` and `pending`.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import attrs

DATA_KEPT: Final = 4_096
"""Bytes kept of one reject. What is wrong with a record shows at its start or, if it is a common one, in all of it."""

Kind = Literal["torn", "oversized", "garbage"]
"""torn: a record that ends before its stamp does, or before its end is marked. oversized: longer than a record may be.
garbage: anything else that is no record."""


@attrs.frozen
class Rejected:
    """One stretch of input that is no record. data: at most DATA_KEPT bytes from its start.

    size: how many bytes it had when it was rejected; of an oversized one more may have followed, and was dropped too.
    """

    kind: Kind
    data: bytes
    size: int = attrs.field(default=0, eq=False)


class Reader(Protocol):
    """Bytes of one stream in, whole records of string form out."""

    bad: list[Rejected]
    """What was rejected, in order, one entry each; the caller reads and clears it after each `feed`."""
    accepted_bytes: int
    """Bytes of the input that became records: lines with their LF, frames with their header."""
    rejected: int
    """How many entries `bad` ever had."""
    rejected_bytes: int
    """Bytes rejected, those of `bad` and those dropped after them."""
    skipped: int
    """Bytes that carry no record and are no error: blank lines, the residue in a fixed slot."""
    resyncs: int
    """How often the stream was out of step and was found again."""
    unterminated: int
    """Records accepted at the end of the stream without their LF."""

    @property
    def pending(self) -> int:
        """Bytes held that wait for the rest of their record."""

    def feed(self, data: bytes) -> None:
        """Take what was received."""

    def take(self) -> tuple[bytes, int]:
        """The records that became whole since the last call, and how many; (b"", 0) if none did."""

    def close(self, *, whole: bool = True) -> None:
        """The stream ended. whole: a last record without its end mark is taken if it could be one, else it is torn.

        Afterwards the reader is as new, its counters excepted, and may be fed another stream.
        """
