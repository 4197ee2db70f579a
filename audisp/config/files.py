"""Reading files that decide what runs as root: who owns them and who may write to them is checked first.

The check is done on an open descriptor (O_PATH), and the file is then read through that same descriptor, so nothing can
be exchanged in between. Facts: upstream.md sections 1.2, 1.4 and 3.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import attrs

from audisp.config.grammar import shown
from audisp.errors import ConfigError

MAX_FILE: Final = 1 << 20
"""Longest configuration file in bytes. A thousand times a real one; bounds what a start can be made to read."""

MAX_LINKS: Final = 40
"""Most symbolic links followed on the way to a file; the kernel's own limit (path_resolution(7))."""

PATH_SHOWN: Final = 255
"""Characters of a path in a message: what is wrong with one is mostly at its end."""

PROGRAM_BITS: Final = 0o550
"""What owner and group must be able to do with a plugin's program (upstream.md 1.4)."""

EXEC_MODES: Final = (0o750, 0o755, 0o555, 0o550)
"""The modes that a program run by a disk-space action may have (upstream.md 3)."""


@attrs.frozen
class FileKind:
    """What is demanded of one kind of file.

    links: a symbolic link may stand for it; the target is then checked. forbidden: mode bits that must not be set.
    with_code: it comes with our own code, and may belong to whom that belongs to.
    """

    links: bool
    forbidden: int
    with_code: bool = False


AUDITD_CONF: Final = FileKind(links=False, forbidden=0o002)
"""auditd.conf: auditd lets a group write to it."""
OWN_CONF: Final = FileKind(links=False, forbidden=0o022)
"""audispd.conf: ours, so the stricter rule."""
PLUGIN_CONF: Final = FileKind(links=True, forbidden=0o022)
"""plugins.d/*: group write is refused as since auditd 4.2; before, only others' write was."""
SHIPPED_CONF: Final = FileKind(links=False, forbidden=0o002, with_code=True)
"""A file that comes with our code, such as conf/observe/ in somebody's checkout: trusted as far as the code beside it,
which whoever owns it could change as well. Checkouts are often writable for a group."""


def owners() -> frozenset[int]:
    """The uids whose files we trust: root, and whoever we run as."""
    return frozenset((0, os.geteuid()))


def read_checked(
    path: Path | str, kind: FileKind, *, allow_links: bool = False, dir_fd: int | None = None, name: Path | None = None
) -> bytes:
    """The content of a file that passes the checks of its kind.

    allow_links: follow a symbolic link even where the kind says no (auditd's option -l). dir_fd: the folder that a
    relative `path` is in; `name` is then what messages call it. Raises FileNotFoundError if there is no such file (or
    a link leads nowhere), ConfigError for everything else.
    """
    called = name or Path(path)
    flags = os.O_PATH | os.O_CLOEXEC
    if not (kind.links or allow_links):
        flags |= os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise ConfigError(f"cannot be opened: {problem.strerror}", path=called) from problem
    try:
        trusted = owners() | {os.stat(__file__).st_uid} if kind.with_code else owners()
        _check(os.fstat(fd), kind.forbidden, called, trusted)
        return _read(fd, called)
    finally:
        os.close(fd)


def _read(path_fd: int, called: Path) -> bytes:
    try:
        fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as problem:
        raise ConfigError(f"cannot be read: {problem.strerror} (is /proc mounted?)", path=called) from problem
    with open(fd, "rb", buffering=0) as file:
        parts: list[bytes] = []
        size = 0
        while size <= MAX_FILE:
            try:
                part = file.read(MAX_FILE + 1 - size)
            except OSError as problem:
                raise ConfigError(f"cannot be read: {problem.strerror}", path=called) from problem
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
    raise ConfigError(f"is longer than {MAX_FILE} bytes", path=called)


def _check(found: os.stat_result, forbidden: int, called: Path, trusted: frozenset[int]) -> None:
    """Raise ConfigError unless it is a regular file, owned by one of `trusted`, with none of the `forbidden` bits."""
    if stat.S_ISLNK(found.st_mode):
        raise ConfigError("is a symbolic link, which is only followed with -l", path=called)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"is not a regular file but {_what(found.st_mode)}", path=called)
    _owned(found, called, trusted)
    _closed(found, forbidden, called)


def _owned(found: os.stat_result, called: Path, trusted: frozenset[int]) -> None:
    if found.st_uid not in trusted:
        own = "root" if os.geteuid() == 0 else f"root or uid {os.geteuid()}"
        raise ConfigError(f"is owned by uid {found.st_uid}, it must be {own}", path=called)


