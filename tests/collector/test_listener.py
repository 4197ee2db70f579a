"""Who may come in, and what becomes of those who may not: nobody else is disturbed, and no memory grows."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import zstandard

from audisp.buffer.segment import ANCHOR, MAX_FRAME_PLAIN, PREFIX_BYTES
from audisp.collector import flight, services, session_native, session_rmw
from audisp.collector.admission import Admission, NotAdmitted, surplus
from audisp.collector.hosts import Connection, Host
from audisp.collector.listener import plain_address
from audisp.config.collector import ListenConf
from audisp.parse.psk import Key
from audisp.tls.failures import RemoteTLSError
from audisp.wire.native import DATA_MARK, DataFrame, Hello
from audisp.wire.native_frames import wire_mark
from audisp.wire.rmw import MAGIC, Frame, Type
from tests.collector.running import (
    SPOOL,
    NativeClient,
    RmwClientOf,
    Running,
    connect,
    connect_plain,
    raw_socket,
    rejected,
    rss_kib,
    running,
    until,
)
from tests.tls.files import put_acl
from tests.wire.streams import chain, frame, lines

HTTP: Final = b"GET / HTTP/1.1\r\nHost: collector\r\n\r\n"
RECORD: Final = b"type=SYSCALL msg=audit(1.000:1): a=b\n"
HELLO: Final = Hello(SPOOL, 1, 100).encode()


async def still_works(server: Running, first: int = 1) -> None:
    """Another host sends, and all of it is stored."""
    frames = chain(4, 3)
    async with NativeClient(await connect(server.port, "web2"), frames, bytes([first]) * 16) as client:
        await client.send_all()
    assert server.records("web2")[-7:] == lines(1, 7).splitlines(keepends=True)


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


async def send(server: Running, data: bytes) -> bytes:
    """What comes back for these bytes on a bare connection."""
    stream = await connect_plain(server.port)
    async with stream:
        if data:
            await stream.send_all(data)
        return await rejected(stream)


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


def prefix(kind: int, head: int, packed: int, plain: int, body: bytes = b"") -> bytes:
    """A frame's prefix with right checksums, and a body."""
    fixed = struct.pack("<8sIIII", wire_mark(kind), head, packed, plain, zlib.crc32(body))
    return fixed + struct.pack("<I", zlib.crc32(fixed)) + body


def bomb(plain: int) -> bytes:
    """A data frame that says that it is small, and whose records are not."""
    small = frame(1, 1)
    head = small.raw[PREFIX_BYTES : PREFIX_BYTES + struct.unpack_from("<I", small.raw, 8)[0]]
    packed = zstandard.ZstdCompressor().compress(b"\n" * (256 << 20))
    return prefix(3, len(head), len(packed), plain, head + packed)


HOSTILE: Final[dict[str, bytes]] = {
    "http": HTTP,
    "no-greeting": frame().under(DATA_MARK),
    "greeting-twice": HELLO + HELLO,
    "oversized": prefix(3, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
    "oversized-greeting": prefix(1, 1 << 20, 0, 0),
    "zero-lengths": HELLO + prefix(3, 0, 0, 0),
    "unknown-type": HELLO + prefix(99, 0, 0, 0),
    "answer-of-a-collector": HELLO + prefix(4, 1, 0, 0, b"\x80"),
    "bomb": HELLO + bomb(40),
    "big-bomb": HELLO + bomb(MAX_FRAME_PLAIN),
    "bad-checksum": HELLO + frame().under(DATA_MARK)[:-1] + b"x",
    "second-frame-first": HELLO + chain(3, 4)[1].under(DATA_MARK),
    "nothing-but-zeros": b"\0" * 100_000,
}


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


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """The same with a few bytes changed, left out or put in, and sometimes cut."""
    some = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(some))
        match chance.randrange(4):
            case 0:
                some[at] ^= 1 << chance.randrange(8)
            case 1:
                del some[at : at + chance.randrange(1, 9)]
            case 2:
                some[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                some[at : at + 4] = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff"])
        some = some or bytearray(b"x")
    return bytes(some[: chance.randrange(1, len(some) + 1)] if chance.random() < 0.2 else some)


def resealed(one: DataFrame, chance: random.Random) -> bytes:
    """A data frame with a spoiled body and right checksums, so that it gets further."""
    size = struct.unpack_from("<I", one.raw, 8)[0]
    body = one.raw[PREFIX_BYTES:]
    head, packed = spoiled(body[:size], chance), spoiled(body[size:], chance) if chance.random() < 0.5 else body[size:]
    return prefix(3, len(head), len(packed), one.plain, head + packed)


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


async def test_an_identity_that_looks_like_an_address_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path / "c", "addr:10.0.0.1 enabled") as server:
        stream = await connect(server.port, "addr:10.0.0.1")
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


def big_frames(count: int) -> list[DataFrame]:
    """Frames of nearly 1 MiB, unpacked, that hardly weigh anything packed."""
    from audisp.buffer.segment import Frame as Stored

    made: list[DataFrame] = []
    at, last = 1, ANCHOR
    for _ in range(count):
        data = b"".join(b"type=SYSCALL msg=audit(1700000000.000:%d): %b\n" % (n, b"x" * 8_000) for n in range(130))
        made.append(DataFrame.make(Stored(at, 130, "netlink", {}, last, 1, data)))
        at, last = made[-1].after.next, made[-1].after.last
    return made


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
    assert [each.number for each in surplus(host, 2)] == [2]
    assert list(surplus(host, 3)) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("::ffff:10.1.2.3", "10.1.2.3"), ("2001:DB8::0:1", "2001:db8::1"), ("::1", "::1")],
)
def test_addresses_as_people_write_them(given: str, shown: str) -> None:
    assert plain_address(given) == shown
