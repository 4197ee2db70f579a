"""auditd's actions: syslog, email, exec, suspend, single, halt (auditd.conf(5); upstream.md section 3).

Invariants: `act` returns at once and never raises, from whatever thread; no shell sees a word of ours; the same action
for the same reason runs at most once per REPEAT_AFTER; at most MAX_RUNNING programs of ours run at a time. Every action
is said in the log first, so that it leaves a trace even when its program fails.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from audisp.config.files import EXEC_MODES
from audisp.dispatch.launch import Launched, launch
from audisp.dispatch.say import Level, Voice
from audisp.errors import AudispError
from audisp.parse.form import terminal_safe

ACTIONS: Final[Mapping[str, Level]] = MappingProxyType(
    {
        "ignore": "debug",
        "syslog": "warning",
        "email": "alert",
        "exec": "warning",
        "suspend": "alert",
        "single": "alert",
        "halt": "alert",
    }
)
"""Every action that `act` knows, with the severity of its line in the log."""

REPEAT_AFTER: Final = 60.0
"""Seconds. A disk that fills is found full at every write; one mail a minute is enough to wake somebody."""
MAX_REASONS: Final = 256
"""Reasons remembered for REPEAT_AFTER; the oldest is forgotten first."""
MAX_RUNNING: Final = 8
"""Programs of ours at a time. One that hangs must not be joined by another every minute for ever."""
MAX_MESSAGE: Final = 1_024
"""Bytes of a mail's text. The whole mail must fit into a pipe (4 KiB at the least), so that writing never waits."""
MAIL_ADDRESS: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}(?:@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))?\Z")
"""A local user or an address. No leading dash: the address is an argument of sendmail."""


@attrs.frozen
class Programs:
    """What is run for which action. Tests put stand-ins here."""

    sendmail: str = "/usr/lib/sendmail"
    init: str = "/sbin/init"


class ActionError(AudispError):
    """An action's program or address cannot be used."""


