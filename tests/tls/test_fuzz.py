"""Bytes that were changed on the way, at both ends at once: seeded, short.

What must hold: nothing but a TLSError comes of it, nobody hangs, and whoever has a session has the one that the peer
has. What was received is the beginning of what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest
import trio
import trio.testing

from audisp.tls.failures import TLSError
from audisp.tls.stream import TLSStream
from tests.tls.ends import SECONDS, client, server, sockets

DATA: Final = random.Random(1).randbytes(100_000)
CONNECTIONS: Final = 150
"""For each seed; about 3 ms each."""

Change = Callable[[bytearray, random.Random], bytes]


def _flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _length(data: bytearray, chance: random.Random) -> bytes:
    """A record's length, or one in the first message."""
    at = chance.choice((3, 4, 6, 7, 8, 43, *range(76, 90)))
    if at < len(data):
        data[at] = chance.choice((0, 1, 0x40, 0x7F, 0xFF))
    return bytes(data)


def _cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(len(data))])


def _insert(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return bytes(data[:at]) + chance.randbytes(chance.choice((1, 5, 500, 20_000))) + bytes(data[at:])


def _repeat(data: bytearray, _chance: random.Random) -> bytes:
    return bytes(data) * 2


def _replace(data: bytearray, chance: random.Random) -> bytes:
    return chance.randbytes(len(data))


CHANGES: Final[tuple[Change, ...]] = (_flip, _flip, _length, _cut, _insert, _repeat, _replace)


async def _pass_on(
    source: trio.SocketStream, sink: trio.SocketStream, at: int, change: Change, chance: random.Random
) -> None:
    """Pass on what comes, and change the piece that holds the byte number `at`."""
    passed = 0
    try:
        async for data in source:
            if passed <= at < passed + len(data):
                await sink.send_all(change(bytearray(data), chance))
            else:
                await sink.send_all(data)
            passed += len(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def _use(stream: TLSStream, got: bytearray) -> None:
    """Handshake, DATA both ways, until something is wrong or all is there."""
    try:
        async with stream:
            await stream.do_handshake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, DATA)
                while len(got) < len(DATA):
                    data = await stream.receive_some()
                    if not data:
                        break
                    got += data
    except* TLSError:
        pass


async def _end(scope: trio.CancelScope) -> None:
    """Everybody waits for bytes that were cut off, or that a changed length has promised: that is for a deadline."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    scope.cancel()


@pytest.mark.parametrize("seed", range(6))
async def test_changed_on_the_way(seed: int) -> None:
    chance = random.Random(seed)
    local, remote = client(alpn=(b"audisp/1",)), server(alpn=(b"audisp/1",))
    spoiled = 0
    for _ in range(CONNECTIONS):
        (one, near), (far, two) = sockets(), sockets()
        streams = TLSStream(one, local), TLSStream(two, remote)
        got = bytearray(), bytearray()
        # Hello, the server's answer, the client's end, or data; or nothing at all in one of the directions.
        points = [chance.choice((0, chance.randrange(300), chance.randrange(500), 50_000, 1 << 30)) for _ in range(2)]
        changes = chance.choices(CHANGES, k=2)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, near, far, points[0], changes[0], chance)
            nursery.start_soon(_pass_on, far, near, points[1], changes[1], chance)
            nursery.start_soon(_end, nursery.cancel_scope)
            async with trio.open_nursery() as both:
                both.start_soon(_use, streams[0], got[0])
                both.start_soon(_use, streams[1], got[1])
            nursery.cancel_scope.cancel()
        sessions = [stream._session for stream in streams]
        if None not in sessions:
            assert sessions[0] == sessions[1]
        for each in got:
            assert DATA.startswith(bytes(each))
        spoiled += any(len(each) < len(DATA) for each in got)
    assert 0 < spoiled < CONNECTIONS  # both kinds were seen


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [client, server])
async def test_any_bytes(make: Callable[[], object], seed: int) -> None:
    """Beginnings that look like TLS, and then anything."""
    chance = random.Random(seed)
    heads = (
        b"",
        b"\x16\x03\x01",
        b"\x16\x03\x03\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x03\x00\x7a\x02",
        b"\x15\x03\x03",
    )
    context = make()
    for _ in range(CONNECTIONS * 2):
        one, two = sockets()
        stream = TLSStream(one, context)  # type: ignore[arg-type]
        await two.send_all(chance.choice(heads) + chance.randbytes(chance.choice((1, 5, 100, 1_000, 30_000))))
        await two.send_eof()
        async with stream, two:
            with trio.fail_after(SECONDS), pytest.raises(TLSError):
                await stream.do_handshake()
