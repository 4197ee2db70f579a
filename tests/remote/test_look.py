"""What `audisp status` believes of a state file, and how it shows a sender."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audisp.config.files import owners
from audisp.dispatch.summary import ledger_table
from audisp.errors import ConfigError
from audisp.remote import look
from audisp.remote.look import add_senders, config_of, of_program, read_state
from tests.needs import needs

STATE = """current_time = 11/26/25 12:00:00
suspend = no
transport_ok = yes
queue_length = 12
glibc uordblks (in use memory) is: 1 KiB, was: 1 KiB
pid = 77
sent = 1234567
waiting = 12
unstored = 3
lost = 4
damaged = 5
oldest_age = 61.5
server = collector1:60
protocol = native
cipher = TLS_AES_128_GCM_SHA256 x25519
trouble = disk-low
stopped = no
away = no
spool_error = none
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state file, and audisp-remote.conf beside it that names it."""
    path = tmp_path / "remote.state"
    path.write_text(STATE)
    path.chmod(0o640)
    conf = tmp_path / "audisp-remote.conf"
    conf.write_text(f"remote_server = collector1\nstate_file = {path}\n")
    conf.chmod(0o640)
    return path


def arguments(state: Path) -> list[str]:
    return ["--config", str(state.with_name("audisp-remote.conf"))]


def snapshot(**plugins: dict[str, Any]) -> dict[str, Any]:
    """As the dispatcher answers."""
    counts = ("offered", "delivered", "dropped", "quarantined", "waiting", "carried", "disk", "redelivered")
    books: dict[str, Any] = dict.fromkeys(counts, 0) | {
        "state": "running",
        "queue_records": 0,
        "queue_bytes": 0,
        "queue_max": 1,
        "queue_max_records": None,
        "restarts": 0,
        "losses": {},
        "counters": {},
        "detail": {},
        "pids": [77],
        "arguments": [],
        "user": None,
    }
    return {
        "sources": {},
        "plugins": {name.replace("_", "-"): books | plugin for name, plugin in plugins.items()},
        "own_activity": {"of": 0},
        "lost_in_crash": {},
    }


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ([], "/etc/audit/audisp-remote.conf"),
        (["--config", "/a/b.conf"], "/a/b.conf"),
        (["--config=/a/b.conf"], "/a/b.conf"),
        (["--config", "/first", "--config", "/last"], "/last"),
        (["--config", "relative"], "/relative"),
        (["--config"], "/etc/audit/audisp-remote.conf"),
    ],
)
def test_the_file_is_the_one_that_the_program_reads(words: list[str], path: str) -> None:
    assert config_of(words) == Path(path)


def test_a_child_s_state_is_shown(state: Path) -> None:
    shown = add_senders(
        snapshot(
            au_remote={"kind": "child", "program": "/sbin/audisp-remote", "arguments": arguments(state)},
            other={"kind": "child", "program": "/sbin/audisp-syslog"},
        )
    )
    sender = shown["plugins"]["au-remote"]["sender"]
    assert (sender["sent"], sender["waiting"], sender["lost"]) == (1_234_567, 12, 4)
    assert (sender["server"], sender["protocol"], sender["oldest_seconds"]) == ("collector1:60", "native", 61.5)
    assert (sender["stale"], sender["error"]) == (False, None)
    assert "sender" not in shown["plugins"]["other"]
    text = ledger_table(shown)
    (row,) = [line.split("  ") for line in text.splitlines() if line.startswith("au-remote") and "collector1" in line]
    assert [word.strip() for word in row if word] == [
        "au-remote", "collector1:60", "native", "1,234,567", "12", "1 min 1 s", "4"
    ]  # fmt: skip
    assert "au-remote: the server has trouble: disk-low" in text
    assert "au-remote: 3 records are on their way to its spool" in text
    assert "au-remote: 5 records were lost by its disk" in text


def test_an_old_state_is_said_to_be_old(state: Path) -> None:
    now = state.stat().st_mtime
    os.utime(state, (now - 100, now - 100))
    shown = add_senders(
        snapshot(one={"kind": "child", "program": "/sbin/audisp-remote", "arguments": arguments(state)})
    )
    assert shown["plugins"]["one"]["sender"]["stale"]
    assert f"one: {state} was written 1 min 40 s ago, by pid 77: it may not hold" in ledger_table(shown)


def test_a_state_of_another_process_may_not_hold(state: Path) -> None:
    assert not of_program(arguments(state), None, [77]).stale
    assert not of_program(arguments(state), None, []).stale
    assert of_program(arguments(state), None, [78]).stale


def test_a_state_from_the_future_is_new(state: Path) -> None:
    now = state.stat().st_mtime
    os.utime(state, (now + 100, now + 100))
    found = of_program(arguments(state), None, [77])
    assert (found.state_seconds, found.stale) == (0.0, False)


def test_the_c_program_s_state_is_shown_as_far_as_it_goes(state: Path) -> None:
    state.write_text("current_time = 11/26/25 12:00:00\nsuspend = yes\ntransport_ok = no\nqueue_length = 7\n")
    found = of_program(arguments(state), None, [77])
    assert (found.waiting, found.sent, found.server) == (7, None, None)
    shown = snapshot(c={"kind": "child", "program": "/sbin/audisp-remote", "arguments": arguments(state)})
    text = ledger_table(add_senders(shown))
    assert "c: not connected" in text
    assert "c: does not send: suspended until SIGUSR2 (audisp resume)" in text


def test_what_a_state_says_steers_no_terminal_and_no_memory(state: Path) -> None:
    state.write_text(
        "server = \x1b[2Jevil\nproblem = "
        + "x" * 5000
        + "\nsent = "
        + "9" * 400
        + "\nwaiting = -1\noldest_age = nan?\n"
    )
    shown = snapshot(c={"kind": "child", "program": "/sbin/audisp-remote", "arguments": arguments(state)})
    text = ledger_table(add_senders(shown))
    assert text.replace("\n", "").isprintable()
    assert len(text) < 2000
    assert shown["plugins"]["c"]["sender"]["sent"] is None


def _gone(path: Path) -> None:
    path.unlink()


def _link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _long(path: Path) -> None:
    path.write_text("x" * (look.MAX_STATE + 1))


def _open(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_gone, "is not there"),
        (_link, "is a symbolic link"),
        (_folder, "is no regular file"),
        (_pipe, "is no regular file"),
        (_socket, "cannot be opened"),
        (_long, "is longer than 65536 bytes"),
        (_open, "can be written by others (mode 0666)"),
    ],
)
def test_what_cannot_be_believed_is_one_clear_line(state: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(state)
    shown = snapshot(c={"kind": "child", "program": "/sbin/audisp-remote", "arguments": arguments(state)})
    text = ledger_table(add_senders(shown))
    (line,) = [line for line in text.splitlines() if "nothing is known of what it has sent" in line]
    assert f"{state}: {said}" in line
    assert "sender  server" not in text


@needs("root")
def test_whose_file_it_is(state: Path) -> None:
    os.chown(state, 65534, 65534)
    with pytest.raises(ConfigError, match="is owned by uid 65534"):
        read_state(state, owners())
    # Whom the plugin runs as may say how it is getting on.
    assert of_program(arguments(state), "65534", [77]).sent == 1_234_567
    assert "owned by uid 65534" in str(of_program(arguments(state), "no such user", [77]).error)


def test_a_configuration_that_is_wrong_is_one_line(state: Path) -> None:
    state.with_name("audisp-remote.conf").write_text("remote_servr = a\nport = x\n")
    error = of_program(arguments(state), None, [77]).error
    assert error is not None
    assert "audisp-remote.conf: remote_server: names no server to send to, and 2 more" in error
    assert "\n" not in error


def test_the_plugin_inside(state: Path) -> None:
    detail = dict(line.split(" = ", 1) for line in STATE.splitlines() if " = " in line) | {"known": "9"}
    del detail["pid"]
    shown = snapshot(
        remote={"kind": "in-process", "program": "remote", "detail": detail},
        closed={"kind": "in-process", "program": "remote", "state": "failed"},
    )
    text = ledger_table(add_senders(shown))
    assert "remote: 9 records came again after a crash, and had been stored" in text
    assert "oldest_age" not in text  # it stands in the table
    assert "closed: nothing is known of what it has sent: the plugin is not open" in text
