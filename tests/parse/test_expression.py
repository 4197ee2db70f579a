"""The filter language: what each text means, where each mistake is found, and that no text breaks the parser."""

from __future__ import annotations

import contextlib
import re
import sys
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.errors import ParseError
from audisp.parse.expression import (
    MAX_DEPTH,
    MAX_LENGTH,
    OPERATORS,
    And,
    Comparison,
    ExpressionError,
    Not,
    Or,
    Regexp,
    Tree,
    parse,
)

A, B, C, D = (Comparison(name, "r=", "1") for name in "abcd")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("auid r= 1000", Comparison("auid", "r=", "1000")),
        ("auid r=1000", Comparison("auid", "r=", "1000")),
        ("auid<1000", Comparison("auid", "<", "1000")),
        ("auid!==1000", Comparison("auid", "!==", "1000")),
        ("\tauid\n>=\n-1 ", Comparison("auid", ">=", "-1")),
        ('"auid" r= "a b"', Comparison("auid", "r=", "a b")),
        ('old-auid r= "\\"\\\\"', Comparison("old-auid", "r=", '"\\')),
        ('"" r= ""', Comparison("", "r=", "")),
        ("r r= r", Comparison("r", "r=", "r")),
        ("i i= i", Comparison("i", "i=", "i")),
        ("x r= r && y i= i", And((Comparison("x", "r=", "r"), Comparison("y", "i=", "i")))),
        ("\\record_type == SYSCALL", Comparison("record_type", "==", "SYSCALL", virtual=True)),
        ('\\ "record_type" == 1300', Comparison("record_type", "==", "1300", virtual=True)),
        ("\\timestamp >= ts:1.5", Comparison("timestamp", ">=", "ts:1.5", virtual=True)),
        ('\\timestamp >= "ts:1.5"', Comparison("timestamp", ">=", "ts:1.5", virtual=True)),
        ("\\timestamp_ex==ts:1.5:7", Comparison("timestamp_ex", "==", "ts:1.5:7", virtual=True)),
        ("\\regexp /a\\/b\\\\.c/", Regexp("a/b\\.c")),
        ('\\regexp "a/b\\"c"', Regexp('a/b"c')),
        ("\\regexp word", Regexp("word")),
        ("\\regexp //", Regexp("")),
        # Precedence: ! before && before ||.
        ("a r= 1 || b r= 1 && c r= 1", Or((A, And((B, C))))),
        ("a r= 1 && b r= 1 || c r= 1", Or((And((A, B)), C))),
        ("(a r= 1 || b r= 1) && c r= 1", And((Or((A, B)), C))),
        ("!a r= 1 && b r= 1", And((Not(A), B))),
        ("!(a r= 1 && b r= 1)", Not(And((A, B)))),
        ("! ! a r= 1", Not(Not(A))),
        ("a r= 1&&!b r= 1||c r= 1", Or((And((A, Not(B))), C))),
        # What is joined by the same word is one level.
        ("a r= 1 && (b r= 1 && c r= 1)", And((A, B, C))),
        ("a r= 1 || (b r= 1 || (c r= 1 || d r= 1))", Or((A, B, C, D))),
        ("((a r= 1))", A),
        ("!((a r= 1)) || (!(b r= 1))", Or((Not(A), Not(B)))),
    ],
)
def test_meaning(text: str, tree: Tree) -> None:
    assert parse(text) == tree
    assert parse(str(tree)) == tree


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator(operator: str) -> None:
    for text in (f"auid {operator} 5", f"auid {operator}5", f'"auid"{operator}"5"'):
        assert parse(text) == Comparison("auid", operator, "5")


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "not the end"),
        ("auid", 5, "an operator expected"),
        ("auid = 3", 6, "== compares a value"),
        ("auid != 3", 6, "there are !==, r!= and i!="),
        ("auid r = 3", 6, "an operator expected"),
        ("auidr=1", 6, "an operator expected"),
        ("auid r=", 8, "a value expected"),
        ("auid r= /x/", 9, "behind \\regexp only"),
        ("auid r= (1)", 9, "a value expected"),
        ('auid r= "a', 9, "never closed"),
        ('auid r= "a\\nb"', 11, "a backslash is written \\\\"),
        ("\\regexp /a\\.b/", 11, "a backslash of the pattern is written \\\\"),
        ("\\regexp /a", 9, "never closed"),
        ("\\regexp", 8, "a pattern"),
        ("\\regexp == 1", 9, "a pattern"),
        ("\\timestmp == 1", 1, "the nearest is timestamp"),
        ("\\x == 1", 1, "timestamp, timestamp_ex, record_type, regexp"),
        ("\\== 1", 2, "expected behind \\"),
        ("a r= 1 & b r= 1", 8, "write &&"),
        ("a r= 1 | b r= 1", 8, "write ||"),
        ("a r= 1 b r= 1", 8, "&&, || or the end"),
        ("(a r= 1", 1, "never closed"),
        ("a r= 1 || (b r= 1 && (c r= 1)", 11, "never closed"),
        ("a r= 1)", 7, "never opened"),
        ("(a r= 1 b", 9, "&&, ||, ) or the end"),
        ("()", 2, "a field's name"),
        ("a r= 1 &&", 10, "not the end"),
        ("é r= 1", 1, "a field's name"),
        ("a r= 1\r", 7, "&&, || or the end"),
        ("a r= \0", 6, "NUL"),
        ("a r= \ud800", 6, "surrogate"),
        ("(" * (MAX_DEPTH + 1) + "a r= 1" + ")" * (MAX_DEPTH + 1), MAX_DEPTH + 1, "inside each other"),
        ("!" * (MAX_DEPTH + 1) + "a r= 1", MAX_DEPTH + 1, "inside each other"),
        ("a r= 1" + " " * MAX_LENGTH, MAX_LENGTH, "4,096"),
    ],
)
def test_mistakes(text: str, column: int, said: str) -> None:
    with pytest.raises(ParseError, match=re.escape(said)) as caught:
        parse(text)
    assert isinstance(caught.value, ExpressionError)
    assert caught.value.column == column
    assert str(caught.value).startswith(f"column {column}: ")


