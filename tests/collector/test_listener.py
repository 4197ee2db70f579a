"""Who may come in, and what becomes of those who may not: nobody else is disturbed, and no memory grows."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import struct
import types
from pathlib import Path
from typing import Any

import pytest
import trio

from audisp.collector.admission import Admission, NotAdmitted, surplus
from audisp.collector.hosts import Connection, Host
from audisp.collector.listener import plain_address
from audisp.config.collector import ListenConf
from audisp.parse.psk import Key
from audisp.tls.failures import RemoteTLSError
from audisp.wire.native import DATA_MARK
from audisp.wire.rmw import MAGIC, Frame, Type
from tests.collector.hostile import (
    HELLO,
    HOSTILE,
    HTTP,
    RECORD,
    big_frames,
    resealed,
    send,
    spoiled,
    still_works,
)
from tests.collector.running import (
    NativeClient,
    RmwClientOf,
    connect,
    connect_plain,
    raw_socket,
    rejected,
    running,
    until,
)
from tests.wire.streams import chain

# ---- without a key ----


@pytest.mark.parametrize(
    ("identity", "key", "reason"),
    [
        ("web1", Key(bytes(32)), "wrong-key"),
        ("nobody", Key(bytes(32)), "unknown-identity"),
        ("off", None, "disabled-identity"),
        ("web1#7", Key(bytes(32)), "epoch-not-live"),
    ],
)
async def test_who_has_no_key_is_refused(tmp_path: Path, identity: str, key: Key | None, reason: str) -> None:
    async with running(tmp_path / "c") as server:
        with pytest.raises(RemoteTLSError, match="neither this identity nor this key"):
            await connect(server.port, identity, key=key)
        await until(lambda: server.lines(reason), "the log says why")
        assert len(server.said) == 1
        await still_works(server)
        assert server.listener.admission.unproved == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HTTP, "not-tls"),
        (Frame(Type.MESSAGE, 2, RECORD).encode(), "not-tls"),
        (HELLO, "not-tls"),
        (b"\0" * 64, ""),
        (b"\xff" * 64, ""),
        (b"\x16\x03\x01\xff\xff" + b"x" * 64, ""),
    ],
    ids=["http", "rmw", "native", "zeros", "ones", "long-record"],
)
async def test_what_is_not_tls_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    async with running(tmp_path / "c", handshake_timeout=0.5) as server:
        await send(server, data)
        await until(lambda: server.lines("refused"), "the log says so")
        assert server.lines(reason)
        await still_works(server)
        assert server.records("web1") == []


async def test_who_connects_and_leaves_or_says_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "c", handshake_timeout=0.2) as server:
        for _ in range(3):
            await (await connect_plain(server.port)).aclose()
        sock = raw_socket(server.port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # a reset
        assert await send(server, b"") == b""
        await until(lambda: server.lines("handshake-timeout"), "it is cut off")
        await still_works(server)
        await until(lambda: server.listener.admission.total == 0, "all have gone")


async def test_plain_tcp_is_taken_only_where_it_is_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path / "c", plain=True, handshake_timeout=0.2) as server:
        async with RmwClientOf(await connect_plain(server.port)) as client:
            assert await client.send(2, RECORD) == Frame(Type.ACK, 2)
        async with RmwClientOf(await connect_plain(server.port)) as client:
            await trio.sleep(0.4)  # a quiet host
            assert await client.send(2, RECORD.replace(b"a=b", b"a=c")) == Frame(Type.ACK, 2)
        await still_works(server)
        assert len(server.records("addr:127.0.0.1")) == 2


@pytest.mark.parametrize(
    "data",
    [
        HTTP,
        b"\x16\x03\x01\x00\x05hello\n",
        b"x" * 20_000,
        struct.pack("<IBBIHI", MAGIC, 0, 0, 0, 0xFFFF, 2) + b"x" * 70_000,
        struct.pack("<IBBIHI", MAGIC, 0, 0, 0, 20, 2) + b"one\ntwo\nthree\nfour\n\n",
        b"\n" * 100,
        HELLO + b"\n",
    ],
    ids=["http", "tls", "no-line", "long", "many-lines", "empty-lines", "native"],
)
async def test_nonsense_on_plain_tcp_is_cut_off_and_not_stored(tmp_path: Path, data: bytes) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        assert await send(server, data) == b""
        await until(lambda: server.lines("cut off"), "the log says so")
        assert server.records() == []
        async with RmwClientOf(await connect_plain(server.port)) as client:
            assert await client.send(2, RECORD) == Frame(Type.ACK, 2)
        assert server.services.flight.used == 0


async def test_an_empty_message_is_stored_as_the_empty_line_that_it_is(tmp_path: Path) -> None:
    async with running(tmp_path / "c", transport="tcp") as server:
        async with RmwClientOf(await connect_plain(server.port)) as client:
            assert await client.send(2, b"") == Frame(Type.ACK, 2)
        assert server.records() == [b"\n"]


# ---- with a key, and hostile ----


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_a_host_that_breaks_the_protocol_is_cut_off(tmp_path: Path, data: bytes) -> None:
    async with running(tmp_path / "c") as server:
        stream = await connect(server.port, "web1")
        async with stream:
            await stream.send_all(data)
            await rejected(stream)
        await until(lambda: server.lines("cut off"), "the log says so")
        assert server.records() == []
        await until(lambda: server.services.flight.used == 0, "nothing is held")
        await still_works(server)
        assert not server.lines("defect")


@pytest.mark.parametrize("seed", range(4))
async def test_seeded_nonsense_ends_its_own_connection_and_nothing_else(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with running(tmp_path / "c", plain=True, tcp_max_per_addr=5_000) as server:
        for n in range(60):
            identity = f"{n}.slow"
            frames = chain(3, 5, 1)
            if n % 3 == 0:
                data = spoiled(HELLO + b"".join(each.under(DATA_MARK) for each in frames), chance)
            elif n % 3 == 1:
                data = HELLO + frames[0].under(DATA_MARK) + resealed(frames[1], chance)
            else:
                data = spoiled(b"".join(Frame(Type.MESSAGE, m, RECORD).encode() for m in range(4)), chance)
            plain = n % 3 == 2
            stream = await (connect_plain(server.port) if plain else connect(server.port, identity))
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(data)
                    await stream.send_eof()
                await rejected(stream)
        await until(lambda: server.listener.admission.total == 0, "all have gone")
        await still_works(server)
        assert not server.lines("defect")
        await until(lambda: server.services.flight.used == 0, "nothing is held")


async def test_a_forged_retry_of_another_host_is_its_own_record(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        for identity in ("web1", "web2"):
            async with RmwClientOf(await connect(server.port, identity, native=False)) as client:
                assert await client.send(2, RECORD) == Frame(Type.ACK, 2)
        assert server.records("web1") == server.records("web2") == [RECORD]


async def test_a_replayed_frame_is_stored_once(tmp_path: Path) -> None:
    (one,) = chain(3)
    async with running(tmp_path / "c") as server:
        async with NativeClient(await connect(server.port, "web1"), [one]) as client:
            await client.send_all()
            for _ in range(5):
                await client.stream.send_all(one.under(DATA_MARK))
            host = server.services.hosts.find("web1")
            assert host is not None
            await until(lambda: host.duplicates == 5, "they are seen")
        assert len(server.records()) == 3


@pytest.mark.parametrize("identity", ["addr:10.0.0.1", "netlink", "multicast", "follow:/var/log/audit/audit.log"])
async def test_an_identity_that_looks_like_an_address_or_a_source_is_refused(tmp_path: Path, identity: str) -> None:
    async with running(tmp_path / "c", f"{identity} enabled") as server:
        stream = await connect(server.port, identity)
        async with stream:
            await rejected(stream)
        assert server.lines("invalid-identity")


async def test_more_than_the_window_is_a_breach(tmp_path: Path) -> None:
    async with running(tmp_path / "c", max_bytes_in_flight_per_host=3 << 20) as server:
        server.committer.suspend(True)  # so that nothing becomes less
        big = big_frames(8)
        stream = await connect(server.port, "web1")
        async with stream:
            await stream.send_all(HELLO + b"".join(each.under(DATA_MARK) for each in big))
            await rejected(stream)
        await until(lambda: server.lines("cut off") or server.lines("too much"), "the log says so")
        assert server.services.flight.used == 0


# ---- the counting ----


def coming(number: int, address: str = "10.0.0.1", port: int = 1_000, heard: float = 0.0) -> Connection:
    return Connection(number, address, port, "rmw", "", trio.CancelScope(), 0.0, heard)


def conf(**settings: Any) -> ListenConf:
    return ListenConf(transport="tcp", **settings)


def test_admission_counts_by_address() -> None:
    admission = Admission(conf(tcp_max_per_addr=2))
    one, two, three = coming(1), coming(2), coming(3)
    admission.enter(one)
    admission.enter(two)
    with pytest.raises(NotAdmitted, match="most of one address"):
        admission.enter(three)
    admission.enter(coming(4, "10.0.0.2"))
    admission.leave(one, plain=False)
    admission.enter(three)
    assert (admission.total, admission.unproved) == (3, 3)


def test_ports_are_checked() -> None:
    admission = Admission(conf(tcp_client_ports=(0, 1023)))
    with pytest.raises(NotAdmitted, match="tcp_client_ports"):
        admission.enter(coming(1, port=1_024))
    admission.enter(coming(2, port=1_023))
    assert admission.total == 1


def test_who_holds_most_places_gives_one_up() -> None:
    admission = Admission(conf(max_handshakes=4))
    greedy = [coming(n) for n in range(4)]
    for each in greedy:
        admission.enter(each)
    admission.enter(coming(9, "10.0.0.2"))
    assert [each.reason for each in greedy] == ["max-handshakes", "", "", ""]
    with pytest.raises(NotAdmitted, match="not proved"):
        admission.enter(coming(10))
    assert admission.unproved == 4


def test_those_without_a_key_get_half_of_all_places() -> None:
    admission = Admission(conf(max_connections=4))
    for n in range(2):
        each = coming(n)
        admission.enter(each)
        admission.proved(each, plain=True)
    third = coming(3)
    admission.enter(third)
    with pytest.raises(NotAdmitted, match="no key"):
        admission.proved(third, plain=True)
    admission.leave(third, plain=False)
    fourth = coming(4)
    admission.enter(fourth)
    admission.proved(fourth, plain=False)
    assert (admission.total, admission.plain, admission.unproved) == (3, 2, 0)


def test_the_surplus_of_a_host_is_what_was_silent_longest() -> None:
    host = Host("web1")
    for number, heard in ((1, 5.0), (2, 1.0), (3, 9.0)):
        host.connections[number] = coming(number, heard=heard)
    newest = host.connections[3]
    assert [each.number for each in surplus(host, newest, 2, 10.0)] == [2]
    assert [each.number for each in surplus(host, newest, 1, 10.0)] == [2, 1]
    assert list(surplus(host, newest, 3, 10.0)) == []


def test_the_surplus_is_never_a_sender_that_is_well() -> None:
    host = Host("web1")
    for number, heard in ((1, 5.0), (2, 4.0), (3, 0.0)):
        host.connections[number] = coming(number, heard=heard)
    newest = host.connections[3]
    assert list(surplus(host, newest, 2, 3.0)) == []  # both have said something since then, by the C programs' protocol
    assert [each.number for each in surplus(host, newest, 2, 4.5)] == [2]
    host.connections[1].protocol = "native"
    assert [each.number for each in surplus(host, newest, 2, 3.0)] == [1]  # it has not greeted
    host.connections[1].spool = b"x" * 16
    assert list(surplus(host, newest, 2, 3.0)) == []
    host.connections[2].end("it has been ended, and goes")
    assert list(surplus(host, newest, 1, 6.0)) == [host.connections[1]]


@pytest.mark.parametrize(
    ("given", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("::ffff:10.1.2.3", "10.1.2.3"), ("2001:DB8::0:1", "2001:db8::1"), ("::1", "::1")],
)
def test_addresses_as_people_write_them(given: str, shown: str) -> None:
    assert plain_address(given) == shown


@pytest.mark.parametrize("name", ["http", "big-bomb", "bad-checksum", "greeting-twice", "zero-lengths"])
async def test_a_connection_that_breaks_a_rule_leaves_no_garbage(tmp_path: Path, name: str) -> None:
    """What a peer has sent is let go with its connection, and not when the interpreter looks for circles next."""

    async def once(port: int) -> None:
        if name == "http":
            await send_plain(port)
            return
        stream = await connect(port, "web1")
        async with stream:
            await stream.send_all(HOSTILE[name])
            await rejected(stream)

    async def send_plain(port: int) -> None:
        stream = await connect_plain(port)
        async with stream:
            await stream.send_all(HTTP)
            await rejected(stream)

    async with running(tmp_path) as server:
        await once(server.port)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                await once(server.port)
            with trio.fail_after(10):
                while server.listener.admission.total:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.01)
            gc.collect()
            held = {each.f_code.co_qualname for each in gc.garbage if isinstance(each, types.FrameType)}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert held == set()
