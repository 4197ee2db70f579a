"""What this host knows of an event's process, looked up while the event is fresh and carried along with its batch.

Asked once per event, in the source's thread, in the order of completion: the table of processes lives on that order.
Reading /proc is bounded there (`audisp.enrich.proc`): an event waits at most for its deadline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from audisp.config.audispd import AudispdConf
from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import PARTS, Enrichment, EnrichSettings, Facts, Name, PathItem
from audisp.enrich.live import begin, finish
from audisp.enrich.worker import Say
from audisp.event import Batch, Event
from audisp.parse.labels import LabelRules, rule
from audisp.parse.record import Record

TABLE: Final = "processes"
"""File in `state_dir` that keeps the process table over a restart."""
_PROCESS_CALLS: Final = frozenset({"execve", "execveat", "fork", "vfork", "clone", "clone3", "exit_group"})
_FLAGS_SECOND: Final = frozenset({"80000016", "16"})
"""s390x and s390: clone has its flags in the second argument (clone(2))."""


def settings(own: AudispdConf) -> EnrichSettings:
    """What audispd.conf asks for."""
    rules = [*(rule(text.split()) for text in own.label), *(rule(text.split(), remove=True) for text in own.unlabel)]
    wanted = {*own.enrich, *(("environment",) if own.enrich_env else ())}
    parts: frozenset[Name] = frozenset(part for part in PARTS if part in wanted)
    return EnrichSettings(parts, own.enrich_env, LabelRules(rules))


def facts_of(event: Event) -> Facts | None:
    """What an event says about its process; None if it names none, or not by the kernel's word."""
    record = event.first("SYSCALL")
    if record is None:
        return _stamped(event)
    fields = record.fields
    pid = record.integer("pid")
    if pid is None:
        return None
    id_ = event.id
    call = event.syscall
    keys = event.keys
    if call not in _PROCESS_CALLS:
        return Facts(
            pid=pid,
            stamp=id_.seconds * 1000 + id_.millis,
            event_id=event.stamp,
            ppid=record.integer("ppid"),
            exe=record.get("exe"),
            comm=record.get("comm"),
            syscall=call,
            success=fields.get("success") == "yes",
            keys=keys,
        )
    starts = call in ("execve", "execveat")
    return Facts(
        pid=pid,
        stamp=id_.seconds * 1000 + id_.millis,
        event_id=event.stamp,
        ppid=record.integer("ppid"),
        exe=record.get("exe"),
        comm=record.get("comm"),
        syscall=call,
        success=fields.get("success") == "yes",
        exit=record.integer("exit"),
        flags=_clone_flags(record) if call == "clone" else None,
        keys=keys,
        argv=tuple(event.argv) if starts else None,
        cwd=event.cwd if starts else None,
        paths=tuple(PathItem(path.name, path.dev, path.inode) for path in event.paths) if starts else (),
    )


def _clone_flags(record: Record) -> int | None:
    argument = "a1" if record.fields.get("arch", "").lower() in _FLAGS_SECOND else "a0"
    return record.integer(argument, 16)


def _stamped(event: Event) -> Facts | None:
    """A user-space message: the kernel stamped its pid, all else is the sender's word."""
    records = event.records
    pid = records[0].fields.get("pid") if records else None
    if pid is None or not pid.isascii() or not pid.isdigit() or len(pid) > 10:
        return None
    id_ = event.id
    return Facts(pid=int(pid), stamp=id_.seconds * 1000 + id_.millis, event_id=event.stamp)


class Contexts:
    """Adds to each batch what is known of its events' processes. node: our own name in records, b"" without."""

    def __init__(self, enricher: Enricher, node: str) -> None:
        self.enricher = enricher
        self._nodes = frozenset({"", node})

    def add(self, batch: Batch) -> None:
        """Events of other nodes are not this host's, and have none."""
        batch.contexts = [self._context(event) for event in batch.events]
        for event, context in zip(batch.events, batch.contexts, strict=True):
            event.context = context

    def _context(self, event: Event) -> Enrichment | None:
        if event.node not in self._nodes:
            return None
        facts = facts_of(event)
        return None if facts is None else self.enricher.enrich(facts)


def start(own: AudispdConf, node: str, say: Say) -> Contexts:
    """Fill the table. Blocks for seconds at most; starts a thread."""
    return Contexts(begin(settings(own), say, own.state_dir / TABLE), node)


def end(contexts: Contexts, state_dir: Path, say: Say) -> None:
    """Keep the table for the next start."""
    finish(contexts.enricher, state_dir / TABLE, say)


def of(event: Event) -> Enrichment | None:
    """For shapes: what was found out when the event was fresh."""
    context = event.context
    return context if isinstance(context, Enrichment) else None
