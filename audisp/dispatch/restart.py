"""When a plugin that ended is started again: with back-off, and at most so often; both decay while it runs well."""

from __future__ import annotations

from typing import Final

import attrs

DELAY_FACTOR: Final = 2.0
"""Each start that fails soon doubles the wait before the next."""

FORGIVE_AFTER: Final = 60.0
"""Seconds of running for which one counted restart is forgiven: a plugin that dies once a day is never given up, one
that dies ten times in a minute is."""


@attrs.define
class Restarts:
    """max_restarts as auditd.conf has it, delays in seconds."""

    max_restarts: int
    delay: float
    delay_max: float
    total: int = 0
    """Restarts ever, for status."""
    counted: float = 0.0
    _next: float = attrs.field(init=False, default=0.0)

    def ran(self, seconds: float) -> None:
        """The plugin ended after it ran this long."""
        self.counted = max(0.0, self.counted - seconds / FORGIVE_AFTER)
        if seconds >= FORGIVE_AFTER:
            self._next = 0.0

    def next_delay(self) -> float | None:
        """Count a restart: seconds to wait before it, or None if the plugin is to be given up."""
        if self.counted > self.max_restarts - 1:
            # Not >= max_restarts: the little that is forgiven after a short run would allow one more.
            return None
        self.counted += 1
        self.total += 1
        delay = self._next
        self._next = min(max(self.delay, delay * DELAY_FACTOR), self.delay_max)
        return delay

    def try_on(self) -> float:
        """Beyond the limit, for a plugin that must not be given up: count a restart, seconds to wait before it."""
        self.total += 1
        return self.delay_max
