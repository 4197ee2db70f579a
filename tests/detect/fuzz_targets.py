"""What of detection is fuzzed: the reader of written rules, and rules on events of any bytes."""

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
from audisp.event import Batch, Event
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
