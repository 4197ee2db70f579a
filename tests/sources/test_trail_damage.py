from __future__ import annotations

import bz2
import os
import socket
import threading
from pathlib import Path

import pytest

from audisp.sources.opened import HEAD, TAIL, Opened
from audisp.sources.trail import ABSENT_STEPS, Trail
from tests.sources.collect import line, lines
from tests.sources.rotating import PACK, Reader, RotatingLog, all_lines

# ---- truncation ----


@pytest.mark.parametrize("grown", [0, 1, 10, 999, 1000, 1001, 5000])
@pytest.mark.parametrize("restart", [True, False])
def test_a_truncated_log_is_read_from_its_beginning_however_long_it_is(
    log: RotatingLog, reader: Reader, grown: int, restart: bool
) -> None:
    log.write(1000)
    assert reader.read() == all_lines(1000)
    os.truncate(log.path, 0)
    log.write(grown)
    if restart:
        reader.restart()
    assert reader.read() == all_lines(1000 + grown)[1000:]
    assert reader.counts == ({"gaps": 1} if restart else {"truncations": 1})
    ((level, text),) = reader.said
    assert level == "warning"
    assert "the last record read was audit(1700000000.000:1000)" in text


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("form", [None, *PACK])
@pytest.mark.parametrize("unread", [0, 1, 400])
@pytest.mark.parametrize("grown", [0, 1, 3000])
def test_of_a_truncated_log_the_copy_is_read_to_its_end(
    log: RotatingLog, reader: Reader, restart: bool, form: str | None, unread: int, grown: int
) -> None:
    log.rotate()
    log.write(1000)
    log.begin(30)
    assert reader.read() == all_lines(1000)
    log.write(unread)
    log.copy_and_truncate()
    if form is not None:
        log.pack(form)
    log.write(grown)
    if restart:
        reader.restart()
    assert reader.read() == all_lines(log.written)[1000:]
    assert reader.counts["truncations"] == (not restart)
    assert reader.counts["gaps"] == 0
    assert reader.torn == []


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("grown", [0, 5])
def test_a_log_that_lost_its_end_is_read_again_for_nobody_knows_what_is_new_in_it(
    log: RotatingLog, reader: Reader, restart: bool, grown: int
) -> None:
    log.write(1000)
    reader.read()
    left = all_lines(950)
    os.truncate(log.path, sum(map(len, left)))
    log.write(grown)
    if restart:
        reader.restart()
    assert reader.read() == left + all_lines(1000 + grown)[1000:]
    assert reader.counts == {"truncations": 1}
    assert "was truncated" in reader.said[0][1]


def test_a_log_that_is_something_else_behind_the_same_beginning_is_read_again(log: RotatingLog, reader: Reader) -> None:
    log.write(1000)
    reader.read()
    reader.close()
    data = log.path.read_bytes().replace(b":700):", b":777):")
    log.path.write_bytes(data.replace(b":990):", b":999):"))
    reader.restart()
    assert reader.read() == data.replace(b":990):", b":999):").splitlines(keepends=True)
    assert reader.counts == {"truncations": 1}
    assert "written anew" in reader.said[0][1]


def test_a_line_that_was_begun_and_is_another_now_is_read_again(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    length = log.path.stat().st_size
    log.begin(30)
    reader.read()
    os.truncate(log.path, length)
    log.held = b""
    log.write(2, "op=other")
    assert reader.read() == [line(12, "op=other"), line(13, "op=other")]
    assert reader.torn == []


def test_a_position_is_told_by_more_than_one_record(log: RotatingLog, reader: Reader) -> None:
    """Records that are all alike behind a long beginning: nothing but the beginning tells such files apart."""
    same = line(7, "x" * 400)
    log.path.write_bytes(line(1) + same * 100)
    assert len(reader.read()) == 101
    assert reader.position is not None
    assert reader.position.head_bytes == HEAD
    assert reader.position.tail_bytes == TAIL
    reader.close()
    log.rotate()
    log.path.write_bytes(line(2) + same * 100)
    reader.restart()
    assert reader.read() == [line(2), *[same] * 100]
    assert reader.counts == {"rotations": 1}


# ---- what cannot be read ----


def test_a_log_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "audit.log"
    reader = Reader(path)
    reader.trail.check()
    assert reader.read() == []
    assert reader.state == "waiting: No such file or directory"
    path.parent.mkdir()
    assert reader.read() == []
    path.write_bytes(lines(5))
    assert reader.read() == all_lines(5)
    assert reader.state == "following"
    path.unlink()
    assert reader.read(ABSENT_STEPS - 1) == []
    assert reader.state == "following"  # it may be about to be made
    assert reader.read() == []
    assert reader.state == "waiting: No such file or directory"
    path.write_bytes(lines(5, first=6))
    assert reader.read() == all_lines(10)[5:]
    reader.close()


def test_what_can_never_be_followed_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "log").write_bytes(lines(1))
    (tmp_path / "link").symlink_to("log")
    (tmp_path / "gz").write_bytes(PACK["gz"](lines(1)))
    (tmp_path / "bz2").write_bytes(bz2.compress(lines(1)))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, said in (
            (".", "it is a folder"),
            ("fifo", "it is a pipe; use stdin"),
            ("socket", "it is a socket; use unix:PATH"),
            ("link", "it is a symbolic link; name the file"),
            ("gz", "it is compressed, and so will not grow; use file:PATH"),
            ("bz2", "it is compressed; use bzcat"),
            ("log/x", "Not a directory"),
        ):
            with pytest.raises(OSError, match=said):
                Trail(str(tmp_path / name)).check()


