"""A spool and a whole dispatcher for the tests of this room."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audisp.dispatch import roster
from audisp.dispatch.spool import Spool
from tests.dispatch.spools import MIB, SEGMENT
from tests.dispatch.worlds import World


@pytest.fixture
def spool_folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def make_spool(spool_folder: Path) -> Iterator[Callable[..., Spool]]:
    """An open spool; called again it closes the one before, as a restart does."""
    opened: list[Spool] = []

    def make(*, max_bytes: int = 64 * MIB, min_free: int = 0, segment_bytes: int = SEGMENT) -> Spool:
        for spool in opened:
            spool.close()
        spool = Spool(spool_folder, max_bytes=max_bytes, min_free=min_free, segment_bytes=segment_bytes)
        spool.open()
        opened.append(spool)
        return spool

    yield make
    for spool in opened:
        spool.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Folders for a dispatcher of the test's own; plugins come from the test, not from installed packages."""
    # In the background the dispatcher's folder is /; elsewhere a child takes one exec more.
    monkeypatch.chdir("/")
    made = World(tmp_path)
    monkeypatch.setattr(roster, "load_type", made.load_type)
    return made


@pytest.fixture
def safe() -> Iterator[Path]:
    """A folder below which only root can write; /tmp is none."""
    folder = Path(tempfile.mkdtemp(prefix="audisp-test-", dir="/var"))
    yield folder
    shutil.rmtree(folder)
