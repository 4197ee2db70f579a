"""`audispd --observe` on a terminal: it sees, explains, and changes nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from audisp.sources.kernel import Control
from tests.e2e.daemons import Auditd, command, lines_of, work
from tests.e2e.stream import PATIENCE, auditctl, calls_rule, kernel_status, wait_for
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True), pytest.mark.usefixtures("audit")]

COLUMNS = 140


class Terminal:
    """A program on a terminal of its own. `text` is all that it has shown."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, COLUMNS, 0, 0))
        # setsid --ctty makes the terminal the controlling one, so that Ctrl-C is a signal; it runs in the same pid.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
            env={"TERM": "dumb", "NO_COLOR": "1"},
        )
        os.close(slave)
        self.text = ""
        self._shown = b""

    def read(self, seconds: float = 0.1) -> str:
        """Take what is shown."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self._master], [], [], left)[0]:
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # the other end is closed
                break
            self._shown += data
        # Decoded as a whole: a read may end within a line's end, or within a character.
        self.text = self._shown.decode(errors="backslashreplace").replace("\r\n", "\n")
        return self.text

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until it has shown this."""
        end = time.monotonic() + PATIENCE / 2
        while not (found := re.search(pattern, self.read())):
            assert time.monotonic() < end, f"never shown: {pattern}\n{self.text}"
            assert self.process.poll() is None or re.search(pattern, self.read()), f"ended: {self.text}"
        return found

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def end(self) -> int:
        """Ctrl-C; its exit status."""
        self.press(b"\x03")
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < end, self.text
            self.read()
        self.read()
        return self.process.returncode

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)


def test_beside_auditd(tmp_path: Path) -> None:
    calls_rule()
    auditctl("-w", "/etc/audit", "-p", "rwa", "-k", "etc-audit")
    with Auditd(tmp_path / "auditd") as auditd:
        before, rules = kernel_status(), auditctl("-l")
        files = {path: path.stat().st_mtime_ns for path in auditd.folder.rglob("*") if path != auditd.log}
        with Terminal([*command(), "--observe"]) as screen:
            screen.expect("observing multicast; nothing is changed on this system. Ctrl-C ends")
            work("calls", 60)
            screen.expect(r"\d\d:\d\d:\d\d\.\d\d\d SYSCALL +\d+  .*")
            control = Control()
            control.send_user("\x1b[2J shown and escaped")
            control.close()
            screen.expect(r"USER +\d+  .*\\x1b\[2J shown and escaped")
            shown = screen.text.split("\n")[:-1]  # before the terminal echoes ^C somewhere
            assert screen.end() == 0
            text = screen.text
        # The ledger, at the end.
        assert re.search(r"source +received +routed +rejected", text)
        assert re.search(r"multicast +\d+ +\d+ +0 ", text)
        assert re.search(r"stdout +\w+ +\d+ +\d+ +0 +0 +0", text)
        assert [line for line in shown if re.match(r"[\d:]{8}\.", line) and len(line) > COLUMNS] == []
        assert "NOT LIVE" not in text
        assert "\x1b[2J" not in text

        after = kernel_status()
        same = ("enabled", "failure", "pid", "rate_limit", "backlog_limit", "backlog_wait_time")
        assert [after[key] for key in same] == [before[key] for key in same]
        assert auditctl("-l") == rules
        assert files == {path: path.stat().st_mtime_ns for path in files}
        pid = screen.process.pid
        wait_for(lambda: b"shown" in auditd.log.read_bytes(), "auditd has it, too")
    own = [line for line in lines_of(auditd.log) if b" pid=%d " % pid in line]
    # Nothing of /etc/audit was opened, and no setting of the kernel's changed: it would have said so.
    assert not [line for line in own if b'key="etc-audit"' in line or b"type=CONFIG_CHANGE" in line]
    assert any(b"type=EVENT_LISTENER" in line for line in lines_of(auditd.log))


def test_without_an_owner() -> None:
    """Listening needs none."""
    calls_rule()
    auditctl("-e", "1")
    with Terminal([*command(), "--observe"]) as screen:
        screen.expect("observing multicast")
        work("calls", 20)
        screen.expect(r"SYSCALL +\d+  .*")
        assert screen.end() == 0
    assert kernel_status()["pid"] == 0


def test_quiet_is_explained() -> None:
    auditctl("-e", "0")
    with Terminal([*command(), "--observe"]) as screen:
        screen.expect(r"auditing is off in the kernel\. This switches it on: +auditctl -e 1")
        screen.expect(r"there are no audit rules.*auditctl -a always,exit -F arch=b64 -S execve -k exec")
        screen.expect("playing a bundled capture instead, NOT LIVE")
        screen.expect(r"\d\d:\d\d:\d\d\.\d\d\d [A-Z_]+ +\d+  ")
        # What it recommends works, and what comes then is live.
        auditctl("-e", "1")
        auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "execve", "-k", "exec")
        subprocess.run(["/bin/true"], check=True)
        screen.expect(r"-- stdout [\d,]+ records/s")
        screen.expect(r"(?m)^[\d:.]+ EXECVE +\d+  .*/bin/true")
        assert screen.end() == 0
        assert re.search(r"multicast +\d+ +\d+ +0 ", screen.text)
        assert re.search(r"capture +\d+ +\d+ +0 ", screen.text)
    assert (kernel_status()["pid"], kernel_status()["enabled"]) == (0, 1)


def test_quiet_with_rules() -> None:
    """What the kernel says of our own coming is no sign of life."""
    calls_rule()
    auditctl("-e", "1")
    with Terminal([*command(), "--observe"]) as screen:
        screen.expect(r"auditing is on, and nothing happened that the loaded rules \(1\) catch")
        assert screen.end() == 0


def test_without_etc_audit_and_without_root() -> None:
    """Nothing in /etc/audit can be read, no capability is there: the capture is shown, and why."""
    hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o mode=000 none /etc/audit && exec "$@"', "sh"]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # The interpreter and the checkout may be where only root can go; writing and owning is what it may not.
    reach = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    with Terminal([*hide, *user, *reach, *command(), "--observe"]) as screen:
        screen.expect("not from the kernel: may not join the kernel's multicast group.*CAP_AUDIT_READ")
        screen.expect("NOT LIVE")
        screen.expect(r"\d\d:\d\d:\d\d\.\d\d\d [A-Z_]+ +\d+  ")
        assert screen.end() == 0
        assert re.search(r"capture +\d+ +\d+ +0 ", screen.text)
