"""A file system that never answers a read, and a process that hangs in it so that its memory cannot be looked at.

The least of the FUSE protocol (linux/fuse.h): one folder, one file in it. The first who opens it reads through the page
cache, and waits there for an answer that never comes, with the page locked. The second opens it for direct access;
mapping that throws the cached page out first, so it waits for the lock, and holds its own memory's lock meanwhile. Who
reads environ or cmdline of that process waits for this one. NFS servers that went away do the same by accident.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DEVICE: Final = "/dev/fuse"
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT = 1, 2, 3, 14, 15, 18, 25, 26, 36
FOPEN_DIRECT_IO: Final = 1
MNT_FORCE_DETACH: Final = 1 | 2
ENOSYS: Final = 38
CHILD: Final = """
import ctypes, os, sys, threading
first, second = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[1], os.O_RDONLY)
def read():
    try:
        os.pread(first, 4096, 0)
    except OSError:
        pass
threading.Thread(target=read, daemon=True).start()
sys.stdin.read(1)
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
print("mapping", flush=True)
libc.mmap(None, 4096, 1, 2, second, 0)
"""


class _Server:
    """Answers everything but a read. reading: somebody waits for one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.reading = threading.Event()
        self._opened = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self.fd, 1 << 20)
            except OSError:
                return  # unmounted
            _, code, unique, node = struct.unpack_from("=IIQQ", request)
            answer = self._answer(code, node)
            if answer is not None:
                error, body = answer
                with contextlib.suppress(OSError):
                    os.write(self.fd, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)

    def _answer(self, code: int, node: int) -> tuple[int, bytes] | None:
        if code == INIT:
            return 0, struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, *[0] * 8)
        if code == LOOKUP:
            return 0, struct.pack("=4Q2I", 2, 0, 60, 60, 0, 0) + _attributes(2)
        if code == GETATTR:
            return 0, struct.pack("=Q2I", 60, 0, 0) + _attributes(node)
        if code == OPEN:
            self._opened += 1
            return 0, struct.pack("=Q2I", self._opened, FOPEN_DIRECT_IO if self._opened == 2 else 0, 0)
        if code == READ:
            self.reading.set()
            return None
        if code in (FORGET, INTERRUPT):
            return None
        return (0, b"") if code in (FLUSH, RELEASE) else (ENOSYS, b"")


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == 1 else 0o100644
    return struct.pack("=6Q10I", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextlib.contextmanager
def hanging_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose memory is locked. OSError if this system lets us mount nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"test", os.fsencode(folder), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "mount")
        try:
            server = _Server(fd)
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(folder / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                assert server.reading.wait(20)
                child.stdin.write(b"x")
                child.stdin.flush()
                assert child.stdout.readline() == b"mapping\n"
                yield child
            finally:
                # All that waits in it gets an error, and can be killed again.
                libc.umount2(os.fsencode(folder), MNT_FORCE_DETACH)
                child.kill()
                child.communicate()
        finally:
            libc.umount2(os.fsencode(folder), MNT_FORCE_DETACH)
    finally:
        os.close(fd)
