"""The plugin `remote` between the dispatcher's queue and the spool: stored once, or offered again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from audisp.dispatch.say import Voice
from audisp.errors import StoreError
from audisp.plugin import Retry
from audisp.remote import inside
from audisp.remote.actions import Brake, Notices
from audisp.remote.books import NAME
from audisp.remote.inside import Inside
from audisp.remote.outbox import Outbox
from audisp.remote.places import KEY
from tests.dispatch.intakes import block
from tests.e2e.remotes import numbers_in
from tests.remote.test_intake import MARKER, conf
from tests.remote.test_places import placed
from tests.remote.test_spool import heavy


@asynccontextmanager
async def opened(folder: Path, max_bytes: int = 400_000, **keys: str) -> AsyncIterator[tuple[Inside, Outbox]]:
    outbox = await Outbox.opened(folder / "spool", max_bytes, 0, lambda text: None)
    notices = Notices(conf(**keys), Voice(fd=2, threshold="alert"), Brake())
    try:
        yield Inside(conf(**keys), outbox, notices, "remote"), outbox
    finally:
        await outbox.close()


async def waiting(outbox: Outbox) -> bytes:
    """All that waits; it is settled."""
    found = b""
    while (front := await outbox.front()) is not None:
        number, data = front
        found += data
        await outbox.settle(number + data.count(b"\n"))
    return found


async def test_a_block_that_comes_again_is_stored_once_over_any_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(placed(1, 10))
        await one.deliver(placed(6, 10))
        assert (one.accepted, one.known, outbox.stream.records) == (15, 5, 15)
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(placed(1, 15))
        await one.deliver(placed(14, 4))
        assert (one.accepted, one.known, outbox.stream.records) == (2, 17, 17)
        assert await waiting(outbox) == block(1, 17).data
    # All frames are gone now; what they said is kept.
    assert [each.name for each in (tmp_path / "spool").glob("*.seg")] == []
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(placed(10, 9))
        assert (one.accepted, one.known) == (1, 8)
        assert await waiting(outbox) == block(18, 1).data


async def test_kept_books_that_are_torn_are_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(placed(1, 10))
        await waiting(outbox)
    kept = tmp_path / "spool" / NAME
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(kept.read_bytes()[:-1])
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(placed(1, 10))
        assert (one.accepted, one.known) == (10, 0)


async def test_a_full_spool_makes_the_queue_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "ROOM_SECONDS", 0.05)
    async with opened(tmp_path) as (one, outbox):
        stored = 0
        with pytest.raises(Retry, match="is full"):  # noqa: PT012 - it fills until it is
            for first in range(1, 1000, 10):
                await one.deliver(heavy(first, 10))
                stored += 10
        assert stored == one.accepted == outbox.stream.records
        assert stored > 20
        again = heavy(stored + 1, 10)
        async with trio.open_nursery() as nursery:

            async def deliver() -> None:
                while True:
                    try:
                        return await one.deliver(again)
                    except Retry:
                        pass

            nursery.start_soon(deliver)
            found = await waiting(outbox)
        found += await waiting(outbox)
        assert numbers_in(found) == list(range(1, stored + 11))
        assert one.lost == 0


async def test_drop_oldest_gives_up_what_waits_in_the_spool_and_tells(tmp_path: Path) -> None:
    async with opened(tmp_path, overflow_action="drop_oldest") as (one, outbox):
        for first in range(1, 3000, 10):
            await one.deliver(heavy(first, 10))
        data = await waiting(outbox)
        numbers = numbers_in(data)
        told = sum(int(found[1]) for found in MARKER.finditer(data.replace(b"plugin=remote", b"plugin=audisp-remote")))
        # What is given up has markers of earlier losses in it, which are records, too.
        assert 0 <= one.lost - (3000 - len(numbers)) < 30
        assert numbers == list(range(3001 - len(numbers), 3001))
        # Of a loss whose marker was lost in the next one, that one tells.
        assert 0 < told <= one.lost


async def test_what_can_wait_is_never_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "ROOM_SECONDS", 0.05)
    async with opened(tmp_path, max_bytes=100_000, overflow_action="drop_oldest") as (one, _):
        with pytest.raises(Retry):  # noqa: PT012 - it fills until there is no room
            for first in range(1, 100_000, 100):
                made = placed(first, 100)
                made.data = made.data.replace(b"x" * 8, os.urandom(4).hex().encode())
                await one.deliver(made)
        assert one.lost == 0


@pytest.mark.parametrize("fails", ["append", "sync"])
async def test_a_disk_that_fails_doubles_nothing_though_the_delivery_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(inside, "REOPEN_SECONDS", 0.05)
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(block(1, 5))
        stream = outbox.stream
        done = getattr(stream, fails)

        def fail(*given: object) -> object:
            monkeypatch.setattr(stream, fails, done)
            if fails == "sync":
                stream._failed = "syncing failed"
            raise StoreError("the disk fails")

        monkeypatch.setattr(stream, fails, fail)
        again = block(6, 5)
        with trio.move_on_after(0.01) as scope:
            await one.deliver(again)
        assert scope.cancelled_caught
        assert str(one.error) == "the disk fails"
        await one.deliver(again)
        await one.deliver(block(11, 2))
        assert one.accepted == 12
        assert await waiting(outbox) == block(1, 12).data


async def test_the_places_are_in_the_frame_of_the_records(tmp_path: Path) -> None:
    async with opened(tmp_path) as (one, outbox):
        await one.deliver(placed(1, 10))
        await one.deliver(block(1, 1, source="netlink"))
        assert outbox.stream.books[KEY] == {"follow:/a": [b"stretch1", 10]}
        assert outbox.stream.books["lost"] == 0
