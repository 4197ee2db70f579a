"""The socketpair to a child program: what was sent, what of it the child has read, what to offer its successor.

For a child, delivered means read by it. We keep a descriptor of its end, so the kernel can be asked how many bytes lie
unread (FIONREAD on an AF_UNIX stream counts them exactly), while it lives and after its death.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from audisp.dispatch.shaping import Rendering
from audisp.event import runs
from audisp.parse.form import binary_form
from audisp.record import Block

SETTLE_BYTES: Final = 512 * 1024
"""Ask the kernel what has been read when this much has been sent since: a socket buffer holds about 208 KiB, so at most
this plus that stays on the list, and the question costs one system call per half mebibyte."""

_FRAME = struct.Struct("=IIII")


@attrs.frozen
class Read:
    """Records that the child has read: how many of the stream's, how many of our own markers, when they arrived,
    whether they had been in the spool."""

    records: int
    own: int
    arrived: float
    spooled: bool


class _Sent:
    """A block handed to the kernel, at least in part: its wire form, and where in the stream of bytes it ends.

    ends: of a shape, where each event's text ends in `data`."""

    __slots__ = ("block", "data", "end", "ends")

    def __init__(self, block: Block, data: bytes, end: int, ends: list[int] | None = None) -> None:
        self.block = block
        self.data = data
        self.end = end
        self.ends = ends


