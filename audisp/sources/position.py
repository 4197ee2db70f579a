"""How far a log was read, kept where kill -9 does not reach it.

As the last serial (mark.py), this is a mapped page of a file, written after every block that was routed: some 3 µs, and
the kernel keeps it whatever happens to the process. A position is larger than what is written at once, so there are two
slots, written in turn, each with a number and a checksum: who is killed in between leaves the one before. The file is
synced when it is made and when it is closed; in between the kernel writes it within half a minute, which is what a
power cut can take.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final, Self

import attrs

from audisp.errors import StoreError
from audisp.record import STRETCH_BYTES
from audisp.sources.bad import file_name

DIGEST: Final = 16
"""Bytes of a hash: nobody gains by a collision, for who can write the log can write what he wants into it."""

SLOT_STRIDE: Final = 512
"""Bytes between the slots: one sector of a disk, so that one torn sector cannot hold both."""

Stamp = tuple[int, int, int]
"""Seconds, milliseconds, serial of a record; all 0 where there is none."""

NO_STAMP: Final[Stamp] = (0, 0, 0)

NO_STRETCH: Final = bytes(STRETCH_BYTES)
"""Of a place whose records cannot be told again."""

_MAGIC: Final = b"audpos2\n"
_MOST: Final = (1 << 64) - 1
_SLOT: Final = struct.Struct(f"=8s{DIGEST}sQ3QII{DIGEST}s{DIGEST}s7Q{STRETCH_BYTES}sQ")
_CRC: Final = struct.Struct("=I")


@attrs.frozen
class Position:
    """A place in a log, and what tells the log again: offset bytes of it, up to the end of a line, were read.

    head, tail: hashes of its first `head_bytes`, and of the last `tail_bytes` before the offset. first, last: stamps of
    its first record and of the last one read. device and inode alone tell a file only as long as it exists, and its
    number can be another's soon after; so where nothing was read `since` is kept: all was written after that time.
    stretch, count: the number of the last record routed (`record.Place`).
    """

    device: int
    inode: int
    offset: int
    head_bytes: int = 0
    tail_bytes: int = 0
    head: bytes = bytes(DIGEST)
    tail: bytes = bytes(DIGEST)
    first: Stamp = NO_STAMP
    last: Stamp = NO_STAMP
    since: int = 0
    stretch: bytes = NO_STRETCH
    count: int = 0


def digest(data: bytes) -> bytes:
    """The hash of head and tail."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def position_name(source: str) -> str:
    """Name of the file of a source's position in `state_dir`."""
    return "position-" + file_name(source).removeprefix("rejected-")


class PositionFile:
    """One source's position. `found`: what an earlier run left, None if there was none; `spoiled` then says whether
    that is because what the file held is not to be used."""

    def __init__(self, path: Path, source: str) -> None:
        """Open or make the file. source: its name, so that one file is never taken for another's. Raises StoreError."""
        self._source = digest(os.fsencode(source))
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                before = os.pread(fd, 2 * SLOT_STRIDE, 0)
                # Allocated, not only made longer: writing a mapped hole on a full disk would be a SIGBUS.
                os.ftruncate(fd, 2 * SLOT_STRIDE)
                os.posix_fallocate(fd, 0, 2 * SLOT_STRIDE)
                if not before:
                    os.fsync(fd)
                    _sync_folder(path.parent)
                self._map = mmap.mmap(fd, 2 * SLOT_STRIDE)
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        slots = [self._read(before[start : start + _SLOT.size + _CRC.size]) for start in (0, SLOT_STRIDE)]
        self._sequence, self.found = max(slots, key=lambda each: each[0])
        self.spoiled = self.found is None and any(before)

    def _read(self, slot: bytes) -> tuple[int, Position | None]:
        whole, check = slot[: _SLOT.size], slot[_SLOT.size :]
        if len(check) < _CRC.size or _CRC.unpack(check)[0] != zlib.crc32(whole):
            return 0, None
        magic, source, sequence, device, inode, offset, heads, tails, head, tail, *rest = _SLOT.unpack(whole)
        if magic != _MAGIC or source != self._source:
            return 0, None
        first, last = (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5])
        return sequence, Position(device, inode, offset, heads, tails, head, tail, first, last, *rest[6:])

    def store(self, position: Position) -> None:
        """Put it into the older slot; survives kill -9 at once."""
        self._sequence += 1
        slot = _SLOT.pack(
            _MAGIC,
            self._source,
            self._sequence,
            position.device,
            position.inode,
            position.offset,
            position.head_bytes,
            position.tail_bytes,
            position.head,
            position.tail,
            # A stamp may have twenty digits; where it is that large it only loses its use for comparison.
            *(min(number, _MOST) for number in (*position.first, *position.last, max(position.since, 0))),
            position.stretch,
            position.count,
        )
        start = self._sequence % 2 * SLOT_STRIDE
        self._map[start : start + _SLOT.size + _CRC.size] = slot + _CRC.pack(zlib.crc32(slot))

    def close(self) -> None:
        """Sync and unmap; the file stays."""
        self._map.flush()
        self._map.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closed."""
        self.close()


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
