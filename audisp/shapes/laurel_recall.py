"""What was rendered before: a memory of two generations, whose young one may be asked directly.

As `audisp.parse.memo.Memo`, but made for a loop that renders a whole batch: `young` stays the same dict for as long as
the memory lives, so its ``get`` can be held in a local name, and only what is not there costs a call. And it notices
when asking is in vain: a sender who never says anything twice would only be made to pay for being remembered.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

V = TypeVar("V")

ENTRIES: Final = 8_192
"""Entries of one generation, as in `audisp.parse.memo`."""
BYTES: Final = 2 * 1024 * 1024
"""Bytes of one generation, texts, results and overhead, unless its owner says otherwise."""
OVERHEAD: Final = 200
"""Bytes that an entry costs beside its text and its result: two objects' heads and a slot of the dict."""
LONGEST: Final = 4_096
"""Characters of the longest text that is remembered: the records of an event with a dozen paths."""
TRIAL: Final = 1_024
"""Questions after which it is decided whether asking pays."""
LEAST_HITS: Final = 0.2
"""Share of questions that must be answered. An answer saves about a microsecond; one that is not there costs a third of
it, for the question and for remembering."""
SLEEP: Final = 32_768
"""Questions that are not asked before it is tried again: the trial is then 3 % of them."""


class Recall(Generic[V]):
    """See the module's text. For one thread at a time."""

    __slots__ = ("_asked", "_bytes", "_max_bytes", "_missed", "_old", "_sleep", "awake", "young")

    def __init__(self, max_bytes: int = BYTES) -> None:
        self.young: dict[str, V] = {}
        self.awake = True
        """Whether asking, and telling, pays."""
        self._old: dict[str, V] = {}
        self._bytes = self._asked = self._missed = self._sleep = 0
        self._max_bytes = max_bytes

    def find(self, text: str) -> V | None:
        """What the old generation has of a text that is not in `young`."""
        found = self._old.get(text)
        if found is None:
            self._missed += 1
            return None
        self._put(text, found, len(text))
        return found

    def put(self, text: str, value: V, size: int) -> None:
        """Remember. size: bytes of text and value together."""
        if len(text) <= LONGEST:
            self._put(text, value, size)

    def _put(self, text: str, value: V, size: int) -> None:
        young = self.young
        if len(young) >= ENTRIES or self._bytes >= self._max_bytes:
            self._old = young.copy()
            young.clear()
            self._bytes = 0
        young[text] = value
        self._bytes += size + OVERHEAD

    def asked(self, count: int) -> None:
        """So many more questions were asked, or while it slept would have been. Decides about `awake`."""
        if not self.awake:
            self._sleep -= count
            if self._sleep <= 0:
                self.awake = True
                self._asked = self._missed = 0
            return
        self._asked += count
        if self._asked >= TRIAL:
            if self._asked - self._missed < LEAST_HITS * self._asked:
                self.awake = False
                self._sleep = SLEEP
                # What is there was of no use, and would stay for as long as it sleeps.
                self.young.clear()
                self._old = {}
                self._bytes = 0
            self._asked = self._missed = 0

    def __len__(self) -> int:
        return len(self.young) + len(self._old)
