"""Spilling: memory, then disk, and back, each record once and in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audisp.buffer.queue import BlockQueue, Gap
from audisp.dispatch.intake import Intake
from audisp.dispatch.spill import SpillTask, open_spill
from audisp.record import Block
from tests.dispatch.spools import MIB, block

QUEUE_BYTES = 100_000


def marker(name: str, gap: Gap) -> Block:
    raise AssertionError(f"{name} lost {gap}")


def say(level: str, message: str, *, limit: str | None = None) -> None:
    raise AssertionError(f"{level}: {message} ({limit})")


async def start(folder: Path) -> SpillTask:
    intake = Intake("syslog", BlockQueue(QUEUE_BYTES), "spill", False, marker)
    return await open_spill(intake, folder, max_bytes=64 * MIB, min_free=0, say=say)


async def offer(task: SpillTask, first: int, blocks: int) -> int:
    """Blocks of ten records, each written before the next; returns the serial after the last."""
    for number in range(blocks):
        assert task.intake.offer(block(first + 10 * number, 10, size=1000), False) is None
        await task.turn()
    return first + 10 * blocks


def take(task: SpillTask) -> Block | None:
    with task.intake.lock:
        return task.intake.take(30_000)


def acknowledge(task: SpillTask, taken: Block) -> None:
    with task.intake.lock:
        task.intake.acknowledge(taken.records - taken.own, taken.own, taken.arrived, taken.spooled)


async def drain(task: SpillTask, *, limit: int = 10**9) -> list[int]:
    """Take and acknowledge, with a turn of the spill task while each block is in hand."""
    found: list[int] = []
    while len(found) < limit:
        taken = take(task)
        await task.turn()
        if taken is None:
            if task.intake.idle():
                break
            continue
        found += taken.serials()
        acknowledge(task, taken)
        assert task.intake.books().imbalance == 0
    return found


async def test_what_is_in_hand_is_not_brought_back_again(spool_folder: Path) -> None:
    task = await start(spool_folder)
    end = await offer(task, 1, 400)
    assert task.intake.disk > 1000
    assert await drain(task) == list(range(1, end))
    assert task.intake.disk == 0
    assert not task.intake.spilling
    assert task.intake.books().delivered == end - 1
    await task.turn()
    assert task.chain.spool.records == 0
    await task.close()


async def test_a_restart_carries_over_what_waits(spool_folder: Path) -> None:
    task = await start(spool_folder)
    end = await offer(task, 1, 400)
    found = await drain(task, limit=1000)
    await task.close()
    assert task.intake.books().imbalance == 0
    task = await start(spool_folder)
    assert task.intake.carried == end - 1 - len(found)
    end = await offer(task, end, 100)
    found += await drain(task)
    assert found == list(range(1, end))
    await task.close()


async def test_an_error_loses_no_acknowledgement(spool_folder: Path) -> None:
    said: list[str] = []

    def note(level: str, message: str, *, limit: str | None = None) -> None:
        said.append(message)

    intake = Intake("syslog", BlockQueue(QUEUE_BYTES), "spill", False, lambda name, gap: block(1))
    task = await open_spill(intake, spool_folder, max_bytes=64 * MIB, min_free=0, say=note)
    end = await offer(task, 1, 100)
    while not (taken := take(task)) or not taken.spooled:
        if taken is not None:
            acknowledge(task, taken)
        await task.turn()
    waiting = task.chain.spool.records
    assert intake.offer(block(end, 10, size=1000), False) is None
    acknowledge(task, taken)
    # A descriptor that cannot be written to: the kernel refuses what is staged.
    kept = task.chain.spool._file
    task.chain.spool._file = os.open(os.devnull, os.O_RDONLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audisp.dispatch.spill.FAILED_PAUSE", 0)
        await task.turn()
    os.close(task.chain.spool._file)
    task.chain.spool._file = kept
    assert len(said) == 1
    assert "Bad file descriptor" in said[0]
    assert task.chain.spool.records == waiting - taken.records
    assert intake.losses == {"spill_failed": 10}
    assert intake.books().imbalance == 0
    await task.close()
