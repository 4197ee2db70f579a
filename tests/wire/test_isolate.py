"""What the dispatcher and an isolated plugin's process say to each other: there and back, and all that is wrong."""

from __future__ import annotations

from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.errors import LocalProtocolError, RemoteProtocolError
from audisp.wire import isolate as wire
from audisp.wire.isolate import HEAD, UpDecoder, decode_down, encode, lengths

UP: tuple[wire.Up, ...] = (
    wire.Described("events", ("a: notice",), b"\1" * 32),
    wire.Described("blocks", (), b""),
    wire.Refused((wire.Fault("no", "/etc/x", 3, "key", True), wire.Fault("\udcff", None, None, None, False))),
    wire.Opened(),
    wire.Taken(1 << 53),
    wire.Retried(0, ""),
    wire.Rejected(7, "é" * wire.MAX_TEXT),
    wire.Failed("x"),
    wire.Counted({"a": -1, "b" * wire.MAX_NAME: 1 << 53}),
    wire.Said("critical", "\ud800"),
    wire.Emitted(1100, "a=b\nc"),
    wire.Acted("exec", "m", "/bin/x"),
    wire.Acted("syslog", "m", None),
    wire.Stated({"k": "v"}),
)
DOWN: tuple[wire.Down, ...] = (
    wire.Start("/x.py", "n", "/n.audisp", (wire.Word("k", ("a", "b"), 4, "a  b", None),), True, "/run", False),
    wire.Deliver(1, 2, 0, "unix:/a", 1.5, False, (b"12345678", 9), (0, 4, 3, 2), [[], [], [None]]),
    wire.Deliver(2, 1, 1, "s", 0.0, True, None, (), None),
    wire.Ask("rotate"),
    wire.Close(),
)


def frame(*body: Any, raw: bytes | None = None, size: int | None = None, payload: int = 0) -> bytes:
    """What a process that knows no rules sends."""
    data = msgpack.packb(list(body), unicode_errors="surrogatepass") if raw is None else raw
    return HEAD.pack(len(data) if size is None else size, payload) + data


def read(data: bytes, step: int = 1 << 20) -> list[wire.Up]:
    decoder, found = UpDecoder(), []
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        found += list(decoder)
    return found


@pytest.mark.parametrize("message", UP)
def test_what_the_process_says_arrives(message: wire.Up) -> None:
    assert read(encode(message)) == [message]


@pytest.mark.parametrize("message", DOWN)
def test_what_the_dispatcher_says_arrives(message: wire.Down) -> None:
    data = encode(message, 5)
    assert lengths(data[: HEAD.size]) == (len(data) - HEAD.size, 5)
    assert decode_down(data[HEAD.size :]) == message


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_in_pieces(step: int) -> None:
    short = [message for message in UP if message != UP[6]]
    assert read(b"".join(map(encode, short)), step) == short


