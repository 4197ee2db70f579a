"""`audisp cat` as a process: files of every kind, standard input, filters, exit codes, and what a terminal gets."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from tests.needs import ROOT

AUDISP = Path(sys.executable).with_name("audisp")
MIXED = ROOT / "tests" / "corpus" / "mixed.log"


def cat(*words: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([AUDISP, "cat", *map(str, words)], input=given, capture_output=True, timeout=50, check=False)


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lzma.compress, zstandard.compress], ids=lambda pack: pack.__name__
)
def test_raw_gives_every_record_back(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log"
    path.write_bytes(pack(MIXED.read_bytes()))
    done = cat(path, "--shape", "raw")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(done.stdout.splitlines()) == sorted(MIXED.read_bytes().splitlines())


def test_one_event_a_line_from_standard_input_in_pieces() -> None:
    whole = cat("-", "--shape", "ecs", given=MIXED.read_bytes())
    assert whole.returncode == 0
    documents = [json.loads(line) for line in whole.stdout.splitlines()]
    stamps = {line.split(b"msg=", 1)[1].split(b" ", 1)[0] for line in MIXED.read_bytes().splitlines()}
    assert len(documents) == len(stamps)


def test_an_event_may_begin_in_one_file_and_end_in_the_next(tmp_path: Path) -> None:
    lines = MIXED.read_bytes().splitlines(keepends=True)
    for cut in (2, 3, 40):
        for name, part in (("log.1", lines[:cut]), ("log", lines[cut:])):
            (tmp_path / name).write_bytes(b"".join(part))
        both = cat(tmp_path / "log.1", tmp_path / "log", "--shape", "laurel")
        assert both.stdout == cat(MIXED, "--shape", "laurel").stdout


def test_filters() -> None:
    done = cat(MIXED, "--shape", "raw", "--filter", "\\record_type == EXECVE")
    assert done.returncode == 0
    found = done.stdout.splitlines()
    assert any(b"type=EXECVE " in line for line in found)
    assert len(found) < len(MIXED.read_bytes().splitlines())
    nothing = cat(MIXED, "--filter", "pid r= nothing")
    assert (nothing.returncode, nothing.stdout) == (1, b"")
    wrong = cat(MIXED, "--filter", "pid = 1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"audisp: column 5: ")


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(MIXED.read_bytes())[:-500])
    done = cat(tmp_path / "none", torn, "--shape", "raw")
    assert done.returncode == 2
    errors = done.stderr.decode().splitlines()
    assert errors[0] == f"audisp cat: {tmp_path}/none: No such file or directory"
    assert "gzip data" in errors[1]
    assert done.stdout.count(b"\n") > 3
    garbage = cat("-", "--shape", "raw", given=b"nonsense\n" + MIXED.read_bytes() + b"type=X msg=audit(1")
    assert garbage.returncode == 0
    assert b"2 lines are no audit records" in garbage.stderr


def test_a_shape_or_version_that_there_is_not() -> None:
    assert cat(MIXED, "--shape", "xml").returncode == 2
    done = cat(MIXED, "--shape", "laurel", "--shape-version", "7")
    assert done.returncode == 2
    assert b"laurel has 0.5, 0.8" in done.stderr


def test_nobody_reads_any_more() -> None:
    with subprocess.Popen([AUDISP, "cat", *[str(MIXED)] * 2000, "--shape", "raw"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(50) == 1


def test_a_terminal_gets_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        b"type=USER msg=audit(1700000000.123:1): pid=1 uid=0 msg='op=\x1b[2Jx \x9b31m \xe2\x80\xae res=success'\n"
    )
    for shape in ("raw", "text", "csv", "cef", "laurel"):
        leader, follower = pty.openpty()
        subprocess.run([AUDISP, "cat", str(path), "--shape", shape], stdout=follower, timeout=50, check=True)
        os.close(follower)
        data = b""
        try:
            while piece := os.read(leader, 65536):
                data += piece
        except OSError:
            pass  # the last follower is closed
        os.close(leader)
        assert not set(data) & ({*range(32)} - {10, 13} | {127}), shape
        assert "\u202e" not in data.decode("utf-8", "replace"), shape
        assert b"\x9b" not in data, shape


def test_output_that_cannot_be_written_is_no_fault_of_a_file() -> None:
    for script, said in (
        (f"exec {AUDISP} cat {MIXED} {MIXED} >/dev/full", b"audisp: standard output: No space left on device\n"),
        (f"exec {AUDISP} cat {MIXED} >&-", b"audisp: standard output is closed\n"),
    ):
        done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, timeout=50, check=False)
        assert (done.returncode, done.stderr) == (2, said)


def test_a_pipe_with_a_name_is_read() -> None:
    command = f"{AUDISP} cat <(cat {MIXED}) --shape raw"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=50, check=True)
    assert done.stdout.count(b"\n") == MIXED.read_bytes().count(b"\n")


def test_what_is_wrong_with_the_arguments_is_said_before_anybody_is_asked(tmp_path: Path) -> None:
    for words, said in (
        (["tail", "--filter", "x ="], b"audisp: column "),
        (["explain", "foo"], b"audisp: 'foo' is no event's id"),
        (["tail"], b"audisp: no audispd runs at "),
    ):
        done = subprocess.run([AUDISP, *words, "--runtime-dir", tmp_path], capture_output=True, timeout=50, check=False)
        assert done.stderr.startswith(said)
        assert done.returncode == (1 if words == ["tail"] else 2)
