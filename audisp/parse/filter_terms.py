"""What the comparisons of a filter mean: from a tree to a function that judges one record.

The rules are those of ausearch-expression(5), and where it is silent those of libauparse0 3.0.9, found by asking it
(tests/e2e/test_ausearch_expression.py). docs/filters.md lists where and why ours differ.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from audisp.parse import values
from audisp.parse.expression import (
    VALUE_OPERATORS,
    VIRTUAL,
    And,
    Comparison,
    ExpressionError,
    Not,
    Regexp,
    Tree,
    near,
    shown,
)
from audisp.parse.fieldtypes import FIELD_TYPES, FieldType, field_type
from audisp.parse.filter_regex import Pattern, PatternError
from audisp.parse.interpret import UNSET, Names, escape, interpret
from audisp.parse.record import SEPARATOR, Record, split_enrichment
from audisp.parse.types import NUMBER, type_number

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER: Final = ("type", "node")
"""Fields that stand in a record's header. Of fields of that name in its body none is the first."""
ENRICHED: Final = frozenset({FieldType.UID, FieldType.GID, FieldType.SYSCALL, FieldType.ARCH, FieldType.SOCKADDR})
"""What ENRICHED format brings an interpretation of. It counts before our own: the sender knew its accounts."""

_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z")
_WRITTEN: Final = re.compile(r"[0-9]{1,20}\Z")
_STAMP: Final = re.compile(r"ts:([0-9]{1,20})\.([0-9]{1,20})(?::([0-9]{1,20}))?\Z")
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        "<": operator.lt,
        "<=": operator.le,
        "==": operator.eq,
        ">": operator.gt,
        ">=": operator.ge,
        "!==": operator.ne,
    }
)


LINE: Final = re.compile(
    rb"^((?:node=[^ \n]+ )?)(type=[^ \n]+) msg=audit\(([0-9]{1,20})\.([0-9]{1,3}):([0-9]{1,20})\):([^\n]*)", re.M
)
"""A record's line: node part, type, seconds, milliseconds, serial, the rest."""

Read = Callable[[str], Record]
"""The record of a stripped line: `RecordReader.read`."""


class Sight:
    """A record as a filter sees it, taken apart as far as it is asked. found: a match of `LINE`."""

    __slots__ = ("_found", "_read", "_record")

    def __init__(self, found: re.Match[bytes], read: Read) -> None:
        self._found, self._read = found, read
        self._record: Record | None = None

    @property
    def record(self) -> Record:
        """The record."""
        record = self._record
        if record is None:
            found = self._found
            record = self._record = self._read((found[2] + found[6]).decode("latin-1"))
        return record

    @property
    def moment(self) -> tuple[int, int]:
        """Seconds, milliseconds."""
        return int(self._found[3]), int(self._found[4])

    @property
    def stamp(self) -> tuple[int, int, int]:
        """Seconds, milliseconds, serial."""
        return *self.moment, int(self._found[5])

    @property
    def node(self) -> str:
        """As it is written, "" without."""
        return self._found[1][5:-1].decode("latin-1")

    @property
    def text(self) -> bytes:
        """What ``\\regexp`` looks at: the line without what ENRICHED format appended."""
        line = self._found[0].removesuffix(b"\r")
        if SEPARATOR.encode() not in line:
            return line
        own, _ = split_enrichment(self.record.body)
        return line[: len(line) - (len(self.record.body) - len(own))]


Test = Callable[[Sight], bool]


def compile_test(tree: Tree, names: Names) -> Test:
    """A function that says whether an expression is true of a record. Raises ExpressionError."""
    if isinstance(tree, Comparison):
        if tree.virtual:
            return _record_type(tree) if tree.field == "record_type" else _timestamp(tree)
        if tree.operator in VALUE_OPERATORS:
            return _number(tree)
        return _raw(tree) if tree.operator.startswith("r") else _interpreted(tree, names)
    if isinstance(tree, Regexp):
        search = pattern(tree).search
        return lambda sight: search(sight.text)
    if isinstance(tree, Not):
        inner = compile_test(tree.operand, names)
        return lambda sight: not inner(sight)
    tests = tuple([compile_test(each, names) for each in tree.operands])
    return _all(tests) if isinstance(tree, And) else _any(tests)


def _all(tests: tuple[Test, ...]) -> Test:
    def test(sight: Sight) -> bool:
        for each in tests:  # noqa: SIM110 - without a generator it takes half the time
            if not each(sight):
                return False
        return True

    return test


def _any(tests: tuple[Test, ...]) -> Test:
    def test(sight: Sight) -> bool:
        for each in tests:  # noqa: SIM110
            if each(sight):
                return True
        return False

    return test


def pattern(regexp: Regexp) -> Pattern:
    """The automaton of a ``\\regexp``. Raises ExpressionError, with the column of the pattern."""
    try:
        return Pattern(regexp.pattern)
    except PatternError as error:
        said = f"in the pattern {shown(regexp.pattern)}, at character {error.at + 1}: {error.message}"
        raise ExpressionError(said, regexp.value_column) from None


# ---- fields: text (one with nothing behind its = counts as absent, as in auparse) ----


