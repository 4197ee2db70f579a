"""The source ``unix:PATH``: auditd's af_unix plugin, or ours, as the sender.

auditd's plugin serves one client and gives it string or binary form as configured; from one connection to the next this
can change, so it is found out anew each time. When the connection ends we connect again, with back-off, for ever. What
was half sent at that moment is rejected: auditd sends the record again from its start (upstream.md 2.5).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Collection
from typing import Final

import trio

from audisp.errors import SourceError
from audisp.sources.bad import Level, Rejects, Say
from audisp.sources.contract import Kind, Route, SourceBooks
from audisp.sources.inlet import RECEIVE, Inlet, take_rest, waiting

BACKOFF_FIRST: Final = 0.1
"""Seconds before the first new attempt: auditd's own restart of its plugin takes about as long."""

BACKOFF_MOST: Final = 5.0
"""Longest wait between attempts, in seconds: what accumulates at the sender in that time is within auditd's queue."""

STEADY_SECONDS: Final = 5.0
"""A connection that lasted this long was a good one: the back-off starts anew."""

SAME_SECONDS: Final = 60.0
"""The same change of state is said at most once in this time: a server that accepts and closes again and again, as
auditd's does while it has another client, would otherwise write two lines every five seconds for ever."""

MAX_SAID: Final = 64
"""Changes of state remembered for that. There are a dozen, but one names the pid of whoever serves the socket in our
sender's place, and he can have a new one for each attempt."""

PASSING: Final = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT)
"""Errors that a restart of the sender explains."""

_CREDENTIALS: Final = struct.Struct("iII")
"""struct ucred: pid, uid, gid (unix(7))."""

_NOBODY: Final = 0xFFFFFFFF


class UnixSource:
    """Reads records from a unix stream socket that somebody else serves."""

    kind: Kind = "live"

    def __init__(
        self,
        path: str,
        *,
        say: Say,
        runtime_dir: str | None = None,
        patient: bool = False,
        trusted: Collection[int] | None = None,
    ) -> None:
        """patient: wait for a server that is not there yet, rather than fail at start.

        trusted: the uids that may serve the socket; root and our own when None. Records of anybody else are forgeries.
        """
        self.path = path
        self.name = f"unix:{path}"
        self.books = SourceBooks(self.name, self.kind)
        self.rejects = Rejects(self.name, say, folder=runtime_dir)
        self._say, self._patient = say, patient
        self._trusted = frozenset((0, os.geteuid()) if trusted is None else trusted)
        self._said: dict[str, float] = {}

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect and read until cancelled. Raises SourceError if the first connection cannot be made."""
        stream: trio.socket.SocketType | None = None
        try:
            stream = await self._connect()
        except OSError as error:
            if not (self._patient and error.errno in PASSING):
                raise SourceError(self._reason(error)) from error
            self._state(f"waiting: {error.strerror}", "notice")
        task_status.started()
        wait = BACKOFF_FIRST
        connected = stream is not None
        try:
            while True:
                if stream is not None:
                    began, before = time.monotonic(), self.books.received
                    with stream:
                        reason = await self._read(stream, route)
                    stream = None
                    got = self.books.received != before
                    if got or time.monotonic() - began >= STEADY_SECONDS:
                        wait = BACKOFF_FIRST
                    elif reason == "the sender closed it":
                        reason = "closed at once; auditd's af_unix serves one client, is there another?"
                    self._state(f"connection lost: {reason}", "warning")
                await trio.sleep(wait)
                wait = min(wait * 2, BACKOFF_MOST)
                self.rejects.report()
                try:
                    stream = await self._connect()
                except OSError as error:
                    self._state(f"waiting: {error.strerror}", "notice" if error.errno in PASSING else "error")
                else:
                    if connected:
                        self.books.reconnects += 1
                    connected = True
        finally:
            self.rejects.close()

    async def _connect(self) -> trio.socket.SocketType:
        stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await stream.connect(self.path)
            pid, uid, _ = _CREDENTIALS.unpack(
                stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if uid == _NOBODY and not pid:
                # A full backlog makes connect() say EAGAIN, which trio takes for "in progress", and then for done.
                raise BlockingIOError(errno.EAGAIN, "its queue of clients is full")
            if uid not in self._trusted:
                raise PermissionError(errno.EPERM, f"it is served by uid {uid} (pid {pid}), who is not trusted")
        except BaseException:
            stream.close()
            raise
        self._state("connected", "info")
        self.books.detail["peer"] = f"pid {pid} uid {uid}"
        return stream

    async def _read(self, stream: trio.socket.SocketType, route: Route) -> str:
        """Read one connection to its end; returns why it ended."""
        inlet = Inlet(self.books, route, self.rejects)
        buffer = bytearray(RECEIVE)
        view = memoryview(buffer)
        reason = "the sender closed it"
        file = stream.fileno()
        while True:
            try:
                count = await stream.recv_into(buffer)
            except trio.Cancelled:
                await take_rest(inlet, lambda: os.read(file, RECEIVE), file, whole=False)
                raise
            except OSError as error:
                reason = error.strerror or str(error)
                break
            if not count:
                break
            try:
                await inlet.take(bytes(view[:count]))
            except trio.Cancelled:
                inlet.leave(waiting(file))
                raise
        await inlet.finish(whole=False)
        return reason

    def _state(self, text: str, level: Level) -> None:
        if self.books.detail.get("state") == text:
            return
        self.books.detail["state"] = text
        now = time.monotonic()
        if now - self._said.get(text, -SAME_SECONDS) >= SAME_SECONDS:
            if len(self._said) >= MAX_SAID:
                del self._said[next(iter(self._said))]
            self._said[text] = now
            self._say(level, f"source {self.name}: {text}")

    def _reason(self, error: OSError) -> str:
        """Why the first connection failed, with what can be done."""
        text = error.strerror or str(error)
        if error.errno == errno.ENOENT:
            hint = "; is auditd running, and its af_unix plugin active (plugins.d/af_unix.conf)?"
        elif error.errno == errno.ECONNREFUSED:
            hint = "; it is left over from a server that is gone" if self._is_socket() else "; it is not a socket"
        elif error.errno == errno.EPROTOTYPE:
            hint = "; it is a socket of another type than SOCK_STREAM"
        elif error.errno == errno.EACCES:
            hint = f"; auditd's socket is root's (mode 0640), and we are uid {os.geteuid()}"
        else:
            hint = ""
        return f"source {self.name}: {text}{hint}"

    def _is_socket(self) -> bool:
        try:
            return stat.S_ISSOCK(os.stat(self.path).st_mode)
        except OSError:
            return True
