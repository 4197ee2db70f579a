"""What feeds plugins beside the router: a store that can be read again, from a place that each plugin has in it.

The roster tells a supply which plugins there are, and hands it no block; the supply offers to their intakes by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from audisp.dispatch.roster import Entry


class Supply(Protocol):
    """All methods belong to the trio loop."""

    @property
    def alone(self) -> bool:
        """No other source feeds the plugins, so that nothing that waits for one can ever be lost to it."""

    async def begin(self, nursery: trio.Nursery, entry: Entry) -> None:
        """Feed this plugin from now on, from where it was. Raises StoreError."""

    async def run(self) -> None:
        """Whatever it has to do beside feeding, until cancelled."""

    async def finish(self, deadline: float) -> None:
        """The end has come: feed what there is to those that are up to date, until the deadline (trio time)."""

    async def leave(self, name: str) -> None:
        """Feed this plugin no more. Nothing if it is not fed."""

    async def settle(self, name: str, *, kept: bool) -> int:
        """After `leave`, and when the plugin's runner has ended: keep its place for the next run. kept: what the queue
        had is in a spill. Returns how many records were offered and are offered again then."""

    def pending(self, name: str) -> int:
        """Records that were offered to this plugin, and would be again if the process ended now."""

    def view(self, name: str) -> dict[str, str]:
        """Where this plugin is, for status."""
