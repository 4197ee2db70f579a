"""A made host, its enricher, and events of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import ALL, Enrichment, EnrichSettings, Facts, Name, PathItem
from audisp.enrich.proc import ProcReader
from audisp.parse.labels import LabelRules
from tests.enrich.trees import HZ, Tree

BOOT: Final = 1_700_000_000
"""Seconds since the epoch at which the made host started."""
LONG: Final = 20.0
ID: Final = "3f" * 32
DOCKER: Final = f"0::/system.slice/docker-{ID}.scope\n"


def at(ticks: int) -> int:
    """The stamp of a moment, given in clock ticks since boot."""
    return BOOT * 1000 + ticks * 1000 // HZ


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Host:
    """A made host, its enricher, and events of it."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.clock = Clock()
        self.said: list[tuple[str, str]] = []
        self.reader = ProcReader(
            lambda level, message: self.said.append((level, message)), root=self.tree.path, clock=self.clock
        )
        self.serial = 0
        self.enricher = self.make()

    def make(
        self,
        parts: frozenset[Name] = ALL,
        environment: tuple[str, ...] = ("HOME", "LD_PRELOAD"),
        labels: LabelRules | None = None,
        inherit: Literal["container", "all"] = "container",
        deadline: float = LONG,
    ) -> Enricher:
        settings = EnrichSettings(parts, environment, labels or LabelRules(), inherit)
        self.enricher = Enricher(settings, self.reader, clock=self.clock, boot=lambda: BOOT, deadline=deadline)
        return self.enricher

    def exe(self, name: str = "prog") -> str:
        return str(self.tree.program(name))

    def event(self, pid: int, ticks: int, ppid: int | None = 1, exe: str | None = "prog", **more: Any) -> Enrichment:
        """An event of a process, by the program of that name."""
        self.serial += 1
        path = None if exe is None else self.exe(exe)
        facts = Facts(pid, at(ticks), f"{at(ticks)}:{self.serial}", ppid, path, comm=exe, **more)
        return self.enricher.enrich(facts)

    def exec(self, pid: int, ticks: int, ppid: int | None = 1, exe: str = "prog", **more: Any) -> Enrichment:
        """A program was started."""
        more.setdefault("argv", (exe,))
        more.setdefault("paths", (PathItem(self.exe(exe), "fe:00", 1),))
        return self.event(pid, ticks, ppid, exe, syscall="execve", success=True, exit=0, **more)

    def call(self, pid: int, ticks: int, ppid: int | None = 1, exe: str | None = "prog", **more: Any) -> Enrichment:
        """Something else."""
        more.setdefault("syscall", "openat")
        return self.event(pid, ticks, ppid, exe, success=True, **more)

    @property
    def reads(self) -> int:
        """Questions asked of /proc so far."""
        return self.reader.state["proc_reads"]


def numbers(path: str) -> tuple[str, int]:
    """Device and inode of a file, as PATH records have them."""
    found = os.stat(path)
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino
