"""How much of a block was taken before the plugin asked for it to be offered again."""

from __future__ import annotations


class Progress:
    """Remembers the head of the bytes that are already where they belong.

    After `Retry` the host offers the block again, perhaps with later ones joined to it. Since the head holds serials,
    bytes that begin with it are those same records; bytes that do not (the queue dropped them meanwhile) are new.
    """

    def __init__(self) -> None:
        self._taken = b""

    def resume(self, data: bytes) -> int:
        """How many bytes at the start of `data` were taken before. Forgets them."""
        taken, self._taken = self._taken, b""
        return len(taken) if taken and data.startswith(taken) else 0

    def keep(self, data: bytes, taken: int) -> None:
        """The first `taken` bytes of `data` are not to be taken again."""
        self._taken = data[:taken]
