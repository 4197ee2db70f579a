"""The client's end of the C programs' protocol, and both ends joined."""

from __future__ import annotations

import struct
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.errors import LocalProtocolError, RemoteProtocolError
from audisp.wire.peer import Closed, Trouble
from audisp.wire.rmw import (
    CLIENT,
    MAX_PAYLOAD,
    MAX_PAYLOAD_IN,
    Answer,
    Frame,
    Notice,
    Outcome,
    Place,
    RmwClient,
    Signal,
    State,
    Type,
    cut_frame,
)
from audisp.wire.rmw_server import Message, Recent, Retry, RmwServer

RECORD: Final = b"type=SYSCALL msg=audit(1.000:1): a=b\n"
ACK: Final = Frame(Type.ACK, 2).encode()


def waiting(record: bytes = RECORD) -> RmwClient:
    """A client with one record under way, which has number 2."""
    client = RmwClient(5.0)
    assert client.send(record, 0.0) is Outcome.SENT
    assert client.take() == Frame(Type.MESSAGE, 2, record).encode()
    return client


def answered(client: RmwClient, data: bytes) -> list[Answer | Notice | Closed]:
    client.feed(data, 1.0)
    events = []
    while (event := client.next()) is not None:
        events.append(event)
    return events


# Frames.


@given(kind=st.integers(0, 2**32 - 1), sequence=st.integers(0, 2**32 - 1), payload=st.binary(max_size=200))
def test_frames_come_out_as_they_went_in(kind: int, sequence: int, payload: bytes) -> None:
    put = Frame(kind, sequence, payload)
    data = put.encode()
    buffer = bytearray()
    for byte in data[:-1]:
        buffer.append(byte)
        assert cut_frame(buffer) is None
    buffer += data[-1:] + b"more"
    assert cut_frame(buffer) == put
    assert buffer == b"more"


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    header = struct.pack("<IBBIHI", 0xFF0000FE, 0, 0, 0, MAX_PAYLOAD_IN + 1, 2)
    with pytest.raises(RemoteProtocolError, match=r"8971 bytes, at most 8970"):
        cut_frame(bytearray(header))
    assert cut_frame(bytearray(header[:-1])) is None


@pytest.mark.parametrize("start", [b"G", b"\xfe\x01", b"HTTP/1.1 400 Bad Request\r\n", b"\x16\x03\x01"])
def test_no_frame(start: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="no frame of auditd's protocol"):
        cut_frame(bytearray(start))


# Sending.


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (RECORD, Outcome.SENT),
        (RECORD[:-1], Outcome.SENT),
        (b"node=a " + RECORD, Outcome.SENT),
        (b"type=EOE msg=audit(1.000:1): \n", Outcome.EOE),
        (b"node=a type=EOE msg=audit(1.000:1):", Outcome.EOE),
        (b"node=type=EOE type=CWD msg=audit(1.000:1): type=EOE \n", Outcome.SENT),
        (b"type=EOEX msg=audit(1.000:1): \n", Outcome.SENT),
        (b"x" * (MAX_PAYLOAD - 1) + b"\n", Outcome.SENT),
        (b"x" * MAX_PAYLOAD, Outcome.TOO_LONG),
        (b"type=USER msg=audit(1.000:1): a\0b\n", Outcome.NUL),
    ],
)
def test_what_is_sent(record: bytes, outcome: Outcome) -> None:
    client = RmwClient(5.0)
    assert client.send(record, 0.0) is outcome
    sent = outcome is Outcome.SENT
    assert client.take() == (Frame(Type.MESSAGE, 2, record.rstrip(b"\n") + b"\n").encode() if sent else b"")
    assert client.state is (State.WAITING if sent else State.IDLE)
    assert client.deadline == (5.0 if sent else None)


@pytest.mark.parametrize("record", [b"type=A a\ntype=A b\n", b"type=A a\n\n"])
def test_two_lines_are_no_record(record: bytes) -> None:
    client = RmwClient(5.0)
    with pytest.raises(LocalProtocolError, match="2 lines in one record"):
        client.send(record, 0.0)
    assert client.state is State.DEAD
    assert client.take() == b""


def test_one_at_a_time() -> None:
    client = waiting()
    with pytest.raises(LocalProtocolError, match="waiting"):
        client.send(RECORD, 0.0)
    assert client.state is State.DEAD
    with pytest.raises(LocalProtocolError, match="dead"):
        client.heartbeat(0.0)


