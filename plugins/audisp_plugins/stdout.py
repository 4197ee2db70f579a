"""`stdout`: the stream for a person to watch, one readable line per record.

A line is local time, record type, serial, then the record's text. On a terminal it is cut to the width, and a flood
is cut to `rate` lines a second with a count of what was not shown. Control, bidi and invisible characters are always
escaped: what an attacker writes must not move the reader's cursor. EOE records are left out.
"""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

import attrs
import trio

from audisp.plugin import Block, ConfigError, Delivery, Host, PluginType, hookimpl, terminal_safe

RATE_ON_TERMINAL: Final = 200
"""Lines a second on a terminal unless `rate` says otherwise: several screens, about what an eye can still scan."""

MIN_WIDTH: Final = 40
"""Narrower than this a line would show nothing but its stamp; such a terminal wraps instead."""

WINDOW: Final = 1.0
"""Seconds over which `rate` counts."""

WRITE_BYTES: Final = 65_536
"""Most bytes handed to one write: what a pipe holds, so that Ctrl-C never waits behind more than that."""

FINISH_TIME: Final = 1.0
"""Seconds that closing waits for a terminal that takes nothing (Ctrl-S): the exit must not hang on it."""

_LINE: Final = re.compile(
    rb"(?:node=([^ \n]+) )?type=([^ \n]+) msg=audit\((\d{1,20})\.(\d{1,3}):(\d{1,20})\):? ?([^\n]*)"
)
_EOE: Final = re.compile(rb"(?:node=[^ \n]+ )?type=EOE ")
CAPTURE: Final = "capture"
"""Source of records that are played, not live (`audispd --observe`); their lines begin with this word."""
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


@attrs.frozen
class StdoutConfig:
    """Keys of `stdout`."""

    rate: int | None = None
    """Lines a second, 0 for no limit. Unset: RATE_ON_TERMINAL on a terminal, else no limit."""
    colour: Literal["auto", "yes", "no"] = "auto"
    """auto: on a terminal that is not dumb, unless NO_COLOR is set."""
    form: Literal["readable", "raw"] = "readable"
    """raw: the records as they are, as `auditd -f` prints them; on a terminal still escaped and limited in rate."""

    def __attrs_post_init__(self) -> None:
        if self.rate is not None and self.rate < 0:
            raise ConfigError(f"{self.rate} is below 0", key="rate")


