"""`log`: whose file it is, how it is made, mended and rotated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from audisp.plugin import Delivery, PluginError
from audisp_plugins.log import audisp_plugins, open_log
from audisp_plugins.log_config import Action, LogConfig
from tests.needs import ROOT, needs
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.logs import MEBIBYTE, Clock, config, kib, mode_of, serials, writer_of

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


@needs("ausearch")
def test_ausearch_reads_what_was_written(owner_host: BookingHost, tmp_path: Path) -> None:
    settings = config(tmp_path, max_log_file=1, num_logs=9, max_log_file_action="rotate")
    writer = writer_of(settings, owner_host)
    text = b'pid=1 uid=0 auid=0 ses=1 msg=\'op=login acct="%d" exe="/x" hostname=? addr=? terminal=? res=success\''
    lines = [record(n, text % n + b" " * (n % 2), b"USER_LOGIN") for n in range(10_000)]
    for start in range(0, len(lines), 997):
        writer.deliver(block_of([*lines[start : start + 997], record(start, b"", b"EOE")]))
    writer.close()
    found: list[bytes] = []
    for path in sorted(tmp_path.glob("audit.log*"), reverse=True):
        result = subprocess.run(["ausearch", "--input", str(path), "--raw"], capture_output=True, check=True)
        found += result.stdout.splitlines(keepends=True)
    assert found == [line.replace(b" \n", b"\n") for line in lines]


def test_declared() -> None:
    (kind,) = audisp_plugins()
    assert (kind.name, kind.config, kind.open, kind.wants) == ("log", LogConfig, open_log, "blocks")
