"""Rules in our own form: what a Sigma rule means, without Sigma's syntax, and how that is written down.

Sigma is parsed elsewhere, by a large library in a process of its own. What that process says is read here, as bytes
from a stranger: each type, size and depth is checked before it is used. The form has a version; there is no other way
to read one than to have been written for it.

A condition is a tree of And, Or, Not, and Is, which asks one field of a view (None: its whole text) for a value.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import attrs
import msgpack  # type: ignore[import-untyped]  # the package ships no types

from audisp.errors import ParseError

VERSION: Final = 1
"""Of the form. To be raised by whoever changes what a value means."""
MAX_FORM: Final = 16 << 20
"""Bytes of a written set of rules. The 221 usable rules of SigmaHQ for Linux take 200 KiB."""
MAX_RULES: Final = 10_000
"""In one set, those that were refused included; SigmaHQ has 4,000 for all systems."""
MAX_NODES: Final = 20_000
"""Of one rule's condition. The largest of SigmaHQ's for Linux has some 300."""
MAX_DEPTH: Final = 64
"""Of one rule's condition: what a person writes has five levels."""
MAX_TEXT: Final = 8_192
"""Characters of one text: a value, a title, a reason. The longest value of SigmaHQ's rules has 300."""
MAX_LIST: Final = 1_000
"""Entries of one list that is no condition: tags, fields to group by, rules of a correlation."""
MAX_TIMESPAN: Final = 366 * 86_400
"""Seconds a correlation looks back."""
MAX_COUNT: Final = 10_000
"""Occurrences a correlation counts up to: each is remembered."""

