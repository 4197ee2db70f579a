"""A sender and a receiver under measurement: Debian's audisp-remote and auditd, or our audisp-remote and
audisp-collector, each on a configuration of its own, in the scratch folder.

What is measured begins when both do nothing, ours in connection (the C program connects at its first record), with the
start of `cat FILE` into the sender's pipe, and ends when the sender ends its connection, which it does after the last
acknowledgement; with the C program that is its own end. CPU is counted up to the sender's own end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import attrs

from tests.bench.daemon import AUDITD, Daemon, configure
from tests.bench.figures import MILLION, Run
from tests.bench.place import CODE, Place, program
from tests.bench.process import cpu_quiet, memory_mib, process_seconds, wait_for

IDENTITY: Final = "web1.example.com"
THEIR_CONF: Final = "/etc/audit/audisp-remote.conf"
"""Compiled into the C program; it is given ours in a mount namespace of its own."""
START_LIMIT: Final = 20.0
RUN_LIMIT: Final = 600.0
STOP_LIMIT: Final = 30.0
LOOK_SECONDS: Final = 0.005
"""Between two looks whether a connection is still there."""
ESTABLISHED: Final = "01"
"""In /proc/net/tcp."""

CLIENT: Final[dict[str, object]] = {
    "remote_server": "127.0.0.1",
    "mode": "immediate",
    "format": "managed",
    "queue_depth": 10_240,
    "network_retry_time": 1,
    "network_failure_action": "syslog",
    "remote_ending_action": "reconnect",
}
"""audisp-remote.conf of both, as far as both know it."""


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def write_conf(path: Path, keys: Mapping[str, object]) -> Path:
    """A configuration file as both take it."""
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    path.chmod(0o640)
    return path


def write_key(path: Path, key: str) -> Path:
    """A key file, one line."""
    path.unlink(missing_ok=True)
    path.write_text(key + "\n")
    path.chmod(0o400)
    return path


@attrs.define
class Program:
    """A process of ours or theirs, until it is stopped. A context manager. stdout: as Popen's; None: to a file, where
    its other output goes too."""

    argv: list[str]
    folder: Path
    name: str
    stdin: int = subprocess.DEVNULL
    stdout: int | None = None
    process: subprocess.Popen[bytes] = attrs.field(init=False)

    def __enter__(self) -> Self:
        with open(self.folder / f"{self.name}.said", "ab") as said:
            # In the copy of our code, which is what is measured.
            code = self.folder.parent / CODE
            out = said if self.stdout is None else self.stdout
            self.process = subprocess.Popen(self.argv, stdin=self.stdin, stdout=out, stderr=said, cwd=code)
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def said(self) -> str:
        """The last of its output."""
        return (self.folder / f"{self.name}.said").read_text(errors="backslashreplace")[-1500:]

    def runs(self) -> bool:
        """True; RuntimeError if it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.said()}")
        return True

    def end(self, limit: float) -> tuple[float, float]:
        """Wait for its own end: CPU seconds of its life, and peak MiB while it was looked at. TimeoutError."""
        deadline, peak = time.monotonic() + limit, 0.0
        while True:
            # Looked at while it lives: ru_maxrss would begin with what we had when we forked.
            peak = max(peak, memory_mib(self.pid))
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                return used.ru_utime + used.ru_stime, peak
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: has not ended within {limit:g} s: {self.said()}")
            time.sleep(0.005)


@attrs.frozen
class Measured:
    """One run: seconds, CPU seconds and peak MiB of each end, and records that are at the receiver."""

    seconds: float
    sender_cpu: float
    receiver_cpu: float
    sender_peak: float
    receiver_peak: float
    arrived: int

    def figures(self, records: int) -> Run:
        """By name, per record."""
        return {
            "rate": records / self.seconds,
            "sender": self.sender_cpu / records * MILLION,
            "receiver": self.receiver_cpu / records * MILLION,
            "cpu": (self.sender_cpu + self.receiver_cpu) / records * MILLION,
            "sender peak": self.sender_peak,
            "receiver peak": self.receiver_peak,
            "missing": records - self.arrived,
        }


def feed(sender: Program, pipe: int, log: Path, receiver: int, port: int) -> tuple[float, float, float, float]:
    """`cat` into the sender's pipe: seconds until it has ended its connection to the port (itself, if it has none yet),
    its CPU up to its own end, its peak MiB, and the receiver's CPU. pipe: the writing end, closed when this returns."""
    link = _connection(sender.pid, port)
    at_receiver, at_sender = process_seconds(receiver), process_seconds(sender.pid)
    began = time.monotonic()
    try:
        cat = subprocess.Popen(["cat", log], stdout=pipe)
    finally:
        os.close(pipe)
    try:
        gone = _when_gone(*link, began + RUN_LIMIT) if link is not None else 0.0
        life, peak = sender.end(RUN_LIMIT)
        seconds = (gone or time.monotonic()) - began
    finally:
        cat.kill()
        cat.wait()
    if sender.process.returncode:
        raise RuntimeError(f"{sender.name} ended with {sender.process.returncode}: {sender.said()}")
    return seconds, life - at_sender, peak, process_seconds(receiver) - at_receiver


