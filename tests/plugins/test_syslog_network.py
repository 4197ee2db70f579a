"""`syslog` by UDP and TCP, against servers that go away, come back, read slowly, close, reset and talk."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.plugin import Block, ConfigError, Delivery, Retry
from audisp_plugins import backoff, syslog_network
from audisp_plugins.syslog import SyslogConfig, open_syslog
from audisp_plugins.syslog_network import Datagrams, Stream, Transport, transport
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.syslogs import Receiver, joined, parsed, unframed, unrepeated

WAIT = 20.0
"""Seconds after which a test gives up. Nothing takes as long."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slow for the sake of real networks."""
    monkeypatch.setattr(backoff, "FIRST", 0.001)
    monkeypatch.setattr(backoff, "MOST", 0.01)
    monkeypatch.setattr(syslog_network, "DELIVER_TIME", 0.2)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path)
    receiver.start()
    yield receiver
    receiver.kill()


def to(port: int, host: BookingHost, kind: str = "tcp", **keys: Any) -> Transport:
    return transport(SyslogConfig(transport=kind, port=port, **{"server": "127.0.0.1", **keys}), host)  # type: ignore[arg-type]


def until_taken(sender: Transport, block: Block, between: Callable[[], None] = lambda: None) -> int:
    """Offer a block as the host does, until it is taken. Returns how often it was not."""
    end = time.monotonic() + WAIT
    refused = 0
    while time.monotonic() < end:
        try:
            sender.deliver(block)
        except Retry:
            refused += 1
            between()
            time.sleep(0.002)
        else:
            return refused
    raise TimeoutError(f"not taken in {WAIT} s")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def lines_of(first: int, count: int, size: int = 100) -> list[bytes]:
    return [record(serial, b"a=%d " % serial + b"x" * size) for serial in range(first, first + count)]


def texts(lines: Sequence[bytes]) -> list[bytes]:
    return [line[:-1] for line in lines]


# Configuration.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"transport": "tcp"}, "server: is missing: the name or the address"),
        ({"transport": "tcp", "server": "a b"}, "server: 'a b' is neither the name nor the address of a host"),
        ({"transport": "tcp", "server": "-oProxy"}, "server: '-oProxy' is neither"),
        ({"transport": "tcp", "server": "a..b"}, "server: 'a..b' is neither"),
        ({"transport": "tcp", "server": "x" * 64 + ".example"}, "is neither the name nor the address"),
        ({"transport": "tcp", "server": "x", "port": 65536}, "port: 65536 is out of range"),
        (
            {"transport": "tcp", "server": "x", "max_message": 1023},
            "1023 is out of range: 1024 to 1048576",
        ),
        (
            {"transport": "udp", "server": "x", "max_message": 65508},
            "65508 is out of range: 1024 to 65507",
        ),
        ({"transport": "tcp", "server": "x", "hostname": "a b"}, "hostname: 'a b' is not 1 to 255 printable"),
        ({"transport": "tcp", "server": "x", "structured_data": ("a",)}, "structured_data: 'a' is neither"),
        ({"transport": "tcp", "server": "x", "socket": Path("/run/x")}, "socket: is for transport = local"),
        ({"transport": "tcp", "server": "x", "tls_ca_file": Path("/x")}, "tls_ca_file: is for transport = tls"),
        ({"server": "x"}, "server: is for transport = udp, tcp or tls"),
        ({"bom": False}, "bom: is for transport = udp, tcp or tls"),
        ({"transport": "tls", "server": "x"}, "tls_ca_file: is missing: the certificates"),
        ({"transport": "tls", "server": "x", "tls_ca_file": Path("x")}, "tls_ca_file: 'x' is not an absolute path"),
        (
            {"transport": "tls", "server": "x", "tls_ca_file": Path("/x"), "tls_key_file": Path("/x")},
            "tls_cert_file: is missing: tls_key_file is of no use alone",
        ),
        (
            {"transport": "tls", "server": "x", "tls_ca_file": Path("/x"), "tls_cert_file": Path("/x")},
            "tls_key_file: is missing: tls_cert_file is of no use alone",
        ),
        (
            {"transport": "tls", "server": "x", "tls_ca_file": Path("/x"), "tls_server_name": ".x"},
            "tls_server_name: '.x' is no name of a host",
        ),
    ],
)
def test_settings_that_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SyslogConfig(**keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "server", "noticed"),
    [
        ("udp", "logs.example", True),
        ("tcp", "192.0.2.1", True),
        ("tcp", "fe80::1%eth0", True),
        ("tcp", "localhost.example", True),
        ("tls", "logs.example", False),
        ("udp", "localhost", False),
        ("tcp", "LocalHost.", False),
        ("tcp", "a.localhost", False),
        ("tcp", "127.8.0.1", False),
        ("tcp", "::1", False),
    ],
)
def test_plain_text_off_the_machine_is_noticed(kind: str, server: str, noticed: bool) -> None:
    ca = {"tls_ca_file": Path("/x")} if kind == "tls" else {}
    notices = SyslogConfig(transport=kind, server=server, **ca).notices()  # type: ignore[arg-type]
    assert bool(notices) is noticed
    assert all(notice.startswith(f"transport: {kind} sends records unencrypted to {server}") for notice in notices)
    assert SyslogConfig().notices() == ()


