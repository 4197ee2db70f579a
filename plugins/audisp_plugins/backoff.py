"""When a peer that is away is tried again: later each time, and not by all hosts in the same moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

FIRST: Final = 0.2
"""Seconds before the second attempt. A service that is restarted is back in less than a second."""

MOST: Final = 30.0
"""Seconds between two attempts at most: how late we may find out that a peer is back."""

SPREAD: Final = 0.25
"""Each delay is up to this share shorter or longer, by chance: who comes back must not meet a whole fleet at once."""


class Backoff:
    """Doubles the delay with every failure. Not for two threads at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._delay = 0.0
        self._until = 0.0

    def left(self) -> float:
        """Seconds until the next attempt; 0: now."""
        return max(0.0, self._until - self._clock())

    def failed(self) -> None:
        """The attempt failed, or what it had made broke."""
        self._delay = min(self._delay * 2, MOST) if self._delay else FIRST
        self._until = self._clock() + self._delay * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - no secret

    def worked(self) -> None:
        """The peer has taken something; the next failure is a first one."""
        self._delay = self._until = 0.0
