"""What an isolated plugin is handed: a folder of its own, and the way to the reactor, and nothing else of either."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from audisp.config.plugins import PluginConf
from audisp.dispatch.handed import own_folder, plugin_folder
from audisp.dispatch.isolated import IsolatedRunner
from audisp.errors import PluginError
from audisp.react.control import ask
from tests.dispatch.intakes import block
from tests.dispatch.isolates import Isolates, alive, settings
from tests.dispatch.voices import running, until
from tests.needs import needs
from tests.reachable import reachable_interpreter

pytestmark = needs("root")

NOBODY = pwd.getpwnam("nobody").pw_uid

CODE = """
import json, os, socket, time
from contextlib import asynccontextmanager
import attrs
from audisp.plugin import PluginType, hookimpl
from audisp.react.request import Kind, Level, Origin, Request, decode_result, encode_request


@attrs.frozen
class Settings:
    pass


@asynccontextmanager
async def open_it(settings, host):
    def deliver(block):
        with open(f"{host.state_dir}/kept", "a") as file:
            file.write(f"{os.getuid()} {host.local}\\\\n")
        if host.reactor is None:
            return
        host.say("info", f"allowed {sorted(host.reactor.allowed.items())}")
        way = socket.socket(fileno=os.dup(host.reactor.descriptor))
        now = int(time.time() * 1000)
        way.send(encode_request(Request(
            number=block.first_serial(), kind=Kind.NOTIFY, target=None, deadline=now + 30_000, event_id="1.000:1",
            event_time=now, origin=Origin.LIVE, level=Level.HIGH, rule="a rule",
        )))
        result = decode_result(way.recv(65536))
        host.emit(result.record_type, f"number={result.number} {result.body}")
        way.close()
    yield deliver


@hookimpl
def audisp_plugins():
    return [PluginType("tested", Settings, open_it)]
