"""``cef``: one line of ArcSight's Common Event Format per event (docs/shapes/cef.md).

``CEF:0|audisp|audisp|RELEASE|RECORD TYPE[:CALL]|ACTION|SEVERITY|KEY=VALUE ...``, keys being those of the CEF
dictionary within the lengths that it gives (`audisp.shapes.schema_cef`), and ``audispUnmapped`` for all else. A value
that is longer than its key allows is cut, ends in CUT, and stands whole in ``audispUnmapped``.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from audisp.event import NO_STAMP, Event
from audisp.parse import arch, sockaddr, values
from audisp.parse.record import arguments
from audisp.shapes import activity, activity_process
from audisp.shapes.activity import Meaning, Parts
from audisp.shapes.activity_sheet import Remainders, Sheet, place_arguments
from audisp.shapes.activity_text import visible, written
from audisp.shapes.schema_cef import KEYS
from audisp.shapes.shape import ShapeSettings

UNMAPPED: Final = "audispUnmapped"
"""Our own key, named as the standard wants it (vendor or product first, letters alone), without a limit: JSON."""
CUT: Final = "..."
"""At the end of what was cut."""
MAX_NAME: Final = 512
"""Bytes of the header's name (the standard's prefix field)."""
MAX_ID: Final = 1_023
"""Bytes of the header's event class id."""
MAX_INTEGER: Final = (1 << 63) - 1
"""Largest number that a consumer is trusted to read."""

LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cs1": "Audit Key",
        "cs2": "Command Line",
        "cs3": "Working Directory",
        "cs4": "Session",
        "cs5": "Audit User",
        "cs6": "System Call",
        "cn1": "Exit",
        "cn2": "Parent Process ID",
        "c6a1": "Source IPv6 Address",
        "c6a3": "Destination IPv6 Address",
    }
)
"""What the custom keys hold; each is followed by its label."""
SEVERITIES: Final[Mapping[str, int]] = MappingProxyType({activity.SUCCESS: 2, activity.UNKNOWN: 2, activity.FAILURE: 4})
"""0 to 10; see ALERT."""
ALERT: Final = 7
"""Severity of what the kernel or a program itself calls anomalous."""

_INGRESS: Final = frozenset({"recvfrom", "recvmsg", "recvmmsg", "accept", "accept4"})
_EGRESS: Final = frozenset({"connect", "sendto", "sendmsg", "sendmmsg"})
# What must not reach a terminal, or move its text about: shown byte by byte, as what is no UTF-8 is.
_CONTROLS: Final = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def shown(text: str) -> str:
    r"""A value as it is to be read: bytes that are no UTF-8, control characters, characters that turn the direction of
    writing, and blanks at either end as ``\xNN``; see `audisp.shapes.activity_text`. LF and CR are left."""
    text = visible(text)
    if not text.isprintable():
        text = _CONTROLS.sub(_as_bytes, text)
    if text[:1] == " " or text[-1:] == " ":
        inner = text.strip(" ")
        before = len(text) - len(text.lstrip(" "))
        text = "\\x20" * before + inner + "\\x20" * (len(text) - before - len(inner))
    return text


def _as_bytes(found: re.Match[str]) -> str:
    return "".join([f"\\x{byte:02x}" for byte in found[0].encode("utf-8")])


def header(text: str) -> str:
    """A header field: backslash and bar escaped; no line ends."""
    text = text.replace("\n", "\\x0a").replace("\r", "\\x0d")
    return text.replace("\\", "\\\\").replace("|", "\\|")


def extension(text: str) -> str:
    """An extension's value: backslash, equals sign and line ends escaped."""
    if "\\" in text or "=" in text or "\n" in text or "\r" in text:
        text = text.replace("\\", "\\\\").replace("=", "\\=").replace("\n", "\\n").replace("\r", "\\r")
    return text


