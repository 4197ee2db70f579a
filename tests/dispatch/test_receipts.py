"""What a source may forget: nothing that a plugin has not yet."""

from __future__ import annotations

import pytest
import trio

from audisp.dispatch import receipts
from audisp.dispatch.intake import Intake
from audisp.dispatch.receipts import Receipts
from audisp.dispatch.router import Router
from audisp.dispatch.stage import Wanted
from audisp.record import Block
from tests.dispatch.intakes import block, make_intake
from tests.dispatch.test_router import take_all


def put(intake: Intake, first: int, count: int = 1) -> None:
    assert intake.offer(block(first, count), wait=True) is None


def test_a_call_is_due_when_every_plugin_is_done() -> None:
    fast, slow = make_intake(100_000), make_intake(100_000)
    asked, called = Receipts(), []
    for number in range(3):
        for intake in (fast, slow):
            put(intake, number + 1)
        asked.ask(lambda number=number: called.append(number), (fast, slow), 0)  # type: ignore[misc]
    asked.settle(0, ())
    take_all(fast)
    asked.settle(0, ())
    assert called == []
    with slow.lock:
        one = slow.take(1)
        assert one is not None
        slow.acknowledge(1, 0, one.arrived, one.spooled)
    asked.settle(0, ())
    assert called == [0]
    take_all(slow)
    asked.settle(0, ())
    assert called == [0, 2]  # the last stands for those before it
    assert not asked


def test_what_is_lost_by_the_books_is_done_with() -> None:
    dropping = make_intake(200, "drop_oldest")
    asked, called = Receipts(), []
    for first in range(1, 50):
        assert dropping.offer(block(first), wait=False) is None
    asked.ask(lambda: called.append("a"), (dropping,), 0)
    asked.settle(0, ())
    assert called == []
    dropping.abandon("removed")
    asked.settle(0, ())
    assert called == ["a"]


def test_what_was_lost_on_disk_is_done_with() -> None:
    intake = make_intake(100_000)
    asked, called = Receipts(), []
    put(intake, 1, 3)
    with intake.lock:
        taken = intake.take(1 << 20)
        assert taken is not None
        intake.held -= 3
        intake.disk += 3  # as if they had been written out
    asked.ask(lambda: called.append("a"), (intake,), 0)
    with intake.lock:
        intake.lose_stored(3, "damaged")
    asked.settle(0, ())
    assert called == ["a"]


def test_events_are_waited_for_until_the_assembler_has_put_them_out() -> None:
    events = make_intake(100_000)
    asked, called = Receipts(), []
    asked.ask(lambda: called.append("a"), (), 10)
    asked.settle(9, (events,))
    put(events, 1)
    asked.settle(10, (events,))
    assert called == []
    take_all(events)
    asked.settle(10, (events,))
    assert called == ["a"]


def test_receipts_are_bounded_and_the_newest_stands_for_the_one_it_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_RECEIPTS", 3)
    intake = make_intake(100_000)
    asked, called = Receipts(), []
    for number in range(10):
        put(intake, number + 1)
        asked.ask(lambda number=number: called.append(number), (intake,), 0)  # type: ignore[misc]
        asked.settle(0, ())
    assert len(asked) == 3
    take_all(intake)
    asked.settle(0, ())
    assert called == [9]


SYSCALL = b"type=SYSCALL msg=audit(1700000000.123:%d): syscall=59\n"
EOE = b"type=EOE msg=audit(1700000000.123:%d): \n"


async def test_through_the_router_with_blocks_and_events() -> None:
    router = Router()
    blocks, events = make_intake(100_000), make_intake(100_000)
    router.intakes, router.wanted = (blocks,), (Wanted(events),)
    route, called = router.route(replay=True), []

    async def send(data: bytes, name: str) -> None:
        await route.send(Block(data, data.count(b"\n"), "test", trio.current_time()))
        route.when_done(lambda: called.append(name))

    await send(SYSCALL % 1, "begun")
    await send(SYSCALL % 2 + EOE % 2, "another, whole")
    take_all(blocks)
    take_all(events)
    route.settle()
    assert called == []  # the first event is not out yet
    await send(EOE % 1, "ended")
    take_all(blocks)
    route.settle()
    assert called == []
    take_all(events)
    route.settle()
    assert called == ["ended"]
