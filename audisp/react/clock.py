"""This moment, by the clocks that count."""

from __future__ import annotations

import time
from pathlib import Path

from audisp.react.books import Now


def boot_id() -> str:
    """Which boot this is. Raises OSError."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class Clock:
    """Call it for the moment."""

    def __init__(self) -> None:
        self._boot_id = boot_id()

    def __call__(self) -> Now:
        return Now(wall=time.time(), boot=time.clock_gettime(time.CLOCK_BOOTTIME), boot_id=self._boot_id)
