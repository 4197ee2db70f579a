"""What is done about the room on the disk, and about records that are too old or too many."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from audisp.collector import retention
from audisp.collector.store import Policy
from audisp.collector.upkeep import MIB, Upkeep, bytes_of, policy_of
from audisp.config.collector import CollectorConf
from audisp.config.values import Action
from audisp.dispatch.actions import Actions
from audisp.dispatch.say import Voice
from audisp.wire.native import Trouble
from tests.collector.running import NativeClient, Running, connect, running
from tests.collector.stores import Host
from tests.wire.streams import chain

HUGE = (1 << 40, "MiB")
"""More than any disk has."""


def upkeep(server: Running, tmp_path: Path, **conf: Any) -> Upkeep:
    settings: dict[str, Any] = {
        "store_dir": tmp_path / "store",
        "space_left": (0, "MiB"),
        "admin_space_left": (0, "MiB"),
        **conf,
    }

    def say(level: str, message: str, *, limit: str | None = None) -> None:
        server.said.append((level, message, limit))

    actions = Actions(Voice("stderr", "test", threshold="alert"))
    return Upkeep(CollectorConf(**settings), server.committer, actions, say)


def trouble(server: Running) -> Trouble | None:
    return server.committer.trouble


async def test_little_room_is_told_and_acted_upon_once(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        care = upkeep(server, tmp_path, space_left=HUGE, space_left_action=Action("suspend"))
        async with NativeClient(await connect(server.port, "web1"), chain(3)) as client:
            await client.send_all()
            await care.look()
            assert trouble(server) is Trouble.SUSPENDED
            await client.until(lambda: client.troubles)
            care.actions.resume()
            care.conf = attrs.evolve(care.conf, space_left_action=Action("syslog"))
            await care.look()
            assert trouble(server) is Trouble.DISK_LOW
            care.conf = attrs.evolve(care.conf, space_left=(0, "MiB"))
            await care.look()
            assert trouble(server) is None
            await client.until(lambda: len(client.troubles) >= 3)
            said = [each.trouble for each in client.troubles]
            assert said == [Trouble.SUSPENDED, Trouble.DISK_LOW, None]
        assert len(server.lines("which is enough")) == 1


async def test_the_worse_of_two_bounds_counts(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        care = upkeep(
            server, tmp_path, space_left=HUGE, admin_space_left=(100, "%"), admin_space_left_action=Action("rotate")
        )
        await care.look()
        assert server.lines("less than admin_space_left")
        assert server.lines("nothing can be removed")


async def test_a_full_disk_is_acted_upon(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        care = upkeep(server, tmp_path, disk_full_action=Action("suspend"))
        server.full(True)
        async with NativeClient(await connect(server.port, "web1"), chain(3)) as client:
            await client.until(lambda: client.troubles)
            await care.look()
            assert trouble(server) is Trouble.SUSPENDED


def filled(server: Running, segments: int, host: str = "web1") -> None:
    """Put segments into the store, without the network."""
    sender, now = Host(host), time.time_ns()
    for n in range(segments):
        for _ in range(4):
            assert server.store.append(sender.item(20, now=now - (segments - n) * 10**9, size=400))
            server.store.commit()


class Tiny(Policy):
    """Segments of a few frames."""

    @property
    def segment_bytes(self) -> int:
        return 8_000


async def test_rotate_removes_the_oldest(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        server.store.bound(Tiny(), 0, 100)
        filled(server, 4)
        before = len(server.records())
        care = upkeep(server, tmp_path, space_left=HUGE, space_left_action=Action("rotate"))
        await care.look()
        after = server.records()
        assert 0 < len(after) < before
        assert server.lines("room was made")


@pytest.mark.parametrize("bound", [Tiny(max_bytes=60_000), Tiny(max_host_bytes=40_000)])
async def test_retention_keeps_to_its_bound(tmp_path: Path, bound: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audisp.collector.upkeep.policy_of", lambda conf: bound)
    assert retention.SHARE > 1
    async with running(tmp_path / "c") as server:
        server.store.bound(Tiny(), 0, 100)
        filled(server, 12)
        before = server.store.size
        server.store.bound(bound, 0, 100)
        care = upkeep(server, tmp_path)
        for _ in range(10):
            await care.retain()
        assert server.store.size < before
        assert server.store.size <= 80_000
        assert server.records()


def test_spaces_and_policy() -> None:
    assert bytes_of((10, "%"), 1_000) == 100
    assert bytes_of((3, "MiB"), 1_000) == 3 * MIB
    conf = CollectorConf(store_size=1 << 30, store_size_per_host=1 << 28, store_age=86_400)
    assert policy_of(conf) == Policy(1 << 30, 1 << 28, 86_400)
