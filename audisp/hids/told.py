"""What is said of a finding and of an alert: as an object for JSON, as a line, as the fields of an audit record."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from audisp.detect.correlate import Finding
from audisp.detect.form import Heading
from audisp.detect.standing import Standing
from audisp.enrich.facts import Enrichment
from audisp.event import Event
from audisp.parse.form import terminal_safe
from audisp.parse.processes import Process

MAX_RECORDS: Final = 64 << 10
"""Bytes of an event's records that an alert holds; an event with a long command line has some MiB, and the log has all
of it. What the reactor takes of an event (react/request.py, MAX_EVENT) is half as much again."""
MAX_ARGV: Final = 1_024
"""Characters of a command line in the chain of processes."""
MAX_WORD: Final = 256
"""Bytes of one field of an alert's record: it must fit into one with some twenty fields (dispatch/host.py)."""


@attrs.frozen(eq=False, kw_only=True)
class Alert:
    """One alert. number: this plugin's, counted on over restarts.

    score: of an entity that has reached its threshold (`audisp.detect.scores`): `entity`, `key`, `score`, `threshold`,
    `why`. standing: the same of the entities of the event, as they are by now.
    """

    number: int
    heading: Heading
    event: Event
    view: str
    finding: Finding | None = None
    score: dict[str, Any] | None = None
    standing: list[dict[str, Any]] = attrs.field(factory=list)


def described(finding: Finding) -> dict[str, Any]:
    """A finding as an object for JSON: `docs/hids.md` names the keys."""
    found = headed(finding.heading, finding.event, finding.view)
    if finding.evidence:
        found["group"] = {name: value.decode("utf-8", "backslashreplace") for name, value in finding.group}
        found["evidence"] = [{"rule_id": each.rule, "event": each.id, "node": each.node} for each in finding.evidence]
    return found


def headed(heading: Heading, event: Event, view: str) -> dict[str, Any]:
    """What a finding has in any case."""
    id_ = event.id
    found: dict[str, Any] = {
        "rule_id": heading.id,
        "title": heading.title,
        "level": heading.level,
        "serial": id_.serial,
        "node": id_.node,
        "time": when(event),
        "event": str(id_),
        "view": view,
        "tags": list(heading.tags),
        "rule": heading.where,
    }
    if heading.author:
        found["author"] = heading.author
    return found


def when(event: Event) -> str:
    """The event's stamp in UTC, as ``2026-01-31T12:00:00.000Z``."""
    return event.time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{event.id.millis:03d}Z"


def as_object(finding: Finding) -> bytes:
    """A line of JSON. Bytes that are no UTF-8 are escaped as ``\\udcXX``."""
    return json.dumps(described(finding)).encode() + b"\n"


def as_line(finding: Finding) -> bytes:
    """A line for people, in which nothing steers a terminal."""
    heading, node = finding.heading, finding.event.node
    group = "".join(f" {name}={value.decode('utf-8', 'backslashreplace')}" for name, value in finding.group)
    line = (
        f"{when(finding.event)}{' ' + node if node else ''} {heading.level} {heading.title} "
        f"[{heading.id}] {finding.view} {finding.event.id}{group}"
    )
    return terminal_safe(line.encode("utf-8", "surrogateescape")).encode("utf-8", "backslashreplace") + b"\n"


def as_alert(alert: Alert) -> dict[str, Any]:
    """An alert as an object for JSON: the finding, the whole event, the processes, the score and why."""
    if alert.finding is not None:
        told = described(alert.finding)
    else:
        told = headed(alert.heading, alert.event, alert.view)
    event = alert.event
    records, cut = _records(event)
    told = {"alert": alert.number, **told, "count": 1, "origin": event.origin, "records": records}
    if cut:
        told["records_cut"] = cut
    context = event.context
    if isinstance(context, Enrichment):
        told["process"] = None if context.process is None else process(context.process)
        told["parents"] = [process(each) for each in context.parents]
        told["container"] = None if context.container is None else str(context.container)
    if alert.score is not None:
        told["score"] = alert.score
    told["standing"] = alert.standing
    return told


