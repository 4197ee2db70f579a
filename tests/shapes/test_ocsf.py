"""ocsf: every event against the published schema, and nothing lost on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given

import audisp
import audisp.shapes
from audisp.enrich.facts import Enrichment
from audisp.event import NO_STAMP, Event
from audisp.parse.cgroup import Container
from audisp.parse.processes import Process
from audisp.parse.record import RecordReader
from audisp.shapes import activity, ocsf_table
from audisp.shapes.activity_text import original, visible
from audisp.shapes.ocsf import Ocsf
from audisp.shapes.shape import ShapeSettings
from tests.shapes import documents

SCHEMA: Final = json.loads((Path(audisp.shapes.__file__).parent / "schema_ocsf.json").read_text())
CLASSES: Final = {each["uid"]: each for each in SCHEMA["classes"].values()}
FREE: Final = frozenset({"unmapped", "data"})
"""Attributes whose type is any object, or any JSON."""


@pytest.fixture
def shape() -> Ocsf:
    return Ocsf(ShapeSettings(host="web.example"))


def rendered(event: Event, shape: Ocsf | None = None) -> dict[str, Any]:
    """What is rendered, read back."""
    made = (shape or Ocsf(ShapeSettings(host="web.example"))).render(event)
    assert made.endswith(b"\n")
    assert made.count(b"\n") == 1
    assert made.isascii()
    found = json.loads(made)
    assert isinstance(found, dict)
    return found


# ---- the schema ----


def _primitive(type_: str, value: Any, at: str) -> None:
    described = SCHEMA["types"].get(type_, {})
    base = described.get("type", type_)
    if base in ("integer_t", "long_t"):
        assert type(value) is int, f"{at} is a number, not {value!r}"
        low, high = described.get("range", (-(1 << 63), (1 << 63) - 1))
        assert low <= value <= high, f"{at} is {value}"
    elif base == "boolean_t":
        assert isinstance(value, bool), f"{at} is {value!r}"
    elif type_ == "json_t":
        pass
    else:
        assert isinstance(value, str), f"{at} is a text, not {value!r}"
        pattern = described.get("regex")
        assert pattern is None or re.fullmatch(pattern, value), f"{at}={value!r} is no {type_}"
        assert len(value) <= described.get("max_len", len(value)), f"{at}={value!r} is too long"


def _object(value: dict[str, Any], described: dict[str, Any], profiles: set[str], at: str) -> None:
    attributes = described["attributes"]
    for name, each in value.items():
        assert name in attributes, f"{at}.{name} is not in OCSF {SCHEMA['version']}"
        of = attributes[name]
        assert of.get("profile") is None or of["profile"] in profiles, f"{at}.{name} needs profile {of['profile']}"
        assert isinstance(each, list) == bool(of.get("array")), f"{at}.{name} is a list in one of both only"
        for one in each if isinstance(each, list) else [each]:
            _value(one, name, of, profiles, f"{at}.{name}")
        if "enum" in of:
            assert str(each) in of["enum"], f"{at}.{name} cannot be {each!r}"
            if of.get("sibling") in value and each != 99 and name != "type_uid":
                assert value[of["sibling"]] == of["enum"][str(each)], f"{at}.{of['sibling']} is not {each}'s caption"
    for name, of in attributes.items():
        if of.get("requirement") == "required" and of.get("profile", "host") in profiles:
            assert name in value, f"{at}.{name} is required"
    for kind, names in described["constraints"].items():
        count = sum(name in value for name in names)
        assert count >= 1, f"{at} has none of {names}"
        assert kind == "at_least_one" or count == 1, f"{at} has several of {names}"


def _value(value: Any, name: str, of: dict[str, Any], profiles: set[str], at: str) -> None:
    if of["type"] != "object_t":
        _primitive(of["type"], value, at)
    elif name in FREE or of["object"] == "object":
        assert isinstance(value, dict), at
    else:
        assert of["object"] in SCHEMA["objects"], f"{at}: the extract has no {of['object']}"
        _object(value, SCHEMA["objects"][of["object"]], profiles, at)


def check(found: dict[str, Any]) -> None:
    """An event against the schema."""
    described = CLASSES[found["class_uid"]]
    assert SCHEMA["version"] == ocsf_table.OCSF_VERSION == found["metadata"]["version"]
    assert found["class_name"] == described["caption"]
    assert found["category_uid"] == described["category_uid"]
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
    caption = described["attributes"]["activity_id"]["enum"][str(found["activity_id"])]
    assert found["type_name"] == f"{found['class_name']}: {caption}"
    _object(found, described, set(found["metadata"]["profiles"]), described["caption"])
    for type_, records in found.get("unmapped", {}).items():
        if type_ != activity.FREE_TEXT:
            assert isinstance(records, list)
            assert all(isinstance(each, dict) and each for each in records)


def test_table_is_the_schema() -> None:
    """Names and captions in ocsf_table are the schema's."""
    for class_ in (
        each for each, _ in (*ocsf_table.CALLS.values(), *ocsf_table.RECORDS.values(), (ocsf_table.BASE, 0))
    ):
        described = CLASSES[class_.uid]
        assert (class_.name, class_.category_uid) == (described["caption"], described["category_uid"])
        captions = described["attributes"]["activity_id"]["enum"]
        assert {str(number): caption for number, caption in class_.activities.items()}.items() <= captions.items()
    for class_, number in (*ocsf_table.CALLS.values(), *ocsf_table.RECORDS.values()):
        assert number == ocsf_table.OTHER or number in class_.activities
    kinds = SCHEMA["objects"]["file"]["attributes"]["type_id"]["enum"]
    assert {str(number): caption for number, caption in ocsf_table.FILE_CAPTIONS.items()}.items() <= kinds.items()
    names = SCHEMA["classes"]["base_event"]["attributes"]
    assert all(names["severity_id"]["enum"][str(n)] == text for n, text in ocsf_table.SEVERITIES.items())
    assert all(names["status_id"]["enum"][str(n)] == text for n, text in ocsf_table.STATUSES.values())


