"""The file of `output`: any mode, old files that may be compressed. Made, mended and appended to as `log`'s."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from audisp_plugins.log_file import LogFile

SUFFIXES: Final = ("", ".gz", ".zst")
"""What an old file's name may end in."""

READ_ONLY: Final = ~0o222


class OutputFile(LogFile):
    """A file with old ones NAME.1, NAME.2 and so on, each perhaps with a suffix.

    Whoever renames holds `names`, since another thread may be replacing an old file by its compressed form.
    """

    def __init__(self, path: Path, group: int, mode: int, notice: Callable[[str], None]) -> None:
        super().__init__(path, group, notice)
        self._mode, self._old_mode = mode, mode & READ_ONLY
        self.names = threading.RLock()

    @property
    def old_mode(self) -> int:
        """Mode of the old files: nobody writes to them any more."""
        return self._old_mode

    def reopen(self) -> None:
        """Close the file and open what has its name now. Raises PluginError or OSError; `fd` is then -1."""
        self.close()
        with self.names:
            self.open_folder()
        self.open()

    def rotate(self, keep: int | None) -> int:
        """See LogFile."""
        with self.names:
            return super().rotate(keep)

    def _rename(self, old: int, new: int) -> None:
        # Whatever has the new number is the oldest, and goes.
        self.remove(new)
        for suffix in SUFFIXES if old else ("",):
            old_name, new_name = self._numbered(old) + suffix, self._numbered(new) + suffix
            try:
                os.rename(old_name, new_name, src_dir_fd=self.folder_fd, dst_dir_fd=self.folder_fd)
            except FileNotFoundError:
                continue

    def remove(self, number: int) -> bool:
        """Remove an old file, in whatever form. False if there was none."""
        found = [unlink(self._numbered(number) + suffix, self.folder_fd) for suffix in SUFFIXES]
        return any(found)

    def tidy(self, keep: int) -> int:
        """Remove the old files from number `keep` on, up to the first gap. Returns how many."""
        with self.names:
            removed = 0
            while self.remove(keep + removed):
                removed += 1
            self.rotated = min(self._count(), keep - 1)
            return removed

    def _exists(self, number: int) -> bool:
        return any(self._stat(self._numbered(number) + suffix) is not None for suffix in SUFFIXES)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def plain(self, most: int) -> Iterator[tuple[int, os.stat_result]]:
        """Numbers of the old files that are not compressed, the oldest first. `names` is held."""
        for number in range(most, 0, -1):
            found = self._stat(self._numbered(number))
            if found is not None and stat.S_ISREG(found.st_mode):
                yield number, found


def unlink(name: str, folder_fd: int) -> bool:
    """Remove a file of a folder. False if there was none."""
    try:
        os.unlink(name, dir_fd=folder_fd)
    except FileNotFoundError:
        return False
    return True
