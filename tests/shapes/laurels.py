"""Events for the tests of the shape ``laurel``, and its lines read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from audisp.event import Batch, Event
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from audisp.shapes.json_text import string
from audisp.shapes.laurel import Laurel
from audisp.shapes.laurel_exact import Exact, event_text, identity
from audisp.shapes.shape import ShapeSettings
from tests.needs import ROOT

OURS: Final = ROOT / "tests" / "corpus"
STAMP: Final = "1700000000.123:7"
SYSCALL: Final = (
    "arch=c000003e syscall=59 success=yes exit=0 a0=55c0 a1=0 a2=7ffe a3=8 items=2 ppid=1 pid=22 auid=1000 uid=0 gid=0 "
    'euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="ls" exe="/usr/bin/ls" key=(null)'
)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of which no key comes twice."""
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"a key comes twice: {names}"
    return dict(pairs)


def parsed(line: bytes) -> dict[str, Any]:
    """The object of one line of output."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found = json.loads(line.decode("utf-8"), object_pairs_hook=unique)
    assert isinstance(found, dict)
    return found


def blocks(path: Path) -> Iterator[bytes]:
    """A file in pieces of whole lines."""
    data = path.read_bytes().replace(b"\0", b"")
    while data:
        cut = data.rfind(b"\n", 0, 100_000) + 1 or len(data)
        yield data[:cut]
        data = data[cut:]


def batches(pieces: Iterator[bytes]) -> Iterator[Batch]:
    """What the assembler makes of a recorded stream."""
    assembler = Assembler("test", RecordReader(), recorded=True)
    for data in pieces:
        found = assembler.feed(Block(data, data.count(b"\n"), "test", 0.0), 0.0)
        if found is not None:
            yield found
    found = assembler.flush(0.0)
    if found is not None:
        yield found


def event_of(*lines: str | bytes, node: str = "") -> Event:
    """One event of these stripped lines, ``TYPE FIELDS``."""
    head = f"audit({STAMP}):"
    raw = b""
    for line in lines:
        text = line.encode("utf-8") if isinstance(line, str) else line
        type_, _, body = text.partition(b" ")
        raw += (f"node={node} " if node else "").encode() + b"type=%b msg=%b %b\n" % (type_, head.encode(), body)
    prefix = f"node={node} ".encode() if node else b""
    return Event(raw, prefix, head.encode(), 0, "test", 0.0, RecordReader())


def exact(event: Event, **options: bool) -> bytes:
    """What the exact path alone makes of an event."""
    opening = f'"ID":"{identity(event.stamp)}"'
    node = event.same[0][5:-1].decode("latin-1")
    if node:
        opening += f',"NODE":{string(node)}'
    return event_text(opening, event.lines, Exact(**options)).encode("latin-1")


def rendered(*lines: str | bytes, version: str = "", node: str = "") -> dict[str, Any]:
    """The object of one event, the same by every way."""
    event = event_of(*lines, node=node)
    shape = Laurel(ShapeSettings(version=version))
    expected = exact(event, questions=version != "0.8")
    assert shape.render_all([event]) == [expected]
    assert shape.render_all([event]) == [expected]  # from memory
    assert shape.render(event) == expected
    out = parsed(expected)
    assert out.pop("ID") == STAMP
    return out
