"""Settings of `log`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.plugin import ConfigError
from audisp_plugins.log_config import Action, LogConfig, read_action, read_group, read_space
from tests.plugins.logs import config

# Settings.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flush": "incremental"}, "freq: flush = incremental needs a freq of 1 or more"),
        ({"flush": "incremental_async", "freq": 0}, "freq: flush = incremental_async needs"),
        ({"num_logs": 1000}, "num_logs: 1000 is out of range: 0 to 999"),
        ({"space_left": (50, "MiB"), "admin_space_left": (50, "MiB")}, "space_left: 50 must be more than"),
        ({"space_left": (5, "%"), "admin_space_left": (9, "%")}, "space_left: 5 must be more than"),
        ({"disk_full_action": "email"}, "disk_full_action: 'email' is not one of"),
        ({"disk_error_action": "rotate"}, "disk_error_action: 'rotate' is not one of"),
        ({"space_left_action": "halt"}, "space_left_action: 'halt' is not one of"),
        ({"max_log_file_action": "rotat"}, "did you mean rotate?"),
        ({"max_log_file_action": Action("exec")}, "exec needs a program"),
        ({"log_file": Path("audit.log")}, "log_file: 'audit.log' is not an absolute path"),
    ],
)
def test_settings_that_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LogConfig(**keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("75",), (75, "MiB")), (("5%",), (5, "%")), (("0",), (0, "MiB")), (("99%",), (99, "%"))],
)
def test_space(words: tuple[str, ...], expected: tuple[int, str]) -> None:
    assert read_space(words) == expected


@pytest.mark.parametrize("word", ["100%", "-1", "", "5 %", "7x", "99999999999", "\u0665%"])
def test_space_that_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"MiB|99%"):
        read_space(tuple(word.split(" ")))


def test_actions_and_groups() -> None:
    assert read_action(("Exec", "/bin/x")) == Action("exec", Path("/bin/x"))
    for words in (("exec",), ("exec", "x"), ("exec", "/x", "y"), ("suspend", "now")):
        with pytest.raises(ValueError, match=r"needs the absolute path|takes nothing"):
            read_action(words)
    assert read_group(("root",)) == 0
    assert read_group(("17",)) == 17
    with pytest.raises(ValueError, match=r"there is no group 'rooot'; did you mean root\?"):
        read_group(("rooot",))


def test_a_stranger_of_the_same_shape_is_an_action(tmp_path: Path) -> None:
    @attrs.frozen
    class Theirs:
        name: str
        program: Path | None = None

    assert config(tmp_path, disk_full_action=Theirs("exec", Path("/x"))).disk_full_action == Action("exec", Path("/x"))
