"""What rules see of an event: one view per record, and the event as a process, a file or a connection.

Per record (``service: auditd``): fields of different records are never merged, as ``a0`` of SYSCALL is a register in
hexadecimal digits, and ``a0`` of EXECVE the program's name. Only what the sender of a field encoded is decoded; a
register's digits stay digits. Two things are not as in the record:

- all EXECVE records of an event are one view: the kernel splits long argument vectors, and nobody is to choose where;
- ``name`` of PATH is absolute, put together with CWD: a rule for ``/etc/ld.so.preload`` also sees ``cd /etc``.

A field in capital letters is what ENRICHED format appended; ``SYSCALL`` and ``ARCH`` are looked up without it, too.

Of the event (process_creation, file_event, network_connection): Sigma's names, each from the record that has it. Values
are bytes; whatever bytes a record holds, nothing here raises.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Final, Protocol

from audisp.event import NO_STAMP, Event
from audisp.parse import values
from audisp.parse.arch import machine, syscall_name
from audisp.parse.record import Record
from audisp.parse.sockaddr import decode

ARGUMENT: Final = re.compile(r"a(0|[1-9][0-9]{0,6})\Z")
"""The name of an argument of EXECVE, as a rule has it."""
_WORD: Final = re.compile(r"a([0-9]{1,7})(?:\[([0-9]{1,7})\])?\Z")
_ODD: Final = re.compile(rb"//|/\.\.?(?:/|\Z)")
WORDS: Final = frozenset({"seresult", "seperms"})
"""Fields that are words of an AVC's sentence, to which auparse gave names."""
OLD: Final = frozenset({"old-auid", "old-ses"})
"""Fields that old kernels wrote with a blank (``old auid=0``)."""
DIGITS: Final = 7
"""Of an argument's number: the kernel takes at most some two million arguments."""
EXEC: Final = frozenset({"execve", "execveat"})
CONNECT: Final = "3"
"""Register a0 of socketcall(2) for connect (linux/net.h)."""
ROOT: Final = {b"0": b"root"}
"""The one account whose name is known without asking anybody."""


class Parent(Protocol):
    """What is known of the process that started another."""

    @property
    def image(self) -> bytes | None:
        """Its program's file."""

    @property
    def command_line(self) -> bytes | None:
        """Its arguments, joined by blanks."""


Parents = Callable[[Event], "Parent | None"]
"""Who started the process that an event is about; None: not known."""


def nobody(_: Event) -> Parent | None:
    """No process is known."""
    return None


def decoded(name: str, value: str) -> bytes | None:
    """The bytes that a field's raw text stands for; None for ``(null)``, ``?`` and the like."""
    if value[:1] == '"':
        return values.unquote(value)
    if value in ("(null)", "(none)", "?", ""):
        return None
    return values.unquote(value) if name in values.STRINGS else value.encode("latin-1")


def words_of(records: list[Record]) -> dict[int, bytes]:
    """The arguments of an event's EXECVE records by their numbers, in order.

    As `audisp.parse.record.arguments`, but with numbers, and in bytes. Memory is that of the records.
    """
    whole: dict[int, str] = {}
    pieces: dict[int, dict[int, str]] = {}
    for record in records:
        for name, value in record.fields.items():
            if name[0] != "a":
                continue
            number = name[1:]
            if number.isascii() and number.isdigit() and len(number) <= DIGITS:
                whole.setdefault(int(number), value)
                continue
            found = _WORD.match(name)
            if found is None:
                continue
            if found[2] is None:
                whole.setdefault(int(found[1]), value)
            else:
                pieces.setdefault(int(found[1]), {}).setdefault(int(found[2]), value)
    return {
        place: values.unquote(whole[place]) if place in whole else _put_together(pieces[place])
        for place in sorted(whole.keys() | pieces.keys())
    }


def _put_together(parts: dict[int, str]) -> bytes:
    texts = [parts[each] for each in sorted(parts)]
    if all(values.is_hex(each) for each in texts):
        return bytes.fromhex("".join(texts))
    return b"".join([values.unquote(each) for each in texts])


