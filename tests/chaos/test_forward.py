"""A tenth of `make soak ARGS=forward`: nothing lost, nothing doubled, whoever is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import needs
from tests.soak.forward import forward

pytestmark = [needs("root", "gcc"), pytest.mark.timeout(300, func_only=True)]


def test_each_record_is_stored_once_whoever_is_killed(folder: Path) -> None:
    result = forward(folder, 2026, 10)
    assert result.problems == []
    assert result.figures["stored"] == 100_000
    assert result.figures["kills of audispd"] != 0 != result.figures["kills of audisp-collector"]
