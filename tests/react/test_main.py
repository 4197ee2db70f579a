"""The reactor as a process: requests over its socket, kill -9, a matcher that was taken over, the command."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from audisp.cli.audisp import main as audisp
from audisp.config.reactions import ReactionsConf
from audisp.errors import StoreError
from audisp.react import control
from audisp.react.main import CAPABILITIES, MAX_MALFORMED, missing
from audisp.react.processes import find
from audisp.react.request import (
    MAX_MESSAGE,
    Account,
    Address,
    Kind,
    Level,
    Outcome,
    Process,
    Request,
    Result,
    decode_result,
    encode_request,
)
from audisp.react.start import command, pair
from tests.needs import needs
from tests.react.playing import becomes, entries, request, state_of

WAIT: Final = 20.0
"""Seconds for what takes milliseconds."""


class Running:
    """A reactor that runs, and our end of its socket."""

    def __init__(
        self, folder: Path, text: str, *, alone: bool = False, before: Sequence[str] = (), **given: Any
    ) -> None:
        self.state = folder / "state"
        self.config = folder / "reactions.conf"
        self.config.write_text(text)
        self.config.chmod(0o600)
        ours, its = pair()
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *command(self.config, self.state, **given)],
                stdin=subprocess.DEVNULL if alone else its.fileno(),
                stderr=log,
                env={},
                start_new_session=True,
            )
        its.close()
        ours.settimeout(WAIT)
        self.socket = ours
        self.log = folder / "log"

    def ask(self, asked: Request) -> Result:
        self.socket.send(encode_request(asked))
        return self.told()

    def told(self) -> Result:
        return decode_result(self.socket.recv(MAX_MESSAGE))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []

    def begin(text: str, **given: Any) -> Running:
        running.append(Running(tmp_path, text, **given))
        return running[-1]

    yield begin
    for each in running:
        each.process.kill()
        each.process.wait()
        each.socket.close()


@pytest.fixture
def stray() -> Iterator[Process]:
    """A process that neither we nor the reactor's parent is above: its parent has ended, and init has it."""
    program = 'sleep 60 >/dev/null 2>&1 & echo "$!"'
    pid = int(subprocess.run(["setsid", "sh", "-c", program], capture_output=True, check=True).stdout)
    wait_for(lambda: (found := find(pid)) is not None and found.exe.endswith("/sleep"))
    found = find(pid)
    assert found is not None
    yield Process(pid, found.start)
    now = find(pid)
    if now is not None and now.start == found.start:
        os.kill(pid, signal.SIGKILL)


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


FREEZE: Final = "dry_run = no\nfreeze_process = high\nkill_process = high\nact_on_root = yes\nfreeze_time = {}s\n"


@needs("root")
def test_a_process_is_killed(start: Start, stray: Process) -> None:
    reactor = start(FREEZE.format(60))
    result = reactor.ask(request(Kind.KILL, stray, number=9))
    assert (result.number, result.outcome, result.record_type) == (9, Outcome.DONE, 2202), result.text
    wait_for(lambda: state_of(stray.pid) in ("", "Z"))
    assert "warning: act 1: killed pid" in reactor.log.read_text()


