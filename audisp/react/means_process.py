"""Killing and freezing a process: through its pidfd, after its start time has been compared, never by a pid alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from audisp.config.reactions import PROGRAMS, ReactionsConf
from audisp.react.books import Act, Now
from audisp.react.judge import BORN_AFTER, Refused, born
from audisp.react.means import Failed, Left, Prepared, lasting
from audisp.react.processes import Found, ancestors, find
from audisp.react.request import Process, Request

STOPPED: Final = ("T", "t")
"""States of /proc/PID/stat: stopped by a signal, or by a tracer."""


class ProcessMeans:
    """What killing and freezing share. ours: uids of ours, beside our own: the matcher's."""

    def __init__(self, conf: ReactionsConf, *, ours: Iterable[int] = (), proc: Path = Path("/proc")) -> None:
        self._conf = conf
        self._ours = frozenset(ours) - {0}
        self._proc = proc
        self._spared = frozenset((*PROGRAMS, *conf.spare_programs))

    def _found(self, pid: int, start: int) -> Found:
        """The process that was meant. Raises Refused."""
        process = find(pid, self._proc)
        if process is None or process.state in ("Z", "X"):
            raise Refused("gone", f"pid {pid} has ended")
        if process.start != start:
            raise Refused("gone", f"pid {pid} is another process now (start {process.start}, not {start})")
        return process

    def _spare(self, process: Found) -> None:
        """Raises Refused if the process is never to be touched."""
        if process.pid == 1 or process.kernel or process.pid == 2:
            raise Refused("spared", f"pid {process.pid} is init or a thread of the kernel")
        if process.pid in ancestors(os.getpid(), self._proc):
            raise Refused("spared", f"pid {process.pid} is our own or above us")
        if self._ours_above(process.pid):
            raise Refused("spared", f"pid {process.pid} was started by us or by the dispatcher")
        if self._ours.intersection(process.uids):
            raise Refused("spared", f"pid {process.pid} is of a user of ours")
        if 0 in process.uids and not self._conf.act_on_root:
            raise Refused("spared", f"pid {process.pid} is root's, and act_on_root is no")
        if process.exe in self._spared:
            raise Refused("spared", f"pid {process.pid} runs {process.exe}")

    def _ours_above(self, pid: int) -> bool:
        """Whether we or the dispatcher, our parent, started it. Of a dispatcher that is gone nothing is known any more:
        then init is our parent, and above everybody."""
        above = ancestors(pid, self._proc)
        return os.getpid() in above or (os.getppid() > 1 and os.getppid() in above)

    def _prepared(self, request: Request, now: Now) -> Found:
        assert isinstance(request.target, Process)
        process = self._found(request.target.pid, request.target.start)
        # Nobody is taken at his word about the start time: what began after the event cannot have caused it.
        if born(process, now) > request.event_time / 1000 + BORN_AFTER:
            raise Refused("gone", f"pid {process.pid} began after the event: the number was given again")
        self._spare(process)
        return process

    def _signal(self, act: Act, number: int, *, spare: bool) -> Found:
        """Send the signal to the very process. Raises Failed."""
        pid, start = int(act.aim["pid"]), int(act.aim["start"])
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise Failed(f"pid {pid} has ended", gone=True) from None
        except OSError as error:
            raise Failed(f"pid {pid}: {error.strerror}") from error
        try:
            process = self._found(pid, start)
            if spare:
                self._spare(process)
            # If this comes through, the pid was this process's all the while, and so was what /proc said of it.
            signal.pidfd_send_signal(pidfd, number)
        except Refused as refused:
            raise Failed(str(refused), gone=refused.code == "gone") from refused
        except ProcessLookupError:
            raise Failed(f"pid {pid} has ended", gone=True) from None
        except OSError as error:
            raise Failed(f"pid {pid}: {error.strerror}") from error
        finally:
            os.close(pidfd)
        return process


class Kill(ProcessMeans):
    """SIGKILL. There is no undo."""

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        process = self._prepared(request, now)
        aim = {"pid": process.pid, "start": process.start, "exe": process.exe[:255], "uid": process.uids[1]}
        return Prepared(request.subject, aim)

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        process = self._signal(act, signal.SIGKILL, spare=True)
        await trio.lowlevel.checkpoint()
        return f"killed pid {process.pid} ({process.exe})"

    async def undo(self, act: Act) -> str:
        """See Means."""
        await trio.lowlevel.checkpoint()
        raise Left("what was killed stays dead")

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means."""
        await trio.lowlevel.checkpoint()
        process = find(int(act.aim["pid"]), self._proc)
        return process is None or process.start != act.aim["start"]


class Freeze(ProcessMeans):
    """SIGSTOP, and SIGCONT when the time is over."""

    def prepare(self, request: Request, now: Now) -> Prepared:
        """See Means."""
        process = self._prepared(request, now)
        if process.state in STOPPED:
            raise Refused("in_force", f"pid {process.pid} is stopped already, and not by us")
        aim = {"pid": process.pid, "start": process.start, "exe": process.exe[:255], "uid": process.uids[1]}
        return Prepared(request.subject, aim, {"undo": True}, lasting(request, self._conf.freeze_time))

    async def carry_out(self, act: Act, request: Request) -> str:
        """See Means."""
        process = self._signal(act, signal.SIGSTOP, spare=True)
        await trio.lowlevel.checkpoint()
        return f"stopped pid {process.pid} ({process.exe})"

    async def undo(self, act: Act) -> str:
        """See Means."""
        await trio.lowlevel.checkpoint()
        try:
            self._signal(act, signal.SIGCONT, spare=False)
        except Failed as failed:
            if failed.gone:
                return str(failed)
            raise
        return f"let pid {act.aim['pid']} go on"

    async def in_force(self, act: Act, now: Now) -> bool:
        """See Means."""
        await trio.lowlevel.checkpoint()
        process = find(int(act.aim["pid"]), self._proc)
        return (
            act.boot_id == now.boot_id
            and process is not None
            and process.start == act.aim["start"]
            and process.state in STOPPED
        )
