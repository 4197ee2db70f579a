"""What hostile peers send, for the tests of the listener."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Final

import zstandard

from audisp.buffer.segment import ANCHOR, MAX_FRAME_PLAIN, PREFIX_BYTES
from audisp.wire.native import DATA_MARK, DataFrame, Hello
from audisp.wire.native_frames import wire_mark
from tests.collector.running import (
    SPOOL,
    NativeClient,
    Running,
    connect,
    connect_plain,
    rejected,
)
from tests.wire.streams import chain, frame, lines

HTTP: Final = b"GET / HTTP/1.1\r\nHost: collector\r\n\r\n"
RECORD: Final = b"type=SYSCALL msg=audit(1.000:1): a=b\n"
HELLO: Final = Hello(SPOOL, 1, 100).encode()


async def still_works(server: Running, first: int = 1) -> None:
    """Another host sends, and all of it is stored."""
    frames = chain(4, 3)
    async with NativeClient(await connect(server.port, "web2"), frames, bytes([first]) * 16) as client:
        await client.send_all()
    assert server.records("web2")[-7:] == lines(1, 7).splitlines(keepends=True)


async def send(server: Running, data: bytes) -> bytes:
    """What comes back for these bytes on a bare connection."""
    stream = await connect_plain(server.port)
    async with stream:
        if data:
            await stream.send_all(data)
        return await rejected(stream)


def prefix(kind: int, head: int, packed: int, plain: int, body: bytes = b"") -> bytes:
    """A frame's prefix with right checksums, and a body."""
    fixed = struct.pack("<8sIIII", wire_mark(kind), head, packed, plain, zlib.crc32(body))
    return fixed + struct.pack("<I", zlib.crc32(fixed)) + body


def bomb(plain: int) -> bytes:
    """A data frame that says that it is small, and whose records are not."""
    small = frame(1, 1)
    head = small.raw[PREFIX_BYTES : PREFIX_BYTES + struct.unpack_from("<I", small.raw, 8)[0]]
    packed = zstandard.ZstdCompressor().compress(b"\n" * (256 << 20))
    return prefix(3, len(head), len(packed), plain, head + packed)


HOSTILE: Final[dict[str, bytes]] = {
    "http": HTTP,
    "no-greeting": frame().under(DATA_MARK),
    "greeting-twice": HELLO + HELLO,
    "oversized": prefix(3, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
    "oversized-greeting": prefix(1, 1 << 20, 0, 0),
    "zero-lengths": HELLO + prefix(3, 0, 0, 0),
    "unknown-type": HELLO + prefix(99, 0, 0, 0),
    "answer-of-a-collector": HELLO + prefix(4, 1, 0, 0, b"\x80"),
    "bomb": HELLO + bomb(40),
    "big-bomb": HELLO + bomb(MAX_FRAME_PLAIN),
    "bad-checksum": HELLO + frame().under(DATA_MARK)[:-1] + b"x",
    "second-frame-first": HELLO + chain(3, 4)[1].under(DATA_MARK),
    "nothing-but-zeros": b"\0" * 100_000,
}


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """The same with a few bytes changed, left out or put in, and sometimes cut."""
    some = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(some))
        match chance.randrange(4):
            case 0:
                some[at] ^= 1 << chance.randrange(8)
            case 1:
                del some[at : at + chance.randrange(1, 9)]
            case 2:
                some[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                some[at : at + 4] = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff"])
        some = some or bytearray(b"x")
    return bytes(some[: chance.randrange(1, len(some) + 1)] if chance.random() < 0.2 else some)


def resealed(one: DataFrame, chance: random.Random) -> bytes:
    """A data frame with a spoiled body and right checksums, so that it gets further."""
    size = struct.unpack_from("<I", one.raw, 8)[0]
    body = one.raw[PREFIX_BYTES:]
    head, packed = spoiled(body[:size], chance), spoiled(body[size:], chance) if chance.random() < 0.5 else body[size:]
    return prefix(3, len(head), len(packed), one.plain, head + packed)


def big_frames(count: int) -> list[DataFrame]:
    """Frames of nearly 1 MiB, unpacked, that hardly weigh anything packed."""
    from audisp.buffer.segment import Frame as Stored

    made: list[DataFrame] = []
    at, last = 1, ANCHOR
    for _ in range(count):
        data = b"".join(b"type=SYSCALL msg=audit(1700000000.000:%d): %b\n" % (n, b"x" * 8_000) for n in range(130))
        made.append(DataFrame.make(Stored(at, 130, "netlink", {}, last, 1, data)))
        at, last = made[-1].after.next, made[-1].after.last
    return made
