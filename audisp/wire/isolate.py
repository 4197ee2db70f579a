"""What the dispatcher and the process of an isolated plugin say to each other: frames on a socketpair, no I/O here.

A frame is two little-endian 32-bit lengths, a body (one msgpack list: kind, then that kind's fields) and a payload. A
payload stands behind `Deliver` alone: the records, as bytes, so that they are copied by nobody but the kernel.

The dispatcher does not trust the process, which may run what attackers brought it to run: whatever comes up is bounded
before it is looked at, and checked field by field; the first byte that is not as said here is a RemoteProtocolError,
after which the process is to be ended. What goes down is checked as well: a mistake of ours should be named.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, get_args

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.errors import LocalProtocolError, RemoteProtocolError
from audisp.record import STRETCH_BYTES

HEAD: Final = struct.Struct("<II")
"""Bytes of the body, bytes of the payload."""
MAX_UP: Final = 1 << 20
"""Bytes of a body that the process may send: MAX_LIST errors with their paths, in the widest characters, are the most
that anybody has to say. Twice as much is what the dispatcher ever keeps of one process's words."""
MAX_DOWN: Final = 64 << 20
"""Bytes of a body, or of a payload, that the dispatcher sends. A batch has 256 KiB and what is known of its processes,
which the table of processes bounds; a single block of a replayed file may be some MiB."""
MAX_TEXT: Final = 16 * 1024
"""Characters of one text from the process: more than any line of a log or record takes."""
MAX_FAULT: Final = 1_024
"""Characters of one error or notice."""
MAX_NAME: Final = 64
"""Characters of a counter's name, or of a key of `state`."""
MAX_PATH: Final = 1_024
"""Characters of a path in an error; plugins.d lies nowhere near as deep."""
MAX_STAMP: Final = 64
"""Bytes of a stamp: a hash."""
MAX_STATE: Final = 1_024
"""Characters of a value of `state`."""
MAX_PAIRS: Final = 256
"""Counters, or lines of `state`, in one message."""
MAX_LIST: Final = 100
"""Errors or notices in one message: as many as are shown of one file."""
MAX_NUMBER: Final = 1 << 53
"""Largest number of either sign."""

DESCRIPTORS: Final = ("state", "reactor")
"""What may come with `Start`: the plugin's own folder; its end of the socketpair to the reactor."""

Level = Literal["debug", "info", "notice", "warning", "error", "critical"]
LEVELS: Final[tuple[str, ...]] = get_args(Level)
Wants = Literal["blocks", "events"]

# ---- from the dispatcher ----


@attrs.frozen
class Word:
    """One setting: `audisp.config.grammar.Setting` without its class, which no wire knows."""

    key: str
    words: tuple[str, ...]
    line: int
    text: str
    file: str | None


@attrs.frozen
class Start:
    """Load `plugin` and read its settings. path: its file in plugins.d. check: that is all; else open it, too.

    local: see `audisp.plugin.Host`.

    descriptors: what the descriptors are that come with the first byte of this message, in their order; of DESCRIPTORS.
    reactions: kinds that the reactor may do, each with its levels, separated by blanks.
    """

    kind: ClassVar[int] = 1
    plugin: str
    name: str
    path: str
    settings: tuple[Word, ...]
    owner: bool
    runtime_dir: str
    check: bool
    local: bool = True
    descriptors: tuple[str, ...] = ()
    reactions: tuple[str, ...] = ()


@attrs.frozen
class Deliver:
    """Take the records of the payload; answer with the sequence number. See `audisp.record.Block`.

    marks: position and flags of each event that has flags. contexts: `audisp.enrich.packed.pack`, or None.
    """

    kind: ClassVar[int] = 2
    sequence: int
    records: int
    own: int
    source: str
    arrived: float
    spooled: bool
    place: tuple[bytes, int] | None
    marks: tuple[int, ...]
    contexts: Any


@attrs.frozen
class Ask:
    """Rotate or resume, between two deliveries."""

    kind: ClassVar[int] = 3
    what: str


@attrs.frozen
class Close:
    """Close the plugin, and end. Nothing follows."""

    kind: ClassVar[int] = 4


# ---- from the process ----


@attrs.frozen
class Described:
    """The plugin could be loaded and its settings are good. stamp: changes when a file that they are made of does;
    empty if there is none."""

    kind: ClassVar[int] = 16
    wants: Wants
    notices: tuple[str, ...]
    stamp: bytes


