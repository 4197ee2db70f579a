"""Signals with their senders: SIGTERM counts only from our parent, as the C program has it.

A descriptor (signalfd(2)) tells who sent a signal, which Python's own handlers do not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
INFO_BYTES: Final = 128
"""struct signalfd_siginfo."""
SET_BYTES: Final = 128
"""sigset_t of glibc; the kernel's 64 signals are in its first 8."""
SFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
"""SFD_NONBLOCK and SFD_CLOEXEC have their values."""
_INFO: Final = struct.Struct("=IiiI")
"""Signal, errno, code, pid of the sender."""


@attrs.frozen
class Heard:
    """One signal. pid: of its sender; 0: the kernel, or somebody outside our pid namespace."""

    number: int
    pid: int

    @property
    def ends(self) -> bool:
        """Whether it asks us to end, and by who may: our parent, or the terminal's Ctrl-C."""
        if self.number == signal.SIGTERM:
            return self.pid in (os.getppid(), os.getpid(), 0)
        return self.number == signal.SIGINT


@contextmanager
def listening() -> Iterator[int]:
    """A descriptor of the signals, which are blocked from then on. Before there are threads."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    mask = sum(1 << number - 1 for number in HEARD)
    raw = ctypes.create_string_buffer(struct.pack("=Q", mask), SET_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.signalfd(-1, raw, SFD_FLAGS)
    try:
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def hear(fd: int) -> AsyncIterator[Heard]:
    """The signals, as they come."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        try:
            data = os.read(fd, INFO_BYTES)
        except BlockingIOError:
            continue
        number, _, _, pid = _INFO.unpack_from(data)
        yield Heard(number, pid)
