"""The sending end of the native protocol by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audisp.buffer.segment import ANCHOR, Frame
from audisp.errors import LocalProtocolError
from audisp.wire.native import (
    MAX_WEIGHT,
    Acknowledged,
    Breach,
    Closed,
    DataFrame,
    Gap,
    Hello,
    Position,
    Reason,
    Refused,
    Sender,
    State,
    Trouble,
    Troubled,
    Welcome,
    gap_frame,
)
from audisp.wire.native_messages import Ack
from tests.wire.streams import (
    HASH,
    SPOOL,
    STAMP,
    chain,
    frame,
    joined,
    refused,
    said,
    sender,
    sending,
    taken,
    wire,
)

# A sender.


def test_a_sender_greets_at_once() -> None:
    assert said(sender(software="audisp 9", idle=30)) == [Hello(SPOOL, 1, 100, 30, "audisp 9")]


def test_nothing_is_sent_before_the_place_is_known() -> None:
    end = sender()
    end.take()
    assert not end.fits(frame())
    welcome = Welcome(SPOOL, Position(4, frame().digest))
    # What comes behind the welcome waits for our answer to it.
    assert taken(end, welcome.encode() + Troubled(Trouble.DISK_LOW).encode()) == [welcome]
    assert (end.state, end.next_record, end.deadline) == (State.RESUMING, 1, 20.0)
    assert not end.fits(frame())
    end.resume(frame().digest, 3.0)
    assert end.next_record == 4
    assert taken(end) == [Troubled(Trouble.DISK_LOW)]


def test_a_collector_that_never_heard_of_the_stream() -> None:
    end = sending(None)
    one, two = chain(3, 2, previous=HASH)
    end.send(one)
    end.send(two)
    assert end.take() == wire(one, two)
    assert (end.next_record, end.frames, end.under_way) == (6, 2, one.weight + two.weight)
    assert taken(end, Ack(one.after).encode()) == [Acknowledged(4, 1)]
    # Again, as after a duplicate: nothing new.
    assert taken(end, Ack(one.after).encode()) == []
    assert taken(end, Ack(two.after).encode()) == [Acknowledged(6, 1)]
    assert (end.frames, end.under_way) == (0, 0)


def test_the_place_of_the_welcome_is_acknowledged() -> None:
    # A collector that sees a duplicate says again what is on disk, though nothing was stored in this session.
    end = sending(Position(4, HASH))
    assert taken(end, Ack(Position(4, HASH)).encode()) == []
    assert refused(end, Ack(Position(3, HASH)).encode()).reason is Reason.FORGED


def test_one_acknowledgement_for_many_frames() -> None:
    end = sending()
    frames = chain(*[1] * 10)
    for each in frames:
        end.send(each)
    assert taken(end, Ack(frames[6].after).encode()) == [Acknowledged(8, 7)]
    assert end.under_way == sum(each.weight for each in frames[7:])


@pytest.mark.parametrize(
    "position",
    [
        Position(4, ANCHOR),
        Position(2, frame().digest),
        Position(7, chain(3, 3)[1].digest),
        Position(2**63 - 1, ANCHOR),
        Position(1, ANCHOR),
    ],
)
def test_a_forged_acknowledgement(position: Position) -> None:
    end = sending()
    end.send(frame())
    assert refused(end, Ack(position).encode()).reason is Reason.FORGED
    assert end.frames == 1


def test_an_acknowledgement_goes_back_no_more() -> None:
    end = sending()
    one, two = chain(1, 1)
    end.send(one)
    end.send(two)
    taken(end, Ack(two.after).encode())
    assert refused(end, Ack(one.after).encode()).reason is Reason.FORGED


@pytest.mark.parametrize(
    ("welcome", "reason"),
    [
        (Welcome(bytes(16), None), Reason.MESSAGE),
        (Welcome(SPOOL, Position(101, HASH)), Reason.AHEAD),
    ],
)
def test_a_welcome_that_is_refused(welcome: Welcome, reason: Reason) -> None:
    assert refused(sender(), welcome.encode()).reason is reason


def test_a_collector_with_other_records_under_our_numbers() -> None:
    end = sender()
    end.take()
    taken(end, Welcome(SPOOL, Position(4, HASH)).encode())
    with pytest.raises(Breach, match="other records before number 4") as caught:
        end.resume(frame().digest, 0.0)
    assert caught.value.reason is Reason.DIVERGED
    assert [type(each) for each in said(end)] == [Refused]


def test_the_window() -> None:
    big = DataFrame.make(Frame(1, 1, "x", {}, ANCHOR, 0, b"x" * 900_000 + b"\n"))
    end = sending(window=MAX_WEIGHT)
    assert end.fits(big)
    end.send(big)
    after = DataFrame.make(Frame(2, 1, "x", {}, big.digest, 0, b"x" * 900_000 + b"\n"))
    assert end.fits(after)
    end.send(after)
    assert MAX_WEIGHT - end.under_way < big.weight
    third = DataFrame.make(Frame(3, 1, "x", {}, after.digest, 0, b"x" * 900_000 + b"\n"))
    assert not end.fits(third)
    with pytest.raises(LocalProtocolError, match="window is full"):
        end.send(third)
    assert end.state is State.DEAD
    assert end.take() == b""


def test_frames_are_bounded_too() -> None:
    end = sending(frames=2)
    one, two, three = chain(1, 1, 1)
    end.send(one)
    end.send(two)
    assert not end.fits(three)
    taken(end, Ack(one.after).encode())
    assert end.fits(three)


def test_trouble_stops_a_sender_and_clear_starts_it() -> None:
    end = sending()
    one, two = chain(1, 1)
    end.send(one)
    for trouble in (Trouble.DISK_LOW, Trouble.WARNING):
        assert taken(end, Troubled(trouble, "text").encode()) == [Troubled(trouble, "text")]
        assert end.fits(two)
    for trouble in (Trouble.DISK_FULL, Trouble.DISK_ERROR, Trouble.SUSPENDED, Trouble.DISK_LOW):
        assert taken(end, Troubled(trouble).encode()) == [Troubled(trouble)]
        assert end.state is State.PAUSED
        assert not end.fits(two)
    assert taken(end, Ack(one.after).encode()) == [Acknowledged(2, 1)]
    assert taken(end, Troubled(None).encode()) == [Troubled(None)]
    end.send(two)
    assert taken(end, Troubled(Trouble.ENDING, retry=7).encode()) == [Troubled(Trouble.ENDING, "", 7)]
    assert not end.fits(chain(1, first=3, previous=two.digest)[0])
    assert taken(end, Ack(two.after).encode()) == [Acknowledged(3, 1)]
    assert taken(end) == []
    end.feed(b"", 0.0)
    assert taken(end) == [Closed(True)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda end: end.send(frame(5, 1)), "record 5 is to be sent and 4 is next"),
        (lambda end: end.send(frame(1, 1)), "record 1 is to be sent and 4 is next"),
        (lambda end: end.send(frame(4, 1)), "does not follow"),
        (lambda end: end.resume(None, 0.0), "RESUME is not to be sent now"),
        (lambda end: (end.bye(), end.bye()), "BYE is not to be sent now"),
        (lambda end: (end.bye(), end.send(frame(4, 1, frame().digest))), "DATA is not to be sent now"),
    ],
)
def test_a_senders_own_mistakes(wrong: Callable[[Sender], object], message: str) -> None:
    end = sending()
    end.send(frame())
    end.take()
    with pytest.raises(LocalProtocolError, match=message):
        wrong(end)
    assert end.state is State.DEAD
    assert end.take() == b""


def test_what_is_no_longer_there_is_said() -> None:
    end = sending(Position(4, HASH))
    (later,) = chain(2, first=9, previous=ANCHOR)
    end.gap(9, "dropped", later.head.previous, STAMP)
    end.send(later)
    gap = gap_frame(Position(4, HASH), 9, "dropped", ANCHOR, STAMP)
    assert end.take() == wire(gap, later)
    assert taken(end, Ack(gap.after).encode()) == [Acknowledged(9, 1)]
    with pytest.raises(ValueError, match="gap"):
        end.gap(11, "dropped", later.digest, STAMP)


def test_a_gap_at_the_very_beginning() -> None:
    end, there = joined(None, 5)
    end.gap(9, "damaged", HASH, STAMP)
    (accepted,) = taken(there, end.take())
    assert accepted.frame.gap == Gap(5, 4, "damaged", HASH)
    assert accepted.frame.after == Position(9, HASH)
