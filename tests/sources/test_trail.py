from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.sources import siblings
from audisp.sources.siblings import Busy, listing
from tests.sources.collect import line, lines
from tests.sources.rotating import PACK, Reader, RotatingLog, all_lines


def test_it_begins_at_the_beginning_and_goes_on_as_the_log_grows(log: RotatingLog, reader: Reader) -> None:
    log.write(10_000)
    assert reader.read() == all_lines(10_000)
    assert reader.state == "following"
    assert reader.read() == []
    for _ in range(3):
        log.write(1)
        assert reader.read() == [line(log.written)]
    assert not reader.counts
    assert not reader.said


def test_a_last_line_waits_for_its_end(log: RotatingLog, reader: Reader) -> None:
    log.write(1)
    log.begin(20)
    assert reader.read() == [line(1)]
    reader.restart()
    assert reader.read() == []
    log.write(1)
    assert reader.read() == [line(2), line(3)]


@pytest.mark.parametrize("first", [0, 1, 5, 30, 5000])
def test_a_restart_goes_on_where_the_last_run_was(log: RotatingLog, reader: Reader, first: int) -> None:
    log.write(first)
    assert reader.read() == all_lines(first)
    for more in (0, 1, 4000):
        reader.restart()
        log.write(more)
        assert reader.read() == all_lines(log.written)[-more or log.written :]
    assert not reader.counts


# ---- rotation ----


