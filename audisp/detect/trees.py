"""Process trees: which processes belong together, by the first one below who starts things for others.

A tree begins with a process whose parent is the first process, or a program that starts sessions and services
(`SPAWNERS`): a web server with all that it starts is one tree, and so is what follows a login. Parents come from the
host's process table where an event has one (`Event.context`), else from the starts of programs in the stream itself.
What was once seen in a tree stays in it, however deep it goes on: a chain of parents has an end, and who makes it
longer does not begin anew.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from audisp.detect.firstseen import Host
from audisp.parse.processes import Process

MAX_PROCESSES: Final = 8_192
"""As many as the process table has, at some 350 bytes."""
MAX_AGE: Final = 24 * 3600 * 1000
"""Milliseconds for which a number is believed to be the same process's, where nothing but starts tells of it."""
MAX_PATH: Final = 256
"""Bytes of a program's file that are remembered: longer than any spawner's."""
SPAWNERS: Final = frozenset(
    {b"systemd", b"init", b"sshd", b"sshd-session", b"sshd-auth", b"login", b"agetty", b"cron", b"crond", b"atd"}
    | {b"containerd-shim", b"containerd-shim-runc-v2", b"dockerd", b"containerd", b"runc", b"crun", b"conmon"}
    | {b"gdm-session-worker", b"sddm", b"lightdm", b"dropbear", b"xinetd"}
)
FOLDERS: Final = (b"/usr/", b"/sbin/", b"/bin/", b"/lib/")
"""Where these are. A copy elsewhere begins no tree."""
FIRST: Final = 1
"""The first process's number."""


Tree = tuple[int, int]
"""The number of its first process, and when that began."""
_Member = tuple[int | None, int, Tree, bytes]
"""A process: its parent's number, its start or the first thing heard of it, its tree, its program."""


def is_spawner(exe: bytes) -> bool:
    """Whether a program starts sessions and services."""
    return exe.startswith(FOLDERS) and exe.rpartition(b"/")[2] in SPAWNERS


class Trees:
    """Not thread-safe. Times are milliseconds since the epoch."""

    def __init__(self, max_processes: int = MAX_PROCESSES) -> None:
        self.evicted = 0
        """Processes that had to go for others."""
        self._max = max_processes
        self._members: OrderedDict[tuple[Host, int], _Member] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def start(self, host: Host, pid: int, ppid: int, stamp: int, exe: bytes, context: Any) -> bytes | None:
        """A program was started; its parent's program, if that is known. context: `Event.context`."""
        if context is not None and context.process is not None:
            self._chained(host, context.process, context.parents)
            parent = context.parents[0].exe if context.parents else None
            return None if parent is None else parent.encode("utf-8", "surrogateescape")
        above = self._find(host, ppid, stamp)
        before = self._find(host, pid, stamp)
        if before is not None and before[0] == ppid:
            tree = before[2]  # another program in the same process
        elif above is None or ppid <= FIRST or is_spawner(above[3]):
            tree = (pid, stamp)
        else:
            tree = above[2]
        self._put((host, pid), (ppid, stamp, tree, exe[:MAX_PATH]))
        return None if above is None else above[3]

    def of(self, host: Host, pid: int | None, ppid: int | None, stamp: int, context: Any) -> Tree | None:
        """The tree that a process belongs to; None if nothing was heard of it, nor of its parent."""
        if context is not None and context.process is not None:
            return self._chained(host, context.process, context.parents)
        for number in (pid, ppid):
            found = None if number is None or number <= FIRST else self._find(host, number, stamp)
            if found is not None:
                return found[2]
        return None

    def _find(self, host: Host, pid: int, stamp: int) -> _Member | None:
        found = self._members.get((host, pid))
        return found if found is not None and 0 <= stamp - found[1] <= MAX_AGE else None

    def _chained(self, host: Host, process: Process, parents: tuple[Process, ...]) -> Tree:
        known = self._members.get((host, process.pid))
        if known is not None and known[1] == process.born:
            self._members.move_to_end((host, process.pid))
            return known[2]
        top = process
        tree: Tree | None = None
        for parent in parents:
            exe = b"" if parent.exe is None else parent.exe.encode("utf-8", "surrogateescape")
            if parent.pid <= FIRST or is_spawner(exe):
                break
            above = self._members.get((host, parent.pid))
            if above is not None and above[1] == parent.born:
                tree = above[2]
                break
            top = parent
        if tree is None:
            tree = (top.pid, top.born)
        # A spawner's own process is in a tree of its own, not in that of what it starts.
        self._put((host, process.pid), (process.ppid, process.born, tree, b""))
        return tree

    def _put(self, key: tuple[Host, int], member: _Member) -> None:
        self._members[key] = member
        self._members.move_to_end(key)
        if len(self._members) > self._max:
            self._members.popitem(last=False)
            self.evicted += 1
