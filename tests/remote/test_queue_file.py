"""What the C program left in its queue file is taken over, once and in order; what is no queue is left alone."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from audisp.remote.outbox import Outbox
from audisp.remote.queue_file import ENTRY, HEADER, MAGIC, take_over
from tests.e2e.remotes import numbered
from tests.sources.collect import Said

ROOM: Final = 16
HOLD: Final = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print(1, flush=True)
input()
"""


def put_queue(path: Path, texts: Sequence[bytes], *, head: int = 0, **wrong: int) -> None:
    """A queue as audisp-remote writes it, with these texts from entry `head` on."""
    fields = {"version": 0, "count": ROOM, "size": ENTRY, "head": head, "length": len(texts)} | wrong
    data = bytearray((ROOM + 1) * ENTRY)
    HEADER.pack_into(
        data, 0, MAGIC, fields["version"], 0, fields["count"], fields["size"], fields["head"], fields["length"]
    )
    for number, text in enumerate(texts):
        at = ((head + number) % ROOM + 1) * ENTRY
        data[at : at + len(text) + 1] = text + b"\0"
    path.write_bytes(data)
    path.chmod(0o600)


async def taken_over(path: Path, folder: Path) -> tuple[int, bytes, Said]:
    """How many it says, what is in the spool, and what was said."""
    said = Said()
    outbox = await Outbox.opened(folder / "spool", 10_000_000, 0, lambda text: None)
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
    assert struct.unpack_from(">I", path.read_bytes(), 28) == (0,)
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
