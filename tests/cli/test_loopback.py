"""`audispd --observe --collector`, which is `make run`: what passes is in the collector, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stream import wait_for
from tests.e2e.test_observe import Terminal
from tests.needs import needs

COMMAND = [sys.executable, "-I", "-m", "audisp.cli.audispd", "--observe", "--collector"]
LINE = "type=LOGIN msg=audit(1700000000.123:{}): pid=1 uid=0 res=1\n"
ENDS = 60
"""Seconds in which anything here has ended by far; what hangs is killed and fails."""
STORED = re.compile(r"host at the collector +stored +lag +missing\n(\S+) +([\d,]+) +([\d,?]+) +([\d,]+)\n")
OWN = 2
"""DAEMON_START and DAEMON_END."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for temporary ones."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def stored(text: str) -> tuple[str, int, str, str]:
    """Host, records, lag, missing."""
    found = STORED.search(text)
    assert found is not None, text
    return found[1], int(found[2].replace(",", "")), found[3], found[4]


@contextlib.contextmanager
def running(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """It reads its standard input, in a process group of its own, as a shell's foreground job is."""
    with (place.parent / "out").open("wb") as out, (place.parent / "err").open("wb") as err:
        process = subprocess.Popen(
            [*COMMAND, "--source", "stdin"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env=os.environ | {"TMPDIR": str(place)},
            start_new_session=True,
        )
    try:
        wait_for(lambda: "connected to 127.0.0.1:" in (place.parent / "err").read_text(), "it forwards")
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def test_what_a_file_holds_is_stored_once_and_nothing_is_left(tmp_path: Path, place: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text("".join(LINE.format(number) for number in range(5000)))
    done = subprocess.run(
        [*COMMAND, "--source", f"file:{log}"],
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=ENDS,
        check=True,
    )
    assert stored(done.stdout)[1:] == (5000 + OWN, "0", "0")
    rows = {row[0]: row for row in map(str.split, done.stdout.splitlines()) if len(row) > 4}
    assert rows["remote"][2:7] == ["5,002", "5,002", "0", "0", "0"]
    assert rows["stdout"][2:4] == ["5,002", "5,002"]
    assert re.search(rf"a collector listens at 127\.0\.0\.1:\d+, .*{place}/audisp-", done.stderr)
    assert re.search(rf"{place}/audisp-\w+ is removed, and nothing else is left\n\Z", done.stderr)
    assert list(place.iterdir()) == []


def test_ctrl_c_reaches_all_and_what_waits_is_drained_into_the_collector(place: Path) -> None:
    with running(place) as process:
        (folder,) = (path.parent for path in place.glob("*/host.key"))
        assert folder.stat().st_mode & 0o777 == 0o700
        (key,) = re.findall(r"[0-9a-f]{64,}", (folder / "host.key").read_text())
        assert (folder / "host.key").stat().st_mode & 0o777 == 0o400
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert key.encode() not in each.read_bytes()
        log = (folder / "collector.log").read_text()
        assert process.stdin is not None
        process.stdin.write("".join(LINE.format(number) for number in range(20_000)).encode())
        process.stdin.flush()
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(ENDS) == 0
    out, err = ((place.parent / name).read_text() for name in ("out", "err"))
    offered = next(row.split()[2:4] for row in out.splitlines() if row.startswith("remote "))
    assert offered[0] == offered[1]
    assert stored(out)[1:] == (int(offered[0].replace(",", "")), "0", "0")
    assert key not in out + err + log
    assert "Traceback" not in err
    assert list(place.iterdir()) == []


def test_whoever_kills_it_kills_the_collector(place: Path) -> None:
    with running(place) as process:
        (file,) = place.glob("*/run/audisp-collector.pid")
        pid = int(file.read_text())
        process.kill()
        process.wait()
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the collector has ended")


def test_a_collector_that_cannot_start_is_said_and_observing_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(LINE.format(1))
    # Too long for the collector's control socket (107 bytes, unix(7)), and not for audispd's own.
    place = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1 - len("/audisp-12345678/control.sock")))
    place.mkdir()
    done = subprocess.run(
        [*COMMAND, "--source", f"file:{log}"],
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=ENDS,
        check=True,
    )
    assert re.search(r"no collector: it ended with status 1 \(.*control\.sock.*\); observing goes on", done.stderr)
    assert " LOGIN " in done.stdout
    assert "at the collector" not in done.stdout
    assert list(place.iterdir()) == []


def test_a_plugin_folder_of_one_s_own_is_used_beside_it(tmp_path: Path, place: Path) -> None:
    log, out, plugins = tmp_path / "audit.log", tmp_path / "out.log", tmp_path / "plugins.d"
    log.write_text(LINE.format(1))
    plugins.mkdir(mode=0o750)
    (plugins / "mine.audisp").write_text(f"active = yes\nplugin = output\nfile = {out}\n")
    (plugins / "mine.audisp").chmod(0o640)
    done = subprocess.run(
        [*COMMAND, "--source", f"file:{log}", "--plugins", str(plugins)],
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=ENDS,
        check=True,
    )
    assert "type=LOGIN" in out.read_text()
    assert stored(done.stdout)[1] == 1 + OWN
    assert plugins.is_dir()


def test_a_collector_alone_is_refused() -> None:
    argv = [word for word in COMMAND if word != "--observe"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=ENDS)
    assert done.returncode == 2
    assert "--collector goes with --observe" in done.stderr


@needs("root")
@pytest.mark.timeout(180, func_only=True)
@pytest.mark.parametrize("root", [True, False], ids=["root", "user"])
def test_on_a_terminal(tmp_path: Path, root: bool) -> None:
    argv = [*COMMAND]
    if not root:
        # The interpreter and the checkout may be where only root can go; owning and writing is what a user may not.
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        argv = [*user, "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", *argv]
    with Terminal(argv) as screen:
        found = screen.expect(r"All of\s+it is in (/\S+/audisp-\w+),")
        screen.expect(r"\d\d:\d\d:\d\d\.\d\d\d (?!DAEMON)[A-Z_]+ +\d+  ")
        screen.expect(r"connected to 127\.0\.0\.1:\d+, native protocol")
        time.sleep(0.5)
        assert screen.end() == 0
        text = screen.text
    host, records, lag, _ = stored(text)
    assert (host, lag) == (os.uname().nodename, "0")
    assert records > OWN
    assert "Permission denied" not in text
    assert not Path(found[1]).exists()
