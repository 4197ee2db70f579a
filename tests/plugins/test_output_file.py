"""`output` to a file: how it is made, rotated and compressed, full disks, and that nothing is lost."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from audisp.plugin import Delivery, PluginError, Retry
from audisp_plugins.output import open_output
from audisp_plugins.output_compress import Compression
from audisp_plugins.output_config import OutputConfig
from audisp_plugins.output_file import OutputFile
from audisp_plugins.output_writer import FileTarget
from tests.needs import ROOT, needs
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.logs import Clock, mode_of
from tests.plugins.senders import lines_of, until

KIB = 1024


def config(folder: Path, **keys: Any) -> OutputConfig:
    return OutputConfig(file=folder / "out", **keys)


def target_of(settings: OutputConfig, host: BookingHost, clock: Clock | None = None) -> FileTarget:
    assert settings.file
    file = OutputFile(settings.file, settings.group, settings.final_mode, lambda text: host.say("notice", text))
    file.open_folder()
    return FileTarget(settings, host, file, clock or Clock())


def whole(folder: Path) -> bytes:
    """Everything that was written, from the oldest file to the newest."""
    found: dict[int, bytes] = {}
    for path in folder.iterdir():
        name = re.fullmatch(r"out(?:\.(\d+)(\.gz|\.zst)?)?", path.name)
        if name is None:
            continue
        data = path.read_bytes()
        if name[2] == ".gz":
            data = gzip.decompress(data)
        elif name[2] == ".zst":
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        number = int(name[1] or 0)
        assert found.setdefault(number, data) == data, "an old file is there twice, and not the same"
    return b"".join(found[number] for number in sorted(found, reverse=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The file.


async def test_writes_what_it_is_given(host: BookingHost, tmp_path: Path) -> None:
    lines = [record(1), b'{"a": "b"}\n', record(1, b"", b"EOE"), b"\xff\x00 any bytes \n", b"\n"]
    old = os.umask(0)
    try:
        async with open_output(config(tmp_path), host) as delivery:
            assert isinstance(delivery, Delivery)
            deliver: Any = delivery.deliver
            deliver(block_of(lines[:2]))
            deliver(block_of(lines[2:]))
            assert delivery.state
            assert delivery.state() == {"file": f"{sum(map(len, lines))} bytes", "old files": "0"}
            assert names(tmp_path) == [".out.lock", "out"]
    finally:
        os.umask(old)
    assert (tmp_path / "out").read_bytes() == b"".join(lines)
    assert mode_of(tmp_path / "out") == 0o600
    assert names(tmp_path) == ["out"]
    assert host.said == []


@needs("root")
@pytest.mark.parametrize(
    ("keys", "mode", "old"),
    [
        ({}, 0o600, 0o400),
        ({"group": 4}, 0o640, 0o440),
        ({"mode": 0o644}, 0o644, 0o444),
        ({"mode": 0o660, "group": 4}, 0o660, 0o440),
    ],
)
async def test_modes(host: BookingHost, tmp_path: Path, keys: dict[str, Any], mode: int, old: int) -> None:
    async with open_output(config(tmp_path, **keys), host) as delivery:
        assert isinstance(delivery, Delivery)
        assert delivery.rotate
        deliver: Any = delivery.deliver
        deliver(block_of([record(1)]))
        delivery.rotate()
    new, rotated = tmp_path / "out", tmp_path / "out.1"
    assert (mode_of(new), new.stat().st_gid) == (mode, keys.get("group", 0))
    assert (mode_of(rotated), rotated.stat().st_gid) == (old, keys.get("group", 0))


@needs("root")
async def test_an_existing_file_is_mended_and_its_half_line_ended(host: BookingHost, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(record(1) + b'{"torn": "li')
    os.chown(path, 65534, 65534)
    path.chmod(0o666)
    async with open_output(config(tmp_path), host) as delivery:
        deliver: Any = delivery.deliver
        deliver(block_of([record(2)]))
    assert path.read_bytes() == record(1) + b'{"torn": "li\n' + record(2)
    assert (mode_of(path), path.stat().st_uid) == (0o600, 0)
    assert host.heard("was uid 65534 gid 65534 mode 0666")


async def test_what_is_refused(host: BookingHost, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious\n")
    (tmp_path / "out").symlink_to(target)
    with pytest.raises(PluginError, match=r"out is a symbolic link"):
        async with open_output(config(tmp_path), host):
            pass
    (tmp_path / "out").unlink()
    os.mkfifo(tmp_path / "out")
    with pytest.raises(PluginError, match="is not a regular file"):
        async with open_output(config(tmp_path), host):
            pass
    with pytest.raises(PluginError, match="none: No such file"):
        async with open_output(config(tmp_path / "none"), host):
            pass
    os.chmod(tmp_path, 0o1777)
    with pytest.raises(PluginError, match="others could replace the log there"):
        async with open_output(config(tmp_path), host):
            pass
    assert target.read_bytes() == b"precious\n"


async def test_two_instances_do_not_write_one_file(host: BookingHost, tmp_path: Path) -> None:
    async with open_output(config(tmp_path), host):
        with pytest.raises(PluginError, match=f"out is already in use by pid {os.getpid()}"):
            async with open_output(config(tmp_path), host):
                pass
    async with open_output(config(tmp_path), host):
        pass


# Rotation.


@pytest.mark.parametrize("seed", range(4))
def test_no_file_exceeds_max_size_and_nothing_is_lost(host: BookingHost, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    target = target_of(config(tmp_path, max_size=64 * KIB, keep=100), host)
    sent: list[bytes] = []
    for _ in range(60):
        lines = lines_of(len(sent), chance.randint(1, 60), chance.choice([1, 100, 1_000, 5_000]))
        target.deliver(block_of(lines))
        sent += lines
    target.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) <= 64 * KIB
    assert len(sizes) > 5
    assert whole(tmp_path) == b"".join(sent)
    for path in tmp_path.iterdir():
        assert path.stat().st_size == 0 or path.read_bytes().endswith(b"\n")
    assert host.counts == {"rotations": len(sizes) - 1}


def test_a_line_longer_than_max_size_has_a_file_to_itself(host: BookingHost, tmp_path: Path) -> None:
    target = target_of(config(tmp_path, max_size=64 * KIB), host)
    lines = [record(1), record(2, b"x" * 100_000), record(3), record(4, b"y" * 70_000)]
    target.deliver(block_of(lines))
    target.close()
    assert whole(tmp_path) == b"".join(lines)
    assert [(tmp_path / name).read_bytes() for name in ("out.3", "out.2", "out.1", "out")] == lines


def test_old_files_beyond_keep_go(host: BookingHost, tmp_path: Path) -> None:
    for name in ("out.4", "out.5.gz", "out.6", "out.8", "other.9"):
        (tmp_path / name).write_bytes(b"old\n")
    target = target_of(config(tmp_path, keep=3), host)
    assert names(tmp_path) == ["other.9", "out", "out.8"]
    assert host.heard("3 old files beyond keep = 3 were removed")
    for serial in range(6):
        target.deliver(block_of([record(serial)]))
        target.rotate()
    target.close()
    assert names(tmp_path) == ["other.9", "out", "out.1", "out.2", "out.3", "out.8"]
    assert (tmp_path / "out.3").read_bytes() == record(3)


def test_without_old_files_the_file_is_opened_anew(host: BookingHost, tmp_path: Path) -> None:
    """As logrotate wants it: it renames, we are told."""
    target = target_of(config(tmp_path, keep=0), host)
    target.deliver(block_of([record(1)]))
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    target.deliver(block_of([record(2)]))
    target.rotate()
    target.deliver(block_of([record(3)]))
    (tmp_path / "out").rename(tmp_path / "again")
    target.resume()
    target.deliver(block_of([record(4)]))
    target.close()
    assert (tmp_path / "elsewhere").read_bytes() == record(1) + record(2)
    assert (tmp_path / "again").read_bytes() == record(3)
    assert (tmp_path / "out").read_bytes() == record(4)


def test_a_file_that_somebody_removes_is_begun_anew(host: BookingHost, tmp_path: Path) -> None:
    clock = Clock()
    target = target_of(config(tmp_path), host, clock)
    target.deliver(block_of([record(1)]))
    (tmp_path / "out").unlink()
    clock.now += 2
    target.deliver(block_of([record(2)]))
    target.close()
    assert (tmp_path / "out").read_bytes() == record(2)
    assert host.counts == {"removed_under_us": 1}


def test_a_rotation_that_fails_is_tried_again_later(host: BookingHost, tmp_path: Path) -> None:
    clock = Clock()
    target = target_of(config(tmp_path, max_size=64 * KIB, keep=2), host, clock)
    (tmp_path / "out.2").mkdir()
    lines = lines_of(0, 1_000)
    target.deliver(block_of(lines))
    assert (tmp_path / "out").read_bytes() == b"".join(lines)
    assert host.counts == {"rotate_errors": 1}
    assert host.heard("has reached max_size, and cannot be rotated: ")
    assert mode_of(tmp_path / "out") == 0o600
    (tmp_path / "out.2").rmdir()
    clock.now += 11
    target.deliver(block_of([record(5_000)]))
    target.close()
    assert (tmp_path / "out.1").read_bytes() == b"".join(lines)
    assert (tmp_path / "out").read_bytes() == record(5_000)


# Disks.


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


@needs("root")
@pytest.mark.parametrize("keys", [{}, {"max_size": 64 * KIB, "keep": 10}, {"flush": "always"}])
def test_a_full_disk(host: BookingHost, small_disk: Path, keys: dict[str, Any]) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 100 * KIB)
    target = target_of(config(small_disk, **keys), host)
    lines = lines_of(0, 1_300)
    for _ in range(4):
        with pytest.raises(Retry, match="out: No space left on device"):
            target.deliver(block_of(lines))
        for path in small_disk.glob("out*"):
            assert path.stat().st_size == 0 or path.read_bytes().endswith(b"\n")
    assert [level for level, _ in host.said] == ["error"]
    assert target.state()["file"] == "No space left on device"
    filler.unlink()
    # What waits may be joined to the block.
    lines += lines_of(1_300, 10)
    target.deliver(block_of(lines))
    target.close()
    assert whole(small_disk) == b"".join(lines)
    assert host.said[-1] == ("notice", f"{small_disk}/out: is written again")


@needs("root")
def test_a_full_disk_loses_and_doubles_nothing(host: BookingHost, small_disk: Path) -> None:
    filler = small_disk / "filler"
    target = target_of(config(small_disk), host)
    chance = random.Random(1)
    sent: list[bytes] = []

    def fill(size: int) -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            file.write(b"x" * size)

    while (small_disk / "out").stat().st_size < 150 * KIB:
        fill(chance.randint(0, 256 * KIB))
        lines = lines_of(len(sent), chance.randint(1, 50), chance.randint(1, 200))
        while True:
            try:
                target.deliver(block_of(lines))
                break
            except Retry:
                fill(0)
        sent += lines
    target.close()
    assert whole(small_disk) == b"".join(sent)
    assert host.counts["write_errors"] > 0


@pytest.mark.parametrize("flush", ["interval", "always"])
def test_flush(host: BookingHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: str) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    target = target_of(config(tmp_path, flush=flush, freq=0.1), host)
    target.deliver(block_of([record(1)]))
    inode = (tmp_path / "out").stat().st_ino
    if flush == "always":
        assert synced == [inode]
    until(lambda: inode in synced)
    target.rotate()
    assert synced[-1] == inode
    target.deliver(block_of([record(2)]))
    target.close()
    assert synced[-1] == (tmp_path / "out").stat().st_ino


@pytest.mark.parametrize("flush", ["interval", "always"])
def test_a_disk_that_does_not_keep_it_is_said(
    host: BookingHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: str
) -> None:
    def fdatasync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    target = target_of(config(tmp_path, flush=flush, freq=0.1), host)

    def said() -> bool:
        target.deliver(block_of([record(1)]))
        return host.counts["sync_errors"] > 0

    until(said)
    target.close()
    assert host.heard("the disk did not keep what was written: Input/output error")


# Compression.


@pytest.mark.parametrize("form", ["gz", "zst"])
def test_old_files_are_compressed(host: BookingHost, tmp_path: Path, form: str) -> None:
    target = target_of(config(tmp_path, max_size=64 * KIB, keep=50, compress=form, mode=0o640), host)
    sent: list[bytes] = []
    for _ in range(30):
        lines = lines_of(len(sent), 100, 200)
        target.deliver(block_of(lines))
        sent += lines
    rotations = host.counts["rotations"]
    until(lambda: host.counts["compressed"] == rotations)
    target.close()
    assert names(tmp_path) == ["out", *sorted(f"out.{number}.{form}" for number in range(1, rotations + 1))]
    assert whole(tmp_path) == b"".join(sent)
    packed = tmp_path / f"out.1.{form}"
    assert mode_of(packed) == 0o440
    assert packed.stat().st_size < 30 * KIB
    assert host.said == []


@pytest.mark.parametrize("form", ["gz", "zst"])
def test_rotation_goes_on_while_it_is_compressed(host: BookingHost, tmp_path: Path, form: str) -> None:
    """The files move on while one of them is in work, the last of them away."""
    target = target_of(config(tmp_path, keep=4, compress=form), host)
    sent = []
    for serial in range(40):
        lines = lines_of(serial * 1_000, 1_000, 300)
        target.deliver(block_of(lines))
        sent.append(lines)
        target.rotate()
    until(lambda: len(list(tmp_path.glob(f"out.*.{form}"))) == 4 and not (tmp_path / ".out.compressing").exists())
    target.close()
    assert len(names(tmp_path)) == 5
    assert whole(tmp_path) == b"".join(line for lines in sent[-4:] for line in lines)


def test_what_a_crash_left_is_compressed_at_the_next_start(host: BookingHost, tmp_path: Path) -> None:
    (tmp_path / ".out.compressing").write_bytes(b"half")
    (tmp_path / "out.2").write_bytes(record(1))
    (tmp_path / "out.1").write_bytes(record(2))
    # Its compressed form had got its place, and the plain file was still there.
    (tmp_path / "out.1.zst").write_bytes(zstandard.ZstdCompressor().compress(record(2)))
    (tmp_path / "out.3").symlink_to(tmp_path / "out.1")
    target = target_of(config(tmp_path, keep=5, compress="zst"), host)
    until(lambda: host.counts["compressed"] == 2)
    target.close()
    assert names(tmp_path) == ["out", "out.1.zst", "out.2.zst", "out.3"]
    (tmp_path / "out.3").unlink()
    assert whole(tmp_path) == record(1) + record(2)


@needs("root")
def test_no_room_to_compress(host: BookingHost, small_disk: Path) -> None:
    old = small_disk / "out.1"
    noise = random.Random(1).randbytes(150 * KIB)
    old.write_bytes(noise)
    file = OutputFile(small_disk / "out", 0, 0o600, lambda text: None)
    file.open_folder()
    file.open()
    compression = Compression(file, 5, "gz", host)
    until(lambda: host.counts["compress_errors"] == 1)
    assert names(small_disk) == ["out", "out.1"]
    assert host.heard("an old file cannot be compressed: No space left on device")
    compression.wake()
    until(lambda: host.counts["compress_errors"] == 2)
    assert len(host.said) == 1
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    compression.wake()
    until(lambda: host.counts["compressed"] == 1)
    compression.stop()
    file.close()
    file.close_folder()
    assert gzip.decompress((small_disk / "out.1.gz").read_bytes()) == noise


WRITER = """
import sys, trio
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from audisp_plugins.output import *
from tests.plugins.booking import *
from tests.plugins.senders import lines_of
async def main():
    config = OutputConfig(file=Path(sys.argv[1]), max_size=65536, keep=400, compress="zst")
    async with open_output(config, BookingHost("output", "/", False)) as delivery:
        while True:
            first = int(sys.stdin.readline())
            delivery.deliver(block_of(lines_of(first, 100)))
            print(first, flush=True)