@pytest.mark.parametrize(("kind", "port", "limit"), [("udp", 514, 2_048), ("tcp", 514, 8_192), ("tls", 6514, 8_192)])
def test_defaults(kind: str, port: int, limit: int) -> None:
    ca = {"tls_ca_file": Path("/x")} if kind == "tls" else {}
    config = SyslogConfig(transport=kind, server="x", **ca)  # type: ignore[arg-type]
    assert (config.endpoint, config.limit) == (("x", port), limit)


# TCP.


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_messages_arrive_as_they_are(tmp_path: Path, host: BookingHost, family: socket.AddressFamily) -> None:
    receiver = Receiver(tmp_path, family=family)
    receiver.start()
    server = "127.0.0.1" if family == socket.AF_INET else "::1"
    sender = to(receiver.port, host, server=server, args=("LOG_LOCAL3", "LOG_NOTICE"), hostname="web1")
    lines = [*lines_of(0, 2_000), record(2_000, b"y" * 16_000), b'{"a":"b"}\n', record(2_001, b"", b"EOE")]
    sender.deliver(block_of(lines[:700]))
    sender.deliver(block_of(lines[700:]))
    sender.close()
    until(lambda: len(receiver.messages()) >= len(lines) + 1)
    found = receiver.messages()
    assert joined(found) == texts(lines)
    assert {(each.pri, each.host, each.data) for each in found} == {(19 << 3 | 5, b"web1", b"-")}
    assert [unframed(stream)[1] for stream in receiver.streams()] == [b""]
    assert host.counts == {"split_records": 1}
    assert host.said == []
    receiver.kill()


async def test_open(receiver: Receiver, host: BookingHost) -> None:
    config = SyslogConfig(transport="tcp", server="localhost", port=receiver.port)
    async with open_syslog(config, host) as delivery:
        assert isinstance(delivery, Delivery)
        deliver: Any = delivery.deliver
        assert delivery.state
        assert delivery.state() == {"syslog server": "not connected yet"}
        until_taken(_Only(deliver), block_of([record(1)]))
        assert delivery.state() == {"syslog server": f"connected to 127.0.0.1 port {receiver.port}"}
        assert delivery.resume
        delivery.resume()
    until(lambda: len(receiver.messages()) == 1)


@attrs.frozen
class _Only:
    """A sender of which only `deliver` is known."""

    deliver: Callable[[Block], None]

    def resume(self) -> None: ...

    def state(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...


def test_a_server_that_comes_late_and_goes(receiver: Receiver, host: BookingHost) -> None:
    receiver.kill()
    sender = to(receiver.port, host)
    for _ in range(3):
        with pytest.raises(Retry, match="Connection refused"):
            sender.deliver(block_of([record(1)]))
        sender.resume()
    assert sender.state() == {"syslog server": "away: Connection refused"}
    receiver.start()
    until_taken(sender, block_of([record(1), record(2)]))
    receiver.kill()
    until(lambda: _refuses(sender, block_of([record(3)])))
    receiver.start()
    until_taken(sender, block_of([record(3), record(4)]))
    sender.close()
    until(lambda: len(receiver.messages()) >= 4)
    assert unrepeated(each.text for each in receiver.messages()) == texts([record(n) for n in (1, 2, 3, 4)])
    assert [level for level, _ in host.said if level == "warning"] == ["warning"] * 2
    assert host.heard("is away: Connection refused; records wait")
    assert host.heard(f"syslog server 127.0.0.1 port {receiver.port} (tcp) is back")


def _refuses(sender: Transport, block: Block) -> bool:
    try:
        sender.deliver(block)
    except Retry:
        return True
    return False


@pytest.mark.parametrize("seed", range(6))
def test_a_server_that_is_killed_again_and_again(receiver: Receiver, host: BookingHost, seed: int) -> None:
    chance = random.Random(seed)
    sender = to(receiver.port, host)
    stop = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not stop.wait(chance.uniform(0.01, 0.12)):
            receiver.kill()
            kills += 1
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0, 0.05))
            receiver.start()

    killer = threading.Thread(target=kill)
    killer.start()
    sent: list[bytes] = []
    try:
        while kills < 8 or len(sent) < 5_000:
            lines = lines_of(len(sent), chance.randint(1, 400), chance.randint(10, 400))
            until_taken(sender, block_of(lines))
            sent += lines
            time.sleep(chance.uniform(0, 0.004))
    finally:
        stop.set()
        killer.join()
    # The last one may have died with something unread; then the next block brings it.
    last = record(10**9)
    end = time.monotonic() + WAIT
    while True:
        until_taken(sender, block_of([last]))
        time.sleep(0.05)
        found = unrepeated(joined_loosely(receiver))
        if set(texts(sent)) <= set(found):
            break
        assert time.monotonic() < end, f"{len(set(texts(sent)) - set(found))} are lost"
    sender.close()
    for stream in receiver.streams():
        unframed(stream)  # each connection begins with a message, and goes on with messages
    assert host.counts["sent_again"] > 0
    assert len(found) == len(sent) + 1


