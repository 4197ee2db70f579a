"""What the log says: a fold over its frames, from the last segment that begins with all rows, to the end.

Reads only; `Store.open` does what follows from it. A segment of ordinary size is read, so opening does not depend on
how much is stored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from audisp.buffer.segment import HEADER_BYTES, DamageError, SegmentHeader, VersionError
from audisp.collector.store_files import End, Frames, SegmentFile, list_segments, read_header
from audisp.collector.store_frames import Entry, Note, Replaced
from audisp.collector.store_index import Index
from audisp.collector.store_look import MAX_NODES
from audisp.collector.store_streams import FIRST_NUMBER, Anchor, Stream, Streams
from audisp.dispatch.folder import open_file
from audisp.errors import StoreError


@attrs.define
class Findings:
    """What was found wrong at open, in the part of the log that was looked at. `verify` looks at all of it.

    torn, torn_bytes: unfinished writes that were cut off, and their bytes. damaged: damaged stretches. cut: frames or
    records that had been on disk and are no longer there, by their numbers in the store. broken_chain: frames that do
    not follow the one before them in their stream. aside: segment files that could not be used, renamed. no_rows:
    segments whose rows could not be read, so that earlier ones had to be.
    """

    torn: int = 0
    torn_bytes: int = 0
    damaged: int = 0
    cut: int = 0
    broken_chain: int = 0
    aside: int = 0
    no_rows: int = 0


def follow(stream: Stream, entry: Entry) -> None:
    """Take a frame into its stream's state; it is the next one."""
    head = entry.packed.head
    stream.next, stream.last = entry.after.next, entry.after.last
    stream.digest = entry.packed.digest
    stream.seen = max(stream.seen, head.stamp)
    stream.records += head.count
    stream.size += entry.packed.size
    stream.missing += max(0, entry.after.next - entry.number - head.count)
    if entry.nodes and not set(entry.nodes) <= set(stream.nodes):
        stream.nodes = tuple(dict.fromkeys((*stream.nodes, *entry.nodes)))[:MAX_NODES]
    if entry.sequence is not None:
        stream.sequence, stream.message = entry.sequence, entry.digest


def begun_with(entry: Entry) -> Stream:
    """A stream of which this is the first frame that is known."""
    head = entry.packed.head
    last = b""
    # Where it is no frame, `verify` says so; it is no reason not to open the store.
    with contextlib.suppress(DamageError):
        frame = entry.sender_frame()
        last = b"" if frame is None else frame.head.previous
    return Stream(entry.key, entry.number, last, head.previous, Anchor(entry.first, head.previous, entry.number, last))


