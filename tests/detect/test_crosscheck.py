"""The same rules asked by somebody else: pySigma's SQLite backend, over tables made of the same views.

Each view is a row, each source a table; a rule is a SELECT. SQLite folds the names of columns, so fields are called by
number. Differences that are known, and why, stand in `EXPLAINED`; there must be no others.
"""

from __future__ import annotations

import copy
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import re2  # type: ignore[import-untyped, unused-ignore]
from sigma.backends.sqlite import sqliteBackend  # type: ignore[attr-defined]
from sigma.collection import SigmaCollection
from sigma.rule import SigmaRule

from audisp.cli.cat import Catting, pieces
from audisp.detect.form import SOURCES
from audisp.detect.matcher import Matcher
from audisp.detect.parents import RecordedParents
from audisp.detect.prefilter import fields_of
from audisp.detect.views import EventViews
from audisp.event import Batch, runs
from audisp.shapes.raw import Raw
from audisp.shapes.shape import ShapeSettings
from tests.detect.replaying import SIGMA, id_of, rule, rules_of, sigma_rules
from tests.needs import CORPUS, needs

pytestmark = pytest.mark.timeout(180)

TEXT: Final = "fulltext"
EXPLAINED: Final[dict[str, str]] = {}
"""Rules for which SQLite says something else, by id, and why."""

Found = set[tuple[str, str, str]]
"""Rule, event, source."""


def renamed(fields: list[str]) -> dict[str, str]:
    """A name of its own for each field, also where two differ by capital letters only."""
    return {field: f"f{at}" for at, field in enumerate(fields)}


def views_of(paths: list[Path], parents: RecordedParents) -> Iterator[tuple[str, str, Any]]:
    """Event, source and view, of all events of some logs."""
    batches: list[Batch] = []

    def keep(batch: Batch) -> None:
        batches.append(batch)

    for path in paths:
        catting = Catting(Raw(ShapeSettings()), lambda _: None, keep)
        catting.take(pieces(str(path)))
        catting.finish()
    for batch in batches:
        for run, event in zip(batch.found or runs(batch.data), batch.events, strict=True):
            views = EventViews(event, parents.of)
            for kind in views.lines:
                for view in views.records(kind):
                    yield event.stamp, "auditd", view
            for source in SOURCES[1:]:
                for each in views.of(source):
                    # Asked for now: later its parent's number may be another's.
                    each.get("ParentImage")
                    yield event.stamp, source, each
            if views.arguments is not None:
                start = parents.meet(run, asked=False)[1]
                if start is not None:
                    parents.note(start)


