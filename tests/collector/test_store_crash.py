"""The store after crashes and damage: what was acknowledged is there once, and what is wrong is found."""

from __future__ import annotations

import os
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import HEADER_BYTES
from audisp.collector.chain import Verdict, verify
from audisp.collector.reading import Reader
from audisp.collector.store import Findings, Store
from audisp.errors import StoreError
from tests.collector.killing import kill_again
from tests.collector.stores import NANO, SECOND, Host, Tiny, entries, frames, message, put, runs, segments, serials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_torn_in_the_last_group(folder: Path) -> None:
    one, two = Host("one"), Host("two")
    with Store(folder) as store:
        put(store, one.item(), two.item())
        (file,) = segments(folder)
        whole = file.stat().st_size
        mark = (folder / "end").read_bytes()
        before = {"one": one.at, "two": two.at}
        put(store, one.item(2), two.item(1), message("c", 1))
    data = file.read_bytes()
    bounds = [entry.packed.offset + entry.packed.size for entry in entries(file)]
    # Around the beginning of each frame and the end of its prefix, and wherever chance has it.
    interesting = {bound + near for bound in (whole, *bounds) for near in (*range(-3, 4), 27, 28, 29)}
    cuts = interesting | {*random.Random(3).sample(range(whole, len(data)), 100)}
    for cut in sorted(cut for cut in cuts if whole <= cut < len(data)):
        file.write_bytes(data[:cut])
        # As it is when the group was never acknowledged.
        (folder / "end").write_bytes(mark)
        with Store(folder) as store:
            good = max(bound for bound in bounds if bound <= cut)
            assert store.findings == Findings(torn=int(cut > good), torn_bytes=cut - good)
            assert file.stat().st_size == good
            # A whole frame counts, acknowledged or not: its position is told to its sender.
            assert store.position("one", one.spool) == (one.at if good > whole else before["one"])
            assert store.position("two", two.spool) == (two.at if good >= bounds[3] else before["two"])
    with Store(folder) as store:
        one.at = store.position("one", one.spool) or one.at
        put(store, one.item())
    assert serials(folder, "one") == [*range(1, 9)]
    assert verify(folder).verdict is Verdict.INTACT


def test_torn_while_a_segment_was_begun(folder: Path) -> None:
    hosts = [Host(f"host{number}") for number in range(600)]
    with Store(folder) as store:
        put(store, *(host.item(1) for host in hosts))
        store._log.seal()
        put(store, hosts[0].item(1))
    _, last = segments(folder)
    data = last.read_bytes()
    rows = [each for each in frames(last) if not hasattr(each, "packed")]
    assert len(rows) > 2
    (folder / "end").unlink()
    cuts = [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100, entries(last)[0].packed.offset - 1]
    for cut in cuts:
        last.touch(0o600)
        last.write_bytes(data[:cut])
        with Store(folder) as store:
            assert store.findings == Findings(torn=1, torn_bytes=cut)
            assert not last.exists()
            assert store.position("host0", hosts[0].spool) != hosts[0].at
            assert len(store.streams()) == 600


def test_rows_that_cannot_be_read(folder: Path) -> None:
    policy, host, old = Tiny(), Host("one"), Host("old")
    with Store(folder, policy=policy) as store:
        put(store, old.item())
        for _ in range(10):
            put(store, host.item(10, size=200))
    *_, before, last = segments(folder)
    for file in (last, before):
        data = bytearray(file.read_bytes())
        data[HEADER_BYTES + 40] ^= 1
        file.write_bytes(data)
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings(no_rows=2, damaged=2)
        assert store.position("one", host.spool) == host.at
        assert store.position("old", old.spool) == old.at
        put(store, host.item(10, size=200))
    # Nor any others: what frames say themselves has to do.
    for file in segments(folder):
        data = bytearray(file.read_bytes())
        data[HEADER_BYTES + 40] ^= 2
        file.write_bytes(data)
    with Store(folder, policy=policy) as store:
        assert store.findings.no_rows == len(segments(folder))
        assert store.findings.broken_chain == 0
        assert store.position("one", host.spool) == host.at
        assert store.position("old", old.spool) == old.at
        assert store.streams("one")[0].records == host.at.next - 1


