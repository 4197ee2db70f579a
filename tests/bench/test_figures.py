"""The arithmetic and the tables of the benchmarks."""

from __future__ import annotations

import pytest

from tests.bench import figures

RUNS = [{"rate": 100.0, "lost": 0.0}, {"rate": 120.0, "lost": 2.0}, {"rate": 90.0, "lost": 0.0}]


def test_median_spread_worst_each() -> None:
    assert figures.median(RUNS, "rate") == 100
    assert figures.spread(RUNS, "rate") == pytest.approx(0.3)
    assert figures.spread(RUNS, "lost") == 0
    assert figures.worst(RUNS, "rate") == 120
    assert figures.each(RUNS, "lost") == "0/2/0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12_345, "12,345"),
        (12_345.6, "12,346"),
        (35.72, "35.7"),
        (3.149, "3.15"),
        (0.0526, "0.053"),
        ("x", "x"),
    ],
)
def test_shown(value: float | str, text: str) -> None:
    assert figures.shown(value) == text


def test_goals_say_whether_they_are_met() -> None:
    assert figures.at_least(5, 5, ">= 5 x") == ">= 5 x: met"
    assert figures.at_least(4.9, 5, ">= 5 x") == ">= 5 x: NOT met"
    assert figures.at_most(5.1, 5, "<= 5 ms") == "<= 5 ms: NOT met"


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> figures.Run:
        order.append(name)
        return {"n": float(len(order))}

    said: list[str] = []
    runs = figures.measure(2, {"theirs": lambda: side("theirs"), "ours": lambda: side("ours")}, said.append)
    assert order == ["theirs", "ours", "theirs", "ours"]
    assert runs == {"theirs": [{"n": 1.0}, {"n": 3.0}], "ours": [{"n": 2.0}, {"n": 4.0}]}
    assert len(said) == 4


def test_table_is_markdown_and_square() -> None:
    assert figures.table("Title", ("a", "b"), [["x", 1234.0]]) == "### Title\n\n| a | b |\n|---|---|\n| x | 1,234 |\n"
    with pytest.raises(ValueError, match="1 cells in a table of 2"):
        figures.table("Title", ("a", "b"), [["x"]])
