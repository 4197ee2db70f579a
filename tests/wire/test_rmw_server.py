"""The server's end of the C programs' protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import pytest

from audisp.errors import LocalProtocolError, RemoteProtocolError
from audisp.wire.peer import Closed, Trouble
from audisp.wire.rmw import MAX_PAYLOAD_IN, Frame, State, Type
from audisp.wire.rmw_server import (
    MAX_FED,
    MAX_OUT,
    MAX_PENDING,
    Event,
    Heartbeat,
    Message,
    Recent,
    Retry,
    RmwServer,
    Text,
)

RECORD: Final = b"type=SYSCALL msg=audit(1.000:1): a=b\n"


def message(sequence: int = 2, record: bytes = RECORD, kind: int = Type.MESSAGE) -> bytes:
    return Frame(kind, sequence, record).encode()


def ack(*sequences: int) -> bytes:
    return b"".join(Frame(Type.ACK, sequence).encode() for sequence in sequences)


def fed(server: RmwServer, data: bytes, step: int = 0) -> list[Event]:
    events = []
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    for piece in pieces:
        server.feed(piece)
        while (event := server.next()) is not None:
            events.append(event)
    return events


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (message(), [Message(2, RECORD)]),
        (message(2, RECORD[:-1]), [Message(2, RECORD)]),
        (message(2, b""), [Message(2, b"\n")]),
        (message(7, b"a\0b\n"), [Message(7, b"a\0b\n")]),
        (message(2, RECORD, Type.ACK), [Message(2, RECORD, Type.ACK)]),
        (message(2, RECORD, 2), [Message(2, RECORD, 2)]),
        (message(2, RECORD, 0xFFFFFFFF), [Message(2, RECORD, 0xFFFFFFFF)]),
        (b"\xfe\x00\x00\xff\x09\x09" + message()[6:], [Message(2, RECORD)]),
        (message(2, b"x" * MAX_PAYLOAD_IN), [Message(2, b"x" * MAX_PAYLOAD_IN + b"\n")]),
        (message() + message(3, b"type=B\n"), [Message(2, RECORD), Message(3, b"type=B\n")]),
        (b"type=A text\n", [Text(b"type=A text\n")]),
        (b"\n", [Text(b"\n")]),
        (b"\xfe\x00\x00\n", [Text(b"\xfe\x00\x00\n")]),
        (b"x" * (MAX_PAYLOAD_IN - 1) + b"\n", [Text(b"x" * (MAX_PAYLOAD_IN - 1) + b"\n")]),
        (b"type=A text\n" + message() + b"text\n", [Text(b"type=A text\n"), Message(2, RECORD), Text(b"text\n")]),
        # What a client that does not end its text leaves in front of a frame belongs to the text.
        (b"text" + message(3, b"B\n") + b"C\n", [Text(b"text" + message(3, b"B\n")), Text(b"C\n")]),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_what_comes(data: bytes, events: list[Event], step: int) -> None:
    server = RmwServer()
    assert fed(server, data, step) == events
    assert server.buffered == 0
    assert server.take() == b""
    assert server.pending == sum(isinstance(event, Message) for event in events)


def test_a_heartbeat_is_answered_by_itself() -> None:
    server = RmwServer()
    assert fed(server, message(3, b"", Type.HEARTBEAT) + message(4, b"junk", Type.HEARTBEAT)) == [
        Heartbeat(3),
        Heartbeat(4),
    ]
    assert server.take() == ack(3, 4)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xfe\x00\x00\xff\0\0\0\0\0\0\xff\xff\2\0\0\0", "65535 bytes"),
        (b"x" * MAX_PAYLOAD_IN, "neither a frame nor a line"),
        (message(2, b"type=A\ntype=LOGIN forged\n"), "message of 2 lines"),
        (message(2, b"type=A\n\n"), "message of 2 lines"),
    ],
)
def test_what_is_refused(data: bytes, error: str) -> None:
    server = RmwServer()
    server.feed(message(9))
    assert server.next() == Message(9, RECORD)
    server.feed(data)
    with pytest.raises(RemoteProtocolError, match=error):
        server.next()
    assert server.state is State.DEAD
    assert fed(server, message()) == []
    assert server.buffered == 0
    # What was given out before may be stored yet, and is then known; nobody is there to be told.
    server.ack()
    assert server.recent.sequence == 9
    assert server.take() == b""


def test_answers_go_oldest_first() -> None:
    server = RmwServer()
    fed(server, message(2) + message(3, b"B\n") + message(4, b"C\n") + message(5, b"D\n"))
    server.ack(2)
    assert server.take() == ack(2, 3)
    server.trouble(Trouble.DISK_LOW)
    server.trouble(Trouble.DISK_FULL)
    assert server.take() == Frame(Type.DISKLOW, 4).encode() + Frame(Type.DISKFULL, 5, b"disk full").encode()
    assert server.recent.sequence == 4
    assert server.recent.digest == hashlib.sha256(b"C\n").digest()


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        (Trouble.DISK_LOW, (Type.DISKLOW, b"")),
        (Trouble.DISK_FULL, (Type.DISKFULL, b"disk full")),
        (Trouble.DISK_ERROR, (Type.DISKERROR, b"disk write error")),
        (Trouble.SUSPENDED, (Type.DISKERROR, b"remote logging suspended")),
    ],
)
def test_trouble_as_auditd_tells_of_it(trouble: Trouble, answer: tuple[int, bytes]) -> None:
    server = RmwServer()
    fed(server, message())
    server.trouble(trouble)
    assert server.take() == Frame(answer[0], 2, answer[1]).encode()
    assert server.recent.sequence == (2 if trouble is Trouble.DISK_LOW else None)
    server.notice(trouble)
    assert server.take() == Frame(answer[0], 0, answer[1]).encode()


def test_a_retry_is_answered_and_not_given_out_again() -> None:
    recent = Recent()
    server = RmwServer(recent)
    assert fed(server, message()) == [Message(2, RECORD)]
    server.ack()
    # The same connection, and the next one.
    for again in (server, RmwServer(recent)):
        again.take()
        assert fed(again, message()) == [Retry(2)]
        assert again.take() == ack(2)
    server = RmwServer(recent)
    assert fed(server, message(2, b"type=OTHER\n")) == [Message(2, b"type=OTHER\n")]
    assert fed(RmwServer(Recent(recent.sequence, recent.digest)), message(3)) == [Message(3, RECORD)]


def test_a_retry_of_what_was_not_stored_is_a_message() -> None:
    server = RmwServer()
    fed(server, message())
    server.trouble(Trouble.DISK_FULL)
    assert fed(server, message()) == [Message(2, RECORD)]


def test_a_retry_of_what_is_not_answered_yet_gets_the_same_answer() -> None:
    server = RmwServer()
    assert fed(server, message() * 3 + message(3)) == [Message(2, RECORD), Retry(2), Retry(2), Message(3, RECORD)]
    assert server.pending == 2
    server.trouble(Trouble.DISK_ERROR)
    assert server.take() == Frame(Type.DISKERROR, 2, b"disk write error").encode() * 3
    server.ack()
    assert server.take() == ack(3)


def test_stored_when_the_connection_is_gone() -> None:
    server = RmwServer()
    assert fed(server, message()) == [Message(2, RECORD)]
    assert fed(server, b"") == [Closed(False)]
    server.ack()
    assert server.take() == b""
    assert fed(RmwServer(server.recent), message()) == [Retry(2)]


@pytest.mark.parametrize(("data", "clean"), [(b"", True), (message()[:20], False), (b"text", False)])
def test_the_client_closes(data: bytes, clean: bool) -> None:
    server = RmwServer()
    if data:
        assert fed(server, data) == []
    assert fed(server, b"") == [Closed(clean)]
    assert server.state is State.ENDED
    assert fed(server, b"") == []


def test_one_that_does_not_wait_gets_no_further() -> None:
    server = RmwServer()
    one = message(2, b"A\n")
    pipelined = b"".join(message(number, b"A\n") for number in range(2, MAX_PENDING + 4))
    server.feed(pipelined)
    server.feed(b"")
    taken = 0
    while server.next() is not None:
        taken += 1
    assert server.full
    assert taken == server.pending == MAX_PENDING
    assert server.buffered == 2 * len(one)
    server.ack(MAX_PENDING)
    assert [server.next(), server.next()] == [Message(n, b"A\n") for n in (MAX_PENDING + 2, MAX_PENDING + 3)]
    assert server.next() == Closed(False)


def test_one_that_never_reads_its_answers_gets_no_further() -> None:
    server = RmwServer()
    beat = message(2, b"", Type.HEARTBEAT)
    for _ in range(MAX_OUT // len(beat) + 3):
        server.feed(beat)
        server.next()
    assert server.full
    assert server.buffered == 3 * len(beat)
    assert len(server.take()) == MAX_OUT
    assert [server.next(), server.next(), server.next(), server.next()] == [Heartbeat(2)] * 3 + [None]


def test_nobody_feeds_without_end() -> None:
    server = RmwServer()
    server.feed(bytes(MAX_FED))
    with pytest.raises(LocalProtocolError, match="fed and not taken"):
        server.feed(b"x")
    assert server.buffered == 0


def test_goodbye() -> None:
    server = RmwServer()
    fed(server, message())
    server.ack()
    server.ending()
    assert server.take() == ack(2) + Frame(Type.ENDING, 0).encode()
    assert fed(server, message(3)) == []
    assert server.buffered == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda server: server.ack(2),
        lambda server: server.ending(),
        lambda server: server.trouble(Trouble.ENDING),
        lambda server: server.notice(Trouble.ENDING),
        lambda server: (server.ack(), server.ack()),
        lambda server: (server.ack(), server.trouble(Trouble.DISK_FULL)),
        lambda server: (server.ack(), server.ending(), server.ending()),
        lambda server: (server.ack(), server.ending(), server.notice(Trouble.DISK_LOW)),
    ],
)
def test_our_own_mistakes(wrong: Callable[[RmwServer], object]) -> None:
    server = RmwServer()
    fed(server, message())
    with pytest.raises(LocalProtocolError):
        wrong(server)
    assert server.state is State.DEAD
