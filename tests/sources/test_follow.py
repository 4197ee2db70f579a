from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trio

from audisp.errors import SourceError
from audisp.record import MAX_RECORD, Block
from audisp.sources import follow
from audisp.sources.compressed import CHUNK
from audisp.sources.follow import FollowSource
from audisp.sources.position import PositionFile
from audisp.sources.trail import Trail
from tests.needs import ROOT
from tests.sources.collect import Collected, Said, balanced, line, lines
from tests.sources.rotating import RotatingLog, all_lines

POLL: Final = 0.005
"""Seconds between two looks in these tests."""


class Run:
    """One run of the source over a log, with its position in a file."""

    def __init__(self, folder: Path, route: Collected | None = None, poll: float = POLL) -> None:
        self.kept = PositionFile(folder / "position", "s")
        self.said = Said()
        self.route = route or Collected()
        self.source = FollowSource(str(folder / "audit.log"), say=self.said, mark=self.kept, poll=poll)
        self.books = self.source.books

    async def until(self, records: int) -> None:
        """Run until that many records are here, and no longer."""
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.source.run, self.route)
                await self.route.until(records)
                nursery.cancel_scope.cancel()
        self.kept.close()

    async def looks(self, count: int = 6) -> None:
        """Run for so many looks at the log."""
        with trio.move_on_after(count * POLL * 5):
            await self.source.run(self.route)
        self.kept.close()


async def test_a_log_is_followed_over_runs_and_rotations(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "audit.log")
    log.write(20_000)
    found = b""
    run = Run(tmp_path)
    for round_ in range(4):
        run = run if not round_ else Run(tmp_path)
        before = log.written - (20_000 if not round_ else 30)
        await run.until(log.written - before)
        assert run.route.records == log.written - before
        assert balanced(run.books, run.route)
        assert run.source.kind == "replay"
        assert {block.source for block in run.route.blocks} == {f"follow:{log.path}"}
        assert all(len(block) <= CHUNK + MAX_RECORD for block in run.route.blocks)
        found += run.route.data
        log.write(10)
        log.rotate()
        log.write(10)
        log.rotate()
        log.write(10)
    assert found == b"".join(all_lines(20_090))
    assert run.books.counters["rotations"] == 2
    log.close()


async def test_a_growing_log_is_read_as_it_grows(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "audit.log")
    run = Run(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run.source.run, run.route)
            for _ in range(20):
                log.write(3)
                await run.route.until(log.written)
                assert run.route.data == b"".join(all_lines(log.written))
            await trio.sleep(POLL * 10)
            assert run.books.detail["file"] == str(log.path)
            assert run.books.detail["position"] == f"{len(run.route.data):,} bytes"
            nursery.cancel_scope.cancel()
    assert run.books.detail["state"] == "following"
    assert balanced(run.books, run.route)
    assert "unread" not in run.books.detail
    assert run.said.lines == [("info", f"source follow:{log.path}: following")]
    run.kept.close()
    log.close()


async def test_a_log_that_is_not_there_is_waited_for_and_that_is_said_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run.source.run, run.route)
            await trio.sleep(POLL * 10)
            assert run.said.text == f"notice: source follow:{tmp_path}/audit.log: waiting: No such file or directory"
            (tmp_path / "audit.log").write_bytes(lines(3))
            await run.route.until(3)
            nursery.cancel_scope.cancel()
    run.kept.close()


async def test_what_can_never_be_followed_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    run = Run(tmp_path)
    with pytest.raises(SourceError, match=r"^source follow:.*/audit\.log: it is a folder$"):
        await run.source.run(run.route)
    run.kept.close()


async def test_without_a_place_for_it_the_position_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_bytes(lines(3))
    for _ in range(2):
        route = Collected()
        source = FollowSource(str(tmp_path / "audit.log"), say=Said(), poll=POLL)
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(source.run, route)
                await route.until(3)
                scope.cancel()
        assert route.data == lines(3)


async def test_a_line_that_never_ends_takes_no_memory_and_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(line(1) + b"type=USER msg=audit(1.2:3): " + b"x" * 3_000_000 + b"\n" + line(2))
    run = Run(tmp_path)
    await run.until(2)
    assert run.route.data == line(1) + line(2)
    assert run.source.rejects.kinds == {"oversized": 1}
    assert balanced(run.books, run.route)


