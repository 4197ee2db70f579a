"""The thinnest real path: a request, its checks, the journal, a process that is killed or stopped, a result."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from audisp.react.means import Means
from audisp.react.means_process import Freeze, Kill
from audisp.react.processes import find, read_stat
from audisp.react.request import Kind, Outcome, Process
from tests.needs import needs
from tests.react.playing import HandClock, becomes, conf, entries, playing, request, state_of, victim


class Outsider(Kill):
    """As Kill; what the test has started is somebody else's to it, as it is in a reactor that started nothing."""

    def _ours_above(self, pid: int) -> bool:
        return False


class OutsiderFreeze(Freeze):
    """See Outsider."""

    def _ours_above(self, pid: int) -> bool:
        return False


async def test_a_process_is_killed(tmp_path: Path) -> None:
    settings = conf()
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        result = await played.reactor.handle(request(Kind.KILL, target, number=7))
        assert process.wait(5) == -signal.SIGKILL
    assert (result.number, result.outcome, result.act, result.record_type) == (7, Outcome.DONE, 1, 2202)
    assert f"opid={target.pid}" in result.body
    assert 'exe="/usr/bin/sleep"' in result.body
    assert result.body.endswith("res=success")
    written = entries(tmp_path / "r")
    assert [entry.get("step") or entry["act"]["step"] for entry in written] == ["begun", "done"]


async def test_a_dry_run_only_says_so(tmp_path: Path) -> None:
    settings = conf(dry_run=True)
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        result = await played.reactor.handle(request(Kind.KILL, target))
        assert process.poll() is None
        assert played.said
    assert (result.outcome, result.record_type) == (Outcome.DRY_RUN, 2200)
    assert result.body.startswith(f"op=would-kill-process act=1 opid={target.pid} ")
    assert [entry["act"]["step"] for entry in entries(tmp_path / "r")] == ["dry"]


async def test_what_the_dispatcher_and_we_have_started_is_spared(tmp_path: Path) -> None:
    settings = conf()
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Kill(settings)}) as played:
        result = await played.reactor.handle(request(Kind.KILL, target))
        assert process.poll() is None
    assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, "spared")
    assert entries(tmp_path / "r") == []


async def test_another_start_time_is_another_process(tmp_path: Path) -> None:
    settings = conf()
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        for start in (target.start - 1, target.start + 1, 0):
            result = await played.reactor.handle(request(Kind.KILL, Process(target.pid, start)))
            assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, "gone")
        assert process.poll() is None


async def test_a_process_younger_than_its_event_is_not_the_one(tmp_path: Path) -> None:
    settings = conf()
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        asked = request(Kind.KILL, target)
        early = request(Kind.KILL, target, event_time=asked.event_time - 20_000)
        result = await played.reactor.handle(early)
        assert process.poll() is None
    assert result.reason == "gone"
    assert "given again" in result.text


async def test_a_process_that_has_ended_is_gone(tmp_path: Path) -> None:
    settings = conf()
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        process.kill()
        while state_of(target.pid) != "Z":  # noqa: ASYNC110 - its pid cannot be given again yet
            await trio.sleep(0.01)
        assert (await played.reactor.handle(request(Kind.KILL, target))).reason == "gone"
        process.wait()
        assert (await played.reactor.handle(request(Kind.KILL, target))).reason == "gone"


async def test_one_that_ends_between_journal_and_signal_is_told_as_gone(tmp_path: Path) -> None:
    settings = conf()
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        asked = request(Kind.KILL, target)
        act = played.reactor.decide(asked)
        process.kill()
        process.wait()
        assert not hasattr(act, "outcome")
        result = await played.reactor.carry_out(act, asked)
    assert (result.outcome, result.reason) == (Outcome.FAILED, "gone")


@pytest.mark.parametrize("pid", [1, 2])
async def test_init_and_the_kernel_are_spared(tmp_path: Path, pid: int) -> None:
    settings = conf()
    found = find(pid)
    assert found is not None
    with playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        result = await played.reactor.handle(request(Kind.KILL, Process(pid, found.start)))
    assert result.reason == "spared"


async def test_we_and_who_is_above_us_are_spared(tmp_path: Path) -> None:
    settings = conf()
    with playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        for pid in (os.getpid(), os.getppid()):
            found = find(pid)
            assert found is not None
            result = await played.reactor.handle(request(Kind.KILL, Process(pid, found.start)))
            assert result.reason == "spared"


async def test_root_s_processes_need_a_word_of_the_configuration(tmp_path: Path) -> None:
    settings = conf(act_on_root=False)
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        result = await played.reactor.handle(request(Kind.KILL, target))
        assert process.poll() is None
    if os.geteuid() == 0:
        assert result.reason == "spared"
        assert "act_on_root" in result.text


async def test_a_program_that_is_named_is_spared(tmp_path: Path) -> None:
    settings = conf(spare_programs=("/usr/bin/sleep",))
    with victim() as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: Outsider(settings)}) as played:
        result = await played.reactor.handle(request(Kind.KILL, target))
        assert process.poll() is None
    assert result.reason == "spared"


