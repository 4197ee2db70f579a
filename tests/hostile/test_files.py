"""Files in places where others have a hand, and names that are no text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audisp.config.plugins import scan
from audisp.dispatch import statefile
from audisp.errors import PluginError
from audisp_plugins.lockfile import LockFile


def test_the_state_file_takes_any_text(tmp_path: Path) -> None:
    path = tmp_path / statefile.NAME
    statefile.write(path, ["source file:/\udcff\u202e = received 1"], 0)
    assert path.read_bytes() == b"source file:/\\udcff\\u202e = received 1\n"
    assert os.listdir(tmp_path) == [statefile.NAME]


def test_a_lock_file_that_is_a_second_name_of_something_dear_is_left_alone(tmp_path: Path) -> None:
    dear = tmp_path / "shadow"
    dear.write_text("root:*:1:")
    os.link(dear, tmp_path / ".events.lock")
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(PluginError, match=r"\.events\.lock is not a plain file of ours"):
            LockFile(folder, ".events.lock", "socket").take()
    finally:
        os.close(folder)
    assert dear.read_text() == "root:*:1:"


def test_a_program_that_others_can_exchange_is_named(tmp_path: Path) -> None:
    folder, theirs = tmp_path / "plugins.d", tmp_path / "theirs"
    folder.mkdir()
    theirs.mkdir()
    program = theirs / "plugin"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    theirs.chmod(0o777)
    conf = folder / "x.conf"
    conf.write_text(f"active = yes\npath = {program}\n")
    confs, errors = scan(folder)
    assert not errors
    assert confs[0].notices[0].startswith(f"{conf}:2: path: '{program}' can be exchanged by others than root, through ")
    conf.write_text("active = yes\npath = /usr/bin/true\n")
    confs, errors = scan(folder)
    assert (confs[0].notices, errors) == ((), [])
