"""The receiving end of the native protocol: a stream of numbered frames, each given out once, in order.

What the caller owes, and what the promise of exactly once rests on (docs/formats/protocol.md):

- A Hello is answered with what is on disk, read from the frames themselves, and only when every earlier connection of
  the same identity and spool has ended and what it gave out was stored or thrown away.
- `stored` is called for frames that are on disk, with everything before them.

What holds here: a frame is given out if it is the very next one, number and hash; one that was given out or stored
before is dropped, one that leaves a hole is refused; what was given out and not stored never weighs more than the
window that the sender was told.
"""

from __future__ import annotations

from collections import deque

import attrs

from audisp.buffer.segment import DamageError
from audisp.wire.native_frames import MAX_WEIGHT, Breach, DataFrame, Position, Reason
from audisp.wire.native_messages import (
    FRAMES,
    IDLE,
    VERSIONS,
    WINDOW,
    Ack,
    Hello,
    Message,
    Ping,
    Troubled,
    Welcome,
)
from audisp.wire.native_session import Session
from audisp.wire.native_states import FROM_SENDER, RECEIVER, Signal, State, signal_of
from audisp.wire.peer import Trouble


@attrs.frozen(eq=False)
class Accepted:
    """The next frame of the stream, to be stored. data: its records; empty for one that states a gap."""

    frame: DataFrame
    data: bytes

    @property
    def first(self) -> int:
        """Number of its first record."""
        return self.frame.first

    @property
    def count(self) -> int:
        """Its records."""
        return self.frame.count


@attrs.frozen
class Duplicate:
    """A frame that was given out or stored before; it is dropped, and what is stored is acknowledged again."""

    first: int
    count: int


@attrs.frozen
class Hole:
    """The sender left records out and did not say so. The session is dead, and the next `next` raises."""

    expected: int
    got: int


@attrs.frozen
class _GivenOut:
    after: Position
    weight: int


class Receiver(Session[Hello | Accepted | Duplicate | Hole]):
    """The receiving end of one connection. window: most weight of what is given out and not stored; at least
    MAX_WEIGHT. frames: most frames of that. idle: seconds of silence after which the sender is taken for dead."""

    def __init__(
        self, now: float, *, window: int = WINDOW, frames: int = FRAMES, idle: int = IDLE, software: str = ""
    ) -> None:
        if window < MAX_WEIGHT:
            raise ValueError(f"a window of {window} bytes, the heaviest frame has {MAX_WEIGHT}")
        super().__init__(RECEIVER, FROM_SENDER, State.FRESH, now, idle)
        self.under_way = 0
        """Weight of what was given out and not stored."""
        self._window, self._frames, self._software = window, frames, software
        self._hello: Hello | None = None
        self._stored: Position | None = None
        self._at: Position | None = None
        self._given: deque[_GivenOut] = deque()
        self._trouble: Troubled | None = None

    @property
    def frames(self) -> int:
        """Frames given out and not stored."""
        return len(self._given)

    def welcome(self, position: Position | None, now: float) -> None:
        """Answer a Hello with what is on disk of its stream, None if nothing is.

        Breach if that is more than the sender has: its spool was set back, and new records have old numbers.
        """
        self._move(Signal.WELCOME)
        hello = self._hello
        assert hello is not None
        self._heard = self._pinged = now
        if position is not None and position.next > hello.next:
            raise self._break(
                Breach(
                    Reason.AHEAD,
                    f"record {position.next} is next here and {hello.next} is next there: the spool was set back",
                )
            )
        self._stored = self._at = position
        version = max(set(hello.versions) & set(VERSIONS))
        welcome = Welcome(hello.spool, position, self._window, self._frames, self._idle, self._software, version)
        self._out.append(welcome.encode())
        if self._trouble is not None:
            self.trouble(self._trouble.trouble, self._trouble.text, self._trouble.retry)

    def stored(self, position: Position) -> None:
        """All frames up to the one with this `after` are on disk. Nothing if the session is over; LocalProtocolError
        if no frame given out ends there."""
        if self.over:
            return
        if not any(each.after == position for each in self._given):
            raise self._local(f"no frame that was given out and not stored ends at record {position.next}")
        while True:
            each = self._given.popleft()
            self.under_way -= each.weight
            if each.after == position:
                break
        self._stored = position
        self._acknowledge()

    def trouble(self, trouble: Trouble | None, text: str = "", retry: int | None = None) -> None:
        """Tell of trouble, None: that it is over. Before the welcome it is kept and told then.

        retry: seconds to stay away, if the connection is closed next. Nothing if the session is over. ValueError for
        ERROR, which is a word for C programs only.
        """
        if trouble is Trouble.ERROR:
            raise ValueError(f"{trouble} is no trouble of this protocol")
        self._trouble = Troubled(trouble, text, retry)
        signal = signal_of(trouble)
        if signal in self._table[self.state]:
            self._move(signal)
            self._say(self._trouble)

    def _ping(self) -> Ping:
        return Ping()

    def _on(self, message: Message) -> Hello:
        assert isinstance(message, Hello)
        self._move(Signal.HELLO)
        self._hello = message
        self._peer_idle = message.idle
        return message

    def _on_data(self, raw: bytes) -> Accepted | Duplicate | Hole | None:
        if self.state is State.ENDING:
            return None
        try:
            frame = DataFrame.read(raw)
            if not self._is_next(frame):
                return self._on_other(frame)
            weight = self.under_way + frame.weight
            if weight > self._window or len(self._given) >= self._frames:
                raise Breach(Reason.WINDOW, f"{weight} bytes in {len(self._given) + 1} frames under way: too much")
            data = frame.unpack()
        except DamageError as error:
            raise Breach(Reason.DAMAGED, f"DATA: {error}") from error
        self.under_way = weight
        self._at = frame.after
        self._given.append(_GivenOut(frame.after, frame.weight))
        return Accepted(frame, data)

    def _is_next(self, frame: DataFrame) -> bool:
        at = self._at
        if at is None:
            # Nothing is known of this stream: it begins where the sender said that it does, after whatever it says.
            assert self._hello is not None
            return frame.first == self._hello.first
        return frame.first == at.next and frame.head.previous == at.last

    def _on_other(self, frame: DataFrame) -> Duplicate | Hole:
        """A frame that is not the next one."""
        assert self._hello is not None
        at, after = self._at, frame.after
        expected = self._hello.first if at is None else at.next
        if frame.first > expected:
            self._failure = self._break(
                Breach(Reason.HOLE, f"records {expected} to {frame.first - 1} were left out, and no gap was stated")
            )
            return Hole(expected, frame.first)
        if at is not None and (after.next < at.next or after == at):
            self._acknowledge()
            return Duplicate(frame.first, frame.count)
        if frame.first == expected:
            raise Breach(Reason.CHAIN, f"the frame with record {frame.first} does not follow the one before it")
        raise Breach(
            Reason.DIVERGED, f"the frame with records {frame.first} to {after.next - 1} comes where {expected} is next"
        )

    def _acknowledge(self) -> None:
        if self._stored is not None and Signal.ACK in self._table[self.state]:
            self._say(Ack(self._stored))
