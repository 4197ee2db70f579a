"""From start to end: the table that /proc and the file of before give, on a made host and on this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from audisp.enrich import kept, live
from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import ALL, EnrichSettings, Facts
from audisp.enrich.live import Seeded, begin, finish, seed, trust_ms
from audisp.enrich.proc import ProcReader
from audisp.errors import ParseError, StoreError
from audisp.parse.labels import LabelRules, rule
from audisp.parse.process_dump import MAX_DUMP, Restored, dump
from audisp.parse.processes import TRUST_MS, Process
from tests.enrich.trees import HZ, Tree, hang, release

BOOT: Final = 1_700_000_000
LONG: Final = 20.0


class Host:
    """A made host with three processes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.tree = Tree(folder)
        self.tree.add(1, ppid=0, ticks=1, exe="systemd", argv=("init",))
        self.tree.add(2, ppid=0, ticks=1, exe=None, comm="kthreadd", argv=())
        self.tree.add(10, ppid=1, ticks=50, exe="bash", argv=("bash", "-l"))
        self.tree.add(11, ppid=10, ticks=90, argv=("prog", "--x"))
        self.reader = ProcReader(lambda level, message: None, root=self.tree.path)
        self.settings = EnrichSettings(labels=LabelRules([rule(("shell", "exe", "*/bash"))]))

    def seeded(self, data: bytes | None = None, **more: float) -> tuple[Enricher, Seeded]:
        enricher = Enricher(self.settings, self.reader, boot=lambda: BOOT)
        seeded = seed(
            enricher,
            self.reader,
            data,
            "boot",
            seconds=more.get("seconds", LONG),
            most=int(more.get("most", 100)),
            wall=lambda: BOOT + 100.0,
        )
        return enricher, seeded


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "proc")
    yield host
    host.reader.close()


def process(enricher: Enricher, pid: int) -> Process:
    entry = enricher.table.find(pid, (BOOT + 100) * 1000)
    assert entry is not None
    return entry.process


# ---- what /proc shows at the start ----


