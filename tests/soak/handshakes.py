"""Handshakes by the thousand, good and bad, on one pair of contexts: what stays behind in memory."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Final

import trio

from audisp.parse.psk import Key
from audisp.tls.context import ClientContext, ServerContext
from audisp.tls.failures import TLSError
from audisp.tls.keyring import KeyFiles, KeyRing, Verdict
from audisp.tls.stream import TLSStream
from tests.soak.result import Result
from tests.tls.ends import SECONDS, rss_kib, sockets
from tests.tls.files import put_acl, put_key

SLOPE_KIB: Final = 1_024
"""Growth over the last half of a run is less than this (issue 4, item 6)."""
SAMPLES: Final = 64
HOSTS: Final = 20
"""Few, so that their contexts, which are kept, are all made early."""
KINDS: Final = (
    "good",
    "good",
    "good",
    "wrong key",
    "unknown",
    "disabled",
    "garbage",
    "leaves",
    "cancelled",
    "forgotten",
)


class Crowd:
    """Clients of many identities with derived keys, and one server."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.master = Key(bytes(range(64)))
        put_key(folder / "master", self.master, None)
        acl = put_acl(folder / "acl", "*.soak enabled match=suffix", "off.soak disabled")
        self.ring = KeyRing(KeyFiles(acl, master=folder / "master", epochs=(0, 1)))
        self.server = ServerContext(self.ring.lookup, alpn=(b"audisp/1",))
        self.contexts: dict[bytes, ClientContext] = {}
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.problems: list[str] = []

    def client(self, identity: bytes, key: Key | None = None) -> ClientContext:
        """Its context, made once; with its derived key unless another is given."""
        if identity not in self.contexts:
            found = key or self.ring.lookup(identity).key
            assert found is not None
            self.contexts[identity] = ClientContext(identity, found, alpn=(b"audisp/1",))
        return self.contexts[identity]

    async def one(self) -> None:
        """One connection, of a kind that chance picks."""
        kind = self.chance.choice(KINDS)
        self.counts[kind] += 1
        host = b"h%d.soak%s" % (self.chance.randrange(HOSTS), self.chance.choice((b"", b"#1")))
        near, far = sockets()
        remote = TLSStream(far, self.server)
        async with remote:
            if kind in ("garbage", "leaves"):
                if kind == "garbage":
                    await near.send_all(self.chance.randbytes(self.chance.randrange(1, 2_000)))
                await near.aclose()
                await self._expect(remote, good=False)
                return
            wrong = Key(bytes(32))
            context = {
                "wrong key": lambda: self.client(b"wrong.soak", wrong),
                "unknown": lambda: self.client(b"nobody.lan", wrong),
                "disabled": lambda: self.client(b"off.soak", wrong),
            }.get(kind, lambda: self.client(host))()
            local = TLSStream(near, context)
            if kind == "forgotten":
                near.socket.close()
                return
            async with local, trio.open_nursery() as nursery:
                if kind == "cancelled":
                    nursery.start_soon(self._expect, remote, False)
                    with trio.move_on_after(0):
                        await local.do_handshake()
                    await local.aclose()
                    return
                nursery.start_soon(self._expect, remote, kind == "good")
                await self._expect(local, kind == "good")

    async def _expect(self, stream: TLSStream, good: bool) -> None:
        try:
            await stream.handshake(SECONDS)
            if good:
                await stream.send_all(b"x" * 100)
                await stream.receive_some()
        except (TLSError, trio.ClosedResourceError) as error:
            if good:
                self.problems.append(f"a good client and its server: {error}")
            return
        if not good:
            self.problems.append("a bad client was let in, or believed a server")


def run(folder: Path, seed: int, count: int) -> tuple[Crowd, list[int]]:
    """`count` connections one after the other; who took part, and the memory (KiB) at SAMPLES moments."""
    crowd = Crowd(folder, seed)
    sizes: list[int] = []

    async def every() -> None:
        for number in range(count):
            await crowd.one()
            if number % max(1, count // 10) == 0:
                crowd.ring.reload()
            if number % max(1, count // SAMPLES) == 0:
                sizes.append(rss_kib())

    trio.run(every)
    gc.collect()
    sizes.append(rss_kib())
    return crowd, sizes


def growth(sizes: list[int]) -> int:
    """KiB that the second half grew by, least squares, so that one sample at the end does not decide."""
    half = sizes[len(sizes) // 2 :]
    middle = (len(half) - 1) / 2
    mean = sum(half) / len(half)
    slope = sum((at - middle) * (size - mean) for at, size in enumerate(half))
    return round(slope / sum((at - middle) ** 2 for at in range(len(half))) * (len(half) - 1))


def handshakes(folder: Path, seed: int, count: int) -> Result:
    """For `make soak`: 10,000 take some seconds."""
    crowd, sizes = run(folder, seed, count)
    result = Result("handshakes", seed)
    result.figures = {f"connections, {kind}": number for kind, number in crowd.counts.items()}
    result.figures["memory after a tenth, KiB"] = sizes[len(sizes) // 10]
    result.figures["memory at the end, KiB"] = sizes[-1]
    result.figures["growth over the last half, KiB"] = growth(sizes)
    result.problems += crowd.problems[:10]
    result.check(growth(sizes) < SLOPE_KIB, f"memory grew by {growth(sizes)} KiB over the last half")
    result.check(len(crowd.server.attempts) <= 1, f"{len(crowd.server.attempts)} connections are still known")
    result.check(crowd.ring.status(b"h1.soak") is Verdict.ENABLED, "the ring has lost its hosts")
    return result
