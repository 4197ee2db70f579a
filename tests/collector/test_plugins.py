"""Plugins behind the store: each gets what is stored, from where it was, whatever the others do."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from audisp.collector import pursuit, recent
from audisp.collector.store_frames import Unnumbered
from audisp.record import Block
from tests.collector.behind import behind, event, numbered
from tests.collector.running import RmwClientOf, connect, connect_plain
from tests.collector.stores import NANO, SECOND, Host, Tiny, record
from tests.dispatch.voices import until
from tests.dispatch.worlds import World, kernel_lines

pytestmark = pytest.mark.timeout(120, func_only=True)


def lines(data: bytes) -> list[bytes]:
    """Without the collector's own records."""
    return [line for line in kernel_lines(data).splitlines(keepends=True) if b"op=lost" not in line]


def own(data: bytes, word: bytes = b"type=DAEMON_") -> list[bytes]:
    return [line for line in data.splitlines() if word in line]


def sent(identity: str, data: bytes) -> Unnumbered:
    """As a C program's."""
    return Unnumbered(identity, data, SECOND * NANO)


async def got(recorder: Any, count: int) -> None:
    await until(lambda: len(lines(recorder.got)) >= count, f"{recorder.name} has {len(lines(recorder.got))} of {count}")


async def test_every_plugin_gets_what_is_stored(world: World) -> None:
    first, second, child = world.recorder("a"), world.recorder("b", wants="events"), world.child("c")
    web = Host("web1")
    async with behind(world) as server:
        await server.store(web.item(3), web.item(2), web.gap(5), web.item(4))
        await got(first, 9)
        await got(second, 9)
        await until(lambda: len(lines(child.read_bytes())) == 9)
        expected = [*numbered(1, 5), *numbered(11, 4)]
        assert lines(first.got) == lines(second.got) == lines(child.read_bytes()) == expected
        assert own(first.got)[0].startswith(b"type=DAEMON_START ")
        assert {one.origin for one in second.events} == {"web1", "internal"}
        books = server.entry("a").intake.books()
        assert (books.dropped, books.waiting) == (0, 0)
    assert own(first.got)[-1].startswith(b"type=DAEMON_END ")


async def test_two_hosts_of_one_name_are_two_origins(world: World) -> None:
    """The same node, times and serials, and their records interlaced."""
    recorder = world.recorder("a", wants="events")
    one, other = event(7, "same", "one").splitlines(keepends=True), event(7, "same", "two").splitlines(keepends=True)
    async with behind(world) as server:
        for mine, theirs in zip(one, other, strict=True):
            await server.store(sent("web1", mine), sent("web2", theirs))
        await got(recorder, 6)
    events = [(each.origin, each.raw) for each in recorder.events if each.origin != "internal"]
    assert events == [("web1", b"".join(one)), ("web2", b"".join(other))]


async def test_one_host_only(world: World) -> None:
    everybody, one = world.recorder("all"), world.recorder("one", "hosts = db1 addr:*\n")
    async with behind(world) as server:
        await server.store(sent("web1", record(1)), sent("db1", record(2)), sent("addr:10.0.0.1", record(3)))
        await got(everybody, 3)
        await got(one, 2)
        books = server.entry("one").intake.books()
        assert books.filtered == 1
    assert lines(one.got) == [record(2), record(3)]


async def test_filters_and_shapes(world: World) -> None:
    kept = world.recorder("kept", "filter_keep = key i= wanted\n")
    shaped = world.child("shaped", "shape = text\n")
    async with behind(world) as server:
        await server.store(
            sent("web1", event(1, key="wanted") + event(2, key="other")), sent("db1", event(3, key="wanted"))
        )
        await got(kept, 6)
        await until(lambda: shaped.exists() and len(shaped.read_bytes().splitlines()) >= 3)
    assert lines(kept.got) == [
        *event(1, key="wanted").splitlines(keepends=True),
        *event(3, key="wanted").splitlines(keepends=True),
    ]


