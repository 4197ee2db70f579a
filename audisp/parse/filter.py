"""Filters: which events a plugin gets (``filter_keep``, ``filter_drop``), and what a search finds (docs/filters.md)."""

from __future__ import annotations

import attrs

from audisp.event import NO_STAMP, Batch, Event
from audisp.parse.expression import Tree, parse
from audisp.parse.filter_terms import Nameless, Sight, Test, compile_test, latin
from audisp.parse.interpret import Names


class Filter:
    """One compiled expression. May be used from any thread."""

    def __init__(self, tree: Tree, test: Test) -> None:
        self.tree = tree
        self._test = test

    def matches(self, event: Event) -> bool:
        """Whether the expression is true of any of the event's records. A line without a stamp has none."""
        if event.flags & NO_STAMP:
            return False
        id_ = event.id
        stamp = (id_.seconds, id_.millis, id_.serial)
        lines = event.raw.split(b"\n")
        test = self._test
        for record, line in zip(event.records, lines, strict=False):
            if test(Sight(record, stamp, line, latin(event.node))):
                return True
        return False


def compile_filter(text: str, names: Names | None = None) -> Filter:
    """Raises `audisp.errors.ParseError`, which says where and what was expected.

    names: of users and groups, for i= and i!= of records that do not bring theirs along. None: no names are known.
    """
    tree = parse(text)
    return Filter(tree, compile_test(tree, names or Nameless()))


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
        wanted = self.wanted
        return [at for at, event in enumerate(batch.events) if wanted(event)]
