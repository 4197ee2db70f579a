"""Parts of an ECS document that one record makes by itself: equal records make equal parts, so each is made once.

What is here is text already, names and values as JSON; `audisp.shapes.ecs` puts it together.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from audisp.parse import sockaddr, values
from audisp.parse.record import Record, arguments
from audisp.shapes import activity
from audisp.shapes.activity_text import quoted, written
from audisp.shapes.shape import Names

Items = list[tuple[str, str]]
"""Field names with raw values."""
Pairs = tuple[tuple[str, str], ...]
"""Names and values; both JSON where they are for a document, both decoded where they are leftovers."""

FAMILIES: Final[Mapping[str, str]] = MappingProxyType({"inet": "ipv4", "inet6": "ipv6", "local": "unix"})
"""auditd.data.socket.family where auditbeat's name is another than auparse's."""
USER_PARTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "uid": (),
        "gid": ("group",),
        "auid": ("audit",),
        "euid": ("effective",),
        "egid": ("effective", "group"),
        "suid": ("saved",),
        "sgid": ("saved", "group"),
        "fsuid": ("filesystem",),
        "fsgid": ("filesystem", "group"),
    }
)
"""Where in ``user`` an id of the process stands."""
FRONT: Final = re.compile(
    r"arch=([0-9a-f]{1,8}) syscall=(\d{1,10}) success=(yes|no) exit=(-?\d{1,20}) a0=([0-9a-f]{1,16}) "
    r"a1=([0-9a-f]{1,16}) a2=([0-9a-f]{1,16}) a3=([0-9a-f]{1,16}) items=(\d{1,10}) "
    r"ppid=(0|[1-9]\d{0,8}) pid=(0|[1-9]\d{0,8}) (auid=.*)\Z",
    re.DOTALL | re.ASCII,
)
"""SYSCALL as every kernel since 2.6.25 writes it; one that looks otherwise is read field by field."""

_ENRICHED: Final = frozenset(name.upper() for name in (*activity.IDS, "arch", "syscall"))


def name_of(names: Names, enriched: Mapping[str, str], field: str, raw: str) -> tuple[str | None, bool]:
    """The name of an id, and whether `names` was asked for it: as the record was enriched, else as this host has it."""
    said = enriched.get(field.upper())
    if said is not None:
        found = values.string(said)
        if found is not None and found != "unset" and not found.startswith("unknown("):
            return found, False
    number = activity.small(raw)
    if number is None:
        return None, False
    return (names.group(number) if field.endswith("gid") else names.user(number)), True


@attrs.frozen
class Asked:
    """What `names` was asked while a part was made: what it says may change, and then the part is made anew."""

    group: bool
    id: int
    name: str | None


@attrs.frozen
class Tail:
    """What a record says of who did it: SYSCALL's fields from auid on, or all of a user-space message.

    Texts are JSON; "" is absent. ids, names, process: by field. data: for auditd.data. first, second: who, for the
    summary. call: the system call's name, if auditd enriched it.
    """

    user: str = ""
    selinux: Mapping[str, str] = attrs.field(factory=dict)
    ids: Mapping[str, str] = attrs.field(factory=dict)
    names: Mapping[str, str] = attrs.field(factory=dict)
    first: str = ""
    second: str = ""
    session: str = ""
    tags: str = ""
    call: str = ""
    process: Mapping[str, str] = attrs.field(factory=dict)
    how: str = ""
    data: Pairs = ()
    left: Pairs = ()
    asked: tuple[Asked, ...] = ()


def user_object(
    ids: Mapping[str, str],
    names: Mapping[str, str],
    selinux: Mapping[str, str],
    roles: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, object]:
    """``user``. roles: (id, name) of ``user``, ``effective`` and ``target`` where the event is about an account, each
    "" if not known; they take the place of the process's own."""
    user: dict[str, object] = {}
    for field, where in USER_PARTS.items():
        if field not in ids or activity.is_unset(ids[field]):
            continue
        at = user
        for step in where:
            at = at.setdefault(step, {})  # type: ignore[assignment]
        at["id"] = ids[field]
        if field in names:
            at["name"] = names[field]
    for role, (id_, name) in (roles or {}).items():
        if role == "group":
            continue
        at = user if role == "user" else user.setdefault(role, {})  # type: ignore[assignment]
        at.pop("id", None)
        at.pop("name", None)
        if id_:
            at["id"] = id_
        if name:
            at["name"] = name
        if role != "user" and not at:
            del user[role]
    _drop_same(user)
    if selinux:
        user["selinux"] = dict(selinux)
    return user


