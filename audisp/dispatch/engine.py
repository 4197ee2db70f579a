"""The dispatcher: sources, router, plugins, books, in one tree of lifetimes (health ⊃ plugins ⊃ sources).

Stopping is leaving the sources' block; the drain is a deadline on the plugins'. Whatever the engine does once a second
or on request runs in the trio loop; the stream itself does not pass through the loop (sources/netlink.py, router.py).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from typing import Any, Final, Literal, get_args

import attrs
import trio

from audisp import __version__
from audisp.config.grammar import ConfigErrors
from audisp.dispatch import context, ledger, statefile
from audisp.dispatch.actions import Actions
from audisp.dispatch.control import send_all, serve_control
from audisp.dispatch.crash import Crash, first_serial
from audisp.dispatch.explain import explain
from audisp.dispatch.identity import Signaller, daemon_fields, signaller
from audisp.dispatch.internal import (
    DAEMON_CONFIG,
    DAEMON_END,
    DAEMON_RESUME,
    DAEMON_ROTATE,
    DAEMON_START,
    Internal,
)
from audisp.dispatch.made import isolated
from audisp.dispatch.own import OwnActivity
from audisp.dispatch.plan import Plan, load
from audisp.dispatch.roster import Roster
from audisp.dispatch.router import Router, SourceRoute
from audisp.dispatch.runner import Say
from audisp.dispatch.shaping import Shaping
from audisp.dispatch.supply import Supply
from audisp.dispatch.tail import serve_tail
from audisp.dispatch.watchdog import watch_loop
from audisp.enrich.enricher import Enricher
from audisp.errors import ConfigError, SourceError, StoreError
from audisp.shapes.registry import make_shape
from audisp.shapes.shape import Names, Nobody, Shape, ShapeSettings
from audisp.sources.contract import NETWORK, Source, SourceBooks
from audisp.sources.follow import FollowSource
from audisp.sources.netlink import NetlinkSource

TICK: Final = 1.0
"""Seconds between two writings of the books, and two looks at everything that nobody tells us."""
SOURCE_RETRY: Final = 1.0
"""Seconds before a live source that failed is opened again."""


@attrs.define
class OpenedOnce:
    """A source that is opened again tells the engine's start nothing new."""

    status: trio.TaskStatus[None]
    opened: bool = False

    def started(self, value: None = None) -> None:
        """See trio.TaskStatus."""
        if not self.opened:
            self.opened = True
            self.status.started()


Command = Literal["stop", "reload", "rotate", "resume", "state"]


