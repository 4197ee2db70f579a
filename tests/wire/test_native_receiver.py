"""The receiving end of the native protocol by itself."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import pytest
import zstandard

from audisp.buffer.segment import ANCHOR, PREFIX_BYTES, Frame, encode_frame
from audisp.errors import LocalProtocolError
from audisp.wire.native import (
    DATA_MARK,
    MAX_WEIGHT,
    Accepted,
    Acknowledged,
    Breach,
    Bye,
    Closed,
    DataFrame,
    Duplicate,
    Gap,
    Hello,
    Hole,
    Ping,
    Position,
    Reason,
    Receiver,
    Refused,
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
    greeted,
    joined,
    lines,
    receiving,
    refused,
    said,
    sender,
    sending,
    taken,
    wire,
)

# A receiver.


def test_a_receiver_asks_what_is_stored_and_then_welcomes() -> None:
    end = Receiver(0.0, software="audisp 9", idle=30, window=MAX_WEIGHT, frames=7)
    hello = Hello(SPOOL, 1, 100)
    # What comes behind the greeting waits for our answer to it.
    assert taken(end, hello.encode() + Ping(100).encode()) == [hello]
    assert end.take() == b""
    end.welcome(Position(4, HASH), 0.0)
    assert said(end) == [Welcome(SPOOL, Position(4, HASH), MAX_WEIGHT, 7, 30, "audisp 9")]
    assert taken(end) == [Ping(100)]


def test_frames_are_given_out_once_in_order() -> None:
    end = receiving()
    one, two, empty, three = chain(3, 2, 0, 1, previous=HASH)
    events = taken(end, wire(one, two))
    assert [(event.first, event.count, event.data) for event in events] == [(1, 3, lines(1, 3)), (4, 2, lines(4, 2))]
    assert events[0].frame.raw == wire(one)
    assert (end.frames, end.under_way) == (2, one.weight + two.weight)
    assert taken(end, wire(one)) == [Duplicate(1, 3)]
    assert said(end) == []  # nothing is stored yet
    end.stored(one.after)
    assert said(end) == [Ack(one.after)]
    assert taken(end, wire(one, two)) == [Duplicate(1, 3), Duplicate(4, 2)]
    assert said(end) == [Ack(one.after)]
    # Books alone: they move no number, and are known by their hash.
    assert [event.count for event in taken(end, wire(empty))] == [0]
    assert taken(end, wire(empty)) == [Duplicate(6, 0)]
    assert [event.first for event in taken(end, wire(three))] == [6]
    assert taken(end, wire(empty, three)) == [Duplicate(6, 0), Duplicate(6, 1)]
    end.stored(empty.after)
    end.stored(three.after)
    # Of acknowledgements that were not taken, the newest says it all.
    assert said(end) == [Ack(three.after)]
    assert (end.frames, end.under_way) == (0, 0)


def test_a_hole_is_told_to_both_ends() -> None:
    end = receiving(Position(4, HASH))
    (later,) = chain(1, first=6, previous=HASH)
    assert taken_until_error(end, wire(later)) == [Hole(4, 6)]
    (told,) = said(end)
    assert told == Refused("hole", "records 4 to 5 were left out, and no gap was stated")
    here = sending()
    assert taken(here, told.encode()) == [told]
    assert here.state is State.DEAD


def taken_until_error(end: Receiver, data: bytes) -> list[Any]:
    end.feed(data, 0.0)
    events = [end.next()]
    with pytest.raises(Breach, match="records 4 to 5 were left out"):
        end.next()
    assert end.next() is None
    return events


OTHER: Final = DataFrame.make(Frame(4, 1, "x", {"not": "the same"}, HASH, STAMP, lines(4, 1)))
GAP: Final = gap_frame(Position(4, HASH), 9, "dropped", bytes(32), STAMP)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wire(frame(4, 1, ANCHOR)), Reason.CHAIN),
        (wire(frame(4, 0, ANCHOR)), Reason.CHAIN),
        (wire(frame(3, 2, HASH)), Reason.DIVERGED),
        (wire(frame(3, 1, HASH)), Reason.DIVERGED),
        (wire(OTHER, frame(5, 1, HASH)), Reason.CHAIN),
        (wire(gap_frame(Position(2, HASH), 6, "x", HASH, 0)), Reason.DIVERGED),
        (wire(gap_frame(Position(4, ANCHOR), 6, "x", HASH, 0)), Reason.CHAIN),
        (wire(GAP, frame(9, 1, HASH)), Reason.CHAIN),
        (wire(frame(4, 1, HASH))[:-1] + b"\xff", Reason.DAMAGED),
    ],
)
def test_frames_that_do_not_follow(data: bytes, reason: Reason) -> None:
    assert refused(receiving(Position(4, HASH)), data).reason is reason


def test_a_gap_is_given_out_like_any_frame() -> None:
    end = receiving(Position(4, HASH))
    (event,) = taken(end, wire(GAP))
    assert (event.frame.gap, event.data) == (Gap(4, 5, "dropped", bytes(32)), b"")
    assert taken(end, wire(GAP)) == [Duplicate(4, 0)]
    end.stored(event.frame.after)
    assert said(end) == [Ack(Position(9, bytes(32)))]
    assert [event.first for event in taken(end, wire(frame(9, 1, bytes(32))))] == [9]
    assert taken(end, wire(GAP)) == [Duplicate(4, 0)]


def test_a_stream_begins_where_the_sender_says() -> None:
    end = greeted(Hello(SPOOL, 50, 100))
    end.welcome(None, 0.0)
    assert [event.first for event in taken(end, wire(frame(50, 1, HASH)))] == [50]
    for first, reason in ((49, Reason.DIVERGED), (48, Reason.DIVERGED)):
        end = greeted(Hello(SPOOL, 50, 100))
        end.welcome(None, 0.0)
        assert refused(end, wire(frame(first, 2, HASH))).reason is reason
    end = greeted(Hello(SPOOL, 50, 100))
    end.welcome(None, 0.0)
    assert taken_hole(end, wire(frame(51, 1, HASH))) == Hole(50, 51)


def taken_hole(end: Receiver, data: bytes) -> Any:
    end.feed(data, 0.0)
    return end.next()


def bomb(plain: int, content: bytes, **options: Any) -> bytes:
    """A frame with right checksums around whatever is put in."""
    whole, _ = encode_frame(Frame(4, 1, "x", {}, HASH, STAMP, b"a\n"), DATA_MARK)
    head = whole[PREFIX_BYTES : PREFIX_BYTES + struct.unpack_from("<I", whole, 8)[0]]
    packed = zstandard.ZstdCompressor(**options).compress(content)
    body = head + packed
    fixed = struct.pack("<8sIIII", DATA_MARK, len(head), len(packed), plain, zlib.crc32(body))
    return fixed + struct.pack("<I", zlib.crc32(fixed)) + body


@pytest.mark.parametrize(
    "data",
    [
        bomb(1 << 20, bytes(64 << 20)),
        bomb(2, bytes(1 << 20)),
        bomb(2, b"a\n", write_content_size=False),
        bomb(3, b"a\n"),
        bomb(4, b"a\nb\n"),
        bomb(0, b""),
    ],
)
def test_bombs_and_lies(data: bytes) -> None:
    assert refused(receiving(Position(4, HASH)), data).reason is Reason.DAMAGED


def test_the_window_is_held() -> None:
    heavy = []
    at = Position(1, ANCHOR)
    for _ in range(4):
        heavy.append(DataFrame.make(Frame(at.next, 1, "x", {}, at.last, 0, b"x" * 1_000_000 + b"\n")))
        at = heavy[-1].after
    end = receiving(window=MAX_WEIGHT)
    assert len(taken(end, wire(*heavy[:2]))) == 2
    # What is stored makes room.
    end.stored(heavy[0].after)
    assert len(taken(end, wire(heavy[2]))) == 1
    breach = refused(end, wire(heavy[3]))
    assert breach.reason is Reason.WINDOW
    assert end.under_way <= MAX_WEIGHT
    end = receiving(frames=2)
    frames = chain(1, 1, 1)
    assert len(taken(end, wire(*frames[:2]))) == 2
    assert refused(end, wire(frames[2])).reason is Reason.WINDOW


def test_a_spool_that_was_set_back() -> None:
    end = greeted(Hello(SPOOL, 1, 5))
    with pytest.raises(Breach, match="set back") as caught:
        end.welcome(Position(6, HASH), 0.0)
    assert caught.value.reason is Reason.AHEAD
    assert [type(each) for each in said(end)] == [Refused]
    end = greeted(Hello(SPOOL, 1, 5))
    end.welcome(Position(5, HASH), 0.0)


def test_trouble_is_told_and_what_is_under_way_is_still_taken() -> None:
    end = receiving()
    end.trouble(Trouble.DISK_FULL, "no space")
    assert said(end) == [Troubled(Trouble.DISK_FULL, "no space")]
    (event,) = taken(end, wire(frame()))
    assert isinstance(event, Accepted)
    # Of what was not taken, the newest is enough.
    end.trouble(Trouble.SUSPENDED)
    end.trouble(None)
    end.stored(event.frame.after)
    assert said(end) == [Troubled(None), Ack(event.frame.after)]
    end.trouble(Trouble.ENDING, retry=5)
    end.trouble(Trouble.DISK_LOW)
    assert said(end) == [Troubled(Trouble.ENDING, "", 5)]
    with pytest.raises(ValueError, match="no trouble of this protocol"):
        end.trouble(Trouble.ERROR)


def test_trouble_before_the_welcome_is_told_after_it() -> None:
    end = Receiver(0.0)
    end.trouble(Trouble.DISK_LOW)
    taken(end, Hello(SPOOL, 1, 1).encode())
    end.trouble(Trouble.ENDING)
    assert end.take() == b""
    end.welcome(None, 0.0)
    assert said(end) == [Welcome(SPOOL, None), Troubled(Trouble.ENDING)]
    assert end.state is State.ENDING


def test_in_ending_data_passes_unseen_and_what_was_taken_is_acknowledged() -> None:
    end = receiving()
    one, two = chain(1, 1)
    taken(end, wire(one))
    end.trouble(Trouble.ENDING)
    assert taken(end, wire(two)) == []
    end.stored(one.after)
    assert said(end) == [Troubled(Trouble.ENDING), Ack(one.after)]
    assert taken(end, Bye().encode()) == [Bye()]
    end.feed(b"", 0.0)
    assert taken(end) == [Closed(True)]


def test_a_sender_that_leaves_is_told_what_is_stored() -> None:
    here, there = joined()
    here.send(frame())
    here.bye()
    (accepted, bye) = taken(there, here.take())
    assert bye == Bye()
    there.stored(accepted.frame.after)
    there.trouble(Trouble.DISK_LOW)
    assert taken(here, there.take()) == [Acknowledged(4, 1), Troubled(Trouble.DISK_LOW)]
    here.feed(b"", 0.0)
    there.feed(b"", 0.0)
    assert taken(here) == taken(there) == [Closed(True)]


def test_when_it_is_over_nothing_is_said() -> None:
    end = receiving()
    (event,) = taken(end, wire(frame()))
    end.feed(b"", 0.0)
    assert taken(end) == [Closed(False)]
    end.stored(event.frame.after)
    end.trouble(Trouble.DISK_LOW)
    end.refuse(Reason.BUSY, "too late")
    assert end.take() == b""
    assert end.over


@pytest.mark.parametrize(
    "wrong",
    [
        lambda end: end.stored(Position(4, HASH)),
        lambda end: end.welcome(None, 0.0),
    ],
)
def test_a_receivers_own_mistakes(wrong: Callable[[Receiver], object]) -> None:
    end = receiving()
    taken(end, wire(frame()))
    with pytest.raises(LocalProtocolError):
        wrong(end)
    assert end.state is State.DEAD
    assert end.take() == b""


def test_a_window_that_no_frame_fits_into() -> None:
    with pytest.raises(ValueError, match="the heaviest frame"):
        Receiver(0.0, window=MAX_WEIGHT - 1)


def test_refused_at_the_door() -> None:
    end = greeted()
    end.refuse(Reason.IDENTITY, "disabled", retry=60)
    (told,) = said(end)
    assert told == Refused("identity", "disabled", 60)
    here = sender()
    assert taken(here, told.encode()) == [told]
    assert here.over
    assert here.next() is None