def _closed(found: os.stat_result, forbidden: int, called: Path) -> None:
    mode = stat.S_IMODE(found.st_mode)
    who = [word for bit, word in ((0o020, "its group"), (0o002, "everybody")) if mode & forbidden & bit]
    if who:
        wanted = "g-w,o-w" if forbidden & 0o020 else "o-w"
        raise ConfigError(f"can be written by {' and '.join(who)} (mode {mode:04o}): chmod {wanted}", path=called)


def _what(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return word
    return "a device"


def check_program(path: str, config: Path, line: int | None = None) -> os.stat_result:
    """stat of a plugin's program that passes upstream's sanity check (1.4). Raises ConfigError located at `config`."""

    def error(message: str) -> ConfigError:
        return ConfigError(f"{shown(path, PATH_SHOWN)} {message}", path=config, line=line, key="path")

    try:
        found = os.stat(path)
    except OSError as problem:
        raise error(f"cannot be used: {problem.strerror}") from problem
    try:
        _check(found, 0o022, Path(path), owners())
    except ConfigError as problem:
        raise error(problem.message) from problem
    mode = stat.S_IMODE(found.st_mode)
    if mode & PROGRAM_BITS != PROGRAM_BITS:
        raise error(f"has mode {mode:04o}; owner and group must be able to read and execute it (chmod ug+rx)")
    return found


def check_action(path: str) -> Path:
    """The program of a disk-space action, if auditd would run it. Raises ValueError with the reason."""
    if not path.startswith("/"):
        raise ValueError(f"{shown(path, PATH_SHOWN)} is not an absolute path")
    try:
        found = os.stat(path)
    except OSError as problem:
        raise ValueError(f"{shown(path, PATH_SHOWN)} cannot be used: {problem.strerror}") from problem
    mode = found.st_mode & 0o777  # auditd does not look at set-uid, set-gid and sticky bits
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{shown(path, PATH_SHOWN)} is not a regular file but {_what(found.st_mode)}")
    if found.st_uid not in owners():
        raise ValueError(f"{shown(path, PATH_SHOWN)} is owned by uid {found.st_uid}, it must be root")
    if mode not in EXEC_MODES:
        valid = ", ".join(f"{each:04o}" for each in EXEC_MODES)
        raise ValueError(f"{shown(path, PATH_SHOWN)} has mode {mode:04o}, it must be one of {valid}")
    return Path(path)


def check_folders(path: Path | str) -> Path:
    """The real path of a file that nobody but root and we can exchange. For code that is loaded into this process.

    The file, every folder above it, and every folder that a symbolic link on the way passes through must be owned by
    root or us and be writable for nobody else; a sticky folder such as /tmp is not good enough, because anybody can be
    there first. Safe against exchange in between, because each step is taken from a folder already found safe.
    Raises ConfigError naming the first part that is not.
    """
    called = Path(path)
    if not called.is_absolute():
        raise ConfigError("is not an absolute path", path=called)
    todo = list(reversed(called.parts[1:]))
    here: list[str] = []
    links = 0
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_folder(os.fstat(fd), Path("/"))
        while todo:
            part = todo.pop()
            if part == "..":
                # Where a link has gone, `..` is the parent of its target: start again from the path found so far.
                todo.extend(reversed(here[:-1]))
                here = []
                fd = _step(fd, "/", called)
                continue
            fd_next = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            found = os.fstat(fd_next)
            if stat.S_ISLNK(found.st_mode):
                os.close(fd_next)
                links += 1
                if links > MAX_LINKS:
                    raise ConfigError(f"more than {MAX_LINKS} symbolic links on the way", path=called)
                target = os.readlink(part, dir_fd=fd)
                if target.startswith("/"):
                    here = []
                    fd = _step(fd, "/", called)
                todo.extend(each for each in reversed(target.split("/")) if each not in ("", "."))
                continue
            os.close(fd)
            fd = fd_next
            here.append(part)
            if todo:
                _check_folder(found, Path("/", *here))
        # Here and not in the loop: the way may have ended in a link to `.` or in `..`.
        _check(os.fstat(fd), 0o022, Path("/", *here), owners())
    except OSError as problem:
        raise ConfigError(f"cannot be used: {problem.strerror}", path=called) from problem
    finally:
        os.close(fd)
    return Path("/", *here)


def _step(fd: int, part: str, called: Path) -> int:
    """`fd` closed, and the folder `part` opened instead."""
    new = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    os.close(fd)
    return new


def _check_folder(found: os.stat_result, called: Path) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"is not a folder but {_what(found.st_mode)}", path=called)
    _owned(found, called, owners())
    _closed(found, 0o022, called)
