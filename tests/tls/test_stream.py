"""The stream: trio's own conformance tests, and what happens to it when it is cancelled, torn, closed or forgotten."""

from __future__ import annotations

import gc
import random
import select
import weakref

import pytest
import trio
import trio.testing

from audisp.tls.failures import LocalTLSError, RemoteTLSError, TLSError
from audisp.tls.openssl import OpenSSL
from audisp.tls.stream import RECEIVE_BYTES, SEND_BYTES, TLSStream
from tests.tls.ends import KEY, OTHER, WEB1, client, connected, ends, library, reset, server, shake, sockets, tcp

__all__ = ["library"]


async def test_trio_says_that_it_is_a_stream() -> None:
    async def make() -> tuple[TLSStream, TLSStream]:
        return await connected()

    # Without its clogged part: there the tests send into a full socket, and a cancelled send tears a TLS stream.
    await trio.testing.check_half_closeable_stream(make, None)


async def _fill(stream: TLSStream) -> None:
    """Send until the socket has no room."""
    poll = select.poll()
    poll.register(stream.transport.socket.fileno(), select.POLLOUT)
    while poll.poll(0):
        await stream.send_all(bytes(256))


async def _drain(stream: TLSStream) -> None:
    while await stream.receive_some():
        pass


async def test_waiting_for_room() -> None:
    one, two = await connected(buffer=4_096)
    async with one, two:
        await _fill(one)
        order: list[str] = []

        async def wait() -> None:
            await one.wait_send_all_might_not_block()
            order.append("room")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            for call in (one.wait_send_all_might_not_block(), one.send_all(b"x"), one.send_eof()):
                with pytest.raises(trio.BusyResourceError, match="another task is sending"):
                    await call
            order.append("reading")
            await two.receive_some()
        assert order == ["reading", "room"]


@pytest.mark.parametrize("seed", range(4))
async def test_both_ways_at_once(seed: int, library: OpenSSL) -> None:
    chance = random.Random(seed)
    one, two = await connected(client(library=library), server(library=library), buffer=chance.choice((0, 4_096)))
    size = 3 * SEND_BYTES + chance.randrange(RECEIVE_BYTES)
    data = {one: chance.randbytes(size), two: chance.randbytes(size)}

    async def send(stream: TLSStream) -> None:
        at = 0
        while at < size:
            step = chance.choice((1, 16_384, 16_385, 100_000, SEND_BYTES + 1))
            await stream.send_all(memoryview(data[stream])[at : at + step])
            at += step
        await stream.send_eof()

    async def receive(stream: TLSStream, wanted: bytes) -> None:
        got = bytearray()
        while piece := await stream.receive_some(chance.choice((None, 1_000, 16_384, 200_000))):
            assert len(piece) <= RECEIVE_BYTES
            got += piece
        assert got == wanted
        assert await stream.receive_some() == b""

    async with one, two, trio.open_nursery() as nursery:
        nursery.start_soon(send, one)
        nursery.start_soon(send, two)
        nursery.start_soon(receive, one, data[two])
        nursery.start_soon(receive, two, data[one])


async def test_one_byte_at_a_time() -> None:
    one, two = await connected()
    async with one, two:
        for byte in b"hello":
            await one.send_all(bytes([byte]))
        await one.send_all(b"")
        assert [await two.receive_some(1) for _ in range(5)] == [b"h", b"e", b"l", b"l", b"o"]


@pytest.mark.parametrize("wrong", [0, -1])
async def test_a_read_of_nothing(wrong: int) -> None:
    one, two = await connected()
    async with one, two:
        with pytest.raises(ValueError, match="max_bytes must be >= 1"):
            await one.receive_some(wrong)


async def test_half_closed() -> None:
    one, two = await connected()
    async with one, two:
        await one.send_all(b"question")
        await one.send_eof()
        await one.send_eof()
        assert await two.receive_some() == b"question"
        assert await two.receive_some() == b""
        await two.send_all(b"answer")
        assert await one.receive_some() == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"more")


