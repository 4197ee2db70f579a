"""audisp-remote.conf: every key, and the C program's own verdict on the same lines."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.config import collector, network, remote
from audisp.config.grammar import ConfigErrors
from audisp.config.network import Endpoint
from audisp.config.remote import ACTIONS, KEYS, UPSTREAM, RemoteConf, load, read
from audisp.config.values import Action
from audisp.errors import ConfigError
from tests.config.remote_cases import ALL, PREFIX, Case
from tests.needs import ROOT, needs

X: Final = Path("x")
SHIPPED: Final = ROOT / "conf" / "audisp-remote.conf"
DEBIAN: Final = Path("/etc/audit/audisp-remote.conf")
WRONG: Final = 6
"""audisp-remote's exit status for a configuration that it does not take."""
MODES: Final = (0o750, 0o751, 0o754, 0o755, 0o4755, 0o1750, 0o700, 0o740, 0o550, 0o555, 0o770, 0o752)
KEY: Final = "transport = tls\ntls_psk_file = /a/key\ntls_psk_identity = web1\n"


def furnish(folder: Path) -> Path:
    """The files that the cases name. What needs another owner exists for root only."""
    (folder / "p").mkdir(mode=0o750)
    for name, mode in (*((f"x{mode:04o}", mode) for mode in MODES), ("foreign", 0o750)):
        shutil.copy("/usr/bin/true", folder / name)
        if name == "foreign" and os.geteuid() == 0:
            os.chown(folder / name, 12345, 0)
        (folder / name).chmod(mode)
    (folder / "link").symlink_to(folder / "x0750")
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("remote"))


def whole(case: Case, folder: Path) -> bytes:
    return (("" if case.alone else PREFIX) + case.text).replace("{d}", str(folder)).encode()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.text[:60])
def test_verdict(case: Case, room: Path) -> None:
    if "foreign" in case.text and os.geteuid() != 0:
        pytest.skip("needs root")
    path = room / "audisp-remote.conf"
    path.write_bytes(whole(case, room))
    path.chmod(case.mode)
    if case.ours:
        load(path)
        return
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    for error in caught.value.errors:
        assert error.path == path
        assert error.line or error.key == "remote_server" or "can be written" in error.message
        assert str(error).isprintable()


def _judge() -> None:
    """Run as a program in namespaces of its own: audisp-remote's verdicts on the texts from stdin, as JSON.

    No interface is up, so that connecting fails at once; init is `true`, in case of an action; syslog hears nothing.
    """
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for name, cover in (("/sbin/init", "/usr/bin/true"), ("/dev/log", "/dev/null")):
        if Path(name).exists():
            subprocess.run(["mount", "--bind", cover, Path(name).resolve()], check=True)
    folder = Path("/run/room")
    folder.mkdir()
    furnish(folder)
    conf = folder / "audisp-remote.conf"
    verdicts = []
    for alone, mode, text in json.load(sys.stdin):
        conf.write_bytes(whole(Case(text, None, False, alone), folder))
        conf.chmod(mode)
        subprocess.run(["mount", "--bind", conf, DEBIAN], check=True)
        # What goes wrong after the file was taken, such as a queue that cannot be made, has other statuses.
        done = subprocess.run(["/sbin/audisp-remote"], stdin=subprocess.DEVNULL, check=False, timeout=10)
        verdicts.append(done.returncode != WRONG)
        subprocess.run(["umount", DEBIAN], check=True)
    json.dump(verdicts, sys.stdout)


