"""The store on a disk that is well: what is committed is there, in order, verbatim, and nothing else is taken."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest

from audisp.buffer.segment import ANCHOR, MAX_FRAME_PLAIN, MAX_SENDER_HEAD, Frame
from audisp.collector.chain import Verdict, verify
from audisp.collector.reading import Reader
from audisp.collector.store import GROUP_BYTES, Findings, Numbered, Policy, Refused, Store, StreamKey, Unnumbered
from audisp.collector.store_frames import address_identity, assemble
from audisp.collector.store_look import MAX_NODES
from audisp.collector.store_streams import MAX_STREAMS
from audisp.errors import StoreError
from audisp.wire.native import DATA_MARK, DataFrame, Position
from tests.collector.stores import NANO, SECOND, Host, Tiny, entries, message, put, record, runs, segments, serials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_what_is_committed_is_there_and_what_is_not_is_not(folder: Path) -> None:
    one, two = Host("one"), Host("two")
    with Store(folder) as store:
        assert store.position("one", one.spool) is None
        first = one.item(3)
        assert store.append(first)
        assert store.append(two.item(2))
        assert store.position("one", one.spool) is None
        done = store.commit()
        assert (done.frames, done.records) == (2, 5)
        assert {each.key.identity: (each.place, each.items) for each in done.durable} == {
            "one": (first.frame.after, 1),
            "two": (two.at, 1),
        }
        assert store.position("one", one.spool) == one.at == Position(4, first.frame.digest)
        put(store, one.item(4))
        kept = one.at
        assert store.append(one.item(5))
    with Store(folder) as store:
        assert store.findings == Findings()
        assert store.position("one", one.spool) == kept
        assert store.position("two", two.spool) == two.at
        assert store.commit().frames == 0
    assert serials(folder, "one") == [*range(1, 8)]
    assert serials(folder, "two") == [1, 2]


def test_a_sender_s_frame_is_stored_as_it_came(folder: Path) -> None:
    host = Host("one")
    items = [host.item(3, books={"received": 7, "deep": {"a": [1, b"x"]}}), host.gap(40), host.item(1)]
    with Store(folder) as store:
        put(store, *items)
    found = entries(segments(folder)[0])
    for item, entry in zip(items, found, strict=True):
        back = entry.sender_frame()
        assert back is not None
        assert back.under(DATA_MARK) == item.frame.under(DATA_MARK)
        assert entry.key == StreamKey("one", host.spool)
        assert entry.after == item.frame.after
    assert [entry.number for entry in found] == [1, 4, 44]
    assert [entry.first for entry in found] == [1, 4, 5]


def test_a_gap_is_a_part_of_the_stream(folder: Path) -> None:
    host = Host("one")
    with Store(folder) as store:
        put(store, host.item(3), host.gap(40), host.item(2))
    with Store(folder) as store:
        assert store.position("one", host.spool) == host.at == Position(46, host.at.last)
        (stream,) = store.streams("one")
        assert (stream.records, stream.missing) == (5, 40)
    assert serials(folder, "one") == [1, 2, 3, 44, 45]


def test_what_does_not_follow_is_refused(folder: Path) -> None:
    host, other = Host("one"), Host("two")
    with Store(folder) as store:
        first, second, third = host.item(), host.item(), host.item()
        forged = attrs.evolve(second, frame=DataFrame.make(Frame(4, 3, "x", {}, ANCHOR, 0, second.data)))
        put(store, first)
        for wrong in (first, third, forged):
            with pytest.raises(Refused, match="record 4"):
                store.append(wrong)
        # Also what does not follow something that is only appended. Others are not touched by it.
        assert store.append(second)
        assert store.append(other.item())
        with pytest.raises(Refused):
            store.append(second)
        assert store.append(third)
        assert store.commit().records == 9
        assert store.position("one", host.spool) == host.at
    assert serials(folder, "one") == [*range(1, 10)]
    assert serials(folder, "two") == [1, 2, 3]


def test_a_stream_that_is_new_may_begin_anywhere(folder: Path) -> None:
    host = Host("one")
    host.at = Position(1000, bytes(range(32)))
    again = Host("one", spool=2)
    with Store(folder) as store:
        put(store, host.item(), again.item())
        assert store.position("one", host.spool) == host.at
        assert store.position("one", again.spool) == again.at
        assert store.position("one", bytes(16)) is None
    with Store(folder) as store:
        assert {stream.kept.next for stream in store.streams("one")} == {1000, 1}
        assert {stream.kept.last for stream in store.streams("one")} == {bytes(range(32)), ANCHOR}


def test_c_programs_have_numbers_of_the_store_s_own(folder: Path) -> None:
    plain = address_identity("192.0.2.7")
    with Store(folder) as store:
        assert store.recent("web1") == (None, None)
        put(store, message("web1", 2), message(plain, 2), message("web1", 9, count=7))
        last = message("web1", 9)
        assert store.recent("web1") == (9, last.digest)
        put(store, Unnumbered("web1", record(10), 1))
        assert store.recent("web1") == (9, last.digest)
    with Store(folder) as store:
        assert store.recent("web1") == (9, last.digest)
        assert store.recent(plain)[0] == 2
        assert store.streams("web1")[0].next == 10
        put(store, message("web1", 11))
    assert serials(folder, "web1") == [2, *range(3, 10), 10, 11]
    found = entries(segments(folder)[0])
    assert [(entry.key.identity, entry.number) for entry in found] == [
        ("web1", 1),
        (plain, 1),
        ("web1", 2),
        ("web1", 9),
        ("web1", 10),
    ]
    marked = {entry.key.identity for entry in found if entry.packed.head.books.get("authenticated") is False}
    assert marked == {plain}


def test_one_host_may_have_both_kinds(folder: Path) -> None:
    host = Host("web1")
    with Store(folder) as store:
        put(store, message("web1", 501), host.item(2), message("web1", 502))
    assert serials(folder, "web1") == [501, 1, 2, 502]
    with Store(folder) as store:
        assert store.position("web1", host.spool) == host.at
        assert store.recent("web1")[0] == 502


@pytest.mark.parametrize("identity", ["", "a b", "ü", "x" * 256, "a\n"])
def test_identities_that_cannot_be(folder: Path, identity: str) -> None:
    with Store(folder) as store:
        with pytest.raises(ValueError, match="no identity"):
            store.append(message(identity, 1))
        put(store, message("x" * 255, 1))


def test_numbers_need_a_key(folder: Path) -> None:
    host = Host(address_identity("192.0.2.7"))
    with Store(folder) as store, pytest.raises(Refused, match="key"):
        store.append(host.item())


@pytest.mark.parametrize("data", [b"", b"no end", record(1)[:-1], record(1) * (MAX_FRAME_PLAIN // 50)])
def test_data_that_are_no_lines(folder: Path, data: bytes) -> None:
    with Store(folder) as store:
        with pytest.raises(ValueError, match="not lines"):
            store.append(Unnumbered("web1", data, 1))
        put(store, message("web1", 1))
        assert store.streams("web1")[0].next == 2


def too_long(item: Numbered) -> Numbered:
    """The same with a header that is one byte too long, which no sender of ours makes and the listener refuses."""
    fields = msgpack.unpackb(item.frame.header)
    room = MAX_SENDER_HEAD + 1 - len(item.frame.header) - len(msgpack.packb("fill")) - 3
    fields["books"]["fill"] = "x" * room
    head = msgpack.packb(fields)
    assert len(head) == MAX_SENDER_HEAD + 1
    raw, _ = assemble(head, item.frame.packed, item.frame.plain, DATA_MARK)
    return attrs.evolve(item, frame=DataFrame.read(raw))


def test_a_header_that_leaves_no_room_for_ours(folder: Path) -> None:
    host, long = Host("one"), Host("x" * 255)
    with Store(folder) as store:
        with pytest.raises(Refused, match="frame header"):
            store.append(too_long(host.item()))
        host = Host("one")
        short = len(Host("one").item(books={"fill": "x" * 60_000}).frame.header) - 60_000
        largest = {"fill": "x" * (MAX_SENDER_HEAD - short)}
        items = [host.item(books=largest), long.item(books=largest)]
        assert [len(item.frame.header) for item in items] == [MAX_SENDER_HEAD] * 2
        nodes = b"".join(record(n, node=f"{n:064d}") for n in range(20))
        fuller = {"fill": largest["fill"][:-10]}  # larger numbers take more bytes
        full = DataFrame.make(Frame(long.at.next, 20, "netlink", fuller, long.at.last, 1, nodes))
        put(store, *items, Numbered(long.identity, long.spool, full, nodes, 1))
    with Store(folder) as store:
        assert store.findings == Findings()
        assert store.position(long.identity, long.spool) == full.after


def test_a_group_is_bounded(folder: Path) -> None:
    host = Host("one")
    items = [host.item(250, size=4000) for _ in range(8)]
    with Store(folder) as store:
        taken = [store.append(item) for item in items]
        count = taken.index(False)
        assert taken == [True] * count + [False] * (8 - count)
        assert GROUP_BYTES - MAX_FRAME_PLAIN <= store.commit().bytes <= GROUP_BYTES
        put(store, *items[count:])
    assert runs(serials(folder, "one"))


def test_nodes_of_a_host_are_remembered(folder: Path) -> None:
    honest, several, many = Host("honest"), Host("several"), Host("many")
    with Store(folder) as store:
        put(store, honest.item(node="web1"), several.item(node="web1"), Host("silent").item())
        put(store, honest.item(node="web1"), several.item(node="web2"), several.item())
        put(store, *(many.item(1, node=f"n{number}") for number in range(50)))
    with Store(folder) as store:
        nodes = {stream.key.identity: stream.nodes for stream in store.streams()}
        assert nodes.pop("many") == tuple(f"n{number}" for number in range(MAX_NODES))
        assert nodes == {"honest": ("web1",), "several": ("web1", "web2"), "silent": ()}


def test_hosts_are_bounded(folder: Path) -> None:
    with Store(folder, max_hosts=10) as store:
        # Whoever has no key gets a part of them only.
        put(store, *(message(address_identity(str(number)), 1) for number in range(5)))
        with pytest.raises(Refused, match="5 hosts without a key"):
            store.append(message(address_identity("5"), 1))
        put(store, *(Host(f"h{number}").item() for number in range(5)))
        store.append(Host("h0", spool=2).item())
        with pytest.raises(Refused, match="10 hosts"):
            store.append(Host("h5").item())
        store.commit()
        put(store, message(address_identity("1"), 2))
    with Store(folder, max_hosts=10) as store:
        with pytest.raises(Refused, match="10 hosts"):
            store.append(Host("h5").item())
        store.bound(Policy(), 0, 11)
        put(store, Host("h5").item())


def test_hosts_of_whom_nothing_is_kept_give_way(folder: Path) -> None:
    policy = Tiny(max_age=60)
    old = [Host(f"old{number}") for number in range(4)]
    with Store(folder, policy=policy, max_hosts=8) as store:
        put(store, *(message(address_identity(str(number)), 1) for number in range(4)))
        put(store, *(host.item(now=SECOND * NANO + number) for number, host in enumerate(old)))
        later = (SECOND + 1000) * NANO
        store.due(later)
        store.retain(later)
        assert len(store.streams()) == 8
        # Places of those without a key are for those without a key.
        put(store, message(address_identity("9"), 1, now=later))
        assert not store.streams(address_identity("0"))
        assert store.streams(address_identity("1"))
        for number in range(4):
            put(store, Host(f"new{number}").item(now=later))
        names = {stream.key.identity for stream in store.streams()}
        assert len(names) == 8
        assert {f"new{number}" for number in range(4)} <= names
        # One that comes back is as new, and nothing is wrong with what it had.
        put(store, message(address_identity("0"), 7, now=later))
        assert store.streams(address_identity("0"))[0].next == 2
        known = {stream.key for stream in store.streams()}
    assert verify(folder).status == 0
    with Store(folder, policy=policy, max_hosts=8) as store:
        assert store.findings == Findings()
        # What was forgotten is forgotten by who reads the log, too.
        assert {stream.key for stream in store.streams()} == known


def test_new_hosts_of_one_group_are_bounded(folder: Path) -> None:
    with Store(folder, max_hosts=3) as store:
        for number in range(3):
            assert store.append(Host(f"h{number}").item())
        with pytest.raises(Refused, match="3 hosts"):
            store.append(Host("h3").item())
        assert store.append(Host("h1", spool=7).item())


def test_spools_of_one_host_are_bounded(folder: Path) -> None:
    hosts = [Host("one", spool=number) for number in range(MAX_STREAMS + 4)]
    with Store(folder) as store:
        for number, host in enumerate(hosts):
            put(store, host.item(now=number))
        put(store, Host("two").item())
        assert len(store.streams("one")) == MAX_STREAMS
        remembered = [store.position("one", host.spool) is not None for host in hosts]
        assert remembered == [False] * 4 + [True] * MAX_STREAMS
        # One that comes back begins anew.
        put(store, hosts[0].item())
        known = {stream.key for stream in store.streams()}
    with Store(folder) as store:
        assert store.findings == Findings()
        assert {stream.key for stream in store.streams()} == known
        assert store.position("one", hosts[0].spool) == hosts[0].at
        # All at once: those that are in the group stay.
        news = [Host("one", spool=100 + number) for number in range(MAX_STREAMS + 1)]
        for host in news[:-1]:
            assert store.append(host.item())
        with pytest.raises(Refused, match="16 streams of one host"):
            store.append(news[-1].item())
        store.commit()
        assert {stream.key.spool for stream in store.streams("one")} == {host.spool for host in news[:-1]}
    with Store(folder) as store:
        assert {stream.key.spool for stream in store.streams("one")} == {host.spool for host in news[:-1]}
    report = verify(folder)
    assert report.verdict <= Verdict.DROPPED
    assert sum(stream.records for stream in report.streams) == 3 * (len(hosts) + 1 + MAX_STREAMS + 1)
    hosts += news
    assert len(serials(folder, "one")) == 3 * len(hosts)


def test_segments_follow_each_other(folder: Path) -> None:
    # The smallest segments that there are.
    policy = Policy(max_host_bytes=16 << 20)
    hosts = [Host(f"h{number}") for number in range(5)]
    with Store(folder, policy=policy) as store:
        for _ in range(10):
            put(store, *(host.item(100, size=1000) for host in hosts))
    assert len(segments(folder)) >= 3
    assert all(path.stat().st_size < 2 << 20 for path in segments(folder))
    assert [int(path.stem) for path in segments(folder)] == [entries(path)[0].first for path in segments(folder)]
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings()
        assert all(store.position(host.identity, host.spool) == host.at for host in hosts)
    for host in hosts:
        assert serials(folder, host.identity) == [*range(1, 1001)]


def test_opening_reads_the_last_segment_alone(folder: Path) -> None:
    policy = Policy(max_host_bytes=16 << 20)
    host, old = Host("one"), Host("old")
    with Store(folder, policy=policy) as store:
        put(store, old.item())
        for _ in range(30):
            put(store, host.item(100, size=1000))
    *before, _ = segments(folder)
    assert before
    for path in before:
        path.write_bytes(bytes(path.stat().st_size))
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings()
        assert store.position("old", old.spool) == old.at
        assert store.position("one", host.spool) == host.at


def test_files_are_ours_alone(folder: Path) -> None:
    old = os.umask(0)
    try:
        with Store(folder, policy=Policy(max_host_bytes=16 << 20)) as store:
            host = Host("one")
            for _ in range(30):
                put(store, host.item(100, size=1000))
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.suffix for path in folder.iterdir()} == {".seg", ".idx", ""}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["lock", "end", "segment"])
@pytest.mark.parametrize("kind", ["link", "second name", "open to others"])
def test_files_that_somebody_has_put_there_are_refused(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    with Store(folder) as store:
        put(store, Host("one").item())
    path = segments(folder)[0] if name == "segment" else folder / name
    elsewhere = tmp_path / "elsewhere"
    if kind == "link":
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    elif kind == "second name":
        elsewhere.hardlink_to(path)
    else:
        path.chmod(0o640)
    before = elsewhere.read_bytes() if elsewhere.exists() else b""
    store = Store(folder)
    with pytest.raises(StoreError, match=re.escape(path.name)):
        store.open()
    assert not elsewhere.exists() or elsewhere.read_bytes() == before


def test_one_process_at_a_time(folder: Path) -> None:
    code = "import sys; from audisp.collector.store import Store; Store(sys.argv[1]).open()"
    with Store(folder) as store:
        put(store, Host("one").item())
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            Store(folder).open()
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
        assert f"in use by process {os.getpid()}" in done.stderr
        with pytest.raises(StoreError, match="open already"):
            store.open()
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_store_that_is_not_open(folder: Path) -> None:
    store = Store(folder)
    for call in (store.commit, store.census, store.space, store.probe):
        with pytest.raises(StoreError, match="not open"):
            call()
    with pytest.raises(StoreError, match="not open"):
        store.append(message("one", 1))
    store.close()
    with pytest.raises(StoreError, match="no store"), Reader(folder):
        pass


def test_memory_for_ten_thousand_hosts(folder: Path) -> None:
    def fill(store: Store, **options: Any) -> None:
        for number in range(10_000):
            item = Host(f"host{number:05d}.example.net").item(1, **options)
            if not store.append(item):
                store.commit()
                store.append(item)
        store.commit()

    with Store(folder) as store:
        fill(store, node="some.node")
    tracemalloc.start()
    try:
        with Store(folder) as store:
            # The index of the segment that is written is no part of it: it is bounded by itself.
            store._log.seal()
            store._log.index = type(store._log.index)()
            taken = tracemalloc.get_traced_memory()[0]
            assert len(store.streams()) == 10_000
    finally:
        tracemalloc.stop()
    assert taken < 10_000 * 1_600
