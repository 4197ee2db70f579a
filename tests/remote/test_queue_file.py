"""What the C program left in its queue file is taken over, once and in order, also if that is interrupted; what is no
queue is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from audisp.errors import StoreError
from audisp.remote import queue_file
from audisp.remote.outbox import Outbox
from audisp.remote.queue_file import BATCH, ENTRY, HEADER, MAGIC, take_over
from tests.e2e.collectors import TheirRemote
from tests.e2e.daemons import Auditd, lines_of
from tests.e2e.remotes import free_port, numbered, numbers_in
from tests.e2e.stream import wait_for
from tests.needs import needs
from tests.sources.collect import Said

ROOM: Final = 16
HOLD: Final = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print(1, flush=True)
input()
"""


def put_queue(path: Path, texts: Sequence[bytes], *, head: int = 0, room: int = ROOM, **wrong: int) -> None:
    """A queue of `room` entries as audisp-remote writes it, with these texts from entry `head` on."""
    fields = {"version": 0, "count": room, "size": ENTRY, "head": head, "length": len(texts)} | wrong
    data = bytearray((room + 1) * ENTRY)
    HEADER.pack_into(
        data, 0, MAGIC, fields["version"], 0, fields["count"], fields["size"], fields["head"], fields["length"]
    )
    for number, text in enumerate(texts):
        at = ((head + number) % room + 1) * ENTRY
        data[at : at + len(text) + 1] = text + b"\0"
    path.write_bytes(data)
    path.chmod(0o600)


def range_of(path: Path) -> tuple[int, int]:
    """Index of the first entry in use, and how many there are."""
    head, length = struct.unpack_from(">II", path.read_bytes(), 24)
    return head, length


async def taken_over(path: Path, folder: Path, spool_size: int = 10_000_000) -> tuple[int, bytes, Said]:
    """How many it says, what is in the spool (and taken from there), and what was said."""
    said = Said()
    outbox = await Outbox.opened(folder / "spool", spool_size, 0, lambda text: None)
    found = await take_over(path, outbox, said)
    data = b""
    while (front := await outbox.front()) is not None:
        data += front[1]
        await outbox.settle(front[0] + front[1].count(b"\n"))
    await outbox.close()
    return found, data, said


@pytest.mark.parametrize(("records", "head"), [(1, 0), (16, 0), (10, 12), (0, 3)])
async def test_taken_over_once(tmp_path: Path, records: int, head: int) -> None:
    path = tmp_path / "remote.log"
    lines = numbered(1, records).splitlines(True)
    put_queue(path, lines, head=head)
    found, data, said = await taken_over(path, tmp_path)
    assert (found, data) == (records, b"".join(lines))
    assert len(said.lines) == bool(records)
    assert range_of(path) == ((head + records) % ROOM, 0)
    assert (await taken_over(path, tmp_path))[:2] == (0, b"")


async def test_entries_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "remote.log"
    one, two = numbered(1, 2).splitlines(True)
    put_queue(path, [one, b"no record\n", b"", two])
    data = bytearray(path.read_bytes())
    data[5 * ENTRY : 6 * ENTRY] = b"x" * ENTRY  # without a NUL
    data[28:32] = struct.pack(">I", 5)
    path.write_bytes(data)
    found, stored, said = await taken_over(path, tmp_path)
    assert (found, stored) == (2, one + two)
    assert "3 entries were no records" in said.lines[0][1]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"version": 1}, "no queue"),
        ({"size": 8_192}, "no queue"),
        ({"count": 0}, "cannot be"),
        ({"count": 1 << 31}, "cannot be"),
        ({"head": 16}, "cannot be"),
        ({"length": 17}, "cannot be"),
    ],
)
async def test_a_header_that_cannot_be(tmp_path: Path, wrong: dict[str, int], why: str) -> None:
    path = tmp_path / "remote.log"
    put_queue(path, numbered(1, 3).splitlines(True), **wrong)
    before = path.read_bytes()
    found, data, said = await taken_over(path, tmp_path)
    assert (found, data) == (0, b"")
    assert why in said.lines[0][1]
    assert path.read_bytes() == before


async def test_no_file_an_empty_one_a_short_one_a_link(tmp_path: Path) -> None:
    path = tmp_path / "remote.log"
    assert (await taken_over(path, tmp_path))[2].lines == []
    path.write_bytes(b"")
    assert (await taken_over(path, tmp_path))[2].lines == []
    path.write_bytes(b"short")
    assert "no queue" in (await taken_over(path, tmp_path))[2].lines[0][1]
    path.rename(tmp_path / "there")
    path.symlink_to(tmp_path / "there")
    assert "not taken over" in (await taken_over(path, tmp_path))[2].lines[0][1]


