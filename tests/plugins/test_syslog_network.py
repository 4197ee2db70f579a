"""`syslog` by TCP, against servers that go away, come back, read slowly, close, reset and talk."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.plugin import Block, Delivery, Retry
from audisp_plugins import backoff, syslog_link, syslog_network
from audisp_plugins.syslog import SyslogConfig, open_syslog
from audisp_plugins.syslog_network import Stream
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.senders import WAIT, lines_of, refuses, texts, to, until, until_taken
from tests.plugins.syslogs import Receiver, joined, parsed, unframed, unrepeated


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
    until(lambda: refuses(sender, block_of([record(3)])))
    receiver.start()
    until_taken(sender, block_of([record(3), record(4)]))
    sender.close()
    until(lambda: len(receiver.messages()) >= 4)
    assert unrepeated(each.text for each in receiver.messages()) == texts([record(n) for n in (1, 2, 3, 4)])
    assert [level for level, _ in host.said if level == "warning"] == ["warning"] * 2
    assert host.heard("is away: Connection refused; records wait")
    assert host.heard(f"syslog server 127.0.0.1 port {receiver.port} (tcp) is back")


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
