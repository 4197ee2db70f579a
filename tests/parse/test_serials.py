"""Missing serials: which events never came."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.serials import CONFIRM, JUMP, REMEMBERED, WINDOW, Gaps
from tests.parse.streams import line

TOP = 0xFFFFFFFF


def test_a_whole_run_misses_nothing() -> None:
    gaps = Gaps()
    assert gaps.see([5, 5, 6, 7, 7, 7, 8]) == []
    assert gaps.settle() == []
    assert (gaps.last, gaps.missing, gaps.waiting) == (8, 0, 0)


def test_missing_once_a_window_of_later_ones_came() -> None:
    gaps = Gaps(window=10)
    assert gaps.see([1, 2, 5]) == []
    assert gaps.waiting == 2
    assert gaps.see(range(6, 14)) == []
    assert gaps.see([14]) == [(3, 4)]
    assert gaps.see(range(15, 40)) == []
    assert (gaps.missing, gaps.waiting) == (2, 0)


def test_settle_waits_no_longer() -> None:
    gaps = Gaps()
    assert gaps.see([1, 4, 8]) == []
    assert gaps.settle() == [(2, 3), (5, 7)]
    assert gaps.settle() == []


def test_what_overtakes_is_not_missing() -> None:
    gaps = Gaps(window=10)
    assert gaps.see([1, 5, 3, 2, 4, 9, 7, 8, 6]) == []
    assert gaps.settle() == []


def test_late_after_all() -> None:
    gaps = Gaps(window=4)
    assert gaps.see([1, 10, 11, 12, 13]) == [(2, 9)]
    assert gaps.see([5, 5, 2]) == []
    assert (gaps.missing, gaps.late) == (8, 2)


def test_the_last_run_is_continued() -> None:
    gaps = Gaps(last=100)
    assert gaps.see([3_332]) == []
    assert gaps.settle() == [(101, 3_331)]
    assert gaps.last == 3_332
    assert Gaps().last == 0


def test_the_wrap_is_no_gap() -> None:
    gaps = Gaps()
    assert gaps.see([TOP - 1, TOP, 0, 1]) == []
    assert gaps.settle() == []
    assert gaps.last == 1
    gaps = Gaps(last=TOP - 2)
    assert gaps.see([2]) == []
    assert gaps.settle() == [(TOP - 1, TOP), (0, 1)]
    assert gaps.restarts == 0


def test_a_restart_starts_anew() -> None:
    gaps = Gaps(last=500_000)
    assert gaps.see([500_001, 500_003]) == []
    assert gaps.see([1, 2]) == []
    assert gaps.restarts == 0
    assert gaps.see([3]) == [(500_002, 500_002)]
    assert (gaps.restarts, gaps.last, gaps.stray) == (1, 3, 0)
    assert gaps.see([4, 6]) == []
    assert gaps.settle() == [(5, 5)]


@pytest.mark.parametrize("stray", [1, 400_000_000, TOP, TOP + 1, 10**19, -1])
def test_one_line_out_of_place_moves_nothing(stray: int) -> None:
    gaps = Gaps(last=1_000_000)
    assert gaps.see([1_000_001, stray, stray, 1_000_002, stray, 1_000_003]) == []
    assert gaps.settle() == []
    assert (gaps.last, gaps.missing, gaps.restarts) == (1_000_003, 0, 0)
    assert gaps.stray >= 2


def test_a_long_jump_is_believed_when_confirmed() -> None:
    gaps = Gaps(last=10)
    far = JUMP * 3
    assert gaps.see([far, far + 1]) == []
    assert gaps.see(range(far + 2, far + WINDOW + 1)) == [(11, far - 1)]
    assert gaps.restarts == 0
    assert gaps.last == far + WINDOW


def test_another_record_of_an_old_event_is_no_restart() -> None:
    gaps = Gaps()
    gaps.see(range(1, 10_000))
    for _ in range(CONFIRM * 3):
        assert gaps.see([5_000]) == []
        assert gaps.see([9_999]) == []
    assert gaps.restarts == 0


def test_memory_is_bounded() -> None:
    gaps = Gaps(window=50)
    lost = gaps.see(range(1, 200_000, 2))
    assert len(lost) > 99_900
    assert gaps.waiting <= 50
    assert len(gaps._declared) == REMEMBERED


@given(st.integers(0, 1 << 32), st.integers(0, TOP), st.sets(st.integers(1, 298), max_size=40))
def test_exactly_the_missing_are_declared(seed: int, start: int, gone: set[int]) -> None:
    chance = random.Random(seed)
    numbers = [number for number in range(300) if number not in gone]
    # Out of order by less than the window, some twice, as records of several CPUs come.
    order = sorted(numbers + chance.choices(numbers, k=50), key=lambda number: number + chance.random() * 30)
    order.remove(0)
    gaps = Gaps(window=64)
    lost = gaps.see([(start + number) & TOP for number in [0, *order]])
    lost += gaps.settle()
    found = [serial for first, last in lost for serial in range(first, last + 1)]
    assert found == [(start + number) & TOP for number in sorted(gone)]
    assert gaps.missing == len(gone)
    assert (gaps.late, gaps.restarts, gaps.stray) == (0, 0, 0)
    assert gaps.last == (start + 299) & TOP


def test_blocks_of_real_records() -> None:
    data = (Path(__file__).parents[1] / "corpus" / "mixed.log").read_bytes()
    assert data.startswith(b"type=DAEMON_START")
    gaps = Gaps()
    lines = data.splitlines(keepends=True)
    assert gaps.see_block(b"".join(lines[:40])) == []
    assert gaps.waiting == 0
    lost = gaps.see_block(b"".join(lines[40:])) + gaps.settle()
    assert len(lost) == 1
    assert gaps.restarts == gaps.stray == 0


def test_daemon_records_are_not_the_kernels() -> None:
    gaps = Gaps(last=9)
    data = line(10) + line(4_000, b"DAEMON_ROTATE") + line(11) + line(7_777, b"DAEMON_END", node=b"h") + line(12)
    assert gaps.see_block(data) == []
    assert (gaps.last, gaps.waiting) == (12, 0)


def test_text_in_a_record_is_no_stamp() -> None:
    forged = b"msg='type=SYSCALL msg=audit(1700000000.123:900): x'"
    for data in (line(10, text=forged) + line(11), line(10, text=forged), line(10) + line(10, b"EOE", forged)):
        gaps = Gaps(last=9)
        assert gaps.see_block(data) == []
        assert gaps.settle() == []
        assert gaps.last in (10, 11)


@pytest.mark.parametrize("data", [b"", b"\n", b"no record at all\n", b"type=X msg=audit(nonsense): x\n"])
def test_blocks_without_a_stamp(data: bytes) -> None:
    gaps = Gaps(last=9)
    assert gaps.see_block(data) == []
    assert gaps.last == 9


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=30), st.booleans(), st.booleans()
)
def test_a_block_is_seen_as_its_serials_are(steps: list[tuple[int, int]], node: bool, told: bool) -> None:
    one, other = Gaps(last=99_990, window=16), Gaps(last=99_990, window=16)
    serial = 99_990
    for step, count in steps:
        serial += step if step < 3 else 1 - step % 3
        data = b"".join(line(serial + at // 2, node=b"h" if node else b"") for at in range(count))
        lost = one.see_block(data, count if told else None)
        assert lost == other.see([serial + at // 2 for at in range(count)])
        assert (one.last, one.waiting, one.late) == (other.last, other.waiting, other.late)


def test_what_an_earlier_run_had_not_seen_is_declared_by_the_next() -> None:
    first = Gaps(last=99)
    assert first.see([100, 111, 112]) == []
    assert first.open == [(101, 110)]
    second = Gaps(last=first.last, open_=first.open)
    assert second.waiting == 10
    assert second.see([113, 105]) == []
    assert second.settle() == [(101, 104), (106, 110)]
    assert second.open == []


def test_open_ranges_that_cannot_be_are_left_out() -> None:
    assert Gaps(last=50, open_=[(0, 3), (9, 8), (45, 60)]).open == []
    assert Gaps(open_=[(1, 2)]).open == []
