"""Actions with stand-in programs: nothing here ever runs the machine's init or sendmail."""

from __future__ import annotations

import email
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audisp.dispatch.actions import (
    MAX_MESSAGE,
    MAX_REASONS,
    MAX_RUNNING,
    REPEAT_AFTER,
    ActionError,
    Actions,
    Programs,
    check_address,
    check_exec,
    mail,
)
from audisp.dispatch.say import Voice
from tests.needs import needs

DEADLINE = 20.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Actions, their stand-in programs, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.read, write = os.pipe()
        os.set_blocking(self.read, False)
        self.write = write
        self.voice = Voice("stderr", fd=write, threshold="debug")
        self.programs = Programs(
            sendmail=self.program("sendmail", "cat"), init=self.program("init", "echo would change the runlevel")
        )
        self.actions = Actions(self.voice, mail_to="root", programs=self.programs, clock=self.clock)

    def program(self, name: str, command: str, mode: int = 0o755) -> str:
        """A script that writes its arguments and what `command` prints into NAME.out, then is done."""
        path = self.folder / name
        out = self.folder / f"{name}.out"
        path.write_text(f'#!/bin/sh\n{{ echo "$0 $*"; {command}; }} >>{out}.new\nmv {out}.new {out}\n')
        path.chmod(mode)
        return str(path)

    def out(self, name: str) -> str:
        """What the stand-in left, once it has ended."""
        end = time.monotonic() + DEADLINE
        while self.actions.reap():
            assert time.monotonic() < end
            time.sleep(0.01)
        return (self.folder / f"{name}.out").read_text()

    def said(self) -> list[str]:
        """The lines of the log since last asked."""
        try:
            return os.read(self.read, 65_536).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Stop what still runs."""
        end = time.monotonic() + DEADLINE
        while self.actions.reap():
            assert time.monotonic() < end
            time.sleep(0.01)
        os.close(self.read)
        os.close(self.write)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_syslog_is_said_once_a_minute(bench: Bench) -> None:
    assert bench.actions.act("syslog", "space left: 70 MiB")
    assert not bench.actions.act("syslog", "space left: 69 MiB")  # the same reason: only a number differs
    assert bench.actions.act("syslog", "the disk has an error")
    assert bench.said() == ["audispd: WARNING: space left: 70 MiB", "audispd: WARNING: the disk has an error"]
    bench.clock.now += REPEAT_AFTER
    assert bench.actions.act("syslog", "space left: 68 MiB")
    assert bench.said() == ["audispd: WARNING: space left: 68 MiB"]


def test_ignore_and_unknown(bench: Bench) -> None:
    assert bench.actions.act("ignore", "nothing")
    assert bench.said() == []
    assert not bench.actions.act("explode", "now")
    assert bench.said() == ["audispd: ERROR: unknown action explode: now"]


def test_suspend_and_resume(bench: Bench) -> None:
    assert bench.actions.act("suspend", "the disk is full")
    assert bench.said() == ["audispd: ALERT: the disk is full"]
    states = [bench.actions.suspended, bench.actions.resume(), bench.actions.suspended, bench.actions.resume()]
    assert states == [True, True, False, False]
    assert bench.actions.act("suspend", "the disk is full")  # a new cause after resume


@needs("root")
def test_exec_runs_without_arguments(bench: Bench) -> None:
    program = bench.program("react", "cat; env | grep -v ^PWD= | grep -v ^OLDPWD= | grep -v ^SHLVL= | grep -v ^_=")
    assert bench.actions.act("exec", "space is low", path=program)
    assert bench.out("react").splitlines() == [f"{program} "]
    assert not bench.actions.act("exec", "space is low", path=program)
    other = bench.program("other", "true", 0o550)
    assert bench.actions.act("exec", "space is low", path=other)  # another program is another action
    assert bench.out("other") == f"{other} \n"


@needs("root")
def test_exec_refuses_what_auditd_refuses(bench: Bench) -> None:
    program = Path(bench.program("react", "true"))
    for mode in (0o700, 0o777, 0o775, 0o4755, 0o644, 0o500):
        program.chmod(mode)
        with pytest.raises(ActionError, match=f"one of 0750, 0755, 0555, 0550, and is {mode:04o}"):
            check_exec(str(program))
    for mode in (0o750, 0o755, 0o555, 0o550):
        program.chmod(mode)
        check_exec(str(program))
    os.chown(program, 65_534, 0)
    with pytest.raises(ActionError, match="owned by root, and is owned by uid 65534"):
        check_exec(str(program))
    for path, message in ((None, "absolute"), ("react", "absolute"), ("/nowhere", "No such"), ("/", "not a regular")):
        with pytest.raises(ActionError, match=message):
            check_exec(path)
    assert not bench.actions.act("exec", "x", path=str(program))
    assert (
        bench.said()[-1] == f"audispd: ERROR: action exec: {program}: must be owned by root, and is owned by uid 65534"
    )
    assert not (bench.folder / "react.out").exists()


def test_email(bench: Bench) -> None:
    assert bench.actions.act("email", "space left: 5 MiB\nBcc: everybody@example.org\n\x1b[2J")
    text = bench.out("sendmail")
    command, _, letter = text.partition("\n")
    assert command == f"{bench.programs.sendmail} -i root"
    parsed = email.message_from_string(letter)
    assert parsed["To"] == "root"
    assert parsed["Bcc"] is None
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed.get_payload() == "space left: 5 MiB\\x0aBcc: everybody@example.org\\x0a\\x1b[2J\n"
    assert bench.said()[0].startswith("audispd: ALERT: space left")


def test_a_letter_always_fits_a_pipe() -> None:
    for message in ("x" * 100_000, "\x00" * 100_000, "\u00e4" * 100_000, "\udc80" * 100_000, ""):
        letter = mail("a" * 60 + "@" + "b" * 250, message)
        assert len(letter) <= 4_096
        head, _, body = letter.decode().partition("\n\n")
        assert len(head.splitlines()) == 6
        assert len(body.encode()) <= MAX_MESSAGE + 1


def test_email_without_sendmail_says_so(bench: Bench) -> None:
    actions = Actions(bench.voice, programs=Programs(sendmail="/nowhere/sendmail", init="/nowhere/init"))
    assert not actions.act("email", "space is low")
    assert bench.said() == [
        "audispd: ALERT: space is low",
        "audispd: ERROR: action email: /nowhere/sendmail is missing or not executable: no mail can be sent",
    ]


@pytest.mark.parametrize("address", ["root", "sec.ops+audit@example.org", "a_b-c@host", "x@10.0.0.1"])
def test_good_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address", ["", "-oQ/tmp", "a b", "root\nBcc: x", "root\n", "a@", "a@-b", "a@b@c", "|sh", "a" * 400, "a@\u00e4"]
)
def test_bad_addresses(bench: Bench, address: str) -> None:
    with pytest.raises(ActionError, match="not a user name or a mail address"):
        check_address(address)
    bench.actions.mail_to = address
    assert not bench.actions.act("email", "x")
    assert not (bench.folder / "sendmail.out").exists()


@pytest.mark.parametrize(("action", "level"), [("single", "1"), ("halt", "0")])
def test_runlevels_by_stand_in(bench: Bench, action: str, level: str) -> None:
    assert bench.actions.act(action, "no space left")
    assert bench.out("init") == f"{bench.programs.init} {level}\nwould change the runlevel\n"
    assert not bench.actions.act(action, "no space left")


def test_a_failing_program_is_reported(bench: Bench) -> None:
    bench.program("init", "exit 3")
    assert bench.actions.act("single", "x")
    with pytest.raises(FileNotFoundError):
        bench.out("init")
    assert bench.said()[-1] == f"audispd: WARNING: action single: {bench.programs.init}: exit status 3"
    os.unlink(bench.programs.init)
    assert not bench.actions.act("halt", "y")
    assert "cannot be started: No such file" in bench.said()[-1]


def test_hanging_programs_are_bounded_but_init_comes_through(bench: Bench) -> None:
    gate = bench.folder / "gate"
    os.mkfifo(gate)
    bench.program("sendmail", f"cat {gate}")
    for number in range(MAX_RUNNING):
        assert bench.actions.act("email", "x", reason=f"reason {number}")
    assert bench.actions.reap() == MAX_RUNNING
    assert not bench.actions.act("email", "x", reason="one more")
    assert "programs of earlier actions still run" in bench.said()[-1]
    assert bench.actions.act("halt", "x")
    end = time.monotonic() + DEADLINE
    while bench.actions.reap():  # open the gate for each one that has come to it
        assert time.monotonic() < end
        try:
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            time.sleep(0.01)
    assert (bench.folder / "init.out").read_text().startswith(f"{bench.programs.init} 0\n")


def test_reasons_are_bounded(bench: Bench) -> None:
    for number in range(MAX_REASONS + 10):
        assert bench.actions.act("suspend", "x", reason=f"reason {number}")
        bench.said()
    assert bench.actions.act("suspend", "x", reason="reason 0")  # forgotten
    assert not bench.actions.act("suspend", "x", reason=f"reason {MAX_REASONS + 9}")


def test_from_many_threads_it_happens_once(bench: Bench) -> None:
    results: list[bool] = []

    def ask() -> None:
        results.append(bench.actions.act("halt", "no space left"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert bench.out("init").count("would change") == 1
