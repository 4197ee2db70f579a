"""The state file that SIGCONT writes: auditd's lines in auditd's order (upstream.md 2.6), so that audisp-statsd and
scripts read it, then ours."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Any, Final

from audisp import __version__
from audisp.dispatch.plan import RECORD_SLOT, Plan
from audisp.sources.contract import NETWORK

NAME: Final = "auditd.state"
MODE: Final = 0o640


def _yes(value: object) -> str:
    return "yes" if value else "no"


def lines(snapshot: dict[str, Any], plan: Plan) -> list[str]:
    """The text, line by line. Queue figures are of the fullest plugin, in auditd's slots where auditd counts slots."""
    plugins = snapshot["plugins"].values()
    log = snapshot["plugins"].get("log", {})
    fullest = max((plugin["queue_records"] for plugin in plugins), default=0)
    peak = max((plugin["queue_peak"] // RECORD_SLOT for plugin in plugins), default=0)
    lost = any(plugin["losses"] for plugin in plugins)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = [
        f"audit version = {__version__}",
        f"current time = {time.strftime('%m/%d/%y %H:%M:%S')}",
        f"process priority = {os.getpriority(os.PRIO_PROCESS, 0)}",
        f"writing to logs = {_yes(plan.writes_log)}",
    ]
    text += [f"{key} = {value}" for key, value in log.get("detail", {}).items()]
    text += [
        f"Number of active plugins = {len(snapshot['plugins']) - ('log' in snapshot['plugins'] and plan.writes_log)}",
        f"current plugin queue depth = {fullest}",
        f"max plugin queue depth used = {peak}",
        f"plugin queue size = {plan.auditd.q_depth}",
        f"plugin queue overflow detected = {_yes(lost)}",
        f"plugin queueing suspended = {_yes(any(plugin['refusing'] == 'suspended' for plugin in plugins))}",
        f"listening for network connections = {_yes(NETWORK in snapshot['sources'])}",
        f"glibc arena (total memory) is: {resident} KiB, was: {resident} KiB",
        f"glibc uordblks (in use memory) is: {resident} KiB, was: {resident} KiB",
        "glibc fordblks (total free space) is: 0 KiB, was: 0 KiB",
    ]
    for name, source in snapshot["sources"].items():
        text.append(
            f"source {name} = received {source['received']} routed {source['routed']} rejected {source['rejected']}"
        )
        text += [f"source {name} {key} = {value}" for key, value in sorted(source["counters"].items())]
    for name, plugin in snapshot["plugins"].items():
        text.append(
            f"plugin {name} = {plugin['state']} offered {plugin['offered']} delivered {plugin['delivered']} "
            f"dropped {plugin['dropped']} quarantined {plugin['quarantined']} waiting {plugin['waiting']} "
            f"restarts {plugin['restarts']}"
        )
    return text


def write(path: Path, text: list[str], group: int) -> None:
    """Put the file in place, whole; for group to read, where we may give it that group. Raises OSError.

    Who does not write auditd's log has given up CAP_CHOWN, or never had it; the file then is for our own user.
    """
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        with open(fd, "w", encoding="ascii", errors="backslashreplace") as file:
            if group:
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, -1, group)
            file.write("\n".join(text) + "\n")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