class Scan:
    """What the log of a store says. segments: all that are there, in order. aside: bytes of files set aside.

    header, good, index: of the last segment, whose file may have a tail behind `good`; header None: there is no
    segment. beginning: bytes of its header and of the rows that it begins with. torn: that tail is the rest of a write
    that was never said to be on disk. next: the number that the store gives next. replaced: the last thing that was
    done to segments. unusable: names of segments, not in `segments`, whose header cannot be used. unbegun: names of
    files that were never more than begun.
    """

    def __init__(self, folder: int, where: Path, max_hosts: int, end: End | None) -> None:
        """end: what the end mark says. OSError; StoreError for a later version's segment, or a file not ours."""
        self.findings = Findings()
        self.segments, self.aside = list_segments(folder)
        self.streams = Streams(max_hosts)
        self.header: SegmentHeader | None = None
        self.good = self.beginning = HEADER_BYTES
        self.torn = True
        self.index = Index()
        self.next = FIRST_NUMBER
        self.replaced: Replaced | None = None
        self.unusable: list[str] = []
        self.unbegun: list[str] = []
        self._folder, self._where = folder, where
        self._store: bytes | None = None
        for segment in self.segments[self._start() :]:
            with self._frames(segment) as frames:
                if frames is not None:
                    self._fold(frames, segment)
        if end is not None:
            self._compare(end)

    def _compare(self, end: End) -> None:
        if self.header is not None and end.store == self.header.spool:
            self.findings.cut = max(0, end.next - self.next)
            self.torn = (self.header.first, self.good) >= (end.number, end.size)

    def _start(self) -> int:
        """Where to begin: the last segment that begins with the rows of all streams, or the first one there is. What
        is no segment is taken off the list on the way."""
        place = len(self.segments)
        while place:
            place -= 1
            segment = self.segments[place]
            with self._frames(segment) as frames:
                if frames is None:
                    del self.segments[place]
                    continue
                rows, others = _look_for_rows(frames, segment.size)
            if rows:
                return place
            if not others and place == len(self.segments) - 1:
                self.unbegun.append(segment.name)
                del self.segments[place]
            else:
                self.findings.no_rows += 1
        return 0

    def leftovers(self) -> list[SegmentFile]:
        """Segments that something has taken the place of, and that are still there because the process that did it was
        killed. If the new file did not get its name there are none: what it would have left out is passed over by
        number. OSError."""
        replaced = self.replaced
        if replaced is None:
            return []
        there = [segment for segment in self.segments if segment.number in replaced.numbers]
        if not replaced.by or not there:
            return there
        with self._frames(there[0]) as frames:
            return there[1:] if frames is not None and frames.header.segment == replaced.by else []

    @contextlib.contextmanager
    def _frames(self, segment: SegmentFile) -> Iterator[Frames | None]:
        """The frames of a segment; None if it is none."""
        try:
            file = open_file(self._folder, segment.name, os.O_RDONLY, self._where)
        except FileNotFoundError:
            # Retention of the process that writes, while this one reads.
            yield None
            return
        try:
            header = read_header(file, segment.number, self._store)
        except VersionError as error:
            raise StoreError(f"{self._where}/{segment.name}: {error}") from error
        except StoreError:
            (self.unbegun if segment.size < HEADER_BYTES else self.unusable).append(segment.name)
            yield None
        else:
            self._store = header.spool
            yield Frames(file, header)
        finally:
            os.close(file)

    def _fold(self, frames: Frames, segment: SegmentFile) -> None:
        findings = self.findings
        self.header = frames.header
        self.next = max(self.next, frames.header.first)
        self.index = Index()
        self.beginning = HEADER_BYTES
        damage = 0
        while (found := frames.next(segment.size)) is not None:
            damage = frames.damage
            if isinstance(found, Note):
                for stream in found.rows:
                    self.streams.put(stream)
                for key in found.forgotten:
                    self.streams.forget(key)
                self.replaced = found.replaced or self.replaced
                if found.part:
                    self.beginning = frames.good
                continue
            self.index.add(found)
            self.next = max(self.next, found.end)
            self._follow(found)
        self.good = frames.good
        # Behind the last whole frame it is the tail that is damaged, and that is judged by itself.
        findings.damaged += damage if segment.size > frames.good else frames.damage

    def _follow(self, entry: Entry) -> None:
        stream = self.streams.get(entry.key)
        if stream is None:
            stream = begun_with(entry)
            self.streams.put(stream)
        if entry.first < stream.kept.first:
            # Removed by retention, which was killed before the file was replaced.
            return
        if entry.number < stream.next or entry.packed.head.previous != stream.digest:
            self.findings.broken_chain += 1
            if entry.number < stream.next:
                return
        follow(stream, entry)


def _look_for_rows(frames: Frames, limit: int) -> tuple[bool, bool]:
    """Whether a segment begins with the rows of all streams, and whether there is anything else in it."""
    part, whole = 0, True
    while isinstance(found := frames.next(limit), Note) and found.part:
        part += 1
        whole = whole and found.part == part and not frames.damage
        if whole and part == found.parts:
            return True, True
    return False, found is not None