async def test_data_before_the_handshake_are_refused() -> None:
    one, two = ends(client(), server())
    async with one, two:
        for call in (one.send_all(b"x"), one.receive_some(), one.send_eof(), one.wait_send_all_might_not_block()):
            with pytest.raises(LocalTLSError, match="a handshake comes first"):
                await call
        with pytest.raises(LocalTLSError, match="nothing is agreed on"):
            _ = one.session
        assert await shake(one, two) == [None, None]
        await one.do_handshake()
        assert one.session.identity == two.session.identity == WEB1
        assert (one.offered, two.offered) == (None, WEB1)


async def test_a_cancelled_send_tears() -> None:
    one, two = await connected()
    async with one, two:
        receiving: TLSError | None = None

        async def receive() -> None:
            nonlocal receiving
            with pytest.raises(TLSError, match="a send was cancelled before its end") as caught:
                await one.receive_some()
            receiving = caught.value

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(one.send_all, bytes(8 << 20))
                    await trio.testing.wait_all_tasks_blocked()
                    inner.cancel_scope.cancel()
            assert not scope.cancelled_caught
        assert receiving is not None
        assert receiving.reason == "torn"
        for call in (one.send_all(b"x"), one.receive_some(), one.send_eof()):
            with pytest.raises(LocalTLSError, match="a send was cancelled before its end") as caught:
                await call
            assert caught.value.reason == "torn"
            assert isinstance(caught.value, trio.BrokenResourceError)
        await one.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"x")
        # The peer sees that it was cut off, and no end.
        with pytest.raises(RemoteTLSError, match="without TLS's own end"):
            await _drain(two)


async def test_a_send_that_was_cancelled_before_it_began_tears_nothing() -> None:
    one, two = await connected()
    async with one, two:
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.send_all(b"never")
        assert scope.cancelled_caught
        await one.send_all(b"sent")
        assert await two.receive_some() == b"sent"


async def test_a_cancelled_receive_loses_nothing() -> None:
    one, two = await connected()
    async with one, two:
        for _ in range(3):
            with trio.move_on_after(0.001):
                await two.receive_some()
            with trio.CancelScope() as scope:
                scope.cancel()
                await two.receive_some()
        await one.send_all(b"all of it")
        assert await two.receive_some() == b"all of it"


async def test_a_cancelled_handshake_tears() -> None:
    one, two = sockets()
    stream = TLSStream(one, client())
    async with stream, two:
        with trio.move_on_after(0.01):
            await stream.do_handshake()
        with pytest.raises(LocalTLSError, match="the handshake was cancelled"):
            await stream.do_handshake()


async def test_a_handshake_that_takes_too_long() -> None:
    one, two = sockets()
    stream = TLSStream(one, server())
    async with stream, two:
        with pytest.raises(RemoteTLSError, match=r"not done in 0.01 s") as caught:
            await stream.handshake(0.01)
        assert caught.value.reason == "handshake-timeout"
        with pytest.raises(RemoteTLSError, match=r"not done in 0.01 s"):
            await stream.send_all(b"x")


async def test_the_callers_own_deadline_is_its_own() -> None:
    one, two = sockets()
    stream = TLSStream(one, server())
    async with stream, two:
        with trio.move_on_after(0.01) as scope:
            await stream.handshake(60)
        assert scope.cancelled_caught


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_peer_that_goes_away(how: str) -> None:
    one, two = await tcp()
    local, peer = TLSStream(one, client()), TLSStream(two, server())
    assert await shake(local, peer) == [None, None]
    async with local:
        if how == "reset":
            reset(two)
        await two.aclose()  # below TLS: without its end
        with pytest.raises(RemoteTLSError) as caught:
            await local.receive_some()
        assert caught.value.reason == {"closed": "cut-off", "reset": "connection-lost"}[how]
        with pytest.raises(RemoteTLSError):
            await local.send_all(b"x")
    await peer.aclose()


async def test_sending_to_a_peer_that_has_gone() -> None:
    one, two = await tcp()
    local, peer = TLSStream(one, client()), TLSStream(two, server())
    assert await shake(local, peer) == [None, None]
    reset(two)
    await two.aclose()
    await peer.aclose()
    async with local:
        with pytest.raises(RemoteTLSError) as caught:
            await local.send_all(bytes(8 << 20))
        assert caught.value.reason == "connection-lost"


