"""Part `memory`: what the dispatcher keeps resident, idle, busy, and with plugins that have stopped for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.bench.daemon import AUDITD, OURS, Q_DEPTH, Daemon, configure, report, sinks
from tests.bench.figures import Run, at_most, each, measure, median, table, worst
from tests.bench.kernel import RECORDS_PER_EVENT, Kernel, kernel_audit
from tests.bench.process import children, cpu_quiet, memory_mib
from tests.bench.setting import Setting

PLUGINS: Final = 4
STOPPED: Final = 3
SLOT: Final = 8_970
"""Bytes of queue for each of q_depth."""
FILLED: Final = 1.5
"""The events offered hold this many times the bytes of a queue."""
EVENT_BYTES: Final = 400
"""Of one event in string form, a little less than it has."""
TRICKLE: Final = 5_000
"""Events a second that reach the queues one by one, and not in large blocks."""
FIXED_MIB: Final = 60.0
QUEUES: Final = 1.2
"""Goal: at most FIXED_MIB and QUEUES times the sum of all queues' bounds."""

HEAD: Final = (
    "dispatcher",
    "state",
    "resident MiB",
    "peak MiB",
    "sum of the queues' bounds, MiB",
    "goal",
    "records missed by the plugin that reads",
)


def _one(setting: Setting, command: Sequence[str], load: Callable[[Kernel], int], stopped: int = 0) -> Run:
    folder = setting.place.fresh("memory")
    configure(folder, sinks(setting.place.sink, folder, PLUGINS))
    with kernel_audit(setting.place) as kernel, Daemon(folder, command, PLUGINS) as daemon:
        victims = children(daemon.pid)[PLUGINS - stopped :]
        try:
            for victim in victims:
                os.kill(victim, signal.SIGSTOP)
            events = load(kernel)
            cpu_quiet([daemon.pid])
            now, peak = memory_mib(daemon.pid, "VmRSS"), daemon.peak_mib()
        finally:
            for victim in victims:
                os.kill(victim, signal.SIGCONT)
        cpu_quiet([daemon.pid])
    missed = [events * RECORDS_PER_EVENT - report(folder, number)["event_records"] for number in range(PLUGINS)]
    return {"now": now, "peak": peak, "missed": min(missed) if stopped else max(missed)}


def run(setting: Setting) -> str:
    """The table of this part."""
    full = max(1_000, int(FILLED * Q_DEPTH * SLOT / EVENT_BYTES * min(setting.scale, 1.0)))

    def idle(kernel: Kernel) -> int:
        time.sleep(2)
        return 0

    def busy(kernel: Kernel) -> int:
        kernel.finished(kernel.generate(full))
        return full

    def trickle(kernel: Kernel) -> int:
        kernel.finished(kernel.generate(full, TRICKLE))
        return full

    ours = f"audispd, {STOPPED} of {PLUGINS} plugins stopped, queues full"
    states: dict[str, Callable[[], Run]] = {
        "auditd, idle": lambda: _one(setting, [AUDITD], idle),
        "audispd, idle": lambda: _one(setting, OURS, idle),
        f"auditd, {full * RECORDS_PER_EVENT:,} records later": lambda: _one(setting, [AUDITD], busy),
        f"audispd, {full * RECORDS_PER_EVENT:,} records later": lambda: _one(setting, OURS, busy),
        f"{ours} of large blocks": lambda: _one(setting, OURS, busy, STOPPED),
        f"{ours} of single events": lambda: _one(setting, OURS, trickle, STOPPED),
    }
    runs = measure(setting.runs, states, lambda text: setting.note(f"memory: {text}"))
    bounds = PLUGINS * Q_DEPTH * SLOT / 2**20
    rows: list[list[float | str]] = []
    for name, own in runs.items():
        side, _, state = name.partition(", ")
        peak, goal = worst(own, "peak"), FIXED_MIB + QUEUES * bounds
        mine = side == "audispd"
        rows.append(
            [
                side,
                state,
                median(own, "now"),
                peak,
                bounds if mine else Q_DEPTH * SLOT / 2**20,
                at_most(peak, goal, f"<= {goal:.0f}") if mine else "",
                each(own, "missed"),
            ]
        )
    return table(f"Memory of the dispatcher's process with {PLUGINS} plugins, runs: {setting.runs}", HEAD, rows)
