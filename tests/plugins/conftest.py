"""A host for one plugin, without a runner: calls are made by the test itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.booking import BookingHost


@pytest.fixture
def host(tmp_path: Path) -> BookingHost:
    """A host that does not own the stream."""
    return BookingHost("tested", str(tmp_path), owner=False)


@pytest.fixture
def owner_host(tmp_path: Path) -> BookingHost:
    """A host that owns the stream."""
    return BookingHost("log", str(tmp_path), owner=True)
