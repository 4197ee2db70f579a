"""`--observe`: watch without owning anything. Finds the best live source, says why nothing comes, plays a capture."""

from __future__ import annotations

import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from audisp.dispatch.plan import conf_folder
from audisp.dispatch.runner import Say
from audisp.errors import SourceError
from audisp.sources import kernel
from audisp.sources.contract import Kind, Route, Source, SourceBooks
from audisp.sources.file import FileSource
from audisp.sources.kernel import Control
from audisp.sources.netlink import NetlinkSource
from audisp.sources.unix import UnixSource

if TYPE_CHECKING:
    from audisp.dispatch.engine import Engine

AUDITD_SOCKETS: Final = (Path("/run/audit/audispd_events"), Path("/run/audispd_events"))
"""Where auditd's af_unix plugin listens unless told otherwise: auditd 4, auditd 3."""
OWN_ARRIVAL: Final = 5
"""Records that our own joining of the kernel's group makes (EVENT_LISTENER, SYSCALL, SOCKADDR, PROCTITLE, EOE): they
are no sign of life."""
QUIET_SECONDS: Final = 3.0
"""After this long without a record a person is told why, and shown the capture."""
REPORT_SECONDS: Final = 5.0
"""Between two lines of rates: often enough to see life, seldom enough to read the records."""
CAPTURE_PACE: Final = 25.0
"""Records per second of the bundled capture: lively, and still readable."""
READER_SECONDS: Final = 0.5
"""Between two looks whether anybody reads what is shown: after `| head` a person gets his prompt back about at once."""


def find_sources(say: Say, rcvbuf: int, runtime_dir: str) -> list[Source]:
    """The kernel's multicast group where we may, else auditd's socket; and the capture behind either."""
    live: Source | None = None
    why = []
    multicast = NetlinkSource(say=say, multicast=True, rcvbuf=rcvbuf)
    try:
        multicast.open()
        live = multicast
    except SourceError as error:
        why.append(f"not from the kernel: {error}")
        found = next((path for path in AUDITD_SOCKETS if path.exists()), None)
        if found is not None:
            live = UnixSource(str(found), say=say, runtime_dir=runtime_dir, patient=True)
        else:
            why.append(
                f"not from auditd: there is no {AUDITD_SOCKETS[0]} (its af_unix plugin is off, or it does not run)"
            )
    if live is not None:
        say("notice", f"observing {live.name}; nothing is changed on this system. Ctrl-C ends")
    capture = CaptureSource(live, why, say, runtime_dir)
    return [capture] if live is None else [live, capture]


def explain_quiet() -> list[str]:
    """Why no record comes, and the command that would change it."""
    try:
        control = Control()
    except SourceError as error:
        return [f"cannot ask the kernel why: {error}"]
    try:
        status = control.status()
        rules = control.count_rules()
    except SourceError as error:
        return [f"cannot ask the kernel why: {error}"]
    except OSError as error:
        return [f"cannot ask the kernel why: {kernel.refused(error)}"]
    finally:
        control.close()
    lines = []
    if not status.enabled:
        lines.append("auditing is off in the kernel. This switches it on:  auditctl -e 1")
    if not rules:
        lines.append(
            "there are no audit rules. This one shows every program that is started:  "
            "auditctl -a always,exit -F arch=b64 -S execve -k exec   (and auditctl -D takes all rules away)"
        )
    if not lines:
        lines.append(f"auditing is on, and nothing happened that the loaded rules ({rules}) catch")
    return lines


class CaptureSource:
    """Waits whether the live source brings anything; if not, says why and plays the bundled capture."""

    kind: Kind = "replay"

    def __init__(self, live: Source | None, why: list[str], say: Say, runtime_dir: str) -> None:
        self.path = conf_folder() / "observe" / "capture.log"
        self._live, self._why, self._say = live, why, say
        self._file = FileSource(str(self.path), say=say, runtime_dir=runtime_dir, pace=CAPTURE_PACE)
        self.name = "capture"
        self.books: SourceBooks = self._file.books
        self.books.name = self.name
        self.rejects = self._file.rejects

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the capture has been played, or a live record has come within QUIET_SECONDS."""
        task_status.started()
        if self._live is not None:
            ours = OWN_ARRIVAL if isinstance(self._live, NetlinkSource) else 0
            with trio.move_on_after(QUIET_SECONDS):
                while self._live.books.received <= ours:  # noqa: ASYNC110 - a reader thread counts, and has no event
                    await trio.sleep(0.05)
            if self._live.books.received > ours:
                return
            self._why = await trio.to_thread.run_sync(explain_quiet)
        for line in self._why:
            self._say("notice", line)
        self._say("notice", f"playing a bundled capture instead, NOT LIVE, marked 'capture': {self.path}")
        await self._file.run(route)
        self._say("notice", "end of the capture" + ("; still watching" if self._live is not None else ""))


async def report(engine: Engine) -> None:
    """Every few seconds one line with each plugin's rate, to stderr."""
    before: dict[str, int] = {}
    while True:
        await trio.sleep(REPORT_SECONDS)
        words = []
        for name, entry in engine.roster.entries.items():
            books = entry.intake.books()
            rate = (books.delivered - before.get(name, 0)) / REPORT_SECONDS
            before[name] = books.delivered
            words.append(
                f"{name} {rate:,.0f} records/s"
                + (f", {books.waiting:,} wait" if books.waiting else "")
                + (f", {books.dropped:,} dropped" if books.dropped else "")
            )
        print(f"-- {'; '.join(words)}", file=sys.stderr, flush=True)


async def end_with_reader(engine: Engine) -> None:
    """End when nobody can read standard output any more: `| head` has seen enough, or the terminal is gone.

    A terminal that goes also sends SIGHUP, which means reload; without this, nobody's program would run on for ever.
    """
    poll = select.poll()
    poll.register(1, 0)  # POLLERR and POLLHUP come without being asked for (poll(2)); a file never has them
    while True:
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            engine.ask("stop")
            return
        await trio.sleep(READER_SECONDS)
