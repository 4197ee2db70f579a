"""One plugin's way through the store: from the memory of what was stored lately while it is up to date, from the
segments when it is behind, and back.

What holds:

- It waits for the plugin's queue, and for nothing else; nobody waits for it. So a plugin that is slow, stopped or dead
  costs neither the store nor the senders nor another plugin anything, and loses nothing that the store has.
- `low` is the number from which on the plugin has to read again if everything ends now: before it, all is delivered,
  filtered, or booked as lost. Reading on from there a record may come twice, and none is left out.
- What retention has removed before the plugin had it is booked as lost, and told where it is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple

import attrs
import trio

from audisp.collector.origins import Origins
from audisp.collector.reading import Reader
from audisp.collector.recent import Piece, Recent
from audisp.collector.store import Store
from audisp.dispatch.roster import Entry
from audisp.dispatch.runner import Say
from audisp.errors import StoreError
from audisp.event import Batch
from audisp.parse.record import RecordReader
from audisp.record import Block

TURN_BYTES: Final = 256 << 10
"""Records that are passed on at once: the largest merge that a plugin gets, and some milliseconds of assembling."""

INLINE_BYTES: Final = 16 << 10
"""Up to so many bytes that is done in the loop, in a millisecond at most: a thread costs a tenth of one."""

TICK_SECONDS: Final = 0.5
"""Between two looks at events that nothing more comes for. A quarter of the default `end_of_event_timeout`."""

SETTLE_SECONDS: Final = 1.0
"""Between two times that `low` is found out, which takes a look at every open event."""

REFUSED_SECONDS: Final = 0.25
"""Before an intake that takes nothing, for another reason than being full, is looked at again."""

FAILED_SECONDS: Final = 2.0
"""Before a store that cannot be read is read again."""

MAX_KNOWN: Final = 65_536
"""Verdicts on identities that are remembered, of `hosts`."""


class Mark(NamedTuple):
    """What was offered in one turn: how many records the intake had accepted before and after it, and the least number
    of them."""

    before: int
    after: int
    low: int


@attrs.frozen
class Hosts:
    """Whose events a plugin gets. patterns: of identities, with * ? [...]; empty: everybody's."""

    patterns: tuple[str, ...]
    match: Callable[[str], bool] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        patterns = self.patterns

        @lru_cache(MAX_KNOWN)
        def match(identity: str) -> bool:
            return not patterns or any(fnmatchcase(identity, pattern) for pattern in patterns)

        object.__setattr__(self, "match", match)


