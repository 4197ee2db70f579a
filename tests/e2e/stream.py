"""The kernel's audit state while a test has it: locked against others, and put back as it was found."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from audisp.sources.kernel import NETLINK_AUDIT

AUDIT_LOCK: Final = Path("/tmp/audit.lock")
"""Held around everything that touches the kernel's audit state, so that two runs on one machine do not meet."""
WORK_AUID: Final = 4_242
"""loginuid of the audited workloads: rules select it, so that nothing else on the machine makes records."""
BACKLOG: Final = 8_192
"""As everybody sets it who has rules (auditd's own 10-base-config.rules); the kernel's default is 64."""
PATIENCE: Final = 30.0
"""Seconds until a condition that must come about counts as failed. No test's result depends on how soon it did."""


def auditctl(*words: str, check: bool = True) -> str:
    """Output of auditctl with these arguments."""
    done = subprocess.run(["auditctl", *words], capture_output=True, text=True, timeout=PATIENCE)
    if check and done.returncode:
        raise RuntimeError(f"auditctl {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def kernel_status() -> dict[str, int]:
    """What auditctl -s says."""
    return {key: int(value) for key, value in re.findall(r"^(\w+) (\d+)", auditctl("-s"), re.M)}


def wait_for(what: Callable[[], object], message: str, patience: float = PATIENCE) -> None:
    """Until `what()` is true; AssertionError with the message after PATIENCE."""
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end, f"not within {patience:.0f} s: {message}"
        time.sleep(0.02)


def wait_quiet(measure: Callable[[], object], seconds: float = 0.3, patience: float = PATIENCE) -> None:
    """Until `measure()` has given the same for `seconds`."""
    end = time.monotonic() + patience
    last, since = measure(), time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < end, "never quiet"
        time.sleep(0.05)
        now = measure()
        if now != last:
            last, since = now, time.monotonic()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """The lock file, held."""
    fd = os.open(AUDIT_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """Without rules, with a usual backlog; afterwards rules, flag and limits are what they were, and nobody owns."""
    before = kernel_status()
    rules = [line for line in auditctl("-l").splitlines() if line.startswith("-")]
    auditctl("-D")
    auditctl("-b", str(BACKLOG))
    try:
        yield
    finally:
        # A test that failed may have left a daemon: it is the fixture's that started it to end it, before this.
        auditctl("-D", check=False)
        for rule in rules:
            auditctl(*rule.split(), check=False)
        auditctl("-b", str(before["backlog_limit"]), check=False)
        auditctl("-e", str(before["enabled"]), check=False)
        auditctl("-f", str(before["failure"]), check=False)
        auditctl("-r", str(before["rate_limit"]), check=False)
        auditctl("--backlog_wait_time", str(before["backlog_wait_time"]), check=False)


def calls_rule() -> None:
    """Every getppid() of a workload becomes one event: SYSCALL, PROCTITLE, EOE."""
    auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "getppid", "-F", f"auid={WORK_AUID}", "-k", "calls")


def ports_of(pid: int) -> list[int]:
    """Netlink ports that a process has on the audit protocol (/proc/net/netlink, by its sockets' inodes)."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
            if found:
                inodes.add(found[1])
    ports = []
    for line in Path("/proc/net/netlink").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1]) == NETLINK_AUDIT and words[9] in inodes:
            ports.append(int(words[2]))
    return ports
