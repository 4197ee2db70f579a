"""The channel of an isolated plugin's process to the dispatcher: messages in, messages out, no wait for the latter."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from typing import Final

import trio

from audisp.wire import isolate as wire

WAITING: Final = 1_024
"""Messages that wait for a dispatcher that is slow to read; further ones are counted and not kept."""
FLUSH_SECONDS: Final = 2.0
"""How long the end waits for the last messages to be taken."""


class Line:
    """The channel to the dispatcher. `post` from any thread; `receive` in one."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._lock = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._writer: threading.Thread | None = None

    def post(self, message: wire.Up, *, spare: bool = False) -> bool:
        """Send without waiting. spare: it may be left out where too much waits already; then False."""
        data = wire.encode(message)
        with self._lock:
            if self._waiting:
                if spare and len(self._waiting) >= WAITING:
                    return False
                self._waiting.append(data)
                return True
            try:
                sent = self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False  # nobody is there any more; that is `receive`'s news
            if sent < len(data):
                self._waiting.append(data[sent:])
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
                    self._writer.start()
                self._lock.notify_all()
        return True

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._waiting:
                    self._lock.notify_all()
                    self._lock.wait()
                data = self._waiting[0]
            try:
                self._socket.sendall(data, socket.MSG_NOSIGNAL)
            except OSError:
                data = b""
            with self._lock:
                self._waiting.popleft()
                if not data:
                    self._waiting.clear()

    def flush(self) -> None:
        """Wait a while for what was posted to be sent."""
        with self._lock:
            self._lock.wait_for(lambda: not self._waiting, FLUSH_SECONDS)

    def receive_first(self) -> tuple[wire.Down, bytes, list[int]] | None:
        """As `receive`, with the descriptors that came along, which are closed on exec and belong to the caller."""
        most = len(wire.DESCRIPTORS)
        head, descriptors, _, _ = socket.recv_fds(self._socket, wire.HEAD.size, most, socket.MSG_WAITALL)
        for each in descriptors:
            os.set_inheritable(each, False)
        if len(head) < wire.HEAD.size:
            return None
        size, length = wire.lengths(head)
        body = self._exactly(size)
        payload = self._exactly(length)
        return None if body is None or payload is None else (wire.decode_down(body), payload, descriptors)

    def receive(self) -> tuple[wire.Down, bytes] | None:
        """The next message, with its payload; None at the end. Blocks. Raises RemoteProtocolError."""
        head = self._exactly(wire.HEAD.size)
        if head is None:
            return None
        size, length = wire.lengths(head)
        body = self._exactly(size)
        payload = self._exactly(length)
        return None if body is None or payload is None else (wire.decode_down(body), payload)

    async def receive_in_loop(self) -> tuple[wire.Down, bytes] | None:
        """The same without blocking the loop."""
        head = await self._exactly_in_loop(wire.HEAD.size)
        if head is None:
            return None
        size, length = wire.lengths(head)
        body = await self._exactly_in_loop(size)
        payload = await self._exactly_in_loop(length)
        return None if body is None or payload is None else (wire.decode_down(body), payload)

    async def _exactly_in_loop(self, size: int) -> bytes | None:
        pieces: list[bytes] = []
        while size:
            try:
                piece = self._socket.recv(size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            if not piece:
                return None
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _exactly(self, size: int) -> bytes | None:
        # MSG_WAITALL: the kernel puts all of it into the very object that becomes the block's data.
        data = self._socket.recv(size, socket.MSG_WAITALL) if size else b""
        while len(data) < size:  # a signal came between
            more = self._socket.recv(size - len(data), socket.MSG_WAITALL)
            if not more:
                return None
            data += more
        return data
