"""Many hosts in one process, for part `scale`: python -m crowd MASTER PORT FIRST COUNT, out of the copy of our code.

Each host has a key of its own, derived from the master's, a stream of its own, and comes back as audisp-remote does
(the same ladder of waits). It speaks by our own `wire` and `tls`; what it has not got acknowledged it keeps and sends
again. Commands come by standard input, one a line, and each is answered by one line of JSON:

- `connect`: all connect at once. Answered when all were welcomed.
- `steady RATE RECORDS SECONDS`: frames a second of all hosts together, each of so many records.
- `full RECORDS SECONDS`: each host has one frame under way at all times.
- `back SECONDS`: waits until all are welcomed again, counted from when the first lost its connection. A host that had
  frames under way has sent them again by then.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.buffer.segment import ANCHOR, Frame
from audisp.errors import ProtocolError
from audisp.parse.psk import derive
from audisp.remote.servers import Ladder
from audisp.tls.context import ClientContext
from audisp.tls.keyfile import read_key
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN, Acknowledged, DataFrame, Sender, State, Welcome

NAME: Final = "host%05d.bench.example.com"
RECORD: Final = (
    b"type=SYSCALL msg=audit(%d.%03d:%d): arch=c000003e syscall=59 success=yes exit=0 a0=55d0 a1=55d1 a2=55d2 a3=8 "
    b'items=2 ppid=1 pid=%d auid=1000 uid=0 comm="sh" exe="/usr/bin/dash" key="exec"\n'
)
RETRY: Final = 1.0
RETRY_MAX: Final = 30.0
"""audisp-remote's defaults (network_retry_time, network_retry_max)."""
CONNECT_SECONDS: Final = 5.0
"""audisp-remote's max_time_per_record: for TCP and TLS together."""
BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ProtocolError)


@attrs.define(eq=False)
class Host:
    """One host. waiting: frames not acknowledged, with the time at which each was first handed over; sent: how many of
    them were sent on this connection."""

    number: int
    context: ClientContext
    crowd: Crowd
    spool: bytes = attrs.field(factory=lambda: os.urandom(16))
    next: int = 1
    digest: bytes = ANCHOR
    waiting: deque[tuple[DataFrame, float]] = attrs.field(factory=deque)
    sent: int = 0
    welcomed: bool = False
    wake: trio.Event = attrs.field(factory=trio.Event)

    def make(self, records: int) -> None:
        """One more frame to be sent."""
        now = time.time()
        data = b"".join(
            RECORD % (now, now % 1 * 1000, number, self.number) for number in range(self.next, self.next + records)
        )
        frame = DataFrame.make(Frame(self.next, records, "stdin", {"lost": 0}, self.digest, int(now * 1e9), data))
        self.next, self.digest = frame.after.next, frame.after.last
        self.waiting.append((frame, time.monotonic()))
        self.crowd.under_way += 1
        self.wake.set()

    async def run(self) -> None:
        """Connect, and come back, until cancelled."""
        ladder = Ladder(1, RETRY, RETRY_MAX)
        while True:
            try:
                await self._session(ladder)
            except* BROKEN:
                pass
            except* trio.TooSlowError:
                pass
            if self.welcomed:
                self.welcomed = False
                self.crowd.lost(self.number)
            self.crowd.failures += 1
            await trio.sleep(ladder.failed(time.monotonic(), random.random()))

    async def _session(self, ladder: Ladder) -> None:
        with trio.fail_after(CONNECT_SECONDS):
            transport = await trio.open_tcp_stream("127.0.0.1", self.crowd.port)
            stream = TLSStream(transport, self.context)
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        first = self.waiting[0][0].first if self.waiting else self.next
        session = Sender(time.monotonic(), spool=self.spool, first=first, following=self.next)
        self.sent = 0
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream, session)
                while not session.over:
                    session.feed(await stream.receive_some(), time.monotonic())
                    while (event := session.next()) is not None:
                        self._on(event, session, ladder)
                    self.wake.set()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    def _on(self, event: Any, session: Sender, ladder: Ladder) -> None:
        if isinstance(event, Welcome):
            at = event.position
            while at is not None and self.waiting and self.waiting[0][0].first < at.next:
                self._done()
            session.resume(at.last if at is not None else None, time.monotonic())
            self.welcomed = True
            ladder.useful()
            self.crowd.welcome(self.number)
        elif isinstance(event, Acknowledged):
            for _ in range(event.frames):
                self._done()
                self.sent -= 1

    def _done(self) -> None:
        frame, since = self.waiting.popleft()
        self.crowd.acknowledged(frame.count, time.monotonic() - since)
        if self.crowd.full and not self.waiting:
            self.make(self.crowd.full)

    async def _send(self, stream: TLSStream, session: Sender) -> None:
        while True:
            self.wake = trio.Event()
            session.following = self.next
            session.tick(time.monotonic())
            while session.state is State.STREAMING and self.sent < len(self.waiting):
                frame = self.waiting[self.sent][0]
                if not session.fits(frame):
                    break
                session.send(frame)
                self.sent += 1
            data = session.take()
            if data:
                await stream.send_all(data)
                continue
            deadline = session.deadline
            with trio.move_on_after(float("inf") if deadline is None else max(0.0, deadline - time.monotonic())):
                await self.wake.wait()


