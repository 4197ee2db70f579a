"""The configured plugins: opened, fed, restarted on reload, closed. One entry per name.

A reload keeps a plugin's intake, and with it its queue and books: the old runner gives back what was not delivered, and
the new one goes on from there, so a reload neither loses nor doubles a record.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.buffer.queue import BlockQueue
from audisp.config.grammar import Setting
from audisp.config.plugins import PluginConf, notices_of, settings_of
from audisp.dispatch.child import ChildRunner
from audisp.dispatch.crash import Crash
from audisp.dispatch.folder import make_folder
from audisp.dispatch.host import PluginHost, load_type
from audisp.dispatch.inprocess import InProcessRunner, as_it_is
from audisp.dispatch.intake import Intake, Policy
from audisp.dispatch.internal import DAEMON_ERR, Internal
from audisp.dispatch.isolated import IsolatedRunner, changed, make
from audisp.dispatch.made import Made, files_of, isolated, stamp_of
from audisp.dispatch.plan import LOG, Plan
from audisp.dispatch.restart import Restarts
from audisp.dispatch.router import Router
from audisp.dispatch.runner import Runner, Say
from audisp.dispatch.shaping import Shaping, SharedShape
from audisp.dispatch.spill import SpillTask, open_spill
from audisp.dispatch.stage import Wanted
from audisp.dispatch.supply import Supply
from audisp.errors import AudispError, PluginError, StoreError
from audisp.parse.filter import Selection, compile_filter
from audisp.parse.interpret import Names
from audisp.plugin import PluginType
from audisp.record import Block
from audisp.shapes.registry import WITH_CONTEXT

RELOAD_SECONDS: Final = 5.0
"""What a plugin that is removed by a reload may take to read what it has been sent."""
OPEN_SECONDS: Final = 10.0
"""How long the start waits for a plugin to be opened. One that takes longer is opened beside the running stream."""
OPEN_REQUIRED: Final = 60.0
"""The same for a required plugin, without which the stream is not started."""
IMPLIED: Final = Path("-f")
"""In place of the file of a plugin that an option asks for."""
STDOUT: Final = "stdout"
"""The plugin that -f implies."""
RAW: Final = "raw"
"""The shape that is none."""
SPILL_FACTOR: Final = 10
"""A spill may hold this many times the queue's bytes unless `spill_bytes` says otherwise."""


def _shaped(conf: PluginConf) -> bool:
    """Whether the plugin gets anything but records as they are."""
    return conf.shape is not None and conf.shape != RAW


