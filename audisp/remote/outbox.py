"""The stream for tasks: its disk work in threads, one at a time, and bells for those who wait for it.

Accepted means stored and, where the policy says so, synced. Nobody sees a record before that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from audisp.errors import StoreError
from audisp.record import Block
from audisp.remote.bell import Bell
from audisp.remote.spool import FrameReader, Stream

LOCK_WAIT: Final = 0.2
"""Seconds between two attempts to have a spool that another process has: our predecessor sends its last records."""

T = TypeVar("T")


class Outbox:
    """What waits to be sent. Made of an opened stream (`opened`)."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.grown = Bell()
        """Rung when there are new records to send."""
        self.shrunk = Bell()
        """Rung when records were acknowledged."""
        self.sent = 0
        """Records acknowledged."""
        self.peak = stream.records
        """Most records that have waited."""
        self.progress = time.monotonic()
        """When a record was last acknowledged; to begin with, now."""
        self._lock = trio.Lock()

    @classmethod
    async def opened(cls, folder: Path, max_bytes: int, min_free: int, waits: Callable[[str], None]) -> Outbox:
        """Open the spool; while another process has it, wait, and say so by `waits`. StoreError for all else."""
        stream = Stream(folder, max_bytes=max_bytes, min_free=min_free)
        while True:
            try:
                await trio.to_thread.run_sync(stream.open)
            except StoreError as error:
                if "in use by process" not in str(error):
                    raise
                waits(str(error))
                await trio.sleep(LOCK_WAIT)
            else:
                return cls(stream)

    async def close(self) -> None:
        """Sync and close. StoreError if that failed, and then it is closed all the same."""
        await self._locked(self.stream.close)

    async def reopen(self) -> int:
        """After a StoreError from `accept`: close, open anew, look at what is there. How many records there are now of
        those that were stored last: the number after the last one."""

        def again() -> int:
            with contextlib.suppress(StoreError):  # it is what we come from
                self.stream.close()
            self.stream.open()
            return self.stream.next_record

        return await self._locked(again)

    async def accept(self, blocks: Sequence[Block], books: Mapping[str, Any], *, sync: bool) -> int:
        """Store blocks; how many were taken, as Spool.append. Raises StoreError."""

        def store() -> int:
            taken = self.stream.append(blocks, books)
            if sync:
                self.stream.sync()
            return taken

        try:
            return await self._locked(store)
        finally:
            self.peak = max(self.peak, self.stream.records)
            if sync:
                self.grown.ring()

    async def note(self, books: Mapping[str, Any]) -> None:
        """Have these be the books, though no frame says so yet; on disk, if there is no frame at all. StoreError."""
        await self._locked(lambda: self.stream.note(books))

    async def sync(self) -> None:
        """Sync what was stored. Raises StoreError."""
        await self._locked(self.stream.sync)
        self.grown.ring()

    async def synced_end(self) -> tuple[int, bytes]:
        """Sync what was stored; then Stream.hash_at_end. Raises StoreError."""

        def work() -> tuple[int, bytes]:
            self.stream.sync()
            return self.stream.hash_at_end()

        return await self._locked(work)

    async def front(self) -> tuple[int, bytes] | None:
        """As Stream.front."""
        return await self._locked(self.stream.front)

    async def settle(self, number: int) -> None:
        """A server has all records with a lower number. StoreError as Spool.advance."""
        if number <= self.stream.position:
            return

        def work() -> None:
            before = self.stream.records
            try:
                self.stream.settle_to(number)
            finally:
                self.sent += before - self.stream.records

        try:
            await self._locked(work)
        finally:
            self.progress = time.monotonic()
            self.shrunk.ring()

    async def drop_oldest(self) -> int:
        """As Stream.drop_oldest."""
        return await self._locked(self.stream.drop_oldest)

    async def bound(self, max_bytes: int, min_free: int) -> None:
        """Other bounds from now on."""
        await self._locked(lambda: self.stream.bound(max_bytes, min_free))

    async def oldest_age(self) -> float | None:
        """Seconds since the oldest waiting record arrived."""
        return await self._locked(self.stream.oldest_age)

    def reader(self, number: int) -> FrameReader:
        """Its frames from this number on; to be used in a thread."""
        return FrameReader(self.stream, number)

    async def _locked(self, work: Callable[[], T]) -> T:
        # Not cancelled half-way (abandon_on_cancel is False): a thread that still writes must not meet the next one.
        async with self._lock:
            return await trio.to_thread.run_sync(work)
