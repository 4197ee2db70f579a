"""What an event is about, as auditbeat tells it: which record says who and which says what, action, object, outcome.

Shared by ecs, ocsf and cef. `ausearch --format text` tells the same in other words; that is another classification, in
another module. Pure functions on records, and tables.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from audisp.event import Event
from audisp.parse import arch, values
from audisp.parse.record import Record
from audisp.shapes import activity_table

PRODUCT: Final = "audisp"
RELEASE: Final = "0.1.0"
"""What made a document, where its form wants that said. Shapes import nothing above them; a test holds it to
`audisp.__version__`."""

MAX_ADDRESS: Final = 45
"""Characters of the longest text of an IP address (INET6_ADDRSTRLEN without its NUL, netinet/in.h)."""

UNSET: Final = ("4294967295", "-1", "unset")
"""An id that is none: (uid_t)-1, as kernels print it (unsigned, older ones signed) and auditd enriches it."""
MAX_ID: Final = 0xFFFF_FFFF
"""Largest number that a uid, gid or pid can be: all are 32 bits wide. A larger one is text that somebody made up."""

_ID_ENDS: Final = ("uid", "gid", "ses")

NUMBERED: Final = frozenset({"SYSCALL", "URINGOP", "SECCOMP"})
"""Record types that name a system call, or what is like one, by its number."""
IDS: Final = ("auid", "uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid")
"""Ids of the process, as SYSCALL and user-space messages have them."""
RESULTS: Final = ("res", "success", "result")
"""Fields that say how it went out."""

SUCCESS: Final = "success"
FAILURE: Final = "fail"
UNKNOWN: Final = "unknown"

_WENT: Final[Mapping[str, str]] = MappingProxyType(
    {"yes": SUCCESS, "1": SUCCESS, "success": SUCCESS, "no": FAILURE, "0": FAILURE, "failed": FAILURE, "fail": FAILURE}
)
SCRIPTS: Final = ("/usr/bin/python", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/perl")
"""Programs that only say which language it was: who did it is then better said by comm (auditbeat's list)."""

ROLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        "session": (("user", "first"), ("effective", "second")),
        "login": (("user", "first"), ("effective", "object")),
        "account": (("user", "first"), ("effective", "uid"), ("target", "object")),
        "target": (("user", "first"), ("effective", "uid"), ("target", "second")),
        "group": (("user", "first"), ("effective", "uid"), ("group", "object")),
    }
)
"""Whose accounts an event is about: pairs of what it is in the document (ECS ``user``, ``user.effective``,
``user.target``, ``group``) and where it comes from: first or second actor, object, or the process's own uid."""


@attrs.frozen
class Meaning:
    """What a record type or a system call means; see `audisp.shapes.activity_table` for the words."""

    action: str = ""
    categories: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    kind: str = "event"
    what: str = ""
    path: int = 0
    first: tuple[str, ...] = ("auid",)
    second: tuple[str, ...] = ("uid",)
    object: tuple[str, ...] = ()
    detail: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    roles: str = ""
    source: bool = False


NOTHING: Final = Meaning()
"""Of a record type that no table has."""


def _names(text: str) -> tuple[str, ...]:
    return () if text == "-" else tuple(text.split(","))


def _meaning(row: list[str]) -> Meaning:
    _, action, categories, types, *rest = row
    words: list[str] = []
    for word in rest:
        words += activity_table.SESSION.split() if word == "session" else [word]
    said = dict(word.partition("=")[::2] for word in words)
    # What a row says itself counts, wherever `session` stands in it.
    said |= dict(word.partition("=")[::2] for word in rest if word != "session")
    return Meaning(
        "" if action == "-" else action,
        _names(categories),
        _names(types),
        "alert" if "alert" in said else "event",
        said.get("what", ""),
        int(said.get("path", "0")),
        _names(said.get("actor", "auid")),
        _names(said.get("second", "uid")),
        _names(said.get("object", "-")),
        _names(said.get("detail", "-")),
        _names(said.get("how", "-")),
        said.get("roles", ""),
        "source" in said,
    )


def _table(text: str) -> Mapping[str, Meaning]:
    rows = [line.split() for line in text.replace("\n ", " ").splitlines()]
    return MappingProxyType({name: _meaning(row) for row in rows for name in row[0].split(",")})


RECORDS: Final = _table(activity_table.RECORDS)
CALL: Final = _table(activity_table.SYSCALLS)
AVC: Final = _table(activity_table.AVC)
ANOMALY: Final = _meaning(activity_table.ANOMALY.split())


