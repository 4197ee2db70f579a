"""Private folders: what is kept aside, and where nothing is written."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from audisp.dispatch import spool as spool_module
from audisp.dispatch.spool import save_aside
from audisp.errors import StoreError
from tests.dispatch.spools import MIB


def test_save_aside(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    assert save_aside(folder, "syslog", b"one\n", 100) == folder / "syslog"
    assert save_aside(folder, "syslog", b"two\n", 100) == folder / "syslog.1"
    assert save_aside(folder, "syslog", bytes(93), 100) is None
    assert save_aside(folder, "log", bytes(92), 100) == folder / "log"
    assert (folder / "syslog.1").read_bytes() == b"two\n"
    assert (folder / "syslog").stat().st_mode & 0o7777 == 0o600
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert sorted(file.name for file in folder.iterdir()) == ["log", "syslog", "syslog.1"]


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a\n", "x" * 300, "é"])
def test_save_aside_refuses_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no file name"):
        save_aside(tmp_path / "bad", name, b"", 100)


def test_save_aside_follows_no_symlink(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir(0o700)
    (folder / "x").symlink_to(tmp_path / "victim")
    assert save_aside(folder, "x", b"data", 1000) == folder / "x.1"
    assert not (tmp_path / "victim").exists()


def test_save_aside_failing_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match=r"bad/x: "):
            save_aside(tmp_path / "bad", "x", bytes(5000), MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "bad").iterdir()) == []


def test_constants() -> None:
    assert (spool_module.SYNC_BYTES, spool_module.SYNC_SECONDS) == (1 << 20, 1.0)
