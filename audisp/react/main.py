"""The reactor as a process: ``python -I -m audisp.react.main --config FILE --state FOLDER``, requests on descriptor 0.

Descriptor 0 is one end of a socketpair of SOCK_SEQPACKET, whose other end the matcher has: one packet is one request or
one result. When the matcher is gone, the reactor stays as long as something waits for its time, and gives way to its
successor, which asks for that over the control socket.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import stat
import sys
import syslog
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from audisp.config.reactions import ReactionsConf, read
from audisp.dispatch.folder import make_folder
from audisp.dispatch.privileges import keep
from audisp.errors import AudispError, ConfigError, RemoteProtocolError, StoreError
from audisp.react import control, said
from audisp.react.clock import Clock
from audisp.react.journal import Taken
from audisp.react.judge import REASONS, Judge
from audisp.react.means import Means
from audisp.react.means_account import LOGINCTL, USERMOD, EndSession, Lock
from audisp.react.means_address import NFT, Block
from audisp.react.means_notice import Command, Notify
from audisp.react.means_process import Freeze, Kill
from audisp.react.reactor import Reactor
from audisp.react.request import MAX_MESSAGE, Kind, Outcome, Result, decode_request, encode_result

RESULTS: Final = 256
"""Results that wait for the matcher. When it takes none, no request of it is read any more; what timers do goes on, and
what then finds no place is in the journal and in the log."""
RESULT_WAIT: Final = 1.0
"""Seconds that an act's result waits for its place. Nothing is lost but the record, and that goes into the log."""
MAX_MALFORMED: Final = 100
"""Messages that are no request, after which nothing of this matcher is read any more: it is not ours."""
TAKE_OVER: Final = 330.0
"""Seconds for a predecessor to end: it brings what it is carrying out to its end (reactions.MAX_DEADLINE)."""
STILL_SERVED: Final = 1.0
"""Seconds that a predecessor may still have its matcher: who started both may have died a moment ago."""
IDLE_LOOK: Final = 0.5
"""Seconds between two looks whether anything is left to wait for, after the matcher has gone."""
CLONE_NEWNET: Final = 0x40000000
CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "cap_kill": ("kill_process", "freeze_process"),
    "cap_sys_ptrace": ("reading /proc of others",),
    "cap_dac_read_search": ("reading /etc/shadow, /proc of others",),
    "cap_net_admin": ("block_address",),
    "cap_setuid": ("webhook_user",),
    "cap_setgid": ("webhook_user",),
}
"""All that is kept. Programs that root executes get their own back, and have to: usermod writes /etc/shadow."""


def say(severity: str, text: str) -> None:
    """One line on standard error, which whoever started us puts into his log; nothing unprintable in it."""
    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    data = f"reactor: {severity}: {safe}\n".encode("utf-8", "backslashreplace")
    try:
        os.write(2, data)
    except OSError:
        # Whoever read it is dead, or stopped: what is to be undone must not wait for that, nor end with it.
        priority = {"error": syslog.LOG_ERR, "warning": syslog.LOG_WARNING, "alert": syslog.LOG_ALERT}
        syslog.syslog(syslog.LOG_DAEMON | priority.get(severity, syslog.LOG_NOTICE), f"audisp-reactor: {safe}")


def means_for(conf: ReactionsConf, *, ours: tuple[int, ...] = (), collector: bool = False) -> dict[Kind, Means]:
    """The means to each kind; on a collector only to what a collector can do."""
    everywhere: dict[Kind, Means] = {Kind.NOTIFY: Notify(conf), Kind.RUN: Command(conf)}
    if collector:
        return everywhere
    return everywhere | {
        Kind.KILL: Kill(conf, ours=ours),
        Kind.FREEZE: Freeze(conf, ours=ours),
        Kind.END_SESSION: EndSession(conf),
        Kind.LOCK: Lock(conf),
        Kind.BLOCK: Block(conf),
    }


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: stopped, or nothing left to do; 2: the configuration cannot be used; 1: anything else."""
    given = _parser().parse_args(argv)
    try:
        conf = read(given.config, collector=given.collector)
    except (FileNotFoundError, ConfigError) as error:
        say("error", str(error) if isinstance(error, ConfigError) else f"{given.config}: is missing")
        return 2
    if stat.S_ISFIFO(os.fstat(2).st_mode):
        os.set_blocking(2, False)  # the pipe is ours alone: whoever started us only reads
    try:
        namespace = given.netns or conf.network_namespace
        if namespace:
            enter_network(Path(namespace))
        if os.geteuid() == 0:
            keep(CAPABILITIES)
        for line in missing(conf):
            say("warning", line)
        make_folder(given.state.parent)
        return trio.run(_run, conf, given)
    except (AudispError, OSError) as error:
        say("error", str(error))
        return 1


def enter_network(path: Path) -> None:
    """Go over to this network namespace (a file as /run/netns/NAME or /proc/PID/ns/net). Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def missing(conf: ReactionsConf) -> list[str]:
    """What the kinds that are allowed need, and is not there."""
    needed = {
        "block_address": (conf.block_address, NFT, "nftables"),
        "lock_account": (conf.lock_account, USERMOD, "passwd or shadow-utils"),
        "end_session": (conf.end_session, LOGINCTL, "systemd"),
        "mail_to": (conf.mail_to, conf.sendmail, "a mail server"),
    }
    return [
        f"{key} needs {program}, which is not there (package: {package})"
        for key, (wanted, program, package) in needed.items()
        if wanted and not os.access(program, os.X_OK)
    ]


