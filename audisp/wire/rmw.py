"""The C programs' remote protocol ("RMW", `format = managed`): frames, and the client's end.

audisp-remote sends one record, waits for its answer, and sends the next. docs/formats/rmw.md has the format and what
auditd 3.0.9 and audisp-remote 3.0.9 do with it, byte by byte. What holds of the client here:

- One message is under way at most. A record whose answer did not come keeps its number for as long as it is tried
  again, on the next connection too (`place`), so that a server can tell a retry from a new record.
- `stored` in an answer is true only if the server says so: ACK, or a warning (DISKLOW) in answer to the record.
- An answer to anything but what is under way is an error, and the session is dead.

The states are in CLIENT: what is sent and what comes move them, and what is not in the row of a state cannot happen
in it. ENDED and DEAD have no way out: a new connection is a new client.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from typing import Final

import attrs

from audisp.errors import LocalProtocolError, RemoteProtocolError
from audisp.parse.form import terminal_safe
from audisp.wire.peer import STORES, Closed, Trouble

MAGIC: Final = 0xFF0000FE
MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
HEADER: Final = struct.Struct("<IBBIHI")
"""Magic, header version, message version, type, payload bytes, sequence number. Nobody checks the versions."""

REPLY: Final = 0x40000000
FATAL: Final = 0x20000000
WARN: Final = 0x10000000
"""Bits of a type: an answer; the record was not stored; something is wrong."""

MAX_PAYLOAD: Final = 8_954
"""Most bytes of payload that auditd takes. Its buffer of 8,970 bytes holds the header too: of a longer record it logs
what fits and closes the connection (measured with 3.0.9)."""

MAX_PAYLOAD_IN: Final = 8_970
"""Most bytes of payload that we take. audisp-remote sends records of up to 8,969 bytes, which auditd cuts."""

MAX_TEXT: Final = 256
"""Columns of a peer's text that are kept; the C programs' are under 30."""

FIRST_SEQUENCE: Final = 2
"""Number of audisp-remote's first message."""

SUSPENDED_TEXT: Final = b"remote logging suspended"
"""With DISKERROR: auditd's logging is suspended, the disk is well."""


class Type(IntEnum):
    """Types of a frame. For a server, every other value is a message too."""

    MESSAGE = 0
    HEARTBEAT = 1
    ACK = REPLY
    ENDING = REPLY | 1
    DISKLOW = REPLY | WARN | 1
    DISKFULL = REPLY | FATAL | 1
    DISKERROR = REPLY | FATAL | 2


