"""Which records are one event: our assembler against `ausearch --raw` and `ausearch`, on recorded and hand-made logs.

`--raw` says which records ausearch has, byte for byte; its default format, which leaves out what ENRICHED format
appends, has a line between two events. Where we differ a rule says why, and docs/shapes/csv.md lists the rules.
"""

from __future__ import annotations

import lzma
import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest
from _pytest.mark import ParameterSet

from audisp.event import Event
from tests.e2e.ausearch_rules import another_version
from tests.e2e.test_ausearch_csv import data_of, events, let_in
from tests.needs import CORPUS, ROOT, needs

pytestmark = needs("ausearch")

RULES: Final = ("split login", "decisions without avc", "cut short")
"""Every way in which what is one event differs, by the name it has in the documentation."""
CALL: Final = (
    b"arch=c000003e syscall=1 success=yes exit=4 a0=3 a1=0 a2=4 a3=0 items=0 ppid=1 pid=2 auid=1000 uid=0 gid=0 euid=0 "
    b'suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=5 comm="c" exe="/e" key=(null)'
)
LOGIN: Final = b"pid=2 uid=0 old-auid=4294967295 auid=1000 tty=(none) old-ses=4294967295 ses=5 res=1"
STAMP: Final = re.compile(rb"(?:node=(\S+) )?type=\S+ msg=audit\((\d+)\.(\d+):(\d+)\)")

Key = tuple[bytes, int, int, int]
"""Node, seconds, milliseconds, serial."""


@pytest.fixture(autouse=True, scope="module")
def _version() -> None:
    if reason := another_version():
        pytest.skip(reason)


def ausearch(path: Path, *options: str) -> bytes:
    """What ausearch prints of a file."""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    argv = ["ausearch", *options, "-if", str(path)]
    return subprocess.run(argv, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL).stdout


def key(line: bytes) -> Key | None:
    """What the records of one event have in common."""
    found = STAMP.match(line)
    return None if found is None else (found[1] or b"", int(found[2]), int(found[3]), int(found[4]))


@attrs.define
class Comparison:
    """What came of one log. equal: events that are the same. rules: how often each was needed. wrong: the rest."""

    events: int = 0
    equal: int = 0
    rules: Counter[str] = attrs.field(factory=Counter)
    split: list[int] = attrs.field(factory=list)
    """Serials of the events that ausearch makes two of."""
    wrong: list[str] = attrs.field(factory=list)


def compare(data: bytes, folder: Path) -> Comparison:
    """Ours beside ausearch's."""
    path = folder / "compared.log"
    good = let_in(data)
    path.write_bytes(good)
    theirs: dict[Key, list[Counter[bytes]]] = defaultdict(list)
    for chunk in ausearch(path).split(b"----\n")[1:]:
        lines = chunk.split(b"\n")[1:-1]
        if lines and (stamp := key(lines[0])):
            theirs[stamp].append(Counter(lines))
    # Of ENRICHED logs it puts the separator behind records that nothing was appended to.
    raw = Counter([line.removesuffix(b"\x1d") for line in ausearch(path, "--raw").split(b"\n")[:-1]])
    assert sum(raw.values()) == sum([sum(group.values()) for groups in theirs.values() for group in groups])
    result = Comparison()
    ours: dict[Key, list[Event]] = defaultdict(list)
    for event in events(good):
        stamp = key(event.raw)
        if stamp is not None:
            ours[stamp].append(event)
    for stamp, found in ours.items():
        before = result.equal
        one(found, theirs.get(stamp, []), result)
        if result.equal > before:
            bytes_of = Counter([line for event in found for line in event.raw.split(b"\n")[:-1]])
            assert all(raw[line] == count for line, count in bytes_of.items())
    result.wrong += [f"only theirs: {groups}" for stamp, groups in theirs.items() if stamp not in ours]
    return result


