"""A simulated day of assembly: two origins, two nodes each with the same names and serials, and of everything that can
go wrong one in a hundred goes wrong. Every record must be in exactly one event, whole events whole, memory flat."""

from __future__ import annotations

import random
from collections import Counter, deque
from pathlib import Path
from typing import Final

import attrs

from audisp.event import Batch, Event
from audisp.parse.assemble import TIMEOUT, Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.soak.result import Result

RATE: Final = 20
"""Events per simulated second, of both origins together."""
WRONG: Final = 0.01
"""Of everything."""
STEP: Final = 0.25
"""Simulated seconds of one block."""
ORIGINS: Final = ("one", "two")
NODES: Final = (b"", b"node=web-1 ")
WARM: Final = 600.0
"""Simulated seconds until memory may not grow any more."""
GROWTH: Final = 8 << 20
"""Bytes that the process may have grown from then on: allocators are never quite flat."""


@attrs.define(eq=False)
class Clock:
    """One origin's wall clock and serials, which jump and begin anew."""

    offset: float = 1_700_000_000.0
    serial: int = 1


@attrs.define(eq=False)
class Told:
    """What was sent of one event, to be compared with what came out."""

    copies: Counter[bytes]
    whole: bool
    """Nothing went wrong with it: it must come out as one event without a flag."""


