"""What we ourselves and our children cause, which is no attack: the dispatcher, its plugins, the reactor and whatever
these start. usermod locking an account because of an alert must not be the next alert.

Told by ancestry alone: a process is ours if the dispatcher is above it, as the table of processes has it (the very
process, by its start), or, where nothing is known of it, if the dispatcher is its parent. Never by a name or a key,
which anybody could have.
"""

from __future__ import annotations

import os
from typing import Final

from audisp.detect.parents import Known
from audisp.enrich.facts import Enrichment
from audisp.event import Event

FIELD_22: Final = 19
"""Start time among the fields behind the last parenthesis of /proc/PID/stat (proc(5))."""
STAT_BYTES: Final = 4_096
"""Of that file: numbers, and a name of 64 characters at most."""


class Ours:
    """dispatcher: its pid. start: in ticks since boot; None if it cannot be read, and then the pid alone counts."""

    def __init__(self, dispatcher: int, start: int | None) -> None:
        self._pid = dispatcher
        self._start = start

    def caused(self, event: Event) -> bool:
        """Whether a process of ours did it. For live events of this host alone."""
        context = event.context
        if isinstance(context, Enrichment) and context.process is not None:
            for each in (context.process, *context.parents):
                if each.pid == self._pid and (self._start is None or each.ticks in (None, self._start)):
                    return True
            if context.parents_end == "root":
                return False
        return self._pid in (event.integer("ppid"), event.integer("pid"))


def parent_of(event: Event) -> Known | None:
    """Who started the process, as the host's own table of processes has it: also a service that was there before the
    first record. None if it does not know; then the stream may."""
    context = event.context
    if not isinstance(context, Enrichment) or not context.parents:
        return None
    parent = context.parents[0]
    if parent.exe is None and parent.argv is None:
        return None
    line = None if parent.argv is None else " ".join(parent.argv).encode("utf-8", "surrogateescape")
    return Known(None if parent.exe is None else parent.exe.encode("utf-8", "surrogateescape"), line)


def above() -> Ours:
    """For an isolated plugin: the dispatcher is its parent."""
    pid = os.getppid()
    return Ours(pid, started(pid))


def started(pid: int, proc: str = "/proc") -> int | None:
    """When a process started, in ticks since boot; None if there is none, or it cannot be seen."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            stat = file.read(STAT_BYTES)
        # The name in the second field may hold anything; the fields behind it begin after its last parenthesis.
        return int(stat[stat.rindex(b")") + 1 :].split()[FIELD_22])
    except (OSError, ValueError, IndexError):
        return None
