"""The journal: what was begun, done and undone, on disk before it happens.

One entry is one line: CRC-32 in hexadecimal, a space, JSON. It is appended in one write and synced before the act. A
torn last line is cut off; a damaged one in the middle is counted and passed over, and said. When the file has grown
to MAX_BYTES, what still matters (acts that are not over, what the caps count, the breaker) is carried into a new one,
and the old one is kept once. At no moment is there no whole journal under its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from audisp.dispatch.folder import open_file, open_folder
from audisp.errors import StoreError

NAME: Final = "journal"
OLD: Final = "journal.1"
NEW: Final = "journal.new"
LOCK: Final = "lock"
MAX_BYTES: Final = 16 << 20
"""Some twenty thousand acts, and twice what a rotation can carry over (books.MAX_OPEN). Read whole at start."""
MAX_LINE: Final = 16 * 1024
"""Bytes of one entry: the longest has a rule, a reason and what was saved, and less than 4 KiB."""

Entry = dict[str, Any]


class Taken(StoreError):
    """Another reactor has this journal."""


def encode(entry: Entry) -> bytes:
    """The line of an entry. ValueError if it is too long."""
    text = json.dumps(entry, separators=(",", ":")).encode("ascii")
    line = b"%08x %b\n" % (zlib.crc32(text), text)
    if len(line) > MAX_LINE:
        raise ValueError(f"an entry of {len(line)} bytes, {MAX_LINE} at most")
    return line


def decode(data: bytes) -> tuple[list[Entry], int, int]:
    """The whole entries, how many lines are damaged, and how many bytes at the end are a torn line."""
    entries: list[Entry] = []
    damaged = 0
    torn = 0
    lines = data.split(b"\n")
    last = lines.pop()
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is not None:
            entries.append(entry)
        elif number == len(lines) and not last:
            torn = len(line) + 1  # the size came to the disk, and the bytes did not
        else:
            damaged += 1
    return entries, damaged, torn + len(last)


def _entry(line: bytes) -> Entry | None:
    if len(line) > MAX_LINE or line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:]):
        return None
    try:
        entry = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


class Journal:
    """The journal of a folder (0700, ours), open for one writer.

    entries: what it held when it was opened. damaged: lines passed over. kept: the caller's way to say, at a rotation,
    what must be carried over.
    """

    def __init__(self, path: Path, kept: Callable[[], Iterable[Entry]], *, max_bytes: int = MAX_BYTES) -> None:
        """Open or make it. StoreError if that cannot be done; Taken if somebody else has it open."""
        self.path = path
        self._kept = kept
        self._max_bytes = max_bytes
        self._folder = open_folder(path)
        self._file = -1
        self._lock = -1
        try:
            self._lock = locked(self._folder, path)
            with contextlib.suppress(FileNotFoundError):  # of a rotation that a crash cut short
                os.unlink(NEW, dir_fd=self._folder)
            self._file = self._open(NAME)
            data = _content(self._file, max_bytes * 2)
            self.entries, self.damaged, torn = decode(data)
            self._size = len(data) - torn
            if torn:
                os.ftruncate(self._file, self._size)
            os.fsync(self._file)
            os.fsync(self._folder)
        except OSError as error:
            self.close()
            raise StoreError(f"{path}/{NAME}: {error.strerror}") from error
        except StoreError:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Write the entry and sync. StoreError if it is not safely there; then nothing of it is."""
        line = encode(entry)
        if self._size + len(line) > self._max_bytes:
            self._rotate()
        try:
            done = os.write(self._file, line)
            if done != len(line):
                raise OSError(28, "No space left on device")
            os.fdatasync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise StoreError(f"{self.path}/{NAME}: {error.strerror}") from error
        self._size += len(line)

    def close(self) -> None:
        """Close it and give up the lock; all that was appended is there."""
        for fd in (self._file, self._lock, self._folder):
            if fd >= 0:
                os.close(fd)
        self._file = self._lock = self._folder = -1

    def _rotate(self) -> None:
        """Carry over what still matters. StoreError; then the old journal goes on."""
        data = b"".join(encode(entry) for entry in self._kept())
        new = -1
        try:
            new = self._open(NEW, os.O_TRUNC)
            view = memoryview(data)
            while view:
                view = view[os.write(new, view) :]
            os.fsync(new)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(OLD, dir_fd=self._folder)
            os.link(NAME, OLD, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.replace(NEW, NAME, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as error:
            if new >= 0:
                os.close(new)
            raise StoreError(f"{self.path}/{NEW}: {error.strerror}") from error
        os.close(self._file)
        self._file, self._size = new, len(data)

    def _open(self, name: str, flags: int = 0) -> int:
        # A crash between link and replace leaves the journal with its second name, which open_file would refuse.
        if name == NAME:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(NAME, dir_fd=self._folder, follow_symlinks=False).st_nlink > 1:
                    os.unlink(OLD, dir_fd=self._folder)
        return open_file(self._folder, name, os.O_RDWR | os.O_CREAT | os.O_APPEND | flags, self.path)


def locked(folder: int, where: Path) -> int:
    """Descriptor of the lock, which is held until it is closed. Taken if somebody has it, StoreError."""
    file = open_file(folder, LOCK, os.O_RDWR | os.O_CREAT, where)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise Taken(f"{where}: another reactor has this journal") from error
    return file


def look(path: Path) -> Iterator[Entry]:
    """The entries of a journal that somebody else may have open, the old file's first. StoreError."""
    folder = open_folder(path)
    try:
        for name in (OLD, NAME):
            yield from decode(_looked_at(folder, name, path))[0]
    finally:
        os.close(folder)


def _looked_at(folder: int, name: str, where: Path) -> bytes:
    """The content of a file; nothing if it is not there."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{where}/{name}: {error.strerror}") from error
    try:
        return _content(file, MAX_BYTES * 2)
    finally:
        os.close(file)


def _content(file: int, longest: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := os.pread(file, 1 << 20, size):
        parts.append(part)
        size += len(part)
        if size > longest:
            raise StoreError(f"the journal is longer than {longest} bytes, which none of ours becomes")
    return b"".join(parts)
