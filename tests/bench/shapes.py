"""Part `shapes`: recorded logs to lines, beside Debian's laurel: `python -m tests.bench.shapes [SHAPE...]`.

Each side reads a pipe and writes a file, alone on one core, one side after the other in every round. laurel has the
configuration of its package, with rotation and change of user off; ours is `audisp cat`. The second log is the first
with nothing in it twice (`unlike`): what memories are good for on the one, they must not cost on the other.
"""

from __future__ import annotations

import argparse
import itertools
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.bench.figures import MILLION, Run, at_least, measure, median, percent, spread, table, times, worst
from tests.bench.place import CODE
from tests.bench.process import memory_mib
from tests.bench.setting import Setting
from tests.bench.unlike import unlike
from tests.needs import CORPUS, ROOT

LAUREL: Final = "/usr/sbin/laurel"
PEER: Final = "laurel 0.5.1"
SHAPE: Final = "laurel"
"""The shape that the peer has."""
RECORDS: Final = 221_153
"""Of the corpus' mixed.log, RAW."""
GOALS: Final = {
    ("mixed", "laurel"): 1.5,
    ("unlike", "laurel"): 1.0,
    ("mixed", "text"): 4.0,
    ("unlike", "text"): 1.0,
    ("mixed", "raw"): 4.0,
}
"""At least so many times laurel's events per second, by log and shape."""
LIMIT: Final = 300.0
POLL: Final = 0.02
CONFIG: Final = """
directory = "{folder}"
[auditlog]
file = "audit.log"
size = 50000000000
generations = 1
[transform]
execve-argv = [ "array" ]
[translate]
universal = false
user-db = false
[enrich]
pid = true
execve-env = [ "LD_PRELOAD", "LD_LIBRARY_PATH" ]
container = true
[label-process]
label-keys = [ "software_mgmt" ]
"""
HEAD: Final = (
    "log",
    "reader",
    "events/s",
    "x laurel",
    "goal",
    "CPU s per million records",
    "of it system",
    "x laurel ",
    "spread",
    "peak RSS MiB",
    "lines",
    "bytes",
)


@attrs.frozen
class Log:
    """One input: its name, its file, how many records and events are in it."""

    name: str
    path: Path
    records: int
    events: int


def logs(folder: Path, records: int) -> list[Log]:
    """The corpus' mixed.log, of which so many records, and the same with nothing twice. FileNotFoundError without."""
    packed = CORPUS / "mixed.log.xz"
    mixed, other = folder / "mixed.log", folder / "unlike.log"
    with lzma.open(packed) as source, mixed.open("wb") as target:
        for line in itertools.islice(source, records):
            target.write(line)
    unlike(mixed, other)
    found = []
    for path in (mixed, other):
        lines = path.read_bytes().split(b"\n")[:-1]
        stamps = {line.partition(b"audit(")[2].partition(b")")[0] for line in lines}
        found.append(Log(path.stem, path, len(lines), len(stamps)))
    return found


