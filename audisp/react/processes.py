"""Processes by pid and start time: who they are, and whether they run in a container. All from /proc, bounded.

A pid alone is nobody: it is given again. With the start time it is one process, and a pidfd keeps it so between the
look and the signal: if the signal went out, what was read from /proc meanwhile was of that process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import attrs

from audisp.parse.cgroup import of_path

MAX_FILE: Final = 64 * 1024
"""Bytes read of a file in /proc: stat and status have some hundred, cgroup of version 1 some thousand."""
PF_KTHREAD: Final = 0x00200000
"""linux/sched.h, in field 9 of stat."""
MAX_ANCESTORS: Final = 64
"""Steps up from a process. A longer chain is somebody's play, and ends unfound."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Found:
    """A process as /proc shows it. start: clock ticks since boot. exe: empty if it cannot be read (a kernel thread)."""

    pid: int
    start: int
    state: str
    parent: int
    kernel: bool
    uids: tuple[int, int, int, int]
    exe: str


def find(pid: int, proc: Path = Path("/proc")) -> Found | None:
    """The process of this pid now; None if there is none, or it ended while it was looked at."""
    try:
        state, parent, flags, start = read_stat(_read(proc / str(pid) / "stat"))
        uids = _uids(_read(proc / str(pid) / "status"))
    except (OSError, ValueError):
        return None
    try:
        exe = os.readlink(proc / str(pid) / "exe")
    except OSError:
        exe = ""
    return Found(pid, start, state, parent, bool(flags & PF_KTHREAD), uids, exe.removesuffix(" (deleted)"))


def read_stat(text: bytes) -> tuple[str, int, int, int]:
    """State, parent, flags and start time of /proc/PID/stat. ValueError if it is none.

    The name in the second field may hold spaces and parentheses; the fields behind it begin after the last one.
    """
    fields = text[text.rindex(b")") + 1 :].split()
    if len(fields) < 20:
        raise ValueError("too few fields for a stat")
    return fields[0].decode("ascii"), int(fields[1]), int(fields[6]), int(fields[19])


def ancestors(pid: int, proc: Path = Path("/proc")) -> frozenset[int]:
    """The pids above this one, itself included."""
    found: set[int] = set()
    while pid > 0 and pid not in found and len(found) < MAX_ANCESTORS:
        found.add(pid)
        each = find(pid, proc)
        pid = each.parent if each else 0
    return frozenset(found)


def outside_of_containers(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process surely runs on the host itself: in our pid and user namespace, below our root, and in no cgroup
    of a container. False if it is gone or cannot be read.

    Ours are the host's: who receives the kernel's records must be in its first namespaces (kernel/audit.c,
    audit_netlink_ok). Not init's: /proc/1/ns is closed to root where a security module says so.
    """
    its, ours = proc / str(pid), proc / "self"
    try:
        for name in ("pid", "user"):
            if os.readlink(its / "ns" / name) != os.readlink(ours / "ns" / name):
                return False
        root, our_root = os.stat(its / "root"), os.stat(ours / "root")
        if (root.st_dev, root.st_ino) != (our_root.st_dev, our_root.st_ino):
            return False
        return all(
            of_path(line.split(":", 2)[2]).container is None
            for line in _read(its / "cgroup").decode("utf-8", "surrogateescape").splitlines()
            if line.count(":") >= 2
        )
    except OSError:
        return False


def _uids(status: bytes) -> tuple[int, int, int, int]:
    """Real, effective, saved and file system uid. ValueError."""
    for line in status.split(b"\n"):
        if line.startswith(b"Uid:"):
            real, effective, saved, fs = (int(word) for word in line.split()[1:5])
            return real, effective, saved, fs
    raise ValueError("no line Uid")


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, MAX_FILE)
    finally:
        os.close(fd)