def test_something_else_in_the_place_of_the_log_is_said_and_outlived(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    for what, said in (
        ("folder", "waiting: it is a folder"),
        ("pipe", "waiting: it is a pipe"),
        ("link", "waiting: it is not a regular file"),
    ):
        log.move()
        if what == "folder":
            log.path.mkdir()
        elif what == "pipe":
            os.mkfifo(log.path)
        else:
            log.path.symlink_to("audit.log.1")
        log.write(1)  # still to the old one
        assert reader.read() == [line(log.written)]
        assert reader.state.startswith(said)
        if what == "folder":
            log.path.rmdir()
        else:
            log.path.unlink()
        log.reopen()
        log.write(1)
        assert reader.read() == [line(log.written)]
    assert reader.counts == {"rotations": 3}


def test_a_sibling_that_cannot_be_read_is_left_out_and_said(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    for _ in range(3):
        log.rotate()
        log.write(10)
    Path(f"{log.path}.2").write_bytes(bz2.compress(lines(10)))
    assert reader.read() == all_lines(40)[20:]
    assert reader.counts == {"gaps": 1, "rotations": 2}
    assert [level for level, _ in reader.said] == ["error"]
    assert f"{log.path}.2 is left out: it is compressed; use bzcat" in reader.said[0][1]


def test_a_damaged_sibling_gives_what_it_has(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    log.write(50_000)
    log.rotate()
    packed = PACK["zst"](Path(f"{log.path}.1").read_bytes())
    Path(f"{log.path}.1").unlink()
    Path(f"{log.path}.1.zst").write_bytes(packed[: len(packed) // 2])
    log.write(10)
    reader.restart()
    found = reader.read()
    first = len(found) - 10
    assert first > 1000
    assert found == all_lines(10 + first)[10:] + all_lines(log.written)[-10:]
    assert reader.counts == {"rotations": 1, "damaged": 1}
    assert "break off behind" in reader.said[0][1]


def test_a_read_that_fails_is_said_and_tried_again(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    log.begin(30)
    reader.read()
    log.write(10)
    opened = reader.trail._log
    assert opened is not None
    broken = os.open(log.path, os.O_WRONLY)
    os.dup2(broken, opened.store._file)  # type: ignore[attr-defined]
    os.close(broken)
    step = reader.step()
    assert step.idle
    assert "Bad file descriptor while reading" in reader.state
    assert reader.read() == all_lines(21)[10:]
    assert reader.counts == {"read_errors": 1}
    assert reader.state == "following"


def test_a_file_is_closed_by_the_thread_that_reads_it(log: RotatingLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write(10)
    trail = Trail(str(log.path))
    assert trail.step().chunks or trail.step().chunks
    opened = trail._log
    assert opened is not None
    file: int = opened.store._file  # type: ignore[attr-defined]
    reading, go_on = threading.Event(), threading.Event()

    def slow(self: Opened) -> bytes:
        reading.set()
        go_on.wait(20)
        return b""

    monkeypatch.setattr(Opened, "more", slow)
    thread = threading.Thread(target=trail.step)
    thread.start()
    assert reading.wait(20)
    trail.close()
    os.fstat(file)
    go_on.set()
    thread.join()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file)
    assert not trail.step().chunks
    trail.close()
