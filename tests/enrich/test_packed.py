"""What is known of processes, as plain values and back: equal, as shared, and judged."""

from __future__ import annotations

import copy
from typing import Any

import msgpack  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.enrich.facts import Enrichment
from audisp.enrich.packed import pack, unpack
from audisp.errors import ParseError
from audisp.parse.cgroup import Container, Placement
from audisp.parse.processes import UNKNOWN, Image, Process

BOX = Container("f" * 64, "docker", "p", 3, "i")
INIT = Process(1, 5)
SHELL = Process(
    7,
    8,
    9,
    1,
    (1, 5),
    "/bin/\udcff",
    "sh",
    ("a", "b"),
    True,
    "1.000:1",
    "/script",
    Placement("/c", BOX, "a.service", "u", "s"),
    ("label",),
    Image(7, 8, "/x", None, None),
)
FULL = Enrichment(
    SHELL, BOX, "a.service", "u", "s", "/c", (SHELL, INIT), "root", "/s", {"A": "b"}, ("l",), ("script", "labels")
)
BARE = Enrichment(None, UNKNOWN, UNKNOWN, None, None, UNKNOWN, (), None, UNKNOWN)


def through(contexts: list[Any]) -> list[Enrichment | None]:
    """As it goes over the wire."""
    packed = pack(contexts)
    data = msgpack.packb(packed, unicode_errors="surrogatepass")
    return unpack(msgpack.unpackb(data, unicode_errors="surrogatepass"))


def test_there_and_back() -> None:
    contexts = [FULL, None, BARE, FULL, Enrichment()]
    found = through(contexts)
    assert found == contexts
    assert found[0] is found[3]
    assert found[0] is not None
    assert found[0].process is found[0].parents[0]


def test_each_is_written_once() -> None:
    packed = pack([FULL] * 100)
    assert packed is not None
    assert [len(part) for part in packed] == [2, 1, 100]


def test_nothing_is_known() -> None:
    assert pack([None, None]) is None
    assert pack([]) is None


GOOD: Any = msgpack.unpackb(
    msgpack.packb(pack([FULL, BARE]), unicode_errors="surrogatepass"), unicode_errors="surrogatepass"
)


@pytest.mark.parametrize("value", [None, True, -1, 1 << 70, "", [], {}, b"x", [1, 2, 3], 1.5])
def test_any_part_that_is_something_else_is_an_error_or_that(value: Any) -> None:
    """Each value at each place: never anything but a ParseError or a list of contexts."""

    def places(part: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
        found = [path]
        if isinstance(part, list):
            for at, each in enumerate(part):
                found += places(each, (*path, at))
        return found

    refused = 0
    for path in places(GOOD):
        made: Any = copy.deepcopy(GOOD)
        if not path:
            made = value
        else:
            inner = made
            for at in path[:-1]:
                inner = inner[at]
            inner[path[-1]] = value
        try:
            found = unpack(made)
        except ParseError:
            refused += 1
            continue
        assert all(each is None or isinstance(each, Enrichment) for each in found)
    assert refused > 10


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
        lambda inner: st.lists(inner, max_size=13),
        max_leaves=30,
    )
)
def test_whatever_comes(value: Any) -> None:
    for made in (value, [[], [value], [0]], [[value], [], [None]], [[], [], [value]]):
        try:
            unpack(made)
        except ParseError:
            continue
