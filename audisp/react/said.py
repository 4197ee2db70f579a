"""The audit record of each act and of each that was not: its type and its fields.

Types are upstream's where it has one (lib/msg_typetab.h). A reader that counts RESP_KILL_PROC counts processes that
were killed, or that could not be (res=failed); what was suppressed or only a dry run is RESP_ANOMALY.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from audisp.react.books import Act
from audisp.react.request import Kind, Outcome, Request

RESP_ANOMALY: Final = 2200
TYPES: Final = MappingProxyType(
    {
        Kind.NOTIFY: (2201, 2201),  # RESP_ALERT
        Kind.KILL: (2202, 2202),  # RESP_KILL_PROC
        Kind.FREEZE: (2202, 2202),
        Kind.END_SESSION: (2203, 2203),  # RESP_TERM_ACCESS
        Kind.LOCK: (2205, 2206),  # RESP_ACCT_LOCK_TIMED, RESP_ACCT_UNLOCK_TIMED
        Kind.BLOCK: (2214, 2215),  # RESP_ORIGIN_BLOCK_TIMED, RESP_ORIGIN_UNBLOCK_TIMED
        Kind.RUN: (2210, 2210),  # RESP_EXEC
    }
)
"""Type of the act, and of its undo."""

_FIELDS: Final = {
    "pid": "opid",
    "exe": "exe",
    "uid": "ouid",
    "ses": "old-ses",
    "name": "acct",
    "address": "daddr",
    "program": "cmd",
}
"""Parts of a target, and the fields they are in records. Fields whose names are taken by the sender's own (pid, uid,
ses) have those of the object."""
_TEXT: Final = ("exe", "acct", "cmd")


def record_type(kind: Kind, outcome: Outcome) -> int:
    """The type of the record."""
    if outcome in (Outcome.DRY_RUN, Outcome.SUPPRESSED):
        return RESP_ANOMALY
    return TYPES[kind][outcome in (Outcome.UNDONE, Outcome.NOT_UNDONE)]


def body(
    kind: Kind,
    outcome: Outcome,
    reason: str,
    *,
    act: Act | None = None,
    request: Request | None = None,
) -> str:
    """The record's fields, as text."""
    words = [f"op={_op(kind, outcome)}"]
    if act is not None:
        words.append(f"act={act.id}")
        words += [f"{_FIELDS[name]}={_value(_FIELDS[name], part)}" for name, part in act.aim.items() if name in _FIELDS]
        if outcome is Outcome.DONE and act.seconds:
            words.append(f"time_out={max(1, act.seconds // 60)}")  # in minutes, as upstream's records have it
    elif request is not None and request.target is not None:
        words.append(f"target={quoted(request.subject)}")
    words.append(f"reason={reason or 'none'}")
    event, rule, level = (
        (request.event_id, request.rule, str(request.level))
        if request
        else (act.event, act.rule, act.level)
        if act
        else ("", "", "")
    )
    if event:
        words.append(f"event={event} level={level} rule={quoted(rule)}")
    words.append(f"res={'success' if outcome in (Outcome.DONE, Outcome.UNDONE) else 'failed'}")
    return " ".join(words)


def quoted(text: str) -> str:
    """As the kernel writes what it does not trust: in quotes, or in hexadecimal if it could end them."""
    data = text.encode("utf-8", "surrogateescape")
    if all(0x21 <= byte <= 0x7E and byte != 0x22 for byte in data):
        return f'"{text}"'
    return data.hex().upper()


def _op(kind: Kind, outcome: Outcome) -> str:
    name = kind.value.replace("_", "-")
    match outcome:
        case Outcome.UNDONE | Outcome.NOT_UNDONE:
            return f"undo-{name}"
        case Outcome.DRY_RUN:
            return f"would-{name}"
        case Outcome.SUPPRESSED:
            return f"suppressed-{name}"
    return name


def _value(name: str, part: Any) -> str:
    return quoted(str(part)) if name in _TEXT else str(part)
