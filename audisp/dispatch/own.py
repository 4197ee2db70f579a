"""How much of a stream that we do not own is about ourselves: the kernel exempts only the audit daemon from audit.

Counted in SYSCALL records whose pid= is ours or a child's. A rule that catches our own reads feeds itself: each record
read makes another one.
"""

from __future__ import annotations

import os
import re
from collections import deque
from typing import Final

import attrs

from audisp.dispatch.runner import Say
from audisp.record import Block

WINDOW: Final = 10
"""Ticks (seconds) over which the share is judged."""
FEWEST: Final = 100
"""Fewer SYSCALL records than this in a window make no warning: a share of nearly nothing says nothing."""


@attrs.define(eq=False)
class OwnActivity:
    """warn_percent 0: counted and shown, never warned about."""

    say: Say
    warn_percent: int
    total: int = 0
    ours: int = 0
    _needle: re.Pattern[bytes] = attrs.field(init=False)
    _pids: tuple[int, ...] = ()
    _seen: deque[tuple[int, int]] = attrs.field(factory=lambda: deque(maxlen=WINDOW + 1))
    _warned: bool = False

    def __attrs_post_init__(self) -> None:
        self.watch([])

    def watch(self, children: list[int]) -> None:
        """These children's activity counts as ours, beside our own."""
        pids = (os.getpid(), *sorted(children))
        if pids != self._pids:
            self._pids = pids
            self._needle = re.compile(rb" pid=(?:%b) auid=" % b"|".join(b"%d" % pid for pid in pids))

    def see(self, block: Block) -> None:
        """Count one block. Called by the thread that routes it."""
        calls = block.data.count(b"type=SYSCALL ")
        if calls:
            self.total += calls
            self.ours += len(self._needle.findall(block.data))

    def share(self) -> float:
        """Percent of the latest window."""
        if not self._seen:
            return 0.0
        total = self.total - self._seen[0][0]
        return 100.0 * (self.ours - self._seen[0][1]) / total if total else 0.0

    def tick(self) -> None:
        """Once a second: judge the window."""
        self._seen.append((self.total, self.ours))
        share = self.share()
        loud = (
            self.warn_percent > 0
            and len(self._seen) > WINDOW
            and self.total - self._seen[0][0] >= FEWEST
            and share > self.warn_percent
        )
        if loud and not self._warned:
            pid = os.getpid()
            self.say(
                "warning",
                f"{share:.0f} % of the audited system calls of the last {WINDOW} s are our own or our plugins'. "
                f"Exempt us: auditctl -A never,exit -F pid={pid}; our plugins: auditctl -A never,exit -F ppid={pid}",
            )
        self._warned = loud
