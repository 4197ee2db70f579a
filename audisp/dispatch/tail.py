"""`audisp tail`: a plugin that lives as long as a connection to the control socket.

It is fed as any other, with a queue of its own that drops the oldest when whoever looks cannot keep up, and it stands
in the books under the name ``tail-N`` as long as it is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from audisp.config.plugins import PluginConf
from audisp.dispatch.control import send_all
from audisp.dispatch.roster import Roster
from audisp.errors import ConfigError, ParseError
from audisp.parse.filter import compile_filter
from audisp.plugin import Block, Deliver, Host, PluginType, Retry
from audisp.shapes.registry import SHAPES

MAX_TAILS: Final = 4
"""At a time. Each has a queue."""
QUEUE_BYTES: Final = 4 * 1024 * 1024
"""What may wait for one: some seconds of a busy host."""
NAME: Final = "tail-"
STALLED: Final = 300.0
"""Seconds after which one that takes nothing is let go: it holds one of the places. Less than the day below."""
DELIVER_TIMEOUT: Final = 86_400.0
"""The host's own limit, which is for plugins that hang: a terminal that was stopped (Ctrl-S) does not."""


@attrs.frozen
class _NoSettings:
    """It has no file, and so no keys."""


def request_conf(request: dict[str, Any], name: str) -> PluginConf:
    """The plugin that a request asks for. Raises ConfigError with what is wrong with it."""
    shape, expression = request.get("shape", "text"), request.get("filter")
    if shape not in SHAPES:
        raise ConfigError(f"there is no shape {str(shape)[:40]!r}; there are {', '.join(SHAPES)}")
    version = request.get("shape_version") or None
    if version is not None and version not in SHAPES[shape]:
        raise ConfigError(f"{shape} has no version {str(version)[:40]!r}")
    keep: tuple[str, ...] = ()
    if expression is not None:
        try:
            compile_filter(str(expression))
        except ParseError as error:
            raise ConfigError(f"filter: {error}") from error
        keep = (str(expression),)
    return PluginConf(
        name=name,
        path=Path("control socket"),
        active=True,
        plugin="tail",
        shape=shape,
        shape_version=version,
        filter_keep=keep,
        overflow_action="drop_oldest",
        queue_bytes=QUEUE_BYTES,
        required=False,
        max_restarts=0,
        deliver_timeout=DELIVER_TIMEOUT,
    )


async def serve_tail(client: trio.socket.SocketType, request: dict[str, Any], roster: Roster) -> None:
    """Answer the request, then send lines until the client goes away. Raises OSError of the connection."""
    taken = {name for name in roster.entries if name.startswith(NAME)}
    if len(taken) >= MAX_TAILS:
        raise ConfigError(f"{MAX_TAILS} are attached already ({', '.join(sorted(taken))})")
    name = next(f"{NAME}{number}" for number in range(1, MAX_TAILS + 1) if f"{NAME}{number}" not in taken)
    conf = request_conf(request, name)

    gone = trio.CancelScope()

    async def deliver(block: Block) -> None:
        try:
            with trio.fail_after(STALLED):
                await send_all(client, block.data)
        except (OSError, trio.TooSlowError) as error:
            gone.cancel()  # a line may have been sent in part: nothing can follow it
            raise Retry(str(error)) from error  # what it did not get was not delivered

    @asynccontextmanager
    async def open_tail(_settings: _NoSettings, _host: Host) -> AsyncIterator[Deliver]:
        yield deliver

    await send_all(client, b'{"ok": true}\n')
    async with trio.open_nursery() as nursery:
        await roster.attach(nursery, conf, PluginType("tail", _NoSettings, open_tail), _NoSettings())
        try:
            with gone:
                # It says nothing more; what comes is its end.
                while await client.recv(1024):
                    continue
        finally:
            with trio.CancelScope(shield=True):
                await roster.detach(name)
