"""`syslog` to a server: RFC 5424 by UDP (RFC 5426), by TCP with octet counting (RFC 6587) or by TLS (RFC 5425).

`deliver` runs in the plugin's own thread and returns within DELIVER_TIME, by success or by Retry. By TCP and TLS it
returns when the server's kernel has acknowledged every byte. When a connection breaks before that, everything of the
block is sent again on the next one: what the server's kernel had acknowledged, its program need not have read. So a
message can come twice and is not lost between two calls; docs/plugins/syslog.md says what can be lost all the same.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections import deque
from typing import Final, Protocol

from audisp.plugin import AudispError, Block, Host, PluginError, Retry
from audisp_plugins.presence import Presence
from audisp_plugins.progress import Progress
from audisp_plugins.syslog_config import SyslogConfig
from audisp_plugins.syslog_link import Address, Closed, Link
from audisp_plugins.syslog_resolve import Resolver
from audisp_plugins.syslog_rfc5424 import Rfc5424, framed, structured
from audisp_plugins.syslog_tls import client_context, reason

DELIVER_TIME: Final = 2.0
"""Seconds that one call may take, with connecting: bounds how long the plugin's thread can be held at a stop."""

BATCH: Final = 65_536
"""Bytes of messages that are made and handed to the kernel at a time; TLS makes four records of them."""

RECENT: Final = 262_144
"""Bytes of what has arrived lately that are kept, to be sent again when the connection ends: one full block."""
RECENT_SECONDS: Final = 60.0
"""What is sent again after a reset: the kernel resets when a program died without having read everything. Longer than a
server that lives leaves anything unread."""
READ_SECONDS: Final = 1.0
"""What is sent again after an orderly end, which the kernel makes also of a kill -9 when all had been read: then the
last of it was in the program's hands, and not yet in its files."""

SHORT: Final = 10.0
"""A connection that the server ended within so many seconds counts as refused, and the next one waits."""

FULL_PAUSE: Final = 0.005
"""Seconds before a datagram is tried again for which a network card had no room; nothing tells when it has."""

BURST: Final = 32
BURST_PAUSE: Final = 0.001
"""Datagrams that are sent in one go, and seconds between two such: at most some 30,000 a second. A receive buffer of
default size holds 166 of ours (counted on Linux 6.18), and what comes while it is full is lost without a word."""

FRESH: Final = 600.0
"""Seconds after which a name is looked up again for UDP, which never notices that its server has moved."""


class Transport(Protocol):
    """What the plugin does with a server."""

    def deliver(self, block: Block) -> None:
        """Send all lines. Raises Retry."""

    def resume(self) -> None:
        """Try at once what would have been tried later."""

    def state(self) -> dict[str, str]:
        """Lines for status; from any thread."""

    def close(self) -> None:
        """Close the connection."""


class _Server(Presence):
    """A server's presence, and its addresses."""

    def __init__(self, config: SyslogConfig, host: Host, kind: socket.SocketKind) -> None:
        server, port = config.endpoint
        super().__init__(f"syslog server {server} port {port} ({config.transport})", host)
        self._resolver = Resolver(server, port, kind)
        self._addresses: list[Address] = []

    def next_address(self, deadline: float) -> Address:
        """The next of its addresses. Raises OSError, or Retry if there is none yet."""
        if not self._addresses:
            found = self._resolver.ask(max(0.0, deadline - time.monotonic()))
            if found is None:
                raise self.later("its name is being looked up")
            self._addresses = found
        return self._addresses.pop(0)

    def others_left(self) -> bool:
        """There are addresses of the last look-up that were not tried."""
        return bool(self._addresses)

    def failed(self, error: OSError | AudispError) -> Retry:
        """Note a failure; what to raise."""
        return self.away(reason(error) if isinstance(error, OSError) else str(error))

    def here(self, status: str, *, steady: bool = True) -> None:
        """See Presence."""
        super().here(status, steady=steady)
        self._addresses = []  # the next connection asks for the name again


