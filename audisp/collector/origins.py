"""Events out of the records of many hosts: one assembler for each, because an event belongs to its origin. What two
hosts call by the same node, time and serial are two events.

Besides that it is known of every host from which number of the store on its records are needed again if the process
ends now: those of events that wait for their end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from audisp.event import Batch
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block

MAX_QUIET: Final = 16_384
"""Hosts that are remembered though none of their events is open: what an assembler knows of a host (whether it sends
EOE, which events have gone out) is learned again within one timeout. Each takes 5 KiB, for each plugin that wants
events."""

REMEMBERED: Final = 8
"""Events of one host that have gone out and are known to have, for late records of theirs: those come at once or never,
and there are thousands of hosts."""

MAX_EVENTS: Final = 1_024
MAX_BYTES: Final = 8 << 20
"""Open events of one host, and bytes of theirs: an execve with the most arguments that there can be, and some."""


class Origin:
    """One host's assembler. low: number in the store of the oldest record in it, or of an older one."""

    __slots__ = ("_fed", "assembler")

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self._fed: deque[tuple[int, int]] = deque()

    @property
    def low(self) -> int | None:
        """None: nothing is in it."""
        return self._fed[0][1] if self._fed else None

    def feed(self, block: Block, number: int, now: float) -> tuple[Batch | None, int]:
        """The events that are complete now, and the least number that one of their records can have."""
        assembler = self.assembler
        low = self._fed[0][1] if self._fed else number
        before = assembler.counts.records_in
        batch = assembler.feed(block, now)
        if not assembler.open_records:
            self._fed.clear()
        else:
            self._fed.append((before, number))
        return batch, low

    def settle(self) -> None:
        """Find out again what `low` is."""
        if not self.assembler.open_records:
            self._fed.clear()
            return
        out = self.assembler.put_out()
        while len(self._fed) > 1 and self._fed[1][0] <= out:
            self._fed.popleft()


class Origins:
    """All hosts'. Not thread-safe. timeout: seconds."""

    def __init__(self, reader: RecordReader, timeout: float) -> None:
        self._reader = reader
        self._timeout = timeout
        self._open: dict[str, Origin] = {}
        self._quiet: OrderedDict[str, Origin] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether any event waits for its end."""
        return bool(self._open)

    @property
    def open_records(self) -> int:
        """Records that wait for the end of their event."""
        return sum(origin.assembler.open_records for origin in self._open.values())

    @property
    def open_events(self) -> int:
        """Events that wait for their end."""
        return sum(origin.assembler.open_events for origin in self._open.values())

    def set_timeout(self, seconds: float) -> None:
        """A reload may bring another `end_of_event_timeout`."""
        if seconds != self._timeout:
            self._timeout = seconds
            for origin in (*self._open.values(), *self._quiet.values()):
                origin.assembler.timeout = seconds

    def feed(self, block: Block, number: int, now: float) -> tuple[Batch | None, int]:
        """Take in a block that stands at this number of the store: the events of its host that are complete now, and
        the least number that one of their records can have. now: time.monotonic()."""
        identity = block.source
        origin = self._open.get(identity)
        if origin is None:
            origin = self._quiet.pop(identity, None)
            if origin is None:
                assembler = Assembler(
                    identity,
                    self._reader,
                    timeout=self._timeout,
                    max_events=MAX_EVENTS,
                    max_bytes=MAX_BYTES,
                    remembered=REMEMBERED,
                )
                origin = Origin(assembler)
            self._open[identity] = origin
        found = origin.feed(block, number, now)
        if not origin.assembler.open_records:
            self._hush(identity)
        return found

    def tick(self, now: float) -> Iterator[tuple[Batch, int]]:
        """The events that have been quiet for the timeout, each batch with the least number of its records."""
        for identity, origin in tuple(self._open.items()):
            low = origin.low
            batch = origin.assembler.tick(now)
            if batch is not None and low is not None:
                yield batch, low
            if not origin.assembler.open_records:
                self._hush(identity)

    def flush(self, now: float) -> Iterator[tuple[Batch, int]]:
        """As `tick`, all that is left."""
        for identity, origin in tuple(self._open.items()):
            low = origin.low
            batch = origin.assembler.flush(now)
            self._hush(identity)
            if batch is not None and low is not None:
                yield batch, low

    def low(self) -> int | None:
        """The least number in the store of a record that waits here; None: there is none. Takes a look at every open
        event."""
        lows = []
        for origin in self._open.values():
            origin.settle()
            if origin.low is not None:
                lows.append(origin.low)
        return min(lows, default=None)

    def _hush(self, identity: str) -> None:
        origin = self._open.pop(identity)
        origin.settle()
        self._quiet[identity] = origin
        if len(self._quiet) > MAX_QUIET:
            self._quiet.popitem(last=False)
