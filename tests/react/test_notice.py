"""Notices and commands: what a program, a mail and a webhook get, and how each ends."""

from __future__ import annotations

import datetime
import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from audisp.react.means import Means
from audisp.react.means_notice import Command, Notify
from audisp.react.request import Kind, Outcome
from tests.needs import needs
from tests.react.playing import HandClock, conf, entries, playing, request

RUNS: Final = ("high", "critical")
EVIL: Final[dict[str, Any]] = {"rule": "x\nBcc: all@example.org\n\n.\n", "why": "\x1b[2J\u202e"}


def program(path: Path, text: str) -> str:
    """A script that a configuration would take."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_mail_has_one_head(tmp_path: Path) -> None:
    sendmail = program(tmp_path / "sendmail", f'cat >{tmp_path}/mail; echo "$@" >{tmp_path}/args')
    settings = conf(mail_to="root", sendmail=sendmail)
    with playing(settings, tmp_path / "r", {Kind.NOTIFY: Notify(settings)}) as played:
        result = await played.reactor.handle(request(Kind.NOTIFY, **EVIL))
    assert (result.outcome, result.record_type) == (Outcome.DONE, 2201)
    assert (tmp_path / "args").read_text() == "-i root\n"
    head, _, body = (tmp_path / "mail").read_text().partition("\n\n")
    assert [line.split(":")[0] for line in head.splitlines()] == [
        "To",
        "Subject",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
    assert r"Rule: 'x\nBcc: all@example.org\n\n.\n'" in body
    assert "\x1b" not in body


async def test_a_program_gets_the_event_and_nothing_of_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    told = program(tmp_path / "told", f"cat >{tmp_path}/in; env >{tmp_path}/env; pwd >{tmp_path}/pwd")
    settings = conf(notify_command=(told, "a b", "$(id)"))
    with playing(settings, tmp_path / "r", {Kind.NOTIFY: Notify(settings)}) as played:
        result = await played.reactor.handle(request(Kind.NOTIFY, **EVIL))
    assert result.outcome is Outcome.DONE
    given = json.loads((tmp_path / "in").read_bytes())
    assert given["event"] == {"comm": "sh"}
    assert (given["rule"], given["why"], given["level"]) == (EVIL["rule"], EVIL["why"], "high")
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names <= {"LC_ALL", "PATH", "PWD", "SHLVL", "_"}
    assert (tmp_path / "pwd").read_text() == "/\n"


async def test_one_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    slow = program(tmp_path / "slow", f"sleep 60 & echo $! >{tmp_path}/pid; wait")
    settings = conf(notify_command=(slow,), deadline=1.0)
    with playing(settings, tmp_path / "r", {Kind.NOTIFY: Notify(settings)}) as played:
        result = await played.reactor.handle(request(Kind.NOTIFY))
    assert result.outcome is Outcome.FAILED
    assert "killed after 1 s" in result.text
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < until:  # noqa: ASYNC240
        time.sleep(0.01)  # noqa: ASYNC251
    assert not os.path.exists(f"/proc/{pid}/exe")  # noqa: ASYNC240


async def test_nothing_is_set(tmp_path: Path) -> None:
    settings = conf(run_command=RUNS, command=("/bin/true",))
    means: dict[Kind, Means] = {
        Kind.NOTIFY: Notify(settings),
        Kind.RUN: Command(attrs.evolve(settings, run_command=(), command=())),
    }
    with playing(settings, tmp_path / "r", means) as played:
        assert (await played.reactor.handle(request(Kind.NOTIFY))).reason == "nowhere"
        assert (await played.reactor.handle(request(Kind.RUN))).reason == "nowhere"


async def test_one_way_that_works_is_enough(tmp_path: Path) -> None:
    settings = conf(mail_to="root", sendmail="/nowhere/sendmail", notify_command=("/bin/true",))
    with playing(settings, tmp_path / "r", {Kind.NOTIFY: Notify(settings)}) as played:
        result = await played.reactor.handle(request(Kind.NOTIFY))
        assert result.outcome is Outcome.DONE
        assert "sendmail: No such file" in result.text


def _commands(tmp_path: Path, **given: Any) -> Any:
    do = program(tmp_path / "do", f"cat >>{tmp_path}/did; echo >>{tmp_path}/did")
    undo = program(tmp_path / "undo", f"cat >>{tmp_path}/undid; echo >>{tmp_path}/undid")
    return conf(run_command=RUNS, command=(do,), undo_command=(undo,), **given)


async def test_a_program_that_others_may_write_by_now_is_not_run(tmp_path: Path) -> None:
    settings = _commands(tmp_path, command_time=60, notify_command=(program(tmp_path / "told", "true"),))
    for name in ("do", "told"):
        (tmp_path / name).chmod(0o777)
    means: dict[Kind, Means] = {Kind.RUN: Command(settings), Kind.NOTIFY: Notify(settings)}
    with playing(settings, tmp_path / "r", means) as played:
        for kind in means:
            result = await played.reactor.handle(request(kind))
            assert (result.outcome, "has mode 0777" in result.text) == (Outcome.FAILED, True)
    assert not (tmp_path / "did").exists()


async def test_a_command_and_its_undo(tmp_path: Path) -> None:
    settings = _commands(tmp_path, command_time=60)
    clock = HandClock()
    with playing(settings, tmp_path / "r", {Kind.RUN: Command(settings)}, clock=clock) as played:
        result = await played.reactor.handle(request(Kind.RUN))
        assert (result.outcome, result.record_type) == (Outcome.DONE, 2210)
    with playing(settings, tmp_path / "r", {Kind.RUN: Command(settings)}, clock=clock) as played:
        await played.reactor.reconcile()
        assert played.told == []
        clock.ahead = 61
        await played.reactor.reconcile()
        assert [told.outcome for told in played.told] == [Outcome.UNDONE]
    given = json.loads((tmp_path / "undid").read_bytes())
    assert (given["undo"], given["act"], "event" in given) == (True, 1, False)


async def test_a_command_that_was_begun_is_undone(tmp_path: Path) -> None:
    settings = _commands(tmp_path, command_time=60)
    with playing(settings, tmp_path / "r", {Kind.RUN: Command(settings)}) as played:
        played.reactor.decide(request(Kind.RUN))
    with playing(settings, tmp_path / "r", {Kind.RUN: Command(settings)}) as played:
        await played.reactor.reconcile()
        assert [(told.outcome, told.reason) for told in played.told] == [(Outcome.UNDONE, "interrupted")]
    assert (tmp_path / "undid").exists()
    assert not (tmp_path / "did").exists()


async def test_a_command_that_fails_is_taken_back(tmp_path: Path) -> None:
    settings = attrs.evolve(_commands(tmp_path, command_time=60), command=("/bin/false",))
    with playing(settings, tmp_path / "r", {Kind.RUN: Command(settings)}) as played:
        result = await played.reactor.handle(request(Kind.RUN))
    assert (result.outcome, "exit status 1" in result.text) == (Outcome.FAILED, True)
    assert (tmp_path / "undid").exists()
    assert [entry.get("step") for entry in entries(tmp_path / "r")][1:] == ["failed"]


class Server(ThreadingHTTPServer):
    """What it was sent; answers by path."""

    daemon_threads = True
    got: list[tuple[str, dict[str, str], bytes]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that did not like our certificate


class Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Server)
        self.server.got.append((self.path, dict(self.headers), data))
        if self.path == "/hang":
            time.sleep(3)
        self.send_response({"/ok": 204, "/moved": 307, "/broken": 500}.get(self.path, 200))
        self.send_header("Location", "/ok")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("ca")
    for above in (folder, folder.parent, folder.parent.parent):
        above.chmod(0o755)  # whoever the webhook runs as must read it
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "ca.pem", certificate / "key.pem")
    made = Server(("127.0.0.1", 0), Page)
    made.got = []
    made.socket = context.wrap_socket(made.socket, server_side=True)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


async def _hooked(tmp_path: Path, server: Server, path: str, ca: Path | None, **given: Any) -> Any:
    url = f"https://{given.pop('host', 'localhost')}:{server.server_address[1]}{path}"
    settings = conf(webhook=url, webhook_ca=str(ca / "ca.pem") if ca else None, webhook_user="root", **given)
    with playing(settings, tmp_path / "r", {Kind.NOTIFY: Notify(settings)}) as played:
        return await played.reactor.handle(request(Kind.NOTIFY, **EVIL))


async def test_a_webhook_gets_the_event_in_its_body_alone(tmp_path: Path, server: Server, certificate: Path) -> None:
    result = await _hooked(tmp_path, server, "/ok", certificate)
    assert result.outcome is Outcome.DONE, result.text
    path, headers, data = server.got[0]
    assert path == "/ok"
    assert set(headers) == {"Host", "Accept-Encoding", "Content-Length", "Content-Type", "User-Agent"}
    assert json.loads(data)["rule"] == EVIL["rule"]


@pytest.mark.parametrize(
    ("path", "with_ca", "host", "why"),
    [
        ("/moved", True, "localhost", "leads elsewhere"),
        ("/broken", True, "localhost", "answered 500"),
        ("/ok", False, "localhost", "CERTIFICATE_VERIFY_FAILED"),
        ("/ok", True, "127.0.0.1", "IP address mismatch"),
    ],
)
async def test_a_webhook_that_fails(
    tmp_path: Path, server: Server, certificate: Path, path: str, with_ca: bool, host: str, why: str
) -> None:
    result = await _hooked(tmp_path, server, path, certificate if with_ca else None, host=host)
    assert (result.outcome, why in result.text) == (Outcome.FAILED, True), result.text
    assert [each[0] for each in server.got] == ([path] if "answered" in why or "elsewhere" in why else [])


async def test_a_webhook_that_hangs_ends_at_the_deadline(tmp_path: Path, server: Server, certificate: Path) -> None:
    result = await _hooked(tmp_path, server, "/hang", certificate, deadline=1.0)
    assert (result.outcome, "killed after 1 s" in result.text) == (Outcome.FAILED, True)


@needs("root")
async def test_a_webhook_has_no_privileges(tmp_path: Path) -> None:
    python = program(tmp_path / "python", f"id >{tmp_path}/out/id; cat >{tmp_path}/out/in")
    (tmp_path / "out").mkdir(mode=0o777)
    (tmp_path / "out").chmod(0o777)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o755)
    settings = conf(webhook="https://example.org/", webhook_user="nobody")
    with playing(settings, tmp_path / "r", {Kind.NOTIFY: Notify(settings, python=python)}) as played:
        result = await played.reactor.handle(request(Kind.NOTIFY))
    assert result.outcome is Outcome.DONE, result.text
    assert (
        (tmp_path / "out" / "id").read_text().startswith("uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)")
    )
