"""Filters: what comparisons mean, that the short ways find what the long way finds, and what a selection lets pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.errors import ParseError
from audisp.event import LATE, NO_STAMP, TIMED_OUT, Batch, Event
from audisp.parse import filter_clause, filter_regex
from audisp.parse.assemble import Assembler
from audisp.parse.expression import MAX_DEPTH, MAX_LENGTH, ExpressionError, parse
from audisp.parse.filter import Filter, Selection, compile_filter
from audisp.parse.filter_clause import Clause
from audisp.parse.interpret import Nobody
from audisp.parse.lines import LineReader
from audisp.parse.memo import LONGEST
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.needs import CORPUS, ROOT
from tests.parse.streams import line
from tests.parse.test_expression import trees

PAGE: Final = ROOT / "docs" / "filters.md"


class Accounts:
    """Names of a host that has two."""

    def user(self, uid: int) -> str | None:
        return {1000: "alice", 33: "www-data"}.get(uid)

    def group(self, gid: int) -> str | None:
        return {1000: "staff"}.get(gid)


def batch(data: bytes, marks: dict[int, int] | None = None) -> Batch:
    return Batch(data, data.count(b"\n"), "test", 0.0, RecordReader(), marks)


def read(path: Path) -> list[Batch]:
    """A recorded file, assembled a piece at a time."""
    reader = LineReader(1 << 20)
    assembler = Assembler("file", RecordReader(), recorded=True)
    found = []
    data = path.read_bytes()[: 1 << 20]
    for at in range(0, len(data), 1 << 16):
        reader.feed(data[at : at + (1 << 16)])
        good, count = reader.take()
        found.append(assembler.feed(Block(good, count, "file", 0.0), 0.0) if count else None)
    found.append(assembler.flush(0.0))
    return [each for each in found if each is not None]


# ---- what comparisons mean ----

SYSCALL: Final = (
    b"arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=2 ppid=1 pid=77 auid=1000 uid=0 gid=1000 "
    b'euid=33 ouid=07 tty=pts0 ses=4294967295 comm="cat" exe="/usr/bin/cat" key=6B657931016B657932 empty='
)
USER: Final = (
    b'pid=7 uid=0 auid=4294967295 msg=\'op=login acct="al" id=-1 auid=1 exe="/usr/sbin/sshd" addr=? res=success\''
)
ENRICHED: Final = b'auid=1000 uid=33 key=(null)\x1dAUID="bob" UID="unknown(33)" SYSCALL=fork'


@pytest.mark.parametrize(
    ("text", "type_", "body", "verdict"),
    [
        # raw
        ("auid r= 1000", b"SYSCALL", SYSCALL, True),
        ("auid r!= 1000", b"SYSCALL", SYSCALL, False),
        ('comm r= "\\"cat\\""', b"SYSCALL", SYSCALL, True),
        ("comm r= cat", b"SYSCALL", SYSCALL, False),
        ("key r= 6B657931016B657932", b"SYSCALL", SYSCALL, True),
        # nothing there: never true
        ("nosuch r= x", b"SYSCALL", SYSCALL, False),
        ("nosuch r!= x", b"SYSCALL", SYSCALL, False),
        ("nosuch i!= x", b"SYSCALL", SYSCALL, False),
        ("fsuid !== 5", b"SYSCALL", SYSCALL, False),
        ("!nosuch r!= x", b"SYSCALL", SYSCALL, True),
        ('empty r= ""', b"SYSCALL", SYSCALL, False),
        ("empty r!= x", b"SYSCALL", SYSCALL, False),
        # interpreted
        ("comm i= cat", b"SYSCALL", SYSCALL, True),
        ("syscall i= execve", b"SYSCALL", SYSCALL, True),
        ("syscall i!= execve", b"SYSCALL", SYSCALL, False),
        ("arch i= x86_64", b"SYSCALL", SYSCALL, True),
        ("auid i= alice", b"SYSCALL", SYSCALL, True),
        ("gid i= staff", b"SYSCALL", SYSCALL, True),
        ("uid i= root", b"SYSCALL", SYSCALL, True),
        ("euid i= www-data", b"SYSCALL", SYSCALL, True),
        ("ses i= unset", b"SYSCALL", SYSCALL, True),
        ('a0 i= "0x1"', b"SYSCALL", SYSCALL, True),
        ("key i= key1", b"SYSCALL", SYSCALL, True),
        ("key i= key2", b"SYSCALL", SYSCALL, True),
        ("key i!= key2", b"SYSCALL", SYSCALL, False),
        ("key i!= key3", b"SYSCALL", SYSCALL, True),
        ('key i= "key1,key2"', b"SYSCALL", SYSCALL, False),
        ('key i= "(null)"', b"SYSCALL", b"key=(null)", True),
        ('name i= "/a b"', b"PATH", b"name=2F612062", True),
        ('name i= "/\\\\001"', b"PATH", b"name=2F01", True),
        ('name i= "é"', b"PATH", b"name=C3A9", True),
        ('name r= "\\"é\\""', b"PATH", 'name="é"'.encode(), True),
        ("a0 i= sh", b"EXECVE", b'argc=1 a0="sh"', True),
        ("a0 i= sh", b"EXECVE", b"argc=1 a0=7368", True),
        ('proctitle i= "sh -c"', b"PROCTITLE", b"proctitle=7368002D63", True),
        ('exit i= "EACCES(Permission denied)"', b"SYSCALL", b"exit=-13", True),
        # enriched: what the sender says before what we say, unless it says that it does not know
        ("auid i= bob", b"SYSCALL", ENRICHED, True),
        ("auid i= alice", b"SYSCALL", ENRICHED, False),
        ('uid i= "unknown(33)"', b"SYSCALL", ENRICHED, True),
        ("syscall i= execve", b"SYSCALL", b"arch=c000003e syscall=59\x1dSYSCALL=unknown-syscall(59)", True),
        ("syscall i= fork", b"SYSCALL", b"arch=c000003e syscall=59\x1dSYSCALL=fork", True),
        ("pid i= fork", b"SYSCALL", b"pid=59\x1dPID=fork", False),
        ("AUID r= bob", b"SYSCALL", ENRICHED, False),
        ("\\regexp /bob/", b"SYSCALL", ENRICHED, False),
        ("\\regexp /\\\\(null\\\\)$/", b"SYSCALL", ENRICHED, True),
        ('\\regexp /"$/', b"SYSCALL", ENRICHED, False),
        # numbers
        ("auid == 1000", b"SYSCALL", SYSCALL, True),
        ("auid >= 1000", b"SYSCALL", SYSCALL, True),
        ("auid > 1000", b"SYSCALL", SYSCALL, False),
        ("auid < 01001", b"SYSCALL", SYSCALL, True),
        ("auid !== 1000", b"SYSCALL", SYSCALL, False),
        ("ouid == 7", b"SYSCALL", SYSCALL, False),
        ("ouid !== 7", b"SYSCALL", SYSCALL, False),
        ("auid == unset", b"USER_LOGIN", USER, True),
        ("auid == -1", b"USER_LOGIN", USER, True),
        ("id == 4294967295", b"USER_LOGIN", USER, True),
        ("uid == 0", b"SYSCALL", b"uid=alice", False),
        ('"old-auid" == 5', b"LOGIN", b"login pid=1 uid=0 old auid=5 new auid=6", True),
        ("auid == 6", b"LOGIN", b"login pid=1 uid=0 old auid=5 new auid=6", True),
        # the first of its name, and the kernel's before the program's
        ("auid r= 1", b"USER_LOGIN", USER, False),
        ("auid r= 1", b"SYSCALL", b"auid=1 auid=2", True),
        ("auid r= 2", b"SYSCALL", b"auid=1 auid=2", False),
        ("op r= login", b"USER_LOGIN", USER, True),
        ("acct i= al", b"USER_LOGIN", USER, True),
        ("res i= success", b"USER_LOGIN", USER, True),
        ("seresult r= denied", b"AVC", b"avc:  denied  { read } for  pid=1", True),
        ("seperms r= read", b"AVC", b"avc:  denied  { read } for  pid=1", True),
        # the header
        ("type r= SYSCALL", b"SYSCALL", SYSCALL, True),
        ("type i!= SYSCALL", b"SYSCALL", SYSCALL, False),
        ("node r!= x", b"SYSCALL", SYSCALL, False),
        ("\\record_type == SYSCALL", b"SYSCALL", SYSCALL, True),
        ("\\record_type == syscall", b"SYSCALL", SYSCALL, True),
        ("\\record_type == 1300", b"SYSCALL", SYSCALL, True),
        ("\\record_type == SYSCALL", b"1300", SYSCALL, True),
        ("\\record_type == SYSCALL", b"syscall", SYSCALL, True),
        ("\\record_type == SYSCALL", b"01300", SYSCALL, True),
        ("\\record_type == SYSCALL", b"UNKNOWN[01300]", SYSCALL, True),
        ("\\record_type == 1420", b"UNKNOWN[1420]", b"a=1", True),
        ('\\record_type == "UNKNOWN[1420]"', b"UNKNOWN[1420]", b"a=1", True),
        ("\\record_type >= 1400 && \\record_type < 1500", b"AVC", b"a=1", True),
        ("\\record_type !== 0", b"NOSUCHTYPE", b"a=1", False),
        ("\\timestamp == ts:1700000000.123", b"SYSCALL", SYSCALL, True),
        ("\\timestamp > ts:1700000000.99", b"SYSCALL", SYSCALL, True),
        ("\\timestamp_ex == ts:1700000000.123:5", b"SYSCALL", SYSCALL, True),
        ("\\timestamp_ex < ts:1700000000.123:5", b"SYSCALL", SYSCALL, False),
        ("\\regexp /^type=SYSCALL msg=audit\\\\(1700000000[.]123:5\\\\): arch/", b"SYSCALL", SYSCALL, True),
        ("\\regexp /success'$/", b"USER_LOGIN", USER, True),
    ],
)
def test_meaning(text: str, type_: bytes, body: bytes, verdict: bool) -> None:
    filter_ = compile_filter(text, Accounts())
    data = line(5, type_, body)
    (event,) = batch(data).events
    assert filter_.exactly(event) is verdict
    assert filter_.matches(event) is verdict
    assert filter_.matches(event) is verdict, "from memory"
    assert list(filter_.positions(batch(data))) == [0] * verdict
    (event,) = batch(line(5, type_, body, b"web1")).events
    if "node" not in text and "^" not in text:
        assert filter_.exactly(event) is filter_.matches(event) is verdict


def test_any_record_makes_the_event() -> None:
    data = line(1, b"SYSCALL", b"auid=1 uid=2") + line(1, b"PATH", b"ouid=3") + line(2, b"SYSCALL", b"auid=2 uid=1")
    found = batch(data)
    for text, positions in (
        ("auid == 1 && uid == 2", [0]),
        ("auid == 1 && ouid == 3", []),  # never in one record
        ("auid == 1 || ouid == 3", [0]),
        ("!auid == 1", [0, 1]),  # PATH has none
        ("!auid r!= 2", [0, 1]),
    ):
        filter_ = compile_filter(text)
        assert sorted(set(filter_.positions(found))) == positions
        assert [at for at, event in enumerate(found.events) if filter_.exactly(event)] == positions


@pytest.mark.parametrize("type_", [b"SYSCALL", b"URINGOP"])
def test_nodes_are_told_apart_in_memory(type_: bytes) -> None:
    filter_ = compile_filter("node r!= web2 && auid == 1")
    for node, verdict in ((b"web1", True), (b"web2", False), (b"", False), (b"web1", True)):
        (event,) = batch(line(1, type_, SYSCALL.replace(b"auid=1000", b"auid=1"), node)).events
        assert filter_.matches(event) is verdict
        assert filter_.exactly(event) is verdict


def test_times_are_told_apart_in_memory() -> None:
    for text in ("\\timestamp_ex >= ts:1700000000.123:2 && auid == 1000", "\\regexp /123:[23]/ && auid == 1000"):
        filter_ = compile_filter(text)
        found = batch(b"".join([line(serial, b"SYSCALL", SYSCALL) for serial in (1, 2, 3)]))
        assert sorted(filter_.positions(found)) == [1, 2]
        agree(filter_, [found, found])


def test_what_other_arguments_say_counts() -> None:
    """The mode of open(2) is one where its flags create a file, and else whatever lies in the register."""
    filter_ = compile_filter('a2 i= "0x1b6" && auid == 1000')
    body = SYSCALL.replace(b"syscall=59", b"syscall=2").replace(b"a2=3", b"a2=1b6")
    for flags, verdict in ((b"a1=41", False), (b"a1=0", True), (b"a1=41", False)):
        (event,) = batch(line(1, b"SYSCALL", body.replace(b"a1=2", flags))).events
        assert filter_.exactly(event) is verdict
        assert filter_.matches(event) is verdict


@pytest.mark.parametrize("names", ["pid", "pid a1", "exit", "a2", "comm", "exe comm", "key"])
def test_what_is_asked_for_is_not_left_out_of_memory(names: str) -> None:
    """SYSCALL lines are remembered without their arguments and pids, unless the expression looks at them."""
    for name in names.split():
        filter_ = compile_filter(f"auid == 1000 && {name} r!= 0")
        value = re.search(rf" {name}=(\S+)".encode(), SYSCALL)
        assert value is not None
        for other, verdict in ((b"0", False), (b'"9"', True), (b"99", True), (b"0", False), (b'"0"', True)):
            body = SYSCALL.replace(value[0], f" {name}=".encode() + other)
            (event,) = batch(line(1, b"SYSCALL", body)).events
            assert filter_.matches(event) is verdict
            assert filter_.exactly(event) is verdict


@pytest.mark.parametrize(
    "body",
    [
        SYSCALL.replace(b'comm="cat"', b'comm="cat" uid=5'),
        SYSCALL.replace(b'comm="cat"', b'comm="cat"uid=5'),
        SYSCALL.replace(b'comm="cat"', b'comm="ca uid=5"'),
        SYSCALL.replace(b'comm="cat"', b"comm=636174"),
        SYSCALL.replace(b'comm="cat"', b"comm='auid=7' uid=5"),
        SYSCALL.replace(b'comm="cat"', b'comm="'),
        SYSCALL.replace(b'exe="/usr/bin/cat"', b'exe="/usr/bin/cat"x uid=5 key=9'),
        SYSCALL.replace(b'exe="/usr/bin/cat"', b'exe="/usr/bin/cat"\x1dUID="alice" AUID="bob"'),
        SYSCALL.replace(b'exe="/usr/bin/cat"', b"exe=(null)"),
        SYSCALL.replace(b"tty=pts0", b'tty="pts0 uid=5"'),
        SYSCALL.replace(b"tty=pts0", b"msg='pts0 uid=5'"),
        SYSCALL.replace(b"tty=pts0", b"tty={ a uid=5 }"),
        SYSCALL.replace(b"tty=pts0", b"ses=1 key=8 uid=5"),
        SYSCALL.replace(b"uid=0 ", b""),
        SYSCALL.replace(b"pid=77", b"pid=77 uid=5"),
        SYSCALL.replace(b"pid=77", b"pid=7g"),
    ],
)
def test_what_is_left_out_of_memory_hides_nothing(body: bytes) -> None:
    """One filter sees a plain record and one that is odd where memory leaves something out, in both orders."""
    texts = ["auid == 1000 && uid == 0", "uid == 5", "uid r!= 0", "auid i= bob || uid i= alice", "key r= 9", "key r= 8"]
    plain = line(1, b"SYSCALL", SYSCALL)
    odd = line(2, b"SYSCALL", body)
    for text in texts:
        agree(compile_filter(text, Accounts()), [batch(plain + odd), batch(odd + plain)])
        agree(compile_filter(text, Accounts()), [batch(odd + plain)])


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("pid == 3", 1, "use r=, r!=, i= or i!="),
        ("a r= 1 && timestamp > 3", 11, "written \\timestamp"),
        ("auid == root", 9, "names are compared by i="),
        ("auid == 4294967296", 9, "from 0 to 4294967295"),
        ("auid == -2", 9, "from 0 to 4294967295"),
        ("\\record_type == SYSCAL", 17, "the nearest is SYSCALL"),
        ("\\record_type == 70000", 17, "is no type of record"),
        ("\\record_type r= SYSCALL", 1, "use < <= == > >= !=="),
        ("\\timestamp i= x", 1, "has a value and no text"),
        ("\\timestamp == 5", 15, "ts:SECONDS.MILLISECONDS expected"),
        ("\\timestamp == ts:1.5:3", 15, "\\timestamp_ex with one"),
        ("\\timestamp_ex == ts:1.5", 18, "ts:SECONDS.MILLISECONDS:SERIAL expected"),
        ("\\timestamp == ts:1.1000", 15, "not half a second"),
        ("a r= 1 || \\regexp /a(/", 19, "at character 2"),
    ],
)
def test_mistakes(text: str, column: int, said: str) -> None:
    with pytest.raises(ParseError, match=re.escape(said)) as caught:
        compile_filter(text)
    assert isinstance(caught.value, ExpressionError)
    assert caught.value.column == column


@given(trees.map(str))
def test_any_expression_is_compiled_or_refused(text: str) -> None:
    try:
        compile_filter(text)
    except ExpressionError as error:
        column = error.column
    else:
        column = 1
    assert 1 <= column <= len(text)


# ---- the short ways and the long way ----


def _fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


EXAMPLES: Final = [text for code in _fences("filter") for text in code.splitlines()]
"""Every expression of docs/filters.md."""

EXPRESSIONS: Final = [
    *EXAMPLES,
    *("auid == 1000 && key i= exec && \\record_type == SYSCALL", "syscall i= execve && success r= yes && auid >= 1000"),
    *('name i= "/etc/passwd" && nametype r= NORMAL && ouid == 0', "key i= exec || key i= watch || uid == 0"),
    *('exe i= "/usr/bin/dash" || \\record_type == CWD || auid r= 0', "!(key i= exec)", "!(auid r!= 1 || uid r!= 1)"),
    *("auid == 4294967295", "auid == unset || id == -1", "type r= PATH && item r= 0", 'cwd i= "/root"', "comm i= sh"),
    *("res i= success && op r!= x", "acct i= root", "argc r= 3 && a0 i= cat", "a1 i!= x && a2 r!= y"),
    *("seperms r= read", '"old-auid" !== 0', "\\record_type == 1420", "\\record_type < 1200"),
    "\\timestamp < ts:1760500001.0 && uid == 0",
    *("\\regexp /exe=/ && uid == 0", "\\regexp /(cat|ls)/ || comm i= sh", "\\regexp /:10[0-9]+\\\\)/", "pid i= 1"),
    *(
        "syscall i= openat && uid i= root",
        "syscall i= connect || saddr i!= x",
        "exit i!= 0 && a0 r!= 0",
        "ses i= unset",
    ),
]

FILES: Final = [
    *sorted((ROOT / "tests" / "corpus").glob("*.log")),
    *sorted(CORPUS.glob("*.log")),
    *sorted((CORPUS / "public").glob("*/*.log")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[-40:])
def test_short_and_long_ways_agree(path: Path) -> None:
    batches = read(path)
    for text in EXPRESSIONS:
        agree(compile_filter(text, Accounts()), batches)


def agree(filter_: Filter, batches: list[Batch]) -> None:
    """Asserts that searching, remembering and looking at each record come to the same."""
    dropped = Selection((compile_filter("uid == 0"),), (filter_,))
    for each in batches:
        exact = [at for at, event in enumerate(each.events) if filter_.exactly(event)]
        assert sorted(set(filter_.positions(each))) == exact, filter_
        assert [at for at, event in enumerate(each.events) if filter_.matches(event)] == exact, filter_
        for selection in (Selection((filter_,)), Selection((), (filter_,)), dropped):
            wanted = [at for at, event in enumerate(each.events) if selection.wanted(event)]
            assert selection.select(each) == wanted
            picked, only = selection.pick(each), each.only(wanted)
            assert (picked and (picked.data, picked.records)) == (only and (only.data, only.records)), filter_


def test_there_is_something_to_find() -> None:
    """So that two ways that find nothing do not agree for that reason."""
    found = {
        text
        for path in FILES
        for each in read(path)
        for text in EXPRESSIONS
        if any(compile_filter(text).positions(each))
    }
    assert len(found) > len(EXPRESSIONS) * 3 / 4


def test_most_expressions_are_searched_for() -> None:
    searched = [text for text in EXPRESSIONS if compile_filter(text).anchored]
    assert len(searched) > len(EXPRESSIONS) / 2


_NAMES: Final = b"auid uid key comm a0 name type node syscall arch x.y empty".split()
_VALUES: Final = [
    *b"1000 0 -1 01000 4294967295 59 c000003e exec 65786563 6578656301737368 657865634 6F0x EXEC execs sexec".split(),
    *b'exec, exec) exec: (null) \'exec\' "exec "exec" "exec"s a"exec" "exec", "" \xc3\xa9 C3A9'.split(),
    *(b"", b'"ex ec"', b"{ exec }", b"exec\x1dAUID=1"),
]
_TYPES: Final = [
    *b"SYSCALL PATH EXECVE USER_CMD AVC TRUSTED_APP LOGIN KERN_MODULE USER_TTY NOSUCH".split(),
    *b"UNKNOWN[1300] 1300 syscall UNKNOWN[01300]".split(),
]
_fields = st.builds(lambda name, value: name + b"=" + value, st.sampled_from(_NAMES), st.sampled_from(_VALUES))
_extras = st.sampled_from(
    [
        *b"msg=' ' ( , \" \r".split(b" "),
        *(b"avc:  denied  { read } for ", b"old auid=5", b'\x1dAUID="exec" SYSCALL=execve'),
    ]
)
_bodies = st.lists(_fields | _extras, max_size=6).map(b" ".join)
_lines = st.builds(
    line, st.integers(1, 3), st.sampled_from(_TYPES), _bodies, st.sampled_from([b"", b"", b"web1", b"auid=1000"])
)
_texts = st.one_of(
    st.builds(
        "{} {} {}".format,
        st.sampled_from(
            ["auid", "uid", "key", "comm", "a0", "name", "type", "node", "syscall", "seperms", '"old-auid"']
        ),
        st.sampled_from(["r=", "r!=", "i=", "i!="]),
        st.sampled_from(
            [
                *("1000", "exec", "ssh", "execve", "root", "unset", "59", "65786563", "6578656301737368"),
                *("read", "o", "SYSCALL", "web1"),
                *['"\\"exec\\""', '"\\"exec"', '"é"', '""', '"exec,"', '"exec)"', '"(null)"'],
                *('"ex ec"', '"{ exec }"'),
            ]
        ),
    ),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["auid", "uid"]),
        st.sampled_from(["==", "!==", "<"]),
        st.sampled_from([0, 5, 1000, -1]),
    ),
    st.sampled_from(["\\record_type == SYSCALL", "\\record_type == 1309", "\\timestamp_ex > ts:1700000000.123:1"]),
    st.sampled_from(["\\regexp /exec/", "\\regexp /k?ey=/", '\\regexp /="[a-z ]+"/', "\\regexp /[0-9]$/"]),
)
_expressions = st.recursive(
    _texts,
    lambda parts: st.one_of(
        parts.map("!({})".format),
        st.builds("({}) && ({})".format, parts, parts),
        st.builds("{} || {}".format, parts, parts),
    ),
    max_leaves=4,
)


@given(st.lists(_lines | st.just(b"stray\n"), min_size=1, max_size=8), st.lists(_expressions, min_size=1, max_size=4))
def test_ways_agree_on_whatever_somebody_writes(lines: list[bytes], texts: list[str]) -> None:
    for text in texts:
        agree(compile_filter(text, Accounts()), [batch(b"".join(lines))])


def test_a_stamp_in_a_value_is_text() -> None:
    data = line(1, b"USER", b"msg='auid=1 type=SYSCALL msg=audit(1700000000.123:1): uid=2'") + line(1, b"USER", b"x=1")
    for text in (
        "uid r= 2 && auid == 1",
        "\\record_type == SYSCALL",
        "\\timestamp_ex == ts:1700000000.123:1 && uid == 2",
    ):
        agree(compile_filter(text), [batch(data)])


# ---- selections ----

THREE: Final = line(1, b"A", b"uid=1") + line(1, b"B", b"x=1") + line(2, b"A", b"uid=2") + line(3, b"A", b"uid=3")


@pytest.mark.parametrize(
    ("keep", "drop", "wanted"),
    [
        ([], [], [0, 1, 2]),
        (["uid == 1"], [], [0]),
        (["uid == 1", "uid == 3"], [], [0, 2]),
        (["uid >= 2"], ["uid == 3"], [1]),
        ([], ["x r= 1"], [1, 2]),
        (["uid == 9"], [], []),
        ([], ["uid > 0"], []),
        (["uid == 1"], ["uid == 9"], [0]),
        (["uid == 2", "!(uid r= 2)"], [], [0, 1, 2]),
        ([], ["uid == 2", "uid == 2"], [0, 2]),
        (["uid r!= 9"], ["uid == 1", "uid == 3"], [1]),
    ],
)
@pytest.mark.parametrize("marks", [None, {1: TIMED_OUT, 2: LATE}])
@pytest.mark.parametrize("contexts", [None, ["first", "second", "third"]])
def test_selection(
    keep: list[str], drop: list[str], wanted: list[int], marks: dict[int, int] | None, contexts: list[str] | None
) -> None:
    selection = Selection(tuple(map(compile_filter, keep)), tuple(map(compile_filter, drop)))
    given_ = batch(THREE, marks)
    given_.contexts = contexts
    assert selection.select(given_) == wanted
    assert [at for at, event in enumerate(given_.events) if selection.wanted(event)] == wanted
    picked = selection.pick(given_)
    assert (picked is given_) is (len(wanted) == 3)
    found = picked.events if picked else []
    assert [(event.raw, event.flags, event.context) for event in found] == [
        (given_.events[at].raw, given_.events[at].flags, given_.events[at].context) for at in wanted
    ]
    only = given_.only(wanted)
    for name in {*Batch.__slots__, *Block.__slots__} - {"_events", "_once"}:
        # What a batch says beside its records is the same by either way, whatever is added to it one day.
        assert getattr(picked, name, None) == getattr(only, name, None), name


def test_lines_of_no_event_pass() -> None:
    data = (
        b"what is this\n" + line(1, b"A", b"uid=1") + b"auid=1000\n" + line(2, b"A", b"uid=2") + b"uid=2 at the end\n"
    )
    given_ = batch(data)
    assert [event.flags & NO_STAMP for event in given_.events] == [NO_STAMP, 0, NO_STAMP, 0, NO_STAMP]
    for keep, drop, wanted in (
        ("uid == 2", None, [0, 2, 3, 4]),
        ("uid == 9", None, [0, 2, 4]),
        (None, "uid r!= 9", [0, 2, 4]),
        ("!(uid == 2)", "uid == 1", [0, 2, 4]),
    ):
        selection = Selection(
            () if keep is None else (compile_filter(keep),), () if drop is None else (compile_filter(drop),)
        )
        assert selection.select(given_) == wanted
        assert [at for at, event in enumerate(given_.events) if selection.wanted(event)] == wanted
        picked = selection.pick(given_)
        assert picked is not None
        assert picked.data == b"".join([given_.events[at].raw for at in wanted])
    assert not any(compile_filter("uid r= 2").matches(event) for event in given_.events if event.flags & NO_STAMP)


def test_what_comes_from_the_spool_stays_so() -> None:
    given_ = Batch(THREE, 4, "test", 1.5, RecordReader(), spooled=True)
    picked = Selection((compile_filter("uid == 1"),)).pick(given_)
    assert picked is not None
    assert (picked.records, picked.source, picked.arrived, picked.spooled) == (2, "test", 1.5, True)
    assert picked.reader is given_.reader


def test_memory_is_bounded() -> None:
    clause = Clause(parse("uid == 1 && name r!= x"), Accounts())
    reader = RecordReader()
    for number in range(3 * filter_clause.MEMO_ENTRIES):
        assert clause.any(line(number, b"PATH", b"uid=1 name=%d" % number), reader.read)
    assert len(clause._memo) <= 2 * filter_clause.MEMO_ENTRIES
    before = len(clause._memo)
    assert clause.any(line(1, b"PATH", b"uid=1 name=" + b"n" * LONGEST), reader.read)
    assert len(clause._memo) == before


# ---- the page ----


def test_the_page_has_examples_and_each_compiles() -> None:
    assert len(EXAMPLES) > 15
    for text in EXAMPLES:
        assert str(compile_filter(text))


def test_keys_on_the_page_compile() -> None:
    settings = re.findall(r"^filter_(?:keep|drop) = (.+)$", PAGE.read_text(), re.M)
    assert len(settings) == 3
    for text in settings:
        assert str(compile_filter(text))


def test_the_page_says_which_limits_there_are() -> None:
    text = PAGE.read_text()
    for limit in (MAX_LENGTH, MAX_DEPTH, filter_regex.MAX_DEPTH, filter_regex.MAX_POSITIONS, filter_regex.MAX_REPEAT):
        assert re.search(rf"(?<![\d,]){limit:,} ", text), limit


def test_no_names_without_names() -> None:
    nobody = Nobody()
    assert nobody.user(1000) is nobody.group(1000) is None
    (event,) = batch(line(1, b"SYSCALL", SYSCALL)).events
    assert compile_filter('auid i= "unknown(1000)"').matches(event)
    assert isinstance(event, Event)
