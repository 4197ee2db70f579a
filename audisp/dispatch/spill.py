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

    def close(self) -> None:
        """Close both."""
        if self._old:
            self.memory.close()
        self.spool.close()


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
    _limiter: trio.CapacityLimiter = attrs.field(init=False, factory=lambda: trio.CapacityLimiter(1))

    def take_over(self) -> None:
        """Enter what an earlier run left, before anything is offered."""
        with self.intake.lock:
            self.intake.stage_wake = self._wakeup.set
            self.intake.spool_done = self._acknowledge
            self.intake.carried = self.intake.disk = self.chain.records
            if self.intake.disk:
                self.intake.spilling = True
                self._wakeup.set()
        self._damaged, self._found = self.chain.damage
        if self._found:
            self.say("warning", f"plugin {self.intake.name}: its spool on disk was not in order: {self._found}")

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
        if not (staged or acknowledged or wanted) and not self.chain.spool.needs_sync(time.monotonic()):
            return
        taken, blocks, error = await trio.to_thread.run_sync(
            self._work, staged, acknowledged, wanted, limiter=self._limiter
        )
        self._account(staged, taken, blocks, "spill_full" if error is None else "spill_failed")
        damaged, found = self.chain.damage
        if found != self._found:
            self._found = found
            self.say("error", f"plugin {self.intake.name}: its spool on disk is damaged: {found}")
        if damaged > self._damaged:
            with self.intake.lock:
                self.intake.lose_stored(damaged - self._damaged, "spill_damaged")
            self._damaged = damaged
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
                self.chain.advance(acknowledged)
            if staged:
                taken = self.chain.spool.append(staged, self.books())
            if wanted:
                blocks = self.chain.read(READ_BYTES, self._out)
                self._out += sum(block.records for block in blocks)
            if self.chain.spool.needs_sync(time.monotonic()):
                self.chain.spool.sync()
        except StoreError as error:
            return taken, blocks, error
        return taken, blocks, None

    def _account(self, staged: list[Block], taken: int, blocks: list[Block], reason: str) -> None:
        intake = self.intake
        with intake.lock:
            for position, block in enumerate(staged):
                intake.unstage(lost=None if position < taken else reason)
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
        try:
            if acknowledged:
                self.chain.advance(acknowledged)
            return self.chain.keep(memory, self.books())
        finally:
            self.chain.close()
