"""`output`: what it is given, in whatever shape, to a file, a unix socket or a program. Not a byte is changed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from audisp.plugin import Delivery, Host, PluginError, PluginType, hookimpl
from audisp_plugins.lockfile import LockFile
from audisp_plugins.output_command import ProgramReader
from audisp_plugins.output_config import OutputConfig
from audisp_plugins.output_feed import Feeder
from audisp_plugins.output_file import OutputFile
from audisp_plugins.output_socket import connect
from audisp_plugins.output_writer import FileTarget
from audisp_plugins.presence import Presence

__all__ = ["OutputConfig", "audisp_plugins", "open_output"]

CLOSE_TIME: Final = 4.5
"""Seconds that closing may take; the host grants five, and what takes longer is left to itself."""


@asynccontextmanager
async def open_output(config: OutputConfig, host: Host) -> AsyncIterator[Delivery]:
    """Open `output`. Raises PluginError for a file that is not ours to write, locked, or not to be trusted; a socket or
    program that is not there is no error: lines wait for it."""
    if config.file is not None:
        async with _open_file(config.file, config, host) as delivery:
            yield delivery
        return
    feeder = _feeder(config, host)
    try:
        yield Delivery(feeder.deliver, resume=feeder.resume, state=feeder.state)
    finally:
        await _close(feeder.close)


async def _close(close: Callable[[], None]) -> None:
    with trio.move_on_after(CLOSE_TIME, shield=True):
        await trio.to_thread.run_sync(close, abandon_on_cancel=True)


@asynccontextmanager
async def _open_file(path: Path, config: OutputConfig, host: Host) -> AsyncIterator[Delivery]:
    file = OutputFile(path, config.group, config.final_mode, lambda text: host.say("notice", text))
    file.open_folder()
    # A descriptor of its own: the file's is replaced when it is opened anew.
    lock_fd = os.dup(file.folder_fd)
    lock = LockFile(lock_fd, f".{file.name}.lock", str(path))
    target: FileTarget | None = None
    try:
        lock.take()
        target = FileTarget(config, host, file)
        yield Delivery(target.deliver, target.rotate, target.resume, target.state)
    except OSError as error:
        if target is not None:
            raise
        raise PluginError(f"{path}: {error.strerror}") from error
    finally:
        if target is not None:
            await _close(target.close)
        lock.release()
        os.close(lock_fd)
        file.close_folder()


def _feeder(config: OutputConfig, host: Host) -> Feeder:
    if config.socket is not None:
        path = config.socket
        return Feeder(lambda long: connect(path, host, long), Presence(f"socket {path}", host), host)
    command = config.command
    return Feeder(lambda _: ProgramReader(command, host), Presence(f"program {command[0]}", host), host)


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `output`."""
    return [PluginType("output", OutputConfig, open_output)]
