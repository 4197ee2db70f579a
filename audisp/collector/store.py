"""The collector's store: frames of all senders in one log, on disk before they are acknowledged.

`append` collects what waits, `commit` writes it with one fdatasync and says which streams have come how far. Plain
blocking code, to be called from one thread at a time; what says so may be called from any. What holds:

- What `commit` returned for is on disk, once, in the order of its stream, and stays there until retention removes it.
- After a commit that failed nothing of it is stored; the caller has it still, and may append it again.
- A position is read out of the frames themselves (docs/formats/store.md). The end mark and the indexes are caches.
- Memory depends on how many hosts there are, and on what is appended and not committed: GROUP_BYTES, or one frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from audisp.collector.retention import Census, Policy, Rewritten, choose, rewrite
from audisp.collector.store_files import SegmentFile, remove
from audisp.collector.store_frames import (
    FORGOTTEN_BYTES,
    Entry,
    Numbered,
    Replaced,
    Unnumbered,
    Writer,
    authenticated,
    check_identity,
    stored_bytes,
    write_forgotten,
)
from audisp.collector.store_log import FULL, DiskTrouble, Log, Space
from audisp.collector.store_scan import Findings, follow
from audisp.collector.store_streams import FIRST_NUMBER, Stream, StreamKey, Streams, begun
from audisp.errors import StoreError
from audisp.wire.native import Position, Trouble

__all__ = [
    "Committed",
    "DiskTrouble",
    "Durable",
    "Findings",
    "Numbered",
    "Policy",
    "Refused",
    "Space",
    "Store",
    "Stream",
    "StreamKey",
    "Unnumbered",
]

GROUP_BYTES: Final = 4 << 20
"""Bytes of frames that one fdatasync is for, unless one frame is more. Beyond 1 MiB a larger group gains little
(feasibility.md 2(g)), and everybody in it waits for all of it."""

MAX_HOSTS: Final = 20_000
"""Hosts whose streams are remembered, unless set otherwise: twice what a collector is made for."""

ROUNDS: Final = 64
"""Times that something is looked for to remove, in a row; more would mean that it does not help."""


class Refused(StoreError):
    """An item that cannot be stored, whatever the disk does; nothing of it is."""


@attrs.frozen
class Durable:
    """A stream of which something is on disk now. place: up to where. items: how many of it this commit stored."""

    key: StreamKey
    place: Position
    items: int


@attrs.frozen
class Committed:
    """What a commit has stored: streams, and frames, records and bytes of all together.

    numbers: of each item, in the order in which they were appended, its number in the store and the one behind it.
    """

    durable: tuple[Durable, ...] = ()
    frames: int = 0
    records: int = 0
    bytes: int = 0
    numbers: tuple[tuple[int, int], ...] = ()


class _Group:
    """What is appended and not committed: frames, what they say, and the states of their streams behind them."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.entries: list[Entry] = []
        self.staged: dict[StreamKey, Stream] = {}
        self.new: set[StreamKey] = set()
        self.gone: set[StreamKey] = set()


