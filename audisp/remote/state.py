"""The state file: the C program's lines in its order (upstream.md section 4), then ours. Written on SIGUSR1 and while
things change, so that `audisp status` and scripts can read it."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Final, Protocol

from audisp import __version__
from audisp.dispatch import statefile
from audisp.errors import StoreError
from audisp.remote.sender import Sender

FOLDER_MODE: Final = 0o750


def _yes(value: object) -> str:
    return "yes" if value else "no"


class Accepting(Protocol):
    """What stores the records that come: the program's intake, or the plugin's."""

    @property
    def accepted(self) -> int:
        """Records stored."""

    @property
    def waiting(self) -> int:
        """Records in memory."""

    @property
    def lost(self) -> int:
        """Records dropped."""

    @property
    def error(self) -> str | None:
        """What is wrong with the spool."""


async def lines(sender: Sender, intake: Accepting) -> list[str]:
    """The text, line by line."""
    stream = sender.outbox.stream
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        age = await sender.outbox.oldest_age()
    except StoreError:
        age = None
    return [
        f"current_time = {time.strftime('%m/%d/%y %H:%M:%S')}",
        f"suspend = {_yes(sender.brake.suspended)}",
        f"remote_ended = {_yes(sender.remote_ended)}",
        f"transport_ok = {_yes(sender.watch is not None)}",
        f"queue_length = {stream.records}",
        f"max_queued_length = {sender.outbox.peak}",
        f"queue_depth = {sender.conf.queue_depth}",
        f"glibc arena (total memory) is: {resident} KiB, was: {resident} KiB",
        f"glibc uordblks (in use memory) is: {resident} KiB, was: {resident} KiB",
        "glibc fordblks (total free space) is: 0 KiB, was: 0 KiB",
        f"version = audisp {__version__}",
        f"pid = {os.getpid()}",
        *(f"{key} = {value}" for key, value in about(sender, intake, age).items()),
    ]


def about(sender: Sender, intake: Accepting, age: float | None) -> dict[str, str]:
    """Our part of it, which the plugin gives as its state. age: of the oldest record that waits, in seconds."""
    stream, watch = sender.outbox.stream, sender.watch
    said: dict[str, object] = {
        "accepted": intake.accepted,
        "sent": sender.outbox.sent,
        "waiting": stream.records,
        "unstored": intake.waiting,
        "lost": intake.lost,
        "damaged": stream.findings.lost,
        "withheld": sender.ledger.withheld,
        "cut": sender.ledger.cut,
        "oldest_age": "none" if age is None or not stream.records else f"{age:.1f}",
        "server": watch.server if watch is not None else "none",
        "protocol": (watch.protocol or "none") if watch is not None else "none",
        "cipher": (sender.link.cipher or "none") if sender.link is not None else "none",
        "trouble": watch.trouble.value if watch is not None and watch.trouble is not None else "none",
        "stopped": _yes(sender.brake.holds and not sender.brake.suspended),
        "away": _yes(sender.away),
        "attempts": sender.attempts,
        "connections": sender.connections,
        "spool": stream.path,
        "spool_bytes": stream.bytes,
        "spool_size": sender.conf.spool_bytes,
        "spool_error": intake.error or "none",
    }
    if watch is None and sender.problem:
        said["problem"] = sender.problem
    return {key: str(value) for key, value in said.items()}


def write(path: Path, text: list[str]) -> None:
    """Put the file in place. Raises OSError."""
    path.parent.mkdir(FOLDER_MODE, exist_ok=True)
    statefile.write(path, text, 0)
