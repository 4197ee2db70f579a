"""The runner of an in-process plugin: acknowledgement, refusals, failures, and plugins that do not come back."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from audisp.config.plugins import PluginConf
from audisp.dispatch import inprocess
from audisp.dispatch.host import PluginHost
from audisp.dispatch.inprocess import InProcessRunner
from audisp.dispatch.intake import Intake
from audisp.dispatch.restart import Restarts
from audisp.plugin import Delivery, PluginType, Reject, Retry
from audisp.record import Block
from tests.dispatch.intakes import Stream, block, make_intake
from tests.dispatch.voices import Said, running, until


@attrs.frozen
class NoSettings:
    """A plugin without keys."""


Open = Callable[[NoSettings, Any], Any]


@attrs.define
class Setup:
    """Makes runners in one folder."""

    folder: Path
    said: Said = attrs.field(factory=Said)
    opened: int = 0
    closed: int = 0

    def host(self, name: str) -> PluginHost:
        return PluginHost(name, False, str(self.folder), self.said, lambda *_: None, lambda *_: None, time.monotonic)

    def runner(self, yielded: Any, intake: Intake | None = None, **more: Any) -> InProcessRunner:
        """yielded: what the plugin gives when it is opened, or a function that makes it anew at each opening."""

        @asynccontextmanager
        async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
            self.opened += 1
            try:
                yield yielded
            finally:
                self.closed += 1

        return self.make(opener, intake, **more)

    def make(
        self, opener: Open, intake: Intake | None = None, *, max_restarts: int = 10, timeout: float = 30
    ) -> InProcessRunner:
        conf = PluginConf(name="tested", path=Path("/tested.audisp"), active=True, plugin="tested")
        return InProcessRunner(
            conf,
            PluginType("tested", NoSettings, opener),
            NoSettings(),
            intake or make_intake(1 << 20),
            Restarts(max_restarts, 0.01, 0.05),
            self.said,
            self.host("tested"),
            self.folder / "quarantine",
            timeout,
        )

    def kept(self) -> bytes:
        """All that is in quarantine."""
        return b"".join(file.read_bytes() for file in sorted((self.folder / "quarantine").rglob("*")) if file.is_file())


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


@pytest.fixture(params=["thread", "loop"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def as_kind(kind: str, function: Callable[[Block], None]) -> Any:
    """The function as a plain one or as a coroutine function."""
    if kind == "thread":
        return function

    async def deliver(one: Block) -> None:
        function(one)

    return deliver


def balanced(runner: InProcessRunner) -> None:
    books = runner.intake.books()
    assert books.imbalance == 0
    assert books.waiting == 0


async def test_what_deliver_returns_from_is_delivered_in_order(setup: Setup, kind: str) -> None:
    stream = Stream()
    threads = set()

    def deliver(one: Block) -> None:
        stream.add(one.data)
        threads.add(threading.get_ident())

    runner = setup.runner(as_kind(kind, deliver))
    async with running(runner, 10):
        for first in range(1, 1001, 5):
            runner.intake.offer(block(first, 5), False)
            if first % 100 == 1:
                await trio.lowlevel.checkpoint()
    assert stream.records == 1000
    assert runner.intake.delivered == 1000
    assert (setup.opened, setup.closed) == (1, 1)
    assert len(threads) == 1
    assert (threads == {threading.get_ident()}) == (kind == "loop")
    assert runner.state == "stopped"
    balanced(runner)


async def test_an_object_with_an_async_call_is_a_coroutine_function(setup: Setup) -> None:
    stream = Stream()

    class Deliver:
        async def __call__(self, one: Block) -> None:
            await trio.lowlevel.checkpoint()
            stream.add(one.data)

    runner = setup.runner(Deliver())
    async with running(runner, 10):
        runner.intake.offer(block(1, 5), False)
    assert stream.records == 5


async def test_a_plain_function_that_gives_a_coroutine_is_an_error_and_no_delivery(setup: Setup) -> None:
    async def later(one: Block) -> None:
        raise AssertionError("not awaited")

    created = []

    def deliver(one: Block) -> Any:
        created.append(later(one))
        return created[-1]

    runner = setup.runner(deliver, max_restarts=10)
    async with running(runner):
        runner.intake.offer(block(1), False)
        await until(lambda: runner.intake.quarantined == 1)
    for each in created:
        each.close()
    assert setup.said.heard("make it a coroutine function")
    assert runner.intake.delivered == 0


async def test_retry_offers_the_same_block_again_after_a_while(
    setup: Setup, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "RETRY_DELAY", 0.02)
    stream = Stream()
    attempts: list[int] = []

    def deliver(one: Block) -> None:
        attempts.append(one.records)
        if len(attempts) < 4:
            raise Retry
        stream.add(one.data)

    runner = setup.runner(as_kind(kind, deliver))
    async with running(runner, 10):
        runner.intake.offer(block(1, 5), False)
        await until(lambda: attempts)
        runner.intake.offer(block(6, 5), False)
    assert stream.records == 10
    assert runner.intake.redelivered == sum(attempts[:3])
    assert setup.opened == 1
    balanced(runner)


async def test_new_blocks_do_not_hurry_a_retry(setup: Setup, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose disk is full would be asked again at every record."""
    monkeypatch.setattr(inprocess, "RETRY_DELAY", 3600.0)
    attempts = []

    def deliver(one: Block) -> None:
        attempts.append(1)
        raise Retry

    runner = setup.runner(as_kind(kind, deliver))
    async with running(runner):
        for first in range(1, 200):
            runner.intake.offer(block(first), False)
            await trio.sleep(0.0005)
    assert len(attempts) == 1
    assert runner.intake.books().waiting == 199