def of_record(record: Record) -> Meaning:
    """What a record that is no system call's means."""
    type_ = record.type
    if type_ == "AVC":
        fields = record.fields
        for name, meaning in AVC.items():
            if name in fields:
                return meaning
    found = RECORDS.get(type_)
    if found is None:
        return ANOMALY if type_.startswith("ANOM_") else NOTHING
    return found


def of_call(name: str | None) -> Meaning:
    """What a system call means, by its name."""
    return CALL.get(name or "*") or CALL["*"]


@attrs.frozen
class Parts:
    """The records of an event, told apart. main: what it is about. call: who did it, None if nobody says.

    They are the same record for a plain system call. rest: all others, in order of arrival; no EOE.
    """

    main: Record
    call: Record | None
    rest: list[Record]


def part(records: tuple[Record, ...]) -> Parts | None:
    """Tell an event's records apart; None for one that is nothing but EOE.

    What an event is about is its first record, if that is not the system call's, as the kernel puts what matters most
    first (AVC, NETFILTER_CFG, ANOM_PROMISCUOUS, LOGIN). Those that only say more about a call (SUPPORT) are never what
    it is about if the call is there, however they are shuffled.
    """
    first = call = None
    for each in records:
        type_ = each.type
        if type_ == "EOE":
            continue
        if first is None:
            first = each
        if type_ == "SYSCALL":
            if call is None or call.type != "SYSCALL":
                call = each
        elif type_ == "URINGOP" and call is None:
            call = each
    if first is None:
        return None
    main = first if call is None or first.type not in SUPPORT else call
    rest = [each for each in records if each is not main and each is not call and each.type != "EOE"]
    return Parts(main, call, rest)


SUPPORT: Final = frozenset(
    {
        "SYSCALL", "URINGOP", "PATH", "CWD", "EXECVE", "PROCTITLE", "SOCKADDR", "SOCKETCALL", "BPRM_FCAPS", "CAPSET",
        "OBJ_PID", "MMAP", "FD_PAIR", "IPC", "IPC_SET_PERM", "MQ_OPEN", "MQ_SENDRECV", "MQ_NOTIFY", "MQ_GETSETATTR",
        "OPENAT2", "AVC_PATH", "CONTAINER_ID", "MAC_TASK_CONTEXTS", "MAC_OBJ_CONTEXTS",
    }
)  # fmt: skip
"""Record types that say more about a system call, and nothing by themselves."""


FILE_TYPES: Final[Mapping[int, str]] = MappingProxyType(
    {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFCHR: "character-device",
        stat.S_IFBLK: "block-device",
        stat.S_IFIFO: "named-pipe",
        stat.S_IFLNK: "symlink",
        stat.S_IFSOCK: "socket",
    }
)
"""What a file is, by the format bits of its mode, in auditbeat's words."""

# ---- values ----


def value(type_: str, name: str, raw: str) -> str | None:
    """A field's value for a document: decoded, None where it says that there is none.

    ``(none)`` is a value, as auditbeat has it (``tty=(none)``); ``?``, ``(null)`` and nothing are not, nor is an
    account that is called ``?``, quoted: that is how libaudit says that it does not know. An id that is none is
    ``unset``.
    """
    if raw == "(none)":
        return raw
    if raw in UNSET and name.endswith(_ID_ENDS):
        return "unset"
    if type_ == "EXECVE" and name[:1] == "a" and name[1:].isdecimal():
        return values.argument(raw)
    if name in values.STRINGS or raw[:1] == '"':
        found = values.string(raw)
        return None if found == "?" and name == "acct" else found
    return None if raw in ("?", "(null)", "") else values.from_text(raw)


def is_unset(raw: str) -> bool:
    """Whether an id is none."""
    return raw in UNSET


def small(raw: str | None) -> int | None:
    """A number that fits into 32 bits: a pid or a port; None for what is none."""
    found = values.number(raw)
    return found if found is not None and 0 <= found <= MAX_ID else None


def outcome(record: Record) -> str:
    """SUCCESS, FAILURE or UNKNOWN, as a record says."""
    for name in RESULTS:
        raw = record.raw(name)
        if raw is not None:
            return _WENT.get(raw.strip("\"',)").lower(), UNKNOWN)
    return UNKNOWN


def exit_name(raw: str) -> str:
    """What a system call returned: the name of its error, or the number."""
    number = values.number(raw) if raw.startswith("-") else None
    return raw if number is None else errno.errorcode.get(-number, raw)


