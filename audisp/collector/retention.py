"""What is removed from a store, and when (docs/decisions/0013-the-collectors-store.md).

`choose` decides, from sizes alone; `rewrite` makes what takes the place of segments, beside them; `Store.replace` puts
it there. Only the first and the last need the store to stand still, and they are short. What holds:

- Of a stream only the oldest frames are removed, so that what is kept is one run, and begins at an anchor.
- By age whole segments go. A host that has more than its share loses its own oldest records, and nobody else's.
- Where all of it is too much, those who have most lose first, down to what everybody could have; only where that would
  mean to write much more than is gained does the oldest segment go as it is.
- What is left of segments is put together, so that their number stays bounded by what is stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from audisp.buffer.segment import ANCHOR, MARK_BYTES, SegmentHeader
from audisp.collector.store_files import NEW_SUFFIX, Frames, SegmentFile, make_index, read_header, remove
from audisp.collector.store_frames import MAX_REPLACED, Entry, remark
from audisp.collector.store_index import Index
from audisp.collector.store_streams import Anchor, StreamKey
from audisp.dispatch.folder import open_file
from audisp.errors import StoreError

SEGMENT_BYTES: Final = 64 << 20
"""Segment size at which the next one is begun, in a store without narrow bounds. Smaller ones mean more rows of
streams, which each begins with; larger ones a longer look at open, which reads one."""

MIN_SEGMENT_BYTES: Final = 1 << 20
"""However narrow the bounds are, a segment has room for a few groups."""

SHARE: Final = 16
"""A bound of size or age is kept to about one part in so many: segments are so much smaller and younger than it."""

COPIED: Final = 3
"""Bytes copied for each one gained, at most, to take from those who have most; else the oldest segment goes whole. So a
host with less than a quarter of all can take from others what is less than a quarter of their time."""

MERGED: Final = 8
"""So many neighbouring segments that together are no larger than one are put together, unless one of them is half of it
all: then every byte is copied a few times at most, as in a merge sort."""

COPY_BYTES: Final = 1 << 20
"""Written at once."""

NANO: Final = 1_000_000_000


@attrs.frozen
class Policy:
    """Bounds of a store, 0: none. max_bytes: of all files. max_host_bytes: of one host's frames. max_age: in seconds,
    since they were received."""

    max_bytes: int = 0
    max_host_bytes: int = 0
    max_age: int = 0

    @property
    def segment_bytes(self) -> int:
        """Size at which a segment is full."""
        bounds = [bound // SHARE for bound in (self.max_bytes, self.max_host_bytes) if bound]
        return max(MIN_SEGMENT_BYTES, min(SEGMENT_BYTES, *bounds)) if bounds else SEGMENT_BYTES

    @property
    def segment_age(self) -> int:
        """Nanoseconds after which a segment is closed though it is not full; 0: never."""
        return self.max_age * NANO // SHARE


@attrs.frozen
class Census:
    """The store at one moment. segments: those that are not written any more, oldest first. size: of all files. hosts:
    bytes kept of each. kept: where what is kept of a stream begins, as a number of the store; 0 for no such stream.
    """

    folder: int
    where: Path
    segments: tuple[SegmentFile, ...]
    size: int
    hosts: Mapping[str, int]
    kept: Callable[[StreamKey], int]


@attrs.frozen
class Choice:
    """Neighbouring segments that something takes the place of. leave_out: hosts whose frames are not taken over; None:
    nobody's are, and nothing takes their place."""

    segments: tuple[SegmentFile, ...]
    leave_out: frozenset[str] | None


@attrs.frozen
class Removed:
    """What of a stream goes. kept: where it begins afterwards."""

    key: StreamKey
    kept: Anchor
    records: int
    size: int


@attrs.frozen
class Rewritten:
    """What `Store.replace` needs to know. by: id of the new segment, which is in the file `name`, and its index; b"":
    there is none. whole: it takes the segments' place; False: they stay, because something in them cannot be read."""

    segments: tuple[SegmentFile, ...]
    removed: tuple[Removed, ...]
    by: bytes = b""
    name: str = ""
    size: int = 0
    index: Index | None = None
    whole: bool = True


