"""Another implementation of the native protocol, written from docs/formats/protocol.md and docs/formats/segment.md.

It shares no code with audisp, knows nothing but what the pages say, and trusts its peer: it is here to show that the
pages are enough. A sender and a collector, each fed with the bytes of its peer.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # the package ships no types
import zstandard

SIGNATURE: Final = bytes.fromhex("89 61 75 64 77 0A")
HELLO, WELCOME, DATA, ACK, TROUBLE, PING, REFUSE, BYE = range(1, 9)


def frame(kind: int, header: dict[str, Any], records: bytes = b"") -> bytes:
    """A frame of this type."""
    head = msgpack.packb(header)
    packed = zstandard.ZstdCompressor(level=9).compress(records) if records else b""
    prefix = SIGNATURE + struct.pack("<HIIII", kind, len(head), len(packed), len(records), zlib.crc32(head + packed))
    return bytes(prefix + struct.pack("<I", zlib.crc32(prefix)) + head + packed)


class Reader:
    """Bytes in, (type, header, records, hash) out."""

    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, dict[str, Any], bytes, bytes]]:
        """Whole frames."""
        self.data += data
        while len(self.data) >= 28:
            kind, head, packed, plain, crc, prefix_crc = struct.unpack_from("<HIIIII", self.data, 6)
            assert self.data[:6] == SIGNATURE
            assert prefix_crc == zlib.crc32(self.data[:24])
            end = 28 + head + packed
            if len(self.data) < end:
                return
            body, self.data = self.data[28:end], self.data[end:]
            assert crc == zlib.crc32(body)
            records = b""
            if packed:
                assert zstandard.frame_content_size(body[head:]) == plain
                records = zstandard.ZstdDecompressor().decompress(body[head:], allow_extra_data=False)
            yield kind, msgpack.unpackb(body[:head]), records, hashlib.sha256(body).digest()


class SecondSender:
    """Sends frames of records, in numbers from 1."""

    def __init__(self, blocks: list[bytes], spool: bytes) -> None:
        self.frames: list[tuple[int, bytes, bytes]] = []
        number, last = 1, bytes(32)
        for block in blocks:
            count = block.count(b"\n")
            header = {"first": number, "count": count, "origin": "second", "books": {}, "previous": last, "stamp": 1}
            raw = frame(DATA, header, block)
            last = hashlib.sha256(raw[28:]).digest()
            number += count
            self.frames.append((number, raw, last))
        self.next, self.acknowledged = number, 0
        self.reader = Reader()
        self.out = frame(HELLO, {"versions": [1], "spool": spool, "first": 1, "next": number, "idle": 60, "later": 1})

    def feed(self, data: bytes) -> None:
        """From the collector."""
        for kind, header, _, _ in self.reader.feed(data):
            if kind == WELCOME:
                self.acknowledged = header.get("next") or 0
                todo = [raw for end, raw, _ in self.frames if end > self.acknowledged]
                # It has few: all of them fit.
                assert len(todo) <= header["frames"]
                assert sum(len(raw) + struct.unpack_from("<I", raw, 16)[0] for raw in todo) <= header["window"]
                self.out += b"".join(todo) + frame(BYE, {})
            elif kind == ACK:
                (self.acknowledged,) = [
                    end for end, _, last in self.frames if (end, last) == (header["next"], header["last"])
                ]
            else:
                assert kind in (TROUBLE, PING)

    def take(self) -> bytes:
        """To the collector."""
        out, self.out = self.out, b""
        return out


class SecondCollector:
    """Stores what comes next, and says so."""

    def __init__(self) -> None:
        self.stored = b""
        self.gaps: list[tuple[int, int, str]] = []
        self.place: tuple[int, bytes] | None = None
        self.connect()

    def connect(self) -> None:
        """A new connection; what is stored stays."""
        self.reader = Reader()
        self.out = b""
        self.said_bye = False

    def feed(self, data: bytes) -> None:
        """From the sender."""
        news = False
        for kind, header, records, digest in self.reader.feed(data):
            news = news or kind == DATA
            if kind == HELLO:
                welcome = {"version": 1, "spool": header["spool"], "window": 1 << 24, "frames": 100, "idle": 60}
                welcome |= {"frame": 1_118_300, "plain": 1_048_576}
                if self.place is not None:
                    welcome |= {"next": self.place[0], "last": self.place[1]}
                self.out += frame(WELCOME, welcome)
            elif kind == DATA:
                assert self.place in (None, (header["first"], header["previous"]))
                gap = None if header["count"] else header["books"].get("gap")
                if gap:
                    self.gaps.append((header["first"], gap["count"], gap["reason"]))
                    self.place = (header["first"] + gap["count"], gap["last"])
                else:
                    self.stored += records
                    self.place = (header["first"] + header["count"], digest)
            elif kind == BYE:
                self.said_bye = True
        if news and self.place is not None:
            self.out += frame(ACK, {"next": self.place[0], "last": self.place[1]})

    def take(self) -> bytes:
        """To the sender."""
        out, self.out = self.out, b""
        return out
