"""How memory is kept and looked through: for the whole process, set once at its start.

Blocks of up to 256 KiB come and go thousands of times a second. By default glibc gives each back to the kernel and gets
it anew, 64 page faults a block: measured, a file is then read and checked at 0.75 CPU seconds per million records
instead of 0.32 (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

TRIM_BYTES: Final = 8 * 1024 * 1024
"""Freed memory at the heap's end that is kept for the next blocks: thirty of the longest. Part of the fixed share of
the memory that the dispatcher promises not to exceed."""

MMAP_BYTES: Final = 1024 * 1024
"""Length from which memory is taken from the kernel one by one: above every block."""

ARENAS: Final = 1
"""Heaps. glibc gives each thread one of its own, and keeps TRIM_BYTES in each; the interpreter's lock already makes
threads allocate one after the other."""

COLLECT: Final = (20_000, 20, 10)
"""Thresholds of the garbage collector (gc module) in a process with thousands of connections. With Python's own, 700
objects, a sixth of its CPU goes into looking through what a few milliseconds have brought; this many are a few MB."""

# <malloc.h>; mallopt(3). Setting any of the thresholds also stops glibc from adapting it.
_SETTINGS: Final = ((-1, TRIM_BYTES), (-3, MMAP_BYTES), (-8, ARENAS))


def keep_freed_memory() -> bool:
    """Set it; to be called before the first thread starts. False where the C library has no mallopt (musl)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    answers = [mallopt(name, value) for name, value in _SETTINGS]
    return all(answer == 1 for answer in answers)


def collect_rarely() -> None:
    """Look for garbage less often, for the whole process: for who holds a great many objects and makes few circles."""
    gc.set_threshold(*COLLECT)
