"""The client of auditd's listener: framing, window, and what it makes of answers."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.bench import feed

LINES = [b"type=USER msg=audit(1.000:%d): x\n" % number for number in range(300)]


def serve(listener: socket.socket, seen: list[bytes], kind: int, count: int) -> None:
    """Take `count` records, answer each with a frame of this kind, two bytes at a time, then say no more."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        for _ in range(count):
            head = stream.read(feed.FRAME.size)
            magic, _, _, _, length, sequence = feed.FRAME.unpack(head)
            assert magic == feed.MAGIC
            seen.append(stream.read(length))
            answer = feed.FRAME.pack(feed.MAGIC, 0, 0, kind, 2, sequence) + b"ok"
            for at in range(0, len(answer), 2):
                connection.sendall(answer[at : at + 2])
        connection.shutdown(socket.SHUT_WR)
        stream.read()  # a socket closed with something unread takes back what it has sent


def fed(kind: int = feed.ACK, count: int = len(LINES)) -> list[bytes]:
    """What a server that answers so many records has got."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener, seen, kind, count))
        server.start()
        try:
            feed.feed(listener.getsockname()[1], feed.chunks_of(LINES), len(LINES))
        finally:
            server.join()
    return seen


def test_every_record_arrives_in_order() -> None:
    assert fed() == LINES


def test_a_closed_connection_is_an_error() -> None:
    with pytest.raises(feed.Refused, match="closed after 10 acknowledgements"):
        fed(count=10)


def test_an_answer_that_is_no_acknowledgement_is_an_error() -> None:
    with pytest.raises(feed.Refused, match="0x60000002"):
        fed(kind=0x60000002, count=1)