async def test_the_middle_of_a_long_line_is_not_taken_for_a_record_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(line(1) + b"type=USER msg=audit(1.2:3): " + b"x" * 300_000)
    run = Run(tmp_path)
    await run.looks()
    assert run.route.data == line(1)
    with path.open("ab") as file:
        file.write(line(666) + line(2))
    run = Run(tmp_path)
    await run.until(1)
    assert run.route.data == line(2)


async def test_a_torn_line_is_rejected_at_the_rotation(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "audit.log")
    log.write(2)
    log.begin(45)  # all but its last bytes: it would pass for a record
    run = Run(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run.source.run, run.route)
            await run.route.until(2)
            await trio.sleep(POLL * 10)
            assert run.books.rejected == 0
            log.rotate()
            log.held = b""
            log.write(2)
            await run.route.until(4)
            nursery.cancel_scope.cancel()
    assert run.route.data == line(1) + line(2) + line(4) + line(5)
    assert run.source.rejects.kinds == {"torn": 1}
    assert run.books.received == 5
    assert balanced(run.books, run.route)
    run.kept.close()
    log.close()


async def test_a_line_that_was_begun_is_read_whole_from_the_copy_of_a_truncated_log(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "audit.log")
    log.write(2)
    log.begin(30)
    run = Run(tmp_path, poll=0.3)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run.source.run, run.route)
            await run.route.until(2)
            await trio.sleep(0.1)  # it sleeps now
            log.write(2)
            log.copy_and_truncate()
            log.write(2)
            await run.route.until(7)
            nursery.cancel_scope.cancel()
    assert run.route.data == b"".join(all_lines(7))
    assert run.books.rejected == 0
    run.kept.close()
    log.close()


async def test_zeros_in_place_of_lost_writes_are_garbage_and_not_another_form(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(lines(5))
    run = Run(tmp_path)
    await run.until(5)
    with path.open("ab") as file:
        file.write(bytes(3000) + b"\n" + lines(5, first=6))
    run = Run(tmp_path)
    await run.until(5)
    assert run.route.data == lines(5, first=6)
    assert run.source.rejects.kinds == {"garbage": 1}
    assert run.books.detail["form"] == "string"


# ---- full queues and the end ----


async def test_a_full_queue_is_waited_for_and_what_was_not_routed_comes_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "GRACE", 0.01)
    (tmp_path / "audit.log").write_bytes(lines(30_000))

    class Full(Collected):
        async def send(self, block: Block) -> None:
            if len(self.blocks) == 2:
                self.shut()
            await super().send(block)

    run = Run(tmp_path, Full())
    await run.looks(20)
    first = run.route
    assert len(first.blocks) == 2
    assert balanced(run.books, first)
    assert run.books.counters["unread_records"] > 0
    left = len(lines(30_000)) - len(first.data)
    assert run.books.counters["unread_bytes"] > 0
    assert run.books.counters["unread_bytes"] <= left
    run = Run(tmp_path)
    await run.until(30_000 - first.records)
    assert first.data + run.route.data == lines(30_000)