async def _run(conf: ReactionsConf, given: argparse.Namespace) -> int:
    send, receive = trio.open_memory_channel[Result](RESULTS)

    async def tell(result: Result) -> None:
        # Never waits: what is undone in time must not depend on a matcher that reads.
        try:
            send.send_nowait(result)
        except trio.WouldBlock:
            _untaken(result)

    judge = Judge(conf, collector=given.collector)
    means = means_for(conf, ours=tuple(given.ours), collector=given.collector)
    reactor = Reactor(conf, given.state, means, judge, clock=Clock(), tell=tell, say=say)
    await _open(reactor, given.state)
    listener = control.bound(given.state)
    served = _Served(reactor)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            nursery.start_soon(control.serve, listener, served.answer)
            await reactor.reconcile()
            nursery.start_soon(reactor.undo_in_time)
            matcher = _matcher()
            if matcher is not None:
                nursery.start_soon(_give_results, matcher, receive)
                await _take_requests(matcher, reactor, send)
            served.alone = True
            while not (reactor.idle() or served.asked_to_go.is_set()):
                with trio.move_on_after(IDLE_LOOK):
                    await served.asked_to_go.wait()
            nursery.cancel_scope.cancel()
    finally:
        (given.state / control.NAME).unlink(missing_ok=True)
        listener.close()
        reactor.close()
    return 0


class _Served:
    """What is answered over the control socket."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.alone = False
        self.asked_to_go = trio.Event()

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question:
            case {"op": "undo", "id": int(number)}:
                result = await self._reactor.undo(number)
                return {"outcome": result.outcome.value, "text": result.text[:1000]}
            case {"op": "resume"}:
                return {"was_open": self._reactor.resume()}
            case {"op": "yield"}:
                if not self.alone:
                    raise StoreError("this reactor serves a matcher")
                self.asked_to_go.set()
                return {}
        raise StoreError("undo, resume and yield are understood")


async def _open(reactor: Reactor, state: Path) -> None:
    """Open the journal, if need be when a predecessor without a matcher has given way. Raises StoreError."""
    begun = time.monotonic()
    while True:
        try:
            reactor.open()
            return
        except Taken:
            if time.monotonic() > begun + TAKE_OVER:
                raise
        try:
            await trio.to_thread.run_sync(lambda: control.ask(state, op="yield"))
        except StoreError:
            if time.monotonic() > begun + STILL_SERVED:
                raise
        await trio.sleep(0.05)


def _matcher() -> trio.socket.SocketType | None:
    """The socket on descriptor 0; None if there is none, so that we only bring to its end what was begun."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        return None
    sock = socket.socket(fileno=os.dup(0))
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        raise StoreError("descriptor 0 must be a socketpair of SOCK_SEQPACKET")
    return trio.socket.from_stdlib_socket(sock)


async def _take_requests(
    matcher: trio.socket.SocketType, reactor: Reactor, send: trio.MemorySendChannel[Result]
) -> None:
    """Until the matcher is gone, or has sent MAX_MALFORMED messages that were none."""
    malformed = 0

    async def carry_out(act: Any, request: Any) -> None:
        result = await reactor.carry_out(act, request)
        with trio.move_on_after(RESULT_WAIT) as waiting:
            waiting.shield = True
            await send.send(result)
        if waiting.cancelled_caught:
            _untaken(result)

    async with trio.open_nursery() as nursery:
        while malformed < MAX_MALFORMED:
            try:
                data, _, flags, _ = await matcher.recvmsg(MAX_MESSAGE)
            except OSError:
                return
            if not data:
                return
            try:
                if flags & socket.MSG_TRUNC:
                    raise RemoteProtocolError(f"longer than {MAX_MESSAGE} bytes")
                request = decode_request(data)
            except RemoteProtocolError as error:
                malformed += 1
                say("warning", f"the matcher sent what is no request: {error}")
                await send.send(_malformed(str(error)))
                continue
            decided = reactor.decide(request)
            if isinstance(decided, Result):
                await send.send(decided)
            else:
                nursery.start_soon(carry_out, decided, request)
        say("alert", f"{malformed} messages were no requests: nothing of this matcher is read any more")


def _untaken(result: Result) -> None:
    """A result that nobody takes: its record is said at least."""
    say("warning", f"the matcher does not take its results: record {result.record_type}: {result.body}")


def _malformed(text: str) -> Result:
    body = said.body(Kind.NOTIFY, Outcome.SUPPRESSED, "malformed")
    return Result(
        number=0,
        kind=Kind.NOTIFY,
        outcome=Outcome.SUPPRESSED,
        reason="malformed",
        text=f"{REASONS['malformed']}: {text}"[:1000],
        record_type=said.RESP_ANOMALY,
        body=body.replace("suppressed-notify", "suppressed"),
    )


async def _give_results(matcher: trio.socket.SocketType, receive: trio.MemoryReceiveChannel[Result]) -> None:
    try:
        async for result in receive:
            await matcher.send(encode_result(result))
    except OSError:
        async for _ in receive:  # nobody is there any more; what is done is in the journal and in the log
            continue


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="audisp.react", description="Carries out reactions; started by audispd.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--collector", action="store_true")
    parser.add_argument("--netns", type=Path)
    parser.add_argument("--ours", type=int, action="append", default=[], help="uid whose processes are never touched")
    return parser


if __name__ == "__main__":
    sys.exit(main())
