"""What is in conf/ can be used as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from audisp.config import audispd, auditd, plugins
from audisp.config.auditd import KEYS
from audisp.dispatch.host import load_type
from tests.needs import ROOT

CONF = ROOT / "conf"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """conf/ as it would be installed: a checkout may belong to anybody and be writable for a group."""
    folder = tmp_path / "audit"
    shutil.copytree(CONF, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    return folder


def test_auditd_conf(shipped: Path) -> None:
    log = shipped / "log"
    log.mkdir()
    path = shipped / "auditd.conf"
    text = path.read_text()
    path.write_text(text.replace("/var/log/audit/", f"{log}/").replace("log_group = adm", "log_group = 4"))
    conf, notices = auditd.load(path)
    assert notices == []
    assert (conf.log_format, conf.flush, conf.freq, conf.num_logs, conf.max_log_file) == (
        "raw",
        "incremental_async",
        50,
        5,
        8,
    )
    assert (conf.space_left, conf.admin_space_left) == ((75, "MiB"), (50, "MiB"))
    assert conf.disk_full_action == auditd.Action("suspend")
    words = {line.split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}
    assert words <= set(KEYS)


def test_audispd_conf(shipped: Path) -> None:
    path = shipped / "audispd.conf"
    assert audispd.load(path) == (audispd.AudispdConf(), [])
    # Each commented line is a key with its default.
    path.write_text(re.sub(r"^#(\w+ = )", r"\1", path.read_text(), flags=re.M))
    conf, _ = audispd.load(path)
    assert conf == audispd.AudispdConf()
    assert all(f"{key} = " in path.read_text() for key in audispd.KEYS)


def test_plugins_d(shipped: Path) -> None:
    confs, errors = plugins.scan(shipped / "plugins.d")
    assert errors == []
    assert [conf.name for conf in confs] == [
        "af_unix",
        "au-remote",
        "local-syslog",
        "network-syslog",
        "output",
        "stdout",
        "syslog",
    ]
    assert not any(conf.active for conf in confs)
    assert {conf.plugin for conf in confs} == {"af_unix", "output", "syslog", "stdout", None}
    assert {path.suffix for path in (shipped / "plugins.d").iterdir()} == {".conf", ".audisp"}


@pytest.mark.parametrize("name", ["af_unix", "local-syslog", "network-syslog", "output", "stdout"])
def test_each_plugin_s_own_keys(shipped: Path, name: str) -> None:
    for path in (shipped / "plugins.d").iterdir():
        if path.stem == name:
            text = re.sub(r"^#(\w+ = )", r"\1", path.read_text(), flags=re.M).replace("active = no", "active = yes")
            path.write_text(text)
    confs, errors = plugins.scan(shipped / "plugins.d")
    assert errors == []
    (conf,) = [conf for conf in confs if conf.name == name]
    assert conf.active
    assert conf.plugin is not None
    assert plugins.settings_of(conf, load_type(conf.plugin).config)


def test_a_conf_file_holds_only_what_auditd_knows() -> None:
    for path in (CONF / "plugins.d").glob("*.conf"):
        keys = {line.split(" ")[0] for line in path.read_text().splitlines() if line and not line.startswith("#")}
        assert keys <= {"active", "direction", "path", "type", "args", "format"}, path


def test_lines_fit_every_auditd() -> None:
    """auditd 3 reads 158 bytes of a line."""
    for path in CONF.rglob("*.*"):
        if path.suffix in (".conf", ".audisp"):
            assert max(len(line) for line in path.read_bytes().split(b"\n")) <= 158, path
