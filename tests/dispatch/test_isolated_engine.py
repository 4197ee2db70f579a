"""Isolated plugins in a whole dispatcher: described before they run, reloaded alone, checked, seen in status."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import attrs
import pytest

from audisp.cli.check import OK, WRONG, check
from audisp.config.plugins import PluginConf
from audisp.dispatch import far
from audisp.dispatch.needs import plugin_needs
from audisp.errors import PluginError
from tests.dispatch.isolates import CODE, Isolates, alive
from tests.dispatch.test_engine import stream_of
from tests.dispatch.test_reload import reload
from tests.dispatch.voices import until
from tests.dispatch.worlds import Feed, World, entry
from tests.needs import needs
from tests.reachable import reachable_interpreter

pytestmark = needs("root")


@pytest.fixture
def world(safe: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Folders below which only root can write: code is loaded from there. `load_type` is the real one."""
    monkeypatch.chdir("/")
    return World(safe)


@pytest.fixture
def isolates(world: World) -> Isolates:
    return Isolates(world.folder)


def configure(world: World, isolates: Isolates, text: str = "", *, name: str = "apart", wants: str = "blocks") -> None:
    code = isolates.code(CODE.replace("WANTS", repr(wants)))
    world._write(
        f"plugins.d/{name}.audisp",
        f"active = yes\nplugin = {code}\nisolation = process\nout = {world.folder}/{name}\n"
        f"restart_delay = 0.01\n{text}",
    )


def about(pid: int, what: str) -> str:
    """A file of /proc."""
    return Path(f"/proc/{pid}/{what}").read_text()


async def test_the_whole_stream_with_status_and_a_drain(world: World, isolates: Isolates) -> None:
    configure(world, isolates, "nice = 3\nmode = notice\n")
    feed = Feed()
    async with world.started(feed) as engine:
        await feed.send(300)
        shown = engine.snapshot()["plugins"]["apart"]
        assert (shown["kind"], shown["state"]) == ("isolated", "running")
        (pid,) = shown["pids"]
        assert about(pid, "cmdline").split("\0")[1:4] == ["-I", "-m", far.MODULE]
        # What root executes would have more than the dispatcher itself has kept.
        assert "\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n" in about(pid, "status")
        assert os.getpriority(os.PRIO_PROCESS, pid) == 3
        await until(lambda: engine.snapshot()["plugins"]["apart"]["detail"].get("pid") == str(pid))
    stream = stream_of((world.folder / "apart").read_bytes())
    assert stream.next == 3001
    assert (world.folder / "apart.closed").exists()
    assert not alive(pid)
    assert world.said.heard("apart.audisp:7: mode: is worth a word", "notice")


async def test_one_function_with_a_filter(world: World, isolates: Isolates) -> None:
    code = isolates.code(
        f"""
import os
from audisp.plugin import hookimpl

@hookimpl
def audisp_events(events):
    with open({str(world.folder / "seen")!r}, "ab") as out:
        for event in events:
            out.write(b"%d %s %d\\n" % (event.id.serial, event.origin.encode(), os.getpid() != {os.getpid()}))
""",
        "function.py",
    )
    world._write(
        "plugins.d/function.audisp",
        f"active = yes\nplugin = {code}\nisolation = process\nfilter_keep = uid r= 7\n",
    )
    feed = Feed()
    async with world.started(feed) as engine:
        assert engine.roster.knows_processes(), "it is given what is known of them"
        for serial in range(1, 6):
            await feed.lines(f"SYSCALL {serial} uid={7 if serial % 2 else 8}", f"EOE {serial} ")
        await until(lambda: feed.books.routed == 10)
    seen = [line for line in (world.folder / "seen").read_bytes().splitlines() if b" feed " in line]
    assert seen == [b"1 feed 1", b"3 feed 1", b"5 feed 1"]


async def test_an_installed_plugin_in_a_shape(world: World) -> None:
    out = world.folder / "events.json"
    world._write(
        "plugins.d/output.audisp",
        f"active = yes\nplugin = output\nisolation = process\nshape = ecs\nfile = {out}\n",
    )
    feed = Feed()
    async with world.started(feed):
        await feed.lines('SYSCALL 1 arch=c000003e syscall=59 success=yes exe="/bin/x"', "EOE 1 ")
        await until(lambda: feed.books.routed == 2)
    assert b'"/bin/x"' in out.read_bytes()


