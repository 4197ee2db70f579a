"""The dispatcher's own log: one line per message, to stderr or to syslog, without ever waiting for either.

Invariants: `say` never blocks and never raises. What cannot be written at once waits in a bounded queue; what finds
that queue full is dropped, counted, and reported as soon as lines flow again. What attackers wrote comes out escaped.
Local syslog format: RFC 3164 as glibc's syslog(3) sends it, ``<PRI>Mon DD HH:MM:SS ident[pid]: text``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import attrs

from audisp.parse.form import terminal_safe

Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert"]
Target = Literal["stderr", "syslog"]

LEVELS: Final[dict[str, int]] = {
    "alert": 1,
    "critical": 2,
    "error": 3,
    "warning": 4,
    "notice": 5,
    "info": 6,
    "debug": 7,
}
"""Severities of syslog(3)."""

FACILITY_DAEMON: Final = 3
MAX_LINE: Final = 2_048
"""Bytes of one line with its head. Every syslogd takes 2 KiB (RFC 5424 section 6.1), and it is less than PIPE_BUF, so
that a pipe that poll calls writable takes the whole of it without blocking."""
MAX_PENDING: Final = 256
"""Lines that wait for a stopped syslogd or reader: at 2 KiB each, half a MiB. A start of everything is below 100."""
MAX_KEYS: Final = 512
"""Rate limits kept at a time; the oldest is closed for a new one, so that keys cannot fill the memory."""
MAX_FLUSH: Final = 64
"""Waiting lines sent per call, so that one `say` after a long jam stays quick."""
CUT: Final = " [cut]"
SYSLOG_PATH: Final = "/dev/log"

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Limit = tuple[str, int, float]
"""(key, burst, seconds): of one key, at most `burst` messages per `seconds`; then the number of the others."""


@attrs.define
class _Window:
    ends: float
    left: int
    more: int = 0
    level: Level = "info"
    last: str | bytes = ""


class Voice:
    """Where the dispatcher speaks. All methods may be called from any thread.

    target, ident, path: as given. threshold: the least important level that is written. clock: seconds, monotonic.
    """

    def __init__(
        self,
        target: Target = "stderr",
        ident: str = "audispd",
        *,
        threshold: Level = "info",
        path: str = SYSLOG_PATH,
        fd: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        """Lines that were never written."""
        self.suppressed = 0
        """Messages that a limit withheld, and that a summary counted or will."""
        self._target: Target = target
        self._ident = ident
        self._threshold = LEVELS[threshold]
        self._path = path
        self._fd = fd
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: deque[tuple[Level, str, float]] = deque()
        self._unreported = 0
        self._windows: dict[str, _Window] = {}
        self._socket: socket.socket | None = None

    @property
    def waiting(self) -> int:
        """Lines not yet written."""
        return len(self._pending)

    def say(self, level: Level, message: str | bytes, *, limit: Limit | None = None) -> None:
        """Write one line, or count it. Never blocks, never raises for what the outside does."""
        if LEVELS[level] > self._threshold:
            return
        with self._lock:
            self._close_windows(self._clock())
            if limit is None or self._passes(level, message, limit):
                self._put(level, message)
            self._flush()

    def tick(self) -> None:
        """Write what waits, and the summaries that are due. To be called about once a second."""
        with self._lock:
            self._close_windows(self._clock())
            self._flush()

    def turn(self, target: Target) -> None:
        """Go on at another target, as a daemon does when it is ready. What waits goes there too."""
        with self._lock:
            if target != self._target:
                self._target = target
                self._disconnect()
            self._flush()

    def close(self) -> None:
        """Say all summaries, write what can be written, let go of the socket. `say` works afterwards, too."""
        with self._lock:
            self._close_windows(None)
            while self._pending and self._flush():
                pass
            self._disconnect()

    def _passes(self, level: Level, message: str | bytes, limit: Limit) -> bool:
        key, burst, seconds = limit
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= MAX_KEYS:
                self._close_window(next(iter(self._windows)))
            window = self._windows[key] = _Window(self._clock() + seconds, burst)
        if window.left > 0:
            window.left -= 1
            return True
        self.suppressed += 1
        window.more += 1
        window.level = level
        window.last = message[:MAX_LINE]
        return False

    def _close_windows(self, now: float | None) -> None:
        if self._windows:
            for key in [key for key, window in self._windows.items() if now is None or window.ends <= now]:
                self._close_window(key)

    def _close_window(self, key: str) -> None:
        window = self._windows.pop(key)
        if window.more:
            self._put(window.level, f"{window.more} more such messages, the last: {_clean(window.last)}")

    def _put(self, level: Level, message: str | bytes) -> None:
        if len(self._pending) >= MAX_PENDING:
            # The first lines of a trouble tell more than the last ones.
            self.dropped += 1
            self._unreported += 1
            return
        self._pending.append((level, _clean(message), time.time()))

    def _line(self, level: Level, text: str, when: float) -> bytes:
        if self._target == "stderr":
            return f"{self._ident}: {level.upper()}: {text}".encode("utf-8", "backslashreplace")[: MAX_LINE - 1]
        now = time.localtime(when)  # when it was said, not when syslogd came back
        stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
        head = f"<{FACILITY_DAEMON << 3 | LEVELS[level]}>{stamp} {self._ident}[{os.getpid()}]: "
        return (head + text).encode("utf-8", "backslashreplace")[:MAX_LINE]

    def _flush(self) -> bool:
        """Write up to MAX_FLUSH waiting lines; False if the target takes no more now."""
        for _ in range(MAX_FLUSH):
            if not self._pending:
                if not self._unreported:
                    return True
                count, self._unreported = self._unreported, 0
                self._put("warning", f"{count} messages of this log were dropped: it could not be written for a while")
            if not self._send(self._line(*self._pending[0])):
                return False
            self._pending.popleft()
        return True

    def _send(self, line: bytes) -> bool:
        """True if the line is out of our hands (written, or it can never be); False to try again later."""
        try:
            if self._target == "stderr":
                return self._send_stderr(line)
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                )
            # Never connected: each datagram finds the socket that is at the path now, so a new syslogd needs no care.
            self._socket.sendto(line, self._path)
        except OSError as error:
            if error.errno in (errno.EMSGSIZE, errno.EBADF, errno.EPIPE):
                self.dropped += 1
                self._unreported += error.errno == errno.EMSGSIZE
                return True
            return False
        return True

    def _send_stderr(self, line: bytes) -> bool:
        # Our stderr may be shared with a shell, so it cannot be made non-blocking: ask first. A file is always ready.
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        events = poll.poll(0)
        if not events:
            return False
        if not events[0][1] & select.POLLOUT:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        data = line + b"\n"
        if stat.S_ISSOCK(os.fstat(self._fd).st_mode):
            with socket.socket(fileno=os.dup(self._fd)) as sock:
                sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            os.write(self._fd, data)
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


_ROOM: Final = MAX_LINE - 128
"""Bytes left for the text: the head is below 100 bytes for any sane ident, and one LF follows on stderr."""


def _clean(message: str | bytes) -> str:
    # Escaping makes text longer, never shorter, so what lies behind the limit already need not be looked at.
    text = terminal_safe(message[:MAX_LINE])
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= _ROOM and len(message) <= MAX_LINE:
        return text
    return encoded[: _ROOM - len(CUT)].decode("utf-8", "ignore") + CUT
