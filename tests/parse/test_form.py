"""The forms of a record, and text made safe for a terminal."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.errors import ParseError
from audisp.parse.form import (
    HEADER,
    MAX_LOG_LINE,
    MAX_NODE_LINE,
    MAX_PAYLOAD,
    binary_form,
    from_kernel,
    log_form,
    longest_exceeds,
    terminal_safe,
    with_node,
)
from audisp.parse.lines import HEAD
from audisp.parse.types import type_number
from tests.parse.streams import line, records

EOE = b"type=EOE msg=audit(1700000000.123:7): \n"


@pytest.mark.parametrize(
    ("given_", "log"),
    [
        (b"", b""),
        (EOE, b""),
        (EOE * 3, b""),
        (line(1) + EOE, line(1)),
        (EOE + line(1), line(1)),
        (EOE + EOE + line(1) + EOE + EOE + line(2), line(1) + line(2)),
        (line(1, text=b"a=1 "), line(1, text=b"a=1")),
        (line(1, text=b"a=1  "), line(1, text=b"a=1 ")),
        (line(1, b"EOE", node=b"h"), b""),
        (line(1, b"EOE", node=b"h") + line(2, node=b"h"), line(2, node=b"h")),
        (line(1) + line(1, b"EOE", node=b"h") + line(2), line(1) + line(2)),
        # What a user wrote is no record of its own, and an EOE in it ends nothing.
        (line(1, text=b"msg='type=EOE msg=audit(1.1:1): '"), line(1, text=b"msg='type=EOE msg=audit(1.1:1): '")),
        (line(1, b"EOEX", text=b""), b"type=EOEX msg=audit(1700000000.123:1):\n"),
        (line(1, text=b"node=x type=EOE y"), line(1, text=b"node=x type=EOE y")),
    ],
)
def test_log_form(given_: bytes, log: bytes) -> None:
    assert log_form(given_) == log


def plain_log_form(data: bytes) -> bytes:
    """The same, line by line."""
    kept = []
    for text in data.split(b"\n")[:-1]:
        if re.match(rb"(node=\S+ )?type=EOE ", text):
            continue
        text = text[:-1] if text.endswith(b" ") else text
        kept.append(text[: MAX_NODE_LINE if text.startswith(b"node=") else MAX_LOG_LINE] + b"\n")
    return b"".join(kept)


@given(st.lists(records, max_size=12).map(b"".join))
def test_log_form_is_what_a_line_by_line_reading_gives(data: bytes) -> None:
    assert log_form(data) == plain_log_form(data)


@pytest.mark.parametrize("size", [MAX_LOG_LINE - 60, MAX_LOG_LINE, MAX_NODE_LINE + 1, 16_000])
@pytest.mark.parametrize("node", [b"", b"host"])
def test_log_form_cuts_long_lines_where_auditd_does(size: int, node: bytes) -> None:
    data = line(1) + line(2, text=b"x" * size, node=node) + line(3)
    assert log_form(data) == plain_log_form(data)


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 40))
def test_longest_exceeds(sizes: list[int], limit: int) -> None:
    data = b"".join(b"x" * size + b"\n" for size in sizes)
    assert longest_exceeds(data, limit) == any(size > limit for size in sizes)


@pytest.mark.parametrize(
    ("type_", "payload", "expected"),
    [
        (1300, b"audit(1.100:5): a=1", b"type=SYSCALL msg=audit(1.100:5): a=1\n"),
        (1320, b"audit(1.100:5): ", b"type=EOE msg=audit(1.100:5): \n"),
        (1420, b"audit(1.100:5): x", b"type=UNKNOWN[1420] msg=audit(1.100:5): x\n"),
        (
            1112,
            b"audit(1.100:5): msg='a\ntype=USER_LOGIN msg=audit(1.100:6): res=success'",
            b"type=USER_LOGIN msg=audit(1.100:5): msg='a type=USER_LOGIN msg=audit(1.100:6): res=success'\n",
        ),
        (1112, b"audit(1.100:5): x\0y\nz", b"type=USER_LOGIN msg=audit(1.100:5): x\n"),
        (1112, b"audit(1.100:5): x\n\0", b"type=USER_LOGIN msg=audit(1.100:5): x \n"),
        (1112, b"", b"type=USER_LOGIN msg=\n"),
    ],
)
def test_from_kernel(type_: int, payload: bytes, expected: bytes) -> None:
    assert from_kernel(type_, payload) == expected


@given(st.integers(0, 0xFFFF), st.binary(max_size=300))
def test_no_payload_makes_two_lines_or_a_nul(type_: int, payload: bytes) -> None:
    made = from_kernel(type_, payload)
    assert made.count(b"\n") == 1
    assert made.endswith(b"\n")
    assert b"\0" not in made


def test_from_kernel_cuts_at_libaudits_limit() -> None:
    made = from_kernel(1300, b"audit(1.100:5): " + b"x" * 20_000)
    assert len(made) == len(b"type=SYSCALL msg=\n") + MAX_PAYLOAD


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Version, type and payload of each frame; asserts that sizes are exact."""
    found = []
    while data:
        version, length, type_, size = HEADER.unpack_from(data)
        assert length == 16
        assert len(data) >= 16 + size
        found.append((version, type_, data[16 : 16 + size]))
        data = data[16 + size :]
    return found


