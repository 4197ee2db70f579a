"""Socket addresses: the ``saddr`` of SOCKADDR records, which is the sockaddr of the call in hexadecimal digits.

The layouts are those of linux/socket.h, in.h, in6.h, un.h, netlink.h, if_packet.h, vm_sockets.h, if_alg.h, ax25.h,
x25.h and atm.h. Family, netlink's and vsock's numbers, and an interface's, are in the byte order of the machine that
made the call; ports and IP addresses are in network order. Whoever made the call chose every byte, so every length is
checked, nothing is believed, and what cannot be read is said to be so: nothing here raises on any text.
"""

from __future__ import annotations

import functools
import ipaddress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import attrs

from audisp.parse.arch import unpack
from audisp.parse.tables_names import NAMES
from audisp.parse.values import is_hex, to_str

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SADDR: Final = 256
"""Digits looked at: a sockaddr_storage has 128 bytes (linux/socket.h), and the kernel takes no longer address."""
MAX_PATH: Final = 108
"""Bytes of a path in a sockaddr_un (UNIX_PATH_MAX, linux/un.h)."""

IN_SIZE: Final = 16
IN6_SIZE: Final = 24
"""SIN6_LEN_RFC2133: the kernel takes a sockaddr_in6 without its scope."""
IN6_SCOPE: Final = 28
NETLINK_SIZE: Final = 12
AX25_SIZE: Final = 9

ByteOrder = Literal["little", "big"]


@attrs.frozen
class SockAddr:
    """A socket address. family: auparse's name (``inet``, ``local``); ``unspec`` for 0, "" where there is none.

    number: of the family, None if the value has none. address: IP address, X.25 address or AX.25 call sign. port: of
    TCP or UDP. path: of a local socket, or its abstract name, without NULs at the end; b"" for an unnamed one. scope:
    interface of a link-local address. details: what other families hold, by name. problem: what is wrong, "" if nothing
    is. raw: the value it was read from.
    """

    family: str
    number: int | None = None
    address: str | None = None
    port: int | None = None
    path: bytes | None = None
    abstract: bool = False
    scope: int | None = None
    details: tuple[tuple[str, str], ...] = ()
    problem: Literal["", "not hexadecimal", "too short", "unknown family"] = ""
    raw: str = ""


class _TooShort(Exception):
    """Fewer bytes than the family's structure has; caught in `decode`."""


@functools.cache
def families() -> Mapping[int, str]:
    """Numbers and names of address families (AF_*, but ``local`` for AF_UNIX, as auparse has it)."""
    return unpack(NAMES["family"])


def decode(value: str, byteorder: ByteOrder | None = None) -> SockAddr:
    """The address that a raw ``saddr`` holds.

    byteorder: of the machine that made the call (`Arch.byteorder`). None: little, but big where only that gives a
    family; no family has a number above 255, so there is no doubt.
    """
    if not is_hex(value):
        return SockAddr("", problem="not hexadecimal", raw=value)
    data = bytes.fromhex(value[:MAX_SADDR])
    if byteorder is None:
        byteorder = "big" if data[0] == 0 and data[1:2] > b"\0" else "little"
    # One byte is all that can come of a call with a length of 1.
    number = int.from_bytes(data[:2], byteorder) if len(data) > 1 else data[0]
    if number == 0:
        return SockAddr("unspec", 0, raw=value)
    family = families().get(number)
    if family is None:
        return SockAddr("", number, problem="unknown family", raw=value)
    read = _READERS.get(family)
    if read is None:
        return SockAddr(family, number, raw=value)
    try:
        return read(data, byteorder, number, value)
    except _TooShort:
        return SockAddr(family, number, problem="too short", raw=value)


