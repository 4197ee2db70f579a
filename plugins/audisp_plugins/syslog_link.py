"""One connection to a syslog server by TCP or TLS: made step by step, so that no call waits longer than its deadline.

Syslog has no acknowledgement of its own. What stands for it is the kernel's: a byte counts as arrived when the server's
kernel has acknowledged it (SIOCOUTQ is 0). What that kernel had and the server's program had not read when it died is
lost; nothing but another protocol can change that.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import ssl
import termios
import time
from typing import Any, Final

CONNECT_TIME: Final = 10.0
"""Seconds for one address to answer, the TLS handshake included; slower is as good as away."""

VERDICT_TIME: Final = 0.5
"""Seconds that a new connection must last before it is used. A server that does not want us closes it at once, but
after its kernel has taken it; in TLS 1.3 our side of the handshake is done before the server has looked at our
certificate. What we sent into that refusal would count as arrived."""

STALLED: Final = 30.0
"""Seconds without progress, while the server's kernel does not answer either, after which the connection is given up.
The kernel's own patience is a quarter of an hour (tcp_retries2)."""

KEEPALIVE: Final = (60, 10, 6)
"""Seconds of silence, seconds between probes, probes: an idle connection whose other end has vanished is found out
within two minutes, and firewalls in between do not forget it."""

POLL_FIRST: Final = 0.0005
POLL_MOST: Final = 0.02
"""Seconds between two looks whether all is acknowledged, doubling. Nothing tells us; a peer delays by up to 40 ms."""

IGNORED: Final = 65_536
"""Most bytes that are read at a time of what a server says: it has nothing to say, and must not hold us."""

RETRANSMITS, PROBES = 2, 3
"""Where in struct tcp_info (linux/tcp.h) the retransmissions and the unanswered window probes in a row are."""

Address = tuple[int, Any]
"""Family and socket address."""


class Closed(ConnectionError):
    """The server has closed the connection in order. Its kernel says so (FIN) only if its program had read everything;
    otherwise it resets the connection."""


