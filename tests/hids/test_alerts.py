"""The file of alerts, and what `audisp hids alerts` shows of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from audisp.cli.hids_alerts import line
from audisp.hids import alertfile
from audisp.hids.alertfile import KEEP, AlertFile, read


def entry(number: int, **more: Any) -> dict[str, Any]:
    return {"alert": number, "title": "t", "level": "high", "time": "2026", "event": "1.000:1", "count": 1, **more}


def shown(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "audisp.cli.audisp", "hids", "alerts", "--folder", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_turn_over_and_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4_000
    file = AlertFile(str(tmp_path), size)
    for number in range(1, 1_001):
        file.write([entry(number)])
    file.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == KEEP + 1
    assert all(each.stat().st_size <= size and each.stat().st_mode & 0o777 == 0o600 for each in files)
    numbers = [each["alert"] for each in read(tmp_path)]
    assert numbers == list(range(numbers[0], 1_001))
    assert AlertFile(str(tmp_path), size).last_number() == 1_000
    # One alert that is larger than a file is a file by itself.
    file = AlertFile(str(tmp_path), size)
    file.write([entry(1_001, records=["x" * 2 * size])])
    assert AlertFile(str(tmp_path), size).last_number() == 1_001


def test_what_a_crash_has_cut_costs_itself_alone(tmp_path: Path) -> None:
    file = AlertFile(str(tmp_path), 1 << 20)
    file.write([entry(1)])
    file.close()
    with (tmp_path / alertfile.NAME).open("a") as cut:
        cut.write('{"alert": 2, "tit')
    file = AlertFile(str(tmp_path), 1 << 20)
    file.write([entry(3)])
    file.close()
    assert [each["alert"] for each in read(tmp_path)] == [1, 3]


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_file_that_is_gone_is_begun_anew(tmp_path: Path, how: str) -> None:
    """rm, or logrotate, by a tired administrator."""
    file = AlertFile(str(tmp_path), 1 << 20)
    file.write([entry(1)])
    path = tmp_path / alertfile.NAME
    if how == "removed":
        path.unlink()
    else:
        path.rename(tmp_path / "kept")
    file.write([entry(2)])
    file.close()
    assert [each["alert"] for each in read(tmp_path)] == [2]


def test_numbers_go_on_whatever_stands_last(tmp_path: Path) -> None:
    file = AlertFile(str(tmp_path), 400)
    file.write([entry(7)])
    file.write([{**entry(3), "repeated": 5, "more": "x" * 400}, {"reaction": "notify", "alert": 9_999}])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["alerts.json", "alerts.json.1"]
    assert AlertFile(str(tmp_path), 400).last_number() == 7


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / alertfile.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        AlertFile(str(tmp_path), 1 << 20).write([entry(1)])
    assert (tmp_path / "elsewhere").read_text() == ""


def test_for_people_nothing_steers_the_terminal() -> None:
    hostile = "evil\x1b[2J\nforged \u202e line"
    for each in (
        line(entry(1, title=hostile, process={"pid": 1, "command_line": hostile})),
        line({"reaction": "kill_process", "alert": 1, "outcome": "done", "text": hostile, "act": 2}),
        line(entry(1, score={"score": 9, "why": [{"reason": hostile}]})),
    ):
        assert not {"\x1b", "\n", "\u202e"} & set(each)
        assert "evil" in each


def test_the_command(tmp_path: Path) -> None:
    missing = shown(tmp_path)
    assert missing.returncode == 2
    assert "there are no alerts" in missing.stderr
    file = AlertFile(str(tmp_path), 1 << 20)
    file.write([entry(1, level="low"), entry(2, records=["type=A msg=audit(1.000:1): \x1b"]), entry(2, count=5)])
    file.write([{"reaction": "notify", "alert": 2, "outcome": "done", "text": "mailed", "act": 1}])
    file.close()
    assert [each.split()[0] for each in shown(tmp_path).stdout.splitlines()] == ["1", "2", "2", "2"]
    assert [each.split()[0] for each in shown(tmp_path, "--level", "high").stdout.splitlines()] == ["2"] * 3
    assert len(shown(tmp_path, "--last", "1").stdout.splitlines()) == 1
    wrong = shown(tmp_path, "--last", "0")
    assert (wrong.returncode, "is not a number from 1 upwards" in wrong.stderr) == (2, True)
    assert " x5 " in shown(tmp_path, "--last", "2").stdout
    as_json = shown(tmp_path, "--json", "--number", "2").stdout.splitlines()
    assert [json.loads(each)["alert"] for each in as_json] == [2, 2, 2]
    whole = shown(tmp_path, "--number", "2").stdout
    assert "type=A msg=audit(1.000:1):" in whole
    assert "\x1b" not in whole


def test_following_goes_over_to_the_next_file(tmp_path: Path) -> None:
    file = AlertFile(str(tmp_path), 300)
    file.write([entry(1)])
    command = [sys.executable, "-u", "-m", "audisp.cli.audisp", "hids", "alerts", "--folder", str(tmp_path), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert following.stdout.readline().split()[0] == "1"
            for number in range(2, 12):
                time.sleep(0.05)
                file.write([entry(number)])
                assert following.stdout.readline().split()[0] == str(number)
        finally:
            following.kill()
