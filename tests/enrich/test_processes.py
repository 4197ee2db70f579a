"""The process table: chains by key, numbers that come back, bounds; and that it never names a wrong ancestor."""

from __future__ import annotations

import random
from typing import Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.cgroup import Placement
from audisp.parse.processes import (
    ARGV_BYTES,
    ARGV_WORDS,
    LATE_MS,
    MAX_BIRTHS,
    MAX_CHAIN,
    SKEW_MS,
    TRUST_MS,
    UNKNOWN,
    Entry,
    Process,
    ProcessTable,
    bounded_argv,
    size_of,
)

T: Final = 1_700_000_000_000


def start(
    table: ProcessTable,
    pid: int,
    ppid: int | None,
    stamp: int,
    exe: str = "/bin/x",
    *,
    ticks: int | None = None,
    born: int | None = None,
) -> Entry:
    """An exec event."""
    return table.exec(
        pid,
        ppid,
        stamp,
        exe=exe,
        comm=exe.rpartition("/")[2],
        argv=[exe, "-v"],
        event_id=f"{stamp}:1",
        ticks=ticks,
        born=born,
    )


def pids(table: ProcessTable, entry: Entry) -> list[int]:
    return [process.pid for process in table.chain(entry.process).processes]


# ---- chains ----


def test_a_chain_goes_by_ppid_from_exec_to_exec() -> None:
    table = ProcessTable()
    start(table, 1, 0, T)
    start(table, 10, 1, T + 10)
    start(table, 11, 10, T + 20)
    leaf = start(table, 12, 11, T + 30)
    chain = table.chain(leaf.process)
    assert [process.pid for process in chain.processes] == [11, 10, 1]
    assert chain.end == "root"
    assert leaf.process.event_id == f"{T + 30}:1"
    assert leaf.process.spawner == chain.processes[0].image


def test_a_chain_says_that_its_end_is_not_known() -> None:
    table = ProcessTable()
    leaf = start(table, 12, 11, T)
    assert (pids(table, leaf), table.chain(leaf.process).end) == ([], "unknown")


def test_a_chain_is_cut() -> None:
    table = ProcessTable()
    for pid in range(1, 60):
        start(table, pid, pid - 1, T + pid)
    leaf = start(table, 60, 59, T + 60)
    chain = table.chain(leaf.process)
    assert (len(chain.processes), chain.end) == (MAX_CHAIN, "limit")
    assert [process.pid for process in table.chain(leaf.process, 2).processes] == [59, 58]


def test_a_ring_of_links_ends() -> None:
    table = ProcessTable()
    table.put(Process(5, T, parent=(6, T)), seen=T, ended=None, certain=True)
    entry = table.put(Process(6, T, parent=(5, T)), seen=T, ended=None, certain=True)
    assert table.chain(entry.process).end == "limit"


def test_a_child_keeps_its_parent_after_that_has_gone_and_its_number_came_back() -> None:
    table = ProcessTable()
    first = start(table, 10, 1, T, "/bin/first")
    child = start(table, 11, 10, T + 10)
    table.exit(10, T + 20)
    second = start(table, 10, 1, T + 60_000, "/bin/second")
    assert second is not first
    assert [process.exe for process in table.chain(child.process).processes] == ["/bin/first"]


def test_a_forked_child_has_what_its_maker_had() -> None:
    table = ProcessTable()
    shell = start(table, 10, 1, T, "/bin/bash")
    table.change(shell, labels=("l",), place=Placement("/a"), script="/s")
    table.fork(shell, 20, T + 10)
    assert table.expects(20)
    table.change(shell, labels=("later",))
    child = table.appear(20, 10, T + 20)
    assert child.forked
    assert not table.expects(20)
    process = child.process
    assert (process.exe, process.labels, process.place, process.script) == ("/bin/bash", ("l",), Placement("/a"), "/s")
    assert (process.event_id, process.parent, process.born) == (None, shell.process.key, T + 10)


def test_a_fork_tells_of_the_parent_that_ppid_no_longer_names() -> None:
    table = ProcessTable()
    start(table, 1, 0, T)
    shell = start(table, 10, 1, T, "/bin/bash")
    table.fork(shell, 20, T + 10)
    middle = table.appear(20, 10, T + 11)
    table.fork(middle, 21, T + 12)
    table.exit(20, T + 13)
    daemon = start(table, 21, 1, T + 500, "/sbin/daemon")
    assert pids(table, daemon) == [20, 10, 1]
    assert daemon.process.ppid == 1


