"""Memory is bounded, the lowest goes, who is held stays; novelties and trees; what is kept over a restart."""

from __future__ import annotations

import random
from typing import Any

import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.detect.entities import EntityId, Table
from audisp.detect.firstseen import FirstSeen
from audisp.detect.scores import Scores
from audisp.detect.trees import Trees, is_spawner
from audisp.detect.weights import ScoreSettings
from audisp.enrich.facts import Enrichment
from audisp.errors import ParseError
from audisp.parse.processes import Process
from tests.detect.scoring import Scoring, Stream, fired

DAY = 86_400


def table(size: int = 4) -> Table:
    return Table("address", ScoreSettings(max_entities=size))


def entity(key: str) -> EntityId:
    return EntityId("address", "o", "", key)


def put(at: Table, key: str, score: float, stamp: int = 0, now: int = 0) -> None:
    at.add(at.make(entity(key), stamp, now), stamp, score, "1.000:1", "x")


def keys(of: Table) -> set[str]:
    return {each.id.key for each in of}


# ---- who must go ----


def test_the_lowest_present_score_goes_and_is_counted() -> None:
    found = table()
    # In 6 h 8 becomes 4: the old 8 is lower than the new 5, and higher than the new 3.
    put(found, "old", 8)
    put(found, "high", 5, 6 * 3_600_000)
    put(found, "low", 3, 6 * 3_600_000)
    put(found, "mid", 4.5, 6 * 3_600_000)
    put(found, "new", 1, 6 * 3_600_000)
    assert keys(found) == {"old", "high", "mid", "new"}
    # The newcomer was not measured against them; now it is the lowest.
    put(found, "newer", 1, 6 * 3_600_000)
    assert keys(found) == {"old", "high", "mid", "newer"}
    put(found, "newer", 4, 6 * 3_600_000)
    put(found, "last", 1, 6 * 3_600_000)
    assert keys(found) == {"newer", "high", "mid", "last"}
    assert found.evicted == 3


def test_an_attacker_with_many_addresses_evicts_no_higher_score_and_no_held_one() -> None:
    scores = Scores(ScoreSettings(max_entities=100))
    scoring, stream = Scoring(scores), Stream()
    scoring.feed(*[stream.user(0, addr="192.0.2.1") for _ in range(5)], stream.user(0, addr="192.0.2.2"))
    assert scores.hold(EntityId("address", "netlink", "", "192.0.2.2"), 1_700_000_000 + 50)
    for at in range(2_000):
        scoring.feed(stream.user(at / 100, addr=f"2001:db8::{at:x}", acct=f'"u{at}"', ses=at))
    assert scoring.score("address", "192.0.2.1") == 5
    assert scoring.score("address", "192.0.2.2") == 1
    assert all(len(each) <= 100 for each in scores.tables.values())
    assert scores.counted()["evicted_address"] == 2_002 - 100
    # When its time is over it is one among others.
    for at in range(200):
        scoring.feed(stream.user(60, addr=f"2001:db8:1::{at:x}"))
    assert scoring.score("address", "192.0.2.2") == 0
    assert scoring.score("address", "192.0.2.1") == 5


def test_holds_are_bounded_and_end_by_the_callers_clock() -> None:
    scores = Scores(ScoreSettings(max_entities=4))
    scoring, stream = Scoring(scores), Stream()
    ids = [EntityId("address", "netlink", "", f"192.0.2.{at}") for at in range(3)]
    assert [scores.hold(each, 2_000_000_000) for each in ids] == [True, True, False]
    assert scores.counted()["holds_refused"] == 1
    # Stamps of a host whose clock is in the year 2100 end nothing.
    scoring.feed(*[stream.user(3_000_000_000, addr=f"10.0.0.{at}") for at in range(20)], now=1_700_000_000)
    assert {each.id for each in scores.tables["address"]} >= set(ids[:2])
    scoring.feed(*[stream.user(3_000_000_000, addr=f"10.0.1.{at}") for at in range(20)], now=2_000_000_001)
    assert not {each.id for each in scores.tables["address"]} & set(ids[:2])


