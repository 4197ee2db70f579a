"""Old segments that cannot be used, and no room to write others anew: neither ends the collector."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from audisp.collector import retention
from audisp.collector.retention import Policy
from audisp.collector.store import DiskTrouble, Store
from audisp.collector.upkeep import Upkeep
from audisp.config.collector import CollectorConf
from audisp.config.values import Action
from audisp.dispatch.actions import Actions
from audisp.dispatch.say import Voice
from audisp.errors import StoreError
from audisp.wire.native import Trouble
from tests.collector.running import NativeClient, Running, connect, running, until
from tests.collector.stores import NANO, SECOND, Host, Tiny, put, segments, serials
from tests.wire.streams import chain

HUGE = (1 << 40, "MiB")
BOUND = 40_000
ALL = Tiny(max_bytes=BOUND)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def readable_by_others(file: Path) -> None:
    file.chmod(0o644)


def second_name(file: Path) -> None:
    os.link(file, file.with_name("other"))


def bad_header(file: Path) -> None:
    file.write_bytes(b"\0" * 64 + file.read_bytes()[64:])


SPOILED = pytest.mark.parametrize("spoil", [readable_by_others, second_name, bad_header])


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups as small as these segments: else no group fits under such a bound."""
    monkeypatch.setattr("audisp.collector.store.GROUP_BYTES", 4_000)


def fill(store: Store, *hosts: Host, now: int = SECOND * NANO, most: int = BOUND - 15_000) -> None:
    while store.size < most:
        put(store, *(host.item(3, size=230, now=now) for host in hosts))


@SPOILED
def test_one_bad_segment_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    small(monkeypatch)
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        fill(store, host)
        file = segments(folder)[0]
        for index in folder.glob("*.idx"):
            index.unlink()
        spoil(file)
        before = file.read_bytes()
        store.bound(ALL, 0, 100)
        for _ in range(60):
            put(store, host.item(3, size=230))
            assert store.size <= BOUND
        assert [each.name for each in store.unusable] == [file.name]
        assert store.unusable[0].unusable
        assert file.read_bytes() == before
        assert store.trouble is None
        store.bound(ALL, 0, 100)
        # Somebody may have mended it.
        assert store.unusable == []
    if spoil is readable_by_others:
        file.chmod(0o600)
        with Store(folder, policy=Tiny(max_age=3600)) as store:
            store.retain((SECOND + 7200) * NANO)
            assert not file.exists()


def test_one_that_gives_an_error_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    host = Host("one")
    with Store(folder, policy=Tiny()) as store:
        fill(store, host)
        file = segments(folder)[0]
        (folder / f"{file.stem}.idx").unlink()
        inode, pread = file.stat().st_ino, os.pread

        def broken(descriptor: int, size: int, offset: int) -> bytes:
            if os.fstat(descriptor).st_ino == inode:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pread(descriptor, size, offset)

        monkeypatch.setattr(os, "pread", broken)
        store.bound(ALL, 0, 100)
        for _ in range(30):
            put(store, host.item(3, size=230))
        assert [each.name for each in store.unusable] == [file.name]
        assert file.exists()


def test_a_lack_of_descriptors_is_no_fault_of_a_segment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(folder, policy=Tiny()) as store:
        fill(store, Host("one"))
        for index in folder.glob("*.idx"):
            index.unlink()

        def none_left(*_: Any) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        store.bound(Tiny(max_age=1), 0, 100)
        for segment in store.census().segments:
            segment.newest = None
        monkeypatch.setattr("audisp.collector.store_files.open_file", none_left)
        with pytest.raises(StoreError, match="open files"):
            store.retain((SECOND + 60) * NANO)
        assert store.unusable == []


@SPOILED
def test_by_age_the_others_go(folder: Path, spoil: Callable[[Path], None]) -> None:
    with Store(folder, policy=Tiny()) as store:
        fill(store, Host("one"))
        first, second, *_ = segments(folder)
        store.bound(Tiny(max_age=3600), 0, 100)
        # That of one is known to be old, of the other nothing is.
        store.census().segments[0].newest = None
        spoil(first)
        readable_by_others(second)
        for _ in range(2):
            store.retain((SECOND + 7200) * NANO)
        assert [each.name for each in store.unusable] == [first.name, second.name]
        assert segments(folder)[:2] == [first, second]
        assert len(segments(folder)) <= 3


def interleaved(store: Store, hog: Host, one: Host) -> None:
    """So that room is made by writing segments anew."""
    while store.size < 30_000:
        put(store, hog.item(3, size=230), hog.item(3, size=230), one.item(1, size=100))


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Only what is written anew goes through this.
    monkeypatch.setattr(retention._Copy, "_flush", full)


def test_no_room_to_write_a_segment_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    hog, one = Host("hog"), Host("one")
    with Store(folder, policy=Tiny()) as store:
        interleaved(store, hog, one)
        store.bound(ALL, 0, 100)
        item = one.item()
        with monkeypatch.context() as disk:
            no_room(disk)
            while store.size < BOUND - 14_000:
                put(store, item)
                item = one.item()
            with pytest.raises(DiskTrouble, match="No space left") as caught:
                store.append(item)
        assert caught.value.trouble is Trouble.DISK_FULL
        assert store.trouble is caught.value
        assert not list(folder.glob("*.new"))
        assert store.probe() is None
        put(store, item)
    assert serials(folder, "one")[-1] == one.at.next - 1


