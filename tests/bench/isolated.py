"""Part `isolated`: what a process of its own costs a plugin, beside the same plugin inside the dispatcher.

The same code, the same runner, the same records: pieces of 64 KiB of a log, offered as fast as the queue takes them, to
a plugin that counts bytes (blocks) and to one that looks at three fields of each event (events). Then one record at a
time, each a while after the one before was taken: from the offer to the acknowledgement. Needs root: code is loaded
from a folder below which only root can write.
"""

from __future__ import annotations

import lzma
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.buffer.queue import BlockQueue
from audisp.config.plugins import PluginConf
from audisp.dispatch.host import PluginHost, load_type
from audisp.dispatch.inprocess import InProcessRunner
from audisp.dispatch.intake import Intake
from audisp.dispatch.internal import Internal
from audisp.dispatch.isolated import IsolatedRunner, IsolatedType
from audisp.dispatch.restart import Restarts
from audisp.event import as_batch
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from audisp.wire.isolate import Described
from tests.bench.figures import MILLION, Run, measure, median, shown, table
from tests.bench.setting import Setting
from tests.needs import CORPUS

RECORDS: Final = 300_000
PIECE: Final = 64 * 1024
SINGLES: Final = 500
QUEUE: Final = 256 << 20
CODE: Final = """
from contextlib import asynccontextmanager
import attrs
from audisp.plugin import PluginType, hookimpl

@attrs.frozen
class NoSettings:
    pass

seen = [0]

def blocks(block):
    seen[0] += len(block.data)

def events(batch):
    for event in batch:
        if event.exe == "/nowhere" and event.success and "key" in event.keys:
            seen[0] += 1

async def blocks_in_loop(block):
    blocks(block)

async def events_in_loop(batch):
    events(batch)

@asynccontextmanager
async def opened(settings, host):
    yield DELIVER

@hookimpl
def audisp_plugins():
    return [PluginType("bench", NoSettings, opened, wants=WANTS)]
"""
HEAD: Final = ("what it gets", "where it runs", "records/s", "events/s", "CPU s per million records, dispatcher",
               "its process", "one record, median µs", "99 %")  # fmt: skip


def quiet(level: str, message: str, *, limit: str | None = None) -> None:
    """Nothing is to be said here."""
    if level in ("error", "critical"):
        raise AssertionError(message)


def pieces(wants: str, records: int) -> list[Block]:
    """The log as blocks, or as what the assembler makes of them; again from its beginning until it is enough."""
    data = lzma.decompress((CORPUS / "mixed.log.xz").read_bytes())
    made: list[Block] = []
    reader, count = RecordReader(), 0
    assembler = Assembler("bench", reader, recorded=True)
    while count < records:
        at = 0
        while at < len(data) and count < records:
            end = data.rfind(b"\n", at, at + PIECE) + 1
            part = data[at:end]
            block = Block(part, part.count(b"\n"), "bench", time.monotonic())
            at, count = end, count + block.records
            if wants == "blocks":
                made.append(block)
            else:
                made += _batches(assembler, block, reader)
    return made


def _batches(assembler: Assembler, block: Block, reader: RecordReader) -> list[Block]:
    batch = assembler.feed(block, time.monotonic())
    return [as_batch(batch, reader)] if batch is not None else []


def runner(folder: Path, wants: Any, where: str) -> InProcessRunner:
    """where: thread, loop, or their own process."""
    name = f"{wants}_in_loop" if where.endswith("loop") else wants
    path = folder / f"{name}.py"
    path.write_text(CODE.replace("DELIVER", name).replace("WANTS", repr(wants)))
    path.chmod(0o644)
    conf = PluginConf(name="bench", path=Path("/bench.audisp"), active=True, plugin=str(path), isolation="process")
    queue = BlockQueue(QUEUE)
    intake = Intake(name="bench", queue=queue, policy="drop_newest", required=False, mark=Internal().loss)
    queue.merges = wants == "blocks"
    host = PluginHost("bench", False, "/", quiet, lambda *_: None, lambda *_: None, time.monotonic)
    rest = (intake, Restarts(5, 0.1, 1.0), quiet, host, folder / "quarantine", 60.0)
    if where.startswith("process"):
        type_ = IsolatedType(conf, quiet, Described(wants, (), b""), False)
        return IsolatedRunner(conf, type_.type(), type_, *rest)
    made = load_type(str(path))
    return InProcessRunner(conf, made, attrs.make_class("NoSettings", [])(), *rest)


def _cpu(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


async def _run(folder: Path, wants: str, where: str, blocks: Sequence[Block], events: int) -> Run:
    made = runner(folder, wants, where)
    records = sum(block.records for block in blocks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await made.opened.wait()
        children = made.pids()
        cpu, far, begun = time.process_time(), sum(map(_cpu, children)), time.perf_counter()
        await trio.to_thread.run_sync(lambda: [made.intake.offer(block, False) for block in blocks])
        while made.intake.delivered < records:  # noqa: ASYNC110 - as the drain does
            await trio.sleep(0.005)
        seconds = time.perf_counter() - begun
        cpu, far = time.process_time() - cpu, sum(map(_cpu, children)) - far
        singles = []
        single = blocks[0].split(blocks[0].first_end())[0] or blocks[0]
        for _ in range(SINGLES):
            goal, before = made.intake.delivered + single.records, time.monotonic()
            await trio.to_thread.run_sync(made.intake.offer, single, False)  # as a source's thread does
            while made.intake.delivered < goal:  # noqa: ASYNC110 - the time is taken where it is acknowledged
                await trio.sleep(0.001)
            singles.append((made.intake.progress[-1][0] - before) * MILLION)
        await made.stop(trio.current_time() + 10)
    return {
        "records/s": records / seconds,
        "events/s": events / seconds,
        "cpu": cpu / records * MILLION,
        "far": far / records * MILLION,
        "single": statistics.median(singles),
        "single99": statistics.quantiles(singles, n=100)[98],
    }


def run(setting: Setting) -> str:
    """The table."""
    folder = Path(tempfile.mkdtemp(prefix="audisp-bench-", dir="/var"))
    rows: list[Sequence[float | str]] = []
    try:
        for wants in ("blocks", "events"):
            blocks = pieces(wants, setting.sized(RECORDS, 5_000))
            events = sum(len(as_batch(block, RecordReader()).events) for block in blocks)
            if wants == "events":
                for block in blocks:
                    as_batch(block, RecordReader()).forget()

            def side(where: str, wants: str = wants, blocks: list[Block] = blocks, events: int = events) -> Run:
                for block in blocks:
                    if hasattr(block, "forget"):
                        block.forget()
                return trio.run(_run, folder, wants, where, blocks, events)

            sides = {
                where: (lambda where=where: side(where)) for where in ("thread", "loop", "process", "process, loop")
            }
            for where, runs in measure(setting.runs, sides, setting.note).items():
                names = ("records/s", "events/s", "cpu", "far", "single", "single99")
                rows.append((wants, where, *(median(runs, name) for name in names)))
    finally:
        shutil.rmtree(folder)
    return table("Plugins in a process of their own", HEAD, [[*row[:2], *map(shown, row[2:])] for row in rows])