def test_a_hold_is_prolonged_and_never_shortened() -> None:
    found = table(2)
    put(found, "held", 1)
    held = found.get(entity("held"))
    assert held is not None
    found.hold(held, 100)
    found.hold(held, 50)
    found.hold(held, 200)
    for at in range(5):
        put(found, f"a{at}", 8, 150, 150)
    assert "held" in keys(found)
    for at in range(5):
        put(found, f"b{at}", 8, 250, 250)
    assert "held" not in keys(found)


@pytest.mark.parametrize("seed", range(5))
def test_the_heap_agrees_with_looking_at_all(seed: int) -> None:
    chance = random.Random(seed)
    found, stamp = table(20), 0
    for at in range(2_000):
        stamp += chance.choice((0, 1_000, 600_000, -1_000, 40_000_000, -90_000_000))
        stamp = max(stamp, 0)
        key = str(chance.randrange(60))
        before = {each.id: each for each in found}
        if entity(key) not in before and len(before) == 20:
            ranks = {each.id: found._rank(each) for each in found}
            put(found, key, chance.choice((1, 2, 5)), stamp)
            (gone,) = before.keys() - {each.id for each in found}
            assert ranks[gone] == min(ranks.values()), at
        elif chance.random() < 0.1:
            found.remove(entity(key), stamp)
        else:
            put(found, key, chance.choice((1, 2, 5)), stamp)
    assert len(found) <= 20
    assert len(found._heap) <= 41


# ---- what was never there before ----


def weeks(scoring: Scoring, stream: Stream, *, days: int = 8, **more: Any) -> None:
    """A host at its usual work."""
    for day in range(days):
        scoring.feed(*[stream.call(day * DAY + at, argv=["id"], **more) for at in range(10)])


def test_a_new_program_counts_after_the_time_of_learning_and_by_itself_never_much() -> None:
    scoring, stream = Scoring(), Stream()
    weeks(scoring, stream, days=6)
    scoring.feed(stream.call(6 * DAY, argv=["early"], exe="/bin/early"))
    assert not list(scoring.scores.tables["tree"])
    scoring.feed(stream.call(8 * DAY, argv=["early"], exe="/bin/early"), stream.call(8 * DAY, argv=["id"]))
    assert not list(scoring.scores.tables["tree"])
    scoring.feed(stream.call(8 * DAY, argv=["late"], exe="/bin/late", ses=5))
    assert scoring.score("session", "5") == 1
    (standing,) = [each for each in scoring.scores.standing(scoring.events[0]) if each.kind == "session"]
    assert standing.contributions[0].reason == "first seen: program /bin/late of u33"
    assert standing.firm == 0
    scoring.feed(*[stream.call(8 * DAY, argv=["n"], exe=f"/bin/n{at}", ses=5, pid=9000 + at) for at in range(500)])
    assert scoring.score("session", "5") == 3
    # The same again is nothing new.
    scoring.feed(*[stream.call(8 * DAY, argv=["n"], exe=f"/bin/n{at}", ses=6, pid=9000 + at) for at in range(500)])
    assert scoring.score("session", "6") == 0


def test_novelties_stay_below_any_threshold() -> None:
    low = ScoreSettings(origin_threshold=1, session_threshold=1, account_threshold=1, tree_threshold=1)
    scoring, stream = Scoring(Scores(low)), Stream()
    weeks(scoring, stream, ses=5, auid=1000)
    for at in range(300):
        assert scoring.feed(stream.call(8 * DAY, argv=["n"], exe=f"/bin/n{at}", ses=5, auid=1000, pid=9000 + at)) == []
    assert 0 < scoring.score("session", "5") <= 0.4


def test_of_a_user_of_whom_little_is_known_nothing_is_new() -> None:
    scoring, stream = Scoring(), Stream()
    weeks(scoring, stream)
    scoring.feed(
        *[stream.call(8 * DAY, argv=["n"], exe=f"/bin/n{at}", uid=7, ses=5, pid=9000 + at) for at in range(19)]
    )
    assert scoring.score("session", "5") == 0
    scoring.feed(*[stream.call(8 * DAY, argv=["n"], exe=f"/bin/m{at}", uid=7, ses=5, pid=9000 + at) for at in range(3)])
    assert scoring.score("session", "5") == 2


