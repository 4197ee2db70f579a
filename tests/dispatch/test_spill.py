"""Spilling: memory, then disk, and back, each record once and in order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from audisp.buffer.queue import BlockQueue, Gap
from audisp.dispatch.intake import Intake
from audisp.dispatch.spill import SpillTask, open_spill
from audisp.record import Block
from tests.dispatch.intakes import Bench, make_intake
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
    assert not await task.turn()
    os.close(task.chain.spool._file)
    task.chain.spool._file = kept
    assert len(said) == 1
    assert "Bad file descriptor" in said[0]
    assert task.chain.spool.records == waiting - taken.records
    assert intake.losses == {}
    assert intake.staged_records == 10
    assert intake.books().imbalance == 0
    # Nothing more is stored, and yet all is delivered: what is staged follows from memory.
    assert (await drain(task))[-10:] == list(range(end, end + 10))
    assert intake.books().waiting == 0
    await task.close()


# What is told to `say` of a full or broken disk is looked at elsewhere.
def quiet(level: str, message: str, *, limit: str | None = None) -> None:
    pass


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 8), st.sampled_from([60, 150, 700]), st.booleans()),
        st.tuples(st.just("offer"), st.integers(1, 40), st.sampled_from([60, 700]), st.just(False)),
        st.tuples(st.sampled_from(["take", "take", "acknowledge", "acknowledge", "give_back", "turn", "turn"])),
        st.tuples(st.sampled_from(["restart", "full", "free", "ready", "suspend", "resume"])),
    ),
    max_size=60,
)


async def settle(bench: Bench, task: SpillTask) -> None:
    """Deliver everything, wherever it is."""
    bench.intake.resume()
    task.chain.bound(64 * MIB, 0)
    for _ in range(400):
        bench.drain()
        await task.turn()
        bench.check()
        if bench.intake.idle() and bench.rest is None:
            return
    raise AssertionError("never idle")


async def play(steps: list[tuple[Any, ...]], max_bytes: int, folder: Path) -> None:
    bench = Bench(make_intake(max_bytes, "spill"))
    task = await open_spill(bench.intake, folder, max_bytes=64 * MIB, min_free=0, say=quiet)
    delivered = offered = 0
    for step in steps:
        match step:
            case ("offer", count, size, wait):
                bench.offer(count, size, wait)
            case ("take",):
                bench.take()
            case ("acknowledge",):
                bench.acknowledge()
            case ("give_back",):
                bench.give_back()
            case ("turn",):
                await task.turn()
            case ("full",):
                task.chain.bound(0, 0)
            case ("free",):
                task.chain.bound(64 * MIB, 0)
            case ("ready",):
                bench.ready = not bench.take()
            case ("suspend",):
                bench.intake.suspend("suspended")
            case ("resume",):
                bench.intake.resume()
            case ("restart",) if bench.rest is None:
                # As a clean end does: what was in flight is given back, what waits goes to disk.
                bench.give_back()
                task.chain.bound(64 * MIB, 0)
                await task.close()
                bench.check()
                assert not bench.intake.queue
                assert not bench.intake.staged
                delivered += bench.intake.delivered
                offered += bench.intake.offered - bench.intake.dropped
                waiting = bench.intake.disk
                bench.intake = make_intake(max_bytes, "spill")
                bench = Bench(bench.intake, bench.stream, bench.serial)
                task = await open_spill(bench.intake, folder, max_bytes=64 * MIB, min_free=0, say=quiet)
                assert bench.intake.disk == waiting
        bench.check()
    await settle(bench, task)
    assert bench.stream.next == bench.serial + 1
    assert bench.intake.disk == 0
    await task.turn()
    assert task.chain.records == 0
    assert delivered + bench.intake.delivered >= offered + bench.intake.offered - bench.intake.dropped
    await task.close()


@settings(max_examples=60)
@given(steps=STEPS, max_bytes=st.sampled_from([1, 500, 3000, 20_000]))
def test_order_and_books_hold_over_memory_disk_and_restarts(steps: list[tuple[Any, ...]], max_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        trio.run(play, steps, max_bytes, Path(folder) / "spool")


async def test_a_full_disk_drops_what_comes_and_still_gives_back_what_it_holds(spool_folder: Path) -> None:
    bench = Bench(make_intake(20_000, "spill"))
    task = await open_spill(bench.intake, spool_folder, max_bytes=64 * MIB, min_free=0, say=quiet)
    for _ in range(20):
        bench.offer(10, 700, False)
        await task.turn()
    assert bench.intake.disk
    task.chain.bound(0, 0)
    for _ in range(20):
        bench.offer(10, 700, False)
        await task.turn()
    assert bench.intake.losses["spill_full"] > 0
    assert bench.intake.staged
    await settle(bench, task)
    assert bench.stream.next == bench.serial + 1
    assert bench.stream.markers == 1
    await task.close()


async def test_the_task_ends_when_it_is_closed(spool_folder: Path) -> None:
    bench = Bench(make_intake(20_000, "spill"))
    async with trio.open_nursery() as nursery:
        task = await open_spill(bench.intake, spool_folder, max_bytes=64 * MIB, min_free=0, say=quiet)
        nursery.start_soon(task.run)
        for _ in range(50):
            bench.offer(10, 700, False)
            await trio.sleep(0.001)
        await task.close()
    bench.check()
    books = bench.intake.books()
    assert bench.intake.disk == books.waiting == books.offered + books.carried - books.dropped


async def test_a_slow_reader_gets_back_to_memory(spool_folder: Path) -> None:
    """A plugin that keeps up again is fed from memory, though records keep coming."""
    bench = Bench(make_intake(20_000, "spill"))
    async with trio.open_nursery() as nursery:
        task = await open_spill(bench.intake, spool_folder, max_bytes=64 * MIB, min_free=0, say=quiet)
        nursery.start_soon(task.run)
        for _ in range(50):
            bench.offer(10, 700, False)
        with trio.fail_after(20):
            while bench.intake.spilling:
                bench.offer(1, 60, False)
                while bench.take(50_000):
                    bench.acknowledge()
                await trio.sleep(0.005)
        await task.close()
    bench.check()


def damage(folder: Path) -> None:
    file = sorted(folder.glob("*.seg"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


async def test_what_is_damaged_on_disk_is_told(spool_folder: Path) -> None:
    bench = Bench(make_intake(2000, "spill"))
    task = await open_spill(bench.intake, spool_folder, max_bytes=64 * MIB, min_free=0, say=quiet)
    for _ in range(6):
        bench.offer(40, 700, False)
        await task.turn()
    await task.close()
    stored = bench.intake.disk
    damage(spool_folder)
    intake = make_intake(2000, "spill")
    task = await open_spill(intake, spool_folder, max_bytes=64 * MIB, min_free=0, say=quiet)
    got = b""
    for _ in range(50):
        with intake.lock:
            taken = intake.take(10_000)
            if taken is not None:
                got += taken.data
                intake.acknowledge(taken.records - taken.own, taken.own, taken.arrived, taken.spooled)
        await task.turn()
        assert intake.books().imbalance == 0
    assert b"reason=spill_damaged" in got
    assert got.count(b"type=SYSCALL") < stored
    assert intake.idle()
    await task.close()