def test_release() -> None:
    assert audisp.__version__ == activity.RELEASE


def test_hard_events(shape: Ocsf) -> None:
    events = documents.hard()
    assert len(events) > 100
    for event in events:
        made = shape.render(event)
        if made:
            check(json.loads(made))
            assert made == Ocsf(ShapeSettings(host="web.example")).render(event)


def test_corpus(shape: Ocsf) -> None:
    seen: dict[int, int] = {}
    for name, events in documents.corpus():
        for event in events:
            made = shape.render(event)
            if not made:
                assert [record.type for record in event.records] == ["EOE"], name
                continue
            found = json.loads(made)
            check(found)
            nothing_lost(event, found)
            seen[found["class_uid"]] = seen.get(found["class_uid"], 0) + 1
    assert seen.keys() == CLASSES.keys(), "a class that nothing in the corpus is"


def nothing_lost(event: Event, found: dict[str, Any]) -> None:
    """Every field's value stands somewhere in the event."""
    texts = documents.leaves(found)
    whole, text = set(texts), "\n".join(texts)
    for name, values in documents.kept(event):
        shown = [visible(value) for value in values]
        if name == "EXECVE" and found["class_uid"] == 0 and shown[0] not in text:
            # Not one that starts a program: an argument in pieces stays in its pieces.
            pieces = [raw for record in event.of("EXECVE") for key, raw in record.fields.items() if "[" in key]
            assert pieces
            assert all(raw.strip('"') in text for raw in pieces)
            continue
        assert any(each in whole or each in text for each in shown), f"{name}={values!r} is not in {found}"


@given(documents.tokens)
def test_every_value_is_kept(of: list[tuple[str, list[str], bool]]) -> None:
    events, values = documents.marked(of)
    text = " ".join(text for event in events for text in documents.leaves(rendered(event)))
    assert {value for value in values if value not in text} == set()


