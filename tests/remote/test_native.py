"""The program audisp-remote over TLS to a receiver: every record once, whatever dies or breaks."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from audisp.parse.psk import Key
from audisp.wire.native import Trouble
from tests.e2e.remotes import Remote, free_port, numbered, numbers_in
from tests.remote.receiver import Store, tls_conf
from tests.remote.test_spool import heavy
from tests.tls.ends import OTHER, WEB1

pytestmark = pytest.mark.timeout(180, func_only=True)

PATIENCE: Final = 60.0
SEED: Final = 8_086


async def until(what: Callable[[], object], message: str) -> None:
    """Until it is so; AssertionError with the message after PATIENCE."""
    end = trio.current_time() + PATIENCE
    while not what():
        assert trio.current_time() < end, message
        await trio.sleep(0.02)


class Running(Remote):
    """As Remote, for tests that serve it in the same thread: nothing of it waits in the loop."""

    def _await_ready(self) -> None:
        """Not here."""

    async def ready(self) -> None:
        await until(lambda: self.state().get("pid") == str(self.pid), f"it is up: {self.said()}")

    async def put(self, data: bytes) -> None:
        await trio.to_thread.run_sync(self.write, data)

    async def shows(self, key: str, value: str) -> None:
        """Until the state file says so."""

        end = trio.current_time() + PATIENCE
        while (await trio.to_thread.run_sync(self.fresh_state)).get(key) != value:
            assert trio.current_time() < end, f"{key} = {value}: {self.state()}\n{self.said()}"
            await trio.sleep(0.05)

    async def over(self) -> int | None:
        await until(lambda: self.ended() is not None, f"it ends: {self.said()}")
        return self.ended()


def remote(folder: Path, port: int, **conf: Any) -> Running:
    return Running(folder, port=port, **(tls_conf(folder) | conf))


async def test_every_record_arrives_once(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store()
    port = await nursery.start(store.serve)
    with remote(tmp_path / "remote", port) as sender:
        await sender.ready()
        for first in range(1, 20_001, 500):
            await sender.put(numbered(first, 500))
        await until(lambda: len(numbers_in(store.data)) >= 20_000, "all have arrived")
        assert store.data == numbered(1, 20_000)
        await sender.shows("waiting", "0")
        state = sender.state()
        assert (state["protocol"], state["sent"], state["accepted"]) == ("native", "20000", "20000")
        assert state["cipher"].startswith("TLS_AES_128_GCM_SHA256")
        sender.close_feed()
        assert await sender.over() == 0
    assert (store.connections, store.duplicates, store.byes) == (1, 0, 1)


async def test_connections_cut_and_sender_killed(tmp_path: Path, nursery: trio.Nursery) -> None:
    chance = random.Random(SEED)
    store = Store(cut=9, chance=chance)
    port = await nursery.start(store.serve)
    sender = remote(tmp_path / "remote", port, network_retry_max=1)
    total = 0
    for _ in range(8):
        with sender:
            await sender.ready()
            count = chance.randrange(500, 4_000)
            for first in range(total + 1, total + count + 1, 100):
                await sender.put(numbered(first, min(100, total + count + 1 - first)))
            await sender.shows("unstored", "0")
            await sender.shows("accepted", str(count))
            total += count
            await trio.sleep(chance.random() / 2)
            sender.kill()
    with sender:
        await sender.ready()
        await sender.shows("waiting", "0")
        assert store.data == numbered(1, total)
    assert store.cuts > 1
    assert [kept.gaps for kept in store.streams.values()] == [[]]
    assert "Traceback" not in sender.said()


async def test_killed_while_it_accepts(tmp_path: Path, nursery: trio.Nursery) -> None:
    """What was read and not yet stored is lost with the process; nothing comes twice, nothing out of order."""
    chance = random.Random(SEED + 1)
    store = Store()
    port = await nursery.start(store.serve)
    sender = remote(tmp_path / "remote", port)
    total = 0
    for _ in range(5):
        with sender:
            async with trio.open_nursery() as feeding:

                async def feed() -> None:
                    nonlocal total
                    try:
                        for _ in range(200):
                            await sender.put(numbered(total + 1, 100))
                            total += 100
                    except OSError:
                        total += 100

                feeding.start_soon(feed)
                await sender.ready()
                await trio.sleep(chance.random() / 4)
                sender.kill()
                # Its own end of the feed is closed with it.
    with sender:
        await sender.ready()
        await sender.put(numbered(total + 1, 1))
        await until(lambda: numbers_in(store.data)[-1:] == [total + 1], "the last has come")
    found = numbers_in(store.data)
    assert found == sorted(set(found))
    assert store.data == b"".join(numbered(n, 1) for n in found)


async def test_a_server_without_the_key_or_with_another_gets_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store(keys={WEB1: OTHER})
    port = await nursery.start(store.serve)
    with remote(tmp_path / "remote", port) as sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await until(lambda: len(store.errors) > 2, "it has tried")
        await sender.shows("accepted", "10")
        assert sender.state()["waiting"] == "10"
        key: Key | str = (tmp_path / "remote" / "key").read_text().strip()
        assert str(key) not in sender.said()
        assert "accepts neither this identity nor this key" in sender.said()


async def test_trouble_keeps_records_until_it_is_over(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store(trouble=Trouble.DISK_FULL)
    port = await nursery.start(store.serve)
    with remote(tmp_path / "remote", port) as sender:
        await sender.ready()
        await sender.shows("trouble", "disk-full")
        await sender.put(numbered(1, 10))
        await sender.shows("waiting", "10")
        assert store.data == b""
        store.trouble = None
        store.drop_all()
        await until(lambda: store.data == numbered(1, 10), "it is well again")
    assert "disk-full" in sender.said()


async def test_fail_over_and_back(tmp_path: Path, nursery: trio.Nursery) -> None:
    first, second = Store(port=free_port()), Store()
    await nursery.start(second.serve)
    conf = {"remote_server": f"127.0.0.1:{first.port} 127.0.0.1:{second.port}", "failback_time": 1}
    with remote(tmp_path / "remote", 60, **conf) as sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await until(lambda: second.data == numbered(1, 10), "the second has them")
        await nursery.start(first.serve)
        await sender.shows("server", f"127.0.0.1:{first.port}")
        await sender.shows("waiting", "0")
        await sender.put(numbered(11, 10))
        await until(lambda: first.data == numbered(11, 10), "the first has what came after")
    assert second.data == numbered(1, 10)
    # It knows nothing of the stream, which begins there.
    assert [kept.gaps for kept in first.streams.values()] == [[]]


async def test_never_falls_back_from_a_server_that_was_native(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store()
    port = await nursery.start(store.serve)
    sender = remote(tmp_path / "remote", port)
    with sender:
        await sender.ready()
        await sender.shows("protocol", "native")
    # The same server, without our protocol: restarted, and asked by a sender that was restarted too.
    store.alpn = ()
    store.drop_all()
    with sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await until(lambda: "has spoken the native protocol before" in sender.said(), "it refuses")
        await sender.shows("protocol", "none")
        await sender.shows("waiting", "10")


async def test_the_c_programs_protocol_over_tls(tmp_path: Path, nursery: trio.Nursery) -> None:
    """An acknowledgement that never came: the record comes again under its number, which tells that it is the same."""
    store = Store(alpn=(), cut=50)
    port = await nursery.start(store.serve)
    with remote(tmp_path / "remote", port, heartbeat_timeout=1) as sender:
        await sender.ready()
        await sender.put(numbered(1, 500))
        await sender.shows("sent", "500")
        assert store.data == numbered(1, 500)
        assert store.cuts
        store.cut = 0
        await sender.shows("protocol", "rmw")
        await until(lambda: store.heartbeats > 1, "it gives signs of life")
    assert "falling back to rmw" in sender.said()


@pytest.mark.parametrize(("trouble", "stored"), [(Trouble.DISK_LOW, True), (Trouble.DISK_ERROR, False)])
async def test_trouble_of_a_c_server(tmp_path: Path, nursery: trio.Nursery, trouble: Trouble, stored: bool) -> None:
    store = Store(alpn=(), trouble=trouble)
    port = await nursery.start(store.serve)
    with remote(tmp_path / "remote", port, disk_low_action="warn_once") as sender:
        await sender.ready()
        await sender.put(numbered(1, 20))
        await sender.shows("waiting", "0" if stored else "20")
        await until(lambda: f"says {trouble.value}" in sender.said(), "it says so")
        store.trouble = None
        # It asks again by itself, with nothing that comes to make it.
        await sender.shows("waiting", "0")
        assert store.data == numbered(1, 20)


async def test_reload_suspend_and_resume(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store()
    port = await nursery.start(store.serve)
    folder = tmp_path / "remote"
    sender = remote(
        folder, free_port(), network_failure_action="suspend", startup_failure_action="ignore", max_tries_per_record=1
    )
    with sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await sender.shows("suspend", "yes")
        sender.change(port=port)
        sender.send(signal.SIGHUP)
        await until(lambda: "was read again" in sender.said(), "it has reloaded")
        assert not store.connections
        sender.send(signal.SIGUSR2)
        await until(lambda: store.data == numbered(1, 10), "it goes on")
        # A file with a mistake changes nothing.
        sender.change(port="nowhere")
        sender.send(signal.SIGHUP)
        await until(lambda: "stays what it was" in sender.said(), "it says so")
        await sender.put(numbered(11, 10))
        await until(lambda: store.data == numbered(1, 20), "it goes on all the same")


async def test_a_key_that_is_not_there_yet(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store()
    port = await nursery.start(store.serve)
    sender = remote(tmp_path / "remote", port)
    key = tmp_path / "remote" / "key"
    key.rename(tmp_path / "elsewhere")
    with sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await sender.shows("waiting", "10")
        await until(lambda: "cannot be opened" in sender.said(), "it says why")
        (tmp_path / "elsewhere").rename(key)
        await until(lambda: store.data == numbered(1, 10), "it goes on by itself")


async def test_what_was_dropped_is_a_gap_that_is_stated(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A full spool drops its oldest records; a collector that has those before is told, and takes what is left."""
    store = Store()
    port = await nursery.start(store.serve)
    sender = remote(tmp_path / "remote", port, overflow_action="drop_oldest", spool_size="16M")
    with sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await sender.shows("waiting", "0")
        store.stores = False
        number = 11
        while sender.state().get("lost", "0") == "0":
            block = heavy(number, 400)
            await sender.put(block.data)
            number += 400
            if number % 4_000 == 11:
                await sender.shows("unstored", "0")
        await sender.shows("unstored", "0")
        lost = int(sender.state()["lost"])
        assert lost > 100
        store.stores = True
        store.drop_all()
        await sender.shows("waiting", "0")
    (kept,) = store.streams.values()
    found = numbers_in(bytes(kept.data))
    assert found == [*range(1, 11), *range(11 + lost, number)]
    assert [(gap.first, gap.count, gap.reason) for gap in kept.gaps] == [(11, lost, "dropped")]
    assert b"op=lost plugin=audisp-remote count=%d " % lost in kept.data


