"""An audispd of its own in a scratch folder: configuration, input with exact books, children that can be killed."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from audisp.dispatch.control import ask
from audisp.errors import AudispError
from tests.soak.records import Account, Records

PATIENCE: Final = 60.0
"""Seconds after which something that was waited for is a failure."""
POLL: Final = 0.01
HEAD: Final = struct.Struct("=7Q")
PAGE: Final = 4096
SOURCE: Final = Path(__file__).parent / "c" / "sink.c"


class Failed(Exception):
    """The dispatcher did not do what was waited for."""


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Return when the condition holds. Raises Failed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(POLL)


def build(folder: Path) -> Path:
    """The sink's program, compiled. Raises CalledProcessError."""
    program = folder / "sink"
    if not program.exists():
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)], check=True)
        program.chmod(0o755)
    return program


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in which plugins may live: nobody else may write to it or above it, as in /tmp, and programs can be
    started from it, which they cannot from Debian's /run."""
    folder = Path(tempfile.mkdtemp(prefix="audisp-soak-", dir="/var/lib" if os.geteuid() == 0 else Path.home()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attrs.frozen
class Taken:
    """What one run of a sink wrote down. gap: longest seconds between two reads."""

    pid: int
    data: bytes
    reads: int
    gap: float
    ended: bool


def _taken(path: Path) -> Taken:
    with open(path, "rb") as file:
        # Made, and not filled with zeros yet: a sink that is about to start.
        head = file.read(HEAD.size).ljust(HEAD.size, b"\0")
        pid, size, reads, gap, _, _, ended = HEAD.unpack(head)
        file.seek(PAGE)
        data = file.read(size)
        # What was read when SIGKILL came, and not yet added up: records hold no NUL, and the file began as a hole.
        while more := file.read(PAGE).rstrip(b"\0"):
            data += more
    return Taken(pid, data, reads, gap / 1e9, bool(ended))


class Feed:
    """The stream on audispd's standard input: a socketpair of which we hold both ends, so it outlives a killed
    dispatcher, and the kernel can say exactly what of it was read."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.sent = 0
        """Records handed to the kernel as a whole."""
        self.sent_bytes = 0
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, count: int, block: int = 64) -> None:
        """Send the next records, `block` of them at a time. Blocks as a sender does."""
        while count > 0:
            size = min(block, count)
            data = self.records.block(self.sent + 1, size)
            self.ours.sendall(data)
            self.sent += size
            self.sent_bytes += len(data)
            count -= size

    def start(self, rate: float, most: int = 10_000_000, block: int = 16) -> None:
        """Send from a thread at `rate` records per second until `stop`, or until `most` have been sent in all."""

        def run() -> None:
            began, before = time.monotonic(), self.sent
            while not self._stop.is_set() and self.sent < most:
                if self.sent - before < (time.monotonic() - began) * rate:
                    self.send(min(block, most - self.sent), block)
                else:
                    time.sleep(0.001)

        self._stop.clear()
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end after the block it is in. Somebody must be reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                raise Failed("the source takes no more")
            self._thread = None

    def unread(self) -> int:
        """Bytes that the dispatcher has not read."""
        answer = array.array("i", [0])
        fcntl.ioctl(self.theirs.fileno(), termios.FIONREAD, answer, True)
        return answer[0]

    def end(self) -> None:
        """The end of the stream."""
        self.ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the descriptors back."""
        self._stop.set()
        self.ours.close()
        self.theirs.close()


class World:
    """One instance. Leaving the block kills whatever is left of it."""

    def __init__(self, folder: Path, records: Records, *, own: str = "", auditd: str = "", logs: bool = False) -> None:
        """own and auditd: further lines of the two files. logs: write an audit.log, as the owner of the stream does."""
        self.folder, self.records = folder, records
        self.runtime, self.conf = folder / "run", folder / "conf"
        self.sinks = folder / "sinks"
        for each in (folder, self.runtime, self.conf, self.conf / "plugins.d", self.sinks):
            each.mkdir(mode=0o700, exist_ok=True)
        self.sink = build(folder.parent if (folder.parent / "sink").exists() else folder)
        self.log = folder / "audispd.log"
        self._write(
            "auditd.conf",
            f"local_events = yes\nwrite_logs = {'yes' if logs else 'no'}\nlog_file = {folder}/audit.log\n"
            f"space_left = 2\nadmin_space_left = 1\nplugin_dir = {self.conf}/plugins.d\n" + auditd,
        )
        self._write("audispd.conf", f"spill_dir = {folder}/spill\nspill_min_free = 1M\n" + own)
        self.feed = Feed(records)
        self.process: subprocess.Popen[bytes] | None = None
        self.env: dict[str, str] = {}
        """Added to the dispatcher's environment."""
        self._readers: list[subprocess.Popen[bytes]] = []

    def _write(self, name: str, text: str) -> None:
        path = self.conf / name
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(text)
        temporary.chmod(0o640)
        temporary.replace(path)

    def plugin(self, name: str, text: str) -> None:
        """Configure a plugin (NAME.audisp)."""
        self._write(f"plugins.d/{name}.audisp", f"active = yes\n{text}\n")

    def child(self, name: str, more: str = "", *, mib: int = 512, chunk: int = 65536, sleep_us: int = 0) -> None:
        """Configure a sink as a child."""
        args = f"{self.sinks} {name} {mib} {chunk} {sleep_us}"
        self.plugin(name, f"path = {self.sink}\nargs = {args}\nrestart_delay = 0.02\nrestart_delay_max = 0.05\n{more}")

    def reader(self, name: str, path: Path, *, mib: int = 512) -> subprocess.Popen[bytes]:
        """Start a sink that reads from a socket."""
        argv = [str(self.sink), str(self.sinks), name, str(mib), "65536", "0", str(path)]
        before = len(self.taken(name))
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self._readers.append(process)
        until(lambda: len(self.taken(name)) > before and process.pid in self.alive(name), "a connected reader")
        return process

    # ---- running ----

    def start(self, *sources: str) -> None:
        """Start it, on our feed unless sources are given, and wait for its control socket."""
        argv = [sys.executable, "-m", "audisp.cli.audispd", "-n", "-c", str(self.conf)]
        argv += ["--runtime-dir", str(self.runtime), *(f"--source={each}" for each in sources or ("stdin",))]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=self.feed.theirs.fileno(), stdout=log, stderr=log, cwd="/", env=os.environ | self.env
            )
        until(self._answers, "an answer from the control socket")

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise Failed(f"audispd ended with {self.process.returncode}: {self.said()[-2000:]}")
        try:
            return "ended" not in self.status()["sources"].get("stdin", {}).get("detail", {})
        except (OSError, AudispError):
            return False

    @property
    def pid(self) -> int:
        """Of the dispatcher."""
        assert self.process is not None
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """What `audisp status --json` shows."""
        return ask(self.runtime, "status")

    def books(self, name: str) -> dict[str, Any]:
        """One plugin's books, live."""
        found: dict[str, Any] = self.status()["plugins"][name]
        return found

    def final(self) -> dict[str, Any]:
        """The books that a dispatcher left on disk."""
        found: dict[str, Any] = json.loads((self.runtime / "state" / "books.json").read_bytes())
        return found

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL the dispatcher, and wait until its sinks have seen the end of their input."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.signal_sinks(signal.SIGCONT)
        until(lambda: not self.alive(), "the end of the sinks")

    def terminate(self) -> None:
        """SIGTERM the dispatcher."""
        assert self.process is not None
        self.process.terminate()

    def ended(self) -> bool:
        """Whether the dispatcher has ended by itself."""
        assert self.process is not None
        return self.process.poll() is not None

    def finish(self, seconds: float = PATIENCE) -> int:
        """End the feed and wait for the dispatcher's own end. Returns its exit code."""
        assert self.process is not None
        self.feed.end()
        return self.wait(seconds)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the dispatcher's end."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(OSError, AudispError):
                print(json.dumps(self.status(), indent=1), file=sys.stderr)
            raise Failed(f"audispd does not end: {self.said()[-2000:]}") from error

    def peak_kib(self) -> int:
        """VmHWM of the dispatcher (proc(5))."""
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1])

    # ---- sinks ----

    def taken(self, name: str) -> list[Taken]:
        """What the runs of a sink read, one after the other."""
        return [_taken(path) for path in sorted(self.sinks.glob(f"{name}.????"))]

    def account(self, name: str, *, binary: bool = False) -> Account:
        """What a sink got in all its runs, each line once. What a killed run had begun is torn, and comes again."""
        account = Account(self.records)
        for each in self.taken(name):
            if binary:
                account.add_frames(each.data)
            else:
                account.add(each.data)
        return account

    def one(self, taken: Taken) -> Account:
        """The account of one run."""
        account = Account(self.records)
        account.add(taken.data)
        return account

    def alive(self, name: str = "*") -> list[int]:
        """Pids of the sinks that live."""
        out = []
        for path in sorted(self.sinks.glob(f"{name}.????")):
            with open(path, "rb") as file:
                data = file.read(HEAD.size)
            pid = HEAD.unpack(data)[0] if len(data) == HEAD.size else 0
            # A zombie's exe cannot be read: it is dead.
            with contextlib.suppress(OSError):
                if pid and os.readlink(f"/proc/{pid}/exe") == str(self.sink):
                    out.append(pid)
        return out

    def signal_sinks(self, number: int, name: str = "*") -> int:
        """Signal the living sinks; returns how many."""
        pids = self.alive(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(pids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.signal_sinks(signal.SIGKILL)
        for reader in self._readers:
            reader.wait(PATIENCE)
        self.feed.close()
