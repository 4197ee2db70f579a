"""The source ``follow:PATH``: an audit log that somebody else writes, read as it grows, over its rotations, and from
where an earlier run was.

Replay: nothing is dropped; every queue that is full is waited for, while the log waits on disk. The position is stored
once every plugin is done with what comes before it, so that a kill loses nothing; what it makes us read again carries
the places that it had (`record.Place`), by which a plugin that keeps them knows it again. It never ends by itself: a
log that is not there is waited for.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from audisp.errors import SourceError
from audisp.parse.lines import LineReader
from audisp.record import STRETCH_BYTES, Place
from audisp.sources.bad import Level, Rejects, Say
from audisp.sources.contract import Kind, Route, SourceBooks
from audisp.sources.inlet import Inlet, add_unread
from audisp.sources.position import NO_STRETCH, Position, digest
from audisp.sources.trail import Chunk, Step, Trail

POLL: Final = 0.25
"""Seconds between two looks at a log that has not grown. A record comes an eighth of a second late on average; a look
(three system calls in a thread) costs some 0.6 ms, so that an idle source takes a quarter per cent of a processor."""

GRACE: Final = 1.0
"""Seconds that a block in the middle of being routed may still take when the source is to stop. What a queue took of a
block that others had no room for comes twice, after the next start; a plugin that works has room again long before."""


class Mark(Protocol):
    """Where the position is kept."""

    @property
    def found(self) -> Position | None:
        """What an earlier run left."""

    def store(self, position: Position) -> None:
        """Keep this one."""


class LineInlet(Inlet):
    """An inlet of lines, whatever byte comes first: a disk that lost its last writes leaves zeros at their place, which
    would make what follows look like the binary form."""

    def __init__(self, books: SourceBooks, route: Route, rejects: Rejects) -> None:
        super().__init__(books, route, rejects)
        self._reader = LineReader()
        self.stretch = NO_STRETCH
        self.count = 0
        """Records of the stretch that were routed, or are being."""
        self._salt = b""

    def resume(self, position: Position) -> None:
        """An earlier run had come to this place."""
        self.stretch, self.count = position.stretch, position.count

    def enter(self, offset: int, *, anew: bool) -> None:
        """What comes next is from this offset of a file. anew: the file is no longer what it was, so that a number in
        it may be another record's."""
        if not offset:
            self.stretch, self.count = NO_STRETCH, 0
            self._salt = os.urandom(STRETCH_BYTES) if anew else b""

    def name(self, stretch: bytes) -> None:
        """What comes next is of the file of that name."""
        if self.stretch == NO_STRETCH != stretch:
            self.stretch = digest(self._salt + stretch)[:STRETCH_BYTES] if self._salt else stretch

    def _place(self, records: int) -> Place | None:
        self.count += records
        return None if self.stretch == NO_STRETCH else Place(self.stretch, self.count)

    def drop(self) -> None:
        """Forget the line that was begun; it comes again from its start."""
        self._reader = LineReader()
        self._seen = (0, 0, 0)


class FollowSource:
    """Reads a log on and on."""

    kind: Kind = "replay"

    def __init__(
        self, path: str, *, say: Say, runtime_dir: str | None = None, mark: Mark | None = None, poll: float = POLL
    ) -> None:
        """mark: where the position is kept; None: nowhere, so that every run begins at the beginning. poll: seconds."""
        self.path = path
        self.name = f"follow:{path}"
        self.books = SourceBooks(self.name, self.kind)
        self.rejects = Rejects(self.name, say, folder=runtime_dir)
        self._say, self._mark, self._poll = say, mark, poll
        self._routing = trio.CancelScope()
        self._deadline = float("inf")

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until cancelled. Raises SourceError if there is something of that name that can never be followed."""
        found = None if self._mark is None else self._mark.found
        trail = Trail(self.path, found)
        inlet = LineInlet(self.books, route, self.rejects)
        if found is not None:
            inlet.resume(found)
        self.books.detail["form"] = "string"
        try:
            try:
                await trio.to_thread.run_sync(trail.check, abandon_on_cancel=True)
            except OSError as error:
                raise SourceError(f"source {self.name}: {error.strerror or error}") from error
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_routing)
                await self._follow(trail, inlet, route)
        finally:
            inlet.leave()
            trail.close()
            self.rejects.close()

    async def _follow(self, trail: Trail, inlet: LineInlet, route: Route) -> None:
        while True:
            step = await trio.to_thread.run_sync(trail.step, abandon_on_cancel=True)
            self._note(step)
            if step.again:
                inlet.drop()
            if step.torn:
                await self._whole(lambda: inlet.finish(whole=False))
            if step.entered is not None:
                inlet.enter(step.entered, anew=step.anew)
            if step.position is not None and self._mark is not None:
                self._mark.store(step.position)
            fed = 0
            try:
                for chunk in step.chunks:
                    fed += 1
                    await self._route(inlet, chunk, route)
            finally:
                if fed < len(step.chunks):
                    add_unread(self.books, 0, sum([len(chunk.data) for chunk in step.chunks[fed:]]))
            if step.idle:
                await trio.sleep(self._poll)

    async def _route(self, inlet: LineInlet, chunk: Chunk, route: Route) -> None:
        if chunk.position is not None:
            inlet.name(chunk.position.stretch)
        await self._whole(lambda: inlet.take(chunk.data))
        if chunk.position is not None:
            self.books.detail["position"] = f"{chunk.position.offset:,} bytes"
            if self._mark is not None:
                position = attrs.evolve(chunk.position, stretch=inlet.stretch, count=inlet.count)
                route.when_done(partial(self._mark.store, position))
        await trio.lowlevel.checkpoint()

    async def _whole(self, work: Callable[[], Awaitable[None]]) -> None:
        """Carry this out; if the source is to stop, then in GRACE seconds or not to its end, which raises Cancelled."""
        with trio.CancelScope(shield=True, deadline=self._deadline) as self._routing:
            await work()
        if self._routing.cancelled_caught:
            await trio.lowlevel.checkpoint()

    async def _end_routing(self) -> None:
        """Set what is being routed its deadline when the source is to stop."""
        try:
            await trio.sleep_forever()
        finally:
            self._deadline = self._routing.deadline = trio.current_time() + GRACE

    def _note(self, step: Step) -> None:
        if step.name:
            self.books.detail["file"] = step.name
        for counter in step.counts:
            self.books.count(counter)
        for level, text in step.said:
            self._say(level, f"source {self.name}: {text}")
        if step.state is not None:
            self._state(*step.state)

    def _state(self, level: Level, text: str) -> None:
        if self.books.detail.get("state") != text:
            self.books.detail["state"] = text
            self._say(level, f"source {self.name}: {text}")
