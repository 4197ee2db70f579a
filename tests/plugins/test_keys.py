"""The bundled plugins' keys, through the one grammar and the one schema reader that the dispatcher uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audisp.config.grammar import parse
from audisp.config.plugins import HOST_KEYS
from audisp.config.schema import build, keys
from audisp.dispatch.host import load_type
from audisp_plugins.af_unix import AfUnixConfig
from audisp_plugins.log import LogConfig
from audisp_plugins.log_config import Action
from audisp_plugins.stdout import StdoutConfig
from audisp_plugins.syslog import SyslogConfig
from tests.needs import ROOT

TYPES: dict[str, type] = {
    "log": LogConfig,
    "syslog": SyslogConfig,
    "af_unix": AfUnixConfig,
    "stdout": StdoutConfig,
}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("stdout", "rate = 5\ncolour = NO", StdoutConfig(5, "no")),
        ("syslog", "args = LOG_INFO LOG_LOCAL1", SyslogConfig(("LOG_INFO", "LOG_LOCAL1"))),
        ("syslog", "socket = /run/x", SyslogConfig((), Path("/run/x"))),
        ("af_unix", "args = 0640 /run/x binary\nmax_clients = 3", AfUnixConfig(("0640", "/run/x", "binary"), 3)),
        (
            "log",
            "log_file = /x/y.log\nlog_group = root\nflush = INCREMENTAL\nfreq = 7\nnum_logs = 999\nlock = no\n"
            "max_log_file_action = KEEP_LOGS\nspace_left = 5%\nadmin_space_left = 50\n"
            "disk_full_action = exec /bin/x\nmax_log_file = 8",
            LogConfig(
                log_file=Path("/x/y.log"),
                flush="incremental",
                freq=7,
                num_logs=999,
                lock=False,
                max_log_file=8,
                max_log_file_action=Action("keep_logs"),
                space_left=(5, "%"),
                admin_space_left=(50, "MiB"),
                disk_full_action=Action("exec", Path("/bin/x")),
            ),
        ),
    ],
)
def test_keys_are_read(name: str, text: str, expected: object) -> None:
    settings, errors = parse(text.encode() + b"\n", Path("x.audisp"))
    assert not errors
    assert build(TYPES[name], settings, "x.audisp") == (expected, [])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("stdout", "rat = 5", "unknown key 'rat'"),
        ("syslog", "args = interpret\ntransport = udp\nserver = 127.0.0.1", "args: interpret is for the local daemon"),
        ("af_unix", "args = /run/x binray", "x.audisp:1: args: 'binray' is no mode"),
        ("log", "auditd_log = /x", "unknown key 'auditd_log'"),
        ("log", "num_logs = 1000", "num_logs: '1000' is out of range: 0 to 999"),
        ("log", "space_left = lots", "space_left: 'lots' is neither MiB in digits nor a share"),
        ("log", "disk_error_action = exec", "disk_error_action: exec needs the absolute path"),
        ("log", "disk_error_action = rotate", "x.audisp:1: disk_error_action: 'rotate' is not one of"),
        ("log", "flush = incremental", "x.audisp: freq: flush = incremental needs a freq"),
    ],
)
def test_mistakes_are_named(name: str, text: str, message: str) -> None:
    settings, errors = parse(text.encode() + b"\n", Path("x.audisp"))
    assert not errors
    built: tuple[Any, list[Any]] = build(TYPES[name], settings, "x.audisp")
    assert built[0] is None
    assert message in str(built[1][0])


@pytest.mark.parametrize("name", TYPES)
def test_plugin_is_found_documented_and_claims_no_key_of_the_hosts(name: str) -> None:
    found = load_type(name)
    assert found.config is TYPES[name]
    page = (ROOT / "docs" / "plugins" / f"{name}.md").read_text()
    for key in keys(found.config):
        assert f"`{key}`" in page, f"{key} is not in docs/plugins/{name}.md"
        assert key not in (*HOST_KEYS, "active", "plugin", "path")
