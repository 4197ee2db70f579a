"""The filter language of ausearch-expression(5): text in, tree out.

    expression  := conjunction ( "||" conjunction )*
    conjunction := negation ( "&&" negation )*
    negation    := "!" negation | "(" expression ")" | primary
    primary     := field operator value | "\\regexp" ( string | word | /pattern/ )
    field       := word | string | "\\" ( word | string )

`parse` reads with a stack of its own, so that brackets cannot exhaust Python's, and each character once. What a field
may be compared with is not decided here but in `audisp.parse.filter`, which knows fields and types of records.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

import attrs

from audisp.errors import ParseError

MAX_LENGTH: Final = 4_096
"""Characters of one expression. audisp-filter reads at most 1,023 (upstream.md 7.2); four times that is more than a
person reads, and still bounds how many comparisons a record costs."""
MAX_DEPTH: Final = 64
"""Brackets and ``!`` inside each other. Nobody writes as many; the tree is walked by functions that call themselves."""
SHOWN: Final = 40
"""Characters of what was found that an error repeats."""

OPERATORS: Final = ("<", "<=", "==", ">", ">=", "!==", "i=", "i!=", "r=", "r!=")
"""In the order of the manual page."""
VALUE_OPERATORS: Final = frozenset({"<", "<=", "==", ">", ">=", "!=="})
"""Those that compare a value; the others compare text."""
VIRTUAL: Final = ("timestamp", "timestamp_ex", "record_type")
"""What may stand behind a backslash, beside ``\\regexp``."""

_BLANK: Final = re.compile(r"[ \t\n]*")
# libauparse takes a hyphen for part of a word, whatever the manual page says: there would be no `old-auid` otherwise.
_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_OPERATOR: Final = re.compile(r"[ri]!?=|!==|[<>]=?|==")
_STAMP: Final = re.compile(r"ts:[0-9]+(?:\.[0-9]+(?::[0-9]+)?)?")
_WRONG_OPERATOR: Final = re.compile(r"[!=<>~]+|(?:[A-Za-z]{1,8})?[!=<>~]*")
_UNTIL: Final = {'"': re.compile(r'[^"\\]*'), "/": re.compile(r"[^/\\]*")}


class ExpressionError(ParseError):
    """Text that is no expression, or compares what cannot be compared. column: where, counted from 1."""

    def __init__(self, message: str, column: int) -> None:
        self.message, self.column = message, column
        super().__init__(f"column {column}: {message}")


@attrs.frozen
class Comparison:
    """``field operator value``. virtual: the field was written with a backslash. The columns are for errors."""

    field: str
    operator: str
    value: str
    virtual: bool = False
    field_column: int = attrs.field(default=0, eq=False)
    value_column: int = attrs.field(default=0, eq=False)

    def __str__(self) -> str:
        if self.virtual:
            bare = self.field != "record_type" and _STAMP.fullmatch(self.value)
            return f"\\{self.field} {self.operator} {self.value if bare else quoted(self.value)}"
        return f"{quoted(self.field)} {self.operator} {quoted(self.value)}"


@attrs.frozen
class Regexp:
    """``\\regexp pattern``: an extended regular expression, as its writer meant it (one level of backslashes gone)."""

    pattern: str
    value_column: int = attrs.field(default=0, eq=False)

    def __str__(self) -> str:
        return "\\regexp /" + self.pattern.replace("\\", "\\\\").replace("/", "\\/") + "/"


@attrs.frozen
class Not:
    """``! operand``."""

    operand: Tree

    def __str__(self) -> str:
        return f"!({self.operand})" if isinstance(self.operand, And | Or) else f"!{self.operand}"


@attrs.frozen
class And:
    """``a && b && ...``: two operands or more, none of which is an `And`."""

    operands: tuple[Tree, ...]

    def __str__(self) -> str:
        return " && ".join([f"({each})" if isinstance(each, Or) else str(each) for each in self.operands])


@attrs.frozen
class Or:
    """``a || b || ...``: two operands or more, none of which is an `Or`."""

    operands: tuple[Tree, ...]

    def __str__(self) -> str:
        return " || ".join([str(each) for each in self.operands])


Tree = Comparison | Regexp | Not | And | Or
"""An expression. str() of it parses to an equal tree."""


def quoted(text: str) -> str:
    """A word as it is, anything else in quotes."""
    if _WORD.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def shown(text: str) -> str:
    """What was found, for an error: short, and with nothing in it that a terminal obeys."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def near(word: str, choices: Iterable[str]) -> str:
    """``"; the nearest is `NAME`"``, or nothing if none is near."""
    found = difflib.get_close_matches(word[:SHOWN], list(choices), 1)
    return f"; the nearest is {found[0]}" if found else ""


