"""From blocks to batches: one source's records, grouped by event. Pure; the time comes in as an argument.

Most of a stream needs no bookkeeping: a run of neighbouring lines with one stamp, the last of which ends its event,
is an event, and is found by one regular expression (`audisp.event.runs`). Only what is interlaced, or goes on in the
next block, is kept in a table until its end comes. So assembling costs about as much as looking for line ends.

An event is complete

- with its EOE;
- with a record that stands alone by its type (user-space messages, DAEMON_*, and some of the kernel's);
- with PROCTITLE, if its node sends no EOE: auditd's log has none, nor what audisp-remote sends. Of a recorded stream
  that is believed until an EOE comes; of a live one once an event was quiet for too long behind its PROCTITLE;
- when none of its records has come for `timeout` seconds on our clock (`tick` must be called for that), however far
  the stamps jump: TIMED_OUT;
- in a recorded stream, which knows no clock of ours, when the stamps of its node have gone on by `timeout` seconds and
  SETTLED records have passed: a clock that was set while it was recorded is no reason to tear events apart;
- when a bound of the table is reached, the oldest first, or at the stream's end: INCOMPLETE.

Whatever is complete goes out at once: one that waits never holds back another. Records of an event that has gone out
make a LATE one. Every record that comes in goes out in exactly one batch: ``records_in = records_out + open_records``.
"""

from __future__ import annotations

import operator
from typing import Final

import attrs

from audisp.event import INCOMPLETE, LATE, NO_STAMP, TIMED_OUT, Batch, Run, count_lines, runs
from audisp.parse.record import RecordReader
from audisp.parse.types import type_number
from audisp.record import Block

TIMEOUT: Final = 2.0
"""Seconds; auditd's default of `end_of_event_timeout`."""
MAX_EVENTS: Final = 4_096
"""Open events of one source. The kernel interlaces as many as it has processors in a system call; a collector's sender
that never ends any must not grow us."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Bytes of open events of one source. An execve with the most arguments there can be makes some 6 MiB of records."""
MAX_RUNS: Final = 65_536
"""Pieces of one open event: one whose lines come one by one costs more memory than its bytes say."""
REMEMBERED: Final = 8_192
"""Events gone out of which we remember that they did, to call what comes after them late. Two such generations.
`remembered` in its place is for who has an assembler for each of thousands of hosts."""
SETTLED: Final = 1_024
"""Records of a recorded stream after which an event that is behind by its stamp counts as whole."""
NODES: Final = 1_024
"""Nodes of which we remember whether they send EOE. The others' events end as those of a node just seen do."""

_EOE: Final = b"type=EOE "
_PROCTITLE: Final = b"type=PROCTITLE "

LOGIN: Final = 1006


Key = tuple[bytes, ...]
"""Node part and head, as they stand in each line of the event."""


def stands_alone(number: int) -> bool:
    """Whether a record of this type is an event by itself (upstream.md 8.1): a user-space message, a daemon's record,
    the kernel's own state. LOGIN is not: the SYSCALL that wrote the loginuid follows it. 0, an unknown name, is one."""
    return (number < 1300 and number != LOGIN) or number == 2000 or number >= 2100 or 1406 <= number <= 1419


@attrs.define(eq=False)
class _Open:
    """One event that waits for its end."""

    runs: list[bytes]
    size: int
    records: int
    first: float
    """When its first record came."""
    last: float
    """When its last one came."""
    seen: int
    """`Counts.records_in` then."""
    begun: int
    """`Counts.records_in` before the block in which its first record came."""
    flags: int = 0


@attrs.define(eq=False)
class _Out:
    """Events on their way out. flags: by position, of those that have any."""

    runs: list[Run] = attrs.field(factory=list)
    flags: dict[int, int] = attrs.field(factory=dict)

    def add(self, run: Run, flags: int) -> None:
        """One more."""
        if flags:
            self.flags[len(self.runs)] = flags
        self.runs.append(run)


@attrs.define
class Counts:
    """What the assembler has done, in records unless another unit is named."""

    records_in: int = 0
    records_out: int = 0
    events: int = 0
    """Events put out."""
    timed_out: int = 0
    """Events that were quiet for the timeout."""
    incomplete: int = 0
    """Events put out because of a bound, or at the end of the stream."""
    late: int = 0
    """Events made of records whose event had gone out."""
    without_stamp: int = 0
    """Records that belong to no event."""


