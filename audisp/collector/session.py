"""What every connection of a sender has, whatever it speaks: two loops, and its place in the books."""

from __future__ import annotations

from abc import abstractmethod

import trio

from audisp.collector.committer import Account
from audisp.collector.hosts import Connection, Host
from audisp.collector.services import Services, Stream
from audisp.errors import RemoteProtocolError


class Session(Account):
    """One connection on a stream, which is the caller's to close."""

    def __init__(self, stream: Stream, connection: Connection, host: Host, services: Services) -> None:
        super().__init__(host.identity)
        self._stream, self._connection, self._host, self._services = stream, connection, host, services
        self._wake = trio.Event()
        """Set when there may be something to send."""
        self._over = False
        """Nothing more is read."""
        self._begun: float | None = None
        """Since when something lies half received."""
        self._held = 0
        """Bytes of that, as told to `services.flight`."""

    async def run(self) -> None:
        """Until either end has ended it. Raises RemoteProtocolError for what the sender did wrong."""
        self._services.committer.join(self)
        self._host.open(self)
        wrong: RemoteProtocolError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                try:
                    await self._read()
                except RemoteProtocolError as error:
                    # Raised when all is said that is still to be said.
                    wrong = error
                finally:
                    self._over = True
                    self._wake.set()
        finally:
            self._services.committer.leave(self)
            self._hold(0)
        if wrong is not None:
            try:
                raise wrong
            finally:
                # Else the error, its traceback and this frame hold each other, and with them what the peer sent.
                del wrong

    def _hold(self, size: int) -> None:
        """So many bytes lie half received."""
        self._services.flight.change(self.identity, size - self._held)
        self._held = size

    @abstractmethod
    async def _read(self) -> None:
        """Until nothing more is to be read. Raises RemoteProtocolError."""

    @abstractmethod
    async def _write(self, scope: trio.CancelScope) -> None:
        """Send what there is until all is said; then cancel `scope`."""
