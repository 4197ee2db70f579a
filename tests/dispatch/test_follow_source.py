"""A followed log in a whole dispatcher: as a process that is stopped and started again, and as it is made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audisp.dispatch import ledger
from audisp.dispatch.main import Speech, make_source
from audisp.dispatch.plan import Options, load
from audisp.dispatch.say import Voice
from audisp.errors import ConfigError
from audisp.sources.contract import SourceSpec
from audisp.sources.follow import FollowSource
from audisp.sources.position import position_name
from tests.needs import ROOT
from tests.sources.rotating import RotatingLog, all_lines


def configure(folder: Path) -> Options:
    plugins = folder / "plugins.d"
    plugins.mkdir(0o750)
    for path, text in (
        (folder / "auditd.conf", f"plugin_dir = {plugins}\nlog_file = {folder}/own.log\nlog_format = RAW\n"),
        (folder / "audispd.conf", f"runtime_dir = {folder}/run\nstate_dir = {folder}/run/state\n"),
        (plugins / "stdout.audisp", "plugin = stdout\n"),
    ):
        path.write_text(text)
        path.chmod(0o640)
    with (folder / "auditd.conf").open("a") as file:
        file.write("write_logs = yes\nspace_left = 75\nadmin_space_left = 50\n")
    (folder / "run" / "state").mkdir(parents=True, mode=0o700)
    return Options(conf_dir=folder)


def records(path: Path) -> list[bytes]:
    return [each for each in path.read_bytes().splitlines(keepends=True) if not each.startswith(b"type=DAEMON_")]


def test_a_dispatcher_goes_on_in_the_log_where_it_was_stopped(tmp_path: Path) -> None:
    configure(tmp_path)
    log = RotatingLog(tmp_path / "audit.log")
    log.write(200_000)
    out, said = tmp_path / "out", tmp_path / "said"
    command = [sys.executable, "-m", "audisp.cli.audispd", "-f", "-c", str(tmp_path), "--source", f"follow:{log.path}"]
    for round_ in range(3):
        with out.open("ab") as stdout, said.open("ab") as stderr:
            child = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT)
        try:
            log.write(10)
            before = out.stat().st_size
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if round_:
                    if len(records(out)) >= log.written:
                        break
                    time.sleep(0.05)
                elif out.stat().st_size > before + 1000:  # in the middle of it
                    break
            child.send_signal(signal.SIGTERM)
            assert child.wait(20) == 0
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        log.write(10)
        log.rotate()
        log.write(10)
        log.rotate()
        log.pack("gz", 2)
    assert records(out) == all_lines(log.written - 20)
    state = tmp_path / "run" / "state" / position_name(f"follow:{log.path}")
    assert state.stat().st_mode & 0o777 == 0o600
    assert "WARNING" not in said.read_text()
    log.close()


def make(options: Options, path: Path, folder: Path) -> tuple[FollowSource, str]:
    """A source as the dispatcher makes it, and what was said."""
    said = folder / "said"
    with said.open("w") as file, contextlib.redirect_stderr(file), contextlib.ExitStack() as held:
        voice = Voice("stderr")
        held.callback(voice.close)
        plan = load(options)
        source = make_source(SourceSpec("follow", str(path)), plan, ledger.NOTHING, Speech(voice), held)
        assert isinstance(source, FollowSource)
    return source, said.read_text()


def test_its_own_log_is_not_followed(tmp_path: Path) -> None:
    options = configure(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    both = Options(conf_dir=tmp_path, no_fork=True, sources=("netlink", "follow:/x"))
    for path in (tmp_path / "own.log", tmp_path / "link" / "own.log"):
        with pytest.raises(ConfigError, match="the log that audispd itself writes"):
            make(both, path, tmp_path)
    make(both, tmp_path / "other.log", tmp_path)
    # Without the kernel's stream it writes none.
    make(Options(conf_dir=options.conf_dir, sources=("follow:/x",)), tmp_path / "own.log", tmp_path)


def test_a_position_that_cannot_be_kept_or_used_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = configure(tmp_path)
    path = tmp_path / "audit.log"
    state = tmp_path / "run" / "state" / position_name(f"follow:{path}")
    make(options, path, tmp_path)
    state.write_bytes(b"x" * 1024)
    make(options, path, tmp_path)
    assert "what an earlier run kept of its position cannot be used" in capfd.readouterr().err
    state.unlink()
    os.symlink("elsewhere", state)
    make(options, path, tmp_path)
    assert "each start begins at its beginning" in capfd.readouterr().err
