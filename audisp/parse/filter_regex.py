"""Extended regular expressions (POSIX.2, as in ``\\regexp``) that no text can slow down.

A pattern becomes an automaton with one position per character that it can read (Glushkov's construction): which
positions may come first, which may be last, which may follow each. The set of positions that the text has led to is
one integer. Reading a byte gives the next set; sets are remembered as states with a table by byte, so that text which
looks like earlier text costs one look-up per byte. What is remembered is bounded and is then thrown away as a whole. So
a text costs time in proportion to its length whatever it holds, and there is nothing to backtrack into.

A pattern is matched against bytes: a letter beyond ASCII is the bytes of its UTF-8. Only whether it matches is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Final

import attrs

from audisp.errors import ParseError

MAX_POSITIONS: Final = 256
"""Characters that a pattern can read, after ``{m,n}`` is written out. A step to a set that was not seen before then
costs some 15 microseconds: a quarter of a second for a record of 16 KiB that was made for the worst of patterns."""
MAX_REPEAT: Final = 255
"""In ``{m,n}``: what POSIX promises (RE_DUP_MAX)."""
MAX_DEPTH: Final = 32
"""Brackets inside each other."""
MAX_STEPS: Final = 16_384
"""Steps between sets that are remembered; 8 MiB if each leads to a set of its own."""

BEGIN: Final = 256
"""The symbol before the first byte, which ``^`` reads."""
END: Final = 257
"""The symbol behind the last byte, which ``$`` reads."""
SYMBOLS: Final = 258

_DIGITS: Final = frozenset(b"0123456789")
_UPPER: Final = frozenset(range(0x41, 0x5B))
_LOWER: Final = frozenset(range(0x61, 0x7B))
_ALPHA: Final = _UPPER | _LOWER
_PRINT: Final = frozenset(range(0x20, 0x7F))
_ANY: Final = frozenset(range(256))
_CLASSES: Final = {
    "alnum": _ALPHA | _DIGITS,
    "alpha": _ALPHA,
    "blank": frozenset(b" \t"),
    "cntrl": frozenset(range(0x20)) | {0x7F},
    "digit": _DIGITS,
    "graph": _PRINT - {0x20},
    "lower": _LOWER,
    "print": _PRINT,
    "punct": _PRINT - {0x20} - _ALPHA - _DIGITS,
    "space": frozenset(b" \t\n\v\f\r"),
    "upper": _UPPER,
    "xdigit": _DIGITS | frozenset(b"abcdefABCDEF"),
}
_ESCAPES: Final = {
    "w": _CLASSES["alnum"] | {0x5F},
    "W": _ANY - _CLASSES["alnum"] - {0x5F},
    "s": _CLASSES["space"],
    "S": _ANY - _CLASSES["space"],
}
"""GNU's names of classes."""
_SINGLE: Final = {"^": frozenset({BEGIN}), "$": frozenset({END}), ".": _ANY}
_QUANTIFIERS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_BOUNDS: Final = re.compile(r"([0-9]{1,3})(?:,([0-9]{0,3}))?\}")
_CLASS: Final = re.compile(r"\[:([a-z]{1,8}):\]")
_DIGIT: Final = frozenset("123456789")
_SPECIAL: Final = frozenset('\\^$.[]|()*+?{}/"-')
"""What may stand behind a backslash and is then itself."""


class PatternError(ParseError):
    """A pattern that is none, or that is not taken. at: where, counted from 0."""

    def __init__(self, message: str, at: int) -> None:
        self.message, self.at = message, at
        super().__init__(message)


@attrs.frozen
class _Read:
    """Reads one of these symbols."""

    symbols: frozenset[int]


@attrs.frozen
class _Sequence:
    """One behind the other."""

    parts: tuple[_Node, ...]


@attrs.frozen
class _Choice:
    """One of these."""

    parts: tuple[_Node, ...]


@attrs.frozen
class _Repeat:
    """Between low and high times; high None: any number."""

    part: _Node
    low: int
    high: int | None


_Node = _Read | _Sequence | _Choice | _Repeat


