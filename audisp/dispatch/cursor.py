"""The cursor of a spool: the number of the next record to deliver, kept in one small file.

Two slots in two sectors are written in turn, each with a sequence number and a CRC. A write torn by a crash spoils one
slot, and the other still has the position before, so that records are offered twice at most, and never skipped.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final

from audisp.buffer.segment import ANCHOR
from audisp.dispatch.folder import open_file, write_whole
from audisp.errors import StoreError

CURSOR_NAME: Final = "cursor"
SLOT_STRIDE: Final = 512
"""Bytes between the slots: one sector, so that one torn sector cannot hold both."""

_MAGIC: Final = b"audcur1\n"
_SLOT: Final = struct.Struct("<8s16sQQ32s")
_CRC: Final = struct.Struct("<I")


class Cursor:
    """The cursor file, open for as long as the spool is.

    spool: the spool's id as last stored. position: number of the next record to deliver. Both None if there was no
    cursor file or no slot of it is whole; `spoiled` tells the two apart. anchor: hash of the last frame that was
    removed, so that the chain of hashes goes on over a spool that ran empty.
    """

    def __init__(self, folder: int, where: Path | str) -> None:
        """Open or make the file. StoreError if that cannot be done."""
        try:
            self._file = open_file(folder, CURSOR_NAME, os.O_RDWR | os.O_CREAT, where)
        except OSError as error:
            raise StoreError(f"{where}/{CURSOR_NAME}: {error.strerror}") from error
        self._where = where
        self._sequence = 0
        self.spool: bytes | None = None
        self.position: int | None = None
        self.anchor = ANCHOR
        try:
            data = os.pread(self._file, 2 * SLOT_STRIDE, 0)
        except OSError as error:
            os.close(self._file)
            raise StoreError(f"{where}/{CURSOR_NAME}: {error.strerror}") from error
        for start in (0, SLOT_STRIDE):
            slot = data[start : start + _SLOT.size + _CRC.size]
            if len(slot) < _SLOT.size + _CRC.size:
                continue
            magic, spool, sequence, position, anchor = _SLOT.unpack_from(slot)
            whole = _CRC.unpack_from(slot, _SLOT.size)[0] == zlib.crc32(slot[: _SLOT.size])
            if magic == _MAGIC and whole and sequence > self._sequence:
                self._sequence, self.spool, self.position, self.anchor = sequence, spool, position, anchor
        self.spoiled = bool(data) and self.position is None

    def store(self, spool: bytes, position: int, anchor: bytes) -> None:
        """Write the position into the older slot; survives kill -9 at once and power loss after `sync`. StoreError."""
        sequence = self._sequence + 1
        slot = _SLOT.pack(_MAGIC, spool, sequence, position, anchor)
        try:
            write_whole(self._file, slot + _CRC.pack(zlib.crc32(slot)), sequence % 2 * SLOT_STRIDE)
        except OSError as error:
            raise StoreError(f"{self._where}/{CURSOR_NAME}: {error.strerror}") from error
        self._sequence, self.spool, self.position, self.anchor = sequence, spool, position, anchor

    def sync(self) -> None:
        """fdatasync. StoreError."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise StoreError(f"{self._where}/{CURSOR_NAME}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; nothing is written."""
        os.close(self._file)
