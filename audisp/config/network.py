"""What audisp-remote.conf and audisp-collector.conf are made of: endpoints, networks, spans, paths, the tls_ keys.

A key that auditd.conf has too is taken from there (`auditd_key`), so that it cannot come to mean something else here.
Names are never looked up: no name server holds up a start, nor decides whether a file is right.
"""

# ruff: noqa: RUF009 - key() makes an attrs field, as attrs.field does
from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from audisp.config.auditd import AuditdConf
from audisp.config.grammar import Setting, nearest, shown
from audisp.config.schema import DIGITS, key, number, one
from audisp.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ENDPOINTS: Final = 16
"""Most servers, and most addresses to listen at. Each server that does not answer costs a time-out before the next one
has its turn; each address is a socket."""

MAX_NETWORKS: Final = 32
"""Most networks: each of our addresses is compared with each of them whenever an address changes."""

MAX_NAME: Final = 253
"""Longest host name in characters, without a dot at its end (RFC 1035, 2.3.4)."""

PORT_MAX: Final = 65_535

SPANS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "M": 30 * 86_400, "y": 365 * 86_400}
"""Units of a span of time in seconds. s to d and M as in auditd's report_interval."""

SPAN_MAX: Final = 100 * 365 * 86_400
"""Longest span in seconds, a hundred years: beyond any rule of retention, and far from what a clock cannot add."""

PQC_MARK: Final = "MLKEM"
"""In the name of every group that tls_crypto_profile = pqc lets pass (upstream.md section 6)."""

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_ZONE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")
"""An interface's name (IFNAMSIZ is 16, with the NUL)."""
_LISTED: Final = re.compile(r"[!-9;-~]+\Z")
"""One name of a list with colons."""


@attrs.frozen
class Endpoint:
    """host: a name, or an address without brackets. port: None if the file does not say."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def at(self, port: int) -> Endpoint:
        """With this port, where the file says none."""
        return self if self.port is not None else Endpoint(self.host, port)


def auditd_key(name: str, default: Any = attrs.NOTHING) -> Any:
    """A key of auditd.conf, read and bounded as there; with another default, if one is given."""
    field = attrs.fields_dict(AuditdConf)[name]
    return attrs.field(default=field.default if default is attrs.NOTHING else default, metadata=dict(field.metadata))


def servers(words: tuple[str, ...]) -> tuple[Endpoint, ...]:
    """HOST, HOST:PORT, ADDRESS or [ADDRESS]:PORT, the first to be tried first. Raises ValueError."""
    return _endpoints(words, _host, 1)


def listeners(words: tuple[str, ...]) -> tuple[Endpoint, ...]:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; port 0 is any that is free. Raises ValueError."""
    return _endpoints(words, _address, 0)


def _endpoints(words: tuple[str, ...], check: Any, lowest: int) -> tuple[Endpoint, ...]:
    if len(words) > MAX_ENDPOINTS:
        raise ValueError(f"{len(words)} of them, {MAX_ENDPOINTS} at most")
    found: list[Endpoint] = []
    for word in words:
        host, port = _split(word)
        each = Endpoint(check(host, word), None if port is None else number(port, {"min": lowest, "max": PORT_MAX}))
        if each in found:
            raise ValueError(f"{shown(word)} is named twice")
        found.append(each)
    return tuple(found)


def _split(word: str) -> tuple[str, str | None]:
    """Host and port of an endpoint, neither of them checked. Raises ValueError."""
    if word.startswith("["):
        host, bracket, rest = word[1:].partition("]")
        if bracket and (not rest or rest.startswith(":")) and _ip(host) and ":" in host:
            return host, rest[1:] if rest else None
        raise ValueError(f"{shown(word)} is not [ADDRESS] or [ADDRESS]:PORT with an IPv6 address")
    if _ip(word):
        return word, None
    if word.count(":") > 1:
        raise ValueError(f"{shown(word)} is no IPv6 address; with a port it is written [ADDRESS]:PORT")
    host, colon, port = word.partition(":")
    return host, port if colon else None


def _ip(text: str) -> bool:
    bare, percent, zone = text.partition("%")
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return False
    return not percent or (version == 6 and _ZONE.match(zone) is not None)


def _address(host: str, word: str) -> str:
    if not _ip(host):
        raise ValueError(
            f"{shown(word)} is not an address of this host, with or without a port; names are not looked up"
        )
    return host


def _host(host: str, word: str) -> str:
    if _ip(host):
        return host
    labels = host.removesuffix(".").split(".")
    if len(host.removesuffix(".")) > MAX_NAME or not all(_LABEL.match(label) for label in labels):
        raise ValueError(f"{shown(word)} is neither a host's name nor an address")
    if labels[-1].isdigit():
        raise ValueError(f"{shown(word)} is not a whole IPv4 address, and no name ends in a number")
    return host


def networks(words: tuple[str, ...]) -> tuple[Network, ...]:
    """Networks as ADDRESS/BITS. Raises ValueError, also for those that tell one place from no other."""
    if len(words) > MAX_NETWORKS:
        raise ValueError(f"{len(words)} networks, {MAX_NETWORKS} at most")
    return tuple(dict.fromkeys(_network(word) for word in words))


