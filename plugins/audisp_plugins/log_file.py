"""One log file in its folder: made, mended, appended to, rotated. No policy; `log_writer` decides when.

Everything goes through a descriptor of the folder, so that nobody who swaps a folder above it leads us elsewhere, and
nothing follows a symbolic link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from audisp.plugin import PluginError

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""O_RDWR to see whether the last line is whole; O_NONBLOCK so that a FIFO of that name cannot hold us."""

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class LogFile:
    """The file that is written now, and its rotated ones. Modes as auditd's: 0600 and 0400, with a group 0640 and 0440.

    Not safe for two threads at once. `size` and `rotated` may be read from any.
    """

    def __init__(self, path: Path, group: int, notice: Callable[[str], None]) -> None:
        self.path, self.name = path, path.name
        self.group = group if group or os.geteuid() == 0 else os.getegid()
        """Its group; unset (0) and not root: our own, since root's is not ours to give."""
        self.size = 0
        self.rotated = 0
        """Files found or left behind the current one at the last rotation."""
        self.fd = -1
        self.folder_fd = -1
        self._notice = notice
        self._torn = False
        self._mode = 0o600 if group == 0 else 0o640
        self._old_mode = 0o400 if group == 0 else 0o440

    def open_folder(self) -> None:
        """Open the folder. Raises PluginError if it is missing, or if others than root and we may write in it."""
        parent = self.path.parent
        try:
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise PluginError(f"{parent}: {error.strerror}") from error
        found = os.fstat(fd)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
            os.close(fd)
            raise PluginError(
                f"{parent}: owner uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}: others could replace the "
                f"log there. Make it root's (chown root {parent}; chmod go-w {parent}) or use another folder"
            )
        if self.folder_fd >= 0:
            os.close(self.folder_fd)
        self.folder_fd = fd

    def open(self) -> None:
        """Open the file, made if it is missing, mode and owner mended. Raises PluginError, or OSError of the disk."""
        try:
            fd = self._open_existing()
        except FileNotFoundError:
            fd = self._make()
        found = os.fstat(fd)
        self.fd, self.size = fd, found.st_size
        # A crash can leave half a line; without an end of its own it would swallow the record behind it.
        self._torn = found.st_size > 0 and os.pread(fd, 1, found.st_size - 1) != b"\n"

    def _open_existing(self) -> int:
        try:
            fd = os.open(self.name, _FLAGS, dir_fd=self.folder_fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise PluginError(f"{self.path} is a symbolic link; a log must be a file of its own") from error
            if error.errno in (errno.ENXIO, errno.EISDIR):
                raise PluginError(f"{self.path} is not a regular file") from error
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise PluginError(f"{self.path} is not a regular file")
            self._mend(fd, found)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _mend(self, fd: int, found: os.stat_result) -> None:
        owner = os.geteuid()
        if found.st_uid == owner and found.st_gid == self.group and stat.S_IMODE(found.st_mode) == self._mode:
            return
        self._own(fd, found)
        self._notice(
            f"{self.path}: was uid {found.st_uid} gid {found.st_gid} mode {stat.S_IMODE(found.st_mode):04o}, "
            f"is now uid {owner} gid {self.group} mode {self._mode:04o}"
        )

    def _own(self, fd: int, found: os.stat_result) -> None:
        # Owner only, then the owner, then the group's part: at no moment may anybody do more than at the end.
        owner = os.geteuid()
        try:
            if found.st_uid == owner:
                os.fchmod(fd, 0o600)
            if found.st_uid != owner or found.st_gid != self.group:
                os.fchown(fd, owner, self.group)
            os.fchmod(fd, self._mode)
        except PermissionError as error:
            raise PluginError(
                f"{self.path}: cannot be given uid {owner}, gid {self.group}, mode {self._mode:04o}: {error.strerror}"
            ) from error

    def _make(self) -> int:
        fd = os.open(self.name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.folder_fd)
        try:
            found = os.fstat(fd)
            if found.st_gid != self.group or stat.S_IMODE(found.st_mode) != self._mode:
                self._own(fd, found)
        except BaseException:
            os.close(fd)
            os.unlink(self.name, dir_fd=self.folder_fd)
            raise
        return fd

    def append(self, data: memoryview) -> tuple[int, OSError | None]:
        """Write whole lines. Returns how many bytes of whole lines are in the file, and what stopped the rest.

        A line that went in by half is taken out again, so that the file always ends with a whole record.
        """
        done = 0
        try:
            if self._torn:
                os.write(self.fd, b"\n")
                self.size += 1
                self._torn = False
            while done < len(data):
                taken = os.write(self.fd, data[done:])
                if not taken:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += taken
        except OSError as error:
            kept = bytes(data[:done]).rfind(b"\n") + 1
            if kept < done:
                self._cut(self.size + kept, self.size + done)
                done = kept
            self.size = os.fstat(self.fd).st_size
            return done, error
        self.size += done
        return done, None

    def _cut(self, whole: int, written: int) -> None:
        try:
            if os.fstat(self.fd).st_size == written:
                os.ftruncate(self.fd, whole)
                return
        except OSError as error:
            self._notice(f"{self.path}: half a line cannot be taken out: {error.strerror}")
        # Somebody else wrote too, or the disk refuses: the half line gets an end of its own later.
        self._torn = True

    def unlinked(self) -> bool:
        """Whether the open file has no name any more, so that what is written to it is lost when it is closed."""
        return os.fstat(self.fd).st_nlink == 0

    def rotate(self, keep: int | None) -> int:
        """Rename the file to NAME.1, NAME.1 to NAME.2 and so on, and begin a new one.

        keep: how many files there may be, the current one included; the oldest is replaced. None: keep all. Returns
        the old file's descriptor, which is the caller's to close. Raises OSError; the open file is then still usable,
        or, if the new one could not be made, `fd` is -1.
        """
        os.fchmod(self.fd, self._old_mode)
        try:
            last = self._count() + 1 if keep is None else keep - 1
            for number in range(last, 0, -1):
                self._rename(number - 1, number)
        except OSError:
            os.fchmod(self.fd, self._mode)
            raise
        old, self.fd, self.size = self.fd, -1, 0
        self.rotated = last
        try:
            self.open()
        except (OSError, PluginError):
            os.close(old)
            raise
        return old

    def _numbered(self, number: int) -> str:
        return f"{self.name}.{number}" if number else self.name

    def _rename(self, old: int, new: int) -> None:
        try:
            os.rename(self._numbered(old), self._numbered(new), src_dir_fd=self.folder_fd, dst_dir_fd=self.folder_fd)
        except FileNotFoundError:
            return

    def _count(self) -> int:
        # How many rotated files there are without a gap.
        number = 0
        while self._exists(number + 1):
            number += 1
        return number

    def _exists(self, number: int) -> bool:
        try:
            os.stat(self._numbered(number), dir_fd=self.folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def tidy(self, keep: int) -> int:
        """Remove NAME.keep and what follows it without a gap, as auditd does at its start. Returns how many."""
        removed = 0
        while self._exists(keep + removed):
            os.unlink(self._numbered(keep + removed), dir_fd=self.folder_fd)
            removed += 1
        self.rotated = min(self._count(), keep - 1)
        return removed

    def mend_rotated(self) -> None:
        """Give the rotated files their mode and owner, as auditd does at its start. What is no file is left alone."""
        number = 1
        owner = os.geteuid()
        while self._exists(number):
            try:
                fd = os.open(
                    self._numbered(number),
                    os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
                    dir_fd=self.folder_fd,
                )
            except OSError as error:
                self._notice(f"{self.path}.{number}: {error.strerror}")
            else:
                try:
                    found = os.fstat(fd)
                    if stat.S_ISREG(found.st_mode):
                        if found.st_uid != owner or found.st_gid != self.group:
                            os.fchown(fd, owner, self.group)
                        if stat.S_IMODE(found.st_mode) != self._old_mode:
                            os.fchmod(fd, self._old_mode)
                except OSError as error:
                    self._notice(f"{self.path}.{number}: {error.strerror}")
                finally:
                    os.close(fd)
            number += 1
        self.rotated = number - 1

    def space(self) -> tuple[int, int]:
        """Bytes free for us, and bytes in all, on the file's partition. Raises OSError."""
        found = os.fstatvfs(self.folder_fd)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def close(self) -> None:
        """Close the file, not the folder."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close_folder(self) -> None:
        """Close the folder."""
        if self.folder_fd >= 0:
            os.close(self.folder_fd)
            self.folder_fd = -1