@needs("root")
async def test_the_matcher_s_user_is_spared(tmp_path: Path) -> None:
    settings = conf()
    means = Outsider(settings, ours=[65534])
    with victim(user=65534) as (process, target), playing(settings, tmp_path / "r", {Kind.KILL: means}) as played:
        result = await played.reactor.handle(request(Kind.KILL, target))
        assert process.poll() is None
    assert result.reason == "spared"


async def test_a_process_is_stopped_and_goes_on_in_time(tmp_path: Path) -> None:
    settings = conf(freeze_time=600)
    clock = HandClock()
    means = {Kind.FREEZE: OutsiderFreeze(settings)}
    with victim() as (process, target), playing(settings, tmp_path / "r", means, clock=clock) as played:
        result = await played.reactor.handle(request(Kind.FREEZE, target))
        assert result.outcome is Outcome.DONE
        assert becomes(target.pid, "T")
        assert result.until > 0
        again = await played.reactor.handle(request(Kind.FREEZE, target))
        assert again.reason == "in_force"
        clock.ahead = 599
        assert played.reactor.books.due(clock()) == []
        clock.ahead = 601
        with_time = played.reactor.books.due(clock())
        assert [act.id for act in with_time] == [result.act]
        await played.reactor.reconcile()
        assert becomes(target.pid, "SR")
        assert [(told.outcome, told.reason) for told in played.told] == [(Outcome.UNDONE, "time_over")]
        assert process.poll() is None


async def test_what_the_wall_clock_does_moves_no_undo(tmp_path: Path) -> None:
    settings = conf(freeze_time=600)
    clock = HandClock()
    means = {Kind.FREEZE: OutsiderFreeze(settings)}
    with victim() as (_, target), playing(settings, tmp_path / "r", means, clock=clock) as played:
        await played.reactor.handle(request(Kind.FREEZE, target))
        for wall_ahead in (86400.0, -86400.0):
            clock.wall_ahead = wall_ahead
            assert played.reactor.books.due(clock()) == []
            assert 590 < played.reactor.books.acts[1].left(clock()) <= 600
        await played.reactor.undo(1)
        assert becomes(target.pid, "SR")


async def test_after_a_kill_before_the_act_nothing_is_left(tmp_path: Path) -> None:
    """The journal says begun, the signal never went out: the next start says so, and lets go on what is not stopped."""
    settings = conf()
    means: dict[Kind, Means] = {Kind.FREEZE: OutsiderFreeze(settings), Kind.KILL: Outsider(settings)}
    with victim() as (process, target):
        with playing(settings, tmp_path / "r", means) as played:
            played.reactor.decide(request(Kind.FREEZE, target))
            played.reactor.decide(request(Kind.KILL, target))
        with playing(settings, tmp_path / "r", means) as played:
            await played.reactor.reconcile()
            assert [(told.kind, told.outcome) for told in played.told] == [
                (Kind.FREEZE, Outcome.UNDONE),
                (Kind.KILL, Outcome.FAILED),
            ]
            assert {told.reason for told in played.told} == {"interrupted"}
        with playing(settings, tmp_path / "r", means) as played:
            await played.reactor.reconcile()
            assert played.told == []
        assert process.poll() is None


async def test_after_a_kill_behind_the_act_it_is_confirmed(tmp_path: Path) -> None:
    settings = conf()
    means: dict[Kind, Means] = {Kind.FREEZE: OutsiderFreeze(settings)}
    with victim() as (_, target):
        with playing(settings, tmp_path / "r", means) as played:
            act = played.reactor.decide(request(Kind.FREEZE, target))
            await means[Kind.FREEZE].carry_out(act, request(Kind.FREEZE, target))  # type: ignore[arg-type]
            assert becomes(target.pid, "T")
        with playing(settings, tmp_path / "r", means) as played:
            await played.reactor.reconcile()
            assert [(told.outcome, told.reason) for told in played.told] == [(Outcome.DONE, "confirmed")]
            assert becomes(target.pid, "T")
            await played.reactor.undo(1)
            assert becomes(target.pid, "SR")


@pytest.mark.parametrize("name", [b"sh", b"a) R 1", b") (", b"))))", b"a b c d"])
def test_a_stat_is_read_behind_the_last_parenthesis(name: bytes) -> None:
    rest = b" S 17 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 100 200"
    assert read_stat(b"99 (" + name + b")" + rest) == ("S", 17, 4194560, 4242)


@pytest.mark.parametrize("text", [b"", b"1 (a", b"1 (a) S", b"1 (a) S x y z"])
def test_what_is_no_stat_is_none(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_stat(text)


def test_a_process_is_found_as_ps_finds_it() -> None:
    with victim() as (process, target):
        said = subprocess.run(["ps", "-o", "stat=,ppid=", "-p", str(process.pid)], capture_output=True, check=True)
        found = find(target.pid)
        assert found is not None
        assert said.stdout.split()[1] == str(found.parent).encode()
        assert (found.pid, found.start, found.kernel, found.uids[0]) == (process.pid, target.start, False, os.getuid())
