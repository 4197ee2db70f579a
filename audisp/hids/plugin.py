"""The bundled plugin `hids`: rules and scores on the events of a host, or of a collector's hosts; alerts; reactions.

It wants a process of its own (`isolation = process`, `user =`): it reads what attackers write. What it may have done
about it, the reactor decides (`reactions =`, docs/reactions.md). It is bundled, but lives here, with the rest of it.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import attrs
import trio

from audisp.config import ids
from audisp.config.grammar import ConfigErrors
from audisp.config.schema import key
from audisp.config.values import size
from audisp.detect.form import RuleSet
from audisp.detect.weights import LEARNING
from audisp.errors import AudispError, ConfigError, ParseError, PluginError
from audisp.hids.alertfile import AlertFile
from audisp.hids.folder import MAX_ENTRIES
from audisp.hids.load import load, require_extra
from audisp.hids.scoring import service_accounts, settings_of
from audisp.plugin import Delivery, Host, PluginType, hookimpl

if TYPE_CHECKING:
    from audisp.detect.detector import Detector
    from audisp.detect.scores import Scores
    from audisp.hids.watch import Watcher

SCORES: Final = "scores"
"""File of the scores in the plugin's folder."""
SCORES_BYTES: Final = 64 << 20
"""Largest such file that is read."""
AS_ROOT: Final = "reads as root what attackers write; isolation = process and user = somebody else are for that"
TICK: Final = 1.0
SAVE_SECONDS: Final = 60.0
"""Between two times that the scores are kept: what a crash costs."""


def _rules(words: tuple[str, ...]) -> tuple[Path, ...]:
    found = tuple(Path(word) for word in words)
    for path in found:
        if not path.is_absolute():
            raise ValueError(f"{path} must be absolute")
    return found


@attrs.frozen(kw_only=True)
class HidsSettings:
    """Keys of `hids`."""

    rules: tuple[Path, ...] = key(read=_rules)
    """Folders with Sigma rules, or single files."""
    ids_conf: Path | None = None
    """Upstream's ids.conf, whose thresholds, weights and reactions are for the scores of addresses and sessions."""
    alert_level: Literal["informational", "low", "medium", "high", "critical"] = "low"
    """Rules below it make no alerts; what they find still counts for the scores."""
    repeat_time: int = key(300, min=0, max=86_400)
    """Seconds for which the same is counted instead of told again."""
    alerts_bytes: int = key(64 << 20, read=functools.partial(size, low=1 << 20))
    """Size at which a new alerts.json is begun."""
    learning_time: int = key(LEARNING, min=0, max=366 * 86_400)
    """Seconds for which a host is only learned before something new on it counts."""

    def __attrs_post_init__(self) -> None:
        if self.ids_conf is not None:
            if not self.ids_conf.is_absolute():
                raise ConfigError(f"{self.ids_conf} must be absolute", key="ids_conf")
            try:
                settings_of(ids.read(self.ids_conf))
            except FileNotFoundError as error:
                raise ConfigError(f"{self.ids_conf} is missing", key="ids_conf") from error
            except ConfigErrors as errors:
                raise ConfigError("; ".join(map(str, errors.errors)), key="ids_conf") from errors
            except ValueError as error:
                raise ConfigError(f"{self.ids_conf}: {error}", key="ids_conf") from error
        for path in self.rules:
            if not path.exists():
                raise ConfigError(f"{path} is missing", key="rules")

    def files(self) -> list[Path]:
        """What it is made of: every file of the rules, and ids.conf."""
        found = [] if self.ids_conf is None else [self.ids_conf]
        for path in self.rules:
            found.append(path)
            if path.is_dir():
                files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
                found += islice(files, MAX_ENTRIES)
        return found


@asynccontextmanager
async def open_hids(settings: HidsSettings, host: Host) -> AsyncIterator[Delivery]:
    """Load the rules and what was kept; PluginError if there is nothing to look for."""
    try:
        require_extra()
        # They need the optional packages: before it is known that these are there, nothing may.
        from audisp.detect.detector import Detector
        from audisp.detect.scores import Scores
        from audisp.hids.asker import Asker
        from audisp.hids.ours import above, parent_of
        from audisp.hids.watch import Watcher

        rules = await trio.to_thread.run_sync(load, list(settings.rules))
    except AudispError as error:
        raise PluginError(str(error)) from error
    conf = None if settings.ids_conf is None else ids.read(settings.ids_conf)
    collector = not host.local
    if os.geteuid() == 0:
        host.say("warning", AS_ROOT)
    services = None if collector else await trio.to_thread.run_sync(service_accounts)
    scores = Scores(settings_of(conf, services, learning=settings.learning_time))
    detector = Detector(rules, told=parent_of, watched=scores.watched)
    _tell(rules, detector, host)
    _restore(scores, host)
    file = AlertFile(host.state_dir, settings.alerts_bytes)
    watcher = Watcher(
        rules,
        detector,
        scores,
        host,
        file,
        number=await trio.to_thread.run_sync(file.last_number),
        clock=time.time,
        repeat_time=settings.repeat_time,
        alert_level=settings.alert_level,
        collector=collector,
        ids=conf,
        ours=None if collector else above(),
    )
    try:
        async with trio.open_nursery() as nursery:
            if host.reactor is not None:
                watcher.asker = Asker(host.reactor, watcher.heard)
                nursery.start_soon(watcher.asker.listen)
            nursery.start_soon(_tick, watcher, host)
            yield Delivery(watcher.deliver, state=watcher.state)
            nursery.cancel_scope.cancel()
    finally:
        watcher.finish()
        _save(watcher, host)
        if watcher.asker is not None:
            watcher.asker.close()


def _tell(rules: RuleSet, detector: Detector, host: Host) -> None:
    """Say what was loaded. Raises PluginError if that is nothing."""
    matcher = detector.matcher
    refused = len(rules.refused) + len(matcher.refused)
    if not matcher.rules:
        raise PluginError(f"there is no rule to look for ({refused} were refused; audisp hids check says why)")
    host.say("info", f"{len(matcher.rules)} rules, {len(rules.correlations)} correlations")
    if refused or matcher.never:
        host.say(
            "notice",
            f"{refused} rules are refused, {len(matcher.never)} cannot fire here; audisp hids check says why",
        )


async def _tick(watcher: Watcher, host: Host) -> None:
    due = trio.current_time() + SAVE_SECONDS
    while True:
        await trio.sleep(TICK)
        watcher.tick()
        if trio.current_time() >= due:
            await trio.to_thread.run_sync(_save, watcher, host)
            due = trio.current_time() + SAVE_SECONDS


def _save(watcher: Watcher, host: Host) -> None:
    path = f"{host.state_dir}/{SCORES}"
    data = watcher.save()
    try:
        file = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(f"{path}.new", path)
    except OSError as error:
        host.say("warning", f"the scores cannot be kept: {error.strerror}; a restart forgets them")


def _restore(scores: Scores, host: Host) -> None:
    try:
        file = os.open(f"{host.state_dir}/{SCORES}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        host.say("warning", f"the scores that were kept cannot be read: {error.strerror}; they begin anew")
        return
    with os.fdopen(file, "rb") as kept:
        data = kept.read(SCORES_BYTES + 1)
    try:
        if len(data) > SCORES_BYTES:
            raise ParseError(f"more than {SCORES_BYTES:,} bytes")
        scores.restore(data)
    except ParseError as error:
        host.say("warning", f"the scores that were kept cannot be used: {error}; they begin anew")


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `hids`."""
    return [PluginType("hids", HidsSettings, open_hids, wants="events")]
