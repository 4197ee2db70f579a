"""audit-userspace 4.2's TLS, which no distribution of ours packages: Debian's own programs inside a TLS that is set up
as upstream sets it up (../shared/spec/upstream.md, section 6), against ours, both ways.

`openssl s_client` and `s_server` use the callbacks that upstream uses (psk_use_session, psk_find_session). With its
suites, groups and options, no ALPN, no SNI, no certificate and no tickets they are its TLS to the letter, and what goes
through them is spoken by Debian's audisp-remote and auditd: RMW.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Final

import pytest

from audisp.parse.psk import Key
from tests.e2e.collectors import Collector, TheirRemote
from tests.e2e.daemons import Auditd, listening
from tests.e2e.remotes import Remote, free_port, numbered, numbers_in
from tests.e2e.stream import PATIENCE, wait_for
from tests.needs import needs
from tests.tls.files import put_acl, put_key

pytestmark = [needs("root", "openssl"), pytest.mark.timeout(120, func_only=True)]

SUITES: Final = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
"""Of the profiles `compatible` and `pqc`."""
GROUPS: Final = "X25519"
"""`compatible` where libssl has no ML-KEM; else X25519MLKEM768 comes first."""
KEY: Final = Key(bytes(range(40, 72)))
NAME: Final = "web1.example.com"
COUNT: Final = 2_000
OPTIONS: Final = ("-psk", KEY.reveal().hex(), "-psk_identity", NAME, "-tls1_3", "-quiet", "-no_comp", "-no_ticket")


def s_client(port: int) -> list[str]:
    """As upstream's audisp-remote connects."""
    return ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-noservername", *OPTIONS, *_profile()]


def s_server(port: int) -> list[str]:
    """As upstream's auditd listens: no preference of its own, no session cache, no tickets."""
    more = ("-nocert", "-num_tickets", "0", "-no_cache", "-naccept", "1")
    return ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", *more, *OPTIONS, *_profile()]


def _profile() -> tuple[str, ...]:
    return ("-ciphersuites", SUITES, "-groups", GROUPS)


