"""Coverage-guided fuzzing of one target, or of all.

python -m tests.fuzz.run [TARGET ...] [--seconds N | --runs N] [--seed S]

Each target runs in a process of its own, two at a time. libFuzzer (through atheris) watches time per input and memory;
what it finds is written to tests/fuzz/found/TARGET-HASH, to be committed, and is replayed by tests/fuzz/test_found.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOUND: Final = Path(__file__).parent / "found"
INPUT_SECONDS: Final = 10
"""An input that takes longer is a finding: the longest honest one takes some milliseconds."""
MEMORY_MB: Final = 1_024
"""So is one that takes this much."""
INPUT_BYTES: Final = 4_096
GRACE: Final = 120
"""Seconds beyond the given ones until a run is ended: the interpreter's start, and the last input."""


def one(name: str, arguments: Sequence[str]) -> None:
    """Fuzz in this process; does not return."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["audisp"]):
        from tests.fuzz.targets import TARGETS, seeds

    with tempfile.TemporaryDirectory(prefix="audisp-fuzz-") as corpus:
        for number, data in enumerate(seeds()):
            (Path(corpus) / f"seed-{number}").write_bytes(data)
        atheris.Setup([sys.argv[0], *arguments, corpus], TARGETS[name])
        atheris.Fuzz()


def _start(name: str, given: argparse.Namespace) -> subprocess.Popen[str]:
    limit = [f"-runs={given.runs}"] if given.runs else [f"-max_total_time={given.seconds}"]
    words = [
        *(sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--"),
        *limit,
        f"-seed={given.seed}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={INPUT_BYTES}",
        f"-artifact_prefix={FOUND}/{name}-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


def report(name: str, output: str, code: int) -> bool:
    """Print a line, or what was found. Whether it is as required."""
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    peak = re.search(r"stat::peak_rss_mb:\s+(\d+)", output)
    if code == 0 and runs is not None:
        print(f"{name:<18} {int(runs[1]):>10,} inputs, peak {peak[1] if peak else '?'} MiB", flush=True)
        return True
    print(f"{name:<18} FAILED (exit {code})\n{output[-6_000:]}", flush=True)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if anything was found."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--inside"]:
        one(words[1], words[3:])
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side-by-side", type=int, default=2)
    given = parser.parse_args(words)
    unknown = [name for name in given.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    waiting = list(given.targets or TARGETS)
    running: dict[str, subprocess.Popen[str]] = {}
    fine = True
    while waiting or running:
        while waiting and len(running) < given.side_by_side:
            name = waiting.pop(0)
            running[name] = _start(name, given)
        name, process = next(iter(running.items()))
        limit = None if given.runs else given.seconds + GRACE
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        del running[name]
        fine &= report(name, output, process.returncode)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
