"""auditd.conf: every key, and auditd's own verdict on the same lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from audisp.config.auditd import KEYS, Action, AuditdConf, load, read
from audisp.config.grammar import ConfigErrors
from tests.config.cases import ALL, ALONE, PREFIX, Case
from tests.needs import needs


def furnish(folder: Path) -> Path:
    """The files that the cases name. What needs another owner exists for root only."""
    (folder / "p").mkdir()
    for name, mode in (("x0700", 0o700), ("x4755", 0o4755), ("foreign", 0o755)):
        shutil.copy("/usr/bin/true", folder / name)
        (folder / name).chmod(mode)
    for name in ("mine.log", "foreign.log"):
        (folder / name).touch(0o600)
    (folder / "link.log").symlink_to(folder / "mine.log")
    if os.geteuid() == 0:
        os.chown(folder / "foreign.log", 12345, 0)
        os.chown(folder / "foreign", 12345, 0)
        (folder / "foreign").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("auditd"))


def whole(case: Case, folder: Path) -> bytes:
    return ((ALONE if case.alone else PREFIX) + case.text).replace("{d}", str(folder)).encode()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.text[:60])
def test_verdict(case: Case, room: Path) -> None:
    if "foreign" in case.text and os.geteuid() != 0:
        pytest.skip("needs root")
    path = room / "auditd.conf"
    if case.ours:
        read(whole(case, room), path)
        return
    with pytest.raises(ConfigErrors) as caught:
        read(whole(case, room), path)
    for error in caught.value.errors:
        assert error.path == path
        assert error.line or "space_left" in error.message
        assert str(error).isprintable()


def _judge() -> None:
    """Run as a program in a mount namespace of its own: auditd's verdicts on the texts from stdin, as JSON."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    folder = Path("/run/room")
    folder.mkdir()
    furnish(folder)
    verdicts = []
    for alone, text in json.load(sys.stdin):
        conf = folder / "auditd.conf"
        conf.write_bytes(whole(Case(text, None, False, alone), folder))
        conf.chmod(0o640)
        with subprocess.Popen(
            ["/usr/sbin/auditd", "-f", "-c", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as auditd:
            assert auditd.stdout is not None
            ready = any(line.startswith(b"Init complete") for line in auditd.stdout)
            if ready:
                auditd.terminate()
        verdicts.append(ready)
    json.dump(verdicts, sys.stdout)


@needs("root", "auditd")
def test_what_auditd_says() -> None:
    """auditd with local_events = no never talks to the kernel's audit, and /run is a private one."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs mount namespaces")
    cases = [case for case in ALL if case.auditd is not None]
    code = "from tests.config.test_auditd import _judge; _judge()"
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code],
        input=json.dumps([(case.alone, case.text) for case in cases]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    verdicts = json.loads(done.stdout)
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "auditd"], capture_output=True, text=True).stdout
    wrong = [(case.text, verdict) for case, verdict in zip(cases, verdicts, strict=True) if verdict != case.auditd]
    assert wrong == [] or not version.startswith("1:3.0.9")


def test_defaults_are_those_built_into_auditd(tmp_path: Path) -> None:
    conf, notices = load(tmp_path / "auditd.conf")
    assert conf == AuditdConf()
    assert len(notices) == 1
    assert "no such file" in notices[0]
    assert (conf.flush, conf.freq, conf.num_logs, conf.max_log_file) == ("none", 0, 0, 0)
    assert (conf.q_depth, conf.overflow_action, conf.max_restarts, conf.priority_boost) == (2000, "syslog", 10, 4)
    assert conf.disk_error_action == Action("syslog")
    assert conf.disk_full_action == Action("ignore")
    assert conf.space_left == (0, "MiB")
    assert (conf.tcp_listen_queue, conf.tcp_max_per_addr, conf.tcp_client_ports) == (5, 1, (0, 65_535))
    assert conf.local_events
    assert conf.write_logs
    assert conf.action_mail_acct == "root"
    assert conf.plugin_dir == Path("/etc/audit/plugins.d")


def test_an_empty_file_is_the_defaults_and_a_comment_is_not(tmp_path: Path) -> None:
    conf, notices = read(b"", tmp_path / "auditd.conf")
    assert (conf, notices) == (AuditdConf(), [])
    with pytest.raises(ConfigErrors, match="space_left: 0 MiB must be more"):
        read(b"# nothing\n", tmp_path / "auditd.conf")


ENOUGH = b"space_left = 75\nadmin_space_left = 50\n"


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("space_left = 5%", "space_left", (5, "%")),
        ("num_logs = 7", "num_logs", 7),
        ("log_group = 4", "log_group", 4),
        ("log_group = root", "log_group", 0),
        ("flush = Incremental_Async\nfreq = 20", "flush", "incremental_async"),
        ("name_format = USER\nname = Web", "name", "Web"),
        ("space_left_action = EXEC /usr/bin/true", "space_left_action", Action("exec", Path("/usr/bin/true"))),
        ("disk_full_action = Halt", "disk_full_action", Action("halt")),
        ("report_interval = 2h", "report_interval", 7200),
        ("report_interval = 1M", "report_interval", 30 * 86_400),
        ("tcp_client_ports = 5-9", "tcp_client_ports", (5, 9)),
        ("tcp_client_ports = 5", "tcp_client_ports", (5, 5)),
        ("log_format = nolog", "write_logs", False),
        ("freq = 1\nfreq = 2", "freq", 2),
        ("tls_psk_file = /a/b", "tls_psk_file", Path("/a/b")),
    ],
)
def test_values(line: str, field: str, value: object) -> None:
    conf, _ = read(ENOUGH + line.encode() + b"\n", Path("auditd.conf"))
    assert getattr(conf, field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_log = 5", "x:3: unknown key 'num_log' (did you mean 'num_logs'?)"),
        ("flush = incrementl", "(did you mean 'incremental'?)"),
        ("flush = data\t", "a tab does not separate words"),
        ("flush = data # hard", "takes one value, but there is '# hard' behind it: a comment needs a line of its own"),
        ("num_logs = 1000", "x:3: num_logs: '1000' is out of range: 0 to 999"),
        ("tcp_listen_port = 65536", "x:3: tcp_listen_port: '65536' is out of range: 1 to 65535"),
        ("log_format = enrich", "'enrich' is not one of enriched, raw, nolog (did you mean 'enriched'?)"),
        ("log_group = wheeel", "there is no group 'wheeel'"),
        ("name_format = user", "x:3: name_format: user needs the key name"),
        ("flush = incremental", "x:3: flush: incremental needs freq"),
        ("admin_space_left = 75", "x:1: space_left: 75 MiB must be more than admin_space_left, which is 75 MiB"),
        ("space_left_action = halt", "'halt' is not one of ignore"),
        ("action_mail_acct = a@b", "needs a full domain behind '@'"),
        ("space_left_action = exec", "exec needs the absolute path"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(ENOUGH + text.encode() + b"\n", Path("x"))
    assert message in str(caught.value)


def test_all_errors_are_reported_at_once_in_order_of_lines() -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(b"freq = x\nfreq=5\nnum_logs = 1000\nbogus = 1\n", Path("x"))
    assert [error.line for error in caught.value.errors] == [1, 2, 3, 4]
    assert str(caught.value).count("\n") == 3


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("log_format = nolog", "write_logs = no"),
        ("dispatcher = /sbin/audispd", "x:3: dispatcher: is no longer used"),
        ("disp_qos = lossy", "disp_qos"),
        ("q_depth = 511", "q_depth: 511 is low"),
        ("report_interval = 7h", "longer than 6 hours"),
        ("freq = 5", "freq: has no effect with flush = none"),
        ("space_left_action = syslog now", "x:3: space_left_action: 'now' has no effect"),
        ("disk_full_action = exec /usr/bin/true a b", "disk_full_action: 'a b' has no effect"),
        ("space_left = 5%\nadmin_space_left = 10%", "5% should be more"),
        ("transport = krb5", "transport: has no effect"),
    ],
)
def test_notices(text: str, notice: str) -> None:
    _, notices = read(ENOUGH + text.encode() + b"\n", Path("x"))
    assert any(notice in each for each in notices), notices


@pytest.mark.parametrize("text", ["log_format = raw", "log_format = raw\nq_depth = 512\nreport_interval = 6h"])
def test_no_notice_without_a_reason(text: str) -> None:
    assert read(ENOUGH + text.encode() + b"\n", Path("x"))[1] == []


def test_a_link_is_followed_only_where_allowed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(ENOUGH)
    (tmp_path / "real").chmod(0o640)
    link = tmp_path / "auditd.conf"
    link.symlink_to("real")
    with pytest.raises(ConfigErrors, match="is a symbolic link, which is only followed with -l"):
        load(link)
    assert load(link, allow_links=True)[0].space_left == (75, "MiB")


def test_every_key_is_in_a_case() -> None:
    missing = {key for key in KEYS if not any(line.startswith(key) for case in ALL for line in _lines(case))}
    assert missing == set()


def _lines(case: Case) -> list[str]:
    return (PREFIX + case.text).splitlines()


def test_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        AuditdConf().freq = 1  # type: ignore[misc] # that it cannot be assigned is what is tested
