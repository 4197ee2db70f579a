"""What an event offers to act on: nothing that is not certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.detect.form import Heading
from audisp.event import Batch
from audisp.hids.ours import started
from audisp.hids.targets import targets
from audisp.hids.told import Alert
from audisp.parse.record import RecordReader
from audisp.react.request import Kind, Process, Session

CALL = (
    "type=SYSCALL msg=audit(1700000000.123:7): arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=0 "
    "ppid=1 pid=4711 auid={auid} uid=1000 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses={ses} "
    'comm="sh" exe="/bin/sh" key=(null)\n'
)
SESSION = """# This is private data. Do not parse.
UID=1000
USER=bob
ACTIVE=1
IS_DISPLAY=0
STATE=active
REMOTE=1
TYPE=tty
CLASS=user
SCOPE=session-5.scope
LEADER=4700
AUDIT=5
"""
"""As logind of systemd 252 writes /run/systemd/sessions/5, shortened."""
STAT = "4711 (a) R 1 (x) S 1 4711 4711 34816 4711 4194304 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1\n"


def alert(ses: str = "5", auid: str = "1000") -> Alert:
    data = CALL.format(ses=ses, auid=auid).encode()
    batch = Batch(data, 1, "netlink", 0.0, RecordReader())
    return Alert(number=1, heading=Heading("r", "r"), event=batch.events[0], view="SYSCALL")


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "5").write_text(SESSION)
    return folder


def session(given: Alert, sessions: Path) -> object:
    return targets(given, sessions=sessions).of.get(Kind.END_SESSION)


def test_a_session_as_logind_has_it(sessions: Path) -> None:
    assert session(alert(), sessions) == Session(5, 1000, 4700)
    for ses in ("4294967295", "0", "6", "-1"):
        assert session(alert(ses), sessions) is None


@pytest.mark.parametrize(
    "text",
    [
        SESSION.replace("AUDIT=5", "AUDIT=6"),  # logind's own number, after the audit system's had run out
        SESSION.replace("AUDIT=5\n", ""),
        SESSION.replace("LEADER=4700\n", ""),
        SESSION.replace("LEADER=4700", "LEADER=0"),
        SESSION.replace("UID=1000", "UID=4294967295"),
        SESSION.replace("UID=1000", "UID=-1"),
        "",
        "\xff" * 10_000,
    ],
)
def test_a_session_of_which_not_all_is_known_is_none(sessions: Path, text: str) -> None:
    (sessions / "5").write_text(text)
    assert session(alert(), sessions) is None


def test_a_process_only_with_the_time_at_which_it_started(tmp_path: Path) -> None:
    (tmp_path / "4711").mkdir()
    (tmp_path / "4711" / "stat").write_text(STAT.format(start=987_654))
    assert started(4711, str(tmp_path)) == 987_654, "its name is `a) R 1 (x`"
    found = targets(alert(), proc=tmp_path).of
    assert found[Kind.KILL] == found[Kind.FREEZE] == Process(4711, 987_654)
    (tmp_path / "4711" / "stat").write_text("4711 (sh) S 1")
    assert Kind.KILL not in targets(alert(), proc=tmp_path).of
    assert Kind.KILL not in targets(alert(), proc=tmp_path / "nowhere").of


def test_an_account_of_this_host_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\nbroken\nbob:x:1000:1000::/home/bob:/bin/sh\n+::::::\n")
    monkeypatch.setattr("audisp.hids.targets.PASSWD", passwd)
    found = targets(alert(auid="1000")).of[Kind.LOCK]
    assert found is not None
    assert getattr(found, "name", None) == "bob"
    for auid in ("0", "1001", "4294967295"):
        assert Kind.LOCK not in targets(alert(auid=auid)).of
