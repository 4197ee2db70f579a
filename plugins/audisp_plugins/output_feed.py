"""Feeds blocks to somebody who reads them: a program, or whoever listens on a socket.

A line counts as delivered when it has been read. What somebody had not read when he went away is given to his
successor, from the beginning of a line; so a line can come twice, and none is lost or comes in pieces.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from audisp.plugin import Block, Host, Reject
from audisp_plugins.presence import Presence

DELIVER_TIME: Final = 2.0
"""Seconds that one call may take: bounds how long the plugin's thread can be held at a stop."""

CLOSE_TIME: Final = 1.0
"""Seconds that closing waits for a call that nobody waits for any more; its thread then ends what it has begun."""

STEADY: Final = 10.0
"""Who was there for so many seconds is looked for again at once when he leaves, and the delay begins anew."""

POLL_FIRST: Final = 0.0002
POLL_MOST: Final = 0.02
"""Seconds between two looks at what has been read, doubling. Nothing tells us."""


class Gone(Exception):
    """The reader has left. read: how many of the bytes that he was sent he has certainly read; None: not known."""

    def __init__(self, reason: str, read: int | None) -> None:
        super().__init__(reason)
        self.read = read


class Reader(Protocol):
    """Somebody who is there now. `data` is the block in hand, `sent` how much of it he was sent."""

    window: int | None
    """Bytes that he is sent beyond what he has certainly read; what he has not is sent again when he leaves. None: as
    many as he takes."""

    def feed(self, data: bytes, sent: int, until: int) -> int:
        """Send on from `sent` as far as he takes it, and not much further than `until`; the new `sent`. Never waits.
        Raises Gone."""

    def read(self, sent: int) -> int | None:
        """How many of `sent` bytes he has certainly read; None: not known better than before. Raises Gone."""

    def wait(self, seconds: float, *, room: bool) -> None:
        """Wait until he has left, or, with `room`, until he takes more; at most so long."""

    def end(self, rest: bytes) -> None:
        """Nothing more comes but, if he takes it, `rest`: the rest of a line that he was sent the beginning of."""

    def status(self) -> str:
        """For a person."""


class Feeder:
    """deliver, resume and close: one at a time. state: from any thread."""

    def __init__(self, find: Callable[[set[int]], Reader], presence: Presence, host: Host) -> None:
        """find: a new reader, who notes in the set where the lines begin that he can never be sent, and passes them
        over. Raises OSError, or ValueError with what is wrong."""
        self._find, self._presence, self._host = find, presence, host
        self._reader: Reader | None = None
        self._data = b""
        """What the reader was sent the beginning of."""
        self._sent = 0
        self._read = 0
        """Of it: what he was sent, and the end of the last line that has certainly been read."""
        self._seen = 0
        """Of it: what has certainly been read, be it half of a line."""
        self._long: set[int] = set()
        """Where the lines begin that can never be sent."""
        self._since = 0.0
        self._guard = threading.Lock()

    def deliver(self, block: Block) -> None:
        """Send all lines, and wait until they are read. Raises Retry; Reject if some can never be sent."""
        with self._guard:
            self._deliver(block)

    def _deliver(self, block: Block) -> None:
        deadline = time.monotonic() + DELIVER_TIME
        data = block.data
        if not data.startswith(self._data[: self._sent]):
            # The host offers a block until it is taken, so this is never another one; if it were, its first line must
            # not be joined to half of a line of the one before.
            self._leave()
            self._sent = self._read = self._seen = 0
            self._long.clear()
        self._data = data
        try:
            reader = self._present()
            self._feed(reader, data, deadline)
            self._presence.here(reader.status(), steady=self._steady())
        except Gone as gone:
            self._forget(gone.read)
            retry = self._presence.away(str(gone))
            if self._read < len(data):
                raise retry from gone
            # He had read everything, and was free to leave.
        except OSError as error:
            raise self._presence.away(error.strerror or str(error)) from error
        except ValueError as error:
            raise self._presence.away(str(error)) from error
        long = len(self._long)
        self._long.clear()
        self._data = b""
        self._sent = self._read = self._seen = 0
        if long:
            self._host.count("too_long", long)
            raise Reject(f"{self._presence.called}: {long} lines are too long for it; the others were delivered")

    def _present(self) -> Reader:
        if self._reader is not None:
            try:
                self._reader.read(self._sent)
            except Gone as gone:
                if not self._steady():
                    raise
                self._forget(gone.read)
                self._host.say("notice", f"{self._presence.called}: {gone}")
        if self._reader is None:
            self._presence.wait_turn()
            self._reader = self._find(self._long)
            self._since = time.monotonic()
        return self._reader

    def _steady(self) -> bool:
        return time.monotonic() - self._since >= STEADY

    def _feed(self, reader: Reader, data: bytes, deadline: float) -> None:
        pause = POLL_FIRST
        while self._read < len(data):
            before = self._sent, self._seen
            until = len(data) if reader.window is None else min(len(data), self._seen + reader.window)
            if self._sent < until:
                self._sent = reader.feed(data, self._sent, until)
            self._has_read(reader.read(self._sent))
            if (self._sent, self._seen) != before:
                pause = POLL_FIRST
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._presence.slow(DELIVER_TIME)
            reader.wait(min(pause, left), room=self._sent < until)
            pause = min(pause * 2, POLL_MOST)

    def _has_read(self, read: int | None) -> None:
        if read is not None and read > self._seen:
            self._seen = read
            self._read = max(self._read, self._data.rfind(b"\n", self._read, read) + 1)

    def _forget(self, read: int | None) -> None:
        """He has left: his successor begins with the first line that was not read."""
        self._has_read(read)
        again = self._data.count(b"\n", self._read, self._sent)
        if again:
            self._host.count("sent_again", again)
        self._sent = self._seen = self._read
        self._leave()

    def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end(b"")

    def resume(self) -> None:
        """SIGUSR2: try at once what would have been tried later."""
        self._presence.backoff.worked()

    def state(self) -> dict[str, str]:
        """Lines for status."""
        return {"output": self._presence.status}

    def close(self) -> None:
        """Let the reader have the rest of the line that he has begun to get, then end."""
        if not self._guard.acquire(timeout=CLOSE_TIME):
            return
        try:
            if self._reader is not None:
                start = self._data.rfind(b"\n", 0, self._sent) + 1
                whole = start == self._sent
                end = self._data.find(b"\n", self._sent) + 1
                self._reader.end(b"" if whole else self._data[self._sent : end])
                self._reader = None
        finally:
            self._guard.release()
