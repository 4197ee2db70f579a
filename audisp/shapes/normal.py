"""Who did what to what, and how: an event in the words of auparse's normaliser, which `ausearch --format csv` prints.

The words are read from tables that tools/make_normal.py writes. An event is normalised by its SYSCALL record (or
URINGOP), unless another of its records says more exactly what it is about (`COMPOUNDS`, LOGIN); if it has neither, by
its first. Where auparse leaves a cell empty, or fills it from the wrong record, this fills it (docs/shapes/csv.md).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import attrs

from audisp.event import Event
from audisp.parse import sockaddr, values
from audisp.parse.record import Record
from audisp.parse.types import NUMBER
from audisp.shapes.normal_tables import COMPOUNDS, SYSCALLS, TYPES, UNKNOWN, USUAL
from audisp.shapes.normal_values import Reader, absolute

UNSET_IDS: Final = ("4294967295", "-1")
SYSTEM: Final = "system"
"""Subject of what nobody logged in did."""
FIRST_USER: Final = 1_000
"""UID_MIN of login.defs as auparse assumes it: accounts below are services."""
LAST_USER: Final = 60_000
"""UID_MAX, likewise: accounts from here on are of unknown kind."""
SCRIPTED: Final = ("/usr/bin/python", "/usr/bin/bash", "/usr/bin/perl")
"""Programs that run others' programs: of these, how something was done is the name of the process."""
OPERATIONS: Final = MappingProxyType({"add_rule": "added-audit-rule", "remove_rule": "deleted-audit-rule"})
"""CONFIG_CHANGE's ``op``; any other is `changed-audit-configuration`."""
FILE_KINDS: Final = MappingProxyType(
    {
        0o10: "fifo",
        0o20: "character-device",
        0o40: "directory",
        0o60: "block-device",
        0o100: "file",
        0o120: "symlink",
        0o140: "socket",
    }
)
"""By the upper part of PATH's ``mode`` (S_IFMT, linux/stat.h), shifted by twelve bits less three."""


@attrs.frozen
class Normal:
    """An event in auparse's words; "" where there is nothing to say.

    type: of the first record. kind: of event. subject: who logged in, acting: as whom. how: by which program. All are
    decoded, with surrogates for what is not UTF-8, and not escaped.
    """

    type: str
    kind: str
    session: str = ""
    subject: str = ""
    acting: str = ""
    subject_kind: str = ""
    action: str = "did-unknown"
    result: str = ""
    object: str = ""
    object2: str = ""
    object_kind: str = "unknown"
    how: str = ""


@attrs.frozen
class Rule:
    """What is said of a system call. place: number of the record from which on the PATH is looked for, 0 for none.

    by_mode: the PATH's mode says the kind of object. field: of SYSCALL or another record, "" for none. by_call: how it
    was done is the system call.
    """

    action: str
    kind: str
    place: int = 0
    by_mode: bool = False
    field: str = ""
    by_call: bool = False


@attrs.frozen
class Call:
    """What a SYSCALL or URINGOP record says by itself. name: of the system call, "" if unknown. key: the first."""

    rule: Rule
    name: str
    session: str
    subject: str
    acting: str
    subject_kind: str
    result: str
    object: str
    how: str
    key: str


@attrs.frozen
class Target:
    """The object of an event. kind: "" where the rule's stands."""

    object: str = ""
    object2: str = ""
    kind: str = ""


@attrs.frozen
class Row:
    """What is said of a record type. Fields: alternatives, the first that is there counts."""

    kind: str
    action: str
    object_kind: str
    object: tuple[str, ...]
    object2: tuple[str, ...]
    subject: tuple[str, ...]
    acting: tuple[str, ...]
    subject_kind: str
    how: str


def _rule(row: str) -> Rule:
    action, kind, where = row.split()
    by_call = action.endswith("!")
    place = where.removesuffix("*")
    if place.isdigit():
        return Rule(action, kind, int(place), where.endswith("*"))
    return Rule(action.removesuffix("!"), kind, field="" if where == "-" else where, by_call=by_call)


def _fields(text: str) -> tuple[str, ...]:
    return () if text == "-" else tuple(text.split(","))


def _row(text: str) -> Row:
    if len(text.split()) == 4:
        text += USUAL
    kind, action, object_kind, object_, object2, subject, acting, subject_kind, how = text.split()
    return Row(
        kind,
        "did-unknown" if action == "-" else action,
        object_kind,
        _fields(object_),
        _fields(object2),
        _fields(subject),
        _fields(acting),
        "" if subject_kind == "-" else subject_kind,
        "" if how == "-" else how,
    )


TRIGGERED: Final = Rule("triggered-audit-rule", "admin-defined-rule", field="key")
UNTRIGGERED: Final = Rule("triggered-unknown-audit-rule", "admin-defined-rule")
"""A system call of which nothing else is said, with a key and without."""
UNKNOWN_ROW: Final = _row(UNKNOWN)


