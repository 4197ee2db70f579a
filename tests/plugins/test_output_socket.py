"""`output` to a unix socket: peers that come late, read slowly, close, and are killed at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from audisp.plugin import Delivery, Reject, Retry
from audisp_plugins import backoff, output_feed, output_socket
from audisp_plugins.output import open_output
from audisp_plugins.output_config import OutputConfig
from audisp_plugins.output_feed import Feeder
from audisp_plugins.output_socket import connect
from audisp_plugins.presence import Presence
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.senders import WAIT, lines_of, refuses, until, until_taken
from tests.plugins.syslogs import unrepeated

KINDS: Final = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.001)
    monkeypatch.setattr(backoff, "MOST", 0.01)
    monkeypatch.setattr(output_feed, "DELIVER_TIME", 0.2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def to(path: Path, host: BookingHost) -> Feeder:
    return Feeder(lambda long: connect(path, host, long), Presence(f"socket {path}", host), host)


LISTENER: Final = """
import os, random, socket, sys, time
path, kind, out, pause, most, seed = sys.argv[1:]
file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
chance = random.Random(int(seed))
try:
    os.unlink(path)
except FileNotFoundError:
    pass
sock = socket.socket(socket.AF_UNIX, getattr(socket, kind))
sock.bind(path)
if kind == "SOCK_STREAM":
    sock.listen()
