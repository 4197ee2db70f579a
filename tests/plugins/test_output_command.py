"""`output` to a program: how it is started and ended, and that kill -9 at any moment loses no line."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from audisp.plugin import Delivery, Retry
from audisp_plugins import backoff, output_command, output_feed
from audisp_plugins.output import open_output
from audisp_plugins.output_command import ProgramReader
from audisp_plugins.output_config import OutputConfig
from audisp_plugins.output_feed import Feeder
from audisp_plugins.presence import Presence
from tests.needs import needs
from tests.plugins.booking import BookingHost, block_of, record
from tests.plugins.senders import WAIT, lines_of, refuses, until, until_taken

pytestmark = needs("root")  # only what belongs to root is started, as auditd has it

PYTHON: Final = f"#!{os.path.realpath(sys.executable)} -IS\n"
KEEP: Final = """
import os, sys
out = os.open(f"{sys.argv[1]}.{os.getpid():08d}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
"""
COPY: Final = (
    KEEP
    + """
while data := os.read(0, 65536):
    os.write(out, data)
"""
)
CAREFUL: Final = (
    KEEP
    + """
import random, socket, time
chance = random.Random(os.getpid())
stdin = socket.socket(fileno=0)
# What was read counts as delivered, so it is written down before it is.
while data := stdin.recv(chance.choice([10, 1000, 100_000]), socket.MSG_PEEK):
    os.write(out, data)
    stdin.recv(len(data))
    if chance.random() < 0.1:
        time.sleep(0.002)
"""
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.001)
    monkeypatch.setattr(backoff, "MOST", 0.01)
    monkeypatch.setattr(output_feed, "DELIVER_TIME", 0.3)


class Program:
    """A program, and what its processes have written down, one file each."""

    def __init__(self, folder: Path, code: str) -> None:
        self.folder = folder
        self.path = folder / "program"
        self.path.write_text(PYTHON + code)
        self.path.chmod(0o755)
        self.command = (str(self.path), str(folder / "read"))

    def reads(self) -> dict[int, bytes]:
        """By pid."""
        return {int(path.suffix[1:]): path.read_bytes() for path in self.folder.glob("read.*")}

    def data(self) -> bytes:
        """What the only process has read."""
        (data,) = self.reads().values() or (b"",)
        return data


Make = Callable[[str], Program]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda code: Program(tmp_path, code)


def to(command: tuple[str, ...], host: BookingHost) -> Feeder:
    return Feeder(lambda _: ProgramReader(command, host), Presence(f"program {command[0]}", host), host)


def process_of(feeder: Feeder) -> int:
    assert isinstance(feeder._reader, ProgramReader)
    return feeder._reader._process.pid


async def test_open(make: Make, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_feed, "DELIVER_TIME", WAIT)
    program = make(COPY)
    lines = [*lines_of(0, 3_000, 300), b'{"a":"b"}\n', b"\xff\x01 anything \n"]
    async with open_output(OutputConfig(command=program.command), host) as delivery:
        assert isinstance(delivery, Delivery)
        deliver: Any = delivery.deliver
        assert delivery.state
        assert delivery.state() == {"output": "not connected yet"}
        deliver(block_of(lines[:10]))
        assert delivery.state()["output"].startswith("program runs with pid ")
        deliver(block_of(lines[10:]))
    # It got the end of its input, and ended by itself.
    assert program.data() == b"".join(lines)
    assert host.counts == {}
    assert host.said == []


def test_what_the_program_sees(make: Make, host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    program = make(
        KEEP
        + """
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}") and int(fd) != out)
import signal
def text():
    yield sys.argv[2:]
    yield [name for name in os.environ if name != "LC_CTYPE"]  # that one is Python's own
    yield os.getcwd()
    yield fds
    yield os.readlink("/proc/self/fd/1")
    yield os.getpgid(0) == os.getpid()
    yield [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
os.read(0, 1)
os.write(out, repr(list(text())).encode())
while os.read(0, 65536):
    pass
"""
    )
    feeder = to((*program.command, "a b", "$HOME;x"), host)
    until_taken(feeder, block_of([record(1)]))
    feeder.close()
    assert program.data() == b"[['a b', '$HOME;x'], [], '/', [0, 1, 2], '/dev/null', True, []]"


@pytest.mark.parametrize("seed", range(6))
def test_kill_9_at_any_moment(make: Make, host: BookingHost, seed: int) -> None:
    chance = random.Random(seed)
    program = make(CAREFUL)
    feeder = to(program.command, host)
    stop = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not stop.wait(chance.uniform(0.01, 0.1)):
            try:
                os.kill(process_of(feeder), signal.SIGKILL)
            except (AssertionError, ProcessLookupError):
                continue
            kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    sent: list[bytes] = []
    try:
        while kills < 15:
            lines = lines_of(len(sent), chance.randint(1, 500), chance.randint(1, 500))
            until_taken(feeder, block_of(lines))
            sent += lines
    finally:
        stop.set()
        killer.join()
    feeder.close()
    whole = [data[: data.rfind(b"\n") + 1].splitlines(keepends=True) for data in program.reads().values()]
    found = {line for lines in whole for line in lines}
    assert found == set(sent)
    for lines in whole:
        # Each process gets whole lines in order; what it was sent is a run of what there was.
        assert lines == sent[(start := sent.index(lines[0]) if lines else 0) : start + len(lines)]
    # What it had not read is counted exactly: nobody gets a line that another one has read to its end, but for what was
    # written down and not yet read when it was killed.
    doubled = sum(len(lines) for lines in whole) - len(sent)
    assert doubled <= kills * 100_000 // 60


def test_exactly_what_it_had_not_read_comes_again(make: Make, host: BookingHost) -> None:
    program = make(
        KEEP
        + """
import time
data = os.read(0, 1000)
os.write(out, data)
if os.path.exists(sys.argv[1] + "-second"):
    while data := os.read(0, 65536):
        os.write(out, data)
else:
    open(sys.argv[1] + "-second", "w")
    time.sleep(3600)
"""
    )
    feeder = to(program.command, host)
    lines = lines_of(0, 50)
    assert refuses(feeder, block_of(lines))
    first = process_of(feeder)
    os.kill(first, signal.SIGKILL)
    until_taken(feeder, block_of([*lines, record(50)]))
    feeder.close()
    reads = program.reads()
    read = reads.pop(first)
    assert len(read) == 1_000
    whole = read.count(b"\n")
    assert list(reads.values()) == [b"".join(lines[whole:]) + record(50)]
    # One more, if its death was noticed a moment later.
    assert host.counts["sent_again"] in (50 - whole, 51 - whole)
    assert host.heard("is away: program: was killed by SIGKILL; records wait")
    assert host.heard("is back")


def test_a_slow_program_gets_each_line_once(make: Make, host: BookingHost) -> None:
    program = make(
        KEEP
        + """
import time
while data := os.read(0, 4000):
    os.write(out, data)
    time.sleep(0.002)
"""
    )
    feeder = to(program.command, host)
    lines = lines_of(0, 4_000, 300)
    refused = until_taken(feeder, block_of(lines))
    assert refused > 0
    feeder.close()
    assert host.counts == {"slow": refused}
    assert program.data() == b"".join(lines)


def test_a_program_that_is_stopped_costs_time_and_nothing_else(make: Make, host: BookingHost) -> None:
    program = make(COPY)
    feeder = to(program.command, host)
    until_taken(feeder, block_of([record(1)]))
    os.kill(process_of(feeder), signal.SIGSTOP)
    for _ in range(3):
        with pytest.raises(Retry, match="has not taken everything in"):
            feeder.deliver(block_of([record(2)]))
    os.kill(process_of(feeder), signal.SIGCONT)
    until_taken(feeder, block_of([record(2)]))
    feeder.close()
    assert program.data() == record(1) + record(2)


def test_a_program_that_ends_all_the_time_is_started_ever_later(
    make: Make, host: BookingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_feed, "DELIVER_TIME", WAIT)
    monkeypatch.setattr(backoff, "FIRST", 1_000.0)
    monkeypatch.setattr(backoff, "MOST", 100_000.0)
    program = make("import sys\nsys.exit(3)\n")
    feeder = to(program.command, host)
    with pytest.raises(Retry, match="program: has ended with status 3"):
        feeder.deliver(block_of([record(1)]))
    with pytest.raises(Retry, match=r"program: has ended with status 3; tried again in \d+\.\d s"):
        feeder.deliver(block_of([record(1)]))
    feeder.resume()
    with pytest.raises(Retry, match=r"has ended with status 3\Z"):
        feeder.deliver(block_of([record(1)]))
    assert [level for level, _ in host.said] == ["warning"]
    feeder.close()


def test_a_program_that_takes_a_block_and_ends(make: Make, host: BookingHost) -> None:
    """It has read everything, so that is delivered; it has not run for long, so it is started later."""
    program = make(KEEP + "os.write(out, os.read(0, 65536))\n")
    feeder = to(program.command, host)
    for serial in range(3):
        until_taken(feeder, block_of([record(serial)]))
    feeder.close()
    reads = program.reads()
    assert sorted(reads.values()) == [record(serial) for serial in range(3)]


def test_one_that_ran_for_long_is_started_again_at_once(
    make: Make, host: BookingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_feed, "STEADY", 0.0)
    monkeypatch.setattr(backoff, "FIRST", 1_000.0)
    program = make(COPY)
    feeder = to(program.command, host)
    until_taken(feeder, block_of([record(1)]))
    os.kill(process_of(feeder), signal.SIGKILL)
    time.sleep(0.05)
    until_taken(feeder, block_of([record(2)]))
    feeder.close()
    assert sorted(program.reads().values()) == [record(1), record(2)]
    assert host.said == [("notice", f"program {program.path}: program: was killed by SIGKILL")]


def test_what_cannot_be_started(make: Make, host: BookingHost) -> None:
    program = make(COPY)
    feeder = to(program.command, host)
    for mode, problem in (
        (0o777, "can be written by others"),
        (0o600, "owner and group must be able to read and execute it"),
        (None, "cannot be used: No such file or directory"),
    ):
        if mode is None:
            program.path.unlink()
        else:
            program.path.chmod(mode)
        feeder.resume()
        with pytest.raises(Retry, match=problem):
            feeder.deliver(block_of([record(1)]))
        assert host.heard(problem)
    program.path.write_bytes(b"\x7fELF nonsense")
    program.path.chmod(0o755)
    feeder.resume()
    with pytest.raises(Retry, match="Exec format error"):
        feeder.deliver(block_of([record(1)]))
    make(COPY)
    until_taken(feeder, block_of([record(1)]))
    feeder.close()
    assert program.data() == record(1)


# Its standard error.


def test_what_it_says(make: Make, host: BookingHost) -> None:
    program = make(
        """
import os, sys, time
os.write(2, b"first\\nsec")
os.write(2, b"ond \\xff\\x1b[2J\\n")
for number in range(1000):
    os.write(2, b"line %d\\n" % number)
os.read(0, 65536)
time.sleep(0.3)  # for a piece of its own
os.write(2, b"y" * 5000 + b"\\n")
while os.read(0, 65536):
    pass
os.write(2, b"last words")
"""
    )
    feeder = to(program.command, host)
    until_taken(feeder, block_of([record(1)]))
    until(lambda: sum(message.count("yyy") for _, message in host.said) > 0)
    feeder.close()
    said = [message for _, message in host.said]
    assert said[0] == "program says: first"
    assert said[1] == "program says: second \\xff\x1b[2J"  # the host escapes what is left
    assert said[-1] == "program says: last words"
    assert max(len(message) for message in said) <= output_command.STDERR_LINE + 20
    more = [int(message.split()[2]) for message in said if message.endswith("lines more")]
    assert len(said) - len(more) + sum(more) >= 1_004
    assert len(said) < 700


def test_a_grandchild_that_holds_its_standard_error_holds_nobody(make: Make, host: BookingHost) -> None:
    program = make(
        """
import os, time
if os.fork() == 0:
    os.close(0)
    time.sleep(60)
os.write(2, b"said\\n")
while os.read(0, 65536):
    pass
"""
    )
    feeder = to(program.command, host)
    until_taken(feeder, block_of([record(1)]))
    group = process_of(feeder)
    feeder.close()
    os.killpg(group, signal.SIGKILL)
    assert host.said == [("info", "program says: said")]


# Its end.


@pytest.mark.parametrize(
    ("code", "signals", "said"),
    [
        ("", "", False),
        ("signal.signal(signal.SIGTERM, lambda *_: (os.write(out, b'TERM'), os._exit(0)))\nEOF = 1", "TERM", False),
        ("signal.signal(signal.SIGTERM, lambda *_: os.write(out, b'TERM'))\nEOF = 1", "TERM", True),
    ],
)
def test_the_end(
    make: Make, host: BookingHost, monkeypatch: pytest.MonkeyPatch, code: str, signals: str, said: bool
) -> None:
    monkeypatch.setattr(output_command, "EOF_GRACE", 0.3 if signals else 10.0)
    monkeypatch.setattr(output_command, "TERM_GRACE", 0.3 if said else 10.0)
    program = make(
        KEEP
        + f"""
import signal, time
EOF = 0
{code}
while data := os.read(0, 65536):
    os.write(out, data)
while EOF:
    time.sleep(10)
"""
    )
    feeder = to(program.command, host)
    until_taken(feeder, block_of([record(1)]))
    pid = process_of(feeder)
    feeder.close()
    assert not Path(f"/proc/{pid}").exists()
    assert program.data() == record(1) + signals.encode()
    assert host.said == ([("warning", "program is still there after SIGTERM, and killed")] if said else [])


def test_at_the_end_a_line_is_sent_whole(make: Make, host: BookingHost) -> None:
    program = make(
        KEEP
        + """
import time
time.sleep(0.5)
while data := os.read(0, 65536):
    os.write(out, data)
"""
    )
    feeder = to(program.command, host)
    lines = lines_of(0, 3_000, 333)
    assert refuses(feeder, block_of(lines))
    time.sleep(0.4)  # by now it reads, and so there is room for the rest of the line
    feeder.close()
    data = program.data()
    assert data.endswith(b"\n")
    assert data == b"".join(lines[: data.count(b"\n")])
    assert len(data) < len(b"".join(lines))


def test_nothing_is_left_open(make: Make, host: BookingHost) -> None:
    program = make(COPY)
    before = sorted(os.listdir("/proc/self/fd"))
    feeder = to(program.command, host)
    for serial in range(5):
        until_taken(feeder, block_of([record(serial)]))
        os.kill(process_of(feeder), signal.SIGKILL)
    feeder.close()
    program.path.unlink()
    feeder.resume()
    assert refuses(feeder, block_of([record(9)]))
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert sorted(program.reads().values()) == [record(serial) for serial in range(5)]
