"""Schemas: each type of field, and each way a file can miss it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.config.grammar import MAX_ERRORS, Setting, parse
from audisp.config.schema import INT_MAX, build, key, keys, number, seconds
from audisp.errors import ConfigError

X = Path("x")


def _size(words: tuple[str, ...]) -> int:
    if words[0] == "big":
        return 1 << 40
    raise ValueError("only big will do")


@attrs.frozen
class Every:
    """One field of each kind."""

    path: Path
    text: str = "t"
    count: int = 3
    share: int = key(50, min=1, max=100)
    cold: int = key(0, min=-5, max=5)
    wait: float = key(1.0, min=0.5, max=60)
    on: bool = True
    words: tuple[str, ...] = ()
    colour: Literal["Red", "green"] = "Red"
    maybe: int | None = None
    perhaps: Literal["a", "b"] | None = None
    keep: tuple[str, ...] = key((), repeat=True)
    rule: tuple[str, ...] = key((), repeat=True, rest=True)
    note: str = key("", rest=True)
    large: int = key(0, read=_size)
    odd_name: str = key("", name="odd-name")


def made(text: str, cls: type = Every) -> tuple[Any, list[str]]:
    settings, errors = parse(text.encode(), X)
    assert errors == []
    value, errors = build(cls, settings, X)
    return value, [str(error) for error in errors]


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("text = a", "text", "a"),
        ("TEXT = A", "text", "A"),
        ("count = 0", "count", 0),
        ("count = 007", "count", 7),
        (f"count = {INT_MAX}", "count", INT_MAX),
        ("share = 1", "share", 1),
        ("share = 100", "share", 100),
        ("cold = -5", "cold", -5),
        ("cold = 5", "cold", 5),
        ("wait = 0.5", "wait", 0.5),
        ("wait = 60", "wait", 60.0),
        ("wait = 2.", "wait", 2.0),
        ("on = NO", "on", False),
        ("words = a b c", "words", ("a", "b", "c")),
        ("words = a\nwords = b", "words", ("b",)),
        ("colour = red", "colour", "Red"),
        ("colour = GREEN", "colour", "green"),
        ("maybe = 4", "maybe", 4),
        ("perhaps = B", "perhaps", "b"),
        ("keep = a\nkeep = b", "keep", ("a", "b")),
        ("keep = a   b", "keep", ("a   b",)),
        ("rule = uid == 0 && x\nrule = y", "rule", ("uid == 0 && x", "y")),
        ("note = two  words", "note", "two  words"),
        ("large = big", "large", 1 << 40),
        ("odd-name = x", "odd_name", "x"),
        ("path = /b", "path", Path("/b")),
    ],
)
def test_values(line: str, field: str, value: object) -> None:
    found, errors = made(f"path = /a\n{line}\n")
    assert errors == []
    assert getattr(found, field) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("txet = a", "x:2: unknown key 'txet' (did you mean 'text'?)"),
        ("zzz = a", "x:2: unknown key 'zzz'"),
        ("text = a b", "x:2: text: takes one value, but there is 'b' behind it"),
        ("count = -1", "x:2: count: '-1' is not a whole number"),
        ("count = 1.5", "x:2: count: '1.5' is not a whole number"),
        ("count = \u0661", "is not a whole number"),
        (f"count = {INT_MAX + 1}", f"is out of range: 0 to {INT_MAX}"),
        ("count = " + "9" * 400, "is out of range"),
        ("share = 0", "x:2: share: '0' is out of range: 1 to 100"),
        ("share = 101", "'101' is out of range: 1 to 100"),
        ("cold = -6", "'-6' is out of range: -5 to 5"),
        ("cold = --5", "'--5' is not a whole number"),
        ("wait = 0.4", "'0.4' is out of range: 0.5 to 60"),
        ("wait = nan", "'nan' is not a number of seconds"),
        ("wait = 1e3", "'1e3' is not a number of seconds"),
        ("wait = .5", "'.5' is not a number of seconds"),
        ("on = true", "'true' is not one of yes, no"),
        ("on = yes\t", "(a tab does not separate words, use spaces)"),
        ("colour = gren", "'gren' is not one of Red, green (did you mean 'green'?)"),
        ("maybe = none", "'none' is not a whole number"),
        ("large = small", "x:2: large: only big will do"),
        ("path = /a /b", "takes one value"),
    ],
)
def test_errors(line: str, message: str) -> None:
    found, errors = made(f"path = /a\n{line}\n")
    assert found is None
    assert len(errors) == 1
    assert message in errors[0]


def test_a_key_without_default_is_mandatory() -> None:
    assert made("")[1] == ["x: path: is missing, and has no default"]
    # One that is there and wrong is not missing too.
    assert made("path = a b\n")[1] == ["x:1: path: takes one value, but there is 'b' behind it"]


def test_all_errors_at_once() -> None:
    assert len(made("count = x\nshare = x\nzzz = 1\n")[1]) == 4


def test_a_file_that_is_no_configuration_is_read_quickly() -> None:
    errors = made("zzz = 1\n" * 20_000)[1]
    assert len(errors) == MAX_ERRORS + 2
    assert "the rest is not shown" in errors[-2]
    assert len(made("path = /a\n" + "keep = a\n" * 50_000)[0].keep) == 50_000


def test_keys_of_others_are_ignored_and_hinted_at() -> None:
    settings = [Setting("path", ("/a",), 1, "/a"), Setting("queue_bytes", ("1",), 2, "1")]
    assert build(Every, settings, X, ignore=("queue_bytes",))[1] == []
    errors = build(Every, [*settings, Setting("quiue", ("1",), 3, "1")], X, ignore=("queue_bytes",), hints=("queue",))[
        1
    ]
    assert [str(error) for error in errors] == ["x:3: unknown key 'quiue' (did you mean 'queue'?)"]


def test_an_error_is_located_in_the_setting_s_own_file() -> None:
    settings = [Setting("count", ("x",), 7, "x", Path("beside")), Setting("path", ("/a",), 1, "/a", X)]
    assert str(build(Every, settings, X)[1][0]).startswith("beside:7: count: ")


@attrs.frozen
class Checked:
    low: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    high: int = 2

    def __attrs_post_init__(self) -> None:
        if self.high < self.low:
            raise ConfigError("is below low", key="high")


def test_an_author_s_own_checks() -> None:
    assert made("low = 2\nhigh = 3\n", Checked) == (Checked(2, 3), [])
    assert made("low = 2\nhigh = 1\n", Checked) == (None, ["x:2: high: is below low"])
    value, errors = made("low = 0\n", Checked)
    assert value is None
    assert errors[0].startswith("x: 'low' must be > 0")


def test_an_author_s_mistakes_are_not_the_file_s() -> None:
    @attrs.frozen
    class Bad:
        field: frozenset[str] = frozenset()

    with pytest.raises(TypeError, match="field: no key can have the type"):
        build(Bad, [Setting("field", ("x",), 1, "x")], X)
    with pytest.raises(TypeError):
        keys(int)


def test_keys() -> None:
    assert list(keys(Every))[:3] == ["path", "text", "count"]
    assert "odd-name" in keys(Every)
    assert "odd_name" not in keys(Every)


@given(st.text(max_size=40))
def test_numbers_never_raise_anything_else(text: str) -> None:
    for read in (number, seconds):
        try:
            value = read(text)
        except ValueError:
            continue
        assert 0 <= value <= INT_MAX


@given(st.binary(max_size=300))
def test_any_file_gives_a_value_or_errors(data: bytes) -> None:
    settings, errors = parse(b"path = /a\n" + data, X)
    found, more = build(Every, settings, X)
    assert (found is None) == bool(more)
    for error in (*errors, *more):
        assert str(error).isprintable()
