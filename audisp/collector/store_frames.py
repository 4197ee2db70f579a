"""Frames of the store: what the collector writes around a sender's frame, and how it is read back. Pure.

docs/formats/store.md has the layout. What holds:

- A stored frame says by itself whose it is, where it stands in its sender's stream and what stands behind it. There is
  no other place where that is kept, so no crash can separate a position from the records that it is about.
- A sender's frame is stored as it came: its header stands in ours byte for byte, its records stay packed, and its hash
  can be taken again from the two.
- Numbers of the store only go up from frame to frame, and every frame of a sender has one of its own.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.buffer.segment import (
    ANCHOR,
    MAX_FRAME_HEAD,
    MAX_FRAME_PLAIN,
    MAX_IDENTITY,
    MAX_SENDER_HEAD,
    PREFIX_BYTES,
    DamageError,
    FrameHead,
    PackedFrame,
    packer,
)
from audisp.collector.store_look import nodes, seconds
from audisp.collector.store_streams import PLAIN_PREFIX, Stream, StreamKey, binary_of, nodes_of, number_of
from audisp.errors import StoreError
from audisp.wire.native import DATA_MARK, DataFrame, Position

OWN_HEAD: Final = MAX_FRAME_HEAD - MAX_SENDER_HEAD
"""Bytes of a stored frame's header that are ours: an identity of 255, eight nodes of 64, hashes, numbers and keys."""

ROW_BYTES: Final = 48 << 10
"""Rows of streams that go into one frame, about: what a header takes, with room for one row more."""

FORGOTTEN_BYTES: Final = 6 << 10
"""A frame that says that the streams of one host are forgotten, MAX_STREAMS of them, with an identity of 255."""

MAX_REPLACED: Final = 256
"""Segments that are replaced at once."""

_PREFIX: Final = struct.Struct("<8sIIII")
_CRC: Final = struct.Struct("<I")


@attrs.frozen(eq=False)
class Numbered:
    """A frame of the native protocol, to be stored. identity: the authenticated one. data: its records, unpacked.
    received: nanoseconds since the epoch."""

    identity: str
    spool: bytes
    frame: DataFrame
    data: bytes
    received: int


@attrs.frozen(eq=False)
class Unnumbered:
    """Records of one C program, to be stored. identity: the authenticated one, or `address_identity`.

    data: lines, each ended by LF, MAX_FRAME_PLAIN bytes at most. sequence, digest: number and SHA-256 of the last of
    them, for a retry to be recognised by; None: it has none, being plain text. received: nanoseconds since the epoch.
    """

    identity: str
    data: bytes
    received: int
    sequence: int | None = None
    digest: bytes | None = None


def stored_bytes(item: Numbered | Unnumbered) -> int:
    """Most bytes that it takes in the store."""
    if isinstance(item, Numbered):
        return len(item.frame.raw) + OWN_HEAD
    # As ZSTD_compressBound, and the prefix.
    return len(item.data) + (len(item.data) >> 8) + 64 + PREFIX_BYTES + OWN_HEAD


class Replaced(NamedTuple):
    """Segments, by their numbers, that one takes the place of. by: its id; b"": there is none, they are removed."""

    numbers: tuple[int, ...]
    by: bytes


@attrs.frozen(eq=False)
class Entry:
    """A stored frame. packed: as it lies in the segment; its `first` is the store's number.

    key: whose stream. number: that of its first record in the stream. after: where the stream goes on. second, until:
    first and last second of stamps. sequence, digest: of a C program's last message. head: the sender's header.
    """

    packed: PackedFrame
    key: StreamKey
    number: int
    after: Position
    second: int
    until: int
    nodes: tuple[str, ...] = ()
    sequence: int | None = None
    digest: bytes | None = None
    head: bytes | None = None

    @property
    def first(self) -> int:
        """Its number in the store."""
        return self.packed.head.first

    @property
    def end(self) -> int:
        """The store's number behind it."""
        return self.packed.head.first + (self.packed.head.count or 1)

    @property
    def received(self) -> int:
        """Nanoseconds since the epoch."""
        return self.packed.head.stamp

    def sender_frame(self) -> DataFrame | None:
        """The sender's frame as it came, out of one that was read; None for a C program's. DamageError if it is no
        frame."""
        if self.head is None:
            return None
        packed = self.packed
        return DataFrame.read(assemble(self.head, packed.packed, packed.plain, DATA_MARK)[0])


