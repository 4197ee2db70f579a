"""/proc, read by one bounded worker: what a process is, where it runs, and what it was given.

A folder of /proc is opened once and all its files through it: if the process ends and its number is given out again
while it is read, the folder stays the old process's, and what is read from it fails instead of telling about another.
What was read before a read hangs is kept; the rest is unknown, with the reason.

What lies in the process's own memory (environment, arguments) is read last, and apart in two ways. Only these reads can
be made to hang by the process itself (proc(5); see `worker`), so after one did, memory is left alone for a while, and
the last thread is never sent there: whoever hangs two of them blinds us for environments, not for containers. And a
process that is replaced by exec in between has other memory: its place there (fields 48 to 51 of stat) is compared
before and after.

Formats: proc_pid_stat(5), proc_pid_cgroup(5), proc_pid_environ(5), proc_pid_status(5).
"""

from __future__ import annotations

import enum
import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from audisp.enrich.worker import DEADLINE, REST, Job, Outcome, Say, Worker
from audisp.parse.cgroup import MAX_TEXT
from audisp.parse.processes import ARGV_BYTES, bounded_argv
from audisp.parse.values import to_str

ENVIRON_BYTES: Final = 256 * 1024
"""Of an environment. Usual ones have 4 KiB; the kernel's limit is 6 MiB (execve(2)). A variable not found in so much is
unknown, not unset."""
VALUE_CHARS: Final = 4_096
"""Of one variable's value. LD_PRELOAD and PATH are shorter."""
STATUS_BYTES: Final = 16 * 1024
"""Of /proc/PID/status; a list of a thousand groups fits."""
STAT_BYTES: Final = 4_096
"""Of /proc/PID/stat: 52 numbers and a name of 64 bytes."""
MAX_PIDS: Final = 32_768
"""Processes listed at most, when the table is filled at the start: more than are looked at."""
HOST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The first pid namespace (PROC_PID_INIT_INO, 0xEFFFFFFC, linux/proc_ns.h): the kernel's audit records count in it."""
MISSES: Final = frozenset({errno.ENOENT, errno.ESRCH})


class Part(enum.Flag):
    """What to read. STAT comes always: number of the parent, name, start."""

    STAT = enum.auto()
    CGROUP = enum.auto()
    EXE = enum.auto()
    NESTED = enum.auto()
    CMDLINE = enum.auto()
    ENVIRON = enum.auto()

    MEMORY = CMDLINE | ENVIRON


@attrs.frozen
class Stat:
    """Of /proc/PID/stat. ticks: start since boot. memory: where arguments and environment lie, for comparison."""

    comm: str
    ppid: int
    ticks: int
    memory: tuple[bytes, ...]


@attrs.frozen
class Sight:
    """What was seen of a process. None: not asked for, or unknown; `missing` says which, and why: `gone` (the process
    ended), `late` (a read hangs), `off` (nothing is read any more), `changed` (it started another program in between),
    or the system's word for the error.

    cgroup: the text of the file. exe: the program's file as the kernel names it, with `` (deleted)`` where it was.
    exe_file: device as ``MAJOR:MINOR`` in PATH records' form, and inode. nested: it counts processes in a namespace
    below ours. environment: of the variables asked for those that are set.
    """

    pid: int
    stat: Stat | None = None
    cgroup: str | None = None
    exe: str | None = None
    exe_file: tuple[str, int] | None = None
    nested: bool | None = None
    argv: tuple[str, ...] | None = None
    argv_cut: bool = False
    environment: Mapping[str, str] | None = None
    missing: Mapping[Part, str] = attrs.field(factory=dict)


def parse_stat(data: bytes) -> Stat | None:
    """None for what is no stat. The name may hold anything, ``)`` and blanks included: it ends at the last ``)``."""
    head, end, rest = data.rpartition(b") ")
    _, start, comm = head.partition(b"(")
    fields = rest.split()
    if not end or not start or len(fields) < 20 or not (fields[1].isdigit() and fields[19].isdigit()):
        return None
    # fields[0] is field 3 of proc_pid_stat(5): the parent's number is field 4, the start 22, the memory 48 to 51.
    return Stat(to_str(comm), int(fields[1]), int(fields[19]), tuple(fields[45:49]))


