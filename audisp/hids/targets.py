"""What an alert's event says that could be acted on: a process, a session, an account, an address.

Nothing here is a decision: the reactor looks at each by itself (docs/reactions.md). What cannot be said for certain is
left out, never guessed: a process only with the start time that makes it one, a session only as logind has it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import attrs

from audisp.detect.form import Correlation, Is, Node, Not, Rule, RuleSet
from audisp.detect.views import ConnectionView
from audisp.enrich.facts import Enrichment
from audisp.event import Event
from audisp.hids.ours import started
from audisp.hids.told import Alert
from audisp.parse.record import Record
from audisp.parse.types import type_number
from audisp.react.head import cut_head
from audisp.react.request import MAX_ID, MAX_NAME, MAX_PID, Account, Address, Kind, Process, Session, Target

SESSIONS: Final = Path("/run/systemd/sessions")
"""Where logind says what it knows of each session, for everybody to read (systemd, src/login/logind-session.c)."""
MAX_SESSION: Final = 4_096
"""Bytes read of such a file; it has some twenty short lines."""
PASSWD: Final = Path("/etc/passwd")
"""Where the reactor looks for an account, and nowhere else; a directory over the network could also keep us waiting."""
MAX_PASSWD: Final = 1 << 20
"""Bytes read of it: some 15,000 accounts."""
_LINE: Final = re.compile(r"^(UID|LEADER|AUDIT)=([0-9]{1,10})$", re.M)
CALLS: Final = ("SYSCALL", "URINGOP")
"""Records in which `pid` is who did it. In one that user space sent it is the sender: sshd, sudo, cron."""


@attrs.frozen
class Targets:
    """By kind, what an event offers. record_type, head, witness: of the record that says so (see
    `audisp.react.request.Request`)."""

    of: dict[Kind, Target]
    record_type: int
    head: bytes
    witness: Process | None = None


def targets(alert: Alert, proc: Path = Path("/proc"), sessions: Path = SESSIONS) -> Targets:
    """Everything that could be acted on because of this alert."""
    event = alert.event
    found: dict[Kind, Target] = {Kind.NOTIFY: None, Kind.RUN: None}
    subject = event.subject
    group = {} if alert.finding is None else dict(alert.finding.group)
    scored = None if alert.score is None else (str(alert.score["entity"]), str(alert.score["key"]))
    address = _address(alert, subject, group, scored)
    if address is not None:
        found[Kind.BLOCK] = Address(address)
    account = _account(subject, group, scored)
    if account is not None:
        found[Kind.LOCK] = Account(account)
    session = None if subject is None else _session(subject.integer("ses"), sessions)
    if session is not None and (scored is None or scored[0] in ("session", "tree")):
        found[Kind.END_SESSION] = session
    process = _process(event, subject, proc)
    if process is not None and (scored is None or scored[0] in ("session", "tree")):
        found[Kind.KILL] = found[Kind.FREEZE] = process
    if subject is None:
        return Targets(found, 0, b"")
    number = type_number(subject.type.encode("latin-1"))
    head = b"" if subject.type in CALLS else cut_head(event.raw.partition(b"\n")[0])
    return Targets(found, min(number, MAX_ID), head, _witness(event, subject) if head else None)


def _address(
    alert: Alert, subject: Record | None, group: dict[str, bytes], scored: tuple[str, str] | None
) -> str | None:
    if scored is not None:
        if scored[0] == "address":
            return scored[1]
        # Where a session, or what runs in it, came from; its own score stands beside it.
        from_ = [str(each["key"]) for each in alert.standing if each["entity"] == "address"]
        return from_[0] if len(from_) == 1 and scored[0] == "session" else None
    text: str | None = None
    if "addr" in group:
        text = group["addr"].decode("utf-8", "surrogateescape")
    elif alert.finding is not None and alert.finding.hit is not None:
        view = alert.finding.hit.view
        if isinstance(view, ConnectionView):
            seen = view.get("DestinationIp")
            text = None if seen is None else seen.decode("ascii", "replace")
    if text is None and subject is not None and subject.type not in CALLS:
        text = subject.get("addr")
    return text if text and text != "?" and len(text) <= MAX_NAME and text.isascii() else None


def _account(subject: Record | None, group: dict[str, bytes], scored: tuple[str, str] | None) -> str | None:
    if scored is not None and scored[0] != "session":
        return scored[1] if scored[0] == "account" and len(scored[1]) <= MAX_NAME else None
    name: str | None = None
    if "acct" in group:
        name = group["acct"].decode("utf-8", "surrogateescape")
    elif subject is not None and subject.type not in CALLS:
        name = subject.get("acct")
    elif subject is not None:
        auid = subject.integer("auid")
        if auid is not None and 0 < auid <= MAX_ID:
            name = _name_of(auid)
    return name if name and len(name) <= MAX_NAME and name.isascii() else None


def _name_of(uid: int) -> str | None:
    """The account's name, if it is one of this host's own."""
    for line in _read(PASSWD, MAX_PASSWD).split(b"\n"):
        fields = line.split(b":")
        if len(fields) == 7 and fields[2] == b"%d" % uid:
            return fields[0].decode("ascii", "replace")
    return None


def _session(ses: int | None, sessions: Path) -> Session | None:
    """As logind has it, whose names for sessions are the kernel's numbers where there are any."""
    if ses is None or not 0 < ses <= MAX_ID:
        return None
    said = dict(_LINE.findall(_read(sessions / str(ses), MAX_SESSION).decode("ascii", "replace")))
    if said.get("AUDIT") != str(ses) or "UID" not in said or "LEADER" not in said:
        return None
    uid, leader = int(said["UID"]), int(said["LEADER"])
    return Session(ses, uid, leader) if uid <= MAX_ID and 1 <= leader <= MAX_PID else None


