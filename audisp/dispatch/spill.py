"""The task that moves one plugin's overflow between memory and disk. Order is memory, then disk, and back.

All disk work runs in one worker thread at a time, outside the intake's lock, so that neither the routing thread nor the
loop ever waits for a disk.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.dispatch.intake import Intake
from audisp.dispatch.runner import Say
from audisp.dispatch.spool import Spool
from audisp.dispatch.wakeup import Wakeup
from audisp.errors import StoreError
from audisp.record import Block

READ_BYTES: Final = 1024 * 1024
"""Brought back from disk at a time. Read when memory is empty, so it bounds what is in memory twice."""
FAILED_PAUSE: Final = 1.0
"""Seconds before the disk is tried again after an error."""
MEMORY: Final = "memory"
"""Folder beside the spool that takes, at the end of a run, what waited in memory: that is older than what is in the
spool, to which records can only be appended."""


async def open_spill(intake: Intake, folder: Path, *, max_bytes: int, min_free: int, say: Say) -> SpillTask:
    """Open a plugin's spool and take over what an earlier run left in it. Raises StoreError."""
    spool = Spool(folder, max_bytes=max_bytes, min_free=min_free, identity=intake.name.encode())
    memory = Spool(folder / MEMORY, max_bytes=max(max_bytes, 2 * intake.queue.max_bytes), min_free=0)

    def work() -> list[Block]:
        spool.open()
        if not (folder / MEMORY).exists():
            return []
        with memory:
            blocks = []
            while found := memory.read(READ_BYTES):
                blocks += found
            memory.advance(sum(block.records for block in blocks))
            return blocks

    blocks = await trio.to_thread.run_sync(work)
    task = SpillTask(intake, spool, memory, say)
    task.take_over(blocks)
    return task


@attrs.define(eq=False)
class SpillTask:
    """One plugin's spill."""

    intake: Intake
    spool: Spool
    memory: Spool
    say: Say
    _wakeup: Wakeup = attrs.field(init=False, factory=Wakeup)
    _acknowledged: int = 0
    _out: int = 0
    """Records brought back from disk and not acknowledged: the next read begins behind them."""
    _limiter: trio.CapacityLimiter = attrs.field(init=False, factory=lambda: trio.CapacityLimiter(1))

    def take_over(self, blocks: list[Block]) -> None:
        """Enter what an earlier run left: blocks that had been in memory, and the spool. Before anything is offered."""
        with self.intake.lock:
            self.intake.stage_wake = self._wakeup.set
            self.intake.spool_done = self._acknowledge
            self.intake.disk = self.spool.records
            self.intake.carried = self.spool.records + sum(block.records for block in blocks)
            for block in blocks:
                self.intake.queue.force(block)
            if self.intake.disk:
                self.intake.spilling = True
                self._wakeup.set()

    def books(self) -> dict[str, Any]:
        """What is written beside each frame: the plugin's ledger."""
        return attrs.asdict(self.intake.books())

    def _acknowledge(self, records: int) -> None:
        self._acknowledged += records  # lock held
        self._wakeup.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_after(1.0):
                await self._wakeup.wait()
            await self.turn()

    async def turn(self) -> None:
        """Write what is staged, bring back what fits, tell the spool what was delivered."""
        with self.intake.lock:
            staged = list(self.intake.staged)
            acknowledged, self._acknowledged = self._acknowledged, 0
            wanted = self.intake.spilling and not self.intake.queue and (self.intake.disk > 0 or bool(staged))
        if not (staged or acknowledged or wanted) and not self.spool.needs_sync(time.monotonic()):
            return
        taken, blocks, error = await trio.to_thread.run_sync(
            self._work, staged, acknowledged, wanted, limiter=self._limiter
        )
        self._account(staged, taken, blocks)
        if error is not None:
            self.say("error", f"plugin {self.intake.name}: spill: {error}", limit=f"spill-{self.intake.name}")
            await trio.sleep(FAILED_PAUSE)

    def _work(self, staged: list[Block], acknowledged: int, wanted: bool) -> tuple[int, list[Block], StoreError | None]:
        """What was done before an error is returned with it, because the books must say it."""
        taken: int = 0
        blocks: list[Block] = []
        try:
            if acknowledged:
                # First: it makes room for what is staged.
                self._out -= acknowledged
                self.spool.advance(acknowledged)
            if staged:
                taken = self.spool.append(staged, self.books())
            if wanted:
                blocks = self.spool.read(READ_BYTES, skip=self._out)
                self._out += sum(block.records for block in blocks)
            if self.spool.needs_sync(time.monotonic()):
                self.spool.sync()
        except StoreError as error:
            return taken, blocks, error
        return taken, blocks, None

    def _account(self, staged: list[Block], taken: int, blocks: list[Block]) -> None:
        intake = self.intake
        with intake.lock:
            for position, block in enumerate(staged):
                intake.unstage(lost=None if position < taken else "spill_full")
                if position < taken:
                    intake.disk += block.records
            for block in blocks:
                block.spooled = True
                intake.disk -= block.records
                intake.queue.force(block)
            if blocks:
                intake.wake()
            elif intake.spilling and not intake.disk and not intake.queue:
                # All that was on disk has been taken: what is staged goes straight to memory, and so does what follows.
                while intake.staged:
                    intake.queue.force(intake.staged[0])
                    intake.unstage(lost=None)
                intake.spilling = False
                intake.wake()
            intake.check_room()

    async def close(self) -> None:
        """After the runner's end: put what waits on disk, and close. What cannot be put there stays in the intake."""
        with trio.CancelScope(shield=True):
            await self.turn()
            with self.intake.lock:
                waiting = self.intake.queue.clear()
                acknowledged, self._acknowledged = self._acknowledged, 0
            memory = [block for block in waiting if not block.spooled and block.own < block.records]
            try:
                saved = await trio.to_thread.run_sync(self._save, memory, acknowledged, limiter=self._limiter)
            except StoreError as error:
                self.say("error", f"plugin {self.intake.name}: spill: {error}")
                saved = 0
            with self.intake.lock:
                for block in waiting:
                    if block.spooled:
                        self.intake.disk += block.records  # never acknowledged, so still there
                for block in memory[:saved]:
                    self.intake.disk += block.records - block.own
                for block in memory[saved:]:
                    self.intake.queue.force(block)

    def _save(self, memory: list[Block], acknowledged: int) -> int:
        saved = 0
        try:
            if memory:
                with self.memory:
                    saved = self.memory.append(memory, self.books())
                    self.memory.sync()
        finally:
            if acknowledged:
                self.spool.advance(acknowledged)
            self.spool.close()
        return saved
