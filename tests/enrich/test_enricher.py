"""Enrichment of events on a made host: what is found, what is unknown, what is asked of /proc and what is not."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from audisp.enrich.census import RECHECK
from audisp.enrich.facts import ALL, PathItem
from audisp.parse.cgroup import Container
from audisp.parse.processes import UNKNOWN
from tests.enrich.hosts import DOCKER, ID, Host, at
from tests.enrich.trees import hang

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
    host.make(deadline=0.5)
    host.tree.add(10, ticks=100)
    hang(host.tree.add(11, ppid=10, ticks=200, cgroup=DOCKER), "environ")
    found = host.exec(11, 201, 10)
    assert found.unknown == ("environment",)
    assert found.container == Container(ID, "docker")
    assert [process.pid for process in found.parents] == [10, 1]


def test_a_process_that_hangs_everywhere_leaves_its_event_unknown(host: Host) -> None:
    host.make(deadline=0.5)
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


def test_a_process_that_is_gone_keeps_who_made_it_when_that_ended_before(host: Host) -> None:
    host.tree.add(10, ticks=100)
    host.tree.add(11, ppid=10, ticks=200)
    host.call(11, 201, 10)
    host.call(10, 205, syscall="exit_group")
    host.tree.end(10)
    host.tree.end(11)
    found = host.call(11, 206, 1)
    assert [process.pid for process in found.parents] == [10, 1]
    assert found.process is not None
    assert (found.process.ppid, found.process.ticks) == (1, 200)
    # Had nobody told of the end, it would be somebody else.
    host.tree.add(20, ticks=100)
    host.tree.add(21, ppid=20, ticks=200)
    host.call(21, 201, 20)
    host.tree.end(21)
    found = host.call(21, 206, 1)
    assert [process.pid for process in found.parents] == [1]
    assert found.process is not None
    assert found.process.ticks is None
