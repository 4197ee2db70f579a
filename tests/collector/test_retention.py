"""What is removed: by age, by each host's share, by the size of all; the oldest first, and by right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.collector import store as store_module
from audisp.collector.chain import Verdict, verify
from audisp.collector.reading import Reader
from audisp.collector.retention import (
    MIN_SEGMENT_BYTES,
    SEGMENT_BYTES,
    Census,
    Choice,
    Policy,
    Rewritten,
    choose,
    rewrite,
    water_level,
)
from audisp.collector.store import Findings, Store
from audisp.errors import StoreError
from tests.collector.stores import NANO, SECOND, Host, Tiny, entries, put, runs, segments, serials

HOUR = 3600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def retain(store: Store, now: int = SECOND * NANO) -> int:
    freed = store.retain(now)
    assert sum(path.stat().st_size for path in segments(store.path)) == store.size
    return freed


def intact(folder: Path, *hosts: Host) -> dict[str, int]:
    """Number of the first record that is kept of each; all behind it are there, and nothing is missing by wrong."""
    report = verify(folder)
    assert report.verdict <= Verdict.DROPPED, report
    first = {}
    for host in hosts:
        found = serials(folder, host.identity)
        assert runs(found)
        assert not found or found[-1] == host.at.next - 1
        first[host.identity] = found[0] if found else host.at.next
    kept = {stream.key.identity: stream.first for stream in report.streams}
    assert first == {name: kept[name] for name in first}
    return first


def of_size(store: Store, host: Host, size: int, *, now: int = SECOND * NANO) -> None:
    """Store about so many bytes of a host, in frames of about 1,000."""
    while size > 0:
        assert store.append(host.item(3, size=230, now=now))
        size -= store.commit().bytes


@given(st.lists(st.integers(0, 1000)), st.integers(-10, 20_000))
def test_water_level(sizes: list[int], room: int) -> None:
    level = water_level(sizes, room)
    together = sum(min(size, level) for size in sizes)
    assert together <= max(0, room)
    # It is the highest: one more for everybody who could use it is too much.
    if level < max(sizes, default=0):
        assert sum(min(size, level + 1) for size in sizes) > room


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        (Policy(), SEGMENT_BYTES),
        (Policy(max_age=HOUR), SEGMENT_BYTES),
        (Policy(max_bytes=100 << 30), SEGMENT_BYTES),
        (Policy(max_bytes=100 << 30, max_host_bytes=64 << 20), 4 << 20),
        (Policy(max_bytes=64 << 20), 4 << 20),
        (Policy(max_bytes=1 << 20), MIN_SEGMENT_BYTES),
    ],
)
def test_segments_are_a_small_part_of_the_bounds(policy: Policy, size: int) -> None:
    assert policy.segment_bytes == size


def test_nothing_is_removed_without_bounds(folder: Path) -> None:
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        of_size(store, host, 30_000)
        assert store.due(0)
        assert retain(store, 10 * SECOND * NANO) == 0
        assert not store.due(0)
        of_size(store, host, 6_000)
        assert store.due(0)
    assert intact(folder, host) == {"one": 1}


def test_by_age(folder: Path) -> None:
    host, silent = Host("one"), Host("silent")
    policy = Tiny(max_age=HOUR)
    at = [SECOND * NANO + minutes * 60 * NANO for minutes in range(120)]
    with Store(folder, policy=policy) as store:
        put(store, silent.item(now=at[0]))
        for now in at:
            put(store, host.item(now=now))
            if store.due(now):
                store.retain(now)
        oldest = min(entry.received for path in segments(folder) for entry in entries(path))
        # To the age of a segment, which is a sixteenth of an hour, rounded up to when it is looked at.
        assert at[-1] - 65 * 60 * NANO <= oldest <= at[-1] - 60 * 60 * NANO
        # Where a stream ends is remembered, though nothing is left of it.
        assert store.position("silent", silent.spool) == silent.at
        (stream,) = store.streams("silent")
        assert (stream.records, stream.size, stream.dropped) == (0, 0, 3)
    first = intact(folder, host, silent)
    assert first["silent"] == 4
    assert first["one"] > 100
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings()
        # A quiet store gets empty, too.
        late = at[-1] + 3 * HOUR * NANO
        assert store.due(late)
        retain(store, late)
        assert len(segments(folder)) == 1
        assert store.position("one", host.spool) == host.at
        put(store, host.item(now=late), silent.item(now=late))
    assert intact(folder, host, silent) == {"one": 361, "silent": 4}


def test_a_host_over_its_share_loses_its_own(folder: Path) -> None:
    hog, one, two = Host("hog"), Host("one"), Host("two")
    policy = Tiny(max_host_bytes=32_000)
    with Store(folder, policy=policy) as store:
        put(store, one.item(), two.item())
        bytes_sent = 0
        for _ in range(20):
            of_size(store, hog, 5_000)
            bytes_sent += 5_000
            put(store, one.item(2), two.item(1))
            if store.due(0):
                retain(store)
                (stream,) = store.streams("hog")
                # Over by what is in the segment that is written, at most.
                assert min(32_000, bytes_sent) - 8_000 < stream.size <= 32_000 + 5_000
    first = intact(folder, hog, one, two)
    assert first["one"] == first["two"] == 1
    assert first["hog"] > 200
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings()
        size = sum(entry.packed.size for path in segments(folder) for entry in entries(path))
        assert sum(stream.size for stream in store.streams()) == size
        (stream,) = store.streams("hog")
        assert stream.dropped == first["hog"] - 1
        assert stream.records == hog.at.next - first["hog"]


def test_one_that_floods_cannot_push_out_what_anewhave(folder: Path) -> None:
    hog, others = Host("hog"), [Host(f"h{number}") for number in range(5)]
    policy = Tiny(max_bytes=120_000)
    with Store(folder, policy=policy) as store:
        for _ in range(10):
            put(store, *(host.item(2) for host in others))
        for turn in range(60):
            of_size(store, hog, 5_000)
            if turn % 10 == 0:
                put(store, others[0].item(1))
            if store.due(0):
                retain(store)
            assert store.size <= 120_000
    first = intact(folder, hog, *others)
    assert {first[host.identity] for host in others} == {1}
    assert first["hog"] > 500


def test_one_that_floods_after_it_was_like_others_cannot_either(folder: Path) -> None:
    # What it has among that of others gives no room when it is removed: it is no reason to remove that of others.
    hosts = [Host(f"h{number}") for number in range(12)]
    policy = Tiny(max_bytes=400_000, segment=12_000)
    with Store(folder, policy=policy) as store:
        for _ in range(17):
            put(store, *(host.item(3, size=230) for host in hosts))
        assert not store.retain(0)
        quiet = len(segments(folder))
        for _ in range(40):
            of_size(store, hosts[0], 12_000)
            if store.due(0):
                retain(store)
            assert store.size <= 400_000
        # Nor is that of others copied again and again for it.
        assert len(segments(folder)) > quiet
        assert [path.name for path in segments(folder)][: quiet - 1] == [
            segment.name for segment in store._log.segments[: quiet - 1]
        ]
        kept = {stream.key.identity: stream.kept.next for stream in store.streams()}
    assert kept.pop("h0") > 1_000
    assert set(kept.values()) == {1}
    assert verify(folder).verdict is Verdict.DROPPED
    # What is removed and still there can be read.
    assert serials(folder, "h0")[:3] == [1, 2, 3]
    for host in hosts[1:]:
        assert serials(folder, host.identity) == [*range(1, 52)]


def test_shares_of_hosts_that_are_everywhere_do_not_copy_everything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [Host(f"h{number}") for number in range(10)]
    policy = Tiny(max_host_bytes=12_000, segment=12_000)
    copied = [0]

    def counted(census: Census, choice: Choice, now: int) -> Rewritten:
        done = rewrite(census, choice, now)
        copied[0] += done.size
        return done

    monkeypatch.setattr(store_module, "rewrite", counted)
    stored = 0
    with Store(folder, policy=policy) as store:
        for turn in range(150):
            # Each at a pace of its own, so that the oldest record of each is in another segment.
            for number, host in enumerate(hosts):
                if turn % (number + 1) == 0:
                    assert store.append(host.item(3, size=230))
            stored += store.commit().bytes
            if store.due(0):
                retain(store)
                assert all(stream.size <= 12_000 + 12_000 for stream in store.streams())
        kept = sum(stream.size for stream in store.streams())
        assert store.size < kept * 5 // 3 + 50_000
    assert verify(folder).verdict is Verdict.DROPPED
    assert copied[0] < 3 * stored


def test_hosts_that_are_alike_lose_the_oldest_segments_whole(folder: Path) -> None:
    hosts = [Host(f"h{number}") for number in range(5)]
    policy = Tiny(max_bytes=120_000)
    with Store(folder, policy=policy) as store:
        for _ in range(100):
            put(store, *(host.item(3, size=230) for host in hosts))
            made = {path.name for path in segments(folder)}
            if store.due(0):
                census = store.census()
                for choice in choose(census, policy, 0):
                    assert not choice.segments or choice.removed is None
                    store.replace(rewrite(census, choice, 0), 0)
            assert {path.name for path in segments(folder)} <= made | {segments(folder)[-1].name}
            assert store.size <= 120_000
    first = intact(folder, *hosts)
    assert max(first.values()) - min(first.values()) <= 9
    assert min(first.values()) > 150


def test_what_little_is_gained_by_is_not_copied(folder: Path) -> None:
    # One has a little more than the others, everywhere: to take that alone would mean to copy all the rest.
    more, others = Host("more"), [Host(f"h{number}") for number in range(10)]
    policy = Tiny(max_bytes=1_100_000, segment=60_000)
    with Store(folder, policy=policy) as store:
        hosts = [more, more, *others]
        items = (host.item(3, size=1000) for _ in range(100) for host in hosts)
        while store.size <= 980_000:
            put(store, next(items))
        _, *gone = choose(store.census(), policy, 0)
        assert [choice.removed for choice in gone] == [None] * len(gone)
        assert gone[0].segments[0].number == 1
        assert len(gone) <= 3
    # Where it is half of all it is taken alone.
    with Store(folder.with_name("other"), policy=policy) as store:
        hosts = [more] * 10 + others
        for host in hosts:
            host.at = Host("new").at
        while store.size <= 980_000:
            put(store, next(items))
        first, *anew = choose(store.census(), policy, 0)
        assert first.removed is not None
        assert {removed.key.identity for removed in first.removed} == {"more"}
        assert 1 <= len(anew) <= 3
        assert all(choice.removed == () for choice in anew)


def test_what_nobody_remembers_goes_with_the_oldest(folder: Path) -> None:
    # So many spools of one host that most are forgotten: they are nobody's to be taken from.
    hosts = [Host("one", spool=number) for number in range(100)]
    with Store(folder, policy=Tiny(max_bytes=60_000)) as store:
        for host in hosts:
            of_size(store, host, 2_000)
            if store.due(0):
                retain(store)
            assert store.size <= 60_000
        assert len(segments(folder)) > 5
    assert verify(folder).verdict <= Verdict.DROPPED


def test_scraps_are_put_together(folder: Path) -> None:
    hog, one = Host("hog"), Host("one")
    policy = Tiny(max_host_bytes=40_000, segment=10_000)
    with Store(folder, policy=policy) as store:
        for _ in range(30):
            of_size(store, hog, 10_000)
            put(store, one.item(1))
            if store.due(0):
                retain(store)
    # Without that each of the thirty would still be there, with one record in it.
    assert len(segments(folder)) < 20
    assert intact(folder, hog, one)["one"] == 1
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings()


def test_scraps_of_different_times_are_not_put_together_where_age_counts(folder: Path) -> None:
    one = Host("one")
    policy = Tiny(max_age=HOUR, segment=40_000)
    with Store(folder, policy=policy) as store:
        for minutes in range(50):
            now = SECOND * NANO + minutes * 60 * NANO
            put(store, one.item(1, now=now))
            if store.due(now):
                retain(store, now)
        assert len(segments(folder)) == 10
    with Store(folder, policy=Tiny(segment=40_000)) as store:
        retain(store)
        assert len(segments(folder)) <= 3
    assert intact(folder, one) == {"one": 1}


def test_a_segment_that_cannot_be_read_stays_as_it_is(folder: Path) -> None:
    hog, one = Host("hog"), Host("one")
    policy = Tiny(max_host_bytes=20_000)
    with Store(folder, policy=policy) as store:
        for _ in range(5):
            of_size(store, hog, 3_500)
            put(store, one.item(1))
        file = segments(folder)[0]
        data = bytearray(file.read_bytes())
        middle = entries(file)[2].packed.offset
        data[middle + 100] ^= 1
        file.write_bytes(data)
        of_size(store, hog, 3_500)
        retain(store)
        # The host has lost it all the same, as far as anybody is told.
        assert file.read_bytes() == data
        (stream,) = store.streams("hog")
        assert stream.dropped > 0
        assert stream.size <= 20_000 + 4_000
        assert stream.kept.first > max(entry.first for entry in entries(file) if entry.key.identity == "hog")
        of_size(store, hog, 10_000)
        retain(store)
        assert file.read_bytes() == data
    assert verify(folder).damaged == 1
    # Whole, as others, it can go.
    with Store(folder, policy=Tiny(max_age=HOUR)) as store:
        assert store.retain((SECOND + 2 * HOUR) * NANO) > 0
        assert not file.exists()


def test_what_was_replaced_meanwhile_is_not_replaced_again(folder: Path) -> None:
    hog, one = Host("hog"), Host("one")
    policy = Tiny(max_host_bytes=8_000)
    with Store(folder, policy=policy) as store:
        for _ in range(4):
            of_size(store, hog, 3_500)
            put(store, one.item(1))
        census = store.census()
        first, choice, *others = choose(census, policy, 0)
        assert first.removed
        assert choice.segments
        assert store.replace(rewrite(census, first, 0), 0)
        slow = rewrite(census, choice, 0)
        assert list(folder.glob("*.new"))
        assert store.replace(rewrite(census, choice, 0), 0)
        before = [path.read_bytes() for path in segments(folder)]
        assert not store.replace(slow, 0)
        assert [path.read_bytes() for path in segments(folder)] == before
        assert not list(folder.glob("*.new"))
        for choice in others:
            assert store.replace(rewrite(census, choice, 0), 0)
    intact(folder, hog, one)


def test_what_was_removed_meanwhile_is_not_removed_again(folder: Path) -> None:
    hog = Host("hog")
    policy = Tiny(max_host_bytes=8_000)
    with Store(folder, policy=policy) as store:
        of_size(store, hog, 20_000)
        census = store.census()
        slow = [rewrite(census, choice, 0) for choice in choose(census, policy, 0)[:1]]
        assert slow[0].removed
        retain(store)
        (before,) = store.streams("hog")
        assert not any(store.replace(each, 0) for each in slow)
        assert store.streams("hog") == [before]
        (stream,) = verify(folder).streams
        assert (stream.records, stream.dropped) == (before.records, before.dropped)
    intact(folder, hog)


def test_not_while_something_is_appended(folder: Path) -> None:
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        of_size(store, host, 10_000)
        census = store.census()
        done = rewrite(census, Choice((census.segments[0],), None), 0)
        store.append(host.item())
        with pytest.raises(StoreError, match="not committed"):
            store.replace(done, 0)
        store.commit()
        store.replace(done, 0)
    assert intact(folder, host)["one"] > 1


def test_a_reader_is_not_disturbed(folder: Path) -> None:
    hog, one = Host("hog"), Host("one")
    policy = Tiny(max_host_bytes=32_000, max_bytes=100_000)
    with Store(folder, policy=policy) as store, Reader(folder, durable=store.durable) as reader:
        found: dict[str, list[int]] = {"hog": [], "one": []}
        for turn in range(60):
            of_size(store, hog, 3_000)
            put(store, one.item(1))
            if store.due(0):
                retain(store)
            for _ in range(2 if turn < 50 else 1000):
                if (chunk := reader.read()) is None:
                    break
                found[chunk.identity] += chunk.block().serials()
        assert reader.damage == 0
    # What had been removed before it came by is missing, nothing else is, and nothing came twice.
    assert found["one"] == [*range(1, 61)]
    assert found["hog"] == sorted(set(found["hog"]))
    kept = serials(folder, "hog")
    assert set(kept) <= set(found["hog"]) | set(range(kept[0]))
    assert found["hog"][-1] == hog.at.next - 1
