"""Hostile peers by the hundred at a collector that runs as a process, and what its one honest sender notices of it.

Attacks come in waves, each of one kind, from many addresses of loopback, so that no limit of one address stands in for
the rest: no key, a wrong key, unknown and disabled identities, connect and leave, connect and say nothing, HTTP, plain
TCP to the TLS port, oversized and zero lengths, bombs, forged acknowledgements, replayed frames, slow connections, and
seeded nonsense in both protocols, with a key and without. A good sender has a record acknowledged again and again; the
time that takes is measured between the waves and in them.
"""

from __future__ import annotations

import contextlib
import random
import re
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.errors import AudispError
from audisp.parse.psk import Key, derive
from audisp.tls.context import ClientContext
from audisp.tls.stream import TLSStream
from audisp.wire.native import ALPN, DATA_MARK
from audisp.wire.rmw import Frame, Type
from tests.collector.hostile import HELLO, HOSTILE, HTTP, RECORD, resealed, spoiled
from tests.collector.running import NativeClient
from tests.e2e.collectors import Collector
from tests.soak.handshakes import SLOPE_KIB
from tests.soak.result import Result
from tests.soak.steady import rss_kib
from tests.soak.world import until
from tests.tls.files import put_acl, put_key
from tests.wire.streams import chain

GOOD: Final = Key(bytes(range(32)))
BAD: Final = Key(bytes(range(50, 82)))
WRONG: Final = Key(bytes(32))
SLOW: Final = 1_000
SLOW_SECONDS: Final = 5.0
"""For which the slow ones drip a byte a second."""
AT_ONCE: Final = 50
PATIENCE: Final = 20.0
LATENCY: Final = 2.0
"""Seconds within which each record of the good sender is acknowledged: far above what it takes, far below any timeout
that would mean that it waited for one of the others. Attackers and collector share the machine's cores."""
ROUNDS: Final = 8
"""The memory of the last is compared with that of the one before. Four were too few to tell a heap that settles from
one that grows: with eight it was 93, 105, 105, 110, 114, 118, 117, 118 MB (27 November 2026, seed 2026)."""
LINES: Final = 5
"""Of a kind that the log has in ten seconds."""
WINDOW: Final = 10.0


