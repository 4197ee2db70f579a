"""The matcher's side of the reactor: what to ask for because of an alert, and what came of it.

The reactor decides everything again by itself (docs/reactions.md). Here only what makes no sense is left out: kinds
that reactions.conf does not allow for the rule's level, the same on the same target again and again, more than it can
take. Nothing here waits: a reactor that is slow or gone costs requests, which are counted, and never an event.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

import attrs
import trio

from audisp.errors import RemoteProtocolError
from audisp.event import Event
from audisp.hids.targets import Targets, targets
from audisp.hids.told import Alert, as_alert
from audisp.plugin import Reactor
from audisp.react.request import (
    MAX_EVENT,
    MAX_MESSAGE,
    MAX_TEXT,
    TARGETS,
    Kind,
    Level,
    Origin,
    Outcome,
    Request,
    Result,
    decode_result,
    encode_request,
)

DEADLINE: Final = 60_000
"""Milliseconds after the event in which an act makes sense: the process, the session, the address is still the same."""
REMEMBERED: Final = 4_096
"""Kinds on targets that were asked for and are not asked for again; the oldest go first."""
AGAIN: Final = 60_000
"""Milliseconds of the events' time for which the same act on the same target is not asked for again. The reactor counts
by the hour (`per_target`), and each request that it refuses is a record in the stream."""
TRY_AGAIN: Final = frozenset({"sender", "gone", "busy", "unreadable", "failed"})
"""Reasons that may be over with the next event: another process of sshd is still there to be looked at."""
PENDING: Final = 1_024
"""Requests without a result; more are not sent, and counted. The reactor carries out 16 at a time."""

HOLD_ON: Final = frozenset({"breaker", "per_hour", "journal", "open"})
"""Reasons that hold for every act, whatever the target."""
HOLD_MS: Final = 10_000
"""Milliseconds of the events' time for which no act is asked for after one of these: what would come of it is known,
and an attacker could have thousands of requests refused, each with a record. Notices go on."""

Deed = Literal["asked", "unallowed", "repeated", "dropped", "held"]


class Says(Protocol):
    """Takes what came of a request: the result, and the alert's number (0 for an undo by timer)."""

    def __call__(self, result: Result, alert: int) -> None: ...


def origin_of(event: Event, *, spooled: bool, collector: bool) -> Origin:
    """Where an event came in, as the reactor is told. spooled: it lay on disk before the plugin got it."""
    if spooled:
        return Origin.SPOOL
    if collector:
        return Origin.NETWORK
    kind = event.origin.partition(":")[0]
    if kind in ("netlink", "multicast"):
        # What a sender calls itself is nobody's word: our own node name stands in our own records as well.
        return Origin.LIVE
    if kind in ("file", "follow"):
        return Origin.FILE
    if kind in ("stdin", "unix", "internal"):
        return Origin.LOCAL
    return Origin.NETWORK


