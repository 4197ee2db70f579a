"""What the reactor's tests have in common: requests, a clock that they set, and a reactor with its results."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.config.reactions import ReactionsConf
from audisp.react.books import Now
from audisp.react.clock import boot_id
from audisp.react.judge import Judge
from audisp.react.means import Means
from audisp.react.processes import find
from audisp.react.reactor import Reactor
from audisp.react.request import Kind, Level, Origin, Process, Request, Result, Target

SLEEP: Final = "/bin/sleep"
ALL: Final = ("high", "critical")


class HandClock:
    """Real to begin with; tests move it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.wall_ahead = 0.0
        self.boot_id = boot_id()

    def __call__(self) -> Now:
        return Now(
            wall=time.time() + self.ahead + self.wall_ahead,
            boot=time.clock_gettime(time.CLOCK_BOOTTIME) + self.ahead,
            boot_id=self.boot_id,
        )


def request(kind: Kind, target: Target = None, **given: Any) -> Request:
    """A request that nothing speaks against, but for what is given."""
    now = int(time.time() * 1000)
    parts: dict[str, Any] = {
        "number": 1,
        "kind": kind,
        "target": target,
        "deadline": now + 30_000,
        "event_id": "1700000000.123:4567",
        "event_time": now,
        "origin": Origin.LIVE,
        "level": Level.HIGH,
        "rule": "reverse shell",
        "why": "a test",
        "event": json.dumps({"comm": "sh"}).encode(),
    }
    return Request(**(parts | given))


def conf(**given: Any) -> ReactionsConf:
    """Everything is allowed, for real, but for what is given."""
    parts: dict[str, Any] = {"dry_run": False, "kill_process": ALL, "freeze_process": ALL, "act_on_root": True}
    parts |= {"end_session": ALL, "lock_account": ALL, "block_address": ALL}
    return ReactionsConf(**(parts | given))


@attrs.define
class Played:
    """A reactor, what it told, and what it said."""

    reactor: Reactor
    clock: HandClock
    told: list[Result] = attrs.field(factory=list)
    said: list[str] = attrs.field(factory=list)


@contextmanager
def playing(
    settings: ReactionsConf,
    state: Path,
    means: Mapping[Kind, Means],
    *,
    collector: bool = False,
    clock: HandClock | None = None,
    proc: Path = Path("/proc"),
    outside: bool | None = None,
) -> Iterator[Played]:
    """A reactor on this journal, open for as long as the block."""
    state.parent.mkdir(exist_ok=True)
    told: list[Result] = []
    said: list[str] = []
    clock = clock or HandClock()

    async def tell(result: Result) -> None:
        told.append(result)

    judge = Judge(settings, collector=collector, proc=proc)
    if outside is not None:
        judge = Judge(settings, collector=collector, proc=proc, outside=lambda pid, proc: outside)
    reactor = Reactor(
        settings, state, means, judge, clock=clock, tell=tell, say=lambda level, text: said.append(f"{level}: {text}")
    )
    reactor.open()
    try:
        yield Played(reactor, clock, told, said)
    finally:
        reactor.close()


@contextmanager
def victim(*, user: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], Process]]:
    """A process that may be killed, in a session of its own."""
    process = subprocess.Popen([SLEEP, "60"], user=user, start_new_session=True)
    try:
        found = find(process.pid)
        assert found is not None
        yield process, Process(found.pid, found.start)
    finally:
        process.kill()
        process.wait()


def state_of(pid: int) -> str:
    """The letter in /proc/PID/stat; empty if it is gone."""
    found = find(pid)
    return found.state if found else ""


def becomes(pid: int, states: str) -> bool:
    """Whether the process gets into one of these states soon: a signal that was sent may not have arrived yet."""
    until = time.monotonic() + 10
    while state_of(pid) not in tuple(states):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def entries(folder: Path) -> list[dict[str, Any]]:
    """The journal's entries."""
    from audisp.react.journal import look

    return list(look(folder))
