"""Filters: which events a plugin gets (``filter_keep``, ``filter_drop``), and what a search finds (docs/filters.md)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import partial
from itertools import accumulate
from typing import Final

import attrs

from audisp.event import NO_STAMP, NODE_RUN, Batch, Event
from audisp.parse.expression import Or, Tree, parse
from audisp.parse.filter_clause import MAX_CLAUSES, Clause
from audisp.parse.filter_terms import LINE, Read, Sight, Test, compile_test
from audisp.parse.interpret import Names, Nobody
from audisp.parse.record import Record, RecordReader

HEAD: Final = re.compile(rb"((?:node=[^ \n]+ )?)type=[^ \n]+ msg=(audit\([0-9]{1,20}\.[0-9]{1,3}:[0-9]{1,20}\):)")
"""What an event's lines share: node part and stamp."""
_STRAY: Final = re.compile(rb"\n(?!" + HEAD.pattern + rb")")


class Filter:
    """One compiled expression. May be used from any thread."""

    def __init__(self, tree: Tree, names: Names) -> None:
        self.tree = tree
        self._test: Test = compile_test(tree, names)
        parts = tree.operands if isinstance(tree, Or) and len(tree.operands) <= MAX_CLAUSES else (tree,)
        clauses = tuple([Clause(each, names) for each in parts])
        if not all(each.anchored for each in clauses):
            clauses = (Clause(tree, names),)  # every line is to be looked at, so once is enough
        self._clauses = clauses

    def __str__(self) -> str:
        return str(self.tree)

    def matches(self, event: Event) -> bool:
        """Whether the expression is true of any of the event's records. A line without a stamp has none."""
        if event.flags & NO_STAMP:
            return False
        return any(each.any(event.raw, _read) for each in self._clauses)

    @property
    def anchored(self) -> bool:
        """Whether lines can be searched for; if not, each is looked at."""
        return self._clauses[0].anchored

    def starts(self, data: bytes, read: Read) -> list[int]:
        """Where the lines start that the expression is true of, in no order; one may come twice. Anchored ones only."""
        return [start for each in self._clauses for start in each.starts(data, read)]

    def positions(self, batch: Batch) -> Iterable[int]:
        """The positions of the events that the expression is true of, in no order; one may come twice."""
        data, read = batch.data, batch.reader.read
        if not self.anchored:
            (clause,) = self._clauses
            return [at for at, event in enumerate(batch.events) if clause.any(event.raw, read)]
        starts = self.starts(data, read)
        if not starts:
            return ()
        ends = list(accumulate([len(event.raw) for event in batch.events]))
        return [bisect_right(ends, start) for start in starts]

    def exactly(self, event: Event) -> bool:
        """The same as `matches`, by looking at every record: what the shorter ways are held against."""
        if event.flags & NO_STAMP:
            return False
        test = self._test
        for record, line in zip(event.records, event.raw.split(b"\n"), strict=False):
            found = LINE.match(line)
            if found is not None and test(Sight(found, partial(_known, record))):
                return True
        return False


def _known(record: Record, _line: str) -> Record:
    return record


def _read(line: str) -> Record:
    return RecordReader().read(line)


def compile_filter(text: str, names: Names | None = None) -> Filter:
    """Raises `audisp.errors.ParseError`, which says where and what was expected.

    names: of users and groups, for i= and i!= of records that do not bring theirs along. None: no names are known.
    """
    return Filter(parse(text), names or Nobody())


@attrs.frozen(eq=False)
class Selection:
    """What one of `keep` is true of (everything if there is none), without what one of `drop` is true of."""

    keep: tuple[Filter, ...] = ()
    drop: tuple[Filter, ...] = ()

    def wanted(self, event: Event) -> bool:
        """Whether an event is wanted. A record that belongs to no event passes every filter."""
        if event.flags & NO_STAMP:
            return True
        if self.keep and not any(each.matches(event) for each in self.keep):
            return False
        return not any(each.matches(event) for each in self.drop)

    def select(self, batch: Batch) -> list[int]:
        """The positions of the events wanted, in order."""
        events = batch.events
        if self.keep:
            found = {at for each in self.keep for at in each.positions(batch)}
            found.update([at for at, event in enumerate(events) if event.flags & NO_STAMP])
        else:
            found = set(range(len(events)))
        for each in self.drop:
            found.difference_update(each.positions(batch))
        return sorted(found)

    def pick(self, batch: Batch) -> Batch | None:
        """The events wanted, as ``batch.only(self.select(batch))``; without making any event where that can be."""
        if batch.marks or batch.contexts is not None:  # what is known by an event's position
            return batch.only(self.select(batch))
        keep = _spans(batch, self.keep) if self.keep else [(0, len(batch.data))]
        drop = _spans(batch, self.drop)
        if keep is None or drop is None or (self.keep and _has_strays(batch.data)):
            return batch.only(self.select(batch))
        kept = _without(keep, drop)
        data = b"".join([batch.data[start:end] for start, end in kept])
        if len(data) == len(batch.data):
            return batch
        if not data:
            return None
        return Batch(data, data.count(b"\n"), batch.source, batch.arrived, batch.reader, spooled=batch.spooled)


Span = tuple[int, int]
"""Where something starts and ends, in bytes."""


def _has_strays(data: bytes) -> bool:
    """Whether there is a line that belongs to no event."""
    return HEAD.match(data) is None or _STRAY.search(data, 0, len(data) - 1) is not None


def _spans(batch: Batch, filters: tuple[Filter, ...]) -> list[Span] | None:
    """The events that one of the filters is true of, in order; None if one of the filters must look at every line."""
    data, read = batch.data, batch.reader.read
    starts: list[int] = []
    for each in filters:
        if not each.anchored:
            return None
        starts += each.starts(data, read)
    starts.sort()
    spans: list[Span] = []
    done = 0
    for start in starts:
        if start < done:
            continue
        span = _around(data, start, done)
        spans.append(span)
        done = span[1]
    return spans


def _around(data: bytes, at: int, floor: int) -> Span:
    """The event that the line which starts here belongs to: all lines around it with one node and stamp."""
    own = HEAD.match(data, at)
    assert own is not None  # a line without a stamp is never true
    start = at
    while start > floor:
        before = data.rfind(b"\n", 0, start - 1) + 1
        other = HEAD.match(data, before)
        if other is None or other.groups() != own.groups():
            break
        start = before
    run = NODE_RUN.match(data, start)
    assert run is not None
    return start, run.end()


def _without(spans: list[Span], holes: list[Span]) -> list[Span]:
    """What the holes leave of the spans. Both are in order; a hole lies in one span or in none."""
    if not holes:
        return spans
    out: list[Span] = []
    left = iter(holes)
    hole = next(left, None)
    for start, end in spans:
        while hole is not None and hole[0] < end:
            if hole[0] >= start:
                if hole[0] > start:
                    out.append((start, hole[0]))
                start = hole[1]
            hole = next(left, None)
        if start < end:
            out.append((start, end))
    return out
