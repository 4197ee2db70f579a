"""The store on a disk that is full or broken: what was acknowledged stays, nothing else is there, and it goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audisp.collector.chain import Verdict, verify
from audisp.collector.store import DiskTrouble, Findings, Numbered, Policy, Store, Unnumbered
from audisp.errors import StoreError
from audisp.wire.native import Trouble
from tests.collector.stores import MIB, Host, Tiny, message, put, segments, serials
from tests.needs import needs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file can grow beyond this: the kernel writes up to it, and then says EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_at_any_byte_of_a_group(folder: Path) -> None:
    one, two = Host("one"), Host("two")
    with Store(folder) as store:
        put(store, one.item(), two.item())
        at = {"one": one.at, "two": two.at}
        size = segments(folder)[0].stat().st_size
        items: list[Numbered | Unnumbered] = [one.item(2), two.item(1), message("c", 1)]
        for room in range(0, 700, 7):
            with limited(size + room):
                for item in items:
                    assert store.append(item)
                with pytest.raises(DiskTrouble) as caught:
                    store.commit()
            assert caught.value.trouble is Trouble.DISK_FULL
            assert store.trouble is caught.value
            assert segments(folder)[0].stat().st_size == size
            assert {host.identity: store.position(host.identity, host.spool) for host in (one, two)} == at
            assert store.recent("c") == (None, None)
        # Nothing of the failed ones is left over, and the same items are taken.
        for item in items:
            assert store.append(item)
        assert store.commit().frames == 3
        assert store.trouble is None
        put(store, one.item())
    with Store(folder) as store:
        assert store.findings == Findings()
        assert store.position("one", one.spool) == one.at
    assert serials(folder, "one") == [*range(1, 9)]
    assert serials(folder, "two") == [1, 2, 3, 4]
    assert verify(folder).verdict is Verdict.INTACT


def test_no_room_for_a_new_segment(folder: Path) -> None:
    host = Host("one")
    with Store(folder) as store:
        item = host.item()
        for size in (0, 100, 511, 512, 530, 560):
            with limited(size), pytest.raises(DiskTrouble):
                store.append(item)
            assert segments(folder) == []
            assert not list(folder.glob("*.new"))
        put(store, item)
    assert serials(folder, "one") == [1, 2, 3]


def test_no_room_to_go_on_in_the_next_segment(folder: Path) -> None:
    policy = Policy(max_host_bytes=16 * MIB)
    host = Host("one")
    with Store(folder, policy=policy) as store:
        while not segments(folder) or segments(folder)[-1].stat().st_size < MIB:
            put(store, host.item(100, size=1000))
        item = host.item(100, size=1000)
        with limited(300), pytest.raises(DiskTrouble):
            store.append(item)
        assert len(segments(folder)) == 1
        put(store, item)
        assert len(segments(folder)) == 2
    assert serials(folder, "one") == [*range(1, host.at.next)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(mount)], check=False)
    if done.returncode:
        pytest.skip("root: mounting a tmpfs is not allowed here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@needs("root")
def test_a_full_disk_and_room_again(small_disk: Path) -> None:
    folder, filler = small_disk / "store", small_disk / "filler"
    host = Host("one")
    with Store(folder, min_free=-MIB) as store:
        put(store, host.item())
        filler.write_bytes(bytes(7 * MIB))
        stored = 3
        for _ in range(40):
            item = host.item(100, size=1000)
            before = host.at
            assert store.append(item)
            try:
                store.commit()
            except DiskTrouble as error:
                assert error.trouble is Trouble.DISK_FULL  # noqa: PT017 - the loop goes on to this
                break
            stored += 100
        else:
            pytest.fail("8 MiB took it all")
        trouble = store.probe()
        assert trouble is not None
        assert trouble.trouble is Trouble.DISK_FULL
        assert serials(folder, "one") == [*range(1, stored + 1)]
        filler.unlink()
        assert store.probe() is None
        assert store.trouble is None
        assert {path.suffix for path in folder.iterdir()} <= {".seg", ".idx", ""}
        put(store, item)
        assert store.position("one", host.spool) == before
    assert serials(folder, "one") == [*range(1, stored + 101)]
    assert verify(folder).verdict is Verdict.INTACT


@needs("root")
def test_what_has_to_stay_free(small_disk: Path) -> None:
    folder = small_disk / "store"
    host = Host("one")
    with Store(folder, min_free=4 * MIB) as store:
        items = [host.item(100, size=1000) for _ in range(80)]
        taken = 0
        while store.space().free >= 4 * MIB + 150_000:
            put(store, items[taken])
            taken += 1
        with pytest.raises(DiskTrouble, match="4 MiB are to stay so"):
            put(store, *items[taken : taken + 3])
        taken = (store.streams("one")[0].next - 1) // 100
        assert 4 * MIB <= store.space().free < 4 * MIB + 200_000
        assert store.probe() is store.trouble is not None
        store.bound(Policy(), 0, 100)
        assert store.probe() is None
        put(store, *items[taken : taken + 10])
    assert serials(folder, "one") == [*range(1, 100 * (taken + 10) + 1)]


class Broken:
    """A call of the system that fails when told to. `left`: so many succeed before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
        self.number, self.left = number, -1
        self._call: Callable[..., Any] = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left == 0:
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1
        return self._call(*arguments, **options)


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
@pytest.mark.parametrize("also", [False, True], ids=["cut works", "nor does the cut"])
def test_a_sync_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, also: bool) -> None:
    host, other = Host("one"), Host("two")
    with Store(folder) as store:
        put(store, host.item(), other.item())
        sync, cut = Broken(monkeypatch, "fdatasync", number), Broken(monkeypatch, "ftruncate", number)
        size = segments(folder)[0].stat().st_size
        items = [host.item(), other.item()]
        sync.left = 0
        if also:
            cut.left = 0
        for _ in range(3):
            with pytest.raises(DiskTrouble) as caught:
                put(store, *items)
            assert caught.value.trouble is (Trouble.DISK_ERROR if number == errno.EIO else Trouble.DISK_FULL)
            assert store.probe() is not None
        sync.left = -1
        if also:
            # What was written is still there: nothing may be written behind it.
            assert segments(folder)[0].stat().st_size > size
            with pytest.raises(DiskTrouble):
                put(store, *items)
            assert store.probe() is not None
            cut.left = -1
        assert store.probe() is None
        put(store, *items)
        # The kernel has forgotten the error, so that file is not trusted with more.
        assert len(segments(folder)) == 2
        assert segments(folder)[0].stat().st_size == size
    with Store(folder) as store:
        assert store.findings == Findings()
    assert serials(folder, "one") == serials(folder, "two") == [*range(1, 7)]
    assert verify(folder).verdict is Verdict.INTACT


