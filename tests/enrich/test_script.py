"""Which file of an exec runs, and so whether the first one is a script."""

from __future__ import annotations

from typing import Final

import pytest

from audisp.enrich.facts import PathItem
from audisp.enrich.script import absolute, script_of
from audisp.parse.processes import UNKNOWN, Unknown

SCRIPT: Final = PathItem("/root/x.sh", "fe:00", 10)
DASH: Final = PathItem("/bin/sh", "fe:00", 20)
LOADER: Final = PathItem("/lib64/ld-linux-x86-64.so.2", "fe:00", 30)
LS: Final = PathItem("/bin/ls", "fe:00", 40)


@pytest.mark.parametrize(
    ("paths", "exe", "exe_file", "script"),
    [
        pytest.param([LS, LOADER], "/usr/bin/ls", ("fe:00", 40), None, id="a program, by a link"),
        pytest.param([LS, LOADER], "/bin/ls", None, None, id="a program by its own name: no look is needed"),
        pytest.param([SCRIPT, DASH, LOADER], "/usr/bin/dash", ("fe:00", 20), "/root/x.sh", id="a script"),
        pytest.param([SCRIPT, DASH, LOADER], "/usr/bin/dash", None, UNKNOWN, id="nothing to compare with"),
        pytest.param([LS, LS, LOADER], "/usr/bin/ls", ("fe:00", 40), None, id="the same file twice"),
        pytest.param([SCRIPT, DASH, LOADER], "/usr/bin/dash", ("00:1f", 20), "/root/x.sh", id="btrfs: another device"),
        pytest.param([LS, LOADER], "/usr/bin/ls", ("00:1f", 40), None, id="btrfs: a program"),
        pytest.param(
            [SCRIPT, PathItem("/bin/sh", "fe:01", 10), LOADER],
            "/usr/bin/dash",
            ("00:1f", 10),
            UNKNOWN,
            id="the inode alone, and two have it",
        ),
        pytest.param(
            [SCRIPT, PathItem("/bin/sh", "fe:01", 10), LOADER],
            "/usr/bin/dash",
            ("fe:01", 10),
            "/root/x.sh",
            id="both numbers decide",
        ),
        pytest.param([SCRIPT, DASH], "/merged/dash", ("00:2a", 999), UNKNOWN, id="overlayfs: numbers of its own"),
        pytest.param([SCRIPT], "/usr/bin/dash", ("fe:00", 20), "/root/x.sh", id="the interpreter's record is missing"),
        pytest.param([SCRIPT], "/usr/bin/dash", ("fe:00", 10), None, id="one record, and it runs"),
        pytest.param([], "/usr/bin/dash", ("fe:00", 20), UNKNOWN, id="no records"),
        pytest.param([PathItem(None, "fe:00", 10)], "/x", ("fe:00", 10), None, id="no name, but it runs"),
        pytest.param([PathItem(None, "fe:00", 10), DASH], "/x", ("fe:00", 20), UNKNOWN, id="a script without a name"),
        pytest.param([PathItem("/x.sh", None, None), DASH], "/x", ("fe:00", 20), UNKNOWN, id="the first is unknown"),
        pytest.param([SCRIPT, DASH], None, ("fe:00", 20), "/root/x.sh", id="exe is unknown"),
    ],
)
def test_which_file_runs(
    paths: list[PathItem], exe: str | None, exe_file: tuple[str, int] | None, script: str | Unknown | None
) -> None:
    assert script_of(paths, exe, exe_file, "/") == script


@pytest.mark.parametrize(
    ("name", "cwd", "path"),
    [
        ("/a/b", None, "/a/b"),
        ("./x.sh", "/root", "/root/x.sh"),
        ("x.sh", "/", "/x.sh"),
        ("a//./b", "/c/", "/c/a/b"),
        ("../x.sh", "/root", "/root/../x.sh"),
        ("/a/../b", None, "/a/../b"),
        ("x.sh", None, None),
        ("x.sh", "root", None),
        ("", "/root", "/root"),
    ],
)
def test_absolute(name: str, cwd: str | None, path: str | None) -> None:
    assert absolute(name, cwd) == path


def test_a_relative_script_without_a_working_directory_is_unknown() -> None:
    relative = PathItem("x.sh", "fe:00", 10)
    assert script_of([relative, DASH], "/usr/bin/dash", ("fe:00", 20), None) is UNKNOWN
    assert script_of([relative, DASH], "/usr/bin/dash", ("fe:00", 20), "/srv") == "/srv/x.sh"
