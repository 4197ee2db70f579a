"""What is removed from a store, and when (docs/decisions/0013-the-collectors-store.md).

`choose` decides, from sizes alone; `rewrite` makes what takes the place of segments, beside them; `Store.replace` puts
it there. Only the first and the last need the store to stand still, and they are short. What holds:

- Of a stream only the oldest frames are removed, so that what is kept is one run, and begins at an anchor.
- Removed is what stands before its stream's anchor. Its room is had when its segment is written anew, which is done
  when a quarter of it is of that kind: so no byte is copied more than three times for each one gained.
- By age whole segments go. A host that has more than its share loses its own oldest records, and nobody else's.
- Where all of it is too much, those who have most lose first, down to what everybody could have. Only if that does
  not give enough room does the oldest segment go, whoever's it is.
- What is left of segments is put together, so that their number stays bounded by what is stored.
- A segment that cannot be used is passed over and stays: one bad old file stops neither retention nor the hosts.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from audisp.buffer.segment import ANCHOR, MARK_BYTES, MAX_NUMBER, SegmentHeader
from audisp.collector.store_files import NEW_SUFFIX, Frames, SegmentFile, make_index, read_header, remove
from audisp.collector.store_frames import MAX_REPLACED, Entry, remark
from audisp.collector.store_index import Index, Share
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

WASTE: Final = 4
"""A segment is written anew when one part in so many of its frames, by bytes, are removed. So up to a third more is on
disk than is kept, and of those who have most, a host with less than a quarter of each segment can shorten the time of
the others by less than a third."""

DEPTHS: Final = (1, 2, 4)
"""Of those who have most, so many times the room that is needed is looked at for it, one after the other: where they
have little in each segment, what is taken from them gives no room."""

LOOKED_AT: Final = 64
"""Indexes read at a time, only to learn how much of a segment is waste. After a start that is known of none."""

MERGED: Final = 8
"""So many neighbouring segments that together are no larger than one are put together, unless one of them is half of it
all: then every byte is copied a few times at most, as in a merge sort."""

COPY_BYTES: Final = 1 << 20
"""Written at once."""

NANO: Final = 1_000_000_000

OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors at reading that say something of this process or this host, and nothing of the file."""


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
    bytes kept of each. firsts: number in the store of the first frame kept of each. kept: the same of a stream; 0 if it
    is not known.
    """

    folder: int
    where: Path
    segments: tuple[SegmentFile, ...]
    size: int
    hosts: Mapping[str, int]
    firsts: Mapping[str, int]
    kept: Callable[[StreamKey], int]


@attrs.frozen
class Removed:
    """What of a stream goes. was: number in the store at which it begins, so that it is seen when that is not true any
    more. kept: where it begins afterwards."""

    key: StreamKey
    was: int
    kept: Anchor
    records: int
    size: int


@attrs.frozen
class Choice:
    """Something to be done. Without segments: `removed` goes; the segments that are `touched` have more waste then.
    With segments, which are neighbours: something takes their place, which is what is kept of them; `removed` None: all
    that is in them goes."""

    segments: tuple[SegmentFile, ...]
    removed: tuple[Removed, ...] | None = ()
    touched: tuple[SegmentFile, ...] = ()


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
    touched: tuple[SegmentFile, ...] = ()


class _Unusable(StoreError):
    """A segment that was found to be unusable just now, and is marked as that."""


@contextlib.contextmanager
def _reading(segment: SegmentFile) -> Iterator[None]:
    """Around what reads a segment. _Unusable if it cannot be read, or is no segment of ours; OSError: one of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in OURS:
            raise
        segment.unusable = error.strerror or str(error)
        raise _Unusable(segment.unusable) from error
    except StoreError as error:
        segment.unusable = str(error)
        raise _Unusable(segment.unusable) from error


def _index(census: Census, segment: SegmentFile) -> Index:
    """The index of a segment. _Unusable, OSError."""
    with _reading(segment):
        return make_index(census.folder, segment, census.where)[1]


