"""`output` to a unix socket that somebody else listens on, a stream or datagrams.

What he has read the kernel knows: SIOCOUTQ of a unix socket is 0 when nothing of ours is unread. When he is gone, it is
0 too; so the order of the questions matters below. (net/unix/af_unix.c, unix_release_sock: the sender is told of the
end, and of whether something was unread, before that is thrown away.)
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import termios
from pathlib import Path
from typing import Final

from audisp.plugin import Host
from audisp_plugins.output_feed import Gone, Reader

STREAM_WINDOW: Final = 65_536
DATAGRAM_WINDOW: Final = 16_384
"""Bytes that may be unread. Only when nothing is, it is known what has been read; so this much can come twice, and one
who is slow and killed again and again gets on by as much. Datagrams are read one by one; by default ten may wait."""

SEND_BUFFER: Final = 212_992
"""Wanted for datagrams, whose length it bounds: net.core.wmem_max's default, more than which the kernel gives to nobody
without CAP_NET_ADMIN. It doubles it (socket(7)), so that a datagram may have 425,952 bytes. No record has a tenth."""

IGNORED: Final = 65_536
"""Most bytes that are read at a time of what the other one says: he has nothing to say, and must not hold us."""


def connect(path: Path, host: Host, long: set[int]) -> Reader:
    """Whoever listens at `path` now. long: see Feeder. Raises OSError."""
    found = os.stat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, "is not a socket")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(os.fsencode(path))
        except OSError as error:
            sock.close()
            if error.errno == errno.EPROTOTYPE:
                continue
            if error.errno == errno.EAGAIN:
                raise OSError(errno.EAGAIN, "does not accept connections") from error
            raise
        return StreamReader(sock, host) if kind == socket.SOCK_STREAM else DatagramReader(sock, path, long)
    raise OSError(errno.EPROTOTYPE, "is neither a stream nor a datagram socket")


def _unread(sock: socket.socket) -> bool:
    answer = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, answer, True)
    return answer[0] != 0


def _poll(sock: socket.socket, events: int, seconds: float) -> int:
    poll = select.poll()
    poll.register(sock, events)
    found = poll.poll(seconds * 1000)
    return found[0][1] if found else 0


class StreamReader:
    """A connection."""

    window: int | None = STREAM_WINDOW

    def __init__(self, sock: socket.socket, host: Host) -> None:
        self._sock, self._host = sock, host

    def feed(self, data: bytes, sent: int, until: int) -> int:
        """See Reader."""
        try:
            return sent + self._sock.send(memoryview(data)[sent:until])
        except BlockingIOError:
            return sent
        except OSError as error:
            raise self._gone(sent, error) from error

    def read(self, sent: int) -> int | None:
        """See Reader."""
        unread = _unread(self._sock)
        self._ignore(sent)
        if _poll(self._sock, 0, 0) & (select.POLLHUP | select.POLLERR):
            raise self._gone(sent, None)
        return None if unread else sent

    def _ignore(self, sent: int) -> None:
        try:
            said = self._sock.recv(IGNORED)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._gone(sent, error) from error
        if said:
            self._host.count("ignored_bytes", len(said))

    def _gone(self, sent: int, error: OSError | None) -> Gone:
        unread = _unread(self._sock)
        # Asked after that: when what was unread has been thrown away, this is set.
        problem = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error is not None and error.errno != errno.EPIPE:
            problem = error.errno or errno.EIO
        if problem or unread:
            return Gone("it has closed the connection, and something was unread", None)
        return Gone("it has closed the connection", sent)

    def wait(self, seconds: float, *, room: bool) -> None:
        """See Reader."""
        _poll(self._sock, select.POLLOUT if room else 0, seconds)

    def end(self, rest: bytes) -> None:
        """See Reader."""
        with self._sock, contextlib.suppress(OSError):
            self._sock.send(rest)

    def status(self) -> str:
        """See Reader."""
        return "connected"


class DatagramReader:
    """A datagram socket: each line is one datagram, without its LF."""

    window: int | None = DATAGRAM_WINDOW

    def __init__(self, sock: socket.socket, path: Path, long: set[int]) -> None:
        """Raises OSError; then the socket is closed."""
        self._sock, self._path, self._long = sock, path, long
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._identity = self._look()
        except OSError:
            sock.close()
            raise

    def _look(self) -> tuple[int, int, int]:
        found = os.stat(self._path)
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def feed(self, data: bytes, sent: int, until: int) -> int:
        """See Reader."""
        while sent < until:
            end = data.find(b"\n", sent) + 1 or len(data)
            try:
                self._sock.send(memoryview(data)[sent : end - 1 if data[end - 1] == 0x0A else end])
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    break
                if error.errno != errno.EMSGSIZE:
                    raise Gone(error.strerror or str(error), None) from error
                self._long.add(sent)
            sent = end
        return sent

    def read(self, sent: int) -> int | None:
        """See Reader."""
        if _unread(self._sock):
            return None
        # Nothing tells of the end of somebody who receives datagrams, and with him goes what he had not read. Whoever
        # is still there after the question has read it.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
                probe.connect(os.fsencode(self._path))
            same = self._look() == self._identity
        except OSError as error:
            raise Gone(error.strerror or str(error), None) from error
        if not same:
            raise Gone("another one has taken its place", None)
        return sent

    def wait(self, seconds: float, *, room: bool) -> None:
        """See Reader."""
        _poll(self._sock, select.POLLOUT if room else 0, seconds)

    def end(self, rest: bytes) -> None:
        """See Reader: a datagram is never sent in part."""
        self._sock.close()

    def status(self) -> str:
        """See Reader."""
        return "connected, datagrams"
