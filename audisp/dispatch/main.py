"""From options to a running dispatcher and an exit code. What must come before threads comes here, in order:
configuration, background, pid file and folders, sources that own something, priority, capabilities; then trio.run."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import attrs
import trio

from audisp.config.grammar import ConfigErrors
from audisp.config.plugins import PluginConf, settings_of
from audisp.dispatch import daemonize, ledger, privileges
from audisp.dispatch.actions import Actions
from audisp.dispatch.engine import Command, Engine
from audisp.dispatch.folder import make_folder
from audisp.dispatch.needs import plugin_needs
from audisp.dispatch.observe import end_with_reader, find_sources, report
from audisp.dispatch.plan import LOG, PACKAGE, Options, Plan, conf_folder, load
from audisp.dispatch.roster import IMPLIED, Entry
from audisp.dispatch.router import Router
from audisp.dispatch.say import Level, Voice
from audisp.dispatch.summary import ledger_table
from audisp.enrich.names import UserNames
from audisp.errors import AudispError, ConfigError, NotPermitted, SourceError, StoreError
from audisp.parse.serials import Range
from audisp.plugin import PluginType
from audisp.shapes.registry import WITH_CONTEXT
from audisp.sources.contract import Source, SourceSpec
from audisp.sources.file import FileSource
from audisp.sources.follow import FollowSource
from audisp.sources.mark import SerialMark
from audisp.sources.memory import keep_freed_memory
from audisp.sources.netlink import NetlinkSource
from audisp.sources.position import PositionFile, position_name
from audisp.sources.stdin import StdinSource
from audisp.sources.unix import UnixSource

if TYPE_CHECKING:
    from audisp.collector.network import Opened

BLOCKS_ALONE: Final = frozenset({"log", "syslog", "af_unix", "stdout", "output", "remote"})
"""Bundled plugins: none of them wants events."""
AUDITD_PID_FILE: Final = Path("/run/auditd.pid")
"""auditd's pid file; ours too when we stand in its place in the background."""
LIMIT_BURST: Final = 5
LIMIT_SECONDS: Final = 10.0
"""Of one kind of message at most five in ten seconds, then their number: enough to see it, not enough to flood."""
SWITCH_SECONDS: Final = 0.0005
"""The interpreter's thread switch interval. A reader that waits 5 ms (the default) for the loop to let go adds that to
its latency; with 0.5 ms it was 4.0 instead of 5.6 ms at p99 (dispatch-prototype.md section 4)."""
SIGNALS: Final[dict[int, Command]] = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGHUP: "reload",
    signal.SIGUSR1: "rotate",
    signal.SIGUSR2: "resume",
    signal.SIGCONT: "state",
}


@attrs.frozen
class Speech:
    """`Say` on a Voice: one name per limit instead of three figures."""

    voice: Voice

    def __call__(self, level: str, message: str, *, limit: str | None = None) -> None:
        """See runner.Say."""
        self.voice.say(
            cast("Level", level), message, limit=None if limit is None else (limit, LIMIT_BURST, LIMIT_SECONDS)
        )


