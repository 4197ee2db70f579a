"""The wall clock jumps back and forth under load: nothing but stamps may depend on it."""

from __future__ import annotations

import random
import re
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.soak.kills import imbalance
from tests.soak.records import Records
from tests.soak.result import Result
from tests.soak.world import World, until

SOURCE: Final = Path(__file__).parent / "c" / "clock.c"
JUMPS: Final = (-86_400 * 3_650, -3_600, -61, -1, 0, 1, 61, 3_600, 86_400, 86_400 * 3_650)
"""Seconds by which the clock is wrong: a second, an hour, a day, ten years."""


def clock_jumps(folder: Path, seed: int, count: int) -> Result:
    """`count` jumps, with a queue that spills, a child that is killed, and one restart in the middle."""
    result = Result("clock jumps", seed)
    chance = random.Random(seed)
    with World(folder, Records(seed), own="drain_timeout = 30\n", auditd="max_restarts = 1000000\n") as world:
        library, clock = folder / "clock.so", folder / "clock"
        argv = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(argv, check=True)
        clock.write_bytes(bytes(4096))
        world.env |= {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(clock)}
        world.child("steady")
        world.child("killed")
        world.child("spilling", "overflow_action = spill\nqueue_bytes = 2M\nspill_bytes = 512M")
        world.plugin("mylog", f"plugin = log\nlog_file = {folder}/audit.log\nspace_left = 2\nadmin_space_left = 1")
        world.start()
        for turn in range(count):
            if turn == count // 2:
                # Ended with the clock wrong, and what was on disk is read back with another one.
                world.feed.stop()
                until(lambda: not world.feed.unread(), "the source to be read")
                world.signal_sinks(signal.SIGSTOP, "spilling")
                world.feed.send(5_000, 500)
                until(lambda: not world.feed.unread(), "the source to be read")
                world.signal_sinks(signal.SIGCONT, "spilling")
                world.terminate()
                result.check(world.wait() == 0, "audispd did not end well in the middle")
                _set(clock, chance.choice(JUMPS))
                world.start()
            world.feed.start(10_000) if turn in (0, count // 2) else None
            _set(clock, chance.choice(JUMPS))
            time.sleep(chance.uniform(0.02, 0.3))
            match chance.randrange(4):
                case 0:
                    world.signal_sinks(signal.SIGKILL, "killed")
                case 1:
                    world.signal_sinks(signal.SIGSTOP, "spilling")
                case 2:
                    world.signal_sinks(signal.SIGCONT, "spilling")
            for name, books in world.status()["plugins"].items():
                result.check(imbalance(books) == 0, f"{name}: the books do not balance: {books}")
                result.check((books["oldest_seconds"] or 0) >= 0, f"{name}: oldest {books['oldest_seconds']} s")
                result.check((books["oldest_seconds"] or 0) < 600, f"{name}: oldest {books['oldest_seconds']} s")
        world.signal_sinks(signal.SIGCONT, "spilling")
        world.feed.stop()
        result.check(world.finish() == 0, "audispd did not end well")
        account = None
        for name in ("steady", "killed", "spilling"):
            account = world.account(name)
            result.problems += [f"{name}: {each}" for each in account.problems(world.feed.sent)]
            result.check(not account.marks, f"{name}: lost {account.marks[:3]}")
        log = (folder / "audit.log").read_bytes()
        stored = sum(line.startswith(b"type=USER ") for line in log.split(b"\n"))
        result.check(stored == world.feed.sent, f"the log has {stored} of {world.feed.sent}")
        stamps = {int(found) // 86_400 for found in re.findall(rb"type=DAEMON_\w+ msg=audit\((\d+)", log)}
        result.figures |= {"records": world.feed.sent, "jumps": count, "days in the log": len(stamps)}
    return result


def _set(clock: Path, seconds: int) -> None:
    with open(clock, "r+b") as file:
        file.write(struct.pack("=q", seconds))
