"""Records, blocks and drains for the tests of the spool."""

from __future__ import annotations

import random
import time
from pathlib import Path

from audisp.dispatch.spool import Spool
from audisp.record import Block

MIB = 1 << 20
SEGMENT = 64 << 10
"""The smallest segments a spool makes."""


def line(serial: int, size: int = 0) -> bytes:
    """A record; filled up to about `size` bytes with what does not compress."""
    noise = random.Random(serial).randbytes(max(0, size - 60) // 2).hex().encode() if size else b""
    return b"type=SYSCALL msg=audit(1700000000.123:%d): arch=c000003e %s\n" % (serial, noise)


def block(first: int, count: int = 1, *, size: int = 0, source: str = "netlink") -> Block:
    data = b"".join(line(serial, size) for serial in range(first, first + count))
    return Block(data, count, source, time.monotonic())


def serials(blocks: list[Block]) -> list[int]:
    for one in blocks:
        assert one.records == one.data.count(b"\n") == len(one.serials())
    return [serial for one in blocks for serial in one.serials()]


def drain(spool: Spool, max_bytes: int = 50_000) -> list[int]:
    """Read and acknowledge everything."""
    found: list[int] = []
    while blocks := spool.read(max_bytes):
        found += serials(blocks)
        spool.advance(sum(one.records for one in blocks))
    assert spool.records == 0
    return found


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def fill(spool: Spool, frames: int = 40) -> int:
    """Records in several segments, ten to a frame; returns how many."""
    for number in range(frames):
        assert spool.append([block(number * 10 + 1, 10, size=1000)], {}) == 1
    return frames * 10