def test_a_new_child_of_a_known_parent_counts() -> None:
    scoring, stream = Scoring(), Stream()
    server: dict[str, Any] = {"pid": 300, "ppid": 1, "exe": "/usr/sbin/apache2", "argv": ["apache2"]}
    for day in range(9):
        start = stream.call(day * DAY, **server)
        scoring.feed(start, *[stream.call(day * DAY + 1, argv=["id"], pid=400 + at, ppid=300) for at in range(5)])
        # The shell is known, elsewhere.
        scoring.feed(stream.call(day * DAY + 2, argv=["sh"], exe="/bin/sh", pid=900, ppid=899))
    scoring.feed(stream.call(8 * DAY + 9, argv=["sh"], exe="/bin/sh", pid=901, ppid=300, ses=5))
    assert scoring.score("session", "5") == 1
    standing = [each for each in scoring.scores.standing(scoring.events[0]) if each.kind == "tree"]
    assert [each.key for each in standing] == ["300@1700000000000"]
    assert standing[0].contributions[0].reason == "first seen: child /bin/sh of /usr/sbin/apache2"


@pytest.mark.parametrize(
    ("number", "saddr", "new"),
    [
        (42, "0200005019CB007109" + "0" * 14, True),
        (42, "02000050CB007109" + "0" * 16, True),
        (42, "0A000050000000002001" + "0DB8" + "0" * 24 + "00000000", True),
        (42, "0200" + "0000CB007109" + "0" * 16, False),  # no port
        (42, "01002F72756E", False),
        (42, "020000", False),
        (49, "02000050CB007109" + "0" * 16, False),  # bind
    ],
)
def test_a_new_destination_counts(number: int, saddr: str, new: bool) -> None:
    scoring, stream = Scoring(), Stream()
    for day in range(8):
        scoring.feed(*[stream.call(day * DAY + at, number=42, saddr="020001BB0A000001" + "0" * 16) for at in range(10)])
    scoring.feed(stream.call(8 * DAY, number=number, saddr=saddr, ses=5))
    assert scoring.score("session", "5") == new
    scoring.feed(stream.call(8 * DAY, number=number, saddr=saddr, ses=6))
    assert scoring.score("session", "6") == 0


def test_a_host_whose_clock_was_in_the_future_learns_no_longer_for_it() -> None:
    scoring, stream = Scoring(), Stream()
    scoring.feed(stream.call(10_000 * DAY, argv=["id"]))
    weeks(scoring, stream, days=9)
    scoring.feed(stream.call(9 * DAY, argv=["new"], exe="/bin/new", ses=5))
    assert scoring.score("session", "5") == 1


def test_what_was_seen_is_bounded_and_each_host_learns_for_itself() -> None:
    seen = FirstSeen(ScoreSettings(max_pairs=10))
    for at in range(1_000):
        seen.meet("program", seen.number_of(("o", b""), at), at, b"u", b"%d" % at)
    assert len(seen) == 10
    assert seen.evicted == 990
    for at in range(10_000):
        seen.meet("program", seen.number_of(("o", b"%d" % at), at), at, b"u", b"x" * 500)
    assert len(seen.hosts) == len(seen.groups["program"]) == 4_096
    assert max(map(len, seen.pairs["program"])) <= 64
    late = 10 * DAY * 1000
    assert not any(
        seen.meet("program", seen.number_of(("o", b"new"), late), late, b"u", b"%d" % at) for at in range(99)
    )


# ---- trees ----


def test_trees_from_the_starts_of_programs() -> None:
    trees, host = Trees(), 1
    trees.start(host, 100, 1, 0, b"/usr/sbin/sshd", None)
    trees.start(host, 200, 100, 1, b"/bin/bash", None)
    assert trees.start(host, 201, 200, 2, b"/bin/ls", None) == b"/bin/bash"
    trees.start(host, 300, 1, 1, b"/usr/sbin/apache2", None)
    trees.start(host, 301, 300, 2, b"/bin/sh", None)
    trees.start(host, 301, 300, 3, b"/usr/bin/id", None)
    # A copy of sshd is none.
    trees.start(host, 302, 301, 3, b"/tmp/sshd", None)
    trees.start(host, 303, 302, 3, b"/bin/nc", None)
    assert [trees.of(host, pid, None, 5, None) for pid in (201, 301, 303)] == [(200, 1), (300, 1), (300, 1)]
    assert trees.of(host, 999, 301, 5, None) == (300, 1)
    assert trees.of(host, 999, 998, 5, None) is None
    assert trees.of(2, 301, 300, 5, None) is None
    assert trees.of(host, 301, 300, 10 * DAY * 1000, None) is None