trio.run(main)
"""


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_any_moment(host: BookingHost, tmp_path: Path, seed: int) -> None:
    """What was acknowledged is there, once and in order; what was not may be there in part, and is offered again."""
    chance = random.Random(seed)
    first = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "out"), str(ROOT), str(ROOT / "plugins")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin
        assert child.stdout
        with child, child.stdin, child.stdout:
            for _ in range(chance.randint(10, 60)):
                child.stdin.write(f"{first}\n")
                child.stdin.flush()
                assert child.stdout.readline() == f"{first}\n"
                first += 100
            child.stdin.write(f"{first}\n")
            child.stdin.flush()
            time.sleep(chance.uniform(0, 0.002))
            child.send_signal(signal.SIGKILL)
    target = target_of(config(tmp_path, keep=400, compress="zst"), host)
    until(lambda: not list(target._file.plain(400)))
    target.deliver(block_of([record(10**9)]))
    target.close()
    found = whole(tmp_path).splitlines(keepends=True)
    # Half a line of a kill is ended, and is no line of ours.
    lines = [re.match(rb".*:(\d+)\): a=\1 x{100}\n\Z", line) for line in found]
    serials = [int(line[1]) for line in lines if line]
    assert list(dict.fromkeys(serials))[:first] == list(range(first))
    assert found[-1] == record(10**9)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
