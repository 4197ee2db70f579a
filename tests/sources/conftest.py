"""A log that grows and rotates, and who follows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.rotating import Reader, RotatingLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RotatingLog]:
    log = RotatingLog(tmp_path / "audit.log")
    yield log
    log.close()


@pytest.fixture
def reader(log: RotatingLog) -> Iterator[Reader]:
    before = len(os.listdir("/proc/self/fd"))
    reader = Reader(log.path)
    yield reader
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before  # nothing stays open
