"""Records of a store, of one host or of all, in the order in which they were stored, while it is written.

Reads files and nothing else, so it works beside the process that writes, and in another one. One file is open at a
time; at most a frame is held, and the index of one segment. What holds:

- What is given out is whole records, byte by byte as they were sent, each once, also while retention replaces segments.
- `next` is a number of the store. It names a place for ever: a reader that starts there gets what comes behind it,
  without what retention has removed meanwhile.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from audisp.buffer.segment import MAX_NUMBER, DamageError, FrameDecoder, SegmentHeader, VersionError
from audisp.collector.store_files import Frames, list_segments, open_store, read_header, read_index
from audisp.collector.store_frames import Entry, read_frame
from audisp.collector.store_index import Index, Row
from audisp.dispatch.folder import open_file
from audisp.dispatch.segments import segment_name
from audisp.errors import StoreError
from audisp.record import STAMP, Block

MILLI: Final = 1_000
NANO: Final = 1_000_000_000
FOREVER: Final = MAX_NUMBER
"""Milliseconds since the epoch that no stamp reaches."""


@attrs.frozen(eq=False)
class Chunk:
    """Records of one frame. first: its number in the store; next: the number behind it. identity, spool: whose stream;
    spool is b"" for a C program's. received: nanoseconds since the epoch. data: whole records."""

    first: int
    next: int
    identity: str
    spool: bytes
    received: int
    data: bytes

    def block(self) -> Block:
        """For the engine: the source is the identity, the time of arrival that of receipt."""
        waited = max(0, time.time_ns() - self.received) / NANO
        return Block(self.data, self.data.count(b"\n"), self.identity, time.monotonic() - waited)


@attrs.frozen
class Window:
    """Records whose stamps are not before `since` and not after `until`, in milliseconds since the epoch. A record
    without a stamp counts with the time of its receipt."""

    since: int = 0
    until: int = FOREVER

    def has_some(self, second: int, until: int) -> bool:
        """Whether there can be one among stamps of these seconds."""
        return until * MILLI + MILLI > self.since and second * MILLI <= self.until

    def has_all(self, second: int, until: int) -> bool:
        """Whether all stamps of these seconds are inside."""
        return self.since <= second * MILLI and until * MILLI + MILLI - 1 <= self.until

    def pick(self, data: bytes, received: int) -> bytes:
        """The records inside. received: nanoseconds since the epoch."""
        picked = []
        for line in data[:-1].split(b"\n"):
            found = STAMP.match(line)
            at = int(found[1]) * MILLI + int(found[2]) if found else received * MILLI // NANO
            if self.since <= at <= self.until:
                picked.append(line + b"\n")
        return b"".join(picked)


class _Place:
    """One segment being read. rows: its frames that are wanted, if an index told them; else all are walked."""

    def __init__(self, file: int, header: SegmentHeader, rows: Iterator[Row] | None) -> None:
        self.file, self.header, self.rows = file, header, rows
        self.number = header.first
        self.inode = os.fstat(file).st_ino
        self.frames = Frames(file, header)

    def size(self) -> int:
        return os.fstat(self.file).st_size


