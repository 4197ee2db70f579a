"""`audispd --observe --collector`: a collector on loopback beside the observer, and the observer forwards to it.

What holds: all of it lies in one private folder, which is removed at the end with whatever is in it; the key is made
for this run and is in no log and no argument; the collector outlives the dispatcher's drain, whatever a terminal sends
to the whole foreground group, and never outlives this process. If it cannot start, observing goes on without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

import attrs

from audisp.config.collector import NAME as COLLECTOR_CONF
from audisp.config.remote import NAME as REMOTE_CONF
from audisp.dispatch.control import ask
from audisp.dispatch.plan import Options, conf_folder
from audisp.errors import AudispError, ParseError
from audisp.parse.form import terminal_safe
from audisp.parse.psk import MIN_KEY, Key, check_identity
from audisp.tls.keyfile import write_key

ADDRESS: Final = "127.0.0.1"
PLUGIN: Final = "remote"
"""What the forwarding plugin is called in the ledger."""
START_SECONDS: Final = 20.0
"""A collector is up within two seconds on an idle machine; ten times that on one that is busy."""
STOP_SECONDS: Final = 10.0
"""More than its `drain_timeout`. Nobody sends any more when it is told to end."""
DRAIN_SECONDS: Final = 5
LOOK_SECONDS: Final = 0.05
"""Between two looks whether it is up."""
STORE_SIZE: Final = "64M"
SPOOL_SIZE: Final = "16M"
"""The least that each may have: the folder is often in memory, and who watches for a week must not fill that."""
MAX_CONNECTIONS: Final = 16
"""One is used. The default would want 12,000 descriptors, which an ordinary user may not have."""
SAID_LINES: Final = 5
"""Last lines of the collector's log that are shown when it has failed."""
MAX_LOG: Final = 1 << 16
"""Bytes that are read of that log, from its end."""
PR_SET_PDEATHSIG: Final = 1
"""prctl(2); linux/prctl.h."""
ANOTHER_NAME: Final = b"localhost"
"""Identity on a host whose own name is none: with a space in it, or longer than 255 bytes."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal, a shell or a service manager sends to end a program."""
PLUGIN_FILES: Final = frozenset({".conf", ".audisp"})
"""Of a plugin folder, what a plugin's file can be called."""


class NoCollector(AudispError):
    """It cannot be started; says why."""


def run_with_collector(options: Options, run: Callable[[Options], int]) -> int:
    """What `run` returns, with a collector beside it if one can be had."""
    with contextlib.ExitStack() as held:
        held.enter_context(_signals_unwind())
        beside: Loopback | None = None
        try:
            beside = held.enter_context(Loopback())
            options = beside.start(options)
        except NoCollector as error:
            _say(f"no collector: {error}; observing goes on without it")
            beside = None
        status = run(options)
        # From here on the end is near anyway: whoever is in a hurry must not leave the folder behind.
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: None)
        if beside is not None:
            _show(beside.told())
    return status


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Until `run` hears signals itself, they end this process by way of all that is held."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)  # as a shell says of a program that a signal has ended

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"audispd: NOTICE: {terminal_safe(text)}", file=sys.stderr, flush=True)


def _show(lines: list[str]) -> None:
    """On standard output, behind the ledger. Who does not read any more is not told."""
    try:
        print("\n".join(terminal_safe(line) for line in lines), flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, 1)
        os.close(nowhere)


