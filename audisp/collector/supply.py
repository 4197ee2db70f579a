"""The plugins behind a store: each has a pursuit, and a place in the store that is kept on disk.

The place is written about every second, and at the end, into `cursors/NAME` of the state folder. A plugin that is new
begins with what comes from now on. One whose place cannot be read, or is in another store, begins with the oldest
record there is: twice is better than never.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.buffer.segment import ANCHOR
from audisp.collector.pursuit import Pursuit
from audisp.collector.recent import Recent
from audisp.collector.store import Store
from audisp.dispatch.cursor import Cursor
from audisp.dispatch.folder import make_folder, open_folder
from audisp.dispatch.roster import Entry
from audisp.dispatch.runner import Say
from audisp.errors import StoreError
from audisp.parse.record import RecordReader

CURSORS: Final = "cursors"
KEEP_SECONDS: Final = 1.0
"""Between two writings of all places: what is delivered twice after a kill is a second's records, and what waited."""

MAX_TURNS: Final = 4
"""Pursuits that read or assemble at a time: threads of their own, so that the store never waits for one of these."""


@attrs.define(eq=False)
class _Fed:
    """One plugin. cursor None: it is there for a while only, as `audisp tail`, or its place cannot be kept."""

    pursuit: Pursuit
    cursor: Cursor | None
    stored: int = -1


class StoreSupply:
    """See dispatch.supply.Supply. hosts: gives whose events a plugin gets, () for everybody's, None for nobody's."""

    def __init__(
        self,
        store: Store,
        recent: Recent,
        folder: Path,
        say: Say,
        *,
        alone: bool,
        reader: RecordReader,
        timeout: Callable[[], float],
        hosts: Callable[[Entry], tuple[str, ...] | None],
    ) -> None:
        self.alone = alone
        self._store, self._recent, self._say = store, recent, say
        self._folder = folder / CURSORS
        self._reader, self._timeout, self._hosts = reader, timeout, hosts
        self._fed: dict[str, _Fed] = {}
        self._limiter = trio.CapacityLimiter(1)
        self._turns = trio.CapacityLimiter(MAX_TURNS)

    async def begin(self, nursery: trio.Nursery, entry: Entry) -> None:
        """See Supply."""
        name = entry.conf.name
        self._recent.readers = len(self._fed) + 1
        cursor, start = None, self._recent.next
        if not entry.attached:
            cursor, start = await trio.to_thread.run_sync(self._open, name)
        pursuit = Pursuit(
            entry,
            self._store,
            self._recent,
            start,
            self._say,
            reader=self._reader,
            timeout=self._timeout,
            hosts=self._hosts,
            limiter=self._turns,
        )
        fed = self._fed[name] = _Fed(pursuit, cursor)
        # At once, or what comes before the first time that places are written would not be its own after a kill.
        await self._keep([fed])
        nursery.start_soon(pursuit.run)

    def _open(self, name: str) -> tuple[Cursor | None, int]:
        """A plugin's cursor, and where it begins."""
        folder = -1
        try:
            make_folder(self._folder)
            folder = open_folder(self._folder / name)
            cursor = Cursor(folder, self._folder / name)
        except StoreError as error:
            self._say(
                "error",
                f"plugin {name}: its place in the store is not kept, each start begins with what is new: {error}",
            )
            return None, self._store.next
        finally:
            if folder >= 0:
                os.close(folder)
        if cursor.position is None and not cursor.spoiled:
            return cursor, self._store.next
        if cursor.position is None or cursor.spool != self._store.id or cursor.position > self._store.next:
            why = "cannot be read" if cursor.position is None else "is in another store"
            self._say("warning", f"plugin {name}: its place {why}; it begins with the oldest record")
            return cursor, self._store.oldest
        return cursor, cursor.position

    async def run(self) -> None:
        """Keep the places on disk, until cancelled."""
        while True:
            await trio.sleep(KEEP_SECONDS)
            await self._keep(list(self._fed.values()))

    async def _keep(self, those: Sequence[_Fed], *, sync: bool = False) -> None:
        changed = [(fed, fed.pursuit.low) for fed in those if fed.cursor is not None and fed.pursuit.low != fed.stored]
        if changed or sync:
            await trio.to_thread.run_sync(self._write, changed, those if sync else (), limiter=self._limiter)

    def _write(self, changed: list[tuple[_Fed, int]], synced: Sequence[_Fed]) -> None:
        for fed, low in changed:
            assert fed.cursor is not None
            try:
                fed.cursor.store(self._store.id, low, ANCHOR)
                fed.stored = low
            except StoreError as error:
                self._say("error", f"the place of a plugin cannot be kept: {error}", limit="cursors")
        for fed in synced:
            if fed.cursor is not None:
                with suppress(StoreError):  # it is written; only a loss of power would bring the one before it back
                    fed.cursor.sync()

    async def finish(self, deadline: float) -> None:
        """See Supply."""
        pursuits = [fed.pursuit for fed in self._fed.values()]
        for pursuit in pursuits:
            pursuit.finish()
        self._recent.rouse()
        with trio.move_on_at(deadline):
            for pursuit in pursuits:
                await pursuit.ended.wait()
        for pursuit in pursuits:
            pursuit.leave()

    async def leave(self, name: str) -> None:
        """See Supply."""
        fed = self._fed.get(name)
        if fed is not None:
            fed.pursuit.leave()
            with trio.CancelScope(shield=True):
                await fed.pursuit.ended.wait()

    async def settle(self, name: str, *, kept: bool) -> int:
        """See Supply."""
        fed = self._fed.pop(name, None)
        self._recent.readers = len(self._fed)
        if fed is None:
            return 0
        pursuit = fed.pursuit
        pursuit.settle(kept=kept)
        with trio.CancelScope(shield=True):
            await self._keep([fed], sync=True)
        if fed.cursor is not None:
            fed.cursor.close()
            if pursuit.behind or pursuit.pending:
                self._say("notice", f"plugin {name}: {self._words(pursuit)} wait in the store for its next start")
        return pursuit.pending

    def _words(self, pursuit: Pursuit) -> str:
        return f"{pursuit.behind + pursuit.pending:,} records"

    def pending(self, name: str) -> int:
        """See Supply."""
        fed = self._fed.get(name)
        return 0 if fed is None else fed.pursuit.pending

    def view(self, name: str) -> dict[str, str]:
        """See Supply."""
        fed = self._fed.get(name)
        if fed is None:
            return {}
        pursuit = fed.pursuit
        found = {"behind": f"{pursuit.behind:,}", "fed from": "segments" if pursuit.reads_segments else "memory"}
        if pursuit.open_records:
            found["unfinished events"] = f"{pursuit.open_records:,} records"
        return found
