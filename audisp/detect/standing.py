"""What a score is seen as from outside, and one event while it is looked at."""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

from audisp.detect.entities import MAX_STAMP, Contribution, Entity, EntityId
from audisp.detect.firstseen import Host
from audisp.detect.parents import stamp_of
from audisp.detect.weights import NEARLY, EntityKind
from audisp.event import Event

MAX_NODE: Final = 255
"""Bytes of a node's name that are kept as they are: a host's name has 253. Of a longer one the hash."""


@attrs.frozen
class Standing:
    """A score at the time of an event. firm: the part that may cause an act. contributions: the last that added to it,
    the latest last; what they were worth when they came. tactics: of ATT&CK, in alphabetical order."""

    kind: EntityKind
    key: str
    origin: str
    node: str
    score: float
    firm: float
    threshold: float
    contributions: tuple[Contribution, ...]
    tactics: tuple[str, ...]

    @property
    def id(self) -> EntityId:
        """What `Scores.hold` wants."""
        return EntityId(self.kind, self.origin, self.node, self.key)

    @property
    def sure(self) -> bool:
        """Whether it may cause an act."""
        return self.firm >= NEARLY * self.threshold


@attrs.frozen
class Scored(Standing):
    """A score reached its threshold, or its firm part did. event: which completed it."""

    event: Event = attrs.field(eq=False)


@attrs.define
class Counts:
    """What the scores have done, beside `Scores.counted`."""

    events: int = 0
    """Taken apart."""
    added: int = 0
    """Contributions."""
    fired: int = 0
    """Times that something reached its threshold."""
    cleared: int = 0
    """Sessions that ended."""
    forged: int = 0
    """Records of user space about logins that were not believed: their sender's uid is not 0."""


class Scene:
    """One event with what it touches."""

    __slots__ = ("event", "host", "ids", "stamp", "text", "touched")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.stamp = time_of(event.same[1])
        self.host = host_of(event)
        self.text = event.stamp
        self.ids: list[EntityId] = []
        self.touched: dict[EntityId, Entity] = {}

    def id(self, kind: EntityKind, key: str) -> EntityId:
        """An entity of this event's host; an address, of its origin."""
        event = self.event
        if kind == "address":
            return EntityId(kind, event.origin, "", key)
        node = event.node
        return EntityId(kind, event.origin, node if len(node) <= MAX_NODE else _hash(self.event.same[0]).hex(), key)


def time_of(head: bytes) -> int:
    """Milliseconds since the epoch of ``audit(SEC.MSEC:SERIAL):``, below MAX_STAMP."""
    return min(stamp_of(head), MAX_STAMP - 1)


def host_of(event: Event) -> Host:
    """Origin and node."""
    node = event.same[0]
    return event.origin, node if len(node) <= MAX_NODE else _hash(node)


def _hash(node: bytes) -> bytes:
    return hashlib.blake2b(node, digest_size=16).digest()
