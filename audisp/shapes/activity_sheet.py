"""A record on its way into a document: which of its fields have found a place there, and which have not yet."""

from __future__ import annotations

import shlex

from audisp.parse import values
from audisp.parse.memo import Memo
from audisp.parse.record import Record
from audisp.shapes import activity
from audisp.shapes.activity import Gathered, Leftovers, gathered
from audisp.shapes.shape import Names


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

    def release(self, name: str) -> None:
        """It has lost its place again to something else."""
        self._outer.discard(name)
        self._inner.discard(name)

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
        if type_ in activity.NUMBERED:
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


def place_arguments(sheets: list[Sheet], count: int) -> None:
    """Mark what a command line of the arguments of these EXECVE records shows as it is: how many there are, and those
    that a shell needs no quotes for. count: of arguments in all."""
    seen: set[str] = set()
    for sheet in sheets:
        for name, raw in sheet.record.fields.items():
            if name == "argc":
                if values.number(raw) == count:
                    sheet.mark(name)
            elif name[:1] == "a" and name[1:].isdecimal() and name not in seen:
                seen.add(name)
                argument = values.argument(raw)
                if shlex.quote(argument) == argument:
                    sheet.mark(name)


class Remainders:
    """What is left of an event's sheets, by record type. Records that come again with the same fields in their places
    leave the same, and are not gone through again."""

    __slots__ = ("_memo",)

    def __init__(self) -> None:
        self._memo: Memo[tuple[str, tuple[set[str], set[str], set[str]], Gathered]] = Memo()

    def of(self, sheets: list[Sheet]) -> Leftovers:
        """What is left of these."""
        left = Leftovers()
        for sheet in sheets:
            made = self._of(sheet)
            if made:
                left.put(sheet.record.type, made)
        return left

    def _of(self, sheet: Sheet) -> Gathered:
        record = sheet.record
        if record.type == "SYSCALL":
            return gathered(sheet.left())  # no two are the same
        found = self._memo.get(record.body)
        if found is not None and found[0] == record.type and found[1] == sheet.marks:
            return found[2]
        made = gathered(sheet.left())
        self._memo.put(record.body, (record.type, sheet.marks, made), 6 * len(record.body))
        return made