def water_level(sizes: Sequence[int], room: int) -> int:
    """The largest size that all can have, if those who have less keep it and all together have `room`."""
    left = max(0, room)
    rest = sorted(sizes)
    for place, size in enumerate(rest):
        share = left // (len(rest) - place)
        if size > share:
            return share
        left -= size
    return rest[-1] if rest else 0


def choose(census: Census, policy: Policy, now: int, *, room: int = 0) -> list[Choice]:
    """What is to be done, in order; [] if nothing is. now: nanoseconds since the epoch. room: bytes to be had at once,
    whatever else is due. Reads indexes: OSError, StoreError."""
    old = _too_old(census, policy, now)
    if old:
        return [Choice(tuple(old), None)]
    over = policy.max_host_bytes
    if over and any(size > over for size in census.hosts.values()):
        target = over - over // SHARE
        choices = _take({name: size - target for name, size in census.hosts.items()}, census)[0]
        if choices:
            return choices
    if policy.max_bytes:
        spare = max(room, 2 * policy.segment_bytes)
        if census.size + spare > policy.max_bytes:
            return _spread(census, census.size + spare + policy.segment_bytes - policy.max_bytes)
    return _scraps(census, policy)


def _too_old(census: Census, policy: Policy, now: int) -> list[SegmentFile]:
    old: list[SegmentFile] = []
    if policy.max_age:
        for segment in census.segments[:MAX_REPLACED]:
            if segment.newest is None:
                make_index(census.folder, segment, census.where)
            if (segment.newest or 0) >= now - policy.max_age * NANO:
                break
            old.append(segment)
    return old


def _take(excess: dict[str, int], census: Census, need: int = 0) -> tuple[list[Choice], int, int]:
    """Take from each host what it has too much, its oldest frames first, or only until `need` bytes are had. Returns
    what is to be done, bytes gained and bytes copied for it."""
    choices: list[Choice] = []
    gained = copied = 0
    excess = {name: size for name, size in excess.items() if size > 0}
    for segment in census.segments:
        if not excess or (need and gained >= need):
            break
        _, index = make_index(census.folder, segment, census.where)
        there: dict[str, int] = {}
        for key, share in index.shares.items():
            if share.next.first > census.kept(key):
                there[key.identity] = there.get(key.identity, 0) + share.size
        taken = {name: size for name, size in there.items() if name in excess}
        if not taken:
            continue
        # What is left of it has no rows of streams in front.
        left = sum(there.values()) - sum(taken.values())
        choices.append(Choice((segment,), frozenset(taken) if left else None))
        gained += segment.size - left
        copied += left
        for name, size in taken.items():
            excess[name] -= size
            if excess[name] <= 0:
                del excess[name]
    return choices, gained, copied


def _spread(census: Census, need: int) -> list[Choice]:
    sizes = census.hosts
    level = water_level([*sizes.values()], sum(sizes.values()) - need)
    choices, gained, copied = _take({name: size - level for name, size in sizes.items()}, census, need)
    if gained and copied <= COPIED * gained:
        return choices
    oldest: list[SegmentFile] = []
    for segment in census.segments[:MAX_REPLACED]:
        oldest.append(segment)
        need -= segment.size
        if need <= 0:
            break
    return [Choice(tuple(oldest), None)] if oldest else []


def _scraps(census: Census, policy: Policy) -> list[Choice]:
    """Neighbours that are small enough to be put together."""
    run: list[SegmentFile] = []
    for segment in census.segments:
        run.append(segment)
        if segment.damaged or segment.size > policy.segment_bytes // 2:
            run.clear()
        while run and sum(each.size for each in run) > policy.segment_bytes:
            del run[0]
        if len(run) >= MERGED and max(each.size for each in run) <= sum(each.size for each in run) // 2:
            return [Choice(tuple(run), frozenset())] if _close(census, policy, run) else []
    return []


