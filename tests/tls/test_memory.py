"""A short form of the soak's handshakes: nothing stays behind, whatever the peer did."""

from __future__ import annotations

from pathlib import Path

from tests.soak.handshakes import KINDS, growth, handshakes


def test_handshakes_leave_nothing_behind(tmp_path: Path) -> None:
    result = handshakes(tmp_path, seed=11, count=1_500)
    assert result.problems == []
    assert all(result.figures[f"connections, {kind}"] for kind in KINDS)


def test_growth_is_that_of_the_second_half() -> None:
    assert growth([100 * at for at in range(20)]) == 900
    assert growth([*range(0, 5_000, 500), *[5_000] * 10]) == 0
