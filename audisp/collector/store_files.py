"""The files in a store's folder: segments, their indexes, the end mark, and how each is opened.

| NNNNNNNNNNNNNNNNNNNN.seg  a segment, named by the number in the store of its first frame
| NNNNNNNNNNNNNNNNNNNN.idx  its index, a cache
| *.new                     a file that is being made; removed at open
| *.bad                     a file that could not be used, for a person to look at
| end                       how far the log was on disk when last looked
| lock                      locked by the process that writes
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from audisp.buffer.segment import HEADER_BYTES, SegmentHeader
from audisp.collector.store_frames import Entry, Note, read_frame
from audisp.collector.store_index import MAX_INDEX, Index
from audisp.dispatch.folder import open_file, open_folder, write_whole
from audisp.dispatch.segments import BAD_SUFFIX, SEGMENT_NAME, Walk, segment_name
from audisp.errors import StoreError

NEW_SUFFIX: Final = ".new"
LOCK_NAME: Final = "lock"
END_NAME: Final = "end"

_END: Final = struct.Struct("<8s16sQQQQ")
_CRC: Final = struct.Struct("<I")
_END_MAGIC: Final = b"audend1\n"
SLOT_STRIDE: Final = 512
"""Bytes between the two slots of the end mark: one sector, so that one torn sector cannot hold both."""


@attrs.define(eq=False)
class SegmentFile:
    """A segment that is there. number: of its first frame. size: its bytes, without a torn tail. newest: when its last
    frame was received, in nanoseconds since the epoch; None: nobody has looked. damaged: something in it cannot be
    read, so it stays as it is for as long as it stays. waste: enough of it is removed for it to be written anew; None:
    nobody has looked. unusable: why nothing can be told of it, for a person; "": it can. Then it is not removed either,
    since nobody knows what would go with it."""

    number: int
    size: int
    newest: int | None = None
    damaged: bool = False
    waste: bool | None = None
    unusable: str = ""

    @property
    def name(self) -> str:
        """Of the file."""
        return segment_name(self.number)


def index_name(number: int) -> str:
    """Name of the index of the segment with this number."""
    return f"{number:020d}.idx"


def list_segments(folder: int) -> tuple[list[SegmentFile], int]:
    """The segments, in order, with the sizes of their files, and the bytes of all files set aside. OSError."""
    segments: list[SegmentFile] = []
    aside = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # retention of another process
                if SEGMENT_NAME.fullmatch(entry.name):
                    segments.append(SegmentFile(int(entry.name[:20]), entry.stat(follow_symlinks=False).st_size))
                elif entry.name.endswith(BAD_SUFFIX):
                    aside += entry.stat(follow_symlinks=False).st_size
    segments.sort(key=lambda segment: segment.number)
    return segments, aside


def open_store(path: Path) -> int:
    """Descriptor of a store's folder that is there, to read. The caller closes. StoreError."""
    if not path.is_dir():
        raise StoreError(f"{path}: there is no store")
    return open_folder(path)


def read_header(file: int, number: int, store: bytes | None) -> SegmentHeader:
    """The header of the segment that should have this number, of this store. StoreError if it is another, VersionError
    if a later version wrote it; OSError."""
    header = SegmentHeader.decode(os.pread(file, HEADER_BYTES, 0))
    if header.first != number:
        raise StoreError(f"the segment of number {header.first} under the name of number {number}")
    if store is not None and header.spool != store:
        raise StoreError("a segment of another store")
    return header


class Frames:
    """The frames of one segment file, in order, taken apart, over damage. `damage` counts the damaged stretches, up to
    the frame that `next` gave last."""

    def __init__(self, file: int, header: SegmentHeader, offset: int = HEADER_BYTES) -> None:
        self.header = header
        self.walk = Walk(file, header, offset)
        self._odd = 0

    @property
    def damage(self) -> int:
        """Damaged stretches so far. At the end of the file a torn tail is one of them."""
        return self.walk.damage + self._odd

    @property
    def good(self) -> int:
        """Offset behind the last whole frame."""
        return self.walk.decoder.good

    def next(self, limit: int) -> Entry | Note | None:
        """The next frame that ends at or before offset `limit`. OSError."""
        while (packed := self.walk.next(limit)) is not None:
            try:
                return read_frame(packed)
            except StoreError:
                self._odd += 1
        return None


