"""Who started whom, as the starts of programs in a stream tell: for logs, where there is no /proc to ask.

The kernel names a process by a number that it gives out again, in order, and from the beginning when it comes to the
end. So what is known under a number is forgotten when the numbers of new programs have come round to it, and after
`MAX_AGE`. A parent that forked and never started a program of its own is not known here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import attrs

from audisp.detect.views import words_of
from audisp.event import Event, Run
from audisp.parse import values
from audisp.parse.record import Record

MAX_ENTRIES: Final = 16_384
"""Programs remembered. A busy host has a thousand processes; the rest is for those of which nobody says that they
ended."""
MAX_TEXT: Final = 4_096
"""Bytes of a command line that are kept: rules look for a service's name and options."""
MAX_AGE: Final = 24 * 3600 * 1000
"""Milliseconds for which a program is believed to run. With the largest range of numbers (4 million) and 50 new
processes a second the kernel comes round in a day."""
WRAP: Final = 1_000
"""By how much a number may be smaller than the one before without the kernel having come round: programs start out of
order."""

_WHO: Final = re.compile(rb" ppid=([0-9]{1,10}+) pid=([0-9]{1,10}+) ")
_EXE: Final = re.compile(rb' exe=("[^"\n]*+"|[^ \n]*+)')
_ARGUMENTS: Final = re.compile(rb"type=EXECVE msg=audit\([^)\n]++\): ([^\n]*+)")


@attrs.frozen
class Known:
    """A program that was started. Both texts may be cut."""

    image: bytes | None
    command_line: bytes | None


class _Start(NamedTuple):
    """A program's start: its records, its node, its number, and when in milliseconds since the epoch."""

    lines: bytes
    node: bytes
    pid: int
    stamp: int


class _Entry:
    __slots__ = ("known", "lines", "round", "stamp")

    def __init__(self, lines: bytes, stamp: int, round_: int) -> None:
        self.lines, self.stamp, self.round = lines, stamp, round_
        self.known: Known | None = None


class RecordedParents:
    """The programs of a stream. `meet` and `note` are to be called for every start of a program, in order, before and
    after its rules are asked; `of` for any other event whose parent is wanted. Not thread-safe."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.evicted = 0
        """Entries that had to go for others."""
        self._max = max_entries
        self._entries: dict[tuple[bytes, int], _Entry] = {}
        self._rounds: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def meet(self, run: Run, *, asked: bool) -> tuple[Known | None, _Start | None]:
        """A program was started: who started it (asked: whether anybody wants to know), and what `note` is to be given
        after its rules were asked. An event as its batch has it (`audisp.event.runs`)."""
        lines, node, head = run[:3]
        who = _WHO.search(lines)
        if who is None:
            return None, None
        start = _Start(lines, node, int(who[2]), stamp_of(head))
        return self._find(node, int(who[1]), start.stamp) if asked else None, start

    def note(self, start: _Start) -> None:
        """Remember a program that was started."""
        lines, node, pid, stamp = start
        round_, last = self._rounds.get(node, (0, 0))
        if pid < last - WRAP:
            round_ += 1
        if node in self._rounds or len(self._rounds) < self._max:
            self._rounds[node] = (round_, pid)
        entry = _Entry(lines, stamp, round_)
        if len(lines) > MAX_TEXT:
            entry.known, entry.lines = _read(lines), b""
        key = (node, pid)
        self._entries.pop(key, None)
        self._entries[key] = entry
        if len(self._entries) > self._max:
            del self._entries[next(iter(self._entries))]
            self.evicted += 1

    def of(self, event: Event) -> Known | None:
        """Who started the process that the event is about; None if that is not known, or no longer certain."""
        who = _WHO.search(event.raw)
        if who is None:
            return None
        node, head = event.same
        return self._find(node, int(who[1]), stamp_of(head))

    def _find(self, node: bytes, pid: int, stamp: int) -> Known | None:
        key = (node, pid)
        entry = self._entries.get(key)
        if entry is None:
            return None
        round_, last = self._rounds.get(node, (0, 0))
        come_round = round_ > entry.round + 1 or (round_ == entry.round + 1 and last > key[1] + WRAP)
        if come_round or not 0 <= stamp - entry.stamp <= MAX_AGE:
            return None
        if entry.known is None:
            entry.known, entry.lines = _read(entry.lines), b""
        return entry.known


def stamp_of(head: bytes) -> int:
    """Milliseconds since the epoch of ``audit(SEC.MSEC:SERIAL):``; 0 if it is none."""
    seconds, dot, rest = head[6:].partition(b".")
    return int(seconds) * 1000 + int(rest[: rest.index(b":")]) if dot else 0


def _read(lines: bytes) -> Known:
    exe = _EXE.search(lines)
    image = None if exe is None else values.string(exe[1].decode("latin-1"))
    records = [Record("EXECVE", body.decode("latin-1")) for body in _ARGUMENTS.findall(lines)]
    words = words_of(records)
    return Known(
        None if image is None else image.encode("utf-8", "surrogateescape")[:MAX_TEXT],
        b" ".join(words.values())[:MAX_TEXT] if words else None,
    )
