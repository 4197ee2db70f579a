"""Frames of the native protocol: cutting them out of a stream, and the data frame with its place in the stream.

On the wire every frame has the layout of a frame in a segment (docs/formats/segment.md), with a signature and the
frame's type where the segment's mark stands. A data frame *is* a frame of a segment under another mark: neither the
sender's spool nor the collector's store packs its records again, and the hash that chains the frames is the same in
all three places (docs/formats/protocol.md).
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum, StrEnum
from typing import Final, Self

import attrs

from audisp.buffer.segment import (
    ANCHOR,
    MARK_BYTES,
    MAX_FRAME,
    MAX_FRAME_PACKED,
    MAX_FRAME_PLAIN,
    MAX_NUMBER,
    MAX_SENDER_HEAD,
    PREFIX_BYTES,
    DamageError,
    Frame,
    FrameDecoder,
    FrameHead,
    PackedFrame,
    encode_frame,
)
from audisp.errors import RemoteProtocolError
from audisp.wire.native_map import MAX_CONTROL

SIGNATURE: Final = b"\x89audw\n"
"""First bytes of every frame: not text, and spoiled by any conversion of text, like a segment's."""

MAX_WEIGHT: Final = MAX_FRAME + MAX_FRAME_PLAIN
"""Weight of the heaviest data frame; the smallest window there may be."""

GAP_KEY: Final = "gap"
"""Key in the books of a frame without records that says which records are missing, and why."""

MAX_REASON: Final = 64
"""Longest reason of a gap in characters."""

_PREFIX: Final = struct.Struct("<8sIIII")
_CRC: Final = struct.Struct("<I")


class FrameType(IntEnum):
    """Types of a frame."""

    HELLO = 1
    WELCOME = 2
    DATA = 3
    ACK = 4
    TROUBLE = 5
    PING = 6
    REFUSE = 7
    BYE = 8


class Reason(StrEnum):
    """Why a session is refused or broken off, as REFUSE states it (docs/formats/protocol.md)."""

    AHEAD = "ahead"
    BUSY = "busy"
    CHAIN = "chain"
    DAMAGED = "damaged"
    DIVERGED = "diverged"
    FORGED = "forged"
    FRAME = "frame"
    HOLE = "hole"
    IDENTITY = "identity"
    IDLE = "idle"
    LIMITS = "limits"
    MESSAGE = "message"
    ORDER = "order"
    OTHER = "other"
    TYPE = "type"
    VERSION = "version"
    WINDOW = "window"


class Breach(RemoteProtocolError):
    """What the peer did wrong. reason: what it is told. silent: it does not speak the protocol and is told nothing."""

    def __init__(self, reason: Reason, message: str, *, silent: bool = False) -> None:
        self.reason, self.silent = reason, silent
        super().__init__(message)


def wire_mark(kind: int) -> bytes:
    """The 8 bytes that a frame of this type begins with."""
    return SIGNATURE + kind.to_bytes(2, "little")


DATA_MARK: Final = wire_mark(FrameType.DATA)


def control_frame(kind: FrameType, body: bytes) -> bytes:
    """A frame that holds one map."""
    prefix = _PREFIX.pack(wire_mark(kind), len(body), 0, 0, zlib.crc32(body))
    return prefix + _CRC.pack(zlib.crc32(prefix)) + body


@attrs.frozen
class Prefix:
    """The prefix of a frame, with a right checksum. kind: a FrameType or any other number. crc: that of the body."""

    kind: int
    head: int
    packed: int
    plain: int
    crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return PREFIX_BYTES + self.head + self.packed


class FrameReader:
    """Bytes in, frames out. Holds what was fed and not taken: at most the frame whose prefix was let through."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.whole = True
        """False after `close` with part of a frame at hand."""

    @property
    def buffered(self) -> int:
        """Bytes at hand."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._buffer += data

    def close(self) -> None:
        """Forget what is at hand."""
        self.whole = not self._buffer
        self._buffer.clear()

    def prefix(self) -> Prefix | None:
        """That of the next frame, which stays; None if it is not there yet. Breach as soon as it cannot become one."""
        start = bytes(self._buffer[: len(SIGNATURE)])
        if not SIGNATURE.startswith(start):
            raise Breach(Reason.FRAME, f"no frame of audisp's protocol: it begins with {self._start()}", silent=True)
        if len(self._buffer) < PREFIX_BYTES:
            return None
        fixed = bytes(self._buffer[: _PREFIX.size])
        mark, head, packed, plain, crc = _PREFIX.unpack(fixed)
        if _CRC.unpack_from(self._buffer, _PREFIX.size)[0] != zlib.crc32(fixed):
            raise Breach(Reason.FRAME, "frame prefix with a wrong checksum")
        kind = int.from_bytes(mark[len(SIGNATURE) :], "little")
        prefix = Prefix(kind, head, packed, plain, crc)
        if kind == FrameType.DATA:
            fits = head <= MAX_SENDER_HEAD and packed <= MAX_FRAME_PACKED and plain <= MAX_FRAME_PLAIN
        else:
            fits = head <= MAX_CONTROL and not packed and not plain
        if not fits:
            raise Breach(Reason.LIMITS, f"frame of type {kind} with {head} + {packed} bytes, {plain} unpacked")
        return prefix

    def cut(self, prefix: Prefix) -> bytes | None:
        """The frame that this prefix begins, taken out; None if it is not whole. Breach if its checksum is wrong."""
        if len(self._buffer) < prefix.size:
            return None
        raw = bytes(self._buffer[: prefix.size])
        del self._buffer[: prefix.size]
        # That of a data frame is the segment decoder's to check.
        if prefix.kind != FrameType.DATA and zlib.crc32(raw[PREFIX_BYTES:]) != prefix.crc:
            raise Breach(Reason.FRAME, f"frame of type {prefix.kind} with a wrong checksum")
        return raw

    def _start(self) -> str:
        return repr(bytes(self._buffer[:16]))


