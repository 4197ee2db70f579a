"""A set of rules at work: batches of events in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from audisp.detect.correlate import Correlator, Finding
from audisp.detect.form import RuleSet
from audisp.detect.matcher import Hit, Matcher
from audisp.detect.prefilter import Scan
from audisp.detect.views import Parents
from audisp.event import Batch


class Detector:
    """Not thread-safe. All as of `Matcher`; correlations keep their state from batch to batch."""

    def __init__(
        self,
        rules: RuleSet,
        *,
        parents: Parents | None = None,
        told: Parents | None = None,
        prefilter: bool = True,
        clock: Callable[[], int] | None = None,
        watched: Sequence[tuple[bytes, int]] = (),
    ) -> None:
        """watched: `Scores.watched`, if there are scores; they want `scan` then."""
        self.rules = rules
        self.matcher = Matcher(
            rules.rules, parents=parents, told=told, prefilter=prefilter, clock=clock, watched=watched
        )
        self.correlator = Correlator(rules.correlations)
        self._silent = {each.heading.id for each in rules.correlations if each.silent}

    @property
    def scan(self) -> Scan | None:
        """Of the last batch."""
        return self.matcher.scan

    def detect(self, batch: Batch) -> list[Finding]:
        """What is recognised in a batch, in order of its events."""
        findings: list[Finding] = []
        for hit in self.matcher.match(batch):
            if not hit.rule.silent:
                findings.append(found(hit))
            for each in self.correlator.feed(hit):
                if each.heading.id not in self._silent:
                    findings.append(each)
        return findings


def found(hit: Hit) -> Finding:
    """A rule's own finding."""
    return Finding(hit.rule.heading, hit.event, hit.view.kind, hit)
