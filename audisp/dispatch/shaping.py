"""Shapes in the dispatcher: one rendering of a batch, shared by all plugins that ask for the same shape.

Rendering happens in the runner of the plugin that comes first, never in the source's thread; who comes meanwhile waits
for it, and who comes later finds it. A rendering is kept as long as its batch is among the last `KEPT_BYTES` of
renderings: a plugin that is far behind has its own made again rather than pinning everybody's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from audisp.event import Batch, as_batch
from audisp.parse.record import RecordReader
from audisp.record import Block
from audisp.shapes import shape as shapes
from audisp.shapes.shape import render_batch

KEPT_BYTES: Final = 8 * 1024 * 1024
"""Of rendered text kept for others: some tens of the largest batches."""
EVENT_COST: Final = 4
"""What a batch whose events were made holds, in times its bytes: objects, lines and records (measured on mixed.log: 2
to 4)."""


@attrs.frozen
class Rendering:
    """A batch in one shape. ends: for each event, where its text ends in `data`; text of nothing is possible."""

    data: bytes
    ends: list[int]


class Form(Protocol):
    """How a plugin is given its records."""

    def render(self, block: Block) -> Rendering:
        """The text of one block or batch."""


class SharedShape:
    """One shape with its settings. From any thread."""

    def __init__(self, shape: shapes.Shape, reader: RecordReader, kept: Kept) -> None:
        self._shape = shape
        self._reader = reader
        self._kept = kept
        self._lock = threading.Lock()

    def render(self, block: Block) -> Rendering:
        """Of a batch that others may have asked for already."""
        batch = as_batch(block, self._reader)
        with self._lock:
            found = batch.once(self, self._make)
        self._kept.note(batch, len(found.data))
        return found

    def _make(self, batch: Batch) -> Rendering:
        texts = render_batch(self._shape, batch)
        ends, end = [], 0
        for text in texts:
            end += len(text)
            ends.append(end)
        return Rendering(b"".join(texts), ends)


class Kept:
    """The batches whose renderings and events are still there for others. From any thread."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max = max_bytes
        self._lock = threading.Lock()
        self._batches: deque[tuple[Batch, int]] = deque()
        self._bytes = 0

    def note(self, batch: Batch, size: int) -> None:
        """A batch was looked into, and holds about `size` bytes more for it; the oldest such are let go of."""
        size += EVENT_COST * len(batch.data)
        with self._lock:
            if self._batches and self._batches[-1][0] is batch:
                return
            self._batches.append((batch, size))
            self._bytes += size
            while self._bytes > self._max and len(self._batches) > 1:
                old, cost = self._batches.popleft()
                self._bytes -= cost
                if old is not batch:
                    old.forget()


class Shaping:
    """All shapes of one dispatcher, each made once."""

    def __init__(self, reader: RecordReader, make: Callable[[str, str], shapes.Shape]) -> None:
        self.reader = reader
        self.kept = Kept()
        self._make = make
        self._shapes: dict[tuple[str, str], SharedShape] = {}

    def shared(self, name: str, version: str) -> SharedShape:
        """The shape of this name and `shape_version`. Raises ConfigError for one that there is not."""
        key = (name, version)
        if key not in self._shapes:
            self._shapes[key] = SharedShape(self._make(name, version), self.reader, self.kept)
        return self._shapes[key]

    def as_events(self, block: Block) -> Block:
        """What a plugin that wants events is given."""
        batch = as_batch(block, self.reader)
        self.kept.note(batch, 0)
        return batch

    def as_text(self, shared: SharedShape) -> Callable[[Block], Block | None]:
        """What a plugin that wants blocks is given of a shape: its text, None for no text at all."""

        def shaped(block: Block) -> Block | None:
            data = shared.render(block).data
            if not data:
                return None
            return Block(data, block.records, block.source, block.arrived, own=block.own, spooled=block.spooled)

        return shaped
