"""`audisp hids test`: recorded logs against rules."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from audisp.cli.cat import COLLECT, TROUBLE, Catting, Sink, complain, pieces, standard_output
from audisp.cli.hids_scores import scored_line, scored_object, scores_of
from audisp.detect.correlate import Finding
from audisp.detect.detector import Detector
from audisp.detect.scores import Scores
from audisp.detect.standing import Scored
from audisp.event import Batch
from audisp.hids.load import load
from audisp.hids.told import as_line, as_object
from audisp.parse.form import terminal_safe
from audisp.shapes.raw import Raw
from audisp.shapes.shape import ShapeSettings

OK: Final = 0
"""Exit status: all was read."""
MICRO: Final = 1_000
"""Nanoseconds in a microsecond."""


class Replay:
    """What stands at the end of the way that `audisp cat` takes: events go in, findings are written."""

    def __init__(
        self,
        detector: Detector,
        put: Callable[[Finding], None],
        scores: Scores | None = None,
        put_scored: Callable[[Scored], None] | None = None,
    ) -> None:
        self.detector, self.scores = detector, scores
        self.findings = 0
        self._put, self._put_scored = put, put_scored

    def take(self, batch: Batch) -> None:
        """A batch. Nothing is left of it for who comes after (`Catting`'s `pick`)."""
        findings = self.detector.detect(batch)
        for each in findings:
            self.findings += 1
            self._put(each)
        if self.scores is not None:
            for scored in self.scores.feed(batch, findings, self.detector.scan):
                if self._put_scored is not None:
                    self._put_scored(scored)


def replay(
    files: list[str],
    detector: Detector,
    put: Callable[[Finding], None],
    scores: Scores | None = None,
    put_scored: Callable[[Scored], None] | None = None,
) -> tuple[int, int]:
    """Read the files ("-": standard input); exit status, and how many findings there were. scores: what they add up to,
    if anybody wants to know; put_scored gets what reached its threshold."""
    replaying = Replay(detector, put, scores, put_scored)
    catting = Catting(Raw(ShapeSettings()), _nothing, replaying.take)
    status = OK
    for name in files:
        try:
            catting.take(pieces(name))
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(name, error, "audisp hids test")
            status = TROUBLE
    catting.finish()
    if catting.rejected:
        print(f"audisp hids test: {catting.rejected:,} lines are no audit records, and were left out", file=sys.stderr)
    return status, replaying.findings


def _nothing(_: bytes) -> None:
    """Nothing is left to be written."""


def test(
    files: list[str],
    rules: list[Path],
    *,
    as_json: bool,
    timing: bool,
    prefilter: bool,
    scoring: bool,
    ids_conf: Path | None,
) -> int:
    """Write what is found; returns the exit status. scoring: with scores; an ids_conf implies it. Raises
    ConfigError for rules or an ids.conf that cannot be read, and BrokenPipeError."""
    gc.set_threshold(*COLLECT)
    scores = scores_of(ids_conf) if scoring or ids_conf is not None else None
    loaded = load(rules)
    clock = time.perf_counter_ns if timing else None
    detector = Detector(loaded, prefilter=prefilter, clock=clock, watched=() if scores is None else scores.watched)
    refused = len(loaded.refused) + len(detector.matcher.refused)
    if refused:
        print(f"audisp hids test: {refused} rules are not used; audisp hids check says why", file=sys.stderr)
    if not detector.matcher.rules:
        print("audisp hids test: there is no rule to test with", file=sys.stderr)
        return TROUBLE
    sink = Sink(standard_output())
    write = as_object if as_json else as_line
    write_scored = scored_object if as_json else scored_line
    status, findings = replay(
        files,
        detector,
        lambda finding: sink.write(write(finding)),
        scores,
        lambda scored: sink.write(write_scored(scored)),
    )
    if timing:
        print(timing_table(detector), file=sys.stderr)
    if not as_json:
        matcher = detector.matcher
        print(
            f"audisp hids test: {findings:,} findings in {matcher.events:,} events, {len(matcher.rules)} rules",
            file=sys.stderr,
        )
        if scores is not None:
            print(f"audisp hids test: {scores.counts.fired:,} times a score reached its threshold", file=sys.stderr)
    return status


def timing_table(detector: Detector) -> str:
    """What each rule cost, the most expensive first; rules that were never asked are one line."""
    rules = sorted(detector.matcher.rules, key=lambda each: -each.spent)
    asked = [each for each in rules if each.asked]
    lines = [f"{'us':>10} {'asked':>9} {'us/ask':>7} {'hits':>7}  rule"]
    lines += [
        f"{each.spent / MICRO:>10,.0f} {each.asked:>9,} {each.spent / MICRO / each.asked:>7.1f} {each.hits:>7,}  "
        f"{terminal_safe(each.rule.heading.title.encode('utf-8', 'replace'))}"
        for each in asked
    ]
    matcher = detector.matcher
    lines.append(f"{len(rules) - len(asked)} of {len(rules)} rules were never asked")
    lines.append(f"{matcher.looked_at:,} of {matcher.events:,} events were taken apart")
    return "\n".join(lines)


__all__ = ["Replay", "replay", "test"]
