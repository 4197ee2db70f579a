"""The spool: order, bounds, and who may touch it."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import MAX_FRAME_PLAIN, SegmentHeader
from audisp.dispatch.spool import SYNC_BYTES, SYNC_SECONDS, Findings, Spool
from audisp.errors import StoreError
from audisp.record import Block
from tests.dispatch.spools import MIB, SEGMENT, block, drain, fill, line, segments, serials
from tests.needs import needs

# In and out.


def test_round_trip(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    assert spool.read(1000) == []
    assert spool.oldest_age() is None
    put = [block(1, 10), block(11, 5), block(16, 1, source="unix:/x")]
    assert spool.append(put, {"offered": 16}) == 3
    assert (spool.records, spool.position, spool.next_record, spool.books) == (16, 1, 17, {"offered": 16})
    got = spool.read(MIB)
    assert b"".join(one.data for one in got) == b"".join(one.data for one in put)
    assert [one.source for one in got] == ["netlink", "unix:/x"]
    assert [one.data for one in spool.read(MIB)] == [one.data for one in got]
    spool.advance(16)
    assert spool.read(MIB) == []
    assert (spool.records, spool.position, spool.findings) == (0, 17, Findings())


def test_arrival_survives_as_an_age(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    old = block(1)
    old.arrived -= 1000
    spool.append([old], {})
    spool = make_spool()
    age = spool.oldest_age()
    assert age is not None
    assert 999 < age < 2000
    assert 999 < time.monotonic() - spool.read(1)[0].arrived < 2000


def test_an_empty_block_is_taken_and_not_stored(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    assert spool.append([Block(b"", 0, "x", 0.0)], {}) == 1
    assert (spool.bytes, spool.records, spool.read(1)) == (0, 0, [])


@pytest.mark.parametrize("max_bytes", [0, 1, 100, 10_000, 10 * MIB])
def test_reads_are_bounded_and_never_stuck(make_spool: Callable[..., Spool], max_bytes: int) -> None:
    spool = make_spool()
    spool.append([block(1, 100), block(101, 100, source="other")], {})
    longest = len(line(200))
    found: list[int] = []
    while blocks := spool.read(max_bytes):
        assert sum(map(len, blocks)) <= max(max_bytes, longest)
        found += serials(blocks)
        spool.advance(sum(one.records for one in blocks))
    assert found == list(range(1, 201))


def test_half_a_frame_resumes_at_the_record_after(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    spool.read(MIB)
    spool.advance(3)
    assert serials(spool.read(MIB)) == list(range(4, 11))
    spool.advance(1)
    spool = make_spool()
    assert (spool.records, spool.position, spool.books) == (6, 5, {})
    assert serials(spool.read(MIB)) == list(range(5, 11))
    spool.advance(2)
    assert serials(spool.read(MIB)) == list(range(7, 11))


def test_reading_behind_what_is_in_hand(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    spool.append([block(1, 10), block(11, 10, source="other"), block(21, 10)], {})
    spool.read(1)
    spool.advance(1)
    spool = make_spool()
    # At each place in and between frames.
    for acknowledged in range(1, 30):
        for skip in range(31 - acknowledged):
            assert serials(spool.read(10**6, skip=skip)) == list(range(acknowledged + skip + 1, 31))
            assert serials(spool.read(1, skip=skip)) == list(range(acknowledged + skip + 1, 31))[:1]
        spool.advance(1)
    assert spool.read(1, skip=5) == []
    spool.append([block(31, 2)], {})
    assert serials(spool.read(1000, skip=1)) == [32]


def test_only_what_was_read_can_be_acknowledged(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    for records in (1, -1):
        with pytest.raises(ValueError, match="were not read"):
            spool.advance(records)
    spool.read(1)
    spool.advance(4)
    with pytest.raises(ValueError, match="were not read"):
        spool.advance(7)
    spool.advance(6)
    assert spool.records == 0


def test_large_blocks_are_cut_into_frames(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool(segment_bytes=MIB)
    assert spool.append([block(1, 500, size=6000)], {}) == 1
    assert spool.records == 500
    assert drain(make_spool(), 3 * MIB) == list(range(1, 501))


def test_a_record_longer_than_a_frame_is_refused(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    with pytest.raises(ValueError, match="longer than a frame"):
        spool.append([Block(bytes(MAX_FRAME_PLAIN) + b"\n", 1, "x", 0.0)], {})
    assert (spool.records, spool.bytes) == (0, 0)


def test_a_block_that_miscounts_is_refused(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    with pytest.raises(ValueError, match="2 records"):
        spool.append([Block(b"a\n", 2, "x", 0.0)], {})
    with pytest.raises(ValueError, match="line ends"):
        spool.append([Block(b"a\nb", 1, "x", 0.0)], {})
    assert (spool.records, spool.bytes, spool.next_record) == (0, 0, 1)


def test_numbers_and_the_chain_go_on_over_an_empty_spool(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    drain(spool)
    spool = make_spool()
    assert segments(spool_folder) == []
    assert (spool.position, spool.next_record) == (11, 11)
    spool.append([block(11, 10)], {})
    assert SegmentHeader.decode(segments(spool_folder)[0].read_bytes()).previous != bytes(32)
    spool = make_spool()
    assert drain(spool) == list(range(11, 21))
    assert spool.findings == Findings()


@given(data=st.data())
def test_any_order_of_calls(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spools") / "spool"
    spool = Spool(path, max_bytes=64 * MIB, min_free=0, segment_bytes=3000)
    spool._segment_bytes = 3000  # many segments from few records
    spool.open()
    put, got = 1, 1
    try:
        for step in data.draw(st.lists(st.sampled_from("aaarrrsc"), max_size=25)):
            if step == "a":
                counts = data.draw(st.lists(st.integers(0, 9), max_size=5))
                blocks = []
                for number, count in enumerate(counts):
                    blocks.append(block(put, count, size=200, source=f"s{number // 2}"))
                    put += count
                assert spool.append(blocks, {}) == len(blocks)
            elif step == "r":
                skip = data.draw(st.integers(0, 12))
                found = serials(spool.read(data.draw(st.integers(0, 5000)), skip=skip))
                assert found == list(range(got + skip, got + skip + len(found)))
                assert bool(found) == (put > got + skip)
                done = data.draw(st.integers(0, min(put - got, skip + len(found))))
                spool.advance(done)
                got += done
            elif step == "s":
                spool.sync()
                assert spool.synced == put
            else:
                spool.close()
                spool.open()
            assert (spool.position, spool.next_record, spool.records) == (got, put, put - got)
            assert spool.bytes == sum(file.stat().st_size for file in segments(path))
            assert spool.findings == Findings()
        assert drain(spool) == list(range(got, put))
    finally:
        spool.close()


def test_space_comes_back(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    for number in range(40):
        assert spool.append([block(number * 20 + 1, 20, size=1000)], {}) == 1
    before = spool.bytes
    assert len(segments(spool_folder)) > 3
    while spool.records > 40:
        blocks = spool.read(20_000)
        spool.advance(sum(one.records for one in blocks))
    assert len(segments(spool_folder)) <= 2
    assert spool.bytes < before / 3
    drain(spool)
    assert spool.bytes < SEGMENT
    spool.close()
    assert segments(spool_folder) == []


# Bounds.


def test_max_bytes_stops_and_goes_on_when_there_is_room(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool(max_bytes=300_000)
    blocks = [block(number * 10 + 1, 10, size=1000, source=str(number)) for number in range(100)]
    taken = spool.append(blocks, {})
    assert 0 < taken < 100
    assert spool.records == taken * 10
    assert sum(file.stat().st_size for file in segments(spool_folder)) == spool.bytes <= 300_000
    assert spool.append(blocks[taken:], {}) == 0
    assert drain(spool) == list(range(1, taken * 10 + 1))
    assert spool.append(blocks[taken:], {}) > 0


def test_min_free_is_honoured(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    status = os.statvfs(spool_folder)
    free = status.f_bavail * status.f_frsize
    spool = make_spool(min_free=free + 1_000_000_000)
    assert spool.append([block(1)], {}) == 0
    assert (spool.records, segments(spool_folder)) == (0, [])
    spool = make_spool(min_free=free // 2)
    assert spool.append([block(1)], {}) == 1


def test_sync_is_due_after_bytes_or_seconds(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool(segment_bytes=8 * MIB)
    now = time.monotonic()
    assert not spool.needs_sync(now + 3600)
    spool.append([block(1)], {})
    assert not spool.needs_sync(now)
    assert spool.needs_sync(time.monotonic() + SYNC_SECONDS)
    assert spool.synced == 1
    spool.sync()
    assert spool.synced == spool.next_record == 2
    assert not spool.needs_sync(now + 3600)
    spool.append([block(2, 200, size=2 * SYNC_BYTES // 200)], {})
    assert spool.needs_sync(time.monotonic())


# Trouble with the disk.


def test_a_write_that_fails_half_way_leaves_nothing(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool(segment_bytes=8 * MIB)
    spool.append([block(1, 10)], {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = segments(spool_folder)[0].stat().st_size
    # Python ignores SIGXFSZ, so pwrite writes up to the limit and then says EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 5000, hard))
    try:
        with pytest.raises(StoreError, match=re.escape(f"{spool_folder}: {os.strerror(errno.EFBIG)}")):
            spool.append([block(11, 50, size=1000)], {})
        assert segments(spool_folder)[0].stat().st_size == before
        assert (spool.records, spool.next_record) == (10, 11)
        # A part that fits is taken, and the failure is met by the next call.
        small, large = block(11, 1), block(12, 50, size=1000, source="other")
        assert spool.append([small, large], {}) == 1
        with pytest.raises(StoreError):
            spool.append([large], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spool.append([large], {}) == 1
    spool = make_spool()
    assert drain(spool) == list(range(1, 62))
    assert spool.findings == Findings()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(mount)], check=False)
    if done.returncode:
        pytest.skip("root: mounting a tmpfs is not allowed here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@needs("root")
def test_a_full_disk(small_disk: Path) -> None:
    # Below zero nothing is kept free, so that the kernel is who says no.
    with Spool(small_disk / "spool", max_bytes=64 * MIB, min_free=-MIB) as spool:
        (small_disk / "filler").write_bytes(bytes(100_000))
        blocks = [block(number, 10, size=1000, source=str(number)) for number in range(1, 2000, 10)]
        taken = spool.append(blocks, {})
        assert 0 < taken < len(blocks)
        number = taken * 10 + 1
        with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
            spool.append(blocks[taken:], {})
        assert spool.records == number - 1
        sizes = [file.stat().st_size for file in segments(small_disk / "spool")]
        assert sum(sizes) == spool.bytes
        # A full disk keeps nobody from emptying the spool.
        assert serials(spool.read(5000))[:2] == [1, 2]
        spool.advance(2)
    with Spool(small_disk / "spool", max_bytes=64 * MIB, min_free=0) as spool:
        assert spool.findings == Findings()
        assert drain(spool) == list(range(3, number))
        os.unlink(small_disk / "filler")
        assert spool.append([block(number, 10, size=1000)], {}) == 1
    with Spool(small_disk / "spool", max_bytes=64 * MIB, min_free=400_000) as spool:
        assert spool.append([block(number + 10)], {}) == 0
        # What was acknowledged to the end is given up when room is short.
        assert drain(spool) == list(range(number, number + 10))
        found = 0
        while spool.append([block(number + 10 + found, 1, size=10_000)], {}):
            found += 1
        status = os.statvfs(small_disk)
        assert 400_000 <= status.f_bavail * status.f_frsize < 430_000


def test_a_failed_sync_ends_writing(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    # Only the descriptor is swapped for one that cannot be synced; the failure is the kernel's own (EINVAL).
    kept = spool._file
    spool._file = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(StoreError, match="syncing failed"):
        spool.sync()
    os.close(spool._file)
    spool._file = kept
    with pytest.raises(StoreError, match="nothing more is stored"):
        spool.append([block(11)], {})
    with pytest.raises(StoreError, match="nothing more is stored"):
        spool.sync()
    assert spool.synced == 1
    assert serials(spool.read(MIB)) == list(range(1, 11))
    spool.advance(5)
    spool = make_spool()
    assert drain(spool) == list(range(6, 11))
    assert spool.append([block(11)], {}) == 1


def test_a_failed_write_that_cannot_be_undone_ends_writing(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    # A descriptor for reading only: the kernel refuses the write and then the truncation.
    kept = spool._file
    spool._file = os.open(segments(spool.path)[0], os.O_RDONLY)
    with pytest.raises(StoreError, match="Bad file descriptor"):
        spool.append([block(11)], {})
    os.close(spool._file)
    spool._file = kept
    with pytest.raises(StoreError, match="could not be undone"):
        spool.append([block(11)], {})
    assert drain(spool) == list(range(1, 11))
    spool = make_spool()
    assert spool.append([block(11)], {}) == 1


def test_beginning_a_segment_fails_without_a_trace(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match=os.strerror(errno.EFBIG)):
            spool.append([block(1)], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (segments(spool.path), spool.bytes, spool.records) == ([], 0, 0)
    assert spool.append([block(1)], {}) == 1
    assert drain(make_spool()) == [1]


def test_a_cursor_that_cannot_be_stored_is_said(make_spool: Callable[..., Spool]) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    spool.read(MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"cursor: File too large"):
                spool.advance(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # Acknowledged for this process, and stored with the next one.
    assert serials(spool.read(MIB)) == list(range(5, 11))
    spool.advance(1)
    assert drain(make_spool()) == list(range(6, 11))


# Who may touch it.


def test_modes(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    before = os.umask(0)
    try:
        make_spool().append([block(1)], {})
    finally:
        os.umask(before)
    assert spool_folder.stat().st_mode & 0o7777 == 0o700
    assert {file.name.split(".")[-1]: file.stat().st_mode & 0o7777 for file in spool_folder.iterdir()} == {
        "seg": 0o600,
        "cursor": 0o600,
        "lock": 0o600,
    }


def test_two_openers_are_refused(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()
    with pytest.raises(StoreError, match="open already"):
        spool.open()
    code = f"from audisp.dispatch.spool import Spool; Spool({str(spool_folder)!r}, max_bytes=1, min_free=0).open()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}" in done.stderr
    spool.append([block(1)], {})
    spool.close()
    spool.close()
    Spool(spool_folder, max_bytes=MIB, min_free=0).open()


def test_a_closed_spool_says_so(spool_folder: Path) -> None:
    spool = Spool(spool_folder, max_bytes=MIB, min_free=0)
    calls: list[Callable[[], object]] = [
        lambda: spool.append([], {}),
        lambda: spool.read(1),
        lambda: spool.advance(0),
        spool.sync,
        spool.oldest_age,
    ]
    for call in calls:
        with pytest.raises(StoreError, match="is not open"):
            call()


def test_a_symlinked_folder_is_refused(tmp_path: Path, spool_folder: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    spool_folder.symlink_to(tmp_path / "real")
    with pytest.raises(StoreError, match="symbolic link"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("name", ["lock", "cursor", "00000000000000000001.seg"])
def test_a_symlinked_file_is_refused(tmp_path: Path, spool_folder: Path, name: str) -> None:
    spool_folder.mkdir(0o700)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    (spool_folder / name).symlink_to(victim)
    with pytest.raises(StoreError, match=f"{name}: is a symbolic link"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()
    assert victim.read_bytes() == b"precious"
    (spool_folder / name).unlink()
    os.link(victim, spool_folder / name)
    with pytest.raises(StoreError, match=f"{name}: has a second name"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()
    assert victim.read_bytes() == b"precious"
    (spool_folder / name).unlink()
    os.mkfifo(spool_folder / name, 0o600)
    with pytest.raises(StoreError, match=f"{name}: is no regular file"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()


def test_open_modes_are_refused(spool_folder: Path) -> None:
    spool_folder.mkdir(0o700)
    spool_folder.chmod(0o750)
    with pytest.raises(StoreError, match="mode 0750"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()
    spool_folder.chmod(0o700)
    (spool_folder / "cursor").touch()
    (spool_folder / "cursor").chmod(0o644)
    with pytest.raises(StoreError, match="cursor: has mode 0644"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()


@needs("root")
def test_another_owner_is_refused(spool_folder: Path) -> None:
    spool_folder.mkdir(0o700)
    os.chown(spool_folder, 12345, 0)
    with pytest.raises(StoreError, match="belongs to uid 12345"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()
    os.chown(spool_folder, 0, 0)
    (spool_folder / "cursor").touch(0o600)
    os.chown(spool_folder / "cursor", 12345, 0)
    with pytest.raises(StoreError, match="cursor: belongs to uid 12345"):
        Spool(spool_folder, max_bytes=MIB, min_free=0).open()


def test_a_missing_parent_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no/such: No such file"):
        Spool(tmp_path / "no/such", max_bytes=MIB, min_free=0).open()


def test_no_descriptor_is_left(spool_folder: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with Spool(spool_folder, max_bytes=MIB, min_free=0) as spool:
        fill(spool)
        spool.read(1000)
    (spool_folder / "cursor").chmod(0o644)
    with pytest.raises(StoreError):
        spool.open()
    (spool_folder / "cursor").chmod(0o600)
    segments(spool_folder)[1].chmod(0o644)
    with pytest.raises(StoreError):
        spool.open()
    assert sorted(os.listdir("/proc/self/fd")) == before
