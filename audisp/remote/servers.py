"""Which server is tried next, and when. Pure: time and chance come in as arguments.

A round is one attempt with each server, the best first. The second round follows the first at once, as the C program's
second attempt does; from the third on there is a wait between them, which doubles.
"""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Ladder:
    """count: servers. retry, retry_max: first and longest wait between rounds, seconds."""

    count: int
    retry: float
    retry_max: float
    at: int = 0
    """The server to try next, or that we are connected to."""
    rounds: int = 0
    """Rounds that have failed since a server was last of use."""
    since: float | None = None
    """When the first of them failed."""

    def failed(self, now: float, chance: float) -> float:
        """The server was of no use; seconds to wait before the next attempt. chance: 0 to 1."""
        if self.since is None:
            self.since = now
        if self.at + 1 < self.count:
            self.at += 1
            return 0.0
        self.at = 0
        self.rounds += 1
        if self.rounds < 2:
            return 0.0
        wait: float = min(self.retry * 2.0 ** min(self.rounds - 2, 32), self.retry_max)
        # Not all hosts of a collector that was restarted at the same moment; the first wait is as configured.
        return wait if self.rounds == 2 else wait * (0.5 + chance / 2)

    def given_up(self, now: float, tries: int, seconds: float) -> bool:
        """Whether so many rounds have failed, or for so long, at the end of a round."""
        return self.since is not None and self.at == 0 and (self.rounds >= tries or now - self.since >= seconds)

    def useful(self) -> None:
        """A server has taken a record, or said that it is well: failures are forgotten."""
        self.rounds = 0
        self.since = None

    def restart(self) -> None:
        """Begin with the best server again, and with the first round."""
        self.at = 0
        self.useful()
