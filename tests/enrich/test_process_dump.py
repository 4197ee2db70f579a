"""The process table as bytes: there and back, what is believed after a restart, and that damage is refused."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.errors import ParseError
from audisp.parse.cgroup import Container, Placement
from audisp.parse.process_dump import MAX_DUMP, Restored, dump, restore
from audisp.parse.processes import UNKNOWN, Image, Process, ProcessTable

T: Final = 1_700_000_000_000
BOOT: Final = "b0071d"

FULL: Final = Process(
    pid=30,
    born=T,
    ticks=77,
    ppid=20,
    parent=(20, T - 5),
    exe="/usr/bin/x\udcff",
    comm="x",
    argv=("x", "--y"),
    argv_cut=True,
    event_id="1.001:5",
    script="/s.sh",
    place=Placement("/c", Container("id", "docker", "pod", 5, "in"), "u.service", "v.scope", "w.slice"),
    labels=("a", "b"),
    spawner=Image(20, T - 5, "/bin/sh", "sh", None),
)


def table_of(*processes: Process) -> ProcessTable:
    table = ProcessTable()
    for process in processes:
        table.put(process, seen=T, ended=None, certain=process.ticks is not None)
    return table


def back(table: ProcessTable, alive: dict[int, int], boot: str = BOOT) -> tuple[dict[int, Process], Restored]:
    found = ProcessTable()
    done = restore(found, dump(table, BOOT), boot, alive)
    return {entry.process.pid: entry.process for entry in found}, done


@pytest.mark.parametrize(
    "process",
    [
        FULL,
        attrs.evolve(FULL, script=None, place=Placement("/c"), spawner=None, labels=(), argv=None),
        attrs.evolve(FULL, script=UNKNOWN, place=None, exe=None, comm=None, event_id=None, parent=None, ppid=None),
    ],
)
def test_there_and_back(process: Process) -> None:
    kept, done = back(table_of(process), {30: 77})
    assert kept == {30: process}
    assert done == Restored(1, 0, 0)


def test_what_the_entry_knows_comes_back() -> None:
    table = table_of(FULL)
    entry = table.find(30, T)
    assert entry is not None
    entry.nested = True
    table.touch(entry, T + 99)
    found = ProcessTable()
    restore(found, dump(table, BOOT), BOOT, {30: 77})
    kept = found.find(30, T)
    assert kept is not None
    assert (kept.nested, kept.seen, kept.certain, kept.ended) == (True, T + 99, True, None)


def test_only_what_lives_and_its_ancestors_come_back() -> None:
    grandfather = Process(10, T - 90, ticks=1, ppid=1, parent=(1, T - 99))
    father = Process(20, T - 5, ticks=2, ppid=10, parent=grandfather.key)
    reused = Process(40, T, ticks=5, ppid=1)
    unproved = Process(41, T, ticks=None, ppid=1)
    gone = Process(42, T, ticks=5, ppid=1)
    table = table_of(grandfather, father, FULL, reused, unproved, gone)
    kept, done = back(table, {30: 77, 10: 1, 20: 99, 40: 6, 41: 7})
    assert kept == {10: grandfather, 20: father, 30: FULL}
    assert done == Restored(2, 1, 3)
    found = ProcessTable()
    restore(found, dump(table, BOOT), BOOT, {30: 77, 10: 1, 20: 99})
    dead = found.get(father.key)
    assert dead is not None
    assert dead.ended is not None
    assert found.find(20, T + 60_000) is None
    assert [process.pid for process in found.chain(FULL).processes] == [20, 10]


def test_an_ended_process_does_not_live_again() -> None:
    table = table_of(FULL)
    table.exit(30, T + 1)
    assert back(table, {30: 77}) == ({}, Restored(0, 0, 1))


def test_of_another_boot_nothing_is_believed() -> None:
    kept, done = back(table_of(FULL), {30: 77}, "another")
    assert kept == {}
    assert (done.dropped, done.why) == (1, "it is of another boot")
    # A system that does not say which boot it is cannot say that it is the same.
    assert restore(ProcessTable(), dump(table_of(FULL), ""), "", {30: 77}).living == 0


def test_of_another_version_nothing_is_believed() -> None:
    found = msgpack.unpackb(dump(table_of(FULL), BOOT), unicode_errors="surrogatepass")
    data = msgpack.packb({**found, "version": 2}, unicode_errors="surrogatepass")
    done = restore(ProcessTable(), data, BOOT, {30: 77})
    assert (done.living, done.dropped, done.why) == (0, 1, "version 2 is not 1")


def test_a_dump_is_bounded_and_keeps_what_was_used_last() -> None:
    table = ProcessTable()
    for pid in range(1, 500):
        process = Process(pid, T, ticks=pid, exe="/x" * 50, ppid=0)
        table.put(process, seen=T, ended=None, certain=True)
    data = dump(table, BOOT, 10_000)
    assert len(data) <= 10_000
    found = ProcessTable()
    done = restore(found, data, BOOT, {pid: pid for pid in range(1, 500)})
    kept = {entry.process.pid for entry in found}
    assert done.living == len(kept) > 20
    assert kept == set(range(500 - len(kept), 500))


def test_a_dump_that_is_too_large_is_refused() -> None:
    with pytest.raises(ParseError, match=str(MAX_DUMP)):
        restore(ProcessTable(), bytes(MAX_DUMP + 1), BOOT, {})


def damaged(**change: Any) -> bytes:
    """A dump with one row whose parts by number are others."""
    found = msgpack.unpackb(dump(table_of(FULL), BOOT), unicode_errors="surrogatepass")
    row = found["rows"][0]
    for name, value in change.items():
        row[int(name[1:])] = value
    data: bytes = msgpack.packb(found, unicode_errors="surrogatepass")
    return data


@pytest.mark.parametrize(
    "change",
    [
        {"_0": 0},
        {"_0": 1 << 40},
        {"_0": "30"},
        {"_1": -1},
        {"_2": "x"},
        {"_4": [1]},
        {"_4": [0, 5]},
        {"_5": 7},
        {"_5": "x" * 5000},
        {"_6": "x" * 65},
        {"_7": "argv"},
        {"_7": ["x"] * 257},
        {"_7": [b"bytes"]},
        {"_8": 1},
        {"_9": ["1.1:1"]},
        {"_10": True},
        {"_11": []},
        {"_11": [None, None, None, None, None]},
        {"_11": ["/c", [None, "docker", None, None, None], None, None, None]},
        {"_11": ["/c", ["id"], None, None, None]},
        {"_12": None},
        {"_12": ["x" * 65]},
        {"_13": [1, 2]},
        {"_14": None},
        {"_15": -1},
        {"_16": None},
        {"_17": "yes"},
    ],
    ids=str,
)
def test_every_field_is_checked(change: dict[str, Any]) -> None:
    assert restore(ProcessTable(), damaged(), BOOT, {30: 77}).living == 1
    table = ProcessTable()
    with pytest.raises(ParseError):
        restore(table, damaged(**change), BOOT, {30: 77})
    assert len(table) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x00",
        b"\x93\x01\x02\x03",
        msgpack.packb({"audisp": "processes", "version": 1, "boot": BOOT}),
        msgpack.packb({"audisp": "spool", "version": 1, "boot": BOOT, "rows": []}),
        msgpack.packb({"audisp": "processes", "version": 1, "boot": BOOT, "rows": [[]]}),
        msgpack.packb({"audisp": "processes", "version": 1, "boot": BOOT, "rows": [5]}),
        msgpack.packb({5: "processes"}),
        b"\x91" * 5000,
    ],
    ids=range(10),
)
def test_what_is_no_dump_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        restore(ProcessTable(), data, BOOT, {})


@given(st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_a_damaged_byte_raises_nothing_but_the_parse_error(at: int, byte: int, cut: bool) -> None:
    data = bytearray(dump(table_of(FULL), BOOT))
    at = min(at, len(data) - 1)
    data[at] = byte
    table = ProcessTable()
    try:
        restore(table, bytes(data[:at] if cut else data), BOOT, {30: 77})
    except ParseError:
        assert len(table) == 0


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_the_parse_error(data: bytes) -> None:
    try:
        restore(ProcessTable(), data, BOOT, {})
    except ParseError as problem:
        assert "dump" in str(problem)  # noqa: PT017 - nothing else may come out, and nothing has to
