"""The assembler: every record in exactly one event, whatever order they come in, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.event import INCOMPLETE, LATE, NO_STAMP, TIMED_OUT, Batch, Event, as_batch, runs
from audisp.parse.assemble import REMEMBERED, SETTLED, Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.needs import CORPUS, needs
from tests.parse.nasty import event, events, lines


def block(*texts: bytes, source: str = "s") -> Block:
    data = b"".join(text + b"\n" for text in texts)
    return Block(data, len(texts), source, 0.0)


def rec(type_: str, serial: int, body: str = "", *, second: int = 100, node: str = "") -> bytes:
    return f"{f'node={node} ' if node else ''}type={type_} msg=audit({second}.000:{serial}): {body}".encode()


def make(**given: float | bool) -> Assembler:
    return Assembler("s", RecordReader(), **given)  # type: ignore[arg-type]


def stamps(batch: Batch | None) -> list[str]:
    return [] if batch is None else [each.stamp for each in batch]


def test_a_whole_block_passes_as_it_is() -> None:
    one = block(rec("SYSCALL", 1), rec("PATH", 1), rec("PROCTITLE", 1), rec("EOE", 1), rec("USER_LOGIN", 2))
    batch = make().feed(one, 0.0)
    assert batch is not None
    assert batch.data is one.data
    assert [[each.type for each in found.records] for found in batch] == [
        ["SYSCALL", "PATH", "PROCTITLE", "EOE"],
        ["USER_LOGIN"],
    ]
    assert [found.flags for found in batch] == [0, 0]


def test_an_end_that_comes_in_the_next_block() -> None:
    assembler = make()
    assert assembler.feed(block(rec("SYSCALL", 1), rec("PROCTITLE", 1)), 0.0) is None
    assert (assembler.open_events, assembler.open_records) == (1, 2)
    batch = assembler.feed(block(rec("EOE", 1)), 0.0)
    assert batch is not None
    assert batch.records == 3
    assert [each.type for each in batch.events[0].records] == ["SYSCALL", "PROCTITLE", "EOE"]
    assert (assembler.open_events, assembler.open_records, assembler.open_bytes) == (0, 0, 0)


def test_without_eoe_proctitle_ends_an_event() -> None:
    batch = make(recorded=True).feed(block(rec("SYSCALL", 1), rec("PROCTITLE", 1), rec("SYSCALL", 2)), 0.0)
    assert stamps(batch) == ["100.000:1"]


def test_a_live_stream_without_eoe_is_recognised_node_by_node() -> None:
    assembler = make()

    def feed(node: str, serial: int, *kinds: str) -> list[str]:
        return stamps(assembler.feed(block(*(rec(kind, serial, node=node) for kind in kinds)), 0.0))

    assert feed("a", 1, "SYSCALL", "PROCTITLE") == []
    assert feed("b", 1, "SYSCALL", "PROCTITLE", "EOE") == ["100.000:1"]
    assert stamps(assembler.tick(5.0)) == ["100.000:1"]
    assert feed("a", 2, "SYSCALL", "PROCTITLE") == ["100.000:2"]
    assert feed("b", 2, "SYSCALL", "PROCTITLE") == []
    assert feed("a", 3, "SYSCALL", "PROCTITLE", "EOE") == ["100.000:3"]
    assert feed("a", 4, "SYSCALL", "PROCTITLE") == []


def test_interlaced() -> None:
    batch = make().feed(
        block(
            rec("SYSCALL", 1), rec("SYSCALL", 2), rec("PATH", 2, "a"), rec("PATH", 1, "b"), rec("EOE", 2), rec("EOE", 1)
        ),
        0.0,
    )
    assert batch is not None
    assert stamps(batch) == ["100.000:2", "100.000:1"]
    assert [record.body for record in batch.events[1].of("PATH")] == ["b"]


def test_one_that_waits_holds_nobody_back() -> None:
    assembler = make()
    assert assembler.feed(block(rec("SYSCALL", 1)), 0.0) is None
    assert stamps(assembler.feed(block(rec("SYSCALL", 2), rec("EOE", 2)), 0.0)) == ["100.000:2"]
    assert assembler.open_events == 1


def test_the_clock_on_the_wall_ends_what_is_quiet() -> None:
    assembler = make(timeout=2.0)
    assembler.feed(block(rec("SYSCALL", 1)), 10.0)
    assembler.feed(block(rec("SYSCALL", 2)), 11.0)
    assembler.feed(block(rec("CWD", 1)), 11.5)
    assert assembler.tick(12.9) is None
    batch = assembler.tick(13.0)
    assert stamps(batch) == ["100.000:2"]
    assert batch is not None
    assert batch.events[0].flags == TIMED_OUT
    assert stamps(assembler.tick(13.5)) == ["100.000:1"]
    assert assembler.counts.timed_out == 2


def test_a_clock_that_was_set_tears_nothing() -> None:
    """Stamps that jump by ten years between two records of one event's neighbours."""
    assembler = make()
    for second, serial in ((100, 1), (315_360_100, 2), (50, 3)):
        assert assembler.feed(block(rec("SYSCALL", serial, second=second)), 1.0) is None
    for second, serial in ((50, 3), (100, 1), (315_360_100, 2)):
        batch = assembler.feed(block(rec("EOE", serial, second=second)), 1.0)
        assert batch is not None
        assert batch.records == 2
        assert batch.events[0].flags == 0


