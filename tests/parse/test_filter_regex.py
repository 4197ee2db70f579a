"""Patterns of ``\\regexp``: the same answers as `re` where both understand them, in steps that are counted."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audisp.parse import filter_regex
from audisp.parse.filter_regex import MAX_DEPTH, MAX_POSITIONS, MAX_REPEAT, Pattern, PatternError


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("", ["", "a"], []),
        ("cat", ["cat", "a cat."], ["", "ca", "c at"]),
        ("a.c", ["abc", "a\x00c"], ["ac"]),
        ("^type=", ["type=X"], [" type=X", ""]),
        ("x$", ["x", "ax"], ["xa", ""]),
        ("^$", [""], ["a"]),
        ("^a|b$", ["ax", "xb"], ["xa", "bx"]),
        ("(^| )a( |$)", ["a", "x a", "a x", "x a x"], ["xa", "ax"]),
        ("(^a|b)c", ["ac", "xbc"], ["xac"]),
        ("ab*c", ["ac", "abbc"], ["abb"]),
        ("ab+c", ["abc", "abbc"], ["ac"]),
        ("ab?c", ["ac", "abc"], ["abbc"]),
        ("a{2}", ["aa", "aaa"], ["a", "aba"]),
        ("^a{2,}$", ["aa", "aaaa"], ["a"]),
        ("^a{1,3}$", ["a", "aaa"], ["", "aaaa"]),
        ("^a{0}b$", ["b"], ["ab"]),
        ("^(ab){2}$", ["abab"], ["ab", "aab"]),
        ("^(a|bc)+$", ["abca", "bc"], ["", "b"]),
        ("^(a*)*b$", ["b", "aaab"], ["aaa"]),
        ("a**b", ["b"], ["a"]),
        ("^a+?b$", ["b", "aab"], ["a"]),
        ("()a(|b)c", ["ac", "abc"], ["ab"]),
        ("[abc]x", ["ax", "cx"], ["dx"]),
        ("[^abc]x", ["dx"], ["ax", "x"]),
        ("[a-c-]x", ["bx", "-x"], ["dx"]),
        ("[]x]y", ["]y", "xy"], ["[y"]),
        ("[^]x]y", ["ay"], ["]y", "xy"]),
        ("[[:digit:][:upper:]_]{3}", ["1A_"], ["1a_"]),
        ("[a\\]x", ["ax", "\\x"], ["]x"]),
        ("\\.\\*\\(\\)\\[\\]\\{\\}\\^\\$\\|\\+\\?\\\\/", [".*()[]{}^$|+?\\/"], ["x*()[]{}^$|+?\\/"]),
        ("\\w\\W\\s\\S", ["a- x"], ["a-x "]),
        ("é", ["é", "xé"], ["e"]),
        ("^é{2}$", ["éé"], ["é"]),
        ("^.{2}$", ["é"], ["e"]),
        ('"}', ['"}'], ['"']),
    ],
)
def test_matches(pattern: str, matches: list[str], others: list[str]) -> None:
    compiled = Pattern(pattern)
    for text in matches:
        assert compiled.search(text.encode()), text
        assert compiled.literal in text.encode()
    for text in others:
        assert not compiled.search(text.encode()), text


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        ("cat", b"cat"),
        ("^cat.*horse$", b"horse"),
        ("ca+t", b"c"),
        ("(abc)+", b"abc"),
        ("(abc)?d", b"d"),
        ("abc|abd", b""),
        ("x(abc|abd)y", b"x"),
        ("a{3}b", b"aaab"),
        ("(ab){2,5}", b"abab"),
        ("[a]b", b"ab"),
        ("a*", b""),
        ("é+x", b"\xc3\xa9"),
    ],
)
def test_what_every_match_holds(pattern: str, literal: bytes) -> None:
    assert Pattern(pattern).literal == literal


@pytest.mark.parametrize(
    ("pattern", "at", "said"),
    [
        ("(a", 0, "never closed"),
        ("ab)", 2, "never opened"),
        ("a[b", 1, "never closed"),
        ("[", 0, "never closed"),
        ("[a-", 0, "never closed"),
        ("*a", 0, "nothing to repeat"),
        ("a|+", 2, "nothing to repeat"),
        ("{2}", 0, "nothing to repeat"),
        ("a^", 1, "before ^"),
        ("a(^b)", 1, "before ^"),
        ("$a", 1, "behind $"),
        ("(a$|b)c", 6, "behind $"),
        ("^*", 1, "cannot be repeated"),
        ("(a$){2}", 4, "cannot be repeated"),
        ("(^a)+", 4, "cannot be repeated"),
        ("a{", 1, "{m,n} expected"),
        ("a{,3}", 1, "{m,n} expected"),
        ("a{3,2}", 1, "the smaller first"),
        ("a{256}", 1, "from 0 to 255"),
        ("a{2}{3}", 4, "in brackets"),
        ("a{2}*", 4, "in brackets"),
        ("a*{2}", 2, "in brackets"),
        ("[z-a]", 3, "runs backwards"),
        ("[[:nosuch:]]", 1, "there are alnum"),
        ("[[.a.]]", 1, "depend on a locale"),
        ("[[=a=]]", 1, "depend on a locale"),
        ("[a-[:digit:]]", 3, "depend on a locale"),
        ("[é]", 1, "write (a|b)"),
        ("(a)\\1", 3, "needs backtracking"),
        ("a\\b", 1, "there is no \\b"),
        ("a\\", 1, "at the end"),
        ("(a{100}){10}", 8, f"more than {MAX_POSITIONS}"),
        ("x" * (MAX_POSITIONS + 1), 0, f"more than {MAX_POSITIONS}"),
        ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), MAX_DEPTH + 1, "inside each other"),
    ],
)
def test_mistakes(pattern: str, at: int, said: str) -> None:
    with pytest.raises(PatternError, match=re.escape(said)) as caught:
        Pattern(pattern)
    assert caught.value.at == at


_atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "\\w", "\\W", "[[:digit:]]", "é", "()", "1"])


def _more(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}{}".format, parts, parts),
        st.builds("({}|{})".format, parts, parts),
        st.builds("({}){}".format, parts, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "{0}"])),
    )


_patterns = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "^"]),
    st.recursive(_atoms, _more, max_leaves=6).map("({})".format),
    st.sampled_from(["", "$"]),
)


@given(_patterns, st.lists(st.text("ab1é", max_size=8), min_size=1, max_size=6))
@example("^((a*)*b)$", ["aaaaaaaa", "ab"])
@example("((a|b)*a(a|b){2})", ["abab", "bbaab"])
def test_the_same_answers_as_re(pattern: str, texts: list[str]) -> None:
    compiled = Pattern(pattern)
    # re reads characters where we read bytes: give it one character per byte. Its \Z is our $.
    latin = pattern.encode().decode("latin-1").replace("Ã©", "(?:Ã©)").replace("[[:digit:]]", "[0-9]")
    theirs = re.compile(re.sub(r"\$$", r"\\Z", latin), re.ASCII | re.DOTALL)
    for text in texts:
        data = text.encode()
        found = theirs.search(data.decode("latin-1")) is not None
        assert compiled.search(data) is found
        assert compiled.search(data) is found, "from memory"
        if found:
            assert compiled.literal in data


@given(st.text("ab()[]{}*+?|^$.\\-,0123:é", max_size=20))
def test_any_text_is_a_pattern_or_an_error(text: str) -> None:
    at = 0
    try:
        Pattern(text).search(b"aabb01")
    except PatternError as error:
        at = error.at
    assert 0 <= at <= len(text)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a|b)*a(a|b){100}c",
        "(a*)*c",
        "(a|a)*c",
        "(a?){120}a{120}c",
        "a.*b.*a.*b.*c",
        "(a+b*)+(b+a*)+[c]",
        "[ab]{255}x",
    ],
)
def test_steps_are_no_more_than_bytes(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backtracking matcher takes exponential or quadratic time for."""
    text = (b"ab" * 7 + b"a" * 30 + b"bba") * 100
    steps = 0
    step = Pattern._step

    def counted(self: Pattern, found: int, symbol: int) -> object:
        nonlocal steps
        steps += 1
        return step(self, found, symbol)

    monkeypatch.setattr(Pattern, "_step", counted)
    compiled = Pattern(pattern)
    compiled.literal = b""  # or it would not be looked at: there is no c
    assert not compiled.search(text)
    assert 0 < steps <= len(text) + 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_regex, "MAX_STEPS", 50)
    compiled = Pattern("(a|b)*a(a|b){9}[c]")
    for number in range(300):
        text = bytes(b"ab"[number >> bit & 1] for bit in range(20))
        assert not compiled.search(text)
        assert compiled.search(text + b"a" * 10 + b"c")
        assert compiled._steps <= 51
        assert len(compiled._states) <= 53


@pytest.mark.parametrize(
    "pattern", ["(){255}", "((){255}){255}", "(((){255}){255}){255}", "(|){255}", "((a{0}){255}){255}b"]
)
def test_nothing_repeated_is_nothing(pattern: str) -> None:
    assert Pattern(pattern).search(b"b")
    assert MAX_REPEAT == 255
