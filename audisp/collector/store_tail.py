"""The segment that is being written. Blocking; one thread at a time. What holds, whatever the disk does:

- Only what `sync` has returned for counts as written. After any failure the file is cut back to that, and nothing is
  written behind it, in this file or in the next one, before the cut is on disk: what was not acknowledged and comes
  again must not be there twice.
- A file whose fdatasync has failed is written no further. The kernel tells of such an error once, and then takes pages
  that never reached the disk for clean; what was synced before is not among them, a new file has new pages.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from audisp.buffer.segment import SegmentHeader
from audisp.collector.store_files import NEW_SUFFIX, remove
from audisp.dispatch.folder import open_file
from audisp.dispatch.segments import segment_name


class Tail:
    """A segment's file, open at its end. size: bytes that are on disk."""

    def __init__(self, file: int, header: SegmentHeader, size: int) -> None:
        self.header = header
        self.size = size
        self.spent = False
        """No more is written to it."""
        self._file = file
        self._written = size
        self._owes_cut = False

    @classmethod
    def reopen(cls, folder: int, header: SegmentHeader, size: int, where: Path) -> Tail:
        """The last segment, with a torn tail behind `size` cut off. What is before that is on disk when this returns:
        it was written, and perhaps not synced, by a process that was killed. OSError, StoreError."""
        file = open_file(folder, segment_name(header.first), os.O_RDWR | os.O_APPEND, where)
        try:
            os.ftruncate(file, size)
            os.fsync(file)
        except OSError:
            os.close(file)
            raise
        return cls(file, header, size)

    @classmethod
    def begin(cls, folder: int, header: SegmentHeader, rows: bytes, where: Path) -> Tail:
        """A new segment that begins with these frames, on disk when this returns. OSError, StoreError, and then there
        is nothing of it, or nothing that has a sender's record in it.

        It takes the place of one of its name, at once: that holds no record either, but perhaps notes, which are in
        these rows.
        """
        name = segment_name(header.first)
        remove(folder, name + NEW_SUFFIX)
        file = open_file(folder, name + NEW_SUFFIX, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, where)
        tail = cls(file, header, 0)
        try:
            tail.write(header.encode() + rows)
            tail.sync()
            os.rename(name + NEW_SUFFIX, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except OSError:
            tail.close()
            with contextlib.suppress(OSError):
                remove(folder, name + NEW_SUFFIX)
            raise
        return tail

    def write(self, data: bytes) -> None:
        """Append all of it, or nothing. OSError."""
        self.mend()
        view = memoryview(data)
        try:
            while view:
                done = os.write(self._file, view)
                view = view[done:]
        except OSError:
            self._cut()
            raise
        self._written += len(data)

    def sync(self) -> None:
        """Return when all that was written is on disk. OSError: then none of it is since the last time, and this
        segment is spent."""
        try:
            os.fdatasync(self._file)
        except OSError:
            self.spent = True
            self._cut()
            raise
        self.size = self._written

    def mend(self) -> None:
        """See that what failed is cut off, on disk. OSError if that is not so yet."""
        if self._owes_cut:
            os.ftruncate(self._file, self.size)
            os.fsync(self._file)
            self._owes_cut = False

    def _cut(self) -> None:
        """Cut off what failed. That is owed to the disk, too: a cut that is only in memory would leave whole frames
        behind if power is lost, after they were stored elsewhere. If it fails now it is tried again by `mend`."""
        self._written = self.size
        self._owes_cut = True
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self.size)

    def close(self) -> None:
        """Close the file; nothing is written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
