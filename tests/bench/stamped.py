"""audispd with a stopwatch, for part `latency`: python -m stamped FILE OPTION...

Notes when each recvmmsg returned to Python, and which of tests/native/gen.c's events it brought; at the end FILE gets
number and time of each, as two native 64-bit words. It is put around the reader and not built into it: the hot path has
no switch for benchmarks. What it does itself, a microsecond for each event, is part of the delay that it shows.
"""

from __future__ import annotations

import re
import sys
import time
from array import array
from pathlib import Path
from typing import Final

from audisp.cli import audispd
from audisp.sources.recvmmsg import Batch

SYSCALL: Final = 1300
HEAD_BYTES: Final = 256
"""What is kept of a record: its stamp and the arguments of the call are well within."""

_NUMBER: Final = re.compile(rb" a1=([0-9a-f]+) a2=61756469 ")


def main() -> int:
    """Run audispd with the options that follow FILE."""
    stamps: list[tuple[int, bytes]] = []
    receive = Batch.receive

    def stamping(batch: Batch, fd: int, *, wait: bool) -> int:
        count = receive(batch, fd, wait=wait)
        if count:
            now = time.monotonic_ns()
            for slot, type_ in enumerate(batch.types):
                if type_ == SYSCALL:
                    stamps.append((now, bytes(batch.payloads[slot][:HEAD_BYTES])))
        return count

    setattr(Batch, receive.__name__, stamping)
    code = audispd.main(sys.argv[2:])
    words = array("Q")
    for when, head in stamps:
        found = _NUMBER.search(head)
        if found:
            words.extend((int(found[1], 16), when))
    Path(sys.argv[1]).write_bytes(words.tobytes())
    return code


if __name__ == "__main__":
    sys.exit(main())
