"""The source ``stdin``: what auditd 3 and 4 give a plugin, or a pipe, a file, a terminal.

The descriptor belongs to whoever started us and may be shared with others, so its O_NONBLOCK flag is never touched:
a socket is read with MSG_DONTWAIT; a pipe or terminal through an opening of our own of the same file
(/proc/self/fd, proc(5)), whose flags are ours alone; everything else in a thread. The caller's descriptor stays open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from audisp.errors import SourceError
from audisp.sources.bad import Rejects, Say
from audisp.sources.contract import Kind, Route, SourceBooks
from audisp.sources.descriptor import Descriptor, pour
from audisp.sources.file import KINDS
from audisp.sources.inlet import RECEIVE, Inlet, take_rest, waiting

STDIN: Final = 0

PIPE_BYTES: Final = 1 << 20
"""What a pipe is made to hold, where it holds less: its 64 KiB mean a change of process for every 350 records, and what
waits there waits in no memory of ours. As much as anybody may ask for (pipe(7), pipe-max-size)."""

ENDLESS: Final = sys.maxsize
"""Bytes to read from what has no length."""


class StdinSource:
    """Reads records from an inherited descriptor until its end."""

    def __init__(self, *, say: Say, runtime_dir: str | None = None, file: int = STDIN) -> None:
        """A regular file is a replay: it waits for full queues, where a live stream passes them over."""
        self.name = "stdin"
        self._file = file
        self.kind: Kind = "replay" if _is_regular(file) else "live"
        self.books = SourceBooks(self.name, self.kind)
        self.rejects = Rejects(self.name, say, folder=runtime_dir)

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until the end of input. Raises SourceError if the descriptor is closed or cannot be read."""
        try:
            mode = os.fstat(self._file).st_mode
            if stat.S_ISDIR(mode):
                raise SourceError(f"source stdin: {KINDS[stat.S_IFDIR]}")
            if fcntl.fcntl(self._file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                raise SourceError("source stdin: it is open for writing only")
        except OSError as error:
            raise SourceError("source stdin: it is closed; a daemon has no standard input (use -f)") from error
        inlet = Inlet(self.books, route, self.rejects)
        self.books.detail["input"] = _named(mode)
        try:
            if stat.S_ISSOCK(mode):
                await self._from_socket(inlet, task_status)
            elif (stat.S_ISFIFO(mode) or os.isatty(self._file)) and (own := _reopen(self._file)) is not None:
                await self._from_own(own, inlet, task_status)
            else:
                await self._from_thread(mode, inlet, task_status)
            self.books.detail["state"] = "ended"
        finally:
            self.rejects.close()

    async def _from_socket(self, inlet: Inlet, task_status: trio.TaskStatus[None]) -> None:
        with socket.socket(fileno=fcntl.fcntl(self._file, fcntl.F_DUPFD_CLOEXEC, 3)) as stream:
            buffer = bytearray(RECEIVE)
            view = memoryview(buffer)

            def receive() -> bytes:
                return bytes(view[: stream.recv_into(buffer, 0, socket.MSG_DONTWAIT)])

            task_status.started()
            await _read(inlet, receive, stream.fileno())

    async def _from_own(self, own: int, inlet: Inlet, task_status: trio.TaskStatus[None]) -> None:
        try:
            task_status.started()
            await _read(inlet, lambda: os.read(own, RECEIVE), own)
        finally:
            os.close(own)

    async def _from_thread(self, mode: int, inlet: Inlet, task_status: trio.TaskStatus[None]) -> None:
        most = ENDLESS
        if stat.S_ISREG(mode):
            # As with file:PATH: no further than it reached when we began.
            most = max(0, os.fstat(self._file).st_size - os.lseek(self._file, 0, os.SEEK_CUR))
        descriptor = Descriptor(fcntl.fcntl(self._file, fcntl.F_DUPFD_CLOEXEC, 3))
        try:
            task_status.started()
            await pour(descriptor, inlet, most)
        finally:
            descriptor.close()


async def _read(inlet: Inlet, receive: Callable[[], bytes], file: int) -> None:
    """Read until the end. Reading comes before waiting: a FIFO whose writers are gone never becomes readable."""
    pause: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    while True:
        try:
            await pause()
        except trio.Cancelled:
            await take_rest(inlet, receive, file, whole=True)
            raise
        try:
            data = receive()
        except BlockingIOError:
            pause = partial(trio.lowlevel.wait_readable, file)
            continue
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EIO):
                raise SourceError(f"source {inlet.books.name}: {error.strerror or error} while reading") from error
            data = b""  # the other end died, or the terminal was hung up
        if not data:
            break
        try:
            await inlet.take(data)
        except trio.Cancelled:
            inlet.leave(waiting(file))
            raise
        pause = trio.lowlevel.checkpoint
    await inlet.finish(whole=True)


def _reopen(file: int) -> int | None:
    """The same pipe or terminal, opened once more, not blocking; None where that is not possible."""
    try:
        own = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a terminal, or the user's share of pipe memory is used up (pipe(7))
        if fcntl.fcntl(own, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
            fcntl.fcntl(own, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return own


def _is_regular(file: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file).st_mode)
    except OSError:
        return False


def _named(mode: int) -> str:
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe", stat.S_IFREG: "file", stat.S_IFCHR: "terminal or device"}
    return kinds.get(stat.S_IFMT(mode), "other")
