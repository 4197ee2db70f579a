"""What the two ends of the native protocol share: bytes in and out, the table of states, signs of life, the end.

Time is time.monotonic() of the caller's, given with each call that needs it. What holds:

- A frame's type is judged by its prefix, before the rest of it is awaited, so that a peer that may only greet cannot
  make us hold more than a greeting.
- What waits to be sent is bounded: data by the window, and of each control frame only the newest waits.
- After an error there is at most a REFUSE to send, and nothing comes in any more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

from audisp.buffer.segment import MAX_FRAME, PREFIX_BYTES
from audisp.errors import LocalProtocolError
from audisp.wire.native_frames import Breach, FrameReader, FrameType, Reason
from audisp.wire.native_map import MAX_CONTROL, MapError, read_map
from audisp.wire.native_messages import MESSAGES, Bye, Message, Ping, Refused
from audisp.wire.native_states import SIGNALS, Signal, State, Table
from audisp.wire.peer import Closed

MAX_FED: Final = 256 << 10
"""Most bytes that may be fed and not taken beyond one frame: a few reads of what a socket has."""

HANDSHAKE: Final = 15.0
"""Seconds that a sender has for its greeting, however it comes: one round trip and no work."""

PINGS: Final = 3
"""Signs of life within the peer's `idle`: two may be late."""

OVER: Final = frozenset({State.CLOSED, State.DEAD})


EventT = TypeVar("EventT")


class Session(ABC, Generic[EventT]):
    """One end of one connection. idle: seconds without a byte after which the peer is taken for dead."""

    def __init__(self, table: Table, expects: frozenset[FrameType], state: State, now: float, idle: int) -> None:
        self.state = state
        self._table = table
        self._expects = expects
        self._idle = idle
        self._reader = FrameReader()
        self._closed = False
        self._failure: Breach | None = None
        self._out: list[bytes] = []
        self._newest: dict[FrameType, bytes] = {}
        self._started = self._heard = self._pinged = now
        self._peer_idle: int | None = None

    @property
    def over(self) -> bool:
        """True: nothing comes any more. What `take` gives is still to be sent."""
        return self.state in OVER

    @property
    def buffered(self) -> int:
        """Bytes fed and not taken."""
        return self._reader.buffered

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from the peer; none: it closed the connection. To be followed by `next` until that gives None.

        LocalProtocolError if what was fed before was not taken.
        """
        self._heard = now
        self._closed = self._closed or not data
        if not self.over:
            self._reader.feed(data)
            if self.buffered > MAX_FRAME + MAX_FED + len(data):
                raise self._local(f"{self.buffered} bytes fed and not taken")

    def next(self) -> EventT | Ping | Refused | Bye | Closed | None:
        """The next event; None if more bytes are needed, or if the caller has to answer the last one first.

        RemoteProtocolError (a Breach) once, if the peer did wrong; then the session is dead.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self.over:
            return None
        try:
            event = self._take_frame()
        except Breach as breach:
            self._break(breach)
            raise
        if event is not None or not self._closed or self.over:
            return event
        said = self.state in (State.ENDING, State.LEAVING)
        self._end(State.CLOSED)
        return Closed(said and self._reader.whole)

    def take(self) -> bytes:
        """Bytes to be sent now."""
        out = b"".join([*self._out, *self._newest.values()])
        self._out.clear()
        self._newest.clear()
        return out

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called at the latest; None if nothing is awaited."""
        times = [time for time in (self._dead_at(), self._ping_at()) if time is not None]
        return min(times) if times else None

    def tick(self, now: float) -> None:
        """Do what is due: a sign of life, or RemoteProtocolError (a Breach) if the peer has been silent too long."""
        dead = self._dead_at()
        if dead is not None and now >= dead:
            raise self._break(Breach(Reason.IDLE, f"nothing was heard for {now - self._heard:.0f} s"))
        ping = self._ping_at()
        if ping is not None and now >= ping:
            self._pinged = now
            self._say(self._ping())

    def refuse(self, reason: Reason, text: str, retry: int | None = None) -> None:
        """End the session and say why. retry: seconds that the peer shall stay away. Nothing if it is over."""
        if not self.over:
            self._end(State.DEAD)
            self._say(Refused(reason, text, retry))

    @abstractmethod
    def _on(self, message: Message) -> EventT | None:
        """A control frame that may come now."""

    def _on_data(self, raw: bytes) -> EventT | None:
        """A data frame that may come now. Only an end whose `_expects` has DATA comes here, and has its own."""
        raise NotImplementedError

    @abstractmethod
    def _ping(self) -> Ping:
        """Our sign of life."""

    def _take_frame(self) -> EventT | Ping | Refused | Bye | None:
        while True:
            row = self._table[self.state]
            if self.state in (State.ASKED, State.RESUMING):
                # The caller's turn. A peer may say a word of its own meanwhile, and no more.
                if self.buffered > PREFIX_BYTES + MAX_CONTROL + MAX_FED:
                    raise Breach(Reason.ORDER, "the peer does not wait for its answer")
                return None
            prefix = self._reader.prefix()
            if prefix is None:
                return None
            if prefix.kind not in SIGNALS:
                raise Breach(Reason.TYPE, f"frame of unknown type {prefix.kind}")
            kind = FrameType(prefix.kind)
            if kind not in self._expects or row.keys().isdisjoint(SIGNALS[kind]):
                raise Breach(Reason.ORDER, f"{kind.name} may not come now ({self.state.name.lower()})")
            raw = self._reader.cut(prefix)
            if raw is None:
                return None
            event = self._on_data(raw) if kind is FrameType.DATA else self._on_control(kind, raw)
            if event is not None:
                return event

    def _on_control(self, kind: FrameType, raw: bytes) -> EventT | Ping | Refused | Bye | None:
        try:
            message = MESSAGES[kind].decode(read_map(raw[PREFIX_BYTES:]))
        except MapError as error:
            raise Breach(Reason.MESSAGE, f"{kind.name}: {error}") from error
        if isinstance(message, Refused):
            self._end(State.DEAD)
            return message
        if isinstance(message, Ping):
            return message
        if isinstance(message, Bye):
            self._move(Signal.BYE)
            return message
        return self._on(message)

    def _move(self, signal: Signal) -> None:
        """Along the table. LocalProtocolError if the row does not have it: what the peer sent was looked at before."""
        row = self._table[self.state]
        if signal not in row:
            raise self._local(f"{signal.name} is not to be sent now ({self.state.name.lower()})")
        self.state = row[signal]

    def _say(self, message: Message) -> None:
        """Send it; of what is still to be sent, the newest of each type is enough."""
        self._newest[message.TYPE] = message.encode()

    def _break(self, breach: Breach) -> Breach:
        self._end(State.DEAD)
        if not breach.silent:
            self._say(Refused(breach.reason, str(breach)))
        return breach

    def _local(self, message: str) -> LocalProtocolError:
        self._end(State.DEAD)
        self._newest.clear()
        return LocalProtocolError(message)

    def _end(self, state: State) -> None:
        self.state = state
        self._reader.close()
        self._out.clear()

    def _dead_at(self) -> float | None:
        if self.over or self.state in (State.ASKED, State.RESUMING):
            return None
        if self.state is State.FRESH:
            return self._started + HANDSHAKE
        return self._heard + self._idle

    def _ping_at(self) -> float | None:
        if self.over or self._peer_idle is None:
            return None
        return self._pinged + self._peer_idle / PINGS
