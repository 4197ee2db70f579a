"""A descriptor that threads read and the loop closes.

A read from a slow disk or a dead network share cannot be interrupted. When its task is cancelled the thread is left
behind, and the descriptor must stay open until it returns: closed under it, its number could belong to another file.
"""

from __future__ import annotations

import os
import threading
from typing import Final

import trio

from audisp.errors import SourceError
from audisp.sources.inlet import RECEIVE, Inlet

READ_AHEAD: Final = 4
"""Blocks of RECEIVE bytes read by one call in the thread: the hand-over of a thread costs about 0.1 ms, which four
blocks make small, and 1 MiB more in memory is bearable."""


class Descriptor:
    """Owns one open descriptor. `close` takes effect once no thread reads."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    def read(self, most: int) -> list[bytes]:
        """Up to READ_AHEAD chunks, at most `most` bytes in all; an empty list at the end. Blocks. Raises OSError."""
        with self._lock:
            if self._closed:
                return []
            self._readers += 1
        try:
            return self._chunks(most)
        finally:
            self._leave()

    def close(self) -> None:
        """Close it, or have the thread that reads it close it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self._readers:
                    os.close(self.file)

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._closed and not self._readers:
                os.close(self.file)

    def _chunks(self, most: int) -> list[bytes]:
        chunks: list[bytes] = []
        while len(chunks) < READ_AHEAD and most > 0:
            wanted = min(RECEIVE, most)
            chunk = os.read(self.file, wanted)
            if not chunk:
                break
            chunks.append(chunk)
            most -= len(chunk)
            if len(chunk) < wanted:
                break  # a pipe that has no more just now, or the end: what is there must not wait for what is not
        return chunks


async def pour(descriptor: Descriptor, inlet: Inlet, most: int) -> int:
    """Read to the end or `most` bytes, the next chunks in a thread while these are routed. Returns the bytes read.

    The last record may lack its LF. Does not close. Raises SourceError if the rest cannot be read.
    """
    sender, receiver = trio.open_memory_channel[list[bytes]](0)
    failure: OSError | None = None

    async def read_ahead() -> None:
        nonlocal failure
        left = most
        async with sender:
            while left > 0:
                try:
                    chunks = await trio.to_thread.run_sync(descriptor.read, left, abandon_on_cancel=True)
                except OSError as error:
                    failure = error
                    return
                if not chunks:
                    return
                left -= sum(map(len, chunks))
                await sender.send(chunks)

    total = 0
    ended = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_ahead)
            async with receiver:
                async for chunks in receiver:
                    for chunk in chunks:
                        total += len(chunk)
                        await inlet.take(chunk)
                        await trio.lowlevel.checkpoint()
        ended = True
    finally:
        if not ended:
            inlet.leave()
    if failure is not None:
        inlet.leave()
        raise SourceError(f"source {inlet.books.name}: {failure.strerror or failure} while reading") from failure
    await inlet.finish(whole=True)
    return total
