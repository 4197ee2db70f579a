"""The books on disk, and what the next run makes of them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from audisp.dispatch import ledger
from audisp.dispatch.crash import Crash, first_serial
from audisp.errors import StoreError
from audisp.record import Block
from tests.dispatch.intakes import block

SOURCES = {"netlink": {"last_serial": 77}}
PLUGINS: dict[str, dict[str, Any]] = {"a": {"at_risk": 5, "first_open": 70}, "b": {"at_risk": 0, "first_open": None}}


def test_no_books_is_a_first_run(tmp_path: Path) -> None:
    assert ledger.read(tmp_path) is ledger.NOTHING
    assert ledger.NOTHING.crash("a") is None
    assert ledger.NOTHING.last_serial("netlink") == 0


def test_a_clean_end_lost_nothing(tmp_path: Path) -> None:
    ledger.write(tmp_path, SOURCES, PLUGINS, clean=True)
    found = ledger.read(tmp_path)
    assert found.clean
    assert found.same_boot
    assert found.crash("a") is None
    assert found.last_serial("netlink") == 77
    assert found.last_serial("multicast") == 0
    assert stat.S_IMODE(os.lstat(tmp_path / ledger.NAME).st_mode) == 0o600
    assert os.listdir(tmp_path) == [ledger.NAME]


def test_a_kill_may_have_lost_what_waited(tmp_path: Path) -> None:
    ledger.write(tmp_path, SOURCES, PLUGINS, clean=False)
    found = ledger.read(tmp_path)
    assert found.crash("a") == Crash(5, 70)
    assert found.crash("b") == Crash(0, None)
    assert found.crash("unknown") is None
    assert "from serial 70 on" in Crash(5, 70).text()
    assert Crash(5, 70).fields("a") == "op=lost plugin=a count=5 first=70 last=? reason=crash res=failed"
    assert Crash(5, None) + Crash(3, 9) == Crash(8, 9)
    assert Crash(5, 70) + Crash(3, 9) == Crash(8, 70)


def test_serials_begin_anew_with_each_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.write(tmp_path, SOURCES, PLUGINS, clean=False)
    monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    found = ledger.read(tmp_path)
    assert found.last_serial("netlink") == 0
    assert found.crash("a") == Crash(5, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"format": 99}',
        b'{"format": 1, "boot": "x", "clean": true, "sources": [], "plugins": {}}',
        b'{"format": 1, "boot": "x", "clean": true, "sources": {"a": 3}, "plugins": {}}',
        b"[" * 100_000,
        b"\xff\xfe",
        b" " * (ledger.MAX_BYTES + 10),
    ],
)
def test_what_is_no_book_of_ours_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ledger.NAME).write_bytes(data)
    with pytest.raises(StoreError, match="what the last run lost is not known"):
        ledger.read(tmp_path)


def test_odd_figures_count_as_nothing(tmp_path: Path) -> None:
    plugins: dict[str, dict[str, Any]] = {"a": {"at_risk": "many", "first_open": "x"}, "b": {"at_risk": -3}}
    ledger.write(tmp_path, {"netlink": {"last_serial": "x"}}, plugins, clean=False)
    found = ledger.read(tmp_path)
    assert found.last_serial("netlink") == 0
    assert found.crash("a") == found.crash("b") == Crash(0, None)


def test_neither_links_nor_folders_are_read_or_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(json.dumps({}))
    (tmp_path / ledger.NAME).symlink_to(other)
    with pytest.raises(StoreError):
        ledger.read(tmp_path)
    (tmp_path / f"{ledger.NAME}.new").symlink_to(other)
    with pytest.raises(StoreError):
        ledger.write(tmp_path, {}, {}, clean=True)
    assert other.read_text() == "{}"
    (tmp_path / ledger.NAME).unlink()
    (tmp_path / ledger.NAME).mkdir()
    with pytest.raises(StoreError):
        ledger.read(tmp_path)


def test_the_first_serial_at_risk_is_the_streams() -> None:
    own = Block(b"type=DAEMON_START msg=audit(1.000:9999): op=start\n", 1, "internal", 0.0)
    assert first_serial([own, block(5, 2), block(7)]) == 5
    assert first_serial([own]) is None
    assert first_serial([]) is None