def test_vfork_tells_after_the_child_has_started_its_program() -> None:
    table = ProcessTable()
    shell = start(table, 10, 1, T, "/bin/bash")
    child = start(table, 20, 10, T + 12, "/bin/ls")
    table.fork(shell, 20, T + 10)
    assert table.find(20, T + 13) is child
    assert (child.ended, table.expects(20), child.process.exe) == (None, False, "/bin/ls")


def test_vfork_gives_a_parent_to_a_child_that_had_none() -> None:
    table = ProcessTable()
    child = start(table, 20, 10, T + 12, "/bin/ls")
    assert child.process.parent is None
    shell = table.appear(10, 1, T + 10)
    table.fork(shell, 20, T + 10)
    assert pids(table, child) == [10]


def test_a_sibling_has_its_makers_parent() -> None:
    table = ProcessTable()
    start(table, 9, 1, T, "/bin/login")
    maker = start(table, 10, 9, T, "/bin/maker")
    table.fork(maker, 20, T + 10, sibling=True)
    child = table.appear(20, 9, T + 20)
    assert (pids(table, child), child.process.exe, child.process.ppid) == ([9], "/bin/maker", 9)
    orphan = start(table, 30, 7, T, "/bin/orphan")
    table.fork(orphan, 31, T + 10, sibling=True)
    assert not table.expects(31)


def test_spawner_is_the_image_before_where_the_process_was_busy_itself() -> None:
    table = ProcessTable()
    shell = start(table, 10, 1, T, "/bin/bash")
    table.fork(shell, 20, T + 10)
    table.appear(20, 10, T + 15)
    first = start(table, 20, 10, T + 20, "/usr/bin/env")
    assert first.process.spawner is not None
    assert (first.process.spawner.pid, first.process.spawner.exe) == (20, "/bin/bash")
    second = start(table, 20, 10, T + 30, "/usr/bin/python3")
    assert second is first
    assert second.process.spawner is not None
    assert (second.process.spawner.exe, second.process.spawner.event_id) == ("/usr/bin/env", f"{T + 20}:1")
    assert pids(table, second) == [10]


# ---- numbers that come back ----


def test_another_start_time_is_another_process() -> None:
    table = ProcessTable()
    old = start(table, 10, 1, T, ticks=100, born=T - 5000)
    new = start(table, 10, 1, T + 50, ticks=900, born=T + 40)
    assert new is not old
    assert table.reused == 1
    same = start(table, 10, 1, T + 60, ticks=900, born=T + 40)
    assert same is new


@pytest.mark.parametrize(
    ("forked", "born", "same"),
    [
        (False, T - 100_000, True),
        (False, T + SKEW_MS, True),
        (False, T + SKEW_MS + 1, False),
        (True, T - 100_000, False),
        (True, T, True),
        (True, T + SKEW_MS + 1, False),
    ],
)
def test_who_has_the_number_now_was_there_when_the_entry_was_first_seen(forked: bool, born: int, same: bool) -> None:
    table = ProcessTable()
    entry = start(table, 10, 1, T)
    if forked:
        table.fork(start(table, 5, 1, T), 10, T + 5000)
        table.fork(start(table, 5, 1, T), 20, T)
        entry = table.appear(20, 5, T)
    assert table.same(entry, None, T + 50_000, 7, born) == same


def test_a_younger_entry_is_no_parent() -> None:
    table = ProcessTable()
    start(table, 10, 1, T + 100_000, ticks=20_000, born=T + 90_000)
    child = start(table, 11, 10, T + 100_000, ticks=500, born=T)
    assert pids(table, child) == []
    child = start(table, 12, 10, T + 100_100, ticks=20_500, born=T + 95_000)
    assert pids(table, child) == [10]


def test_an_entry_that_was_silent_for_long_is_no_parent_and_no_self() -> None:
    table = ProcessTable()
    old = start(table, 10, 1, T)
    child = start(table, 11, 10, T + TRUST_MS + 1)
    assert pids(table, child) == []
    assert start(table, 10, 1, T + TRUST_MS + 2) is not old
    table = ProcessTable()
    old = start(table, 10, 1, T)
    table.touch(old, T + 60_000)
    assert pids(table, start(table, 11, 10, T + 60_000 + TRUST_MS)) == [10]


def test_another_parent_is_another_process_unless_the_parent_is_known_to_have_ended() -> None:
    table = ProcessTable()
    start(table, 1, 0, T)
    start(table, 5, 1, T)
    old = start(table, 10, 5, T)
    assert start(table, 10, 1, T + 10) is not old
    old = start(table, 11, 5, T)
    table.exit(5, T + 5)
    assert start(table, 11, 1, T + 10) is old