class Stream:
    """By TCP or TLS. deliver, resume and close: one at a time."""

    def __init__(self, config: SyslogConfig, host: Host, messages: Rfc5424) -> None:
        """Raises PluginError if a file for TLS cannot be used."""
        self._config, self._host, self._messages = config, host, messages
        self._server = _Server(config, host, socket.SOCK_STREAM)
        self._link: Link | None = None
        self._out = memoryview(b"")
        """Messages that are made and not yet in the kernel: a stream must not go on in the middle of one."""
        self._made = 0
        """Lines of the data in hand that this connection has been given."""
        self._progress = Progress()
        self._recent: deque[tuple[float, bytes]] = deque()
        """What has arrived on this connection a short while ago, and when."""
        self._again = b""
        """What had arrived on a connection that has ended: it goes before the next block."""
        self._context()

    def _context(self) -> ssl.SSLContext | None:
        if self._config.transport != "tls":
            return None
        assert self._config.tls_ca_file is not None
        return client_context(self._config.tls_ca_file, self._config.tls_cert_file, self._config.tls_key_file)

    def deliver(self, block: Block) -> None:
        """Send all lines, and wait until they have arrived. Raises Retry."""
        deadline = time.monotonic() + DELIVER_TIME
        try:
            link = self._connected(deadline)
            data = self._again + block.data
            done = self._progress.resume(data)
            while self._out or done < len(data):
                if not self._out:
                    done = self._make(data, done, _wall(block))
                sent = link.send(self._out, deadline)
                self._out = self._out[sent:]
                if not sent:
                    self._progress.keep(data, done)
                    raise self._server.slow(DELIVER_TIME)
            if not link.arrived(deadline):
                self._progress.keep(data, done)
                raise self._server.slow(DELIVER_TIME)
            self._server.here(f"connected to {link.peer}")
        except (OSError, PluginError) as error:
            self._drop(error)
            raise self._server.failed(error) from error
        self._made, self._again = 0, b""
        self._remember(data)

    def _connected(self, deadline: float) -> Link:
        """A connection that can be used. Raises OSError, PluginError, Retry."""
        link = self._link
        if link is not None and link.ready:
            try:
                link.check()
            except OSError as error:
                if link.age() < SHORT:
                    raise  # it does not want us
                # It was restarted, or tired of waiting: that is no failure if it takes the next connection.
                self._drop(error)
                self._host.count("reconnects")
            else:
                return link
        while True:
            link = self._link or self._begin(deadline)
            try:
                if link.advance(deadline):
                    return link
            except OSError as error:
                self._drop(error)
                if not self._server.others_left():
                    raise
            else:
                raise self._server.later("is being connected to")

    def _begin(self, deadline: float) -> Link:
        self._server.wait_turn()
        address = self._server.next_address(deadline)
        name = self._config.tls_server_name or self._config.endpoint[0]
        self._link = Link(address, self._context(), name)
        return self._link

    def _make(self, data: bytes, start: int, arrived: float) -> int:
        """Fill `_out` with the messages for some lines from `start`; where they end."""
        parts: list[bytes] = []
        size = 0
        while start < len(data) and size < BATCH:
            end = data.find(b"\n", start) + 1 or len(data)
            messages = self._messages.of(data[start:end], arrived)
            if len(messages) > 1:
                self._host.count("split_records")
            part = framed(messages)
            parts.append(part)
            size += len(part)
            self._made += 1
            start = end
        self._out = memoryview(b"".join(parts))
        return start

    def _remember(self, data: bytes) -> None:
        # The tail of a block that is larger than all that is kept.
        tail = data if len(data) <= RECENT else data[data.find(b"\n", len(data) - RECENT) + 1 :]
        self._recent.append((time.monotonic(), tail))
        while sum(len(each) for _, each in self._recent) > RECENT:
            self._recent.popleft()

    def _drop(self, error: Exception) -> None:
        """This connection is of no use any more; what it was given and perhaps nobody read is for the next."""
        if self._link is not None:
            self._link.close()
            self._link = None
        since = time.monotonic() - (READ_SECONDS if isinstance(error, Closed) else RECENT_SECONDS)
        recent = b"".join([data for when, data in self._recent if when >= since])
        # While some wait to be sent again nothing else has been delivered, so only one of the two is not empty.
        self._again = self._again or recent
        again = self._made + recent.count(b"\n")
        if again:
            self._host.count("sent_again", again)
        self._made = 0
        self._recent.clear()
        self._out = memoryview(b"")
        self._progress = Progress()

    def resume(self) -> None:
        """SIGUSR2: try at once."""
        self._server.backoff.worked()

    def state(self) -> dict[str, str]:
        """See Transport."""
        return {"syslog server": self._server.status}

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None


