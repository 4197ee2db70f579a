"""Which audit rules a Sigma rule needs, and which of these are there.

A detection rule sees what the kernel was told to record, and nothing else. What its author wrote into
``logsource.definition`` as auditctl's lines counts first; else the condition says which kinds of record it is about:
system calls by name, programs' starts, connections, files by path. What is said is enough for the rule to see its
events, not the only way to record them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from audisp.detect.auditrules import AuditRule, parse_rule
from audisp.detect.form import ANY, Is, Node, Not, Rule, Text
from audisp.detect.literals import call_numbers, types_of
from audisp.errors import ParseError
from audisp.parse.arch import syscalls

EXEC: Final = ("execve", "execveat")
CONNECT: Final = ("connect",)
CREATE: Final = ("open", "openat", "openat2", "creat", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat")
"""Calls with which a file comes to be, and `rename` and its like."""
RENAME: Final = ("rename", "renameat", "renameat2", "mkdir", "mkdirat")
READS: Final = ("attack.discovery", "attack.credential-access", "attack.collection")
"""Tactics in which files are read; in others they are written."""
MAX_DEMANDS: Final = 64
"""Of one rule; a rule for more files is best served by its folders."""


@attrs.frozen
class Demand:
    """One thing that must be recorded. calls: any of these; or watch: a path, with perms; or key: of any rule.

    line: as auditctl would take it, or what to do. narrowed: fields by which the audit rule may be narrowed and yet is
    enough.
    """

    line: str
    calls: tuple[str, ...] = ()
    watch: str = ""
    perms: frozenset[str] = frozenset()
    key: str = ""
    narrowed: tuple[str, ...] = ()


@attrs.frozen
class Verdict:
    """Whether a demand is met. narrowed: only where these fields of the audit rule fit, too."""

    demand: Demand
    met: bool
    narrowed: tuple[str, ...] = ()


def demands_of(rule: Rule) -> list[Demand]:
    """What must be recorded for the rule; [] for records that come by themselves (user-space messages)."""
    written = list(_written(rule.heading.definition))
    if written:
        return written[:MAX_DEMANDS]
    if rule.source == "process_creation":
        # What failed has started nothing.
        return [attrs.evolve(_calls(EXEC), narrowed=("success",))]
    if rule.source == "network_connection":
        return [_calls(CONNECT)]
    if rule.source == "file_event":
        paths = _paths(rule.condition, "TargetFilename")
        found = [_watch(each, frozenset("wa")) for each in paths or ()]
        return list(dict.fromkeys(found))[:MAX_DEMANDS] or [_calls((*CREATE, *RENAME))]
    return list(dict.fromkeys(_of_records(rule)))[:MAX_DEMANDS]


def _written(definition: str) -> Iterator[Demand]:
    """auditctl's lines in what the author says must be configured."""
    seen = set()
    for line in definition.splitlines():
        line = line.strip().strip("`").removeprefix("auditctl ").strip()
        try:
            found = parse_rule(line)
        except ParseError:
            continue
        if found is None or not found.always:
            continue
        if found.watch is not None:
            demand = Demand(line, watch=found.watch, perms=found.perms, key=min(found.keys, default=""))
        else:
            calls = tuple(sorted(found.calls or ()))
            demand = Demand(line, calls, key=min(found.keys, default=""))
        demand = attrs.evolve(demand, narrowed=found.narrowed)
        same = (demand.calls, demand.watch, demand.key, demand.narrowed)
        if same not in seen:
            seen.add(same)
            yield demand


