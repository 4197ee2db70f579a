"""Frames, rows and indexes of the store: what goes in comes out, and what is anything else is told from it."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.buffer.segment import ANCHOR, DamageError, Frame, FrameDecoder, FrameHead, PackedFrame, encode_frame
from audisp.collector.store_frames import (
    MAX_REPLACED,
    Entry,
    Note,
    Replaced,
    Writer,
    read_frame,
    remark,
    stored_bytes,
    write_note,
    write_snapshot,
)
from audisp.collector.store_index import Index
from audisp.collector.store_scan import begun_with, follow
from audisp.collector.store_streams import Anchor, Stream, StreamKey, begun
from audisp.wire.native import Position
from tests.collector.stores import Host, message

MARK = b"12345678"
HASH = bytes(range(32))


def decode(raw: bytes, mark: bytes = MARK) -> list[Entry | Note]:
    decoder = FrameDecoder(mark, 0)
    decoder.feed(raw)
    found = []
    while (packed := decoder.next()) is not None:
        found.append(read_frame(packed))
    assert decoder.good == len(raw)
    return found


streams = st.builds(
    Stream,
    st.builds(StreamKey, st.text("abcäö:", min_size=1, max_size=9), st.sampled_from([b"", bytes(16)])),
    next=st.integers(0, (1 << 63) - 1),
    last=st.sampled_from([b"", HASH]),
    digest=st.just(HASH),
    kept=st.builds(Anchor, st.integers(0, 9), st.just(HASH), st.integers(0, 9), st.sampled_from([b"", HASH])),
    seen=st.integers(0, (1 << 63) - 1),
    records=st.integers(0, 99),
    size=st.integers(0, 99),
    dropped=st.integers(0, 99),
    missing=st.integers(0, 99),
    nodes=st.lists(st.text(max_size=20), max_size=8).map(tuple),
    sequence=st.none() | st.integers(0, 1 << 32),
    message=st.none() | st.just(HASH),
)


@given(st.lists(streams, max_size=5))
def test_rows_come_back(rows: list[Stream]) -> None:
    (note,) = decode(write_snapshot(rows, 7, 1, MARK))
    assert isinstance(note, Note)
    assert (note.part, note.parts, note.replaced) == (1, 1, None)
    assert [row.row() for row in note.rows] == [row.row() for row in rows]


@pytest.mark.parametrize("count", [0, 1, 200, 5000])
def test_many_rows_take_several_frames(count: int) -> None:
    rows = [begun(StreamKey(f"host{number}", bytes(16)), Position(1, ANCHOR), 1) for number in range(count)]
    found = decode(write_snapshot(rows, 7, 1, MARK))
    assert all(isinstance(note, Note) for note in found)
    notes = [note for note in found if isinstance(note, Note)]
    assert [note.part for note in notes] == list(range(1, len(notes) + 1))
    assert {note.parts for note in notes} == {len(notes)}
    assert [row.key for note in notes for row in note.rows] == [row.key for row in rows]
    assert (len(notes) > 1) == (count > 200)


def test_the_longest_rows_fit() -> None:
    nodes = tuple(f"{number:064d}" for number in range(8))
    rows = [
        attrs.evolve(
            begun(StreamKey(f"{number:0255d}", bytes(16)), Position((1 << 63) - 1, HASH), (1 << 63) - 1),
            nodes=nodes,
            sequence=(1 << 63) - 1,
            message=HASH,
        )
        for number in range(200)
    ]
    found = decode(write_snapshot(rows, 7, 1, MARK))
    assert sum(len(note.rows) for note in found if isinstance(note, Note)) == 200


def test_a_note_comes_back() -> None:
    rows = [begun(StreamKey("one", b""), Position(1, b""), 1)]
    first, second = decode(write_note(rows, Replaced((1, 2, 3), bytes(16)), 7, 1, MARK))
    assert isinstance(first, Note)
    assert isinstance(second, Note)
    assert [row.key.identity for row in first.rows] == ["one"]
    assert first.replaced is None
    assert (second.first, second.rows, second.replaced) == (7, (), Replaced((1, 2, 3), bytes(16)))


def entry_of(books: dict[str, Any], origin: str = "one", count: int = 1) -> Entry | Note:
    data = b"type=X msg=audit(1.000:1):\n" * count
    return decode(encode_frame(Frame(1, count, origin, books, ANCHOR, 5, data), MARK)[0])[0]


GOOD: dict[str, Any] = {
    "spool": bytes(16),
    "number": 3,
    "after": [4, HASH],
    "head": b"x",
    "seconds": [1, 2],
    "nodes": ["n"],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"spool": b"short"},
        {"spool": b""},
        {"spool": "text"},
        {"number": -1},
        {"number": None},
        {"after": [4]},
        {"after": [4, b"short"]},
        {"after": 7},
        {"head": "text"},
        {"head": None},
        {"seconds": [2]},
        {"seconds": [-1, 2]},
        {"seconds": [True, 2]},
        {"nodes": ["n"] * 9},
        {"nodes": ["n" * 65]},
        {"nodes": [1]},
        {"nodes": 7},
        {"sequence": "x"},
        {"sequence": 5},
        {"sequence": 5, "hash": b"short"},
    ],
)
def test_frames_that_no_store_writes(wrong: dict[str, Any]) -> None:
    assert isinstance(entry_of(GOOD), Entry)
    with pytest.raises(DamageError, match="no store writes"):
        entry_of(GOOD | wrong)


@pytest.mark.parametrize(
    "books",
    [
        {"streams": 7},
        {"streams": [7]},
        {"streams": [["one"]]},
        {"streams": [[1] * 14]},
        {"part": -1},
        {"part": "x"},
        {"replaced": [1]},
        {"replaced": [[1, -1], b""]},
        {"replaced": [[1], b"short"]},
        {"replaced": [[1] * (MAX_REPLACED + 1), b""]},
    ],
)
def test_notes_that_no_store_writes(books: dict[str, Any]) -> None:
    with pytest.raises(DamageError, match="no store writes"):
        entry_of(books, "", 0)


def test_what_a_later_version_adds_is_ignored() -> None:
    assert isinstance(entry_of(GOOD | {"more": [1, [2]]}), Entry)
    row = [*begun(StreamKey("one", b""), Position(1, b""), 1).row(), "more", 7]
    row[5], row[11] = [*row[5]], [*row[11]]
    note = entry_of({"streams": [row], "more": 1}, "", 0)
    assert isinstance(note, Note)
    assert note.rows[0].key.identity == "one"


@given(st.recursive(st.none() | st.integers() | st.binary() | st.text(), lambda inner: st.lists(inner, max_size=15)))
def test_no_row_is_anything_but_taken_or_refused(value: Any) -> None:
    try:
        row = Stream.of_row(value)
    except (TypeError, ValueError):
        return
    assert msgpack.packb(row.row()) == msgpack.packb(value[:14])


def made(count: int = 6) -> tuple[list[bytes], list[Entry], bytes]:
    """Frames of several streams, as they stand behind each other."""
    writer = Writer()
    state: dict[StreamKey, Stream] = {}
    one, two = Host("one"), Host("two")
    parts: list[bytes] = []
    entries: list[Entry] = []
    first, offset = 1, 0
    for turn in range(count):
        for item in (one.item(turn % 3 + 1, node="n"), two.gap(4) if turn == 2 else two.item(1), message("c", turn)):
            key = StreamKey(item.identity, getattr(item, "spool", b""))
            stream = state.setdefault(key, begun(key, Position(1, ANCHOR if key.spool else b""), first))
            write: Any = writer.numbered if key.spool else writer.unnumbered
            raw, entry = write(item, stream, first, MARK, offset)
            assert len(raw) <= stored_bytes(item)
            follow(stream, entry)
            parts.append(raw)
            entries.append(entry)
            first, offset = entry.end, offset + len(raw)
    return parts, entries, b"".join(parts)


def without(entry: Entry) -> Entry:
    """An entry as the writer gives it: without records, and without the sender's header."""
    packed = entry.packed
    books = {key: tuple(value) if key in ("seconds", "nodes") else value for key, value in packed.head.books.items()}
    head = attrs.evolve(packed.head, books=books)
    return attrs.evolve(entry, packed=attrs.evolve(packed, head=head, packed=b""), head=None)


