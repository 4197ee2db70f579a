"""The grammar: what a line is, what is wrong with one, and that nothing but declared errors ever comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.config.grammar import LINE_BYTES, MAX_ERRORS, ConfigErrors, Setting, nearest, parse, shown
from audisp.errors import ConfigError

X = Path("x")


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (b"", []),
        (b"\n\n   \n# a = b\n   # c\n#a=b\n", []),
        (b"a = b\n", [Setting("a", ("b",), 1, "b", X)]),
        (b"\n  Key   =  one   two \n", [Setting("key", ("one", "two"), 2, "one   two", X)]),
        (b"a = = =\n", [Setting("a", ("=", "="), 1, "= =", X)]),
        (b"a = b\na = c\n", [Setting("a", ("b",), 1, "b", X), Setting("a", ("c",), 2, "c", X)]),
        (b"a = b\tc\n", [Setting("a", ("b\tc",), 1, "b\tc", X)]),
        (b"a = \xff\xc3\xa9\n", [Setting("a", ("\udcff\u00e9",), 1, "\udcff\u00e9", X)]),
        (b"a = x # y\n", [Setting("a", ("x", "#", "y"), 1, "x # y", X)]),
        (b"a = " + b"v" * (LINE_BYTES - 4) + b"\n", [Setting("a", ("v" * 506,), 1, "v" * 506, X)]),
        (b"# " + b"v" * 9000 + b"\na = b\n# end", [Setting("a", ("b",), 2, "b", X)]),
        (b"a\x85b = c\n", [Setting("a\udc85b", ("c",), 1, "c", X)]),
    ],
)
def test_settings(data: bytes, settings: list[Setting]) -> None:
    assert parse(data, X) == (settings, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"active=yes", "x:2: spaces are missing around '=': write 'active = yes'"),
        (b"active= yes", "x:2: a space is missing before '=' in 'active='"),
        (b"active =yes", "x:2: a space is missing after '=' in 'active =yes'"),
        (b"active\t=\tyes", "x:2: a tab does not separate words, use spaces: 'active\\t=\\tyes'"),
        (b"active\t= yes", "x:2: a tab does not separate words"),
        (b"active yes", "x:2: '=' is missing after 'active'"),
        (b"active", "x:2: '=' is missing after 'active'"),
        (b"= yes", "x:2: there is no key before '='"),
        (b"active =", "x:2: active: there is no value after '='"),
        (b"Active =  ", "x:2: active: there is no value after '='"),
        (b"a = b\r", "x:2: the line ends with CR LF"),
        (b"a = b\0c", "x:2: the line holds a NUL byte"),
        (b"a = " + b"v" * (LINE_BYTES - 3), "x:2: the line is 511 bytes long, 510 at most"),
        (b"\x1b[2J\xe2\x80\xaek", "x:2: '=' is missing after '\\x1b[2J\\u202ek'"),
    ],
)
def test_errors(line: bytes, message: str) -> None:
    settings, errors = parse(b"\n" + line + b"\nok = yes\n", X)
    assert [error.line for error in errors] == [2]
    assert str(errors[0]).startswith(message)
    assert settings == [Setting("ok", ("yes",), 3, "yes", X)]


def test_the_last_line_needs_its_end() -> None:
    settings, errors = parse(b"a = b\nc = d", X)
    assert [setting.key for setting in settings] == ["a"]
    assert str(errors[0]).startswith("x:2: the last line has no line end")


def test_errors_are_bounded() -> None:
    _, errors = parse(b"\xff\n" * 100_000, X)
    assert len(errors) == MAX_ERRORS + 1
    assert "the rest is not shown" in str(errors[-1])


@given(
    st.binary(max_size=2000)
    | st.lists(st.sampled_from([b"a", b" ", b"=", b"\n", b"#", b"\t", b"\0", b"\r"])).map(b"".join)
)
def test_anything(data: bytes) -> None:
    settings, errors = parse(data, X)
    lines = data.split(b"\n")
    assert {setting.line for setting in settings} & {error.line for error in errors} == set()
    for error in errors:
        assert isinstance(error, ConfigError)
        assert str(error).isprintable()
    for setting in settings:
        raw = lines[setting.line - 1]
        words = [word.encode("utf-8", "surrogateescape") for word in setting.words]
        assert raw.split(b" ", raw.count(b" "))
        assert [word for word in raw.split(b" ") if word][2:] == words
        assert words
        assert all(words)
        assert setting.key == setting.key.lower()
        assert [word for word in setting.text.split(" ") if word] == list(setting.words)


@given(st.text())
def test_shown_is_always_one_safe_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) < 700


def test_shown() -> None:
    assert shown("it's \u202e\x07\udcff \\") == "'it\\'s \\u202e\\x07\\udcff \\\\'"
    assert shown("a" * 100, limit=5) == "'aaaaa'…"


def test_nearest() -> None:
    assert nearest("formt", ["format", "path"]) == " (did you mean 'format'?)"
    assert nearest("FORMAT", ["format"]) == " (did you mean 'format'?)"
    assert nearest("zzz", ["format"]) == ""


def test_several_errors_are_one_error() -> None:
    errors = ConfigErrors([ConfigError("a", path=X, line=3, key="k"), ConfigError("b", path=X)])
    assert str(errors) == "x:3: k: a\nx: b"
    assert (errors.message, errors.path, errors.line, errors.key) == ("a", X, 3, "k")
    with pytest.raises(ValueError, match="at least one"):
        ConfigErrors([])
