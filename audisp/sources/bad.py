"""What a source refused: kept aside up to a bound, written to a bounded file, and reported without flooding the log.

Rejected bytes are whatever somebody sent, so nothing of them reaches a log or a file unescaped: the file holds one JSON
object per line with the bytes in hexadecimal, the log a short escaped excerpt. Keeping never raises and never waits for
more than one write to ``runtime_dir``; what could not be kept is counted.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Final, Literal

from audisp.parse.form import terminal_safe
from audisp.parse.stream import Rejected

RING_BYTES: Final = 64 * 1024
"""Bytes of rejected data kept in memory per source: four records of the greatest length, or hundreds of common ones,
which shows what is wrong with a stream; no more, because a source may be fed garbage on purpose."""

RING_ENTRIES: Final = 1024
"""Rejects kept in memory per source: bounds the ring when each holds next to nothing."""

FILE_BYTES: Final = 1024 * 1024
"""Length at which the file is renamed to NAME.1 and begun anew, so that one source takes at most twice this of /run,
which is memory."""

WRITES_PER_SECOND: Final = 200
"""Rejects written to the file in one second. A flood of garbage must not cost more than its parsing."""

REPORT_SECONDS: Final = 10.0
"""At most one report per source in this time; what came in between is in the next one's counts."""

EXCERPT: Final = 80
"""Characters of a reject shown in a report."""

Level = Literal["debug", "info", "notice", "warning", "error", "critical"]
Say = Callable[[Level, str], None]
"""Puts one line in the dispatcher's log."""


def file_name(source: str) -> str:
    """Name of the file of a source's rejects: safe as a path component, and different for different sources."""
    cleaned = re.sub(r"[^A-Za-z0-9.-]+", "_", source)[:64].strip("_")
    mark = "" if cleaned == source else f"-{zlib.crc32(os.fsencode(source)):08x}"
    return f"rejected-{cleaned}{mark}"


class Rejects:
    """Keeper of one source's rejected input. To be used by one thread at a time."""

    def __init__(
        self,
        source: str,
        say: Say,
        *,
        folder: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        """folder: where the file goes (runtime_dir); None keeps in memory alone. Nothing is opened yet."""
        self.source = source
        self.path = None if folder is None else os.path.join(folder, file_name(source))
        self.ring: collections.deque[Rejected] = collections.deque()
        self.kinds: collections.Counter[str] = collections.Counter()
        """Rejects of each kind since the start."""
        self.unkept = 0
        """Rejects that are not in the file: written too fast, or the file could not be written."""
        self._say, self._clock, self._file_bytes = say, clock, file_bytes
        self._held = 0
        self._file: int | None = None
        self._length = 0
        self._second, self._written = 0.0, 0
        self._reported_at: float | None = None
        self._reported = 0
        self._refused = ""

    @property
    def total(self) -> int:
        """Rejects since the start."""
        return sum(self.kinds.values())

    def keep(self, bad: Sequence[Rejected]) -> None:
        """Keep what was rejected, in order; report, unless that was done lately.

        The cost of a flood is bounded: of one call only the first that may still be written are written, and only the
        last that the ring can hold are looked at, so that 256 KiB of two-byte lines do not hold up the loop.
        """
        self.kinds.update([each.kind for each in bad])
        for each in bad[-RING_ENTRIES:]:
            self.ring.append(each)
            self._held += len(each.data)
            while self._held > RING_BYTES or len(self.ring) > RING_ENTRIES:
                self._held -= len(self.ring.popleft().data)
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._written = now, 0
        written = 0
        if self.path is not None:
            for each in bad[: WRITES_PER_SECOND - self._written]:
                if not self._append(self.path, each):
                    break
                written += 1
        self._written += written
        self.unkept += len(bad) - written
        self.report()

    def report(self, *, final: bool = False) -> None:
        """Say what was rejected since the last report, if anything, and if it is time (or final)."""
        total = self.total
        now = self._clock()
        due = self._reported_at is None or now - self._reported_at >= REPORT_SECONDS
        if total == self._reported or not (due or final):
            return
        fresh, self._reported, self._reported_at = total - self._reported, total, now
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        where = f"; kept in {self.path}" if self._file is not None else ""
        last = self.ring[-1]
        shown = terminal_safe(last.data[: 4 * EXCERPT], EXCERPT)
        self._say(
            "warning",
            f"source {self.source}: {fresh} rejected ({total} in all: {kinds}), "
            f'the last, {last.kind}: "{shown}"{where}',
        )

    def close(self) -> None:
        """Report what was not yet reported, and close the file."""
        self.report(final=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, path: str, bad: Rejected) -> bool:
        line = {"time": round(time.time(), 3), "source": self.source, "kind": bad.kind, "size": bad.size}
        data = json.dumps({**line, "hex": bad.data.hex()}).encode() + b"\n"
        try:
            if self._file is not None and self._length + len(data) > self._file_bytes:
                os.close(self._file)
                self._file = None
                os.replace(path, f"{path}.1")
            if self._file is None:
                self._file, self._length = _open(path)
            self._length += os.write(self._file, data)
        except OSError as error:
            self._refuse(f"{path}: {error.strerror or error}")
            return False
        return True

    def _refuse(self, reason: str) -> None:
        # Said once per reason: the count of what is not kept stands in the books.
        if reason != self._refused:
            self._refused = reason
            self._say("error", f"source {self.source}: what is rejected cannot be kept: {reason}")


def _open(path: str) -> tuple[int, int]:
    """Descriptor and length of the file, made 0600. Raises OSError, also for a file that is not ours alone."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    file = os.open(path, flags, 0o600)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        if facts.st_uid != os.geteuid() or facts.st_nlink != 1 or facts.st_mode & 0o077:
            raise OSError(errno.EPERM, "is not a file of ours alone (owner, links or mode)")
    except BaseException:
        os.close(file)
        raise
    return file, facts.st_size
