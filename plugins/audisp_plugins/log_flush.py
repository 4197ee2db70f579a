"""`flush = incremental_async`: the disk is asked to keep what it has, and nobody waits for its answer."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Final

MAX_OLD: Final = 4
"""Rotated files that may wait to be synced. A disk that is slower than that holds the writer, so that descriptors
and unwritten pages stay bounded."""


class Flusher:
    """A thread that calls fdatasync. Requests that come while it is at work become one more call."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._wanted = -1
        self._old: deque[int] = deque()
        self._stop = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="audisp log flush", daemon=True)
        self._thread.start()

    def request(self, fd: int) -> None:
        """Sync the file behind `fd` soon. The descriptor is duplicated, so the caller may close its own."""
        with self._wake:
            if self._wanted < 0:
                self._wanted = os.dup(fd)
                self._wake.notify()

    def retire(self, fd: int) -> None:
        """Sync a rotated file, then close it. Waits while MAX_OLD of them wait already."""
        with self._wake:
            self._wake.wait_for(lambda: len(self._old) < MAX_OLD or self._stop)
            self._old.append(fd)
            if self._wanted >= 0:
                # It belongs to the file that was just rotated, which is synced whole.
                os.close(self._wanted)
                self._wanted = -1
            self._wake.notify_all()

    def failure(self) -> OSError | None:
        """The error of a sync since the last call, None if there was none."""
        with self._wake:
            error, self._error = self._error, None
            return error

    def stop(self, timeout: float) -> bool:
        """Sync what was asked for and end. False if the disk did not answer within `timeout` seconds."""
        with self._wake:
            self._stop = True
            self._wake.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._wanted >= 0 or self._old or self._stop)
                retired = bool(self._old)
                if self._old:
                    fd = self._old[0]
                elif self._wanted >= 0:
                    fd, self._wanted = self._wanted, -1
                else:
                    return
            try:
                os.fdatasync(fd)
            except OSError as error:
                with self._wake:
                    self._error = error
            finally:
                os.close(fd)
                if retired:
                    with self._wake:
                        self._old.popleft()
                        self._wake.notify_all()