def absolute(name: bytes, folder: bytes | None) -> bytes:
    """A path from the root, without detours (``//``, ``.``, ``..``); as it is if the working directory is unknown. A
    slash at the end stays. Symbolic links are not known here."""
    if not name.startswith(b"/"):
        if not folder or not folder.startswith(b"/"):
            return name
        name = folder + (b"" if folder.endswith(b"/") else b"/") + name
    if _ODD.search(name) is None:
        return name
    plain = posixpath.normpath(name)
    if plain.startswith(b"//"):
        plain = plain[1:]
    return plain + b"/" if name.endswith(b"/") and plain != b"/" else plain


class _Fields:
    """What all views do: remember, and lower capital letters once."""

    __slots__ = ("_got", "_low", "_low_text", "_text")

    def __init__(self) -> None:
        self._got: dict[str, bytes | None] = {}
        self._low: dict[str, bytes | None] = {}
        self._text: bytes | None = None
        self._low_text: bytes | None = None

    def get(self, field: str) -> bytes | None:
        """See `audisp.detect.condition.View`."""
        try:
            return self._got[field]
        except KeyError:
            found = self._got[field] = self._find(field)
            return found

    def low(self, field: str) -> bytes | None:
        """See `audisp.detect.condition.View`."""
        try:
            return self._low[field]
        except KeyError:
            data = self.get(field)
            found = self._low[field] = None if data is None else data.lower()
            return found

    def text(self) -> bytes:
        """See `audisp.detect.condition.View`."""
        found = self._text
        if found is None:
            found = self._text = self._all()
        return found

    def low_text(self) -> bytes:
        """See `audisp.detect.condition.View`."""
        found = self._low_text
        if found is None:
            found = self._low_text = self.text().lower()
        return found

    def _find(self, field: str) -> bytes | None:
        raise NotImplementedError

    def _all(self) -> bytes:
        raise NotImplementedError


class RecordView(_Fields):
    """One record. kind: its type, by which rules are chosen."""

    __slots__ = ("kind", "record")

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self.kind = record.type

    def _find(self, field: str) -> bytes | None:
        record = self.record
        if field == "type":
            return record.type.encode("latin-1")
        value = record.raw(field)
        if value is not None:
            return decoded(field, value)
        if not field.isupper():
            return None
        added = record.enriched.get(field)
        if added is not None:
            return decoded("", added)
        if record.type == "SYSCALL":
            return _looked_up(record, field)
        return None

    def _all(self) -> bytes:
        record = self.record
        found = [b"type=" + record.type.encode("latin-1")]
        for name, value in (*record.outer_items(), *record.inner_items(), *record.enriched.items()):
            if name in WORDS:  # what no sender wrote as NAME=VALUE is said in his words
                found.append(value.replace(",", " ").encode("latin-1"))
                continue
            name = name.replace("-", " ", 1) if name in OLD else name
            data = decoded(name, value)
            found.append(name.encode("latin-1") + b"=" + (value.encode("latin-1") if data is None else data))
        return b" ".join(found)


def _looked_up(record: Record, field: str) -> bytes | None:
    """What ENRICHED format would have said of SYSCALL and ARCH."""
    arch = record.fields.get("arch")
    if arch is None:
        return None
    if field == "SYSCALL":
        name = call_name(record)
        return None if name is None else name.encode("ascii")
    if field == "ARCH":
        found = machine(arch)
        return None if found is None else found.name.encode("ascii")
    return None


class ArgumentsView(RecordView):
    """All EXECVE records of an event. A keyword is looked for in the arguments joined by blanks."""

    __slots__ = ("words",)

    def __init__(self, records: list[Record]) -> None:
        super().__init__(records[0])
        self.words = words_of(records)

    def _find(self, field: str) -> bytes | None:
        found = ARGUMENT.match(field)
        if found is None:
            return super()._find(field)
        return self.words.get(int(found[1]))

    def _all(self) -> bytes:
        text = b" ".join(self.words.values())
        # What begins with another argument than the first does not begin as the command line did.
        return text if 0 in self.words else b" " + text