def _inet(data: bytes, _: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < IN_SIZE:
        raise _TooShort
    return SockAddr("inet", number, raw=raw, address=_ipv4(data[4:8]), port=data[2] << 8 | data[3])


def _inet6(data: bytes, order: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < IN6_SIZE:
        raise _TooShort
    scope = int.from_bytes(data[24:28], order) if len(data) >= IN6_SCOPE else 0
    return SockAddr(
        "inet6", number, raw=raw, address=_ipv6(data[8:24]), port=data[2] << 8 | data[3], scope=scope or None
    )


def _ipv4(packed: bytes) -> str:
    first, second, third, fourth = packed
    return f"{first}.{second}.{third}.{fourth}"


def _ipv6(packed: bytes) -> str:
    # ::ffff:192.0.2.1 and ::192.0.2.1 as the C library writes them; Python does so from 3.13 on, and only the first.
    tail = _ipv4(packed[12:])
    if packed[:12] == bytes(10) + b"\xff\xff":
        return "::ffff:" + tail
    if packed[:12] == bytes(12) and packed[12:14] != b"\0\0":
        return "::" + tail
    return str(ipaddress.IPv6Address(packed))


def _local(data: bytes, _: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < 2:
        raise _TooShort
    path = data[2 : 2 + MAX_PATH]
    if path[:1] == b"\0":
        name = path[1:].rstrip(b"\0")
        return SockAddr("local", number, raw=raw, path=name, abstract=bool(name))
    return SockAddr("local", number, raw=raw, path=path.partition(b"\0")[0])


def _netlink(data: bytes, order: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < NETLINK_SIZE:
        raise _TooShort
    pid, groups = int.from_bytes(data[4:8], order), int.from_bytes(data[8:12], order)
    return SockAddr("netlink", number, raw=raw, details=(("pid", str(pid)), ("groups", f"{groups:#x}")))


def _ax25(data: bytes, _: ByteOrder, number: int, raw: str) -> SockAddr:
    # Letters are shifted left by one bit; the seventh byte holds the station's number (net/ax25.h).
    if len(data) < AX25_SIZE:
        raise _TooShort
    call = "".join(chr(byte >> 1) for byte in data[2:8]).rstrip(" ")
    station = data[8] >> 1 & 0x0F
    return SockAddr("ax25", number, raw=raw, address=f"{call}-{station}" if station else call)


def _x25(data: bytes, _: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < 3:
        raise _TooShort
    return SockAddr("x25", number, raw=raw, address=data[2:18].partition(b"\0")[0].decode("latin-1"))


def _atmpvc(data: bytes, order: ByteOrder, number: int, raw: str) -> SockAddr:
    # short itf, short vpi, int vci: behind two bytes of padding, as struct sockaddr_atmpvc is aligned to four.
    if len(data) < 12:
        raise _TooShort
    parts = {"itf": data[4:6], "vpi": data[6:8], "vci": data[8:12]}
    details = tuple((name, str(int.from_bytes(part, order, signed=True))) for name, part in parts.items())
    return SockAddr("atmpvc", number, raw=raw, details=details)


def _packet(data: bytes, order: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < 12:
        raise _TooShort
    address = data[12 : 12 + min(data[11], 8)]
    details = (
        ("protocol", f"{int.from_bytes(data[2:4], 'big'):#06x}"),
        ("ifindex", str(int.from_bytes(data[4:8], order, signed=True))),
        ("hardware", address.hex(":")),
    )
    return SockAddr("packet", number, raw=raw, details=details)


def _vsock(data: bytes, order: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < 12:
        raise _TooShort
    port, cid = int.from_bytes(data[4:8], order), int.from_bytes(data[8:12], order)
    return SockAddr("vsock", number, raw=raw, details=(("cid", str(cid)), ("port", str(port))))


def _alg(data: bytes, _: ByteOrder, number: int, raw: str) -> SockAddr:
    if len(data) < 3:
        raise _TooShort
    kind, name = (data[start:end].partition(b"\0")[0].decode("latin-1") for start, end in ((2, 16), (24, 88)))
    return SockAddr("alg", number, raw=raw, details=(("type", kind), ("name", name)))


_READERS: Final = MappingProxyType(
    {
        "inet": _inet,
        "inet6": _inet6,
        "local": _local,
        "netlink": _netlink,
        "ax25": _ax25,
        "x25": _x25,
        "atmpvc": _atmpvc,
        "packet": _packet,
        "vsock": _vsock,
        "alg": _alg,
    }
)


_SHORT: Final = MappingProxyType(
    {
        "inet": "sockaddr len too short",
        "inet6": "sockaddr6 len too short",
        "local": "sockaddr len too short",
    }
)


def render(address: SockAddr) -> str:
    """The address as auparse shows it: ``{ saddr_fam=inet laddr=192.0.2.1 lport=443 }``.

    An abstract name has a ``@`` before it and for each NUL in it, as in /proc/net/unix, so that it is never taken for
    a path. Bytes that are not UTF-8 are surrogates. What was a path is not escaped, and may hold anything.
    """
    family = address.family
    if address.problem == "not hexadecimal":
        return f"malformed-host({address.raw})"
    if not family or family == "unspec":
        return f"unknown-family({address.number})"
    if address.problem:
        return f"{{ saddr_fam={family} {_SHORT.get(family, 'len too short')} }}"
    if address.path is not None:
        if not address.path and len(address.raw) < 8:
            return f"{{ saddr_fam={family} {_SHORT[family]} }}"
        path = to_str(address.path)
        return f"{{ saddr_fam={family} path={'@' + path.replace(chr(0), '@') if address.abstract else path} }}"
    if address.port is not None:
        host = f"{address.address}%{address.scope}" if address.scope else address.address
        return f"{{ saddr_fam={family} laddr={host} lport={address.port} }}"
    if family == "netlink":
        return f"{{ saddr_fam={family} nlnk-fam={address.number} nlnk-pid={address.details[0][1]} }}"
    if family == "atmpvc":
        return f"{{ saddr_fam={family} int={address.details[0][1]} }}"
    if family == "x25":
        return f"{{ saddr_fam={family} laddr={address.address} }}"
    if family == "ax25":
        return f"{{ saddr_fam={family} call={address.address} }}"
    return f"{{ saddr_fam={family} (unsupported) }}"
