"""What filters cost: `python -m tests.bench.filters [--log FILE] [--runs N]` prints a table in markdown.

Each run is a process of its own that reads the log as a source does (64 KiB at a time), assembles, filters, and writes
what was kept. Its CPU is counted from after the imports to after the last write, so that the figures are those of a
daemon that runs. Beside it: the same log with names and programs that never come twice, which memory cannot help with
where they are asked for; and laurel, where it is installed, which makes JSON of everything (it filters by key alone,
after parsing).
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from audisp.parse.assemble import Assembler
from audisp.parse.filter import Selection, compile_filter
from audisp.parse.lines import LineReader
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.bench.figures import MILLION, shown, table
from tests.bench.setting import Setting
from tests.needs import CORPUS, ROOT

PIECE: Final = 64 * 1024
"""Bytes to a read."""
GOAL: Final = 2.0
"""CPU seconds per million records: 500,000 records per second and core."""

FILTERS: Final = (
    "key i= exec && auid == 1000 && \\record_type == SYSCALL",
    "syscall i= execve && auid == 1000 && success r= yes",
    'name i= "/etc/passwd" && nametype r= NORMAL && ouid == 0',
)
"""Three fields each. Of mixed.log 18, 18 and 17 of a hundred events pass."""
OTHERS: Final = (
    "",
    '\\regexp /comm="(id|ls)" exe="[^"]*bin/ && auid == 1000',
    'uid == 0 && !(exe i= "/usr/bin/id")',
    "!(key i= exec) && \\record_type == SYSCALL",
)
"""No filter at all; a pattern; one whose answer is another for each program; one with nothing to search for."""

_VARIED: Final = re.compile(rb"((?:^|\n)type=[A-Z_]+ msg=audit\([0-9.]+:([0-9]+)\):[^\n]*)")
_NAMED: Final = re.compile(rb'\b(comm|exe|name|cwd|proctitle)="([^"]*)"')


def varied(data: bytes) -> bytes:
    """The log with names that differ from event to event."""
    return _VARIED.sub(lambda line: _NAMED.sub(rb'\1="\2-' + line[2] + b'"', line[1]), data)


def work(path: str, expression: str) -> None:
    """In the child: read, assemble, filter, write; the figures as JSON on standard error."""
    selection = Selection((compile_filter(expression),)) if expression else Selection()
    lines, reader = LineReader(), RecordReader()
    assembler = Assembler("file", reader, recorded=True)
    records = kept = 0
    with open(path, "rb", buffering=0) as source, open(os.devnull, "wb", buffering=0) as out:
        before = time.process_time()
        while data := source.read(PIECE):
            lines.feed(data)
            good, count = lines.take()
            records += count
            batch = assembler.feed(Block(good, count, "file", 0.0), 0.0)
            wanted = None if batch is None else selection.pick(batch)
            if wanted is not None:
                kept += wanted.records
                out.write(wanted.data)
        batch = assembler.flush(0.0)
        wanted = None if batch is None else selection.pick(batch)
        if wanted is not None:
            kept += wanted.records
            out.write(wanted.data)
        cpu = time.process_time() - before
    json.dump({"cpu": cpu, "records": records, "kept": kept}, sys.stderr)


def measured(path: Path, expression: str) -> dict[str, float]:
    """One run's figures."""
    command = [sys.executable, "-m", "tests.bench.filters", "--child", str(path), "--expression", expression]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stderr)
    return found


def laurel(path: Path, folder: Path) -> float:
    """CPU seconds of laurel for the whole log."""
    config = folder / "laurel.toml"
    config.write_text(
        f'directory = "{folder}"\nstatusreport-period = 0\n[auditlog]\nfile = "out.log"\nsize = 5000000000\n'
    )
    with path.open("rb") as source:
        process = subprocess.Popen(["laurel", "-c", str(config)], stdin=source, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise RuntimeError(f"laurel ended with {status}")
    return usage.ru_utime + usage.ru_stime


def compared(logs: dict[str, Path], runs: int, folder: Path) -> str:
    """The table."""
    rows: list[list[float | str]] = []

    def row(log: str, what: str, costs: list[float], kept: float) -> None:
        print(f"{log}: {what}: {', '.join(map(shown, costs))}", file=sys.stderr)
        middle = statistics.median(costs)
        what = what.replace("|", "\\|")
        rows.append([log, what, middle, min(costs), MILLION / middle, f"{kept:.1%}".replace("%", " %")])

    for name, path in logs.items():
        records = 0.0
        for expression in (*FILTERS, *OTHERS):
            found = [measured(path, expression) for _ in range(runs)]
            records = found[0]["records"]
            costs = [each["cpu"] / records * MILLION for each in found]
            row(name, f"`{expression}`" if expression else "none", costs, found[0]["kept"] / records)
        if shutil.which("laurel", path="/usr/sbin:/usr/bin"):
            row(name, "laurel, all to JSON", [laurel(path, folder) / records * MILLION for _ in range(runs)], 1.0)
    head = ("log", "filter", "CPU s per million records", "least", "records per CPU s", "records kept")
    return table(f"Filters, median of {runs} runs", head, rows)


def beside(log: Path | None, runs: int, folder: Path) -> str:
    """The table, of this log or the corpus' mixed.log, and of the same with other names."""
    if log is None:
        log = folder / "mixed.log"
        with lzma.open(CORPUS / "mixed.log.xz") as packed, log.open("wb") as out:
            shutil.copyfileobj(packed, out)
    other = folder / "varied.log"
    other.write_bytes(varied(log.read_bytes()))
    return compared({log.name: log, "the same, names varied": other}, runs, folder)


def run(setting: Setting) -> str:
    """The table of this part."""
    return beside(None, setting.runs, setting.place.fresh("filters"))


def main() -> None:
    """Arguments, and the table on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, help="default: the corpus' mixed.log")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--expression", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work(asked.child, asked.expression)
        return
    with tempfile.TemporaryDirectory(prefix="audisp-filters-") as name:
        print(beside(asked.log, asked.runs, Path(name)))


if __name__ == "__main__":
    main()