def parse(text: str) -> Tree:
    """The tree of an expression. Raises ExpressionError. Linear in the text's length."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"an expression has at most {MAX_LENGTH:,} characters, this one {len(text):,}", MAX_LENGTH
        )
    if "\0" in text:
        raise ExpressionError("a NUL stands in no expression", text.index("\0") + 1)
    for at, char in enumerate(text):
        if "\ud800" <= char <= "\udfff" and not "\udc80" <= char <= "\udcff":
            raise ExpressionError("half a surrogate pair stands in no text", at + 1)
    return _Parser(text).expression()


@attrs.define
class _Level:
    """What is open between two brackets. nots: ``!`` that wait for their operand."""

    column: int
    ors: list[Tree] = attrs.field(factory=list)
    ands: list[Tree] = attrs.field(factory=list)
    nots: int = 0

    def add(self, operand: Tree) -> None:
        for _ in range(self.nots):
            operand = Not(operand)
        self.nots = 0
        if isinstance(operand, And):
            self.ands += operand.operands
        else:
            self.ands.append(operand)

    def alternative(self) -> None:
        done = self.ands[0] if len(self.ands) == 1 else And(tuple(self.ands))
        self.ands = []
        if isinstance(done, Or):
            self.ors += done.operands
        else:
            self.ors.append(done)

    def close(self) -> Tree:
        self.alternative()
        return self.ors[0] if len(self.ors) == 1 else Or(tuple(self.ors))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def expression(self) -> Tree:
        levels = [_Level(1)]
        depth = 0
        while True:
            # An operand begins here.
            char = self._next()
            if char in ("!", "("):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._error(f"more than {MAX_DEPTH} brackets and ! inside each other")
                if char == "!":
                    levels[-1].nots += 1
                else:
                    levels.append(_Level(self.at + 1))
                self.at += 1
                continue
            operand = self._primary(char)
            while True:
                depth -= levels[-1].nots
                levels[-1].add(operand)
                if self._next() != ")":
                    break
                if len(levels) == 1:
                    raise self._error("this bracket was never opened")
                operand = levels.pop().close()
                depth -= 1
                self.at += 1
            if self.at == len(self.text):
                if len(levels) > 1:
                    raise ExpressionError("this bracket is never closed: ) expected", levels[-1].column)
                return levels[0].close()
            if self.text.startswith("||", self.at):
                levels[-1].alternative()
            elif not self.text.startswith("&&", self.at):
                closing = ", ) " if len(levels) > 1 else " "
                raise self._error(f"&&, ||{closing}or the end expected, not {self._found()}{self._doubled()}")
            self.at += 2

    def _primary(self, char: str) -> Tree:
        start = self.at + 1
        if char != "\\":
            field = self._string("a field's name, \\, ! or ( expected")
            operator = self._operator()
            value, column = self._value(stamp=False)
            return Comparison(field, operator, value, field_column=start, value_column=column)
        self.at += 1
        self._next()
        name = self._string("timestamp, timestamp_ex, record_type or regexp expected behind \\")
        if name == "regexp":
            self._next()
            column = self.at + 1
            return Regexp(self._string('a pattern as /.../ or "..." expected', slashes=True), column)
        if name not in VIRTUAL:
            known = (*VIRTUAL, "regexp")
            said = near(name, known) or f": there are {', '.join(known)}"
            raise ExpressionError(f"\\{shown(name)[1:-1]} is no virtual field{said}", start)
        operator = self._operator()
        value, column = self._value(stamp=name != "record_type")
        return Comparison(name, operator, value, virtual=True, field_column=start, value_column=column)

    def _value(self, *, stamp: bool) -> tuple[str, int]:
        """What stands behind an operator, and its column. stamp: ``ts:1.5`` needs no quotes here, and only here."""
        self._next()
        column = self.at + 1
        found = _STAMP.match(self.text, self.at) if stamp else None
        if found is not None:
            self.at = found.end()
            return found[0], column
        return self._string("a value expected: a word, or anything in double quotes"), column

    def _operator(self) -> str:
        self._next()
        found = _OPERATOR.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
            return found[0]
        wrong = _WRONG_OPERATOR.match(self.text, self.at)
        said = {"=": " (== compares a value, r= and i= compare text)", "!=": " (there are !==, r!= and i!=)"}.get(
            wrong[0] if wrong is not None else "", ""
        )
        raise self._error(f"an operator expected ({' '.join(OPERATORS)}), not {self._found()}{said}")

    def _string(self, expected: str, *, slashes: bool = False) -> str:
        char = self.text[self.at : self.at + 1]
        if char == '"' or (slashes and char == "/"):
            return self._quoted(char)
        found = _WORD.match(self.text, self.at)
        if found is None:
            said = "; a pattern stands behind \\regexp only" if char == "/" else ""
            raise self._error(f"{expected}, not {self._found()}{said}")
        self.at = found.end()
        return found[0]

    def _quoted(self, quote: str) -> str:
        start = self.at
        at = start + 1
        parts = []
        while True:
            found = _UNTIL[quote].match(self.text, at)
            assert found is not None  # it matches nothing as well
            parts.append(found[0])
            at = found.end()
            if at == len(self.text):
                raise ExpressionError(f"this {quote} is never closed", start + 1)
            if self.text[at] == quote:
                self.at = at + 1
                return "".join(parts)
            escaped = self.text[at + 1 : at + 2]
            if escaped not in ("\\", quote):
                what = "a backslash of the pattern is written \\\\" if quote == "/" else "a backslash is written \\\\"
                raise ExpressionError(f"\\\\ or \\{quote} expected, not {shown(chr(92) + escaped)}: {what}", at + 1)
            parts.append(escaped)
            at += 2

    def _next(self) -> str:
        """Go to where the next token starts; its first character, "" at the end."""
        found = _BLANK.match(self.text, self.at)
        assert found is not None  # it matches nothing as well
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def _found(self) -> str:
        rest = self.text[self.at : self.at + SHOWN + 1]
        if not rest:
            return "the end"
        word = _WORD.match(rest)
        return shown(word[0] if word is not None else rest.split(None, 1)[0] if rest.split() else rest[:1])

    def _doubled(self) -> str:
        char = self.text[self.at : self.at + 1]
        return f" (write {char}{char})" if char and char in "&|" else ""

    def _error(self, message: str) -> ExpressionError:
        return ExpressionError(message, self.at + 1)
