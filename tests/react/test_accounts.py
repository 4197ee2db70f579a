"""Accounts: real usermod on throw-away files, in a mount namespace of its own; sessions, by the
system's loginctl of a fake logind on a private bus.

Untested live: sessions of a real logind. No systemd runs where these tests run.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from audisp.react.accounts import NAME, Accounts, Saved, Unreadable
from audisp.react.judge import Refused
from audisp.react.means_account import EndSession, Lock, own_session
from audisp.react.request import Account, Kind, Outcome, Session
from tests.needs import needs
from tests.react import bus
from tests.react.playing import HandClock, conf, entries, playing, request

HASH: Final = "$y$j9T$saltsaltsalt$hashhashhashhashhashhashhashhashhashhashhas"
PASSWD: Final = """root:x:0:0:root:/root:/bin/bash
toor:x:0:0:root again:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
alice:x:1001:1001::/home/alice:/bin/bash
bob:x:1002:1002::/home/bob:/bin/bash
carol:x:1003:1003::/home/carol:/bin/bash
dave:x:1004:1004::/home/dave:/bin/bash
svc:x:1005:1005::/srv:/usr/sbin/nologin
-rf:x:1006:1006::/:/bin/sh
erin:x:1007:1007::/home/erin:/bin/bash
systemd-x:x:60001:60001::/:/bin/sh
"""
SHADOW: Final = f"""root:{HASH}:19000:0:99999:7:::
alice:{HASH}:19000:0:99999:7:::
bob:!{HASH}:19000:0:99999:7::20500:
carol::19000:0:99999:7:::
dave:*:19000:0:99999:7::99999:
erin:{HASH}:19000:0:99999:7::1:
-rf:{HASH}:19000:0:99999:7:::
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "passwd").write_text(PASSWD)
    (folder / "shadow").write_text(SHADOW)
    (folder / "shadow").chmod(0o600)
    (folder / "group").write_text("".join(f"{n}:x:{g}:\n" for n, g in (("root", 0), ("alice", 1001), ("bob", 1002))))
    (folder / "login.defs").write_text("# a comment\nUID_MIN 1000\nUID_MAX\t60000\nENCRYPT_METHOD YESCRYPT\n")
    return folder


@pytest.fixture
def usermod(tmp_path: Path, etc: Path) -> str:
    """The system's usermod, to which these files are /etc: in a mount namespace that ends with it."""
    program = tmp_path / "usermod"
    inside = f'mount --bind {shlex.quote(str(etc))} /etc && exec /usr/sbin/usermod "$@"'
    program.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(inside)} sh "$@"\n')
    program.chmod(0o755)
    return str(program)


def line_of(etc: Path, name: str) -> str:
    return next(line for line in (etc / "shadow").read_text().splitlines() if line.startswith(f"{name}:"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("-rf", "target"),
        ("--help", "target"),
        ("", "target"),
        ("alice;reboot", "target"),
        ("alice bob", "target"),
        ("alice\n", "target"),
        ("../alice", "target"),
        ("a" * 40, "target"),
        ("mallory", "target"),
        ("alicé", "target"),
        ("root", "spared"),
        ("toor", "spared"),
        ("daemon", "spared"),
        ("www-data", "spared"),
        ("nobody", "spared"),
        ("svc", "spared"),
        ("systemd-x", "spared"),
        ("dave", "spared"),
        ("erin", "in_force"),
    ],
)
async def test_who_is_not_locked(tmp_path: Path, etc: Path, name: str, reason: str) -> None:
    settings = conf(spare_accounts=("dave",))
    means = Lock(settings, accounts=Accounts(etc), usermod="/bin/false")
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}) as played:
        result = await played.reactor.handle(request(Kind.LOCK, Account(name)))
    assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, reason)
    assert entries(tmp_path / "r") == []


def test_the_form_of_names() -> None:
    assert not NAME.fullmatch("-rf")
    assert NAME.fullmatch("alice.b-c_9$")


@needs("root")
@pytest.mark.parametrize(
    ("name", "password"), [("alice", f"!{HASH}"), ("bob", f"!{HASH}"), ("carol", ""), ("dave", "!*")]
)
async def test_locked_and_given_back_to_the_byte(
    tmp_path: Path, etc: Path, usermod: str, name: str, password: str
) -> None:
    settings = conf(lock_time=600)
    clock = HandClock()
    means = Lock(settings, accounts=Accounts(etc), usermod=usermod)
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}, clock=clock) as played:
        result = await played.reactor.handle(request(Kind.LOCK, Account(name)))
        assert (result.outcome, result.record_type) == (Outcome.DONE, 2205), result.text
        fields = line_of(etc, name).split(":")
        assert (fields[1], fields[7]) == (password, "1")
        again = await played.reactor.handle(request(Kind.LOCK, Account(name)))
        assert again.reason == "in_force"
    assert HASH not in (tmp_path / "r" / "journal").read_text()
    # The next reactor does it: all that is needed is in the journal.
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}, clock=clock) as played:
        await played.reactor.reconcile()
        assert played.told == []
        clock.ahead = 601
        await played.reactor.reconcile()
        assert [(told.outcome, told.record_type) for told in played.told] == [(Outcome.UNDONE, 2206)]
    assert (etc / "shadow").read_text() == SHADOW