def call_name(record: Record) -> str | None:
    """The system call's name: as auditd enriched it, else by our tables; the number where nobody knows.

    Of a URINGOP record, the io_uring operation's.
    """
    uring = record.type == "URINGOP"
    said = record.enriched.get("URING_OP" if uring else "SYSCALL")
    if said and not said.startswith("unknown"):
        return values.from_text(said)
    raw = record.fields.get("uring_op" if uring else "syscall")
    number = values.number(raw)
    if number is None:
        return None if raw is None else values.from_text(raw)
    found = arch.uringop_name(number) if uring else arch.syscall_name(record.fields.get("arch", ""), number)
    return raw if found is None else found


def arch_name(raw: str) -> str:
    """The machine's name, or what the record says."""
    found = arch.machine(raw)
    return values.from_text(raw) if found is None else found.name


def context(label: str) -> dict[str, str]:
    """A security label taken apart as SELinux has it; all of it is the user where another module made it."""
    names = ("user", "role", "domain", "level", "category")
    return dict(zip(names, label.split(":", 4), strict=False))


def address(text: str | None) -> str | None:
    """An IP address as it is written; None for what is none, or has a zone, which means nothing on another host."""
    if text is None or len(text) > MAX_ADDRESS or "%" in text:
        return None
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return None
    return text


def is_loopback(text: str) -> bool:
    """Whether an IP address is the host's own, in either family."""
    found = ipaddress.ip_address(text)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


# ---- what is left over ----

FREE_TEXT: Final = "free text"
"""Under this name stand a record's words that belong to no field. No field can be called so: names have no blanks."""

# As `audisp.parse.record` finds fields; what it does not find is free text.
_FIELD: Final = re.compile(r"(?<![^ ])[^ =\"']++=(?:\"[^\"]*\"|\{[^}]{0,1024}\}|[^ ]*)")
_AVC: Final = re.compile(r"avc: {1,2}\w{1,32} {1,2}(?:\{[^}]{0,1024}\}|null)(?: {1,2}for(?![^ ]))?")
_STRUCTURED: Final = frozenset({"SYSCALL", "PATH", "CWD", "EXECVE", "PROCTITLE", "SOCKADDR", "BPRM_FCAPS"})


def free_text(record: Record) -> str:
    """The words of a record that belong to no field, joined; "" mostly."""
    own, inner, added = record.parts()
    if record.type in _STRUCTURED and own.count(" ") + 1 == own.count("=") and not inner:
        return ""
    found = []
    for text in (own, inner, added):
        words = _FIELD.sub("", _AVC.sub("", text) if "avc: " in text else text).split()
        found += [word for word in words if word not in ("'", "user")] if words else []
    return values.from_text(" ".join(found))


def items(record: Record) -> list[tuple[str, str]]:
    """What `Record.outer_items` gives, without reading the text again where every word of it is a field, each once."""
    fields = record.fields
    if record.parts()[0].strip().count(" ") + 1 == len(fields):
        return list(reversed(fields.items()))
    return record.outer_items()


def repeated(record: Record) -> list[tuple[str, str]]:
    """Fields that the kernel's part of a record has again, raw: views by name show the first alone."""
    all_ = items(record)
    if len(all_) == len(record.fields):
        return []
    found, seen = [], set()
    for name, raw in all_:
        if name in seen:
            found.append((name, raw))
        seen.add(name)
    return found


Gathered = dict[str, str | list[str]]
"""Fields of one record; a list where it has several of one name."""


def gathered(fields: list[tuple[str, str]]) -> Gathered:
    """Fields by name, in order."""
    made: Gathered = {}
    for name, each in fields:
        had = made.get(name)
        if had is None:
            made[name] = each
        elif isinstance(had, list):
            had.append(each)
        else:
            made[name] = [had, each]
    return made


class Leftovers:
    """What of an event went nowhere else: fields by record type. Every value is kept, in order.

    ``{"TYPE": [{"name": "value", ...}, ...]}``, one object per record that has something left; a value that its record
    has twice is a list.
    """

    __slots__ = ("_by_type",)

    def __init__(self) -> None:
        self._by_type: dict[str, list[Gathered]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_type)

    def add(self, type_: str, fields: list[tuple[str, str]]) -> None:
        """Keep these (decoded) fields of one record; nothing for none."""
        if fields:
            self.put(type_, gathered(fields))

    def put(self, type_: str, made: Gathered) -> None:
        """Keep what `gathered` made of one record; not to be changed afterwards."""
        self._by_type.setdefault(values.from_text(type_), []).append(made)

    def all(self) -> dict[str, list[Gathered]]:
        """What was kept."""
        return self._by_type


def stamp(event: Event) -> tuple[int, int, int]:
    """Seconds, milliseconds and serial; zeros for a line that belongs to no event."""
    id_ = event.id
    return id_.seconds, id_.millis, id_.serial
