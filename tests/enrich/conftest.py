"""The made host that enrichment is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.enrich.hosts import Host
from tests.enrich.trees import release


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.tree.add(1, ppid=0, ticks=1, comm="systemd", exe="systemd", argv=("/sbin/init",), cgroup="0::/init.scope\n")
    yield host
    host.reader.close()
    for path in tmp_path.glob("*/*"):
        if path.is_fifo():
            try:
                release(path)
            except OSError:
                continue
