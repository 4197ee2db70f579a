"""Keys of `syslog`: audisp-syslog's arguments, the local socket, or a server on the network."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Final, Literal

import attrs

from audisp.plugin import ConfigError
from audisp_plugins.syslog_rfc5424 import MAX_HOSTNAME, MIN_MESSAGE, structured

SUN_PATH: Final = 107
"""Longest path of a socket (sockaddr_un, a NUL of 108 bytes left out)."""

LEVELS: Final = {
    f"LOG_{name}": number
    for number, name in enumerate(("EMERG", "ALERT", "CRIT", "ERR", "WARNING", "NOTICE", "INFO", "DEBUG"))
}
FACILITIES: Final = {
    "LOG_USER": 1,
    "LOG_DAEMON": 3,
    "LOG_AUTH": 4,
    "LOG_SYSLOG": 5,
    "LOG_AUTHPRIV": 10,
    **{f"LOG_LOCAL{number}": 16 + number for number in range(8)},
}
"""Numbers of syslog(3) and RFC 5424; the names are those that audisp-syslog takes."""

INTERPRET: Final = "INTERPRET"
"""The third sort of word that audisp-syslog takes."""

PORTS: Final = {"udp": 514, "tcp": 514, "tls": 6514}
"""Default ports: RFC 5426, RFC 5425. For TCP none is registered; 514 is what servers listen on."""

DATAGRAM: Final = 2_048
"""Default limit of a message by UDP: what every receiver should take (RFC 5424 section 6.1)."""
MESSAGE: Final = 8_096
"""Default limit by TCP and TLS: what rsyslog takes by default (and calls 8k) before it cuts off. RFC 5425 wants
receivers to take 8,192."""
MAX_DATAGRAM: Final = 65_507
"""Most that UDP over IPv4 carries."""
MAX_STREAM: Final = 1 << 20
"""Most that a limit by TCP or TLS may be: five times rsyslog's largest frame by default (maxFrameSize)."""

MAX_LABEL: Final = 63
"""Longest part of a host's name between two dots (RFC 1035)."""

_SERVER: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:_%-]{0,252}\Z|::[0-9A-Fa-f:.%]{0,250}\Z")
_HOSTNAME: Final = re.compile(rf"[!-~]{{1,{MAX_HOSTNAME}}}\Z")
_NETWORK_KEYS: Final = ("server", "port", "hostname", "max_message", "structured_data", "sequence", "bom")
_TLS_KEYS: Final = ("tls_ca_file", "tls_cert_file", "tls_key_file", "tls_server_name")


