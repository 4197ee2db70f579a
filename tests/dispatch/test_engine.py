"""The whole engine inside the test: start, stream, commands, end."""

from __future__ import annotations

import json
import threading
import time

import pytest
import trio

from audisp.dispatch import ledger
from audisp.dispatch import roster as roster_module
from audisp.errors import PluginError, SourceError
from audisp.record import Block
from audisp.sources.contract import Route
from tests.dispatch.intakes import Stream
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, World, entry, kernel_lines


def stream_of(data: bytes) -> Stream:
    stream = Stream()
    stream.add(kernel_lines(data))
    return stream


async def test_every_plugin_gets_the_whole_stream_between_start_and_end(world: World) -> None:
    out = world.child("child")
    thread, loop = world.recorder("thread"), world.recorder("loop", asynchronous=True)
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.send(200)
        await until(lambda: feed.books.routed == 2000)
    for data in (out.read_bytes(), thread.got, loop.got):
        assert stream_of(data).next == 2001
        lines = data.splitlines()
        assert lines[0].startswith(b"type=DAEMON_START ")
        assert b" op=start ver=" in lines[0]
        assert lines[-1].startswith(b"type=DAEMON_END ")
        assert len(lines) == 2002
    assert engine.problem is None
    books = ledger.read(world.run / "state")
    assert books.clean
    assert {name: each["delivered"] for name, each in books.plugins.items()} == dict.fromkeys(
        ("child", "loop", "thread"), 2002
    )
    assert not (world.run / "control.sock").exists()


async def test_the_engine_ends_when_its_last_source_does(world: World) -> None:
    recorder = world.recorder("a")
    feeds = Feed(), Feed(name="other")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            engine = world.engine(*feeds)
            await nursery.start(engine.run)
            await feeds[0].send(3)
            feeds[0].end()
            await trio.sleep(0.05)
            await feeds[1].send(0)
            feeds[1].end()
    assert stream_of(recorder.got).next == 31


async def test_a_replayed_source_waits_for_everybody_and_loses_nothing(world: World) -> None:
    out = world.child("child", "queue_bytes = 64K\n")
    slow = world.recorder("slow", "queue_bytes = 64K\n", before=lambda one: time.sleep(0.002))
    feed = Feed("replay")
    async with world.started(feed) as engine:
        await feed.send(900, 10, 700)
        await until(lambda: feed.books.routed == 9000)
        assert entry(engine, "slow").intake.dropped == 0
    assert stream_of(slow.got).next == stream_of(out.read_bytes()).next == 9001


async def test_a_live_source_waits_for_the_required_alone(world: World) -> None:
    """Also from a thread, as netlink: the required plugin has all, the others their queues and markers."""
    required = world.recorder("needed", "required = yes\nqueue_bytes = 64K\n", before=lambda one: time.sleep(0.001))
    taken, go = threading.Event(), threading.Event()

    def stop(_one: object) -> None:
        taken.set()
        go.wait()

    def feeding(self: Feed) -> Block | None:
        # A batch taken later would make room in a queue that has been full, and be followed by a second marker.
        taken.wait(20)
        if self.serial < 20_000:
            return self.next(20, 200)
        self.idle()
        return None

    stopped = world.recorder("stopped", "queue_bytes = 64K\n", before=stop)
    feed = Feed()
    feed.thread = feeding
    async with world.started(feed) as engine:
        await until(lambda: feed.books.routed == 20_000)
        assert entry(engine, "stopped").intake.dropped > 0
        assert entry(engine, "stopped").intake.queue.bytes <= 65_536
        go.set()
        # DAEMON_END must find room, or the marker counts it, too.
        await until(entry(engine, "stopped").intake.idle)
    assert stream_of(required.got).markers == 0
    assert stream_of(required.got).next == 20_001
    assert stream_of(stopped.got).next == 20_001
    assert stream_of(stopped.got).markers == 1


async def test_the_end_does_not_wait_for_a_required_plugin_that_never_returns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audisp.dispatch.inprocess.CLOSE_GRACE", 0.1)
    world.configure(own="drain_timeout = 0.2\n")
    taken, go = threading.Event(), threading.Event()

    def stop(_one: object) -> None:
        taken.set()
        go.wait()

    def feeding(self: Feed) -> Block:
        taken.wait(20)  # a batch taken later would make room, and the source would go on
        return self.next(20, 900)

    world.recorder("needed", "required = yes\nqueue_bytes = 64K\n", before=stop)
    feed = Feed()
    feed.thread = feeding
    with trio.fail_after(20):
        async with world.started(feed) as engine:
            await until(lambda: engine.routes["feed"].waiting_for == "needed")
    go.set()
    assert feed.books.detail["unread"] == "stopped"
    assert world.said.heard("were not delivered before the end (shutdown)")
    assert world.said.heard("left to itself")