def _process(event: Event, subject: Record | None, proc: Path) -> Process | None:
    if subject is None or subject.type not in CALLS:
        return None
    pid = subject.integer("pid")
    if pid is None or not 1 <= pid <= MAX_PID:
        return None
    context = event.context
    if isinstance(context, Enrichment) and context.process is not None and context.process.pid == pid:
        ticks = context.process.ticks
        if ticks is not None:
            return Process(pid, ticks)
    ticks = started(pid, str(proc))
    return None if ticks is None else Process(pid, ticks)


def _witness(event: Event, subject: Record) -> Process | None:
    """The sender's parent, if the dispatcher, which looked first, saw the sender itself in no container."""
    context = event.context
    if not isinstance(context, Enrichment) or not context.parents:
        return None
    sender, parent = context.process, context.parents[0]
    if sender is None or sender.pid != subject.integer("pid") or sender.ticks is None or parent.ticks is None:
        return None
    if sender.place is None or sender.place.container is not None or sender.parent != parent.key:
        return None
    return Process(parent.pid, parent.ticks)


def _read(path: Path, most: int) -> bytes:
    """What stands in a small file; nothing if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, most)
    except OSError:
        return b""
    finally:
        os.close(fd)


def by_keywords(rules: RuleSet) -> frozenset[str]:
    """Ids of the rules that look, somewhere in their condition, for words anywhere in a text; and of the correlations
    on such rules. What they find is somebody's text, and causes no act."""
    found = {each.heading.id for each in rules.rules if _has_keywords(each.condition)}
    left: list[Rule | Correlation] = list(rules.correlations)
    while True:
        more = [each for each in left if isinstance(each, Correlation) and not found.isdisjoint(each.rules)]
        if not more:
            return frozenset(found)
        found |= {each.heading.id for each in more}
        left = [each for each in left if each not in more]


def _has_keywords(node: Node) -> bool:
    if isinstance(node, Is):
        return node.field is None
    if isinstance(node, Not):
        return _has_keywords(node.part)
    return any(_has_keywords(each) for each in node.parts)
