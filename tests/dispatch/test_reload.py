"""SIGHUP: only what changed is restarted, a bad file keeps the old plugin, no record is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from audisp.dispatch import roster as roster_module
from audisp.dispatch.engine import Engine
from audisp.errors import PluginError
from audisp.record import Block
from tests.dispatch.test_engine import stream_of
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, World, entry


async def reload(engine: Engine, world: World) -> str:
    """Ask for a reload and wait for its end; returns what it did."""
    before = world.said.count("reload: ")
    said = [message for _, message in world.said.lines if message.startswith("reload: ")]
    engine.ask("reload")

    def done() -> bool:
        return any(
            level == "notice" or "stays as it was" in message
            for level, message in [line for line in world.said.lines if line[1].startswith("reload: ")][before:]
            if "what runs of it" not in message and "next start" not in message
        )

    await until(done, f"reload after {said}")
    return [message for _, message in world.said.lines if message.startswith("reload: ")][-1]


def steadily(feed: Feed) -> Block:
    """For `Feed.thread`: a stream that never pauses long."""
    time.sleep(0.0005)
    return feed.next(5, 80)


@asynccontextmanager
async def flowing(world: World) -> AsyncIterator[tuple[Engine, Feed]]:
    """An engine under a thread that offers all the time."""
    feed = Feed()
    feed.thread = steadily
    async with world.started(feed) as engine:
        await until(lambda: feed.serial > 50)
        yield engine, feed


async def more(feed: Feed, records: int = 200) -> None:
    """Let so many records more pass."""
    goal = feed.serial + records
    await until(lambda: feed.serial > goal)


def whole(data: bytes, feed: Feed, markers: int = 0) -> None:
    """The plugin got all, each once, in order."""
    stream = stream_of(data)
    assert stream.next == feed.serial + 1
    assert stream.markers == markers


async def test_nothing_changed_restarts_nothing(world: World) -> None:
    out, recorder = world.child("child"), world.recorder("inside")
    async with flowing(world) as (engine, feed):
        runners = [each.runner for each in engine.roster.entries.values()]
        assert await reload(engine, world) == "reload: nothing had changed"
        await more(feed)
        assert [each.runner for each in engine.roster.entries.values()] == runners
        assert recorder.opened == 1
    whole(recorder.got, feed)
    whole(out.read_bytes(), feed)
    assert b"type=DAEMON_CONFIG " in recorder.got
    assert b"op=reconfigure state=changed auid=? uid=? ses=? pid=? res=success" in recorder.got


async def test_only_what_changed_is_restarted_and_nothing_is_lost_or_doubled(world: World) -> None:
    names = ("one", "two", "three")
    outs = {name: world.child(name) for name in names}
    recorders = {name: world.recorder(f"in-{name}") for name in names}
    async with flowing(world) as (engine, feed):
        for number in range(4):
            before = {name: each.runner for name, each in engine.roster.entries.items()}
            changed = names[number % 3]
            world.child(changed, f"nice = {number}\n")
            world.recorder(f"in-{changed}", f"deliver_timeout = {30 + number}\n")
            said = await reload(engine, world)
            assert said == f"reload: in-{changed} restarted, {changed} restarted"
            after = {name: each.runner for name, each in engine.roster.entries.items()}
            assert {name for name in before if before[name] is not after[name]} == {changed, f"in-{changed}"}
            await more(feed)
    for name in names:
        whole(recorders[name].got, feed)
        whole(outs[name].read_bytes(), feed)


async def test_a_child_that_becomes_an_inner_plugin_and_back_misses_nothing(world: World) -> None:
    out = world.child("a")
    async with flowing(world) as (engine, feed):
        world.forget("a")
        recorder = world.recorder("a")
        assert await reload(engine, world) == "reload: a restarted"
        await more(feed)
        world.forget("a")
        world.child("a")
        assert await reload(engine, world) == "reload: a restarted"
        await more(feed)
    assert sorted(stream_numbers(out.read_bytes() + recorder.got)) == list(range(1, feed.serial + 1))
    assert recorder.got


async def test_plugins_come_and_go(world: World) -> None:
    stays = world.recorder("stays")
    goes = world.recorder("goes")
    async with flowing(world) as (engine, feed):
        world.forget("goes")
        comes = world.recorder("comes")
        assert await reload(engine, world) == "reload: comes started, goes ended"
        assert sorted(engine.roster.entries) == ["comes", "stays"]
        await more(feed)
    assert (goes.opened, goes.closed, comes.opened, stays.opened) == (1, 1, 1, 1)
    whole(stays.got, feed)
    got = stream_numbers(comes.got)
    assert got == list(range(got[0], feed.serial + 1))
    had = stream_numbers(goes.got)
    assert had == list(range(1, len(had) + 1))


def stream_numbers(data: bytes) -> list[int]:
    return [
        int(line.split(b":", 2)[1].split(b")")[0]) for line in data.splitlines() if line.startswith(b"type=SYSCALL")
    ]


@pytest.mark.parametrize("bad", ["active = perhaps\n", "queue_bytes = 1\n", "path = /nonexistent\n"])
async def test_a_bad_file_keeps_the_old_plugin(world: World, bad: str) -> None:
    recorder = world.recorder("a")
    other = world.recorder("b")
    async with flowing(world) as (engine, feed):
        world.recorder("a", bad)
        world.recorder("b", "deliver_timeout = 31\n")
        assert await reload(engine, world) == "reload: b restarted"
        assert world.said.heard("a.audisp:")
        await more(feed)
        assert recorder.opened == 1
        world.recorder("a")
        assert await reload(engine, world) == "reload: nothing had changed"
    whole(recorder.got, feed)
    whole(other.got, feed)


async def test_bad_settings_of_a_plugin_keep_the_old_one(world: World) -> None:
    """Which keys an inner plugin knows is known only when it is loaded."""
    recorder = world.recorder("a")
    async with flowing(world) as (engine, feed):
        world.recorder("a", "colour = red\n")
        assert await reload(engine, world) == "reload: a kept"
        assert world.said.heard("a.audisp:5: unknown key 'colour'")
        await more(feed)
        assert recorder.opened == 1
    whole(recorder.got, feed)


async def test_a_bad_main_file_changes_nothing(world: World) -> None:
    recorder = world.recorder("a")
    async with flowing(world) as (engine, feed):
        world.recorder("new")
        world.configure(auditd="q_depth = many\n")
        assert (await reload(engine, world)).endswith("everything stays as it was")
        await until(lambda: b"state=no-change" in recorder.got)
        assert list(engine.roster.entries) == ["a"]
    whole(recorder.got, feed)
    assert b"state=no-change auid=? uid=? ses=? pid=? res=failed" in recorder.got


async def test_a_folder_that_cannot_be_read_ends_no_plugin(world: World) -> None:
    recorder = world.recorder("a")
    folder = world.folder / "plugins.d"
    async with flowing(world) as (engine, feed):
        folder.rename(world.folder / "elsewhere")
        await reload(engine, world)
        assert list(engine.roster.entries) == ["a"]
        (world.folder / "elsewhere").rename(folder)
    whole(recorder.got, feed)


async def test_a_new_plugin_that_cannot_be_loaded_leaves_the_others_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = world.recorder("a")

    def load_type(name: str) -> object:
        if name == "bad":
            raise PluginError("SyntaxError")
        return world.load_type(name)

    monkeypatch.setattr(roster_module, "load_type", load_type)
    async with flowing(world) as (engine, feed):
        world.recorder("bad", "required = yes\n")
        world.recorder("z")
        assert await reload(engine, world) == "reload: bad not started, z started"
    whole(recorder.got, feed)


async def test_a_required_plugin_that_does_not_open_any_more_holds_the_stream_and_not_the_reload(world: World) -> None:
    broken = False

    def opening() -> None:
        if broken:
            raise OSError("not now")

    recorder = world.recorder("a", "required = yes\nqueue_bytes = 64K\n", opening=opening)
    other = world.recorder("b")
    async with flowing(world) as (engine, feed):
        broken = True
        world.recorder("a", "required = yes\nqueue_bytes = 64K\nmax_restarts = 1000\n")
        world.recorder("b", "deliver_timeout = 31\n")
        assert await reload(engine, world) == "reload: a restarted, b restarted"
        await until(lambda: engine.routes["feed"].waiting_for == "a")
        broken = False
        await more(feed, 1000)
    whole(recorder.got, feed)
    whole(other.got, feed)


async def test_a_failed_plugin_is_tried_again_by_a_reload(world: World) -> None:
    out = world.child("a", "max_restarts = 1\n", code="#!/bin/sh\nexit 3\n")
    async with flowing(world) as (engine, feed):
        await until(lambda: entry(engine, "a").runner.state == "failed")
        await more(feed)
        world.child("a", "max_restarts = 1\n")
        assert await reload(engine, world) == "reload: a restarted"
        await more(feed)
    got = stream_numbers(out.read_bytes())
    assert got == list(range(got[0], feed.serial + 1))
    marker = out.read_bytes().splitlines()[0]
    # DAEMON_START is lost, too, and has no place in the kernel's row of serials.
    assert b" count=%d first=1 last=%d reason=failed" % (got[0], got[0] - 1) in marker


async def test_a_reader_that_waits_for_a_plugin_that_goes_is_let_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster_module, "RELOAD_SECONDS", 0.05)
    monkeypatch.setattr("audisp.dispatch.inprocess.CLOSE_GRACE", 0.05)
    go = threading.Event()
    world.recorder("a", "required = yes\nqueue_bytes = 64K\n", before=lambda one: go.wait() and None)
    other = world.recorder("b")
    async with flowing(world) as (engine, feed):
        await until(lambda: engine.routes["feed"].waiting_for == "a")
        world.forget("a")
        assert await reload(engine, world) == "reload: a ended"
        await more(feed)
        assert engine.routes["feed"].waiting_for is None
    go.set()
    whole(other.got, feed)


async def test_a_reader_waits_for_a_required_plugin_until_it_works_again(world: World) -> None:
    fail = threading.Event()
    failures = 0

    def before(one: Block) -> None:
        nonlocal failures
        fail.wait()
        if failures < 2:
            failures += 1
            raise OSError("broken")

    keys = "required = yes\nqueue_bytes = 64K\nmax_restarts = 0\nrestart_delay = 0.01\nrestart_delay_max = 0.05\n"
    required = world.recorder("a", keys, before=before)
    other = world.recorder("b")
    async with flowing(world) as (engine, feed):
        await until(lambda: engine.routes["feed"].waiting_for == "a")
        fail.set()
        await more(feed)
        assert entry(engine, "a").runner.restarts.total == 2
        assert entry(engine, "a").intake.losses == {}
    whole(required.got, feed)
    whole(other.got, feed)


async def test_a_reader_is_let_go_when_the_plugin_is_required_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audisp.dispatch.inprocess.CLOSE_GRACE", 0.05)
    go = threading.Event()
    world.recorder("a", "required = yes\nqueue_bytes = 64K\n", before=lambda one: go.wait() and None)
    other = world.recorder("b")
    async with flowing(world) as (engine, feed):
        await until(lambda: engine.routes["feed"].waiting_for == "a")
        world.recorder("a", "queue_bytes = 64K\n")
        assert await reload(engine, world) == "reload: a restarted"
        await more(feed)
        await until(lambda: entry(engine, "a").intake.dropped)
        go.set()
    whole(other.got, feed)


async def test_other_bounds_take_effect_and_wake_who_waits(world: World) -> None:
    go = threading.Event()
    recorder = world.recorder("a", "required = yes\nqueue_bytes = 64K\n")
    slow = world.recorder("b", "queue_bytes = 64K\n", before=lambda one: go.wait() and None)
    go.set()
    async with flowing(world) as (engine, feed):
        world.recorder("a", "required = yes\nqueue_bytes = 1M\nqueue_records = 100\n")
        world.recorder("b", "queue_bytes = 4M\noverflow_action = drop_oldest\n")
        await reload(engine, world)
        queue = entry(engine, "a").intake.queue
        assert (queue.max_bytes, queue.max_records) == (1 << 20, 100)
        intake = entry(engine, "b").intake
        assert (intake.queue.max_bytes, intake.policy) == (4 << 20, "drop_oldest")
        await more(feed)
    whole(recorder.got, feed)
    whole(slow.got, feed)


async def test_the_action_of_an_overflow_changes_with_the_file(world: World) -> None:
    go = threading.Event()
    world.recorder("a", "queue_bytes = 64K\noverflow_action = halt\n", before=lambda one: go.wait() and None)
    go.set()
    async with flowing(world) as (engine, _):
        world.recorder("a", "queue_bytes = 64K\noverflow_action = drop_newest\n")
        await reload(engine, world)
        go.clear()
        await until(lambda: entry(engine, "a").intake.dropped)
        go.set()
    assert world.acts == []


async def test_reload_while_a_queue_overflows_keeps_the_order_and_the_marker(world: World) -> None:
    blocked = True

    def before(one: Block) -> None:
        while blocked:
            time.sleep(0.01)

    recorder = world.recorder("a", "queue_bytes = 64K\n", before=before)
    async with flowing(world) as (engine, feed):
        await until(lambda: entry(engine, "a").intake.dropped > 100)
        world.recorder("a", "queue_bytes = 128K\n")
        engine.ask("reload")
        await trio.sleep(0.05)
        blocked = False
        await until(lambda: world.said.heard("reload: a restarted"))
        await until(entry(engine, "a").intake.idle)
        await more(feed)
    stream = stream_of(recorder.got)
    assert stream.next == feed.serial + 1
    assert stream.markers >= 1


async def test_spill_goes_on_and_off_by_reload(world: World) -> None:
    pace = [0.0]
    recorder = world.recorder("a", "queue_bytes = 8M\n", before=lambda one: time.sleep(pace[0]))
    async with flowing(world) as (engine, feed):
        world.recorder("a", "queue_bytes = 256K\noverflow_action = spill\nspill_bytes = 64M\n")
        assert await reload(engine, world) == "reload: a restarted"
        intake = entry(engine, "a").intake
        pace[0] = 1.0
        await until(lambda: intake.disk > 100)
        pace[0] = 0.0
        world.recorder("a", "queue_bytes = 8M\n")
        assert await reload(engine, world) == "reload: a restarted"
        await until(lambda: not intake.spilling)
        assert intake.policy == "drop_newest"
        await more(feed)
        world.recorder("a", "queue_bytes = 256K\noverflow_action = spill\n")
        assert await reload(engine, world) == "reload: a restarted"
        await more(feed)
    whole(recorder.got, feed)
    assert entry(engine, "a").intake.disk == 0


async def test_a_plugin_that_spills_misses_nothing_for_having_been_given_up(world: World) -> None:
    spill = "overflow_action = spill\nqueue_bytes = 1M\nmax_restarts = 1\n"
    out = world.child("a", spill, code="#!/bin/sh\nexit 3\n")
    async with flowing(world) as (engine, feed):
        intake = entry(engine, "a").intake
        await until(lambda: entry(engine, "a").runner.state == "failed" and intake.disk > 100)
        assert world.said.heard("its records are spilled")
        world.child("a", spill)
        assert await reload(engine, world) == "reload: a restarted"
        await until(lambda: not intake.disk)
    whole(out.read_bytes(), feed)


async def test_a_spill_whose_folder_is_not_private_is_refused_and_the_plugin_runs(world: World) -> None:
    recorder = world.recorder("a", "overflow_action = spill\n")
    (world.folder / "spill").mkdir(0o700)
    (world.folder / "spill" / "a").mkdir(0o755)
    async with flowing(world) as (engine, feed):
        assert entry(engine, "a").intake.policy == "drop_newest"
    assert world.said.heard("plugin a: runs without spill", "error")
    whole(recorder.got, feed)


async def test_a_plugin_that_spills_gets_at_the_next_start_what_waited(world: World) -> None:
    go = threading.Event()

    def before(one: Block) -> None:
        if not go.wait(0.05):
            raise OSError("not yet")

    world.configure(own="drain_timeout = 0.2\n")
    world.recorder("a", "queue_bytes = 1M\noverflow_action = spill\nmax_restarts = 1000\n", before=before)
    # Never put aside: as a plugin that cannot be reached.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audisp.dispatch.inprocess.POISON_ATTEMPTS", 10**9)
        patch.setattr("audisp.dispatch.inprocess.CLOSE_GRACE", 0.5)
        async with flowing(world) as (engine, feed):
            await until(lambda: entry(engine, "a").intake.disk > 100)
        assert entry(engine, "a").intake.disk == entry(engine, "a").intake.books().waiting
        go.set()
        assert world.said.heard("records wait on disk for its next start")
        world.recorder("a", "queue_bytes = 1M\n")
        async with world.started(Feed()):
            assert world.said.heard("delivered only with overflow_action = spill", "warning")
        world.recorder("a", "queue_bytes = 1M\noverflow_action = spill\n")
        world.configure()
        again = Feed()
        async with world.started(again) as second:
            intake = entry(second, "a").intake
            assert intake.carried > 0
            await until(lambda: not intake.disk)
    numbers = stream_numbers(world.recorders["a"].got)
    assert numbers == list(range(1, feed.serial + 1))
    assert world.recorders["a"].got.count(b"op=start") == 3


async def test_folders_and_sources_stay_until_the_next_start(world: World) -> None:
    world.recorder("a")
    async with flowing(world) as (engine, feed):
        own = engine.plan.own
        world.configure(own=f"state_dir = {world.folder}/other\n")
        assert await reload(engine, world) == "reload: nothing had changed"
        assert not world.said.heard("at the next start")
        world.configure(own="rcvbuf = 1M\n")
        await reload(engine, world)
        assert world.said.heard("take effect at the next start")
        assert (engine.plan.own.runtime_dir, engine.plan.own.state_dir, engine.plan.own.spill_dir) == (
            own.runtime_dir,
            own.state_dir,
            own.spill_dir,
        )
        await more(feed)


async def test_reloads_one_after_the_other_lose_and_double_nothing(world: World) -> None:
    outs = [world.child(f"c{number}") for number in range(2)]
    recorder = world.recorder("inside")
    async with flowing(world) as (engine, feed):
        for number in range(12):
            world.child(f"c{number % 2}", f"nice = {number}\n")
            world.recorder("inside", f"deliver_timeout = {30 + number}\n")
            engine.ask("reload")
            await trio.sleep(0.02)
        runner = entry(engine, "inside").runner
        world.recorder("inside", "deliver_timeout = 99\n")
        engine.ask("reload")
        await until(lambda: entry(engine, "inside").runner is not runner)
        await more(feed)
    for out in outs:
        whole(out.read_bytes(), feed)
    whole(recorder.got, feed)
