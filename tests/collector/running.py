"""A collector in this process, on loopback, and senders to it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.collector.admission import Admission
from audisp.collector.committer import Committer
from audisp.collector.flight import Flight
from audisp.collector.hosts import Hosts
from audisp.collector.listener import Listener, bind, context, key_ring
from audisp.collector.reading import Reader
from audisp.collector.retention import Policy
from audisp.collector.services import Services
from audisp.collector.store import Store
from audisp.config.collector import ListenConf
from audisp.config.network import Endpoint
from audisp.errors import ProtocolError
from audisp.parse.psk import Key, derive
from audisp.record import Block
from audisp.tls.context import ClientContext
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN, Acknowledged, DataFrame, Sender, Troubled, Welcome
from audisp.wire.rmw import Frame, Type
from tests.tls.files import put_acl, put_key

MASTER: Final = Key(bytes(range(100, 132)))
PATIENCE: Final = 20.0
"""Seconds; only a defect takes so long."""
HOSTS: Final = ("web1 enabled", "web2 enabled", "off disabled", "*.slow enabled match=suffix")
SPOOL: Final = bytes(range(16))


@attrs.define(eq=False)
class Running:
    """said: level, message, limit of each line of the log. fed: what plugins would get."""

    folder: Path
    services: Services
    listener: Listener
    store: Store
    port: int
    said: list[tuple[str, str, str | None]]
    fed: list[tuple[str, Block]]
    accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def committer(self) -> Committer:
        return self.services.committer

    def records(self, host: str | None = None) -> list[bytes]:
        """What is stored."""
        with Reader(self.store.path, host=host, durable=self.store.durable) as reader:
            return [line for chunk in reader for line in chunk.block().lines()]

    def lines(self, word: str) -> list[str]:
        """Lines of the log with this in them."""
        return [message for _, message, _ in self.said if word in message]

    def full(self, is_full: bool) -> None:
        """Let the disk have no room, or enough."""
        self.store.bound(Policy(), 1 << 60 if is_full else 0, 1_000)

    async def stop(self) -> None:
        """As at SIGTERM."""
        self.accepting.cancel()
        self.committer.end()
        with trio.fail_after(PATIENCE):
            await self.committer.emptied()
            await self.committer.drained()


@contextlib.asynccontextmanager
async def running(folder: Path, *lines: str, **conf: Any) -> AsyncIterator[Running]:
    """A collector whose hosts are web1, web2 and those of `lines`; off is disabled. Keys are derived from MASTER."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - a test's own folder
    settings = ListenConf(
        **{
            "listen": (Endpoint("127.0.0.1", 0),),
            "tls_allowed_clients": put_acl(
                folder / "clients",
                "web1 enabled",
                "web2 enabled",
                "off disabled",
                "*.slow enabled match=suffix",
                *lines,
            ),
            "tls_psk_master": put_key(folder / "master.key", MASTER, None),
            **conf,
        }
    )
    said: list[tuple[str, str, str | None]] = []
    fed: list[tuple[str, Block]] = []

    def say(level: str, message: str, *, limit: str | None = None) -> None:
        said.append((level, message, limit))

    with Store(folder / "store", max_hosts=1_000) as store:
        flight = Flight(settings.max_bytes_in_flight, settings.max_bytes_in_flight_per_host)

        def feed(first: int, following: int, block: Block) -> None:
            if block.records:
                fed.append((block.source, block))

        committer = Committer(store, say, flight, feed)
        services = Services(settings, committer, flight, Hosts(100), say)
        ring = key_ring(settings)
        tls = None if ring is None else context(settings, ring)
        sockets = bind(settings)
        port = sockets[0].getsockname()[1]
        found = Running(folder, services, Listener(services, ring, tls, Admission(settings)), store, port, said, fed)
        async with trio.open_nursery() as nursery:
            await nursery.start(committer.run)

            async def accept() -> None:
                with found.accepting:
                    await found.listener.run(sockets, nursery)

            nursery.start_soon(accept)
            yield found
            nursery.cancel_scope.cancel()


async def until(what: Callable[[], object], message: str = "") -> None:
    """Until it is true."""
    with trio.move_on_after(PATIENCE):
        while not what():  # noqa: ASYNC110 - nothing tells
            await trio.sleep(0.005)
        return
    raise AssertionError(f"not within {PATIENCE:.0f} s: {message}")


