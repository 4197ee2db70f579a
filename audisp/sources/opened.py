"""One log that is open, plain or packed: how far it was read, and what will tell it again under another name.

Every read begins with the last bytes of the read before, so that a file which was cut and written anew is noticed
whatever its length is by then. Nothing here decides where to go on; trail.py does.
"""

from __future__ import annotations

import os
from typing import Final, Literal, Protocol

import attrs

from audisp.record import STAMP, STRETCH_BYTES
from audisp.sources.compressed import CHUNK, Damaged, LogReader
from audisp.sources.position import NO_STAMP, NO_STRETCH, Position, Stamp, digest

HEAD: Final = 1024
"""First bytes of a log that tell it from others: they hold at least one stamp, and no two logs begin with the same."""

TAIL: Final = 4096
"""Bytes before a place that must be as they were. Nearly always they hold a stamp, which occurs once; they cost nothing
beside the 256 KiB read with them."""

Match = Literal["here", "head", "other"]
"""here: all is as it was. head: it is that log, but not up to the place. other: it is not that log."""


class Changed(Exception):
    """What was read before is no longer there: the file was truncated, or written anew."""


class Store(Protocol):
    """The bytes of one log as if they could be read anywhere; of a packed one only forward at no price."""

    damage: str | None

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes from `at`, fewer at the end. Raises OSError."""

    def size(self) -> int | None:
        """Bytes it has now; None where that is not known before they are unpacked. Raises OSError."""

    def close(self) -> None:
        """Close the descriptor."""


class PlainStore:
    """A file as it is."""

    damage: str | None = None

    def __init__(self, file: int) -> None:
        self._file = file

    def read(self, at: int, size: int) -> bytes:
        """See Store."""
        return os.pread(self._file, size, at)

    def size(self) -> int:
        """See Store."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """See Store."""
        os.close(self._file)


class PackedStore:
    """A compressed file, unpacked. What is given out starts no earlier than the last `read` did, or from the start."""

    def __init__(self, file: int) -> None:
        """Raises OSError for a form that cannot be unpacked."""
        self.damage: str | None = None
        self._file = file
        self._log = LogReader(file)
        self._kept = b""
        self._start = 0
        self._ended = False

    def read(self, at: int, size: int) -> bytes:
        """See Store. Damage is the end."""
        if at < self._start:
            os.lseek(self._file, 0, os.SEEK_SET)
            self._log, self._kept, self._start, self._ended = LogReader(self._file), b"", 0, False
        while True:
            passed = min(at - self._start, len(self._kept))
            self._kept = self._kept[passed:]
            self._start += passed
            if self._ended or (self._start == at and len(self._kept) >= size):
                return self._kept[:size] if self._start == at else b""
            try:
                piece = self._log.read(CHUNK)
            except Damaged as error:
                piece, self.damage = b"", error.strerror
            self._ended = not piece
            self._kept += piece

    def size(self) -> None:
        """See Store."""

    def close(self) -> None:
        """See Store."""
        self._log.close()


@attrs.define(eq=False)
class Opened:
    """A log and a place in it. name: its path, for people; it may have another by now."""

    name: str
    device: int
    inode: int
    store: Store
    since: int = 0
    """Nanoseconds: what was written to it later than that was not read when it was opened."""
    at: int = 0
    """The next byte to be read."""
    window: bytes = b""
    """The last TAIL bytes before that, or all."""
    offset: int = 0
    """Behind the last line end before that."""
    head: bytes = b""
    tail: bytes = b""
    """The last TAIL bytes before the offset, or all."""
    first: Stamp = NO_STAMP
    last: Stamp = NO_STAMP
    stretch: bytes = NO_STRETCH
    """What names the run of records that this log is, by its first line; NO_STRETCH as long as that has no stamp."""

    def more(self) -> bytes:
        """The next bytes, at most CHUNK; b"" at the end. Raises Changed, or OSError."""
        size = self.store.size()
        if size is not None and size < self.at:
            raise Changed
        wanted = CHUNK if size is None else min(CHUNK, size - self.at)
        before = len(self.window)
        data = self.store.read(self.at - before, before + wanted)
        if not data.startswith(self.window):
            raise Changed
        return data[before:]

    def take(self, data: bytes) -> Position | None:
        """Step over what `more` gave. Returns the place behind its last line end; None if it has none."""
        if len(self.head) < HEAD:
            self.head += data[: HEAD - len(self.head)]
            self.first = stamp_of(self.head)
        cut = data.rfind(b"\n") + 1
        if cut:
            self.tail = data[cut - TAIL : cut] if cut >= TAIL else (self.window + data[:cut])[-TAIL:]
            self.offset = self.at + cut
            found = STAMP.match(data, data.rfind(b"\n", 0, cut - 1) + 1)
            if found:
                self.last = (int(found[1]), int(found[2]), int(found[3]))
        self.window = data[-TAIL:] if len(data) >= TAIL else (self.window + data)[-TAIL:]
        self.at += len(data)
        return self.position() if cut else None

    def position(self) -> Position:
        """The place behind the last line end that was read."""
        head = self.head[: self.offset]
        if head and self.stretch == NO_STRETCH and self.first != NO_STAMP:
            self.stretch = digest(head.partition(b"\n")[0])[:STRETCH_BYTES]
        return Position(
            self.device,
            self.inode,
            self.offset,
            len(head),
            len(self.tail),
            digest(head),
            digest(self.tail),
            self.first,
            self.last,
            self.since,
            self.stretch,
        )

    def match(self, position: Position) -> Match:
        """Whether this is that log. Nothing is moved. Raises OSError."""
        if not position.head_bytes:
            # Nothing was read of it, so that nothing but its inode tells it.
            same = (self.device, self.inode) == (position.device, position.inode)
            return "here" if same else "other"
        head = self.store.read(0, position.head_bytes)
        if len(head) < position.head_bytes or digest(head) != position.head:
            return "other"
        tail = self.store.read(position.offset - position.tail_bytes, position.tail_bytes)
        return "here" if len(tail) == position.tail_bytes and digest(tail) == position.tail else "head"

    def go_to(self, offset: int, last: Stamp = NO_STAMP) -> None:
        """Read on from there, the start of a line. Raises OSError."""
        self.head = self.store.read(0, min(HEAD, offset))
        self.first, self.last = stamp_of(self.head), last
        self.tail = self.window = self.store.read(max(0, offset - TAIL), min(TAIL, offset))
        self.at = self.offset = offset


def stamp_of(data: bytes) -> Stamp:
    """Stamp of the first record in there; NO_STAMP if there is none."""
    found = STAMP.search(data)
    return (int(found[1]), int(found[2]), int(found[3])) if found else NO_STAMP
