"""The door of one plugin: what the router's threads offer, what the plugin's runner takes, and the books of both.

One lock per plugin guards the queue, the gap and the counters; it is never held over a blocking call. The books
balance whenever the lock is free:

    offered + carried = delivered + filtered + dropped + quarantined + waiting

where waiting = queued + held (taken by the runner, not yet acknowledged) + on disk. `waiting` is counted where the
records are, not derived from the rest, so that `Books.imbalance` can tell the truth.

Order with `spill`: memory, then disk, and back. As long as anything is on disk or on its way there, what arrives is
staged for the disk; the spill task (dispatch/spill.py) writes it and brings the oldest back when memory has drained.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import attrs

from audisp.buffer.queue import BLOCK_OVERHEAD, BlockQueue, Gap, Marker
from audisp.record import Block

Policy = Literal["drop_newest", "drop_oldest", "spill"]

ROOM_FRACTION: Final = 0.5
"""Whoever waits for room is woken when the queue has drained to this share of its bound: waking at every record would
cost a thread switch per record."""

MEMORY_FRACTION: Final = 0.5
"""Share of the bound that a queue with a spill fills before it spills. The rest is for what is on its way to disk,
because a disk that syncs takes nothing for a while."""

STAGE_FRACTION: Final = 0.125
"""Share of the bound that may be on its way to disk in any case, should a single block have filled the memory."""


OWN_SPARE: Final = 64 * 1024
"""Bytes beyond a plugin's bound for the dispatcher's own records: hundreds of them, where a handful is due."""

PROGRESS_KEPT: Final = 4_096
"""Acknowledgements remembered for `audisp explain`: minutes at usual rates, seconds under a flood."""
LOSSES_KEPT: Final = 256
"""Losses remembered for the same."""

NO_ROOM: Final = ("overflow", "spill_full", "spill_failed")
"""Reasons of loss that overflow_action is for. The others (suspended, failed, removed, shutdown) somebody has decided
on, or they are no fault of the queue's size."""


@attrs.frozen
class Books:
    """A balanced view of one plugin's ledger at one moment, all in records."""

    offered: int
    carried: int
    delivered: int
    filtered: int
    dropped: int
    quarantined: int
    waiting: int
    own: int
    """Markers delivered to this plugin; outside the balance."""
    redelivered: int
    """Offered to the plugin again after it died or refused; outside the balance."""

    @property
    def imbalance(self) -> int:
        """Zero, or the host has a bug."""
        out = self.delivered + self.filtered + self.dropped + self.quarantined + self.waiting
        return self.offered + self.carried - out