def test_killed_while_a_cut_is_owed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host("one")
    store = Store(folder)
    store.open()
    put(store, host.item())
    item = host.item()
    with monkeypatch.context() as broken:
        sync, cut = Broken(broken, "fdatasync", errno.EIO), Broken(broken, "ftruncate", errno.EIO)
        sync.left = cut.left = 0
        with pytest.raises(DiskTrouble):
            put(store, item)
        # As kill -9: nothing is tidied up.
        store.close()
    with Store(folder) as store:
        # It was not acknowledged, and is whole: it is stored now, and its sender is told so when it comes again.
        assert store.position("one", host.spool) == host.at
        put(store, host.item())
    assert serials(folder, "one") == [*range(1, 10)]


@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "rename", "open"])
def test_trouble_with_every_call_of_beginning_a_segment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    host = Host("one")
    with Store(folder) as store:
        put(store, host.item())
        store._log.seal()
        item = host.item()
        with monkeypatch.context() as broken:
            Broken(broken, call, errno.EIO).left = 0
            with pytest.raises(DiskTrouble):
                store.append(item)
        put(store, item)
        put(store, host.item())
    with Store(folder) as store:
        assert store.findings == Findings()
    assert serials(folder, "one") == [*range(1, 10)]


def test_caches_are_not_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither the end mark nor an index can be written, and nobody is the worse for it.
    policy = Policy(max_host_bytes=16 * MIB)
    host = Host("one")
    with Store(folder, policy=policy) as store:
        Broken(monkeypatch, "pwrite", errno.EIO).left = 0
        for _ in range(20):
            put(store, host.item(100, size=1000))
    monkeypatch.undo()
    assert not list(folder.glob("*.idx"))
    assert serials(folder, "one") == [*range(1, 2001)]
    with Store(folder, policy=policy) as store:
        assert store.findings == Findings()
        assert store.position("one", host.spool) == host.at


