"""The same alert again and again is one alert, and one more with a count when its time is over.

What is the same: the rule, the host, who did it, with which program, from which address. Bounded: the one that was
heard of least recently goes first, and then its count is told early, never lost.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import attrs

from audisp.detect.correlate import Finding
from audisp.event import Event

MAX_KEPT: Final = 4_096
"""Alerts whose repetitions are counted at a time: each has its heading and a record's fields, 4 KiB at most."""
MAX_PART: Final = 256
"""Characters of each part of what makes two the same."""

Key = tuple[str, ...]


@attrs.define(eq=False)
class Repeated:
    """One alert's repetitions. number: the alert's. told, record: what was said of it, without its event's records.
    until: in `now`'s seconds, when they are told. last: id of the last of the events."""

    number: int
    until: float
    told: dict[str, Any]
    record: tuple[int, str]
    last: str
    more: int = 0


def key_of(finding: Finding) -> Key:
    """What two findings have in common that are one alert."""
    event = finding.event
    parts = [finding.heading.id, event.origin, event.node]
    subject = event.subject
    if subject is not None:
        parts += [(subject.get(field) or "")[:MAX_PART] for field in ("auid", "uid", "exe", "addr", "acct")]
    parts += [f"{name}={value[:MAX_PART]!r}" for name, value in finding.group]
    return tuple(parts)


class Repeats:
    """Not thread-safe. seconds: how long after an alert the same is only counted; 0: every one is an alert."""

    def __init__(self, seconds: float, most: int = MAX_KEPT) -> None:
        self._seconds = seconds
        self._most = most
        self._kept: OrderedDict[Key, Repeated] = OrderedDict()
        self.counted = 0
        """Findings that were counted to an alert before them."""

    def __len__(self) -> int:
        return len(self._kept)

    def again(self, key: Key, event: Event, now: float) -> int | None:
        """The number of the alert that this one repeats, which is counted; None: it is one by itself."""
        known = self._kept.get(key)
        if known is None or now >= known.until:
            return None
        known.more += 1
        known.last = str(event.id)
        self.counted += 1
        self._kept.move_to_end(key)
        return known.number

    def begin(self, key: Key, number: int, told: dict[str, Any], record: tuple[int, str], now: float) -> list[Repeated]:
        """An alert was given out; what is to be told of others for want of room, or because their time is over."""
        if self._seconds <= 0:
            return []
        gone = [self._kept.pop(key)] if key in self._kept else []
        kept = {
            name: value for name, value in told.items() if name not in ("records", "process", "parents", "standing")
        }
        self._kept[key] = Repeated(number, now + self._seconds, kept, record, str(told.get("event", "")))
        if len(self._kept) > self._most:
            gone.append(self._kept.popitem(last=False)[1])
        return [each for each in gone if each.more]

    def over(self, now: float) -> list[Repeated]:
        """Those whose time is over and that have repetitions to tell."""
        ended = [key for key, each in self._kept.items() if now >= each.until]
        gone = [self._kept.pop(key) for key in ended]
        return [each for each in gone if each.more]

    def rest(self) -> list[Repeated]:
        """All that is to be told at the end."""
        found = [each for each in self._kept.values() if each.more]
        self._kept.clear()
        return found
