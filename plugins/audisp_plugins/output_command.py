"""`output` to the standard input of a program.

As with the dispatcher's own children, delivered means read: we keep a descriptor of the program's end of the
socketpair, so the kernel can be asked how many bytes lie unread (FIONREAD counts them exactly), while it lives and
after its death.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import termios
import threading
import time
from pathlib import Path
from typing import Final

from audisp.plugin import Host
from audisp_plugins.output_config import check_program
from audisp_plugins.output_feed import Gone

EOF_GRACE: Final = 1.5
TERM_GRACE: Final = 1.0
KILL_GRACE: Final = 1.0
"""Seconds for the program to end after the end of its input, after SIGTERM, after SIGKILL. Together less than what the
host grants for closing a plugin."""

STDERR_READ: Final = 65_536
"""A pipe's capacity: one piece is all that there is."""
STDERR_LINE: Final = 1_024
"""Longest piece of its standard error that becomes one line in our log."""
STDERR_LINES: Final = 20
"""Lines of one piece that are looked at; the others are counted. The log's own limit lets fewer pass."""
STDERR_PAUSE: Final = 0.01
"""Seconds between two pieces: at most 6.5 MB/s are read from a program that complains without end."""
STDERR_LOOK: Final = 0.2
"""Seconds between two looks whether to go on: a grandchild may hold the pipe open for ever."""


class ProgramReader:
    """The program, running. Whoever makes one calls `end`."""

    def __init__(self, command: tuple[str, ...], host: Host) -> None:
        """Start it: no shell, an empty environment, in `/`, the leader of a process group, so that Ctrl-C in a terminal
        does not reach it before its input has ended. Raises ValueError for a program that auditd would not start, or
        OSError."""
        check_program(command[0])
        self._host = host
        self._name = Path(command[0]).name
        with contextlib.ExitStack() as undo:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.enter_context(self._ours)
            undo.enter_context(self._theirs)
            self._ours.setblocking(False)
            self._stderr, write_end = os.pipe()
            undo.callback(os.close, self._stderr)
            try:
                os.set_blocking(self._stderr, False)
                self._process = subprocess.Popen(
                    command,
                    stdin=self._theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=write_end,
                    env={},
                    cwd="/",
                    process_group=0,
                )
            finally:
                os.close(write_end)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        self._stop = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="audisp output stderr", daemon=True)
        self._listener.start()
        _let_oom_killer(self._process.pid)

    # See Reader.

    window: int | None = None
    """It is always known what it has read."""

    def feed(self, data: bytes, sent: int, until: int) -> int:
        """See Reader."""
        try:
            return sent + self._ours.send(memoryview(data)[sent:until])
        except BlockingIOError:
            return sent
        except OSError as error:
            # It has shut its input down, and lives. Its death makes no such error, because we hold its end, too.
            raise Gone(f"{self._name} has shut its input down", sent - self._unread()) from error

    def read(self, sent: int) -> int | None:
        """See Reader."""
        if self._process.poll() is not None:
            raise Gone(f"{self._name}: {self._how()}", sent - self._unread())
        return sent - self._unread()

    def _unread(self) -> int:
        answer = array.array("i", [0])
        fcntl.ioctl(self._theirs, termios.FIONREAD, answer, True)
        return answer[0]

    def wait(self, seconds: float, *, room: bool) -> None:
        """See Reader."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if room:
            poll.register(self._ours, select.POLLOUT)
        poll.poll(seconds * 1000)

    def status(self) -> str:
        """See Reader."""
        return f"{self._name} runs with pid {self._process.pid}"

    def end(self, rest: bytes) -> None:
        """See Reader. Then EOF, SIGTERM, SIGKILL, each with its time."""
        with contextlib.suppress(OSError):
            self._ours.send(rest)
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)
        if not self._ends_within(EOF_GRACE) and self._signal(signal.SIGTERM) and not self._ends_within(TERM_GRACE):
            self._host.say("warning", f"{self._name} is still there after SIGTERM, and killed")
            self._signal(signal.SIGKILL)
            self._ends_within(KILL_GRACE)
        self._stop.set()
        self._listener.join()
        self._ours.close()
        self._theirs.close()
        os.close(self._pidfd)

    def _ends_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: int) -> bool:
        """False if there is nothing more to be done."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            self._host.say(
                "error",
                f"{self._name}, pid {self._process.pid}, runs as another user, and without cap_kill we cannot end it "
                "(audispd.conf: capabilities = cap_kill)",
            )
            return False
        return True

    def _how(self) -> str:
        code = self._process.returncode
        if code >= 0:
            return f"has ended with status {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    # Its standard error, in a thread of its own.

    def _listen(self) -> None:
        pending = b""
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        try:
            while True:
                ready = poll.poll(STDERR_LOOK * 1000)
                last = self._stop.is_set()
                data = b""
                if ready:
                    with contextlib.suppress(BlockingIOError):
                        data = os.read(self._stderr, STDERR_READ)
                        last = last or not data
                pending = self._say(pending + data, last=last)
                if last:
                    return
                if data:
                    time.sleep(STDERR_PAUSE)
        finally:
            os.close(self._stderr)

    def _say(self, text: bytes, *, last: bool) -> bytes:
        """Say whole lines; what is left."""
        *lines, pending = text.split(b"\n")
        if pending and (last or len(pending) > STDERR_LINE):
            lines, pending = [*lines, pending], b""
        for line in lines[:STDERR_LINES]:
            self._host.say("info", f"{self._name} says: {line[:STDERR_LINE].decode('utf-8', 'backslashreplace')}")
        if len(lines) > STDERR_LINES:
            self._host.say("info", f"{self._name} says {len(lines) - STDERR_LINES} lines more")
        return pending


def _let_oom_killer(pid: int) -> None:
    """The dispatcher may be exempt from the OOM killer; a program that eats memory must not be."""
    try:
        if int(Path("/proc/self/oom_score_adj").read_bytes()) < 0:
            Path(f"/proc/{pid}/oom_score_adj").write_bytes(b"0")
    except (OSError, ValueError):
        return  # it has ended, or become another user: then it is as it is
