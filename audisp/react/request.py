"""What the matcher may ask of the reactor, and what it hears back: one message of msgpack each, read as a stranger's.

The matcher runs without privileges and reads what attackers write; whoever takes it over can send what he likes. So a
message has one form, every part of it a type and a bound, and what is not exactly that is no request. Nothing in a
request can widen what reactions.conf allows: the reactor reads that by itself.
"""

from __future__ import annotations

import enum
import json
import re
from typing import Any, Final, TypeVar

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.errors import RemoteProtocolError

VERSION: Final = 2
MAX_MESSAGE: Final = 128 * 1024
"""Bytes. An event with its chain of processes, and a packet that the socket's default buffer (208 KiB) can hold."""
MAX_EVENT: Final = 96 * 1024
"""Bytes of the event's JSON: the rest of a message has less than 8 KiB."""
MAX_TEXT: Final = 512
"""Characters of rule, reason, event id."""
MAX_NAME: Final = 256
"""Characters of an account's name (LOGIN_NAME_MAX) or an address."""
MAX_HEAD: Final = 1024
"""Bytes of a user-space record before ``msg='``: pid, uid, auid, ses, and a label of at most some hundred."""
MAX_TIME: Final = 1 << 52
"""Milliseconds: a double still tells one from the next."""
MAX_PID: Final = 1 << 22
"""PID_MAX_LIMIT of 64-bit kernels."""
MAX_TICKS: Final = 1 << 62
MAX_ID: Final = (1 << 32) - 2
"""Largest uid and session; the next number is what `unset` looks like."""
T = TypeVar("T", str, bytes)
E = TypeVar("E", bound=enum.StrEnum)

EVENT_ID: Final = re.compile(r"[0-9]{1,13}\.[0-9]{3}:[0-9]{1,20}")


class Kind(enum.StrEnum):
    """What can be done. The values are also the keys of reactions.conf."""

    NOTIFY = "notify"
    KILL = "kill_process"
    FREEZE = "freeze_process"
    END_SESSION = "end_session"
    LOCK = "lock_account"
    BLOCK = "block_address"
    RUN = "run_command"


class Level(enum.StrEnum):
    """Of the rule, as Sigma has them, the least first."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Origin(enum.StrEnum):
    """Where the event came in. LIVE: from this host's kernel, now. Everything else is somebody's word, or the past."""

    LIVE = "live"
    NETWORK = "network"
    LOCAL = "local"
    """A local socket or standard input: anybody who may write there."""
    FILE = "file"
    SPOOL = "spool"


class Outcome(enum.StrEnum):
    """What became of a request, or of an act."""

    DONE = "done"
    DRY_RUN = "dry_run"
    SUPPRESSED = "suppressed"
    FAILED = "failed"
    UNDONE = "undone"
    NOT_UNDONE = "not_undone"
    """Could not be undone, or must not be: somebody else changed it meanwhile."""


@attrs.frozen
class Process:
    """pid, and its start in clock ticks since boot (field 22 of /proc/PID/stat): the pair is one process for ever."""

    pid: int
    start: int


@attrs.frozen
class Session:
    """An audit session, whose it is, and the pid of its leader."""

    ses: int
    uid: int
    leader: int


@attrs.frozen
class Account:
    """The name as it stands in the record."""

    name: str


@attrs.frozen
class Address:
    """The address as it stands in the record."""

    text: str


Target = Process | Session | Account | Address | None

TARGETS: Final[dict[Kind, type | None]] = {
    Kind.NOTIFY: None,
    Kind.KILL: Process,
    Kind.FREEZE: Process,
    Kind.END_SESSION: Session,
    Kind.LOCK: Account,
    Kind.BLOCK: Address,
    Kind.RUN: None,
}
"""What each kind is aimed at; None: at nothing, it only gets the event."""


@attrs.frozen(kw_only=True)
class Request:
    """One request. Times are milliseconds since 1970.

    number: the matcher's own, comes back in the result. deadline: when the act makes no sense any more.
    keywords: the rule is true of words anywhere in a text, and of nothing else. record_type: of the record that fired
    the rule. head: of a user-space record, its bytes before ``msg='``; else empty. witness: the parent of that record's
    sender, if the dispatcher's table of processes, which looked while the sender lived, has it in no container.
    seconds: how long it shall last, 0: as configured; what is longer than configured is shortened. event: JSON, an
    object.
    """

    number: int
    kind: Kind
    target: Target
    deadline: int
    event_id: str
    event_time: int
    origin: Origin
    level: Level
    keywords: bool = False
    record_type: int = 0
    head: bytes = b""
    witness: Process | None = None
    seconds: int = 0
    rule: str = ""
    why: str = ""
    event: bytes = b"{}"

    @property
    def subject(self) -> str:
        """The target in words, the same for the same target."""
        match self.target:
            case Process(pid, start):
                return f"process {pid}/{start}"
            case Session(ses, uid, _):
                return f"session {ses} of uid {uid}"
            case Account(name):
                return f"account {name}"
            case Address(text):
                return f"address {text}"
        return f"event {self.event_id}"


@attrs.frozen(kw_only=True)
class Result:
    """What the reactor did or did not. number: the request's, 0 if there was none (an undo by timer).

    act: the journal's number of the act, 0 if there is none. until: when it ends by itself, ms since 1970, 0: never.
    record_type, body: the audit record that says so.
    """

    number: int
    kind: Kind
    outcome: Outcome
    reason: str
    text: str
    act: int = 0
    until: int = 0
    record_type: int = 0
    body: str = ""


def encode_request(request: Request) -> bytes:
    """The message of a request. ValueError if `decode_request` would not take it: for the matcher's own mistakes."""
    target = None if request.target is None else list(attrs.astuple(request.target))
    parts = [VERSION, *(getattr(request, name) for name in _PARTS)]
    parts[_PARTS.index("target") + 1] = target
    parts[_PARTS.index("witness") + 1] = None if request.witness is None else list(attrs.astuple(request.witness))
    data: bytes = msgpack.packb([str(part) if isinstance(part, enum.StrEnum) else part for part in parts])
    try:
        decode_request(data)
    except RemoteProtocolError as error:
        raise ValueError(f"this request would be refused: {error}") from error
    return data