def test_in_a_recorded_stream_stamps_that_have_passed_by_end_an_event() -> None:
    assembler = make(recorded=True, timeout=2.0)
    assert assembler.feed(block(rec("SYSCALL", 1, node="a"), rec("SYSCALL", 2, node="b")), 0.0) is None
    found: list[Event] = []
    for serial in range(3, SETTLED + 10):
        batch = assembler.feed(block(rec("USER_LOGIN", serial, second=200, node="a")), 0.0)
        found += [] if batch is None else batch.events
    old = [each for each in found if each.flags]
    assert [(each.stamp, each.node, each.flags) for each in old] == [("100.000:1", "a", TIMED_OUT)]
    assert stamps(assembler.flush(0.0)) == ["100.000:2"]


def test_late_records_are_an_event_of_their_own_and_called_late() -> None:
    assembler = make()
    assembler.feed(block(rec("SYSCALL", 1), rec("EOE", 1)), 0.0)
    batch = assembler.feed(block(rec("EOE", 1)), 0.0)
    assert batch is not None
    assert [each.flags for each in batch] == [LATE]
    assert assembler.feed(block(rec("CWD", 1)), 0.0) is None
    batch = assembler.tick(9.0)
    assert batch is not None
    assert [each.flags for each in batch] == [LATE | TIMED_OUT]
    assert assembler.counts.late == 2


def test_two_neighbours_of_one_stamp_are_one_event_and_marks_stay_where_they_belong() -> None:
    assembler = make()
    assembler.feed(block(rec("SYSCALL", 7), rec("EOE", 7)), 0.0)
    one = block(rec("EOE", 7), rec("USER_LOGIN", 8), rec("USER_LOGIN", 7), rec("USER_LOGIN", 9))
    batch = assembler.feed(one, 0.0)
    assert batch is not None
    assert [(each.stamp[-1], each.flags) for each in batch] == [("7", LATE), ("8", 0), ("7", LATE), ("9", 0)]
    only = batch.only([0, 2, 3])
    assert only is not None
    assert [(each.stamp[-1], each.flags, len(each.records)) for each in only] == [("7", LATE, 2), ("9", 0, 1)]


def test_a_doubled_record_is_said() -> None:
    (found,) = events(lines(106, 107))
    assert found.doubled
    assert "a record is there twice" in found.problems


def test_paths_that_are_missing_are_said() -> None:
    batch = make().feed(block(rec("SYSCALL", 1, "items=3"), rec("PATH", 1, "item=0"), rec("EOE", 1)), 0.0)
    assert batch is not None
    assert batch.events[0].missing_paths == 2
    assert "2 PATH records are missing" in batch.events[0].problems


def test_the_table_is_bounded_in_events_and_the_oldest_goes() -> None:
    assembler = make(max_events=3)
    out: list[Event] = []
    for serial in range(10):
        batch = assembler.feed(block(rec("SYSCALL", serial)), 0.0)
        out += [] if batch is None else batch.events
    assert [each.stamp for each in out] == [f"100.000:{serial}" for serial in range(7)]
    assert {each.flags for each in out} == {INCOMPLETE}
    assert assembler.open_events == 3


def test_the_table_is_bounded_in_bytes_also_for_one_event() -> None:
    assembler = make(max_bytes=100_000)
    out: list[Event] = []
    for number in range(1000):
        batch = assembler.feed(block(rec("EXECVE", 1, f"a{number}=" + "41" * 500)), 0.0)
        out += [] if batch is None else batch.events
        assert assembler.open_bytes <= 100_000
    assert out[0].flags == INCOMPLETE
    assert {each.flags for each in out[1:]} == {INCOMPLETE | LATE}


