"""How many records were read from standard input, kept where kill -9 does not reach it.

A mapped page of a file in the spool's folder, written for every block before anything else happens to it. With what the
frames say of how many of them are accounted for, the next process knows how many were lost with this one. It is not
synced: a power failure makes it too low, and then so is that number.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

from audisp.dispatch.folder import open_file, open_folder
from audisp.errors import StoreError

NAME: Final = "read"
_FORM: Final = struct.Struct("=Q")
"""Aligned, so that it is never seen half written."""


class ReadCounter:
    """The counter of one spool. `value`: records read by all processes on it."""

    def __init__(self, folder: Path) -> None:
        """Open or make it. Raises StoreError."""
        try:
            place = open_folder(folder)
            try:
                file = open_file(place, NAME, os.O_RDWR | os.O_CREAT, folder)
                try:
                    # Allocated, not only made longer: writing a mapped hole on a full disk would be a SIGBUS.
                    os.posix_fallocate(file, 0, _FORM.size)
                    self._map = mmap.mmap(file, _FORM.size)
                finally:
                    os.close(file)
            finally:
                os.close(place)
        except OSError as error:
            raise StoreError(f"{folder}/{NAME}: {error.strerror}") from error
        self.value: int = _FORM.unpack(self._map)[0]

    def set(self, value: int) -> None:
        """So many, and it survives kill -9 at once."""
        self.value = value
        _FORM.pack_into(self._map, 0, value)

    def close(self) -> None:
        """Unmap; the file stays."""
        self._map.close()