@attrs.define(eq=False)
class Day:
    """One run. seconds: simulated."""

    seed: int
    seconds: float
    result: Result
    chance: random.Random = attrs.field(init=False)
    told: dict[tuple[str, bytes, bytes], Told] = attrs.field(factory=dict)
    sent: int = 0
    came: int = 0
    events: int = 0
    faults: Counter[str] = attrs.field(factory=Counter)
    _number: int = 0

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def wrong(self, what: str) -> bool:
        """Whether this goes wrong now."""
        if self.chance.random() >= WRONG:
            return False
        self.faults[what] += 1
        return True

    def event(self, origin: str, clock: Clock, now: float, late: deque[tuple[float, bytes]]) -> list[bytes]:
        """The lines of one event, as they arrive now; what arrives later goes into `late`."""
        chance = self.chance
        if self.wrong("clock stepped"):
            clock.offset += chance.choice((-1, 1)) * chance.uniform(0.001, 100_000.0)
        if chance.random() < WRONG / 100:
            self.faults["restarted"] += 1
            clock.serial = 1
        clock.serial += 1
        stamp = clock.offset + now
        head = b"audit(%d.%03d:%d):" % (int(stamp), int(stamp * 1000) % 1000, clock.serial)
        node = chance.choice(NODES)
        paths = chance.randrange(4)
        bodies = [b"SYSCALL", b"CWD", *[b"PATH"] * paths, b"PROCTITLE", b"EOE"]
        lines = []
        for number, kind in enumerate(bodies):
            self._number += 1
            lines.append(b"%btype=%b msg=%b items=%d item=%d n=%d\n" % (node, kind, head, paths, number, self._number))
        key = (origin, node, head)
        if key in self.told:
            self.faults["stamp used again"] += 1  # after a step back and a restart: then two events are one
            self.told[key].whole = False
        told = self.told.setdefault(key, Told(Counter(), True))
        if self.wrong("EOE lost"):
            lines.pop()
            told.whole = False
        if self.wrong("record doubled"):
            lines.append(chance.choice(lines))
            told.whole = False
        if self.wrong("out of order"):
            chance.shuffle(lines)
            told.whole = False
        if self.wrong("record late"):
            late.append((now + chance.uniform(0.0, 3 * TIMEOUT), lines.pop(chance.randrange(len(lines)))))
            told.copies[late[-1][1]] += 1
            told.whole = False
        told.copies.update(lines)
        self.sent += len(lines)
        return lines

    def take(self, origin: str, batch: Batch | None) -> None:
        """What came out."""
        for event in batch or ():
            self.events += 1
            self._check(origin, event)

    def _check(self, origin: str, event: Event) -> None:
        key = (origin, *event.same)
        told = self.told.get(key)
        lines = event.raw.splitlines(keepends=True)
        self.came += len(lines)
        if told is None:
            self.result.problems.append(f"{key}: nobody sent this, or it has come already")
            return
        told.copies.subtract(lines)
        if any(count < 0 for count in told.copies.values()):
            self.result.problems.append(f"{key}: a record came twice")
        left = any(told.copies.values())
        if told.whole and (event.flags or left):
            self.result.problems.append(f"{key}: flags {event.flags}, and it was whole when it was sent")
        if not left:
            del self.told[key]

    def run(self) -> None:
        """The whole day."""
        reader = RecordReader()
        assemblers = {origin: Assembler(origin, reader) for origin in ORIGINS}
        clocks = {origin: Clock() for origin in ORIGINS}
        late: dict[str, deque[tuple[float, bytes]]] = {origin: deque() for origin in ORIGINS}
        now, warm, most_open, most_told = 0.0, 0, 0, 0
        interlaced: dict[str, list[bytes]] = {origin: [] for origin in ORIGINS}
        while now < self.seconds:
            now += STEP
            for origin in ORIGINS:
                lines = interlaced[origin]
                for _ in range(round(RATE * STEP / len(ORIGINS) + self.chance.uniform(-0.5, 0.5))):
                    fresh = self.event(origin, clocks[origin], now, late[origin])
                    if self.chance.random() < 0.2:
                        fresh = self._deal(lines, fresh)
                    lines += fresh
                due = [line for when, line in late[origin] if when <= now]
                late[origin] = deque(each for each in late[origin] if each[0] > now)
                self.sent += len(due)
                lines += due
                # A block may end anywhere between two records.
                cut = self.chance.randrange(len(lines) + 1)
                data, interlaced[origin] = b"".join(lines[:cut]), lines[cut:]
                assembler = assemblers[origin]
                if data:
                    self.take(origin, assembler.feed(Block(data, cut, origin, now), now))
                self.take(origin, assembler.tick(now))
                counts = assembler.counts
                if counts.records_in != counts.records_out + assembler.open_records:
                    self.result.problems.append(f"{origin}: the books do not balance at {now}")
                most_open = max(most_open, assembler.open_events)
            most_told = max(most_told, len(self.told))
            if not warm and now >= WARM:
                warm = resident()
            if len(self.result.problems) > 50:
                return
        for origin in ORIGINS:
            rest = [*interlaced[origin], *(line for _, line in late[origin])]
            self.sent += len(late[origin])
            if rest:
                self.take(origin, assemblers[origin].feed(Block(b"".join(rest), len(rest), origin, now), now))
            self.take(origin, assemblers[origin].tick(now + TIMEOUT))
            if assemblers[origin].open_records:
                self.result.problems.append(f"{origin}: something is still open two seconds after the end")
        missing = sum(sum(told.copies.values()) for told in self.told.values())
        if missing or self.sent != self.came:
            self.result.problems.append(f"{self.sent} records sent, {self.came} came, {missing} missing")
        grown = resident() - warm if warm else 0
        if grown > GROWTH:
            self.result.problems.append(f"the process has grown by {grown} bytes")
        figures = {
            "simulated hours": round(self.seconds / 3600, 2),
            "records": self.sent,
            "events": self.events,
            "open at most": most_open,
            "grown by, KiB": grown >> 10,
            **{f"wrong: {what}": count for what, count in sorted(self.faults.items())},
            **{
                f"{origin}: {name}": getattr(assembler.counts, name)
                for origin, assembler in assemblers.items()
                for name in ("timed_out", "incomplete", "late")
            },
        }
        self.result.figures.update(figures)

    def _deal(self, before: list[bytes], fresh: list[bytes]) -> list[bytes]:
        """Interlace with what waits, each event's own order kept."""
        old = before[-len(fresh) :]
        del before[-len(fresh) :]
        out = []
        while old or fresh:
            from_old = old and (not fresh or self.chance.random() < 0.5)
            out.append(old.pop(0) if from_old else fresh.pop(0))
        return out


def resident() -> int:
    """Bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def day(_folder: Path, seed: int, hours: int) -> Result:
    """See the module's text."""
    result = Result("day", seed)
    Day(seed, hours * 3600.0, result).run()
    return result
