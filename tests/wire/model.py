"""A sender's host, collectors, and what lies between them, as small as the promise needs them.

Only what is durable survives a crash: of what was written and not synced, any first part may be there afterwards.
A line between the two ends carries frames, and may lose, double or spoil any of them, or end at any byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import attrs

from audisp.buffer.segment import ANCHOR, PREFIX_BYTES, Frame
from audisp.errors import RemoteProtocolError
from audisp.wire.native import (
    MAX_WEIGHT,
    Accepted,
    Acknowledged,
    Bye,
    Closed,
    DataFrame,
    Duplicate,
    Hello,
    Hole,
    Ping,
    Position,
    Receiver,
    Refused,
    Sender,
    Troubled,
    Welcome,
)

SPOOL: Final = b"one spool's name"


def split(data: bytes) -> Iterator[bytes]:
    """The frames in what a session gave."""
    while data:
        head, packed = struct.unpack_from("<II", data, 8)
        size = PREFIX_BYTES + head + packed
        yield data[:size]
        data = data[size:]


@attrs.define
class Spool:
    """The sender's disk. frames: what is there; synced: how many of these are durable."""

    frames: list[DataFrame] = attrs.Factory(list)
    synced: int = 0
    front: Position = attrs.field(factory=lambda: Position(1, ANCHOR))
    made: int = 0
    truth: dict[int, bytes] = attrs.Factory(dict)
    """What each durable number names, for ever."""
    dropped: set[int] = attrs.Factory(set)
    acknowledged: set[int] = attrs.Factory(set)

    @property
    def end(self) -> Position:
        """Behind the last frame."""
        return self.frames[-1].after if self.frames else self.front

    @property
    def durable_end(self) -> int:
        """Number after the last durable record."""
        return self.frames[self.synced - 1].after.next if self.synced else self.front.next

    def append(self, records: int) -> None:
        """Records that were never there before, with the next numbers."""
        at = self.end
        lines = b"".join(b"record %d number %d\n" % (self.made + n, at.next + n) for n in range(records))
        self.made += records
        self.frames.append(DataFrame.make(Frame(at.next, records, "model", {}, at.last, 0, lines)))

    def sync(self) -> None:
        """All is durable."""
        for frame in self.frames[self.synced :]:
            for n, line in enumerate(frame.unpack().splitlines(keepends=True)):
                assert frame.first + n not in self.truth
                self.truth[frame.first + n] = line
        self.synced = len(self.frames)

    def crash(self, kept: int) -> None:
        """Of what is not synced, the first `kept` frames are found again, and are durable then."""
        del self.frames[self.synced + kept :]
        self.sync()

    def remove(self, upto: int) -> None:
        """What is below this number is no longer needed."""
        while self.synced and self.frames[0].after.next <= upto:
            self.front = self.frames.pop(0).after
            self.synced -= 1

    def drop_oldest(self) -> None:
        """Too full: the oldest frame goes, and is counted."""
        if self.synced:
            frame = self.frames[0]
            self.dropped |= set(range(frame.first, frame.after.next))
            self.remove(frame.after.next)

    def last_before(self, number: int) -> bytes | None:
        """Hash that the frame with this first record has as `previous`, None if that is not known any more."""
        for frame in self.frames:
            if frame.first == number:
                return frame.head.previous
        return self.end.last if number == self.end.next and number == self.durable_end else None

    def following(self, number: int) -> DataFrame | None:
        """The first durable frame from this number on."""
        return next((frame for frame in self.frames[: self.synced] if frame.first >= number), None)


@attrs.define
class Collector:
    """A collector's disk. stored: durable; written: given out by a session and not synced yet."""

    stored: list[DataFrame] = attrs.Factory(list)
    written: list[DataFrame] = attrs.Factory(list)

    @property
    def position(self) -> Position | None:
        """Read from the frames themselves."""
        return self.stored[-1].after if self.stored else None

    def sync(self) -> Position | None:
        """All is durable; where the stream stands then, None if nothing was new."""
        self.stored += self.written
        new, self.written = bool(self.written), []
        return self.position if new else None

    def crash(self, kept: int) -> None:
        """Of what is not synced, the first `kept` frames are found again."""
        self.stored += self.written[:kept]
        self.written = []

    def records(self) -> list[tuple[int, bytes]]:
        """Numbers and records in the order in which they lie there."""
        found = []
        for frame in self.stored + self.written:
            found += [(frame.first + n, line) for n, line in enumerate(frame.unpack().splitlines(keepends=True))]
        return found


