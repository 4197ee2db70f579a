"""Part `latency`: how long a record takes from its system call to a plugin, at rates that leave time to breathe.

Two figures. From the entry of the audited call to a plugin's read(): both ends are outside of the dispatcher, so it is
the same for auditd and for ours; the kernel's own work is in it. From recvmmsg's return to read(): what is ours alone;
taken in runs of their own, since the stopwatch (stamped.py) is a load as well.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.daemon import AUDITD, OURS, Daemon, configure, report, sinks
from tests.bench.figures import MILLION, Run, at_most, each, measure, median, percent, spread, table
from tests.bench.kernel import RECORDS_PER_EVENT, kernel_audit
from tests.bench.process import cpu_quiet
from tests.bench.setting import Setting

RATES: Final = (100, 1_000, 5_000)
"""Events a second."""
SECONDS: Final = 5.0
PLUGINS: Final = 4
GOAL_RATE: Final = 1_000
GOAL_MS: Final = 5.0
"""p99 from recvmmsg's return to read(), worst plugin, at GOAL_RATE."""
CALL: Final = "system call to read()"
RECEIVE: Final = "recvmmsg's return to read()"

HEAD: Final = (
    "events/s",
    "dispatcher",
    "from, to",
    "p50 ms, best / worst plugin",
    "p99 ms, best / worst plugin",
    "spread of p99",
    "goal",
    "longest ms",
    "CPU s per million records",
    "records missed",
)


def _one(setting: Setting, command: Sequence[str], rate: int, stamps: str | None = None) -> Run:
    folder = setting.place.fresh("latency")
    configure(folder, sinks(setting.place.sink, folder, PLUGINS, times=stamps is not None))
    words = [*command, str(folder / stamps)] if stamps else command
    events = max(50, int(rate * SECONDS * setting.scale))
    with kernel_audit(setting.place) as kernel, Daemon(folder, words, PLUGINS) as daemon:
        before = daemon.cpu()
        kernel.finished(kernel.generate(events, rate))
        cpu_quiet([daemon.pid])
        cpu = daemon.cpu() - before
    reports = [report(folder, number) for number in range(PLUGINS)]
    if stamps:
        delays = [_since(folder / stamps, folder / f"sink{number}.times") for number in range(PLUGINS)]
    else:
        delays = [(each["p50_us"] / 1e3, each["p99_us"] / 1e3, each["max_us"] / 1e3) for each in reports]
    return {
        "p50": min(delay[0] for delay in delays),
        "p50_worst": max(delay[0] for delay in delays),
        "p99": min(delay[1] for delay in delays),
        "p99_worst": max(delay[1] for delay in delays),
        "longest": max(delay[2] for delay in delays),
        "cpu": cpu / (events * RECORDS_PER_EVENT) * MILLION,
        "missed": sum(events * RECORDS_PER_EVENT - each["event_records"] for each in reports),
    }


def _since(stamps: Path, times: Path) -> tuple[float, float, float]:
    """p50, p99 and longest, in ms, from the stamp of each event to the time it was read."""
    received = _pairs(stamps)
    delays = sorted((when - received[number]) / 1e6 for number, when in _pairs(times).items() if number in received)
    if not delays:
        raise RuntimeError(f"{stamps.name}: no event of it was read")
    return delays[len(delays) // 2], delays[int(len(delays) * 0.99)], delays[-1]


def _pairs(path: Path) -> dict[int, int]:
    words = array("Q", path.read_bytes())
    return dict(zip(words[::2], words[1::2], strict=True))


def run(setting: Setting) -> str:
    """The table of this part."""
    stamped = (sys.executable, "-m", "stamped")
    rows: list[list[float | str]] = []
    for rate in RATES:
        runs = measure(
            setting.runs,
            {
                "auditd": lambda rate=rate: _one(setting, [AUDITD], rate),  # type: ignore[misc]
                "audispd": lambda rate=rate: _one(setting, OURS, rate),  # type: ignore[misc]
                "audispd, stamped": lambda rate=rate: _one(setting, stamped, rate, "stamps"),  # type: ignore[misc]
            },
            lambda text, rate=rate: setting.note(f"latency {rate}/s: {text}"),  # type: ignore[misc]
        )
        rows += [_row(rate, side, own) for side, own in runs.items()]
    return table(f"Delay with {PLUGINS} plugins, {SECONDS * setting.scale:g} s a run, runs: {setting.runs}", HEAD, rows)


def _row(rate: int, side: str, own: list[Run]) -> list[float | str]:
    inside = "stamped" in side
    p99 = median(own, "p99_worst")
    return [
        rate,
        side.partition(",")[0],
        RECEIVE if inside else CALL,
        f"{median(own, 'p50'):.2f} / {median(own, 'p50_worst'):.2f}",
        f"{median(own, 'p99'):.2f} / {p99:.2f}",
        percent(spread(own, "p99_worst")),
        at_most(p99, GOAL_MS, f"<= {GOAL_MS:g} ms") if inside and rate == GOAL_RATE else "",
        max(run["longest"] for run in own),
        median(own, "cpu") if not inside else "",
        each(own, "missed"),
    ]
