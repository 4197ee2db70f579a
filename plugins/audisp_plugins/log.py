"""`log`: the audit log on disk, as auditd keeps it.

The file that auditd writes (`log_file` of auditd.conf) is written by the owner of the audit stream alone; any other
instance needs a `log_file` of its own. A lock file beside the log keeps a second writer away.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from audisp.plugin import Delivery, Host, PluginError, PluginType, hookimpl
from audisp_plugins.lockfile import LockFile
from audisp_plugins.log_config import LogConfig
from audisp_plugins.log_file import LogFile
from audisp_plugins.log_writer import CLOSE_TIME, LogWriter

__all__ = ["LogConfig", "audisp_plugins", "open_log"]


@asynccontextmanager
async def open_log(config: LogConfig, host: Host) -> AsyncIterator[Delivery]:
    """Open the log. Raises PluginError if it is not ours to write, locked, or not to be trusted."""
    if not host.owner and _same(config.log_file, config.auditd_log):
        raise PluginError(
            f"{config.log_file} is the log of whoever owns the audit stream, which is not this dispatcher: "
            f"give {host.name} a log_file of its own"
        )
    file = LogFile(config.log_file, config.log_group, lambda text: host.say("notice", text))
    file.open_folder()
    # A descriptor of its own: the log's is replaced when logging resumes in a folder that was mounted meanwhile.
    lock_fd = os.dup(file.folder_fd)
    lock = LockFile(lock_fd, f".{file.name}.lock", str(config.log_file))
    writer: LogWriter | None = None
    try:
        if config.lock:
            lock.take()
        writer = LogWriter(config, host, file)
        yield Delivery(writer.deliver, writer.rotate, writer.resume, writer.state)
    except OSError as error:
        if writer is not None:
            raise
        raise PluginError(f"{config.log_file}: {error.strerror}") from error
    finally:
        if writer is not None:
            # A little longer than the writer itself waits.
            with trio.move_on_after(2 * CLOSE_TIME + 1, shield=True):
                await trio.to_thread.run_sync(writer.close, abandon_on_cancel=True)
        lock.release()
        os.close(lock_fd)
        file.close_folder()


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


@hookimpl
def audisp_plugins() -> list[PluginType]:
    """The plugin type `log`."""
    return [PluginType("log", LogConfig, open_log)]
