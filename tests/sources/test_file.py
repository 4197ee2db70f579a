from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import trio
import zstandard

from audisp.errors import SourceError
from audisp.record import Block
from audisp.sources.bad import Rejects
from audisp.sources.contract import SourceBooks
from audisp.sources.descriptor import Descriptor, pour
from audisp.sources.file import FileSource
from audisp.sources.inlet import FLOOD_PIECE, RECEIVE, Inlet
from tests.needs import CORPUS
from tests.sources.collect import Collected, Said, balanced, frame, line, lines


async def replay(path: Path, route: Collected | None = None) -> tuple[FileSource, Collected]:
    route = route or Collected()
    source = FileSource(str(path), say=Said())
    with trio.fail_after(30):
        await source.run(route)
    return source, route


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    data = lines(60_000)
    (tmp_path / "log").write_bytes(data)
    source, route = await replay(tmp_path / "log")
    assert source.kind == "replay"
    assert route.data == data
    assert len(data) / RECEIVE <= len(route.blocks) <= len(data) / RECEIVE + 2
    assert {block.source for block in route.blocks} == {f"file:{tmp_path}/log"}
    assert all(block.data.endswith(b"\n") and block.records == block.data.count(b"\n") for block in route.blocks)
    assert balanced(source.books, route)
    assert source.books.detail["state"] == "ended"


@pytest.mark.parametrize("data", [b"", b"\n", b"\n\n"])
async def test_a_file_without_records_ends(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log").write_bytes(data)
    source, route = await replay(tmp_path / "log")
    assert route.records == source.books.received == 0


async def test_a_last_line_without_its_end_counts_if_it_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(3)[:-1])
    source, route = await replay(tmp_path / "log")
    assert route.data == lines(3)
    assert source.books.counters["unterminated"] == 1
    (tmp_path / "log").write_bytes(line(1) + b"type=USER msg=audit(17")
    source, route = await replay(tmp_path / "log")
    assert route.data == line(1)
    assert source.rejects.kinds == {"torn": 1}