class Gate:
    """Lets blocks through once it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, one: Block) -> None:
        if b"type=DAEMON_" not in one.data:
            assert self.open.wait(60)


async def test_a_stopped_plugin_delays_nobody_and_catches_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets all of it, in order, once, out of the segments; memory and its queue hold a part."""
    monkeypatch.setattr(recent, "MAX_BYTES", 4_000)
    monkeypatch.setattr(recent.Recent.__init__, "__kwdefaults__", {"max_bytes": 4_000, "max_pieces": 100})
    gate = Gate()
    slow, quick = world.recorder("slow", "queue_bytes = 64K\n", before=gate), world.recorder("quick", wants="events")
    slow_events = world.recorder("slow-events", "queue_bytes = 64K\n", before=gate, wants="events")
    web, db = Host("web1"), Host("db1")
    async with behind(world) as server:
        server.collector.network.committer.store.bound(Tiny(), 0, 100)
        for _ in range(150):
            await server.store(web.item(20, size=200), db.item(3))
        await got(quick, 150 * 23)
        assert server.entry("slow").intake.books().delivered <= 20
        view = server.collector.engine.snapshot()["plugins"]["slow"]["detail"]
        assert view["fed from"] == "segments"
        assert int(view["behind"].replace(",", "")) > 1_000
        gate.open.set()
        await got(slow, 150 * 23)
        await got(slow_events, 150 * 23)
        await until(lambda: server.collector.engine.snapshot()["plugins"]["slow"]["detail"]["fed from"] == "memory")
        await server.store(web.item(5))
        await got(slow, 150 * 23 + 5)
        assert server.entry("slow").intake.books().dropped == 0
    expected = sorted(lines(quick.got))
    # In the order of the store, each host's records in theirs.
    by_web = [line for line in lines(slow.got) if len(line) > 150]
    assert by_web == sorted(by_web, key=lambda line: int(line.split(b":")[1].split(b")")[0]))
    assert sorted(lines(slow.got)) == sorted(lines(slow_events.got)) == expected


async def test_a_restart_goes_on_where_it_was(world: World) -> None:
    recorder = world.recorder("a")
    web = Host("web1")
    async with behind(world) as server:
        await server.store(web.item(10))
        await got(recorder, 10)
    async with behind(world) as server:
        await server.store(web.item(10))
        await got(recorder, 20)
    assert lines(recorder.got) == numbered(1, 20)


async def test_what_a_plugin_did_not_take_before_the_end_comes_after_it(world: World) -> None:
    gate = Gate()
    recorder = world.recorder("a", "deliver_timeout = 1\n", before=gate)
    web = Host("web1")
    async with behind(world, drain_timeout=0.1) as server:
        for _ in range(10):
            await server.store(web.item(10))
        await until(lambda: server.entry("a").intake.waiting())
    assert server.said.heard("wait in the store for its next start")
    gate.open.set()
    await trio.sleep(0.1)
    recorder.data.clear()
    async with behind(world) as server:
        await got(recorder, 100)
        await trio.sleep(0.1)
    assert lines(recorder.got) == numbered(1, 100)


async def test_after_a_kill_nothing_is_left_out(world: World) -> None:
    """What was open, or waited, comes again."""
    recorder = world.recorder("a", wants="events")
    parts = event(2).splitlines(keepends=True)
    async with behind(world, killed=True) as server:
        await server.store(sent("web1", event(1)), sent("web1", parts[0]))
        await got(recorder, 3)
        await trio.sleep(1.2)
    recorder.data.clear()
    recorder.events.clear()
    async with behind(world) as server:
        await server.store(sent("web1", b"".join(parts[1:])))
        await got(recorder, 3)
    assert [each.raw for each in recorder.events if each.origin == "web1"][-1] == event(2)


async def test_a_new_plugin_begins_with_what_is_new(world: World) -> None:
    world.recorder("a")
    web = Host("web1")
    async with behind(world) as server:
        await server.store(web.item(10))
    later = world.recorder("later")
    async with behind(world) as server:
        await server.store(web.item(3))
        await got(later, 3)
    assert lines(later.got) == numbered(11, 3)


async def test_retention_that_is_faster_is_a_loss_that_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent.Recent.__init__, "__kwdefaults__", {"max_bytes": 1_000, "max_pieces": 10})
    gate = Gate()
    slow = world.recorder("slow", "queue_bytes = 64K\n", before=gate)
    web = Host("web1")
    async with behind(world) as server:
        store = server.collector.network.committer.store
        store.bound(Tiny(max_bytes=40_000), 0, 100)
        for _ in range(300):
            await server.store(web.item(20, size=200))
        gate.open.set()
        await until(lambda: b":6000):" in slow.got)
        books = server.entry("slow").intake.books()
        assert books.dropped > 0
        assert server.entry("slow").intake.losses == {"retention": books.dropped}
        found = lines(slow.got)
        assert len(found) + books.dropped == 6_000
        markers = own(slow.got, b"op=lost plugin=slow")
        assert sum(int(each.partition(b"count=")[2].split()[0]) for each in markers) == books.dropped
        assert all(b"reason=retention" in each for each in markers)


async def test_a_plugin_that_crashes_harms_nobody(world: World) -> None:
    steady = world.recorder("steady")
    world.child("dies", "max_restarts = 2\n", code="#!/bin/sh\nexit 1\n")

    def poison(one: Block) -> None:
        if b"type=DAEMON_" not in one.data:
            raise ValueError("no")

    world.recorder("raises", "max_restarts = 2\n", before=poison)
    web = Host("web1")
    async with behind(world) as server:
        for _ in range(20):
            await server.store(web.item(10))
        await got(steady, 200)
        await until(lambda: server.entry("dies").runner.state == "failed")
        await until(lambda: server.entry("raises").runner.state == "failed")
        assert server.said.heard("kept in the store")
        assert server.entry("dies").intake.books().dropped == 0
        kept = world.child("dies")
        server.collector.engine.ask("reload")
        await until(lambda: kept.exists() and len(lines(kept.read_bytes())) == 200)
    assert lines(kept.read_bytes()) == numbered(1, 200)


