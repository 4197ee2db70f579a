"""From received bytes to routed blocks and entered books: what every source that reads a byte stream does alike.

The form of the stream (string or binary) is found out from its first bytes, as auditd's own plugins do. Whole records
travel at once; the rest waits in the reader, which bounds it. Books: a record is entered when `Route.send` has returned
for it, or when it was rejected. What was received and is neither when a source is cancelled stands in
``detail["unread"]``.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from collections.abc import Callable, Iterable
from typing import Final

import trio

from audisp.parse.frames import FrameReader, sniff
from audisp.parse.lines import LineReader
from audisp.parse.stream import Reader
from audisp.record import Block, Place
from audisp.sources.bad import Rejects
from audisp.sources.contract import Route, SourceBooks

RECEIVE: Final = 256 * 1024
"""Most bytes taken in one receive, and so about the longest block: more than a unix socket's default buffer holds, so
that one call empties it, and small enough that parsing it holds the loop for only about half a millisecond."""

FINAL_BYTES: Final = 4 * 1024 * 1024
"""Most that is still read after a cancellation. A socket's buffer holds 208 KiB unless somebody raised it, a pipe at
most 1 MiB; a sender that goes on writing must not keep us from stopping."""

FLOOD: Final = 1000
"""Rejects in one receive from which on the stream is fed in pieces. Looking at a bad line costs some 4 µs, where good
ones are checked all at once: 256 KiB of two-byte lines would hold the loop for half a second."""

FLOOD_PIECE: Final = 16 * 1024
"""Bytes of a piece: at worst 8,192 lines, some 30 ms, after which others have their turn."""

FLOOD_BYTES: Final = 64 * 1024 * 1024
"""Bytes without such a flood after which a stream is trusted again; one that alternates gains nothing by it."""

_INT: Final = struct.Struct("i")

Pace = Callable[[Block], Iterable[tuple[float, Block]]]
"""Splits a block into pieces, each with the seconds to wait before it."""


class Inlet:
    """One stream of bytes (one connection, one file) on its way into blocks. Closed by `finish` or `leave`."""

    def __init__(self, books: SourceBooks, route: Route, rejects: Rejects, *, pace: Pace | None = None) -> None:
        self.books, self.rejects = books, rejects
        self._route, self._pace = route, pace
        self._reader: Reader | None = None
        self._seen = (0, 0, 0)
        self._careful = 0  # bytes for which it is fed in pieces

    async def take(self, data: bytes) -> None:
        """Feed what was received, and route every record that it completed.

        A checkpoint if `send` is one, and in a flood. Cancelled, what was not routed is entered as unread.
        """
        if not self._careful:
            await self._take(data)
            return
        self._careful = max(0, self._careful - len(data))
        fed = 0
        try:
            while fed < len(data):
                piece = data[fed : fed + FLOOD_PIECE]
                fed += len(piece)
                await self._take(piece)
                await trio.lowlevel.checkpoint()
        finally:
            if fed < len(data):
                add_unread(self.books, 0, len(data) - fed)

    async def _take(self, data: bytes) -> None:
        arrived = time.monotonic()
        reader = self._reader
        if reader is None:
            form = sniff(data)
            if form is None:
                return
            self.books.detail["form"] = form
            reader = self._reader = FrameReader() if form == "binary" else LineReader()
        reader.feed(data)
        await self._forward(reader, arrived)

    async def finish(self, *, whole: bool) -> None:
        """The stream ended. whole: a last record without its end is taken as one if it could be one.

        Without `whole` (a connection broke off) it is torn for certain, and is rejected.
        """
        if self._reader is not None:
            self._reader.close(whole=whole)
            await self._forward(self._reader, time.monotonic())

    def leave(self, waiting: int = 0) -> None:
        """The source stops here. waiting: bytes known to wait outside, for example in the socket."""
        left = waiting + (self._reader.pending if self._reader is not None else 0)
        if left:
            add_unread(self.books, 0, left)

    def _place(self, records: int) -> Place | None:
        """Where a block of so many records ends, if this stream can be read again."""
        return None

    async def _forward(self, reader: Reader, arrived: float) -> None:
        data, records = reader.take()
        if reader.bad:
            self._reject(reader)
        seen = (reader.resyncs, reader.unterminated, reader.skipped)
        if seen != self._seen:
            self._count(seen)
        if not records:
            return
        block = Block(data, records, self.books.name, arrived, place=self._place(records))
        done, size = 0, 0
        try:
            if self._pace is None:
                await self._route.send(block)
                done, size = records, len(data)
                self.books.count_routed(records, len(data))
            else:
                for seconds, piece in self._pace(block):
                    if seconds > 0:
                        await trio.sleep(seconds)
                    await self._route.send(piece)
                    self.books.count_routed(piece.records, len(piece))
                    done, size = done + piece.records, size + len(piece)
        finally:
            if done < records:
                add_unread(self.books, records - done, len(data) - size)

    def _reject(self, reader: Reader) -> None:
        if len(reader.bad) >= FLOOD:
            self._careful = FLOOD_BYTES
        self.books.count_rejected(len(reader.bad))
        self.rejects.keep(reader.bad)
        reader.bad.clear()

    def _count(self, seen: tuple[int, int, int]) -> None:
        resyncs, unterminated, skipped = (now - before for now, before in zip(seen, self._seen, strict=True))
        self._seen = seen
        self.books.resyncs += resyncs
        if unterminated:
            self.books.count("unterminated", unterminated)
        if skipped:
            self.books.count("skipped_bytes", skipped)


def add_unread(books: SourceBooks, records: int, size: int) -> None:
    """Enter what was received, or waits outside, and will not be routed any more. size in bytes."""
    books.count("unread_records", records)
    books.count("unread_bytes", size)
    left_records, left_bytes = books.counters["unread_records"], books.counters["unread_bytes"]
    books.detail["unread"] = (
        f"{left_records:,} records" if not left_bytes else f"{left_records:,} records, {left_bytes:,} bytes"
    )


def waiting(file: int) -> int:
    """Bytes that a socket, pipe or terminal holds for its reader; 0 where that cannot be told (unix(7), pipe(7))."""
    try:
        answer: bytes = fcntl.ioctl(file, termios.FIONREAD, bytes(_INT.size))
    except OSError:
        return 0
    size: int = _INT.unpack(answer)[0]
    return max(size, 0)


async def take_rest(inlet: Inlet, read: Callable[[], bytes], file: int, *, whole: bool) -> None:
    """After a cancellation: route what the stream holds already, as far as no queue has to be waited for.

    What the sender wrote before it told us to stop (auditd's DAEMON_END) is in there. What remains is entered as
    unread. read: gives b"" at the end and raises BlockingIOError when nothing is there. Raises Cancelled if a queue
    would have to be waited for.
    """
    taken = 0
    try:
        while taken < FINAL_BYTES:
            try:
                data = read()
            except OSError:  # BlockingIOError: that was all. Any other: the stream has broken off, which is the same.
                break
            if not data:
                await inlet.finish(whole=whole)
                break
            taken += len(data)
            await inlet.take(data)
    finally:
        inlet.leave(waiting(file))
