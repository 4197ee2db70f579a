"""`syslog`: every record as one message to the local syslog daemon, with audisp-syslog's arguments, or to a server.

What goes over the network is in `syslog_network`. Messages to the local daemon are what the C library's syslog() would
send (``<PRI>Mmm dd hh:mm:ss IDENT: text``), checked against audisp-syslog 3.0.9: EOE records are sent too, and the
first 0x1D of a record becomes a space. Unlike syslog() nothing is lost while the daemon is away, and what exceeds a
message is split, never cut.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from audisp.plugin import Block, Delivery, Host, PluginType, Retry, hookimpl
from audisp.shapes.interpreted import interpreted
from audisp.shapes.shape import Names
from audisp_plugins.accounts import Accounts
from audisp_plugins.progress import Progress
from audisp_plugins.syslog_config import FACILITIES, SyslogConfig

__all__ = ["Messages", "Syslog", "SyslogConfig", "audisp_plugins", "open_syslog"]

MAX_MESSAGE: Final = 8_096
"""Bytes of one message with its head: what rsyslog takes by default and calls 8k; it cuts off what is longer."""

SEND_TIMEOUT: Final = 2.0
"""Seconds to wait for a daemon whose socket is full before the block is offered again. Bounds how long the plugin's
thread can be held at a stop."""

_ID: Final = re.compile(rb"msg=audit\(([0-9.]{1,24}:[0-9]{1,20})\)")


class Messages:
    """Records to messages. One per plugin; keeps the time's text for a second."""

    def __init__(self, facility: int, level: int, names: Names | None = None) -> None:
        """names: of this host's accounts, if records are to be interpreted."""
        self._names = names
        # audisp-syslog names itself only for a facility other than user; without, the C library takes the program's.
        ident = b"audisp-syslog" if facility == FACILITIES["LOG_USER"] else b"audispd"
        self._start = b"<%d>" % (facility << 3 | level)
        self._end = b" " + ident + b": "
        self._second = -1
        self._head = b""

    def of(self, line: bytes, now: float) -> list[bytes]:
        """The messages for one record (LF or not): one, or as many as it takes, each marked with its part."""
        if int(now) != self._second:
            self._second = int(now)
            # strftime's %b follows the locale, which a daemon never sets; the format wants English.
            self._head = self._start + time.strftime("%b %e %H:%M:%S", time.localtime(now)).encode() + self._end
        if self._names is not None:
            found = interpreted(line, self._names)
            if found is None:
                return []
            # As the C library's %x %T in its own locale, in the machine's zone.
            stamp = time.strftime("%m/%d/%y %H:%M:%S", time.localtime(found.second))
            text = f"type={found.type} msg=audit({stamp}) : {found.fields}".encode("utf-8", "surrogateescape")
        else:
            text = line.removesuffix(b"\n").replace(b"\x1d", b" ", 1)
        if len(self._head) + len(text) <= MAX_MESSAGE:
            return [self._head + text]
        return self._parts(text)

    def _parts(self, text: bytes) -> list[bytes]:
        found = _ID.search(text)
        mark = b"[part %d/%d " + (found[1] if found else b"-").replace(b"%", b"%%") + b"] "
        room = MAX_MESSAGE - len(self._head) - len(mark % (99, 99))
        pieces = [text[start : start + room] for start in range(0, len(text), room)]
        return [self._head + mark % (number, len(pieces)) + piece for number, piece in enumerate(pieces, 1)]


class Syslog:
    """The connection to the daemon. deliver and close: one at a time."""

    def __init__(self, path: Path, messages: Messages, host: Host, clock: Callable[[], float] = time.time) -> None:
        self._path, self._messages, self._host, self._clock = path, messages, host, clock
        self._socket: socket.socket | None = None
        self._progress = Progress()
        self._away = False

    def connect(self) -> None:
        """Connect if we are not. Raises OSError."""
        if self._socket is not None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(SEND_TIMEOUT)
            sock.connect(os.fsencode(self._path))
        except OSError:
            sock.close()
            raise
        self._socket = sock
        if self._away:
            self._away = False
            self._host.count("reconnects")
            self._host.say("notice", f"syslog at {self._path} is back")

    def deliver(self, block: Block) -> None:
        """Send all records. Raises Retry while the daemon is away or takes nothing; what it took stays taken."""
        data = block.data
        start = done = self._progress.resume(data)
        now = self._clock()
        try:
            self.connect()
            sock = self._socket
            assert sock is not None
            send = sock.send
            while start < len(data):
                end = data.find(b"\n", start) + 1 or len(data)
                messages = self._messages.of(data[start:end], now)
                if len(messages) > 1:
                    self._host.count("split_records")
                for message in messages:
                    send(message)
                start = done = end
        except OSError as error:
            self._progress.keep(data, done)
            self._lost(error)
            raise Retry(f"syslog at {self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _lost(self, error: OSError) -> None:
        if isinstance(error, TimeoutError):
            # It lives, and reads slowly: the connection stays.
            self._host.count("slow")
            return
        self.close()
        if not self._away:
            self._away = True
            self._host.say("warning", f"syslog at {self._path} is away: {error.strerror}; records wait")


@asynccontextmanager
async def open_syslog(config: SyslogConfig, host: Host) -> AsyncIterator[Delivery]:
    """Open `syslog`. A daemon or server that is not there yet is no error: records wait for it. Raises PluginError for
    a file of TLS's that cannot be used."""
    if config.transport != "local":
        # Who logs locally needs none of it.
        from audisp_plugins.syslog_network import transport

        server = transport(config, host)
        try:
            yield Delivery(server.deliver, resume=server.resume, state=server.state)
        finally:
            server.close()
        return
    facility, level = config.priority()
    names = Accounts() if config.interpret else None
    syslog = Syslog(config.socket, Messages(facility, level, names), host)
    try:
        yield Delivery(syslog.deliver)
    finally:
        syslog.close()


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `syslog`."""
    return [PluginType("syslog", SyslogConfig, open_syslog)]