async def test_a_reload_starts_it_anew_only_when_it_has_changed(world: World, isolates: Isolates) -> None:
    extra = world.folder / "extra"
    extra.write_text("1")
    configure(world, isolates, f"extra = {extra}\n")
    configure(world, isolates, name="other")
    feed = Feed()
    async with world.started(feed) as engine:
        runners = {name: entry(engine, name).runner for name in ("apart", "other")}
        pids = {name: runner.pids() for name, runner in runners.items()}
        await feed.send(20)
        assert await reload(engine, world) == "reload: nothing had changed"
        assert entry(engine, "apart").runner.pids() == pids["apart"]
        extra.write_text("22")
        assert await reload(engine, world) == "reload: apart restarted"
        assert entry(engine, "other").runner.pids() == pids["other"]
        assert entry(engine, "apart").runner.pids() != pids["apart"]
        await feed.send(20)
        configure(world, isolates, f"extra = {extra}\nmod = x\n")
        assert "apart kept" in await reload(engine, world)
        assert world.said.heard(
            f"stays as it was: {world.folder}/plugins.d/apart.audisp:7: unknown key 'mod' (did you mean 'mode'?)"
        )
        await feed.send(20)
    for name in ("apart", "other"):
        assert stream_of((world.folder / name).read_bytes()).next == 601


async def test_bad_settings_cost_their_plugin_alone(world: World, isolates: Isolates) -> None:
    configure(world, isolates, "loop = maybe\n")
    out = world.child("child")
    feed = Feed()
    async with world.started(feed) as engine:
        assert "apart" not in engine.roster.entries
        await feed.send(5)
    assert stream_of(out.read_bytes()).next == 51
    assert world.said.heard("plugin apart: not started: ", "error")
    assert world.said.heard("apart.audisp:6: loop: 'maybe' is not one of yes, no")


async def test_a_required_one_that_does_not_open_stops_the_start(world: World, isolates: Isolates) -> None:
    configure(world, isolates, "mode = refuse\nrequired = yes\n")
    engine = world.engine(Feed())
    with pytest.raises(ExceptionGroup) as caught:
        await engine.run()
    assert caught.group_contains(PluginError, match="plugin apart: OSError: cannot be opened")


async def test_the_log_of_auditd_conf_stays_inside(world: World) -> None:
    world._write("plugins.d/log.audisp", "active = yes\nplugin = log\nisolation = process\n")
    engine = world.engine(Feed())
    engine.roster.plan = engine.plan = world.plan()
    assert not engine.plan.writes_log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.plan), "writes_log", property(lambda plan: True))
        with pytest.raises(PluginError, match=r"isolation: auditd\.conf's log is written by the dispatcher itself"):
            await engine.roster._make_type(engine.plan.plugins[0])


def test_check_asks_it_in_a_process_of_its_own(world: World, isolates: Isolates) -> None:
    def checked() -> tuple[int, str]:
        out = io.StringIO()

        def never(name: str) -> type:
            raise AssertionError("imported here")

        status = check(world.folder / "etc", never, out=out)
        return status, out.getvalue()

    (world.folder / "plugins.d").rename(world.folder / "etc/plugins.d")
    world.folder.joinpath("plugins.d").symlink_to("etc/plugins.d")
    configure(world, isolates, "mode = notice\n")
    status, said = checked()
    assert status == OK, said
    assert "apart.audisp:6: mode: is worth a word (notice)" in said
    assert "apart.audisp:3: isolation: its process belongs to root: user is not set (notice)" in said
    configure(world, isolates, "mode = bad\n")
    status, said = checked()
    assert status == WRONG
    assert "apart.audisp:6: mode: is no mode\n" in said
    isolates.code("1 / 0")
    status, said = checked()
    assert status == WRONG
    assert "apart.audisp:2: plugin: " in said
    assert "ZeroDivisionError: division by zero" in said


def test_the_dispatcher_keeps_what_it_takes_to_end_it() -> None:
    plain = PluginConf(name="x", path=Path("/x.audisp"), plugin="stdout")
    for conf, wanted in ((attrs.evolve(plain, isolation="process"), ["cap_kill"]), (plain, [])):
        found: list[str] = []
        plugin_needs([conf], lambda capability, _, found=found: found.append(capability))  # type: ignore[misc]
        assert found == wanted


async def test_it_runs_as_another_user(world: World, isolates: Isolates, monkeypatch: pytest.MonkeyPatch) -> None:
    python = reachable_interpreter(world.folder / "venv")
    if python is None:
        pytest.skip("needs the system's interpreter in the version of ours")
    monkeypatch.setattr(sys, "executable", python)
    world.folder.chmod(0o755)
    drop = world.folder / "drop"
    drop.mkdir()
    shutil.chown(drop, "nobody")
    configure(world, isolates, f"user = nobody\nmode = hang\ndeliver_timeout = 0.5\nout = {drop}/out\n")
    feed = Feed()
    async with world.started(feed) as engine:
        assert "apart" in engine.roster.entries, "\n".join(message for _, message in world.said.lines)
        status = about(entry(engine, "apart").runner.pids()[0], "status").splitlines()
        found = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        await feed.send(5)
    assert found["Uid"].split() == ["65534"] * 4
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    # It hung once, and was ended although it is another user's.
    assert stream_of((drop / "out").read_bytes()).next == 51
    assert (drop / "out").stat().st_uid == 65534
