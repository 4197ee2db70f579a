"""The facts of an event, as enrichment wants them. Only what the kernel stamped counts: a user-space message may say
anything about programs inside its ``msg='...'``, and the process that sent it is known by its number alone."""

from __future__ import annotations

from typing import Final

from audisp.enrich.facts import EXEC, Facts, PathItem
from audisp.event import Event
from audisp.parse import values
from audisp.parse.arch import syscall_name
from audisp.parse.record import Record

S390: Final = frozenset({"16", "80000016"})
"""Machines on which clone's flags are its second argument (AUDIT_ARCH_S390, AUDIT_ARCH_S390X; clone(2))."""
NO_ITEM: Final = 1 << 20
"""Where a PATH record without a number is sorted: behind all."""


def facts_of(event: Event) -> Facts | None:
    """None for an event that names no process of the kernel's: without a stamp or a pid, or a daemon's own (DAEMON_*).

    Names of system calls come from the record's numbers, not from what ENRICHED format appended.
    """
    record = event.subject
    if record is None or not event.stamp or record.type.startswith("DAEMON_"):
        return None
    fields = record.fields
    pid = values.number(fields.get("pid"))
    if pid is None:
        return None
    id_ = event.id
    stamp, text = id_.seconds * 1000 + id_.millis, event.stamp
    if record.type not in ("SYSCALL", "URINGOP"):
        return Facts(pid, stamp, text, exe=_said(record, "exe"), comm=_said(record, "comm"), keys=event.keys)
    arch, number = fields.get("arch", ""), values.number(fields.get("syscall"))
    call = None if number is None else syscall_name(arch, number)
    success = fields.get("success") == "yes"
    start = call in EXEC and success
    return Facts(
        pid,
        stamp,
        text,
        values.number(fields.get("ppid")),
        _said(record, "exe"),
        _said(record, "comm"),
        call,
        success,
        values.number(fields.get("exit")),
        values.number(fields.get("a1" if arch in S390 else "a0"), 16) if call == "clone" else None,
        event.keys,
        # Without its records the arguments are unknown, which is not the same as none.
        (tuple(event.argv) or None) if start else None,
        event.cwd if start else None,
        _paths(event) if start else (),
    )


def _said(record: Record, name: str) -> str | None:
    value = record.fields.get(name)
    return None if value is None else values.string(value)


def _paths(event: Event) -> tuple[PathItem, ...]:
    found = sorted(event.paths, key=lambda path: NO_ITEM if path.item is None else path.item)
    # The first file is what was asked for only if its record is there.
    if not found or found[0].item != 0:
        return ()
    return tuple(PathItem(path.name, path.dev, path.inode) for path in found)