class Channel:
    """One generation's socketpair. Not thread-safe: the owner holds its lock around every call."""

    def __init__(self, *, binary: bool) -> None:
        self.binary = binary
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # The two ends are two open files: ours does not block, the one the child inherits does.
        self.ours.setblocking(False)
        self.unsent = 0
        """Bytes of the last block pushed that the socket has not taken."""
        self.finishing = False
        """`finish` was called: nothing new is taken."""
        self.ended = False
        """`end` was called: nothing can be sent any more."""
        self.refused = False
        """The child has shut its end down for reading, and lives: what it is sent can never arrive."""
        self._end = 0
        self._settled = 0
        self._list: deque[_Sent] = deque()

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.ours.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            # Not its death, which is the pidfd's news: we hold a descriptor of its end, too.
            self.refused = not self.ended
            return 0

    def push(self, block: Block, rendering: Rendering | None = None) -> bool:
        """Hand over a block, as it is or as its rendering in a shape. False if the socket took nothing of it: then it
        is not ours. See `unsent` for the rest."""
        ends = None
        if rendering is not None:
            data, ends = rendering.data, rendering.ends
        else:
            data = binary_form(block.data) if self.binary else block.data
        sent = self._send(data) if data else 0
        if data and not sent:
            return False
        self._end += len(data)
        self._list.append(_Sent(block, data, self._end, ends))
        self.unsent = len(data) - sent
        return True

    def flush(self) -> bool:
        """Send on what the last `push` left. True if nothing is left."""
        if self.unsent:
            last = self._list[-1]
            self.unsent -= self._send(memoryview(last.data)[len(last.data) - self.unsent :])
        if self.finishing and not self.unsent:
            self.end()
        return not self.unsent

    @property
    def due(self) -> bool:
        """Time to `settle`, or the list would grow."""
        return self._end - self._settled > SETTLE_BYTES

    @property
    def pending(self) -> bool:
        """Something was handed over that the child was not yet seen to have read."""
        return bool(self._list)

    def blocks(self) -> Iterator[Block]:
        """What was handed over and not seen to have been read, oldest first."""
        return (sent.block for sent in self._list)

    def unread(self) -> int:
        """Bytes in the socket that the child has not read."""
        answer = array.array("i", [0])
        fcntl.ioctl(self.theirs.fileno(), termios.FIONREAD, answer, True)
        return answer[0]

    def settle(self, *, trim: bool = False) -> list[Read]:
        """Take off the list what the child has read. With trim, also whole records of a block it is in the middle of,
        copying down the rest, so that a slow child does not pin a large block for its last few records."""
        read = self._end - self.unsent - self.unread()
        self._settled = self._end
        done = []
        while self._list and self._list[0].end <= read:
            block = self._list.popleft().block
            done.append(Read(block.records - block.own, block.own, block.arrived, block.spooled))
        if trim and self._list:
            sent = self._list[0]
            offset = read - (sent.end - len(sent.data))
            if offset > 0:
                self._trim(sent, offset, done)
        return done

    def leftover(self) -> tuple[list[Read], list[Block]]:
        """After the child's death: what it had read, and the blocks to offer its successor.

        The first of them starts at the record in the middle of which, or before which, the child stopped reading.
        """
        done = self.settle(trim=True)
        again = [sent.block for sent in self._list]
        self._list.clear()
        self.unsent = 0
        return done, again

    def _trim(self, sent: _Sent, offset: int, done: list[Read]) -> None:
        """Split `sent` after the last record that ends at or before `offset`."""
        block = sent.block
        records, cut, start = self._boundary(sent, offset)
        if not records:
            return
        # A marker is a block of one record, which is not read in part; so what is left is the stream's.
        done.append(Read(records, 0, block.arrived, block.spooled))
        sent.block = block.part(start, None)
        if sent.ends is not None:
            gone = len(sent.ends) - len(runs(sent.block.data))
            sent.ends = [end - cut for end in sent.ends[gone:]]
        sent.data = sent.block.data if not self.binary and sent.ends is None else sent.data[cut:]

    def _boundary(self, sent: _Sent, offset: int, *, beyond: bool = False) -> tuple[int, int, int]:
        """The last record's end at or before `offset`, or with beyond the first at or after it: records up to there,
        bytes in wire form, bytes in string form."""
        data = sent.data
        if sent.ends is not None:
            return _events_up_to(sent.block, sent.ends, offset, beyond)
        if not self.binary:
            cut = data.rfind(b"\n", 0, offset) + 1
            if beyond and cut < offset:
                cut = data.index(b"\n", offset) + 1
            return data.count(b"\n", 0, cut), cut, cut
        records = cut = start = 0
        while cut < offset:
            end = cut + _FRAME.size + _FRAME.unpack_from(data, cut)[3]
            if end > offset and not beyond:
                break
            cut, records = end, records + 1
        for _ in range(records):
            start = sent.block.data.index(b"\n", start) + 1
        return records, cut, start

    def finish(self) -> Block | None:
        """No more is pushed: the record that has been sent in part is still sent to its end by `flush`, and then EOF,
        so that the child is not left with half a record. Returns what stood behind that record, to be given back."""
        self.finishing = True
        if not self.unsent:
            self.end()
            return None
        last = self._list[-1]
        block = last.block
        _, cut, start = self._boundary(last, len(last.data) - self.unsent, beyond=True)
        over = len(last.data) - cut
        self.unsent -= over
        rest = None
        if over:
            rest = block.part(start, None)
            last.block = block.part(0, start)
            last.data = last.data[:cut]
            if last.ends is not None:
                last.ends = last.ends[: len(runs(last.block.data))]
            last.end -= over
            self._end -= over
        self.flush()
        return rest

    def end(self) -> None:
        """Tell the child that no more will come: it reads what is there, then EOF."""
        self.ended = True
        try:
            self.ours.shutdown(socket.SHUT_WR)
        except OSError:
            return  # already shut down

    def close(self) -> None:
        """Give both descriptors back."""
        self.ours.close()
        self.theirs.close()


def _events_up_to(block: Block, ends: list[int], offset: int, beyond: bool) -> tuple[int, int, int]:
    """`Channel._boundary` in a shape: it lies behind an event, and so behind all its records."""
    count = bisect_left(ends, offset) + 1 if beyond else bisect_right(ends, offset)
    if not count:
        return 0, 0, 0
    start = sum([len(lines) for lines, _, _ in runs(block.data)[:count]])
    return block.data.count(b"\n", 0, start), ends[count - 1], start
