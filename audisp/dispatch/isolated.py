"""The runner of a plugin that has a process of its own (`isolation = process`).

To the dispatcher it is an in-process plugin whose `deliver` is a coroutine: it sends the block to the process
(dispatch/far.py, dispatch/inside.py) and returns when the process says that the plugin's own deliver has. So queue,
books, retry, reject, quarantine, held blocks, restarts, drain and reload are those of every in-process plugin, being
the same code. Decision 0018.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, Final

import attrs
import trio

from audisp.config.grammar import ConfigErrors
from audisp.config.plugins import PluginConf
from audisp.dispatch.far import Far, start
from audisp.dispatch.host import PluginHost
from audisp.dispatch.inprocess import InProcessRunner
from audisp.dispatch.made import ITS_FILES, Made
from audisp.dispatch.runner import Elsewhere, Say
from audisp.errors import ConfigError, PluginError
from audisp.plugin import Delivery, Host, PluginType
from audisp.wire import isolate as wire

DESCRIBE_SECONDS: Final = 10.0
"""How long a plugin may take to be imported and to read its settings: a start, or a reload, waits for that. It takes
half a second; on a host that boots perhaps ten times that."""


async def describe(conf: PluginConf, say: Say) -> wire.Described:
    """What the plugin is, found out in a process like the one it will have. Raises ConfigErrors, PluginError."""
    far = start(conf, say, None)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.live)
            with trio.move_on_after(DESCRIBE_SECONDS):
                try:
                    await far.start(check=True)
                except ConfigErrors:
                    raise
                except PluginError as error:
                    raise PluginError(f"plugin {conf.plugin}: {error}") from error
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as problems:
        # There is one task that raises, and one exception.
        for problem in problems.exceptions:
            if isinstance(problem, PluginError | ConfigErrors):
                raise problem from None
        raise
    finally:
        await far.end()
    if far.described is None:
        raise PluginError(f"plugin {conf.plugin}: could not be loaded within {DESCRIBE_SECONDS:g} s")
    return far.described


@attrs.define(eq=False)
class IsolatedType:
    """The plugin as the runner sees it; knows the process that serves it now."""

    conf: PluginConf
    say: Say
    described: wire.Described
    inherit: bool
    far: Far | None = None

    def type(self) -> PluginType:
        """As if it were declared here."""
        return PluginType(self.conf.name, NoSettings, self.open, wants=self.described.wants)

    @asynccontextmanager
    async def open(self, _settings: Any, host: Host) -> AsyncIterator[Delivery]:
        """See PluginType."""
        assert isinstance(host, PluginHost)
        far = self.far = start(self.conf, self.say, host, inherit=self.inherit)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(far.live)
                await far.start(check=False)
                if far.described is not None and far.described.wants != self.described.wants:
                    raise Elsewhere("wants something else than when it was asked; reload")
                await far.opened.wait()
                if far.problem is not None:
                    raise Elsewhere(far.problem)
                yield Delivery(
                    far.deliver,
                    rotate=lambda: far.ask("rotate"),
                    resume=lambda: far.ask("resume"),
                    state=lambda: far.lines,
                )
                await far.close()
                nursery.cancel_scope.cancel()
        finally:
            await far.end()


@attrs.frozen
class NoSettings:
    """Its settings are its process's."""


async def make(conf: PluginConf, say: Say, *, inherit: bool = False) -> Made:
    """As `load_type` and `settings_of` do it for a plugin in this process. Raises ConfigErrors, PluginError."""
    described = await describe(conf, say)
    for notice in described.notices:
        say("notice", notice)
    made = IsolatedType(conf, say, described, inherit)
    return Made(made.type(), made, {ITS_FILES: described.stamp} if described.stamp else {})


async def changed(conf: PluginConf, files: Mapping[Any, object], say: Say) -> bool:
    """Whether files that the settings are made of have changed. Asks the plugin's own code, in a process like its own;
    one that cannot say is started anew, which says why it cannot."""
    if ITS_FILES not in files:
        return False
    with suppress(ConfigError, PluginError):
        return (await describe(conf, say)).stamp != files[ITS_FILES]
    return True


@attrs.define(eq=False)
class IsolatedRunner(InProcessRunner):
    """See the module's text."""

    FATE = "is killed"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        # Its own process is ended at that time, and the delivery fails; nobody else has to wait.
        self.deliver_timeout = inf

    def pids(self) -> list[int]:
        """Its process."""
        far = self.settings.far
        return [] if far is None else far.pids
