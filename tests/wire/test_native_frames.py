"""Frames of the native protocol, the strict maps in them, and what the control frames say."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import (
    ANCHOR,
    MAX_FRAME,
    MAX_FRAME_PACKED,
    MAX_FRAME_PLAIN,
    MAX_NUMBER,
    MAX_SENDER_HEAD,
    PREFIX_BYTES,
    DamageError,
    Frame,
    FrameDecoder,
    encode_frame,
)
from audisp.wire.native_frames import (
    DATA_MARK,
    GAP_KEY,
    MAX_REASON,
    MAX_WEIGHT,
    SIGNATURE,
    Breach,
    DataFrame,
    FrameReader,
    FrameType,
    Gap,
    Position,
    Prefix,
    Reason,
    control_frame,
    gap_frame,
    position_after,
    wire_mark,
)
from audisp.wire.native_map import MAX_CONTROL, MAX_KEY, MAX_KEYS, MAX_VALUE, MapError, read_map, write_map
from audisp.wire.native_messages import (
    MAX_IDLE,
    MAX_RETRY,
    MAX_TEXT,
    MAX_WINDOW,
    MESSAGES,
    MIN_IDLE,
    Ack,
    Bye,
    Hello,
    Message,
    Ping,
    Refused,
    Troubled,
    Welcome,
)
from audisp.wire.peer import Trouble
from tests.wire.streams import SPOOL, STAMP, chain, frame, lines

HASH: Final = bytes(range(32))


def prefix(kind: int, head: int, packed: int = 0, plain: int = 0, crc: int = 0) -> bytes:
    fixed = struct.pack("<8sIIII", wire_mark(kind), head, packed, plain, crc)
    return fixed + struct.pack("<I", zlib.crc32(fixed))


# Maps.

DEEP: Final = b"\x81\xa1a" * 1_500 + b"\x80"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not the msgpack"),
        (b"\x81", "not the msgpack"),
        (b"\x80\x80", "not the msgpack"),
        (b"\xc1", "not the msgpack"),
        (b"\x90", "no map"),
        (b"\xc0", "no map"),
        (b"\x07", "no map"),
        (b"\x82\xa1a\x01\xa1a\x02", "a key stands twice"),
        (b"\x81\x01\x01", "not the msgpack"),
        (b"\x81\xc4\x01a\x01", "a key that is no string"),
        (b"\x81\xa1a\xcb" + bytes(8), "'a' is of a type"),
        (b"\x81\xa1a\x80", "'a' is of a type"),
        (b"\x81\xa1a\x91\x90", "'a' is of a type"),
        (b"\x81\xa1a\x91\x80", "'a' is of a type"),
        (b"\x81\xa1a\xd4\x01\x00", "not the msgpack"),
        (b"\x81\xa1a\xc7\x00\x01", "'a' is of a type"),
        (b"\x81\xa1a\xd7\xff" + bytes(8), "not the msgpack"),
        (b"\x81\xa1a\xa1\xff", "not the msgpack"),
        (b"\x81\xd9\xff" + b"k" * 255 + b"\x01", "at most 32 characters"),
        (b"\x81\xa1a\xda\x04\x01" + b"v" * 1025, "not the msgpack"),
        (b"\x81\xa1a\xc5\x04\x01" + b"v" * 1025, "not the msgpack"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not the msgpack"),
        (b"\xdf\xff\xff\xff\xff", "not the msgpack"),
        (msgpack.packb({str(n): n for n in range(MAX_KEYS + 1)}), "not the msgpack"),
        (msgpack.packb({"a": list(range(MAX_KEYS + 1))}), "not the msgpack"),
        (bytes(MAX_CONTROL + 1), "4097 bytes"),
        (DEEP[:MAX_CONTROL], "not the msgpack"),
    ],
)
def test_maps_that_are_refused(data: bytes, error: str) -> None:
    with pytest.raises(MapError, match=error):
        read_map(data)


VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.booleans(), st.text(max_size=200), st.binary(max_size=MAX_VALUE)
)


@given(st.dictionaries(st.text(max_size=MAX_KEY), st.one_of(VALUES, st.lists(VALUES, max_size=3)), max_size=5))
def test_maps_come_out_as_they_went_in(fields: dict[str, Any]) -> None:
    try:
        data = write_map(fields)
    except MapError:
        assert len(msgpack.packb(fields)) > MAX_CONTROL or max(map(len, map(str, fields.values()))) > MAX_VALUE // 4
        return
    assert read_map(data) == fields


def test_nothing_is_left_out() -> None:
    assert write_map({"a": None, "b": 1}) == b"\x81\xa1b\x01"


# Frames.


def test_a_control_frame_in_any_pieces() -> None:
    data = Ping(7).encode()
    for step in (1, 5, len(data)):
        reader = FrameReader()
        found = []
        for at in range(0, 2 * len(data), step):
            reader.feed((data + data)[at : at + step])
            while (head := reader.prefix()) is not None and (raw := reader.cut(head)) is not None:
                assert head.kind == FrameType.PING
                found.append(raw)
        assert found == [data, data]
        assert reader.buffered == 0


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\n", b"\x89PNG", b"\x89audseg\n", SIGNATURE[:-1] + b"\r"])
def test_another_protocol_is_known_by_its_first_bytes(start: bytes) -> None:
    reader = FrameReader()
    reader.feed(start)
    with pytest.raises(Breach, match="it begins with") as caught:
        reader.prefix()
    assert (caught.value.reason, caught.value.silent) == (Reason.FRAME, True)


def test_every_flipped_bit_of_a_control_frame_is_seen() -> None:
    data = Ack(Position(5, HASH)).encode()
    for bit in range(len(data) * 8):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        reader = FrameReader()
        reader.feed(bytes(spoiled))
        with pytest.raises(Breach) as caught:
            _ = (head := reader.prefix()) and reader.cut(head)
        assert caught.value.reason is Reason.FRAME


@pytest.mark.parametrize(
    ("kind", "sizes", "fits"),
    [
        (FrameType.DATA, (MAX_SENDER_HEAD, MAX_FRAME_PACKED, MAX_FRAME_PLAIN), True),
        (FrameType.DATA, (MAX_SENDER_HEAD + 1, 0, 0), False),
        (FrameType.DATA, (1, MAX_FRAME_PACKED + 1, 1), False),
        (FrameType.DATA, (1, 1, MAX_FRAME_PLAIN + 1), False),
        (FrameType.HELLO, (MAX_CONTROL, 0, 0), True),
        (FrameType.HELLO, (MAX_CONTROL + 1, 0, 0), False),
        (FrameType.HELLO, (1, 1, 0), False),
        (FrameType.HELLO, (1, 0, 1), False),
        (4711, (0xFFFFFFFF, 0, 0), False),
        (4711, (MAX_CONTROL, 0, 0), True),
    ],
)
def test_lengths_are_judged_by_the_prefix(kind: int, sizes: tuple[int, int, int], fits: bool) -> None:
    reader = FrameReader()
    reader.feed(prefix(kind, *sizes))
    if fits:
        head = reader.prefix()
        assert head == Prefix(kind, *sizes, 0)
        assert head.size == PREFIX_BYTES + sizes[0] + sizes[1]
        assert reader.cut(head) is None
    else:
        with pytest.raises(Breach) as caught:
            reader.prefix()
        assert caught.value.reason is Reason.LIMITS


def test_closed_in_the_middle() -> None:
    reader = FrameReader()
    reader.close()
    assert reader.whole
    reader.feed(b"\x89")
    reader.close()
    assert not reader.whole


# Data frames.


def test_a_frame_of_a_segment_is_a_frame_of_the_wire() -> None:
    raw, digest = encode_frame(Frame(5, 2, "netlink", {"a": 1}, HASH, STAMP, lines(5, 2)), b"segment1")
    found = DataFrame.read(raw)
    assert (found.first, found.count, found.after, found.gap) == (5, 2, Position(7, digest), None)
    assert found.unpack() == lines(5, 2)
    assert found.plain == len(lines(5, 2))
    assert found.weight == len(raw) + found.plain
    assert raw == raw[:PREFIX_BYTES] + found.header + found.packed
    assert msgpack.unpackb(found.header)["first"] == 5
    # Under another mark it is another frame of another segment, and the very same one in the chain.
    other = found.under(b"segment2")
    assert other == encode_frame(Frame(5, 2, "netlink", {"a": 1}, HASH, STAMP, lines(5, 2)), b"segment2")[0]
    assert DataFrame.read(other).digest == digest
    assert found.under(b"segment1") is raw
    decoder = FrameDecoder(DATA_MARK, 0)
    decoder.feed(found.under(DATA_MARK))
    packed = decoder.next()
    assert packed is not None
    assert packed.unpack().data == lines(5, 2)
    assert position_after(packed) == found.after
    assert DataFrame.of(packed, raw).after == found.after


def test_the_heaviest_frame() -> None:
    # Nothing that a segment's frame may be is too heavy for the smallest window.
    noise = bytes(range(256)).replace(b"\n", b"") * 5_000
    full = DataFrame.make(Frame(1, 1, "x", {}, ANCHOR, 0, noise[: MAX_FRAME_PLAIN - 1] + b"\n"))
    assert full.weight <= MAX_WEIGHT == MAX_FRAME + MAX_FRAME_PLAIN


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"", lambda raw: raw * 2])
def test_what_is_not_one_frame(change: Any) -> None:
    with pytest.raises(DamageError):
        DataFrame.read(change(frame().raw))


def test_a_gap() -> None:
    made = gap_frame(Position(5, HASH), 9, "dropped", bytes(32), STAMP)
    assert made.gap == Gap(5, 4, "dropped", bytes(32))
    assert (made.first, made.count, made.plain, made.packed) == (5, 0, 0, b"")
    assert made.head.previous == HASH
    assert made.after == Position(9, bytes(32))
    assert made.unpack() == b""
    assert DataFrame.read(made.under(b"segment1")).gap == made.gap


@pytest.mark.parametrize(
    "wrong",
    [
        {"until": 5},
        {"until": 4},
        {"reason": ""},
        {"reason": "x" * (MAX_REASON + 1)},
        {"last": b"short"},
        {"until": MAX_NUMBER + 2},
        {"stamp": -1},
    ],
)
def test_a_gap_that_is_none(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "at": Position(5, HASH),
        "until": 9,
        "reason": "dropped",
        "last": ANCHOR,
        "stamp": STAMP,
    } | wrong
    with pytest.raises(ValueError, match=r"gap|range"):
        gap_frame(**given)


@pytest.mark.parametrize(
    "said",
    [
        7,
        {},
        {"count": 0, "reason": "x", "last": ANCHOR},
        {"count": True, "reason": "x", "last": ANCHOR},
        {"count": MAX_NUMBER - 4, "reason": "x", "last": ANCHOR},
        {"count": 1, "reason": b"x", "last": ANCHOR},
        {"count": 1, "reason": "x", "last": "x" * 32},
    ],
)
def test_nonsense_of_a_gap_is_damage(said: Any) -> None:
    raw, _ = encode_frame(Frame(5, 0, "", {GAP_KEY: said}, ANCHOR, STAMP, b""), DATA_MARK)
    with pytest.raises(DamageError, match="gap"):
        DataFrame.read(raw)


def test_books_with_records_may_have_any_name() -> None:
    # A plugin may be called gap; only a frame without records states one.
    assert frame(gap=7).gap is None
    assert frame(1, 0, other=7).gap is None
    assert frame(1, 0, other=7).after.next == 1


# Messages.

ROUND_TRIPS: Final[list[Message]] = [
    Hello(SPOOL, 1, 100),
    Hello(SPOOL, 0, MAX_NUMBER, MAX_IDLE, "audisp 0.2", (1, 2)),
    Welcome(SPOOL, None),
    Welcome(SPOOL, Position(7, HASH), MAX_WEIGHT, 1, MIN_IDLE, "audisp 0.2"),
    Ack(Position(0, HASH)),
    Ack(Position(MAX_NUMBER, HASH)),
    *(Troubled(each, "text", 5) for each in Trouble if each is not Trouble.ERROR),
    Troubled(None),
    Troubled(Trouble.DISK_FULL, "x" * MAX_TEXT, MAX_RETRY),
    Ping(),
    Ping(5),
    Refused(Reason.HOLE, "records 1 to 2", 3),
    Refused("a later word"),
    Bye(),
]


def decoded(message: Message, **changes: Any) -> Message:
    """As the other end would have it, with keys changed; ... takes one out."""
    fields = read_map(message.encode()[PREFIX_BYTES:]) | changes
    return MESSAGES[message.TYPE].decode({key: value for key, value in fields.items() if value is not ...})


@pytest.mark.parametrize("message", ROUND_TRIPS, ids=str)
def test_messages_come_out_as_they_went_in(message: Message) -> None:
    assert decoded(message) == message
    assert decoded(message, later="key", another=[1, 2]) == message
    encoded = message.encode()
    assert encoded.startswith(wire_mark(message.TYPE))
    assert len(encoded) <= PREFIX_BYTES + MAX_CONTROL


@pytest.mark.parametrize(
    ("message", "changes", "reason"),
    [
        (Hello(SPOOL, 1, 2), {"versions": ...}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"versions": []}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"versions": 1}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"versions": [1, "2"]}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"versions": [True]}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"versions": [2, 3]}, Reason.VERSION),
        (Hello(SPOOL, 1, 2), {"spool": ...}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"spool": SPOOL[1:]}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"spool": "x" * 16}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"first": ...}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"first": -1}, Reason.LIMITS),
        (Hello(SPOOL, 1, 2), {"first": 3}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"first": True}, Reason.MESSAGE),
        (Hello(SPOOL, 1, 2), {"next": 2**63}, Reason.LIMITS),
        (Hello(SPOOL, 1, 2), {"idle": MIN_IDLE - 1}, Reason.LIMITS),
        (Hello(SPOOL, 1, 2), {"idle": MAX_IDLE + 1}, Reason.LIMITS),
        (Hello(SPOOL, 1, 2), {"idle": ...}, Reason.MESSAGE),
        (Welcome(SPOOL, None), {"version": 2}, Reason.VERSION),
        (Welcome(SPOOL, None), {"version": ...}, Reason.MESSAGE),
        (Welcome(SPOOL, None), {"spool": b""}, Reason.MESSAGE),
        (Welcome(SPOOL, None), {"next": 1}, Reason.MESSAGE),
        (Welcome(SPOOL, None), {"next": "1"}, Reason.MESSAGE),
        (Welcome(SPOOL, Position(1, HASH)), {"last": HASH[1:]}, Reason.MESSAGE),
        (Welcome(SPOOL, None), {"window": MAX_WEIGHT - 1}, Reason.LIMITS),
        (Welcome(SPOOL, None), {"window": MAX_WINDOW + 1}, Reason.LIMITS),
        (Welcome(SPOOL, None), {"frames": 0}, Reason.LIMITS),
        (Welcome(SPOOL, None), {"frame": MAX_FRAME - 1}, Reason.LIMITS),
        (Welcome(SPOOL, None), {"plain": MAX_FRAME_PLAIN - 1}, Reason.LIMITS),
        (Welcome(SPOOL, None), {"idle": 0}, Reason.LIMITS),
        (Ack(Position(1, HASH)), {"next": ...}, Reason.MESSAGE),
        (Ack(Position(1, HASH)), {"last": ...}, Reason.MESSAGE),
        (Troubled(None), {"kind": ...}, Reason.MESSAGE),
        (Troubled(None), {"kind": 1}, Reason.MESSAGE),
        (Ping(), {"next": "5"}, Reason.MESSAGE),
    ],
)
def test_messages_that_are_refused(message: Message, changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Breach) as caught:
        decoded(message, **changes)
    assert caught.value.reason is reason


def test_what_is_only_advice_is_left_out_where_it_is_no_use() -> None:
    assert decoded(Troubled(Trouble.ENDING, "text"), retry=-1, text=7) == Troubled(Trouble.ENDING)
    assert decoded(Refused("busy"), retry=MAX_RETRY + 1) == Refused("busy")
    assert decoded(Refused("busy"), retry=True, reason=7) == Refused("")
    assert decoded(Hello(SPOOL, 1, 2), software=b"x") == Hello(SPOOL, 1, 2)


def test_a_kind_of_trouble_that_we_have_no_word_for_is_a_warning() -> None:
    assert decoded(Troubled(None, "hot"), kind="disk\x1bwarm") == Troubled(Trouble.WARNING, "disk\\x1bwarm hot")
    assert decoded(Troubled(None), kind="error") == Troubled(Trouble.WARNING, "error ")


def test_a_peer_cannot_write_on_our_terminal() -> None:
    found = decoded(Refused("busy", "x"), text="\x1b[2J\u202e" + "w" * 500)
    assert isinstance(found, Refused)
    assert found.text.startswith("\\x1b[2J\\u202eww")
    assert len(found.text) == MAX_TEXT
    assert len(Refused("busy", "€" * 5_000).encode()) < PREFIX_BYTES + MAX_CONTROL


def test_every_class_has_a_type_of_its_own() -> None:
    assert set(MESSAGES) | {FrameType.DATA} == set(FrameType)
    assert all(attrs.has(each) for each in MESSAGES.values())


def test_chains_follow() -> None:
    one, two, three = chain(3, 1, 2)
    assert two.head.previous == one.digest
    assert three.after.next == 7
    assert control_frame(FrameType.BYE, b"\x80") == Bye().encode()
