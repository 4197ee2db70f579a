"""audisp-collector as a process with a child program behind it: kills, reloads, and what the tools show."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.collectors import TheirRemote
from tests.e2e.daemons import sink
from tests.e2e.remotes import numbered, numbers_in
from tests.e2e.stream import PATIENCE, wait_for
from tests.e2e.test_collector import WEB1, keyed, sender
from tests.needs import needs

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]

SEED: Final = 15


def plugins(folder: Path) -> tuple[Path, Path]:
    """A folder with a child program, and what that is given."""
    folder.mkdir()
    made = folder / "collector.d"
    made.mkdir(mode=0o750)
    kept = folder / "kept"
    put(made, "keep.conf", f"path = {sink(folder, 'keep.sh', kept)}\n")
    return made, kept


def put(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"active = yes\n{text}")
    path.chmod(0o640)


def numbers(path: Path) -> list[int]:
    return numbers_in(path.read_bytes()) if path.exists() else []


def has(path: Path, count: int) -> bool:
    return len(set(numbers(path))) >= count


def status_table(run: Path) -> str:
    argv = [sys.executable, "-m", "audisp.cli.audisp", "status", "--runtime-dir", str(run)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def test_kills_leave_nothing_out(tmp_path: Path) -> None:
    """Killed as it likes, each record comes to the plugin, in order but for what comes once more."""
    folder, kept = plugins(tmp_path / "plugins")
    collector, key = keyed(tmp_path / "collector", plugin_dir=folder)
    chance, count = random.Random(SEED), 0
    with collector, sender(tmp_path / "remote", collector.port, key) as remote:
        for _ in range(6):
            more = chance.randrange(500, 3_000)
            remote.write(numbered(count + 1, more))
            count += more
            some = len(set(numbers(kept))) + chance.randrange(1, 400)
            wait_for(partial(has, kept, min(some, count)), "some more has come")
            collector.restart()
        wait_for(partial(has, kept, count), "all has come")
        assert collector.verified().status == 0
    fresh, before = [], 0
    for number in numbers(kept):
        if number > before:
            fresh.append(number)
            before = number
    assert fresh == list(range(1, count + 1))


@needs("audisp-remote")
def test_hosts_reload_and_status(tmp_path: Path) -> None:
    folder, kept = plugins(tmp_path / "plugins")
    mine = tmp_path / "mine"
    put(folder, "mine.audisp", f"plugin = output\nfile = {mine}\nhosts = {WEB1}\n")
    collector, key = keyed(tmp_path / "collector", plugin_dir=folder, plain="yes")
    with (
        collector,
        sender(tmp_path / "remote", collector.port, key) as remote,
        TheirRemote(tmp_path / "theirs", collector.port) as theirs,
    ):
        remote.write(numbered(1, 200))
        theirs.write(numbered(1_001, 200))
        wait_for(lambda: len(numbers(kept)) == 400 and len(numbers(mine)) == 200, "each has its own")
        assert numbers(mine) == list(range(1, 201))
        status = collector.status()
        assert status["plugins"]["mine"]["filtered"] == 200
        assert status["sources"]["network"]["routed"] == 400
        table = status_table(collector.run)
        assert "network" in table
        assert "mine" in table
        put(folder, "mine.audisp", f"plugin = output\nfile = {mine}\nhosts = addr:*\n")
        collector.send(signal.SIGHUP)
        wait_for(lambda: "mine restarted" in collector.said(), "it is read again")
        remote.write(numbered(201, 100))
        theirs.write(numbered(1_201, 100))
        wait_for(lambda: len(numbers(kept)) == 600 and len(numbers(mine)) == 300, "each has its own")
        assert numbers(mine) == [*range(1, 201), *range(1_201, 1_301)]
        collector.send(signal.SIGUSR1)
        wait_for(lambda: b"type=DAEMON_ROTATE" in kept.read_bytes(), "plugins rotate")
        collector.send(signal.SIGCONT)
        wait_for((collector.run / "auditd.state").exists, "the state file is written")
        tail = [
            sys.executable,
            "-m",
            "audisp.cli.audisp",
            "tail",
            "--runtime-dir",
            str(collector.run),
            "--shape",
            "raw",
        ]
        with subprocess.Popen(tail, stdout=subprocess.PIPE) as looking:
            wait_for(lambda: "tail-1" in collector.status()["plugins"], "somebody looks")
            theirs.write(numbered(1_301, 1))
            assert looking.stdout is not None
            while b"n=1301 " not in looking.stdout.readline():
                pass
            looking.terminate()
    assert numbers(mine) == [1_301], "a file of its own"
