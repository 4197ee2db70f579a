"""The serial of the last record routed, kept where kill -9 does not reach it.

The books are written once a second; what was routed since would be reported as lost by the next run. This is a page of
a file, mapped and written after every block: it costs less than a microsecond, and the kernel keeps it whatever happens
to the process. It is not synced: a power cut ends the numbering, too.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final, Self

from audisp.errors import StoreError

_FORM: Final = struct.Struct("=36sIQ")
"""Boot id (text), 0, serial: the serial stands aligned, so that it is never seen half written."""
_SERIAL: Final = struct.Struct("=Q")
_SERIAL_AT: Final = 40


class SerialMark:
    """One source's mark. `last`: what an earlier run of this boot left, 0 if there was none."""

    def __init__(self, path: Path, boot_id: str) -> None:
        """Open or make the file. Raises StoreError."""
        boot = boot_id.encode("ascii", "replace")[:36].ljust(36)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                before = os.pread(fd, _FORM.size, 0)
                # Allocated, not only made longer: writing a mapped hole on a full disk would be a SIGBUS.
                os.ftruncate(fd, _FORM.size)
                os.posix_fallocate(fd, 0, _FORM.size)
                self._map = mmap.mmap(fd, _FORM.size)
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        self.last = 0
        if len(before) == _FORM.size:
            found, _, serial = _FORM.unpack(before)
            if found == boot and boot.strip() and serial <= 0xFFFFFFFF:
                self.last = serial
        self._map[:] = _FORM.pack(boot, 0, self.last)

    def set(self, serial: int) -> None:
        """The newest serial is this one."""
        _SERIAL.pack_into(self._map, _SERIAL_AT, serial)

    def close(self) -> None:
        """Unmap; the file stays."""
        self._map.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closed."""
        self.close()
