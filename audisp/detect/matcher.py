"""Events in, findings out: which rules are true of which views.

A rule is asked only for views that it can be true of: by its source, by the type of record, and, where there is a
prefilter, only if one of its texts was found in the event's bytes. Without one (for comparison) all rules of a type are
asked. What a rule says is not known here but to the function made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from audisp.detect.condition import Ask, compile_condition
from audisp.detect.fields import judge
from audisp.detect.form import Rule
from audisp.detect.literals import types_of
from audisp.detect.parents import RecordedParents
from audisp.detect.prefilter import Prefilter, Scan, fields_of
from audisp.detect.views import ConnectionView, EventViews, FileView, Parent, Parents, ProcessView, RecordView, nobody
from audisp.errors import ParseError
from audisp.event import NO_STAMP, Batch, Event, runs

PARENT_FIELDS: Final = frozenset({"ParentImage", "ParentCommandLine"})

AnyView = RecordView | ProcessView | FileView | ConnectionView


@attrs.frozen(eq=False)
class Hit:
    """A rule was true of an event. view: the first one that it was true of."""

    rule: Rule
    event: Event
    view: AnyView
    views: EventViews


@attrs.define(eq=False)
class Compiled:
    """A rule ready to be asked. types: of record, in lower case; None for any. asked, hits, spent: how often it was
    asked of a view, was true of an event, and the clock's units that took (0 without a clock)."""

    rule: Rule
    ask: Ask
    types: tuple[str, ...] | None
    asked: int = 0
    hits: int = 0
    spent: int = 0


def compile_rules(rules: Sequence[Rule]) -> tuple[list[Compiled], list[tuple[Rule, str]]]:
    """The rules that can be asked, and those that cannot, with the reason (RE2 does not take an expression)."""
    ready: list[Compiled] = []
    refused: list[tuple[Rule, str]] = []
    for rule in rules:
        try:
            ask = compile_condition(rule.condition)
        except ParseError as error:
            refused.append((rule, str(error)))
            continue
        types = types_of(rule.condition) if rule.source == "auditd" else None
        ready.append(Compiled(rule, ask, None if types is None else tuple(sorted(types))))
    return ready, refused


def first_known(told: Parents | None, otherwise: Parents) -> Parents:
    """Ask the first, and where it does not know, the other."""
    if told is None:
        return otherwise
    return lambda event: told(event) or otherwise(event)


class Matcher:
    """Not thread-safe. parents: who started a process; None: as the stream itself tells (`RecordedParents`). told: who
    is asked before the stream is, and may not know.

    prefilter: False to ask every rule of every view of its type. clock: what to measure each rule with, in any unit.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        parents: Parents | None = None,
        told: Parents | None = None,
        prefilter: bool = True,
        clock: Callable[[], int] | None = None,
        watched: Sequence[tuple[bytes, int]] = (),
    ) -> None:
        self.never = [each for each in rules if judge(each).never]
        """Rules that can never be true (`audisp.detect.fields`); they are not asked."""
        never = set(map(id, self.never))
        self.rules, self.refused = compile_rules([each for each in rules if id(each) not in never])
        self.prefilter = Prefilter([each.rule for each in self.rules], watched=watched)
        self.scan: Scan | None = None
        """Of the last batch, for who else wants to know what is in it."""
        self.events = 0
        """Seen."""
        self.looked_at = 0
        """Of these, how many were taken apart."""
        self._filtering = prefilter
        self._clock = clock
        wanted = any(not fields_of(each.rule.condition).isdisjoint(PARENT_FIELDS) for each in self.rules)
        self.recorded = RecordedParents() if parents is None and wanted else None
        """The programs of the stream, if these are what tells who started whom."""
        self._told = told
        self._parents = first_known(told, parents or (nobody if self.recorded is None else self.recorded.of))

    def match(self, batch: Batch) -> list[Hit]:
        """The findings of a batch, in order of its events, of one event in order of the rules."""
        runs_ = batch.found or runs(batch.data)
        scan = self.scan = self.prefilter.scan(batch.data, runs_)
        self.events += len(runs_)
        hits: list[Hit] = []
        recorded = self.recorded
        started = set(scan.starts)
        found, always = scan.found, self.prefilter.always
        if not self._filtering:
            found, always = {}, (1 << len(self.rules)) - 1
        children = scan.children if self._filtering else {}
        noted = started if recorded is not None else ()
        looked = range(len(runs_)) if always else sorted({*found, *children, *noted})
        events = batch.events if looked else []
        for at in looked:
            mask = found.get(at, 0) | always
            asking = children.get(at, 0)
            start = None
            parent: Parent | None = None
            if recorded is not None and at in started:
                parent, start = recorded.meet(runs_[at], asked=bool(asking))
                if asking and self._told is not None:
                    parent = self._told(events[at]) or parent
            elif asking:
                parent = self._parents(events[at])
            if parent is not None:
                meant = self.prefilter.parents.meant((parent.image or b"").lower(), parent.command_line)
                mask |= asking & meant
            if mask and not events[at].flags & NO_STAMP:
                self.looked_at += 1
                self._look(events[at], mask, hits, scan.images.get(at) if self._filtering else None)
            if recorded is not None and start is not None:
                recorded.note(start)
        return hits

    def _look(self, event: Event, mask: int, hits: list[Hit], image: bytes | None) -> None:
        """mask: the rules to ask, as bits. image: the program's file in lower case, if it is known."""
        views = EventViews(event, self._parents, image)
        clock = self._clock
        while mask:
            lowest = mask & -mask
            mask ^= lowest
            each = self.rules[lowest.bit_length() - 1]
            before = 0 if clock is None else clock()
            view = self._asks(each, views)
            if clock is not None:
                each.spent += clock() - before
            if view is not None:
                each.hits += 1
                hits.append(Hit(each.rule, event, view, views))

    @staticmethod
    def _asks(each: Compiled, views: EventViews) -> AnyView | None:
        ask, source = each.ask, each.rule.source
        if source != "auditd":
            for view in views.of(source):
                each.asked += 1
                if ask(view):
                    return view
            return None
        for kind in views.lines if each.types is None else each.types:
            for record in views.records(kind):
                each.asked += 1
                if ask(record):
                    return record
        return None