def _of_records(rule: Rule) -> Iterator[Demand]:
    types = types_of(rule.condition)
    keys = _texts(rule.condition, "key")
    for key in keys:
        yield Demand(f"a rule with -k {key}", key=key)
    calls = [each for each in _texts(rule.condition, "SYSCALL") if call_numbers(each.lower())]
    if calls:
        yield _calls(tuple(sorted({each.lower() for each in calls})))
    elif not keys and (types is None or types & {"execve", "syscall"}):
        # A rule on SYSCALL that names no call is about what a program does from its start on.
        yield _calls(EXEC)
    elif types is not None and "execve" in types:
        yield _calls(EXEC)
    if types is None or "path" in types:
        reads = any(tag in READS for tag in rule.heading.tags)
        paths = _paths(rule.condition, "name")
        if paths is None:
            if types is not None:
                yield _calls((*CREATE, *RENAME))
            return
        for path in paths:
            yield _watch(path, frozenset("r" if reads else "wa"))


def _texts(node: Node, field: str) -> list[str]:
    """The plain texts that a field may be equal to, where it is not negated."""
    if isinstance(node, Is):
        whole = isinstance(node.value, Text) and len(node.value.parts) == 1 and isinstance(node.value.parts[0], str)
        return [str(node.value.parts[0])] if whole and node.field == field and isinstance(node.value, Text) else []
    if isinstance(node, Not):
        return []
    return [text for each in node.parts for text in _texts(each, field)]


def _paths(node: Node, field: str) -> list[str] | None:
    """Files, and folders with a slash at the end, that a condition is about; None if it is not only about such."""
    values = [each.value for each in _asked(node) if each.field == field]
    found = []
    for value in values:
        if not isinstance(value, Text) or not value.parts or not str(value.parts[0]).startswith("/"):
            return None
        path = str(value.parts[0])
        if len(value.parts) > 1:
            # A text that goes on: the folder that its beginning names.
            path = path.rpartition("/")[0] + "/"
            if path == "/" or value.parts[1] not in (ANY, 1):
                return None
        found.append(path)
    return found or None


def _asked(node: Node) -> Iterator[Is]:
    if isinstance(node, Is):
        yield node
    elif not isinstance(node, Not):
        for each in node.parts:
            yield from _asked(each)


def _calls(names: tuple[str, ...]) -> Demand:
    return Demand(f"-a always,exit -F arch=b64 -S {','.join(names)}", names)


def _watch(path: str, perms: frozenset[str]) -> Demand:
    written = "".join(sorted(perms, key="rwxa".index))
    return Demand(f"-w {path} -p {written}", watch=path.rstrip("/") or "/", perms=perms)


def verdicts(demands: Sequence[Demand], rules: Sequence[AuditRule]) -> list[Verdict]:
    """Whether each is met by these audit rules."""
    usable = [each for each in rules if each.always and each.filter == "exit"]
    return [_judge(each, usable) for each in demands]


def _judge(demand: Demand, rules: Sequence[AuditRule]) -> Verdict:
    narrowed: tuple[str, ...] | None = None
    for rule in rules:
        if not _serves(rule, demand):
            continue
        beyond = tuple(each for each in rule.narrowed if each not in demand.narrowed)
        if not beyond:
            return Verdict(demand, met=True)
        narrowed = beyond if narrowed is None else narrowed
    return Verdict(demand, met=narrowed is not None, narrowed=narrowed or ())


def _serves(rule: AuditRule, demand: Demand) -> bool:
    if demand.key and demand.key not in rule.keys:
        # The Sigma rule may ask for the key, so another's events are not enough.
        return False
    if demand.watch:
        if rule.watch is None or not demand.perms <= rule.perms:
            return rule.watch is None and rule.calls is None and rule.bits != 32
        below = demand.watch == rule.watch or demand.watch.startswith(rule.watch.rstrip("/") + "/")
        return below and rule.bits != 32
    if demand.calls:
        if rule.watch is not None or rule.bits == 32:
            return False
        return rule.calls is None or set(demand.calls) & _spelled(rule.calls) != set()
    return bool(demand.key)


def _spelled(calls: frozenset[str]) -> set[str]:
    """Calls by name; a number counts as x86_64's."""
    names = syscalls("x86_64")
    return {names.get(int(each), each) if each.isdecimal() else each for each in calls}
