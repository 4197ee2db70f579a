"""A log that is written and rotated as auditd and logrotate do it, and who reads its trail."""

from __future__ import annotations

import gzip
import lzma
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zstandard

from audisp.sources.position import Position
from audisp.sources.trail import ABSENT_STEPS, Step, Trail
from tests.sources.collect import line

PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstandard.compress(data, 1),
}


class RotatingLog:
    """Writes numbered records; `written` counts them. keep: rotated files that stay, the oldest is overwritten."""

    def __init__(self, path: Path, keep: int = 999) -> None:
        self.path, self.keep = path, keep
        self.written = 0
        self.held = b""  # the rest of a record that is only begun
        self._file = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, count: int, text: str = "op=test") -> None:
        """Whole records; the one that was begun is ended first."""
        first = self.written + 1
        self.append([line(serial, text) for serial in range(first, first + count)])

    def append(self, records: list[bytes]) -> None:
        """The same, of these records."""
        self.written += len(records)
        os.write(self._file, self.held + b"".join(records))
        self.held = b""

    def begin(self, most: int) -> None:
        """Only the first bytes of the next record."""
        if not self.held:
            self.written += 1
            record = line(self.written)
            cut = min(most, len(record) - 1)
            os.write(self._file, record[:cut])
            self.held = record[cut:]

    def rotated(self) -> list[Path]:
        """What there is of audit.log.N, packed or not, the newest first."""
        found = [path for path in self.path.parent.iterdir() if path.name.startswith(self.path.name + ".")]
        return sorted(found, key=lambda path: int(path.name.removeprefix(self.path.name + ".").partition(".")[0]))

    def move(self) -> None:
        """All names one further, as auditd does it; the descriptor still leads to what was the log."""
        for path in reversed(self.rotated()):
            number, _, packed = path.name.removeprefix(self.path.name + ".").partition(".")
            if int(number) >= self.keep:
                path.unlink()
            else:
                path.rename(f"{self.path}.{int(number) + 1}{'.' if packed else ''}{packed}")
        if self.keep:
            self.path.rename(f"{self.path}.1")
        else:
            self.path.unlink()

    def reopen(self) -> None:
        """Go over to a new log."""
        os.close(self._file)
        self._file = self._open()

    def rotate(self) -> None:
        """Both."""
        self.move()
        self.reopen()

    def pack(self, form: str, number: int = 1) -> None:
        """Compress a rotated file, with its time of change, as the programs do."""
        plain = Path(f"{self.path}.{number}")
        if plain.exists():
            facts = plain.stat()
            packed = Path(f"{plain}.{form}")
            packed.write_bytes(PACK[form](plain.read_bytes()))
            os.utime(packed, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            plain.unlink()

    def copy_and_truncate(self) -> None:
        """As logrotate's copytruncate."""
        for path in reversed(self.rotated()):
            number, _, packed = path.name.removeprefix(self.path.name + ".").partition(".")
            path.rename(f"{self.path}.{int(number) + 1}{'.' if packed else ''}{packed}")
        Path(f"{self.path}.1").write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._file)


def all_lines(count: int, text: str = "op=test") -> list[bytes]:
    """The records that were written."""
    return [line(serial, text) for serial in range(1, count + 1)]


class Reader:
    """Reads a trail as the source does: whole lines count, and the position is that of the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.torn: list[bytes] = []
        self.counts: Counter[str] = Counter()
        self.said: list[tuple[str, str]] = []
        self.state = ""
        self.position: Position | None = None
        self._begun = b""
        self._told = 0
        self.trail = Trail(str(path))

    def step(self) -> Step:
        step = self.trail.step()
        self.counts.update(step.counts)
        self.said += step.said
        if step.state is not None:
            self.state = step.state[1]
        if step.again:
            self._begun = b""
        if step.torn:
            self.torn += [self._begun] if self._begun else []
            self._begun = b""
        if step.position is not None:
            self.position = step.position
        for chunk in step.chunks:
            *whole, self._begun = (self._begun + chunk.data).split(b"\n")
            self.lines += [each + b"\n" for each in whole]
            assert (chunk.position is None) == (not whole)
            self.position = chunk.position or self.position
        return step

    def read(self, looks: int = ABSENT_STEPS + 1) -> list[bytes]:
        """All that is there now, and what that brings; returns all lines since the last time."""
        idle = 0
        while idle < looks:
            idle = idle + 1 if self.step().idle else 0
        fresh = self.lines[self._told :]
        self._told = len(self.lines)
        return fresh

    def restart(self) -> None:
        """A new process, which knows the position only."""
        self.trail.close()
        self._begun = b""
        self.trail = Trail(str(self.path), self.position)

    def close(self) -> None:
        self.trail.close()
