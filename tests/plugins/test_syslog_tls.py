"""`syslog` by TLS: who is believed and who is not. All servers are real ones; certificates are made by the test."""

from __future__ import annotations

import datetime
import os
import random
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audisp.plugin import PluginError, Retry
from audisp_plugins import backoff, syslog_link, syslog_network
from audisp_plugins.syslog import SyslogConfig, open_syslog
from audisp_plugins.syslog_network import Transport, transport
from tests.needs import needs
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.certificates import DAY, Authority
from tests.plugins.senders import WAIT, lines_of, texts, until, until_taken
from tests.plugins.syslogs import Receiver, joined, parsed, unframed, unrepeated

SERVER = "logs.audisp.example"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.001)
    monkeypatch.setattr(backoff, "MOST", 0.01)
    monkeypatch.setattr(syslog_link, "VERDICT_TIME", 0.02)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def to(port: int, host: BookingHost, authority: Authority, **keys: Any) -> Transport:
    keys = {"server": "127.0.0.1", "tls_ca_file": authority.path, "tls_server_name": SERVER, **keys}
    return transport(SyslogConfig(transport="tls", port=port, **keys), host)


@pytest.fixture
def receiver(tmp_path: Path, authority: Authority) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path, tls=authority.issue("server", SERVER))
    receiver.start()
    yield receiver
    receiver.kill()


def test_messages_arrive_as_they_are(receiver: Receiver, host: BookingHost, authority: Authority) -> None:
    sender = to(receiver.port, host, authority)
    lines = lines_of(0, 3_000)
    sender.deliver(block_of(lines[:100]))
    sender.deliver(block_of(lines[100:]))
    assert sender.state() == {"syslog server": f"connected to 127.0.0.1 port {receiver.port}, TLSv1.3"}
    sender.close()
    until(lambda: len(receiver.messages()) >= len(lines))
    assert joined(receiver.messages()) == texts(lines)
    assert host.counts == {}
    assert host.said == []


@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_is_killed_again_and_again(
    receiver: Receiver, host: BookingHost, authority: Authority, seed: int
) -> None:
    chance = random.Random(seed)
    sender = to(receiver.port, host, authority)
    stop = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not stop.wait(chance.uniform(0.02, 0.2)):
            receiver.kill()
            kills += 1
            receiver.start()

    killer = threading.Thread(target=kill)
    killer.start()
    sent: list[bytes] = []
    try:
        while kills < 6 or len(sent) < 3_000:
            lines = lines_of(len(sent), chance.randint(1, 300), chance.randint(10, 400))
            until_taken(sender, block_of(lines))
            sent += lines
            time.sleep(chance.uniform(0, 0.004))
    finally:
        stop.set()
        killer.join()
    end = time.monotonic() + WAIT
    while True:
        until_taken(sender, block_of([record(10**9)]))
        time.sleep(0.05)
        found = unrepeated(each.text for each in receiver.messages())
        if set(texts(sent)) <= set(found):
            break
        assert time.monotonic() < end, f"{len(set(texts(sent)) - set(found))} are lost"
    sender.close()
    for stream in receiver.streams():
        unframed(stream)
    assert len(found) == len(sent) + 1


def test_a_slow_server_gets_each_message_once(
    receiver: Receiver, host: BookingHost, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog_network, "DELIVER_TIME", 0.3)
    receiver.kill()
    receiver.pause = 3_000
    receiver.start()
    sender = to(receiver.port, host, authority)
    lines = lines_of(0, 8_000)
    assert until_taken(sender, block_of(lines)) > 0
    sender.close()
    until(lambda: len(receiver.messages()) == len(lines))
    assert joined(receiver.messages()) == texts(lines)
    assert len([stream for stream in receiver.streams() if stream]) == 1


# Whom we believe.