async def test_the_collector_goes_on_after_any_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audisp.collector.committer.RETRY_SECONDS", 0.01)
    async with running(tmp_path / "c") as server:
        append, left = server.store.append, [3]

        def broken(item: Any) -> bool:
            # Once something of the group is appended already: nothing of it may be there twice.
            done = append(item)
            left[0] -= 1
            if left[0] >= 0:
                raise StoreError("an old file is odd")
            return done

        monkeypatch.setattr(server.store, "append", broken)
        async with NativeClient(await connect(server.port, "web1"), chain(3)) as client:
            await client.send_all()
            assert Trouble.DISK_ERROR in [each.trouble for each in client.troubles]
        assert server.lines("an old file is odd")
        records = server.records()
        assert len(records) == len(set(records)) > 0


async def test_a_disk_is_tried_again_though_nothing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audisp.collector.committer.RETRY_SECONDS", 0.01)
    async with running(tmp_path / "c") as server:
        server.full(True)
        async with NativeClient(await connect(server.port, "web1"), chain(3)) as client:
            await client.until(lambda: client.troubles)
        await until(lambda: not server.committer.accounts and not server.committer.waiting)
        # A try that is under way would find the room, too.
        await trio.sleep(0.1)
        server.full(False)
        await until(lambda: server.committer.trouble is None)


def upkeep(server: Running, **conf: Any) -> Upkeep:
    settings: dict[str, Any] = {"space_left": (0, "MiB"), "admin_space_left": (0, "MiB"), **conf}

    def say(level: str, message: str, *, limit: str | None = None) -> None:
        server.said.append((level, message, limit))

    return Upkeep(CollectorConf(**settings), server.committer, Actions(Voice("stderr", "test", threshold="alert")), say)


async def test_the_disk_is_looked_at_though_retention_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "c") as server:
        care = upkeep(server, space_left=HUGE)

        def broken(now: int) -> bool:
            raise StoreError("no retention today")

        monkeypatch.setattr(server.store, "due", broken)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(care.run)
            await until(lambda: server.committer.trouble is Trouble.DISK_LOW)
            nursery.cancel_scope.cancel()
        assert server.lines("no retention today")


def filled(server: Running) -> None:
    server.store.bound(Tiny(), 0, 100)
    fill(server.store, Host("web1"), now=time.time_ns())


async def test_an_unusable_segment_is_named_once(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        filled(server)
        first = segments(server.store.path)[0]
        first.chmod(0o644)
        care = upkeep(server, space_left=HUGE, space_left_action=Action("rotate"))
        for _ in range(3):
            await care.look()
            care._say_unusable()
        assert first.exists()
        (line,) = server.lines("retention passes over")
        assert first.name in line
        assert "mode 0644" in line
        assert "1 such" in line
        assert not server.lines(f"{first.name} was removed")
        assert len(server.lines("room was made")) == 3


@pytest.mark.parametrize("name", ["space_left", "admin_space_left"])
async def test_rotate_goes_on_while_there_is_little_room(tmp_path: Path, name: str) -> None:
    async with running(tmp_path / "c") as server:
        filled(server)
        care = upkeep(server, **{name: HUGE, f"{name}_action": Action("rotate")})
        sealed = len(server.store.census().segments)
        assert sealed > 3
        for looks in range(1, sealed + 3):
            await care.look()
            assert len(server.store.census().segments) == max(0, sealed - looks)
        assert len(server.lines("less than")) == 1
        assert not server.lines("nothing can be removed")


async def test_rotate_ends_when_there_is_enough_room(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        filled(server)
        care = upkeep(server, space_left=HUGE, space_left_action=Action("rotate"))
        before = len(server.store.census().segments)
        await care.look()
        await care.look()
        care.conf = attrs.evolve(care.conf, space_left=(0, "MiB"))
        await care.look()
        assert len(server.store.census().segments) == before - 2


async def test_rotate_goes_on_while_the_disk_is_full_and_no_longer(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as server:
        filled(server)
        care = upkeep(server, disk_full_action=Action("rotate"))
        server.store.bound(Tiny(), 1 << 60, 100)
        with pytest.raises(DiskTrouble):
            put(server.store, Host("other").item())
        sealed = len(server.store.census().segments)
        for looks in (1, 2, 3):
            await care.look()
            assert len(server.store.census().segments) == sealed - looks
        server.store.bound(Policy(), 0, 100)
        # Nobody has stored anything since: it is what was true, not what is.
        await care.look()
        assert len(server.store.census().segments) == sealed - 3
        assert server.store.trouble is None


async def test_other_actions_stay_tied_to_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "c") as server:
        care = upkeep(server, space_left=HUGE, space_left_action=Action("syslog"))
        acted: list[str] = []
        monkeypatch.setattr(care.actions, "act", lambda name, text, path=None: acted.append(name))
        for _ in range(3):
            await care.look()
        assert acted == ["syslog"]
