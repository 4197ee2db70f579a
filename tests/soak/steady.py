"""Two million records and 86,400 heartbeats through a sender and a collector, as processes: how their memory grows.

The records go from our audisp-remote to our collector over TLS. Meanwhile raw peers beat as fast as they may: PING of
the native protocol and HEARTBEAT of the C programs' to the collector, and PING to a second audisp-remote; a day's worth
of one a second each. RSS of all three processes is sampled from the first to the last record, and the slope of the last
half of the samples (least squares, so that one sample does not decide) has to stay under 1 MiB for that half.

In the first half the collector is stopped now and then, so that the sender's window is full when it goes on: what
either may hold at most it has held before the last half begins, and what is added then stays for ever. For the same
reason the records come evenly, at a rate that both keep up with.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.errors import AudispError
from audisp.tls.context import ClientContext
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN, Accepted, Bye, Hello, Ping, Receiver
from audisp.wire.rmw import Frame, Type
from tests.e2e.collectors import Collector
from tests.e2e.remotes import Remote, numbered
from tests.soak.forward import disk
from tests.soak.handshakes import SLOPE_KIB, growth
from tests.soak.result import Result
from tests.soak.world import until
from tests.tls.ends import KEY, OTHER, SECONDS, WEB1, server
from tests.tls.files import put_acl, put_key

HEARTBEATS: Final = 86_400
"""Of each kind: one a second for a day."""
AHEAD: Final = 200_000
"""Records written and not stored: what waits in the spool is not what is measured."""
BLOCK: Final = 500
RATE: Final = 25_000
"""Records a second: about half of what both take on one core each."""
SAMPLE_SECONDS: Final = 0.25
BEATS: Final = 64
"""Sent at once."""
STALLS: Final = (0.1, 0.2, 0.3, 0.4)
"""At which parts of the run the collector is stopped."""
STALL_SECONDS: Final = 2.0
PATIENCE: Final = 300.0
SPOOL: Final = bytes(range(16))
BEATER: Final = b"beater.example.com"


def numbered_like_the_kernels(first: int, count: int) -> bytes:
    """Records of some 190 bytes, as on a host that runs programs all day, each once."""
    return b"".join(
        b"type=SYSCALL msg=audit(1700000000.%03d:%d): arch=c000003e syscall=59 success=yes exit=0 ppid=%d pid=%d "
        b'auid=1000 uid=0 gid=0 euid=0 tty=pts0 ses=3 comm="sh" exe="/usr/bin/dash" key="exec"\n'
        % (number % 1000, number, number % 30_000, number % 32_768)
        for number in range(first, first + count)
    )


@attrs.define
class Beats:
    """The raw peers. wanted: of each kind by the end; progress: the share of it that may have been sent by now."""

    port: int
    wanted: int
    progress: float = 0.0
    pings: int = 0
    heartbeats: int = 0
    to_sender: int = 0
    listening: int = 0
    problems: list[str] = attrs.field(factory=list)

    def run(self) -> None:
        """All three, until they are through; for a thread."""
        try:
            trio.run(self._all)
        except* (AudispError, trio.BrokenResourceError, trio.TooSlowError) as group:
            self.problems.append(f"a raw peer was cut off: {group.exceptions}")

    async def _all(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping_collector)
            nursery.start_soon(self._beat_collector)
            nursery.start_soon(self._ping_sender)

    async def _due(self, sent: int) -> int:
        """How many to send now, at least one; waits for them to be due. 0: that was all."""
        while sent < self.wanted:
            due = min(BEATS, int(self.wanted * self.progress) - sent, self.wanted - sent)
            if due > 0:
                return due
            await trio.sleep(0.01)
        return 0

    async def _connect(self, alpn: tuple[bytes, ...]) -> TLSStream:
        stream = TLSStream(await trio.open_tcp_stream("127.0.0.1", self.port), ClientContext(BEATER, OTHER, alpn=alpn))
        await stream.handshake(SECONDS)
        return stream

    async def _ping_collector(self) -> None:
        async with await self._connect((ALPN,)) as stream:
            await stream.send_all(Hello(SPOOL, 1, 1).encode())
            await stream.receive_some()

            async def drain() -> None:
                while await stream.receive_some():
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                while due := await self._due(self.pings):
                    await stream.send_all(Ping(1).encode() * due)
                    self.pings += due
                # It answers this by its end, behind all that came before: every one was taken.
                await stream.send_all(Bye().encode())

    async def _beat_collector(self) -> None:
        async with await self._connect(()) as stream:
            while due := await self._due(self.heartbeats):
                frames = [Frame(Type.HEARTBEAT, self.heartbeats + 2 + at) for at in range(due)]
                await stream.send_all(b"".join(each.encode() for each in frames))
                answers, wanted = b"", b"".join(Frame(Type.ACK, each.sequence).encode() for each in frames)
                while len(answers) < len(wanted):
                    data = await stream.receive_some()
                    if not data:
                        break
                    answers += data
                if answers != wanted:
                    self.problems.append(f"heartbeats were answered by {answers[:40]!r}")
                    return
                self.heartbeats += due

    async def _ping_sender(self) -> None:
        """A collector for the second sender, which says PING and stores its last record."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.listening = listener.socket.getsockname()[1]
        stream = TLSStream(await listener.accept(), server({WEB1: KEY}, (ALPN,)))
        session = Receiver(trio.current_time())
        async with listener, stream:
            await stream.handshake(SECONDS)
            await self._hear(stream, session, Hello)
            session.welcome(None, trio.current_time())
            await stream.send_all(session.take())
            while due := await self._due(self.to_sender):
                await stream.send_all(Ping().encode() * due)
                self.to_sender += due
            # Its connection has outlived them all.
            await self._hear(stream, session, Accepted)

    async def _hear(self, stream: TLSStream, session: Receiver, kind: type) -> None:
        while True:
            session.feed(bytes(await stream.receive_some()), trio.current_time())
            while (event := session.next()) is not None:
                if isinstance(event, kind):
                    return


