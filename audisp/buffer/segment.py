"""The on-disk format of durable records: a segment file is one header, then frames. Sans-IO.

docs/formats/segment.md has the layout. A frame is a fixed prefix (two lengths, the plain size, two CRCs), a msgpack
header and a zstd-compressed run of verbatim records. What holds of it:

- Nothing is believed before its checksum is: the prefix has a CRC of its own, so a damaged length can neither make the
  reader wait for bytes that never come nor make it take damage for a torn tail. Every length is bounded besides.
- A prefix opens with the segment's mark, which is random and stays in a file of mode 0600. Text that an attacker gets
  into a record can therefore never pass for a frame when a reader looks for the next one after damage.
- Each frame carries the SHA-256 of the frame before it. The hash covers the msgpack header and the compressed records,
  not the prefix, so a collector that stores a sender's frames under a mark of its own keeps the sender's chain.
- A whole frame decodes to the very bytes that were put in, or to an error.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import zstandard

from audisp.errors import StoreError

HEADER_MAGIC: Final = b"\x89audseg\n"
"""First bytes of a segment. The first is no text and the last is a newline, so that a file that went through a text
conversion is recognised as such (the idea of PNG's signature, RFC 2083 section 12.11)."""

VERSION: Final = 1
HEADER_BYTES: Final = 512
"""One disk sector, so that the header is written whole or not at all on common disks."""

SEAL_OFFSET: Final = 384
"""The last 128 bytes of the header are room for an Ed25519 seal (32 bytes of key id, 64 of signature, 32 for what it
covers). Version 1 keeps them zero. The header's CRC does not cover them: a seal is put there later."""

MAX_IDENTITY: Final = 255
"""Longest stream identity in bytes: that of a TLS-PSK identity as upstream's files know it."""

MAX_FRAME_PLAIN: Final = 1 << 20
"""Most bytes of records in one frame: decoding one holds the interpreter for its whole length (store-scale.md 1.5)."""

MAX_FRAME_HEAD: Final = 1 << 16
"""Most bytes of a frame's msgpack header. The books of a few hundred plugins take about 20 KiB."""

MAX_SENDER_HEAD: Final = MAX_FRAME_HEAD - 2_048
"""Most bytes of the header of a frame that is made anew. A collector keeps it whole inside the header of its own frame,
and has the rest for what it adds: nothing is written into a spool that no collector could store."""

MAX_FRAME_PACKED: Final = MAX_FRAME_PLAIN + (MAX_FRAME_PLAIN >> 8) + 64
"""Most bytes of a frame's compressed records: what ZSTD_compressBound gives for incompressible input of that size."""

MAX_NESTING: Final = 4
"""Depth of maps and lists in the books: counters of a plugin under its name, with room for one more level."""

MAX_NUMBER: Final = (1 << 63) - 1
"""Largest record number, and largest time in nanoseconds (the year 2262): fits a signed 64-bit integer everywhere."""

ZSTD_LEVEL: Final = 1
"""The spool is written beside live traffic; higher levels cost several times the CPU for a tenth of the space."""

ANCHOR: Final = bytes(32)
"""`previous` of the first frame of a stream."""

MARK_BYTES: Final = 8
"""Of a segment's 16 random bytes, those that open each frame: nobody guesses 64 bits."""

_HEADER: Final = struct.Struct("<8sHHI16s16sQQ32sB255s28x")
_PREFIX: Final = struct.Struct("<8sIIII")
_CRC: Final = struct.Struct("<I")
PREFIX_BYTES: Final = _PREFIX.size + _CRC.size
MAX_FRAME: Final = PREFIX_BYTES + MAX_FRAME_HEAD + MAX_FRAME_PACKED

Plain = str | int | bool | bytes | None
"""What the books may hold, besides maps with str keys and lists of these."""


class VersionError(StoreError):
    """A segment that a later version of this program wrote."""


class DamageError(StoreError):
    """Bytes of a segment that are not what was written. `offset`: where in the segment the damaged thing starts."""

    def __init__(self, message: str, offset: int) -> None:
        self.offset = offset
        super().__init__(f"{message} (at offset {offset})")


@attrs.frozen
class SegmentHeader:
    """What a segment says of itself.

    spool: 16 bytes, the same in every segment of one spool. segment: 16 random bytes of this one. created: nanoseconds
    since the epoch. first: number of the first record. previous: hash of the frame before the first one here.
    identity: whose stream this is, at most MAX_IDENTITY bytes.
    """

    spool: bytes
    segment: bytes
    created: int
    first: int
    previous: bytes = ANCHOR
    identity: bytes = b""

    @property
    def mark(self) -> bytes:
        """What every frame of this segment begins with."""
        return self.segment[:MARK_BYTES]

    def encode(self) -> bytes:
        """HEADER_BYTES bytes. ValueError if a part has the wrong size."""
        if (len(self.spool), len(self.segment), len(self.previous)) != (16, 16, 32):
            raise ValueError("a segment header has ids of 16 bytes and a hash of 32")
        if len(self.identity) > MAX_IDENTITY:
            raise ValueError(f"stream identity of {len(self.identity)} bytes, at most {MAX_IDENTITY} fit")
        if not (0 <= self.created <= MAX_NUMBER and 0 <= self.first <= MAX_NUMBER):
            raise ValueError("time and record number of a segment header must be 0 to 2^63-1")
        fixed = _HEADER.pack(
            HEADER_MAGIC,
            VERSION,
            HEADER_BYTES,
            0,
            self.spool,
            self.segment,
            self.created,
            self.first,
            self.previous,
            len(self.identity),
            self.identity,
        )
        return (fixed + _CRC.pack(zlib.crc32(fixed))).ljust(HEADER_BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader:
        """The header in the first HEADER_BYTES of `data`. StoreError says what is wrong with it.

        VersionError for another version's: signature, version and checksum keep their place in all versions, so that
        damage is not taken for one.
        """
        if len(data) < HEADER_BYTES:
            raise StoreError(f"segment header of {len(data)} bytes, {HEADER_BYTES} expected")
        if data[: len(HEADER_MAGIC)] != HEADER_MAGIC:
            raise StoreError("no segment: the file does not begin with the segment signature")
        _, version, size, flags, spool, segment, created, first, previous, length, identity = _HEADER.unpack_from(data)
        if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
            raise StoreError("segment header: checksum wrong")
        if version != VERSION:
            raise VersionError(f"segment of format version {version}, this program reads version {VERSION}")
        if size != HEADER_BYTES or flags or any(data[_HEADER.size - 28 : _HEADER.size]) or any(identity[length:]):
            raise StoreError("segment header: a field that version 1 keeps zero is set")
        if any(data[SEAL_OFFSET:HEADER_BYTES]):
            raise StoreError("segment header: the seal room is not empty, and version 1 knows no seal")
        if created > MAX_NUMBER or first > MAX_NUMBER:
            raise StoreError("segment header: time or record number out of range")
        return cls(spool, segment, created, first, previous, identity[:length])


@attrs.frozen
class FrameHead:
    """What a frame says of its records.

    first: number of the first record. count: how many (0: the frame carries only books). origin: the source they came
    from, or on a collector the authenticated identity. books: counters at the time of writing; keys are str, values are
    str, int, bool, bytes, None, or maps and lists of these, at most MAX_NESTING deep. previous: SHA-256 of the frame
    before. stamp: nanoseconds since the epoch at which the oldest of the records arrived.
    """

    first: int
    count: int
    origin: str
    books: Mapping[str, Any]
    previous: bytes
    stamp: int

    @property
    def end(self) -> int:
        """Number of the record after the last one."""
        return self.first + self.count


@attrs.frozen
class Frame(FrameHead):
    """A frame with its records. data: `count` lines, each ended by LF, at most MAX_FRAME_PLAIN bytes."""

    data: bytes


@attrs.frozen
class PackedFrame:
    """A frame whose checksums and header are right and whose records are still compressed.

    offset: where it starts in the segment. size: its bytes there. digest: what the next frame has as `previous`.
    """

    head: FrameHead
    packed: bytes
    plain: int
    offset: int
    size: int
    digest: bytes

    def unpack(self) -> Frame:
        """With its records. DamageError if they are not what the header says; allocates `plain` bytes at most."""
        head = self.head
        data = _decompress(self.packed, self.plain, self.offset)
        if data.count(b"\n") != head.count or (data and not data.endswith(b"\n")):
            raise DamageError(f"frame says {head.count} records and holds {data.count(10)}", self.offset)
        return Frame(head.first, head.count, head.origin, head.books, head.previous, head.stamp, data)


def packer() -> zstandard.ZstdCompressor:
    """What packs records; kept by whoever packs often, since making it takes as long as packing some KiB. For one
    thread at a time."""
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL)


def encode_frame(frame: Frame, mark: bytes, packing: zstandard.ZstdCompressor | None = None) -> tuple[bytes, bytes]:
    """The frame's bytes in the segment with this mark, and the digest that the next frame carries as `previous`.

    ValueError if the frame is not one that the decoder would take.
    """
    if len(mark) != MARK_BYTES or len(frame.previous) != len(ANCHOR):
        raise ValueError(f"a mark has {MARK_BYTES} bytes and a hash {len(ANCHOR)}")
    if len(frame.data) > MAX_FRAME_PLAIN:
        raise ValueError(f"{len(frame.data)} bytes of records, a frame takes {MAX_FRAME_PLAIN}")
    lines = frame.data.count(b"\n")
    if lines != frame.count or (frame.data and not frame.data.endswith(b"\n")):
        raise ValueError(f"frame of {frame.count} records with {lines} line ends")
    fields = {
        "first": frame.first,
        "count": frame.count,
        "origin": frame.origin,
        "books": dict(frame.books),
        "previous": frame.previous,
        "stamp": frame.stamp,
    }
    wrong = _check_head(fields)
    if wrong:
        raise ValueError(f"frame header: {wrong}")
    head: bytes = msgpack.packb(fields)
    if len(head) > MAX_SENDER_HEAD:
        raise ValueError(f"frame header of {len(head)} bytes, at most {MAX_SENDER_HEAD} fit")
    packed = (packing or packer()).compress(frame.data) if frame.data else b""
    body = head + packed
    prefix = _PREFIX.pack(mark, len(head), len(packed), len(frame.data), zlib.crc32(body))
    return prefix + _CRC.pack(zlib.crc32(prefix)) + body, hashlib.sha256(body).digest()


class FrameDecoder:
    """Bytes in, frames out. Holds at most one frame and what was fed beyond it.

    mark: the segment's. offset: where in the segment the first fed byte stands (after the header by default).
    At the end of a segment `good` is the offset up to which everything decoded: what stands beyond it is the torn tail
    of a write that never finished, unless a whole frame stands behind the damage, which then was damage in the middle.
    """

    def __init__(self, mark: bytes, offset: int = HEADER_BYTES) -> None:
        self._mark = mark
        self._buffer = bytearray()
        self._offset = offset
        self._searching = False
        self.good = offset

    @property
    def fed(self) -> int:
        """Offset in the segment of the byte to be fed next."""
        return self._offset + len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take more bytes of the segment, which follow those fed before."""
        self._buffer += data

    def next(self) -> PackedFrame | None:
        """The next frame; None if more bytes are needed to tell.

        Raises DamageError, once for each damaged stretch. Calling again goes on at the next frame whose prefix is
        right; a reader that must not skip anything does not call again.
        """
        if self._searching and not self._find():
            return None
        buffer = self._buffer
        if len(buffer) < PREFIX_BYTES:
            return None
        sizes = self._sizes(0)
        if sizes is None:
            self._searching = True
            del buffer[:1]
            self._offset += 1
            raise DamageError("frame prefix damaged", self._offset - 1)
        head_size, packed_size, plain, crc = sizes
        size = PREFIX_BYTES + head_size + packed_size
        if len(buffer) < size:
            return None
        body = bytes(buffer[PREFIX_BYTES:size])
        offset = self._offset
        # From here on the frame's end is known and trusted, so that damage inside it costs this frame alone.
        del buffer[:size]
        self._offset += size
        if zlib.crc32(body) != crc:
            raise DamageError("frame checksum wrong", offset)
        head = _decode_head(body[:head_size], offset)
        if (head.count == 0) != (plain == 0) or head.count > plain:
            raise DamageError(f"frame says {head.count} records in {plain} bytes", offset)
        self.good = self._offset
        return PackedFrame(head, body[head_size:], plain, offset, size, hashlib.sha256(body).digest())

    def _sizes(self, at: int) -> tuple[int, int, int, int] | None:
        """Lengths of header and records, plain size and body CRC of the prefix at `at`; None if it is no prefix."""
        prefix = bytes(self._buffer[at : at + _PREFIX.size])
        mark, head, packed, plain, crc = _PREFIX.unpack(prefix)
        if mark != self._mark or _CRC.unpack_from(self._buffer, at + _PREFIX.size)[0] != zlib.crc32(prefix):
            return None
        if head > MAX_FRAME_HEAD or packed > MAX_FRAME_PACKED or plain > MAX_FRAME_PLAIN:
            return None
        return head, packed, plain, crc

    def _find(self) -> bool:
        """Drop bytes up to the next right prefix. False: none so far."""
        at = 0
        while (at := self._buffer.find(self._mark, at)) >= 0:
            if len(self._buffer) - at < PREFIX_BYTES or self._sizes(at) is not None:
                break
            at += 1
        if at < 0:
            # The mark itself may be cut in two by the end of what was fed.
            at = max(0, len(self._buffer) - MARK_BYTES + 1)
        del self._buffer[:at]
        self._offset += at
        self._searching = len(self._buffer) < PREFIX_BYTES
        return not self._searching


def _decompress(packed: bytes, plain: int, offset: int) -> bytes:
    if not plain:
        if packed:
            raise DamageError("frame without records holds compressed bytes", offset)
        return b""
    try:
        # The size is checked before the call, because zstandard allocates what the zstd header says and ignores
        # max_output_size when there is one.
        stated = zstandard.get_frame_parameters(packed)
        if stated.content_size != plain or stated.dict_id:
            raise DamageError(f"frame states {plain} plain bytes, its zstd header says otherwise", offset)
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=plain, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamageError(f"frame does not decompress: {error}", offset) from error
    if len(data) != plain:
        raise DamageError(f"frame states {plain} plain bytes and holds {len(data)}", offset)
    return data


def _decode_head(data: bytes, offset: int) -> FrameHead:
    try:
        fields = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=MAX_FRAME_HEAD,
            max_bin_len=MAX_FRAME_HEAD,
            max_array_len=MAX_FRAME_HEAD,
            max_map_len=MAX_FRAME_HEAD,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise DamageError(f"frame header is not the msgpack expected: {error!r}", offset) from error
    wrong = _check_head(fields)
    if wrong:
        raise DamageError(f"frame header: {wrong}", offset)
    return FrameHead(
        fields["first"], fields["count"], fields["origin"], fields["books"], fields["previous"], fields["stamp"]
    )


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _check_head(fields: Any) -> str | None:
    """What is wrong with the decoded header; None if nothing is. Keys it does not know are ignored."""
    if not isinstance(fields, dict):
        return "no map"
    for key, kind in (("first", int), ("count", int), ("stamp", int), ("origin", str), ("previous", bytes)):
        if type(fields.get(key)) is not kind:
            return f"{key} is missing or no {kind.__name__}"
    if not isinstance(fields.get("books"), dict):
        return "books is missing or no map"
    if not 0 <= fields["count"] <= MAX_FRAME_PLAIN:
        return "count out of range"
    if not (0 <= fields["first"] <= MAX_NUMBER - fields["count"] and 0 <= fields["stamp"] <= MAX_NUMBER):
        return "first or stamp out of range"
    if len(fields["previous"]) != len(ANCHOR):
        return f"previous is not {len(ANCHOR)} bytes"
    # One level is the header itself.
    return _check_tree(fields, MAX_NESTING + 1)


def _check_tree(value: Any, depth: int) -> str | None:
    if isinstance(value, Plain):
        return None
    if not isinstance(value, dict | list):
        return f"a value of type {type(value).__name__}"
    if depth == 0:
        return f"nested more than {MAX_NESTING} deep"
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        return "a key that is no string"
    for item in value.values() if isinstance(value, dict) else value:
        wrong = _check_tree(item, depth - 1)
        if wrong:
            return wrong
    return None
