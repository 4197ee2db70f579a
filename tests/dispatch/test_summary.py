"""What `audisp status` shows, and the state file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from audisp.dispatch import statefile
from audisp.dispatch.summary import duration, ledger_table
from tests.needs import needs


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (7_260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def plugin(**changes: object) -> dict[str, object]:
    books = {
        "state": "running",
        "offered": 10,
        "delivered": 4,
        "dropped": 0,
        "quarantined": 0,
        "waiting": 6,
        "queue_bytes": 100,
        "queue_max": 1000,
        "queue_records": 6,
        "queue_max_records": None,
        "restarts": 0,
        "losses": {},
        "carried": 0,
        "disk": 0,
        "redelivered": 0,
        "counters": {},
        "detail": {},
    }
    return books | changes


def table(**plugins: dict[str, object]) -> list[str]:
    sources = {
        "stdin": {
            "received": 1_000,
            "routed": 1_000,
            "rejected": 0,
            "bytes": 2_048,
            "counters": {"unread_records": 5, "unread_bytes": 99, "skipped_bytes": 3},
            "detail": {"unread": "5 records, 99 bytes", "ended": "yes", "state": "ended"},
        }
    }
    own = {"records": 0, "of": 0, "percent": 0}
    return ledger_table({"sources": sources, "plugins": plugins, "own_activity": own, "lost_in_crash": {}}).splitlines()


def test_the_nearer_bound_says_how_full_a_queue_is() -> None:
    lines = table(a=plugin(), b=plugin(queue_max_records=8))
    assert [line.split()[-3:-1] for line in lines if line[:2] in ("a ", "b ")] == [["10", "%"], ["75", "%"]]


def test_nothing_is_said_twice() -> None:
    assert "stdin: skipped bytes 3, ended, unread: 5 records, 99 bytes" in table(a=plugin())


def test_state_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / statefile.NAME
    statefile.write(path, ["a = 1"], 0)
    assert path.read_text() == "a = 1\n"
    assert path.stat().st_mode & 0o777 == 0o640

    def full(*names: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        statefile.write(path, ["a = 2"], 0)
    assert [each.name for each in tmp_path.iterdir()] == [statefile.NAME]
    assert path.read_text() == "a = 1\n"


@needs("root")
def test_state_file_without_the_right_to_give_it_a_group(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    child = os.fork()
    if not child:
        try:
            os.chdir(tmp_path)
            os.setgid(65_534)
            os.setuid(65_534)
            statefile.write(Path(statefile.NAME), ["a = 1"], 4)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = (tmp_path / statefile.NAME).stat()
    assert (found.st_uid, found.st_gid) == (65_534, 65_534)
