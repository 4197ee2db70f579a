from __future__ import annotations

import pytest

from audisp.record import Block
from audisp.sources.pace import LIVE_WAIT_MOST, live_pace, steady_pace
from tests.sources.collect import lines


def at(seconds: float, serial: int) -> bytes:
    return f"type=USER msg=audit({seconds:.3f}:{serial}): op=x\n".encode()


def test_a_steady_pace_takes_its_time_and_changes_nothing() -> None:
    data = lines(1000)
    pieces = list(steady_pace(500)(Block(data, 1000, "s", 1.0)))
    assert b"".join(piece.data for _, piece in pieces) == data
    assert sum(piece.records for _, piece in pieces) == 1000
    assert sum(seconds for seconds, _ in pieces) == pytest.approx(2.0)
    assert max(seconds for seconds, _ in pieces) <= 0.051


def test_a_slow_pace_goes_record_by_record() -> None:
    pieces = list(steady_pace(2)(Block(lines(3), 3, "s", 1.0)))
    assert [(seconds, piece.records) for seconds, piece in pieces] == [(0.5, 1)] * 3


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_pace_that_never_ends_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        steady_pace(rate)


def test_a_live_pace_keeps_events_together_and_pauses_as_they_did() -> None:
    pace = live_pace()
    first = at(10.0, 1) + at(10.0, 1) + at(10.25, 2)
    second = at(10.25, 2) + at(3610.0, 3) + at(9.0, 4)
    pieces = [*pace(Block(first, 3, "s", 1.0)), *pace(Block(second, 3, "s", 1.0))]
    assert b"".join(piece.data for _, piece in pieces) == first + second
    assert [piece.records for _, piece in pieces] == [2, 1, 1, 1, 1]
    assert [seconds for seconds, _ in pieces] == pytest.approx([0, 0.25, 0, LIVE_WAIT_MOST, 0])
