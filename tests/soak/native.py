"""The same kills with the kernel as the source: the dispatcher owns the audit stream, and writes audit.log."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.e2e import workload
from tests.e2e.stream import borrowed, calls_rule, locked
from tests.needs import missing
from tests.soak.kills import imbalance
from tests.soak.records import LOST, Records, ranges
from tests.soak.result import Result
from tests.soak.world import Failed, World

CALL: Final = re.compile(rb"^type=SYSCALL msg=audit\(\d+\.\d+:(\d+)\)", re.M)
NEVER: Final = re.compile(r"events never came: serials ([-0-9, ]+)")
RATE: Final = 2_000
"""Audited calls per second."""


@contextlib.contextmanager
def calling() -> Iterator[None]:
    """A process that makes audited calls until the end of the block; the stream is nobody else's."""
    with locked(), contextlib.ExitStack() as stack:
        # Asked under the lock: another run of these tests may own the stream until now.
        lacking = missing("audit", "auditd")
        if lacking:
            raise Failed(lacking)
        stack.enter_context(borrowed())
        calls_rule()
        argv = [sys.executable, workload.__file__, "calls", "100000000", str(RATE)]
        with subprocess.Popen(argv) as process:
            try:
                yield
            finally:
                process.kill()


def kill_owner(folder: Path, seed: int, count: int) -> Result:
    """SIGKILL the owner of the stream `count` times under load, in between its children: every serial is in each
    plugin's stream, or stated: as never come, by a marker, or as what a killed run may have lost."""
    result = Result("kill owner", seed)
    chance = random.Random(seed)
    restarts = "max_restarts = 1000000\n"
    with World(folder, Records(seed), logs=True, auditd=restarts, own="drain_timeout = 30\n") as world:
        world.child("spilling", "overflow_action = spill\nqueue_bytes = 1M\nspill_bytes = 512M")
        world.child("plain")
        routed: list[int] = []
        with calling():
            for turn in range(count + 1):
                world.start("netlink")
                time.sleep(chance.uniform(0.2, 0.8))
                if turn == count:
                    break
                if chance.random() < 0.5:
                    world.signal_sinks(signal.SIGSTOP, "spilling")
                    time.sleep(chance.uniform(0.1, 1.0))
                elif chance.random() < 0.5:
                    world.signal_sinks(signal.SIGKILL, "plain")
                for name, books in world.status()["plugins"].items():
                    result.check(imbalance(books) == 0, f"{name}: the books do not balance: {books}")
                world.kill()
                routed.append(_last_routed(world.runtime))
            assert world.process is not None
            world.process.terminate()
            result.check(world.wait(90) == 0, "audispd did not end well")
        said = world.said()
        never = {_range(each) for found in NEVER.findall(said) for each in found.split(",") if each.strip()}
        streams = {
            "log": (folder / "audit.log").read_bytes(),
            "spilling": b"".join(each.data.rpartition(b"\n")[0] + b"\n" for each in world.taken("spilling")),
            "plain": b"".join(each.data.rpartition(b"\n")[0] + b"\n" for each in world.taken("plain")),
        }
        for name, data in streams.items():
            serials = _serials(data)
            first, last, there = min(serials), max(serials), set(serials)
            missing = ranges(number for number in range(first, last + 1) if number not in there)
            stated = never | set(_marked(data, routed))
            for first, last in missing:
                inside = [each for each in stated if each[0] <= last and first <= each[1]]
                left = set(range(first, last + 1)).difference(*(range(low, high + 1) for low, high in inside))
                result.check(not left, f"{name}: {len(left)} of {first} to {last} are missing without a word: {inside}")
            books = world.final()["plugins"][name]
            result.check(imbalance(books) == 0 and not books["waiting"], f"{name}: the books do not balance: {books}")
            result.figures |= {
                f"{name}: events": len(set(serials)),
                f"{name}: missing, stated": sum(last - first + 1 for first, last in missing),
                f"{name}: came twice": len(serials) - len(set(serials)),
            }
        result.figures |= {"kills": count}
    return result


def _serials(data: bytes) -> list[int]:
    return [int(found) for found in CALL.findall(data)]


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.strip().removesuffix(" and more").partition("-")
    return int(first), int(last or first)


def _last_routed(runtime: Path) -> int:
    """Serial of the last record that a killed owner routed: the mark that it keeps (audisp/sources/mark.py)."""
    data = (runtime / "state" / "serial-netlink").read_bytes()
    return int.from_bytes(data[40:48], sys.byteorder)


def _marked(data: bytes, routed: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges that the markers in a stream state. One of a crash ends with what the killed run had routed last."""
    ends = iter(routed)
    for _, _, first, last, reason in LOST.findall(data):
        if reason == b"crash":
            yield int(first) if first.isdigit() else 0, next(ends, 0)
        else:
            yield int(first), int(last)
