"""The configured plugins: opened, fed, restarted on reload, closed. One entry per name.

A reload keeps a plugin's intake, and with it its queue and books: the old runner gives back what was not delivered, and
the new one goes on from there, so a reload neither loses nor doubles a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.buffer.queue import BlockQueue
from audisp.config.grammar import Setting
from audisp.config.plugins import PluginConf, settings_of
from audisp.dispatch.child import ChildRunner
from audisp.dispatch.crash import Crash
from audisp.dispatch.host import PluginHost, load_type
from audisp.dispatch.inprocess import InProcessRunner
from audisp.dispatch.intake import Intake, Policy
from audisp.dispatch.internal import DAEMON_ERR, Internal
from audisp.dispatch.plan import LOG, SHOW, Plan
from audisp.dispatch.restart import Restarts
from audisp.dispatch.router import Router
from audisp.dispatch.runner import Runner, Say
from audisp.dispatch.spill import SpillTask, open_spill
from audisp.errors import AudispError, PluginError
from audisp.plugin import PluginType

RELOAD_SECONDS: Final = 5.0
"""What a plugin that is restarted or removed by a reload may take to read what it has been sent."""
STDOUT: Final = "stdout"
"""The plugin that -f implies."""
SPILL_FACTOR: Final = 10
"""A spill may hold this many times the queue's bytes unless `spill_bytes` says otherwise."""


