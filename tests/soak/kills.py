"""SIGKILL at seeded random moments under load: a child, the dispatcher with a spill, a reader of our socket."""

from __future__ import annotations

import random
import signal
import time
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.soak.records import Records, missing_of, ranges
from tests.soak.result import Result
from tests.soak.world import World, until


def imbalance(books: dict[str, Any]) -> int:
    """0, or the books of a plugin do not balance."""
    out = sum(books[key] for key in ("delivered", "filtered", "dropped", "quarantined", "waiting"))
    return int(books["offered"] + books["carried"] - out)


def kill_child(folder: Path, seed: int, count: int, rate: float = 30_000) -> Result:
    """SIGKILL a child `count` times. Nothing may be missing, and nothing that was read as a whole may come twice."""
    result = Result("kill child", seed)
    chance = random.Random(seed)
    with World(folder, Records(seed), auditd="max_restarts = 1000000\n") as world:
        # Every other time with a queue so small that it overflows: markers must then say what is missing.
        small = bool(seed % 2)
        binary = bool(seed % 3 == 0)
        form = f"format = {'binary' if binary else 'string'}"
        bound = "queue_bytes = 64K" if small else "queue_bytes = 2M\noverflow_action = spill" if seed % 4 == 0 else ""
        world.child("victim", f"{form}\n{bound}", chunk=chance.choice((700, 4096, 65536)))
        world.child("neighbour")
        world.start()
        world.feed.start(rate)
        for _ in range(count):
            time.sleep(chance.uniform(0.02, 0.3))
            if chance.random() < 0.3:
                # Stopped first, so that the socket is full and a part of a block was sent.
                world.signal_sinks(signal.SIGSTOP, "victim")
                time.sleep(chance.uniform(0.02, 1.0 if seed % 4 == 0 else 0.5))
            until(lambda: bool(world.alive("victim")), "the victim's successor")
            world.signal_sinks(signal.SIGKILL, "victim")
            books = world.books("victim")
            result.check(imbalance(books) == 0, f"the books do not balance: {books}")
        until(lambda: bool(world.alive("victim")), "the victim's successor")
        world.feed.stop()
        result.check(world.finish() == 0, "audispd did not end well")
        books = world.final()["plugins"]["victim"]
        for name in ("victim", "neighbour"):
            account = world.account(name, binary=binary and name == "victim")
            result.problems += [f"{name}: {each}" for each in account.problems(world.feed.sent)]
            result.check(not account.marks or (small and name == "victim"), f"{name}: markers {account.marks[:3]}")
            if name == "victim":
                stated = sum(mark.count for mark in account.marks)
                result.check(stated == books["dropped"], f"markers state {stated}, the books {books['dropped']}")
                result.figures |= {"torn, sent again": account.torn, "dropped": stated}
                got = len(account.numbers) + account.others
                result.check(books["delivered"] == got, f"delivered {books['delivered']}, read {got}")
        result.check(imbalance(books) == 0 and not books["waiting"], f"the books do not balance: {books}")
        result.figures |= {
            "records": world.feed.sent,
            "kills": count,
            "runs": len(world.taken("victim")),
            "offered again": books["redelivered"],
            "format": "binary" if binary else "string",
        }
    return result


def kill_children(folder: Path, seed: int, count: int) -> list[Result]:
    """`kill_child` with a queue that spills (binary form), with one that overflows, and with one that does neither."""
    return [kill_child(folder / f"kind{kind}", 12 * seed + kind, count) for kind in (0, 1, 2)]


def kill_dispatcher(folder: Path, seed: int, count: int, rate: float = 20_000) -> Result:
    """SIGKILL the dispatcher `count` times. With `spill` what was on disk arrives after the restart in order, and what
    is missing anywhere is stated by the next run."""
    result = Result("kill dispatcher", seed)
    chance = random.Random(seed)
    with World(folder, Records(seed), auditd="max_restarts = 1000000\n", own="drain_timeout = 30\n") as world:
        world.child("spilling", "overflow_action = spill\nqueue_bytes = 1M\nspill_bytes = 512M")
        world.child("plain")
        on_disk = 0
        ends: list[int] = []
        clean: list[int] = []
        files: dict[str, list[int]] = {"spilling": [], "plain": []}
        for turn in range(count + 1):
            world.start()
            if not turn:
                world.feed.start(rate)
            time.sleep(chance.uniform(0.05, 0.4))
            if turn == count:
                break
            if chance.random() < 0.7:
                world.signal_sinks(signal.SIGSTOP, "spilling")
                time.sleep(chance.uniform(0.1, 1.5))
                if chance.random() < 0.3:
                    world.signal_sinks(signal.SIGCONT, "spilling")
                    time.sleep(chance.uniform(0.0, 0.3))
            books = world.books("spilling")
            on_disk = max(on_disk, books["disk"])
            result.check(imbalance(books) == 0, f"the books do not balance: {books}")
            if chance.random() < 0.3:
                # Killed while it drains and closes, or ended before that.
                world.terminate()
                time.sleep(chance.uniform(0.0, 0.6))
                clean.append(turn) if world.ended() else None
            world.kill()
            ends.append(world.feed.sent + 1)
            for name, counts in files.items():
                counts.append(len(list(world.sinks.glob(f"{name}.????"))))
        world.feed.stop()
        result.check(world.finish(120) == 0, "audispd did not end well")
        # The record in the middle of which a source was stopped is neither read by that run nor by the next.
        runs = list(map(world.one, world.taken("plain")))
        torn = {
            max((0, *run.numbers)) + 1
            for number, run in enumerate(runs)
            if bisect_right(files["plain"], number) in clean
        }
        for name, counts in files.items():
            _judge_crashes(result, world, name, ends, counts, torn)
            books = world.final()["plugins"][name]
            result.check(imbalance(books) == 0 and not books["waiting"], f"{name}: the books do not balance: {books}")
        result.figures |= {"ended before the kill": len(clean)}
        result.figures |= {"records": world.feed.sent, "kills": count, "on disk at most": on_disk}
    return result


