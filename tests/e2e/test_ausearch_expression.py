"""The same expressions to libauparse, over the same files: the same events, or a difference that docs/filters.md names.

libauparse is asked in a process of its own: a crash or an endless loop of it on hostile lines is then a failed test and
nothing more.
"""

from __future__ import annotations

import ctypes
import grp
import inspect
import json
import pwd
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from audisp.errors import ParseError
from audisp.event import NO_STAMP, Event
from audisp.parse.assemble import Assembler
from audisp.parse.expression import OPERATORS, VALUE_OPERATORS, quoted
from audisp.parse.fieldtypes import FIELD_TYPES, FieldType
from audisp.parse.filter import Filter, compile_filter
from audisp.parse.lines import LineReader
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.needs import CORPUS, ROOT, needs

LIBRARY: Final = "libauparse.so.0"
PAGE: Final = ROOT / "docs" / "filters.md"
PATIENCE: Final = 120
"""Seconds for one file and all expressions."""

# auparse-defs.h
AUSOURCE_FILE: Final = 1
AUSEARCH_STOP_EVENT: Final = 0
AUSEARCH_RULE_OR: Final = 1

Stamp = tuple[int, int, int]


pytestmark = needs("libauparse")


# ---- libauparse, in the child ----


def _search(library: ctypes.CDLL, path: bytes, expression: str) -> list[Stamp] | str:
    """The events of a file, or what is wrong with the expression."""
    state = library.auparse_init(AUSOURCE_FILE, path)
    if not state:
        raise OSError(ctypes.get_errno(), "auparse_init")
    try:
        error = ctypes.c_char_p()
        text = expression.encode("utf-8", "surrogateescape")
        if library.ausearch_add_expression(state, text, ctypes.byref(error), AUSEARCH_RULE_OR):
            return (error.value or b"no reason given").decode("latin-1")
        library.ausearch_set_stop(state, AUSEARCH_STOP_EVENT)
        found = []
        while library.ausearch_next_event(state) > 0:
            found.append(
                (library.auparse_get_time(state), library.auparse_get_milli(state), library.auparse_get_serial(state))
            )
        return found
    finally:
        library.auparse_destroy(state)


def _answer() -> None:
    """Files and expressions as JSON on standard input; what was found, in the same order, on standard output."""
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    library.auparse_init.restype = ctypes.c_void_p
    library.auparse_init.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.ausearch_add_expression.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.c_int,
    ]
    library.ausearch_set_stop.argtypes = [ctypes.c_void_p, ctypes.c_int]
    for name, result in (
        ("ausearch_next_event", ctypes.c_int),
        ("auparse_get_time", ctypes.c_long),
        ("auparse_get_milli", ctypes.c_uint),
        ("auparse_get_serial", ctypes.c_ulong),
        ("auparse_destroy", None),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_void_p], result
    asked = json.load(sys.stdin)
    json.dump([_search(library, asked["path"].encode(), each) for each in asked["expressions"]], sys.stdout)


PROGRAM: Final = "\n".join(
    [
        "from __future__ import annotations",
        "import ctypes, json, sys",
        f"LIBRARY, AUSOURCE_FILE, AUSEARCH_STOP_EVENT = {LIBRARY!r}, {AUSOURCE_FILE}, {AUSEARCH_STOP_EVENT}",
        f"AUSEARCH_RULE_OR = {AUSEARCH_RULE_OR}",
        inspect.getsource(_search),
        inspect.getsource(_answer),
        "_answer()",
    ]
)
"""The two functions by themselves: what this file imports would take longer to load than they run."""