@attrs.define
class Siege:
    """port: the collector's. counts: attacks by kind. latencies: seconds of the good sender's, by what went on."""

    port: int
    chance: random.Random
    spool: bytes
    latencies: dict[str, list[float]]
    counts: dict[str, int] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)
    stored: int = 0
    _phase: str = "quiet"

    # ---- ways in ----

    async def bare(self) -> trio.SocketStream:
        """A TCP connection from any address of loopback."""
        sock = trio.socket.socket()
        source = f"127.{self.chance.randrange(1, 255)}.{self.chance.randrange(256)}.{self.chance.randrange(1, 255)}"
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)

    async def proved(self, identity: bytes, key: Key | None, *, native: bool = True) -> TLSStream:
        """A TLS connection after its handshake; key None: with the right one. Raises what that raises."""
        context = ClientContext(identity, key or derive(BAD, identity, 0), alpn=(ALPN,) if native else ())
        stream = TLSStream(await self.bare(), context)
        try:
            await stream.handshake(PATIENCE)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def say(self, stream: trio.abc.Stream, data: bytes) -> None:
        """Say it, and wait for the collector to end the connection."""
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, AudispError), trio.move_on_after(PATIENCE) as patience:
                await stream.send_all(data)
                while await stream.receive_some(65_536):
                    pass
            if patience.cancelled_caught:
                self.problems.append(f"{self._phase}: the connection is still open after {PATIENCE:.0f} s")

    # ---- attacks ----

    async def without(self, identity: bytes, key: Key | None) -> None:
        """A handshake that must fail."""
        try:
            stream = await self.proved(identity, key)
        except AudispError:
            return
        await trio.aclose_forcefully(stream)
        self.problems.append(f"{identity!r} was let in")

    async def leave(self) -> None:
        """Connect and leave, half of the times with a reset."""
        stream = await self.bare()
        if self.chance.random() < 0.5:
            stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)

    async def with_key(self, data: bytes) -> None:
        """These bytes behind a good handshake of a host that has turned bad."""
        await self.say(await self.proved(b"bad%d.slow" % self.chance.randrange(100), None), data)

    async def replay(self) -> None:
        """A frame that is sent again and again, and then one that does not follow."""
        one, two, three = chain(3, 1, 1)
        data = HELLO + one.under(DATA_MARK) * 5 + three.under(DATA_MARK) + two.under(DATA_MARK)
        # Hosts of their own: where another attack has stored more, all of it is a duplicate, and no reason to end.
        await self.say(await self.proved(b"replay%d.slow" % self.chance.randrange(100), None), data)

    async def nonsense(self) -> None:
        """Frames of either protocol with some bytes wrong."""
        frames = chain(3, 5, 1)
        if self.chance.random() < 0.5:
            data = spoiled(HELLO + b"".join(each.under(DATA_MARK) for each in frames), self.chance)
        else:
            data = HELLO + frames[0].under(DATA_MARK) + resealed(frames[1], self.chance)
        stream: trio.abc.HalfCloseableStream = await self.proved(b"odd%d.slow" % self.chance.randrange(100), None)
        if self.chance.random() < 0.5:
            await trio.aclose_forcefully(stream)
            stream = await self.proved(b"bad%d.slow" % self.chance.randrange(100), None, native=False)
            data = spoiled(b"".join(Frame(Type.MESSAGE, n, RECORD).encode() for n in range(4)), self.chance)
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, AudispError), trio.move_on_after(PATIENCE):
                await stream.send_all(data)
                await stream.send_eof()
                while await stream.receive_some():
                    pass

    async def slow(self) -> None:
        """A connection that says a byte a second: of a handshake, of a greeting, or of a frame."""
        kind = self.chance.randrange(3)
        frame = chain(40)[0].under(DATA_MARK)
        with contextlib.suppress(trio.BrokenResourceError, AudispError):
            if kind == 0:
                stream: trio.abc.Stream = await self.bare()
                data, start = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500, b""
            else:
                stream = await self.proved(b"bad%d.slow" % self.chance.randrange(1_000), None)
                data, start = (HELLO, b"") if kind == 1 else (frame, HELLO)
            async with stream:
                await stream.send_all(start) if start else None
                end = trio.current_time() + SLOW_SECONDS
                for byte in data:
                    if trio.current_time() > end:
                        return
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(1)

    def waves(self, count: int) -> Iterator[tuple[str, int, int, Callable[[], Awaitable[None]]]]:
        """Name, how many, how many at once, and what each does."""
        yield "no key", count, AT_ONCE, lambda: self.without(b"nobody", WRONG)
        yield "wrong key", count, AT_ONCE, lambda: self.without(b"bad1.slow", WRONG)
        yield "disabled", count, AT_ONCE, lambda: self.without(b"off", None)
        yield "connect and leave", count * 5, AT_ONCE, self.leave
        yield "connect and say nothing", count, count, lambda: self._bare_say(b"")
        yield "http", count, AT_ONCE, lambda: self._bare_say(HTTP)
        plain = Frame(Type.MESSAGE, 2, RECORD).encode()
        yield "plain TCP to the TLS port", count, AT_ONCE, lambda: self._bare_say(plain)
        for name, data in HOSTILE.items():
            yield f"with a key: {name}", max(2, count // 10), 10, lambda data=data: self.with_key(data)  # type: ignore[misc]
        yield "replayed frames", count, AT_ONCE, self.replay
        yield "nonsense", count * 2, AT_ONCE, self.nonsense
        yield "slow", min(SLOW, count * 10), SLOW, self.slow

    async def _bare_say(self, data: bytes) -> None:
        await self.say(await self.bare(), data)

    # ---- who must not notice ----

    async def good(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A sender that has one record acknowledged after the other, until cancelled."""
        stream = TLSStream(
            await trio.open_tcp_stream("127.0.0.1", self.port), ClientContext(b"good", GOOD, alpn=(ALPN,))
        )
        await stream.handshake(PATIENCE)
        frames = chain(*[1] * 20_000)
        async with NativeClient(stream, []) as client:
            client.sender = type(client.sender)(trio.current_time(), spool=self.spool, first=1, following=20_001)
            await client.greet()
            task_status.started()
            for number, frame in enumerate(frames, 1):
                client.frames = [frame]
                began, phase = trio.current_time(), self._phase
                await client.until(lambda number=number: client.acknowledged > number)  # type: ignore[misc]
                if client.acknowledged <= number:
                    self.problems.append(f"{self._phase}: the good sender was cut off")
                    return
                self.stored = number
                self.latencies.setdefault(phase, []).append(trio.current_time() - began)
                await trio.sleep(0.01)

    async def run(self, count: int) -> None:
        """All waves, with the good sender beside them."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.good)
            await trio.sleep(2)
            for name, many, at_once, attack in self.waves(count):
                self._phase = name
                self.counts[name] = many
                limit = trio.CapacityLimiter(at_once)

                async def one(
                    attack: Callable[[], Awaitable[None]] = attack, limit: trio.CapacityLimiter = limit
                ) -> None:
                    async with limit:
                        with contextlib.suppress(trio.BrokenResourceError, AudispError, OSError):
                            await attack()

                async with trio.open_nursery() as wave:
                    for _ in range(many):
                        wave.start_soon(one)
            self._phase = "quiet"
            await trio.sleep(1)
            nursery.cancel_scope.cancel()


def _kinds(said: str) -> dict[str, int]:
    """Lines of the log by what they say, without numbers and addresses."""
    found: dict[str, int] = {}
    for line in said.splitlines():
        if "refused (" in line or "cut off" in line:
            kind = re.sub(r"['\"].*?['\"]|[\d.:\[\]]+", "", line)[:70]
            found[kind] = found.get(kind, 0) + 1
    return found


def hostile(folder: Path, seed: int, count: int, rounds: int = ROUNDS) -> Result:
    """For `make soak`: rounds of all waves, `count` attacks of most kinds in each."""
    result = Result("hostile", seed)
    key, master = put_key(folder / "good.key", GOOD), put_key(folder / "master.key", BAD, None)
    acl = put_acl(folder / "clients", f"good enabled key={key}", "*.slow enabled match=suffix", "off disabled")
    conf: dict[str, Any] = {"tls_allowed_clients": acl, "tls_psk_master": master, "handshake_timeout": 2}
    sizes, stored, attacks = list[int](), 0, 0
    latencies: dict[str, list[float]] = {}
    with Collector(folder / "collector", **conf) as collector:
        began = time.monotonic()
        for number in range(rounds):
            siege = Siege(collector.port, random.Random(seed + number), bytes([number]) * 16, latencies)
            trio.run(siege.run, count)
            result.problems += siege.problems[:10]
            stored, attacks = stored + siege.stored, attacks + sum(siege.counts.values())
            until(lambda: not collector.host("good")["connections"], "all have gone")
            sizes.append(rss_kib(collector.pid))
        seconds = time.monotonic() - began
        said, found = collector.said(), len(collector.records("good"))
        result.check("defect" not in said and "Traceback" not in said, f"a defect of ours: {said[-3_000:]}")
        # The last record of a round may have been stored when the sender went.
        result.check(
            stored <= found <= stored + rounds, f"{stored} of the good sender were acknowledged, {found} stored"
        )
        result.check(not collector.verified().status, "the store is not whole")
    most = LINES * (int(seconds / WINDOW) + 2)
    for kind, lines in _kinds(said).items():
        result.check(lines <= most, f"{lines} lines in {seconds:.0f} s: {kind}")
    for phase, those in latencies.items():
        result.check(max(those) < LATENCY, f"{phase}: the good sender waited {max(those):.2f} s")
    grown = sizes[-1] - sizes[-2 % len(sizes)]
    result.check(rounds < ROUNDS or grown < SLOPE_KIB, f"memory after each round, KiB: {sizes}")
    quiet = sorted(latencies["quiet"])
    busy = sorted(each for phase, those in latencies.items() if phase != "quiet" for each in those)
    result.figures |= {"attacks": attacks, "kinds": len(latencies) - 1, "seconds": round(seconds)}
    result.figures |= {"lines in the log": said.count("\n"), "kinds of lines": len(_kinds(said))}
    result.figures["memory after each round, KiB"] = " ".join(map(str, sizes))
    for name, those in (("quiet", quiet), ("attacked", busy)):
        result.figures[f"acknowledged, {name}: median, p99, most, ms"] = " ".join(
            f"{1_000 * those[min(len(those) - 1, int(len(those) * part))]:.1f}" for part in (0.5, 0.99, 1.0)
        )
    result.figures["records of the good sender"] = stored
    return result
