"""The hard lines of tests/corpus/nasty-events.log, by number, and what the readers and the assembler make of them."""

from __future__ import annotations

from typing import Final

from audisp.event import Event
from audisp.parse.assemble import Assembler
from audisp.parse.lines import LineReader
from audisp.parse.record import Record, RecordReader
from audisp.record import Block
from tests.needs import ROOT

NASTY: Final = ROOT / "tests" / "corpus" / "nasty-events.log"


def lines(first: int, last: int | None = None) -> bytes:
    """These lines of the file, counted from 1, as they are."""
    return b"".join(
        line + b"\n" for line in NASTY.read_bytes().split(b"\n")[first - 1 : first if last is None else last]
    )


def read(data: bytes, max_record: int = 1 << 20) -> tuple[bytes, int]:
    """What a source lets in of it, and how many lines it rejects."""
    reader = LineReader(max_record)
    reader.feed(data)
    reader.close()
    return reader.take()[0], reader.rejected


def events(data: bytes) -> list[Event]:
    """The events of a recorded stream."""
    assembler = Assembler("nasty", RecordReader(), recorded=True)
    found = []
    good = read(data)[0]
    batch = assembler.feed(Block(good, good.count(b"\n"), "nasty", 0.0), 0.0)
    for each in (batch, assembler.flush(0.0)):
        if each is not None:
            found += each.events
    assert assembler.counts.records_in == assembler.counts.records_out
    return found


def event(first: int, last: int | None = None) -> Event:
    """The one event of these lines."""
    (found,) = events(lines(first, last))
    return found


def record(number: int) -> Record:
    """The one record of a line."""
    (found,) = event(number).records
    return found