def latin(text: str) -> str:
    """Text as records are looked at: one character per byte."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _raw(comparison: Comparison) -> Test:
    field, value, equal = comparison.field, latin(comparison.value), comparison.operator == "r="
    if field in HEADER:
        return lambda sight: (found := _header(sight, field)) != "" and (found == value) is equal
    return lambda sight: (found := sight.record.raw(field) or "") != "" and (found == value) is equal


def _header(sight: Sight, field: str) -> str:
    return sight.record.type if field == "type" else sight.node


def _interpreted(comparison: Comparison, names: Names) -> Test:
    field, value, equal = comparison.field, comparison.value, comparison.operator == "i="
    if field in HEADER:
        return _raw(attrs.evolve(comparison, operator=comparison.operator.replace("i", "r")))
    if field == "key":
        return lambda sight: (found := sight.record.raw("key") or "") != "" and (value in _keys(found)) is equal

    def test(sight: Sight) -> bool:
        found = sight.record.raw(field) or ""
        return found != "" and (interpreted(sight.record, field, found, names) == value) is equal

    return test


def _keys(value: str) -> list[str]:
    """Each key of a rule is compared by itself; ``(null)`` stays as it is, as with any field."""
    return [escape(each, "tty") for each in values.keys(value) or (value,)]


def interpreted(record: Record, field: str, value: str, names: Names) -> str:
    """What `ausearch -i` shows of a field: as the sender interpreted it if it did, else by what is known here."""
    added = record.enriched.get(field.upper()) if record.enriched else None
    if added is not None and not added.startswith("unknown-"):
        type_ = field_type(record.type, field, value)
        if type_ in ENRICHED:
            known = values.string(added) if type_ in (FieldType.UID, FieldType.GID) else values.from_text(added)
            return escape(known or "", "tty")
    return escape(interpret(record.type, field, value, record.fields, names), "tty")


# ---- fields: numbers ----


def id_number(comparison: Comparison) -> int:
    """The number that an id is compared with. Raises ExpressionError."""
    value = comparison.value
    if value in ("-1", "unset"):
        return UNSET
    if not _WRITTEN.match(value) or int(value) > UNSET:
        said = f"a number from 0 to {UNSET}, -1 or unset expected, not {shown(value)}"
        raise ExpressionError(f"{said}: names are compared by i= and i!=", comparison.value_column)
    return int(value)


def _number(comparison: Comparison) -> Test:
    field = comparison.field
    if FIELD_TYPES.get(field) not in (FieldType.UID, FieldType.GID):
        said = f"{shown(field)} has no value to compare, only ids of users and groups have one: use r=, r!=, i= or i!="
        if field in VIRTUAL:
            said = f"{field} is a virtual field, written \\{field}"
        raise ExpressionError(said, comparison.field_column)
    compare, number = _COMPARE[comparison.operator], id_number(comparison)

    def test(sight: Sight) -> bool:
        found = sight.record.raw(field) or ""
        if _NUMBER.match(found):
            return compare(int(found), number)
        return found == "-1" and compare(UNSET, number)

    return test


# ---- virtual fields ----


def _refuse_text(comparison: Comparison) -> None:
    if comparison.operator not in VALUE_OPERATORS:
        said = f"\\{comparison.field} has a value and no text: use {' '.join(_COMPARE)}, not {comparison.operator}"
        raise ExpressionError(said, comparison.field_column)


def record_number(comparison: Comparison) -> int:
    """The number of the type that ``\\record_type`` is compared with. Raises ExpressionError."""
    value = comparison.value
    number = type_number(value.encode("utf-8", "surrogateescape"))
    if not number and value != "0":
        known = near(value.upper(), [name.decode() for name in NUMBER])
        raise ExpressionError(f"{shown(value)} is no type of record{known}", comparison.value_column)
    return number


def _record_type(comparison: Comparison) -> Test:
    _refuse_text(comparison)
    compare, number = _COMPARE[comparison.operator], record_number(comparison)
    return lambda sight: compare(sight.record.number, number)


def _timestamp(comparison: Comparison) -> Test:
    _refuse_text(comparison)
    compare = _COMPARE[comparison.operator]
    extended = comparison.field == "timestamp_ex"
    found = _STAMP.match(comparison.value)
    if found is None or (found[3] is not None) is not extended:
        form = "ts:SECONDS.MILLISECONDS:SERIAL" if extended else "ts:SECONDS.MILLISECONDS"
        other = "" if found is None else " (\\timestamp goes without a serial, \\timestamp_ex with one)"
        said = f"{form} expected, not {shown(comparison.value)}{other}"
        raise ExpressionError(said, comparison.value_column)
    seconds, millis = int(found[1]), int(found[2])
    if millis > 999:
        said = "milliseconds go from 0 to 999: .5 are 5 of them, not half a second"
        raise ExpressionError(said, comparison.value_column)
    if extended:
        stamp = (seconds, millis, int(found[3]))
        return lambda sight: compare(sight.stamp, stamp)
    moment = (seconds, millis)
    return lambda sight: compare(sight.moment, moment)