class Reader:
    """Records from a place on, to the end, and on from there when there is more.

    host: only this identity's; None: all. start: number in the store to begin at. durable: gives the segment that is
    written and its bytes that are on disk (`Store.durable`); None, for another process than the one that writes: what
    is whole is read, which at worst gives out what was never acknowledged, and comes again.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        host: str | None = None,
        window: Window | None = None,
        start: int = 0,
        durable: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.path = Path(folder)
        self.next = start
        """Number of the store at which reading goes on."""
        self.damage = 0
        """Damaged stretches, and segments that cannot be used, passed over so far."""
        self.missing = 0
        """Numbers passed over for which there was no frame that can be read: so many records were removed by
        retention, or are damaged. One more for each frame without records among them. Without `host` and `window`."""
        self._host = host
        self._window = window or Window()
        self._durable = durable
        self._ended: tuple[int, int] | None = None
        self._folder = -1
        self._place: _Place | None = None
        self._number = -1

    def __enter__(self) -> Self:
        """StoreError if there is no store."""
        self._folder = open_store(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        os.close(self._folder)

    def __iter__(self) -> Iterator[Chunk]:
        """Until there is no more for now."""
        while (chunk := self.read()) is not None:
            yield chunk

    def read(self) -> Chunk | None:
        """The next records; None if there are none for now. StoreError if the store cannot be read, or holds a segment
        of a later version."""
        try:
            durable = self._on_disk()
            if durable is not None and durable == self._ended:
                return None
            while True:
                chunk = self._read_on(durable)
                if chunk is not None:
                    return chunk
                number, last = self._following()
                if number is None:
                    # What is there of a frame that is being written may be another one when it is looked at again.
                    self._settle()
                    self._ended = durable
                    return None
                # Now that there is another segment, this one is as long as it gets; it may have grown since.
                durable = self._on_disk()
                chunk = self._read_on(durable)
                if chunk is not None:
                    return chunk
                self._open(number, last)
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error

    def _on_disk(self) -> tuple[int, int] | None:
        return None if self._durable is None else self._durable()

    def _limit(self, place: _Place, durable: tuple[int, int] | None) -> int:
        if durable == (0, 0):
            size = place.size()
            # The first segment may have been begun since we asked: then what was written to it need not be on disk. If
            # none has by now, the size was that of one that is not written to.
            durable = self._on_disk()
            if durable == (0, 0):
                return size
        if durable is None or place.number < durable[0]:
            return place.size()
        # One that was begun since is read when it is known how much of it is on disk.
        return durable[1] if place.number == durable[0] else 0

    def _read_on(self, durable: tuple[int, int] | None) -> Chunk | None:
        """The next records of the segment at hand."""
        place = self._place
        if place is None:
            return None
        limit = self._limit(place, durable)
        while (entry := self._next_entry(place, limit)) is not None:
            if entry.first < self.next:
                continue
            self.missing += entry.first - self.next
            self.next = entry.end
            if self._host not in (None, entry.key.identity) or not entry.packed.head.count:
                continue
            window = self._window
            if not window.has_some(entry.second, entry.until):
                continue
            try:
                data = entry.packed.unpack().data
            except DamageError:
                self.damage += 1
                self.missing += entry.packed.head.count
                continue
            if not window.has_all(entry.second, entry.until):
                data = window.pick(data, entry.received)
            if data:
                return Chunk(entry.first, entry.end, *entry.key, entry.received, data)
        return None

    def _next_entry(self, place: _Place, limit: int) -> Entry | None:
        if place.rows is not None:
            for row in place.rows:
                entry = self._entry_at(place, row)
                if entry is not None:
                    return entry
            return None
        before = place.frames.damage
        while (found := place.frames.next(limit)) is not None:
            self.damage += place.frames.damage - before
            before = place.frames.damage
            if isinstance(found, Entry):
                return found
        return None

    def _entry_at(self, place: _Place, row: Row) -> Entry | None:
        if not self._window.has_some(row.second, row.until) or not row.records or row.first < self.next:
            return None
        decoder = FrameDecoder(place.header.mark, row.offset)
        decoder.feed(os.pread(place.file, row.size, row.offset))
        try:
            packed = decoder.next()
            found = None if packed is None else read_frame(packed)
        except DamageError:
            found = None
        if isinstance(found, Entry) and found.first == row.first:
            return found
        self.damage += 1
        return None

    def _settle(self) -> None:
        place = self._place
        if place is not None and place.rows is None:
            place.frames = Frames(place.file, place.header, place.frames.good)

    # From segment to segment.

    def _following(self) -> tuple[int | None, bool]:
        """Number of the segment in which reading goes on, behind the one at hand, None: there is none, for now; and
        whether it is the last, which may be written to."""
        numbers = [segment.number for segment in list_segments(self._folder)[0]]
        at = bisect_right(numbers, self.next) - 1
        if at < 0 or (numbers[at] == self._number and not self._is_another()):
            at = bisect_right(numbers, self._number)
        # Else where the next number is to be found: behind the one at hand, or in what that became a part of.
        return (numbers[at], at == len(numbers) - 1) if at < len(numbers) else (None, False)

    def _is_another(self) -> bool:
        """Whether the segment at hand is not the file any more that has its name."""
        place = self._place
        if place is None:
            return False
        try:
            return os.stat(segment_name(place.number), dir_fd=self._folder, follow_symlinks=False).st_ino != place.inode
        except FileNotFoundError:
            return False

    def _open(self, number: int, last: bool) -> None:
        """Open a segment; if it cannot be used it is passed over. last: it may be written to."""
        self._leave()
        try:
            file = open_file(self._folder, segment_name(number), os.O_RDONLY, self.path)
        except FileNotFoundError:
            # Retention was faster; another look at the folder shows what to do.
            return
        self._number = number
        if number > self.next:
            self.missing += number - self.next
            self.next = number
        try:
            header = read_header(file, number, None)
            index = None if last else read_index(self._folder, header, os.fstat(file).st_size, self.path)
            self._place = _Place(file, header, None if index is None else self._rows(index))
        except VersionError as error:
            raise StoreError(f"{self.path}/{segment_name(number)}: {error}") from error
        except StoreError:
            self.damage += 1
        finally:
            if self._place is None:
                os.close(file)

    def _rows(self, index: Index) -> Iterator[Row] | None:
        """The frames that are wanted of a segment; None: all have to be walked."""
        if self._host is not None:
            return index.rows(index.of(self._host))
        return None if self._window.has_some(index.second, index.until) else iter(())

    def _leave(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            os.close(place.file)