class Pursuit:
    """entry: the plugin, whose `wanted` and settings a reload may exchange. start: number in the store to begin at.

    hosts: gives whose events it gets now, None for none at all. limiter: of the threads in which turns are done.
    """

    def __init__(
        self,
        entry: Entry,
        store: Store,
        recent: Recent,
        start: int,
        say: Say,
        *,
        reader: RecordReader,
        timeout: Callable[[], float],
        hosts: Callable[[Entry], tuple[str, ...] | None],
        limiter: trio.CapacityLimiter | None = None,
    ) -> None:
        self.entry = entry
        self.position = start
        """Number in the store of the next frame to be offered."""
        self.low = start
        self.lost = 0
        """Records that were removed, or damaged, before the plugin had them; at most."""
        self.ended = trio.Event()
        self._store, self._recent, self._say = store, recent, say
        self._timeout = timeout
        self._limiter = limiter
        self._whose = hosts
        self._hosts = Hosts(())
        self._nobody = False
        self._origins = Origins(reader, timeout())
        self._rest: deque[tuple[Block, int]] = deque()
        """Taken from the store and not yet by the queue, with the least number of their records."""
        self._marks: deque[Mark] = deque()
        self._reader: Reader | None = None
        self._missing = 0
        self._low_of_turn: int | None = None
        self._finishing = False
        self._busy = False
        self._ticked = self._settled = time.monotonic()
        self._scope = trio.CancelScope()

    # ---- the task ----

    async def run(self) -> None:
        """Feed the plugin until `leave`, or until the end that `finish` asks for."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._close_reader()
            self.ended.set()

    async def _run(self) -> None:
        name = self.entry.conf.name
        while True:
            try:
                if await self._step():
                    return
                continue
            except (StoreError, OSError) as error:
                self._say("error", f"plugin {name}: {error}", limit=f"pursuit-{name}")
            except Exception as defect:  # noqa: BLE001 - a defect met on one plugin's way must not end the others'
                self._say(
                    "critical", f"plugin {name}: cannot be fed: a defect of ours: {defect!r}", limit=f"pursuit-{name}"
                )
            self._close_reader()
            await trio.sleep(FAILED_SECONDS)

    async def _step(self) -> bool:
        """One turn, or a wait for something to do. True: all is done that `finish` asks for."""
        self._look_at_settings()
        if not await self._has_room():
            return False
        now = time.monotonic()
        if now - self._settled >= SETTLE_SECONDS:
            self.settle()
        if self._origins and now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            await self._do(self._tick)
        elif self.position >= self._recent.next:
            if self._finishing:
                await self._do(self._flush)
                return not self._rest
            with trio.move_on_after(TICK_SECONDS if self._origins else SETTLE_SECONDS):
                await self._recent.news(self.position)
        elif self.position >= self._recent.first:
            self._close_reader()
            pieces = self._recent.after(self.position, TURN_BYTES)
            size = sum([len(piece.block.data) for piece in pieces])
            await self._do(lambda: self._take(pieces), inline=size <= INLINE_BYTES)
            await trio.lowlevel.checkpoint()
        elif self._finishing:
            # It is behind, and reads on from there at the next start.
            return True
        else:
            await self._do(lambda: self._read_on(self._recent.first))
        return False

    async def _do(self, work: Callable[[], None], *, inline: bool = False) -> None:
        """Do a turn's work, and note what was offered."""
        intake = self.entry.intake
        self._busy = True
        before = intake.accepted()
        self._low_of_turn = None
        try:
            if inline:
                work()
            else:
                await trio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._note(before)
            self._busy = False

    def _note(self, before: int) -> None:
        if self._low_of_turn is not None:
            self._marks.append(Mark(before, self.entry.intake.accepted(), self._low_of_turn))
            self._low_of_turn = None

    async def _has_room(self) -> bool:
        """Whether the queue takes more; else returns when it is worth another look."""
        intake = self.entry.intake
        while self._rest and intake.has_room():
            before = intake.accepted()
            block, low = self._rest.popleft()
            self._offer(block, low, again=True)
            self._note(before)
        if not self._rest and intake.has_room():
            return True
        if intake.refusing is not None or intake.spilling:
            await trio.sleep(REFUSED_SECONDS)
            return False
        token = trio.lowlevel.current_trio_token()
        room = trio.Event()
        intake.on_room(lambda: token.run_sync_soon(room.set))
        with trio.move_on_after(SETTLE_SECONDS):
            # A reload may have made the queue larger, and events may be due; both are seen to in a second.
            await room.wait()
        return False

    def _look_at_settings(self) -> None:
        """A reload may have changed what it is to get."""
        patterns = self._whose(self.entry)
        self._nobody = patterns is None
        if patterns is not None and patterns != self._hosts.patterns:
            self._hosts = Hosts(patterns)
        self._origins.set_timeout(self._timeout())

    # ---- a turn; in a thread, or in the loop ----

    def _take(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if self._rest:
                return
            if piece.block.records:
                self._pass_on(piece.block, piece.first)
            self.position = piece.next

    def _read_on(self, upto: int) -> None:
        """Read from the segments. upto: what is stored from this number on is also in memory."""
        reader = self._reader
        if reader is None:
            reader = self._reader = Reader(self._store.path, start=self.position, durable=self._store.durable)
            reader.__enter__()
            self._missing = 0
        size = 0
        while size < TURN_BYTES and not self._rest and self.entry.intake.has_room():
            chunk = reader.read()
            if chunk is None:
                self._lose(reader.missing - self._missing, reader.next)
                self._missing = reader.missing
                if reader.next < upto:
                    # There is nothing left of what stood between the two.
                    self._lose(upto - reader.next, upto)
                self.position = max(reader.next, upto)
                return
            self._lose(reader.missing - self._missing, chunk.first)
            self._missing = reader.missing
            self._pass_on(chunk.block(), chunk.first)
            self.position = chunk.next
            size += len(chunk.data)

    def _lose(self, count: int, upto: int) -> None:
        """So many records before this number are not there any more."""
        if not count or self._nobody:
            return
        if self._hosts.patterns and not self._concerned(upto - count):
            return
        self.lost += count
        self.entry.intake.lose_unread(count, "retention")

    def _concerned(self, number: int) -> bool:
        """Whether a host that the plugin gets has lost anything behind this number: what others had is not its loss."""
        return any(
            stream.dropped and stream.kept.first > number and self._hosts.match(stream.key.identity)
            for stream in self._store.streams()
        )

    def _pass_on(self, block: Block, number: int) -> None:
        entry = self.entry
        if self._nobody or not self._hosts.match(block.source):
            entry.intake.filter_out(block.records)
            return
        if entry.wanted is None:
            if self._origins:
                # It wants events no more, but those that wait for their end are its own.
                self._flush()
            self._offer(block, number)
            return
        batch, low = self._origins.feed(block, number, time.monotonic())
        if batch is not None:
            self._pick(batch, low)

    def _pick(self, batch: Batch, low: int) -> None:
        wanted = self.entry.wanted
        if wanted is None:
            self._offer(batch, low)
            return
        picked = wanted.pick(batch, {})
        if picked is not None:
            self._offer(picked, low)

    def _tick(self) -> None:
        for batch, low in self._origins.tick(time.monotonic()):
            self._pick(batch, low)

    def _flush(self) -> None:
        for batch, low in self._origins.flush(time.monotonic()):
            self._pick(batch, low)

    def _offer(self, block: Block, low: int, *, again: bool = False) -> None:
        if self._rest and not again:
            self._rest.append((block, low))
            return
        rest = self.entry.intake.offer(block, True)
        if rest is not block and (self._low_of_turn is None or low < self._low_of_turn):
            self._low_of_turn = low
        if rest is not None:
            self._rest.appendleft((rest, low))

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.__exit__(None, None, None)

    # ---- its place ----

    def settle(self, *, kept: bool = False) -> int:
        """Find out `low`. kept: what the queue has is on disk elsewhere, and will be delivered from there."""
        if self._busy:
            return self.low
        self._settled = time.monotonic()
        done = self.entry.intake.done_with()
        while self._marks and (kept or self._marks[0].after <= done):
            self._marks.popleft()
        lows = [self.position, *(mark.low for mark in self._marks), *(low for _, low in self._rest)]
        open_ = self._origins.low()
        if open_ is not None:
            lows.append(open_)
        self.low = min(lows)
        return self.low

    @property
    def pending(self) -> int:
        """Records that were offered and are not done with."""
        done = self.entry.intake.done_with()
        return sum([mark.after - max(mark.before, done) for mark in self._marks if mark.after > done])

    @property
    def open_records(self) -> int:
        """Records that wait for the end of their event."""
        return self._origins.open_records

    @property
    def behind(self) -> int:
        """Records, about, that the store has and the plugin was not offered."""
        return max(0, self._store.next - self.position)

    @property
    def reads_segments(self) -> bool:
        """Whether it is so far behind that memory does not reach back to it."""
        return self.position < self._recent.first

    def finish(self) -> None:
        """No more is stored: `run` is to return once all is offered; at once, if it is behind."""
        self._finishing = True

    def leave(self) -> None:
        """Offer nothing more."""
        self._scope.cancel()
