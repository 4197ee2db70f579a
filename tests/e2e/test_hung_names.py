"""A name server that never answers holds up nothing in audisp-remote: not its input, not its end, no other server."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.collectors import Collector
from tests.e2e.remotes import Remote, numbered, numbers_in
from tests.e2e.stream import wait_for
from tests.needs import needs

pytestmark = [needs("root"), pytest.mark.timeout(180, func_only=True)]

NAME_SERVER: Final = ("127.53.53.53", 53)
"""All of 127.0.0.0/8 is this machine, and nobody is there by chance."""
RESOLVE: Final = f"nameserver {NAME_SERVER[0]}\noptions timeout:30 attempts:5\n"
"""One look-up hangs for longer than any test waits."""
_PRIVATE_RESOLVE: Final = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """A name server that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(NAME_SERVER)
        server.setblocking(False)
        yield server


def asked(server: socket.socket) -> set[bytes]:
    """Ports from which it has been asked since the last time: each is one look-up, or a part of one."""
    found = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            _, (_, port) = server.recvfrom(4096)
            found.add(b"%d" % port)
    return found


def remote(folder: Path, servers: str, **conf: object) -> Remote:
    folder.mkdir()
    resolve = folder / "resolv.conf"
    resolve.write_text(RESOLVE)
    made = Remote(folder, remote_server=servers, max_time_per_record=1, max_tries_per_record=1, **conf)
    made.argv = ["unshare", "-m", "sh", "-c", _PRIVATE_RESOLVE, str(resolve), *made.argv]
    return made


def test_input_state_and_end_wait_for_no_name(tmp_path: Path) -> None:
    with silent() as server, remote(tmp_path / "remote", "collector.example.com backup.example.com") as sender:
        wait_for(lambda: asked(server), "a name is looked up")
        sender.write(numbered(1, 1000))
        sender.await_accepted(1000)
        wait_for(lambda: int(sender.fresh_state()["attempts"]) > 6, "it tries again and again")
        sender.write(numbered(1001, 1000))
        sender.await_accepted(2000)
        assert "no connection within 1 s" in sender.fresh_state()["problem"]
        assert sender.stop(signal.SIGINT) == 1  # records wait for the next start


def test_a_server_with_an_address_waits_for_no_name(tmp_path: Path) -> None:
    """Neither the first time, nor when look-ups of a better server's name hang for good."""
    where = tmp_path / "collector"
    with silent() as server, Collector(where, transport="tcp") as collector:
        servers = f"collector.example.com 127.0.0.1:{collector.port}"
        with remote(tmp_path / "remote", servers, failback_time=1) as sender:
            sender.write(numbered(1, 100))
            wait_for(lambda: len(collector.records()) == 100, "the second server has them")
            before = int(sender.fresh_state()["attempts"])
            wait_for(
                lambda: int(sender.fresh_state()["attempts"]) > before + 6, "it looks for the first again and again"
            )
            assert asked(server)
            collector.restart()
            sender.write(numbered(101, 100))
            wait_for(lambda: len(collector.records()) == 200, "the second server has all of them")
            assert numbers_in(b"".join(collector.records())) == list(range(1, 201))
