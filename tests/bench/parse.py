"""Part `parse`: what the pure parts cost by themselves, in microseconds of CPU per record.

These rank changes to one function; what a dispatcher does end to end is in the other parts.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Callable
from typing import Final

from audisp.parse.form import binary_form, log_form
from audisp.parse.frames import FrameReader
from audisp.parse.lines import LineReader
from audisp.parse.serials import Gaps
from audisp.parse.types import type_number
from audisp.sources.netlink import NetlinkSource, Prefixes
from audisp.sources.recvmmsg import NAME_BYTES, SLOTS, Batch
from tests.bench.capture import Capture, capture
from tests.bench.figures import MILLION, shown, table
from tests.bench.setting import Setting

RECORDS: Final = 100_000
PIECE: Final = 64 * 1024
"""Bytes to a feed, as a source reads them."""
SLOT_BYTES: Final = 8_986
"""A frame of auditd 3.0.9's af_unix, whatever its record's length."""
FILL: Final = 2_048
"""Datagrams put into the socket at a time, before the clock starts."""
USERSOCK: Final = 2
"""NETLINK_USERSOCK: netlink between processes; the receiving side does the same as on the audit socket."""
KERNEL_NAME: Final = struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 0)
RECEIVE_BUFFER: Final = 32 << 20
SO_RCVBUFFORCE: Final = 33


class FromKernel(Batch):
    """A batch whose senders are all the kernel: in this part they are we, which the source would reject."""

    def senders(self, count: int) -> bytes:
        return KERNEL_NAME * count if len(KERNEL_NAME) == NAME_BYTES else b""


def _clocked(work: Callable[[], None]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def _lines(log: Capture) -> float:
    data = log.path.read_bytes()
    reader = LineReader()

    def work() -> None:
        for at in range(0, len(data), PIECE):
            reader.feed(data[at : at + PIECE])
            reader.take()

    return _clocked(work)


def _frames(log: Capture, *, slots: bool) -> float:
    data = binary_form(log.path.read_bytes())
    if slots:
        parts, at = [], 0
        while at < len(data):
            end = at + 16 + struct.unpack_from("=I", data, at + 12)[0]
            parts.append(data[at:end].ljust(SLOT_BYTES, b"\0"))
            at = end
        data = b"".join(parts)
    reader = FrameReader()

    def work() -> None:
        for at in range(0, len(data), PIECE):
            reader.feed(data[at : at + PIECE])
            reader.take()

    return _clocked(work)


def _form(log: Capture, form: Callable[[bytes], bytes]) -> float:
    lines = log.lines()
    blocks = [b"".join(lines[at : at + SLOTS]) for at in range(0, len(lines), SLOTS)]
    return _clocked(lambda: [form(block) for block in blocks].clear())


def _gaps(log: Capture) -> float:
    lines = log.lines()
    blocks = [(b"".join(lines[at : at + SLOTS]), len(lines[at : at + SLOTS])) for at in range(0, len(lines), SLOTS)]
    gaps = Gaps()

    def work() -> None:
        for data, records in blocks:
            gaps.see_block(data, records)

    return _clocked(work)


def _netlink(log: Capture) -> float:
    """recvmmsg and formatting, from a netlink socket that is full: whole batches."""
    messages = []
    for line in log.lines():
        name, _, payload = line.removeprefix(b"type=").partition(b" msg=")
        body = payload.removesuffix(b"\n")
        messages.append(struct.pack("=IHHII", 16 + len(body), type_number(name), 0, 0, 0) + body)
    source = NetlinkSource(lambda *said, **limit: None)
    batch, prefixes = FromKernel(), Prefixes(None)
    used, formatted = 0.0, 0
    with _netlink_socket() as receiver, _netlink_socket() as sender:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        port = receiver.getsockname()[0]
        for at in range(0, len(messages), FILL):
            for message in messages[at : at + FILL]:
                sender.sendto(message, (port, 0))
            before = time.thread_time()
            while count := batch.receive(receiver.fileno(), wait=False):
                formatted += source._format(batch, count, prefixes)[1]
            used += time.thread_time() - before
    if formatted != len(messages):
        raise RuntimeError(f"{formatted} of {len(messages)} records came out")
    return used


def _netlink_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, USERSOCK)
    opened.bind((0, 0))
    return opened


WORK: Final[dict[str, Callable[[Capture], float]]] = {
    "`Batch.receive` and formatting, full batches": _netlink,
    "`Gaps.see_block`, mixed events": _gaps,
    "`LineReader`": _lines,
    "`FrameReader`, exact frames": lambda log: _frames(log, slots=False),
    "`FrameReader`, slots of auditd 3.0.9": lambda log: _frames(log, slots=True),
    "`log_form`": lambda log: _form(log, log_form),
    "`binary_form`": lambda log: _form(log, binary_form),
}


def run(setting: Setting) -> str:
    """The table of this part."""
    log = capture(setting.place.folder, setting.sized(RECORDS, 5_000))
    rows: list[list[float | str]] = []
    for name, work in WORK.items():
        costs = sorted(work(log) / log.records * MILLION for _ in range(setting.runs))
        setting.note(f"parse: {name}: {', '.join(map(shown, costs))}")
        rows.append([name, statistics.median(costs), costs[0], costs[-1]])
    mean = log.path.stat().st_size / log.records
    title = f"CPU per record, {log.records:,} records of {mean:.0f} bytes ({log.name}), runs: {setting.runs}"
    return table(title, ("part", "median us", "least us", "most us"), rows)
