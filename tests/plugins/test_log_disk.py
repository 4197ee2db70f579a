"""`log`: low space, full and failing disks, suspension, flush. Full disks are real ones."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audisp.plugin import Retry
from tests.needs import needs
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.logs import MEBIBYTE, Clock, config, kib, serials, writer_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Suspension.


@pytest.mark.parametrize("action", ["suspend", "exec /bin/true"])
def test_suspended_records_are_counted_and_resume_ends_it(owner_host: BookingHost, tmp_path: Path, action: str) -> None:
    writer = writer_of(config(tmp_path, max_log_file=1, max_log_file_action=action), owner_host)
    writer.deliver(block_of([kib(n) for n in range(1500)]))
    assert serials(tmp_path / "audit.log") == list(range(1024))
    assert owner_host.counts["suspended_records"] == 476
    assert writer.state()["logging suspended"] == "yes"
    writer.deliver(block_of([record(1500), record(1500, b"", b"EOE")]))
    assert owner_host.counts["suspended_records"] == 477
    writer.rotate()
    assert owner_host.heard("not rotated, logging is suspended")
    acts = [(name, path) for name, _, path in owner_host.acts]
    assert acts == ([("exec", "/bin/true")] if action.startswith("exec") else [])
    (tmp_path / "audit.log").rename(tmp_path / "moved")
    writer.resume()
    writer.deliver(block_of([record(2000)]))
    assert serials(tmp_path / "audit.log") == [2000]
    assert writer.state()["logging suspended"] == "no"
    writer.close()


# Disk space. Thresholds are set around what is free, so that no disk has to be filled.


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("ignore", []),
        ("syslog", ["syslog"]),
        ("email", ["email"]),
        ("single", ["single"]),
        ("exec /bin/true", ["exec"]),
        ("suspend", []),
    ],
)
def test_space_left_acts_once(owner_host: BookingHost, tmp_path: Path, action: str, expected: list[str]) -> None:
    clock = Clock()
    settings = config(tmp_path, space_left=(2**31 - 1, "MiB"), space_left_action=action)
    writer = writer_of(settings, owner_host, clock)
    for serial in range(5):
        writer.deliver(block_of([record(serial)]))
        clock.now += 2
    assert [act[0] for act in owner_host.acts] == expected
    stopped = action in ("suspend", "exec /bin/true")
    assert writer.state()["logging suspended"] == ("yes" if stopped else "no")
    assert writer.state()["file system space action performed"] == "yes"
    assert serials(tmp_path / "audit.log") == ([0] if stopped else [0, 1, 2, 3, 4])
    writer.resume()
    writer.deliver(block_of([record(9)]))
    clock.now += 2
    writer.deliver(block_of([record(10)]))
    assert [act[0] for act in owner_host.acts] == expected * 2
    writer.close()


def test_admin_space_left_acts_on_its_own(owner_host: BookingHost, tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        space_left=(2**31 - 1, "MiB"),
        space_left_action="syslog",
        admin_space_left=(2**31 - 2, "MiB"),
        admin_space_left_action="halt",
    )
    writer = writer_of(settings, owner_host)
    writer.deliver(block_of([record(1)]))
    assert [act[0] for act in owner_host.acts] == ["syslog", "halt"]
    assert "admin_space_left is 2147483646 MiB" in owner_host.acts[1][1]
    writer.close()


def test_low_space_rotates_now_and_then(owner_host: BookingHost, tmp_path: Path) -> None:
    clock = Clock()
    settings = config(tmp_path, num_logs=3, space_left=(2**31 - 1, "MiB"), space_left_action="rotate")
    writer = writer_of(settings, owner_host, clock)
    for serial in range(30):
        writer.deliver(block_of([record(serial)]))
        clock.now += 2
    assert owner_host.counts["rotations"] == 6
    writer.close()


def test_a_share_is_taken_of_the_partition(owner_host: BookingHost, tmp_path: Path) -> None:
    writer = writer_of(config(tmp_path, space_left=(50, "%")), owner_host)
    found = os.statvfs(tmp_path)
    total = found.f_blocks * found.f_frsize
    assert writer.state()["space_left setting"] == f"{total // 2 // MEBIBYTE} MiB"
    writer.close()


# A full disk, for real.


@needs("root")
@pytest.mark.parametrize("action", ["ignore", "syslog", "single", "halt"])
def test_full_disk_keeps_whole_records_and_asks_again(owner_host: BookingHost, small_disk: Path, action: str) -> None:
    writer = writer_of(config(small_disk, disk_full_action=action), owner_host)
    lines = [record(n, b"z" * (700 + n % 90)) for n in range(600)]
    block = block_of(lines)
    for _ in range(3):
        with pytest.raises(Retry, match="No space left"):
            writer.deliver(block)
    log = small_disk / "audit.log"
    data = log.read_bytes()
    assert 0 < len(data) < 256 * 1024
    assert b"".join(lines).startswith(data)
    assert data.endswith(b"\n")
    assert [act[0] for act in owner_host.acts] == ([] if action == "ignore" else [action])
    assert owner_host.heard("is full") == (action == "ignore")
    assert writer.state()["space left on partition"] == "no"
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    writer.deliver(block_of([*lines, record(600)]))
    assert log.read_bytes() == b"".join(lines) + record(600)
    assert writer.state()["space left on partition"] == "yes"
    writer.close()


@needs("root")
def test_full_disk_suspends(owner_host: BookingHost, small_disk: Path) -> None:
    writer = writer_of(config(small_disk, disk_full_action="suspend"), owner_host)
    writer.deliver(block_of([kib(n) for n in range(300)]))
    kept = serials(small_disk / "audit.log")
    assert kept == list(range(len(kept)))
    assert owner_host.counts["suspended_records"] == 300 - len(kept)
    writer.close()


@needs("root")
def test_full_disk_rotates_the_oldest_away(owner_host: BookingHost, small_disk: Path) -> None:
    clock = Clock()
    settings = config(small_disk, disk_full_action="rotate", num_logs=2, max_log_file_action="rotate")
    (small_disk / "audit.log.1").write_bytes(b"o" * 100 * 1024)
    writer = writer_of(settings, owner_host, clock)
    clock.now += 60
    writer.deliver(block_of([kib(n) for n in range(200)]))
    first, second = serials(small_disk / "audit.log.1"), serials(small_disk / "audit.log")
    assert first + second == list(range(200))
    assert first
    assert second
    writer.close()


def test_other_errors_do_the_disk_error_action(
    owner_host: BookingHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(config(tmp_path), owner_host)
    # A descriptor that refuses every write, as a failing disk does.
    broken = os.open(tmp_path / "audit.log", os.O_RDONLY)
    good = writer._file.fd
    writer._file.fd = broken
    for _ in range(2):
        with pytest.raises(Retry, match="Bad file descriptor"):
            writer.deliver(block_of([record(1)]))
    assert [act[0] for act in owner_host.acts] == ["syslog"]
    assert writer.state()["disk error detected"] == "yes"
    os.close(broken)
    writer._file.fd = good
    writer.deliver(block_of([record(1)]))
    assert serials(tmp_path / "audit.log") == [1]
    writer.close()


# Flush.


@pytest.mark.parametrize(
    ("flush", "freq", "syncs"),
    [("none", 0, 0), ("incremental", 10, 2), ("incremental", 1, 10), ("data", 0, 10), ("sync", 0, 10)],
)
def test_flush_calls(
    owner_host: BookingHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flush: str,
    freq: int,
    syncs: int,
) -> None:
    calls: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd, name=name: calls.append(name))
    writer = writer_of(config(tmp_path, flush=flush, freq=freq), owner_host)
    for serial in range(10):
        writer.deliver(block_of([record(serial * 3 + n) for n in range(3)]))
    assert len(calls) == syncs
    assert set(calls) <= {"fsync" if flush == "sync" else "fdatasync"}
    writer.close()


def test_incremental_async_never_waits_for_the_disk(
    owner_host: BookingHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, entered, synced = threading.Event(), threading.Event(), []

    def slow(fd: int) -> None:
        entered.set()
        release.wait()
        synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fdatasync", slow)
    settings = config(tmp_path, flush="incremental_async", freq=1, num_logs=4, max_log_file_action="rotate")
    writer = writer_of(settings, owner_host)
    writer.deliver(block_of([record(1)]))
    assert entered.wait(10)
    for serial in range(2, 50):
        writer.deliver(block_of([record(serial)]))
    writer.rotate()
    writer.deliver(block_of([record(50)]))
    assert not synced
    release.set()
    writer.close()
    assert serials(tmp_path / "audit.log") == [50]
    assert (tmp_path / "audit.log.1").stat().st_size in synced
    assert (tmp_path / "audit.log").stat().st_size in synced


def test_sync_that_fails_is_booked(owner_host: BookingHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    writer = writer_of(config(tmp_path, flush="data"), owner_host)
    writer.deliver(block_of([record(1)]))
    assert owner_host.counts["sync_errors"] == 1
    assert [act[0] for act in owner_host.acts] == ["syslog"]
    writer.close()
