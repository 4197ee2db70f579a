"""The live sources on NETLINK_AUDIT: `netlink`, which is the audit daemon, and `multicast`, which observes beside one.

A thread of its own reads and routes (docs/decisions/0001): it blocks in recvmmsg, so nothing in the trio loop can delay
it, and it wakes no task for a plugin that keeps up. Everything rare (status, books, the end) is the loop's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from audisp.errors import SourceError
from audisp.parse.form import MAX_NODE_LINE, MAX_PAYLOAD, from_kernel
from audisp.parse.serials import Gaps, Range
from audisp.parse.types import type_name
from audisp.record import Block
from audisp.sources import kernel
from audisp.sources.contract import Kind, Route, SourceBooks, Stopped
from audisp.sources.recvmmsg import NAME_BYTES, Batch

DEFAULT_RCVBUF: Final = 8 * 1024 * 1024
"""Receive buffer. With the kernel's default a multicast reader loses 14 % under load without a word, with 8 MiB nothing
(dispatch-prototype.md section 4)."""
ROUNDS: Final = 8
"""More reads after the first of a turn, as long as they come back full: one fan-out for many records."""
LULL_RECORDS: Final = 24
LULL_SECONDS: Final = 0.0001
"""After a turn that brought this many records and emptied the socket, the reader lets some gather. Woken for each few
records it takes the processor from those who make them: with this pause 253 to 288 thousand records a second came
instead of 233 to 264 (one counting plugin, two processors), and turns of 600 records instead of 100. Longer pauses lost
that again. At up to some thousand events a second no turn is that large, and nothing is delayed."""
TURN_BYTES: Final = 256 * 1024
"""A turn ends at this size; one read more can add at most SLOTS x SLOT_BYTES = 1.2 MB to it."""
READ_TIMEOUT: Final = 0.2
"""Seconds that the reader blocks at most before it looks whether it is to stop."""
SILENT_POLLS: Final = 2
"""Looks without a record after which a burst's silence is broken: two to three seconds. A shorter pause is common, and
whoever measures a burst by its last record should not find ours."""
PLAIN_MAX: Final = 8_900
"""A payload longer than this goes the slow way, where auditd's own caps are applied (upstream.md 2.3)."""
REPLACE: Final = 1329
"""AUDIT_REPLACE: somebody tried to take over; its payload is the challenger's pid."""
EEXIST_TEXT: Final = (
    "the audit stream already has an owner: {owner}. Stop it first, or read beside it: --source multicast"
)

IGNORED: Final = frozenset(
    {0, 1, 2, 3, 4, *range(1000, 1005), *range(1007, 1020), *range(1200, 1300), REPLACE},
)
"""Message types that are no records: netlink's own, answers, and the daemon's range, which nobody but us may use
(upstream.md section 8). 1005 (USER) and 1006 (LOGIN) are records."""

_EXPECTED: Final = {
    False: struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 0),
    True: struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 1 << (kernel.NLGRP_READLOG - 1)),
}


class Prefixes(dict[int, bytes]):
    """type -> b"type=NAME msg=", after `node=` where that is asked for; made at first sight."""

    def __init__(self, node: bytes | None) -> None:
        super().__init__()
        self._node = b"" if node is None else b"node=" + node + b" "

    def __missing__(self, type_: int) -> bytes:
        prefix = self[type_] = self._node + b"type=" + type_name(type_) + b" msg="
        return prefix