def client_context(identity: str, *, key: Key | None = None, native: bool = True) -> ClientContext:
    """As that host has it."""
    name = identity.encode()
    return ClientContext(name, key or derive(MASTER, name, 0), alpn=(ALPN,) if native else ())


async def connect_plain(port: int) -> trio.SocketStream:
    """A TCP connection."""
    return await trio.open_tcp_stream("127.0.0.1", port)


async def connect(port: int, identity: str, *, key: Key | None = None, native: bool = True) -> TLSStream:
    """A TLS connection, proved."""
    stream = TLSStream(await connect_plain(port), client_context(identity, key=key, native=native))
    try:
        await stream.handshake(PATIENCE)
    except BaseException:
        await stream.aclose()
        raise
    return stream


class NativeClient:
    """One connection of a sender, whose spool is a list of frames that follow each other."""

    def __init__(self, stream: TLSStream, frames: list[DataFrame], spool: bytes = SPOOL) -> None:
        self.stream = stream
        self.frames = frames
        end = frames[-1].after.next if frames else 1
        first = frames[0].first if frames else end
        self.sender = Sender(trio.current_time(), spool=spool, first=first, following=end)
        self.welcome: Welcome | None = None
        self.acknowledged = 0
        self.troubles: list[Troubled] = []
        self.others: list[object] = []

    async def __aenter__(self) -> NativeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await self.stream.aclose()

    async def until(self, what: Callable[[], object]) -> None:
        """Talk until this is true, or the connection ends."""
        with trio.fail_after(PATIENCE):
            while not what() and not self.sender.over:
                await self._say()
                if what():
                    return
                with trio.move_on_after(0.05):
                    self.sender.feed(bytes(await self.stream.receive_some()), trio.current_time())
                while (event := self.sender.next()) is not None:
                    self._on(event)

    async def greet(self) -> NativeClient:
        """Until it is welcomed."""
        await self.until(lambda: self.welcome)
        return self

    async def send_all(self) -> None:
        """Until all is acknowledged."""
        last = self.frames[-1].after.next
        await self.until(lambda: self.acknowledged >= last)

    async def _say(self) -> None:
        if self.welcome is not None:
            at = self.sender.next_record
            for frame in self.frames:
                if frame.first == at and self.sender.fits(frame):
                    self.sender.send(frame)
                    at = self.sender.next_record
        data = self.sender.take()
        if data:
            await self.stream.send_all(data)

    def _on(self, event: object) -> None:
        if isinstance(event, Welcome):
            self.welcome = event
            place = event.position
            self.sender.resume(None, trio.current_time())
            if place is not None:
                self.acknowledged = place.next
        elif isinstance(event, Acknowledged):
            self.acknowledged = event.upto
        elif isinstance(event, Troubled):
            self.troubles.append(event)
        else:
            self.others.append(event)


class RmwClientOf:
    """One connection of a C program, which says exactly what a test wants."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._data = b""

    async def __aenter__(self) -> RmwClientOf:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await self.stream.aclose()

    async def say(self, *frames: Frame) -> None:
        """Send them."""
        await self.stream.send_all(b"".join(frame.encode() for frame in frames))

    async def hear(self) -> Frame | None:
        """The next answer; None: the connection has ended."""
        with trio.fail_after(PATIENCE):
            while len(self._data) < 16 or len(self._data) < 16 + int.from_bytes(self._data[10:12], "little"):
                data = bytes(await self.stream.receive_some(65_536))
                if not data:
                    return None
                self._data += data
        size = 16 + int.from_bytes(self._data[10:12], "little")
        raw, self._data = self._data[:size], self._data[size:]
        kind, sequence = int.from_bytes(raw[6:10], "little"), int.from_bytes(raw[12:16], "little")
        return Frame(Type(kind), sequence, raw[16:])

    async def send(self, sequence: int, record: bytes) -> Frame | None:
        """A record, and its answer."""
        await self.say(Frame(Type.MESSAGE, sequence, record))
        return await self.hear()


async def rejected(stream: trio.abc.Stream) -> bytes:
    """What comes until the connection ends, however it does."""
    data = b""
    with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError, ProtocolError):
        while more := bytes(await stream.receive_some(65_536)):
            data += more
    return data


def rss_kib() -> int:
    """Of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def raw_socket(port: int) -> socket.socket:
    """A connected socket outside of trio."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE)
