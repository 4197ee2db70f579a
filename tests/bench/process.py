"""What a process uses, read from /proc: CPU to the nanosecond, peak memory, children."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

QUIET: Final = 0.3
"""Seconds without change after which something is taken to be at rest."""
POLL: Final = 0.02


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads, user and system (schedstat: what the scheduler gave them). 0 if it is gone."""
    total = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def process_seconds(pid: int) -> float:
    """CPU time of a process, with that of its threads that have ended: where threads come and go, `cpu_seconds` misses
    some. ProcessLookupError or OSError if it is gone."""
    # The kernel's encoding of a process's CPU clock, as clock_getcpuclockid(3) makes it.
    return time.clock_gettime((~pid << 3) | 2)


def memory_mib(pid: int, what: str = "VmHWM") -> float:
    """VmHWM (peak) or VmRSS (now) of a process, in MiB. 0 if it is gone."""
    with suppress(OSError):
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        if found:
            return int(found[1]) / 1024
    return 0.0


def share_mib(pid: int) -> float:
    """PSS: resident memory, of which what is shared counts by its share; in MiB. 0 if it is gone."""
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        if found:
            return int(found[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    """Its direct children, whichever of its threads started them."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += [int(word) for word in (task / "children").read_text().split()]
    return sorted(found)


def argument(pid: int, number: int) -> str:
    """One word of its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[number].decode()


def wait_for(what: str, ready: Callable[[], bool], limit: float) -> None:
    """Wait until `ready()`. TimeoutError, naming `what`, after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit:g} s")
        time.sleep(POLL)


def wait_quiet(read: Callable[[], float], quiet: float = QUIET, limit: float = 120.0) -> None:
    """Wait until what `read` gives has not changed for `quiet` seconds, or `limit` has passed."""
    deadline = time.monotonic() + limit
    last, since = read(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(POLL)
        now = read()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= quiet:
            return


def cpu_quiet(pids: list[int], quiet: float = QUIET, limit: float = 120.0) -> None:
    """Wait until these processes use next to no CPU."""
    wait_quiet(lambda: round(sum(map(cpu_seconds, pids)), 2), quiet, limit)