def _network(word: str) -> Network:
    address, slash, bits = word.partition("/")
    if not _ip(address) or "%" in address or (slash and not (bits.isascii() and bits.isdigit())):
        raise ValueError(f"{shown(word)} is not a network such as 10.20.0.0/16 or 2001:db8:7::/48")
    try:
        found = ipaddress.ip_network(word, strict=False)
    except ValueError:
        most = 32 if ipaddress.ip_address(address).version == 4 else 128
        raise ValueError(f"{shown(word)} has more than {most} bits of network") from None
    if slash and found.network_address != ipaddress.ip_address(address):
        raise ValueError(f"{shown(word)} is an address inside a network (did you mean '{found}'?)")
    if found.is_loopback or found.is_link_local:
        raise ValueError(f"{shown(word)} is on every host, wherever it is")
    if found.is_multicast:
        raise ValueError(f"{shown(word)} is multicast, which no host has for its own address")
    return found


def span(words: tuple[str, ...], low: int = 0) -> int:
    """A span of time in seconds: a number and its unit; 0 by itself. Raises ValueError.

    The unit must be there: what is meant as days and taken as seconds would be gone at once.
    """
    word = one(words)
    if word == "0":
        return 0
    digits, unit = word[:-1], word[-1]
    if unit not in SPANS or not (digits.isascii() and digits.isdigit() and len(digits) <= DIGITS):
        units = ", ".join(SPANS)
        raise ValueError(f"{shown(word)} is not a number with one of {units} (M: 30 days) behind it, nor 0")
    value = int(digits) * SPANS[unit]
    if not low <= value <= SPAN_MAX:
        raise ValueError(f"{shown(word)} is out of range: 0, or {low // 60}m to {SPAN_MAX // SPANS['y']}y")
    return value


def file(words: tuple[str, ...]) -> Path:
    """The absolute path of a file, which need not be there. Raises ValueError."""
    word = one(words)
    if not word.startswith("/") or word.endswith("/"):
        raise ValueError(f"{shown(word)} is not the absolute path of a file")
    return Path(word)


def folder(words: tuple[str, ...]) -> Path:
    """The absolute path of a folder other than the root, which need not be there. Raises ValueError."""
    word = one(words)
    if not word.startswith("/") or word.strip("/") == "":
        raise ValueError(f"{shown(word)} is not the absolute path of a folder")
    return Path(word)


def _list(words: tuple[str, ...]) -> str:
    word = one(words)
    if not all(_LISTED.match(name) for name in word.split(":")):
        raise ValueError(f"{shown(word)} is not a list of names with a colon between each two")
    return word


def _suites(words: tuple[str, ...]) -> str:
    listed = _list(words)
    names = listed.split(":")
    for name in names:
        if not name.startswith("TLS_"):
            raise ValueError(f"{shown(name)} is no cipher suite of TLS 1.3, whose names begin with TLS_")
    if not any(name.endswith("_SHA256") for name in names):
        raise ValueError(f"{shown(listed)} has no suite that ends in _SHA256, and the key can be used with no other")
    return listed


@attrs.frozen(kw_only=True)
class TlsKeys:
    """The tls_ keys that both ends have. Values and defaults are upstream's."""

    tls_auth: Literal["psk"] = auditd_key("tls_auth")
    tls_crypto_profile: Literal["compatible", "system", "pqc"] = auditd_key("tls_crypto_profile")
    tls_psk_file: Path | None = auditd_key("tls_psk_file")
    tls_psk_identity: str | None = auditd_key("tls_psk_identity")
    tls_cipher_suites: str | None = key(None, read=_suites)
    tls_key_exchange: str | None = key(None, read=_list)
    tls_require_pqc: bool = auditd_key("tls_require_pqc")

    @property
    def profile(self) -> Literal["compatible", "system", "pqc"]:
        """tls_crypto_profile, or pqc where tls_require_pqc asks for it."""
        return "pqc" if self.tls_require_pqc else self.tls_crypto_profile


def tls_errors(conf: TlsKeys, last: Mapping[str, Setting], path: Path) -> Iterator[ConfigError]:
    """What is wrong with tls_ keys that are right each by itself. last: the setting that counts, of each key."""
    if conf.tls_require_pqc and "tls_crypto_profile" in last and conf.tls_crypto_profile != "pqc":
        message = f"yes is against tls_crypto_profile = {conf.tls_crypto_profile}: take one of the two away"
        yield at(last, path, "tls_require_pqc", message)
    groups = conf.tls_key_exchange
    if conf.profile == "pqc" and groups is not None and PQC_MARK not in groups:
        message = f"{shown(groups)} has no group with {PQC_MARK} in its name, and the profile pqc lets no other pass"
        yield at(last, path, "tls_key_exchange", message)


def at(last: Mapping[str, Setting], path: Path, name: str, message: str) -> ConfigError:
    """An error about a key, where it stands if it stands anywhere."""
    setting = last.get(name)
    return ConfigError(message, path=path, line=setting.line if setting else None, key=name)


def refused(reason: str, word: str) -> ValueError:
    """The error for a word that is upstream's, and that we refuse."""
    return ValueError(f"{shown(word)} is refused: {reason}")


def transport(words: tuple[str, ...]) -> str:
    """tcp or tls. Raises ValueError, for krb5 with the reason."""
    word = one(words).lower()
    if word == "krb5":
        raise refused("Kerberos is not spoken here; tls proves both ends with a key, and encrypts", word)
    if word not in ("tcp", "tls"):
        raise ValueError(f"{shown(word)} is not one of tcp, tls{nearest(word, ('tcp', 'tls'))}")
    return word