def process(pid: int, parent: int | None, exe: str) -> Process:
    return Process(pid, pid * 10, ppid=parent, exe=exe)


def test_a_tree_goes_on_where_the_chain_of_parents_has_ended() -> None:
    trees, host = Trees(), 1
    chain = [process(300, 1, "/usr/sbin/apache2"), process(1, 0, "/usr/lib/systemd/systemd")]
    for pid in range(301, 400):
        context = Enrichment(process(pid, pid - 1, "/bin/sh"), parents=tuple(chain[:16]))
        assert trees.of(host, pid, pid - 1, 0, context) == (300, 3000)
        chain.insert(0, process(pid, pid - 1, "/bin/sh"))
    # A number that another process has now.
    other = Enrichment(Process(350, 99, ppid=1, exe="/bin/x"), parents=(process(1, 0, "/sbin/init"),))
    assert trees.of(host, 350, 1, 0, other) == (350, 99)
    login = Enrichment(process(500, 499, "/bin/bash"), parents=(process(499, 1, "/usr/sbin/sshd"), *chain[-1:]))
    assert trees.of(host, 500, 499, 0, login) == (500, 5000)


def test_trees_are_bounded() -> None:
    trees = Trees(max_processes=50)
    for pid in range(2, 1_000):
        trees.start(1, pid, 1, 0, b"/x" * 5_000, None)
    assert len(trees) == 50
    assert trees.evicted == 948
    assert is_spawner(b"/usr/sbin/sshd")
    assert not is_spawner(b"/tmp/usr/sbin/sshd")


# ---- kept ----


def busy() -> Scoring:
    scoring, stream = Scoring(), Stream(node="web")
    weeks(scoring, stream, ses=5, auid=1000)
    scoring.feed(
        stream.record("LOGIN", "pid=9 uid=0 auid=1000 ses=5 res=1", 8 * DAY),
        stream.user(8 * DAY, "USER_START", res="success", ses=5, auid=1000, pid=70),
        *[stream.user(8 * DAY, addr="192.0.2.7") for _ in range(8)],
        stream.call(8 * DAY, key='"ids-archive"', ses=5, auid=1000),
        stream.call(8 * DAY, argv=["late"], exe="/bin/late\udcff\U0001f600", ses=5, auid=1000),
    )
    scoring.scores.hold(EntityId("address", "netlink", "", "192.0.2.7"), 1_800_000_000)
    scoring.scores.hold(EntityId("address", "netlink", "", "192.0.2.8"), float("inf"))
    return scoring


def content(scores: Scores) -> object:
    """What is kept, the entities in some order."""
    found = msgpack.unpackb(scores.save(), unicode_errors="surrogatepass")
    found["entities"].sort(key=lambda each: each[0])
    return found


def test_a_restart_forgets_nothing() -> None:
    before = busy()
    after = Scoring()
    after.scores.restore(before.scores.save())
    assert content(after.scores) == content(before.scores)
    stream = Stream(node="web")
    stream.serial = 10_000
    late = [
        stream.call(8 * DAY, argv=["late"], exe="/bin/late\udcff\U0001f600", ses=5, auid=1000),
        stream.call(8 * DAY, argv=["x"], exe="/bin/later", ses=5, auid=1000),
        stream.user(8 * DAY, addr="192.0.2.7"),
        stream.call(8 * DAY, key='"ids-mkexec"', ses=5, auid=1000),
    ]
    found = after.feed(*late)
    assert fired(found) == [("session", "5")]
    assert found[0].score == 11
    assert found[0].contributions == before.feed(*late)[0].contributions
    assert after.score("address", "192.0.2.1") == 2
    assert after.scores.hold(EntityId("address", "netlink", "", "192.0.2.7"), 1_800_000_000)
    held = after.scores.tables["address"].get(EntityId("address", "netlink", "", "192.0.2.7"))
    assert held is not None
    assert held.fired
    assert held.held == 1_800_000_000_000