@functools.cache
def rules() -> Mapping[str, Rule]:
    """By name of the system call."""
    return MappingProxyType({name: _rule(row) for row, names in SYSCALLS.items() for name in names.split()})


@functools.cache
def rows() -> Mapping[str, Row]:
    """By record type."""
    return MappingProxyType(
        {name: row for text, names in TYPES.items() for row in [_row(text)] for name in names.split()}
    )


@functools.cache
def compounds() -> Mapping[str, tuple[str, str, str]]:
    """Action, kind of object, object by record type."""
    return MappingProxyType(
        {
            name: (action, kind, where)
            for text, names in COMPOUNDS.items()
            for action, kind, where in [text.split()]
            for name in names.split()
        }
    )


def subject_kind(id_: str | None) -> str:
    """What sort of account an id is."""
    if id_ is None:
        return ""
    if id_ in UNSET_IDS:
        return "unset-acct"
    number = values.number(id_)
    if number is None or number < 0 or number >= LAST_USER:
        return "unknown-acct"
    if number == 0:
        return "privileged-acct"
    return "service-acct" if number < FIRST_USER else "user-acct"


def result(value: str | None) -> str:
    """What a ``success`` or ``res`` field says, in one of two words."""
    if value is None:
        return ""
    value = value.strip("\"'")
    # What is behind 1 is what ENRICHED format appends, in a log that somebody took the 0x1D out of.
    good = value in ("yes", "success") or (value[:1] == "1" and not value[1:2].isdigit())
    return "success" if good else "failed"


def how(exe: str | None, comm: str | None) -> str:
    """The program; of one that runs others' programs the name that the process has."""
    if exe is None:
        return ""
    return comm if comm and exe.startswith(SCRIPTED) else exe


def called(
    name: str,
    session: str,
    subject: str,
    acting: str,
    kind: str,
    result: str,
    exe: str | None,
    comm: str | None,
    keys: tuple[str, ...],
) -> Call:
    """A `Call` of what stands in its record. kind: of the subject."""
    rule = rules().get(name) or (TRIGGERED if keys else UNTRIGGERED)
    key = keys[0] if keys else ""
    field = rule.field
    object_ = (exe if field == "exe" else comm if field == "comm" else key if field == "key" else "") or ""
    return Call(
        rule, name, session, subject, acting, kind, result, object_, name if rule.by_call else how(exe, comm), key
    )


