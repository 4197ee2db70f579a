"""Each end of the native protocol by itself: what it says, what it takes, what it refuses, and what it holds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import pytest
import zstandard

from audisp.buffer.segment import ANCHOR, MAX_FRAME, PREFIX_BYTES, Frame, encode_frame
from audisp.errors import LocalProtocolError, RemoteProtocolError
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
    Sender,
    State,
    Trouble,
    Troubled,
    Welcome,
    gap_frame,
)
from audisp.wire.native_frames import FrameType, wire_mark
from audisp.wire.native_map import MAX_CONTROL, read_map, write_map
from audisp.wire.native_messages import MESSAGES, Ack, Message
from audisp.wire.native_session import HANDSHAKE, MAX_FED, OVER, Session
from audisp.wire.native_states import FROM_RECEIVER, FROM_SENDER, RECEIVER, SENDER, SIGNALS, Signal, Table, signal_of
from tests.wire.streams import SPOOL, STAMP, chain, frame, joined, lines, sender, taken, wire

HASH: Final = bytes(range(32))


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


# The tables.


@pytest.mark.parametrize("table", [SENDER, RECEIVER])
def test_a_table_is_whole(table: Table) -> None:
    reached = {state for row in table.values() for state in row.values()} | {State.FRESH}
    assert reached == {state for state, row in table.items() if row} | {State.DEAD}
    assert {*table} - reached == {State.CLOSED}
    assert all(not table[state] for state in OVER)
    for state, row in table.items():
        # A refusal is heard wherever anything is, and a refused session is over.
        assert Signal.REFUSE not in row or row[Signal.REFUSE] is State.DEAD
        assert bool(row.keys() & {Signal.PING}) <= (Signal.REFUSE in row), state


def test_every_frame_comes_from_somebody_and_means_something() -> None:
    assert FROM_RECEIVER | FROM_SENDER == set(FrameType) == set(SIGNALS)
    assert {signal for meanings in SIGNALS.values() for signal in meanings} == set(Signal) - {Signal.RESUME}
    assert {signal_of(each) for each in (*Trouble, None)} == set(SIGNALS[FrameType.TROUBLE])


FRAMES: Final[dict[FrameType, bytes]] = {
    FrameType.HELLO: Hello(SPOOL, 1, 100).encode(),
    FrameType.WELCOME: Welcome(SPOOL, None).encode(),
    FrameType.DATA: wire(frame()),
    FrameType.ACK: Ack(Position(1, HASH)).encode(),
    FrameType.TROUBLE: Troubled(Trouble.DISK_LOW).encode(),
    FrameType.PING: Ping().encode(),
    FrameType.REFUSE: Refused("busy").encode(),
    FrameType.BYE: Bye().encode(),
}


def _paused() -> Sender:
    end = sending()
    taken(end, Troubled(Trouble.DISK_FULL).encode())
    return end


def _ending() -> Sender:
    end = sending()
    taken(end, Troubled(Trouble.ENDING).encode())
    return end


def _leaving() -> Sender:
    end = sending()
    end.bye()
    return end


def _ended() -> Receiver:
    end = receiving()
    end.trouble(Trouble.ENDING)
    return end


def _left() -> Receiver:
    end = receiving()
    taken(end, Bye().encode())
    return end


ENDS: Final[list[tuple[Callable[[], Session[Any]], State, Table, frozenset[FrameType]]]] = [
    (sender, State.GREETED, SENDER, FROM_RECEIVER),
    (sending, State.STREAMING, SENDER, FROM_RECEIVER),
    (_paused, State.PAUSED, SENDER, FROM_RECEIVER),
    (_ending, State.ENDING, SENDER, FROM_RECEIVER),
    (_leaving, State.LEAVING, SENDER, FROM_RECEIVER),
    (lambda: Receiver(0.0), State.FRESH, RECEIVER, FROM_SENDER),
    (receiving, State.STREAMING, RECEIVER, FROM_SENDER),
    (_ended, State.ENDING, RECEIVER, FROM_SENDER),
    (_left, State.LEAVING, RECEIVER, FROM_SENDER),
]


@pytest.mark.parametrize("kind", FrameType, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("make", "state", "table", "expects"), ENDS, ids=lambda value: getattr(value, "name", None))
def test_what_may_come_when(
    make: Callable[[], Session[Any]], state: State, table: Table, expects: frozenset[FrameType], kind: FrameType
) -> None:
    session = make()
    assert session.state is state
    if kind in expects and not table[state].keys().isdisjoint(SIGNALS[kind]):
        if kind is FrameType.ACK:
            assert refused(session, FRAMES[kind]).reason is Reason.FORGED
        else:
            taken(session, FRAMES[kind])
            assert session.state in {table[state][signal] for signal in SIGNALS[kind] if signal in table[state]}
    else:
        # By the prefix alone: what may not come is not awaited.
        breach = refused(session, FRAMES[kind][:PREFIX_BYTES])
        assert breach.reason is Reason.ORDER
        assert kind.name in str(breach)


@pytest.mark.parametrize(
    "session", [sender(), Receiver(0.0), sending(), receiving()], ids=lambda each: type(each).__name__
)
def test_another_protocol_is_told_nothing(session: Session[Any]) -> None:
    breach = refused(session, b"HTTP/1.1 400 Bad Request\r\n")
    assert "b'HTTP/1.1 400 Bad'" in str(breach)
    assert breach.silent


def unknown(kind: int) -> bytes:
    fixed = struct.pack("<8sIIII", wire_mark(kind), 1, 0, 0, zlib.crc32(b"\x80"))
    return fixed + struct.pack("<I", zlib.crc32(fixed)) + b"\x80"


@pytest.mark.parametrize(
    "session", [sender(), Receiver(0.0), sending(), receiving()], ids=lambda each: type(each).__name__
)
def test_an_unknown_type_is_refused_with_a_reason(session: Session[Any]) -> None:
    breach = refused(session, unknown(99)[:PREFIX_BYTES])
    assert (breach.reason, str(breach)) == (Reason.TYPE, "frame of unknown type 99")


def test_a_map_that_cannot_be_read() -> None:
    body = b"\x82\xa1a\x01\xa1a\x01"
    fixed = struct.pack("<8sIIII", wire_mark(FrameType.PING), len(body), 0, 0, zlib.crc32(body))
    breach = refused(sending(), fixed + struct.pack("<I", zlib.crc32(fixed)) + body)
    assert (breach.reason, str(breach)) == (Reason.MESSAGE, "PING: not the msgpack expected: a key stands twice")


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


# Either end: time, the connection's end, memory.


def test_signs_of_life() -> None:
    here, there = joined()
    here, there = sender(idle=60), Receiver(0.0, idle=30)
    taken(there, here.take(), 1.0)
    there.welcome(None, 2.0)
    taken(here, there.take(), 3.0)
    here.resume(None, 4.0)
    # Each pings three times within what the other one waits.
    assert (here.deadline, there.deadline) == (10.0, 22.0)
    here.tick(9.9)
    assert here.take() == b""
    here.following = 500
    here.tick(10.0)
    assert taken(there, here.take(), 10.0) == [Ping(500)]
    assert there.deadline == 22.0
    there.tick(22.0)
    there.tick(22.1)
    assert taken(here, there.take(), 22.5) == [Ping()]
    assert here.deadline == 20.0
    # And takes the other one for dead when it has heard nothing for so long as it said.
    there.tick(39.9)
    with pytest.raises(Breach, match="nothing was heard for 30 s") as caught:
        there.tick(40.0)
    assert caught.value.reason is Reason.IDLE
    assert [type(each) for each in said(there)] == [Refused]
    with pytest.raises(Breach, match="nothing was heard for 60 s"):
        here.tick(82.5)
    here.tick(999.0)


def test_a_greeting_has_to_come_in_time_however_it_comes() -> None:
    end = Receiver(100.0)
    assert end.deadline == 100.0 + HANDSHAKE
    for n, byte in enumerate(Hello(SPOOL, 1, 1).encode()[:14]):
        end.feed(bytes([byte]), 101.0 + n)
        assert end.next() is None
        end.tick(101.0 + n)
    with pytest.raises(Breach):
        end.tick(100.0 + HANDSHAKE)


def test_our_own_slowness_is_no_silence_of_the_peer() -> None:
    end = greeted(idle=5)
    end.tick(1_000.0)
    assert said(end) == [Ping()]
    end.welcome(None, 1_000.0)
    end.tick(1_004.9)
    with pytest.raises(Breach):
        end.tick(1_005.0)


def test_the_collector_is_awaited_as_long_as_it_shows_life() -> None:
    end = sender(idle=10)
    end.take()
    for now in (9.0, 18.0, 27.0):
        end.tick(now)
        assert taken(end, Ping().encode(), now) == [Ping()]
    with pytest.raises(Breach):
        end.tick(37.0)


@pytest.mark.parametrize("make", [sender, sending, lambda: Receiver(0.0), greeted, receiving])
def test_the_connection_ends(make: Callable[[], Session[Any]]) -> None:
    for part in (b"", Ping().encode()[:9]):
        session = make()
        if part:
            session.feed(part, 0.0)
        session.feed(b"", 0.0)
        assert taken(session) == [Closed(False)]
        assert session.state is State.CLOSED
        assert session.next() is None
        assert session.deadline is None
        assert session.buffered == 0


def test_a_goodbye_with_half_a_frame_behind_it_is_not_clean() -> None:
    end = _left()
    end.feed(Ping().encode()[:9], 0.0)
    end.feed(b"", 0.0)
    assert taken(end) == [Closed(False)]


def test_what_came_before_the_end_is_heard() -> None:
    end = receiving()
    end.feed(wire(frame()), 0.0)
    end.feed(b"", 0.0)
    assert [type(event) for event in taken(end)] == [Accepted, Closed]


def test_no_more_is_held_than_one_frame_and_what_was_fed() -> None:
    # A peer that may send data gets a frame's worth of memory, one that may not a control frame's.
    noise = bytes(range(256)).replace(b"\n", b"") * 4_000
    big = wire(DataFrame.make(Frame(1, 1, "x", {}, ANCHOR, 0, noise[:1_000_000] + b"\n")))
    end = receiving()
    peak = 0
    for at in range(0, len(big), 1_000):
        end.feed(big[at : at + 1_000], 0.0)
        peak = max(peak, end.buffered)
        end.next()
    assert peak <= len(big) <= MAX_FRAME
    assert end.buffered == 0
    end = Receiver(0.0)
    fixed = struct.pack("<8sIIII", wire_mark(FrameType.HELLO), MAX_CONTROL, 0, 0, 0)
    end.feed(fixed + struct.pack("<I", zlib.crc32(fixed)), 0.0)
    end.feed(bytes(MAX_CONTROL - 1), 0.0)
    assert end.next() is None
    end.feed(b"x", 0.0)
    with pytest.raises(Breach):
        end.next()


def test_a_sender_that_does_not_wait_for_its_welcome() -> None:
    end = greeted()
    flood = wire(*chain(*[500] * 40))
    with pytest.raises(Breach, match="does not wait"):  # noqa: PT012
        for _ in range(1_000):
            end.feed(flood, 0.0)
            end.next()
            assert end.buffered <= MAX_FED + MAX_CONTROL + PREFIX_BYTES + len(flood)
    assert end.buffered == 0


def test_what_is_fed_has_to_be_taken() -> None:
    end = receiving()
    with pytest.raises(LocalProtocolError, match="fed and not taken"):  # noqa: PT012
        for _ in range(100):
            end.feed(bytes(100_000), 0.0)
    assert end.buffered == 0


def test_a_peer_that_never_reads_makes_nothing_grow() -> None:
    end = receiving()
    for each in chain(*[1] * 300):
        (event,) = taken(end, wire(each))
        end.stored(event.frame.after)
        end.trouble(Trouble.DISK_LOW)
        end.trouble(None)
    for now in range(20, 60, 20):
        end.tick(float(now))
    assert len(end.take()) < 500


def test_maps_are_written_as_they_are_read() -> None:
    assert read_map(write_map({"a": [1, "b", b"c", None, True]})) == {"a": [1, "b", b"c", None, True]}