def theirs(path: Path, expressions: list[str]) -> list[set[Stamp] | str]:
    """For each expression the events, or the error."""
    asked = json.dumps({"path": str(path), "expressions": expressions})
    command = [sys.executable, "-I", "-c", PROGRAM]
    environment = {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return [each if isinstance(each, str) else {(a, b, c) for a, b, c in each} for each in answers]


# ---- ours ----


class Host:
    """The names that libauparse sees on this host."""

    def user(self, uid: int) -> str | None:
        try:
            return pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            return None

    def group(self, gid: int) -> str | None:
        try:
            return grp.getgrgid(gid).gr_name
        except (KeyError, OverflowError):
            return None


def events(path: Path) -> list[Event]:
    """A recorded file's events."""
    reader = LineReader(1 << 20)
    reader.feed(path.read_bytes())
    reader.close()
    data, count = reader.take()
    assembler = Assembler("file", RecordReader(), recorded=True)
    batches = [assembler.feed(Block(data, count, "file", 0.0), 0.0), assembler.flush(0.0)]
    return [event for batch in batches if batch is not None for event in batch.events]


def stamp(event: Event) -> Stamp:
    return event.id.seconds, event.id.millis, event.id.serial


def ours(found: list[Event], filter_: Filter) -> set[Stamp]:
    return {stamp(event) for event in found if filter_.matches(event)}


def differences(text: str) -> dict[str, str]:
    """The table of the page's section "Differences": what a row is about, and the row."""
    section = text.split("\n## Differences", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return {row.split("|")[1].strip(): row for row in rows}


# What an event that only one of both finds must hold, for each row of docs/filters.md that is about events.
REASONS: Final = {
    "an id that is no number": rb"\b[a-z_-]*[ug]id=(?!(?:0|[1-9][0-9]*|-1)(?:[ ,'\x1d\n]|$))",
    "LOGIN before Linux 3.3": rb"old auid=",
    "blanks in quotes": rb"=\"[^\"\n]* ",
    "several keys, keys in digits": rb"\bkey=[0-9A-Fa-f]{2}",
    "-1 for unset": rb"\bses=-1\b",
    "an AVC without braces, or of a user-space program": rb"avc:  (?:granted|denied)  null|msg='avc:",
    "a stamp inside a record": rb"\): [^\n]*msg=audit\(",
    "newer tables": rb"arch=(?:c00000f3|c0000102|c00000b7|80000016)|syscall=1073[0-9]{6}",
}
NO_RECORD: Final = "a line that is no record"
"""The row about stamps of lines that are records for libauparse alone."""

FILES: Final = [
    *sorted((ROOT / "tests" / "corpus").glob("*.log")),
    *sorted(CORPUS.glob("*.log")),
    *sorted((CORPUS / "public").glob("*/*.log")),
]

EXPRESSIONS: Final = [
    # r= and r!=
    *("auid r= 1000", "auid r!= 1000", 'key r= "\\"exec\\""', "key r!= x", 'comm r= "\\"sh\\""', "success r= no"),
    *("syscall r= 59", 'name r!= ""', 'op r= "PAM:session_open"', 'hostname r!= "?"', "terminal r= ssh", "msg r!= x"),
    *("acct r!= x", "item r= 0", "a1 r!= x", "saddr r!= x", "argc r!= 2", "nametype r= NORMAL", "nosuch r!= x"),
    *("type r= SYSCALL", "node r!= x", "tclass r= file", '"a[0]" r!= x', "ses r= 4294967295", "ver r!= x"),
    # i= and i!=
    *(
        "key i= exec",
        "key i!= exec",
        "key i= key1",
        "key i= key2",
        "key r= 6B657931016B657932",
        "comm i= sh",
        'exe i= "/usr/bin/dash"',
        "exe i!= x",
        'name i= "/etc/passwd"',
    ),
    *("success i= yes", "res i= success", "res i= failed", 'exit i= "ENOENT(No such file or directory)"', "tty i!= x"),
    *("syscall i= execve", "syscall i!= execve", "arch i= x86_64", 'a0 i= "0x1"', "a1 i!= x", "a2 i!= x"),
    *("saddr i!= x", "proctitle i!= x", "uid i= root", "auid i= unset", "gid i!= root", "ses i= unset"),
    *('mode i= "file,644"', "acct i= root", "id i= root", "addr i!= x", 'cwd i= "/root"', "cap_fp i!= x"),
    *("seresult i!= x", "seperms i!= x", "sig i!= x", "cmd i!= x", "type i!= SYSCALL", "perm i!= x", "fp i!= x"),
    # values
    *("auid == 1000", "auid >= 1000", "auid !== 1000", "auid < 1000", "uid == 0", "gid > 0", "euid <= 0", "ouid == 0"),
    *("fsgid == 0", "id == 0", '"old-auid" == 4294967295', "auid == -1", "auid == 4294967295", "suid !== 0"),
    # virtual fields
    *("\\record_type == EXECVE", "\\record_type > 1300", "\\record_type <= 1200", "\\record_type !== SYSCALL"),
    *("\\record_type == user_login", "\\record_type == 1302", "\\record_type >= 1400", "\\record_type < SYSCALL"),
    *("\\timestamp >= ts:1760500003.0", "\\timestamp < ts:1760500000.100", "\\timestamp == ts:1760500000.100"),
    *("\\timestamp !== ts:1760500000.100", "\\timestamp_ex > ts:1760500000.100:1100"),
    *("\\timestamp_ex == ts:1760500000.100:1100", "\\timestamp_ex <= ts:1337845201.174:94984"),
    # patterns
    *("\\regexp /sudo/", '\\regexp "sudo"', '\\regexp /a0="[a-z]+" a1/', "\\regexp /^type=(SYSCALL|CWD) /"),
    *("\\regexp /res=success'$/", "\\regexp /[0-9]{3}\\\\.[0-9]{3}:[0-9]*1\\\\)/", "\\regexp /: $/", "\\regexp //"),
    *(
        "\\regexp /^node=/",
        "\\regexp /[[:upper:]]{3,}=[^[:space:]]/",
        "\\regexp /(e|x)+(ec)?ve?=/",
        "\\regexp /u?id=[^0]/",
    ),
    # how they are joined
    *("!(auid r= 1000)", "!auid r!= 1000", "auid r= 1000 && syscall r= 59", "!!auid r= 1000"),
    *("auid r= 1000 || syscall r= 59 && success r= yes", "!(auid r!= 1 || uid r!= 1)", "!auid r= 1000 && uid r= 0"),
    *('(key r= "") || (key r!= "")', '!((key r= "") || (key r!= ""))', "auid == 1000 && !\\record_type == SYSCALL"),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[-40:])
def test_the_same_events(path: Path, large: Callable[[Path], Path]) -> None:
    path = large(path)
    found = events(path)
    explained = compare(path, found, EXPRESSIONS)
    assert explained <= differences(PAGE.read_text()).keys()


@pytest.fixture
def large(tmp_path: Path) -> Callable[[Path], Path]:
    """A file, or if it is long its first megabyte."""

    def shortened(path: Path) -> Path:
        if path.stat().st_size <= 1 << 20:
            return path
        copy = tmp_path / path.name
        with path.open("rb") as opened:
            copy.write_bytes(opened.read(1 << 20).rpartition(b"\n")[0] + b"\n")
        return copy

    return shortened


def compare(path: Path, found: list[Event], expressions: list[str]) -> set[str]:
    """Asserts that both find the same, or say why not; the reasons that were needed."""
    lines: dict[Stamp, bytes] = {}
    for event in found:
        if not event.flags & NO_STAMP:
            lines[stamp(event)] = lines.get(stamp(event), b"") + event.raw
    needed: set[str] = set()
    for expression, answer in zip(expressions, theirs(path, expressions), strict=True):
        assert not isinstance(answer, str), f"{expression}: {answer}"
        for at in answer ^ ours(found, compile_filter(expression, Host())):
            raw = lines.get(at)
            reasons = {NO_RECORD} if raw is None else {name for name, why in REASONS.items() if re.search(why, raw)}
            assert reasons, f"{expression}: {at}, of {raw!r}"
            needed |= reasons
    return needed


def test_every_difference_is_real() -> None:
    """Each row of the page has an event, or an expression below, that shows it."""
    nasty = ROOT / "tests" / "corpus" / "nasty-events.log"
    seen = compare(nasty, events(nasty), EXPRESSIONS)
    rows = differences(PAGE.read_text())
    assert rows.keys() == seen | {row for row, _, _, _ in TAKEN_DIFFERENTLY}


TAKEN_DIFFERENTLY: Final = [
    # Row of the page, expression, whether libauparse takes it, whether we do.
    ("a name as an id's value", "auid == root", True, False),
    ("a name as an id's value", "auid == unset", True, True),
    ("numbers out of range", "auid == 4294967296", True, False),
    ("numbers out of range", "\\record_type == 70000", True, False),
    ("numbers out of range", "\\timestamp == ts:1.1000", True, False),
    ("a serial where none belongs, or none where one does", "\\timestamp == ts:1.0:3", True, False),
    ("a serial where none belongs, or none where one does", "\\timestamp_ex == ts:1.0", True, False),
    ("stamps in quotes", '\\timestamp == "ts:1.0"', False, True),
    ("text of virtual fields", "\\record_type r= SYSCALL", True, False),
    ("text of virtual fields", "\\timestamp i= x", True, False),
    ("digits with something behind them", "\\record_type == 1302x", True, False),
    ("digits with something behind them", "auid == 1000x", True, False),
    ("patterns", "\\regexp /\\\\bcat/", True, False),
    ("patterns", "\\regexp /(a)\\\\1/", True, False),
    ("patterns", "\\regexp /a^b/", True, False),
    ("patterns", "\\regexp /[[=a=]]/", True, False),
    ("patterns", "\\regexp /a{2}{3}/", True, False),
    ("lengths", "(" * 100 + "auid r= 1" + ")" * 100, True, False),
    ("lengths", 'a r= "' + "x" * 5000 + '"', True, False),
]


@pytest.mark.parametrize(("row", "expression", "they", "we"), TAKEN_DIFFERENTLY, ids=lambda value: str(value)[:40])
def test_taken_differently(row: str, expression: str, they: bool, we: bool) -> None:
    (answer,) = theirs(ROOT / "tests" / "corpus" / "mixed.log", [expression])
    assert isinstance(answer, str) is not they, answer
    assert _taken(expression) is we


def _taken(expression: str) -> bool:
    try:
        compile_filter(expression)
    except ParseError:
        return False
    return True


REFUSED: Final = [
    *("", " ", "(", ")", "()", "auid", "auid r=", "auid = 1", "auid=1000", "auidr=1000", "auid != 3", "auid r = x"),
    *("auid r= 1 pid r= 1", "auid r= 1 )", "(auid r= 1", "auid r= 1 &", "auid r= 1 && ", "|| auid r= 1", "!"),
    *('auid r= "a', "\\regexp /a", '\\regexp "a', "\\regexp", "\\regexp == x", "\\regexp /a(/", "\\regexp /a[/"),
    *('auid r= "a\\nb"', "\\regexp /a\\.b/", "auid r= /x/", "auid r= a.b", "auid r= a/b", "a.b r= c", "a\rr= b"),
    *("pid == 10", "ses == 3", "item == 0", "syscall == 59", "loginuid == 0", "old_auid == 1", "comm < x", "é r= x"),
    *("\\foo == 1", "\\record_type == FOO", "\\record_type == -1", "\\timestamp == 5", "\\timestamp == ts:1"),
    *(
        "\\timestamp == ts:.1",
        "\\timestamp == ts:1.",
        "\\timestamp == ts:+1.0",
        "\\ == 1",
        "a r= b, c r= d",
        "a r= (b)",
    ),
]
"""What neither takes."""


def test_refused_by_both() -> None:
    answers = theirs(ROOT / "tests" / "corpus" / "mixed.log", REFUSED)
    assert [text for text, answer in zip(REFUSED, answers, strict=True) if not isinstance(answer, str)] == []
    assert [text for text in REFUSED if _taken(text)] == []


# ---- generated ----


def _vocabulary(path: Path) -> list[tuple[str, str]]:
    """Fields of a file's records with values that they have."""
    found = {
        (name, value)
        for event in events(path)
        for record in event.records
        for values in (record.fields, record.inner)
        for name, value in values.items()
        if value.isprintable() and len(value) < 60
    }
    return sorted(found)


def _comparisons(vocabulary: list[tuple[str, str]]) -> st.SearchStrategy[str]:
    ids = [name for name, type_ in FIELD_TYPES.items() if type_ in (FieldType.UID, FieldType.GID)]
    texts = st.tuples(
        st.sampled_from(vocabulary),
        st.sampled_from([each for each in OPERATORS if each not in VALUE_OPERATORS]),
        st.booleans(),
    ).map(lambda drawn: _text(*drawn))
    numbers = st.builds(
        "{} {} {}".format,
        st.sampled_from(ids).map(quoted),
        st.sampled_from(sorted(VALUE_OPERATORS)),
        st.sampled_from([0, 1, 33, 100, 999, 1000, 1001, 65534, 4294967294, 4294967295]),
    )
    types = st.builds(
        "\\record_type {} {}".format,
        st.sampled_from(sorted(VALUE_OPERATORS)),
        st.sampled_from(["SYSCALL", "EXECVE", "PATH", "CWD", "USER_CMD", "LOGIN", "1300", "1400", "1112"]),
    )
    return st.one_of(texts, numbers, types)


def _text(drawn: tuple[str, str], operator: str, quotes: bool) -> str:
    field, value = drawn
    if not quotes:
        value = value.strip('"')
    return f"{quoted(field)} {operator} {quoted(value)}"


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("!{}".format, parts.map("({})".format)),
        st.builds("{} && {}".format, parts, parts),
        st.builds("{} || {}".format, parts, parts),
        st.builds("({}) && ({})".format, parts, parts),
    )


@pytest.fixture(scope="module", params=["mixed.log", "nasty-events.log"])
def drawn_from(request: pytest.FixtureRequest) -> tuple[Path, list[Event], st.SearchStrategy[list[str]]]:
    path = ROOT / "tests" / "corpus" / str(request.param)
    expressions = st.recursive(_comparisons(_vocabulary(path)), _joined, max_leaves=5)
    return path, events(path), st.lists(expressions, min_size=40, max_size=60)


def test_generated(drawn_from: tuple[Path, list[Event], st.SearchStrategy[list[str]]]) -> None:
    path, found, lists = drawn_from

    @seed(20251015)
    @settings(max_examples=12, deadline=None, database=None, phases=[Phase.generate])
    @given(lists)
    def agree(expressions: list[str]) -> None:
        compare(path, found, expressions)

    agree()
