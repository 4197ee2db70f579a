"""The relay that forwarding is measured through: it passes everything, it holds it, and it bounds nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.pairs import free_port, listens
from tests.bench.place import build
from tests.bench.process import wait_for
from tests.needs import needs

pytestmark = needs("gcc")

DATA = os.urandom(8 << 20)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled relay."""
    return build("relay", tmp_path_factory.mktemp("native"))


@contextmanager
def through(relay: Path, hold_ms: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection through it."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [str(relay), str(port), str(server.getsockname()[1]), str(hold_ms)]
        with subprocess.Popen(words) as process:
            try:
                wait_for("the relay to listen", lambda: listens(port), 10.0)
                server.accept()[0].close()  # that was the look whether it listens
                near = socket.create_connection(("127.0.0.1", port))
                far = server.accept()[0]
                with near, far:
                    near.settimeout(30)
                    far.settimeout(30)
                    yield near, far
            finally:
                process.kill()


def all_of(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 20), b""))


@pytest.mark.parametrize("hold_ms", [0, 30])
def test_it_passes_everything_and_its_end(relay: Path, hold_ms: int) -> None:
    with through(relay, hold_ms) as (near, far):
        for here, there in ((near, far), (far, near)):
            sending = threading.Thread(target=lambda here=here: (here.sendall(DATA), here.shutdown(socket.SHUT_WR)))
            sending.start()
            assert all_of(there) == DATA
            sending.join()


def test_each_byte_is_held_each_way(relay: Path) -> None:
    with through(relay, 30) as (near, far):
        times = []
        for _ in range(5):
            began = time.monotonic()
            near.sendall(b"x")
            assert far.recv(1) == b"x"
            far.sendall(b"y")
            assert near.recv(1) == b"y"
            times.append(time.monotonic() - began)
        assert min(times) >= 0.06


def test_what_is_under_way_is_not_bounded(relay: Path) -> None:
    """All of it has left the sender long before anything arrives."""
    with through(relay, 3_000) as (near, far):
        began = time.monotonic()
        near.sendall(DATA)
        assert time.monotonic() - began < 3.0
        near.shutdown(socket.SHUT_WR)
        assert all_of(far) == DATA
        assert time.monotonic() - began >= 3.0
