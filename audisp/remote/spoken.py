"""Which servers have spoken the native protocol: with these `auto` never falls back, also after a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from audisp.config.network import MAX_ENDPOINTS, MAX_NAME
from audisp.dispatch.folder import FILE_MODE

NAME: Final = "native-servers"
"""In the spool's folder, which is ours alone."""
MAX_BYTES: Final = (MAX_NAME + 8) * MAX_ENDPOINTS
"""Of the file: as many names as a configuration can have, each with its port."""


class Spoken:
    """The names, as a set that is kept in a file. A file that cannot be read is an empty one: `auto` then is as it is
    with servers that are new."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._names: list[str] = []
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return
        with open(fd, "rb") as file:
            self._names = file.read(MAX_BYTES).decode("ascii", "replace").split()[:MAX_ENDPOINTS]

    def __contains__(self, name: str) -> bool:
        """Whether this server has."""
        return name in self._names

    def add(self, name: str) -> None:
        """It has. OSError if that cannot be kept; then it is known to this process."""
        if name in self._names:
            return
        # The oldest is forgotten first: it is no longer configured, or there are that many.
        self._names = [*self._names, name][-MAX_ENDPOINTS:]
        new = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, FILE_MODE), "w", encoding="ascii") as file:
            file.write("".join(f"{each}\n" for each in self._names))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)
