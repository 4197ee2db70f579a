"""Part `file`: a recorded log to 4 child programs; ours reads the file, auditd is fed the same records over TCP.

auditd has no way to read a file. Its listener is its fastest way in for recorded records, and its plugins get what
comes in there (distribute_network). What the two have to do is not the same, so the comparison is one of ends, not of
means: the time from the first record to the last plugin's last read.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from tests.bench.capture import RECORDS, Capture, capture
from tests.bench.daemon import AUDITD, OURS, Daemon, configure, report, sinks
from tests.bench.feed import chunks_of, feed
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
from tests.bench.kernel import alone
from tests.bench.process import cpu_quiet
from tests.bench.setting import Setting

PLUGINS: Final = 4
RATE_GOAL: Final = 10.0
"""At least this many times auditd's rate."""
CPU_GOAL: Final = 1.0
"""At most so many CPU seconds per million records."""
LONG: Final = 10
"""A second capture of ours is so many times as long: a fifth of a second measures the start as well."""
END_LIMIT: Final = 120.0

HEAD: Final = (
    "dispatcher",
    "records",
    "records/s",
    "spread",
    "rate",
    "goal",
    "CPU s per million",
    "goal ",
    "with start and end",
    "children's CPU s per million",
    "peak RSS MiB",
    "records missed, plugin by plugin",
)


def _theirs(setting: Setting, log: Capture) -> Run:
    folder = setting.place.fresh("file")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    network = {"tcp_listen_port": str(port), "distribute_network": "yes", "use_libwrap": "no", "tcp_max_per_addr": "16"}
    configure(folder, sinks(setting.place.sink, folder, PLUGINS), keys={"local_events": "no", **network})
    chunks = chunks_of(log.lines())
    with alone(), Daemon(folder, [AUDITD], PLUGINS, owner=False, port=port) as daemon:
        before, start = daemon.cpu(), time.monotonic_ns()
        feed(port, chunks, log.records)
        cpu_quiet([daemon.pid])
        cpu, peak = daemon.cpu() - before, daemon.peak_mib()
    return {"cpu": cpu / log.records * MILLION, "peak": peak} | _read(folder, log, start)


def _ours(setting: Setting, log: Capture) -> Run:
    folder = setting.place.fresh("file")
    configure(folder, sinks(setting.place.sink, folder, PLUGINS))
    with alone():
        daemon = Daemon(folder, [*OURS, "--source", f"file:{log.path}"], owner=False)
        daemon.launch()
        life, peak = daemon.wait(END_LIMIT)
    reports = [report(folder, number) for number in range(PLUGINS)]
    # A sink's first read is of DAEMON_START, which goes out before the file is opened, and its last is of EOF, when all
    # has been read: in between is the work, before and after are the interpreter's start and end.
    cpu = max(each["parent_cpu_s"] for each in reports)
    start = min(each["first_ns"] for each in reports)
    figures = {"cpu": cpu / log.records * MILLION, "life": life / log.records * MILLION, "peak": peak}
    return figures | _read(folder, log, start)


def _read(folder: Path, log: Capture, start_ns: int) -> dict[str, float]:
    reports = [report(folder, number) for number in range(PLUGINS)]
    seconds = (max(each["last_ns"] for each in reports) - start_ns) / 1e9
    figures = {
        "rate": log.records / seconds,
        "sinks": sum(each["cpu_s"] for each in reports) / log.records * MILLION,
    }
    return figures | {
        f"missed{number}": log.records - each["records"] + each["daemon_records"] for number, each in enumerate(reports)
    }


def run(setting: Setting) -> str:
    """The table of this part."""
    log = capture(setting.place.folder, setting.sized(RECORDS, 5_000))
    longer = log.times(LONG)
    runs = measure(
        setting.runs,
        {
            "auditd, by TCP": lambda: _theirs(setting, log),
            "audispd, by file:": lambda: _ours(setting, log),
            f"audispd, {LONG} times as long": lambda: _ours(setting, longer),
        },
        lambda text: setting.note(f"file: {text}"),
    )
    rows = [_row(side, own, runs["auditd, by TCP"], longer if str(LONG) in side else log) for side, own in runs.items()]
    return table(f"A capture ({log.name}) to {PLUGINS} plugins, runs: {setting.runs}", HEAD, rows)


def _row(side: str, own: list[Run], peer: list[Run], log: Capture) -> list[float | str]:
    rate, cpu = median(own, "rate") / median(peer, "rate"), median(own, "cpu")
    ours = own is not peer
    return [
        side,
        log.records,
        round(median(own, "rate")),
        percent(spread(own, "rate")),
        times(rate) if ours else "",
        at_least(rate, RATE_GOAL, f">= {RATE_GOAL:g} x") if ours else "",
        cpu,
        at_most(cpu, CPU_GOAL, f"<= {CPU_GOAL:g}") if ours else "",
        median(own, "life") if ours else "",
        median(own, "sinks"),
        worst(own, "peak"),
        " · ".join(each(own, f"missed{number}") for number in range(PLUGINS)),
    ]