@needs("root", "audisp-remote")
def test_what_audisp_remote_says() -> None:
    own = ["unshare", "-m", "-n", "-p", "-f", "--kill-child"]
    if subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs namespaces")
    cases = [case for case in ALL if case.theirs is not None]
    code = "from tests.config.test_remote import _judge; _judge()"
    done = subprocess.run(
        [*own, sys.executable, "-c", code],
        input=json.dumps([(case.alone, case.mode, case.text) for case in cases]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    verdicts = json.loads(done.stdout)
    package = ["dpkg-query", "-W", "-f", "${Version}", "audispd-plugins"]
    version = subprocess.run(package, capture_output=True, text=True, check=False).stdout
    wrong = [
        (case.text, case.mode, verdict) for case, verdict in zip(cases, verdicts, strict=True) if verdict != case.theirs
    ]
    assert wrong == [] or not version.startswith("1:3.0.9")


def test_defaults_are_those_built_into_audisp_remote() -> None:
    conf, _ = read(PREFIX.encode(), X)
    assert conf == RemoteConf(remote_server=(Endpoint("127.0.0.1"),))
    assert (conf.port, conf.local_port, conf.transport, conf.mode, conf.format) == (
        60,
        0,
        "tcp",
        "immediate",
        "managed",
    )
    assert (conf.queue_file, conf.queue_depth) == (Path("/var/spool/audit/remote.log"), 2048)
    assert (conf.network_retry_time, conf.max_tries_per_record, conf.max_time_per_record) == (1, 3, 5)
    assert conf.heartbeat_timeout == 0
    assert {name: getattr(conf, name).name for name in ACTIONS} == {
        "network_failure_action": "stop",
        "disk_low_action": "ignore",
        "disk_full_action": "warn_once",
        "disk_error_action": "warn_once",
        "remote_ending_action": "reconnect",
        "generic_error_action": "syslog",
        "generic_warning_action": "syslog",
        "queue_error_action": "stop",
        "startup_failure_action": "warn_once_continue",
        "overflow_action": "syslog",
    }


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("remote_server = a.example.com", "remote_server", (Endpoint("a.example.com"),)),
        (
            "remote_server = b:61 [2001:db8::1]:62 [2001:db8::1] ::1",
            "remote_server",
            (Endpoint("b", 61), Endpoint("2001:db8::1", 62), Endpoint("2001:db8::1"), Endpoint("::1")),
        ),
        ("remote_server = a b\nremote_server = c", "remote_server", (Endpoint("c"),)),
        ("remote_server = a b:61\nport = 7", "servers", (Endpoint("a", 7), Endpoint("b", 61))),
        ("local_port = Any", "local_port", 0),
        ("local_port = 1023", "local_port", 1023),
        (KEY, "transport", "tls"),
        (KEY, "speaks", "auto"),
        (KEY + "protocol = Native", "speaks", "native"),
        ("protocol = auto", "speaks", "rmw"),
        ("mode = Forward", "mode", "forward"),
        ("queue_file = /a/b", "queue_file", Path("/a/b")),
        ("disk_low_action = Exec /usr/bin/true", "disk_low_action", Action("exec", Path("/usr/bin/true"))),
        ("remote_ending_action = Stop", "remote_ending_action", Action("stop")),
        ("overflow_action = drop_oldest", "overflow_action", Action("drop_oldest")),
        ("network_retry_time = 7", "retry_max", 30),
        ("network_retry_time = 90", "retry_max", 90),
        ("network_retry_time = 2\nnetwork_retry_max = 2", "retry_max", 2),
        ("failback_time = 0", "failback_time", 0),
        (
            "home_network = 10.20.0.0/16 2001:db8:7::/48 192.0.2.9 10.20.0.0/16",
            "home_network",
            (
                ipaddress.ip_network("10.20.0.0/16"),
                ipaddress.ip_network("2001:db8:7::/48"),
                ipaddress.ip_network("192.0.2.9/32"),
            ),
        ),
        ("spool_dir = /a/b", "spool_dir", Path("/a/b")),
        ("queue_depth = 10240", "spool_bytes", 1 << 30),
        ("queue_depth = 1000000", "spool_bytes", 8_970_000_000),
        ("queue_depth = 1000000\nspool_size = 64M", "spool_bytes", 64 << 20),
        ("spool_min_free = 1G", "spool_min_free", 1 << 30),
        ("spool_sync = Interval\nspool_sync_interval = 0.5", "spool_sync_interval", 0.5),
        ("state_file = /run/a", "state_file", Path("/run/a")),
        ("tls_psk_file = /a/key", "tls_psk_file", Path("/a/key")),
        ("tls_crypto_profile = System", "profile", "system"),
        ("tls_require_pqc = yes", "profile", "pqc"),
        ("krb5_principal = a/b", "krb5_principal", "a/b"),
    ],
)
def test_values(line: str, field: str, value: object) -> None:
    conf, _ = read((PREFIX + line).encode(), X)
    assert getattr(conf, field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("remote_servers = a", "x:2: unknown key 'remote_servers' (did you mean 'remote_server'?)"),
        ("remote_server = -a", "x:2: remote_server: '-a' is neither a host's name nor an address"),
        ("remote_server = a..b", "neither a host's name nor an address"),
        ("remote_server = " + "a." * 127 + "a", "neither a host's name nor an address"),
        ("remote_server = " + "a" * 64, "neither a host's name nor an address"),
        ("remote_server = b\u00fccher", "neither a host's name nor an address"),
        ("remote_server = 10.0.0", "is not a whole IPv4 address"),
        ("remote_server = a:b:c", "'a:b:c' is no IPv6 address; with a port it is written [ADDRESS]:PORT"),
        ("remote_server = [a]:60", "is not [ADDRESS] or [ADDRESS]:PORT"),
        ("remote_server = [::1]60", "is not [ADDRESS] or [ADDRESS]:PORT"),
        ("remote_server = [10.0.0.1]:60", "is not [ADDRESS] or [ADDRESS]:PORT"),
        ("remote_server = ::1%a/b", "is no IPv6 address"),
        ("remote_server = a:", "'' is not a whole number"),
        ("remote_server = a:0", "'0' is out of range: 1 to 65535"),
        ("remote_server = a:65536", "'65536' is out of range"),
        ("remote_server = a a", "'a' is named twice"),
        ("remote_server = a a:60", "x:2: remote_server: names one server twice: without a port it is 60"),
        ("remote_server = " + " ".join(f"h{n}" for n in range(17)), "17 of them, 16 at most"),
        ("port = 0", "x:2: port: '0' is out of range: 1 to 65535"),
        ("format = ascii", "x:2: format: 'ascii' is refused: auditd reads such lines and throws them away"),
        ("format = manged", "'manged' is not one of managed, ascii (did you mean 'managed'?)"),
        ("transport = krb5", "x:2: transport: 'krb5' is refused: Kerberos is not spoken here"),
        ("transport = tsl", "'tsl' is not one of tcp, tls (did you mean 'tls'?)"),
        ("enable_krb5 = YES", "x:2: enable_krb5: 'YES' is refused"),
        ("transport = tls", "x:2: transport: tls needs tls_psk_file, the key's file"),
        ("transport = tls", "x:2: transport: tls needs tls_psk_identity, whose key it is"),
        ("protocol = native", "x:2: protocol: native needs transport = tls"),
        ("network_retry_time = 9\nnetwork_retry_max = 8", "x:3: network_retry_max: 8 is below network_retry_time (9)"),
        ("network_failure_action = warnonce", "(did you mean 'warn_once'?)"),
        ("network_failure_action = exec", "exec needs the absolute path of a program behind it"),
        ("network_failure_action = exec true", "'true' is not an absolute path"),
        ("network_failure_action = exec /nonexistent", "'/nonexistent' cannot be used: No such file"),
        ("network_failure_action = exec /usr", "'/usr' is not a regular file"),
        ("startup_failure_action = stop", "'stop' is not one of ignore, syslog"),
        ("home_network = 10.20.3.4/16", "x:2: home_network: '10.20.3.4/16' is an address inside a network (did you"),
        ("home_network = 10.20.3.4/16", "(did you mean '10.20.0.0/16'?)"),
        ("home_network = 10.0.0.0/33", "has more than 32 bits of network"),
        ("home_network = 2001:db8::/129", "has more than 128 bits of network"),
        ("home_network = 10.0.0.0/" + "9" * 400, "has more than 32 bits of network"),
        ("home_network = 10.0.0.0/255.0.0.0", "is not a network such as 10.20.0.0/16"),
        ("home_network = office", "'office' is not a network such as"),
        ("home_network = fe80::/10", "is on every host, wherever it is"),
        ("home_network = 127.0.0.0/8", "is on every host, wherever it is"),
        ("home_network = 224.0.0.0/8", "is multicast"),
        ("home_network = " + " ".join(f"10.{n}.0.0/16" for n in range(33)), "33 networks, 32 at most"),
        ("spool_dir = spool", "'spool' is not the absolute path of a folder"),
        ("spool_dir = /", "'/' is not the absolute path of a folder"),
        ("spool_size = 1M", "'1M' is out of range: 16M to"),
        ("spool_sync = never", "'never' is not one of always, interval"),
        ("spool_sync_interval = 0", "is out of range: 0.01 to 60"),
        ("state_file = /run/", "'/run/' is not the absolute path of a file"),
        ("failback_time = 86401", "is out of range: 0 to 86400"),
        ("tls_cipher_suites = TLS_AES_256_GCM_SHA384", "has no suite that ends in _SHA256"),
        ("tls_cipher_suites = ECDHE-PSK", "'ECDHE-PSK' is no cipher suite of TLS 1.3"),
        ("tls_key_exchange = X25519,P-256\u00e9", "is not a list of names with a colon between each two"),
        (KEY + "tls_require_pqc = yes\ntls_crypto_profile = system", "x:5: tls_require_pqc: yes is against"),
        (KEY + "tls_require_pqc = yes\ntls_key_exchange = X25519", "x:6: tls_key_exchange: 'X25519' has no group with"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read((PREFIX + text).encode(), X)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x: remote_server: names no server to send to"),
        ("port = 5\nremote_server = \n", "x:2: remote_server: names no server to send to"),
        ("remote_server =\nport = x\n", "x:1: remote_server: names no server to send to"),
        ("remote_server =\nremote_server = a\n", "x:1: remote_server: there is no value after '='"),
    ],
)
def test_without_a_server(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(text.encode(), X)
    assert str(caught.value).splitlines()[0] == message
    assert str(caught.value).count("remote_server") == 1


def test_an_unused_file_may_name_no_server() -> None:
    conf, notices = read(b"remote_server =\nport = 61\n", X, used=False)
    assert (conf.servers, conf.port) == ((), 61)
    assert notices == ["x:1: remote_server: names no server to send to"]
    with pytest.raises(ConfigErrors, match="port"):
        read(b"remote_server =\nport = x\n", X, used=False)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("disk_low_action = syslog now", "x:2: disk_low_action: 'now' has no effect"),
        ("disk_low_action = exec /usr/bin/true a b", "x:2: disk_low_action: 'a b' has no effect"),
        ("krb5_principal = a", "x:2: krb5_principal: has no effect: Kerberos is not spoken here"),
        ("krb5_key_file = a", "x:2: krb5_key_file: has no effect"),
        ("tls_psk_file = /a", "x:2: tls_psk_file: has no effect with transport = tcp"),
        ("protocol = rmw", "x:2: protocol: has no effect with transport = tcp"),
        ("remote_server = a", "x:2: remote_server: tcp: nothing is encrypted"),
        ("remote_server = a\ntransport = tcp", "x:3: transport: tcp: nothing is encrypted"),
        ("remote_server = localhost 10.0.0.1", "x:2: remote_server: tcp: nothing is encrypted"),
        ("spool_sync = interval\nspool_sync_interval = 2.5", "x:2: spool_sync: a power failure loses what came in the"),
        ("spool_sync = interval", "the last 1 s before it"),
        ("spool_sync_interval = 2", "x:2: spool_sync_interval: has no effect with spool_sync = always"),
        ("failback_time = 2", "x:2: failback_time: has no effect with one server"),
    ],
)
def test_notices(text: str, notice: str) -> None:
    _, notices = read((PREFIX + text).encode(), X)
    assert any(notice in each for each in notices), notices