def within(text: str, limit: int, escape: Callable[[str], str]) -> tuple[str, bool]:
    """A text as `shown`, escaped, and within so many bytes of UTF-8; and whether it had to be cut for that."""
    text = shown(text)
    made = escape(text)
    if len(made) * 4 <= limit or len(made.encode("utf-8")) <= limit:
        return made, False
    room, kept = limit - len(CUT), []
    for character in text[:limit]:
        one = escape(character)
        room -= len(one.encode("utf-8"))
        if room < 0:
            break
        kept.append(one)
    return "".join(kept) + CUT, True


class _Line:
    """The extension of one event."""

    __slots__ = ("cut", "members")

    def __init__(self) -> None:
        self.members: list[str] = []
        self.cut: dict[str, str] = {}

    def put(self, key: str, value: str | None, sheet: Sheet | None = None, field: str = "") -> None:
        """A text. sheet, field: where it is from, to be marked if all of it is there. What is cut and is no field's
        is kept by its key."""
        if value is None or not value:
            return
        text, cut = within(value, KEYS[key][1], extension)
        self.members.append(f"{key}={text}")
        if key in LABELS:
            self.members.append(f"{key}Label={LABELS[key]}")
        if sheet is not None:
            if not cut:
                sheet.mark(field)
        elif cut:
            self.cut[key] = value

    def field(self, key: str, sheet: Sheet, field: str) -> None:
        """A field's value as a text."""
        value = sheet.get(field)
        if value != "unset":
            self.put(key, value, sheet, field)

    def number(self, key: str, value: int | None) -> None:
        """A number."""
        if value is not None and abs(value) <= MAX_INTEGER:
            self.members.append(f"{key}={value}")
            if key in LABELS:
                self.members.append(f"{key}Label={LABELS[key]}")