"""


@pytest.fixture
def isolates(safe: Path, monkeypatch: pytest.MonkeyPatch) -> Isolates:
    monkeypatch.chdir("/")
    safe.chmod(0o755)
    python = reachable_interpreter(safe / "venv")
    if python is None:
        pytest.skip("needs the system's interpreter in the version of ours")
    monkeypatch.setattr(sys, "executable", python)
    # As the dispatcher's own: nobody else comes through.
    (safe / "state").mkdir(mode=0o700)
    return Isolates(safe)


def conf_of(isolates: Isolates, **host_keys: Any) -> PluginConf:
    return PluginConf(
        name="tested",
        path=Path("/etc/tested.audisp"),
        active=True,
        plugin=str(isolates.code(CODE.replace("\\\\n", "\\n"))),
        isolation="process",
        user="nobody",
        settings=settings(Path("/etc/tested.audisp")),
        **host_keys,
    )


def runner_of(isolates: Isolates, conf: PluginConf) -> IsolatedRunner:
    runner = isolates.runner(conf=conf)
    runner.host.state = isolates.folder / "state"  # type: ignore[attr-defined]
    return runner


@attrs.frozen
class Reactions:
    path: Path

    def write(
        self, text: str = "dry_run = yes\nblock_address = high critical\nnotify_command = /usr/bin/true\n"
    ) -> str:
        self.path.write_text(text)
        self.path.chmod(0o640)
        return str(self.path)


@pytest.fixture
def reactions(safe: Path) -> Reactions:
    return Reactions(safe / "reactions.conf")


async def test_a_folder_of_its_own_behind_folders_that_are_closed_to_it(isolates: Isolates) -> None:
    runner = runner_of(isolates, conf_of(isolates))
    async with running(runner, 10):
        for serial in (1, 2):
            runner.intake.offer(block(serial), False)
        await until(lambda: runner.intake.delivered == 2)
        os.kill(runner.pids()[0], signal.SIGKILL)
        runner.intake.offer(block(3), False)
        await until(lambda: runner.intake.delivered == 3)
    folder = plugin_folder(isolates.folder / "state", "tested")
    found = folder.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NOBODY, 0o700)
    assert set((folder / "kept").read_text().splitlines()) == {f"{NOBODY} True"}


@pytest.mark.parametrize("wrong", ["owner", "mode", "link"])
async def test_a_folder_that_is_not_its_own_is_none(isolates: Isolates, wrong: str) -> None:
    folder = plugin_folder(isolates.folder / "state", "tested")
    folder.parent.mkdir(mode=0o700)
    if wrong == "link":
        folder.symlink_to("/tmp")
    else:
        folder.mkdir(mode=0o770 if wrong == "mode" else 0o700)
        folder.chmod(0o770 if wrong == "mode" else 0o700)
        os.chown(folder, NOBODY if wrong == "mode" else 12345, 0)
    runner = runner_of(isolates, conf_of(isolates))
    async with running(runner):
        await runner.opened.wait()
        assert runner.first_problem is not None
        assert str(folder) in runner.first_problem
    assert not isolates.said.heard("Traceback")


def test_a_plugin_in_the_dispatcher_has_one_as_well(safe: Path) -> None:
    folder = Path(own_folder(safe / "state", "in"))
    assert folder == plugin_folder(safe / "state", "in")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(PluginError, match="nobody else may write"):
        own_folder(safe / "state", "in")


async def test_it_asks_the_reactor_and_hears_back(isolates: Isolates, reactions: Reactions) -> None:
    runner = runner_of(isolates, conf_of(isolates, reactions=reactions.write()))
    state = isolates.folder / "state" / "reactor"
    async with running(runner, 10):
        runner.intake.offer(block(7), False)
        await until(lambda: isolates.emitted)
        type_, text = isolates.emitted[0]
        assert type_ == 2200  # RESP_ANOMALY: a dry run
        assert "number=7 op=would-notify " in text
        assert isolates.said.heard(
            "allowed [('block_address', ('high', 'critical')), ('notify', ('high', 'critical'))]"
        )
        assert isolates.said.heard("plugin tested, reactor: dry run: act 1: notify event 1.000:1")
        # It serves a matcher, so that nobody else's reactor takes its place.
        with pytest.raises(Exception, match="serves a matcher"):
            await trio.to_thread.run_sync(lambda: ask(state, op="yield"))
        # The plugin dies: its successor has a reactor of its own, on the same journal.
        os.kill(runner.pids()[0], signal.SIGKILL)
        runner.intake.offer(block(8), False)
        await until(lambda: len(isolates.emitted) == 2)
        assert "act=2" in isolates.emitted[1][1]
    # Nothing waits for its time: the reactor goes, too.
    await until(lambda: not (state / "reactor.sock").exists())


async def test_the_reactors_uid_list_has_the_plugins_user(isolates: Isolates, reactions: Reactions) -> None:
    runner = runner_of(isolates, conf_of(isolates, reactions=reactions.write()))
    async with running(runner, 10):
        await runner.opened.wait()
        mine = [pid for pid in children() if b"audisp.react.main" in cmdline(pid)]
        assert len(mine) == 1
        words = cmdline(mine[0]).split(b"\0")
        assert words[words.index(b"--ours") + 1] == b"%d" % NOBODY
        assert b"--collector" not in words
    await until(lambda: not alive(mine[0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "reactions.conf is missing"),
        ("block_adress = high\n", "did you mean 'block_address'"),
        ("dry_run = yes\n", None),
    ],
)
async def test_a_file_that_cannot_be_used_starts_nothing(
    isolates: Isolates, reactions: Reactions, text: str | None, message: str | None
) -> None:
    if text is not None:
        reactions.write(text)
    runner = runner_of(isolates, conf_of(isolates, reactions=str(reactions.path)))
    async with running(runner):
        await runner.opened.wait()
        if message is None:
            assert runner.first_problem is None
        else:
            assert runner.first_problem is not None
            assert message in runner.first_problem
            assert not [pid for pid in children() if b"audisp.react.main" in cmdline(pid)]


async def test_on_a_collector_what_touches_a_host_is_an_error(isolates: Isolates, reactions: Reactions) -> None:
    runner = runner_of(isolates, conf_of(isolates, reactions=reactions.write()))
    runner.host.collector = True  # type: ignore[attr-defined]
    async with running(runner):
        await runner.opened.wait()
        assert runner.first_problem is not None
        assert "block_address" in runner.first_problem


def children() -> list[int]:
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                stat_ = (each / "stat").read_bytes()
            except OSError:
                continue
            if stat_[stat_.rindex(b")") + 1 :].split()[1] == b"%d" % os.getpid():
                found.append(int(each.name))
    return found


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
