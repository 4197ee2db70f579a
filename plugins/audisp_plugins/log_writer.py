"""What becomes of each block of `log`: written, held back or given up, and what auditd.conf wants done about it.

All of it runs in the plugin's own thread and may block. Nothing here decides silently: a record that is not written
because logging is suspended is counted, a write that failed is offered again (`Retry`) from the record where it
stopped, and a file never ends in half a line.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from audisp.plugin import Block, Host, PluginError, Retry, log_form
from audisp_plugins.log_config import MEBIBYTE, Action, LogConfig
from audisp_plugins.log_file import LogFile
from audisp_plugins.log_flush import Flusher
from audisp_plugins.progress import Progress

SPACE_SECONDS: Final = 1.0
SPACE_BYTES: Final = MEBIBYTE
"""Free space is asked for after so many seconds or bytes, whichever comes first: one cheap call, and at a disk's
speed no more than a few MiB go by between the threshold and the action."""

ROTATE_AGAIN: Final = 10.0
"""Seconds before low space, or a rotation that failed, makes us rotate again. Each rotation can delete the oldest
file; a partition that somebody else fills must not cost the whole log within seconds."""

CLOSE_TIME: Final = 5.0
"""Seconds that closing waits for the disk; after that the data are the kernel's to write."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class LogWriter:
    """Writes blocks to one log. deliver, rotate, resume and close: one at a time. state: from any thread."""

    def __init__(
        self, config: LogConfig, host: Host, file: LogFile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """file: its folder is open. Raises PluginError or OSError if it cannot be opened."""
        self._config, self._host, self._file, self._clock = config, host, file, clock
        self._progress = Progress()
        self._guard = threading.Lock()
        self._suspended: str | None = None
        self._limit = config.max_log_file * MEBIBYTE
        self._due = 0
        self._space_bytes = 0
        self._space_time = 0.0
        self._rotate_after = self._space_rotate_after = clock()
        self._closed = False
        self._done: set[str] = set()
        self._occurred: set[str] = set()
        self._free = 0
        file.open()
        action = config.max_log_file_action.name
        file.mend_rotated()
        if action == "rotate" and config.num_logs >= 2 and (removed := file.tidy(config.num_logs)):
            host.say("notice", f"{file.path}: {removed} files beyond num_logs = {config.num_logs} were removed")
        self._thresholds = self._measure()
        self._flusher = Flusher() if config.flush == "incremental_async" else None

    def deliver(self, block: Block) -> None:
        """Write the block. Raises Retry if the disk did not take all of it."""
        with self._guard:
            if self._closed:
                raise Retry(f"{self._file.path} is closed")
            data = log_form(block.data)
            try:
                self._write(data)
            except Retry:
                self._check_space(force=True)
                raise
            self._after_write(data.count(b"\n"), len(data))

    def rotate(self) -> None:
        """SIGUSR1: begin a new file now."""
        with self._guard:
            if self._suspended is not None:
                self._host.say("warning", f"{self._file.path}: not rotated, logging is suspended ({self._suspended})")
            elif self._keep() == 0:
                self._host.say("notice", f"{self._file.path}: not rotated, num_logs is {self._config.num_logs}")
            else:
                self._rotate("asked for")

    def resume(self) -> None:
        """SIGUSR2: write again, to whatever file the name stands for now; every warning may be given again."""
        with self._guard:
            if self._suspended is not None:
                self._host.say("notice", f"{self._file.path}: logging resumed, it was suspended: {self._suspended}")
            self._suspended = None
            self._done.clear()
            self._occurred.clear()
            self._rotate_after = self._space_rotate_after = self._clock()
            self._reopen()

    def close(self) -> None:
        """Sync what `flush` promises and close. Gives up, and leaves the file open, if a write is stuck."""
        if not self._guard.acquire(timeout=CLOSE_TIME):
            return
        self._closed = True
        try:
            if self._file.fd >= 0 and self._config.flush != "none":
                self._sync()
            if self._flusher is not None:
                self._flusher.stop(CLOSE_TIME)
            self._file.close()
        finally:
            self._guard.release()

    def state(self) -> dict[str, str]:
        """The lines of auditd's state file that concern the log (upstream.md 2.6)."""
        space, admin = self._thresholds
        return {
            "current log size": f"{self._file.size // 1024} KiB",
            "max log size": f"{self._limit // 1024} KiB",
            "logs detected last rotate/shift": str(self._file.rotated),
            "space left on partition": _yes("full" not in self._occurred),
            "Logging partition free space": f"{self._free // MEBIBYTE} MiB",
            "space_left setting": f"{space // MEBIBYTE} MiB",
            "admin_space_left setting": f"{admin // MEBIBYTE} MiB",
            "logging suspended": _yes(self._suspended is not None),
            "file system space action performed": _yes("space_left" in self._occurred),
            "admin space action performed": _yes("admin_space_left" in self._occurred),
            "disk error detected": _yes("error" in self._occurred),
        }

    # Writing.

    def _write(self, data: bytes) -> None:
        done = self._progress.resume(data)
        view = memoryview(data)
        rotated_for_room = False
        while done < len(data):
            if self._suspended is not None:
                self._host.count("suspended_records", data.count(b"\n", done))
                return
            error = self._open_again()
            if error is None:
                kept, error = self._file.append(view[done : self._piece(data, done)])
                done += kept
            if error is None:
                self._done -= {"full", "error"}
                self._occurred.discard("full")
                self._check_size()
                continue
            if self._failed(error, may_rotate=not rotated_for_room):
                rotated_for_room = True
                continue
            if self._suspended is None:
                self._progress.keep(data, done)
                raise Retry(f"{self._file.path}: {error.strerror}") from error

    def _piece(self, data: bytes, start: int) -> int:
        # End of what goes into this file: as auditd, which looks at the size after each record, we let the record
        # that reaches the limit in and no other.
        if not self._limit or not self._cuts() or self._clock() < self._rotate_after:
            return len(data)
        room = max(self._limit - self._file.size, 1)
        if start + room > len(data):
            return len(data)
        return data.index(b"\n", start + room - 1) + 1

    def _cuts(self) -> bool:
        # Whether reaching max_log_file ends the file, or at least the writing.
        name = self._config.max_log_file_action.name
        return name in ("suspend", "exec") or (name in ("rotate", "keep_logs") and self._keep() != 0)

    def _open_again(self) -> OSError | None:
        # After a rotation that could not make the new file.
        if self._file.fd >= 0:
            return None
        try:
            self._file.open()
        except OSError as error:
            return error
        except PluginError as error:
            return OSError(errno.EPERM, str(error))
        return None

    def _failed(self, error: OSError, *, may_rotate: bool) -> bool:
        """Do what the configuration says about a failed write. True: worth another try at once."""
        full = error.errno in _FULL
        self._host.count("write_errors")
        self._occurred.add("full" if full else "error")
        if full:
            action, key = self._config.disk_full_action, "full"
            message = f"audispd: the disk that holds {self._file.path} is full"
        else:
            action, key = self._config.disk_error_action, "error"
            message = f"audispd: {self._file.path} cannot be written: {error.strerror}"
        if action.name == "rotate":
            return may_rotate and self._rotate_for_space(message)
        if key not in self._done:
            self._done.add(key)
            self._act(action, message)
        return False

    # Size.

    def _keep(self) -> int | None:
        """Files that a rotation leaves; None: all; 0: there is no rotation."""
        if self._config.max_log_file_action.name == "keep_logs":
            return None
        return self._config.num_logs if self._config.num_logs >= 2 else 0

    def _check_size(self) -> None:
        if not self._limit or self._file.size < self._limit:
            return
        action = self._config.max_log_file_action
        message = f"audispd: {self._file.path} has reached max_log_file, {self._config.max_log_file} MiB"
        if action.name in ("rotate", "keep_logs"):
            if self._cuts() and self._clock() >= self._rotate_after:
                self._rotate(message)
        elif "size" not in self._done:
            self._done.add("size")
            self._act(action, message)

    def _rotate_for_space(self, why: str) -> bool:
        # It helps only by deleting the oldest file, so there must be a number of files to keep.
        if not self._keep() or self._clock() < self._space_rotate_after:
            return False
        self._space_rotate_after = self._clock() + ROTATE_AGAIN
        self._host.say("warning", why)
        return self._rotate(why)

    def _rotate(self, why: str) -> bool:
        """Rotate, and say so if it fails. True if a new file is open."""
        if self._file.fd < 0:
            return False
        keep = self._keep()
        try:
            old = self._file.rotate(keep)
        except (OSError, PluginError) as error:
            self._rotate_after = self._clock() + ROTATE_AGAIN
            self._host.count("rotate_errors")
            self._host.say("error", f"{self._file.path}: cannot be rotated ({why}): {error}")
            return False
        self._host.count("rotations")
        self._done.discard("size")
        if self._flusher is not None:
            self._flusher.retire(old)
        else:
            try:
                if self._config.flush != "none":
                    os.fsync(old)
                    os.fsync(self._file.folder_fd)
            except OSError as error:
                self._failed(error, may_rotate=False)
            finally:
                os.close(old)
        return True

    # Durability and space.

    def _after_write(self, records: int, size: int) -> None:
        self._space_bytes += size
        if self._file.fd >= 0 and records:
            if self._config.flush in ("data", "sync"):
                self._sync()
            elif self._config.flush != "none":
                self._due += records
                if self._due >= self._config.freq:
                    self._due = 0
                    if self._flusher is None:
                        self._sync()
                    else:
                        self._flusher.request(self._file.fd)
        if self._flusher is not None and (error := self._flusher.failure()) is not None:
            self._sync_failed(error)
        self._check_space()

    def _sync(self) -> None:
        try:
            if self._config.flush == "sync":
                os.fsync(self._file.fd)
            else:
                os.fdatasync(self._file.fd)
        except OSError as error:
            self._sync_failed(error)

    def _sync_failed(self, error: OSError) -> None:
        # Not offered again: the records are in the file, and the kernel has already given up on the pages that the
        # disk refused, so that a second sync would only claim success.
        self._host.count("sync_errors")
        self._failed(error, may_rotate=False)

    def _measure(self) -> tuple[int, int]:
        # space_left and admin_space_left in bytes; a share is taken once, as auditd does.
        try:
            self._free, total = self._file.space()
        except OSError:
            total = 0
        limits = [
            amount * MEBIBYTE if unit == "MiB" else total * amount // 100
            for amount, unit in (self._config.space_left, self._config.admin_space_left)
        ]
        return limits[0], limits[1]

    def _check_space(self, *, force: bool = False) -> None:
        now = self._clock()
        if not force and self._space_bytes < SPACE_BYTES and now - self._space_time < SPACE_SECONDS:
            return
        self._space_bytes, self._space_time = 0, now
        if self._suspended is not None or self._file.fd < 0:
            return
        try:
            if self._file.unlinked():
                self._host.say("error", f"{self._file.path} was removed by somebody; a new one is begun")
                self._host.count("removed_under_us")
                self._reopen()
            self._free, _ = self._file.space()
        except OSError as error:
            self._host.say("warning", f"{self._file.path}: free space is not known: {error.strerror}")
            return
        for key, limit, action in (
            ("space_left", self._thresholds[0], self._config.space_left_action),
            ("admin_space_left", self._thresholds[1], self._config.admin_space_left_action),
        ):
            self._judge_space(key, limit, action)

    def _judge_space(self, key: str, limit: int, action: Action) -> None:
        if self._free >= limit:
            self._done.discard(key)
            self._occurred.discard(key)
            return
        self._occurred.add(key)
        message = (
            f"audispd: low on disk space: {self._free // MEBIBYTE} MiB free for {self._file.path}, "
            f"{key} is {limit // MEBIBYTE} MiB"
        )
        if action.name == "rotate":
            self._rotate_for_space(message)
        elif key not in self._done and self._suspended is None:
            self._done.add(key)
            self._act(action, message)

    # Actions.

    def _act(self, action: Action, message: str) -> None:
        if action.name == "ignore":
            self._host.say("error", message)
            return
        if action.name == "suspend":
            self._suspend(message)
            return
        if action.name == "exec":
            # The program may move or pack the log, so it must not be written; SIGUSR2 resumes, as with auditd.
            self._suspend(f"{message}; {action.program} was started and must resume it")
            self._host.act("exec", message, str(action.program))
            return
        self._host.act(action.name, message)

    def _suspend(self, message: str) -> None:
        self._suspended = message
        self._file.close()
        self._host.say("critical", f"{message}; logging is suspended until SIGUSR2")

    def _reopen(self) -> None:
        self._file.close()
        try:
            self._file.open_folder()
            self._file.open()
        except (OSError, PluginError) as error:
            self._host.say("error", f"{self._file.path}: cannot be opened: {error}")
        self._thresholds = self._measure()


def _yes(value: bool) -> str:
    return "yes" if value else "no"