class LineForm:
    """Records as lines for people. Times are local; the zone is read once per second of audit time."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour
        self._second = -1
        self._clock = ""

    def line(self, record: bytes, width: int | None, mark: str = "") -> str | None:
        """One record (LF or not) as text without LF, at most `width` columns; None for EOE. mark: a word in front."""
        if mark:
            rest = self.line(record, None if width is None else max(width - len(mark) - 1, 1))
            return None if rest is None else f"{mark} {rest}"
        found = _LINE.match(record)
        if found is None:
            return terminal_safe(record.rstrip(b"\n"), width)
        node, kind, second, milli, serial, text = found.groups()
        if kind == b"EOE":
            return None
        name = terminal_safe(kind)
        stamp = f"{self._time(int(second))}.{int(milli):03d}"
        place = f" {serial.decode():>8}  " + (f"{terminal_safe(node)}: " if node else "")
        left = None if width is None else width - len(stamp) - 1 - max(12, len(name)) - len(place)
        if left is not None and left <= 0:
            return terminal_safe(f"{stamp} {name:<12}{place}", width)
        # The separator of auditd's enriched fields is no text of the record: people see a space.
        shown = terminal_safe(text.rstrip().replace(b"\x1d", b" ", 1), left)
        if self.colour:
            return f"{_DIM}{stamp}{_PLAIN} {_BOLD}{name:<12}{_PLAIN}{_DIM}{place}{_PLAIN}{shown}"
        return f"{stamp} {name:<12}{place}{shown}"

    def _time(self, second: int) -> str:
        if second != self._second:
            try:
                self._clock = time.strftime("%H:%M:%S", time.localtime(second))
            except (OverflowError, OSError, ValueError):  # a stamp that no calendar reaches: a forged or torn record
                self._clock = "--:--:--"
            self._second = second
        return self._clock


class RawForm:
    """Records as auditd prints them. escape: for a terminal; else not a byte is changed."""

    def __init__(self, escape: bool) -> None:
        self._escape = escape

    def line(self, record: bytes, _width: int | None, _mark: str = "") -> str | None:
        """One record as text without LF; bytes that are not UTF-8 survive as surrogates."""
        text = record.rstrip(b"\n")
        return terminal_safe(text) if self._escape else text.decode("utf-8", "surrogateescape")


class Screen:
    """Writes lines to a descriptor, at most `rate` a second; says how many more there were.

    show() runs in the plugin's thread; the summary of a flood that simply ends is written by a timer's thread, so a
    lock keeps the two apart. A write may block (a stopped terminal), which stops this plugin and nothing else.
    """

    def __init__(
        self,
        host: Host,
        fd: int,
        form: LineForm | RawForm,
        rate: int,
        width: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._fd, self._form, self._rate, self._width, self._clock = host, fd, form, rate, width, clock
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._window = clock()
        self._shown = 0
        self._more = 0
        self.gone = False

    def show(self, block: Block) -> None:
        """Write the block's records; returns when the descriptor has taken them."""
        with self._lock:
            if self.gone:
                self._host.count("unseen", block.records)
                return
            width = self._width()
            out: list[str] = []
            mark = CAPTURE if block.source == CAPTURE else ""
            for record in block.lines():
                if self._rate and not self._room(out, record):
                    continue
                line = self._form.line(record, width, mark)
                if line is not None:
                    out.append(line)
                    self._shown += 1
            self._write(out)
            if self._more and self._timer is None:
                self._timer = threading.Timer(max(0.0, self._window + WINDOW - self._clock()), self._close_window)
                self._timer.daemon = True
                self._timer.start()

    def finish(self) -> None:
        """Say what was left out and stop the timer. Gives up when a write has been stuck for FINISH_TIME."""
        if not self._lock.acquire(timeout=FINISH_TIME):
            return
        try:
            if self._timer is not None:
                self._timer.cancel()
            self._flush_summary()
        finally:
            self._lock.release()

    def _room(self, out: list[str], record: bytes) -> bool:
        # Whether this second has room for one more line. EOE records take none, so they do not count.
        now = self._clock()
        if now - self._window >= WINDOW:
            self._summary(out)
            self._window, self._shown = now, 0
        if self._shown < self._rate:
            return True
        if not _EOE.match(record):
            self._more += 1
        return False

    def _summary(self, out: list[str]) -> None:
        if self._more:
            out.append(f"… {self._more} more")
            self._host.count("not_shown", self._more)
            self._more = 0

    def _close_window(self) -> None:
        with self._lock:
            self._timer = None
            self._flush_summary()

    def _flush_summary(self) -> None:
        out: list[str] = []
        self._summary(out)
        self._write(out)

    def _write(self, lines: list[str]) -> None:
        if not lines or self.gone:
            return
        data = memoryview(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        while data:
            try:
                data = data[os.write(self._fd, data[:WRITE_BYTES]) :]
            except BlockingIOError:
                # Another program made the terminal, which we share with the shell, non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError as error:
                # The reader left (`| head`). The stream goes on for the other plugins; here nobody is left to tell.
                self.gone = True
                self._host.say("warning", f"standard output cannot be written: {error.strerror}")
                return


def terminal_width(fd: int) -> Callable[[], int | None]:
    """A function that gives the terminal's width now; None if it is no terminal, or too narrow to cut for."""

    def width() -> int | None:
        try:
            columns = os.get_terminal_size(fd).columns
        except OSError:
            return None
        return columns if columns >= MIN_WIDTH else None

    return width


@asynccontextmanager
async def open_stdout(config: StdoutConfig, host: Host) -> AsyncIterator[Delivery]:
    """Open `stdout` on descriptor 1."""
    fd = 1
    terminal = os.isatty(fd)
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in (None, "dumb")
    colour = config.colour == "yes" or (config.colour == "auto" and terminal and not plain)
    rate = (RATE_ON_TERMINAL if terminal else 0) if config.rate is None else config.rate
    form = RawForm(terminal) if config.form == "raw" else LineForm(colour)
    screen = Screen(host, fd, form, rate, terminal_width(fd))

    def deliver(block: Block) -> None:
        screen.show(block)

    try:
        yield Delivery(deliver)
    finally:
        with trio.move_on_after(FINISH_TIME, shield=True):
            await trio.to_thread.run_sync(screen.finish, abandon_on_cancel=True)


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `stdout`."""
    return [PluginType("stdout", StdoutConfig, open_stdout)]
