"""The books on disk: written every second, read at the next start.

A dispatcher that was killed cannot say what it held. The next one can: the last books say what was waiting, and from
which serial on records may be missing. Both are reported, marked in each plugin's stream, and shown as `lost_in_crash`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.dispatch.crash import Crash
from audisp.errors import StoreError

NAME: Final = "books.json"
MAX_BYTES: Final = 1 << 20
"""A books file larger than this was not written by us."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
FORMAT: Final = 1


@attrs.frozen
class Previous:
    """What an earlier run of this instance left. clean: it drained and said so."""

    clean: bool
    same_boot: bool
    sources: dict[str, dict[str, Any]]
    plugins: dict[str, dict[str, Any]]

    def last_serial(self, source: str) -> int:
        """Serial of the last record that source had; 0 if unknown or of another boot (serials begin anew)."""
        if not self.same_boot:
            return 0
        value = self.sources.get(source, {}).get("last_serial", 0)
        return value if isinstance(value, int) and value >= 0 else 0

    def crash(self, plugin: str) -> Crash | None:
        """What the plugin may have lost when that run was killed; None if it was not, or did not have the plugin."""
        if self.clean or plugin not in self.plugins:
            return None
        entry = self.plugins[plugin]
        at_risk, first = entry.get("at_risk", 0), entry.get("first_open")
        if at_risk is None:
            return None
        return Crash(
            at_risk if isinstance(at_risk, int) and at_risk > 0 else 0,
            first if isinstance(first, int) and self.same_boot else None,
        )


NOTHING: Final = Previous(clean=True, same_boot=False, sources={}, plugins={})


def boot_id() -> str:
    """This boot's id."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def read(folder: Path) -> Previous:
    """The books of the last run, or NOTHING. Raises StoreError for a file that is not ours to trust."""
    try:
        fd = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return NOTHING
    except OSError as error:
        raise StoreError(f"{folder / NAME}: {error.strerror}") from error
    try:
        with open(fd, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        found = json.loads(data)
        if len(data) > MAX_BYTES or found["format"] != FORMAT:
            raise ValueError("not the books of this version")
        return Previous(
            clean=found["clean"] is True,
            same_boot=found["boot"] == boot_id() != "",
            sources=_books(found["sources"]),
            plugins=_books(found["plugins"]),
        )
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise StoreError(f"{folder / NAME}: {error}; what the last run lost is not known") from error


def _books(found: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise TypeError("not the books of this version")
    return found


def write(folder: Path, sources: dict[str, dict[str, Any]], plugins: dict[str, dict[str, Any]], *, clean: bool) -> None:
    """Put the books in place, whole or not at all. Raises StoreError. Not synced: a power cut ends the stream, too."""
    text = json.dumps(
        {"format": FORMAT, "boot": boot_id(), "clean": clean, "sources": sources, "plugins": plugins}
    ).encode()
    temporary = folder / f"{NAME}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(text)
        os.replace(temporary, folder / NAME)
    except OSError as error:
        raise StoreError(f"{folder / NAME}: {error.strerror}") from error