def test_memory_of_what_has_gone_is_bounded() -> None:
    assembler = make()
    for first in range(0, 5 * REMEMBERED, 1000):
        assembler.feed(block(*(rec("USER_LOGIN", first + number) for number in range(1000))), 0.0)
    assert len(assembler._gone) + len(assembler._gone_before) <= 2 * (REMEMBERED + 1000)


def test_a_line_that_is_no_record_is_kept_and_disturbs_nobody() -> None:
    batch = make().feed(
        block(rec("USER_LOGIN", 1), b"free text", b"type=X msg=audit(1:1): y", rec("USER_LOGIN", 2)), 0.0
    )
    assert batch is not None
    assert [(each.raw, each.flags) for each in batch][1:3] == [
        (b"free text\n", NO_STAMP),
        (b"type=X msg=audit(1:1): y\n", NO_STAMP),
    ]
    assert [each.id.serial for each in batch] == [1, 0, 0, 2]


def test_nodes_are_kept_apart_and_so_are_serials_used_again() -> None:
    found = events(lines(99, 102))
    assert [(each.node, each.cwd) for each in found] == [("web1", "/w1"), ("web2", "/w2")]
    assert [each.id.serial for each in events(lines(91, 95))] == [1, 2, 1]
    assert [each.id.serial for each in events(lines(96, 98))] == [4_294_967_295, 0, 1]
    assert event(103).node == "fe80::1%eth0"


def test_a_step_back_of_the_clock_in_interlaced_events() -> None:
    found = {each.integer("pid"): each for each in events(lines(85, 90))}
    assert {pid: each.cwd for pid, each in found.items()} == {1: "/a", 2: "/b"}
    assert all(len(each.records) == 3 for each in found.values())


def test_records_before_their_syscall() -> None:
    assert event(104, 105).cwd == "/late"
    assert event(104, 105).exe is not None


def test_a_stamp_that_somebody_wrote_into_a_value_stays_there() -> None:
    mine = rec("USER", 5, "pid=1 uid=1000 msg='text= msg=audit(100.000:5): uid=0'")
    batch = make().feed(block(mine, rec("USER", 6)), 0.0)
    assert batch is not None
    (record,) = batch.events[0].records
    assert record.get("uid") == "1000"
    assert " msg=audit(100.000:5):" in batch.events[0].lines[0]
    assert batch.events[0].raw == mine + b"\n"


def test_split_and_parts_lie_between_events() -> None:
    one = block(rec("SYSCALL", 1), rec("EOE", 1), rec("SYSCALL", 2), rec("EOE", 2))
    batch = make().feed(one, 0.0)
    assert batch is not None
    size = len(batch.data)
    assert batch.split(size) == (batch, None)
    assert batch.split(batch.first_end() - 1) == (None, batch)
    head, rest = batch.split(size - 1)
    assert head is not None
    assert rest is not None
    assert (stamps(head), stamps(rest)) == (["100.000:1"], ["100.000:2"])
    again = as_batch(Block(one.data, 4, "s", 0.0), batch.reader)
    assert stamps(again) == stamps(batch)


def test_what_is_made_once_is_made_once_until_it_is_forgotten() -> None:
    batch = make().feed(block(rec("USER_LOGIN", 1)), 0.0)
    assert batch is not None
    made: list[Batch] = []

    def make_it(each: Batch) -> int:
        made.append(each)
        return len(made)

    for _ in range(3):
        assert batch.once("x", make_it) == 1
    events_then = batch.events
    assert batch.events is events_then
    batch.forget()
    assert batch.events is not events_then
    assert batch.once("x", make_it) == 2


# ---- whatever comes, in whatever order ----

KINDS = ("SYSCALL", "PATH", "CWD", "PROCTITLE", "EOE", "USER_LOGIN", "LOGIN", "AVC")
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 6),
        st.integers(99, 103),
        st.sampled_from(["", "a", "b"]),
    ),
    max_size=60,
)


def key(line: bytes) -> tuple[bytes, bytes]:
    (run,) = runs(line + b"\n")
    return run[1], run[2]