async def test_a_block_that_finds_room_in_time_does_not_come_twice(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_bytes(lines(30_000))
    run = Run(tmp_path)
    run.route.shut()

    async def room() -> None:
        await trio.sleep(0.1)
        run.route.open.set()

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            nursery.start_soon(room)
            await run.source.run(run.route)
    run.kept.close()
    assert len(run.route.blocks) == 1  # the one that waited, and not the next
    assert balanced(run.books, run.route)
    again = Run(tmp_path)
    await again.until(30_000 - run.route.records)
    assert run.route.data + again.route.data == lines(30_000)


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    step: Callable[[Trail], object] = Trail.step

    def hanging(self: Trail) -> object:
        hangs.wait(30)
        return step(self)

    monkeypatch.setattr(Trail, "step", hanging)
    run = Run(tmp_path)
    with trio.fail_after(20), trio.move_on_after(0.05) as scope:
        await run.source.run(run.route)
    assert scope.cancelled_caught
    hangs.set()
    run.kept.close()


# ---- everything at once ----


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_writer_at_full_speed_that_rotates_as_it_likes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = RotatingLog(tmp_path / "audit.log")
    ended = threading.Event()

    def write() -> None:
        for _ in range(200):
            log.write(chance.choice((1, 10, 500, 3000)))
            kind = chance.random()
            if kind < 0.1:
                log.move()
                log.write(chance.choice((0, 1, 100)))
                log.reopen()
            elif kind < 0.4:
                log.rotate()
            elif kind < 0.6:
                log.pack(chance.choice(("gz", "xz", "zst")), chance.randrange(1, 5))
            elif kind < 0.7:
                log.begin(chance.randrange(1, 50))
        log.write(1)
        ended.set()

    await Run(tmp_path).looks(1)  # a first start begins with the log of that moment
    thread = threading.Thread(target=write)
    thread.start()
    runs: list[Run] = []
    done = 0
    while (not ended.is_set() or done < log.written or len(runs) < 3) and len(runs) < 100:
        run = Run(tmp_path)
        runs.append(run)
        with trio.move_on_after(chance.choice((0.02, 0.1, 0.3))):
            await run.source.run(run.route)
        run.kept.close()
        assert balanced(run.books, run.route)
        assert run.books.rejected == 0
        assert not {"gaps", "truncations", "read_errors", "damaged"} & run.books.counters.keys()
        done += run.route.records
    thread.join()
    found = [serial for run in runs for block in run.route.blocks for serial in block.serials()]
    assert [each for each in itertools.pairwise([0, *found, log.written + 1]) if each[1] != each[0] + 1] == []
    assert b"".join([run.route.data for run in runs]) == b"".join(all_lines(log.written))
    log.close()


FOLLOWER: Final = """
import os, sys
from pathlib import Path
import trio
from audisp.sources.follow import FollowSource
from audisp.sources.position import PositionFile

class Route:
    async def send(self, block):
        left = memoryview(block.data)
        while left:
            left = left[os.write(1, left):]

    def when_done(self, call):
        call()

path, state = sys.argv[1:]
kept = PositionFile(Path(state), "s")
source = FollowSource(path, say=lambda level, text: print(level, text, file=sys.stderr), mark=kept, poll=0.005)
trio.run(source.run, Route())
"""


def test_kill_9_at_any_moment_loses_nothing_and_doubles_a_block_at_most(tmp_path: Path) -> None:
    chance = random.Random(9)
    log = RotatingLog(tmp_path / "audit.log")
    ended = threading.Event()

    def write() -> None:
        writes = random.Random(10)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            log.write(writes.choice((1, 100, 4000)))
            if writes.random() < 0.15:
                log.rotate()
                if writes.random() < 0.3:
                    log.pack(writes.choice(("gz", "zst")), 2)
            time.sleep(0.002)
        log.write(1)
        ended.set()

    with PositionFile(tmp_path / "position", "s") as kept:
        trail = Trail(str(log.path))
        position = trail.step().position  # a first start begins with the log of that moment
        trail.close()
        assert position is not None
        kept.store(position)
    thread = threading.Thread(target=write)
    thread.start()
    reached, doubled = 0, 0
    for number in itertools.count():
        last = ended.is_set()
        out = tmp_path / f"out{number}"
        with out.open("wb") as file, (tmp_path / "said").open("ab") as said:
            child = subprocess.Popen(
                [sys.executable, "-c", FOLLOWER, str(log.path), str(tmp_path / "position")],
                stdout=file,
                stderr=said,
                cwd=ROOT,
            )
        try:
            if last:
                deadline = time.monotonic() + 20
                while reached < log.written and time.monotonic() < deadline:
                    if out.read_bytes().endswith(line(log.written)):
                        break
                    time.sleep(0.05)
            else:
                # Most are killed while they catch up, some before they have begun.
                time.sleep(chance.uniform(0.2, 0.9))
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        data = out.read_bytes()
        data = data[: data.rfind(b"\n") + 1]  # the last write may have been cut short
        if data:
            first = int(data[: data.index(b")")].rpartition(b":")[2])
            count = data.count(b"\n")
            assert first <= reached + 1, f"run {number} skips from {reached} to {first}"
            assert data == b"".join([line(serial) for serial in range(first, first + count)])
            again = reached + 1 - first
            assert again * len(line(1)) <= CHUNK + MAX_RECORD
            doubled += again > 0
            reached = max(reached, first + count - 1)
        if last:
            break
    thread.join()
    assert reached == log.written
    assert number > 1
    assert not [each for each in (tmp_path / "said").read_text().splitlines() if not each.startswith("info")]
    print(json.dumps({"runs": number + 1, "doubled": doubled, "records": reached}))
    log.close()
