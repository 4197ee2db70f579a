"""Which events never came, told by the kernel's serial numbers.

The kernel numbers events one by one (32 bits, wrapping), and uses no number for an event that a rule suppressed, so
that a number that never comes is an event lost on its way. Events of several CPUs overtake each other; a number is
called missing only once `WINDOW` later ones were seen. One `Gaps` follows one machine's one boot: records that auditd
numbers itself (DAEMON_*) are left out, records of other machines must not be shown to it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

WINDOW: Final = 2_048
"""By how many numbers an event may come late. A CPU takes a number and queues the record a moment later; at 100,000
events/s this allows that moment to be 20 ms. Also bounds what is remembered."""

JUMP: Final = 1_000_000
"""Largest gap believed at sight. Beyond it, and for a fall below the window, `CONFIRM` events must agree, so that one
damaged or hostile line of a replayed file moves nothing."""

CONFIRM: Final = 3
"""Different serials in a row, near each other and far from the rest, that make a restart or a jump."""

REMEMBERED: Final = 64
"""Declared ranges kept to recognise what comes after all."""

LATE: Final = 65_536
"""Numbers below the newest within which an arrival counts as late; older ones are another boot's."""

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000
_SERIAL_AT: Final = len("1700000000.123")  # where, in a stamp of our days, the colon before the serial stands
_SERIALS: Final = re.compile(
    rb"^(?:node=[^ \n]++ )?type=(?!DAEMON_)[A-Za-z0-9_[\]]++ msg=audit\([0-9]++\.[0-9]++:([0-9]{1,10}+)\)", re.M
)
_AFTER_LF: Final = re.compile(_SERIALS.pattern.replace(b"^", b"\n", 1))

Range = tuple[int, int]
"""First and last missing serial, first <= last; a range across the wrap is given as two."""


