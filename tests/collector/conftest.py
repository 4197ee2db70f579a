"""Plugins of the test's own, for a collector in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.dispatch import roster
from tests.dispatch.worlds import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Folders of a collector's; plugins come from the test, not from installed packages."""
    monkeypatch.chdir("/")
    made = World(tmp_path)
    monkeypatch.setattr(roster, "load_type", made.load_type)
    return made
