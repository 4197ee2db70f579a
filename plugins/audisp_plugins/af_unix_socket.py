"""The listening socket of `af_unix`: where it may stand, and who may connect."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final, Protocol

import attrs

from audisp.plugin import PluginError
from audisp_plugins.lockfile import LockFile

BACKLOG: Final = 16
"""Connections that may wait for accept; it is called at once, so only a burst at one moment needs them."""

SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h, Linux 4.13; the socket module has no name for it."""

MAX_OPTION: Final = 1_024
"""Most bytes that getsockopt of the socket module returns: 256 groups. A peer with more is judged by its first."""


@attrs.frozen
class Peer:
    """Who connected, as the kernel noted it at connect()."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]

    def __str__(self) -> str:
        return f"pid {self.pid} uid {self.uid}"


class HasOptions(Protocol):
    """A socket, of the socket module or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_of(sock: HasOptions) -> Peer:
    """The credentials of the other end. Raises OSError."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_OPTION)
    except OSError:
        raw = b""  # an older kernel, or more groups than fit
    return Peer(pid, uid % 2**32, gid % 2**32, struct.unpack(f"{len(raw) // 4}I", raw))


def may_read(peer: Peer, mode: int, owner: int, group: int) -> bool:
    """Whether the peer may have the stream: root, the socket's owner, or whom the mode lets write to the socket.

    The kernel asks the same of a connect(), but lets capabilities (CAP_DAC_OVERRIDE) stand for it. Here they do not.
    """
    if peer.uid in (0, owner):
        return True
    if group == peer.gid or group in peer.groups:
        return bool(mode & stat.S_IWGRP)
    return bool(mode & stat.S_IWOTH)


class Seat:
    """A place to listen at, ours until `leave`: locked, freed of a dead socket, bound with the right mode."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path, self.mode = path, mode
        self.owner = self.group = -1
        self._folder_fd = -1
        self._lock: LockFile | None = None
        self._bound: os.stat_result | None = None

    def listen(self) -> socket.socket:
        """Bind and listen. Raises PluginError if the place is taken, not a socket, or cannot be used."""
        try:
            self._folder_fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise PluginError(f"{self.path.parent}: {error.strerror}; the folder of the socket must exist") from error
        self._lock = LockFile(self._folder_fd, f".{self.path.name}.lock", f"socket {self.path}")
        try:
            self._lock.take()
            self._clear()
            return self._bind()
        except OSError as error:
            self.leave()
            raise PluginError(f"socket {self.path}: {error.strerror}") from error
        except PluginError:
            self.leave()
            raise

    def _clear(self) -> None:
        # A socket whose owner died refuses connections; one that somebody serves does not. Only the first is removed.
        try:
            found = os.stat(self.path.name, dir_fd=self._folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise PluginError(f"{self.path} exists and is not a socket; it is left alone")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
            try:
                probe.connect(os.fsencode(self.path))
            except ConnectionRefusedError:
                os.unlink(self.path.name, dir_fd=self._folder_fd)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                    raise
                raise PluginError(f"socket {self.path} is already in use by another program") from error
            raise PluginError(f"socket {self.path} is already in use by {peer_of(probe)}")

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # Linux makes the file with the socket's own mode less the umask: it never has more than it should.
            os.fchmod(sock.fileno(), self.mode)
            sock.bind(os.fsencode(self.path))
            fd = os.open(self.path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder_fd)
            try:
                self._bound = os.fstat(fd)
                if not stat.S_ISSOCK(self._bound.st_mode):
                    raise PluginError(f"{self.path} was replaced by somebody while it was made")
                if stat.S_IMODE(self._bound.st_mode) != self.mode:
                    # What the umask took away. By descriptor, so that nobody can put another file in between.
                    os.chmod(f"/proc/self/fd/{fd}", self.mode)
            finally:
                os.close(fd)
            self.owner, self.group = self._bound.st_uid, self._bound.st_gid
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def leave(self) -> None:
        """Remove the socket's file if it is still ours, and give up the lock."""
        if self._folder_fd < 0:
            return
        try:
            if self._bound is not None:
                found = os.stat(self.path.name, dir_fd=self._folder_fd, follow_symlinks=False)
                if os.path.samestat(found, self._bound):
                    os.unlink(self.path.name, dir_fd=self._folder_fd)
        except FileNotFoundError:
            pass
        finally:
            if self._lock is not None:
                self._lock.release()
            os.close(self._folder_fd)
            self._folder_fd = -1
