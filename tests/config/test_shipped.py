"""What is in conf/ can be used as it stands."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from audisp.collector.network import SPARE_FILES
from audisp.config import audispd, auditd, plugins
from audisp.config.auditd import KEYS
from audisp.config.collector import CollectorConf
from audisp.dispatch.daemonize import OOM_NEVER
from audisp.dispatch.host import load_type
from audisp.hids.plugin import HidsSettings
from audisp.remote.plugin import RemoteSettings
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
        "hids",
        "local-syslog",
        "network-syslog",
        "output",
        "remote",
        "stdout",
        "syslog",
    ]
    assert not any(conf.active for conf in confs)
    assert {conf.plugin for conf in confs} == {"af_unix", "hids", "output", "remote", "syslog", "stdout", None}
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


def test_the_plugin_remote(shipped: Path) -> None:
    """Its one key leads to another file, which has to be there."""
    conf = shipped / "audisp-remote.conf"
    conf.write_text(conf.read_text().replace("# remote_server = ", "remote_server = "))
    path = shipped / "plugins.d" / "remote.audisp"
    text = re.sub(r"^#(config = )/etc/audit", rf"\1{shipped}", path.read_text(), flags=re.M)
    path.write_text(text.replace("active = no", "active = yes"))
    confs, errors = plugins.scan(shipped / "plugins.d")
    assert errors == []
    (found,) = [each for each in confs if each.name == "remote"]
    assert found.active
    settings = plugins.settings_of(found, RemoteSettings)
    assert settings == RemoteSettings(config=conf)
    assert settings.files() == [conf]


def test_the_plugin_hids(shipped: Path) -> None:
    """Its keys name rules and files of other programs, which have to be there; and it may not act as root."""
    (shipped / "ids.conf").write_text("option_bad_login_weight = 2\n")
    (shipped / "sigma.d").mkdir(exist_ok=True)
    path = shipped / "plugins.d" / "hids.audisp"
    text = re.sub(r"^#(\w+ = )", r"\1", path.read_text(), flags=re.M).replace("active = no", "active = yes")
    text = re.sub(r"^rules = .* .*\n", "", text, flags=re.M).replace("/etc/audit", str(shipped))
    path.write_text(text)
    confs, errors = plugins.scan(shipped / "plugins.d")
    assert errors == []
    (found,) = [each for each in confs if each.name == "hids"]
    assert (found.isolation, found.reactions) == ("process", str(shipped / "reactions.conf"))
    settings = plugins.settings_of(found, HidsSettings)
    assert settings == HidsSettings(rules=(shipped / "sigma.d",), ids_conf=shipped / "ids.conf")
    assert {shipped / "ids.conf", shipped / "sigma.d"} <= set(settings.files())
    path.write_text(text.replace("user = nobody\n", ""))
    confs, errors = plugins.scan(shipped / "plugins.d")
    assert "reactions: needs user = somebody who is not root" in str(errors[0])


def test_the_collector_s_unit() -> None:
    """What it allows is enough for what the shipped configuration asks for."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string((CONF / "audisp-collector.service").read_text())
    service = unit["Service"]
    conf = CollectorConf()
    assert int(service["LimitNOFILE"]) >= conf.max_connections + SPARE_FILES
    assert float(service["TimeoutStopSec"]) > conf.drain_timeout
    assert service["ExecStart"].split() == ["/usr/local/bin/audisp-collector", "-f"]
    assert f"/run/{service['RuntimeDirectory']}" == str(conf.runtime_dir)
    assert f"/var/lib/{service['StateDirectory']}" == str(conf.state_dir)
    assert unit["Unit"]["RequiresMountsFor"] == str(conf.store_dir)
    assert int(service["OOMScoreAdjust"]) == OOM_NEVER


@pytest.mark.parametrize("name", ["audispd", "audisp-collector"])
def test_systemd_takes_the_unit(tmp_path: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (package systemd)")
    # It looks for the program, which is not installed where the unit says.
    text = (CONF / f"{name}.service").read_text()
    path = tmp_path / f"{name}.service"
    path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    said = [line for line in (done.stdout + done.stderr).splitlines() if name in line]
    assert said == []
    assert done.returncode == 0, done.stderr


def test_a_conf_file_holds_only_what_auditd_knows() -> None:
    for path in (CONF / "plugins.d").glob("*.conf"):
        keys = {line.split(" ")[0] for line in path.read_text().splitlines() if line and not line.startswith("#")}
        assert keys <= {"active", "direction", "path", "type", "args", "format"}, path


def test_lines_fit_every_auditd() -> None:
    """auditd 3 reads 158 bytes of a line."""
    for path in CONF.rglob("*.*"):
        if path.suffix in (".conf", ".audisp"):
            assert max(len(line) for line in path.read_bytes().split(b"\n")) <= 158, path
