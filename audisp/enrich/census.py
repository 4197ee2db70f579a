"""Who is who: the process table, kept true by events and by /proc.

Asking /proc costs time, so a process is asked about when its program starts, when it is first heard of, and when it
acts more than `RECHECK` after /proc last showed it. What /proc says counts for an event only if the process it shows
had started by then: who has the number now and started later is somebody else. A process that /proc shows has had its
number from its start to now, so that the answer holds for all events in between, however late these come.

A parent is confirmed before it is believed. What lies in the memory of a process is read last, so that a read that
hangs costs nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final, Literal

from audisp.enrich.facts import CLONE_PARENT, CLONE_THREAD, Facts
from audisp.enrich.proc import Part, ProcReader, Sight
from audisp.parse.cgroup import Placement, placement
from audisp.parse.labels import LabelRules
from audisp.parse.processes import COMM, SKEW_MS, TEXT, UNKNOWN, Entry, ProcessTable, bounded_argv

RECHECK: Final = 1.0
"""Seconds for which /proc is believed, and after which a read that failed is tried again: how late a process that was
moved to another unit is noticed."""
MAX_ADOPTED: Final = 8
"""Unknown ancestors looked up for one event. After a start from /proc there are rarely two."""
MAX_PLACES: Final = 1_024
"""Cgroups remembered as parsed. A host has some hundred."""
LEAST: Final = 0.001
"""Seconds that must be left of the deadline to ask /proc once more."""
PIDS: Final = 1 << 31
"""Process numbers are below (pid_t)."""


def boot_time() -> float:
    """Seconds since the epoch at which this system started, by the clock as it is now."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)


def bare(exe: str | None) -> str | None:
    """A program's file without the kernel's mark for one that is deleted: it may have been so at one moment only."""
    return None if exe is None else exe.removesuffix(" (deleted)")