def _drop_same(user: dict[str, object]) -> None:
    """``user.effective`` says only what differs from ``user``."""
    effective = user.get("effective")
    if not isinstance(effective, dict):
        return
    if any(name in effective and effective[name] == user.get(name) for name in ("id", "name")):
        effective.pop("id", None)
        effective.pop("name", None)
        if effective.get("group") == user.get("group"):
            effective.pop("group", None)
    if not effective:
        del user["effective"]


def tail(type_: str, items: Items, enriched: Mapping[str, str], names: Names) -> Tail:
    """Who, from a record's fields. items: those that a system call's number, arguments and result are not among."""
    ids: dict[str, str] = {}
    known: dict[str, str] = {}
    data: dict[str, str] = {}
    process: dict[str, str] = {}
    left: Items = []
    asked: list[Asked] = []
    selinux: dict[str, str] = {}
    session = tags = ""
    seen: set[str] = set()
    for name, raw in items:
        value = activity.value(type_, name, raw)
        if value is None:
            seen.add(name)
            continue
        if name in seen:
            left.append((name, value))
            continue
        seen.add(name)
        if name in USER_PARTS:
            ids[name] = value
            if not activity.is_unset(raw):
                found, from_host = name_of(names, enriched, name, raw)
                if found is not None:
                    known[name] = found
                if from_host:
                    asked.append(Asked(name.endswith("gid"), int(raw), found))
        elif name == "ses":
            session = "unset" if activity.is_unset(raw) else value
        elif name in ("pid", "ppid"):
            number = activity.small(raw)
            if number is None:
                data[quoted(name)] = quoted(value)
            else:
                process[name] = str(number)
        elif name in ("comm", "exe", "cwd"):
            process[name] = quoted(value)
        elif name == "subj":
            selinux = activity.context(value)
        elif name == "key":
            tags = written(list(values.keys(raw)))
        else:
            data[quoted(name)] = quoted(value)
    for name, raw in enriched.items():
        if name not in _ENRICHED or (name.lower() not in seen and name not in ("ARCH", "SYSCALL")):
            value = values.string(raw)
            if value is not None:
                data.setdefault(quoted(name), quoted(value))
    unset = {name: "unset" if activity.is_unset(raw) else raw for name, raw in ids.items()}
    first, second = (known.get(name, unset.get(name, "")) for name in ("auid", "uid"))
    made = user_object(ids, known, selinux)
    exe, comm = process.get("exe"), process.get("comm")
    program = exe is not None and exe[1:].startswith(activity.SCRIPTS) and comm is not None
    return Tail(
        written(made) if made else "",
        selinux,
        ids,
        known,
        quoted(first) if first else "",
        quoted(second) if second else "",
        session,
        tags,
        _call(enriched),
        process,
        (comm if program else exe or comm) or "",
        tuple(data.items()),
        tuple(left),
        tuple(asked),
    )


def _call(enriched: Mapping[str, str]) -> str:
    said = enriched.get("SYSCALL", "")
    return "" if not said or said.startswith("unknown") else quoted(values.from_text(said))


# ---- the other records ----


@attrs.frozen
class Piece:
    """What another record says. type: the record's. data, left: as in Tail; plain: what is in data or text, decoded, in
    the same order. The rest is by type:

    text: PATH's object for auditd.paths; the title; the directory; the arguments as a list; the socket's object.
    name: PATH's name; a socket's address or path. second: a socket's port. kind: the file's type. file: members of the
    file's object, of ``source`` or of ``destination``. passed: a PATH that names the file's folder only.
    """

    type: str
    data: Pairs = ()
    plain: Pairs = ()
    left: Pairs = ()
    text: str = ""
    name: str = ""
    second: str = ""
    kind: str = ""
    file: str = ""
    passed: bool = False
    wrong: bool = False
    asked: tuple[Asked, ...] = ()


