"""From one source's block to every plugin's intake, by reference, from whatever thread the source reads in.

A live source waits only for plugins marked required; a replayed one waits for every plugin, and so drops nothing. All
others are offered the block first, so that a full plugin never delays its neighbours' copy. Plugins that want events
get the batches that the source's `Stage` makes of its blocks, in the same way and in the same call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import trio

from audisp.dispatch.history import History
from audisp.dispatch.intake import Intake
from audisp.dispatch.receipts import Receipts
from audisp.dispatch.stage import Stage, Wanted
from audisp.event import Batch, as_batch
from audisp.parse.enriched import Enricher
from audisp.parse.filter import Selection
from audisp.parse.interpret import Names
from audisp.parse.record import RecordReader
from audisp.record import Block
from audisp.sources.contract import Stopped

STOP_POLL: Final = 0.25
"""Seconds after which a reader thread that waits for room looks whether it has been told to stop."""

Full = list[tuple[Intake, Block]]
"""Who must be waited for, with what it has not taken."""


class Router:
    """The intakes that get the stream: `intakes` as it comes, `wanted` by events. Both are replaced as a whole on
    reload, never changed in place."""

    def __init__(self, *, timeout: float = 2.0) -> None:
        self.intakes: tuple[Intake, ...] = ()
        self.wanted: tuple[Wanted, ...] = ()
        self.stopping = threading.Event()
        self.reader = RecordReader()
        """Of all events: a record's text is parsed once, whoever asks."""
        self.history = History()
        self.names: Names | None = None
        """Of this host's accounts, if the kernel's records are to be in ENRICHED format; None: RAW."""
        self.look: Callable[[Batch], None] | None = None
        """Called with every batch of a live source before anybody gets it."""
        self.timeout = timeout
        """Seconds: `end_of_event_timeout`."""

    def offer(self, block: Block, wait: bool, beside: Intake | None = None) -> Full | None:
        """Offer the block to all but `beside`; return who must be waited for."""
        full: Full | None = None
        for intake in self.intakes:
            if intake is beside:
                continue
            rest = intake.offer(block, wait)
            if rest is not None:
                if full is None:
                    full = []
                full.append((intake, rest))
        return full

    def offer_events(self, batch: Batch, wait: bool, beside: Intake | None = None) -> Full | None:
        """The same for those that want events."""
        full: Full | None = None
        wanted = self.wanted
        picks: dict[Selection, Batch | None] = {}
        for each in wanted:
            intake = each.intake
            if intake is beside:
                continue
            picked = each.pick(batch, picks)
            rest = None if picked is None else intake.offer(picked, wait)
            if rest is not None:
                if full is None:
                    full = []
                full.append((intake, rest))
        if wanted:
            self.history.note(batch, [each.intake for each in wanted], events=True, marks=batch.marks)
        return full

    def send_own(self, block: Block, beside: Intake | None = None) -> None:
        """Offer one of the dispatcher's own records; nobody waits for it. Every plugin has some room beyond its bound
        for these, or it would miss DAEMON_END just when it is behind, though nothing else was lost to it."""
        full = self.offer(block, True, beside) or []
        if self.wanted:
            # Stamped by us, in one record: it is an event, and needs no assembly.
            full += self.offer_events(as_batch(block, self.reader), True, beside) or []
        for intake, rest in full:
            intake.squeeze_in(rest)

    def route(
        self,
        source: str = "",
        *,
        replay: bool,
        watch: Callable[[Block], None] | None = None,
        kernel: bool = False,
    ) -> SourceRoute:
        """The route for one source. watch: looks at each of its blocks after it has been routed. kernel: its records
        come from this host's kernel, and get the format that auditd.conf says."""
        return SourceRoute(self, source, replay, watch, kernel=kernel)


