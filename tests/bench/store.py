"""What the collector's store takes: `python -m tests.bench.store [PART...] [--hosts N] [--runs N] [--mib N]`.

Tables in markdown on standard output. `append`: records and bytes that are on disk in a second, with one fdatasync for
each group, and CPU; beside it the very same bytes written and synced group by group by nothing but write and fdatasync,
in turns. Senders' frames are made beforehand, as they come over the wire. `programs`: the same for C programs, of each
of which one record at a time is under way. `open`: how long a store of so many MiB takes to open, with its caches and
without. `hosts`: memory for each host. Needs no root.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from audisp.buffer.segment import ANCHOR, Frame
from audisp.collector.chain import verify
from audisp.collector.reading import Reader, Window
from audisp.collector.store import Numbered, Store, Unnumbered
from audisp.wire.native import DataFrame, Position
from tests.bench.figures import MILLION, Run, measure, median, spread, table
from tests.needs import CORPUS

FRAME: Final = 64 << 10
"""Bytes of records in a sender's frame, about: what a busy host's spool holds after a short wait."""
MIB: Final = 1 << 20
NANO: Final = 1_000_000_000


def log() -> bytes:
    """Records to store: the corpus', or ones made up, which pack better than real ones."""
    packed = CORPUS / "mixed.log.xz"
    if packed.is_file():
        import lzma

        return lzma.open(packed).read()
    return b"".join(
        b"type=SYSCALL msg=audit(%d.%03d:%d): arch=c000003e syscall=59 success=yes exit=0 a0=%x a1=%x ppid=%d pid=%d\n"
        % (1_700_000_000 + n // 1000, n % 1000, n, n * 7919, n * 104_729, n % 4096, n % 32_768)
        for n in range(200_000)
    )


def _pieces(data: bytes, size: int) -> list[bytes]:
    pieces, start = [], 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + size) + 1
        pieces.append(data[start:end])
        start = end
    return pieces


def frames(data: bytes, hosts: int, size: int, total: int) -> Iterator[Numbered]:
    """`total` records or more of these many hosts in turn, each host with a stream of its own."""
    at = [Position(1, ANCHOR) for _ in range(hosts)]
    pieces = _pieces(data, size)
    number = 0
    while total > 0:
        host, piece = number % hosts, pieces[number % len(pieces)]
        count = piece.count(b"\n")
        now = time.time_ns()
        frame = DataFrame.make(Frame(at[host].next, count, "netlink", {}, at[host].last, now, piece))
        at[host] = frame.after
        yield Numbered(f"host{host:05d}.example.net", host.to_bytes(16, "little"), frame, piece, now)
        number += 1
        total -= count


def programs(data: bytes, hosts: int, total: int) -> Iterator[Unnumbered]:
    """`total` records of as many C programs as there are hosts, in turn."""
    lines = data.splitlines(keepends=True)
    for number in range(total):
        yield Unnumbered(
            f"host{number % hosts:05d}.example.net", lines[number % len(lines)], time.time_ns(), number, bytes(32)
        )


def store(folder: Path, items: list[Numbered] | list[Unnumbered], most: int) -> tuple[Run, list[int]]:
    """Store all, in groups of at most `most` items. Figures, and the bytes of each group."""
    groups: list[int] = []
    records, longest = 0, 0.0
    with Store(folder) as target:
        began, cpu = time.monotonic(), time.process_time()
        at = 0
        while at < len(items):
            stop = min(at + most, len(items))
            while at < stop and target.append(items[at]):
                at += 1
            before = time.monotonic()
            done = target.commit()
            longest = max(longest, time.monotonic() - before)
            groups.append(done.bytes)
            records += done.records
        took, cpu = time.monotonic() - began, time.process_time() - cpu
    return _figures(records, sum(groups), took, cpu, len(groups), longest), groups


