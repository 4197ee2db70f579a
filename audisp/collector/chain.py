"""Whether what is stored is what was stored: a walk over all frames of a store, along the chain of each stream.

Indexes and the rows that segments begin with are not believed but compared. What can be told apart, for each stream:

- intact: every frame follows the one before it, from the first record on;
- dropped: the same, and what is missing at the beginning was removed by retention, which wrote down where it stopped;
- damaged: frames are missing, and where they stood there is something that cannot be read;
- truncated: what is missing is the end, which something later knows of: a segment's rows, or the end mark;
- removed: frames are missing, and nothing says why;
- edited: a frame is there that is not the one that its successor, or its sender's hash, is about.

Without seals nothing helps against somebody who does the rest of the log anew, and the end mark with it.
"""

from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path
from typing import Final

import attrs

from audisp.buffer.segment import DamageError, SegmentHeader
from audisp.collector.store_files import EndMark, Frames, SegmentFile, open_store, read_header
from audisp.collector.store_frames import Entry, Note
from audisp.collector.store_scan import Scan
from audisp.collector.store_streams import Stream, StreamKey
from audisp.dispatch.folder import open_file
from audisp.errors import StoreError

MAX_PROBLEMS: Final = 16
"""Problems of one stream that are told one by one; of the others there is only the number."""

ATTEMPTS: Final = 5
"""Times that a store is walked over, if retention changes it meanwhile."""


class Verdict(IntEnum):
    """What is true of a stream, or of all; the worse the higher."""

    INTACT = 0
    DROPPED = 1
    DAMAGED = 2
    TRUNCATED = 3
    REMOVED = 4
    EDITED = 5

    def __str__(self) -> str:
        return self.name.lower()


@attrs.frozen
class Problem:
    """Something wrong. first, count: records of the stream that it is about. segment, offset: where it shows."""

    verdict: Verdict
    first: int
    count: int
    segment: str
    offset: int
    text: str

    def __str__(self) -> str:
        last = self.first + self.count - 1
        span = f"record {self.first}" if self.count == 1 else f"records {self.first} to {last}"
        where = span if self.count else f"before record {self.first}"
        return f"{self.verdict}: {where}: {self.text} ({self.segment} at {self.offset})"


@attrs.frozen
class StreamReport:
    """What was found of a stream. first, next: numbers of its first record that is kept, and of the one to come.
    records: that are there. dropped: that retention removed. missing: that the sender said it no longer had."""

    key: StreamKey
    verdict: Verdict
    first: int
    next: int
    records: int
    dropped: int
    missing: int
    problems: tuple[Problem, ...] = ()
    more: int = 0


@attrs.frozen
class Report:
    """What was found of a store. torn_bytes: of a write at the end that is not finished. damaged: stretches that cannot
    be read. cut: how many numbers the log is shorter than it was. unusable: segments without a header, by name."""

    streams: tuple[StreamReport, ...]
    segments: int
    torn_bytes: int
    damaged: int
    cut: int
    unusable: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        found = [stream.verdict for stream in self.streams]
        if self.damaged or self.unusable:
            found.append(Verdict.DAMAGED)
        if self.cut:
            found.append(Verdict.TRUNCATED)
        return max(found, default=Verdict.INTACT)

    @property
    def status(self) -> int:
        """For an exit status: 0, everything that should be there is there; 1, it is not."""
        return int(self.verdict > Verdict.DROPPED)


def verify(folder: Path | str, host: str | None = None) -> Report:
    """Walk over a store, which another process may be writing to. host: report of this one only. Reads every byte.

    StoreError if there is no store, it cannot be read, a later version wrote it, or it does not stand still.
    """
    path = Path(folder)
    opened = open_store(path)
    try:
        for _ in range(ATTEMPTS):
            walk = _Walk(opened, path, host)
            before = walk.identities()
            if walk.run() and walk.identities() == before:
                return walk.report()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    finally:
        os.close(opened)
    raise StoreError(f"{path}: segments were replaced each of the {ATTEMPTS} times that it was looked through")