def test_binary_form() -> None:
    enriched = line(4, text=b'uid=0\x1dUID="root"')
    data = line(1) + EOE + line(3, node=b"h") + enriched + line(5, b"UNKNOWN[1420]")
    assert frames(binary_form(data)) == [
        (0, 1300, b"audit(1700000000.123:1): a=1"),
        (0, 1320, b"audit(1700000000.123:7): "),
        (1, 1300, line(3, node=b"h")[:-1]),
        (1, 1300, enriched[:-1]),
        (0, 1420, b"audit(1700000000.123:5): a=1"),
    ]
    assert binary_form(b"") == b""


def test_binary_form_never_says_more_than_readers_take() -> None:
    data = line(1, text=b"x" * 12_000) + line(2, text=b"x" * 12_000, node=b"h") + line(3, text=b"x\x1d" * 6_000)
    assert [len(payload) for _, _, payload in frames(binary_form(data))] == [MAX_PAYLOAD] * 3


@given(st.lists(records, max_size=12))
def test_binary_form_loses_nothing(lines: list[bytes]) -> None:
    made = frames(binary_form(b"".join(lines)))
    assert len(made) == len(lines)
    for (version, type_, payload), text in zip(made, lines, strict=True):
        found = re.match(rb"(node=\S+ )?type=(\S+) msg=", text)
        assert found
        assert version == (1 if found[1] or b"\x1d" in text else 0)
        assert type_ == type_number(found[2])
        assert payload == (text[:-1] if version else text[found.end() : -1])


def test_with_node() -> None:
    data = line(1, text=b"a=1 ") + EOE + line(2, text=b"node=no")
    named = with_node(data, b"host")
    assert named == (
        line(1, node=b"host")
        + b"node=host type=EOE msg=audit(1700000000.123:7):\n"
        + line(2, text=b"node=no", node=b"host")
    )
    assert all(HEAD.match(text) for text in named.splitlines())
    assert with_node(named + line(3), b"other") == named + line(3, node=b"other")
    assert with_node(b"", b"host") == b""


@given(st.lists(records, max_size=8).map(b"".join))
def test_with_node_keeps_every_record(data: bytes) -> None:
    named = with_node(data, b"host")
    assert named.count(b"\n") == data.count(b"\n")
    assert all(text.startswith(b"node=") for text in named.split(b"\n")[:-1])


def test_with_node_cuts_where_auditd_does() -> None:
    named = with_node(line(1, text=b"x" * 8_960), b"h" * 200)
    assert len(named) == MAX_NODE_LINE + 1


@pytest.mark.parametrize("node", [b"", b"a b", b"a\nb", b"a\x1bb", b"x" * 256, b"h\xc3\xa9", b"a\0"])
def test_a_node_name_that_could_break_a_line_is_refused(node: bytes) -> None:
    with pytest.raises(ParseError, match="node name"):
        with_node(line(1), node)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        (b"plain text", None, "plain text"),
        (b"a\x1b[2Jb", None, r"a\x1b[2Jb"),
        (b"a\r\n\tb\x7f", None, r"a\x0d\x0a\x09b\x7f"),
        ("csi \x9b1m", None, r"csi \u009b1m"),
        (b"csi \x9b1m", None, r"csi \x9b1m"),
        ("a\u202egnp.exe", None, r"a\u202egnp.exe"),
        ("\u2066x\u2069\u200e\u200f\u061c", None, r"\u2066x\u2069\u200e\u200f\u061c"),
        ("a\u2028b\ufeff\u200b\U000e0041", None, r"a\u2028b\ufeff\u200b\U000e0041"),
        (b"\xff\xfe\xc3", None, r"\xff\xfe\xc3"),
        ("h\xe9 日本", None, "h\xe9 日本"),
        ("h\xe9 日本".encode(), None, "h\xe9 日本"),
        (b"\xff".decode("utf-8", "surrogateescape"), None, r"\xff"),
        ("\ud800", None, r"\ud800"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("e\u0301" * 4, 4, "e\u0301" * 4),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        (b"x" * 10_000, 5, "xxxx…"),
        ("\u0301" * 10_000, 5, "\u0301" * 24 + "…"),
    ],
)
def test_terminal_safe(text: bytes | str, width: int | None, shown: str) -> None:
    assert terminal_safe(text, width) == shown


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80)), st.one_of(st.none(), st.integers(0, 40)))
def test_nothing_unsafe_is_shown(text: bytes | str, width: int | None) -> None:
    shown = terminal_safe(text, width)
    shown.encode("utf-8")
    assert not [c for c in shown if unicodedata.category(c) == "Cc" or unicodedata.bidirectional(c) in BIDI]
    assert "\n" not in shown
    if width is not None:
        assert sum(unicodedata.combining(c) == 0 for c in shown) <= width


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
