"""Numbered records, and the account of where they arrived: each number is a serial, each line can be made again."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from audisp.parse.types import type_name

SHORTEST: Final = 60
LONGEST: Final = 8_970
"""Bytes of a record with its LF: the range that auditd can emit."""
LOST: Final = re.compile(
    rb"type=DAEMON_ERR msg=audit\([^)]*\): op=lost plugin=(\S+) (?:client=\d+ )?count=(\d+) first=(\S+) last=(\S+) "
    rb"reason=(\S+)"
)
FRAME: Final = struct.Struct("=IIII")
"""Version, length of this, type, length of the payload (upstream.md 2.4)."""
OWN: Final = 100
"""More DAEMON_* records than a gap of these tests can hold."""
_START: Final = b"type=USER msg=audit(1700000000.000:"


@attrs.frozen
class Records:
    """A stream that a seed determines. sizes: bytes of a record, drawn anew for each; 0 draws from the whole range."""

    seed: int
    sizes: tuple[int, ...] = (60, 120, 150, 200, 300, 500)

    def make(self, number: int) -> bytes:
        """The record with this number (from 1), LF included."""
        mark = zlib.crc32(b"%d %d" % (self.seed, number))
        size = self.sizes[mark % len(self.sizes)] or SHORTEST + (mark >> 8) % (LONGEST - SHORTEST + 1)
        head = b"%b%d): " % (_START, number)
        fill = size - len(head) - 1
        return head + (b"%08x" % mark * (fill // 8 + 1))[:fill] + b"\n"

    def block(self, first: int, count: int) -> bytes:
        """`count` records from number `first` on."""
        return b"".join([self.make(number) for number in range(first, first + count)])


@attrs.frozen
class Mark:
    """A loss marker as it arrived. first and last None: not known."""

    plugin: str
    count: int
    first: int | None
    last: int | None
    reason: str


@attrs.define
class Account:
    """What one reader got, in order. torn: bytes of records that began and did not end."""

    records: Records
    numbers: list[int] = attrs.field(factory=list)
    marks: list[Mark] = attrs.field(factory=list)
    others: int = 0
    torn: int = 0
    false: list[bytes] = attrs.field(factory=list)
    """Lines that nobody sent."""

    def add(self, data: bytes) -> None:
        """Enter one reader's whole input."""
        *lines, tail = data.split(b"\n")
        self.torn += bool(tail)
        for line in lines:
            if line.startswith(_START):
                number = int(line[len(_START) : line.index(b")", len(_START))])
                if self.records.make(number)[:-1] == line:
                    self.numbers.append(number)
                    continue
            elif found := LOST.match(line):
                plugin, count, first, last, reason = found.groups()
                self.marks.append(Mark(plugin.decode(), int(count), _serial(first), _serial(last), reason.decode()))
                continue
            elif line.startswith(b"type=DAEMON_"):
                self.others += 1
                continue
            self.false.append(line[:200])

    def add_frames(self, data: bytes) -> None:
        """The same for a reader of binary form (docs/formats/binary.md)."""
        lines, at = [], 0
        while at + FRAME.size <= len(data):
            _, _, type_, size = FRAME.unpack_from(data, at)
            end = at + FRAME.size + size
            if end > len(data):
                break
            lines.append(b"type=%b msg=%b\n" % (type_name(type_), data[at + FRAME.size : end]))
            at = end
        self.torn += at < len(data)
        self.add(b"".join(lines))

    def exact(self) -> dict[tuple[int | None, int | None], int]:
        """Ranges that markers state as lost, crashes apart, with their counts."""
        return _joined([mark for mark in self.marks if mark.reason != "crash"])

    def problems(self, sent: int) -> list[str]:
        """What is wrong if 1 to `sent` were sent by one source: order, doubles, and losses that no marker states.

        A marker of a crash states `at least`, and its range what may be missing; any other must be exact.
        """
        found = [f"a line that nobody sent: {line!r}" for line in self.false[:3]]
        order = [(a, b) for a, b in zip(self.numbers, self.numbers[1:], strict=False) if b <= a]
        if order:
            found.append(f"{len(order)} steps back or doubles, first {order[0]}")
        missing = ranges(missing_of(self.numbers, sent))
        crash = [mark for mark in self.marks if mark.reason == "crash"]
        exact = self.exact()
        for first, last in missing:
            # The dispatcher's own records in the gap have no number of ours, and are counted.
            surplus = exact.get((first, last), 0) - (last - first + 1)
            if not 0 <= surplus <= OWN and not any(_covers(mark, first, last) for mark in crash):
                found.append(f"{first} to {last} are missing without a word")
        found += [f"a marker states {each}, which arrived" for each in exact if each not in missing]
        return found


def _joined(marks: list[Mark]) -> dict[tuple[int | None, int | None], int]:
    """Count by range; markers of one gap after the other, with nothing in between, as one."""
    out: dict[tuple[int | None, int | None], int] = {}
    for mark in marks:
        key, count = (mark.first, mark.last), mark.count
        before = next(reversed(out), None)
        if before is not None and before[1] is not None and before[1] + 1 == mark.first:
            count += out.pop(before)
            key = (before[0], mark.last)
        out[key] = count
    return out


def _covers(mark: Mark, first: int, last: int) -> bool:
    return (mark.first is None or mark.first <= first) and (mark.last is None or last <= mark.last)


def _serial(word: bytes) -> int | None:
    return int(word) if word.isdigit() else None


def missing_of(numbers: Iterable[int], sent: int) -> Iterator[int]:
    """Numbers from 1 to `sent` that are not among these."""
    there = set(numbers)
    return (number for number in range(1, sent + 1) if number not in there)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs (first, last)."""
    out: list[tuple[int, int]] = []
    for number in numbers:
        if out and out[-1][1] == number - 1:
            out[-1] = (out[-1][0], number)
        else:
            out.append((number, number))
    return out
