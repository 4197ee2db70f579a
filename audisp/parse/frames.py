"""Reader of auditd's binary protocol: 16-byte headers, each followed by a payload (upstream.md 2.1, 2.5).

Three streams carry that name, and the reader finds out by itself which it has:

- dense: header, `size` bytes, next header (auditd 4.1.1 and later);
- slots: header, always 8,970 bytes, next header; what follows `size` bytes is residue of earlier records (before);
- out of step: headers or pieces are missing (af_unix of 4.2.2 loses a header when its input runs dry between the two
  writes that make a frame; peers-measured.md, surprise 3).

A record is given out as soon as `size` bytes of it are there; whether the stream is dense or has slots only decides
where the next header is looked for. Where none is, the stretch up to the next plausible one is rejected as one entry.
A header is plausible if all its fields are, and the payload starts as one must. Nobody who can only write text into
audit records can forge one, for it holds NULs, and the kernel ends a user's text at the first NUL.
"""

from __future__ import annotations

import re
import struct
from typing import Final, Literal

from audisp.parse.form import MAX_PAYLOAD, from_kernel
from audisp.parse.lines import HEAD
from audisp.parse.stream import DATA_KEPT, Kind, Rejected
from audisp.record import MAX_RECORD

HEADER_SIZE: Final = 16
"""Bytes of a header, which also says so itself."""

MAX_SIZE: Final = 9_225
"""Largest `size` believed: auditd's formatting buffer. Its own frames say at most 8,970, or 8,971 for a cut enriched
record; af_unix that gets strings and sends binary says the line's length, which may be up to the buffer's."""

MIN_SIZE: Final = len(b"audit(0.0:0):")
"""Smallest `size` believed: a record has at least its stamp."""

PROBE: Final = HEADER_SIZE + len(b"audit(")
"""Bytes looked at to tell a header: itself and the start of its payload."""

_HEADER: Final = struct.Struct("=4I")
_MARK: Final = struct.pack("=I", HEADER_SIZE)  # a header's second field, sought when out of step
_STARTS: Final[tuple[tuple[bytes, ...], ...]] = ((b"audit(",), (b"type=", b"node="))  # of a payload, by version
_NO_TYPE: Final = 0xFFFFFFFF  # -1: what auditd puts for a network record whose type it cannot read
_STAMP: Final = re.compile(rb"audit\([0-9]{1,20}\.[0-9]{1,3}:[0-9]{1,20}\):")

Form = Literal["string", "binary"]


def sniff(first: bytes) -> Form | None:
    """Which form a stream has, by its first byte, as auditd's own plugins tell; None: no byte yet."""
    if not first:
        return None
    return "binary" if first[0] in (0, 1) else "string"


def frame_size(data: bytes, at: int) -> int:
    """Payload size of the plausible header at `at`; 0 if there is none. `data` must have PROBE bytes from there."""
    version, length, type_, size = _HEADER.unpack_from(data, at)
    if length != HEADER_SIZE or version > 1 or not MIN_SIZE <= size <= MAX_SIZE:
        return 0
    if not (1000 <= type_ <= 0xFFFF or (version == 1 and type_ in (0, _NO_TYPE))):
        return 0
    return size if data.startswith(_STARTS[version], at + HEADER_SIZE) else 0