class _Walk:
    """One walk over a store."""

    def __init__(self, folder: int, where: Path, host: str | None) -> None:
        self._folder, self._where, self._host = folder, where, host
        mark = EndMark(folder, where, write=False)
        mark.close()
        self._scan = Scan(folder, where, 0, mark.found)
        self._leftovers = {segment.number for segment in self._scan.leftovers()}
        self._checks: dict[StreamKey, _Check] = {}
        self._damage = 0
        self._unusable: list[str] = [*self._scan.unusable]

    def identities(self) -> list[tuple[int, int]]:
        """What tells that a segment was replaced. Those that can only grow are the same."""
        found = []
        for segment in self._scan.segments:
            try:
                found.append((segment.number, os.stat(segment.name, dir_fd=self._folder).st_ino))
            except FileNotFoundError:
                found.append((segment.number, 0))
        return found

    def run(self) -> bool:
        """False: a segment went away."""
        for stream in self._scan.streams:
            self._check_of(stream.key, stream)
        last = self._scan.segments[-1] if self._scan.segments else None
        store: bytes | None = None if self._scan.header is None else self._scan.header.spool
        for segment in self._scan.segments:
            if segment.number in self._leftovers:
                continue
            limit = self._scan.good if segment is last else segment.size
            try:
                file = open_file(self._folder, segment.name, os.O_RDONLY, self._where)
            except FileNotFoundError:
                return False
            try:
                header = read_header(file, segment.number, store)
            except StoreError:
                self._unusable.append(segment.name)
                self._damage += 1
            else:
                self._walk(file, header, segment, limit)
            finally:
                os.close(file)
        return True

    def _walk(self, file: int, header: SegmentHeader, segment: SegmentFile, limit: int) -> None:
        frames = Frames(file, header)
        before = self._damage
        while (found := frames.next(limit)) is not None:
            self._damage = before + frames.damage
            if isinstance(found, Note):
                for row in found.rows:
                    self._check_of(row.key).compare(row, found.first, segment.name, frames.good, self._damage)
                for key in found.forgotten:
                    self._check_of(key).forget()
            else:
                self._check_of(found.key).follow(found, segment.name, self._damage)
        self._damage = before + frames.damage + (frames.good < limit and not frames.damage)

    def _check_of(self, key: StreamKey, stream: Stream | None = None) -> _Check:
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = _Check(key, stream)
        return check

    def report(self) -> Report:
        """What was found."""
        scan = self._scan
        tail = scan.segments[-1].size - scan.good if scan.segments else 0
        streams = [check.report() for check in self._checks.values() if self._host in (None, check.key.identity)]
        return Report(
            tuple(sorted(streams, key=lambda each: each.key)),
            len(scan.segments),
            tail if scan.torn else 0,
            self._damage + (tail > 0 and not scan.torn),
            scan.findings.cut,
            tuple(self._unusable),
        )