class Asker:
    """`ask` in the thread that delivers; `listen` in the loop. Owns the reactor's descriptor."""

    def __init__(self, reactor: Reactor, says: Says, *, find: Callable[[Alert], Targets] = targets) -> None:
        self._socket = socket.socket(fileno=reactor.descriptor)
        self._socket.setblocking(False)
        self._allowed: Mapping[str, tuple[str, ...]] = reactor.allowed
        self._says = says
        self._find = find
        self._lock = threading.Lock()
        self._number = 0
        self._pending: dict[int, tuple[int, tuple[Kind, str] | None, int]] = {}
        self._asked: OrderedDict[tuple[Kind, str], int] = OrderedDict()
        self.gone = False
        """The reactor has closed its end: it has ended, or reads nothing of ours any more."""
        self.counts: dict[Deed, int] = {"asked": 0, "unallowed": 0, "repeated": 0, "dropped": 0, "held": 0}
        self._held = 0
        """Time of the newest event that was refused for one of HOLD_ON."""

    def ask(
        self,
        alert: Alert,
        origin: Origin,
        *,
        keywords: bool,
        why: str,
        only: frozenset[Kind] | None = None,
        repeated: bool = False,
        seconds: Mapping[Kind, int] | None = None,
    ) -> int:
        """Ask for everything that is allowed and that the event offers a target for; how many requests were sent.

        only: of these kinds alone. seconds: how long each shall last; otherwise as reactions.conf says. repeated: it
        was told before, and somebody was notified; only what has a target, which may be another one, is asked for.
        """
        level = alert.heading.level
        kinds = [kind for kind in Kind if level in self._allowed.get(kind.value, ())]
        if only is not None:
            kinds = [kind for kind in kinds if kind in only]
        if repeated:
            kinds = [kind for kind in kinds if TARGETS[kind] is not None]
        elif not kinds:
            self.counts["unallowed"] += 1
        if not kinds:
            return 0
        found = self._find(alert)
        id_ = alert.event.id
        time = id_.seconds * 1000 + id_.millis
        event = b""
        sent = 0
        for kind in kinds:
            if kind not in found.of or (keywords and kind is not Kind.NOTIFY):
                continue
            event = event or _event(alert)
            request = Request(
                number=1,
                kind=kind,
                target=found.of[kind],
                deadline=time + DEADLINE,
                event_id=str(id_),
                event_time=time,
                origin=origin,
                level=Level(level),
                keywords=keywords,
                record_type=found.record_type,
                head=found.head,
                witness=found.witness,
                seconds=(seconds or {}).get(kind, 0),
                rule=f"{alert.heading.title} [{alert.heading.id}]"[:MAX_TEXT],
                why=why[:MAX_TEXT],
                event=event,
            )
            sent += self._send(request, alert.number)
        return sent

    def _send(self, request: Request, alert: int) -> bool:
        what = (request.kind, request.subject)
        with self._lock:
            last = self._asked.get(what)
            if request.target is not None and last is not None and abs(request.event_time - last) < AGAIN:
                self.counts["repeated"] += 1
                return False
            if request.kind is not Kind.NOTIFY and abs(request.event_time - self._held) < HOLD_MS:
                self.counts["held"] += 1
                return False
            if self.gone or len(self._pending) >= PENDING:
                self.counts["dropped"] += 1
                return False
            self._number += 1
            request = attrs.evolve(request, number=self._number)
            try:
                # A mistake of ours, or of the event's, would show here; then it is as if it could not be sent.
                data = encode_request(request)
                self._socket.send(data, socket.MSG_NOSIGNAL)
            except (ValueError, OSError):
                self.counts["dropped"] += 1
                return False
            self._pending[request.number] = (alert, what, request.event_time)
            self._asked.pop(what, None)
            self._asked[what] = request.event_time
            if len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
            self.counts["asked"] += 1
        return True

    async def listen(self) -> None:
        """Take results until the reactor is gone."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                with self._lock:
                    self.gone = True
                    self._pending.clear()
                return
            try:
                result = decode_result(data)
            except RemoteProtocolError:
                continue  # a newer reactor's; what it did is in its journal
            self._heard(result)

    def _heard(self, result: Result) -> None:
        with self._lock:
            alert, what, time = self._pending.pop(result.number, (0, None, 0))
            if what is not None and result.outcome in (Outcome.SUPPRESSED, Outcome.FAILED):
                if result.reason in TRY_AGAIN:
                    self._asked.pop(what, None)
                if result.reason in HOLD_ON:
                    self._held = max(self._held, time)
        self._says(result, alert)

    def close(self) -> None:
        """Close our end: the reactor stays as long as something waits for its end."""
        self._socket.close()


def _event(alert: Alert) -> bytes:
    """The event for mail, command and webhook; without its records if it is longer than the reactor takes."""
    told = as_alert(alert)
    data = json.dumps(told).encode()
    if len(data) > MAX_EVENT:
        data = json.dumps({**told, "records": [], "records_cut": len(alert.event.raw)}).encode()
    if len(data) > MAX_EVENT:
        data = json.dumps({key: told[key] for key in ("alert", "rule_id", "title", "level", "event", "time")}).encode()
    return data


__all__ = ["AGAIN", "DEADLINE", "Asker", "Says", "origin_of"]
