"""Reader of string form: one record per line (upstream.md 2.2; also auditd's log form and ``node=`` lines).

A line is a record if it starts as one (`HEAD`), is no longer than `max_record`, and holds no NUL. One line that is
none does not touch its neighbours. What a user-space program wrote into its record is not looked at: a stamp in the
middle of a line makes no second record.
"""

from __future__ import annotations

import re
from typing import Final

from audisp.parse.form import longest_exceeds
from audisp.parse.stream import DATA_KEPT, Kind, Rejected
from audisp.record import MAX_RECORD

# Possessive only on single sets: Debian 12's Python 3.11.2 mismatches possessive groups (cpython gh-106052). The names
# of types are listed as a set because re tests that with one look-up.
_HEAD_TEXT: Final = rb"(?:node=[^ \n]++ )?type=[A-Za-z0-9_[\]]++ msg=audit\([0-9]{1,20}+\.[0-9]{1,3}+:[0-9]{1,20}+\):"
HEAD: Final = re.compile(_HEAD_TEXT)
"""How every record starts: as `audisp.record.STAMP`, with the colon."""

_RUN_END: Final = re.compile(rb"\n(?!" + _HEAD_TEXT + rb")")
_BLANK: Final = re.compile(rb"\n+")  # at once: one by one, 256 KiB of them would hold the loop for a quarter second
_STAMP_BEGUN: Final = re.compile(rb"[0-9]{1,20}(?:\.(?:[0-9]{1,3}(?::(?:[0-9]{1,20}\)?)?)?)?)?\Z")


class LineReader:
    """`Reader` of lines. max_record: longest line accepted, LF included."""

    def __init__(self, max_record: int = MAX_RECORD) -> None:
        self.bad: list[Rejected] = []
        self.rejected = self.rejected_bytes = self.skipped = self.resyncs = self.unterminated = self.accepted_bytes = 0
        self._max = max_record
        self._kept = min(DATA_KEPT, max_record)  # of an oversized line no more is certain to be at hand at once
        self._good: list[bytes] = []
        self._records = 0
        self._tail: list[bytes] = []  # pieces of the line that has no LF yet
        self._held = 0  # their bytes
        self._dropping = False  # inside an oversized line, up to its LF

    @property
    def pending(self) -> int:
        return self._held

    def take(self) -> tuple[bytes, int]:
        good = b"".join(self._good) if len(self._good) != 1 else self._good[0]
        records = self._records
        self._good, self._records = [], 0
        return good, records

    def feed(self, data: bytes) -> None:
        if self._dropping:
            end = data.find(b"\n") + 1
            self.rejected_bytes += end or len(data)
            if not end:
                return
            self._dropping = False
            data = data[end:]
        cut = data.rfind(b"\n") + 1
        if cut:
            lines = data[:cut]
            if self._held:
                self._tail.append(lines)
                lines = b"".join(self._tail)
                self._tail, self._held = [], 0
            self._take_lines(lines)
            data = data[cut:]
        if not data:
            return
        self._tail.append(data)
        self._held += len(data)
        if self._held >= self._max:  # without its LF already too long
            self._reject("oversized", b"".join(self._tail))
            self._tail, self._held = [], 0
            self._dropping = True

    def close(self, *, whole: bool = True) -> None:
        self._dropping = False
        tail = b"".join(self._tail)
        self._tail, self._held = [], 0
        if not tail:
            return
        if whole and self._fault(tail) is None:
            self._good.append(tail + b"\n")
            self._records += 1
            self.accepted_bytes += len(tail)
            self.unterminated += 1
        else:
            self._reject("torn", tail)

    def _take_lines(self, data: bytes) -> None:
        # Run by run of lines that start as records: one search over all of it when every line does.
        start, stop = 0, len(data)
        while start < stop:
            if HEAD.match(data, start):
                found = _RUN_END.search(data, start, stop - 1)
                end = found.start() + 1 if found else stop
                self._take_run(data[start:end])  # all of a bytes object is not copied
            elif blank := _BLANK.match(data, start, stop):
                end = blank.end()
                self.skipped += end - start
            else:
                end = data.index(b"\n", start) + 1
                self._take_line(data[start:end])
            start = end

    def _take_run(self, run: bytes) -> None:
        if b"\0" in run or longest_exceeds(run, self._max - 1):
            for line in run[:-1].split(b"\n"):
                self._take_line(line + b"\n")
        else:
            self._good.append(run)
            self.accepted_bytes += len(run)
            self._records += run.count(b"\n")

    def _take_line(self, line: bytes) -> None:
        if fault := self._fault(line[:-1]):
            self._reject(fault, line)
        else:
            self._good.append(line)
            self.accepted_bytes += len(line)
            self._records += 1

    def _fault(self, line: bytes) -> Kind | None:
        # What is wrong with a line, given without its LF.
        if len(line) >= self._max:
            return "oversized"
        if b"\0" in line:
            return "garbage"
        if HEAD.match(line):
            return None
        return "torn" if _is_torn(line) else "garbage"

    def _reject(self, kind: Kind, data: bytes) -> None:
        self.bad.append(Rejected(kind, data[: self._kept].removesuffix(b"\n"), len(data)))
        self.rejected += 1
        self.rejected_bytes += len(data)


def _is_torn(line: bytes) -> bool:
    # Whether bytes that are no record would be one if only more had followed.
    if line.startswith(b"node="):
        _, space, line = line.partition(b" ")
        if not space:
            return True
    if not line.startswith(b"type="):
        return b"type=".startswith(line) or b"node=".startswith(line)
    _, space, rest = line.partition(b" ")
    if b"msg=audit(".startswith(rest):
        return True
    return rest.startswith(b"msg=audit(") and _STAMP_BEGUN.match(rest, 10) is not None