def _compiled(folder: Path) -> dict[str, str]:
    """The environment in which Python keeps what it has compiled, in this folder: an installed package is compiled, and
    a start that compiles everything anew would be a third of the figure."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return environment | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}


def _run(
    argv: Sequence[str], log: Log, core: int, out: Path, folder: Path, environment: dict[str, str] | None = None
) -> Run:
    with out.open("wb") as target, subprocess.Popen(["cat", log.path], stdout=subprocess.PIPE) as feeder:
        start = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv],
            stdin=feeder.stdout,
            stdout=target,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
        )
        assert feeder.stdout is not None
        feeder.stdout.close()
        peak = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, memory_mib(process.pid))
            if time.monotonic() - start > LIMIT:
                process.kill()
            time.sleep(POLL)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{argv[0]} {log.name}: exit status {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "rate": log.events / wall,
        "cpu": cpu / log.records * MILLION,
        "system": usage.ru_stime / log.records * MILLION,
        "peak": peak,
    }


def _written(out: Path) -> Run:
    data = out.read_bytes()
    return {"lines": data.count(b"\n"), "bytes": len(data)}


def _peer(log: Log, core: int, folder: Path) -> Run:
    work = folder / "laurel"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    config = work / "config.toml"
    config.write_text(CONFIG.format(folder=work))
    figures = _run([LAUREL, "--config", str(config)], log, core, work / "stdout", folder)
    return {**figures, **_written(work / "audit.log")}


def _ours(shape: str, log: Log, core: int, folder: Path, code: Path) -> Run:
    out = folder / "ours"
    argv = [sys.executable, "-m", "audisp.cli.audisp", "cat", "-", "--shape", shape]
    return {**_run(argv, log, core, out, code, _compiled(folder)), **_written(out)}


def _warm(shape: str, log: Log, folder: Path, code: Path) -> None:
    """Have all compiled before it is measured."""
    argv = [sys.executable, "-m", "audisp.cli.audisp", "cat", "-", "--shape", shape]
    with log.path.open("rb") as source:
        first = b"".join(itertools.islice(source, 100))
    subprocess.run(argv, input=first, stdout=subprocess.DEVNULL, cwd=code, env=_compiled(folder), check=True)


def compare(
    folder: Path, code: Path, shapes: Sequence[str], runs: int, records: int, note: Callable[[str], None]
) -> str:
    """The table. folder: scratch. code: where our packages are found. Raises what measuring raises."""
    core = max(os.sched_getaffinity(0))
    rows = []
    for log in logs(folder, records):
        for shape in shapes:
            _warm(shape, log, folder, code)
        sides: dict[str, Callable[[], Run]] = {}
        if Path(LAUREL).exists():
            sides[PEER] = lambda log=log: _peer(log, core, folder)  # type: ignore[misc]
        for shape in shapes:
            sides[f"audisp, {shape}"] = lambda log=log, shape=shape: _ours(shape, log, core, folder, code)  # type: ignore[misc]
        found = measure(runs, sides, lambda text, log=log: note(f"shapes: {log.name}: {text}"))  # type: ignore[misc]
        rows += [_row(log, side, found[side], found.get(PEER)) for side in sides]
    return table(f"Recorded logs on one core, {records:,} records, runs: {runs}", HEAD, rows)


def _row(log: Log, side: str, own: list[Run], peer: list[Run] | None) -> list[float | str]:
    rate = median(own, "rate") / median(peer, "rate") if peer else 0.0
    goal = GOALS.get((log.name, side.removeprefix("audisp, "))) if peer and own is not peer else None
    return [
        log.name,
        side,
        round(median(own, "rate")),
        times(rate) if peer and own is not peer else "",
        at_least(rate, goal, f">= {goal:g} x") if goal is not None else "",
        median(own, "cpu"),
        median(own, "system"),
        times(median(peer, "cpu") / median(own, "cpu")) if peer and own is not peer else "",
        percent(spread(own, "cpu")),
        worst(own, "peak"),
        median(own, "lines"),
        median(own, "bytes"),
    ]


def run(setting: Setting) -> str:
    """The table of this part."""
    folder = setting.place.fresh("shapes")
    return compare(
        folder,
        setting.place.folder / CODE,
        [SHAPE, "text", "raw"],
        setting.runs,
        setting.sized(RECORDS, 20_000),
        setting.note,
    )


def main() -> int:
    """By itself, on the checkout's code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shapes", description="Shapes beside laurel.")
    parser.add_argument("shape", nargs="*", default=[SHAPE], help="which shapes (laurel)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds per figure (5)")
    parser.add_argument("--records", type=int, default=RECORDS, metavar="N", help="of mixed.log (all)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="audisp-bench-") as folder:
        try:
            print(
                compare(
                    Path(folder),
                    ROOT,
                    given.shape,
                    given.runs,
                    given.records,
                    lambda text: print(text, file=sys.stderr, flush=True),
                )
            )
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"shapes: could not be measured: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
