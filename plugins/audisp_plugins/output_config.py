"""Keys of `output`: a file, a socket or a program, and how a file is kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from audisp.plugin import ConfigError
from audisp_plugins.log_config import read_group

SUN_PATH: Final = 107
"""Longest path of a socket (sockaddr_un, a NUL of 108 bytes left out)."""

MIN_SIZE: Final = 65_536
"""Smallest `max_size`: below, a busy host would rotate several times a second."""
MAX_SIZE: Final = 1 << 50
"""Largest `max_size` (1 PiB): beyond any disk."""
MAX_KEEP: Final = 999
"""Most old files, as with `num_logs`: each rotation renames them all."""
KEEP: Final = 5
"""Old files kept unless the configuration says otherwise."""

PROGRAM_BITS: Final = 0o550
"""What owner and group must be able to do with a program, as auditd demands it of a plugin's (upstream.md 1.4)."""
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

_SIZES: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MAX_DIGITS: Final = 20
"""Most digits of a number: more than 64 bits need."""


def read_size(words: tuple[str, ...]) -> int:
    """Bytes, with K, M or G for powers of 1024. Raises ValueError."""
    word = " ".join(words)
    factor = _SIZES.get(word[-1:].upper(), 1)
    digits = word[:-1] if factor > 1 else word
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        raise ValueError(f"{word!r} is not a size: digits, with K, M or G behind them if you like")
    value = int(digits) * factor
    if not MIN_SIZE <= value <= MAX_SIZE:
        raise ValueError(f"{word!r} is out of range: 64K to 1048576G")
    return value


def read_mode(words: tuple[str, ...]) -> int:
    """An octal mode. Raises ValueError."""
    word = " ".join(words)
    if not 3 <= len(word) <= 4 or set(word) - set("01234567"):
        raise ValueError(f"{word!r} is not an octal mode of three or four digits, such as 0640")
    return int(word, 8)


@attrs.frozen
class OutputConfig:
    """Keys of `output`. Exactly one of file, socket and command."""

    file: Path | None = None
    socket: Path | None = None
    command: tuple[str, ...] = ()
    """A program and its arguments."""
    max_size: int | None = attrs.field(default=None, metadata={"read": read_size})
    """Bytes at which a file is rotated. Unset: only when asked."""
    keep: int = attrs.field(default=KEEP, metadata={"max": MAX_KEEP})
    """Old files that are kept. 0: nothing is rotated, and when asked the file is opened anew."""
    mode: int | None = attrs.field(default=None, metadata={"read": read_mode})
    """Unset: 0600, with a group 0640."""
    group: int = attrs.field(default=0, metadata={"read": read_group})
    """gid. 0: none."""
    compress: Literal["no", "gz", "zst"] = "no"
    flush: Literal["none", "interval", "always"] = "none"
    freq: float = attrs.field(default=1.0, metadata={"min": 0.1, "max": 3600.0})
    """Seconds between two flushes, with `flush = interval`."""

    def __attrs_post_init__(self) -> None:
        targets = [key for key in ("file", "socket", "command") if getattr(self, key)]
        if len(targets) != 1:
            what = f"{' and '.join(targets)} are given" if targets else "is missing"
            key = targets[-1] if targets else "file"
            raise ConfigError(f"{what}: exactly one of file, socket and command is needed", key=key)
        fields: dict[str, Any] = attrs.fields_dict(OutputConfig)
        for key in ("max_size", "keep", "mode", "group", "compress", "flush", "freq"):
            if self.file is None and getattr(self, key) != fields[key].default:
                raise ConfigError(f"is for file =, and this is {targets[0]} =", key=key)
        if self.file is not None:
            self._check_file(self.file)
        if self.socket is not None and (not self.socket.is_absolute() or len(os.fsencode(self.socket)) > SUN_PATH):
            raise ConfigError(f"{str(self.socket)!r} is not an absolute path of at most {SUN_PATH} bytes", key="socket")
        if self.command:
            try:
                check_program(self.command[0])
            except ValueError as problem:
                raise ConfigError(str(problem), key="command") from problem

    def _check_file(self, path: Path) -> None:
        if not path.is_absolute() or not path.name:
            raise ConfigError(f"{str(path)!r} is not the absolute path of a file", key="file")
        if not 0 <= self.keep <= MAX_KEEP:
            raise ConfigError(f"{self.keep} is out of range: 0 to {MAX_KEEP}", key="keep")
        if self.max_size is not None and not MIN_SIZE <= self.max_size <= MAX_SIZE:
            raise ConfigError(f"{self.max_size} is out of range: 64K to 1048576G", key="max_size")
        if self.max_size is not None and not self.keep:
            raise ConfigError("needs keep = 1 or more, or what was written would be thrown away", key="max_size")
        if self.compress != "no" and not self.keep:
            raise ConfigError("is for old files, and keep is 0", key="compress")
        mode = self.final_mode
        if mode & 0o600 != 0o600 or mode & ~0o666 or mode & stat.S_IWOTH:
            raise ConfigError(
                f"{mode:04o} is no mode for a file of ours: from 0600 to 0664, nothing to execute", key="mode"
            )

    @property
    def final_mode(self) -> int:
        """The file's mode."""
        return self.mode if self.mode is not None else 0o640 if self.group else 0o600

    def notices(self) -> tuple[str, ...]:
        """What is allowed and should be known."""
        found = []
        if self.file is not None and self.final_mode & stat.S_IROTH:
            found.append(f"mode: {self.final_mode:04o} lets everybody on this machine read the records")
        if self.socket is not None and (where := exposed(self.socket)) is not None:
            found.append(f"socket: others may write in {where}, and put a socket of their own in this place")
        if self.command and (where := exposed(Path(self.command[0]))) is not None:
            found.append(f"command: {self.command[0]!r} can be exchanged by others than root, through {where}")
        return tuple(found)


def check_program(program: str) -> None:
    """Raise ValueError unless auditd would start it as a plugin: a regular file of root's (or ours), that nobody else
    may write, and that owner and group may read and execute."""
    if not program.startswith("/"):
        raise ValueError(f"{program!r} is not the absolute path of a program")
    try:
        found = os.stat(program)
    except OSError as problem:
        raise ValueError(f"{program!r} cannot be used: {problem.strerror}") from problem
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{program!r} is not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{program!r} is owned by uid {found.st_uid}, it must be root")
    if mode & OTHERS_WRITE:
        raise ValueError(f"{program!r} can be written by others (mode {mode:04o}): chmod g-w,o-w")
    if mode & PROGRAM_BITS != PROGRAM_BITS:
        raise ValueError(
            f"{program!r} has mode {mode:04o}; owner and group must be able to read and execute it (chmod ug+rx)"
        )


def exposed(path: Path) -> Path | None:
    """The first folder above `path` in which others than root and we may exchange what is on the way to it."""
    for folder in reversed(Path(os.path.realpath(path)).parents):
        try:
            found = os.stat(folder)
        except OSError:
            return None  # what is not there is another message's business
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & OTHERS_WRITE:
            return folder
    return None