async def test_closing_wakes_who_waits() -> None:
    one, two = await connected(buffer=4_096)
    woken: list[str] = []

    async def wait(call, name: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(trio.ClosedResourceError):
            await call
        woken.append(name)

    async with two, trio.open_nursery() as nursery:
        nursery.start_soon(wait, one.receive_some(), "receive")
        nursery.start_soon(wait, one.send_all(bytes(1 << 20)), "send")
        await trio.testing.wait_all_tasks_blocked()
        await one.aclose()
        await one.aclose()
    assert sorted(woken) == ["receive", "send"]


async def test_closing_in_the_handshake() -> None:
    one, two = ends(client(), server())

    async def shake_hands() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.do_handshake()

    async with two, trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        await trio.testing.wait_all_tasks_blocked()
        await one.aclose()


async def test_closing_while_cancelled() -> None:
    one, two = await connected()
    async with two:
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.aclose()
        assert one.transport.socket.fileno() == -1
        assert await two.receive_some() == b""


async def test_reading_in_order_to_send_shares_the_wait() -> None:
    """What TLS 1.3 allows and libssl hardly does: a send that wants to read while a receive waits for the same."""
    one, two = await connected()
    async with one, two:
        seen: list[str] = []

        async def wait(name: str) -> None:
            await one._wait("read")
            seen.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, "second")
            await trio.testing.wait_all_tasks_blocked()
            assert seen == []
            await two.send_all(b"x")
        assert sorted(seen) == ["first", "second"]
        assert await one.receive_some() == b"x"


async def test_a_stream_that_is_forgotten_is_freed() -> None:
    server_context = server()
    freed: list[int] = []
    real = server_context.library.free

    def free(pointer: int) -> None:
        freed.append(pointer)
        real(pointer)

    pointers: list[int | None] = []
    for what in ("after", "before", "torn", "closed"):
        context = client()
        streams = ends(context, server_context)
        if what in ("after", "closed"):
            assert await shake(*streams) == [None, None]
        if what == "torn":
            with trio.move_on_after(0.001):
                await streams[0].do_handshake()
        for each in streams:
            pointers.append(each._ssl.pointer)
            each._ssl._free = free
            if what == "closed":
                await each.aclose()
            else:
                each.transport.socket.close()
        gone = weakref.ref(streams[0])
        del streams, each
        await trio.lowlevel.checkpoint()  # trio holds the last exception it delivered until then
        gc.collect()
        assert gone() is None
    wanted = [pointer for pointer in pointers if pointer is not None]
    assert len(freed) == len(wanted) == 7  # one of the eight was freed when it was torn
    assert sorted(freed) == sorted(wanted)
    assert not server_context.attempts


async def test_a_context_may_be_forgotten_before_its_streams() -> None:
    streams = ends(client(), server())
    gc.collect()
    assert await shake(*streams) == [None, None]
    for each in streams:
        await each.aclose()


async def test_what_is_agreed_on(library: OpenSSL) -> None:
    one, two = await connected(
        client(alpn=(b"x/1", b"audisp/1"), library=library), server(alpn=(b"audisp/1",), library=library)
    )
    async with one, two:
        assert one.session == two.session
        assert (one.session.version, one.session.cipher) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
        assert one.session.group in ("x25519", "X25519MLKEM768")
        assert one.session.alpn == b"audisp/1"


async def test_no_key_shows() -> None:
    context = client(key=OTHER)
    streams = ends(context, server({WEB1: KEY}))
    errors = await shake(*streams)
    secrets = [form for key in (KEY, OTHER) for form in (key.reveal().hex(), repr(key.reveal())[2:-1])]
    shown = [repr(each) for each in (*errors, *streams, context, KEY, context.attempts, vars(context))]
    shown += [str(error.__dict__) for error in errors if error is not None]
    assert not [secret for secret in secrets for text in shown if secret in text]
