"""What bytes a line must hold for an expression to be true of it: a look at raw bytes before any record is made.

A `Need` is a regular expression over bytes that is found in every line of which the expression is true, so that what it
is not found in need not be looked at. It never says no where the answer is yes; where nothing is certain there is no
need. Encodings make it wide: ``key i= exec`` may stand in the record as ``key="exec"``, as ``key=65786563``, or among
several keys in hexadecimal digits. Every pattern starts with literal bytes, which `re` searches for at the speed of
bytes.find, and repeats nothing but a ``0`` behind them, so that it cannot backtrack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

import attrs

from audisp.parse.arch import X32_BIT, syscalls
from audisp.parse.expression import And, Comparison, Not, Or, Regexp, Tree
from audisp.parse.fieldtypes import FIELD_TYPES, FieldType
from audisp.parse.filter_terms import HEADER, id_number, latin, pattern, record_number
from audisp.parse.interpret import UNSET
from audisp.parse.tables_syscalls import SYSCALLS
from audisp.parse.types import NUMBER

MAX_CHOICES: Final = 8
"""Patterns of one need. Each is a search through all bytes; more of them cost more than looking at each line."""

_HEX: Final = "[0-9A-Fa-f][0-9A-Fa-f]"
_PLAIN: Final = re.compile(r"[!#-\[\]-~][ !#-\[\]-~]*\Z")
"""Text that is shown as it is written: no quote, no backslash, nothing that is escaped."""
_NO_MORE: Final = r"(?![\w./-])"
"""A value that goes on is another value."""
_LETTER: Final = re.compile(r"[A-Za-z0-9_]\Z")
_WORD: Final = re.compile(r"[a-z0-9_]+\Z")
_STRINGS: Final = frozenset({FieldType.ESCAPED, FieldType.ESCAPED_FILE, FieldType.ESCAPED_KEY})
_AS_WRITTEN: Final = _STRINGS | {FieldType.UNCLASSIFIED}
"""Fields that are shown as they are written, or decoded."""
_FROM_WORDS: Final = frozenset({"seresult", "seperms"})
"""Fields that stand in an AVC without their names."""
_RENAMED: Final = frozenset({"old-auid", "old-ses"})
"""Fields that old LOGIN records call ``old auid`` and ``old ses``."""
_EQUAL: Final = frozenset({"r=", "i=", "=="})
_WEIGHTS: Final = MappingProxyType({FieldType.UID: 2, FieldType.GID: 2, FieldType.SUCCESS: 1, FieldType.ARCH: 1})
_CALL: Final = 4
_STRING: Final = 8
"""A guess of how rare a value is: most hosts have few accounts, some more system calls, and any number of names."""


@attrs.frozen
class Need:
    """One of these patterns is found in the line. weight: the heavier, the rarer; 0 for a field's name alone."""

    choices: frozenset[str]
    weight: int

    def patterns(self) -> tuple[re.Pattern[bytes], ...]:
        """Compiled. What is matched goes on to the line's end, so that each line is found once."""
        return tuple([re.compile(each.encode("latin-1") + rb"[^\n]*") for each in sorted(self.choices)])


def needs(tree: Tree, *, negated: bool = False) -> tuple[Need, ...]:
    """What holds of each line that the expression (negated: its opposite) is true of; all of them hold."""
    if isinstance(tree, Not):
        return needs(tree.operand, negated=not negated)
    if isinstance(tree, And | Or):
        found = [needs(each, negated=negated) for each in tree.operands]
        if isinstance(tree, And) is not negated:
            return tuple([need for each in found for need in each])
        return _either(found)
    if negated:
        return ()  # true of a record that has no such field
    if isinstance(tree, Regexp):
        literal = pattern(tree).literal
        return (Need(frozenset({re.escape(literal.decode("latin-1"))}), _STRING + len(literal)),) if literal else ()
    return _of_type(tree) if tree.virtual else _of_field(tree)


def heaviest(found: Iterable[Need]) -> Need | None:
    """The one that most lines lack."""
    return max(found, key=lambda need: (need.weight, -len(need.choices)), default=None)


def _either(found: list[tuple[Need, ...]]) -> tuple[Need, ...]:
    choices: frozenset[str] = frozenset()
    weight = 1 << 16
    for each in found:
        need = heaviest(each)
        if need is None:
            return ()
        choices |= need.choices
        weight = min(weight, need.weight)
    return (Need(choices, weight),) if len(choices) <= MAX_CHOICES else ()


def _of_type(tree: Comparison) -> tuple[Need, ...]:
    if tree.field != "record_type" or tree.operator != "==":
        return ()
    number = record_number(tree)
    names = [name.decode() for name, known in NUMBER.items() if known == number]
    if not number:
        return ()  # every unknown name has this number
    # Names are read in upper and lower case, numbers as they are or as UNKNOWN[number].
    text = "|".join([*map(re.escape, names), rf"(?:UNKNOWN\[)?0*{number}"])
    return (Need(frozenset({f"type=(?i:{text})"}), 1),)


def _of_field(tree: Comparison) -> tuple[Need, ...]:
    field, value = tree.field, tree.value
    if field in _FROM_WORDS or field in _RENAMED:
        return ()
    name = re.escape(latin(field)) + "="
    type_ = FIELD_TYPES.get(field, FieldType.UNCLASSIFIED)
    exact = re.escape(latin(value)) + (_NO_MORE if _LETTER.match(value[-1:]) else "")
    weight = (
        1 if field == "success" else _WEIGHTS.get(type_, _CALL) + (_STRING + len(value) if type_ in _STRINGS else 0)
    )
    if tree.operator == "r=" or (field in HEADER and tree.operator == "i="):
        return (Need(frozenset({name + exact}), weight),)
    if tree.operator == "==":
        number = id_number(tree)
        return (Need(frozenset({name + (f"(?:{UNSET}|-1)" if number == UNSET else f"{number}{_NO_MORE}")}), weight),)
    if tree.operator == "i=" and type_ in _AS_WRITTEN and _PLAIN.match(value):
        return (Need(frozenset({f'{name}(?:"?{exact}|{_HEX})'}), weight),)
    if tree.operator == "i=" and field == "syscall" and _WORD.match(value):
        return (Need(frozenset({f"{name}(?:{_call_numbers(value)}{value})", f"SYSCALL={value}"}), _CALL),)
    return (Need(frozenset({name}), 0),)


def _call_numbers(name: str) -> str:
    """The numbers that a system call has on one machine or another, each followed by ``|``."""
    found = {number for table in SYSCALLS for number, known in syscalls(table).items() if known == name}
    found |= {number | X32_BIT for number, known in syscalls("x32").items() if known == name}
    return "".join([f"0*{number}|" for number in sorted(found)])
