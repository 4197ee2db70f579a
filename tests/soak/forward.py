"""From a followed log through dispatcher, plugin `remote` and collector, all of them killed again and again: each
record is stored once, in order, verbatim.

Dispatcher (with the plugin in it) and collector get SIGKILL at seeded moments, the line between them breaks in the
middle of frames, the log is rotated, and both disks are full for a while. Nothing is lost, because the log waits, the
spool keeps, and the collector acknowledges what is on disk; nothing is doubled, because the spool knows the places of
what it has, and the collector the numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.e2e.collectors import Collector
from tests.e2e.daemons import Daemon, add_plugin, configure
from tests.e2e.stream import wait_for
from tests.soak.lines import BreakingLine
from tests.soak.result import Result
from tests.sources.collect import line
from tests.sources.rotating import RotatingLog
from tests.tls.ends import KEY, WEB1
from tests.tls.files import put_key

DISK: Final = 512 << 20
"""Bytes of each tmpfs: room for all records of the longest run, as they are stored."""
LIVES: Final = (0.2, 2.2)
"""Seconds between two kills, at least and at most: also one that is still starting is killed."""
TURN: Final = 0.02
"""Seconds between two writes to the log."""
FULL_SECONDS: Final = 3.0
PATIENCE: Final = 300.0
"""Seconds for what is left at the end."""


class Dispatcher(Daemon):
    """audispd that follows a log and forwards it."""

    def __init__(self, folder: Path, log: Path, spool: Path, port: int) -> None:
        configure(folder, [], write_logs="no", log_file=folder / "own.log")
        self._put(folder / "audispd.conf", runtime_dir=folder / "run", state_dir=folder / "state")
        self._put(
            folder / "audisp-remote.conf",
            remote_server="127.0.0.1",
            port=port,
            transport="tls",
            tls_psk_identity=WEB1.decode(),
            tls_psk_file=put_key(folder / "psk", KEY),
            queue_file=folder / "remote.log",
            spool_dir=spool,
            spool_min_free=0,
            state_file=folder / "remote.state",
            network_failure_action="syslog",
            network_retry_max=1,
        )
        add_plugin(folder, "remote", plugin="remote", config=folder / "audisp-remote.conf")
        self.control = folder / "run"
        argv = [sys.executable, "-m", "audisp.cli.audispd", "-n", "-c", str(folder), "--source", f"follow:{log}"]
        super().__init__(argv, folder, "audispd")

    @staticmethod
    def _put(path: Path, **keys: Any) -> None:
        path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
        path.chmod(0o640)

    def _await_ready(self) -> None:
        """It is started to be killed, at whatever moment."""


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 20))
    return ballast


class Writer(threading.Thread):
    """Writes so many records into a log, over about so many seconds, and rotates it."""

    def __init__(self, path: Path, count: int, seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        # As many names as there may be rotations: the log must wait for a dispatcher that is dead.
        self.log = RotatingLog(path)
        self.count, self.rotations = count, 0
        self._turns = max(1, int(seconds / TURN))
        self._chance = random.Random(seed)

    def run(self) -> None:
        """Until all are written."""
        each = -(-self.count // self._turns)
        while self.log.written < self.count:
            first = self.log.written + 1
            last = min(self.log.written + self._chance.randrange(1, 2 * each + 1), self.count)
            self.log.append([record(number) for number in range(first, last + 1)])
            if self._chance.random() < 20 / self._turns:
                self.log.rotate()
                self.rotations += 1
            time.sleep(TURN)


def record(number: int) -> bytes:
    """One record, which says its number, and which no other resembles: compressed, too, it takes some room."""
    return line(number, f"op={hashlib.sha256(b'%d' % number).hexdigest()}")


def forward(folder: Path, seed: int, kills: int, per_kill: int = 10_000) -> Result:
    """`kills` kills of each kind while `kills * per_kill` records come; see the module."""
    result = Result("forward", seed)
    chance = random.Random(seed)
    count = kills * per_kill
    with contextlib.ExitStack() as held:
        spool, store = (held.enter_context(disk(folder / name)) for name in ("spool", "store"))
        log = folder / "log" / "audit.log"
        log.parent.mkdir(mode=0o700)
        collector = Collector(
            folder / "collector",
            transport="tls",
            tls_psk_identity=WEB1.decode(),
            tls_psk_file=put_key(folder / "psk", KEY),
            store_dir=store / "store",
            max_connections=64,
        )
        collector.store = store / "store"
        collector.start()
        held.callback(collector.kill)
        collector.change(listen=f"127.0.0.1:{collector.port}")
        cut = held.enter_context(BreakingLine(collector.port, seed, 1_000, per_kill * 6))
        dispatcher = Dispatcher(folder / "dispatcher", log, spool / "spool", cut.port)
        writer = Writer(log, count, kills * sum(LIVES) / 2, seed)
        # The first start begins with the log that is there; from then on its position is kept.
        writer.log.append([record(1)])
        dispatcher.start()
        held.callback(dispatcher.kill)
        wait_for(lambda: collector.records(), "the first record is stored")
        writer.start()
        full = {kills // 3: spool, 2 * kills // 3: store}
        killed: Counter[str] = Counter()
        for turn in range(2 * kills):
            time.sleep(chance.uniform(*LIVES) / 2)
            done = turn // 2
            if turn % 2 == 0 and done in full:
                ballast = _fill(full.pop(done))
                time.sleep(FULL_SECONDS)
                ballast.unlink()
            victim: Daemon = chance.choice((dispatcher, collector))
            killed[victim.out.stem] += 1
            victim.kill()
            Daemon.start(victim) if victim is dispatcher else _start(collector)
        cut.whole()
        writer.join(PATIENCE)
        began = time.monotonic()
        last = record(count)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: any(last in each.data for each in collector.chunks()), "all are stored", PATIENCE)
        result.figures["seconds for the rest"] = round(time.monotonic() - began, 1)
        status = dispatcher.stop()
        result.check(status == 0, f"audispd ended with {status}: {dispatcher.said()[-2000:]}")
        stored = [each for each in collector.records(WEB1.decode()) if not each.startswith(b"type=DAEMON_")]
        _compare(result, stored, writer.log.written)
        result.check(not collector.verified().status, f"the store is not whole: {collector.verified()}")
        result.check(cut.cuts > 0, "no connection was cut")
        said = dispatcher.said() + collector.said()
        result.check("Traceback" not in said and "defect" not in said, f"a defect of ours: {said[-3000:]}")
        result.figures |= {f"kills of {name}": times for name, times in killed.items()}
        result.figures |= {"records": count, "cuts": cut.cuts, "rotations": writer.rotations}
    return result


def _start(collector: Collector) -> None:
    """Without waiting until it is ready: it is started to be killed."""
    with open(collector.out, "ab") as out:
        collector.process = subprocess.Popen(collector.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")


def _compare(result: Result, stored: list[bytes], written: int) -> None:
    wanted = (record(number) for number in range(1, written + 1))
    for at, (got, due) in enumerate(itertools.zip_longest(stored, wanted)):
        if got != due:
            result.problems.append(f"record {at + 1} of {written}: stored {got!r}, written {due!r}")
            break
    result.figures["stored"] = len(stored)
    distinct = len(set(stored))
    result.check(distinct == len(stored), f"{len(stored) - distinct} records are stored twice")
    result.check(distinct >= written, f"{written - distinct} records are missing")
