"""Parts `netlink` and `log`: what one consumer gets of the kernel's stream.

`netlink`: an in-process plugin that counts bytes, beside a C program that owns the stream, receives and counts.
`log`: the audit log, beside auditd's, and whether it holds every record.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.daemon import AUDITD, OURS, Daemon, configure
from tests.bench.figures import MILLION, Run, at_least, each, measure, median, percent, spread, table, worst
from tests.bench.kernel import RECORDS_PER_EVENT, kernel_audit
from tests.bench.process import cpu_quiet, cpu_seconds, memory_mib, wait_quiet
from tests.bench.setting import Setting

EVENTS: Final = 150_000
RECEIVE_BUFFER: Final = 8 << 20
"""Of the C program; ours has the same by default (rcvbuf)."""
NETLINK_GOAL: Final = 0.85
LOG_GOAL: Final = 1.0
"""At least this share of the other side's rate."""
MARK: Final = b" a2=61756469 "
"""tests/native/mark.h, as the kernel writes it."""

_CALL: Final = re.compile(rb"^type=SYSCALL msg=audit\([0-9.]+:([0-9]+)\): .* a1=([0-9a-f]+)" + MARK, re.M)
_SERIAL: Final = re.compile(rb"^type=PROCTITLE msg=audit\([0-9.]+:([0-9]+)\)", re.M)

HEAD: Final = (
    "reader",
    "records/s",
    "spread",
    "share",
    "goal",
    "CPU s per million",
    "peak RSS MiB",
    "longest call ms",
    "kernel lost",
    "records missed",
)


# ---- netlink ----


def _c_reader(setting: Setting, events: int) -> Run:
    with kernel_audit(setting.place) as kernel:
        reader = subprocess.Popen(
            [setting.place.reader, str(RECEIVE_BUFFER)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert reader.stderr is not None
            if reader.stderr.readline() != "ready\n":
                raise RuntimeError("reader: did not get the audit stream")
            before = cpu_seconds(reader.pid)
            made = kernel.finished(kernel.generate(events))
            cpu_quiet([reader.pid])
            cpu, peak, lost = cpu_seconds(reader.pid) - before, memory_mib(reader.pid), kernel.lost
        finally:
            reader.terminate()
            said = json.loads(reader.communicate()[0] or "{}")
    return _figures(events, made, said["last_ns"], said["records"], cpu, peak, lost)


def _plugin(setting: Setting, events: int) -> Run:
    folder = setting.place.fresh("netlink")
    code, count = folder / "counting.py", folder / "counting.json"
    shutil.copyfile(Path(__file__).with_name("counting.py"), code)
    configure(folder, {"counting.audisp": f"active = yes\nplugin = {code}\nreport = {count}\n"})
    with kernel_audit(setting.place) as kernel, Daemon(folder, OURS) as daemon:
        before = daemon.cpu()
        made = kernel.finished(kernel.generate(events))
        cpu_quiet([daemon.pid])
        cpu, peak, lost = daemon.cpu() - before, daemon.peak_mib(), kernel.lost
        daemon.stop()
    said = json.loads(count.read_text())
    return _figures(events, made, said["last_ns"], said["records"], cpu, peak, lost)


def _figures(events: int, made: Run, last_ns: int, records: int, cpu: float, peak: float, lost: int) -> Run:
    wanted = events * RECORDS_PER_EVENT
    return {
        "rate": wanted / (last_ns - made["start_ns"]) * 1e9,
        "cpu": cpu / wanted * MILLION,
        "peak": peak,
        "call": made["worst_call_ms"],
        "lost": lost,
        "missed": max(0, wanted - records),
    }


def run(setting: Setting) -> str:
    """The table of `netlink`."""
    events = setting.sized(EVENTS, 5_000)
    runs = measure(
        setting.runs,
        {
            "C recv(), receive buffer 8 MiB": lambda: _c_reader(setting, events),
            "audispd, one in-process plugin": lambda: _plugin(setting, events),
        },
        lambda text: setting.note(f"netlink: {text}"),
    )
    title = f"The kernel's stream, read and counted: {events * RECORDS_PER_EVENT:,} records a run, runs: {setting.runs}"
    return table(title, HEAD, _rows(runs, NETLINK_GOAL))


def _rows(runs: dict[str, list[Run]], goal: float) -> list[list[float | str]]:
    peer = next(iter(runs.values()))
    rows: list[list[float | str]] = []
    for side, own in runs.items():
        share = median(own, "rate") / median(peer, "rate")
        ours = own is not peer
        rows.append(
            [
                side,
                round(median(own, "rate")),
                percent(spread(own, "rate")),
                percent(share) if ours else "",
                at_least(share, goal, f">= {percent(goal)}") if ours else "",
                median(own, "cpu"),
                worst(own, "peak"),
                worst(own, "call"),
                each(own, "lost"),
                each(own, "missed"),
            ]
        )
    return rows


# ---- log ----


def _log(setting: Setting, command: Sequence[str], events: int) -> Run:
    folder = setting.place.fresh("log")
    configure(folder, {}, keys={"write_logs": "yes"})
    with kernel_audit(setting.place) as kernel, Daemon(folder, command) as daemon:
        before = daemon.cpu()
        clocks = time.time_ns() - time.monotonic_ns()
        made = kernel.finished(kernel.generate(events))
        wait_quiet(lambda: daemon.log.stat().st_size)
        # The file's own time of its last growth, to the kernel's tick: nobody has to look at it all the time.
        last_ns = daemon.log.stat().st_mtime_ns - clocks
        cpu_quiet([daemon.pid])
        cpu, peak, lost = daemon.cpu() - before, daemon.peak_mib(), kernel.lost
        daemon.stop()
    text = daemon.log.read_bytes()
    calls = {int(number, 16): serial for serial, number in _CALL.findall(text)}
    titles = set(_SERIAL.findall(text))
    missed = events - len(calls) + sum(1 for serial in calls.values() if serial not in titles)
    return {**_figures(events, made, last_ns, 0, cpu, peak, lost), "missed": missed}


def run_log(setting: Setting) -> str:
    """The table of `log`."""
    events = setting.sized(EVENTS, 5_000)
    runs = measure(
        setting.runs,
        {
            "auditd, log on": lambda: _log(setting, [AUDITD], events),
            "audispd, log on": lambda: _log(setting, OURS, events),
        },
        lambda text: setting.note(f"log: {text}"),
    )
    title = (
        f"The audit log, checked for every record: {events * RECORDS_PER_EVENT:,} records a run, runs: {setting.runs}"
    )
    return table(title, (*HEAD[:-1], "events not whole in the log"), _rows(runs, LOG_GOAL))