def test_what_has_no_room_is_left_out_the_lowest_first() -> None:
    scoring, stream = Scoring(), Stream()
    for at in range(20):
        scoring.feed(*[stream.user(0, addr=f"192.0.2.{at}") for _ in range(at % 7 + 1)])
    small = Scores(ScoreSettings(max_entities=4))
    small.restore(scoring.scores.save())
    assert sorted(each.score for each in small.tables["address"]) == [6, 6, 7, 7]


def test_all_that_hostile_events_leave_can_be_restored() -> None:
    scoring, stream = Scoring(), Stream(node="n" * 3_000)
    weeks(scoring, stream)
    odd = "\U0001f600\x1b\udcff" * 40
    scoring.feed(
        stream.call(8 * DAY, argv=["x"], exe="/" + odd * 4, ses=5),
        stream.user(8 * DAY, acct="E29CA8" * 64),
        "type=USER_LOGIN msg=audit(99999999999999999999.999:99999999999999999999): pid=1 uid=0 auid=0 ses=0 "
        "msg='op=login acct=\"root\" addr=192.0.2.9 res=failed'\n",
    )
    assert scoring.score("address", "192.0.2.9") == 6
    assert scoring.score("session", "5", node=next(each.id.node for each in scoring.scores.tables["session"])) == 1
    again = Scores()
    again.restore(scoring.scores.save())
    assert content(again) == content(scoring.scores)


def test_another_version_is_refused() -> None:
    given_ = msgpack.unpackb(busy().scores.save(), unicode_errors="surrogatepass")
    with pytest.raises(ParseError, match="version 2"):
        Scores().restore(msgpack.packb(given_ | {"version": 2}, unicode_errors="surrogatepass"))


@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, 1e300, True, "8", None])
def test_a_score_is_a_number_that_can_be_one(place: int, wrong: object) -> None:
    kept = msgpack.unpackb(busy().scores.save(), unicode_errors="surrogatepass")
    kept["entities"][0][place] = wrong
    with pytest.raises(ParseError, match="a score expected"):
        Scores().restore(msgpack.packb(kept, unicode_errors="surrogatepass"))


KEPT = busy().scores.save()


def restored(data: bytes) -> None:
    """Either it is refused, and nothing was taken over, or what was taken over can be used and written again."""
    scoring = Scoring(Scores(ScoreSettings(max_entities=50, max_pairs=50)))
    try:
        scoring.scores.restore(data)
    except ParseError:
        assert not any(map(len, scoring.scores.tables.values()))
        assert not len(scoring.scores.first)
        return
    assert all(len(each) <= 50 for each in scoring.scores.tables.values())
    stream = Stream(node="web")
    scoring.feed(*[stream.user(8 * DAY, addr=f"10.0.0.{at}", ses=at) for at in range(60)])
    scoring.feed(*[stream.call(8 * DAY, key='"ids-recon"', argv=["x"], exe=f"/x{at}", ses=at) for at in range(60)])
    scoring.scores.save()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_nothing_do_no_harm(data: bytes) -> None:
    restored(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(KEPT) - 1), st.binary(min_size=1, max_size=4))
def test_bytes_that_were_changed_do_no_harm(at: int, by: bytes) -> None:
    restored(KEPT[:at] + by + KEPT[at + len(by) :])
    restored(KEPT[:at])


_odd = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)
_any = st.recursive(
    _odd, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner), max_leaves=8
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_value_is_checked(data: st.DataObject) -> None:
    given_ = msgpack.unpackb(KEPT, unicode_errors="surrogatepass")
    place = given_
    while True:
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        inner = place[key]
        if isinstance(inner, (list, dict)) and inner and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = data.draw(_any)
        break
    restored(msgpack.packb(given_, unicode_errors="surrogatepass"))
