"""How a value of a rule is tested: one function per value, on bytes.

A text is compared without regard to capital letters unless the rule says otherwise; the capital letters meant are
ASCII's, as in `bytes.lower`. What stands between wildcards is searched for in order, so no text can slow a wildcard
down. Regular expressions are RE2's, which cannot backtrack; a byte that is no UTF-8 is for them a character like any
other, so that nobody hides behind one.
"""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable
from typing import Any, Final

import re2  # type: ignore[import-untyped, unused-ignore]

from audisp.detect.form import ANY, ONE, Compare, Network, Regex, Text
from audisp.errors import ParseError

Test = Callable[[bytes], bool]

REGEX_MEMORY: Final = 1 << 20
"""Bytes that RE2 may take for one expression, automaton included. Beyond it, it is slower, not larger."""
DIGITS: Final = 24
"""Characters of a number that is compared: 64 bits have 20 digits."""

_OPERATIONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "neq": operator.ne,
}


def literal(text: str, *, cased: bool) -> bytes:
    """A rule's text as it is looked for."""
    data = text.encode("utf-8", "surrogateescape" if _escaped(text) else "surrogatepass")
    return data if cased else data.lower()


def _escaped(text: str) -> bool:
    # Surrogates that stand for bytes; others are what YAML wrote.
    return any("\udc80" <= char <= "\udcff" for char in text)


def text_test(value: Text) -> Test:
    """The test of a text, on the value in lower case unless it is cased."""
    parts = [each if isinstance(each, int) else literal(each, cased=value.cased) for each in value.parts]
    if ONE in parts:
        return _expression(parts)
    pieces = [each for each in parts if isinstance(each, bytes)]
    if not pieces:
        return _anything if ANY in parts else _empty
    bound_left, bound_right = parts[0] != ANY, parts[-1] != ANY
    if len(pieces) > 1:
        if ANY not in parts:
            return b"".join(pieces).__eq__
        return _in_order(_joined(parts), bound_left=bound_left, bound_right=bound_right)
    (piece,) = pieces
    if bound_left and bound_right:
        return piece.__eq__
    if bound_left:
        return lambda data: data.startswith(piece)
    if bound_right:
        return lambda data: data.endswith(piece)
    return lambda data: piece in data


def _joined(parts: list[int | bytes]) -> list[bytes]:
    """The pieces between wildcards; neighbours without one are one."""
    out: list[bytes] = []
    open_ = False
    for each in parts:
        if isinstance(each, bytes):
            if open_:
                out[-1] += each
            else:
                out.append(each)
        open_ = isinstance(each, bytes)
    return out


def _anything(_: bytes) -> bool:
    return True


def _empty(data: bytes) -> bool:
    return not data


def _in_order(pieces: list[bytes], *, bound_left: bool, bound_right: bool) -> Test:
    first = pieces[0] if bound_left else b""
    last = pieces[-1] if bound_right else b""
    between = pieces[1 if bound_left else 0 : len(pieces) - 1 if bound_right else None]
    least = len(first) + len(last)

    def test(data: bytes) -> bool:
        if len(data) < least or not data.startswith(first) or not data.endswith(last):
            return False
        at, end = len(first), len(data) - len(last)
        for piece in between:
            at = data.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return test


def _expression(parts: list[int | bytes]) -> Test:
    """With ``?``, which is one character and not one byte."""
    words = []
    for each in parts:
        words.append(".*" if each == ANY else "." if each == ONE else re2.escape(_readable(each)))  # type: ignore[arg-type]
    search = compile_regex("".join(words), "s").fullmatch
    return lambda data: search(_readable(data)) is not None


def _readable(data: bytes) -> str:
    return data.decode("ascii" if data.isascii() else "utf-8", "replace")


def compile_regex(pattern: str, flags: str = "") -> Any:
    """An RE2 expression. Raises ParseError for one that RE2 does not take: with a reference back, a look-around, a
    repetition above 1,000, or one that is too large."""
    options = re2.Options()
    options.max_mem = REGEX_MEMORY
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(f"(?{flags}){pattern}" if flags else pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        text = error.args[0] if error.args else error
        reason = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise ParseError(f"regular expression {pattern[:80]!r}: {reason}") from error


def regex_test(value: Regex) -> Test:
    """On the value as it is written, capital letters and all. Raises ParseError as `compile_regex`."""
    search = compile_regex(value.pattern, value.flags).search
    return lambda data: search(_readable(data)) is not None


def network_test(value: Network) -> Test:
    """On an address; an IPv4 address in IPv6's clothes (``::ffff:192.0.2.1``) is the IPv4 address."""
    network = ipaddress.ip_network(value.cidr)

    def test(data: bytes) -> bool:
        address = address_of(data)
        return address is not None and address.version == network.version and address in network

    return test


def address_of(data: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a value is, None if it is none."""
    try:
        address = ipaddress.ip_address(data.decode("ascii"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return address if mapped is None else mapped


def compare_test(value: Compare) -> Test:
    """On a decimal number; what is none compares to nothing, and so is also not unequal."""
    compare, number = _OPERATIONS[value.op], value.number

    def test(data: bytes) -> bool:
        if len(data) > DIGITS or not data.removeprefix(b"-").isdigit():
            return False
        return compare(int(data), number)

    return test
