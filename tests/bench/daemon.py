"""One dispatcher under measurement, auditd or ours, on a configuration of its own that both read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import attrs

from tests.bench.place import CODE, program
from tests.bench.process import children, cpu_quiet, cpu_seconds, memory_mib, wait_for
from tests.needs import audit_owner

AUDITD: Final = "/sbin/auditd"
OURS: Final = program("audisp.cli.audispd")
START_LIMIT: Final = 15.0
STOP_LIMIT: Final = 30.0
Q_DEPTH: Final = 2000
"""auditd's default: 17.9 MB per plugin of ours, one queue of 2,000 records for all plugins of auditd's."""

CONF: Final = {
    "log_group": "root",
    "log_format": "RAW",
    "flush": "INCREMENTAL_ASYNC",
    "freq": "50",
    "max_log_file": "4096",
    "num_logs": "0",
    "max_log_file_action": "IGNORE",
    "priority_boost": "4",
    "name_format": "NONE",
    "space_left": "75",
    "space_left_action": "IGNORE",
    "admin_space_left": "50",
    "admin_space_left_action": "IGNORE",
    "disk_full_action": "IGNORE",
    "disk_error_action": "SYSLOG",
    "overflow_action": "SYSLOG",
    "max_restarts": "10",
    "end_of_event_timeout": "2",
}
"""auditd.conf for both sides: defaults, except that no disk-space action can change the run."""


@attrs.define
class Daemon:
    """A dispatcher in the foreground, writing its log as in the background. A context manager.

    folder: one that `Place.fresh` made, configured. command: what to run; `-n -c FOLDER` is added, and for ours a
    runtime folder. children: how many child programs to wait for. owner: whether it is to become the audit daemon.
    port: of a TCP listener to wait for.
    """

    folder: Path
    command: Sequence[str]
    children: int = 0
    owner: bool = True
    port: int = 0
    process: subprocess.Popen[bytes] = attrs.field(init=False)

    @property
    def pid(self) -> int:
        """Its process, which is the one measured."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """The audit log that it writes, where it writes one."""
        return self.folder / "audit.log"

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        words = [*self.command, "-n", "-c", str(self.folder)]
        if self.command[0] != AUDITD:
            words += ["--runtime-dir", str(self.folder / "run")]
        with open(self.folder / "said", "ab") as said:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self.folder.parent / CODE
            )

    def __enter__(self) -> Self:
        self.launch()
        try:
            wait_for(f"{self.command[0]} to start", self._ready, START_LIMIT)
        except BaseException:
            self.stop()
            raise
        cpu_quiet([self.pid])
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def said(self) -> str:
        """The last of what it wrote to its stderr."""
        return (self.folder / "said").read_text(errors="backslashreplace")[-1500:]

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command[0]} ended with {self.process.returncode}: {self.said()}")
        if self.owner and audit_owner() != self.pid:
            return False
        if self.port and not _listens(self.port):
            return False
        return len(children(self.pid)) >= self.children

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self.pid)

    def peak_mib(self) -> float:
        """Peak resident memory so far."""
        return memory_mib(self.pid)

    def wait(self, limit: float) -> tuple[float, float]:
        """Wait for its own end: CPU seconds of its whole life, and peak MiB.

        TimeoutError after `limit` seconds, RuntimeError if it failed.
        """
        deadline = time.monotonic() + limit
        peak = 0.0
        while True:
            # Looked at while it lives: ru_maxrss would begin with what we had when we forked.
            peak = max(peak, self.peak_mib())
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                if self.process.returncode:
                    raise RuntimeError(f"{self.command[0]} ended with {self.process.returncode}: {self.said()}")
                return used.ru_utime + used.ru_stime, peak
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.command[0]}: has not ended within {limit:g} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not end it. Its children are waited for, so their reports are whole."""
        kids = children(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for kid in kids:
            wait_for(f"child {kid} to end", lambda kid=kid: not Path(f"/proc/{kid}").exists(), 5.0)  # type: ignore[misc]


def _listens(port: int) -> bool:
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(file).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                return True
    return False


def configure(
    folder: Path, plugins: Mapping[str, str], *, q_depth: int = Q_DEPTH, keys: Mapping[str, str] | None = None
) -> None:
    """Write auditd.conf and plugins.d. plugins: file name in plugins.d -> its text. keys: on top of CONF."""
    conf = CONF | {
        "local_events": "yes",
        "write_logs": "no",
        "log_file": str(folder / "audit.log"),
        "plugin_dir": str(folder / "plugins.d"),
        "q_depth": str(q_depth),
    }
    conf |= keys or {}
    (folder / "plugins.d").mkdir(0o750)
    _write(folder / "auditd.conf", "".join(f"{key} = {value}\n" for key, value in conf.items()))
    for name, text in plugins.items():
        _write(folder / "plugins.d" / name, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o640)


def sinks(program: Path, folder: Path, count: int, *, times: bool = False) -> dict[str, str]:
    """plugins.d files of `count` C sinks, sink0 first. Their reports: `report`."""
    return {
        f"sink{number}.conf": "active = yes\ndirection = out\ntype = always\nformat = string\n"
        f"path = {program}\nargs = {folder / f'sink{number}.json'}"
        + (f" {folder / f'sink{number}.times'}" if times else "")
        + "\n"
        for number in range(count)
    }


def report(folder: Path, number: int) -> dict[str, Any]:
    """What sink NUMBER wrote when it ended, or when it was asked."""
    path = folder / f"sink{number}.json"
    wait_for(f"{path.name}", path.exists, 5.0)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
