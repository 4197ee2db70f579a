"""One intake with everything around it played by the test: what goes in, what a runner holds, what came out."""

from __future__ import annotations

import re
import time
from collections import deque

import attrs

from audisp.buffer.queue import BlockQueue
from audisp.dispatch.intake import Intake, Policy
from audisp.dispatch.internal import Internal
from audisp.record import Block

LOST = re.compile(
    rb"type=DAEMON_ERR msg=audit\(\d+\.\d{3}:\d+\): op=lost plugin=\S+ count=(\d+) first=(\d+) last=(\d+) "
)


def line(serial: int, size: int = 60) -> bytes:
    head = b"type=SYSCALL msg=audit(1700000000.123:%d): " % serial
    return head + b"x" * max(0, size - len(head) - 1) + b"\n"


def block(first: int, count: int = 1, *, size: int = 60, source: str = "test") -> Block:
    data = b"".join(line(serial, size) for serial in range(first, first + count))
    return Block(data, count, source, time.monotonic())


def make_intake(
    max_bytes: int = 2000, policy: Policy = "drop_newest", *, required: bool = False, max_records: int | None = None
) -> Intake:
    return Intake(
        name="tested",
        queue=BlockQueue(max_bytes, max_records),
        policy=policy,
        required=required,
        mark=Internal().loss,
    )


@attrs.define
class Stream:
    """What a plugin got, in order: each record must be the next one, or a marker must say which are missing."""

    next: int = 1
    markers: int = 0
    records: int = 0

    def add(self, data: bytes) -> None:
        """Check one delivered block."""
        for one in data.splitlines(keepends=True):
            lost = LOST.match(one)
            if lost:
                count, first, last = (int(word) for word in lost.groups())
                assert (first, last) == (self.next, self.next + count - 1), one
                self.next = last + 1
                self.markers += 1
            else:
                assert one.startswith(b"type=SYSCALL msg=audit(1700000000.123:%d):" % self.next), (one[:60], self.next)
                self.next += 1
                self.records += 1


@attrs.define(eq=False)
class Bench:
    """An intake, one source in front of it and one runner behind it."""

    intake: Intake
    stream: Stream = attrs.field(factory=Stream)
    serial: int = 0
    flight: deque[Block] = attrs.field(factory=deque)
    """Taken, or sent directly, and not acknowledged."""
    rest: Block | None = None
    room: bool = True
    ready: bool = False
    """A direct send would be taken."""

    def __attrs_post_init__(self) -> None:
        self.intake.direct = self._direct

    def _direct(self, one: Block) -> bool:
        if self.ready:
            self.flight.append(one)
        return self.ready

    def check(self) -> None:
        """What must hold after every step."""
        books = self.intake.books()
        assert books.imbalance == 0
        assert books.waiting >= 0
        assert self.intake.held == sum(one.records - one.own for one in self.flight)
        assert books.dropped == sum(self.intake.losses.values())
        # At most a marker beyond the bound, or one record in an empty queue, or what was given back.
        assert self.intake.staged_records == sum(one.records for one in self.intake.staged)

    def offer(self, count: int, size: int, wait: bool) -> None:
        """The source offers its next records; while it waits for room it offers nothing else."""
        if self.rest is not None:
            if not self.room:
                return
            self.rest = self.intake.offer(self.rest, True)
        if self.rest is None:
            one = block(self.serial + 1, count, size=size)
            self.serial += count
            self.rest = self.intake.offer(one, wait)
            assert self.rest is None or wait or self.intake.required
        if self.rest is not None:
            self.room = False
            self.intake.on_room(self._room)

    def _room(self) -> None:
        self.room = True

    def take(self, merge_bytes: int = 500) -> bool:
        """The runner takes one block."""
        with self.intake.lock:
            one = self.intake.take(merge_bytes)
            self.ready = False
        if one is not None:
            self.flight.append(one)
        return one is not None

    def acknowledge(self) -> None:
        """The oldest block in flight is delivered."""
        if self.flight:
            one = self.flight.popleft()
            self.stream.add(one.data)
            with self.intake.lock:
                self.intake.acknowledge(one.records - one.own, one.own, one.arrived, one.spooled)

    def give_back(self) -> None:
        """The plugin died: all that is in flight comes back."""
        with self.intake.lock:
            while self.flight:
                self.intake.give_back(self.flight.pop())
            self.ready = False

    def drain(self) -> None:
        """Deliver all that waits in memory."""
        self.intake.resume()
        while True:
            if self.rest is not None and self.room:
                self.rest = self.intake.offer(self.rest, True)
                if self.rest is not None:
                    self.room = False
                    self.intake.on_room(self._room)
            taken = self.take()
            while self.flight:
                self.acknowledge()
            self.check()
            if not taken and (self.rest is None or not self.room):
                return
