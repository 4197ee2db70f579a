"""A log in which nothing comes twice: what a hostile sender would send against memories of what was seen before.

Made of a recorded log, event for event and record for record: every pid, path, inode, argument, title and address of a
socket is made unique, and every a0 to a3 drawn anew. What names no thing (ids of users, system calls) stays.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Final

SEED: Final = 20_260_101
"""Of the numbers that are drawn, so that each run measures the same bytes."""

_FIELD: Final = re.compile(
    rb'(?<= )(p?pid|inode|name|cwd|exe|proctitle|saddr|a[0-9]+(?:\[[0-9]+\])?)=("[^"\n]*"|[^ \n\x1d]*)'
)
_STAMP: Final = re.compile(rb"audit\(([0-9.:]+)\)")
_MESSAGE: Final = b" msg='"
_CALL: Final = b"type=SYSCALL "
_PROGRAM: Final = b"type=EXECVE "


class _Names:
    """Numbers that each give a text of its own."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)
        self.count = 0
        self.pid = 0

    def event(self) -> None:
        self.pid += 1

    def changed(self, line: bytes, name: bytes, value: bytes) -> bytes:
        """The value that stands for this one."""
        self.count += 1
        if name == b"pid":
            return b"%d" % (100_000 + self.pid)
        if name == b"ppid":
            return b"%d" % (10_100_000 + self.pid)
        if name == b"inode":
            return b"%d" % (1_000_000 + self.count)
        if line.startswith(_CALL) and name[:1] == b"a":
            return b"%x" % self.random.getrandbits(self.random.choice((4, 8, 31, 47)))
        if name[:1] == b"a" and not line.startswith(_PROGRAM):
            return value
        tail = b".%x" % self.count
        if value[:1] == b'"':
            return value[:-1] + tail + b'"'
        if name == b"saddr":
            return self._address(value)
        return value + tail.hex().upper().encode() if len(value) % 2 == 0 and value.isalnum() else value

    def _address(self, value: bytes) -> bytes:
        unique = b"%08X" % self.random.getrandbits(32)
        if value.startswith(b"0100"):  # a path: its first letters
            return value[:4] + unique.hex().upper().encode()[: max(0, len(value) - 4)] + value[4 + 16 :]
        return value[:4] + (unique * 2)[: max(0, len(value) - 4)] + value[4 + 16 :]


def unlike(source: Path, target: Path) -> None:
    """Write `target`, the log `source` with nothing in it twice. Deterministic."""
    names = _Names()
    last = b""
    with source.open("rb") as recorded, target.open("wb") as out:
        for line in recorded:
            found = _STAMP.search(line)
            if found is not None and found[1] != last:
                last = found[1]
                names.event()
            # What a user-space sender wrote stays as it is: it is unique by its stamp's line, and one text for all.
            own, mark, message = line.partition(_MESSAGE)
            changed = _FIELD.sub(lambda each: each[1] + b"=" + names.changed(line, each[1], each[2]), own)  # noqa: B023
            out.write(changed + mark + message)
