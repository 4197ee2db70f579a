"""The file in which the process table outlives us: written whole or not at all, read with suspicion."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from audisp.errors import StoreError
from audisp.parse.process_dump import MAX_DUMP

NAME: Final = "processes"
"""Name of the file in `state_dir`."""
MODE: Final = 0o600
"""It holds command lines, and these hold passwords."""
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """What tells one start of this system from another (random(4)); "" if the system does not say."""
    try:
        with open(BOOT_ID, encoding="ascii", errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def save(path: Path, data: bytes) -> None:
    """Put the file in place, whole. Raises StoreError.

    It is not made durable: after a crash of the system its processes are gone anyway.
    """
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(new, path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
    except OSError as problem:
        raise StoreError(f"{path}: the process table cannot be kept: {problem.strerror}") from problem


def load(path: Path) -> bytes | None:
    """The file's content; None if there is none. Raises StoreError for one that is not to be trusted, or too large."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise StoreError(f"{path}: the kept process table cannot be read: {problem.strerror}") from problem
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise StoreError(f"{path}: the kept process table is not a file that only root or we can write")
        if found.st_size > MAX_DUMP:
            raise StoreError(f"{path}: the kept process table has {found.st_size} bytes, {MAX_DUMP} at most")
        try:
            return file.read(MAX_DUMP)
        except OSError as problem:
            raise StoreError(f"{path}: the kept process table cannot be read: {problem.strerror}") from problem