class _Check:
    """One stream on the way along its chain. stream: what the end of the log says of it; None: it was forgotten, as one
    of more than MAX_STREAMS, so that where it begins is not known."""

    def __init__(self, key: StreamKey, stream: Stream | None) -> None:
        self.key = key
        self._stream = stream
        self._known = stream is not None
        self._next, self._digest, self._last = 1, b"", b""
        if stream is not None:
            _, self._digest, self._next, self._last = stream.kept
        self._first = self._next
        self._before = (self._next, 0)
        self._said = False
        self._records = self._missing = 0
        self._damage = 0
        self._owed: Problem | None = None
        self._worst = Verdict.INTACT
        self._problems: list[Problem] = []
        self._more = 0

    def follow(self, entry: Entry, segment: str, damage: int) -> None:
        """The next frame. damage: damaged stretches so far."""
        stream, packed = self._stream, entry.packed
        if stream is not None and entry.first < stream.kept.first:
            # Removed by right, by a retention that was killed before it had replaced the file.
            return
        if self._owed is not None:
            # The end was missing then, and here it goes on.
            self._add(attrs.evolve(self._owed, verdict=Verdict.REMOVED))
            self._owed = None
        if not self._known:
            self._first = self._first if self._records else entry.number
            self._next, self._last, self._said = entry.number, b"", False
            self._digest, self._known = packed.head.previous, True
        offset, said = packed.offset, False
        joined = entry.number == self._next
        if entry.number > self._next:
            self._lack(entry.number, segment, offset, damage)
        elif not joined:
            text = f"comes where {self._next} is next"
            self._add(Problem(Verdict.EDITED, entry.number, packed.head.count, segment, offset, text))
        elif packed.head.previous != self._digest and not self._said:
            first, count = self._before
            text = (
                "not what the next frame follows" if count else "the first frame kept does not follow what was removed"
            )
            self._add(Problem(Verdict.EDITED, first, count, segment, offset, text))
        wrong = self._look_inside(entry, joined)
        if wrong is not None:
            said = True
            self._add(Problem(Verdict.EDITED, entry.number, packed.head.count, segment, offset, wrong))
        self._next, self._last = entry.after.next, entry.after.last
        self._digest = packed.digest
        self._before, self._said, self._damage = (entry.number, packed.head.count), said, damage
        self._records += packed.head.count
        self._missing += max(0, entry.after.next - entry.number - packed.head.count)

    def _look_inside(self, entry: Entry, joined: bool) -> str | None:
        """What is wrong with the sender's frame, or its records."""
        try:
            entry.packed.unpack()
            frame = entry.sender_frame()
        except DamageError as error:
            return f"not a frame as it came: {error}"
        if frame is None:
            return None
        if (frame.first, frame.count, frame.after) != (entry.number, entry.packed.head.count, entry.after):
            return "the sender's frame is not the one that was stored"
        if joined and self._last and frame.head.previous != self._last:
            return "does not follow the one before it in its sender's chain"
        return None

    def _lack(self, until: int, segment: str, offset: int, damage: int) -> None:
        verdict = Verdict.DAMAGED if damage > self._damage else Verdict.REMOVED
        text = "cannot be read" if verdict is Verdict.DAMAGED else "missing, and nothing says why"
        self._add(Problem(verdict, self._next, until - self._next, segment, offset, text))

    def compare(self, row: Stream, at: int, segment: str, offset: int, damage: int) -> None:
        """What the store itself said of the stream, at this place of the log. at: the store's number there."""
        stream = self._stream
        if not self._known or (stream is not None and at <= stream.kept.first):
            # Of what was removed since, or of the stream before it was forgotten.
            return
        if row.next > self._next:
            lacking = Problem(
                Verdict.TRUNCATED, self._next, row.next - self._next, segment, offset, "stored once, and missing"
            )
            if damage > self._damage:
                self._add(attrs.evolve(lacking, verdict=Verdict.DAMAGED, text="cannot be read"))
            else:
                self._owed = lacking
        elif (row.next, row.digest) != (self._next, self._digest) and not self._said:
            first, count = self._before
            self._add(Problem(Verdict.EDITED, first, count, segment, offset, "not what was the last frame then"))
        else:
            return
        self._next, self._digest, self._last, self._said = row.next, row.digest, row.last, False
        self._before, self._damage = (row.next, 0), damage

    def forget(self) -> None:
        """The store forgot it. If it comes back it begins anew, wherever that is."""
        if self._stream is None:
            self._known = False

    def _add(self, problem: Problem) -> None:
        self._worst = max(self._worst, problem.verdict)
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)
        else:
            self._more += 1

    def report(self) -> StreamReport:
        """What was found of it."""
        if self._owed is not None:
            self._add(self._owed)
            self._owed = None
        dropped = 0 if self._stream is None else self._stream.dropped
        least = Verdict.DROPPED if dropped or (self._stream is None and self._first > 1) else Verdict.INTACT
        return StreamReport(
            self.key,
            max(least, self._worst),
            self._first,
            self._next,
            self._records,
            dropped,
            self._missing,
            tuple(self._problems),
            self._more,
        )


def words(report: Report) -> list[str]:
    """The report for people, line by line."""
    lines = []
    for stream in report.streams:
        spool = stream.key.spool.hex() if stream.key.spool else "C program"
        kept = f"{stream.records:,} records" + (f" from {stream.first}" if stream.records else "")
        extra = "".join(
            f", {count:,} {what}"
            for count, what in ((stream.dropped, "removed by retention"), (stream.missing, "lost by the sender"))
            if count
        )
        lines.append(f"{stream.key.identity} {spool}: {stream.verdict}: {kept}{extra}")
        lines += [f"  {problem}" for problem in stream.problems]
        if stream.more:
            lines.append(f"  and {stream.more:,} more")
    for count, what in (
        (report.damaged, "damaged stretches"),
        (report.cut, "numbers are missing at the end, which had been on disk"),
        (report.torn_bytes, "bytes of an unfinished write at the end, which nobody was told are stored"),
    ):
        if count:
            lines.append(f"{count:,} {what}")
    lines += [f"{name}: no segment of this store" for name in report.unusable]
    lines.append(f"{report.segments:,} segments: {report.verdict}")
    return lines
