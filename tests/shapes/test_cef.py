"""cef: read back by a parser of its own, within the dictionary's keys and lengths, and nothing lost."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.enrich.facts import Enrichment
from audisp.event import NO_STAMP, Event
from audisp.parse.cgroup import Container
from audisp.parse.record import RecordReader
from audisp.shapes import activity, cef
from audisp.shapes.activity_text import original
from audisp.shapes.cef import CUT, LABELS, UNMAPPED, Cef
from audisp.shapes.schema_cef import KEYS
from audisp.shapes.shape import ShapeSettings
from tests.shapes import documents

HEADER: Final = re.compile(r"CEF:0((?:\|(?:[^|\\]|\\.)*){6})\|(.*)\n", re.DOTALL)
FIELD: Final = re.compile(r"\|((?:[^|\\]|\\.)*)", re.DOTALL)
KEY: Final = re.compile(r"(?:\A| )([A-Za-z0-9]+)=")
"""Where a member begins: an equals sign in a value is escaped."""
VALUE: Final = {"\\": "\\", "=": "=", "n": "\n", "r": "\r"}


@attrs.frozen
class Line:
    """A line read back. extension: values by key, as a consumer has them. raw: as they are written."""

    header: list[str]
    extension: dict[str, str]
    raw: dict[str, str]
    unmapped: dict[str, Any]


def parse(made: bytes) -> Line:
    """A line of CEF, as the standard says that it is read."""
    text = made.decode("utf-8")
    assert text.count("\n") == 1
    assert "\r" not in text
    found = HEADER.fullmatch(text)
    assert found is not None, text
    fields = []
    for field in FIELD.findall(found[1]):
        assert re.fullmatch(r"(?:[^\\|]|\\\\|\\\|)*", field), f"{field!r} is escaped wrongly"
        fields.append(re.sub(r"\\(.)", r"\1", field))
    raw: dict[str, str] = {}
    starts = list(KEY.finditer(found[2]))
    assert not starts or starts[0].start() == 0
    for start, after in zip(starts, [each.start() for each in starts[1:]] + [len(found[2])], strict=True):
        assert start[1] not in raw, f"{start[1]} is there twice"
        raw[start[1]] = found[2][start.end() : after]
        assert re.fullmatch(r"(?:[^\\=]|\\[\\=nr])*", raw[start[1]]), f"{raw[start[1]]!r} is escaped wrongly"
    extension = {key: re.sub(r"\\(.)", lambda one: VALUE[one[1]], value) for key, value in raw.items()}
    return Line(fields, extension, raw, json.loads(extension.pop(UNMAPPED, "{}")))


def _check_value(key: str, value: str, raw: str) -> None:
    type_, length = KEYS[key]
    if type_ == "String":
        assert 0 < len(raw.encode()) <= length, f"{key} is too long: {raw!r}"
        assert value == value.strip(" ")
    elif type_ in ("Integer", "Time Stamp"):
        assert abs(int(value)) < 1 << 63
    else:
        assert ipaddress.ip_address(value).version == (4 if "v4" in type_.lower() else 6)


def check(made: bytes) -> Line:
    """A line against the dictionary."""
    line = parse(made)
    vendor, product, release, class_, name, severity = line.header
    assert (vendor, product, release) == ("audisp", "audisp", activity.RELEASE)
    assert class_
    assert len(name.encode()) <= cef.MAX_NAME
    assert 0 <= int(severity) <= 10
    for key, value in line.extension.items():
        assert key in KEYS, f"{key} is not in the dictionary"
        _check_value(key, value, line.raw[key])
        assert (f"{key}Label" in line.extension) == (key in LABELS)
    text = made.decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    return line


@pytest.fixture
def shape() -> Cef:
    return Cef(ShapeSettings(host="web.example"))


def test_hard_events(shape: Cef) -> None:
    events = documents.hard()
    assert len(events) > 100
    for event in events:
        made = shape.render(event)
        if made:
            check(made)
            assert made == Cef(ShapeSettings(host="web.example")).render(event)


def test_corpus(shape: Cef) -> None:
    seen = 0
    for name, events in documents.corpus():
        for event in events:
            made = shape.render(event)
            if not made:
                assert [record.type for record in event.records] == ["EOE"], name
                continue
            nothing_lost(event, check(made))
            seen += 1
    assert seen > 2_000


def nothing_lost(event: Event, line: Line) -> None:
    """Every field's value stands somewhere in the line."""
    texts = [*line.header, *line.extension.values(), *documents.leaves(line.unmapped)]
    whole, text = {original(each) for each in texts}, b"\n".join([original(each) for each in texts])
    for name, values in documents.kept(event):
        found = [value.encode("utf-8", "surrogateescape") for value in values]
        if name == "EXECVE" and found[0] not in text:
            # Too long for its key: an argument in pieces stays in its pieces.
            pieces = [raw for record in event.of("EXECVE") for key, raw in record.fields.items() if "[" in key]
            assert pieces
            assert all(raw.strip('"').encode() in text for raw in pieces)
            continue
        assert any(each in whole or each in text for each in found), f"{name}={values!r} is not in {line}"


