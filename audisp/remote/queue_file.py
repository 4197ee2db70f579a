"""The C program's queue file: what it left there is taken over into the spool, in order, once.

Layout (upstream.md 5.6): a header of 32 bytes, big-endian (14 bytes of magic, version, reserved, number of entries,
size of an entry, index of the first one, how many are in use), padded to one entry; then a ring of entries, each a
text with its line end and a NUL. Written at the entry first, then in the header.

Taken over means: stored in the spool and synced, then the queue's length set to 0 in the same file. Killed between the
two we take it over twice: at least once, as the C program itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from audisp.errors import StoreError
from audisp.parse.lines import LineReader
from audisp.record import Block
from audisp.remote.outbox import Outbox
from audisp.sources.bad import Say

MAGIC: Final = b"\0audisp-remote"
HEADER: Final = struct.Struct(">14sBBIIII")
ENTRY: Final = 12_288
"""Bytes of an entry; the C programs know no other."""
MAX_ENTRIES: Final = 1 << 24
"""Most entries that a header is believed: 192 GiB of file, which no queue_depth asks for."""
BATCH: Final = 256
"""Entries read at once: 3 MiB."""
LENGTH_AT: Final = 28


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


def entries(fd: int, path: Path) -> Iterator[list[bytes | None]]:
    """What waits in the queue, the oldest first, in batches; None for an entry that is damaged. QueueError."""
    raw = os.pread(fd, HEADER.size, 0)
    if len(raw) < HEADER.size:
        raise QueueError(f"{path}: {len(raw)} bytes are no queue")
    magic, version, _, count, size, head, length = HEADER.unpack(raw)
    if magic != MAGIC or version or size != ENTRY:
        raise QueueError(f"{path}: is no queue of audisp-remote's")
    if not 0 < count <= MAX_ENTRIES or head >= count or length > count:
        raise QueueError(f"{path}: says {length} of {count} entries from {head} on, which cannot be")
    batch: list[bytes | None] = []
    for number in range(length):
        batch.append(_entry(fd, (head + number) % count))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _entry(fd: int, index: int) -> bytes | None:
    text, nul, _ = os.pread(fd, ENTRY, (index + 1) * ENTRY).partition(b"\0")
    return text if nul and text else None


def clear(fd: int) -> None:
    """Say in the file that it is empty. OSError."""
    os.pwrite(fd, struct.pack(">I", 0), LENGTH_AT)
    os.fdatasync(fd)


async def take_over(path: Path, outbox: Outbox, say: Say) -> int:
    """Take a C client's queue over into the outbox; how many records. Never raises: what cannot be taken stays there,
    and is said."""
    try:
        fd = await trio.to_thread.run_sync(open_queue, path)
        if fd is None:
            return 0
        try:
            taken, bad = await _copy(fd, path, outbox)
            if taken or bad:
                await trio.to_thread.run_sync(clear, fd)
                left_out = f"; {bad} entries were no records, and are left out" if bad else ""
                say("notice", f"{path}: {taken} records of the C program's queue taken over{left_out}")
            return taken
        finally:
            os.close(fd)
    except (StoreError, OSError) as error:
        say("error", f"queue_file: its records are not taken over: {error}")
        return 0


async def _copy(fd: int, path: Path, outbox: Outbox) -> tuple[int, int]:
    taken = bad = 0
    batches = entries(fd, path)
    while (batch := await trio.to_thread.run_sync(lambda: next(batches, None))) is not None:
        reader = LineReader()
        bad += sum(each is None for each in batch)
        reader.feed(b"".join([each if each.endswith(b"\n") else each + b"\n" for each in batch if each is not None]))
        data, records = reader.take()
        bad += len(reader.bad)
        if not records:
            continue
        block = Block(data, records, "queue_file", time.monotonic())
        if not await outbox.accept([block], outbox.stream.books, sync=True):
            raise QueueError("the spool has no room for it")
        taken += records
    return taken, bad