def test_a_fork_ends_who_had_the_number() -> None:
    table = ProcessTable()
    shell = start(table, 10, 1, T + 5000)
    start(table, 20, 1, T, "/bin/old")
    table.fork(shell, 20, T + 9000)
    assert table.find(20, T + 9001) is None
    assert pids(table, table.appear(20, 10, T + 9002)) == [10]


def test_after_its_end_only_what_was_under_way_is_its() -> None:
    table = ProcessTable()
    entry = start(table, 10, 1, T)
    table.exit(10, T + 50)
    assert table.find(10, T + 60) is entry
    assert table.find(10, T + 50 + LATE_MS + 1) is None


def test_what_is_stamped_before_its_birth_is_of_somebody_before() -> None:
    table = ProcessTable()
    shell = start(table, 10, 1, T)
    table.fork(shell, 20, T + 5000)
    assert table.newer(20, T)
    table.appear(20, 10, T + 5001)
    assert table.newer(20, T)
    assert not table.newer(20, T + 5000 - SKEW_MS)
    assert table.find(20, T) is None
    # An entry that an event first told of may have been there for long.
    start(table, 30, 1, T + 5000)
    assert table.find(30, T) is not None


@pytest.mark.parametrize(
    ("born", "stamp", "forked"),
    [
        (None, T + 20, True),
        (T + 10, T + 20, True),
        (T + 10 + SKEW_MS, T + 60_000, True),
        (T + 11 + SKEW_MS, T + 60_000, False),
        (T - 5000, T + 20, False),
        (None, T + 10 + TRUST_MS, True),
        (None, T + 11 + TRUST_MS, False),
    ],
)
def test_a_birth_counts_for_who_started_then(born: int | None, stamp: int, forked: bool) -> None:
    table = ProcessTable()
    shell = start(table, 10, 1, T)
    table.fork(shell, 20, T + 10)
    child = table.appear(20, 10, stamp, ticks=None if born is None else 1, born=born)
    assert child.forked == forked


# ---- bounds ----


def test_entries_are_bounded_and_the_least_used_goes_first() -> None:
    table = ProcessTable(max_entries=3)
    first = start(table, 1, 0, T)
    second = start(table, 2, 9, T)
    start(table, 3, 9, T)
    table.touch(first, T)
    start(table, 4, 9, T)
    assert (len(table), table.evicted) == (3, 1)
    assert table.get(second.process.key) is None
    assert table.find(2, T) is None
    assert table.find(1, T) is first


def test_an_evicted_ancestor_ends_the_chain_even_if_its_number_is_there_again() -> None:
    table = ProcessTable(max_entries=2)
    start(table, 1, 0, T)
    leaf = start(table, 2, 1, T)
    generation = table.generation
    table.touch(leaf, T)
    start(table, 3, 9, T)
    assert table.generation > generation
    assert table.chain(leaf.process).end == "unknown"
    table = ProcessTable(max_entries=2)
    start(table, 1, 0, T)
    leaf = start(table, 2, 1, T)
    table.exit(1, T)
    start(table, 1, 0, T + 60_000, "/bin/new")
    assert [process.exe for process in table.chain(leaf.process).processes] in ([], ["/bin/x"])


def test_bytes_are_bounded() -> None:
    table = ProcessTable(max_bytes=20_000)
    for pid in range(1, 200):
        table.exec(pid, 0, T, exe="/" + "x" * 3000, comm="c" * 900, argv=["y" * 9000], event_id="1")
        assert table.bytes <= 20_000
        assert table.bytes == sum(entry.size for entry in table)
    assert 1 <= len(table) < 5


def test_one_entry_larger_than_the_bound_stays_alone() -> None:
    table = ProcessTable(max_bytes=10)
    start(table, 1, 0, T)
    start(table, 2, 0, T)
    assert [entry.process.pid for entry in table] == [2]


def test_births_are_bounded() -> None:
    table = ProcessTable()
    pool = start(table, 10, 1, T)
    for tid in range(100, 100 + MAX_BIRTHS + 50):
        table.fork(pool, tid, T + 1)
    assert len(table) == 1
    assert not table.expects(149)
    assert table.expects(150)


@given(st.lists(st.text(max_size=30), max_size=ARGV_WORDS + 10))
def test_arguments_are_bounded(argv: list[str]) -> None:
    kept, cut = bounded_argv(argv)
    assert len(kept) <= ARGV_WORDS
    assert sum(map(len, kept)) <= ARGV_BYTES
    assert cut == (list(kept) != argv)
    assert all(word.startswith(mine) for mine, word in zip(kept, argv, strict=False))


