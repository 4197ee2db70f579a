"""One plugin's door: order, policies, markers, and books that balance after every step."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.dispatch.intake import OWN_SPARE, Intake, Policy
from tests.dispatch.intakes import LOST, Bench, block, make_intake

OFFERS = st.tuples(st.just("offer"), st.integers(1, 8), st.sampled_from([52, 60, 150, 700]), st.booleans())
STEPS = st.lists(
    st.one_of(
        OFFERS,
        OFFERS,
        st.tuples(st.sampled_from(["take", "take", "acknowledge", "acknowledge", "give_back"])),
        st.tuples(st.sampled_from(["ready", "suspend", "resume"])),
    ),
    max_size=80,
)


def play(bench: Bench, step: tuple[Any, ...]) -> None:
    match step:
        case ("offer", count, size, wait):
            bench.offer(count, size, wait)
        case ("take",):
            bench.take()
        case ("acknowledge",):
            bench.acknowledge()
        case ("give_back",):
            bench.give_back()
        case ("ready",):
            # As the child's runner does: ready only once there was nothing left to take.
            bench.ready = not bench.take()
        case ("suspend",):
            bench.intake.suspend("suspended")
        case ("resume",):
            bench.intake.resume()


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
@pytest.mark.parametrize("required", [False, True])
@settings(max_examples=150)
@given(steps=STEPS, max_bytes=st.integers(1, 3000), max_records=st.one_of(st.none(), st.integers(1, 20)))
def test_every_record_is_in_one_place_and_every_loss_is_told_in_its_place(
    policy: Policy, required: bool, steps: list[tuple[Any, ...]], max_bytes: int, max_records: int | None
) -> None:
    intake = make_intake(max_bytes, policy, required=required, max_records=max_records)
    bench = Bench(intake)
    for step in steps:
        play(bench, step)
        bench.check()
    bench.drain()
    assert bench.rest is None
    books = intake.books()
    assert bench.stream.next == bench.serial + 1
    assert books.waiting == 0
    assert books.delivered == bench.stream.records
    assert books.own == bench.stream.markers
    assert books.dropped == bench.serial - bench.stream.records


@settings(max_examples=150)
@given(steps=STEPS, max_bytes=st.integers(1, 3000), after=STEPS)
def test_a_plugin_that_is_given_up_loses_all_that_waits_and_hears_of_it_later(
    steps: list[tuple[Any, ...]], max_bytes: int, after: list[tuple[Any, ...]]
) -> None:
    bench = Bench(make_intake(max_bytes))
    for step in steps:
        play(bench, step)
    bench.give_back()
    bench.intake.abandon("failed")
    bench.check()
    assert bench.intake.books().waiting == 0
    for step in after:
        play(bench, step)
        bench.check()
    bench.drain()
    assert bench.stream.next == bench.serial + 1


def test_a_stopped_plugin_costs_no_more_than_its_queue_however_much_is_lost() -> None:
    """The marker of a loss waits until something can pass behind it: a marker per loss would grow without end."""
    bench = Bench(make_intake(2000))
    for _ in range(5000):
        bench.offer(3, 60, False)
    assert bench.intake.queue.bytes <= 2000
    assert len(bench.intake.queue) < 10
    bench.drain()
    assert bench.stream.markers == 1
    assert bench.stream.next == 15_001


def test_with_drop_oldest_the_newest_records_wait() -> None:
    bench = Bench(make_intake(1000, "drop_oldest"))
    for _ in range(100):
        bench.offer(2, 60, False)
    with bench.intake.lock:
        marker = bench.intake.take(1)
        rest = bench.intake.take(10_000)
    assert marker is not None
    assert LOST.match(marker.data)
    assert rest is not None
    assert rest.serials()[-1] == 200
    assert bench.intake.losses == {"overflow": 200 - rest.records}


def test_of_a_block_beyond_the_bound_drop_oldest_keeps_the_end() -> None:
    bench = Bench(make_intake(1000, "drop_oldest"))
    bench.offer(50, 100, False)
    bench.check()
    with bench.intake.lock:
        marker, rest = bench.intake.take(1), bench.intake.take(10_000)
    assert marker is not None
    assert rest is not None
    assert rest.serials()[-1] == 50
    assert b"count=%d first=1 " % (50 - rest.records) in marker.data


def test_the_action_of_an_overflow_is_for_overflows_alone() -> None:
    """A plugin that was given up must not halt the machine because overflow_action says halt."""
    called: list[str] = []
    intake = make_intake(500)
    intake.overflowed = lambda: called.append("overflow")
    intake.suspend("failed")
    intake.offer(block(1, 3), False)
    assert intake.losses == {"failed": 3}
    assert not called
    intake.resume()
    intake.offer(block(4, 30), False)
    intake.offer(block(34, 30), False)
    assert called == ["overflow"]


def test_a_source_that_waits_is_told_when_half_has_drained() -> None:
    intake = make_intake(4000, required=True)
    told: list[int] = []
    first = 1
    while (rest := intake.offer(block(first), False)) is None:
        first += 1
    intake.on_room(lambda: told.append(len(intake.queue)))
    waiting = len(intake.queue)
    for _ in range(waiting):
        with intake.lock:
            intake.take(1)
        if told:
            break
    assert len(told) == 1
    assert told[0] <= waiting / 2
    assert intake.offer(rest, True) is None
    assert intake.books().offered == first


def test_whoever_waits_for_an_empty_queue_is_told_at_once() -> None:
    intake = make_intake(required=True)
    told: list[int] = []
    intake.on_room(lambda: told.append(1))
    assert told == [1]


@pytest.mark.parametrize("end", [lambda intake: intake.abandon("removed"), lambda intake: intake.suspend("suspended")])
def test_nobody_waits_for_a_plugin_that_takes_nothing_more(end: Any) -> None:
    intake = make_intake(500, required=True)
    rest = intake.offer(block(1, 50), True)
    assert rest is not None
    told: list[int] = []
    intake.on_room(lambda: told.append(1))
    assert not told
    end(intake)
    assert told == [1]
    assert intake.offer(rest, True) is None
    assert intake.books().imbalance == 0


def test_the_dispatchers_own_records_find_some_room_beyond_the_bound_of_a_required_plugin() -> None:
    intake = make_intake(500, required=True)
    rest = intake.offer(block(1, 50), False)
    assert rest is not None
    for serial in range(1000):
        own = intake.offer(block(serial), False)
        assert own is not None
        intake.squeeze_in(own)
    books = intake.books()
    assert books.imbalance == 0
    assert books.offered == 50 - rest.records + 1000
    assert 200 < books.waiting < 250
    assert books.dropped == 1000 - (books.waiting - (50 - rest.records))
    assert intake.queue.bytes <= 500 + OWN_SPARE


def test_a_suspended_plugin_that_goes_on_is_woken_for_its_marker() -> None:
    woken: list[int] = []
    intake = make_intake()
    intake.wake = lambda: woken.append(1)
    intake.suspend("suspended")
    intake.offer(block(1, 3), False)
    assert not woken
    intake.resume()
    assert woken == [1]
    with intake.lock:
        marker = intake.take(1)
    assert marker is not None
    assert b"reason=suspended" in marker.data


def test_the_longest_way_from_arrival_to_delivery_is_kept() -> None:
    intake = make_intake()
    one = block(1)
    one.arrived -= 5.0
    intake.offer(one, False)
    with intake.lock:
        taken = intake.take(1)
        assert taken is not None
        intake.acknowledge(1, 0, taken.arrived, False)
    assert 5.0 <= intake.delay_max < 60


def test_threads_that_offer_and_take_at_once_lose_and_double_nothing() -> None:
    intake = make_intake(20_000)
    bench = Bench(intake)
    done = threading.Event()

    def serve() -> None:
        while True:
            finished = done.is_set()
            while bench.take(4000):
                bench.acknowledge()
            if finished:
                return

    thread = threading.Thread(target=serve)
    intake.direct = None
    thread.start()
    serial = 1
    for count in range(2000):
        intake.offer(block(serial, count % 7 + 1), False)
        serial += count % 7 + 1
    done.set()
    thread.join()
    bench.drain()
    assert bench.stream.next == serial
    assert intake.books().imbalance == 0
    assert isinstance(intake, Intake)
