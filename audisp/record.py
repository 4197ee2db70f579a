"""Record-level data: the Block, an immutable run of whole records as bytes.

The canonical form of a record inside a block is the *string form* of auditd's dispatcher
(``docs/formats/records.md``): ``type=NAME msg=audit(SEC.MSEC:SERIAL): FIELDS`` or the same after ``node=NAME ``,
ended by one LF and holding no other LF and no NUL. Nothing is decoded; bytes stay bytes.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_RECORD: Final = 16_384
"""Longest record, LF included, that a source lets in. auditd itself never emits more than 9,225 bytes
(FORMAT_BUF_LEN); twice that leaves room for a later format and still bounds what a hostile line can hold."""

STAMP: Final = re.compile(rb"^(?:node=[^ \n]+ )?type=[^ \n]+ msg=audit\((\d{1,20})\.(\d{1,3}):(\d{1,20})\)", re.M)
"""The stamp of each line: seconds, milliseconds, serial. Anchored at the line's start, so that text inside a
user-space message cannot pass for a stamp."""

_SERIAL: Final = re.compile(
    rb"^(?:node=[^ \n]+ )?type=(?!DAEMON_)[^ \n]+ msg=audit\(\d{1,20}\.\d{1,3}:(\d{1,20})\)", re.M
)
"""The serial of each line that has the kernel's. DAEMON_* records are numbered by the daemon that made them, in a row
of its own (upstream.md 2.3), so they say nothing about the place of a gap in the stream."""


class Place(NamedTuple):
    """Where a block ends in what its source reads, by which a record that is read again is known again.

    stretch: STRETCH_BYTES that name a run of records in which none is missing and whose start is told apart from every
    other's. end: number of the block's last record in it, counted from 1.
    """

    stretch: bytes
    end: int


STRETCH_BYTES: Final = 8
"""As long as an inode's number, and made by a hash: two stretches of one log share a name never."""


class Block:
    """An immutable run of whole records in string form.

    data: one or more lines, each ended by LF. records: how many. source: name of the source that read them.
    arrived: time.monotonic() at which the source had them. own: how many of the records the host made for one plugin
    alone (loss markers); they are no part of that plugin's books. spooled: read back from that plugin's spool. place:
    where it ends in its source, if that can read it again. Blocks are compared by identity.
    """

    __slots__ = ("arrived", "data", "own", "place", "records", "source", "spooled")

    def __init__(
        self,
        data: bytes,
        records: int,
        source: str,
        arrived: float,
        *,
        own: int = 0,
        spooled: bool = False,
        place: Place | None = None,
    ) -> None:
        self.data = data
        self.records = records
        self.source = source
        self.arrived = arrived
        self.own = own
        self.spooled = spooled
        self.place = place

    def __len__(self) -> int:
        """Bytes of the data."""
        return len(self.data)

    def __repr__(self) -> str:
        return f"<Block {self.records} records, {len(self.data)} bytes, from {self.source}>"

    def lines(self) -> list[bytes]:
        """The records, each with its LF."""
        return self.data.splitlines(keepends=True) if b"\r" not in self.data else _split_lf(self.data)

    def serials(self) -> list[int]:
        """The kernel's serials, in order: of each record that has a stamp and is no DAEMON_*."""
        return [int(found) for found in _SERIAL.findall(self.data)]

    def first_serial(self) -> int | None:
        """The first of `serials`; None if there is none."""
        found = _SERIAL.search(self.data)
        return int(found[1]) if found else None

    def last_serial(self) -> int | None:
        """The last of `serials`; None if there is none."""
        end = len(self.data)
        while end > 0:
            start = self.data.rfind(b"\n", 0, end - 1) + 1
            found = _SERIAL.match(self.data, start)
            if found:
                return int(found[1])
            end = start
        return None

    def first_end(self) -> int:
        """Where the first part that is never cut ends, in bytes: a record; in a batch, an event."""
        return self.data.find(b"\n") + 1

    def split(self, limit: int) -> tuple[Block | None, Block | None]:
        """Cut at a record boundary so that the head has at most `limit` bytes. Either part may be None."""
        if len(self.data) <= limit:
            return self, None
        cut = self.data.rfind(b"\n", 0, limit) + 1 if limit > 0 else 0
        if not cut:
            return None, self
        # A marker of the host's is a block by itself, of one record, and so never comes here.
        return self.part(0, cut), self.part(cut, None)

    def part(self, start: int, end: int | None) -> Block:
        """The records between two places that lie between records (in a batch, between events)."""
        data = self.data[start:end]
        place = self.place
        if place is not None and end is not None:
            place = Place(place.stretch, place.end - self.data.count(b"\n", end))
        return Block(data, data.count(b"\n"), self.source, self.arrived, spooled=self.spooled, place=place)

    def without_first(self, records: int) -> Block:
        """What is left without so many records, fewer than it has."""
        cut = 0
        for _ in range(records):
            cut = self.data.index(b"\n", cut) + 1
        return self.part(cut, None)

    def joins(self, other: Block) -> bool:
        """Whether the other, which comes next, can share a block with it: neither's place may be lost by that."""
        if self.place is None or other.place is None:
            return self.place is other.place
        return self.source == other.source and self.place.stretch == other.place.stretch


def _split_lf(data: bytes) -> list[bytes]:
    # bytes.splitlines also splits at CR, which a user-space message may hold.
    parts = data.split(b"\n")
    tail = parts.pop()
    lines = [part + b"\n" for part in parts]
    return [*lines, tail] if tail else lines


def join(blocks: list[Block]) -> Block:
    """One block with the records of all, in order; the oldest arrival is kept, and the last place. `blocks` must not be
    empty, and each must join the one before it (`Block.joins`)."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        b"".join([block.data for block in blocks]),
        sum([block.records for block in blocks]),
        blocks[0].source,
        blocks[0].arrived,
        own=sum([block.own for block in blocks]),
        spooled=blocks[0].spooled,
        place=blocks[-1].place,
    )
