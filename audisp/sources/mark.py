"""The serial of the last record routed, kept where kill -9 does not reach it.

The books are written once a second; what was routed since would be reported as lost by the next run. This is a page of
a file, mapped and written after every block: it costs less than a microsecond, and the kernel keeps it whatever happens
to the process. It is not synced: a power cut ends the numbering, too.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from audisp.errors import StoreError
from audisp.parse.serials import Range

RANGES: Final = 4
"""Ranges of serials kept that had not come when the serial was written. Nearly always there are none, or one."""
_FORM: Final = struct.Struct(f"=36sIQ{2 * RANGES}Q")
"""Boot id (text), 0, serial, first and last of each open range: all aligned, so that none is seen half written."""
_SERIAL: Final = struct.Struct("=Q")
_SERIAL_AT: Final = 40
_OPEN: Final = struct.Struct(f"={2 * RANGES}Q")
_OPEN_AT: Final = _SERIAL_AT + _SERIAL.size


class SerialMark:
    """One source's mark. `last`: what an earlier run of this boot left, 0 if there was none. `open`: ranges below it
    that this run had neither seen nor reported as missing."""

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
        self.open: list[Range] = []
        if len(before) == _FORM.size:
            found, _, serial, *ends = _FORM.unpack(before)
            if found == boot and boot.strip() and serial <= 0xFFFFFFFF:
                self.last = serial
                pairs = zip(ends[::2], ends[1::2], strict=True)
                self.open = [(first, last) for first, last in pairs if 0 < first <= last < serial]
        self._map[:] = _FORM.pack(boot, 0, self.last, *_flat(self.open))
        self._has_open = bool(self.open)

    def set(self, serial: int, open_: Sequence[Range] = ()) -> None:
        """The newest serial is this one; these ranges below it have not come so far, and were not reported."""
        if open_ or self._has_open:
            # Before the serial: what is open must not be forgotten by who is killed in between.
            _OPEN.pack_into(self._map, _OPEN_AT, *_flat(open_))
            self._has_open = bool(open_)
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


def _flat(ranges: Sequence[Range]) -> list[int]:
    """First and last of RANGES ranges, 0 for none; what is more than that is taken together with the last one."""
    kept = list(ranges)
    if len(kept) > RANGES:
        kept[RANGES - 1 :] = [(kept[RANGES - 1][0], kept[-1][1])]
    ends = [end for each in kept for end in each]
    return ends + [0] * (2 * RANGES - len(ends))