@attrs.frozen
class Frame:
    """One frame. type: a Type, or any other number. payload: at most MAX_PAYLOAD_IN bytes."""

    type: int
    sequence: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Header and payload."""
        return HEADER.pack(MAGIC, 0, 0, self.type, len(self.payload), self.sequence) + self.payload


def cut_frame(buffer: bytearray) -> Frame | None:
    """Take the frame that `buffer` begins with out of it; None if it is not whole. RemoteProtocolError for no frame."""
    if not MAGIC_BYTES.startswith(buffer[:4]):
        raise RemoteProtocolError(f"no frame of auditd's protocol: it begins with {bytes(buffer[:16])!r}")
    if len(buffer) < HEADER.size:
        return None
    _, _, _, kind, length, sequence = HEADER.unpack_from(buffer)
    if length > MAX_PAYLOAD_IN:
        raise RemoteProtocolError(f"frame of {length} bytes, at most {MAX_PAYLOAD_IN} are taken")
    end = HEADER.size + length
    if len(buffer) < end:
        return None
    payload = bytes(buffer[HEADER.size : end])
    del buffer[:end]
    return Frame(kind, sequence, payload)


class State(Enum):
    """Of either end."""

    IDLE = auto()
    WAITING = auto()
    ENDED = auto()
    DEAD = auto()


class Signal(Enum):
    """What moves a client."""

    SEND = auto()
    ANSWER = auto()
    NOTICE = auto()
    ENDING = auto()
    CLOSE = auto()


CLIENT: Final[Mapping[State, Mapping[Signal, State]]] = {
    State.IDLE: {
        Signal.SEND: State.WAITING,
        Signal.NOTICE: State.IDLE,
        Signal.ENDING: State.ENDED,
        Signal.CLOSE: State.ENDED,
    },
    State.WAITING: {
        Signal.ANSWER: State.IDLE,
        Signal.NOTICE: State.WAITING,
        Signal.ENDING: State.ENDED,
        Signal.CLOSE: State.ENDED,
    },
    State.ENDED: {Signal.CLOSE: State.ENDED},
    State.DEAD: {},
}


class Outcome(Enum):
    """What became of a record that was to be sent. Only SENT has put anything on the wire."""

    SENT = auto()
    EOE = auto()
    """The end of an event: the C programs never send it, and auditd may never answer it."""
    TOO_LONG = auto()
    """More than MAX_PAYLOAD bytes: auditd would cut it."""
    NUL = auto()
    """Holds a NUL: auditd would cut it there, and say that it is stored."""


@attrs.frozen
class Answer:
    """The answer to what was under way. stored: the record is safe, as far as that server knows.

    trouble: None for a plain ACK. text: the server's, fit for a terminal. heartbeat: the answer to one.
    """

    sequence: int
    stored: bool
    trouble: Trouble | None
    text: str
    heartbeat: bool


@attrs.frozen
class Notice:
    """Trouble that the server tells of unasked. ENDING: it goes, and what is under way was not stored."""

    trouble: Trouble
    text: str


@attrs.frozen
class Place:
    """Where a client is in its row of numbers. sequence: of the last message. unsettled: the last record, if it was
    not acknowledged, and its number: sent again, it has that number again."""

    sequence: int = FIRST_SEQUENCE - 1
    unsettled: tuple[int, bytes] | None = None


TROUBLES: Final[Mapping[int, Trouble | None]] = {
    Type.ACK: None,
    Type.ENDING: Trouble.ENDING,
    Type.DISKLOW: Trouble.DISK_LOW,
    Type.DISKFULL: Trouble.DISK_FULL,
    Type.DISKERROR: Trouble.DISK_ERROR,
}


def what_is_wrong(frame: Frame) -> Trouble | None:
    """The trouble that an answer tells of; None for ACK. Of a type that we do not know, the bits tell."""
    if frame.type == Type.DISKERROR and frame.payload == SUSPENDED_TEXT:
        return Trouble.SUSPENDED
    return TROUBLES.get(frame.type, Trouble.ERROR if frame.type & FATAL else Trouble.WARNING)


class RmwClient:
    """The sending end of one connection.

    reply_timeout: seconds to wait for an answer, from when it was asked for or from the last bytes of it (as
    audisp-remote's max_time_per_record). place: that of the connection before, so that a retry is recognised.
    """

    def __init__(self, reply_timeout: float, place: Place | None = None) -> None:
        self.state = State.IDLE
        self.place = place or Place()
        self._timeout = reply_timeout
        self._buffer = bytearray()
        self._out = bytearray()
        self._closed = False
        self._expected = 0
        self._heartbeat = False
        self._deadline: float | None = None

    @property
    def buffered(self) -> int:
        """Bytes fed and not taken."""
        return len(self._buffer)

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called; None if nothing is waited for."""
        return self._deadline

    def send(self, record: bytes, now: float) -> Outcome:
        """Send one record, with its LF or without. LocalProtocolError unless IDLE, or if it is more than one line."""
        self._check(Signal.SEND)
        line = record if record.endswith(b"\n") else record + b"\n"
        if line.count(b"\n") != 1:
            raise self._local(f"{line.count(10)} lines in one record")
        if is_eoe(line):
            return Outcome.EOE
        if len(line) > MAX_PAYLOAD:
            return Outcome.TOO_LONG
        if b"\0" in line:
            return Outcome.NUL
        unsettled = self.place.unsettled
        if unsettled is not None and unsettled[1] == line:
            self._ask(Type.MESSAGE, unsettled[0], line, now)
        else:
            sequence = self._following()
            self.place = Place(sequence, (sequence, line))
            self._ask(Type.MESSAGE, sequence, line, now)
        return Outcome.SENT

    def heartbeat(self, now: float) -> None:
        """Ask for a sign of life. LocalProtocolError unless IDLE."""
        self._check(Signal.SEND)
        self.place = Place(self._following(), self.place.unsettled)
        self._ask(Type.HEARTBEAT, self.place.sequence, b"", now)

    def take(self) -> bytes:
        """Bytes to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from the server; none: it closed the connection. To be followed by `next` until that gives None."""
        self._closed = self._closed or not data
        if self.state not in (State.ENDED, State.DEAD):
            self._buffer += data
        if self._deadline is not None:
            self._deadline = now + self._timeout

    def next(self) -> Answer | Notice | Closed | None:
        """The next event; None if more bytes are needed. RemoteProtocolError once, then the session is dead."""
        if self.state in (State.ENDED, State.DEAD):
            return None
        try:
            frame = cut_frame(self._buffer) if self._buffer else None
            if frame is not None:
                return self._on(frame)
        except RemoteProtocolError:
            self._end(State.DEAD)
            raise
        if not self._closed:
            return None
        clean = self.state is State.IDLE and not self._buffer
        self._end(CLIENT[self.state][Signal.CLOSE])
        return Closed(clean)

    def tick(self, now: float) -> None:
        """RemoteProtocolError if the answer is overdue at `now`."""
        if self._deadline is not None and now >= self._deadline:
            self._end(State.DEAD)
            raise RemoteProtocolError(f"no answer within {self._timeout:g} s")

    def _on(self, frame: Frame) -> Answer | Notice:
        if not frame.type & REPLY:
            raise RemoteProtocolError(f"frame of type {frame.type:#x} from a server, which only answers")
        trouble = what_is_wrong(frame)
        text = terminal_safe(frame.payload, MAX_TEXT)
        if trouble is Trouble.ENDING:
            self._end(CLIENT[self.state][Signal.ENDING])
            return Notice(trouble, text)
        if self.state is State.WAITING and frame.sequence == self._expected:
            self._deadline = None
            self.state = CLIENT[self.state][Signal.ANSWER]
            stored = not self._heartbeat and (trouble is None or trouble in STORES)
            if stored:
                self.place = Place(self.place.sequence)
            return Answer(frame.sequence, stored, trouble, text, self._heartbeat)
        if trouble is not None and (self.state is State.IDLE or not frame.sequence):
            self.state = CLIENT[self.state][Signal.NOTICE]
            return Notice(trouble, text)
        waiting = f"{self._expected} is under way" if self.state is State.WAITING else "nothing is under way"
        raise RemoteProtocolError(f"lost sync: an answer to {frame.sequence}, and {waiting}")

    def _following(self) -> int:
        # 0 is the number of what a server says unasked.
        return self.place.sequence % 0xFFFFFFFF + 1

    def _ask(self, kind: Type, sequence: int, payload: bytes, now: float) -> None:
        self.state = CLIENT[self.state][Signal.SEND]
        self._expected = sequence
        self._heartbeat = kind is Type.HEARTBEAT
        self._deadline = now + self._timeout
        self._out += Frame(kind, sequence, payload).encode()

    def _check(self, signal: Signal) -> None:
        if signal not in CLIENT[self.state]:
            raise self._local(f"nothing can be sent: the session is {self.state.name.lower()}")

    def _local(self, message: str) -> LocalProtocolError:
        self._end(State.DEAD)
        return LocalProtocolError(message)

    def _end(self, state: State) -> None:
        self.state = state
        self._deadline = None
        self._buffer.clear()
        self._out.clear()


def is_eoe(line: bytes) -> bool:
    """Whether the record is the end of an event, behind a `node=` or not."""
    if line.startswith(b"node="):
        line = line.partition(b" ")[2]
    return line.startswith(b"type=EOE ")