def _index_if_any(census: Census, segment: SegmentFile) -> Index | None:
    """The same; None if the segment is unusable, or turns out to be. OSError."""
    with contextlib.suppress(_Unusable):
        return None if segment.unusable else _index(census, segment)
    return None


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
    whatever else is due. Reads indexes, and passes over segments that cannot be used: OSError for what is no segment's
    fault."""
    old = _too_old(census, policy, now)
    if old:
        return [Choice(tuple(old), None)]
    over = policy.max_host_bytes
    if over and any(size > over for size in census.hosts.values()):
        plan = _Plan(census)
        target = over - over // SHARE
        plan.take({name: size - target for name, size in census.hosts.items()})
        if plan.removed:
            return plan.choices()
    if policy.max_bytes:
        spare = max(room, 2 * policy.segment_bytes)
        if census.size + spare > policy.max_bytes:
            return _spread(census, census.size + spare + policy.segment_bytes - policy.max_bytes)
    plan = _Plan(census)
    plan.take_waste()
    return plan.choices() or _scraps(census, policy)


def _too_old(census: Census, policy: Policy, now: int) -> list[SegmentFile]:
    old: list[SegmentFile] = []
    if policy.max_age:
        for segment in census.segments:
            if segment.unusable or (segment.newest is None and _index_if_any(census, segment) is None):
                continue
            if len(old) == MAX_REPLACED or (segment.newest or 0) >= now - policy.max_age * NANO:
                break
            old.append(segment)
    return old


class _Plan:
    """What is to be removed, and which segments are written anew for it."""

    def __init__(self, census: Census) -> None:
        self.removed: dict[StreamKey, Removed] = {}
        self._census = census
        self._touched: list[SegmentFile] = []
        self._anew: dict[int, tuple[Choice, int]] = {}

    @property
    def gained(self) -> int:
        """Bytes that this gives."""
        return sum(gain for _, gain in self._anew.values())

    def choices(self) -> list[Choice]:
        """All of it, in order."""
        removed = tuple(self.removed.values())
        first = [Choice((), removed, tuple(self._touched))] if removed else []
        return [*first, *(self._anew[number][0] for number in sorted(self._anew))]

    def take(self, excess: dict[str, int], need: int = 0) -> None:
        """Take from each host what it has too much, its oldest frames first, all that a segment has of it at a time;
        with `need` only until so much is gained."""
        census = self._census
        excess = {name: size for name, size in excess.items() if size > 0}
        behind = [segment.number for segment in census.segments[1:]]
        for segment, following in zip(census.segments, [*behind, MAX_NUMBER], strict=False):
            if not excess or (need and self.gained >= need):
                break
            if all(census.firsts[name] >= following for name in excess):
                continue
            index = _index_if_any(census, segment)
            if index is None:
                continue
            live = {key: share for key, share in index.shares.items() if share.next.first > census.kept(key)}
            taken = [share for key, share in live.items() if key.identity in excess]
            if not taken:
                continue
            for share in taken:
                _add(self.removed, share, census.kept(share.key))
                name = share.key.identity
                if name in excess:
                    excess[name] -= share.size
            excess = {name: size for name, size in excess.items() if size > 0}
            self._touched.append(segment)
            left = sum(share.size for share in live.values()) - sum(share.size for share in taken)
            self._weigh(segment, index, left)

    def take_waste(self) -> None:
        """Write segments anew of which enough is waste already."""
        census, looked_at = self._census, 0
        for segment in census.segments:
            if segment.damaged or segment.waste is False or (segment.waste is None and looked_at >= LOOKED_AT):
                continue
            looked_at += segment.waste is None
            index = _index_if_any(census, segment)
            if index is None:
                continue
            live = sum(share.size for key, share in index.shares.items() if share.next.first > census.kept(key))
            segment.waste = self._weigh(segment, index, live)

    def _weigh(self, segment: SegmentFile, index: Index, left: int) -> bool:
        """Take it up if enough of it is waste."""
        if not left:
            self._anew[segment.number] = Choice((segment,), None), segment.size
        elif _is_waste(index, left) and not segment.damaged:
            # What is left of it has no rows of streams in front.
            self._anew[segment.number] = Choice((segment,)), segment.size - left
        return segment.number in self._anew


def _is_waste(index: Index, left: int) -> bool:
    """Whether enough of a segment is removed for it to be written anew, if `left` bytes of frames are not."""
    total = sum(share.size for share in index.shares.values())
    return (total - left) * WASTE >= total


def _spread(census: Census, need: int) -> list[Choice]:
    """Make room: what is waste, then what those have who have most, then the oldest."""
    sizes = census.hosts
    for depth in (0, *DEPTHS):
        plan = _Plan(census)
        plan.take_waste()
        if depth:
            level = water_level([*sizes.values()], sum(sizes.values()) - depth * need)
            plan.take({name: size - level for name, size in sizes.items()}, need)
        if plan.gained >= need:
            return plan.choices()
    oldest: list[SegmentFile] = []
    for segment in census.segments:
        if need <= 0 or len(oldest) == MAX_REPLACED:
            break
        if not segment.unusable:
            oldest.append(segment)
            need -= segment.size
    return [Choice(tuple(oldest), None)] if oldest else []


def _scraps(census: Census, policy: Policy) -> list[Choice]:
    """Neighbours that are small enough to be put together."""
    run: list[SegmentFile] = []
    for segment in census.segments:
        run.append(segment)
        if segment.damaged or segment.unusable or segment.size > policy.segment_bytes // 2:
            run.clear()
        while run and sum(each.size for each in run) > policy.segment_bytes:
            del run[0]
        if len(run) >= MERGED and max(each.size for each in run) <= sum(each.size for each in run) // 2:
            return [Choice(tuple(run))] if _close(census, policy, run) else []
    return []


def _close(census: Census, policy: Policy, run: Sequence[SegmentFile]) -> bool:
    """Whether they are of about the same time, where age counts."""
    if not policy.max_age:
        return True
    first, last = _index_if_any(census, run[0]), _index_if_any(census, run[-1])
    return first is not None and last is not None and last.newest - first.oldest <= policy.segment_age


def rewrite(census: Census, choice: Choice, now: int) -> Rewritten:
    """Make what takes the place of the chosen segments; nothing does if one of them turns out to be unusable. OSError,
    StoreError; then there is nothing of it."""
    try:
        return _rewrite(census, choice, now)
    except _Unusable:
        return Rewritten(choice.segments, (), whole=False)


def _rewrite(census: Census, choice: Choice, now: int) -> Rewritten:
    if choice.removed is None:
        removed: dict[StreamKey, Removed] = {}
        for segment in choice.segments:
            for share in _index(census, segment).shares.values():
                was = census.kept(share.key)
                if share.next.first > was:
                    _add(removed, share, was)
        return Rewritten(choice.segments, tuple(removed.values()))
    if not choice.segments:
        return Rewritten((), choice.removed, whole=False, touched=choice.touched)
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


def _add(removed: dict[StreamKey, Removed], share: Share, was: int) -> None:
    """Remove a stream's share of a segment, behind those of the segments before it."""
    before = removed.get(share.key)
    records, size = share.records, share.size
    if before is not None:
        records, size = records + before.records, size + before.size
    removed[share.key] = Removed(share.key, was, share.next, records, size)