async def test_a_command_hurries_a_retry(setup: Setup, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """USR2 resumes a log that was waiting for its disk."""
    monkeypatch.setattr(inprocess, "RETRY_DELAY", 3600.0)
    resumed: list[bool] = []
    stream = Stream()
    asked = []

    def deliver(one: Block) -> None:
        asked.append(1)
        if not resumed:
            raise Retry
        stream.add(one.data)

    runner = setup.runner(Delivery(as_kind(kind, deliver), resume=lambda: resumed.append(True)))
    async with running(runner, 10):
        runner.intake.offer(block(1, 3), False)
        await until(lambda: asked)
        runner.command("resume")
        await until(lambda: stream.records == 3)
    assert resumed == [True]


async def test_commands_come_between_deliveries_where_deliver_runs(setup: Setup, kind: str) -> None:
    seen: list[tuple[str, int]] = []

    def deliver(one: Block) -> None:
        seen.append(("deliver", threading.get_ident()))

    delivery = Delivery(
        as_kind(kind, deliver),
        rotate=lambda: seen.append(("rotate", threading.get_ident())),
        resume=lambda: seen.append(("resume", threading.get_ident())),
    )
    runner = setup.runner(delivery)
    async with running(runner, 10):
        runner.intake.offer(block(1), False)
        await until(lambda: seen)
        runner.command("rotate")
        await until(lambda: len(seen) == 2)
        runner.command("resume")
        await until(lambda: len(seen) == 3)
    assert [what for what, _ in seen] == ["deliver", "rotate", "resume"]
    assert len({thread for _, thread in seen}) == 1


async def test_a_plugin_without_rotate_ignores_it(setup: Setup) -> None:
    runner = setup.runner(Delivery(lambda one: None))
    async with running(runner, 10):
        await until(lambda: runner.state == "running")
        runner.command("rotate")
        runner.intake.offer(block(1), False)
    assert runner.intake.delivered == 1


async def test_reject_puts_the_block_aside_and_goes_on(setup: Setup, kind: str) -> None:
    stream = Stream()

    def deliver(one: Block) -> None:
        if one.first_serial() == 1:
            stream.next = 1 + one.records
            raise Reject("does not parse")
        stream.add(one.data)

    runner = setup.runner(as_kind(kind, deliver))
    async with running(runner, 10):
        runner.intake.offer(block(1, 3), False)
        await until(lambda: runner.intake.quarantined == 3)
        runner.intake.offer(block(4, 3), False)
    assert stream.records == 3
    assert setup.kept().count(b"type=SYSCALL") == 3
    assert setup.said.heard("does not parse", "error")
    assert setup.opened == 1
    balanced(runner)


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), ExceptionGroup("all", [KeyError("x")])])
async def test_a_block_that_makes_the_plugin_fail_again_and_again_is_put_aside(
    setup: Setup, kind: str, error: BaseException
) -> None:
    stream = Stream()

    def deliver(one: Block) -> None:
        if one.first_serial() == 1:
            stream.next = 1 + one.records
            raise error
        stream.add(one.data)

    runner = setup.runner(as_kind(kind, deliver))
    async with running(runner, 10):
        runner.intake.offer(block(1, 3), False)
        await until(lambda: runner.intake.quarantined == 3)
        await until(lambda: runner.state == "running")
        runner.intake.offer(block(4, 3), False)
        await until(lambda: stream.records == 3)
    assert setup.opened == inprocess.POISON_ATTEMPTS + 1
    assert runner.restarts.total == inprocess.POISON_ATTEMPTS
    balanced(runner)


