"""The last serial, across runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from audisp.errors import StoreError
from audisp.sources.mark import SerialMark

BOOT = "0b2f3c55-8f1c-4a5e-9a55-3c6f7f1f9f11"


def test_kept(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with SerialMark(path, BOOT) as mark:
        assert mark.last == 0
        mark.set(4_294_967_295)
    assert path.stat().st_mode & 0o777 == 0o600
    with SerialMark(path, BOOT) as mark:
        assert mark.last == 4_294_967_295


def test_kept_over_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    child = os.fork()
    if not child:
        mark = SerialMark(path, BOOT)
        for serial in range(1, 1_000):
            mark.set(serial)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with SerialMark(path, BOOT) as mark:
        assert mark.last == 999


@pytest.mark.parametrize("boot", ["another-boot", ""])
def test_another_boot_begins_anew(tmp_path: Path, boot: str) -> None:
    path = tmp_path / "serial"
    with SerialMark(path, boot) as mark:
        mark.set(17)
    with SerialMark(path, BOOT if boot else "") as mark:
        assert mark.last == 0


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 48, b" " * 200])
def test_damage_is_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "serial"
    path.write_bytes(data)
    with SerialMark(path, BOOT) as mark:
        assert mark.last == 0
        assert mark.open == []
    assert path.stat().st_size == 112


def test_what_had_not_come_is_kept_with_it(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with SerialMark(path, BOOT) as mark:
        mark.set(100, [(20, 30), (40, 40)])
    with SerialMark(path, BOOT) as mark:
        assert (mark.last, mark.open) == (100, [(20, 30), (40, 40)])
        mark.set(101)
    with SerialMark(path, BOOT) as mark:
        assert (mark.last, mark.open) == (101, [])
        mark.set(200, [(2 * number, 2 * number) for number in range(1, 10)])
    with SerialMark(path, BOOT) as mark:
        assert mark.open == [(2, 2), (4, 4), (6, 6), (8, 18)]


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "serial").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="serial"):
        SerialMark(tmp_path / "serial", BOOT)
    assert not (tmp_path / "victim").exists()
