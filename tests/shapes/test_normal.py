"""The normaliser: its tables are what auparse says; a cell that ausearch leaves empty, or fills wrongly, is filled.

Cell by cell against ausearch: tests/e2e/test_ausearch_csv.py.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.shapes.normal import Normal, Normaliser, compounds, result, rows, rules, subject_kind
from audisp.shapes.normal_values import Reader, absolute
from tests.shapes import calls, documents
from tests.shapes.test_csv import CWD, FILE, INET, OPEN, TITLE, People, call


def normal(records: list[tuple[str, str]]) -> Normal:
    found = Normaliser(Reader(People())).normal(calls.event(records))
    assert found is not None
    return found


def test_the_tables_are_whole() -> None:
    assert rules()["execve"].action == "executed"
    assert rules()["setuid"].by_call
    assert rows()["USER_AUTH"].object == ("acct",)
    assert compounds()["AVC"] == ("accessed-mac-policy-controlled-object", "^", "^")
    assert len(rules()) > 80
    assert len(rows()) > 130


@pytest.mark.parametrize(
    ("name", "cwd", "path"),
    [
        ("/a", "/w", "/a"),
        ("/a/./b//c", "/w", "/a/./b//c"),
        ("/a/../b", "/w", "/b"),
        ("a", "/w", "/w/a"),
        ("./a", "/w/", "/w/a"),
        ("../a", "/w/x", "/w/a"),
        ("../../../a", "/w", "/a"),
        ("..", "/w/x", "/w"),
        (".", "/w", "/w"),
        ("", "/w", "/w"),
        ("a/", "/w", "/w/a"),
        ("..a/b..", "/w", "/w/..a/b.."),
        ("a", None, "a"),
        ("/..", None, "/"),
    ],
)
def test_paths(name: str, cwd: str | None, path: str) -> None:
    assert absolute(name, cwd) == path


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b c"]), max_size=8).map("/".join), st.sampled_from(["/", "/w/x"]))
def test_a_relative_path_has_no_dots_left(name: str, cwd: str) -> None:
    if not name.startswith("/"):
        parts = absolute(name, cwd).split("/")
        assert parts[0] == ""
        assert not {".", ".."} & set(parts)


@pytest.mark.parametrize(
    ("id_", "kind"),
    [
        ("0", "privileged-acct"),
        ("999", "service-acct"),
        ("1000", "user-acct"),
        ("59999", "user-acct"),
        ("60000", "unknown-acct"),
        ("4294967295", "unset-acct"),
        ("-1", "unset-acct"),
        ("-2", "unknown-acct"),
        ("abc", "unknown-acct"),
        (None, ""),
    ],
)
def test_kinds_of_accounts(id_: str | None, kind: str) -> None:
    assert subject_kind(id_) == kind


@pytest.mark.parametrize(
    ("value", "word"),
    [("yes", "success"), ("1", "success"), ("success", "success"), ('1AUID="x"', "success"), ("no", "failed"),
     ("0", "failed"), ("10", "failed"), ("failed", "failed"), ("", "failed"), (None, "")],
)  # fmt: skip
def test_results(value: str | None, word: str) -> None:
    assert result(value) == word


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([call(59), CWD, FILE], {"object": "/srv/a", "object2": "7"}),
        ([call(266), CWD, (FILE[0], FILE[1].replace("NORMAL", "PARENT")), FILE], {"object": "/srv/a"}),
        ([OPEN, ("AVC", "avc:  denied  { read } for  tclass=file"), CWD, FILE], {"object": "/srv/a"}),
        ([("AVC", "avc:  denied  { read } for  tclass=file"), call(42), INET], {"object_kind": "socket"}),
        ([call(321), ("BPF", "prog-id=9 op=LOAD")], {"action": "loaded-bpf-program", "object": "9"}),
        ([call(175), ("KERN_MODULE", 'name="xfs"')], {"action": "loaded-kernel-module", "object": "xfs"}),
        ([("KERN_MODULE", 'name="xfs"')], {"object": "xfs"}),
        (
            [call(54), ("NETFILTER_CFG", "table=filter family=2 entries=4")],
            {"action": "loaded-firewall-rule-to", "object": "filter", "object_kind": "firewall"},
        ),
        (
            [("URINGOP", 'uring_op=18 success=no exit=-13 items=1 uid=33 key="k"'), CWD, FILE],
            {"action": "opened-file", "object": "/srv/a", "result": "failed", "subject_kind": "service-acct"},
        ),
        (
            [call(44), ("CONFIG_CHANGE", 'auid=1 ses=1 op=remove_rule key="k" list=4 res=1')],
            {"action": "deleted-audit-rule", "object": "k", "object_kind": "audit-config"},
        ),
        (
            [call(54), ("ANOM_PROMISCUOUS", "dev=eth0 prom=256 old_prom=0 auid=1000 uid=0 ses=3")],
            {"action": "entered-promiscuous-mode-on-device", "object": "eth0"},
        ),
        (
            [("SECCOMP", "auid=1000 uid=33 sig=31 arch=c000003e syscall=41 code=0x7ffc0000")],
            {"object": "socket", "result": "success"},
        ),
        ([("LOGIN", "uid=0 old auid=-1 new auid=1000 old ses=-1 new ses=3")], {"object": "alice", "session": "3"}),
    ],
)  # fmt: skip
def test_what_is_filled(records: list[tuple[str, str]], expected: dict[str, str]) -> None:
    found = normal([*records, TITLE])
    assert {name: getattr(found, name) for name in expected} == expected


@given(records=documents.records)
def test_never_raises(records: list[tuple[str, str]]) -> None:
    normaliser = Normaliser(Reader(People()))
    for event in documents.made(records):
        found = normaliser.normal(event)
        assert found is not None or {record.type for record in event.records} == {"EOE"}