@attrs.define(eq=False)
class Entry:
    """One plugin that runs. key: what it was started from; a reload that finds the same key leaves it alone."""

    conf: PluginConf
    key: object
    intake: Intake
    runner: Runner
    action: str
    wanted: Wanted | None = None
    """Of a plugin that wants events, or a shape, or has a filter."""
    attached: bool = False
    """It comes from no file, and goes with whoever attached it."""
    files: Mapping[Path, object] = attrs.field(factory=dict)
    """Files that the plugin's own settings are made of, as they were; a reload that finds others starts it anew."""
    spill: SpillTask | None = None
    reported: dict[str, int] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Roster:
    """All entries. Everything here runs in the trio loop."""

    plan: Plan
    router: Router
    internal: Internal
    say: Say
    act: Callable[[str, str, str | None], None]
    """Carry out an action: (action, message, program)."""
    log_settings: Callable[[PluginType, PluginConf | None], Any]
    """Makes the log plugin's settings out of auditd.conf and, if there is one, its own file."""
    shaping: Shaping
    names: Names
    """Of this host's accounts, for filters that compare them."""
    crashes: dict[str, Crash] = attrs.field(factory=dict)
    """By plugin, what the run before may have lost, as long as the plugin has not been told."""
    supply: Supply | None = None
    """What feeds the plugins beside the router."""
    entries: dict[str, Entry] = attrs.field(factory=dict)
    _selections: dict[tuple[tuple[str, ...], tuple[str, ...]], Selection] = attrs.field(factory=dict)
    """By the texts of filter_keep and filter_drop: those who want the same share its verdicts."""

    # ---- what is wanted ----

    def wanted(self, plan: Plan) -> list[PluginConf]:
        """The plugins of a plan, the log that auditd.conf implies included."""
        confs = list(plan.plugins)
        if plan.writes_log and not any(conf.name == LOG for conf in confs):
            folder = plan.options.conf_dir or Path("/")
            confs.insert(0, PluginConf(name=LOG, path=folder / "auditd.conf", active=True, plugin=LOG))
        if plan.options.foreground and not any(conf.name == STDOUT for conf in confs):
            # auditd -f prints the records.
            raw = Setting("form", ("raw",), 0, "raw")
            confs.append(PluginConf(name=STDOUT, path=IMPLIED, active=True, plugin=STDOUT, settings=(raw,)))
        return confs

    def _key(self, conf: PluginConf) -> object:
        plan = self.plan
        settings: tuple[object, ...] = (plan.auditd,) if conf.name == LOG and plan.writes_log else ()
        return (
            conf.fingerprint,
            conf.command,
            plan.queue_bytes,
            plan.auditd.overflow_action,
            plan.auditd.max_restarts,
            plan.own.spill_min_free,
            *settings,
        )

    # ---- starting ----

    async def start(self, nursery: trio.Nursery, confs: Iterable[PluginConf]) -> None:
        """Start plugins. A required one that cannot be opened raises PluginError; others are reported and retried."""
        for conf in confs:
            try:
                await self._start(nursery, conf)
            except AudispError as error:
                if self._required(conf):
                    raise
                self.say("error", f"plugin {conf.name}: not started: {error}")
                continue
            await self._opened(self.entries[conf.name], fatal=True)

    async def _start(self, nursery: trio.Nursery, conf: PluginConf) -> None:
        """Raises AudispError for what can be known before it runs."""
        made = await self._make_type(conf)
        intake = self._make_intake(conf)
        runner = self._make_runner(conf, intake, made)
        entry = self.entries[conf.name] = Entry(
            conf, self._key(conf), intake, runner, self._action(conf), self._wanted(conf, intake, made)
        )
        entry.files = {} if made is None else made.files
        self._book_crash(conf.name, intake)
        await self._spill_if_wanted(nursery, entry)
        nursery.start_soon(runner.run)
        self._publish()
        if self.supply is not None:
            await self.supply.begin(nursery, entry)

    async def attach(self, nursery: trio.Nursery, conf: PluginConf, type_: PluginType, settings: Any) -> None:
        """Feed a plugin that no file configures, until `detach`. Raises AudispError."""
        made = Made(type_, settings)
        intake = self._make_intake(conf)
        wanted = self._wanted(conf, intake, made)
        runner = self._make_runner(conf, intake, made)
        entry = self.entries[conf.name] = Entry(conf, None, intake, runner, self._action(conf), wanted, attached=True)
        nursery.start_soon(runner.run)
        self._publish()
        if self.supply is not None:
            await self.supply.begin(nursery, entry)

    async def detach(self, name: str) -> None:
        """Let it go, with what waits for it."""
        entry = self.entries.pop(name)
        self._publish()
        if self.supply is not None:
            await self.supply.leave(name)
        await entry.runner.stop(trio.current_time())
        if self.supply is not None:
            await self.supply.settle(name, kept=False)
        entry.intake.abandon("removed")
        self._forget_selections()

    def _forget_selections(self) -> None:
        used = {each.wanted.selection for each in self.entries.values() if each.wanted is not None}
        self._selections = {key: each for key, each in self._selections.items() if each in used}

    async def _opened(self, entry: Entry, *, fatal: bool = False) -> None:
        """Wait until an in-process plugin has been opened, or has failed once, or takes too long. fatal: raises
        PluginError if the plugin is required and is not open then."""
        runner = entry.runner
        if not isinstance(runner, InProcessRunner):
            return
        seconds = OPEN_REQUIRED if fatal and entry.intake.required else OPEN_SECONDS
        with trio.move_on_after(seconds) as waiting:
            await runner.opened.wait()
        problem = runner.first_problem
        if waiting.cancelled_caught:
            problem = f"is not open after {seconds:g} s"
            self.say("warning", f"plugin {entry.conf.name}: {problem}; the others do not wait for it")
        if problem is not None and fatal and entry.intake.required:
            raise PluginError(f"plugin {entry.conf.name}: {problem}")

    def _publish(self) -> None:
        entries = self.entries.values()
        self.router.intakes = tuple(entry.intake for entry in entries if entry.wanted is None)
        self.router.wanted = tuple(entry.wanted for entry in entries if entry.wanted is not None)

    async def _make_type(self, conf: PluginConf) -> Made | None:
        if conf.plugin is None:
            return None
        own_log = conf.name == LOG and self.plan.writes_log
        if isolated(conf):
            if own_log:
                raise PluginError("isolation: auditd.conf's log is written by the dispatcher itself: take it out")
            for each in self.entries.values():
                if conf.reactions is not None and each.conf.reactions is not None and each.conf.name != conf.name:
                    raise PluginError(f"reactions: plugin {each.conf.name} has the reactor, and there is one")
            return await make(conf, self.say, inherit=self.plan.options.foreground)
        type_ = load_type(conf.plugin)
        settings: Any
        if own_log:
            settings = self.log_settings(type_, conf if conf.settings else None)
            return Made(type_, settings, files_of(settings))
        settings = settings_of(conf, type_.config)
        for notice in notices_of(conf, settings):
            self.say("notice", notice)
        return Made(type_, settings, files_of(settings))

    def _wanted(self, conf: PluginConf, intake: Intake, made: Made | None) -> Wanted | None:
        """How the plugin is fed: None for blocks as they come. Sets whether its queue joins what waits."""
        selection = self._selection(conf)
        by_event = _shaped(conf) or (made is not None and made.type.wants == "events")
        intake.queue.merges = not by_event
        # A program reads one stream; a plugin in this process is told whose the records are.
        intake.queue.by_source = self.supply is not None and made is not None
        return Wanted(intake, selection) if by_event or selection is not None else None

    def knows_processes(self) -> bool:
        """Whether any plugin is given more of an event than its records: by its shape, or with the event itself."""
        return any(
            entry.conf.shape in WITH_CONTEXT
            or (isinstance(entry.runner, InProcessRunner) and entry.runner.type.wants == "events")
            for entry in self.entries.values()
        )

    def _selection(self, conf: PluginConf) -> Selection | None:
        key = (conf.filter_keep, conf.filter_drop)
        if key == ((), ()):
            return None
        if key not in self._selections:
            compiled = [tuple(compile_filter(text, self.names) for text in texts) for texts in key]
            self._selections[key] = Selection(*compiled)
        return self._selections[key]

    def _required(self, conf: PluginConf) -> bool:
        if conf.required is not None:
            return conf.required
        # A slow disk must not lose evidence: the kernel's backlog holds the callers, as with auditd.
        return conf.name == LOG and self.plan.owner

    def _action(self, conf: PluginConf) -> str:
        return conf.overflow_action or self.plan.auditd.overflow_action

    @property
    def _stored(self) -> bool:
        """Whether all that plugins are fed is in a store, where it waits for whoever is behind."""
        return self.supply is not None and self.supply.alone

    def _policy(self, conf: PluginConf) -> Policy:
        action = "ignore" if self._stored else self._action(conf)
        return action if action in ("drop_oldest", "spill") else "drop_newest"  # type: ignore[return-value]

    def _make_intake(self, conf: PluginConf) -> Intake:
        queue = BlockQueue(conf.queue_bytes or self.plan.queue_bytes, conf.queue_records)
        intake = Intake(
            name=conf.name,
            queue=queue,
            policy=self._policy(conf),
            required=self._required(conf),
            mark=self.internal.loss,
            stored=self._stored,
        )
        intake.overflowed = self._overflow_action(conf, intake)
        return intake

    def _overflow_action(self, conf: PluginConf, intake: Intake) -> Callable[[], None]:
        token = trio.lowlevel.current_trio_token()
        # Of what is in a store nothing is ever lost for want of room; it is our own records that were.
        action = "ignore" if self._stored else self._action(conf)

        def overflowed() -> None:
            if action == "suspend":
                intake.refusing = "suspended"
            if action in ("suspend", "single", "halt"):
                # In the loop: from here it could be a thread that holds the intake's lock.
                token.run_sync_soon(
                    self.act, "syslog" if action == "suspend" else action, f"queue of plugin {conf.name} is full", None
                )

        return overflowed

    def _make_runner(self, conf: PluginConf, intake: Intake, made: Made | None) -> Runner:
        limit = self.plan.auditd.max_restarts if conf.max_restarts is None else conf.max_restarts
        restarts = Restarts(limit, conf.restart_delay, conf.restart_delay_max)
        shape = self.shaping.shared(conf.shape, conf.shape_version or "") if _shaped(conf) and conf.shape else None
        if made is None:
            inherit = self.plan.options.foreground
            return ChildRunner(conf, intake, restarts, self.say, stdout_inherit=inherit, form=shape)
        host = PluginHost(
            name=conf.name,
            owner=self.plan.owner or self.plan.writes_log,
            runtime_dir=str(self.plan.own.runtime_dir),
            state=self.plan.own.state_dir,
            collector=self._stored,
            voice=self.say,
            emitted=lambda type_, text: self._emit(intake, type_, text),
            action=self.act,
            clock=time.monotonic,
        )
        return (IsolatedRunner if isolated(conf) else InProcessRunner)(
            conf,
            made.type,
            made.settings,
            intake,
            restarts,
            self.say,
            host,
            self.plan.own.runtime_dir / "quarantine",
            conf.deliver_timeout,
            form=self._form(conf, made.type, shape),
        )

    def _form(self, conf: PluginConf, type_: PluginType, shape: SharedShape | None) -> Callable[[Block], Block | None]:
        if type_.wants == "events":
            if shape is not None:
                raise PluginError(f"plugin {conf.name}: wants events, so it cannot be given a shape: take shape out")
            # Events are made where they are looked at.
            return as_it_is if isolated(conf) else self.shaping.as_events
        return as_it_is if shape is None else self.shaping.as_text(shape)

    def _emit(self, emitter: Intake, type_: int, text: str) -> None:
        self.router.send_own(self.internal.record(type_, text), emitter)

    async def _spill_if_wanted(self, nursery: trio.Nursery, entry: Entry) -> None:
        """Open the spill of a plugin that is to have one, or give it its new bounds. One that is to have none any more
        keeps it until it is empty."""
        conf, intake, own = entry.conf, entry.intake, self.plan.own
        if self._policy(conf) != "spill":
            left = own.spill_dir / conf.name
            if entry.spill is None and next(left.rglob("*.seg"), None) is not None:
                self.say(
                    "warning",
                    f"plugin {conf.name}: records of an earlier run wait in {left}, and are delivered only with "
                    "overflow_action = spill",
                )
            return
        max_bytes = conf.spill_bytes or SPILL_FACTOR * intake.queue.max_bytes
        min_free = own.spill_min_free if conf.spill_min_free is None else conf.spill_min_free
        if entry.spill is not None:
            entry.spill.chain.bound(max_bytes, min_free)
            return
        try:
            await trio.to_thread.run_sync(make_folder, own.spill_dir)
            entry.spill = await open_spill(
                intake, own.spill_dir / conf.name, max_bytes=max_bytes, min_free=min_free, say=self.say
            )
        except StoreError as error:
            self.say("error", f"plugin {conf.name}: runs without spill, what its queue does not hold is lost: {error}")
            with intake.lock:
                intake.policy = "drop_newest"
            return
        nursery.start_soon(entry.spill.run)

    def _book_crash(self, name: str, intake: Intake) -> None:
        crash = self.crashes.get(name)
        if crash is not None:
            with intake.lock:
                intake.queue.force(self.internal.record(DAEMON_ERR, crash.fields(name), own=1))
            self.say("warning", f"plugin {name}: {crash.text()}")

    def untold(self, name: str) -> Crash | None:
        """What the run before may have lost of this plugin's records, if the plugin has not had the marker yet."""
        entry = self.entries.get(name)
        if entry is not None and entry.intake.own:
            self.crashes.pop(name, None)
        return self.crashes.get(name)

    # ---- reload ----

    async def reload(self, nursery: trio.Nursery, plan: Plan) -> list[str]:
        """Go over to another plan: restart what changed, start what is new, end what is gone. Returns what was done.

        A plugin whose file is bad now (`plan.errors`) keeps running as it was.
        """
        bad = {error_name(error) for error in plan.errors}
        # The folder itself could not be read: nothing is known of any plugin.
        blind = any(error.path == plan.plugin_dir for error in plan.errors)
        self.plan = plan
        wanted = {conf.name: conf for conf in self.wanted(plan)}
        done: dict[str, str] = {}

        async def change(name: str, work: Callable[[], Awaitable[str]]) -> None:
            try:
                did = await work()
                if did:
                    done[name] = did
            except AudispError as error:
                self.say("error", f"plugin {name}: stays as it was: {error}")
                done[name] = "kept" if name in self.entries else "not started"

        # Side by side: one that does not want to end must not keep the others from being fed.
        async with trio.open_nursery() as changes:
            for name in list(self.entries):
                if name not in wanted and name not in bad and not blind and not self.entries[name].attached:
                    changes.start_soon(change, name, partial(self._remove, name))
            for name, conf in wanted.items():
                entry_now = self.entries.get(name)
                if entry_now is None:
                    changes.start_soon(change, name, partial(self._add, nursery, conf))
                else:
                    changes.start_soon(change, name, partial(self._review, nursery, entry_now, conf))
        self._forget_selections()
        return [f"{name} {what}" for name, what in sorted(done.items())]

    async def _review(self, nursery: trio.Nursery, entry: Entry, conf: PluginConf) -> str:
        """Start it anew if it has to be; what was done, "" for nothing."""
        if entry.key != self._key(conf) or entry.runner.state == "failed" or await self._files_changed(entry, conf):
            return await self._restart(nursery, entry, conf)
        if entry.intake.refusing == "suspended":
            entry.intake.resume()
            return "resumed"
        return ""

    async def _files_changed(self, entry: Entry, conf: PluginConf) -> bool:
        if isolated(conf):
            return await changed(conf, entry.files, self.say)
        return entry.files != {path: stamp_of(path) for path in entry.files}

    async def _add(self, nursery: trio.Nursery, conf: PluginConf) -> str:
        await self._start(nursery, conf)
        await self._opened(self.entries[conf.name])
        return "started"

    async def _restart(self, nursery: trio.Nursery, entry: Entry, conf: PluginConf) -> str:
        """Another runner for the same intake, so that nothing is lost or doubled. Raises AudispError for what can be
        known before the old one is stopped."""
        made = await self._make_type(conf)
        await entry.runner.stop(trio.current_time())
        intake = entry.intake
        entry.conf, entry.key, entry.action = conf, self._key(conf), self._action(conf)
        entry.files = {} if made is None else made.files
        entry.wanted = self._wanted(conf, intake, made)
        self._publish()
        with intake.lock:
            intake.direct = None
            intake.policy = self._policy(conf)
            intake.required = self._required(conf)
            intake.overflowed = self._overflow_action(conf, intake)
            intake.queue.max_bytes = conf.queue_bytes or self.plan.queue_bytes
            intake.queue.max_records = conf.queue_records
            intake.refusing = None
        await self._spill_if_wanted(nursery, entry)
        entry.runner = self._make_runner(conf, intake, made)
        with intake.lock:
            intake.let_go()  # there may be more room, or it may not be required any more
        nursery.start_soon(entry.runner.run)
        await self._opened(entry)
        return "restarted"

    async def _remove(self, name: str) -> str:
        entry = self.entries.pop(name)
        self._publish()
        await self._close(entry, trio.current_time() + RELOAD_SECONDS, "removed")
        return "ended"

    # ---- ending ----

    async def stop(self, deadline: float) -> None:
        """Drain all plugins side by side until the deadline, then end them."""
        async with trio.open_nursery() as nursery:
            for entry in list(self.entries.values()):
                nursery.start_soon(self._close, entry, deadline, "shutdown")

    async def _close(self, entry: Entry, deadline: float, reason: str) -> None:
        name = entry.conf.name
        if self.supply is not None:
            await self.supply.leave(name)
        await entry.runner.stop(deadline)
        if entry.spill is not None:
            await entry.spill.close()
            if entry.intake.disk:
                self.say(
                    "notice", f"plugin {entry.conf.name}: {entry.intake.disk} records wait on disk for its next start"
                )
        put_off = 0
        if self.supply is not None:
            with entry.intake.lock:
                kept = entry.spill is not None and not entry.intake.queue and not entry.intake.staged
            put_off = await self.supply.settle(name, kept=kept)
        lost = entry.intake.abandon(reason)
        lost -= entry.intake.put_off(put_off, reason)
        if lost:
            self.say(
                "warning", f"plugin {entry.conf.name}: {lost} records were not delivered before the end ({reason})"
            )

    # ---- once a second ----

    def tick(self) -> None:
        """Runners' own housekeeping, and a line about every plugin that lost records since the last one."""
        for entry in self.entries.values():
            entry.runner.tick()
            for reason, count in list(entry.intake.losses.items()):
                new = count - entry.reported.get(reason, 0)
                if new > 0 and reason != "crash" and entry.action != "ignore":
                    entry.reported[reason] = count
                    self.say(
                        "warning",
                        f"queue to plugin {entry.conf.name} is full - dropping records: {new} more, {count} in all"
                        if reason == "overflow"
                        else f"plugin {entry.conf.name}: {new} records dropped ({reason}), {count} in all",
                        limit=f"loss-{entry.conf.name}-{reason}",
                    )

    def command(self, name: str) -> None:
        """Have every in-process plugin rotate or resume; resume also opens intakes that were suspended."""
        for entry in self.entries.values():
            if isinstance(entry.runner, InProcessRunner):
                entry.runner.command(name)
            if name == "resume" and entry.intake.refusing == "suspended":
                entry.intake.resume()

    def owner_of(self, task: trio.lowlevel.Task) -> str | None:
        """The in-process plugin that a task belongs to: the runner's own, or one that the plugin started below it."""
        tasks = {
            entry.runner.task: name
            for name, entry in self.entries.items()
            if isinstance(entry.runner, InProcessRunner) and entry.runner.task is not None
        }
        current: trio.lowlevel.Task | None = task
        while current is not None:
            if current in tasks:
                return tasks[current]
            current = None if current.parent_nursery is None else current.parent_nursery.parent_task
        return None

    def pids(self) -> list[int]:
        """Processes of all plugins."""
        return [pid for entry in self.entries.values() for pid in entry.runner.pids()]


def error_name(error: Any) -> str:
    """Name of the plugin whose file an error of `scan` is about."""
    return Path(str(error.path)).stem