async def test_a_required_plugin_that_cannot_be_opened_ends_the_start(world: World) -> None:
    def fail() -> None:
        raise OSError("no disk")

    world.recorder("needed", "required = yes\n", opening=fail)
    world.child("child")
    with pytest.raises(ExceptionGroup) as raised:
        await world.engine(Feed()).run()
    assert raised.group_contains(PluginError, match="plugin needed: OSError: no disk")


async def test_a_plugin_that_cannot_be_loaded_costs_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = world.recorder("good")
    world.recorder("bad")

    def load_type(name: str) -> object:
        if name == "bad":
            raise PluginError("plugin bad: cannot be imported: SyntaxError")
        return world.load_type(name)

    monkeypatch.setattr(roster_module, "load_type", load_type)
    feed = Feed()
    async with world.started(feed):
        await feed.send(2)
    assert world.said.heard("plugin bad: not started: plugin bad: cannot be imported", "error")
    assert stream_of(recorder.got).next == 21


async def test_a_plugin_that_takes_long_to_open_holds_the_start_only_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster_module, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr("audisp.dispatch.inprocess.CLOSE_GRACE", 0.05)
    world.configure(own="drain_timeout = 0.1\n")
    world.recorder("good")
    slow = world.recorder("slow")
    plugin_type = world.recorders["slow"].type()
    del slow

    def load_type(name: str) -> object:
        if name != "slow":
            return world.load_type(name)
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def never(settings: object, host: object):  # type: ignore[no-untyped-def]
            await trio.sleep(3600)
            yield

        return type(plugin_type)("slow", plugin_type.config, never)

    monkeypatch.setattr(roster_module, "load_type", load_type)
    feed = Feed()
    with trio.fail_after(20):
        async with world.started(feed) as engine:
            await feed.send(2)
            await until(lambda: entry(engine, "slow").intake.books().waiting == 21)
    assert world.said.heard("plugin slow: is not open after 0.05 s")
    assert stream_of(world.recorders["good"].got).next == 21


async def test_a_source_that_cannot_be_opened_ends_the_start_and_one_that_fails_later_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audisp.dispatch.engine.SOURCE_RETRY", 0.01)
    world.recorder("a")

    class Broken(Feed):
        async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            raise SourceError("no such thing")

    with pytest.raises(ExceptionGroup) as raised:
        await world.engine(Broken()).run()
    assert raised.group_contains(SourceError)

    class Flaky(Feed):
        runs = 0

        async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            self.runs += 1
            task_status.started()
            if self.runs < 3:
                raise SourceError("reset by peer")
            await super().run(route)

    feed = Flaky()
    async with world.started(feed):
        await feed.send(1)
        await until(lambda: feed.books.routed)
    assert feed.runs == 3
    assert world.said.count("reset by peer") == 2


async def test_a_replay_that_breaks_off_is_a_problem(world: World) -> None:
    world.recorder("a")

    class Torn(Feed):
        async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            raise SourceError("input/output error")

    with trio.fail_after(20):
        async with world.started(Torn("replay")) as engine:
            await trio.sleep(0.05)
    assert engine.problem == "source feed: input/output error"


async def test_commands_reach_the_plugins_and_leave_records(world: World) -> None:
    recorder = world.recorder("a")
    feed = Feed()
    async with world.started(feed) as engine:
        for command in ("rotate", "resume", "state"):
            engine.ask(command)
        await until(lambda: recorder.commands == ["rotate", "resume"])
        await until(lambda: (world.run / "auditd.state").exists())
        text = (world.run / "auditd.state").read_text()
        assert "plugin a = running offered " in text
        assert "Number of active plugins = 1\n" in text
    assert b"type=DAEMON_ROTATE " in recorder.got
    assert b" op=rotate-logs auid=" in recorder.got
    assert b"type=DAEMON_RESUME " in recorder.got


