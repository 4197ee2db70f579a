"""Reading /proc: what files say, what is left when a read hangs or the process goes, on real and on made processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.enrich import proc
from audisp.enrich.proc import Part, ProcReader, Sight, Stat, parse_environ, parse_nested, parse_stat
from audisp.enrich.worker import REST
from audisp.parse.cgroup import placement
from tests.enrich.trees import Tree, hang, release

ALL = Part.STAT | Part.CGROUP | Part.EXE | Part.NESTED | Part.CMDLINE | Part.ENVIRON
LONG = 20.0
"""Seconds: a deadline that is never reached when nothing hangs."""
SHORT = 0.3
"""Seconds: for all that does not hang, on a busy machine."""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A made /proc, a reader of it with a clock set by hand, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.said: list[tuple[str, str]] = []
        self.clock = Clock()
        self.reader = ProcReader(
            lambda level, message: self.said.append((level, message)), root=self.tree.path, clock=self.clock
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.reader.close()
    for path in tmp_path.glob("*/*"):
        if path.is_fifo():
            try:
                release(path)
            except OSError:
                continue


# ---- the texts ----


@pytest.mark.parametrize(
    ("comm", "rest"),
    [
        ("bash", "S 7 " + "0 " * 17 + "99 "),
        ("a) R 1 (b", "S 7 " + "0 " * 17 + "99 "),
        ("tmux: server", "S 7 " + "0 " * 17 + "99 "),
        (") ", "S 7 " + "0 " * 17 + "99 "),
        ("b\udcff\n", "S 7 " + "0 " * 17 + "99 "),
    ],
)
def test_stat(comm: str, rest: str) -> None:
    data = f"12 ({comm}) {rest}{'0 ' * 25}1 2 3 4 0\n".encode(errors="surrogateescape")
    assert parse_stat(data) == Stat(comm, 7, 99, (b"1", b"2", b"3", b"4"))


@pytest.mark.parametrize("data", [b"", b"12", b"12 (x", b"12 (x) S", b"12 (x) S x " + b"0 " * 30, b") ("])
def test_what_is_no_stat(data: bytes) -> None:
    assert parse_stat(data) is None


@given(st.binary(max_size=200))
def test_any_stat_is_read_or_refused(data: bytes) -> None:
    found = parse_stat(data)
    assert found is None or found.ticks >= 0


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        (b"Name:\tx\nNSpid:\t12\nNSpgid:\t1\t2\n", False),
        (b"Name:\tx\nNSpid:\t12\t1\n", True),
        (b"Name:\tNSpid:\t1\t2\n", None),
        (b"", None),
    ],
)
def test_nested(text: bytes, nested: bool | None) -> None:
    assert parse_nested(text) is nested


def test_environ() -> None:
    data = b"HOME=/root\0LD_PRELOAD=/x.so=1\0HOME=/later\0EMPTY=\0noequals\0B\xff=\xfe\0LD_PRELOADX=1"
    names = ("HOME", "LD_PRELOAD", "EMPTY", "MISSING", "noequals", "B\udcff")
    assert parse_environ(data, names) == {"HOME": "/root", "LD_PRELOAD": "/x.so=1", "EMPTY": "", "B\udcff": "\udcfe"}
    assert len(parse_environ(b"A=" + b"x" * 10_000, ("A",))["A"]) == proc.VALUE_CHARS


# ---- real processes ----


@pytest.fixture
def real() -> Iterator[ProcReader]:
    reader = ProcReader(lambda level, message: None)
    yield reader
    reader.close()


def test_our_own_process(real: ProcReader) -> None:
    sight = real.read(os.getpid(), ALL, ("PATH", "NO_SUCH_VARIABLE"), LONG)
    assert sight.missing == {}
    assert sight.stat is not None
    assert sight.stat.ppid == os.getppid()
    assert sight.exe == os.path.realpath(sys.executable)
    stat = os.stat(sys.executable)
    assert sight.exe_file == (f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}", stat.st_ino)
    assert sight.argv is not None
    assert sight.argv[0] == sys.orig_argv[0]
    assert set(sight.environment or {}) == {"PATH"}
    assert sight.cgroup == Path("/proc/self/cgroup").read_text()
    assert placement(sight.cgroup) is not None
    assert sight.nested in (True, False)


def test_a_start_in_ticks_is_when_the_process_started(real: ProcReader) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen(["sleep", "60"]) as child:
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        sight = real.read(child.pid, Part.STAT, (), LONG)
        child.kill()
    assert sight.stat is not None
    assert before - 0.02 <= sight.stat.ticks / os.sysconf("SC_CLK_TCK") <= after + 0.02


def test_a_process_that_is_gone(real: ProcReader) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    sight = real.read(child.pid, ALL, ("PATH",), LONG)
    assert sight.stat is None
    assert set(sight.missing.values()) == {"gone"}
    assert set(sight.missing) == set(ALL)


def test_a_zombie_has_no_memory(real: ProcReader) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    sight = real.read(child.pid, ALL, ("PATH",), LONG)
    assert sight.stat is not None
    assert sight.exe is None
    assert not sight.argv
    assert not sight.environment
    child.wait()


def test_all_numbers(real: ProcReader) -> None:
    pids = real.pids(LONG)
    assert os.getpid() in pids
    assert os.getppid() in pids


def test_numbers_of_another_namespace_are_said(bench: Bench) -> None:
    assert bench.reader.problem() is None
    link = bench.tree.root / "self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[4026532999]")
    assert "pid:[4026532999]" in (bench.reader.problem() or "")
    link.unlink()
    assert "cannot be read" in (bench.reader.problem() or "")


# ---- made ones ----


def test_all_parts(bench: Bench) -> None:
    bench.tree.add(7, ppid=3, ticks=55, comm="web", argv=("web", "-x", ""), environ=("A=1", "B=2"), nspid="7\t1")
    sight = bench.reader.read(7, ALL, ("B",), LONG)
    assert sight.stat is not None
    assert (sight.stat.comm, sight.stat.ppid, sight.stat.ticks) == ("web", 3, 55)
    assert sight.argv == ("web", "-x", "")
    assert sight.environment == {"B": "2"}
    assert sight.exe == str(bench.tree.root / "bin/prog")
    assert sight.nested is True
    assert sight.missing == {}


def test_only_what_is_asked_for_is_read(bench: Bench) -> None:
    folder = bench.tree.add(7)
    for name in ("cgroup", "cmdline", "environ", "status"):
        hang(folder, name)
    sight = bench.reader.read(7, Part.EXE, (), LONG)
    assert (sight.missing, sight.cgroup, sight.argv) == ({}, None, None)
    assert sight.exe is not None


def test_what_may_not_be_read_is_said(bench: Bench) -> None:
    folder = bench.tree.add(7, exe=None)
    (folder / "cgroup").unlink()
    (folder / "cgroup").symlink_to("/etc/passwd")
    (folder / "environ").unlink()
    (folder / "environ").mkdir()
    sight = bench.reader.read(7, ALL, ("A",), LONG)
    assert sight.missing == {
        Part.EXE: "gone",
        Part.CGROUP: "too many levels of symbolic links",
        Part.ENVIRON: "is a directory",
    }
    assert (sight.cgroup, sight.exe, sight.environment) == (None, None, None)


def test_a_long_environment_that_does_not_show_the_variable_is_unknown(bench: Bench) -> None:
    padding = "P=" + "x" * proc.ENVIRON_BYTES
    bench.tree.add(7, environ=("A=1", padding, "B=2"))
    sight = bench.reader.read(7, ALL, ("A", "B"), LONG)
    assert (sight.environment, sight.missing) == ({"A": "1"}, {Part.ENVIRON: "too long"})
    sight = bench.reader.read(7, ALL, ("A",), LONG)
    assert (sight.environment, sight.missing) == ({"A": "1"}, {})


def test_long_arguments_are_cut(bench: Bench) -> None:
    bench.tree.add(7, argv=("x" * 3000, "y" * 30_000))
    sight = bench.reader.read(7, Part.CMDLINE, (), LONG)
    assert sight.argv_cut
    assert sight.argv is not None
    assert [len(word) for word in sight.argv] == [3000, 1096]


# ---- reads that hang ----


@pytest.mark.parametrize(
    ("name", "part", "kept"),
    [
        ("environ", Part.ENVIRON, {"stat", "cgroup", "exe"}),
        ("cgroup", Part.CGROUP, {"stat"}),
        ("stat", Part.STAT, set()),
    ],
)
def test_a_read_that_hangs_costs_the_deadline_and_what_was_read_before_is_kept(
    bench: Bench, name: str, part: Part, kept: set[str]
) -> None:
    folder = bench.tree.add(7)
    hang(folder, name)
    sight = bench.reader.read(7, Part.CGROUP | Part.EXE | Part.ENVIRON, ("HOME",), SHORT)
    assert {field for field in ("stat", "cgroup", "exe", "environment") if getattr(sight, field) is not None} == kept
    assert sight.missing[part] == "late"
    assert bench.reader.state["proc_late"] == 1


def test_another_process_is_read_after_the_one_that_hangs_came_back(bench: Bench) -> None:
    fifo = hang(bench.tree.add(7), "environ")
    bench.tree.add(8)
    assert bench.reader.read(7, Part.ENVIRON, ("HOME",), SHORT).environment is None
    assert bench.reader.read(8, Part.CGROUP, (), LONG).missing == {Part.STAT: "late", Part.CGROUP: "late"}
    release(fifo)
    until = time.monotonic() + LONG
    while bench.reader.read(8, Part.CGROUP, (), LONG).cgroup is None:
        assert time.monotonic() < until
    # Memory is left alone for a while; then it is read again.
    assert bench.reader.read(8, Part.ENVIRON, ("HOME",), LONG).missing == {Part.ENVIRON: "late"}
    bench.clock.now += REST
    assert bench.reader.read(8, Part.ENVIRON, ("HOME",), LONG).environment == {"HOME": "/root"}
    assert bench.said == []


def test_who_hangs_two_threads_takes_environments_from_us_and_no_more(bench: Bench) -> None:
    for pid in (7, 8):
        hang(bench.tree.add(pid), "environ")
        assert bench.reader.read(pid, Part.ENVIRON, ("HOME",), SHORT).environment is None
        bench.clock.now += REST
    bench.tree.add(9)
    for _ in range(3):
        sight = bench.reader.read(9, Part.CGROUP | Part.CMDLINE | Part.ENVIRON, ("HOME",), LONG)
        assert sight.cgroup == "0::/system.slice/prog.service\n"
        assert sight.missing == {Part.ENVIRON: "off", Part.CMDLINE: "off"}
    assert [level for level, _ in bench.said] == ["warning"] * 3
    assert f"reading environ of {bench.tree.path}/7" in bench.said[0][1]
    assert "environments and arguments are not read" in bench.said[2][1]


def test_three_that_hang_where_it_cannot_be_helped_end_the_reading_once_said(bench: Bench) -> None:
    for pid in (7, 8, 9):
        hang(bench.tree.add(pid), "cgroup")
        assert bench.reader.read(pid, Part.CGROUP, (), SHORT).cgroup is None
        bench.clock.now += REST
    bench.tree.add(10)
    for _ in range(3):
        sight = bench.reader.read(10, ALL, ("HOME",), LONG)
        assert (set(sight.missing), set(sight.missing.values())) == (set(ALL), {"off"})
    assert bench.reader.pids(LONG) == []
    assert [level for level, _ in bench.said if level == "error"] == ["error"]
    assert bench.reader.state["proc_off"] == 1
    assert bench.reader.state["proc_abandoned"] == 2


# ---- numbers that are given out again while we read ----


def go_on(fifo: Path, text: str) -> None:
    """Wait until a read hangs there, and let it go on."""
    until = time.monotonic() + LONG
    while True:
        try:
            release(fifo, text)
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.001)
        else:
            return


def ask(bench: Bench, parts: Part) -> tuple[threading.Thread, list[Sight]]:
    """Read process 7 in a thread of its own."""
    sights: list[Sight] = []
    thread = threading.Thread(target=lambda: sights.append(bench.reader.read(7, parts, ("HOME",), LONG)))
    thread.start()
    return thread, sights


def test_a_folder_that_was_opened_stays_the_old_processs(bench: Bench) -> None:
    folder = bench.tree.add(7, environ=("HOME=/old",))
    hang(folder, "cgroup")
    hang(folder, "cmdline")
    thread, sights = ask(bench, Part.CGROUP | Part.CMDLINE | Part.ENVIRON)
    go_on(folder / "cgroup", "0::/old\n")
    moved = folder.rename(bench.tree.root / "was7")
    bench.tree.add(7, ticks=9000, environ=("HOME=/new",), cgroup="0::/new\n")
    go_on(moved / "cmdline", "old\0")
    thread.join(LONG)
    assert sights[0].missing == {}
    assert (sights[0].cgroup, sights[0].argv, sights[0].environment) == ("0::/old\n", ("old",), {"HOME": "/old"})
    assert sights[0].stat is not None
    assert sights[0].stat.ticks == 1000


def test_another_program_in_between_makes_its_memory_unknown(bench: Bench) -> None:
    folder = bench.tree.add(7, memory=4096)
    hang(folder, "cgroup")
    hang(folder, "cmdline")
    thread, sights = ask(bench, Part.CGROUP | Part.EXE | Part.CMDLINE | Part.ENVIRON)
    go_on(folder / "cgroup", "0::/x\n")
    stat = (folder / "stat").read_text()
    (folder / "stat").write_text(stat.replace("4096 4097", "8192 8193"))
    go_on(folder / "cmdline", "x\0")
    thread.join(LONG)
    assert sights[0].missing == {Part.CMDLINE: "changed", Part.ENVIRON: "changed"}
    assert (sights[0].argv, sights[0].environment) == (None, None)
    assert (sights[0].cgroup, sights[0].exe is None) == ("0::/x\n", False)


def test_a_process_that_ends_while_its_memory_is_read_is_gone(bench: Bench) -> None:
    folder = bench.tree.add(7)
    hang(folder, "cgroup")
    hang(folder, "cmdline")
    thread, sights = ask(bench, Part.CGROUP | Part.CMDLINE | Part.ENVIRON)
    go_on(folder / "cgroup", "0::/x\n")
    (folder / "stat").unlink()
    go_on(folder / "cmdline", "x\0")
    thread.join(LONG)
    assert sights[0].missing == {Part.CMDLINE: "gone", Part.ENVIRON: "gone"}
    assert sights[0].cgroup == "0::/x\n"
