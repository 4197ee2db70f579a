"""verify: intact, dropped, damaged, truncated, removed and edited are told apart."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest

from audisp.buffer.segment import HEADER_BYTES, PREFIX_BYTES, SegmentHeader
from audisp.collector.chain import Problem, Report, Verdict, verify, words
from audisp.collector.retention import Choice, rewrite
from audisp.collector.store import Store
from audisp.collector.store_frames import Entry, assemble
from audisp.errors import StoreError
from tests.collector.stores import NANO, SECOND, Host, Tiny, entries, message, put, record, segments, take


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def filled(folder: Path, turns: int = 8) -> tuple[Host, Host]:
    """A store with some segments, two hosts and a C program."""
    one, two = Host("one"), Host("two")
    with Store(folder, policy=Tiny()) as store:
        for turn in range(turns):
            put(store, one.item(3, size=200), two.item(2, size=200), message("c", turn + 1))
            if turn == 2:
                put(store, one.gap(5))
    return one, two


def verdicts(report: Report) -> dict[str, Verdict]:
    return {stream.key.identity: stream.verdict for stream in report.streams}


def problems(report: Report, host: str) -> list[Problem]:
    return [problem for stream in report.streams if stream.key.identity == host for problem in stream.problems]


Edit = Callable[[Entry, bytes], bytes]


def change(path: Path, edit: Edit) -> None:
    """Write a segment anew, with what `edit` makes of each frame of a sender."""
    data = path.read_bytes()
    out, at = [], 0
    for entry in entries(path):
        packed = entry.packed
        out += [data[at : packed.offset], edit(entry, data[packed.offset : packed.offset + packed.size])]
        at = packed.offset + packed.size
    path.write_bytes(b"".join([*out, data[at:]]))


def forged(entry: Entry, raw: bytes, mark: bytes, data: bytes, **books: Any) -> bytes:
    """The frame with other records, or books, and everything right that is not about another frame."""
    import zstandard

    head_size = int.from_bytes(raw[8:12], "little")
    head = msgpack.unpackb(raw[PREFIX_BYTES : PREFIX_BYTES + head_size])
    head["books"] |= books
    return assemble(msgpack.packb(head), zstandard.ZstdCompressor(level=1).compress(data), len(data), mark)[0]


def mark_of(path: Path) -> bytes:
    return SegmentHeader.decode(path.read_bytes()[:HEADER_BYTES]).mark


def test_intact(folder: Path) -> None:
    filled(folder)
    assert len(segments(folder)) > 2
    report = verify(folder)
    assert verdicts(report) == {"one": Verdict.INTACT, "two": Verdict.INTACT, "c": Verdict.INTACT}
    assert (report.verdict, report.status, report.damaged, report.torn_bytes, report.cut) == (0, 0, 0, 0, 0)
    (one,) = verify(folder, "one").streams
    assert (one.first, one.next, one.records, one.missing, one.dropped) == (1, 30, 24, 5, 0)
    assert words(report)[-1] == f"{len(segments(folder))} segments: intact"
    assert any("5 lost by the sender" in line for line in words(report))


def test_nothing_there(folder: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        verify(folder)
    with Store(folder):
        pass
    report = verify(folder)
    assert (report.verdict, report.streams, report.segments) == (Verdict.INTACT, (), 0)
    assert verify(folder, "nobody").status == 0


def test_dropped_by_right(folder: Path) -> None:
    filled(folder)
    with Store(folder, policy=Tiny()) as store:
        census = store.census()
        store.replace(rewrite(census, Choice(census.segments[:1], None), 0), 0)
        take(store, 0, "two")
    report = verify(folder)
    assert set(verdicts(report).values()) == {Verdict.DROPPED}
    assert report.status == 0
    assert all(stream.dropped == stream.first - 1 for stream in report.streams if not stream.missing)
    assert any("removed by retention" in line for line in words(report))


def test_a_torn_tail_is_no_fault(folder: Path) -> None:
    filled(folder)
    with segments(folder)[-1].open("ab") as file:
        file.write(b"x" * 77)
    report = verify(folder)
    assert (report.verdict, report.torn_bytes, report.damaged) == (Verdict.INTACT, 77, 0)


def test_damaged(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[1]
    frame = next(entry for entry in entries(path) if entry.key.identity == "one" and entry.packed.head.count)
    data = bytearray(path.read_bytes())
    data[frame.packed.offset + 50] ^= 1
    path.write_bytes(data)
    report = verify(folder)
    assert verdicts(report) == {"one": Verdict.DAMAGED, "two": Verdict.INTACT, "c": Verdict.INTACT}
    (problem,) = problems(report, "one")
    assert (problem.first, problem.count) == (frame.number, 3)
    assert (report.damaged, report.status) == (1, 1)


def test_a_last_frame_of_a_segment_that_cannot_be_read(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[0]
    last = entries(path)[-1]
    path.write_bytes(path.read_bytes()[: last.packed.offset + 60])
    report = verify(folder)
    assert verdicts(report)[last.key.identity] is Verdict.DAMAGED
    assert report.damaged == 1


def test_a_segment_without_a_header(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[1]
    path.write_bytes(b"x" * path.stat().st_size)
    report = verify(folder)
    assert report.unusable == (path.name,)
    assert report.verdict is Verdict.DAMAGED
    assert set(verdicts(report).values()) == {Verdict.DAMAGED}
    assert f"{path.name}: no segment of this store" in words(report)


@pytest.mark.parametrize("host", ["one", "c"])
def test_a_frame_removed_from_the_middle(folder: Path, host: str) -> None:
    filled(folder)
    path = segments(folder)[1]
    gone = next(entry for entry in entries(path) if entry.key.identity == host and entry.packed.head.count)
    change(path, lambda entry, raw: b"" if entry.first == gone.first else raw)
    report = verify(folder)
    assert verdicts(report) == {"one": 0, "two": 0, "c": 0} | {host: Verdict.REMOVED}
    (problem,) = problems(report, host)
    assert (problem.verdict, problem.first, problem.count) == (Verdict.REMOVED, gone.number, gone.packed.head.count)
    assert report.status == 1


def test_all_of_one_host_removed_from_a_segment(folder: Path) -> None:
    filled(folder)
    for path in segments(folder)[1:2]:
        change(path, lambda entry, raw: b"" if entry.key.identity == "one" else raw)
    report = verify(folder)
    assert verdicts(report) == {"one": Verdict.REMOVED, "two": 0, "c": 0}


def test_the_beginning_removed(folder: Path) -> None:
    filled(folder)
    segments(folder)[0].unlink()
    report = verify(folder)
    assert set(verdicts(report).values()) == {Verdict.REMOVED}
    assert all(problem.first == 1 for host in verdicts(report) for problem in problems(report, host))


def test_the_end_of_one_host_cut_off(folder: Path) -> None:
    # The rows with which a later segment begins know that there was more.
    filled(folder)
    with Store(folder, policy=Tiny()) as store:
        store._log.seal()
        put(store, Host("new").item())
    for path in segments(folder)[-3:]:
        change(path, lambda entry, raw: b"" if entry.key.identity == "two" else raw)
    report = verify(folder)
    assert verdicts(report) == {"one": 0, "two": Verdict.TRUNCATED, "c": 0, "new": 0}
    (problem,) = problems(report, "two")
    assert problem.first + problem.count == 17
    assert "truncated" in "\n".join(words(report))


def test_the_end_of_all_cut_off(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[-1]
    last = entries(path)[-1]
    path.write_bytes(path.read_bytes()[: last.packed.offset])
    report = verify(folder)
    assert (report.verdict, report.cut, report.status) == (Verdict.TRUNCATED, last.packed.head.count, 1)
    assert any("had been on disk" in line for line in words(report))


def test_records_edited(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[1]
    victim = next(entry for entry in entries(path) if entry.key.identity == "two")
    other = b"".join(record(n + 500) for n in range(victim.packed.head.count))
    change(path, lambda entry, raw: forged(entry, raw, mark_of(path), other) if entry.first == victim.first else raw)
    report = verify(folder)
    assert verdicts(report) == {"one": 0, "two": Verdict.EDITED, "c": 0}
    (problem,) = problems(report, "two")
    assert (problem.first, problem.count, problem.segment) == (victim.number, 2, path.name)
    assert "sender" in problem.text


def test_records_of_a_c_program_edited(folder: Path) -> None:
    # There is no hash of the sender's, but the next frame knows.
    filled(folder)
    path = segments(folder)[1]
    victim = next(entry for entry in entries(path) if entry.key.identity == "c")
    change(
        path,
        lambda entry, raw: forged(entry, raw, mark_of(path), record(500)) if entry.first == victim.first else raw,
    )
    report = verify(folder)
    assert verdicts(report) == {"one": 0, "two": 0, "c": Verdict.EDITED}
    (problem,) = problems(report, "c")
    assert (problem.first, problem.count) == (victim.number, 1)


def test_what_the_collector_wrote_edited(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[1]
    victim = next(entry for entry in entries(path) if entry.key.identity == "two")

    def edit(entry: Entry, raw: bytes) -> bytes:
        if entry.first != victim.first:
            return raw
        return forged(entry, raw, mark_of(path), entry.packed.unpack().data, seconds=[5, 6])

    change(path, edit)
    assert verdicts(verify(folder))["two"] is Verdict.EDITED


def test_the_last_frame_of_a_host_edited(folder: Path) -> None:
    filled(folder)
    with Store(folder, policy=Tiny()) as store:
        store._log.seal()
        put(store, Host("new").item())
    path = segments(folder)[-2]
    victim = [entry for entry in entries(path) if entry.key.identity == "c"][-1]
    change(
        path,
        lambda entry, raw: forged(entry, raw, mark_of(path), record(500)) if entry.first == victim.first else raw,
    )
    report = verify(folder)
    assert verdicts(report)["c"] is Verdict.EDITED
    assert "last frame" in problems(report, "c")[0].text


def test_frames_of_another_host_under_this_name(folder: Path) -> None:
    filled(folder)
    path = segments(folder)[1]

    def edit(entry: Entry, raw: bytes) -> bytes:
        if entry.key.identity != "two":
            return raw
        head_size = int.from_bytes(raw[8:12], "little")
        head = msgpack.unpackb(raw[PREFIX_BYTES : PREFIX_BYTES + head_size])
        head["origin"] = "one"
        return assemble(msgpack.packb(head), entry.packed.packed, entry.packed.plain, mark_of(path))[0]

    change(path, edit)
    report = verify(folder)
    assert verdicts(report)["one"] is Verdict.EDITED
    assert verdicts(report)["two"] is Verdict.REMOVED


def test_many_problems_are_counted(folder: Path) -> None:
    filled(folder, 60)
    for path in segments(folder):
        gone = {entry.first for entry in entries(path) if entry.key.identity == "one" and entry.number % 2}
        change(path, lambda entry, raw: b"" if entry.first in gone else raw)  # noqa: B023 - used at once
    report = verify(folder, "one")
    (stream,) = report.streams
    assert len(stream.problems) == 16
    assert stream.more > 0
    assert f"  and {stream.more} more" in words(report)


def test_a_store_that_is_written(folder: Path) -> None:
    one, _ = filled(folder)
    with Store(folder, policy=Tiny()) as store:
        put(store, one.item())
        assert verify(folder).verdict is Verdict.INTACT
        # What is being written is a torn tail to everybody else.
        tail = store._log.tail
        assert tail is not None
        os.write(tail._file, b"half a frame")
        assert verify(folder).torn_bytes == len(b"half a frame")


def test_segments_replaced_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audisp.collector import chain

    filled(folder)
    original = chain._Walk.run
    times = []
    with Store(folder, policy=Tiny()) as store:

        def run(walk: Any) -> bool:
            done = original(walk)
            times.append(done)
            if len(times) < 3:
                take(store, 0, "two" if len(times) == 1 else "one")
            return done

        monkeypatch.setattr(chain._Walk, "run", run)
        report = verify(folder)
        assert len(times) == 3
        assert verdicts(report) == {"one": Verdict.DROPPED, "two": Verdict.DROPPED, "c": Verdict.INTACT}

        def always(walk: Any) -> bool:
            original(walk)
            return False

        monkeypatch.setattr(chain._Walk, "run", always)
        with pytest.raises(StoreError, match="each of the 5 times"):
            verify(folder)


def test_a_stream_that_was_forgotten_begins_where_it_begins(folder: Path) -> None:
    hosts = [Host("one", spool=number) for number in range(20)]
    with Store(folder, policy=Tiny()) as store:
        for number, host in enumerate(hosts):
            put(store, host.item(now=SECOND * NANO + number))
    report = verify(folder)
    assert len(report.streams) == 20
    assert report.verdict is Verdict.INTACT


def test_exit_status() -> None:
    empty = Report((), 0, 0, 0, 0, ())
    assert empty.status == 0
    assert attrs.evolve(empty, torn_bytes=5).status == 0
    assert attrs.evolve(empty, damaged=1).status == 1
    assert attrs.evolve(empty, cut=1).status == 1
    assert attrs.evolve(empty, unusable=("x",)).status == 1