@attrs.define(eq=False)
class Engine:
    """One running dispatcher. sources: made, netlink ones opened. commands: what signals and the control socket ask."""

    plan: Plan
    sources: list[Source]
    say: Say
    actions: Actions
    log_settings: Callable[..., Any]
    started: float = attrs.field(factory=time.time)
    supply: Supply | None = None
    """What feeds the plugins beside the sources' routes."""
    reread: Callable[[], Plan] | None = None
    """Reads the configuration for a reload; None: auditd.conf, audispd.conf and plugins.d. Raises ConfigError."""
    changed: Callable[[Plan], Awaitable[None]] | None = None
    """Called when a reload has gone over to another plan."""
    router: Router = attrs.field(factory=Router)
    internal: Internal = attrs.field(init=False)
    internal_books: SourceBooks = attrs.field(factory=lambda: SourceBooks("internal", "live"))
    roster: Roster = attrs.field(init=False)
    own: OwnActivity = attrs.field(init=False)
    shaping: Shaping = attrs.field(init=False)
    enricher: Enricher | None = None
    names: Names = attrs.field(factory=Nobody)
    """Of this host's accounts."""
    previous: ledger.Previous = ledger.NOTHING
    problem: str | None = None
    """Why the engine ended by itself, if it did so because of an error."""
    routes: dict[str, SourceRoute] = attrs.field(factory=dict)
    crashes: dict[str, Crash] = attrs.field(init=False)
    """What the run before may have lost, by plugin."""
    _asked: set[Command] = attrs.field(factory=set)
    _send: trio.MemorySendChannel[tuple[Command, bool]] = attrs.field(init=False)
    _receive: trio.MemoryReceiveChannel[tuple[Command, bool]] = attrs.field(init=False)
    _books_problem: str | None = None
    _starting: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self.internal = Internal(self.plan.node)
        self._take_formats(self.plan)
        self.own = OwnActivity(self.say, self.plan.own.own_activity_warn)
        # As many as there are commands, so that sending never has to wait.
        self._send, self._receive = trio.open_memory_channel(len(get_args(Command)))
        found = {name: self.previous.crash(name) for name in self.previous.plugins}
        self.crashes = {name: crash for name, crash in found.items() if crash is not None}
        self.shaping = Shaping(self.router.reader, self._make_shape)
        self.roster = Roster(
            self.plan,
            self.router,
            self.internal,
            self.say,
            self._act,
            self.log_settings,
            self.shaping,
            self.names,
            crashes=dict(self.crashes),
            supply=self.supply,
        )

    def _take_formats(self, plan: Plan) -> None:
        """What of auditd.conf says how records and events are made."""
        self.router.timeout = plan.auditd.end_of_event_timeout
        self.router.names = self.internal.names = self.names if plan.auditd.log_format == "enriched" else None

    # ---- the tree ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until a `stop` command, or until every source has ended.

        Raises PluginError if a required plugin cannot be opened.
        """
        async with trio.open_nursery() as health:
            health.start_soon(watch_loop, self.roster.owner_of, self.say)
            if self.supply is not None:
                health.start_soon(self.supply.run)
            if self.plan.own.control:
                await health.start(serve_control, self.plan.own.runtime_dir, self.answer, self.stream)
            async with trio.open_nursery() as plugins:
                with self._starting:
                    await self.roster.start(plugins, self.roster.wanted(self.plan))
                if self._starting.cancelled_caught:
                    task_status.started()
                    await self.roster.stop(trio.current_time() + self.plan.own.drain_timeout)
                else:
                    await self._read(health, plugins, task_status)
            health.cancel_scope.cancel()
        self.write_books(clean=True)
        # As auditd does: a state file of a daemon that has ended says nothing true.
        (self.plan.own.runtime_dir / statefile.NAME).unlink(missing_ok=True)

    async def _read(self, health: trio.Nursery, plugins: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """From the first record to the last."""
        contexts = await self._contexts()
        # From here on a kill may lose something, and the next run must see that there was one.
        self.write_books(clean=False)
        health.start_soon(self._tick)
        health.start_soon(self._keep_books)
        self.emit(DAEMON_START, daemon_fields("start", self.plan))
        async with trio.open_nursery() as sources:
            for source in self.sources:
                await sources.start(self._serve, source)
            task_status.started()
            who = await self._obey(plugins)
            # A reader thread must not go on waiting for a plugin that will take nothing more.
            deadline = trio.current_time() + self.plan.own.drain_timeout
            sources.cancel_scope.cancel()
            health.start_soon(self._force, deadline)
        with trio.move_on_at(deadline):
            for route in self.routes.values():
                await route.flush()
        if self.supply is not None:
            await self.supply.finish(deadline)
        if contexts is not None:
            await trio.to_thread.run_sync(context.end, contexts, self.plan.own.state_dir, self.say)
        self.emit(DAEMON_END, daemon_fields("terminate", self.plan, who))
        await self.roster.stop(deadline)
        for route in self.routes.values():
            route.settle()

    async def _contexts(self) -> context.Contexts | None:
        """The table of processes, if anybody wants to know of them."""
        own = self.plan.own
        if not (own.enrich or own.enrich_env) or not self.roster.knows_processes():
            return None
        node = (self.plan.node or b"").decode("ascii")
        contexts = await trio.to_thread.run_sync(context.start, own, node, self.say)
        self.router.look = contexts.add
        self.enricher = contexts.enricher
        return contexts

    async def _force(self, deadline: float) -> None:
        await trio.sleep_until(deadline)
        self.router.stopping.set()

    async def _serve(self, source: Source, *, task_status: trio.TaskStatus[None]) -> None:
        """Run one source to its end. One that fails while others run is reported, and a live one tried again."""
        route = self.router.route(
            source.name,
            replay=source.kind == "replay",
            kernel=isinstance(source, NetlinkSource),
            watch=None if source.kind == "replay" or source.name == "netlink" else self.own.see,
        )
        self.routes[source.name] = route
        async with trio.open_nursery() as beside:
            beside.start_soon(route.keep_time)
            await self._run_source(source, route, OpenedOnce(task_status))
            beside.cancel_scope.cancel()
        await route.flush()
        source.books.detail["ended"] = "yes"
        if all(each.books.detail.get("ended") for each in self.sources):
            # No source is left that could bring anything.
            self.ask("stop")

    async def _run_source(self, source: Source, route: SourceRoute, status: OpenedOnce) -> None:
        while True:
            try:
                await source.run(route, task_status=status)
                return
            except (SourceError, OSError) as error:
                self.say("error", f"source {source.name}: {error}", limit=f"source-{source.name}")
                if not status.opened:
                    raise
                if isinstance(source, NetlinkSource) or source.kind == "replay":
                    self.problem = f"source {source.name}: {error}"
                    return
            await trio.sleep(SOURCE_RETRY)

    # ---- commands ----

    def ask(self, command: Command, *, signalled: bool = False) -> None:
        """Have a command carried out; one that waits to be carried out already is not put there twice, so that no flood
        of them keeps another from being heard. signalled: a signal asked, and the kernel may know whose."""
        if command == "stop":
            # A required plugin that does not open must not hold the end, with the stream ours and nobody reading it.
            self._starting.cancel()
        if command not in self._asked:
            self._asked.add(command)
            self._send.send_nowait((command, signalled))

    async def _obey(self, plugins: trio.Nursery) -> Signaller | None:
        """Carry out commands until `stop`; returns who asked for that."""
        async for command, signalled in self._receive:
            self._asked.discard(command)
            who = None
            if signalled and self.plan.owner:
                who = await trio.to_thread.run_sync(signaller, self.sources)
            if command == "stop":
                return who
            if command == "reload":
                await self._reload(plugins, who)
            elif command == "state":
                self.write_state()
            else:
                self.roster.command(command)
                if command == "resume":
                    self.actions.resume()
                type_ = DAEMON_ROTATE if command == "rotate" else DAEMON_RESUME
                operation = "rotate-logs" if command == "rotate" else "resume-logging"
                self.emit(type_, daemon_fields(operation, self.plan, who))
        return None

    async def _reload(self, plugins: trio.Nursery, who: Signaller | None) -> None:
        try:
            # In a thread: finding out the name of this host may ask a name server.
            reread = self.reread or partial(load, self.plan.options, self.plan.files)
            plan = await trio.to_thread.run_sync(reread)
        except ConfigError as error:
            for each in error.errors if isinstance(error, ConfigErrors) else (error,):
                self.say("error", f"reload: {each}; everything stays as it was")
            self.emit(DAEMON_CONFIG, daemon_fields("reconfigure state=no-change", self.plan, who, result="failed"))
            return
        for bad in plan.errors:
            self.say("error", f"reload: {bad}; what runs of it stays as it was")
        for notice in plan.notices:
            self.say("notice", notice)
        if _lasting(plan) != _lasting(self.plan):
            self.say("warning", "reload: other sources, folders or node names take effect at the next start")
        now = self.plan.own
        plan = attrs.evolve(
            plan,
            sources=self.plan.sources,
            node=self.plan.node,
            own=attrs.evolve(plan.own, runtime_dir=now.runtime_dir, state_dir=now.state_dir, spill_dir=now.spill_dir),
        )
        done = await self.roster.reload(plugins, plan)
        self.plan = plan
        self._take_formats(plan)
        if self.changed is not None:
            await self.changed(plan)
        self.own.warn_percent = plan.own.own_activity_warn
        self.say("notice", f"reload: {', '.join(done) or 'nothing had changed'}")
        self.emit(DAEMON_CONFIG, daemon_fields("reconfigure state=changed", self.plan, who))

    def _make_shape(self, name: str, version: str) -> Shape:
        node = self.plan.node
        host = node.decode("ascii") if node is not None else os.uname().nodename
        return make_shape(name, ShapeSettings(version, self.names, host, context.of))

    def emit(self, type_: int, fields: str) -> None:
        """Send one of the dispatcher's own records to all plugins."""
        block = self.internal.record(type_, fields)
        self.router.send_own(block)
        self.internal_books.count_routed(1, len(block.data))

    def _act(self, action: str, message: str, path: str | None = None) -> None:
        if action == "suspend":
            return
        self.actions.act(action, message, path=path)

    # ---- once a second ----

    async def _tick(self) -> None:
        reported = trio.current_time()
        while True:
            await trio.sleep(TICK)
            interval = self.plan.auditd.report_interval
            if interval and trio.current_time() - reported >= interval:
                reported = trio.current_time()
                self.write_state()
            self.roster.tick()
            self.actions.reap()
            self.own.watch(self.roster.pids())
            self.own.tick()
            for source in self.sources:
                if isinstance(source, NetlinkSource):
                    if not source.books.detail.get("ended"):
                        await self._poll(source)
                elif source.rejects is not None:
                    source.rejects.report()

    async def _poll(self, source: NetlinkSource) -> None:
        try:
            await trio.to_thread.run_sync(source.poll, abandon_on_cancel=True)
        except (SourceError, OSError) as error:
            self.say("warning", f"source {source.name}: kernel status: {error}", limit=f"poll-{source.name}")

    # ---- the books ----

    async def _keep_books(self) -> None:
        """Written in a thread: a disk that hangs must not hold the loop. The thread is waited for at the end, or old
        books might replace the last ones."""
        while True:
            await trio.sleep(TICK)
            await trio.to_thread.run_sync(self._store_books, *self._books(), False)
            await trio.to_thread.run_sync(self.router.history.tidy)

    def write_books(self, *, clean: bool) -> None:
        """Put the books where the next run finds them, before and after there is a stream."""
        self._store_books(*self._books(), clean)

    def _books(self) -> tuple[dict[str, Any], dict[str, Any]]:
        # Taken before any intake is looked at: what an intake does not hold then has been through it.
        rows = [source for source in self.sources if source.name != NETWORK]
        single = len(rows) == 1 and not isinstance(rows[0], FollowSource)
        seen = self._seen(rows[0]) if single else None
        return (
            {source.name: self._source_books(source) for source in self.sources},
            {name: self._plugin_books(name) | self._at_risk(name, seen) for name in self.roster.entries},
        )

    def _store_books(self, sources: dict[str, Any], plugins: dict[str, Any], clean: bool) -> None:
        """A failure is said once, and again when it has changed."""
        try:
            ledger.write(self.plan.own.state_dir, sources, plugins, clean=clean)
            self._books_problem = None
        except StoreError as error:
            if str(error) != self._books_problem:
                self._books_problem = str(error)
                self.say("warning", f"the books cannot be written: {error}")

    def _source_books(self, source: Source) -> dict[str, Any]:
        books = source.books.view()
        books["last_serial"] = self._seen(source)
        if isinstance(source, NetlinkSource):
            books["lost_ranges"] = source.lost_ranges[-8:]
        return books

    def _seen(self, source: Source) -> int:
        """Serial of the last record routed, in this run or, if there was none yet, in the one before; 0 if unknown."""
        if isinstance(source, NetlinkSource):
            return source.gaps.last
        route = self.routes.get(source.name)
        seen = None if route is None or route.last is None else route.last.last_serial()
        return self.previous.last_serial(source.name) if seen is None else seen

    def _at_risk(self, name: str, seen: int | None) -> dict[str, int | None]:
        """What the plugin may lose if we are killed now, for `Previous.crash`.

        seen: serial that was routed before this; None with several sources, whose serials are not one row, and with one
        that is read again. at_risk None: nothing at all.
        """
        entry = self.roster.entries[name]
        intake = entry.intake
        # What a followed log has not been told to be done with is read again.
        again = {source.name for source in self.sources if isinstance(source, FollowSource)}
        with intake.lock:
            waiting = intake.waiting() - intake.disk - (entry.spill.out if entry.spill is not None else 0)
            if again:
                held = chain(entry.runner.holding(), intake.queue, intake.staged)
                waiting -= sum(block.records for block in held if block.source in again and not block.spooled)
            first = None
            if seen is not None:
                held = chain(entry.runner.holding(), intake.queue, intake.staged)
                first = first_serial(block for block in held if not block.spooled)  # those are on disk as well
                first = first if first is not None else seen + 1 if seen else None
        if entry.wanted is not None:
            # What waits for the end of its event has been offered to nobody yet.
            waiting += sum(route.stage.open_records for source, route in self.routes.items() if source not in again)
            if first is not None:
                unfinished = [route.stage.first_serial() for route in self.routes.values()]
                first = min([first, *(serial for serial in unfinished if serial is not None)])
        if self.supply is not None:
            waiting -= self.supply.pending(name)
        crash = Crash(max(waiting, 0), first)
        untold = self.roster.untold(name)
        if untold is not None:
            crash = untold + crash
        elif waiting <= 0 and all(source.name in {*again, NETWORK} for source in self.sources):
            return {"at_risk": None, "first_open": None}
        return {"at_risk": crash.waiting, "first_open": crash.first}

    def _plugin_books(self, name: str) -> dict[str, Any]:
        entry = self.roster.entries[name]
        intake = entry.intake
        with intake.lock:
            books = attrs.asdict(intake.books_locked())
            queue = intake.queue
            oldest = queue.oldest()
            delay, intake.delay_max = intake.delay_max, 0.0
            books |= {
                "disk": intake.disk,
                "losses": dict(intake.losses),
                "queue_records": queue.records,
                "queue_bytes": queue.bytes,
                "queue_peak": queue.peak_bytes,
                "queue_max": queue.max_bytes,
                "queue_max_records": queue.max_records,
                "oldest_seconds": None if oldest is None else round(time.monotonic() - oldest, 3),
                "delay_max_seconds": round(delay, 6),
                "refusing": intake.refusing,
            }
        return books

    def snapshot(self) -> dict[str, Any]:
        """Everything that status shows, as plain data."""
        plugins = {}
        for name, entry in self.roster.entries.items():
            runner = entry.runner
            host = getattr(runner, "host", None)
            plugins[name] = self._plugin_books(name) | {
                "state": runner.state,
                "kind": "child" if entry.conf.command else "isolated" if isolated(entry.conf) else "in-process",
                "program": entry.conf.command[0] if entry.conf.command else entry.conf.plugin,
                "arguments": list(entry.conf.command[1:]) if entry.conf.command else [],
                "user": entry.conf.user,
                "pids": runner.pids(),
                "restarts": runner.restarts.total,
                "required": entry.intake.required,
                "overflow_action": entry.action,
                "counters": dict(host.counters) if host is not None else {},
                "detail": runner.detail() | (self.supply.view(name) if self.supply is not None else {}),
            }
        sources = {source.name: self._source_books(source) for source in [*self.sources]}
        sources["internal"] = self.internal_books.view()
        kernel = next((s.status for s in self.sources if isinstance(s, NetlinkSource) and s.status is not None), None)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - self.started, 1),
            "sources": sources,
            "plugins": plugins,
            "assembly": {name: route.stage.view() for name, route in self.routes.items()} if self.router.wanted else {},
            "enrichment": self.enricher.state if self.enricher is not None else {},
            "kernel": attrs.asdict(kernel) if kernel is not None else None,
            "own_activity": {"records": self.own.ours, "of": self.own.total, "percent": round(self.own.share(), 1)},
            "lost_in_crash": {name: attrs.asdict(crash) for name, crash in self.crashes.items()},
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The control socket's requests."""
        operation = request.get("op")
        if operation == "status":
            return self.snapshot()
        if operation in ("reload", "rotate", "resume", "state", "stop"):
            self.ask(operation)
            return {"ok": True}
        return {"error": f"unknown request {str(operation)[:40]!r}; there are status, reload, rotate, resume, stop"}

    async def stream(self, client: trio.socket.SocketType, request: dict[str, Any]) -> None:
        """The control socket's requests that take their connection over."""
        if request["op"] == "explain":
            wanted = str(request.get("id", ""))
            answer = await trio.to_thread.run_sync(explain, wanted, self.router.history, self.roster)
            await send_all(client, json.dumps(answer).encode() + b"\n")
        else:
            await serve_tail(client, request, self.roster)

    def write_state(self) -> None:
        """The state file: upstream's lines, then ours."""
        path = self.plan.own.runtime_dir / statefile.NAME
        try:
            statefile.write(path, statefile.lines(self.snapshot(), self.plan), self.plan.auditd.log_group)
        except OSError as error:
            self.say("error", f"{path}: {error.strerror}")


def _lasting(plan: Plan) -> tuple[object, ...]:
    """What a reload does not change."""
    own = plan.as_read
    listens = plan.network is not None
    return plan.sources, plan.node, own.runtime_dir, own.state_dir, own.spill_dir, own.rcvbuf, own.control, listens
