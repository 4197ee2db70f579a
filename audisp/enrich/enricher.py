"""The whole of enrichment for one live host: facts of an event in, what is known of its process out.

What costs time is asking /proc, so a process is asked about when its program starts, when it is first heard of, and
when an event of its comes more than `RECHECK` after it was last asked about; between these an event costs a look into
the table. What /proc says counts for an event only if the process it shows had started by then: whoever has the number
now and started later is somebody else. For one event all reading together takes at most `DEADLINE`.

What could not be read is unknown. There is one inheritance: a child of a process in a container is in the container
(`EnrichSettings.inherit`). A child of a process in a service need not be in the service: systemd and the container
runtimes move their children before these start a program.

Differs from laurel, which does the same job: a fork event of a process in a pid namespace of its own is left out (the
number that it returns is not the host's, and would end and forge entries of strangers); a parent is confirmed before it
is believed; a process that is gone is not said to be outside of containers.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from audisp.enrich.facts import (
    CLONE_PARENT,
    CLONE_THREAD,
    EXEC,
    EXIT,
    FORK,
    Enrichment,
    EnrichSettings,
    Facts,
    describe,
)
from audisp.enrich.proc import Part, ProcReader, Sight
from audisp.enrich.script import script_of
from audisp.enrich.worker import DEADLINE
from audisp.parse.cgroup import Placement, placement
from audisp.parse.processes import SKEW_MS, UNKNOWN, Entry, ProcessTable, Unknown, bounded_argv

RECHECK: Final = 1.0
"""Seconds for which /proc is believed: less than the kernel needs to give a number out again (`processes.TRUST_MS`),
and how late a process that was moved to another unit is noticed."""
MAX_ADOPTED: Final = 8
"""Unknown ancestors looked up for one event. After a start from /proc there are rarely two."""
MAX_PLACES: Final = 1_024
"""Cgroups remembered as parsed. A host has some hundred."""
MAX_FILES: Final = 1_024
"""Programs whose device and inode are remembered."""
LEAST: Final = 0.001
"""Seconds that must be left of the deadline to ask /proc once more."""
_PIDS: Final = 1 << 31

_PLACES: Final = frozenset({"container", "unit", "cgroup"})
_TREE: Final = EXEC | FORK | EXIT


def boot_time() -> float:
    """Seconds since the epoch at which this system started, by the clock as it is now."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)


