"""The segment files of a spool's folder: walking one over damage, and looking through all of them at open.

What the look-through decides:
- A tail behind which no whole frame stands is the torn rest of a write (kill -9, power loss): cut off and counted.
- Damage with a whole frame behind it is passed over and counted, in records where the numbers tell.
- A file whose header is not usable is renamed with BAD_SUFFIX, for a person to look at.
- A file of a later format version, a symlink, a file of somebody else's: StoreError, nothing is changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.buffer.segment import (
    HEADER_BYTES,
    DamageError,
    FrameDecoder,
    PackedFrame,
    SegmentHeader,
    VersionError,
)
from audisp.dispatch.cursor import Cursor
from audisp.dispatch.folder import open_file
from audisp.errors import StoreError

READ_BYTES: Final = 256 << 10
"""Bytes of a segment read at once."""

FIRST_RECORD: Final = 1
"""Number of a new spool's first record; 0 stays free to mean none."""

BAD_SUFFIX: Final = ".bad"
"""Appended to the name of a segment file whose header cannot be used. Its bytes count towards the spool's bound."""

SEGMENT_NAME: Final = re.compile(r"\d{20}\.seg")


def segment_name(first: int) -> str:
    """File name of the segment that begins with this record, so that names sort as records do."""
    return f"{first:020d}.seg"


@attrs.define
class Findings:
    """What was found wrong in the spool since it was opened.

    torn, torn_bytes: unfinished writes that were cut off, and their bytes. damaged: damaged stretches passed over.
    lost: records that were once stored and are no longer there (those cut off with a torn tail are not among them:
    their number is not known). broken_chain: frames whose hash of the frame before is not right though no damage
    explains it: somebody changed or removed frames. aside: segment files set aside with BAD_SUFFIX. cursor_lost: the
    cursor was missing or unreadable, so that everything still here is offered again.
    """

    torn: int = 0
    torn_bytes: int = 0
    damaged: int = 0
    lost: int = 0
    broken_chain: int = 0
    aside: int = 0
    cursor_lost: bool = False


@attrs.define(eq=False)
class Segment:
    """One segment file.

    end: number after its last record. size: its good bytes. start: offset of the first frame not wholly acknowledged
    at open. owed: records from there on that are to be delivered; loaded: how many of these the reader has come by.
    """

    name: str
    header: SegmentHeader
    end: int
    size: int = HEADER_BYTES
    start: int = HEADER_BYTES
    owed: int = 0
    loaded: int = 0


class Walk:
    """The frames of one segment file, in order, over damage. `damage` counts the damaged stretches passed."""

    def __init__(self, file: int, header: SegmentHeader, offset: int = HEADER_BYTES) -> None:
        self.file = file
        self.decoder = FrameDecoder(header.mark, offset)
        self.damage = 0
        self._expected = header.first

    def next(self, limit: int) -> PackedFrame | None:
        """The next whole frame that ends at or before offset `limit`. OSError as pread raises it."""
        while True:
            try:
                packed = self.decoder.next()
            except DamageError:
                self.damage += 1
                continue
            if packed is None:
                at = self.decoder.fed
                data = os.pread(self.file, min(READ_BYTES, limit - at), at) if at < limit else b""
                if not data:
                    return None
                self.decoder.feed(data)
            elif packed.head.first < self._expected:
                # Numbers go up. A frame that says otherwise would offer records twice.
                self.damage += 1
            else:
                self._expected = packed.head.end
                return packed


