"""Other people's TLS, at either end: openssl s_client and s_server, gnutls-cli and gnutls-serv, stunnel.

Ports are found free, and a server is known to listen from /proc, because a connection to find out would be the one that
`s_server -naccept 1` serves.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from audisp.tls.context import ServerContext
from audisp.tls.failures import RemoteTLSError, TLSError
from audisp.tls.settings import CryptoSettings, Profile
from audisp.tls.stream import TLSStream
from tests.needs import needs
from tests.tls.ends import KEY, OTHER, SECONDS, WEB1, Book, client, server

HEX: Final = KEY.reveal().hex()
WRONG: Final = OTHER.reveal().hex()
NAME: Final = WEB1.decode()
GNUTLS: Final = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
LINES: Final = "".join(
    f'type=CWD msg=audit(1700000000.123:{number}): cwd="/{"x" * random.Random(number).randrange(200)}"\n'
    for number in range(2_000)
).encode()
"""Text, because s_client and gnutls-cli read lines; 250 KiB, so that it takes many records and both directions fill."""
NOT_A_COMMAND: Final = b"."
"""s_client takes a line that begins with Q, R, K, k, B or P for a command, unless it is -quiet."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[1].endswith(wanted) and words[3] == "0A":
                return True
    return False


@asynccontextmanager
async def running(*words: str | Path, port: int | None = None, silent: bool = False) -> AsyncIterator[trio.Process]:
    """A program with its input and output piped; with a port, once it listens there. Killed in the end.

    silent: nobody reads what it says, so it is thrown away; in a pipe it would fill up and stop the program.
    """
    env = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin"}
    out = subprocess.DEVNULL if silent else subprocess.PIPE
    process = await trio.lowlevel.open_process(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=env
    )
    try:
        with trio.fail_after(SECONDS):
            while port is not None and not _listens(port):
                assert process.poll() is None
                await trio.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        await process.wait()
        for each in (process.stdin, process.stdout):
            if each is not None:
                await each.aclose()


async def until(source: trio.abc.ReceiveStream, wanted: bytes) -> bytes:
    """What comes, up to and with `wanted`."""
    got = bytearray()
    with trio.fail_after(SECONDS):
        while wanted not in got[-len(wanted) - 70_000 :]:
            data = await source.receive_some()
            assert data, f"ended after {bytes(got[-2_000:])!r}"
            got += data
    return bytes(got)


@asynccontextmanager
async def listening(
    context: ServerContext,
) -> AsyncIterator[tuple[int, trio.MemoryReceiveChannel[TLSStream | TLSError]]]:
    """Our server on a port, and what became of each connection to it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    send, receive = trio.open_memory_channel[TLSStream | TLSError](10)

    async def accept() -> None:
        while True:
            stream = TLSStream(await listener.accept(), context)
            try:
                await stream.handshake(SECONDS)
            except TLSError as error:
                await stream.aclose()
                await send.send(error)
            else:
                await send.send(stream)

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        yield listener.socket.getsockname()[1], receive
        nursery.cancel_scope.cancel()


async def _next(outcomes: trio.MemoryReceiveChannel[TLSStream | TLSError]) -> TLSStream:
    with trio.fail_after(SECONDS):
        found = await outcomes.receive()
    assert isinstance(found, TLSStream), found
    return found


async def both_ways(stream: TLSStream, process: trio.Process) -> None:
    """LINES from us to the program and from it to us, at the same time, compared."""
    assert process.stdin is not None
    assert process.stdout is not None
    got: dict[str, bytes] = {}

    async def take(name: str, source: trio.abc.ReceiveStream) -> None:
        got[name] = await until(source, b"THE END\n")

    with trio.fail_after(SECONDS * 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, "ours", stream)
            nursery.start_soon(take, "theirs", process.stdout)
            nursery.start_soon(stream.send_all, LINES + b"THE END\n")
            nursery.start_soon(process.stdin.send_all, LINES + b"THE END\n")
    assert got["ours"] == LINES + b"THE END\n"
    assert got["theirs"].endswith(LINES + b"THE END\n")


@asynccontextmanager
async def dial(port: int, settings: CryptoSettings | None = None) -> AsyncIterator[TLSStream]:
    """Our client, after the handshake."""
    stream = TLSStream(await trio.open_tcp_stream("127.0.0.1", port), client(settings=settings))
    async with stream:
        await stream.handshake(SECONDS)
        yield stream


async def refused(port: int, identity: bytes = WEB1, wrong: bool = True) -> RemoteTLSError:
    """The error of our client with a wrong key."""
    context = client(identity, OTHER if wrong else KEY)
    async with TLSStream(await trio.open_tcp_stream("127.0.0.1", port), context) as stream:
        with pytest.raises(RemoteTLSError) as caught:
            await stream.handshake(SECONDS)
    return caught.value


def s_server(port: int, *more: str) -> list[str]:
    address = ["-accept", f"127.0.0.1:{port}"]
    return ["openssl", "s_server", *address, "-tls1_3", "-nocert", "-psk", HEX, "-psk_identity", NAME, *more]


def s_client(port: int, key: str = HEX, name: str = NAME, *more: str) -> list[str]:
    return ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-psk", key, "-psk_identity", name, *more]


@needs("openssl")
@pytest.mark.parametrize("more", [(), ("-num_tickets", "0"), ("-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")])
async def test_s_server(more: tuple[str, ...]) -> None:
    port = free_port()
    async with running(*s_server(port, "-quiet", *more), port=port) as process, dial(port) as stream:
        await both_ways(stream, process)
        wanted = "TLS_CHACHA20_POLY1305_SHA256" if "-ciphersuites" in more else "TLS_AES_128_GCM_SHA256"
        assert (stream.session.cipher, stream.session.group) == (wanted, "x25519")


@needs("openssl")
async def test_s_server_chooses_our_protocol() -> None:
    port = free_port()
    async with running(*s_server(port, "-quiet", "-alpn", "audisp/1"), port=port):
        context = client(alpn=(b"audisp/1",))
        async with TLSStream(await trio.open_tcp_stream("127.0.0.1", port), context) as stream:
            await stream.handshake(SECONDS)
            assert stream.session.alpn == b"audisp/1"


@needs("openssl")
@pytest.mark.parametrize("profile", [Profile.COMPATIBLE, Profile.SYSTEM])
async def test_s_server_with_the_clients_order(profile: Profile) -> None:
    """As audit-userspace's server: the client's first suite is chosen before the key is looked at (upstream.md 6.1)."""
    port = free_port()
    settings = CryptoSettings(profile)
    async with running(*s_server(port, "-quiet"), port=port) as process, dial(port, settings) as stream:
        await both_ways(stream, process)


@needs("openssl")
async def test_s_server_that_does_not_know_us() -> None:
    port = free_port()
    async with running(*s_server(port, "-quiet"), port=port):
        for identity, wrong in ((WEB1, True), (b"web2", False)):
            assert (await refused(port, identity, wrong)).reason in ("refused", "alert")


@needs("openssl")
async def test_s_server_without_tls_1_3() -> None:
    port = free_port()
    words = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2", "-nocert", "-psk", HEX, "-quiet"]
    async with running(*words, port=port):
        assert (await refused(port, wrong=False)).reason == "alert"


@needs("openssl")
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-tls1_3",),
        ("-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"),
        ("-groups", "P-384:X25519"),
        ("-groups", "P-256:X25519", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-alpn", "h2,audisp/1"),
    ],
)
async def test_s_client(more: tuple[str, ...]) -> None:
    async with (
        listening(server(alpn=(b"audisp/1",))) as (port, outcomes),
        running(*s_client(port, HEX, NAME, "-quiet", *more)) as process,
        await _next(outcomes) as stream,
    ):
        assert (stream.session.identity, stream.session.group) == (WEB1, "x25519")
        assert stream.session.alpn == (b"audisp/1" if "-alpn" in more else None)
        await both_ways(stream, process)


async def _reason(outcomes: trio.MemoryReceiveChannel[TLSStream | TLSError], *words: str | Path) -> str:
    """Why our server refused this program, which has to notice that it was refused."""
    async with running(*words, silent=True) as process:
        with trio.fail_after(SECONDS):
            found = await outcomes.receive()
            await process.wait()
        assert isinstance(found, RemoteTLSError)
        assert process.returncode != 0
    return found.reason


@needs("openssl")
@pytest.mark.parametrize(
    ("key", "name", "more", "reason"),
    [
        (WRONG, NAME, (), "wrong-key"),
        (HEX, "web2", (), "unknown-identity"),
        (HEX, "off", (), "disabled-identity"),
        (HEX, NAME, ("-tls1_2",), "tls-version"),
        (HEX, NAME, ("-ciphersuites", "TLS_AES_256_GCM_SHA384"), "handshake-error"),
        (HEX, NAME, ("-groups", "P-521"), "handshake-error"),
    ],
)
async def test_s_client_that_is_refused(key: str, name: str, more: tuple[str, ...], reason: str) -> None:
    book = Book({WEB1: KEY, b"off": "disabled-identity"})
    async with listening(ServerContext(book)) as (port, outcomes):
        assert await _reason(outcomes, *s_client(port, key, name, *more)) == reason


@needs("openssl")
async def test_s_client_without_a_key_is_refused() -> None:
    async with listening(server()) as (port, outcomes):
        words = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}")
        assert await _reason(outcomes, *words) == "no-psk-identity"


@needs("openssl")
async def test_s_client_gets_no_ticket_and_sees_nothing_of_a_certificate() -> None:
    async with listening(server()) as (port, outcomes), running(*s_client(port, HEX, NAME, "-msg")) as process:
        async with await _next(outcomes) as stream:
            await stream.send_all(b"GOOD BYE\n")
            await stream.send_eof()
            assert process.stdout is not None
            said = await until(process.stdout, b"GOOD BYE\n")
        assert b"ServerHello" in said
        assert b"NewSessionTicket" not in said
        assert b"\n<<< TLS 1.3, Handshake [length 0008], Certificate" not in said
        assert b"Reused, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256" in said
        assert b"Early data was not sent" in said


@needs("openssl")
async def test_keys_are_exchanged_anew_when_the_peer_asks() -> None:
    """KeyUpdate, once with the wish that we do so as well: answered in the middle of a receive."""
    async with listening(server()) as (port, outcomes), running(*s_client(port)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        async with await _next(outcomes) as stream:
            for number, command in enumerate((b"K", b"k", b"K")):
                await process.stdin.send_all(command + b"\n")
                await until(process.stdout, b"KEYUPDATE\n")
                await process.stdin.send_all(NOT_A_COMMAND + b"%d\n" % number)
                assert await until(stream, b"\n") == b".%d\n" % number
                await stream.send_all(b"answer %d\n" % number)
                await until(process.stdout, b"answer %d\n" % number)


def _psk_file(folder: Path) -> Path:
    path = folder / "psk"
    path.write_text(f"{NAME}:{HEX}\n")
    path.chmod(0o600)
    return path


@needs("gnutls")
async def test_gnutls_serv(tmp_path: Path) -> None:
    port = free_port()
    words = ["gnutls-serv", "-p", str(port), "--pskpasswd", str(_psk_file(tmp_path)), "--priority", GNUTLS]
    words += ["--echo", "--quiet"]
    async with running(*words, port=port, silent=True):
        async with dial(port) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, LINES + b"THE END\n")
            assert await until(stream, b"THE END\n") == LINES + b"THE END\n"
        assert (await refused(port)).reason in ("refused", "alert")
        assert (await refused(port, b"web2", wrong=False)).reason in ("refused", "alert")


def gnutls_cli(port: int, key: str = HEX, name: str = NAME, priority: str = GNUTLS) -> list[str]:
    words = ["gnutls-cli", "127.0.0.1", "-p", str(port), "--pskusername", name, "--pskkey", key]
    return [*words, "--priority", priority, "--no-ca-verification"]


@needs("gnutls")
async def test_gnutls_cli() -> None:
    async with (
        listening(server()) as (port, outcomes),
        running(*gnutls_cli(port)) as process,
        await _next(outcomes) as stream,
    ):
        assert (stream.session.identity, stream.session.version) == (WEB1, "TLSv1.3")
        await both_ways(stream, process)


@needs("gnutls")
@pytest.mark.parametrize(
    ("key", "name", "priority", "reasons"),
    [
        (WRONG, NAME, GNUTLS, {"wrong-key"}),
        (HEX, "web2", GNUTLS, {"unknown-identity"}),
        # Key exchange by the PSK alone has no forward secrecy.
        (HEX, NAME, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+PSK:-GROUP-ALL", {"no-psk-identity", "handshake-error"}),
    ],
)
async def test_gnutls_cli_that_is_refused(key: str, name: str, priority: str, reasons: set[str]) -> None:
    async with listening(server()) as (port, outcomes):
        assert await _reason(outcomes, *gnutls_cli(port, key, name, priority)) in reasons


def _stunnel(folder: Path, accept: int, connect: int, secrets: Path, *, is_client: bool) -> Path:
    path = folder / "stunnel.conf"
    path.write_text(
        textwrap.dedent(
            f"""\
            foreground = yes
            pid =
            debug = err
            [psk]
            client = {"yes" if is_client else "no"}
            accept = 127.0.0.1:{accept}
            connect = 127.0.0.1:{connect}
            PSKsecrets = {secrets}
            ciphers = PSK
            sslVersionMin = TLSv1.3
            """
        )
    )
    return path


@needs("stunnel")
async def test_stunnel_as_the_server(tmp_path: Path) -> None:
    port = free_port()

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
        (behind,) = await nursery.start(serve)
        conf = _stunnel(tmp_path, port, behind.socket.getsockname()[1], _psk_file(tmp_path), is_client=False)
        async with running("stunnel", conf, port=port):
            async with dial(port) as stream, trio.open_nursery() as inner:
                inner.start_soon(stream.send_all, LINES + b"THE END\n")
                assert await until(stream, b"THE END\n") == LINES + b"THE END\n"
            assert (await refused(port)).reason in ("refused", "alert")
        nursery.cancel_scope.cancel()


@needs("stunnel")
async def test_stunnel_as_the_client(tmp_path: Path) -> None:
    port = free_port()
    async with listening(server()) as (ours, outcomes):
        conf = _stunnel(tmp_path, port, ours, _psk_file(tmp_path), is_client=True)
        async with running("stunnel", conf, port=port):
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            async with plain, await _next(outcomes) as stream, trio.open_nursery() as nursery:
                assert stream.session.identity == WEB1
                nursery.start_soon(plain.send_all, LINES + b"THE END\n")
                assert await until(stream, b"THE END\n") == LINES + b"THE END\n"
                nursery.start_soon(stream.send_all, LINES + b"THE END\n")
                assert await until(plain, b"THE END\n") == LINES + b"THE END\n"


@needs("stunnel")
async def test_stunnel_as_a_client_with_a_wrong_key(tmp_path: Path) -> None:
    port = free_port()
    async with listening(server({WEB1: OTHER})) as (ours, outcomes):
        conf = _stunnel(tmp_path, port, ours, _psk_file(tmp_path), is_client=True)
        async with running("stunnel", conf, port=port), await trio.open_tcp_stream("127.0.0.1", port):
            with trio.fail_after(SECONDS):
                found = await outcomes.receive()
            assert isinstance(found, RemoteTLSError)
            assert found.reason == "wrong-key"
