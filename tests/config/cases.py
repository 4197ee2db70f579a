"""Lines of auditd.conf, and what auditd and we say to them.

`auditd` is what auditd 3.0.9 (Debian 12) did when it was started with the line, `ours` what we do; None: auditd 4.2
knows this and 3.0.9 does not. Where the two differ, docs/compatibility.md says why. Each line stands behind PREFIX,
``{d}`` is a folder that exists; cases with `alone` stand behind ALONE only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PREFIX: Final = "local_events = no\nplugin_dir = {d}/p\nspace_left = 75\nadmin_space_left = 50\n"
ALONE: Final = "local_events = no\nplugin_dir = {d}/p\n"


class Case(NamedTuple):
    text: str
    auditd: bool | None
    ours: bool
    alone: bool = False


def _same(verdict: bool, *texts: str) -> tuple[Case, ...]:
    return tuple(Case(text + "\n", verdict, verdict) for text in texts)


def _space(verdict: bool, *pairs: tuple[str, str]) -> tuple[Case, ...]:
    return tuple(
        Case(f"space_left = {left}\nadmin_space_left = {admin}\n", verdict, verdict, alone=True)
        for left, admin in pairs
    )


GRAMMAR: Final = (
    *_same(True, "", "   ", "  freq = 5", "freq = 5 ", "FREQ = 5", "freq  =   5", "# x", "  # x", "# x\r", "#freq=5"),
    *_same(False, "freq = 50\r", "freq\t=\t5", "freq =5", "freq= 5", "freq=5", "freq =", "freq", "= 5", "freq = 5 # x"),
    *_same(
        False, "freq = 5 6", "\t# x", "\t", "\r", "freq = 5\t", "bogus = 1", "freq = 5\nfreq = x", "freq = x\nfreq = 5"
    ),
    *_same(True, "# " + "x" * 600, " " * 600, "freq = 5\nfreq = 6", "# no line end"),
    # auditd leaves these lines out with a message and goes on; we say no.
    Case("name = " + "x" * 504 + "\n", True, False),
    Case("freq = 5\0 6\n", True, False),
    Case("freq = 5", True, False),
    Case("# no line end", True, True),
)

NUMBERS: Final = (
    *_same(True, "freq = 0", "freq = 010", "freq = 2147483647", "priority_boost = 0", "priority_boost = 2147483647"),
    *_same(False, "freq = +5", "freq = -5", "freq = 0x10", "freq = 2147483648", "freq = 99999999999999999999999"),
    *_same(False, "priority_boost = 2147483648", "num_logs = 1000", "num_logs = x", "max_log_file = x"),
    *_same(True, "num_logs = 0", "num_logs = 999", "max_log_file = 0", "max_log_file = 4294967296"),
    *_same(True, "max_restarts = 0", "max_restarts = 2147483647", "end_of_event_timeout = 0"),
    *_same(False, "max_restarts = 2147483648", "max_restarts = -1", "q_depth = 100000"),
    *_same(True, "q_depth = 1", "q_depth = 99999"),
    Case("q_depth = 0\n", True, False),
)

WORDS: Final = (
    *_same(True, "local_events = NO", "local_events = No", "write_logs = no"),
    *_same(False, "local_events = maybe", "local_events = no no", "write_logs = nope"),
    *_same(True, "log_format = raw", "log_format = RAW", "log_format = nolog", "log_format = ENRICHED"),
    *_same(False, "log_format = rawish", "log_format = nolog x"),
    *_same(True, "log_group = root", "log_group = 4", "log_group = 77777"),
    *_same(False, "log_group = nosuchgroup", "log_group = -1"),
    Case("log_group = 4x\n", True, False),
    *_same(
        True, "flush = none", "flush = incremental\nfreq = 1", "flush = INCREMENTAL_ASYNC\nfreq = 9", "flush = data"
    ),
    *_same(True, "flush = sync", "flush = data\nfreq = 3", "freq = 1\nflush = incremental"),
    *_same(False, "flush = incremental", "flush = incremental_async", "flush = fsync"),
    *_same(True, "name_format = none", "name_format = hostname", "name_format = user\nname = h", "name = h"),
    *_same(False, "name_format = user", "name_format = host", "name = a b"),
    *_same(True, "overflow_action = ignore", "overflow_action = SYSLOG", "overflow_action = suspend"),
    *_same(True, "overflow_action = single", "overflow_action = halt"),
    *_same(False, "overflow_action = drop", "overflow_action = exec /usr/bin/true", "overflow_action = drop_oldest"),
    *_same(True, "plugin_dir = /nonexistent"),
    Case("plugin_dir = run/cfg\n", True, False),
    *_same(True, "dispatcher = /sbin/audispd", "disp_qos = lossy"),
    # auditd demands one word even of what it ignores.
    *_same(False, "dispatcher = /sbin/audispd x", "disp_qos = lossy x", "dispatcher ="),
)

FILES: Final = (
    *_same(True, "log_file = {d}/a.log", "log_file = /tmp/a.log", "log_file = {d}/../a.log", "log_file = {d}/mine.log"),
    *_same(False, "log_file = /nonexistent/a.log", "log_file = /a.log", "log_file = a.log", "log_file = {d}/"),
    *_same(False, "log_file = {d}/p", "log_file = /dev/null", "log_file = {d}/foreign.log"),
    Case("log_file = {d}/link.log\n", True, False),
)

SPACE: Final = (
    *_space(True, ("51", "50"), ("10%", "50"), ("50", "10%"), ("10%", "5%"), ("5%", "10%"), ("99%", "5%"), ("5%", "0")),
    *_space(True, ("0", "5%"), ("1", "0"), ("4294967296", "1")),
    *_space(False, ("50", "50"), ("49", "50"), ("0%", "0%"), ("0", "0"), ("100%", "5%"), ("5 %", "1"), ("%", "1")),
    Case("space_left = 5%%\nadmin_space_left = 1\n", True, False, alone=True),
    Case("", False, False, alone=True),
)

_EXEC: Final = ("exec", "exec usr/bin/true", "exec /nonexistent", "exec {d}/x0700", "exec {d}/foreign", "exec {d}/p")

ACTIONS: Final = (
    *_same(True, *(f"max_log_file_action = {w}" for w in ("ignore", "SYSLOG", "suspend", "rotate", "keep_logs"))),
    *_same(
        False, *(f"max_log_file_action = {w}" for w in ("exec", "exec /usr/bin/true", "email", "single", "rotate x"))
    ),
    *_same(True, *(f"space_left_action = {w}" for w in ("ignore", "syslog", "rotate", "email", "suspend", "single"))),
    *_same(
        True,
        "space_left_action = exec /usr/bin/true",
        "space_left_action = exec {d}/x4755",
        "space_left_action = syslog x",
    ),
    *_same(True, "space_left_action = exec /usr/bin/true x"),
    *_same(False, "space_left_action = bogus", *(f"space_left_action = {w}" for w in _EXEC)),
    # auditd 4.2 refuses halt here, 3.0.9 does not.
    Case("space_left_action = halt\n", True, False),
    *_same(True, *(f"admin_space_left_action = {w}" for w in ("ignore", "email", "rotate", "single", "halt"))),
    *_same(True, *(f"disk_full_action = {w}" for w in ("ignore", "rotate", "halt", "exec /usr/bin/true"))),
    *_same(False, "disk_full_action = email", "disk_error_action = email", "disk_error_action = rotate"),
    *_same(True, *(f"disk_error_action = {w}" for w in ("ignore", "syslog", "suspend", "halt", "exec /usr/bin/true"))),
)

MAIL: Final = (
    *_same(True, *(f"action_mail_acct = {w}" for w in ("root", "ro", "a_b-c"))),
    *_same(False, *(f"action_mail_acct = {w}" for w in ("r", "a@b", "a.b@c", "a@localhost", "a+b", ".a@b"))),
    *_same(True, *(f"verify_email = no\naction_mail_acct = {w}" for w in ("r", "a@b", "a+b", "a@."))),
    *_same(False, "action_mail_acct = r\nverify_email = no"),
    # It would be an option of sendmail.
    Case("action_mail_acct = -oX/tmp/x\nverify_email = no\n", False, False),
    Case("verify_email = no\naction_mail_acct = -oX/tmp/x\n", True, False),
)

NETWORK: Final = (
    *_same(True, "tcp_listen_queue = 1", "tcp_listen_queue = 65535", "tcp_max_per_addr = 1", "tcp_max_per_addr = 1024"),
    *_same(
        False, "tcp_listen_queue = 0", "tcp_listen_queue = 65536", "tcp_max_per_addr = 0", "tcp_max_per_addr = 1025"
    ),
    *_same(False, "tcp_listen_port = 0", "tcp_listen_port = 65536", "tcp_listen_port = x"),
    *_same(True, *(f"tcp_client_ports = {w}" for w in ("0", "65535", "1-5", "0-65535"))),
    *_same(False, *(f"tcp_client_ports = {w}" for w in ("65536", "5-1", "1-", "-5", "1 - 5", "a-b", "1-65536"))),
    Case("tcp_client_ports = 1-2-3\n", True, False),
    *_same(
        True, "use_libwrap = yes", "tcp_client_max_idle = 0", "transport = tcp", "transport = krb5", "enable_krb5 = no"
    ),
    *_same(True, "enable_krb5 = yes", "krb5_principal = x", "krb5_key_file = /nonexistent", "distribute_network = no"),
    *_same(False, "transport = udp"),
)

LATER: Final = tuple(
    Case(text + "\n", None, verdict)
    for verdict, text in (
        (True, "report_interval = 0"),
        (True, "report_interval = 90"),
        (True, "report_interval = 90s"),
        (True, "report_interval = 5m"),
        (True, "report_interval = 6h"),
        (True, "report_interval = 40d"),
        (True, "report_interval = 1M"),
        (False, "report_interval = 41d"),
        (False, "report_interval = 2M"),
        (False, "report_interval = 1w"),
        (False, "report_interval = s"),
        (False, "report_interval = -1"),
        (True, "transport = tls"),
        (True, "tls_auth = PSK"),
        (False, "tls_auth = cert"),
        (True, "tls_crypto_profile = pqc"),
        (False, "tls_crypto_profile = best"),
        (True, "tls_psk_file = /etc/audit/psk"),
        (False, "tls_psk_file = psk"),
        (True, "tls_psk_identity = web-1"),
        (False, "tls_psk_identity = caf\u00e9"),
        (False, "tls_psk_identity = " + "x" * 256),
        (True, "tls_psk_identity = " + "x" * 255),
        (True, "tls_allowed_clients = /etc/audit/clients"),
        (False, "tls_allowed_clients = clients"),
        (True, "tls_cipher_suites = TLS_AES_128_GCM_SHA256"),
        (True, "tls_key_exchange = X25519"),
        (True, "tls_require_pqc = yes"),
        (False, "tls_require_pqc = often"),
        (False, "tls_cert_file = /etc/audit/cert"),
        (True, "tcp_listen_port = 60"),
    )
)

ALL: Final = (*GRAMMAR, *NUMBERS, *WORDS, *FILES, *SPACE, *ACTIONS, *MAIL, *NETWORK, *LATER)
