"""Actions of audisp-remote.conf run the right program, once, and audisp-remote goes on. A stand-in is where init is, in
a mount namespace of the test's own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.collectors import Collector
from tests.e2e.remotes import Remote, free_port, numbered
from tests.e2e.stream import wait_for
from tests.needs import needs

pytestmark = [needs("root"), pytest.mark.timeout(120, func_only=True)]

_PRIVATE_INIT: Final = """
mount --bind "$0" /sbin/init && cmp -s "$0" /sbin/init && exec "$@"
exit 99
"""
"""Nothing is started unless the stand-in is there."""


def stand_in(path: Path, said: Path) -> Path:
    """A program that notes its arguments, one in a line, and then an empty one."""
    path.write_text(f"""#!/bin/sh\nprintf '%s\\n' "$@" '' >>'{said}'\n""")
    path.chmod(0o750)
    return path


def remote(folder: Path, said: Path, **conf: object) -> Remote:
    folder.mkdir()
    made = Remote(folder, max_tries_per_record=1, max_time_per_record=1, **conf)
    init = stand_in(folder / "init", said)
    made.argv = ["unshare", "-m", "sh", "-c", _PRIVATE_INIT, str(init), *made.argv]
    return made


def noted(path: Path) -> list[list[str]]:
    """The arguments of each call."""
    text = path.read_text() if path.exists() else ""
    return [call.split("\n") for call in text.split("\n\n")[:-1]]


@pytest.mark.parametrize(("action", "level"), [("single", "1"), ("halt", "0")])
def test_init_is_asked_once_and_records_are_kept_and_sent(tmp_path: Path, action: str, level: str) -> None:
    said, port = tmp_path / "said", free_port()
    with remote(tmp_path / "remote", said, port=port, network_failure_action=action) as sender:
        # The first round after the start is startup_failure_action's, by default a line.
        sender.write(numbered(1, 10))
        wait_for(lambda: noted(said) == [[level]], f"init {level} is asked for")
        before = int(sender.fresh_state()["attempts"])
        wait_for(lambda: int(sender.fresh_state()["attempts"]) > before + 2, "it goes on trying")
        sender.write(numbered(11, 10))
        sender.await_accepted(20)
        with Collector(tmp_path / "collector", port=port, transport="tcp") as collector:
            wait_for(lambda: len(collector.records()) == 20, "all of it is stored")
        assert sender.ended() is None
        assert noted(said) == [[level]]


def test_exec_gets_the_message_as_its_only_argument(tmp_path: Path) -> None:
    said, told, port = tmp_path / "said", tmp_path / "told", free_port()
    program = stand_in(tmp_path / "notice", told)
    with remote(tmp_path / "remote", said, port=port, network_failure_action=f"exec {program} left out") as sender:
        sender.write(numbered(1, 10))
        wait_for(lambda: noted(told), "the program was run")
        (call,) = noted(told)
        assert len(call) == 1
        assert f"127.0.0.1:{port}" in call[0]
        assert sender.stop(signal.SIGINT) == 1
    assert noted(said) == []


def test_a_program_that_was_changed_is_not_run(tmp_path: Path) -> None:
    said, told = tmp_path / "said", tmp_path / "told"
    program = stand_in(tmp_path / "notice", told)
    with Collector(tmp_path / "collector", transport="tcp") as collector:
        action = f"exec {program}"
        with remote(tmp_path / "remote", said, port=collector.port, network_failure_action=action) as sender:
            wait_for(lambda: sender.fresh_state()["transport_ok"] == "yes", "it is connected")
            program.chmod(0o777)
            collector.stop()
            wait_for(lambda: "has mode 0777" in sender.said(), "it says why not")
            assert noted(told) == []
            assert sender.ended() is None
