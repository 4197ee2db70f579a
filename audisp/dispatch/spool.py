"""The disk part of one plugin's queue: records go in at one end, come out in order at the other, and survive kill -9.

A spool is a private folder of segment files (docs/formats/segment.md), a cursor and a lock. Plain blocking code, to be
called from one thread at a time; the counters may be read from any thread. What holds:

- A record's number is given once; only numbers cut off with a torn tail, which nobody was told are safe, are given
  again. What `advance` acknowledged is not offered again after kill -9, and after power loss only where the last
  cursor write had not reached the disk: at least once.
- What `sync` returned for is on disk, and so is what `open` found. What was not synced when the machine died may be
  gone; the torn rest is cut and counted at the next open.
- A failed write leaves nothing half written. A failed sync ends writing until the spool is opened anew, because the
  kernel forgets such an error once it has told it, and a second fdatasync would say that all is well.
- Damage costs the damaged frame alone, is counted in records, and never stops what stands behind it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from audisp.buffer.segment import (
    ANCHOR,
    HEADER_BYTES,
    MAX_FRAME_PLAIN,
    DamageError,
    Frame,
    SegmentHeader,
    encode_frame,
    packer,
)
from audisp.dispatch.cursor import Cursor
from audisp.dispatch.folder import open_file, open_folder, save_aside, write_whole
from audisp.dispatch.segments import FIRST_RECORD, Findings, Scan, Segment, Walk, segment_name
from audisp.errors import StoreError
from audisp.record import Block, join

__all__ = ["SEGMENT_BYTES", "SYNC_BYTES", "SYNC_SECONDS", "Findings", "Spool", "save_aside"]

SEGMENT_BYTES: Final = 8 << 20
"""Segment size at which the next one is begun. Space comes back a segment at a time."""

MIN_SEGMENT_BYTES: Final = 64 << 10
"""A small spool still has segments of at least this size, so that it does not make a file for every frame."""

SHARE: Final = 8
"""A spool's bytes are spread over at least this many segments, so that the half-read one holds little of its room. An
active segment that was read to its end is removed once it has this part of a segment's size."""

SYNC_BYTES: Final = 1 << 20
SYNC_SECONDS: Final = 1.0
"""fdatasync is due after this many bytes or seconds (issue 2, "Queues, books, privileges")."""

MERGE_BYTES: Final = 256 << 10
"""Neighbouring blocks of one source share a frame up to this size: zstd gains little beyond it, and the runner hands
out about as much at a time."""

LOCK_NAME: Final = "lock"

NANO: Final = 1_000_000_000


