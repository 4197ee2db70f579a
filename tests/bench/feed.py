"""An audit log into auditd's TCP listener, as fast as its acknowledgements come back.

The framing is audisp-remote's (audisp-remote.conf(5), transport TCP, format managed): a 16-byte header before every
record, and one acknowledgement for each. audisp-remote waits for each before it sends the next; this one has up to
WINDOW under way, so that what is measured is the receiver.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from typing import Final

FRAME: Final = struct.Struct("<IBBIHI")
"""Magic, header version, message version, type, length of what follows, sequence number; little-endian."""
MAGIC: Final = 0xFF0000FE
MESSAGE: Final = 0
ACK: Final = 0x40000000
WINDOW: Final = 1024
"""Records sent and not acknowledged: enough that the receiver is never idle."""
CHUNK: Final = 64
"""Records to a send."""
PATIENCE: Final = 10.0
"""Seconds without an acknowledgement after which the receiver is taken to have stopped."""


class Refused(RuntimeError):
    """The receiver closed the connection, stopped, or answered with an error."""


def chunks_of(lines: Sequence[bytes]) -> list[bytes]:
    """The records, each ended by LF, framed and ready to be sent, CHUNK of them to a piece."""
    frames = [FRAME.pack(MAGIC, 0, 0, MESSAGE, len(line), number) + line for number, line in enumerate(lines, 1)]
    return [b"".join(frames[at : at + CHUNK]) for at in range(0, len(frames), CHUNK)]


def feed(port: int, chunks: Sequence[bytes], records: int) -> None:
    """Send so many records in chunks, and wait for the acknowledgement of each. Raises Refused."""
    sent = acknowledged = 0
    unsent = memoryview(b"")
    answers = b""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.setblocking(False)
        while acknowledged < records:
            if not unsent and sent < len(chunks) and sent * CHUNK - acknowledged < WINDOW:
                unsent = memoryview(chunks[sent])
                sent += 1
            readable, writable, _ = select.select([stream], [stream] if unsent else [], [], PATIENCE)
            if not (readable or writable):
                raise Refused(f"no acknowledgement in {PATIENCE:g} s, after {acknowledged} of {records}")
            if writable:
                unsent = unsent[stream.send(unsent) :]
            if readable:
                got = stream.recv(1 << 16)
                if not got:
                    raise Refused(f"connection closed after {acknowledged} acknowledgements")
                answers += got
                taken, whole = _acknowledgements(answers)
                acknowledged += taken
                answers = answers[whole:]


def _acknowledgements(answers: bytes) -> tuple[int, int]:
    """How many whole acknowledgements there are, and their bytes."""
    count = at = 0
    while at + FRAME.size <= len(answers):
        _, _, _, kind, length, _ = FRAME.unpack_from(answers, at)
        if at + FRAME.size + length > len(answers):
            break
        if kind != ACK:
            raise Refused(f"answer of type {kind:#x}: {answers[at + FRAME.size : at + FRAME.size + length]!r}")
        count += 1
        at += FRAME.size + length
    return count, at
