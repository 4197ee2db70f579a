"""The source ``file:PATH``: an audit log, or any capture in string or binary form, read to its end.

Replay: nothing is dropped; every queue that is full is waited for. The file is read up to the length it had when it was
opened, so that a dispatcher which itself writes to it, or whose work is audited into it, comes to an end. A file packed
by gzip, xz or zstd, told by its content, is unpacked on the way.
"""

from __future__ import annotations

import os
import sys
from typing import Final, Literal

import trio

from audisp.errors import SourceError
from audisp.sources.bad import Rejects, Say
from audisp.sources.compressed import KINDS as KINDS
from audisp.sources.compressed import MAGIC_BYTES, LogReader, form_of, open_regular
from audisp.sources.contract import Kind, Route, SourceBooks
from audisp.sources.descriptor import READ_AHEAD, Descriptor, pour
from audisp.sources.inlet import RECEIVE, Inlet, Pace
from audisp.sources.pace import live_pace, steady_pace

ENDLESS: Final = sys.maxsize
"""Bytes to read of what has no known length: a compressed file ends where its own length does, not at this one."""


class _Packed(Descriptor):
    """A compressed file, whose chunks come out of it unpacked. Damage is raised once all before it has come."""

    def __init__(self, file: int, size: int) -> None:
        super().__init__(file)
        self.log = LogReader(file, most=size)

    def _chunks(self, most: int) -> list[bytes]:
        chunks: list[bytes] = []
        while len(chunks) < READ_AHEAD and most > 0:
            try:
                chunk = self.log.read(min(RECEIVE, most))
            except OSError:
                if not chunks:
                    raise
                break  # it is raised again by the next call
            if not chunk:
                break
            chunks.append(chunk)
            most -= len(chunk)
        return chunks


class FileSource:
    """Replays one regular file."""

    kind: Kind = "replay"

    def __init__(
        self,
        path: str,
        *,
        say: Say,
        runtime_dir: str | None = None,
        pace: float | Literal["live"] | None = None,
    ) -> None:
        """pace: as fast as it is taken when None; records per second; or "live", in the rhythm of its own stamps."""
        self.path = path
        self.name = f"file:{path}"
        self.books = SourceBooks(self.name, self.kind)
        self.rejects = Rejects(self.name, say, folder=runtime_dir)
        self._pace: Pace | None = None
        if pace == "live":
            self._pace = live_pace()
        elif pace is not None:
            self._pace = steady_pace(pace)

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the file; returns at its end. Raises SourceError if it cannot be opened, or read to its end."""
        try:
            descriptor, size = await trio.to_thread.run_sync(open_file, self.path, abandon_on_cancel=True)
        except OSError as error:
            raise SourceError(f"source {self.name}: {error.strerror or error}") from error
        packed = descriptor.log if isinstance(descriptor, _Packed) else None
        try:
            self.books.detail["size"] = f"{size:,} bytes" if packed is None else f"{size:,} bytes, {packed.form}"
            task_status.started()
            inlet = Inlet(self.books, route, self.rejects, pace=self._pace)
            read = await pour(descriptor, inlet, size if packed is None else ENDLESS)
            if packed is not None:
                read = packed.packed_bytes
                self.books.detail["unpacked"] = f"{packed.bytes:,} bytes"
            if read < size:
                self.books.detail["state"] = f"ended: the file was cut from {size} to {read} bytes while it was read"
            else:
                self.books.detail["state"] = "ended"
        except SourceError:
            if packed is not None and packed.damage is not None:
                self.books.count("damaged")
                self.books.detail["state"] = f"ended: {packed.damage}"
            raise
        finally:
            descriptor.close()
            self.rejects.close()


def open_file(path: str) -> tuple[Descriptor, int]:
    """The file and its length as it lies there. Raises OSError with a reason for a person, also for what is no regular
    file. Symbolic links are followed: the path was given by whoever started us, and nothing is written through it."""
    file, facts = open_regular(path)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        plain = form_of(os.pread(file, MAGIC_BYTES, 0)) == "plain"
        return (Descriptor(file) if plain else _Packed(file, facts.st_size)), facts.st_size
    except BaseException:
        os.close(file)
        raise
