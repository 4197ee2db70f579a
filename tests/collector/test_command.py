"""The command line's own parts: times, and the table of hosts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from audisp.cli.collector import moment, table
from audisp.errors import ConfigError

NOW = 1_764_187_200.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1764187200", 1_764_187_200_000),
        ("0", 0),
        ("30s", 1_764_187_170_000),
        ("2h", 1_764_180_000_000),
        ("1w", 1_763_582_400_000),
        ("99999w", 0),
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["2026-11-26T19:05:00", "2026-11-26 19:05", "2026-11-26T19:05"])
def test_moments_of_the_clock_are_local(text: str) -> None:
    assert moment(text, NOW) == int(datetime(2026, 11, 26, 19, 5).timestamp()) * 1_000


@pytest.mark.parametrize("text", ["", "soon", "5", "-5s", "5y", "2026-13-01", "٣s", "9" * 400 + "x", "1e3"])
def test_what_is_no_moment_is_told(text: str) -> None:
    if text == "5":
        assert moment(text, NOW) == 5_000
        return
    with pytest.raises(ConfigError, match="is no time"):
        moment(text, NOW)


def row(**more: Any) -> dict[str, Any]:
    return {
        "host": "web1",
        "authenticated": True,
        "connections": [],
        "seen": NOW - 7_300,
        "lag": None,
        "rate": 1.25,
        "records": 1_234_567,
        "bytes": 10,
        "missing": 0,
        "removed": 0,
        "holes": 0,
        "retries": 0,
        "nodes": ["web1"],
        "flags": [],
    } | more


def test_the_table() -> None:
    connection = {"protocol": "native", "address": "10.0.0.1"}
    lines = table(
        [
            row(connections=[connection], lag=1_000),
            row(host="addr:10.0.0.2", authenticated=False, nodes=["a", "b"], holes=2, seen=None),
        ],
        NOW,
    )
    assert [" ".join(line.split()) for line in lines] == [
        "HOST PROTOCOL FROM LAG RATE RECORDS MISSING SEEN",
        "web1 native 10.0.0.1 1,000 1.2/s 1,234,567 0 2h ago",
        "addr:10.0.0.2 - - - 1.2/s 1,234,567 0 never unauthenticated; says to be 2 nodes: a, b; 2 holes",
    ]
    assert len({line.index("native") if "native" in line else line.index("PROTOCOL") for line in lines[:2]}) == 1
