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
from audisp.remote.books import unread
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
    await intake.begin(outbox)
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


async def test_what_was_read_and_not_stored_when_the_process_was_killed_is_counted_and_told(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for first in (1, 11):
            await here.intake.send(block(first, 10))
        await here.until(lambda: here.intake.accepted == 20)
        with trio.CancelScope() as scope:
            # No checkpoint from here on, so that nothing of it can be stored.
            for first in range(21, 51, 10):
                await here.intake.send(block(first, 10))
            scope.cancel()
            # As kill -9 does it: what is at hand is gone, and so are the tasks.
            here.intake._hand.clear()
        stored = await here.taken()
    for _ in range(2):
        async with world(tmp_path) as here:
            assert here.intake.lost == 30
            await here.intake.send(block(51, 1))
            await here.until(lambda: here.intake.accepted == 1)
            stored += await here.taken()
    told = [(int(found[1]), found[4]) for found in MARKER.finditer(stored)]
    assert told == [(30, b"crash")]
    assert numbers_in(stored) == [*range(1, 21), 51, 51]


async def test_what_is_dropped_told_or_taken_over_is_not_counted_as_lost_by_a_kill(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await fill(here)
        before = here.intake.lost
        await here.taken()
        await here.intake.send(block(1, 1))
        await here.until(lambda: not here.intake.waiting)
    async with world(tmp_path) as here:
        assert here.intake.lost == before
        books = unread(here.outbox.stream.books, 7)
        await here.outbox.accept([block(1, 7)], books, sync=True)
    async with world(tmp_path) as here:
        assert here.intake.lost == before
    (tmp_path / "spool" / "read").unlink()
    async with world(tmp_path) as here:
        # As after a power failure: what is not known is not said.
        assert here.intake.lost == before


async def test_a_new_spool_counts_from_its_first_record(tmp_path: Path) -> None:
    outbox = await Outbox.opened(tmp_path / "spool", 400_000, 0, lambda text: None)
    intake = Intake(conf(), Notices(conf(), Voice(fd=2, threshold="alert"), Brake()), patient=False)
    await intake.send(block(1, 3))
    await intake.begin(outbox)
    await intake.send(block(4, 2))
    await outbox.close()
    async with world(tmp_path) as here:
        assert here.intake.lost == 5
