"""An hour and a half of the day of `make soak day` (issue 3, item 5)."""

from __future__ import annotations

from tests.soak.day import Day
from tests.soak.result import Result


def test_every_record_is_in_exactly_one_event_whatever_goes_wrong() -> None:
    result = Result("day", 3)
    Day(3, 5_400.0, result).run()
    assert result.problems == []
    assert min(int(str(count)) for what, count in result.figures.items() if what.startswith("wrong: ")) > 0