def _connection(pid: int, port: int) -> tuple[Path, str] | None:
    """The descriptor by which a process is in connection with this port of 127.0.0.1, and what it is a link to; None if
    it is not."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == ESTABLISHED and int(words[2].rpartition(":")[2], 16) == port:
            for path in Path(f"/proc/{pid}/fd").iterdir():
                if os.readlink(path) == f"socket:[{words[9]}]":
                    return path, f"socket:[{words[9]}]"
    return None


def _when_gone(path: Path, target: str, deadline: float) -> float:
    """Wait until that is no such link any more; the time (time.monotonic). TimeoutError."""
    while time.monotonic() < deadline:
        try:
            if os.readlink(path) != target:
                break
        except OSError:
            break
        time.sleep(LOOK_SECONDS)
    else:
        raise TimeoutError("the sender is still in connection")
    return time.monotonic()


def theirs(place: Place, log: Path) -> Measured:
    """audisp-remote to auditd over plain TCP, immediate and managed, both Debian's."""
    folder, port = place.fresh("theirs"), free_port()
    configure(
        folder,
        {},
        keys={
            "local_events": "no",
            "write_logs": "yes",
            "tcp_listen_port": str(port),
            "use_libwrap": "no",
            "tcp_max_per_addr": "16",
        },
    )
    conf = write_conf(
        folder / "audisp-remote.conf",
        CLIENT | {"port": port, "transport": "tcp", "queue_file": folder / "queue", "heartbeat_timeout": 0},
    )
    run = f"mount --bind {conf} {THEIR_CONF} && exec /sbin/audisp-remote"
    with contextlib.ExitStack() as running:
        auditd = running.enter_context(Daemon(folder, [AUDITD], owner=False, port=port))
        sender, pipe = _on_pipe(running, ["unshare", "-m", "sh", "-c", run], folder)
        cpu_quiet([sender.pid, auditd.pid])
        seconds, cpu, peak, receiver = feed(sender, pipe, log, auditd.pid, port)
        receiver_peak = auditd.peak_mib()
    with open(auditd.log, "rb") as file:
        arrived = sum(not line.startswith(b"type=DAEMON_") for line in file)
    return Measured(seconds, cpu, receiver, peak, receiver_peak, arrived)


def collector(folder: Path, port: int, **more: object) -> Program:
    """Our collector, configured; not started. Its store and control socket are in the folder."""
    keys: dict[str, object] = {
        "listen": f"127.0.0.1:{port}",
        "store_dir": folder / "store",
        "runtime_dir": folder / "run",
        "state_dir": folder / "state",
        "space_left": 0,
        "admin_space_left": 0,
        "store_min_free": 0,
    }
    write_conf(folder / "audisp-collector.conf", keys | more)
    argv = [*program("audisp.cli.collector"), "-f", "-c", str(folder)]
    return Program(argv, folder, "audisp-collector")


def ours(place: Place, log: Path, relay_ms: int | None = None) -> Measured:
    """audisp-remote to audisp-collector over TLS-PSK, spool and store synced. relay_ms: through a relay of its own
    process that holds each byte for so long, each way; None: directly."""
    folder, port = place.fresh("ours"), free_port()
    key = write_key(folder / "key", secrets.token_hex(32))
    server = collector(folder, port, tls_psk_file=key, tls_psk_identity=IDENTITY)
    at = free_port() if relay_ms is not None else port
    state = folder / "remote.state"
    conf = write_conf(
        folder / "audisp-remote.conf",
        CLIENT
        | {
            "port": at,
            "transport": "tls",
            "tls_psk_file": key,
            "tls_psk_identity": IDENTITY,
            "protocol": "native",
            "queue_file": folder / "queue",
            "spool_dir": folder / "spool",
            "spool_sync": "always",
            "spool_min_free": 0,
            "state_file": state,
        },
    )
    with contextlib.ExitStack() as running:
        running.enter_context(server)
        wait_for("audisp-collector to listen", lambda: server.runs() and listens(port), START_LIMIT)
        if relay_ms is not None:
            running.enter_context(Program([str(place.relay), str(at), str(port), str(relay_ms)], folder, "relay"))
        argv = [*program("audisp.cli.remote"), "--config", str(conf)]
        sender, pipe = _on_pipe(running, argv, folder)
        wait_for("audisp-remote to connect", lambda: sender.runs() and _says(state, sender.pid), START_LIMIT)
        cpu_quiet([sender.pid, server.pid])
        seconds, cpu, peak, receiver = feed(sender, pipe, log, server.pid, at)
        receiver_peak = memory_mib(server.pid)
    return Measured(seconds, cpu, receiver, peak, receiver_peak, _stored(folder))


def _on_pipe(running: contextlib.ExitStack, argv: list[str], folder: Path) -> tuple[Program, int]:
    """A sender that reads a pipe, and the pipe's writing end."""
    reading, writing = os.pipe()
    try:
        return running.enter_context(Program(argv, folder, "audisp-remote", reading)), writing
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)


def listens(port: int) -> bool:
    """Whether somebody listens there, on 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _says(state: Path, pid: int) -> bool:
    """Whether audisp-remote has a connection, by its state file, which it is asked to write."""
    if not state.exists():
        return False
    os.kill(pid, signal.SIGUSR1)
    said: dict[str, Any] = dict(line.split(" = ", 1) for line in state.read_text().splitlines() if " = " in line)
    return bool(said.get("transport_ok") == "yes")


def _stored(folder: Path) -> int:
    """Records of the one sender in the store, as the collector's own program counts them."""
    argv = [*program("audisp.cli.collector"), "cat", "-c", str(folder), "--host", IDENTITY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=folder.parent / CODE) as cat:
        assert cat.stdout is not None
        return sum(chunk.count(b"\n") for chunk in iter(partial(cat.stdout.read, 1 << 20), b""))
