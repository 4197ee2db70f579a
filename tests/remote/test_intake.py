"""Into the spool: what finds it full is dropped by policy, counted, and told in the stream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from audisp.config.remote import RemoteConf, read
from audisp.dispatch.say import Voice
from audisp.errors import StoreError
from audisp.record import Block
from audisp.remote.actions import Brake, Notices
from audisp.remote.intake import BLOCK_COST, HAND_BYTES, Intake
from audisp.remote.outbox import Outbox
from tests.e2e.remotes import numbers_in
from tests.remote.test_spool import block, heavy

MARKER: Final = re.compile(rb"op=lost plugin=audisp-remote count=(\d+) first=(\d+|\?) last=(\d+|\?) reason=([\w-]+)")


@attrs.define(eq=False)
class World:
    intake: Intake
    outbox: Outbox
    notices: Notices
    brake: Brake

    async def until(self, what: Callable[[], object]) -> None:
        with trio.fail_after(30):
            while not what():  # noqa: ASYNC110 - a thread works at it
                await trio.sleep(0.005)

    async def taken(self) -> bytes:
        """All that waits, settled as it is read."""
        found = b""
        while (front := await self.outbox.front()) is not None:
            number, data = front
            found += data
            await self.outbox.settle(number + data.count(b"\n"))
        return found


def conf(**keys: str) -> RemoteConf:
    text = "".join(f"{key} = {value}\n" for key, value in {"remote_server": "127.0.0.1", **keys}.items())
    return read(text.encode(), Path("conf"))[0]


@asynccontextmanager
async def world(folder: Path, *, patient: bool = False, max_bytes: int = 400_000, **keys: str) -> AsyncIterator[World]:
    outbox = await Outbox.opened(folder / "spool", max_bytes, 0, lambda text: None)
    brake = Brake()
    voice = Voice(fd=2, threshold="alert")
    notices = Notices(conf(**keys), voice, brake)
    intake = Intake(conf(**keys), notices, patient=patient)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.run, outbox)
        yield World(intake, outbox, notices, brake)
        nursery.cancel_scope.cancel()
    await outbox.close()


async def fill(here: World) -> int:
    """Send heavy records until some are dropped; how many were sent."""
    number = 1
    while not here.intake.lost:
        await here.intake.send(heavy(number, 50))
        number += 50
        await here.until(lambda: not here.intake.waiting)
    return number - 1


async def test_the_newest_are_dropped_and_told(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        count = await fill(here)
        assert here.intake.accepted + here.intake.lost == count
        assert here.notices.counts == {"overflow": 1}
        lost = here.intake.lost
        stored = await here.taken()
        await here.intake.send(block(count + 1, 1))
        while count + 1 not in numbers_in(stored):
            await here.until(lambda: here.outbox.stream.records)
            stored += await here.taken()
        assert numbers_in(stored) == [*range(1, count - lost + 1), count + 1]
        # It stands where the records are missing: before what came after them.
        found = MARKER.search(stored)
        assert found is not None
        assert [int(found[n]) for n in (1, 2, 3)] == [lost, count - lost + 1, count]
        assert found[4] == b"spool-full"
        assert numbers_in(stored[: found.start()]) == list(range(1, count - lost + 1))


async def test_the_oldest_are_dropped_and_told(tmp_path: Path) -> None:
    async with world(tmp_path, overflow_action="drop_oldest") as here:
        count = await fill(here)
        lost = here.intake.lost
        assert here.intake.accepted == count
        found = await here.taken()
        assert numbers_in(found) == list(range(lost + 1, count + 1))
        assert MARKER.search(found) is not None
        assert here.outbox.stream.dropped_upto == lost + 1


async def test_what_was_lost_is_known_to_the_next_process(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await fill(here)
        lost = here.intake.lost
        await here.taken()
        await here.until(lambda: not here.intake.waiting)
        await here.intake.send(block(1, 1))
        await here.until(lambda: here.outbox.stream.records)
    async with world(tmp_path) as here:
        await here.until(lambda: here.intake.lost)
        assert here.intake.lost == lost


async def test_a_file_as_input_waits_for_room(tmp_path: Path) -> None:
    async with world(tmp_path, patient=True) as here:
        total = 0

        async def feed() -> None:
            nonlocal total
            for number in range(1, 4_001, 50):
                await here.intake.send(heavy(number, 50))
                total += 50
            here.intake.close()

        found = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            with trio.fail_after(60):
                while len(numbers_in(found)) < 4_000:
                    found += await here.taken()
                    await trio.sleep(0.01)
        assert numbers_in(found) == list(range(1, 4_001))
        assert (here.intake.lost, here.notices.counts) == (0, {})


async def test_suspend_as_overflow_action_puts_on_the_brake(tmp_path: Path) -> None:
    async with world(tmp_path, overflow_action="suspend") as here:
        await fill(here)
        assert here.brake.suspended
        assert here.notices.resume()
        assert not here.brake.holds


async def test_interval_syncs_by_timer(tmp_path: Path) -> None:
    async with world(tmp_path, spool_sync="interval", spool_sync_interval="0.05") as here:
        await here.intake.send(block(1, 1))
        await here.until(lambda: here.outbox.stream.synced == 2)
        assert await here.outbox.front() is not None


async def test_a_spool_that_fails_is_opened_anew_and_nothing_is_lost(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.intake.send(block(1, 10))
        await here.until(lambda: here.outbox.stream.records == 10)
        # What fdatasync failing leaves behind, without a disk that breaks.
        here.outbox.stream._failed = "as after a failed sync"
        await here.intake.send(block(11, 10))
        await here.until(lambda: here.intake.error)
        await here.intake.send(block(21, 10))
        await here.until(lambda: here.outbox.stream.records == 30)
        await here.until(lambda: here.intake.error is None)
        assert here.notices.counts == {"queue_error": 1}
        assert numbers_in(await here.taken()) == list(range(1, 31))


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    now = 0.0
    notices = Notices(conf(), Voice(fd=2, threshold="alert"), Brake())
    intake = Intake(conf(), notices, patient=False, clock=lambda: now)
    each = heavy(1, 500)
    # Nobody stores: a disk that hangs.
    for _ in range(HAND_BYTES // (len(each.data) + BLOCK_COST)):
        await intake.send(each)
    now = 6.0
    waiting = intake.waiting
    for _ in range(10):
        await intake.send(each)
    assert intake.waiting - waiting <= 500
    assert intake.lost >= 4_500
    assert notices.counts["overflow"] >= 9


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_lost_while_a_marker_is_stored_is_told_by_the_next(tmp_path: Path, fails: bool) -> None:
    """A slow disk: what is lost while it has a loss's marker is another loss, whether that marker is stored or not."""
    now = 0.0
    outbox = await Outbox.opened(tmp_path / "spool", 4_000_000, 0, lambda text: None)
    intake = Intake(conf(), Notices(conf(), Voice(fd=2, threshold="alert"), Brake()), patient=False, clock=lambda: now)
    each = heavy(1, 500)
    for _ in range(HAND_BYTES // (len(each.data) + BLOCK_COST)):
        await intake.send(each)
    now = 6.0
    await intake.send(each)
    assert intake.lost == 500
    accept, late = outbox.accept, 0

    async def slowly(blocks: Sequence[Block], books: Mapping[str, Any], *, sync: bool) -> int:
        nonlocal late, now
        if late < 2:
            late += 1
            now += 6.0
            await intake.send(each)
            if fails and late == 1:
                raise StoreError("the disk does not answer")
        return await accept(blocks, books, sync=sync)

    outbox.accept = slowly  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.run, outbox)
        with trio.fail_after(60):
            while intake.waiting or late < 2:  # noqa: ASYNC110 - a thread works at it
                await trio.sleep(0.005)
        intake.close()
    found = b""
    while (front := await outbox.front()) is not None:
        number, data = front
        found += data
        await outbox.settle(number + data.count(b"\n"))
    assert sum(int(count) for count, *_ in MARKER.findall(found)) == intake.lost >= 1_000
    await outbox.close()


async def test_outboxes_wait_for_each_other(tmp_path: Path) -> None:
    said: list[str] = []
    first = await Outbox.opened(tmp_path / "spool", 400_000, 0, said.append)
    opened: list[Outbox] = []

    async def second() -> None:
        opened.append(await Outbox.opened(tmp_path / "spool", 400_000, 0, said.append))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        while not said:  # noqa: ASYNC110 - it tries again by itself
            await trio.sleep(0.01)
        assert "in use by process" in said[0]
        assert not opened
        await first.close()
    await opened[0].close()