@attrs.define(eq=False)
class Entry:
    """One plugin that runs. key: what it was started from; a reload that finds the same key leaves it alone."""

    conf: PluginConf
    key: object
    intake: Intake
    runner: Runner
    action: str
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
    crashes: dict[str, Crash] = attrs.field(factory=dict)
    """By plugin, what the run before may have lost, as long as the plugin has not been told."""
    entries: dict[str, Entry] = attrs.field(factory=dict)

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
            confs.append(PluginConf(name=STDOUT, path=Path("-f"), active=True, plugin=STDOUT, settings=(raw,)))
        if plan.shows_records and not any(conf.name == SHOW for conf in confs):
            folder = plan.options.conf_dir or Path("/")
            confs.insert(0, PluginConf(name=SHOW, path=folder / "auditd.conf", active=True, plugin=SHOW))
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
            *settings,
        )

    # ---- starting ----

    async def start(self, nursery: trio.Nursery, confs: Iterable[PluginConf]) -> None:
        """Start plugins. A required one that cannot be opened raises PluginError; others are reported and retried."""
        for conf in confs:
            await self._start(nursery, conf)

    async def _start(self, nursery: trio.Nursery, conf: PluginConf) -> None:
        try:
            made = self._make_type(conf)
        except AudispError as error:
            if self._required(conf):
                raise
            self.say("error", f"plugin {conf.name}: not started: {error}")
            return
        intake = self._make_intake(conf)
        spill = None
        if intake.policy == "spill":
            spill = await self._open_spill(nursery, conf, intake)
        runner = self._make_runner(conf, intake, made)
        entry = self.entries[conf.name] = Entry(conf, self._key(conf), intake, runner, self._action(conf), spill)
        self._book_crash(conf.name, intake)
        nursery.start_soon(runner.run)
        await self._opened(entry)
        self._publish()

    async def _opened(self, entry: Entry) -> None:
        """Wait until an in-process plugin has been opened, or has failed once."""
        runner = entry.runner
        if isinstance(runner, InProcessRunner):
            await runner.opened.wait()
            if runner.first_problem is not None and entry.intake.required:
                raise PluginError(f"plugin {entry.conf.name}: {runner.first_problem}")

    def _publish(self) -> None:
        self.router.intakes = tuple(entry.intake for entry in self.entries.values())

    def _make_type(self, conf: PluginConf) -> tuple[PluginType, Any] | None:
        if conf.plugin is None:
            return None
        type_ = load_type(conf.plugin)
        if conf.name == LOG and self.plan.writes_log:
            return type_, self.log_settings(type_, conf if conf.settings else None)
        return type_, settings_of(conf, type_.config)

    def _required(self, conf: PluginConf) -> bool:
        if conf.required is not None:
            return conf.required
        # A slow disk must not lose evidence: the kernel's backlog holds the callers, as with auditd.
        return conf.name == LOG and self.plan.owner

    def _action(self, conf: PluginConf) -> str:
        return conf.overflow_action or self.plan.auditd.overflow_action

    def _policy(self, conf: PluginConf) -> Policy:
        action = self._action(conf)
        return action if action in ("drop_oldest", "spill") else "drop_newest"  # type: ignore[return-value]

    def _make_intake(self, conf: PluginConf) -> Intake:
        queue = BlockQueue(conf.queue_bytes or self.plan.queue_bytes, conf.queue_records)
        intake = Intake(
            name=conf.name,
            queue=queue,
            policy=self._policy(conf),
            required=self._required(conf),
            mark=self.internal.loss,
        )
        token = trio.lowlevel.current_trio_token()
        action = self._action(conf)

        def overflowed() -> None:
            if action == "suspend":
                intake.refusing = "suspended"
            if action in ("suspend", "single", "halt"):
                token.run_sync_soon(
                    self.act, "syslog" if action == "suspend" else action, f"queue of plugin {conf.name} is full", None
                )

        intake.overflowed = overflowed
        return intake

    def _make_runner(self, conf: PluginConf, intake: Intake, made: tuple[PluginType, Any] | None) -> Runner:
        limit = self.plan.auditd.max_restarts if conf.max_restarts is None else conf.max_restarts
        restarts = Restarts(limit, conf.restart_delay, conf.restart_delay_max)
        if made is None:
            return ChildRunner(conf, intake, restarts, self.say, stdout_inherit=self.plan.options.foreground)
        type_, settings = made
        host = PluginHost(
            name=conf.name,
            owner=self.plan.owner,
            runtime_dir=str(self.plan.own.runtime_dir),
            voice=self.say,
            emitted=lambda type_, text: self._emit(intake, type_, text),
            action=self.act,
            clock=trio.current_time,
        )
        return InProcessRunner(
            conf,
            type_,
            settings,
            intake,
            restarts,
            self.say,
            host,
            self.plan.own.runtime_dir / "quarantine",
            conf.deliver_timeout,
        )

    def _emit(self, emitter: Intake, type_: int, text: str) -> None:
        self.router.send_own(self.internal.record(type_, text), emitter)

    async def _open_spill(self, nursery: trio.Nursery, conf: PluginConf, intake: Intake) -> SpillTask:
        own = self.plan.own
        spill = await open_spill(
            intake,
            own.spill_dir / conf.name,
            max_bytes=conf.spill_bytes or SPILL_FACTOR * intake.queue.max_bytes,
            min_free=own.spill_min_free if conf.spill_min_free is None else conf.spill_min_free,
            say=self.say,
        )
        nursery.start_soon(spill.run)
        return spill

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
        self.plan = plan
        wanted = {conf.name: conf for conf in self.wanted(plan)}
        done = []
        for name in list(self.entries):
            if name not in wanted and name not in bad:
                await self._remove(name)
                done.append(f"{name} ended")
        for name, conf in wanted.items():
            entry = self.entries.get(name)
            if entry is None:
                await self._start(nursery, conf)
                done.append(f"{name} started" if name in self.entries else f"{name} not started")
            elif entry.key != self._key(conf) or entry.runner.state == "failed":
                done.append(await self._restart(nursery, entry, conf))
            else:
                entry.intake.resume()
        return done

    async def _restart(self, nursery: trio.Nursery, entry: Entry, conf: PluginConf) -> str:
        try:
            made = self._make_type(conf)
        except AudispError as error:
            self.say("error", f"plugin {conf.name}: keeps running as it was: {error}")
            return f"{conf.name} kept"
        if (entry.spill is None) == (self._policy(conf) == "spill"):
            await self._remove(conf.name)
            await self._start(nursery, conf)
            return f"{conf.name} started anew"
        await entry.runner.stop(trio.current_time())
        intake = entry.intake
        with intake.lock:
            intake.direct = None
            intake.policy = self._policy(conf)
            intake.required = self._required(conf)
            intake.queue.max_bytes = conf.queue_bytes or self.plan.queue_bytes
            intake.queue.max_records = conf.queue_records
            intake.refusing = None
        entry.conf, entry.key, entry.action = conf, self._key(conf), self._action(conf)
        entry.runner = self._make_runner(conf, intake, made)
        nursery.start_soon(entry.runner.run)
        await self._opened(entry)
        return f"{conf.name} restarted"

    async def _remove(self, name: str) -> None:
        entry = self.entries.pop(name)
        self._publish()
        await self._close(entry, trio.current_time() + RELOAD_SECONDS, "removed")

    # ---- ending ----

    async def stop(self, deadline: float) -> None:
        """Drain all plugins side by side until the deadline, then end them."""
        async with trio.open_nursery() as nursery:
            for entry in list(self.entries.values()):
                nursery.start_soon(self._close, entry, deadline, "shutdown")

    async def _close(self, entry: Entry, deadline: float, reason: str) -> None:
        await entry.runner.stop(deadline)
        if entry.spill is not None:
            await entry.spill.close()
        lost = entry.intake.abandon(reason)
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

    def pids(self) -> list[int]:
        """Processes of all plugins."""
        return [pid for entry in self.entries.values() for pid in entry.runner.pids()]


def error_name(error: Any) -> str:
    """Name of the plugin whose file an error of `scan` is about."""
    return Path(str(error.path)).stem
