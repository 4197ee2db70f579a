"""Senders of both protocols and the store between them: what is acknowledged is stored once, whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from audisp.collector import committer
from audisp.collector.hosts import report
from audisp.collector.retention import Policy
from audisp.wire.native import DataFrame, Trouble
from audisp.wire.rmw import Frame, Type
from tests.collector.running import (
    SPOOL,
    NativeClient,
    RmwClientOf,
    Running,
    connect,
    connect_plain,
    rejected,
    running,
    until,
)
from tests.collector.stores import Host
from tests.wire.streams import chain, lines

PLAIN = "addr:127.0.0.1"
MESSAGE = b"type=SYSCALL msg=audit(1.000:%d): a=b\n"


def split(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


async def native(server: Running, frames: list[DataFrame], identity: str = "web1") -> NativeClient:
    return NativeClient(await connect(server.port, identity), frames)


async def plain(server: Running) -> RmwClientOf:
    return RmwClientOf(await connect_plain(server.port))


# ---- native ----


async def test_what_is_acknowledged_is_stored(tmp_path: Path) -> None:
    frames = chain(3, 5, 1, 40)
    async with running(tmp_path / "c") as server, await native(server, frames) as client:
        await client.send_all()
        assert server.records("web1") == split(lines(1, 49))
        assert server.store.position("web1", SPOOL) == frames[-1].after
        assert [identity for identity, _ in server.fed] == ["web1"] * 4
        assert b"".join(block.data for _, block in server.fed) == lines(1, 49)
        assert [block.records for _, block in server.fed] == [3, 5, 1, 40]
        assert server.services.flight.used == 0


async def test_a_sender_that_comes_back_goes_on_where_the_store_ends(tmp_path: Path) -> None:
    frames = chain(3, 5, 4, 2)
    async with running(tmp_path / "c") as server:
        async with await native(server, frames[:2]) as client:
            await client.send_all()
        async with await native(server, frames) as client:
            await client.greet()
            assert client.welcome is not None
            assert client.welcome.position == frames[1].after
            await client.send_all()
        assert server.records() == split(lines(1, 14))
    async with running(tmp_path / "c") as again, await native(again, frames) as client:
        await client.greet()
        assert client.acknowledged == 15


async def test_a_new_connection_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    frames = chain(3, 5, 4, 2)
    async with running(tmp_path / "c") as server, await native(server, frames[:2]) as old:
        await old.send_all()
        async with await native(server, frames) as new:
            await new.send_all()
        await rejected(old.stream)
        assert server.records() == split(lines(1, 14))
        assert server.lines("replaced")


async def test_two_spools_of_one_host_are_two_streams(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        one = NativeClient(await connect(server.port, "web1"), chain(3), b"1" * 16)
        two = NativeClient(await connect(server.port, "web1"), chain(4), b"2" * 16)
        async with one, two:
            await one.send_all()
            await two.send_all()
            assert len(server.store.streams("web1")) == 2
            assert len(server.services.hosts.connections) == 2


async def test_goodbye_is_answered_by_what_is_stored(tmp_path: Path) -> None:
    frames = chain(3, 5)
    async with running(tmp_path / "c") as server, await native(server, frames) as client:
        await client.until(lambda: client.sender.next_record == 9)
        client.sender.bye()
        await client.until(lambda: False)
        assert client.acknowledged == 9
        assert server.records() == split(lines(1, 8))


async def test_a_hole_is_refused_and_counted(tmp_path: Path) -> None:
    frames = chain(3, 5, 4)
    async with running(tmp_path / "c") as server, await native(server, frames) as client:
        await client.greet()
        await client.stream.send_all(frames[0].under(frames[0].raw[:8]) + frames[2].raw)
        await client.until(lambda: client.others)
        assert "hole" in str(client.others)
        host = server.services.hosts.find("web1")
        assert host is not None
        await until(lambda: server.records() == split(lines(1, 3)), "what came before it is stored")
        assert host.holes == 1
        assert server.lines("left out")


async def test_a_spool_that_was_set_back_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        async with await native(server, chain(3, 5)) as client:
            await client.send_all()
        async with await native(server, chain(2)) as client:
            await client.until(lambda: client.others)
            assert "ahead" in str(client.others)
        assert server.records() == split(lines(1, 8))


async def test_the_host_is_who_has_the_key_and_not_what_the_records_say(tmp_path: Path) -> None:
    host = Host("ignored")
    frames = [host.item(2, node="one").frame, host.item(2, node="two").frame]
    async with running(tmp_path / "c") as server, await native(server, frames, "web2") as client:
        await client.send_all()
        (row,) = report(server.services.hosts, server.store.streams(), trio.current_time())
        assert (row["host"], row["nodes"], row["flags"]) == ("web2", ["one", "two"], ["nodes"])
        assert (row["authenticated"], row["records"], row["lag"]) == (True, 4, 0)
        assert row["rate"] > 0
        assert len(server.records("web2")) == 4


async def test_many_senders_share_a_commit(tmp_path: Path) -> None:
    hosts = [f"{n}.slow" for n in range(20)]
    async with running(tmp_path / "c") as server:

        async def one(identity: str) -> None:
            async with await native(server, chain(*[2] * 50), identity) as client:
                await client.send_all()

        async with trio.open_nursery() as nursery:
            for identity in hosts:
                nursery.start_soon(one, identity)
        assert server.committer.frames == 1_000
        assert server.committer.groups < 500
        for identity in hosts:
            assert server.records(identity) == split(lines(1, 100))


async def test_a_full_disk_is_told_and_what_was_sent_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "RETRY_SECONDS", 0.05)
    frames = chain(3, 5)
    async with running(tmp_path / "c") as server, await native(server, frames) as client:
        server.full(True)
        await client.until(lambda: client.troubles)
        assert client.troubles[0].trouble is Trouble.DISK_FULL
        assert (client.acknowledged, server.records()) == (0, [])
        assert server.services.flight.used > 0
        async with await native(server, frames, "web2") as other:
            await other.until(lambda: other.troubles)
            assert other.troubles[0].trouble is Trouble.DISK_FULL
        server.full(False)
        await client.send_all()
        assert client.troubles[-1].trouble is None
        assert server.records("web1") == split(lines(1, 8))
        assert server.services.flight.used == 0


async def test_a_sender_that_leaves_while_the_disk_is_full_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "RETRY_SECONDS", 0.05)
    frames = chain(3, 5)
    async with running(tmp_path / "c") as server:
        server.full(True)
        async with await native(server, frames) as client:
            await client.until(lambda: client.troubles)
        await until(lambda: server.services.flight.used == 0, "what it had sent is dropped")
        async with await native(server, frames) as client:
            await client.greet()
            assert client.acknowledged == 0
            server.full(False)
            await client.send_all()
        assert server.records() == split(lines(1, 8))


async def test_suspended_is_told_too(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server, await native(server, chain(3)) as client:
        server.committer.suspend(True)
        await client.until(lambda: client.troubles)
        assert client.troubles[0].trouble is Trouble.SUSPENDED
        server.committer.suspend(False)
        await client.send_all()
        assert server.records() == split(lines(1, 3))


async def test_the_end_is_told_and_nothing_under_way_is_lost(tmp_path: Path) -> None:
    frames = chain(*[3] * 30)
    async with running(tmp_path / "c") as server, await native(server, frames) as client:
        await client.until(lambda: client.acknowledged > 10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop)
            await client.until(lambda: client.troubles)
        assert client.troubles[-1].trouble is Trouble.ENDING
        stored = server.records()
        assert stored == split(lines(1, len(stored)))


async def test_who_comes_when_the_collector_ends_is_told(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        early = await connect(server.port, "web1")
        server.committer.end()
        async with await native(server, chain(3), "web2") as late:
            await late.until(lambda: False)
            assert "the collector ends" in str(late.others)
        await rejected(early)
        await early.aclose()
        async with RmwClientOf(await connect(server.port, "web1", native=False)) as client:
            assert await client.hear() == Frame(Type.ENDING, 0)
        assert server.records() == []


async def test_too_many_hosts_are_refused_one_by_one(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        server.store.bound(Policy(), 0, 1)
        async with await native(server, chain(3)) as client:
            await client.send_all()
        async with await native(server, chain(3), "web2") as other:
            await other.until(lambda: other.others)
            assert "limits" in str(other.others)
        async with await native(server, chain(3, 2)) as client:
            await client.send_all()
        assert server.records() == split(lines(1, 5))


# ---- the C programs' ----


async def test_records_are_answered_in_order_when_they_are_stored(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server, await plain(server) as client:
        messages = [Frame(Type.MESSAGE, 2 + n, MESSAGE % n) for n in range(500)]
        await client.say(*messages, Frame(Type.HEARTBEAT, 900))
        answers = [await client.hear() for _ in range(501)]
        assert [each.sequence for each in answers if each is not None and each.sequence != 900] == list(range(2, 502))
        assert {each.type for each in answers if each is not None} == {Type.ACK}
        assert server.records(PLAIN) == [MESSAGE % n for n in range(500)]
        assert not report(server.services.hosts, server.store.streams(), 0.0)[0]["authenticated"]


async def test_over_tls_the_key_says_who_it_is(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        async with RmwClientOf(await connect(server.port, "web1", native=False)) as client:
            assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
        assert server.records("web1") == [MESSAGE % 1]


async def test_a_retry_on_the_next_connection_is_answered_and_not_stored_again(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        async with await plain(server) as client:
            assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
            await client.say(Frame(Type.MESSAGE, 3, MESSAGE % 2))  # whose answer is lost
        async with await plain(server) as client:
            assert await client.send(3, MESSAGE % 2) == Frame(Type.ACK, 3)
            assert await client.send(4, MESSAGE % 3) == Frame(Type.ACK, 4)
        host = server.services.hosts.find(PLAIN)
        assert host is not None
        assert host.retries == 1
        assert server.records() == [MESSAGE % n for n in (1, 2, 3)]
    async with running(tmp_path / "c", transport="tcp") as again, await plain(again) as client:
        assert await client.send(4, MESSAGE % 3) == Frame(Type.ACK, 4)
        assert await client.send(5, MESSAGE % 3) == Frame(Type.ACK, 5)
        assert again.records() == [MESSAGE % n for n in (1, 2, 3, 3)]


async def test_a_retry_is_known_among_many_clients_of_one_address(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        for n in range(10):
            async with await plain(server) as client:
                await client.send(2, MESSAGE % n)
        for n in range(10):
            async with await plain(server) as client:
                assert await client.send(2, MESSAGE % n) == Frame(Type.ACK, 2)
        assert server.records() == [MESSAGE % n for n in range(10)]


async def test_a_c_program_is_told_that_the_disk_is_full_and_then_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "RETRY_SECONDS", 0.05)
    async with running(tmp_path / "c", transport="tcp") as server, await plain(server) as client:
        server.full(True)
        for _ in range(3):
            answer = await client.send(2, MESSAGE % 1)
            assert answer is not None
            assert (answer.type, answer.sequence) == (Type.DISKFULL, 2)
        server.full(False)
        await until(lambda: server.committer.trouble is None or server.store.probe() is None, "there is room")
        server.committer._recover()
        assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
        assert server.records() == [MESSAGE % 1]


async def test_a_c_program_whose_records_cannot_be_stored_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        server.store.bound(Policy(), 0, 1)  # of which half are for those without a key
        async with await plain(server) as client:
            assert await client.send(2, MESSAGE % 1) is None
        assert server.lines("no more are taken")
        server.store.bound(Policy(), 0, 100)
        async with await plain(server) as client:
            assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
        assert server.records() == [MESSAGE % 1]


async def test_little_room_is_told_once_and_records_are_acknowledged(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server, await plain(server) as client:
        assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
        server.committer.low("little")
        server.committer.low("little")
        notice = await client.hear()
        assert notice is not None
        assert (notice.type, notice.sequence) == (Type.DISKLOW, 0)
        assert await client.send(3, MESSAGE % 2) == Frame(Type.ACK, 3)


async def test_c_programs_are_told_the_end(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server, await plain(server) as client:
        assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
        await server.stop()
        assert await client.hear() == Frame(Type.ENDING, 0)
        assert await client.hear() is None


async def test_many_c_programs_share_a_commit(tmp_path: Path) -> None:
    clients, each = 40, 25
    async with running(tmp_path / "c", transport="tcp") as server:

        async def one(number: int) -> None:
            async with await plain(server) as client:
                for n in range(each):
                    sequence = 2 + n
                    assert await client.send(sequence, MESSAGE % (number * each + n)) == Frame(Type.ACK, sequence)

        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(one, number)
        assert sorted(server.records()) == sorted(MESSAGE % n for n in range(clients * each))
        assert server.committer.groups < clients * each // 4


async def test_lag_is_what_a_sender_has_and_the_store_has_not(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server, await native(server, chain(3, 5)) as client:
        server.committer.suspend(True)
        await client.greet()

        def lag() -> object:
            return report(server.services.hosts, server.store.streams(), trio.current_time())[0]["lag"]

        assert lag() == 8
        server.committer.suspend(False)
        await client.send_all()
        assert lag() == 0


async def test_plain_lines_that_are_records_are_stored(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        async with await plain(server) as client:
            await client.stream.send_all(MESSAGE % 1 + MESSAGE % 2)
        await until(lambda: len(server.records()) == 2, "they are stored")
        assert server.records(PLAIN) == [MESSAGE % 1, MESSAGE % 2]


async def test_a_silent_client_is_cut_off_if_that_is_configured(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp", tcp_client_max_idle=1) as server, await plain(server) as client:
        assert await client.send(2, MESSAGE % 1) == Frame(Type.ACK, 2)
        assert await client.hear() is None
        assert server.lines("nothing was heard")