@given(documents.records)
def test_anything(of: list[tuple[str, str]]) -> None:
    shape = Ocsf(ShapeSettings(host="h\udcff"))
    for event in documents.made(of):
        if shape.render(event):
            check(rendered(event, shape))


def test_stamps_beyond_every_calendar(shape: Ocsf) -> None:
    for stamp in ("0.000:0", "99999999999999999999.999:99999999999999999999"):
        for event in documents.made([("USER", "pid=1")], stamp):
            check(rendered(event, shape))


def test_a_line_that_is_no_record(shape: Ocsf) -> None:
    event = Event(b"what \xff\n", b"", b"", NO_STAMP, "t", 0.0, RecordReader())
    found = rendered(event, shape)
    check(found)
    assert original(found["unmapped"][activity.FREE_TEXT]) == b"what \xff"


def test_an_end_alone_is_no_event(shape: Ocsf) -> None:
    for event in documents.events("type=EOE msg=audit(1700000000.123:7): \n"):
        assert shape.render(event) == b""


# ---- the classes ----

CALL: Final = (
    "type=SYSCALL msg=audit(1700000000.123:7): arch=c000003e syscall={number} success={success} exit={exit} a0={a0} "
    "a1={a1} a2=0 a3=0 items=0 ppid=10 pid=11 auid=1000 uid=1000 gid=100 euid=0 suid=0 fsuid=0 egid=100 sgid=100 "
    'fsgid=100 tty=pts0 ses=3 comm="tool" exe="/usr/bin/tool" key="k"\x1dUID="ann" GID="users"\n'
)


def call(number: int, *more: str, success: str = "yes", exit_: str = "0", a0: str = "0", a1: str = "0") -> Event:
    """A system call with other records of its event."""
    text = CALL.format(number=number, success=success, exit=exit_, a0=a0, a1=a1)
    return documents.one(
        text + "".join(f"type={each}\n".replace(" ", " msg=audit(1700000000.123:7): ", 1) for each in more)
    )


def test_a_program_starts(shape: Ocsf) -> None:
    event = call(
        59,
        'EXECVE argc=3 a0="id" a1=2D7520 a2="x"',
        'CWD cwd="/home/ann"',
        'PATH item=0 name="/usr/bin/tool" inode=5 dev=fe:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL',
        "PROCTITLE proctitle=6964002D75",
    )
    found = rendered(event, shape)
    check(found)
    assert (found["class_uid"], found["activity_name"], found["type_uid"]) == (1007, "Launch", 100701)
    assert found["time"] == 1_700_000_000_123
    assert found["launch_type"] == "Exec"
    assert found["metadata"]["labels"] == ["k"]
    assert found["metadata"]["uid"] == "1700000000.123:7"
    assert found["actor"] == {
        "process": {"pid": 10},
        "user": {"uid": "1000", "name": "ann"},
        "session": {"uid": "3", "terminal": "pts0"},
    }
    process = found["process"]
    assert process["cmd_line"] == "id '-u ' x"
    assert process["file"] == {"name": "tool", "path": "/usr/bin/tool", "type_id": 1, "type": "Regular File"}
    assert (process["pid"], process["auid"], process["euid"], process["egid"]) == (11, 1000, 0, 100)
    assert process["group"] == {"uid": "100", "name": "users"}
    assert process["working_directory"] == "/home/ann"
    left = found["unmapped"]
    assert left["EXECVE"] == [{"a1": "-u "}]  # its blanks are quoted in the command line
    assert left["SYSCALL"][0]["syscall"] == "execve"
    assert left["SYSCALL"][0]["suid"] == "0"
    assert left["PATH"][0]["inode"] == "5"
    assert "PROCTITLE" in left or process["cmd_line"]