def test_room_is_made_under_the_bound_of_all(folder: Path) -> None:
    policy = Policy(max_bytes=64 * MIB // 4)
    host = Host("one")
    with Store(folder, policy=policy) as store:
        for _ in range(40):
            put(store, host.item(1000, size=1000))
            assert store.size <= policy.max_bytes
            assert sum(path.stat().st_size for path in folder.glob("*.seg")) == store.size
    found = serials(folder, "one")
    assert found == [*range(found[0], host.at.next)]
    assert found[0] > 10_000
    (report,) = verify(folder).streams
    assert (report.verdict, report.first, report.dropped) == (Verdict.DROPPED, found[0], found[0] - 1)


def test_a_bound_that_became_narrower(folder: Path) -> None:
    host = Host("one")
    with Store(folder) as store:
        for _ in range(8):
            put(store, host.item(1000, size=1000))
        assert len(segments(folder)) == 1
        # All is in the one segment that is written, and larger than everything may be from now on.
        store.bound(Policy(max_bytes=4 * MIB), 0, 100)
        put(store, host.item())
        assert store.size <= 4 * MIB
    assert serials(folder, "one") == [8001, 8002, 8003]


def test_a_bound_that_cannot_be_kept(folder: Path) -> None:
    host = Host("one")
    with Store(folder, policy=Policy(max_bytes=MIB)) as store:
        item = host.item()
        with pytest.raises(DiskTrouble, match="1 MiB may be") as caught:
            store.append(item)
        assert caught.value.trouble is Trouble.DISK_FULL
        store.bound(Policy(), 0, 100)
        put(store, item)
    assert serials(folder, "one") == [1, 2, 3]


class Once:
    """A call of the system that fails once, at the call of this number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
        self.left = number
        self._call: Callable[..., Any] = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == -1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._call(*arguments, **options)


@pytest.mark.parametrize("call", ["rename", "unlink", "fsync", "fdatasync", "write", "open", "pread"])
def test_trouble_in_the_middle_of_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    number, failed = 0, True
    while failed:
        folder, hosts = tmp_path / str(number), [Host("hog"), Host("one")]
        policy = Tiny(max_host_bytes=9_000)
        with Store(folder, policy=policy) as store:
            for turn in range(30):
                put(store, hosts[0].item(3, size=200))
                if turn % 4 == 0:
                    put(store, hosts[1].item(1))
            with monkeypatch.context() as broken:
                once = Once(broken, call, number)
                with contextlib.suppress(StoreError):
                    store.retain(0)
                failed = once.left < 0
            put(store, *(host.item(1) for host in hosts))
            store.retain(0)
            assert sum(path.stat().st_size for path in segments(folder)) == store.size
            assert store.size < 24_000
            (report, _) = verify(folder).streams
            assert report.verdict is Verdict.DROPPED, (number, report)
            assert verify(folder).status == 0
            assert serials(folder, "one") == [*range(1, hosts[1].at.next)]
        with Store(folder, policy=policy) as store:
            assert store.findings == Findings()
            assert not list(folder.glob("*.new"))
        number += 1
    assert number > 1
