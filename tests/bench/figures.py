"""What is made of several runs: median, spread, ratio, and tables in markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

Run = Mapping[str, float]
"""One run's figures by name."""

MILLION = 1e6


def median(runs: Sequence[Run], name: str) -> float:
    """The median of one figure over all runs."""
    return statistics.median(run[name] for run in runs)


def spread(runs: Sequence[Run], name: str) -> float:
    """(max - min) / median of one figure: how much of it is noise. 0 for a median of 0."""
    middle = median(runs, name)
    values = [run[name] for run in runs]
    return (max(values) - min(values)) / middle if middle else 0.0


def worst(runs: Sequence[Run], name: str) -> float:
    """The largest value of one figure."""
    return max(run[name] for run in runs)


def each(runs: Sequence[Run], name: str) -> str:
    """One whole figure of all runs, in their order: `0/0/2`."""
    return "/".join(f"{run[name]:.0f}" for run in runs)


def measure(rounds: int, sides: Mapping[str, Callable[[], Run]], note: Callable[[str], None]) -> dict[str, list[Run]]:
    """Run every side `rounds` times, turn by turn, so that what else the machine does falls on all alike."""
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, run in sides.items():
            figures = run()
            runs[side].append(figures)
            note(f"round {number + 1}: {side}: " + ", ".join(f"{name} {shown(v)}" for name, v in figures.items()))
    return runs


def shown(value: float | str) -> str:
    """A number for people: thousands apart, no more digits than mean something."""
    if isinstance(value, str):
        return value
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    for bound, digits in ((100, 0), (10, 1), (0.1, 2)):
        if abs(value) >= bound:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def percent(value: float) -> str:
    """0.123 as `12 %`."""
    return f"{value:.0%}".replace("%", " %")


def times(value: float) -> str:
    """A ratio as `5.3 x`."""
    return f"{value:.2f} x" if value < 10 else f"{value:.1f} x"


def at_least(value: float, goal: float, words: str) -> str:
    """A goal, in words, and whether the value meets it."""
    return f"{words}: {'met' if value >= goal else 'NOT met'}"


def at_most(value: float, goal: float, words: str) -> str:
    """As `at_least`, for what must not be more."""
    return f"{words}: {'met' if value <= goal else 'NOT met'}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[float | str]]) -> str:
    """A markdown table under a heading. ValueError if a row is not as wide as the head."""
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)} columns: {row}")
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
