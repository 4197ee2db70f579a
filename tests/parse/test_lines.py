"""The reader of string form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.lines import LineReader
from audisp.parse.stream import DATA_KEPT
from audisp.record import MAX_RECORD, STAMP
from tests.needs import CORPUS, needs
from tests.parse.streams import bytewise, cut, feed, line, places, records

SAMPLES = Path(__file__).parents[1] / "corpus"

REJECTED: dict[bytes, str] = {
    b"type=SYSCALL msg=audit(): arch=1": "garbage",
    b"type=SYSCALL msg=audit(123): x=1": "garbage",
    b"type=SYSCALL msg=audit(1.1:1) x=1": "garbage",
    b"type=SYSCALL msg=audit(1.1234:1): x=1": "garbage",
    b"type=SYSCALL msg=audit(1.1:123456789012345678901): x": "garbage",
    b"type=SYSCALL msg=audit(1.1:-1): x": "garbage",
    b"type=SYSCALL  msg=audit(1.1:1): x": "garbage",
    b"type=SYS/CALL msg=audit(1.1:1): x": "garbage",
    b" type=SYSCALL msg=audit(1.1:1): x": "garbage",
    b"msg=audit(1.1:1): no type": "garbage",
    b"type= msg=audit(1.1:1): x=1": "garbage",
    b"node= type=X msg=audit(1.1:1): x": "garbage",
    b"node=a node=b type=X msg=audit(1.1:1): x": "garbage",
    b"   ": "garbage",
    b"#comment": "garbage",
    b"exe=/bin/x key=(null)": "garbage",
    b"\r": "garbage",
    b"type=X msg=audit(1.1:1): nul \0 inside": "garbage",
    b"<13>Oct 15 10:00:00 h audisp-syslog[3]: type=CWD msg=audit(1.1:1): cwd=": "garbage",
    b"type=SOCKADDR msg=audit(07/29/2025 09:52:29.237:1081) : saddr=": "garbage",
    b"t": "torn",
    b"type": "torn",
    b"node": "torn",
    b"node=host": "torn",
    b"node=host ": "torn",
    b"node=host type": "torn",
    b"type=": "torn",
    b"type=SYSC": "torn",
    b"type=SYSCALL ": "torn",
    b"type=SYSCALL msg=au": "torn",
    b"type=SYSCALL msg=audit(": "torn",
    b"type=SYSCALL msg=audit(17": "torn",
    b"type=SYSCALL msg=audit(17.": "torn",
    b"type=SYSCALL msg=audit(17.123": "torn",
    b"type=SYSCALL msg=audit(17.123:": "torn",
    b"type=SYSCALL msg=audit(17.123:44": "torn",
    b"type=SYSCALL msg=audit(17.123:44)": "torn",
    b"type=X msg=audit(1.1:1): " + b"x" * MAX_RECORD: "oversized",
    b"x" * MAX_RECORD: "oversized",
}


@pytest.mark.parametrize("text", REJECTED)
@pytest.mark.parametrize("pieces", [1, 1000])
def test_a_bad_line_is_rejected_and_harms_no_neighbour(text: bytes, pieces: int) -> None:
    data = line(1) + text + b"\n" + line(2) + line(3)
    step = max(1, len(data) // pieces)
    good, count, bad = feed(LineReader(), [data[at : at + step] for at in range(0, len(data), step)])
    assert (good, count) == (line(1) + line(2) + line(3), 3)
    assert [(entry.kind, entry.data) for entry in bad] == [(REJECTED[text], text[:DATA_KEPT])]


@pytest.mark.parametrize("place", ["first", "last", "alone"])
@pytest.mark.parametrize("text", list(REJECTED)[:4])
def test_a_bad_line_at_the_ends(text: bytes, place: str) -> None:
    before, after = {"first": (b"", line(1)), "last": (line(1), b""), "alone": (b"", b"")}[place]
    good, _, bad = feed(LineReader(), [before + text + b"\n" + after])
    assert good == before + after
    assert len(bad) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"type=PATH msg=audit(1.1:1): ",
        b"type=PATH msg=audit(1.1:1):",
        b"type=1400 msg=audit(1.001:1): x",
        b"type=UNKNOWN[1334] msg=audit(1.1:4294967295): x",
        b"node=a:b%c type=X msg=audit(1.1:1): x",
        b"type=X msg=audit(1.1:1): \xff\xfe\xc3 \x1b[2J \r",
        b"type=X msg=audit(1.1:1): text='type=USER_LOGIN msg=audit(2.2:2): acct=root'",
        b"type=X msg=audit(1.1:1): " + b"x" * (MAX_RECORD - 26),
    ],
)
def test_what_is_a_record_passes_unchanged(text: bytes) -> None:
    good, count, bad = feed(LineReader(), [text + b"\n"])
    assert (good, count, bad) == (text + b"\n", 1, [])
    assert STAMP.match(good)


def test_blank_lines_are_skipped() -> None:
    reader = LineReader()
    assert feed(reader, [b"\n\n" + line(1) + b"\n" + line(2) + b"\n"]) == (line(1) + line(2), 2, [])
    assert reader.skipped == 4


def test_the_last_line_without_its_end() -> None:
    reader = LineReader()
    assert feed(reader, [line(1) + line(2)[:-1]]) == (line(1) + line(2), 2, [])
    assert reader.unterminated == 1
    for tail, whole in ((line(2)[:-1], False), (line(2)[:20], True), (b"garbage", True), (b"type=X\0", True)):
        reader = LineReader()
        good, count, bad = feed(reader, [line(1) + tail], whole=whole)
        assert (good, count, reader.unterminated) == (line(1), 1, 0)
        assert [(entry.kind, entry.data) for entry in bad] == [("torn", tail)]


def test_after_its_end_a_reader_is_as_new() -> None:
    reader = LineReader(max_record=40)
    for tail in (b"type=X", b"x" * 100):
        reader.feed(tail)
        reader.close()
        reader.bad.clear()
        reader.feed(b"type=Y msg=audit(1.1:1): \n")
        assert reader.take() == (b"type=Y msg=audit(1.1:1): \n", 1)
        assert not reader.bad


def test_an_endless_line_is_dropped_as_it_comes_and_counted_once() -> None:
    reader = LineReader()
    fed = 0
    reader.feed(line(1))
    for _ in range(400):
        reader.feed(b"type=X " * 1000)
        fed += 7000
        assert reader.pending < MAX_RECORD
        assert reader.rejected_bytes + reader.pending == fed
    assert [entry.kind for entry in reader.bad] == ["oversized"]
    assert len(reader.bad[0].data) == DATA_KEPT
    reader.feed(b"\n" + line(2))
    assert reader.take() == (line(1) + line(2), 2)
    assert reader.rejected == 1
    assert reader.rejected_bytes == fed + 1


@given(st.lists(records, max_size=20), places)
def test_valid_records_pass_however_they_are_cut(lines: list[bytes], where: list[int]) -> None:
    data = b"".join(lines)
    reader = LineReader()
    assert feed(reader, cut(data, where)) == (data, len(lines), [])
    assert reader.skipped == reader.rejected_bytes == 0


dirty = st.lists(
    st.one_of(
        records,
        records.map(lambda text: text[:-1]),
        st.sampled_from([text + b"\n" for text in REJECTED if len(text) < 200]),
        st.sampled_from([b"\n", b"\0", b"x" * 200, b"type=", b"\xff\n"]),
        st.binary(max_size=30),
    ),
    max_size=15,
).map(b"".join)


@given(dirty, places, st.booleans())
def test_cuts_change_nothing(data: bytes, where: list[int], whole: bool) -> None:
    once, pieces, single = (LineReader(max_record=150) for _ in range(3))
    expected = feed(once, [data], whole=whole)
    assert feed(pieces, cut(data, where), whole=whole) == expected
    assert feed(single, bytewise(data), whole=whole) == expected
    assert (pieces.skipped, pieces.rejected_bytes) == (once.skipped, once.rejected_bytes)


@given(dirty)
def test_exactly_the_valid_lines_pass(data: bytes) -> None:
    lines = data.split(b"\n")
    tail = lines.pop()
    expected = [text for text in lines if len(text) < 150 and b"\0" not in text and valid(text)]
    good, count, _ = feed(LineReader(max_record=150), [data + (b"\n" if tail else b"")])
    if tail and len(tail) < 150 and b"\0" not in tail and valid(tail):
        expected.append(tail)
    assert good == b"".join(text + b"\n" for text in expected)
    assert count == len(expected)


def valid(text: bytes) -> bool:
    """A second opinion, without the reader's expression: whether a line starts as a record does."""
    if text.startswith(b"node="):
        node, _, text = text.partition(b" ")
        if len(node) == 5:
            return False
    head, colon, _ = text.partition(b"):")
    type_, _, stamp = head.partition(b" msg=audit(")
    name = type_.removeprefix(b"type=")
    if not colon or name == type_ or not name or name.translate(None, b"_[]").isalnum() is False:
        return False
    seconds, dot, rest = stamp.partition(b".")
    milliseconds, second_colon, serial = rest.partition(b":")
    parts = ((seconds, 20), (milliseconds, 3), (serial, 20))
    return bool(dot and second_colon) and all(part.isdigit() and len(part) <= most for part, most in parts)


def test_our_samples() -> None:
    mixed = (SAMPLES / "mixed.log").read_bytes()
    assert feed(LineReader(), bytewise(mixed)) == (mixed, 70, [])
    nasty = (SAMPLES / "nasty.log").read_bytes()
    good, count, bad = feed(LineReader(), [nasty])
    assert (count, len(bad)) == (30, 11)
    assert good.count(b"\n") == len(STAMP.findall(good)) == 30


@needs("corpus")
def test_every_line_of_the_nasty_corpus() -> None:
    data = (CORPUS / "nasty.log").read_bytes()
    bad_lines = {62, *range(111, 120), 121, 126, 127, 128}  # by hand, see nasty.expect.tsv
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        good, count, bad = feed(LineReader(), [text + b"\n"])
        assert (count == 0) == (number in bad_lines), number
        assert good == (b"" if number in bad_lines else text + b"\n")
        assert len(bad) == (number in bad_lines and text != b"")
    good, count, bad = feed(LineReader(), [data])
    assert (count, len(bad)) == (127, 13)
    assert feed(LineReader(), bytewise(data)) == (good, count, bad)
