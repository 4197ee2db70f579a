"""Part `fanout`: the kernel's records to 1, 4 and 8 child programs, ours in auditd's place and Debian's auditd."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from tests.bench.daemon import AUDITD, OURS, Daemon, configure, report, sinks
from tests.bench.figures import (
    MILLION,
    Run,
    at_least,
    at_most,
    each,
    measure,
    median,
    percent,
    spread,
    table,
    times,
    worst,
)
from tests.bench.kernel import RECORDS_PER_EVENT, kernel_audit
from tests.bench.process import cpu_quiet
from tests.bench.setting import Setting

EVENTS: Final = 60_000
PLUGINS: Final = (1, 4, 8)
RATE_GOALS: Final = {4: 5.0, 8: 8.0}
"""At least this many times auditd's rate."""
CPU_GOALS: Final = {4: 1 / 3}
"""At most this share of auditd's CPU per record."""

HEAD: Final = (
    "plugins",
    "dispatcher",
    "records/s",
    "spread",
    "rate",
    "goal",
    "CPU s per million",
    "CPU",
    "goal ",
    "children's CPU s per million",
    "peak RSS MiB",
    "longest call ms",
    "kernel lost",
    "records missed, plugin by plugin",
)


def one(setting: Setting, command: Sequence[str], plugins: int, events: int) -> Run:
    """One run: all events as fast as the kernel makes them, to so many C sinks."""
    folder = setting.place.fresh("fanout")
    configure(folder, sinks(setting.place.sink, folder, plugins))
    with kernel_audit(setting.place) as kernel:
        with Daemon(folder, command, plugins) as daemon:
            before = daemon.cpu()
            made = kernel.finished(kernel.generate(events))
            cpu_quiet([daemon.pid])
            cpu, peak, lost = daemon.cpu() - before, daemon.peak_mib(), kernel.lost
        time.sleep(0.1)
    reports = [report(folder, number) for number in range(plugins)]
    records = events * RECORDS_PER_EVENT
    seconds = (max(each["last_event_ns"] for each in reports) - made["start_ns"]) / 1e9
    run = {
        "rate": records / seconds,
        "cpu": cpu / records * MILLION,
        "sinks": sum(each["cpu_s"] for each in reports) / records * MILLION,
        "peak": peak,
        "call": made["worst_call_ms"],
        "lost": lost,
    }
    return run | {f"missed{i}": records - each["event_records"] for i, each in enumerate(reports)}


def run(setting: Setting) -> str:
    """The table of this part."""
    events = setting.sized(EVENTS, 2_000)
    rows: list[list[float | str]] = []
    for plugins in PLUGINS:
        runs = measure(
            setting.runs,
            {
                "auditd": lambda plugins=plugins: one(setting, [AUDITD], plugins, events),  # type: ignore[misc]
                "audispd": lambda plugins=plugins: one(setting, OURS, plugins, events),  # type: ignore[misc]
            },
            lambda text, plugins=plugins: setting.note(f"fanout {plugins}: {text}"),  # type: ignore[misc]
        )
        rows += _rows(plugins, runs)
    title = f"Fan-out of the kernel's records: {events * RECORDS_PER_EVENT:,} records a run, runs: {setting.runs}"
    return table(title, HEAD, rows)


def _rows(plugins: int, runs: dict[str, list[Run]]) -> list[list[float | str]]:
    peer = runs["auditd"]
    rows: list[list[float | str]] = []
    for side, own in runs.items():
        rate = median(own, "rate") / median(peer, "rate")
        cpu = median(own, "cpu") / median(peer, "cpu")
        ours = side != "auditd"
        rows.append(
            [
                plugins,
                side,
                round(median(own, "rate")),
                percent(spread(own, "rate")),
                times(rate) if ours else "",
                at_least(rate, RATE_GOALS[plugins], f">= {RATE_GOALS[plugins]:g} x")
                if ours and plugins in RATE_GOALS
                else "",
                median(own, "cpu"),
                percent(cpu) if ours else "",
                at_most(cpu, CPU_GOALS[plugins], "<= 1/3") if ours and plugins in CPU_GOALS else "",
                median(own, "sinks"),
                worst(own, "peak"),
                worst(own, "call"),
                each(own, "lost"),
                " · ".join(each(own, f"missed{number}") for number in range(plugins)),
            ]
        )
    return rows
