"""Records come out of a store in order, verbatim, each once: of one host or all, from a time or a place, while it is
written, and over damage."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from audisp.buffer.segment import HEADER_BYTES, SegmentHeader
from audisp.collector.chain import Verdict, verify
from audisp.collector.reading import Reader, Window
from audisp.collector.store import Numbered, Policy, Store, Unnumbered
from audisp.collector.store_frames import assemble
from audisp.collector.store_index import Index
from audisp.errors import StoreError
from tests.collector.stores import NANO, SECOND, Host, Tiny, entries, message, put, record, segments, serials

MILLI = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_all_hosts_in_the_order_in_which_they_were_stored(folder: Path) -> None:
    one, two = Host("one"), Host("two", spool=2)
    items: list[Numbered | Unnumbered] = [one.item(2), two.item(1), message("c", 5)]
    items += [one.gap(10), one.item(1), two.item(3)]
    with Store(folder) as store:
        put(store, *items)
    with Reader(folder) as reader:
        chunks = list(reader)
    with_records = [item for item in items if item.data]
    assert [chunk.data for chunk in chunks] == [item.data for item in with_records]
    assert [chunk.identity for chunk in chunks] == [item.identity for item in with_records]
    assert [chunk.spool for chunk in chunks] == [one.spool, two.spool, b"", one.spool, two.spool]
    assert [(chunk.first, chunk.next) for chunk in chunks] == [(1, 3), (3, 4), (4, 5), (6, 7), (7, 10)]
    assert {chunk.received for chunk in chunks} == {SECOND * NANO}
    assert reader.next == 10
    assert reader.damage == 0
    block = chunks[0].block()
    assert (block.data, block.records, block.source) == (items[0].data, 2, "one")


@pytest.mark.parametrize("caches", [True, False], ids=["indexes", "no indexes"])
def test_one_host_over_many_segments(folder: Path, caches: bool) -> None:
    hosts = [Host(f"h{number}") for number in range(7)]
    with Store(folder, policy=Tiny()) as store:
        for turn in range(20):
            put(store, *(host.item(3, size=200) for host in hosts[: 2 + turn % 6]))
            put(store, message("h0", turn + 1000))
    assert len(segments(folder)) > 5
    if not caches:
        for path in folder.glob("*.idx"):
            path.unlink()
    for host in hosts[1:]:
        assert serials(folder, host.identity) == [*range(1, host.at.next)]
    assert sorted(serials(folder, "h0")) == [*range(1, hosts[0].at.next), *range(1000, 1020)]
    assert serials(folder, "nobody") == []
    assert not list(folder.glob("*.new"))


def test_only_what_is_wanted_is_unpacked(folder: Path) -> None:
    # Frames of another host, and of another time, are passed over by the index alone.
    one, two = Host("one"), Host("two")
    with Store(folder, policy=Tiny()) as store:
        for turn in range(20):
            now = (SECOND + turn * 60) * NANO
            put(store, one.item(3, size=200, now=now), two.item(3, size=200, now=now))
    for path in segments(folder)[:-1]:
        data = bytearray(path.read_bytes())
        for entry in entries(path):
            if entry.key.identity == "two" or entry.second < SECOND + 300:
                data[entry.packed.offset + 40] ^= 1
        path.write_bytes(data)
    with Reader(folder, host="one", window=Window((SECOND + 360) * MILLI)) as reader:
        found = [number for chunk in reader for number in chunk.block().serials()]
        assert reader.damage == 0
    assert found == [*range(19, 61)]
    with Reader(folder, host="two") as reader:
        assert not [chunk for chunk in reader if chunk.first < int(segments(folder)[-1].stem)]
        assert reader.damage > 5


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (0, SECOND + 100, range(1, 31)),
        (SECOND, SECOND + 100, range(1, 31)),
        (SECOND + 3, SECOND + 100, range(10, 31)),
        (SECOND + 3.123, SECOND + 100, range(10, 31)),
        (SECOND + 3.124, SECOND + 100, range(13, 31)),
        (0, SECOND + 3, range(1, 10)),
        (0, SECOND + 3.122, range(1, 10)),
        (0, SECOND + 3.123, range(1, 13)),
        (SECOND + 3, SECOND + 3.9, range(10, 13)),
        (SECOND + 9.2, SECOND + 100, range(0)),
        (0, SECOND - 1, range(0)),
    ],
)
@pytest.mark.parametrize("host", ["one", None])
@pytest.mark.parametrize("frame", [1, 3, 30])
def test_from_a_time_to_a_time(
    folder: Path, since: float, until: float, found: range, host: str | None, frame: int
) -> None:
    # Three records a second, however they are put into frames; all received an hour later.
    lines = [record(n + 1, SECOND + n // 3) for n in range(30)]
    with Store(folder, policy=Tiny(segment=1500)) as store:
        for start in range(0, 30, frame):
            put(store, Unnumbered("one", b"".join(lines[start : start + frame]), (SECOND + 3600) * NANO))
    window = Window(round(since * MILLI), round(until * MILLI))
    with Reader(folder, host=host, window=window) as reader:
        data = b"".join(chunk.data for chunk in reader)
    assert data == b"".join(lines[n - 1] for n in found)


def test_a_record_without_a_stamp_has_the_time_of_its_receipt(folder: Path) -> None:
    data = record(1, SECOND) + b"text\n" + record(2, SECOND + 5)
    with Store(folder) as store:
        put(store, Unnumbered("one", data, (SECOND + 3) * NANO))
    for since, found in ((SECOND, data), (SECOND + 2, data[len(record(1)) :]), (SECOND + 4, record(2, SECOND + 5))):
        with Reader(folder, window=Window(since * MILLI)) as reader:
            assert b"".join(chunk.data for chunk in reader) == found


def test_from_a_place(folder: Path) -> None:
    hosts = [Host("one"), Host("two")]
    with Store(folder, policy=Tiny()) as store:
        for _ in range(15):
            put(store, *(host.item(3, size=200) for host in hosts))
    with Reader(folder) as reader:
        chunks = list(reader)
    for place in range(len(chunks)):
        with Reader(folder, start=chunks[place].first) as reader:
            assert [chunk.first for chunk in reader] == [chunk.first for chunk in chunks[place:]]
        with Reader(folder, host="two", start=chunks[place].next) as reader:
            wanted = [chunk.first for chunk in chunks[place + 1 :] if chunk.identity == "two"]
            assert [chunk.first for chunk in reader] == wanted


def test_what_is_there_while_it_is_written(folder: Path) -> None:
    host, other = Host("one"), Host("two")
    with Store(folder, policy=Tiny()) as store, Reader(folder, durable=store.durable) as reader:
        assert reader.read() is None
        for turn in range(30):
            assert store.append(host.item(1, size=300))
            assert reader.read() is None
            store.commit()
            chunk = reader.read()
            assert chunk is not None
            assert chunk.block().serials() == [turn + 1]
            if turn % 10 == 3:
                store._log.seal()
                assert reader.read() is None
            if turn % 7 == 0:
                put(store, other.item(1))
                chunk = reader.read()
                assert chunk is not None
                assert chunk.identity == "two"
        assert len(segments(folder)) > 3
        assert reader.next == store.next


def test_a_segment_begun_while_it_is_looked_for_is_read_as_far_as_it_is_on_disk(folder: Path) -> None:
    with Store(folder) as store:
        asked = 0

        def durable() -> tuple[int, int]:
            nonlocal asked
            asked += 1
            if asked == 1:  # the first segment is begun and written to just now, and is not synced
                assert store.append(Host("one").item(2))
                assert store._log.tail is not None
                store._log.tail.write(b"".join(store._group.parts))
            return store.durable() if asked > 2 else (0, 0)

        with Reader(folder, durable=durable) as reader:
            assert reader.read() is None
            assert asked > 2
            tail = store._log.tail
            assert tail is not None
            tail.sync()
            chunk = reader.read()
            assert chunk is not None
            assert chunk.block().serials() == [1, 2]


def test_what_failed_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host("one")
    with Store(folder) as store, Reader(folder, durable=store.durable) as reader, Reader(folder) as stranger:
        put(store, host.item(1))
        assert reader.read() is not None
        assert stranger.read() is not None
        tail = store._log.tail
        assert tail is not None
        # Written, and not on disk yet: half of a frame, and then all of it.
        assert store.append(host.item(2))
        raw = b"".join(store._group.parts)
        tail.write(raw[:100])
        assert reader.read() is None
        assert stranger.read() is None
        tail._cut()
        tail.mend()
        store._group = type(store._group)()
        put(store, Host("two").item(1))
        for each in (reader, stranger):
            chunk = each.read()
            assert chunk is not None
            assert chunk.identity == "two"
            assert each.read() is None
            assert each.damage == 0


def test_a_reader_beside_a_writer(folder: Path) -> None:
    hosts = [Host(f"h{number}") for number in range(3)]
    found: dict[str, list[int]] = {host.identity: [] for host in hosts}
    with Store(folder, policy=Tiny(max_age=1)) as store:
        done = threading.Event()

        def write() -> None:
            for _ in range(150):
                put(store, *(host.item(2, size=200) for host in hosts))
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        with Reader(folder, durable=store.durable) as reader:
            while not done.is_set() or reader.next < store.next:
                for chunk in reader:
                    found[chunk.identity] += chunk.block().serials()
        writer.join()
        assert reader.damage == 0
    assert found == {host.identity: [*range(1, 301)] for host in hosts}


def test_a_segment_that_cannot_be_used_is_passed_over(folder: Path) -> None:
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        for _ in range(10):
            put(store, host.item(3, size=300))
    middle = segments(folder)[1]
    lost = {number for entry in entries(middle) for number in range(entry.number, entry.after.next)}
    middle.write_bytes(b"x" * middle.stat().st_size)
    found: list[int] = []
    for name in ("one", None):
        with Reader(folder, host=name) as reader:
            found = [number for chunk in reader for number in chunk.block().serials()]
            assert reader.damage == 1
        assert found == [number for number in range(1, 31) if number not in lost]
    middle.unlink()
    assert serials(folder, "one") == found


def test_the_store_goes_away(folder: Path) -> None:
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        for _ in range(10):
            put(store, host.item(3, size=300))
    with Reader(folder) as reader:
        assert reader.read() is not None
        for path in segments(folder):
            path.unlink()
        # What is open can be read.
        assert all(chunk.first < 30 for chunk in reader)
        assert reader.read() is None


def test_no_store(folder: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"), Reader(folder):
        pass
    assert not folder.exists()
    folder.mkdir(0o700)
    with Reader(folder) as reader:
        assert reader.read() is None
        with Store(folder, policy=Policy()) as store:
            put(store, Host("one").item())
        assert reader.read() is not None


@pytest.mark.parametrize("host", ["one", None])
def test_records_that_do_not_unpack_are_passed_over(folder: Path, host: str | None) -> None:
    # Every checksum is right: somebody made it so.
    with Store(folder, policy=Tiny()) as store:
        sender = Host("one")
        for _ in range(8):
            put(store, sender.item(3, size=300))
    path = segments(folder)[0]
    victim = entries(path)[1]
    data = path.read_bytes()
    at, size = victim.packed.offset, victim.packed.size
    head_size = int.from_bytes(data[at + 8 : at + 12], "little")
    head = data[at + 28 : at + 28 + head_size]
    packed = victim.packed.packed
    spoiled = packed[: len(packed) // 2] + bytes(len(packed) - len(packed) // 2)
    raw, _ = assemble(head, spoiled, victim.packed.plain, data[at : at + 8])
    path.write_bytes(data[:at] + raw + data[at + size :])
    with Reader(folder, host=host) as reader:
        found = [number for chunk in reader for number in chunk.block().serials()]
        assert reader.damage == 1
    assert found == [1, 2, 3, *range(7, 25)]
    assert verify(folder).verdict is Verdict.EDITED


def test_an_index_that_is_wrong_shows_no_false_records(folder: Path) -> None:
    # An index is a cache: where it does not agree with the segment, the frame counts as damaged.
    with Store(folder, policy=Tiny()) as store:
        sender = Host("one")
        for _ in range(20):
            put(store, sender.item(3, size=300))
    first, second = sorted(folder.glob("*.idx"))[:2]
    header = SegmentHeader.decode(segments(folder)[0].read_bytes()[:HEADER_BYTES])
    other = SegmentHeader.decode(segments(folder)[1].read_bytes()[:HEADER_BYTES])
    index = Index.decode(second.read_bytes(), other.segment, segments(folder)[1].stat().st_size)
    assert index is not None
    first.write_bytes(index.encode(header.segment, segments(folder)[0].stat().st_size))
    with Reader(folder, host="one") as reader:
        found = [number for chunk in reader for number in chunk.block().serials()]
        assert reader.damage == index.frames
    assert set(found) < set(range(1, 61))
    assert found == sorted(set(found))
    assert verify(folder).verdict is Verdict.INTACT