class Cef:
    """Events in CEF. See docs/shapes/cef.md."""

    name = "cef"

    def __init__(self, settings: ShapeSettings) -> None:
        self._names = settings.names
        self._host = settings.host
        self._enrichment = settings.enrichment
        self._remainders = Remainders()
        self._prefix = f"CEF:0|{activity.PRODUCT}|{activity.PRODUCT}|{activity.RELEASE}|"

    def render(self, event: Event) -> bytes:
        """One line. b"" for EOE alone."""
        if event.flags & NO_STAMP:
            return self._stray(event)
        parts = activity.part(event.records)
        if parts is None:
            return b""
        main = Sheet(parts.main)
        subject = main if parts.call is None or parts.call is parts.main else Sheet(parts.call)
        sheets = [main, *([] if subject is main else [subject]), *[Sheet(record) for record in parts.rest]]
        call = None if parts.call is None else activity.call_name(parts.call)
        is_call = parts.main is parts.call
        meaning = activity.of_call(call) if is_call else activity.of_record(parts.main)
        type_ = values.from_text(parts.main.type)
        action = meaning.action or (call if is_call and call else type_.lower())
        result = activity.outcome(subject.record)
        line = self._event(event, meaning, action, result, subject)
        self._process(line, subject, call, sheets)
        if meaning.roles:
            self._account(line, meaning, main, subject)
        else:
            self._user(line, subject)
        if meaning.what in ("file", "filesystem"):
            self._file(line, meaning, sheets)
        self._peer(line, meaning, main, call, sheets, parts)
        self._target(line, call, sheets)
        severity = ALERT if meaning.kind == "alert" else SEVERITIES[result]
        class_, cut = within(f"{type_}:{call}" if is_call and call else type_, MAX_ID, header)
        if cut:
            line.cut["class"] = type_
        name, _ = within(action, MAX_NAME, header)
        self._left(line, event, sheets)
        return f"{self._prefix}{class_}|{name}|{severity}|{' '.join(line.members)}\n".encode()

    # ---- what an event says ----

    def _event(self, event: Event, meaning: Meaning, action: str, result: str, subject: Sheet) -> _Line:
        line = _Line()
        seconds, millis, _ = activity.stamp(event)
        line.number("rt", seconds * 1000 + millis)
        line.put("dvchost", event.node or self._host)
        line.put("externalId", event.stamp)
        line.put("act", action)
        line.put("cat", ",".join(meaning.categories))
        line.put("outcome", "failure" if result == activity.FAILURE else result)
        if result != activity.UNKNOWN:
            for name in activity.RESULTS:
                if subject.record.raw(name) is not None:
                    subject.mark(name)
                    break
        keys = subject.record.raw("key")
        if keys is not None:
            line.put("cs1", ",".join(values.keys(keys)), subject, "key")
        problems = event.problems
        if problems:
            line.put("msg", "; ".join(problems))
        return line

    def _process(self, line: _Line, subject: Sheet, call: str | None, sheets: list[Sheet]) -> None:
        line.number("spid", subject.number("pid"))
        line.number("cn2", subject.number("ppid"))
        line.field("sproc", subject, "exe" if subject.get("exe") else "comm")
        line.field("cs4", subject, "ses")
        if call is not None:
            line.put("cs6", call, *((subject, "syscall") if "syscall" in subject.record.fields else ()))
        exit_ = subject.record.fields.get("exit")
        if exit_ is not None and call is not None:
            number = values.number(exit_)
            if number is not None and abs(number) <= MAX_INTEGER:
                line.number("cn1", number)
                subject.mark("exit")
                if number < 0:
                    line.put("reason", activity.exit_name(exit_))
        words, _ = arguments([sheet.record for sheet in sheets if sheet.record.type == "EXECVE"])
        if words:
            self._command(line, words, sheets)
        else:
            self._title(line, sheets)
        for sheet in sheets:
            if sheet.get("cwd") is not None and (sheet.record.type == "CWD" or sheet is subject):
                line.field("cs3", sheet, "cwd")
                break

    @staticmethod
    def _command(line: _Line, words: list[str], sheets: list[Sheet]) -> None:
        before = len(line.cut)
        line.put("cs2", shlex.join(words))
        if len(line.cut) > before:
            del line.cut["cs2"]  # the EXECVE records have it whole
            return
        for sheet in sheets:
            if sheet.record.type == "PROCTITLE":
                title = values.string(sheet.record.fields.get("proctitle", ""))
                if title is not None and title.rstrip("\0").split("\0") == words:
                    sheet.mark("proctitle")
        place_arguments([sheet for sheet in sheets if sheet.record.type == "EXECVE"], len(words))

    @staticmethod
    def _title(line: _Line, sheets: list[Sheet]) -> None:
        for sheet in sheets:
            raw = sheet.record.fields.get("proctitle") if sheet.record.type == "PROCTITLE" else None
            value = None if raw is None else values.string(raw)
            if value is not None:
                line.put("cs2", shlex.join(value.rstrip("\0").split("\0")), sheet, "proctitle")
                return

    def _user(self, line: _Line, subject: Sheet) -> None:
        """Who did it: the process's user, and whoever logged in."""
        name = subject.name_of("uid", self._names)
        number = subject.number("uid")
        if number is not None:
            line.put("suid", str(number))
            line.put("suser", name)
        self._audit_user(line, subject)

    def _audit_user(self, line: _Line, subject: Sheet) -> None:
        name = subject.name_of("auid", self._names)
        number = subject.number("auid")
        if number is not None:
            line.put("cs5", str(number) if name is None else f"{name} ({number})")

    def _account(self, line: _Line, meaning: Meaning, main: Sheet, subject: Sheet) -> None:
        """Who did it, and whose account it is about."""
        self._user(line, subject)
        role = activity.ROLES[meaning.roles][-1][1]
        fields = {"second": meaning.second, "object": meaning.object}.get(role, ())
        for field in fields:
            value = main.get(field)
            if value is None or value == "unset" or field == "uid":
                continue
            if field in ("acct", "grp") or activity.small(main.record.raw(field)) is None:
                line.put("duser", value, main, field)
            else:
                name = main.name_of(field, self._names, group=meaning.roles == "group" and field == "id")
                line.put("duid", value, main, field)
                line.put("duser", name)
            return

    def _file(self, line: _Line, meaning: Meaning, sheets: list[Sheet]) -> None:
        paths = [sheet for sheet in sheets if sheet.record.type == "PATH"]
        if not paths:
            return
        at = meaning.path if len(paths) > meaning.path else 0
        kinds = [sheet.record.fields.get("nametype") for sheet in paths]
        chosen = next((sheet for sheet, kind in zip(paths[at:], kinds[at:], strict=True)
                       if kind not in ("PARENT", "UNKNOWN")), paths[at])  # fmt: skip
        if meaning.action == "renamed" and kinds.count("CREATE") == 1 and chosen is not paths[kinds.index("CREATE")]:
            self._path(line, chosen, "oldFileName", "oldFilePath")
            chosen = paths[kinds.index("CREATE")]
        self._path(line, chosen, "fname", "filePath")
        line.field("fileId", chosen, "inode")
        mode = chosen.record.integer("mode", 8)
        if mode is not None and 0 <= mode < 1 << 24:
            line.put("filePermission", f"{mode & 0o7777:04o}")
            line.put("fileType", activity.FILE_TYPES.get(stat.S_IFMT(mode)))

    @staticmethod
    def _path(line: _Line, sheet: Sheet, name: str, path: str) -> None:
        value = sheet.get("name")
        if value:
            line.put(name, value.rstrip("/").rpartition("/")[2] or value, sheet, "name")
            sheet.release("name")
            line.put(path, value, sheet, "name")

    def _peer(
        self, line: _Line, meaning: Meaning, main: Sheet, call: str | None, sheets: list[Sheet], parts: Parts
    ) -> None:
        """Where a session came from, or the other end of a connection."""
        if call is not None and self._connection(line, call, sheets, parts):
            return
        if meaning.roles or meaning.source:
            ip = activity.address(main.get("addr"))
            if ip is not None:
                self._ip(line, ip, "src", "c6a1")
                main.mark("addr")
            line.field("shost", main, "hostname")

    def _connection(self, line: _Line, call: str, sheets: list[Sheet], parts: Parts) -> bool:
        sheet = next((sheet for sheet in sheets if sheet.record.type == "SOCKADDR"), None)
        raw = None if sheet is None else sheet.record.fields.get("saddr")
        if sheet is None or raw is None:
            return False
        machine = arch.machine(parts.call.fields.get("arch", "")) if parts.call is not None else None
        found = sockaddr.decode(raw, None if machine is None else machine.byteorder)
        inward = call in _INGRESS
        if inward or call in _EGRESS:
            line.number("deviceDirection", 0 if inward else 1)
        if found.address is not None and found.port is not None:
            self._ip(line, found.address, *(("src", "c6a1") if inward else ("dst", "c6a3")))
            line.number("spt" if inward else "dpt", found.port)
            sheet.mark("saddr")
            sheet.mark_added("saddr")
        return True

    @staticmethod
    def _ip(line: _Line, text: str, v4: str, v6: str) -> None:
        if ipaddress.ip_address(text).version == 4:
            line.members.append(f"{v4}={text}")
        else:
            line.members += [f"{v6}={text}", f"{v6}Label={LABELS[v6]}"]

    @staticmethod
    def _target(line: _Line, call: str | None, sheets: list[Sheet]) -> None:
        """The process that a signal went to."""
        sheet = next((sheet for sheet in sheets if sheet.record.type == "OBJ_PID"), None)
        if call is not None and sheet is not None:
            line.number("dpid", sheet.number("opid"))
            line.field("dproc", sheet, "ocomm")

    def _left(self, line: _Line, event: Event, sheets: list[Sheet]) -> None:
        rest: dict[str, object] = dict(self._remainders.of(sheets).all())
        if line.cut:
            rest["cut"] = line.cut
        known = activity_process.known(self._enrichment, event)
        if known is not None:
            rest["enrichment"] = activity_process.rest(known)
            container = activity_process.container(known)
            if container is not None:
                rest["container"] = {"id": container.id, "runtime": container.runtime}
        if rest:
            line.members.append(f"{UNMAPPED}={extension(written(rest))}")

    def _stray(self, event: Event) -> bytes:
        """A line that belongs to no event."""
        text = values.from_text(event.raw.decode("latin-1").removesuffix("\n"))
        rest = extension(written({activity.FREE_TEXT: text}))
        return f"{self._prefix}none|no audit record|{SEVERITIES[activity.UNKNOWN]}|{UNMAPPED}={rest}\n".encode()