@attrs.define
class Loopback:
    """The collector, its folder, and what forwards to it. As a context: all of it is gone at the end."""

    folder: Path = attrs.field(init=False)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Raises NoCollector if there is no place for its folder."""
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="audisp-"))
        except OSError as error:
            raise NoCollector(f"{tempfile.gettempdir()}: cannot make a private folder: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        _say(f"{self.folder} {'cannot be removed' if self.folder.exists() else 'is removed, and nothing else is left'}")

    def start(self, options: Options) -> Options:
        """Start it, and wait until it listens; options with which audispd forwards to it. Raises NoCollector."""
        identity = _identity()
        try:
            self._prepare(identity)
            with self._log.open("xb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "audisp.cli.collector", "-f", "-c", str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd="/",
                    # Ctrl-C reaches the whole foreground group, and what is drained must still find it there.
                    start_new_session=True,
                    # No thread exists yet, so that nothing can hold a lock between fork and exec.
                    preexec_fn=_end_with_parent(),
                )
            self.port = self._await_port(self._process)
            plugins = self._forward(identity, options.plugin_dir)
        except OSError as error:
            raise NoCollector(f"{error.filename or self.folder}: {error.strerror or error}") from error
        except AudispError as error:
            raise NoCollector(str(error)) from error
        _say(
            f"a collector listens at {ADDRESS}:{self.port}, with a key made for this run; what passes here is "
            f"forwarded to it over TLS. All of it is in {self.folder}, which is removed at the end"
        )
        return attrs.evolve(options, plugin_dir=plugins)

    def _prepare(self, identity: str) -> None:
        write_key(self._key, Key(os.urandom(MIN_KEY)), identity.encode())
        (self.folder / "collector.d").mkdir(0o700)
        self._write(
            COLLECTOR_CONF,
            {
                "listen": f"{ADDRESS}:0",
                "tls_psk_file": self._key,
                "tls_psk_identity": identity,
                "plugin_dir": self.folder / "collector.d",
                "store_dir": self.folder / "store",
                "store_size": STORE_SIZE,
                # It stores until the disk is full; who sends is told, and waits.
                "store_min_free": 0,
                "space_left": 0,
                "admin_space_left": 0,
                "runtime_dir": self._run,
                "state_dir": self.folder / "state",
                "max_connections": MAX_CONNECTIONS,
                "priority_boost": 0,
                "drain_timeout": DRAIN_SECONDS,
            },
        )

    def _await_port(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, AudispError):
                listening = ask(self._run, "status")["listening"]
                if listening:
                    return int(listening[0].rpartition(":")[2])
            if process.poll() is not None:
                raise NoCollector(f"it ended with status {process.returncode}{self._last_words()}")
            if time.monotonic() >= deadline:
                raise NoCollector(f"it does not listen after {START_SECONDS:.0f} seconds{self._last_words()}")
            time.sleep(LOOK_SECONDS)

    def _forward(self, identity: str, plugin_dir: Path | None) -> Path:
        """A plugin folder: what would be there without us, and the plugin that forwards."""
        self._write(
            REMOTE_CONF,
            {
                "remote_server": f"{ADDRESS}:{self.port}",
                "transport": "tls",
                "protocol": "native",
                "tls_psk_file": self._key,
                "tls_psk_identity": identity,
                # Not the C program's, which would be taken over.
                "queue_file": self.folder / "remote.log",
                "spool_dir": self.folder / "spool",
                "spool_size": SPOOL_SIZE,
                "spool_min_free": 0,
                "state_file": self._state_file,
                # Somebody looks on: no action is to stop anything.
                "network_failure_action": "syslog",
                "queue_error_action": "syslog",
                "network_retry_max": 1,
            },
        )
        plugins = self.folder / "plugins.d"
        plugins.mkdir(0o700)
        for path in sorted((plugin_dir or conf_folder() / "observe").iterdir()):
            if path.suffix not in PLUGIN_FILES:
                continue
            if plugin_dir is None:
                # Ours, as trustworthy as the code, whoever owns the checkout: a copy has an owner that will do.
                shutil.copyfile(path, plugins / path.name)
            else:
                # A link is followed, and its target's owner and mode are judged.
                (plugins / path.name).symlink_to(path)
        self._write(
            f"plugins.d/{PLUGIN}.audisp", {"active": "yes", "plugin": "remote", "config": self.folder / REMOTE_CONF}
        )
        return plugins

    def _write(self, name: str, keys: dict[str, object]) -> None:
        text = "".join(f"{key} = {value}\n" for key, value in keys.items())
        fd = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)

    @property
    def _key(self) -> Path:
        return self.folder / "host.key"

    @property
    def _log(self) -> Path:
        return self.folder / "collector.log"

    @property
    def _run(self) -> Path:
        return self.folder / "run"

    @property
    def _state_file(self) -> Path:
        return self.folder / "remote.state"

    # ---- at the end ----

    def told(self) -> list[str]:
        """What it has stored, for people."""
        try:
            hosts: list[dict[str, Any]] = ask(self._run, "hosts")["hosts"]
        except (OSError, AudispError, KeyError) as error:
            why = f"it does not answer: {error}"
            if self._process is not None and self._process.poll() is not None:
                why = f"it ended with status {self._process.returncode}"
            return ["", f"what the collector has stored is not known: {why}{self._last_words()}"]
        if not hosts:
            return ["", "the collector has stored nothing"]
        rows = [("host at the collector", "stored", "lag", "missing")]
        rows += [
            (host["host"], f"{host['records'] + host['removed']:,}", self._lag(host), f"{host['missing']:,}")
            for host in hosts
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return [
            "",
            *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows),
        ]

    def _lag(self, host: dict[str, Any]) -> str:
        """What the sender still has. It is gone by now, so that its last state says it and not the collector."""
        if host["lag"] is not None:
            return f"{host['lag']:,}"
        with contextlib.suppress(OSError, ValueError):
            for line in self._state_file.read_text(errors="backslashreplace").splitlines():
                if line.startswith("waiting = "):
                    return f"{int(line.removeprefix('waiting = ')):,}"
        return "?"

    def _last_words(self) -> str:
        """The end of its log, in brackets."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - MAX_LOG))
                lines = file.read().decode(errors="backslashreplace").splitlines()[-SAID_LINES:]
        except OSError:
            return ""
        return f" ({'; '.join(lines)})" if lines else ""


def _identity() -> str:
    """This host's name, as far as it can be an identity."""
    try:
        return check_identity(os.fsencode(os.uname().nodename)).decode("ascii")
    except ParseError:
        return ANOTHER_NAME.decode("ascii")


def _end_with_parent() -> Callable[[], None]:
    """For the child between fork and exec: an end, as by SIGTERM, when this process is gone, be it by kill -9."""
    prctl = ctypes.CDLL(None).prctl

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    return ask_kernel
