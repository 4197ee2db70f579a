"""A host that books what a plugin asks for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from audisp.plugin import Block, Reactor

Level = Literal["debug", "info", "notice", "warning", "error", "critical"]


class BookingHost:
    """Implements `audisp.plugin.Host` and remembers every call, from whatever thread."""

    def __init__(self, name: str, runtime_dir: str, owner: bool) -> None:
        self._name, self._runtime_dir, self._owner = name, runtime_dir, owner
        self.counts: Counter[str] = Counter()
        self.said: list[tuple[str, str]] = []
        self.emitted: list[tuple[int, str]] = []
        self.acts: list[tuple[str, str, str | None]] = []
        self.has_reactor: Reactor | None = None
        self.is_local = True
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def owner(self) -> bool:
        return self._owner

    @property
    def runtime_dir(self) -> str:
        return self._runtime_dir

    @property
    def local(self) -> bool:
        return self.is_local

    @property
    def state_dir(self) -> str:
        return self._runtime_dir

    @property
    def reactor(self) -> Reactor | None:
        return self.has_reactor

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.counts[what] += by

    def say(self, level: Level, message: str) -> None:
        with self._lock:
            self.said.append((level, message))

    def emit(self, type_: int, fields: str) -> None:
        with self._lock:
            self.emitted.append((type_, fields))

    def act(self, action: str, message: str, path: str | None = None) -> None:
        with self._lock:
            self.acts.append((action, message, path))

    def heard(self, text: str) -> bool:
        """Whether some message holds `text`."""
        return any(text in message for _, message in self.said)


def block_of(lines: Iterable[bytes]) -> Block:
    """Lines, LF or not, to a block."""
    whole = [line if line.endswith(b"\n") else line + b"\n" for line in lines]
    return Block(b"".join(whole), len(whole), "test", 0.0)


def record(serial: int, text: bytes = b"arch=c000003e", kind: bytes = b"SYSCALL") -> bytes:
    """One record in string form."""
    return b"type=%b msg=audit(1700000000.123:%d): %b\n" % (kind, serial, text)
