"""From a condition to a function that asks a view.

Many values for one field are what rules are made of, so those become one look-up, or one call of `startswith` or
`endswith` with all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from audisp.detect.form import ANY, And, Compare, Exists, Is, Network, Node, Not, Null, Or, Regex, Text
from audisp.detect.values import Test, compare_test, literal, network_test, regex_test, text_test

KEYS: Final = "key"
"""The field that may have several values, joined by KEY_SEPARATOR: one of them is enough."""
KEY_SEPARATOR: Final = b"\x01"
"""AUDIT_KEY_SEPARATOR (linux/audit.h)."""


class View(Protocol):
    """What a rule sees of an event. Values are bytes as they were before the kernel encoded them."""

    def get(self, field: str) -> bytes | None:
        """A field's value, None if it is absent or has none. Names are told apart by capital letters."""

    def low(self, field: str) -> bytes | None:
        """The same in lower case (ASCII)."""

    def text(self) -> bytes:
        """All that a keyword is looked for in."""

    def low_text(self) -> bytes:
        """The same in lower case."""


Ask: TypeAlias = Callable[[View], bool]


def compile_condition(node: Node) -> Ask:
    """The function. Raises ParseError for a regular expression that RE2 does not take."""
    if isinstance(node, Is):
        return _is(node)
    if isinstance(node, Not):
        ask = compile_condition(node.part)
        return lambda view: not ask(view)
    if isinstance(node, And):
        return _all([compile_condition(each) for each in node.parts])
    return _any(_grouped(node))


def _all(asks: list[Ask]) -> Ask:
    if len(asks) == 1:
        return asks[0]
    if len(asks) == 2:
        one, two = asks
        return lambda view: one(view) and two(view)

    def ask(view: View) -> bool:
        for each in asks:  # noqa: SIM110 - a generator costs a frame for each view
            if not each(view):
                return False
        return True

    return ask


def _any(asks: list[Ask]) -> Ask:
    if len(asks) == 1:
        return asks[0]

    def ask(view: View) -> bool:
        for each in asks:  # noqa: SIM110
            if each(view):
                return True
        return False

    return ask


def _grouped(node: Or) -> list[Ask]:
    """The branches, with the plain texts for one field put together."""
    texts: dict[str | None, dict[str, list[bytes]]] = {}
    asks: list[Ask] = []
    for each in node.parts:
        shape = _plain(each)
        if shape is None:
            asks.append(compile_condition(each))
        else:
            assert isinstance(each, Is)
            texts.setdefault(each.field, {}).setdefault(shape[0], []).append(shape[1])
    for field, shapes in texts.items():
        for shape_name, found in shapes.items():
            asks.append(_reader(field, _one_of(shape_name, found), low=True))
    return asks


def _plain(node: Node) -> tuple[str, bytes] | None:
    """What a text without inner wildcards is: (where it must be, the text); None for anything else."""
    if not isinstance(node, Is) or not isinstance(node.value, Text) or node.value.cased:
        return None
    match node.value.parts:
        case [str(text)]:
            return "whole", literal(text, cased=False)
        case [str(text), int(end)] if end == ANY:
            return "start", literal(text, cased=False)
        case [int(start), str(text)] if start == ANY:
            return "end", literal(text, cased=False)
        case [int(start), str(text), int(end)] if start == end == ANY:
            return "inside", literal(text, cased=False)
    return None


def _one_of(shape: str, texts: list[bytes]) -> Test:
    found = tuple(dict.fromkeys(texts))
    if shape == "whole":
        return frozenset(found).__contains__
    if shape == "start":
        return lambda data: data.startswith(found)
    if shape == "end":
        return lambda data: data.endswith(found)

    def inside(data: bytes) -> bool:
        for each in found:  # noqa: SIM110
            if each in data:
                return True
        return False

    return inside


def _is(node: Is) -> Ask:
    field, value = node.field, node.value
    match value:
        case Text():
            return _reader(field, text_test(value), low=not value.cased)
        case Regex():
            return _reader(field, regex_test(value), low=False)
        case Network():
            return _reader(field, network_test(value), low=True)
        case Compare():
            return _reader(field, compare_test(value), low=False)
        case Exists():
            return _exists(field, wanted=value.wanted)
        case Null():
            return _exists(field, wanted=False)


def _exists(field: str | None, *, wanted: bool) -> Ask:
    if field is None:
        return lambda view: bool(view.text()) is wanted
    return lambda view: (view.get(field) is not None) is wanted


def _reader(field: str | None, test: Test, *, low: bool) -> Ask:
    if field is None:
        return (lambda view: test(view.low_text())) if low else (lambda view: test(view.text()))
    if field == KEYS:
        test = _of_several(test)
    if low:

        def ask_low(view: View) -> bool:
            data = view.low(field)
            return data is not None and test(data)

        return ask_low

    def ask(view: View) -> bool:
        data = view.get(field)
        return data is not None and test(data)

    return ask


def _of_several(test: Test) -> Test:
    def several(data: bytes) -> bool:
        if KEY_SEPARATOR not in data:
            return test(data)
        return any(test(each) for each in data.split(KEY_SEPARATOR))

    return several
