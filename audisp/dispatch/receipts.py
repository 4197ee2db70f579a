"""What a source may forget: calls that are due once every plugin is done with all that was sent before them.

Nothing is kept per record. A receipt notes of each plugin how many records it had accepted at that moment; as a queue
is left in its order, the plugin is done with them once it is done with that many. Of plugins that want events that can
be noted only when the assembler has put out what it was fed until then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from audisp.dispatch.intake import Intake

MAX_RECEIPTS: Final = 1_024
"""Receipts that wait. A followed log asks for one per 256 KiB or per look, so that this is minutes of a plugin that has
stopped; from then on the newest takes the place of the one before, which only makes the source read more again."""

Accepted = list[tuple[Intake, int]]


@attrs.define(eq=False)
class _Receipt:
    call: Callable[[], None]
    fed: int
    """Records that the assembler had been fed."""
    blocks: Accepted
    events: Accepted | None = None
    """None: some of what it had been fed is still in there."""


def _accepted(intakes: Iterable[Intake]) -> Accepted:
    return [(intake, intake.accepted()) for intake in intakes]


def _done(accepted: Accepted) -> bool:
    return all(intake.done_with() >= count for intake, count in accepted)


@attrs.define(eq=False)
class Receipts:
    """One source's. All methods are the loop's."""

    _waiting: deque[_Receipt] = attrs.field(factory=deque)
    _noted: int = 0
    """How many of them, from the front, have their `events`."""

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, call: Callable[[], None], intakes: Iterable[Intake], fed: int) -> None:
        """Have this called. intakes: of the plugins that want blocks. fed: records that the assembler has been fed."""
        if len(self._waiting) >= MAX_RECEIPTS:
            self._waiting.pop()
            self._noted = min(self._noted, len(self._waiting))
        self._waiting.append(_Receipt(call, fed, _accepted(intakes)))

    def settle(self, put_out: int, intakes: Iterable[Intake]) -> None:
        """Call what is due. put_out: so many of the records fed first have left the assembler. intakes: of the plugins
        that want events."""
        now: Accepted | None = None
        while self._noted < len(self._waiting) and self._waiting[self._noted].fed <= put_out:
            if now is None:
                now = _accepted(intakes)
            self._waiting[self._noted].events = now
            self._noted += 1
        call: Callable[[], None] | None = None
        while self._waiting:
            first = self._waiting[0]
            if first.events is None or not _done(first.blocks) or not _done(first.events):
                break
            self._waiting.popleft()
            self._noted -= 1
            call = first.call
        if call is not None:
            call()