async def test_a_failure_that_passes_costs_nothing(setup: Setup, kind: str) -> None:
    stream = Stream()
    failures = iter([OSError("disk"), OSError("disk")])

    def deliver(one: Block) -> None:
        for failure in failures:
            raise failure
        stream.add(one.data)

    runner = setup.runner(as_kind(kind, deliver))
    async with running(runner, 10):
        runner.intake.offer(block(1, 3), False)
        await until(lambda: stream.records == 3)
    assert runner.intake.redelivered == 6
    assert runner.intake.quarantined == 0
    balanced(runner)


async def test_a_plugin_that_always_fails_to_open_is_given_up(setup: Setup) -> None:
    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        if host.name:
            raise OSError("no such socket")
        yield

    runner = setup.make(opener, max_restarts=3)
    runner.intake.offer(block(1, 5), False)
    async with running(runner):
        await runner.opened.wait()
        assert runner.first_problem == "OSError: no such socket"
        await until(lambda: runner.state == "failed")
        runner.intake.offer(block(6, 5), False)
        assert runner.intake.losses == {"failed": 10}
    assert runner.restarts.total == 3
    assert setup.said.heard("exceeded max_restarts (3)", "error")
    assert runner.intake.books().imbalance == 0


async def test_a_required_plugin_is_never_given_up(setup: Setup) -> None:
    failures = 0
    taken: list[bytes] = []

    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        nonlocal failures
        if failures < 6:
            failures += 1
            raise OSError("disk away")
        yield lambda one: taken.append(one.data)

    intake = make_intake(1 << 20, required=True)
    runner = setup.make(opener, intake, max_restarts=2)
    intake.offer(block(1, 5), False)
    async with running(runner):
        await until(lambda: intake.books().delivered == 5)
    assert failures == 6
    assert intake.losses == {}
    assert setup.said.heard("exceeded max_restarts (2), but it is required", "critical")
    balanced(runner)


async def test_a_plugin_whose_own_task_fails_is_opened_again_and_loses_nothing(setup: Setup) -> None:
    """Its thread is in deliver at that moment: what it comes back with is not booked, and the block is offered anew."""
    go, inside = threading.Event(), threading.Event()
    got: list[tuple[int, list[int]]] = []
    openings = 0

    async def fail() -> None:
        await trio.to_thread.run_sync(inside.wait)
        raise ValueError("background")

    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        nonlocal openings
        openings += 1
        mine = openings

        def deliver(one: Block) -> None:
            if mine == 1:
                inside.set()
                go.wait()
            got.append((mine, one.serials()))

        async with trio.open_nursery() as nursery:
            if mine == 1:
                nursery.start_soon(fail)
            yield deliver

    runner = setup.make(opener)
    async with running(runner, 10):
        runner.intake.offer(block(1, 3), False)
        await until(lambda: got)
        assert got == [(2, [1, 2, 3])]
        go.set()
        await until(lambda: len(got) == 2)
    assert runner.intake.delivered == 3
    assert setup.said.heard("ValueError: background")
    balanced(runner)


async def test_a_plugin_that_ends_by_itself_is_opened_again(setup: Setup) -> None:
    stream = Stream()

    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        setup.opened += 1
        async with trio.open_nursery() as nursery:
            if setup.opened == 1:
                nursery.cancel_scope.deadline = trio.current_time() + 0.02
            yield as_kind("loop", lambda one: stream.add(one.data))

    runner = setup.make(opener)
    async with running(runner, 10):
        await until(lambda: setup.opened == 2)
        runner.intake.offer(block(1, 3), False)
        await until(lambda: stream.records == 3)
    assert setup.said.heard("ended by itself")


async def test_a_deliver_that_does_not_return_is_named_and_left_behind(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "CLOSE_GRACE", 0.1)
    go = threading.Event()
    entered = threading.Event()
    left = threading.Event()

    def deliver(one: Block) -> None:
        entered.set()
        go.wait()
        left.set()

    runner = setup.runner(deliver, timeout=0.01)
    async with running(runner):
        runner.intake.offer(block(1, 3), False)
        await until(entered.is_set)
        await trio.sleep(0.03)
        runner.tick()
        assert runner.state == "stuck"
        runner.intake.offer(block(4, 3), False)
        assert runner.intake.books().waiting == 6
    assert runner.state == "stopped"
    assert setup.said.heard("has not returned", "error")
    assert setup.said.heard("left to itself", "warning")
    # Nothing is lost: a successor is given all of it, and what the old thread comes back with is not booked.
    stream = Stream()
    successor = setup.runner(lambda one: stream.add(one.data), runner.intake)
    async with running(successor, 10):
        await until(lambda: stream.records == 6)
    go.set()
    await until(left.is_set)
    await trio.sleep(0.02)
    assert runner.intake.delivered == 6
    balanced(runner)


