"""Started as auditd is by init scripts: into the background, ready or failed when the command returns."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from audisp.dispatch.main import AUDITD_PID_FILE
from tests.e2e.daemons import Auditd, Child, Ours, lines_of, sink, size_of, work
from tests.e2e.stream import PATIENCE, calls_rule, kernel_status, wait_for, wait_quiet
from tests.needs import audit_owner, needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]


def start(ours: Ours) -> subprocess.CompletedProcess[str]:
    """Its command without -n, to its end. A file takes what it says: a pipe would be held open by the daemon."""
    argv = [word for word in ours.argv if word != "-n"]
    with open(ours.out, "ab") as out:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE, text=True)


def test_in_the_background(tmp_path: Path) -> None:
    calls_rule()
    kept = tmp_path / "kept"
    ours = Ours(tmp_path / "ours", children=[Child("sink", sink(tmp_path, "sink", kept))])
    assert start(ours).returncode == 0, ours.said()
    pid = audit_owner()
    try:
        # Ready means ready: it owns the stream, its pid is where auditd's is looked for, and it answers.
        assert pid == int(AUDITD_PID_FILE.read_text()) == ours.status()["pid"]
        assert AUDITD_PID_FILE.stat().st_mode & 0o777 == 0o644
        (child,) = ours.plugin("sink")["pids"]
        assert f"PPid:\t{pid}\n" in Path(f"/proc/{child}/status").read_text()
        # A daemon: a session of its own, no terminal, no folder held, nothing of its starter's.
        assert os.getsid(pid) == os.getsid(child) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
        assert Path(f"/proc/{pid}/comm").read_text() == "audispd\n"
        work("calls", 300)
        wait_quiet(lambda: (size_of(ours.log), size_of(kept)))
        # A second one is told so by its command, and leaves the first one's pid file alone.
        assert start(Ours(tmp_path / "second")).returncode == 1
        assert int(AUDITD_PID_FILE.read_text()) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    assert kernel_status()["pid"] == 0
    assert not AUDITD_PID_FILE.exists()
    assert sum(b' key="calls"' in line for line in lines_of(ours.log)) == 300
    assert lines_of(ours.log)[-1].startswith(b"type=DAEMON_END ")


def test_beside_an_owner_it_fails(tmp_path: Path) -> None:
    with Auditd(tmp_path / "auditd") as auditd:
        ours = Ours(tmp_path / "ours")
        assert start(ours).returncode == 1
        assert f"pid {auditd.pid} (auditd)" in ours.said()
        assert audit_owner() == auditd.pid
