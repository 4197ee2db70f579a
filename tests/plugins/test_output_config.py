"""`output`: its keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from audisp.config.grammar import parse
from audisp.config.plugins import HOST_KEYS
from audisp.config.schema import build, keys
from audisp.dispatch.host import load_type
from audisp.plugin import ConfigError
from audisp_plugins.output import OutputConfig, audisp_plugins, open_output
from tests.needs import ROOT, needs


def read(text: str) -> tuple[OutputConfig | None, list[ConfigError]]:
    settings, errors = parse(text.encode() + b"\n", Path("x.audisp"))
    assert not errors
    return build(OutputConfig, settings, "x.audisp")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file = /x/y", OutputConfig(file=Path("/x/y"))),
        (
            "file = /x/y\nmax_size = 64M\nkeep = 9\nmode = 0640\ngroup = root\ncompress = ZST\n"
            "flush = interval\nfreq = 0.5",
            OutputConfig(
                file=Path("/x/y"),
                max_size=64 << 20,
                keep=9,
                mode=0o640,
                compress="zst",
                flush="interval",
                freq=0.5,
            ),
        ),
        ("file = /x\nmax_size = 65536\nmode = 600", OutputConfig(file=Path("/x"), max_size=65_536, mode=0o600)),
        ("file = /x\nkeep = 0", OutputConfig(file=Path("/x"), keep=0)),
        ("socket = /run/x", OutputConfig(socket=Path("/run/x"))),
        ("command = /bin/cat -u x", OutputConfig(command=("/bin/cat", "-u", "x"))),
    ],
)
def test_keys_are_read(text: str, expected: OutputConfig) -> None:
    assert read(text) == (expected, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keep = 3", "x.audisp: file: is missing: exactly one of file, socket and command is needed"),
        ("file = /x\nsocket = /y", "x.audisp:2: socket: file and socket are given: exactly one"),
        ("socket = /x\ncommand = /bin/cat", "x.audisp:2: command: socket and command are given"),
        ("socket = /x\nkeep = 3", "x.audisp:2: keep: is for file =, and this is socket ="),
        ("command = /bin/cat\nflush = always", "x.audisp:2: flush: is for file =, and this is command ="),
        ("file = x", "file: 'x' is not the absolute path of a file"),
        ("file = /", "file: '/' is not the absolute path of a file"),
        ("socket = x", "socket: 'x' is not an absolute path of at most 107 bytes"),
        (f"socket = /{'x' * 107}", "is not an absolute path of at most 107 bytes"),
        ("file = /x\nmax_size = 65535", "max_size: '65535' is out of range: 64K to 1048576G"),
        ("file = /x\nmax_size = 1048577G", "is out of range"),
        ("file = /x\nmax_size = 1T", "max_size: '1T' is not a size"),
        ("file = /x\nmax_size = K", "max_size: 'K' is not a size"),
        ("file = /x\nmax_size = 1M\nkeep = 0", "max_size: needs keep = 1 or more"),
        ("file = /x\ncompress = gz\nkeep = 0", "compress: is for old files, and keep is 0"),
        ("file = /x\nkeep = 1000", "keep: '1000' is out of range: 0 to 999"),
        ("file = /x\nmode = 0755", "mode: 0755 is no mode for a file of ours"),
        ("file = /x\nmode = 0666", "mode: 0666 is no mode"),
        ("file = /x\nmode = 0440", "mode: 0440 is no mode"),
        ("file = /x\nmode = 7777", "mode: 7777 is no mode"),
        ("file = /x\nmode = 0o640", "mode: '0o640' is not an octal mode"),
        ("file = /x\nmode = 64", "mode: '64' is not an octal mode"),
        ("file = /x\ngroup = rooot", "group: there is no group 'rooot'; did you mean root?"),
        ("file = /x\nflush = interval\nfreq = 0", "freq: '0' is out of range"),
        ("file = /x\ncompress = xz", "compress: 'xz' is not one of no, gz, zst"),
        ("command = cat", "command: 'cat' is not the absolute path of a program"),
        ("command = /none", "command: '/none' cannot be used: No such file or directory"),
        ("command = /bin", "command: '/bin' is not a regular file"),
        ("command = /etc/passwd", "command: '/etc/passwd' has mode 0644; owner and group must be able"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    value, errors = read(text)
    assert value is None
    assert message in str(errors[0])


@needs("root")
@pytest.mark.parametrize(
    ("mode", "uid", "problem"),
    [
        (0o755, 0, None),
        (0o750, 0, None),
        (0o555, 0, None),
        (0o775, 0, "can be written by others (mode 0775): chmod g-w,o-w"),
        (0o757, 0, "can be written by others"),
        (0o700, 0, "has mode 0700; owner and group must be able to read and execute it"),
        (0o755, 65534, "is owned by uid 65534, it must be root"),
    ],
)
def test_programs(tmp_path: Path, mode: int, uid: int, problem: str | None) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(mode)
    os.chown(program, uid, 0)
    if problem is None:
        assert OutputConfig(command=(str(program),)).command == (str(program),)
    else:
        with pytest.raises(ConfigError) as caught:
            OutputConfig(command=(str(program),))
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "noticed"),
    [
        ({"file": "/x"}, None),
        ({"file": "/x", "mode": 0o640}, None),
        ({"file": "/x", "mode": 0o644}, "mode: 0644 lets everybody on this machine read the records"),
        ({"socket": "/run/x"}, None),
        ({"socket": "/tmp/x"}, "socket: others may write in /tmp, and put a socket of their own in this place"),
        ({"command": ("/bin/cat",)}, None),
    ],
)
def test_notices(keys: dict[str, Any], noticed: str | None) -> None:
    found: dict[str, Any] = {key: Path(value) if isinstance(value, str) else value for key, value in keys.items()}
    assert OutputConfig(**found).notices() == (() if noticed is None else (noticed,))


@needs("root")
def test_a_program_that_others_can_exchange_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    folder.chmod(0o775)
    assert "can be exchanged by others than root, through" in OutputConfig(command=(str(program),)).notices()[0]


def test_declared_and_documented() -> None:
    (kind,) = audisp_plugins()
    assert (kind.name, kind.config, kind.open, kind.wants) == ("output", OutputConfig, open_output, "blocks")
    assert load_type("output") == kind
    page = (ROOT / "docs" / "plugins" / "output.md").read_text()
    for key in keys(OutputConfig):
        assert f"`{key}`" in page
        assert key not in (*HOST_KEYS, "active", "plugin", "path")