async def test_a_flood_of_commands_is_done_once_and_keeps_no_other_from_being_heard(world: World) -> None:
    recorder = world.recorder("a")
    with trio.fail_after(20):
        async with world.started(Feed()) as engine:
            for _ in range(1000):
                engine.ask("rotate")
                engine.ask("reload", signalled=True)
            engine.ask("stop")
    assert recorder.commands == ["rotate"]
    assert world.said.count("reload: ") == 1


async def test_a_full_queue_suspends_if_it_is_told_to_and_resume_goes_on(world: World) -> None:
    go = threading.Event()
    recorder = world.recorder(
        "a", "queue_bytes = 64K\noverflow_action = suspend\n", before=lambda one: go.wait() and None
    )
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.send(500)
        await until(lambda: feed.books.routed == 5000)
        intake = entry(engine, "a").intake
        assert intake.refusing == "suspended"
        assert set(intake.losses) == {"overflow", "suspended"}
        go.set()
        await until(lambda: not intake.queue)
        engine.ask("resume")
        await until(lambda: intake.refusing is None)
        await feed.send(1)
    await until(lambda: world.acts)
    assert world.acts == [("syslog", "queue of plugin a is full")]
    assert stream_of(recorder.got).next == 5011


@pytest.mark.parametrize("action", ["single", "halt"])
async def test_a_full_queue_can_halt_the_machine(world: World, action: str) -> None:
    go = threading.Event()
    world.recorder("a", f"queue_bytes = 64K\noverflow_action = {action}\n", before=lambda one: go.wait() and None)
    feed = Feed()
    async with world.started(feed):
        await feed.send(500)
        await until(lambda: world.acts)
        go.set()
    assert set(world.acts) == {(action, "queue of plugin a is full")}


async def test_losses_are_said_with_their_numbers(world: World) -> None:
    go = threading.Event()
    world.recorder("a", "queue_bytes = 64K\n", before=lambda one: go.wait() and None)
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.send(500)
        await until(lambda: feed.books.routed == 5000)
        engine.roster.tick()
        dropped = entry(engine, "a").intake.dropped
        assert world.said.heard(f"queue to plugin a is full - dropping records: {dropped} more, {dropped} in all")
        engine.roster.tick()
        assert world.said.count("queue to plugin a is full") == 1
        go.set()


async def test_the_snapshot_is_plain_data_and_survives_a_plugin_whose_state_fails(world: World) -> None:
    def fail() -> dict[str, str]:
        raise ValueError("state")

    world.recorder("bad", state=fail)
    world.recorder("good", state=lambda: {"clients": "3"})
    world.child("child")
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.send(2)
        await until(lambda: feed.books.routed == 20)
        found = json.loads(json.dumps(engine.snapshot()))
        assert found["plugins"]["bad"]["detail"] == {"state": "failed: ValueError: state"}
        assert found["plugins"]["good"]["detail"] == {"clients": "3"}
        assert found["plugins"]["child"]["kind"] == "child"
        assert len(found["plugins"]["child"]["pids"]) == 1
        assert found["sources"]["feed"]["routed"] == 20
        engine.ask("state")


async def test_what_a_plugin_emits_goes_to_the_others(world: World) -> None:
    first, second = world.recorder("first"), world.recorder("second")

    def emit(one: Block) -> None:
        if b"type=SYSCALL" in one.data:
            first.host.emit(1700, 'op=alert what="x"\ntype=FORGED msg=audit(1.0:1): \0')

    first.before = emit
    feed = Feed()
    async with world.started(feed):
        await feed.send(1)
        await until(lambda: b"op=alert" in second.got)
    line = next(one for one in second.got.splitlines() if b"op=alert" in one)
    assert b": emitter=first op=alert" in line
    assert b"type=FORGED" in line
    assert b"op=alert" not in first.got


async def test_books_are_written_while_it_runs_and_say_that_it_did_not_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audisp.dispatch.engine.TICK", 0.02)
    world.recorder("a")
    feed = Feed()
    async with world.started(feed):
        await feed.send(1)
        await until(lambda: ledger.read(world.run / "state").plugins["a"]["delivered"] == 11)
        assert not ledger.read(world.run / "state").clean


async def test_books_that_cannot_be_written_are_said_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audisp.dispatch.engine.TICK", 0.01)
    world.recorder("a")
    async with world.started(Feed()) as engine:
        (world.run / "state").rename(world.run / "elsewhere")
        await until(lambda: world.said.heard("the books cannot be written"))
        await trio.sleep(0.1)
        assert engine.problem is None
        (world.run / "elsewhere").rename(world.run / "state")
    assert world.said.count("the books cannot be written") == 1
