"""The segment format: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import (
    ANCHOR,
    HEADER_BYTES,
    HEADER_MAGIC,
    MAX_FRAME,
    MAX_FRAME_HEAD,
    MAX_FRAME_PACKED,
    MAX_FRAME_PLAIN,
    MAX_NUMBER,
    MAX_SENDER_HEAD,
    PREFIX_BYTES,
    DamageError,
    Frame,
    FrameDecoder,
    PackedFrame,
    SegmentHeader,
    VersionError,
    encode_frame,
)
from audisp.errors import StoreError

MARK = b"\x01mark\xff\n\x00"
BOOKS: dict[str, Any] = {"received": 12, "plugins": {"syslog": {"offered": 7, "dropped": 0}}, "name": "x", "no": None}


def frame(first: int = 1, lines: int = 3, previous: bytes = ANCHOR, **changes: Any) -> Frame:
    data = b"".join(b"type=SYSCALL msg=audit(1.000:%d): arch=c000003e\n" % (first + n) for n in range(lines))
    return attrs.evolve(Frame(first, lines, "netlink", BOOKS, previous, 1_700_000_000_000_000_000, data), **changes)


def chain(count: int, lines: int = 3) -> list[bytes]:
    parts, previous, first = [], ANCHOR, 1
    for _ in range(count):
        encoded, previous = encode_frame(frame(first, lines, previous), MARK)
        parts.append(encoded)
        first += lines
    return parts


def decode(data: bytes) -> tuple[list[PackedFrame], FrameDecoder, list[DamageError]]:
    decoder = FrameDecoder(MARK)
    decoder.feed(data)
    found: list[PackedFrame] = []
    errors: list[DamageError] = []
    while True:
        try:
            packed = decoder.next()
        except DamageError as error:
            errors.append(error)
            continue
        if packed is None:
            return found, decoder, errors
        found.append(packed)


def raw_frame(head: Any, packed: bytes, plain: int, *, packed_head: bytes | None = None) -> bytes:
    """A frame with right checksums around whatever is put in."""
    body_head = msgpack.packb(head) if packed_head is None else packed_head
    body = body_head + packed
    prefix = struct.pack("<8sIIII", MARK, len(body_head), len(packed), plain, zlib.crc32(body))
    return prefix + struct.pack("<I", zlib.crc32(prefix)) + body


def head(**changes: Any) -> dict[str, Any]:
    fields = {"first": 1, "count": 1, "origin": "x", "books": {}, "previous": ANCHOR, "stamp": 0}
    return {key: value for key, value in (fields | changes).items() if value is not ...}


def only_error(data: bytes) -> DamageError:
    """The one error that this frame makes, in the decoder or when it is unpacked."""
    found, _, errors = decode(data)
    if errors:
        assert not found
        return errors[0]
    assert len(found) == 1
    with pytest.raises(DamageError) as caught:
        found[0].unpack()
    return caught.value


# The segment header.

HEADER = SegmentHeader(bytes(range(16)), bytes(range(16, 32)), 1_700_000_000_000_000_000, 42, b"h" * 32, b"host@site")


def test_header_round_trip() -> None:
    data = HEADER.encode()
    assert len(data) == HEADER_BYTES
    assert data.startswith(HEADER_MAGIC)
    assert SegmentHeader.decode(data + b"frames follow") == HEADER
    assert HEADER.mark == HEADER.segment[:8]


@given(created=st.integers(0, MAX_NUMBER), first=st.integers(0, MAX_NUMBER), identity=st.binary(max_size=255))
def test_header_any_values(created: int, first: int, identity: bytes) -> None:
    header = attrs.evolve(HEADER, created=created, first=first, identity=identity)
    assert SegmentHeader.decode(header.encode()) == header


def test_header_every_flipped_bit_is_seen() -> None:
    data = HEADER.encode()
    for bit in range(len(data) * 8):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError) as caught:
            SegmentHeader.decode(bytes(spoiled))
        # Damage must not pass for a later version, which is refused and not set aside.
        assert not isinstance(caught.value, VersionError)


def test_header_later_version_is_named() -> None:
    fixed = bytearray(HEADER.encode()[:380])
    struct.pack_into("<H", fixed, 8, 2)
    with pytest.raises(VersionError, match="format version 2, this program reads version 1"):
        SegmentHeader.decode((bytes(fixed) + struct.pack("<I", zlib.crc32(fixed))).ljust(HEADER_BYTES, b"\0"))


@pytest.mark.parametrize("offset", [10, 12, 355, 360, 379])
def test_header_reserved_fields_stay_zero(offset: int) -> None:
    fixed = bytearray(HEADER.encode()[:380])
    fixed[offset] ^= 0xFF
    with pytest.raises(StoreError, match="keeps zero"):
        SegmentHeader.decode((bytes(fixed) + struct.pack("<I", zlib.crc32(fixed))).ljust(HEADER_BYTES, b"\0"))


@pytest.mark.parametrize("offset", [48, 56])
def test_header_numbers_out_of_range(offset: int) -> None:
    fixed = bytearray(HEADER.encode()[:380])
    fixed[offset + 7] = 0x80
    with pytest.raises(StoreError, match="out of range"):
        SegmentHeader.decode((bytes(fixed) + struct.pack("<I", zlib.crc32(fixed))).ljust(HEADER_BYTES, b"\0"))


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1])
def test_header_cut_short(size: int) -> None:
    with pytest.raises(StoreError, match=f"header of {size} bytes"):
        SegmentHeader.decode(HEADER.encode()[:size])


def test_header_of_something_else() -> None:
    with pytest.raises(StoreError, match="no segment"):
        SegmentHeader.decode(b"type=SYSCALL msg=audit(1.0:1): \n" * 20)


@pytest.mark.parametrize(
    "changes",
    [
        {"spool": b"short"},
        {"segment": b""},
        {"previous": b"x"},
        {"identity": b"x" * 256},
        {"created": -1},
        {"first": 1 << 63},
    ],
)
def test_header_refuses_to_encode(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"header|identity"):
        attrs.evolve(HEADER, **changes).encode()


# Frames.


def test_frame_round_trip() -> None:
    encoded, digest = encode_frame(frame(), MARK)
    found, decoder, errors = decode(encoded)
    assert not errors
    assert found[0].unpack() == frame()
    assert (found[0].offset, found[0].size, found[0].digest) == (HEADER_BYTES, len(encoded), digest)
    assert digest == hashlib.sha256(encoded[PREFIX_BYTES:]).digest()
    assert decoder.good == decoder.fed == HEADER_BYTES + len(encoded)


LINES = st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"?") + b"\n"), max_size=30)


@given(
    lines=LINES,
    first=st.integers(0, MAX_NUMBER - 30),
    origin=st.text(st.characters(codec="utf-8"), max_size=20),
    books=st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-(2**63), 2**63), st.text(), st.booleans())),
    step=st.integers(1, 400),
)
def test_frame_any_content_in_any_pieces(
    lines: list[bytes], first: int, origin: str, books: dict[str, Any], step: int
) -> None:
    put = Frame(first, len(lines), origin, books, bytes(32), 7, b"".join(lines))
    encoded, _ = encode_frame(put, MARK)
    decoder = FrameDecoder(MARK)
    found: list[Frame] = []
    for start in range(0, len(encoded), step):
        assert not found
        decoder.feed(encoded[start : start + step])
        packed = decoder.next()
        if packed is not None:
            found.append(packed.unpack())
    assert found == [put]


def test_largest_frame_of_incompressible_records() -> None:
    noise = hashlib.shake_256(b"seed").digest(MAX_FRAME_PLAIN - 1).replace(b"\n", b"\r") + b"\n"
    encoded, _ = encode_frame(Frame(1, 1, "x", {}, ANCHOR, 0, noise), MARK)
    assert len(encoded) <= MAX_FRAME
    found, _, _ = decode(encoded)
    assert found[0].unpack().data == noise


def test_a_frame_may_carry_books_alone() -> None:
    found, _, _ = decode(encode_frame(frame(lines=0), MARK)[0])
    assert found[0].unpack() == frame(lines=0)
    assert found[0].head.end == 1


def test_unknown_keys_are_ignored() -> None:
    packed = zstandard.ZstdCompressor().compress(b"a\n")
    found, _, _ = decode(raw_frame(head(later={"key": [1]}), packed, 2))
    assert found[0].unpack().data == b"a\n"


def test_torn_at_every_byte_of_the_last_frame() -> None:
    *whole, last = chain(3)
    before = b"".join(whole)
    for cut in range(len(last)):
        found, decoder, errors = decode(before + last[:cut])
        assert not errors
        assert [packed.head.first for packed in found] == [1, 4]
        assert decoder.good == HEADER_BYTES + len(before)
        assert decoder.fed == HEADER_BYTES + len(before) + cut


@pytest.mark.parametrize("zeros", [1, 27, 28, 4096])
def test_a_tail_of_zeros_is_beyond_the_cut_point(zeros: int) -> None:
    # What a power loss leaves where the file's size reached the disk and its pages did not.
    data = b"".join(chain(2))
    found, decoder, _ = decode(data + bytes(zeros))
    assert len(found) == 2
    assert decoder.good == HEADER_BYTES + len(data)


@given(bit=st.integers(0, 10**9), which=st.integers(0, 2))
def test_a_flipped_bit_costs_its_frame_and_no_other(bit: int, which: int) -> None:
    frames = chain(3)
    bit %= len(frames[which]) * 8
    spoiled = bytearray(frames[which])
    spoiled[bit // 8] ^= 1 << bit % 8
    found, _, errors = decode(b"".join([*frames[:which], spoiled, *frames[which + 1 :]]))
    assert [error.offset for error in errors] == [HEADER_BYTES + sum(map(len, frames[:which]))]
    assert str(errors[0].offset) in str(errors[0])
    assert [packed.unpack() for packed in found] == [
        packed.unpack() for number, packed in enumerate(decode(b"".join(frames))[0]) if number != which
    ]


@given(garbage=st.binary(min_size=PREFIX_BYTES, max_size=300), step=st.integers(1, 50))
def test_the_next_frame_is_found_behind_garbage_fed_in_pieces(garbage: bytes, step: int) -> None:
    one, two = chain(2)
    data = one + garbage + two
    decoder = FrameDecoder(MARK)
    found, errors = [], []
    for start in range(0, len(data), step):
        decoder.feed(data[start : start + step])
        while True:
            try:
                packed = decoder.next()
            except DamageError as error:
                errors.append(error.offset)
                continue
            if packed is None:
                break
            found.append(packed)
    assert [packed.head.first for packed in found] == [1, 4]
    assert errors == [HEADER_BYTES + len(one)]
    assert found[1].offset == HEADER_BYTES + len(one) + len(garbage)


def test_a_mark_at_the_end_of_the_garbage_does_not_hide_the_frame() -> None:
    one, two = chain(2)
    found, _, errors = decode(one + bytes(40) + MARK + b"xx" + MARK[:5] + two)
    assert [packed.head.first for packed in found] == [1, 4]
    assert len(errors) == 1


def test_text_in_a_record_cannot_pass_for_a_frame() -> None:
    # Somebody logs what would be a frame under any other mark; the frame around it is then damaged in its prefix.
    forged, _ = encode_frame(Frame(7, 1, "x", {}, ANCHOR, 0, b"type=LOGIN forged\n"), b"guessed!")
    outer, previous = encode_frame(Frame(1, 1, "x", {}, ANCHOR, 0, forged.replace(b"\n", b"") + b"\n"), MARK)
    after, _ = encode_frame(frame(2, 1, previous), MARK)
    spoiled = bytearray(outer)
    spoiled[9] ^= 4
    found, _, errors = decode(bytes(spoiled) + after)
    assert [packed.head.first for packed in found] == [2]
    assert len(errors) == 1


def test_frames_of_another_segment_are_refused() -> None:
    encoded, _ = encode_frame(frame(), b"another.")
    found, _, errors = decode(encoded)
    assert not found
    assert [error.offset for error in errors] == [HEADER_BYTES]


# What a hostile or mad writer could have put in, with right checksums.


@pytest.mark.parametrize(
    ("head_size", "packed_size", "plain"),
    [
        (MAX_FRAME_HEAD + 1, 10, 10),
        (10, MAX_FRAME_PACKED + 1, 10),
        (10, 10, MAX_FRAME_PLAIN + 1),
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
    ],
)
def test_lengths_beyond_the_limits_are_refused_at_once(head_size: int, packed_size: int, plain: int) -> None:
    prefix = struct.pack("<8sIIII", MARK, head_size, packed_size, plain, 0)
    decoder = FrameDecoder(MARK)
    decoder.feed(prefix + struct.pack("<I", zlib.crc32(prefix)))
    with pytest.raises(DamageError, match="prefix"):
        decoder.next()


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


BOMB = zstd(bytes(64 << 20))


@pytest.mark.parametrize(
    ("packed", "plain", "message"),
    [
        (BOMB, MAX_FRAME_PLAIN, "zstd header says otherwise"),
        (zstd(b"a\n"), 3, "zstd header says otherwise"),
        (zstd(b"a\n", write_content_size=False), 2, "zstd header says otherwise"),
        (zstd(b"a\n") + b"x", 2, "does not decompress"),
        (zstd(b"a\n") + zstd(b"b\n"), 2, "does not decompress"),
        (zstd(b"a\n")[:-1], 2, "does not decompress"),
        (struct.pack("<II", 0x184D2A50, 4) + b"skip" + zstd(b"a\n"), 2, "otherwise|does not decompress"),
        (b"a\n", 2, "does not decompress"),
        (b"", 2, "does not decompress"),
        (zstd(b"a\nb\n"), 4, "says 1 records and holds 2"),
        (zstd(b"a\nb"), 3, "says 1 records and holds 1"),
        (zstd(b"ab"), 2, "says 1 records and holds 0"),
        (zstd(b""), 0, "says 1 records in 0 bytes"),
    ],
)
def test_compressed_part_that_lies(packed: bytes, plain: int, message: str) -> None:
    error = only_error(raw_frame(head(), packed, plain))
    assert error.offset == HEADER_BYTES
    with pytest.raises(DamageError, match=message):
        raise error


def test_bomb_behind_a_lying_content_size() -> None:
    # The zstd header claims two bytes; its blocks hold 64 MiB.
    honest = bytearray(zstd(bytes(200), level=1))
    assert zstandard.frame_content_size(bytes(honest)) == 200
    # Single-segment frames of less than 256 bytes state their size in the sixth byte (RFC 8878 section 3.1.1.1).
    assert honest[5] == 200
    honest[5] = 2
    error = only_error(raw_frame(head(), bytes(honest), 2))
    assert "does not decompress" in str(error)


def test_records_in_a_frame_that_says_none() -> None:
    assert "says 0 records" in str(only_error(raw_frame(head(count=0), zstd(b"a\n"), 2)))
    assert "holds compressed bytes" in str(only_error(raw_frame(head(count=0), zstd(b""), 0)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "no map"),
        (7, "no map"),
        (None, "no map"),
        (head(first=...), "first is missing"),
        (head(first=True), "first is missing or no int"),
        (head(first=1.0), "first is missing or no int"),
        (head(first=-1), "out of range"),
        (head(first=MAX_NUMBER), "out of range"),
        (head(count=2**63), "out of range"),
        (head(count=-1), "out of range"),
        (head(stamp=-1), "out of range"),
        (head(stamp=...), "stamp is missing"),
        (head(origin=b"x"), "origin is missing or no str"),
        (head(books=[]), "books is missing or no map"),
        (head(previous=b"short"), "previous is not 32 bytes"),
        (head(previous="s" * 32), "previous is missing or no bytes"),
        (head(books={"rate": 1.5}), "a value of type float"),
        (head(later=1.5), "a value of type float"),
        (head(books={"a": {"b": {"c": {"d": {}}}}}), "nested more than 4 deep"),
        (head(books={"a": [[[[1]]]]}), "nested more than 4 deep"),
        (head(books={1: 2}), "not the msgpack expected"),
        (head(books={"t": msgpack.Timestamp(1, 2)}), "not the msgpack expected"),
        (head(books={"e": msgpack.ExtType(5, b"x")}), "not the msgpack expected"),
    ],
)
def test_head_that_is_not_right(fields: Any, message: str) -> None:
    assert message in str(only_error(raw_frame(fields, zstd(b"a\n"), 2)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(head()) + b"\0",
        msgpack.packb(head())[:-1],
        b"\x91" * 5000,
        b"\x81\xa1a" * 5000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81\xa1\xff\x01",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x91\x01\x01",
    ],
)
def test_head_that_is_no_msgpack(data: bytes) -> None:
    assert "not the msgpack expected" in str(only_error(raw_frame(None, zstd(b"a\n"), 2, packed_head=data)))


@given(st.binary(max_size=400))
def test_any_header_bytes_give_a_frame_or_damage(data: bytes) -> None:
    found, _, errors = decode(raw_frame(None, zstd(b"a\n"), 2, packed_head=data))
    assert len(found) + len(errors) == 1


@given(st.binary(max_size=2000))
def test_any_bytes_give_damage_or_nothing(data: bytes) -> None:
    found, decoder, _ = decode(data)
    assert not found
    assert decoder.good == HEADER_BYTES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 2}, "2 records with 3 line ends"),
        ({"count": 1, "data": b"no end"}, "1 records with 0"),
        ({"count": 1, "data": b"one\ntorn"}, "1 records with 1"),
        ({"count": 1, "data": bytes(MAX_FRAME_PLAIN) + b"\n"}, "a frame takes"),
        ({"previous": b""}, "hash"),
        ({"first": -1}, "out of range"),
        ({"books": {"x": 0.5}}, "type float"),
        ({"books": {"x": "y" * MAX_SENDER_HEAD}}, "at most 63488"),
        ({"books": {3: 4}}, "no string"),
    ],
)
def test_encode_refuses_what_decode_would(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_frame(frame(**changes), MARK)


def test_encode_refuses_a_short_mark() -> None:
    with pytest.raises(ValueError, match="mark"):
        encode_frame(frame(), b"short")