class SourceRoute:
    """One source's way in; implements `audisp.sources.contract.Route`."""

    def __init__(
        self,
        router: Router,
        source: str,
        replay: bool,
        watch: Callable[[Block], None] | None = None,
        *,
        kernel: bool = False,
    ) -> None:
        self._kernel = kernel
        self._enricher: Enricher | None = None
        self._router = router
        self._replay = replay
        self._watch = watch
        look = None if replay else router.look
        self.stage = Stage(source, router.reader, timeout=router.timeout, recorded=replay, look=look)
        self.waiting_for: str | None = None
        """Name of the plugin that the source waits for now."""
        self.last: Block | None = None
        """The last block that everybody was offered."""
        self._due: Full = []
        """Of events that time has put out: who must still be waited for."""
        self._receipts = Receipts()

    def _offer(self, block: Block) -> Full | None:
        """Offer to all."""
        router = self._router
        if self._kernel and router.names is not None:
            block = self._enriched(block, router.names)
        full = router.offer(block, self._replay)
        router.history.note(block, router.intakes, events=False, marks=None)
        if router.wanted:
            batch = self.stage.feed(block)
            if batch is not None:
                late = router.offer_events(batch, self._replay)
                if late is not None:
                    full = late if full is None else full + late
        self.last = block
        if self._watch is not None:
            self._watch(block)
        return full

    def _enriched(self, block: Block, names: Names) -> Block:
        """The block in ENRICHED format. Its own thread's memory, so that no lock is needed."""
        if self._enricher is None:
            self._enricher = Enricher(names)
        data = self._enricher.enrich(block.data, block.arrived)
        return Block(data, block.records, block.source, block.arrived, spooled=block.spooled)

    def send_blocking(self, block: Block) -> None:
        """From a reader thread. Raises Stopped if the engine goes down while a plugin has no room."""
        full = self._offer(block)
        if full is None:
            return
        for intake, rest in full:
            left: Block | None = rest
            while left is not None:
                ready = threading.Event()
                intake.on_room(ready.set)
                self.waiting_for = intake.name
                while not ready.wait(STOP_POLL):
                    if self._router.stopping.is_set():
                        raise Stopped
                left = intake.offer(left, self._replay)
            self.waiting_for = None

    async def send(self, block: Block) -> None:
        """From a trio task. A checkpoint only if it had to wait."""
        full = self._offer(block)
        if full is not None:
            await self._wait_for(full)

    async def _wait_for(self, full: Full) -> None:
        """Until everybody has taken his part. What is left of `full` after a cancellation has not been taken."""
        token = trio.lowlevel.current_trio_token()
        while full:
            intake, rest = full[0]
            ready = trio.Event()
            intake.on_room(lambda event=ready: token.run_sync_soon(event.set))  # type: ignore[misc]
            self.waiting_for = intake.name
            await ready.wait()
            left = intake.offer(rest, self._replay)
            if left is None:
                del full[0]
            else:
                full[0] = (intake, left)
        self.waiting_for = None

    # ---- what the source may forget ----

    def when_done(self, call: Callable[[], None]) -> None:
        """See Route."""
        self._receipts.ask(call, self._router.intakes, self.stage.fed)
        self.settle()

    def settle(self) -> None:
        """Call what is due of that."""
        if not self._receipts:
            return
        wanted = self._router.wanted
        # A stage that nobody wants anything of is fed nothing, and what is in it since somebody did is nobody's.
        put_out = self.stage.put_out() if wanted else self.stage.fed
        self._receipts.settle(put_out, [each.intake for each in wanted])

    # ---- events that nothing more comes for ----

    async def keep_time(self) -> None:
        """Put out what is quiet, also on a host where nothing else happens. Until cancelled."""
        while True:
            await trio.sleep(self.stage.pause)
            self.stage.set_timeout(self._router.timeout)
            batch = self.stage.tick()
            if batch is not None:
                self._due = self._router.offer_events(batch, self._replay) or []
                await self._wait_for(self._due)
            self.settle()

    async def flush(self) -> None:
        """The source has ended: what is left of its events goes out. Cancelled while it waits for a plugin, what that
        plugin had no room for is lost to it, and booked."""
        batch = self.stage.flush()
        if batch is not None:
            self._due += self._router.offer_events(batch, self._replay) or []
        try:
            await self._wait_for(self._due)
        finally:
            for intake, rest in self._due:
                intake.lose(rest, "shutdown")
            self._due = []