class Assembler:
    """Assembles one source's stream. Not thread-safe: the owner holds a lock around every call.

    source: the origin's name, part of every event's identity. timeout: seconds. recorded: the stream is a file's.
    at_once: each batch is looked at before the next is made, and nobody keeps it.
    """

    def __init__(
        self,
        source: str,
        reader: RecordReader,
        *,
        timeout: float = TIMEOUT,
        recorded: bool = False,
        at_once: bool = False,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        remembered: int = REMEMBERED,
    ) -> None:
        self.source = source
        self.reader = reader
        self.timeout = timeout
        self.counts = Counts()
        self.open_bytes = 0
        self.open_records = 0
        self._max_events, self._max_bytes, self._remembered = max_events, max_bytes, remembered
        self._recorded = recorded
        self._at_once = at_once
        # In order of their last record, so that the first is the one to time out next.
        self._open: dict[Key, _Open] = {}
        self._gone: set[Key] = set()
        self._gone_before: set[Key] = set()
        self._eoe: dict[bytes, bool] = {}
        self._alone: dict[bytes, bool] = {}
        self._before = 0  # records that came before the block that is looked at

    @property
    def open_events(self) -> int:
        """Events that wait for their end."""
        return len(self._open)

    def open_heads(self) -> list[bytes]:
        """``audit(SEC.MSEC:SERIAL):`` of each of them."""
        return [head for _, head in self._open]

    def oldest(self) -> float | None:
        """When the first record of the event that waits longest came; None if none waits."""
        return min((each.first for each in self._open.values()), default=None)

    def put_out(self) -> int:
        """So many of the records that came in first have gone out, all of them. A block counts as one."""
        return min((each.begun for each in self._open.values()), default=self.counts.records_in)

    def feed(self, block: Block, now: float, found: list[Run] | None = None) -> Batch | None:
        """Take a block in; the events that are complete now, or None. now: time.monotonic(). found: the block's runs,
        if they are known already."""
        counts = self.counts
        self._before = counts.records_in
        counts.records_in += block.records
        if found is None:
            found = runs(block.data)
        out = _Out()
        put = out.runs.append
        events, gone, gone_before, eoe = self._open, self._gone, self._gone_before, self._eoe
        live = not self._recorded
        untouched = True  # what goes out is the block itself
        for run in found:
            lines = run[0]
            node, head = key = run[1:3]
            if not head:
                counts.without_stamp += 1
                out.add(run, NO_STAMP)
                continue
            last = lines.rfind(b"\n", 0, -1) + 1 + len(node)
            if lines.startswith(_PROCTITLE, last):
                complete = not eoe.get(node, live)
            elif lines.startswith(_EOE, last):
                complete = True
                if not eoe.get(node):
                    self._learn(node, sends=True)
            else:
                complete = self._ends(lines, last)
            if key in events:
                untouched = False
                self._extend(key, lines, now)
                if complete:
                    self._close(key, out)
            elif not complete:
                untouched = False
                self._begin(key, lines, now, out)
            elif key in gone or key in gone_before:
                counts.late += 1
                out.add(run, LATE)
                gone.add(key)
            else:
                put(run)
                gone.add(key)
        if len(gone) > self._remembered:
            self._gone_before, self._gone = gone, set()
        if events:
            if self._recorded:
                untouched &= not self._pass_by(found, out)
            if self.open_bytes > self._max_bytes:
                untouched = False
                self._evict(out)
        if not out.runs:
            return None
        if not untouched:
            return self._batch(out, block.arrived)
        counts.records_out += block.records
        counts.events += len(out.runs)
        batch = Batch(
            block.data, block.records, block.source, block.arrived, self.reader, _marks(out), spooled=block.spooled
        )
        if self._at_once:
            batch.found = found
        return batch

    def tick(self, now: float) -> Batch | None:
        """What has been quiet for `timeout` seconds goes out. To be called about every quarter of that."""
        out = _Out()
        arrived = now
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if now - oldest.last < self.timeout:
                break
            arrived = min(arrived, oldest.first)
            last = oldest.runs[-1]
            if last.startswith(_PROCTITLE, last.rfind(b"\n", 0, -1) + 1 + len(key[0])) and key[0] not in self._eoe:
                self._learn(key[0], sends=False)
            self._close(key, out, TIMED_OUT)
        return self._batch(out, arrived) if out.runs else None

    def flush(self, now: float) -> Batch | None:
        """The stream has ended: everything goes out. That a file ends is no sign that something is missing."""
        out = _Out()
        arrived = now
        while self._open:
            key, oldest = next(iter(self._open.items()))
            arrived = min(arrived, oldest.first)
            self._close(key, out, TIMED_OUT if self._recorded else INCOMPLETE)
        return self._batch(out, arrived) if out.runs else None

    def _learn(self, node: bytes, *, sends: bool) -> None:
        if node in self._eoe or len(self._eoe) < NODES:
            self._eoe[node] = sends

    def ends(self, run: Run) -> bool:
        """Whether what this run belongs to is complete with its last record, as far as is known now."""
        lines, node = run[:2]
        last = lines.rfind(b"\n", 0, -1) + 1 + len(node)
        if lines.startswith(_PROCTITLE, last):
            return not self._eoe.get(node, not self._recorded)
        return lines.startswith(_EOE, last) or self._ends(lines, last)

    # ---- the table ----

    def _ends(self, lines: bytes, at: int) -> bool:
        """Whether the record that begins at `at` ends its event by its type."""
        name = lines[at + 5 : lines.index(b" ", at)]
        known = self._alone.get(name)
        if known is None:
            if len(self._alone) > 4_096:
                self._alone.clear()  # somebody makes names up
            known = self._alone[name] = stands_alone(type_number(name))
        return known

    def _begin(self, key: Key, lines: bytes, now: float, out: _Out) -> None:
        if len(self._open) >= self._max_events:
            self._close(next(iter(self._open)), out, INCOMPLETE)
        records = lines.count(b"\n")
        late = key in self._gone or key in self._gone_before
        self.counts.late += late
        seen = self.counts.records_in
        self._open[key] = _Open([lines], len(lines), records, now, now, seen, self._before, LATE if late else 0)
        self.open_bytes += len(lines)
        self.open_records += records

    def _extend(self, key: Key, lines: bytes, now: float) -> None:
        entry = self._open.pop(key)
        if len(entry.runs) >= MAX_RUNS:
            entry.runs = [b"".join(entry.runs)]
        records = lines.count(b"\n")
        entry.runs.append(lines)
        entry.size += len(lines)
        entry.records += records
        entry.last = now
        entry.seen = self.counts.records_in
        self._open[key] = entry
        self.open_bytes += len(lines)
        self.open_records += records

    def _close(self, key: Key, out: _Out, why: int = 0) -> None:
        """Put out an event of the table. why: the flag it goes out with."""
        entry = self._open.pop(key)
        self.open_bytes -= entry.size
        self.open_records -= entry.records
        self.counts.timed_out += why == TIMED_OUT
        self.counts.incomplete += why == INCOMPLETE
        self._gone.add(key)
        out.add((b"".join(entry.runs), *key), entry.flags | why)

    def _pass_by(self, found: list[Run], out: _Out) -> bool:
        """Of a recorded stream: put out what its node's stamps have left behind. Whether there was anything."""
        settled = self.counts.records_in - SETTLED
        if next(iter(self._open.values())).seen > settled:
            return False
        newest = {run[1]: run[2] for run in found if run[2]}
        behind = []
        for key, entry in self._open.items():
            if entry.seen > settled:
                break
            node, head = key
            now = newest.get(node)
            if now is not None and _second(head) + self.timeout <= _second(now):
                behind.append(key)
        for key in behind:
            self._close(key, out, TIMED_OUT)
        return bool(behind)

    def _evict(self, out: _Out) -> None:
        while self._open and self.open_bytes > self._max_bytes:
            self._close(next(iter(self._open)), out, INCOMPLETE)

    def _batch(self, out: _Out, arrived: float) -> Batch:
        data = b"".join([run[0] for run in out.runs])
        records = count_lines(data)
        self.counts.records_out += records
        self.counts.events += len(out.runs)
        batch = Batch(data, records, self.source, arrived, self.reader, _marks(out))
        if self._at_once:
            batch.found = _joined(out.runs)
        return batch


def _second(head: bytes) -> int:
    return int(head[6 : head.index(b".")])


def _joined(found: list[Run]) -> list[Run]:
    """The runs of the data that these make together: two neighbours of one stamp are one to whoever reads it again."""
    keys = [run[1:3] for run in found]
    if not any(map(operator.eq, keys, keys[1:])):
        return found
    joined: list[Run] = []
    for run, key in zip(found, keys, strict=True):
        if key[1] and joined and joined[-1][1:3] == key:
            joined[-1] = (joined[-1][0] + run[0], *key)
        else:
            joined.append(run)
    return joined


def _marks(out: _Out) -> dict[int, int] | None:
    """Flags by position. Two neighbours of one stamp are one event to whoever reads the data again."""
    if not out.flags:
        return None
    marks: dict[int, int] = {}
    at, last = -1, None
    for number, run in enumerate(out.runs):
        key = run[1:3]
        at += key != last or not key[1]
        last = key
        if number in out.flags:
            marks[at] = marks.get(at, 0) | out.flags[number]
    return marks
