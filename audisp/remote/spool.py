"""A sender's stream on disk: the spool as its queue, and its frames as they lie there.

Numbers are the spool's: a record's number is given once. What holds beside the spool's own promises:

- Nothing is given out to be sent that is not on disk (`synced`), so that a number that a server has seen names that
  record for ever, also after power failure.
- Frames are read with descriptors of their own, so that sending and storing do not wait for each other.
- The books outlive the frames: what a sender must not forget (what it lost, how far it has each source) is kept in a
  file of its own when the last frame is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from audisp.buffer.segment import PackedFrame
from audisp.dispatch.folder import open_file
from audisp.dispatch.segments import Segment, Walk
from audisp.dispatch.spool import Spool
from audisp.record import Block
from audisp.remote.books import keep_books, kept_books
from audisp.wire.native import DataFrame

READ_WEIGHT: Final = 2 << 20
"""Frames are read until they weigh so much together (`DataFrame.weight`): two of the largest at a time in memory beside
the window's, and one turn of a thread for some twenty common ones."""


FRAME_BYTES: Final = 512 << 10
"""Neighbouring blocks share a frame up to this size. Each frame costs either end the same, some 0.3 ms, and what is
under way is counted in bytes; half of the largest, so that no single piece of work holds the interpreter for long."""


class Stream(Spool):
    """A spool whose records are sent. One thread at a time, but for what `FrameReader` does."""

    merge_bytes = FRAME_BYTES
    dropped_upto = 0
    """Records with a number below this may have been dropped to make room; 0: none were."""
    holed = False
    """A frame was found damaged that was whole at open, or that we wrote: numbers no longer tell how many there are."""
    _opened_at = 0
    """`position` at open."""
    _free = -1
    """Bytes free on the file system, less what was written since that was asked; -1: not asked yet."""

    @property
    def spool_id(self) -> bytes:
        """16 bytes that name the stream; to be asked for when it is open."""
        return self._spool

    def open(self) -> None:
        """As Spool.open; with the books kept when the last frame went."""
        super().open()
        with self._said():
            if not self.books:
                self.books = kept_books(self._folder, self.path)

    def note(self, books: Mapping[str, Any]) -> None:
        """Have these be the books, though no frame says so yet; on disk, if there is no frame at all. StoreError."""
        self._check_open()
        self.books = books
        if not self._segments:
            with self._said():
                self._keep_books()

    def _keep_books(self) -> None:
        if self.books:
            keep_books(self._folder, self.path, self.books)

    def front(self) -> tuple[int, bytes] | None:
        """Number of the oldest waiting record, and the records from it to the end of its frame; None if none waits.

        Only what is synced. StoreError if the disk cannot be read.
        """
        self._check_open()
        with self._said():
            if not self._frames and not self._load():
                return None
        frame = self._frames[0]
        if frame.end > self.synced:
            return None
        return max(self.position, frame.first), frame.data[self._skip :]

    def append(self, blocks: Sequence[Block], books: Mapping[str, Any]) -> int:
        """As Spool.append; the file system is asked once for all of them what is free."""
        self._free = -1
        return super().append(blocks, books)

    def _has_room(self, size: int) -> bool:
        if self.bytes + size > self._max_bytes:
            return False
        if self._free - size < self._min_free:
            with self._said():
                status = os.fstatvfs(self._folder)
            self._free = status.f_bavail * status.f_frsize
            if self._free - size < self._min_free:
                return False
        self._free -= size
        return True

    def settle_to(self, number: int) -> int:
        """Acknowledge all records with a lower number; how many these were. Nothing if they are already.

        StoreError as `advance`.
        """
        self._check_open()
        before = self.records
        while self.records and self.position < number:
            if not self._frames and (self._settle_by_number(number) or not self._loaded()):
                break
            frame = self._frames[0]
            start = max(self.position, frame.first)
            if start >= number:
                break
            self.advance(min(frame.end, number) - start)
        return before - self.records

    def _loaded(self) -> bool:
        with self._said():
            return self._load()

    def _settle_by_number(self, number: int) -> bool:
        """Acknowledge without a look at the frames, none of which is at hand: they were read once, to be sent. False:
        some of them may be missing, so that they have to be looked at."""
        number = min(number, self.next_record)
        those = [each for each in self._segments if each.header.first < number and each.end > self.position]
        if self.holed or not all(each.owed == each.end - max(each.header.first, self._opened_at) for each in those):
            return False
        for segment in those:
            count = min(number, segment.end) - max(segment.header.first, self.position)
            segment.loaded += count
            self.records -= count
        self.position = number
        if self._reading is not None and self._reading is not self._active and self._reading.end <= number:
            self._stop_reading()
        with self._said():
            self._settle()
        return True

    def drop_oldest(self) -> int:
        """Give up the oldest segment's records to make room; how many. 0: none waits."""
        self._check_open()
        segments = tuple(self._segments)
        upto = segments[1].header.first if len(segments) > 1 else self.next_record
        dropped = self.settle_to(upto)
        if dropped:
            self.dropped_upto = upto
        return dropped

    def segments_from(self, number: int) -> list[Segment]:
        """The segments in which records from this number on may be, in order. From any thread."""
        found = list(self._segments)
        while len(found) > 1 and found[1].header.first <= number:
            del found[0]
        return found

    def open_segment(self, segment: Segment) -> int | None:
        """A descriptor of the segment's file, to be closed by the caller; None if it was removed meanwhile."""
        with self._said(), contextlib.suppress(FileNotFoundError):
            return open_file(self._folder, segment.name, os.O_RDONLY, self.path)
        return None

    def hash_at_end(self) -> tuple[int, bytes]:
        """Number of the record to come, and the hash that its frame will have as `previous`."""
        return self.next_record, self._digest


