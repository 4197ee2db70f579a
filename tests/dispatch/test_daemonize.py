"""Daemons started as a shell would start them, and looked at from outside."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audisp.dispatch.daemonize import (
    EXIT_START,
    PidFile,
    StartError,
    boost_priority,
    in_foreground,
)
from tests.needs import ROOT, needs

DEADLINE = 20.0
HEAD = f"""
import os, signal, sys, time, threading
sys.path[:0] = [{str(ROOT)!r}]
from audisp.dispatch.daemonize import *
from audisp.dispatch.daemonize import PidFile, StartError
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """`script` in a fresh interpreter, until the process that was started has ended and its pipes are closed."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + script], capture_output=True, text=True, timeout=60, check=False
    )


def until_gone(path: Path) -> None:
    """Wait for a file to vanish."""
    end = time.monotonic() + DEADLINE
    while path.exists():
        assert time.monotonic() < end, f"{path} is still there"
        time.sleep(0.01)


def test_the_daemon(tmp_path: Path) -> None:
    """One process asks, another one stays: what it looks like, and that the first ends only when it is ready."""
    report, pid_file, started = tmp_path / "report", tmp_path / "audispd.pid", tmp_path / "started"
    done = run(f"""
os.umask(0)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
parent = os.getpid()
settle()
state = into_background()
with PidFile({str(pid_file)!r}):
    print("the terminal never sees this")
    os.write(2, b"a last word\\n")
    time.sleep(0.2)
    open({str(started)!r}, "w").close()
    state.ready()
    os.write(2, b"nor this\\n")
    links = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in range(3)]
    text = [os.getcwd(), oct(os.umask(0)), links, os.getsid(0) == os.getpid(), os.getpid() != parent,
        sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        state.background]
    open({str(report)!r} + ".new", "w").write(repr(text))
    os.rename({str(report)!r} + ".new", {str(report)!r})
    while os.path.exists({str(started)!r}): time.sleep(0.01)
""")
    assert started.exists()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "a last word\n")
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}").exists()
    assert stat.S_IMODE(pid_file.stat().st_mode) == 0o600
    end = time.monotonic() + DEADLINE
    while not report.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert report.read_text() == repr(["/", "0o22", ["/dev/null"] * 3, True, True, [], True, False])
    started.unlink()
    until_gone(pid_file)


@pytest.mark.parametrize("code", [1, 2, 4, 6])
def test_a_failed_start_is_told_with_its_code(code: int) -> None:
    done = run(f"""
settle()
state = into_background()
os.write(2, b"audispd: auditd.conf:3: freq: not a number\\n")
state.failed({code})
""")
    assert done.returncode == code
    assert done.stderr == "audispd: auditd.conf:3: freq: not a number\n"


def test_a_start_that_dies_is_told() -> None:
    done = run("settle(); into_background(); os._exit(6)")
    assert (done.returncode, done.stderr) == (6, "")
    done = run("settle(); into_background(); os._exit(0)")
    assert (done.returncode, done.stderr) == (EXIT_START, "")
    done = run("settle(); into_background(); os.kill(os.getpid(), signal.SIGKILL)")
    assert (done.returncode, done.stderr) == (EXIT_START, "audispd: killed by SIGKILL before it was ready\n")


def test_not_with_threads() -> None:
    done = run("""
stop = threading.Event()
threading.Thread(target=stop.wait).start()
try:
    into_background()
except StartError as error:
    print(error, error.code)
stop.set()
""")
    assert done.stdout == "cannot go into the background: 2 threads exist already 1\n"


def test_the_foreground_stays() -> None:
    state = in_foreground()
    assert not state.background
    state.ready()
    state.failed(1)
    done = run("settle(); s = in_foreground(); s.ready(); print(os.getcwd(), flush=True)")
    assert (done.returncode, done.stdout) == (0, "/\n")


def test_closed_standard_descriptors_are_filled() -> None:
    """A program that is started without stdout must not write to a socket that took its number."""
    done = run("""
keep = os.dup(1)
os.set_inheritable(keep, False)
for fd in range(3): os.close(fd)
settle()
os.write(keep, repr([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]).encode())
""")
    assert done.stdout == repr(["/dev/null"] * 3)


def test_pid_file_is_written_locked_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    old = os.umask(0o077)
    try:
        with PidFile(path) as held:
            assert path.read_text() == f"{os.getpid()}\n"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with pytest.raises(StartError, match=rf"another instance runs, pid {os.getpid()}") as caught, PidFile(path):
                pass
            assert caught.value.code == EXIT_START
            assert path.exists()
        assert not path.exists()
        held.close()
    finally:
        os.umask(old)


def test_a_stale_pid_file_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("123456789 and a long tail that must not remain\n")
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_became_somebody_elses_is_left(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        path.unlink()
        path.write_text("4711\n")
    assert path.read_text() == "4711\n"
    with PidFile(path):
        path.unlink()
    assert not path.exists()


def test_pid_file_is_never_followed_or_shared(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "hard").hardlink_to(victim)
    os.mkfifo(tmp_path / "fifo")
    for name, message in (
        ("link", "Too many levels"),
        ("hard", "not a plain file of ours"),
        ("fifo", "not a plain file of ours"),
        ("none/pid", "No such file"),
    ):
        with pytest.raises(StartError, match=message), PidFile(tmp_path / name):
            pass
    assert victim.read_text() == "precious"


def test_a_holder_without_pid(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StartError, match="has not written its pid yet"), PidFile(path):
            pass


@needs("root")
def test_priority() -> None:
    boost_priority(0)
    done = run("boost_priority(4); print(os.nice(0))")
    assert done.stdout == "-4\n"
    done = run("""
os.setresuid(65534, 65534, 65534)
try:
    boost_priority(4)
except StartError as error:
    print(error)
""")
    assert done.stdout == "priority_boost = 4: cannot raise the priority: Operation not permitted\n"


def test_oom_score() -> None:
    """Needs a capability that containers often lack: either it is in force, or the reason is given."""
    done = run("print(avoid_oom_killer(), open('/proc/self/oom_score_adj').read())")
    if done.stdout.startswith("None "):
        assert int(done.stdout.split()[1]) == -1000
    else:
        assert done.stdout.startswith("not exempt from the out-of-memory killer: ")


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        in_foreground().ready()
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "relative", "@", "vsock:2:1", "/" + "x" * 200])
def test_a_service_manager_that_does_not_hear_is_no_trouble(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    in_foreground().ready()
