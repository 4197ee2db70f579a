"""Labels of processes by rule: ``label = NAME exe PATTERN`` gives one, ``unlabel = NAME exe PATTERN`` takes it away.

Patterns are globs, not regular expressions, and that is a choice: the texts are written by attackers (any program may
have any name and arguments), the rules are looked at for every program that starts, and a regular expression of
Python's can be made to take hours by a text that its author did not think of. A glob here is a row of pieces between
stars, found from left to right, each as early as can be; that is exact, and costs at most the product of both lengths.

``*`` is any run of characters, ``/`` included; ``?`` any one; ``[abc]``, ``[a-z]``, ``[!abc]`` one of a set. The whole
text has to match: ``*/sshd``, ``/opt/*/bin/php*``. Letters count as they are written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import attrs

MAX_TEXT: Final = 4_096
"""Characters of a text looked at: PATH_MAX, and laurel's default for arguments. What is longer is matched by its
beginning, and so never by a pattern that wants to see its end."""
MAX_PATTERN: Final = 256
"""Characters of a pattern. With MAX_TEXT it bounds a match at a million steps; a real one takes some dozen."""
MAX_RULES: Final = 256
"""Rules. Each costs up to a microsecond for every program that starts."""
MAX_NAME: Final = 64
"""Characters of a label; it goes out with every event of the process."""
ARGUMENTS: Final = 32
"""Arguments that `argv` rules look at, joined by one space; laurel's default."""