@attrs.define(eq=False)
class Crowd:
    """All of them. full: records of the frame that each makes when its last one is acknowledged; 0: none."""

    port: int
    hosts: list[Host] = attrs.field(factory=list)
    full: int = 0
    failures: int = 0
    began: float = 0.0
    welcomes: dict[int, float] = attrs.field(factory=dict)
    records: int = 0
    delays: list[float] = attrs.field(factory=list)
    under_way: int = 0
    """Frames made and not acknowledged."""
    all_there: trio.Event = attrs.field(factory=trio.Event)
    first_lost: trio.Event = attrs.field(factory=trio.Event)
    settled: trio.Event = attrs.field(factory=trio.Event)

    def welcome(self, number: int) -> None:
        """One has been."""
        self.welcomes[number] = time.monotonic() - self.began
        if len(self.welcomes) >= len(self.hosts):
            self.all_there.set()

    def lost(self, number: int) -> None:
        """One has lost its connection."""
        if self.all_there.is_set():
            self.all_there = trio.Event()
            self.first_lost.set()
            self.began, self.welcomes, self.failures = time.monotonic(), {}, 0
        self.welcomes.pop(number, None)

    def acknowledged(self, records: int, delay: float) -> None:
        """A frame is on the collector's disk."""
        self.records += records
        self.under_way -= 1
        if not self.under_way:
            self.settled.set()
        self.delays.append(delay)

    async def obey(self, words: list[str], nursery: trio.Nursery) -> dict[str, float]:
        """One command."""
        match words:
            case ["connect"]:
                self.began = time.monotonic()
                for host in self.hosts:
                    nursery.start_soon(host.run)
                await self.all_there.wait()
                return self._arrival()
            case ["steady", rate, records, seconds]:
                return await self._measured(self._steady(float(rate), int(records), float(seconds)))
            case ["full", records, seconds]:
                return await self._measured(self._full(int(records), float(seconds)))
            case ["back", seconds]:
                with trio.move_on_after(float(seconds)):
                    await self.first_lost.wait()
                    await self.all_there.wait()
                return self._arrival()
        raise ValueError(f"unknown command: {words}")

    def _arrival(self) -> dict[str, float]:
        times = sorted(self.welcomes.values())
        return {
            "welcomed": len(times),
            "p50": quantile(times, 0.5),
            "p99": quantile(times, 0.99),
            "seconds": times[-1] if times else 0.0,
            "failures": self.failures,
        }

    async def _measured(self, load: Any) -> dict[str, float]:
        self.records, self.delays = 0, []
        began, cpu = time.monotonic(), time.process_time()
        await load
        seconds, records, delays = time.monotonic() - began, self.records, sorted(self.delays)
        used = time.process_time() - cpu
        with trio.move_on_after(30):
            self.settled = trio.Event()
            if self.under_way:
                await self.settled.wait()
        return {
            "rate": records / seconds,
            "frames": len(delays) / seconds,
            "p50": quantile(delays, 0.5),
            "p99": quantile(delays, 0.99),
            "longest": delays[-1] if delays else 0.0,
            "cpu": used / seconds,
            "left": self.under_way,
        }

    async def _steady(self, rate: float, records: int, seconds: float) -> None:
        began, made = time.monotonic(), 0
        order = random.sample(self.hosts, len(self.hosts))
        while (now := time.monotonic() - began) < seconds:
            while made < now * rate:
                order[made % len(order)].make(records)
                made += 1
            await trio.sleep(0.005)

    async def _full(self, records: int, seconds: float) -> None:
        self.full = records
        for host in self.hosts:
            host.make(records)
        await trio.sleep(seconds)
        self.full = 0


def quantile(ordered: list[float], part: float) -> float:
    """The value below which this part of them lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


async def main(master: Path, port: int, first: int, count: int) -> None:
    """Until standard input ends."""
    key = read_key(master).key
    crowd = Crowd(port)
    for number in range(first, first + count):
        identity = (NAME % number).encode()
        crowd.hosts.append(Host(number, ClientContext(identity, derive(key, identity, 0), alpn=(ALPN,)), crowd))
    print(json.dumps({"ready": count}), flush=True)
    async with trio.open_nursery() as nursery:
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await crowd.obey(line.split(), nursery)), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
