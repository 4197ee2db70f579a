"""One block to all, and who waits for whom."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from audisp.dispatch.intake import OWN_SPARE, Intake
from audisp.dispatch.router import Router
from audisp.record import Block
from audisp.sources.contract import Stopped
from tests.dispatch.intakes import block, make_intake
from tests.dispatch.voices import until


def make(**required: bool) -> tuple[Router, dict[str, Intake]]:
    router = Router()
    intakes = {}
    for name, value in required.items():
        intakes[name] = make_intake(1000, required=value)
        intakes[name].name = name
    router.intakes = tuple(intakes.values())
    return router, intakes


def take_all(intake: Intake) -> list[int]:
    found = []
    with intake.lock:
        while (taken := intake.take(1 << 20)) is not None:
            found += taken.serials()
            intake.acknowledge(taken.records - taken.own, taken.own, taken.arrived, taken.spooled)
    return found


async def test_all_get_the_same_object_and_nobody_waits_for_the_optional() -> None:
    router, intakes = make(a=False, b=False)
    one = block(1, 2)
    route = router.route(replay=False)
    await route.send(one)
    for intake in intakes.values():
        with intake.lock:
            assert intake.take(1) is one
    for first in range(3, 100):
        await route.send(block(first))
    assert all(intake.dropped for intake in intakes.values())
    assert route.last is not None
    assert route.last.serials() == [99]


async def test_a_task_waits_for_the_required_and_the_others_have_it_already() -> None:
    router, intakes = make(needed=True, other=False)
    route = router.route(replay=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(route.send, block(1, 30))
        await until(lambda: route.waiting_for == "needed")
        assert intakes["other"].offered == 30
        got = take_all(intakes["needed"])
        with trio.fail_after(10):
            while len(got) < 30:
                await trio.sleep(0.001)
                got += take_all(intakes["needed"])
    assert got == list(range(1, 31))
    assert route.waiting_for is None
    assert intakes["needed"].dropped == 0


async def test_a_replayed_source_waits_for_everybody() -> None:
    router, intakes = make(a=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.route(replay=True).send, block(1, 30))
        await trio.testing.wait_all_tasks_blocked()
        got: list[int] = []
        with trio.fail_after(10):
            while len(got) < 30:
                got += take_all(intakes["a"])
                await trio.sleep(0.001)
    assert got == list(range(1, 31))


async def test_a_cancelled_wait_loses_nothing_that_was_taken() -> None:
    router, intakes = make(a=True)
    with trio.move_on_after(0.02):
        await router.route(replay=False).send(block(1, 30))
    books = intakes["a"].books()
    assert books.imbalance == 0
    assert 0 < books.offered < 30
    assert take_all(intakes["a"]) == list(range(1, books.offered + 1))


def test_a_thread_waits_and_is_woken_or_stopped() -> None:
    router, intakes = make(needed=True, other=False)
    route = router.route(replay=False)
    outcome: list[BaseException | None] = []

    def read() -> None:
        try:
            for first in range(1, 1001, 10):
                route.send_blocking(block(first, 10))
            outcome.append(None)
            route.send_blocking(block(1001, 1000))
        except Stopped as stopped:
            outcome.append(stopped)

    thread = threading.Thread(target=read)
    thread.start()
    got: list[int] = []
    while not outcome:
        got += take_all(intakes["needed"])
    router.stopping.set()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(outcome[1], Stopped)
    got += take_all(intakes["needed"])
    assert got == list(range(1, len(got) + 1))
    assert len(got) >= 1000
    assert all(intake.books().imbalance == 0 for intake in intakes.values())


def test_an_own_record_goes_to_all_but_its_maker_and_waits_for_nobody() -> None:
    router, intakes = make(maker=False, full=True, other=False)
    assert intakes["full"].offer(block(1, 50), False) is not None
    router.send_own(Block(b"type=DAEMON_END msg=audit(1.000:9): op=x\n", 1, "internal", 0.0), intakes["maker"])
    assert intakes["maker"].offered == 0
    assert intakes["other"].offered == 1
    assert intakes["full"].dropped == 0
    assert intakes["full"].books().imbalance == 0


def test_an_own_record_finds_room_where_nobody_has_to_be_waited_for_either() -> None:
    router, intakes = make(behind=False)
    behind = intakes["behind"]
    size, serial = behind.queue.max_bytes, 1
    while behind.queue.fits(block(serial)):
        assert behind.offer(block(serial), False) is None
        serial += 1
    router.send_own(Block(b"type=DAEMON_END msg=audit(1.000:9): op=x\n", 1, "internal", 0.0))
    books = behind.books()
    assert (books.offered, books.dropped, books.imbalance) == (serial, 0, 0)
    assert size < behind.queue.bytes <= size + OWN_SPARE


async def test_each_block_is_looked_at_once() -> None:
    router, _ = make(a=False, b=False)
    seen: list[Block] = []
    route = router.route(replay=False, watch=seen.append)
    one = block(1)
    await route.send(one)
    route.send_blocking(one)
    assert seen == [one, one]


@pytest.mark.parametrize("replay", [False, True])
async def test_without_plugins_nothing_waits(replay: bool) -> None:
    await Router().route(replay=replay).send(block(1))