class Enricher:
    """Finds out what is known of each event's process. Events are to be given in the order in which they came, each
    once. May be used from any thread; a second one waits for the first.

    reader: None if there is no /proc to ask; then only events tell. boot: `boot_time`, for tests.
    """

    def __init__(
        self,
        settings: EnrichSettings,
        reader: ProcReader | None,
        table: ProcessTable | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        boot: Callable[[], float] = boot_time,
        deadline: float = DEADLINE,
    ) -> None:
        self.settings = settings
        self.table = ProcessTable() if table is None else table
        self.lock = threading.Lock()
        """Held while the table is used."""
        self.unsure = 0
        """Events of which some part could not be found out."""
        self._reader, self._clock, self._boot, self._deadline = reader, clock, boot, deadline
        self._hz = os.sysconf("SC_CLK_TCK")
        self._until: float | None = None
        self._places: dict[str, Placement | None] = {}
        self._files: OrderedDict[str, tuple[str, int]] = OrderedDict()
        on = settings.parts
        self._rules = settings.labels
        self._has_tree = "parents" in on or "labels" in on
        self._has_environment = "environment" in on and bool(settings.environment)
        self._where = Part.STAT | (Part.CGROUP if on & _PLACES else Part.STAT)
        self._nothing = describe(settings, None, (), "unknown")
        self._lost = describe(settings, None, (), "unknown", start=True, whole=False)

    def enrich(self, facts: Facts) -> Enrichment:
        """What is known of the event's process. Never raises on what is in the facts; may take the deadline."""
        with self.lock:
            self._until = None
            found = self._enrich(facts)
            if found.unknown:
                self.unsure += 1
            return found

    @property
    def state(self) -> dict[str, int]:
        """Counters for the status. Does not wait."""
        table = self.table
        state = {
            "processes": len(table),
            "process_bytes": table.bytes,
            "processes_evicted": table.evicted,
            "pids_reused": table.reused,
            "events_unsure": self.unsure,
        }
        return state if self._reader is None else state | self._reader.state

    def close(self) -> None:
        """No more reading of /proc; events go on being enriched by what is known."""
        if self._reader is not None:
            self._reader.close()

    # ---- for seeding, with the lock held ----

    def born(self, ticks: int) -> int:
        """A start in clock ticks since boot as milliseconds since the epoch, by the clock as it is now."""
        return int(self._boot() * 1000) + ticks * 1000 // self._hz

    def learn(
        self,
        sight: Sight,
        stamp: int,
        *,
        ppid: int | None = None,
        exe: str | None = None,
        comm: str | None = None,
    ) -> Entry | None:
        """A process as /proc shows it, put into the table or brought up to date; None if it is not shown, or started
        after `stamp`. ppid, exe, comm: as an event of that time says, which is before what /proc shows now."""
        stat = sight.stat
        if stat is None:
            return None
        born = self.born(stat.ticks)
        if born > stamp + SKEW_MS:
            return None
        ppid = stat.ppid if ppid is None else ppid
        program = sight.exe if exe is None else exe
        # By then it may run something else, with other arguments.
        current = _bare(program) == _bare(sight.exe)
        argv, cut = bounded_argv(sight.argv) if current and sight.argv is not None else (None, False)
        comm = stat.comm if comm is None else comm
        entry = self.table.find(sight.pid, stamp)
        if entry is not None and self._is(entry, stat.ticks, born):
            self._refresh(entry, sight, ppid)
            old = entry.process
            if program is not None and _bare(program) != _bare(old.exe):
                # It started a program, and no event told us.
                spawner = old.spawner if old.exe is None else old.image
                self._furnish(entry, fresh=False, exe=program, comm=comm, argv=argv, argv_cut=cut, event_id=None)
                self.table.change(entry, spawner=spawner)
        else:
            entry = self.table.appear(sight.pid, ppid, stamp, ticks=stat.ticks, born=born)
            self._furnish(entry, place=self._place(sight), exe=program, comm=comm, argv=argv, argv_cut=cut)
        entry.checked, entry.gone = self._clock(), False
        self.table.touch(entry, stamp)
        return entry

    # ---- one event ----

    def _enrich(self, facts: Facts) -> Enrichment:
        call = facts.syscall
        if not 0 < facts.pid < _PIDS:
            return self._nothing
        if call in _TREE and facts.success:
            if call in EXEC:
                return self._exec(facts)
            entry = self._entry(facts)
            if entry is not None and call in FORK:
                self._fork(entry, facts)
            elif call in EXIT:
                self.table.exit(facts.pid, facts.stamp)
        else:
            entry = self._entry(facts)
        if entry is None:
            return self._nothing
        if facts.keys and self._rules.keys:
            self._by_keys(entry, facts.keys)
        made = entry.made
        generation = self.table.generation
        if made is None or made[0] != generation:
            chain = self.table.chain(entry.process)
            made = entry.made = (generation, describe(self.settings, entry.process, chain.processes, chain.end))
        found: Enrichment = made[1]
        return found

    def _entry(self, facts: Facts) -> Entry | None:
        table = self.table
        entry = table.find(facts.pid, facts.stamp)
        if entry is None:
            return self._look(facts, None)
        process = entry.process
        if (
            (self._clock() - entry.checked < RECHECK or (entry.gone and table.trusted(entry, facts.stamp)))
            and (facts.exe is None or facts.exe == process.exe)
            and (facts.ppid is None or facts.ppid == process.ppid)
        ):
            table.touch(entry, facts.stamp)
            return entry
        return self._look(facts, entry)

    def _look(self, facts: Facts, entry: Entry | None) -> Entry | None:
        # Not known, or not for sure any more.
        pid, stamp, table = facts.pid, facts.stamp, self.table
        wanted = self._where | Part.EXE
        sight = self._read(pid, wanted if entry is not None else wanted | Part.CMDLINE)
        gone = sight.missing.get(Part.STAT) == "gone"
        if sight.stat is not None:
            if entry is None or not self._is(entry, sight.stat.ticks, self.born(sight.stat.ticks)):
                self._confirm(sight.stat.ppid if facts.ppid is None else facts.ppid, stamp)
            seen = self.learn(sight, stamp, ppid=facts.ppid, exe=facts.exe, comm=facts.comm)
            if seen is not None:
                return seen
            gone = True  # what has the number now started later
        if entry is not None and table.same(entry, facts.ppid, stamp, None) and facts.exe in (None, entry.process.exe):
            if facts.ppid is not None and facts.ppid != entry.process.ppid:
                table.change(entry, ppid=facts.ppid)
        elif table.newer(pid, stamp):
            return None
        else:
            if not table.expects(pid):
                self._confirm(facts.ppid, stamp)
            entry = table.appear(pid, facts.ppid, stamp)
            self._furnish(entry, exe=facts.exe, comm=facts.comm, place=None)
        entry.checked, entry.gone = self._clock(), gone
        table.touch(entry, stamp)
        return entry

    def _exec(self, facts: Facts) -> Enrichment:
        pid, stamp, table = facts.pid, facts.stamp, self.table
        on = self.settings.parts
        script = script_of(facts.paths, facts.exe, None, facts.cwd) if "script" in on else UNKNOWN
        wanted = self._where
        if self._has_environment:
            wanted |= Part.EXE | Part.ENVIRON
        elif "script" in on and script is UNKNOWN:
            wanted |= Part.EXE
        sight = self._read(pid, wanted, self.settings.environment)
        stat = sight.stat
        born = None if stat is None else self.born(stat.ticks)
        shown = stat is not None and born is not None and born <= stamp + SKEW_MS
        if table.newer(pid, stamp):
            return self._lost
        entry = table.find(pid, stamp)
        ticks = stat.ticks if shown and stat is not None else None
        fresh = entry is None or not table.same(entry, facts.ppid, stamp, ticks)
        if fresh and not table.expects(pid):
            self._confirm(facts.ppid, stamp)
        entry = table.exec(
            pid,
            facts.ppid,
            stamp,
            exe=facts.exe,
            comm=facts.comm,
            argv=facts.argv,
            event_id=facts.event_id,
            ticks=ticks,
            born=born if shown else None,
        )
        # It may have gone on to another program since.
        current = shown and sight.exe is not None and _bare(sight.exe) == _bare(facts.exe)
        if "script" in on and script is UNKNOWN:
            script = self._script(facts, sight.exe_file if current else None)
        place = self._place(sight) if shown else None
        self._furnish(entry, place=place, script=script, fresh=fresh)
        entry.checked = self._clock()
        entry.gone = not shown and (stat is not None or sight.missing.get(Part.STAT) == "gone")
        if facts.keys and self._rules.keys:
            self._by_keys(entry, facts.keys)
        environment = sight.environment if current else None
        chain = table.chain(entry.process)
        return describe(
            self.settings,
            entry.process,
            chain.processes,
            chain.end,
            start=True,
            environment=environment,
            whole=not self._has_environment or (environment is not None and Part.ENVIRON not in sight.missing),
        )

    def _fork(self, entry: Entry, facts: Facts) -> None:
        child, flags = facts.exit, facts.flags or 0
        if not self._has_tree or child is None or not 0 < child < _PIDS or flags & CLONE_THREAD:
            return
        if entry.nested is None:
            sight = self._read(facts.pid, Part.STAT | Part.NESTED)
            if sight.stat is not None and sight.stat.ticks == entry.process.ticks:
                entry.nested = sight.nested
        if entry.nested is False:
            self.table.fork(entry, child, facts.stamp, sibling=bool(flags & CLONE_PARENT))

    # ---- the pieces ----

    def _read(self, pid: int, parts: Part, names: tuple[str, ...] = ()) -> Sight:
        if self._reader is None:
            return Sight(pid, missing={Part.STAT: "off"})
        now = self._clock()
        if self._until is None:
            self._until = now + self._deadline
        left = self._until - now
        if left < LEAST:
            return Sight(pid, missing={Part.STAT: "late"})
        return self._reader.read(pid, parts, names, left)

    def _is(self, entry: Entry, ticks: int, born: int) -> bool:
        # Whether the process that started then is the entry's. One without a start time was seen at work after it.
        known = entry.process.ticks
        return known == ticks if known is not None else born <= entry.process.born + SKEW_MS

    def _confirm(self, ppid: int | None, stamp: int, depth: int = 0) -> None:
        """See to it that the parent, if it can be known at all, is in the table and believed."""
        if not ppid or not self._has_tree or depth >= MAX_ADOPTED:
            return
        entry = self.table.find(ppid, stamp)
        if entry is not None:
            if entry.gone or self.table.trusted(entry, stamp):
                return
            if self._clock() - entry.checked < RECHECK:
                self.table.touch(entry, stamp)
                return
        sight = self._read(ppid, self._where if entry is not None else self._where | Part.EXE | Part.CMDLINE)
        stat = sight.stat
        if stat is None:
            if entry is not None:
                entry.checked, entry.gone = self._clock(), sight.missing.get(Part.STAT) == "gone"
            return
        if entry is None or entry.process.ticks != stat.ticks:
            self._confirm(stat.ppid, stamp, depth + 1)
        self.learn(sight, stamp)

    def _refresh(self, entry: Entry, sight: Sight, ppid: int) -> None:
        # The same process, seen again.
        process = entry.process
        stat = sight.stat
        changes: dict[str, object] = {}
        if stat is not None and process.ticks is None:
            changes["ticks"] = stat.ticks
            entry.certain = True
        if ppid != process.ppid:
            changes["ppid"] = ppid
        place = self._place(sight)
        if place is not None and place != process.place:
            changes["place"] = place
        if changes:
            self.table.change(entry, **changes)

    def _furnish(
        self,
        entry: Entry,
        *,
        place: Placement | None = None,
        script: str | Unknown | None = UNKNOWN,
        fresh: bool = True,
        **changes: object,
    ) -> None:
        """What a new process, or one with a new program, has of itself and of its parent."""
        table, process = self.table, entry.process
        parent = None if process.parent is None else table.get(process.parent)
        labels, was = process.labels, process.place
        if fresh:
            if parent is not None and not entry.forked:
                labels, was = parent.process.labels, parent.process.place
            labels = self._rules.inherited(labels)
        if place is None and was is not None and (was.container is not None or self.settings.inherit == "all"):
            place = was
        table.change(entry, place=place, script=script, labels=labels, **changes)
        process = entry.process
        if self._rules:
            text = script if isinstance(script, str) else None
            labels = self._rules.program(labels, process.exe, process.argv, text)
            if labels != process.labels:
                table.change(entry, labels=labels)

    def _place(self, sight: Sight) -> Placement | None:
        text = sight.cgroup
        if text is None:
            return None
        if text not in self._places:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[text] = placement(text)
        return self._places[text]

    def _script(self, facts: Facts, exe_file: tuple[str, int] | None) -> str | Unknown | None:
        files, exe = self._files, facts.exe
        if exe is None:
            return UNKNOWN
        if exe_file is not None:
            files[exe] = exe_file
            files.move_to_end(exe)
            if len(files) > MAX_FILES:
                files.popitem(last=False)
            return script_of(facts.paths, exe, exe_file, facts.cwd)
        # The process is gone; but if what the kernel opened is the very file that this program was before, it says
        # as much. Only both numbers together do.
        known = files.get(exe)
        if known is None or not any((item.dev, item.inode) == known for item in facts.paths):
            return UNKNOWN
        return script_of(facts.paths, exe, known, facts.cwd)

    def _by_keys(self, entry: Entry, keys: tuple[str, ...]) -> None:
        if not self._rules.keys.isdisjoint(keys):
            labels = self._rules.by_keys(entry.process.labels, keys)
            if labels != entry.process.labels:
                self.table.change(entry, labels=labels)


def _bare(exe: str | None) -> str | None:
    return None if exe is None else exe.removesuffix(" (deleted)")
