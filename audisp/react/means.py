"""What every kind of act has: a preparation that looks and changes nothing, the act, its undo, and a look whether it is
in force. One module per kind of target stands beside this one."""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from audisp.errors import AudispError
from audisp.react.books import Act, Now
from audisp.react.request import Request


class Failed(AudispError):
    """The act, or its undo, was tried and did not come about. gone: what it was aimed at is no longer there."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone


class Left(AudispError):
    """The undo was not tried: somebody else has changed what it would give back."""


@attrs.frozen
class Prepared:
    """subject: the target in its one form, in words. aim: the same in parts. saved: what the undo needs, ``undo``: True
    if there is one. seconds: how long, 0: until a person says so, or for ever where there is no undo."""

    subject: str
    aim: dict[str, Any]
    saved: dict[str, Any] = attrs.field(factory=dict)
    seconds: int = 0


class Means(Protocol):
    """The means to one kind of act."""

    def prepare(self, request: Request, now: Now) -> Prepared:
        """Look at the target: it is what was meant, and none of those that are never touched. Raises Refused."""

    async def carry_out(self, act: Act, request: Request) -> str:
        """Do it; what was done, in words. Raises Failed."""

    async def undo(self, act: Act) -> str:
        """Give back what was saved; may be called again, and when the act never came about. Raises Failed, Left."""

    async def in_force(self, act: Act, now: Now) -> bool:
        """After a crash or a start: whether the act is in force. Where it could be put in force again for the time that
        is left, that is done. Raises Failed if it cannot be told."""


def lasting(request: Request, configured: int) -> int:
    """Seconds that the act is to last: what the request says, never longer than what is configured."""
    return min(request.seconds, configured) if request.seconds else configured
