"""What a test needs of the machine: ``@needs("root", "auditd")``.

A need that is not met skips the test with its reason. With AUDISP_CI=1 in the environment it fails the test instead,
so that a green run means that everything ran; only the corpus, which is not part of the checkout, may be absent.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout."""

CORPUS: Final = ROOT.parent / "shared" / "corpus"
"""Test data beside the checkout. Tests read it, and stand on their own data where it is missing."""

NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
NETLINK_AUDIT: Final = 9
AUDIT_GET: Final = 1000
AUDIT_WAIT: Final = 2.0
"""Seconds to wait for the kernel's answer; it answers within the call, so this only bounds a defect."""


def _root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _program(name: str, package: str) -> Callable[[], str | None]:
    def find() -> str | None:
        # sbin is not on everybody's PATH.
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin"
        return None if shutil.which(name, path=path) else f"needs {name} (apt-get install {package})"

    return find


def audit_owner() -> int:
    """Pid of the audit stream's owner, 0 if it has none. OSError if the kernel does not answer us (linux/audit.h)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_AUDIT) as sock:
        sock.settimeout(AUDIT_WAIT)
        sock.bind((0, 0))
        sock.sendto(struct.pack("=LHHLL", 16, AUDIT_GET, NLM_F_REQUEST, 1, 0), (0, 0))
        reply = sock.recv(8192)
    kind: int = struct.unpack_from("=H", reply, 4)[0]
    if kind == NLMSG_ERROR:
        error: int = -struct.unpack_from("=i", reply, 16)[0]
        raise OSError(error, os.strerror(error))
    # struct audit_status: mask, enabled, failure, pid.
    pid: int = struct.unpack_from("=I", reply, 16 + 12)[0]
    return pid


def _audit() -> str | None:
    try:
        owner = audit_owner()
    except OSError as error:
        return f"needs the kernel's audit netlink: {error}"
    if owner and Path(f"/proc/{owner}").exists():
        return f"needs the audit stream, which pid {owner} owns"
    return None


def _corpus() -> str | None:
    return None if (CORPUS / "README.md").is_file() else f"corpus: {CORPUS} is missing"


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _device(path: str, what: str) -> Callable[[], str | None]:
    return lambda: None if os.access(path, os.R_OK | os.W_OK) else f"needs {path} ({what})"


NEEDS: Final[dict[str, Callable[[], str | None]]] = {
    "root": _root,
    "audit": _audit,
    "corpus": _corpus,
    "fuse": _device("/dev/fuse", "a file system of our own, to make a read hang"),
    "ns_last_pid": _device("/proc/sys/kernel/ns_last_pid", "to have a process's number come back"),
    "auditd": _program("auditd", "auditd"),
    "ausearch": _program("ausearch", "auditd"),
    "libauparse": lambda: None if _has_library("libauparse.so.0") else "needs libauparse.so.0 (apt-get install auditd)",
    "audisp-syslog": _program("audisp-syslog", "audispd-plugins"),
    "audisp-remote": _program("audisp-remote", "audispd-plugins"),
    "laurel": _program("laurel", "laurel"),
    "rsyslogd": _program("rsyslogd", "rsyslog rsyslog-gnutls rsyslog-openssl"),
    "nft": _program("nft", "nftables"),
    "ip": _program("ip", "iproute2"),
    "sshd": _program("sshd", "openssh-server"),
    "ssh": _program("ssh", "openssh-client"),
    "curl": _program("curl", "curl"),
    "pkill": _program("pkill", "procps"),
    "perl": _program("perl", "perl-base"),
    "loginctl": _program("loginctl", "systemd"),
    "gcc": _program("gcc", "gcc"),
    "openssl": _program("openssl", "openssl"),
    "gnutls": _program("gnutls-serv", "gnutls-bin"),
    "stunnel": _program("stunnel", "stunnel4"),
}
"""Each need, and a function that says why it is not met (None: it is). Asked when the test is about to run."""


def needs(*what: str) -> pytest.MarkDecorator:
    """Mark a test, a class, or with `pytestmark = needs(...)` a module. ValueError for a need that does not exist."""
    unknown = set(what) - NEEDS.keys()
    if unknown or not what:
        raise ValueError(f"needs: {', '.join(sorted(unknown)) or 'nothing'} is not one of {', '.join(NEEDS)}")
    return pytest.mark.needs(*what)


def missing(*what: str) -> str | None:
    """Why one of these needs is not met; None if all are. What may be absent even in CI is asked last."""
    for name in sorted(what, key=lambda name: name == "corpus"):
        reason = NEEDS[name]()
        if reason:
            return reason
    return None
