"""What the control frames of the native protocol say. Each class is one type of frame and, at the other end, an event.

`encode` gives the whole frame. `decode` takes the map of one and raises Breach for what is missing or out of range;
keys that it does not know are ignored. Text for a person comes out fit for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import attrs

from audisp.buffer.segment import ANCHOR, MAX_FRAME, MAX_FRAME_PLAIN, MAX_NUMBER
from audisp.parse.form import terminal_safe
from audisp.wire.native_frames import MAX_WEIGHT, Breach, FrameType, Position, Reason, control_frame
from audisp.wire.native_map import write_map
from audisp.wire.peer import Trouble

ALPN: Final = b"audisp/1"
"""What TLS calls the protocol."""

VERSIONS: Final = (1,)
"""Versions that this program speaks, the best one last."""

SPOOL_BYTES: Final = 16

MAX_TEXT: Final = 256
"""Most columns of a peer's text that are kept."""

MIN_IDLE: Final = 5
MAX_IDLE: Final = 3_600
"""Bounds for `idle` in seconds. Below, a busy machine is taken for a dead one; above, a dead one holds a connection
and the collector's memory for hours."""

IDLE: Final = 60
"""Seconds without a byte after which a peer is taken for dead, unless set otherwise."""

MAX_RETRY: Final = 86_400
"""Longest time in seconds for which one end sends the other away."""

MAX_WINDOW: Final = 1 << 30
"""Largest window that is taken at its word."""

WINDOW: Final = 16 << 20
"""Window unless set otherwise: a million records of 186 bytes in a second, 40 ms away, with 30 ms for the disk."""

MAX_FRAMES: Final = 65_536
FRAMES: Final = 1_024
"""Frames under way, bounded beside the window because small ones cost memory too: at most, and unless set otherwise."""

CLEAR: Final = "clear"
"""TROUBLE with this kind says that all is well again."""


@attrs.frozen
class Hello:
    """First frame of a sender. versions: those it speaks, the best one last. spool: 16 bytes that name the stream.

    first: number of the oldest record that it still has. next: of the record that it will get next. idle: seconds.
    """

    TYPE: ClassVar = FrameType.HELLO
    spool: bytes
    first: int
    next: int
    idle: int = IDLE
    software: str = ""
    versions: tuple[int, ...] = VERSIONS

    def encode(self) -> bytes:
        """The frame."""
        return control_frame(
            self.TYPE,
            write_map(
                {
                    "versions": list(self.versions),
                    "spool": self.spool,
                    "first": self.first,
                    "next": self.next,
                    "idle": self.idle,
                    "software": self.software,
                }
            ),
        )

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map."""
        versions = fields.get("versions")
        if not isinstance(versions, list) or not versions or any(type(each) is not int for each in versions):
            raise Breach(Reason.MESSAGE, "HELLO: versions is missing or no list of integers")
        if not set(versions) & set(VERSIONS):
            raise Breach(Reason.VERSION, f"HELLO: no version in common: {versions} there, {list(VERSIONS)} here")
        first, following = _integer(fields, "HELLO", "first"), _integer(fields, "HELLO", "next")
        if first > following:
            raise Breach(Reason.MESSAGE, "HELLO: first is beyond next")
        return cls(
            _binary(fields, "HELLO", "spool", SPOOL_BYTES),
            first,
            following,
            _integer(fields, "HELLO", "idle", MIN_IDLE, MAX_IDLE),
            _text(fields, "software"),
            tuple(versions),
        )


@attrs.frozen
class Welcome:
    """The receiver's answer. version: the one spoken from here on. position: where it wants the stream to go on; None
    if it has nothing of it. window: bytes, and frames: how many, that may be under way; frame, plain: bytes of the
    largest data frame that it takes, packed and unpacked, not less than version 1 knows."""

    TYPE: ClassVar = FrameType.WELCOME
    spool: bytes
    position: Position | None
    window: int = WINDOW
    frames: int = FRAMES
    idle: int = IDLE
    software: str = ""
    version: int = VERSIONS[-1]
    frame: int = MAX_FRAME
    plain: int = MAX_FRAME_PLAIN

    def encode(self) -> bytes:
        """The frame."""
        return control_frame(
            self.TYPE,
            write_map(
                {
                    "version": self.version,
                    "spool": self.spool,
                    "next": None if self.position is None else self.position.next,
                    "last": None if self.position is None else self.position.last,
                    "window": self.window,
                    "frames": self.frames,
                    "frame": self.frame,
                    "plain": self.plain,
                    "idle": self.idle,
                    "software": self.software,
                }
            ),
        )

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map."""
        version = _integer(fields, "WELCOME", "version")
        if version not in VERSIONS:
            raise Breach(Reason.VERSION, f"WELCOME: version {version} there, {list(VERSIONS)} here")
        return cls(
            _binary(fields, "WELCOME", "spool", SPOOL_BYTES),
            None if fields.get("next") is None else _position(fields, "WELCOME"),
            _integer(fields, "WELCOME", "window", MAX_WEIGHT, MAX_WINDOW),
            _integer(fields, "WELCOME", "frames", 1, MAX_FRAMES),
            _integer(fields, "WELCOME", "idle", MIN_IDLE, MAX_IDLE),
            _text(fields, "software"),
            version,
            _integer(fields, "WELCOME", "frame", MAX_FRAME, MAX_WINDOW),
            _integer(fields, "WELCOME", "plain", MAX_FRAME_PLAIN, MAX_WINDOW),
        )


