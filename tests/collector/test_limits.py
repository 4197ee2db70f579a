"""Limits of time, memory and places: one hostile or slow host costs itself."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from audisp.collector import flight, services, session_native, session_rmw
from audisp.collector.session_native import BUSY_RETRY
from audisp.parse.psk import Key
from audisp.tls.failures import RemoteTLSError
from audisp.wire.native import DATA_MARK, Reason, Refused
from audisp.wire.rmw import Frame, Type
from tests.collector.hostile import (
    HELLO,
    HOSTILE,
    HTTP,
    RECORD,
    big_frames,
    send,
    still_works,
)
from tests.collector.running import (
    NativeClient,
    RmwClientOf,
    Running,
    connect,
    connect_plain,
    rejected,
    rss_kib,
    running,
    until,
)
from tests.tls.files import put_acl
from tests.wire.streams import chain, frame

# ---- many ----


async def test_places_of_those_who_prove_nothing_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path / "c", max_handshakes=5, handshake_timeout=30.0) as server:
        silent = [await connect_plain(server.port) for _ in range(5)]
        await until(lambda: server.listener.admission.unproved == 5, "they are there")
        late = await connect_plain(server.port)
        assert await rejected(late) == b""
        assert server.lines("max-handshakes")
        await silent[0].aclose()
        await until(lambda: server.listener.admission.unproved == 4, "one has gone")
        await still_works(server)
        for each in (*silent, late):
            await each.aclose()


async def test_a_host_that_connects_again_and_again_keeps_its_newest(tmp_path: Path) -> None:
    async with running(tmp_path / "c", max_per_identity=2) as server:
        streams = [await connect(server.port, "web1") for _ in range(5)]
        host = server.services.hosts.find("web1")
        assert host is not None
        await until(lambda: len(server.lines("max-per-identity")) == 3, "three were cut off")
        assert len(host.connections) == 2
        await streams[-1].send_all(HELLO)
        assert await streams[-1].receive_some()
        await still_works(server)
        for stream in streams:
            await stream.aclose()


async def test_senders_that_are_too_many_for_one_identity_do_not_end_each_other(tmp_path: Path) -> None:
    async with running(tmp_path / "c", max_per_identity=2) as server:

        async def sender(spool: int) -> NativeClient:
            return NativeClient(await connect(server.port, "web1"), chain(3), bytes([spool]) * 16)

        first, second = await (await sender(1)).greet(), await (await sender(2)).greet()
        for _ in range(5):
            async with await sender(3) as third:
                await third.until(lambda: False)  # until it is sent away
                assert [(each.reason, each.retry) for each in third.others if isinstance(each, Refused)] == [
                    (Reason.BUSY, BUSY_RETRY)
                ]
                assert third.welcome is None
        await first.send_all()
        await second.send_all()
        assert server.lines("another one is sent away")
        assert not server.lines("has taken its place")
        # Whoever is there already may come again, whether or not its old connection is known to be dead.
        async with await sender(2) as again:
            await again.send_all()
            assert again.acknowledged == 4
        async with await sender(3) as third:
            await third.send_all()
        assert len(server.records("web1")) == 9
        for each in (first, second):
            await trio.aclose_forcefully(each.stream)


@pytest.mark.parametrize("idle_timeout", [60, 1])
async def test_a_c_program_too_many_comes_in_when_another_is_silent(tmp_path: Path, idle_timeout: int) -> None:
    async with (
        running(tmp_path / "c", max_per_identity=1, idle_timeout=idle_timeout) as server,
        RmwClientOf(await connect(server.port, "web1", native=False)) as first,
    ):
        assert await first.send(2, RECORD) == Frame(Type.ACK, 2)
        await trio.sleep(0.6)  # more than half of the shorter one
        async with RmwClientOf(await connect(server.port, "web1", native=False)) as second:
            if idle_timeout == 60:
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await second.send(2, RECORD) is None
                await until(lambda: server.lines("refused (max-per-identity)"), "the log says so")
                assert await first.send(3, RECORD) == Frame(Type.ACK, 3)
            else:
                assert await second.send(3, RECORD) == Frame(Type.ACK, 3)
                await until(lambda: server.lines("has taken its place"), "the log says so")


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path / "c", max_connections=3, handshake_timeout=30.0) as server:
        held = [await connect(server.port, f"{n}.slow") for n in range(3)]
        async with await connect_plain(server.port) as late:
            assert await rejected(late) == b""
        assert server.lines("max-connections")
        await held.pop().aclose()
        await until(lambda: server.listener.admission.total == 2, "one has gone")
        await still_works(server)
        for stream in held:
            await stream.aclose()


async def test_a_reload_of_keys_cuts_off_the_disabled_alone(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        one, two = await connect(server.port, "web1"), await connect(server.port, "web2")
        await until(lambda: len(server.services.hosts.connections) == 2, "both are there")
        put_acl(server.folder / "clients", "web1 disabled", "web2 enabled")
        assert server.listener.ring is not None
        server.listener.ring.reload()
        assert server.listener.revoke() == 1
        await rejected(one)
        await two.send_all(HELLO)
        assert await two.receive_some()
        assert server.lines("identity-revoked")
        await one.aclose()
        await two.aclose()


Drip = Callable[[Running, int], Awaitable[trio.abc.Stream]]


async def bare(server: Running, _: int) -> trio.abc.Stream:
    return await connect_plain(server.port)


async def proved(server: Running, number: int) -> trio.abc.Stream:
    return await connect(server.port, f"{number}.slow")


@pytest.mark.parametrize(
    ("open_one", "data"),
    [
        (bare, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500),
        (proved, HELLO[:40]),
        (proved, HELLO + frame(1, 40).under(DATA_MARK)[:300]),
    ],
    ids=["handshake", "greeting", "frame"],
)
async def test_slow_ones_hold_up_nobody(tmp_path: Path, open_one: Drip, data: bytes) -> None:
    count = 200
    async with running(tmp_path / "c", handshake_timeout=30.0) as server:
        slow = [await open_one(server, n) for n in range(count)]
        before = rss_kib()
        for part in range(4):
            for stream in slow:
                await stream.send_all(data[part * 8 : part * 8 + 8])
            await still_works(server, part + 1)
        gc.collect()
        assert rss_kib() - before < 16_384
        assert server.services.flight.used < 1 << 20
        assert not server.lines("defect")
        for stream in slow:
            await trio.aclose_forcefully(stream)
        await until(lambda: server.listener.admission.total == 0, "all have gone")
        assert server.services.flight.used == 0


async def test_memory_does_not_grow_with_refusals(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:

        async def wave(count: int) -> None:
            for n in range(count):
                await send(server, HTTP)
                with pytest.raises(RemoteTLSError):
                    await connect(server.port, f"nobody{n}", key=Key(bytes(32)))
            server.said.clear()
            gc.collect()

        await wave(40)
        before = rss_kib()
        await wave(150)
        assert rss_kib() - before < 4_096
        await still_works(server)


async def test_every_line_that_a_peer_can_cause_is_limited(tmp_path: Path) -> None:
    async with running(tmp_path / "c", handshake_timeout=0.2) as server:
        await send(server, HTTP)
        await send(server, b"")
        for data in HOSTILE.values():
            stream = await connect(server.port, "web1")
            async with stream:
                await stream.send_all(data)
                await rejected(stream)
        assert len(server.said) > len(HOSTILE)
        assert [line for line in server.said if line[2] is None] == []
        # The names of limits do not depend on what peers send, or they would be no limit.
        assert len({limit for _, _, limit in server.said}) < 20


# ---- time ----


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session_native, session_rmw):
        monkeypatch.setattr(module, "FRAME_SECONDS", 0.3)
        monkeypatch.setattr(module, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(flight, "BUSY_SECONDS", 0.3)
    assert services.FRAME_SECONDS > 1


async def test_a_frame_that_does_not_end_is_not_waited_for(tmp_path: Path, hurried: None) -> None:
    async with running(tmp_path / "c") as server:
        stream = await connect(server.port, "web1")
        async with stream:
            await stream.send_all(HELLO + frame(1, 40).under(DATA_MARK)[:-1])
            await rejected(stream)
        await until(lambda: server.lines("not whole"), "the log says so")
        await still_works(server)


async def test_a_host_that_is_silent_is_taken_for_dead(tmp_path: Path) -> None:
    async with running(tmp_path / "c", idle_timeout=1) as server:
        stream = await connect(server.port, "web1")
        async with stream:
            await stream.send_all(HELLO)
            await rejected(stream)
        assert server.lines("nothing was heard")


async def test_a_frame_that_drips_is_not_waited_for_either(tmp_path: Path, hurried: None) -> None:
    async with running(tmp_path / "c") as server:
        stream = await connect(server.port, "web1")
        async with stream:
            await stream.send_all(HELLO)
            with trio.move_on_after(20), contextlib.suppress(trio.BrokenResourceError):
                for byte in frame(1, 200).under(DATA_MARK):
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.01)
        await until(lambda: server.lines("not whole"), "it is cut off")
        assert server.records() == []


async def test_a_record_that_does_not_end_is_not_waited_for(tmp_path: Path, hurried: None) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        assert await send(server, Frame(Type.MESSAGE, 2, RECORD).encode()[:-1]) == b""
        assert server.lines("not ended")


async def test_who_takes_no_answers_is_cut_off(tmp_path: Path, hurried: None) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        stream = await connect_plain(server.port)
        async with stream:
            beats = Frame(Type.HEARTBEAT, 2).encode() * 4_000
            with trio.move_on_after(20), contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(beats)
        await until(lambda: server.lines("takes no answers") or server.lines("lost"), "it is cut off")
        assert server.services.flight.used == 0


async def test_when_too_much_is_under_way_the_sender_is_sent_away(tmp_path: Path, hurried: None) -> None:
    async with running(tmp_path / "c", max_bytes_in_flight=3 << 20, max_bytes_in_flight_per_host=3 << 20) as server:
        server.committer.suspend(True)
        data = HELLO + b"".join(each.under(DATA_MARK) for each in big_frames(2))
        async with await connect(server.port, "web1") as one, await connect(server.port, "web2") as two:
            await one.send_all(data)
            await until(lambda: server.services.flight.used > 2_000_000, "two frames wait")
            await two.send_all(data)
            await until(lambda: server.lines("too much is under way"), "it is sent away")
            async with NativeClient(await connect(server.port, "0.slow"), chain(1)) as quiet:
                await quiet.greet()
                assert quiet.welcome is not None, "who has sent nothing is not"
        server.committer.suspend(False)
        await still_works(server)
