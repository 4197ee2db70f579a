"""Whether a request may become an act: what holds for every kind. What holds for one kind stands with its means.

Each reason has a word, which is in the result, the audit record and docs/reactions.md. The order is from what costs
nothing to what reads /proc. `judge` changes nothing; only the breaker's tripping is said, in `Refused.trips`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from audisp.config.reactions import ON_COLLECTOR, ReactionsConf
from audisp.errors import AudispError
from audisp.react.books import MAX_OPEN, Books, Now
from audisp.react.head import is_user_space, read_head
from audisp.react.processes import TICKS, Found, find, outside_of_containers
from audisp.react.request import Kind, Origin, Request

AHEAD: Final = 2.0
"""Seconds that an event may be ahead of our clock. Kernel and we read the same one; more is a clock set back."""
ENDED: Final = ("Z", "X")
"""States of /proc/PID/stat in which nothing is left of a process but its number."""
FRESH: Final = (Origin.LIVE, Origin.NETWORK, Origin.LOCAL)
"""Where an event may come in for what touches nothing of this host: a notice, a command with the event on its input.
Never from a file or a spool: that is the past."""
BORN_AFTER: Final = 1.0
"""Seconds that a process may be younger than its event, for what the two clocks are read apart."""

REASONS: Final = MappingProxyType(
    {
        "malformed": "what the matcher sent is no request",
        "kind": "reactions.conf does not allow this kind at all",
        "collector": "the events are other hosts', and so is the target",
        "level": "reactions.conf does not allow this kind for a rule of this level",
        "keywords": "the rule is true of words anywhere in a text, which anybody can write",
        "origin": "the event is not from this host's kernel, live",
        "old": "the event is older than max_age",
        "future": "the event is ahead of our clock, which has been set back, or it is not true",
        "late": "the deadline is over",
        "sender": "the record was sent by user space, and not surely by root of this host outside of all containers",
        "target": "the target is none that could be acted on",
        "spared": "the target is one of those that are never touched",
        "unreadable": "whether the target is one of those cannot be told",
        "gone": "the process or session is not there, or is another one",
        "in_force": "the same is in force already",
        "per_target": "per_target acts on this target within an hour",
        "per_hour": "per_hour acts within an hour: the breaker trips",
        "breaker": "the breaker is open: notices only, until a person resumes",
        "notices": "notices_per_hour notices within an hour",
        "open": "as many acts as can be kept are not over yet",
        "busy": "as many programs as may run at a time are running",
        "journal": "the journal cannot be written, and what it does not hold does not happen",
        "nowhere": "nothing is set that could carry it out",
        "failed": "it was begun, and failed",
        "interrupted": "it was begun, and we were killed before its end",
    }
)
"""Every word for why not, and what it means."""


class Refused(AudispError):
    """The request becomes no act. code: one of REASONS. trips: the breaker opens with it."""

    def __init__(self, code: str, text: str = "", *, trips: bool = False) -> None:
        assert code in REASONS
        super().__init__(text or REASONS[code])
        self.code = code
        self.trips = trips


class Judge:
    """What holds for every kind. outside: tells processes of the host from those in containers."""

    def __init__(
        self,
        conf: ReactionsConf,
        *,
        collector: bool = False,
        proc: Path = Path("/proc"),
        outside: Callable[[int, Path], bool] = outside_of_containers,
    ) -> None:
        self._conf = conf
        self._collector = collector
        self._proc = proc
        self._outside = outside

    def judge(self, request: Request, now: Now) -> None:
        """Return if nothing that holds for all kinds speaks against it. Raises Refused."""
        self._allowed(request)
        self._fresh(request, now)
        if is_user_space(request.record_type) and request.kind is not Kind.NOTIFY:  # a notice touches nobody
            self._sender(request, now)

    def counted(self, request: Request, subject: str, books: Books, now: Now) -> None:
        """Return if caps and breaker let it through, of a target in its one form. Raises Refused."""
        if request.kind is Kind.NOTIFY:
            if books.notices(now) >= self._conf.notices_per_hour:
                raise Refused("notices")
            return
        if books.breaker:
            raise Refused("breaker", f"the breaker is open ({books.breaker})")
        if books.in_force(request.kind, subject) is not None:
            raise Refused("in_force")
        # Before the breaker: the same target again and again costs itself, and not what protects everybody else.
        if books.recent(now, subject) >= self._conf.per_target:
            raise Refused("per_target")
        if books.recent(now) >= self._conf.per_hour:
            raise Refused("per_hour", f"more than {self._conf.per_hour} acts within an hour", trips=True)
        if books.open() >= MAX_OPEN:
            raise Refused("open")

    def _allowed(self, request: Request) -> None:
        if self._collector and request.kind not in ON_COLLECTOR:
            raise Refused("collector")
        levels = self._conf.levels(request.kind)
        if not levels:
            raise Refused("kind", f"{request.kind} = never")
        if request.level not in levels:
            raise Refused("level", f"{request.kind} is for {', '.join(levels)}, the rule is {request.level}")
        if request.keywords and request.kind is not Kind.NOTIFY:
            raise Refused("keywords")
        wanted = FRESH if request.kind in ON_COLLECTOR else (Origin.LIVE,)
        if request.origin not in wanted:
            raise Refused("origin", f"the event came by {request.origin}")

    def _fresh(self, request: Request, now: Now) -> None:
        age = now.wall - request.event_time / 1000
        if age > self._conf.max_age:
            raise Refused("old", f"the event is {age:.0f} s old, max_age is {self._conf.max_age}")
        if age < -AHEAD:
            raise Refused("future", f"the event is {-age:.0f} s ahead of our clock")
        if now.wall > request.deadline / 1000:
            raise Refused("late")

    def _sender(self, request: Request, now: Now) -> None:
        """A record of user space: what it says is only as good as who sent it."""
        sender = read_head(request.head)
        if sender is None:
            raise Refused("sender", "the head of the user-space record is not what the kernel writes")
        if sender.uid != 0:
            raise Refused("sender", f"the user-space record was sent by uid {sender.uid}")
        if self._collector:
            return  # its processes are not ours to look at
        before = find(sender.pid, self._proc)
        outside = before is not None and self._outside(sender.pid, self._proc)
        # Looked at twice: of one that ended in between nothing was seen, and that is not to have been in a container.
        process = find(sender.pid, self._proc)
        if process is None or process.state in ENDED or born(process, now) > request.event_time / 1000 + BORN_AFTER:
            self._witness(request, sender.pid)
        elif not outside:
            raise Refused("sender", f"pid {sender.pid}, which sent the user-space record, may be in a container")

    def _witness(self, request: Request, pid: int) -> None:
        """The sender has ended: sshd's process of one connection lives for some milliseconds after a wrong password.
        Then its parent must be there, outside of all containers, and the sender itself have been seen in none."""
        if request.witness is None:
            raise Refused("sender", f"pid {pid}, which sent the user-space record, is gone")
        parent = find(request.witness.pid, self._proc)
        if parent is None or parent.start != request.witness.start or parent.state in ENDED:
            raise Refused("sender", f"pid {pid}, which sent the user-space record, is gone, and so is its parent")
        if not self._outside(parent.pid, self._proc):
            raise Refused("sender", f"pid {parent.pid}, whose child sent the user-space record, may be in a container")


def born(process: Found, now: Now) -> float:
    """When the process began: seconds since 1970, by our clocks as they are now."""
    return now.wall - (now.boot - process.start / TICKS)
