"""What of detection is fuzzed: the reader of written rules, rules on events of any bytes, scores of them, and the
reader of kept scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from audisp.detect.form import (
    ANY,
    And,
    FormError,
    Heading,
    Is,
    Node,
    Not,
    Or,
    Regex,
    Rule,
    Source,
    Text,
    decode,
    encode,
)
from audisp.detect.matcher import Matcher
from audisp.detect.parents import Known
from audisp.detect.prefilter import Prefilter
from audisp.detect.scores import Scores
from audisp.detect.weights import ScoreSettings
from audisp.errors import ParseError
from audisp.event import Batch, Event, runs
from audisp.parse.record import RecordReader


def written_form(data: bytes) -> None:
    """Bytes from the child: a set of rules that is written and read again alike, or a FormError."""
    try:
        rules = decode(data)
    except FormError:
        return
    assert decode(encode(rules)) == rules


def _text(field: str | None, *parts: str | int) -> Is:
    return Is(field, Text(parts))


CONDITIONS: Final[tuple[tuple[Source, Node], ...]] = (
    ("auditd", _text("a0", "a")),
    ("auditd", And((_text("type", "execve"), _text(None, ANY, "b /", ANY)))),
    ("auditd", And((_text("type", "PATH"), _text("name", "/etc/", ANY)))),
    ("auditd", And((_text("type", "PATH"), _text("name", ANY, "/.", ANY)))),
    ("auditd", _text("SYSCALL", "execve")),
    ("auditd", _text("key", "a")),
    ("auditd", Is("a1", Regex("(^|/)b[^/]", "i"))),
    ("auditd", _text(None, ANY, "res", ANY)),
    ("process_creation", And((_text("Image", ANY, "/sh"), Not(_text("CommandLine", "sh", ANY))))),
    ("process_creation", Or((_text("ParentImage", ANY, "sh"), _text("CommandLine", ANY, "-c ", ANY)))),
    ("file_event", _text("TargetFilename", ANY, "b", ANY)),
    ("network_connection", _text("DestinationPort", "443")),
    ("network_connection", Not(_text("DestinationIp", "127.0.0.1"))),
)


def _parent(event: Event) -> Known | None:
    return Known(b"/bin/bash", b"bash -c x") if b" ppid=1" in event.raw else None


@functools.cache
def _matcher(*, prefilter: bool) -> Matcher:
    rules = [Rule(Heading(str(at), ""), source, node) for at, (source, node) in enumerate(CONDITIONS)]
    return Matcher(rules, parents=_parent, prefilter=prefilter)


def _found(data: bytes, *, prefilter: bool) -> list[tuple[str, str, str]]:
    batch = Batch(data, data.count(b"\n"), "fuzz", 0.0, RecordReader())
    hits = _matcher(prefilter=prefilter).match(batch)
    return [(each.rule.heading.id, each.event.stamp, each.view.kind) for each in hits]


def on_events(stream: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    """Rules find the same with and without the prefilter. stream: makes records of fuzz."""

    def target(data: bytes) -> None:
        lines = stream(data)
        assert _found(lines, prefilter=True) == _found(lines, prefilter=False)

    return target


SCORING: Final = ScoreSettings(max_entities=4, max_pairs=8, learning=0.001, min_support=1)
"""So small that everything is full at once."""


@functools.cache
def _shared() -> Prefilter:
    """Of the rules, and of what scores look for."""
    return Prefilter([each.rule for each in _matcher(prefilter=True).rules], watched=Scores(SCORING).watched)


def on_scores(stream: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    """Scores are the same with the scan of somebody else's rules and with their own, and all of them can be kept.
    stream: makes records of fuzz."""

    def target(data: bytes) -> None:
        lines = stream(data)
        kept = []
        for shared in (False, True):
            scores = Scores(SCORING)
            batch = Batch(lines, lines.count(b"\n"), "fuzz", 0.0, RecordReader())
            scores.feed(batch, (), _shared().scan(lines, runs(lines)) if shared else None)
            for event in batch.events:
                assert all(0 <= each.score <= 4 * each.threshold for each in scores.standing(event))
            kept.append(scores.save())
        assert kept[0] == kept[1]
        again = Scores(SCORING)
        again.restore(kept[0])
        assert len(again.save()) == len(kept[0])

    return target


def kept_scores(data: bytes) -> None:
    """Bytes of a file: scores that can be written again, or a ParseError."""
    scores = Scores(SCORING)
    try:
        scores.restore(data)
    except ParseError:
        return
    again = Scores(SCORING)
    again.restore(scores.save())
