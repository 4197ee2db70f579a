"""The way through one log and the files it was rotated into: what to read next. All that touches the disk happens here,
in a thread of the source `follow`, one `step` at a time.

One file is read at a time, to its end, and then the next newer one. Which that is, the names and inodes of the moment
say (siblings.py); where we are, after a restart or a truncation, the hashes of a position (position.py). A file is left
when a newer one has something in it, and nothing more has come after that was seen: a writer that goes on with the old
file for a while after its renaming (as under logrotate, until it is told) is read until it begins the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import Final

import attrs

from audisp.sources.bad import Level
from audisp.sources.compressed import KINDS, MAGIC_BYTES, form_of, open_regular
from audisp.sources.descriptor import READ_AHEAD
from audisp.sources.opened import Changed, Opened, stamp_of
from audisp.sources.places import exact_place, open_at, place_of, read_to, shown, truncated
from audisp.sources.position import NO_STAMP, Position, Stamp
from audisp.sources.siblings import (
    PROBE,
    Busy,
    Sibling,
    begins_as,
    first_stamp,
    listing,
    open_sibling,
    row,
    written_since,
)

ABSENT_STEPS: Final = 4
"""Steps at the end of a file for which there may be none of its name before that is said: between the two system calls
of a rotation there is none."""


@attrs.frozen
class Chunk:
    """Bytes to be routed. position: how far the log was read once they are; None if they end no line."""

    data: bytes
    position: Position | None


@attrs.define
class Step:
    """What one look brought, in the order in which it is to be done."""

    counts: list[str] = attrs.field(factory=list)
    """Counters that grew by one."""
    said: list[tuple[Level, str]] = attrs.field(factory=list)
    state: tuple[Level, str] | None = None
    """How things stand; to be said when that is new."""
    torn: bool = False
    """The line that was begun will not be continued."""
    again: bool = False
    """The line that was begun comes once more, from its start."""
    position: Position | None = None
    """Where reading begins, if nothing is known before it."""
    entered: int | None = None
    """Offset in the file that was opened, at which reading goes on: the end of the last line that was read, or 0."""
    anew: bool = False
    """That file was read before, and is no longer what it was."""
    name: str = ""
    """Path of the file of these chunks, as it was when it was opened; empty without chunks."""
    chunks: list[Chunk] = attrs.field(factory=list)
    idle: bool = False
    """Nothing more is there now."""


class Trail:
    """Steps through one log. `step` is for one thread at a time; `close` may come while it runs."""

    def __init__(self, path: str, position: Position | None = None) -> None:
        """path: absolute. position: where an earlier run was. Nothing is opened yet."""
        self._path = path
        self._folder = os.path.dirname(path)
        self._position = position
        self._log: Opened | None = None
        self._next: tuple[int, int] | None = None  # the newer file that was there when this one's end was reached
        self._judged: list[Sibling] = []  # files that brought nothing to go on with, not to be opened again
        self._judged_size = 0
        self._absent = 0
        self._gone = False
        self._lock = threading.Lock()
        self._busy = self._closed = False

    def check(self) -> None:
        """Raises OSError, with a reason for a person, if there is something of that name that can never be followed."""
        try:
            file, _ = open_regular(self._path, links=False)
        except FileNotFoundError:
            return
        try:
            if form_of(os.pread(file, MAGIC_BYTES, 0)) != "plain":
                raise OSError(errno.EINVAL, "it is compressed, and so will not grow; use file:PATH")
        finally:
            os.close(file)

    def step(self) -> Step:
        """The next bytes, or what is to be done before there are some. Blocks for the disk."""
        step = Step()
        with self._lock:
            if self._closed:
                return step
            self._busy = True
        try:
            if self._log is None:
                self._find(step)
            elif not self._read(step, self._log):
                self._pass_on(step, self._log)
        except Busy:
            step.idle = True
        except OSError as error:
            # Nothing was done yet; it is tried again by the next step.
            level: Level = "notice" if isinstance(error, FileNotFoundError) else "error"
            step.state, step.idle = (level, f"waiting: {error.strerror or error}"), True
        finally:
            self._end_step()
        return step

    def close(self) -> None:
        """Close what is open, or have the thread that reads it do so."""
        with self._lock:
            self._closed = True
            if not self._busy:
                self._leave()

    def _end_step(self) -> None:
        with self._lock:
            self._busy = False
            if self._closed:
                self._leave()

    # ---- reading ----

    def _read(self, step: Step, log: Opened) -> bool:
        """Read on; False at the end."""
        try:
            while len(step.chunks) < READ_AHEAD and (data := log.more()):
                step.chunks.append(Chunk(data, log.take(data)))
        except Changed:
            if not step.chunks:  # else it shows again in the next step
                self._find_rest(step, log)
                return True
        except OSError as error:
            if not step.chunks:
                self._fail(step, log, error)
                return True
        if step.chunks:
            self._next, step.name = None, log.name
        return bool(step.chunks)

    def _pass_on(self, step: Step, log: Opened) -> None:
        """At the end of a file: go over to the next, if there is one and it is its turn."""
        step.idle = True
        if not self._look(step, log):
            return
        files = listing(self._path)
        size = sum(each.size for each in files if each.kind == "log")
        if files == self._judged and size == self._judged_size:
            return
        newer, gone = self._newer(files, log)
        if not newer or (newer[0].kind == "log" and not newer[0].size):
            self._judged, self._judged_size = files, size
            return
        if self._next != newer[0].id:
            # What was written before that one was begun is read first. If even that one was rotated away, whoever
            # writes has long gone over to it; else he gets a little more time. So does who is packing this one.
            self._next = newer[0].id
            step.idle = gone or newer[0].kind == "log"
            return
        opened = self._open_first(step, newer)
        step.torn, step.idle = True, False
        step.counts.append("rotations")
        if log.store.damage is not None:
            step.counts.append("damaged")
            step.said.append(("error", f"{log.name}: {log.store.damage}"))
        if gone:
            step.counts.append("gaps")
            step.said.append(("warning", _gap(log.last, opened)))
        self._enter(step, opened)

    def _look(self, step: Step, log: Opened) -> bool:
        """Whether there may be a newer file than this one."""
        try:
            facts = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError as error:
            self._absent += 1
            if self._absent >= ABSENT_STEPS:
                step.state = ("notice", f"waiting: {error.strerror}")
            return True  # from one rotated file to the next one does not need the log itself
        self._absent = 0
        if (facts.st_dev, facts.st_ino) == (log.device, log.inode):
            step.state = ("info", "following")
            return False
        if not stat.S_ISREG(facts.st_mode):
            kind = KINDS.get(stat.S_IFMT(facts.st_mode), "it is not a regular file")
            step.state = ("error", f"waiting: {kind}")
        return True

    def _newer(self, files: list[Sibling], log: Opened) -> tuple[list[Sibling], bool]:
        """The files to be read after this one, in order, and whether that is a guess because this one is gone."""
        mine = next((each for each in files if each.id == (log.device, log.inode)), None)
        if mine is None and log.offset:
            # Packed in the meantime, or a copy.
            position = log.position()
            mine = next((each for each in reversed(files) if begins_as(self._folder, each, position)), None)
        if mine is not None:
            order = row(files, mine.kind)
            return ([] if mine.kind == "log" else order[order.index(mine) + 1 :]), False
        if not log.offset:
            return written_since(files, log.since, (log.device, log.inode)), False
        return self._surely_newer(files, log.first), True

    def _surely_newer(self, files: list[Sibling], first: Stamp) -> list[Sibling]:
        """The files that begin after a log that began with that stamp; at least the log itself.

        Beginnings are compared, which lie a whole file apart, as the end of one and the beginning of the next do not.
        """
        order = row(files)
        if first != NO_STAMP:
            for at, each in enumerate(order):
                if first_stamp(self._folder, each)[:2] >= first[:2]:
                    return order[at:]
        return order[-1:] if order and order[-1].kind == "log" else []

    # ---- finding the place ----

    def _find(self, step: Step) -> None:
        """Nothing is open: at the start, or after an error."""
        files = listing(self._path)
        log = next((each for each in files if each.kind == "log"), None)
        position = self._position
        opened: Opened | None = None
        if position is not None and not position.head_bytes:
            written = written_since(files, position.since, (position.device, position.inode))
            opened = self._open_first(step, written) if written else None
        elif position is not None:
            opened, changed = place_of(self._folder, files, position)
            if changed:
                step.anew = True
                step.counts.append("truncations")
                step.said.append(("warning", changed))
            if opened is None:
                newer = self._surely_newer(files, position.first)
                if newer and not self._gone:
                    # It may be about to get another name; at the next look it has one, or is gone.
                    self._gone = step.idle = True
                    return
                opened = self._open_first(step, newer) if newer else None
                if opened is not None:
                    step.counts.append("gaps")
                    step.said.append(("warning", _gap(position.last, opened)))
        elif log is not None:
            opened = open_sibling(self._folder, log)
            step.position = opened.position()
        if opened is None:
            step.idle = True
            if log is None:
                step.state = ("notice", f"waiting: {os.strerror(errno.ENOENT)}")
            return
        self._enter(step, opened)

    def _find_rest(self, step: Step, log: Opened) -> None:
        """The file was truncated, or written anew, while it was open."""
        position = log.position()
        files = listing(self._path)
        mine = next((each for each in files if each.id == (log.device, log.inode)), None)
        own, match = (None, "other") if mine is None else open_at(self._folder, mine, position)
        if own is not None and match == "here":  # nothing but the line that was begun is another
            step.again = True
            self._enter(step, own)
            return
        if own is not None:
            own.store.close()
        others = [each for each in files if each is not mine]
        copy = exact_place(self._folder, others, position) if position.offset else None
        if copy is not None:
            # As `copytruncate` of logrotate leaves it.
            step.again = True
            step.counts.append("truncations")
            step.said.append(("notice", f"{log.name} was truncated; its copy {copy.name} has the rest"))
            self._enter(step, copy)
            return
        if mine is None:
            # Neither it nor a copy has a name any more: what is newer is looked for.
            self._position = position
            self._leave()
        else:
            self._enter(step, open_sibling(self._folder, mine))
            step.anew = True
        step.torn = True
        step.counts.append("truncations")
        step.said.append(("warning", truncated(log.name, position)))

    # ---- files ----

    def _open_first(self, step: Step, newer: list[Sibling]) -> Opened:
        """Open the first that can be opened, of at least one. Raises Busy, or OSError if none can be."""
        *before, last = newer
        opened: Opened | None = None
        left_out: list[tuple[Level, str]] = []
        for each in before:
            try:
                opened = open_sibling(self._folder, each)
                break
            except OSError as error:
                path = os.path.join(self._folder, each.name)
                left_out.append(("error", f"{path} is left out: {error.strerror or error}"))
        opened = opened or open_sibling(self._folder, last)
        step.said += left_out
        step.counts += ["gaps"] * len(left_out)
        return opened

    def _enter(self, step: Step, log: Opened) -> None:
        self._leave()
        self._log, self._next, self._judged, self._gone = log, None, [], False
        step.entered = log.offset
        if log.name != self._path:
            step.state = ("info", f"reading {log.name}, which was rotated away")

    def _leave(self) -> None:
        if self._log is not None:
            self._log.store.close()
            self._log = None

    def _fail(self, step: Step, log: Opened, error: OSError) -> None:
        """It cannot be read on: it is looked for anew, to go on at the line that was begun."""
        self._position = log.position()
        step.counts.append("read_errors")
        step.state = ("error", f"waiting: {error.strerror or error} while reading {log.name}")
        step.idle = step.again = True
        self._leave()


def _gap(last: Stamp, opened: Opened) -> str:
    first = NO_STAMP
    with contextlib.suppress(OSError):
        first = stamp_of(opened.store.read(0, PROBE))
    goes_on = f" with {shown(first)}" if first != NO_STAMP else ""
    return f"the file read last is gone; goes on in {opened.name}{goes_on}; {read_to(last)}, and more may be missing"
