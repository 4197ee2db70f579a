"""Correlations over events of a made-up stream, and what becomes of their memory."""

from __future__ import annotations

from audisp.detect.correlate import Correlator, Evidence
from audisp.detect.form import RuleSet
from audisp.detect.matcher import Hit, Matcher
from audisp.event import Batch, runs
from audisp.parse.record import RecordReader
from tests.detect.replaying import correlation, detect, fired, id_of, rule, rules_of

BAD = rule("s:\n  type: USER_LOGIN\n  res: failed\ncondition: s", name="bad")
GOOD = rule("s:\n  type: USER_LOGIN\n  res: success\ncondition: s", name="good")


def login(at: int, addr: str, *, acct: str = "root", res: str = "failed", node: str = "") -> str:
    head = f"node={node} " if node else ""
    return (
        f"{head}type=USER_LOGIN msg=audit({1_700_000_000 + at}.000:{at}): pid=1 uid=0 auid=1 ses=1 "
        f'msg=\'op=login acct="{acct}" exe="/usr/sbin/sshd" hostname=? addr={addr} terminal=ssh res={res}\'\n'
    )


def rules(text: str, *more: str) -> RuleSet:
    found = rules_of(BAD + "---\n" + GOOD, correlation(text), *more)
    assert not found.refused, found.refused
    return found


def test_event_count_by_group_within_its_span() -> None:
    count = rules("type: event_count\nrules: bad\ngroup-by: addr\ntimespan: 10s\ncondition:\n  gte: 3")
    assert [each.silent for each in count.rules] == [True, False]
    quick = "".join(login(at, "192.0.2.1") for at in range(3))
    assert fired(count, quick) == ["c"]
    assert fired(count, "".join(login(at * 6, "192.0.2.1") for at in range(4))) == []
    assert fired(count, "".join(login(at, f"192.0.2.{at}") for at in range(4))) == []
    # After a finding the count begins anew.
    assert fired(count, "".join(login(at, "192.0.2.1") for at in range(7))) == ["c", "c"]
    (found,) = detect(count, quick)
    assert found.view == "event_count"
    assert found.group == (("addr", b"192.0.2.1"),)
    assert found.evidence == tuple(Evidence(id_of("bad"), f"170000000{at}.000:{at}", "") for at in range(3))


def test_value_count() -> None:
    spray = rules(
        "type: value_count\nrules:\n  - bad\ngroup-by:\n  - addr\ntimespan: 1m\ncondition:\n  gt: 2\n  field: acct"
    )
    assert fired(spray, "".join(login(at, "192.0.2.1", acct=f"u{at}") for at in range(3))) == ["c"]
    assert fired(spray, "".join(login(at, "192.0.2.1", acct="u") for at in range(9))) == []


def test_temporal_in_any_order_and_in_one() -> None:
    both = "type: {}\nrules:\n  - bad\n  - good\ngroup-by:\n  - addr\ntimespan: 1m\ngenerate: true"
    there = login(1, "192.0.2.1") + login(2, "192.0.2.1", res="success")
    back = login(1, "192.0.2.1", res="success") + login(2, "192.0.2.1")
    assert fired(rules(both.format("temporal")), there) == ["bad", "c", "good"]
    assert fired(rules(both.format("temporal")), back) == ["bad", "c", "good"]
    assert fired(rules(both.format("temporal_ordered")), there) == ["bad", "c", "good"]
    assert fired(rules(both.format("temporal_ordered")), back) == ["bad", "good"]
    late = login(1, "192.0.2.1") + login(90, "192.0.2.1", res="success")
    assert fired(rules(both.format("temporal_ordered")), late) == ["bad", "good"]


def test_a_correlation_of_correlations_and_of_fields_with_other_names() -> None:
    first = correlation(
        "type: event_count\nrules: bad\ngroup-by: who\ntimespan: 10s\ncondition:\n  gte: 2\n"
        "aliases:\n  who:\n    bad: acct",
        name="burst",
    )
    found = rules("type: event_count\nrules: burst\ntimespan: 1h\ncondition:\n  gte: 2", first)
    assert fired(found, "".join(login(at, f"192.0.2.{at}") for at in range(4))) == ["c"]


def test_what_a_stream_cannot_decide_is_refused() -> None:
    for text, reason in (
        ("type: event_count\nrules: bad\ntimespan: 1m\ncondition:\n  lt: 3", "lt: a number that stays low"),
        ("type: value_sum\nrules: bad\ntimespan: 1m\ncondition:\n  gte: 3\n  field: x", "type value_sum"),
        ("type: event_count\nrules: bda\ntimespan: 1m\ncondition:\n  gte: 3", "did you mean bad?"),
        (
            "type: temporal\nrules:\n  - bad\n  - good\ntimespan: 1m\ncondition: bad and not good",
            "expressions of rules",
        ),
        ("type: event_count\nrules: bad\ntimespan: 9y\ncondition:\n  gte: 3", "more than a year"),
    ):
        (refused,) = rules_of(BAD + "---\n" + GOOD, correlation(text)).refused
        assert reason in refused.reason


def _hits(found: RuleSet, lines: str) -> list[Hit]:
    matcher = Matcher(found.rules)
    data = lines.encode()
    batch = Batch(data, data.count(b"\n"), "t", 0.0, RecordReader())
    batch.found = runs(data)
    return matcher.match(batch)


def test_memory_is_bounded_and_what_goes_is_counted() -> None:
    found = rules("type: event_count\nrules: bad\ngroup-by: addr\ntimespan: 1d\ncondition:\n  gte: 50")
    correlator = Correlator(found.correlations, max_groups=10, max_remembered=40)
    for hit in _hits(found, "".join(login(at, f"2001:db8::{at % 100:x}") for at in range(1_000))):
        correlator.feed(hit)
        assert correlator.groups <= 10
        assert correlator.remembered <= 40
    assert correlator.counts.groups_evicted > 900
    long = Correlator(found.correlations)
    for hit in _hits(found, login(1, "x" * 3_000) + login(2, "x" * 3_000) + login(200_000, "y")):
        long.feed(hit)
    # The first group has run out, and went when the second came.
    assert (long.groups, long.remembered, long.counts.groups_evicted) == (1, 1, 0)


def test_an_event_without_the_field_belongs_to_no_group() -> None:
    found = rules("type: event_count\nrules: bad\ngroup-by: nosuch\ntimespan: 1d\ncondition:\n  gte: 1")
    correlator = Correlator(found.correlations)
    for hit in _hits(found, login(1, "192.0.2.1")):
        assert correlator.feed(hit) == []
    assert correlator.counts.ungrouped == 1


def test_groups_by_node_and_by_who_did_it() -> None:
    found = rules("type: event_count\nrules: bad\ngroup-by:\n  - node\n  - ses\ntimespan: 1d\ncondition:\n  gte: 2")
    lines = login(1, "x", node="a") + login(2, "x", node="b") + login(3, "x", node="a")
    assert [each.group for each in detect(found, lines)] == [(("node", b"a"), ("ses", b"1"))]
