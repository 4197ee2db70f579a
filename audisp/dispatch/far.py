"""One process of an isolated plugin, as the dispatcher sees it: started, told, listened to, ended.

What comes back is trusted in nothing: decoded strictly (wire/isolate.py), paced, and judged by the same `PluginHost`
that a plugin inside the dispatcher has. A process that breaks the rules, dies, or keeps a delivery longer than
`deliver_timeout` is ended, and that counts as a failure of the delivery under way.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

import attrs
import trio

from audisp.config.grammar import ConfigErrors
from audisp.config.plugins import PluginConf
from audisp.dispatch.handed import Handed, hand
from audisp.dispatch.host import PluginHost
from audisp.dispatch.inprocess import CLOSE_GRACE
from audisp.dispatch.inside import ASK_STACK
from audisp.dispatch.launch import Launched, launch
from audisp.dispatch.runner import Elsewhere, Say
from audisp.dispatch.stderr import LAST_WORDS, capture
from audisp.enrich.packed import pack
from audisp.errors import ConfigError, LocalProtocolError, PluginError, RemoteProtocolError
from audisp.event import Batch
from audisp.plugin import Block, Reject, Retry
from audisp.wire import isolate as wire

MODULE: Final = "audisp.dispatch.inside"
CLOSE_SECONDS: Final = CLOSE_GRACE - 1.0
"""What the process may take to close the plugin; less than the runner waits for that, so that it is reaped in time."""
EOF_SECONDS: Final = 1.0
"""A process that has closed its end is about to be gone; one that is not after this is ended."""
STACK_SECONDS: Final = 0.1
"""For the stack of a process that hangs to get to our log, before it is ended."""
REAP_SECONDS: Final = 1.0
"""After SIGKILL. One that is in a system call that does not end is left to itself."""
READ_BYTES: Final = 64 * 1024
"""Read from the process at once."""
MESSAGES_PER_SECOND: Final = 2_000
MESSAGES_BURST: Final = 1_000
"""Messages, but for answers, that are taken from one process. Looking at one takes some ten microseconds, so that a
process that sends without end costs the loop two per cent; then nothing is read from it for a while, and it waits."""
COUNTERS: Final = 256
"""Counters of one plugin: names are made by its process, and could be made without end."""
ACTIONS: Final = ("syslog", "email")
"""What such a plugin may ask for unless its file says `actions`. A hole in it is not to be able to run a program as
root, or to stop the host."""
ACTIONS_PER_MINUTE: Final = 10
"""Of those that it may: each may be a mail to somebody. Further ones are counted."""
SEND_BUFFER: Final = 512 * 1024
"""Of our end, as far as the kernel lets us: a whole block at once, instead of two or three turns of the loop."""


class Far:
    """One process of an isolated plugin, from its start to its end. Belongs to the trio loop."""

    def __init__(self, conf: PluginConf, say: Say, host: PluginHost | None, *, stdout_inherit: bool = False) -> None:
        """host: None if it is only to say what it is. Raises PluginError or OSError; leaves nothing open then."""
        self.conf, self.say, self.host = conf, say, host
        self.answer = trio.Event()
        """Described, Refused, or dead."""
        self.opened = trio.Event()
        """Open, or dead."""
        self.described: wire.Described | None = None
        self.refused: wire.Refused | None = None
        self.problem: str | None = None
        """What went wrong, for a person."""
        self.lines: Mapping[str, str] = {}
        """What the plugin's `state` says."""
        self._closing = False
        self._gone = trio.Event()
        self._lost = trio.CancelScope()
        self._call: _Call | None = None
        self._sequence = 0
        self._acts: deque[float] = deque(maxlen=ACTIONS_PER_MINUTE)
        with ExitStack() as undo:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(self._socket.close)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, read_end)
            try:
                os.set_blocking(write_end, True)
                self.launched = _launch(conf, theirs.fileno(), write_end, inherit=stdout_inherit)
            finally:
                theirs.close()
                os.close(write_end)
            undo.pop_all()
        self._stderr = read_end

    @property
    def pids(self) -> list[int]:
        """Its pid, as long as it lives."""
        return [] if self._gone.is_set() else [self.launched.pid]

    # ---- its life ----

    async def live(self) -> None:
        """Read what it says until it has ended, and reap it. Raises Elsewhere if that comes unasked for, and no
        delivery was under way, which fails then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture, self.conf.name, self.say, trio.lowlevel.FdStream(self._stderr))
            nursery.start_soon(self._listen)
            description = "cannot be ended by us, and is left to itself"
            with self._lost:
                description = (await self.launched.wait()).description
                await trio.sleep(LAST_WORDS)
            nursery.cancel_scope.cancel()
        self._gone.set()
        error = Elsewhere(self.problem or f"its process ended: {description}")
        was_open = self.opened.is_set()
        self.problem = str(error)
        self.answer.set()
        self.opened.set()
        if self._call is not None:
            self._call.end(error)
        elif was_open and not self._closing:
            raise error

    async def end(self) -> None:
        """Kill it if it lives, and give everything back. For a time whatever else is cancelled."""
        with trio.CancelScope(shield=True):
            if not self._gone.is_set():
                self.kill()
                with trio.move_on_after(REAP_SECONDS):
                    await self.launched.wait()
                self._gone.set()
        self._socket.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it. If we may not, say so, and wait for it no longer."""
        try:
            self.launched.signal(number)
        except PermissionError:
            self.say(
                "error",
                f"plugin {self.conf.name}: pid {self.launched.pid} runs as another user, and without cap_kill we "
                "cannot end it (audispd.conf: capabilities = cap_kill)",
                limit=f"kill-{self.conf.name}",
            )
            self._lost.cancel()

    # ---- what it says ----

    async def _listen(self) -> None:
        decoder = wire.UpDecoder()
        allowed, since = float(MESSAGES_BURST), trio.current_time()
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    data = self._socket.recv(READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    break
                decoder.feed(data)
                for message in decoder:
                    if self._hear(message):
                        continue
                    now = trio.current_time()
                    allowed = min(MESSAGES_BURST, allowed + (now - since) * MESSAGES_PER_SECOND) - 1
                    since = now
                    if allowed < 0:
                        await trio.sleep(MESSAGES_BURST / MESSAGES_PER_SECOND / 10)
        except RemoteProtocolError as error:
            self.problem = f"its process broke the rules: {error}; it is ended"
            self.kill()
            return
        await trio.sleep(EOF_SECONDS)
        self.problem = self.problem or "its process closed its end, and was ended"
        self.kill()

    def _hear(self, message: wire.Up) -> bool:
        """True for the answer to a delivery. Raises RemoteProtocolError for what may not be said, or not now."""
        match message:
            case wire.Taken() | wire.Retried() | wire.Rejected():
                call = self._call
                if call is None or call.sequence != message.sequence:
                    raise RemoteProtocolError(f"an answer to delivery {message.sequence}, which is not under way")
                call.end(_refusal(message))
                return True
            case wire.Failed():
                self.problem = message.reason or "failed"
                if self._call is not None:
                    self._call.end(Elsewhere(self.problem))
            case wire.Described() | wire.Refused():
                if self.answer.is_set():
                    raise RemoteProtocolError("a second description")
                if isinstance(message, wire.Described):
                    self.described = message
                else:
                    self.refused = message
                self.answer.set()
            case wire.Opened():
                if self.host is None or self.described is None or self.opened.is_set():
                    raise RemoteProtocolError("an opening that nobody waits for")
                self.opened.set()
            case _:
                if self.host is None or self.described is None:
                    raise RemoteProtocolError(f"{type(message).__name__} before it is open")
                self._serve(message, self.host)
        return False

    def _serve(self, message: wire.Up, host: PluginHost) -> None:
        """What `Host` offers."""
        match message:
            case wire.Counted():
                for what, by in message.counters.items():
                    if what not in host.counters and len(host.counters) >= COUNTERS:
                        raise RemoteProtocolError(f"more than {COUNTERS} counters")
                    host.count(what, by)
            case wire.Said():
                host.say(message.level, message.message)
            case wire.Stated():
                self.lines = message.lines
            case wire.Emitted():
                try:
                    host.emit(message.type, message.fields)
                except ValueError as error:
                    raise RemoteProtocolError(f"a record that may not be emitted: {error}") from error
            case wire.Acted():
                self._act(message, host)

    def _act(self, message: wire.Acted, host: PluginHost) -> None:
        if message.action == "ignore":
            return
        allowed = ACTIONS if self.conf.actions is None else self.conf.actions
        # A program is one that an administrator wrote into this plugin's file, never one that its process thought of.
        named = any(message.path in setting.words for setting in self.conf.settings)
        if message.action not in allowed or (message.path is not None and not named):
            host.count("action_refused")
            self.say(
                "error",
                f"plugin {self.conf.name}: may not ask for {message.action[:20]!r}: it is isolated, and its file "
                f"allows {', '.join(allowed) or 'no actions'}, and programs that it names",
                limit=f"action-{self.conf.name}",
            )
            return
        now = trio.current_time()
        if len(self._acts) == ACTIONS_PER_MINUTE and now - self._acts[0] < 60:
            host.count("action_dropped")
            return
        self._acts.append(now)
        host.act(message.action, message.message, message.path)

    # ---- what it is told ----

    async def start(self, *, check: bool) -> None:
        """Send it its orders, and wait for its description. Raises ConfigErrors, PluginError."""
        conf, host = self.conf, self.host
        words = tuple(
            wire.Word(each.key, each.words, each.line, each.text, None if each.file is None else str(each.file))
            for each in conf.settings
        )
        owner, runtime_dir = (False, "") if host is None else (host.owner, host.runtime_dir)
        handed = Handed()
        if host is not None and host.state is not None and not check:
            handed = hand(conf, host.state, self.say, collector=host.collector)
        order = wire.Start(
            conf.plugin or "",
            conf.name,
            str(conf.path),
            words,
            owner,
            runtime_dir,
            check,
            host is None or host.local,
            handed.names,
            handed.reactions,
        )
        try:
            await self._send(wire.encode(order), handed=handed)
        finally:
            handed.close()
        await self.answer.wait()
        if self.refused is not None:
            raise _refused(self.refused)
        if self.described is None:
            raise Elsewhere(self.problem or "said nothing")

    async def deliver(self, block: Block) -> None:
        """Have the plugin take it. Raises what the plugin raised: Retry, Reject, else Elsewhere."""
        assert self.described is not None
        self._sequence += 1
        call = self._call = _Call(self._sequence)
        try:
            if self._gone.is_set():
                raise Elsewhere(self.problem or "its process has ended")
            head = self._head(block)
            with trio.move_on_after(self.conf.deliver_timeout) as scope:
                await self._send(head, block.data)
                await call.ended.wait()
            if scope.cancelled_caught:
                await self._stuck()
            if call.error is not None:
                raise call.error
        finally:
            self._call = None

    def _head(self, block: Block) -> bytes:
        by_event = self.described is not None and self.described.wants == "events" and isinstance(block, Batch)
        marks: list[int] = []
        contexts = None
        if by_event:
            assert isinstance(block, Batch)
            for at, flags in (block.marks or {}).items():
                marks += at, flags
            contexts = None if block.contexts is None else pack(block.contexts)
        place = None if block.place is None else (block.place.stretch, block.place.end)
        order = wire.Deliver(
            self._sequence,
            block.records,
            block.own,
            block.source,
            block.arrived,
            block.spooled,
            place,
            tuple(marks),
            contexts,
        )
        try:
            return wire.encode(order, len(block.data))
        except LocalProtocolError:
            if contexts is None or self.host is None:
                raise
            self.host.count("contexts_left_out")
            return wire.encode(attrs.evolve(order, contexts=None), len(block.data))

    async def _stuck(self) -> None:
        seconds = self.conf.deliver_timeout
        self.problem = f"deliver has not returned for {seconds:g} s; its process is ended"
        self.say("error", f"plugin {self.conf.name}: {self.problem}, with these stacks:")
        self.kill(ASK_STACK)
        await trio.sleep(STACK_SECONDS)
        self.kill()
        raise Elsewhere(self.problem)

    def ask(self, what: str) -> None:
        """Rotate or resume. Between two deliveries the process has read all that was sent, so that there is room."""
        data = wire.encode(wire.Ask(what))
        try:
            sent = self._socket.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            sent = 0
        if sent < len(data):
            raise Elsewhere(self.problem or f"its process takes no order to {what}")

    async def close(self) -> None:
        """Have it closed, within CLOSE_SECONDS. Raises Elsewhere if that fails."""
        self._closing = True
        if self._gone.is_set():
            return
        before = self.problem
        with trio.move_on_after(CLOSE_SECONDS) as scope:
            await self._send(wire.encode(wire.Close()))
            await self._gone.wait()
        if scope.cancelled_caught:
            self.say("warning", f"plugin {self.conf.name}: did not close in {CLOSE_SECONDS:g} s, killed")
            self.kill()
        elif before is None and self.launched.ended is not None and not self.launched.ended.clean:
            raise Elsewhere(self.problem or "failed")

    async def _send(self, head: bytes, payload: bytes = b"", *, handed: Handed | None = None) -> None:
        """All of it, unless the process has closed its end: then its death is near, and told by `live`."""
        parts = [memoryview(head), memoryview(payload)] if payload else [memoryview(head)]
        with_it = [] if handed is None else handed.message
        while parts:
            try:
                sent = self._socket.sendmsg(parts, with_it, socket.MSG_NOSIGNAL)
                with_it = []
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
                continue
            except OSError:
                return
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if sent:
                parts[0] = parts[0][sent:]


class _Call:
    """One delivery under way."""

    __slots__ = ("ended", "error", "sequence")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.ended = trio.Event()
        self.error: Exception | None = None

    def end(self, error: Exception | None) -> None:
        """The first word counts."""
        if not self.ended.is_set():
            self.error = error
            self.ended.set()


def _refusal(message: wire.Taken | wire.Retried | wire.Rejected) -> Exception | None:
    if isinstance(message, wire.Taken):
        return None
    return Retry(message.reason) if isinstance(message, wire.Retried) else Reject(message.reason)


def _refused(message: wire.Refused) -> ConfigErrors | PluginError:
    """The errors as they would have been raised here."""
    settings = [ConfigError(each.message, path=each.path, line=each.line, key=each.key) for each in message.faults]
    if settings and all(each.setting for each in message.faults):
        return ConfigErrors(settings)
    return Elsewhere("; ".join(each.message for each in message.faults) or "refused")


def _launch(conf: PluginConf, channel: int, stderr: int, *, inherit: bool) -> Launched:
    if not sys.executable:
        raise PluginError("isolation = process needs a Python interpreter, and its path is unknown")
    capabilities = conf.capabilities
    if capabilities is None and os.geteuid() == 0:
        # What root executes gets all that its bounding set has, and so more than we have kept for ourselves.
        capabilities = ()
    return launch(
        # -I: no PYTHON* variables, no user site, no working directory in the path.
        (sys.executable, "-I", "-m", MODULE, str(os.getpid())),
        stdin_fd=channel,
        stderr_fd=stderr,
        stdout="inherit" if inherit else "null",
        user=conf.user,
        capabilities=capabilities,
        nice=conf.nice,
        memory_max=conf.memory_max,
    )


def start(conf: PluginConf, say: Say, host: PluginHost | None, *, inherit: bool = False) -> Far:
    """A process for the plugin. host: None if it is only to say what it is. Raises PluginError."""
    try:
        return Far(conf, say, host, stdout_inherit=inherit)
    except OSError as error:
        raise PluginError(f"its process cannot be started: {error.strerror}") from error
