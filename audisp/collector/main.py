"""From a configuration to a running collector and an exit code. What must come before threads comes here, in order:
configuration, background, folders and pid file, store, sockets, capabilities; then trio.run."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio

from audisp import __version__
from audisp.collector.network import Network, Opened
from audisp.config import plugins
from audisp.config.collector import NAME, CollectorConf, load
from audisp.config.grammar import ConfigErrors
from audisp.config.plugins import PluginConf
from audisp.dispatch import daemonize, privileges
from audisp.dispatch import plan as plans
from audisp.dispatch.actions import Actions
from audisp.dispatch.control import serve_control
from audisp.dispatch.engine import Engine
from audisp.dispatch.folder import make_folder
from audisp.dispatch.needs import plugin_needs
from audisp.dispatch.plan import Plan, node_name
from audisp.dispatch.router import Router
from audisp.dispatch.say import Level, Voice
from audisp.errors import AudispError, ConfigError
from audisp.sources.memory import keep_freed_memory

IDENT: Final = "audisp-collector"
PACKAGE: Final = Path(__file__).resolve().parents[1]
DEFAULT_PLUGINS: Final = CollectorConf().plugin_dir
LIMIT_BURST: Final = 5
LIMIT_SECONDS: Final = 10.0
"""Of one kind of message at most five in ten seconds, then their number, as in audispd."""
SIGNALS: Final = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGHUP: "reload",
    signal.SIGUSR1: "rotate",
    signal.SIGUSR2: "resume",
    signal.SIGCONT: "state",
}
FIXED: Final = ("runtime_dir", "state_dir", "control", "capabilities", "priority_boost")
"""Keys that a reload cannot change, besides those of the network: folders, the process."""


@attrs.frozen
class Options:
    """The command line."""

    conf_dir: Path
    foreground: bool = False
    allow_links: bool = False


@attrs.frozen
class Speech:
    """`Say` on a Voice."""

    voice: Voice

    def __call__(self, level: str, message: str, *, limit: str | None = None) -> None:
        """See committer.Say."""
        self.voice.say(
            cast("Level", level), message, limit=None if limit is None else (limit, LIMIT_BURST, LIMIT_SECONDS)
        )


def plan_of(conf: CollectorConf, options: Options) -> Plan:
    """What the engine is to run: the plugins behind the store, and no source of its own. Raises ConfigErrors."""
    # Without plugins a collector stores, which is its work: the default folder need not be there.
    absent = conf.plugin_dir == DEFAULT_PLUGINS and not conf.plugin_dir.exists()
    found, errors = ([], []) if absent else plugins.scan(conf.plugin_dir)
    auditd = conf.as_auditd()
    # Its control socket is ours, which answers for the store as well.
    own = attrs.evolve(conf.as_audispd(), control=False)
    return Plan(
        options=plans.Options(conf_dir=options.conf_dir, no_fork=True, allow_links=options.allow_links),
        auditd=auditd,
        own=own,
        as_read=own,
        plugin_dir=conf.plugin_dir,
        plugins=tuple(each for each in found if each.active),
        sources=(),
        node=node_name(auditd),
        notices=tuple(notice for each in found for notice in (*each.notices, *_useless(each))),
        errors=tuple(errors),
    )


def _useless(conf: PluginConf) -> Iterator[str]:
    """Settings of a plugin that mean nothing here."""
    if conf.active and conf.overflow_action not in (None, "ignore", "syslog"):
        yield (
            f"{conf.path}: overflow_action: {conf.overflow_action} has no effect: what a plugin has no room for waits "
            "in the store"
        )


def run(options: Options) -> int:
    """Run a collector to its end; returns the exit code."""
    keep_freed_memory()
    voice = Voice("stderr", IDENT)
    say = Speech(voice)
    readiness = daemonize.in_foreground()
    code = daemonize.EXIT_START
    try:
        conf, notices = load(options.conf_dir / NAME, allow_links=options.allow_links)
        for notice in notices:
            say("notice", notice)
        plan = plan_of(conf, options)
        for error in plan.errors:
            whole = error.path == plan.plugin_dir
            say("error", str(error) if whole else f"{error}; this plugin is left out")
        for notice in plan.notices:
            say("notice", notice)
        daemonize.settle()
        if not options.foreground:
            readiness = daemonize.into_background()
        with contextlib.ExitStack() as held:
            held.enter_context(_signals_wait())
            for folder in (conf.runtime_dir, conf.state_dir):
                make_folder(folder)
            held.enter_context(daemonize.PidFile(conf.runtime_dir / "audisp-collector.pid"))
            opened = Opened.take(conf, say, held)
            daemonize.boost_priority(conf.priority_boost)
            problem = daemonize.avoid_oom_killer()
            if problem:
                say("notice", problem)
            for line in privileges.keep(_needed(conf, plan)):
                say("info", line)
            trio.run(_main, opened, options, plan, voice, say, readiness)
        return 0
    except ConfigErrors as errors:
        for each in errors.errors:
            say("error", str(each))
        code = daemonize.EXIT_CONFIG
    except ConfigError as error:
        say("error", str(error))
        code = daemonize.EXIT_CONFIG
    except daemonize.StartError as error:
        say("error", str(error))
        code = error.code
    except AudispError as error:
        say("error", str(error))
    except BaseExceptionGroup as group:
        rest = group.subgroup(lambda error: not isinstance(error, AudispError))
        if rest is not None:
            # In the background nobody sees the traceback that follows; this line goes to syslog.
            say("critical", f"a defect of our own: {rest.exceptions[0]!r}")
            readiness.failed(code)
            raise
        say("error", f"cannot go on: {group.exceptions[0]}")
    finally:
        voice.close()
    readiness.failed(code)
    return code


def _needed(conf: CollectorConf, plan: Plan) -> dict[str, list[str]]:
    """Capabilities to be kept, with the parts that need them."""
    needed = {name: ["audisp-collector.conf: capabilities"] for name in conf.capabilities}
    plugin_needs(plan.plugins, lambda capability, part: needed.setdefault(capability, []).append(part))
    for path in (PACKAGE, Path(sys.prefix), Path(contextlib.__file__).parent):
        if privileges.out_of_reach(path):
            needed.setdefault("cap_dac_read_search", []).append(f"our own code: {path}")
            break
    return needed


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Until trio hears them, signals wait; once it does no more, they are ignored. To be entered before any thread."""
    before = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        for number, action in before.items():
            signal.signal(number, action)