class Link:
    """A connection. One call at a time; after an OSError it is of no use but to be closed."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, server_name: str) -> None:
        """Begins to connect. Raises OSError."""
        self._context, self._name, self._address = context, server_name, address[1]
        self._tls: ssl.SSLSocket | None = None
        self._plain = _socket(address[0])
        self._begun = self._moved = time.monotonic()
        self._verdict_until: float | None = None
        self._version: str | None = None
        self._queued = 0
        self.ready = False
        self.ignored = 0
        """Bytes that the server sent and nobody wants."""
        try:
            # Nothing but EINPROGRESS or success; what becomes of it is in SO_ERROR.
            problem = self._plain.connect_ex(address[1])
            if problem not in (0, errno.EINPROGRESS):
                raise OSError(problem, os.strerror(problem))
            self._connected = not problem
        except OSError:
            self._plain.close()
            raise

    @property
    def _sock(self) -> socket.socket:
        return self._plain if self._tls is None else self._tls

    # Connecting.

    def advance(self, deadline: float) -> bool:
        """Go on connecting until `deadline` (monotonic). True: ready. Raises OSError if it cannot be."""
        while True:
            want = self._step()
            if self.ready:
                return True
            if not want:
                continue
            now = time.monotonic()
            if now - self._begun > CONNECT_TIME:
                raise TimeoutError(errno.ETIMEDOUT, "no answer to the handshake" if self._connected else "no answer")
            if now >= deadline:
                return False
            until = min(deadline, self._begun + CONNECT_TIME, self._verdict_until or deadline)
            self._poll(want, max(0.0, until - now))

    def _step(self) -> int:
        """Do what can be done now. Returns what to wait for, 0 for nothing."""
        if not self._connected:
            if not self._poll(select.POLLOUT, 0):
                return select.POLLOUT
            problem = self._plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                raise OSError(problem, os.strerror(problem))
            self._connected = True
        if self._verdict_until is not None:
            self.check()
            self.ready = time.monotonic() >= self._verdict_until
            return select.POLLIN
        if self._context is not None and (want := self._shake_hands(self._context)):
            return want
        self._verdict_until = time.monotonic() + VERDICT_TIME
        return 0

    def _shake_hands(self, context: ssl.SSLContext) -> int:
        """What to wait for; 0 if it is done."""
        if self._tls is None:
            self._tls = context.wrap_socket(
                self._plain, server_hostname=self._name, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        self._version = self._tls.version()
        return 0

    def _poll(self, events: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, events)
        return bool(poll.poll(seconds * 1000))

    # Being connected.

    def check(self) -> None:
        """Forget what the server says. Raises OSError if it is known here that the connection has ended: Closed, or an
        error."""
        if not self._poll(select.POLLIN, 0):
            return
        try:
            data = self._sock.recv(IGNORED)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return  # a ticket, or half of one
        except ssl.SSLEOFError:
            data = b""  # closed without TLS's farewell
        if not data:
            raise Closed(errno.ECONNRESET, "it has closed the connection")
        self.ignored += len(data)

    def send(self, data: memoryview, deadline: float) -> int:
        """Hand bytes to the kernel. 0: no room until `deadline`; the same bytes must then come next. Raises OSError."""
        while True:
            self.check()
            want = select.POLLIN
            try:
                sent = self._sock.send(data)
            except ssl.SSLWantReadError:
                sent = 0
            except (BlockingIOError, ssl.SSLWantWriteError):
                sent, want = 0, select.POLLIN | select.POLLOUT
            now = time.monotonic()
            if sent:
                self._moved = now
                return sent
            if now >= deadline:
                self._look(self.unacknowledged())
                return 0
            self._poll(want, deadline - now)

    def unacknowledged(self) -> int:
        """Bytes that the server's kernel has not confirmed."""
        answer = array.array("i", [0])
        fcntl.ioctl(self._sock, termios.TIOCOUTQ, answer, True)
        return answer[0]

    def arrived(self, deadline: float) -> bool:
        """Wait until all is acknowledged. False at the deadline. Raises OSError if the connection breaks."""
        pause = POLL_FIRST
        while True:
            left = self.unacknowledged()
            # After the question, not before it: a connection that has been reset has nothing outstanding either.
            try:
                self.check()
            except Closed:
                if left:
                    raise
                # An orderly end after the last byte: the next call finds it.
            if not left:
                return True
            self._look(left)
            now = time.monotonic()
            if now >= deadline:
                return False
            time.sleep(min(pause, deadline - now))
            pause = min(pause * 2, POLL_MOST)

    def _look(self, queued: int) -> None:
        """Raises OSError if nothing has moved for STALLED seconds and the server's kernel is silent, too.

        A server that is slow or stopped has a kernel that answers: another connection would gain nothing.
        """
        now = time.monotonic()
        if queued != self._queued:
            self._queued, self._moved = queued, now
        if now - self._moved < STALLED:
            return
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        if info[RETRANSMITS] or info[PROBES] > 1:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer for {STALLED:g} s")

    def age(self) -> float:
        """Seconds since the connection was begun."""
        return time.monotonic() - self._begun

    @property
    def peer(self) -> str:
        """Address and protocol, for a person."""
        return f"{self._address[0]} port {self._address[1]}" + (f", {self._version}" if self._version else "")

    def close(self) -> None:
        """Close, with TLS's own farewell if it can be said at once."""
        try:
            if self.ready:
                # What is left unread here would make the kernel close with a reset, at which the server might throw
                # away what it has not read itself.
                self.check()
                if self._tls is not None:
                    self._tls.unwrap()
        except OSError:
            return  # it has gone, or would have to be waited for
        finally:
            self._sock.close()


def _socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle, between, probes = KEEPALIVE
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, between)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    except OSError:
        sock.close()
        raise
    return sock
