"""Benchmarks beside the peer: `python -m tests.bench.run [PART...]`, or `make bench ARGS="fanout --runs 3"`.

Needs root, gcc, Debian's auditd, and a kernel whose audit stream nobody owns. Every part prints one table in markdown
on stdout, with auditd's figures from the same minutes; progress goes to stderr. Exit status 1: something could not be
measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench import (
    fanout,
    filters,
    hids,
    isolated,
    latency,
    memory,
    netlink,
    parse,
    remote,
    replay,
    scale,
    shapes,
    stall,
)
from tests.bench.daemon import AUDITD
from tests.bench.kernel import Unavailable
from tests.bench.place import place
from tests.bench.setting import Setting
from tests.needs import ROOT

PARTS: Final[dict[str, Callable[[Setting], str]]] = {
    "fanout": fanout.run,
    "file": replay.run,
    "netlink": netlink.run,
    "log": netlink.run_log,
    "latency": latency.run,
    "stall": stall.run,
    "memory": memory.run,
    "remote": remote.run,
    "scale": scale.run,
    "shapes": shapes.run,
    "filters": filters.run,
    "isolated": isolated.run,
    "parse": parse.run,
    "hids": hids.run,
}


def machine() -> str:
    """Where and on what this ran, as one paragraph of markdown."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    auditd = re.search(rb"\0(\d\.\d+(?:\.\d+)?)\0", Path(AUDITD).read_bytes()) if Path(AUDITD).exists() else None
    return (
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {os.cpu_count()} x "
        f"{model[1] if model else platform.machine()}, {int(memory[1]) // 1048576 if memory else 0} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, commit {_commit()}, "
        f"auditd {auditd[1].decode() if auditd else '?'}; load at the start {os.getloadavg()[0]:.1f}.\n"
    )


def _commit() -> str:
    git = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or "unknown"


def _unmet() -> str | None:
    if os.geteuid() != 0:
        return "needs root: it takes the kernel's audit stream, and gives it back"
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    os.environ["PATH"] = path
    for program, package in (("gcc", "gcc libc6-dev"), ("auditd", "auditd"), ("auditctl", "auditd")):
        if shutil.which(program, path=path) is None:
            return f"needs {program}: apt-get install {package}"
    return None


def _note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description="Benchmarks beside auditd.")
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all by default")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds per figure (5)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="factor on every size (1)")
    given = parser.parse_args()
    wrong = [part for part in given.part if part not in PARTS]
    if wrong or given.runs < 1 or given.scale <= 0:
        parser.error(f"no part {', '.join(wrong)}; there are {', '.join(PARTS)}" if wrong else "nothing to run")
    unmet = _unmet()
    if unmet:
        print(f"make bench: {unmet}", file=sys.stderr)
        return 1
    # However it ends, the kernel's audit is given back and the scratch folder removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with place() as here:
            return _measure(Setting(here, given.runs, given.scale, _note), given.part or list(PARTS))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1


def _measure(setting: Setting, parts: Sequence[str]) -> int:
    print(machine(), flush=True)
    failed = False
    for name in parts:
        try:
            print(PARTS[name](setting), flush=True)
        except (Unavailable, OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{name}: could not be measured: {error}\n", flush=True)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
