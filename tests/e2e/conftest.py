"""The kernel's audit state, borrowed by one test at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stream import borrowed, locked
from tests.needs import missing


@pytest.fixture
def audit() -> Iterator[None]:
    """The audit stream is free, ours, and put back afterwards. Waits for whoever has it."""
    with locked():
        # Asked under the lock: another run of these tests may own the stream until now.
        reason = missing("root", "auditd", "audit")
        if reason:
            pytest.skip(reason)
        with borrowed():
            yield
