"""`audispd` and `audisp` as processes: exit codes, a file replayed to children, questions while it runs, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.dispatch.intakes import line
from tests.dispatch.worlds import KEEP

PATIENCE = 40.0
"""Seconds; bounds a defect, asserts no timing."""

Found = subprocess.CompletedProcess[str]


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-I", "-m", f"audisp.cli.{module}", *(str(word) for word in arguments)]


def finish(module: str, *arguments: object, given: bytes | None = None) -> Found:
    """Run to the end."""
    done = subprocess.run(command(module, *arguments), input=given, capture_output=True, timeout=PATIENCE, check=False)
    return Found(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@attrs.define
class Home:
    """One instance's folders."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        (self.folder / "etc").mkdir()
        (self.folder / "plugins.d").mkdir()
        self.configure()

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def write(self, name: str, text: str, mode: int = 0o640) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def configure(self, auditd: str = "", own: str = "") -> None:
        self.write("etc/auditd.conf", f"log_format = RAW\nspace_left = 75\nadmin_space_left = 50\n{auditd}")
        self.write("etc/audispd.conf", f"spill_dir = {self.folder}/spill\n{own}")

    def child(self, name: str, extra: str = "", *, code: str = KEEP) -> Path:
        program = self.write(f"{name}.py", code, 0o750)
        out = self.folder / f"{name}.out"
        self.write(
            f"plugins.d/{name}.conf", f"active = yes\ndirection = out\npath = {program}\ntype = always\nargs = {out}\n"
        )
        self.write(f"plugins.d/{name}.audisp", extra)
        return out

    def arguments(self, *more: object) -> list[object]:
        return [
            "-n", "-c", self.folder / "etc", "--plugins", self.folder / "plugins.d", "--runtime-dir", self.run, *more,
        ]  # fmt: skip

    def audispd(self, *more: object) -> Found:
        return finish("audispd", *self.arguments(*more))

    def start(self, *more: object) -> subprocess.Popen[bytes]:
        """Start one that goes on, and wait until it answers."""
        process = subprocess.Popen(
            command("audispd", *self.arguments(*more)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        self.until(lambda: process.poll() is not None or self.answers())
        return process

    def answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(self.run / "control.sock"))
        except OSError:
            return False
        return True

    def audisp(self, *arguments: object) -> Found:
        return finish("audisp", *arguments, "--runtime-dir", self.run)

    def status(self) -> Any:
        found = self.audisp("status", "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "never"
            time.sleep(0.02)

    def end(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> tuple[int, str]:
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, errors.decode()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # One in the background, of a test that failed.
        os.kill(int((made.run / "audispd.pid").read_text()), signal.SIGKILL)


def serials(path: Path) -> list[int]:
    return [
        int(each.split(b":", 2)[1].split(b")")[0])
        for each in path.read_bytes().splitlines()
        if each.startswith(b"type=SYSCALL")
    ]


def records(first: int, count: int) -> bytes:
    return b"".join(line(serial, 200) for serial in range(first, first + count))


@pytest.mark.parametrize(
    "arguments",
    [["--no-such-option"], ["-s", "perhaps"], ["--source", "filee:/x"], ["--source", "unix:relative"], ["positional"]],
)
def test_usage(arguments: list[str]) -> None:
    found = finish("audispd", *arguments)
    assert found.returncode == 2
    assert found.stderr.startswith("usage: audispd")


def test_the_nearest_source_is_named() -> None:
    assert "did you mean file:PATH?" in finish("audispd", "--source", "filee:/x").stderr


def test_version_and_help() -> None:
    assert finish("audispd", "--version").stdout.startswith("audispd ")
    assert finish("audisp", "--version").stdout.startswith("audisp ")
    assert "Exit status: 0 ended as asked" in finish("audispd", "--help").stdout


@pytest.mark.parametrize(
    ("auditd", "own", "said"),
    [
        ("q_depht = 3\n", "", "q_depth"),
        ("tcp_listen_port = 60\ntransport = krb5\n", "", "transport: Kerberos is not spoken here"),
        ("log_format = ENRICHD\n", "", "log_format"),
        ("", "drain_timeout = soon\n", "drain_timeout"),
    ],
)
def test_a_bad_configuration(home: Home, auditd: str, own: str, said: str) -> None:
    home.configure(auditd, own)
    found = home.audispd("--source", "stdin")
    assert found.returncode == 6
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def test_a_source_that_is_not_there(home: Home) -> None:
    home.child("a")
    found = home.audispd("--source", f"file:{home.folder}/missing")
    assert found.returncode == 1
    assert "missing: No such file or directory" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_required_plugin_that_cannot_be_opened(home: Home) -> None:
    """The log's folder is missing."""
    home.write(
        "plugins.d/keep.audisp", f"active = yes\nplugin = log\nrequired = yes\nlog_file = {home.folder}/no/audit.log\n"
    )
    home.write("in.log", records(1, 3).decode())
    found = home.audispd("--source", f"file:{home.folder}/in.log")
    assert found.returncode == 1
    assert "plugin keep: " in found.stderr
    assert "Traceback" not in found.stderr


def test_a_file_is_replayed_to_all_and_the_process_ends(home: Home) -> None:
    outs = [home.child(name) for name in ("a", "b", "c", "d")]
    home.write("in.log", records(1, 20_000).decode())
    found = home.audispd("--source", f"file:{home.folder}/in.log")
    assert found.returncode == 0, found.stderr
    for out in outs:
        assert serials(out) == list(range(1, 20_001))
    books = json.loads((home.run / "state" / "books.json").read_text())
    assert books["clean"] is True
    assert {name: each["delivered"] for name, each in books["plugins"].items()} == dict.fromkeys("abcd", 20_002)


def test_stdin_status_and_sigterm(home: Home) -> None:
    out = home.child("a")
    process = home.start("--source", "stdin")
    assert process.stdin is not None
    process.stdin.write(records(1, 500))
    process.stdin.flush()
    home.until(lambda: home.status()["sources"]["stdin"]["routed"] == 500)
    snapshot = home.status()
    assert snapshot["plugins"]["a"]["offered"] == 501
    assert snapshot["plugins"]["a"]["required"] is False
    table = home.audisp("status")
    assert table.returncode == 0
    rows = {row[0]: row for row in map(str.split, table.stdout.splitlines()) if row}
    assert rows["stdin"][1:4] == ["500", "500", "0"]
    assert rows["a"][1] == "running"
    code, errors = home.end(process)
    assert code == 0, errors
    assert serials(out) == list(range(1, 501))
    assert b"type=DAEMON_END" in out.read_bytes().splitlines()[-1]
    assert not (home.run / "control.sock").exists()
    assert not (home.run / "audispd.pid").exists()


def test_commands_by_the_socket_and_by_signals(home: Home) -> None:
    home.child("a")
    process = home.start("--source", "stdin")
    for each in ("rotate", "resume", "reload"):
        assert home.audisp(each).returncode == 0
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCONT):
        process.send_signal(number)
    home.until((home.run / "auditd.state").exists)
    home.until(lambda: (home.folder / "a.out").read_bytes().count(b"type=DAEMON_CONFIG") == 2)
    out = (home.folder / "a.out").read_bytes()
    assert out.count(b"type=DAEMON_ROTATE") == out.count(b"type=DAEMON_RESUME") == 2
    assert home.audisp("stop").returncode == 0
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_who_asks_where_nobody_is(home: Home) -> None:
    for each in ("status", "reload", "rotate", "resume", "stop"):
        found = home.audisp(each)
        assert found.returncode == 1
        assert found.stdout == ""
        assert f"no audispd runs at {home.run}" in found.stderr


def test_a_second_instance_on_the_same_folder_is_refused(home: Home) -> None:
    home.child("a")
    process = home.start("--source", "stdin")
    found = home.audispd("--source", "stdin")
    assert found.returncode == 1
    assert f"another instance runs, pid {process.pid}" in found.stderr
    assert home.answers()
    assert home.end(process, signal.SIGINT)[0] == 0


def test_sigkill_is_booked_by_the_next_run(home: Home) -> None:
    stopped = "import os, sys, time\nopen(sys.argv[1], 'ab').close()\ntime.sleep(600)\n"
    first = f"#!{os.path.realpath(sys.executable)} -IS\n{stopped}"
    home.child("a", code=first)
    process = home.start("--source", "stdin")
    assert process.stdin is not None
    process.stdin.write(records(1, 20_000))
    process.stdin.flush()
    home.until(lambda: home.status()["plugins"]["a"]["offered"] == 20_001)

    def waiting() -> bool:
        books = json.loads((home.run / "state" / "books.json").read_text())
        return bool(books["plugins"]["a"]["waiting"] == 20_001)

    home.until(waiting)
    (pid,) = home.status()["plugins"]["a"]["pids"]
    process.kill()
    process.communicate(timeout=PATIENCE)
    os.kill(pid, signal.SIGKILL)
    out = home.child("a")
    again = home.start("--source", "stdin")
    home.until(lambda: b"reason=crash" in out.read_bytes())
    assert home.status()["lost_in_crash"]["a"]["waiting"] > 0
    code, errors = home.end(again)
    assert code == 0
    assert "plugin a: the last run was killed with" in errors
    # Told once, and not by the run after that.
    third = home.start("--source", "stdin")
    assert home.status()["lost_in_crash"] == {}
    assert home.end(third)[0] == 0


def test_a_spill_survives_the_process(home: Home) -> None:
    wait = f"#!{os.path.realpath(sys.executable)} -IS\nimport time\ntime.sleep(600)\n"
    extra = "overflow_action = spill\nqueue_bytes = 64K\nspill_min_free = 0\n"
    home.configure(own="drain_timeout = 0\n")
    home.child("a", extra, code=wait)
    home.write("in.log", records(1, 5000).decode())
    first = home.audispd("--source", f"file:{home.folder}/in.log")
    assert first.returncode == 0, first.stderr
    home.configure()
    out = home.child("a", extra)
    home.write("in.log", records(5001, 5000).decode())
    second = home.audispd("--source", f"file:{home.folder}/in.log")
    assert second.returncode == 0, second.stderr
    assert serials(out) == list(range(1, 10_001))


def test_into_the_background_and_out_again(home: Home) -> None:
    home.child("a")
    fifo = home.folder / "fifo"
    os.mkfifo(fifo)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home.folder / "events"))
    server.listen()
    arguments = [word for word in home.arguments("--source", f"unix:{home.folder}/events") if word != "-n"]
    found = finish("audispd", *arguments)
    assert found.returncode == 0, found.stderr
    assert home.answers()
    client, _ = server.accept()
    client.sendall(records(1, 100))
    home.until(lambda: home.status()["sources"][f"unix:{home.folder}/events"]["routed"] == 100)
    assert home.audisp("stop").returncode == 0
    home.until(lambda: not (home.run / "audispd.pid").exists())
    assert serials(home.folder / "a.out") == list(range(1, 101))
    client.close()
    server.close()


def test_a_start_that_fails_in_the_background_has_its_exit_code(home: Home) -> None:
    arguments = [word for word in home.arguments("--source", f"file:{home.folder}/missing") if word != "-n"]
    assert finish("audispd", *arguments).returncode == 1


def test_a_defect_of_our_own_is_said_and_ends_with_a_code(home: Home) -> None:
    code = """
import sys
from audisp.dispatch import main
from audisp.cli import audispd

async def broken(*arguments):
    raise KeyError("nobody thought of that")

main._run_engine = broken
sys.exit(audispd.main(sys.argv[1:]))
"""
    words = [str(word) for word in home.arguments("--source", "stdin")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "CRITICAL: a defect of audispd's own: KeyError: 'nobody thought of that'" in done.stderr
    assert "Traceback" in done.stderr
