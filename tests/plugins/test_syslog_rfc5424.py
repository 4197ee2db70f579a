"""`syslog` to a server: what the messages are, read back by a parser of the tests' own."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.plugin import ConfigError
from audisp_plugins.syslog_rfc5424 import (
    BOM,
    MAX_SD,
    MAX_SEQUENCE,
    MIN_MESSAGE,
    Rfc5424,
    element,
    escape_controls,
    escape_value,
    framed,
    structured,
)
from tests.plugins.booking import record
from tests.plugins.syslogs import joined, parsed, unframed

NOW = 1_700_000_001.5


def messages(limit: int = 8_192, hostname: bytes = b"web1", **more: object) -> Rfc5424:
    return Rfc5424(14, hostname, 77, limit, **more)  # type: ignore[arg-type]


def test_a_record() -> None:
    assert messages().of(record(4711), NOW) == [
        b"<14>1 2023-11-14T22:13:20.123Z web1 audisp 77 SYSCALL - "
        b"type=SYSCALL msg=audit(1700000000.123:4711): arch=c000003e"
    ]


@pytest.mark.parametrize(
    ("line", "time", "host", "msgid"),
    [
        (b"type=CWD msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"web1", b"CWD"),
        (b"node=db-2.example type=CWD msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"db-2.example", b"CWD"),
        (b"node=\xc3\xa4 type=CWD msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"-", b"CWD"),
        (b"node=" + b"n" * 256 + b" type=CWD msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"-", b"CWD"),
        (b"type=UNKNOWN[1420] msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"web1", b"UNKNOWN[1420]"),
        (b"type=\x1b[2J msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"web1", b"-"),
        (b"type=" + b"T" * 33 + b" msg=audit(1.5:2): x", b"1970-01-01T00:00:01.005Z", b"web1", b"-"),
        # Stamps that no calendar reaches.
        (b"type=CWD msg=audit(253402300799.999:2): x", b"9999-12-31T23:59:59.999Z", b"web1", b"CWD"),
        (b"type=CWD msg=audit(253402300800.000:2): x", b"-", b"web1", b"CWD"),
        (b"type=CWD msg=audit(99999999999999999999.000:2): x", b"-", b"web1", b"CWD"),
        # No records.
        (b'{"a":1}', b"2023-11-14T22:13:21.500Z", b"web1", b"JSON"),
        (b"CEF:0|audisp|", b"2023-11-14T22:13:21.500Z", b"web1", b"CEF"),
        (b"anything", b"2023-11-14T22:13:21.500Z", b"web1", b"-"),
        (b"x type=CWD msg=audit(1.5:2): x", b"2023-11-14T22:13:21.500Z", b"web1", b"-"),
        (b"", b"2023-11-14T22:13:21.500Z", b"web1", b"-"),
    ],
)
def test_header(line: bytes, time: bytes, host: bytes, msgid: bytes) -> None:
    (message,) = messages().of(line + b"\n", NOW)
    found = parsed(message)
    assert (found.pri, found.time, found.host, found.app, found.pid, found.msgid, found.data) == (
        14,
        time,
        host,
        b"audisp",
        b"77",
        msgid,
        b"-",
    )


def test_the_second_changes() -> None:
    made = messages()
    stamps = [b"1700000000.001", b"1700000000.002", b"99999999999999999999.1", b"1700000001.003", b"1700000000.004"]
    lines = [b"type=CWD msg=audit(%b:1): \n" % stamp for stamp in stamps]
    assert [parsed(made.of(line, NOW)[0]).time[-10:] for line in lines] == [
        b"13:20.001Z",
        b"13:20.002Z",
        b"-",
        b"13:21.003Z",
        b"13:20.004Z",
    ]


@pytest.mark.parametrize("hostname", [b"", b"a b", b"\xff", b"n" * 256])
def test_a_hostname_that_is_none(hostname: bytes) -> None:
    assert parsed(messages(hostname=hostname).of(record(1), NOW)[0]).host == b"-"


# What is in the text.


@pytest.mark.parametrize(
    ("text", "expected", "marked"),
    [
        (b"plain ~", b"plain ~", False),
        (b"a\x1dUID=0 b\x1dc", b"a UID=0 b#035c", False),
        (b"\x00\x07\t\x1b[2J\r\x7f", b"#000#007#011#033[2J#015#177", False),
        ("grüße €".encode(), "grüße €".encode(), True),
        (b"gr\xfc\xdfe", b"gr\xfc\xdfe", False),
        ("ü".encode() + b"\xff", "ü".encode() + b"\xff", False),
        (b"\xed\xa0\x80", b"\xed\xa0\x80", False),  # half of a surrogate pair is no UTF-8
        ("ü\x01".encode(), "ü#001".encode(), True),
        (BOM + b"x", BOM + b"x", True),  # a mark of the record's own is text
    ],
)
def test_text(text: bytes, expected: bytes, marked: bool) -> None:
    line = b"type=USER msg=audit(1.2:3): " + text
    (message,) = messages().of(line, NOW)
    found = parsed(message)
    assert found.text == b"type=USER msg=audit(1.2:3): " + expected
    assert found.marked is marked
    (message,) = messages(bom=False).of(line, NOW)
    assert message.endswith(b" - type=USER msg=audit(1.2:3): " + expected)


def test_in_a_line_that_is_no_record_nothing_is_a_separator() -> None:
    assert parsed(messages().of(b"{}\x1d{}", NOW)[0]).text == b"{}#035{}"


@given(st.binary())
def test_no_control_character_is_left(text: bytes) -> None:
    escaped = escape_controls(text)
    assert not re.search(rb"[\x00-\x1f\x7f]", escaped)
    if not re.search(rb"#[01][0-7]{2}", text):
        # Where the text itself has no such sequence, nothing is lost.
        assert re.sub(rb"#([01][0-7]{2})", lambda found: bytes([int(found[1], 8)]), escaped) == text


# Length.


@pytest.mark.parametrize("limit", [MIN_MESSAGE, 2_048, 8_192])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("over", [-1, 0, 1, 2, 5_000, 120_000])
def test_at_the_limit(limit: int, sequence: bool, over: int) -> None:
    made = messages(limit, sequence=sequence)
    head = record(77, b"")[:-1]
    # What is left of the limit with the longest number that a sequence can have.
    longest = len(messages(limit, sequence=False).of(record(77, b""), NOW)[0])
    room = limit - longest - (len(b'[meta sequenceId="2147483647"]') - 1 if sequence else 0)
    line = head + b"x" * (room + over)
    found = made.of(line + b"\n", NOW)
    assert all(len(message) <= limit for message in found)
    assert (len(found) == 1) is (over <= 0)
    assert joined([parsed(message) for message in found]) == [line]
    if over == 120_000:
        # No part is shorter than it must be, but the last.
        assert len(found) <= -(-len(line) // (limit - longest - 80)) + 1


@given(
    st.lists(st.one_of(st.text(max_size=4000).map(str.encode), st.binary(max_size=4000)), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_whatever_comes_is_read_back(texts: list[bytes], sequence: bool, bom: bool) -> None:
    made = messages(
        MIN_MESSAGE, b"h" * 255, structured_data=b'[a@1 b="' + b"c" * 245 + b'"]', sequence=sequence, bom=bom
    )
    for text in texts:
        line = b"node=" + b"n" * 255 + b" type=" + b"T" * 32 + b" msg=audit(1.2:3):" + text.replace(b"\n", b"")
        found = made.of(line + b"\n", NOW)
        assert all(len(message) <= MIN_MESSAGE for message in found)
        # With the longest head that there is every message is still one, each part of UTF-8 is UTF-8.
        assert joined([parsed(message) for message in found]) == [escape_controls(line.replace(b"\x1d", b" ", 1))]


def test_parts_are_cut_between_characters() -> None:
    for shift in range(4):
        line = b"x" * shift + "€𝄞ü".encode() * 500
        found = [parsed(message) for message in messages(MIN_MESSAGE).of(line, NOW)]
        assert len(found) > 4
        assert all(each.marked for each in found)  # and so `parsed` has decoded each of them
        assert joined(found) == [line]


def test_parts_of_two_lines_without_a_stamp_can_be_told_apart() -> None:
    made = messages(MIN_MESSAGE)
    marks = [re.findall(rb"\[part \d+/2 (\S+)\] ", b" ".join(made.of(b"x" * 1_500, NOW))) for _ in range(2)]
    assert marks == [[b"n1", b"n1"], [b"n2", b"n2"]]
    assert b"[part 1/2 1700000000.123:9] " in made.of(record(9, b"x" * 1_500), NOW)[0]


def test_frames() -> None:
    assert framed([b"abc", b"0123456789"]) == b"3 abc10 0123456789"
    assert unframed(framed([b"abc", b"0123456789"])) == ([b"abc", b"0123456789"], b"")


# Structured data.


def test_sequence_counts_messages_and_wraps() -> None:
    made = messages(MIN_MESSAGE, sequence=True)
    found = [*made.of(record(1), NOW), *made.of(b"x" * 2_000, NOW), *made.of(record(2), NOW)]
    assert [parsed(message).data for message in found] == [b'[meta sequenceId="%d"]' % n for n in (1, 2, 3, 4, 5)][
        : len(found)
    ]
    assert len(found) > 3
    made._number = MAX_SEQUENCE - 1
    assert [parsed(made.of(record(1), NOW)[0]).data for _ in range(2)] == [
        b'[meta sequenceId="2147483647"]',
        b'[meta sequenceId="1"]',
    ]


def test_structured_data() -> None:
    text = structured(('site@1 a=b c=\\x"y]z', "origin software=audisp", "empty@1.2.3"), sequence=True)
    assert text == b'[site@1 a="b" c="\\\\x\\"y\\]z"][origin software="audisp"][empty@1.2.3]'
    found = parsed(messages(structured_data=text, sequence=True).of(record(1), NOW)[0])
    assert found.data == text + b'[meta sequenceId="1"]'


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=50))
def test_values_are_read_back(value: str) -> None:
    _, text = element(f"x@1 v={value}")
    found = parsed(messages(structured_data=text).of(record(1), NOW)[0])
    inside = found.data.decode().removeprefix('[x@1 v="').removesuffix('"]')
    assert inside == escape_value(value)
    assert re.sub(r"\\(.)", r"\1", inside) == value


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("site",), "'site' is neither meta, origin, timeQuality nor NAME@NUMBER"),
        (("site@x",), "'site@x' is neither"),
        (("@1",), "'@1' is neither"),
        ((f"{'s' * 31}@1",), "is neither"),
        (('si"te@1',), "is neither"),
        (("a@1 b",), "'b' is not name=value"),
        (("a@1 b]=c",), "is not name=value"),
        (("a@1  b=c",), "'' is not name=value"),
        (("a@1 b=\x1b",), "the value of b has characters that cannot be printed"),
        ((f"a@1 b={os.fsdecode(bytes([255]))}",), "or is not UTF-8"),
        (("a@1", "a@1 b=c"), "there can be only one element 'a@1'"),
        (("meta sequenceId=1",), "there can be only one element 'meta'"),
        (("a@1 b=" + "c" * MAX_SD,), f"bytes are more than a message has room for \\({MAX_SD}\\)"),
    ],
)
def test_structured_data_that_is_refused(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        structured(lines, sequence=True)
    assert caught.value.key == "structured_data"
