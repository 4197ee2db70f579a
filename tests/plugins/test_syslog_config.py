"""`syslog` to a server: its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audisp.plugin import ConfigError
from audisp_plugins.syslog import SyslogConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"transport": "tcp"}, "server: is missing: the name or the address"),
        ({"transport": "tcp", "server": "a b"}, "server: 'a b' is neither the name nor the address of a host"),
        ({"transport": "tcp", "server": "-oProxy"}, "server: '-oProxy' is neither"),
        ({"transport": "tcp", "server": "a..b"}, "server: 'a..b' is neither"),
        ({"transport": "tcp", "server": "x" * 64 + ".example"}, "is neither the name nor the address"),
        ({"transport": "tcp", "server": "x", "port": 65536}, "port: 65536 is out of range"),
        (
            {"transport": "tcp", "server": "x", "max_message": 1023},
            "1023 is out of range: 1024 to 1048576",
        ),
        (
            {"transport": "udp", "server": "x", "max_message": 65508},
            "65508 is out of range: 1024 to 65507",
        ),
        ({"transport": "tcp", "server": "x", "hostname": "a b"}, "hostname: 'a b' is not 1 to 255 printable"),
        ({"transport": "tcp", "server": "x", "structured_data": ("a",)}, "structured_data: 'a' is neither"),
        ({"transport": "tcp", "server": "x", "socket": Path("/run/x")}, "socket: is for transport = local"),
        ({"transport": "tcp", "server": "x", "tls_ca_file": Path("/x")}, "tls_ca_file: is for transport = tls"),
        ({"server": "x"}, "server: is for transport = udp, tcp or tls"),
        ({"bom": False}, "bom: is for transport = udp, tcp or tls"),
        ({"transport": "tls", "server": "x"}, "tls_ca_file: is missing: the certificates"),
        ({"transport": "tls", "server": "x", "tls_ca_file": Path("x")}, "tls_ca_file: 'x' is not an absolute path"),
        (
            {"transport": "tls", "server": "x", "tls_ca_file": Path("/x"), "tls_key_file": Path("/x")},
            "tls_cert_file: is missing: tls_key_file is of no use alone",
        ),
        (
            {"transport": "tls", "server": "x", "tls_ca_file": Path("/x"), "tls_cert_file": Path("/x")},
            "tls_key_file: is missing: tls_cert_file is of no use alone",
        ),
        (
            {"transport": "tls", "server": "x", "tls_ca_file": Path("/x"), "tls_server_name": ".x"},
            "tls_server_name: '.x' is no name of a host",
        ),
    ],
)
def test_settings_that_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SyslogConfig(**keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "server", "noticed"),
    [
        ("udp", "logs.example", True),
        ("tcp", "192.0.2.1", True),
        ("tcp", "fe80::1%eth0", True),
        ("tcp", "localhost.example", True),
        ("tls", "logs.example", False),
        ("udp", "localhost", False),
        ("tcp", "LocalHost.", False),
        ("tcp", "a.localhost", False),
        ("tcp", "127.8.0.1", False),
        ("tcp", "::1", False),
    ],
)
def test_plain_text_off_the_machine_is_noticed(kind: str, server: str, noticed: bool) -> None:
    ca = {"tls_ca_file": Path("/x")} if kind == "tls" else {}
    notices = SyslogConfig(transport=kind, server=server, **ca).notices()  # type: ignore[arg-type]
    assert bool(notices) is noticed
    assert all(notice.startswith(f"transport: {kind} sends records unencrypted to {server}") for notice in notices)
    assert SyslogConfig().notices() == ()


@pytest.mark.parametrize(("kind", "port", "limit"), [("udp", 514, 2_048), ("tcp", 514, 8_096), ("tls", 6514, 8_096)])
def test_defaults(kind: str, port: int, limit: int) -> None:
    ca = {"tls_ca_file": Path("/x")} if kind == "tls" else {}
    config = SyslogConfig(transport=kind, server="x", **ca)  # type: ignore[arg-type]
    assert (config.endpoint, config.limit) == (("x", port), limit)
