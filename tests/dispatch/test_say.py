"""The log that never waits: real sockets, a stopped syslogd, one that comes back, floods and hostile text."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from pathlib import Path

from audisp.dispatch.say import MAX_KEYS, MAX_LINE, MAX_PENDING, Voice


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def syslogd(path: Path) -> socket.socket:
    """What a syslog daemon listens on."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(str(path))
    return sock


def drain(sock: socket.socket) -> list[str]:
    """All datagrams that wait."""
    got = []
    while True:
        try:
            got.append(sock.recv(65_536).decode())
        except BlockingIOError:
            return got


def lines_of(fd: int) -> list[str]:
    """What a pipe holds now."""
    os.set_blocking(fd, False)
    parts = []
    while True:
        try:
            part = os.read(fd, 65_536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode().splitlines()


def test_syslog_form(tmp_path: Path) -> None:
    with syslogd(tmp_path / "log") as server:
        voice = Voice("syslog", path=str(tmp_path / "log"))
        voice.say("warning", "the disk is full")
        voice.say("debug", "not written: below the threshold")
        voice.say("alert", "all is lost")
        first, second = drain(server)
        voice.close()
    stamp = r"[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"<28>{stamp} audispd\[{os.getpid()}\]: the disk is full", first)
    assert re.fullmatch(rf"<25>{stamp} audispd\[{os.getpid()}\]: all is lost", second)


def test_stderr_form_is_escaped_and_short() -> None:
    read, write = os.pipe()
    voice = Voice("stderr", fd=write)
    voice.say("error", "two\nlines, a bell\x07, a colour\x1b[31m, and \u202ereversed")
    voice.say("info", b"bytes that are no text: \xff\n")
    voice.say("info", "x" * 100_000)
    voice.say("info", "\x00" * 100_000)
    voice.say("info", "\u00e4" * 3_000)
    os.close(write)
    got = lines_of(read)
    os.close(read)
    assert got[0] == "audispd: ERROR: two\\x0alines, a bell\\x07, a colour\\x1b[31m, and \\u202ereversed"
    assert got[1] == "audispd: INFO: bytes that are no text: \\xff\\x0a"
    assert len(got) == 5
    for line in got[2:]:
        assert len(line.encode()) + 1 <= MAX_LINE
        assert line.endswith(" [cut]")


def test_a_stopped_syslogd_costs_nothing_and_is_caught_up(tmp_path: Path) -> None:
    """Its socket fills; we go on; what does not fit into the bound is counted, and said in the end."""
    count = 5_000
    with syslogd(tmp_path / "log") as server:
        voice = Voice("syslog", path=str(tmp_path / "log"))
        for number in range(count):
            voice.say("info", f"line {number} {'x' * 500}")
        assert voice.waiting == MAX_PENDING
        assert voice.dropped > 0
        got = []
        for _ in range(count):
            voice.tick()
            more = drain(server)
            got += more
            if not more:
                break
        voice.close()
    numbers = [int(found[1]) for line in got if (found := re.search(r": line (\d+) ", line))]
    assert numbers == list(range(len(numbers)))  # the oldest, in order, none twice
    assert len(numbers) + voice.dropped == count
    assert f": {voice.dropped} messages of this log were dropped" in got[-1]
    assert voice.waiting == 0


def test_syslogd_comes_late_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    voice = Voice("syslog", path=str(path))
    voice.say("info", "before it exists")
    assert voice.waiting == 1
    with syslogd(path) as first:
        voice.say("info", "now")
        assert [line.rsplit(": ", 1)[1] for line in drain(first)] == ["before it exists", "now"]
    voice.say("info", "while it is away")  # the socket's file is there, nobody behind it
    assert voice.waiting == 1
    with syslogd(path) as second:
        voice.tick()
        assert [line.rsplit(": ", 1)[1] for line in drain(second)] == ["while it is away"]
    assert voice.dropped == 0
    voice.close()


def test_a_full_pipe_as_stderr_does_not_block() -> None:
    read, write = os.pipe()
    voice = Voice("stderr", fd=write)
    for number in range(2_000):  # far more than a pipe holds; a blocking write would hang here
        voice.say("info", f"{number} {'y' * 900}")
    assert voice.waiting == MAX_PENDING
    assert os.get_blocking(write)  # shared with others, so left as it was
    got = lines_of(read)
    while voice.waiting:
        voice.tick()
        got += lines_of(read)
    assert [int(line.split()[2]) for line in got[:-1]] == list(range(len(got) - 1))
    assert "messages of this log were dropped" in got[-1]
    os.close(read)
    voice.say("info", "nobody reads any more")
    assert voice.waiting == 0
    os.close(write)


def test_a_closed_stderr_is_no_trouble() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    voice = Voice("stderr", fd=write)
    voice.say("critical", "to nobody")
    assert (voice.waiting, voice.dropped) == (0, 1)


def test_stderr_as_a_socket() -> None:
    """As under systemd."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        voice = Voice("stderr", "audispd-test", fd=ours.fileno())
        voice.say("notice", "hello")
        assert theirs.recv(100) == b"audispd-test: NOTICE: hello\n"
        for _ in range(2_000):
            voice.say("info", "z" * 1_000)
        assert voice.waiting == MAX_PENDING


def test_limit_and_summary() -> None:
    read, write = os.pipe()
    clock = Clock()
    voice = Voice("stderr", fd=write, clock=clock)
    for number in range(10):
        voice.say("warning", f"noise {number}", limit=("noise", 3, 60.0))
    voice.say("info", "something else", limit=("other", 1, 60.0))
    assert [line.split(": ", 2)[2] for line in lines_of(read)] == ["noise 0", "noise 1", "noise 2", "something else"]
    assert voice.suppressed == 7
    clock.now += 59.0
    voice.tick()
    assert lines_of(read) == []
    clock.now += 1.0
    voice.tick()
    assert lines_of(read) == ["audispd: WARNING: 7 more such messages, the last: noise 9"]
    voice.say("warning", "noise 10", limit=("noise", 1, 60.0))
    voice.say("error", "noise\n11", limit=("noise", 1, 60.0))
    voice.close()
    assert lines_of(read) == [
        "audispd: WARNING: noise 10",
        "audispd: ERROR: 1 more such messages, the last: noise\\x0a11",
    ]
    os.close(read)
    os.close(write)


def test_keys_are_bounded() -> None:
    read, write = os.pipe()
    voice = Voice("stderr", fd=write)
    voice.say("info", "one", limit=("first", 1, 1e9))
    voice.say("info", "two", limit=("first", 1, 1e9))
    for number in range(MAX_KEYS):
        voice.say("info", "k", limit=(f"key {number}", 1, 1e9))
    got = lines_of(read)
    assert len(got) == 1 + MAX_KEYS + 1
    assert got.count("audispd: INFO: 1 more such messages, the last: two") == 1
    os.close(read)
    os.close(write)


def fill(fd: int) -> None:
    """Write until nothing more goes in."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"f" * 4_096)


def test_turning_from_stderr_to_syslog_keeps_what_waits(tmp_path: Path) -> None:
    read, write = os.pipe()
    with syslogd(tmp_path / "log") as server:
        voice = Voice("stderr", fd=write, path=str(tmp_path / "log"))
        voice.say("error", "to the terminal")
        os.set_blocking(write, False)
        fill(write)
        voice.say("error", "too late for it")
        voice.turn("syslog")
        voice.say("info", "the rest")
        assert [line.split(" ")[0][:4] for line in drain(server)] == ["<27>", "<30>"]
        voice.close()
    os.close(read)
    os.close(write)


def test_many_threads(tmp_path: Path) -> None:
    with syslogd(tmp_path / "log") as server:
        voice = Voice("syslog", path=str(tmp_path / "log"))
        got: list[str] = []

        def speak(who: int) -> None:
            for number in range(100):
                voice.say("info", f"{who} {number}")

        threads = [threading.Thread(target=speak, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or voice.waiting:
            got += drain(server)
            voice.tick()
        got += drain(server)
        for thread in threads:
            thread.join()
        voice.tick()
        got += drain(server)
        voice.close()
    said = [line.rsplit(": ", 1)[1] for line in got if "messages of this log were dropped" not in line]
    assert len(said) + voice.dropped == 400
    assert len(set(said)) == len(said)
