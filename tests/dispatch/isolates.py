"""Plugins in processes of their own, for tests: one file of code that does as its settings say, and its runner."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import attrs

from audisp.config.grammar import Setting
from audisp.config.plugins import PluginConf
from audisp.dispatch.host import PluginHost
from audisp.dispatch.intake import Intake
from audisp.dispatch.isolated import IsolatedRunner, IsolatedType
from audisp.dispatch.restart import Restarts
from audisp.wire import isolate as wire
from tests.dispatch.intakes import make_intake
from tests.dispatch.voices import Said

CODE = """
import ctypes, os, signal, sys, threading, time
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from audisp.plugin import ConfigError, Delivery, PluginType, Reject, Retry, hookimpl

BEGUN = time.monotonic()


@attrs.frozen
class Settings:
    out: Path
    mode: str = "keep"
    once: bool = True
    at: int = 0
    loop: bool = False
    extra: Path | None = None

    def __attrs_post_init__(self):
        if self.mode == "bad":
            raise ConfigError("is no mode", key="mode")

    def notices(self):
        return ["mode: is worth a word"] if self.mode == "notice" else []

    def files(self):
        return [self.extra] if self.extra else []


def append(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, data)
    os.close(fd)


def misbehave(mode, block, host):
    if mode == "segv":
        ctypes.string_at(0)
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "exit":
        os._exit(3)
    if mode == "raise":
        raise ZeroDivisionError("division by zero")
    if mode == "retry":
        raise Retry("not now")
    if mode == "reject":
        raise Reject("never")
    if mode == "hang":
        time.sleep(1000)
    if mode == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            pass
    if mode == "bomb":
        held = []
        while True:
            held.append(bytearray(1 << 20))
    if mode == "await":
        return trio.sleep(0)
    if mode == "flood":
        for _ in range(20_000):
            host.say("info", "x" * 200)
    if mode == "act":
        host.act("syslog", "allowed")
        host.act("halt", "not allowed")
        host.act("exec", "not named", "/bin/false")
        for number in range(50):
            host.act("email", f"mail {number}")
    if mode == "host":
        host.count("seen", 2)
        host.say("warning", "a word")
        host.emit(1100, "op=test")


@asynccontextmanager
async def open_it(settings, host):
    modes = settings.mode.split("+")
    said = {"pid": str(os.getpid())}
    if settings.mode == "refuse":
        raise OSError("cannot be opened")
    if settings.mode == "sleep-open":
        await trio.sleep(1000)

    def deliver(block):
        turn = 0 if len(modes) == 1 else block.first_serial() // 100
        done = Path(f"{settings.out}.done{turn or ''}")
        if turn < len(modes) and (not settings.at or settings.at in block.serials()):
            if not settings.once or not done.exists():
                append(done, b"x")
                found = misbehave(modes[turn], block, host)
                if found is not None:
                    return found
        if settings.mode == "events":
            for event in block:
                seen = (event.stamp, event.flags, event.origin, event.raw, event.context)
                append(settings.out, repr(seen).encode() + b"\\n")
        else:
            append(settings.out, block.data)
        said["blocks"] = str(int(said.get("blocks", 0)) + 1)

    async def deliver_async(block):
        deliver(block)

    def command(name):
        return lambda: append(Path(str(settings.out) + ".commands"), name + b"\\n")

    async with trio.open_nursery() as nursery:
        if settings.mode == "task":
            async def fail():
                await trio.sleep(0.05)
                raise ValueError("a task of its own")
            nursery.start_soon(fail)
        if settings.mode == "idle-exit":
            async def leave():
                await trio.sleep(0.05)
                os._exit(7)
            nursery.start_soon(leave)
        yield Delivery(
            deliver_async if settings.loop else deliver, rotate=command(b"rotate"), resume=command(b"resume"),
            state=lambda: dict(said),
        )
        nursery.cancel_scope.cancel()
    append(Path(str(settings.out) + ".closed"), b"x")
    if settings.mode == "bad-close":
        raise OSError("cannot be closed")
    if settings.mode == "hang-close":
        time.sleep(1000)


@hookimpl
def audisp_plugins():
    return [PluginType("tested", Settings, open_it, wants=WANTS)]
