"""csv: rows that a reader of RFC 4180 takes apart again, cells that no spreadsheet runs, and two ways to one row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.event import Event
from audisp.shapes import normal_calls
from audisp.shapes.csv_columns import COLUMNS, HEADER, LONGEST_CELL, Csv, cell
from audisp.shapes.normal import compounds, rows
from audisp.shapes.registry import make_shape
from audisp.shapes.shape import ShapeSettings
from tests.shapes import calls, documents

CALL = (
    "arch=c000003e syscall={call} success={success} a0=1 a1=2 a2=3 a3=4 items=1 ppid=11 pid=12 auid=1000 uid=0 gid=0 "
    'euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 comm="cat" exe="/usr/bin/cat" key="k"'
)
OPEN = ("SYSCALL", CALL.format(call=257, success="yes exit=3"))
CWD = ("CWD", 'cwd="/srv"')
FILE = ("PATH", 'item=0 name="a" inode=7 dev=fe:00 mode=0100600 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL')
TITLE = ("PROCTITLE", "proctitle=636174")


@attrs.frozen
class People:
    """Names of accounts that can change."""

    names: dict[int, str] = attrs.field(factory=lambda: {1000: "alice"})

    def user(self, uid: int) -> str | None:
        return self.names.get(uid)

    def group(self, gid: int) -> str | None:
        return None


def shape(names: People | None = None) -> Csv:
    return Csv(ShapeSettings(names=names or People()))


def row(line: bytes) -> dict[str, str]:
    (cells,) = csv.reader(io.StringIO(line.decode(), newline=""), strict=True)
    return dict(zip(COLUMNS, cells, strict=True))


def test_header() -> None:
    made = make_shape("csv", ShapeSettings())
    assert isinstance(made, Csv)
    assert made.header == HEADER == (",".join(COLUMNS) + "\n").encode()


BY_ALICE = "SYSCALL,{},audit-rule,3,alice,root,privileged-acct"
INET = ("SOCKADDR", "saddr=02000050C00002010000000000000000")
PAM = 'pid=9 uid=0 auid=1000 ses=3 msg=\'op=PAM:x acct="bob" exe="/bin/su" hostname=? addr=? terminal=? res=failed\''


def call(number: int, success: str = "yes exit=0") -> tuple[str, str]:
    return "SYSCALL", CALL.format(call=number, success=success)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([OPEN, CWD, FILE, TITLE], f"{BY_ALICE},opened-file,success,/srv/a,7,file,/usr/bin/cat"),
        ([call(87, "no exit=-2"), CWD, FILE], f"{BY_ALICE},deleted,failed,/srv/a,7,file,/usr/bin/cat"),
        (
            [call(42), INET],
            f"{BY_ALICE},connected-to,success,{{{{ saddr_fam=inet laddr=192.0.2.1 lport=80 }}}},,socket,/usr/bin/cat",
        ),
        ([call(105)], f"{BY_ALICE},changed-identity-of,success,/usr/bin/cat,,process,setuid"),
        (
            [call(62), ("OBJ_PID", 'opid=55 oauid=0 ouid=0 oses=1 ocomm="x"')],
            f"{BY_ALICE},killed-pid,success,55,x,process,/usr/bin/cat",
        ),
        (
            [("USER_AUTH", PAM)],
            "USER_AUTH,{},user-login,3,alice,root,privileged-acct,authenticated,failed,bob,,user-session,/bin/su",
        ),
        (
            [("LOGIN", "pid=9 uid=0 old-auid=4294967295 auid=1000 tty=(none) old-ses=4294967295 ses=3 res=1"), OPEN],
            "LOGIN,{},user-login,3,system,root,privileged-acct,"
            "changed-login-id-to,success,alice,,user-session,/usr/bin/cat",
        ),
        ([("UNKNOWN[1334]", "prog-id=42 op=LOAD")], "BPF,{},bpf-program,,,,system,loaded-bpf-program,,42,,process,"),
    ],
)
def test_rows(records: list[tuple[str, str]], expected: str) -> None:
    line = shape().render(calls.event(records))
    assert line.decode() == "," + expected.format("11/14/23,22:13:20,7") + "\n"


def test_the_node_is_in_the_first_cell() -> None:
    made = shape()
    for node in ("web1", "web2", ""):
        line = made.render(calls.event([OPEN, CWD, FILE, TITLE], f"node={node} " if node else ""))
        assert row(line)["NODE"] == node


def test_what_has_no_row() -> None:
    assert shape().render(calls.event([("EOE", "")])) == b""
    assert shape().render(calls.STRAY) == b""


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-rf", "'-rf"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\\x09=1"),
        ("\r=1", "'\\x0d=1"),
        ("'=1", "''=1"),
        ("a=b", "a=b"),
        ('=HYPERLINK("x","y")', '"\'=HYPERLINK(""x"",""y"")"'),
        ("a,b", '"a,b"'),
        ('say "hi"', '"say ""hi"""'),
        ("two\nlines", "two\\x0alines"),
        ("\x1b[2J\x9b\x7f", "\\x1b[2J\\u009b\\x7f"),
        ("\u202eevil\u200b", "\\u202eevil\\u200b"),
        ("\udcff", "\\xff"),
        ("naïve", "naïve"),
        ("x" * LONGEST_CELL, "x" * LONGEST_CELL),
        ("x" * (LONGEST_CELL + 1), "x" * (LONGEST_CELL - 1) + "…"),
    ],
)
def test_cells(text: str, written: str) -> None:
    assert cell(text) == written


UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]")


@given(records=documents.records, node=st.sampled_from(["", "node=web1 ", "node=a,b ", "node==1 "]))
@settings(max_examples=300)
def test_whatever_is_in_an_event(records: list[tuple[str, str]], node: str) -> None:
    made = shape()
    for event in documents.made(records, node=node):
        line = made.render(event)
        if not line:
            assert {record.type for record in event.records} == {"EOE"} or not event.stamp
            continue
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert not UNSAFE.search(line.decode())
        for value in row(line).values():
            assert value[:1] not in ("=", "+", "-", "@")


@given(records=calls.plain, node=st.sampled_from(["", "node=web1 "]))
@settings(max_examples=500)
def test_both_ways_give_the_same(records: list[tuple[str, str]], node: str) -> None:
    event = calls.event(records, node)
    made = shape()
    lines = [made.render(each) for each in (event, event, calls.the_long_way(event))]
    assert len(set(lines)) == 1


@pytest.mark.parametrize("events", [documents.hard])
def test_both_ways_give_the_same_of_hard_events(events: Callable[[], list[Event]]) -> None:
    made = shape()
    taken = 0
    for event in events():
        if event.raw.startswith((b"type=SYSCALL", b"node=")) and event.stamp and event.first("SYSCALL"):
            taken += 1
            assert made.render(event) == made.render(calls.the_long_way(event))
    assert taken > 20


def test_what_is_left_out_of_the_keys_is_in_no_cell() -> None:
    for row_ in rows().values():
        named = {*row_.object, *row_.object2, *row_.subject, *row_.acting, row_.subject_kind, row_.how}
        assert not named & {"pid", "ppid", "a0", "a1", "a2", "a3", "items"}
    assert not [type_ for type_ in compounds() if type_[:5].encode() in normal_calls.IGNORED]


def test_names_are_asked_for_anew() -> None:
    people = People()
    made = shape(people)
    event = calls.event([OPEN, CWD, FILE, TITLE])
    assert row(made.render(event))["SUBJ_PRIME"] == "alice"
    people.names[1000] = "alina"
    made.render(calls.event([("USER_MGMT", "pid=1 uid=0 auid=0 ses=1 msg='op=rename id=1000 res=success'")]))
    assert row(made.render(event))["SUBJ_PRIME"] == "alina"
    people.names[1000] = "alma"
    event.arrived = normal_calls.STALE + 1
    assert row(made.render(event))["SUBJ_PRIME"] == "alma"


def test_memories_are_bounded() -> None:
    made = shape()
    most = 0
    for number in range(12_000):
        body = FILE[1].replace("inode=7", f"inode={number}")
        made.render(calls.event([OPEN, CWD, ("PATH", body), TITLE]))
        most = max(most, made._calls._paths.size)
    assert normal_calls.BYTES / 2 < most <= normal_calls.BYTES
    assert len(made._calls._paths) < 12_000
    long = FILE[1].replace('"a"', "41" * normal_calls.LONGEST)
    before = len(made._calls._paths)
    assert b"AAAA" in made.render(calls.event([OPEN, CWD, ("PATH", long), TITLE]))
    assert len(made._calls._paths) == before
