"""What holds of both ends of the native protocol: their tables, signs of life, the end, and what they hold."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import pytest

from audisp.buffer.segment import ANCHOR, MAX_FRAME, PREFIX_BYTES, Frame
from audisp.errors import LocalProtocolError
from audisp.wire.native import (
    Accepted,
    Breach,
    Bye,
    Closed,
    DataFrame,
    Hello,
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
)
from audisp.wire.native_frames import FrameType, wire_mark
from audisp.wire.native_map import MAX_CONTROL, read_map, write_map
from audisp.wire.native_messages import Ack
from audisp.wire.native_session import HANDSHAKE, MAX_FED, OVER, Session
from audisp.wire.native_states import FROM_RECEIVER, FROM_SENDER, RECEIVER, SENDER, SIGNALS, Signal, Table, signal_of
from tests.wire.streams import (
    HASH,
    SPOOL,
    chain,
    frame,
    greeted,
    joined,
    receiving,
    refused,
    said,
    sender,
    sending,
    taken,
    wire,
)

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
