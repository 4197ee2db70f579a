"""Both ends of a TLS connection, in this process, on a socket pair or over TCP."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from typing import Final

import attrs
import pytest
import trio

from audisp.parse.psk import Key
from audisp.tls.context import ClientContext, ServerContext
from audisp.tls.failures import TLSError
from audisp.tls.openssl import LIBSSL, OpenSSL, load
from audisp.tls.settings import CryptoSettings
from audisp.tls.stream import TLSStream

WEB1: Final = b"web1.dmz.example.com"
KEY: Final = Key(bytes(range(32)))
OTHER: Final = Key(bytes(range(1, 33)))
SECONDS: Final = 20.0
"""For a handshake; a defect, not slowness, takes so long."""


@attrs.frozen
class Known:
    """What a lookup answers."""

    host: bytes
    key: Key | None
    reason: str = ""


@attrs.frozen
class Book:
    """A lookup in a dict: identities with a key are known, with a str refused for that reason, all others unknown."""

    keys: Mapping[bytes, Key | str] = attrs.field(factory=lambda: {WEB1: KEY})

    def __call__(self, identity: bytes) -> Known:
        found = self.keys.get(identity, "unknown-identity")
        return Known(identity, None, found) if isinstance(found, str) else Known(identity, found)


def newer_libssl() -> str | None:
    """A libssl of 3.5 or newer, with ML-KEM: the system's, or the one that the wheel of psycopg-binary brings along."""
    if _has_ml_kem(LIBSSL):
        return LIBSSL
    try:
        names = [str(each.locate()) for each in files("psycopg-binary") or () if each.name.startswith("libssl")]
    except PackageNotFoundError:
        return None
    return next((name for name in names if _has_ml_kem(name)), None)


def _has_ml_kem(name: str) -> bool:
    version = load(name).version.split()[1].split(".")
    return (int(version[0]), int(version[1])) >= (3, 5)


LIBRARIES: Final = {name: load(name) for name in (LIBSSL, newer_libssl()) if name is not None}
"""Every libssl that there is to test with, by name."""


@pytest.fixture(params=LIBRARIES.values(), ids=lambda library: "-".join(library.version.split()[:2]))
def library(request: pytest.FixtureRequest) -> OpenSSL:
    found: OpenSSL = request.param
    return found


def client(
    identity: bytes = WEB1,
    key: Key = KEY,
    alpn: tuple[bytes, ...] = (),
    settings: CryptoSettings | None = None,
    library: OpenSSL | None = None,
) -> ClientContext:
    return ClientContext(identity, key, alpn=alpn, settings=settings, library=library)


def server(
    keys: Mapping[bytes, Key | str] | None = None,
    alpn: tuple[bytes, ...] = (),
    settings: CryptoSettings | None = None,
    library: OpenSSL | None = None,
) -> ServerContext:
    book = Book() if keys is None else Book(keys)
    return ServerContext(book, alpn=alpn, settings=settings, library=library)


def sockets(buffer: int = 0) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two joined sockets; with small buffers if asked for."""
    pair = socket.socketpair()
    for each in pair:
        if buffer:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    one, two = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in pair)
    return one, two


async def tcp() -> tuple[trio.SocketStream, trio.SocketStream]:
    """The same over TCP."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    one = await trio.open_tcp_stream("127.0.0.1", port)
    two = await listener.accept()
    await listener.aclose()
    return one, two


def ends(client: ClientContext, server: ServerContext, buffer: int = 0) -> tuple[TLSStream, TLSStream]:
    """Client's and server's stream, before the handshake."""
    one, two = sockets(buffer)
    return TLSStream(one, client), TLSStream(two, server)


async def shake(*streams: TLSStream) -> list[TLSError | None]:
    """Do the handshake of each; what went wrong with it. Who has an error closes, and in the end all, if one has."""
    found: list[TLSError | None] = [None] * len(streams)

    async def one(at: int) -> None:
        try:
            await streams[at].handshake(SECONDS)
        except TLSError as error:
            found[at] = error
            await streams[at].aclose()

    async with trio.open_nursery() as nursery:
        for at in range(len(streams)):
            nursery.start_soon(one, at)
    if found != [None] * len(streams):
        for stream in streams:
            await stream.aclose()
    return found


async def connected(
    client_context: ClientContext | None = None, server_context: ServerContext | None = None, buffer: int = 0
) -> tuple[TLSStream, TLSStream]:
    """Client and server after the handshake."""
    streams = ends(client_context or client(), server_context or server(), buffer)
    assert await shake(*streams) == [None, None]
    return streams


def reset(stream: trio.SocketStream) -> None:
    """Make closing it send a TCP reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def rss_kib() -> int:
    """Of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
