"""`make soak`: kill, stop, fill, flood, and see that the books balance each time.

python -m tests.soak.run [PART ...] [--seed N] [--count N]     exit status 1 if anything was not as required
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.needs import missing
from tests.soak import (
    attacks,
    clocks,
    day,
    forward,
    fuzz,
    handshakes,
    hids,
    hostile,
    interop,
    kills,
    memory,
    native,
    reactions,
    stall,
    steady,
    store,
    storms,
)
from tests.soak.result import Result
from tests.soak.world import scratch

Part = Callable[[Path, int, int], "Result | list[Result]"]

PARTS: Final[dict[str, tuple[Part, int, str]]] = {
    "kill-child": (kills.kill_children, 50, "kills"),
    "kill-dispatcher": (kills.kill_dispatcher, 50, "kills"),
    "kill-reader": (kills.kill_reader, 50, "kills"),
    "kill-owner": (native.kill_owner, 50, "kills, fed by the kernel"),
    "memory": (memory.memory, len(memory.SHAPES), "shapes of blocks and records"),
    "stall": (stall.stall, 10, "seconds"),
    "full-disk": (storms.full_disk, 10, "times full"),
    "reload-storm": (storms.reload_storm, 200, "reloads"),
    "bad-programs": (storms.bad_programs, 10, "seconds"),
    "many-plugins": (storms.many_plugins, 200, "plugins"),
    "clock-jumps": (clocks.clock_jumps, 60, "jumps"),
    "fuzz": (fuzz.fuzz, 1_000_000, "inputs per target"),
    "forward": (forward.forward, 100, "kills of dispatcher or collector twice over, 10,000 records each"),
    "interop": (interop.interop, 100_000, "records each way, with Debian's auditd and audisp-remote"),
    "kill-store": (store.kill_store, 100, "kills of the collector's store"),
    "handshakes": (handshakes.handshakes, 10_000, "handshakes, good and bad"),
    "steady": (steady.steady, 2_000_000, "records, and 86,400 heartbeats of each kind"),
    "hostile": (hostile.hostile, 100, "attacks of most kinds, in each of eight rounds"),
    "day": (day.day, 24, "simulated hours of assembly"),
    "attacks": (attacks.attacks, 20, "of each of five attacks that the starter rules must see"),
    "reactions": (reactions.reactions, 20, "of each of five attacks, told of and acted on"),
    "hids": (hids.hids, 10_000_000, "events through rules and scores, hostile in every key"),
    "curious": (storms.curious, 15, "clients"),
}
"""By name: what runs, how often, and what is counted."""


def _run(name: str, seed: int, count: int | None) -> list[Result]:
    part, usual, _ = PARTS[name]
    with scratch() as folder:
        try:
            found = part(folder, seed, count or usual)
        except Exception as error:  # noqa: BLE001 - whatever it was, this part has failed and the others still run
            traceback.print_exc()
            return [Result(name, seed, problems=[f"{type(error).__name__}: {error}"])]
    return found if isinstance(found, list) else [found]


def main(argv: list[str] | None = None) -> int:
    """Run the parts, one after the other, and print a table of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.run", description="Chaos under load.")
    counts = ", ".join(f"{name} ({usual} {what})" for name, (_, usual, what) in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all unless given: {counts}")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats a run as far as chance goes")
    parser.add_argument("--count", type=int, help="instead of each part's own")
    given = parser.parse_args(argv)
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    lacking = missing("root", "gcc")
    if lacking:
        parser.error(lacking)
    print(f"seed {given.seed}", flush=True)
    failed = 0
    for name in given.parts or PARTS:
        began = time.monotonic()
        for result in _run(name, given.seed, given.count):
            failed += bool(result.problems)
            state = "FAILED" if result.problems else "as required"
            print(f"\n{result.part}: {state} ({time.monotonic() - began:.0f} s)")
            for what, figure in result.figures.items():
                print(f"  {what:<50} {figure:>12}")
            for problem in result.problems[:20]:
                print(f"  ! {problem}")
            if len(result.problems) > 20:
                print(f"  ! and {len(result.problems) - 20} more")
            sys.stdout.flush()
    print(f"\nseed {given.seed}: {failed or 'no'} part{'s' if failed != 1 else ''} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
