"""What the journal adds up to: acts that are not over, how many there were in the last hour, and the breaker.

Pure: entries and times in, state out. `Books` of the entries of a journal, in their order, is what it was when the last
one was written; a test cuts the journal at every entry.

Time is counted on the clock that does not jump (seconds since boot, sleep included) within one boot. Across boots only
the wall clock is left; a time left is never taken for longer than the act was to last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from audisp.config.reactions import KINDS
from audisp.react.journal import Entry

HOUR: Final = 3600.0
MAX_OPEN: Final = 1000
"""Acts that are not over at a time. Each is a line in memory and in every journal; a host with more blocks is under an
attack for which a firewall is the place."""
MAX_NOTE: Final = 120
"""Characters of a rule's name and a reason that the journal keeps: 3,000 acts are less than 8 MiB."""
NOTIFY: Final = "notify"
OPEN: Final = ("begun", "done")
"""Steps after which an act is not over, if it has an end."""


@attrs.frozen(kw_only=True)
class Now:
    """One moment: wall clock (seconds since 1970), seconds since boot, and which boot."""

    wall: float
    boot: float
    boot_id: str


@attrs.frozen(kw_only=True)
class Act:
    """One act. step: begun, done, failed, undone, left (cannot be undone), dry. seconds: how long it lasts, 0: no end.

    subject: the target in words. aim: the target in parts, saved: what its undo needs; both as JSON has them.
    """

    id: int
    kind: str
    step: str
    subject: str
    aim: dict[str, Any]
    saved: dict[str, Any]
    seconds: int
    wall: float
    boot: float
    boot_id: str
    event: str
    rule: str
    level: str
    why: str

    @property
    def undoable(self) -> bool:
        """Whether there is something to undo: it was begun, is not over, and is of a kind that can be."""
        return self.step in OPEN and bool(self.saved.get("undo"))

    def left(self, now: Now) -> float:
        """Seconds until it is to be undone; at most what it was to last."""
        if now.boot_id == self.boot_id:
            return self.boot + self.seconds - now.boot
        return min(self.wall + self.seconds - now.wall, self.seconds)

    def age(self, now: Now) -> float:
        """Seconds since it was begun, never negative."""
        return max(0.0, now.boot - self.boot if now.boot_id == self.boot_id else now.wall - self.wall)


_FIELDS: Final = {field.name for field in attrs.fields(Act)}


class Books:
    """The state. Entries come in by `take`."""

    def __init__(self) -> None:
        self.acts: dict[int, Act] = {}
        """By id: what is not over, and what is younger than an hour."""
        self.breaker: str = ""
        """Why it is open; empty: it is closed, and acts are allowed."""
        self.last: int = 0
        """The last id given."""
        self.strange: int = 0
        """Entries that made no sense, and were passed over."""

    def take(self, entry: Entry) -> None:
        """Book one entry of the journal."""
        match entry:
            case {"step": "breaker", "why": str(why)}:
                self.breaker = why
            case {"step": "resume"}:
                self.breaker = ""
            case {"step": "last", "id": int(number)}:
                self.last = max(self.last, number)
            case {"act": {"id": int(number), "kind": kind} as parts} if parts.keys() == _FIELDS and kind in KINDS:
                self.acts[number] = Act(**parts)
                self.last = max(self.last, number)
            case {"act": {"id": int(number)}}:
                # Of a later version perhaps: nothing can be done about it, but its number is taken.
                self.last = max(self.last, number)
                self.strange += 1
            case {"step": str(step), "id": int(number)} if number in self.acts:
                self.acts[number] = attrs.evolve(self.acts[number], step=step)
            case {"step": str(), "id": int()}:
                return  # the end of an act so old that it was forgotten
            case _:
                self.strange += 1

    def forget(self, now: Now) -> None:
        """Drop what is over and older than an hour."""
        for number, act in list(self.acts.items()):
            if not act.undoable and act.step != "begun" and act.age(now) > HOUR:
                del self.acts[number]

    def kept(self) -> Iterator[Entry]:
        """Entries from which the same books come: what a rotation carries over."""
        yield {"step": "last", "id": self.last}
        if self.breaker:
            yield {"step": "breaker", "why": self.breaker}
        for act in self.acts.values():
            yield {"act": attrs.asdict(act)}

    def in_force(self, kind: str, subject: str) -> Act | None:
        """The act of this kind on this target that is not over."""
        for act in self.acts.values():
            if act.kind == kind and act.subject == subject and act.undoable:
                return act
        return None

    def recent(self, now: Now, subject: str | None = None) -> int:
        """Acts begun within the last hour, on this target or on all; notices are not counted, `notices` counts them."""
        return sum(
            1
            for act in self.acts.values()
            if act.kind != NOTIFY and act.age(now) < HOUR and (subject is None or act.subject == subject)
        )

    def notices(self, now: Now) -> int:
        """Notices within the last hour."""
        return sum(1 for act in self.acts.values() if act.kind == NOTIFY and act.age(now) < HOUR)

    def due(self, now: Now) -> list[Act]:
        """Acts whose time is over, the oldest first."""
        return [act for act in self.timed() if act.left(now) <= 0]

    def open(self) -> int:
        """How many can still be undone."""
        return sum(1 for act in self.acts.values() if act.undoable)

    def timed(self) -> list[Act]:
        """Acts that are to be undone some time."""
        return [act for act in self.acts.values() if act.undoable and act.seconds]
