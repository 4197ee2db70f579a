"""The daemons under test, each on a configuration of its own: Debian's auditd, and ours."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from audisp.dispatch.control import ask
from tests.e2e.stream import PATIENCE, wait_for
from tests.needs import audit_owner

AUDITD_CONF: Final[dict[str, object]] = {
    "local_events": "yes",
    "write_logs": "yes",
    "log_format": "RAW",
    "log_group": "root",
    "flush": "INCREMENTAL_ASYNC",
    "freq": 50,
    "max_log_file": 4096,
    "num_logs": 0,
    "max_log_file_action": "IGNORE",
    "name_format": "NONE",
    "space_left": 75,
    "space_left_action": "IGNORE",
    "admin_space_left": 50,
    "admin_space_left_action": "IGNORE",
    "disk_full_action": "IGNORE",
    "disk_error_action": "IGNORE",
    "verify_email": "no",
    "q_depth": 20_000,
    "overflow_action": "SYSLOG",
    "max_restarts": 10,
    "end_of_event_timeout": 2,
}
"""What auditd 3.0.9 and ours both read; the rest is by the test."""

STAMP: Final = re.compile(rb"audit\((\d+\.\d+):(\d+)\)")


@attrs.frozen
class Child:
    """One plugin file. path: of the program, or builtin_af_unix."""

    name: str
    path: str
    args: str = ""
    format: str = "string"
    more: str = ""
    """Lines for NAME.audisp."""


def sink(folder: Path, name: str, kept: Path) -> str:
    """A program, passing auditd's checks of plugins, that writes its standard input to `kept`, byte by byte."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nexec cat >>'{kept}'\n")
    path.chmod(0o750)
    return str(path)


def configure(folder: Path, children: Sequence[Child], **extra: object) -> None:
    """auditd.conf and plugins.d below `folder`."""
    plugins = folder / "plugins.d"
    plugins.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o750)
    plugins.chmod(0o750)
    conf = AUDITD_CONF | {"log_file": folder / "audit.log", "plugin_dir": plugins} | extra
    _write(folder / "auditd.conf", "".join(f"{key} = {value}\n" for key, value in conf.items()))
    for child in children:
        add_child(folder, child)


def add_child(folder: Path, child: Child) -> None:
    """Its plugin file, put in place anew."""
    kind = "builtin" if child.path.startswith("builtin") else "always"
    text = f"active = yes\ndirection = out\npath = {child.path}\ntype = {kind}\n"
    if child.args:
        text += f"args = {child.args}\n"
    _write(folder / "plugins.d" / f"{child.name}.conf", text + f"format = {child.format}\n")
    if child.more:
        _write(folder / "plugins.d" / f"{child.name}.audisp", child.more)


def add_plugin(folder: Path, name: str, **keys: object) -> None:
    """A `.audisp` file of ours."""
    text = "".join(f"{key} = {value}\n" for key, value in keys.items())
    _write(folder / "plugins.d" / f"{name}.audisp", "active = yes\n" + text)


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o640)
    new.replace(path)


_PRIVATE_DEV: Final = """
mount -t tmpfs -o mode=755 tmpfs "$0" && mkdir "$0/dev" && mount --rbind /dev "$0/dev" &&
    mount -t tmpfs -o mode=755 tmpfs /dev || exit 99
for name in null zero full random urandom tty; do touch "/dev/$name" && mount --bind "$0/dev/$name" "/dev/$name"; done
[ -z "$1" ] || ln -s "$1" /dev/log
shift
exec "$@"
"""


def private_dev(folder: Path, log: Path | None) -> list[str]:
    """A command that runs another, in the same pid, with a /dev whose log is `log`, or that has none."""
    place = folder / "dev"
    place.mkdir()
    return ["unshare", "-m", "sh", "-c", _PRIVATE_DEV, str(place), "" if log is None else str(log)]


class Daemon:
    """One process; its standard error is kept. As a context: started, and at the end stopped if it still runs."""

    def __init__(self, argv: Sequence[str], folder: Path, name: str, *, stdin: Any = subprocess.DEVNULL) -> None:
        self.argv = list(argv)
        self.folder = folder
        self.out = folder / f"{name}.out"
        self.stdin = stdin
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start, and wait until it is ready."""
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(self.argv, stdin=self.stdin, stdout=out, stderr=out, cwd="/")
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def _await_ready(self) -> None:
        raise NotImplementedError

    def refuse(self) -> int:
        """Start it where it must not come up; its exit status."""
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(self.argv, stdin=self.stdin, stdout=out, stderr=out, cwd="/")
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill()

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def said(self) -> str:
        """All it wrote."""
        return self.out.read_text(errors="backslashreplace") if self.out.exists() else ""

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status. Killed, and an error, if it does not."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.argv[0]} did not end:\n{self.said()}") from None
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        """Started."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stopped."""
        if self.process is None or self.process.poll() is not None:
            return
        self.send(signal.SIGCONT)
        if kind is not None:
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.kill()
        else:
            self.stop()


