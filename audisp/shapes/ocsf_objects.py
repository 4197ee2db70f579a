"""Objects of OCSF, made of records: process, user, file, endpoint. What they take of a record is marked on its sheet;
what nobody took is the event's ``unmapped``."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Mapping
from typing import Any, Final

import attrs

from audisp.event import Event
from audisp.parse import arch, sockaddr, values
from audisp.parse.processes import Process
from audisp.parse.record import Record, arguments
from audisp.shapes import activity, activity_process
from audisp.shapes.activity_process import Known
from audisp.shapes.ocsf_table import FILE_CAPTIONS, FILE_TYPES
from audisp.shapes.shape import Names

_NUMBERED: Final = frozenset({"SYSCALL", "URINGOP", "SECCOMP"})
_KINDS: Final[Mapping[int, str]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character-device",
    stat.S_IFBLK: "block-device",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "named-pipe",
    stat.S_IFLNK: "symlink",
}


class Sheet:
    """One record, and which of its fields have found a place."""

    __slots__ = ("_enriched", "_inner", "_outer", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self._outer: set[str] = set()
        self._inner: set[str] = set()
        self._enriched: set[str] = set()

    def get(self, name: str) -> str | None:
        """A field's value decoded, as `activity.value` has it; what the kernel wrote before what a sender did."""
        raw = self.record.raw(name)
        return None if raw is None else activity.value(self.record.type, name, raw)

    def take(self, name: str) -> str | None:
        """The same, and it has found its place."""
        found = self.get(name)
        if found is not None:
            self.mark(name)
        return found

    def mark(self, name: str) -> None:
        """The field that `get` gives has found its place."""
        (self._outer if name in self.record.fields else self._inner).add(name)

    def mark_added(self, name: str) -> None:
        """What auditd appended of this field says the same as the field."""
        self._enriched.add(name.upper())

    def number(self, name: str) -> int | None:
        """A number of 32 bits, taken; what is none is left."""
        found = activity.small(self.record.raw(name))
        if found is None or self.get(name) == "unset":
            return None
        self.mark(name)
        return found

    def name_of(self, name: str, names: Names, *, group: bool = False) -> str | None:
        """The name of the account whose id a field is: as the event brings it along, else as this host has it."""
        said = self.record.added(name)
        if said is not None:
            self._enriched.add(name.upper())
            if said != "unset" and not said.startswith("unknown("):
                return said
        number = activity.small(self.record.raw(name))
        if number is None or number == activity.MAX_ID:
            return None
        return names.group(number) if group else names.user(number)

    @property
    def marks(self) -> tuple[set[str], set[str], set[str]]:
        """What has found its place: of what the kernel wrote, of what a sender wrote, of what auditd appended."""
        return self._outer, self._inner, self._enriched

    def left(self) -> list[tuple[str, str]]:
        """What has found no place, decoded."""
        record = self.record
        type_ = record.type
        out: list[tuple[str, str]] = []
        inner = record.inner_items() if record.parts()[1] else []
        for items, taken in ((activity.items(record), self._outer), (inner, self._inner)):
            seen: set[str] = set()
            for name, raw in items:
                if name in taken and name not in seen:
                    seen.add(name)
                    continue
                value = activity.value(type_, name, raw)
                if value is not None:
                    out.append((name, value))
        if type_ in _NUMBERED:
            out = self._numbered(out)
        if record.parts()[2]:
            for name, raw in record.enriched.items():
                added = None if name in self._enriched else values.string(raw)
                if added is not None and not (type_ == "SYSCALL" and name in ("ARCH", "SYSCALL")):
                    out.append((name, added))
        free = activity.free_text(record)
        return [*out, (activity.FREE_TEXT, free)] if free else out

    def _numbered(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Machine, system call and error by their names."""
        out = []
        own = self.record.fields
        for name, value in fields:
            if name == "arch" and own.get(name) == value:
                out.append((name, activity.arch_name(value)))
            elif name in ("syscall", "uring_op") and own.get(name) == value:
                out.append((name, activity.call_name(self.record) or value))
            else:
                out.append((name, activity.exit_name(value) if name == "exit" else value))
        return out


@attrs.define
class Scene:
    """An event's records, told apart, and what is known beside them.

    main: the record it is about. subject: the one that says who. call: the system call's name. known: what enrichment
    says.
    """

    event: Event
    main: Sheet
    subject: Sheet
    call: str | None
    sheets: list[Sheet]
    names: Names
    known: Known | None

    @property
    def cwd(self) -> str | None:
        """The working directory."""
        return next((found for sheet in self.of("CWD") if (found := sheet.get("cwd")) is not None), None)

    def of(self, type_: str) -> list[Sheet]:
        """The records of one type."""
        return [sheet for sheet in self.sheets if sheet.record.type == type_]

    def argument(self, name: str) -> int | None:
        """An argument of the system call, as a number."""
        return values.number(self.subject.record.fields.get(name), 16)


def base_name(path: str) -> str:
    """The last part of a path; the path itself where it has none."""
    return path.rstrip("/").rpartition("/")[2] or path


def command_line(words: list[str]) -> str:
    """Arguments as a shell would take them, so that they can be told apart."""
    return shlex.join(words)


def user(sheet: Sheet, field: str, names: Names) -> dict[str, Any]:
    """``user`` of an id; {} where it is none."""
    name = sheet.name_of(field, names)
    number = sheet.number(field)
    out: dict[str, Any] = {} if number is None else {"uid": str(number)}
    if name is not None and out:
        out["name"] = name
    return out


def program(path: str) -> dict[str, Any]:
    """``file`` of a process."""
    return {"name": base_name(path), "path": path, "type_id": 1, "type": FILE_CAPTIONS[1]}


def process(scene: Scene) -> dict[str, Any]:
    """``process`` of who did it; without a number it is none, and only says whose account and session it was."""
    sheet, names = scene.subject, scene.names
    out: dict[str, Any] = {}
    pid = sheet.number("pid")
    if pid is None:
        account = user(sheet, "uid", names) or user(sheet, "auid", names)
        if account:
            out["user"] = account
        return _session(sheet, out)
    out["pid"] = pid
    name = sheet.take("comm")
    if name is not None:
        out["name"] = name
    path = sheet.take("exe")
    if path is not None:
        out["path"] = path
        out["file"] = program(path)
    _title(scene, out)
    account = user(sheet, "uid", names)
    if account:
        out["user"] = account
    for field in ("auid", "euid", "egid"):
        number = sheet.number(field)
        if number is not None:
            out[field] = number
    group = sheet.name_of("gid", names, group=True)
    number = sheet.number("gid")
    if number is not None:
        out["group"] = {"uid": str(number)} | ({} if group is None else {"name": group})
    _session(sheet, out)
    ppid = sheet.number("ppid")
    if ppid is not None:
        out["parent_process"] = {"pid": ppid}
    if scene.known is not None:
        _know(scene.known, ppid, out)
    return out


def _session(sheet: Sheet, out: dict[str, Any]) -> dict[str, Any]:
    session = sheet.get("ses")
    if session is not None and session != "unset":
        sheet.mark("ses")
        out["session"] = {"uid": session}
        terminal = sheet.get("tty")
        if terminal is not None and terminal != "(none)":
            sheet.mark("tty")
            out["session"]["terminal"] = terminal
    return out


def _title(scene: Scene, out: dict[str, Any]) -> None:
    """Title and directory."""
    for sheet in scene.of("PROCTITLE")[:1]:
        raw = sheet.record.fields.get("proctitle")
        value = None if raw is None else values.string(raw)
        if value is not None:
            sheet.mark("proctitle")
            out["cmd_line"] = command_line(value.rstrip("\0").split("\0"))
    for sheet in (*scene.of("CWD")[:1], scene.subject):
        cwd = None if "working_directory" in out else sheet.take("cwd")
        if cwd is not None:
            out["working_directory"] = cwd


def _know(known: Known, ppid: int | None, out: dict[str, Any]) -> None:
    container = activity_process.container(known)
    if container is not None:
        runtime = {} if container.runtime is None else {"runtime": container.runtime}
        pod = {} if container.pod is None else {"pod_uuid": container.pod}
        out["container"] = {"uid": container.id} | runtime | pod
    parent = activity_process.parent(known, ppid)
    if parent is not None:
        out["parent_process"] = _ancestor(parent)
        if parent.exe is not None:
            out["parent_process"]["file"] = program(parent.exe)
    if len(known.parents) > 1:
        out["ancestry"] = [_ancestor(each) for each in known.parents]


def _ancestor(of: Process) -> dict[str, Any]:
    out: dict[str, Any] = {"pid": of.pid}
    if of.comm is not None:
        out["name"] = of.comm
    if of.exe is not None:
        out["path"] = of.exe
    if of.argv is not None:
        out["cmd_line"] = command_line(list(of.argv))
    return out


def arguments_of(scene: Scene) -> list[str]:
    """The arguments of a program that starts. Those that a command line shows as they are have found their place."""
    sheets = scene.of("EXECVE")
    found, _ = arguments([sheet.record for sheet in sheets])
    for sheet in sheets:
        fields = sheet.record.fields
        for name, raw in fields.items():
            if name == "argc":
                if values.number(raw) == len(found):
                    sheet.mark(name)
            elif name[:1] == "a" and name[1:].isdecimal():
                argument = values.argument(raw)
                if shlex.quote(argument) == argument:
                    sheet.mark(name)
    return found


def file(sheet: Sheet, scene: Scene) -> dict[str, Any] | None:
    """``file`` of a PATH record; None if it has no name."""
    name = sheet.take("name")
    if name is None:
        return None
    cwd = None if name.startswith("/") else scene.cwd
    path = name if cwd is None else f"{cwd.rstrip('/')}/{name}"
    mode = sheet.record.integer("mode", 8)
    kind = 0 if mode is None or not 0 <= mode < 1 << 24 else FILE_TYPES.get(_KINDS.get(stat.S_IFMT(mode), ""), 0)
    out: dict[str, Any] = {"name": base_name(name), "path": path, "type_id": kind, "type": FILE_CAPTIONS[kind]}
    inode = sheet.take("inode")
    if inode is not None:
        out["uid"] = inode
    device = sheet.take("dev")
    if device is not None:
        out["volume"] = device
    owner = user(sheet, "ouid", scene.names)
    if owner:
        out["owner"] = owner
    return out


def passed(sheet: Sheet) -> bool:
    """Whether a PATH record only names the folder that the file is in."""
    return sheet.record.fields.get("nametype") in ("PARENT", "UNKNOWN")


def endpoint(scene: Scene) -> tuple[dict[str, Any], sockaddr.SockAddr] | None:
    """``network_endpoint`` of the event's socket address; None if it has none, or one without a name."""
    for sheet in scene.of("SOCKADDR")[:1]:
        raw = sheet.record.fields.get("saddr")
        if raw is None:
            return None
        machine = arch.machine(scene.subject.record.fields.get("arch", ""))
        found = sockaddr.decode(raw, None if machine is None else machine.byteorder)
        if found.address is not None and found.port is not None:
            sheet.mark("saddr")
            sheet.mark_added("saddr")
            return {"ip": found.address, "port": found.port}, found
        if found.path:
            name = values.to_str(found.path)
            if not found.abstract:
                sheet.mark("saddr")
                sheet.mark_added("saddr")
            return {"name": "@" + name.replace("\0", "@") if found.abstract else name}, found
    return None


def account(scene: Scene, fields: tuple[str, ...]) -> dict[str, Any]:
    """``user`` of the first of these fields that the event has: ``acct`` is a name, all others are ids; {} if none."""
    for sheet in (scene.main, scene.subject):
        for field in fields:
            value = sheet.get(field)
            if not value or value == "unset":
                continue
            if field == "acct":
                sheet.mark(field)
                return {"name": value}
            found = user(sheet, field, scene.names)
            if found:
                return found
            sheet.mark(field)
            return {"name": value}
    return {}