def test_long_arguments_are_cut() -> None:
    assert bounded_argv(["a" * 3000, "b" * 3000, "c"]) == (("a" * 3000, "b" * 1096), True)


def test_size_counts_the_texts() -> None:
    small = Process(1, T)
    assert size_of(attrs.evolve(small, exe="/bin/x", comm="x", script="/s")) == size_of(small) + 9
    assert size_of(attrs.evolve(small, script=UNKNOWN)) == size_of(small)
    assert size_of(attrs.evolve(small, argv=("abc", ""))) == size_of(small) + 3 + 128


def test_a_change_of_an_ancestor_is_told_and_one_of_a_leaf_is_not() -> None:
    table = ProcessTable()
    parent = start(table, 10, 1, T)
    child = start(table, 11, 10, T)
    generation = table.generation
    table.change(child, labels=("a",))
    assert table.generation == generation
    table.change(parent, labels=("a",))
    assert table.generation == generation + 1


# ---- against a world in which everything is known ----


@attrs.define(eq=False)
class _Being:
    pid: int
    parent: _Being | None
    ppid: int
    exes: list[str]


class _World:
    """Processes that fork, exec and end at random, with few numbers that come back after TRUST_MS at the earliest, and
    a table that hears of some of it. Each exec has an exe of its own, so that a chain can be compared with the truth.
    """

    def __init__(self, seed: int, *, hears: float) -> None:
        self.random = random.Random(seed)
        self.hears = hears
        self.now = T
        self.table = ProcessTable(max_entries=60)
        self.init = _Being(1, None, 0, ["/init"])
        self.alive = {1: self.init}
        self.free = dict.fromkeys(range(2, 40), T)
        self.count = 0
        self.claims = 0

    def step(self) -> None:
        self.now += self.random.choices([1, 5, 50, 400, 4000], [20, 20, 20, 10, 1])[0]
        being = self.random.choice(list(self.alive.values()))
        kind = self.random.random()
        if kind < 0.4:
            self.fork(being)
        elif kind < 0.7:
            self.exec(being)
        elif kind < 0.85 and being is not self.init:
            self.end(being)
        else:
            self.act(being)

    def heard(self) -> bool:
        return self.random.random() < self.hears

    def known(self, being: _Being) -> Entry:
        entry = self.table.find(being.pid, self.now)
        if entry is None or not self.table.same(entry, being.ppid, self.now):
            entry = self.table.appear(being.pid, being.ppid, self.now)
        if entry.process.exe != being.exes[-1]:  # every event says it
            self.table.change(entry, exe=being.exes[-1])
        self.table.touch(entry, self.now)
        return entry

    def fork(self, being: _Being) -> None:
        ready = [pid for pid, since in self.free.items() if self.now - since > TRUST_MS]
        if not ready:
            return
        pid = self.random.choice(ready)
        del self.free[pid]
        child = _Being(pid, being, being.pid, being.exes[-1:])
        self.alive[pid] = child
        if self.heard():
            self.table.fork(self.known(being), pid, self.now)

    def exec(self, being: _Being) -> None:
        self.count += 1
        being.exes.append(f"/exe/{self.count}")
        if self.heard():
            start(self.table, being.pid, being.ppid, self.now, being.exes[-1])
            self.check(being)

    def end(self, being: _Being) -> None:
        del self.alive[being.pid]
        self.free[being.pid] = self.now
        for other in self.alive.values():
            if other.ppid == being.pid:
                other.ppid = 1
        if self.heard():
            self.table.exit(being.pid, self.now)

    def act(self, being: _Being) -> None:
        if self.heard():
            self.known(being)
            self.check(being)

    def check(self, being: _Being) -> None:
        entry = self.table.find(being.pid, self.now)
        assert entry is not None
        above = being.parent
        for process in self.table.chain(entry.process).processes:
            # Each ancestor named is a true one, in order; init may stand for those that went unseen.
            while above is not None and above.pid != process.pid:
                above = above.parent
            assert above is not None, (being, process)
            assert process.exe is None or process.exe in above.exes, (being, process)
            self.claims += 1
        assert self.table.bytes == sum(entry.size for entry in self.table)


@pytest.mark.parametrize(("hears", "least"), [(1.0, 1_000), (0.7, 500), (0.3, 100)])
def test_no_wrong_ancestor_is_named_whatever_is_lost(hears: float, least: int) -> None:
    claims = 0
    for seed in range(20):
        world = _World(seed, hears=hears)
        for _ in range(600):
            world.step()
        claims += world.claims
    assert claims > least
