"""What is known of a batch's processes as plain values, to be sent to a plugin in a process of its own, and back.

Neighbours in a batch share almost everything: the same process, the same ancestors. So each process is written once per
batch, each enrichment once, and an event has a number only. What comes back is equal to what went, and as shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from audisp.enrich.facts import MAX_VARIABLES, PARTS, Enrichment
from audisp.errors import ParseError
from audisp.parse.cgroup import Container
from audisp.parse.process_dump import process_row, read_process
from audisp.parse.processes import UNKNOWN, Process, Unknown

_FIELDS: Final = 12
_ENDS: Final = ("root", "unknown", "limit", None)


def pack(contexts: Sequence[Any]) -> list[Any] | None:
    """`Batch.contexts` as lists of numbers, texts and lists; None if none of them is known."""
    processes: list[Any] = []
    enrichments: list[Any] = []
    known: dict[int, int] = {}
    found: dict[int, int] = {}

    def number(process: Process) -> int:
        at = known.get(id(process))
        if at is None:
            at = known[id(process)] = len(processes)
            processes.append(process_row(process))
        return at

    order: list[int | None] = []
    for context in contexts:
        if not isinstance(context, Enrichment):
            order.append(None)
            continue
        at = found.get(id(context))
        if at is None:
            at = found[id(context)] = len(enrichments)
            box = context.container
            enrichments.append(
                [
                    None if context.process is None else number(context.process),
                    [box.id, box.runtime, box.pod, box.user, box.inner] if isinstance(box, Container) else _word(box),
                    _word(context.unit),
                    context.user_unit,
                    context.slice,
                    _word(context.cgroup),
                    [number(each) for each in context.parents],
                    context.parents_end,
                    _word(context.script),
                    dict(context.environment),
                    list(context.labels),
                    list(context.unknown),
                ]
            )
        order.append(at)
    return [processes, enrichments, order] if enrichments else None


def _word(value: str | Unknown | Any) -> Any:
    return False if value is UNKNOWN else value


def unpack(packed: object) -> list[Enrichment | None]:
    """What `pack` made of contexts, by position. Raises ParseError for anything else."""
    if not isinstance(packed, list) or len(packed) != 3 or not all(isinstance(part, list) for part in packed):
        raise ParseError("no contexts: three lists expected")
    processes = [read_process(row) for row in packed[0]]
    enrichments = [_enrichment(row, processes) for row in packed[1]]
    return [None if at is None else _at(enrichments, at) for at in packed[2]]


def _at(found: list[Any], at: object) -> Any:
    if type(at) is not int or not 0 <= at < len(found):
        raise ParseError("no contexts: a number that stands for nothing")
    return found[at]


def _enrichment(row: object, processes: list[Process]) -> Enrichment:
    if not isinstance(row, list) or len(row) != _FIELDS:
        raise ParseError(f"no contexts: a list of {_FIELDS} expected")
    process, box, unit, user_unit, slice_, cgroup, parents, end, script, environment, labels, unknown = row
    if not isinstance(environment, dict) or len(environment) > MAX_VARIABLES or end not in _ENDS:
        raise ParseError("no contexts: an environment and an end expected")
    if not isinstance(unknown, list) or not all(isinstance(part, str) and part in PARTS for part in unknown):
        raise ParseError("no contexts: names of parts expected")
    return Enrichment(
        None if process is None else _at(processes, process),
        _container(box),
        _said(unit),
        _text(user_unit),
        _text(slice_),
        _said(cgroup),
        tuple([_at(processes, each) for each in _list(parents)]),
        end,
        _said(script),
        {_whole(name): _whole(value) for name, value in environment.items()},
        tuple([_whole(label) for label in _list(labels)]),
        tuple(unknown),
    )


def _container(value: object) -> Container | Unknown | None:
    if value is False:
        return UNKNOWN
    if value is None:
        return None
    parts = _list(value)
    if len(parts) != 5 or not (parts[3] is None or type(parts[3]) is int):
        raise ParseError("no contexts: a container expected")
    return Container(_whole(parts[0]), _text(parts[1]), _text(parts[2]), parts[3], _text(parts[4]))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ParseError("no contexts: a list expected")
    return value


def _said(value: object) -> str | Unknown | None:
    return UNKNOWN if value is False else _text(value)


def _text(value: object) -> str | None:
    return None if value is None else _whole(value)


def _whole(value: object) -> str:
    if not isinstance(value, str):
        raise ParseError("no contexts: a text expected")
    return value
