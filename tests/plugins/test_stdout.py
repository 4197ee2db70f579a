"""`stdout`: what a person sees, and what an attacker cannot make a person see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from audisp.plugin import ConfigError
from audisp_plugins.stdout import LineForm, RawForm, Screen, StdoutConfig, audisp_plugins, open_stdout, terminal_width
from tests.needs import ROOT
from tests.plugins.booking import BookingHost, block_of, record


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def read_all(fd: int) -> str:
    os.set_blocking(fd, False)
    data = b""
    try:
        while more := os.read(fd, 65_536):
            data += more
    except BlockingIOError:
        pass
    return data.decode()


@pytest.mark.parametrize(
    ("line", "width", "shown"),
    [
        (record(42), None, "00:13:20.123 SYSCALL            42  arch=c000003e"),
        (record(42, b"x" * 100), 60, "00:13:20.123 SYSCALL            42  " + "x" * 23 + "…"),
        (b"node=web1 " + record(42), None, "00:13:20.123 SYSCALL            42  web1: arch=c000003e"),
        (record(1, b"", b"EOE"), None, None),
        (b"node=n " + record(1, b"", b"EOE"), None, None),
        (record(1, b"a=\x1b[2J\x9b\x07b"), None, "00:13:20.123 SYSCALL             1  a=\\x1b[2J\\x9b\\x07b"),
        (record(1, "name=\u202egpj.exe".encode()), None, "00:13:20.123 SYSCALL             1  name=\\u202egpj.exe"),
        (record(1, b"a\x1dUID=0"), None, "00:13:20.123 SYSCALL             1  a UID=0"),
        (b"\x1b]0;owned\x07 garbage\n", None, "\\x1b]0;owned\\x07 garbage"),
        (b"type=A\x1b[0m msg=audit(1.002:3): x\n", None, "02:00:01.002 A\\x1b[0m            3  x"),
        (b"type=A msg=audit(99999999999999999999.002:3): x\n", None, "--:--:--.002 A                   3  x"),
        (record(99_999_999, b"text", b"A_VERY_LONG_TYPE_NAME"), 40, "00:13:20.123 A_VERY_LONG_TYPE_NAME 9999…"),
    ],
)
def test_line(line: bytes, width: int | None, shown: str | None) -> None:
    assert LineForm(colour=False).line(line, width) == shown


def test_colour_adds_no_columns() -> None:
    plain = LineForm(colour=False).line(record(7, b"x" * 200), 80)
    colour = LineForm(colour=True).line(record(7, b"x" * 200), 80)
    assert plain is not None
    assert colour is not None
    assert colour != plain
    assert re.sub(r"\x1b\[[0-9]m", "", colour) == plain
    assert len(plain) == 80


def test_rate_cuts_a_flood_and_says_so(host: BookingHost) -> None:
    reader, writer = os.pipe()
    clock = Clock()
    screen = Screen(host, writer, LineForm(colour=False), 3, lambda: None, clock)
    screen.show(block_of([record(n) for n in range(10)] + [record(10, b"", b"EOE")]))
    clock.now += 1
    screen.show(block_of([record(11)]))
    screen.finish()
    lines = read_all(reader).splitlines()
    assert [line.split()[2] if "more" not in line else line for line in lines] == ["0", "1", "2", "… 7 more", "11"]
    assert host.counts["not_shown"] == 7
    os.close(reader)
    os.close(writer)


def test_flood_that_ends_is_summed_up_by_itself(host: BookingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audisp_plugins.stdout.WINDOW", 0.05)
    reader, writer = os.pipe()
    screen = Screen(host, writer, LineForm(colour=False), 1, lambda: None)
    screen.show(block_of([record(n) for n in range(5)]))
    first = os.read(reader, 4096).decode()
    assert first.endswith("arch=c000003e\n")
    assert os.read(reader, 4096).decode() == "… 4 more\n"
    screen.finish()
    os.close(reader)
    os.close(writer)


def test_reader_that_left_ends_the_writing_only(host: BookingHost) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    screen = Screen(host, writer, LineForm(colour=False), 0, lambda: None)
    screen.show(block_of([record(1)]))
    screen.show(block_of([record(2), record(3)]))
    assert host.heard("Broken pipe")
    assert host.counts["unseen"] == 2
    assert len(host.said) == 1
    os.close(writer)


async def test_non_blocking_descriptor_is_waited_for(host: BookingHost) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    screen = Screen(host, writer, LineForm(colour=False), 0, lambda: None)
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, screen.show, block_of([record(n, b"x" * 500) for n in range(1000)]))
        while got.count(b"\n") < 1000:
            await trio.lowlevel.wait_readable(reader)
            got += os.read(reader, 65_536)
    assert [int(line.split()[2]) for line in got.splitlines()] == list(range(1000))
    os.close(reader)
    os.close(writer)


def test_width_is_that_of_the_terminal() -> None:
    main, terminal = pty.openpty()
    for columns, expected in ((100, 100), (20, None)):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 25, columns, 0, 0))
        assert terminal_width(terminal)() == expected
    os.close(main)
    os.close(terminal)
    reader, writer = os.pipe()
    assert terminal_width(writer)() is None
    os.close(reader)
    os.close(writer)


async def test_open_writes_full_lines_to_a_file(host: BookingHost, tmp_path: Path) -> None:
    # Descriptor 1 is pytest's own, so the real thing runs in a child.
    out = tmp_path / "out"
    program = (
        "import sys, trio; sys.path[:0] = sys.argv[1:]\n"
        "from audisp_plugins.stdout import *\n"
        "from tests.plugins.booking import *\n"
        "async def main():\n"
        "    host = BookingHost('stdout', '/', False)\n"
        "    async with open_stdout(StdoutConfig(), host) as delivery:\n"
        "        delivery.deliver(block_of([record(n, b'y' * 300) for n in range(500)]))\n"
        "trio.run(main)\n"
    )
    with out.open("wb") as file:
        await trio.run_process([sys.executable, "-c", program, str(ROOT), str(ROOT / "plugins")], stdout=file)
    lines = out.read_text().splitlines()
    assert len(lines) == 500
    assert all(line.endswith("y" * 300) and "\x1b" not in line for line in lines)


def test_declared() -> None:
    (kind,) = audisp_plugins()
    assert (kind.name, kind.config, kind.open, kind.wants) == ("stdout", StdoutConfig, open_stdout, "blocks")


def test_negative_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^rate: -1 is below 0"):
        StdoutConfig(rate=-1)


def test_what_is_played_is_marked() -> None:
    form = LineForm(False)
    assert form.line(record(42), None, "capture") == "capture 00:13:20.123 SYSCALL            42  arch=c000003e"
    line = form.line(record(42, b"x" * 100), 60, "capture")
    assert line is not None
    assert len(line) == 60
    assert form.line(record(1, b"", b"EOE"), None, "capture") is None


def test_the_raw_form_is_the_record_itself() -> None:
    line = record(42, b"name=\xff\x1b[2J")
    read, write = os.pipe()
    try:
        Screen(BookingHost("stdout", "/nowhere", False), write, RawForm(False), 0, lambda: None).show(block_of([line]))
        assert os.read(read, 65_536) == line
        Screen(BookingHost("stdout", "/nowhere", False), write, RawForm(True), 0, lambda: None).show(block_of([line]))
        assert b"\\xff\\x1b[2J" in os.read(read, 65_536)
    finally:
        os.close(read)
        os.close(write)
