"""`audispd --observe` as a person meets it: without privileges, without auditd, on a terminal or in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-I", "-m", "audisp.cli.audispd", "--observe"]
LINE = "type=LOGIN msg=audit(1700000000.123:{}): pid=1 uid=0 res=1\n"
ENDS = 30
"""Seconds in which anything here has ended by far; what hangs is killed and fails."""


def test_file_is_shown_to_its_end_and_the_books_follow(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text("".join(LINE.format(number) for number in range(50)))
    done = subprocess.run(
        [*COMMAND, "--source", f"file:{log}"], capture_output=True, text=True, timeout=ENDS, check=True
    )
    shown = [line for line in done.stdout.splitlines() if " LOGIN " in line]
    assert len(shown) == 50
    rows = {row[0]: row for row in map(str.split, done.stdout.splitlines()) if len(row) > 4}
    assert rows[f"file:{log}"][1:4] == ["50", "50", "0"]
    # offered, delivered, dropped, quarantined, waiting: the records, DAEMON_START and DAEMON_END.
    assert rows["stdout"][2:7] == ["52", "52", "0", "0", "0"]


def test_ends_when_nobody_reads_any_more() -> None:
    # Its source, stdin, stays open: only the reader's leaving can end it.
    with subprocess.Popen(
        [*COMMAND, "--source", "stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(LINE.format(1).encode())
        process.stdin.flush()
        assert b"DAEMON_START" in process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(ENDS) == 0
        finally:
            process.kill()
        assert b"Traceback" not in (told := process.stderr.read())
        assert b"BrokenPipe" not in told


def test_leaves_no_file_behind(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(LINE.format(1))
    folder = tmp_path / "tmp"
    folder.mkdir()
    subprocess.run(
        [*COMMAND, "--source", f"file:{log}"],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=ENDS,
        check=True,
    )
    assert list(folder.iterdir()) == []


def test_check_and_status_survive_a_reader_that_leaves() -> None:
    for words in (
        ["check", str(Path(__file__).resolve().parents[2] / "conf")],
        ["status", "--runtime-dir", "/nowhere"],
    ):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-I", "-m", "audisp.cli.audisp", *words],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=ENDS,
            check=False,
        )
        os.close(write)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr
