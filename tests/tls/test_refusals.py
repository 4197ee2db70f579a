"""Who is refused, in which words, with which bytes; and peers that mean no good, at either end."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trio

from audisp.parse.psk import Key
from audisp.tls.context import ClientContext, ServerContext, _use_session
from audisp.tls.failures import RemoteTLSError, TLSError
from audisp.tls.keyring import KeyFiles, KeyRing
from audisp.tls.openssl import OpenSSL
from audisp.tls.stream import TLSStream
from tests.needs import needs
from tests.tls.ends import KEY, OTHER, WEB1, client, ends, library, server, shake, sockets
from tests.tls.files import put_acl, put_key

__all__ = ["library"]

HTTP: Final = b"GET / HTTP/1.1\r\nHost: collector\r\n\r\n"


def pretender(identity: bytes, key: Key, library: OpenSSL) -> ClientContext:
    """A client that offers any bytes as its identity."""
    context = client(key=key, library=library)
    callback = _use_session(context.library, context._cipher, identity, key, context.attempts)
    context._callbacks.append(callback)
    context.library.ctx_set_use_session(context._pointer, callback)
    return context


async def overheard(local: ClientContext, remote: ServerContext) -> tuple[bytes, list[TLSError | None]]:
    """What the server sends in a handshake, and what each end says of it."""
    (one, near), (far, two) = sockets(), sockets()
    sent = bytearray()

    async def pass_on(source: trio.SocketStream, sink: trio.SocketStream, into: bytearray) -> None:
        async for data in source:
            into += data
            await sink.send_all(data)
        await sink.send_eof()

    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, near, far, bytearray())
        nursery.start_soon(pass_on, far, near, sent)
        errors = await shake(TLSStream(one, local), TLSStream(two, remote))
    return bytes(sent), errors


async def test_whoever_is_refused_gets_the_same_bytes(library: OpenSSL, tmp_path: Path) -> None:
    master = Key(b"m" * 32)
    put_key(tmp_path / "master", master, None)
    put_key(tmp_path / "key", KEY)
    acl = put_acl(tmp_path / "acl", "*.dmz enabled match=suffix", "off.dmz disabled", f"own enabled key={tmp_path}/key")
    context = ServerContext(KeyRing(KeyFiles(acl, master=tmp_path / "master")).lookup, library=library)
    found: dict[str, bytes] = {}
    words: set[str] = set()
    for identity, key, reason in (
        (b"own", OTHER, "wrong-key"),
        (b"web1.dmz", OTHER, "wrong-key"),
        (b"web1.lan", OTHER, "unknown-identity"),
        (b"web1.lan", KEY, "unknown-identity"),
        (b"off.dmz", OTHER, "disabled-identity"),
        (b"web1.dmz#1", OTHER, "epoch-not-live"),
        (b"a b", OTHER, "invalid-identity"),
        (b"\0" * 20_000, OTHER, "invalid-identity"),
    ):
        answer, (near, far) = await overheard(pretender(identity, key, library), context)
        assert near is not None
        assert far is not None
        assert (near.reason, far.reason) == ("refused", reason)
        found[f"{identity[:20]!r} {reason}"] = answer
        words.add(str(near))
    found["no key"] = await _without_key(context)
    # One fatal alert in clear, the same for all, and the client learns nothing more either.
    assert len(set(found.values())) == 1, found
    (sent,) = set(found.values())
    assert sent[:5] == b"\x15\x03\x03\x00\x02"
    assert len(words) == 1


async def _without_key(context: ServerContext, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What the server answers to a client that offers no identity at all."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = plain_context(ssl.PROTOCOL_TLS_CLIENT, newest=newest).wrap_bio(into, out)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    (near, far), got = sockets(), bytearray()
    async with TLSStream(near, context) as stream, far:
        await far.send_all(out.read())
        with pytest.raises(RemoteTLSError) as caught:
            await stream.handshake(20)
        await stream.aclose()
        async for data in far:
            got += data
    assert caught.value.reason == ("no-psk-identity" if newest is ssl.TLSVersion.TLSv1_3 else "tls-version")
    return bytes(got)


async def test_who_knows_no_tls_1_3_is_told_so_whatever_keys_there_are(library: OpenSSL) -> None:
    books: list[dict[bytes, Key | str]] = [{WEB1: KEY}, {WEB1: OTHER, b"off": "disabled-identity"}, {}]
    answers = {await _without_key(server(keys, library=library), ssl.TLSVersion.TLSv1_2) for keys in books}
    assert answers == {b"\x15\x03\x03\x00\x02\x02\x46"}


async def test_our_log_tells_them_apart(library: OpenSSL) -> None:
    context = server({WEB1: KEY, b"off": "disabled-identity"}, library=library)
    messages = []
    for identity, key in ((WEB1, OTHER), (b"off", OTHER), (b"x\x1b[2J", OTHER), (b"i" * 300, OTHER)):
        _, far = await shake(*ends(pretender(identity, key, library), context))
        messages.append(str(far))
    assert messages == [
        "'web1.dmz.example.com' is known, and the client's key for it is wrong",
        "'off' is refused: disabled-identity",
        "'x\\x1b[2J' is refused: unknown-identity",
        f"'{'i' * 254}…' is refused: unknown-identity",
    ]


async def test_an_error_inside_libssl_is_no_alert(library: OpenSSL) -> None:
    """It sends no empty identity, and says so by an error whose number is larger than those of alerts."""
    near, _ = await shake(*ends(pretender(b"", KEY, library), server(library=library)))
    assert near is not None
    assert near.reason == "handshake-error"
    assert "internal error" in str(near)


async def test_a_lookup_never_gets_more_than_it_must(library: OpenSSL) -> None:
    seen: list[int] = []

    def lookup(identity: bytes) -> object:
        seen.append(len(identity))
        return None

    context = ServerContext(lookup, library=library)  # type: ignore[arg-type]
    one, two = ends(pretender(b"i" * 60_000, KEY, library), context)
    async with one, two:
        with pytest.RaisesGroup(AttributeError):
            await shake(one, two)
    assert seen == [256]


def plain_context(purpose: int, folder: Path | None = None, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Python's own TLS: with a certificate if it is a server's, and nothing to prove otherwise."""
    context = ssl.SSLContext(purpose)
    if folder is not None:
        context.load_cert_chain(folder / "cert", folder / "key")
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if newest is not None:
        context.maximum_version = newest
    return context


@pytest.fixture(scope="module")
def certificate() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="audisp-cert-"))
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-subj", "/CN=collector", "-days", "1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(words, check=True, capture_output=True)
    return folder


async def against(context: ClientContext | ServerContext, peer: Callable[[socket.socket], None]) -> TLSError:
    """The error of our end when its peer, a function in a thread, does what it does."""
    one, two = socket.socketpair()
    two.settimeout(20)
    stream = TLSStream(trio.SocketStream(trio.socket.from_stdlib_socket(one)), context)

    def run() -> None:
        with two:
            try:
                peer(two)
            except (OSError, ssl.SSLError):
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, run)
        async with stream:
            with pytest.raises(TLSError) as caught:
                await stream.handshake(20)
    return caught.value


def say(data: bytes) -> Callable[[socket.socket], None]:
    """Says it, reads whatever comes, and waits for the other end to close."""

    def peer(sock: socket.socket) -> None:
        sock.sendall(data)
        while sock.recv(65_536):
            pass

    return peer


def say_and_leave(data: bytes) -> Callable[[socket.socket], None]:
    def peer(sock: socket.socket) -> None:
        sock.sendall(data)

    return peer


async def client_hello() -> bytes:
    """The first flight of an honest client."""
    one, two = sockets()
    stream = TLSStream(one, client())
    async with stream, two, trio.open_nursery() as nursery:
        nursery.start_soon(_expect_cut_off, stream)
        hello = await two.receive_some(65_536)
        await two.send_eof()
    return bytes(hello)


async def _expect_cut_off(stream: TLSStream) -> None:
    with pytest.raises(RemoteTLSError):
        await stream.do_handshake()


@needs("openssl")
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
async def test_a_client_without_a_key(newest: ssl.TLSVersion) -> None:
    def peer(sock: socket.socket) -> None:
        plain_context(ssl.PROTOCOL_TLS_CLIENT, newest=newest).wrap_socket(sock)

    error = await against(server(), peer)
    if newest is ssl.TLSVersion.TLSv1_3:
        assert error.reason == "no-psk-identity"
        assert "the client has offered no identity" in str(error)
    else:
        assert error.reason == "tls-version"


@needs("openssl")
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
async def test_a_server_with_a_certificate_and_no_key(certificate: Path, newest: ssl.TLSVersion) -> None:
    seen: list[bytes] = []

    def peer(sock: socket.socket) -> None:
        with plain_context(ssl.PROTOCOL_TLS_SERVER, certificate, newest).wrap_socket(sock, server_side=True) as tls:
            seen.append(tls.recv(100))

    error = await against(client(), peer)
    if newest is ssl.TLSVersion.TLSv1_3:
        assert error.reason == "no-psk-identity"
        assert str(error) == "the server has shown a certificate instead of proving the key"
    else:
        assert error.reason in ("alert", "tls-version")
    assert seen == []


NOISE: Final = random.Random(5).randbytes(4_096)
HUGE: Final = b"\x16\x03\x01\xff\xff" + bytes(65_535)
LONG_HELLO: Final = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03" + bytes(16_378)
APPLICATION_DATA: Final = b"\x17\x03\x03\x00\x20" + bytes(32)
ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x28"
EMPTY: Final = b"\x16\x03\x03\x00\x00" * 100

NONSENSE: Final = {
    "http": HTTP,
    "http answer": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "noise": NOISE,
    "zeros": bytes(1 << 20),
    "RMW header": (0xFF0000FE).to_bytes(4, "big") + bytes(12),
    "huge record": HUGE,
    "handshake message of 16 MiB": LONG_HELLO * 40,
    "application data first": APPLICATION_DATA,
    "alert": ALERT,
    "empty records": EMPTY,
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("make", [client, server])
async def test_nonsense(name: str, make: Callable[[], ClientContext | ServerContext]) -> None:
    error = await against(make(), say(NONSENSE[name]))
    assert isinstance(error, RemoteTLSError)
    assert error.reason in ("not-tls", "handshake-error", "no-psk-identity", "alert", "refused", "tls-version")
    assert "\n" not in str(error)
    assert len(str(error)) < 300


async def test_plain_text_is_named_as_such() -> None:
    assert (await against(server(), say(HTTP))).reason == "not-tls"
    assert (await against(client(), say(NONSENSE["http answer"]))).reason == "not-tls"


@pytest.mark.parametrize("make", [client, server])
async def test_who_connects_and_leaves(make: Callable[[], ClientContext | ServerContext]) -> None:
    error = await against(make(), say_and_leave(b""))
    assert error.reason in ("cut-off", "connection-lost")


async def test_a_handshake_that_breaks_off_anywhere() -> None:
    hello = await client_hello()
    context = server()
    for end in (*range(0, len(hello), 7), len(hello)):
        error = await against(context, say_and_leave(hello[:end]))
        assert error.reason in ("cut-off", "connection-lost"), end


async def test_a_hello_that_comes_again() -> None:
    """A recorded hello proves nothing: the keys of the connection need the client's own share."""
    hello = await client_hello()
    error = await against(server(), say(hello + hello))
    assert error.reason == "handshake-error"
    error = await against(server(), say_and_leave(hello))
    assert error.reason in ("cut-off", "connection-lost")


async def test_a_peer_that_turns_bad_after_the_handshake(library: OpenSSL) -> None:
    for data in (NOISE, HUGE, HTTP, ALERT, APPLICATION_DATA):
        one, two = ends(client(library=library), server(library=library))
        assert await shake(one, two) == [None, None]
        async with one, two:
            await two.transport.send_all(data)
            with pytest.raises(RemoteTLSError) as caught:
                await one.receive_some()
            assert caught.value.reason in ("tls-error", "alert")
            with pytest.raises(RemoteTLSError):
                await one.send_all(b"x")


async def test_each_peer_is_its_own_affair() -> None:
    """Bad connections on one context, and good ones between them."""
    context = server()
    for data in NONSENSE.values():
        await against(context, say_and_leave(data))
        assert await good(context)
    assert len(context.attempts) <= 2


async def good(context: ServerContext) -> bool:
    one, two = ends(client(), context)
    async with one, two:
        return await shake(one, two) == [None, None]
