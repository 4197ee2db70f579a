"""The kernel's side of a run: its audit state, taken and given back as found, and the audited process.

Rules and limits are set with auditctl, which comes with the peer; what is read often is asked by netlink, since a
process started twenty times a second would take a share of the two processors that are measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from audisp.sources.kernel import AuditStatus, Control
from tests.bench.figures import Run
from tests.bench.place import Place
from tests.bench.process import wait_for

LOCK: Final = Path("/tmp/audit.lock")
"""Held by whoever touches the kernel's audit state on this machine: there is one owner of the stream."""
LOGIN: Final = 62_000
"""Login uid of the audited process. Nobody's: the rule selects that process and nothing else."""
RULE: Final = f"-a always,exit -F arch=b64 -S getppid -F auid={LOGIN} -k bench"
BACKLOG: Final = 8192
"""backlog_limit of every run, as distributions set it; the kernel's own 64 would measure the callers' waiting."""
RECORDS_PER_EVENT: Final = 3
"""SYSCALL, PROCTITLE, EOE."""
DRAIN_LIMIT: Final = 120.0


class Unavailable(Exception):
    """The kernel's audit cannot be used here; str() says why."""


@attrs.define
class Kernel:
    """The audit subsystem, ours for one run."""

    place: Place
    control: Control
    lost_before: int

    def status(self) -> AuditStatus:
        """The kernel's own figures."""
        return self.control.status()

    @property
    def lost(self) -> int:
        """Records that the kernel says it lost since the run began."""
        return self.status().lost - self.lost_before

    def generate(self, events: int, rate: float = 0) -> subprocess.Popen[str]:
        """Start the audited process; `finished` gives its figures."""
        return subprocess.Popen([self.place.gen, str(events), str(rate), str(LOGIN)], stdout=subprocess.PIPE, text=True)

    def finished(self, generator: subprocess.Popen[str]) -> Run:
        """Wait for the audited process, then for the kernel to have handed out all it holds."""
        said = generator.communicate()[0]
        wait_for("the kernel's backlog to drain", lambda: self.status().backlog == 0, DRAIN_LIMIT)
        return dict(json.loads(said))


def _auditctl(*words: str, check: bool = True) -> str:
    done = subprocess.run(["auditctl", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Unavailable(f"auditctl {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _free(control: Control) -> AuditStatus:
    status = control.status()
    if status.pid and Path(f"/proc/{status.pid}").exists():
        raise Unavailable(f"pid {status.pid} owns the audit stream; stop it first")
    if status.enabled == 2:
        raise Unavailable("the audit configuration is locked (enabled 2) until the next boot")
    return status


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the lock. Also for runs that leave the kernel's audit alone: the processors are the same."""
    with open(os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def kernel_audit(place: Place) -> Iterator[Kernel]:
    """Hold the kernel's audit: our one rule, our backlog, and afterwards everything as it was found."""
    with alone():
        control = Control()
        try:
            before = _free(control)
            had = [line for line in _auditctl("-l").splitlines() if line.startswith("-")]
            limits = _limits()
            try:
                _auditctl("-D")
                _auditctl("-b", str(BACKLOG))
                _auditctl("-r", "0")
                _auditctl(*RULE.split())
                yield Kernel(place, control, control.status().lost)
            finally:
                _auditctl("-D", check=False)
                _auditctl("-e", str(before.enabled), check=False)
                _auditctl("-b", str(limits["backlog_limit"]), check=False)
                _auditctl("-r", str(limits["rate_limit"]), check=False)
                for rule in had:
                    _auditctl(*shlex.split(rule), check=False)
                # An owner that has just ended may still be entered; the kernel forgets it with its socket.
                time.sleep(0.05)
        finally:
            control.close()


def _limits() -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)", _auditctl("-s"), re.M)}
