"""The log under the store: segments, the one that is written, and what is done to the others. Blocking.

It knows files, room and the disk's troubles; what is in a frame is the store's to know. What holds:

- `write` and `note` return when what they were given is on disk; if they do not return, nothing of it is there.
- After trouble it goes on by itself with the next write: nothing is given up for good.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from audisp.buffer.segment import ANCHOR, HEADER_BYTES, MAX_FRAME, SegmentHeader
from audisp.collector.retention import Policy, Rewritten
from audisp.collector.store_files import (
    NEW_SUFFIX,
    End,
    EndMark,
    SegmentFile,
    index_name,
    locked,
    remove,
    set_aside,
    write_index,
)
from audisp.collector.store_frames import Replaced, write_note, write_snapshot
from audisp.collector.store_index import MAX_FRAMES, Index
from audisp.collector.store_scan import Scan
from audisp.collector.store_streams import FIRST_NUMBER, Stream
from audisp.collector.store_tail import Tail
from audisp.dispatch.folder import open_file, open_folder
from audisp.errors import StoreError
from audisp.wire.native import Trouble

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that mean that there is no room, rather than that the disk is broken."""


class DiskTrouble(StoreError):
    """The disk has no room, or does not take what is written. trouble: the word for the senders."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        self.trouble = trouble
        super().__init__(message)


@attrs.frozen
class Space:
    """Bytes of the file system: free for us, and in all."""

    free: int
    total: int


class Log:
    """The segments in one folder. rows: gives the states of all streams, which each segment begins with."""

    def __init__(self, path: Path, policy: Policy, min_free: int, rows: Callable[[], Sequence[Stream]]) -> None:
        self.path = path
        self.policy = policy
        self.min_free = min_free
        self.folder = -1
        self.id = b""
        self.segments: list[SegmentFile] = []
        """All, the one that is written last."""
        self.tail: Tail | None = None
        self.index = Index()
        """Of the segment that is written; whoever writes a frame adds it."""
        self.next = FIRST_NUMBER
        """Number that the next frame gets."""
        self.trouble: DiskTrouble | None = None
        self.beginning = HEADER_BYTES
        """Bytes that the last segment began with, before any sender's frame."""
        self._rows = rows
        self._owed: list[SegmentFile] = []
        self._aside = 0
        self._full = 0
        self._wanted = self._copy = 0
        self._end: EndMark

    def open(self, stack: contextlib.ExitStack, max_hosts: int) -> Scan:
        """Take folder and lock until the stack is unwound; cut, set aside and finish what the end of the log shows to
        be unfinished. OSError, StoreError."""
        self.folder = open_folder(self.path)
        stack.callback(os.close, self.folder)
        stack.enter_context(locked(self.folder, self.path))
        self._end = EndMark(self.folder, self.path, write=True)
        stack.callback(self._end.close)
        stack.callback(self._close_tail)
        end = self._end.found
        scan = Scan(self.folder, self.path, max_hosts, end)
        self.segments, self._aside, self.next = scan.segments, scan.aside, scan.next
        self.id = scan.header.spool if scan.header is not None else os.urandom(16)
        if end is not None and end.store == self.id:
            # A number that was given once names that frame for ever, be it there or not.
            self.next = max(self.next, end.next)
        self.index, self.tail, self.trouble = scan.index, None, None
        self._owed.clear()
        self.beginning = scan.beginning
        self._clean(scan)
        self.unlink(scan.leftovers())
        if scan.header is not None and self.segments and self.segments[-1].number == scan.header.first:
            self._take_up(scan, scan.header)
        return scan

    def _clean(self, scan: Scan) -> None:
        for name in os.listdir(self.folder):
            if name.endswith(NEW_SUFFIX):
                remove(self.folder, name)
        for name in scan.unbegun:
            scan.findings.torn += 1
            scan.findings.torn_bytes += self._size_of(name)
            remove(self.folder, name)
        for name in scan.unusable:
            self._aside += self._size_of(name)
            set_aside(self.folder, name)
            scan.findings.aside += 1

    def _size_of(self, name: str) -> int:
        return os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_size

    def _take_up(self, scan: Scan, header: SegmentHeader) -> None:
        """Go on with the last segment."""
        last, findings = self.segments[-1], scan.findings
        if last.size > scan.good:
            if not scan.torn:
                # It was on disk once: damage, not the rest of a write. It stays as it is, for a person to look at.
                findings.damaged += 1
                last.damaged = True
                return
            findings.torn += 1
            findings.torn_bytes += last.size - scan.good
        self.tail = Tail.reopen(self.folder, header, scan.good, self.path)
        last.size = scan.good
        self._full = self.policy.segment_bytes + self.beginning

    def _close_tail(self) -> None:
        if self.tail is not None:
            self.tail.close()
            self.tail = None

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Turn an OSError into the trouble that it is."""
        try:
            yield
        except OSError as error:
            trouble = Trouble.DISK_FULL if error.errno in FULL else Trouble.DISK_ERROR
            raise self.troubled(trouble, f"{self.path}: {error.strerror}") from error

    def troubled(self, trouble: Trouble, message: str) -> DiskTrouble:
        """Remember trouble, to be raised."""
        self.trouble = DiskTrouble(trouble, message)
        return self.trouble

    @property
    def size(self) -> int:
        """Bytes of all segments, and of files set aside. From any thread."""
        return sum(segment.size for segment in tuple(self.segments)) + self._aside

    @property
    def sealed(self) -> list[SegmentFile]:
        """The segments that are not written any more, oldest first."""
        return self.segments[: -1 if self.tail is not None else None]

    def space(self) -> Space:
        """Of the file system. OSError."""
        status = os.fstatvfs(self.folder)
        return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)

    # Writing.

    def ready(self, now: int) -> Tail:
        """The segment to write to; a new one, with the rows of all streams, when that is due. DiskTrouble."""
        tail = self.tail
        if tail is not None and not tail.spent and tail.size < self._full and self.index.frames < MAX_FRAMES:
            return tail
        self.seal()
        header = SegmentHeader(self.id, os.urandom(16), max(0, now), self.next, ANCHOR)
        rows = write_snapshot(self._rows(), self.next, max(0, now), header.mark)
        with self.disk():
            tail = Tail.begin(self.folder, header, rows, self.path)
        if self.segments and self.segments[-1].number == self.next:
            # One without a record, whose name this one has taken.
            del self.segments[-1]
        self.segments.append(SegmentFile(self.next, tail.size))
        self.tail, self.index = tail, Index()
        # Rows do not count towards its size: with ten thousand hosts they are megabytes.
        self.beginning = tail.size
        self._full = self.policy.segment_bytes + tail.size
        return tail

    def write(self, tail: Tail, data: bytes) -> None:
        """Append frames to what `ready` gave. DiskTrouble."""
        self._wanted = len(data)
        with self.disk():
            free = self.space().free
            if free - len(data) < self.min_free:
                raise self.troubled(
                    Trouble.DISK_FULL,
                    f"{self.path}: {free >> 20} MiB are free, and {self.min_free >> 20} MiB are to stay so",
                )
            tail.write(data)
            tail.sync()
        self.segments[-1].size = tail.size
        self.trouble = None
        self._copy = 0

    def copy_failed(self) -> None:
        """There was no room to write a segment anew: until something is written, `probe` tries for that much, or
        it would tell the senders of room again and again."""
        self._copy = max((segment.size for segment in self.sealed), default=0)

    def mark_end(self, tail: Tail) -> None:
        """Say how far the log is on disk, `next` included."""
        # A cache: without it a log that somebody has cut is not told from one with a torn write at its end.
        with contextlib.suppress(OSError):
            self._end.put(End(self.id, tail.header.first, tail.size, self.next))

    def note(self, rows: Sequence[Stream], replaced: Replaced, now: int) -> None:
        """Write down what streams are from now on, and what is done to segments. DiskTrouble."""
        tail = self.ready(now)
        # Not held to min_free: it is a few rows, and what makes room.
        with self.disk():
            self._settle()
            tail.write(write_note(rows, replaced, self.next, max(0, now), tail.header.mark))
            tail.sync()
        self.segments[-1].size = tail.size
        self.mark_end(tail)

    def seal(self) -> None:
        """Write no more to the segment that is written. DiskTrouble if it has to be cut first and cannot be."""
        tail = self.tail
        if tail is None:
            return
        with self.disk():
            tail.mend()
        segment = self.segments[-1]
        segment.newest = self.index.newest
        write_index(self.folder, segment.number, self.index.encode(tail.header.segment, tail.size), self.path)
        self._close_tail()

    def probe(self) -> None:
        """See whether the disk would take as much as it did not take last. What is written for that is removed again.
        DiskTrouble if it would not."""
        name, size = f"probe{NEW_SUFFIX}", max(self._wanted, MAX_FRAME)
        with self.disk():
            if self.space().free - size < self.min_free:
                raise self.trouble or self.troubled(Trouble.DISK_FULL, f"{self.path}: no room")
            remove(self.folder, name)
            file = open_file(self.folder, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, self.path)
            try:
                # Writing segments anew is not held to min_free either.
                os.posix_fallocate(file, 0, max(size, self._copy))
                os.pwrite(file, b"\n", 0)
                os.fdatasync(file)
            finally:
                os.close(file)
                remove(self.folder, name)
            if self.tail is not None:
                self.tail.mend()
        self.trouble = None

    # Segments in place of others.

    def has(self, segments: Sequence[SegmentFile]) -> bool:
        """Whether all of these are there, written no more, and the very same that they were."""
        there = {id(segment) for segment in self.sealed}
        return all(id(segment) in there for segment in segments)

    def exchange(self, done: Rewritten) -> None:
        """Put what was made in the place of segments, once `note` has said so. DiskTrouble."""
        gone = list(done.segments)
        with self.disk():
            if done.by:
                assert done.index is not None
                first = gone.pop(0)
                os.rename(done.name, first.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
                # A new object, so that what was made of the old file is not taken for something made of this one.
                made = SegmentFile(first.number, done.size, done.index.newest, waste=False)
                self.segments[self.segments.index(first)] = made
                write_index(self.folder, first.number, done.index.encode(done.by, done.size), self.path)
            self.unlink(gone)

    def unlink(self, segments: Sequence[SegmentFile]) -> None:
        """Remove segments, once what takes their place is sure to be found. OSError; they are gone for this process,
        and it is tried again before the next note."""
        for segment in segments:
            self.segments.remove(segment)
        self._owed += segments
        self._settle()

    def _settle(self) -> None:
        if self._owed:
            os.fsync(self.folder)
            for segment in self._owed:
                remove(self.folder, segment.name)
                remove(self.folder, index_name(segment.number))
            os.fsync(self.folder)
            self._owed.clear()