FLAWS = {
    "too long": (frame(raw=b"", size=wire.MAX_UP + 1), "a frame of 1048577 and 0 bytes"),
    "longest length": (b"\xff" * 8, "a frame of 4294967295 and 4294967295 bytes"),
    "a payload": (frame(18, payload=1), "a frame of 2 and 1 bytes"),
    "nothing": (frame(raw=b""), "no msgpack"),
    "no msgpack": (frame(raw=b"\xc1"), "no msgpack"),
    "more behind it": (frame(raw=b"\x91\x12\x00"), "no msgpack"),
    "cut": (frame(raw=b"\x92\x12"), "no msgpack"),
    "a list of four billion": (frame(raw=b"\xdd\xff\xff\xff\xff"), "no msgpack"),
    "deep": (frame(raw=b"\x91" * 60_000 + b"\x00"), "no msgpack"),
    "an extension": (frame(raw=b"\x92\x12\xd4\x05\x00"), "no msgpack"),
    "no text": (frame(raw=b"\x92\x16\xa1\xff"), "no msgpack"),
    "a map": (frame(raw=b"\x80"), "no list with a kind"),
    "an empty list": (frame(raw=b"\x90"), "no list with a kind"),
    "a kind that is true": (frame(raw=b"\x91\xc3"), "no list with a kind"),
    "a text as kind": (frame("x"), "no list with a kind"),
    "unknown": (frame(99), "unknown kind 99"),
    "ours": (frame(2), "unknown kind 2"),
    "too few fields": (frame(19), "Taken has 1 fields, not 0"),
    "too many fields": (frame(18, 1), "Opened has 0 fields, not 1"),
    "no number": (frame(19, "1"), "Taken.sequence: a number"),
    "true as number": (frame(19, True), "Taken.sequence: a number"),
    "a fraction as number": (frame(19, 1.0), "Taken.sequence: a number"),
    "below": (frame(19, -1), "Taken.sequence: a number from 0"),
    "above": (frame(19, 1 << 54), "Taken.sequence: a number from 0"),
    "bytes as text": (frame(22, b"x"), "Failed.reason: a text"),
    "long text": (frame(22, "x" * (wire.MAX_TEXT + 1)), "Failed.reason: a text of at most"),
    "a level": (frame(24, "alert", "x"), "Said.level: one of debug"),
    "a list as level": (frame(24, ["info"], "x"), "Said.level: one of debug"),
    "wants": (frame(16, "all", [], b""), "Described.wants: one of blocks, events"),
    "stamp": (frame(16, "blocks", [], b"x" * 65), "Described.stamp: at most 64 bytes"),
    "text as stamp": (frame(16, "blocks", [], ""), "Described.stamp: at most 64 bytes"),
    "notices": (frame(16, "blocks", ["x"] * 101, b""), "Described.notices: a list of at most 100"),
    "a notice": (frame(16, "blocks", [1], b""), "Described.notices: a text"),
    "faults": (frame(17, {}), "Refused.faults: a list of at most 100"),
    "a fault": (frame(17, [["x", None, None, None]]), "Refused.faults: a list of 5"),
    "a fault's flag": (frame(17, [["x", None, None, None, 1]]), "Refused.faults: true or false"),
    "counters": (frame(23, [1]), "Counted.counters: at most 256 pairs"),
    "many counters": (frame(23, {str(n): 1 for n in range(257)}), "Counted.counters: at most 256 pairs"),
    "a counter's name": (frame(23, {"x" * 65: 1}), "Counted.counters: a text of at most 64"),
    "a counter": (frame(23, {"x": None}), "Counted.counters: a number"),
    "a number as key": (frame(23, {1: 1}), "no msgpack"),
    "state": (frame(27, {"x": 1}), "Stated.lines: a text"),
    "a path": (frame(26, "exec", "x", 1), "Acted.path: a text"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_is_wrong_is_named_and_nothing_comes_after_it(flaw: str) -> None:
    data, words = FLAWS[flaw]
    for step in (1 << 20, 3000):
        with pytest.raises(RemoteProtocolError, match=words):
            read(encode(wire.Opened()) + data + encode(wire.Opened()), step)


def test_nothing_is_kept_of_what_is_too_long() -> None:
    decoder = UpDecoder()
    decoder.feed(frame(raw=b"", size=wire.MAX_UP + 1))
    with pytest.raises(RemoteProtocolError):
        list(decoder)


@pytest.mark.parametrize(
    "body",
    [
        [16, "blocks", [], b""],
        [3, "reload"],
        [2, 1, 2, 0, "s", 1, False, None, [], None],
        [2, 1, 2, 0, "s", 1.5, False, [b"123456789", 9], [], None],
        [2, 1, 2, 0, "s", 1.5, False, None, [-1], None],
        [1, "x", "n", "p", [["k", ["a"], 1, "a"]], True, "/run", False],
    ],
)
def test_a_mistake_of_ours_is_named_as_well(body: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_down(msgpack.packb(body))


def test_lengths_from_us_are_bounded() -> None:
    for head in (HEAD.pack(wire.MAX_DOWN + 1, 0), HEAD.pack(0, wire.MAX_DOWN + 1)):
        with pytest.raises(RemoteProtocolError):
            lengths(head)
    with pytest.raises(LocalProtocolError, match="too long"):
        encode(wire.Close(), wire.MAX_DOWN + 1)
    with pytest.raises(LocalProtocolError, match="too long"):
        encode(wire.Failed("x" * wire.MAX_UP))


def test_every_kind_has_its_own_number() -> None:
    kinds = [type(message).kind for message in {type(each): each for each in (*UP, *DOWN)}.values()]
    assert len(set(kinds)) == len(kinds) == 16
    assert all(attrs.has(type(message)) for message in (*UP, *DOWN))


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), 1 << 63), st.text(max_size=8), st.binary(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 30), st.lists(VALUES, max_size=10))
def test_whatever_is_said_is_a_message_or_an_error(kind: int, values: list[Any]) -> None:
    data = frame(kind, *values)
    for decode in (read, lambda data: [decode_down(data[HEAD.size :])]):
        try:
            found = decode(data)
        except RemoteProtocolError:
            continue
        # What is understood is what was said.
        (message,) = found
        assert msgpack.unpackb(encode(message)[HEAD.size :], unicode_errors="surrogatepass") == [kind, *values]


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 50))
def test_whatever_bytes_come(data: bytes, step: int) -> None:
    for made in (data, frame(raw=data), HEAD.pack(len(data) // 2, 0) + data):
        try:
            read(made, step)
        except RemoteProtocolError:
            continue
