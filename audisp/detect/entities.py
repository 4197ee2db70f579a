"""What has a score, and the tables that hold it: decay, caps, who must go.

A score halves in a half-life, so of two with one half-life the lower stays the lower: ``log2(score) + time /
half-life`` is a rank that does not change while nothing happens. A heap of ranks therefore needs no ageing. It is
mended lazily: a rank only rises when something is added, and the entry of one that has risen is put right when it comes
to the top. Each addition causes one mending at most, so that making room costs O(log n) for each, whatever an attacker
fills a table with.

A newcomer is not measured against those that are there: it would be the lowest ever after once a table is full of
higher ones, and never get anywhere.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from audisp.detect.weights import KINDS, NEARLY, EntityKind, ScoreSettings

MAX_WHY: Final = 8
"""Contributions that an entity remembers: a threshold's worth of the smallest."""
MAX_PARTS: Final = 8
"""Rules whose share of a score is watched: who makes more fire than these deserves what they add."""
TACTIC_MS: Final = 86_400_000
"""How long a tactic counts as one of an attack's, in milliseconds."""
BACK_MS: Final = 3_600_000
"""By how many milliseconds events may be out of order. What is earlier was stamped after the clock was set back, and
the entity's time goes with it: else a moment in the far future would keep a score from falling."""
MAX_STAMP: Final = 1 << 52
"""Milliseconds since the epoch. Stamps are below, or taken to be: floats are exact so far, and calendars end before."""
LITTLE: Final = 1e-9
"""Instead of nothing, whose logarithm nobody has."""
STEP: Final = 0.25
"""What is left of a limit is added when it is as much as this: a rule that fires every second would else push all other
reasons out of `why`."""
FIRST: Final = "first seen"
"""The share of everything that was first seen."""


class EntityId(NamedTuple):
    """What events have in common. origin: the events' source or host. node: "" of addresses, which all hosts of one
    origin share. key: an address as `ipaddress` writes it; an account's name, or ``#NUMBER``; a session's number; of a
    tree ``PID@MILLISECONDS``, its first process and when that began."""

    kind: EntityKind
    origin: str
    node: str
    key: str


class Contribution(NamedTuple):
    """Something that added to a score. event: ``SEC.MSEC:SERIAL``. reason: printable text."""

    event: str
    weight: float
    reason: str


class Entity:
    """One score. To be changed by its table alone, but for the links, `opener`, `fired` and `sure`.

    score, firm: as of `at` (milliseconds since the epoch); firm is the part that may cause an act. fired, sure: score
    and firm have reached the threshold, and have not been below half of it since. parts: by rule, how much of the score
    it is, as of when. tactics: when each was last seen. held: until when it must stay. address, account: where a
    session came from. opener: the process that opened it.
    """

    __slots__ = (
        "account",
        "address",
        "at",
        "fired",
        "firm",
        "held",
        "id",
        "opener",
        "parts",
        "score",
        "slot",
        "sure",
        "tactics",
        "why",
    )

    def __init__(self, id_: EntityId, at: int) -> None:
        self.id = id_
        self.at = at
        self.score = self.firm = 0.0
        self.fired = self.sure = False
        self.why: tuple[Contribution, ...] = ()
        self.tactics: dict[str, int] = {}
        self.parts: dict[str, tuple[float, int]] = {}
        self.slot = 0
        self.held = 0
        self.address: EntityId | None = None
        self.account: str | None = None
        self.opener: int | None = None