class _Reader:
    """Pattern in, nodes out."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def whole(self) -> _Node:
        node = self._choice(0)
        if self.at < len(self.pattern):
            raise PatternError("this ) was never opened; the character itself is \\\\)", self.at)
        return node

    def _choice(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise PatternError(f"more than {MAX_DEPTH} brackets inside each other", self.at)
        found = [self._sequence(depth)]
        while self._char() == "|":
            self.at += 1
            found.append(self._sequence(depth))
        return found[0] if len(found) == 1 else _Choice(tuple(found))

    def _sequence(self, depth: int) -> _Node:
        parts: list[_Node] = []
        ended = False
        while (char := self._char()) not in ("", "|", ")"):
            start = self.at
            if ended:
                raise PatternError("nothing can stand behind $; the character itself is \\\\$", start)
            part = self._repeated(self._atom(char, depth))
            if parts and _holds(part, BEGIN):
                raise PatternError("nothing can stand before ^; the character itself is \\\\^", start)
            ended = _holds(part, END)
            parts.append(part)
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _atom(self, char: str, depth: int) -> _Node:
        start = self.at
        if char in "*+?{":
            raise PatternError(f"nothing to repeat before {char}; the character itself is \\\\{char}", start)
        self.at += 1
        if char == "(":
            found = self._choice(depth + 1)
            if self._char() != ")":
                raise PatternError("this ( is never closed; the character itself is \\\\(", start)
            self.at += 1
            return found
        if char == "[":
            return _Read(self._set(start))
        if char in _SINGLE:
            return _Read(_SINGLE[char])
        if char == "\\":
            char = self._char()
            self.at += 1
            if char in _ESCAPES:
                return _Read(_ESCAPES[char])
            if char in _DIGIT:
                raise PatternError("what a bracket matched cannot be referred to: that needs backtracking", start)
            if char not in _SPECIAL:
                known = "\\w \\W \\s \\S, and special characters as themselves"
                raise PatternError(f"there is no \\{char}, but {known}" if char else "a backslash at the end", start)
        data = char.encode("utf-8", "surrogateescape")
        if len(data) == 1:
            return _Read(frozenset(data))
        return _Sequence(tuple([_Read(frozenset({byte})) for byte in data]))

    def _repeated(self, part: _Node) -> _Node:
        """The part with the quantifiers that stand behind it."""
        low: int = 1
        high: int | None = 1
        start = self.at
        while (char := self._char()) and char in _QUANTIFIERS:
            more, most = _QUANTIFIERS[char]
            # Of *, + and ? any number may follow each other, and are one.
            low, high = min(low, more), None if high is None else most
            self.at += 1
        if char == "{":
            if self.at != start:
                raise PatternError("{ behind another quantifier: put what that repeats in brackets", self.at)
            self.at += 1
            low, high = self._bounds(start)
            if (char := self._char()) and char in "*+?{":
                raise PatternError(f"{char} behind another quantifier: put what that repeats in brackets", self.at)
        if self.at == start:
            return part
        if _holds(part, BEGIN) or _holds(part, END):
            raise PatternError("^ and $ cannot be repeated", start)
        if high == 0:
            return _Sequence(())
        repeated = _Repeat(part, low, high)
        _measure(repeated, start)  # before anything is made of ((a{9}){9}){9}
        return repeated

    def _bounds(self, start: int) -> tuple[int, int | None]:
        found = _BOUNDS.match(self.pattern, self.at)
        if found is None:
            raise PatternError("{m}, {m,} or {m,n} expected; the character itself is \\\\{", start)
        self.at = found.end()
        low = int(found[1])
        high = low if found[2] is None else int(found[2]) if found[2] else None
        if low > MAX_REPEAT or (high is not None and not low <= high <= MAX_REPEAT):
            raise PatternError(f"{{m,n}} goes from 0 to {MAX_REPEAT}, the smaller first", start)
        return low, high

    def _set(self, start: int) -> frozenset[int]:
        """What stands between [ and ]."""
        negated = self._char() == "^"
        self.at += negated
        found: set[int] = set()
        first = True
        while first or self._char() != "]":
            first = False
            if self._char() == "":
                raise PatternError("this [ is never closed; the character itself is \\\\[", start)
            if self.pattern.startswith("[:", self.at):
                found |= self._class()
                continue
            low = self._member(start)
            following = self.pattern[self.at : self.at + 2]
            if following[:1] != "-" or following[1:] in ("]", ""):
                found.add(low)
                continue
            self.at += 1
            high = self._member(start)
            if high < low:
                raise PatternError(f"the range {chr(low)}-{chr(high)} runs backwards", self.at - 1)
            found.update(range(low, high + 1))
        self.at += 1
        return _ANY - found if negated else frozenset(found)

    def _member(self, start: int) -> int:
        char = self._char()
        if not char:
            raise PatternError("this [ is never closed; the character itself is \\\\[", start)
        if char == "[" and self.pattern[self.at + 1 : self.at + 2] in (".", "=", ":"):
            raise PatternError("[. and [= are not taken: they depend on a locale", self.at)
        if not char.isascii():
            raise PatternError(f"{char!r} is several bytes and cannot stand in [...]: write (a|b)", self.at)
        self.at += 1
        return ord(char)

    def _class(self) -> frozenset[int]:
        found = _CLASS.match(self.pattern, self.at)
        if found is None or found[1] not in _CLASSES:
            raise PatternError(f"[: starts a class: there are {', '.join(_CLASSES)}", self.at)
        self.at = found.end()
        return _CLASSES[found[1]]

    def _char(self) -> str:
        return self.pattern[self.at : self.at + 1]


def _holds(node: _Node, symbol: int) -> bool:
    """Whether this symbol (BEGIN or END) is read somewhere in it."""
    if isinstance(node, _Read):
        return symbol in node.symbols
    if isinstance(node, _Repeat):
        return False
    return any(_holds(part, symbol) for part in node.parts)


def _measure(node: _Node, at: int) -> int:
    """Positions that it needs. Raises PatternError for more than MAX_POSITIONS."""
    if isinstance(node, _Read):
        return 1
    if isinstance(node, _Repeat):
        size = _measure(node.part, at) * max(node.low if node.high is None else node.high, 1)
    else:
        size = sum([_measure(part, at) for part in node.parts])
    if size > MAX_POSITIONS:
        raise PatternError(f"it reads more than {MAX_POSITIONS} characters, with every {{m,n}} written out", at)
    return size


@attrs.frozen
class _Part:
    """What a node has become. Sets of positions are integers, one bit each.

    nullable: it matches nothing as well. size: bytes that it matches at most; None: no bound. text: it matches exactly
    these bytes; None for anything else. literal: bytes that stand in whatever it matches, at most `reach` bytes behind
    its start (None: no bound).
    """

    nullable: bool
    first: int
    last: int
    size: int | None
    text: bytes | None = None
    literal: bytes = b""
    reach: int | None = 0


_NOTHING: Final = _Part(nullable=True, first=0, last=0, size=0, text=b"")


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


class _Maker:
    """Nodes in, positions out. follow: for each position those that may come next."""

    def __init__(self) -> None:
        self.symbols: list[frozenset[int]] = []
        self.follow: list[int] = []

    def make(self, node: _Node) -> _Part:
        if isinstance(node, _Read):
            return self._read(node.symbols)
        if isinstance(node, _Sequence):
            return self._joined([self.make(part) for part in node.parts])
        if isinstance(node, _Repeat):
            return self._repeat(node)
        found = [self.make(part) for part in node.parts]
        first = last = 0
        size: int | None = 0
        for part in found:
            first |= part.first
            last |= part.last
            size = None if size is None or part.size is None else max(size, part.size)
        return _Part(any(part.nullable for part in found), first, last, size)

    def _read(self, symbols: frozenset[int]) -> _Part:
        bit = 1 << len(self.symbols)
        self.symbols.append(symbols)
        self.follow.append(0)
        text = bytes(symbols) if len(symbols) == 1 and symbols <= _ANY else None
        return _Part(nullable=False, first=bit, last=bit, size=1, text=text, literal=text or b"")

    def _repeat(self, node: _Repeat) -> _Part:
        count = max(node.low if node.high is None else node.high, 1)
        if _measure(node.part, 0) == 0:
            return _NOTHING
        copies = [self.make(node.part) for _ in range(count)]
        for at, copy in enumerate(copies):
            if node.high is None and at == count - 1:
                self._link(copy.last, copy.first)
                copies[at] = copy = attrs.evolve(copy, size=None, text=None)
            if at >= node.low:
                copies[at] = attrs.evolve(copy, nullable=True, text=None, literal=b"")
        return self._joined(copies)

    def _joined(self, parts: list[_Part]) -> _Part:
        """One behind the other."""
        done = _NOTHING
        # Bytes that all parts so far end with, and what is before them at most; of such runs the longest.
        run, before = b"", done.size
        longest, reach = b"", done.size
        for part in parts:
            self._link(done.last, part.first)
            text = None if done.text is None or part.text is None else done.text + part.text
            size = _plus(done.size, part.size)
            if part.text is not None:
                run += part.text
            else:
                if len(run) > len(longest):
                    longest, reach = run, before
                if len(part.literal) > len(longest):
                    longest, reach = part.literal, _plus(done.size, part.reach)
                run, before = b"", size
            done = _Part(
                done.nullable and part.nullable,
                done.first | part.first if done.nullable else done.first,
                done.last | part.last if part.nullable else part.last,
                size,
                text,
            )
        if len(run) > len(longest):
            longest, reach = run, before
        return attrs.evolve(done, literal=longest, reach=reach)

    def _link(self, before: int, after: int) -> None:
        at = 0
        while before:
            if before & 1:
                self.follow[at] |= after
            before >>= 1
            at += 1


class _State(dict[int, "_State"]):
    """A set of positions: the next one by symbol, made when it is first asked for. done: the pattern has matched."""

    __slots__ = ("_found", "_step", "done")

    def __init__(self, step: Callable[[int, int], _State], found: int, *, done: bool) -> None:
        super().__init__()
        self._step, self._found, self.done = step, found, done

    def __missing__(self, symbol: int) -> _State:
        state = self[symbol] = self._step(self._found, symbol)
        return state


class Pattern:
    """A compiled pattern. literal: bytes that stand in every text that matches (b"" if none are certain).

    Raises PatternError. May be used from any thread.
    """

    def __init__(self, pattern: str) -> None:
        node = _Reader(pattern).whole()
        _measure(node, 0)
        maker = _Maker()
        whole = maker.make(node)
        self.literal = whole.literal
        self._reach = None if _holds(node, BEGIN) else whole.reach
        self._exact = whole.text
        self._always = whole.nullable
        self._first, self._last, self._follow = whole.first, whole.last, maker.follow
        masks = [0] * SYMBOLS
        for position, symbols in enumerate(maker.symbols):
            for symbol in symbols:
                masks[symbol] |= 1 << position
        self._masks = masks
        self._pieces: dict[tuple[int, int], int] = {}
        self._states: dict[int, _State] = {}
        self._steps = 0

    def search(self, data: bytes) -> bool:
        """Whether the pattern matches anywhere in a line. Linear in its length."""
        if self._always:
            return True
        at = data.find(self.literal)
        if at < 0 or self._exact is not None:
            return at >= 0
        state = self._state(0)
        if self._reach is None:
            state = state[BEGIN]
        elif at > self._reach:
            data = data[at - self._reach :]  # no match starts before
        state = reduce(getitem, data, state)
        return state.done or state[END].done

    def _state(self, found: int) -> _State:
        state = self._states.get(found)
        if state is None:
            state = self._states[found] = _State(self._step, found, done=found & self._last != 0)
        return state

    def _step(self, found: int, symbol: int) -> _State:
        """The state behind a set of positions and a symbol. A match stays one."""
        if self._steps >= MAX_STEPS:
            # They hold each other. Who is on the way through one of them goes on into new ones.
            for state in list(self._states.values()):
                state.clear()
            self._states, self._pieces, self._steps = {}, {}, 0
        self._steps += 1
        if found & self._last:
            return self._state(found)
        return self._state((self._first | self._followers(found)) & self._masks[symbol])

    def _followers(self, found: int) -> int:
        """What may follow any of these positions, eight of them at a time."""
        out = at = 0
        while found:
            piece = found & 0xFF
            if piece:
                known = self._pieces.get((at, piece))
                if known is None:
                    known = 0
                    for bit in range(8):
                        if piece >> bit & 1:
                            known |= self._follow[at + bit]
                    self._pieces[at, piece] = known
                out |= known
            found >>= 8
            at += 8
        return out
