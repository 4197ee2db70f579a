"""`make soak ARGS=steady` in short: records and heartbeats beside each other, all of them answered.

It says nothing of memory: caches fill in so short a run (the collector's, for plugins, with 16 MiB of records).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import needs
from tests.soak.steady import steady

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]


def test_heartbeats_beside_records_are_all_answered(folder: Path) -> None:
    result = steady(folder, 2026, 40_000, 1_728, stalls=(0.3,))
    assert [each for each in result.problems if "over the last half" not in each] == []
    assert result.figures["records"] == 40_000
