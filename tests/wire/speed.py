"""What the native protocol's two ends cost by themselves, beside what zstd, SHA-256 and CRC in them cost alone.

python -m tests.wire.speed FILE [BYTES OF A BLOCK]

CPU time of this process, the best of five, without sockets, TLS and disks. FILE holds records, such as mixed.log.
"""

from __future__ import annotations

import hashlib
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zstandard

from audisp.buffer.segment import ANCHOR, PREFIX_BYTES, ZSTD_LEVEL, Frame, encode_frame
from audisp.wire.native import Accepted, DataFrame
from audisp.wire.native_messages import MAX_FRAMES, MAX_WINDOW
from tests.wire.streams import joined

RUNS: Final = 5
READ: Final = 64 << 10
"""Bytes that a receiver is fed at once."""
BLOCK: Final = 256 << 10
"""Bytes of records in a frame, unless asked otherwise: what a spool gathers."""


def cut(data: bytes, size: int) -> list[bytes]:
    """Runs of whole records of at most this size."""
    blocks = []
    at = 0
    while at < len(data):
        end = len(data) if len(data) - at <= size else data.rfind(b"\n", at, at + size) + 1
        blocks.append(data[at:end])
        at = end
    return blocks


def encode(blocks: list[bytes]) -> list[bytes]:
    """The frames as they lie in a spool."""
    frames = []
    first, last = 1, ANCHOR
    for block in blocks:
        count = block.count(b"\n")
        raw, last = encode_frame(Frame(first, count, "netlink", {"received": first}, last, 1, block), b"spool's ")
        first += count
        frames.append(raw)
    return frames


def send(raws: list[bytes]) -> bytes:
    """A sender with frames from its spool."""
    here, _ = joined(window=MAX_WINDOW, frames=MAX_FRAMES)
    out = []
    for raw in raws:
        here.send(DataFrame.read(raw))
        out.append(here.take())
    return b"".join(out)


def receive(stream: bytes) -> int:
    """A receiver whose caller stores at once; the records that came."""
    _, there = joined(window=MAX_WINDOW, frames=MAX_FRAMES)
    records = 0
    for at in range(0, len(stream), READ):
        there.feed(stream[at : at + READ], 0.0)
        last = None
        while (event := there.next()) is not None:
            assert isinstance(event, Accepted)
            records += event.count
            last = event.frame
        if last is not None:
            there.stored(last.after)
            there.take()
    return records


def main(path: str, size: int = BLOCK) -> None:
    """Print the table."""
    data = Path(path).read_bytes()
    blocks = cut(data, size)
    records = data.count(b"\n")
    raws = encode(blocks)
    packed = [DataFrame.read(raw).packed for raw in raws]
    stream = send(raws)
    assert receive(stream) == records

    def row(name: str, run: Callable[[], object]) -> None:
        times = []
        for _ in range(RUNS):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        best = max(min(times), 1e-6)
        print(f"| {name} | {len(data) / best / 1e6:,.0f} | {best / records * 1e6:.3f} |")

    ratio = len(data) / sum(map(len, packed))
    print(
        f"{records:,} records of {len(data) / records:.0f} bytes in {len(blocks):,} frames, packed {ratio:.1f} times\n"
    )
    print("| | MB/s | CPU s per million records |\n|---|---|---|")
    compressor, decompressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL), zstandard.ZstdDecompressor()
    row("spool: a frame made", lambda: encode(blocks))
    row("- zstd alone", lambda: [compressor.compress(block) for block in blocks])
    row("sender: frames read, checked and sent", lambda: send(raws))
    row("- SHA-256 and CRC alone", lambda: [hashlib.sha256(raw).digest() or zlib.crc32(raw) for raw in raws])
    row("receiver: frames taken, checked, unpacked, acknowledged", lambda: receive(stream))
    row("- zstd alone", lambda: [decompressor.decompress(each) for each in packed])
    row("- LFs counted alone", lambda: [block.count(b"\n") for block in blocks])
    row("- SHA-256 and CRC alone", lambda: [hashlib.sha256(raw[PREFIX_BYTES:]).digest() for raw in raws])
    row("store: another mark", lambda: [DataFrame.read(raw).under(b"segment.") for raw in raws])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
