"""One of three children stops reading: what its neighbours, the source and, later, it itself notice."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

from tests.soak.records import Records
from tests.soak.result import Result
from tests.soak.world import World, until

EVENT: int = 3
"""Records per event, as a system call has them."""


def _run(folder: Path, seed: int, rate: float, seconds: float, *, stop: bool) -> tuple[World, dict[str, float]]:
    """One run; returns the world, over, and its figures in seconds."""
    folder.mkdir(mode=0o700, exist_ok=True)
    figures: dict[str, float] = {}
    with World(folder, Records(seed)) as world:
        for name in ("first", "second", "third"):
            world.child(name, "queue_bytes = 256K" if name == "second" else "")
        world.start()
        names = ("first", "third")
        until(lambda: all(world.alive(name) for name in (*names, "second")), "the children")
        longest = 0.0
        halt = threading.Event()

        def feed() -> None:
            nonlocal longest
            began, sent = time.monotonic(), 0
            while not halt.is_set():
                if sent < (time.monotonic() - began) * rate:
                    before = time.monotonic()
                    world.feed.send(EVENT, EVENT)
                    longest = max(longest, time.monotonic() - before)
                    sent += 1
                else:
                    time.sleep(0.0005)

        source = threading.Thread(target=feed, daemon=True)
        source.start()
        time.sleep(0.5)
        for name in names:
            world.signal_sinks(signal.SIGUSR1, name)
        if stop:
            world.signal_sinks(signal.SIGSTOP, "second")
        time.sleep(seconds)
        if stop:
            figures["waited in the stopped one's queue"] = world.books("second")["waiting"]
            figures["gap"] = max(world.taken(name)[0].gap for name in names)
            world.signal_sinks(signal.SIGCONT, "second")
            time.sleep(0.5)
        else:
            figures["gap"] = max(world.taken(name)[0].gap for name in names)
        halt.set()
        source.join()
        figures["send"] = longest
        figures["exit"] = world.finish()
    return world, figures


def stall(folder: Path, seed: int, count: int, rate: float = 1_000) -> Result:
    """`count` seconds with nobody stopped, then as many with one stopped. Times are figures, never problems."""
    result = Result("stall", seed)
    calm, quiet = _run(folder / "calm", seed, rate, count, stop=False)
    world, figures = _run(folder / "stopped", seed, rate, count, stop=True)
    for each, name in ((calm, "first"), (calm, "second"), (calm, "third"), (world, "first"), (world, "third")):
        account = each.account(name)
        result.problems += [f"{name}: {problem}" for problem in account.problems(each.feed.sent)]
        result.check(not account.marks, f"{name}: lost {account.marks[:3]}")
    second = world.account("second")
    books = world.final()["plugins"]["second"]
    dropped = sum(mark.count for mark in second.marks)
    result.problems += [f"second: {problem}" for problem in second.problems(world.feed.sent)]
    result.check(dropped == books["dropped"], f"second: markers state {dropped}, the books {books['dropped']}")
    result.check(dropped > 0, "second: its queue never overflowed")
    got = len(second.numbers) + second.others
    result.check(got == books["delivered"], f"second: delivered {books['delivered']}, read {got}")
    result.check(quiet["exit"] == figures["exit"] == 0, "audispd did not end well")
    result.figures |= {
        "records": calm.feed.sent + world.feed.sent,
        "longest pause of a neighbour, ms, nobody stopped": round(quiet["gap"] * 1000, 1),
        "one stopped": round(figures["gap"] * 1000, 1),
        "longest send of the source, ms, nobody stopped": round(quiet["send"] * 1000, 1),
        "then": round(figures["send"] * 1000, 1),
        "second: dropped, marked": dropped,
        "second: markers": len(second.marks),
        "second: had from its queue": int(figures["waited in the stopped one's queue"]),
    }
    return result