@attrs.frozen
class Ack:
    """Everything before this position is on disk."""

    TYPE: ClassVar = FrameType.ACK
    position: Position

    def encode(self) -> bytes:
        """The frame."""
        return control_frame(self.TYPE, write_map({"next": self.position.next, "last": self.position.last}))

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map."""
        return cls(_position(fields, "ACK"))


@attrs.frozen
class Troubled:
    """Trouble at the collector. trouble: None if it is over. retry: seconds to stay away, if the connection ends."""

    TYPE: ClassVar = FrameType.TROUBLE
    trouble: Trouble | None
    text: str = ""
    retry: int | None = None

    def encode(self) -> bytes:
        """The frame."""
        kind = CLEAR if self.trouble is None else self.trouble.value
        return control_frame(self.TYPE, write_map({"kind": kind, "text": self.text[:MAX_TEXT], "retry": self.retry}))

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map. A kind that we have no word for is a warning."""
        kind = fields.get("kind")
        if not isinstance(kind, str):
            raise Breach(Reason.MESSAGE, "TROUBLE: kind is missing or no string")
        known = {each.value for each in Trouble} - {Trouble.ERROR}
        trouble = None if kind == CLEAR else Trouble(kind) if kind in known else Trouble.WARNING
        text = _text(fields, "text")
        return cls(
            trouble, text if kind in known or trouble is None else f"{terminal_safe(kind, 40)} {text}", _retry(fields)
        )


@attrs.frozen
class Ping:
    """A sign of life. next: from a sender, the number of the record that it will get next, so that lag is known."""

    TYPE: ClassVar = FrameType.PING
    next: int | None = None

    def encode(self) -> bytes:
        """The frame."""
        return control_frame(self.TYPE, write_map({"next": self.next}))

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map."""
        return cls(None if fields.get("next") is None else _integer(fields, "PING", "next"))


@attrs.frozen
class Refused:
    """The end of a session, and why. reason: a Reason, or a later version's word. retry: seconds to stay away."""

    TYPE: ClassVar = FrameType.REFUSE
    reason: str
    text: str = ""
    retry: int | None = None

    def encode(self) -> bytes:
        """The frame."""
        return control_frame(
            self.TYPE, write_map({"reason": str(self.reason), "text": self.text[:MAX_TEXT], "retry": self.retry})
        )

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map."""
        return cls(_text(fields, "reason"), _text(fields, "text"), _retry(fields))


@attrs.frozen
class Bye:
    """The sender's last word: acknowledge what you have, and close."""

    TYPE: ClassVar = FrameType.BYE

    def encode(self) -> bytes:
        """The frame."""
        return control_frame(self.TYPE, write_map({}))

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """From the frame's map."""
        return cls()


Message = Hello | Welcome | Ack | Troubled | Ping | Refused | Bye

MESSAGES: Final[Mapping[int, type[Message]]] = {
    each.TYPE: each for each in (Hello, Welcome, Ack, Troubled, Ping, Refused, Bye)
}


def _integer(fields: Mapping[str, Any], where: str, key: str, low: int = 0, high: int = MAX_NUMBER) -> int:
    value = fields.get(key)
    if type(value) is not int:
        raise Breach(Reason.MESSAGE, f"{where}: {key} is missing or no integer")
    if not low <= value <= high:
        raise Breach(Reason.LIMITS, f"{where}: {key} is {value}, {low} to {high} may be")
    return value


def _binary(fields: Mapping[str, Any], where: str, key: str, size: int) -> bytes:
    value = fields.get(key)
    if not isinstance(value, bytes) or len(value) != size:
        raise Breach(Reason.MESSAGE, f"{where}: {key} is missing or not {size} bytes")
    return value


def _position(fields: Mapping[str, Any], where: str) -> Position:
    return Position(_integer(fields, where, "next"), _binary(fields, where, "last", len(ANCHOR)))


def _retry(fields: Mapping[str, Any]) -> int | None:
    # Only advice: what is no use is left out.
    value = fields.get("retry")
    return value if type(value) is int and 0 <= value <= MAX_RETRY else None


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return terminal_safe(value, MAX_TEXT) if isinstance(value, str) else ""