def test_a_table_begins_with_what_proc_shows(host: Host) -> None:
    enricher, seeded = host.seeded()
    assert seeded == Seeded(4, True, Restored())
    leaf = process(enricher, 11)
    assert (leaf.argv, leaf.born, leaf.ticks) == (("prog", "--x"), BOOT * 1000 + 90 * 1000 // HZ, 90)
    chain = enricher.table.chain(leaf)
    assert ([one.pid for one in chain.processes], chain.end) == ([10, 1], "root")
    assert (leaf.labels, process(enricher, 1).labels) == (("shell",), ())
    assert leaf.place is not None
    assert leaf.place.unit == "prog.service"
    kernel = process(enricher, 2)
    assert (kernel.comm, kernel.exe, kernel.argv) == ("kthreadd", None, None)


def test_events_of_seeded_processes_need_no_read(host: Host) -> None:
    enricher, _ = host.seeded()
    before = host.reader.state["proc_reads"]
    exe = str(host.tree.program("prog"))
    found = enricher.enrich(Facts(11, (BOOT + 100) * 1000, "1.1:1", 10, exe, "prog", "openat", True, 3))
    assert [one.pid for one in found.parents] == [10, 1]
    assert host.reader.state["proc_reads"] == before


def test_only_so_many_are_looked_at(host: Host) -> None:
    _, seeded = host.seeded(most=2)
    assert (seeded.processes, seeded.whole) == (2, False)


def test_filling_ends_with_its_time(host: Host) -> None:
    _, seeded = host.seeded(seconds=0.0)
    assert not seeded.whole


def test_arguments_that_hang_end_the_second_pass_and_no_more(host: Host) -> None:
    fifo = hang(host.tree.root / "1", "cmdline")
    enricher, seeded = host.seeded()
    assert (seeded.processes, seeded.whole) == (4, False)
    assert process(enricher, 11).place is not None
    assert process(enricher, 1).argv is None
    release(fifo)


# ---- over a restart ----


def test_what_was_known_of_those_that_live_is_known_again(host: Host) -> None:
    enricher, _ = host.seeded()
    exe = str(host.tree.program("prog"))
    event = Facts(11, (BOOT + 1) * 1000, "1700.001:7", 10, exe, "prog", "execve", True, 0, argv=("prog", "--x"))
    enricher.enrich(event)
    data = dump(enricher.table, "boot")
    again, seeded = host.seeded(data)
    assert seeded.restored == Restored(4, 0, 0)
    assert process(again, 11).event_id == "1700.001:7"
    assert [one.pid for one in again.table.chain(process(again, 11)).processes] == [10, 1]


def test_a_number_that_came_back_in_between_is_another_process(host: Host) -> None:
    enricher, _ = host.seeded()
    with enricher.lock:
        entry = enricher.table.find(11, (BOOT + 100) * 1000)
        assert entry is not None
        enricher.table.change(entry, event_id="1.1:1")
    data = dump(enricher.table, "boot")
    host.tree.add(11, ppid=1, ticks=5000, argv=("new",))
    again, seeded = host.seeded(data)
    assert seeded.restored == Restored(3, 0, 1)
    assert (process(again, 11).event_id, process(again, 11).argv) == (None, ("new",))


def test_a_program_started_in_between_is_seen(host: Host) -> None:
    enricher, _ = host.seeded()
    data = dump(enricher.table, "boot")
    host.tree.add(11, ppid=10, ticks=90, exe="other", argv=("other",))
    again, _ = host.seeded(data)
    found = process(again, 11)
    assert (found.exe, found.argv, found.event_id) == (str(host.tree.program("other")), ("other",), None)
    assert found.place is not None


def test_an_ancestor_that_has_gone_is_still_one(host: Host) -> None:
    enricher, _ = host.seeded()
    data = dump(enricher.table, "boot")
    host.tree.end(10)
    host.tree.add(11, ppid=1, ticks=90, argv=("prog", "--x"))
    again, seeded = host.seeded(data)
    assert seeded.restored == Restored(3, 1, 0)
    assert [one.pid for one in again.table.chain(process(again, 11)).processes] == [10, 1]
    assert process(again, 11).ppid == 1


def test_after_another_boot_nothing_is_believed(host: Host) -> None:
    enricher, _ = host.seeded()
    again, seeded = host.seeded(dump(enricher.table, "another"))
    assert (seeded.restored.living, seeded.restored.dropped) == (0, 4)
    assert len(again.table) == 4


def test_of_a_damaged_dump_only_the_error_remains(host: Host) -> None:
    enricher = Enricher(host.settings, host.reader, boot=lambda: BOOT)
    with pytest.raises(ParseError):
        seed(enricher, host.reader, b"damaged", "boot", wall=lambda: BOOT + 100.0)
    assert len(enricher.table) == 4


# ---- this host ----


def test_this_host_from_begin_to_finish(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []

    def say(level: str, message: str) -> None:
        said.append((level, message))

    path = tmp_path / kept.NAME
    settings = EnrichSettings(ALL, ("AUDISP_TEST",))
    enricher = begin(settings, say, path, deadline=LONG)
    if enricher.census.reader is None:
        pytest.skip(f"needs the host's processes: {said}")
    entry = enricher.table.find(os.getpid(), int(time.time() * 1000))
    assert entry is not None
    assert entry.process.exe == os.path.realpath(sys.executable)
    assert entry.process.argv is not None

    with subprocess.Popen(
        ["sh", "-c", "read x; exit 0"], stdin=subprocess.PIPE, env={"AUDISP_TEST": "yes", "PATH": os.environ["PATH"]}
    ) as child:
        until = time.monotonic() + LONG
        while os.readlink(f"/proc/{child.pid}/exe") == entry.process.exe:
            assert time.monotonic() < until
        exe = os.readlink(f"/proc/{child.pid}/exe")
        stamp = int(time.time() * 1000)
        found = enricher.enrich(
            Facts(child.pid, stamp, "1.001:1", os.getpid(), exe, "sh", "execve", True, 0, argv=("sh", "-c", "x"))
        )
        assert found.environment == {"AUDISP_TEST": "yes"}
        assert found.parents[0].pid == os.getpid()
        assert found.parents[0].exe == entry.process.exe
        again = enricher.enrich(Facts(child.pid, stamp + 1, "1.002:2", os.getpid(), exe, "sh", "openat", True, 3))
        assert again.process is found.process
        finish(enricher, path, say)

        assert (path.stat().st_mode & 0o777) == 0o600
        enricher = begin(settings, say, path, deadline=LONG)
        kept_entry = enricher.table.find(child.pid, stamp + 2)
        assert kept_entry is not None
        assert kept_entry.process.event_id == "1.001:1"
        assert any("kept processes still live" in message for _, message in said)
        child.kill()
    finish(enricher, None, say)


def test_a_proc_that_counts_otherwise_is_said_and_not_used(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    link = tmp_path / "self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[4026532999]")
    said: list[tuple[str, str]] = []
    enricher = begin(EnrichSettings(), lambda level, message: said.append((level, message)), root=tree.path)
    assert enricher.census.reader is None
    assert [level for level, _ in said] == ["warning"]


@pytest.mark.parametrize("content", [b"damaged", b"\x80"])
def test_a_damaged_file_is_said_and_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "proc").mkdir()
    tree = Tree(tmp_path / "proc")
    tree.add(1, ppid=0)
    path = tmp_path / "kept"
    path.write_bytes(content)
    path.chmod(0o600)
    said: list[tuple[str, str]] = []
    enricher = begin(EnrichSettings(), lambda level, message: said.append((level, message)), path, root=tree.path)
    assert len(enricher.table) == 1
    assert [level for level, _ in said] == ["warning"]
    assert "left out" in said[0][1]
    finish(enricher, None, lambda level, message: None)


# ---- the file ----


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    assert kept.load(path) is None
    kept.save(path, b"one")
    (tmp_path / "kept.new").symlink_to("/etc/passwd")
    kept.save(path, b"two")
    assert kept.load(path) == b"two"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept"]
    with pytest.raises(StoreError, match="cannot be kept"):
        kept.save(tmp_path / "missing" / "kept", b"x")


def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"x")
    path.chmod(0o622)
    with pytest.raises(StoreError, match="only root or we can write"):
        kept.load(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="cannot be read"):
        kept.load(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(StoreError, match="not a file"):
        kept.load(path)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(MAX_DUMP + 1)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=str(MAX_DUMP)):
        kept.load(path)


def test_the_boot_has_an_id() -> None:
    assert kept.boot_id() == Path(kept.BOOT_ID).read_text().strip()


@pytest.mark.parametrize(
    ("text", "trust"),
    [
        ("32768\n", 3276),
        ("4194304\n", live.MAX_TRUST_MS),
        ("301\n", TRUST_MS),
        ("x", TRUST_MS),
        (None, TRUST_MS),
    ],
)
def test_how_long_a_number_is_trusted_follows_from_how_many_there_are(
    tmp_path: Path, text: str | None, trust: int
) -> None:
    path = tmp_path / "pid_max"
    if text is not None:
        path.write_text(text)
    assert trust_ms(str(path)) == trust
