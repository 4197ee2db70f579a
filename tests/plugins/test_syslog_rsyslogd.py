"""`syslog` to rsyslogd: what arrives there by UDP, TCP and TLS, message by message."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audisp_plugins import backoff, syslog_link
from audisp_plugins.syslog import Messages, Syslog, SyslogConfig
from tests.needs import needs
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.certificates import Authority
from tests.plugins.senders import lines_of, refuses, texts, to, until, until_taken
from tests.plugins.syslogs import joined, parsed, unrepeated

pytestmark = needs("root", "rsyslogd")

SERVER = "logs.audisp.example"
SAMPLE = [
    *lines_of(0, 300),
    record(300, b"a=1\x1dUID=0 b\x1dc\x01\x7f"),
    record(301, "name=grüße €".encode()),
    record(302, b"name=gr\xfc"),
    record(303, b"y" * 16_000),
    record(304, "ü".encode() * 6_000),
    b"node=db2 " + record(305, b"x", b"UNKNOWN[1420]"),
    b'{"ID":"1700000000.123:306","text":"a \\"b\\" #011"}\n',
    record(307, b"", b"EOE"),
]
"""With what a receiver could take amiss: control characters, other character sets, long lines, quotes."""


class Rsyslogd:
    """rsyslogd with a configuration, a pid file and a port of its own; writes every message as it was received."""

    def __init__(self, folder: Path, module: str, extra: str = "") -> None:
        self.folder = folder
        self.out = folder / "out"
        self.local = folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._config = folder / "rsyslog.conf"
        name = module.split('"')[1]
        place = f'type="{name}" address="127.0.0.1" port="{self.port}"'
        more = {
            # What overflows a receive buffer is lost, and that is nobody's fault here.
            "imudp": ' rcvbufSize="4m"',
            "imuxsock": ' rateLimit.interval="0"',
        }.get(name, "")
        if name == "imuxsock":
            place = f'type="{name}" socket="{self.local}"'
        self._config.write_text(
            f'global(workDirectory="{folder}" {extra})\n'
            f"module({module})\n"
            'template(name="raw" type="string" string="%rawmsg%\\n")\n'
            'template(name="read" type="string" string="%timestamp:::date-rfc3339% %hostname% %app-name% %procid% '
            '%msgid% %syslogfacility-text%.%syslogseverity-text% %structured-data%\\n")\n'
            f'input({place}{more} ruleset="all")\n'
            'ruleset(name="all") {\n'
            f'  action(type="omfile" file="{self.out}" template="raw")\n'
            f'  action(type="omfile" file="{folder}/read" template="read")\n'
            "}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        program = shutil.which("rsyslogd", path=path)
        assert program
        with (self.folder / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                [program, "-n", "-f", str(self._config), "-i", str(self.folder / "pid")],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        until(lambda: (self.folder / "pid").exists())

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None
            (self.folder / "pid").unlink(missing_ok=True)

    def raw(self) -> list[bytes]:
        """The messages so far."""
        return self.out.read_bytes().split(b"\n")[:-1] if self.out.exists() else []

    def read(self) -> list[str]:
        """What it makes of their heads."""
        return (self.folder / "read").read_text().splitlines()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    monkeypatch.setattr(backoff, "MOST", 0.05)
    monkeypatch.setattr(syslog_link, "VERDICT_TIME", 0.1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=["udp", "tcp", "ossl", "gtls"])
def peer(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> Iterator[tuple[str, Rsyslogd]]:
    """rsyslogd on UDP, on TCP, on TLS with OpenSSL, with GnuTLS; the last two demand a certificate of ours."""
    kind: str = request.param
    module, extra = f'load="im{kind}"', ""
    if kind in ("ossl", "gtls"):
        certificate, key = authority.issue("server", SERVER)
        module = (
            f'load="imtcp" streamDriver.name="{kind}" streamDriver.mode="1" streamDriver.authMode="x509/name" '
            'permittedPeer="sender.audisp.example"'
        )
        extra = (
            f'defaultNetstreamDriverCAFile="{authority.path}" defaultNetstreamDriverCertFile="{certificate}" '
            f'defaultNetstreamDriverKeyFile="{key}"'
        )
    rsyslogd = Rsyslogd(tmp_path, module, extra)
    rsyslogd.start()
    yield kind, rsyslogd
    rsyslogd.stop()


def keys_of(kind: str, authority: Authority, name: str = "sender.audisp.example") -> dict[str, Any]:
    if kind in ("udp", "tcp"):
        return {"kind": kind}
    certificate, key = authority.issue("sender", name)
    return {
        "kind": "tls",
        "tls_ca_file": authority.path,
        "tls_server_name": SERVER,
        "tls_cert_file": certificate,
        "tls_key_file": key,
    }


def test_what_arrives(peer: tuple[str, Rsyslogd], host: BookingHost, authority: Authority) -> None:
    kind, rsyslogd = peer
    sender = to(
        rsyslogd.port,
        host,
        **keys_of(kind, authority),
        hostname="web1",
        args=("LOG_LOCAL2", "LOG_WARNING"),
        structured_data=('site@32473 a="b"]c\\',),
    )
    until_taken(sender, block_of(SAMPLE[:200]))
    until_taken(sender, block_of(SAMPLE[200:]))
    sender.close()
    until(lambda: len(rsyslogd.raw()) >= len(SAMPLE) and rsyslogd.raw()[-1].find(b":307)") > 0)
    found = [parsed(message) for message in rsyslogd.raw()]
    plain = [
        line.replace(b"\x1d", b" ", 1).replace(b"\x1d", b"#035").replace(b"\x01", b"#001").replace(b"\x7f", b"#177")
        for line in texts(SAMPLE)
    ]
    assert joined(found) == plain
    data = '[site@32473 a="\\"b\\"\\]c\\\\"]'
    assert {each.data for each in found} == {data.encode()}
    # rsyslog understands the heads as they were meant.
    heads = rsyslogd.read()
    assert len(heads) == len(found)
    pid = os.getpid()
    assert heads[0] == f"2023-11-14T22:13:20.123Z web1 audisp {pid} SYSCALL local2.warning {data}"
    assert any(f" db2 audisp {pid} UNKNOWN[1420] " in head for head in heads)
    assert any(f" web1 audisp {pid} JSON " in head for head in heads)
    assert host.counts == {"split_records": 2}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Rsyslogd]:
    """rsyslogd on a socket like /dev/log."""
    rsyslogd = Rsyslogd(tmp_path, 'load="imuxsock" sysSock.use="off"')
    rsyslogd.start()
    yield rsyslogd
    rsyslogd.stop()


def test_the_local_socket_cuts_nothing(local: Rsyslogd, host: BookingHost) -> None:
    """What rsyslogd takes by default is 8,096 bytes: one more would be gone."""
    settings = SyslogConfig(socket=local.local)
    sender = Syslog(local.local, Messages(*settings.priority()), host)
    lines = [record(size, b"y" * size) for size in range(7_990, 8_060)]
    until(local.local.exists)
    until_taken(sender, block_of(lines))
    until(lambda: len(local.raw()) >= len(lines) + host.counts["split_records"])
    sender.close()
    found = [message.split(b"audisp-syslog: ", 1)[1] for message in local.raw()]
    assert len(found) == len(lines) + host.counts["split_records"]
    assert 0 < host.counts["split_records"] < len(lines)
    whole = b"".join(re.sub(rb"^\[part (\d)/2 \S+\] ", b"", text) for text in found)
    assert whole == b"".join(texts(lines))


def test_a_restart(peer: tuple[str, Rsyslogd], host: BookingHost, authority: Authority) -> None:
    """kill -9, and a new one on the same port: what was taken before is there, and the rest follows."""
    kind, rsyslogd = peer
    sender = to(rsyslogd.port, host, **keys_of(kind, authority))
    sent: list[bytes] = []

    def all_there() -> bool:
        return set(texts(sent)) <= {parsed(message).text for message in rsyslogd.raw()}

    for number in range(3):
        lines = lines_of(1_000 * number, 200)
        until_taken(sender, block_of(lines))
        sent += lines
        until(all_there)
        rsyslogd.stop(signal.SIGKILL)
        rsyslogd.start()
    lines = lines_of(9_000, 10)
    until_taken(sender, block_of(lines))
    until(lambda: parsed(rsyslogd.raw()[-1]).text == lines[-1][:-1])
    sender.close()
    found = unrepeated(parsed(message).text for message in rsyslogd.raw())
    assert found == texts([*sent, *lines])


# rsyslogd 8.2302's OpenSSL driver lets a peer that is not permitted in, when the handshake takes it more than one step.
@pytest.mark.parametrize("peer", ["gtls"], indirect=True)
def test_a_certificate_that_it_does_not_permit(
    peer: tuple[str, Rsyslogd], host: BookingHost, authority: Authority
) -> None:
    """It says so after our side of the handshake is done, perhaps after we have sent something: that is sent again."""
    kind, rsyslogd = peer
    sender = to(rsyslogd.port, host, **keys_of(kind, authority, "stranger.audisp.example"))
    offered = 0

    def refused() -> bool:
        nonlocal offered
        sender.resume()
        offered += 1
        return refuses(sender, block_of([record(offered)]))

    until(refused)
    assert rsyslogd.raw() == []
    # The files are read for each connection.
    keys_of(kind, authority)
    until_taken(sender, block_of([record(offered)]))
    sender.close()
    until(lambda: len(rsyslogd.raw()) >= offered)
    assert [parsed(message).text for message in rsyslogd.raw()] == texts([record(n + 1) for n in range(offered)])