def test_an_error_repeats_nothing_that_a_terminal_obeys() -> None:
    with pytest.raises(ParseError) as caught:
        parse("a r= \x1b[31m" + "x" * 1000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_brackets_are_counted_where_they_are_open() -> None:
    assert parse(" && ".join(["(!(!a r= 1))"] * 100)) == And((Not(Not(A)),) * 100)
    depth = MAX_DEPTH // 2
    assert str(parse("!(" * depth + "a r= 1" + ")" * depth)) == "!" * depth + "a r= 1"


_words = st.text("abrix_-01", min_size=1, max_size=6)
_any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_comparisons = st.builds(Comparison, _words | _any_text, st.sampled_from(OPERATORS), _words | _any_text)
_virtual = st.builds(
    Comparison,
    st.sampled_from(["timestamp", "timestamp_ex", "record_type"]),
    st.sampled_from(OPERATORS),
    st.sampled_from(["ts:1.5", "ts:1.5:7", "ts", "SYSCALL", "", "a b"]) | _any_text,
    st.just(True),
)


def _joined(kind: type[And] | type[Or], parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """Two parts or more that are not of the kind themselves, as the parser makes them."""
    others = parts.filter(lambda part: not isinstance(part, kind))
    return st.lists(others, min_size=2, max_size=4).map(lambda found: kind(tuple(found)))


_leaves: st.SearchStrategy[Tree] = st.one_of(_comparisons, _virtual, st.builds(Regexp, _any_text))
trees: st.SearchStrategy[Tree] = st.recursive(
    _leaves, lambda parts: st.one_of(st.builds(Not, parts), _joined(And, parts), _joined(Or, parts)), max_leaves=12
)


@given(trees)
def test_round_trip(tree: Tree) -> None:
    # A record type that looks like a stamp is written without its quotes only where it can be read so.
    assert parse(str(tree)) == tree


_pieces = st.sampled_from(
    [
        *("(", ")", "!", "&&", "||", "\\", "regexp", "timestamp", "record_type", "ts:1.2", "ts:1.2:3", "auid", "key"),
        *("r=", "i!=", "==", "!==", "<", "=", "&", " ", "\n", "1000", "a b", "é", "SYSCALL", "\x1d", "\udcff"),
        *('"', "/", "\\\\", '\\"'),
    ]
)


@given(st.lists(_pieces, max_size=40).map("".join) | st.text(max_size=60))
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    tree = column = None
    try:
        tree = parse(text)
    except ExpressionError as error:
        column = error.column
    if tree is not None:
        assert parse(str(tree)) == tree
    else:
        assert column is not None
        assert 1 <= column <= len(text) + 1


@pytest.mark.parametrize(
    "text",
    [
        "a r= 1" + " && a r= 1" * 400,
        "a r= 1" + " || a r= 1 && b r= 1" * 200,
        "(" * MAX_DEPTH + "a r= 1" + ")" * MAX_DEPTH,
        "!" * MAX_DEPTH + "a r= 1",
        'a r= "' + "\\\\" * 2000 + '"',
        'a r= "' + "x" * 4000,
        "a " + " " * 4000,
        "a" * 4000,
        "a r= 1 " + "&" * 4000,
        "\\regexp /" + "\\/" * 2000,
        "\\" * 4000,
        "!=" * 2000,
    ],
    ids=lambda text: text[:12],
)
def test_long_texts_take_work_in_proportion(text: str) -> None:
    assert _calls(text) <= 40 * len(text) + 2_000


def _calls(text: str) -> int:
    """Functions called, ours and those in C, to read a text and to write it again."""
    calls = 0

    def count(frame: FrameType, what: str, argument: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with contextlib.suppress(ExpressionError):
            str(parse(text))
    finally:
        sys.setprofile(before)
    return calls
