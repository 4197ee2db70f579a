"""A private folder and the files in it, opened so that nobody else can have a hand in them.

Everything goes through the folder's descriptor: once that is open, swapping a part of the path changes nothing. What
is refused: a symlink, a folder or file of another owner, a folder others may enter, a file with a second name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from audisp.errors import StoreError

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

MAX_ASIDE_NAMES: Final = 1000
"""Files kept aside under one name: `max_bytes` bounds their bytes, this the inodes that empty ones would take."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+~-]{0,249}")


def open_folder(path: Path | str) -> int:
    """Descriptor of the folder, which is made with mode 0700 if it is missing (not its parents). The caller closes.

    StoreError if it cannot be made, is a symlink, is not ours, or is open to others.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, FOLDER_MODE)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.islink(path):
            raise StoreError(f"{path}: is a symbolic link, a folder is needed") from error
        raise StoreError(f"{path}: {error.strerror}") from error
    status = os.fstat(folder)
    wrong = ""
    if status.st_uid != os.geteuid():
        wrong = f"belongs to uid {status.st_uid}, not to ours ({os.geteuid()})"
    elif status.st_mode & 0o077:
        wrong = f"has mode {stat.S_IMODE(status.st_mode):04o}, so that others may enter; chmod 0700 it"
    if wrong:
        os.close(folder)
        raise StoreError(f"{path}: {wrong}")
    return folder


def make_folder(path: Path) -> None:
    """See that the folder is there, with its parents, mode 0700 if it is new. StoreError if it cannot be made, or
    others may write to it."""
    try:
        path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot make the folder: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise StoreError(f"{path}: must be a folder of root's or ours that nobody else may write to")


def open_file(folder: int, name: str, flags: int, where: Path | str) -> int:
    """Descriptor of a regular file in the folder; made with mode 0600 if `flags` has O_CREAT. The caller closes.

    StoreError if it is a symlink, no regular file, not ours, or has a second name; OSError for the rest (missing,
    no space), which the caller may understand. `where` is the folder's path for messages.
    """
    try:
        # O_NONBLOCK: a fifo put there by somebody must not hang us before fstat tells what it is.
        file = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{where}/{name}: is a symbolic link, a regular file is needed") from error
        raise
    status = os.fstat(file)
    wrong = ""
    if not stat.S_ISREG(status.st_mode):
        wrong = "is no regular file"
    elif status.st_uid != os.geteuid():
        wrong = f"belongs to uid {status.st_uid}, not to ours ({os.geteuid()})"
    elif status.st_mode & 0o077:
        wrong = f"has mode {stat.S_IMODE(status.st_mode):04o}, 0600 is needed"
    elif status.st_nlink > 1:
        wrong = "has a second name (hard link)"
    if wrong:
        os.close(file)
        raise StoreError(f"{where}/{name}: {wrong}")
    return file


def write_whole(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`. OSError as pwrite raises it; a write that stops short is gone on with."""
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view = view[done:]
        offset += done


def save_aside(path: Path | str, name: str, data: bytes, max_bytes: int) -> Path | None:
    """Keep `data` in a new file of the folder at `path` (made if missing), synced; returns its path.

    None, and nothing written, if all files there together would exceed `max_bytes`: the first ones tell the most, so
    they stay and the later ones are only counted by the caller. The file is called `name`, or `name.N` if that is
    taken. ValueError for a name with anything but letters, digits and ``_.@+~-``; StoreError if it cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file name for something kept aside")
    folder = open_folder(path)
    try:
        used = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                used += entry.stat(follow_symlinks=False).st_size
        if used + len(data) > max_bytes:
            return None
        for number in range(MAX_ASIDE_NAMES):
            chosen = f"{name}.{number}" if number else name
            with contextlib.suppress(FileExistsError):
                file = open_file(folder, chosen, os.O_WRONLY | os.O_CREAT | os.O_EXCL, path)
                _fill(folder, chosen, file, data)
                return Path(path) / chosen
        return None
    except OSError as error:
        raise StoreError(f"{path}/{name}: {error.strerror}") from error
    finally:
        os.close(folder)


def _fill(folder: int, name: str, file: int, data: bytes) -> None:
    """Write and sync a new file and close it; on OSError it is removed again."""
    try:
        write_whole(file, data, 0)
        os.fsync(file)
        os.fsync(folder)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(file)
