"""The addresses that this host has, and whether one is in a home network. rtnetlink(7); linux/if_addr.h."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from audisp.config.network import Network

RTM_NEWADDR: Final = 20
RTM_GETADDR: Final = 22
NLM_F_REQUEST_DUMP: Final = 0x301
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_IFADDR: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
MAX_ANSWER: Final = 1 << 16
"""Bytes of one datagram; the kernel makes dumps of 8 to 32 KiB."""
MAX_DATAGRAMS: Final = 4_096
"""Of one dump: some 100,000 addresses, which no host has."""
SECONDS: Final = 2.0
"""For the kernel's answer, which comes within the call: this only bounds a defect."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def addresses() -> list[Address]:
    """All addresses of this network namespace. OSError if the kernel does not say."""
    found: list[Address] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(SECONDS)
        sock.bind((0, 0))
        sock.sendto(_HEADER.pack(24, RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0) + _IFADDR.pack(0, 0, 0, 0, 0), (0, 0))
        for _ in range(MAX_DATAGRAMS):
            data, sender = sock.recvfrom(MAX_ANSWER)
            if sender[0] == 0 and not _take(data, found):
                break
    return found


def _take(data: bytes, found: list[Address]) -> bool:
    """Enter the addresses of one datagram; False: it was the last."""
    for kind, body in _messages(data):
        if kind == NLMSG_DONE:
            return False
        if kind == NLMSG_ERROR:
            number = -struct.unpack_from("=i", body)[0]
            raise OSError(number, "the kernel does not tell the addresses of this host")
        if kind == RTM_NEWADDR and len(body) >= _IFADDR.size:
            attributes = dict(_attributes(body[_IFADDR.size :]))
            # Of a point-to-point interface IFA_ADDRESS is the other end's.
            raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
            if len(raw) in (4, 16):
                found.append(ipaddress.ip_address(raw))
    return True


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def is_home(networks: Iterable[Network], found: Iterable[Address]) -> bool:
    """Whether one of the addresses is in one of the networks; with no network, anywhere is home."""
    networks = tuple(networks)
    return not networks or any(each in network for each in found for network in networks)
