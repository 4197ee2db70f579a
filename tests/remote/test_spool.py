"""A sender's spool: frames as they lie on disk, settled records, room made."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from audisp.buffer.segment import ANCHOR
from audisp.record import Block
from audisp.remote.spool import FrameReader, Stream
from audisp.wire.native import DataFrame
from tests.e2e.remotes import numbered, numbers_in

SEED: Final = 17


def stream(folder: Path, max_bytes: int = 600_000) -> Stream:
    return Stream(folder, max_bytes=max_bytes, min_free=0)


def block(first: int, count: int) -> Block:
    return Block(numbered(first, count), count, "stdin", 0.0)


def heavy(first: int, count: int) -> Block:
    """Records that do not get smaller."""
    chance = random.Random(first)
    data = b"".join(
        line[:-1] + b" %b\n" % chance.randbytes(400).hex().encode() for line in numbered(first, count).splitlines(True)
    )
    return Block(data, count, "stdin", 0.0)


def put(spool: Stream, *blocks: Block) -> None:
    for each in blocks:
        assert spool.append([each], {}) == 1
    spool.sync()


def chained(frames: list[DataFrame], previous: bytes = ANCHOR) -> None:
    for each in frames:
        assert each.head.previous == previous
        previous = each.digest


def test_frames_come_as_they_lie_there(tmp_path: Path) -> None:
    with stream(tmp_path / "s") as spool:
        put(spool, block(1, 10), block(11, 5))
        reader = FrameReader(spool, 1)
        found = reader.read()
        assert [(each.first, each.count) for each in found] == [(1, 10), (11, 5)]
        assert b"".join(each.unpack() for each in found) == numbered(1, 15)
        chained(found)
        assert reader.read() == []
        put(spool, block(16, 1))
        (last,) = reader.read()
        chained([*found, last])
        assert spool.hash_at_end() == (17, last.digest)
        reader.close()


def test_what_is_not_synced_is_not_given_out(tmp_path: Path) -> None:
    with stream(tmp_path / "s") as spool:
        spool.append([block(1, 10)], {})
        reader = FrameReader(spool, 1)
        assert reader.read() == []
        assert spool.front() is None
        spool.sync()
        assert len(reader.read()) == 1
        assert spool.front() == (1, numbered(1, 10))
        reader.close()


@pytest.mark.parametrize("number", [1, 4, 11, 16, 17])
def test_a_reader_begins_with_the_frame_that_holds_the_number(tmp_path: Path, number: int) -> None:
    with stream(tmp_path / "s") as spool:
        put(spool, block(1, 10), block(11, 5), block(16, 1))
        reader = FrameReader(spool, number)
        first = {1: 1, 4: 1, 11: 11, 16: 16}.get(number)
        frame = reader.peek()
        assert (frame.first if frame else None) == first
        reader.close()


def test_records_are_settled_up_to_a_number(tmp_path: Path) -> None:
    with stream(tmp_path / "s") as spool:
        put(spool, block(1, 10), block(11, 5))
        assert [spool.settle_to(number) for number in (1, 4, 4, 2, 13, 99)] == [0, 3, 0, 0, 9, 3]
        assert (spool.records, spool.position) == (0, 16)
        assert spool.front() is None
    with stream(tmp_path / "s") as spool:
        put(spool, block(16, 1))
        assert spool.front() == (16, numbered(16, 1))


def test_the_front_goes_on_inside_a_frame(tmp_path: Path) -> None:
    with stream(tmp_path / "s") as spool:
        put(spool, block(1, 10))
        spool.settle_to(5)
        assert spool.front() == (5, numbered(5, 6))
    with stream(tmp_path / "s") as spool:
        assert spool.front() == (5, numbered(5, 6))


def test_reading_over_segments_that_are_settled_and_removed(tmp_path: Path) -> None:
    """A reader that is behind, beside one that is level: neither misses a frame, whatever is removed meanwhile."""
    chance = random.Random(SEED)
    with stream(tmp_path / "s", 4_000_000) as spool:
        number, found = 1, []
        reader = FrameReader(spool, 1)
        while number < 20_000:
            count = chance.randrange(1, 400)
            put(spool, heavy(number, count))
            number += count
            for each in reader.read(chance.randrange(1, 400_000)):
                found.append(each)
            if found:
                spool.settle_to(chance.choice(found).after.next)
        found += reader.read(1 << 30)
        reader.close()
        assert [each.first for each in found][1:] == [each.after.next for each in found][:-1]
        assert numbers_in(b"".join(each.unpack() for each in found)) == list(range(1, number))
        chained(found)


@pytest.mark.parametrize("seed", range(6))
def test_settled_by_number_is_as_settled_by_reading(tmp_path: Path, seed: int) -> None:
    """Whatever was read before, and over segments and restarts: records, position and what comes next agree."""
    chance = random.Random(seed)
    spool = stream(tmp_path / "s", 2_000_000)
    spool.open()
    number = settled = 1
    for _ in range(150):
        if chance.random() < 0.5:
            count = chance.randrange(1, 120)
            put(spool, heavy(number, count))
            number += count
        if chance.random() < 0.4:
            assert spool.front() is not None or settled == number
        if chance.random() < 0.5:
            upto = chance.randrange(settled, number + 1)
            assert spool.settle_to(upto) == upto - settled
            settled = upto
        if chance.random() < 0.1:
            spool.close()
            spool.open()
        assert (spool.records, spool.position, spool.next_record) == (number - settled, settled, number)
        front = spool.front() if chance.random() < 0.3 else None
        if front is not None:
            assert front[0] == numbers_in(front[1])[0] == settled
        assert spool.findings.lost == 0
    spool.close()


def test_the_oldest_segment_makes_room(tmp_path: Path) -> None:
    with stream(tmp_path / "s") as spool:
        number = 1
        while spool.append([heavy(number, 50)], {}):
            number += 50
        spool.sync()
        before = spool.records
        dropped = spool.drop_oldest()
        assert 0 < dropped < before
        assert (spool.records, spool.position, spool.dropped_upto) == (before - dropped, dropped + 1, dropped + 1)
        assert spool.append([heavy(number, 50)], {}) == 1
        spool.sync()
        frame = FrameReader(spool, 1).peek()
        assert frame is not None
        assert frame.first == dropped + 1


def test_damage_costs_its_frame_alone(tmp_path: Path) -> None:
    with stream(tmp_path / "s") as spool:
        put(spool, block(1, 10), block(11, 10), block(21, 10))
        (name,) = [path for path in (tmp_path / "s").iterdir() if path.suffix == ".seg"]
        reader = FrameReader(spool, 1)
        sizes = [len(each.raw) for each in reader.read()]
        with open(name, "r+b") as file:
            file.seek(512 + sizes[0] + sizes[1] // 2)
            file.write(b"damage")
        reader = FrameReader(spool, 1)
        assert [each.first for each in reader.read()] == [1, 21]
        reader.close()
        assert spool.settle_to(31) == 20


def test_a_reader_goes_on_over_a_spool_that_was_opened_anew(tmp_path: Path) -> None:
    spool = stream(tmp_path / "s")
    spool.open()
    put(spool, block(1, 10))
    reader = FrameReader(spool, 1)
    assert len(reader.read()) == 1
    spool.close()
    spool.open()
    put(spool, block(11, 10))
    assert [each.first for each in reader.read()] == [11]
    reader.close()
    spool.close()


def test_two_threads(tmp_path: Path) -> None:
    """One stores and settles, one reads: what is read is what was stored, in order, up to the last frame."""
    count = 300
    with stream(tmp_path / "s", 40_000_000) as spool:
        settled = 1
        done = threading.Event()

        def write() -> None:
            for number in range(1, count * 100, 100):
                put(spool, heavy(number, 100))
                spool.settle_to(settled)
            done.set()

        reader = FrameReader(spool, 1)
        found: list[DataFrame] = []
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not done.is_set() or (found and found[-1].after.next < spool.next_record):
                found += reader.read()
                if found:
                    settled = found[-1].after.next
            writing.result()
        reader.close()
        assert numbers_in(b"".join(each.unpack() for each in found)) == list(range(1, count * 100 + 1))
        chained(found)