def test_a_renamed_log_is_read_until_the_next_one_is_begun(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    log.move()
    log.write(10)  # whoever writes has not noticed
    assert reader.read() == all_lines(20)[10:]
    assert reader.state == "waiting: No such file or directory"
    log.path.touch()
    log.write(10)
    assert reader.read() == all_lines(30)[20:]
    log.reopen()
    assert reader.read() == []
    assert not reader.counts
    log.write(10)
    assert reader.read() == all_lines(40)[30:]
    assert reader.counts == {"rotations": 1}
    assert reader.state == "following"


def test_what_is_written_to_the_old_one_when_the_new_one_has_begun_is_read(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    late = os.open(log.path, os.O_WRONLY | os.O_APPEND)
    log.rotate()
    log.write(1)
    assert reader.step().idle  # the new one was seen; the old one gets a look more
    os.write(late, line(100))
    os.close(late)
    assert reader.read() == [line(100), line(11)]


def test_a_line_without_end_is_given_up_at_a_rotation(log: RotatingLog, reader: Reader) -> None:
    log.write(3)
    log.begin(25)
    reader.read()
    log.rotate()
    log.held = b""
    log.write(2)
    assert reader.read() == [line(5), line(6)]
    assert reader.torn == [line(4)[:25]]


@pytest.mark.parametrize("read_first", [True, False])
@pytest.mark.parametrize("form", [None, *PACK])
def test_several_rotations_are_caught_up_with_in_order(
    log: RotatingLog, reader: Reader, form: str | None, read_first: bool
) -> None:
    log.write(500)
    assert reader.read() == all_lines(500)
    if read_first:
        reader.close()
    for _ in range(12):  # so that .10 comes after .2
        log.write(300)
        log.rotate()
        if form is not None:
            log.pack(form)
    log.write(7)
    if read_first:
        reader.restart()
    assert reader.read() == all_lines(log.written)[500:]
    assert reader.counts == {"rotations": 12}
    assert not reader.said


def test_an_old_file_is_packed_while_it_is_read(log: RotatingLog, reader: Reader) -> None:
    log.write(100_000)
    reader.step()  # not all of it
    log.rotate()
    log.write(10)
    log.rotate()
    log.pack("gz", 2)
    log.pack("xz", 1)
    log.write(10)
    reader.read()
    reader.restart()
    assert reader.counts == {"rotations": 2}
    log.write(1)
    assert reader.read() == [line(log.written)]


def test_a_file_that_lies_there_packed_and_plain_is_read_once(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    log.write(10)
    log.rotate()
    log.write(10)
    log.rotate()
    one = Path(f"{log.path}.1")
    Path(f"{one}.gz").write_bytes(PACK["gz"](one.read_bytes())[:50])
    log.write(10)
    assert reader.read() == all_lines(40)[10:]
    assert reader.counts == {"rotations": 2}


def test_dates_are_an_order_as_well(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    log.write(10)
    for day in range(28, 34):
        stamp = f"202402{day}" if day < 30 else f"202403{day - 29:02}"
        log.path.rename(f"{log.path}-{stamp}")
        if day % 2:
            dated = Path(f"{log.path}-{stamp}")
            Path(f"{dated}.xz").write_bytes(PACK["xz"](dated.read_bytes()))
            dated.unlink()
        log.reopen()
        log.write(10)
    # From before numbers were given up, and so older than everything: not in the row.
    for number in (1, 2):
        Path(f"{log.path}.{number}").write_bytes(lines(5, first=9_000))
    for way in ("live", "restart"):
        assert reader.read() == (all_lines(80)[10:] if way == "live" else [])
        reader.restart()
    assert reader.counts == {"rotations": 6}


def test_names_that_only_look_like_it_are_left_alone(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    reader.read()
    log.rotate()
    for name in (".1.bak", ".1~", ".old", "-1", ".2.gz.tmp", ".x", "x.1", ".1.gz.gz"):
        Path(f"{log.path}{name}").write_bytes(lines(3, first=5_000))
    Path(f"{log.path}.7").mkdir()
    Path(f"{log.path}.8").symlink_to(log.path)
    os.mkfifo(f"{log.path}.9")
    assert [each.name for each in listing(str(log.path))] == ["audit.log", "audit.log.1"]
    log.write(10)
    assert reader.read() == all_lines(20)[10:]


def test_a_folder_that_changes_while_it_is_looked_at_is_looked_at_again(
    log: RotatingLog, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(10)
    look, files = siblings._listing, []
    rotations = 2

    def rotating(path: str) -> list[siblings.Sibling]:
        nonlocal rotations
        found = look(path)
        files.append(found)
        if rotations:
            rotations -= 1
            log.rotate()
            log.write(1)
        return found

    monkeypatch.setattr(siblings, "_listing", rotating)
    assert [each.name for each in listing(str(log.path))] == ["audit.log", "audit.log.2", "audit.log.1"]
    assert len(files) == 4
    rotations = 100
    with pytest.raises(Busy):
        listing(str(log.path))
    assert reader.step().idle
    rotations = 0
    assert reader.read()


# ---- files that are gone ----


def test_when_the_file_is_gone_the_oldest_that_is_newer_is_next(log: RotatingLog, reader: Reader) -> None:
    log.keep = 4
    for _ in range(3):
        log.write(10)
        log.rotate()
    log.write(10)
    assert reader.read() == all_lines(40)[30:]
    reader.close()
    for _ in range(7):
        log.write(10)
        log.rotate()
    log.write(1)
    reader.restart()
    assert reader.read() == all_lines(111)[70:]
    assert reader.counts == {"gaps": 1, "rotations": 4}
    (said,) = reader.said
    assert said[0] == "warning"
    assert "audit.log.4 with audit(1700000000.071:71)" in said[1]
    assert "the last record read was audit(1700000000.040:40)" in said[1]


def test_so_it_is_while_it_runs_and_what_is_held_open_is_read_to_its_end(log: RotatingLog, reader: Reader) -> None:
    log.keep = 2
    log.write(10)
    reader.read()
    log.write(5)
    for _ in range(5):
        log.rotate()
        log.write(10)
    assert reader.read() == all_lines(15)[10:] + all_lines(65)[35:]
    assert reader.counts == {"gaps": 1, "rotations": 3}


@pytest.mark.parametrize("restart", [True, False])
def test_a_file_that_is_about_to_get_another_name_is_not_gone(log: RotatingLog, reader: Reader, restart: bool) -> None:
    log.write(10)
    reader.read()
    log.write(10)
    log.rotate()
    log.write(10)
    old = Path(f"{log.path}.1")
    data = old.read_bytes()
    old.unlink()
    if restart:
        reader.restart()
    while not reader.step().idle:
        pass
    Path(f"{old}.gz").write_bytes(PACK["gz"](data))
    assert reader.read() == all_lines(30)[10:]
    assert reader.counts == {"rotations": 1}


def test_older_files_are_not_taken_for_newer_ones(log: RotatingLog, reader: Reader) -> None:
    for _ in range(3):
        log.write(10)
        log.rotate()
    log.write(10)
    reader.read()
    log.path.unlink()
    reader.restart()
    assert reader.read() == []
    assert reader.state == "waiting: No such file or directory"
    log.reopen()
    log.write(10)
    assert reader.read() == all_lines(50)[40:]
    assert reader.counts == {"gaps": 1}


@pytest.mark.parametrize("restart", [True, False])
def test_an_inode_of_the_same_number_is_another_file(log: RotatingLog, reader: Reader, restart: bool) -> None:
    log.write(1000)
    reader.read()
    data = lines(2000, first=5_000)
    with log.path.open("r+b") as file:
        file.write(data)
    if restart:
        reader.restart()
    assert reader.read() == data.splitlines(keepends=True)
    assert reader.counts in ({"gaps": 1}, {"truncations": 1})
    assert reader.counts["gaps"] == restart


def test_of_an_empty_log_the_beginning_is_found_wherever_it_went(log: RotatingLog, reader: Reader) -> None:
    log.write(5)
    log.rotate()
    assert reader.read() == []
    reader.close()
    os.utime(f"{log.path}.1", ns=(0, log.path.stat().st_mtime_ns - 1_000_000_000))
    os.utime(log.path, ns=(0, log.path.stat().st_mtime_ns))
    for form in PACK:
        log.write(10)
        log.rotate()
        log.pack(form)
    log.write(10)
    reader.restart()
    assert reader.read() == all_lines(45)[5:]
    assert reader.counts == {"rotations": 3}


def test_a_log_of_which_nothing_was_read_before_the_end_is_read_whole(log: RotatingLog, reader: Reader) -> None:
    log.write(10)
    while reader.trail._log is None:
        step = reader.trail.step()
        reader.position = step.position or reader.position
    reader.restart()
    log.rotate()
    log.pack("gz")
    log.write(10)
    assert reader.read() == all_lines(20)
    assert reader.counts == {"rotations": 1}


# ---- everything in any order ----


OPERATIONS: Final = (
    *("write", "write", "write", "begin", "step", "step", "read", "restart", "rotate", "move", "pack", "pack", "copy"),
)


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 59)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_every_record_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    log = RotatingLog(tmp_path_factory.mktemp("any") / "audit.log")
    reader = Reader(log.path)
    reader.read(1)
    for operation, number in operations:
        match operation:
            case "write":
                log.write((1, 3, 40, 20_000)[number % 4])
            case "begin":
                log.begin(number + 1)
            case "step":
                reader.step()
            case "read":
                reader.read(number % 3 + 1)
            case "restart":
                reader.restart()
            case "rotate":
                log.write(1)  # no log is rotated while it is empty
                log.rotate()
            case "move":
                log.write(1)
                log.move()
                log.write(1)
                log.reopen()
            case "pack":
                log.pack(list(PACK)[number % 3], number // 3 % 3 + 1)
            case "copy":
                log.write(1)
                if reader.trail._log is not None and not reader.trail._log.offset:
                    reader.read(1)  # nothing tells a truncated log of which no record had been read
                log.copy_and_truncate()
    log.write(1)
    reader.read()
    assert [int(each.split(b":")[1].split(b")")[0]) for each in reader.lines] == list(range(1, log.written + 1))
    assert b"".join(reader.lines) == b"".join(all_lines(log.written))
    assert not reader.torn
    assert not reader.counts["gaps"] + reader.counts["read_errors"]
    log.close()
    reader.close()
