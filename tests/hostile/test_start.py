"""Starting and ending among people who mean harm, and administrators in a hurry."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audisp.dispatch.daemonize import PidFile
from tests.dispatch.voices import PATIENCE

SCRIPT = "import sys; from audisp.cli import start; sys.argv[0] = '{0}'; sys.exit(start.{0}())"
"""What pip writes for an entry point."""

AUDISPD = (sys.executable, "-I", "-m", "audisp.cli.audispd")


@pytest.mark.parametrize("command", ["audispd", "audisp"])
def test_nothing_is_imported_from_where_pythonpath_says(tmp_path: Path, command: str) -> None:
    for module in ("trio", "attrs", "attr", "pluggy"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('code of a stranger')")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(command), "--version"],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("audisp")


EARLY = """
import os, signal, trio
from audisp.dispatch.main import SIGNALS, _signals_wait
with _signals_wait():
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    async def hear():
        heard = set()
        with trio.open_signal_receiver(*SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            async for number in signals:
                heard.add(number)
                if heard == set(SIGNALS):
                    break
            # These come when nobody listens any more.
            for number in SIGNALS:
                os.kill(os.getpid(), number)
    trio.run(hear)
    for number in SIGNALS:
        os.kill(os.getpid(), number)
print("alive")
"""


def test_a_signal_that_comes_before_or_after_the_loop_does_not_kill() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_hangup_while_the_program_is_still_loading_is_no_end(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from audisp.cli import start\n"
        "start.isolate = lambda module, argv: os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.argv = ['audispd', '--version']; sys.exit(start.audispd())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_two_requests_to_end_are_one_orderly_end(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [
                *AUDISPD,
                "-n",
                "-c",
                tmp_path,
                "--source",
                "stdin",
                "--plugins",
                tmp_path,
                "--runtime-dir",
                tmp_path / "run",
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        give_up = time.monotonic() + PATIENCE
        while not (tmp_path / "run/control.sock").exists():
            assert time.monotonic() < give_up
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert not (tmp_path / "run/audispd.pid").exists()


def test_nobody_else_can_open_the_lock_and_so_nobody_can_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "audispd.pid"
    path.write_text("1\n")
    path.chmod(0o644)
    with PidFile(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pid_that_is_only_told_is_not_taken_away_from_who_tells_another(tmp_path: Path) -> None:
    path = tmp_path / "auditd.pid"
    path.write_text("left over")
    with PidFile(path, lock=False):
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        with PidFile(path, lock=False):
            pass
        assert not path.exists()
    with PidFile(path, lock=False):
        path.write_text("4194303\n")  # the next daemon has the stream already, and said so
    assert path.read_text() == "4194303\n"
