"""audisp-collector.conf: each key, its limits, and the checks of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import attrs
import pytest

from audisp.config import auditd
from audisp.config.audispd import AudispdConf
from audisp.config.auditd import AuditdConf
from audisp.config.collector import KEYS, MIN_WINDOW, CollectorConf, ListenConf, from_auditd, listen_errors, load, read
from audisp.config.grammar import ConfigErrors
from audisp.config.network import Endpoint
from audisp.config.schema import keys
from audisp.config.values import Action
from audisp.errors import ConfigError
from audisp.wire.native_frames import MAX_WEIGHT
from tests.needs import ROOT

X: Final = Path("x")
SHIPPED: Final = ROOT / "conf" / "audisp-collector.conf"
ENOUGH: Final = "tls_allowed_clients = /a/clients\n"
PLAIN: Final = "transport = tcp\n"
SHARED: Final = "tls_psk_file = /a/key\ntls_psk_identity = web1\n"

CASES: Final = [
    ("tcp_listen_port = 6060", "tcp_listen_port", 6060),
    (
        "listen = 192.0.2.7 [2001:db8::7]:61 ::1",
        "listen",
        (Endpoint("192.0.2.7"), Endpoint("2001:db8::7", 61), Endpoint("::1")),
    ),
    ("tcp_listen_queue = 5", "tcp_listen_queue", 5),
    ("tcp_max_per_addr = 2000", "tcp_max_per_addr", 2000),
    ("tcp_client_ports = 1-1023", "tcp_client_ports", (1, 1023)),
    ("tcp_client_max_idle = 60", "tcp_client_max_idle", 60),
    ("use_libwrap = yes", "use_libwrap", True),
    ("transport = TCP", "transport", "tcp"),
    ("plain = yes", "plain", True),
    ("tls_auth = PSK", "tls_auth", "psk"),
    ("tls_crypto_profile = System", "tls_crypto_profile", "system"),
    ("tls_psk_file = /a/key", "tls_psk_file", Path("/a/key")),
    ("tls_psk_identity = web1", "tls_psk_identity", "web1"),
    ("tls_allowed_clients = /b", "tls_allowed_clients", Path("/b")),
    ("tls_psk_master = /a/master", "tls_psk_master", Path("/a/master")),
    ("tls_psk_master = /a/master\ntls_psk_epochs = 2 3 2", "tls_psk_epochs", (2, 3)),
    ("tls_cipher_suites = TLS_AES_128_GCM_SHA256", "tls_cipher_suites", "TLS_AES_128_GCM_SHA256"),
    ("tls_key_exchange = ?X25519MLKEM768:X25519", "tls_key_exchange", "?X25519MLKEM768:X25519"),
    ("tls_require_pqc = yes", "tls_require_pqc", True),
    ("max_connections = 100", "max_connections", 100),
    ("max_handshakes = 9", "max_handshakes", 9),
    ("max_per_identity = 1", "max_per_identity", 1),
    ("max_bytes_in_flight = 1G", "max_bytes_in_flight", 1 << 30),
    ("max_bytes_in_flight_per_host = 3M", "max_bytes_in_flight_per_host", 3 << 20),
    ("handshake_timeout = 0.5", "handshake_timeout", 0.5),
    ("idle_timeout = 30", "idle_timeout", 30),
    ("max_hosts = 7", "max_hosts", 7),
    ("store_dir = /a/b", "store_dir", Path("/a/b")),
    ("store_size = 1G", "store_size", 1 << 30),
    ("store_size_per_host = 64M", "store_size_per_host", 64 << 20),
    ("store_age = 90d", "store_age", 90 * 86_400),
    ("store_min_free = 0", "store_min_free", 0),
    ("log_group = 4", "log_group", 4),
    ("space_left = 10%", "space_left", (10, "%")),
    ("admin_space_left = 0", "admin_space_left", (0, "MiB")),
    ("space_left_action = Email", "space_left_action", Action("email")),
    ("admin_space_left_action = rotate", "admin_space_left_action", Action("rotate")),
    ("disk_full_action = exec /usr/bin/true", "disk_full_action", Action("exec", Path("/usr/bin/true"))),
    ("disk_error_action = halt", "disk_error_action", Action("halt")),
    ("action_mail_acct = me@example", "action_mail_acct", "me@example"),
    ("plugin_dir = /a", "plugin_dir", Path("/a")),
    ("q_depth = 600", "q_depth", 600),
    ("overflow_action = Ignore", "overflow_action", "ignore"),
    ("max_restarts = 1", "max_restarts", 1),
    ("end_of_event_timeout = 5", "end_of_event_timeout", 5),
    ("name_format = user\nname = c1", "name", "c1"),
    ("name_format = fqd", "name_format", "fqd"),
    ("priority_boost = 0", "priority_boost", 0),
    ("report_interval = 5m", "report_interval", 300),
    ("runtime_dir = /run/a", "runtime_dir", Path("/run/a")),
    ("state_dir = /a", "state_dir", Path("/a")),
    ("drain_timeout = 2.5", "drain_timeout", 2.5),
    ("control = no", "control", False),
    ("capabilities = cap_kill", "capabilities", ("cap_kill",)),
]


@pytest.mark.parametrize(("text", "field", "value"), CASES)
def test_values(text: str, field: str, value: object) -> None:
    conf, _ = read(f"{ENOUGH}{text}\n".encode(), X)
    assert getattr(conf, field) == value


def test_every_key_has_a_case() -> None:
    assert {field for _, field, _ in CASES} == set(KEYS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lisen = ::1", "x:2: unknown key 'lisen' (did you mean 'listen'?)"),
        ("tcp_listen_port = 0", "'0' is out of range: 1 to 65535"),
        ("listen = collector.example.com", "'collector.example.com' is not an address"),
        ("listen = ::1:65536", "'::1:65536' is no"),
        ("listen = ::1 ::1", "'::1' is named twice"),
        ("listen = ::1 [::1]:60", "x:2: listen: names one address twice: without a port it is 60"),
        ("tcp_max_per_addr = 65536", "out of range: 1 to 65535"),
        ("tcp_client_ports = 5-1", "'5-1' ends before it begins"),
        ("transport = krb5", "x:2: transport: 'krb5' is refused"),
        ("transport = tcp\nplain = no", "x:3: plain: no is against transport = tcp"),
        ("tls_psk_identity = b\u00fc", "is not 1 to 255 printable ASCII characters"),
        ("tls_psk_master = master", "'master' is not the absolute path of a file"),
        ("tls_psk_master = /m\ntls_psk_file = /k", "x:2: tls_psk_master: is set, and tls_psk_file too"),
        ("tls_psk_epochs = 4294967296", "'4294967296' is out of range"),
        ("tls_psk_epochs = 1 2 3 4 5 6 7 8 9", "9 epochs, 8 at most"),
        ("tls_require_pqc = yes\ntls_crypto_profile = compatible", "x:2: tls_require_pqc: yes is against"),
        ("tls_crypto_profile = pqc\ntls_key_exchange = X25519", "x:3: tls_key_exchange: 'X25519' has no group"),
        ("tls_key_file = /a", "x:2: unknown key 'tls_key_file' (did you mean 'tls_psk_file'?)"),
        ("max_connections = 0", "'0' is out of range"),
        ("max_bytes_in_flight = 1M", "'1M' is out of range: 3M to 1024G"),
        ("max_bytes_in_flight_per_host = 1M", "'1M' is out of range: 3M to 1G"),
        ("max_bytes_in_flight = 15M", "x:2: max_bytes_in_flight: is less than"),
        ("handshake_timeout = 0", "is out of range: 0.1 to 60"),
        ("idle_timeout = 0", "is out of range: 5 to 3600"),
        ("store_dir = store", "'store' is not the absolute path of a folder"),
        ("store_size = 1M", "'1M' is out of range: 0, or 64M and more"),
        ("store_size = 64M\nstore_size_per_host = 65M", "x:3: store_size_per_host: is more than store_size"),
        ("store_age = 30", "'30' is not a number with one of s, m, h, d, w, M, y (M: 30 days) behind it, nor 0"),
        ("store_age = 30D", "'30D' is not a number"),
        ("store_age = 59m", "'59m' is out of range: 0, or 60m to 100y"),
        ("store_age = 101y", "'101y' is out of range"),
        ("store_age = " + "9" * 400 + "d", "is not a number with one of"),
        ("space_left = 512", "x:2: space_left: 512 MiB must be more than admin_space_left, which is 512 MiB"),
        ("space_left = 5%\nadmin_space_left = 5%", "x:2: space_left: 5% must be more than admin_space_left"),
        ("admin_space_left = 256", "x:2: admin_space_left: 256 MiB must be more than store_min_free"),
        ("store_min_free = 600M", "x:2: store_min_free: must be less than admin_space_left, which is 512 MiB"),
        ("space_left_action = halt", "'halt' is not one of ignore"),
        ("disk_error_action = email", "'email' is not one of ignore"),
        ("action_mail_acct = -oX", "would be an option of the program that sends mail"),
        ("name_format = user", "x:2: name_format: user needs the key name"),
        ("drain_timeout = 3601", "out of range"),
        ("capabilities = cap_kil", "did you mean 'cap_kill'?"),
        ("log_file = /var/log/x", "x:2: log_file: is a key of auditd.conf that a collector does not have: records are"),
        ("local_events = no", "is a key of auditd.conf that a collector does not have: records of this host"),
        (
            "distribute_network = yes",
            "is a key of auditd.conf that a collector does not have: every record",
        ),
        ("enable_krb5 = no", "is a key of auditd.conf that a collector does not have: Kerberos is not spoken"),
        ("write_logs = no", "is a key of auditd.conf that a collector does not have"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(f"{ENOUGH}{text}\n".encode(), X)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x: tls_allowed_clients: there is no key: set tls_allowed_clients, or tls_psk_file and tls_psk_identity"),
        ("transport = tls\n", "x:1: transport: there is no key: set tls_allowed_clients"),
        ("tls_psk_file = /k\n", "x:1: tls_psk_file: is set, and nobody who may use it"),
        ("tls_psk_identity = web1\n", "there is no key"),
        ("tls_psk_master = /m\n", "x:1: tls_psk_master: needs tls_allowed_clients"),
        ("tls_psk_master = /m\n" + SHARED, "x:1: tls_psk_master: is set, and tls_psk_file too"),
        (ENOUGH, None),
        (ENOUGH + "tls_psk_master = /m\n", None),
        (ENOUGH + SHARED, None),
        (SHARED, None),
        (PLAIN, None),
        (PLAIN + "tls_psk_master = /m\n", None),
    ],
)
def test_keys_that_tls_needs(text: str, message: str | None) -> None:
    """The same answers as audisp.tls.keyring, but at the line of the file."""
    if message is None:
        read(text.encode(), X)
        return
    with pytest.raises(ConfigErrors) as caught:
        read(text.encode(), X)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "plain", "listens"),
    [
        (ENOUGH, False, ()),
        (ENOUGH + "plain = no\n", False, ()),
        (ENOUGH + "plain = yes\n", True, ()),
        (PLAIN + "plain = yes\n", True, ()),
        (PLAIN + "listen = 127.0.0.1:0 ::1\ntcp_listen_port = 61\n", True, (("127.0.0.1", 0), ("::1", 61))),
    ],
)
def test_what_is_listened_to(text: str, plain: bool, listens: tuple[tuple[str, int], ...]) -> None:
    conf, _ = read(text.encode(), X)
    assert conf.takes_plain == plain
    assert conf.endpoints == tuple(Endpoint(*each) for each in listens)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("disk_full_action = syslog now", "x:2: disk_full_action: 'now' has no effect"),
        ("use_libwrap = yes", "x:2: use_libwrap: has no effect: hosts.allow and hosts.deny are not read"),
        ("plain = yes", "x:2: plain: plain TCP: whoever reaches the port can write records"),
        ("transport = tcp", "x:2: transport: plain TCP: whoever"),
        ("transport = tcp", "x:1: tls_allowed_clients: has no effect with transport = tcp"),
        ("tls_psk_identity = web1", "x:2: tls_psk_identity: has no effect beside tls_allowed_clients"),
        ("tls_psk_epochs = 1", "x:2: tls_psk_epochs: has no effect without tls_psk_master"),
        ("name = c1", "x:2: name: has no effect with name_format = none"),
        ("q_depth = 9", "x:2: q_depth: 9 is low"),
    ],
)
def test_notices(text: str, notice: str) -> None:
    _, notices = read(f"{ENOUGH}{text}\n".encode(), X)
    assert any(notice in each for each in notices), notices


@pytest.mark.parametrize("text", [ENOUGH, SHARED, ENOUGH + "tls_psk_master = /m\ntls_psk_epochs = 1\nplain = no\n"])
def test_no_notice_without_a_reason(text: str) -> None:
    assert read(text.encode(), X)[1] == []


def test_the_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "audisp-collector.conf"
    with pytest.raises(ConfigErrors, match="there is no such file, so no key to listen with"):
        load(path)
    path.write_text(ENOUGH)
    path.chmod(0o620)
    with pytest.raises(ConfigErrors, match="can be written by its group"):
        load(path)
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigErrors, match="is a symbolic link"):
        load(tmp_path / "link")
    assert load(tmp_path / "link", allow_links=True) == load(path)


def test_the_shipped_file() -> None:
    """What it sets is what needs setting; each commented line is a key with its default."""
    text = SHIPPED.read_text()
    conf, notices = read(text.encode(), SHIPPED)
    assert notices == []
    set_ = {name for name in KEYS if getattr(conf, name) != getattr(CollectorConf(), name)}
    assert set_ == {"tls_allowed_clients", "tls_psk_master"}
    text = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.M)
    # `plain` has no value as long as nobody says anything.
    assert attrs.evolve(read(text.encode(), SHIPPED)[0], plain=None) == conf
    assert set(re.findall(r"^(?:# )?(\w+) = ", text, re.M)) == set(KEYS)


def test_what_the_engine_is_told() -> None:
    text = (
        ENOUGH + "q_depth = 700\nname_format = user\nname = c1\nplugin_dir = /p\nstate_dir = /s\nstore_min_free = 1M\n"
    )
    conf, _ = read(text.encode(), X)
    engine = conf.as_auditd()
    assert (engine.local_events, engine.write_logs, engine.log_format) == (False, False, "raw")
    assert (engine.q_depth, engine.name, engine.plugin_dir) == (700, "c1", Path("/p"))
    own = conf.as_audispd()
    assert (own.source, own.enrich, own.spill_dir) == ((), (), Path("/s/spill"))
    assert (own.runtime_dir, own.state_dir, own.spill_min_free) == (Path("/run/audisp-collector"), Path("/s"), 1 << 20)
    assert own.rcvbuf == AudispdConf().rcvbuf


def test_auditd_s_own_listener() -> None:
    assert from_auditd(AuditdConf()) is None
    plain = from_auditd(AuditdConf(tcp_listen_port=60))
    assert plain == ListenConf(
        transport="tcp", tcp_listen_port=60, tcp_listen_queue=5, tcp_max_per_addr=1, use_libwrap=True
    )
    assert plain.takes_plain
    assert list(listen_errors(plain, {}, X)) == []
    tls = from_auditd(AuditdConf(tcp_listen_port=60, transport="tls", tls_psk_file=Path("/k")))
    assert tls is not None
    assert not tls.takes_plain
    assert [error.key for error in listen_errors(tls, {}, X)] == ["tls_psk_file"]
    for krb5 in (AuditdConf(tcp_listen_port=60, transport="krb5"), AuditdConf(tcp_listen_port=60, enable_krb5=True)):
        with pytest.raises(ConfigError, match="Kerberos is not spoken here"):
            from_auditd(krb5)


def test_any_window_holds_the_heaviest_frame() -> None:
    assert MIN_WINDOW >= MAX_WEIGHT


def test_keys_of_auditd_conf_are_read_as_there() -> None:
    """The same readers and bounds, but for those that a collector has more room for."""
    ours, theirs = keys(CollectorConf), keys(AuditdConf)
    wider = {"tcp_listen_port", "tcp_max_per_addr", "use_libwrap", "transport", "tls_cipher_suites", "tls_key_exchange"}
    shared = set(ours) & set(auditd.KEYS)
    assert wider < shared
    for name in shared - wider:
        assert (ours[name].type, dict(ours[name].metadata)) == (theirs[name].type, dict(theirs[name].metadata)), name