print("listening", flush=True)
while True:
    peer = sock.accept()[0] if kind == "SOCK_STREAM" else sock
    size = chance.choice([10, int(most) // 10, int(most)]) if kind == "SOCK_STREAM" else 200_000
    # What was read counts as delivered, so it is written down before it is.
    while data := peer.recv(size, socket.MSG_PEEK):
        os.write(file, data if kind == "SOCK_STREAM" else data + b"\\n")
        peer.recv(len(data))
        size = chance.choice([10, int(most) // 10, int(most)]) if kind == "SOCK_STREAM" else 200_000
        if chance.random() < float(pause):
            time.sleep(0.002)
"""
"""A program that listens, in a process of its own, and writes down what it reads, one file for each start."""


class Listener:
    def __init__(self, folder: Path, path: Path, kind: str) -> None:
        self.folder, self.path, self.kind = folder, path, kind
        self.pause = 0.0
        """How often it rests for a moment."""
        self.most = 100_000
        """What it reads at a time."""
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._starts += 1
        arguments = (
            self.path,
            KINDS[self.kind].name,
            self.folder / f"read{self._starts:04d}",
            self.pause,
            self.most,
            self._starts,
        )
        self._process = subprocess.Popen([sys.executable, "-c", LISTENER, *map(str, arguments)], stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline() == b"listening\n"

    def kill(self) -> None:
        if self._process is not None:
            assert self._process.stdout
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def read(self) -> list[list[bytes]]:
        """The whole lines of each process; what follows the last LF is half a line."""
        found = [path.read_bytes() for path in sorted(self.folder.glob("read*"))]
        return [data[: data.rfind(b"\n") + 1].splitlines(keepends=True) for data in found]

    def lines(self) -> list[bytes]:
        return [line for lines in self.read() for line in lines]


@pytest.fixture(params=KINDS)
def listener(request: pytest.FixtureRequest, tmp_path: Path, path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path, path, request.param)
    listener.start()
    yield listener
    listener.kill()


async def test_open(listener: Listener, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_feed, "DELIVER_TIME", WAIT)
    lines = [*lines_of(0, 1_000), b'{"a":"b"}\n', b"\xff\x01 anything \n"]
    async with open_output(OutputConfig(socket=listener.path), host) as delivery:
        assert isinstance(delivery, Delivery)
        deliver: Any = delivery.deliver
        assert delivery.state
        assert delivery.state() == {"output": "not connected yet"}
        deliver(block_of(lines[:10]))
        deliver(block_of(lines[10:]))
        status = "connected" if listener.kind == "stream" else "connected, datagrams"
        assert delivery.state() == {"output": status}
        assert delivery.rotate is None
        assert delivery.resume
        delivery.resume()
    until(lambda: len(listener.lines()) == len(lines))
    assert listener.lines() == lines
    assert host.counts == {}
    assert host.said == []


def test_somebody_who_comes_late_and_goes(listener: Listener, host: BookingHost) -> None:
    listener.kill()
    listener.path.unlink()
    feeder = to(listener.path, host)
    for _ in range(3):
        with pytest.raises(Retry, match="No such file or directory"):
            feeder.deliver(block_of([record(1)]))
        feeder.resume()
    assert feeder.state() == {"output": "away: No such file or directory"}
    listener.start()
    until_taken(feeder, block_of([record(1), record(2)]))
    listener.kill()  # its socket's file stays
    until(lambda: refuses(feeder, block_of([record(3)])))
    feeder.resume()
    with pytest.raises(Retry, match="Connection refused"):
        feeder.deliver(block_of([record(3)]))
    listener.start()
    until_taken(feeder, block_of([record(3)]))
    until(lambda: len(listener.lines()) >= 3)
    feeder.close()
    assert unrepeated(listener.lines()) == [record(1), record(2), record(3)]
    assert host.heard(f"socket {listener.path} is away: No such file or directory; records wait")
    assert host.heard(f"socket {listener.path} is back")


@pytest.mark.parametrize("seed", range(5))
def test_somebody_who_is_killed_again_and_again(listener: Listener, host: BookingHost, seed: int) -> None:
    chance = random.Random(seed)
    listener.kill()
    listener.pause = chance.choice([0.0, 0.01, 0.2])
    listener.start()
    feeder = to(listener.path, host)
    stop = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not stop.wait(chance.uniform(0.01, 0.1)):
            listener.kill()
            kills += 1
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0, 0.03))
            listener.start()

    killer = threading.Thread(target=kill)
    killer.start()
    sent: list[bytes] = []
    try:
        while kills < 8:
            lines = lines_of(len(sent), chance.randint(1, 500), chance.randint(1, 500))
            until_taken(feeder, block_of(lines))
            sent += lines
    finally:
        stop.set()
        killer.join()
    feeder.close()
    until(lambda: bool(listener.lines()) and listener.lines()[-1] == sent[-1])
    # Every line that anybody got is whole, at first in order, and none is missing.
    assert unrepeated(listener.lines()) == sent


def test_somebody_slow_gets_each_line_once(listener: Listener, host: BookingHost) -> None:
    listener.kill()
    listener.pause, listener.most = 0.5, 2_000
    listener.start()
    feeder = to(listener.path, host)
    lines = lines_of(0, 3_000, 300)
    refused = until_taken(feeder, block_of(lines))
    feeder.close()
    assert refused > 0
    assert host.counts == {"slow": refused}
    until(lambda: len(listener.lines()) == len(lines))
    assert listener.read()[-1] == lines


# By hand.


def test_lines_are_delivered_when_they_are_read_and_not_before(path: Path, host: BookingHost) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        feeder = to(path, host)
        lines = [record(1), record(2)]
        with pytest.raises(Retry, match="has not taken everything"):
            feeder.deliver(block_of(lines))
        peer, _ = server.accept()
        assert peer.recv(len(record(1)) + 5) == (record(1) + record(2))[: len(record(1)) + 5]
        with pytest.raises(Retry, match="has not taken everything"):
            feeder.deliver(block_of(lines))
        peer.close()  # with half a line unread
        with pytest.raises(Retry, match="it has closed the connection, and something was unread"):
            feeder.deliver(block_of(lines))
        time.sleep(0.02)
        with pytest.raises(Retry, match="has not taken everything"):
            feeder.deliver(block_of(lines))
        peer, _ = server.accept()
        assert peer.recv(1_000) == record(1) + record(2)
        feeder.deliver(block_of(lines))
        # Everything is read, and the connection ends in order: nothing is sent again.
        peer.close()
        time.sleep(0.02)
        with pytest.raises(Retry, match="it has closed the connection"):
            feeder.deliver(block_of([record(3)]))
        time.sleep(0.02)
        refuses(feeder, block_of([record(3)]))
        peer, _ = server.accept()
        assert peer.recv(1_000) == record(3)
        feeder.deliver(block_of([record(3)]))
        peer.close()
        feeder.close()
    assert host.counts["sent_again"] == 2


def test_half_a_line_is_sent_again_whole(path: Path, host: BookingHost) -> None:
    """A peer that reads a part of a long line, and leaves: the next one gets the line from its beginning."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        feeder = to(path, host)
        lines = [record(1), record(2, b"x" * 400_000)]
        assert refuses(feeder, block_of(lines))
        peer, _ = server.accept()
        with peer:
            peer.setblocking(False)
            got = b""
            while len(got) < 50_000:
                got += peer.recv(50_000 - len(got))
        assert refuses(feeder, block_of(lines))
        feeder.resume()
        refuses(feeder, block_of(lines))
        peer, _ = server.accept()
        got = b""

        def read() -> None:
            nonlocal got
            while not got.endswith(b"x\n"):
                got += peer.recv(65_536)

        thread = threading.Thread(target=read)
        thread.start()
        until_taken(feeder, block_of(lines))
        thread.join()
        peer.close()
        feeder.close()
    assert got in (b"".join(lines), lines[1])


def test_somebody_who_talks_and_somebody_who_shuts_his_half(path: Path, host: BookingHost) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        feeder = to(path, host)
        assert refuses(feeder, block_of([record(1)]))
        peer, _ = server.accept()
        assert peer.recv(1_000) == record(1)
        peer.send(b"hello " * 10_000)
        feeder.deliver(block_of([record(1)]))
        assert host.counts["ignored_bytes"] == 60_000
        peer.shutdown(socket.SHUT_WR)
        assert refuses(feeder, block_of([record(2)]))
        assert peer.recv(1_000) == record(2)
        feeder.deliver(block_of([record(2)]))
        peer.shutdown(socket.SHUT_RD)
        with pytest.raises(Retry, match="it has closed the connection"):
            feeder.deliver(block_of([record(3)]))
        peer.close()
        feeder.close()


def test_at_the_end_a_line_is_sent_whole(path: Path, host: BookingHost) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        feeder = to(path, host)
        lines = lines_of(0, 3_000, 333)
        assert refuses(feeder, block_of(lines))
        peer, _ = server.accept()
        # Room for the rest of the line, and no more is sent.
        got = peer.recv(100_000)
        feeder.close()
        while data := peer.recv(65_536):
            got += data
        peer.close()
    assert got.endswith(b"\n")
    assert got.splitlines(keepends=True) == lines[: got.count(b"\n")]


def test_a_line_that_is_too_long_for_a_datagram(path: Path, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_socket, "SEND_BUFFER", 20_000)  # which the kernel doubles
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        got: list[bytes] = []
        stop = threading.Event()

        def read() -> None:
            server.settimeout(0.01)
            while not stop.is_set():
                try:
                    got.append(server.recv(100_000))
                except TimeoutError:
                    continue

        thread = threading.Thread(target=read)
        thread.start()
        feeder = to(path, host)
        long = [record(2, b"x" * 50_000), record(5, b"x" * 60_000)]
        block = block_of([record(1), long[0], record(3), record(4), long[1], record(6)])
        with pytest.raises(Reject, match="2 lines are too long for it; the others were delivered"):
            until_taken(feeder, block)
        until_taken(feeder, block_of([record(7)]))
        stop.set()
        thread.join()
        feeder.close()
    assert [line + b"\n" for line in got] == [record(n) for n in (1, 3, 4, 6, 7)]
    assert host.counts == {"too_long": 2}


def test_datagrams_go_on_where_they_stopped(path: Path, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_feed, "DELIVER_TIME", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        feeder = to(path, host)
        lines = lines_of(0, 300)
        got: list[bytes] = []
        server.setblocking(False)
        while refuses(feeder, block_of(lines)):
            with contextlib.suppress(BlockingIOError):
                while True:
                    got.append(server.recv(10_000) + b"\n")
        feeder.close()
    assert got == lines


def test_somebody_else_takes_the_place(path: Path, host: BookingHost) -> None:
    """A datagram socket that is replaced while its owner lives: what he had not read is sent to the new one."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as old,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as new,
    ):
        old.bind(str(path))
        feeder = to(path, host)
        assert refuses(feeder, block_of([record(1), record(2)]))
        path.rename(path.with_name("moved"))
        new.bind(str(path))
        assert old.recv(1_000) + b"\n" == record(1)
        assert old.recv(1_000) + b"\n" == record(2)
        with pytest.raises(Retry, match="another one has taken its place"):
            feeder.deliver(block_of([record(1), record(2)]))
        time.sleep(0.02)
        assert refuses(feeder, block_of([record(1), record(2)]))
        assert [new.recv(1_000) + b"\n" for _ in range(2)] == [record(1), record(2)]
        feeder.deliver(block_of([record(1), record(2)]))
        feeder.close()


def test_what_is_no_socket(path: Path, host: BookingHost) -> None:
    feeder = to(path, host)
    path.write_bytes(b"")
    with pytest.raises(Retry, match="is not a socket"):
        feeder.deliver(block_of([record(1)]))
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(path))
        server.listen()
        feeder.resume()
        with pytest.raises(Retry, match="is neither a stream nor a datagram socket"):
            feeder.deliver(block_of([record(1)]))
    feeder.close()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        waiting.connect(str(path))
        feeder.resume()
        with pytest.raises(Retry, match="does not accept connections"):
            feeder.deliver(block_of([record(1)]))
        waiting.close()
    feeder.close()
    assert len(os.listdir(path.parent)) == 1