def test_what_is_written_is_what_is_read() -> None:
    _, written, raw = made()
    read = decode(raw)
    for mine, theirs in zip(written, read, strict=True):
        assert isinstance(theirs, Entry)
        assert attrs.asdict(without(theirs)) == attrs.asdict(mine)


def test_a_stream_read_from_its_first_frame_is_the_one_that_was_begun() -> None:
    _, _, raw = made()
    first = next(entry for entry in decode(raw) if isinstance(entry, Entry))
    assert begun_with(first).row() == begun(first.key, Position(1, ANCHOR), 1).row()


def test_another_mark() -> None:
    parts, _, raw = made()
    moved = b"".join(remark(part, b"abcdefgh") for part in parts)
    assert len(moved) == len(raw)
    for mine, theirs in zip(decode(moved, b"abcdefgh"), decode(raw), strict=True):
        assert attrs.asdict(mine) == attrs.asdict(theirs)


def test_an_index_comes_back() -> None:
    _, entries, raw = made(20)
    index = Index()
    for entry in entries:
        index.add(entry)
    data = index.encode(HASH[:16], len(raw))
    read = Index.decode(data, HASH[:16], len(raw))
    assert read is not None
    for each in (index, read):
        assert each.frames == len(entries)
        assert each.hosts() == index.hosts()
        for host in ("one", "two", "c", "nobody"):
            rows = list(each.rows(each.of(host)))
            theirs = [entry for entry in entries if entry.key.identity == host]
            assert [(row.first, row.offset, row.size) for row in rows] == [
                (entry.first, entry.packed.offset, entry.packed.size) for entry in theirs
            ]
            assert [(row.second, row.until) for row in rows] == [(entry.second, entry.until) for entry in theirs]
        (share,) = each.of("one")
        last = [entry for entry in entries if entry.key.identity == "one"][-1]
        assert share.next == Anchor(last.end, last.packed.digest, last.after.next, last.after.last)
    assert read.encode(HASH[:16], len(raw)) == data
    # Of another segment, or another size, it is not believed.
    assert Index.decode(data, bytes(16), len(raw)) is None
    assert Index.decode(data, HASH[:16], len(raw) + 1) is None