def standing(each: Standing) -> dict[str, Any]:
    """A score."""
    return {
        "entity": each.kind,
        "key": each.key,
        "score": round(each.score, 2),
        "firm": round(each.firm, 2),
        "threshold": each.threshold,
        "sure": each.sure,
        "tactics": list(each.tactics),
        "why": [
            {"event": event, "weight": round(weight, 2), "reason": reason}
            for event, weight, reason in each.contributions
        ],
    }


def process(each: Process) -> dict[str, Any]:
    """One process of a chain."""
    argv = None if each.argv is None else " ".join(each.argv)[:MAX_ARGV]
    return {"pid": each.pid, "start": each.ticks, "exe": each.exe, "comm": each.comm, "command_line": argv}


def record_of(alert: Alert) -> tuple[int, str]:
    """Type of the audit record that says there is an alert, and most of its fields (`fields`).

    What is the event's own, and may be an attacker's word, is written as the kernel does: in hexadecimal digits where
    it could end its field.
    """
    event, heading = alert.event, alert.heading
    words = [
        f"level={heading.level}",
        f"rule={quoted(heading.id)}",
        f"title={quoted(heading.title)}",
        f"event={event.id}",
    ]
    if event.node:
        words.append(f"enode={quoted(event.node)}")
    if heading.tags:
        words.append(f"tags={quoted(','.join(heading.tags))}")
    if alert.score is not None:
        words.append(f"entity={quoted(str(alert.score['entity']))} id={quoted(str(alert.score['key']))}")
        words.append(f"score={float(alert.score['score']):.1f}")
    subject = event.subject
    if subject is not None:
        for field, name in (("pid", "opid"), ("uid", "ouid"), ("auid", "oauid"), ("ses", "oses")):
            number = subject.integer(field)
            if number is not None:
                words.append(f"{name}={number}")
        for field in ("acct", "addr", "comm", "exe"):
            text = subject.get(field)
            if text is not None:
                words.append(f"{_NAMES[field]}={quoted(text)}")
    return _type(event, alert), " ".join(words)


def fields(number: int, rest: str, count: int = 1) -> str:
    """The fields of an alert's record. rest: as `record_of` has it. count: how often the same was found; of the record
    that follows when the same has not been found any more for a while, how often since."""
    return f"op={'hids-alert' if count == 1 else 'hids-repeated'} alert={number} {rest} count={count} res=success"


ANOM_LOGIN_FAILURES: Final = 2100
ANOM_ACCESS_FS: Final = 2111
ANOM_EXEC: Final = 2112
ANOM_ORIGIN_FAILURES: Final = 2120
ANOM_SESSION: Final = 2121
"""linux/audit.h and libaudit.h: anomalies of the kind; upstream's ids has the last two for its scores."""
_LOGIN: Final = ("USER_LOGIN", "USER_AUTH", "USER_ACCT", "USER_ERR")
_NAMES: Final = {"acct": "acct", "addr": "daddr", "comm": "ocomm", "exe": "exe"}
"""Fields of the event, and what they are in a record of ours, as said.py of the reactor has them."""


def _type(event: Event, alert: Alert) -> int:
    if alert.score is not None:
        return ANOM_ORIGIN_FAILURES if alert.score["entity"] == "address" else ANOM_SESSION
    if event.first("EXECVE") is not None:
        return ANOM_EXEC
    if event.first("PATH") is not None:
        return ANOM_ACCESS_FS
    if any(event.first(name) is not None for name in _LOGIN):
        return ANOM_LOGIN_FAILURES
    return ANOM_SESSION


def quoted(text: str) -> str:
    """In quotes, or in hexadecimal digits if it could end them; cut to MAX_WORD bytes."""
    data = text.encode("utf-8", "surrogateescape")[:MAX_WORD]
    if all(0x21 <= byte <= 0x7E and byte != 0x22 for byte in data):
        return f'"{data.decode("ascii")}"'
    return data.hex().upper()


def _records(event: Event) -> tuple[list[str], int]:
    """The records as text, and how many bytes were left out."""
    raw = event.raw
    kept = raw if len(raw) <= MAX_RECORDS else raw[: raw.rfind(b"\n", 0, MAX_RECORDS) + 1] or raw[:MAX_RECORDS]
    # Not splitlines(): 0x1D stands before what ENRICHED format appends.
    return kept.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"), len(raw) - len(kept)