@attrs.define(eq=False)
class NetlinkSource:
    """The kernel's stream. multicast: observe; else be the audit daemon.

    set_enabled: as auditd's -s: 1 "enable", 0 "disable", None "nochange". node: as name_format says.
    last_serial: of the last record of an earlier run of ours in this boot, 0 if unknown; open_serials: what that run
    had not seen below it. mark: told the newest serial and what is missing so far below it, after each block, in the
    reader's thread.
    """

    say: Callable[..., None]
    multicast: bool = False
    set_enabled: int | None = 1
    node: bytes | None = None
    rcvbuf: int = DEFAULT_RCVBUF
    last_serial: int = 0
    open_serials: Sequence[Range] = ()
    mark: Callable[[int, Sequence[Range]], None] = lambda serial, open_: None
    books: SourceBooks = attrs.field(init=False)
    gaps: Gaps = attrs.field(init=False)
    lost_ranges: list[tuple[int, int]] = attrs.field(factory=list)
    """The latest ranges of serials that never came, newest last."""
    status: kernel.AuditStatus | None = None
    _socket: socket.socket = attrs.field(init=False)
    _control: kernel.Control | None = None
    _stop: threading.Event = attrs.field(factory=threading.Event)
    _owning: threading.Lock = attrs.field(factory=threading.Lock)
    _released: bool = False
    """Given back, for good. Changed under `_owning`, so that who takes it back does not cross who gives it up."""
    _plain_max: int = PLAIN_MAX
    _lost_before: int = 0
    _drops_before: int = 0
    _last_report: float = 0.0
    _unreported: int = 0
    _polled: int = 0
    """Records received when `poll` looked last."""
    _fast: bool = False
    """More came lately, between two looks, than the kernel's backlog holds."""
    _slow: int = 0
    _silent: int = 0
    _nudge: bool = False
    """The socket overflowed: kernel records may be parked until another one comes."""

    def __attrs_post_init__(self) -> None:
        self.books = SourceBooks(self.name, self.kind)
        self.gaps = Gaps(last=self.last_serial, open_=self.open_serials)
        if self.node is not None:
            self._plain_max = PLAIN_MAX - len(self.node)

    @property
    def name(self) -> str:
        """`netlink` or `multicast`."""
        return "multicast" if self.multicast else "netlink"

    @property
    def kind(self) -> Kind:
        """Always live."""
        return "live"

    @property
    def rejects(self) -> None:
        """What the kernel sends is counted when it is malformed, and not kept."""
        return None

    # ---- opening and closing ----

    def open(self) -> None:
        """Take the stream. Raises SourceError. Before privileges are dropped and before `run`."""
        self._socket = kernel.open_socket(1 << (kernel.NLGRP_READLOG - 1) if self.multicast else 0)
        try:
            self._size_buffer()
            try:
                self._control = kernel.Control()
                self.status = self._control.status()
                self._lost_before = self.status.lost
            except OSError as error:
                if not self.multicast:
                    raise kernel.refused(error) from error
                self._control_unavailable(error)
            if not self.multicast:
                self._register()
        except BaseException:
            self._socket.close()
            if self._control is not None:
                self._control.close()
            raise
        self._drops_before = kernel.drops(self._socket)
        if self.multicast and kernel.foreign_network():
            self.say(
                "warning",
                "multicast: the kernel sends audit records in the host's network namespace alone, and this is another: "
                "nothing will come",
            )

    def _control_unavailable(self, error: OSError) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        self.books.detail["kernel status"] = f"unknown ({error.strerror}; needs CAP_AUDIT_CONTROL)"

    def _size_buffer(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, kernel.SO_RCVBUFFORCE, self.rcvbuf)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.rcvbuf)
        got = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self.books.detail["receive buffer"] = f"{got // 1024} KiB"
        if got < self.rcvbuf:
            self.say(
                "warning",
                f"{self.name}: receive buffer is {got // 1024} KiB of {self.rcvbuf // 1024} asked for (needs "
                "CAP_NET_ADMIN, or a larger net.core.rmem_max); records are lost sooner under load",
            )
        seconds = int(READ_TIMEOUT)
        micros = int((READ_TIMEOUT - seconds) * 1e6)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, micros))

    def _register(self) -> None:
        """Become the audit daemon. The pid is set alone and first, so that a refusal has changed nothing."""
        self._set_pid(os.getpid())
        assert self._control is not None
        assert self.status is not None
        if self.set_enabled is not None and self.status.enabled not in (2, self.set_enabled):
            try:
                self._control.set_enabled(self.set_enabled)
            except OSError as error:
                self._set_pid(0)
                raise SourceError(f"cannot set the kernel's audit flag: {error.strerror}") from error

    def _set_pid(self, pid: int) -> None:
        """AUDIT_SET pid on the stream's own socket: the kernel sends records to the port that asked."""
        request = kernel.pack_request(
            kernel.AUDIT_SET, kernel.pack_status(kernel.MASK_PID, pid=pid), 1 if pid else 2, ack=True
        )
        self._socket.sendto(request, (0, 0))
        deadline = time.monotonic() + kernel.ANSWER_SECONDS
        while True:
            # Records may arrive before the answer; look without taking, and leave them to the reader.
            try:
                data, sender = self._socket.recvfrom(20, socket.MSG_PEEK)
            except BlockingIOError:
                data, sender = b"", (0, 0)
            if data and sender[0] != 0:
                self._socket.recv(1)
                self._count_foreign()
            elif len(data) >= 20:
                _, type_, _, _, _ = kernel.HEADER.unpack_from(data)
                if type_ != kernel.NLMSG_ERROR:
                    # A record stands before the answer: registered, then, or it would not have come to us.
                    return
                self._socket.recv(kernel.ANSWER_BYTES)
                code = -struct.unpack_from("=i", data, 16)[0]
                if not code:
                    return
                if code == errno.EEXIST and pid:
                    assert self._control is not None
                    raise SourceError(EEXIST_TEXT.format(owner=kernel.owner_of(self._control.status().pid)))
                raise kernel.refused(OSError(code, os.strerror(code)))
            if time.monotonic() > deadline:
                raise SourceError("the kernel did not answer the request to become the audit daemon")

    def release(self) -> None:
        """Give the stream up: the kernel sends no more. What is in the socket is still read."""
        if not self.multicast:
            request = kernel.pack_request(kernel.AUDIT_SET, kernel.pack_status(kernel.MASK_PID, pid=0), 2, ack=False)
            try:
                with self._owning:
                    self._released = True
                    self._socket.sendto(request, (0, 0))
            except OSError as error:
                self.say("warning", f"netlink: could not give the audit stream back: {error.strerror}")

    def close(self) -> None:
        """Give the stream up and close, also if `run` was never reached. May be called again."""
        if self._socket.fileno() >= 0:
            self.release()
            self._close()

    def _close(self) -> None:
        try:
            self._count_drops()
        except OSError as error:
            # A socket that failed may not answer this, either; it is closed all the same.
            self.books.detail["drops at the end"] = f"unknown ({error.strerror})"
        self._socket.close()
        if self._control is not None:
            self._control.close()
            self._control = None

    # ---- reading ----

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until cancelled; then give the stream up, route what the socket still holds, and close.

        Raises SourceError if the socket fails.
        """
        limiter = trio.CapacityLimiter(1)
        problem: OSError | None = None
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_when_cancelled)
                try:
                    # Not abandoned on cancellation: the thread ends by itself within READ_TIMEOUT, its last block
                    # routed.
                    await trio.to_thread.run_sync(self._read, route, limiter=limiter)
                except OSError as error:
                    # Out of the nursery by hand: through it, it would come as a group.
                    problem = error
                nursery.cancel_scope.cancel()
        finally:
            self._close()
        if problem is not None:
            raise SourceError(f"the audit socket cannot be read: {problem.strerror}") from problem

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.release()
            self._stop.set()
            self._rouse()

    def _rouse(self) -> None:
        """Have the kernel send the reader something, so that it looks at once whether it is to stop.

        Not for multicast: an answer is no multicast message, and would count as foreign; READ_TIMEOUT ends its wait.
        """
        if not self.multicast:
            with contextlib.suppress(OSError):  # it is READ_TIMEOUT then
                self._socket.sendto(kernel.pack_request(kernel.AUDIT_GET, b"", 4, ack=False), (0, 0))

    def _read(self, route: Route) -> None:
        batch = Batch()
        fd = self._socket.fileno()
        prefixes = Prefixes(self.node)
        try:
            while not self._stop.is_set():
                if not self._turn(route, batch, fd, prefixes, wait=True) and self.gaps.waiting:
                    # Idle for READ_TIMEOUT: what is missing now will not come.
                    self._settle()
            while self._turn(route, batch, fd, prefixes, wait=False):
                pass
            self._settle()
        except Stopped:
            self.books.detail["unread"] = "stopped while a required plugin had no room"

    def _settle(self) -> None:
        """Report what is missing now, and have it forgotten for the next run."""
        missing = self.gaps.settle()
        if missing:
            self._missing(missing)
            self.mark(self.gaps.last, ())

    def _turn(self, route: Route, batch: Batch, fd: int, prefixes: Prefixes, *, wait: bool) -> bool:
        """One turn: read what is there, route it as one block. False if nothing came."""
        parts: list[bytes] = []
        records = size = 0
        for rounds in range(ROUNDS + 1):
            try:
                count = batch.receive(fd, wait=wait and not rounds)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overflow()
                continue
            if not count:
                break
            data, kept = self._format(batch, count, prefixes)
            if kept:
                parts.append(data)
                records += kept
                size += len(data)
            if count < batch.slots or size >= TURN_BYTES:
                break
        else:
            count = 1
        if records:
            block = Block(parts[0] if len(parts) == 1 else b"".join(parts), records, self.name, time.monotonic())
            route.send_blocking(block)
            self.books.count_routed(records, size)
            missing = self.gaps.see_block(block.data, records)
            if missing:
                self._missing(missing)
            self.mark(self.gaps.last, self.gaps.open)
            if wait and records >= LULL_RECORDS and count < batch.slots:
                time.sleep(LULL_SECONDS)
        return bool(records) or bool(count)

    def _format(self, batch: Batch, count: int, prefixes: Prefixes) -> tuple[bytes, int]:
        """The datagrams as lines: (bytes, records). One join; the slow way only for what needs it."""
        expected = _EXPECTED[self.multicast]
        if batch.senders(count) != expected * count:
            return self._format_slow(batch, count, prefixes, check_senders=True)
        types, lengths = batch.types, batch.lengths
        if not IGNORED.isdisjoint(types) or max(lengths) > self._plain_max or min(lengths) <= 0:
            return self._format_slow(batch, count, prefixes, check_senders=False)
        lines = [b"\n"] * (3 * count)
        lines[0::3] = map(prefixes.__getitem__, types)
        lines[1::3] = [view[:length] for view, length in zip(batch.payloads, lengths, strict=False)]  # type: ignore[misc]
        data = b"".join(lines)
        # A process with CAP_AUDIT_WRITE can put LF and NUL into a record: no line may come of it that is not a record.
        if data.count(b"\n") != count or b"\0" in data:
            return self._format_slow(batch, count, prefixes, check_senders=False)
        if self.node is not None:
            data = data.replace(b" \n", b"\n")
        return data, count

    def _format_slow(self, batch: Batch, count: int, prefixes: Prefixes, *, check_senders: bool) -> tuple[bytes, int]:
        lines = []
        senders = batch.senders(count) if check_senders else b""
        expected = _EXPECTED[self.multicast]
        for slot in range(count):
            type_, length = batch.types[slot], batch.lengths[slot]
            if check_senders and senders[slot * NAME_BYTES : (slot + 1) * NAME_BYTES] != expected:
                self._count_foreign()
                continue
            if type_ in IGNORED:
                self._control_message(type_, bytes(batch.payloads[slot][: max(length, 0)]))
                continue
            if length <= 0:
                self.books.count_rejected()
                self.books.count("malformed")
                self.say("warning", f"{self.name}: a malformed record of type {type_}, rejected", limit="malformed")
                continue
            if length > MAX_PAYLOAD or batch.truncated(slot):
                # Its head is evidence still, and whoever made it so long may have wanted it to be refused.
                self.books.count("cut")
            line = from_kernel(type_, bytes(batch.payloads[slot][:length]))
            if self.node is not None:
                line = b"node=" + self.node + b" " + line[:-1].removesuffix(b" ")
                line = line[:MAX_NODE_LINE] + b"\n"
            lines.append(line)
        return b"".join(lines), len(lines)

    def _count_foreign(self) -> None:
        self.books.count_rejected()
        self.books.count("foreign_sender")
        self.say("warning", f"{self.name}: a message that is not from the kernel, rejected", limit="foreign")

    def _control_message(self, type_: int, payload: bytes) -> None:
        if type_ == REPLACE and not self.multicast and len(payload) >= 4:
            pid = struct.unpack_from("=I", payload)[0]
            if pid not in (0, os.getpid()):
                self.books.count("takeover_attempts")
                self.say(
                    "warning", f"netlink: {kernel.owner_of(pid)} tried to take the audit stream over", limit="takeover"
                )

    # ---- losses ----

    def _overflow(self) -> None:
        """ENOBUFS: the socket was full at some time. For unicast: look at the serials; for multicast: see the drops."""
        self.books.count("overflows")
        self._nudge = True

    def _missing(self, ranges: list[tuple[int, int]]) -> None:
        lost = sum(last - first + 1 for first, last in ranges)
        self.books.count("missing_serials", lost)
        self.lost_ranges = [*self.lost_ranges, *ranges][-64:]
        self._unreported += lost
        self.say(
            "warning",
            f"{self.name}: {lost} events never came: serials "
            + ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:8])
            + (" and more" if len(ranges) > 8 else ""),
            limit=f"{self.name}-gap",
        )

    def _count_drops(self) -> None:
        dropped = kernel.drops(self._socket)
        if dropped != self._drops_before:
            # The counter is 32 bits wide and wraps.
            name = "socket_drops" if self.multicast else "socket_full"
            self.books.count(name, (dropped - self._drops_before) & 0xFFFFFFFF)
            self._drops_before = dropped

    def poll(self) -> None:
        """Bring the kernel's own counts into the books. Blocks briefly: call in a worker thread, once a second."""
        counters, control = self.books.counters, self._control
        if self._socket.fileno() < 0:
            return
        self._count_drops()
        if control is None:
            return
        status = self.status = control.status()
        if status.lost != self._lost_before:
            # auditctl --reset-lost sets it back to zero.
            grown = status.lost - self._lost_before
            self.books.count("kernel_lost", grown if grown > 0 else status.lost)
            self._lost_before = status.lost
        counters["backlog"] = status.backlog
        counters["backlog_max"] = max(counters.get("backlog_max", 0), status.backlog)
        if self._fell_silent(status):
            self._nudge = True
        if self._nudge:
            self._nudge = False
            if not self.multicast:
                try:
                    control.send_user("op=nudge: kernel, hand out what waits")
                except OSError as error:
                    self.say("warning", f"netlink: cannot nudge the kernel: {error.strerror}", limit="nudge")
        if not self.multicast and status.pid != os.getpid() and not self._released:
            self.books.count("owner_lost")
            self.say(
                "error",
                "netlink: we no longer own the audit stream"
                + (f", {kernel.owner_of(status.pid)} does" if status.pid else "; taking it back"),
                limit="owner",
            )
            if not status.pid:
                self._take_back()

    def _fell_silent(self, status: kernel.AuditStatus) -> bool:
        """The stream was so fast that the kernel's backlog may have been full, and then stopped.

        A process that found the backlog full can miss its wake-up and sleep out the whole backlog_wait_time, a minute
        by default, although nothing waits any more (seen with auditd and with us; docs/performance.md). The next
        record wakes it, so we make one. After an honest end of a burst that record is all it costs.
        """
        came, self._polled = self.books.received - self._polled, self.books.received
        if came >= status.backlog_limit > 0:
            self._fast, self._slow, self._silent = True, 0, 0
        elif came:
            # The burst may end in the middle of an interval; a second slow one says that records flow and wake others.
            self._slow, self._silent = self._slow + 1, 0
            self._fast = self._fast and self._slow < 2
        elif self._fast:
            self._silent += 1
            if self._silent == SILENT_POLLS:
                self._fast = False
                return True
        return False

    def _take_back(self) -> None:
        request = kernel.pack_request(
            kernel.AUDIT_SET, kernel.pack_status(kernel.MASK_PID, pid=os.getpid()), 3, ack=False
        )
        with self._owning:
            # Released meanwhile, it must stay so: nobody would give it back again.
            if not self._released:
                self._socket.sendto(request, (0, 0))

    def sender_of_signal(self) -> tuple[int, int, str] | None:
        """Who signalled us, as the kernel knows it (only the owner of the stream is told)."""
        if self.multicast or self._control is None:
            return None
        try:
            return self._control.signal_info()
        except (OSError, SourceError):
            return None
