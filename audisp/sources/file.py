"""The source ``file:PATH``: an audit log, or any capture in string or binary form, read to its end.

Replay: nothing is dropped; every queue that is full is waited for. The file is read up to the length it had when it was
opened, so that a dispatcher which itself writes to it, or whose work is audited into it, comes to an end.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, Literal

import trio

from audisp.errors import SourceError
from audisp.sources.bad import Rejects, Say
from audisp.sources.contract import Kind, Route, SourceBooks
from audisp.sources.descriptor import Descriptor, pour
from audisp.sources.inlet import Inlet, Pace
from audisp.sources.pace import live_pace, steady_pace

KINDS: Final = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a pipe; use stdin (audispd --source stdin < PATH)",
    stat.S_IFSOCK: "it is a socket; use unix:PATH",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}
"""What a path can be other than a file, and what to say of it."""


COMPRESSED: Final = {b"\x1f\x8b": "zcat", b"\xfd7zXZ": "xzcat", b"\x28\xb5\x2f\xfd": "zstdcat", b"BZh": "bzcat"}
"""First bytes of compressed files, and what unpacks them: read as they are, they would be megabytes of garbage."""


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
            raise SourceError(f"source {self.name}: {_reason(error)}") from error
        try:
            self.books.detail["size"] = f"{size:,} bytes"
            task_status.started()
            inlet = Inlet(self.books, route, self.rejects, pace=self._pace)
            read = await pour(descriptor, inlet, size)
            if read < size:
                self.books.detail["state"] = f"ended: the file was cut from {size} to {read} bytes while it was read"
            else:
                self.books.detail["state"] = "ended"
        finally:
            descriptor.close()
            self.rejects.close()


def open_file(path: str) -> tuple[Descriptor, int]:
    """The file and its length. Raises OSError with a reason for a person, also for what is no regular file.

    Symbolic links are followed: the path was given by whoever started us, and nothing is written through it.
    O_NONBLOCK is for a FIFO, whose opening would wait for a writer; it means nothing to a file.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, KINDS.get(stat.S_IFMT(facts.st_mode), "it is not a regular file"))
        first = os.pread(file, 8, 0)
        for magic, program in COMPRESSED.items():
            if first.startswith(magic):
                raise OSError(errno.EINVAL, f"it is compressed; use {program} PATH | audispd --source stdin")
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    except BaseException:
        os.close(file)
        raise
    return Descriptor(file), facts.st_size


def _reason(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return f"permission denied for uid {os.geteuid()}; auditd's logs are root's"
    if error.errno == errno.ENXIO:
        return KINDS[stat.S_IFSOCK]
    return error.strerror or str(error)
