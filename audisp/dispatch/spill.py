"""The task that moves one plugin's overflow between memory and disk. Order is memory, then disk, and back.

All disk work runs in one worker thread at a time, outside the intake's lock, so that neither the routing thread nor the
loop ever waits for a disk. What cannot be written stays staged; when there is no room for more, the intake drops what
is offered, and says why. Nothing goes to memory again before all that was on disk is acknowledged, so that what waits
in memory is always older than what is on disk, and a restart keeps the order.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.buffer.queue import Gap
from audisp.dispatch.intake import Intake
from audisp.dispatch.runner import Say
from audisp.dispatch.spool import Spool
from audisp.dispatch.wakeup import Wakeup
from audisp.errors import StoreError
from audisp.record import MAX_RECORD, Block

READ_BYTES: Final = 1024 * 1024
READ_FRACTION: Final = 0.25
"""Brought back from disk at a time: at most so many bytes, and so much of the queue's bound, or one record. It is read
when memory is empty; the rest of the bound is for what arrives meanwhile."""
IDLE_SECONDS: Final = 1.0
"""What was written and not synced is looked at this often even when nothing happens."""
FAILED_PAUSE: Final = 1.0
"""Seconds before the disk is tried again after an error."""
MEMORY: Final = "memory"
"""Folder beside the spool that takes, at the end of a run, what waited in memory: that is older than what is in the
spool, to which records can only be appended."""


class Chain:
    """Two spools read as one: what waited in memory at the end of the last run, then the spool proper.

    Blocking; one worker thread at a time. Records are appended to the spool alone. The other is dropped once it has
    been acknowledged to its end.
    """

    def __init__(self, folder: Path, *, max_bytes: int, min_free: int, memory_bytes: int, identity: bytes) -> None:
        self.spool = Spool(folder, max_bytes=max_bytes, min_free=min_free, identity=identity)
        self.memory = Spool(folder / MEMORY, max_bytes=memory_bytes, min_free=0, identity=identity)
        self._old = False

    def open(self) -> None:
        """Raises StoreError."""
        self.spool.open()
        if (self.spool.path / MEMORY).exists():
            self.memory.open()
            self._old = True

    @property
    def records(self) -> int:
        """Stored and not acknowledged."""
        return self.spool.records + (self.memory.records if self._old else 0)

    @property
    def damage(self) -> tuple[int, str]:
        """Records that were stored and cannot be read, and all findings in words ("" if there are none)."""
        lost, words = 0, []
        for spool in (self.memory, self.spool):
            found = attrs.asdict(spool.findings)
            lost += found["lost"]
            words += [f"{key.replace('_', ' ')} {value}" for key, value in found.items() if value]
        return lost, ", ".join(words)

    def read(self, max_bytes: int, skip: int) -> list[Block]:
        """The records behind the `skip` first that are not acknowledged."""
        if self._old:
            if skip < self.memory.records:
                blocks = self.memory.read(max_bytes, skip=skip)
                if blocks:
                    return blocks
            skip -= self.memory.records
        return self.spool.read(max_bytes, skip=skip)

    def advance(self, records: int) -> None:
        """Acknowledge."""
        if self._old:
            here = min(records, self.memory.records)
            self.memory.advance(here)
            records -= here
            if not self.memory.records:
                self.memory.close()
                self._old = False
        if records:
            self.spool.advance(records)

    def keep(self, blocks: list[Block], books: dict[str, Any]) -> int:
        """At the end: store what waits in memory and is older than all in the spool. Returns how many blocks."""
        if not blocks:
            return 0
        if not self._old:
            self.memory.open()
            self._old = True
        taken = self.memory.append(blocks, books)
        self.memory.sync()
        return taken

    def bound(self, max_bytes: int, min_free: int) -> None:
        """Other bounds from now on; what exceeds them already stays."""
        self.spool.bound(max_bytes, min_free)

    def close(self) -> None:
        """Close both."""
        if self._old:
            self.memory.close()
        self.spool.close()


@attrs.define
class _Done:
    """What one turn of the worker thread came to."""

    taken: int = 0
    """Staged blocks that are stored."""
    blocks: list[Block] = attrs.field(factory=list)
    """Brought back."""
    error: StoreError | None = None
    """The first one met."""

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Keep the error for a person, and go on."""
        try:
            yield
        except StoreError as error:
            self.error = self.error or error
        except ValueError as error:
            # The spool refuses what it was asked for: a defect, but not one for which all others should end.
            self.error = self.error or StoreError(f"refused: {error}")


async def open_spill(intake: Intake, folder: Path, *, max_bytes: int, min_free: int, say: Say) -> SpillTask:
    """Open a plugin's spool and take over what an earlier run left in it. Raises StoreError."""
    chain = Chain(
        folder,
        max_bytes=max_bytes,
        min_free=min_free,
        memory_bytes=max(max_bytes, 2 * intake.queue.max_bytes),
        identity=intake.name.encode(),
    )
    await trio.to_thread.run_sync(chain.open)
    task = SpillTask(intake, chain, say)
    task.take_over()
    return task


