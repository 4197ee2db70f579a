"""The index of one segment: whose frames are in it, where, and from when. Pure.

It is a cache. Everything in it can be made again from the segment, and it is believed only if its checksum is right and
it names that segment, by its random id and its size. What a segment's frames say themselves is what counts: `verify`
does not look at an index at all.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.buffer.segment import MAX_NUMBER
from audisp.collector.store_frames import Entry
from audisp.collector.store_streams import Anchor, StreamKey, binary_of, number_of

MAGIC: Final = b"\x89audidx\n"
VERSION: Final = 1

MAX_INDEX: Final = 64 << 20
"""Bytes of an index that are read: a full segment of MAX_FRAMES frames, each of another stream, takes half of it."""

MAX_FRAMES: Final = 1 << 17
"""Frames in a segment, beyond which the next one is begun: the index of the one that is written is kept in memory, and
takes 44 bytes for each. C programs, with a frame for each record, fill a segment by this."""

_START: Final = struct.Struct("<8sIII")
_ROW: Final = struct.Struct("<QIIIQQQ")


class Row(NamedTuple):
    """One frame. first: its number in the store. offset, size: where it stands. records: in it. second, until: first
    and last second of stamps. received: nanoseconds since the epoch."""

    first: int
    offset: int
    size: int
    records: int
    second: int
    until: int
    received: int


@attrs.define(eq=False)
class Share:
    """What of a segment is one stream's. size: bytes of its frames. next: where the stream goes on behind the last of
    them, as an anchor: what is kept begins there once these are removed."""

    key: StreamKey
    next: Anchor
    frames: int = 0
    records: int = 0
    size: int = 0
    second: int = MAX_NUMBER
    until: int = 0
    start: int = 0
    """Of its rows, among all rows of a read index."""


class Index:
    """What is in one segment. newest: when the last frame was received. second, until: of stamps, of all frames."""

    def __init__(self) -> None:
        self.shares: dict[StreamKey, Share] = {}
        self.frames = 0
        self.newest = 0
        self.oldest = MAX_NUMBER
        self.second = MAX_NUMBER
        self.until = 0
        self._rows: dict[StreamKey, bytearray] = {}
        self._read = memoryview(b"")

    def add(self, entry: Entry) -> None:
        """Take a frame in, the next one of the segment."""
        packed, key = entry.packed, entry.key
        head = packed.head
        after = Anchor(entry.end, packed.digest, entry.after.next, entry.after.last)
        share = self.shares.get(key)
        if share is None:
            share = self.shares[key] = Share(key, after)
            self._rows[key] = bytearray()
        share.next = after
        share.frames += 1
        share.records += head.count
        share.size += packed.size
        self.frames += 1
        stamp, second, until = head.stamp, entry.second, entry.until
        # Comparisons: for a C program's record min and max would be a tenth of all work.
        if stamp > self.newest:
            self.newest = stamp
        if stamp < self.oldest:
            self.oldest = stamp
        if head.count:
            if second < share.second:
                share.second = second
                if second < self.second:
                    self.second = second
            if until > share.until:
                share.until = until
                if until > self.until:
                    self.until = until
        self._rows[key] += _ROW.pack(head.first, packed.offset, packed.size, head.count, second, until, stamp)

    def of(self, identity: str) -> list[Share]:
        """The shares of a host."""
        return [share for key, share in self.shares.items() if key.identity == identity]

    def hosts(self) -> Mapping[str, int]:
        """Bytes of each host."""
        found: dict[str, int] = {}
        for key, share in self.shares.items():
            found[key.identity] = found.get(key.identity, 0) + share.size
        return found

    def rows(self, shares: list[Share]) -> Iterator[Row]:
        """The frames of these shares, in the order in which they stand."""
        for values in sorted(values for share in shares for values in _ROW.iter_unpack(self._part(share))):
            yield Row(*values)

    def _part(self, share: Share) -> bytes | bytearray | memoryview:
        if share.key in self._rows:
            return self._rows[share.key]
        return self._read[share.start : share.start + share.frames * _ROW.size]

    def encode(self, segment: bytes, size: int) -> bytes:
        """The file. segment, size: those of the segment."""
        shares: list[Any] = []
        parts: list[bytes] = []
        for share in self.shares.values():
            parts.append(bytes(self._part(share)))
            shares.append(
                [*share.key, [*share.next], share.frames, share.records, share.size, share.second, share.until]
            )
        head: bytes = msgpack.packb(
            {
                "version": VERSION,
                "segment": segment,
                "size": size,
                "oldest": self.oldest,
                "newest": self.newest,
                "second": self.second,
                "until": self.until,
                "shares": shares,
            }
        )
        rows = b"".join(parts)
        return _START.pack(MAGIC, len(head), len(rows), zlib.crc32(rows, zlib.crc32(head))) + head + rows

    @classmethod
    def decode(cls, data: bytes, segment: bytes, size: int) -> Index | None:
        """From the file's content; None if it is not the index of this segment."""
        if len(data) < _START.size:
            return None
        magic, head_size, rows_size, crc = _START.unpack_from(data)
        body = memoryview(data)[_START.size :]
        if magic != MAGIC or len(body) != head_size + rows_size or zlib.crc32(body) != crc:
            return None
        try:
            fields = msgpack.unpackb(body[:head_size])
            if (fields["version"], fields["segment"], fields["size"]) != (VERSION, segment, size):
                return None
            return cls._of(fields, body[head_size:])
        except (KeyError, TypeError, ValueError, msgpack.UnpackException):
            return None

    @classmethod
    def _of(cls, fields: dict[str, Any], rows: memoryview) -> Index:
        index = cls()
        index._read = rows
        index.oldest, index.newest = number_of(fields["oldest"]), number_of(fields["newest"])
        index.second, index.until = number_of(fields["second"]), number_of(fields["until"])
        start = 0
        for identity, spool, (first, digest, following, last), *numbers in fields["shares"]:
            frames, records, share_size, second, until = map(number_of, numbers)
            if type(identity) is not str:
                raise TypeError("an identity that is no text")
            key = StreamKey(identity, binary_of(spool, 0, 16))
            after = Anchor(number_of(first), binary_of(digest, 32), number_of(following), binary_of(last, 0, 32))
            index.shares[key] = Share(key, after, frames, records, share_size, second, until, start)
            start += frames * _ROW.size
            index.frames += frames
        if start != len(rows):
            raise ValueError("rows for other frames")
        return index
