"""Senders, stores and what is read back, for the tests of the store."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.buffer.segment import ANCHOR, HEADER_BYTES, Frame, SegmentHeader
from audisp.collector.reading import Reader
from audisp.collector.retention import Choice, Removed, rewrite
from audisp.collector.store import Numbered, Policy, Store, Unnumbered
from audisp.collector.store_files import Frames, list_segments, make_index
from audisp.collector.store_frames import Entry, Note
from audisp.dispatch.folder import open_file, open_folder
from audisp.wire.native import DataFrame, Position, gap_frame

MIB: Final = 1 << 20
SECOND: Final = 1_700_000_000
NANO: Final = 1_000_000_000


@attrs.frozen
class Tiny(Policy):
    """A policy with segments of a few frames."""

    segment: int = 4_000

    @property
    def segment_bytes(self) -> int:
        return self.segment


def record(serial: int, second: int = SECOND, size: int = 0, node: str = "") -> bytes:
    """A record; filled up to about `size` bytes with what hardly compresses."""
    noise = base64.b64encode(random.Random(serial).randbytes(max(0, size - 70) * 3 // 4)).decode() if size else ""
    start = f"node={node} " if node else ""
    return f"{start}type=SYSCALL msg=audit({second}.123:{serial}): arch=c000003e {noise}\n".encode()


class Host:
    """One sender's stream. The serial in a record is its number."""

    def __init__(self, identity: str, spool: int = 1) -> None:
        self.identity = identity
        self.spool = bytes([spool]) * 16
        self.at = Position(1, ANCHOR)

    def item(
        self, count: int = 3, *, now: int = SECOND * NANO, size: int = 0, books: Any = None, node: str = ""
    ) -> Numbered:
        """The next frame."""
        first = self.at.next
        data = b"".join(record(n, now // NANO, size, node) for n in range(first, first + count))
        frame = DataFrame.make(Frame(first, count, "netlink", books or {}, self.at.last, now, data))
        self.at = frame.after
        return Numbered(self.identity, self.spool, frame, data, now)

    def gap(self, count: int, *, now: int = SECOND * NANO) -> Numbered:
        """A frame that says that the next records are missing."""
        last = hashlib.sha256(b"%d" % self.at.next).digest()
        frame = gap_frame(self.at, self.at.next + count, "dropped", last, now)
        self.at = frame.after
        return Numbered(self.identity, self.spool, frame, b"", now)


def message(identity: str, sequence: int, *, now: int = SECOND * NANO, count: int = 1) -> Unnumbered:
    """What a C program sends; its last record has this number."""
    data = b"".join(record(n, now // NANO) for n in range(sequence - count + 1, sequence + 1))
    last = data[data.rfind(b"\n", 0, -1) + 1 :]
    return Unnumbered(identity, data, now, sequence, hashlib.sha256(last).digest())


def put(store: Store, *items: Numbered | Unnumbered) -> None:
    """Store all of it, in as many groups as it takes."""
    for item in items:
        if not store.append(item):
            store.commit()
            assert store.append(item)
    store.commit()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def serials(folder: Path, host: str, **options: Any) -> list[int]:
    """Of all records of a host that can be read, in order."""
    with Reader(folder, host=host, **options) as reader:
        return [number for chunk in reader for number in chunk.block().serials()]


def frames(path: Path) -> list[Entry | Note]:
    """All frames of a segment."""
    folder = open_folder(path.parent)
    file = open_file(folder, path.name, 0, path.parent)
    walk = Frames(file, SegmentHeader.decode(path.read_bytes()[:HEADER_BYTES]))
    found = []
    while (each := walk.next(path.stat().st_size)) is not None:
        found.append(each)
    os.close(file)
    os.close(folder)
    return found


def entries(path: Path) -> list[Entry]:
    """The senders' frames of a segment."""
    return [each for each in frames(path) if isinstance(each, Entry)]


def sizes(folder: Path) -> list[int]:
    opened = open_folder(folder)
    try:
        return [each.size for each in list_segments(opened)[0]]
    finally:
        os.close(opened)


def runs(numbers: Iterable[int]) -> bool:
    """Whether numbers go up by one."""
    found = list(numbers)
    return found == list(range(found[0], found[0] + len(found))) if found else True


def take(store: Store, place: int, host: str) -> None:
    """Remove what the closed segment at this place has of a host, by right."""
    census = store.census()
    segment = census.segments[place]
    _, index = make_index(census.folder, segment, census.where)
    removed = tuple(
        Removed(share.key, census.kept(share.key), share.next, share.records, share.size) for share in index.of(host)
    )
    for choice in (Choice((), removed, (segment,)), Choice((segment,))):
        store.replace(rewrite(census, choice, 0), 0)
