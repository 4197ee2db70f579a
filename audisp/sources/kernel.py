"""The kernel's audit control messages over NETLINK_AUDIT (linux/audit.h, upstream.md section 8).

Used through a socket of its own, apart from the stream: answers and records never mix there.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import threading
from typing import Final

import attrs

from audisp.errors import NotPermitted, SourceError

NETLINK_AUDIT: Final = 9
NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
AUDIT_GET: Final = 1000
AUDIT_SET: Final = 1001
AUDIT_LIST_RULES: Final = 1013
AUDIT_SIGNAL_INFO: Final = 1010
AUDIT_USER: Final = 1005
MASK_ENABLED: Final = 0x0001
MASK_PID: Final = 0x0004
NLGRP_READLOG: Final = 1
"""AUDIT_NLGRP_READLOG: the multicast group that carries a copy of every record."""

CAP_AUDIT_CONTROL: Final = 30
NET_NS_INIT_INO: Final = 0xEFFFFFF9
ELSEWHERE: Final = (
    "Bring the records in by another way, for example --source unix:PATH of a socket that the host shares"
)

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
STATUS = struct.Struct("=11I")
"""struct audit_status: mask, enabled, failure, pid, rate_limit, backlog_limit, lost, backlog, features,
backlog_wait_time, backlog_wait_time_actual."""

ANSWER_SECONDS: Final = 2.0
"""How long to wait for an answer: the kernel gives it while the request is sent, unless it holds its audit mutex."""
ANSWER_BYTES: Final = 16 * 1024
"""Larger than any answer we ask for."""
SO_MEMINFO: Final = 55
SK_MEMINFO_DROPS: Final = 8
SO_RCVBUFFORCE: Final = 33


@attrs.frozen
class AuditStatus:
    """struct audit_status as the kernel answers AUDIT_GET."""

    enabled: int
    failure: int
    pid: int
    rate_limit: int
    backlog_limit: int
    lost: int
    backlog: int
    features: int
    backlog_wait_time: int
    backlog_wait_time_actual: int


def pack_request(type_: int, body: bytes, sequence: int, *, ack: bool) -> bytes:
    """One request, padded as NLMSG_SPACE does."""
    flags = NLM_F_REQUEST | (NLM_F_ACK if ack else 0)
    return HEADER.pack(HEADER.size + len(body), type_, flags, sequence, 0) + body + b"\0" * (-len(body) % 4)


def pack_status(mask: int, *, enabled: int = 0, pid: int = 0) -> bytes:
    """The body of an AUDIT_SET that sets just what the mask names."""
    return STATUS.pack(mask, enabled, 0, pid, 0, 0, 0, 0, 0, 0, 0)


def open_socket(groups: int = 0) -> socket.socket:
    """An audit netlink socket. Raises SourceError saying what is missing."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_AUDIT)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EAFNOSUPPORT):
            raise SourceError("this kernel has no audit support (CONFIG_AUDIT)") from error
        raise SourceError(f"cannot open an audit netlink socket: {error.strerror}") from error
    try:
        sock.bind((0, groups))
    except OSError as error:
        sock.close()
        if error.errno == errno.EPERM:
            raise NotPermitted(
                "may not join the kernel's multicast group of audit records: needs CAP_AUDIT_READ "
                "in the initial user namespace"
            ) from error
        raise SourceError(f"cannot bind an audit netlink socket: {error.strerror}") from error
    return sock


def refused(error: OSError) -> SourceError:
    """What a refused audit request means, in words. The kernel looks at the user namespace first (ECONNREFUSED), then
    at the pid namespace and the capability (EPERM for both)."""
    if error.errno == errno.ECONNREFUSED:
        return NotPermitted(
            "the kernel takes no audit requests from a user namespace of its own (an unprivileged container): only "
            f"the host can own the audit stream. {ELSEWHERE}"
        )
    if error.errno not in (errno.EPERM, errno.EACCES):
        return SourceError(f"the kernel refuses the audit request: {error.strerror}")
    if _holds(CAP_AUDIT_CONTROL):
        return NotPermitted(
            "the kernel takes no audit requests from a pid namespace of its own (a container), whatever its "
            f"capabilities: only the host can own the audit stream. {ELSEWHERE}"
        )
    return NotPermitted(
        "not permitted to be the audit daemon: needs CAP_AUDIT_CONTROL (run as root), or observe: --source multicast, "
        "which needs CAP_AUDIT_READ"
    )


def _holds(capability: int) -> bool:
    """Whether this process has the capability in its own namespace (/proc/self/status, CapEff)."""
    try:
        with open("/proc/self/status", "rb") as file:
            found = re.search(rb"^CapEff:\s*([0-9a-f]+)$", file.read(), re.M)
    except OSError:
        return False
    return found is not None and bool(int(found[1], 16) >> capability & 1)


def foreign_network() -> bool:
    """Whether we are known to be in another network namespace than the host: there the multicast group is silent.

    Kernel 6.18 gives the host's a number of its own (NET_NS_INIT_INO). Before, pid 1's is the host's unless there is a
    pid namespace, too. False if neither tells.
    """
    try:
        ours = os.stat("/proc/self/ns/net").st_ino
        if ours == NET_NS_INIT_INO:
            return False
        found = re.match(r"(\d+)\.(\d+)", os.uname().release)
        if found and (int(found[1]), int(found[2])) >= (6, 18):
            return True
        return ours != os.stat("/proc/1/ns/net").st_ino
    except OSError:
        return False