What = Literal["exe", "argv", "script", "key"]
WHATS: Final[tuple[What, ...]] = ("exe", "argv", "script", "key")
"""What a rule looks at: the program's file, its arguments, the script behind an interpreter, a key of an audit rule."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]+")
_CLASS: Final = re.compile(r"\[!?\]?[^\]]*\]")


class Glob:
    """One pattern. Raises ValueError for one that is too long, or has a set without an end."""

    def __init__(self, pattern: str) -> None:
        if not pattern or len(pattern) > MAX_PATTERN:
            raise ValueError(f"a pattern has 1 to {MAX_PATTERN} characters, not {len(pattern)}")
        self.pattern = pattern
        pieces = [_piece(piece) for piece in _cut(pattern)]
        self._first, self._last = pieces[0], pieces[-1]
        self._middle = [piece for piece in pieces[1:-1] if piece.size]
        self._exact = len(pieces) == 1
        self._least = sum(piece.size for piece in pieces)

    def match(self, text: str) -> bool:
        """Whether the whole text matches. At most MAX_TEXT characters of it are looked at."""
        if len(text) > MAX_TEXT:
            if self._exact or self._last.size:
                return False
            text = text[:MAX_TEXT]
        if len(text) < self._least or not self._first.at(text, 0):
            return False
        if self._exact:
            return len(text) == self._first.size
        end = len(text) - self._last.size
        if not self._last.at(text, end):
            return False
        at = self._first.size
        for piece in self._middle:
            found = piece.find(text, at, end)
            if found < 0:
                return False
            at = found + piece.size
        return at <= end


@attrs.frozen
class _Literal:
    text: str

    @property
    def size(self) -> int:
        return len(self.text)

    def at(self, text: str, at: int) -> bool:
        return text.startswith(self.text, at)

    def find(self, text: str, start: int, end: int) -> int:
        return text.find(self.text, start, end)


@attrs.frozen
class _Sets:
    """A piece with ``?`` or a set in it: an expression of single characters, which has one way to match."""

    expression: re.Pattern[str]
    size: int

    def at(self, text: str, at: int) -> bool:
        return self.expression.match(text, at) is not None

    def find(self, text: str, start: int, end: int) -> int:
        found = self.expression.search(text, start, end)
        return -1 if found is None else found.start()


def _cut(pattern: str) -> list[str]:
    # The pieces between stars; a star inside a set is one of its characters.
    pieces, start, at = [], 0, 0
    while at < len(pattern):
        if pattern[at] == "[":
            found = _CLASS.match(pattern, at)
            if found is None:
                raise ValueError("a set that '[' begins has no ']'")
            at = found.end()
            continue
        if pattern[at] == "*":
            pieces.append(pattern[start:at])
            start = at + 1
        at += 1
    return [*pieces, pattern[start:]]


def _piece(piece: str) -> _Literal | _Sets:
    if "?" not in piece and "[" not in piece:
        return _Literal(piece)
    parts, at = [], 0
    while at < len(piece):
        found = _CLASS.match(piece, at)
        if found is not None:
            inner = found[0][1:-1]
            negated = inner.startswith("!")
            parts.append(f"[{'^' * negated}{_set(inner[negated:])}]")
            at = found.end()
        else:
            parts.append("." if piece[at] == "?" else re.escape(piece[at]))
            at += 1
    return _Sets(re.compile("".join(parts), re.DOTALL), len(parts))


def _set(inner: str) -> str:
    # The inside of a set, with nothing special left in it but ranges.
    if not inner:
        raise ValueError("a set has nothing in it: '[]'")
    out, at = [], 0
    while at < len(inner):
        if at + 2 < len(inner) and inner[at + 1] == "-":
            low, high = inner[at], inner[at + 2]
            if low > high:
                raise ValueError(f"a range of a set runs backwards: {low!r} to {high!r}")
            out.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            out.append(re.escape(inner[at]))
            at += 1
    return "".join(out)


@attrs.frozen
class LabelRule:
    """One line of the configuration. glob: None for a `key` rule, which wants `text` itself."""

    name: str
    what: What
    text: str
    remove: bool = False
    glob: Glob | None = attrs.field(default=None, eq=False)


def rule(words: Sequence[str], *, remove: bool = False) -> LabelRule:
    """What ``label = NAME exe|argv|script|key PATTERN`` says after the ``=``, word by word. ValueError says what is
    wrong. Words after the third belong to the pattern, joined by one space."""
    if len(words) < 3:
        raise ValueError(f"wants three words: a label, one of {', '.join(WHATS)}, and a pattern; not {len(words)}")
    name, what, text = words[0], words[1], " ".join(words[2:])
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"a label has 1 to {MAX_NAME} letters, digits and '_.:-', not {name[:MAX_NAME]!a}")
    for known in WHATS:
        if what == known:
            return LabelRule(name, known, text, remove, None if known == "key" else Glob(text))
    near = difflib.get_close_matches(what.lower(), WHATS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"a label goes by one of {', '.join(WHATS)}, not {what[:MAX_NAME]!a}{hint}")


class LabelRules:
    """All rules. Those that give apply first, then those that take away, whatever the order in the file: the two are
    keys of their own there. inherit: labels that children get; None for all.

    Labels are kept as a tuple in order of the first giving, so that equal labels are equal.
    """

    def __init__(self, rules: Iterable[LabelRule] = (), inherit: Iterable[str] | None = None) -> None:
        self._rules = tuple(sorted(rules, key=lambda rule: rule.remove))
        if len(self._rules) > MAX_RULES:
            raise ValueError(f"{len(self._rules)} rules for labels, {MAX_RULES} at most")
        self._inherit = None if inherit is None else frozenset(inherit)
        self._programs = tuple(rule for rule in self._rules if rule.what != "key")
        self.keys = frozenset(rule.text for rule in self._rules if rule.what == "key")
        """Keys that any rule wants: an event with none of them needs no look."""

    def __bool__(self) -> bool:
        return bool(self._rules)

    def inherited(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """What a child has of its parent's labels."""
        if self._inherit is None or not labels:
            return labels
        return tuple(label for label in labels if label in self._inherit)

    def program(
        self, labels: tuple[str, ...], exe: str | None, argv: Sequence[str] | None, script: str | None
    ) -> tuple[str, ...]:
        """Labels after a program was started; what is None is not known (or there is none), and matches nothing."""
        if not self._programs:
            return labels
        line = None if argv is None else " ".join(argv[:ARGUMENTS])
        kept = dict.fromkeys(labels)
        for rule in self._programs:
            text = exe if rule.what == "exe" else line if rule.what == "argv" else script
            if text is not None and rule.glob is not None and rule.glob.match(text):
                _apply(rule, kept)
        return tuple(kept)

    def by_keys(self, labels: tuple[str, ...], keys: Sequence[str]) -> tuple[str, ...]:
        """Labels after an event with these keys."""
        kept = dict.fromkeys(labels)
        for rule in self._rules:
            if rule.what == "key" and rule.text in keys:
                _apply(rule, kept)
        return tuple(kept)


def _apply(rule: LabelRule, kept: dict[str, None]) -> None:
    if rule.remove:
        kept.pop(rule.name, None)
    else:
        kept[rule.name] = None
