"""All that a plugin author imports.

A plugin package declares, through the hook `audisp_plugins`, one or more `PluginType`s. The host opens one instance
per configured `plugins.d` file, gives it a queue of its own, and calls its deliver function with blocks of records, or
with batches of events. A module that only wants to look at events needs no more than the hook `audisp_events`. What a
deliver function returns from is delivered; what it raises `Retry` for is offered again; what it raises `Reject` for is
saved to a file, counted as quarantined, and not offered again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol

import attrs
import pluggy

from audisp.errors import AudispError, ConfigError, ParseError, PluginError
from audisp.event import INCOMPLETE, LATE, NO_STAMP, TIMED_OUT, Batch, Event, EventId, Path
from audisp.parse.form import binary_form, log_form, terminal_safe
from audisp.parse.record import Record
from audisp.parse.types import type_name, type_number
from audisp.record import MAX_RECORD, Block, join

__all__ = [
    "INCOMPLETE",
    "LATE",
    "MAX_RECORD",
    "NO_STAMP",
    "TIMED_OUT",
    "AudispError",
    "Batch",
    "Block",
    "ConfigError",
    "Deliver",
    "DeliverEvents",
    "Delivery",
    "Event",
    "EventId",
    "Host",
    "ParseError",
    "Path",
    "PluginError",
    "PluginType",
    "Reactor",
    "Record",
    "Reject",
    "Retry",
    "binary_form",
    "hookimpl",
    "hookspec",
    "join",
    "log_form",
    "terminal_safe",
    "type_name",
    "type_number",
]

PROJECT: Final = "audisp"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Wants = Literal["blocks", "events"]
"""blocks: the records in the order in which they arrive, at once. events: whole events, in order of completion."""


class Retry(AudispError):
    """Raised by deliver: the block or batch could not be taken now; offer it again, after back-off."""


class Reject(AudispError):
    """Raised by deliver: this block or batch can never be taken; save it to quarantine and go on."""


Deliver = Callable[[Block], Awaitable[None]] | Callable[[Block], None]
"""Takes one block (the host merges what waits up to 256 KiB). A coroutine function runs in the trio loop and must not
compute for long; a plain function runs in a thread that belongs to this plugin alone, and may block."""

DeliverEvents = Callable[[Batch], Awaitable[None]] | Callable[[Batch], None]
"""The same of a plugin with ``wants="events"``: takes one batch, over whose events can be iterated."""


@attrs.frozen
class Delivery:
    """What an opened plugin yields when it can do more than deliver.

    All functions run where `deliver` runs (the plugin's own thread, or the trio loop), one at a time.
    """

    deliver: Callable[[Any], Awaitable[None]] | Callable[[Any], None]
    """A Deliver or, of a plugin that wants events, a DeliverEvents."""
    rotate: Callable[[], None] | None = None
    """SIGUSR1, `audisp rotate`."""
    resume: Callable[[], None] | None = None
    """SIGUSR2: whatever was suspended goes on."""
    state: Callable[[], Mapping[str, str]] | None = None
    """Lines for the state file and `audisp status`; called from any thread, must not block."""


@attrs.frozen(eq=False)
class Reactor:
    """The way to the process that carries out reactions (`reactions =` in the plugin's file; docs/reactions.md).

    descriptor: of a socket of SOCK_SEQPACKET, whose packets are audisp/react/request.py's; the plugin's own, to close.
    allowed: the kinds that reactions.conf allows, each with the levels of rules that may cause it.
    """

    descriptor: int
    allowed: Mapping[str, tuple[str, ...]]


class Host(Protocol):
    """What the host offers one opened plugin. All methods may be called from any thread and never block."""

    @property
    def name(self) -> str:
        """The plugin's name: its file's name without extension."""

    @property
    def owner(self) -> bool:
        """True if this dispatcher owns the audit stream (source netlink), and so may write auditd's log_file."""

    @property
    def runtime_dir(self) -> str:
        """Folder of this instance's runtime files."""

    @property
    def local(self) -> bool:
        """Whether there are events of this host; False on a collector, where all are other hosts'."""

    @property
    def state_dir(self) -> str:
        """Folder of this plugin alone that outlives it (mode 0700, of the user that the plugin runs as). For a plugin
        in a process of its own this is a name that only this process understands (``/proc/self/fd/N``)."""

    @property
    def reactor(self) -> Reactor | None:
        """None without `reactions`."""

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter shown in status under this plugin."""

    def say(self, level: Literal["debug", "info", "notice", "warning", "error", "critical"], message: str) -> None:
        """Put a line in the dispatcher's own log. Escaped, rate-limited."""

    def emit(self, type_: int, fields: str) -> None:
        """Put an audit record of the plugin's own into the stream; never given back to this plugin."""

    def act(self, action: str, message: str, path: str | None = None) -> None:
        """Carry out one of auditd's actions: syslog, email, exec (path), single, halt. Returns at once."""


Open = Callable[[Any, Host], AbstractAsyncContextManager["Deliver | DeliverEvents | Delivery"]]


@attrs.frozen
class PluginType:
    """A kind of plugin that can be configured by `plugin = NAME`.

    config: an attrs class; its fields are the keys allowed in the file beside the host's own. Field types: str, int,
    bool (yes/no), pathlib.Path, tuple[str, ...] (words), Literal of words; a field without default is mandatory.
    open: async context manager taking (config, host) and yielding a Deliver or a Delivery.
    """

    name: str
    config: type
    open: Open
    wants: Wants = "blocks"


class Hooks:
    """The hooks a plugin package may implement."""

    @hookspec
    def audisp_plugins(self) -> list[PluginType]:  # type: ignore[empty-body]
        """The plugin types this package declares."""

    @hookspec
    def audisp_events(self, events: Batch) -> None:
        """Called with one batch of whole events after the other, in a thread of this plugin's own. To return is to have
        taken them."""


DeliverIterator = AsyncIterator[Deliver | DeliverEvents | Delivery]