def plain(folder: Path, groups: list[int], records: int) -> Run:
    """As many bytes, group by group, with write and fdatasync alone."""
    block = os.urandom(max(groups))
    file = os.open(folder, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    longest = 0.0
    began, cpu = time.monotonic(), time.process_time()
    for size in groups:
        before = time.monotonic()
        os.write(file, memoryview(block)[:size])
        os.fdatasync(file)
        longest = max(longest, time.monotonic() - before)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    os.close(file)
    return _figures(records, sum(groups), took, cpu, len(groups), longest)


def _figures(records: int, size: int, took: float, cpu: float, groups: int, longest: float) -> Run:
    return {
        "records/s": records / took,
        "stored MB/s": size / took / MILLION,
        "CPU s per million": cpu / records * MILLION,
        "bytes per record": size / records,
        "records per fdatasync": records / groups,
        "longest ms": longest * 1000,
    }


def _beside(name: str, make: Callable[[], list[Numbered] | list[Unnumbered]], most: int, runs: int, place: Path) -> str:
    items = make()
    groups: list[int] = []
    records = sum(item.data.count(b"\n") for item in items)

    def ours() -> Run:
        nonlocal groups
        shutil.rmtree(place / "store", ignore_errors=True)
        figures, groups = store(place / "store", items, most)
        return figures

    def theirs() -> Run:
        (place / "plain").unlink(missing_ok=True)
        return plain(place / "plain", groups, records)

    found = measure(runs, {"store": ours, "write + fdatasync": theirs}, lambda text: print(text, file=sys.stderr))
    rows: list[list[float | str]] = [
        [side, *(median(each, key) for key in each[0]), spread(each, "records/s")] for side, each in found.items()
    ]
    return table(f"{name}, median of {runs}", ["", *found["store"][0], "spread"], rows)


def append(place: Path, hosts: int, runs: int, mib: int) -> str:
    """Senders of the native protocol."""
    data = log()
    total = max(100_000, mib * 8_000)
    parts = []
    for size, most in ((FRAME, 10**6), (4 << 10, 10**6), (FRAME, 16)):
        what = f"frames of {size >> 10} KiB, {'groups as they come' if most > 100 else f'{most} to a group'}"
        items = list(frames(data, hosts, size, total))
        parts.append(_beside(f"{hosts} hosts, {what}", lambda items=items: items, most, runs, place))  # type: ignore[misc]
    return "\n".join(parts)


def c_programs(place: Path, hosts: int, runs: int, mib: int) -> str:
    """C programs, each of which waits for its answer before it sends the next record."""
    data = log()
    items = list(programs(data, hosts, max(20_000, mib * 400)))
    return _beside(f"{hosts} C programs, a record of each to a group", lambda: items, hosts, runs, place)


def opening(place: Path, hosts: int, runs: int, mib: int) -> str:
    """Opening, reading and verifying a store of some size."""
    data = log()
    folder = place / "store"
    shutil.rmtree(folder, ignore_errors=True)
    records = 0
    with Store(folder) as target:
        for item in frames(data, hosts, FRAME, 10**12):
            records += item.frame.count
            if not target.append(item):
                target.commit()
                target.append(item)
                if target.size >= mib * MIB:
                    break
        target.commit()
        size, segments = target.size, len(list(folder.glob("*.seg")))

    def opened() -> Run:
        began, cpu = time.monotonic(), time.process_time()
        with Store(folder):
            return {"s": time.monotonic() - began, "CPU s": time.process_time() - cpu}

    def cat(window: Window | None = None) -> Run:
        began, cpu = time.monotonic(), time.process_time()
        with Reader(folder, host="host00007.example.net", window=window) as reader:
            found = sum(len(chunk.data) for chunk in reader)
        return {"s": time.monotonic() - began, "CPU s": time.process_time() - cpu, "MB": found / MILLION}

    def checked() -> Run:
        began, cpu = time.monotonic(), time.process_time()
        status = verify(folder).status
        if status:
            raise RuntimeError("the store is not what was stored")
        return {"s": time.monotonic() - began, "CPU s": time.process_time() - cpu}

    rows: list[list[float | str]] = []

    def row(what: str, act: Callable[[], Run], times: int = runs) -> None:
        found = [act() for _ in range(times)]
        rows.append([what, median(found, "s"), median(found, "CPU s")])

    row("open", opened)
    row("all records of one host", cat)
    row("one host, records of a second that is not there", lambda: cat(Window(1_000, 2_000)))
    for path in folder.glob("*.idx"):
        path.unlink()
    row("all records of one host, without indexes", cat, 1)
    row("verify: all frames unpacked, all chains", checked, 1)
    with Store(folder) as target:
        before = time.monotonic()
        target.due(0)
        census = target.census()
        took = time.monotonic() - before
    rows.append([f"census of {len(census.segments)} segments", took, 0.0])
    (folder / "end").unlink()
    row("open, without the end mark", opened)
    title = f"A store of {size / MIB:,.0f} MiB in {segments} segments, {hosts} hosts, {records:,} records"
    return table(title, ["", "s", "CPU s"], rows)


def memory(place: Path, hosts: int, runs: int, mib: int) -> str:
    """Memory for each host."""
    folder = place / "store"
    shutil.rmtree(folder, ignore_errors=True)
    with Store(folder) as target:
        for item in frames(b"type=X msg=audit(1.000:1): a=b\n", hosts, 100, hosts):
            if not target.append(item):
                target.commit()
                target.append(item)
        target.commit()
    tracemalloc.start()
    with Store(folder) as target:
        both = tracemalloc.get_traced_memory()[0]
        target._log.seal()
        target._log.index = type(target._log.index)()
        alone = tracemalloc.get_traced_memory()[0]
        files = len(os.listdir("/proc/self/fd"))
    tracemalloc.stop()
    rows: list[list[float | str]] = [
        ["bytes per host", alone / hosts],
        ["bytes per host that has frames in the segment that is written, for its index", (both - alone) / hosts],
        ["descriptors of the process", files],
        ["peak of the process, MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024],
    ]
    return table(f"{hosts} hosts", ["", ""], rows)


PARTS: Final[dict[str, Callable[[Path, int, int, int], str]]] = {
    "append": append,
    "programs": c_programs,
    "open": opening,
    "hosts": memory,
}


def main() -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.store", description="What the collector's store takes."
    )
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all by default")
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mib", type=int, default=128, help="size of the store to open (128)")
    parser.add_argument("--place", type=Path, help="a folder on the disk to be measured; /var/tmp by default")
    given = parser.parse_args()
    wrong = [part for part in given.part if part not in PARTS]
    if wrong:
        parser.error(f"no part {', '.join(wrong)}; there are {', '.join(PARTS)}")
    place = Path(tempfile.mkdtemp(prefix="audisp-bench-", dir=given.place or "/var/tmp"))
    try:
        print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")
        for part in given.part or PARTS:
            print(PARTS[part](place, given.hosts, given.runs, given.mib), flush=True)
    finally:
        shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
