"""text, a batch at once: the same sentences as event by event, on every log there is and on what nobody would write.

Each test also counts the events that went the quick way: one in which none did would show nothing.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audisp.event import Batch, Event, runs
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from audisp.shapes import normal_calls, text_fast
from audisp.shapes.shape import ShapeSettings
from audisp.shapes.text import Text
from tests.needs import CORPUS, ROOT
from tests.parse import nasty
from tests.shapes import calls, documents
from tests.shapes.test_csv import CWD, FILE, INET, OPEN, PAM, TITLE, People, call


class Counted(Text):
    """The shape, and how many events of its batches went their way by themselves."""

    def __init__(self, names: People | None = None) -> None:
        super().__init__(ShapeSettings(names=names or People()))
        self.exact = 0

    def _line(self, event: Event) -> bytes:
        self.exact += 1
        return super()._line(event)


def batch_of(data: bytes, arrived: float = 0.0) -> Batch:
    return Batch(data, data.count(b"\n"), "made", arrived, RecordReader())


def by_itself(data: bytes) -> list[bytes]:
    """Event by event, by a shape that has seen nothing before."""
    return [Text(ShapeSettings(names=People())).render(each) for each in batch_of(data).events]


def grouped(data: bytes) -> bytes:
    """The records of a log, each event's side by side."""
    return b"".join([each.raw for each in nasty.events(data) if each.stamp])


def compare(data: bytes) -> tuple[int, int]:
    """Both ways over all of it. Gives how many events there are, and how many of them went the quick way."""
    quick, other = Counted(), Text(ShapeSettings(names=People()))
    batch = batch_of(data)
    lines = quick.render_batch(batch)
    events = batch_of(data).events
    assert len(lines) == len(events)
    for event, line in zip(events, lines, strict=True):
        assert line == other.render(event), event.raw
    return len(events), len(events) - quick.exact


HERE: Final = sorted((ROOT / "tests" / "corpus").glob("*.log"))


@pytest.mark.parametrize("path", HERE, ids=lambda path: path.name)
def test_logs_of_the_checkout(path: Path) -> None:
    events, taken = compare(grouped(path.read_bytes()))
    assert events > 10
    assert taken > (0 if "nasty" in path.name else events // 2)


def test_logs_beside_the_checkout() -> None:
    counts = []
    for path in sorted([*CORPUS.glob("public/*/*.log"), CORPUS / "nasty.log", CORPUS / "sigma_positive.log"]):
        if path.exists():
            counts.append(compare(grouped(path.read_bytes() + b"\n")))
    if not counts:
        pytest.skip(f"corpus: {CORPUS} is not there")
    assert sum(events for events, _ in counts) > 250
    assert sum(taken for _, taken in counts) > 100


@pytest.mark.parametrize("name", ["mixed.log.xz", "mixed-enriched.log.xz"])
def test_large_logs(name: str) -> None:
    if not (CORPUS / name).exists():
        pytest.skip(f"corpus: {CORPUS / name} is not there")
    events, taken = compare(grouped(lzma.decompress((CORPUS / name).read_bytes())))
    assert events == 49_629
    assert taken > 0.98 * events


def raw(records: Sequence[tuple[str, str]], node: str = "", stamp: str = "1700000000.123:7") -> bytes:
    return calls.event(list(records), node, stamp).raw


EXEC: Final = call(59)
ARGUMENTS: Final = ("EXECVE", 'argc=2 a0="ls" a1="-la"')
BEHIND: Final = ("PATH", FILE[1].replace("NORMAL", "PARENT"))
NEW: Final = ("PATH", FILE[1].replace("NORMAL", "CREATE").replace('"a"', '"b"'))
PROGRAM: Final = ("PATH", FILE[1].replace('"a"', '"/bin/ls"'))
FORMS: Final = [
    [OPEN, CWD, FILE, TITLE],
    [OPEN, CWD, BEHIND, FILE, TITLE],
    [EXEC, ("BPRM_FCAPS", "fver=0"), ARGUMENTS, CWD, PROGRAM, FILE, TITLE],
    [call(42), INET, TITLE],
    [call(42), INET, CWD, FILE, TITLE],
    [call(82), CWD, BEHIND, BEHIND, FILE, NEW, TITLE],
    [call(105), TITLE],
    [call(101, "no exit=-1"), TITLE],
    [call(9), TITLE],
]
"""Events that go the quick way."""


@pytest.mark.parametrize("records", FORMS)
@pytest.mark.parametrize("node", ["", "node=web1 "])
def test_forms_that_go_the_quick_way(records: list[tuple[str, str]], node: str) -> None:
    data = raw(records, node)
    made = Counted()
    assert made.render_batch(batch_of(data + raw([OPEN, CWD], node, "1700000001.001:8") + data))[::2] == 2 * by_itself(
        data
    )
    assert made.exact == 0


@example([EXEC, ("EXECVE", "argc=0"), TITLE], "")
@given(records=calls.plain, node=st.sampled_from(["", "node=web1 "]))
@settings(max_examples=500)
def test_calls_with_values_that_nobody_would_write(records: list[tuple[str, str]], node: str) -> None:
    data = raw(records, node)
    # Two of one stamp would be one event.
    again = raw(records, node, "1700000000.124:8")
    made = Counted()
    assert made.render_batch(batch_of(data + again)) == by_itself(data + again)


@given(records=documents.records, node=st.sampled_from(["", "node=web1 ", 'node=a"b ']))
@settings(max_examples=300)
def test_whatever_is_in_an_event(records: list[tuple[str, str]], node: str) -> None:
    data = b"".join([each.raw for each in documents.made(records, node=node)])
    if runs(data):
        assert Counted().render_batch(batch_of(data)) == by_itself(data)


PIECES: Final = [
    b" auid=0", b" uid=33", b' exe="/x"', b' key="k2"', b" key=(null)", b' comm="a b"', b" success=no", b" exit=-2",
    b" a0=7", b" ses=1", b" pid=1", b" msg=audit(1700000000.123:7):", b" msg=audit(1700000000.123:7): ", b"\x1d",
    b'\x1dAUID="x"', b"\xff", b"\xc3\xa9", b"\x1b", b"\r", b'"', b"'", b"\\", b" ", b"  ", b"=", b",", b": ", b" (",
    b"..", b"/", b"/..", b"./", b"//", b"(null)", b"0", b"00", b"-", b"2F", b"A", b"type=PATH", b"type=", b"CREATE",
    b"PARENT", b"node=x ", b"/usr/bin/python3", b" items=9", b" nametype=CREATE", b"x" * 1100, b"msg='", b"{",
]  # fmt: skip
"""What is put into the bytes of an event, or in the place of some."""
_edit = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), st.sampled_from([b"", *PIECES]))


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """data with pieces put in, each in the place of some bytes behind its beginning. Lines stay lines."""
    for place, size, piece in edits:
        at = int(place * len(data))
        gone = data[at : at + size]
        data = data[:at] + piece + b"\n" * gone.count(b"\n") + data[at + size :]
    return data


