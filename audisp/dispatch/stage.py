"""The stage between a source and the plugins that want events: assembly, done once for all of them.

One `Stage` per source, so that an event belongs to its origin. It is fed in the source's own thread or task, with the
block that the other plugins get at the same time, and it passes on what is complete; what is quiet for
`end_of_event_timeout` is put out from the loop. `Wanted` is one plugin: its
intake, and what its filters let pass.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import attrs

from audisp.dispatch.intake import Intake
from audisp.event import Batch
from audisp.parse.assemble import Assembler
from audisp.parse.filter import Selection
from audisp.parse.record import RecordReader
from audisp.record import Block

TICKS_PER_TIMEOUT: Final = 4
"""Looks at what is quiet in one `end_of_event_timeout`: an event waits at most a quarter longer than it must."""
TICK_MIN: Final = 0.05
"""Seconds; a timeout of nothing must not make us spin."""

_SERIAL: Final = re.compile(rb":(\d+)\):\Z")


@attrs.frozen(eq=False)
class Wanted:
    """A plugin that wants events. selection None: all of them."""

    intake: Intake
    selection: Selection | None = None

    def pick(self, batch: Batch, picked: dict[Selection, Batch | None]) -> Batch | None:
        """What of the batch is offered to the plugin; the rest is entered as filtered. picked: what the same filters
        of other plugins have found in this batch; not kept with it, or a slow plugin's queue would hold it too."""
        selection = self.selection
        if selection is None:
            return batch
        if selection not in picked:
            picked[selection] = selection.pick(batch)
        kept = picked[selection]
        left_out = batch.records - (0 if kept is None else kept.records)
        if left_out:
            self.intake.filter_out(left_out)
        return kept


class Stage:
    """One source's assembler, for whoever calls: each method may be called from any thread."""

    def __init__(
        self,
        source: str,
        reader: RecordReader,
        *,
        timeout: float,
        recorded: bool,
        look: Callable[[Batch], None] | None = None,
    ) -> None:
        """look: called with every batch, in order, before anybody else sees it."""
        self._assembler = Assembler(source, reader, timeout=timeout, recorded=recorded)
        self._lock = threading.Lock()
        self._look = look

    @property
    def pause(self) -> float:
        """Seconds between two calls of `tick`."""
        return max(self._assembler.timeout / TICKS_PER_TIMEOUT, TICK_MIN)

    @property
    def open_records(self) -> int:
        """Records that wait here for the end of their event."""
        return self._assembler.open_records

    @property
    def fed(self) -> int:
        """Records that came in."""
        return self._assembler.counts.records_in

    def put_out(self) -> int:
        """So many of the records that came in first have gone out, all of them."""
        with self._lock:
            return self._assembler.put_out()

    def set_timeout(self, seconds: float) -> None:
        """A reload may bring another `end_of_event_timeout`."""
        self._assembler.timeout = seconds

    def feed(self, block: Block) -> Batch | None:
        """Take a block in; the events that are complete now."""
        with self._lock:
            return self._seen(self._assembler.feed(block, time.monotonic()))

    def tick(self) -> Batch | None:
        """The events that have been quiet for too long."""
        if not self._assembler.open_records:
            return None
        with self._lock:
            return self._seen(self._assembler.tick(time.monotonic()))

    def flush(self) -> Batch | None:
        """All that is left: the source has ended."""
        with self._lock:
            return self._seen(self._assembler.flush(time.monotonic()))

    def _seen(self, batch: Batch | None) -> Batch | None:
        if batch is not None and self._look is not None:
            self._look(batch)
        return batch

    def first_serial(self) -> int | None:
        """The lowest serial of what waits here."""
        with self._lock:
            found = [_SERIAL.search(head) for head in self._assembler.open_heads()]
        return min((int(each[1]) for each in found if each is not None), default=None)

    def view(self) -> dict[str, Any]:
        """Counts for status."""
        with self._lock:
            counts = attrs.asdict(self._assembler.counts)
            return counts | {
                "open_events": self._assembler.open_events,
                "open_records": self._assembler.open_records,
                "open_bytes": self._assembler.open_bytes,
            }
