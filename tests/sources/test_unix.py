from __future__ import annotations

import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from audisp.errors import SourceError
from audisp.sources.unix import UnixSource
from tests.sources.collect import Collected, Said, balanced, frame, line, lines


class Server:
    """What auditd's af_unix plugin is to us: a listening socket, and the clients it accepted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    async def start(self) -> None:
        await self.socket.bind(str(self.path))
        self.socket.listen(5)

    async def accept(self) -> trio.SocketStream:
        with trio.fail_after(20):
            client, _ = await self.socket.accept()
        return trio.SocketStream(client)

    def stop(self) -> None:
        self.socket.close()
        self.path.unlink()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Server]:
    server = Server(path)
    await server.start()
    try:
        yield server
    finally:
        server.socket.close()


@asynccontextmanager
async def reading(source: UnixSource, route: Collected) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: source.run(route, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


async def test_records_arrive_as_they_were_sent(tmp_path: Path) -> None:
    route, said = Collected(), Said()
    source = UnixSource(str(tmp_path / "s"), say=said)
    data = lines(2000)
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        await client.send_all(data)
        await route.until(2000)
        await client.aclose()
    assert route.data == data
    assert balanced(source.books, route)
    assert source.books.detail["form"] == "string"
    assert source.books.detail["peer"] == f"pid {os.getpid()} uid {os.geteuid()}"
    assert "unread" not in source.books.detail


async def test_byte_by_byte_is_the_same(tmp_path: Path) -> None:
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    data = lines(3)
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        for byte in data:
            await client.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        await route.until(3)
        await client.aclose()
    assert route.data == data
    assert len(route.blocks) == 3
    assert balanced(source.books, route)


@pytest.mark.parametrize("slot", [None, 8986])
async def test_binary_is_found_out_and_becomes_string_form(tmp_path: Path, slot: int | None) -> None:
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        await client.send_all(b"".join([frame(serial, slot=slot) for serial in range(1, 301)]))
        await route.until(300)
        await client.aclose()
    assert route.data == lines(300)
    assert source.books.detail["form"] == "binary"
    assert balanced(source.books, route)


async def test_one_write_of_many_records_travels_as_few_blocks(tmp_path: Path) -> None:
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    data = lines(20_000)
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        await client.send_all(data)
        await route.until(20_000)
        await client.aclose()
    assert route.data == data
    assert len(route.blocks) < 200


async def test_a_bad_line_harms_no_neighbour(tmp_path: Path) -> None:
    route, said = Collected(), Said()
    source = UnixSource(str(tmp_path / "s"), say=said, runtime_dir=str(tmp_path))
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        await client.send_all(
            line(1)
            + b"type=USER msg=aud\n"
            + line(2)
            + b"\x1b]0;owned\x07\n"
            + line(3)
            + b"x" * 100_000
            + b"\n"
            + line(4)
        )
        await route.until(4)
        await client.aclose()
    assert route.data == lines(4)
    assert source.books.rejected == 3
    assert balanced(source.books, route)
    assert set(source.rejects.kinds) == {"torn", "garbage", "oversized"}
    assert "\x1b" not in said.text
    assert source.rejects.path is not None
    assert (await trio.Path(source.rejects.path).read_bytes()).count(b"\n") == 3


async def test_it_connects_again_and_finds_the_form_out_anew(tmp_path: Path) -> None:
    route, said = Collected(), Said()
    source = UnixSource(str(tmp_path / "s"), say=said)
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        # The last record is cut off by the sender's death, and sent again from its start.
        await client.send_all(lines(2) + line(3)[:-10])
        await route.until(2)
        await client.aclose()
        server.stop()
        async with serving(tmp_path / "s") as successor:
            client = await successor.accept()
            await client.send_all(frame(3) + frame(4))
            await route.until(4)
            await client.aclose()
    assert route.data == lines(4)
    assert source.books.reconnects == 1
    assert source.books.detail["form"] == "binary"
    assert source.rejects.kinds == {"torn": 1}
    assert balanced(source.books, route)
    assert "connection lost" in said.text


async def test_a_last_line_without_its_end_is_torn_even_if_it_looks_whole(tmp_path: Path) -> None:
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        await client.send_all(line(1) + line(2, "acct=root"[:-2])[:-1])
        await client.aclose()
        client = await server.accept()
        await client.send_all(line(2, "acct=root"))
        await route.until(2)
        await client.aclose()
    assert route.data == line(1) + line(2, "acct=root")
    assert source.rejects.kinds == {"torn": 1}


async def test_a_server_that_dies_again_and_again_costs_no_record_that_it_sent_whole(tmp_path: Path) -> None:
    chance = random.Random(3)
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    data = lines(400)
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    sent = 0
    async with serving(tmp_path / "s") as first:
        server = first
        async with reading(source, route):
            for life in range(6):
                client = await server.accept()
                end = chance.choice([end for end in ends if end > sent]) if life < 5 else len(data)
                torn = chance.randrange(1, 15) if life < 5 else 0
                at = sent
                while at < end + torn:
                    step = min(chance.randrange(1, 3000), end + torn - at)
                    await client.send_all(data[at : at + step])
                    at += step
                sent = end
                await client.aclose()
                server.stop()
                server = Server(tmp_path / "s")
                await server.start()
                if sent == len(data):
                    break
            await route.until(400)
        server.stop()
    assert route.data == data
    assert balanced(source.books, route)


async def test_a_server_that_closes_at_once_is_explained(tmp_path: Path) -> None:
    route, said = Collected(), Said()
    source = UnixSource(str(tmp_path / "s"), say=said)
    async with serving(tmp_path / "s") as server, reading(source, route):
        await (await server.accept()).aclose()
        await (await server.accept()).aclose()
        client = await server.accept()
        await client.send_all(line(1))
        await route.until(1)
        await client.aclose()
    assert said.text.count("serves one client") == 1
    assert source.books.reconnects == 2


async def test_a_sender_waits_while_we_do(tmp_path: Path) -> None:
    route = Collected()
    route.shut()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    data = lines(100_000)
    async with serving(tmp_path / "s") as server, reading(source, route):
        client = await server.accept()
        with trio.move_on_after(0.2) as scope:
            await client.send_all(data)
        assert scope.cancelled_caught
        assert source.books.received == 0
        route.open.set()
        await route.until(1000)
        await client.aclose()
    assert data.startswith(route.data)
    assert balanced(source.books, route)


async def test_what_is_left_when_it_is_cancelled_is_stated(tmp_path: Path) -> None:
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    async with serving(tmp_path / "s") as server:
        async with reading(source, route):
            client = await server.accept()
            await client.send_all(lines(10))
            await route.until(10)
            route.shut()
            await client.send_all(lines(5, 11))
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(lines(7, 16))
            await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
    assert source.books.received == source.books.routed == 10
    assert source.books.counters["unread_records"] == 5
    assert source.books.counters["unread_bytes"] == len(lines(12, 11))
    assert source.books.detail["unread"].startswith("5 records, ")


async def test_what_waits_in_the_socket_is_still_taken_when_it_is_cancelled(tmp_path: Path) -> None:
    route = Collected()
    source = UnixSource(str(tmp_path / "s"), say=Said())
    async with serving(tmp_path / "s") as server:
        async with reading(source, route):
            client = await server.accept()
            await client.send_all(lines(10))
            await route.until(10)
            # Sent without letting the source run before it is cancelled.
            os.write(client.socket.fileno(), lines(5, 11) + line(16)[:20])
        await client.aclose()
    assert route.data == lines(15)
    assert source.books.detail["unread"] == "0 records, 20 bytes"
    assert balanced(source.books, route)


async def test_a_socket_that_is_not_there_is_an_error_at_start(tmp_path: Path) -> None:
    source = UnixSource(str(tmp_path / "s"), say=Said())
    with pytest.raises(SourceError, match=r"unix:.*/s: No such file.*af_unix plugin active"):
        await source.run(Collected())
    (tmp_path / "s").touch()
    with pytest.raises(SourceError, match="it is not a socket"):
        await source.run(Collected())


async def test_a_left_over_socket_and_one_of_another_type_are_told_apart(tmp_path: Path) -> None:
    for name, type_, said in (
        ("stale", socket.SOCK_STREAM, "left over from a server that is gone"),
        ("datagram", socket.SOCK_DGRAM, "another type than SOCK_STREAM"),
    ):
        with socket.socket(socket.AF_UNIX, type_) as server:
            server.bind(str(tmp_path / name))
            if type_ == socket.SOCK_STREAM:
                server.close()
            with pytest.raises(SourceError, match=said):
                await UnixSource(str(tmp_path / name), say=Said()).run(Collected())


async def test_a_server_with_a_full_queue_of_clients_is_no_connection(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, socket.socket(socket.AF_UNIX) as other:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        other.connect(str(tmp_path / "s"))
        with pytest.raises(SourceError, match="queue of clients is full"):
            await UnixSource(str(tmp_path / "s"), say=Said()).run(Collected())


async def test_a_patient_source_waits_for_its_server(tmp_path: Path) -> None:
    route, said = Collected(), Said()
    source = UnixSource(str(tmp_path / "s"), say=said, patient=True)
    async with reading(source, route):
        assert source.books.detail["state"].startswith("waiting: No such file")
        async with serving(tmp_path / "s") as server:
            client = await server.accept()
            await client.send_all(line(1))
            await route.until(1)
            await client.aclose()
    assert source.books.reconnects == 0
    assert source.books.detail["state"].startswith("connect")


async def test_records_of_a_stranger_are_not_taken(tmp_path: Path) -> None:
    route = Collected()
    async with serving(tmp_path / "s"):
        source = UnixSource(str(tmp_path / "s"), say=Said(), trusted=[os.geteuid() + 1])
        with pytest.raises(SourceError, match=f"served by uid {os.geteuid()}"):
            await source.run(route)
    assert route.records == 0