def _close(census: Census, policy: Policy, run: Sequence[SegmentFile]) -> bool:
    """Whether they are of about the same time, where age counts."""
    if not policy.max_age:
        return True
    oldest = make_index(census.folder, run[0], census.where)[1].oldest
    newest = make_index(census.folder, run[-1], census.where)[1].newest
    return newest - oldest <= policy.segment_age


def rewrite(census: Census, choice: Choice, now: int) -> Rewritten:
    """Make what takes the place of the chosen segments. OSError, StoreError; then there is nothing of it."""
    if choice.leave_out is None:
        removed: dict[StreamKey, Removed] = {}
        for segment in choice.segments:
            for share in make_index(census.folder, segment, census.where)[1].shares.values():
                if share.next.first > census.kept(share.key):
                    _add(removed, share.key, share.next, share.records, share.size)
        return Rewritten(choice.segments, tuple(removed.values()))
    # A name of its own, so that two at a time are not in each other's way: of what they make the first is used.
    by = os.urandom(16)
    name = f"{choice.segments[0].name}.{by.hex()}{NEW_SUFFIX}"
    out = open_file(census.folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, census.where)
    try:
        done = _Copy(census, choice, now, out, by, name).run()
    except (OSError, StoreError):
        remove(census.folder, name)
        raise
    finally:
        os.close(out)
    if not done.by:
        remove(census.folder, name)
    return done


def _add(removed: dict[StreamKey, Removed], key: StreamKey, kept: Anchor, records: int, size: int) -> None:
    before = removed.get(key)
    if before is not None:
        records, size = records + before.records, size + before.size
    removed[key] = Removed(key, kept, records, size)


class _Copy:
    """Frames of some segments on their way into another."""

    def __init__(self, census: Census, choice: Choice, now: int, out: int, by: bytes, name: str) -> None:
        self._census, self._choice, self._now, self._out = census, choice, now, out
        self._id, self._name = by, name
        self._index = Index()
        self._size = 0
        self._parts: list[bytes] = []
        self._waiting = 0
        self._removed: dict[StreamKey, Removed] = {}

    def run(self) -> Rewritten:
        segments = self._choice.segments
        whole = all(self._segment(segment) for segment in segments)
        removed = tuple(self._removed.values())
        if not whole or not self._index.frames:
            return Rewritten(segments, removed, whole=whole)
        self._flush()
        os.fsync(self._out)
        return Rewritten(segments, removed, self._id, self._name, self._size, self._index)

    def _segment(self, segment: SegmentFile) -> bool:
        """Take over one. False: something in it cannot be read."""
        census = self._census
        file = open_file(census.folder, segment.name, os.O_RDONLY, census.where)
        try:
            header = read_header(file, segment.number, None)
            if not self._size:
                self._put(SegmentHeader(header.spool, self._id, self._now, segment.number, ANCHOR).encode())
            frames = Frames(file, header)
            while (found := frames.next(segment.size)) is not None:
                if isinstance(found, Entry):
                    self._entry(found, file)
            segment.damaged = frames.damage > 0 or frames.good < segment.size
            return not segment.damaged
        finally:
            os.close(file)

    def _entry(self, entry: Entry, file: int) -> None:
        packed = entry.packed
        if entry.first < self._census.kept(entry.key):
            return
        assert self._choice.leave_out is not None
        if entry.key.identity in self._choice.leave_out:
            kept = Anchor(entry.end, packed.digest, entry.after.next, entry.after.last)
            _add(self._removed, entry.key, kept, packed.head.count, packed.size)
            return
        raw = os.pread(file, packed.size, packed.offset)
        moved = attrs.evolve(entry, packed=attrs.evolve(packed, offset=self._size))
        self._put(remark(raw, self._id[:MARK_BYTES]))
        self._index.add(moved)

    def _put(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._waiting += len(data)
        if self._waiting >= COPY_BYTES:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(b"".join(self._parts))
        self._parts, self._waiting = [], 0
        while view:
            view = view[os.write(self._out, view) :]