@given(documents.tokens)
def test_every_value_is_kept(of: list[tuple[str, list[str], bool]]) -> None:
    events, values = documents.marked(of)
    text = b" ".join([Cef(ShapeSettings()).render(event) for event in events]).decode()
    assert {value for value in values if value not in text} == set()


@given(documents.records)
def test_anything(of: list[tuple[str, str]]) -> None:
    shape = Cef(ShapeSettings(host="h\udcff|a=b\n"))
    for event in documents.made(of):
        made = shape.render(event)
        if made:
            check(made)


@pytest.mark.parametrize("stamp", ["0.000:0", "99999999999999999999.999:99999999999999999999"])
def test_stamps_beyond_every_calendar(shape: Cef, stamp: str) -> None:
    for event in documents.made([("USER", "pid=1")], stamp):
        line = check(shape.render(event))
        assert line.extension["externalId"] == stamp or line.unmapped["cut"]["externalId"] == stamp


def test_a_line_that_is_no_record(shape: Cef) -> None:
    line = parse(shape.render(Event(b"what=\xff|\n", b"", b"", NO_STAMP, "t", 0.0, RecordReader())))
    assert line.header[3] == "none"
    assert original(line.unmapped[activity.FREE_TEXT]) == b"what=\xff|"


def test_an_end_alone_has_no_line(shape: Cef) -> None:
    for event in documents.events("type=EOE msg=audit(1700000000.123:7): \n"):
        assert shape.render(event) == b""


# ---- escaping ----


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_header_comes_back(text: str) -> None:
    made, cut = cef.within(text, 10_000, cef.header)
    assert not cut
    assert re.fullmatch(r"(?:[^\\|\n\r]|\\\\|\\\|)*", made)
    assert original(re.sub(r"\\(.)", r"\1", made, flags=re.DOTALL)) == text.encode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_extension_comes_back(text: str) -> None:
    made, cut = cef.within(text, 10_000, cef.extension)
    assert not cut
    assert re.fullmatch(r"(?:[^\\=\n\r]|\\[\\=nr])*", made)
    assert original(re.sub(r"\\(.)", lambda one: VALUE[one[1]], made)) == text.encode()


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(len(CUT), 40))
def test_cutting(text: str, limit: int) -> None:
    """What is cut is within the limit, ends at a whole character, escape and all, and says that it is cut."""
    whole, _ = cef.within(text, 10_000, cef.extension)
    made, cut = cef.within(text, limit, cef.extension)
    assert len(made.encode()) <= limit
    assert cut == (len(whole.encode()) > limit)
    if cut:
        assert made.endswith(CUT)
        assert whole.startswith(made.removesuffix(CUT))
        assert re.fullmatch(r"(?:[^\\=]|\\[\\=nr])*", made)
    else:
        assert made == whole


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("a=b", "a\\=b"),
        ("a|b", "a|b"),
        ("a\\b", "a\\\\b"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("\x1b[31m", "\\\\x1b[31m"),
        (" blanks ", "\\\\x20blanks\\\\x20"),
        ("caf\u00e9", "caf\u00e9"),
        ("\u202egnp", "\\\\xe2\\\\x80\\\\xaegnp"),
        ("\udcff", "\\\\xff"),
        ("\\x41", "\\\\x5cx41"),
        ("\x9b", "\\\\xc2\\\\x9b"),
    ],
)
def test_how_values_are_written(value: str, shown: str) -> None:
    assert cef.within(value, 1_000, cef.extension)[0] == shown


