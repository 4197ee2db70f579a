"""The waiting room: bounds, order, merging, what a gap says."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.queue import BLOCK_OVERHEAD, BlockQueue, Gap, Marker
from audisp.record import Block


def line(serial: int, size: int = 60) -> bytes:
    head = b"type=SYSCALL msg=audit(1700000000.123:%d): " % serial
    return head + b"x" * max(0, size - len(head) - 1) + b"\n"


def block(first: int, count: int = 1, *, size: int = 60, spooled: bool = False) -> Block:
    data = b"".join(line(serial, size) for serial in range(first, first + count))
    return Block(data, count, "test", time.monotonic(), spooled=spooled)


def marker(gap: Gap) -> Marker:
    return Marker(Block(b"type=DAEMON_ERR msg=audit(1.000:77): op=lost\n", 1, "internal", 0.0), gap)


def cost(one: Block) -> int:
    return len(one.data) + BLOCK_OVERHEAD


def drain(queue: BlockQueue, merge_bytes: int = 1) -> list[Block]:
    found = []
    while (taken := queue.pop(merge_bytes)) is not None:
        found.append(taken)
    assert (queue.bytes, queue.records, len(queue)) == (0, 0, 0)
    return found


def serials(blocks: list[Block]) -> list[int]:
    return [serial for one in blocks for serial in one.serials()]


def test_a_waiting_block_costs_its_data_and_what_python_needs_for_it() -> None:
    queue = BlockQueue(10_000)
    first, second = block(1, 3), block(4)
    assert queue.push(first) is None
    assert queue.push(second) is None
    assert queue.bytes == cost(first) + cost(second)
    assert queue.records == 4
    assert queue.oldest() == first.arrived
    assert queue.peak_bytes == queue.bytes


def test_what_does_not_fit_is_cut_at_a_record() -> None:
    queue = BlockQueue(BLOCK_OVERHEAD + 150)
    rest = queue.push(block(1, 5))
    assert rest is not None
    assert (rest.records, rest.serials()) == (3, [3, 4, 5])
    assert queue.records == 2
    assert queue.bytes <= queue.max_bytes
    assert queue.push(rest) is rest
    assert serials(drain(queue)) == [1, 2]


@pytest.mark.parametrize("max_bytes", [0, 1, 59, BLOCK_OVERHEAD])
def test_an_empty_queue_takes_one_record_however_large(max_bytes: int) -> None:
    queue = BlockQueue(max_bytes)
    rest = queue.push(block(1, 2))
    assert rest is not None
    assert rest.serials() == [2]
    assert queue.push(rest) is rest
    assert serials(drain(queue)) == [1]


def test_a_bound_in_records_counts_records_and_not_blocks() -> None:
    queue = BlockQueue(1 << 20, 4)
    assert queue.push(block(1, 3)) is None
    rest = queue.push(block(4, 3))
    assert rest is not None
    assert rest.serials() == [5, 6]
    assert queue.records == 4
    assert queue.push(rest) is rest
    assert serials(drain(queue)) == [1, 2, 3, 4]


def test_blocks_are_merged_up_to_the_limit_and_in_order() -> None:
    queue = BlockQueue(1 << 20)
    for serial in range(1, 11):
        queue.push(block(serial))
    taken = queue.pop(180)
    assert taken is not None
    assert taken.serials() == [1, 2, 3]
    assert taken.records == 3
    assert serials(drain(queue, 1 << 20)) == list(range(4, 11))


def test_a_block_above_the_limit_comes_whole() -> None:
    queue = BlockQueue(1 << 20)
    queue.push(block(1, 50))
    taken = queue.pop(100)
    assert taken is not None
    assert taken.records == 50


def test_markers_and_what_was_on_disk_are_never_merged_with_others() -> None:
    queue = BlockQueue(1 << 20)
    queue.push(block(1))
    queue.push(block(2))
    queue.slip_in(marker(Gap("overflow", 5, 3, 7)))
    queue.push(block(3))
    queue.force(block(4, spooled=True))
    queue.force(block(5, spooled=True))
    queue.push(block(6))
    taken = drain(queue, 1 << 20)
    assert [one.own for one in taken] == [0, 1, 0, 0, 0]
    assert [one.spooled for one in taken] == [False, False, False, True, False]
    assert [serials([one]) for one in taken] == [[1], [], [2, 3], [4, 5], [6]]


def test_a_marker_costs_bytes_and_is_no_record_of_the_stream() -> None:
    queue = BlockQueue(1 << 20)
    queue.push(block(1))
    before = queue.bytes
    told = marker(Gap("overflow"))
    queue.slip_in(told)
    assert queue.bytes == before + cost(told)
    assert queue.records == 1
    assert drain(queue)[0] is told


def test_what_comes_back_is_the_next_to_be_taken() -> None:
    queue = BlockQueue(1 << 20)
    queue.push(block(1, 2))
    queue.push(block(3, 2))
    taken = queue.pop(1)
    assert taken is not None
    queue.push_front(taken)
    assert queue.records == 4
    assert serials(drain(queue)) == [1, 2, 3, 4]


def test_room_is_made_at_the_cost_of_the_oldest() -> None:
    queue = BlockQueue(3 * (60 + BLOCK_OVERHEAD))
    for serial in (1, 2, 3):
        assert queue.push(block(serial)) is None
    assert serials(queue.make_room(block(4))) == [1]
    assert queue.push(block(4)) is None
    assert serials(queue.make_room(block(5, 10))) == [2, 3, 4]


@pytest.mark.parametrize(
    ("max_bytes", "max_records", "kept"),
    [
        (BLOCK_OVERHEAD + 180, None, [8, 9, 10]),
        (BLOCK_OVERHEAD + 179, None, [9, 10]),
        (BLOCK_OVERHEAD + 60, None, [10]),
        (BLOCK_OVERHEAD + 1, None, [10]),
        (1, None, [10]),
        (1 << 20, 4, [7, 8, 9, 10]),
        (BLOCK_OVERHEAD + 120, 4, [9, 10]),
        (1 << 20, 100, list(range(1, 11))),
    ],
)
def test_of_a_block_larger_than_the_queue_the_newest_part_is_kept(
    max_bytes: int, max_records: int | None, kept: list[int]
) -> None:
    queue = BlockQueue(max_bytes, max_records)
    head, rest = queue.newest_part(block(1, 10))
    assert rest.serials() == kept
    assert rest.records == len(kept)
    assert (head.serials() if head else []) == list(range(1, 11 - len(kept)))
    assert queue.push(rest) is None


def test_a_gap_counts_and_knows_its_ends() -> None:
    gap = Gap("overflow")
    gap.add(Block(b"garbage\n", 1, "test", 0.0))
    assert (gap.count, gap.first, gap.last) == (1, None, None)
    gap.add(block(5, 3))
    gap.add(Block(b"garbage\n", 1, "test", 0.0))
    gap.add(block(9))
    assert (gap.count, gap.first, gap.last) == (6, 5, 9)


def test_a_marker_that_is_lost_brings_the_loss_it_would_have_told_of() -> None:
    gap = Gap("overflow")
    gap.add(marker(Gap("suspended", 7, 10, 16)))
    gap.add(block(17))
    assert (gap.reason, gap.count, gap.first, gap.last) == ("overflow", 8, 10, 17)


@given(
    st.integers(1, 3000),
    st.one_of(st.none(), st.integers(1, 12)),
    st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 12), st.integers(52, 400))), max_size=40),
)
def test_the_bounds_hold_and_the_order_stays(
    max_bytes: int, max_records: int | None, steps: list[tuple[int, int] | None]
) -> None:
    """None takes, a pair offers (records, their size)."""
    queue = BlockQueue(max_bytes, max_records)
    expected: list[int] = []
    serial = 0
    for step in steps:
        if step is None:
            taken = queue.pop(500)
            assert (taken is None) == (not expected)
            got = taken.serials() if taken else []
            assert got == expected[: len(got)]
            del expected[: len(got)]
        else:
            count, size = step
            was_empty = not queue
            rest = queue.push(block(serial + 1, count, size=size))
            taken_in = count - (rest.records if rest else 0)
            expected += range(serial + 1, serial + 1 + taken_in)
            serial += count
            if rest is not None:
                assert rest.serials() == list(range(serial - rest.records + 1, serial + 1))
            assert taken_in or not was_empty
            assert queue.bytes <= max_bytes or (len(queue) == 1 and queue.records == 1)
            assert max_records is None or queue.records <= max_records
        assert queue.records == len(expected)
    assert serials(drain(queue)) == expected
