"""The C program's queue file: what it left there is taken over into the spool, in order, once.

Layout (upstream.md 5.6): a header of 32 bytes, big-endian (14 bytes of magic, version, reserved, number of entries,
size of an entry, index of the first one, how many are in use), padded to one entry; then a ring of entries, each a
text with its line end and a NUL. Written at the entry first, then in the header.

Taken over means, for one batch after the other: stored in the spool and synced, then taken off the queue in the file's
header. Interrupted, by a full spool or an error or kill -9, what was taken is off the queue, and the rest stays on it,
for us or for the C program. Between the two steps the batch under way is in both, and comes twice: at least once, as
the C program itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.errors import StoreError
from audisp.parse.lines import LineReader
from audisp.record import Block
from audisp.remote.books import unread
from audisp.remote.outbox import Outbox
from audisp.sources.bad import Say

MAGIC: Final = b"\0audisp-remote"
HEADER: Final = struct.Struct(">14sBBIIII")
ENTRY: Final = 12_288
"""Bytes of an entry; the C programs know no other."""
MAX_ENTRIES: Final = 1 << 24
"""Most entries that a header is believed: 192 GiB of file, which no queue_depth asks for."""
BATCH: Final = 256
"""Entries read at once, 3 MiB, and so the most that can come twice."""
RANGE: Final = struct.Struct(">II")
RANGE_AT: Final = 24
"""Where the header has the index of the first entry and, beside it, how many there are."""


class QueueError(StoreError):
    """The file is no queue of audisp-remote's, or cannot be used."""


def open_queue(path: Path) -> int | None:
    """The queue's descriptor, locked as the C program locks it; None if there is no such file, or it is empty.

    QueueError if it is not root's or ours, is no regular file, or the C program has it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise QueueError(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise QueueError(f"{path}: is no file of root's that nobody else may write to")
        if not found.st_size:
            os.close(fd)
            return None
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise QueueError(f"{path}: another audisp-remote has it") from error
            raise QueueError(f"{path}: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


@attrs.frozen
class Ring:
    """Which of its entries are in use: `length` from `head` on, of `count`."""

    count: int
    head: int
    length: int

    def after(self, number: int) -> Ring:
        """Without the first so many of them."""
        return Ring(self.count, (self.head + number) % self.count, self.length - number)


def read_ring(fd: int, path: Path) -> Ring:
    """What the header says. QueueError."""
    raw = os.pread(fd, HEADER.size, 0)
    if len(raw) < HEADER.size:
        raise QueueError(f"{path}: {len(raw)} bytes are no queue")
    magic, version, _, count, size, head, length = HEADER.unpack(raw)
    if magic != MAGIC or version or size != ENTRY:
        raise QueueError(f"{path}: is no queue of audisp-remote's")
    if not 0 < count <= MAX_ENTRIES or head >= count or length > count:
        raise QueueError(f"{path}: says {length} of {count} entries from {head} on, which cannot be")
    return Ring(count, head, length)


def read_batch(fd: int, ring: Ring) -> list[bytes | None]:
    """The oldest entries, BATCH at most; None for one that is damaged. OSError."""
    return [_entry(fd, (ring.head + number) % ring.count) for number in range(min(ring.length, BATCH))]


def _entry(fd: int, index: int) -> bytes | None:
    text, nul, _ = os.pread(fd, ENTRY, (index + 1) * ENTRY).partition(b"\0")
    return text if nul and text else None


def write_ring(fd: int, ring: Ring) -> None:
    """Say in the file, for good, which entries are in use. One write within a sector: no kill -9 leaves half of it.
    OSError."""
    os.pwrite(fd, RANGE.pack(ring.head, ring.length), RANGE_AT)
    os.fdatasync(fd)


@attrs.define
class Haul:
    """What has come of a queue so far."""

    records: int = 0
    """In the spool, and off the queue."""
    bad: int = 0
    """Entries that were no records."""


async def take_over(path: Path, outbox: Outbox, say: Say) -> int:
    """Take a C client's queue over into the outbox; how many records. Never raises: what cannot be taken stays there,
    and is said."""
    haul = Haul()
    try:
        fd = await trio.to_thread.run_sync(open_queue, path)
        if fd is None:
            return 0
        try:
            await _copy(fd, path, outbox, haul)
        finally:
            os.close(fd)
    except (StoreError, OSError) as error:
        if haul.records or haul.bad:
            text = f"{haul.records} records are taken over{_left_out(haul)}; the rest stays there until the next start"
        else:
            text = "its records are not taken over, and stay there"
        say("error", f"queue_file: {text}: {error}")
    else:
        if haul.records or haul.bad:
            say("notice", f"{path}: {haul.records} records of the C program's queue taken over{_left_out(haul)}")
    return haul.records


def _left_out(haul: Haul) -> str:
    return f"; {haul.bad} entries were no records, and are left out" if haul.bad else ""


async def _copy(fd: int, path: Path, outbox: Outbox, haul: Haul) -> None:
    ring = await trio.to_thread.run_sync(read_ring, fd, path)
    while ring.length:
        batch = await trio.to_thread.run_sync(read_batch, fd, ring)
        reader = LineReader()
        reader.feed(b"".join([each if each.endswith(b"\n") else each + b"\n" for each in batch if each is not None]))
        data, records = reader.take()
        ring = ring.after(len(batch))
        block = Block(data, records, "queue_file", time.monotonic())
        try:
            room = not records or await outbox.accept([block], unread(outbox.stream.books, records), sync=True)
            if room:
                with trio.CancelScope(shield=True):  # it is in the spool: nothing is to come between
                    await trio.to_thread.run_sync(write_ring, fd, ring)
        except (StoreError, OSError) as error:
            raise QueueError(f"{error}; up to {records} more may be in the spool as well, and come twice") from error
        if not room:
            raise QueueError("the spool has no room for it")
        haul.records += records
        haul.bad += sum(each is None for each in batch) + len(reader.bad)
