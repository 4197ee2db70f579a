"""What a source is: the contract between the readers of audit streams and the engine.

A source opens, says so, makes blocks of what it reads and gives each to its `Route`; it keeps `SourceBooks`, in which
``received == routed + rejected`` holds at all times. A record enters the books when its fate is known: routed once
`send` returned, rejected once it is kept aside. What was read and is neither when a source stops stands in
``detail["unread"]``, so that it is stated rather than lost from view.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import attrs
import trio

from audisp.errors import AudispError, ConfigError
from audisp.record import Block
from audisp.sources.bad import Rejects

Kind = Literal["live", "replay"]
"""live: waits only for a plugin marked required. replay: waits whenever a queue it feeds is full, and drops nothing."""

PLAIN: Final = ("netlink", "multicast", "stdin", "internal")
"""Sources that take no path."""
WITH_PATH: Final = ("unix", "file", "follow")
"""Sources written NAME:PATH."""

NETWORK: Final = "network"
"""Name of the source of what other hosts send (auditd.conf: tcp_listen_port), which no file configures as a source."""


def is_local_name(name: str) -> bool:
    """Whether this is how a source of this host is called. No other host may be called so: whose an event is, is told
    apart by the name, and what is done about it hangs on that (audisp/hids/asker.py)."""
    return name in (*PLAIN, NETWORK) or name.partition(":")[0] in WITH_PATH


SOCKET_PATH_MAX: Final = 107
"""Longest path of a unix socket in bytes: sun_path holds 108 with its NUL (unix(7))."""


class Stopped(AudispError):
    """Raised by `Route.send_blocking`: the engine goes down, and a plugin that must be waited for has no room."""


class Route(Protocol):
    """Where a source sends its blocks; given to it by the engine."""

    async def send(self, block: Block) -> None:
        """Return when every queue that must wait has taken the block. A checkpoint only if it had to wait.

        Cancelled while it waits, the block counts as not routed; a queue that had already taken it keeps it.
        """

    def send_blocking(self, block: Block) -> None:
        """The same for a source that reads in a thread of its own."""

    def when_done(self, call: Callable[[], None]) -> None:
        """Call once every plugin is done with all that was sent so far: has taken it, or lost it by its own books.

        In the order in which it was asked for, from the loop; a call that a later one has caught up with may be left
        out. Never after a crash: what was sent and not done with is what a source reads again.
        """


@attrs.define(eq=False)
class SourceBooks:
    """What one source received and what became of it, in records; written by the source alone, read by anybody."""

    name: str
    kind: Kind
    received: int = 0
    routed: int = 0
    rejected: int = 0
    bytes: int = 0
    """Bytes of the records routed, in string form."""
    resyncs: int = 0
    """Times a stream was out of step and had to be found again."""
    reconnects: int = 0
    """Times a connection was made anew after the first."""
    counters: dict[str, int] = attrs.field(factory=dict)
    """Further counts that one kind of source keeps, by name."""
    detail: dict[str, str] = attrs.field(factory=dict)
    """Facts for status that are no counts: peer, form of the stream, what was left unread."""

    def count_routed(self, records: int, size: int) -> None:
        """Enter records that every queue concerned has been offered; size in bytes."""
        self.received += records
        self.routed += records
        self.bytes += size

    def count_rejected(self, records: int = 1) -> None:
        """Enter records that were refused and kept aside."""
        self.received += records
        self.rejected += records

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter of this source's own."""
        self.counters[what] = self.counters.get(what, 0) + by

    def view(self) -> dict[str, Any]:
        """All of it as plain data. From any thread: a dict is copied whole, where walking it would meet new keys."""
        return attrs.asdict(self, recurse=False) | {"counters": dict(self.counters), "detail": dict(self.detail)}


class Source(Protocol):
    """One opened or to be opened stream of records."""

    @property
    def name(self) -> str:
        """As configured, for example ``unix:/run/audispd_events``. Unique in one dispatcher."""

    @property
    def kind(self) -> Kind:
        """Whether it may drop (live) or waits (replay)."""

    @property
    def books(self) -> SourceBooks:
        """Its counts."""

    @property
    def rejects(self) -> Rejects | None:
        """Keeper of what it refused; None for a source that keeps nothing."""

    async def run(self, route: Route, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until the source ends by itself. ``task_status.started()`` is called once it is open.

        Raises SourceError if it cannot be opened. Closes what it opened, also when cancelled.
        """


@attrs.frozen
class SourceSpec:
    """A source as configured. path is None for sources that take none."""

    type: str
    path: str | None = None

    def __str__(self) -> str:
        return self.type if self.path is None else f"{self.type}:{self.path}"


def parse_source(text: str) -> SourceSpec:
    """Read ``netlink``, ``multicast``, ``stdin``, ``internal``, ``unix:PATH``, ``file:PATH`` or ``follow:PATH``.

    Raises ConfigError, which names the nearest valid choice. The path of a socket must be absolute (a daemon has no
    working directory worth the name) and fit into a socket address, that of a followed log must be absolute because its
    position is kept under it. A file's path may be relative.
    """
    name, colon, path = text.strip().partition(":")
    if name not in PLAIN and name not in WITH_PATH:
        nearest = difflib.get_close_matches(name.lower(), (*PLAIN, *WITH_PATH), n=1)
        if nearest:
            hint = f"did you mean {_spelled(nearest[0])}?"
        elif name.startswith(("/", ".")):
            hint = f"a path needs its kind before it: follow:{name}, file:{name} or unix:{name}"
        else:
            hint = f"use one of {', '.join(_spelled(each) for each in (*PLAIN, *WITH_PATH))}"
        raise ConfigError(f"no source is called {name!r}; {hint}", key="source")
    if name in PLAIN:
        if colon:
            raise ConfigError(f"{name} takes no path, but {path!r} was given; write {name}", key="source")
        return SourceSpec(name)
    if not path:
        raise ConfigError(f"{name} needs a path; write {_spelled(name)}", key="source")
    if not path.isprintable():
        # It becomes the source's name, which stands in the state file, in spooled frames and in status.
        raise ConfigError(
            f"the path of {name} is not printable text: {path!a}; give it another name, or a link", key="source"
        )
    if name == "file" and path == "-":
        raise ConfigError("file:- is no file; write stdin", key="source")
    if name == "follow" and (not path.startswith("/") or path.endswith("/")):
        raise ConfigError(f"the log's path {path!r} must be absolute, and a file's", key="source")
    if name == "unix":
        if not path.startswith("/"):
            raise ConfigError(f"the socket's path {path!r} must be absolute", key="source")
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise ConfigError(f"the socket's path is longer than {SOCKET_PATH_MAX} bytes: {path!r}", key="source")
    return SourceSpec(name, path)


def _spelled(name: str) -> str:
    return f"{name}:PATH" if name in WITH_PATH else name