"""


def settings(path: Path, **values: object) -> tuple[Setting, ...]:
    """As they would stand in a file."""
    return tuple(Setting(key, (str(value),), at, str(value), path) for at, (key, value) in enumerate(values.items(), 1))


@attrs.define
class Isolates:
    """Makes runners in one folder, below which only root can write."""

    folder: Path
    said: Said = attrs.field(factory=Said)
    emitted: list[tuple[int, str]] = attrs.field(factory=list)
    acts: list[tuple[str, str]] = attrs.field(factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def got(self, suffix: str = "") -> bytes:
        """What the plugin wrote down."""
        path = Path(f"{self.out}{suffix}")
        return path.read_bytes() if path.exists() else b""

    def code(self, text: str, name: str = "tested.py") -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def conf(self, wants: str = "blocks", *, host_keys: dict[str, Any] | None = None, **values: object) -> PluginConf:
        """Settings of the plugin are keywords, the host's keys a dictionary."""
        code = self.code(CODE.replace("WANTS", repr(wants)))
        return PluginConf(
            name="tested",
            path=Path("/etc/tested.audisp"),
            active=True,
            plugin=str(code),
            isolation="process",
            settings=settings(Path("/etc/tested.audisp"), out=self.out, **values),
            **(host_keys or {}),
        )

    def runner(
        self,
        wants: wire.Wants = "blocks",
        intake: Intake | None = None,
        *,
        max_restarts: int = 10,
        conf: PluginConf | None = None,
        host_keys: dict[str, Any] | None = None,
        **values: object,
    ) -> IsolatedRunner:
        """Without asking the plugin first what it is."""
        conf = conf or self.conf(wants, host_keys=host_keys, **values)
        type_ = IsolatedType(conf, self.said, wire.Described(wants, (), b""), False)
        host = PluginHost(
            "tested",
            False,
            str(self.folder),
            self.said,
            lambda type_, text: self.emitted.append((type_, text)),
            lambda action, message, path: self.acts.append((action, message)),
            time.monotonic,
        )
        return IsolatedRunner(
            conf,
            type_.type(),
            type_,
            intake or make_intake(1 << 20),
            Restarts(max_restarts, 0.01, 0.05),
            self.said,
            host,
            self.folder / "quarantine",
            conf.deliver_timeout,
        )

    def kept(self) -> bytes:
        """All that is in quarantine."""
        return b"".join(file.read_bytes() for file in sorted((self.folder / "quarantine").rglob("*")) if file.is_file())


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def open_descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


HOSTILE = '''
import os, socket, struct, time
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import msgpack

from audisp.plugin import Delivery, PluginType, hookimpl


@attrs.frozen
class Settings:
    out: Path
    mode: str


def channel():
    """The descriptor that leads to the dispatcher: what code in this process finds if it wants to."""
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
            if struct.unpack("iii", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == os.getppid():
                return found
        except OSError:
            continue


def frame(*body):
    data = msgpack.packb(list(body))
    return struct.pack("<II", len(data), 0) + data


LIES = {
    "garbage": b"\\xff" * 64,
    "unknown": frame(77),
    "again": frame(19, 0),
    "ahead": frame(19, 1 << 40),
    "opened": frame(18),
    "described": frame(16, "blocks", [], b""),
    "daemon": frame(25, 1203, "op=reconfigure"),
    "size": frame(25, 1100, "x" * 9000),
    "counters": b"".join(frame(23, {f"c{n}-{m}": 1 for n in range(200)}) for m in range(2)),
}


@asynccontextmanager
async def open_it(settings, host):
    line = channel()

    def deliver(block):
        turn = block.first_serial() // 100
        mode = settings.mode.split("+")[turn]
        done = Path(f"{settings.out}.done{turn}")
        if not done.exists():
            done.touch()
            if mode == "flood":
                said = frame(24, "info", "y" * 100) * 1000
                try:
                    while True:
                        line.send(said)
                except OSError:
                    return
            if mode == "flood-emit":
                said = frame(25, 1100, "y=1") * 1000
                for _ in range(3):
                    line.sendall(said)
                return
            if mode == "deaf":
                line.shutdown(socket.SHUT_RD)
                return
            if mode == "mute":
                line.shutdown(socket.SHUT_WR)
                time.sleep(1000)
            line.sendall(LIES[mode])
            time.sleep(1000)
        fd = os.open(settings.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, block.data)
        os.close(fd)

    yield deliver


@hookimpl
def audisp_plugins():
    return [PluginType("tested", Settings, open_it)]
'''
"""A plugin that was taken over, and speaks for itself."""
