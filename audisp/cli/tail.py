"""`audisp tail`: what passes through the running dispatcher, in any shape, until Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from audisp.cli.cat import Sink, standard_output
from audisp.dispatch.control import connect, read_answer
from audisp.errors import SourceError

CONNECT_SECONDS: Final = 5.0
"""Until the dispatcher answers; from then on it may be silent as long as it likes."""
READ: Final = 65_536
"""Bytes taken at once."""


def tail(folder: Path, request: dict[str, Any], head: bytes = b"") -> int:
    """Copy lines until the dispatcher ends. head: before the first. Raises OSError or SourceError if it cannot be
    reached, or refuses; OutputError or BrokenPipeError if nothing can be written any more."""
    sink = Sink(standard_output())
    with connect(folder, CONNECT_SECONDS) as sock, sock.makefile("rb") as file:
        sock.sendall(json.dumps({"op": "tail", **request}).encode() + b"\n")
        answer = read_answer(file)
        if not answer.get("ok"):
            raise SourceError(str(answer.get("error", "refused")))
        sock.settimeout(None)
        if head:
            sink.write(head)
        pending = b""
        while data := file.read1(READ):
            lines, end, pending = (pending + data).rpartition(b"\n")
            if end:
                sink.write(lines + end)
    return 0
