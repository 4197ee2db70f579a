"""The bodies of the daemon's own records, as auditd writes them (upstream.md 2.3): who started, stopped, signalled."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import attrs

from audisp import __version__
from audisp.dispatch.plan import Plan
from audisp.sources.contract import Source
from audisp.sources.netlink import NetlinkSource

UNSET: int = 4_294_967_295
"""loginuid and session of a process that nobody logged in for."""


@attrs.frozen
class Signaller:
    """Who sent a signal, as far as the kernel told."""

    uid: int
    pid: int
    auid: int
    session: int
    subject: str


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text().strip())
    except (OSError, ValueError):
        return UNSET


def _subject(pid: int | str) -> str:
    try:
        return Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ") or "unconfined"
    except OSError:
        return ""


def signaller(sources: Iterable[Source]) -> Signaller | None:
    """Ask the kernel who signalled us last. It tells only the owner of the stream; None otherwise."""
    for source in sources:
        if isinstance(source, NetlinkSource) and not source.multicast:
            found = source.sender_of_signal()
            if found is None:
                return None
            uid, pid, subject = found
            return Signaller(uid, pid, _number(f"/proc/{pid}/loginuid"), _number(f"/proc/{pid}/sessionid"), subject)
    return None


def daemon_fields(operation: str, plan: Plan, who: Signaller | None = None, *, result: str = "success") -> str:
    """What follows the stamp in DAEMON_START, _END, _CONFIG, _ROTATE and _RESUME."""
    if operation == "start":
        subject = _subject("self")
        return (
            f"op=start ver={__version__} format={plan.auditd.log_format} kernel={os.uname().release} "
            f"auid={_number('/proc/self/loginuid')} pid={os.getpid()} uid={os.getuid()} "
            f"ses={_number('/proc/self/sessionid')}" + (f" subj={subject}" if subject else "") + f" res={result}"
        )
    if who is None:
        return f"op={operation} auid=? uid=? ses=? pid=? res={result}"
    return (
        f"op={operation} auid={who.auid} uid={who.uid} ses={who.session} pid={who.pid}"
        + (f" subj={who.subject}" if who.subject else "")
        + f" res={result}"
    )