async def test_reload_keeps_the_place(world: World) -> None:
    recorder, web = world.recorder("a"), Host("web1")
    async with behind(world) as server:
        await server.store(web.item(10))
        await got(recorder, 10)
        world.recorder("a", "hosts = web2\n")
        server.collector.engine.ask("reload")
        await until(lambda: server.said.heard("a restarted"))
        await server.store(web.item(10), sent("web2", record(99)))
        await until(lambda: b":99)" in recorder.got)
        world.recorder("a")
        server.collector.engine.ask("reload")
        await until(lambda: server.said.count("a restarted") == 2)
        await server.store(web.item(1))
        await until(lambda: b":21)" in recorder.got)
    assert lines(recorder.got) == [*numbered(1, 10), record(99), *numbered(21, 1)]


async def test_who_comes_and_goes_is_told(world: World) -> None:
    recorder = world.recorder("a")
    async with behind(world, handshake_timeout=0.5) as server:
        async with RmwClientOf(await connect_plain(server.port)):
            await until(lambda: own(recorder.got, b"type=DAEMON_ACCEPT"))
        await until(lambda: own(recorder.got, b"type=DAEMON_CLOSE"))
        async with await connect(server.port, "web1"):
            await until(lambda: len(own(recorder.got, b"type=DAEMON_ACCEPT")) == 2)
        await until(lambda: len(own(recorder.got, b"type=DAEMON_CLOSE")) == 2)
        stream = await connect_plain(server.port)
        await stream.send_all(b"\x16\x03\x01\x00\x01x")
        await until(lambda: own(recorder.got, b"res=no"))
        await stream.aclose()
    plain, tls, refused = own(recorder.got, b"type=DAEMON_ACCEPT")
    assert b" addr=127.0.0.1 port=" in plain
    assert plain.endswith(b" res=success")
    for word in (
        b"op=tls-accept res=success role=collector",
        b" id=web1 profile=compatible",
        b"auth=psk",
        b"cipher=TLS_",
    ):
        assert word in tls
    assert b"op=accept res=no" in refused


async def test_what_others_lost_is_not_ones_own_loss(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention takes of the loud host; who wants the quiet one is told of no loss, and has all of it."""
    monkeypatch.setattr(recent.Recent.__init__, "__kwdefaults__", {"max_bytes": 1_000, "max_pieces": 10})
    gate = Gate()
    quiet = world.recorder("quiet", "hosts = db1\nqueue_records = 1\n", before=gate)
    loud, db = Host("web1"), Host("db1")
    async with behind(world) as server:
        server.collector.network.committer.store.bound(Tiny(max_bytes=60_000), 0, 100)
        for number in range(200):
            await server.store(loud.item(20, size=200), *([db.item(1)] if number % 40 == 0 else []))
        gate.open.set()
        await got(quiet, 5)
        await until(lambda: server.entry("quiet").intake.books().waiting == 0)
        assert server.entry("quiet").intake.losses == {}
    assert lines(quiet.got) == numbered(1, 5)


async def test_a_defect_on_one_plugin_s_way_costs_that_plugin_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is tried again, from where it was."""
    monkeypatch.setattr(pursuit, "FAILED_SECONDS", 0.05)
    bad, good = world.recorder("bad"), world.recorder("good")
    broken, real = True, pursuit.Pursuit._take

    def take(self: pursuit.Pursuit, pieces: Any) -> None:
        if broken and self.entry.conf.name == "bad":
            raise KeyError("defect")
        real(self, pieces)

    monkeypatch.setattr(pursuit.Pursuit, "_take", take)
    web = Host("web1")
    async with behind(world) as server:
        await server.store(web.item(5))
        await got(good, 5)
        await until(lambda: server.said.heard("plugin bad: cannot be fed: a defect of ours: KeyError('defect')"))
        broken = False
        await got(bad, 5)
    assert lines(bad.got) == lines(good.got) == numbered(1, 5)


async def test_a_place_that_cannot_be_read_begins_with_the_oldest(world: World) -> None:
    recorder, web = world.recorder("a"), Host("web1")
    async with behind(world) as server:
        await server.store(web.item(10))
        await got(recorder, 10)
    cursor = world.run / "state" / "cursors" / "a" / "cursor"
    cursor.write_bytes(b"x" * len(cursor.read_bytes()))
    recorder.data.clear()
    async with behind(world) as server:
        assert server.said.heard("plugin a: its place cannot be read; it begins with the oldest record")
        await got(recorder, 10)
    assert lines(recorder.got) == numbered(1, 10)