@given(bit=st.integers(0, 10**9))
def test_a_flipped_bit_anywhere_is_found(bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("stores") / "store"
    hosts = [Host("one"), Host("two")]
    policy = Tiny()
    with Store(folder, policy=policy) as store:
        for _ in range(7):
            put(store, *(host.item(5, size=250) for host in hosts))
    files = segments(folder)
    assert len(files) > 2
    bit %= sum(file.stat().st_size - 128 for file in files) * 8
    for file in files:
        data = bytearray(file.read_bytes())
        size = (len(data) - 128) * 8
        if bit < size:
            # The room for a seal is not looked at by the header's checksum; version 1 wants it empty.
            bit += 128 * 8 if bit // 8 >= 384 else 0
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            break
        bit -= size
    report = verify(folder)
    assert report.status == 1
    assert report.verdict in (Verdict.DAMAGED, Verdict.TRUNCATED)
    total = 0
    for host in hosts:
        found = serials(folder, host.identity)
        assert found == sorted(set(found))
        assert set(found) <= set(range(1, host.at.next))
        total += len(found)
    with Store(folder, policy=policy) as store:
        for host in hosts:
            at = store.position(host.identity, host.spool)
            # What the last frame said, if that can be read.
            assert at is not None
            assert at.next <= host.at.next
            host.at = at
            put(store, host.item(5))
    assert total >= 40


def test_a_log_that_ends_before_its_mark(folder: Path) -> None:
    one, two = Host("one"), Host("two")
    with Store(folder) as store:
        put(store, one.item(), two.item())
        put(store, one.item(4))
    (file,) = segments(folder)
    data = file.read_bytes()
    *_, last = entries(file)
    file.write_bytes(data[: last.packed.offset])
    assert verify(folder).verdict is Verdict.TRUNCATED
    assert verify(folder).cut == 4
    with Store(folder) as store:
        assert store.findings == Findings(cut=4)
        # The sender has no use for a number that was given already.
        assert store.next == 11
        at = store.position("one", one.spool)
        assert at is not None
        assert at.next == 4
        put(store, two.item())
    assert [entry.first for entry in entries(file)] == [1, 4, 11]


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_last_frame_that_was_on_disk_is_not_cut_off(folder: Path, cut: int) -> None:
    host = Host("one")
    with Store(folder) as store:
        put(store, host.item())
        before = host.at
        put(store, host.item())
    (file,) = segments(folder)
    data = file.read_bytes()
    spoiled = data[:-cut] if cut < 100 else data[:-50] + bytes([data[-50] ^ 1]) + data[-49:]
    file.write_bytes(spoiled)
    assert verify(folder).verdict >= Verdict.DAMAGED
    with Store(folder) as store:
        assert (store.findings.damaged, store.findings.torn, store.findings.cut) == (1, 0, 3)
        assert store.position("one", host.spool) == before
        host.at = before
        put(store, host.item())
        # It is kept for a person to look at, and a new one is written to.
        assert len(segments(folder)) == 2
        assert file.read_bytes() == spoiled
    assert serials(folder, "one") == [*range(1, 7)]
    with Store(folder) as store:
        assert store.findings == Findings()
    assert verify(folder).damaged == 1


def test_the_last_segment_gone(folder: Path) -> None:
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        for _ in range(10):
            put(store, host.item(10, size=200))
    last = segments(folder)[-1]
    lost = sum(entry.packed.head.count for entry in entries(last))
    last.unlink()
    assert verify(folder).verdict is Verdict.TRUNCATED
    with Store(folder, policy=Tiny()) as store:
        assert store.findings == Findings(cut=lost)
        at = store.position("one", host.spool)
        assert at is not None
        assert at.next == host.at.next - lost


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_torn_end_mark(folder: Path, slot: int) -> None:
    host = Host("one")
    with Store(folder) as store:
        for _ in range(3):
            put(store, host.item())
    data = bytearray((folder / "end").read_bytes())
    for number in (0, 1):
        if slot in (number, 2):
            data[number * 512 + 30] ^= 1
    (folder / "end").write_bytes(data)
    with Store(folder) as store:
        assert store.findings == Findings()
        put(store, host.item())
    with Store(folder) as store:
        assert store.position("one", host.spool) == host.at


def test_the_mark_of_another_store_says_nothing(folder: Path, tmp_path: Path) -> None:
    host = Host("one")
    with Store(tmp_path / "other") as other:
        put(other, *(Host(f"h{number}").item(100) for number in range(10)))
    with Store(folder) as store:
        put(store, host.item())
    (folder / "end").write_bytes((tmp_path / "other" / "end").read_bytes())
    with Store(folder) as store:
        assert store.findings == Findings()
        assert store.next == 4


def test_files_that_are_no_segments_are_set_aside(folder: Path, tmp_path: Path) -> None:
    host = Host("one")
    with Store(tmp_path / "other") as other:
        put(other, Host("two").item())
    with Store(folder) as store:
        put(store, host.item())
    text = folder / "00000000000000000900.seg"
    text.touch(0o600)
    text.write_bytes(b"x" * 5000)
    wrong = folder / "00000000000000000800.seg"
    wrong.touch(0o600)
    wrong.write_bytes(segments(folder)[0].read_bytes())
    (folder / "stray.new").write_bytes(b"x")
    size = sum(each.stat().st_size for each in segments(folder))
    with Store(folder) as store:
        assert store.findings == Findings(aside=2)
        assert len(segments(folder)) == 1
        assert len(list(folder.glob("*.bad"))) == 2
        assert store.size == size
        put(store, host.item())
        assert not (folder / "stray.new").exists()
    assert serials(folder, "one") == [*range(1, 7)]


def test_a_later_version_is_refused_and_left_alone(folder: Path) -> None:
    with Store(folder) as store:
        put(store, Host("one").item())
    (file,) = segments(folder)
    data = bytearray(file.read_bytes())
    struct.pack_into("<H", data, 8, 9)
    struct.pack_into("<I", data, 380, zlib.crc32(data[:380]))
    file.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{re.escape(str(file))}: .*version 9"):
        Store(folder).open()
    with pytest.raises(StoreError, match="version 9"):
        verify(folder)
    with pytest.raises(StoreError, match="version 9"), Reader(folder) as reader:
        reader.read()
    assert file.read_bytes() == data


class Killed(BaseException):
    """The process is killed."""


class Killer:
    """Kills at the call of this number of those that change something: before it, or in the middle of a write. (Behind
    a call is before the next one.)"""

    CALLS = ("write", "pwrite", "fdatasync", "fsync", "rename", "unlink", "ftruncate")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left >= 0:
                return call(*arguments, **options)
            if self.left == -1 and name in ("write", "pwrite"):
                file, data, *rest = arguments
                call(file, bytes(data)[: len(data) // 2], *rest)
            raise Killed

        return wrapped


def workload(store: Store, hosts: list[Host], acked: dict[str, int], seed: int, turns: int) -> None:
    """Stores, and removes; says in `acked` up to where."""
    chance = random.Random(seed)
    for turn in range(turns):
        now = SECOND * NANO + turn * NANO
        items = [
            host.item(chance.randint(1, 4), size=300 if host.identity == "hog" else 60, now=now)
            for host in hosts
            for _ in range(chance.randint(0, 2))
        ]
        while items:
            while items and store.append(items[0]):
                del items[0]
            for each in store.commit().durable:
                acked[each.key.identity] = each.place.next
        if store.due(now):
            store.retain(now)


def check(store: Store, folder: Path, hosts: list[Host], acked: dict[str, int]) -> None:
    """All that was acknowledged and not removed by right is there, once, in order, and the senders are told."""
    report = verify(folder)
    assert report.verdict <= Verdict.DROPPED, report
    for host in hosts:
        at = store.position(host.identity, host.spool)
        if at is None:
            assert host.identity not in acked
            host.at = Host("x").at
            continue
        (stream,) = store.streams(host.identity)
        assert acked.get(host.identity, 1) <= at.next <= host.at.next
        found = serials(folder, host.identity)
        assert runs(found)
        if found:
            assert found[0] <= stream.kept.next
            assert found[-1] == at.next - 1
        else:
            assert stream.kept.next == at.next
        host.at = at


def killed_at(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Kill at this call, look, and go on. False: there were not so many calls."""
    policy = Tiny(max_bytes=24_000, max_host_bytes=8_000)
    hosts = [Host("hog"), Host("one"), Host("two")]
    acked: dict[str, int] = {}
    store = Store(folder, policy=policy)
    finished = False
    with monkeypatch.context() as patched:
        Killer(patched, number)
        try:
            store.open()
            workload(store, hosts, acked, 7, 12)
            finished = True
        except Killed:
            pass
    store.close()
    # Whoever only reads finds it well, too.
    assert not folder.exists() or verify(folder).verdict <= Verdict.DROPPED
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings(torn=store.findings.torn, torn_bytes=store.findings.torn_bytes)
        check(store, folder, hosts, acked)
        workload(store, hosts, acked, 8, 3)
        assert sum(path.stat().st_size for path in segments(folder)) == store.size <= 26_000
        check(store, folder, hosts, acked)
    assert {path.suffix for path in folder.iterdir()} <= {".seg", ".idx", ""}
    return not finished


@pytest.mark.parametrize("part", range(4))
def test_killed_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    number = part
    while killed_at(number, tmp_path / str(number), monkeypatch):
        number += 4
    # It did store and remove, or this says nothing.
    assert number > 100


def test_killed_while_segments_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number, killed = 0, True
    while killed:
        folder, policy = tmp_path / str(number), Tiny(segment=20_000)
        hosts = [Host("one"), Host("two")]
        store = Store(folder, policy=policy)
        store.open()
        for _ in range(9):
            put(store, *(host.item(1) for host in hosts))
            store._log.seal()
        put(store, *(host.item(1) for host in hosts))
        before = len(segments(folder))
        killed = False
        with monkeypatch.context() as patched:
            Killer(patched, number)
            try:
                store.retain(0)
            except Killed:
                killed = True
        store.close()
        assert verify(folder).verdict is Verdict.INTACT
        assert all(serials(folder, host.identity) == [*range(1, host.at.next)] for host in hosts)
        for _ in range(2):
            with Store(folder, policy=policy) as store:
                assert store.findings == Findings(torn=store.findings.torn, torn_bytes=store.findings.torn_bytes)
                for host in hosts:
                    assert serials(folder, host.identity) == [*range(1, host.at.next)]
                    assert store.position(host.identity, host.spool) == host.at
                    put(store, host.item(1))
                assert verify(folder).verdict is Verdict.INTACT
                store.retain(0)
        assert len(segments(folder)) < before
        number += 1
    assert number > 10


def test_kill_9_at_random_moments(folder: Path) -> None:
    seen = kill_again(folder, 20, 12, 0.4)
    assert seen.problems == []
    # It did store, and remove, or this says nothing.
    assert seen.records > 1_000
    assert seen.dropped > 0