# Answers, while a record is under way and while nothing is.

CASES: Final = [
    # type, number, text; with a record under way: the event, with nothing: the event (None: lost sync, or no answer)
    (Type.ACK, 2, b"", Answer(2, True, None, "", False), None),
    (Type.ACK, 2, b"thank you\x1b", Answer(2, True, None, "thank you\\x1b", False), None),
    (Type.ACK, 3, b"", None, None),
    (Type.ACK, 0, b"", None, None),
    (Type.DISKLOW, 2, b"", Answer(2, True, Trouble.DISK_LOW, "", False), Notice(Trouble.DISK_LOW, "")),
    (Type.DISKLOW, 0, b"", Notice(Trouble.DISK_LOW, ""), Notice(Trouble.DISK_LOW, "")),
    (
        Type.DISKFULL,
        2,
        b"disk full",
        Answer(2, False, Trouble.DISK_FULL, "disk full", False),
        Notice(Trouble.DISK_FULL, "disk full"),
    ),
    (Type.DISKFULL, 3, b"", None, Notice(Trouble.DISK_FULL, "")),
    (
        Type.DISKERROR,
        2,
        b"disk write error",
        Answer(2, False, Trouble.DISK_ERROR, "disk write error", False),
        Notice(Trouble.DISK_ERROR, "disk write error"),
    ),
    (
        Type.DISKERROR,
        2,
        b"remote logging suspended",
        Answer(2, False, Trouble.SUSPENDED, "remote logging suspended", False),
        Notice(Trouble.SUSPENDED, "remote logging suspended"),
    ),
    (Type.ENDING, 0, b"", Notice(Trouble.ENDING, ""), Notice(Trouble.ENDING, "")),
    (Type.ENDING, 99, b"", Notice(Trouble.ENDING, ""), Notice(Trouble.ENDING, "")),
    (0x50000009, 2, b"hm", Answer(2, True, Trouble.WARNING, "hm", False), Notice(Trouble.WARNING, "hm")),
    (0x60000009, 2, b"", Answer(2, False, Trouble.ERROR, "", False), Notice(Trouble.ERROR, "")),
    (0x40000009, 2, b"", Answer(2, True, Trouble.WARNING, "", False), Notice(Trouble.WARNING, "")),
    (Type.MESSAGE, 2, b"", None, None),
    (Type.HEARTBEAT, 2, b"", None, None),
    (0x20000001, 2, b"", None, None),
]


@pytest.mark.parametrize(("kind", "sequence", "text", "under_way", "idle"), CASES)
def test_answers(kind: int, sequence: int, text: bytes, under_way: Answer | Notice | None, idle: Notice | None) -> None:
    data = Frame(kind, sequence, text).encode()
    for client, expected in ((waiting(), under_way), (RmwClient(5.0), idle)):
        if expected is None:
            with pytest.raises(RemoteProtocolError, match=r"lost sync|only answers"):
                answered(client, data)
            assert client.state is State.DEAD
            assert answered(client, data) == []
            assert client.buffered == 0
        else:
            assert answered(client, data) == [expected]
            if isinstance(expected, Answer):
                assert client.state is State.IDLE
                assert (client.place.unsettled is None) == expected.stored
                assert client.deadline is None
            elif expected.trouble is Trouble.ENDING:
                assert client.state is State.ENDED
                assert answered(client, ACK) == []


def test_a_heartbeat_says_nothing_of_a_record() -> None:
    client = waiting()
    assert answered(client, Frame(Type.DISKFULL, 2, b"").encode()) == [Answer(2, False, Trouble.DISK_FULL, "", False)]
    client.heartbeat(2.0)
    assert client.take() == Frame(Type.HEARTBEAT, 3).encode()
    assert answered(client, Frame(Type.ACK, 3).encode()) == [Answer(3, False, None, "", True)]
    # The record is still the one with number 2, and the next new one gets 4.
    assert client.place == Place(3, (2, RECORD))
    client.send(RECORD, 3.0)
    assert client.take() == Frame(Type.MESSAGE, 2, RECORD).encode()
    assert answered(client, ACK) == [Answer(2, True, None, "", False)]
    client.send(RECORD, 3.0)
    assert client.take() == Frame(Type.MESSAGE, 4, RECORD).encode()