class _Copy:
    """Frames of some segments on their way into another."""

    def __init__(self, census: Census, choice: Choice, now: int, out: int, by: bytes, name: str) -> None:
        self._census, self._choice, self._now, self._out = census, choice, now, out
        self._id, self._name = by, name
        self._index = Index()
        self._size = 0
        self._parts: list[bytes] = []
        self._waiting = 0

    def run(self) -> Rewritten:
        segments = self._choice.segments
        whole = all(self._segment(segment) for segment in segments)
        if not whole or not self._index.frames:
            return Rewritten(segments, (), whole=whole)
        self._flush()
        os.fsync(self._out)
        return Rewritten(segments, (), self._id, self._name, self._size, self._index)

    def _segment(self, segment: SegmentFile) -> bool:
        """Take over one. False: something in it cannot be read."""
        census = self._census
        with _reading(segment):
            file = open_file(census.folder, segment.name, os.O_RDONLY, census.where)
        try:
            with _reading(segment):
                header = read_header(file, segment.number, None)
            if not self._size:
                self._put(SegmentHeader(header.spool, self._id, self._now, segment.number, ANCHOR).encode())
            frames = Frames(file, header)
            while True:
                with _reading(segment):
                    found = frames.next(segment.size)
                    raw = b""
                    if isinstance(found, Entry) and found.first >= census.kept(found.key):
                        raw = os.pread(file, found.packed.size, found.packed.offset)
                if found is None:
                    break
                if raw and isinstance(found, Entry):
                    self._entry(found, raw)
            segment.damaged = frames.damage > 0 or frames.good < segment.size
            return not segment.damaged
        finally:
            os.close(file)

    def _entry(self, entry: Entry, raw: bytes) -> None:
        moved = attrs.evolve(entry, packed=attrs.evolve(entry.packed, offset=self._size))
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
