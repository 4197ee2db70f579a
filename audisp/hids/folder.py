"""The files of a folder of rules, read with suspicion: rules decide what an alarm is, and what root is told to do.

Folders and files must be owned by root or by us and be writable for nobody else. Only the path that was named may be a
symbolic link; what is a link below it is refused and said, never followed. All is bounded.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import attrs

from audisp.config.files import OWN_CONF, owners, read_checked
from audisp.detect.form import MAX_RULES, Refused
from audisp.errors import ConfigError

SUFFIXES: Final = (".yml", ".yaml")
"""What a rule's file ends with. Anything else in the folder (a licence, a README) is passed over."""
MAX_FILES: Final = MAX_RULES
"""Rule files; SigmaHQ's whole checkout has 4,000."""
MAX_ENTRIES: Final = 100_000
"""Entries looked at, rules or not: a whole checkout of SigmaHQ with its history has some 10,000."""
MAX_BYTES: Final = 64 << 20
"""Of all rule files together; SigmaHQ's are 8 MiB."""
MAX_DEPTH: Final = 16
"""Folders inside each other; SigmaHQ has 6."""
SKIPPED: Final = frozenset({".git", ".github"})
"""A checkout's own, which has no rules."""


@attrs.define
class Collected:
    """files: name below what was named, and content. refused: files and folders that are not used."""

    files: list[tuple[str, bytes]] = attrs.field(factory=list)
    refused: list[Refused] = attrs.field(factory=list)
    bytes: int = 0
    entries: int = 0

    def refuse(self, name: str, reason: str) -> None:
        """Not used, and why."""
        self.refused.append(Refused(name, 1, "", "", reason))


def collect(paths: list[Path]) -> Collected:
    """All rule files of folders, or files named themselves. Raises ConfigError for a path that cannot be used at all,
    or for more than the bounds."""
    collected = Collected()
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            _read(collected, str(path), str(path), None, links=True)
            continue
        except OSError as error:
            raise ConfigError(f"cannot be opened: {error.strerror}", path=path) from error
        try:
            wrong = _distrusted(os.fstat(fd))
            if wrong is not None:
                raise ConfigError(wrong, path=path)
            _walk(collected, fd, "" if len(paths) == 1 else f"{path}/", 0)
        finally:
            os.close(fd)
    return collected


def _distrusted(found: os.stat_result) -> str | None:
    """Why a folder cannot be trusted."""
    if found.st_uid not in owners():
        own = "root" if os.geteuid() == 0 else f"root or uid {os.geteuid()}"
        return f"is owned by uid {found.st_uid}, it must be {own}"
    if found.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod g-w,o-w"
    return None


def _walk(collected: Collected, folder: int, name: str, depth: int) -> None:
    for entry in sorted(os.listdir(folder)):
        collected.entries += 1
        if collected.entries > MAX_ENTRIES:
            raise ConfigError(f"more than {MAX_ENTRIES:,} files", path=name or ".")
        called = name + entry
        found = os.stat(entry, dir_fd=folder, follow_symlinks=False)
        is_rule = entry.endswith(SUFFIXES)
        if stat.S_ISLNK(found.st_mode):
            collected.refuse(called, "is a symbolic link, which is not followed")
        elif stat.S_ISDIR(found.st_mode):
            if entry not in SKIPPED:
                _enter(collected, folder, entry, called, depth)
        elif is_rule and stat.S_ISREG(found.st_mode):
            _read(collected, entry, called, folder)
        elif is_rule:
            collected.refuse(called, "is no regular file")


def _enter(collected: Collected, folder: int, entry: str, called: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        collected.refuse(called, f"is deeper than {MAX_DEPTH} folders")
        return
    try:
        fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        collected.refuse(called, f"cannot be opened: {error.strerror}")
        return
    try:
        wrong = _distrusted(os.fstat(fd))
        if wrong is not None:
            collected.refuse(called, wrong)
        else:
            _walk(collected, fd, called + "/", depth + 1)
    finally:
        os.close(fd)


def _read(collected: Collected, entry: str, called: str, folder: int | None, *, links: bool = False) -> None:
    if len(collected.files) >= MAX_FILES:
        raise ConfigError(f"more than {MAX_FILES:,} rule files", path=called)
    try:
        data = read_checked(entry, OWN_CONF, allow_links=links, dir_fd=folder, name=Path(called))
    except FileNotFoundError as error:
        if folder is None:
            raise ConfigError("there is no such file or folder", path=called) from error
        collected.refuse(called, "is gone again")
        return
    except ConfigError as error:
        if folder is None:
            raise
        collected.refuse(called, error.message)
        return
    collected.bytes += len(data)
    if collected.bytes > MAX_BYTES:
        raise ConfigError(f"more than {MAX_BYTES:,} bytes of rules", path=called)
    collected.files.append((called, data))
