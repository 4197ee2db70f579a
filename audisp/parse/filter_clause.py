"""One alternative of a filter, judged on raw bytes: find lines by what they need, then ask memory, then look exactly.

Streams repeat themselves, and an expression looks at few fields. So a verdict is remembered by the line's text without
its stamp, and of a SYSCALL record without what differs each time (arguments, pids, the program's names), if the
expression does not ask for it. Only a text that was not seen before is made a `Record` and judged by the compiled
expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from audisp.parse.expression import And, Comparison, Not, Regexp, Tree
from audisp.parse.filter_needs import heaviest, needs
from audisp.parse.filter_terms import LINE, Read, Sight, Test, compile_test
from audisp.parse.interpret import Names
from audisp.parse.memo import Memo

MEMO_ENTRIES: Final = 4_096
"""Verdicts of one generation: eight times the distinct ends of SYSCALL records in a day's mix (fast-parse.md)."""
MEMO_BYTES: Final = 1024 * 1024
"""Bytes of one generation, for each clause of each filter."""
MAX_CLAUSES: Final = 8
"""Alternatives that are searched for one by one."""

_CALL: Final = rb"type=SYSCALL msg=audit\([0-9.:]{5,43}\):"
# Of machines without calls that hold other calls in an argument (socketcall, ipc), whose names would depend on it.
_HOW: Final = rb"( arch=c00000(?:3e|b7) syscall=[0-9]{1,10} success=[a-z]{2,3})"
_NUMBERS: Final = {
    "exit": rb"-?[0-9]{1,20}",
    "a0": rb"[0-9a-f]{1,16}",
    "a1": rb"[0-9a-f]{1,16}",
    "a2": rb"[0-9a-f]{1,16}",
    "a3": rb"[0-9a-f]{1,16}",
    "items": rb"[0-9]{1,10}",
    "ppid": rb"[0-9]{1,10}",
    "pid": rb"[0-9]{1,10}",
}
_IDS: Final = rb"( auid=[^\n\"'{]* ses=[0-9]{1,10})"
_PROGRAM: Final = dict.fromkeys(("comm", "exe"), rb"(?:\"[^\n\" ]*\"|[0-9A-F]+|\(null\))")
"""Fields of SYSCALL, before and behind its ids, that differ from one event to the next, as the kernel writes them."""
_REST: Final = rb"((?:[ \x1d][^\n]*)?)(?:\n|\Z)"
_ARGUMENTS: Final = frozenset({"a0", "a1", "a2", "a3"})


def fields(tree: Tree) -> frozenset[str]:
    """The fields that an expression looks at."""
    if isinstance(tree, Comparison):
        return frozenset() if tree.virtual else frozenset({tree.field})
    if isinstance(tree, Regexp):
        return frozenset()
    if isinstance(tree, Not):
        return fields(tree.operand)
    return frozenset().union(*map(fields, tree.operands))


def timeless(tree: Tree) -> bool:
    """Whether an expression is the same for two records that differ in their stamps alone."""
    if isinstance(tree, Comparison):
        return not tree.virtual or tree.field == "record_type"
    if isinstance(tree, Regexp):
        return False
    if isinstance(tree, Not):
        return timeless(tree.operand)
    return all(map(timeless, tree.operands))


def _short(used: frozenset[str]) -> re.Pattern[bytes]:
    """Of a SYSCALL line, in groups: what an expression that looks at these fields can depend on."""
    if used & _ARGUMENTS:
        used |= _ARGUMENTS  # what an argument means depends on the others

    def parts(fields: dict[str, bytes]) -> list[bytes]:
        named = [(name in used, b" " + name.encode() + b"=" + form) for name, form in fields.items()]
        return [b"(" + part + b")" if asked else part for asked, part in named]

    node = rb"(node=[^ \n]+ )?" if "node" in used else rb"(?:node=[^ \n]+ )?"
    return re.compile(b"".join([node, _CALL, _HOW, *parts(_NUMBERS), _IDS, *parts(_PROGRAM), _REST]))


class Clause:
    """An expression that is searched for by itself. May be used from any thread. Raises ExpressionError."""

    def __init__(self, tree: Tree, names: Names) -> None:
        operands = tree.operands if isinstance(tree, And) else (tree,)
        steady = [each for each in operands if timeless(each)]
        others = [each for each in operands if not timeless(each)]
        self._steady = _compiled(steady, names)
        self._others = _compiled(others, names)
        used = fields(tree)
        self._with_node = "node" in used
        self._short = _short(used)
        self._memo: Memo[bool] = Memo(MEMO_ENTRIES, MEMO_BYTES)
        found = needs(tree)
        first = heaviest(found)
        self._anchors = first.patterns() if first is not None else ()
        others_needed = [need for need in found if need is not first and need.weight and len(need.choices) == 1]
        self._checks = tuple([each for need in others_needed for each in need.patterns()])

    @property
    def anchored(self) -> bool:
        """Whether there is something to search for; else every line is to be looked at."""
        return bool(self._anchors)

    def starts(self, data: bytes, read: Read) -> Iterator[int]:
        """Where the lines start that the expression is true of, in no order. A line may come twice."""
        judge, checks = self._judge, self._checks
        for anchor in self._anchors:
            for found in anchor.finditer(data):
                start = data.rfind(b"\n", 0, found.start()) + 1
                end = found.end()
                for check in checks:
                    if check.search(data, start, end) is None:
                        break
                else:
                    if judge(data, start, read):
                        yield start

    def any(self, data: bytes, read: Read) -> bool:
        """Whether the expression is true of any of the lines."""
        if self._anchors:
            return next(self.starts(data, read), None) is not None
        judge = self._judge
        for found in LINE.finditer(data):  # noqa: SIM110 - without a generator it takes less time
            if judge(data, found.start(), read):
                return True
        return False

    def _judge(self, data: bytes, start: int, read: Read) -> bool:
        line = None
        if self._steady is not None:
            found = self._short.match(data, start)
            if found is not None:
                key = b"".join(found.groups(b"")).decode("latin-1")
            else:
                line = LINE.match(data, start)
                if line is None:
                    return False  # it has no stamp
                key = (line[2] + line[6]).decode("latin-1")
                if self._with_node:
                    key = line[1].decode("latin-1") + key
            verdict = self._memo.get(key)
            if verdict is None:
                line = line or LINE.match(data, start)
                verdict = line is not None and self._steady(Sight(line, read))
                self._memo.put(key, verdict, len(key))
            if not verdict:
                return False
        if self._others is None:
            return True
        line = line or LINE.match(data, start)
        return line is not None and self._others(Sight(line, read))


def _compiled(trees: list[Tree], names: Names) -> Test | None:
    if not trees:
        return None
    return compile_test(trees[0] if len(trees) == 1 else And(tuple(trees)), names)