class Normaliser:
    """Normalises events. names: of accounts, for ids that a record brings no name for. Without state of its own."""

    __slots__ = ("reader",)

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def normal(self, event: Event) -> Normal | None:
        """The event; None for one that has nothing but an EOE."""
        records = [_named(record) for record in event.records if record.type != "EOE"]
        if not records:
            return None
        call = next((record for record in records if record.type == "SYSCALL"), None)
        if call is None:
            call = next((record for record in records if record.type == "URINGOP"), None)
        if call is None:
            return self._simple(records[0])
        return self._compound(records, call)

    # ---- with a system call ----

    def call(self, record: Record) -> Call:
        """What the record of a system call says by itself."""
        reader = self.reader
        return called(
            reader.call_name(record),
            self._session(record),
            self._subject(record, ("auid",)),
            reader.value(record, "uid") or "",
            subject_kind(record.fields.get("uid")),
            result(record.fields.get("success")),
            reader.value(record, "exe"),
            reader.value(record, "comm"),
            values.keys(record.fields.get("key", "(null)")),
        )

    def path(self, record: Record, cwd: str | None) -> Target:
        """The object that a PATH record is. cwd: of the event, None if it has no record of it."""
        name = record.get("name")
        return Target(
            "" if name is None else absolute(name, cwd),
            values.from_text(record.fields.get("inode", "")),
            file_kind(record.integer("mode", 8)),
        )

    def address(self, record: Record, byteorder: sockaddr.ByteOrder | None) -> Target:
        """The object that a SOCKADDR record is."""
        value = record.fields.get("saddr")
        return Target("" if value is None else sockaddr.render(sockaddr.decode(value, byteorder)))

    def _compound(self, records: Sequence[Record], record: Record) -> Normal:
        call = self.call(record)
        login = next((each for each in records if each.type == "LOGIN"), None)
        if login is not None:  # what the call did is what it was for
            return attrs.evolve(self._simple(login), how=call.how)
        rule = call.rule
        action = rule.action
        target = self._target(records, record, call)
        for other in records:
            said = compounds().get(other.type)
            if said is not None:
                action, target = self._said(other, said, rule, target)
                break
        else:
            if action == "killed-pid" and len([each for each in records if each.type == "OBJ_PID"]) > 1:
                action = "killed-list-of-pids"
        first = records[0].type
        return Normal(
            first,
            rows().get(first, UNKNOWN_ROW).kind if first not in ("SYSCALL", "URINGOP") else "audit-rule",
            call.session,
            call.subject,
            call.acting,
            call.subject_kind,
            action,
            call.result,
            target.object,
            target.object2,
            target.kind or rule.kind,
            call.how,
        )

    def _target(self, records: Sequence[Record], record: Record, call: Call) -> Target:
        rule = call.rule
        if rule.place:
            paths = [at for at, each in enumerate(records) if each.type == "PATH" and not is_parent(each)]
            at = next((at for at in paths if at >= rule.place), paths[0] if paths else None)
            if at is None:
                return Target()
            cwd = next((each for each in records if each.type == "CWD"), None)
            found = self.path(records[at], None if cwd is None else cwd.get("cwd"))
            return found if rule.by_mode else attrs.evolve(found, kind="")
        if rule.field == "saddr":
            address = next((each for each in records if each.type == "SOCKADDR"), None)
            return Target() if address is None else self.address(address, self.reader.byteorder(record))
        if rule.field == "opid":
            target = next((each for each in records if each.type == "OBJ_PID"), None)
            return Target() if target is None else Target(target.fields.get("opid", ""), target.get("ocomm") or "")
        return Target(call.object)

    def _said(self, other: Record, said: tuple[str, str, str], rule: Rule, target: Target) -> tuple[str, Target]:
        """What a record says that names the event's action itself."""
        action, kind, where = said
        if other.type == "CONFIG_CHANGE":
            simple = self._simple(other)
            return simple.action, Target(simple.object, "", simple.object_kind)
        action = self._action(other, action)
        if kind == "^":
            return action, target
        name = "name" if other.type == "KERN_MODULE" else where
        return action, Target("" if where == "-" else self.reader.value(other, name) or "", "", kind)

    # ---- without one ----

    def _simple(self, record: Record) -> Normal:
        row = rows().get(record.type, UNKNOWN_ROW)
        reader = self.reader
        object_ = self._first(record, ("name",) if record.type == "KERN_MODULE" else row.object)
        if record.type == "CONFIG_CHANGE" and not object_:
            object_ = next((value for name, value in record.outer_items() if name.startswith("audit_")), "")
        return Normal(
            record.type,
            row.kind,
            self._session(record) if row.subject else "",
            self._subject(record, row.subject),
            self._first(record, row.acting),
            self._sort(record, row.subject_kind),
            self._action(record, row.action),
            result(reader.result(record)),
            object_,
            self._first(record, row.object2),
            row.object_kind,
            self._way(record, row.how),
        )

    def _action(self, record: Record, action: str) -> str:
        type_, op = record.type, record.raw("op")
        if action[:1] == "=":
            return self.reader.value(record, action[1:]) or "did-unknown"
        if type_ == "CONFIG_CHANGE":
            return OPERATIONS.get((op or "").strip('"'), action)
        if type_ == "BPF":
            return "loaded-bpf-program" if op == "LOAD" else "unloaded-bpf-program"
        if type_ == "EVENT_LISTENER":
            return "connected-to" if op == "connect" else "disconnected-from"
        if type_ == "MAC_UNLBL_ALLOW":
            return f"is-{'' if record.raw('unlbl_accept') == '1' else 'dis'}allowing-unlabeled-network-traffic"
        if action == "left-promiscuous-mode-on-device" and record.raw("prom") not in (None, "0"):
            return "entered-promiscuous-mode-on-device"
        return action

    def _first(self, record: Record, fields: tuple[str, ...]) -> str:
        for name in fields:
            value = self.reader.value(record, name)
            if value is not None:
                return value
        return ""

    def _subject(self, record: Record, fields: tuple[str, ...]) -> str:
        found = self._first(record, fields)
        return SYSTEM if found == "unset" else found

    def _session(self, record: Record) -> str:
        value = record.raw("ses")
        return "unset" if value == UNSET_IDS[0] else value or ""

    def _sort(self, record: Record, name: str) -> str:
        if name.isupper():
            return name.lower()
        if not name:
            return ""
        value = record.raw(name)
        if value is None and name in ("id", "auid"):
            # A login that failed has no id but an account's name. Whether there is such an account is not looked up.
            return "privileged-acct" if name == "id" and record.get("acct") == "root" else "unknown-acct"
        return subject_kind(value)

    def _way(self, record: Record, name: str) -> str:
        if name == "exe":
            return how(self.reader.value(record, "exe"), self.reader.value(record, "comm"))
        if name.isupper():
            return name.lower()
        return (self.reader.value(record, name) or "") if name else ""


@functools.cache
def _type_names() -> Mapping[int, str]:
    return MappingProxyType({number: name.decode() for name, number in NUMBER.items()})


def _named(record: Record) -> Record:
    """The record under its type's name, where that is written as a number: ``UNKNOWN[1334]`` is BPF."""
    type_ = record.type
    if type_ in rows() or type_ == "SYSCALL":
        return record
    name = _type_names().get(record.number, type_)
    return record if name == type_ else Record(name, record.body)


def file_kind(mode: int | None) -> str:
    """What a mode says that a file is; "" for None, and for what is none."""
    return "" if mode is None else FILE_KINDS.get(mode >> 9, "")


def is_parent(record: Record) -> bool:
    """Whether a PATH record is of the folder that the object is in."""
    return record.fields.get("nametype") == "PARENT"
