"""Streams of frames for tests, and two ends of the native protocol brought together."""

from __future__ import annotations

import struct
from typing import Any, Final

import pytest

from audisp.buffer.segment import ANCHOR, PREFIX_BYTES, Frame
from audisp.errors import RemoteProtocolError
from audisp.wire.native import (
    DATA_MARK,
    MAX_WEIGHT,
    Breach,
    DataFrame,
    Hello,
    Ping,
    Position,
    Receiver,
    Refused,
    Sender,
    State,
    Welcome,
)
from audisp.wire.native_map import read_map
from audisp.wire.native_messages import MESSAGES, Message
from audisp.wire.native_session import Session

SPOOL: Final = bytes(range(16))
HASH: Final = bytes(range(32))
STAMP: Final = 1_700_000_000_000_000_000


def lines(first: int, count: int) -> bytes:
    """Numbered records."""
    return b"".join(b"type=SYSCALL msg=audit(1700000000.000:%d): arch=c000003e\n" % (first + n) for n in range(count))


def frame(first: int = 1, count: int = 3, previous: bytes = ANCHOR, **books: Any) -> DataFrame:
    """A frame of numbered records."""
    return DataFrame.make(Frame(first, count, "netlink", books, previous, STAMP, lines(first, count)))


def chain(*counts: int, first: int = 1, previous: bytes = ANCHOR) -> list[DataFrame]:
    """Frames that follow each other, with so many records each."""
    made = []
    at = Position(first, previous)
    for count in counts:
        made.append(frame(at.next, count, at.last))
        at = made[-1].after
    return made


def wire(*frames: DataFrame) -> bytes:
    """As they go over the wire."""
    return b"".join(each.under(DATA_MARK) for each in frames)


def taken(session: Any, data: bytes = b"", now: float = 0.0) -> list[Any]:
    """The events of these bytes."""
    if data:
        session.feed(data, now)
    events = []
    while (event := session.next()) is not None:
        events.append(event)
    return events


def sender(first: int = 1, following: int = 100, **options: Any) -> Sender:
    """A sender that has not said anything yet."""
    return Sender(0.0, spool=SPOOL, first=first, following=following, **options)


def joined(position: Position | None = None, first: int = 1, **options: Any) -> tuple[Sender, Receiver]:
    """Both ends, streaming."""
    here, there = sender(first), Receiver(0.0, **options)
    (hello,) = taken(there, here.take())
    assert isinstance(hello, Hello)
    there.welcome(position, 0.0)
    (welcome,) = taken(here, there.take())
    assert isinstance(welcome, Welcome)
    here.resume(None, 0.0)
    return here, there


def said(session: Session[Any]) -> list[Message]:
    """The control frames that a session has to send, decoded."""
    data, found = session.take(), []
    while data:
        head = struct.unpack_from("<I", data, 8)[0]
        kind = int.from_bytes(data[6:8], "little")
        found.append(MESSAGES[kind].decode(read_map(data[PREFIX_BYTES : PREFIX_BYTES + head])))
        data = data[PREFIX_BYTES + head :]
    return found


def refused(session: Session[Any], data: bytes) -> Breach:
    """The breach that these bytes are; the session is then dead, and says why."""
    session.take()
    session.feed(data, 0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        taken(session)
    breach = caught.value
    assert isinstance(breach, Breach)
    assert session.state is State.DEAD
    assert session.buffered == 0
    assert session.deadline is None
    assert said(session) == ([] if breach.silent else [Refused(breach.reason, str(breach))])
    assert taken(session, Ping().encode()) == []
    return breach


def greeted(hello: Hello | None = None, **options: Any) -> Receiver:
    """A receiver that has been greeted."""
    receiver = Receiver(0.0, **options)
    hello = hello or Hello(SPOOL, 1, 100)
    assert taken(receiver, hello.encode()) == [hello]
    return receiver


def receiving(position: Position | None = None, **options: Any) -> Receiver:
    """A receiver that streams."""
    receiver = greeted(**options)
    receiver.welcome(position, 0.0)
    receiver.take()
    return receiver


def sending(position: Position | None = None, window: int = MAX_WEIGHT, frames: int = 1_024) -> Sender:
    """A sender that streams."""
    end = sender()
    end.take()
    welcome = Welcome(SPOOL, position, window, frames)
    assert taken(end, welcome.encode()) == [welcome]
    end.resume(None, 0.0)
    return end