class Census:
    """Not thread-safe: the owner holds a lock. All reading for one event takes at most `deadline` seconds.

    where: what to read of each process. tree: whether parents are wanted. inherit: as in `EnrichSettings`.
    """

    def __init__(
        self,
        table: ProcessTable,
        reader: ProcReader | None,
        rules: LabelRules,
        *,
        where: Part,
        tree: bool,
        inherit: Literal["container", "all"],
        clock: Callable[[], float],
        boot: Callable[[], float],
        deadline: float,
    ) -> None:
        self.table, self.reader, self.rules = table, reader, rules
        self._where, self._tree, self._inherit = where, tree, inherit
        self._clock, self._boot, self._deadline = clock, boot, deadline
        self._hz = os.sysconf("SC_CLK_TCK")
        self._until: float | None = None
        self._places: dict[str, Placement | None] = {}

    def begin(self) -> None:
        """Another event: the deadline begins anew with its first read."""
        self._until = None

    def born(self, ticks: int) -> int:
        """A start in clock ticks since boot as milliseconds since the epoch, by the clock as it is now."""
        return int(self._boot() * 1000) + ticks * 1000 // self._hz

    def read(self, pid: int, parts: Part, names: tuple[str, ...] = ()) -> Sight:
        """What /proc shows, if there is time left to ask."""
        if self.reader is None:
            return Sight(pid, missing={Part.STAT: "off"})
        now = self._clock()
        if self._until is None:
            self._until = now + self._deadline
        left = self._until - now
        if left < LEAST:
            return Sight(pid, missing={Part.STAT: "late"})
        return self.reader.read(pid, parts, names, left)

    def same_program(self, entry: Entry, part: Part, names: tuple[str, ...] = ()) -> Sight | None:
        """What the process shows of its memory, if it still is, and runs, what the entry says."""
        process = entry.process
        sight = self.read(process.pid, Part.STAT | Part.EXE | part, names)
        same = sight.stat is not None and sight.stat.ticks == process.ticks and bare(sight.exe) == bare(process.exe)
        return sight if same else None

    # ---- events ----

    def who(self, facts: Facts) -> Entry | None:
        """The process that did what the event tells; None for one that is forgotten."""
        table, stamp = self.table, facts.stamp
        entry = table.find(facts.pid, stamp)
        if entry is None:
            return self._look(facts, None)
        process, now = entry.process, self._clock()
        if (
            (
                now - entry.checked < RECHECK
                or ((entry.gone or now - entry.asked < RECHECK) and table.trusted(entry, stamp))
            )
            and (facts.exe is None or facts.exe == process.exe)
            and (facts.ppid is None or facts.ppid == process.ppid)
        ):
            table.touch(entry, stamp)
            return entry
        return self._look(facts, entry)

    def program(self, facts: Facts, parts: Part) -> tuple[Entry | None, Sight | None]:
        """A program was started: its process, and what /proc showed of it (None if it does not, or shows another). The
        labels are still those of before. Entry None: it is forgotten."""
        pid, ppid, stamp, table = facts.pid, facts.ppid, facts.stamp, self.table
        sight = self.read(pid, self._where | parts)
        ticks = born = None
        if sight.stat is not None:
            ticks, born = sight.stat.ticks, self.born(sight.stat.ticks)
            if born > stamp + SKEW_MS:
                ticks = born = None
        if ticks is None and table.newer(pid, stamp):
            return None, None
        entry = table.find(pid, stamp)
        fresh = entry is None or not table.same(entry, ppid, stamp, ticks, born)
        if fresh and not table.expects(pid):
            self._confirm(ppid, stamp)
        entry = table.exec(
            pid,
            ppid,
            stamp,
            exe=facts.exe,
            comm=facts.comm,
            argv=facts.argv,
            event_id=facts.event_id,
            ticks=ticks,
            born=born,
        )
        shown = sight if ticks is not None else None
        self._settle(entry, self._place(shown), fresh=fresh)
        self._asked(entry, sight, shown=ticks is not None)
        return entry, shown

    def label(self, entry: Entry) -> None:
        """Apply the rules to the program that its process runs."""
        process = entry.process
        script = process.script if isinstance(process.script, str) else None
        labels = self.rules.program(process.labels, process.exe, process.argv, script)
        if labels != process.labels:
            self.table.change(entry, labels=labels)

    def label_by(self, entry: Entry, keys: tuple[str, ...]) -> None:
        """Apply the rules to the keys of an event of the process."""
        if not self.rules.keys.isdisjoint(keys):
            labels = self.rules.by_keys(entry.process.labels, keys)
            if labels != entry.process.labels:
                self.table.change(entry, labels=labels)

    def fork(self, entry: Entry, facts: Facts) -> None:
        """A process made another. The number that its call returned is the host's if it counts as the host does."""
        child, flags = facts.exit, facts.flags or 0
        if not self._tree or child is None or not 0 < child < PIDS or flags & CLONE_THREAD:
            return
        if entry.nested is None:
            sight = self.read(facts.pid, Part.STAT | Part.NESTED)
            if sight.stat is not None and sight.stat.ticks == entry.process.ticks:
                entry.nested = sight.nested
        if entry.nested is False:
            self.table.fork(entry, child, facts.stamp, sibling=bool(flags & CLONE_PARENT))

    def learn(
        self,
        sight: Sight,
        stamp: int,
        *,
        ppid: int | None = None,
        exe: str | None = None,
        comm: str | None = None,
        renew: bool = False,
    ) -> Entry | None:
        """A process as /proc shows it, put into the table or brought up to date; None if it is not shown, or started
        after `stamp`. ppid, exe, comm: as an event of that time says, which is before what /proc shows now. renew: a
        program that /proc shows, and no event told of, counts for an entry that was known, too."""
        stat = sight.stat
        if stat is None:
            return None
        born = self.born(stat.ticks)
        if born > stamp + SKEW_MS:
            return None
        ppid = stat.ppid if ppid is None else ppid
        entry = self.table.find(sight.pid, stamp)
        if entry is not None and self.table.same(entry, None, stamp, stat.ticks, born):
            place = self._place(sight)
            if stat.ticks != entry.process.ticks:
                entry.certain = True
                self.table.change(entry, ticks=stat.ticks)
            if place is not None and place != entry.process.place:
                self.table.change(entry, place=place)
            if ppid != entry.process.ppid:
                self.table.change(entry, ppid=ppid)
        else:
            entry = self.table.appear(sight.pid, ppid, stamp, ticks=stat.ticks, born=born)
            self._settle(entry, self._place(sight), fresh=True)
        program, known = sight.exe if exe is None else exe, entry.process.exe
        stated = exe is not None or renew
        if program is not None and (known is None or (stated and bare(program) != bare(known))):
            current = bare(program) == bare(sight.exe)
            self._runs(entry, program, stat.comm if comm is None else comm, sight if current else None)
        elif entry.process.comm is None:
            self.table.change(entry, comm=stat.comm[:COMM])
        self._asked(entry, sight, shown=True)
        self.table.touch(entry, stamp)
        return entry

    # ---- the pieces ----

    def _look(self, facts: Facts, entry: Entry | None) -> Entry | None:
        # Not known, or not for sure any more.
        pid, stamp, table = facts.pid, facts.stamp, self.table
        sight = self.read(pid, self._where | Part.EXE)
        stat = sight.stat
        if stat is not None:
            if entry is None or not table.same(entry, None, stamp, stat.ticks, self.born(stat.ticks)):
                self._confirm(stat.ppid if facts.ppid is None else facts.ppid, stamp)
            found = self.learn(sight, stamp, ppid=facts.ppid, exe=facts.exe, comm=facts.comm)
            if found is not None:
                self._arguments(found)
                return found
        if table.newer(pid, stamp):
            return None
        if entry is None or not table.same(entry, facts.ppid, stamp) or facts.exe not in (None, entry.process.exe):
            if not table.expects(pid):
                self._confirm(facts.ppid, stamp)
            entry = table.appear(pid, facts.ppid, stamp)
            self._settle(entry, None, fresh=True)
            if facts.exe is not None and facts.exe != entry.process.exe:
                self._runs(entry, facts.exe, facts.comm, None)
        elif facts.ppid is not None and facts.ppid != entry.process.ppid:
            table.change(entry, ppid=facts.ppid)
        self._asked(entry, sight, shown=False)
        table.touch(entry, stamp)
        return entry

    def _confirm(self, ppid: int | None, stamp: int, depth: int = 0) -> None:
        # See to it that a parent, if it can be known at all, is in the table and believed.
        if not ppid or not self._tree or depth >= MAX_ADOPTED:
            return
        entry = self.table.find(ppid, stamp)
        if entry is not None:
            now = self._clock()
            if now - entry.checked < RECHECK:
                self.table.touch(entry, stamp)
                return
            if entry.gone or now - entry.asked < RECHECK or self.table.trusted(entry, stamp):
                return
        sight = self.read(ppid, self._where | Part.EXE)
        if sight.stat is None:
            if entry is not None:
                self._asked(entry, sight, shown=False)
            return
        if entry is None or entry.process.ticks != sight.stat.ticks:
            self._confirm(sight.stat.ppid, stamp, depth + 1)
        found = self.learn(sight, stamp)
        if found is not None and found is not entry:
            self._arguments(found)

    def _asked(self, entry: Entry, sight: Sight, *, shown: bool) -> None:
        now = self._clock()
        entry.asked = now
        if shown:
            entry.checked = now
        # A stat that shows another process says as much as none.
        entry.gone = not shown and (sight.stat is not None or sight.missing.get(Part.STAT) == "gone")

    def _settle(self, entry: Entry, place: Placement | None, *, fresh: bool) -> None:
        # Where it runs, and what it has of its parent if it was not known.
        process = entry.process
        labels, was = process.labels, process.place
        if fresh:
            parent = None if process.parent is None else self.table.get(process.parent)
            if parent is not None and not entry.forked:
                labels, was = parent.process.labels, parent.process.place
            labels = self.rules.inherited(labels)
        if place is None and was is not None and (was.container is not None or self._inherit == "all"):
            place = was
        if place != process.place or labels != process.labels:
            self.table.change(entry, place=place, labels=labels)

    def _runs(self, entry: Entry, exe: str, comm: str | None, sight: Sight | None) -> None:
        # It runs a program of which no event told. sight: what /proc shows, if it shows the same.
        process = entry.process
        argv, cut = (None, False) if sight is None or sight.argv is None else bounded_argv(sight.argv)
        spawner = process.spawner if process.exe is None else process.image
        changes: dict[str, Any] = {"argv": argv, "argv_cut": cut, "event_id": None, "script": UNKNOWN}
        changes["exe"], changes["comm"] = exe[:TEXT], None if comm is None else comm[:COMM]
        self.table.change(entry, spawner=spawner, **changes)
        self.label(entry)

    def _arguments(self, entry: Entry) -> None:
        if entry.process.argv is not None or entry.process.exe is None or not self._tree:
            return
        sight = self.same_program(entry, Part.CMDLINE)
        if sight is not None and sight.argv is not None:
            self.table.change(entry, argv=sight.argv, argv_cut=sight.argv_cut)
            self.label(entry)

    def _place(self, sight: Sight | None) -> Placement | None:
        text = None if sight is None else sight.cgroup
        if text is None:
            return None
        if text not in self._places:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[text] = placement(text)
        return self._places[text]
