"""Old files of `output` are compressed one after the other, in a thread with the lowest priority.

At every moment there is a whole copy of an old file: the compressed one is made under a name of its own, is on disk
before it gets its place, and only then is the plain one removed. What a crash leaves half done is done again at the
next start.
"""

from __future__ import annotations

import os
import stat
import threading
import zlib
from typing import Final, Literal, Protocol

from audisp.plugin import Host
from audisp_plugins.output_file import OutputFile, unlink

CHUNK: Final = 262_144
"""Bytes read and compressed at a time: how late a request to stop is heard, a few milliseconds."""
GZ_LEVEL: Final = 6
ZST_LEVEL: Final = 3
"""The programs' own defaults. Records shrink to about a tenth with either."""
NICE: Final = 19
"""Whatever else the machine has to do goes first."""
STOP_TIME: Final = 1.5
"""Seconds that closing waits for the thread; it may be waiting for the disk."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressor(form: Literal["gz", "zst"]) -> _Compressor:
    if form == "gz":
        return zlib.compressobj(GZ_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: gzip's head and checksum
    import zstandard

    return zstandard.ZstdCompressor(level=ZST_LEVEL, write_checksum=True).compressobj()


class _Stopped(Exception):
    """Asked to stop in the middle of a file."""


class Compression:
    """The thread. `wake` and `stop` may be called from any other."""

    def __init__(self, file: OutputFile, keep: int, form: Literal["gz", "zst"], host: Host) -> None:
        self._file, self._keep, self._form, self._host = file, keep, form, host
        self._work = f".{file.name}.compressing"
        self._wake = threading.Condition()
        self._wanted = True
        """What an earlier run left plain comes first."""
        self._stop = False
        self._said: str | None = None
        self._thread = threading.Thread(target=self._run, name="audisp output compress", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is another old file."""
        with self._wake:
            self._wanted = True
            self._wake.notify()

    def stop(self) -> None:
        """End. A file that is being compressed stays plain, and is for the next run."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(STOP_TIME)

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._wanted or self._stop)
                if self._stop:
                    return
                self._wanted = False
            try:
                while self._next():
                    self._said = None
            except _Stopped:
                return
            except OSError as error:
                # A full disk, mostly. The old files stay as they are; the next rotation brings the next attempt.
                self._host.count("compress_errors")
                if self._said != str(error):
                    self._said = str(error)
                    self._host.say("error", f"{self._file.path}: an old file cannot be compressed: {error.strerror}")

    def _next(self) -> bool:
        """Compress the oldest plain file. False if there is none."""
        with self._file.names:
            # A copy, because the folder is opened anew when the file is.
            folder = os.dup(self._file.folder_fd)
        try:
            return self._compress_oldest(folder)
        finally:
            os.close(folder)

    def _compress_oldest(self, folder: int) -> bool:
        unlink(self._work, folder)  # of somebody who was killed
        with self._file.names:
            number, found = next(self._file.plain(self._keep), (0, None))
            if found is None:
                return False
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            source = os.open(f"{self._file.name}.{number}", flags, dir_fd=folder)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(self._work, flags, 0o600, dir_fd=folder)
            try:
                self._copy(source, target)
                if os.fstat(target).st_gid != found.st_gid:
                    os.fchown(target, -1, found.st_gid)
                os.fchmod(target, stat.S_IMODE(found.st_mode))
                os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
                os.fsync(target)
            finally:
                os.close(target)
            self._put(found, folder)
        except BaseException:
            unlink(self._work, folder)
            raise
        finally:
            os.close(source)
        return True

    def _copy(self, source: int, target: int) -> None:
        compressor = _compressor(self._form)
        while data := os.read(source, CHUNK):
            if self._stop:
                raise _Stopped
            _write(target, compressor.compress(data))
        _write(target, compressor.flush())

    def _put(self, source: os.stat_result, folder: int) -> None:
        """Put the compressed file in the place of the plain one, whatever number that has by now."""
        with self._file.names:
            for number, found in self._file.plain(self._keep):
                if os.path.samestat(found, source):
                    name = f"{self._file.name}.{number}"
                    os.rename(self._work, f"{name}.{self._form}", src_dir_fd=folder, dst_dir_fd=folder)
                    os.fsync(folder)
                    os.unlink(name, dir_fd=folder)
                    self._host.count("compressed")
                    return
        # It was the oldest, and has been rotated away meanwhile.
        unlink(self._work, folder)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
