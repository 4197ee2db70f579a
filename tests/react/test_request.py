"""Messages: what is one comes through unchanged, and nothing else comes through."""

from __future__ import annotations

from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.errors import RemoteProtocolError
from audisp.react.request import (
    MAX_EVENT,
    MAX_HEAD,
    MAX_ID,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_PID,
    MAX_TEXT,
    MAX_TICKS,
    MAX_TIME,
    TARGETS,
    Account,
    Address,
    Kind,
    Level,
    Origin,
    Outcome,
    Process,
    Request,
    Result,
    Session,
    decode_request,
    decode_result,
    encode_request,
    encode_result,
)
from tests.react.playing import request

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_TEXT)
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_NAME)
NUMBER = st.integers(0, MAX_ID)
TARGET: dict[type | None, st.SearchStrategy[Any]] = {
    None: st.none(),
    Process: st.builds(Process, st.integers(1, MAX_PID), st.integers(0, MAX_TICKS)),
    Session: st.builds(Session, NUMBER, NUMBER, st.integers(1, MAX_PID)),
    Account: st.builds(Account, NAME),
    Address: st.builds(Address, NAME),
}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    kind = draw(st.sampled_from(Kind))
    time = st.integers(0, MAX_TIME)
    return Request(
        number=draw(st.integers(1, MAX_TIME)),
        kind=kind,
        target=draw(TARGET[TARGETS[kind]]),
        deadline=draw(time),
        event_id=draw(st.from_regex(r"\A[0-9]{1,13}\.[0-9]{3}:[0-9]{1,20}\Z")),
        event_time=draw(time),
        origin=draw(st.sampled_from(Origin)),
        level=draw(st.sampled_from(Level)),
        keywords=draw(st.booleans()),
        record_type=draw(NUMBER),
        head=draw(st.binary(max_size=MAX_HEAD)),
        seconds=draw(NUMBER),
        rule=draw(TEXT),
        why=draw(TEXT),
        event=b'{"a": 1}',
    )


@given(requests())
def test_a_request_comes_through(asked: Request) -> None:
    assert decode_request(encode_request(asked)) == asked


@given(st.binary(max_size=400))
def test_garbage_is_no_request(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(data)
    with pytest.raises(RemoteProtocolError):
        decode_result(data)


@given(requests(), st.data())
def test_a_damaged_request_is_a_request_or_an_error(asked: Request, data: st.DataObject) -> None:
    message = bytearray(encode_request(asked))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_request(bytes(message))
    except RemoteProtocolError:
        return
    assert decode_request(encode_request(found)) == found


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(requests(), st.integers(0, 15), ODD)
def test_a_part_of_another_type_is_refused_or_as_good(asked: Request, place: int, odd: Any) -> None:
    parts = msgpack.unpackb(encode_request(asked))
    parts[place] = odd
    try:
        found = decode_request(msgpack.packb(parts))
    except RemoteProtocolError:
        return
    for field in attrs.fields(Request):
        assert type(getattr(found, field.name)) is type(getattr(asked, field.name))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("number", 0),
        ("number", True),
        ("number", MAX_TIME + 1),
        ("number", 1.0),
        ("kind", "reboot"),
        ("kind", "KILL_PROCESS"),
        ("target", None),
        ("target", [1]),
        ("target", [1, 2, 3]),
        ("target", [0, 5]),
        ("target", [-1, 5]),
        ("target", [MAX_PID + 1, 5]),
        ("target", ["1", 5]),
        ("deadline", -1),
        ("event_id", "4567"),
        ("event_id", "1.234:5\n"),
        ("origin", "kernel"),
        ("level", "highest"),
        ("keywords", 0),
        ("record_type", -1),
        ("head", "pid=1"),
        ("head", b"a" * (MAX_HEAD + 1)),
        ("seconds", -1),
        ("rule", b"bytes"),
        ("rule", "a" * (MAX_TEXT + 1)),
        ("why", 5),
        ("event", b"[]"),
        ("event", b"{"),
        ("event", b"[" * 50_000),
        ("event", b'{"a": "' + b"a" * MAX_EVENT + b'"}'),
        ("event", b'{"a": "\xff"}'),
    ],
)
def test_what_is_out_of_bounds_is_refused(part: str, value: Any) -> None:
    asked = request(Kind.KILL, Process(4, 5))
    names = ["version", *(field.name for field in attrs.fields(Request))]
    parts = msgpack.unpackb(encode_request(asked))
    parts[names.index(part)] = value
    with pytest.raises(RemoteProtocolError, match=f"{part}|pid"):
        decode_request(msgpack.packb(parts))


def test_another_version_length_or_size_is_refused() -> None:
    message = encode_request(request(Kind.NOTIFY))
    parts = msgpack.unpackb(message)
    for bad in ([1, *parts[1:]], [True, *parts[1:]], parts[:-1], [*parts, 1], {"a": 1}, 5, None):
        with pytest.raises(RemoteProtocolError):
            decode_request(msgpack.packb(bad))
    for data in (message + b"\0", message[:-1], b"\0" * (MAX_MESSAGE + 1), b"\x91" * 5000, b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(RemoteProtocolError):
            decode_request(data)


def test_the_matcher_s_own_mistakes_are_told_to_it() -> None:
    with pytest.raises(ValueError, match="event_id"):
        encode_request(request(Kind.NOTIFY, event_id="none"))


@given(st.sampled_from(Kind), st.sampled_from(Outcome), TEXT, TEXT, st.integers(0, MAX_TIME))
def test_a_result_comes_through(kind: Kind, outcome: Outcome, reason: str, text: str, number: int) -> None:
    result = Result(number=number, kind=kind, outcome=outcome, reason=reason, text=text, body=text, act=number)
    assert decode_result(encode_result(result)) == result
