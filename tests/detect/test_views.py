"""The pitfalls of audit records, one by one: what a rule sees, with and without the prefilter."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.detect.form import RuleSet
from audisp.detect.views import EventViews, absolute, words_of
from audisp.event import as_batch
from audisp.parse.assemble import Assembler
from audisp.parse.record import Record, RecordReader
from audisp.record import Block
from tests.detect.replaying import detect, findings, fired, rule, rules_of

S = "msg=audit(1700000000.000:1):"
CALL = (
    "arch=c000003e syscall={nr} success=yes exit=0 a0=26 a1=7f2 a2=7f3 a3=8 items=2 ppid={ppid} pid={pid} auid=1000 "
    'uid={uid} gid=0 euid=33 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts1 ses=7 comm="x" exe={exe} key={key}'
)
PROCESS, FILE, NETWORK = (f"category: {name}" for name in ("process_creation", "file_event", "network_connection"))


def call(
    nr: int = 59, *, exe: str = '"/usr/bin/x"', key: str = "(null)", ppid: int = 1, pid: int = 2, uid: int = 0
) -> str:
    return "type=SYSCALL " + S + " " + CALL.format(nr=nr, exe=exe, key=key, ppid=ppid, pid=pid, uid=uid) + "\n"


def record(type_: str, body: str) -> str:
    return f"type={type_} {S} {body}\n"


@functools.cache
def _tables() -> dict[tuple[str, str], RuleSet]:
    """The rules of the tables, translated by one process."""
    wanted = list(
        dict.fromkeys([("service: auditd", row[0]) for row in RECORDS] + [(row[0], row[1]) for row in EVENTS])
    )
    texts = [rule(detection, name=f"r{at}", source=source) for at, (source, detection) in enumerate(wanted)]
    rules = rules_of(*texts)
    assert not rules.refused, rules.refused
    return {key: RuleSet((made,)) for key, made in zip(wanted, rules.rules, strict=True)}


def one(detection: str, source: str = "service: auditd") -> RuleSet:
    found = _tables().get((source, detection))
    return found or rules_of(rule(detection, source=source))


REVERSED = "".join(f"{byte:02X}" for byte in b"bash -i")


RECORDS: Final = [
    # Registers are hexadecimal text, arguments are text; neither becomes the other.
    ("s:\n  type: SYSCALL\n  a0: 26\ncondition: s", call(), True),
    ("s:\n  type: SYSCALL\n  a0: 38\ncondition: s", call(), False),
    ("s:\n  type: EXECVE\n  a0: 26\ncondition: s", call() + record("EXECVE", 'argc=1 a0="x"'), False),
    ("s:\n  type: EXECVE\n  a1: 777\ncondition: s", record("EXECVE", 'argc=2 a0="chmod" a1="777"'), True),
    ("s:\n  type: SYSCALL\n  a0|startswith: '&'\ncondition: s", call(), False),
    # What the kernel encoded is decoded; digits in quotes are digits.
    ("s:\n  a0: bash -i\ncondition: s", record("EXECVE", f"argc=1 a0={REVERSED}"), True),
    ("s:\n  a0: bash -i\ncondition: s", record("EXECVE", f'argc=1 a0="{REVERSED}"'), False),
    ("s:\n  key: a b\ncondition: s", call(key="612062"), True),
    # Several keys are joined by 0x01.
    ("s:\n  key: two\ncondition: s", call(key="6F6E650174776F"), True),
    ("s:\n  key: onetwo\ncondition: s", call(key="6F6E650174776F"), False),
    # Keywords over the joined command line, spanning arguments.
    (
        "e:\n  type: EXECVE\nk:\n  - '--to-ports 42'\ncondition: e and k",
        record("EXECVE", 'argc=3 a0="iptables" a1="--to-ports" a2="42"'),
        True,
    ),
    (
        "e:\n  type: EXECVE\nk:\n  - '--TO-ports 42'\ncondition: e and k",
        record("EXECVE", 'argc=2 a0="iptables" a1=2D2D746F2D706F727473203432'),
        True,
    ),
    # Arguments that the kernel split, over records and over pieces.
    (
        "s:\n  a0: grep\n  a2: password\ncondition: s",
        record("EXECVE", 'argc=3 a0="grep" a1="-r"') + record("EXECVE", 'a2="password"'),
        True,
    ),
    (
        "s:\n  a1|contains: password\ncondition: s",
        record("EXECVE", 'argc=2 a0="x" a1_len=8 a1[0]="pass"') + record("EXECVE", 'a1[1]="word"'),
        True,
    ),
    (
        "s:\n  a1|contains: pass word\ncondition: s",
        record("EXECVE", 'argc=2 a0="x" a1_len=18 a1[0]=7061737320') + record("EXECVE", "a1[1]=776F7264"),
        True,
    ),
    # Capital letters do not count in values, and do in names.
    ("s:\n  type: execve\n  A0: ls\ncondition: s", record("EXECVE", 'argc=1 a0="LS"'), False),
    ("s:\n  type: execve\n  a0: ls\ncondition: s", record("EXECVE", 'argc=1 a0="LS"'), True),
    ("s:\n  EUID: root\ncondition: s", call().replace("\n", '\x1dEUID="root"\n'), True),
    ("s:\n  euid: root\ncondition: s", call().replace("\n", '\x1dEUID="root"\n'), False),
    ("s:\n  euid: 33\ncondition: s", call(), True),
    # Names of system calls by machine, also where nobody enriched.
    ("s:\n  SYSCALL: execve\ncondition: s", call(59), True),
    ("s:\n  SYSCALL: execve\ncondition: s", call(59).replace("c000003e", "c00000b7"), False),
    ("s:\n  SYSCALL: execve\ncondition: s", call(221).replace("c000003e", "c00000b7"), True),
    ("s:\n  SYSCALL: execve\ncondition: s", call(11).replace("c000003e", "40000003"), True),
    # Without a type: any record.
    ("s:\n  key: susp\ncondition: s", call(key='"susp"'), True),
    (
        "s:\n  a3|startswith: --cpu\ncondition: s",
        record("EXECVE", 'argc=4 a0="x" a1="y" a2="z" a3="--cpu=1"'),
        True,
    ),
    # User-space messages: what is inside msg='...'.
    (
        "s:\n  type: SERVICE_STOP\n  unit: ufw\ncondition: s",
        record("SERVICE_STOP", "pid=1 uid=0 auid=1 ses=1 msg='unit=ufw comm=\"systemd\" res=success'"),
        True,
    ),
    # A relative path, with the folder it is in, and detours.
    (
        "s:\n  type: PATH\n  name: /etc/ld.so.preload\ncondition: s",
        record("CWD", 'cwd="/etc"') + record("PATH", 'item=0 name="ld.so.preload" nametype=CREATE'),
        True,
    ),
    (
        "s:\n  type: PATH\n  name: /etc/ld.so.preload\ncondition: s",
        record("CWD", 'cwd="/tmp"') + record("PATH", 'item=0 name="../etc/./ld.so.preload" nametype=CREATE'),
        True,
    ),
    (
        "s:\n  type: PATH\n  name: /etc/ld.so.preload\ncondition: s",
        record("CWD", 'cwd="/"') + record("PATH", 'item=0 name="/etc//x/../ld.so.preload" nametype=CREATE'),
        True,
    ),
    (
        "s:\n  type: PATH\n  name|startswith: /etc/audit/\ncondition: s",
        record("CWD", 'cwd="/etc/audit"') + record("PATH", 'item=0 name="rules" nametype=CREATE'),
        True,
    ),
    (
        "s:\n  type: PATH\n  name|startswith: /etc/audit/\ncondition: s",
        record("CWD", "cwd=2F6574632F6175646974") + record("PATH", "item=0 name=612062 nametype=CREATE"),
        True,
    ),
    (
        "s:\n  type: PATH\n  name|contains: /.\ncondition: s",
        record("CWD", 'cwd="/srv"') + record("PATH", 'item=0 name=".x" nametype=NORMAL'),
        True,
    ),
    # Absent, and present.
    ("s:\n  type: SYSCALL\n  key: null\ncondition: s", call(), True),
    ("s:\n  type: SYSCALL\n  key|exists: true\ncondition: s", call(), False),
    ("s:\n  type: SYSCALL\n  ppid|gte: 7\ncondition: s", call(ppid=10), True),
    ("s:\n  type: SYSCALL\n  ppid|lt: 7\ncondition: s", call(ppid=10), False),
    ("s:\n  a0|base64offset|contains: secret\ncondition: s", record("EXECVE", 'argc=1 a0="x=c2VjcmV0"'), True),
    ("s:\n  a0|windash: -x\ncondition: s", record("EXECVE", 'argc=1 a0="/x"'), True),
    ("s:\n  a0: 'a*c?e'\ncondition: s", record("EXECVE", 'argc=1 a0="abbcde"'), True),
    ("s:\n  a0: 'c?e'\ncondition: s", record("EXECVE", "argc=1 a0=63C3BC65"), True),
    ("s:\n  a0|re: '^c.e$'\ncondition: s", record("EXECVE", "argc=1 a0=63FF65"), True),
    ("s:\n  a0|re|i: '^KILL'\ncondition: s", record("EXECVE", 'argc=1 a0="killall"'), True),
    ("s:\n  a0|re: '^KILL'\ncondition: s", record("EXECVE", 'argc=1 a0="killall"'), False),
]


@pytest.mark.parametrize(("detection", "lines", "fires"), RECORDS)
def test_records(detection: str, lines: str, fires: bool) -> None:
    assert bool(fired(one(detection), lines)) is fires


EXEC = call(exe='"/tmp/run"', uid=0) + record("EXECVE", 'argc=2 a0="sh" a1="x.sh"') + record("CWD", 'cwd="/srv"')
CONNECT = call(42, exe='"/bin/nc"')


EVENTS: Final = [
    (PROCESS, "s:\n  Image: /tmp/run\n  CommandLine: sh x.sh\n  CurrentDirectory: /srv\ncondition: s", EXEC, True),
    (PROCESS, "s:\n  User: root\n  ProcessId: 2\n  ParentProcessId: 1\ncondition: s", EXEC, True),
    (PROCESS, "s:\n  Image: /tmp/run\ncondition: s", call(exe='"/tmp/run"'), True),
    (PROCESS, "s:\n  Image: /tmp/run\ncondition: s", call(exe='"/tmp/run"').replace("=yes", "=no"), False),
    (PROCESS, "s:\n  Image: /tmp/run\ncondition: s", call(257, exe='"/tmp/run"'), False),
    (
        PROCESS,
        "s:\n  Image|endswith: 'a b'\ncondition: s",
        call(exe="2F612062") + record("EXECVE", 'argc=1 a0="x"'),
        True,
    ),
    (
        FILE,
        "s:\n  TargetFilename: /etc/cron.d/x\ncondition: s",
        call(257) + record("CWD", 'cwd="/etc"') + record("PATH", 'item=0 name="cron.d/x" nametype=CREATE'),
        True,
    ),
    (
        FILE,
        "s:\n  TargetFilename: /etc/cron.d/x\ncondition: s",
        call(257) + record("CWD", 'cwd="/etc"') + record("PATH", 'item=0 name="cron.d/x" nametype=NORMAL'),
        False,
    ),
    (
        NETWORK,
        "s:\n  DestinationPort: 4444\n  DestinationIp: 192.0.2.1\n  Initiated: 'true'\ncondition: s",
        CONNECT + record("SOCKADDR", "saddr=0200115CC0000201"),
        False,
    ),
    (
        NETWORK,
        "s:\n  DestinationPort: 4444\n  DestinationIp: 192.0.2.1\n  Initiated: 'true'\ncondition: s",
        CONNECT + record("SOCKADDR", "saddr=0200115CC00002010000000000000000"),
        True,
    ),
    (
        NETWORK,
        "s:\n  DestinationIp|cidr: 192.0.2.0/24\ncondition: s",
        CONNECT + record("SOCKADDR", "saddr=0A0001BB0000000000000000000000000000FFFFC000020100000000"),
        True,
    ),
    (
        NETWORK,
        "s:\n  DestinationIp|cidr: 10.0.0.0/8\ncondition: not s",
        CONNECT + record("SOCKADDR", "saddr=01002F72756E2F780000"),
        False,
    ),
    (
        NETWORK,
        "s:\n  DestinationPort: 443\ncondition: s",
        call(49) + record("SOCKADDR", "saddr=020001BBC00002010000000000000000"),
        False,
    ),
]


@pytest.mark.parametrize(("source", "detection", "lines", "fires"), EVENTS)
def test_events(source: str, detection: str, lines: str, fires: bool) -> None:
    assert bool(fired(one(detection, source), lines)) is fires


def test_a_parent_is_who_started_its_number_before() -> None:
    rules = one(
        "s:\n  ParentImage|endswith: /nginx\n  ParentCommandLine|contains: -g x\n  Image|endswith: /sh\ncondition: s",
        PROCESS,
    )
    parent = call(exe='"/usr/sbin/nginx"', pid=50) + record("EXECVE", 'argc=3 a0="nginx" a1="-g" a2="x"')
    child = (call(exe='"/bin/sh"', ppid=50, pid=51) + record("EXECVE", 'argc=1 a0="sh"')).replace(":1)", ":2)")
    assert fired(rules, parent + child) == ["r"]
    assert fired(rules, child + parent) == []
    late = child.replace("1700000000.", "1700200000.")
    assert fired(rules, parent + late) == []
    # The numbers have come round to it.
    others = "".join(
        (call(exe='"/bin/x"', pid=pid) + record("EXECVE", 'argc=1 a0="x"')).replace(":1)", f":{serial})")
        for serial, pid in ((3, 30_000), (4, 40), (5, 2_000))
    )
    assert fired(rules, parent + others + child) == []


def test_a_view_of_an_event_without_its_records() -> None:
    assert fired(one("s:\n  Image: x\ncondition: not s", PROCESS), record("EXECVE", 'argc=1 a0="x"')) == ["r"]
    assert fired(one("s:\n  type: SYSCALL\ncondition: s"), "no record at all\n") == []


@pytest.mark.parametrize(
    ("name", "folder", "path"),
    [
        (b"a", b"/b", b"/b/a"),
        (b"a", b"/", b"/a"),
        (b"a", None, b"a"),
        (b"a", b"pipe:[1]", b"a"),
        (b"/a/", b"/b", b"/a/"),
        (b"../../../a", b"/b", b"/a"),
        (b"//a/./b/../c/", b"/x", b"/a/c/"),
        (b".", b"/b", b"/b"),
        (b"/", b"/b", b"/"),
    ],
)
def test_absolute(name: bytes, folder: bytes | None, path: bytes) -> None:
    assert absolute(name, folder) == path


def test_arguments_keep_their_numbers_and_cost_only_what_is_there() -> None:
    assert words_of([Record("EXECVE", 'argc=9 a7="x" a9999999="y" a12345678="z" ab="c"')]) == {7: b"x", 9999999: b"y"}


_values = st.sampled_from(
    [
        '"a"',
        '"/tmp/x"',
        "2F746D702F78",
        "(null)",
        "?",
        '"',
        '"open',
        "6",
        "62617368202D69",
        '"bash"',
        "a=b",
        "{ x }",
        "'",
        "",
    ]
) | st.text(st.characters(codec="latin-1", exclude_characters="\n\0"), max_size=12)
_names = st.sampled_from(
    [
        "a0",
        "a1",
        "a1[0]",
        "a1[1]",
        "argc",
        "exe",
        "comm",
        "name",
        "cwd",
        "key",
        "nametype",
        "syscall",
        "arch",
        "success",
        "ppid",
        "pid",
        "saddr",
        "(exe",
        "msg",
        "x",
    ]
)
_lines = st.lists(
    st.tuples(
        st.sampled_from(["SYSCALL", "EXECVE", "PATH", "CWD", "SOCKADDR", "USER_CMD", "execve", "UNKNOWN[1]"]),
        st.lists(st.tuples(_names, _values), max_size=6),
    ),
    max_size=5,
)
HOSTILE = (
    rule("s:\n  a0: bash -i\ncondition: s", name="argument"),
    rule("s:\n  a1|endswith: ash\ncondition: s", name="end"),
    rule("s:\n  type: PATH\n  name|startswith: /tmp/\ncondition: s", name="path"),
    rule("k:\n  - bash\n  - tmp\ncondition: k", name="keyword"),
    rule("s:\n  key: bash\ncondition: s", name="key"),
    rule("s:\n  exe|endswith: /x\ncondition: s", name="exe"),
    rule("s:\n  SYSCALL: execve\ncondition: s", name="call"),
    rule("s:\n  Image|endswith: x\ncondition: s", name="image", source=PROCESS),
    rule("s:\n  CommandLine|startswith: bash -i\ncondition: s", name="line", source=PROCESS),
    rule("s:\n  TargetFilename|contains: mp/x\n  Image|contains: a\ncondition: s", name="file", source=FILE),
)


@settings(max_examples=150, deadline=None)
@given(_lines)
def test_whatever_the_records_hold_the_prefilter_changes_nothing(
    lines: list[tuple[str, list[tuple[str, str]]]],
) -> None:
    text = "".join(
        f"type={type_} {S} " + " ".join(f"{name}={value}" for name, value in fields) + "\n" for type_, fields in lines
    )
    fired(_hostile(), text.encode("latin-1"))


_KEPT: list[RuleSet] = []


def _hostile() -> RuleSet:
    if not _KEPT:
        _KEPT.append(rules_of(*HOSTILE))
        assert not _KEPT[0].refused
    return _KEPT[0]


def test_views_are_made_of_what_is_asked_for() -> None:
    data = EXEC.encode()
    assembler = Assembler("t", RecordReader(), recorded=True)
    assembler.feed(Block(data, 3, "t", 0.0), 0.0)
    batch = assembler.flush(0.0)
    assert batch is not None
    views = EventViews(as_batch(batch, assembler.reader).events[0])
    assert set(views.lines) == {"syscall", "execve", "cwd"}
    assert [view.get("CommandLine") for view in views.process] == [b"sh x.sh"]
    assert views.process[0].get("ParentImage") is None
    assert views.process[0].text() == b"sh x.sh"
    assert not views.files
    assert not views.connections


def test_a_file_and_a_batch_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(EXEC)
    rules = one("s:\n  Image: /tmp/run\ncondition: s", PROCESS)
    assert [e.event.stamp for e in findings(rules, path)] == [e.event.stamp for e in detect(rules, EXEC)]
