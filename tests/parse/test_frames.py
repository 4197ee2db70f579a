"""The reader of auditd's binary protocol: dense, in fixed slots, and out of step."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.form import HEADER, MAX_PAYLOAD, binary_form
from audisp.parse.frames import HEADER_SIZE, MAX_SIZE, FrameReader, sniff
from audisp.parse.lines import LineReader
from audisp.parse.stream import DATA_KEPT, Reader
from tests.parse.streams import bytewise, cut, feed, line, places, records

SAMPLES = Path(__file__).parents[1] / "corpus"
MIXED = (SAMPLES / "mixed.log").read_bytes().splitlines(keepends=True)


def frame(payload: bytes, version: int = 0, type_: int = 1300, *, length: int = 16, size: int | None = None) -> bytes:
    return HEADER.pack(version, length, type_, len(payload) if size is None else size) + payload


def slots(lines: list[bytes], *, residue: bool = True) -> bytes:
    """As 3.0.9 sends: always 8,970 bytes after the header, which hold what earlier, longer records left there."""
    made, buffer = [], b""
    for text in lines:
        sent = binary_form(text)
        payload = sent[HEADER_SIZE:]
        buffer = payload + (b"\0" + buffer[len(payload) + 1 :] if residue else b"")
        buffer = buffer[:MAX_PAYLOAD].ljust(MAX_PAYLOAD, b"\0")
        made.append(sent[:HEADER_SIZE] + buffer)
    return b"".join(made)


@pytest.mark.parametrize(
    ("first", "form"),
    [
        (b"", None),
        (b"\0", "binary"),
        (b"\1\0\0", "binary"),
        (b"\2", "string"),
        (b"type=", "string"),
        (b"node", "string"),
    ],
)
def test_sniff(first: bytes, form: str | None) -> None:
    assert sniff(first) == form


def test_both_readers_are_readers() -> None:
    readers: list[Reader] = [LineReader(), FrameReader()]
    assert all(reader.take() == (b"", 0) for reader in readers)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(b"audit(1.100:5): a=1"), b"type=SYSCALL msg=audit(1.100:5): a=1\n"),
        (frame(b"audit(1.100:5): ", type_=1320), b"type=EOE msg=audit(1.100:5): \n"),
        (frame(b"audit(1.100:5): x", type_=1420), b"type=UNKNOWN[1420] msg=audit(1.100:5): x\n"),
        (frame(b"type=CWD msg=audit(1.100:5): x", 1, 1307), b"type=CWD msg=audit(1.100:5): x\n"),
        (frame(b"node=h type=CWD msg=audit(1.100:5): x", 1, 1307), b"node=h type=CWD msg=audit(1.100:5): x\n"),
        # af_unix fed with strings: version 1, type 0, the LF inside. Network: type -1 where it could not be read.
        (frame(b"type=CWD msg=audit(1.100:5): x\n", 1, 0), b"type=CWD msg=audit(1.100:5): x\n"),
        (frame(b"node=h type=CWD msg=audit(1.100:5): x", 1, 0xFFFFFFFF), b"node=h type=CWD msg=audit(1.100:5): x\n"),
        # What would break a line is taken as auditd takes it.
        (frame(b"audit(1.100:5): a\ntype=X b"), b"type=SYSCALL msg=audit(1.100:5): a type=X b\n"),
        (frame(b"audit(1.100:5): a\0b\nc"), b"type=SYSCALL msg=audit(1.100:5): a\n"),
        (frame(b"type=CWD msg=audit(1.100:5): a\nb\n", 1, 1307), b"type=CWD msg=audit(1.100:5): a b\n"),
        (frame(b"type=CWD msg=audit(1.100:5): a\x1dA=b\0", 1, 1307), b"type=CWD msg=audit(1.100:5): a\x1dA=b\n"),
        (frame(b"type=A msg=audit(1.100:5): ".ljust(8_970, b"x") + b"\0", 1, 1307), None),
        (frame(b"type=A msg=audit(1.100:5): ".ljust(MAX_SIZE, b"x"), 1, 0), None),
    ],
)
def test_one_frame(sent: bytes, expected: bytes | None) -> None:
    wanted = expected or sent[16:].rstrip(b"\0") + b"\n"
    reader = FrameReader()
    assert feed(reader, [sent * 2]) == (wanted * 2, 2, [])
    assert (reader.resyncs, reader.skipped) == (0, 0)


def test_a_record_is_out_as_soon_as_it_is_whole() -> None:
    for stream in (binary_form(MIXED[0]), slots(MIXED[:1])):
        reader = FrameReader()
        size = HEADER_SIZE + HEADER.unpack_from(stream)[3]
        reader.feed(stream[: size - 1])
        assert reader.take() == (b"", 0)
        reader.feed(stream[size - 1 : size])
        assert reader.take() == (MIXED[0], 1)


@given(st.lists(records, max_size=20), places)
def test_a_dense_stream(lines: list[bytes], where: list[int]) -> None:
    lines = [text.replace(b"USER_CMD", b"CWD") for text in lines]
    reader = FrameReader()
    assert feed(reader, cut(binary_form(b"".join(lines)), where)) == (b"".join(lines), len(lines), [])
    assert (reader.resyncs, reader.skipped) == (0, 0)


@pytest.mark.parametrize("residue", [True, False])
@pytest.mark.parametrize("count", [1, 2, 70])
def test_fixed_slots(count: int, residue: bool) -> None:
    stream = slots(MIXED[:count], residue=residue)
    for step in (len(stream), 65_536, 8_986, 4_000, 333):
        reader = FrameReader()
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert feed(reader, pieces) == (b"".join(MIXED[:count]), count, [])
        assert reader.resyncs == 0
        assert reader.skipped == len(stream) - reader.accepted_bytes


def test_what_debians_auditd_sent() -> None:
    stream = lzma.decompress((SAMPLES / "slots-3.0.9.bin.xz").read_bytes())
    assert len(stream) == 40 * 8_986
    for step in (len(stream), 8_970, 16, 1):
        reader = FrameReader()
        good, count, bad = feed(reader, [stream[at : at + step] for at in range(0, len(stream), step)])
        assert (count, bad, reader.resyncs) == (40, [], 0)
        assert good.startswith(b"type=DAEMON_ACCEPT msg=audit(")
        assert good.splitlines(keepends=True)[1:] == MIXED[:39]


def test_slots_are_found_once_and_stay_found() -> None:
    reader = FrameReader()
    seen: list[bool | None] = []
    for stream in (slots(MIXED[:1]), slots(MIXED[1:2]), slots(MIXED[2:50])):
        reader.feed(stream)
        seen.append(reader.slots)
    assert seen == [None, True, True]
    reader.close()
    reader.feed(binary_form(b"".join(MIXED)))
    assert reader.slots is False


def test_a_stream_of_slots_whose_first_record_fills_its_slot() -> None:
    full = line(1, b"SYSCALL", b"x" * (MAX_PAYLOAD - len(b"audit(1700000000.123:1): ")))
    assert len(binary_form(full)) == 8_986
    for lines in ([full, *MIXED], [full, full, *MIXED], [*MIXED, full, *MIXED]):
        assert feed(FrameReader(), [slots(lines)])[0] == b"".join(lines)
        assert feed(FrameReader(), [binary_form(b"".join(lines))])[0] == b"".join(lines)


def test_lost_headers() -> None:
    # What 4.2.2's af_unix sends: the header is thrown away, the payload follows the one before.
    lost = {3, 10, 40, 68}
    stream = b"".join(binary_form(text)[16 if at in lost else 0 :] for at, text in enumerate(MIXED))
    expected = b"".join(text for at, text in enumerate(MIXED) if at not in lost)
    for step in (len(stream), 1000, 17):
        reader = FrameReader()
        good, count, bad = feed(reader, [stream[at : at + step] for at in range(0, len(stream), step)])
        assert (good, count) == (expected, 66)
        assert [entry.kind for entry in bad] == ["torn"] * 4
        assert [entry.data for entry in bad] == [binary_form(MIXED[at])[16:] for at in sorted(lost)]
        assert reader.resyncs == 4


def test_lost_pieces_cost_only_the_records_they_are_of() -> None:
    chance = random.Random(7)
    for _ in range(200):
        frames = [binary_form(text) for text in MIXED]
        hurt = chance.randrange(1, 60)  # what swallows the last frames waits for more
        begin = chance.randrange(len(frames[hurt]))
        end = chance.randrange(begin, len(frames[hurt])) + 1
        frames[hurt] = frames[hurt][:begin] + frames[hurt][end:]
        reader = FrameReader()
        good, _, bad = feed(reader, [b"".join(frames)])
        left = good.splitlines(keepends=True)
        assert len(bad) == reader.resyncs == 1
        assert [text for text in MIXED if text in left] == left
        assert len(left) == 69


def test_a_piece_lost_from_slots() -> None:
    stream = slots(MIXED)
    for gap in ((20_000, 20_100), (0, 5), (17_972, 17_980)):
        reader = FrameReader()
        good, count, _ = feed(reader, [stream[: gap[0]] + stream[gap[1] :]])
        assert count >= 68
        assert reader.resyncs == 1
        assert good.endswith(b"".join(MIXED[10:]))


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\0" * 100,
        b"audit(1.1:1): a record without its header",
        b"\x10\0\0\0" * 30,
        frame(b"audit(1.1:1): x", version=2),
        frame(b"audit(1.1:1): x", length=15),
        frame(b"audit(1.1:1): x", type_=999),
        frame(b"audit(1.1:1): x", type_=0x10000),
        frame(b"audit(1.1:1): x", size=0),
        frame(b"audit(1.1:1): x", size=0xFFFFFFFF),
        frame(b"audit(1.1:1): x", size=MAX_SIZE + 1),
        frame(b"type=X msg=audit(1.1:1): x"),
        frame(b"audit(1.1:1): x", version=1),
        frame(b"something else altogether"),
        b"x" * 9_000,
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_no_frame_is_passed_over(rubbish: bytes, known: bool) -> None:
    before = MIXED[:3] if known else []
    for step in (1 << 20, 100):
        reader = FrameReader()
        stream = binary_form(b"".join(before)) + rubbish + binary_form(b"".join(MIXED[3:]))
        good, _, bad = feed(reader, [stream[at : at + step] for at in range(0, len(stream), step)])
        assert good == b"".join(before + MIXED[3:])
        assert [entry.data for entry in bad] == [rubbish[:DATA_KEPT]]
        assert reader.resyncs == 1
        assert reader.rejected_bytes == len(rubbish)


def test_a_frame_that_holds_no_record_is_rejected_in_step() -> None:
    reader = FrameReader()
    rubbish = frame(b"type=X no stamp here", 1, 0) + frame(b"audit(nonsense): x")
    good, _, bad = feed(reader, [binary_form(MIXED[0]) + rubbish + binary_form(MIXED[1])])
    assert good == MIXED[0] + MIXED[1]
    assert [(entry.kind, entry.data) for entry in bad] == [
        ("garbage", b"type=X no stamp here"),
        ("garbage", b"audit(nonsense): x"),
    ]
    assert reader.resyncs == 0
    small = FrameReader(max_record=60)
    good, _, bad = feed(small, [binary_form(line(1) + line(2, text=b"x" * 60) + line(3))])
    assert (good, [entry.kind for entry in bad]) == (line(1) + line(3), ["oversized"])


def test_a_user_cannot_forge_a_frame() -> None:
    # The kernel ends a user's text at its first NUL, and a header has twelve.
    forged = frame(b"audit(1.100:6): acct=root", type_=1112).replace(b"\0", b" ")
    text = line(1, b"USER", b"msg='" + forged + b"'")
    lost_header = binary_form(text)[16:] + binary_form(MIXED[0])
    good, count, _ = feed(FrameReader(), [binary_form(text) + lost_header])
    assert (good, count) == (text.replace(b"\n", b" ").removesuffix(b" ") + b"\n" + MIXED[0], 2)


def test_an_endless_stretch_is_dropped_as_it_comes_and_counted_once() -> None:
    reader = FrameReader()
    for _ in range(300):
        reader.feed(b"\0\x10\0\0\0abc" * 1000)
        assert reader.pending <= 16_000
    assert reader.rejected == 1
    assert len(reader.bad[0].data) == DATA_KEPT
    assert reader.take() == (b"", 0)
    reader.feed(binary_form(MIXED[0]))
    assert reader.take() == (MIXED[0], 1)
    assert (reader.rejected, reader.resyncs) == (1, 1)
    assert reader.rejected_bytes == 300 * 8000


@pytest.mark.parametrize("keep", [1, 15, 16, 20, 30, -1])
def test_a_frame_cut_short_at_the_end_is_torn(keep: int) -> None:
    last = binary_form(MIXED[1])[:keep]
    good, _, bad = feed(FrameReader(), [binary_form(MIXED[0]), last])
    assert good == MIXED[0]
    assert [entry.data for entry in bad] == [last]


pieces_of_streams = st.lists(
    st.one_of(
        records.map(binary_form),
        records.map(lambda text: binary_form(text)[16:]),
        st.tuples(records, st.integers(0, 200)).map(lambda made: binary_form(made[0])[: made[1]]),
        records.map(lambda text: binary_form(text).ljust(8_986, b"\0")),
        st.binary(max_size=40),
        st.sampled_from(
            [b"\x10\0\0\0", b"\0\0\0\0\x10\0\0\0", HEADER.pack(0, 16, 1300, 8970), b"audit(", b"\0" * 9000]
        ),
    ),
    max_size=8,
).map(b"".join)


@given(pieces_of_streams, places)
def test_cuts_change_nothing(data: bytes, where: list[int]) -> None:
    once, pieces = FrameReader(), FrameReader()
    expected = feed(once, [data])
    assert feed(pieces, cut(data, where)) == expected
    assert (pieces.skipped, pieces.rejected_bytes, pieces.resyncs) == (once.skipped, once.rejected_bytes, once.resyncs)


@given(pieces_of_streams.filter(lambda data: len(data) < 3_000))
def test_one_byte_at_a_time(data: bytes) -> None:
    assert feed(FrameReader(), bytewise(data)) == feed(FrameReader(), [data])


@given(st.lists(st.binary(max_size=500), max_size=5))
def test_anything(pieces: list[bytes]) -> None:
    good, count, _ = feed(FrameReader(), pieces)
    assert good.count(b"\n") == count
    assert feed(LineReader(), [good]) == (good, count, [])
