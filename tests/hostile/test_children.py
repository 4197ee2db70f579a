"""Child programs that mean harm to the process that feeds them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from audisp.config.plugins import PluginConf
from audisp.dispatch import child
from audisp.dispatch.child import ChildRunner
from audisp.dispatch.launch import Launched
from audisp.dispatch.restart import Restarts
from tests.dispatch.intakes import block, make_intake
from tests.dispatch.voices import Said, running, until

SHUTS_DOWN = """
import signal, socket
signal.signal(signal.SIGTERM, signal.SIG_IGN)
socket.socket(fileno=0).shutdown(socket.SHUT_RD)
while True:
    signal.pause()
"""


async def test_a_child_that_shuts_its_input_down_is_ended_and_does_not_make_us_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setattr(child, "TERM_GRACE", 0.05)
    program = tmp_path / "child.py"
    program.write_text(SHUTS_DOWN)
    said = Said()
    conf = PluginConf(
        name="hostile", path=Path("/hostile.conf"), active=True, command=(sys.executable, "-I", "-S", str(program))
    )
    runner = ChildRunner(conf, make_intake(1 << 20), Restarts(1, 0.01, 0.01), said)
    turns = 0
    async with running(runner):
        await until(lambda: runner.state == "running")
        while runner.state != "failed":
            assert runner.intake.offer(block(1 + 10 * turns, 10), False) is None
            turns += 1
            await trio.sleep(0.02)
            assert turns < 1000
    assert said.count("has shut its input down") == 2
    assert said.heard("killed by SIGKILL")
    books = runner.intake.books()
    assert books.imbalance == 0
    assert books.delivered == 0


async def test_a_child_of_another_user_that_we_may_not_end_does_not_hold_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setattr(child, "TERM_GRACE", 0.05)
    monkeypatch.setattr(child, "EOF_GRACE", 0.05)
    program = tmp_path / "child.py"
    program.write_text("import signal\nwhile True:\n    signal.pause()\n")
    said = Said()
    command = (sys.executable, "-I", "-S", str(program))
    conf = PluginConf(name="foreign", path=Path("/foreign.conf"), active=True, command=command)
    runner = ChildRunner(conf, make_intake(1 << 20), Restarts(1, 0.01, 0.01), said)

    def refuse(self: Launched, number: int) -> bool:
        raise PermissionError(1, "Operation not permitted")

    pid = 0
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Launched, "signal", refuse)
            async with running(runner):
                await until(lambda: runner.pids())
                pid = runner.pids()[0]
                assert runner.intake.offer(block(1, 10), False) is None
        assert runner.state == "stopped"
        assert said.heard("without cap_kill we cannot end it", "error")
        books = runner.intake.books()
        assert (books.imbalance, books.waiting) == (0, 10)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has just been killed
