"""The file of alerts: one JSON object a line, appended, synced, turned over by size. And reading it again.

All names are below one folder's descriptor or path, which is the plugin's own (`Host.state_dir`): nobody else can put
anything there. A line that a crash has cut is ended by the next one's beginning, and read over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

NAME: Final = "alerts.json"
MODE: Final = 0o600
KEEP: Final = 8
"""Older files that are kept, `alerts.json.1` the youngest."""
MAX_LINE: Final = 1 << 20
"""Bytes of a line that is read again: an alert has MAX_RECORDS of records, and a chain of processes, each bounded."""


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
                for each in _lines(Path(self._folder) / name):
                    number = each.get("alert")
                    if type(number) is int:
                        best = max(best, number)
            except OSError:
                continue
            if best:
                break
        return best

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


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """All objects of a folder, the oldest first. Raises OSError; FileNotFoundError if there is no file at all."""
    found = False
    for number in range(KEEP, -1, -1):
        try:
            for each in _lines(folder / (f"{NAME}.{number}" if number else NAME)):
                found = True
                yield each
            found = True
        except FileNotFoundError:
            continue
    if not found:
        raise FileNotFoundError(2, "there are no alerts", str(folder / NAME))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found
