"""The receiving end of the C programs' protocol (docs/formats/rmw.md; the frames are in `rmw`).

What holds of it:

- A message is answered by the caller, oldest first, once it is stored or cannot be; a heartbeat by itself.
- A message with the number and the bytes of the one stored last is a retry: answered, and not given out again. What
  was stored last outlives a connection, because the retry comes on the next one: see `Recent`.
- A line without a frame around it is text (`format = ascii`): given out as such and never answered. auditd reads such
  lines and throws them away.
- No more is held than was fed and not yet taken, and at most MAX_PENDING messages wait for their answers and
  MAX_OUT bytes of answers to be sent.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

import attrs

from audisp.errors import LocalProtocolError, RemoteProtocolError
from audisp.wire.peer import STORES, Closed, Trouble
from audisp.wire.rmw import (
    MAGIC_BYTES,
    MAX_PAYLOAD_IN,
    SUSPENDED_TEXT,
    Frame,
    State,
    Type,
    cut_frame,
)

MAX_PENDING: Final = 1_024
"""Most messages that wait for their answers. audisp-remote has one; a client that does not wait gets no further."""

MAX_FED: Final = 256 << 10
"""Most bytes that may be fed and not taken: a few reads of what a socket has. More is the caller's mistake."""

MAX_OUT: Final = 64 << 10
"""Bytes of answers that wait to be sent, beyond which nothing more is taken in: a client that asks for signs of life
and never reads the answers gets no further."""

ANSWERS: Final = {
    Trouble.DISK_LOW: (Type.DISKLOW, b""),
    Trouble.DISK_FULL: (Type.DISKFULL, b"disk full"),
    Trouble.DISK_ERROR: (Type.DISKERROR, b"disk write error"),
    Trouble.SUSPENDED: (Type.DISKERROR, SUSPENDED_TEXT),
}
"""Type and payload as auditd answers them."""


@attrs.define(eq=False)
class Recent:
    """The message of one peer that was stored last. One object per peer, given to each of its connections in turn.

    A connection of a peer is fed only when all that its earlier ones gave out was stored or given up. digest: SHA-256
    of the record. Both None: nothing was. A server that keeps them in its store recognises a retry after a restart.
    """

    sequence: int | None = None
    digest: bytes | None = None


@attrs.frozen
class Message:
    """A record to be stored and then answered. record: as it came, ended by one LF. type: a Type or any number."""

    sequence: int
    record: bytes
    type: int = Type.MESSAGE


@attrs.frozen
class Retry:
    """A message that is stored already. It was answered, or will be with the one before it."""

    sequence: int


@attrs.frozen
class Heartbeat:
    """A sign of life. It was answered."""

    sequence: int


@attrs.frozen
class Text:
    """A line without a frame, ended by LF. Nobody waits for an answer."""

    line: bytes


@attrs.frozen
class _Pending:
    sequence: int
    digest: bytes
    retry: bool = False


Event = Message | Retry | Heartbeat | Text | Closed


