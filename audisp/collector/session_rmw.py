"""One connection of the C programs' protocol: records in, stored together with everybody's, answered one by one.

The protocol is in `wire.rmw_server`. A retry, which is a record that comes again on the next connection under its
number, is found by what this host had stored last (`Host.recent`): it is answered, and not stored again. That is judged
when all that earlier connections of the host brought is stored or given back.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from audisp.buffer.segment import MAX_FRAME_PLAIN
from audisp.collector.committer import Parcel
from audisp.collector.hosts import Connection, Host
from audisp.collector.services import FRAME_SECONDS, RECEIVE_BYTES, SEND_SECONDS, Services, Stream
from audisp.collector.session import Session
from audisp.collector.store_frames import Unnumbered
from audisp.errors import RemoteProtocolError
from audisp.record import STAMP
from audisp.wire.peer import Closed, Trouble
from audisp.wire.rmw import State
from audisp.wire.rmw_server import Message, Retry, RmwServer, Text

PARCEL_BYTES: Final = 256 << 10
"""Records of one connection that are stored as one frame, about. audisp-remote has one under way."""


class RmwSession(Session):
    """The C programs' protocol."""

    def __init__(self, stream: Stream, connection: Connection, host: Host, services: Services) -> None:
        super().__init__(stream, connection, host, services)
        self._server = RmwServer()
        self._progress = trio.Event()
        self._ending = False
        self._is_first = True

    # What the committer says.

    def stored(self, parcels: Sequence[Parcel]) -> None:
        """They are answered, and remembered for the retry that comes if the answer is lost."""
        for parcel in parcels:
            item = parcel.item
            assert isinstance(item, Unnumbered)
            self._server.ack(parcel.messages)
            if item.sequence is not None and item.digest is not None:
                self._host.remember(self._connection.number, item.sequence, item.digest)
            self._host.stored(item.data.count(b"\n"), len(item.data), trio.current_time())
        self._answered()

    def given_back(self, parcels: Sequence[Parcel], trouble: Trouble) -> None:
        """Each message is answered by what is wrong; the client keeps it."""
        for parcel in parcels:
            for _ in range(parcel.messages):
                self._server.trouble(trouble)
        self._answered()

    def refused(self, parcel: Parcel, why: str) -> None:
        """There is no answer that says it: the connection ends, and the client keeps its records."""
        self._services.say("warning", f"{self.identity}: {why}", limit="refused-records")
        for _ in range(parcel.messages):
            self._server.trouble(Trouble.DISK_ERROR)
        self._server.take()
        self._connection.end("refused")

    def told(self, trouble: Trouble | None, text: str) -> None:
        """Low space is told unasked, once; all else in answer to a record. (DISKLOW in answer to a record would make
        some clients send it again.)"""
        if trouble is Trouble.DISK_LOW and self._server.state is State.IDLE and not self._server.pending:
            self._server.notice(trouble)
            self._wake.set()

    def cut(self, reason: str) -> None:
        """End the connection."""
        self._connection.end(reason)

    def end(self) -> None:
        """Say goodbye as soon as no message waits for its answer."""
        self._ending = True
        self._answered()

    def _answered(self) -> None:
        if self._ending and self._server.state is State.IDLE and not self._server.pending and not self.waiting:
            self._server.ending()
            self._over = True
        self._progress.set()
        self._wake.set()

    # The two loops.

    async def _write(self, scope: trio.CancelScope) -> None:
        while True:
            self._wake = trio.Event()
            data = self._server.take()
            if data:
                self._progress.set()
                with trio.fail_after(SEND_SECONDS):
                    await self._stream.send_all(data)
            elif self._over and not self.waiting:
                scope.cancel()
                return
            else:
                await self._wake.wait()

    async def _read(self) -> None:
        services, server = self._services, self._server
        while True:
            if await self._take():
                return
            if self._ending:
                # Nothing more is taken; the writer ends this when what waits is answered.
                await trio.sleep_forever()
            if server.full:
                await self._progressed()
                continue
            if not await services.flight.room(self.identity, self._held + self.waiting):
                services.say("warning", f"{self.identity}: too much is under way, cut off for now", limit="busy")
                return
            now = trio.current_time()
            with trio.move_on_at(self._deadline(now)) as patience:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            if patience.cancelled_caught:
                what = "a record was begun and not ended" if self._begun is not None else "nothing was heard"
                raise RemoteProtocolError(f"{what} for {trio.current_time() - now:.0f} s")
            self._connection.heard = trio.current_time()
            server.feed(bytes(data))

    def _deadline(self, now: float) -> float:
        idle = self._services.conf.tcp_client_max_idle
        times = [float("inf")]
        if idle:
            times.append(now + idle)
        if self._begun is not None:
            times.append(self._begun + FRAME_SECONDS)
        return min(times)

    async def _progressed(self) -> None:
        self._progress = trio.Event()
        if self._server.full:
            await self._progress.wait()

    async def _take(self) -> bool:
        """Put what was read; True if that was the last of it. Raises RemoteProtocolError."""
        server = self._server
        gathered = _Gathered()
        took = False
        try:
            while not self._ending and (event := server.next()) is not None:
                took = True
                if isinstance(event, Closed):
                    return True
                if isinstance(event, Message):
                    digest = hashlib.sha256(event.record).digest()
                    if self._is_first and await self._is_retry(event, digest):
                        continue
                    gathered.add(event, digest)
                elif isinstance(event, Retry):
                    self._host.retries += 1
                elif isinstance(event, Text):
                    if not STAMP.match(event.line):
                        raise RemoteProtocolError(f"neither a frame nor a record: {event.line[:16]!r}")
                    gathered.lines.append(event.line)
                    gathered.size += len(event.line)
                if gathered.size >= PARCEL_BYTES:
                    self._put(gathered)
                    gathered = _Gathered()
        finally:
            self._put(gathered)
            self._wake.set()
            self._count(took)
        return self._over or server.state is not State.IDLE

    async def _is_retry(self, message: Message, digest: bytes) -> bool:
        """Whether the first message of this connection is the last one of another."""
        self._is_first = False
        for other in self._host.others(self):
            await other.settled()
        sequence, last = self._services.committer.store.recent(self.identity)
        if not self._host.has_stored(message.sequence, digest) and (sequence, last) != (message.sequence, digest):
            return False
        self._server.ack()
        self._host.retries += 1
        self._host.remember(self._connection.number, message.sequence, digest)
        return True

    def _put(self, gathered: _Gathered) -> None:
        if gathered.lines:
            data = b"".join(gathered.lines)
            item = Unnumbered(self.identity, data, time.time_ns(), gathered.sequence, gathered.digest)
            self._services.committer.put(Parcel(self, item, len(data), gathered.messages))

    def _count(self, took: bool) -> None:
        """What lies half received counts as under way, and is not waited for for ever."""
        held = self._server.buffered
        self._hold(held)
        if not held or self._server.full:
            self._begun = None
        elif took or self._begun is None:
            self._begun = trio.current_time()


@attrs.define(eq=False)
class _Gathered:
    """Records of one read, to be stored together. sequence, digest: of the last message among them."""

    lines: list[bytes] = attrs.field(factory=list)
    size: int = 0
    messages: int = 0
    sequence: int | None = None
    digest: bytes | None = None

    def add(self, message: Message, digest: bytes) -> None:
        """One more."""
        self.lines.append(message.record)
        self.size += len(message.record)
        self.messages += 1
        self.sequence, self.digest = message.sequence, digest


assert PARCEL_BYTES + (16 << 10) < MAX_FRAME_PLAIN, "one record more still fits into a frame"