@settings(max_examples=300)
@given(RECORDS, st.lists(st.integers(1, 7), min_size=1, max_size=5), st.booleans())
def test_every_record_is_in_exactly_one_event(
    records: list[tuple[str, int, int, str]], sizes: list[int], recorded: bool
) -> None:
    stream = [
        rec(kind, serial, f"n={number}", second=second, node=node)
        for number, (kind, serial, second, node) in enumerate(records)
    ]
    assembler = make(recorded=recorded, max_events=4)
    out: list[Event] = []
    at = step = 0
    while at < len(stream):
        size = sizes[step % len(sizes)]
        before = assembler.counts.records_out
        one = block(*stream[at : at + size])
        batch = assembler.feed(one, step * 0.7)
        out += [] if batch is None else batch.events
        tick = assembler.tick(step * 0.7)
        out += [] if tick is None else tick.events
        assert assembler.counts.records_in == assembler.counts.records_out + assembler.open_records
        assert assembler.counts.records_out >= before
        at, step = at + size, step + 1
    last = assembler.flush(99.0)
    out += [] if last is None else last.events
    assert assembler.open_records == assembler.open_bytes == assembler.open_events == 0
    assert sorted(b"".join(each.raw for each in out).splitlines()) == sorted(stream)
    for each in out:
        found = each.raw.splitlines()
        assert {key(line) for line in found} == {each.same}
        # In order of arrival.
        places = [stream.index(line) for line in found]
        assert places == sorted(places)


def shuffled(whole: list[list[bytes]], chance: random.Random) -> Iterable[bytes]:
    """Events dealt out record by record, as several processors would."""
    open_: list[list[bytes]] = []
    rest = [list(each) for each in reversed(whole)]
    while rest or open_:
        if rest and len(open_) < 4 and chance.random() < 0.5:
            open_.append(rest.pop())
            continue
        if open_:
            one = chance.choice(open_)
            yield one.pop(0)
            if not one:
                open_.remove(one)


@settings(max_examples=300)
@given(RECORDS, st.lists(st.integers(1, 7), min_size=1, max_size=5), st.booleans())
def test_what_was_found_is_what_the_batch_has(
    records: list[tuple[str, int, int, str]], sizes: list[int], strays: bool
) -> None:
    """Whoever looks at a batch at once is given its runs: they have to be those that its bytes have."""
    stream = [rec(kind, serial, second=second, node=node) for kind, serial, second, node in records]
    if strays:
        stream[2::3] = [b"stray"] * len(stream[2::3])
    one, other = make(recorded=True, at_once=True, max_events=4), make(recorded=True, max_events=4)
    at = step = 0
    while at < len(stream):
        size = sizes[step % len(sizes)]
        part = block(*stream[at : at + size])
        at, step = at + size, step + 1
        _same(one.feed(part, 0.0), other.feed(part, 0.0))
    _same(one.flush(0.0), other.flush(0.0))
    assert one.counts == other.counts


def _same(one: Batch | None, other: Batch | None) -> None:
    if one is None or other is None:
        assert one is other
        return
    assert one.data == other.data
    assert one.found == runs(one.data)
    assert [(each.raw, each.same, each.flags) for each in one] == [(each.raw, each.same, each.flags) for each in other]


@pytest.mark.parametrize("seed", range(5))
def test_dealt_out_and_put_together_again(seed: int) -> None:
    chance = random.Random(seed)
    whole = []
    for serial in range(300):
        body = [rec("PATH", serial, f"item={number}") for number in range(chance.randrange(4))]
        whole.append([rec("SYSCALL", serial, f"items={len(body)}"), *body, rec("EOE", serial)])
    stream = list(shuffled(whole, chance))
    assembler = make()
    out: list[Event] = []
    while stream:
        size = chance.randrange(1, 40)
        batch = assembler.feed(block(*stream[:size]), 0.0)
        out += [] if batch is None else batch.events
        del stream[:size]
    assert assembler.open_events == 0
    assert {each.stamp: each.raw.splitlines() for each in out} == {
        f"100.000:{serial}": each for serial, each in enumerate(whole)
    }
    assert all(not each.problems for each in out)


@needs("corpus")
@pytest.mark.parametrize("size", [262_144, 1_000_003])
def test_the_corpus_has_as_many_events_as_stamps(size: int) -> None:
    import lzma

    data = lzma.decompress((CORPUS / "mixed.log.xz").read_bytes())
    assembler = make(recorded=True)
    count = at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + size) + 1
        batch = assembler.feed(Block(data[at:end], data.count(b"\n", at, end), "s", 0.0), 0.0)
        count += 0 if batch is None else len(batch.events)
        at = end
    last = assembler.flush(0.0)
    count += 0 if last is None else len(last.events)
    assert count == 49_629
    assert assembler.counts.incomplete == assembler.counts.late == 0