class Connection:
    """One session from the spool to a collector: two shells as simple as shells can be, and a line between them.

    up, down: frames under way. Either end is None once it is dead or gone; the line is then of no use any more.
    """

    def __init__(self, spool: Spool, collector: Collector) -> None:
        # The rule of a collector: what an earlier connection gave out is stored before the next one is welcomed.
        collector.sync()
        self.spool, self.collector = spool, collector
        first = spool.following(0)
        self.sender: Sender | None = Sender(
            0.0,
            spool=SPOOL,
            first=first.first if first is not None else spool.durable_end,
            following=spool.durable_end,
        )
        self.receiver: Receiver | None = Receiver(0.0, window=MAX_WEIGHT, frames=6)
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.seen: list[type] = []
        self.flush()

    @property
    def alive(self) -> bool:
        """Whether both ends are."""
        return self.sender is not None and self.receiver is not None

    def flush(self) -> None:
        """What either end has to say is put on the line."""
        if self.sender is not None:
            self.up += split(self.sender.take())
        if self.receiver is not None:
            self.down += split(self.receiver.take())

    def send(self) -> None:
        """The sender's shell: all that fits, with what is missing stated."""
        sender = self.sender
        while sender is not None and (frame := self.spool.following(sender.next_record)) is not None:
            if not sender.fits(frame):
                return
            if frame.first > sender.next_record:
                missing = set(range(sender.next_record, frame.first))
                reason = "dropped" if missing & self.spool.dropped else "acknowledged"
                sender.gap(frame.first, reason, frame.head.previous, 0)
            else:
                sender.send(frame)
            self.flush()

    def store(self) -> None:
        """The collector's shell: one sync for all that was written, and then the acknowledgement."""
        position = self.collector.sync()
        if self.receiver is not None and position is not None and self.receiver.frames:
            self.receiver.stored(position)
            self.flush()

    def deliver_up(self, size: int) -> None:
        """The next bytes of the line to the receiver."""
        if self.receiver is None or not self.up:
            return
        data, self.up[0] = self.up[0][:size], self.up[0][size:]
        if not self.up[0]:
            del self.up[0]
        self.receiver.feed(data, 0.0)
        try:
            while (event := self.receiver.next()) is not None:
                self.seen.append(type(event))
                if isinstance(event, Hello):
                    self.receiver.welcome(self.collector.position, 0.0)
                elif isinstance(event, Accepted):
                    self.collector.written.append(event.frame)
                elif isinstance(event, Refused | Closed):
                    self.receiver = None
                    return
                else:
                    assert isinstance(event, Duplicate | Hole | Ping | Bye)
        except RemoteProtocolError:
            self.flush()
            self.receiver = None
            return
        self.flush()

    def deliver_down(self, size: int) -> None:
        """The next bytes of the line to the sender."""
        if self.sender is None or not self.down:
            return
        data, self.down[0] = self.down[0][:size], self.down[0][size:]
        if not self.down[0]:
            del self.down[0]
        self.sender.feed(data, 0.0)
        try:
            while (event := self.sender.next()) is not None:
                self.seen.append(type(event))
                if isinstance(event, Welcome):
                    position = event.position
                    self.sender.resume(self.spool.last_before(position.next) if position else None, 0.0)
                    if position is not None:
                        self._acknowledged(position.next)
                elif isinstance(event, Acknowledged):
                    self._acknowledged(event.upto)
                elif isinstance(event, Refused | Closed):
                    self.sender = None
                    return
                else:
                    assert isinstance(event, Troubled | Ping)
        except RemoteProtocolError:
            self.flush()
            self.sender = None
            return
        self.flush()

    def _acknowledged(self, upto: int) -> None:
        self.spool.acknowledged |= {number for number in self.spool.truth if number < upto}
        self.spool.remove(upto)

    def settle(self) -> None:
        """Until nothing moves any more, with nothing in the way."""
        moved = None
        while self.alive and moved != (moved := (len(self.spool.frames), len(self.collector.stored), len(self.seen))):
            self.send()
            while self.up and self.alive:
                self.deliver_up(1 << 20)
            self.store()
            while self.down and self.alive:
                self.deliver_down(1 << 20)