@attrs.frozen
class Position:
    """A place in a stream. next: number of the next record. last: `previous` of the frame that begins there."""

    next: int
    last: bytes


@attrs.frozen
class Gap:
    """Records that the sender no longer has. last: `previous` of the frame behind them."""

    first: int
    count: int
    reason: str
    last: bytes


@attrs.frozen(eq=False)
class DataFrame:
    """A frame of records, or one that says that records are missing, as it lies in a segment and goes over the wire.

    raw: all of it, under whatever mark. head: what it says of its records. digest: SHA-256 of it without its prefix.
    gap: the records that are missing, if that is what it says.
    """

    raw: bytes
    head: FrameHead
    digest: bytes
    gap: Gap | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """From a frame's bytes under any mark. DamageError if they are not one whole frame with right checksums."""
        decoder = FrameDecoder(raw[:MARK_BYTES], 0)
        decoder.feed(raw)
        packed = decoder.next()
        if packed is None or packed.size != len(raw):
            raise DamageError("not one whole frame", 0)
        return cls.of(packed, raw)

    @classmethod
    def of(cls, packed: PackedFrame, raw: bytes) -> Self:
        """From a frame that a decoder took apart, and its bytes. DamageError if it says nonsense of a gap."""
        return cls(raw, packed.head, packed.digest, _gap(packed.head))

    @classmethod
    def make(cls, frame: Frame) -> Self:
        """From records. ValueError if it is not one that the decoder would take."""
        return cls.read(encode_frame(frame, DATA_MARK)[0])

    @property
    def first(self) -> int:
        """Number of the first record, or of the first that is missing."""
        return self.head.first

    @property
    def count(self) -> int:
        """Records in it."""
        return self.head.count

    @property
    def after(self) -> Position:
        """Where the stream goes on."""
        if self.gap is not None:
            return Position(self.gap.first + self.gap.count, self.gap.last)
        return Position(self.head.end, self.digest)

    @property
    def plain(self) -> int:
        """Bytes of its records, unpacked."""
        return int(_PREFIX.unpack_from(self.raw)[3])

    @property
    def weight(self) -> int:
        """What it counts for in the window: its bytes, packed and unpacked."""
        return len(self.raw) + self.plain

    @property
    def header(self) -> bytes:
        """Its msgpack header, byte by byte: with `packed` what the digest covers."""
        return self.raw[PREFIX_BYTES : PREFIX_BYTES + self._head_size]

    @property
    def packed(self) -> bytes:
        """Its records, packed."""
        return self.raw[PREFIX_BYTES + self._head_size :]

    @property
    def _head_size(self) -> int:
        return int(_PREFIX.unpack_from(self.raw)[1])

    def under(self, mark: bytes) -> bytes:
        """Its bytes under another mark: a segment's, or DATA_MARK."""
        if self.raw.startswith(mark):
            return self.raw
        prefix = mark + self.raw[MARK_BYTES : _PREFIX.size]
        return prefix + _CRC.pack(zlib.crc32(prefix)) + self.raw[PREFIX_BYTES:]

    def unpack(self) -> bytes:
        """Its records. DamageError if they are not what it says; allocates MAX_FRAME_PLAIN bytes at most."""
        return PackedFrame(self.head, self.packed, self.plain, 0, len(self.raw), self.digest).unpack().data


def gap_frame(at: Position, until: int, reason: str, last: bytes, stamp: int) -> DataFrame:
    """A frame that says that the records from `at` on, up to but not including `until`, are missing.

    last: `previous` of the frame that begins at `until`. stamp: nanoseconds since the epoch, of now. ValueError if a
    part of it is out of range.
    """
    missing = {"count": until - at.next, "reason": reason, "last": last}
    try:
        return DataFrame.make(Frame(at.next, 0, "", {GAP_KEY: missing}, at.last, stamp, b""))
    except DamageError as error:
        raise ValueError(str(error)) from error


def position_after(packed: PackedFrame) -> Position:
    """Where the stream goes on behind a stored frame; for who reads a store back. DamageError as DataFrame.of."""
    return DataFrame.of(packed, b"").after


def _gap(head: FrameHead) -> Gap | None:
    """What a frame without records says is missing; None if it only carries books."""
    if head.count or GAP_KEY not in head.books:
        return None
    said = head.books[GAP_KEY]
    if not isinstance(said, dict):
        raise DamageError("a gap that is no map", 0)
    count, reason, last = (said.get(key) for key in ("count", "reason", "last"))
    if type(count) is not int or not 1 <= count <= MAX_NUMBER - head.first:
        raise DamageError("a gap of no number of records", 0)
    if not isinstance(reason, str) or not 1 <= len(reason) <= MAX_REASON:
        raise DamageError("a gap without a reason", 0)
    if not isinstance(last, bytes) or len(last) != len(ANCHOR):
        raise DamageError("a gap without the hash behind it", 0)
    return Gap(head.first, count, reason, last)
