"""What the plugin `hids` does with each batch: findings and scores, alerts of them, and requests to the reactor.

`deliver` runs in the plugin's own thread, `tick`, `heard` and `state` in its loop; one lock is around all of them. An
alert goes out at once: the audit record first, then the file, then the requests, so that what was done about it comes
after it. Nothing that fails on this way keeps the events from being looked at: it is said and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from audisp.config.ids import IdsConf, kinds
from audisp.detect.correlate import Finding
from audisp.detect.detector import Detector
from audisp.detect.form import LEVELS, Heading, RuleSet
from audisp.detect.scores import Scores
from audisp.detect.standing import Scored, Standing
from audisp.event import Batch
from audisp.hids.alertfile import AlertFile
from audisp.hids.asker import Asker, origin_of
from audisp.hids.ours import Ours
from audisp.hids.repeats import Repeated, Repeats, key_of
from audisp.hids.targets import by_keywords
from audisp.hids.told import Alert, as_alert, fields, record_of, standing
from audisp.plugin import Host
from audisp.react.request import Kind, Origin, Outcome, Result

MAX_PER_BATCH: Final = 1_000
"""Alerts of one batch that are given out; further ones are counted. A batch has some hundred events: a rule that is
true of each of them is no alarm, and what it finds is still scored."""
KINDS_OF: Final[Mapping[str, frozenset[Kind]]] = {
    "address": frozenset({Kind.NOTIFY, Kind.RUN, Kind.BLOCK}),
    "account": frozenset({Kind.NOTIFY, Kind.RUN, Kind.LOCK}),
    "session": frozenset({Kind.NOTIFY, Kind.RUN, Kind.END_SESSION, Kind.KILL, Kind.FREEZE, Kind.BLOCK, Kind.LOCK}),
    "tree": frozenset({Kind.NOTIFY, Kind.RUN, Kind.KILL, Kind.FREEZE}),
}
"""What may be done about a score of each kind of entity, where ids.conf does not say."""
NO_RECORD: Final = frozenset({"kind", "level", "collector"})
"""Why nothing was done that reactions.conf does not even ask for: nothing was suppressed, so there is no record."""
SCORE_LEVEL: Final = "high"
"""Of an alert about a score: several things have come together."""


@attrs.define
class Books:
    """What was done, for status."""

    findings: int = 0
    ours: int = 0
    """Findings in what we or our children did."""
    alerts: int = 0
    unwritten: int = 0
    """Alerts that the file did not take."""
    capped: int = 0
    """Findings beyond MAX_PER_BATCH."""
    acts: int = 0
    refused: int = 0


class Watcher:
    """Thread-safe. number: of the last alert there was. clock: seconds since the epoch. ours: None where events are
    other hosts'."""

    def __init__(
        self,
        rules: RuleSet,
        detector: Detector,
        scores: Scores,
        host: Host,
        file: AlertFile,
        *,
        number: int,
        clock: Callable[[], float],
        repeat_time: float,
        alert_level: str,
        collector: bool,
        ids: IdsConf | None = None,
        asker: Asker | None = None,
        ours: Ours | None = None,
    ) -> None:
        self.books = Books()
        self.asker = asker
        self._detector, self._scores, self._host, self._file = detector, scores, host, file
        self._clock, self._ids, self._ours, self._collector = clock, ids, ours, collector
        self._repeats = Repeats(repeat_time)
        self._least = LEVELS.index(alert_level)
        self._keywords = by_keywords(rules)
        self._number = number
        self._lock = threading.Lock()
        self._out: list[dict[str, Any]] = []
        """Objects for the file, of the batch at hand."""
        self._blocked: dict[int, Standing] = {}

    # ---- events ----

    def deliver(self, batch: Batch) -> None:
        """Look at a batch."""
        with self._lock:
            findings = self._not_ours(self._detector.detect(batch), batch)
            scored = self._scores.feed(batch, findings, self._detector.scan, now=self._clock())
            self.books.findings += len(findings)
            left = MAX_PER_BATCH
            for finding in findings:
                if LEVELS.index(finding.heading.level) < self._least:
                    continue
                if not left:
                    self.books.capped += 1
                    continue
                left -= 1
                self._found(finding, batch)
            for each in scored:
                self._reached(each, batch)
            self._write()

    def _not_ours(self, findings: Sequence[Finding], batch: Batch) -> list[Finding]:
        ours = self._ours
        if ours is None or not findings or self._origin(findings[0], batch) is not Origin.LIVE:
            return list(findings)
        kept = [each for each in findings if not ours.caused(each.event)]
        self.books.ours += len(findings) - len(kept)
        return kept

    def _origin(self, finding: Finding | Scored, batch: Batch) -> Origin:
        return origin_of(finding.event, spooled=batch.spooled, collector=self._collector)

    def _found(self, finding: Finding, batch: Batch) -> None:
        now, key = self._clock(), key_of(finding)
        number = self._repeats.again(key, finding.event, now)
        if number is None:
            alert = self._alert(finding.heading, finding, None)
            record = self._give_out(alert)
            for each in self._repeats.begin(key, alert.number, self._out[-1], record, now):
                self._tell(each)
        elif self.asker is None:
            return
        else:
            # Told already, and to be acted on all the same: it may be another process, another address.
            alert = Alert(
                number=number, heading=finding.heading, event=finding.event, view=finding.view, finding=finding
            )
        if self.asker is not None:
            keywords = finding.heading.id in self._keywords
            why = f"{finding.heading.title}: {finding.view}"
            origin = self._origin(finding, batch)
            self.asker.ask(alert, origin, keywords=keywords, why=why, repeated=number is not None)

    def _reached(self, scored: Scored, batch: Batch) -> None:
        title = f"Score of {scored.kind} {scored.key} has reached {scored.threshold:g}"
        tags = tuple(f"attack.{tactic}" for tactic in scored.tactics)
        heading = Heading(f"score-{scored.kind}", title, SCORE_LEVEL, tags=tags)
        alert = self._alert(heading, None, scored)
        self._give_out(alert)
        if self.asker is None or not scored.sure:
            return
        only, seconds = self._meant(scored)
        why = "; ".join(each.reason for each in scored.contributions[-3:])
        self.asker.ask(alert, self._origin(scored, batch), keywords=False, why=why, only=only, seconds=seconds)
        if scored.kind == "address":
            self._blocked[alert.number] = scored
            while len(self._blocked) > MAX_PER_BATCH:
                del self._blocked[next(iter(self._blocked))]

    def _meant(self, scored: Scored) -> tuple[frozenset[Kind], dict[Kind, int]]:
        """The kinds that are meant for such a score, and for how many seconds."""
        ids = self._ids
        if ids is None or scored.kind not in ("address", "session"):
            return KINDS_OF[scored.kind], {}
        words = ids.origin_reaction if scored.kind == "address" else ids.session_reaction
        times = {Kind.BLOCK: ids.block_address_time, Kind.LOCK: ids.lock_account_time}
        return frozenset({Kind.NOTIFY, Kind.RUN, *map(Kind, kinds(words))}), times

    # ---- alerts ----

    def _alert(self, heading: Heading, finding: Finding | None, scored: Scored | None) -> Alert:
        self._number += 1
        self.books.alerts += 1
        event = scored.event if scored is not None else finding.event if finding is not None else None
        assert event is not None
        return Alert(
            number=self._number,
            heading=heading,
            event=event,
            view="score" if finding is None else finding.view,
            finding=finding,
            score=None if scored is None else standing(scored),
            standing=[standing(each) for each in self._scores.standing(event)],
        )

    def _give_out(self, alert: Alert) -> tuple[int, str]:
        type_, rest = record_of(alert)
        self._host.emit(type_, fields(alert.number, rest))
        self._out.append(as_alert(alert))
        return type_, rest

    def _tell(self, repeated: Repeated) -> None:
        """Say how often an alert was repeated."""
        type_, rest = repeated.record
        self._host.emit(type_, fields(repeated.number, rest, repeated.more + 1))
        self._out.append(
            {**repeated.told, "count": repeated.more + 1, "repeated": repeated.more, "last": repeated.last}
        )

    def _write(self) -> None:
        out, self._out = self._out, []
        if not out:
            return
        try:
            self._file.write(out)
        except OSError as error:
            self.books.unwritten += len(out)
            self._host.count("alerts_unwritten", len(out))
            self._host.say("error", f"alerts.json cannot be written: {error.strerror}; they are in the stream alone")

    # ---- what comes by time, and from the reactor ----

    def tick(self) -> None:
        """Once in a while: repetitions whose time is over."""
        with self._lock:
            for each in self._repeats.over(self._clock()):
                self._tell(each)
            self._write()

    def heard(self, result: Result, alert: int) -> None:
        """What became of a request, or of an act whose time was over."""
        done = result.outcome in (Outcome.DONE, Outcome.UNDONE, Outcome.DRY_RUN)
        with self._lock:
            self.books.acts += result.outcome is Outcome.DONE
            self.books.refused += not done
            blocked = self._blocked.get(alert) if result.kind is Kind.BLOCK and result.outcome is Outcome.DONE else None
            if blocked is not None and result.until:
                self._scores.hold(blocked.id, result.until / 1000)
            if result.outcome is Outcome.SUPPRESSED and result.reason in NO_RECORD:
                return
            if result.record_type:
                self._host.emit(result.record_type, result.body)
            self._out.append(
                {
                    "reaction": result.kind.value,
                    "alert": alert,
                    "outcome": result.outcome.value,
                    "reason": result.reason,
                    "text": result.text,
                    "act": result.act,
                    "until": result.until,
                }
            )
            self._write()

    def finish(self) -> None:
        """At the end: what is still to be told."""
        with self._lock:
            for each in self._repeats.rest():
                self._tell(each)
            self._write()
            self._file.close()

    def save(self) -> bytes:
        """The scores, to be kept."""
        with self._lock:
            return self._scores.save()

    def state(self) -> Mapping[str, str]:
        """Lines for status."""
        matcher, books = self._detector.matcher, self.books
        lines = {
            "rules": str(len(matcher.rules)),
            "events": str(matcher.events),
            "findings": str(books.findings),
            "alerts": str(books.alerts),
            "repeated": str(self._repeats.counted),
            "ours": str(books.ours),
            "capped": str(books.capped),
            "unwritten": str(books.unwritten),
        }
        if self.asker is not None:
            lines |= {f"requests_{deed}": str(count) for deed, count in self.asker.counts.items()}
            lines |= {"acts": str(books.acts), "refused": str(books.refused)}
            lines["reactor"] = "gone" if self.asker.gone else "there"
        return lines | {name: str(count) for name, count in self._scores.counted().items()}
