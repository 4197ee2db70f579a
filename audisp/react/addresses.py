"""Addresses: one form for each, and those that are never blocked: our own, gateways, the network of who would undo it.

Everything is read anew for each request, from the network namespace that we are in: an address that the host has got a
minute ago is its own now.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audisp.errors import AudispError

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_FILE: Final = 4 << 20
"""Bytes read of one file of /proc/net. With more routes than that, what cannot be seen whole blocks nobody."""
LONGEST: Final = 45
"""Characters of an address: INET6_ADDRSTRLEN without its NUL."""
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""The well-known prefix (RFC 6052): the last 32 bits are the IPv4 address meant."""
COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
"""IPv4-compatible addresses (RFC 4291 2.5.5.1): deprecated, routed by nobody."""
UTMP: Final = struct.Struct("<h2xi32s4s32s256shhiii16s20s")
"""struct utmp of glibc on 64-bit Linux (utmp(5))."""
USER_PROCESS: Final = 7
MAX_LOGINS: Final = 4096
"""Logins looked at. More cannot be administrators."""


class Unreadable(AudispError):
    """What must not be blocked cannot be told, so that nothing may be."""


def normal(text: str) -> IP | None:
    """The one address that `text` names, an IPv4-mapped one as IPv4; None if it is none, or one with a scope."""
    if len(text) > LONGEST or "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def meanings(address: IP) -> tuple[IP, ...]:
    """The address, and the IPv4 address that it carries inside (6to4, NAT64), if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour is not None:
            return address, address.sixtofour
        if address in NAT64:
            return address, ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (address,)


def never(address: IP) -> str | None:
    """Why this address is nobody's who could attack; None if it may be somebody's."""
    # NAT64's prefix itself lies in a reserved range; whose address it is, the IPv4 address in it says.
    for each in meanings(address) if address not in NAT64 else meanings(address)[1:]:
        if each.is_loopback:
            return "is loopback"
        if each.is_unspecified or each.is_multicast or each.is_reserved:
            return "is no host's address"
        if each.is_link_local:
            return "is link-local, and the same on every link"
    if isinstance(address, ipaddress.IPv6Address) and address in COMPATIBLE:
        return "is no host's address"
    if isinstance(address, ipaddress.IPv4Address) and int(address) == 0xFFFFFFFF:
        return "is no host's address"
    return None


class Surroundings:
    """This host's network. proc: /proc/net's folder; run: /run. Tests put their own there."""

    def __init__(self, net: Path = Path("/proc/self/net"), run: Path = Path("/run")) -> None:
        self._net = net
        self._run = run

    def own(self) -> set[IP]:
        """Addresses of this host. Unreadable if they cannot be told."""
        found: set[IP] = set(_fib_locals(_text(self._net / "fib_trie")))
        for line in _text(self._net / "if_inet6", missing_ok=True).splitlines():
            found.add(ipaddress.IPv6Address(int(line.split()[0], 16)))
        return found

    def gateways(self) -> set[IP]:
        """Next hops of every route, the default's among them. Unreadable if they cannot be told."""
        found: set[IP] = set()
        for line in _text(self._net / "route").splitlines()[1:]:
            words = line.split()
            if len(words) > 2 and int(words[2], 16):
                # In the host's byte order, as the kernel prints a 32-bit number of the network's.
                found.add(ipaddress.IPv4Address(struct.pack("=I", int(words[2], 16))))
        for line in _text(self._net / "ipv6_route", missing_ok=True).splitlines():
            words = line.split()
            if len(words) > 4 and int(words[4], 16):
                found.add(ipaddress.IPv6Address(int(words[4], 16)))
        return found

    def peers(self, is_admin: frozenset[str]) -> set[IP]:
        """Where these users are logged in from now: utmp, and logind's sessions. What cannot be read is nobody."""
        found: set[IP] = set()
        for user, address in (*self._utmp(), *self._logind()):
            known = normal(address) if user in is_admin else None
            if known is not None:
                found.add(known)
        return found

    def _utmp(self) -> Iterator[tuple[str, str]]:
        try:
            data = _bytes(self._run / "utmp")
        except (OSError, Unreadable):
            return
        for start in range(0, min(len(data), MAX_LOGINS * UTMP.size) - UTMP.size + 1, UTMP.size):
            kind, _, _, _, user, _, *_, raw, _ = UTMP.unpack_from(data, start)
            if kind == USER_PROCESS and any(raw):
                v4 = not any(raw[4:])
                address = ipaddress.ip_address(raw[:4] if v4 else raw)
                yield user.split(b"\0")[0].decode("utf-8", "surrogateescape"), str(address)

    def _logind(self) -> Iterator[tuple[str, str]]:
        folder = self._run / "systemd" / "sessions"
        try:
            names = sorted(name for name in os.listdir(folder) if not name.endswith(".ref"))[:MAX_LOGINS]
        except OSError:
            return
        for name in names:
            try:
                lines = _bytes(folder / name).decode("utf-8", "surrogateescape").splitlines()
            except (OSError, Unreadable):
                continue
            keys = dict(line.split("=", 1) for line in lines if "=" in line)
            if keys.get("REMOTE_HOST"):
                yield keys.get("USER", ""), keys["REMOTE_HOST"]


def _fib_locals(text: str) -> Iterator[ipaddress.IPv4Address]:
    """Addresses that a line ``/32 host LOCAL`` follows in fib_trie."""
    last = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("|-- "):
            last = stripped[4:]
        elif stripped == "/32 host LOCAL" and last:
            yield ipaddress.IPv4Address(last)


def _text(path: Path, *, missing_ok: bool = False) -> str:
    try:
        return _bytes(path).decode("ascii", "replace")
    except FileNotFoundError:
        if missing_ok:  # a kernel without IPv6
            return ""
        raise Unreadable(f"{path} is missing") from None
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error


def _bytes(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        parts: list[bytes] = []
        size = 0
        while part := file.read(MAX_FILE):
            parts.append(part)
            size += len(part)
            if size > MAX_FILE:
                raise Unreadable(f"{path} is longer than {MAX_FILE} bytes")
    return b"".join(parts)
