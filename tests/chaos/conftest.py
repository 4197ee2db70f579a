"""The soak's parts (tests/soak) in short, each in a folder that in-process plugins may come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.world import scratch


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as place:
        yield place
