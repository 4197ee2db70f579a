"""What becomes of each block of `output` with `file =`: written whole, or offered again from the line where it stopped.

All of it runs in the plugin's own thread and may block. The file never ends in half a line, no file is larger than
`max_size` but one whose only line is, and what is wrong is said once until it is right again.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from audisp.plugin import Block, Host, PluginError, Retry
from audisp_plugins.output_compress import Compression
from audisp_plugins.output_config import OutputConfig
from audisp_plugins.output_file import OutputFile
from audisp_plugins.output_sync import IntervalSync
from audisp_plugins.progress import Progress

ROTATE_AGAIN: Final = 10.0
"""Seconds before a rotation that failed is tried again; meanwhile the file grows."""

LOOK: Final = 1.0
"""Seconds between two looks whether the file still has a name."""

CLOSE_TIME: Final = 1.5
"""Seconds that closing waits for a write that is stuck. With the threads' own times less than what the host grants."""


class FileTarget:
    """Writes blocks to one file. deliver, rotate and close: one at a time. state: from any thread."""

    def __init__(
        self, config: OutputConfig, host: Host, file: OutputFile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """file: its folder is open. Raises PluginError or OSError if it cannot be opened."""
        self._config, self._host, self._file, self._clock = config, host, file, clock
        self._progress = Progress()
        self._guard = threading.Lock()
        self._closed = False
        self._problem: str | None = None
        self._rotate_after = self._look_after = clock()
        file.open()
        if config.flush != "none":
            os.fsync(file.folder_fd)  # it may be a new name
        if config.keep and (removed := file.tidy(config.keep + 1)):
            host.say("notice", f"{file.path}: {removed} old files beyond keep = {config.keep} were removed")
        self._sync = IntervalSync(config.freq) if config.flush == "interval" else None
        self._compression = Compression(file, config.keep, config.compress, host) if config.compress != "no" else None

    def deliver(self, block: Block) -> None:
        """Write all lines. Raises Retry if the disk did not take them."""
        with self._guard:
            if self._closed:
                raise Retry(f"{self._file.path} is closed")
            data = block.data
            view = memoryview(data)
            done = self._progress.resume(data)
            while done < len(data):
                end = done
                error = self._look() or self._begin()
                if error is None:
                    end = self._piece(data, done)
                    error = self._begin()  # a rotation may have left us without a file
                if error is None:
                    kept, error = self._file.append(view[done:end])
                    done += kept
                if error is not None:
                    self._progress.keep(data, done)
                    raise self._failed(error) from error
            self._after()

    def rotate(self) -> None:
        """SIGUSR1: begin a new file now; with keep = 0 open what has the name now."""
        with self._guard:
            if self._config.keep:
                if self._file.fd >= 0:
                    self._rotate("asked for")
            else:
                self._reopen()

    def resume(self) -> None:
        """SIGUSR2: open what has the file's name now."""
        with self._guard:
            self._reopen()

    def close(self) -> None:
        """Sync what `flush` promises and close. Gives up, and leaves the file open, if a write is stuck."""
        if not self._guard.acquire(timeout=CLOSE_TIME):
            return
        self._closed = True
        try:
            if self._sync is not None:
                self._sync.stop()
            if self._compression is not None:
                self._compression.stop()
            self._file.close()
        finally:
            self._guard.release()

    def state(self) -> dict[str, str]:
        """Lines for status."""
        return {
            "file": f"{self._file.size} bytes" if self._problem is None else self._problem,
            "old files": str(self._file.rotated),
        }

    # Writing.

    def _begin(self) -> OSError | None:
        """Open the file if a rotation or a reopening could not."""
        if self._file.fd >= 0:
            return None
        return self._try(self._file.reopen)

    def _look(self) -> OSError | None:
        """Whether somebody has removed the file: what is written to it then is gone when it is closed."""
        now = self._clock()
        if now < self._look_after or self._file.fd < 0:
            return None
        self._look_after = now + LOOK
        if not self._file.unlinked():
            return None
        self._host.count("removed_under_us")
        self._host.say("error", f"{self._file.path} was removed by somebody; a new one is begun")
        return self._try(self._file.reopen)

    def _try(self, open_: Callable[[], None]) -> OSError | None:
        try:
            open_()
        except OSError as error:
            return error
        except PluginError as error:
            return OSError(errno.EPERM, str(error))
        return None

    def _piece(self, data: bytes, start: int) -> int:
        """Where what goes into this file ends. Rotates first if not even the next line does."""
        limit = self._config.max_size
        if limit is None or self._clock() < self._rotate_after:
            return len(data)
        first = data.find(b"\n", start) + 1 or len(data)
        if self._file.size and self._file.size + first - start > limit and not self._rotate("has reached max_size"):
            return len(data)
        room = max(limit - self._file.size, first - start)
        if len(data) - start <= room:
            return len(data)
        return data.rfind(b"\n", start, start + room) + 1 or first

    def _failed(self, error: OSError) -> Retry:
        self._host.count("write_errors")
        text = error.strerror or str(error)
        if text != self._problem:
            self._problem = text
            self._host.say("error", f"{self._file.path}: cannot be written: {text}; records wait")
        return Retry(f"{self._file.path}: {text}")

    def _after(self) -> None:
        if self._problem is not None:
            self._problem = None
            self._host.say("notice", f"{self._file.path}: is written again")
        if self._config.flush == "always":
            self._synced(self._file.fd)
        elif self._sync is not None:
            self._sync.written(self._file.fd)
            if (error := self._sync.failure()) is not None:
                self._sync_failed(error)

    def _synced(self, fd: int) -> None:
        try:
            os.fdatasync(fd)
        except OSError as error:
            self._sync_failed(error)

    def _sync_failed(self, error: OSError) -> None:
        # Not offered again: the lines are in the file, and the kernel has given up on the pages that the disk refused,
        # so that a second sync would only claim success.
        self._host.count("sync_errors")
        self._host.say("error", f"{self._file.path}: the disk did not keep what was written: {error.strerror}")

    def _rotate(self, why: str) -> bool:
        """Rotate, and say so if it fails. True if a new file is open."""
        try:
            old = self._file.rotate(self._config.keep + 1)
        except (OSError, PluginError) as error:
            self._rotate_after = self._clock() + ROTATE_AGAIN
            self._host.count("rotate_errors")
            self._host.say("error", f"{self._file.path}: {why}, and cannot be rotated: {error}")
            return False
        self._host.count("rotations")
        try:
            if self._config.flush != "none":
                if self._sync is not None:
                    self._sync.forget()
                self._synced(old)
                os.fsync(self._file.folder_fd)
        except OSError as error:
            self._sync_failed(error)
        finally:
            os.close(old)
        if self._compression is not None:
            self._compression.wake()
        return True

    def _reopen(self) -> None:
        self._rotate_after = self._clock()
        error = self._try(self._file.reopen)
        if error is not None:
            self._host.say("error", f"{self._file.path}: cannot be opened: {error.strerror}")
