"""Scores and what was seen, as bytes for a file, so that a restart forgets nothing.

What comes back is read as a stranger's: each type, number and length is checked, and nothing is taken over unless all
of it is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.detect.entities import MAX_PARTS, MAX_STAMP, MAX_WHY, Contribution, Entity, EntityId, Table
from audisp.detect.firstseen import MAX_GROUPS, MAX_HOSTS, MAX_KEY, NOVELTIES, FirstSeen
from audisp.detect.judged import TACTICS
from audisp.detect.weights import KINDS, MAX_ROWS, EntityKind
from audisp.errors import ParseError

VERSION: Final = 1
"""To be raised by whoever changes what a value means."""
MAX_KEPT: Final = 256 << 20
"""Bytes; 65,536 entities of each kind with eight reasons each take less."""
MAX_NAME: Final = 512
"""Characters of an origin or a node: NAME_MAX twice."""
MAX_ID: Final = 64
"""Characters of an event's id, and of an entity's key; those made here have 46 and 64 at most."""
MAX_REASON: Final = 512
"""Characters of a reason: two names of 200, and a few words."""
MAX_SCORE: Final = 1e9
"""More than any cap."""
FORGOTTEN: Final = 0.01
"""A score below this that nothing else depends on is not kept."""


def dump(tables: Mapping[EntityKind, Table], first: FirstSeen) -> bytes:
    """All of it."""
    hosts = [[origin, node, each.number, each.until] for (origin, node), each in first.hosts.items()]
    found: bytes = msgpack.packb(
        {
            "audisp": "scores",
            "version": VERSION,
            "entities": [_row(each) for kind in KINDS for each in tables[kind] if _matters(each)],
            "hosts": hosts,
            "pairs": [list(first.pairs[each]) for each in NOVELTIES],
            "groups": [[list(row) for row in first.groups[each].items()] for each in NOVELTIES],
        },
        unicode_errors="surrogatepass",
    )
    return found


def restore(tables: Mapping[EntityKind, Table], first: FirstSeen, data: bytes) -> None:
    """Put it back. What has no room is left out, the lowest first. Raises ParseError."""
    if len(data) > MAX_KEPT:
        raise ParseError(f"kept scores have at most {MAX_KEPT} bytes, not {len(data)}")
    try:
        found = msgpack.unpackb(
            data, unicode_errors="surrogatepass", strict_map_key=True, max_array_len=len(KINDS) * MAX_ROWS
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as problem:
        raise ParseError(f"no kept scores: {problem}") from problem
    if not isinstance(found, dict) or found.get("audisp") != "scores":
        raise ParseError("no kept scores")
    if found.get("version") != VERSION:
        raise ParseError(f"kept scores of version {found.get('version')!a}, and not {VERSION}")
    entities = [_entity(each) for each in _list(found.get("entities"), len(KINDS) * MAX_ROWS)]
    hosts = [_host(each) for each in _list(found.get("hosts"), MAX_HOSTS)]
    pairs = [
        [_bytes(each, MAX_KEY) for each in _list(row, MAX_ROWS)] for row in _exactly(found.get("pairs"), len(NOVELTIES))
    ]
    groups = [
        [_group(each) for each in _list(row, MAX_GROUPS)] for row in _exactly(found.get("groups"), len(NOVELTIES))
    ]
    for entity in sorted(entities, key=lambda each: (-each.held, -each.score)):
        tables[entity.id.kind].put(entity)
    for host, number, until in hosts:
        first.put_host(host, number, until)
    for what, these, those in zip(NOVELTIES, pairs, groups, strict=True):
        room = first.room
        first.pairs[what].update(dict.fromkeys(these[-room:]))
        first.groups[what].update(those)


def _matters(entity: Entity) -> bool:
    return entity.score >= FORGOTTEN or bool(entity.held) or entity.opener is not None


def _row(entity: Entity) -> list[Any]:
    return [
        list(entity.id),
        entity.at,
        entity.score,
        entity.firm,
        entity.fired,
        entity.sure,
        [list(each) for each in entity.why],
        [[name, seen] for name, seen in entity.tactics.items()],
        [[name, value, since] for name, (value, since) in entity.parts.items()],
        entity.held,
        None if entity.address is None else list(entity.address),
        entity.account,
        entity.opener,
    ]


def _entity(row: object) -> Entity:
    (id_, at, score, firm, fired, sure, why, tactics, parts, held, address, account, opener) = _exactly(row, 13)
    entity = Entity(_id(id_), _number(at, MAX_STAMP))
    entity.score, entity.firm = _amount(score), _amount(firm)
    entity.fired, entity.sure = _flag(fired), _flag(sure)
    entity.why = tuple([_contribution(each) for each in _list(why, MAX_WHY)])
    for each in _list(tactics, len(TACTICS)):
        name, seen = _exactly(each, 2)
        if name not in TACTICS:
            raise _wrong("a tactic")
        entity.tactics[name] = _number(seen, MAX_STAMP)
    for each in _list(parts, MAX_PARTS):
        name, value, since = _exactly(each, 3)
        entity.parts[_text(name, MAX_ID)] = (_amount(value), _number(since, MAX_STAMP))
    entity.held = _number(held, MAX_STAMP)
    entity.address = None if address is None else _id(address)
    if entity.address is not None and entity.address.kind != "address":
        raise _wrong("an address")
    entity.account = None if account is None else _text(account, MAX_ID)
    entity.opener = None if opener is None else _number(opener, 1 << 32)
    return entity


def _id(row: object) -> EntityId:
    kind, origin, node, key = _exactly(row, 4)
    if kind not in KINDS:
        raise _wrong("a kind of entity")
    return EntityId(kind, _text(origin, MAX_NAME), _text(node, MAX_NAME), _text(key, MAX_ID))


def _contribution(row: object) -> Contribution:
    event, weight, reason = _exactly(row, 3)
    return Contribution(_text(event, MAX_ID), _amount(weight), _text(reason, MAX_REASON))


def _host(row: object) -> tuple[tuple[str, bytes], int, int]:
    origin, node, number, until = _exactly(row, 4)
    return (_text(origin, MAX_NAME), _bytes(node, MAX_NAME)), _number(number, MAX_STAMP), _number(until, MAX_STAMP)


def _group(row: object) -> tuple[bytes, int]:
    name, count = _exactly(row, 2)
    return _bytes(name, MAX_KEY), _number(count, MAX_STAMP)


def _wrong(wanted: str) -> ParseError:
    return ParseError(f"kept scores: {wanted} expected")


def _list(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise _wrong(f"a list of at most {most}")
    return value


def _exactly(value: object, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise _wrong(f"a list of {length}")
    return value


def _number(value: object, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise _wrong(f"a number below {below}")
    return value


def _amount(value: object) -> float:
    # bool is an int to Python, and none to us.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SCORE:
        raise _wrong("a score")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false")
    return value


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise _wrong(f"a text of at most {most}")
    return value


def _bytes(value: object, most: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > most:
        raise _wrong(f"at most {most} bytes")
    return value
