"""`syslog`: what a syslog daemon gets, against a stand-in for it and against audisp-syslog itself."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from audisp.plugin import ConfigError, Delivery, Retry
from audisp_plugins.accounts import Accounts
from audisp_plugins.syslog import (
    MAX_MESSAGE,
    Messages,
    Syslog,
    SyslogConfig,
    audisp_plugins,
    open_syslog,
)
from tests.needs import ROOT, needs
from tests.plugins.booking import BookingHost, block_of, record

SAMPLE = [
    record(45, b"arch=c000003e a=1\x1dARCH=x86_64 \x1d2"),
    record(45, b"", b"EOE"),
    b"node=n " + record(46, b"pid=1 msg='x\x01y' ", b"USER_LOGIN"),
    record(47, b"k=%s %d " + b"y" * 3000),
]


class Daemon:
    """A stand-in for syslogd on a socket of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def stop(self) -> None:
        self.socket.close()
        self.path.unlink()

    def got(self) -> list[bytes]:
        found = []
        try:
            while True:
                found.append(self.socket.recv(65_536))
        except BlockingIOError:
            return found


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "log")
    yield daemon
    daemon.socket.close()


def syslog_of(daemon: Daemon, host: BookingHost, *args: str) -> Syslog:
    settings = SyslogConfig(args=args, socket=daemon.path)
    names = Accounts() if settings.interpret else None
    return Syslog(daemon.path, Messages(*settings.priority(), names), host)


