"""`flush = interval`: the disk is asked to keep what it has every so many seconds, in a thread that may wait for it."""

from __future__ import annotations

import os
import threading
from typing import Final

STOP_TIME: Final = 1.5
"""Seconds that closing waits for the last sync; after that the data are the kernel's to write."""


class IntervalSync:
    """A thread that calls fdatasync at most every `seconds`, and only if something was written."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._wake = threading.Condition()
        self._fd = -1
        self._stop = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="audisp output sync", daemon=True)
        self._thread.start()

    def written(self, fd: int) -> None:
        """Something was written to `fd`, which is duplicated: the caller may close its own."""
        with self._wake:
            if self._fd < 0:
                self._fd = os.dup(fd)
                self._wake.notify()

    def forget(self) -> None:
        """The file was synced by somebody else, and another one begins."""
        with self._wake:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def failure(self) -> OSError | None:
        """The error of a sync since the last call, None if there was none."""
        with self._wake:
            error, self._error = self._error, None
            return error

    def stop(self) -> None:
        """Sync what was written and end."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(STOP_TIME)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._fd >= 0 or self._stop)
                self._wake.wait_for(lambda: self._stop, self._seconds)
                fd, self._fd = self._fd, -1
                stop = self._stop
            if fd >= 0:
                try:
                    os.fdatasync(fd)
                except OSError as error:
                    with self._wake:
                        self._error = error
                finally:
                    os.close(fd)
            if stop:
                return