@attrs.frozen(eq=False)
class Note:
    """A frame of the store's own. first: the number that the store gives next, where it stands. rows: what it says of
    streams. part, parts: which of how many that together say everything, as each segment begins; 0: it is none of them.
    replaced: what is done to segments. forgotten: streams that are."""

    first: int
    rows: tuple[Stream, ...] = ()
    part: int = 0
    parts: int = 0
    replaced: Replaced | None = None
    forgotten: tuple[StreamKey, ...] = ()


class Writer:
    """Makes frames. Keeps the compressor, which costs more to make than to use for a single record."""

    def __init__(self) -> None:
        self._compressor = packer()

    def numbered(self, item: Numbered, stream: Stream, first: int, mark: bytes, offset: int) -> tuple[bytes, Entry]:
        """The frame's bytes under this mark, and what they say, its records left out. first: its number in the store.
        offset: where it will stand in the segment. StoreError if its header is too long."""
        frame = item.frame
        sender_head = frame.header
        if len(sender_head) > MAX_SENDER_HEAD:
            raise StoreError(f"frame header of {len(sender_head)} bytes, at most {MAX_SENDER_HEAD} can be stored")
        after = frame.after
        books: dict[str, Any] = {
            "spool": item.spool,
            "number": frame.first,
            "after": [after.next, after.last],
            "head": sender_head,
        }
        if frame.count:
            _look(books, item.data, frame.count)
        head = FrameHead(first, frame.count, item.identity, books, stream.digest, item.received)
        return _finish(head, frame.packed, frame.plain, mark, offset, stream.key, after)

    def unnumbered(self, item: Unnumbered, stream: Stream, first: int, mark: bytes, offset: int) -> tuple[bytes, Entry]:
        """As `numbered`. ValueError for data that are not lines, or too long."""
        data = item.data
        if not data.endswith(b"\n") or len(data) > MAX_FRAME_PLAIN:
            raise ValueError(f"{len(data)} bytes to be stored that are not lines, or more than {MAX_FRAME_PLAIN}")
        count = data.count(b"\n")
        books: dict[str, Any] = {"number": stream.next}
        if not authenticated(item.identity):
            books["authenticated"] = False
        if item.sequence is not None:
            books["sequence"] = item.sequence
            books["hash"] = item.digest
        _look(books, data, count)
        head = FrameHead(first, count, item.identity, books, stream.digest, item.received)
        packed = self._compressor.compress(data)
        return _finish(head, packed, len(data), mark, offset, stream.key, Position(stream.next + count, b""))


def _finish(
    head: FrameHead, packed: bytes, plain: int, mark: bytes, offset: int, key: StreamKey, after: Position
) -> tuple[bytes, Entry]:
    raw, digest = assemble(_pack(head), packed, plain, mark)
    books = head.books
    second, until = books.get("seconds", (0, 0))
    return raw, Entry(
        PackedFrame(head, b"", plain, offset, len(raw), digest),
        key,
        books["number"],
        after,
        second,
        until,
        books.get("nodes", ()),
        books.get("sequence"),
        books.get("hash"),
    )


def _look(books: dict[str, Any], data: bytes, records: int) -> None:
    books["seconds"] = seconds(data, records)
    named = nodes(data, records)
    if named:
        books["nodes"] = named


def _pack(head: FrameHead) -> bytes:
    packed: bytes = msgpack.packb(
        {
            "first": head.first,
            "count": head.count,
            "origin": head.origin,
            "books": head.books,
            "previous": head.previous,
            "stamp": head.stamp,
        }
    )
    return packed


def assemble(head: bytes, packed: bytes, plain: int, mark: bytes) -> tuple[bytes, bytes]:
    """A frame under a mark, and its digest. plain: bytes of its records, unpacked (docs/formats/segment.md)."""
    body = head + packed
    prefix = _PREFIX.pack(mark, len(head), len(packed), plain, zlib.crc32(body))
    return prefix + _CRC.pack(zlib.crc32(prefix)) + body, hashlib.sha256(body).digest()


def remark(raw: bytes, mark: bytes) -> bytes:
    """A frame's bytes under another mark."""
    prefix = mark + raw[len(mark) : _PREFIX.size]
    return prefix + _CRC.pack(zlib.crc32(prefix)) + raw[_PREFIX.size + _CRC.size :]