@pytest.mark.parametrize(
    ("number", "extra", "expected"),
    [
        (56, {"exit_": "77"}, (1, {"pid": 77, "parent_process": {"pid": 11}})),
        (56, {"exit_": "-11", "success": "no"}, (1, {"pid": 11, "parent_process": {"pid": 11}})),
        (62, {"a0": "4d", "a1": "9"}, (2, {"pid": 77})),
        (62, {"a0": "4d", "a1": "1"}, (99, {"pid": 77})),
        (101, {"a0": "10", "a1": "4d"}, (4, {"pid": 77})),
        (101, {"a0": "2", "a1": "4d"}, (3, {"pid": 77})),
        (311, {"a0": "4d"}, (4, {"pid": 77})),
    ],
)
def test_processes(shape: Ocsf, number: int, extra: dict[str, str], expected: tuple[int, dict[str, Any]]) -> None:
    found = rendered(call(number, **extra), shape)
    check(found)
    assert (found["class_uid"], found["activity_id"], found["process"]) == (1007, *expected)
    assert found["actor"]["process"]["pid"] == 11


def test_another_process_by_its_record(shape: Ocsf) -> None:
    found = rendered(call(62, 'OBJ_PID opid=88 oauid=0 ouid=5 oses=1 ocomm="victim"', a0="0", a1="f"), shape)
    check(found)
    assert found["process"] == {"pid": 88, "name": "victim", "user": {"uid": "5"}}
    assert found["unmapped"]["OBJ_PID"] == [{"oauid": "0", "oses": "1"}]
    to_a_group = rendered(call(62, a0="ffffffffffffffff", a1="9"), shape)
    check(to_a_group)
    assert to_a_group["class_uid"] == 0


PATH: Final = "PATH item={item} name={name} inode={item} dev=fe:00 mode={mode} ouid=0 ogid=0 rdev=00:00 nametype={kind}"


@pytest.mark.parametrize(
    ("number", "kinds", "activity_", "path"),
    [
        (257, ["NORMAL"], "Open", "/srv/f0"),
        (257, ["PARENT", "CREATE"], "Create", "/srv/f1"),
        (87, ["PARENT", "DELETE"], "Delete", "/srv/f1"),
        (82, ["PARENT", "PARENT", "DELETE", "CREATE"], "Rename", "/srv/f2"),
        (90, ["NORMAL"], "Set Security", "/srv/f0"),
        (4, ["NORMAL"], "Get Attributes", "/srv/f0"),
        (76, ["NORMAL"], "Update", "/srv/f0"),
        (89, ["NORMAL"], "Read", "/srv/f0"),
        (83, ["PARENT", "CREATE"], "Create", "/srv/f1"),
    ],
)
def test_files(shape: Ocsf, number: int, kinds: list[str], activity_: str, path: str) -> None:
    paths = [PATH.format(item=item, name=f'"f{item}"', mode="0100644", kind=kind) for item, kind in enumerate(kinds)]
    found = rendered(call(number, 'CWD cwd="/srv/"', *paths), shape)
    check(found)
    assert (found["class_uid"], found["activity_name"], found["file"]["path"]) == (1001, activity_, path)
    assert found["file"]["type"] == "Regular File"
    assert ("file_result" in found) == (activity_ == "Rename")
    if activity_ == "Rename":
        assert found["file_result"]["path"] == "/srv/f3"
    assert found["file"]["owner"] == {"uid": "0"}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("040755", "Folder"), ("020666", "Character Device"), ("0140755", "Local Socket"), ("9", "Unknown")],
)
def test_kinds_of_files(shape: Ocsf, mode: str, kind: str) -> None:
    found = rendered(call(2, PATH.format(item=0, name='"/x"', mode=mode, kind="NORMAL")), shape)
    check(found)
    assert found["file"]["type"] == kind


def test_a_file_without_a_name_is_no_file(shape: Ocsf) -> None:
    for more in ([], [PATH.format(item=0, name="(null)", mode="0100644", kind="NORMAL")]):
        found = rendered(call(2, *more), shape)
        check(found)
        assert (found["class_uid"], found["activity_name"]) == (0, "opened-file")


