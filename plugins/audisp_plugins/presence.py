"""Whether somebody whom we give records to is there, when he is tried again, and what was said about it."""

from __future__ import annotations

from audisp.plugin import Host, Retry
from audisp_plugins.backoff import Backoff


class Presence:
    """One peer's. `status` may be read from any thread; all else is for one at a time."""

    def __init__(self, called: str, host: Host) -> None:
        """called: the peer, for a person."""
        self.called = called
        self.status = "not connected yet"
        self.backoff = Backoff()
        self._host = host
        self._problem: str | None = None

    def wait_turn(self) -> None:
        """Raises Retry while it is too early to try again."""
        if left := self.backoff.left():
            raise Retry(f"{self.called}: {self._problem or self.status}; tried again in {left:.1f} s")

    def later(self, status: str) -> Retry:
        """What to raise while it is being tried: no failure."""
        self.status = status
        return Retry(f"{self.called}: {status}")

    def away(self, reason: str) -> Retry:
        """Note a failure; what to raise. Said once for each reason."""
        self.backoff.failed()
        self.status = f"away: {reason}"
        if reason != self._problem:
            self._host.say("warning", f"{self.called} is away: {reason}; records wait")
        self._problem = reason
        return Retry(f"{self.called}: {reason}")

    def slow(self, seconds: float) -> Retry:
        """Note that it lives, and takes longer than we wait; what to raise."""
        self._host.count("slow")
        return Retry(f"{self.called}: has not taken everything in {seconds:g} s")

    def here(self, status: str, *, steady: bool = True) -> None:
        """Note that it has taken something. steady: the next failure is a first one again."""
        if steady:
            self.backoff.worked()
        self.status = status
        if self._problem is not None:
            self._problem = None
            self._host.count("reconnects")
            self._host.say("notice", f"{self.called} is back")