class Auditd(Daemon):
    """Debian's auditd, in the foreground and yet the daemon (-n)."""

    def __init__(self, folder: Path, children: Sequence[Child] = (), *, listen: int = 0, **extra: Any) -> None:
        if listen:
            extra = {
                "local_events": "no",
                "tcp_listen_port": listen,
                "tcp_max_per_addr": 4,
                "use_libwrap": "no",
            } | extra
        configure(folder, children, **extra)
        super().__init__(["/sbin/auditd", "-n", "-c", str(folder)], folder, "auditd")
        self.log = folder / "audit.log"
        self._listen = listen

    def _await_ready(self) -> None:
        def ready() -> bool:
            assert self.ended() is None, f"auditd ended: {self.said()}"
            return listening(self._listen) if self._listen else audit_owner() == self.pid

        wait_for(ready, "auditd is up")
        time.sleep(0.2)  # its plugins are started after it has taken the stream, and nothing tells when


class Ours(Daemon):
    """audispd. options: as on its command line."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        children: Sequence[Child] = (),
        own: str = "",
        stdin: Any = subprocess.DEVNULL,
        wrapper: Sequence[str] = (),
        **extra: Any,
    ) -> None:
        configure(folder, children, **extra)
        _write(folder / "audispd.conf", own)
        self.run = folder / "run"
        if not wrapper and os.path.lexists("/dev/log"):
            wrapper = private_dev(folder, None)  # what it says is to come here
        argv = [*wrapper, *command(), "-n", "-c", str(folder), "--runtime-dir", str(self.run), *options]
        super().__init__(argv, folder, "ours", stdin=stdin)
        self.log = folder / "audit.log"

    def _await_ready(self) -> None:
        def ready() -> bool:
            assert self.ended() is None, f"audispd ended with {self.ended()}: {self.said()}"
            with contextlib.suppress(OSError):
                return bool(self.status()["pid"] == self.pid)
            return False

        wait_for(ready, "audispd is up")

    def status(self) -> dict[str, Any]:
        """What `audisp status --json` shows."""
        return ask(self.run, "status")

    def source(self, name: str) -> dict[str, Any]:
        """The books of one source."""
        found: dict[str, Any] = self.status()["sources"][name]
        return found

    def plugin(self, name: str) -> dict[str, Any]:
        """The books of one plugin."""
        found: dict[str, Any] = self.status()["plugins"][name]
        return found

    def assert_balanced(self) -> None:
        """The books of every source and plugin, which wait for nothing any more."""
        status = self.status()
        for source in status["sources"].values():
            assert source["received"] == source["routed"] + source["rejected"]
        for plugin in status["plugins"].values():
            out = sum(plugin[key] for key in ("delivered", "filtered", "dropped", "quarantined", "waiting"))
            assert plugin["offered"] + plugin["carried"] == out


def command() -> list[str]:
    """audispd of the Python that runs the tests."""
    return [sys.executable, "-m", "audisp.cli.audispd"]


def listening(port: int, pid: int | str = "self") -> bool:
    """Whether somebody listens on this TCP port in a process's network namespace."""
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                return True
    return False


def lines_of(path: Path) -> list[bytes]:
    """Lines of a file, each with its LF; none if it is absent."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def serials_of(path: Path) -> list[int]:
    """Kernel serials of a log, in order and as often as they stand there; the daemons' own records left out."""
    found = []
    for line in lines_of(path):
        if b"type=DAEMON_" not in line[:80]:
            stamp = STAMP.search(line)
            assert stamp is not None, line
            found.append(int(stamp[2]))
    return found


def workload(*words: object) -> subprocess.Popen[bytes]:
    """tests/e2e/workload.py, started."""
    script = Path(__file__).with_name("workload.py")
    return subprocess.Popen([sys.executable, "-I", "-S", str(script), *map(str, words)], stdin=subprocess.DEVNULL)


def work(*words: object) -> None:
    """tests/e2e/workload.py, to its end."""
    with workload(*words) as process:
        assert process.wait(120) == 0


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if it is absent."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0