class Spool:
    """A bounded queue of records on disk.

    max_bytes: most bytes of all segment files together. min_free: bytes that must stay free on the file system, as an
    unprivileged writer sees it (statvfs f_bavail). identity: whose stream it is, for the segment headers.
    As a context manager it is open inside the block.
    """

    merge_bytes = MERGE_BYTES
    """As MERGE_BYTES says; another number where nothing is handed out but whole frames."""

    def __init__(
        self,
        folder: Path | str,
        *,
        max_bytes: int,
        min_free: int,
        segment_bytes: int = SEGMENT_BYTES,
        identity: bytes = b"",
    ) -> None:
        self.path = Path(folder)
        self.findings = Findings()
        self.books: Mapping[str, Any] = {}
        """The books of the last frame: after `open` those that the process before us wrote."""
        self.records = 0
        """Records waiting: stored and not acknowledged."""
        self.position = FIRST_RECORD
        """Number of the next record to acknowledge."""
        self.next_record = FIRST_RECORD
        """Number that the next record to be stored will get."""
        self.synced = FIRST_RECORD
        """Records with a number below this are on disk."""
        self._max_bytes = max_bytes
        self._min_free = min_free
        self._segment_bytes = min(segment_bytes, max(MIN_SEGMENT_BYTES, max_bytes // SHARE))
        self._identity = identity
        self._opened: contextlib.ExitStack | None = None
        self._folder = -1
        self._cursor: Cursor
        self._spool = b""
        self._segments: deque[Segment] = deque()
        self._bad_bytes = 0
        # Writing: the last segment and its file, the hash of the last frame, and what fdatasync has yet to cover.
        self._active: Segment | None = None
        self._file = -1
        self._digest = self._anchor = ANCHOR
        self._failed: str | None = None
        self._packer = packer()
        self._unsynced = 0
        self._unsynced_since = 0.0
        # Reading: where the walk is, the frames read and not wholly acknowledged, and the bytes acknowledged of the
        # first of them.
        self._reading: Segment | None = None
        self._walk: Walk | None = None
        self._frames: deque[Frame] = deque()
        self._skip = 0

    @property
    def bytes(self) -> int:
        """Bytes of all segment files, those set aside included."""
        # tuple(): status reads this from another thread.
        return sum(segment.size for segment in tuple(self._segments)) + self._bad_bytes

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Opening and closing.

    def open(self) -> None:
        """Take the folder (made if missing, mode 0700) and its lock, and look through all segments.

        Cuts torn tails and sets unusable files aside; `findings` says so. StoreError if the folder is not private, is
        a symlink, is in use by another process, or cannot be read or written. Reads every byte, decompresses none, and
        syncs what it found.
        """
        if self._opened is not None:
            raise StoreError(f"{self.path}: is open already")
        with contextlib.ExitStack() as stack, self._said():
            self._folder = open_folder(self.path)
            stack.callback(os.close, self._folder)
            self._lock(stack)
            self._cursor = Cursor(self._folder, self.path)
            stack.callback(self._cursor.close)
            self._take(Scan(self._folder, self.path, self._cursor))
            self._sync_found()
            stack.callback(self._stop_writing)
            stack.callback(self._stop_reading)
            self._opened = stack.pop_all()

    def _sync_found(self) -> None:
        """What is there is on disk from here on: a killed process may have left it in the page cache alone, where a
        frame is found as well, and `synced` counts it. A file that is clean costs next to nothing."""
        for segment in self._segments:
            file = open_file(self._folder, segment.name, os.O_RDONLY, self.path)
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
        os.fsync(self._folder)

    def close(self) -> None:
        """Sync, store the cursor, let go of the folder. Nothing if not open. StoreError if syncing failed."""
        if self._opened is None:
            return
        opened, self._opened = self._opened, None
        with opened, self._said():
            if self._failed is None:
                self._sync()
            if self.records:
                self._cursor.store(self._spool, self.position, self._anchor)
                self._cursor.sync()
            else:
                self._remove(list(self._segments))

    def _lock(self, stack: contextlib.ExitStack) -> None:
        file = open_file(self._folder, LOCK_NAME, os.O_RDWR | os.O_CREAT, self.path)
        stack.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(file, 20, 0).decode("ascii", "backslashreplace").strip()
            raise StoreError(f"{self.path}: in use by process {owner or 'unknown'}") from error
        with contextlib.suppress(OSError):
            # Only for the message above: a full disk must not keep a spool from being emptied.
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d\n" % os.getpid(), 0)

    def _take(self, scan: Scan) -> None:
        self.findings, self.books, self.records = scan.findings, scan.books, scan.records
        self.position, self.next_record, self.synced = scan.position, scan.end, scan.end
        self._spool = scan.spool or os.urandom(16)
        self._segments = deque(scan.segments)
        self._bad_bytes, self._digest, self._anchor = scan.bad_bytes, scan.digest, scan.anchor
        self._failed, self._unsynced, self._skip = None, 0, 0
        self._frames.clear()
        if scan.consumed and not self._segments:
            self._keep_books()
        # Stored before anything is removed, so that the numbers of what is removed are never given again.
        self._cursor.store(self._spool, self.position, self._anchor)
        self._cursor.sync()
        for name in scan.consumed:
            os.unlink(name, dir_fd=self._folder)
        last = self._segments[-1] if self._segments else None
        if last is not None and last.size < self._segment_bytes and last.end == self.next_record:
            self._file = open_file(self._folder, last.name, os.O_RDWR, self.path)
            self._active = last

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Turn an OSError into a StoreError that names the folder."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error

    def _check_open(self) -> None:
        if self._opened is None:
            raise StoreError(f"{self.path}: is not open")

    # Writing.

    def append(self, blocks: Sequence[Block], books: Mapping[str, Any]) -> int:
        """Store blocks with the books of this moment; returns how many of them, from the first on, were taken.

        Fewer than all: the rest would exceed max_bytes or leave less than min_free, or writing failed after some were
        taken (the next call meets the error again). StoreError if writing failed and none was taken; what was written
        of it is removed. ValueError for a block whose `records` are not its lines. Stored is not synced: see `sync`.
        """
        self._check_open()
        taken = 0
        for group in _groups(blocks, self.merge_bytes):
            try:
                if not self._write(group, books) and not (self._make_room() and self._write(group, books)):
                    break
            except StoreError:
                if not taken:
                    raise
                break
            taken += len(group)
        return taken

    def _write(self, group: list[Block], books: Mapping[str, Any]) -> bool:
        """Store neighbouring blocks of one source, all or none. False: no room."""
        if self._failed is not None:
            raise StoreError(self._failed)
        whole = join(group)
        if not whole.data:
            return True
        active = self._active if self._active is not None and self._active.size < self._segment_bytes else None
        header = active.header if active is not None else self._header()
        stamp = _stamp(min(block.arrived for block in group))
        number, digest, parts = self.next_record, self._digest, []
        pieces = list(_pieces(whole))
        for at, data in enumerate(pieces, 1):
            # Looking for LF takes half as long as packing: of a whole block it is believed, and encode_frame looks.
            count = whole.records if len(pieces) == 1 else data.count(b"\n")
            # Only with its last frame is all of it there, should a crash cut it.
            said = books if at == len(pieces) else self.books
            frame = Frame(number, count, whole.source, said, digest, stamp, data)
            encoded, digest = encode_frame(frame, header.mark, self._packer)
            parts.append(encoded)
            number += count
        if number - self.next_record != whole.records:
            raise ValueError(f"block from {whole.source} says {whole.records} records and holds other lines")
        encoded = b"".join(parts)
        if not self._has_room(len(encoded) + (HEADER_BYTES if active is None else 0)):
            return False
        with self._said():
            if active is None:
                active = self._start(header)
            try:
                write_whole(self._file, encoded, active.size)
            except OSError:
                self._cut(active)
                raise
        if not self._unsynced:
            self._unsynced_since = time.monotonic()
        self._unsynced += len(encoded)
        active.size += len(encoded)
        active.end = number
        active.owed += whole.records
        self.records += whole.records
        self.next_record, self._digest, self.books = number, digest, books
        return True

    def _header(self) -> SegmentHeader:
        return SegmentHeader(
            self._spool, os.urandom(16), max(0, time.time_ns()), self.next_record, self._digest, self._identity
        )

    def _has_room(self, size: int) -> bool:
        if self.bytes + size > self._max_bytes:
            return False
        with self._said():
            status = os.fstatvfs(self._folder)
        return status.f_bavail * status.f_frsize - size >= self._min_free

    def _make_room(self) -> bool:
        """Remove the last segment if all of it was acknowledged. False if there was nothing to remove."""
        if self.records or not self._segments:
            return False
        with self._said():
            self._remove(list(self._segments))
        return True

    def _start(self, header: SegmentHeader) -> Segment:
        """Begin a segment. The one before is synced first, so that only the last one can have a torn tail."""
        self._sync()
        self._stop_writing()
        name = segment_name(header.first)
        file = open_file(self._folder, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, self.path)
        try:
            write_whole(file, header.encode(), 0)
            os.fsync(self._folder)
        except OSError:
            os.close(file)
            os.unlink(name, dir_fd=self._folder)
            raise
        self._file = file
        self._active = Segment(name, header, header.first)
        self._segments.append(self._active)
        return self._active

    def _cut(self, active: Segment) -> None:
        """Remove what a failed write left."""
        try:
            os.ftruncate(self._file, active.size)
        except OSError as error:
            self._failed = f"{self.path}/{active.name}: a failed write could not be undone: {error.strerror}"

    def bound(self, max_bytes: int, min_free: int) -> None:
        """Other bounds for what is stored from now on; what exceeds them already stays."""
        self._max_bytes, self._min_free = max_bytes, min_free

    def needs_sync(self, now: float) -> bool:
        """True if `sync` is due at time.monotonic() == now."""
        if not self._unsynced:
            return False
        return self._unsynced >= SYNC_BYTES or now - self._unsynced_since >= SYNC_SECONDS

    def sync(self) -> None:
        """Return when everything stored is on disk. StoreError if that failed, after which nothing can be stored."""
        self._check_open()
        with self._said():
            self._sync()

    def _sync(self) -> None:
        if self._failed is not None:
            raise StoreError(self._failed)
        if self._unsynced:
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._failed = f"{self.path}: syncing failed, so nothing more is stored: {error.strerror}"
                raise StoreError(self._failed) from error
        self._unsynced = 0
        self.synced = self.next_record

    def _stop_writing(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._active = -1, None

    # Reading.

    def read(self, max_bytes: int, *, skip: int = 0) -> list[Block]:
        """The next records, in order, about `max_bytes` of them and at least one if any waits; [] if none does.

        Acknowledges nothing: called again it gives the same records, until `advance`. skip: records to pass over, for
        a caller that still has that many in hand, read before and not acknowledged. What was read is held in memory
        until it is acknowledged, in whole frames. StoreError if the disk cannot be read.
        """
        self._check_open()
        blocks: list[Block] = []
        with self._said():
            index, start = self._seek(skip)
            while (max_bytes > 0 or not blocks) and (index < len(self._frames) or self._load()):
                frame = self._frames[index]
                stop = _stop(frame.data, start, max_bytes)
                if not stop:
                    if blocks:
                        break
                    # A single record longer than asked for.
                    stop = frame.data.index(b"\n", start) + 1
                data = frame.data[start:stop]
                blocks.append(Block(data, data.count(b"\n"), frame.origin, _arrived(frame.stamp)))
                if stop < len(frame.data):
                    break
                max_bytes -= len(data)
                index, start = index + 1, 0
        return blocks

    def _seek(self, skip: int) -> tuple[int, int]:
        """Which of the frames at hand, and which byte in it, stands `skip` records behind the position."""
        if not self._frames and not self._load():
            return 0, 0
        index, start, done = 0, self._skip, self._done()
        while index < len(self._frames) or self._load():
            frame = self._frames[index]
            if skip < frame.count - done:
                for _ in range(skip):
                    start = frame.data.index(b"\n", start) + 1
                return index, start
            skip -= frame.count - done
            index, start, done = index + 1, 0, 0
        return index, 0

    def advance(self, records: int) -> None:
        """Acknowledge the next `records` records that `read` gave; a part of a block will do.

        Removes segments that are done with. ValueError if that many were not read. StoreError if the cursor cannot be
        stored: the records stay acknowledged for this process, and might be offered again to the next one.
        """
        self._check_open()
        if not 0 <= records <= sum(frame.count for frame in self._frames) - self._done():
            raise ValueError(f"{records} records to acknowledge were not read")
        self.records -= records
        while records:
            frame = self._frames[0]
            position = max(self.position, frame.first)
            done = min(records, frame.end - position)
            records -= done
            self.position = position + done
            if self.position == frame.end:
                self._frames.popleft()
                self._skip = 0
            else:
                for _ in range(done):
                    self._skip = frame.data.index(b"\n", self._skip) + 1
        with self._said():
            self._settle()

    def oldest_age(self) -> float | None:
        """Seconds since the oldest waiting record arrived; None if none waits. Reads a frame if none is at hand."""
        self._check_open()
        with self._said():
            if not self._frames and not self._load():
                return None
        return max(0, time.time_ns() - self._frames[0].stamp) / NANO

    def _done(self) -> int:
        """Records of the first frame at hand that are acknowledged already."""
        return max(0, self.position - self._frames[0].first) if self._frames else 0

    def _load(self) -> bool:
        """Read one more frame; False at the end."""
        frame = self._next_frame()
        if frame is None:
            return False
        if not self._frames:
            for _ in range(self.position - frame.first):
                self._skip = frame.data.index(b"\n", self._skip) + 1
        self._frames.append(frame)
        return True

    def _next_frame(self) -> Frame | None:
        """The frame after those at hand; None at the end."""
        while True:
            segment = self._reading
            if segment is None or self._walk is None:
                if not self._segments:
                    return None
                segment, walk = self._read_from(self._segments[0])
            else:
                walk = self._walk
            packed = walk.next(segment.size)
            if packed is None:
                self._book_shortfall(segment)
                if self._reading is not segment:
                    # Nothing was left behind it, and all of it was removed.
                    return None
                following = self._segments.index(segment) + 1
                if following == len(self._segments):
                    return None
                self._read_from(self._segments[following])
                continue
            with contextlib.suppress(DamageError):
                if packed.head.end > self.position and packed.head.count:
                    frame = packed.unpack()
                    segment.loaded += frame.end - max(frame.first, self.position)
                    return frame

    def _read_from(self, segment: Segment) -> tuple[Segment, Walk]:
        self._stop_reading()
        walk = Walk(open_file(self._folder, segment.name, os.O_RDONLY, self.path), segment.header, segment.start)
        self._reading, self._walk = segment, walk
        return segment, walk

    def _stop_reading(self) -> None:
        if self._walk is not None:
            os.close(self._walk.file)
        self._reading = self._walk = None

    def _book_shortfall(self, segment: Segment) -> None:
        """Records that were there at open, or that we wrote, and that reading did not come by, are lost."""
        lost = segment.owed - segment.loaded
        if lost:
            self.findings.damaged += 1
            self.findings.lost += lost
            self.records -= lost
            segment.loaded = segment.owed
            if not self.records:
                self._settle()

    def _settle(self) -> None:
        """Store the position and remove the segments it has left behind."""
        if not self.records:
            # Over a hole at the end, too.
            self.position = self.next_record
        active = self._active
        left = [segment for segment in self._segments if segment.end <= self.position and segment is not active]
        if active is not None and not self.records and active.size >= self._segment_bytes // SHARE:
            left.append(active)
        if left:
            self._remove(left)
        else:
            self._cursor.store(self._spool, self.position, self._anchor)

    def _keep_books(self) -> None:
        """The last frame goes, and the books in it; whoever needs them keeps them now. May raise OSError."""

    def _remove(self, segments: list[Segment]) -> None:
        """Remove the first so many segments, after the position, so that no crash makes their numbers free again."""
        rest = len(self._segments) - len(segments)
        if not rest:
            self._keep_books()
        self._anchor = self._segments[len(segments)].header.previous if rest else self._digest
        self._cursor.store(self._spool, self.position, self._anchor)
        self._cursor.sync()
        for segment in segments:
            if segment is self._reading:
                self._stop_reading()
            if segment is self._active:
                self._stop_writing()
                self._unsynced = 0
                self.synced = self.next_record
            os.unlink(segment.name, dir_fd=self._folder)
            self._segments.remove(segment)


def _groups(blocks: Sequence[Block], most: int) -> Iterator[list[Block]]:
    """Neighbouring blocks of one source, up to `most` bytes together."""
    group: list[Block] = []
    size = 0
    for block in blocks:
        if group and (block.source != group[0].source or size + len(block.data) > most or not group[0].joins(block)):
            yield group
            group, size = [], 0
        group.append(block)
        size += len(block.data)
    if group:
        yield group


def _pieces(block: Block) -> Iterator[bytes]:
    """The data cut at record boundaries so that each piece fits a frame. ValueError for a record that fits none."""
    rest: Block | None = block
    while rest is not None:
        head, rest = rest.split(MAX_FRAME_PLAIN)
        if head is None:
            raise ValueError(f"a record from {block.source} is longer than a frame ({MAX_FRAME_PLAIN} bytes)")
        yield head.data


def _stop(data: bytes, start: int, room: int) -> int:
    """End of the last record that fits into `room` bytes from `start` on; 0 if none does."""
    if len(data) - start <= room:
        return len(data)
    return data.rfind(b"\n", start, start + max(0, room)) + 1


def _stamp(arrived: float) -> int:
    """Wall clock, in ns, of a monotonic time: monotonic time means nothing to the process that reads it back."""
    return max(0, time.time_ns() - int((time.monotonic() - arrived) * NANO))


def _arrived(stamp: int) -> float:
    """Monotonic time of a wall clock time; not in the future, whatever the wall clock did in between."""
    return time.monotonic() - max(0, time.time_ns() - stamp) / NANO