# ---- what it says ----

CALL: Final = (
    "type=SYSCALL msg=audit(1700000000.123:7): arch=c000003e syscall={number} success={success} exit={exit} a0=1 a1=2 "
    "a2=0 a3=0 items=0 ppid=10 pid=11 auid=1000 uid=1000 gid=100 euid=0 suid=0 fsuid=0 egid=100 sgid=100 fsgid=100 "
    'tty=pts0 ses=3 comm="tool" exe="/usr/bin/tool" key="k=v"\x1dUID="ann" AUID="ann"\n'
)


def call(number: int, *more: str, success: str = "yes", exit_: str = "0") -> Event:
    """A system call with other records of its event."""
    rest = [f"type={each}\n".replace(" ", " msg=audit(1700000000.123:7): ", 1) for each in more]
    return documents.one(CALL.format(number=number, success=success, exit=exit_) + "".join(rest))


def test_a_program_starts(shape: Cef) -> None:
    event = call(
        59,
        'EXECVE argc=2 a0="id" a1=2D7520',
        'CWD cwd="/home/ann"',
        'PATH item=0 name="/usr/bin/tool" inode=5 dev=fe:00 mode=0106755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL',
        "PROCTITLE proctitle=6964002D7520",
    )
    line = check(shape.render(event))
    assert line.header[3:] == ["SYSCALL:execve", "executed", "2"]
    assert line.extension == {
        "rt": "1700000000123",
        "dvchost": "web.example",
        "externalId": "1700000000.123:7",
        "act": "executed",
        "cat": "process",
        "outcome": "success",
        "cs1": "k=v",
        "cs1Label": "Audit Key",
        "spid": "11",
        "cn2": "10",
        "cn2Label": "Parent Process ID",
        "sproc": "/usr/bin/tool",
        "cs4": "3",
        "cs4Label": "Session",
        "cs6": "execve",
        "cs6Label": "System Call",
        "cn1": "0",
        "cn1Label": "Exit",
        "cs2": "id '-u '",
        "cs2Label": "Command Line",
        "cs3": "/home/ann",
        "cs3Label": "Working Directory",
        "suid": "1000",
        "suser": "ann",
        "cs5": "ann (1000)",
        "cs5Label": "Audit User",
        "fname": "tool",
        "filePath": "/usr/bin/tool",
        "fileId": "5",
        "filePermission": "6755",
        "fileType": "file",
    }
    assert line.raw["cs1"] == "k\\=v"
    assert line.unmapped["EXECVE"] == [{"a1": "-u "}]
    assert line.unmapped["SYSCALL"][0]["euid"] == "0"
    assert "PROCTITLE" not in line.unmapped


PATH: Final = "PATH item=1 name={name} inode=6 dev=fe:00 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={kind}"


def test_renaming_has_both_names(shape: Cef) -> None:
    event = call(82, PATH.format(name='"/a/old"', kind="DELETE"), PATH.format(name='"/a/new"', kind="CREATE"))
    line = check(shape.render(event))
    said = line.extension
    assert (said["oldFileName"], said["oldFilePath"]) == ("old", "/a/old")
    assert (said["fname"], said["filePath"]) == ("new", "/a/new")


def test_what_is_too_long_is_cut_and_kept(shape: Cef) -> None:
    name = "/srv/" + "x" * 1_100 + "|="
    event = call(2, PATH.format(name=name.encode().hex().upper(), kind="NORMAL"))
    line = check(shape.render(event))
    assert line.extension["filePath"] == name[: 1_023 - len(CUT)] + CUT
    assert line.unmapped["PATH"][0]["name"] == name
    words = " ".join(f"a{number}={'y' * 500}" for number in range(10))
    line = check(shape.render(call(59, f"EXECVE argc=10 {words}")))
    assert line.extension["cs2"].endswith(CUT)
    assert len(line.raw["cs2"]) == 4_000
    assert line.unmapped["EXECVE"][0]["a9"] == "y" * 500
    host = "h" * 200
    line = check(Cef(ShapeSettings(host=host)).render(call(2)))
    assert line.extension["dvchost"] == "h" * 97 + CUT
    assert line.unmapped["cut"] == {"dvchost": host}


