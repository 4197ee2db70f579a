"""Logs through rules, as the tests want it: short."""

from __future__ import annotations

import functools
import uuid
from pathlib import Path
from typing import Final

from audisp.cli.hids_test import replay
from audisp.detect.correlate import Finding
from audisp.detect.detector import Detector
from audisp.detect.form import RuleSet
from audisp.event import as_batch
from audisp.hids.load import load, translate
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.needs import CORPUS

SIGMA: Final = CORPUS / "sigma"


@functools.cache
def sigma_rules() -> RuleSet:
    """The rules of the corpus, loaded once."""
    return load([SIGMA])


def rules_of(*texts: str) -> RuleSet:
    """Rules written in a test, each text a file."""
    return translate([(f"{at}.yml", text.encode()) for at, text in enumerate(texts)])


def id_of(name: str) -> str:
    """The id that `rule` gives."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def rule(detection: str, *, name: str = "r", source: str = "service: auditd", level: str = "high") -> str:
    """A Sigma rule around a detection, which is YAML and indented by nothing. name: also its title."""
    body = "\n".join("    " + line for line in detection.strip().splitlines())
    head = f"title: {name}\nname: {name}\nid: {id_of(name)}\nlogsource:\n    product: linux\n    {source}\n"
    return f"{head}detection:\n{body}\nlevel: {level}\n"


def correlation(text: str, *, name: str = "c", source: str = "") -> str:
    """A document with a correlation, whose text is indented by nothing."""
    body = "\n".join("    " + line for line in text.strip().splitlines())
    return f"title: {name}\nname: {name}\nid: {id_of(name)}\n{source}correlation:\n{body}\nlevel: critical\n"


def findings(rules: RuleSet, path: Path, *, prefilter: bool = True) -> list[Finding]:
    """What is found in a file."""
    found: list[Finding] = []
    replay([str(path)], Detector(rules, prefilter=prefilter), found.append)
    return found


def detect(rules: RuleSet, lines: str | bytes, *, prefilter: bool = True) -> list[Finding]:
    """What is found in records, all of which are one batch."""
    data = lines.encode() if isinstance(lines, str) else lines
    assembler = Assembler("test", RecordReader(), recorded=True)
    detector = Detector(rules, prefilter=prefilter)
    found: list[Finding] = []
    for batch in (
        assembler.feed(Block(data, data.count(b"\n"), "test", 0.0), 0.0),
        assembler.flush(0.0),
    ):
        if batch is not None:
            found += detector.detect(as_batch(batch, assembler.reader))
    return found


def fired(rules: RuleSet, lines: str | bytes) -> list[str]:
    """The titles of the rules that are true of these records, sorted; the same with and without prefilter."""
    with_it = sorted(each.heading.title for each in detect(rules, lines))
    assert with_it == sorted(each.heading.title for each in detect(rules, lines, prefilter=False))
    return with_it
