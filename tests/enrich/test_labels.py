"""Labels: what a glob matches, and what rules make of it."""

from __future__ import annotations

import fnmatch
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audisp.parse import labels
from audisp.parse.labels import MAX_PATTERN, MAX_RULES, MAX_TEXT, Glob, LabelRule, LabelRules, rule


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/usr/sbin/sshd", ["/usr/sbin/sshd"], ["/usr/sbin/sshd2", "x/usr/sbin/sshd", ""]),
        ("*/sshd", ["/usr/sbin/sshd", "/sshd"], ["sshd", "/usr/sbin/sshd-session"]),
        ("/opt/*/bin/php*", ["/opt/a/b/bin/php8", "/opt//bin/php"], ["/opt/bin/php", "/opt/x/bin/perl"]),
        ("*", ["", "a", "a\nb"], []),
        ("a*a", ["aa", "aba"], ["a"]),
        ("*ab*ab*", ["abab", "xabyabz"], ["ab", "aab"]),
        ("a?c", ["abc", "a\nc", "a/c"], ["ac", "abbc"]),
        ("[ab]", ["a", "b"], ["c", "ab", ""]),
        ("[!ab]", ["c"], ["a", ""]),
        ("[]]", ["]"], ["a"]),
        ("[!]]", ["a"], ["]"]),
        ("[a-c]x*", ["bx", "bxx"], ["dx"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[*]", ["*"], ["a"]),
        ("*[0-9].sh", ["run1.sh"], ["run.sh"]),
        ("[\\d]", ["\\", "d"], ["1"]),
        ("[^a]", ["^", "a"], ["b"]),
        (".*", [".x"], ["ax"]),
        ("é?", ["éx", "é\udc80"], ["e"]),
    ],
)
def test_globs(pattern: str, yes: list[str], no: list[str]) -> None:
    glob = Glob(pattern)
    assert [text for text in yes if not glob.match(text)] == []
    assert [text for text in no if glob.match(text)] == []


@given(
    st.lists(st.sampled_from(["a", "b", "*", "*", "?", "[ab]", "[!a]", "[a-b]"]), min_size=1, max_size=12),
    st.text(alphabet="abc", max_size=14),
)
@example(["*", "a", "*", "b", "*"], "ba")
@example(["a", "*", "a"], "a")
def test_a_glob_matches_what_fnmatch_says(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    assert Glob(pattern).match(text) == fnmatch.fnmatchcase(text, pattern)


@given(st.text(min_size=1, max_size=30), st.text(max_size=30))
def test_any_pattern_is_refused_or_matches_without_an_error(pattern: str, text: str) -> None:
    try:
        glob = Glob(pattern)
    except ValueError:
        return
    assert glob.match(text) in (True, False)
    assert glob.match("") == (set(pattern) <= {"*"})


@pytest.mark.parametrize("pattern", ["", "x" * (MAX_PATTERN + 1), "[", "a[b", "[]", "[!]", "[z-a]"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern has|'\[' begins|nothing in it|runs backwards"):
        Glob(pattern)


def test_a_text_that_is_too_long_is_matched_by_its_beginning() -> None:
    text = "a" * (MAX_TEXT + 1)
    assert Glob("a*").match(text)
    assert Glob("*aaa*").match(text)
    assert not Glob("*a").match(text)
    assert not Glob("a" * 5).match(text)
    assert not Glob("*b*").match("a" * MAX_TEXT + "b")


def test_a_hostile_text_takes_no_more_steps_than_its_length_times_the_patterns() -> None:
    # With a backtracking matcher this would not end within the life of the universe.
    pattern = "*" + "a*" * 100 + "b"
    assert not Glob(pattern).match("a" * MAX_TEXT)
    assert not Glob("*" + "[ab]?" * 50 + "c*d").match("a" * MAX_TEXT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("web", "exe"), "three words"),
        ((), "three words"),
        (("web", "exec", "/x"), r"did you mean 'exe'\?"),
        (("web", "colour", "/x"), "exe, argv, script, key, not 'colour'"),
        (("w b", "exe", "/x"), "letters, digits"),
        (("x" * 65, "exe", "/x"), "1 to 64"),
        (("web", "exe", "[x"), "no ']'"),
    ],
)
def test_a_rule_that_is_wrong_says_what_is(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(words)


def test_a_pattern_of_several_words() -> None:
    assert rule(("web", "argv", "*php", "-S", "*")) == LabelRule("web", "argv", "*php -S *")


def test_too_many_rules_are_refused() -> None:
    LabelRules([rule(("a", "exe", "x"))] * MAX_RULES)
    with pytest.raises(ValueError, match=str(MAX_RULES)):
        LabelRules([rule(("a", "exe", "x"))] * (MAX_RULES + 1))


RULES: Final = LabelRules(
    [
        rule(("ssh", "exe", "*/sshd")),
        rule(("cron", "script", "/etc/cron*/*")),
        rule(("web", "argv", "*nginx*worker*")),
        rule(("ssh", "argv", "*--not-ssh*"), remove=True),
        rule(("root", "key", "became-root")),
        rule(("ssh", "key", "logged-out"), remove=True),
    ]
)


@pytest.mark.parametrize(
    ("before", "exe", "argv", "script", "after"),
    [
        ((), "/usr/sbin/sshd", ["sshd"], None, ("ssh",)),
        (("x",), "/usr/sbin/sshd", None, None, ("x", "ssh")),
        (("ssh",), "/bin/sh", ["sh", "--not-ssh"], None, ()),
        ((), "/usr/sbin/sshd", ["sshd", "--not-ssh"], None, ()),
        ((), "/bin/sh", ["nginx:", "worker", "process"], "/etc/cron.daily/x", ("cron", "web")),
        (("ssh",), None, None, None, ("ssh",)),
        ((), "/bin/x", ["a"] * labels.ARGUMENTS + ["nginx worker"], None, ()),
    ],
)
def test_a_program_gets_labels(
    before: tuple[str, ...], exe: str | None, argv: list[str] | None, script: str | None, after: tuple[str, ...]
) -> None:
    assert RULES.program(before, exe, argv, script) == after


def test_what_takes_away_has_the_last_word() -> None:
    rules = LabelRules([rule(("a", "exe", "*/x"), remove=True), rule(("a", "exe", "*"))])
    assert rules.program((), "/bin/x", None, None) == ()
    assert rules.program((), "/bin/y", None, None) == ("a",)


def test_keys() -> None:
    assert RULES.keys == {"became-root", "logged-out"}
    assert RULES.by_keys(("ssh",), ("became-root", "other")) == ("ssh", "root")
    assert RULES.by_keys(("ssh",), ("logged-out",)) == ()


def test_inheritance() -> None:
    assert RULES.inherited(("a", "b")) == ("a", "b")
    assert LabelRules([], inherit=["b"]).inherited(("a", "b")) == ("b",)
    assert LabelRules([], inherit=[]).inherited(("a", "b")) == ()
    assert not LabelRules()
    assert RULES