class Plain:
    """The plain side of one of these programs: its standard input and output carried to and from a socket.

    The programs' own way of ending is not upstream's: both are killed at the end."""

    def __init__(self, argv: list[str], sock: socket.socket) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._sock, self._in, self._out = sock, self.process.stdin.fileno(), self.process.stdout.fileno()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._to, self._from)]
        for thread in self._threads:
            thread.start()

    def _to(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._sock.recv(65_536):
                while data:
                    data = data[os.write(self._in, data) :]

    def _from(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._out, 65_536):
                self._sock.sendall(data)
            self._sock.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """The connection is cut, at both ends of the program."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._sock.close()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@needs("audisp-remote")
def test_their_client_to_our_collector(tmp_path: Path) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    acl = put_acl(folder / "clients", f"{NAME} enabled key={put_key(folder / 'web1.key', KEY)}")
    records = numbered(1, COUNT).splitlines(keepends=True)
    with (
        Collector(folder, tls_allowed_clients=acl) as collector,
        socket.create_server(("127.0.0.1", 0)) as near,
        TheirRemote(tmp_path / "remote", near.getsockname()[1]) as remote,
    ):
        feeding = threading.Thread(target=remote.write, args=(b"".join(records),))
        feeding.start()
        first = Plain(s_client(collector.port), near.accept()[0])
        try:
            wait_for(lambda: len(collector.records()) >= COUNT // 4, "some is stored")
            (connection,) = collector.host(NAME)["connections"]
            assert (connection["protocol"], connection["cipher"]) == ("rmw", "TLS_AES_128_GCM_SHA256 x25519")
        finally:
            first.kill()
        second = Plain(s_client(collector.port), near.accept()[0])
        try:
            wait_for(lambda: len(collector.records()) >= COUNT, "all is stored")
            feeding.join(PATIENCE)
            # The connection that was cut had a record under way, which came again: known, and stored once.
            assert collector.records(NAME) == records
            assert collector.verified().status == 0
        finally:
            second.kill()


@needs("auditd")
@pytest.mark.parametrize("protocol", ["rmw", "auto"])
def test_our_client_to_their_server(tmp_path: Path, protocol: str) -> None:
    there, port = free_port(), free_port()
    conf = {"transport": "tls", "protocol": protocol, "tls_psk_identity": NAME, "network_retry_time": 1}
    remote = Remote(tmp_path / "remote", port=port, tls_psk_file=put_key(tmp_path / "key", KEY), **conf)
    with Auditd(tmp_path / "auditd", listen=there) as auditd, remote:
        remote.write(numbered(1, COUNT))
        for wanted in (COUNT // 4, COUNT):
            served = Plain(s_server(port), socket.create_connection(("127.0.0.1", there)))
            try:
                assert listening(port) or served.process.poll() is None
                wait_for(lambda wanted=wanted: len(_log(auditd)) >= wanted, f"{wanted} have arrived")  # type: ignore[misc]
                if wanted == COUNT:
                    wait_for(lambda: remote.fresh_state()["waiting"] == "0", "all are acknowledged")
                    state = remote.fresh_state()
                    assert (state["protocol"], state["lost"]) == ("rmw", "0")
            finally:
                served.kill()
        found = _log(auditd)
    # auditd knows no retry: what was under way when the line was cut may stand there twice.
    assert list(dict.fromkeys(found)) == list(range(1, COUNT + 1))
    assert len(found) <= COUNT + 1
    assert ("falling back to rmw" in remote.said()) == (protocol == "auto")


def _log(auditd: Auditd) -> list[int]:
    return numbers_in(auditd.log.read_bytes())


@pytest.mark.parametrize("wrong", ["key", "identity"])
def test_their_client_with_a_wrong_key_is_refused(tmp_path: Path, wrong: str) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    acl = put_acl(folder / "clients", f"{NAME} enabled key={put_key(folder / 'web1.key', KEY)}")
    with Collector(folder, tls_allowed_clients=acl) as collector:
        argv = s_client(collector.port)
        if wrong == "key":
            argv[argv.index("-psk") + 1] = "00" * 32
        else:
            argv[argv.index("-psk_identity") + 1] = "web2.example.com"
        done = subprocess.run(argv, input=b"", capture_output=True, timeout=60)
        assert done.returncode != 0
        wait_for(lambda: "refused (" in collector.said(), "the log says why")
        assert {"key": "wrong-key", "identity": "unknown-identity"}[wrong] in collector.said()
        assert collector.records() == []


@pytest.mark.parametrize("shows", ["a certificate", "another key"])
def test_a_server_that_has_not_proved_the_key_gets_nothing(tmp_path: Path, shows: str) -> None:
    port, out = free_port(), tmp_path / "got"
    argv = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-quiet"]
    if shows == "a certificate":
        files = ["-keyout", str(tmp_path / "k"), "-out", str(tmp_path / "c")]
        new = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
        ]
        subprocess.run([*new, "-subj", "/CN=collector", *files], check=True, capture_output=True)
        argv += ["-key", str(tmp_path / "k"), "-cert", str(tmp_path / "c")]
        said = "has shown a certificate instead of proving the key"
    else:
        argv += ["-nocert", "-psk", "00" * 32, "-psk_identity", NAME]
        said = "neither this identity nor this key"
    conf = {"transport": "tls", "tls_psk_identity": NAME, "network_retry_time": 1}
    remote = Remote(tmp_path / "remote", port=port, tls_psk_file=put_key(tmp_path / "key", KEY), **conf)
    with out.open("wb") as got, subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=got, stderr=got) as served:
        try:
            wait_for(lambda: listening(port), "it listens")
            with remote:
                remote.write(numbered(1, 100))
                remote.await_accepted(100)
                wait_for(lambda: said in remote.said(), "it says why it sends nothing")
                state = remote.fresh_state()
                assert (state["transport_ok"], state["waiting"], state["sent"]) == ("no", "100", "0")
        finally:
            served.kill()
    assert b"type=USER_MSG" not in out.read_bytes()
