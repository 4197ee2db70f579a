"""Names of accounts: the files read as the C library reads them, noticed when they change, never waited for."""

from __future__ import annotations

import os
import pwd
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.enrich import names
from audisp.enrich.names import UserNames, parse_group, parse_passwd

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:100::/home/bob:/bin/sh\n"
GROUP = b"root:x:0:\nusers:x:100:\nann:x:1000:\nsudo:x:27:ann,bob\naudio:x:29:ann\n"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "passwd").write_bytes(PASSWD)
    (tmp_path / "group").write_bytes(GROUP)
    return tmp_path


def test_names_of_the_files(etc: Path) -> None:
    found = UserNames(folder=str(etc))
    assert [found.user(uid) for uid in (0, 1000, 1001, 4294967295, -1)] == ["root", "ann", "bob", None, None]
    assert [found.group(gid) for gid in (0, 27, 100, 5)] == ["root", "sudo", "users", None]
    assert found.groups(1000) == ("ann", "sudo", "audio")
    assert found.groups(1001) == ("users", "sudo")
    assert found.groups(5) == ()


def test_this_host_has_the_names_that_the_c_library_gives() -> None:
    found = UserNames()
    for entry in pwd.getpwall():
        assert found.user(entry.pw_uid) == pwd.getpwuid(entry.pw_uid).pw_name
        assert set(found.groups(entry.pw_uid)) <= set(_group_names(entry))


def _group_names(entry: pwd.struct_passwd) -> list[str]:
    import grp

    return [grp.getgrgid(gid).gr_name for gid in os.getgrouplist(entry.pw_name, entry.pw_gid)]


@pytest.mark.parametrize(
    ("line", "users"),
    [
        (b"a:x:1:1:::", {1: "a"}),
        (b"a:x:1:1:::\nb:x:1:2:::", {1: "a"}),
        (b"+nis::::::\n-not:x:1:1:::\n#c:x:2:2:::", {}),
        (b":x:1:1:::", {}),
        (b"a:x:one:1:::\nb:x::1:::\nc:x:-1:1:::\nd:x:1", {}),
        (b"a:x:" + b"9" * 5000 + b":1:::", {}),
        ("äü:x:7:7:::".encode(), {7: "äü"}),
        (b"b\xff:x:7:7:::", {7: "b\udcff"}),
        (b"a:x:1:1:::\r\n\nb:x:2:2", {1: "a", 2: "b"}),
    ],
)
def test_lines_of_passwd(line: bytes, users: dict[int, str]) -> None:
    assert parse_passwd(line)[0] == users


@given(st.binary(max_size=300))
def test_any_file_is_read(data: bytes) -> None:
    assert all(parse_passwd(data)[0].values())
    assert all(parse_group(data)[0].values())


def test_a_change_is_noticed_within_a_second_and_not_looked_for_before(etc: Path) -> None:
    clock = Clock()
    found = UserNames(folder=str(etc), clock=clock)
    assert found.user(1000) == "ann"
    (etc / "new").write_bytes(PASSWD.replace(b"ann", b"eve"))
    (etc / "new").rename(etc / "passwd")
    clock.now += 0.5
    assert found.user(1000) == "ann"
    clock.now += 0.6
    assert found.user(1000) == "eve"


def test_flush_makes_it_at_once(etc: Path) -> None:
    clock = Clock()
    found = UserNames(folder=str(etc), clock=clock)
    assert found.group(27) == "sudo"
    (etc / "group").write_bytes(GROUP.replace(b"sudo", b"wheel"))
    assert found.group(27) == "sudo"
    found.flush()
    assert found.group(27) == "wheel"


def test_a_file_that_is_gone_has_no_names(etc: Path) -> None:
    clock = Clock()
    found = UserNames(folder=str(etc), clock=clock)
    assert found.user(0) == "root"
    (etc / "passwd").unlink()
    clock.now += 2
    assert found.user(0) is None
    assert found.group(0) == "root"


def test_only_so_much_of_a_file_is_read(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_FILE", len(b"root:x:0:0:root:/root:/bin/sh\n"))
    found = UserNames(folder=str(etc))
    assert (found.user(0), found.user(1000)) == ("root", None)


def test_the_c_library_is_asked_only_if_it_may_be(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def getpwuid(uid: int) -> list[str]:
        asked.append(uid)
        if uid == 5000:
            return ["from-directory"]
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    assert UserNames(folder=str(etc)).user(5000) is None
    assert asked == []
    clock = Clock()
    found = UserNames(folder=str(etc), nss=True, clock=clock)
    assert (found.user(5000), found.user(5000), found.user(5001), found.user(5001)) == (
        "from-directory",
        "from-directory",
        None,
        None,
    )
    assert asked == [5000, 5001]
    clock.now += names.LOOKED_UP_FOR + 1
    assert found.user(5000) == "from-directory"
    assert asked == [5000, 5001, 5000]
    found.close()


def test_what_was_looked_up_is_bounded(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_LOOKED_UP", 3)
    found = UserNames(folder=str(etc), nss=True)
    for uid in range(70_000, 70_010):
        assert found.user(uid) is None
    assert len(found._looked_up) == 3
    found.close()


def test_a_directory_that_hangs_costs_the_deadline_and_its_answer_is_there_later(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def getpwuid(uid: int) -> list[str]:
        go_on.wait(30)
        return ["late"]

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    found = UserNames(folder=str(etc), nss=True, deadline=0.01)
    assert found.user(5000) is None
    assert found.user(1000) == "ann"
    go_on.set()
    until = time.monotonic() + 10
    while found.user(5000) is None and time.monotonic() < until:
        time.sleep(0.01)
    assert found.user(5000) == "late"
    found.close()


def test_types_of_account_records_are_known_types() -> None:
    from audisp.parse.types import type_number

    assert all(type_number(name.encode()) for name in names.ACCOUNT_RECORDS)
