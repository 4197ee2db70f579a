"""Lines of audisp-remote.conf, and what the C program and we say to them.

`theirs` is what audisp-remote 3.0.9 (Debian 12) did when it was started with the lines: it ends with status 6 if it
does not take them. None: its version 4.2 knows this and 3.0.9 does not. Where the two differ, docs/compatibility.md
says why. Each case stands behind PREFIX, but for those that are `alone`; ``{d}`` is a folder that exists; mode is the
file's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PREFIX: Final = "remote_server = 127.0.0.1\n"


class Case(NamedTuple):
    text: str
    theirs: bool | None
    ours: bool
    alone: bool = False
    mode: int = 0o640


def _same(verdict: bool, *texts: str) -> tuple[Case, ...]:
    return tuple(Case(text + "\n", verdict, verdict) for text in texts)


def _later(verdict: bool, *texts: str) -> tuple[Case, ...]:
    return tuple(Case(text + "\n", None, verdict) for text in texts)


GRAMMAR: Final = (
    *_same(True, "", "   ", "  port = 5", "port = 5 ", "PORT = 5", "port  =   5", "# x", "  # x", "# x\r", "#port=5"),
    *_same(False, "port = 5\r", "port\t=\t5", "port =5", "port= 5", "port=5", "port =", "port", "= 5", "port = 5 # x"),
    *_same(False, "port = 5 6", "port = 5 6 7", "\t# x", "\t", "\r", "bogus = 1", "port = x\nport = 5"),
    *_same(True, "port = 5\nport = 6", " " * 300, "krb5_principal = " + "x" * 100),
    # Of a line with more than 127 bytes the C program takes the rest for a line of its own.
    Case("krb5_principal = " + "x" * 120 + "\n", False, True),
    Case("# " + "x" * 200 + "\n", False, True),
    Case("# " + "x" * 125 + "port = 5\n", True, True),
    Case("krb5_principal = " + "x" * 110 + "port = 5\n", True, False),
    # Other than auditd of its file, it takes the last line without its line end.
    Case("port = 5", True, True),
    Case("port = 65536", False, False),
    Case("# no line end", True, True),
    Case("port = 5\0 6\n", True, False),
)

SERVER: Final = (
    Case("", True, False, alone=True),
    Case("port = 60\n", True, False, alone=True),
    Case("remote_server = \n", False, False, alone=True),
    Case("remote_server\n", False, False, alone=True),
    Case("remote_server =\nremote_server = 127.0.0.1\n", False, False, alone=True),
    *_same(True, "remote_server = fe80::1", "remote_server = collector.example.com", "remote_server = localhost"),
    *_same(True, "remote_server = fe80::1%eth0", "remote_server = a.example.com.", "remote_server = my_host"),
    # Ours: more than one.
    Case("remote_server = localhost 127.0.0.2\n", False, True),
    # The C program does not look at it, and then looks in vain for a host of that name.
    Case("remote_server = localhost:61\n", True, True),
    Case("remote_server = [::1]:61\n", True, True),
    Case("remote_server = @$!\n", True, False),
    Case("remote_server = 300.1.2.3\n", True, False),
)

NUMBERS: Final = (
    *_same(True, "port = 1", "port = 65535", "port = 010", "local_port = any", "local_port = ANY", "local_port = 0"),
    *_same(True, "local_port = 65535", "queue_depth = 1", "network_retry_time = 1", "network_retry_time = 2147483647"),
    *_same(False, "port = 65536", "port = +5", "port = -5", "port = x", "local_port = 65536", "local_port = none"),
    *_same(False, "queue_depth = 0", "queue_depth = 2147483648", "network_retry_time = 0", "network_retry_time = -1"),
    *_same(False, "max_tries_per_record = 0", "max_time_per_record = 0", "max_time_per_record = 2147483648"),
    *_same(True, "max_tries_per_record = 2147483647", "max_time_per_record = 2147483647", "heartbeat_timeout = 0"),
    *_same(True, "heartbeat_timeout = 2147483647"),
    *_same(False, "heartbeat_timeout = -1", "heartbeat_timeout = 2147483648", "heartbeat_timeout = 1 2"),
    Case("port = 0\n", True, False),
    # 3.0.9 takes the 1 that is left of it in 32 bits; 4.2 does not.
    Case("port = 4294967297\n", True, False),
)

WORDS: Final = (
    *_same(True, "transport = TCP", "mode = immediate", "mode = FORWARD", "format = managed", "enable_krb5 = no"),
    *_same(False, "transport = udp", "mode = later", "format = binary", "enable_krb5 = maybe", "transport = tcp x"),
    *_same(False, "mode = forward\nformat = ascii", "format = ascii\nmode = forward", "krb5_principal = a b"),
    *_same(True, "queue_file = {d}/q", "queue_file = /nonexistent/q", "krb5_principal = a/b", "krb5_client_name = x"),
    *_same(True, "krb5_key_file = /nonexistent", "krb5_key_file = key"),
    *_same(False, "queue_file = q", "queue_file = {d}/q x"),
    Case("format = ascii\n", True, False),
    Case("transport = krb5\n", True, False),
    Case("enable_krb5 = yes\n", True, False),
    Case("enable_krb5 = yes\ntransport = tcp\n", True, False),
    Case("queue_file = {d}/\n", True, False),
)

# What would be carried out when a connection or a queue fails is never single or halt here: the peer does fail, and
# the machine that runs the tests is to stay up.
ACTIONS: Final = (
    *_same(True, *(f"network_failure_action = {w}" for w in ("ignore", "SYSLOG", "warn_once", "suspend", "stop"))),
    *_same(True, "network_failure_action = warn_once_continue", "network_failure_action = syslog x"),
    *_same(False, *(f"network_failure_action = {w}" for w in ("reconnect", "email", "rotate", "drop", "exec"))),
    *_same(True, *(f"disk_low_action = {w}" for w in ("single", "halt", "stop", "exec {d}/x0750"))),
    *_same(True, *(f"disk_full_action = {w}" for w in ("single", "halt", "suspend"))),
    *_same(True, *(f"disk_error_action = {w}" for w in ("ignore", "single", "HALT"))),
    *_same(True, *(f"generic_error_action = {w}" for w in ("single", "halt", "stop", "ignore"))),
    *_same(True, *(f"generic_warning_action = {w}" for w in ("single", "halt", "stop", "ignore"))),
    *_same(True, *(f"queue_error_action = {w}" for w in ("stop", "warn_once", "suspend"))),
    *_same(True, *(f"remote_ending_action = {w}" for w in ("reconnect", "stop", "warn_once"))),
    *_same(False, "disk_low_action = reconnect", "queue_error_action = reconnect", "remote_ending_action = redial"),
    *_same(True, *(f"startup_failure_action = {w}" for w in ("ignore", "syslog", "warn_once", "exec {d}/x0750"))),
    *_same(True, "startup_failure_action = warn_once_continue"),
    *_same(False, *(f"startup_failure_action = {w}" for w in ("stop", "suspend", "single", "halt", "reconnect"))),
    *_same(True, *(f"overflow_action = {w}" for w in ("ignore", "syslog", "suspend", "single", "halt", "syslog x"))),
    *_same(False, *(f"overflow_action = {w}" for w in ("exec {d}/x0750", "stop", "warn_once"))),
    # Ours.
    Case("overflow_action = drop_oldest\n", False, True),
    Case("overflow_action = drop_newest\n", False, True),
)

_GOOD: Final = ("x0750", "x0751", "x0754", "x0755", "x4755", "x1750", "link", "x0750 arg", "x0750 arg arg")
_BAD: Final = ("x0700", "x0740", "x0550", "x0555", "x0770", "x0752", "foreign", "p", "nothing")

PROGRAMS: Final = (
    *_same(True, *(f"disk_low_action = exec {{d}}/{name}" for name in _GOOD)),
    *_same(False, *(f"disk_low_action = exec {{d}}/{name}" for name in _BAD)),
    *_same(False, "disk_low_action = exec x0750", "disk_low_action = exec usr/bin/true"),
)

_TLS: Final = "transport = tls\ntls_psk_file = /a/key\ntls_psk_identity = web1\n"

TLS: Final = (
    *_later(True, _TLS, _TLS + "mode = forward", "tls_auth = PSK", "tls_psk_file = /a/key", "tls_psk_identity = web1"),
    *_later(False, "transport = tls", "transport = tls\ntls_psk_file = /a", "transport = tls\ntls_psk_identity = a"),
    *_later(False, _TLS + "format = ascii", "tls_auth = cert", "tls_psk_file = key", "tls_psk_identity = caf\u00e9"),
    *_later(True, "tls_psk_identity = " + "x" * 255, "tls_crypto_profile = pqc", "tls_crypto_profile = SYSTEM"),
    *_later(False, "tls_psk_identity = " + "x" * 256, "tls_crypto_profile = best", "tls_require_pqc = often"),
    *_later(True, "tls_require_pqc = yes", _TLS + "tls_require_pqc = yes\ntls_crypto_profile = pqc"),
    *_later(False, "tls_cert_file = /a", "tls_key_file = /a", "tls_ca_file = /a", "tls_allowed_clients = /a"),
    *_later(True, "tls_cipher_suites = TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", "tls_key_exchange = X25519"),
    # 4.2 takes these; see docs/compatibility.md.
    *_later(False, "tls_cipher_suites = TLS_AES_256_GCM_SHA384", "tls_cipher_suites = AES128-SHA:TLS_X_SHA256"),
    *_later(False, _TLS + "tls_crypto_profile = pqc\ntls_key_exchange = X25519", "tls_key_exchange = a::b"),
    # 4.2 goes by the last of the two.
    *_later(False, _TLS + "tls_require_pqc = yes\ntls_crypto_profile = compatible"),
)

FILES: Final = (
    *(Case("port = 5\n", True, True, mode=mode) for mode in (0o600, 0o644, 0o660, 0o670)),
    *(Case("port = 5\n", False, False, mode=mode) for mode in (0o642, 0o666)),
)

ALL: Final = (*FILES, *GRAMMAR, *SERVER, *NUMBERS, *WORDS, *ACTIONS, *PROGRAMS, *TLS)