@attrs.define(eq=False)
class Intake:
    """See the module's text. All methods may be called from any thread."""

    name: str
    queue: BlockQueue
    policy: Policy
    required: bool
    mark: Callable[[str, Gap], Block]
    """Makes the loss marker of (plugin name, gap)."""
    wake: Callable[[], None] = lambda: None
    """Called, lock held, when there is something to take and the runner may be asleep. Must not block."""
    direct: Callable[[Block], bool] | None = None
    """Tried first, lock held, when nothing waits: True = the runner has taken the block (and holds it)."""
    stage_wake: Callable[[], None] = lambda: None
    """Called, lock held, when there is something to be written to or read from disk."""
    spool_done: Callable[[int], None] = lambda records: None
    """Called, lock held, when records that had been on disk are delivered or quarantined."""
    overflowed: Callable[[], None] = lambda: None
    """Called, lock held, at the first drop after none for want of room: the action behind overflow_action. Must not
    block."""

    stored: bool = False
    """What it is offered can be offered again from a store: a plugin that is given up keeps what waits, and whoever
    feeds it waits with the rest."""
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    offered: int = 0
    carried: int = 0
    delivered: int = 0
    filtered: int = 0
    dropped: int = 0
    quarantined: int = 0
    own: int = 0
    redelivered: int = 0
    held: int = 0
    """Records taken by the runner and neither acknowledged nor given back."""
    disk: int = 0
    """Records on disk and not in memory."""
    staged: deque[Block] = attrs.field(factory=deque)
    staged_records: int = 0
    staged_bytes: int = 0
    spilling: bool = False
    stage_problem: str | None = None
    """Why what is staged is not written ("spill_full", "spill_failed"); the reason of losses for want of room then."""
    refusing: str | None = None
    """Reason for which everything offered is dropped ("suspended", "failed", "closed"); None = open."""
    losses: dict[str, int] = attrs.field(factory=dict)
    """Records dropped, by reason."""
    gap: Gap | None = None
    front_gap: Gap | None = None
    reported: int = 0
    evicted: int = 0
    """Of `dropped`: those that had been accepted before."""
    progress: deque[tuple[float, int]] = attrs.field(factory=lambda: deque(maxlen=PROGRESS_KEPT))
    """When (time.monotonic()) the plugin was done with how many of the records accepted (see `accepted`)."""
    lost_lately: deque[Gap] = attrs.field(factory=lambda: deque(maxlen=LOSSES_KEPT))
    """Losses that markers have told of."""
    _room: list[Callable[[], None]] = attrs.field(factory=list)
    delay_max: float = 0.0
    """Longest time that an acknowledged block took from its arrival, in seconds, since it was last read."""

    # ---- the router's side ----

    def offer(self, block: Block, wait: bool) -> Block | None:
        """Take the block in. With wait (and for a required plugin) returns what found no room, else None."""
        with self.lock:
            records = block.records
            if (
                self.direct is not None
                and not self.queue
                and self.gap is None
                and not self.spilling
                and self.refusing is None
                and self.direct(block)
            ):
                self.offered += records
                self.held += records
                return None
            if self.refusing is not None:
                self.offered += records
                self._lose(block, self.refusing)
                return None
            if self.spilling:
                return self._stage(block, wait)
            if self.policy == "drop_oldest" and not wait and not self.required:
                block = self._drop_oldest(block)
            if self.policy == "spill" and self.queue and self._memory_full(block):
                self.spilling = True
                return self._stage(block, wait)
            rest = self.queue.push(block)
            taken = block.records if rest is None else block.records - rest.records
            self.offered += taken
            if taken:
                if self.gap is not None:
                    self.queue.slip_in(self._marker(self.gap))
                    self.gap = None
                self.wake()
            if rest is None:
                return None
            if self.policy == "spill":
                self.spilling = True
                return self._stage(rest, wait)
            if wait or self.required:
                return rest
            self.offered += rest.records
            self._lose(rest, "overflow")
            return None

    def filter_out(self, records: int) -> None:
        """Enter records that the plugin's filter does not let through: offered, and not wanted."""
        with self.lock:
            self.offered += records
            self.filtered += records

    def lose(self, block: Block, reason: str) -> None:
        """Enter what was never offered as offered and lost."""
        with self.lock:
            self.offered += block.records
            self._lose(block, reason)

    def lose_unread(self, count: int, reason: str) -> None:
        """Enter records of which nothing is left to offer as offered and lost, and tell so where they are missing."""
        with self.lock:
            self.offered += count
            self._book_loss(count, reason)
            self.tell(Gap(reason, count))

    def put_off(self, count: int, reason: str) -> int:
        """Of what `abandon` has just booked as lost for this reason, so many records at most are in a store and are
        offered again by the next run: they are not in these books then. Returns how many."""
        with self.lock:
            count = min(count, self.losses.get(reason, 0))
            if count:
                self.offered -= count
                self.dropped -= count
                self.evicted -= count
                self.losses[reason] -= count
            return count

    def has_room(self) -> bool:
        """Whether so little waits that whoever waits for room is woken: for who fills half a queue and leaves the
        other half to others."""
        with self.lock:
            return self.refusing is None and not self.spilling and not self._full()

    def accepted(self) -> int:
        """Records that are, or were, the plugin's: in order, and counted from the start. Without the lock it may be a
        little old."""
        return self.offered + self.carried - self.filtered - (self.dropped - self.evicted)

    def done_with(self) -> int:
        """Of `accepted`: records that are the plugin's no more, or are its own now. As old."""
        return self.delivered + self.quarantined + self.evicted

    def _advance(self) -> None:
        """The plugin is done with more of what was accepted. Lock held."""
        self.progress.append((time.monotonic(), self.done_with()))

    def _drop_oldest(self, block: Block) -> Block:
        """Make room for the block at the cost of what waits longest; returns what of it is to be taken."""
        for old in self.queue.make_room(block):
            self._lose_front(old)
        if self.queue or self.queue.fits(block):
            return block
        head, rest = self.queue.newest_part(block)
        if head is not None:
            self.offered += head.records
            if self.gap is not None:
                # Nothing waits between the two places where records are missing: they are one.
                if self.front_gap is None:
                    self.front_gap = Gap(self.gap.reason)
                self.front_gap.extend(self.gap)
                self.gap = None
            self._lose_front(head)
        return rest

    def _stage(self, block: Block, wait: bool) -> Block | None:
        size = len(block.data) + BLOCK_OVERHEAD
        if self.staged and self.staged_bytes + size > self._stage_room():
            if wait or self.required:
                return block
            self.offered += block.records
            self._lose(block, self.stage_problem or "overflow")
            return None
        self.stage_gap()
        self.offered += block.records
        self._stage_now(block)
        return None

    def _memory_full(self, block: Block) -> bool:
        size = self.queue.bytes + len(block.data) + BLOCK_OVERHEAD
        return size > self.queue.max_bytes * MEMORY_FRACTION or not self.queue.fits(block)

    def _stage_room(self) -> float:
        """Bytes that may be staged: what memory does not hold, or the least share."""
        whole = self.queue.max_bytes
        return max(whole * STAGE_FRACTION, whole - self.queue.bytes)

    def stage_gap(self) -> None:
        """Put the marker of an open gap behind what is staged. Lock held."""
        if self.gap is not None:
            marker = self.mark(self.name, self.gap)
            self.gap = None
            # On disk it is a record like any other, so it enters the books like one.
            self.carried += 1
            self._stage_now(Block(marker.data, 1, marker.source, marker.arrived))

    def _stage_now(self, block: Block) -> None:
        self.staged.append(block)
        self.staged_records += block.records - block.own
        self.staged_bytes += len(block.data) + BLOCK_OVERHEAD
        self.stage_wake()

    def unstage(self) -> None:
        """Take off the oldest staged block: it is on disk, or back in memory. Lock held."""
        block = self.staged.popleft()
        self.staged_records -= block.records - block.own
        self.staged_bytes -= len(block.data) + BLOCK_OVERHEAD

    def tell(self, gap: Gap) -> None:
        """Put a marker behind what waits in memory, for a loss that is in the books already or in none. Lock held."""
        self.queue.force(self._marker(gap))
        self.wake()

    def lose_stored(self, count: int, reason: str) -> None:
        """Records that were on disk turn out not to be there. Lock held."""
        self.disk -= count
        self._book_loss(count, reason)
        self.evicted += count
        self.tell(Gap(reason, count))

    def on_room(self, call: Callable[[], None]) -> None:
        """Call once, from whichever thread makes room, when `offer` is worth trying again.

        That is at once if nothing waits (an empty queue takes at least one record), else when half has drained.
        """
        with self.lock:
            if self.refusing is not None or not (self.staged if self.spilling else self.queue):
                call()
            else:
                self._room.append(call)

    def _full(self) -> bool:
        if self.refusing is not None:
            return False
        if self.spilling:
            return self.staged_bytes > self._stage_room() * ROOM_FRACTION
        queue = self.queue
        return queue.bytes > queue.max_bytes * ROOM_FRACTION or (
            queue.max_records is not None and queue.records > queue.max_records * ROOM_FRACTION
        )

    def check_room(self) -> None:
        """Wake who waits for room, if there is some; lock held."""
        if self._room and not self._full():
            self.let_go()

    def let_go(self) -> None:
        """Wake who waits for room, to try again and be told; lock held."""
        calls, self._room = self._room, []
        for call in calls:
            call()

    # ---- losses ----

    def squeeze_in(self, block: Block) -> None:
        """Take one of the dispatcher's own records that `offer` gave back, within OWN_SPARE beyond the bound; else it
        is lost, and booked."""
        with self.lock:
            self.offered += block.records
            room = self.queue.max_bytes + OWN_SPARE - self.queue.bytes - len(block.data) - BLOCK_OVERHEAD
            if room < 0 or self.spilling:
                self._lose(block, "overflow")
                return
            self.queue.force(block)
            if self.gap is not None:
                self.queue.slip_in(self._marker(self.gap))
                self.gap = None
            self.wake()

    def _lose(self, block: Block, reason: str) -> None:
        self._book_loss(block.records - block.own, reason)
        if self.gap is None:
            self.gap = Gap(reason)
            if reason in NO_ROOM:
                self.overflowed()
        self.gap.add(block)

    def _lose_front(self, block: Block) -> None:
        self._book_loss(block.records - block.own, "overflow")
        self.evicted += block.records - block.own
        self._advance()
        if self.front_gap is None:
            self.front_gap = Gap("overflow")
            self.overflowed()
        self.front_gap.add(block)

    def _book_loss(self, count: int, reason: str) -> None:
        if count:
            self.dropped += count
            self.losses[reason] = self.losses.get(reason, 0) + count

    def _marker(self, gap: Gap) -> Marker:
        self.lost_lately.append(gap)
        return Marker(self.mark(self.name, gap), gap)

    # ---- the runner's side ----

    def take(self, merge_bytes: int) -> Block | None:
        """The next block to deliver, or None. The runner holds it until `acknowledge` or `give_back`. Lock held."""
        if self.front_gap is not None:
            front, self.front_gap = self.front_gap, None
            return self._marker(front)
        block = self.queue.pop(merge_bytes)
        if block is None:
            if self.gap is None or self.spilling:
                if self.spilling:
                    self.stage_wake()
                return None
            block = self._marker(self.gap)
            self.gap = None
        self.held += block.records - block.own
        if self._room:
            self.check_room()
        if self.spilling and not self.queue:
            self.stage_wake()
        return block

    def acknowledge(self, records: int, own: int, arrived: float, spooled: bool) -> None:
        """records (without own) taken by `take` are delivered. Lock held."""
        self.held -= records
        self.delivered += records
        self.own += own
        if spooled:
            self.spool_done(records)
        now = time.monotonic()
        self.progress.append((now, self.done_with()))
        delay = now - arrived
        if delay > self.delay_max:
            self.delay_max = delay

    def give_back(self, block: Block) -> None:
        """What was taken and not delivered comes back as the next to take. Lock held."""
        count = block.records - block.own
        self.held -= count
        self.redelivered += count
        if self.front_gap is not None:
            # What was dropped meanwhile came after this block.
            self.queue.push_front(self._marker(self.front_gap))
            self.front_gap = None
        self.queue.push_front(block)

    def quarantine(self, block: Block) -> None:
        """The plugin refused the block for good. Lock held."""
        count = block.records - block.own
        self.held -= count
        self.quarantined += count
        self._advance()
        if block.spooled:
            self.spool_done(count)

    def idle(self) -> bool:
        """Nothing to take, in memory or on disk. Lock held."""
        return not self.queue and not self.spilling and self.front_gap is None and self.gap is None

    def suspend(self, reason: str) -> None:
        """Drop whatever is offered from now on, for this reason."""
        with self.lock:
            self.refusing = reason
            self.check_room()

    def resume(self) -> None:
        """Undo `suspend`."""
        with self.lock:
            self.refusing = None
            if self.gap is not None:
                self.wake()

    def abandon(self, reason: str) -> int:
        """Book all that waits in memory as lost, and refuse what comes (at the end of a drain, when a plugin is removed
        or given up). Whoever waits for room is let go. Returns how many records."""
        with self.lock:
            before = self.dropped
            self.refusing = reason
            gap, behind = self.front_gap or Gap(reason), self.gap
            self.front_gap = self.gap = None
            for block in self.queue.clear():
                self._book_loss(block.records - block.own, reason)
                self.evicted += block.records - block.own
                gap.add(block)
                if block.spooled:
                    self.spool_done(block.records)
            while self.staged:
                gap.add(self.staged[0])
                self._book_loss(self.staged[0].records, reason)
                self.evicted += self.staged[0].records
                self.unstage()
            if behind is not None:
                gap.extend(behind)
            if gap.count:
                self.gap = gap
            self.check_room()
            return self.dropped - before

    # ---- the books ----

    def waiting(self) -> int:
        """Records that wait anywhere. Lock held."""
        return self.queue.records + self.held + self.staged_records + self.disk

    def books(self) -> Books:
        """The ledger now."""
        with self.lock:
            return self.books_locked()

    def books_locked(self) -> Books:
        """The ledger now, for a caller that has the lock."""
        return Books(
            offered=self.offered,
            carried=self.carried,
            delivered=self.delivered,
            filtered=self.filtered,
            dropped=self.dropped,
            quarantined=self.quarantined,
            waiting=self.waiting(),
            own=self.own,
            redelivered=self.redelivered,
        )