@given(place=st.integers(0, 10**6), value=st.integers(1, 255), cut=st.booleans())
def test_an_index_that_is_not_whole_is_none(place: int, value: int, cut: bool) -> None:
    _, entries, raw = made(3)
    index = Index()
    for entry in entries:
        index.add(entry)
    data = bytearray(index.encode(HASH[:16], len(raw)))
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= value
    assert Index.decode(bytes(data), HASH[:16], len(raw)) is None


def test_no_index_of_nonsense() -> None:
    head: Any = {"version": 1, "segment": HASH[:16], "size": 1, "oldest": 0, "newest": 0, "second": 0, "until": 0}
    for shares in (
        7,
        [7],
        [[1, b"", [1, HASH, 1, b""], 1, 1, 1, 1, 1]],
        [["one", b"", [1, HASH, 1, b""], 1, 1, 1, 1, 1]],
    ):
        body = msgpack.packb(head | {"shares": shares})
        data = struct.pack("<8sIII", b"\x89audidx\n", len(body), 0, zlib.crc32(body)) + body
        assert Index.decode(data, HASH[:16], 1) is None
    body = msgpack.packb(head | {"shares": []})
    assert Index.decode(struct.pack("<8sIII", b"\x89audidx\n", len(body), 0, zlib.crc32(body)) + body, HASH[:16], 1)


def test_a_frame_of_a_plain_segment_is_none_of_a_store() -> None:
    head = FrameHead(1, 1, "netlink", {"received": 3}, ANCHOR, 5)
    with pytest.raises(DamageError, match="no store writes"):
        read_frame(PackedFrame(head, b"", 5, 0, 100, HASH))