def run(options: Options) -> int:
    """Run a dispatcher to its end. Returns auditd's exit codes: 0, 1 (start), 4 (privilege), 6 (configuration)."""
    keep_freed_memory()
    voice = Voice("stderr")
    say = Speech(voice)
    readiness = daemonize.in_foreground()
    try:
        plan = load(options)
        for error in plan.errors:
            whole = error.path == (options.plugin_dir or plan.auditd.plugin_dir)
            say("error", str(error) if whole else f"{error}; this plugin is left out")
        for notice in plan.notices:
            say("notice", notice)
        if not plan.plugins and not plan.writes_log and not plan.options.foreground:
            say("warning", "no plugin is active and no log is written: records are counted, and go nowhere")
        daemonize.settle()
        if not (options.foreground or options.no_fork or options.observe):
            readiness = daemonize.into_background()
        with contextlib.ExitStack() as held:
            held.enter_context(_signals_wait())
            plan = held.enter_context(_folders(plan))
            held.enter_context(daemonize.PidFile(plan.own.runtime_dir / "audispd.pid"))
            previous = _previous(plan, say)
            # Before the priority: who may not have the stream is told so, and not that he cannot have the priority.
            sources = _open_sources(plan, previous, say, held)
            held.callback(_close, sources)
            opened = _open_network(plan, say, held)
            if readiness.background and plan.owner:
                # Not before the stream is ours: until then the file may be a living auditd's.
                held.enter_context(daemonize.PidFile(AUDITD_PID_FILE, lock=False))
            if not options.observe:
                daemonize.boost_priority(plan.auditd.priority_boost)
                problem = daemonize.avoid_oom_killer()
                if problem:
                    say("notice", problem)
            for line in privileges.keep(_needed(plan)):
                say("info", line)
            engine = trio.run(_main, plan, sources, opened, voice, say, readiness, previous)
            if options.observe or options.foreground:
                # -f prints records on stdout, for programs; the ledger is for the person who stopped it.
                _print(ledger_table(engine.snapshot()), sys.stderr if options.foreground else sys.stdout)
        return 0 if engine.problem is None else daemonize.EXIT_START
    except ConfigErrors as errors:
        for each in errors.errors:
            say("error", str(each))
        return _failed(readiness, daemonize.EXIT_CONFIG, voice)
    except ConfigError as error:
        say("error", str(error))
        return _failed(readiness, daemonize.EXIT_CONFIG, voice)
    except daemonize.StartError as error:
        say("error", str(error))
        return _failed(readiness, error.code, voice)
    except SourceError as error:
        say("error", str(error))
        code = daemonize.EXIT_PRIVILEGE if isinstance(error, NotPermitted) else daemonize.EXIT_START
        return _failed(readiness, code, voice)
    except AudispError as error:
        say("error", str(error))
        return _failed(readiness, daemonize.EXIT_START, voice)
    except BaseExceptionGroup as group:
        code = daemonize.EXIT_START
        for found in _leaves(group):
            if not isinstance(found, AudispError):
                # In the background nobody sees the traceback that follows; this line goes to syslog.
                say("critical", f"a defect of audispd's own: {type(found).__name__}: {found}")
                readiness.failed(code)
                raise
            say("error", str(found))
            if isinstance(found, NotPermitted):
                code = daemonize.EXIT_PRIVILEGE
        return _failed(readiness, code, voice)
    finally:
        voice.close()


def _print(text: str, to: TextIO) -> None:
    """Print, whether or not anybody reads. What cannot be written must not fail again when the interpreter ends."""
    try:
        print(text, file=to, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, to.fileno())
        os.close(nowhere)


def _failed(readiness: daemonize.Readiness, code: int, voice: Voice) -> int:
    voice.close()
    readiness.failed(code)
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


# ---- before trio ----


