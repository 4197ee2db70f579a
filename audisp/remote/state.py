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
    stream, watch, conf = sender.outbox.stream, sender.watch, sender.conf
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        age = await sender.outbox.oldest_age()
    except StoreError:
        age = None
    text = [
        f"current_time = {time.strftime('%m/%d/%y %H:%M:%S')}",
        f"suspend = {_yes(sender.brake.suspended)}",
        f"remote_ended = {_yes(sender.remote_ended)}",
        f"transport_ok = {_yes(watch is not None)}",
        f"queue_length = {stream.records}",
        f"max_queued_length = {sender.outbox.peak}",
        f"queue_depth = {conf.queue_depth}",
        f"glibc arena (total memory) is: {resident} KiB, was: {resident} KiB",
        f"glibc uordblks (in use memory) is: {resident} KiB, was: {resident} KiB",
        "glibc fordblks (total free space) is: 0 KiB, was: 0 KiB",
        f"version = audisp {__version__}",
        f"pid = {os.getpid()}",
        f"accepted = {intake.accepted}",
        f"sent = {sender.outbox.sent}",
        f"waiting = {stream.records}",
        f"unstored = {intake.waiting}",
        f"lost = {intake.lost}",
        f"damaged = {stream.findings.lost}",
        f"withheld = {sender.ledger.withheld}",
        f"cut = {sender.ledger.cut}",
        f"oldest_age = {'none' if age is None else f'{age:.1f}'}",
        f"server = {watch.server if watch is not None else 'none'}",
        f"protocol = {(watch.protocol or 'none') if watch is not None else 'none'}",
        f"cipher = {(sender.link.cipher or 'none') if sender.link is not None else 'none'}",
        f"trouble = {watch.trouble.value if watch is not None and watch.trouble is not None else 'none'}",
        f"stopped = {_yes(sender.brake.holds and not sender.brake.suspended)}",
        f"away = {_yes(sender.away)}",
        f"attempts = {sender.attempts}",
        f"connections = {sender.connections}",
        f"spool = {stream.path}",
        f"spool_bytes = {stream.bytes}",
        f"spool_size = {conf.spool_bytes}",
        f"spool_error = {intake.error or 'none'}",
    ]
    if watch is None and sender.problem:
        text.append(f"problem = {sender.problem}")
    return text


def write(path: Path, text: list[str]) -> None:
    """Put the file in place. Raises OSError."""
    path.parent.mkdir(FOLDER_MODE, exist_ok=True)
    statefile.write(path, text, 0)
