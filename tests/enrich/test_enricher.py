"""Enrichment of events on a made host: what is found, what is unknown, what is asked of /proc and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.enrich.census import RECHECK
from audisp.enrich.enricher import Enricher
from audisp.enrich.facts import ALL, Enrichment, EnrichSettings, Facts, Name, PathItem
from audisp.enrich.proc import ProcReader
from audisp.parse.cgroup import Container
from audisp.parse.labels import LabelRules, rule
from audisp.parse.process_dump import dump, restore
from audisp.parse.processes import UNKNOWN, ProcessTable
from tests.enrich.trees import HZ, Tree, hang, release

BOOT: Final = 1_700_000_000
"""Seconds since the epoch at which the made host started."""
LONG: Final = 20.0
ID: Final = "3f" * 32
DOCKER: Final = f"0::/system.slice/docker-{ID}.scope\n"


def at(ticks: int) -> int:
    """The stamp of a moment, given in clock ticks since boot."""
    return BOOT * 1000 + ticks * 1000 // HZ


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Host:
    """A made host, its enricher, and events of it."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.clock = Clock()
        self.said: list[tuple[str, str]] = []
        self.reader = ProcReader(
            lambda level, message: self.said.append((level, message)), root=self.tree.path, clock=self.clock
        )
        self.serial = 0
        self.enricher = self.make()

    def make(
        self,
        parts: frozenset[Name] = ALL,
        environment: tuple[str, ...] = ("HOME", "LD_PRELOAD"),
        labels: LabelRules | None = None,
        inherit: Literal["container", "all"] = "container",
        deadline: float = LONG,
    ) -> Enricher:
        settings = EnrichSettings(parts, environment, labels or LabelRules(), inherit)
        self.enricher = Enricher(settings, self.reader, clock=self.clock, boot=lambda: BOOT, deadline=deadline)
        return self.enricher

    def exe(self, name: str = "prog") -> str:
        return str(self.tree.program(name))

    def event(self, pid: int, ticks: int, ppid: int | None = 1, exe: str | None = "prog", **more: Any) -> Enrichment:
        """An event of a process, by the program of that name."""
        self.serial += 1
        path = None if exe is None else self.exe(exe)
        facts = Facts(pid, at(ticks), f"{at(ticks)}:{self.serial}", ppid, path, comm=exe, **more)
        return self.enricher.enrich(facts)

    def exec(self, pid: int, ticks: int, ppid: int | None = 1, exe: str = "prog", **more: Any) -> Enrichment:
        """A program was started."""
        more.setdefault("argv", (exe,))
        more.setdefault("paths", (PathItem(self.exe(exe), "fe:00", 1),))
        return self.event(pid, ticks, ppid, exe, syscall="execve", success=True, exit=0, **more)

    def call(self, pid: int, ticks: int, ppid: int | None = 1, exe: str | None = "prog", **more: Any) -> Enrichment:
        """Something else."""
        more.setdefault("syscall", "openat")
        return self.event(pid, ticks, ppid, exe, success=True, **more)

    @property
    def reads(self) -> int:
        """Questions asked of /proc so far."""
        return self.reader.state["proc_reads"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.tree.add(1, ppid=0, ticks=1, comm="systemd", exe="systemd", argv=("/sbin/init",), cgroup="0::/init.scope\n")
    yield host
    host.reader.close()
    for path in tmp_path.glob("*/*"):
        if path.is_fifo():
            try:
                release(path)
            except OSError:
                continue


# ---- a program starts ----


def test_a_program_that_starts_has_everything(host: Host) -> None:
    host.tree.add(10, ppid=1, ticks=100, exe="bash", comm="bash", argv=("-bash",), cgroup="0::/user.slice\n")
    host.tree.add(11, ppid=10, ticks=200, cgroup=DOCKER, environ=("HOME=/root", "OTHER=1"))
    found = host.exec(11, 201, 10)
    assert found.container == Container(ID, "docker")
    assert (found.unit, found.slice) == (f"docker-{ID}.scope", "system.slice")
    assert found.cgroup == f"/system.slice/docker-{ID}.scope"
    assert [process.pid for process in found.parents] == [10, 1]
    assert found.parents_end == "root"
    assert (found.parents[0].argv, found.parents[0].exe) == (("-bash",), host.exe("bash"))
    assert found.script is None
    assert found.environment == {"HOME": "/root"}
    assert found.unknown == ()
    assert found.process is not None
    assert (found.process.argv, found.process.ticks, found.process.born) == (("prog",), 200, at(200))
    assert found.spawned_by == found.parents[0].image
    assert host.enricher.unsure == 0


def test_a_program_that_is_gone_already_is_unknown_and_not_guessed(host: Host) -> None:
    host.tree.add(10, ticks=100, exe="bash")
    found = host.exec(11, 201, 10, paths=(PathItem("/x.sh", "fe:00", 3), PathItem("/bin/sh", "fe:00", 4)))
    assert (found.container, found.unit, found.cgroup, found.script) == (UNKNOWN,) * 4
    assert found.environment == {}
    assert [process.pid for process in found.parents] == [10, 1]
    assert found.unknown == ("container", "unit", "cgroup", "script", "environment")
    assert host.enricher.state["events_unsure"] == 1


def test_who_has_the_number_now_is_not_who_had_it(host: Host) -> None:
    host.tree.add(11, ppid=1, ticks=5000, cgroup=DOCKER, environ=("HOME=/evil",))
    found = host.exec(11, 201, 1)
    assert (found.container, found.environment) == (UNKNOWN, {})
    assert found.process is not None
    assert found.process.ticks is None
    found = host.exec(11, 5001, 1)
    assert (found.container, found.environment) == (Container(ID, "docker"), {"HOME": "/evil"})


def test_after_another_exec_the_environment_is_that_of_another_program(host: Host) -> None:
    host.tree.add(11, ticks=200, exe="next", cgroup=DOCKER)
    found = host.exec(11, 201, exe="env", paths=(PathItem("/usr/bin/env", "fe:00", 7),))
    assert found.unknown == ("script", "environment")
    assert found.container == Container(ID, "docker")
    found = host.exec(11, 202, exe="next")
    assert found.environment == {"HOME": "/root"}
    assert found.spawned_by is not None
    assert found.spawned_by.exe == host.exe("env")


def test_a_deleted_program_is_the_same_program(host: Host) -> None:
    folder = host.tree.add(11, ticks=200)
    (folder / "exe").unlink()
    (folder / "exe").symlink_to(host.exe() + " (deleted)")
    host.tree.program("prog (deleted)")
    assert host.exec(11, 201).environment == {"HOME": "/root"}


@pytest.mark.parametrize(
    ("inherit", "place", "container", "unit"),
    [
        ("container", DOCKER, Container(ID, "docker"), f"docker-{ID}.scope"),
        ("all", DOCKER, Container(ID, "docker"), f"docker-{ID}.scope"),
        ("container", "0::/system.slice/web.service\n", UNKNOWN, UNKNOWN),
        ("all", "0::/system.slice/web.service\n", None, "web.service"),
    ],
)
def test_what_a_process_that_is_gone_has_of_its_parent(
    host: Host, inherit: Literal["container", "all"], place: str, container: Any, unit: Any
) -> None:
    host.make(inherit=inherit)
    host.tree.add(10, ticks=100, cgroup=place)
    host.call(10, 150)
    found = host.exec(11, 201, 10)
    assert (found.container, found.unit) == (container, unit)
    # And the same process, once more, when it was seen before.
    host.tree.add(12, ppid=10, ticks=200, cgroup=place)
    assert UNKNOWN not in (host.exec(12, 210, 10).container,)
    host.tree.end(12)
    found = host.exec(12, 211, 10)
    assert (found.container, found.unit) == (container, unit)


def test_an_environment_that_hangs_is_unknown_and_the_rest_is_not(host: Host) -> None:
    host.make(deadline=0.2)
    host.tree.add(10, ticks=100)
    hang(host.tree.add(11, ppid=10, ticks=200, cgroup=DOCKER), "environ")
    found = host.exec(11, 201, 10)
    assert found.unknown == ("environment",)
    assert found.container == Container(ID, "docker")
    assert [process.pid for process in found.parents] == [10, 1]


def test_a_process_that_hangs_everywhere_leaves_its_event_unknown(host: Host) -> None:
    host.make(deadline=0.02)
    hang(host.tree.add(11, ticks=200), "stat")
    found = host.exec(11, 201)
    assert set(found.unknown) == ALL - {"script", "labels"}
    # Others are unknown as well until the thread is given up, and then they are found again.
    host.tree.add(12, ticks=300, cgroup=DOCKER)
    assert host.exec(12, 301).container is UNKNOWN
    host.clock.now += RECHECK + 1
    assert host.call(12, 401).container == Container(ID, "docker")
    assert host.reader.state["proc_abandoned"] == 1


# ---- events of known processes ----


def test_a_known_process_is_not_looked_at_again_for_a_second(host: Host) -> None:
    host.tree.add(11, ticks=200, cgroup=DOCKER)
    host.exec(11, 201)
    before = host.reads
    found = [host.call(11, 201 + n) for n in range(50)]
    assert host.reads == before
    assert all(one is found[0] for one in found)
    assert found[0].container == Container(ID, "docker")
    assert (found[0].script, found[0].environment, found[0].unknown) == (None, {}, ())
    host.clock.now += RECHECK
    host.tree.add(11, ticks=200, cgroup="0::/system.slice/moved.service\n")
    assert host.call(11, 320).unit == "moved.service"
    assert host.reads == before + 1


def test_a_process_that_is_heard_of_first_is_looked_at(host: Host) -> None:
    host.tree.add(10, ticks=100, exe="bash", argv=("bash", "-l"), cgroup=DOCKER)
    host.tree.add(11, ppid=10, ticks=200, argv=("prog", "-x"))
    found = host.call(11, 5000, 10)
    assert [process.pid for process in found.parents] == [10, 1]
    assert found.process is not None
    assert (found.process.argv, found.process.event_id) == (("prog", "-x"), None)
    assert found.unit == "prog.service"
    assert found.unknown == ()
    assert found.parents[0].argv == ("bash", "-l")


def test_a_process_of_which_no_call_is_recorded_is_found_by_its_number_alone(host: Host) -> None:
    host.tree.add(11, ticks=200, cgroup=DOCKER)
    found = host.event(11, 5000, None, None)
    assert found.container == Container(ID, "docker")
    assert [process.pid for process in found.parents] == [1]
    before = host.reads
    assert host.event(11, 5001, None, None) is host.event(11, 5002, None, None)
    assert host.reads == before


def test_a_change_of_an_ancestor_shows_in_its_descendants(host: Host) -> None:
    host.tree.add(10, ticks=100, exe="bash")
    host.tree.add(11, ppid=10, ticks=200)
    host.call(10, 150, exe="bash")
    first = host.call(11, 201, 10)
    host.tree.add(10, ticks=100, exe="zsh")
    host.exec(10, 210, exe="zsh")
    second = host.call(11, 211, 10)
    assert (first.parents[0].exe, second.parents[0].exe) == (host.exe("bash"), host.exe("zsh"))


def test_a_program_of_which_no_event_told_is_what_the_next_event_says(host: Host) -> None:
    host.tree.add(11, ticks=200, argv=("prog",))
    host.exec(11, 201)
    host.tree.add(11, ticks=200, exe="other", argv=("other", "-y"))
    found = host.call(11, 210, exe="other")
    assert found.process is not None
    assert (found.process.exe, found.process.argv, found.process.event_id) == (
        host.exe("other"),
        ("other", "-y"),
        None,
    )
    assert found.spawned_by is not None
    assert found.spawned_by.exe == host.exe()


# ---- numbers that come back ----


@pytest.mark.parametrize("heard", ["exec", "call"])
def test_a_number_that_came_back_is_another_process(host: Host, heard: str) -> None:
    host.tree.add(10, ticks=100, exe="bash")
    host.tree.add(11, ppid=10, ticks=200, cgroup=DOCKER)
    host.exec(11, 201, 10)
    host.tree.add(11, ppid=10, ticks=900_000, cgroup="0::/system.slice/new.service\n")
    host.clock.now += 9000
    found = host.exec(11, 900_001, 10) if heard == "exec" else host.call(11, 900_001, 10)
    assert (found.container, found.unit) == (None, "new.service")
    assert host.enricher.state["pids_reused"] == 1


def test_late_events_of_who_had_the_number_before_do_not_touch_who_has_it_now(host: Host) -> None:
    host.tree.add(11, ticks=900_000, cgroup=DOCKER)
    host.exec(11, 900_001)
    found = host.call(11, 201)
    assert (found.process, found.container) == (None, UNKNOWN)
    assert set(found.unknown) == {"container", "unit", "cgroup", "parents", "labels"}
    assert host.exec(11, 202).unknown == (
        *("container", "unit", "cgroup", "parents", "script"),
        "environment",
        "labels",
    )
    assert host.call(11, 900_002).container == Container(ID, "docker")


def test_in_a_backlog_a_number_that_came_back_is_noticed_within_a_second_of_ours(host: Host) -> None:
    # All of it is read at one moment, when the first process has gone and the second has its number.
    host.tree.add(11, ticks=1000, cgroup=DOCKER)
    assert host.call(11, 200).container is UNKNOWN
    assert host.call(11, 250).container is UNKNOWN
    assert host.call(11, 1001).container == Container(ID, "docker")


def test_a_parent_whose_number_came_back_is_not_believed(host: Host) -> None:
    host.tree.add(10, ticks=100, exe="bash")
    host.call(10, 150, exe="bash")
    # Nobody told of its end, nor of who has its number now; the child is the new one's.
    host.clock.now += 9000
    host.tree.add(10, ticks=800_000, exe="evil")
    host.tree.add(11, ppid=10, ticks=900_000)
    found = host.exec(11, 900_001, 10)
    chain = [(process.pid, process.exe) for process in found.parents]
    assert chain == [(10, host.exe("evil")), (1, host.exe("systemd"))]
    # And the child of the old one, of which we hear late, is not the new one's.
    found = host.exec(12, 160, 10)
    assert host.exe("evil") not in [process.exe for process in found.parents]


# ---- forks ----


def test_a_daemon_keeps_who_made_it(host: Host) -> None:
    host.tree.add(10, ticks=100, exe="bash")
    host.tree.add(11, ppid=10, ticks=200, exe="bash")
    host.call(10, 201, exe="bash", syscall="clone", exit=11)
    host.call(11, 202, 10, exe="bash", syscall="fork", exit=12)
    host.call(11, 203, 10, exe="bash", syscall="exit_group")
    host.tree.end(11)
    host.tree.add(12, ppid=1, ticks=202, exe="daemon")
    found = host.exec(12, 210, 1, exe="daemon")
    assert [process.pid for process in found.parents] == [11, 10, 1]
    assert found.process is not None
    assert found.process.ppid == 1


@pytest.mark.parametrize(
    ("syscall", "flags", "exit_", "known"),
    [
        ("clone", 0x1200011, 20, True),
        ("clone", 0x3D0F00, 20, False),
        ("clone3", None, 20, True),
        ("vfork", None, 20, True),
        ("clone", None, 0, False),
        ("clone", None, -11, False),
        ("clone", None, 1 << 40, False),
        ("clone", None, None, False),
        ("open", None, 20, False),
    ],
)
def test_what_counts_as_a_fork(host: Host, syscall: str, flags: int | None, exit_: int | None, known: bool) -> None:
    host.tree.add(10, ticks=100)
    host.call(10, 201, syscall=syscall, flags=flags, exit=exit_)
    assert host.enricher.table.expects(20) == known


def test_a_sibling_is_its_makers_parents_child(host: Host) -> None:
    host.tree.add(10, ticks=100)
    host.tree.add(11, ppid=10, ticks=150)
    host.call(11, 201, 10, syscall="clone", flags=0x8000, exit=20)
    host.tree.add(20, ppid=10, ticks=201)
    assert [process.pid for process in host.call(20, 202, 10).parents] == [10, 1]


def test_a_fork_in_a_namespace_of_its_own_says_nothing_about_our_numbers(host: Host) -> None:
    host.tree.add(20, ticks=100, exe="sshd", cgroup="0::/system.slice/ssh.service\n")
    host.call(20, 150, exe="sshd")
    host.tree.add(10, ticks=120, nspid="10\t3")
    host.call(10, 201, syscall="clone", exit=20)
    assert not host.enricher.table.expects(20)
    found = host.call(20, 210, exe="sshd")
    assert [process.pid for process in found.parents] == [1]
    # Nor does one of whom it is not known.
    host.tree.add(11, ticks=120)
    host.call(11, 202)
    host.tree.end(11)
    host.call(11, 203, syscall="clone", exit=20)
    assert not host.enricher.table.expects(20)


def test_a_failed_call_is_no_start_and_no_fork(host: Host) -> None:
    host.tree.add(10, ticks=100)
    host.event(10, 201, syscall="clone", success=False, exit=20)
    found = host.event(10, 202, syscall="execve", success=False, argv=("other",))
    assert not host.enricher.table.expects(20)
    assert found.process is not None
    assert (found.process.event_id, found.environment) == (None, {})


# ---- scripts ----


def numbers(path: str) -> tuple[str, int]:
    import os

    found = os.stat(path)
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino


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
    enricher = Enricher(EnrichSettings(), None, boot=lambda: BOOT)

    def event(pid: int, ppid: int, ticks: int, exe: str, **more: Any) -> Enrichment:
        return enricher.enrich(Facts(pid, at(ticks), "1.1:1", ppid, exe, exe, success=True, **more))

    event(10, 1, 100, "/bin/bash", syscall="execve", argv=("bash",))
    found = event(11, 10, 101, "/bin/ls", syscall="execve", argv=("ls",), paths=(PathItem("/bin/ls", "fe:00", 1),))
    assert [process.exe for process in found.parents] == ["/bin/bash"]
    assert found.unknown == ("container", "unit", "cgroup", "parents")
    assert event(11, 10, 102, "/bin/ls", syscall="read").parents == found.parents
    assert "proc_reads" not in enricher.state
    enricher.close()


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
    enricher = Enricher(EnrichSettings(ALL, ("A",), RULES), None, boot=lambda: BOOT)
    for facts in many:
        found = enricher.enrich(facts)
        assert len(found.parents) <= 16
        assert found.process not in found.parents
    # And what is known then can be kept.
    restore(ProcessTable(), dump(enricher.table, "boot"), "boot", {})


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


def test_after_close_it_goes_on_with_what_is_known(host: Host) -> None:
    host.tree.add(11, ticks=200, cgroup=DOCKER)
    host.exec(11, 201)
    host.enricher.close()
    assert host.call(11, 202).container == Container(ID, "docker")
    assert host.exec(12, 203).container is UNKNOWN
