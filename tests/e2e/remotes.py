"""audisp-remote under test, on a configuration of its own, and records to feed it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.e2e.daemons import Daemon, private_dev
from tests.e2e.stream import wait_for

NUMBER: Final = re.compile(rb"type=USER_MSG msg=audit\(\d+\.\d{3}:(\d+)\): n=(\d+) ")


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def numbered(first: int, count: int) -> bytes:
    """Records that say their number, of different lengths."""
    return b"".join(
        b"type=USER_MSG msg=audit(1700000000.%03d:%d): n=%d text='%b'\n" % (n % 1000, n, n, b"x" * (n * 7 % 200))
        for n in range(first, first + count)
    )


def numbers_in(data: bytes) -> list[int]:
    """The numbers of these records, in order; each must be whole."""
    return [int(found[2]) for found in NUMBER.finditer(data)]


class Remote(Daemon):
    """audisp-remote; `feed` is the writing end of its standard input, a socket as a daemon gives its child."""

    def __init__(self, folder: Path, **conf: Any) -> None:
        self.spool, self.state_file = folder / "spool", folder / "remote.state"
        folder.mkdir(exist_ok=True)
        self.conf = folder / "audisp-remote.conf"
        self.keys: dict[str, Any] = {}
        self.change(
            **{
                "remote_server": "127.0.0.1",
                "queue_file": folder / "remote.log",
                "spool_dir": self.spool,
                "spool_min_free": 0,
                "state_file": self.state_file,
                "network_failure_action": "syslog",
                "network_retry_max": 1,
            }
            | conf
        )
        argv = [sys.executable, "-m", "audisp.cli.remote", "--config", str(self.conf)]
        if os.geteuid() == 0 and os.path.lexists("/dev/log"):
            argv = [*private_dev(folder, None), *argv]  # what it says is to come here
        super().__init__(argv, folder, "remote")
        self.feed: socket.socket | None = None

    def change(self, **conf: Any) -> None:
        """Write its configuration, with other values for these keys."""
        self.keys |= conf
        self.conf.write_text("".join(f"{key} = {value}\n" for key, value in self.keys.items()))
        self.conf.chmod(0o640)

    def start(self) -> Remote:
        """Start on a new socket pair."""
        ours, its = socket.socketpair()
        if self.feed is not None:
            self.feed.close()
        self.feed, self.stdin = ours, its
        try:
            super().start()
        finally:
            its.close()
        return self

    def start_on(self, stdin: Any) -> None:
        """Start on another standard input, without waiting."""
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(self.argv, stdin=stdin, stdout=out, stderr=out, cwd="/")

    def start_idle(self) -> None:
        """Start on an input on which nothing comes, without waiting."""
        self.close_feed()
        self.feed, its = socket.socketpair()
        with its:
            self.start_on(its)

    def _await_ready(self) -> None:
        def ready() -> bool:
            assert self.ended() is None, f"audisp-remote ended: {self.said()}"
            return self.state_file.exists() and self.state()["pid"] == str(self.pid)

        wait_for(ready, "audisp-remote is up")

    def write(self, data: bytes) -> None:
        """Feed it."""
        assert self.feed is not None
        self.feed.sendall(data)

    def close_feed(self) -> None:
        """The end of its input."""
        if self.feed is not None:
            self.feed.close()
            self.feed = None

    def state(self) -> dict[str, str]:
        """Its state file."""
        text = self.state_file.read_text() if self.state_file.exists() else ""
        return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)

    def fresh_state(self) -> dict[str, str]:
        """Its state file, asked for by SIGUSR1."""
        before = self.state_file.stat().st_mtime_ns if self.state_file.exists() else 0
        self.send(signal.SIGUSR1)
        wait_for(
            lambda: self.state_file.exists() and self.state_file.stat().st_mtime_ns != before, "the state is written"
        )
        return self.state()

    def await_accepted(self, count: int) -> None:
        """Until so many records are in the spool, or were sent from it."""
        wait_for(lambda: int(self.fresh_state()["accepted"]) >= count, f"{count} are accepted")

    def __exit__(self, *about: Any) -> None:
        """Stopped; its input ends first."""
        self.close_feed()
        super().__exit__(*about)
