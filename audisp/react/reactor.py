"""The reactor: from a request to an act that is in the journal first, and back again when its time is over.

Invariants:
- Between the judgement and the journal nothing else runs, so that no two requests pass under the same cap.
- No act without its entry, synced, before it. What cannot be journaled does not happen.
- An act that can be undone is open until its undo is in the journal; that an undo is tried again is harmless.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.config.reactions import ReactionsConf
from audisp.errors import AudispError, StoreError
from audisp.react import said
from audisp.react.books import MAX_NOTE, Act, Books, Now
from audisp.react.journal import Entry, Journal
from audisp.react.judge import REASONS, Judge, Refused
from audisp.react.means import Failed, Left, Means, Prepared
from audisp.react.request import Kind, Outcome, Request, Result

MAX_RUNNING: Final = 16
"""Acts being carried out at a time: each may be a program for as long as `deadline`."""
MAX_RESULT: Final = 2000
"""Characters of a result's text."""
RETRY: Final = 60.0
"""Seconds until an undo that failed is tried again."""
LONGEST_SLEEP: Final = 5.0
"""Seconds between two looks at the clock: trio's stands still while the machine sleeps, and ours does not."""

SURPRISES: Final = (OSError, ValueError, KeyError)
"""What reading a file of the system that is not as it should be ends in. It costs the one act, not the reactor."""


