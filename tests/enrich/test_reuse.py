"""A process number that really comes back: the kernel is asked to give the same one out again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from audisp.enrich.census import RECHECK
from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import Enrichment, EnrichSettings, Facts
from audisp.enrich.proc import ProcReader
from tests.needs import needs

pytestmark = needs("root", "ns_last_pid")

LAST_PID = "/proc/sys/kernel/ns_last_pid"
TRIES = 200
"""Others fork as well."""


class Clock:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


@pytest.fixture
def twice() -> Iterator[tuple[subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """A process, and a list that `reborn` fills."""
    first = sleeper()
    more: list[subprocess.Popen[bytes]] = []
    yield first, more
    for child in (first, *more):
        child.kill()
        child.wait()


def reborn(first: subprocess.Popen[bytes], more: list[subprocess.Popen[bytes]]) -> None:
    """End a process and start another with its number."""
    first.kill()
    first.wait()
    time.sleep(0.05)  # another tick of the kernel's clock
    for _ in range(TRIES):
        with open(LAST_PID, "w", encoding="ascii") as file:
            file.write(str(first.pid - 1))
        child = sleeper()
        if child.pid == first.pid:
            more.append(child)
            return
        child.kill()
        child.wait()
    raise AssertionError(f"the number did not come back in {TRIES} tries")


@pytest.mark.parametrize("heard", ["execve", "openat"])
def test_a_number_that_came_back_is_another_process(
    twice: tuple[subprocess.Popen[bytes], list[subprocess.Popen[bytes]]], heard: str
) -> None:
    first, more = twice
    clock = Clock()
    enricher = Enricher(EnrichSettings(), ProcReader(lambda level, message: None), clock=clock)

    def event(syscall: str, serial: int) -> Enrichment:
        stamp = int(time.time() * 1000)
        exe = os.path.realpath("/bin/sleep")
        return enricher.enrich(
            Facts(
                first.pid, stamp, f"1.001:{serial}", os.getpid(), exe, "sleep", syscall, True, 0, argv=("sleep", "60")
            )
        )

    old = event("execve", 1).process
    assert old is not None
    assert old.ticks is not None
    reborn(first, more)
    clock.ahead += RECHECK
    new = event(heard, 2).process
    assert new is not None
    assert new.ticks is not None
    assert new.ticks > old.ticks
    assert new.key != old.key
    assert new.event_id == ("1.001:2" if heard == "execve" else None)
    assert enricher.state["pids_reused"] == 1
    enricher.close()