def readable(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def matches(pattern: str, value: str | None) -> bool:
    return value is not None and re2.search(pattern, value) is not None


def ask_sqlite(documents: dict[str, str], sources: dict[str, str], fields: list[str], paths: list[Path]) -> Found:
    """documents: rules by id, as YAML; sources: which table each is for."""
    names = renamed(fields)
    base = sqlite3.connect(":memory:")
    base.create_function("REGEXP", 2, matches, deterministic=True)
    columns = ", ".join(f"{each} TEXT COLLATE NOCASE" for each in [*names.values(), TEXT])
    for source in SOURCES:
        base.execute(f"CREATE TABLE {source} (event TEXT, {columns})")
    marks = ", ".join("?" * (len(names) + 2))
    for event, source, view in views_of(paths, RecordedParents()):
        values = [readable(view.get(field)) for field in fields]
        base.execute(f"INSERT INTO {source} VALUES ({marks})", [event, *values, readable(view.text())])  # noqa: S608
    found: Found = set()
    for id_, document in documents.items():
        collection = SigmaCollection.from_yaml(document)
        for each in collection.rules:
            assert isinstance(each, SigmaRule)
            _rename(each, names)
        backend: Any = sqliteBackend(  # type: ignore[no-untyped-call]
            fulltext_field=TEXT, table=sources[id_], collate_nocase=True
        )
        for query in backend.convert(collection):
            asked = re.sub(r"^SELECT \* FROM", "SELECT event FROM", query)
            found.update((id_, event, sources[id_]) for (event,) in base.execute(asked))
    return found


def _rename(given: SigmaRule, names: dict[str, str]) -> None:
    waiting: list[Any] = [*given.detection.detections.values()]
    while waiting:
        each = waiting.pop()
        waiting += getattr(each, "detection_items", [])
        if getattr(each, "field", None) is not None:
            each.field = names[each.field]


def ask_us(rules: Any, paths: list[Path]) -> Found:
    matcher = Matcher(rules.rules)
    found: Found = set()

    def take(batch: Batch) -> None:
        found.update((hit.rule.heading.id, hit.event.stamp, hit.rule.source) for hit in matcher.match(batch))

    for path in paths:
        catting = Catting(Raw(ShapeSettings()), lambda _: None, take)
        catting.take(pieces(str(path)))
        catting.finish()
    return found


def compare(rules: Any, documents: dict[str, str], paths: list[Path]) -> Found:
    """What both found; fails where they differ without an explanation."""
    sources = {each.heading.id: each.source for each in rules.rules}
    fields = sorted({field for each in rules.rules for field in fields_of(each.condition) if field is not None})
    ours = ask_us(rules, paths)
    theirs = ask_sqlite(documents, sources, fields, paths)
    differing = {each for each in ours ^ theirs if each[0] not in EXPLAINED}
    assert differing == set()
    return ours & theirs


@needs("corpus")
def test_sigmahqs_rules_on_the_corpus() -> None:
    rules = sigma_rules()
    documents = {each.heading.id: (SIGMA / each.heading.where).read_text() for each in rules.rules}
    paths = [CORPUS / "sigma_positive.log", CORPUS / "nasty.log", *sorted((CORPUS / "public").glob("*/*"))]
    found = compare(rules, documents, paths)
    assert len(found) >= 107 + 10
    assert copy.copy(EXPLAINED).keys() <= {each.heading.id for each in rules.rules}


OWN: Final = {
    "starts": rule("s:\n  type: EXECVE\n  a0: wget\n  a1|startswith: '--post'\ncondition: s", name="starts"),
    "several": rule("s:\n  type: execve\n  a0:\n    - id\n    - WHO*\ncondition: s", name="several"),
    "not": rule("s:\n  type: PATH\nf:\n  name|contains: /tmp\ncondition: s and not f", name="not"),
    "keywords": rule("e:\n  type: EXECVE\nk:\n  '|all':\n    - dd\n    - 'if='\ncondition: e and k", name="keywords"),
    "regex": rule("s:\n  type: EXECVE\n  a1|re: '^-[a-z]{2,}$'\ncondition: s", name="regex"),
    "absent": rule("s:\n  type: SYSCALL\n  key: null\ncondition: s", name="absent"),
    "there": rule("s:\n  type: SYSCALL\n  AUID|exists: true\ncondition: s", name="there"),
    "cased": rule("s:\n  type: EXECVE\n  a0|cased: ID\ncondition: s", name="cased"),
    "single": rule("s:\n  type: EXECVE\n  a0: i?\ncondition: s", name="single"),
    "names": rule("s:\n  type: SYSCALL\n  euid: 0\nn:\n  EUID: root\ncondition: s and not n", name="names"),
    "started": rule(
        "s:\n  Image|endswith: /id\n  User: root\ncondition: s", source="category: process_creation", name="started"
    ),
    "made": rule(
        "s:\n  TargetFilename|startswith: /etc/cron\ncondition: s", source="category: file_event", name="made"
    ),
    "asked": rule(
        "s:\n  DestinationPort:\n    - 4444\n    - 443\ncondition: s",
        source="category: network_connection",
        name="asked",
    ),
}


def test_own_rules_on_an_own_log() -> None:
    log = Path(__file__).parent / "log"
    found = compare(rules_of(*OWN.values()), {id_of(name): text for name, text in OWN.items()}, [log / "own.log"])
    assert {each[0] for each in found} == {id_of(name) for name in OWN}
