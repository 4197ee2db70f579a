"""Event-level data: the Event, all records with one origin, node and stamp, and the Batch, a block of whole events.

An `Event` is a lazy view on the bytes of its records: nothing is decoded before somebody asks, and what was decoded
is kept for the next who asks. Records keep their order of arrival and are never merged: ``a0`` of SYSCALL and ``a0``
of EXECVE are different things, and so `Event.get` wants the record's type. What is absent is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import attrs

from audisp.parse import values
from audisp.parse.arch import machine, syscall_name
from audisp.parse.record import Record, RecordReader, arguments
from audisp.parse.sockaddr import SockAddr, decode
from audisp.record import Block

T = TypeVar("T")

# One match is a run of lines with one node and stamp, found at C speed: the stamp is matched once and then compared.
# No group can match in two ways, so nothing is tried twice (each class stops at the character that follows it). Only
# single sets are possessive: Debian 12's Python 3.11.2 mismatches possessive groups (cpython gh-106052).
TYPE: Final = rb"type=[A-Za-z0-9_[\]]++ msg="
"""How each line begins, behind its node."""
STAMP: Final = rb"(audit\([0-9]{1,20}+\.[0-9]{1,3}+:[0-9]{1,20}+\):)"
"""The head, as a group."""
RUN: Final = re.compile(rb"(()" + TYPE + STAMP + rb"[^\n]*+\n(?:" + TYPE + rb"\3[^\n]*+\n)*)")
"""Runs of a block without ``node=``: (lines, nothing, head), the head being ``audit(SEC.MSEC:SERIAL):``."""
NODE: Final = rb"((?:node=[^ \n]++ )?)"
"""What may stand before a line, as a group."""
NODE_RUN: Final = re.compile(rb"(" + NODE + TYPE + STAMP + rb"[^\n]*+\n(?:\2" + TYPE + rb"\3[^\n]*+\n)*)")
"""The same where lines may begin with ``node=NAME ``: (lines, node part, head)."""
_ANY_LINE: Final = re.compile(rb"[^\n]*\n")

INCOMPLETE: Final = 1
"""Not known to be whole: it was put out before its end came, by a bound or by the end of its stream."""
TIMED_OUT: Final = 2
"""Its end never came; it was quiet for `end_of_event_timeout`, so it counts as whole unless `missing_paths` says no."""
LATE: Final = 4
"""Records of an event that was delivered before."""
NO_STAMP: Final = 8
"""A line that belongs to no event."""

_NODE_PREFIX: Final = len(b"node=")


@attrs.frozen(order=True)
class EventId:
    """What tells events of one origin apart. seconds and millis: the stamp, UTC. node: as its sender says, or ""."""

    seconds: int
    millis: int
    serial: int
    node: str = ""

    def __str__(self) -> str:
        return f"{self.seconds}.{self.millis:03d}:{self.serial}"

    @property
    def timestamp(self) -> float:
        """Seconds since the epoch."""
        return self.seconds + self.millis / 1000


@attrs.frozen
class Path:
    """One PATH record of an event, decoded. name None: the kernel gave none."""

    item: int | None
    name: str | None
    inode: int | None
    dev: str | None
    mode: int | None
    ouid: int | None
    ogid: int | None
    nametype: str | None
    record: Record


class Event:
    """One event. raw: its records in string form, in order of arrival, each with its LF. origin: the source's name.

    node: as its sender says, "" if it does not. arrived: time.monotonic() of its first record. flags: INCOMPLETE,
    TIMED_OUT, LATE, NO_STAMP. context: what the host knows of its process beyond the records, None if nobody looked
    (`audisp.enrich`). Compared by identity; never changes; from any thread.
    """

    __slots__ = ("_head", "_lines", "_node", "_reader", "_records", "arrived", "context", "flags", "origin", "raw")

    def __init__(
        self, raw: bytes, node: bytes, head: bytes, flags: int, origin: str, arrived: float, reader: RecordReader
    ) -> None:
        self.raw = raw
        self._node = node
        self._head = head
        self.flags = flags
        self.origin = origin
        self.arrived = arrived
        self.context: Any = None
        self._reader = reader
        self._lines: list[str] | None = None
        self._records: tuple[Record, ...] | None = None

    def __repr__(self) -> str:
        return f"<Event {self.stamp} of {self.origin}, {len(self.raw)} bytes>"

    # ---- identity ----

    @property
    def stamp(self) -> str:
        """``SEC.MSEC:SERIAL`` as written; "" for a line that belongs to no event."""
        return self._head[6:-2].decode("ascii")

    @property
    def same(self) -> tuple[bytes, bytes]:
        """What neighbours must share to be one event: node part and head, as they stand in each line."""
        return self._node, self._head

    @property
    def id(self) -> EventId:
        """The event's identity; all zero for a line that belongs to no event."""
        found = re.match(r"(\d+)\.(\d+):(\d+)\Z", self.stamp)
        if found is None:
            return EventId(0, 0, 0, self.node)
        return EventId(int(found[1]), int(found[2]), int(found[3]), self.node)

    @property
    def node(self) -> str:
        """The node as the sender says, "" without."""
        return values.from_text(self._node[_NODE_PREFIX:-1].decode("latin-1"))

    @property
    def time(self) -> datetime:
        """The stamp in UTC. A stamp that no calendar reaches gives the calendar's end."""
        id_ = self.id
        try:
            return datetime.fromtimestamp(id_.seconds, UTC).replace(microsecond=id_.millis * 1000)
        except (OverflowError, OSError, ValueError):
            return datetime.max.replace(tzinfo=UTC)

    # ---- its records ----

    @property
    def lines(self) -> list[str]:
        """The records as stripped text (latin-1 view): ``type=NAME FIELDS``, node and stamp taken out. Not to be
        changed. What is left of equal records of different events is equal text."""
        found = self._lines
        if found is None:
            found = self._lines = self._strip()
        return found

    def _strip(self) -> list[str]:
        text = self.raw.decode("latin-1")
        if self.flags & NO_STAMP:
            return text.split("\n")[:-1]
        mark = " msg=" + self._head.decode("ascii")
        stripped = text.replace(mark, "")
        lines = stripped.split("\n")
        lines.pop()
        node = len(self._node)
        if len(text) - len(stripped) != len(mark) * len(lines):
            # Somebody wrote the event's own stamp into a value: only the first in each line is the record's.
            lines = [line.replace(mark, "", 1) for line in text.split("\n")[:-1]]
        return [line[node:] for line in lines] if node else lines

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, in order of arrival, EOE included."""
        found = self._records
        if found is None:
            read = self._reader.read
            found = self._records = tuple([read(line) for line in self.lines])
        return found

    def of(self, type_: str) -> list[Record]:
        """The records of one type."""
        return [record for record in self.records if record.type == type_]

    def first(self, type_: str) -> Record | None:
        """The first record of a type."""
        for record in self.records:
            if record.type == type_:
                return record
        return None

    def get(self, type_: str, field: str, default: str | None = None) -> str | None:
        """A field of the first record of a type, decoded; `default` if there is none."""
        record = self.first(type_)
        value = None if record is None else record.get(field)
        return default if value is None else value

    # ---- what the SYSCALL record says ----

    @property
    def subject(self) -> Record | None:
        """The record that says who: SYSCALL, else URINGOP, else the first."""
        records = self.records
        for type_ in ("SYSCALL", "URINGOP"):
            for record in records:
                if record.type == type_:
                    return record
        return records[0] if records else None

    @property
    def keys(self) -> tuple[str, ...]:
        """The audit keys of the rules that fired."""
        record = self.first("SYSCALL") or self.first("URINGOP")
        value = None if record is None else record.fields.get("key")
        return () if value is None else values.keys(value)

    @property
    def success(self) -> bool | None:
        """Whether the call succeeded; of an event without one, what its ``res`` or ``success`` field says."""
        record = self.subject
        if record is None:
            return None
        for name in ("success", "res", "result"):
            value = record.raw(name)
            if value is not None:
                value = value.strip("\"',)").lower()
                return True if value in ("yes", "1", "success") else False if value in ("no", "0", "failed") else None
        return None

    @property
    def exe(self) -> str | None:
        """The program's file (of SYSCALL, or as a user-space sender was stamped)."""
        return self._said("exe")

    @property
    def comm(self) -> str | None:
        """The process's name, which it can change (prctl(2), PR_SET_NAME)."""
        return self._said("comm")

    def _said(self, name: str) -> str | None:
        record = self.subject
        return None if record is None else record.get(name)

    @property
    def syscall(self) -> str | None:
        """The system call's name, its number where the architecture's table has none, None without a SYSCALL."""
        record = self.first("SYSCALL")
        if record is None:
            return None
        number = record.integer("syscall")
        arch = record.fields.get("arch")
        if number is None:
            return record.get("syscall")
        return (syscall_name(arch, number) if arch is not None else None) or str(number)

    def integer(self, field: str) -> int | None:
        """A number of the record that says who: ``pid``, ``ppid``, ``auid``, ``uid``, ``ses``, ``exit`` ..."""
        record = self.subject
        return None if record is None else record.integer(field)

    def user(self, field: str) -> str | None:
        """The account's name for an id field, where ENRICHED format brought it along; else None."""
        record = self.subject
        return None if record is None else record.added(field)

    # ---- what other records say ----

    @property
    def argv(self) -> list[str]:
        """The arguments of EXECVE, pieces joined; [] without."""
        return arguments(self.of("EXECVE"))[0]

    @property
    def cwd(self) -> str | None:
        """The working directory."""
        return self.get("CWD", "cwd")

    @property
    def title(self) -> list[str]:
        """The process's title, split at its NULs; at most 128 bytes of it are in the record. [] without."""
        value = None
        record = self.first("PROCTITLE")
        if record is not None:
            value = record.get("proctitle")
        return [] if value is None else value.rstrip("\0").split("\0")

    @property
    def paths(self) -> list[Path]:
        """The PATH records, in order of arrival."""
        out = []
        for record in self.of("PATH"):
            out.append(
                Path(
                    record.integer("item"),
                    record.get("name"),
                    record.integer("inode"),
                    record.get("dev"),
                    record.integer("mode", 8),
                    record.integer("ouid"),
                    record.integer("ogid"),
                    record.get("nametype"),
                    record,
                )
            )
        return out

    @property
    def addresses(self) -> list[SockAddr]:
        """The SOCKADDR records' addresses."""
        record = self.first("SYSCALL")
        arch = None if record is None else machine(record.fields.get("arch", ""))
        order = None if arch is None else arch.byteorder
        return [decode(each.fields.get("saddr", ""), order) for each in self.of("SOCKADDR")]

    # ---- how whole it is ----

    @property
    def missing_paths(self) -> int:
        """PATH records that SYSCALL's ``items`` announces and that are not there."""
        record = self.first("SYSCALL")
        items = None if record is None else record.integer("items")
        return 0 if items is None else max(0, items - len(self.of("PATH")))

    @property
    def doubled(self) -> bool:
        """A record is there twice, byte for byte: an at-least-once transport sent it again."""
        lines = self.lines
        return len(set(lines)) != len(lines)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the event, in words for a person; () if nothing is known to be."""
        out = []
        if self.flags & INCOMPLETE:
            out.append("incomplete: put out before its end")
        if self.flags & LATE:
            out.append("late: records of an event that was delivered before")
        if self.missing_paths:
            out.append(f"{self.missing_paths} PATH records are missing")
        if self.doubled:
            out.append("a record is there twice")
        out += arguments(self.of("EXECVE"))[1]
        return tuple(out)


Run = tuple[bytes, ...]
"""Lines, node part (``node=NAME `` or nothing), head (``audit(...):``, nothing for a line without a stamp), and what
else whoever looked for it has cut out of it."""


def whole_runs(data: bytes, run: re.Pattern[bytes] = RUN, node_run: re.Pattern[bytes] = NODE_RUN) -> list[Run] | None:
    """Lines, each with its LF, grouped where neighbours have one node and stamp; None if any line is no record.

    run, node_run: expressions that find the same as RUN and NODE_RUN, in groups of the same places, and may have more.
    """
    # Looking for "\nnode=" takes half as long as looking for runs, which do not cover all if there is one.
    if not data.startswith(b"node="):
        found: list[Run] = run.findall(data)
        if _size(found) == len(data):
            return found
    found = node_run.findall(data)
    return found if _size(found) == len(data) else None


def _size(found: list[Run]) -> int:
    return sum([len(run[0]) for run in found])


def count_lines(data: bytes) -> int:
    """How many LF there are: as ``data.count``, which looks at each byte, and takes nine times as long for a block."""
    return len(data) - len(data.replace(b"\n", b""))


def runs(data: bytes) -> list[Run]:
    """The same of any lines: one that is no record is a run by itself, so that not one byte is left out."""
    found = whole_runs(data)
    return list(_with_strays(data)) if found is None else found


def _with_strays(data: bytes) -> Iterator[Run]:
    """Run by run, also where some line is no record."""
    at = 0
    while at < len(data):
        match = NODE_RUN.match(data, at)
        if match is not None:
            yield match[1], match[2], match[3]
        else:
            match = _ANY_LINE.match(data, at)
            if match is None:
                yield data[at:], b"", b""
                return
            yield match[0], b"", b""
        at = match.end()


class Batch(Block):
    """A block whose records are grouped by event, each event's records side by side; made by the assembler.

    marks: flags by position of the event in the batch, for those that have any. contexts: by position, `Event.context`
    of each, None if there is none. `events` and what is made by `once` are computed by the first who asks and shared by
    all who do.
    """

    __slots__ = ("_events", "_once", "contexts", "found", "marks", "reader")

    def __init__(
        self,
        data: bytes,
        records: int,
        source: str,
        arrived: float,
        reader: RecordReader,
        marks: dict[int, int] | None = None,
        *,
        spooled: bool = False,
    ) -> None:
        super().__init__(data, records, source, arrived, spooled=spooled)
        self.reader = reader
        self.marks = marks
        self.contexts: list[Any] | None = None
        self.found: list[Run] | None = None
        """The batch's runs, for who looks at its events at once; they hold its bytes a second time."""
        self._events: list[Event] | None = None
        self._once: dict[object, Any] | None = None

    @property
    def events(self) -> list[Event]:
        """The events, in order of completion. Not to be changed."""
        found = self._events
        if found is None:
            marks, origin, arrived, reader = self.marks or {}, self.source, self.arrived, self.reader
            found = [
                Event(run[0], run[1], run[2], marks.get(at, 0) if run[2] else NO_STAMP, origin, arrived, reader)
                for at, run in enumerate(self.found or runs(self.data))
            ]
            self.found = None
            if self.contexts is not None:
                for event, context in zip(found, self.contexts, strict=False):
                    event.context = context
            self._events = found
        return found

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def once(self, what: object, make: Callable[[Batch], T]) -> T:
        """What `make` makes of this batch, made once for all who ask under the same name. Two threads that ask at the
        same moment may both make it: a lock is the caller's business."""
        kept = self._once
        if kept is None:
            kept = self._once = {}
        elif what in kept:
            return cast("T", kept[what])
        found = kept[what] = make(self)
        return found

    def forget(self) -> None:
        """Let go of what was computed: a queue that holds the batch for long counts its bytes, not these."""
        self._events = self._once = None

    def first_end(self) -> int:
        """Where the first event ends, in bytes."""
        return len(next(_with_strays(self.data))[0])

    def split(self, limit: int) -> tuple[Batch | None, Batch | None]:
        """Cut between two events so that the head has at most `limit` bytes. Either part may be None."""
        if len(self.data) <= limit:
            return self, None
        cut = 0
        for lines, _, _ in _with_strays(self.data):
            if cut + len(lines) > limit:
                break
            cut += len(lines)
        if not cut:
            return None, self
        return self.part(0, cut), self.part(cut, None)

    def part(self, start: int, end: int | None) -> Batch:
        """The events between two places that lie between events."""
        data = self.data[start:end]
        if not self.marks and self.contexts is None:
            return self._with(data, None, None)
        first = len(runs(self.data[:start]))
        last = first + len(runs(data))
        marks = {at - first: flags for at, flags in (self.marks or {}).items() if first <= at < last}
        return self._with(data, marks, None if self.contexts is None else self.contexts[first:last])

    def _with(self, data: bytes, marks: dict[int, int] | None, contexts: list[Any] | None) -> Batch:
        made = Batch(
            data, data.count(b"\n"), self.source, self.arrived, self.reader, marks or None, spooled=self.spooled
        )
        made.contexts = contexts
        return made

    def only(self, keep: list[int]) -> Batch | None:
        """The events at these positions (ascending) as a batch of their own; None for none, self for all."""
        if not keep:
            return None
        events = self.events
        if len(keep) == len(events):
            return self
        marks: dict[int, int] = {}
        contexts: list[Any] = []
        if self.marks or self.contexts is not None:
            last = None
            for at in keep:
                # Two neighbours of one stamp are one event to whoever reads the data again.
                if events[at].same != last or events[at].flags & NO_STAMP:
                    contexts.append(events[at].context)
                last = events[at].same
                if self.marks and at in self.marks:
                    to = len(contexts) - 1
                    marks[to] = marks.get(to, 0) | self.marks[at]
        data = b"".join([events[at].raw for at in keep])
        return self._with(data, marks, contexts if self.contexts is not None else None)


def as_batch(block: Block, reader: RecordReader) -> Batch:
    """A block that is a batch, or was one before it went to disk, as a batch."""
    if isinstance(block, Batch):
        return block
    batch = Batch(block.data, block.records, block.source, block.arrived, reader, spooled=block.spooled)
    batch.own = block.own
    return batch