@attrs.frozen
class Fault:
    """One error: of a setting, where it says which; else of the plugin itself."""

    message: str
    path: str | None
    line: int | None
    key: str | None
    setting: bool


@attrs.frozen
class Refused:
    """It could not; the process ends."""

    kind: ClassVar[int] = 17
    faults: tuple[Fault, ...]


@attrs.frozen
class Opened:
    """It is open, and takes deliveries."""

    kind: ClassVar[int] = 18


@attrs.frozen
class Taken:
    """The delivery of this number: deliver has returned."""

    kind: ClassVar[int] = 19
    sequence: int


@attrs.frozen
class Retried:
    """deliver has raised Retry."""

    kind: ClassVar[int] = 20
    sequence: int
    reason: str


@attrs.frozen
class Rejected:
    """deliver has raised Reject."""

    kind: ClassVar[int] = 21
    sequence: int
    reason: str


@attrs.frozen
class Failed:
    """Anything else was raised, wherever: the plugin closes and the process ends."""

    kind: ClassVar[int] = 22
    reason: str


@attrs.frozen
class Counted:
    """Host.count, summed up."""

    kind: ClassVar[int] = 23
    counters: Mapping[str, int]


@attrs.frozen
class Said:
    """Host.say."""

    kind: ClassVar[int] = 24
    level: str
    message: str


@attrs.frozen
class Emitted:
    """Host.emit."""

    kind: ClassVar[int] = 25
    type: int
    fields: str


@attrs.frozen
class Acted:
    """Host.act."""

    kind: ClassVar[int] = 26
    action: str
    message: str
    path: str | None


@attrs.frozen
class Stated:
    """What the plugin's `state` says now."""

    kind: ClassVar[int] = 27
    lines: Mapping[str, str]


Down = Start | Deliver | Ask | Close
Up = Described | Refused | Opened | Taken | Retried | Rejected | Failed | Counted | Said | Emitted | Acted | Stated


class _Wrong(Exception):
    """What is wrong with a field."""


# ---- writing ----


def encode(message: Down | Up, payload: int = 0) -> bytes:
    """The frame but for its payload, of so many bytes. LocalProtocolError for what the other end would not take."""
    fields = [_plain(getattr(message, field.name)) for field in attrs.fields(type(message))]
    body: bytes = msgpack.packb([message.kind, *fields], unicode_errors="surrogatepass")
    limit = MAX_DOWN if message.kind < Described.kind else MAX_UP
    if len(body) > limit or payload > MAX_DOWN:
        raise LocalProtocolError(f"{type(message).__name__} of {len(body)} and {payload} bytes is too long")
    return HEAD.pack(len(body), payload) + body


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Word | Fault):
        return [_plain(getattr(value, field.name)) for field in attrs.fields(type(value))]
    return value


# ---- reading ----


class UpDecoder:
    """Frames of the process, as the dispatcher reads them. Keeps one frame at most, and the piece fed last."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Bytes kept."""
        return len(self._buffer)

    def __iter__(self) -> Iterator[Up]:
        """All whole messages. Raises RemoteProtocolError, and is not to be used again after that."""
        while len(self._buffer) >= HEAD.size:
            size, payload = HEAD.unpack_from(self._buffer)
            if size > MAX_UP or payload:
                raise RemoteProtocolError(f"a frame of {size} and {payload} bytes, where {MAX_UP} and none are allowed")
            end = HEAD.size + size
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[HEAD.size : end])
            del self._buffer[:end]
            yield _decode(body, _UP)


def lengths(head: bytes) -> tuple[int, int]:
    """Of the body and the payload of a frame that the dispatcher sends. Raises RemoteProtocolError."""
    size, payload = HEAD.unpack(head)
    if size > MAX_DOWN or payload > MAX_DOWN:
        raise RemoteProtocolError(f"a frame of {size} and {payload} bytes, where {MAX_DOWN} are allowed")
    return size, payload


def decode_down(body: bytes) -> Down:
    """The message of a frame that the dispatcher sends. Raises RemoteProtocolError."""
    found: Down = _decode(body, _DOWN)
    return found


