"""`make soak ARGS=hostile` in short: every kind of attack at a collector in a process, a good sender beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import needs
from tests.soak.hostile import hostile

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]


def test_hostile_peers_cost_themselves_and_nobody_else(folder: Path) -> None:
    result = hostile(folder, 2026, 6, rounds=1)
    # How long the good sender waited is the soak's to judge: here it shares two cores with other tests.
    assert [each for each in result.problems if "waited" not in each] == []
    assert int(str(result.figures["attacks"])) > 100