@pytest.mark.parametrize(
    "text",
    [
        "",
        "remote_server = localhost ::1 127.0.0.9\nfailback_time = 9",
        "remote_server = a\n" + KEY + "protocol = native",
        "transport = tcp\ntls_auth = psk",
    ],
)
def test_no_notice_without_a_reason(text: str) -> None:
    assert read((PREFIX + text).encode(), X)[1] == []


def test_the_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "audisp-remote.conf"
    with pytest.raises(ConfigErrors, match="there is no such file"):
        load(path)
    path.write_text(PREFIX)
    path.chmod(0o660)
    (tmp_path / "link").symlink_to(path)
    assert load(tmp_path / "link")[0].servers == (Endpoint("127.0.0.1", 60),)
    path.chmod(0o642)
    with pytest.raises(ConfigErrors, match="can be written by everybody"):
        load(path)


def test_the_shipped_file(tmp_path: Path) -> None:
    """It names no server, shows each default, and the C program could read it."""
    data = SHIPPED.read_bytes()
    assert read(data, SHIPPED, used=False)[0] == RemoteConf()
    assert max(map(len, data.split(b"\n"))) <= 127
    text = re.sub(r"^#(\w+ = )", r"\1", data.decode(), flags=re.M)
    assert read(text.encode(), SHIPPED, used=False)[0] == RemoteConf()
    whole = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M)
    conf, _ = read(whole.encode(), SHIPPED)
    assert len(conf.servers) == 2
    keys = set(re.findall(r"^(\w+) = ", whole, re.M))
    assert keys == set(KEYS)


