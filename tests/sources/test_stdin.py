from __future__ import annotations

import fcntl
import os
import pty
import socket
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from audisp.errors import SourceError
from audisp.sources.stdin import StdinSource
from tests.sources.collect import Collected, Said, balanced, frame, line, lines


def flags(file: int) -> int:
    return fcntl.fcntl(file, fcntl.F_GETFL)


@asynccontextmanager
async def reading(source: StdinSource, route: Collected) -> AsyncIterator[trio.Nursery]:
    """Runs the source beside the block, and waits for its end unless the nursery is cancelled."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: source.run(route, task_status=task_status))
            yield nursery


@pytest.mark.parametrize("form", ["string", "binary", "slots"])
async def test_a_child_of_auditd_reads_what_auditd_writes(form: str) -> None:
    ours, auditd = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    route = Collected()
    with ours:
        source = StdinSource(say=Said(), file=ours.fileno())
        before = flags(ours.fileno())
        async with reading(source, route):
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(auditd))
            for serial in range(1, 501):
                if form == "string":
                    await stream.send_all(line(serial))
                else:
                    # auditd writes header and payload apart.
                    data = frame(serial, slot=8986 if form == "slots" else None)
                    await stream.send_all(data[:16])
                    await stream.send_all(data[16:])
            await stream.aclose()
        assert flags(ours.fileno()) == before
    assert source.kind == "live"
    assert route.data == lines(500)
    assert source.books.detail["form"] == ("string" if form == "string" else "binary")
    assert balanced(source.books, route)


async def test_byte_by_byte_and_the_last_line_without_its_end() -> None:
    ours, theirs = os.pipe()
    route = Collected()
    source = StdinSource(say=Said(), file=ours)
    data = lines(3)[:-1]
    async with reading(source, route):
        for byte in data:
            os.write(theirs, bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        os.close(theirs)
    os.close(ours)
    assert route.data == data + b"\n"
    assert source.books.counters["unterminated"] == 1


async def test_a_pipe_keeps_its_flags_while_it_is_read_and_after() -> None:
    ours, theirs = os.pipe()
    route = Collected()
    source = StdinSource(say=Said(), file=ours)
    before = flags(ours)
    async with reading(source, route):
        os.write(theirs, lines(10))
        await route.until(10)
        assert flags(ours) == before
        os.write(theirs, lines(10, 11))
        os.close(theirs)
    assert flags(ours) == before
    assert os.read(ours, 1) == b""  # the caller's descriptor is still open
    os.close(ours)
    assert route.data == lines(20)


async def test_a_huge_write_into_a_pipe() -> None:
    ours, theirs = os.pipe()
    route = Collected()
    source = StdinSource(say=Said(), file=ours)
    data = lines(100_000)

    def write() -> None:
        with os.fdopen(theirs, "wb") as file:
            file.write(data)

    async with reading(source, route) as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
    os.close(ours)
    assert route.data == data
    assert balanced(source.books, route)


async def test_a_fifo_whose_writer_is_gone_already_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ours = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(ours, True)
    theirs = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.write(theirs, lines(2))
    os.close(theirs)
    route = Collected()
    async with reading(StdinSource(say=Said(), file=ours), route):
        pass
    os.close(ours)
    assert route.data == lines(2)


async def test_a_regular_file_is_a_replay_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(50_000))
    file = os.open(tmp_path / "log", os.O_RDONLY)
    os.lseek(file, len(line(1)), os.SEEK_SET)
    route = Collected()
    source = StdinSource(say=Said(), file=file)
    assert source.kind == source.books.kind == "replay"
    async with reading(source, route):
        pass
    os.close(file)
    assert route.data == lines(49_999, 2)
    assert source.books.detail["input"] == "file"


async def test_a_terminal_keeps_its_flags() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    before = flags(slave)
    route = Collected()
    source = StdinSource(say=Said(), file=slave)
    async with reading(source, route):
        os.write(master, lines(20))
        await route.until(20)
        assert flags(slave) == before
        os.close(master)  # hung up: the end
    os.close(slave)
    assert route.data == lines(20)


async def test_the_null_device_ends_at_once() -> None:
    file = os.open("/dev/null", os.O_RDONLY)
    route = Collected()
    async with reading(StdinSource(say=Said(), file=file), route):
        pass
    os.close(file)
    assert route.records == 0


async def test_where_nothing_can_be_opened_anew_a_thread_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audisp.sources.stdin._reopen", lambda _: None)
    ours, theirs = os.pipe()
    route = Collected()
    source = StdinSource(say=Said(), file=ours)
    async with reading(source, route):
        os.write(theirs, lines(10))
        await route.until(10)
        os.write(theirs, line(11))
        await route.until(11)
        os.close(theirs)
    os.close(ours)
    assert route.data == lines(11)


async def test_what_cannot_be_read_is_an_error_at_start(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    written = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
    closed = os.dup(folder)
    os.close(closed)
    for file, said in ((folder, "folder"), (written, "writing only"), (closed, "closed")):
        with pytest.raises(SourceError, match=f"source stdin: .*{said}"):
            await StdinSource(say=Said(), file=file).run(Collected())
    os.close(folder)
    os.close(written)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_what_was_written_before_the_end_is_routed_after_a_cancellation(kind: str) -> None:
    ours, theirs = os.pipe() if kind == "pipe" else (each.detach() for each in socket.socketpair())
    route = Collected()
    source = StdinSource(say=Said(), file=ours)
    async with reading(source, route) as nursery:
        os.write(theirs, lines(10))
        await route.until(10)
        os.write(theirs, lines(5, 11) + line(16)[:20])
        nursery.cancel_scope.cancel()
    os.close(ours)
    os.close(theirs)
    assert route.data == lines(15)
    assert source.books.detail["unread"] == "0 records, 20 bytes"
    assert balanced(source.books, route)


async def test_what_waits_when_a_full_queue_is_cancelled_is_stated() -> None:
    ours, theirs = os.pipe()
    route = Collected()
    route.shut()
    source = StdinSource(say=Said(), file=ours)
    async with reading(source, route) as nursery:
        os.write(theirs, lines(5))
        await trio.testing.wait_all_tasks_blocked()
        os.write(theirs, lines(7, 6))
        nursery.cancel_scope.cancel()
    os.close(ours)
    os.close(theirs)
    assert source.books.received == 0
    assert source.books.detail["unread"] == f"5 records, {len(lines(12))} bytes"