@pytest.mark.parametrize(
    ("args", "start"),
    [
        ((), rb"<14>\w{3} [ \d]\d \d\d:\d\d:\d\d audisp-syslog: type=SYSCALL "),
        (("LOG_INFO",), rb"<14>.{15} audisp-syslog: "),
        (("log_local1", "LOG_Warning"), rb"<140>.{15} audispd: "),
        (("LOG_EMERG", "LOG_LOCAL7"), rb"<184>.{15} audispd: "),
        (("LOG_AUTHPRIV",), rb"<86>.{15} audispd: "),
        (("LOG_DAEMON", "LOG_DEBUG"), rb"<31>.{15} audispd: "),
    ],
)
def test_arguments(daemon: Daemon, host: BookingHost, args: tuple[str, ...], start: bytes) -> None:
    syslog = syslog_of(daemon, host, *args)
    syslog.deliver(block_of([record(1)]))
    (message,) = daemon.got()
    assert re.match(start, message)
    assert message.endswith(record(1)[:-1])
    syslog.close()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("LOG_INF",), "args: 'LOG_INF' is neither a level nor a facility of syslog; did you mean LOG_INFO?"),
        (("LOG_KERN",), "args: 'LOG_KERN' is neither"),
    ],
)
def test_arguments_that_are_refused(args: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SyslogConfig(args=args)
    assert message in str(caught.value)


def test_socket_that_is_refused() -> None:
    for path in (Path("log"), Path("/" + "x" * 107)):
        with pytest.raises(ConfigError, match=r"socket: .* is not an absolute path of at most 107 bytes"):
            SyslogConfig(socket=path)


@pytest.mark.parametrize("size", [MAX_MESSAGE - 200, MAX_MESSAGE, 9_000, 16_300])
def test_long_records_are_split_and_come_back_whole(daemon: Daemon, host: BookingHost, size: int) -> None:
    line = record(77, b"%d %" + os.urandom(size // 2).hex().encode())
    syslog = syslog_of(daemon, host)
    syslog.deliver(block_of([record(76), line, record(78)]))
    first, *parts, last = daemon.got()
    assert first.endswith(record(76)[:-1])
    assert last.endswith(record(78)[:-1])
    assert all(len(part) <= MAX_MESSAGE for part in parts)
    texts = [part.split(b"audisp-syslog: ", 1)[1] for part in parts]
    if len(parts) == 1:
        assert texts == [line[:-1]]
    else:
        marks = [re.match(rb"\[part (\d)/(\d) 1700000000\.123:77\] ", text) for text in texts]
        assert [(int(mark[1]), int(mark[2])) for mark in marks if mark] == [
            (number, len(parts)) for number in range(1, len(parts) + 1)
        ]
        assert b"".join(text.split(b"] ", 1)[1] for text in texts) == line[:-1]
        assert host.counts["split_records"] == 1
    syslog.close()


def test_daemon_that_goes_and_comes_back(daemon: Daemon, host: BookingHost) -> None:
    syslog = syslog_of(daemon, host)
    syslog.deliver(block_of([record(1)]))
    assert len(daemon.got()) == 1
    daemon.stop()
    for _ in range(3):
        with pytest.raises(Retry, match=r"syslog at .*/log: "):
            syslog.deliver(block_of([record(2)]))
    daemon.start()
    syslog.deliver(block_of([record(2), record(3)]))
    assert [message[-len(record(2)) + 1 :] for message in daemon.got()] == [record(2)[:-1], record(3)[:-1]]
    assert [level for level, _ in host.said] == ["warning", "notice"]
    assert host.counts["reconnects"] == 1
    syslog.close()


def test_slow_daemon_gets_each_record_once(daemon: Daemon, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audisp_plugins.syslog.SEND_TIMEOUT", 0.02)
    syslog = syslog_of(daemon, host)
    lines = [record(n) for n in range(1000)]
    got: list[bytes] = []
    for _ in range(1000):
        try:
            # The host may join what waits behind it, so the block grows.
            syslog.deliver(block_of([*lines, record(1000)] if got else lines))
            break
        except Retry:
            got += daemon.got()
    got += daemon.got()
    assert [int(message.rsplit(b":", 2)[1].split(b")")[0]) for message in got] == list(range(1001))
    assert host.counts["slow"] > 0
    syslog.close()


async def test_opens_without_a_daemon(host: BookingHost, tmp_path: Path) -> None:
    settings = SyslogConfig(socket=tmp_path / "log")
    async with open_syslog(settings, host) as delivery:
        assert isinstance(delivery, Delivery)
        deliver = delivery.deliver
        with pytest.raises(Retry, match="No such file"):
            await trio.to_thread.run_sync(deliver, block_of([record(1)]))
        daemon = Daemon(tmp_path / "log")
        await trio.to_thread.run_sync(deliver, block_of([record(1)]))
        assert len(daemon.got()) == 1
        daemon.socket.close()


# In a mount namespace of its own, where /dev/log is ours: prints what audisp-syslog sends for stdin.
PEER = """
import json, os, socket, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
for name in ("null", "urandom"):
    subprocess.run(["cp", "-a", f"/dev/{name}", sys.argv[1]], check=True)
subprocess.run(["mount", "--bind", sys.argv[1], "/dev"], check=True)
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
subprocess.run(["/sbin/audisp-syslog", *sys.argv[2:]], stdin=0, check=True)
log.setblocking(False)
got = []
try:
    while True:
        got.append(log.recv(65536).decode("latin-1"))
except BlockingIOError:
    print(json.dumps(got))
"""


@needs("root", "audisp-syslog")
@pytest.mark.parametrize("args", [(), ("LOG_INFO",), ("LOG_LOCAL1", "LOG_WARNING"), ("LOG_USER", "LOG_DEBUG")])
def test_same_messages_as_audisp_syslog(
    daemon: Daemon, host: BookingHost, tmp_path: Path, args: tuple[str, ...]
) -> None:
    (tmp_path / "dev").mkdir()
    peer = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", PEER, str(tmp_path / "dev"), *args],
        input=b"".join(SAMPLE),
        stdout=subprocess.PIPE,
        check=True,
    )
    theirs = [message.encode("latin-1") for message in json.loads(peer.stdout)][1:]  # the first is its greeting
    syslog = syslog_of(daemon, host, *args)
    syslog.deliver(block_of(SAMPLE))
    syslog.close()

    def without_time(message: bytes) -> bytes:
        return re.sub(rb"(?<=>)\w{3} [ \d]\d \d\d:\d\d:\d\d", b"TIME", message.removesuffix(b"\n"))

    assert [without_time(message) for message in daemon.got()] == [without_time(message) for message in theirs]


@needs("root", "audisp-syslog")
def test_interpreted_as_audisp_syslog_does_it(daemon: Daemon, host: BookingHost, tmp_path: Path) -> None:
    lines = (ROOT / "tests" / "corpus" / "mixed.log").read_bytes().splitlines(keepends=True)
    lines += [b"type=EOE msg=audit(1795333451.130:5547): \n", SAMPLE[0]]
    (tmp_path / "dev").mkdir()
    syslog = syslog_of(daemon, host, "LOG_INFO", "interpret")
    for first in range(0, len(lines), 8):  # what a datagram socket holds (net.unix.max_dgram_qlen), greeting included
        some = lines[first : first + 8]
        peer = subprocess.run(
            ["unshare", "-m", sys.executable, "-c", PEER, str(tmp_path / "dev"), "LOG_INFO", "interpret"],
            input=b"".join(some),
            stdout=subprocess.PIPE,
            check=True,
        )
        theirs = [message.encode("latin-1") for message in json.loads(peer.stdout)][1:]
        syslog.deliver(block_of(some))
        heads = re.compile(rb"(?<=>)\w{3} [ \d]\d \d\d:\d\d:\d\d")
        got = [heads.sub(b"TIME", message.removesuffix(b"\n")) for message in daemon.got()]
        assert got == [heads.sub(b"TIME", message.removesuffix(b"\n")) for message in theirs]
    syslog.close()


def test_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        (message,) = Messages(1, 6).of(record(1), 1_700_000_000.9)
        assert message.startswith(b"<14>Nov 15 00:13:20 audisp-syslog: type=")
        (message,) = Messages(1, 6).of(record(1), 1_699_000_000.9)
        assert message.startswith(b"<14>Nov  3 10:26:40 audisp-syslog: type=")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_declared() -> None:
    (kind,) = audisp_plugins()
    assert (kind.name, kind.config, kind.open, kind.wants) == ("syslog", SyslogConfig, open_syslog, "blocks")
