"""Streams of frames for tests, and two ends of the native protocol brought together."""

from __future__ import annotations

from typing import Any, Final

from audisp.buffer.segment import ANCHOR, Frame
from audisp.wire.native import DATA_MARK, DataFrame, Hello, Position, Receiver, Sender, Welcome

SPOOL: Final = bytes(range(16))
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