class Reactor:
    """Carries out requests. Use `open` first, `close` last.

    means: by kind. clock: this moment. say: a severity and one line for the log. Every result, also of what nobody
    asked for (an undo by timer), goes to `tell`.
    """

    def __init__(
        self,
        conf: ReactionsConf,
        state: Path,
        means: Mapping[Kind, Means],
        judge: Judge,
        *,
        clock: Callable[[], Now],
        tell: Callable[[Result], Awaitable[None]],
        say: Callable[[str, str], None],
    ) -> None:
        self.books = Books()
        self._conf = conf
        self._state = state
        self._means = means
        self._judge = judge
        self._clock = clock
        self._tell = tell
        self._say = say
        self._journal: Journal | None = None
        self._running: set[int] = set()
        self._not_before: dict[int, float] = {}
        self._changed = trio.Event()

    def open(self) -> None:
        """Open the journal and read it. StoreError."""
        journal = Journal(self._state, self._kept)
        for entry in journal.entries:
            self.books.take(entry)
        journal.entries = []
        if journal.damaged or self.books.strange:
            self._say(
                "error", f"{journal.damaged} damaged and {self.books.strange} senseless entries in {journal.path}"
            )
        self._journal = journal
        self.books.forget(self._clock())

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    async def reconcile(self) -> None:
        """After a start: what was begun and not ended is confirmed or undone, what is over is undone."""
        for act in list(self.books.acts.values()):
            if act.step == "begun" and not act.undoable:
                self._write({"step": "interrupted", "id": act.id})
                await self._result(act, Outcome.FAILED, "interrupted", REASONS["interrupted"])
            elif act.undoable:
                await self._reconcile(act)

    async def handle(self, request: Request) -> Result:
        """Judge the request and carry it out. Everything that can be wrong is in the result."""
        decided = self.decide(request)
        if isinstance(decided, Result):
            return decided
        return await self.carry_out(decided, request)

    def decide(self, request: Request) -> Act | Result:
        """An act that is begun, in the journal; or the result, if there is to be none. Syncs a file, does not wait."""
        now = self._clock()
        self.books.forget(now)
        try:
            self._judge.judge(request, now)
            means = self._means.get(request.kind)
            if means is None:
                raise Refused("kind")
            prepared = _prepared(means, request, now)
            self._judge.counted(request, prepared.subject, self.books, now)
            if not self._conf.dry_run and len(self._running) >= MAX_RUNNING:
                raise Refused("busy")
            act = Act(
                id=self.books.last + 1,
                kind=request.kind.value,
                step="dry" if self._conf.dry_run else "begun",
                subject=prepared.subject,
                aim=prepared.aim,
                saved=prepared.saved,
                seconds=prepared.seconds,
                wall=now.wall,
                boot=now.boot,
                boot_id=now.boot_id,
                event=request.event_id,
                rule=request.rule[:MAX_NOTE],
                level=request.level.value,
                why=request.why[:MAX_NOTE],
            )
            self._write({"act": attrs.asdict(act)}, must=True)
        except Refused as refused:
            if refused.trips:
                self._trip(str(refused))
            return self._made(None, request, Outcome.SUPPRESSED, refused.code, str(refused))
        if self._conf.dry_run:
            text = f"would have: {request.kind} {act.subject}"
            self._say("notice", f"dry run: act {act.id}: {request.kind} {act.subject} (rule {request.rule[:MAX_NOTE]})")
            return self._made(act, request, Outcome.DRY_RUN, "", text)
        self._running.add(act.id)
        return act

    async def carry_out(self, act: Act, request: Request) -> Result:
        """Carry out what `decide` has begun."""
        # Once begun it is brought to its end, or to its deadline: a half-locked account is worse than a late stop.
        with trio.CancelScope(shield=True):
            made = await self._carried_out(act, request)
        return made

    async def _carried_out(self, act: Act, request: Request) -> Result:
        means = self._means[request.kind]
        try:
            text = await means.carry_out(act, request)
        except (AudispError, *SURPRISES) as error:
            await self._take_back(act, means)
            self._write({"step": "failed", "id": act.id})
            self._say("error", f"act {act.id}: {act.kind} {act.subject} failed: {error}")
            code = "gone" if isinstance(error, Failed) and error.gone else "failed"
            return self._made(act, request, Outcome.FAILED, code, str(error))
        finally:
            self._running.discard(act.id)
            self._changed.set()
        self._write({"step": "done", "id": act.id})
        self._say("warning", f"act {act.id}: {text} (rule {act.rule})")
        return self._made(act, request, Outcome.DONE, "", text)

    async def undo(self, number: int) -> Result:
        """Undo an act because a person says so. Raises AudispError if there is none that could be."""
        act = self.books.acts.get(number)
        if act is None or not act.undoable:
            raise AudispError(f"act {number} is not in force, or there is no undo of its kind")
        if act.id in self._running:
            raise AudispError(f"act {number} is being carried out or undone right now")
        return await self._undo(act, "asked")

    def resume(self) -> bool:
        """Close the breaker; True if it was open. What was counted stays counted. Raises StoreError."""
        was = bool(self.books.breaker)
        if was:
            self._write({"step": "resume", "wall": self._clock().wall}, must=True)
            self._say("notice", "the breaker is closed again")
        return was

    async def undo_in_time(self) -> None:
        """Undo what is over, for ever, as many at a time as may run: one that hangs holds up no other."""
        async with trio.open_nursery() as nursery:
            await self._undo_in_time(nursery)

    async def _undo_in_time(self, nursery: trio.Nursery) -> None:
        while True:
            now = self._clock()
            self._changed = trio.Event()
            for act in self.books.due(now):
                if self._wait(act, now) <= 0 and len(self._running) < MAX_RUNNING:
                    self._running.add(act.id)
                    nursery.start_soon(self._undo, act, "time_over")
            full = len(self._running) >= MAX_RUNNING  # then one that ends wakes us
            waits = [self._wait(act, now) for act in self.books.timed() if act.id not in self._running]
            with trio.move_on_after(LONGEST_SLEEP if full else max(0.0, min(waits, default=LONGEST_SLEEP))):
                await self._changed.wait()

    def idle(self) -> bool:
        """Whether nothing runs and nothing waits for its time: then nobody needs us."""
        return not self._running and not self.books.timed()

    async def _reconcile(self, act: Act) -> None:
        now = self._clock()
        try:
            if act.seconds and act.left(now) <= 0:
                await self._undo(act, "time_over")
                return
            in_force = await self._means[Kind(act.kind)].in_force(act, now)
        except (AudispError, *SURPRISES) as error:
            self._say("error", f"act {act.id}: {act.kind} {act.subject}: cannot tell whether it is in force: {error}")
            return
        if not in_force:
            await self._undo(act, "interrupted" if act.step == "begun" else "not_in_force")
        elif act.step == "begun":
            self._write({"step": "done", "id": act.id})
            await self._result(act, Outcome.DONE, "confirmed", "was begun before a crash, and is in force")

    async def _undo(self, act: Act, reason: str) -> Result:
        self._running.add(act.id)
        try:
            with trio.CancelScope(shield=True):
                made = await self._undone(act, reason)
            return made
        finally:
            self._running.discard(act.id)
            self._changed.set()

    def _wait(self, act: Act, now: Now) -> float:
        """Seconds until this act is to be undone, or its undo tried again; bounded by what we may sleep."""
        if act.id in self._running:
            return LONGEST_SLEEP
        wait = max(act.left(now), self._not_before.get(act.id, -math.inf) - now.boot)
        return min(wait, LONGEST_SLEEP)

    async def _undone(self, act: Act, reason: str) -> Result:
        try:
            text = await self._means[Kind(act.kind)].undo(act)
        except Left as left:
            self._write({"step": "left", "id": act.id})
            return await self._result(act, Outcome.NOT_UNDONE, "changed", str(left))
        except (AudispError, *SURPRISES) as error:
            first = act.id not in self._not_before
            self._not_before[act.id] = self._clock().boot + RETRY
            self._say("error", f"act {act.id}: undo of {act.kind} {act.subject} failed: {error}")
            made = self._made(act, None, Outcome.NOT_UNDONE, "failed", str(error))
            if first:
                await self._tell(made)
            return made
        self._not_before.pop(act.id, None)
        self._write({"step": "undone", "id": act.id})
        return await self._result(act, Outcome.UNDONE, reason, text)

    async def _take_back(self, act: Act, means: Means) -> None:
        """What of a failed act has come about nevertheless."""
        if not act.saved.get("undo"):
            return
        try:
            await means.undo(act)
        except (AudispError, *SURPRISES) as error:
            self._say("warning", f"act {act.id}: {act.kind} {act.subject}: nothing taken back: {error}")

    async def _result(self, act: Act, outcome: Outcome, reason: str, text: str) -> Result:
        severity = "error" if outcome in (Outcome.FAILED, Outcome.NOT_UNDONE) else "notice"
        self._say(severity, f"act {act.id}: {text} ({reason})")
        made = self._made(act, None, outcome, reason, text)
        await self._tell(made)
        return made

    def _made(self, act: Act | None, request: Request | None, outcome: Outcome, reason: str, text: str) -> Result:
        kind = request.kind if request else Kind(act.kind) if act else Kind.NOTIFY
        until = 0
        if act is not None and outcome is Outcome.DONE and act.seconds:
            until = int((self._clock().wall + act.left(self._clock())) * 1000)
        return Result(
            number=request.number if request else 0,
            kind=kind,
            outcome=outcome,
            reason=reason,
            text=text[:MAX_RESULT],
            act=act.id if act else 0,
            until=max(0, until),
            record_type=said.record_type(kind, outcome),
            body=said.body(kind, outcome, reason, act=act, request=request),
        )

    def _trip(self, why: str) -> None:
        """Open the breaker, in memory even where the disk does not take it."""
        self._say("alert", f"the breaker is open: {why}; notices only, until `audisp hids reactions resume`")
        self._write({"step": "breaker", "why": why, "wall": self._clock().wall})

    def _write(self, entry: Entry, *, must: bool = False) -> None:
        """Journal the entry, and book it. must: Refused if it cannot be journaled, and then it is not booked."""
        assert self._journal is not None
        try:
            self._journal.append(entry)
        except (StoreError, ValueError) as error:
            if must:
                raise Refused("journal", str(error)) from error
            self._say("error", f"{error}: this is known only until our end: {entry.get('step')} {entry.get('id', '')}")
        self.books.take(entry)

    def _kept(self) -> list[Entry]:
        self.books.forget(self._clock())
        return list(self.books.kept())


def _prepared(means: Means, request: Request, now: Now) -> Prepared:
    try:
        return means.prepare(request, now)
    except SURPRISES as error:
        raise Refused("unreadable", f"{type(error).__name__}: {error}") from error