def test_a_retry_has_its_number_on_the_next_connection_too() -> None:
    place = waiting().place
    client = RmwClient(5.0, place)
    client.send(RECORD[:-1], 0.0)
    assert client.take() == Frame(Type.MESSAGE, 2, RECORD).encode()
    # Another record in its place gets a number of its own.
    client = RmwClient(5.0, place)
    client.send(b"type=OTHER\n", 0.0)
    assert client.take() == Frame(Type.MESSAGE, 3, b"type=OTHER\n").encode()


def test_numbers_wrap_around_zero() -> None:
    client = RmwClient(5.0, Place(0xFFFFFFFF))
    client.send(RECORD, 0.0)
    assert client.take() == Frame(Type.MESSAGE, 1, RECORD).encode()


def test_the_answer_is_awaited_so_long_and_no_longer() -> None:
    client = waiting()
    client.tick(4.9)
    client.feed(ACK[:3], 4.9)
    assert client.next() is None
    assert client.deadline == 9.9
    client.tick(9.8)
    with pytest.raises(RemoteProtocolError, match="no answer within 5 s"):
        client.tick(9.9)
    assert client.state is State.DEAD
    client.tick(99.0)
    assert client.place.unsettled == (2, RECORD)


@pytest.mark.parametrize(
    ("client", "data", "clean"),
    [(RmwClient(5.0), b"", True), (waiting(), b"", False), (RmwClient(5.0), ACK[:5], False)],
    ids=["idle", "under way", "cut"],
)
def test_the_server_closes(client: RmwClient, data: bytes, clean: bool) -> None:
    if data:
        assert answered(client, data) == []
    assert answered(client, b"") == [Closed(clean)]
    assert client.state is State.ENDED
    assert answered(client, b"") == []


def test_what_came_before_the_end_is_heard() -> None:
    client = waiting()
    client.feed(ACK, 0.0)
    client.feed(b"", 0.0)
    assert client.next() == Answer(2, True, None, "", False)
    assert client.next() == Closed(True)


def test_the_table_is_whole() -> None:
    assert set(CLIENT) == set(State)
    for state, row in CLIENT.items():
        assert set(row.values()) <= set(State)
        assert (Signal.SEND in row) == (state is State.IDLE)
        assert (Signal.CLOSE in row) == (state is not State.DEAD)


# Both ends.


def carry(client: RmwClient, server: RmwServer, step: int) -> tuple[list[object], list[object]]:
    """What each end says, in pieces, until nobody says anything more."""
    here: list[object] = []
    there: list[object] = []
    while True:
        up, down = client.take(), server.take()
        if not up and not down:
            return here, there
        for at in range(0, len(up), step):
            server.feed(up[at : at + step])
            while (event := server.next()) is not None:
                there.append(event)
        for at in range(0, len(down), step):
            client.feed(down[at : at + step], 0.0)
            while (said := client.next()) is not None:
                here.append(said)


@settings(max_examples=50)
@given(
    records=st.lists(
        st.binary(min_size=1, max_size=40).map(lambda line: b"type=A " + line.hex().encode() + b"\n"), max_size=12
    ),
    cuts=st.lists(st.sampled_from(["none", "none", "before", "after"]), min_size=12, max_size=12),
    step=st.sampled_from([1, 7, 4096]),
)
def test_each_record_is_stored_once_whatever_is_cut(records: list[bytes], cuts: list[str], step: int) -> None:
    stored: list[bytes] = []
    recent = Recent()
    client, server = RmwClient(5.0), RmwServer(recent)
    for record, cut in zip(records, cuts, strict=False):
        client.send(record, 0.0)
        if cut == "before":
            # The connection goes before the message has arrived.
            client, server = RmwClient(5.0, client.place), RmwServer(recent)
            client.send(record, 0.0)
        _, events = carry(client, server, step)
        assert events == [Message(events[0].sequence, record)]  # type: ignore[attr-defined]
        stored.append(record)
        server.ack()
        if cut == "after":
            # It goes before the answer has arrived.
            client, server = RmwClient(5.0, client.place), RmwServer(recent)
            client.send(record, 0.0)
            _, events = carry(client, server, step)
            assert [type(event) for event in events] == [Retry]
        else:
            carry(client, server, step)
        assert client.place.unsettled is None
    assert stored == records
