"""The shape ``laurel``: what each kind of record becomes, and what enrichment adds. What the real laurel says is in
tests/e2e/test_laurel_same.py; the expectations here were taken from its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from audisp.event import LATE, NO_STAMP, Batch, Event
from audisp.parse.cgroup import Container
from audisp.parse.processes import Image, Process
from audisp.parse.record import RecordReader
from audisp.shapes.laurel import Laurel
from audisp.shapes.laurel_exact import MAX_HOLES, identity
from audisp.shapes.shape import ShapeSettings
from tests.shapes.laurels import STAMP, SYSCALL, batches, event_of, exact, parsed, rendered

RECORDS: Final = [
    # one record, the object of its event
    ("PATH pid=1 exit=-1 arch=c000003e mode=0100644 cap_fp=0 cap_fe=0 cap_frootid=0",
     {"PATH": [{"pid": 1, "exit": -1, "arch": "0xc000003e", "mode": "0o100644", "cap_fp": "0x0", "cap_fe": 0,
                "cap_frootid": "0"}]}),
    ("PATH pid=007 inode=9223372036854775807 ino=9223372036854775808 uid=-9223372036854775808 gid=FF sauid=? "
     "ses=(null)",
     {"PATH": [{"pid": 7, "inode": 9223372036854775807, "ino": "9223372036854775808",
                "uid": "-9223372036854775808", "gid": "FF", "sauid": "?", "ses": "(null)"}]}),
    ("PATH arch=00ff flags=0x2 fver=12345678901234567 mode=89 per=zz",
     {"PATH": [{"arch": "0xff", "flags": "0x2", "fver": "12345678901234567", "mode": "89", "per": "zz"}]}),
    ('PATH name="a b" x=\'c d\' empty= quoted="" none=(none) null=(null) question=? text="(null)" pid="1"',
     {"PATH": [{"name": "a b", "x": "c d", "empty": None, "quoted": "", "none": "(none)", "null": None,
                "question": None, "text": "(null)", "pid": "1"}]}),
    ("PATH name=6162 x=1f2E y=1f2 z=313 a1=41424344",
     {"PATH": [{"name": "ab", "x": "%1f.", "y": "1f2", "z": "313", "a1": "41424344"}]}),
    ('PATH name="\\%+\x7f\t\xe4\xf6" x=C3A4FF225C',
     {"PATH": [{"name": "\\%25%2b%7f%09\xe4\xf6", "x": "\xe4%ff\"\\"}]}),
    ('PATH item=0 name="/x" inode=5 dev=fe:00 mode=040755 ouid=0 OUID="root"',
     {"PATH": [{"item": 0, "name": "/x", "inode": 5, "dev": "fe:00", "mode": "0o40755", "ouid": 0, "OUID": "root"}]}),
    ("PATH item=1 name=(null) nametype=UNKNOWN", {"PATH": [{"item": 1, "name": None, "nametype": "UNKNOWN"}]}),
    ("PATH item=1 name=2F2E20C3A4 inode=0 a0=1", {"PATH": [{"item": 1, "name": "/. \xe4", "inode": 0, "a0": "1"}]}),
    ("PATH", {"PATH": [{}]}),
    ("PATH  a=1  b=2 ", {"PATH": [{"a": "1", "b": "2"}]}),
    ("SOCKADDR saddr=02000050C0A80001\x1dSADDR={ saddr_fam=inet laddr=192.168.0.1 lport=80 }",
     {"SOCKADDR": [{"saddr": "%02%00%00P%c0%a8%00%01", "SADDR": "{saddr_fam=inet laddr=192.168.0.1 lport=80}"}]}),
    ("SOCKADDR saddr=0100\x1dSADDR={ saddr_fam=local path=/a b }",
     {"SOCKADDR": [{"saddr": "%01%00", "SADDR": "{ saddr_fam=local path=/a b }"}]}),
    ("SOCKADDR saddr=0100C3A42F", {"SOCKADDR": [{"saddr": "%01%00\xe4/"}]}),
    ("SOCKADDR saddr=010", {"SOCKADDR": [{"saddr": "010"}]}),
    ('CWD cwd="/a"', {"CWD": {"cwd": "/a"}}),
    ("CWD cwd=2F2022", {"CWD": {"cwd": '/ "'}}),
    ("CWD cwd=2F202", {"CWD": {"cwd": "2F202"}}),
    ("PROCTITLE proctitle=2F7372760033", {"PROCTITLE": {"ARGV": ["/srv", "3"]}}),
    ("PROCTITLE proctitle=2F737276003300", {"PROCTITLE": {"ARGV": ["/srv", "3"]}}),
    ("PROCTITLE proctitle=2F73727600003300", {"PROCTITLE": {"ARGV": ["/srv", "%003"]}}),
    ("PROCTITLE proctitle=00", {"PROCTITLE": {"ARGV": ["%00"]}}),
    ("PROCTITLE proctitle=", {"PROCTITLE": {"proctitle": None}}),
    ('PROCTITLE proctitle="ls"', {"PROCTITLE": {"ARGV": ["ls"]}}),
    ("PROCTITLE proctitle=(null)", {"PROCTITLE": {"proctitle": None}}),
    ("PROCTITLE proctitle=ABC", {"PROCTITLE": {"ARGV": ["ABC"]}}),
    ("PROCTITLE x=1", {"PROCTITLE": {"x": "1"}}),
    ("SYSCALL arch=c000003e syscall=1 a0=00fF a3=8 items=1 x=2", {
        "SYSCALL": {"arch": "0xc000003e", "syscall": 1, "items": 1, "x": "2", "ARGV": ["0xff", "0x8"]}}),
    ("SYSCALL a0=1ffffffffffffffff key=610162\x1dARCH=x86_64 a1=2",
     {"SYSCALL": {"key": "a%01b", "ARCH": "x86_64", "ARGV": ["1ffffffffffffffff", "0x2"]}}),
    ("USER_LOGIN pid=1 uid=0 auid=1000 ses=1 subj=a:b msg='op=login acct=\"x\" pid=7 res=success'\x1d"
     'UID="root" ID="u"',
     {"USER_LOGIN": {"pid": 1, "uid": 0, "auid": 1000, "ses": 1, "subj": "a:b",
                     "msg": 'op=login acct="x" pid=7 res=success', "UID": "root", "ID": "u"}}),
    ("USER_TTY pid=1 uid=0 msg=6C7320", {"USER_TTY": {"pid": 1, "uid": 0, "msg": "ls "}}),
    ("AVC avc:  denied  { read write } for  pid=2 comm=\"x\" tclass=file permissive=0",
     {"AVC": [{"pid": 2, "comm": "x", "tclass": "file", "permissive": 0, "denied": ["read", "write"]}]}),
    ("AVC avc:  granted  null for  pid=2", {"AVC": [{"pid": 2, "granted": []}]}),
    ("AVC avc:  denied  { } for  pid=2", {"AVC": [{"pid": 2, "denied": []}]}),
    ('AVC apparmor="DENIED" pid=1', {"AVC": [{"apparmor": "DENIED", "pid": 1}]}),
    ("MAC_POLICY_LOAD policy loaded auid=1 ses=2", {"MAC_POLICY_LOAD": [{"auid": 1, "ses": 2}]}),
    ("LOGIN login pid=1 uid=0 old auid=4294967295 new auid=0 old ses=3 new ses=4",
     {"LOGIN": [{"pid": 1, "uid": 0, "old-auid": 4294967295, "auid": 0, "old-ses": 3, "ses": 4}]}),
    ("UNKNOWN[1999] a=1", {"UNKNOWN[1999]": [{"a": "1"}]}),
    ("UNKNOWN[1337] oflag=0", {"OPENAT2": [{"oflag": "0"}]}),
    ("1302 item=0", {"PATH": [{"item": 0}]}),
    ("NOVELTY a=1", {"NOVELTY": {"a": "1"}}),
    ("DAEMON_START op=start auid=1  pid=3", {"DAEMON_START": {"op": "start", "auid": 1, "pid": 3}}),
    # several records
    ("EXECVE argc=3 a0=\"x\" a1=2031 a2=(null)", {"EXECVE": {"argc": 3, "ARGV": ["x", " 1", None]}}),
    ("EXECVE argc=2 a1=\"x\" a0='z w'", {"EXECVE": {"argc": 2, "ARGV": ["z w", "x"]}}),
    ("EXECVE argc=3 a0=\"x\" a2=\"z\"", {"EXECVE": {"argc": 3, "ARGV": ["x", None, "z"]}}),
    ("EXECVE argc=3 a0=\"x\" a1_len=6 a1[0]=3132 a1[1]=\"33\" a2=\"z\" foo=1",
     {"EXECVE": {"argc": 3, "foo": "1", "ARGV": ["x", "1233", "z"]}}),
    ("EXECVE argc=1 a0=313 a1=? a2= a3=E2 a4=zz", {"EXECVE": {"argc": 1, "ARGV": ["313", None, None, "%e2", "zz"]}}),
    ("EXECVE argc=0", {"EXECVE": {"argc": 0, "ARGV": []}}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), RECORDS, ids=[line[:60] for line, _ in RECORDS])
def test_a_record(line: str, expected: dict[str, Any]) -> None:
    assert rendered(line) == expected


def test_an_event() -> None:
    found = rendered(
        f"SYSCALL {SYSCALL}",
        'EXECVE argc=2 a0="ls" a1=2D6C20',
        'CWD cwd="/"',
        'PATH item=0 name="/usr/bin/ls"',
        'PATH item=1 name="/lib/ld"',
        "PROCTITLE proctitle=6C73002D6C",
        "EOE ",
    )
    assert [*found] == ["SYSCALL", "EXECVE", "CWD", "PATH", "PROCTITLE"]
    assert found["SYSCALL"]["ARGV"] == ["0x55c0", "0x0", "0x7ffe", "0x8"]
    assert (found["SYSCALL"]["key"], found["SYSCALL"]["tty"]) == (None, "(none)")
    assert found["EXECVE"] == {"argc": 2, "ARGV": ["ls", "-l "]}
    assert [each["item"] for each in found["PATH"]] == [0, 1]


def test_keys_keep_the_order_in_which_types_come_and_lists_gather() -> None:
    found = rendered("LOGIN pid=1", f"SYSCALL {SYSCALL}", "PATH item=0", 'CWD cwd="/"', "PATH item=1")
    assert [*found] == ["LOGIN", "SYSCALL", "PATH", "CWD"]
    assert found["PATH"] == [{"item": 0}, {"item": 1}]
    found = rendered(f"SYSCALL {SYSCALL}", "SOCKADDR saddr=0100", "PATH item=0", "SOCKADDR saddr=0A00")
    assert found["SOCKADDR"] == [{"saddr": "%01%00"}, {"saddr": "%0a%00"}]


def test_a_node() -> None:
    found = rendered(f"SYSCALL {SYSCALL}", "SOCKADDR saddr=0100", 'CWD cwd="/"', node="web+1")
    assert [*found] == ["NODE", "SYSCALL", "SOCKADDR", "CWD"]
    assert found["NODE"] == "web%2b1"
    assert rendered("CWD cwd=2F", node="web")["NODE"] == "web"


def test_arguments_in_several_records() -> None:
    found = rendered('EXECVE argc=3 a0="x" a1_len=4 a1[0]=C3', 'CWD cwd="/"', 'EXECVE a1[1]=A4 a2="z"')
    assert found == {"EXECVE": {"argc": 3, "ARGV": ["x", "\xe4", "z"]}, "CWD": {"cwd": "/"}}
    # A part before its first one: by their numbers, not by their order.
    found = rendered('EXECVE a0="x" a1[1]=42', "EXECVE a1[0]=41")
    assert found["EXECVE"]["ARGV"] == ["x", "AB"]
    # Who says there are a million arguments is not believed.
    assert rendered('EXECVE a0="x" a9999999="y"')["EXECVE"]["ARGV"] == ["x", "y"]
    assert rendered(f'EXECVE a{MAX_HOLES}="y"')["EXECVE"]["ARGV"] == [*[None] * MAX_HOLES, "y"]


def test_what_comes_twice() -> None:
    again = rendered('CWD cwd="/"', 'CWD cwd="/"', f"SYSCALL {SYSCALL}", f"SYSCALL {SYSCALL}")
    assert [*again] == ["CWD", "SYSCALL"]  # sent twice: said once
    other = rendered('CWD cwd="/"', 'CWD cwd="/x"')
    assert other == {"CWD": {"cwd": "/"}, "REPEATED": [{"CWD": {"cwd": "/x"}}]}
    fields = rendered("PATH pid=1 pid=1 uid=0 uid=5")["PATH"][0]
    assert fields == {"pid": 1, "uid": 0, "raw": "pid=1 pid=1 uid=0 uid=5"}  # the kernel's word was the first


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("PATH item=0 hello name=x", {"item": 0}),
        ('PATH item=0 name="/a', {"item": 0}),
        ('PATH item=0 name="/a"type=SYSCALL pid=0', {"item": 0}),
        ("PATH initialized", {}),
        ("PATH hello world item=0", {"item": 0}),
        ("PATH item=0 \xe4=1", {"item": 0}),
        ("PATH item=0 a.b=1", {"item": 0}),
        ("PATH item=0 ARGV=1", {"item": 0}),
        ("PATH item=0 raw=1", {"item": 0}),
        ("PATH item=0 \x1dhello", {"item": 0}),
        ("PATH item={x={y", {}),
        ("USER msg='a=1", {"msg": "a=1"}),
        ("USER msg='a' b=2", {"msg": "a"}),
        ("PROCTITLE proctitle=41 pid=1", {"ARGV": ["A"]}),
        ("EXECVE a0=1 a0=2", {"ARGV": ["1"]}),
    ],
)
def test_what_is_no_field_is_kept_as_text(line: str, kept: dict[str, Any]) -> None:
    (found,) = rendered(line).values()
    found = found[0] if isinstance(found, list) else found
    assert found.pop("raw").replace("%1d", "\x1d") == line.partition(" ")[2]
    assert found == kept


def test_types_that_could_be_no_keys() -> None:
    for type_ in ("ID", "NODE", "REPEATED", "CONTAINER_INFO", 'x","pid":1,"y', "sYs", "[1]", "UNKNOWN"):
        found = rendered(f"{type_} a=1 type=2")
        assert [*found] == ["UNKNOWN"]
        assert found["UNKNOWN"][0]["type"] == type_
        assert found["UNKNOWN"][0]["a"] == "1"


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("1.5:3", "1.005:3"),
        ("0001.05:003", "1.005:3"),
        ("0.000:0", "0.000:0"),
        ("9.1:99999999999999999999", "9.001:99999999999999999999"),
    ],
)
def test_identity(stamp: str, expected: str) -> None:
    data = f"type=SYSCALL msg=audit({stamp}): {SYSCALL}\n".encode()
    (batch,) = batches(iter([data]))
    (line,) = Laurel(ShapeSettings()).render_batch(batch)
    assert parsed(line)["ID"] == identity(stamp) == expected


def test_a_line_without_a_stamp() -> None:
    event = Event(b'no "record\xff\n', b"", b"", NO_STAMP, "test", 0.0, RecordReader())
    expected = {"ID": "", "UNKNOWN": [{"raw": 'no "record%ff'}]}
    shape = Laurel(ShapeSettings())
    assert parsed(shape.render(event)) == expected
    normal = event_of(f"SYSCALL {SYSCALL}")
    assert [parsed(each) for each in shape.render_all([normal, event])][1] == expected
    data = normal.raw + event.raw + normal.raw
    batch = Batch(data, 3, "test", 0.0, RecordReader())
    assert [parsed(each)["ID"] for each in shape.render_batch(batch)] == [STAMP, "", STAMP]


def test_an_event_without_records_has_no_line() -> None:
    shape = Laurel(ShapeSettings())
    alone = event_of("EOE ")
    assert shape.render(alone) == b""
    (batch,) = batches(iter([alone.raw]))
    assert shape.render_batch(batch) == [b""]


def test_neighbours_of_one_stamp_are_two_events_where_they_are_given_as_two() -> None:
    one = event_of(f"SYSCALL {SYSCALL}")
    late = Event(event_of('CWD cwd="/"').raw, b"", one.same[1], LATE, "test", 0.0, RecordReader())
    found = [parsed(each) for each in Laurel(ShapeSettings()).render_all([one, late])]
    assert [[*each] for each in found] == [["ID", "SYSCALL"], ["ID", "CWD"]]


def test_many_records_of_one_event() -> None:
    found = rendered(f"SYSCALL {SYSCALL}", *(f"SOCKADDR saddr=02{at:06X}" for at in range(5_000)))
    assert len(found["SOCKADDR"]) == 5_000
    assert len(rendered(*(f"PATH item={at}" for at in range(5_000)))["PATH"]) == 5_000


def test_the_event_s_own_mark_inside_a_value_stays() -> None:
    line = f'type=CWD msg=audit({STAMP}): cwd="/ msg=audit({STAMP}): x"\n'
    data = f"type=SYSCALL msg=audit({STAMP}): {SYSCALL}\n{line}".encode()
    shape = Laurel(ShapeSettings())
    plain = data.replace(f" msg=audit({STAMP}): x".encode(), b" x")
    for each in (plain, data, plain):
        (batch,) = batches(iter([each]))
        assert shape.render_batch(batch) == [exact(batch.events[0])]


def test_a_stamp_in_a_message_makes_no_event() -> None:
    inner = f"type=USER_LOGIN msg=audit({STAMP}): pid=1 uid=0 auid=0 ses=1 msg='type=SYSCALL msg=audit({STAMP}): pid=9'"
    data = f"type=SYSCALL msg=audit(1700000000.122:6): {SYSCALL}\n{inner}\n".encode()
    batch = Batch(data, 2, "test", 0.0, RecordReader())
    found = [parsed(each) for each in Laurel(ShapeSettings()).render_batch(batch)]
    assert [[*each] for each in found] == [["ID", "SYSCALL"], ["ID", "USER_LOGIN"]]
    assert found[1]["USER_LOGIN"]["pid"] == 1


# ---- versions and enrichment ----


def test_a_question_mark_is_text_in_0_8() -> None:
    line = "USER_LOGIN pid=1 addr=? res=? x=(null)"
    assert rendered(line)["USER_LOGIN"] == {"pid": 1, "addr": None, "res": "?", "x": None}
    assert rendered(line, version="0.8")["USER_LOGIN"] == {"pid": 1, "addr": "?", "res": "?", "x": None}
    assert rendered('SYSCALL a0=1 tty=? comm="x"', version="0.8")["SYSCALL"]["tty"] == "?"


class Known:
    """What enrichment could know."""

    process = Process(
        22,
        1_700_000_000_000,
        ppid=1,
        exe="/usr/bin/l\udcffs",
        event_id="1700000000.001:5",
        spawner=Image(22, 1_699_999_999_000, "/usr/bin/bash", "bash", None),
    )
    container: object = Container("f" * 64, "docker")
    unit: object = "cron.service"
    user_unit = None
    slice = "system.slice"
    cgroup: object = None
    parents = (Process(1, 1_699_000_000_042, ppid=0, exe="/sbin/init", comm='in"it'),)
    script: object = "/root/x.sh"
    environment = {"LD_PRELOAD": "/x y"}  # noqa: RUF012
    labels = ("a", "b")
    unknown = ()


def _enriched(version: str, known: object, *lines: str) -> dict[str, Any]:
    asked: Callable[[Event], object] = lambda _: known  # noqa: E731
    shape = Laurel(ShapeSettings(version=version, enrichment=asked))
    event = event_of(*lines)
    (found,) = shape.render_all([event])
    assert shape.render_batch(Batch(event.raw, len(lines), "test", 0.0, RecordReader())) == [found]
    return parsed(found)


EXEC: Final = (f"SYSCALL {SYSCALL}", 'EXECVE argc=1 a0="ls"')


def test_enrichment() -> None:
    found = _enriched("", Known(), *EXEC)
    assert found["SYSCALL"].pop("ARGV") == ["0x55c0", "0x0", "0x7ffe", "0x8"]
    assert {name: found["SYSCALL"][name] for name in ("PPID", "PID", "SCRIPT", "LABELS")} == {
        "PPID": {"comm": 'in"it', "exe": "/sbin/init", "ppid": 0},
        "PID": {"EVENT_ID": "1700000000.001:5"},
        "SCRIPT": "/root/x.sh",
        "LABELS": ["a", "b"],
    }
    assert found["EXECVE"] == {"argc": 1, "ARGV": ["ls"], "ENV": {"LD_PRELOAD": "/x y"}}
    assert found["CONTAINER_INFO"] == {"ID": "f" * 64}


def test_enrichment_of_0_8() -> None:
    found = _enriched("0.8", Known(), *EXEC)
    assert found["SYSCALL"]["PID"] == {
        "EVENT_ID": "1700000000.001:5",
        "container": {"id": "f" * 64},
        "systemd_service": ["system.slice", "cron.service"],
    }
    assert found["SYSCALL"]["PPID"] == {"START_TIME": "1699000000.042"}
    assert found["SYSCALL"]["SPAWNED_BY"] == {"pid": 22, "comm": "bash", "exe": "/usr/bin/bash"}
    assert "CONTAINER_INFO" not in found


def test_what_is_not_known_has_no_key() -> None:
    nothing = type("Nothing", (Known,), dict.fromkeys(("process", "container", "unit", "slice", "script")) | {
        "parents": (), "environment": {}, "labels": ()})()  # fmt: skip
    plain = parsed(Laurel(ShapeSettings()).render(event_of(*EXEC)))
    for version in ("0.5", "0.8"):
        assert _enriched(version, nothing, *EXEC) == plain
        assert _enriched(version, None, *EXEC) == plain
    assert _enriched("", Known(), "CWD cwd=2F") == {"ID": STAMP, "CWD": {"cwd": "/"}}


def test_another_parent_than_the_event_s_is_not_said() -> None:
    call = f"SYSCALL {SYSCALL.replace('ppid=1 ', 'ppid=77 ')}"
    assert "PPID" not in _enriched("", Known(), call)["SYSCALL"]
