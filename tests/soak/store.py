"""kill -9 of a process that stores, again and again: all that it acknowledged is there once, in order, verbatim."""

from __future__ import annotations

from pathlib import Path

from tests.collector.killing import kill_again
from tests.soak.result import Result


def kill_store(folder: Path, seed: int, count: int) -> Result:
    """`count` kills of the collector's store, with retention under way."""
    result = Result("kill store", seed)
    seen = kill_again(folder / "store", seed, count, 1.5)
    result.problems += seen.problems
    result.check(seen.dropped > 0, "retention had nothing to do")
    result.figures |= {
        "kills": seen.kills,
        "records read, each once": seen.records,
        "acknowledged": sum(seen.acked.values()),
        "removed by retention": seen.dropped,
    }
    return result
