"""The spool after crashes and damage: what was synced is there once, and what is lost is counted."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import HEADER_BYTES, Frame, SegmentHeader, encode_frame
from audisp.dispatch.cursor import CURSOR_NAME, SLOT_STRIDE
from audisp.dispatch.spool import Findings, Spool
from audisp.errors import StoreError
from tests.dispatch.spools import MIB, SEGMENT, block, drain, fill, line, segments
from tests.needs import ROOT


def test_torn_tail_at_every_byte_of_the_last_frame(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    spool.append([block(1, 3)], {"at": 3})
    file = segments(spool_folder)[0]
    whole = file.stat().st_size
    spool.append([block(4, 3)], {"at": 6})
    spool.close()
    data = file.read_bytes()
    for cut in range(whole, len(data)):
        file.write_bytes(data[:cut])
        with Spool(spool_folder, max_bytes=MIB, min_free=0) as spool:
            assert spool.findings == Findings(torn=int(cut > whole), torn_bytes=cut - whole)
            assert file.stat().st_size == whole
            assert (spool.records, spool.next_record, spool.books) == (3, 4, {"at": 3})
    # What is stored afterwards goes on from the cut.
    with Spool(spool_folder, max_bytes=MIB, min_free=0) as spool:
        spool.append([block(40, 2)], {})
    with Spool(spool_folder, max_bytes=MIB, min_free=0) as spool:
        assert drain(spool) == [1, 2, 3, 40, 41]
        assert spool.findings == Findings()


def test_what_a_killed_process_left_in_memory_is_synced_before_it_counts_as_that(
    make_spool: Callable[..., Spool], spool_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, sys\nfrom audisp.dispatch.spool import Spool\nfrom tests.dispatch.spools import block\n"
        f"spool = Spool(sys.argv[1], max_bytes={MIB}, min_free=0)\nspool.open()\nspool.append([block(1, 3)], {{}})\n"
        "os._exit(0)  # neither synced nor closed, as after SIGKILL"
    )
    # Not a fork of this process, which has threads, and children of other tests to be waited for.
    subprocess.run([sys.executable, "-c", script, str(spool_folder)], check=True, cwd=ROOT)
    (file,) = segments(spool_folder)
    real, done = os.fdatasync, list[int]()

    def sync(descriptor: int) -> None:
        done.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    spool = make_spool()
    assert (spool.records, spool.synced) == (3, 4)
    assert file.stat().st_ino in done
    spool.close()

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        make_spool()


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1])
def test_killed_while_beginning_a_segment(make_spool: Callable[..., Spool], spool_folder: Path, size: int) -> None:
    spool = make_spool()
    spool.append([block(1, 3)], {})
    spool.close()
    (spool_folder / "00000000000000000004.seg").touch(0o600)
    (spool_folder / "00000000000000000004.seg").write_bytes(bytes(size))
    spool = make_spool()
    assert spool.findings == Findings(torn=1, torn_bytes=size)
    assert len(segments(spool_folder)) == 1
    spool.append([block(4)], {})
    assert drain(spool) == [1, 2, 3, 4]


@given(bit=st.integers(0, 10**9))
def test_a_flipped_bit_anywhere_is_found(bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    spool_folder = tmp_path_factory.mktemp("spools") / "spool"
    with Spool(spool_folder, max_bytes=64 * MIB, min_free=0, segment_bytes=SEGMENT) as spool:
        total = fill(spool, 18)
    files = segments(spool_folder)
    assert len(files) == 2
    bit %= sum(file.stat().st_size for file in files) * 8
    for file in files:
        data = bytearray(file.read_bytes())
        if bit < len(data) * 8:
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            break
        bit -= len(data) * 8
    with Spool(spool_folder, max_bytes=64 * MIB, min_free=0, segment_bytes=SEGMENT) as spool:
        assert spool.findings.torn + spool.findings.damaged + spool.findings.aside == 1
        found = drain(spool)
        assert len(found) == len(set(found))
        assert found == sorted(found)
        assert set(found) <= set(range(1, total + 1))
        if spool.findings.damaged:
            assert len(found) == total - 10 == total - spool.findings.lost
        assert spool.findings.broken_chain == 0


def test_damage_in_the_middle_is_counted_in_records(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    total = fill(make_spool())
    make_spool().close()
    file = segments(spool_folder)[1]
    data = bytearray(file.read_bytes())
    data[HEADER_BYTES + 100] ^= 1
    file.write_bytes(data)
    spool = make_spool()
    assert spool.findings == Findings(damaged=1, lost=10)
    assert spool.records == total - 10
    found = drain(spool)
    assert len(found) == total - 10
    assert spool.findings == Findings(damaged=1, lost=10)
    assert spool.position == spool.next_record == total + 1


@pytest.mark.parametrize("which", [0, 1, -1])
def test_damage_after_open_is_counted_too(make_spool: Callable[..., Spool], spool_folder: Path, which: int) -> None:
    spool = make_spool()
    total = fill(spool)
    file = segments(spool_folder)[which]
    data = bytearray(file.read_bytes())
    # The whole segment but its header.
    data[HEADER_BYTES:] = bytes(len(data) - HEADER_BYTES)
    file.write_bytes(data)
    found = drain(spool)
    assert spool.findings.damaged == 1
    assert len(found) + spool.findings.lost == total
    assert spool.findings.lost > 0
    assert spool.position == spool.next_record == total + 1
    assert spool.append([block(total + 1)], {}) == 1
    assert drain(spool) == [total + 1]


def test_everything_damaged_after_open(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    spool.append([block(1, 300, size=1000)], {})
    for file in segments(spool_folder):
        file.write_bytes(file.read_bytes()[:HEADER_BYTES].ljust(file.stat().st_size, b"\xff"))
    assert spool.read(MIB) == []
    assert (spool.records, spool.findings.lost, spool.position) == (0, 300, 301)
    assert spool.append([block(301)], {}) == 1
    assert drain(spool) == [301]


def test_a_removed_segment_is_counted_and_breaks_the_chain(
    make_spool: Callable[..., Spool], spool_folder: Path
) -> None:
    total = fill(make_spool())
    make_spool().close()
    names = [int(file.stem) for file in segments(spool_folder)]
    segments(spool_folder)[1].unlink()
    spool = make_spool()
    assert spool.findings == Findings(lost=names[2] - names[1], broken_chain=1)
    assert len(drain(spool)) == total - spool.findings.lost


def test_the_first_segment_removed_is_noticed(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    total = fill(make_spool())
    make_spool().close()
    gone = int(segments(spool_folder)[1].stem) - 1
    segments(spool_folder)[0].unlink()
    spool = make_spool()
    assert spool.findings == Findings(lost=gone, broken_chain=1)
    assert drain(spool) == list(range(gone + 1, total + 1))


def test_a_frame_exchanged_by_somebody_breaks_the_chain(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    spool.append([block(1, 2)], {})
    file = segments(spool_folder)[0]
    cut = file.stat().st_size
    spool.append([block(3, 2)], {})
    spool.close()
    data = file.read_bytes()
    header = SegmentHeader.decode(data)
    edited, _ = encode_frame(Frame(1, 2, "netlink", {}, header.previous, 0, line(8) + line(9)), header.mark)
    file.write_bytes(data[:HEADER_BYTES] + edited + data[cut:])
    spool = make_spool()
    assert spool.findings == Findings(broken_chain=1)
    assert drain(spool) == [8, 9, 3, 4]


@pytest.mark.parametrize("at_end", [True, False])
def test_a_repeated_frame_is_not_offered_twice(
    make_spool: Callable[..., Spool], spool_folder: Path, at_end: bool
) -> None:
    spool = make_spool()
    spool.append([block(1, 2)], {})
    file = segments(spool_folder)[0]
    cut = file.stat().st_size
    spool.append([block(3, 2)], {})
    spool.close()
    data = file.read_bytes()
    again = data[HEADER_BYTES:cut]
    file.write_bytes(data + again if at_end else data[:cut] + again + data[cut:])
    spool = make_spool()
    assert spool.findings == Findings(damaged=1)
    assert spool.append([block(5)], {}) == 1
    assert drain(spool) == [1, 2, 3, 4, 5]
    assert spool.findings == Findings(damaged=1)


def test_an_unusable_header_sets_the_file_aside(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    total = fill(make_spool())
    make_spool().close()
    file = segments(spool_folder)[1]
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    spool = make_spool()
    assert (spool.findings.aside, spool.findings.damaged, spool.findings.broken_chain) == (1, 0, 0)
    assert len(drain(spool)) == total - spool.findings.lost
    (bad,) = spool_folder.glob("*.bad")
    assert bad.read_bytes() == data
    assert spool.bytes >= len(data)
    assert make_spool().findings == Findings()


def test_a_segment_of_another_spool_is_set_aside(
    make_spool: Callable[..., Spool], spool_folder: Path, tmp_path: Path
) -> None:
    spool = make_spool()
    spool.append([block(1, 2)], {})
    with Spool(tmp_path / "other", max_bytes=MIB, min_free=0) as other:
        other.append([block(1, 9)], {})
        drain(other)
    with Spool(tmp_path / "other", max_bytes=MIB, min_free=0) as other:
        other.append([block(10, 9)], {})
    (stray,) = segments(tmp_path / "other")
    spool.close()
    stray.rename(spool_folder / stray.name)
    spool = make_spool()
    assert spool.findings == Findings(aside=1)
    assert drain(spool) == [1, 2]


def test_a_later_version_is_refused_and_left_alone(make_spool: Callable[..., Spool], spool_folder: Path) -> None:
    spool = make_spool()
    spool.append([block(1)], {})
    spool.close()
    file = segments(spool_folder)[0]
    data = bytearray(file.read_bytes())
    struct.pack_into("<H", data, 8, 9)
    struct.pack_into("<I", data, 380, zlib.crc32(data[:380]))
    file.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{re.escape(str(file))}: .*version 9"):
        spool.open()
    assert file.read_bytes() == data


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_torn_cursor_offers_again_and_skips_nothing(
    make_spool: Callable[..., Spool], spool_folder: Path, slot: int
) -> None:
    spool = make_spool()
    spool.append([block(1, 10)], {})
    for _ in range(4):
        spool.read(MIB)
        spool.advance(1)
    spool.close()
    file = spool_folder / CURSOR_NAME
    data = bytearray(file.read_bytes())
    for number in (0, 1):
        if slot in (number, 2):
            data[number * SLOT_STRIDE + 30] ^= 0x80
    file.write_bytes(data)
    spool = make_spool()
    assert spool.findings.cursor_lost == (slot == 2)
    found = drain(spool)
    assert found in ([1, *range(2, 11)], list(range(4, 11)), list(range(5, 11)))
    if slot == 2:
        assert found == list(range(1, 11))


def test_a_cursor_beyond_the_end_is_where_numbering_goes_on(
    make_spool: Callable[..., Spool], spool_folder: Path
) -> None:
    # Power loss: the cursor reached the disk, the frames it had passed did not.
    spool = make_spool()
    spool.append([block(1, 3)], {})
    size = segments(spool_folder)[0].stat().st_size
    spool.append([block(4, 3)], {})
    spool.read(MIB)
    spool.advance(5)
    spool.close()
    os.truncate(segments(spool_folder)[0], size)
    spool = make_spool()
    assert (spool.position, spool.next_record, spool.records) == (6, 6, 0)
    spool.append([block(6, 2)], {})
    spool = make_spool()
    assert drain(spool) == [6, 7]
    assert spool.findings == Findings()


WRITER = """
import os, random, sys, time
from audisp.dispatch.spool import Spool
from audisp.record import Block
spool_folder, seed, serial = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
spool = Spool(spool_folder, max_bytes=1 << 26, min_free=0, segment_bytes=1 << 16)
spool.open()
assert spool.findings.damaged == spool.findings.lost == spool.findings.broken_chain == spool.findings.aside == 0
serial = spool.next_record
os.write(1, b"start %d %d\\n" % (serial, spool.position))
while True:
    blocks = []
    for _ in range(chance.randint(1, 4)):
        count = chance.randint(1, 30)
        lines = [b"type=X msg=audit(1.000:%d): %s\\n" % (n, chance.randbytes(chance.randint(0, 300)).hex().encode())
                 for n in range(serial, serial + count)]
        blocks.append(Block(b"".join(lines), count, "s", time.monotonic()))
        serial += count
    assert spool.append(blocks, {"put": serial}) == len(blocks)
    if chance.random() < 0.5:
        spool.sync()
        os.write(1, b"synced %d\\n" % spool.synced)
    if chance.random() < 0.3:
        got = [n for block in spool.read(chance.randint(1, 50_000)) for n in block.serials()]
        done = chance.randint(0, len(got))
        if done:
            os.write(1, b"read %d %d\\n" % (got[0], got[done - 1]))
            spool.advance(done)
            os.write(1, b"done %d\\n" % got[done - 1])
