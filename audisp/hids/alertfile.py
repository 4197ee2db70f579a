"""The file of alerts: one JSON object a line, appended, synced, turned over by size. And reading it again.

All names are below one folder, which is the plugin's own (`Host.state_dir`): nobody but it and root can put anything
there. A line that a crash, or a full disk, has cut is ended before the next one, and read over. A file that somebody
moved or removed is not written to any more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

NAME: Final = "alerts.json"
MODE: Final = 0o600
KEEP: Final = 8
"""Older files that are kept, `alerts.json.1` the youngest."""
MAX_LINE: Final = 4 << 20
"""Bytes of a line that is read again: an alert has MAX_RECORDS of records, each byte of which JSON may write in six,
and a chain of processes, each bounded."""
_NUMBER: Final = re.compile(rb'\{"alert": ([0-9]{1,15})[,}]')
"""How the line of an alert begins."""


class AlertFile:
    """Not thread-safe. size: bytes at which a new file is begun; with KEEP older ones that bounds the disk."""

    def __init__(self, folder: str, size: int) -> None:
        self._folder = folder
        self._size = size
        self._file = -1
        self._used = 0

    def write(self, objects: Iterable[dict[str, Any]]) -> None:
        """Append, and return when they are on disk. OSError: none, or a part, is."""
        data = b"".join([json.dumps(each).encode() + b"\n" for each in objects])
        if self._file >= 0 and not self._is_there():
            self.close()
        if self._file >= 0 and self._used + len(data) > self._size and self._used:
            self._turn()
        if self._file < 0:
            self._open()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            # What there is of it stays, and is no line until a line end follows: the next writer begins with one.
            self.close()
            raise
        self._used += len(data)

    def close(self) -> None:
        """Close the file; the next `write` opens it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def last_number(self) -> int:
        """Number of the last alert written, 0 if there is none."""
        best = 0
        for name in (NAME, f"{NAME}.1"):
            try:
                with open(f"{self._folder}/{name}", "rb") as file:
                    while line := file.readline(MAX_LINE):
                        found = _NUMBER.match(line)
                        if found is not None:
                            best = max(best, int(found[1]))
            except OSError:
                continue
        return best

    def _is_there(self) -> bool:
        """Whether the file that is open still has its name."""
        try:
            return os.stat(f"{self._folder}/{NAME}").st_ino == os.fstat(self._file).st_ino
        except OSError:
            return False

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(f"{self._folder}/{NAME}", flags, MODE)
        self._used = os.fstat(self._file).st_size
        if self._used and os.pread(self._file, 1, self._used - 1) != b"\n":
            self._used += os.write(self._file, b"\n")

    def _turn(self) -> None:
        self.close()
        for number in range(KEEP - 1, 0, -1):
            try:
                os.rename(f"{self._folder}/{NAME}.{number}", f"{self._folder}/{NAME}.{number + 1}")
            except FileNotFoundError:
                continue
        os.rename(f"{self._folder}/{NAME}", f"{self._folder}/{NAME}.1")


def read(folder: Path, *, wait: Callable[[], None] | None = None) -> Iterator[dict[str, Any]]:
    """All objects of a folder, the oldest first. wait: called when there are no more; then it goes on with what comes,
    also in the file that takes the last one's place. Raises OSError; FileNotFoundError if there is no file at all."""
    with contextlib.ExitStack() as held:
        # All are opened before any is read, the youngest first: one that is turned over meanwhile is met again by its
        # next name, and never missed.
        found: dict[int, BinaryIO] = {}
        for number in range(KEEP + 1):
            with contextlib.suppress(FileNotFoundError):
                opened = held.enter_context((folder / (f"{NAME}.{number}" if number else NAME)).open("rb"))
                found.setdefault(os.fstat(opened.fileno()).st_ino, opened)
        if not found:
            raise FileNotFoundError(errno.ENOENT, "there are no alerts", str(folder / NAME))
        files = [*reversed(found.values())]
        for file in files:
            yield from _objects(file)
        while wait is not None:
            wait()
            yield from _objects(files[-1])
            with contextlib.suppress(FileNotFoundError):
                newest = (folder / NAME).open("rb")
                if os.path.sameopenfile(newest.fileno(), files[-1].fileno()):
                    newest.close()
                else:
                    yield from _objects(files[-1])
                    files.append(held.enter_context(newest))
                    files.pop(0).close()


def _objects(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Of what is left of a file. A line without an end is left for the next time."""
    while line := file.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            file.seek(-len(line), os.SEEK_CUR)
            return
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
