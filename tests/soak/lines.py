"""A TCP line that breaks: a relay on loopback which cuts each connection after a number of bytes drawn by chance."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self

PIECE: Final = 65_536
ABORT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of a connection that is reset, with what is under way."""


class BreakingLine:
    """Relays connections to 127.0.0.1:to. As a context it listens inside; port: where. cuts: how many were cut."""

    def __init__(self, to: int, seed: int, least: int, most: int) -> None:
        """least, most: bytes that a connection lives for, both ways together; most 0: none is cut."""
        self.to, self.cuts = to, 0
        self._chance = random.Random(seed)
        self._least, self._most = least, most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ended = False

    def whole(self) -> None:
        """From now on nothing is cut."""
        self._most = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to), 5)
            except OSError:
                near.close()
                continue
            left = [self._chance.randrange(self._least, self._most) if self._most else 1 << 62]
            for each in (near, far):
                # Else each frame that comes in two pieces waits for the other end's delayed acknowledgement.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other, left), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(PIECE):
                if self._most and len(data) >= left[0]:
                    other.sendall(data[: max(left[0], 0)])
                    self.cuts += 1
                    for each in (one, other):
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    break
                left[0] -= len(data)
                other.sendall(data)
                # The kernel takes this back by itself. A sender that has Nagle's algorithm on waits for it.
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
