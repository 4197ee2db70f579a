"""Key files and the list of clients on disk: who may have written them, and who may read them, is checked first.

As upstream: a key file is a regular file, no symlink, of mode 0400 exactly, and root's; ours may also be whoever's we
run as, and in systemd's folder of credentials also root's with mode 0440, because that is how systemd makes them for a
service with a user. Checks are done on the descriptor that is then read. A named pipe is refused without waiting.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from audisp.config.files import owners
from audisp.errors import ConfigError, ParseError
from audisp.parse.acl import MAX_ACL_FILE, AccessList, parse_acl
from audisp.parse.psk import MAX_KEY_FILE, Key, KeyText, key_text, parse_key

KEY_MODE: Final = 0o400
"""What upstream demands, exactly."""
CREDENTIAL_MODE: Final = 0o440
"""What systemd gives a credential that it lets a service's user read by an ACL entry."""
CHUNK: Final = 65_536
"""Bytes read at once; a key file comes in one piece."""
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""systemd.exec(5): set for a service that has LoadCredential= or the like."""


def read_key(path: Path | str) -> KeyText:
    """A key file that passes all checks. Raises ConfigError, which never says what stands in it."""
    called = Path(path)
    data = _read(called, MAX_KEY_FILE, _key_problem)
    try:
        return parse_key(bytes(data))
    except ParseError as problem:
        raise ConfigError(str(problem), path=called) from None
    finally:
        # Best effort: one copy less of the key in memory that is given back.
        data[:] = bytes(len(data))


def read_acl(path: Path | str) -> tuple[AccessList, list[ConfigError], list[str]]:
    """The list of clients, what is wrong with it and what is worth a notice. Raises ConfigError if it is unreadable."""
    called = Path(path)
    return parse_acl(bytes(_read(called, MAX_ACL_FILE, _acl_problem)), called)


def write_key(path: Path | str, key: Key, identity: bytes | None) -> None:
    """A new key file, made with its final mode, whole and on the disk, or not there. identity None: a master key.

    Raises ConfigError; what stands at `path` already is left alone.
    """
    called = Path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(called, flags, KEY_MODE)
    except FileExistsError:
        raise ConfigError("is there already, and a key is never overwritten", path=called) from None
    except OSError as problem:
        raise ConfigError(f"cannot be made: {problem.strerror}", path=called) from problem
    try:
        text = key_text(key, identity)
        if os.write(fd, text) != len(text):
            raise OSError(0, "not all of it could be written")
        os.fsync(fd)
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode != KEY_MODE:
            raise OSError(0, f"it got the mode {mode:04o} (umask, or the folder's ACL), and must have 0400")
        _sync_folder(called.parent)
    except OSError as problem:
        os.unlink(called)
        raise ConfigError(f"cannot be written: {problem.strerror}", path=called) from problem
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path, limit: int, problem_of: Callable[[os.stat_result, Path], str | None]) -> bytearray:
    """The whole file, if `problem_of` has nothing against it. Raises ConfigError."""
    # O_NONBLOCK: opening a named pipe would wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError as problem:
        if path.is_symlink():
            raise ConfigError("is a symbolic link; name the file itself", path=path) from None
        raise ConfigError(f"cannot be opened: {problem.strerror}", path=path) from problem
    data, chunk = bytearray(), bytearray(min(CHUNK, limit + 1))
    try:
        what = problem_of(os.fstat(fd), path)
        if what is not None:
            raise ConfigError(what, path=path)
        while len(data) <= limit:
            got = os.readv(fd, [chunk])
            if not got:
                return data
            data += memoryview(chunk)[:got]
    except OSError as problem:
        raise ConfigError(f"cannot be read: {problem.strerror}", path=path) from problem
    finally:
        os.close(fd)
        chunk[:] = bytes(len(chunk))
    raise ConfigError(f"is longer than {limit} bytes", path=path)


def _kind_problem(found: os.stat_result) -> str | None:
    if stat.S_ISREG(found.st_mode):
        return None
    return "is a folder" if stat.S_ISDIR(found.st_mode) else "is no regular file"


def _owner_problem(found: os.stat_result) -> str | None:
    if found.st_uid in owners():
        return None
    own = "root" if os.geteuid() == 0 else f"root or uid {os.geteuid()}"
    return f"is owned by uid {found.st_uid}, it must be {own}"


def _key_problem(found: os.stat_result, path: Path) -> str | None:
    problem = _kind_problem(found) or _owner_problem(found)
    mode = stat.S_IMODE(found.st_mode)
    if problem or mode == KEY_MODE:
        return problem
    if mode == CREDENTIAL_MODE and found.st_uid == 0 and str(path.parent) == os.environ.get(CREDENTIALS):
        return None
    return f"has mode {mode:04o}, a key file must have 0400: chmod 0400"


def _acl_problem(found: os.stat_result, _path: Path) -> str | None:
    problem = _kind_problem(found) or _owner_problem(found)
    mode = stat.S_IMODE(found.st_mode)
    if problem or not mode & 0o022:
        return problem
    return f"can be written by others than its owner (mode {mode:04o}): chmod go-w"
