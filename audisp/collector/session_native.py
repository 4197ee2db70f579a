"""One connection of the native protocol: numbered frames in, stored together with everybody's, acknowledged.

The protocol is in `wire.native_receiver`. What is owed to it here: a greeting is answered with what is on disk, after
every earlier connection of the same stream was cut off, and what it brought was stored or dropped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import trio

from audisp.collector.committer import Parcel
from audisp.collector.hosts import Connection, Host
from audisp.collector.services import FRAME_SECONDS, RECEIVE_BYTES, SEND_SECONDS, SOFTWARE, Services, Stream
from audisp.collector.session import Session
from audisp.collector.store_frames import Numbered
from audisp.errors import RemoteProtocolError
from audisp.wire.native import Accepted, Breach, Closed, Duplicate, Hello, Hole, Ping, Reason, Receiver, Refused, State
from audisp.wire.peer import Trouble

BUSY_RETRY: Final = 30
"""Seconds for which a sender is sent away when too much is under way."""


class NativeSession(Session):
    """The native protocol."""

    keeps = True

    def __init__(self, stream: Stream, connection: Connection, host: Host, services: Services) -> None:
        super().__init__(stream, connection, host, services)
        conf = services.conf
        self._receiver = Receiver(
            time.monotonic(), window=conf.max_bytes_in_flight_per_host, idle=conf.idle_timeout, software=SOFTWARE
        )
        self.spool = None

    # What the committer says.

    def stored(self, parcels: Sequence[Parcel]) -> None:
        """They are acknowledged, with everything before them."""
        now = trio.current_time()
        for parcel in parcels:
            item = parcel.item
            assert isinstance(item, Numbered)
            self._host.stored(item.frame.count, len(item.data), now)
        last = parcels[-1].item
        assert isinstance(last, Numbered)
        self._receiver.stored(last.frame.after)
        self._wake.set()

    def given_back(self, parcels: Sequence[Parcel], trouble: Trouble) -> None:
        """Never: they wait."""
        raise AssertionError("native frames wait for the disk")

    def refused(self, parcel: Parcel, why: str) -> None:
        """The sender is told, and keeps its records."""
        if not self._receiver.over:
            self._services.say("warning", f"{self.identity}: {why}", limit="refused-records")
        self._receiver.refuse(Reason.LIMITS, "these records cannot be stored", BUSY_RETRY)
        self._wake.set()

    def told(self, trouble: Trouble | None, text: str) -> None:
        """The sender is told, too."""
        if not self._receiver.over and self._receiver.state is not State.ENDING:
            self._receiver.trouble(trouble, text)
            self._wake.set()

    def cut(self, reason: str) -> None:
        """End the connection."""
        self._connection.end(reason)

    def end(self) -> None:
        """Say that the collector ends; what is under way is still acknowledged."""
        if self._receiver.over:
            return
        if self._receiver.state in (State.FRESH, State.ASKED):
            self._receiver.refuse(Reason.BUSY, "the collector ends", 1)
        else:
            self._receiver.trouble(Trouble.ENDING, "the collector ends")
        self._wake.set()

    # The two loops.

    async def _write(self, scope: trio.CancelScope) -> None:
        receiver = self._receiver
        while True:
            self._wake = trio.Event()
            data = receiver.take()
            if data:
                with trio.fail_after(SEND_SECONDS):
                    await self._stream.send_all(data)
            elif self._over or receiver.over or (receiver.state in (State.ENDING, State.LEAVING) and not self.waiting):
                scope.cancel()
                return
            else:
                await self._wake.wait()

    async def _read(self) -> None:
        services, receiver = self._services, self._receiver
        while not receiver.over:
            if not await services.flight.room(self.identity, self._held + receiver.under_way):
                services.say("warning", f"{self.identity}: too much is under way, sent away for now", limit="busy")
                receiver.refuse(Reason.BUSY, "too much is under way here", BUSY_RETRY)
                return
            data: bytes | None = None
            with trio.move_on_after(self._patience()):
                data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            now = time.monotonic()
            if data is None:
                if self._begun is not None and now >= self._begun + FRAME_SECONDS:
                    receiver.refuse(Reason.IDLE, f"a frame was not whole after {FRAME_SECONDS:.0f} s")
                    raise RemoteProtocolError(f"a frame was not whole after {FRAME_SECONDS:.0f} s")
                receiver.tick(now)
                self._wake.set()
                continue
            self._connection.heard = trio.current_time()
            receiver.feed(data, now)
            await self._take(now)

    def _patience(self) -> float:
        now = time.monotonic()
        times = [deadline for deadline in (self._receiver.deadline,) if deadline is not None]
        if self._begun is not None:
            times.append(self._begun + FRAME_SECONDS)
        return max(0.0, min(times) - now) if times else float("inf")

    async def _take(self, now: float) -> None:
        """What was read. Raises RemoteProtocolError."""
        receiver, host = self._receiver, self._host
        took = False
        try:
            while (event := receiver.next()) is not None:
                took = True
                if isinstance(event, Accepted):
                    frame = event.frame
                    item = Numbered(self.identity, self.spool or b"", frame, event.data, time.time_ns())
                    self._services.committer.put(Parcel(self, item, frame.weight))
                elif isinstance(event, Hello):
                    await self._welcome(event)
                elif isinstance(event, Ping):
                    self._connection.following = event.next if event.next is not None else self._connection.following
                elif isinstance(event, Duplicate):
                    host.duplicates += 1
                elif isinstance(event, Hole):
                    host.holes += 1
                elif isinstance(event, Refused):
                    raise RemoteProtocolError(f"it refuses us: {event.reason}: {event.text}")
                elif isinstance(event, Closed):
                    return
        finally:
            self._wake.set()
            self._count(took, now)

    async def _welcome(self, hello: Hello) -> None:
        """Answer a greeting with what is on disk."""
        self.spool = self._connection.spool = hello.spool
        self._connection.first, self._connection.following = hello.first, hello.next
        for other in self._host.others(self):
            # It is the same sender, which has given that connection up; nothing of it may come after the answer.
            other.cut("replaced by a new connection")
            await other.ended.wait()
            await other.settled()
        if self._receiver.over:
            return
        if self._host.live > self._services.conf.max_per_identity:
            self._services.say(
                "warning",
                f"{self.identity}: has {self._host.live - 1} senders that are well, another one is sent away (busy)",
                limit="max-per-identity",
            )
            self._receiver.refuse(Reason.BUSY, "too many senders have this identity", BUSY_RETRY)
            return
        store = self._services.committer.store
        try:
            self._receiver.welcome(store.position(self.identity, hello.spool), time.monotonic())
        except Breach:
            self._host.holes += 1
            raise

    def _count(self, took: bool, now: float) -> None:
        """What lies half received counts as under way, and is not waited for for ever."""
        held = self._receiver.buffered
        self._hold(held)
        if not held:
            self._begun = None
        elif took or self._begun is None:
            self._begun = now