def read_index(folder: int, header: SegmentHeader, size: int, where: Path) -> Index | None:
    """The index of this segment, if there is one that can be believed. StoreError if the file is not ours to read."""
    try:
        file = open_file(folder, index_name(header.first), os.O_RDONLY, where)
    except OSError:
        return None
    try:
        length = os.fstat(file).st_size
        return Index.decode(os.pread(file, length, 0), header.segment, size) if length <= MAX_INDEX else None
    except OSError:
        return None
    finally:
        os.close(file)


def make_index(folder: int, segment: SegmentFile, where: Path) -> tuple[SegmentHeader, Index]:
    """Header and index of a segment that is written no more; the index is made, and kept, if there is none. OSError;
    StoreError if it is no segment."""
    file = open_file(folder, segment.name, os.O_RDONLY, where)
    try:
        header = read_header(file, segment.number, None)
        index = read_index(folder, header, segment.size, where)
        if index is None:
            index = Index()
            frames = Frames(file, header)
            while (found := frames.next(segment.size)) is not None:
                if isinstance(found, Entry):
                    index.add(found)
            segment.damaged = frames.damage > 0 or frames.good < segment.size
            write_index(folder, segment.number, index.encode(header.segment, segment.size), where)
    finally:
        os.close(file)
    segment.newest = index.newest
    return header, index


def write_index(folder: int, number: int, content: bytes, where: Path) -> None:
    """Keep an index. Nothing depends on it: if it cannot be written, it is made again by who needs it."""
    name = index_name(number)
    with contextlib.suppress(OSError):
        write_new(folder, name, content, where)
        os.rename(name + NEW_SUFFIX, name, src_dir_fd=folder, dst_dir_fd=folder)


def write_new(folder: int, name: str, content: bytes, where: Path) -> None:
    """Write the file NAME.new, in place of one that is there. OSError, and then it is gone."""
    name += NEW_SUFFIX
    remove(folder, name)
    file = open_file(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, where)
    try:
        write_whole(file, content, 0)
    except OSError:
        remove(folder, name)
        raise
    finally:
        os.close(file)


def remove(folder: int, name: str) -> None:
    """Remove a file that may be gone already. OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def set_aside(folder: int, name: str) -> None:
    """Rename a file that cannot be used, to a name that is nobody's. OSError."""
    os.rename(name, f"{name}.{os.urandom(4).hex()}{BAD_SUFFIX}", src_dir_fd=folder, dst_dir_fd=folder)


@contextlib.contextmanager
def locked(folder: int, where: Path) -> Iterator[None]:
    """Be the only process that writes. StoreError if another one is."""
    file = open_file(folder, LOCK_NAME, os.O_RDWR | os.O_CREAT, where)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(file, 20, 0).decode("ascii", "backslashreplace").strip()
            raise StoreError(f"{where}: in use by process {owner or 'unknown'}") from error
        with contextlib.suppress(OSError):
            # Only for the message above: a full disk keeps nobody from opening the store.
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(file)


class End(NamedTuple):
    """How far the log was on disk. number, size: of the last segment. next: the number that the store gave next."""

    store: bytes
    number: int
    size: int
    next: int


class EndMark:
    """The file that says how far the log was on disk: written after it was, never before, so that a log that ends
    earlier than this says has lost something, which is not the torn rest of a write. Two slots, written in turn."""

    def __init__(self, folder: int, where: Path, *, write: bool) -> None:
        """Open it, or make it. OSError; StoreError if the file is not ours."""
        self._sequence = 0
        self.found: End | None = None
        self._file = -1
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        try:
            self._file = open_file(folder, END_NAME, flags, where)
        except FileNotFoundError:
            return
        data = os.pread(self._file, 2 * SLOT_STRIDE, 0)
        for start in (0, SLOT_STRIDE):
            slot = data[start : start + _END.size + _CRC.size]
            if len(slot) < _END.size + _CRC.size:
                continue
            magic, store, sequence, *numbers = _END.unpack_from(slot)
            whole = _CRC.unpack_from(slot, _END.size)[0] == zlib.crc32(slot[: _END.size])
            if magic == _END_MAGIC and whole and sequence > self._sequence:
                self._sequence, self.found = sequence, End(store, *numbers)

    def put(self, end: End) -> None:
        """Write it into the older slot. It is not synced: what it says may become older by that, not wrong. OSError."""
        self._sequence += 1
        slot = _END.pack(_END_MAGIC, end.store, self._sequence, end.number, end.size, end.next)
        write_whole(self._file, slot + _CRC.pack(zlib.crc32(slot)), self._sequence % 2 * SLOT_STRIDE)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