def _more(record: Record, names: Names) -> Piece:
    """Any record of which nothing is known: all its fields are data."""
    plain: dict[str, str] = {}
    left: Items = []
    type_ = record.type
    for name, raw in record.outer_items() + record.inner_items():
        value = activity.value(type_, name, raw)
        if value is not None and plain.setdefault(name, value) != value:
            left.append((name, value))
    for name, raw in record.enriched.items():
        value = values.string(raw)
        if value is not None:
            plain.setdefault(name, value)
    data = tuple([(quoted(name), quoted(value)) for name, value in plain.items()])
    return Piece(type_, data, tuple(plain.items()), tuple(left + words(record)))


def words(record: Record) -> Items:
    """A record's free text as a leftover."""
    text = activity.free_text(record)
    return [(activity.FREE_TEXT, text)] if text else []


def _path(record: Record, names: Names) -> Piece:
    own: dict[str, object] = {}
    seen: set[str] = set()
    label: dict[str, str] = {}
    for name, raw in record.outer_items():
        value = activity.value("PATH", name, raw)
        if value is None or name in seen:
            continue
        seen.add(name)
        if name == "obj":
            label = activity.context(value)
            own |= {f"obj_{part}": text for part, text in label.items()}
        else:
            own[name] = value
    asked: list[Asked] = []
    owners: dict[str, str] = {}
    for field, key, group in (("ouid", "owner", False), ("ogid", "group", True)):
        raw = record.fields.get(field, "")
        if raw and not activity.is_unset(raw):
            found, from_host = name_of(names, record.enriched, "ogid" if group else "ouid", raw)
            if found is not None:
                owners[key] = found
            if from_host:
                asked.append(Asked(group, int(raw), found))
    for name, raw in record.enriched.items():
        value = values.string(raw)
        if value is not None:
            own.setdefault(name, value)
    file: dict[str, object] = {}
    for field, key in (("name", "path"), ("rdev", "device"), ("inode", "inode")):
        if field in own:
            file[key] = own[field]
    mode = record.integer("mode", 8)
    kind = ""
    if mode is not None and 0 <= mode < 1 << 24:
        file["mode"] = f"{mode & 0o7777:04o}"
        kind = activity.FILE_TYPES.get(stat.S_IFMT(mode), "")
    for field, key in (("ouid", "uid"), ("ogid", "gid")):
        if field in own:
            file[key] = own[field]
    file |= owners
    if label:
        file["selinux"] = label
    named = own.get("name")
    return Piece(
        "PATH",
        left=tuple(_decoded("PATH", activity.repeated(record) + record.inner_items()) + words(record)),
        text=written(own),
        name=quoted(named) if isinstance(named, str) else "",
        kind=kind,
        file=written(file),
        passed=record.fields.get("nametype") in ("PARENT", "UNKNOWN"),
        asked=tuple(asked),
    )


def _decoded(type_: str, items: Items) -> Items:
    found = []
    for name, raw in items:
        value = activity.value(type_, name, raw)
        if value is not None:
            found.append((name, value))
    return found


def _others(record: Record, *taken: str) -> Items:
    """What is left of a record when the first of each of these fields, of what the kernel wrote, is taken."""
    items, waiting = [], set(taken)
    for name, raw in record.outer_items():
        if name in waiting:
            waiting.discard(name)
        else:
            items.append((name, raw))
    items += record.inner_items()
    items += [(name, raw) for name, raw in record.enriched.items() if name.lower() not in taken]
    return _decoded(record.type, items) + words(record)


def _title(record: Record, names: Names) -> Piece:
    raw = record.fields.get("proctitle")
    value = None if raw is None else values.string(raw)
    left = _others(record, "proctitle")
    if value is None:
        return Piece("PROCTITLE", left=tuple(left))
    arguments_ = value.rstrip("\0").split("\0")
    if len(arguments_) > 1 and any(" " in each or not each for each in arguments_) and raw is not None:
        # Joined by blanks, nobody can tell the arguments apart any more.
        left.append(("proctitle", raw))
    plain = (("proctitle", value),)
    return Piece("PROCTITLE", (), plain, tuple(left), quoted(" ".join(arguments_)))


