"""The wire protocols under fuzz: what a hostile peer could send to each end.

A target takes bytes and raises if anything but a declared error comes of them, or an invariant does not hold. Half of
the inputs are the peer's very bytes; the others are taken for a script of frames with right checksums, because no
fuzzer gets past a CRC by chance. Time and memory are the fuzzer's to watch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # the package ships no types
import zstandard

from audisp.buffer.segment import ANCHOR, MAX_FRAME
from audisp.errors import RemoteProtocolError
from audisp.wire import isolate
from audisp.wire.native import (
    MAX_WEIGHT,
    Accepted,
    Acknowledged,
    Breach,
    Closed,
    Duplicate,
    Hello,
    Hole,
    Ping,
    Position,
    Receiver,
    Refused,
    Sender,
    State,
    Trouble,
    Troubled,
    Welcome,
)
from audisp.wire.native_frames import wire_mark
from audisp.wire.native_messages import Ack, Bye
from audisp.wire.rmw import MAX_PAYLOAD_IN, Answer, Frame, Notice, RmwClient
from audisp.wire.rmw_server import MAX_PENDING, Heartbeat, Message, Retry, RmwServer, Text
from tests.wire.streams import SPOOL, chain, wire

PIECE: Final = 64
"""Bytes that are fed at once, at most; the first byte of an input says how many."""
MAX_OUT: Final = 4_096
"""Bytes that a session that sends no data may have to say at once."""


ONE, TWO, THREE, EMPTY = (*chain(2, 1, 3), *chain(0))
SENT: Final = chain(2, 1, 3, 1, 1)
FROM_SENDER: Final = [
    *(Hello(SPOOL, 1, 100).encode(), Hello(SPOOL, 0, 9).encode(), Ping(7).encode(), Bye().encode()),
    *(wire(ONE), wire(TWO), wire(THREE), wire(EMPTY), Refused("other").encode()),
]
FROM_COLLECTOR: Final = [
    *(Welcome(SPOOL, None).encode(), Welcome(SPOOL, SENT[0].after, MAX_WEIGHT, 2).encode(), Ping().encode()),
    *(Ack(each.after).encode() for each in SENT),
    *(Troubled(each).encode() for each in (Trouble.DISK_LOW, Trouble.DISK_FULL, None, Trouble.ENDING)),
    Refused("busy").encode(),
]


def _pieces(data: bytes) -> Iterator[bytes]:
    step = 1 + data[0] % PIECE if data else 1
    for at in range(1, len(data), step):
        yield data[at : at + step]
    yield b""


def _frame(kind: int, head: bytes, packed: bytes = b"", plain: int = 0) -> bytes:
    body = head + packed
    fixed = struct.pack("<8sIIII", wire_mark(kind), len(head), len(packed), plain, zlib.crc32(body))
    return fixed + struct.pack("<I", zlib.crc32(fixed)) + body


def _map(kind: int, fuzz: bytes) -> bytes:
    """A control frame whose map has the right keys, with fuzz where their values stand."""
    keys = ("versions", "spool", "first", "next", "idle", "version", "last", "window", "frames", "kind", "reason")
    values: list[Any] = [None, True, -1, 0, 1, 60, 1 << 24, 2**63, SPOOL, ANCHOR, [1], "disk-full", "ending", "clear"]
    fields = {keys[a % len(keys)]: values[b % len(values)] for a, b in zip(fuzz[::2], fuzz[1::2], strict=False)}
    return _frame(kind, bytes(msgpack.packb(fields)))


def _data(fuzz: bytes) -> bytes:
    """A data frame with right checksums whose parts do not fit each other, mostly."""
    first, count, books, packed = (*fuzz, 0, 0, 0, 0)[:4]
    said: dict[str, Any] = {"gap": {"count": books, "reason": "x", "last": ANCHOR}} if books & 1 else {}
    head = {"first": first % 8, "count": count % 4, "origin": "", "books": said, "previous": ANCHOR, "stamp": 0}
    if books & 2:
        head["books"] = fuzz[4:]
    content = (b"a\n" * (count % 4), b"", fuzz[4:], bytes(1 << 16))[packed % 4]
    body = zstandard.ZstdCompressor().compress(content) if content or packed & 4 else b""
    return _frame(3, bytes(msgpack.packb(head)), body[: len(body) - (packed >> 6)], len(content) + (packed >> 3 & 1))


def _script(data: bytes, known: list[bytes]) -> bytes:
    """The bytes of a peer that follows the fuzz: known frames, broken ones, frames of fuzz, and fuzz."""
    out = []
    at = 0
    while at < len(data):
        what, size = data[at], data[at + 1] % 24 if at + 1 < len(data) else 0
        fuzz = data[at + 2 : at + 2 + size]
        at += 2 + size
        if what < 96:
            out.append(known[what % len(known)])
        elif what < 160:
            out.append(_map(1 + what % 9, fuzz))
        elif what < 200:
            out.append(_data(fuzz))
        elif what < 230:
            out.append(_frame(what % 12, fuzz))
        else:
            out.append(fuzz)
    return b"".join(out)


def _wanted(data: bytes, known: list[bytes]) -> bytes:
    return data[:1] + _script(data[1:], known) if data and data[0] & 64 else data


def _check(error: RemoteProtocolError) -> None:
    """What every error of a peer is: one line that can be logged."""
    assert str(error).isprintable()
    assert len(str(error)) < 1_000


class _Watch:
    """A session that is fed, and what holds whatever it is fed."""

    def __init__(self, session: Sender | Receiver) -> None:
        self.session = session
        self.events: list[Any] = []

    def feed(self, data: bytes, react: Callable[[Any], None]) -> None:
        session = self.session
        for number, piece in enumerate(_pieces(data)):
            session.feed(piece, float(number % 4))
            assert session.buffered <= MAX_FRAME + PIECE
            try:
                while (event := session.next()) is not None:
                    assert not self.events or not isinstance(self.events[-1], Closed)
                    self.events.append(event)
                    react(event)
            except Breach as breach:
                _check(breach)
                assert session.over
            if session.over:
                # Dead is dead: a last word at most, and nothing held.
                assert session.state in (State.DEAD, State.CLOSED)
                assert session.buffered == 0
                assert session.deadline is None
                assert session.next() is None
            assert len(session.take()) <= MAX_OUT
        assert session.over


def native_receiver(data: bytes) -> None:
    """A hostile sender."""
    receiver = Receiver(0.0, window=MAX_WEIGHT, frames=4)
    watch = _Watch(receiver)
    given: list[Accepted] = []
    place: list[Position] = []

    def react(event: Any) -> None:
        if isinstance(event, Hello):
            stored = (None, None, Position(1, ANCHOR), ONE.after)[len(data) % 4]
            if stored is not None and stored.next > event.next:
                stored = None
            place[:] = [stored] if stored is not None else []
            receiver.welcome(stored, 0.0)
        elif isinstance(event, Accepted):
            frame = event.frame
            assert not place or (frame.first, frame.head.previous) == (place[0].next, place[0].last)
            assert event.data.count(b"\n") == event.count
            assert not event.data or event.data.endswith(b"\n")
            place[:] = [frame.after]
            given.append(event)
            assert receiver.under_way <= MAX_WEIGHT
            assert receiver.frames <= 4
            if len(given) % 3 == 0:
                receiver.stored(frame.after)
                assert receiver.frames == 0
        elif isinstance(event, Hole):
            assert event.got > event.expected
            assert receiver.over
        elif isinstance(event, Duplicate):
            receiver.trouble((Trouble.DISK_FULL, None, Trouble.DISK_LOW, Trouble.ENDING)[event.first % 4])

    watch.feed(_wanted(data, FROM_SENDER), react)


def native_sender(data: bytes) -> None:
    """A hostile collector."""
    sender = Sender(0.0, spool=SPOOL, first=1, following=100)
    watch = _Watch(sender)
    sender.take()
    acknowledged = [0]

    def react(event: Any) -> None:
        if isinstance(event, Welcome):
            sender.resume(None, 0.0)
        elif isinstance(event, Acknowledged):
            # Only what was sent can be acknowledged, and never backwards.
            assert acknowledged[0] < event.upto <= sender.next_record
            assert event.frames >= 1
            acknowledged[0] = event.upto
        for each in SENT:
            if each.first == sender.next_record and sender.fits(each):
                sender.send(each)

    watch.feed(_wanted(data, FROM_COLLECTOR), react)


def rmw_server(data: bytes) -> None:
    """A hostile audisp-remote."""
    server = RmwServer()
    records = 0
    known = [
        Frame(kind, number, b"type=A msg=audit(1.0:%d):\n" % number).encode() for kind in (0, 1, 7) for number in (1, 2)
    ]
    for piece in _pieces(_wanted(data, [*known, Frame(0, 3, b"no end").encode(), b"type=A text\n", known[0][:20]])):
        server.feed(piece)
        try:
            while (event := server.next()) is not None:
                if isinstance(event, Message):
                    records += 1
                    assert event.record.endswith(b"\n")
                    assert event.record.count(b"\n") == 1
                    assert len(event.record) <= MAX_PAYLOAD_IN + 1
                    if records % 3 == 0:
                        server.ack(server.pending)
                elif isinstance(event, Text):
                    assert event.line.endswith(b"\n")
                else:
                    assert isinstance(event, Heartbeat | Retry | Closed)
        except RemoteProtocolError as error:
            _check(error)
            assert server.next() is None
        assert server.buffered <= MAX_PAYLOAD_IN + 16 + PIECE
        assert server.pending <= MAX_PENDING
        # What waited for its answer, retries too, and what is answered by itself.
        assert len(server.take()) <= MAX_PENDING * 16 + PIECE
    server.ack(server.pending)


def rmw_client(data: bytes) -> None:
    """A hostile auditd."""
    client = RmwClient(5.0)
    record = b"type=A msg=audit(1.0:1): \n"
    client.send(record, 0.0)
    known = [Frame(kind, n).encode() for kind in (0x40000000, 0x50000001, 0x60000001, 0x40000001) for n in (0, 2, 3)]
    stored = 0
    for piece in _pieces(_wanted(data, known)):
        client.feed(piece, 0.0)
        try:
            while (event := client.next()) is not None:
                if isinstance(event, Answer):
                    assert event.text.isprintable()
                    stored += event.stored
                    assert (client.place.unsettled is None) == event.stored
                    client.send(record, 0.0)
                else:
                    assert isinstance(event, Notice | Closed)
        except RemoteProtocolError as error:
            _check(error)
            assert client.next() is None
        assert client.buffered <= MAX_PAYLOAD_IN + 16 + PIECE
        assert len(client.take()) <= (PIECE // 16 + 2) * (16 + len(record))
    # No record is taken for stored of which the server was not even sent the number.
    assert client.place.sequence == 2 + stored


def isolate_up(data: bytes) -> None:
    """A hostile process of an isolated plugin."""
    decoder = isolate.UpDecoder()
    try:
        for piece in _pieces(_isolate_script(data)):
            decoder.feed(piece)
            for message in decoder:
                # What is let through can be said again, and is of a kind that may be said.
                assert message.kind >= isolate.Described.kind
                assert len(isolate.encode(message)) <= isolate.HEAD.size + isolate.MAX_UP
            assert decoder.buffered <= isolate.HEAD.size + isolate.MAX_UP + PIECE
    except RemoteProtocolError as error:
        _check(error)


def isolate_down(data: bytes) -> None:
    """The same bodies, taken for the dispatcher's."""
    wire = _isolate_script(data)
    while len(wire) >= isolate.HEAD.size:
        try:
            size, payload = isolate.lengths(wire[: isolate.HEAD.size])
            message = isolate.decode_down(wire[isolate.HEAD.size : isolate.HEAD.size + size])
            assert message.kind < isolate.Described.kind
        except RemoteProtocolError as error:
            _check(error)
            return
        wire = wire[isolate.HEAD.size + size + payload :]