def write_snapshot(rows: Sequence[Stream], first: int, stamp: int, mark: bytes) -> bytes:
    """Frames that say everything about all streams. first: the number that the store gives next."""
    chunks = list(_chunks(rows)) or [[]]
    return b"".join(
        _note({"streams": chunk, "part": part, "parts": len(chunks)}, first, stamp, mark)
        for part, chunk in enumerate(chunks, 1)
    )


def write_note(rows: Sequence[Stream], replaced: Replaced, first: int, stamp: int, mark: bytes) -> bytes:
    """Frames that say something of some streams, and then what is done to segments."""
    frames = [_note({"streams": chunk}, first, stamp, mark) for chunk in _chunks(rows)]
    frames.append(_note({"replaced": [list(replaced.numbers), replaced.by]}, first, stamp, mark))
    return b"".join(frames)


def write_forgotten(keys: Sequence[StreamKey], first: int, stamp: int, mark: bytes) -> bytes:
    """A frame that says that these streams, MAX_STREAMS at most, are known no more."""
    return _note({"forgotten": [[*key] for key in keys]}, first, stamp, mark)


def _note(books: Mapping[str, Any], first: int, stamp: int, mark: bytes) -> bytes:
    return assemble(_pack(FrameHead(first, 0, "", books, ANCHOR, stamp)), b"", 0, mark)[0]


def _chunks(rows: Sequence[Stream]) -> list[list[list[Any]]]:
    chunks: list[list[list[Any]]] = []
    room = 0
    for stream in rows:
        row = stream.row()
        size = len(msgpack.packb(row))
        if size > room:
            chunks.append([])
            room = ROW_BYTES
        chunks[-1].append(row)
        room -= size
    return chunks


def read_frame(packed: PackedFrame) -> Entry | Note:
    """What a frame of a store says. DamageError if it is nothing that the store writes."""
    head, books = packed.head, packed.head.books
    try:
        if not head.origin:
            return _read_note(head.first, books)
        spool = binary_of(books.get("spool", b""), 0, 16)
        if "spool" in books:
            following, last = books["after"]
            after = Position(number_of(following), binary_of(last, 32))
            inner = books["head"]
            if type(inner) is not bytes or len(spool) != 16:
                raise ValueError("a sender's frame without its header, or its spool's name")
        else:
            after = Position(number_of(books["number"]) + head.count, b"")
            inner = None
        second, until = books["seconds"] if head.count else (0, 0)
        sequence = books.get("sequence")
        return Entry(
            packed,
            StreamKey(head.origin, spool),
            number_of(books["number"]),
            after,
            number_of(second),
            number_of(until),
            nodes_of(books.get("nodes", ())),
            None if sequence is None else number_of(sequence),
            None if sequence is None else binary_of(books["hash"], 32),
            inner,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"a frame that no store writes: {error!r}", packed.offset) from error


def _read_note(first: int, books: Mapping[str, Any]) -> Note:
    replaced = None
    if "replaced" in books:
        numbers, by = books["replaced"]
        if len(numbers) > MAX_REPLACED:
            raise ValueError(f"{len(numbers)} segments replaced at once")
        replaced = Replaced(tuple(map(number_of, numbers)), binary_of(by, 0, 16))
    rows = tuple(map(Stream.of_row, books.get("streams", ())))
    forgotten = tuple(StreamKey(_text(name), binary_of(spool, 0, 16)) for name, spool in books.get("forgotten", ()))
    return Note(first, rows, number_of(books.get("part", 0)), number_of(books.get("parts", 0)), replaced, forgotten)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("an identity that is no text")
    return value


def address_identity(address: str) -> str:
    """The identity under which records are stored whose sender has not proved who it is."""
    return PLAIN_PREFIX + address


def authenticated(identity: str) -> bool:
    """Whether a key was proved for this identity. None that begins as those of addresses do can have one."""
    return not identity.startswith(PLAIN_PREFIX)


def check_identity(identity: str) -> None:
    """ValueError if it cannot be stored: no printable ASCII without blanks, or not 1 to MAX_IDENTITY bytes."""
    if not (1 <= len(identity) <= MAX_IDENTITY and all("!" <= character <= "~" for character in identity)):
        raise ValueError(f"{identity!a:.300} is no identity: 1 to {MAX_IDENTITY} characters from ! to ~")
