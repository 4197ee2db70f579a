"""What passed lately, so that `audisp explain EVENT-ID` can say what became of one event. Nothing is kept per record.

Of each block and batch: when it came, whence, its text (compressed once a second, off the stream's way), and how many
records every queue concerned had accepted by then. Of each queue: how many it was done with, and when. Both together
say when a queue was done with a block. Bounded in time and in bytes of the stream; at a rate that cannot be compressed
in passing the text is let go of first, and the serials at its ends are all that is known of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import zstandard

from audisp.dispatch.intake import Intake
from audisp.event import Run, runs
from audisp.record import Block

MAX_SECONDS: Final = 600.0
"""An answer is wanted for what somebody has just seen."""
MAX_STREAM: Final = 64 * 1024 * 1024
"""Bytes of the stream that are looked back on."""
MAX_PLAIN: Final = 4 * 1024 * 1024
"""Of these, bytes that may wait to be compressed."""
MAX_PACKED: Final = 8 * 1024 * 1024
"""And bytes that the compressed ones may take: an eighth, which audit records do with (they pack to about a tenth)."""
MAX_ENTRIES: Final = 65_536
"""Blocks and batches: a slow stream makes one for every event."""
LEVEL: Final = 1
"""Of zstd: 500 MB/s and more, a tenth of the size."""


@attrs.define(eq=False)
class Passed:
    """One block, or one batch, that was offered to the plugins.

    accepted: by plugin, how many records its queue had accepted when this had been offered.
    """

    source: str
    events: bool
    arrived: float
    """time.monotonic() at which the source had its first record."""
    offered: float
    """time.monotonic() at which it had been offered to all."""
    size: int
    accepted: tuple[tuple[str, int], ...]
    plain: bytes | None
    marks: dict[int, int] | None = None
    packed: bytes | None = None
    serials: tuple[int, int] | None = None
    """First and last, where the text is not kept."""

    def text(self) -> bytes | None:
        """The records, if they are kept."""
        if self.plain is not None:
            return self.plain
        if self.packed is None:
            return None
        return zstandard.ZstdDecompressor().decompress(self.packed, max_output_size=self.size)


class History:
    """See the module's text. `note` is for the routing threads, everything else for the loop and its workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Passed] = deque()
        self._plain: deque[Passed] = deque()
        self._plain_bytes = 0
        self._packed_bytes = 0
        self._stream_bytes = 0

    def note(self, block: Block, intakes: Sequence[Intake], *, events: bool, marks: dict[int, int] | None) -> None:
        """A block or batch has been offered to these."""
        entry = Passed(
            block.source,
            events,
            block.arrived,
            time.monotonic(),
            len(block.data),
            tuple([(intake.name, intake.accepted()) for intake in intakes]),
            block.data,
            marks,
        )
        with self._lock:
            self._entries.append(entry)
            self._plain.append(entry)
            self._plain_bytes += entry.size
            self._stream_bytes += entry.size
            while self._plain_bytes > MAX_PLAIN:
                self._let_go(self._plain.popleft())
            while self._stream_bytes > MAX_STREAM or len(self._entries) > MAX_ENTRIES:
                self._drop_oldest()

    def _let_go(self, entry: Passed) -> None:
        """Too fast to be compressed in passing: only the serials at its ends stay. Lock held."""
        if entry.plain is None:
            return
        self._plain_bytes -= entry.size
        block = Block(entry.plain, 0, entry.source, 0.0)
        first, last = block.first_serial(), block.last_serial()
        entry.plain = None
        entry.serials = None if first is None or last is None else (first, last)

    def _drop_oldest(self) -> None:
        entry = self._entries.popleft()
        self._stream_bytes -= entry.size
        if entry.plain is not None:
            self._plain_bytes -= entry.size
            entry.plain = None
        if entry.packed is not None:
            self._packed_bytes -= len(entry.packed)
            entry.packed = None

    def tidy(self) -> None:
        """Compress what waits, forget what is old. In a worker thread, about once a second."""
        packer = zstandard.ZstdCompressor(level=LEVEL)
        while True:
            with self._lock:
                now = time.monotonic()
                while self._entries and now - self._entries[0].offered > MAX_SECONDS:
                    self._drop_oldest()
                while self._packed_bytes > MAX_PACKED:
                    self._drop_oldest()
                entry = self._plain.popleft() if self._plain else None
            if entry is None:
                return
            plain = entry.plain
            if plain is None:
                continue
            packed = packer.compress(plain)
            with self._lock:
                if entry.plain is not None:  # else it has been dropped meanwhile
                    entry.plain = None
                    self._plain_bytes -= entry.size
                    entry.packed = packed
                    self._packed_bytes += len(packed)

    def entries(self) -> list[Passed]:
        """All of it, oldest first."""
        with self._lock:
            return list(self._entries)

    def find(self, head: bytes, serial: int) -> Iterator[tuple[Passed, list[Run] | None]]:
        """The blocks and batches that have records of this head (``audit(SEC.MSEC:SERIAL):``), with their runs of it,
        oldest first; None for one that may have some, whose text is not kept. In a worker thread: it unpacks what it
        looks into. Only a record's own stamp counts, not one that somebody wrote into a value."""
        for entry in self.entries():
            text = entry.text()
            if text is None:
                if entry.serials is not None and entry.serials[0] <= serial <= entry.serials[1]:
                    yield entry, None
            elif head in text:
                found = [run for run in runs(text) if run[2] == head]
                if found:
                    yield entry, found
