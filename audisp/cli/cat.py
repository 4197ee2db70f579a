"""`audisp cat`: recorded logs, plain or packed, as events in any shape on standard output. Nothing here waits or plots;
it reads, assembles, renders, and writes in large pieces."""

from __future__ import annotations

import errno
import gc
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from audisp.config.grammar import shown
from audisp.errors import AudispError
from audisp.event import Batch, Run, count_lines, whole_runs
from audisp.parse.assemble import Assembler
from audisp.parse.form import longest_exceeds, terminal_safe
from audisp.parse.frames import FrameReader, sniff
from audisp.parse.lines import LineReader
from audisp.parse.record import RecordReader
from audisp.parse.stream import Reader
from audisp.record import MAX_RECORD, Block
from audisp.shapes.shape import Shape, render_batch
from audisp.sources.compressed import Damaged, LogReader, open_log

OK, NOTHING, TROUBLE = 0, 1, 2
"""Exit status: events were written; there were none; a file could not be read, or not to its end."""
STDIN: Final = "-"
COLLECT: Final = (20_000, 20, 10)
"""Thresholds of the garbage collector (gc module). What reading makes holds no circles, and all that is remembered
would be looked through again and again: a tenth of the time where nothing comes twice."""
HELD_BACK: Final = 4_096
"""Bytes of an event that is not complete at the end of a piece that are looked at again with the next one: a dozen
records. With a line that has no end yet they are less than what is allowed to wait, MAX_RECORD."""

Write = Callable[[bytes], None]
Pick = Callable[[Batch], Batch | None]


class OutputError(AudispError):
    """Standard output cannot be written to."""


class Sink:
    """Standard output: as it is into a file or a pipe, escaped onto a terminal."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._escape = os.isatty(file)

    def write(self, data: bytes) -> None:
        """All of it. Raises BrokenPipeError when nobody reads any more, OutputError for any other reason."""
        if self._escape:
            lines = [terminal_safe(line) for line in data.split(b"\n")]
            data = "\n".join(lines).encode("utf-8", "backslashreplace")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output: {error.strerror or error}") from error


def standard_output() -> int:
    """Its descriptor. Raises OutputError if it was closed."""
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    return sys.stdout.fileno()


class Catting:
    """The way of one or more files through one assembler: an event may begin in one file and end in the next."""

    def __init__(self, shape: Shape, write: Write, pick: Pick | None = None) -> None:
        self._shape = shape
        self._write = write
        self._pick = pick
        self._verbatim = getattr(shape, "name", "") == "raw"
        self._runs: Callable[[bytes], list[Run] | None] = getattr(shape, "runs", whole_runs)
        self._assembler = Assembler("cat", RecordReader(), recorded=True, at_once=True)
        self.events = 0
        """Written, where each has to be looked at; else batches."""
        self.rejected = 0
        """Lines and stretches that are no records."""

    def take(self, pieces: Iterator[bytes]) -> None:
        """One file. Raises what reading it raises, after all that came before was taken."""
        reader: Reader | None = None
        tail = b""
        try:
            for data in pieces:
                if reader is None:
                    form = sniff(data)
                    if form is None:
                        continue
                    reader = FrameReader() if form == "binary" else LineReader()
                if isinstance(reader, LineReader) and not reader.pending:
                    rest = self._pass(tail + data)
                    if rest is not None and len(rest) < MAX_RECORD:
                        tail = rest
                        continue
                    data = tail + data if rest is None else rest
                    tail = b""
                reader.feed(data)
                self._forward(reader)
        finally:
            if reader is not None:
                reader.feed(tail)
                reader.close()
                self._forward(reader)

    def _pass(self, data: bytes) -> bytes | None:
        """Take all whole lines at once, if every one is a record, which looking for events finds out in passing.
        Returns what is behind the last; None if the reader has to look at each line."""
        cut = data.rfind(b"\n") + 1
        lines = data[:cut]
        if b"\0" in lines or longest_exceeds(lines, MAX_RECORD - 1):
            return None
        found = self._runs(lines)
        if found is None:
            return None
        if found and len(found[-1][0]) <= HELD_BACK and not self._assembler.ends(found[-1]):
            # Most likely the next piece has the rest: then the event is never taken apart, nor put together.
            cut -= len(found.pop()[0])
            lines = data[:cut]
        if lines:
            self._assemble(lines, count_lines(lines), found)
        return data[cut:]

    def _assemble(self, data: bytes, records: int, found: list[Run] | None = None) -> None:
        now = time.monotonic()
        batch = self._assembler.feed(Block(data, records, "cat", now), now, found)
        if batch is not None:
            self._put(batch)

    def finish(self) -> None:
        """No more files."""
        batch = self._assembler.flush(time.monotonic())
        if batch is not None:
            self._put(batch)

    def _forward(self, reader: Reader) -> None:
        data, records = reader.take()
        if reader.bad:
            self.rejected += len(reader.bad)
            reader.bad.clear()
        if records:
            self._assemble(data, records)

    def _put(self, batch: Batch) -> None:
        if self._pick is not None:
            picked = self._pick(batch)
            if picked is None:
                return
            batch = picked
        if self._verbatim:
            self.events += 1
            self._write(batch.data)
            return
        texts = render_batch(self._shape, batch)
        self.events += len(texts)
        data = b"".join(texts)
        if data:
            self._write(data)


def pieces(name: str) -> Iterator[bytes]:
    """A file's content ("-": standard input), unpacked. Raises OSError."""
    if name == STDIN:
        yield from LogReader(0)
        return
    with _opened(name) as log:
        yield from log


def _opened(name: str) -> LogReader:
    """A file, or a pipe that has a name (``<(...)``). Raises OSError."""
    try:
        piped = stat.S_ISFIFO(os.stat(name).st_mode)
    except OSError:
        piped = False  # opening it says what is wrong
    if not piped:
        return open_log(name)
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return LogReader(file)
    except BaseException:
        os.close(file)
        raise


def cat(files: list[str], shape: Shape, *, head: bytes = b"", pick: Pick | None = None) -> int:
    """Write the events of these files ("-": standard input). Returns the exit status; complaints go to stderr.

    Raises OutputError or BrokenPipeError if nothing can be written any more.
    """
    gc.set_threshold(*COLLECT)
    sink = Sink(standard_output())
    status = OK
    catting = Catting(shape, sink.write, pick)
    if head:
        sink.write(head)
    for name in files:
        try:
            catting.take(pieces(name))
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(name, error)
            status = TROUBLE
    catting.finish()
    if catting.rejected:
        print(f"audisp cat: {catting.rejected:,} lines are no audit records, and were left out", file=sys.stderr)
    return status or (OK if catting.events else NOTHING)


def complain(name: str, error: OSError, command: str = "audisp cat") -> None:
    """Say on standard error what is wrong with a file."""
    what = "standard input" if name == STDIN else shown(name, limit=4096)[1:-1]
    if isinstance(error, Damaged):
        print(f"{command}: {what}: {error.strerror}; what came before it is above", file=sys.stderr)
    else:
        reason = error.strerror or errno.errorcode.get(error.errno or 0, str(error))
        print(f"{command}: {what}: {reason}", file=sys.stderr)