@needs("root")
def test_it_keeps_only_the_capabilities_that_it_needs(start: Start) -> None:
    reactor = start("")
    assert reactor.ask(request(Kind.NOTIFY)).reason == "nowhere"
    status = Path(f"/proc/{reactor.process.pid}/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    assert 0 < effective.bit_count() <= len(CAPABILITIES)


@needs("root")
def test_stopped_and_let_go_in_time_though_the_matcher_is_gone(start: Start, stray: Process) -> None:
    reactor = start(FREEZE.format(2))
    assert reactor.ask(request(Kind.FREEZE, stray)).outcome is Outcome.DONE
    assert becomes(stray.pid, "T")
    reactor.socket.close()
    assert becomes(stray.pid, "SR")
    assert reactor.process.wait(WAIT) == 0  # nobody needs it any more
    assert [entry.get("step") for entry in entries(reactor.state)][1:] == ["done", "undone"]


@needs("root")
def test_kill_9_of_the_reactor_undoes_nothing_and_forgets_nothing(start: Start, stray: Process) -> None:
    first = start(FREEZE.format(2))
    assert first.ask(request(Kind.FREEZE, stray)).outcome is Outcome.DONE
    first.kill()
    assert becomes(stray.pid, "T")
    second = start(FREEZE.format(2))
    result = second.told()
    assert (result.number, result.act, result.outcome, result.reason) == (0, 1, Outcome.UNDONE, "time_over")
    assert becomes(stray.pid, "SR")


@needs("root")
def test_a_successor_takes_over_from_one_whose_matcher_is_gone(start: Start, stray: Process) -> None:
    first = start(FREEZE.format(60))
    assert first.ask(request(Kind.FREEZE, stray)).outcome is Outcome.DONE
    rival = start(FREEZE.format(60))
    assert rival.process.wait(WAIT) == 1  # the first one still has its matcher
    first.socket.close()
    second = start(FREEZE.format(60))
    assert second.ask(request(Kind.FREEZE, stray)).reason == "in_force"
    assert first.process.wait(WAIT) == 0
    assert becomes(stray.pid, "T")
    assert audisp(["hids", "reactions", "undo", "1", "--state", str(second.state)]) == 0
    assert becomes(stray.pid, "SR")


@needs("root")
def test_the_command_lists_undoes_and_resumes(start: Start, stray: Process, capsys: pytest.CaptureFixture[str]) -> None:
    reactor = start(FREEZE.format(60) + "per_hour = 1\n")
    where = ["--state", str(reactor.state)]
    places = [*where, "--config", str(reactor.config)]
    assert reactor.ask(request(Kind.FREEZE, stray)).outcome is Outcome.DONE
    assert reactor.ask(request(Kind.KILL, stray)).reason == "per_hour"
    assert audisp(["hids", "reactions", "list", *where]) == 0
    said = capsys.readouterr().out
    assert f"freeze_process 'process {stray.pid}/{stray.start}'  in force, " in said
    assert "the breaker is open" in said
    assert audisp(["hids", "reactions", "list", "--json", "--open", *where]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["id"], each["kind"], each["in_force"]) for each in told] == [(1, "freeze_process", True)]
    assert audisp(["hids", "reactions", "resume", *places]) == 0
    assert audisp(["hids", "reactions", "resume", *places]) == 1
    assert audisp(["hids", "reactions", "undo", "7", *places]) == 2
    reactor.kill()
    # Nobody runs: the command does it itself.
    assert audisp(["hids", "reactions", "undo", "1", *places]) == 0
    assert becomes(stray.pid, "SR")
    assert audisp(["hids", "reactions", "undo", "1", *places]) == 2
    assert audisp(["hids", "reactions", "resume", *places]) == 1
    assert audisp(["hids", "reactions", "list", "--state", str(reactor.state / "none")]) == 0


def test_the_configuration_is_checked_before_anything(start: Start) -> None:
    reactor = start("kill_process = high\n", collector=True)
    assert reactor.process.wait(WAIT) == 2
    assert "reactions.conf:1: kill_process: cannot be done on a collector" in reactor.log.read_text()
    assert not reactor.state.exists()


def test_without_anything_to_wait_for_it_ends(start: Start) -> None:
    assert start("", alone=True).process.wait(WAIT) == 0


def test_what_is_missing_is_said_at_start() -> None:
    settings = ReactionsConf(mail_to="root", sendmail="/nowhere/sendmail", kill_process=("high",))
    assert missing(settings) == ["mail_to needs /nowhere/sendmail, which is not there (package: a mail server)"]


def test_sigterm_ends_it(start: Start) -> None:
    reactor = start("mail_to = root\n")
    assert reactor.ask(request(Kind.NOTIFY)).outcome is Outcome.DRY_RUN
    reactor.process.terminate()
    assert reactor.process.wait(WAIT) == 0


