"""What conf/audisp-collector.service relies on: the collector says when it listens, and ends as systemd ends it."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.collectors import Collector

pytestmark = pytest.mark.timeout(120, func_only=True)


def test_ready_is_said_when_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        with Collector(tmp_path / "collector", transport="tcp") as collector:
            assert manager.recv(100) == b"READY=1"
            socket.create_connection(("127.0.0.1", collector.port)).close()
            assert collector.stop(signal.SIGTERM) == 0


def test_one_that_cannot_start_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        collector = Collector(tmp_path / "collector", transport="tcp", store_dir="relative")
        assert collector.refuse() == 6
        with pytest.raises(BlockingIOError):
            manager.recv(100)
