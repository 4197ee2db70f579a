"""What goes into enrichment and what comes out: plain values, no record and no thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs

from audisp.config.grammar import nearest, shown
from audisp.parse.cgroup import Container, Placement
from audisp.parse.labels import LabelRules
from audisp.parse.processes import MAX_ENTRIES, UNKNOWN, Image, Process, Unknown

EXEC: Final = frozenset({"execve", "execveat"})
"""System calls that start a program in the process (execve(2))."""
FORK: Final = frozenset({"fork", "vfork", "clone", "clone3"})
"""System calls that make a process, and return its number (clone(2))."""
EXIT: Final = frozenset({"exit_group"})
"""The call that ends a process. Not `exit`: it ends one thread, and the record does not say whether it was the last."""
CLONE_PARENT: Final = 0x8000
CLONE_THREAD: Final = 0x10000
"""Flags of clone (linux/sched.h): the new process is the caller's sibling; it is no process but a thread."""

Name = Literal["container", "unit", "cgroup", "parents", "script", "environment", "labels"]
PARTS: Final[tuple[Name, ...]] = ("container", "unit", "cgroup", "parents", "script", "environment", "labels")
"""What can be switched on and off, and what can be unknown."""
ALL: Final = frozenset(PARTS)

MAX_VARIABLES: Final = 64
"""Environment variables that may be chosen; each is looked for in every environment."""


MIN_PROCESSES: Final = 256
"""Fewer would not hold the chains of one login session's services."""
MAX_PROCESSES: Final = 65_536
"""What a dump holds; 128 MiB."""
PROCESS_BYTES: Final = 2_048
"""Of memory for each process remembered."""


@attrs.frozen
class PathItem:
    """One PATH record. name: None if the kernel gave none. dev: ``MAJOR:MINOR`` in hexadecimal, as written."""

    name: str | None
    dev: str | None
    inode: int | None


@attrs.frozen
class Facts:
    """What an event says about its process, decoded. Unknown, or not said, is None.

    stamp: milliseconds since the epoch. event_id: ``SEC.MSEC:SERIAL``. exe: None where the record's `exe` is not the
    kernel's word (user-space messages). syscall: by name, None for an event without one. exit: its exit value. flags:
    of clone, where the first argument holds them (a0; on s390 a1); None if that is not known, as for clone3. paths: in
    order of `item`, wanted for exec alone, as argv and cwd are.
    """

    pid: int
    stamp: int
    event_id: str
    ppid: int | None = None
    exe: str | None = None
    comm: str | None = None
    syscall: str | None = None
    success: bool | None = None
    exit: int | None = None
    flags: int | None = None
    keys: tuple[str, ...] = ()
    argv: tuple[str, ...] | None = None
    cwd: str | None = None
    paths: tuple[PathItem, ...] = ()


@attrs.frozen
class EnrichSettings:
    """What to find out. parts: of PARTS, those that are on. environment: the variables wanted with `environment`.

    inherit: what a process that ended before we could look has of its parent's place: `container` (nobody leaves a
    container by himself, so a child of one in it is in it; all else is unknown), or `all`, which is right unless the
    child was moved between its fork and its exec, as service managers and container runtimes do. processes: how many
    are remembered, MIN_PROCESSES to MAX_PROCESSES.
    """

    parts: frozenset[Name] = ALL - {"environment"}
    environment: tuple[str, ...] = ()
    labels: LabelRules = attrs.field(factory=LabelRules)
    inherit: Literal["container", "all"] = "container"
    processes: int = MAX_ENTRIES


@attrs.frozen
class Enrichment:
    """What is known of an event's process. None: there is none, or the part is off. UNKNOWN: it could not be found out.

    process: itself, as the table has it; None if nothing is known of it. unit, user_unit, slice: systemd's. parents:
    the nearest first; parents_end: why there are no more, `root`, `unknown` or `limit`. unknown: the names of the parts
    that could not be found out, or not wholly.

    With the event of a program's start alone: script, what the interpreter was started for (later it is in `process`),
    and environment, of the chosen variables those that are set.
    """

    process: Process | None = None
    container: Container | Unknown | None = None
    unit: str | Unknown | None = None
    user_unit: str | None = None
    slice: str | None = None
    cgroup: str | Unknown | None = None
    parents: tuple[Process, ...] = ()
    parents_end: Literal["root", "unknown", "limit"] | None = None
    script: str | Unknown | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict)
    labels: tuple[str, ...] = ()
    unknown: tuple[Name, ...] = ()

    @property
    def spawned_by(self) -> Image | None:
        """What started the program in the process: see `Process.spawner`."""
        return None if self.process is None else self.process.spawner


def part_names(words: tuple[str, ...]) -> frozenset[Name]:
    """The words of the setting `enrich` as parts; `none` for none. ValueError for one that is none of them."""
    if words == ("none",):
        return frozenset()
    found: set[Name] = set()
    for word in words:
        for part in PARTS:
            if word.lower() == part:
                found.add(part)
                break
        else:
            raise ValueError(f"{shown(word)} is none of {', '.join(PARTS)}{nearest(word, PARTS)}")
    return frozenset(found)


def environment_names(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a setting as names of variables. ValueError for what can be none."""
    if len(words) > MAX_VARIABLES:
        raise ValueError(f"{len(words)} variables, {MAX_VARIABLES} at most")
    for word in words:
        if "=" in word or "\0" in word or not word:
            raise ValueError(f"{shown(word)} is no name of an environment variable: these hold no '=' and no NUL")
    return tuple(dict.fromkeys(words))


def describe(
    settings: EnrichSettings,
    process: Process | None,
    parents: tuple[Process, ...],
    end: Literal["root", "unknown", "limit"],
    *,
    start: bool = False,
    environment: Mapping[str, str] | None = None,
    whole: bool = True,
) -> Enrichment:
    """What is on, of what is known. start: the event starts a program. whole: its environment could be read."""
    on = settings.parts
    unknown: list[Name] = []
    place: Placement | None = None if process is None else process.place
    container: Container | Unknown | None = None
    unit: str | Unknown | None = None
    cgroup: str | Unknown | None = None
    if "container" in on:
        container = UNKNOWN if place is None else place.container
    if "unit" in on:
        unit = UNKNOWN if place is None else place.unit
    if "cgroup" in on:
        cgroup = UNKNOWN if place is None else place.cgroup
    if place is None:
        unknown += [name for name in ("container", "unit", "cgroup") if name in on]
    if "parents" not in on:
        parents, found_end = (), None
    else:
        found_end = end
        if end == "unknown":
            unknown.append("parents")
    script: str | Unknown | None = None
    if start and "script" in on:
        script = UNKNOWN if process is None else process.script
        if script is UNKNOWN:
            unknown.append("script")
    variables: Mapping[str, str] = {}
    if start and "environment" in on:
        variables = environment or {}
        if not whole:
            unknown.append("environment")
    if "labels" in on and process is None:
        unknown.append("labels")
    with_unit = "unit" in on and place is not None
    return Enrichment(
        process,
        container,
        unit,
        place.user_unit if with_unit and place is not None else None,
        place.slice if with_unit and place is not None else None,
        cgroup,
        parents,
        found_end,
        script,
        variables,
        process.labels if process is not None and "labels" in on else (),
        tuple(unknown),
    )