@attrs.frozen
class SyslogConfig:
    """Keys of `syslog`."""

    args: tuple[str, ...] = ()
    """A level, a facility and `interpret`, in any order and case: LOG_INFO LOG_LOCAL1. Without: LOG_INFO LOG_USER."""
    socket: Path = Path("/dev/log")
    """The daemon's datagram socket."""
    transport: Literal["local", "udp", "tcp", "tls"] = "local"
    """local: `socket`, in the old format. Others: `server`, in RFC 5424."""
    server: str | None = None
    """Name or address."""
    port: int | None = attrs.field(default=None, metadata={"min": 1, "max": 65_535})
    hostname: str | None = None
    """What messages call this host. Unset: its node name."""
    max_message: int | None = attrs.field(default=None, metadata={"min": MIN_MESSAGE, "max": MAX_STREAM})
    """Bytes; what is longer is sent in parts."""
    structured_data: tuple[str, ...] = attrs.field(default=(), metadata={"repeat": True})
    """Each NAME@NUMBER param=value ..., one element of every message."""
    sequence: bool = False
    """Number the messages, [meta sequenceId]."""
    bom: bool = True
    """A byte order mark in front of UTF-8 that is not ASCII, as RFC 5424 wants it."""
    tls_ca_file: Path | None = None
    """Whose certificates are trusted."""
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    """Our own certificate and its key."""
    tls_server_name: str | None = None
    """The name that the server's certificate must have. Unset: `server`."""

    def __attrs_post_init__(self) -> None:
        self.priority()
        if not self.socket.is_absolute() or len(os.fsencode(self.socket)) > SUN_PATH:
            raise ConfigError(f"{str(self.socket)!r} is not an absolute path of at most {SUN_PATH} bytes", key="socket")
        fresh = attrs.fields_dict(SyslogConfig)
        given = [key for key in ("socket", *_NETWORK_KEYS, *_TLS_KEYS) if getattr(self, key) != fresh[key].default]
        for key in given:
            if self.transport == "local" and key != "socket":
                raise ConfigError("is for transport = udp, tcp or tls", key=key)
            if self.transport != "local" and key == "socket":
                raise ConfigError("is for transport = local", key=key)
            if self.transport != "tls" and key in _TLS_KEYS:
                raise ConfigError("is for transport = tls", key=key)
        if self.transport != "local":
            self._check_network()

    def _check_network(self) -> None:
        if self.server is None:
            raise ConfigError("is missing: the name or the address of the syslog server", key="server")
        if not _is_host(self.server):
            raise ConfigError(f"{self.server!r} is neither the name nor the address of a host", key="server")
        if self.port is not None and not 1 <= self.port <= 65_535:
            raise ConfigError(f"{self.port} is out of range: 1 to 65535", key="port")
        most = MAX_DATAGRAM if self.transport == "udp" else MAX_STREAM
        if not MIN_MESSAGE <= self.limit <= most:
            raise ConfigError(f"{self.limit} is out of range: {MIN_MESSAGE} to {most}", key="max_message")
        if self.hostname is not None and not _HOSTNAME.match(self.hostname):
            raise ConfigError(
                f"{self.hostname!r} is not 1 to {MAX_HOSTNAME} printable ASCII characters", key="hostname"
            )
        structured(self.structured_data, sequence=self.sequence)
        if self.transport != "tls":
            return
        if self.tls_ca_file is None:
            raise ConfigError("is missing: the certificates of those whom we trust", key="tls_ca_file")
        if self.tls_server_name is not None and not _is_host(self.tls_server_name):
            raise ConfigError(f"{self.tls_server_name!r} is no name of a host", key="tls_server_name")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            key, other = ("tls_cert_file", "tls_key_file")[:: 1 if self.tls_cert_file is None else -1]
            raise ConfigError(f"is missing: {other} is of no use alone", key=key)
        for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
            path: Path | None = getattr(self, key)
            if path is not None and not path.is_absolute():
                raise ConfigError(f"{str(path)!r} is not an absolute path", key=key)

    @property
    def limit(self) -> int:
        """Bytes of one message."""
        return self.max_message or (DATAGRAM if self.transport == "udp" else MESSAGE)

    @property
    def endpoint(self) -> tuple[str, int]:
        """Server and port of a network transport."""
        assert self.server is not None
        return self.server, self.port or PORTS[self.transport]

    @property
    def interpret(self) -> bool:
        """Whether records are sent interpreted, as audisp-syslog does with this argument."""
        return any(word.upper() == INTERPRET for word in self.args)

    def priority(self) -> tuple[int, int]:
        """Facility and level. Raises ConfigError."""
        facility, level = FACILITIES["LOG_USER"], LEVELS["LOG_INFO"]
        for word in self.args:
            upper = word.upper()
            if upper in LEVELS:
                level = LEVELS[upper]
            elif upper in FACILITIES:
                facility = FACILITIES[upper]
            elif upper == INTERPRET:
                if self.transport != "local":
                    raise ConfigError("interpret is for the local daemon; for a server take shape = text", key="args")
            else:
                near = difflib.get_close_matches(upper, [*LEVELS, *FACILITIES], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"{word!r} is neither a level nor a facility of syslog{hint}", key="args")
        return facility, level

    def notices(self) -> tuple[str, ...]:
        """What is allowed and should be known."""
        if self.transport not in ("udp", "tcp") or self.server is None or _is_here(self.server):
            return ()
        loss = "; what is lost on the way is not sent again" if self.transport == "udp" else ""
        return (
            f"transport: {self.transport} sends records unencrypted to {self.server}, and to whoever answers for it"
            f"{loss}; transport = tls does not",
        )


def _is_host(name: str) -> bool:
    """A name that can be looked up, or an address."""
    if not _SERVER.match(name):
        return False
    return ":" in name or all(0 < len(label) <= MAX_LABEL for label in name.removesuffix(".").split("."))


def _is_here(server: str) -> bool:
    """Whether it is this machine by its loopback interface. Names are not looked up, so only well-known ones are."""
    name = server.lower().rstrip(".")
    if name in ("localhost", "ip6-localhost", "ip6-loopback") or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