class Datagrams:
    """By UDP: a message is a datagram, and nobody says that it arrived. deliver, resume and close: one at a time."""

    def __init__(self, config: SyslogConfig, host: Host, messages: Rfc5424) -> None:
        self._config, self._host, self._messages = config, host, messages
        self._server = _Server(config, host, socket.SOCK_DGRAM)
        self._sock: socket.socket | None = None
        self._until = 0.0
        self._sent = 0
        self._progress = Progress()

    def deliver(self, block: Block) -> None:
        """Send all lines. Raises Retry if the network takes nothing, or if the server's machine says that nobody is
        there; then all of the block comes again."""
        deadline = time.monotonic() + DELIVER_TIME
        data = block.data
        try:
            sock = self._connected(deadline)
            start = self._progress.resume(data)
            arrived = _wall(block)
            while start < len(data):
                end = data.find(b"\n", start) + 1 or len(data)
                messages = self._messages.of(data[start:end], arrived)
                if len(messages) > 1:
                    self._host.count("split_records")
                for message in messages:
                    if not self._send(sock, message, deadline):
                        self._progress.keep(data, start)
                        raise self._server.slow(DELIVER_TIME)
                start = end
            # What a machine nearby answers to the last datagrams is here by now.
            problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                raise OSError(problem, os.strerror(problem))
            self._server.here(f"sending to {sock.getpeername()[0]}")
        except OSError as error:
            self.close()
            raise self._server.failed(error) from error

    def _connected(self, deadline: float) -> socket.socket:
        if self._sock is not None and time.monotonic() >= self._until:
            self.close()
        if self._sock is None:
            self._server.wait_turn()
            family, where = self._server.next_address(deadline)
            self._sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            self._sock.connect(where)
            self._until = time.monotonic() + FRESH
        return self._sock

    def _send(self, sock: socket.socket, message: bytes, deadline: float) -> bool:
        """One datagram; False if there is no room for it until `deadline`. Raises OSError."""
        if self._sent >= BURST:
            time.sleep(BURST_PAUSE)
            self._sent = 0
        self._sent += 1
        while True:
            try:
                sock.send(message)
                return True
            except BlockingIOError:
                full = False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                full = True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if full:
                time.sleep(min(FULL_PAUSE, left))
            else:
                poll = select.poll()
                poll.register(sock, select.POLLOUT)
                poll.poll(left * 1000)

    def resume(self) -> None:
        """SIGUSR2: try at once, and look the name up again."""
        self._server.backoff.worked()
        self.close()

    def state(self) -> dict[str, str]:
        """See Transport."""
        return {"syslog server": self._server.status}

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _wall(block: Block) -> float:
    """When the block arrived, in seconds since the epoch."""
    return time.time() - max(0.0, time.monotonic() - block.arrived)


def transport(config: SyslogConfig, host: Host) -> Transport:
    """What `config` asks for. Raises PluginError."""
    facility, level = config.priority()
    messages = Rfc5424(
        facility << 3 | level,
        os.fsencode(config.hostname or os.uname().nodename),
        os.getpid(),
        config.limit,
        structured_data=structured(config.structured_data, sequence=config.sequence),
        sequence=config.sequence,
        bom=config.bom,
    )
    return Datagrams(config, host, messages) if config.transport == "udp" else Stream(config, host, messages)