def _directory(record: Record, names: Names) -> Piece:
    value = record.get("cwd")
    left = tuple(_others(record, "cwd"))
    if value is None:
        return Piece("CWD", left=left)
    return Piece("CWD", (), (("cwd", value),), left, quoted(value))


def _socket(record: Record, order: sockaddr.ByteOrder | None) -> Piece:
    raw = record.fields.get("saddr")
    left = _others(record, "saddr")
    if raw is None:
        return Piece("SOCKADDR", left=tuple(left))
    found = sockaddr.decode(raw, order)
    family = FAMILIES.get(found.family, found.family) or ("" if found.number is None else str(found.number))
    about: dict[str, object] = {"family": family} if family else {}
    end: dict[str, object] = {}
    name = second = ""
    path = None if found.path is None else values.to_str(found.path)
    if path and found.abstract:
        path = "@" + path.replace("\0", "@")
    if found.address is not None and found.port is not None:
        about |= {"addr": found.address, "port": str(found.port)}
        end = {"ip": found.address, "port": found.port}
        if found.scope:
            about["scope"] = str(found.scope)
        name, second = quoted(found.address), quoted(str(found.port))
    elif found.address is not None:
        about["addr"] = found.address
        end = {"address": found.address}
        name = quoted(found.address)
    elif path:
        about["path"] = path
        end = {"path": path}
        name = quoted(path)
    for detail, value in found.details:
        about.setdefault(detail, value)
    if not end or _behind(found):
        about["saddr"] = values.from_text(raw)
    return Piece(
        "SOCKADDR",
        (),
        (("saddr", values.from_text(raw)),),
        tuple(left),
        written(about),
        name,
        second,
        file=written(end) if end else "",
    )


def _behind(found: sockaddr.SockAddr) -> bool:
    """Whether there is something in a local address behind what its path is."""
    if found.path is None or found.abstract:
        return False
    return bool(bytes.fromhex(found.raw)[2 + len(found.path) :].strip(b"\0"))


def _arguments(record: Record, names: Names) -> Piece:
    return arguments_of([record])


def arguments_of(records: list[Record]) -> Piece:
    """The arguments of an event's EXECVE records, however they are cut."""
    found, wrong = arguments(records)
    left: Items = []
    argc: str | None = None
    whole = {name for record in records for name in record.fields if "[" not in name}
    seen: dict[str, str] = {}
    for record in records:
        items = [item for item in record.outer_items() if not _IS_ARGUMENT.match(item[0])]
        for name, value in record.fields.items():
            if name == "argc" or not _IS_ARGUMENT.match(name):
                continue
            # Said again, or in pieces as well: the vector has the first, and the whole one.
            if seen.setdefault(name, value) != value or ("[" in name and name.partition("[")[0] in whole):
                items.append((name, value))
        items += activity.repeated(record) + record.inner_items() + list(record.enriched.items())
        said = record.fields.get("argc")
        if argc is None:
            argc = said
        elif said not in (None, argc):
            items.append(("argc", said or ""))
        left += _decoded("EXECVE", items) + words(record)
    plain = () if argc is None else (("argc", values.from_text(argc)),)
    data = tuple([(quoted(name), quoted(value)) for name, value in plain])
    return Piece("EXECVE", data, plain, tuple(left), written(found), wrong=bool(wrong))


_IS_ARGUMENT: Final = re.compile(r"(?:argc|a[0-9]{1,7}(?:\[[0-9]{1,7}\])?)\Z")

READERS: Final[Mapping[str, Callable[[Record, Names], Piece]]] = MappingProxyType(
    {"PATH": _path, "PROCTITLE": _title, "CWD": _directory, "EXECVE": _arguments}
)

PIECES: Final = frozenset({*READERS, "SOCKADDR"})
"""Record types that say nothing of who did it, even when they come alone."""


def piece(record: Record, names: Names, order: sockaddr.ByteOrder | None = None) -> Piece:
    """What a record says that is not who did it. order: of the machine that made the call, where that is known."""
    if record.type == "SOCKADDR":
        return _socket(record, order)
    return READERS.get(record.type, _more)(record, names)