def drops(sock: socket.socket) -> int:
    """How often the kernel found this socket full (SO_MEMINFO), modulo 2^32.

    On a multicast socket each time is one message lost. On the owner's the kernel tries again several times, and
    parks or loses what it cannot deliver: the number is of attempts, and only the serials tell what was lost.
    """
    counts: tuple[int, ...] = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    return counts[SK_MEMINFO_DROPS]


def owner_of(pid: int) -> str:
    """`pid N (command)` for messages; the command as the kernel has it, which its owner may have chosen."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            command = file.read(64).strip().decode("ascii", "backslashreplace")
    except OSError:
        return f"pid {pid}"
    return f"pid {pid} ({command})"


class Control:
    """A request socket. Blocking for at most ANSWER_SECONDS a call; threads take turns, so that none gets the other's
    answer."""

    def __init__(self) -> None:
        self._sock = open_socket()
        self._sock.settimeout(ANSWER_SECONDS)
        self._sequence = 0
        self._turn = threading.Lock()

    def close(self) -> None:
        """Give the socket back, once nobody waits for an answer: its number may be another's at once."""
        with self._turn:
            self._sock.close()

    def _ask(self, type_: int, body: bytes, answer: int, *, ack: bool) -> bytes:
        """Send a request and return the answer's payload. Raises OSError (also for a refusal) or SourceError."""
        with self._turn:
            return self._ask_now(type_, body, answer, ack)

    def _ask_now(self, type_: int, body: bytes, answer: int, ack: bool) -> bytes:
        self._sequence += 1
        self._sock.sendto(pack_request(type_, body, self._sequence, ack=ack), (0, 0))
        while True:
            try:
                data, sender = self._sock.recvfrom(ANSWER_BYTES)
            except TimeoutError:
                raise SourceError(f"the kernel did not answer audit request {type_}") from None
            if sender[0] != 0 or len(data) < HEADER.size:
                continue
            _, got, _, sequence, _ = HEADER.unpack_from(data)
            if sequence != self._sequence:
                continue
            if got == NLMSG_ERROR and len(data) >= HEADER.size + 4:
                code = -struct.unpack_from("=i", data, HEADER.size)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                if answer == NLMSG_ERROR:
                    return b""
                continue
            if got == answer:
                return data[HEADER.size :]

    def status(self) -> AuditStatus:
        """AUDIT_GET. Raises OSError EPERM without CAP_AUDIT_CONTROL, ECONNREFUSED outside the initial namespaces."""
        body = self._ask(AUDIT_GET, b"", AUDIT_GET, ack=False)
        # Older kernels answer with fewer fields: what is not there is zero.
        fields = STATUS.unpack(body[: STATUS.size].ljust(STATUS.size, b"\0"))
        return AuditStatus(*fields[1:])

    def set_enabled(self, enabled: int) -> None:
        """AUDIT_SET enabled. Raises OSError (EPERM: locked, enabled 2)."""
        self._ask(AUDIT_SET, pack_status(MASK_ENABLED, enabled=enabled), NLMSG_ERROR, ack=True)

    def signal_info(self) -> tuple[int, int, str]:
        """Who last signalled the registered audit daemon: (uid, pid, security context)."""
        body = self._ask(AUDIT_SIGNAL_INFO, b"", AUDIT_SIGNAL_INFO, ack=False)
        uid, pid = struct.unpack_from("=iI", body)
        return uid, pid, body[8:].split(b"\0", 1)[0].decode("ascii", "backslashreplace")

    def count_rules(self) -> int:
        """How many rules are loaded. Raises OSError or SourceError."""
        return len(self.rules())

    def rules(self) -> list[bytes]:
        """The loaded rules, each a struct audit_rule_data (`audisp.detect.auditrules`). Raises OSError or
        SourceError."""
        self._sequence += 1
        self._sock.sendto(pack_request(AUDIT_LIST_RULES, b"", self._sequence, ack=False), (0, 0))
        rules: list[bytes] = []
        while True:
            try:
                data, sender = self._sock.recvfrom(ANSWER_BYTES)
            except TimeoutError:
                raise SourceError("the kernel did not list its audit rules") from None
            if sender[0] != 0 or len(data) < HEADER.size:
                continue
            _, got, _, sequence, _ = HEADER.unpack_from(data)
            if sequence != self._sequence:
                continue
            if got == AUDIT_LIST_RULES:
                rules.append(data[HEADER.size :])
            elif got == NLMSG_DONE:
                return rules
            elif got == NLMSG_ERROR and len(data) >= HEADER.size + 4:
                code = -struct.unpack_from("=i", data, HEADER.size)[0]
                if code:
                    raise OSError(code, os.strerror(code))

    def send_user(self, text: str) -> None:
        """One AUDIT_USER record of ours. Needs CAP_AUDIT_WRITE; raises OSError."""
        self._ask(AUDIT_USER, text.encode() + b"\0", NLMSG_ERROR, ack=True)