def _decode(body: bytes, kinds: Mapping[int, tuple[type[Any], tuple[Callable[[Any], Any], ...]]]) -> Any:
    try:
        found = msgpack.unpackb(
            body,
            unicode_errors="surrogatepass",
            strict_map_key=True,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as problem:
        raise RemoteProtocolError(f"a body that is no msgpack: {type(problem).__name__}") from problem
    if not isinstance(found, list) or not found or type(found[0]) is not int:
        raise RemoteProtocolError("a body that is no list with a kind")
    kind, *values = found
    if kind not in kinds:
        raise RemoteProtocolError(f"a message of the unknown kind {kind}")
    made, checks = kinds[kind]
    if len(values) != len(checks):
        raise RemoteProtocolError(f"{made.__name__} has {len(checks)} fields, not {len(values)}")
    fields = []
    for check, value, field in zip(checks, values, attrs.fields(made), strict=True):
        try:
            fields.append(check(value))
        except _Wrong as problem:
            raise RemoteProtocolError(f"{made.__name__}.{field.name}: {problem}") from problem
    return made(*fields)


def _text(limit: int = MAX_TEXT) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise _Wrong(f"a text of at most {limit} characters expected")
        return value

    return check


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _Wrong(f"a number from {low} to {high} expected")
        return value

    return check


def _choice(words: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise _Wrong(f"one of {', '.join(words)} expected")
        return value

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false expected")
    return value


def _float(value: Any) -> float:
    if not isinstance(value, float):
        raise _Wrong("a time expected")
    return value


def _octets(limit: int) -> Callable[[Any], bytes]:
    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) > limit:
            raise _Wrong(f"at most {limit} bytes expected")
        return value

    return check


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _many(check: Callable[[Any], Any], limit: int) -> Callable[[Any], tuple[Any, ...]]:
    def check_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > limit:
            raise _Wrong(f"a list of at most {limit} expected")
        return tuple([check(each) for each in value])

    return check_all


def _pairs(check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def check_all(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_PAIRS:
            raise _Wrong(f"at most {MAX_PAIRS} pairs expected")
        return {_name(key): check(each) for key, each in value.items()}

    return check_all


def _row(made: Callable[..., Any], *checks: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(checks):
            raise _Wrong(f"a list of {len(checks)} expected")
        return made(*[each(part) for each, part in zip(checks, value, strict=True)])

    return check


def _anything(value: Any) -> Any:
    return value


def _pair(stretch: bytes, end: int) -> tuple[bytes, int]:
    return stretch, end


_name = _text(MAX_NAME)
_said = _text()
_fault = _text(MAX_FAULT)
_path = _text(MAX_PATH)
_any_text = _text(MAX_DOWN)
_count = _number(0, MAX_NUMBER)
_delta = _number(-MAX_NUMBER, MAX_NUMBER)

_DOWN: Final[Mapping[int, Any]] = {
    Start.kind: (
        Start,
        (
            _any_text,
            _any_text,
            _any_text,
            _many(_row(Word, _any_text, _many(_any_text, MAX_DOWN), _count, _any_text, _optional(_any_text)), MAX_DOWN),
            _flag,
            _any_text,
            _flag,
            _flag,
            _many(_choice(DESCRIPTORS), len(DESCRIPTORS)),
            _many(_any_text, MAX_LIST),
        ),
    ),
    Deliver.kind: (
        Deliver,
        (
            _count,
            _count,
            _count,
            _any_text,
            _float,
            _flag,
            _optional(_row(_pair, _octets(STRETCH_BYTES), _count)),
            _many(_count, MAX_DOWN),
            _anything,
        ),
    ),
    Ask.kind: (Ask, (_choice(("rotate", "resume")),)),
    Close.kind: (Close, ()),
}

_UP: Final[Mapping[int, Any]] = {
    Described.kind: (Described, (_choice(get_args(Wants)), _many(_fault, MAX_LIST), _octets(MAX_STAMP))),
    Refused.kind: (
        Refused,
        (_many(_row(Fault, _fault, _optional(_path), _optional(_count), _optional(_name), _flag), MAX_LIST),),
    ),
    Opened.kind: (Opened, ()),
    Taken.kind: (Taken, (_count,)),
    Retried.kind: (Retried, (_count, _said)),
    Rejected.kind: (Rejected, (_count, _said)),
    Failed.kind: (Failed, (_said,)),
    Counted.kind: (Counted, (_pairs(_delta),)),
    Said.kind: (Said, (_choice(LEVELS), _said)),
    Emitted.kind: (Emitted, (_count, _said)),
    Acted.kind: (Acted, (_name, _said, _optional(_said))),
    Stated.kind: (Stated, (_pairs(_text(MAX_STATE)),)),
}