@pytest.mark.parametrize(
    ("number", "extra", "activity_", "direction", "end"),
    [
        (42, {}, "Open", "Outbound", "dst_endpoint"),
        (
            42,
            {"success": "no", "exit_": "-111"},
            "Refuse",
            "Outbound",
            "dst_endpoint",
        ),
        (
            42,
            {"success": "no", "exit_": "-113"},
            "Fail",
            "Outbound",
            "dst_endpoint",
        ),
        (
            42,
            {"success": "no", "exit_": "-115"},
            "Open",
            "Outbound",
            "dst_endpoint",
        ),
        (43, {}, "Open", "Inbound", "src_endpoint"),
        (44, {}, "Traffic", "Outbound", "dst_endpoint"),
        (49, {}, "bound-socket", "Unknown", "dst_endpoint"),
    ],
)
def test_connections(shape: Ocsf, number: int, extra: dict[str, str], activity_: str, direction: str, end: str) -> None:
    found = rendered(call(number, "SOCKADDR saddr=020001BBC00002010000000000000000", **extra), shape)
    check(found)
    assert (found["class_uid"], found["activity_name"]) == (4001, activity_)
    assert found["connection_info"]["direction"] == direction
    assert found[end] == {"ip": "192.0.2.1", "port": 443}
    if extra:
        assert found["status_code"] == activity.exit_name(extra["exit_"])
    assert "SOCKADDR" not in found["unmapped"]


def test_local_sockets(shape: Ocsf) -> None:
    found = rendered(call(42, "SOCKADDR saddr=01002F72756E2F7800"), shape)
    check(found)
    assert found["dst_endpoint"] == {"name": "/run/x"}
    assert found["connection_info"]["direction"] == "Local"
    for saddr in ("0100", "100000000000000000000000", "00"):
        found = rendered(call(42, f"SOCKADDR saddr={saddr}"), shape)
        check(found)
        assert found["class_uid"] == 0
        assert found["unmapped"]["SOCKADDR"] == [{"saddr": saddr}]


@pytest.mark.parametrize(
    ("type_", "text", "activity_", "user"),
    [
        ("USER_LOGIN", 'op=login acct="eve" exe="/usr/sbin/sshd" addr=192.0.2.9 terminal=ssh res=failed', "Logon",
         {"name": "eve"}),
        ("USER_LOGIN", 'op=login id=1001 exe="/usr/sbin/sshd" addr=192.0.2.9 terminal=ssh res=success', "Logon",
         {"uid": "1001"}),
        ("USER_END", 'op=PAM:session_close acct="root" exe="/usr/sbin/cron" terminal=cron res=success', "Logoff",
         {"name": "root"}),
        ("CRED_ACQ", 'op=PAM:setcred acct="root" exe="/usr/sbin/cron" terminal=cron res=success',
         "acquired-credentials", {"name": "root"}),
        ("USER_AUTH", "op=x res=success", "Logon", {"uid": "1000"}),
    ],
)  # fmt: skip
def test_logins(shape: Ocsf, type_: str, text: str, activity_: str, user: dict[str, str]) -> None:
    found = rendered(
        documents.one(f"type={type_} msg=audit(1700000000.123:7): pid=5 uid=0 auid=1000 ses=3 msg='{text}'\n"), shape
    )
    check(found)
    assert (found["class_uid"], found["activity_name"], found["user"]) == (3002, activity_, user)
    assert found["status"] == ("Failure" if "failed" in text else "Success")
    assert found["session"]["uid"] == "3"
    if "addr" in text:
        assert found["src_endpoint"] == {"ip": "192.0.2.9"}
        assert found["is_remote"] is True


@pytest.mark.parametrize(
    ("type_", "text", "activity_", "user"),
    [
        ("ADD_USER", 'op=adding user id=1004 exe="/usr/sbin/useradd" res=success\x1dID="bob"', "Create",
         {"uid": "1004", "name": "bob"}),
        ("DEL_USER", 'op=del acct="bob" res=success', "Delete", {"name": "bob"}),
        ("USER_CHAUTHTOK", 'op=PAM:chauthtok acct="bob" res=failed', "Password Change", {"name": "bob"}),
        ("ACCT_LOCK", 'op=lock id=5 res=success', "Lock", {"uid": "5"}),
        ("USER_MGMT", 'op=x acct="bob" res=success', "modified-user-account", {"name": "bob"}),
    ],
)  # fmt: skip
def test_accounts(shape: Ocsf, type_: str, text: str, activity_: str, user: dict[str, str]) -> None:
    inner, _, added = text.partition("\x1d")
    line = f"type={type_} msg=audit(1700000000.123:7): pid=5 uid=0 auid=1000 ses=3 msg='{inner}'"
    found = rendered(documents.one(f"{line}\x1d{added}\n" if added else f"{line}\n"), shape)
    check(found)
    assert (found["class_uid"], found["activity_name"], found["user"]) == (3001, activity_, user)