async def _main(
    opened: Opened, options: Options, plan: Plan, voice: Voice, say: Speech, readiness: daemonize.Readiness
) -> None:
    await Collector(opened, options, plan, voice, say).run(readiness)


class Collector:
    """A running one: the engine, whose one source is the network. To be made inside trio."""

    def __init__(self, opened: Opened, options: Options, plan: Plan, voice: Voice, say: Speech) -> None:
        self.options, self.say = options, say
        self._voice = voice
        actions = Actions(voice, mail_to=opened.conf.action_mail_acct)
        self.network = Network(opened, actions, say)
        router = Router(timeout=plan.auditd.end_of_event_timeout)
        supply = self.network.supply(opened.conf.state_dir, router, alone=True, hosts=lambda entry: entry.conf.patterns)
        self.engine = Engine(
            plan,
            [self.network],
            say,
            actions,
            lambda type_, conf: type_.config(),
            supply=supply,
            reread=lambda: plan_of(self.conf, options),
            router=router,
        )
        self.network.presence.emit = self.engine.emit
        self._actions = actions
        self._started = time.time()
        self._commands = trio.open_memory_channel[str](8)

    @property
    def conf(self) -> CollectorConf:
        """As it is in force."""
        return self.network.conf

    async def run(self, readiness: daemonize.Readiness) -> None:
        """Until told to stop; then everybody is told, and what was received is stored, within `drain_timeout`."""
        # What exists now stays; it need not be looked through again and again.
        gc.freeze()
        async with trio.open_nursery() as health:
            with trio.open_signal_receiver(*SIGNALS) as signals:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                health.start_soon(self._hear, signals)
                health.start_soon(self._obey)
                health.start_soon(self._tick)
                if self.conf.control:
                    await health.start(serve_control, self.conf.runtime_dir, self._answer, self._stream)
                async with trio.open_nursery() as working:
                    await working.start(self.engine.run)
                    names = ", ".join(self.engine.roster.entries) or "none"
                    listening = ", ".join(self.network.listening)
                    self.say("info", f"audisp-collector {__version__} listens at {listening}; plugins: {names}")
                    if readiness.background:
                        self._voice.turn("syslog")
                    readiness.ready()
            health.cancel_scope.cancel()
        self.say("info", f"ended; {self.network.committer.records:,} records were stored")

    async def _hear(self, signals: Any) -> None:
        async for number in signals:
            self._command(SIGNALS[number])

    def _command(self, command: str) -> None:
        if command == "stop":
            self.engine.ask("stop")
            return
        with contextlib.suppress(trio.WouldBlock):  # the same has been asked for, and is still to be done
            self._commands[0].send_nowait(command)

    async def _obey(self) -> None:
        async for command in self._commands[1]:
            if command == "reload":
                await self.reload()
                self.engine.ask("reload")
            elif command == "rotate":
                self.engine.ask("rotate")
            elif command == "state":
                self.engine.ask("state")
            elif command == "resume":
                self._actions.resume()
                self.network.resume()
                self.engine.ask("resume")
                self.say("notice", "storing goes on")

    async def _tick(self) -> None:
        while True:
            self._voice.tick()
            await trio.sleep(1.0)

    async def reload(self) -> None:
        """Read configuration and keys again. What is wrong is said, and then what was before stays."""
        path = self.options.conf_dir / NAME
        try:
            conf, notices = await trio.to_thread.run_sync(partial(load, path, allow_links=self.options.allow_links))
        except ConfigErrors as errors:
            for each in errors.errors:
                self.say("error", f"{each}; the configuration stays as it was")
        else:
            for notice in notices:
                self.say("notice", notice)
            self._take(conf)
        await self.network.reread_keys()

    def _take(self, conf: CollectorConf) -> None:
        old = self.conf
        changed = [name for name in FIXED if getattr(conf, name) != getattr(old, name)]
        if changed:
            self.say("warning", f"{', '.join(changed)}: changed, which takes a restart")
            conf = attrs.evolve(conf, **{name: getattr(old, name) for name in changed})
        self.network.take(conf)
        self._actions.mail_to = conf.action_mail_acct

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The control socket's."""
        match request.get("op"):
            case "status":
                return {"ok": True, **self.status()}
            case "hosts":
                return {"ok": True, "hosts": self.network.hosts()}
            case "reload" | "rotate" | "resume" | "state" | "stop" as command:
                self._command(command)
                return {"ok": True}
        known = "status, hosts, reload, rotate, resume, state, stop, tail"
        return {"error": f"unknown op {request.get('op')!r:.40}; there are {known}"}

    async def _stream(self, client: trio.socket.SocketType, request: dict[str, Any]) -> None:
        """Its requests that take their connection over."""
        if request["op"] == "explain":
            raise ConfigError("a collector does not look back on single events: ask audisp-collector cat")
        await self.engine.stream(client, request)

    def status(self) -> dict[str, Any]:
        """Of the whole, in figures: the engine's, and the store's."""
        return {**self.engine.snapshot(), **self.network.status(), "started": self._started}
