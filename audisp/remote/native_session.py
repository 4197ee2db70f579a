"""One connection of our own protocol: greet, resume where the collector stands, keep its window full, settle what it
has on disk (docs/formats/protocol.md).

Three tasks: one receives, one sends (it alone writes to the stream, so that a slow peer never keeps us from hearing
it), one settles in the spool. What is under way is in no memory but libssl's: it is read again on the next connection.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

import trio

from audisp import __version__
from audisp.errors import ProtocolError, StoreError
from audisp.remote.connect import Link
from audisp.remote.outbox import Outbox
from audisp.remote.session import Ended, How, Watch
from audisp.remote.spool import FrameReader
from audisp.wire.native import (
    Acknowledged,
    Bye,
    Closed,
    DataFrame,
    Ping,
    Position,
    Reason,
    Refused,
    Sender,
    State,
    Troubled,
    Welcome,
)
from audisp.wire.native_frames import Breach
from audisp.wire.peer import Trouble

SEND_BYTES: Final = 1 << 20
"""Given to the stream at once: a frame of the largest size, or several common ones."""
LEAVE_SECONDS: Final = 5.0
"""For the last acknowledgements, once we have said goodbye."""


class NativeSession:
    """`run` once. outbox: whose records are sent."""

    def __init__(self, link: Link, outbox: Outbox, watch: Watch) -> None:
        self._stream, self._outbox, self._watch = link.stream, outbox, watch
        self._bell = watch.bell
        self._ended: Ended | None = None
        self._acknowledged = 0
        self._frames: list[DataFrame] = []
        self._reader: FrameReader | None = None
        self._greeted: Sender | None = None
        self._left_at: float | None = None
        watch.protocol = "native"

    async def run(self) -> Ended:
        """Until the connection ends; closes it."""
        stream = self._outbox.stream
        try:
            first = await self._first()
            self._greeted = Sender(
                time.monotonic(),
                spool=stream.spool_id,
                first=first,
                following=stream.synced,
                software=f"audisp-remote {__version__}",
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                nursery.start_soon(self._send)
                nursery.start_soon(self._settle)
                nursery.start_soon(self._hear)
                while self._ended is None:
                    await self._bell.wait()
                nursery.cancel_scope.cancel()
        except StoreError as error:
            self._end(Ended("lost", str(error)))
        finally:
            with trio.CancelScope(shield=True):
                await self._finish()
        assert self._ended is not None
        return self._ended

    @property
    def _sender(self) -> Sender:
        assert self._greeted is not None
        return self._greeted

    async def _first(self) -> int:
        """Number of the first record of the oldest frame that is not wholly acknowledged."""
        stream = self._outbox.stream
        self._reader = self._outbox.reader(stream.position)
        # Noted before the look: what is stored or synced meanwhile comes behind it, and is still to be sent.
        following = max(stream.synced, stream.position)
        frame = await trio.to_thread.run_sync(self._reader.peek)
        return following if frame is None else frame.first

    async def _finish(self) -> None:
        if self._reader is not None:
            self._reader.close()
        with trio.move_on_after(0.5):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                # The last word, such as why we end it.
                if self._greeted is not None:
                    await self._stream.send_all(self._greeted.take())
        await trio.aclose_forcefully(self._stream)
        if self._acknowledged:
            try:
                await self._outbox.settle(self._acknowledged)
            except StoreError as error:
                self._watch.notices.occur("queue_error", str(error))

    def _end(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
        self._bell.ring()

    async def _hear(self) -> None:
        """What the spool and the clock have to say wakes the sending task."""
        while True:
            await self._outbox.grown.wait()
            self._bell.ring()

    # Receiving.

    async def _receive(self) -> None:
        session = self._sender
        while not session.over:
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end(Ended("lost", str(error) or "the connection has broken"))
                return
            try:
                session.feed(data, time.monotonic())
                while (event := session.next()) is not None:
                    await self._on(event)
            except ProtocolError as error:
                self._end(self._broken(error))
                return
            except StoreError as error:
                self._watch.notices.occur("queue_error", str(error))
                self._end(Ended("lost", str(error)))
                return
            self._bell.ring()

    async def _on(self, event: Welcome | Acknowledged | Troubled | Ping | Refused | Bye | Closed) -> None:
        watch = self._watch
        match event:
            case Welcome():
                await self._resume(event.position)
                watch.useful = True
            case Acknowledged():
                self._acknowledged = event.upto
                watch.arrived()
            case Troubled(trouble=None):
                watch.trouble = None
            case Troubled():
                assert event.trouble is not None
                watch.troubled(event.trouble, event.text)
            case Refused():
                self._end(Ended("refused", f"{event.reason}: {event.text}", event.retry))
            case Closed():
                self._end(Ended(self._how(), "the collector has closed the connection"))
            case _:
                pass

    async def _resume(self, position: Position | None) -> None:
        """Find the place where the collector wants to go on."""
        assert self._reader is not None
        if position is not None:
            self._reader.close()
            self._reader = self._outbox.reader(position.next)
        reader = self._reader
        frame = await trio.to_thread.run_sync(reader.peek)
        last: bytes | None = None
        if position is not None:
            if frame is None:
                # What is not synced yet may be that very frame; without its hash nothing could tell a foreign stream.
                following, digest = await self._outbox.synced_end()
                last = digest if following == position.next else None
                frame = await trio.to_thread.run_sync(reader.peek)
            if frame is None:
                pass
            elif frame.first == position.next:
                last = frame.head.previous
            elif frame.first < position.next:
                raise Breach(Reason.DIVERGED, f"the collector wants record {position.next}, in the middle of a frame")
        self._sender.resume(last, time.monotonic())
        if position is not None:
            self._acknowledged = position.next

    def _how(self) -> How:
        """What a polite end means."""
        if self._watch.trouble is Trouble.ENDING:
            return "ending"
        return "lost" if self._left_at is None else "left"

    @property
    def _leaves(self) -> bool:
        return self._watch.leave or self._watch.trouble is Trouble.ENDING

    def _broken(self, error: ProtocolError) -> Ended:
        if isinstance(error, Breach) and error.reason in (Reason.AHEAD, Reason.DIVERGED):
            return Ended("refused", f"{error.reason}: {error}")
        return Ended("lost", str(error))

    # Sending.

    async def _send(self) -> None:
        session = self._sender
        while True:
            ring = self._bell.next()
            session.following = self._outbox.stream.synced
            try:
                session.tick(time.monotonic())
                await self._fill()
            except ProtocolError as error:
                self._end(self._broken(error))
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end(Ended("lost", str(error) or "the connection has broken"))
                return
            except StoreError as error:
                self._watch.notices.occur("queue_error", str(error))
                self._end(Ended("lost", str(error)))
                return
            if session.over or self._is_gone():
                return
            await self._wait(ring)

    async def _wait(self, ring: trio.Event) -> None:
        """Until there may be something to do."""
        session, now = self._sender, time.monotonic()
        times = [each for each in (session.deadline, self._left_at and self._left_at + LEAVE_SECONDS) if each]
        with trio.move_on_after(max(0.0, min(times) - now) if times else float("inf")):
            await ring.wait()

    def _is_gone(self) -> bool:
        """Say goodbye if it is time; True if nobody waits for an answer to that any more."""
        session, now = self._sender, time.monotonic()
        if self._leaves and self._left_at is None:
            if session.state not in (State.STREAMING, State.PAUSED, State.ENDING):
                self._end(Ended(self._how(), "left before anything was said"))
                return True
            self._left_at = now
            session.bye()
        if self._left_at is not None and now >= self._left_at + LEAVE_SECONDS:
            self._end(Ended(self._how(), "left without the last acknowledgement"))
            return True
        return False

    async def _fill(self) -> None:
        """Send what waits, and frames while the window has room."""
        session = self._sender
        out: list[bytes] = []
        size = 0
        while session.state is State.STREAMING and not self._leaves:
            frame = await self._frame()
            if frame is None or not session.fits(frame):
                break
            if frame.first > session.next_record:
                session.gap(frame.first, self._why(session.next_record), frame.head.previous, time.time_ns())
                continue
            session.send(frame)
            self._frames.pop(0)
            out.append(session.take())
            size += len(out[-1])
            if size >= SEND_BYTES:
                await self._stream.send_all(b"".join(out))
                out, size = [], 0
        self._is_gone()
        data = b"".join([*out, session.take()])
        if data:
            await self._stream.send_all(data)

    async def _frame(self) -> DataFrame | None:
        if not self._frames and self._reader is not None:
            reader = self._reader
            if self._outbox.stream.synced > max(self._sender.next_record, 0):
                self._frames = await trio.to_thread.run_sync(reader.read)
        return self._frames[0] if self._frames else None

    def _why(self, number: int) -> str:
        """Why the record with this number is no longer to be had."""
        stream = self._outbox.stream
        if number < stream.dropped_upto:
            return "dropped"
        return "acknowledged" if number < stream.position else "damaged"

    # Settling.

    async def _settle(self) -> None:
        done = 0
        while True:
            if self._acknowledged > done:
                done = self._acknowledged
                try:
                    await self._outbox.settle(done)
                except StoreError as error:
                    self._watch.notices.occur("queue_error", str(error))
            else:
                await self._bell.wait()
