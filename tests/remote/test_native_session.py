"""Where a session begins: behind what a collector has, and never behind what is only on its way to the disk. A
collector whose place in the stream is another stream's gets nothing, and nothing is given up for it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from audisp.config.network import Endpoint
from audisp.dispatch.say import Voice
from audisp.remote.actions import Brake, Notices
from audisp.remote.connect import Link, Stream
from audisp.remote.native_session import NativeSession
from audisp.remote.outbox import Outbox
from audisp.remote.session import Watch
from audisp.wire.native import Position, Welcome
from tests.remote.test_intake import conf
from tests.remote.test_spool import block


@pytest.mark.parametrize("place", [30, 49, 50, 51, 55, 59, 60, 61])
async def test_a_foreign_hash_is_seen_also_at_the_end_that_is_not_synced(tmp_path: Path, place: int) -> None:
    """As when a spool was set back: the collector stands in, at or behind what was stored a moment ago."""
    outbox = await Outbox.opened(tmp_path / "spool", 4_000_000, 0, lambda text: None)
    for first in range(1, 50, 7):
        await outbox.accept([block(first, 7)], {}, sync=True)
    await outbox.accept([block(50, 5)], {}, sync=False)
    await outbox.accept([block(55, 5)], {}, sync=False)
    before = outbox.stream.records
    assert (outbox.stream.synced, outbox.stream.next_record) == (50, 60)

    ours, theirs = trio.testing.memory_stream_pair()
    watch = Watch("collector", Notices(conf(), Voice(fd=2, threshold="alert"), Brake()))
    session = NativeSession(Link(Endpoint("collector", 60), cast(Stream, ours), True, "peer"), outbox, watch)
    async with trio.open_nursery() as nursery:

        async def collect() -> None:
            await theirs.receive_some()
            await theirs.send_all(Welcome(outbox.stream.spool_id, Position(place, b"f" * 32)).encode())
            await trio.sleep_forever()

        nursery.start_soon(collect)
        with trio.fail_after(10):
            ended = await session.run()
        nursery.cancel_scope.cancel()
    assert ended.how == "refused", ended
    assert (outbox.stream.records, outbox.sent) == (before, 0)
    await outbox.close()


async def test_what_is_not_synced_yet_when_the_session_begins_is_still_to_be_sent(tmp_path: Path) -> None:
    outbox = await Outbox.opened(tmp_path / "spool", 4_000_000, 0, lambda text: None)
    await outbox.accept([block(1, 5)], {}, sync=False)
    assert (outbox.stream.synced, outbox.stream.next_record) == (1, 6)

    ours, theirs = trio.testing.memory_stream_pair()
    watch = Watch("collector", Notices(conf(), Voice(fd=2, threshold="alert"), Brake()))
    session = NativeSession(Link(Endpoint("collector", 60), cast(Stream, ours), True, "peer"), outbox, watch)
    came = b""
    async with trio.open_nursery() as nursery:

        async def collect() -> None:
            nonlocal came
            await theirs.receive_some()
            await theirs.send_all(Welcome(outbox.stream.spool_id, None).encode())
            await outbox.sync()
            came = bytes(await theirs.receive_some())
            await theirs.aclose()

        nursery.start_soon(collect)
        with trio.fail_after(10):
            ended = await session.run()
        nursery.cancel_scope.cancel()
    assert "is next" not in ended.text
    assert len(came) > 100
    await outbox.close()