def _isolate_script(data: bytes) -> bytes:
    """Frames of the right length: a byte chooses kind and values, or the body is fuzz."""
    if not data or not data[0] & 64:
        return data[1:]
    values: list[Any] = [None, True, -1, 0, 7, 1.5, "info", "blocks", b"12345678", [], ["x"], {}, {"a": 1}, {"a": "b"}]
    out = []
    for at in range(1, len(data), 6):
        kind, count, *rest = (*data[at : at + 6], 0)
        if kind < 224:
            body: bytes = msgpack.packb([kind % 32, *(values[each % len(values)] for each in rest[: count % 5])])
        else:
            body = bytes(rest)
        out.append(isolate.HEAD.pack(len(body), 0) + body)
    return b"".join(out)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "wire-rmw-server": rmw_server,
    "wire-rmw-client": rmw_client,
    "wire-native-sender": native_sender,
    "wire-native-receiver": native_receiver,
    "wire-isolate-up": isolate_up,
    "wire-isolate-down": isolate_down,
}
"""By name."""


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: an honest peer, byte by byte, and a script for each frame that is known."""
    one, two = chain(2, 1)
    yield b"\x07" + Hello(SPOOL, 1, 100).encode() + wire(one, two) + Ping(3).encode() + Bye().encode()
    yield b"\x07" + Welcome(SPOOL, None).encode() + Ack(one.after).encode()
    yield b"\x07" + Frame(0, 2, b"type=A msg=audit(1.0:1): \n").encode() + b"type=A text\n"
    yield b"\x07" + Frame(0x40000000, 2).encode() + Frame(0x50000001, 3).encode()
    yield b"\x07" + isolate.encode(isolate.Opened()) + isolate.encode(isolate.Taken(1))
    yield bytes([64, *(byte for kind in range(12) for byte in (kind, 0))])
    yield bytes([64, 0, 0, *(byte for kind in range(96, 230, 3) for byte in (kind, 6, 0, 1, 2, 3, 4, 5))])
