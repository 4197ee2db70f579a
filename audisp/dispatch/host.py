"""The host side of in-process plugins: finds the types that plugins declare, and is the `Host` of each opened one.

pluggy declares, it does not dispatch (docs/decisions/0002): each configured plugin is asked once for its types, through
a plugin manager of its own, so that no plugin sees or breaks another. Only what the configuration names is imported.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType
from typing import Any, Final, cast

import attrs
import pluggy

from audisp.config.files import check_folders
from audisp.dispatch.handed import own_folder
from audisp.dispatch.runner import FOREIGN, Say
from audisp.errors import AudispError, PluginError
from audisp.plugin import PROJECT, Batch, DeliverEvents, Hooks, Host, PluginType, Reactor

GROUP: Final = "audisp.plugins"
"""Entry point group in which a package names its plugins."""
EMIT_TYPES: Final = range(1100, 3000)
"""Record types that a plugin may emit: user space's. 1200 to 1299 are the daemon's own."""
DAEMON_TYPES: Final = range(1200, 1300)
EMIT_BYTES: Final = 8_900
"""Longest text of an emitted record: with type and stamp it must fit into auditd's 8,970."""
EMIT_PER_SECOND: Final = 200
"""Records that one plugin may emit in a second. A plugin that answers every record with one would feed itself."""


def installed() -> dict[str, EntryPoint]:
    """The in-process plugins that installed packages offer, by name. Imports none of them."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load_type(name: str) -> PluginType:
    """The plugin type behind `plugin = NAME` or `plugin = /path/file.py`. Raises PluginError, or ConfigError."""
    module = _load_file(Path(name)) if name.startswith("/") else _load_installed(name)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    try:
        manager.register(module)
        declared: list[PluginType] = [each for found in manager.hook.audisp_plugins() for each in found]
        if not declared:
            functions = [each.function for each in manager.hook.audisp_events.get_hookimpls()]
            declared = [_one_function(name, cast("Callable[[Batch], None]", each)) for each in functions]
    except AudispError:
        raise
    except FOREIGN as error:
        # Foreign code: whatever it raises is that plugin's failure to load.
        raise PluginError(f"plugin {name}: {type(error).__name__}: {error}") from error
    if not declared:
        raise PluginError(f"plugin {name}: declares nothing: a hookimpl named audisp_plugins or audisp_events")
    for each in declared:
        if each.name == name:
            return each
    if len(declared) == 1:
        return declared[0]
    raise PluginError(f"plugin {name}: declares {', '.join(each.name for each in declared)}, none of that name")


@attrs.frozen
class NoSettings:
    """The settings of a plugin that is one function: it has no keys of its own."""


def _one_function(name: str, function: Callable[[Batch], None]) -> PluginType:
    """A module whose `audisp_events` is all there is, as a declared plugin."""

    @asynccontextmanager
    async def open_function(_settings: NoSettings, _host: Host) -> AsyncIterator[DeliverEvents]:
        yield function

    return PluginType(name, NoSettings, open_function, wants="events")


def _load_installed(name: str) -> object:
    points = installed()
    if name not in points:
        near = difflib.get_close_matches(name, points, 1)
        raise PluginError(
            f"no plugin called {name!r} is installed"
            + (f"; did you mean {near[0]}?" if near else f" (there are: {', '.join(sorted(points)) or 'none'})")
        )
    try:
        return points[name].load()
    except FOREIGN as error:
        # As above: an import runs foreign code.
        raise PluginError(f"plugin {name}: cannot be imported: {type(error).__name__}: {error}") from error


class _SourceOnly(SourceFileLoader):
    """Neither reads nor writes __pycache__: nobody has checked who may write there, and bytecode goes by the second in
    which its source was changed."""

    def get_code(self, fullname: str) -> CodeType:
        """See importlib.abc.InspectLoader."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _load_file(path: Path) -> object:
    check_folders(str(path))
    name = f"audisp_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceOnly(name, str(path)))
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except FOREIGN as error:
        del sys.modules[spec.name]
        # As above.
        raise PluginError(f"plugin {path}: {type(error).__name__}: {error}") from error
    return module


def check_emitted(type_: int, fields: str) -> None:
    """Raises ValueError for a type or text that is not allowed."""
    if type_ not in EMIT_TYPES or type_ in DAEMON_TYPES:
        raise ValueError(f"record type {type_} may not be emitted: 1100 to 1199 and 1300 to 2999 may")
    size = len(fields.encode("utf-8", "surrogateescape"))
    if size > EMIT_BYTES:
        raise ValueError(f"{size} bytes are more than an audit record takes ({EMIT_BYTES})")


@attrs.define(eq=False)
class PluginHost:
    """What one opened plugin may ask of the dispatcher; implements `audisp.plugin.Host`."""

    name: str
    owner: bool
    runtime_dir: str
    voice: Say
    emitted: Callable[[int, str], None]
    """Puts a record into the stream, not back to this plugin."""
    action: Callable[[str, str, str | None], None]
    clock: Callable[[], float]
    """Seconds, monotonic; called from any thread."""
    state: Path | None = None
    """The dispatcher's own state folder, below which the plugin's is."""
    collector: bool = False
    """All events are other hosts'."""
    counters: dict[str, int] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _second: float = 0.0
    _left: int = 0

    @property
    def local(self) -> bool:
        """See Host."""
        return not self.collector

    @property
    def state_dir(self) -> str:
        """See Host. Raises PluginError."""
        if self.state is None:
            raise PluginError("there is no state folder")
        return own_folder(self.state, self.name)

    @property
    def reactor(self) -> Reactor | None:
        """See Host: only a plugin that has a process of its own, and no rights, has one."""
        return None

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter of this plugin's."""
        with self._lock:
            self.counters[what] = self.counters.get(what, 0) + by

    def say(self, level: str, message: str) -> None:
        """A line in our log, under the plugin's name, rate-limited."""
        self.voice(level, f"plugin {self.name}: {message}", limit=f"plugin-{self.name}")

    def emit(self, type_: int, fields: str) -> None:
        """A record of the plugin's own. Raises ValueError for a type or text that is not allowed."""
        check_emitted(type_, fields)
        now = self.clock()
        with self._lock:
            if now - self._second >= 1:
                self._second, self._left = now, EMIT_PER_SECOND
            allowed = self._left > 0
            self._left -= allowed
        if not allowed:
            self.count("emit_dropped")
            return
        self.count("emitted")
        self.emitted(type_, f"emitter={self.name} {fields}")

    def act(self, action: str, message: str, path: str | None = None) -> None:
        """Carry out one of auditd's actions. Returns at once."""
        self.count(f"action_{action}")
        self.action(action, message, path)


def settings_for(name: str) -> type[Any]:
    """The schema of an in-process plugin, for `audisp check`."""
    return load_type(name).config