def rss_kib(pid: int) -> int:
    """Of a process."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@contextlib.contextmanager
def _running(folder: Path, wanted: int) -> Iterator[tuple[Collector, Remote, Remote, Beats, threading.Thread]]:
    folder.mkdir(mode=0o750, exist_ok=True)
    key, other = put_key(folder / "key", KEY), put_key(folder / "other", OTHER)
    acl = put_acl(
        folder / "clients",
        f"{WEB1.decode()} enabled key={key}",
        f"{BEATER.decode()} enabled key={other}",
    )
    tls = {"transport": "tls", "protocol": "native", "tls_psk_file": key, "tls_psk_identity": WEB1.decode()}
    with Collector(folder / "collector", tls_allowed_clients=acl, tcp_max_per_addr=8) as collector:
        beats = Beats(collector.port, wanted)
        thread = threading.Thread(target=beats.run, daemon=True)
        thread.start()
        until(lambda: bool(beats.listening), "the raw peer listens")
        with (
            Remote(folder / "sender", port=collector.port, **tls) as sender,
            Remote(folder / "pinged", port=beats.listening, **tls) as pinged,
        ):
            yield collector, sender, pinged, beats, thread


def steady(
    folder: Path, seed: int, count: int, heartbeats: int = HEARTBEATS, stalls: Sequence[float] = STALLS
) -> Result:
    """For `make soak`: `count` records and `heartbeats` of each kind. Nothing is left to chance; the seed is said."""
    result = Result("steady", seed)
    sizes: dict[str, list[int]] = {"collector": [], "sender": [], "pinged sender": []}
    with disk(folder / "disk") as mount, _running(mount / "world", heartbeats) as running:
        collector, sender, pinged, beats, thread = running
        pids = {"collector": collector.pid, "sender": sender.pid, "pinged sender": pinged.pid}
        began = time.monotonic()
        written = stored = 0
        left = [round(part * count) for part in stalls]
        while stored < count:
            stalled = bool(left) and stored >= left[0]
            if stalled:
                del left[0]
                collector.send(signal.SIGSTOP)
            due = time.monotonic() + (STALL_SECONDS if stalled else SAMPLE_SECONDS)
            while time.monotonic() < due and written < min(count, stored + AHEAD):
                if not stalled and written > (time.monotonic() - began) * RATE:
                    time.sleep(0.005)
                    continue
                size = min(BLOCK, count - written)
                sender.write(numbered_like_the_kernels(written + 1, size))
                written += size
            time.sleep(max(0.0, due - time.monotonic()))
            collector.send(signal.SIGCONT)
            for name, pid in pids.items():
                sizes[name].append(rss_kib(pid))
            stored = _stored(collector)
            beats.progress = stored / count
            if time.monotonic() - began > PATIENCE + count / 5_000:
                result.problems.append(f"only {stored} of {count} records are stored")
                break
        seconds = time.monotonic() - began
        pinged.write(numbered(1, 1))
        thread.join(PATIENCE)
        result.check(not thread.is_alive(), "the heartbeats do not end")
        result.problems += beats.problems
        result.figures["records a second"] = round(stored / seconds)
        result.figures |= {"records": stored, "seconds": round(seconds), "samples": len(sizes["collector"])}
        result.figures |= {"PINGs to the collector": beats.pings, "HEARTBEATs to it": beats.heartbeats}
        result.figures["PINGs to a sender"] = beats.to_sender
        for sent in (beats.pings, beats.heartbeats, beats.to_sender):
            result.check(sent == heartbeats, f"{sent} heartbeats were sent, and not {heartbeats}")
        result.check(collector.host(WEB1.decode())["holes"] == 0, "records were left out")
        said = collector.said() + sender.said() + pinged.said()
        result.check("Traceback" not in said and "cut off" not in said, f"this was said: {said[-2000:]}")
    for name, found in sizes.items():
        grown = growth(found)
        result.figures |= {f"{name}, KiB at half and end": f"{found[len(found) // 2]} {found[-1]}"}
        result.figures |= {f"{name}, KiB grown over the last half": grown}
        result.check(grown < SLOPE_KIB, f"{name}: {grown} KiB over the last half")
    return result


def _stored(collector: Collector) -> int:
    try:
        return int(collector.host(WEB1.decode())["records"])
    except StopIteration:
        return 0  # not connected yet
