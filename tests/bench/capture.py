"""A large capture to replay: a recorded one where there is one, else the bundled one, many times."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.needs import CORPUS, ROOT

RECORDS: Final = 221_153
"""Records of the recorded capture; the bundled one is repeated up to as many."""
RECORDED: Final = (ROOT / "tests" / "corpus" / "large.log", CORPUS / "mixed.log.xz")
BUNDLED: Final = ROOT / "conf" / "observe" / "capture.log"


@attrs.frozen
class Capture:
    """path: a plain log file. name: what it was made of. records: how many, none of them auditd's own."""

    path: Path
    name: str
    records: int

    def times(self, count: int) -> Capture:
        """The same records `count` times over, in a file beside this one."""
        path = self.path.with_suffix(f".{count}.log")
        data = self.path.read_bytes()
        with open(path, "wb") as file:
            for _ in range(count):
                file.write(data)
        return Capture(path, f"{self.name}, {count} times", self.records * count)

    def lines(self) -> list[bytes]:
        """Its records, each with its LF."""
        return self.path.read_bytes().splitlines(keepends=True)


def capture(folder: Path, limit: int) -> Capture:
    """At most `limit` records in a file of the folder."""
    name, lines = _source()
    path = folder / "capture.log"
    records = 0
    with open(path, "wb") as file:
        for line in lines:
            # auditd numbers and sends its own records at each start: those in the file would be counted with them.
            if line.startswith(b"type=DAEMON_") or line.startswith(b"type=EOE "):
                continue
            file.write(line)
            records += 1
            if records >= limit:
                break
    return Capture(path, name, records)


def _source() -> tuple[str, Iterator[bytes]]:
    for path in RECORDED:
        if path.is_file():
            data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            return path.name, iter(data.splitlines(keepends=True))
    lines = BUNDLED.read_bytes().splitlines(keepends=True)
    return f"{BUNDLED.name}, repeated", (line for _ in range(RECORDS // len(lines) + 1) for line in lines)