async def test_another_program_has_it(tmp_path: Path) -> None:
    path = tmp_path / "remote.log"
    put_queue(path, numbered(1, 3).splitlines(True))
    with subprocess.Popen(  # noqa: ASYNC220 - it only holds a lock
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert "another audisp-remote has it" in (await taken_over(path, tmp_path))[2].lines[0][1]
        assert other.stdin is not None
        other.stdin.write(b"\n")
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    assert (await taken_over(path, tmp_path))[0] == 3


COUNT: Final = 3 * BATCH - 100
BIG: Final = 3 * BATCH + 5
TIGHT: Final = 100_000
"""Bytes of a spool that has room for the first two batches, some kilobytes, and not for the third, 150 kilobytes."""


def put_long_queue(path: Path, head: int = BIG - 300) -> bytes:
    """A queue of nearly three batches, which goes around its end, the third larger than the others; its records."""
    data = numbered(1, 2 * BATCH) + b"".join(
        line.rstrip(b"'\n") + random.Random(n).randbytes(1_000).hex().encode() + b"'\n"
        for n, line in enumerate(numbered(2 * BATCH + 1, COUNT - 2 * BATCH).splitlines(True))
    )
    put_queue(path, data.splitlines(True), head=head, room=BIG)
    return data


def break_entry(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """The disk has lost the entry of this index."""
    read = queue_file._entry

    def entry(fd: int, index: int) -> bytes | None:
        if index == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, index)

    monkeypatch.setattr(queue_file, "_entry", entry)


async def test_a_spool_without_room_for_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "remote.log"
    data, head = put_long_queue(path), BIG - 300
    found, stored, said = await taken_over(path, tmp_path, TIGHT)
    assert numbers_in(stored) == list(range(1, 2 * BATCH + 1))
    assert found == 2 * BATCH
    assert range_of(path) == ((head + 2 * BATCH) % BIG, COUNT - 2 * BATCH)
    assert len(said.lines) == 1
    assert "512 records are taken over; the rest stays there" in said.text
    assert "no room" in said.text
    found, rest, said = await taken_over(path, tmp_path)
    assert (found, stored + rest) == (COUNT - 2 * BATCH, data)
    assert said.lines[0][0] == "notice"
    assert range_of(path) == ((head + COUNT) % BIG, 0)


async def test_no_room_at_all(tmp_path: Path) -> None:
    path = tmp_path / "remote.log"
    put_long_queue(path)
    before = path.read_bytes()
    found, stored, said = await taken_over(path, tmp_path, 1_000)
    assert (found, stored, path.read_bytes()) == (0, b"", before)
    assert "not taken over, and stay there: the spool has no room" in said.text


async def test_an_entry_that_cannot_be_read_at_start_after_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "remote.log"
    data = put_long_queue(path, head=0)
    with monkeypatch.context() as broken:
        break_entry(broken, BATCH + 3)
        found, stored, said = await taken_over(path, tmp_path)
        assert (found, numbers_in(stored)) == (BATCH, list(range(1, BATCH + 1)))
        assert "256 records are taken over; the rest stays there" in said.text
        assert "Input/output error" in said.text
        for _ in range(2):
            found, again, said = await taken_over(path, tmp_path)
            assert (found, again) == (0, b"")
            assert "not taken over" in said.text
    assert (await taken_over(path, tmp_path))[:2] == (COUNT - BATCH, data[len(stored) :])


async def test_what_was_no_record_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "remote.log"
    put_queue(path, [b"no record\n"] * BATCH + numbered(1, 5).splitlines(True), room=BIG)
    with monkeypatch.context() as broken:
        break_entry(broken, BATCH)
        found, stored, said = await taken_over(path, tmp_path)
        assert (found, stored) == (0, b"")
        assert "0 records are taken over; 256 entries were no records, and are left out; the rest stays" in said.text
    found, stored, said = await taken_over(path, tmp_path)
    assert (found, stored) == (5, numbered(1, 5))
    assert "no records" not in said.text


async def test_only_the_batch_under_way_can_come_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is in the spool, and the queue cannot be told."""
    path = tmp_path / "remote.log"
    data = put_long_queue(path)
    write, written = queue_file.write_ring, []

    def fails(fd: int, ring: queue_file.Ring) -> None:
        written.append(ring)
        if len(written) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        write(fd, ring)

    with monkeypatch.context() as broken:
        broken.setattr(queue_file, "write_ring", fails)
        found, stored, said = await taken_over(path, tmp_path)
    assert (found, numbers_in(stored)) == (BATCH, list(range(1, 2 * BATCH + 1)))
    assert "256 records are taken over; the rest stays there" in said.text
    assert "up to 256 more may be in the spool as well, and come twice" in said.text
    found, rest, _ = await taken_over(path, tmp_path)
    assert (found, numbers_in(rest)) == (COUNT - BATCH, list(range(BATCH + 1, COUNT + 1)))
    assert data.endswith(rest)


async def test_a_spool_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "remote.log"
    put_long_queue(path)
    before, said = path.read_bytes(), Said()
    outbox = await Outbox.opened(tmp_path / "spool", 10_000_000, 0, lambda text: None)

    def fails() -> None:
        raise StoreError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(outbox.stream, "sync", fails)
        assert await take_over(path, outbox, said) == 0
    await outbox.close()
    assert path.read_bytes() == before
    assert "the disk is gone; up to 256 more may be in the spool as well" in said.text


@needs("root", "auditd", "audisp-remote")
async def test_the_c_program_sends_the_rest(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "remote" / "queue"
    path.parent.mkdir()
    put_long_queue(path)
    assert (await taken_over(path, tmp_path, TIGHT))[0] == 2 * BATCH
    wanted = list(range(2 * BATCH + 1, COUNT + 2))
    with (
        Auditd(tmp_path / "auditd", listen=port) as auditd,
        TheirRemote(path.parent, port, mode="forward", queue_depth=BIG) as remote,
    ):
        remote.write(numbered(COUNT + 1, 1))  # comes behind what it has

        def arrived() -> list[int]:
            return numbers_in(b"".join(line + b"\n" for line in lines_of(auditd.log)))

        wait_for(lambda: len(arrived()) >= len(wanted), "all have arrived")
        assert arrived() == wanted
