"""Audit rules, the kernel's and auditctl's: what of them decides which records there are.

Two forms are read: struct audit_rule_data as AUDIT_LIST_RULES answers (linux/audit.h), and the lines of auditctl(8) and
audit.rules(7). Both become the same thing, in which only what matters here is told apart.
"""

from __future__ import annotations

import re
import shlex
import struct
from typing import Final

import attrs

from audisp.errors import ParseError
from audisp.parse.arch import machine, syscalls
from audisp.parse.tables_machines import MACHINES

MAX_LINES: Final = 65_536
"""Of a file of rules."""
MAX_FIELDS: Final = 64
"""Of one rule (AUDIT_MAX_FIELDS)."""
MASK_WORDS: Final = 64
"""Of 32 system calls each (AUDIT_BITMASK_SIZE)."""

_HEAD: Final = struct.Struct("=III")
_FIELDS: Final = struct.Struct("=64I")
FILTER_EXIT: Final = 4
FILTERS: Final = {0: "user", 1: "task", 4: "exit", 5: "exclude", 6: "filesystem", 7: "io_uring"}
ALWAYS: Final = 2
ARCH, WATCH, PERM, DIR, FILTERKEY = 11, 105, 106, 107, 210
"""Numbers of fields that are looked at."""
TEXTS: Final = frozenset({13, 14, 15, 16, 17, 19, 20, 21, 22, 23, WATCH, DIR, 112, FILTERKEY})
"""Fields whose value is a length, and whose text stands in the rule's buffer: SELinux's parts, paths, exe, key."""
PERMISSIONS: Final = {1: "x", 2: "w", 4: "r", 8: "a"}
NAMES: Final = {
    0: "pid",
    1: "uid",
    2: "euid",
    5: "gid",
    6: "egid",
    9: "auid",
    10: "pers",
    103: "exit",
    104: "success",
    112: "exe",
    200: "a0",
    201: "a1",
    202: "a2",
    203: "a3",
}
"""Names of fields that narrow a rule, for messages; others are said by number."""

_KEY: Final = "\x01"


@attrs.frozen
class AuditRule:
    """A rule. filter: the list it is in. calls: names of system calls; None for all. bits: 32 or 64 if it is for such
    machines only. watch: a file, or a folder with all below it. perms: of a watch, of ``rwxa``; all if it names none.
    narrowed: names of other fields that must fit, too.
    """

    filter: str
    always: bool
    calls: frozenset[str] | None = None
    bits: int | None = None
    watch: str | None = None
    folder: bool = False
    perms: frozenset[str] = frozenset("rwxa")
    keys: frozenset[str] = frozenset()
    narrowed: tuple[str, ...] = ()


def unpack_rule(data: bytes) -> AuditRule:
    """A struct audit_rule_data. Raises ParseError for bytes that are none."""
    size = _HEAD.size + 4 * _FIELDS.size + 4
    if len(data) < size:
        raise ParseError(f"an audit rule of {len(data)} bytes is shorter than {size}")
    flags, action, count = _HEAD.unpack_from(data)
    mask, fields, values, _ = (_FIELDS.unpack_from(data, _HEAD.size + at * _FIELDS.size) for at in range(4))
    if count > MAX_FIELDS:
        raise ParseError(f"an audit rule has {count} fields, more than {MAX_FIELDS}")
    at = size
    arch: int | None = None
    watch: str | None = None
    folder = False
    perms = frozenset("rwxa")
    keys: frozenset[str] = frozenset()
    narrowed = []
    for field, value in zip(fields[:count], values[:count], strict=True):
        text = ""
        if field in TEXTS:
            text = data[at : at + value].decode("utf-8", "surrogateescape")
            at += value
        if field == ARCH:
            arch = value
        elif field in (WATCH, DIR):
            watch, folder = text, field == DIR
        elif field == PERM:
            perms = frozenset(name for bit, name in PERMISSIONS.items() if value & bit)
        elif field == FILTERKEY:
            keys = frozenset(text.split(_KEY))
        else:
            narrowed.append(NAMES.get(field, f"field {field}"))
    found = None if arch is None else machine(f"{arch:x}")
    every = all(word & 0xFFFFFFFF == 0xFFFFFFFF for word in mask[:-1])
    calls = None if every or watch is not None else _calls(mask, None if found is None else found.syscalls)
    return AuditRule(
        FILTERS.get(flags & 0xF, str(flags & 0xF)),
        action == ALWAYS,
        calls,
        None if found is None else found.bits,
        watch,
        folder,
        perms,
        keys,
        tuple(narrowed),
    )