class PathView(RecordView):
    """A PATH record; ``name`` is absolute."""

    __slots__ = ("_folder",)

    def __init__(self, record: Record, folder: bytes | None) -> None:
        super().__init__(record)
        self._folder = folder

    def _find(self, field: str) -> bytes | None:
        found = super()._find(field)
        return absolute(found, self._folder) if field == "name" and found else found


class _EventView(_Fields):
    """What the views of an event have in common: who did it."""

    __slots__ = ("kind", "views")

    kind: str

    def __init__(self, views: EventViews) -> None:
        super().__init__()
        self.views = views
        if views.image is not None:
            self._low["Image"] = views.image

    def _find(self, field: str) -> bytes | None:
        call = self.views.call
        if call is None:
            return None
        match field:
            case "Image":
                return call.get("exe")
            case "CurrentDirectory":
                return self.views.folder
            case "User":
                # As ENRICHED format says; of all others the number is no name.
                return call.get("UID") or ROOT.get(call.get("uid") or b"")
            case "ProcessId":
                return call.get("pid")
            case "ParentProcessId":
                return call.get("ppid")
        return None

    def _all(self) -> bytes:
        return b""


class ProcessView(_EventView):
    """A program was started (process_creation)."""

    __slots__ = ("_parent", "_parent_known")

    def __init__(self, views: EventViews) -> None:
        super().__init__(views)
        self.kind = "process_creation"
        self._parent: Parent | None = None
        self._parent_known = False

    def _find(self, field: str) -> bytes | None:
        if field == "CommandLine":
            arguments = self.views.arguments
            return None if arguments is None else arguments.text()
        if field in ("ParentImage", "ParentCommandLine"):
            if not self._parent_known:
                self._parent, self._parent_known = self.views.parents(self.views.event), True
            if self._parent is None:
                return None
            return self._parent.image if field == "ParentImage" else self._parent.command_line
        return super()._find(field)

    def _all(self) -> bytes:
        return self.get("CommandLine") or b""


class FileView(_EventView):
    """A file was made (file_event)."""

    __slots__ = ("_name",)

    def __init__(self, views: EventViews, name: bytes) -> None:
        super().__init__(views)
        self.kind = "file_event"
        self._name = name

    def _find(self, field: str) -> bytes | None:
        return self._name if field == "TargetFilename" else super()._find(field)

    def _all(self) -> bytes:
        return self._name


class ConnectionView(_EventView):
    """A program asked for a connection (network_connection), whether or not it came about."""

    __slots__ = ("_address", "_port", "_six")

    def __init__(self, views: EventViews, address: bytes, port: int, *, six: bool) -> None:
        super().__init__(views)
        self.kind = "network_connection"
        self._address, self._port, self._six = address, port, six

    def _find(self, field: str) -> bytes | None:
        match field:
            case "DestinationIp":
                return self._address
            case "DestinationPort":
                return b"%d" % self._port
            case "DestinationIsIpv6":
                return b"true" if self._six else b"false"
            case "Initiated":
                return b"true"
        return super()._find(field)

    def _all(self) -> bytes:
        return self._address


