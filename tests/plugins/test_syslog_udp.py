"""`syslog` by UDP, and how names are looked up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audisp.plugin import Retry
from audisp_plugins import backoff, syslog_link, syslog_network
from audisp_plugins.syslog_network import Datagrams
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.senders import WAIT, lines_of, refuses, texts, to, until, until_taken
from tests.plugins.syslogs import Receiver, joined, parsed


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slow for the sake of real networks."""
    monkeypatch.setattr(backoff, "FIRST", 0.001)
    monkeypatch.setattr(backoff, "MOST", 0.01)
    monkeypatch.setattr(syslog_link, "VERDICT_TIME", 0.02)
    monkeypatch.setattr(syslog_network, "DELIVER_TIME", 0.2)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path)
    receiver.start()
    yield receiver
    receiver.kill()


# Names.


def test_names_that_cannot_be_looked_up(host: BookingHost) -> None:
    sender = to(514, host, server="nowhere.invalid")
    end = time.monotonic() + WAIT
    while not host.said and time.monotonic() < end:
        assert refuses(sender, block_of([record(1)]))
    assert len(host.said) == 1
    assert host.heard("syslog server nowhere.invalid port 514 (tcp) is away: ")
    sender.close()


def test_a_name_server_that_does_not_answer_holds_nobody(
    receiver: Receiver, host: BookingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog_network, "DELIVER_TIME", 0.02)
    answer = threading.Event()
    asked = []
    real = socket.getaddrinfo

    def slow(name: str, port: int, **more: Any) -> Any:
        if more["flags"] & socket.AI_NUMERICHOST:
            return real(name, port, **more)
        asked.append(threading.current_thread())
        answer.wait(WAIT)
        return real("127.0.0.1", port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    sender = to(receiver.port, host, server="logs.example")
    for _ in range(5):
        with pytest.raises(Retry, match="its name is being looked up"):
            sender.deliver(block_of([record(1)]))
    answer.set()
    until_taken(sender, block_of([record(1)]))
    assert len(asked) == 1
    assert asked[0] is not threading.current_thread()
    asked[0].join()
    sender.close()
    until(lambda: len(receiver.messages()) == 1)


def test_the_next_address_is_tried(receiver: Receiver, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        dead = taken.getsockname()[1]
    real = socket.getaddrinfo

    def several(name: str, port: int, **more: Any) -> Any:
        if more["flags"] & socket.AI_NUMERICHOST:
            return real(name, port, **more)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", dead)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    sender = to(receiver.port, host, server="logs.example")
    sender.deliver(block_of([record(1)]))
    sender.close()
    until(lambda: len(receiver.messages()) == 1)
    assert host.said == []


# UDP.


class Udp:
    """A server on UDP."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]

    def got(self) -> list[bytes]:
        """The messages so far; by the loopback they are here when send returns."""
        found = []
        try:
            while True:
                found.append(self.socket.recv(70_000))
        except BlockingIOError:
            return found


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("limit", [None, 1_024, 65_507])
def test_datagrams(host: BookingHost, family: socket.AddressFamily, limit: int | None) -> None:
    server = Udp(family)
    name = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    sender = to(server.port, host, "udp", server=name, max_message=limit, sequence=True)
    lines = [*lines_of(0, 200), record(200, b"y" * 16_000), record(201)]
    sender.deliver(block_of(lines[:50]))
    sender.deliver(block_of(lines[50:]))
    found = server.got()
    assert max(len(message) for message in found) <= (limit or 2_048)
    assert joined([parsed(message) for message in found]) == texts(lines)
    assert [parsed(message).data for message in found] == [
        b'[meta sequenceId="%d"]' % (number + 1) for number in range(len(found))
    ]
    assert host.counts == ({} if limit == 65_507 else {"split_records": 1})
    assert sender.state() == {"syslog server": f"sending to {name}"}
    sender.close()
    server.socket.close()


def test_nobody_at_the_port_is_noticed(host: BookingHost) -> None:
    server = Udp()
    sender = to(server.port, host, "udp")
    sender.deliver(block_of([record(1)]))
    assert len(server.got()) == 1
    server.socket.close()
    for _ in range(3):
        with pytest.raises(Retry, match="Connection refused"):
            sender.deliver(block_of([record(2), record(3)]))
        sender.resume()
    server = Udp(port=server.port)
    sender.deliver(block_of([record(2), record(3), record(4)]))
    assert [parsed(message).text for message in server.got()] == texts([record(n) for n in (2, 3, 4)])
    assert [level for level, _ in host.said] == ["warning", "notice"]
    assert host.counts["reconnects"] == 1
    sender.close()
    server.socket.close()


def test_the_name_is_looked_up_again_in_time(host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [Udp(), Udp()]
    monkeypatch.setattr(syslog_network, "FRESH", 0.0)
    asked = 0
    real = socket.getaddrinfo

    def moving(name: str, port: int, **more: Any) -> Any:
        nonlocal asked
        if more["flags"] & socket.AI_NUMERICHOST:
            return real(name, port, **more)
        asked += 1
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", servers[asked > 1].port))]

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    sender = to(1, host, "udp", server="logs.example")
    for serial in range(3):
        sender.deliver(block_of([record(serial)]))
    assert [len(server.got()) for server in servers] == [1, 2]
    sender.close()
    for server in servers:
        server.socket.close()


@pytest.mark.parametrize("problem", [BlockingIOError(11, "full"), OSError(105, "no buffers")])
def test_a_network_without_room_is_waited_for(host: BookingHost, problem: OSError) -> None:
    server = Udp()
    sender = to(server.port, host, "udp")
    assert isinstance(sender, Datagrams)
    sender.deliver(block_of([record(0)]))
    assert sender._sock is not None
    real: socket.socket = sender._sock
    left = 3

    class Full:
        """Takes three datagrams, then none."""

        def send(self, message: bytes) -> int:
            nonlocal left
            if not left:
                raise problem
            left -= 1
            return real.send(message)

        def fileno(self) -> int:
            return real.fileno()

        def close(self) -> None:
            real.close()

        def getsockopt(self, *what: int) -> int:
            return real.getsockopt(*what)

        def getpeername(self) -> Any:
            return real.getpeername()

    sender._sock = Full()  # type: ignore[assignment]
    lines = [record(serial) for serial in range(1, 9)]
    with pytest.raises(Retry, match="has not taken everything"):
        sender.deliver(block_of(lines))
    assert host.counts == {"slow": 1}
    left = 100
    sender.deliver(block_of(lines))
    assert [parsed(message).text for message in server.got()] == texts([record(n) for n in range(9)])
    sender.close()
    server.socket.close()
