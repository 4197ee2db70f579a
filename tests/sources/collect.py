"""A route that collects what it is sent, and records to send."""

from __future__ import annotations

import struct
from collections.abc import Callable

import trio

from audisp.record import Block
from audisp.sources.bad import Level
from audisp.sources.contract import SourceBooks


class Collected:
    """A `Route` that keeps every block; closed, it makes senders wait, as a full queue that must wait does."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.open = trio.Event()
        self.open.set()
        self._more = trio.Event()

    async def send(self, block: Block) -> None:
        if not self.open.is_set():
            await self.open.wait()
        self.blocks.append(block)
        self._more.set()
        self._more = trio.Event()

    def send_blocking(self, block: Block) -> None:
        raise AssertionError("these sources live in the loop")

    def when_done(self, call: Callable[[], None]) -> None:
        """What is collected is done with."""
        call()

    def shut(self) -> None:
        self.open = trio.Event()

    @property
    def data(self) -> bytes:
        return b"".join([block.data for block in self.blocks])

    @property
    def records(self) -> int:
        return sum(block.records for block in self.blocks)

    async def until(self, records: int) -> None:
        """Wait until that many records are here."""
        with trio.fail_after(20):
            while self.records < records:
                await self._more.wait()


class Said:
    """What was said to the log."""

    def __init__(self) -> None:
        self.lines: list[tuple[Level, str]] = []

    def __call__(self, level: Level, text: str) -> None:
        self.lines.append((level, text))

    @property
    def text(self) -> str:
        return "\n".join(f"{level}: {text}" for level, text in self.lines)


def line(serial: int, text: str = "op=test", type_: str = "USER") -> bytes:
    """One record in string form."""
    return f"type={type_} msg=audit(1700000000.{serial % 1000:03}:{serial}): {text}\n".encode()


def lines(count: int, first: int = 1, text: str = "op=test") -> bytes:
    """Records in string form, numbered from `first`."""
    return b"".join([line(serial, text) for serial in range(first, first + count)])


def frame(serial: int, text: str = "op=test", slot: int | None = None) -> bytes:
    """One record in binary form, version 0; with `slot` filled up with residue to that many bytes, as auditd 3.0.9."""
    payload = f"audit(1700000000.{serial % 1000:03}:{serial}): {text}".encode()
    data = struct.pack("=4I", 0, 16, 1005, len(payload)) + payload
    return data if slot is None else data + (b"residue of an earlier record " * 400)[: slot - len(data)]


def balanced(books: SourceBooks, route: Collected) -> bool:
    """Whether the books agree with themselves and with what arrived."""
    return books.received == books.routed + books.rejected and (books.routed, books.bytes) == (
        route.records,
        len(route.data),
    )
