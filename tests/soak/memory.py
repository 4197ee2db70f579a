"""Peak memory with plugins that are stopped for ever, and blocks and records of every size."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Final

import attrs

from tests.soak.records import LONGEST, SHORTEST, Records
from tests.soak.result import Result
from tests.soak.world import World, until

FIXED_KIB: Final = 60 * 1024
SHARE: Final = 1.2
"""Peak memory is at most this much plus this share of the sum of the queues' bounds (issue 2, item 6)."""
NEVER: Final = '''"""A plugin that takes one block and does not return."""
import time
from contextlib import asynccontextmanager

import attrs

from audisp.plugin import PluginType, hookimpl


@attrs.frozen
class Config:
    pass


@asynccontextmanager
async def open_never(config, host):
    def deliver(block):
        time.sleep(1e6)

    yield deliver


@hookimpl
def audisp_plugins():
    return [PluginType("never", Config, open_never)]
'''


@attrs.frozen
class Shape:
    """sizes: of records, see Records. block: records per block; 1 = each read alone, 0 = from one to 256 KiB."""

    name: str
    sizes: tuple[int, ...]
    block: int
    queue: int = 4 << 20
    children: int = 3


SHAPES: Final = (
    Shape("60 B records, one by one", (SHORTEST,), 1, queue=1 << 20),
    Shape("60 B records, blocks of 256 KiB", (SHORTEST,), 4_300),
    Shape("8,970 B records, one by one", (LONGEST,), 1),
    Shape("8,970 B records, blocks of 256 KiB", (LONGEST,), 29),
    Shape("60 to 8,970 B, blocks of all sizes", (0, 60, 200, LONGEST), 0),
    Shape("20 small queues, one by one", (SHORTEST,), 1, queue=64 << 10, children=20),
)


def run_shape(folder: Path, seed: int, shape: Shape, factor: float = 1.5) -> Result:
    """Each time that a child has been stopped, send `factor` times what a queue holds. The peak must stay within the
    bound, and the books balance."""
    result = Result(f"memory: {shape.name}", seed)
    chance = random.Random(seed)
    folder.mkdir(mode=0o700, exist_ok=True)
    with World(folder, Records(seed, shape.sizes)) as world:
        bound = f"queue_bytes = {shape.queue}"
        names = [f"stopped{number}" for number in range(shape.children)]
        for name in names:
            world.child(name, bound)
        world.child("oldest", f"{bound}\noverflow_action = drop_oldest")
        world.child("slow", bound, chunk=1, sleep_us=1_000_000)
        world.child("healthy", bound)
        never = folder / "never.py"
        never.write_text(NEVER)
        world.plugin("never", f"plugin = {never}\n{bound}\ndeliver_timeout = 1")
        world.start()
        children = [*names, "oldest", "slow", "healthy"]
        until(lambda: all(world.alive(name) for name in children), "the children")
        idle = world.peak_kib()
        # One after the other, so that no two queues hold the same blocks, which they would share.
        for name in (*names, "oldest"):
            world.signal_sinks(signal.SIGSTOP, name)
            _fill(world, chance, shape, int(shape.queue * factor))
            until(lambda: not world.feed.unread(), "the source to be read")
        time.sleep(1.5)  # a tick: what is pinned is copied down
        peak, bounds = world.peak_kib(), (len(children) + 1) * shape.queue
        limit = FIXED_KIB + SHARE * bounds / 1024
        result.check(peak <= limit, f"peak {peak} KiB is above {limit:.0f} KiB")
        status = world.status()["plugins"]
        for name, books in status.items():
            out = sum(books[key] for key in ("delivered", "filtered", "dropped", "quarantined", "waiting"))
            result.check(books["offered"] + books["carried"] == out, f"{name}: the books do not balance: {books}")
            result.check(books["queue_peak"] <= shape.queue * 1.01 + 300_000, f"{name}: queue {books['queue_peak']}")
        for name in (*names, "oldest", "never"):
            result.check(status[name]["dropped"] > 0, f"{name}: nothing was dropped, so the queue was never full")
        healthy = world.account("healthy")
        result.check(healthy.problems(world.feed.sent) == [] or bool(healthy.marks), "healthy: a silent loss")
        result.figures |= {
            "idle MiB": idle // 1024,
            "peak MiB": peak // 1024,
            "limit MiB": int(limit) // 1024,
            "queues": len(children) + 1,
            "records": world.feed.sent,
            "neighbour missed": status["healthy"]["dropped"],
        }
    return result


def _fill(world: World, chance: random.Random, shape: Shape, size: int) -> None:
    feed = world.feed
    end = feed.sent_bytes + size
    # A block that waits costs its overhead, too, so that short ones fill a queue with fewer bytes.
    if shape.block == 1 and shape.sizes == (SHORTEST,):
        end = feed.sent_bytes + size // 5 + 600 * SHORTEST  # the socket takes some 300 of them first
    while feed.sent_bytes < end:
        count = shape.block or chance.choice((1, 1, 3, 30, 300, 1000))
        feed.send(count, count)
        if count == 1:
            # Read alone, or it would become part of a longer block.
            while feed.unread():
                time.sleep(0)


def memory(folder: Path, seed: int, count: int) -> list[Result]:
    """The first `count` shapes, each in a dispatcher of its own."""
    return [run_shape(folder / f"m{number}", seed, shape) for number, shape in enumerate(SHAPES[:count])]
