"""The sending end of the native protocol: one stream of numbered frames, from a spool to a collector.

What the caller owes, and what the promise of exactly once rests on (docs/formats/protocol.md):

- Only frames that are on disk are sent. A number that was once sent names that record for ever.
- What is acknowledged is on the collector's disk and may be removed; everything else is kept, and sent again on the
  next connection. Nothing of a frame is kept here once it was given out by `take`.
- What it no longer has it says (`gap`), before it sends what stands behind it.
"""

from __future__ import annotations

from collections import deque

import attrs

from audisp.buffer.segment import ANCHOR
from audisp.wire.native_frames import DATA_MARK, Breach, DataFrame, Position, Reason, gap_frame
from audisp.wire.native_messages import IDLE, Ack, Bye, Hello, Message, Ping, Troubled, Welcome
from audisp.wire.native_session import Session
from audisp.wire.native_states import FROM_RECEIVER, SENDER, Signal, State, signal_of


@attrs.frozen
class Acknowledged:
    """Records with a number below `upto` are on the collector's disk. frames: how many this has settled."""

    upto: int
    frames: int


@attrs.frozen
class _UnderWay:
    after: Position
    weight: int


class Sender(Session[Welcome | Acknowledged | Troubled]):
    """The sending end of one connection; it greets at once.

    spool: 16 bytes that name the stream. first: number of the first record of the oldest frame that the spool has,
    equal to `following` if it has none. following: number after the last record that is on disk, synced. idle:
    seconds of silence after which the collector is taken for dead.
    """

    def __init__(
        self, now: float, *, spool: bytes, first: int, following: int, idle: int = IDLE, software: str = ""
    ) -> None:
        super().__init__(SENDER, FROM_RECEIVER, State.FRESH, now, idle)
        self.following = following
        """Number after the last record that is on disk; the caller keeps it up to date, for the collector to know how
        far behind it is."""
        self.under_way = 0
        """Weight of what was sent and not acknowledged."""
        self._hello = Hello(spool, first, following, idle, software)
        self._welcome: Welcome | None = None
        self._at = Position(first, b"")
        self._acknowledged: Position | None = None
        self._sent: deque[_UnderWay] = deque()
        self._move(Signal.HELLO)
        self._out.append(self._hello.encode())

    @property
    def next_record(self) -> int:
        """Number of the record to be sent next."""
        return self._at.next

    @property
    def frames(self) -> int:
        """Frames sent and not acknowledged."""
        return len(self._sent)

    def resume(self, last: bytes | None, now: float) -> None:
        """Answer a Welcome: the spool stands where the collector wants the stream to go on.

        last: hash of the frame before that place (`previous` of the one that begins there), None if the spool does not
        know it because it no longer has either, or if the collector has nothing of this stream. Breach if the
        collector's is another: under these numbers it has other records, and nothing of the spool may be removed.
        When this returns, all before the place counts as acknowledged.
        """
        self._move(Signal.RESUME)
        self._heard = now
        position = None if self._welcome is None else self._welcome.position
        if position is None:
            return
        if last is not None and last != position.last:
            raise self._break(
                Breach(Reason.DIVERGED, f"the collector has other records before number {position.next} than the spool")
            )
        self._at = self._acknowledged = position

    def fits(self, frame: DataFrame) -> bool:
        """Whether the frame can be sent now."""
        return self.state is State.STREAMING and self._has_room(frame)

    def send(self, frame: DataFrame) -> None:
        """Send the next frame. LocalProtocolError if it does not fit, or is not the one that comes next."""
        self._move(Signal.DATA)
        if not self._has_room(frame):
            raise self._local(f"the window is full: {self.under_way} bytes in {len(self._sent)} frames are under way")
        if frame.first != self._at.next:
            raise self._local(f"record {frame.first} is to be sent and {self._at.next} is next: a gap has to be stated")
        if self._at.last and frame.head.previous != self._at.last:
            raise self._local(f"the frame with record {frame.first} does not follow the one that was sent before it")
        self._at = frame.after
        self._sent.append(_UnderWay(frame.after, frame.weight))
        self.under_way += frame.weight
        self._out.append(frame.under(DATA_MARK))

    def gap(self, until: int, reason: str, last: bytes, stamp: int) -> None:
        """State that the records from `next_record` on, up to but not including `until`, are not to be had any more.

        reason: `dropped`, `damaged`, `acknowledged` (once, by this collector or another), or a word of one's own.
        last: `previous` of the frame that begins at `until`. stamp: nanoseconds since the epoch, of now. As `send` it
        has to fit. ValueError if something of it is out of range.
        """
        self.send(gap_frame(Position(self._at.next, self._at.last or ANCHOR), until, reason, last, stamp))

    def bye(self) -> None:
        """Nothing more will come. The collector acknowledges what it has and closes."""
        self._move(Signal.BYE)
        self._say(Bye())

    def _has_room(self, frame: DataFrame) -> bool:
        welcome = self._welcome
        if welcome is None or len(self._sent) >= welcome.frames:
            return False
        return self.under_way + frame.weight <= welcome.window

    def _ping(self) -> Ping:
        return Ping(self.following)

    def _on(self, message: Message) -> Welcome | Acknowledged | Troubled | None:
        if isinstance(message, Welcome):
            return self._on_welcome(message)
        if isinstance(message, Ack):
            return self._on_ack(message.position)
        assert isinstance(message, Troubled)
        self._move(signal_of(message.trouble))
        return message

    def _on_welcome(self, welcome: Welcome) -> Welcome:
        if welcome.spool != self._hello.spool:
            raise Breach(Reason.MESSAGE, "WELCOME: meant for another spool")
        if welcome.position is not None and welcome.position.next > self.following:
            raise Breach(
                Reason.AHEAD,
                f"the collector wants record {welcome.position.next}, and the spool will get {self.following} next: "
                "it was set back",
            )
        self._move(Signal.WELCOME)
        self._welcome = welcome
        self._peer_idle = welcome.idle
        return welcome

    def _on_ack(self, position: Position) -> Acknowledged | None:
        if position == self._acknowledged:
            return None
        if not any(each.after == position for each in self._sent):
            raise Breach(Reason.FORGED, f"ACK up to record {position.next}, which is not the end of a frame under way")
        frames = 0
        while True:
            each = self._sent.popleft()
            self.under_way -= each.weight
            frames += 1
            if each.after == position:
                break
        self._acknowledged = position
        return Acknowledged(position.next, frames)