MEMORY_BYTES = (1 << 20) * 2 + (1 << 19)
"""What may be in memory alone when the dispatcher of `kill_dispatcher` is killed: the queue, what is staged, one block
being written or read, the child's socket."""


def _judge_crashes(result: Result, world: World, name: str, ends: list[int], counts: list[int], torn: set[int]) -> None:
    """Order, and every loss stated. ends: number of the last record sent before each kill, or a little more. counts:
    of the child's runs so far, at each kill; a dispatcher that was killed at once may not have started it."""
    runs = [world.one(each) for each in world.taken(name)]
    together: list[int] = []
    exact: set[tuple[int | None, int | None]] = set()
    windows = []
    for number, run in enumerate(runs):
        turn = bisect_right(counts, number)
        steps = [(a, b) for a, b in pairwise(run.numbers) if b <= a]
        result.check(not steps, f"{name}: out of order within a run: {steps[:3]}")
        result.check(not run.false, f"{name}: lines that nobody sent: {run.false[:2]}")
        together += run.numbers
        windows += [(mark.first or 0, ends[turn - 1]) for mark in run.marks if turn and mark.reason == "crash"]
        exact.update(run.exact())
    missing = ranges(missing_of(together, world.feed.sent))
    crashed = [each for each in missing if each not in exact]
    for first, last in crashed:
        stated = any(low <= first and last <= high for low, high in windows) or (first == last and first in torn)
        result.check(stated, f"{name}: {first} to {last} are missing without a word; crashes: {windows[-5:]}")
    size = sum(len(world.records.make(number)) for first, last in crashed for number in range(first, last + 1))
    result.check(size <= len(ends) * MEMORY_BYTES, f"{name}: {size} bytes missing are more than was in memory")
    seen: set[int] = set()
    twice = [number for number in together if number in seen or seen.add(number)]  # type: ignore[func-returns-value]
    size = sum(len(world.records.make(number)) for number in twice)
    result.check(size <= len(ends) * MEMORY_BYTES, f"{name}: {size} bytes came twice: more than was out at the kills")
    result.figures |= {
        f"{name}: lost in crashes": sum(last - first + 1 for first, last in crashed),
        f"{name}: dropped, marked": sum(last - first + 1 for first, last in missing if (first, last) in exact),
        f"{name}: came twice": len(twice),
    }


SOCKET_BYTES = 512 * 1024
"""More than a unix socket's default buffers hold: what a reader had been sent and had not read when it was killed."""


def kill_reader(folder: Path, seed: int, count: int, rate: float = 20_000) -> Result:
    """SIGKILL a client of our af_unix socket `count` times, beside one that lives. What neither it nor its successors
    got is counted by the plugin, but for what lay in the dead one's socket."""
    result = Result("kill reader", seed)
    chance = random.Random(seed)
    with World(folder, Records(seed)) as world:
        path = folder / "events"
        world.plugin("af_unix", f"plugin = af_unix\nargs = 0600 {path} string {chance.choice((8, 64, 512))}")
        world.start()
        until(path.exists, "the socket")
        world.reader("steady", path)
        world.feed.start(rate)
        for _ in range(count):
            reader = world.reader("victim", path)
            time.sleep(chance.uniform(0.02, 0.3))
            if chance.random() < 0.5:
                reader.send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0.02, 0.5))
            reader.kill()
            reader.wait()
            books = world.books("af_unix")
            result.check(imbalance(books) == 0, f"the books do not balance: {books}")
        last = world.reader("victim", path)
        time.sleep(0.1)
        world.feed.stop()
        sent = world.feed.sent
        until(lambda: world.books("af_unix")["delivered"] >= sent, "all records at the plugin")
        counters = world.books("af_unix")["counters"]
        result.check(world.finish() == 0, "audispd did not end well")
        last.wait(10)
        steady = world.account("steady")
        lost = sum(mark.count for mark in steady.marks)
        result.problems += [f"steady: {each}" for each in steady.problems(sent) if "markers" not in each]
        victim = world.account("victim")
        result.check(not victim.false, f"victim: lines that nobody sent: {victim.false[:2]}")
        steps = [(a, b) for a, b in pairwise(victim.numbers) if b <= a]
        result.check(not steps, f"victim: out of order or twice: {steps[:3]}")
        unstated = 0
        for run in map(world.one, world.taken("victim")):
            stated = run.exact()
            inside = (
                ranges(n for n in missing_of(run.numbers, run.numbers[-1]) if n > run.numbers[0]) if run.numbers else []
            )
            unstated += sum(last - first + 1 for first, last in inside if (first, last) not in stated)
        result.check(not unstated, f"victim: {unstated} records missing inside a connection without a marker")
        result.figures |= {
            "records": sent,
            "kills": count,
            "victims read": len(victim.numbers),
            "steady: marked": lost,
        } | {key: counters.get(key, 0) for key in ("client_lost", "client_left_behind", "no_client")}
    return result