async def test_away_from_home_nothing_is_tried(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store()
    port = await nursery.start(store.serve)
    with remote(tmp_path / "remote", port, home_network="203.0.113.0/24") as sender:
        await sender.ready()
        await sender.put(numbered(1, 10))
        await sender.shows("away", "yes")
        await sender.shows("waiting", "10")
        assert sender.state()["attempts"] == "0"
        sender.change(home_network="203.0.113.0/24 0.0.0.0/0")
        sender.send(signal.SIGHUP)
        await until(lambda: store.data == numbered(1, 10), "at home it goes on")


HOSTILE: Final[dict[str, bytes | None]] = {
    "leaves": b"",
    "says nothing": None,
    "speaks http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "sends zeros": bytes(1 << 16),
    "answers what was not asked": b"\xfe\x00\x00\xff\x00\x00\x00\x00\x00\x40\x00\x00\x63\x00\x00\x00",
    "sends half a frame": b"\xfe\x00\x00\xff\x00\x00\x00\x00\x00\x40\xff\x1f\x02\x00\x00\x00",
}


@pytest.mark.parametrize("transport", ["tls", "tcp"])
@pytest.mark.parametrize("what", HOSTILE)
async def test_servers_that_are_none(tmp_path: Path, nursery: trio.Nursery, what: str, transport: str) -> None:
    """Nothing is lost to them, and the sender goes on to the next attempt by itself."""
    said, attempts = HOSTILE[what], 0

    async def one(plain: trio.SocketStream) -> None:
        nonlocal attempts
        async with plain:
            attempts += 1
            if said is None:
                await trio.sleep_forever()
            try:
                await plain.send_all(said)
                if said:
                    await trio.sleep(0.2)
            except trio.BrokenResourceError:
                pass

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.CancelScope() as scope:
        nursery.start_soon(trio.serve_listeners, one, [listener])
        port = listener.socket.getsockname()[1]
        with remote(tmp_path / "remote", port, transport=transport, max_time_per_record=1) as sender:
            await sender.ready()
            await sender.put(numbered(1, 10))
            await until(lambda: attempts > 2, "it tries again")
            await sender.shows("waiting", "10")
            assert sender.ended() is None
            sender.kill()
        scope.cancel()
    assert "Traceback" not in sender.said()


async def test_a_spool_that_was_set_back(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store()
    port = await nursery.start(store.serve)
    sender = remote(tmp_path / "remote", port)
    for first in (1, 11):
        with sender:
            await sender.ready()
            await sender.put(numbered(first, 10))
            await sender.shows("sent", "10")
            sender.kill()
        if first == 1:
            shutil.copytree(sender.spool, tmp_path / "before")
    shutil.rmtree(sender.spool)
    shutil.copytree(tmp_path / "before", sender.spool)
    with sender:
        await sender.ready()
        await sender.put(numbered(21, 3))
        await sender.shows("waiting", "3")
        await until(lambda: "was set back" in sender.said(), "it is told why")
        assert store.data == numbered(1, 20)
        sender.kill()
    # As docs/remote.md has it: to be sent by the C programs' protocol, by hand.
    store.alpn = ()
    sender.change(protocol="rmw")
    with open("/dev/null", "rb") as null:  # noqa: ASYNC230 - it has nothing
        sender.start_on(null)
    assert await sender.over() == 0
    assert bytes(store.streams[b"rmw"].data) == numbered(21, 3)


async def test_a_successor_waits_for_the_spool(tmp_path: Path, nursery: trio.Nursery) -> None:
    store = Store(stores=False)
    port = await nursery.start(store.serve)
    first = remote(tmp_path / "remote", port)
    second = remote(tmp_path / "remote", port)
    with first:
        await first.ready()
        await first.put(numbered(1, 10))
        await first.shows("waiting", "10")
        first.close_feed()
        second.start()
        try:
            await second.put(numbered(11, 10))
            await until(lambda: "in use by process" in second.said(), "it waits")
            store.stores = True
            store.drop_all()
            assert await first.over() in (0, 1)
            await until(lambda: store.data == numbered(1, 20), "all have come")
        finally:
            second.close_feed()
            second.kill()
