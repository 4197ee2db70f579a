"""What an isolated plugin is handed when it is opened: a folder of its own, and the way to the reactor.

Both are descriptors, which go with its first message: the folders above its own are root's alone, and the socketpair
has no name that anybody else could use.

The reactor belongs to the plugin's process and not to us: it must undo in time what it has done, whoever dies, and
gives way to the next one by itself (audisp/react/main.py). All we do is start it, and log what it says.
"""

from __future__ import annotations

import array
import contextlib
import os
import pwd
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs
import trio

from audisp.config.plugins import PluginConf
from audisp.config.reactions import KINDS, read
from audisp.dispatch.folder import FOLDER_MODE, make_folder
from audisp.dispatch.launch import Launched, launch
from audisp.dispatch.runner import Say
from audisp.dispatch.stderr import capture
from audisp.errors import ConfigError, PluginError, StoreError
from audisp.react.start import command, pair

PLUGINS: Final = "plugins"
"""Folder below the state folder, with one for each plugin that keeps something."""
REACTOR: Final = "reactor"
"""The reactor's folder below the state folder."""
LISTED: Final = {"notice": "notice", "warning": "warning", "error": "error", "alert": "critical"}
"""The reactor's severities, as its lines begin, and ours."""


@attrs.define(eq=False)
class Handed:
    """Descriptors to be handed over, and what they are. `close` when that is done, or cannot be."""

    names: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    reactions: tuple[str, ...] = ()
    """See `audisp.wire.isolate.Start`."""

    @property
    def message(self) -> list[tuple[int, int, bytes]]:
        """What sendmsg(2) is to send along with the first byte (unix(7), SCM_RIGHTS)."""
        if not self.descriptors:
            return []
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.descriptors).tobytes())]

    def close(self) -> None:
        """Close our copies."""
        for each in self.descriptors:
            os.close(each)
        self.descriptors = ()


def hand(conf: PluginConf, state_dir: Path, say: Say, *, collector: bool) -> Handed:
    """Make what the plugin is to have. Raises PluginError; leaves nothing open then."""
    with ExitStack() as undo:
        folder = _folder(conf, state_dir)
        undo.callback(os.close, folder)
        if conf.reactions is None:
            handed = Handed(("state",), (folder,))
        else:
            reactor, reactions = _reactor(conf, Path(conf.reactions), state_dir, say, collector=collector)
            handed = Handed(("state", "reactor"), (folder, reactor), reactions)
        undo.pop_all()
    return handed


def plugin_folder(state_dir: Path, name: str) -> Path:
    """The folder of the plugin with this name."""
    return state_dir / PLUGINS / name


def own_folder(state_dir: Path, name: str) -> str:
    """The folder of a plugin in this process, made if it is missing. Raises PluginError."""
    path = plugin_folder(state_dir, name)
    try:
        make_folder(path.parent)
        make_folder(path)
    except StoreError as error:
        raise PluginError(str(error)) from error
    return str(path)


def _folder(conf: PluginConf, state_dir: Path) -> int:
    """Descriptor (O_PATH) of the plugin's folder, which belongs to its user."""
    path = plugin_folder(state_dir, conf.name)
    uid, gid = _user(conf)
    try:
        make_folder(path.parent)
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except StoreError as error:
        raise PluginError(str(error)) from error
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, FOLDER_MODE, dir_fd=parent)
        folder = os.open(path.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        found = os.fstat(folder)
        if found.st_uid == os.geteuid() != uid:
            # Just made: by us now, or by one of us that was killed here.
            os.chown(path.name, uid, gid, dir_fd=parent, follow_symlinks=False)
            found = os.fstat(folder)
    except OSError as error:
        raise PluginError(f"{path}: {error.strerror}") from error
    finally:
        os.close(parent)
    if found.st_uid != uid or found.st_mode & 0o077:
        os.close(folder)
        mode = stat.S_IMODE(found.st_mode)
        raise PluginError(f"{path}: belongs to uid {found.st_uid} and has mode {mode:04o}; uid {uid}, 0700 are needed")
    return folder


def _user(conf: PluginConf) -> tuple[int, int]:
    """Uid and gid that the plugin's process has. Raises PluginError."""
    if conf.user is None or os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwuid(int(conf.user)) if conf.user.isdigit() else pwd.getpwnam(conf.user)
    except KeyError as error:
        raise PluginError(f"there is no user {conf.user} any more") from error
    return entry.pw_uid, entry.pw_gid


def _reactor(
    conf: PluginConf, config: Path, state_dir: Path, say: Say, *, collector: bool
) -> tuple[int, tuple[str, ...]]:
    """Start the reactor: our descriptor of the plugin's end, and what is allowed."""
    try:
        allowed = read(config, collector=collector)
    except FileNotFoundError as error:
        raise PluginError(f"reactions: {config} is missing") from error
    except ConfigError as error:
        raise PluginError(f"reactions: {error}") from error
    uid, _ = _user(conf)
    ours, theirs = pair()
    with ours, theirs:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            launched = launch(
                command(config, state_dir / REACTOR, collector=collector, ours=(uid,)),
                stdin_fd=theirs.fileno(),
                stderr_fd=write_end,
            )
        except PluginError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        os.set_blocking(read_end, False)
        # It outlives the plugin, its restarts, and us: no nursery of ours is to wait for it or to end it.
        trio.lowlevel.spawn_system_task(_listen, conf.name, say, read_end, launched)
        return ours.detach(), tuple(
            f"{kind} {' '.join(allowed.levels(kind))}" for kind in KINDS if allowed.levels(kind)
        )


async def _listen(name: str, say: Say, read_end: int, launched: Launched) -> None:
    """Until it ends: its lines into our log, and its end."""

    def said(level: str, message: str, *, limit: str | None = None) -> None:
        word, _, rest = message.partition(" says: reactor: ")[2].partition(": ")
        if word in LISTED:
            level, message = LISTED[word], f"plugin {name}, reactor: {rest}"
        say(level, message, limit=limit)

    await capture(name, said, trio.lowlevel.FdStream(read_end))
    ended = await launched.wait()
    if not ended.clean:
        say("error", f"plugin {name}: the reactor ended: {ended.description}")