class FrameReader:
    """The frames of a stream from one number on, as bytes. Blocking; one thread at a time, beside the one that writes.

    The first frame may begin before the number: frames are not cut.
    """

    def __init__(self, stream: Stream, number: int) -> None:
        self._stream = stream
        self._at = number
        self._segment: Segment | None = None
        self._walk: Walk | None = None
        self._ahead: DataFrame | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self._walk is not None:
            os.close(self._walk.file)
        self._walk = self._segment = None

    def peek(self) -> DataFrame | None:
        """The next frame, which stays; None if there is none on disk. StoreError if the disk cannot be read."""
        if self._ahead is None:
            with self._stream._said():
                self._ahead = self._next()
        return self._ahead if self._ahead is not None and self._ahead.head.end <= self._stream.synced else None

    def read(self, weight: int = READ_WEIGHT) -> list[DataFrame]:
        """The next frames, so heavy together, and at least one if there is one."""
        found: list[DataFrame] = []
        while weight > 0 and (frame := self.peek()) is not None:
            found.append(frame)
            weight -= frame.weight
            self._at, self._ahead = frame.head.end, None
        return found

    def _next(self) -> DataFrame | None:
        for packed, walk in self._packed():
            if packed.head.end > self._at and packed.head.count:
                if packed.head.first > max(self._at, self._stream.position):
                    self._stream.holed = True
                return DataFrame.of(packed, os.pread(walk.file, packed.size, packed.offset))
        return None

    def _packed(self) -> Iterator[tuple[PackedFrame, Walk]]:
        while True:
            if self._walk is None and not self._open_next():
                return
            assert self._walk is not None
            assert self._segment is not None
            # Whether another segment follows is asked first: then this one grows no more, and its size is final.
            last = self._is_last()
            packed = self._walk.next(self._segment.size)
            if packed is not None:
                yield packed, self._walk
            elif last or not self._open_next():
                return

    def _is_last(self) -> bool:
        """Whether no segment follows the one that is open, which is looked up again: the spool may be, too."""
        assert self._segment is not None
        listed = self._stream.segments_from(self._at)
        for each in listed:
            if each.header.segment == self._segment.header.segment:
                self._segment = each
        return not listed or listed[-1] is self._segment

    def _open_next(self) -> bool:
        """Go on with the segment behind the one that is open, or with the one where the number is."""
        while True:
            done = self._segment
            candidates = [
                each
                for each in self._stream.segments_from(self._at)
                if done is None or each.header.first > done.header.first
            ]
            if not candidates:
                return False
            file = self._stream.open_segment(candidates[0])
            if file is None:
                # Removed since: the list is another one now.
                if candidates[0] in self._stream.segments_from(self._at):
                    return False
                continue
            self.close()
            self._segment, self._walk = candidates[0], Walk(file, candidates[0].header)
            return True