@given(
    records=st.sampled_from(FORMS),
    edits=st.lists(_edit, min_size=1, max_size=3),
    order=st.lists(st.integers(0, 6), max_size=2),
    node=st.sampled_from(["", "", "node=web1 "]),
)
@settings(max_examples=2000)
@example(FORMS[0], [(0.3, 0, b" msg=audit(1700000000.123:7):")], [], "")
def test_an_event_with_anything_in_it(
    records: list[tuple[str, str]], edits: list[tuple[float, int, bytes]], order: list[int], node: str
) -> None:
    """Of a shape that remembers the event as it was, and then as it is now."""
    pieces = [line + b"\n" for line in edited(raw(records, node), edits).split(b"\n")[:-1]]
    for place in order:  # records that are twice there, or elsewhere
        pieces.insert(place, pieces[place % len(pieces)])
    changed = b"".join(pieces)
    if not runs(changed):
        return
    whole = raw(records, node, "1700000000.999:9")
    made = Counted()
    assert made.render_batch(batch_of(whole)) == by_itself(whole)
    assert made.exact == 0
    for data in (changed, whole, changed):
        assert made.render_batch(batch_of(data)) == by_itself(data)


def test_runs_that_assembly_put_together() -> None:
    """Of a batch whose events came interlaced: they are cut one by one."""
    one, other = (
        raw(FORMS[0]).splitlines(keepends=True),
        raw(FORMS[2], stamp="1700000000.124:8").splitlines(keepends=True),
    )
    data = b"".join([one[0], other[0], *one[1:], *other[1:]])
    made = Counted()
    assembler = Assembler("made", RecordReader(), recorded=True, at_once=True)
    batch = assembler.feed(Block(data, data.count(b"\n"), "made", 0.0), 0.0, made.runs(data))
    assert batch is not None
    assert batch.found is not None
    assert {len(run) for run in batch.found} == {3}
    assert made.render_batch(batch) == by_itself(b"".join([*one, *other]))
    assert made.exact == 0


def test_lines_that_are_no_records_go_the_other_way() -> None:
    data = raw(FORMS[0])
    assert Counted().render_batch(batch_of(data + b"free text\n")) == [*by_itself(data), b""]
    stray = batch_of(data + b"free text\n")
    stray.found = runs(stray.data)
    assert Counted().render_batch(stray) == [*by_itself(data), b""]
    assert Counted().render_batch(batch_of(b"")) == []


def test_names_are_asked_for_anew() -> None:
    people = People()
    made = Counted(people)
    data, single = raw(FORMS[0]), raw([("USER_AUTH", PAM)], stamp="1700000000.124:8")
    assert made.render_batch(batch_of(data + single))[0].count(b"alice") == 1
    people.names[1000] = "alina"
    gone = raw([("DEL_USER", "pid=1 uid=0 auid=0 ses=1 msg='op=x id=1000 res=success'")], stamp="1700000000.125:9")
    later = raw(FORMS[0], stamp="1700000000.126:10")
    before, _, after = made.render_batch(batch_of(data + gone + later))
    assert (b"alice" in before, b"alina" in after) == (True, True)
    people.names[1000] = "alma"
    assert b"alma" in made.render_batch(batch_of(data, normal_calls.STALE + 1))[0]
    assert b"alma" in made.render_batch(batch_of(single, normal_calls.STALE + 1))[0]


def test_memories_are_bounded() -> None:
    made = Counted()
    halves = made._halves
    for number in range(9_000):
        mine = call(59)
        changed = mine[0], mine[1].replace("/usr/bin/cat", f"/usr/bin/{number}{'x' * 200}")
        file = FILE[0], FILE[1].replace('"a"', f'"/{number}{"y" * 500}"')
        made.render_batch(batch_of(raw([changed, ("EXECVE", 'argc=1 a0="x"'), file])))
        assert halves._size <= normal_calls.BYTES
        assert all(each.size <= normal_calls.BYTES for each in (halves.entries, halves._parts, halves._addresses))
    assert made.exact == 0
    assert 0 < len(halves.entries) < 9_000
    assert 0 < sum(map(len, halves._beside.values())) < 9_000


def test_what_is_too_long_is_not_remembered() -> None:
    made = Counted()
    made.render_batch(batch_of(raw([OPEN, CWD, FILE, ("PROCTITLE", "proctitle=" + "41" * text_fast.LONGEST)])))
    assert not any(made._halves._beside.values())