class Gaps:
    """Follows serials and finds the missing ones. last: newest serial of an earlier run in this boot, 0 if unknown.

    open_: what that run had not seen and had not declared missing when it ended.
    """

    def __init__(self, last: int = 0, window: int = WINDOW, open_: Iterable[Range] = ()) -> None:
        self.missing = 0
        """Serials declared missing."""
        self.late = 0
        """Of those, how many came after all."""
        self.restarts = 0
        """How often the numbering began anew: another boot."""
        self.stray = 0
        """Serials that fit nowhere, and were left out."""
        self._window = window
        # Serials are kept without wrapping: the newest's upper bits say how often they did.
        self._newest = last if last > 0 else None
        # Ranges not seen yet, not declared yet; ascending.
        self._waiting = sorted([first, past] for first, past in open_ if 0 < first <= past < last)
        self._declared: list[list[int]] = []  # ascending
        self._apart: list[int] = []  # serials far from the newest, not confirmed yet

    @property
    def last(self) -> int:
        """The newest serial, to be kept for the next run; 0 if none was seen."""
        return 0 if self._newest is None else self._newest & _MASK

    @property
    def open(self) -> list[Range]:
        """Ranges that are missing so far and may still come, to be kept for the next run."""
        ranges = [(first & _MASK, last & _MASK) for first, last in self._waiting]
        return [(first, last) for first, last in ranges if first <= last]

    @property
    def waiting(self) -> int:
        """Serials that are missing so far, and may still come."""
        return sum(last - first + 1 for first, last in self._waiting)

    def see_block(self, data: bytes, records: int | None = None) -> list[Range]:
        """`see` for a run of valid records; `records`, if known, spares counting them.

        Text inside a record cannot pass for its stamp: where a block holds more stamps than records, each is looked
        for at the start of its line. A DAEMON_* record whose number happens to continue the kernel's is taken for it.
        """
        newest = self._newest
        if newest is not None and not self._waiting and not self._declared and not self._apart:
            serials = _distinct(data, data.count(b"\n") if records is None else records)
            if serials:
                # One run that joins on: the common case, without looking at each.
                low, high, before = min(serials), max(serials), newest & _MASK
                if high - low + 1 == len(serials) and before - self._window < low <= before + 1 and high <= _MASK:
                    self._newest = newest + max(0, high - before)
                    return []
        found = _AFTER_LF.findall(data)
        head = _SERIALS.match(data)
        if head:
            found.insert(0, head[1])
        return self.see([int(text) for text in dict.fromkeys(found)])

    def see(self, serials: Iterable[int]) -> list[Range]:
        """Serials in order of arrival, repeated or not. What is now known to be missing."""
        lost: list[Range] = []
        for serial in serials:
            if not 0 <= serial <= _MASK:
                self.stray += 1
                continue
            if self._newest is None:
                self._newest = serial
                continue
            self._place(self._newest + (serial - self._newest + _HALF) % (_MASK + 1) - _HALF, lost)
        if self._waiting and self._newest is not None:
            self._declare(self._newest - self._window, lost)
        return lost

    def settle(self) -> list[Range]:
        """Nothing more is expected of what is late so far: what is missing then. Call when the stream was idle."""
        lost: list[Range] = []
        if self._newest is not None:
            self._declare(self._newest, lost)
        return lost

    def _place(self, serial: int, lost: list[Range]) -> None:
        newest = self._newest
        assert newest is not None
        ahead = serial - newest
        if ahead > JUMP or (ahead <= -self._window and not self._known_missing(serial)):
            self._set_apart(serial, lost)
            return
        if self._apart:
            self.stray += len(self._apart)
            self._apart.clear()
        if ahead > 0:
            if ahead > 1:
                self._waiting.append([newest + 1, serial - 1])
            self._newest = serial
        elif not _take_out(self._waiting, serial) and ahead > -LATE and _take_out(self._declared, serial):
            self.late += 1
            del self._declared[:-REMEMBERED]

    def _known_missing(self, serial: int) -> bool:
        ranges = self._waiting
        if serial > (self._newest or 0) - LATE:
            ranges = self._declared + self._waiting
        return _find(ranges, serial) is not None

    def _set_apart(self, serial: int, lost: list[Range]) -> None:
        newest, apart = self._newest, self._apart
        assert newest is not None
        if apart and abs(serial - apart[-1]) >= self._window:
            self.stray += len(apart)
            apart.clear()
        if serial in apart:
            return
        apart.append(serial)
        if len(apart) < CONFIRM:
            return
        confirmed = sorted(apart)
        apart.clear()
        if confirmed[0] > newest:
            self._waiting.append([newest + 1, confirmed[0] - 1])
        else:
            self._declare(newest, lost)
            self._declared.clear()
            self.restarts += 1
            confirmed = [serial & _MASK for serial in confirmed]
        self._newest = confirmed[0]
        for following in confirmed[1:]:
            self._place(following, lost)

    def _declare(self, upto: int, lost: list[Range]) -> None:
        # Every range that ends at or before `upto` is missing.
        count = 0
        for first, last in self._waiting:
            if last > upto:
                break
            count += 1
            self.missing += last - first + 1
            self._declared.append([first, last])
            low, high = first & _MASK, last & _MASK
            lost += [(low, high)] if low <= high else [(low, _MASK), (0, high)]
        del self._waiting[:count]
        del self._declared[:-REMEMBERED]


def _distinct(data: bytes, records: int) -> list[int]:
    # The serials of `data`, each once, in no order; none if it has not just one stamp per record, all of one length.
    pieces = data.split(b" msg=audit(")
    if len(pieces) != records + 1 or not records:
        return []
    del pieces[0]
    end = pieces[0].find(b")") + 1
    stamps = {piece[_SERIAL_AT:end] for piece in pieces}
    digits = b"".join(stamps)[1:-1].split(b"):")
    return [int(text) for text in digits] if len(digits) == len(stamps) and b"".join(digits).isdigit() else []


def _find(ranges: list[list[int]], serial: int) -> int | None:
    at = bisect_left(ranges, serial, key=lambda found: found[1])
    return at if at < len(ranges) and ranges[at][0] <= serial else None


def _take_out(ranges: list[list[int]], serial: int) -> bool:
    at = _find(ranges, serial)
    if at is None:
        return False
    first, last = ranges[at]
    ranges[at : at + 1] = [part for part in ([first, serial - 1], [serial + 1, last]) if part[0] <= part[1]]
    return True
