"""What the store knows of each sender's stream: where it ends, where what is kept of it begins, what its host is like.

All of it is a fold over the frames of the store, in order. A row is one stream written down as it is at that moment;
each segment begins with the rows of all, so that a fold need not begin at the beginning. What holds:

- A stream is (identity, spool): the spool's name as its sender's native protocol says it, nothing for a C program.
- There are at most so many hosts, and streams of one host: what peers choose cannot make the table grow. Beyond it
  those are forgotten of whom nothing is kept, and of one host its own; the log says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Final, NamedTuple

import attrs

from audisp.buffer.segment import ANCHOR, MAX_NUMBER
from audisp.collector.store_look import MAX_NODE, MAX_NODES
from audisp.errors import StoreError
from audisp.wire.native import Position

PLAIN_PREFIX: Final = "addr:"
"""What the identity of a sender without a key begins with."""

MAX_STREAMS: Final = 16
"""Streams of one host. A new one comes with a new spool: a host that is installed anew, or one that plays tricks."""

PLAIN_SHARE: Final = 2
"""Senders without a key get this part of all hosts: whoever can reach the port can be many addresses."""

FIRST_NUMBER: Final = 1
"""Of a C program's first record, and of the store's first frame."""


class StreamKey(NamedTuple):
    """Whose stream, and which of theirs. spool: 16 bytes; b"" for the records of C programs."""

    identity: str
    spool: bytes


class Anchor(NamedTuple):
    """Where what is kept of a stream begins. first: number in the store of its first frame, or of the next to come.

    digest: what that frame has as `previous`. next, last: where it stands in the stream.
    """

    first: int
    digest: bytes
    next: int
    last: bytes


@attrs.define(eq=False)
class Stream:
    """One stream. next, last: where it goes on. digest: of its last frame as stored. seen: when that was received, in
    nanoseconds since the epoch. records, size: what is kept of it, and bytes of that. kept: where that begins.

    dropped: records that retention has removed. missing: records that the sender said it no longer had. nodes: those
    that its records named. sequence, message: number and SHA-256 of the last message of a C program.
    """

    key: StreamKey
    next: int
    last: bytes
    digest: bytes
    kept: Anchor
    seen: int = 0
    records: int = 0
    size: int = 0
    dropped: int = 0
    missing: int = 0
    nodes: tuple[str, ...] = ()
    sequence: int | None = None
    message: bytes | None = None

    @property
    def place(self) -> Position:
        """Where it goes on."""
        return Position(self.next, self.last)

    def copy(self) -> Stream:
        """Another one in the same state. (attrs.evolve takes three times as long, and C programs' records each one.)"""
        return Stream(
            self.key,
            self.next,
            self.last,
            self.digest,
            self.kept,
            self.seen,
            self.records,
            self.size,
            self.dropped,
            self.missing,
            self.nodes,
            self.sequence,
            self.message,
        )

    def row(self) -> list[Any]:
        """As it stands in a frame."""
        return [
            self.key.identity,
            self.key.spool,
            self.next,
            self.last,
            self.digest,
            [*self.kept],
            self.seen,
            self.records,
            self.size,
            self.dropped,
            self.missing,
            self.nodes,
            self.sequence,
            self.message,
        ]

    @classmethod
    def of_row(cls, row: Any) -> Stream:
        """From what stands in a frame; what a later version has behind it is ignored. TypeError or ValueError if it is
        no row."""
        identity, spool, following, last, digest, kept, *counts, nodes, sequence, message = row[:14]
        first, kept_digest, kept_next, kept_last = kept
        seen, records, size, dropped, missing = map(number_of, counts)
        if type(identity) is not str:
            raise TypeError("an identity that is no text")
        return cls(
            StreamKey(identity, binary_of(spool, 0, 16)),
            number_of(following),
            binary_of(last, 0, 32),
            binary_of(digest, 32),
            Anchor(number_of(first), binary_of(kept_digest, 32), number_of(kept_next), binary_of(kept_last, 0, 32)),
            seen,
            records,
            size,
            dropped,
            missing,
            nodes_of(nodes),
            None if sequence is None else number_of(sequence),
            None if message is None else binary_of(message, 32),
        )


def begun(key: StreamKey, at: Position, first: int) -> Stream:
    """A stream of which nothing is there yet. at: where it begins. first: number in the store of its first frame."""
    return Stream(key, at.next, at.last, ANCHOR, Anchor(first, ANCHOR, at.next, at.last))


class Streams:
    """The streams of a store, by host. max_hosts: hosts that are taken; those there already stay."""

    def __init__(self, max_hosts: int) -> None:
        self.max_hosts = max_hosts
        self._hosts: dict[str, tuple[Stream, ...]] = {}
        self._plain = 0
        # Whether it is known that something is kept of every host, or every one without a key: so that one refused
        # sender after the other does not have all looked through.
        self._crowded = {False: False, True: False}

    def __len__(self) -> int:
        """How many hosts."""
        return len(self._hosts)

    def __iter__(self) -> Iterator[Stream]:
        """All streams. From any thread: what is there at the first step."""
        return iter([stream for streams in tuple(self._hosts.values()) for stream in streams])

    def get(self, key: StreamKey) -> Stream | None:
        """That stream, or None."""
        for stream in self._hosts.get(key.identity, ()):
            if stream.key.spool == key.spool:
                return stream
        return None

    def of(self, identity: str) -> tuple[Stream, ...]:
        """The streams of a host; () if it is not known."""
        return self._hosts.get(identity, ())

    def hosts(self) -> Mapping[str, int]:
        """Bytes kept of each host."""
        return {name: sum(stream.size for stream in streams) for name, streams in self.by_host()}

    def by_host(self) -> Iterator[tuple[str, tuple[Stream, ...]]]:
        """The streams of each host. From any thread."""
        return iter(tuple(self._hosts.items()))

    def put(self, stream: Stream) -> None:
        """Take the stream in, or another state of it."""
        identity, spool = stream.key
        if identity not in self._hosts:
            self._plain += identity.startswith(PLAIN_PREFIX)
        others = tuple(each for each in self._hosts.get(identity, ()) if each.key.spool != spool)
        self._hosts[identity] = (*others, stream)
        if not stream.size:
            self._crowded = {False: False, True: False}

    def forget(self, key: StreamKey) -> None:
        """Forget a stream, if it is known."""
        identity = key.identity
        if identity not in self._hosts:
            return
        others = tuple(each for each in self._hosts[identity] if each.key != key)
        if others:
            self._hosts[identity] = others
        else:
            del self._hosts[identity]
            self._plain -= identity.startswith(PLAIN_PREFIX)
        self._crowded = {False: False, True: False}

    def make_room(
        self, key: StreamKey, new: Set[StreamKey], gone: Set[StreamKey], busy: Set[StreamKey]
    ) -> list[StreamKey]:
        """What has to be forgotten for this stream, which is not known, to be taken in; [] if nothing has to. new,
        gone: streams that are to be taken in, or forgotten, already. busy: those that are not to be forgotten.
        StoreError if there is no place for it."""
        identity = key.identity
        here = [stream for stream in self.of(identity) if stream.key not in gone]
        arriving = sum(each.identity == identity for each in new)
        if not here and not arriving:
            return self._make_place(identity.startswith(PLAIN_PREFIX), new, gone, busy)
        if len(here) + arriving < MAX_STREAMS:
            return []
        idle = [stream for stream in here if stream.key not in busy]
        if not idle:
            raise StoreError(f"{MAX_STREAMS} streams of one host are stored at once, no more are taken")
        # One of which nothing is kept is no loss; else the one that has been silent for longest.
        return [min(idle, key=lambda stream: (stream.size > 0, stream.seen)).key]

    def _make_place(
        self, plain: bool, new: Set[StreamKey], gone: Set[StreamKey], busy: Set[StreamKey]
    ) -> list[StreamKey]:
        """For another host. plain: one without a key; these have a part of the places."""

        def counts(name: str) -> bool:
            return not plain or name.startswith(PLAIN_PREFIX)

        bound = self.max_hosts // PLAIN_SHARE if plain else self.max_hosts
        if (self._plain if plain else len(self._hosts)) + len(new) < bound:
            # As nearly always, and then a group of thousands of new hosts is not looked through for each of them.
            return []
        leaving = {each.identity for each in gone if all(other.key in gone for other in self.of(each.identity))}
        arriving = {each.identity for each in new if each.identity not in self._hosts or each.identity in leaving}
        count = (self._plain if plain else len(self._hosts)) + sum(map(counts, arriving)) - sum(map(counts, leaving))
        if count < bound:
            return []
        silent = [] if self._crowded[plain] else [*filter(counts, self._silent(leaving | arriving, busy))]
        if not silent:
            self._crowded[plain] = not gone and not busy
            raise StoreError(
                f"records of {bound} hosts{' without a key' if plain else ''} are stored, no more are taken"
            )
        longest = min(silent, key=lambda name: max(stream.seen for stream in self._hosts[name]))
        return [stream.key for stream in self._hosts[longest] if stream.key not in gone]

    def _silent(self, but: Set[str], busy: Set[StreamKey]) -> Iterator[str]:
        """Hosts of whom nothing is kept."""
        for name, streams in self._hosts.items():
            if name not in but and not any(stream.size or stream.key in busy for stream in streams):
                yield name


def number_of(value: Any) -> int:
    """A number as stored. ValueError for anything else."""
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{value!r:.40} is no number")
    return value


def binary_of(value: Any, *sizes: int) -> bytes:
    """Bytes as stored, of one of these lengths. ValueError for anything else."""
    if type(value) is not bytes or len(value) not in sizes:
        raise ValueError("bytes of another length")
    return value


def nodes_of(value: Any) -> tuple[str, ...]:
    """Names of nodes as stored. ValueError, or TypeError, for anything else."""
    if len(value) > MAX_NODES or not all(type(each) is str and len(each) <= MAX_NODE for each in value):
        raise ValueError("no list of nodes")
    return tuple(value)
