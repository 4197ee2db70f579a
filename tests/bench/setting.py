"""What every part of the benchmarks is given."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tests.bench.place import Place


@attrs.frozen
class Setting:
    """place: scratch and programs. runs: rounds per figure. scale: factor on every size, 1 for figures that count.

    note: says one line of progress, apart from the tables.
    """

    place: Place
    runs: int
    scale: float
    note: Callable[[str], None]

    def sized(self, number: float, least: int = 1) -> int:
        """A size scaled, but never so small that the run means nothing."""
        return max(least, int(number * self.scale))