@needs("audisp-remote")
def test_debian_s_file() -> None:
    """As it comes: the C program refuses it, and it is no error as long as nobody forwards by it."""
    data = DEBIAN.read_bytes()
    if re.search(rb"^remote_server = \S", data, re.M):
        pytest.skip("somebody has edited it")
    conf, notices = read(data, DEBIAN, used=False)
    assert (conf.servers, len(notices)) == ((), 1)
    with pytest.raises(ConfigErrors, match="names no server to send to"):
        read(data, DEBIAN)


def test_every_key_is_in_a_case() -> None:
    cases = "\n".join(case.text for case in ALL)
    assert {key for key in UPSTREAM if not re.search(rf"^{key} = ", cases, re.M)} == set()
    assert set(UPSTREAM) | {
        "protocol",
        "failback_time",
        "network_retry_max",
        "home_network",
        "spool_dir",
        "spool_size",
        "spool_min_free",
        "spool_sync",
        "spool_sync_interval",
        "state_file",
    } == set(KEYS)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [(Endpoint("a"), "a"), (Endpoint("a", 6), "a:6"), (Endpoint("::1"), "[::1]"), (Endpoint("::1", 6), "[::1]:6")],
)
def test_an_endpoint_is_written_as_it_is_read(endpoint: Endpoint, text: str) -> None:
    assert str(endpoint) == text
    assert network.servers((text,)) == (endpoint,)


SAID: Final = [
    "[::1]:60",
    "::1%a",
    "10.0.0.0/8",
    "10.0.0.0/",
    "a:b",
    "exec",
    "/usr/bin/true",
    "tls",
    "9" * 400,
    "=",
    "\0",
]
WORDS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=40) | st.sampled_from(SAID)
NAMES: Final = st.sampled_from([*remote.KEYS, *collector.KEYS, "x"])


@given(st.lists(st.tuples(NAMES, st.lists(WORDS, max_size=4)), max_size=6))
def test_whatever_stands_in_a_file_is_taken_or_located(lines: list[tuple[str, list[str]]]) -> None:
    text = "".join(f"{key} = {' '.join(words)}\n" for key, words in lines)
    found: list[ConfigError] = []
    for each in (remote, collector):
        try:
            each.read(text.encode(), X)
        except ConfigErrors as problem:
            found += problem.errors
    assert all(error.path == X and str(error).isprintable() for error in found)