def parse_nested(data: bytes) -> bool | None:
    """Whether /proc/PID/status shows the process in a pid namespace below the reader's: NSpid has several numbers."""
    _, found, rest = data.partition(b"\nNSpid:")
    return len(rest.partition(b"\n")[0].split()) > 1 if found else None


def parse_environ(data: bytes, names: Iterable[str]) -> dict[str, str]:
    """Of these variables, those that are set. The first counts, as for getenv(3)."""
    wanted = {os.fsencode(name) for name in names}
    found: dict[str, str] = {}
    for piece in data.split(b"\0"):
        name, equals, value = piece.partition(b"=")
        if equals and name in wanted:
            found.setdefault(to_str(name), to_str(value[:VALUE_CHARS]))
    return found


class _Look(Job):
    # One process's folder, part by part. found: by name of `Sight`'s fields.
    def __init__(self, root: str, pid: int, parts: Part, names: tuple[str, ...]) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}
        self.missing: dict[Part, str] = {}
        self.now = Part.STAT
        self._path, self._parts, self._names = f"{root}/{pid}", parts, names

    def run(self) -> None:
        self.doing = f"opening {self._path}"
        try:
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as problem:
            self.missing[Part.STAT] = _reason(problem)
            return
        try:
            self._read(folder)
        finally:
            os.close(folder)

    def _read(self, folder: int) -> None:
        for part, step in (
            (Part.STAT, self._stat),
            (Part.CGROUP, self._cgroup),
            (Part.EXE, self._exe),
            (Part.NESTED, self._nested),
            (Part.CMDLINE, self._cmdline),
            (Part.ENVIRON, self._environ),
        ):
            if self.given_up or not part & self._parts:
                continue
            if self.last and part & Part.MEMORY:
                self.missing[part] = "off"
                continue
            self.now = part
            self.doing = f"reading {(part.name or '').lower()} of {self._path}"
            try:
                step(folder)
            except OSError as problem:
                self.missing[part] = _reason(problem)
                if part is Part.STAT:
                    return
        if self._parts & Part.MEMORY and not self.given_up and not self.last:
            self._compare(folder)

    def _stat(self, folder: int) -> None:
        stat = parse_stat(_content(folder, "stat", STAT_BYTES))
        if stat is None:
            raise ProcessLookupError(errno.ESRCH, "no stat")
        self.found["stat"] = stat

    def _cgroup(self, folder: int) -> None:
        self.found["cgroup"] = to_str(_content(folder, "cgroup", MAX_TEXT))

    def _exe(self, folder: int) -> None:
        self.found["exe"] = os.readlink("exe", dir_fd=folder)
        seen = os.stat("exe", dir_fd=folder)
        self.found["exe_file"] = (f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}", seen.st_ino)

    def _nested(self, folder: int) -> None:
        self.found["nested"] = parse_nested(_content(folder, "status", STATUS_BYTES))

    def _cmdline(self, folder: int) -> None:
        data = _content(folder, "cmdline", ARGV_BYTES * 4)
        if data:
            words = [to_str(word) for word in data.removesuffix(b"\0").split(b"\0")]
            self.found["argv"], cut = bounded_argv(words)
            self.found["argv_cut"] = cut or len(data) == ARGV_BYTES * 4

    def _environ(self, folder: int) -> None:
        data = _content(folder, "environ", ENVIRON_BYTES)
        found = parse_environ(data, self._names)
        if len(data) == ENVIRON_BYTES and len(found) < len(set(self._names)):
            self.missing[Part.ENVIRON] = "too long"
        self.found["environment"] = found

    def _compare(self, folder: int) -> None:
        # Memory that is another program's by now says nothing about this one.
        self.now = Part.STAT
        self.doing = f"reading stat of {self._path}"
        try:
            after = parse_stat(_content(folder, "stat", STAT_BYTES))
        except OSError:
            after = None
        before = self.found["stat"]
        if after is None or (after.ticks, after.memory) != (before.ticks, before.memory):
            for part, names in ((Part.CMDLINE, ("argv", "argv_cut")), (Part.ENVIRON, ("environment",))):
                if part & self._parts:
                    for name in names:
                        self.found.pop(name, None)
                    self.missing.setdefault(part, "gone" if after is None else "changed")


