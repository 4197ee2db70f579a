"""The written form: what is written is read again, and nothing else is."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.detect import form
from audisp.detect.fields import judge
from audisp.detect.form import (
    And,
    Compare,
    Exists,
    FormError,
    Heading,
    Is,
    Network,
    Not,
    Null,
    Or,
    Regex,
    Rule,
    RuleSet,
    Text,
)
from audisp.detect.regex_literals import required
from audisp.detect.values import compare_test, compile_regex, network_test, text_test
from audisp.errors import ParseError

_texts = st.text(max_size=8)
_parts = st.lists(st.text(min_size=1, max_size=8) | st.sampled_from([form.ANY, form.ONE]), max_size=4).map(tuple)
_values = (
    st.builds(Text, _parts, st.booleans())
    | st.builds(Regex, _texts, st.sampled_from(["", "i", "ims"]))
    | st.builds(Network, st.sampled_from(["10.0.0.0/8", "fe80::/10"]))
    | st.builds(Compare, st.sampled_from(form.COMPARISONS), st.integers(-(2**62), 2**62))
    | st.builds(Exists, st.booleans())
    | st.just(Null())
)
_nodes: st.SearchStrategy[form.Node] = st.recursive(
    st.builds(Is, st.none() | st.text(min_size=1, max_size=8), _values),
    lambda inner: (
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=8,
)


@given(_nodes)
def test_what_is_written_is_read(node: form.Node) -> None:
    head = Heading("id", "title", "high", "a.yml", 3, "name", "author", ("attack.t1059",), "-w /x")
    rules = RuleSet(
        (Rule(head, "auditd", node),),
        (form.Correlation(Heading("c", "c"), "event_count", ("id",), 60, ("a",), 3, (), (("a", (("id", "b"),)),)),),
        (form.Refused("b.yml", 1, "", "", "why"),),
    )
    assert form.decode(form.encode(rules)) == rules


def written(**changes: Any) -> bytes:
    whole: dict[str, Any] = {"form": form.VERSION, "rules": [], "correlations": [], "refused": []}
    found: bytes = msgpack.packb(whole | changes)
    return found


HEAD = ["id", "t", "low", "w", 1, "", "", [], ""]
CORRELATION = [HEAD, "event_count", ["x"], 60, [], 1, [], [], False]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no written form"),
        (b"\x91" * 2_000, "no written form"),
        (written(form=2), "version 2"),
        (written(form=True), None),
        (written(more=1), "not a map of"),
        (written(rules={}), "rules: not a list"),
        (written(rules=[[HEAD, "sshd", ["is", "a", ["null"]], False]]), "source: not one of auditd"),
        (written(rules=[[HEAD, "auditd", ["is", "a", ["null"]], 1]]), "silent: not a truth value"),
        (written(rules=[[HEAD[:8], "auditd", ["is", "a", ["null"]], False]]), "heading: not a list of 9"),
        (written(rules=[[["", *HEAD[1:]], "auditd", ["is", "a", ["null"]], False]]), "id: not a text of 1"),
        (written(rules=[[HEAD, "auditd", ["is", "", ["null"]], False]]), "field: not a text"),
        (written(rules=[[HEAD, "auditd", ["is", "a", ["regex", "x", "q"]], False]]), "flags are i, m and s"),
        (written(rules=[[HEAD, "auditd", ["is", "a", ["network", "10.0.0.1/8"]], False]]), "host bits set"),
        (written(rules=[[HEAD, "auditd", ["is", "a", ["text", [2], False]], False]]), "text: not a text"),
        (written(rules=[[HEAD, "auditd", ["is", "a", ["text", [True], False]], False]]), "text: not a text"),
        (written(rules=[[HEAD, "auditd", ["xor", []], False]]), "'xor' is not and, or, not, is"),
        (written(rules=[[HEAD, "auditd", ["and", []], False]]), "not a list of 1"),
        (written(rules=[[HEAD, "auditd", ["is", "a", ["null"]], False]] * 2), "two rules have one id"),
        (written(correlations=[CORRELATION]), "no rule has the id 'x'"),
        (written(correlations=[[*CORRELATION[:3], 0, *CORRELATION[4:]]]), "timespan: not a whole number from 1"),
        (written(correlations=[[*CORRELATION[:5], 10**6, *CORRELATION[6:]]]), "count: not a whole number"),
        (b"\0" * (form.MAX_FORM + 1), "bytes of rules are more than"),
    ],
)
def test_what_is_no_form_is_refused(data: bytes, says: str | None) -> None:
    if says is None:
        assert form.decode(data) == RuleSet()
        return
    with pytest.raises(FormError, match=says):
        form.decode(data)


def test_a_condition_is_bounded() -> None:
    deep: list[Any] = ["is", "a", ["null"]]
    for _ in range(form.MAX_DEPTH + 2):
        deep = ["not", deep]
    with pytest.raises(FormError, match="deeper than"):
        form.unpack(deep)
    with pytest.raises(FormError, match="more than"):
        form.unpack(["or", [["is", "a", ["text", ["x"] * 200, False]]] * 200])


@given(st.lists(st.sampled_from([b"a", b"b", b"ab", b"A", b"\xc3\xbc", b"/"]), max_size=8).map(b"".join), _parts)
def test_a_text_is_what_the_slow_way_says(data: bytes, parts: tuple[form.Part, ...]) -> None:
    words = [".*" if each == form.ANY else "." if each == form.ONE else _quoted(str(each).lower()) for each in parts]
    slow = compile_regex("(?s)^(?:" + "".join(words) + ")$")
    low = data.lower()
    try:
        expected = slow.search(low.decode("utf-8", "replace")) is not None
        made = text_test(Text(parts))(low)
    except UnicodeEncodeError:
        return
    ascii_only = all(str(each).isascii() for each in parts)
    assert not ascii_only or made is expected


def _quoted(text: str) -> str:
    return "".join(f"\\x{{{ord(char):x}}}" for char in text)


@pytest.mark.parametrize(
    ("pattern", "flags", "texts"),
    [
        ("abc", "", ["abc"]),
        ("-(W|R)\\s", "", ["-W", "-R"]),
        ("a[xy]b", "", ["axb", "ayb"]),
        ("ab?c+defg", "", ["defg"]),
        ("x{2}long", "", ["long"]),
        ("a|b", "", None),
        ("(a|b)", "", ["a", "b"]),
        ("(a|b)*tail", "", ["tail"]),
        ("[^]x]long", "", ["long"]),
        ("[[:digit:]]long", "", ["long"]),
        ("\\x41long", "", ["long"]),
        ("\\Qa|b\\E", "", None),
        ("(?i)kernel", "", ["ernel"]),
        ("kernel", "i", ["ernel"]),
        ("a(?i)b", "", None),
        ("a\\.b", "", ["a.b"]),
        ("(unclosed", "", None),
        (".*", "", None),
        ("end$", "", ["end"]),
    ],
)
def test_what_a_regular_expression_requires(pattern: str, flags: str, texts: list[str] | None) -> None:
    assert required(pattern, flags) == texts


@given(
    st.text(st.sampled_from("ab|()[]^$.*+?{}\\-kKsS12,dQ:i"), max_size=10),
    st.text(st.sampled_from("abkKsS12-.|"), max_size=12),
)
def test_what_is_required_is_in_all_that_matches(pattern: str, text: str) -> None:
    try:
        found = compile_regex(pattern)
    except ParseError:
        return
    texts = required(pattern, "")
    if texts is not None and found.search(text) is not None:
        assert any(each.lower() in text.lower() for each in texts)


def test_a_regular_expression_that_could_backtrack_is_refused() -> None:
    for pattern in ("(a)\\1", "(?=a)", "a{2000}", "(?<!x)y"):
        with pytest.raises(ParseError, match="regular expression"):
            compile_regex(pattern)


def test_numbers_and_networks() -> None:
    assert compare_test(Compare("gte", 7))(b"7")
    assert not compare_test(Compare("gte", 7))(b"0x8")
    assert not compare_test(Compare("neq", 7))(b"")
    assert not compare_test(Compare("gt", 1))(b"9" * 40)
    inside = network_test(Network("10.0.0.0/8"))
    assert inside(b"10.1.2.3")
    assert inside(b"::ffff:10.1.2.3")
    assert not inside(b"fe80::1")
    assert not inside(b"10.1.2.3 ")


def _rule(node: form.Node, source: form.Source = "process_creation") -> Rule:
    return Rule(Heading("i", "t"), source, node)


def test_rules_that_cannot_be_true_are_known() -> None:
    gone, there = Is("LogonId", Text(("0",))), Is("Image", Text(("x",)))
    assert "LogonId is not in process_creation" in judge(_rule(And((gone, there)))).never
    assert not judge(_rule(Or((gone, there)))).never
    assert judge(_rule(Or((gone, there)))).parts
    assert not judge(_rule(And((Not(gone), there)))).never
    assert not judge(_rule(Is("LogonId", Null()))).never
    assert "did you mean Image?" in judge(_rule(Is("image", Text(("x",))))).never
    assert "no record of type NOSUCH" in judge(_rule(Is("type", Text(("nosuch",))), "auditd")).never
    both = And((Is("type", Text(("PATH",))), Is("type", Text(("EXECVE",)))))
    assert judge(_rule(both, "auditd")).never == "it wants one record to be of two types"