def one(found: list[Event], groups: list[Counter[bytes]], result: Comparison) -> None:
    """The events of one stamp."""
    result.events += len(found)
    mine = [Counter([line.partition(b"\x1d")[0] for line in event.raw.split(b"\n")[:-1]]) for event in found]
    if sorted(map(sorted, mine)) == sorted(map(sorted, groups)):
        result.equal += len(found)
        return
    rule = explain(found, mine, groups)
    result.rules[rule or ""] += 1
    if rule == "split login":
        result.split.append(found[0].id.serial)
    if rule is None:
        result.wrong.append(f"ours {mine}\ntheirs {groups}")


def explain(found: list[Event], mine: list[Counter[bytes]], groups: list[Counter[bytes]]) -> str | None:
    """The rule that accounts for a difference between the events of one stamp."""
    records = [record for event in found for record in event.records]
    logins = [group for group in groups if [line.split(b" ")[0] for line in group.elements()] == [b"type=LOGIN"]]
    if logins and len(groups) == len(mine) + 1 and sum(mine, Counter()) == sum(groups, Counter()):
        return "split login"
    if not groups and any(record.number in (1400, 1107) and "avc:" not in record.body for record in records):
        return "decisions without avc"
    if not groups and any(record.type == "SYSCALL" and record.raw("ppid") is None for record in records):
        return "cut short"
    return None


def _sources() -> Iterator[ParameterSet]:
    for name in ("mixed.log", "nasty-events.log"):
        yield pytest.param(ROOT / "tests" / "corpus" / name, id=name)
    names = ["mixed.log.xz", "mixed-enriched.log.xz", "sigma_positive.log", "nasty.log"]
    for path in [*(CORPUS / name for name in names), *sorted(CORPUS.glob("public/*/*.log"))]:
        yield pytest.param(path, id=path.name, marks=needs("corpus"))


MADE_UP: Final = b"".join(
    b"type=%b msg=audit(17000000%02d.000:%d): %b\n" % (type_, at, at, body)
    for at, records in enumerate(
        [
            [(b"SYSCALL", CALL), (b"CWD", b'cwd="/"'), (b"PROCTITLE", b"proctitle=61"), (b"EOE", b"")],
            [(b"SYSCALL", CALL), (b"EOE", b"")],
            [(b"SYSCALL", CALL), (b"KERNEL", b"initialized"), (b"CWD", b'cwd="/"'), (b"PROCTITLE", b"proctitle=61")],
            [(b"USER_AUTH", b"pid=1 uid=0 auid=0 ses=1 msg='op=x res=success'")],
            [(b"LOGIN", LOGIN), (b"SYSCALL", CALL), (b"PROCTITLE", b"proctitle=61")],
            [(b"SYSCALL", CALL), (b"PROCTITLE", b"proctitle=61")],
        ]
    )
    for type_, body in records
)
"""Ends of events, and records that stand alone but for others of their stamp."""


def test_made_up_events(tmp_path: Path) -> None:
    result = compare(MADE_UP, tmp_path)
    assert not result.wrong, "\n".join(result.wrong)
    assert result.events == 6
    assert result.rules == {"split login": 1}


def test_every_rule_is_documented() -> None:
    text = (ROOT / "docs" / "shapes" / "csv.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| ([a-z][^|]*?) +\|", text, re.M)) >= set(RULES)


@needs("corpus")
@pytest.mark.timeout(180)
def test_the_whole_recording(tmp_path: Path) -> None:
    """49,629 events, of which ausearch makes 49,665: it splits these 36, and the documentation lists them."""
    result = compare(lzma.decompress((CORPUS / "mixed.log.xz").read_bytes()), tmp_path)
    assert not result.wrong
    assert (result.events, result.equal) == (49_629, 49_593)
    assert result.rules == {"split login": 36}
    text = (ROOT / "docs" / "shapes" / "csv.md").read_text(encoding="utf-8")
    listed = re.search(r"serials\s+((?:\d+,\s+)+\d+)", text)
    assert listed is not None
    assert sorted(result.split) == [int(number) for number in listed[1].split(",")]


@pytest.mark.parametrize("source", [*_sources()])
def test_a_log(source: Path, tmp_path: Path) -> None:
    result = compare(data_of(source), tmp_path)
    assert not result.wrong, "\n".join(result.wrong[:5])
    assert result.events
    assert set(result.rules) <= set(RULES)