@pytest.mark.parametrize(
    ("hosts", "keys", "problem"),
    [
        ((SERVER,), {}, None),
        (("*.audisp.example",), {}, None),
        (("127.0.0.1",), {"tls_server_name": None}, None),
        (("localhost",), {"tls_server_name": None, "server": "localhost"}, None),
        ((SERVER,), {"tls_server_name": "other.example"}, "Hostname mismatch"),
        ((SERVER,), {"tls_server_name": None}, "IP address mismatch"),
        # The common name counts where there is no other (RFC 5425 section 5.2), and only there.
        ((), {"tls_server_name": "server"}, None),
        ((SERVER,), {"tls_server_name": "server"}, "Hostname mismatch"),
    ],
)
def test_the_name_must_be_the_server_s(
    tmp_path: Path,
    host: BookingHost,
    authority: Authority,
    hosts: tuple[str, ...],
    keys: dict[str, Any],
    problem: str | None,
) -> None:
    receiver = Receiver(tmp_path, tls=authority.issue("server", *hosts))
    receiver.start()
    sender = to(receiver.port, host, authority, **keys)
    if problem is None:
        sender.deliver(block_of([record(1)]))
        until(lambda: len(receiver.messages()) == 1)
    else:
        refused(sender, host, f"its certificate is not accepted: {problem}")
        assert set(receiver.streams()) <= {b""}
    sender.close()
    receiver.kill()


def refused(sender: Transport, host: BookingHost, problem: str) -> None:
    for _ in range(2):
        sender.resume()
        with pytest.raises(Retry, match=problem):
            sender.deliver(block_of([record(1)]))
    # Said once, however often it is tried.
    assert [level for level, _ in host.said] == ["warning"]
    assert re.search(problem, host.said[0][1])


def test_another_authority_s_certificate(tmp_path: Path, host: BookingHost, authority: Authority) -> None:
    receiver = Receiver(tmp_path, tls=Authority(tmp_path, "other").issue("server", SERVER))
    receiver.start()
    sender = to(receiver.port, host, authority)
    refused(sender, host, "its certificate is not accepted: unable to get local issuer certificate")
    assert set(receiver.streams()) <= {b""}
    sender.close()
    receiver.kill()


def test_an_expired_certificate_and_its_successor(tmp_path: Path, host: BookingHost, authority: Authority) -> None:
    receiver = Receiver(tmp_path, tls=authority.issue("server", SERVER, lifetime=-DAY))
    receiver.start()
    sender = to(receiver.port, host, authority)
    refused(sender, host, "its certificate is not accepted: certificate has expired")
    receiver.kill()
    authority.issue("server", SERVER, lifetime=datetime.timedelta(hours=1))
    receiver.start()
    until_taken(sender, block_of([record(1)]))
    assert host.said[-1][0] == "notice"
    sender.close()
    receiver.kill()


def test_a_server_without_tls(host: BookingHost, authority: Authority, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    receiver.start()
    sender = to(receiver.port, host, authority)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("audisp_plugins.syslog_link.CONNECT_TIME", 0.1)
    monkey.setattr(syslog_network, "DELIVER_TIME", 0.2)
    refused(sender, host, "no answer to the handshake")
    monkey.undo()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"220 not a syslog server\r\n")
                sock.recv(65_536)

        thread = threading.Thread(target=greet)
        thread.start()
        other = to(listener.getsockname()[1], BookingHost("x", str(tmp_path), owner=False), authority)
        with pytest.raises(Retry, match=r"TLS: (wrong version number|record layer failure)"):
            other.deliver(block_of([record(1)]))
        thread.join()
        other.close()
    sender.close()
    receiver.kill()