class Store:
    """A store in a folder. min_free: bytes that stay free on the file system. As a context manager it is open inside
    the block."""

    def __init__(
        self, folder: Path | str, *, policy: Policy | None = None, min_free: int = 0, max_hosts: int = MAX_HOSTS
    ) -> None:
        self.path = Path(folder)
        self.findings = Findings()
        self._streams = Streams(max_hosts)
        self._log = Log(self.path, policy or Policy(), min_free, lambda: [*self._streams])
        self._opened: contextlib.ExitStack | None = None
        self._writer = Writer()
        self._group = _Group()
        self._looked_at = -1

    # Opening and closing.

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Take the folder (made if missing, mode 0700) and its lock, and read the end of the log.

        Cuts a torn tail, sets aside what cannot be used, finishes what retention began; `findings` says so. When it
        returns, all that `position` says is on disk. StoreError if the folder is not private or is in use, if a later
        version wrote it, or if it cannot be read or written.
        """
        if self._opened is not None:
            raise StoreError(f"{self.path}: is open already")
        with contextlib.ExitStack() as stack, self._said():
            scan = self._log.open(stack, self._streams.max_hosts)
            self.findings, self._streams = scan.findings, scan.streams
            self._group, self._looked_at = _Group(), -1
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Let go of the folder. What is appended and not committed is forgotten. Nothing if it is not open."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            self._group = _Group()
            opened.close()

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

    # What is known.

    def position(self, identity: str, spool: bytes) -> Position | None:
        """What is on disk of a native sender's stream; None: nothing is known of it. From any thread."""
        stream = self._streams.get(StreamKey(identity, spool))
        return None if stream is None else stream.place

    def recent(self, identity: str) -> tuple[int | None, bytes | None]:
        """Number and SHA-256 of a C program's last message that is on disk; None for both: there is none. From any
        thread."""
        stream = self._streams.get(StreamKey(identity, b""))
        return (None, None) if stream is None else (stream.sequence, stream.message)

    def streams(self, identity: str | None = None) -> list[Stream]:
        """The streams of one host, or of all, as they are on disk; not to be changed. From any thread."""
        return [*(self._streams if identity is None else self._streams.of(identity))]

    @property
    def next(self) -> int:
        """Number in the store that the next frame will get; all before it are on disk. From any thread."""
        return self._log.next

    @property
    def oldest(self) -> int:
        """A number of the store before which there is nothing any more. From any thread."""
        segments = self._log.segments
        return segments[0].number if segments else self._log.next

    @property
    def id(self) -> bytes:
        """16 bytes that tell this store, and with it its numbers, from any other."""
        return self._log.id

    @property
    def size(self) -> int:
        """Bytes of all segments, and of files set aside. From any thread."""
        return self._log.size

    def durable(self) -> tuple[int, int]:
        """Number of the segment that is written, and its bytes that are on disk; (0, 0) if none is written. What
        `Reader` needs. From any thread."""
        tail = self._log.tail
        return (0, 0) if tail is None else (tail.header.first, tail.size)

    @property
    def trouble(self) -> DiskTrouble | None:
        """What was wrong with the disk when it was last tried; None: nothing. From any thread."""
        return self._log.trouble

    @property
    def unusable(self) -> list[SegmentFile]:
        """Segments that retention passes over, each with the reason. From any thread."""
        return [segment for segment in tuple(self._log.segments) if segment.unusable]

    def space(self) -> Space:
        """Of the file system that the store is on. StoreError. From any thread, while it is open."""
        self._check_open()
        with self._said():
            return self._log.space()

    # Storing.

    def append(self, item: Numbered | Unnumbered) -> bool:
        """Take an item into the next commit. False: the group is full, commit first.

        Refused if it does not follow what its stream has, committed or appended, or if there are too many hosts.
        DiskTrouble if room had to be made, or a new segment begun, and could not be; only for the first of a group.
        """
        self._check_open()
        group, log = self._group, self._log
        bound, most = min(GROUP_BYTES, log.policy.segment_bytes), stored_bytes(item)
        if group.parts and group.size + most > bound:
            return False
        if not group.parts:
            with self._troubled():
                self._make_room(max(bound, most), item.received)
                log.ready(item.received)
        tail = log.tail
        assert tail is not None
        first = group.entries[-1].end if group.entries else log.next
        stream, forgotten = self._stage(item, first)
        mark, note = tail.header.mark, b""
        if forgotten:
            note = write_forgotten(forgotten, first, item.received, mark)
        offset = tail.size + group.size + len(note)
        try:
            if isinstance(item, Numbered):
                raw, entry = self._writer.numbered(item, stream, first, mark, offset)
            else:
                raw, entry = self._writer.unnumbered(item, stream, first, mark, offset)
        except StoreError as error:
            raise Refused(f"{item.identity}: {error}") from error
        follow(stream, entry)
        if self._streams.get(entry.key) is None or entry.key in group.gone:
            group.new.add(entry.key)
        group.gone.update(forgotten)
        group.staged[entry.key] = stream
        group.parts += [note, raw]
        group.size += len(note) + len(raw)
        group.entries.append(entry)
        return True

    def _stage(self, item: Numbered | Unnumbered, first: int) -> tuple[Stream, list[StreamKey]]:
        """The state of the item's stream before it, to be changed, and what has to be forgotten for it. first: number
        in the store that its frame gets."""
        if isinstance(item, Numbered):
            key, at = StreamKey(item.identity, item.spool), Position(item.frame.first, item.frame.head.previous)
        else:
            key, at = StreamKey(item.identity, b""), None
        stream = self._group.staged.get(key)
        forgotten: list[StreamKey] = []
        if stream is None:
            known = self._streams.get(key)
            if known is None or key in self._group.gone:
                forgotten = self._admit(key, at)
                stream = begun(key, at or Position(FIRST_NUMBER, b""), first)
            else:
                stream = known.copy()
        if at is not None and at != stream.place:
            raise Refused(
                f"{key.identity}: the frame with record {at.next} does not follow what is stored, which ends before "
                f"record {stream.next}"
            )
        return stream, forgotten

    def _admit(self, key: StreamKey, at: Position | None) -> list[StreamKey]:
        identity, group = key.identity, self._group
        check_identity(identity)
        if at is not None and (len(key.spool) != 16 or not authenticated(identity)):
            raise Refused(f"{identity}: a stream with numbers needs a key that was proved, and a name of 16 bytes")
        try:
            return self._streams.make_room(key, group.new, group.gone, group.staged.keys())
        except StoreError as error:
            raise Refused(f"{identity}: {error}") from error

    def abandon(self) -> None:
        """Forget what is appended and not committed."""
        self._group = _Group()

    def commit(self) -> Committed:
        """Write what was appended, all of it or nothing, and return when it is on disk.

        DiskTrouble if that cannot be done; then nothing of it is stored, and it is not appended any more.
        """
        self._check_open()
        group, self._group = self._group, _Group()
        log = self._log
        if not group.parts:
            return Committed()
        tail = log.tail
        assert tail is not None
        log.write(tail, b"".join(group.parts))
        counts: dict[StreamKey, int] = {}
        records = 0
        for entry in group.entries:
            counts[entry.key] = counts.get(entry.key, 0) + 1
            records += entry.packed.head.count
            log.index.add(entry)
        for key in group.gone:
            self._streams.forget(key)
        for stream in group.staged.values():
            self._streams.put(stream)
        log.next = group.entries[-1].end
        log.mark_end(tail)
        durable = tuple(Durable(key, group.staged[key].place, items) for key, items in counts.items())
        numbers = tuple([(entry.first, entry.end) for entry in group.entries])
        return Committed(durable, len(group.entries), records, group.size, numbers)

    def probe(self) -> DiskTrouble | None:
        """After DiskTrouble: see whether the disk would take a group as large as the one that failed. None: it would.
        What is written for it is removed again."""
        self._check_open()
        if self._log.trouble is not None:
            with contextlib.suppress(DiskTrouble):
                self._log.probe()
        return self._log.trouble

    # Retention.

    def bound(self, policy: Policy, min_free: int, max_hosts: int) -> None:
        """Other bounds, from now on. Segments that were unusable are looked at again: somebody may have mended them."""
        for segment in self._log.segments:
            segment.unusable = ""
        self._log.policy, self._log.min_free, self._streams.max_hosts = policy, min_free, max_hosts
        self._looked_at = -1

    def due(self, now: int) -> bool:
        """Whether there could be something to remove, at this many nanoseconds since the epoch. Closes the segment
        that is written when it is so old that its age counts. DiskTrouble."""
        self._check_open()
        log = self._log
        age = log.policy.segment_age
        written = log.tail is not None and log.index.frames and not self._group.parts
        if age and written and now - log.index.oldest >= age:
            log.seal()
        sealed = log.sealed
        return bool(sealed) and (age > 0 or sealed[-1].number != self._looked_at)

    def census(self) -> Census:
        """What `choose` and `rewrite` need, which may then be called in another thread, in the order of what was
        chosen; what they made is put in place by `replace`."""
        self._check_open()
        log = self._log
        sealed = log.sealed
        self._looked_at = sealed[-1].number if sealed else -1
        firsts = {name: min(each.kept.first for each in streams) for name, streams in self._streams.by_host()}
        return Census(log.folder, self.path, tuple(sealed), log.size, self._streams.hosts(), firsts, self._kept)

    def _kept(self, key: StreamKey) -> int:
        stream = self._streams.get(key)
        return 0 if stream is None else stream.kept.first

    def retain(self, now: int) -> int:
        """Do all that is due, at once; returns the bytes that this has freed. StoreError, DiskTrouble."""
        self._check_open()
        before = self.size
        with self._said():
            for _ in range(ROUNDS):
                if not self._remove_some(now, 0):
                    break
        return before - self.size

    def _remove_some(self, now: int, room: int) -> bool:
        """Do some of what is due. OSError, StoreError, DiskTrouble."""
        census = self.census()
        choices = choose(census, self._log.policy, now, room=room)
        for choice in choices:
            try:
                done = rewrite(census, choice, now)
            except OSError as error:
                if error.errno in FULL:
                    self._log.copy_failed()
                raise
            self.replace(done, now)
        return bool(choices)

    @contextlib.contextmanager
    def _troubled(self) -> Iterator[None]:
        """Turn everything that goes wrong with files into DiskTrouble: whoever stores waits then, and tries again."""
        try:
            with self._log.disk():
                yield
        except DiskTrouble:
            raise
        except StoreError as error:
            raise self._log.troubled(Trouble.DISK_ERROR, str(error)) from error

    def _make_room(self, room: int, now: int) -> None:
        """See that a group, and perhaps a segment's beginning, fit under the bound of all."""
        log = self._log
        bound = log.policy.max_bytes
        room += log.beginning + FORGOTTEN_BYTES
        rounds = 0
        while bound and self.size + room > bound:
            rounds += 1
            if rounds <= ROUNDS and self._remove_some(now, room):
                continue
            if rounds <= ROUNDS and log.tail is not None and log.tail.size > log.policy.segment_bytes:
                # Begun when more could be stored, it is most of what there is.
                log.seal()
                continue
            raise log.troubled(
                Trouble.DISK_FULL, f"{self.path}: {self.size >> 20} MiB are stored, {bound >> 20} MiB may be"
            )

    def replace(self, done: Rewritten, now: int) -> bool:
        """Put what `rewrite` made where the segments are that it was made of.

        False, and nothing is done: they are not there any more, or something was removed meanwhile. Then nothing else
        that was chosen from the same census is to be done either: of a stream only the oldest frames may go.

        What is removed of each stream is written down first, so that what is missing then is known to be missing by
        right. Not while something is appended. DiskTrouble.
        """
        self._check_open()
        log = self._log
        if self._group.parts:
            raise StoreError(f"{self.path}: something is appended and not committed")
        rows = self._without(done)
        if rows is None or not log.has(done.segments):
            if done.by:
                with self._said():
                    remove(log.folder, done.name)
            return False
        if not rows and not done.whole:
            return True
        log.note(rows, Replaced(tuple(each.number for each in done.segments) if done.whole else (), done.by), now)
        for stream in rows:
            self._streams.put(stream)
        for segment in done.touched:
            segment.waste = None
        if done.whole:
            log.exchange(done)
        return True

    def _without(self, done: Rewritten) -> list[Stream] | None:
        """The states of streams when that is removed; None if it was made for others."""
        rows: list[Stream] = []
        for removed in done.removed:
            stream = self._streams.get(removed.key)
            if stream is None:
                continue
            if stream.kept.first != removed.was:
                return None
            rows.append(
                attrs.evolve(
                    stream,
                    kept=removed.kept,
                    dropped=stream.dropped + removed.records,
                    records=max(0, stream.records - removed.records),
                    size=max(0, stream.size - removed.size),
                )
            )
        return rows
