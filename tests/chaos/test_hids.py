"""`make soak ARGS=hids` in short: tables stay within their bounds, who is held stays, and who goes on is found.

It says nothing of memory: tables are not full before 200,000 events.
"""

from __future__ import annotations

from pathlib import Path

from tests.soak.hids import hids


def test_an_attacker_who_never_repeats_himself_fills_tables_and_no_more(tmp_path: Path) -> None:
    result = hids(tmp_path, 2026, 24_000)
    assert result.problems == []
    for kind in ("account", "session", "tree"):
        assert int(str(result.figures[f"evicted_{kind}"]).replace(",", "")) > 0