def _calls(mask: tuple[int, ...], table: str | None) -> frozenset[str]:
    """Names of the system calls of a mask; without a machine the numbers are x86_64's."""
    names = syscalls(table or "x86_64")
    numbers = [
        word * 32 + bit for word in range(MASK_WORDS) if mask[word] for bit in range(32) if mask[word] >> bit & 1
    ]
    return frozenset(names.get(number, str(number)) for number in numbers)


def parse_rules(text: str, name: str) -> tuple[list[AuditRule], list[str]]:
    """Lines as in audit.rules: the rules, and what is wrong with the others (``NAME:LINE: ...``). Lines that set
    something else (``-D``, ``-b``, ``-e``) are passed over."""
    rules: list[AuditRule] = []
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines()[:MAX_LINES], 1):
        try:
            rule = parse_rule(line)
        except ParseError as error:
            wrong.append(f"{name}:{number}: {error}")
            continue
        if rule is not None:
            rules.append(rule)
    return rules, wrong


def parse_rule(line: str) -> AuditRule | None:
    """One line; None for one that is no rule. Raises ParseError."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise ParseError(str(error)) from error
    if not words or words[0] not in ("-a", "-A", "-w"):
        return None
    rule = AuditRule("exit", always=True)
    calls: set[str] = set()
    while words:
        option = words.pop(0)
        if option not in ("-a", "-A", "-w", "-p", "-k", "-S", "-F", "-C"):
            raise ParseError(f"{option[:40]!r} is no option of a rule: -a, -w, -p, -k, -S, -F, -C")
        if not words:
            raise ParseError(f"{option} needs a value")
        value = words.pop(0)
        match option:
            case "-a" | "-A":
                rule = attrs.evolve(rule, filter=_list(value), always="always" in value.split(","))
            case "-w":
                # A folder, if it is one there; only a slash at its end says so here.
                rule = attrs.evolve(rule, watch=value.rstrip("/") or "/", folder=value.endswith("/"))
            case "-p":
                rule = attrs.evolve(rule, perms=_perms(value))
            case "-k":
                rule = attrs.evolve(rule, keys=rule.keys | {value})
            case "-S":
                calls |= set(value.split(","))
            case "-F":
                rule = _field(rule, value)
            case "-C":
                rule = attrs.evolve(rule, narrowed=(*rule.narrowed, value))
    return attrs.evolve(rule, calls=None if not calls or "all" in calls else frozenset(calls))


def _list(value: str) -> str:
    names = [word for word in value.split(",") if word not in ("always", "never")]
    if len(names) != 1 or names[0] not in FILTERS.values():
        raise ParseError(f"-a {value[:40]}: no list of {', '.join(FILTERS.values())}")
    return names[0]


def _perms(value: str) -> frozenset[str]:
    if not value or not set(value) <= set("rwxa"):
        raise ParseError(f"-p {value[:40]}: permissions are of r, w, x and a")
    return frozenset(value)


def _field(rule: AuditRule, value: str) -> AuditRule:
    found = re.match(r"([A-Za-z0-9_]+)(!=|>=|<=|&=|=|>|<|&)(.*)\Z", value, re.S)
    if found is None:
        raise ParseError(f"-F {value[:40]}: no field, operator and value")
    field, operator, text = found.groups()
    if operator == "=":
        match field:
            case "arch":
                return attrs.evolve(rule, bits=_bits(text))
            case "key":
                return attrs.evolve(rule, keys=rule.keys | {text})
            case "path":
                return attrs.evolve(rule, watch=text)
            case "dir":
                return attrs.evolve(rule, watch=text.rstrip("/") or "/", folder=True)
            case "perm":
                return attrs.evolve(rule, perms=_perms(text))
    return attrs.evolve(rule, narrowed=(*rule.narrowed, field))


def _bits(text: str) -> int:
    if text in ("b32", "b64"):
        return int(text[1:])
    for number, name in MACHINES.items():
        if text in (name, f"{number:x}"):
            found = machine(f"{number:x}")
            if found is not None:
                return found.bits
    raise ParseError(f"-F arch={text[:40]}: no machine: b32, b64, x86_64, ...")
