"""A bounded memory of what was computed before: text in, result out.

Two plain dicts, a young and an old one. When the young one is full it becomes the old one, and what was old is
forgotten; an old entry that is asked for is copied into the young one. So a hit costs one look-up and no bookkeeping
(fast-parse.md, "What to build", 4), and what is asked for often stays.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

V = TypeVar("V")

ENTRIES: Final = 8_192
"""Entries of one generation. Eight times as many made no difference on a cold stream (fast-parse.md)."""
ENTRY_OVERHEAD: Final = 200
"""Bytes that an entry costs beside its text: two objects' heads and a slot of the dict."""
BYTES: Final = 4 * 1024 * 1024
"""Bytes of one generation, texts and overhead: a sender of records of 8 KiB must not fill 64 MiB with them."""
LONGEST: Final = 2_048
"""Characters of the longest text that is remembered: what is longer hardly ever comes twice."""


class Memo(Generic[V]):
    """See the module's text. Safe from any thread: a race costs an entry, never a wrong one."""

    __slots__ = ("_bytes", "_max_bytes", "_max_entries", "_old", "_young")

    def __init__(self, max_entries: int = ENTRIES, max_bytes: int = BYTES) -> None:
        self._young: dict[str, V] = {}
        self._old: dict[str, V] = {}
        self._bytes = 0
        self._max_entries, self._max_bytes = max_entries, max_bytes

    def get(self, text: str) -> V | None:
        """What was put under this text, or None."""
        found = self._young.get(text)
        if found is not None:
            return found
        found = self._old.get(text)
        if found is not None:
            self.put(text, found, len(text))
        return found

    def put(self, text: str, value: V, size: int) -> None:
        """Remember. size: bytes that the entry holds, text and value; see ENTRY_OVERHEAD."""
        if len(text) > LONGEST:
            return
        young = self._young
        if len(young) >= self._max_entries or self._bytes >= self._max_bytes:
            self._old = young
            self._young = young = {}
            self._bytes = 0
        young[text] = value
        self._bytes += size + ENTRY_OVERHEAD

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
