"""One owner for one thing on disk, among all processes of the machine."""

from __future__ import annotations

import fcntl
import os
import stat

from audisp.plugin import PluginError


class LockFile:
    """A locked file in a folder, for the time between `take` and `release`.

    A file of its own, not the thing that it guards, because that is renamed or replaced while the lock is held. The
    kernel gives the lock up when the process dies, so a lock file that is left over locks nothing.
    """

    def __init__(self, folder_fd: int, name: str, shown: str) -> None:
        """folder_fd: borrowed, must stay open until `release`. shown: what is guarded, for the message."""
        self._folder_fd, self._name, self._shown = folder_fd, name, shown
        self._fd = -1

    def take(self) -> None:
        """Create (0600) and lock the file. Raises PluginError if somebody else has it, OSError if it cannot be."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        while True:
            fd = os.open(self._name, flags, 0o600, dir_fd=self._folder_fd)
            try:
                self._check(fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._current(fd):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                    self._fd, fd = fd, -1
                    return
                # The holder removed the file between our open and our lock: what we hold is no longer the lock.
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).strip().decode("ascii", "replace")
                holder = f"pid {pid}" if pid.isdigit() else "another process"
                raise PluginError(f"{self._shown} is already in use by {holder}") from None
            finally:
                if fd >= 0:
                    os.close(fd)

    def release(self) -> None:
        """Remove the file and give up the lock. Harmless if it is not held."""
        if self._fd < 0:
            return
        try:
            if self._current(self._fd):
                os.unlink(self._name, dir_fd=self._folder_fd)
        except OSError:
            # A folder that became read-only: the name stays, and locks nothing.
            pass
        finally:
            os.close(self._fd)
            self._fd = -1

    def _check(self, fd: int) -> None:
        # In a folder where others may write, the name can be a second one of a file of ours that is dear to somebody.
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            raise PluginError(f"{self._shown}: its lock file {self._name} is not a plain file of ours; remove it")

    def _current(self, fd: int) -> bool:
        try:
            named = os.stat(self._name, dir_fd=self._folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))
