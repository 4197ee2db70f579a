"""`log`: what auditd.conf asks for, on real files and real file systems."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.plugin import ConfigError, Delivery, PluginError, Retry
from audisp_plugins.log import audisp_plugins, open_log
from audisp_plugins.log_config import Action, LogConfig, read_action, read_group, read_space
from audisp_plugins.log_file import LogFile
from audisp_plugins.log_writer import LogWriter
from tests.needs import ROOT, needs
from tests.plugins.booking import BookingHost, block_of, record

MEBIBYTE = 1 << 20
KIB_RECORD = 1024


def kib(serial: int) -> bytes:
    """A record of exactly 1 KiB, LF included."""
    head = record(serial, b"")[:-1]
    return head + b"x" * (KIB_RECORD - len(head) - 1) + b"\n"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def serials(path: Path) -> list[int]:
    return [int(found) for found in re.findall(rb"^type=SYSCALL msg=audit\([0-9.]+:(\d+)\)", path.read_bytes(), re.M)]


def config(folder: Path, **keys: Any) -> LogConfig:
    return LogConfig(log_file=folder / "audit.log", **keys)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def writer_of(settings: LogConfig, host: BookingHost, clock: Clock | None = None) -> LogWriter:
    file = LogFile(settings.log_file, settings.log_group, lambda text: host.say("notice", text))
    file.open_folder()
    return LogWriter(settings, host, file, clock or Clock())


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


# The file.


async def test_writes_log_form_and_makes_the_file_private(owner_host: BookingHost, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with open_log(config(tmp_path), owner_host) as delivery:
            assert isinstance(delivery, Delivery)
            delivery.deliver(block_of([record(1), record(1, b"", b"EOE"), b"node=n " + record(2, b"a=1 ")]))
    finally:
        os.umask(old)
    log = tmp_path / "audit.log"
    assert log.read_bytes() == record(1) + b"node=n " + record(2, b"a=1")
    assert mode_of(log) == 0o600
    assert os.listdir(tmp_path) == ["audit.log"]


@needs("root")
@pytest.mark.parametrize(("group", "now", "old"), [(0, 0o600, 0o400), (4, 0o640, 0o440)])
async def test_modes_with_and_without_a_group(
    owner_host: BookingHost, tmp_path: Path, group: int, now: int, old: int
) -> None:
    settings = config(tmp_path, log_group=group, num_logs=3, max_log_file_action=Action("rotate"))
    async with open_log(settings, owner_host) as delivery:
        assert isinstance(delivery, Delivery)
        assert delivery.rotate
        delivery.deliver(block_of([record(1)]))
        delivery.rotate()
    log, rotated = tmp_path / "audit.log", tmp_path / "audit.log.1"
    assert (mode_of(log), log.stat().st_gid, log.stat().st_uid) == (now, group, 0)
    assert (mode_of(rotated), rotated.stat().st_gid) == (old, group)
    assert serials(rotated) == [1]
    assert log.stat().st_size == 0


@needs("root")
async def test_existing_files_are_mended(owner_host: BookingHost, tmp_path: Path) -> None:
    log, rotated = tmp_path / "audit.log", tmp_path / "audit.log.1"
    for path in (log, rotated):
        path.write_bytes(record(1))
        os.chown(path, 65534, 65534)
        path.chmod(0o666)
    async with open_log(config(tmp_path), owner_host) as delivery:
        assert isinstance(delivery, Delivery)
        delivery.deliver(block_of([record(2)]))
    assert serials(log) == [1, 2]
    assert (mode_of(log), log.stat().st_uid, log.stat().st_gid) == (0o600, 0, 0)
    assert (mode_of(rotated), rotated.stat().st_uid, rotated.stat().st_gid) == (0o400, 0, 0)
    assert owner_host.heard("was uid 65534 gid 65534 mode 0666")


async def test_half_a_line_of_a_crash_is_ended(owner_host: BookingHost, tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_bytes(record(1) + b"type=SYSCALL msg=audit(17")
    async with open_log(config(tmp_path), owner_host) as delivery:
        assert isinstance(delivery, Delivery)
        delivery.deliver(block_of([record(2)]))
    assert (tmp_path / "audit.log").read_bytes() == record(1) + b"type=SYSCALL msg=audit(17\n" + record(2)


async def test_symbolic_link_is_not_followed(owner_host: BookingHost, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious\n")
    (tmp_path / "audit.log").symlink_to(target)
    with pytest.raises(PluginError, match=r"audit\.log is a symbolic link"):
        async with open_log(config(tmp_path), owner_host):
            pass
    assert target.read_bytes() == b"precious\n"


async def test_link_among_the_rotated_files_is_not_followed(owner_host: BookingHost, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious\n")
    target.chmod(0o644)
    (tmp_path / "audit.log.1").symlink_to(target)
    settings = config(tmp_path, num_logs=3, max_log_file_action="rotate")
    async with open_log(settings, owner_host) as delivery:
        assert isinstance(delivery, Delivery)
        assert delivery.rotate
        delivery.deliver(block_of([record(1)]))
        delivery.rotate()
    assert (target.read_bytes(), mode_of(target)) == (b"precious\n", 0o644)
    assert (tmp_path / "audit.log.2").is_symlink()
    assert serials(tmp_path / "audit.log.1") == [1]


@pytest.mark.parametrize("kind", ["fifo", "folder"])
async def test_what_is_no_file_is_refused(owner_host: BookingHost, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.log"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(PluginError, match="is not a regular file"):
        async with open_log(config(tmp_path), owner_host):
            pass


async def test_folder_that_others_may_write_is_refused(owner_host: BookingHost, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(PluginError, match="mode 1777: others could replace the log"):
        async with open_log(config(folder), owner_host):
            pass
    with pytest.raises(PluginError, match="No such file or directory"):
        async with open_log(config(tmp_path / "none"), owner_host):
            pass


# Who may write what.


async def test_only_the_owner_writes_auditds_log(host: BookingHost, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"/var/log/audit/audit\.log is the log of whoever owns the audit stream"):
        async with open_log(LogConfig(), host):
            pass
    named = attrs.evolve(config(tmp_path), auditd_log=tmp_path / "other" / ".." / "audit.log")
    with pytest.raises(PluginError, match="give tested a log_file of its own"):
        async with open_log(named, host):
            pass
    (tmp_path / "theirs").write_bytes(b"")
    os.link(tmp_path / "theirs", tmp_path / "audit.log")
    with pytest.raises(PluginError, match="give tested a log_file of its own"):
        async with open_log(attrs.evolve(config(tmp_path), auditd_log=tmp_path / "theirs"), host):
            pass


async def test_second_writer_is_refused(host: BookingHost, owner_host: BookingHost, tmp_path: Path) -> None:
    async with open_log(config(tmp_path), owner_host):
        with pytest.raises(PluginError, match=rf"audit\.log is already in use by pid {os.getpid()}"):
            async with open_log(config(tmp_path), host):
                pass
    async with open_log(config(tmp_path), host):
        pass


async def test_second_process_is_refused_and_a_dead_one_holds_nothing(host: BookingHost, tmp_path: Path) -> None:
    program = (
        "import sys, trio; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from audisp_plugins.log import *\n"
        "from tests.plugins.booking import *\n"
        "async def main():\n"
        "    async with open_log(LogConfig(log_file=Path(sys.argv[1])), BookingHost('log', '/', True)):\n"
        "        print('open', flush=True); sys.stdin.read()\n"
        "trio.run(main)\n"
    )
    child = subprocess.Popen(  # noqa: ASYNC220 - a child that lives beside the test
        [sys.executable, "-c", program, str(tmp_path / "audit.log"), str(ROOT), str(ROOT / "plugins")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin
    assert child.stdout
    assert child.stdout.readline() == b"open\n"
    with pytest.raises(PluginError, match=f"in use by pid {child.pid}"):
        async with open_log(config(tmp_path), host):
            pass
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert (tmp_path / ".audit.log.lock").exists()
    async with open_log(config(tmp_path), host):
        pass
    assert not (tmp_path / ".audit.log.lock").exists()


# Size and rotation.


def test_no_file_exceeds_the_limit_by_more_than_a_record(owner_host: BookingHost, tmp_path: Path) -> None:
    settings = config(tmp_path, max_log_file=1, num_logs=3, max_log_file_action="rotate")
    writer = writer_of(settings, owner_host)
    serial = 0
    for size in (1, 300, 5, 700, 256, 256, 256, 1000, 24, 900):
        writer.deliver(block_of([kib(serial + n) for n in range(size)]))
        serial += size
    writer.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["audit.log", "audit.log.1", "audit.log.2"]
    assert (tmp_path / "audit.log.1").stat().st_size == MEBIBYTE
    assert (tmp_path / "audit.log.2").stat().st_size == MEBIBYTE
    found = [n for name in reversed(names) for n in serials(tmp_path / name)]
    assert found == list(range(serial - len(found), serial))
    assert len(found) == 2 * 1024 + serial % 1024
    assert owner_host.counts["rotations"] == serial // 1024


def test_odd_records_overshoot_by_less_than_one(owner_host: BookingHost, tmp_path: Path) -> None:
    settings = config(tmp_path, max_log_file=1, num_logs=99, max_log_file_action="rotate")
    writer = writer_of(settings, owner_host)
    lines = [record(n, b"y" * (1 + n * 37 % 3000)) for n in range(3000)]
    for start in range(0, 3000, 170):
        writer.deliver(block_of(lines[start : start + 170]))
    writer.close()
    rotated = sorted(tmp_path.glob("audit.log.*"), key=lambda path: -int(path.suffix[1:]))
    assert len(rotated) >= 4
    for path in rotated:
        data = path.read_bytes()
        assert len(data) >= MEBIBYTE
        assert data.rfind(b"\n", 0, len(data) - 1) + 1 < MEBIBYTE
    whole = b"".join(path.read_bytes() for path in [*rotated, tmp_path / "audit.log"])
    assert whole == b"".join(lines)


@pytest.mark.parametrize(
    ("action", "num_logs", "files"),
    [
        ("rotate", 0, 1),
        ("rotate", 1, 1),
        ("rotate", 2, 2),
        ("rotate", 5, 5),
        ("keep_logs", 0, 8),
        ("keep_logs", 3, 8),
        ("ignore", 5, 1),
        ("syslog", 5, 1),
    ],
)
def test_how_many_files_are_kept(
    owner_host: BookingHost, tmp_path: Path, action: str, num_logs: int, files: int
) -> None:
    writer = writer_of(config(tmp_path, max_log_file=1, num_logs=num_logs, max_log_file_action=action), owner_host)
    for start in range(0, 7 * 1024, 256):
        writer.deliver(block_of([kib(start + n) for n in range(256)]))
    writer.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"audit.log", *(f"audit.log.{n}" for n in range(1, files))}
    if action == "syslog":
        assert [act[0] for act in owner_host.acts] == ["syslog"]
        assert "has reached max_log_file, 1 MiB" in owner_host.acts[0][1]


def test_excess_files_are_removed_at_start(owner_host: BookingHost, tmp_path: Path) -> None:
    for number in (1, 2, 3, 4, 6):
        (tmp_path / f"audit.log.{number}").write_bytes(record(number))
    writer_of(config(tmp_path, num_logs=3, max_log_file_action="rotate"), owner_host).close()
    assert {path.name for path in tmp_path.iterdir()} == {"audit.log", "audit.log.1", "audit.log.2", "audit.log.6"}


def test_rotation_that_fails_keeps_the_file_in_use(owner_host: BookingHost, tmp_path: Path) -> None:
    (tmp_path / "audit.log.2").mkdir()
    (tmp_path / "audit.log.1").write_bytes(record(1))
    writer = writer_of(config(tmp_path, max_log_file=1, num_logs=3, max_log_file_action="rotate"), owner_host)
    for start in range(0, 1536, 256):
        writer.deliver(block_of([kib(start + n) for n in range(256)]))
    assert serials(tmp_path / "audit.log") == list(range(1536))
    assert serials(tmp_path / "audit.log.1") == [1]
    assert mode_of(tmp_path / "audit.log") == 0o600
    assert owner_host.counts["rotate_errors"] == 1
    writer.close()


def test_rotate_on_request(owner_host: BookingHost, tmp_path: Path) -> None:
    writer = writer_of(config(tmp_path, num_logs=1, max_log_file_action="rotate"), owner_host)
    writer.rotate()
    assert owner_host.heard("not rotated, num_logs is 1")
    writer.close()
    writer = writer_of(config(tmp_path, max_log_file_action="keep_logs"), owner_host)
    for serial in range(4):
        writer.deliver(block_of([record(serial)]))
        writer.rotate()
    assert [serials(tmp_path / f"audit.log.{n}") for n in (1, 2, 3, 4)] == [[3], [2], [1], [0]]
    assert writer.state()["logs detected last rotate/shift"] == "4"
    writer.close()


def test_removed_file_is_begun_anew(owner_host: BookingHost, tmp_path: Path) -> None:
    clock = Clock()
    writer = writer_of(config(tmp_path), owner_host, clock)
    writer.deliver(block_of([record(1)]))
    (tmp_path / "audit.log").unlink()
    clock.now += 5
    writer.deliver(block_of([record(2)]))
    writer.deliver(block_of([record(3)]))
    assert serials(tmp_path / "audit.log") == [3]
    assert owner_host.counts["removed_under_us"] == 1
    writer.close()


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
    settings = config(
        tmp_path, space_left=(2**31 - 1, "MiB"), space_left_action=action, action_mail_acct="ops@example.org"
    )
    writer = writer_of(settings, owner_host, clock)
    for serial in range(5):
        writer.deliver(block_of([record(serial)]))
        clock.now += 2
    assert [act[0] for act in owner_host.acts] == expected
    if action == "email":
        assert owner_host.acts[0][2] == "ops@example.org"
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


# Settings.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flush": "incremental"}, "freq: flush = incremental needs a freq of 1 or more"),
        ({"flush": "incremental_async", "freq": 0}, "freq: flush = incremental_async needs"),
        ({"num_logs": 1000}, "num_logs: 1000 is out of range: 0 to 999"),
        ({"space_left": (50, "MiB"), "admin_space_left": (50, "MiB")}, "space_left: 50 must be more than"),
        ({"space_left": (5, "%"), "admin_space_left": (9, "%")}, "space_left: 5 must be more than"),
        ({"disk_full_action": "email"}, "disk_full_action: 'email' is not one of"),
        ({"disk_error_action": "rotate"}, "disk_error_action: 'rotate' is not one of"),
        ({"space_left_action": "halt"}, "space_left_action: 'halt' is not one of"),
        ({"max_log_file_action": "rotat"}, "did you mean rotate?"),
        ({"max_log_file_action": Action("exec")}, "exec needs a program"),
        ({"log_file": Path("audit.log")}, "log_file: 'audit.log' is not an absolute path"),
    ],
)
def test_settings_that_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LogConfig(**keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("75",), (75, "MiB")), (("5%",), (5, "%")), (("0",), (0, "MiB")), (("99%",), (99, "%"))],
)
def test_space(words: tuple[str, ...], expected: tuple[int, str]) -> None:
    assert read_space(words) == expected


@pytest.mark.parametrize("word", ["100%", "-1", "", "5 %", "7x", "99999999999", "\u0665%"])
def test_space_that_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"MiB|99%"):
        read_space(tuple(word.split(" ")))


def test_actions_and_groups() -> None:
    assert read_action(("Exec", "/bin/x")) == Action("exec", Path("/bin/x"))
    for words in (("exec",), ("exec", "x"), ("exec", "/x", "y"), ("suspend", "now")):
        with pytest.raises(ValueError, match=r"needs the absolute path|takes nothing"):
            read_action(words)
    assert read_group(("root",)) == 0
    assert read_group(("17",)) == 17
    with pytest.raises(ValueError, match=r"there is no group 'rooot'; did you mean root\?"):
        read_group(("rooot",))


def test_a_stranger_of_the_same_shape_is_an_action(tmp_path: Path) -> None:
    @attrs.frozen
    class Theirs:
        name: str
        program: Path | None = None

    assert config(tmp_path, disk_full_action=Theirs("exec", Path("/x"))).disk_full_action == Action("exec", Path("/x"))


def test_declared() -> None:
    (kind,) = audisp_plugins()
    assert (kind.name, kind.config, kind.open, kind.wants) == ("log", LogConfig, open_log, "blocks")
