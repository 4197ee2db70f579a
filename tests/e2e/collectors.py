"""audisp-collector under test, on a configuration of its own, and Debian's audisp-remote to send to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

from audisp.collector.chain import Report, verify
from audisp.collector.reading import Chunk, Reader
from audisp.dispatch.control import ask
from tests.e2e.daemons import Daemon
from tests.e2e.stream import PATIENCE, wait_for

REMOTE_CONF: Final = "/etc/audit/audisp-remote.conf"
"""Compiled into the C program."""


class Collector(Daemon):
    """audisp-collector. port: 0, one that is free; then it keeps it over restarts."""

    def __init__(self, folder: Path, *, port: int = 0, **conf: Any) -> None:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o750)
        self.run, self.store = folder / "run", folder / "data" / "store"
        self.keys: dict[str, Any] = {
            "listen": f"127.0.0.1:{port}",
            "store_dir": self.store,
            "runtime_dir": self.run,
            "state_dir": folder / "state",
            "store_min_free": 0,
            "space_left": 0,
            "admin_space_left": 0,
            "priority_boost": 0,
            "drain_timeout": 5,
        } | conf
        super().__init__(
            [sys.executable, "-m", "audisp.cli.collector", "-f", "-c", str(folder)], folder, "audisp-collector"
        )
        self.change()

    def change(self, **conf: Any) -> None:
        """Write its configuration, with other values for these keys."""
        self.keys |= conf
        path = self.folder / "audisp-collector.conf"
        path.write_text("".join(f"{key} = {value}\n" for key, value in self.keys.items()))
        path.chmod(0o640)

    def _await_ready(self) -> None:
        def ready() -> bool:
            assert self.ended() is None, f"audisp-collector ended with {self.ended()}: {self.said()}"
            with contextlib.suppress(OSError):
                return bool(self.status()["listening"])
            return False

        wait_for(ready, "audisp-collector is up")

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.status()["listening"][0].rpartition(":")[2])

    def status(self) -> dict[str, Any]:
        """What its control socket says."""
        return ask(self.run, "status")

    def host(self, identity: str) -> dict[str, Any]:
        """What `audisp-collector hosts` shows of one."""
        found: list[dict[str, Any]] = ask(self.run, "hosts")["hosts"]
        return next(each for each in found if each["host"] == identity)

    def chunks(self, host: str | None = None) -> list[Chunk]:
        """What is stored, of one host or all."""
        if not self.store.is_dir():
            return []
        with Reader(self.store, host=host) as reader:
            return list(reader)

    def records(self, host: str | None = None) -> list[bytes]:
        """Its records, with their LF."""
        return [line for chunk in self.chunks(host) for line in chunk.block().lines()]

    def verified(self) -> Report:
        """What `audisp-collector verify` finds."""
        return verify(self.store)

    def tool(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """One of its commands."""
        command, *more = words
        argv = [sys.executable, "-m", "audisp.cli.collector", command, "-c", str(self.folder), *more]
        return subprocess.run(argv, capture_output=True, timeout=PATIENCE)

    def restart(self) -> Self:
        """Killed, and started again, at the same port."""
        self.change(listen=f"127.0.0.1:{self.port}")
        self.kill()
        return self.start()


class TheirRemote:
    """Debian's audisp-remote, its configuration in a mount namespace of its own."""

    def __init__(self, folder: Path, port: int, **more: object) -> None:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o750)
        keys: dict[str, object] = {
            "remote_server": "127.0.0.1",
            "port": port,
            "transport": "tcp",
            "queue_file": folder / "queue",
            "mode": "immediate",
            "queue_depth": 10_240,
            "format": "managed",
            "network_retry_time": 1,
            "network_failure_action": "syslog",
            "remote_ending_action": "reconnect",
            "max_tries_per_record": 60,
            "max_time_per_record": 60,
        } | more
        conf = folder / "remote.conf"
        conf.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
        conf.chmod(0o640)
        run = f"mount --bind {conf} {REMOTE_CONF} && exec /sbin/audisp-remote"
        # One pipe for all its lives: what a killed one had not read, its successor reads.
        reading, self.feed = os.pipe()
        self._argv, self._stdin = ["unshare", "-m", "sh", "-c", run], reading
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        # SIGPIPE stays ignored, as in us. Otherwise 3.0.9 dies of it when it writes to a connection that was reset, and
        # all that it had queued dies with it: its own loss, which would hide whether any is ours.
        return subprocess.Popen(self._argv, stdin=self._stdin, stdout=subprocess.DEVNULL, restore_signals=False)

    def restart(self) -> None:
        """Killed, and started again on the same pipe."""
        self.process.kill()
        self.process.wait()
        self.process = self._started()

    def write(self, data: bytes) -> None:
        """Feed it; waits for it to read."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.feed, view) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.feed)
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._stdin)