@pytest.mark.parametrize(
    ("number", "saddr", "expected"),
    [
        (42, "020001BBC00002010000000000000000", {"dst": "192.0.2.1", "dpt": "443", "deviceDirection": "1"}),
        (43, "020001BBC00002010000000000000000", {"src": "192.0.2.1", "spt": "443", "deviceDirection": "0"}),
        (49, "020001BBC00002010000000000000000", {"dst": "192.0.2.1", "dpt": "443"}),
        (
            42,
            "0A0001BB0000000020010DB800000000000000000000000100000000",
            {"c6a3": "2001:db8::1", "c6a3Label": "Destination IPv6 Address", "dpt": "443", "deviceDirection": "1"},
        ),
    ],
)
def test_connections(shape: Cef, number: int, saddr: str, expected: dict[str, str]) -> None:
    line = check(shape.render(call(number, f"SOCKADDR saddr={saddr}")))
    keys = ("dst", "dpt", "src", "spt", "c6a1", "c6a3", "c6a3Label", "deviceDirection")
    assert {key: line.extension[key] for key in keys if key in line.extension} == expected
    assert "SOCKADDR" not in line.unmapped


def test_what_failed_says_why(shape: Cef) -> None:
    line = check(shape.render(call(2, success="no", exit_="-13")))
    assert line.header[5] == "4"
    assert {key: line.extension[key] for key in ("outcome", "reason", "cn1")} == {
        "outcome": "failure",
        "reason": "EACCES",
        "cn1": "-13",
    }


def test_a_login(shape: Cef) -> None:
    text = "type=USER_LOGIN msg=audit(1700000000.123:7): pid=5 uid=0 auid=4294967295 ses=4294967295 "
    event = documents.one(
        text + 'msg=\'op=login acct="eve" exe="/usr/sbin/sshd" hostname=? addr=192.0.2.9 terminal=ssh res=failed\'\n'
    )
    line = check(shape.render(event))
    assert line.header[3:] == ["USER_LOGIN", "logged-in", "4"]
    said = line.extension
    assert (said["src"], said["duser"], said["suid"], said["outcome"]) == ("192.0.2.9", "eve", "0", "failure")
    assert "cs5" not in said
    assert line.unmapped == {"USER_LOGIN": [{"auid": "unset", "ses": "unset", "op": "login", "terminal": "ssh"}]}


def test_an_account(shape: Cef) -> None:
    text = "type=ADD_USER msg=audit(1700000000.123:7): pid=5 uid=0 auid=1000 ses=3 "
    event = documents.one(
        text + 'msg=\'op=adding id=1004 exe="/usr/sbin/useradd" res=success\'\x1dUID="root" ID="bob"\n'
    )
    said = check(shape.render(event)).extension
    assert (said["suid"], said["suser"], said["duid"], said["duser"]) == ("0", "root", "1004", "bob")


def test_who_was_signalled(shape: Cef) -> None:
    said = check(shape.render(call(62, 'OBJ_PID opid=88 oauid=0 ouid=5 oses=1 ocomm="victim"'))).extension
    assert (said["dpid"], said["dproc"]) == ("88", "victim")


def test_alerts(shape: Cef) -> None:
    line = check(shape.render(documents.one('type=ANOM_ABEND msg=audit(1700000000.123:7): pid=6 comm="x" sig=11\n')))
    assert line.header[5] == "7"
    assert line.extension["sproc"] == "x"


def test_problems_are_said(shape: Cef) -> None:
    text = CALL.format(number=59, success="yes", exit="0").replace("items=0", "items=2")
    assert check(shape.render(documents.one(text))).extension["msg"] == "2 PATH records are missing"


def test_nodes(shape: Cef) -> None:
    text = CALL.format(number=2, success="yes", exit="0")
    assert check(shape.render(documents.one(f"node=db|1 {text}"))).extension["dvchost"] == "db|1"
    assert "dvchost" not in check(Cef(ShapeSettings()).render(documents.one(text))).extension


def test_what_else_is_known() -> None:
    told = Enrichment(container=Container("0123abc", "docker"), unit="ssh.service", labels=("web",))
    line = check(Cef(ShapeSettings(enrichment=lambda event: told)).render(call(2)))
    assert line.unmapped["container"] == {"id": "0123abc", "runtime": "docker"}
    assert line.unmapped["enrichment"] == {"unit": "ssh.service", "labels": ["web"]}