class Actions:
    """Carries out actions, and reaps what it started (call `reap` about once a second).

    voice: where it is said. mail_to: `action_mail_acct`. clock: seconds, monotonic.
    """

    def __init__(
        self,
        voice: Voice,
        *,
        mail_to: str = "root",
        programs: Programs | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mail_to = mail_to
        self.suspended = False
        """Set by `suspend`; whoever suspends reads it, and SIGUSR2 calls `resume`."""
        self._voice = voice
        self._programs = programs or Programs()
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str, str], float] = {}
        self._running: list[tuple[str, Launched]] = []

    def act(self, action: str, message: str, *, path: str | None = None, reason: str = "") -> bool:
        """Carry out `action`; True if it was, False if not (unknown, failed, or the same a moment ago).

        message: what happened, one line. path: the program of `exec`. reason: what must not repeat the action within
        REPEAT_AFTER; if empty, the message with its numbers taken out. Why it was not carried out is in the log.
        """
        if action not in ACTIONS:
            self._voice.say("error", f"unknown action {action}: {message}", limit=("action:unknown", 5, REPEAT_AFTER))
            return False
        if action == "ignore":
            return True
        key = (action, path or "", reason or re.sub(r"\d+", "0", message[:MAX_MESSAGE]))
        if not self._is_new(key):
            return False
        self._voice.say(ACTIONS[action], message)
        try:
            self._carry_out(action, message, path)
        except AudispError as error:
            self._voice.say("error", f"action {action}: {error}")
            return False
        return True

    def resume(self) -> bool:
        """End a suspension; True if there was one. Also lets every action run again at once, as its cause is new."""
        was, self.suspended = self.suspended, False
        with self._lock:
            self._last.clear()
        return was

    def reap(self) -> int:
        """Collect programs that have ended, say which failed; return how many still run."""
        with self._lock:
            still: list[tuple[str, Launched]] = []
            done: list[tuple[str, str]] = []
            for what, child in self._running:
                ended = child.poll()
                if ended is None:
                    still.append((what, child))
                elif not ended.clean:
                    done.append((what, f"{child.command[0]}: {ended.description}"))
            self._running = still
        for what, text in done:
            self._voice.say("warning", f"action {what}: {text}")
        return len(still)

    def _is_new(self, key: tuple[str, str, str]) -> bool:
        now = self._clock()
        with self._lock:
            last = self._last.get(key)
            if last is not None and now - last < REPEAT_AFTER:
                return False
            self._last.pop(key, None)
            while len(self._last) >= MAX_REASONS:
                del self._last[next(iter(self._last))]
            self._last[key] = now
        return True

    def _carry_out(self, action: str, message: str, path: str | None) -> None:
        match action:
            case "suspend":
                self.suspended = True
            case "exec":
                check_exec(path)
                assert path is not None
                self._start(action, (path,), b"")
            case "email":
                self._mail(message)
            case "single":
                self._start(action, (self._programs.init, "1"), b"")
            case "halt":
                self._start(action, (self._programs.init, "0"), b"")

    def _mail(self, message: str) -> None:
        check_address(self.mail_to)
        if not os.access(self._programs.sendmail, os.X_OK):
            raise ActionError(f"{self._programs.sendmail} is missing or not executable: no mail can be sent")
        # -i: a single dot does not end the message. The recipient stands in argv, and no header decides who gets it.
        self._start("email", (self._programs.sendmail, "-i", self.mail_to), mail(self.mail_to, message))

    def _start(self, what: str, command: tuple[str, ...], stdin: bytes) -> None:
        # init must come through, whatever hangs.
        if self.reap() >= MAX_RUNNING and what not in ("single", "halt"):
            raise ActionError(f"{command[0]} not started: {MAX_RUNNING} programs of earlier actions still run")
        read, write = os.pipe()
        null = -1
        try:
            os.set_blocking(write, False)
            if os.write(write, stdin) != len(stdin):
                raise ActionError(f"{command[0]}: the message does not fit into a pipe")
            os.close(write)  # what reads our message sees its end
            write = -1
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            child = launch(command, stdin_fd=read, stderr_fd=null)
        except OSError as error:
            raise ActionError(f"{command[0]}: {error.strerror}") from error
        finally:
            for fd in (read, write, null):
                if fd >= 0:
                    os.close(fd)
        with self._lock:
            self._running.append((what, child))


def check_exec(path: str | None) -> None:
    """Raise ActionError unless auditd would run `path` for `exec`: absolute, a file of root's, one of EXEC_MODES."""
    if not path or not path.startswith("/"):
        raise ActionError(f"{path or 'exec'}: needs the absolute path of a program")
    try:
        found = os.stat(path)
    except OSError as error:
        raise ActionError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ActionError(f"{path}: not a regular file")
    if found.st_uid != 0:
        raise ActionError(f"{path}: must be owned by root, and is owned by uid {found.st_uid}")
    mode = stat.S_IMODE(found.st_mode)
    if mode not in EXEC_MODES:
        allowed = ", ".join(f"{allowed:04o}" for allowed in EXEC_MODES)
        raise ActionError(f"{path}: its mode must be one of {allowed}, and is {mode:04o}")


def check_address(address: str) -> None:
    """Raise ActionError unless `address` is a user or user@host that can safely be an argument and a header."""
    if not MAIL_ADDRESS.match(address):
        raise ActionError(f"action_mail_acct: {terminal_safe(address[:80])} is not a user name or a mail address")


def mail(to: str, message: str) -> bytes:
    """The whole mail: one line of text from us, about one machine. Nothing in `message` can become a header."""
    text = (
        terminal_safe(message[:MAX_MESSAGE]).encode("utf-8", "backslashreplace")[:MAX_MESSAGE].decode("utf-8", "ignore")
    )
    host = terminal_safe(os.uname().nodename)[:255]
    subject = f"audit daemon of {host} needs attention".encode("ascii", "backslashreplace").decode("ascii")
    return (
        f"To: {to}\n"
        f"Subject: {subject}\n"
        "Auto-Submitted: auto-generated\n"
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: 8bit\n"
        "\n"
        f"{text}\n"
    ).encode()
