"""Signals to the owner of the stream, under load: reload, rotation, resumption, the state file."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from audisp.parse.form import log_form
from tests.e2e.daemons import Child, Ours, add_child, lines_of, serials_of, sink, size_of, work, workload
from tests.e2e.stream import auditctl, calls_rule, wait_for, wait_quiet
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]


def assert_whole(path: Path, calls: int) -> None:
    """Every kernel record of the run is in this log once, in order of arrival, and no serial is missing."""
    lines = [line for line in lines_of(path) if b"type=DAEMON_" not in line[:60]]
    assert len(set(lines)) == len(lines)
    serials = serials_of(path)
    assert sorted(set(serials)) == list(range(min(serials), max(serials) + 1))
    assert sum(b' key="calls"' in line for line in lines) == calls


def test_reload_under_load(tmp_path: Path) -> None:
    calls_rule()
    kept = {name: tmp_path / name for name in ("steady", "changed", "spoilt", "passing")}
    programs = {name: sink(tmp_path, f"{name}-sink", path) for name, path in kept.items()}
    children = [Child(name, programs[name]) for name in ("steady", "changed", "spoilt")]
    rounds = 20
    with Ours(tmp_path / "ours", children=children) as ours, workload("calls", 12_000, 4_000) as load:
        pids = {name: ours.plugin(name)["pids"] for name in ("steady", "changed", "spoilt")}
        for number in range(rounds):
            match number % 5:
                case 0:
                    add_child(ours.folder, Child("changed", programs["changed"], f"--round-{number}"))
                case 1:
                    add_child(ours.folder, Child("spoilt", programs["spoilt"], format="strnig"))
                case 2:
                    add_child(ours.folder, Child("passing", programs["passing"]))
                case 3:
                    (ours.folder / "plugins.d" / "passing.conf").unlink()
                case 4:
                    add_child(ours.folder, Child("spoilt", programs["spoilt"]))
            ours.send(signal.SIGHUP)
            time.sleep(0.12)
        assert load.wait(60) == 0
        # Signals that come while one waits are one signal; the last of all is never lost.
        wait_for(lambda: "passing" not in ours.status()["plugins"], "the last reload is done")
        wait_quiet(lambda: [size_of(path) for path in (ours.log, *kept.values())])
        ours.assert_balanced()
        status = ours.status()
        assert set(status["plugins"]) == {"log", "steady", "changed", "spoilt"}
        # What had not changed was left alone; a bad file keeps the old plugin, and its own message names the word.
        assert status["plugins"]["steady"]["pids"] == pids["steady"]
        assert status["plugins"]["spoilt"]["pids"] == pids["spoilt"]
        assert status["plugins"]["changed"]["pids"] != pids["changed"]
        assert status["plugins"]["changed"]["dropped"] == 0
        assert "spoilt.conf:5: format: 'strnig' is not one of string, binary (did you mean 'string'?)" in ours.said()
        assert ours.stop() == 0
    assert_whole(ours.log, 12_000)
    for name in ("steady", "changed", "spoilt"):
        # The same records in the same order: none lost, none doubled, whatever was restarted around it. Our own records
        # come from another thread than the kernel's, so one of them may stand a little earlier here than there.
        for own in (False, True):
            lines = [
                line for line in log_form(kept[name].read_bytes()).split(b"\n") if (b"=DAEMON_" in line[:20]) is own
            ]
            assert lines == [line for line in ours.log.read_bytes().split(b"\n") if (b"=DAEMON_" in line[:20]) is own]
    passed = lines_of(kept["passing"])
    assert len(set(passed)) == len(passed) > 0
    assert set(log_form(kept["passing"].read_bytes()).split(b"\n")) <= set(ours.log.read_bytes().split(b"\n"))


def test_rotation_under_load(tmp_path: Path) -> None:
    calls_rule()
    extra: dict[str, Any] = {"num_logs": 9, "max_log_file_action": "ROTATE"}
    with Ours(tmp_path / "ours", **extra) as ours, workload("calls", 6_000, 4_000) as load:
        for _ in range(5):
            ours.send(signal.SIGUSR1)
            time.sleep(0.2)
        assert load.wait(60) == 0
        wait_quiet(lambda: size_of(ours.log))
        assert ours.stop() == 0
    files = [ours.log.with_name(f"audit.log.{number}") for number in range(5, 0, -1)] + [ours.log]
    assert all(path.stat().st_size for path in files)
    assert [path.stat().st_mode & 0o777 for path in files] == [0o400] * 5 + [0o600]
    whole = tmp_path / "whole"
    whole.write_bytes(b"".join(path.read_bytes() for path in files))
    assert_whole(whole, 6_000)
    assert whole.read_bytes().count(b"op=rotate-logs") == 5


STATE = (
    "audit version",
    "current time",
    "process priority",
    "writing to logs",
    "current log size",
    "max log size",
    "logs detected last rotate/shift",
    "space left on partition",
    "Logging partition free space",
    "space_left setting",
    "admin_space_left setting",
    "logging suspended",
    "file system space action performed",
    "admin space action performed",
    "disk error detected",
    "Number of active plugins",
    "current plugin queue depth",
    "max plugin queue depth used",
    "plugin queue size",
    "plugin queue overflow detected",
    "plugin queueing suspended",
    "listening for network connections",
)
"""Upstream's lines, in its order (upstream.md 2.6)."""


