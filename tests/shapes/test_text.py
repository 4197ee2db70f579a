"""text: sentences that say what happened, and in which nothing that the audited wrote can pass for a part of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audisp.parse.form import terminal_safe
from audisp.shapes import normal_calls
from audisp.shapes.normal import rows, rules
from audisp.shapes.registry import make_shape
from audisp.shapes.shape import ShapeSettings
from audisp.shapes.text import LONGEST_COMMAND, PAIRS, Text, command_line, plain_arguments
from audisp.shapes.text_words import LONGEST_WORD, VERBS, word
from tests.shapes import calls, documents
from tests.shapes.test_csv import CWD, FILE, INET, OPEN, PAM, TITLE, People, call

WHEN = "At 22:13:20.123 on 2023-11-14 UTC, "
ALICE = "alice, acting as root,"
SENT = "pid=9 uid=0 auid=1000 ses=3"
HOW = "using /usr/bin/cat, key k, event 7"
EXEC = ("EXECVE", 'argc=3 a0="ls" a1="-la" a2=6D7920646972')
AVC = (
    "AVC",
    'avc:  denied  { read write } for  pid=1 comm="c" name="n" scontext=u:r:s:s0 tcontext=u:r:t:s0 tclass=file',
)


def shape(names: People | None = None) -> Text:
    return Text(ShapeSettings(names=names or People()))


def test_is_in_the_registry() -> None:
    assert isinstance(make_shape("text", ShapeSettings()), Text)


def path(item: int, name: str, type_: str) -> tuple[str, str]:
    return "PATH", FILE[1].replace('name="a"', f'name="{name}"').replace("NORMAL", type_).replace("=0 ", f"={item} ", 1)


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([OPEN, CWD, FILE, TITLE], f"{ALICE} successfully opened /srv/a {HOW}"),
        ([call(257, "no exit=-13"), CWD, FILE], f"{ALICE} failed to open /srv/a (EACCES: Permission denied) {HOW}"),
        ([call(257, "no exit=-2")], f"{ALICE} failed to open a file (ENOENT: No such file or directory) {HOW}"),
        ([call(59), EXEC, CWD, FILE], f'{ALICE} successfully executed /srv/a (ls -la "my dir") {HOW}'),
        (
            [call(59), EXEC, CWD, path(0, "/usr/bin/cat", "NORMAL")],
            f'{ALICE} successfully executed /usr/bin/cat (ls -la "my dir"), key k, event 7',
        ),
        ([call(42), INET, TITLE], f"{ALICE} successfully connected to 192.0.2.1 port 80 {HOW}"),
        (
            [call(42), ("SOCKADDR", "saddr=01002F72756E2F7800FFFF")],
            f"{ALICE} successfully connected to /run/x {HOW}",
        ),
        ([call(43)], f"{ALICE} successfully accepted a connection from a socket {HOW}"),
        (
            [call(82), CWD, *2 * [path(0, "/", "PARENT")], path(2, "a", "DELETE"), path(3, "b", "CREATE")],
            f"{ALICE} successfully renamed /srv/a to /srv/b {HOW}",
        ),
        (
            [call(105)],
            f"{ALICE} successfully changed the identity of /usr/bin/cat using setuid, key k, event 7",
        ),
        ([call(101, "no exit=-1")], f"{ALICE} failed to call ptrace (EPERM: Operation not permitted) {HOW}"),
        ([call(9999)], f"{ALICE} successfully called the system call 9999 {HOW}"),
        (
            [call(62), ("OBJ_PID", 'opid=55 oauid=0 ouid=0 oses=1 ocomm="x"')],
            f"{ALICE} successfully sent a signal to process 55 (x) {HOW}",
        ),
        ([AVC, OPEN, CWD, FILE], f'{ALICE} was denied "read,write" on /srv/a {HOW}'),
        ([AVC], 'u:r:s:s0 was denied "read,write" on u:r:t:s0 using c, event 7'),
        (
            [("AVC", 'apparmor="DENIED" operation="open" profile="/usr/sbin/cupsd" name="/etc/x" pid=7 comm="cupsd"')],
            "/usr/sbin/cupsd was denied open on /etc/x using cupsd, event 7",
        ),
        ([("USER_AUTH", PAM)], f"{ALICE} failed to authenticate as bob using /bin/su, event 7"),
        (
            [("USER_LOGIN", f"{SENT} msg='op=login id=1000 exe=\"/s\" addr=192.0.2.1 terminal=ssh res=1'")],
            "alice successfully logged in on ssh using /s from 192.0.2.1, event 7",
        ),
        (
            [("ADD_USER", "pid=9 uid=0 auid=4294967295 ses=3 msg='op=add-user id=1001 exe=\"/s\" res=success'")],
            "the system, acting as root, successfully added the account uid 1001 using /s, event 7",
        ),
        (
            [("LOGIN", "pid=9 uid=0 old-auid=4294967295 auid=1000 ses=3 res=1"), OPEN],
            f"the system, acting as root, successfully set the login id to alice {HOW}",
        ),
        (
            [("ANOM_ABEND", 'auid=1000 uid=0 ses=3 pid=4 comm="c" exe="/e" sig=11 res=1')],
            f"{ALICE} successfully crashed /e with SIGSEGV, event 7",
        ),
        (
            [("CONFIG_CHANGE", 'auid=1000 ses=3 op=add_rule key="k" list=4 res=1')],
            "alice successfully added an audit rule with the key k, event 7",
        ),
        ([("BPF", "prog-id=42 op=LOAD")], "the system loaded the BPF program 42, event 7"),
        (
            [("SYSTEM_BOOT", f"{SENT} msg='exe=\"/x\" res=success'")],
            f"{ALICE} successfully booted system using /x, event 7",
        ),
        (
            [("USYS_CONFIG", f"{SENT} msg='op=change-clock exe=\"/x\" res=success'")],
            f"{ALICE} successfully did change-clock to something using /x, event 7",
        ),
        ([("USER", f"{SENT} msg='hello there'")], f'{ALICE} sent a message saying "hello there", event 7'),
        (
            [("INTEGRITY_RULE", 'file="/x" uid=33')],
            'uid 33 left a record of type INTEGRITY_RULE saying "file=\\"/x\\" uid=33", event 7',
        ),
        (
            [("PROCTITLE", "proctitle=61")],
            'somebody left a record of type PROCTITLE saying "proctitle=61", event 7',
        ),
    ],
)  # fmt: skip
def test_sentences(records: list[tuple[str, str]], sentence: str) -> None:
    assert shape().render(calls.event(records)).decode() == f"{WHEN}{sentence}\n"


def test_node_and_milliseconds() -> None:
    line = shape().render(calls.event([OPEN, CWD, FILE], "node=web1 ", "1700000000.007:7"))
    assert line.decode() == f"At 22:13:20.007 on 2023-11-14 UTC, host web1, {ALICE} successfully opened /srv/a {HOW}\n"


def test_names_that_the_event_brings_come_first() -> None:
    record = OPEN[0], OPEN[1] + '\x1dARCH=x86_64 SYSCALL=openat AUID="bob" UID="root"'
    assert b"UTC, bob, acting as root, successfully opened" in shape().render(calls.event([record, CWD, FILE]))


def test_who_has_no_name_has_a_number() -> None:
    line = shape(People({})).render(calls.event([OPEN, CWD, FILE]))
    assert b"UTC, uid 1000, acting as root, " in line


def test_what_has_no_sentence() -> None:
    assert shape().render(calls.event([("EOE", "")])) == b""
    assert shape().render(calls.STRAY) == b""


def test_every_action_of_a_call_has_a_verb() -> None:
    actions = {rule.action for rule in rules().values()}
    assert actions <= VERBS.keys()
    assert actions >= PAIRS
    known = actions | {row.action for row in rows().values()}
    made_here = {"added-audit-rule", "deleted-audit-rule", "killed-list-of-pids", "loaded-bpf-program", "connected-to"}
    assert VERBS.keys() - known - made_here <= {
        "caused-mac-policy-error",
        "entered-promiscuous-mode-on-device",
        "left-promiscuous-mode-on-device",
    }


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("/usr/bin/cat", "/usr/bin/cat"),
        ("two words", '"two words"'),
        ("", '""'),
        ("bob, acting as root,", '"bob, acting as root,"'),
        ('say "x\\"', '"say \\"x\\\\\\""'),
        ("\x1b[2J", '"\\x1b[2J"'),
        ("\x9b\x7f", '"\\u009b\\x7f"'),
        ("a\nAt 0:00", '"a\\x0aAt 0:00"'),
        ("\u202eevil", '"\\u202eevil"'),
        ("\udcff", '"\\xff"'),
        ("ümlaut", '"ümlaut"'),
        ("x" * (LONGEST_WORD + 1), '"' + "x" * (LONGEST_WORD - 1) + '…"'),
    ],
)
def test_words(text: str, written: str) -> None:
    assert word(text) == written


@given(st.text(max_size=40))
def test_a_word_can_be_read_back(text: str) -> None:
    written = word(text)
    if not written.startswith('"'):
        assert written == text
        return
    inside = written[1:-1]
    assert not re.search(r'(?<!\\)(?:\\\\)*"', inside)
    if terminal_safe(text) == text:
        assert re.sub(r'\\(["\\])', r"\1", inside) == text


@given(argv=st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=0x24F), max_size=10), max_size=6))
def test_arguments(argv: list[str]) -> None:
    def encoded(text: str) -> str:
        data = text.encode()
        plain = all(0x21 <= byte <= 0x7E and byte != 0x22 for byte in data)
        return f'"{text}"' if plain else data.hex().upper()

    body = " ".join([f"argc={len(argv)}", *(f"a{at}={encoded(text)}" for at, text in enumerate(argv))])
    assert plain_arguments(body) == argv


@pytest.mark.parametrize("body", ['argc=2 a1="x"', "argc=1 a0=1", "argc=1 a0_len=3 a0[0]=41", 'argc=1 a0="x', ""])
def test_other_arguments_are_left_to_the_exact_way(body: str) -> None:
    assert plain_arguments(body) == []


def test_a_long_command_is_cut() -> None:
    line = command_line(["x" * 500] * 100)
    assert line.endswith(" …")
    assert len(line) < LONGEST_COMMAND + 2 * 502


UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]")


@given(records=documents.records, node=st.sampled_from(["", "node=web1 ", 'node=a"b ']))
@settings(max_examples=300)
def test_whatever_is_in_an_event(records: list[tuple[str, str]], node: str) -> None:
    made = shape()
    for event in documents.made(records, node=node):
        line = made.render(event)
        if not line:
            assert {record.type for record in event.records} == {"EOE"} or not event.stamp
            continue
        text = line.decode()
        assert text.endswith(", event 7\n")
        assert text.count("\n") == 1
        assert text.startswith(WHEN)
        assert not UNSAFE.search(text)
        assert len(text) < 12 * LONGEST_WORD


PATH = 'item=0 name="0" inode=1 dev=fe:00 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={} cap_fp=0'
RENAME = (
    "arch=c000003e syscall=82 success=yes exit=3 a0=3 a1=7ffe a2=3c a3=0 items=2 ppid=23 pid=24 auid=0 uid=0 gid=0 "
    'euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=0 comm="0" exe="0" key="0"'
)


# The name that is chosen is also the last, and a new one.
@example([("SYSCALL", RENAME), *(("PATH", PATH.format(kind)) for kind in ("NORMAL", "NORMAL", "CREATE"))], "")
@given(records=calls.plain, node=st.sampled_from(["", "node=web1 "]))
@settings(max_examples=500)
def test_both_ways_give_the_same(records: list[tuple[str, str]], node: str) -> None:
    event = calls.event(records, node)
    made = shape()
    lines = [made.render(each) for each in (event, event, calls.the_long_way(event))]
    assert len(set(lines)) == 1


def test_both_ways_give_the_same_of_hard_events() -> None:
    made = shape()
    taken = 0
    for event in documents.hard():
        if event.raw.startswith((b"type=SYSCALL", b"node=")) and event.stamp and event.first("SYSCALL"):
            taken += 1
            assert made.render(event) == made.render(calls.the_long_way(event))
    assert taken > 20


def test_several_at_once_are_what_each_is() -> None:
    events = documents.hard()
    assert shape().render_all(events) == [shape().render(event) for event in events]


def test_names_are_asked_for_anew() -> None:
    people = People()
    made = shape(people)
    event = calls.event([OPEN, CWD, FILE, TITLE])
    single = calls.event([("USER_AUTH", PAM)])
    assert b"alice" in made.render(event)
    assert b"alice" in made.render(single)
    people.names[1000] = "alina"
    made.render(calls.event([("DEL_USER", "pid=1 uid=0 auid=0 ses=1 msg='op=x id=1000 res=success'")], "node=n "))
    assert b"alina" in made.render(event)
    assert b"alina" in made.render(single)
    people.names[1000] = "alma"
    event.arrived = single.arrived = normal_calls.STALE + 1
    assert b"alma" in made.render(event)
    assert b"alma" in made.render(single)


def test_memories_are_bounded() -> None:
    made = shape()
    for number in range(8_000):
        made.render(calls.event([call(59), ("EXECVE", f'argc=1 a0="{number}{"x" * 300}"'), TITLE]))
        made.render(calls.event([("USER_AUTH", PAM.replace("bob", f"{number}{'x' * 300}"))]))
        assert made._commands.size <= normal_calls.BYTES
        assert made._singles.size <= normal_calls.BYTES
    assert len(made._commands) < 8_000
    assert len(made._singles) < 8_000