def joined_loosely(receiver: Receiver) -> list[bytes]:
    return [each.text for each in receiver.messages()]


def test_a_slow_server_gets_each_message_once(receiver: Receiver, host: BookingHost) -> None:
    receiver.kill()
    receiver.pause = 4_000
    receiver.start()
    sender = to(receiver.port, host)
    lines = lines_of(0, 8_000)
    refused = until_taken(sender, block_of(lines))
    sender.close()
    assert refused > 0
    assert host.counts["slow"] == refused
    until(lambda: len(receiver.messages()) == len(lines))
    assert joined(receiver.messages()) == texts(lines)
    assert len(receiver.streams()) == 1
    assert host.counts["sent_again"] == 0


def test_a_slow_server_that_dies_gets_all_again(receiver: Receiver, host: BookingHost) -> None:
    receiver.kill()
    receiver.pause = 1_000
    receiver.start()
    sender = to(receiver.port, host)
    lines = lines_of(0, 20_000)
    for _ in range(3):
        with pytest.raises(Retry, match="has not taken everything"):
            sender.deliver(block_of(lines))
    receiver.kill()
    receiver.pause = 0
    receiver.start()
    # The host may join what waits behind the block to it.
    lines += lines_of(20_000, 10)
    until_taken(sender, block_of(lines))
    sender.close()
    until(lambda: len(unframed(receiver.streams()[-1])[0]) == len(lines))
    assert [parsed(message).text for message in unframed(receiver.streams()[-1])[0]] == texts(lines)
    assert 0 < host.counts["sent_again"] <= 20_000


