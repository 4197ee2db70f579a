"""What was never there before: a user's program, a program's child, a user's destination.

Per host there is a time of learning, by the events' own clock, in which everything is remembered and nothing is said.
After it something new is worth a word if enough is known of whom it is new for. What is remembered is bounded; the pair
that was met least recently goes first, and is new when it comes again: who fills the table makes noise, which by itself
reaches no threshold, and does not make himself known.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final, Literal, TypeAlias, get_args

from audisp.detect.weights import ScoreSettings

Novelty: TypeAlias = Literal["program", "child", "destination"]
NOVELTIES: Final[tuple[Novelty, ...]] = get_args(Novelty)

MAX_HOSTS: Final = 4_096
"""Origin and node, each with its own time of learning; the one met least recently goes, and learns anew."""
MAX_GROUPS: Final = 4_096
"""Users and parents whose observations are counted, of each kind."""
MAX_KEY: Final = 64
"""Bytes of a pair that is kept as it is; of a longer one a hash."""

Host = tuple[str, bytes]
"""An event's origin, and its node part as it stands in its lines."""


class _Learning:
    """A host. number: what its pairs begin with, never given out twice. until: milliseconds since the epoch."""

    __slots__ = ("number", "until")

    def __init__(self, number: int, until: int) -> None:
        self.number, self.until = number, until


class FirstSeen:
    """Not thread-safe."""

    def __init__(self, settings: ScoreSettings) -> None:
        self.evicted = 0
        """Pairs that had to go for others."""
        self._learning = int(settings.learning * 1000)
        self._support = settings.min_support
        self.room = settings.max_pairs
        """Pairs of each kind."""
        self.number = 0
        """Hosts so far."""
        self._last: tuple[Host | None, int, int] = (None, 0, 0)
        self.hosts: OrderedDict[Host, _Learning] = OrderedDict()
        self.pairs: dict[Novelty, OrderedDict[bytes, None]] = {each: OrderedDict() for each in NOVELTIES}
        self.groups: dict[Novelty, OrderedDict[bytes, int]] = {each: OrderedDict() for each in NOVELTIES}

    def __len__(self) -> int:
        return sum(map(len, self.pairs.values()))

    def number_of(self, host: Host, stamp: int) -> int:
        """What a host is called here. stamp: milliseconds since the epoch, at which it begins to learn if it is new."""
        if host == self._last[0]:
            return self._last[1]
        learning = self.hosts.get(host)
        if learning is None:
            learning = self._host(host, stamp + self._learning)
        else:
            self.hosts.move_to_end(host)
        self._last = (host, learning.number, learning.until)
        return learning.number

    def meet(self, what: Novelty, host: Host, stamp: int, whose: bytes, thing: bytes) -> bool:
        """Remember it; True if it is new and that means something."""
        group = b"%d\0%b" % (self.number_of(host, stamp), whose)
        pair = group + b"\0" + thing
        if len(pair) > MAX_KEY:
            pair = hashlib.blake2b(pair, digest_size=32).digest()
            if len(group) > MAX_KEY:
                group = hashlib.blake2b(group, digest_size=32).digest()
        pairs, groups = self.pairs[what], self.groups[what]
        known = groups.get(group, 0)
        if known < self._support:
            groups[group] = known + 1
        groups.move_to_end(group)
        if len(groups) > MAX_GROUPS:
            groups.popitem(last=False)
        if pair in pairs:
            pairs.move_to_end(pair)
            return False
        pairs[pair] = None
        if len(pairs) > self.room:
            pairs.popitem(last=False)
            self.evicted += 1
        return known >= self._support and stamp >= self._last[2]

    def _host(self, host: Host, until: int) -> _Learning:
        self.number += 1
        found = self.hosts[host] = _Learning(self.number, until)
        if len(self.hosts) > MAX_HOSTS:
            self.hosts.popitem(last=False)
        return found

    def put_host(self, host: Host, number: int, until: int) -> None:
        """A host that was kept from before."""
        self.hosts[host] = _Learning(number, until)
        self._last = (None, 0, 0)
        self.number = max(self.number, number)
