"""Words that several files use."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.config.values import CAPABILITIES, SIZE_MAX, Action, action, capabilities, size, stray
from audisp.dispatch import privileges


@pytest.mark.parametrize(
    ("word", "value"),
    [("0", 0), ("1", 1), ("1k", 1024), ("2K", 2048), ("3M", 3 << 20), ("4G", 4 << 30), ("1048576G", SIZE_MAX)],
)
def test_size(word: str, value: int) -> None:
    assert size((word,)) == value


@pytest.mark.parametrize("word", ["", "K", "1KB", "1.5M", "-1", "1048577G", "9" * 300, "1 K", "\u0661"])
def test_no_size(word: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|out of range"):
        size((word,))


def test_action() -> None:
    choices = ("syslog", "exec")
    assert action(("SYSLOG",), choices) == Action("syslog")
    assert action(("exec", "/usr/bin/true"), choices) == Action("exec", Path("/usr/bin/true"))
    assert (stray(("syslog",)), stray(("syslog", "x")), stray(("EXEC", "/x"))) == ((), ("x",), ())
    with pytest.raises(ValueError, match="is not one of syslog, exec"):
        action(("sylog", "x"), choices)


def test_capabilities_are_those_of_the_process_side() -> None:
    assert {name: number for number, name in enumerate(CAPABILITIES)} == privileges.CAPABILITIES
    assert capabilities(("CHOWN", "cap_chown", "Cap_Kill")) == ("cap_chown", "cap_kill")
