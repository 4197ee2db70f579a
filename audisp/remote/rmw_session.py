"""One connection of the C programs' protocol: a record, its answer, the next record (docs/formats/rmw.md).

The same over TCP and TLS. A record is settled when the server says that it is stored. EOE records are not sent, as the
C program sends none; what auditd would cut is cut here, and counted.
"""

from __future__ import annotations

import time
from typing import Final

import attrs
import trio

from audisp.config.remote import RemoteConf
from audisp.errors import RemoteProtocolError, StoreError
from audisp.remote.connect import Link
from audisp.remote.outbox import Outbox
from audisp.remote.session import Ended, Watch
from audisp.wire.peer import Closed, Trouble
from audisp.wire.rmw import MAX_PAYLOAD, Answer, Notice, Outcome, Place, RmwClient

SETTLE_EVERY: Final = 32
"""Records between two entries in the spool's cursor. So many may arrive twice after kill -9, where the C program sends
one twice; each entry costs a turn of a thread, which is as much as sending a record."""
RECEIVE: Final = 16_384
"""Bytes of answers taken at once; one is 16 to 272 bytes long."""
UNWELL: Final = 5.0
"""Seconds after which a server that stores nothing is asked again, on the same connection."""


@attrs.define(eq=False)
class Ledger:
    """What outlives a connection. place: of the row of numbers."""

    place: Place | None = None
    withheld: int = 0
    """EOE records, which the protocol has no use for."""
    cut: int = 0
    """Records that were longer than auditd takes, or held a NUL."""


class RmwSession:
    """`run` once."""

    def __init__(self, link: Link, outbox: Outbox, watch: Watch, conf: RemoteConf, ledger: Ledger) -> None:
        self._stream, self._outbox, self._watch = link.stream, outbox, watch
        self._ledger = ledger
        self._heartbeat = conf.heartbeat_timeout
        self._client = RmwClient(conf.max_time_per_record, ledger.place)
        self._settled = 0
        self._spoken = time.monotonic()
        watch.protocol = "rmw"

    async def run(self) -> Ended:
        """Until the connection ends; closes it."""
        try:
            return await self._run()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            return Ended("lost", str(error) or "the connection has broken")
        except RemoteProtocolError as error:
            return Ended("lost", str(error))
        except StoreError as error:
            self._watch.notices.occur("queue_error", str(error))
            return Ended("lost", str(error))
        finally:
            with trio.CancelScope(shield=True):
                self._ledger.place = self._client.place
                await trio.aclose_forcefully(self._stream)
                try:
                    await self._outbox.settle(self._settled)
                except StoreError as error:
                    self._watch.notices.occur("queue_error", str(error))

    async def _run(self) -> Ended:
        while not self._watch.leave:
            front = await self._outbox.front()
            if front is None:
                ended = await self._idle()
                if ended is not None:
                    return ended
                continue
            number, data = front
            ended = await self._deliver_all(number, data)
            if ended is not None:
                return ended
        return Ended("left", "left")

    async def _deliver_all(self, number: int, data: bytes) -> Ended | None:
        """Send records, the first of them with this number, until we are to leave."""
        # As Block.lines: a record may hold a CR.
        for line in data[:-1].split(b"\n"):
            if self._watch.leave:
                break
            ended = await self._deliver(line + b"\n")
            if ended is not None:
                return ended
            number += 1
            self._settled = number
            if number % SETTLE_EVERY == 0:
                await self._outbox.settle(number)
        await self._outbox.settle(self._settled)
        return None

    async def _deliver(self, line: bytes) -> Ended | None:
        """Send one record until the server has it; None: it has."""
        while True:
            outcome = self._client.send(line, time.monotonic())
            if outcome is Outcome.EOE:
                self._ledger.withheld += 1
                return None
            if outcome is not Outcome.SENT:
                self._ledger.cut += 1
                line = line.replace(b"\0", b" ")
                if len(line) > MAX_PAYLOAD:
                    line = line[: MAX_PAYLOAD - 1] + b"\n"
                continue
            answer = await self._ask()
            if isinstance(answer, Ended):
                return answer
            if answer.stored:
                self._watch.arrived()
            if answer.trouble is not None:
                self._watch.troubled(answer.trouble, answer.text)
            elif answer.stored:
                self._watch.trouble = None
            if answer.stored:
                return None
            ended = await self._rest(UNWELL)
            if ended is not None or self._watch.leave:
                return ended or Ended("unwell", answer.text)

    async def _ask(self) -> Answer | Ended:
        """Send what was said, and wait for its answer."""
        client = self._client
        await self._write()
        while True:
            while (event := client.next()) is not None:
                if isinstance(event, Answer):
                    return event
                ended = self._on(event)
                if ended is not None:
                    return ended
            assert client.deadline is not None
            with trio.move_on_after(max(0.0, client.deadline - time.monotonic())) as scope:
                client.feed(await self._stream.receive_some(RECEIVE), time.monotonic())
            if scope.cancelled_caught:
                client.tick(time.monotonic())

    async def _write(self) -> None:
        data = self._client.take()
        deadline = self._client.deadline
        assert deadline is not None
        with trio.move_on_after(max(0.0, deadline - time.monotonic())) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise RemoteProtocolError("the server takes nothing")
        self._spoken = time.monotonic()

    def _on(self, event: Notice | Closed) -> Ended | None:
        if isinstance(event, Closed):
            return Ended("lost", "the server has closed the connection")
        self._watch.troubled(event.trouble, event.text)
        return Ended("ending", "the server ends") if event.trouble is Trouble.ENDING else None

    async def _idle(self) -> Ended | None:
        """Nothing to send: until there is, or the server says something."""
        seconds = float("inf")
        if self._heartbeat:
            seconds = self._spoken + self._heartbeat - time.monotonic()
        if seconds > 0:
            return await self._rest(seconds, until_grown=True)
        self._client.heartbeat(time.monotonic())
        answer = await self._ask()
        if isinstance(answer, Ended):
            return answer
        self._watch.useful = True
        if answer.trouble is not None:
            self._watch.troubled(answer.trouble, answer.text)
        return None

    async def _rest(self, seconds: float, *, until_grown: bool = False) -> Ended | None:
        """Listen for so long at most, or until there is more to send, or somebody rings."""
        rings = [self._watch.bell.next()]
        stream = self._outbox.stream
        if self._watch.leave:
            return None
        if until_grown:
            rings.append(self._outbox.grown.next())
            if stream.records and stream.synced > stream.position:
                return None
        ended: Ended | None = None
        problem: Exception | None = None

        async def hear(ring: trio.Event, scope: trio.CancelScope) -> None:
            await ring.wait()
            scope.cancel()

        async def listen(scope: trio.CancelScope) -> None:
            nonlocal ended, problem
            try:
                while ended is None:
                    self._client.feed(await self._stream.receive_some(RECEIVE), time.monotonic())
                    while ended is None and (event := self._client.next()) is not None:
                        # Nothing is under way, so nothing is an answer.
                        ended = self._on(event) if not isinstance(event, Answer) else None
            except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError) as error:
                problem = error
            scope.cancel()

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for ring in rings:
                    nursery.start_soon(hear, ring, nursery.cancel_scope)
                nursery.start_soon(listen, nursery.cancel_scope)
        if problem is not None:
            raise problem
        return ended
