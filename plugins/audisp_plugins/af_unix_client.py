"""One client of `af_unix`: its queue, what it lost, and the two tasks that serve its connection."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from audisp.plugin import Block, Host
from audisp_plugins.af_unix_socket import Peer

PIECE_OVERHEAD: Final = 256
"""Bytes that a waiting piece costs beside its data, so that many small ones cannot exceed the bound by much."""

SEND_BYTES: Final = 65_536
"""Small pieces are joined up to this many bytes for one send()."""

READ_BYTES: Final = 4_096
"""A client has nothing to say; what it sends is read and thrown away, in portions of this size."""

HALF_CLOSED_CHECK: Final = 1.0
"""Seconds between looks at a client that closed its sending half: its full close shows only at the next send."""

Encode = Callable[[Block], bytes]


@attrs.define
class Loss:
    """Records that did not fit into a client's queue, since the last marker."""

    count: int = 0
    first: int | None = None
    last: int | None = None

    def add(self, block: Block) -> None:
        """Book all records of `block`."""
        self.count += block.records
        if self.first is None:
            self.first = block.first_serial()
        last = block.last_serial()
        if last is not None:
            self.last = last


class Client:
    """A connection with a queue of `limit` bytes. When that is full the newest records are dropped and counted.

    Where records were dropped the client gets a marker record before the next ones, so that a gap is seen in place.
    offer() is for the trio loop and never waits; serve() runs until the client leaves.
    """

    def __init__(
        self,
        number: int,
        peer: Peer,
        stream: trio.SocketStream,
        limit: int,
        encode: Encode,
        marker: Callable[[int, Loss], Block],
        host: Host,
    ) -> None:
        self.number, self.peer = number, peer
        self.records = 0
        """Records that wait."""
        self._stream, self._limit, self._encode, self._marker, self._host = stream, limit, encode, marker, host
        self._pieces: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._loss = Loss()
        self._wake = trio.Event()
        self._sending = 0
        self._moved: trio.Event | None = None

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit. Always when nothing waits: there will never be more room than that."""
        return not self._pieces or self._bytes + size + PIECE_OVERHEAD <= self._limit

    def offer(self, block: Block, encoded: bytes) -> None:
        """Queue the block's records as far as they fit. encoded: the same records as this client gets them."""
        if self._loss.count and not self._mark():
            self._drop(block)
            return
        if self.has_room(len(encoded)):
            self._put(encoded, block.records)
            return
        head, rest = self._cut(block)
        if head is not None:
            self._put(self._encode(head), head.records)
        if rest is not None:
            self._drop(rest)

    def _cut(self, block: Block) -> tuple[Block | None, Block | None]:
        # The most whole records whose encoded form fits; it can be longer than the string form that split() measures.
        room = limit = self._limit - self._bytes - PIECE_OVERHEAD
        while limit > 0:
            head, rest = block.split(limit)
            if head is None:
                break
            over = len(self._encode(head)) - room
            if over <= 0:
                return head, rest
            limit = min(limit, len(head)) - over
        return None, block

    def _drop(self, block: Block) -> None:
        self._loss.add(block)
        self._host.count("client_lost", block.records)

    def _mark(self) -> bool:
        # Put the marker in front of what comes next. False if not even that fits.
        marker = self._encode(self._marker(self.number, self._loss))
        if not self.has_room(len(marker)):
            return False
        self._loss = Loss()
        self._put(marker, 0)
        return True

    def _put(self, data: bytes, records: int) -> None:
        self._pieces.append((data, records))
        self._bytes += len(data) + PIECE_OVERHEAD
        self.records += records
        self._wake.set()

    async def serve(self) -> None:
        """Send what is queued until the client closes its end, an error, or cancellation."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            await self._send_all()
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        try:
            while data := await self._stream.receive_some(READ_BYTES):
                self._host.count("client_bytes_ignored", len(data))
            # The end of what it sends is not always the end: `nc -U` with an empty stdin closes that half alone, and
            # goes on reading.
            while not self._hung_up():  # noqa: ASYNC110 - the kernel has no event for it that epoll would give once
                await trio.sleep(HALF_CLOSED_CHECK)
        except trio.BrokenResourceError:
            pass  # a reset: it left, as at the end of the stream
        scope.cancel()

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._stream.socket.fileno(), 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    async def _send_all(self) -> None:
        while True:
            if not self._pieces and (not self._loss.count or not self._mark()):
                self._wake = trio.Event()
                await self._wake.wait()
            data, taken = self._join()
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                return
            for _ in range(taken):
                piece, records = self._pieces.popleft()
                self._bytes -= len(piece) + PIECE_OVERHEAD
                self.records -= records
            if self._moved is not None:
                self._moved.set()

    def _join(self) -> tuple[bytes, int]:
        # The first piece, and those behind it that make one send() with it. They stay counted until they are sent.
        size = taken = 0
        for piece, _ in self._pieces:
            if taken and size + len(piece) > SEND_BYTES:
                break
            size += len(piece)
            taken += 1
        if taken == 1:
            return self._pieces[0][0], 1
        return b"".join([self._pieces[index][0] for index in range(taken)]), taken

    @contextmanager
    def telling(self, moved: trio.Event) -> Iterator[None]:
        """Within, `moved` is set each time that something was sent."""
        self._moved = moved
        try:
            yield
        finally:
            self._moved = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._pieces and not self._loss.count

    async def close(self) -> None:
        """Close the connection; what waited is lost with it."""
        if self.records:
            self._host.count("client_left_behind", self.records)
        await self._stream.aclose()