class FrameReader:
    """`Reader` of frames. max_record: longest record given out, as a line with its LF."""

    def __init__(self, max_record: int = MAX_RECORD) -> None:
        self.bad: list[Rejected] = []
        self.rejected = self.rejected_bytes = self.skipped = self.resyncs = self.unterminated = self.accepted_bytes = 0
        self._max = max_record
        self._good: list[bytes] = []
        self._begin()

    def _begin(self) -> None:
        self._buffer = b""
        self._slots: bool | None = None  # None: not known yet
        self._rest = 0  # while that is not known: bytes from the last payload's end to the end of its slot
        self._residue = 0  # bytes still to be skipped to the end of a slot
        self._in_step = True
        self._stretch = b""  # first bytes of what is passed over while out of step
        self._passed = 0  # all bytes of that
        self._reported = False  # that stretch is entered in the books; what follows of it only adds bytes

    @property
    def slots(self) -> bool | None:
        """True: fixed slots. False: dense. None: not known yet."""
        return self._slots

    @property
    def pending(self) -> int:
        return len(self._buffer) + (0 if self._reported else self._passed)

    def take(self) -> tuple[bytes, int]:
        records = len(self._good)
        good = b"".join(self._good)
        self._good = []
        return good, records

    def feed(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while True:
            if self._residue:
                step = min(self._residue, end - at)
                self._residue -= step
                self.skipped += step
                at += step
            if end - at < PROBE:
                break
            size = frame_size(data, at)
            if not size:
                at = self._seek(data, at)
                if not self._in_step:
                    break
                continue
            if not self._in_step:
                self._found(slot=self._passed == self._rest)
            after = at + HEADER_SIZE + size
            if after > end:
                break
            if self._rest:  # the last record was followed at once by a header
                self._slots, self._rest = False, 0
            inner = _inner(data, at + HEADER_SIZE, after)
            if inner < 0:
                break
            if inner:
                self._pass_over(data[at:inner])
                self._found(slot=False)
                at = inner
                continue
            self._take_frame(data, at, after)
            at = after
            if self._slots:
                self._residue = max(0, MAX_PAYLOAD - size)
            elif self._slots is None:
                self._rest = max(0, MAX_PAYLOAD - size)
        self._buffer = data[at:]

    def close(self, *, whole: bool = True) -> None:
        # A frame says its size, so that an incomplete one is torn, whatever `whole` says.
        left = self._buffer
        size = frame_size(left, 0) if self._in_step and len(left) >= PROBE else 0
        after = HEADER_SIZE + size
        if size and len(left) >= after:  # whole, and only waited for what might follow
            self._take_frame(left, 0, after)
            left = left[after:]
        if self._rest and self._passed + len(left) == self._rest and not self._reported:
            self.skipped += self._rest  # one slot was all there was
        elif left or self._passed:
            self._pass_over(left)
            self._report()
        self._begin()

    def _seek(self, data: bytes, at: int) -> int:
        # Out of step at `at`: pass over all up to the next plausible header, or what cannot start one. Where it ends.
        self._in_step = False
        last = len(data) - PROBE
        mark = data.find(_MARK, at + 4)
        while mark >= 0 and mark - 4 <= last:
            found = mark - 4
            if frame_size(data, found):
                self._pass_over(data[at:found])
                self._found(slot=self._passed == self._rest)
                return found
            mark = data.find(_MARK, mark + 1)
        self._pass_over(data[at : last + 1])
        return last + 1

    def _pass_over(self, data: bytes) -> None:
        if self._reported:
            self.rejected_bytes += len(data)
            return
        self._stretch += data[: DATA_KEPT - len(self._stretch)]
        self._passed += len(data)
        # An endless stretch is reported before its end; not before it is certain that it is not a slot's residue.
        if self._passed >= DATA_KEPT and self._passed > self._rest:
            self._report()

    def _report(self) -> None:
        if not self._reported:
            torn = self._stretch.startswith((b"audit(", b"type=", b"node=")) or _frame_starts(self._stretch)
            kind: Kind = "torn" if torn else "garbage"
            self.bad.append(Rejected(kind, self._stretch, self._passed))
            self.rejected += 1
            self.rejected_bytes += self._passed
            self._reported = True

    def _found(self, *, slot: bool) -> None:
        # A plausible header ends the stretch.
        if slot:
            self.skipped += self._passed
            self._slots = True
        else:
            self._report()
            self.resyncs += 1
            self._slots = None
        self._rest, self._stretch, self._passed = 0, b"", 0
        self._in_step, self._reported = True, False

    def _take_frame(self, data: bytes, at: int, after: int) -> None:
        version, _, type_, size = _HEADER.unpack_from(data, at)
        payload = data[at + HEADER_SIZE : after]
        if version == 0:
            line = from_kernel(type_, payload)
            good = _STAMP.match(payload) is not None
        else:
            line = whole_text(payload)
            good = HEAD.match(line) is not None
        if good and len(line) <= self._max:
            self._good.append(line)
            self.accepted_bytes += HEADER_SIZE + size
            return
        self.bad.append(Rejected("oversized" if good else "garbage", payload[:DATA_KEPT], HEADER_SIZE + size))
        self.rejected += 1
        self.rejected_bytes += HEADER_SIZE + size


def _inner(data: bytes, start: int, end: int) -> int:
    # Where, from inside the payload start:end, a header of the next frame starts: the end of this frame was lost then.
    # 0: nowhere. -1: more bytes must come to tell. Only a payload with a NUL needs the look, and hardly any has one.
    if data.find(b"\0", start, end) < 0:
        return 0
    last = len(data) - PROBE
    mark = data.find(_MARK, start + 4, end + 7)
    while mark >= 0 and mark - 4 <= last:
        if frame_size(data, mark - 4):
            return mark - 4
        mark = data.find(_MARK, mark + 1, end + 7)
    return 0 if end - 1 <= last else -1


def _frame_starts(data: bytes) -> bool:
    return len(data) >= PROBE and frame_size(data, 0) > 0


def whole_text(payload: bytes) -> bytes:
    """A version 1 payload as a line: its end mark (LF or NUL) off, the rest as `from_kernel` does."""
    if b"\0" in payload:
        payload = payload[: payload.index(b"\0")]
    return payload.removesuffix(b"\n").replace(b"\n", b" ") + b"\n"