def test_the_control_socket_is_ours_alone(start: Start) -> None:
    reactor = start("")
    assert reactor.ask(request(Kind.NOTIFY)).reason == "nowhere"
    path = reactor.state / control.NAME
    assert path.stat().st_mode & 0o777 == 0o600
    for question in ({"op": "reboot"}, {"op": "undo", "id": "1"}, {"op": "yield"}, {}):
        with pytest.raises(StoreError):
            control.ask(reactor.state, **question)
    for data in (b"", b"[", b"5", b"[" * 4000, b"\xff"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(WAIT)
            client.connect(str(path))
            client.send(data)
            assert b"error" in client.recv(5000)
    assert reactor.ask(request(Kind.NOTIFY)).reason == "nowhere"


def test_kill_9_between_the_journal_and_the_end_of_the_act(start: Start, tmp_path: Path) -> None:
    """The command itself kills the reactor: so it has been begun, and nobody knows how far it came."""
    undid = tmp_path / "undid"
    for name, text in (("do", 'kill -9 "$PPID"'), ("undo", f"cat >{undid}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    text = f"dry_run = no\nrun_command = high\ncommand = {tmp_path}/do\nundo_command = {tmp_path}/undo\n"
    first = start(text + "command_time = 1h\n")
    first.socket.send(encode_request(request(Kind.RUN)))
    assert first.process.wait(WAIT) == -signal.SIGKILL
    assert [entry["act"]["step"] for entry in entries(first.state)] == ["begun"]
    second = start(text + "command_time = 1h\n")
    result = second.told()
    assert (result.act, result.outcome, result.reason) == (1, Outcome.UNDONE, "interrupted")
    assert json.loads(undid.read_bytes())["undo"]


@needs("root")
def test_the_uids_that_it_is_told_are_spared(start: Start) -> None:
    program = 'sleep 60 >/dev/null 2>&1 & echo "$!"'
    done = subprocess.run(["setsid", "sh", "-c", program], capture_output=True, check=True, user=65534, group=65534)
    pid = int(done.stdout)
    wait_for(lambda: (found := find(pid)) is not None and found.exe.endswith("/sleep"))
    found = find(pid)
    assert found is not None
    try:
        spared = start("dry_run = no\nkill_process = high\n", ours=[65534])
        result = spared.ask(request(Kind.KILL, Process(pid, found.start)))
        assert (result.reason, "a user of ours" in result.text) == ("spared", True)
        spared.kill()
        other = start("dry_run = no\nkill_process = high\n")
        assert other.ask(request(Kind.KILL, Process(pid, found.start))).outcome is Outcome.DONE
    finally:
        now = find(pid)
        if now is not None and now.start == found.start and now.state != "Z":
            os.kill(pid, signal.SIGKILL)


def test_an_undo_that_hangs_holds_up_no_other(start: Start, tmp_path: Path) -> None:
    undid = tmp_path / "undid"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nread -r line\necho >>{undid}\nexec sleep 5\n")
    program.chmod(0o755)
    text = "dry_run = no\nrun_command = high\ncommand = /bin/true\nundo_command = {}\ncommand_time = 1\n"
    reactor = start(text.format(program))
    for number in range(1, 4):
        assert reactor.ask(request(Kind.RUN, event_id=f"1.000:{number}")).outcome is Outcome.DONE
    wait_for(lambda: undid.exists() and len(undid.read_text()) == 3)


LIMITS: Final = "dry_run = no\nrun_command = critical\ncommand = {}\nper_hour = 4\nnotices_per_hour = 2\n"


def test_a_compromised_matcher_cannot_exceed_the_configuration(start: Start, tmp_path: Path) -> None:
    """It has the socket, and sends what it likes: lies, garbage, other people's targets, everything at once."""
    did = tmp_path / "did"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho >>{did}\n")
    program.chmod(0o755)
    reactor = start(LIMITS.format(program) + f"notify = critical\nnotify_command = {program}\n")
    chance = random.Random(7)
    mine = find(os.getpid())
    assert mine is not None
    targets: list[tuple[Kind, Any]] = [
        (Kind.RUN, None),
        (Kind.NOTIFY, None),
        (Kind.KILL, Process(mine.pid, mine.start)),
        (Kind.BLOCK, Address("127.0.0.1")),
        (Kind.BLOCK, Address("192.0.2.1;reboot")),
    ]
    outcomes: list[tuple[Kind, Outcome]] = []
    for number in range(1, 201):
        kind, target = chance.choice(targets)
        given = {"event_id": f"1.000:{number}", "level": Level.CRITICAL, "seconds": 2**32 - 2}
        lie = request(kind, target, number=number, **given)
        reactor.socket.send(encode_request(lie))
        if number % 50 == 0:
            reactor.socket.send(bytes(chance.randrange(256) for _ in range(100)))
        result = reactor.told()
        outcomes.append((result.kind, result.outcome))
    done = [kind for kind, outcome in outcomes if outcome is Outcome.DONE]
    assert (done.count(Kind.RUN), done.count(Kind.NOTIFY), len(done)) == (4, 2, 6)
    assert len(did.read_text().splitlines()) == 6
    assert control.ask(reactor.state, op="resume") == {"was_open": True}
    # Then nothing but garbage: it is read for a while, and then no more.
    while reactor.process.poll() is None:
        try:
            reactor.socket.send(os.urandom(64))
        except OSError:
            break
    assert reactor.process.wait(WAIT) == 0
    assert f"{MAX_MALFORMED} messages were no requests" in reactor.log.read_text()
    assert len(did.read_text().splitlines()) == 6


def test_a_matcher_that_reads_no_results_stops_nobody_s_undo(start: Start, tmp_path: Path) -> None:
    undid = tmp_path / "undid"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho >>{undid}\n")
    program.chmod(0o755)
    reactor = start(
        f"dry_run = no\nrun_command = high\ncommand = /bin/true\nundo_command = {program}\ncommand_time = 1\n"
    )
    assert reactor.ask(request(Kind.RUN)).outcome is Outcome.DONE
    reactor.socket.setblocking(False)
    sent = 0
    full = 0
    while full < 20:  # neither it nor the socket takes any more, and that for a while
        try:
            reactor.socket.send(encode_request(request(Kind.RUN, level=Level.LOW, why="x" * 500)))
            sent += 1
            assert sent < 100_000
        except BlockingIOError:
            full += 1
            time.sleep(0.01)
    wait_for(undid.exists)


@needs("root", "nft")
def test_it_enters_a_network_namespace(start: Start) -> None:
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        network = f"/proc/{holder.pid}/ns/net"
        reactor = start("dry_run = no\nblock_address = high\nblock_time = 60\n", netns=Path(network))
        result = reactor.ask(request(Kind.BLOCK, Address("::ffff:192.0.2.66")))
        assert result.outcome is Outcome.DONE, result.text
        listed = ["nsenter", f"--net={network}", "nft", "list", "set", "inet", "audisp_hids", "block4"]
        assert "192.0.2.66 timeout 1m expires" in subprocess.run(listed, capture_output=True, text=True).stdout
        # nft's own tables here are as they were.
        assert subprocess.run(["nft", "list", "table", "inet", "audisp_hids"], capture_output=True).returncode != 0
        assert audisp(["hids", "reactions", "undo", "1", "--state", str(reactor.state)]) == 0
        assert "192.0.2.66" not in subprocess.run(listed, capture_output=True, text=True).stdout
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


PASSWD: Final = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\nmal:x:1001:1001::/:/bin/sh\n"
SHADOW: Final = "root:*:19000:0:99999:7:::\nmal:$6$salt$hash:19000:0:99999:7:::\n"


@needs("root")
def test_an_account_is_locked_and_given_back_in_time_across_kill_9(start: Start, tmp_path: Path) -> None:
    """The real usermod, started by the process with the few capabilities that it has; /etc is this test's own."""
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, text, mode in (("passwd", PASSWD, 0o644), ("shadow", SHADOW, 0o640), ("group", "mal:x:1001:\n", 0o644)):
        (etc / name).write_text(text)
        (etc / name).chmod(mode)
    before = ["unshare", "--mount", "/bin/sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh"]
    text = "dry_run = no\nlock_account = high\nlock_time = 3s\n"
    first = start(text, before=before)
    result = first.ask(request(Kind.LOCK, Account("mal")))
    assert (result.outcome, result.record_type) == (Outcome.DONE, 2205), result.text
    assert "mal:!$6$salt$hash:19000:0:99999:7::1:" in (etc / "shadow").read_text()
    assert first.ask(request(Kind.LOCK, Account("root"))).reason == "spared"
    assert first.ask(request(Kind.LOCK, Account("-rf"))).reason == "target"
    first.kill()
    second = start(text, before=before)
    assert second.told().outcome is Outcome.UNDONE
    assert (etc / "shadow").read_text() == SHADOW
