"""Exactly once: whatever dies and whatever the line does, each durable record is stored once, and in order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from audisp.wire.native import Acknowledged, Duplicate, Hole, Trouble
from tests.wire.model import Collector, Connection, Spool

SIZES = st.one_of(st.integers(1, 400), st.just(1 << 20))


class Once(RuleBasedStateMachine):
    """One host, two collectors to fail over between, one connection at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.spool = Spool()
        self.collectors = [Collector(), Collector()]
        self.line: Connection | None = None

    def connected(self) -> bool:
        return self.line is not None

    # The host.

    @rule(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
    def records_come(self, counts: list[int]) -> None:
        for count in counts:
            self.spool.append(count)

    @rule()
    def spool_syncs(self) -> None:
        self.spool.sync()
        if self.line is not None and self.line.sender is not None:
            self.line.sender.following = self.spool.durable_end

    @rule(kept=st.integers(0, 3))
    def host_dies(self, kept: int) -> None:
        self.spool.crash(kept)
        self.line = None

    @rule()
    def spool_is_full(self) -> None:
        self.spool.drop_oldest()

    # The line.

    @rule(which=st.integers(0, 1))
    def connect(self, which: int) -> None:
        self.line = Connection(self.spool, self.collectors[which])

    @precondition(connected)
    @rule()
    def send(self) -> None:
        assert self.line is not None
        self.line.send()

    @precondition(connected)
    @rule(sizes=st.lists(SIZES, min_size=1, max_size=12))
    def bytes_go_up(self, sizes: list[int]) -> None:
        assert self.line is not None
        for size in sizes:
            self.line.deliver_up(size)

    @precondition(connected)
    @rule(sizes=st.lists(SIZES, min_size=1, max_size=6))
    def bytes_come_down(self, sizes: list[int]) -> None:
        assert self.line is not None
        for size in sizes:
            self.line.deliver_down(size)

    @precondition(connected)
    @rule()
    def cut(self) -> None:
        # What was given out stays the collector's to store, as if it did so before the next welcome.
        self.line = None

    @precondition(connected)
    @rule(up=st.booleans(), at=st.integers(0, 20), how=st.sampled_from(["lose", "double", "swap", "spoil"]))
    def line_misbehaves(self, up: bool, at: int, how: str) -> None:
        assert self.line is not None
        frames = self.line.up if up else self.line.down
        if not frames:
            return
        at %= len(frames)
        if how == "lose":
            del frames[at]
        elif how == "double":
            frames.insert(at, frames[at])
        elif how == "swap":
            frames.append(frames.pop(at))
        else:
            spoiled = bytearray(frames[at])
            spoiled[len(spoiled) * (at + 1) // (at + 2)] ^= 4
            frames[at] = bytes(spoiled)

    # The collector.

    @precondition(connected)
    @rule()
    def collector_stores(self) -> None:
        assert self.line is not None
        self.line.store()

    @rule(kept=st.integers(0, 3), which=st.integers(0, 1))
    def collector_dies(self, kept: int, which: int) -> None:
        self.collectors[which].crash(kept)
        if self.line is not None and self.line.collector is self.collectors[which]:
            self.line = None

    @precondition(connected)
    @rule(trouble=st.sampled_from([*(each for each in Trouble if each is not Trouble.ERROR), None]))
    def collector_is_in_trouble(self, trouble: Trouble | None) -> None:
        assert self.line is not None
        if self.line.receiver is not None:
            self.line.receiver.trouble(trouble)
            self.line.flush()

    # What holds.

    @invariant()
    def nothing_twice_nothing_else_and_in_order(self) -> None:
        for collector in self.collectors:
            records = collector.records()
            numbers = [number for number, _ in records]
            assert numbers == sorted(set(numbers))
            for number, line in records:
                assert self.spool.truth[number] == line

    @invariant()
    def what_is_missing_was_said(self) -> None:
        for collector in self.collectors:
            at = None
            for frame in collector.stored + collector.written:
                assert at is None or (frame.first, frame.head.previous) == (at.next, at.last)
                if frame.gap is not None:
                    missing = range(frame.gap.first, frame.gap.first + frame.gap.count)
                    assert set(missing) <= self.spool.dropped | self.spool.acknowledged
                at = frame.after

    @invariant()
    def what_is_acknowledged_is_durable(self) -> None:
        durable = {frame.first + n for each in self.collectors for frame in each.stored for n in range(frame.count)}
        assert self.spool.acknowledged - self.spool.dropped <= durable

    @invariant()
    def no_more_is_under_way_than_may_be(self) -> None:
        if self.line is not None and self.line.receiver is not None:
            assert self.line.receiver.frames <= 6
            assert self.line.sender is None or self.line.sender.frames <= 6

    def teardown(self) -> None:
        self.spool.sync()
        for which in (0, 1, 0):
            self.line = Connection(self.spool, self.collectors[which])
            self.line.settle()
            assert self.line.alive
            assert not self.spool.frames
        durable = {frame.first + n for each in self.collectors for frame in each.stored for n in range(frame.count)}
        assert self.spool.truth.keys() - self.spool.dropped <= durable
        self.nothing_twice_nothing_else_and_in_order()
        self.what_is_missing_was_said()


TestOnce = Once.TestCase
TestOnce.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("where", ["up", "down"])
def test_cut_at_every_byte(where: str) -> None:
    """A short stream, and the connection ends after each of its bytes in turn, in one direction or the other."""
    whole = 0
    for cut in range(1_200):
        spool, collector = Spool(), Collector()
        for count in (1, 3, 2):
            spool.append(count)
        spool.sync()
        line = Connection(spool, collector)
        left = cut
        while line.up or line.down:
            if where == "up" and line.up:
                step = min(left, len(line.up[0]))
                left -= step
                if not step:
                    break
                line.deliver_up(step)
            while line.up and where == "down":
                line.deliver_up(1 << 20)
            line.store()
            if where == "down" and line.down:
                step = min(left, len(line.down[0]))
                left -= step
                if not step:
                    break
                line.deliver_down(step)
            while line.down and where == "up":
                line.deliver_down(1 << 20)
            line.send()
        whole += not spool.frames
        collector.crash(cut % 3)
        Connection(spool, collector).settle()
        assert collector.records() == sorted(spool.truth.items())
        assert not spool.frames
    # The last cuts came after everything was acknowledged, the first ones before anything was.
    assert 100 < whole < 1_100


def test_one_byte_at_a_time() -> None:
    spool, collector = Spool(), Collector()
    for count in (1, 30, 2):
        spool.append(count)
    spool.sync()
    line = Connection(spool, collector)
    while spool.frames:
        while line.up:
            line.deliver_up(1)
        line.store()
        while line.down:
            line.deliver_down(1)
        line.send()
    assert collector.records() == sorted(spool.truth.items())


def test_the_line_is_seen_to_misbehave() -> None:
    """The machine above would be no use if what the line does were never noticed."""
    spool, collector = Spool(), Collector()
    for _ in range(5):
        spool.append(2)
    spool.sync()
    line = Connection(spool, collector)
    line.deliver_up(1 << 20)
    line.deliver_down(1 << 20)
    line.send()
    line.up.insert(1, line.up[0])
    del line.up[4]
    while line.up and line.receiver is not None:
        line.deliver_up(1 << 20)
    assert line.seen.count(Duplicate) == 1
    assert line.seen.count(Hole) == 1
    assert not line.alive
    line.store()
    line.receiver = None
    while line.down:
        line.deliver_down(1 << 20)
    assert line.sender is None
    Connection(spool, collector).settle()
    assert collector.records() == sorted(spool.truth.items())


def test_failing_over_and_back() -> None:
    spool, one, two = Spool(), Collector(), Collector()
    for collector in (one, two, one, two):
        spool.append(3)
        spool.sync()
        line = Connection(spool, collector)
        line.settle()
        assert Acknowledged in line.seen
        assert not spool.frames
    assert [number for number, _ in one.records()] == [1, 2, 3, 7, 8, 9]
    assert [number for number, _ in two.records()] == [4, 5, 6, 10, 11, 12]
    for collector in (one, two):
        (gap,) = [frame.gap for frame in collector.stored if frame.gap is not None]
        assert (gap.count, gap.reason) == (3, "acknowledged")


def test_a_host_copied_with_its_spool_is_noticed() -> None:
    spool, collector = Spool(), Collector()
    spool.append(3)
    spool.sync()
    Connection(spool, collector).settle()
    twin = Spool(front=spool.front, made=1_000)
    for host in (spool, twin):
        host.append(2)
        host.sync()
    Connection(spool, collector).settle()
    line = Connection(twin, collector)
    line.settle()
    # The collector has records 4 and 5, and other ones than the twin's; the twin keeps its own.
    assert not line.alive
    assert len(twin.frames) == 1
    assert collector.records() == sorted(spool.truth.items())
