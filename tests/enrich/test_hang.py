"""A real process of which no memory can be read: the reader, and an event, go on without."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import ALL, EnrichSettings, Facts
from audisp.enrich.proc import Part, ProcReader
from tests.enrich.fuse import hanging_process
from tests.needs import needs

pytestmark = needs("root", "fuse")

LONG = 20.0
"""Seconds: a deadline that is never reached when nothing hangs."""
ENOUGH = 0.5
"""Seconds: for all that does not hang, on a busy machine."""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with hanging_process(tmp_path) as child:
        until = time.monotonic() + LONG
        while not _hangs(child.pid):
            assert time.monotonic() < until, "the process does not hang"
        yield child


def _hangs(pid: int) -> bool:
    # In a thread that is left behind if it does: what we want to know would hang us.
    def read() -> None:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                file.read()
        except OSError:
            return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(0.2)
    return thread.is_alive()


@pytest.mark.parametrize(("part", "field"), [(Part.ENVIRON, "environment"), (Part.CMDLINE, "argv")])
def test_its_memory_is_unknown_and_the_rest_is_read(hanging: subprocess.Popen[bytes], part: Part, field: str) -> None:
    said: list[tuple[str, str]] = []
    reader = ProcReader(lambda level, message: said.append((level, message)), rest=0.05)
    sight = reader.read(hanging.pid, Part.CGROUP | Part.EXE | Part.NESTED | part, ("HOME",), ENOUGH)
    assert sight.missing == {part: "late"}
    assert getattr(sight, field) is None
    assert None not in (sight.stat, sight.cgroup, sight.exe, sight.exe_file, sight.nested)
    # The thread hangs for good: it is abandoned, and the next does what it can.
    time.sleep(0.1)
    assert reader.read(hanging.pid, Part.CGROUP, (), LONG).missing == {}
    assert reader.state["proc_abandoned"] == 1
    assert f"of /proc/{hanging.pid} has been hanging" in said[0][1]
    reader.close()


def test_an_event_of_it_goes_on_marked_unknown(hanging: subprocess.Popen[bytes]) -> None:
    reader = ProcReader(lambda level, message: None)
    enricher = Enricher(EnrichSettings(parts=ALL, environment=("HOME",)), reader, deadline=ENOUGH)
    pid = hanging.pid
    facts = Facts(
        pid,
        int(time.time() * 1000),
        "1.001:1",
        ppid=os.getpid(),
        exe=os.readlink(f"/proc/{pid}/exe"),
        comm="python3",
        syscall="execve",
        success=True,
        exit=0,
    )
    found = enricher.enrich(facts)
    assert "environment" in found.unknown
    assert not {"container", "unit", "cgroup"} & set(found.unknown)
    assert found.cgroup
    assert found.parents[0].pid == os.getpid()
    enricher.close()