@pytest.mark.parametrize(
    ("version", "problem"), [(ssl.TLSVersion.TLSv1_2, None), (ssl.TLSVersion.TLSv1_1, "TLS: .*(version|protocol)")]
)
def test_versions(
    tmp_path: Path, host: BookingHost, authority: Authority, version: ssl.TLSVersion, problem: str | None
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", SERVER))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is why
        context.minimum_version = context.maximum_version = version
    got = b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal got
            sock, _ = listener.accept()
            with sock:
                try:
                    tls = context.wrap_socket(sock, server_side=True)
                except (ssl.SSLError, OSError):
                    return
                with tls:
                    got = tls.recv(65_536)

        thread = threading.Thread(target=serve)
        thread.start()
        sender = to(listener.getsockname()[1], host, authority)
        if problem is None:
            sender.deliver(block_of([record(1)]))
            assert sender.state()["syslog server"].endswith(", TLSv1.2")
        else:
            with pytest.raises(Retry, match=problem):
                sender.deliver(block_of([record(1)]))
        thread.join()
        sender.close()
    assert [parsed(message).text for message in unframed(got)[0]] == ([] if problem else texts([record(1)]))


# Who we are.


def test_our_certificate(tmp_path: Path, host: BookingHost, authority: Authority) -> None:
    receiver = Receiver(tmp_path, tls=authority.issue("server", SERVER), ca=authority.path)
    receiver.start()
    # The server refuses after our side of TLS 1.3 is done: nothing may count as delivered by then.
    sender = to(receiver.port, host, authority)
    refused(sender, host, "TLS: .*certificate required")
    assert set(receiver.streams()) <= {b""}
    certificate, key = authority.issue("client")
    key.chmod(0o640)
    sender.close()
    other = to(receiver.port, host, authority, tls_cert_file=certificate, tls_key_file=key)
    other.deliver(block_of([record(1)]))
    other.close()
    until(lambda: len(receiver.messages()) == 1)
    wrong = Authority(tmp_path, "wrong").issue("stranger")
    stranger = to(receiver.port, host, authority, tls_cert_file=wrong[0], tls_key_file=wrong[1])
    with pytest.raises(Retry, match=r"TLS: .*unknown ca"):
        stranger.deliver(block_of([record(2)]))
    stranger.close()
    receiver.kill()
    assert len(receiver.messages()) == 1


# Files.


async def test_files_are_read_when_it_is_opened(host: BookingHost, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("client")
    files = {"tls_ca_file": authority.path, "tls_cert_file": certificate, "tls_key_file": key}
    for missing in files:
        config = SyslogConfig(transport="tls", server=SERVER, **{**files, missing: tmp_path / "none"})  # type: ignore[arg-type]
        with pytest.raises(PluginError, match="none: No such file or directory"):
            async with open_syslog(config, host):
                pass
    config = SyslogConfig(transport="tls", server=SERVER, **files)  # type: ignore[arg-type]
    async with open_syslog(config, host):
        pass


@pytest.mark.parametrize(
    ("which", "mode", "problem"),
    [
        ("key", 0o644, r"client\.key: mode 0644 lets it be read or written by others: chmod 0640"),
        ("key", 0o604, "lets it be read or written by others: chmod 0600"),
        ("key", 0o660, r"lets it be written by others: chmod 0640"),
        ("certificate", 0o664, r"client\.pem: mode 0664 lets it be written by others: chmod 0644"),
        ("ca", 0o646, r"ca\.pem: mode 0646 lets it be written by others: chmod 0644"),
    ],
)
def test_modes(host: BookingHost, authority: Authority, which: str, mode: int, problem: str) -> None:
    certificate, key = authority.issue("client")
    {"key": key, "certificate": certificate, "ca": authority.path}[which].chmod(mode)
    with pytest.raises(PluginError, match=problem):
        to(1, host, authority, tls_cert_file=certificate, tls_key_file=key)


@needs("root")
def test_a_stranger_s_file(host: BookingHost, authority: Authority) -> None:
    os.chown(authority.path, 65534, 65534)
    with pytest.raises(PluginError, match="is owned by uid 65534; it must be root"):
        to(1, host, authority)


def test_files_that_are_something_else(host: BookingHost, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("client", password=b"secret")
    with pytest.raises(PluginError, match=r"client\.key: is encrypted"):
        to(1, host, authority, tls_cert_file=certificate, tls_key_file=key)
    _, other = authority.issue("other")
    with pytest.raises(PluginError, match=r"client\.pem, .*other\.key: no certificate and its key"):
        to(1, host, authority, tls_cert_file=certificate, tls_key_file=other)
    garbage = tmp_path / "garbage"
    garbage.write_text("nothing\n")
    with pytest.raises(PluginError, match="garbage: holds no certificate that can be used"):
        to(1, host, authority, tls_ca_file=garbage)
    with pytest.raises(PluginError, match="is not a regular file"):
        to(1, host, authority, tls_ca_file=tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(PluginError, match="is not a regular file"):
        to(1, host, authority, tls_ca_file=fifo)


def test_a_file_that_becomes_bad_is_said_and_waited_for(
    receiver: Receiver, host: BookingHost, authority: Authority
) -> None:
    sender = to(receiver.port, host, authority)
    sender.deliver(block_of([record(1)]))
    receiver.kill()
    receiver.start()
    authority.path.chmod(0o666)
    until(lambda: _says(sender, "mode 0666"))
    assert host.heard(r"mode 0666 lets it be written by others")
    authority.path.chmod(0o644)
    until_taken(sender, block_of([record(2)]))
    sender.close()
    until(lambda: {each.text for each in receiver.messages()} == set(texts([record(1), record(2)])))


def _says(sender: Transport, text: str) -> bool:
    try:
        sender.deliver(block_of([record(2)]))
    except Retry as error:
        return text in str(error)
    return False