Source: TypeAlias = Literal["auditd", "process_creation", "file_event", "network_connection"]
"""Which view of an event a rule speaks of."""
SOURCES: Final[tuple[str, ...]] = get_args(Source)
Level: TypeAlias = Literal["informational", "low", "medium", "high", "critical"]
LEVELS: Final[tuple[str, ...]] = get_args(Level)
"""From the least to the most severe."""
Kind: TypeAlias = Literal["event_count", "value_count", "temporal", "temporal_ordered"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
Comparison: TypeAlias = Literal["lt", "lte", "gt", "gte", "neq"]
COMPARISONS: Final[tuple[str, ...]] = get_args(Comparison)

ANY: Final = 0
"""In the parts of a text: any run of characters, also none (``*``)."""
ONE: Final = 1
"""In the parts of a text: one character (``?``)."""

Part: TypeAlias = str | int


class FormError(ParseError):
    """What was to be a written set of rules is none. str() says where in it and why."""


@attrs.frozen
class Text:
    """Equal to a text with wildcards. parts: texts, ANY and ONE, in order. cased: capital letters count."""

    parts: tuple[Part, ...]
    cased: bool = False


@attrs.frozen
class Regex:
    """A regular expression (RE2's syntax) matches somewhere. flags: of ``i``, ``m``, ``s``. Capital letters count."""

    pattern: str
    flags: str = ""


@attrs.frozen
class Network:
    """An address in this network, in CIDR notation."""

    cidr: str


@attrs.frozen
class Compare:
    """A decimal number that compares so."""

    op: Comparison
    number: int | float


@attrs.frozen
class Exists:
    """Whether the field is there."""

    wanted: bool


@attrs.frozen
class Null:
    """The field is absent, or has no value."""


Value: TypeAlias = Text | Regex | Network | Compare | Exists | Null


@attrs.frozen
class Is:
    """A field has a value. field None: the view's text as a whole (a keyword)."""

    field: str | None
    value: Value


@attrs.frozen
class And:
    """All of these."""

    parts: tuple[Node, ...]


@attrs.frozen
class Or:
    """One of these."""

    parts: tuple[Node, ...]


@attrs.frozen
class Not:
    """Not this."""

    part: Node


Node: TypeAlias = Is | And | Or | Not


@attrs.frozen
class Heading:
    """What is said of a rule. where: its file, below the folder that was named. line: of its document, from 1.

    name: what correlations may call it by, beside its id. definition: what its author says must be configured.
    """

    id: str
    title: str
    level: Level = "informational"
    where: str = ""
    line: int = 1
    name: str = ""
    author: str = ""
    tags: tuple[str, ...] = ()
    definition: str = ""


@attrs.frozen
class Rule:
    """One rule for one view. silent: it serves correlations only, and is no finding by itself."""

    heading: Heading
    source: Source
    condition: Node
    silent: bool = False


@attrs.frozen
class Correlation:
    """A rule on the findings of others. rules: their ids. timespan: seconds.

    group_by: fields whose values must be the same; aliases: by a name of group_by, which field of which rule that is.
    count: how many events, or distinct values of `fields`, are one finding; of temporal kinds the number of rules.
    """

    heading: Heading
    kind: Kind
    rules: tuple[str, ...]
    timespan: int
    group_by: tuple[str, ...] = ()
    count: int = 1
    fields: tuple[str, ...] = ()
    aliases: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    silent: bool = False


@attrs.frozen
class Refused:
    """A document that is no rule for us, and why."""

    where: str
    line: int
    id: str
    title: str
    reason: str


@attrs.frozen
class RuleSet:
    """All that was found in a folder."""

    rules: tuple[Rule, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    refused: tuple[Refused, ...] = ()


# ---- writing ----


def encode(rules: RuleSet) -> bytes:
    """The written form; `decode` gives an equal set. Values beyond the limits are written, and refused there."""
    written: bytes = msgpack.packb(
        {
            "form": VERSION,
            "rules": [[_heading(e.heading), e.source, pack(e.condition), e.silent] for e in rules.rules],
            "correlations": [
                [
                    _heading(e.heading),
                    e.kind,
                    list(e.rules),
                    e.timespan,
                    list(e.group_by),
                    e.count,
                    list(e.fields),
                    [[name, [list(pair) for pair in pairs]] for name, pairs in e.aliases],
                    e.silent,
                ]
                for e in rules.correlations
            ],
            "refused": [[e.where, e.line, e.id, e.title, e.reason] for e in rules.refused],
        },
        unicode_errors="surrogatepass",
    )
    return written


def _heading(given: Heading) -> list[Any]:
    return [*attrs.astuple(given, recurse=False)[:7], list(given.tags), given.definition]


def pack(node: Node) -> list[Any]:
    """A condition as nested lists."""
    if isinstance(node, Is):
        return ["is", node.field, _pack_value(node.value)]
    if isinstance(node, Not):
        return ["not", pack(node.part)]
    return ["and" if isinstance(node, And) else "or", [pack(each) for each in node.parts]]


def _pack_value(value: Value) -> list[Any]:
    match value:
        case Text():
            return ["text", list(value.parts), value.cased]
        case Regex():
            return ["regex", value.pattern, value.flags]
        case Network():
            return ["network", value.cidr]
        case Compare():
            return ["compare", value.op, value.number]
        case Exists():
            return ["exists", value.wanted]
        case Null():
            return ["null"]


# ---- reading ----


def decode(data: bytes) -> RuleSet:
    """The set that was written. Raises FormError for anything that `encode` would not write, or beyond the limits."""
    if len(data) > MAX_FORM:
        raise FormError(f"{len(data):,} bytes of rules are more than {MAX_FORM:,}")
    try:
        given = msgpack.unpackb(data, unicode_errors="surrogatepass")
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise FormError(f"is no written form: {error}") from error
    top = _fields(given, "the form", "form", "rules", "correlations", "refused")
    if top["form"] != VERSION:
        raise FormError(f"is of version {top['form']!r}; this reads {VERSION}")
    rules = tuple(_rule(each, f"rule {at}") for at, each in enumerate(_list(top["rules"], "rules", MAX_RULES)))
    correlations = tuple(
        _correlation(each, f"correlation {at}")
        for at, each in enumerate(_list(top["correlations"], "correlations", MAX_RULES))
    )
    refused = tuple(
        _refused(each, f"refusal {at}") for at, each in enumerate(_list(top["refused"], "refused", MAX_RULES))
    )
    known = [each.heading.id for each in rules] + [each.heading.id for each in correlations]
    if len(set(known)) != len(known):
        raise FormError("two rules have one id")
    missing = {each for rule in correlations for each in rule.rules} - set(known)
    if missing:
        raise FormError(f"no rule has the id {min(missing)!r} that a correlation names")
    return RuleSet(rules, correlations, refused)


def _fields(given: object, where: str, *names: str) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) != set(names):
        raise FormError(f"{where}: not a map of {', '.join(names)}")
    return given


def _list(given: object, where: str, most: int, least: int = 0) -> list[Any]:
    if not isinstance(given, list) or not least <= len(given) <= most:
        raise FormError(f"{where}: not a list of {least} to {most:,}")
    return given


def _row(given: object, where: str, length: int) -> list[Any]:
    return _list(given, where, length, length)


def _text(given: object, where: str, least: int = 0) -> str:
    if not isinstance(given, str) or not least <= len(given) <= MAX_TEXT:
        raise FormError(f"{where}: not a text of {least} to {MAX_TEXT:,} characters")
    return given


def _texts(given: object, where: str) -> tuple[str, ...]:
    return tuple(_text(each, where) for each in _list(given, where, MAX_LIST))


def _number(given: object, where: str, least: int, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise FormError(f"{where}: not a whole number from {least} to {most:,}")
    return given


def _flag(given: object, where: str) -> bool:
    if not isinstance(given, bool):
        raise FormError(f"{where}: not a truth value")
    return given


def _one_of(given: object, where: str, choices: tuple[str, ...]) -> str:
    if not isinstance(given, str) or given not in choices:
        raise FormError(f"{where}: not one of {', '.join(choices)}")
    return given


def _read_heading(given: object, where: str) -> Heading:
    id_, title, level, path, line, name, author, tags, definition = _row(given, f"{where}: heading", 9)
    return Heading(
        _text(id_, f"{where}: id", 1),
        _text(title, f"{where}: title"),
        cast("Level", _one_of(level, f"{where}: level", LEVELS)),
        _text(path, f"{where}: file"),
        _number(line, f"{where}: line", 1, 1 << 31),
        _text(name, f"{where}: name"),
        _text(author, f"{where}: author"),
        _texts(tags, f"{where}: tags"),
        _text(definition, f"{where}: definition"),
    )


def _rule(given: object, where: str) -> Rule:
    heading, source, condition, silent = _row(given, where, 4)
    return Rule(
        _read_heading(heading, where),
        cast("Source", _one_of(source, f"{where}: source", SOURCES)),
        unpack(condition, f"{where}: condition"),
        _flag(silent, f"{where}: silent"),
    )


def _correlation(given: object, where: str) -> Correlation:
    heading, kind, rules, timespan, group_by, count, fields, aliases, silent = _row(given, where, 9)
    named = []
    for each in _list(aliases, f"{where}: aliases", MAX_LIST):
        name, pairs = _row(each, f"{where}: alias", 2)
        read = [_row(pair, f"{where}: alias", 2) for pair in _list(pairs, f"{where}: alias", MAX_LIST)]
        named.append(
            (_text(name, f"{where}: alias"), tuple((_text(a, f"{where}: alias"), _text(b, where)) for a, b in read))
        )
    return Correlation(
        _read_heading(heading, where),
        cast("Kind", _one_of(kind, f"{where}: kind", KINDS)),
        tuple(_text(each, f"{where}: rules", 1) for each in _list(rules, f"{where}: rules", MAX_LIST, 1)),
        _number(timespan, f"{where}: timespan", 1, MAX_TIMESPAN),
        _texts(group_by, f"{where}: group_by"),
        _number(count, f"{where}: count", 1, MAX_COUNT),
        _texts(fields, f"{where}: fields"),
        tuple(named),
        _flag(silent, f"{where}: silent"),
    )


def _refused(given: object, where: str) -> Refused:
    path, line, id_, title, reason = _row(given, where, 5)
    return Refused(
        _text(path, where),
        _number(line, where, 1, 1 << 31),
        _text(id_, where),
        _text(title, where),
        _text(reason, where, 1),
    )


def unpack(given: object, where: str = "condition") -> Node:
    """A condition of nested lists. Raises FormError."""
    return _unpack(given, where, MAX_DEPTH, [MAX_NODES])


def _unpack(given: object, where: str, depth: int, left: list[int]) -> Node:
    left[0] -= 1
    if left[0] < 0:
        raise FormError(f"{where}: more than {MAX_NODES:,} parts")
    if depth < 0:
        raise FormError(f"{where}: deeper than {MAX_DEPTH}")
    if not isinstance(given, list) or not given or not isinstance(given[0], str):
        raise FormError(f"{where}: no condition")
    match given:
        case ["is", field, value]:
            return Is(None if field is None else _text(field, f"{where}: field", 1), _value(value, where, left))
        case ["not", part]:
            return Not(_unpack(part, where, depth - 1, left))
        case ["and" | "or" as word, parts]:
            read = tuple(_unpack(each, where, depth - 1, left) for each in _list(parts, where, MAX_NODES, 1))
            return And(read) if word == "and" else Or(read)
    raise FormError(f"{where}: {given[0][:60]!r} is not and, or, not, is with what belongs to it")


def _value(given: object, where: str, left: list[int]) -> Value:
    match given:
        case ["text", parts, cased]:
            read = _list(parts, f"{where}: text", MAX_NODES)
            left[0] -= len(read)
            for each in read:
                if isinstance(each, bool) or each not in (ANY, ONE):
                    _text(each, f"{where}: text", 1)
            return Text(tuple(read), _flag(cased, f"{where}: cased"))
        case ["regex", pattern, flags]:
            if not set(_text(flags, f"{where}: flags")) <= set("ims"):
                raise FormError(f"{where}: flags are i, m and s")
            return Regex(_text(pattern, f"{where}: regex"), _text(flags, where))
        case ["network", cidr]:
            written = _text(cidr, where)
            try:
                ipaddress.ip_network(written)
            except ValueError as error:
                raise FormError(f"{where}: {error}") from error
            return Network(written)
        case ["compare", op, number]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise FormError(f"{where}: not a number")
            return Compare(cast("Comparison", _one_of(op, where, COMPARISONS)), number)
        case ["exists", wanted]:
            return Exists(_flag(wanted, f"{where}: exists"))
        case ["null"]:
            return Null()
    raise FormError(f"{where}: no value")
