"""From standard input into the spool: read at all times, accepted when stored, and what cannot be is counted and told.

What was read waits in memory for the disk, bounded by HAND_BYTES. While the disk gets on, a full hand makes the reader
wait for it, as the kernel's backlog waits for auditd. A spool that is full, or a disk that hangs, holds up nobody: the
overflow policy acts. Only a regular file as input waits for room, because it loses nothing by that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import trio

from audisp.buffer.queue import Gap
from audisp.config.remote import RemoteConf
from audisp.dispatch.internal import Internal
from audisp.errors import StoreError
from audisp.record import Block
from audisp.remote.actions import Notices
from audisp.remote.bell import Bell
from audisp.remote.books import SHIFT
from audisp.remote.counter import ReadCounter
from audisp.remote.outbox import Outbox

HAND_BYTES: Final = 16 << 20
"""Most bytes of records that wait for the disk: a second of a very busy host."""
BLOCK_COST: Final = 512
"""What a block counts for beside its bytes: a stream of single records must not cost ten times what is counted."""
BATCH_BYTES: Final = 2 << 20
"""Stored and synced at once. More would make the first record wait longer for its sync, and gain nothing."""
STALL: Final = 5.0
"""Seconds without any progress of the disk after which it counts as hanging."""
REOPEN: Final = 1.0
"""Seconds between two attempts to use a spool that has failed."""
NAME: Final = "audisp-remote"


class Intake:
    """A `Route` into the outbox. Drop policies and sync policy are those of `conf`, which a reload replaces."""

    def __init__(
        self, conf: RemoteConf, notices: Notices, *, patient: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """patient: wait for room whenever there is none."""
        self.conf = conf
        self.accepted = 0
        """Records stored."""
        self.lost = 0
        """Records dropped, by this process and those before it."""
        self.error: str | None = None
        """What is wrong with the spool."""
        self._notices = notices
        self._patient = patient
        self._clock = clock
        self._hand: deque[Block] = deque()
        self._held = 0
        self._closed = False
        self._filled, self._emptied = Bell(), Bell()
        self._moved = clock()
        self._gap: Gap | None = None
        self._internal = Internal()
        self._kept: dict[str, Any] = {}
        self._counter: ReadCounter | None = None
        self._read = 0
        """Records that came before there was a counter."""
        self._shift = 0
        """Number of the next record of the stream, and this: how many of the records read are accounted for."""
        self._begun = 0
        """Number of the next record when we began."""

    @property
    def waiting(self) -> int:
        """Records in memory."""
        return sum(block.records for block in tuple(self._hand))

    async def send(self, block: Block) -> None:
        """Take a block. A checkpoint only if it has to wait for the disk."""
        cost = len(block) + BLOCK_COST
        if self._counter is None:
            self._read += block.records
        else:
            self._counter.set(self._counter.value + block.records)
        while self._held and self._held + cost > HAND_BYTES:
            left = STALL - (self._clock() - self._moved)
            if not self._patient and left <= 0:
                self._drop(block, "disk-hangs")
                return
            with trio.move_on_after(max(0.01, left)):
                await self._emptied.wait()
        if not self._hand:
            self._moved = self._clock()
        self._hand.append(block)
        self._held += cost
        self._filled.ring()

    def send_blocking(self, block: Block) -> None:
        """Not for this route: standard input is read in the loop."""
        raise NotImplementedError

    def when_done(self, call: Callable[[], None]) -> None:
        """Not for this route: standard input cannot be read again."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more comes; `run` returns when all is stored."""
        self._closed = True
        self._filled.ring()

    async def begin(self, outbox: Outbox) -> None:
        """Look at what the process before us left: what was lost with it, and what its books go on with. To be called
        once, before anything is stored."""
        stream = outbox.stream
        self.lost += int(stream.books.get("lost", 0))
        # What the plugin `remote` keeps there of its sources is for it, should it have this spool again.
        self._kept = {key: value for key, value in stream.books.items() if key not in ("lost", SHIFT)}
        try:
            counter = ReadCounter(stream.path)
        except StoreError as error:
            self._notices.occur("queue_error", f"what a kill would cost cannot be counted: {error}")
            return
        shift = stream.books.get(SHIFT)
        if isinstance(shift, int):
            missing = counter.value - (stream.next_record + shift)
            if missing > 0:
                self._lose(Gap("crash", missing))
                self._notices.occur("overflow", f"{missing} records were lost when the process before was killed")
            # Below what is stored: a power failure took what the kernel had not written of it.
            counter.set(max(counter.value, stream.next_record + shift))
        self._shift = counter.value - stream.next_record
        counter.set(counter.value + self._read)
        self._counter, self._begun = counter, stream.next_record
        try:
            await outbox.note(self._books())
        except StoreError as error:
            self._notices.occur("queue_error", f"the spool's books cannot be kept: {error}")

    async def run(self, outbox: Outbox) -> None:
        """Store what comes, until closed and empty."""
        # What was taken over from the C program since was not read from standard input.
        self._shift -= outbox.stream.next_record - self._begun
        try:
            await self._run(outbox)
        finally:
            if self._counter is not None:
                self._counter.close()
                self._counter = None

    async def _run(self, outbox: Outbox) -> None:
        unsynced_since: float | None = None
        while True:
            if not self._hand and self._gap is None:
                if unsynced_since is None:
                    if self._closed:
                        return
                    await self._filled.wait()
                    continue
                left = unsynced_since + self.conf.spool_sync_interval - self._clock()
                if left > 0 and not self._closed:
                    with trio.move_on_after(left):
                        await self._filled.wait()
                    continue
            always = self.conf.spool_sync == "always"
            due = unsynced_since is not None and self._clock() - unsynced_since >= self.conf.spool_sync_interval
            sync = always or due or self._closed
            if await self._store(outbox, self._batch(), sync=sync):
                unsynced_since = None if sync else unsynced_since or self._clock()
            self._moved = self._clock()
            self._emptied.ring()

    def _batch(self) -> list[Block]:
        size, found = 0, []
        for block in self._hand:
            found.append(block)
            size += len(block)
            if size >= BATCH_BYTES:
                break
        return found

    async def _store(self, outbox: Outbox, blocks: list[Block], *, sync: bool) -> bool:
        """Store these, the first of those at hand, with the marker of what was lost before them. False: it failed."""
        # What is lost while this is stored is another loss, which the next marker tells.
        told, self._gap = self._gap, None
        marker = [] if told is None else [self._internal.loss(NAME, told)]
        before = outbox.stream.next_record
        try:
            taken = await outbox.accept(marker + blocks, self._books(own=len(marker)), sync=sync)
        except StoreError as error:
            await self._recover(outbox, error, before, marker + blocks, told)
            return False
        self.error = None
        if told is not None and taken:
            taken -= 1
            self._shift -= 1
        elif told is not None and self._closed and not self._hand:
            pass  # The end, and no room for so much as the marker; it was said in the log.
        elif told is not None:
            self._retell(told)
            taken, blocks = 0, blocks or marker
        self._take(taken)
        if taken < len(blocks):
            try:
                await self._make_room(outbox)
            except StoreError as error:
                await self._recover(outbox, error, outbox.stream.next_record, [], None)
                return False
        return True

    def _take(self, blocks: int) -> None:
        """So many blocks at hand are stored."""
        for _ in range(blocks):
            block = self._hand.popleft()
            self._held -= len(block) + BLOCK_COST
            self.accepted += block.records

    async def _make_room(self, outbox: Outbox) -> None:
        """The spool is full."""
        text = f"the spool {outbox.stream.path} is full ({outbox.stream.records} records wait)"
        if self._patient or not self._hand:
            # Nothing is lost: our input waits. Or it is the marker alone that finds no room, which has time.
            with trio.move_on_after(REOPEN):
                if self._hand:
                    await outbox.shrunk.wait()
                else:
                    await self._filled.wait()
            return
        if self.conf.overflow_action.name == "drop_oldest":
            dropped = await outbox.drop_oldest()
            if dropped:
                self._lose(Gap("spool-full", dropped))
                self._notices.occur("overflow", f"{text}: the oldest {dropped} are dropped")
                return
        count = 0
        while self._hand:
            block = self._hand.popleft()
            self._held -= len(block) + BLOCK_COST
            count += block.records
            self._drop(block, "spool-full", tell=False)
        self._notices.occur("overflow", f"{text}: {count} that came are dropped")

    def _drop(self, block: Block, reason: str, *, tell: bool = True) -> None:
        gap = Gap(reason)
        gap.add(block)
        self._lose(gap)
        self._shift += block.records
        if tell:
            self._notices.occur("overflow", f"the disk of the spool hangs: {block.records} records are dropped")

    def _lose(self, gap: Gap) -> None:
        self.lost += gap.count
        if self._gap is None:
            self._gap = gap
        else:
            self._gap.extend(gap)

    def _retell(self, told: Gap) -> None:
        """The marker of this loss was not stored: the next one tells of it, and of what was lost since."""
        if self._gap is not None:
            told.extend(self._gap)
        self._gap = told

    async def _recover(
        self, outbox: Outbox, error: StoreError, before: int, blocks: list[Block], told: Gap | None
    ) -> None:
        """Storing or syncing failed: open the spool anew, and see what of it is there. told: by the marker in front."""
        self.error = str(error)
        self._notices.occur("queue_error", f"the spool cannot be used: {error}")
        there: int | None = None
        while there is None:
            await trio.sleep(REOPEN)
            try:
                there = await outbox.reopen() - before
            except StoreError as again:
                self.error = str(again)
                self._notices.occur("queue_error", f"the spool cannot be used: {again}")
            self._emptied.ring()
        for block in blocks:
            # Frames are stored whole, and blocks may share one or fill several.
            if there <= 0:
                break
            there -= block.records
            if self._hand and block is self._hand[0]:
                self._take(1)
                if there < 0:
                    rest = block.lines()[there:]
                    self.accepted += there
                    self._hand.appendleft(Block(b"".join(rest), len(rest), block.source, block.arrived))
                    self._held += sum(map(len, rest)) + BLOCK_COST
            else:
                told = None
                self._shift -= 1
        if told is not None:
            self._retell(told)

    def _books(self, own: int = 0) -> dict[str, Any]:
        """own: records that are stored with them and were not read."""
        return {**self._kept, "lost": self.lost, SHIFT: self._shift - own}
