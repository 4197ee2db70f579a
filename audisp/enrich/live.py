"""Enrichment from start to end: a table that begins with what /proc shows and what was kept, and is kept at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from audisp.enrich import kept
from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import PROCESS_BYTES, EnrichSettings
from audisp.enrich.proc import Part, ProcReader, Sight
from audisp.enrich.worker import DEADLINE, Say
from audisp.errors import ParseError, StoreError
from audisp.parse.process_dump import Restored, dump, restore
from audisp.parse.processes import TRUST_MS, ProcessTable

SEED_SECONDS: Final = 5.0
"""How long filling the table may hold up the start. A thousand processes take some 0.2 s."""
SEED_DEADLINE: Final = 1.0
"""Seconds for one of these reads: no event waits for it, and at boot machines are slow."""
SEED_PROCESSES: Final = 4_096
"""Processes looked at, at most. The rest is looked at when it is heard of."""
FORKS_PER_MS: Final = 10
"""What the fastest of hosts makes of processes; with the number of numbers, how soon one can come back."""
MAX_TRUST_MS: Final = 60_000
"""Upper bound of what follows from that."""
PID_MAX: Final = "/proc/sys/kernel/pid_max"


@attrs.frozen
class Seeded:
    """What a table began with. processes: that /proc showed. whole: all there were, in time."""

    processes: int
    whole: bool
    restored: Restored


def trust_ms(path: str = PID_MAX) -> int:
    """How long a number cannot come back, from how many there are (proc_sys_kernel(5))."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            numbers = int(file.read(32))
    except (OSError, ValueError):
        return TRUST_MS
    return max(TRUST_MS, min(numbers // FORKS_PER_MS, MAX_TRUST_MS))


def seed(
    enricher: Enricher,
    reader: ProcReader,
    data: bytes | None = None,
    boot: str = "",
    *,
    seconds: float = SEED_SECONDS,
    most: int = SEED_PROCESSES,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Seeded:
    """Fill the table from /proc, and from a dump of this boot. Takes at most `seconds`; to be called before the first
    event. Raises ParseError for a dump that is damaged; the table then has what /proc shows.

    Arguments are read in a second pass, as these reads may hang: the first that does ends it.
    """
    until = clock() + seconds
    pids = reader.pids(seconds)
    sights: list[Sight] = []
    whole = bool(pids) and len(pids) <= most
    for pid in pids[:most]:
        if clock() >= until:
            whole = False
            break
        sight = reader.read(pid, Part.STAT | Part.CGROUP | Part.EXE, (), SEED_DEADLINE)
        if sight.stat is not None:
            sights.append(sight)
    for at, sight in enumerate(sights):
        if sight.exe is None:
            continue  # a thread of the kernel's has no arguments
        again = reader.read(sight.pid, Part.CMDLINE, (), SEED_DEADLINE) if clock() < until else sight
        if again is sight or again.missing.get(Part.CMDLINE) in ("late", "off"):
            whole = False
            break
        if again.stat is not None and sight.stat is not None and again.stat.ticks == sight.stat.ticks:
            sights[at] = attrs.evolve(sight, argv=again.argv, argv_cut=again.argv_cut)
    # Parents before their children: these inherit.
    sights.sort(key=lambda sight: (sight.stat.ticks if sight.stat else 0, sight.pid))
    alive = {sight.pid: sight.stat.ticks for sight in sights if sight.stat is not None}
    restored = Restored()
    problem: ParseError | None = None
    with enricher.lock:
        if data is not None:
            try:
                restored = restore(enricher.table, data, boot, alive)
            except ParseError as found:
                problem = found
        stamp = int(wall() * 1000)
        for sight in sights:
            enricher.census.learn(sight, stamp, renew=True)
    if problem is not None:
        raise problem
    return Seeded(len(sights), whole, restored)


def begin(
    settings: EnrichSettings,
    say: Say,
    path: Path | None = None,
    *,
    root: str = "/proc",
    deadline: float = DEADLINE,
) -> Enricher:
    """An enricher of this host, its table filled; takes up to SEED_SECONDS, and starts a thread. Raises nothing: what
    is missing is said.

    path: the file of `finish`. Seeing the programs of other users' processes needs CAP_SYS_PTRACE, and reading their
    environments CAP_DAC_READ_SEARCH as well. To be called after the process went to the background: the thread does
    not survive a fork.
    """
    reader = ProcReader(say, root=root)
    size = settings.processes
    table = ProcessTable(max_entries=size, max_bytes=size * PROCESS_BYTES, trust_ms=trust_ms())
    why = reader.problem()
    if why is not None:
        say("warning", f"enrichment: {why}: nothing is read there, and only events tell of processes")
        return Enricher(settings, None, table, deadline=deadline)
    enricher = Enricher(settings, reader, table, deadline=deadline)
    data: bytes | None = None
    if path is not None:
        try:
            data = kept.load(path)
        except StoreError as problem:
            say("warning", str(problem))
    try:
        seeded = seed(enricher, reader, data, kept.boot_id())
    except ParseError as problem:
        say("warning", f"{path}: {problem}: left out")
        return enricher
    if not seeded.whole:
        say("notice", f"enrichment: not all processes of {root} could be looked at; {seeded.processes} are known")
    found = seeded.restored
    if data is not None:
        why = f" ({found.why})" if found.why else ""
        say("info", f"enrichment: {found.living} of {found.living + found.dropped} kept processes still live{why}")
    return enricher


def finish(enricher: Enricher, path: Path | None, say: Say) -> None:
    """Keep the table for the next start, and end the reading. Raises nothing."""
    if path is not None:
        with enricher.lock:
            data = dump(enricher.table, kept.boot_id())
        try:
            kept.save(path, data)
        except StoreError as problem:
            say("warning", str(problem))
    enricher.close()