@attrs.define(eq=False)
class SpillTask:
    """One plugin's spill."""

    intake: Intake
    chain: Chain
    say: Say
    _wakeup: Wakeup = attrs.field(init=False, factory=Wakeup)
    _acknowledged: int = 0
    _out: int = 0
    """Records brought back from disk and not acknowledged: the next read begins behind them."""
    _damaged: int = 0
    _found: str = ""
    _closing: bool = False
    _ended: trio.Event | None = None
    """Set when `run` is over; None if it was never started."""
    _limiter: trio.CapacityLimiter = attrs.field(init=False, factory=lambda: trio.CapacityLimiter(1))

    def take_over(self) -> None:
        """Enter what an earlier run left."""
        self._damaged, self._found = self.chain.damage
        intake = self.intake
        with intake.lock:
            intake.stage_wake = self._wakeup.set
            intake.spool_done = self._acknowledge
            found = self.chain.records
            intake.carried += found
            intake.disk += found
            if intake.disk:
                intake.spilling = True
                self._wakeup.set()
            if self._damaged:
                intake.tell(Gap("spill_damaged", self._damaged))
        if self._found:
            self.say("warning", f"plugin {intake.name}: its spool on disk was not in order: {self._found}")

    def books(self) -> dict[str, Any]:
        """What is written beside each frame: the plugin's ledger."""
        return attrs.asdict(self.intake.books())

    @property
    def out(self) -> int:
        """Records in memory that are still on disk, too."""
        return self._out

    def _acknowledge(self, records: int) -> None:
        self._acknowledged += records  # lock held
        self._wakeup.set()

    async def run(self) -> None:
        """Until `close`."""
        self._ended = trio.Event()
        try:
            while not self._closing:
                with trio.move_on_after(IDLE_SECONDS):
                    await self._wakeup.wait()
                if not await self.turn() and not self._closing:
                    await trio.sleep(FAILED_PAUSE)
        finally:
            self._ended.set()

    async def turn(self) -> bool:
        """Write what is staged, bring back what fits, tell the spool what was delivered. False if the disk failed."""
        with self.intake.lock:
            acknowledged, self._acknowledged = self._acknowledged, 0
            if self._out == acknowledged:
                self._end_spilling()
            staged = list(self.intake.staged)
            wanted = self.intake.spilling and not self.intake.queue and (self.intake.disk > 0 or bool(staged))
        if not (staged or acknowledged or wanted or self.chain.spool.needs_sync(time.monotonic())):
            return True
        done = await trio.to_thread.run_sync(self._work, staged, acknowledged, wanted, limiter=self._limiter)
        self._account(staged, done)
        if done.error is not None:
            self.say("error", f"plugin {self.intake.name}: spill: {done.error}", limit=f"spill-{self.intake.name}")
        return done.error is None

    def _end_spilling(self) -> None:
        """Once all that was on disk is delivered, what is staged goes straight to memory, and so does what follows."""
        intake = self.intake
        if intake.spilling and not intake.disk and not intake.queue:
            while intake.staged:
                intake.queue.force(intake.staged[0])
                intake.unstage()
            intake.spilling = False
            intake.wake()
            intake.check_room()

    def _work(self, staged: list[Block], acknowledged: int, wanted: bool) -> _Done:
        """One error does not keep the rest from being tried: a full disk can still be read."""
        done = _Done()
        if acknowledged:
            # First: it makes room for what is staged. An error leaves them acknowledged.
            self._out -= acknowledged
            with done.trying():
                self.chain.advance(acknowledged)
        if staged:
            with done.trying():
                done.taken = self.chain.spool.append(staged, self.books())
        if wanted:
            with done.trying():
                size = max(MAX_RECORD, min(READ_BYTES, int(self.intake.queue.max_bytes * READ_FRACTION)))
                done.blocks = self.chain.read(size, self._out)
                self._out += sum(block.records for block in done.blocks)
        if self.chain.spool.needs_sync(time.monotonic()):
            with done.trying():
                self.chain.spool.sync()
        return done

    def _account(self, staged: list[Block], done: _Done) -> None:
        intake = self.intake
        damaged, found = self.chain.damage
        with intake.lock:
            for block in staged[: done.taken]:
                intake.unstage()
                intake.disk += block.records
            if done.taken < len(staged):
                intake.stage_problem = "spill_full" if done.error is None else "spill_failed"
            elif staged:
                intake.stage_problem = None
            if damaged > self._damaged:
                intake.lose_stored(damaged - self._damaged, "spill_damaged")
                self._damaged = damaged
            for block in done.blocks:
                block.spooled = True
                intake.disk -= block.records
                intake.queue.force(block)
            if done.blocks:
                intake.wake()
            elif not self._out:
                self._end_spilling()
            intake.check_room()
        if found != self._found:
            self._found = found
            self.say("error", f"plugin {intake.name}: its spool on disk is damaged: {found}")

    async def close(self) -> None:
        """After the runner's end: put what waits on disk, and close. What cannot be put there stays in the intake."""
        intake = self.intake
        with trio.CancelScope(shield=True):
            self._closing = True
            self._wakeup.set()
            if self._ended is not None:
                await self._ended.wait()
            with intake.lock:
                intake.stage_gap()
            await self.turn()
            with intake.lock:
                waiting = intake.queue.clear()
                acknowledged, self._acknowledged = self._acknowledged, 0
            memory = [block for block in waiting if not block.spooled]
            error = None
            saved = 0
            try:
                saved = await trio.to_thread.run_sync(self._save, memory, acknowledged, limiter=self._limiter)
            except StoreError as problem:
                error = problem
            with intake.lock:
                for block in waiting:
                    if block.spooled:
                        intake.disk += block.records  # never acknowledged, so still there
                for block in memory[:saved]:
                    # A marker is on disk a record like any other.
                    intake.carried += block.own
                    intake.disk += block.records
                for block in memory[saved:]:
                    intake.queue.force(block)
        if error is not None:
            self.say("error", f"plugin {intake.name}: spill: {error}")

    def _save(self, memory: list[Block], acknowledged: int) -> int:
        try:
            if acknowledged:
                self._out -= acknowledged
                self.chain.advance(acknowledged)
            return self.chain.keep(memory, self.books())
        finally:
            self.chain.close()