class EventViews:
    """All views of one event, made when they are asked for. Types of records are told apart without regard to capital
    letters, as rules write them."""

    __slots__ = ("_connections", "_files", "_folder", "_lines", "_process", "_records", "event", "image", "parents")

    def __init__(self, event: Event, parents: Parents = nobody, image: bytes | None = None) -> None:
        """image: what `Image` is in lower case, if that is known."""
        self.event = event
        self.image = image
        self.parents = parents
        self._lines: dict[str, list[str]] | None = None
        self._records: dict[str, list[RecordView]] = {}
        self._process: list[ProcessView] | None = None
        self._files: list[FileView] | None = None
        self._connections: list[ConnectionView] | None = None
        self._folder: tuple[bytes | None] | None = None

    @property
    def lines(self) -> dict[str, list[str]]:
        """The records as text by their type in lower case, in order of arrival; a line without a stamp is none."""
        found = self._lines
        if found is None:
            found = self._lines = {}
            if not self.event.flags & NO_STAMP:
                for line in self.event.lines:
                    found.setdefault(line[5 : line.find(" ")].lower(), []).append(line)
        return found

    def records(self, kind: str) -> list[RecordView]:
        """The views of the records of one type (lower case), in order of arrival."""
        found = self._records.get(kind)
        if found is None:
            found = self._records[kind] = self._views(kind)
        return found

    def _views(self, kind: str) -> list[RecordView]:
        records = [_record(line) for line in self.lines.get(kind, ())]
        if kind == "execve":
            return [ArgumentsView(records)] if records else []
        if kind == "path":
            return [PathView(each, self.folder) for each in records]
        return [RecordView(each) for each in records]

    def of(self, source: str) -> list[ProcessView] | list[FileView] | list[ConnectionView]:
        """The event's views as one of Sigma's categories."""
        if source == "process_creation":
            return self.process
        return self.files if source == "file_event" else self.connections

    @property
    def folder(self) -> bytes | None:
        """The working directory."""
        if self._folder is None:
            found = self.records("cwd")
            self._folder = (found[0].get("cwd") if found else None,)
        return self._folder[0]

    @property
    def call(self) -> RecordView | None:
        """The system call."""
        found = self.records("syscall")
        return found[0] if found else None

    @property
    def arguments(self) -> RecordView | None:
        """The arguments of the program that was started."""
        found = self.records("execve")
        return found[0] if found else None

    @property
    def process(self) -> list[ProcessView]:
        """One if the event is a program's start: the kernel writes EXECVE of those that succeeded. Where a rule keeps
        EXECVE out of the log, the call tells."""
        found = self._process
        if found is None:
            found = self._process = [ProcessView(self)] if self._started() else []
        return found

    def _started(self) -> bool:
        if "execve" in self.lines:
            return True
        call = self.call
        return call is not None and call.get("success") == b"yes" and call_name(call.record) in EXEC

    @property
    def files(self) -> list[FileView]:
        """One for each file that the call made."""
        found = self._files
        if found is None:
            found = self._files = []
            for view in self.records("path"):
                if view.low("nametype") == b"create":
                    name = view.get("name")
                    if name is not None:
                        found.append(FileView(self, name))
        return found

    @property
    def connections(self) -> list[ConnectionView]:
        """One if the event is a connect(2) to an Internet address."""
        found = self._connections
        if found is None:
            found = self._connections = self._connects()
        return found

    def _connects(self) -> list[ConnectionView]:
        call = self.call
        if call is None or not self._asks_to_connect(call):
            return []
        arch = machine(call.record.fields.get("arch", ""))
        out = []
        for view in self.records("sockaddr"):
            found = decode(view.record.fields.get("saddr", ""), None if arch is None else arch.byteorder)
            if found.address is not None and found.port is not None:
                address = found.address
                if "." in address:  # IPv4, perhaps in IPv6's clothes
                    address = address.removeprefix("::ffff:")
                out.append(ConnectionView(self, address.encode(), found.port, six=":" in address))
        return out

    @staticmethod
    def _asks_to_connect(call: RecordView) -> bool:
        name = call_name(call.record)
        return name == "connect" or (name == "socketcall" and call.record.fields.get("a0") == CONNECT)


def _record(line: str) -> Record:
    """Without `RecordReader`'s memory: of what is looked at here, hardly anything comes twice."""
    head, _, body = line.partition(" ")
    return Record(head[5:], body.removesuffix("\r"))


def call_name(record: Record) -> str | None:
    """The name of a SYSCALL record's call by its number, written as the kernel does: not what a sender of ENRICHED
    format says it is."""
    written, arch = record.fields.get("syscall", ""), record.fields.get("arch")
    number = values.number(written)
    if number is None or arch is None or str(number) != written:
        return None
    return syscall_name(arch, number)