class Scan:
    """What the segment files of a folder hold. Made by one look through all of them, which reads every byte.

    segments: those with records to deliver, in order. consumed: names of those without. position: next record to
    deliver. end: next number to give. digest: hash for the next frame. anchor: hash of the last frame before the first
    segment. bad_bytes: bytes of files set aside. spool: None if nothing names the spool yet.
    """

    def __init__(self, folder: int, where: Path, cursor: Cursor) -> None:
        """OSError if the folder cannot be read or a tail cannot be cut; StoreError as the module says."""
        self.findings = Findings(cursor_lost=cursor.spoiled)
        self.segments: list[Segment] = []
        self.consumed: list[str] = []
        self.spool = cursor.spool
        self.digest = self.anchor = cursor.anchor
        self.books: Mapping[str, Any] = {}
        self.bad_bytes = 0
        self.end = cursor.position or FIRST_RECORD
        self._position = cursor.position
        self._folder = folder
        self._where = where
        # The hashes a first kept segment may go on from: what the cursor says, or a segment that should be gone.
        self._anchors = {cursor.anchor} if cursor.position is not None else None
        self._tail_cut = False
        for name in sorted(os.listdir(folder)):
            if name.endswith(BAD_SUFFIX):
                self.bad_bytes += os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
            elif SEGMENT_NAME.fullmatch(name):
                self._open(name)
        self.position = self._position or FIRST_RECORD
        self.records = sum(segment.owed for segment in self.segments)

    def _open(self, name: str) -> None:
        file = open_file(self._folder, name, os.O_RDWR, self._where)
        try:
            size = os.fstat(file).st_size
            if size < HEADER_BYTES:
                # Killed between making the file and writing its header: nothing was ever stored in it.
                self.findings.torn += 1
                self.findings.torn_bytes += size
                os.unlink(name, dir_fd=self._folder)
                return
            try:
                header = SegmentHeader.decode(os.pread(file, HEADER_BYTES, 0))
            except VersionError as error:
                raise StoreError(f"{self._where}/{name}: {error}") from error
            except StoreError:
                self._set_aside(name, size)
                return
            last_end = self.segments[-1].end if self.segments else 0
            if name != segment_name(header.first) or header.first < last_end or self.spool not in (None, header.spool):
                self._set_aside(name, size)
                return
            self.spool = header.spool
            self._look_through(name, header, file, size)
        finally:
            os.close(file)

    def _set_aside(self, name: str, size: int) -> None:
        # A name of its own each time, so that nothing set aside before is overwritten.
        aside = f"{name}.{os.urandom(4).hex()}{BAD_SUFFIX}"
        os.rename(name, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.findings.aside += 1
        self.bad_bytes += size
        self._tail_cut = True

    def _look_through(self, name: str, header: SegmentHeader, file: int, size: int) -> None:
        findings = self.findings
        if self._position is None:
            findings.cursor_lost = True
            self._position = self.end = header.first
        position = self._position
        segment = Segment(name, header, header.first)
        walk = Walk(file, header)
        damage = 0
        digest = header.previous
        while (packed := walk.next(size)) is not None:
            head = packed.head
            if walk.damage > damage:
                findings.damaged += walk.damage - damage
                damage = walk.damage
            elif head.previous != digest:
                findings.broken_chain += 1
            digest = packed.digest
            findings.lost += max(0, head.first - max(self.end, position))
            self.end = max(self.end, head.end)
            if head.end > position and head.count:
                if not segment.owed:
                    segment.start = packed.offset
                segment.owed += head.end - max(head.first, position)
            segment.end = head.end
            self.books = head.books
        segment.size = walk.decoder.good
        if segment.end <= position:
            self.consumed.append(name)
            self.anchor = self.digest = digest
            if self._anchors is not None:
                self._anchors.add(digest)
        else:
            before = self._anchors if not self.segments else {self.digest}
            if before is not None and header.previous not in before and not self._tail_cut:
                findings.broken_chain += 1
            if not self.segments:
                self.anchor = header.previous
            self.segments.append(segment)
            self.digest = digest
        self._tail_cut = size > segment.size
        if not self._tail_cut:
            # Frames at the end that repeat numbers; where there is a tail, it is what the damage is about.
            findings.damaged += walk.damage - damage
        else:
            findings.torn += 1
            findings.torn_bytes += size - segment.size
            os.ftruncate(file, segment.size)