class Hand:
    """A server by hand, for what a proper one does not do."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.listener.settimeout(WAIT)
        self.sock = self.listener

    def accept(self) -> None:
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(WAIT)

    def read(self, count: int) -> list[bytes]:
        """The texts of so many messages."""
        data = b""
        while len(unframed(data)[0]) < count:
            more = self.sock.recv(65_536)
            assert more
            data += more
        return [parsed(message).text for message in unframed(data)[0]]

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand()
    yield hand
    hand.sock.close()
    hand.listener.close()


@pytest.mark.parametrize("how", ["close", "half"])
@pytest.mark.parametrize("old", [True, False])
def test_a_server_that_closes_in_order(
    hand: Hand, host: BookingHost, monkeypatch: pytest.MonkeyPatch, how: str, old: bool
) -> None:
    """It has read everything; what it read just now may still not be in its files."""
    monkeypatch.setattr(syslog_network, "SHORT", 0.0)
    monkeypatch.setattr(syslog_network, "READ_SECONDS", 0.0 if old else WAIT)
    sender = to(hand.port, host)
    sender.deliver(block_of([record(1)]))
    hand.accept()
    assert hand.read(1) == texts([record(1)])
    first = hand.sock
    if how == "half":
        hand.sock.shutdown(socket.SHUT_WR)
    else:
        hand.sock.close()
    # Found out before anything is sent, so that this is no failure.
    sender.deliver(block_of([record(2)]))
    hand.accept()
    assert hand.read(1 if old else 2) == texts([record(2)] if old else [record(1), record(2)])
    if how == "half":
        assert first.recv(1) == b""
        first.close()
    sender.close()
    assert host.counts == ({"reconnects": 1} if old else {"reconnects": 1, "sent_again": 1})
    assert host.said == []


def test_a_server_that_resets_is_sent_the_last_again(
    hand: Hand, host: BookingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog_network, "SHORT", 0.0)
    sender = to(hand.port, host)
    sender.deliver(block_of([record(1)]))
    sender.deliver(block_of([record(2), record(3)]))
    hand.accept()
    hand.reset()
    sender.deliver(block_of([record(4)]))
    hand.accept()
    assert hand.read(4) == texts([record(n) for n in (1, 2, 3, 4)])
    hand.reset()
    monkeypatch.setattr(syslog_network, "RECENT_SECONDS", 0.0)
    sender.deliver(block_of([record(5)]))
    hand.accept()
    assert hand.read(1) == texts([record(5)])
    assert host.counts == {"reconnects": 2, "sent_again": 3}
    sender.close()


def test_what_is_kept_for_that_is_bounded(hand: Hand, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog_network, "SHORT", 0.0)
    monkeypatch.setattr(syslog_network, "RECENT", 1_000)
    sender = to(hand.port, host)
    for first in range(0, 100, 10):
        sender.deliver(block_of(lines_of(first, 10)))
    sender.deliver(block_of(lines_of(100, 20)))
    hand.accept()
    hand.reset()
    sender.deliver(block_of([record(500)]))
    hand.accept()
    again = hand.read(2)
    assert again == texts([*lines_of(120 - len(again) + 1, len(again) - 1), record(500)])
    assert 3 < len(again) < 10
    sender.close()


def test_a_server_that_closes_at_once_is_not_asked_all_the_time(
    hand: Hand, host: BookingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST", 1_000.0)
    monkeypatch.setattr(backoff, "MOST", 1_000.0)
    sender = to(hand.port, host)
    sender.deliver(block_of([record(1)]))  # its kernel took it
    hand.accept()
    hand.reset()
    with pytest.raises(Retry, match="Connection reset by peer"):
        sender.deliver(block_of([record(2)]))
    with pytest.raises(Retry, match=r"Connection reset by peer; tried again in \d+\.\d s"):
        sender.deliver(block_of([record(2)]))
    sender.resume()
    sender.deliver(block_of([record(2)]))
    hand.accept()
    assert hand.read(2) == texts([record(1), record(2)])
    sender.close()


def test_what_a_server_says_is_ignored(hand: Hand, host: BookingHost) -> None:
    sender = to(hand.port, host)
    for serial in range(20):
        sender.deliver(block_of([record(serial)]))
        if not serial:
            hand.accept()
        hand.sock.send(b"hello " * 5_000)
    sender.close()
    assert hand.read(20) == texts([record(serial) for serial in range(20)])
    assert host.counts == {}


def test_a_server_that_does_not_answer_holds_nobody(host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog_network, "DELIVER_TIME", 0.02)
    # A listener whose backlog is full does not answer.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        sender = to(port, host)
        for _ in range(3):
            with pytest.raises(Retry, match="is being connected to"):
                sender.deliver(block_of([record(1)]))
        assert sender.state() == {"syslog server": "is being connected to"}
        monkeypatch.setattr("audisp_plugins.syslog_link.CONNECT_TIME", 0.0)
        with pytest.raises(Retry, match="no answer"):
            sender.deliver(block_of([record(1)]))
        assert host.heard("is away: no answer; records wait")
        sender.close()
        for filler in fillers:
            filler.close()


def test_a_connection_on_which_nothing_moves_is_given_up(
    host: BookingHost, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel answers, so it is only slow, however long; it would be given up if that were silent, too."""
    monkeypatch.setattr("audisp_plugins.syslog_link.STALLED", 0.0)
    monkeypatch.setattr(syslog_network, "DELIVER_TIME", 0.05)
    hand.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sender = to(hand.port, host)
    assert isinstance(sender, Stream)
    block = block_of(lines_of(0, 60_000))
    for _ in range(10):
        with pytest.raises(Retry, match="has not taken everything"):
            sender.deliver(block)
    # As if retransmissions had stayed without an answer.
    monkeypatch.setattr("audisp_plugins.syslog_link.RETRANSMITS", 0)  # the state, which is never 0
    with pytest.raises(Retry, match="no answer for 0 s"):
        sender.deliver(block)
    sender.close()


# Names.


def test_names_that_cannot_be_looked_up(host: BookingHost) -> None:
    sender = to(514, host, server="nowhere.invalid")
    end = time.monotonic() + WAIT
    while not host.said and time.monotonic() < end:
        assert _refuses(sender, block_of([record(1)]))
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
