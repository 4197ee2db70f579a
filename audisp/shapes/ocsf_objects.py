"""Objects of OCSF, made of records: process, user, file, endpoint. What they take of a record is marked on its sheet;
what nobody took is the event's ``unmapped``."""

from __future__ import annotations

import shlex
import stat
from typing import Any

import attrs

from audisp.event import Event
from audisp.parse import arch, sockaddr, values
from audisp.parse.processes import Process
from audisp.parse.record import arguments
from audisp.shapes import activity, activity_process
from audisp.shapes.activity_process import Known
from audisp.shapes.activity_sheet import Sheet, place_arguments
from audisp.shapes.ocsf_table import FILE_CAPTIONS, FILE_TYPES
from audisp.shapes.shape import Names


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
    place_arguments(sheets, len(found))
    return found


def file(sheet: Sheet, scene: Scene) -> dict[str, Any] | None:
    """``file`` of a PATH record; None if it has no name."""
    name = sheet.take("name")
    if name is None:
        return None
    cwd = None if name.startswith("/") else scene.cwd
    path = name if cwd is None else f"{cwd.rstrip('/')}/{name}"
    mode = sheet.record.integer("mode", 8)
    kind = (
        0
        if mode is None or not 0 <= mode < 1 << 24
        else FILE_TYPES.get(activity.FILE_TYPES.get(stat.S_IFMT(mode), ""), 0)
    )
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