def test_state_file(tmp_path: Path) -> None:
    calls_rule()
    children = [Child(name, sink(tmp_path, f"{name}-sink", tmp_path / name)) for name in ("one", "two")]
    with Ours(tmp_path / "ours", children=children) as ours:
        work("calls", 500)
        wait_quiet(lambda: size_of(ours.log))
        state = ours.run / "auditd.state"
        ours.send(signal.SIGCONT)
        wait_for(state.exists, "the state file is there")
        assert state.stat().st_mode & 0o777 == 0o640
        lines = state.read_text().splitlines()
        found = [re.fullmatch(r"(.+?) = (.+)", line) for line in lines[: len(STATE)]]
        assert tuple(each[1] for each in found if each) == STATE
        values = {each[1]: each[2] for each in found if each}
        assert re.fullmatch(r"\d+ KiB", values["current log size"])
        assert re.fullmatch(r"\d+ MiB", values["Logging partition free space"])
        assert values["Number of active plugins"] == "2"
        assert values["plugin queue size"] == "20000"
        assert values["writing to logs"] == "yes"
        for key in ("plugin queue overflow detected", "plugin queueing suspended", "logging suspended"):
            assert values[key] == "no"
        for line, name in zip(lines[len(STATE) :], ("arena", "uordblks", "fordblks"), strict=False):
            assert re.fullmatch(rf"glibc {name} \(.+\) is: \d+ KiB, was: \d+ KiB", line)
        assert any(re.match(r"source netlink = received \d+ routed \d+ rejected 0$", line) for line in lines)
        assert ours.stop() == 0
    # As auditd does, and as a control socket of nobody would mislead.
    assert not state.exists()


def _age(path: Path) -> int:
    return int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0


def test_signal_storm(tmp_path: Path) -> None:
    """Every signal that has a meaning, many times at once, while records flow: nothing is lost and nothing ends."""
    calls_rule()
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
    with Ours(tmp_path / "ours", num_logs=99) as ours, workload("calls", 6_000, 3_000) as load:
        for number in range(120):
            ours.send(numbers[number % 4])
            time.sleep(0.01)
        assert load.wait(60) == 0
        auditctl("-m", "mark-of-end")
        wait_for(lambda: b"mark-of-end" in ours.log.read_bytes(), "the stream goes on")
        ours.assert_balanced()
        assert ours.stop() == 0
    files = sorted(ours.folder.glob("audit.log*"), key=_age, reverse=True)
    whole = tmp_path / "whole"
    whole.write_bytes(b"".join(path.read_bytes() for path in files))
    assert_whole(whole, 6_000)