async def test_a_stuck_plugin_that_comes_back_goes_on(setup: Setup) -> None:
    go, entered = threading.Event(), threading.Event()

    def deliver(one: Block) -> None:
        entered.set()
        go.wait()

    runner = setup.runner(deliver, timeout=0.01)
    async with running(runner, 10):
        runner.intake.offer(block(1), False)
        await until(entered.is_set)
        await trio.sleep(0.03)
        runner.tick()
        assert runner.state == "stuck"
        go.set()
        await until(lambda: runner.intake.delivered == 1)
        runner.tick()
        assert runner.state == "running"
    assert setup.said.heard("it goes on")


async def test_a_coroutine_that_does_not_return_is_cancelled_and_the_block_offered_again(setup: Setup) -> None:
    calls = []

    async def deliver(one: Block) -> None:
        calls.append(one.serials())
        if len(calls) == 1:
            await trio.sleep_forever()

    runner = setup.runner(deliver, timeout=0.05)
    async with running(runner, 10):
        runner.intake.offer(block(1, 2), False)
        await until(lambda: len(calls) == 2)
    assert calls == [[1, 2], [1, 2]]
    assert runner.intake.redelivered == 2
    balanced(runner)


async def test_a_coroutine_under_way_at_the_end_is_cancelled_and_its_block_kept(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "CLOSE_GRACE", 0.05)
    entered = trio.Event()

    async def deliver(one: Block) -> None:
        entered.set()
        await trio.sleep_forever()

    runner = setup.runner(deliver)
    async with running(runner):
        runner.intake.offer(block(1, 2), False)
        await entered.wait()
    assert runner.intake.books().waiting == 2
    assert runner.intake.held == 0
    assert setup.closed == 1


async def test_a_plugin_that_never_opens_holds_nobody(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "CLOSE_GRACE", 0.05)

    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        await trio.sleep(3600)
        yield

    runner = setup.make(opener)
    async with running(runner):
        await trio.sleep(0.01)
        assert runner.state == "starting"
    assert runner.state == "stopped"
    assert runner.opened.is_set()


async def test_an_error_while_closing_is_said(setup: Setup) -> None:
    @asynccontextmanager
    async def opener(settings: NoSettings, host: Any) -> AsyncIterator[Any]:
        yield lambda one: None
        raise OSError("could not flush")

    runner = setup.make(opener)
    async with running(runner, 10):
        runner.intake.offer(block(1), False)
    assert setup.said.heard("could not flush", "error")
    balanced(runner)


async def test_the_drain_delivers_what_waits_and_a_deadline_ends_it(setup: Setup) -> None:
    stream = Stream()

    def slow(one: Block) -> None:
        time.sleep(0.05)
        stream.add(one.data)

    runner = setup.runner(slow, make_intake(8 << 20))
    for first in range(1, 20_001, 100):
        runner.intake.offer(block(first, 100), False)
    async with running(runner, 0.02):
        await until(lambda: runner.state == "running")
    assert stream.records == runner.intake.delivered
    books = runner.intake.books()
    assert books.imbalance == 0
    assert books.waiting == books.offered - books.delivered > 0


async def test_the_marker_of_a_suspended_plugin_does_not_hold_the_end(setup: Setup) -> None:
    got: list[bytes] = []
    runner = setup.runner(lambda one: got.append(one.data))
    async with running(runner, 3600):
        await until(lambda: runner.state == "running")
        await trio.sleep(0.02)
        runner.intake.suspend("suspended")
        runner.intake.offer(block(1, 3), False)
    assert len(got) == 1
    assert b"count=3 first=1 last=3 reason=suspended" in got[0]


async def test_quarantine_that_cannot_be_written_still_counts(setup: Setup) -> None:
    (setup.folder / "quarantine").write_text("a file where the folder should be")

    def deliver(one: Block) -> None:
        raise Reject("no")

    runner = setup.runner(deliver)
    async with running(runner, 10):
        runner.intake.offer(block(1, 2), False)
        await until(lambda: runner.intake.quarantined == 2)
    assert setup.said.heard("in nowhere (")
    balanced(runner)
