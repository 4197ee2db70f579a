"""One plugin's waiting room: blocks in order, bounded in bytes and, where asked, in records.

Pure state, no lock and no clock; `dispatch/intake.py` puts both around it. Bytes are counted whole: a block that waits
costs its data plus `BLOCK_OVERHEAD`, however many other queues hold the same block, so the sum of all queues' bounds
is an upper bound of the memory that waiting can take.

A loss is a `Gap`. It lies either before the oldest block (`drop_oldest`) or behind the newest one (everything else),
and stays open, growing, until the next block passes that place; there the host puts a marker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from audisp.record import Block, join

OWN_SOURCE: Final = "internal"
"""Source of the dispatcher's own records, which travel in anybody's company."""

BLOCK_OVERHEAD: Final = 256
"""Bytes that a waiting block costs beside its data: the Block, its bytes object's head, stamp, count, and the queue's
slot (measured with sys.getsizeof and malloc's rounding: about 230)."""

MERGE_BYTES: Final = 256 * 1024
"""A plugin gets at most about this many bytes at once: few calls at a high rate, little copying, and one
merge holds the interpreter for well under a millisecond."""


@attrs.define
class Gap:
    """Records lost in one place. first and last are the serials at its ends, None if no lost record had one.

    reason is the first loss's; what is lost in the same place for another one is counted with it."""

    reason: str
    count: int = 0
    first: int | None = None
    last: int | None = None

    def add(self, block: Block) -> None:
        """Enter all records of the block as lost, behind what is lost already. A marker that is lost brings the loss
        that it would have told of, so that no loss goes untold."""
        if isinstance(block, Marker):
            self.extend(block.gap)
        elif not block.own:
            self.extend(Gap("", block.records, block.first_serial(), block.last_serial()))

    def extend(self, later: Gap) -> None:
        """Enter what another gap holds, behind what is lost already."""
        self.count += later.count
        if self.first is None:
            self.first = later.first
        if later.last is not None:
            self.last = later.last


class Marker(Block):
    """The host's own record about a gap, for the plugin that lost: one record, never merged with others, so that what
    is told and what is delivered can always be kept apart."""

    __slots__ = ("gap",)

    def __init__(self, record: Block, gap: Gap) -> None:
        super().__init__(record.data, 1, record.source, record.arrived, own=1)
        self.gap = gap


@attrs.define(eq=False)
class BlockQueue:
    """A bounded queue of blocks. max_records None: bounded in bytes alone."""

    max_bytes: int
    max_records: int | None = None
    bytes: int = 0
    records: int = 0
    """Records that wait, the host's own markers not counted."""
    peak_bytes: int = 0
    merges: bool = True
    """Whether `pop` may join blocks. A batch keeps its events, and what others have made of them, only unjoined."""
    by_source: bool = False
    """Whether it joins only blocks of one source: for who is to see whose records they are."""
    _blocks: deque[Block] = attrs.field(factory=deque)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def oldest(self) -> float | None:
        """time.monotonic() at which the oldest waiting block arrived."""
        return self._blocks[0].arrived if self._blocks else None

    def push(self, block: Block) -> Block | None:
        """Append what fits, cut at a record boundary; return what does not.

        An empty queue takes at least one record (of a batch, one event), however large, or a bound below one would
        never let any pass.
        """
        if self.fits(block):
            self.force(block)
            return None
        head, rest = self._cut(block)
        if head is not None:
            self.force(head)
        return rest

    def _cut(self, block: Block) -> tuple[Block | None, Block | None]:
        room = self.max_bytes - self.bytes - BLOCK_OVERHEAD
        if self.max_records is not None:
            free = max(self.max_records - self.records, 0)
            end = 0
            for _ in range(min(free, block.records)):
                end = block.data.find(b"\n", end) + 1
            room = min(room, end)
        return block.split(room if self._blocks else max(room, block.first_end()))

    def _count(self, block: Block, sign: int) -> None:
        self.bytes += sign * (len(block.data) + BLOCK_OVERHEAD)
        self.records += sign * (block.records - block.own)
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes

    def force(self, block: Block) -> None:
        """Append whatever the bounds say: for what is taken back from elsewhere."""
        self._blocks.append(block)
        self._count(block, 1)

    def slip_in(self, marker: Marker) -> None:
        """Put a marker before the newest block. The bounds do not hold it back, and it counts: it comes with a block
        that found room, so a full queue exceeds its bound by one marker at most."""
        newest = self._blocks.pop()
        self._blocks.append(marker)
        self._blocks.append(newest)
        self._count(marker, 1)

    def push_front(self, block: Block) -> None:
        """Put back what was taken and not delivered, whatever the bounds say."""
        self._blocks.appendleft(block)
        self._count(block, 1)

    def pop(self, merge_bytes: int = MERGE_BYTES) -> Block | None:
        """Take the oldest blocks, merged up to merge_bytes (always at least one block). None if empty.

        Blocks from the spool and others are never merged, nor are markers: their delivery is booked in different
        places. Nor are those of which one has a place in its source and the other has none there.
        """
        blocks = self._blocks
        if not blocks:
            return None
        first = blocks.popleft()
        self._count(first, -1)
        size = len(first.data)
        if not self.merges or not blocks or first.own or size + len(blocks[0].data) > merge_bytes:
            return first
        taken = [first]
        while blocks and size + len(blocks[0].data) <= merge_bytes and not blocks[0].own:
            if blocks[0].spooled != first.spooled or not first.joins(blocks[0]):
                break
            if self.by_source and blocks[0].source != first.source:
                break
            block = blocks.popleft()
            self._count(block, -1)
            size += len(block.data)
            taken.append(block)
        return join(taken)

    def fits(self, block: Block) -> bool:
        """Whether `push` would take all of it and stay within the bounds."""
        return self.bytes + len(block.data) + BLOCK_OVERHEAD <= self.max_bytes and (
            self.max_records is None or self.records + block.records <= self.max_records
        )

    def make_room(self, block: Block) -> list[Block]:
        """Take out the oldest blocks until `block` fits or nothing is left; return them, oldest first."""
        out = []
        while self._blocks and not self.fits(block):
            oldest = self._blocks.popleft()
            self._count(oldest, -1)
            out.append(oldest)
        return out

    def newest_part(self, block: Block) -> tuple[Block | None, Block]:
        """Cut a block that an empty queue cannot hold: (what has to go, the newest records that fit, at least one)."""
        data, cut = block.data, 0
        room = max(self.max_bytes - BLOCK_OVERHEAD, 0)
        if len(data) > room:
            cut = data.find(b"\n", max(len(data) - room - 1, 0)) + 1
            if cut == len(data):
                cut = data.rfind(b"\n", 0, -1) + 1
        if self.max_records is not None:
            for _ in range(data.count(b"\n", cut) - self.max_records):
                cut = data.index(b"\n", cut) + 1
        head, rest = block.split(cut) if cut else (None, block)
        assert rest is not None
        return head, rest

    def clear(self) -> list[Block]:
        """Take everything out."""
        out = list(self._blocks)
        self._blocks.clear()
        self.bytes = self.records = 0
        return out