class _List(Job):
    # The numbers of all processes.
    def __init__(self, root: str) -> None:
        super().__init__()
        self.pids: list[int] = []
        self._root = root

    def run(self) -> None:
        self.doing = f"listing {self._root}"
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.name.isdecimal() and entry.name.isascii():
                    self.pids.append(int(entry.name))
                    if len(self.pids) >= MAX_PIDS:
                        return


def _content(folder: int, name: str, limit: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    try:
        data = os.read(fd, limit)
        # /proc gives one page at a time of some files.
        while 0 < len(data) < limit:
            more = os.read(fd, limit - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


def _reason(problem: OSError) -> str:
    return "gone" if problem.errno in MISSES else (problem.strerror or "error").lower()


class ProcReader:
    """Reads /proc in a worker of its own. May be used from any thread; whoever asks waits for at most the deadline.

    root: where /proc is, for tests. say: told once when a thread is abandoned, and when reading ends.
    """

    def __init__(
        self,
        say: Say,
        *,
        root: str = "/proc",
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._say, self._rest, self._clock = root.rstrip("/"), say, rest, clock
        self._worker = Worker("audisp-proc", say, rest=rest, clock=clock)
        self._memory_from = float("-inf")
        self._memory_off = False

    def read(self, pid: int, parts: Part, names: tuple[str, ...] = (), deadline: float = DEADLINE) -> Sight:
        """Look at one process, for at most `deadline` seconds. names: variables that Part.ENVIRON is about. Never
        raises: what could not be read is `missing`."""
        wanted = parts | Part.STAT
        refused: dict[Part, str] = {}
        if parts & Part.MEMORY and self._clock() < self._memory_from:
            refused = {part: "late" for part in (Part.CMDLINE, Part.ENVIRON) if part & parts}
            wanted &= ~Part.MEMORY
        look = _Look(self._root, pid, wanted, names)
        outcome = self._worker.run(look, deadline)
        if outcome is Outcome.LATE and look.now & Part.MEMORY:
            self._memory_from = self._clock() + self._rest
        if look.last and not self._memory_off:
            self._memory_off = True
            self._say("warning", "audisp-proc: environments and arguments are not read from /proc any more")
        found, missing = dict(look.found), dict(look.missing)
        missing.update(refused)
        if outcome is not Outcome.DONE or Part.STAT in missing:
            why = "off" if outcome is Outcome.OFF else missing.get(Part.STAT, "late")
            for part, name in _FIELDS:
                if part & wanted and name not in found:
                    missing.setdefault(part, why)
        if outcome is not Outcome.DONE:
            # The comparison that vouches for them was not made.
            for part, name in ((Part.CMDLINE, "argv"), (Part.ENVIRON, "environment")):
                if part & wanted:
                    found.pop(name, None)
                    missing[part] = "off" if outcome is Outcome.OFF else "late"
        return Sight(pid, missing=missing, **found)

    def pids(self, deadline: float = DEADLINE) -> list[int]:
        """The numbers of all processes, at most MAX_PIDS. Empty if /proc cannot be listed in time."""
        job = _List(self._root)
        try:
            return list(job.pids) if self._worker.run(job, deadline) is Outcome.DONE else []
        except OSError:
            return []

    def problem(self) -> str | None:
        """Why this /proc does not show the processes that the kernel's audit records name; None if it does.

        Reads a link of our own process, which cannot hang.
        """
        try:
            here = os.readlink(f"{self._root}/self/ns/pid")
        except OSError as problem:
            return f"{self._root}/self/ns/pid cannot be read: {problem.strerror}"
        if here != HOST_PID_NAMESPACE:
            return f"{self._root} is of a pid namespace of its own ({here}); the kernel's records count in the host's"
        return None

    @property
    def state(self) -> dict[str, int]:
        """Counters for the status."""
        worker = self._worker
        return {
            "proc_reads": worker.done,
            "proc_late": worker.late,
            "proc_refused": worker.refused,
            "proc_abandoned": worker.abandoned,
            "proc_off": int(worker.off),
        }

    def close(self) -> None:
        """No more reading."""
        self._worker.close()


_FIELDS: Final = (
    (Part.STAT, "stat"),
    (Part.CGROUP, "cgroup"),
    (Part.EXE, "exe"),
    (Part.NESTED, "nested"),
    (Part.CMDLINE, "argv"),
    (Part.ENVIRON, "environment"),
)
"""What each part fills."""