class RmwServer:
    """The receiving end of one connection. recent: what this peer had stored last, on an earlier one."""

    def __init__(self, recent: Recent | None = None) -> None:
        self.state = State.IDLE
        self.recent = recent if recent is not None else Recent()
        self._buffer = bytearray()
        self._out = bytearray()
        self._closed = False
        self._pending: deque[_Pending] = deque()
        self.pending = 0
        """Messages that wait for an answer, retries of them left out."""

    @property
    def full(self) -> bool:
        """True: `next` gives nothing, and nothing is to be fed, before messages are answered and answers taken."""
        return len(self._pending) >= MAX_PENDING or len(self._out) >= MAX_OUT

    @property
    def buffered(self) -> int:
        """Bytes fed and not taken."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes from the client; none: it closed the connection. To be followed by `next` until that gives None.

        LocalProtocolError for more than MAX_FED bytes that nobody took.
        """
        self._closed = self._closed or not data
        if self.state not in (State.ENDED, State.DEAD):
            self._buffer += data
            if len(self._buffer) > MAX_FED:
                raise self._local(f"{len(self._buffer)} bytes fed and not taken, at most {MAX_FED} may be")

    def next(self) -> Event | None:
        """The next event; None if more bytes or answers are needed. RemoteProtocolError once, then all is over."""
        if self.state in (State.ENDED, State.DEAD):
            return None
        try:
            event = self._cut() if self._buffer and not self.full else None
        except RemoteProtocolError:
            self._end(State.DEAD)
            raise
        if event is not None:
            return event
        if not self._closed or self.full:
            return None
        clean = not self._buffer and not self._pending
        self._end(State.ENDED)
        return Closed(clean)

    def ack(self, messages: int = 1) -> None:
        """The oldest messages are stored. LocalProtocolError if that many do not wait.

        Also when the connection is gone: nothing is sent then, and the retry on the next one is recognised.
        """
        if messages > self.pending:
            raise self._local(f"{messages} messages to acknowledge, {self.pending} wait for an answer")
        for _ in range(messages):
            self._answer(Type.ACK, b"", stored=True)

    def trouble(self, trouble: Trouble) -> None:
        """Answer the oldest message: stored all the same for DISK_LOW, not stored for the others of ANSWERS.

        A client whose disk_low_action keeps the record sends it again under the next number after DISK_LOW, and then
        it is stored twice; `ack` and `notice` avoid that. LocalProtocolError if none waits or there is no such answer.
        """
        if trouble not in ANSWERS or not self._pending:
            raise self._local(f"no answer for {trouble}, {self.pending} messages wait for one")
        kind, text = ANSWERS[trouble]
        self._answer(kind, text, stored=trouble in STORES)

    def notice(self, trouble: Trouble) -> None:
        """Tell of trouble unasked. A client that is just sending takes it for lost sync, connects anew, and sends that
        record again under its number. LocalProtocolError if there are no such words for it, or the session is over."""
        if trouble not in ANSWERS or self.state is not State.IDLE:
            raise self._local(f"no notice of {trouble}: the session is {self.state.name.lower()}")
        kind, text = ANSWERS[trouble]
        self._out += Frame(kind, 0, text).encode()

    def ending(self) -> None:
        """Say goodbye: the client comes back later. Nothing more is taken; what is not taken yet was not stored.

        LocalProtocolError while messages wait for answers: audisp-remote sends what ENDING came in answer to again
        under a new number, so that what is stored after all would be stored twice. Close without it, then.
        """
        if self.state is not State.IDLE or self._pending:
            raise self._local(f"no goodbye: the session is {self.state.name.lower()}, {self.pending} messages wait")
        self._out += Frame(Type.ENDING, 0).encode()
        self._end(State.ENDED)

    def take(self) -> bytes:
        """Bytes to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _cut(self) -> Event | None:
        if not MAGIC_BYTES.startswith(self._buffer[:4]):
            return self._cut_text()
        frame = cut_frame(self._buffer)
        if frame is None:
            return None
        if frame.type == Type.HEARTBEAT:
            self._out += Frame(Type.ACK, frame.sequence).encode()
            return Heartbeat(frame.sequence)
        record = frame.payload if frame.payload.endswith(b"\n") else frame.payload + b"\n"
        if record.count(b"\n") != 1:
            raise RemoteProtocolError(f"message of {record.count(10)} lines, a record is one")
        digest = hashlib.sha256(record).digest()
        last = self._pending[-1] if self._pending else None
        if last is not None:
            repeated = (last.sequence, last.digest) == (frame.sequence, digest)
            self._pending.append(_Pending(frame.sequence, digest, repeated))
            self.pending += not repeated
        else:
            repeated = (self.recent.sequence, self.recent.digest) == (frame.sequence, digest)
            if repeated:
                self._out += Frame(Type.ACK, frame.sequence).encode()
            else:
                self._pending.append(_Pending(frame.sequence, digest))
                self.pending += 1
        return Retry(frame.sequence) if repeated else Message(frame.sequence, record, frame.type)

    def _cut_text(self) -> Text | None:
        end = self._buffer.find(b"\n", 0, MAX_PAYLOAD_IN) + 1
        if not end:
            if len(self._buffer) >= MAX_PAYLOAD_IN:
                raise RemoteProtocolError(f"neither a frame nor a line: {bytes(self._buffer[:16])!r}")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return Text(line)

    def _answer(self, kind: Type, text: bytes, *, stored: bool) -> None:
        first = self._pending.popleft()
        self.pending -= 1
        if stored:
            self.recent.sequence, self.recent.digest = first.sequence, first.digest
        answers = Frame(kind, first.sequence, text).encode()
        while self._pending and self._pending[0].retry:
            self._pending.popleft()
            answers += Frame(kind, first.sequence, text).encode()
        if self.state is State.IDLE:
            self._out += answers

    def _local(self, message: str) -> LocalProtocolError:
        self._end(State.DEAD)
        return LocalProtocolError(message)

    def _end(self, state: State) -> None:
        # What waits for an answer stays: it may be stored yet. So does what is to be sent: it is true.
        self.state = state
        self._buffer.clear()
