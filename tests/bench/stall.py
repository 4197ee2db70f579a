"""Part `stall`: one plugin of three stops reading for ten seconds. Who else notices?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Final

from tests.bench.daemon import AUDITD, OURS, Q_DEPTH, Daemon, configure, report, sinks
from tests.bench.figures import Run, at_most, each, measure, median, table, worst
from tests.bench.kernel import RECORDS_PER_EVENT, kernel_audit
from tests.bench.process import argument, children, cpu_quiet
from tests.bench.setting import Setting

RATE: Final = 1_000
"""Events a second."""
BEFORE: Final = 4.0
STOPPED: Final = 10.0
AFTER: Final = 4.0
"""Seconds: everybody reads, one is stopped, everybody reads again."""
PLUGINS: Final = 3
VICTIM: Final = 1
"""Neither the first nor the last in auditd's order of sending."""
SMALL_DEPTH: Final = 100
"""A q_depth that ten seconds overflow: 897,000 bytes."""
PAUSE_MS: Final = 100.0
PAUSE_FACTOR: Final = 1.5
"""A neighbour's longest pause is at most PAUSE_MS, or this many times that of a run with nobody stopped."""
CALL_MS: Final = 200.0
"""The longest that the audited process may be held."""
FREE: Final = "audispd, nobody stopped"

HEAD: Final = (
    "run",
    "neighbours' longest pause between reads, ms",
    "goal",
    "longest audited call, ms",
    "goal ",
    "log lines/s meanwhile",
    "records missed by neighbours",
    "events missing in the log",
    "records missed by the stopped one",
    "stated to it as lost",
    "kernel lost",
)


def _one(setting: Setting, command: Sequence[str], *, stop: bool, q_depth: int) -> Run:
    folder = setting.place.fresh("stall")
    configure(folder, sinks(setting.place.sink, folder, PLUGINS), q_depth=q_depth, keys={"write_logs": "yes"})
    before, stopped, after = (seconds * setting.scale for seconds in (BEFORE, STOPPED, AFTER))
    events = int(RATE * (before + stopped + after))
    with kernel_audit(setting.place) as kernel, Daemon(folder, command, PLUGINS) as daemon:
        victim = next(kid for kid in children(daemon.pid) if f"sink{VICTIM}.json" in argument(kid, 1))
        generator = kernel.generate(events, RATE)
        time.sleep(before)
        lines = daemon.log.read_bytes().count(b"\n")
        try:
            if stop:
                os.kill(victim, signal.SIGSTOP)
            time.sleep(stopped)
            lines = daemon.log.read_bytes().count(b"\n") - lines
        finally:
            os.kill(victim, signal.SIGCONT)
        made = kernel.finished(generator)
        cpu_quiet([daemon.pid])
        lost = kernel.lost
    reports = [report(folder, number) for number in range(PLUGINS)]
    missed = [events * RECORDS_PER_EVENT - each["event_records"] for each in reports]
    others = [number for number in range(PLUGINS) if number != VICTIM]
    return {
        "pause": max(reports[number]["pause_ms"] for number in others),
        "call": made["worst_call_ms"],
        "lines": lines / stopped,
        "missed": max(missed[number] for number in others),
        "log": events - daemon.log.read_bytes().count(b" a2=61756469 "),
        "victim": missed[VICTIM],
        "stated": reports[VICTIM]["lost_marked"],
        "lost": lost,
    }


def run(setting: Setting) -> str:
    """The table of this part."""
    runs = measure(
        setting.runs,
        {
            "auditd, one stopped": lambda: _one(setting, [AUDITD], stop=True, q_depth=Q_DEPTH),
            FREE: lambda: _one(setting, OURS, stop=False, q_depth=Q_DEPTH),
            f"audispd, one stopped, q_depth {Q_DEPTH}": lambda: _one(setting, OURS, stop=True, q_depth=Q_DEPTH),
            f"audispd, one stopped, q_depth {SMALL_DEPTH}": lambda: _one(setting, OURS, stop=True, q_depth=SMALL_DEPTH),
        },
        lambda text: setting.note(f"stall: {text}"),
    )
    pause = max(PAUSE_MS, PAUSE_FACTOR * median(runs[FREE], "pause"))
    rows = [_row(side, own, pause, ours="audispd, one" in side) for side, own in runs.items()]
    title = (
        f"One of {PLUGINS} plugins stopped for {STOPPED * setting.scale:g} s at {RATE} events/s, runs: {setting.runs}"
    )
    return table(title, HEAD, rows)


def _row(side: str, own: list[Run], pause: float, *, ours: bool) -> list[float | str]:
    return [
        side,
        f"{median(own, 'pause'):.1f} (worst {worst(own, 'pause'):.1f})",
        at_most(median(own, "pause"), pause, f"<= {pause:.0f}") if ours else "",
        f"{median(own, 'call'):.1f} (worst {worst(own, 'call'):.1f})",
        at_most(worst(own, "call"), CALL_MS, f"<= {CALL_MS:g}") if ours else "",
        round(median(own, "lines")),
        each(own, "missed"),
        each(own, "log"),
        each(own, "victim"),
        each(own, "stated"),
        each(own, "lost"),
    ]
