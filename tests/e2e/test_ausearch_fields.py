"""Field by field against `ausearch -i`, on recorded and hand-made logs. Where we differ, a rule says why
(tests/e2e/ausearch_rules.py), and docs/formats/interpretation.md lists the rules.

Of the large recordings some 20,000 records are drawn; AUDISP_WHOLE=1 in the environment compares all of them.
"""

from __future__ import annotations

import lzma
import os
import random
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest
from _pytest.mark import ParameterSet

from audisp.parse.fieldtypes import FieldType, field_type
from audisp.parse.record import Record
from tests.e2e.ausearch_rules import RULES, Difference, another_version, explain, shown
from tests.needs import CORPUS, ROOT, needs

pytestmark = needs("ausearch")


@pytest.fixture(autouse=True, scope="module")
def _version() -> None:
    if reason := another_version():
        pytest.skip(reason)


DRAWN: Final = 20_000
"""Records compared of a large recording: some three seconds."""

_HEAD: Final = re.compile(r"(?:node=(\S+) )?type=(\S+) msg=audit\((\d+)\.(\d+):(\d+)\):? ?([^\r]*)")
_SHOWN: Final = re.compile(r"(?:node=(\S+) )?type=(\S+) msg=audit\(([^)]*\.\d+):(\d+)\) : (.*)", re.S)
_UNNAMED: Final = frozenset({"seresult", "seperms"})
"""Words of an AVC that stand in the record without a name: ausearch shows them as they are."""

Key = tuple[str | None, str, str, str]


def _key(line: str) -> tuple[Key, str] | None:
    """Node, type, time as ausearch prints it, serial; and the text behind."""
    found = _HEAD.match(line)
    if found is None or int(found[3]) > 4e9:
        return None
    node, type_, seconds, milliseconds, serial, body = found.groups()
    date = time.strftime("%m/%d/%y %H:%M:%S", time.gmtime(int(seconds))) + f".{int(milliseconds):03}"
    return (node, type_, date, str(int(serial))), body


def _drawn(lines: list[str]) -> list[str]:
    """Whole events, up to DRAWN records, the same ones each time."""
    if len(lines) <= DRAWN or os.environ.get("AUDISP_WHOLE"):
        return lines
    events: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        events[line[line.find("msg=audit(") : line.find(")")]].append(line)
    chosen = random.Random(1).sample(sorted(events), len(events) * DRAWN // len(lines))
    return [line for each in sorted(chosen) for line in events[each]]


def _ausearch(path: Path) -> dict[Key, list[str]]:
    """What `ausearch -i` prints of a file: the text of each record, in the order of the file."""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    done = subprocess.run(["ausearch", "-i", "-if", str(path)], env=environment, capture_output=True, check=False)
    out: dict[Key, list[str]] = defaultdict(list)
    for line in done.stdout.decode("latin-1").split("\n"):
        if found := _SHOWN.match(line):
            node, type_, date, serial, text = found.groups()
            out[node, type_, date, serial].insert(0, text)  # it turns the records of an event round
    return out


@attrs.define
class Comparison:
    """What came of one file. equal: fields on which we agree. rules: how often each was needed. wrong: the rest."""

    records: int = 0
    equal: int = 0
    rules: Counter[str] = attrs.Factory(Counter)
    wrong: list[Difference] = attrs.Factory(list)

    def fields(self, record: Record, text: str) -> None:
        """Compare one record with what ausearch printed of it."""
        items = [item for item in record.outer_items() + record.inner_items() if item[0] not in _UNNAMED and item[1]]
        at = 0
        for index, (name, raw) in enumerate(items):
            ours = shown(record.type, name, raw, record.fields)
            if field_type(record.type, name, raw) in (FieldType.UID, FieldType.GID):
                ours = record.added(name) or ours  # the sender's own names come before this machine's
            start = _find(text, name, at)
            if start < 0:
                self.wrong.append(Difference(record.type, name, raw, ours, "(not shown)", record.fields))
                continue
            if text.startswith(ours, start) and text[start + len(ours) : start + len(ours) + 1] in (*" ,':)", ""):
                at = start + len(ours)
                self.equal += 1
                continue
            end = _find(text, items[index + 1][0], start) if index + 1 < len(items) else -1
            end = end - len(items[index + 1][0]) - 2 if end >= 0 else len(text)
            difference = Difference(record.type, name, raw, ours, text[start:end].removesuffix(" "), record.fields)
            rule = explain(difference)
            if rule is None:
                self.wrong.append(difference)
            else:
                self.rules[rule] += 1
            at = start


def _find(text: str, name: str, at: int) -> int:
    """Where the value of the next field of this name starts; -1 if there is none."""
    found = re.compile(rf"(?:^|[ '(]){re.escape(name)}=").search(text, max(at - 1, 0))
    return found.end() if found else -1


def _compare(lines: list[str], folder: Path) -> Comparison:
    path = folder / "audit.log"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    ours: dict[Key, list[str]] = defaultdict(list)
    for line in lines:
        found = _key(line)
        if found:
            ours[found[0]].append(found[1])
    theirs = _ausearch(path)
    comparison = Comparison()
    for key, bodies in ours.items():
        # ausearch leaves out what it takes for malformed and parts of events that are split; that is no matter here.
        if len(bodies) == len(theirs[key]) and "old auid=" not in bodies[0]:
            for body, text in zip(bodies, theirs[key], strict=True):
                comparison.fields(Record(key[1], body), text)
                comparison.records += 1
    return comparison


def _recorded() -> Iterator[ParameterSet]:
    large = [CORPUS / "mixed.log.xz", CORPUS / "mixed-enriched.log.xz"]
    small = [CORPUS / "sigma_positive.log", CORPUS / "nasty.log", *sorted(CORPUS.glob("public/*/*.log"))]
    for path in (*large, *small):
        yield pytest.param(path, marks=needs("corpus"), id=path.name)
    for path in sorted((ROOT / "tests" / "corpus").glob("*.log")):
        yield pytest.param(path, id=f"our {path.name}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", list(_recorded()))
def test_recorded(path: Path, tmp_path: Path) -> None:
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    lines = _drawn([line.removesuffix("\r") for line in data.decode("latin-1").split("\n") if "\0" not in line])
    comparison = _compare(lines, tmp_path)
    assert not comparison.wrong[:20]
    # A few short files consist half of what ausearch leaves out.
    share = 0.9 if len(lines) > 100 else 0.4
    assert comparison.records >= share * sum(_key(line) is not None for line in lines if "type=EOE" not in line)
    assert comparison.equal > 3
    assert set(comparison.rules) <= set(RULES)


def test_a_difference_is_found(tmp_path: Path) -> None:
    """The comparison itself: a record that ausearch shows, against fields that are not in it."""
    line = next(
        line for line in (ROOT / "tests" / "corpus" / "nasty.log").read_bytes().split(b"\n") if b"=SYSCALL" in line
    )
    path = tmp_path / "audit.log"
    path.write_bytes(line + b"\n")
    (text,) = next(iter(_ausearch(path).values()))
    comparison = Comparison()
    comparison.fields(Record("SYSCALL", "arch=c000003e syscall=2 exit=-13 a9=1"), text)
    assert [each.name for each in comparison.wrong] == ["syscall", "exit", "a9"]
    assert comparison.equal == 1


def test_every_rule_is_documented() -> None:
    text = (ROOT / "docs" / "formats" / "interpretation.md").read_text()
    table = text[text.index("## Differences from ausearch -i") :]
    assert {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")} - {"name"} == set(RULES)
