"""What both protocols' sessions have in common: how one ends, what it tells, and how it is asked to leave."""

from __future__ import annotations

from typing import Final, Literal

import attrs

from audisp.remote.actions import Kind, Notices
from audisp.remote.bell import Bell
from audisp.wire.peer import Trouble

How = Literal["lost", "refused", "ending", "left", "unwell"]
"""lost: the connection, or its peer broke the protocol. refused: it will not have us. ending: it goes. left: we did.
unwell: it stores nothing for now, and we come back."""

TROUBLES: Final[dict[Trouble, Kind]] = {
    Trouble.DISK_LOW: "disk_low",
    Trouble.DISK_FULL: "disk_full",
    Trouble.DISK_ERROR: "disk_error",
    Trouble.SUSPENDED: "disk_error",
    Trouble.ENDING: "remote_ending",
    Trouble.WARNING: "generic_warning",
    Trouble.ERROR: "generic_error",
}
"""The action that a server's trouble asks for. A suspended auditd answers as one whose disk has failed."""


@attrs.frozen
class Ended:
    """How a session ended. text: for a person. retry: seconds that the server asks us to stay away."""

    how: How
    text: str
    retry: float | None = None


@attrs.define(eq=False)
class Watch:
    """What goes on in the session that runs; read by status, rung by whoever wants it to look up.

    useful: a record has arrived, or the server said that it is well. trouble: what it told of last and did not take
    back. leave: the session is to end, politely.
    """

    server: str
    notices: Notices
    bell: Bell = attrs.field(factory=Bell)
    protocol: str = ""
    useful: bool = False
    trouble: Trouble | None = None
    leave: bool = False

    def arrived(self) -> None:
        """The server has taken a record."""
        self.useful = True
        self.notices.well()

    def troubled(self, trouble: Trouble, text: str) -> None:
        """The server tells of trouble: the action for it is due."""
        self.trouble = trouble
        said = f": {text}" if text else ""
        self.notices.occur(TROUBLES[trouble], f"{self.server} says {trouble.value}{said}")

    def ask_to_leave(self) -> None:
        """End the session."""
        self.leave = True
        self.bell.ring()