@needs("root")
async def test_what_an_admin_has_changed_meanwhile_is_left(tmp_path: Path, etc: Path, usermod: str) -> None:
    settings = conf()
    means = Lock(settings, accounts=Accounts(etc), usermod=usermod)
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}) as played:
        await played.reactor.handle(request(Kind.LOCK, Account("alice")))
        (etc / "shadow").write_text((etc / "shadow").read_text().replace(f"alice:!{HASH}", "alice:!new"))
        result = await played.reactor.undo(1)
        assert (result.outcome, result.reason) == (Outcome.NOT_UNDONE, "changed")
    assert line_of(etc, "alice") == "alice:!new:19000:0:99999:7:::"


@needs("root")
async def test_an_account_that_is_another_one_now_is_left(tmp_path: Path, etc: Path, usermod: str) -> None:
    settings = conf()
    means = Lock(settings, accounts=Accounts(etc), usermod=usermod)
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}) as played:
        await played.reactor.handle(request(Kind.LOCK, Account("alice")))
        (etc / "passwd").write_text(PASSWD.replace("alice:x:1001", "alice:x:1099"))
        before = line_of(etc, "alice")
        assert (await played.reactor.undo(1)).outcome is Outcome.NOT_UNDONE
    assert line_of(etc, "alice") == before


@needs("root")
@pytest.mark.parametrize("half", [[], ["-L"], ["-L", "-e", "1"]])
async def test_killed_in_the_middle_of_a_lock(tmp_path: Path, etc: Path, usermod: str, half: list[str]) -> None:
    """Whatever of it came about: it is confirmed if it is whole, and else taken back."""
    settings = conf()
    means = Lock(settings, accounts=Accounts(etc), usermod=usermod)
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}) as played:
        played.reactor.decide(request(Kind.LOCK, Account("alice")))
        if half:
            subprocess.run([usermod, *half, "alice"], check=True)  # noqa: ASYNC221 - a test alone in its loop
    with playing(settings, tmp_path / "r", {Kind.LOCK: means}) as played:
        await played.reactor.reconcile()
        whole = len(half) > 1
        wanted = (Outcome.DONE, "confirmed") if whole else (Outcome.UNDONE, "interrupted")
        assert [(told.outcome, told.reason) for told in played.told] == [wanted]
        if whole:
            await played.reactor.undo(1)
    assert (etc / "shadow").read_text() == SHADOW


async def test_a_usermod_that_fails_or_lies_is_a_failure(tmp_path: Path, etc: Path) -> None:
    settings = conf()
    for program in ("/bin/false", "/bin/true", "/nowhere/usermod"):
        means = Lock(settings, accounts=Accounts(etc), usermod=program)
        with playing(settings, tmp_path / program[1:].replace("/", "-"), {Kind.LOCK: means}) as played:
            result = await played.reactor.handle(request(Kind.LOCK, Account("alice")))
            assert (result.outcome, result.reason) == (Outcome.FAILED, "failed")
            assert not played.reactor.books.open()


def test_what_is_missing_is_unreadable(tmp_path: Path, etc: Path) -> None:
    (etc / "shadow").unlink()
    with pytest.raises(Refused) as raised:
        Lock(conf(), accounts=Accounts(etc)).prepare(request(Kind.LOCK, Account("alice")), HandClock()())
    assert raised.value.code == "unreadable"
    with pytest.raises(Unreadable):
        Accounts(tmp_path / "none").find("alice")
    with pytest.raises(Unreadable):
        Accounts(etc).state("alice")


def test_login_defs_says_who_is_a_person(etc: Path) -> None:
    accounts = Accounts(etc)
    assert accounts.span() == (1000, 60000)
    (etc / "login.defs").write_text("UID_MIN 500\nUID_MIN 1002\n")
    assert accounts.span() == (1002, 60000)
    (etc / "login.defs").write_text("UID_MIN 0\nUID_MAX x\n")
    assert accounts.span() == (1, 60000)
    (etc / "login.defs").unlink()
    assert accounts.span() == (1000, 60000)


def test_saved_state_tells_nothing_of_the_password(etc: Path) -> None:
    saved = Accounts(etc).state("alice")
    assert isinstance(saved, Saved)
    assert "hash" not in saved.password
    assert len(saved.password) == 64


LOGINCTL: Final = """#!/bin/sh
echo "$@" >>{log}
case "$1" in
show-session) [ "$8" = -- ] || [ "$2" = -- ] || exit 9
    [ -e {gone} ] && {{ echo "No session '5' known" >&2; exit 1; }}
    printf 'Audit={audit}\\nUser={user}\\nLeader={leader}\\n' ;;
terminate-session) : >{gone} ;;
esac
"""


@pytest.fixture
def logind(tmp_path: Path) -> Iterator[bus.Logind]:
    fake = bus.Logind(tmp_path / "bus", bus.Session())
    yield fake
    fake.close()