def test_an_account_without_a_name_is_no_account_change(shape: Ocsf) -> None:
    found = rendered(documents.one("type=ADD_USER msg=audit(1700000000.123:7): pid=5 msg='op=x res=success'\n"), shape)
    check(found)
    assert (found["class_uid"], found["activity_name"]) == (0, "added-user-account")


def test_alerts_are_more_severe(shape: Ocsf) -> None:
    found = rendered(
        documents.one('type=ANOM_ABEND msg=audit(1700000000.123:7): auid=1 pid=6 comm="x" sig=11\n'), shape
    )
    check(found)
    assert (found["class_uid"], found["activity_name"], found["severity"]) == (1007, "Terminate", "Medium")


def test_what_a_sender_writes_replaces_nothing(shape: Ocsf) -> None:
    text = "type=USER_LOGIN msg=audit(1700000000.123:7): pid=5 uid=1000 auid=1000 ses=2 "
    found = rendered(documents.one(text + "msg='op=login id=7 uid=0 auid=0 pid=1 ses=9 res=success'\n"), shape)
    check(found)
    assert found["actor"]["process"]["pid"] == 5
    assert found["actor"]["user"] == {"uid": "1000"}
    assert found["unmapped"]["USER_LOGIN"] == [{"op": "login", "uid": "0", "auid": "0", "pid": "1", "ses": "9"}]


def test_problems_are_said(shape: Ocsf) -> None:
    text = CALL.format(number=59, success="yes", exit="0", a0="0", a1="0").replace("items=0", "items=2")
    found = rendered(documents.one(text), shape)
    check(found)
    assert found["status_detail"] == "2 PATH records are missing"


def test_what_else_is_known() -> None:
    told = Enrichment(
        container=Container("0123abc", "docker", "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb"),
        unit="ssh.service",
        parents=(Process(10, 5, exe="/bin/sh", comm="sh", argv=("sh", "-c", "a b")), Process(1, 0, comm="init")),
    )
    shape = Ocsf(ShapeSettings(enrichment=lambda event: told))
    found = rendered(call(59, 'EXECVE argc=1 a0="id"'), shape)
    check(found)
    assert found["metadata"]["profiles"] == ["host", "linux/linux_users", "container"]
    process = found["process"]
    assert process["container"]["uid"] == "0123abc"
    assert found["actor"]["process"] == process["parent_process"]
    assert process["parent_process"]["cmd_line"] == "sh -c 'a b'"
    assert [each["pid"] for each in process["ancestry"]] == [10, 1]
    assert found["enrichments"][0]["data"] == {"unit": "ssh.service"}
    assert found["enrichments"][0]["value"] == "ssh.service"


def test_bytes(shape: Ocsf) -> None:
    found = rendered(call(2, PATH.format(item=0, name="2FFF5C783431", mode="0100644", kind="NORMAL")), shape)
    check(found)
    assert found["file"]["path"] == "/\\xff\\x5cx41"
    assert original(found["file"]["path"]) == b"/\xff\\x41"


def test_a_host_has_a_name() -> None:
    found = rendered(call(2), Ocsf(ShapeSettings()))
    assert found["device"]["hostname"] == "unknown"
    text = CALL.format(number=2, success="yes", exit="0", a0="0", a1="0")
    named = rendered(documents.one(f"node=db {text}"), Ocsf(ShapeSettings(host="here")))
    assert named["device"]["hostname"] == "db"