"""


def test_killed_at_random_moments(spool_folder: Path) -> None:
    chance = random.Random(20)
    synced = done = expected = 0
    for seed in range(8):
        command = [sys.executable, "-c", WRITER, str(spool_folder), str(seed), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline().split()]
            time.sleep(chance.random() * 0.15)
            writer.send_signal(signal.SIGKILL)
            lines += [each.split() for each in writer.stdout.readlines()]
        assert writer.returncode == -signal.SIGKILL
        assert lines[0][0] == b"start", lines
        begun, position = map(int, lines[0][1:])
        # All that was said to be on disk is, and at most the one advance that was under way is further.
        assert begun >= synced
        assert position > done
        expected = position
        for word, *numbers in lines[1:]:
            if word == b"synced":
                synced = int(numbers[0])
            elif word == b"read":
                assert int(numbers[0]) == expected
                expected = int(numbers[1]) + 1
            else:
                done = int(numbers[0])
    with Spool(spool_folder, max_bytes=MIB, min_free=0) as spool:
        found = drain(spool)
        assert spool.findings.lost == spool.findings.damaged == spool.findings.broken_chain == 0
        assert not found or found == list(range(found[0], found[-1] + 1))
        assert (found[0] if found else spool.next_record) in range(done + 1, expected + 1)
        assert spool.next_record >= synced
        assert spool.books