@pytest.fixture
def real_loginctl(tmp_path: Path) -> str:
    """The system's loginctl, to which systemd runs here and the private bus is the system's."""
    program = tmp_path / "real-loginctl"
    inside = 'mount -t tmpfs run /run && mkdir -p /run/systemd/system && exec loginctl "$@"'
    address = f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={tmp_path}/bus"
    program.write_text(f'#!/bin/sh\nexec env {address} unshare --mount sh -c {shlex.quote(inside)} sh "$@"\n')
    program.chmod(0o755)
    return str(program)


@needs("root", "loginctl")
async def test_the_system_s_loginctl_ends_a_session(
    tmp_path: Path, etc: Path, logind: bus.Logind, real_loginctl: str
) -> None:
    settings = conf()
    means = EndSession(settings, accounts=Accounts(etc), loginctl=real_loginctl)
    with playing(settings, tmp_path / "r", {Kind.END_SESSION: means}) as played:
        result = await played.reactor.handle(request(Kind.END_SESSION, SESSION))
        assert result.outcome is Outcome.DONE, result.text
        gone = await played.reactor.handle(request(Kind.END_SESSION, SESSION))
        assert (gone.outcome, gone.reason) == (Outcome.FAILED, "gone")
    assert [call for call in logind.calls if call[0] != "Hello"] == [
        ("GetSession", "5"),
        ("GetAll", ""),
        ("TerminateSession", "5"),
        ("GetSession", "5"),
    ]


@needs("root", "loginctl")
async def test_the_system_s_loginctl_says_whose_a_session_is(
    tmp_path: Path, etc: Path, logind: bus.Logind, real_loginctl: str
) -> None:
    logind.session = bus.Session(leader=4243)
    means = EndSession(conf(), accounts=Accounts(etc), loginctl=real_loginctl)
    with playing(conf(), tmp_path / "r", {Kind.END_SESSION: means}) as played:
        result = await played.reactor.handle(request(Kind.END_SESSION, SESSION))
    assert (result.outcome, "Leader is 4243" in result.text) == (Outcome.FAILED, True)
    assert logind.session is not None


def _loginctl(tmp_path: Path, audit: int = 5, user: int = 1001, leader: int = 4242) -> str:
    program = tmp_path / "loginctl"
    program.write_text(
        LOGINCTL.format(log=tmp_path / "log", gone=tmp_path / "gone", audit=audit, user=user, leader=leader)
    )
    program.chmod(0o755)
    return str(program)


SESSION: Final = Session(5, 1001, 4242)


async def test_a_session_is_ended_after_logind_has_said_whose_it_is(tmp_path: Path, etc: Path) -> None:
    settings = conf()
    means = EndSession(settings, accounts=Accounts(etc), loginctl=_loginctl(tmp_path))
    with playing(settings, tmp_path / "r", {Kind.END_SESSION: means}) as played:
        result = await played.reactor.handle(request(Kind.END_SESSION, SESSION))
        assert (result.outcome, result.record_type) == (Outcome.DONE, 2203), result.text
        assert (tmp_path / "log").read_text().splitlines() == [
            "show-session -p Audit -p User -p Leader -- 5",
            "terminate-session -- 5",
        ]
        gone = await played.reactor.handle(request(Kind.END_SESSION, SESSION))
        assert (gone.outcome, gone.reason) == (Outcome.FAILED, "gone")


@pytest.mark.parametrize("other", [{"audit": 6}, {"user": 1002}, {"leader": 4243}])
async def test_another_session_is_left(tmp_path: Path, etc: Path, other: dict[str, int]) -> None:
    settings = conf()
    means = EndSession(settings, accounts=Accounts(etc), loginctl=_loginctl(tmp_path, **other))
    with playing(settings, tmp_path / "r", {Kind.END_SESSION: means}) as played:
        result = await played.reactor.handle(request(Kind.END_SESSION, SESSION))
    assert (result.outcome, result.reason) == (Outcome.FAILED, "gone")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (Session(0, 1001, 4242), "target"),
        (Session(5, 0, 4242), "spared"),
        (Session(5, 33, 4242), "spared"),
        (Session(5, 4444, 4242), "target"),
    ],
)
def test_whose_session_is_not_ended(etc: Path, session: Session, reason: str) -> None:
    means = EndSession(conf(), accounts=Accounts(etc), loginctl="/bin/false")
    with pytest.raises(Refused) as raised:
        means.prepare(request(Kind.END_SESSION, session), HandClock()())
    assert raised.value.code == reason


def test_neither_unset_nor_our_own_session_is_ended(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means = EndSession(conf(), accounts=Accounts(etc), loginctl="/bin/false")
    with pytest.raises(Refused, match="unset"):
        means.prepare(request(Kind.END_SESSION, Session(4294967295, 1001, 4242)), HandClock()())
    assert own_session() > 0
    monkeypatch.setattr("audisp.react.means_account.own_session", lambda: 5)
    with pytest.raises(Refused, match="our own"):
        means.prepare(request(Kind.END_SESSION, SESSION), HandClock()())
