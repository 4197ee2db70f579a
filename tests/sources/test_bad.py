from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from audisp.parse.stream import DATA_KEPT, Rejected
from audisp.sources.bad import REPORT_SECONDS, RING_BYTES, RING_ENTRIES, WRITES_PER_SECOND, Rejects, file_name
from tests.sources.collect import Said


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def garbage(data: bytes = b"no record", count: int = 1) -> list[Rejected]:
    return [Rejected("garbage", data, len(data)) for _ in range(count)]


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(each) for each in path.read_text().splitlines()]


def test_a_reject_is_kept_exactly_in_a_file_of_ours_alone(tmp_path: Path) -> None:
    said = Said()
    rejects = Rejects("stdin", said, folder=str(tmp_path))
    data = b'\x1b[2J"\n\0\xff'
    rejects.keep([Rejected("torn", data, 5000)])
    path = tmp_path / "rejected-stdin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (entry,) = entries(path)
    assert bytes.fromhex(str(entry["hex"])) == data
    assert (entry["kind"], entry["size"], entry["source"]) == ("torn", 5000, "stdin")
    assert "\x1b" not in said.text
    assert "\n" not in said.text
    assert str(path) in said.text
    rejects.close()


def test_nothing_is_opened_before_something_is_rejected(tmp_path: Path) -> None:
    Rejects("stdin", Said(), folder=str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


def test_reports_are_few_and_miss_nothing() -> None:
    said, clock = Said(), Clock()
    rejects = Rejects("stdin", said, clock=clock)
    for _ in range(50):
        rejects.keep(garbage())
    assert len(said.lines) == 1
    clock.now += REPORT_SECONDS
    rejects.keep([Rejected("torn", b"type=")])
    assert len(said.lines) == 2
    assert '50 rejected (51 in all: garbage 50, torn 1), the last, torn: "type="' in said.lines[-1][1]
    rejects.keep(garbage())
    rejects.close()
    assert "1 rejected (52 in all" in said.lines[-1][1]
    rejects.close()
    assert len(said.lines) == 3


def test_memory_is_bounded_whatever_the_size_of_rejects() -> None:
    rejects = Rejects("stdin", Said(), clock=Clock())
    rejects.keep(garbage(b"x" * DATA_KEPT, 100))
    assert len(rejects.ring) == RING_BYTES // DATA_KEPT
    rejects.keep(garbage(b"", 5000))
    assert len(rejects.ring) == RING_ENTRIES
    rejects.keep([Rejected("torn", b"newest")])
    assert rejects.ring[-1].data == b"newest"
    assert rejects.total == 5101


def test_a_flood_is_counted_and_not_written(tmp_path: Path) -> None:
    clock = Clock()
    rejects = Rejects("stdin", Said(), folder=str(tmp_path), clock=clock)
    rejects.keep(garbage(count=3 * WRITES_PER_SECOND))
    rejects.keep(garbage())
    assert len(entries(tmp_path / "rejected-stdin")) == WRITES_PER_SECOND
    assert rejects.unkept == 2 * WRITES_PER_SECOND + 1
    clock.now += 1.0
    rejects.keep(garbage())
    assert len(entries(tmp_path / "rejected-stdin")) == WRITES_PER_SECOND + 1
    rejects.close()


def test_the_file_is_bounded_and_the_newest_survive(tmp_path: Path) -> None:
    rejects = Rejects("stdin", Said(), folder=str(tmp_path), file_bytes=1000)
    for number in range(100):
        rejects.keep([Rejected("garbage", b"%03d" % number)])
    now, before = tmp_path / "rejected-stdin", tmp_path / "rejected-stdin.1"
    assert sorted(tmp_path.iterdir()) == [now, before]
    assert now.stat().st_size <= 1000
    assert before.stat().st_size <= 1000
    assert bytes.fromhex(str(entries(now)[-1]["hex"])) == b"099"
    assert rejects.unkept == 0
    rejects.close()


def test_an_existing_file_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        rejects = Rejects("stdin", Said(), folder=str(tmp_path))
        rejects.keep(garbage())
        rejects.close()
    assert len(entries(tmp_path / "rejected-stdin")) == 2


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.touch(0o600)
    path.symlink_to(target)


def _hard_link(path: Path) -> None:
    target = path.with_name("target")
    target.touch(0o600)
    path.hardlink_to(target)


def _readable(path: Path) -> None:
    path.touch()
    path.chmod(0o644)


@pytest.mark.parametrize("make", [_link, _hard_link, _readable, os.mkfifo, os.mkdir])
def test_a_file_that_somebody_else_prepared_is_refused_once_and_nothing_is_lost_from_memory(
    tmp_path: Path, make: object
) -> None:
    assert callable(make)
    make(tmp_path / "rejected-stdin")
    said = Said()
    rejects = Rejects("stdin", said, folder=str(tmp_path))
    rejects.keep(garbage())
    rejects.keep(garbage())
    rejects.close()
    assert said.text.count("cannot be kept") == 1
    assert rejects.unkept == 2
    assert len(rejects.ring) == 2
    target = tmp_path / "target"
    assert not target.exists() or target.stat().st_size == 0


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    said = Said()
    rejects = Rejects("stdin", said, folder=str(tmp_path / "gone"))
    rejects.keep(garbage())
    assert "cannot be kept" in said.text
    assert rejects.total == 1


def test_file_names_are_safe_and_differ() -> None:
    assert file_name("stdin") == "rejected-stdin"
    names = {file_name(each) for each in ("unix:/a/b", "unix:/a_b", "file:../../etc/passwd", "file:" + "x" * 4000)}
    assert len(names) == 4
    assert not [name for name in names if "/" in name or ".." in name.removeprefix("rejected-")[:2] or len(name) > 100]
