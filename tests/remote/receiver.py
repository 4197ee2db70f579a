"""A collector of a few lines: the native protocol's receiving end over TLS, with its store in memory.

It stores a frame and then acknowledges, as it must; and it can be told to cut connections, to be slow, to tell of
trouble, or not to know the protocol.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.errors import ProtocolError
from audisp.parse.psk import Key
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN, Accepted, Bye, Duplicate, Gap, Hello, Position, Receiver, Trouble
from audisp.wire.peer import STORES
from audisp.wire.rmw import State
from audisp.wire.rmw_server import Heartbeat, Message, Recent, RmwServer
from tests.tls.ends import KEY, WEB1, server
from tests.tls.files import put_key

PATIENCE: Final = 60.0


@attrs.define(eq=False)
class Kept:
    """What is stored of one stream."""

    data: bytearray = attrs.field(factory=bytearray)
    position: Position | None = None
    gaps: list[Gap] = attrs.field(factory=list)


@attrs.define(eq=False)
class Store:
    """port: to listen at; 0: any. cut: at every Nth step a connection is cut; 0: never. chance: how much is read
    at once."""

    port: int = 0
    keys: dict[bytes, Key | str] = attrs.field(factory=lambda: {WEB1: KEY})
    alpn: tuple[bytes, ...] = (ALPN,)
    cut: int = 0
    steps: int = 0
    chance: random.Random = attrs.field(factory=random.Random)
    streams: dict[bytes, Kept] = attrs.field(factory=dict)
    connections: int = 0
    cuts: int = 0
    duplicates: int = 0
    byes: int = 0
    errors: list[str] = attrs.field(factory=list)
    trouble: Trouble | None = None
    stores: bool = True
    """False: it takes frames, and neither stores nor acknowledges them."""
    heartbeats: int = 0
    recent: Recent = attrs.field(factory=Recent)
    scopes: list[trio.CancelScope] = attrs.field(factory=list)

    async def serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")

        async def one(plain: trio.SocketStream) -> None:
            with trio.CancelScope() as scope:
                self.scopes.append(scope)
                async with TLSStream(plain, server(self.keys, self.alpn)) as stream:
                    try:
                        await stream.handshake(PATIENCE)
                        self.connections += 1
                        await (self._converse if stream.session.alpn else self._answer)(stream)
                    except (ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                        self.errors.append(str(error))

        async with trio.open_nursery() as nursery:
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, one, listeners)
            task_status.started(self.port)

    def drop_all(self) -> None:
        """End every connection."""
        for scope in self.scopes:
            scope.cancel()
        self.scopes.clear()

    def _is_cut(self) -> bool:
        self.steps += 1
        now = bool(self.cut) and self.steps % self.cut == 0
        self.cuts += now
        return now

    async def _converse(self, stream: TLSStream) -> None:
        session = Receiver(trio.current_time())
        try:
            await self._take(stream, session)
        except ProtocolError:
            # Why it is refused.
            await stream.send_all(session.take())
            raise

    async def _take(self, stream: TLSStream, session: Receiver) -> None:
        kept = Kept()
        while not session.over:
            if self._is_cut():
                return
            session.feed(await stream.receive_some(self.chance.randrange(1, 65_536)), trio.current_time())
            while (event := session.next()) is not None:
                match event:
                    case Hello():
                        kept = self.streams.setdefault(event.spool, Kept())
                        if self.trouble is not None:
                            session.trouble(self.trouble, "as the test wants it")
                        session.welcome(kept.position, trio.current_time())
                    case Accepted() if self.stores:
                        kept.data += event.data
                        kept.position = event.frame.after
                        if event.frame.gap is not None:
                            kept.gaps.append(event.frame.gap)
                        session.stored(event.frame.after)
                    case Duplicate():
                        self.duplicates += 1
                    case Bye():
                        self.byes += 1
                        await stream.send_all(session.take())
                        return
            out = session.take()
            if out and self._is_cut():
                return  # stored, and the acknowledgement never arrives
            await stream.send_all(out)

    async def _answer(self, stream: TLSStream) -> None:
        """The C programs' protocol."""
        session = RmwServer(self.recent)
        kept = self.streams.setdefault(b"rmw", Kept())
        while session.state is State.IDLE:
            session.feed(await stream.receive_some(65_536))
            while (event := session.next()) is not None:
                if isinstance(event, Message):
                    if self.trouble is not None:
                        session.trouble(self.trouble)
                        if self.trouble not in STORES:
                            continue
                    else:
                        session.ack()
                    kept.data += event.record
                elif isinstance(event, Heartbeat):
                    self.heartbeats += 1
            out = session.take()
            if out and self._is_cut():
                return
            await stream.send_all(out)

    @property
    def data(self) -> bytes:
        """What is stored of the only stream."""
        (kept,) = self.streams.values() if self.streams else (Kept(),)
        return bytes(kept.data)


def tls_conf(folder: Path) -> dict[str, object]:
    """Settings for a client with the key."""
    folder.mkdir(exist_ok=True)
    return {
        "transport": "tls",
        "tls_psk_identity": WEB1.decode(),
        "tls_psk_file": put_key(folder / "key", KEY),
        "network_retry_time": 1,
        "max_time_per_record": 10,
    }