class Table:
    """All entities of one kind. Times are milliseconds since the epoch."""

    def __init__(self, kind: EntityKind, settings: ScoreSettings) -> None:
        self.kind = kind
        self.threshold = settings.threshold(kind)
        self.reached = NEARLY * self.threshold
        self.half = settings.half_lives[kind] * 1000
        self.evicted = 0
        """Had to go for others."""
        self.refused = 0
        """Would have had to stay, but half of the table does already."""
        self._cap = float(settings.cap * self.threshold)
        self._max = settings.max_entities
        self._entities: dict[EntityId, Entity] = {}
        self._hosts: dict[tuple[str, str], dict[EntityId, None]] = {}
        self._heap: list[tuple[float, int, Entity]] = []
        self._held: list[tuple[int, int, Entity]] = []
        self._slots = 0

    def __len__(self) -> int:
        return len(self._entities)

    def __iter__(self) -> Iterator[Entity]:
        return iter(self._entities.values())

    def get(self, id_: EntityId) -> Entity | None:
        """The entity, if it is known."""
        return self._entities.get(id_)

    def present(self, entity: Entity, stamp: int) -> tuple[float, float]:
        """Score and firm at a time; nothing changes."""
        factor = self._factor(stamp - entity.at)
        return entity.score * factor, entity.firm * factor

    def make(self, id_: EntityId, stamp: int, now: int) -> Entity:
        """The entity, made if need be, and room for it. now: by which holds end."""
        entity = self._entities.get(id_)
        if entity is None:
            entity = Entity(id_, stamp)
            while len(self._entities) >= self._max and self._evict(now):
                pass
            self._come(entity)
            self._enter(entity)
        return entity

    def put(self, entity: Entity) -> bool:
        """One that was kept from before, unless there is no room or it is there already."""
        if entity.id in self._entities or len(self._entities) >= self._max:
            return False
        self._come(entity)
        until, entity.held = entity.held, 0
        if not until or not self.hold(entity, until):
            self._enter(entity)
        return True

    def add(
        self,
        entity: Entity,
        stamp: int,
        weight: float,
        event: str,
        reason: str,
        *,
        firm: float = 0.0,
        part: str | None = None,
        limit: float = math.inf,
    ) -> bool:
        """More of it. event, reason: see `Contribution`. part, limit: together with what else is said of this part the
        score gets no more. False: nothing was added."""
        self.age(entity, stamp)
        if part is not None:
            value, since = entity.parts.pop(part, (0.0, stamp))
            value *= self._factor(stamp - since)
            room = limit - value
            if room < min(STEP, weight):
                room = 0.0
            weight, firm = min(weight, room), min(firm, room)
            entity.parts[part] = (value + weight, stamp)
            if len(entity.parts) > MAX_PARTS:
                del entity.parts[next(each for each in entity.parts if each != FIRST)]
        if weight <= 0 and firm <= 0:
            return False
        entity.score = min(self._cap, entity.score + weight)
        entity.firm = min(self._cap, entity.firm + firm)
        entity.score = max(entity.score, entity.firm)
        entity.why = (*entity.why[1 - MAX_WHY :], Contribution(event, round(float(max(weight, firm)), 2), reason))
        return True

    def age(self, entity: Entity, stamp: int) -> None:
        """Let time pass until then."""
        gone = stamp - entity.at
        if gone < -BACK_MS:
            entity.at = stamp
            entity.parts.clear()
            if entity.slot:  # its rank has fallen, which the heap would not find out
                self._enter(entity)
        elif gone > 0:
            factor = self._factor(gone)
            entity.score *= factor
            entity.firm *= factor
            entity.at = stamp
        if entity.score < self.threshold / 2:
            entity.fired = False
        if entity.firm < self.threshold / 2:
            entity.sure = False

    def hold(self, entity: Entity, until: int) -> bool:
        """Keep it until then, whatever comes. False: half of the table is kept already."""
        if not entity.held:
            if 2 * len(self._held) >= self._max:
                self.refused += 1
                return False
            entity.slot = 0
            self._slots += 1
            heapq.heappush(self._held, (until, self._slots, entity))
        entity.held = max(entity.held, until)
        return True

    def remove(self, id_: EntityId, now: int) -> bool:
        """Forget it, unless it is held."""
        entity = self._entities.get(id_)
        if entity is None or entity.held > now:
            return False
        self._go(entity)
        return True

    def clear(self, like: EntityId, now: int) -> int:
        """Forget all of one's host that are not held; how many."""
        return sum([self.remove(id_, now) for id_ in list(self._hosts.get(like[1:3], ()))])

    def _come(self, entity: Entity) -> None:
        self._entities[entity.id] = entity
        self._hosts.setdefault(entity.id[1:3], {})[entity.id] = None

    def _go(self, entity: Entity) -> None:
        entity.slot = 0
        del self._entities[entity.id]
        host = entity.id[1:3]
        del self._hosts[host][entity.id]
        if not self._hosts[host]:
            del self._hosts[host]

    def _factor(self, gone: float) -> float:
        return math.exp2(-gone / self.half) if gone > 0 else 1.0

    def _rank(self, entity: Entity) -> float:
        return math.log2(max(entity.score, LITTLE)) + entity.at / self.half

    def _enter(self, entity: Entity) -> None:
        self._slots += 1
        entity.slot = self._slots
        heapq.heappush(self._heap, (self._rank(entity), self._slots, entity))
        if len(self._heap) > 2 * self._max:  # of those that are gone
            self._heap = [each for each in self._heap if each[2].slot == each[1]]
            heapq.heapify(self._heap)

    def _evict(self, now: int) -> bool:
        """The lowest goes. False: there is none that may."""
        self._release(now)
        while self._heap:
            rank, slot, entity = self._heap[0]
            if entity.slot != slot:
                heapq.heappop(self._heap)
                continue
            risen = self._rank(entity)
            if risen > rank:
                heapq.heapreplace(self._heap, (risen, slot, entity))
                continue
            heapq.heappop(self._heap)
            self._go(entity)
            self.evicted += 1
            return True
        return False

    def _release(self, now: int) -> None:
        while self._held and self._held[0][0] <= now:
            _, slot, entity = heapq.heappop(self._held)
            if entity.held > now:
                heapq.heappush(self._held, (entity.held, slot, entity))
                continue
            entity.held = 0
            if self._entities.get(entity.id) is entity:
                self._enter(entity)


def tables(settings: ScoreSettings) -> dict[EntityKind, Table]:
    """One for each kind."""
    return {kind: Table(kind, settings) for kind in KINDS}