def decode_request(data: bytes) -> Request:
    """The request of a message. RemoteProtocolError for whatever is not exactly one."""
    parts = _unpacked(data, len(_PARTS) + 1)
    given = dict(zip(_PARTS, parts[1:], strict=True))
    kind = _word(Kind, "kind", given["kind"])
    event = _of(bytes, "event", given["event"], MAX_EVENT)
    try:
        is_object = isinstance(json.loads(event), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise RemoteProtocolError("event is no JSON object")
    event_id = _of(str, "event_id", given["event_id"], MAX_TEXT)
    if not EVENT_ID.fullmatch(event_id):
        raise RemoteProtocolError("event_id is not SEC.MSEC:SERIAL")
    keywords = given["keywords"]
    if not isinstance(keywords, bool):
        raise RemoteProtocolError("keywords is neither true nor false")
    return Request(
        number=_number("number", given["number"], MAX_TIME, low=1),
        kind=kind,
        target=_target(kind, given["target"]),
        deadline=_number("deadline", given["deadline"], MAX_TIME),
        event_id=event_id,
        event_time=_number("event_time", given["event_time"], MAX_TIME),
        origin=_word(Origin, "origin", given["origin"]),
        level=_word(Level, "level", given["level"]),
        keywords=keywords,
        record_type=_number("record_type", given["record_type"], MAX_ID),
        head=_of(bytes, "head", given["head"], MAX_HEAD),
        witness=None if given["witness"] is None else _process("witness", given["witness"]),
        seconds=_number("seconds", given["seconds"], MAX_ID),
        rule=_of(str, "rule", given["rule"], MAX_TEXT),
        why=_of(str, "why", given["why"], MAX_TEXT),
        event=event,
    )


_PARTS: Final = tuple(field.name for field in attrs.fields(Request))


def encode_result(result: Result) -> bytes:
    """The message of a result."""
    parts = attrs.astuple(result)
    data: bytes = msgpack.packb([VERSION, *(str(part) if isinstance(part, enum.StrEnum) else part for part in parts)])
    return data


def decode_result(data: bytes) -> Result:
    """The result of a message. RemoteProtocolError for whatever is not exactly one."""
    _, number, kind, outcome, reason, text, act, until, record_type, body = _unpacked(data, 10)
    return Result(
        number=_number("number", number, MAX_TIME),
        kind=_word(Kind, "kind", kind),
        outcome=_word(Outcome, "outcome", outcome),
        reason=_of(str, "reason", reason, MAX_TEXT),
        text=_of(str, "text", text, MAX_MESSAGE),
        act=_number("act", act, MAX_TIME),
        until=_number("until", until, MAX_TIME),
        record_type=_number("record_type", record_type, MAX_ID),
        body=_of(str, "body", body, MAX_MESSAGE),
    )


def _unpacked(data: bytes, length: int) -> list[Any]:
    if len(data) > MAX_MESSAGE:
        raise RemoteProtocolError(f"{len(data)} bytes, {MAX_MESSAGE} at most")
    try:
        # No map, no extension, no list but the outer one and the target's: nothing that could cost more than its bytes.
        parts = msgpack.unpackb(data, max_array_len=length, max_map_len=0, max_ext_len=0, use_list=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(f"no message of msgpack: {type(error).__name__}") from error
    if not isinstance(parts, list) or len(parts) != length:
        raise RemoteProtocolError(f"not a list of {length} parts")
    if type(parts[0]) is not int or parts[0] != VERSION:
        raise RemoteProtocolError("a version that is not known")
    return parts


def _target(kind: Kind, given: object) -> Target:
    wanted = TARGETS[kind]
    if wanted is None:
        if given is not None:
            raise RemoteProtocolError(f"{kind} has no target")
        return None
    if not isinstance(given, list) or len(given) != len(attrs.fields(wanted)):
        raise RemoteProtocolError(f"{kind} needs a target of {len(attrs.fields(wanted))} parts")
    if wanted is Process:
        return _process("target", given)
    if wanted is Session:
        return Session(
            _number("ses", given[0], MAX_ID), _number("uid", given[1], MAX_ID), _number("leader", given[2], MAX_PID, 1)
        )
    text = _of(str, "target", given[0], MAX_NAME)
    return Account(text) if wanted is Account else Address(text)


def _process(name: str, given: object) -> Process:
    if not isinstance(given, list) or len(given) != 2:
        raise RemoteProtocolError(f"{name} is not a pid and a start time")
    return Process(_number("pid", given[0], MAX_PID, low=1), _number("start", given[1], MAX_TICKS))


def _number(name: str, given: object, high: int, low: int = 0) -> int:
    # bool is an int to Python, and none to us.
    if type(given) is not int or not low <= given <= high:
        raise RemoteProtocolError(f"{name} is not a number from {low} to {high}")
    return given


def _of(kind: type[T], name: str, given: object, longest: int) -> T:
    if not isinstance(given, kind) or len(given) > longest:
        raise RemoteProtocolError(f"{name} is not {kind.__name__} of at most {longest}")
    return given


def _word(kind: type[E], name: str, given: object) -> E:
    if isinstance(given, str):
        for word in kind:
            if word.value == given:
                return word
    raise RemoteProtocolError(f"{name} is none of {', '.join(kind)}")
