"""The whole of enrichment for one live host: facts of an event in, what is known of its process out.

An event of a process that is known, and was looked at within the last second, costs a look into the table. The start of
a program costs one or two questions to /proc, whatever it brings.

What could not be read is unknown. There is one inheritance: a child of a process in a container is in the container
(`EnrichSettings.inherit`). A child of a process in a service need not be in the service: systemd and the container
runtimes move their children before these start a program.

Differs from laurel, which does the same job: a fork by a process in a pid namespace of its own is left out (the number
that it returns is not the host's, and would end and forge entries of strangers); a parent is confirmed before it is
believed; a process that is gone is not said to be outside of containers; a script is one only if the file that runs was
recognised.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from audisp.enrich.census import PIDS, Census, bare, boot_time
from audisp.enrich.facts import EXEC, EXIT, FORK, Enrichment, EnrichSettings, Facts, describe
from audisp.enrich.proc import Part, ProcReader
from audisp.enrich.script import script_of
from audisp.enrich.worker import DEADLINE
from audisp.parse.processes import MAX_STAMP, TEXT, UNKNOWN, ProcessTable, Unknown

MAX_FILES: Final = 1_024
"""Programs whose device and inode are remembered."""

_PLACES: Final = frozenset({"container", "unit", "cgroup"})
_TREE: Final = EXEC | FORK | EXIT


class Enricher:
    """Finds out what is known of each event's process. Events are to be given in the order in which they came, each
    once. May be used from any thread; a second one waits for the first.

    reader: None if there is no /proc to ask; then only events tell. boot: `boot_time`, for tests. deadline: seconds
    that one event may wait for /proc.
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
        on = settings.parts
        self.settings = settings
        self.table = ProcessTable() if table is None else table
        self.lock = threading.Lock()
        """Held while the table is used."""
        self.unsure = 0
        """Events of which some part could not be found out."""
        self.census = Census(
            self.table,
            reader,
            settings.labels,
            where=Part.STAT | Part.CGROUP if on & _PLACES else Part.STAT,
            tree="parents" in on or "labels" in on,
            inherit=settings.inherit,
            clock=clock,
            boot=boot,
            deadline=deadline,
        )
        self._keys = settings.labels.keys
        self._has_script = "script" in on
        self._has_environment = "environment" in on and bool(settings.environment)
        self._files: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._nothing = describe(settings, None, (), "unknown")
        self._lost = describe(settings, None, (), "unknown", start=True, whole=False)

    def enrich(self, facts: Facts) -> Enrichment:
        """What is known of the event's process. Never raises on what is in the facts; may take the deadline."""
        with self.lock:
            self.census.begin()
            found = self._enrich(facts)
            if found.unknown:
                self.unsure += 1
            return found

    @property
    def state(self) -> dict[str, int]:
        """Counters for the status. Does not wait."""
        table, reader = self.table, self.census.reader
        state = {
            "processes": len(table),
            "process_bytes": table.bytes,
            "processes_evicted": table.evicted,
            "pids_reused": table.reused,
            "events_unsure": self.unsure,
        }
        return state if reader is None else state | reader.state

    def close(self) -> None:
        """No more reading of /proc; events go on being enriched by what is known."""
        if self.census.reader is not None:
            self.census.reader.close()

    def _enrich(self, facts: Facts) -> Enrichment:
        if not 0 < facts.pid < PIDS or not 0 <= facts.stamp < MAX_STAMP:
            return self._nothing
        if facts.ppid is not None and not 0 <= facts.ppid < PIDS:
            facts = attrs.evolve(facts, ppid=None)
        call = facts.syscall
        if call in EXEC and facts.success:
            return self._start(facts)
        entry = self.census.who(facts)
        if entry is None:
            return self._nothing
        if call in _TREE and facts.success:
            if call in FORK:
                self.census.fork(entry, facts)
            else:
                self.table.exit(facts.pid, facts.stamp)
        if facts.keys and self._keys:
            self.census.label_by(entry, facts.keys)
        made = entry.made
        generation = self.table.generation
        if made is None or made[0] != generation:
            chain = self.table.chain(entry.process)
            made = entry.made = (generation, describe(self.settings, entry.process, chain.processes, chain.end))
        found: Enrichment = made[1]
        return found

    def _start(self, facts: Facts) -> Enrichment:
        # A program was started.
        script: str | Unknown | None = UNKNOWN
        if self._has_script:
            script = script_of(facts.paths, facts.exe, None, facts.cwd)
        wanted = Part.EXE if self._has_script and script is UNKNOWN else Part.STAT
        entry, sight = self.census.program(facts, wanted)
        if entry is None:
            return self._lost
        if self._has_script:
            if script is UNKNOWN:
                # By now it may run something else.
                current = sight is not None and bare(sight.exe) == bare(facts.exe)
                script = self._script(facts, sight.exe_file if current and sight is not None else None)
            # A path longer than can be kept is this event's alone.
            if script is None or (isinstance(script, str) and len(script) <= TEXT):
                self.table.change(entry, script=script)
        self.census.label(entry)
        if facts.keys and self._keys:
            self.census.label_by(entry, facts.keys)
        environment: Mapping[str, str] | None = None
        whole = True
        if self._has_environment:
            found = self.census.same_program(entry, Part.ENVIRON, self.settings.environment) if sight else None
            environment = None if found is None else found.environment
            whole = found is not None and environment is not None and Part.ENVIRON not in found.missing
        chain = self.table.chain(entry.process)
        return describe(
            self.settings,
            entry.process,
            chain.processes,
            chain.end,
            start=True,
            environment=environment,
            whole=whole,
        )

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