@pytest.mark.parametrize("data", [b"t", b"\x01", b"\0", b"\x01\0\0"])
async def test_a_file_of_next_to_nothing_is_rejected(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log").write_bytes(data)
    source, route = await replay(tmp_path / "log")
    assert route.records == 0
    assert source.books.received == source.books.rejected == 1


async def test_a_capture_in_binary_form(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"".join([frame(serial, slot=8986) for serial in range(1, 200)]))
    source, route = await replay(tmp_path / "log")
    assert route.data == lines(199)
    assert balanced(source.books, route)


async def test_damage_stays_where_it_is(tmp_path: Path) -> None:
    chance = random.Random(7)
    good, mixed = [], []
    for serial in range(1, 30_000):
        if chance.random() < 0.01:
            mixed.append(chance.choice([b"\0\1\2\n", b"type=\n", line(serial)[:25] + b"\n", b"y" * 20_000 + b"\n"]))
        good.append(line(serial))
        mixed.append(line(serial))
    (tmp_path / "log").write_bytes(b"".join(mixed))
    source, route = await replay(tmp_path / "log")
    assert route.data == b"".join(good)
    assert source.books.rejected == len(mixed) - len(good)
    assert balanced(source.books, route)


async def test_a_flood_of_garbage_lets_others_have_their_turn_and_good_records_through(tmp_path: Path) -> None:
    await trio.Path(tmp_path / "log").write_bytes((b"x\n" * 130_000 + line(1)) * 2)
    route = Collected()
    source = FileSource(str(tmp_path / "log"), say=Said())
    seen = set()

    async def look() -> None:
        while True:
            seen.add(source.books.rejected)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await source.run(route)
        nursery.cancel_scope.cancel()
    assert route.data == line(1) * 2
    assert source.books.rejected == 260_000
    assert balanced(source.books, route)
    # One turn after the first receive, then one for every piece of the rest, or for two: trio shuffles turns.
    assert len(seen) > (260_000 * 2 - RECEIVE) / FLOOD_PIECE / 2


async def test_a_flood_that_is_cancelled_states_what_it_left(tmp_path: Path) -> None:
    books, route = SourceBooks("s", "replay"), Collected()
    inlet = Inlet(books, route, Rejects("s", Said()))
    await inlet.take(b"x\n" * 2000)
    with trio.CancelScope() as scope:
        scope.cancel()
        await inlet.take(b"x\n" * FLOOD_PIECE)
    assert scope.cancelled_caught
    assert books.received == books.rejected == 2000 + FLOOD_PIECE // 2
    assert books.counters["unread_bytes"] == FLOOD_PIECE


async def test_it_does_not_follow_its_own_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(lines(5000))

    class Echo(Collected):
        async def send(self, block: Block) -> None:
            await super().send(block)
            with path.open("ab") as file:
                file.write(lines(5000))

    _, route = await replay(path, Echo())
    assert route.records == 5000


async def test_a_file_cut_while_it_is_read_ends_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(lines(200_000))

    class Cut(Collected):
        async def send(self, block: Block) -> None:
            await super().send(block)
            os.truncate(path, 0)

    source, route = await replay(path, Cut())
    assert 0 < route.records < 200_000
    assert "was cut from" in source.books.detail["state"]
    assert balanced(source.books, route)


async def test_what_is_no_file_is_an_error_that_says_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, said in (
            (tmp_path, "it is a folder"),
            (tmp_path / "gone", "No such file"),
            (tmp_path / "gone" / "x", "No such file"),
            (tmp_path / "fifo", "it is a pipe; use stdin"),
            (tmp_path / "socket", "it is a socket; use unix:PATH"),
            (tmp_path / "loop", "symbolic links"),
            (Path("/dev/null"), "it is a device"),
        ):
            with pytest.raises(SourceError, match=said):
                await replay(path)


@pytest.mark.parametrize(
    ("form", "pack"), [("gzip", gzip.compress), ("xz", lzma.compress), ("zstd", zstandard.compress)]
)
async def test_a_compressed_file_is_unpacked_whatever_its_name(
    tmp_path: Path, form: str, pack: Callable[[bytes], bytes]
) -> None:
    data = lines(60_000)
    (tmp_path / "log").write_bytes(pack(data[:1_000_000]) + pack(data[1_000_000:]))
    source, route = await replay(tmp_path / "log")
    assert route.data == data
    assert balanced(source.books, route)
    assert all(len(block) <= RECEIVE + 100 for block in route.blocks)
    assert source.books.detail["size"].endswith(f" bytes, {form}")
    assert source.books.detail["unpacked"] == f"{len(data):,} bytes"
    assert source.books.detail["state"] == "ended"


async def test_a_compressed_file_without_records_ends(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(gzip.compress(b""))
    source, route = await replay(tmp_path / "log")
    assert route.records == source.books.received == 0


async def test_a_compressed_capture_in_binary_form(tmp_path: Path) -> None:
    frames = b"".join([frame(serial, slot=8986) for serial in range(1, 200)])
    (tmp_path / "log").write_bytes(zstandard.compress(frames))
    source, route = await replay(tmp_path / "log")
    assert route.data == lines(199)
    assert balanced(source.books, route)


async def test_of_a_damaged_file_everything_before_is_delivered(tmp_path: Path) -> None:
    data = b"".join([line(serial, f"op={random.Random(serial).randbytes(20).hex()}") for serial in range(60_000)])
    packed = gzip.compress(data)
    (tmp_path / "log").write_bytes(packed[: len(packed) // 2])
    source, route = FileSource(str(tmp_path / "log"), say=Said()), Collected()
    with pytest.raises(SourceError, match=r"^source file:.*/log: its gzip data break off behind [\d,]+ unpacked bytes"):
        await source.run(route)
    assert data.startswith(route.data)
    # Nothing but the record that breaks off is missing of what can be unpacked.
    unpacked = zlib.decompressobj(wbits=31).decompress(packed[: len(packed) // 2])
    assert route.data == unpacked[: unpacked.rfind(b"\n") + 1]
    assert balanced(source.books, route)
    assert source.books.counters["damaged"] == 1
    assert source.books.counters["unread_bytes"] == len(unpacked) - len(route.data)
    assert "break off" in source.books.detail["state"]


async def test_what_comes_behind_the_packed_data_is_said(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lzma.compress(lines(5000)) + b"garbage")
    source, route = FileSource(str(tmp_path / "log"), say=Said()), Collected()
    with pytest.raises(SourceError, match="its xz data are followed by something else"):
        await source.run(route)
    assert route.data == lines(5000)
    assert source.books.counters == {"damaged": 1}


async def test_an_unpacking_that_is_cancelled_ends_with_balanced_books(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(gzip.compress(lines(300_000)))
    route = Collected()
    source = FileSource(str(tmp_path / "log"), say=Said(), pace=100_000)
    with trio.move_on_after(0.5) as scope:
        await source.run(route)
    assert scope.cancelled_caught
    assert balanced(source.books, route)
    assert 0 < route.records < 300_000


async def test_a_compressed_file_of_another_kind_is_not_read_as_garbage(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bz2.compress(lines(10)))
    with pytest.raises(SourceError, match="it is compressed; use bzcat "):
        await replay(tmp_path / "log")


@pytest.mark.needs("root")
async def test_permission_denied_names_who_we_are(tmp_path: Path) -> None:
    (tmp_path / "log").touch(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(SourceError, match=r"denied"):
            await replay(tmp_path / "log")
    finally:
        os.seteuid(0)


async def test_a_full_queue_is_waited_for_and_what_is_left_is_stated(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(30_000))
    route = Collected()
    route.shut()
    source = FileSource(str(tmp_path / "log"), say=Said())
    with trio.move_on_after(0.3) as scope:
        await source.run(route)
    assert scope.cancelled_caught
    assert source.books.received == 0
    assert source.books.counters["unread_records"] > 0


async def test_a_pace_is_kept_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(300))
    paces: list[float | Literal["live"]] = [3000, "live"]
    for pace in paces:
        route = Collected()
        source = FileSource(str(tmp_path / "log"), say=Said(), pace=pace)
        await source.run(route)
        assert route.data == lines(300)
        assert len(route.blocks) > 1
        assert balanced(source.books, route)


async def test_a_paced_replay_that_is_cancelled_has_balanced_books(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(1000))
    route = Collected()
    source = FileSource(str(tmp_path / "log"), say=Said(), pace=1000)
    with trio.move_on_after(0.4):
        await source.run(route)
    assert balanced(source.books, route)
    assert source.books.routed + source.books.counters["unread_records"] == 1000


def test_a_descriptor_is_closed_once_and_not_under_a_reader(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"abc")
    descriptor = Descriptor(os.open(tmp_path / "log", os.O_RDONLY | os.O_CLOEXEC))
    assert descriptor.read(2) == [b"ab"]
    descriptor.close()
    descriptor.close()
    assert descriptor.read(10) == []
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor.file)


async def test_a_read_that_fails_half_way_is_an_error_of_the_source(tmp_path: Path) -> None:
    folder = Descriptor(os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC))
    inlet = Inlet(SourceBooks("file:x", "replay"), Collected(), Rejects("file:x", Said()))
    await inlet.take(line(1)[:-5])
    with pytest.raises(SourceError, match="source file:x: Is a directory while reading"):
        await pour(folder, inlet, 100)
    folder.close()
    assert inlet.books.detail["unread"] == f"0 records, {len(line(1)) - 5} bytes"
    assert inlet.books.received == 0


async def test_a_thread_left_behind_closes_what_it_read() -> None:
    ours, theirs = os.pipe()
    descriptor = Descriptor(ours)
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def read() -> None:
        descriptor.read(10)
        token.run_sync_soon(done.set)

    with trio.move_on_after(0.1):
        await trio.to_thread.run_sync(read, abandon_on_cancel=True)
    descriptor.close()
    os.fstat(ours)  # still open: the thread reads it
    os.write(theirs, b"x")
    with trio.fail_after(20):
        await done.wait()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(ours)
    os.close(theirs)


@pytest.mark.needs("corpus")
async def test_the_nasty_corpus_passes_and_every_line_has_its_fate() -> None:
    data = (CORPUS / "nasty.log").read_bytes()
    source, route = await replay(CORPUS / "nasty.log")
    assert balanced(source.books, route)
    assert source.books.received + source.books.counters.get("skipped_bytes", 0) >= data.count(b"\n")
    assert set(route.data.splitlines()) <= set(data.splitlines())
