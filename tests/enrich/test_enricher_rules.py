"""Scripts and labels on a made host; what is off, and what is bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.enrich import census, enricher
from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import ALL, Enrichment, EnrichSettings, Facts, Name, PathItem
from audisp.parse.cgroup import Container
from audisp.parse.labels import LabelRules, rule
from audisp.parse.process_dump import dump, restore
from audisp.parse.processes import UNKNOWN, ProcessTable
from tests.enrich.hosts import BOOT, DOCKER, ID, Host, at, numbers

# ---- scripts ----


def test_a_script_is_found_and_stays_with_its_process(host: Host) -> None:
    dev, inode = numbers(host.exe("dash"))
    paths = (PathItem("./x.sh", dev, 12), PathItem("/bin/sh", dev, inode), PathItem("/lib/ld.so", dev, 13))
    host.tree.add(11, ticks=200, exe="dash")
    found = host.exec(11, 201, exe="dash", paths=paths, cwd="/srv", argv=("/bin/sh", "./x.sh"))
    assert found.script == "/srv/x.sh"
    found = host.call(11, 202, exe="dash")
    assert found.script is None
    assert found.process is not None
    assert found.process.script == "/srv/x.sh"
    # Of a program that was seen before, the file is known when its process is gone.
    assert host.exec(12, 301, exe="dash", paths=paths, cwd="/srv").script == "/srv/x.sh"
    assert host.exec(13, 302, exe="dash", paths=(PathItem("/bin/sh", dev, inode),)).script is None
    other = (PathItem("./x.sh", dev, 12), PathItem("/bin/sh", dev, 99))
    assert host.exec(14, 303, exe="dash", paths=other, cwd="/srv").script is UNKNOWN
    found = host.exec(11, 401, exe="dash", paths=(PathItem(host.exe("dash"), "fe:00", 5),))
    assert found.process is not None
    assert (found.script, found.process.script) == (None, None)


# ---- labels ----

RULES: Final = LabelRules(
    [
        rule(("shell", "exe", "*/bash")),
        rule(("cron", "script", "/etc/cron.daily/*")),
        rule(("web", "argv", "prog --web*")),
        rule(("shell", "exe", "*/sudo"), remove=True),
        rule(("watched", "key", "watch-me")),
    ],
    inherit=["shell", "watched"],
)


def test_labels_are_given_inherited_and_taken_away(host: Host) -> None:
    host.make(labels=RULES)
    host.tree.add(10, ticks=100, exe="bash", argv=("bash",))
    assert host.exec(10, 101, exe="bash").labels == ("shell",)
    host.tree.add(11, ppid=10, ticks=200)
    assert host.exec(11, 201, 10, argv=("prog", "--web")).labels == ("shell", "web")
    host.tree.add(12, ppid=11, ticks=300)
    assert host.exec(12, 301, 11).labels == ("shell",)
    assert host.call(12, 302, 11, keys=("other",)).labels == ("shell",)
    assert host.call(12, 303, 11, keys=("watch-me",)).labels == ("shell", "watched")
    host.tree.add(13, ppid=12, ticks=400, exe="sudo")
    assert host.exec(13, 401, 12, exe="sudo").labels == ("watched",)
    host.tree.add(14, ppid=13, ticks=500, exe="bash")
    assert host.exec(14, 501, 13, exe="bash", keys=("watch-me",)).labels == ("watched", "shell")


def test_labels_go_by_the_script_and_reach_forked_children(host: Host) -> None:
    host.make(labels=RULES)
    dev, inode = numbers(host.exe("dash"))
    host.tree.add(10, ticks=100, exe="dash")
    paths = (PathItem("/etc/cron.daily/x", dev, 5), PathItem("/bin/sh", dev, inode))
    assert host.exec(10, 101, exe="dash", paths=paths).labels == ("cron",)
    host.call(10, 102, exe="dash", keys=("watch-me",))
    host.call(10, 103, exe="dash", syscall="fork", exit=11)
    host.tree.add(11, ppid=10, ticks=103, exe="dash")
    assert host.call(11, 104, 10, exe="dash").labels == ("watched",)


def test_a_process_that_is_heard_of_first_has_the_labels_of_its_program_and_its_parents(host: Host) -> None:
    host.make(labels=RULES)
    host.tree.add(10, ticks=100, exe="bash", argv=("bash",))
    host.tree.add(11, ppid=10, ticks=200, argv=("prog", "--web"))
    assert host.call(11, 5000, 10).labels == ("shell", "web")


# ---- switches and limits ----


@pytest.mark.parametrize("off", sorted(ALL))
def test_each_part_can_be_switched_off(host: Host, off: Name) -> None:
    host.make(parts=ALL - {off}, labels=LabelRules([rule(("all", "exe", "*"))]))
    dev, inode = numbers(host.exe("dash"))
    host.tree.add(11, ticks=200, exe="dash", cgroup=DOCKER)
    paths = (PathItem("/x.sh", dev, 5), PathItem("/bin/sh", dev, inode))
    found = host.exec(11, 201, exe="dash", paths=paths)
    shown = {
        "container": found.container,
        "unit": found.unit or found.slice,
        "cgroup": found.cgroup,
        "parents": found.parents,
        "script": found.script,
        "environment": found.environment,
        "labels": found.labels,
    }
    assert [name for name, value in shown.items() if not value] == [off]
    assert found.unknown == ()
    # A process that is gone is not unknown in what nobody asked for.
    assert off not in host.exec(12, 301, exe="dash", paths=paths).unknown


def test_with_all_off_nothing_is_read(host: Host) -> None:
    host.make(parts=frozenset())
    host.tree.add(11, ticks=200)
    found = host.call(11, 201)
    assert (found.unknown, found.parents, found.labels, found.container) == ((), (), (), None)
    assert found.cgroup is None


def test_without_proc_events_alone_tell(tmp_path: Path) -> None:
    blind = Enricher(EnrichSettings(), None, boot=lambda: BOOT)

    def event(pid: int, ppid: int, ticks: int, exe: str, **more: Any) -> Enrichment:
        return blind.enrich(Facts(pid, at(ticks), "1.1:1", ppid, exe, exe, success=True, **more))

    event(10, 1, 100, "/bin/bash", syscall="execve", argv=("bash",))
    found = event(11, 10, 101, "/bin/ls", syscall="execve", argv=("ls",), paths=(PathItem("/bin/ls", "fe:00", 1),))
    assert [process.exe for process in found.parents] == ["/bin/bash"]
    assert found.unknown == ("container", "unit", "cgroup", "parents")
    assert event(11, 10, 102, "/bin/ls", syscall="read").parents == found.parents
    assert "proc_reads" not in blind.state
    blind.close()


_TEXT: Final = st.none() | st.text(st.characters(), max_size=5) | st.just("x" * 5000)
_FACTS: Final = st.builds(
    Facts,
    pid=st.integers(-2, 6),
    stamp=st.integers(at(0), at(0) + 20_000) | st.integers(-5, 1 << 70),
    event_id=st.text(max_size=80),
    ppid=st.none() | st.integers(-2, 6) | st.just(1 << 70),
    exe=_TEXT,
    comm=_TEXT,
    syscall=st.none() | st.sampled_from(["execve", "fork", "clone", "exit_group", "read"]),
    success=st.none() | st.booleans(),
    exit=st.none() | st.integers(-5, 8),
    flags=st.none() | st.integers(0, 1 << 32),
    keys=st.lists(st.sampled_from(["k", "watch-me", ""])).map(tuple),
    argv=st.none() | st.lists(st.text(max_size=5), max_size=3).map(tuple),
    cwd=_TEXT,
    paths=st.lists(st.builds(PathItem, _TEXT, _TEXT, st.none() | st.integers(0, 9)), max_size=3).map(tuple),
)


@given(st.lists(_FACTS, max_size=30))
def test_no_facts_raise(many: list[Facts]) -> None:
    blind = Enricher(EnrichSettings(ALL, ("A",), RULES), None, boot=lambda: BOOT)
    for facts in many:
        found = blind.enrich(facts)
        assert len(found.parents) <= 16
        assert found.process not in found.parents
    # And what is known then can be kept.
    restore(ProcessTable(), dump(blind.table, "boot"), "boot", {})


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, 1 << 70])
def test_a_number_that_is_none_is_unknown(host: Host, pid: int) -> None:
    before = host.reads
    assert host.call(pid, 201).process is None
    assert host.exec(pid, 201).process is None
    assert host.reads == before


def test_all_reading_for_one_event_is_bounded_together(host: Host) -> None:
    for pid in range(10, 30):
        host.tree.add(pid, ppid=pid - 1 if pid > 10 else 1, ticks=pid)
    found = host.call(29, 5000, 28)
    assert found.parents_end == "unknown"
    assert 3 <= len(found.parents) <= 9
    assert host.reads <= 30


def test_what_is_remembered_beside_the_table_is_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_PLACES", 3)
    monkeypatch.setattr(enricher, "MAX_FILES", 3)
    for pid in range(10, 20):
        host.tree.add(pid, ticks=pid, exe=f"x{pid}", cgroup=f"0::/system.slice/x{pid}.service\n")
        found = host.exec(pid, 20, exe=f"x{pid}", paths=(PathItem("/link", *numbers(host.exe(f"x{pid}"))),))
        assert (found.unit, found.script) == (f"x{pid}.service", None)
    assert len(host.enricher.census._places) <= 3
    assert len(host.enricher._files) == 3


def test_after_close_it_goes_on_with_what_is_known(host: Host) -> None:
    host.tree.add(11, ticks=200, cgroup=DOCKER)
    host.exec(11, 201)
    host.enricher.close()
    assert host.call(11, 202).container == Container(ID, "docker")
    assert host.exec(12, 203).container is UNKNOWN
