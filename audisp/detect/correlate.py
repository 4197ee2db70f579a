"""Correlations: findings on findings, counted by groups over a span of the events' own time.

- event_count: so many events of a group within the span;
- value_count: so many different values of a field;
- temporal: each of some rules, in any order; temporal_ordered: in the order in which they are named.

After a finding its group begins anew, so that one flood is one finding for each time that the count is reached. An
event in which a field of the group is missing belongs to none, and is counted. What is remembered of an event is its
rule and its id. All groups together are bounded, in number and in what they remember; the one that was heard of least
recently goes, and is counted: who fills the table with groups of his own loses others' counts, not memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import attrs

from audisp.detect.form import Correlation, Heading
from audisp.detect.matcher import Hit
from audisp.event import Event

MAX_GROUPS: Final = 10_000
"""Groups of all correlations: addresses, accounts or sessions that did something within a span. 500 bytes each."""
MAX_REMEMBERED: Final = 200_000
"""Events that all groups remember: some 200 bytes each."""
MAX_VALUE: Final = 256
"""Bytes of a value that is remembered as it is; of a longer one its hash."""
MAX_EVIDENCE: Final = 16
"""Events that a finding names."""
SPENT: Final = 2
"""Groups looked at for having run out, for each that is used: so they go faster than they can come."""


@attrs.frozen
class Evidence:
    """An event that counted. id: ``SEC.MSEC:SERIAL``."""

    rule: str
    id: str
    node: str


@attrs.frozen(eq=False)
class Finding:
    """Something was recognised. event: in which it was, or that completed it. view: what the rule was true of; of a
    correlation its kind. group: names and values that its events share. evidence: the last of them."""

    heading: Heading
    event: Event
    view: str
    hit: Hit | None
    group: tuple[tuple[str, bytes], ...] = ()
    evidence: tuple[Evidence, ...] = ()


@attrs.define
class Counts:
    """What the correlations have done."""

    groups_evicted: int = 0
    """Groups that had to go for others."""
    ungrouped: int = 0
    """Findings in which a field of the group was missing."""


@attrs.define(eq=False)
class _Group:
    """What one correlation remembers of one group.

    seen: by what is counted (a number, a value, a rule), when and what; in order of arrival. chains: of
    temporal_ordered, by the length of the part in order: when it began, and what was in it.
    """

    last: int
    seen: OrderedDict[object, tuple[int, Evidence]] = attrs.field(factory=OrderedDict)
    chains: dict[int, tuple[int, tuple[Evidence, ...]]] = attrs.field(factory=dict)
    number: int = 0


def field_of(hit: Hit, field: str) -> bytes | None:
    """A field for grouping: of what the rule was true of, else of the event (its node, and who did it)."""
    found = hit.view.get(field)
    if found is not None:
        return found
    if field == "node":
        return hit.event.node.encode("utf-8", "surrogateescape")
    call = hit.views.call
    if call is not None:
        return call.get(field)
    for kind in hit.views.lines:
        found = hit.views.records(kind)[0].get(field)
        if found is not None:
            return found
    return None


class Correlator:
    """Not thread-safe. rules: in an order in which each comes after those that it names."""

    def __init__(
        self, rules: Sequence[Correlation], *, max_groups: int = MAX_GROUPS, max_remembered: int = MAX_REMEMBERED
    ) -> None:
        self.counts = Counts()
        self.remembered = 0
        """Events that all groups remember."""
        self._max_groups, self._max_remembered = max_groups, max_remembered
        self._rules = tuple(rules)
        self._by_rule: dict[str, list[int]] = {}
        for place, rule in enumerate(rules):
            for each in rule.rules:
                self._by_rule.setdefault(each, []).append(place)
        self._groups: OrderedDict[tuple[int, tuple[bytes, ...]], _Group] = OrderedDict()

    @property
    def groups(self) -> int:
        """How many there are now."""
        return len(self._groups)

    def feed(self, hit: Hit) -> list[Finding]:
        """The findings that a rule's hit completes, those of correlations on correlations included."""
        id_ = hit.event.id
        stamp = id_.seconds * 1000 + id_.millis
        evidence = Evidence(hit.rule.heading.id, str(id_), id_.node)
        findings: list[Finding] = []
        waiting = [(place, evidence) for place in self._by_rule.get(hit.rule.heading.id, ())]
        while waiting:
            place, what = waiting.pop(0)
            finding = self._count(place, what, hit, stamp)
            if finding is not None:
                findings.append(finding)
                own = finding.heading.id
                waiting += [(next_, Evidence(own, str(id_), id_.node)) for next_ in self._by_rule.get(own, ())]
        return findings

    def _count(self, place: int, evidence: Evidence, hit: Hit, stamp: int) -> Finding | None:
        rule = self._rules[place]
        values = [_value(rule, evidence.rule, hit, name) for name in rule.group_by]
        counted = [_value(rule, evidence.rule, hit, name) for name in rule.fields]
        if None in values or None in counted:
            self.counts.ungrouped += 1
            return None
        key = (place, tuple(each for each in values if each is not None))
        group = self._group(key, stamp)
        before = len(group.seen) + len(group.chains)
        done = self._add(rule, group, evidence, tuple(each or b"" for each in counted), stamp)
        self.remembered += len(group.seen) + len(group.chains) - before
        if done is not None:
            self._drop(key)
        self._shrink()
        if done is None:
            return None
        named = tuple(zip(rule.group_by, key[1], strict=True))
        return Finding(rule.heading, hit.event, rule.kind, hit, named, done[-MAX_EVIDENCE:])

    def __len__(self) -> int:
        """Groups remembered."""
        return len(self._groups)

    def _group(self, key: tuple[int, tuple[bytes, ...]], stamp: int) -> _Group:
        for _ in range(SPENT):
            oldest = next(iter(self._groups), None)
            if oldest is None or stamp - self._groups[oldest].last <= self._rules[oldest[0]].timespan * 1000:
                break
            self._drop(oldest)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(stamp)
        else:
            self._groups.move_to_end(key)
            group.last = max(group.last, stamp)
        return group

    def _drop(self, key: tuple[int, tuple[bytes, ...]]) -> None:
        group = self._groups.pop(key)
        self.remembered -= len(group.seen) + len(group.chains)

    def _shrink(self) -> None:
        while len(self._groups) > self._max_groups or (
            self.remembered > self._max_remembered and len(self._groups) > 1
        ):
            self._drop(next(iter(self._groups)))
            self.counts.groups_evicted += 1

    @staticmethod
    def _add(
        rule: Correlation, group: _Group, evidence: Evidence, counted: tuple[bytes, ...], stamp: int
    ) -> tuple[Evidence, ...] | None:
        """Count it; the events that are a finding now."""
        span = rule.timespan * 1000
        if rule.kind == "temporal_ordered":
            return _in_order(rule, group, evidence, stamp, span)
        what: object
        if rule.kind == "event_count":
            group.number += 1
            what = group.number
        else:
            what = evidence.rule if rule.kind == "temporal" else counted
        seen = group.seen
        seen.pop(what, None)
        seen[what] = (stamp, evidence)
        for old in [each for each, (when, _) in seen.items() if abs(stamp - when) > span]:
            del seen[old]
        return tuple(each for _, each in seen.values()) if len(seen) >= rule.count else None


def _in_order(
    rule: Correlation, group: _Group, evidence: Evidence, stamp: int, span: int
) -> tuple[Evidence, ...] | None:
    at = rule.rules.index(evidence.rule)
    if at == 0:
        group.chains[1] = (stamp, (evidence,))
    else:
        begun = group.chains.get(at)
        if begun is None or not 0 <= stamp - begun[0] <= span:
            return None
        group.chains[at + 1] = (begun[0], (*begun[1], evidence)[-MAX_EVIDENCE:])
    complete = group.chains.get(len(rule.rules))
    return None if complete is None else complete[1]


def _value(rule: Correlation, id_: str, hit: Hit, name: str) -> bytes | None:
    """A field's value, by the name that this rule's events have for it."""
    for alias, pairs in rule.aliases:
        if alias == name:
            name = dict(pairs).get(id_, name)
            break
    found = field_of(hit, name)
    if found is None or len(found) <= MAX_VALUE:
        return found
    return hashlib.blake2b(found, digest_size=32).digest()
