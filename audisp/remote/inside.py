"""What the plugin `remote` is fed: blocks of the dispatcher's queue into the spool.

- A block counts as delivered once it is in the spool, by the same sync policy as audisp-remote's input; from then on it
  is sent once, whatever dies.
- A block that the source reads again after a crash is known by its place, and stored once.
- A spool that is full, or a disk that fails, makes the plugin's queue wait, whose overflow_action then acts; the marker
  of what it drops goes into the spool like any record. `overflow_action = drop_oldest` of audisp-remote.conf gives up
  what waits in the spool instead, but never for a source that can wait.
"""

from __future__ import annotations

from typing import Any, Final

import trio

from audisp.buffer.queue import Gap
from audisp.config.remote import RemoteConf
from audisp.dispatch.internal import Internal
from audisp.errors import StoreError
from audisp.plugin import Retry
from audisp.record import Block
from audisp.remote.actions import Notices
from audisp.remote.outbox import Outbox
from audisp.remote.places import KEY, Places

ROOM_SECONDS: Final = 1.0
"""Shorter than any deliver_timeout: for so long a full spool is waited for before the host is told to come again."""
REOPEN_SECONDS: Final = 1.0
"""Between two attempts to use a spool that has failed."""


class Inside:
    """Between the host and an outbox that is open. For one task at a time."""

    def __init__(self, conf: RemoteConf, outbox: Outbox, notices: Notices, name: str) -> None:
        """name: the plugin's, for the markers of losses."""
        self.accepted = 0
        """Records stored."""
        self.known = 0
        """Records that had been stored before, and were read again."""
        self.lost = int(outbox.stream.books.get("lost", 0))
        """Records given up in the spool, by this process and those before it."""
        self.waiting = 0
        """None wait here: they wait in the host's queue."""
        self.error: str | None = None
        """What is wrong with the spool."""
        self._conf, self._outbox, self._notices, self._name = conf, outbox, notices, name
        self._places = Places(outbox.stream.books)
        self._internal = Internal()
        self._gap: Gap | None = None
        self._unsure: int | None = None
        """The spool failed while a block was stored: number of the record that was to be its first."""
        self._left: tuple[Block, Block] | None = None
        """A block of which a part was stored before its delivery was broken off, and the rest of it."""

    async def deliver(self, block: Block) -> None:
        """Store it. Raises Retry while there is no room; then none of it is stored."""
        rest = block
        if self._left is not None and self._left[0] is block:
            rest = self._left[1]
        fresh = self._places.new_of(rest)
        self.known += rest.records - (0 if fresh is None else fresh.records)
        while fresh is not None:
            if self._gap is not None:
                await self._tell(self._gap)
            rest = fresh
            fresh, gets_on = await self._store(rest)
            if fresh is not None and fresh is not rest:
                self._left = (block, fresh)
            if not gets_on:
                await self._make_room(block)
        self._left = None

    async def _store(self, block: Block) -> tuple[Block | None, bool]:
        """What of it is not stored, and whether any was, or may be now."""
        if self._unsure is None:
            before = self._outbox.stream.next_record
            sync = self._conf.spool_sync == "always"
            try:
                taken = await self._outbox.accept([block], self._books(block), sync=sync)
            except StoreError as error:
                # Whether it is there will be seen when the spool is open again, be this delivery broken off or not.
                self._unsure = before
                self._fail(error)
            else:
                self.error = None
                return (self._stored(block, block.records), True) if taken else (block, False)
        there = await self._reopened() - self._unsure
        self._unsure = None
        return self._stored(block, min(there, block.records)), True

    def _stored(self, block: Block, records: int) -> Block | None:
        """So many records of it are stored; what is left."""
        self.accepted += max(records, 0)
        if records < block.records:
            return block.without_first(records) if records > 0 else block
        self._places.add(block)
        return None

    def _books(self, block: Block) -> dict[str, Any]:
        return {"lost": self.lost, KEY: self._places.with_(block)}

    def _fail(self, error: StoreError) -> None:
        self.error = str(error)
        self._notices.occur("queue_error", f"the spool cannot be used: {error}")

    async def _reopened(self) -> int:
        """The spool failed: open it anew, which syncs what is there. The number that its next record will have."""
        while True:
            await trio.sleep(REOPEN_SECONDS)
            try:
                return await self._outbox.reopen()
            except StoreError as error:
                self._fail(error)

    async def _make_room(self, block: Block) -> None:
        """The spool is full. Raises Retry if that stays so for a while."""
        stream = self._outbox.stream
        if self._conf.overflow_action.name == "drop_oldest" and block.place is None:
            dropped = await self._outbox.drop_oldest()
            if dropped:
                self.lost += dropped
                gap = Gap("spool-full", dropped)
                if self._gap is None:
                    self._gap = gap
                else:
                    self._gap.extend(gap)
                self._notices.occur("overflow", f"the spool {stream.path} was full: the oldest {dropped} are dropped")
                return
        ring = self._outbox.shrunk.next()
        with trio.move_on_after(ROOM_SECONDS) as scope:
            await ring.wait()
        if scope.cancelled_caught:
            text = f"the spool {stream.path} is full ({stream.records} records wait)"
            self._notices.occur("overflow", f"{text}: what comes waits in the queue of plugin {self._name}")
            raise Retry(text)

    async def _tell(self, gap: Gap) -> None:
        """Put the marker of what was given up before what comes now, if there is room."""
        marker = self._internal.loss(self._name, gap)
        try:
            if await self._outbox.accept([marker], self._books(marker), sync=False):
                self._gap = None
        except StoreError as error:
            self._fail(error)  # the records that follow meet it, too