@contextlib.contextmanager
def _folders(plan: Plan) -> Iterator[Plan]:
    """The instance's folders, private from the start. One that observes, or is not root, gets a folder of its own."""
    own = plan.own
    if plan.options.runtime_dir is None and (plan.options.observe or os.geteuid() != 0):
        try:
            folder = Path(tempfile.mkdtemp(prefix="audisp-"))
        except OSError as error:
            raise StoreError(f"{tempfile.gettempdir()}: cannot make a private folder: {error.strerror}") from error
        try:
            state = folder / "state"
            state.mkdir(0o700)
            yield attrs.evolve(
                plan, own=attrs.evolve(own, runtime_dir=folder, state_dir=state, spill_dir=folder / "spill")
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    for path in (own.runtime_dir, own.state_dir):
        make_folder(path)
    yield plan


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Until trio hears them, signals wait; once it does no more, they are ignored. Without this one that comes early or
    twice would kill us with the stream still ours, and its pid left in the kernel. To be entered before any thread."""
    # No SIG_IGN, which throws away what waits whenever it is set anew.
    before = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        for number, action in before.items():
            signal.signal(number, action)


def _previous(plan: Plan, say: Speech) -> ledger.Previous:
    try:
        return ledger.read(plan.own.state_dir)
    except StoreError as error:
        say("warning", str(error))
        return ledger.NOTHING


def _open_sources(plan: Plan, previous: ledger.Previous, say: Speech, held: contextlib.ExitStack) -> list[Source]:
    """Make all sources, and open those that own something. Raises SourceError."""
    if plan.options.observe and not plan.options.sources:
        return find_sources(say, plan.own.rcvbuf, str(plan.own.runtime_dir))
    sources: list[Source] = []
    try:
        for spec in plan.sources:
            sources.append(make_source(spec, plan, previous, say, held))
    except BaseException:
        _close(sources)
        raise
    return sources


def _open_network(plan: Plan, say: Speech, held: contextlib.ExitStack) -> Opened | None:
    """What there is to be had of the network before privileges go; None if nobody is listened to. Raises ConfigError,
    StoreError."""
    conf = plan.network
    if conf is None:
        return None
    # Only who listens pays for loading what it takes.
    from audisp.collector.network import Opened

    return Opened.take(conf, say, held)


def _close(sources: list[Source]) -> None:
    """Whatever went wrong, the stream is given back; after an orderly end there is nothing left to do."""
    for source in sources:
        if isinstance(source, NetlinkSource):
            source.close()


def make_source(
    spec: SourceSpec, plan: Plan, previous: ledger.Previous, say: Speech, held: contextlib.ExitStack
) -> Source:
    """One source as configured; netlink ones opened. Raises SourceError."""
    folder = str(plan.own.runtime_dir)
    match spec.type:
        case "netlink" | "multicast":
            enable = {"enable": 1, "disable": 0, "nochange": None}[plan.options.enable]
            last, mark = previous.last_serial(spec.type), _keep_nowhere
            open_serials: list[Range] = []
            try:
                kept = held.enter_context(SerialMark(plan.own.state_dir / f"serial-{spec.type}", ledger.boot_id()))
                last, mark, open_serials = kept.last or last, kept.set, kept.open
            except StoreError as error:
                say("warning", f"{error}; after a crash a gap in the stream is known to a second only")
            source = NetlinkSource(
                say=say,
                multicast=spec.type == "multicast",
                set_enabled=enable,
                node=plan.node,
                rcvbuf=plan.own.rcvbuf,
                last_serial=last,
                open_serials=open_serials,
                mark=mark,
            )
            source.open()
            return source
        case "unix":
            assert spec.path is not None
            return UnixSource(spec.path, say=say, runtime_dir=folder)
        case "stdin":
            return StdinSource(say=say, runtime_dir=folder)
        case "file":
            assert spec.path is not None
            return FileSource(spec.path, say=say, runtime_dir=folder)
        case "follow":
            return _make_follow(spec, plan, say, held)
    raise SourceError(f"source {spec} cannot be configured")


def _make_follow(spec: SourceSpec, plan: Plan, say: Speech, held: contextlib.ExitStack) -> Source:
    """A followed log, with its position. Raises ConfigError for the one that we write ourselves."""
    assert spec.path is not None
    log = plan.auditd.log_file
    if plan.writes_log and os.path.realpath(spec.path) == os.path.realpath(log):
        raise ConfigError(
            f"{spec} is the log that audispd itself writes: it would read what it writes for ever; leave it out, for "
            "the source netlink brings the same records",
            key="source",
        )
    mark: PositionFile | None = None
    try:
        mark = held.enter_context(PositionFile(plan.own.state_dir / position_name(str(spec)), str(spec)))
        if mark.spoiled:
            say("warning", f"source {spec}: what an earlier run kept of its position cannot be used")
    except StoreError as error:
        say("warning", f"{error}; so the position in {spec.path} is not kept, and each start begins at its beginning")
    return FollowSource(spec.path, say=partial(say, limit=str(spec)), runtime_dir=str(plan.own.runtime_dir), mark=mark)


def _keep_nowhere(serial: int, open_: Sequence[Range]) -> None:
    """Where a serial goes that cannot be kept."""


def _needed(plan: Plan) -> dict[str, list[str]]:
    """Capabilities that the configured parts need from now on, with the parts."""
    needed: dict[str, list[str]] = {}

    def need(capability: str, part: str) -> None:
        needed.setdefault(capability, []).append(part)

    if plan.owner:
        need("cap_audit_control", "source netlink: give the stream back, ask the kernel for its counts")
        need("cap_audit_write", "source netlink: nudge the kernel after an overflow")
    elif any(spec.type == "multicast" for spec in plan.sources):
        need("cap_audit_control", "source multicast: ask the kernel for its counts")
    if (plan.own.enrich or plan.own.enrich_env) and any(_looks_at_processes(conf) for conf in plan.plugins):
        need("cap_sys_ptrace", "enrichment: programs and environments of other users' processes")
        if plan.own.enrich_env:
            need("cap_dac_read_search", "enrichment: environments of other users' processes")
    plugin_needs(plan.plugins, need)
    if plan.writes_log and plan.auditd.log_group:
        need("cap_chown", "log: log_group")
        need("cap_fowner", "log: mode of a log that another wrote")
    # Else `sudo make run` in somebody's home folder would find neither its plugins nor the capture.
    # Python's own modules lie elsewhere than a virtual environment, and some are loaded late.
    for path in (PACKAGE, conf_folder(), Path(sys.prefix), Path(os.__file__).parent):
        if privileges.out_of_reach(path):
            need("cap_dac_read_search", f"our own code: {path} is closed to uid {os.geteuid()}")
            break
    for spec in plan.sources:
        if spec.type not in ("file", "follow") or spec.path is None:
            continue
        # A followed log can come later, and comes again after every rotation.
        places = [Path(spec.path), *([Path(spec.path).parent] if spec.type == "follow" else [])]
        if any(privileges.out_of_reach(path) for path in places):
            need("cap_dac_read_search", f"source {spec}: closed to uid {os.geteuid()}")
    for name in plan.own.capabilities:
        need(name, "audispd.conf: capabilities")
    return needed


def _looks_at_processes(conf: PluginConf) -> bool:
    """Whether a plugin may want to know of events' processes. Of a stranger's that is known only when it is loaded."""
    return conf.shape in WITH_CONTEXT or (conf.plugin is not None and conf.plugin not in BLOCKS_ALONE)


# ---- in trio ----


async def _main(
    plan: Plan,
    sources: list[Source],
    opened: Opened | None,
    voice: Voice,
    say: Speech,
    readiness: daemonize.Readiness,
    previous: ledger.Previous,
) -> Engine:
    sys.setswitchinterval(SWITCH_SECONDS)
    actions = Actions(voice, mail_to=plan.auditd.action_mail_acct)
    router = Router()
    network = supply = None
    if opened is not None:
        from audisp.collector.network import Network

        network = Network(opened, actions, say)
        supply = network.supply(
            plan.own.state_dir, router, alone=not plan.sources, hosts=lambda entry: hosts_for(engine.plan, entry)
        )
        sources.append(network)
    engine = Engine(
        plan,
        sources,
        say,
        actions,
        lambda type_, conf: log_settings(engine.plan, type_, conf),
        previous=previous,
        names=UserNames(),
        router=router,
        supply=supply,
        changed=None if network is None else network.follow,
    )
    if network is not None:
        network.presence.emit = engine.emit
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(*SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            nursery.start_soon(_hear, signals, engine)
            nursery.start_soon(_speak, voice)
            if plan.options.observe:
                nursery.start_soon(report, engine)
                nursery.start_soon(end_with_reader, engine)
            running = trio.Event()

            async def started() -> None:
                await running.wait()
                gc.collect()
                gc.freeze()
                if readiness.background or (plan.options.no_fork and os.access("/dev/log", os.F_OK)):
                    voice.turn("syslog")
                if not plan.options.observe:
                    names = ", ".join(engine.roster.entries) or "none"
                    listed = ", ".join(source.name for source in sources)
                    say("info", f"running; sources: {listed}; plugins: {names}")
                readiness.ready()

            nursery.start_soon(started)
            await _run_engine(engine, running)
            nursery.cancel_scope.cancel()
    return engine


async def _run_engine(engine: Engine, running: trio.Event) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        running.set()


async def _hear(signals: Any, engine: Engine) -> None:
    async for number in signals:
        engine.ask(SIGNALS[number], signalled=True)


async def _speak(voice: Voice) -> None:
    while True:
        await trio.sleep(1)
        voice.tick()


def hosts_for(plan: Plan, entry: Entry) -> tuple[str, ...] | None:
    """Which other hosts' records a plugin gets, as patterns; (): all, None: none. As with auditd they go to the log,
    and with distribute_network to all plugins; `hosts` asks for some, whatever that says."""
    conf = entry.conf
    if conf.patterns:
        return conf.patterns
    everything = plan.auditd.distribute_network or entry.attached or LOG in (conf.name, conf.plugin)
    return () if everything or conf.path == IMPLIED else None


def log_settings(plan: Plan, type_: PluginType, conf: PluginConf | None) -> Any:
    """Settings of the log that auditd.conf asks for; a file of its own may add to them."""
    fields = {field.name for field in attrs.fields(type_.config)}
    given = {name: getattr(plan.auditd, name) for name in fields if hasattr(plan.auditd, name)}
    given["auditd_log"] = plan.auditd.log_file
    built = type_.config(**{name: value for name, value in given.items() if name in fields})
    if conf is None:
        return built
    # What the plugin's own file says goes before auditd.conf.
    said: Any = settings_of(conf, type_.config)
    named = {setting.key for setting in conf.settings}
    return attrs.evolve(built, **{name: getattr(said, name) for name in named if name in fields})
