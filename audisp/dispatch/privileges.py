"""What the process may do: its Linux capabilities, and giving up all that no configured part needs.

Capabilities belong to threads. `keep` therefore refuses to run once a second thread exists, which would keep
everything. Numbers and names: linux/capability.h; the calls: capget(2), capabilities(7).

What giving up does not reach: a child that root executes gets its bounding set back (capabilities(7), "Capabilities and
execution of programs by root"). That is meant: auditd's plugins expect to be root with everything, and one that
should have less says ``user`` or ``capabilities``, which the exec step puts into force, bounding set included.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from audisp.config import values
from audisp.errors import AudispError

CAPABILITIES: Final[dict[str, int]] = {name: number for number, name in enumerate(values.CAPABILITIES)}
"""Name to bit number."""

FOR_USERS: Final = ("cap_kill",)
"""What the dispatcher itself must keep when a child has a `user` of its own: else SIGTERM and SIGKILL never reach it.
Nothing else: the exec step is a program that root executes, so it has all that changing the user takes."""

_NAMES: Final = {number: name for name, number in CAPABILITIES.items()}
_VERSION_3: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3: two 32-bit words per set."""


class PrivilegeError(AudispError):
    """Capabilities could not be read or given up."""


def capability_number(name: str) -> int | None:
    """Bit number of a capability named with or without ``cap_``, in any case; None if there is no such one."""
    lower = name.lower()
    return CAPABILITIES.get(lower if lower.startswith("cap_") else f"cap_{lower}")


def names(mask: int) -> list[str]:
    """Names of the bits in a mask, in order of number; ``cap_NN`` for a bit newer than this table."""
    return [_NAMES.get(number, f"cap_{number}") for number in range(mask.bit_length()) if mask >> number & 1]


def current() -> set[str]:
    """What the calling thread may do now (its effective set)."""
    return set(names(_capget()[0]))


def keep(names_with_reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Give up every capability that is not named, for good; return lines for the log: what was kept and why.

    names_with_reasons: capability name to the parts that need it. One that we do not have is reported, and not an error
    here: the part itself fails with a better message. The inheritable set is emptied, the bounding set is left (see
    above). A process without capabilities is left as it is. Raises PrivilegeError if a name is unknown, if a second
    thread exists already, or if the kernel refuses.
    """
    wanted = 0
    lines = []
    for name in names_with_reasons:
        number = capability_number(name)
        if number is None:
            raise PrivilegeError(f"{name!r} is no capability")
        wanted |= 1 << number
    permitted = _capget()[1]
    if not permitted:
        return []
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise PrivilegeError(f"capabilities must be given up before threads start, and {threads} threads exist")
    kept = wanted & permitted
    _capset(kept, kept, 0)
    after = _capget()
    if after != (kept, kept, 0):
        raise PrivilegeError(f"the kernel kept other capabilities than asked: {', '.join(names(after[1]))}")
    for name, reasons in names_with_reasons.items():
        number = capability_number(name)
        assert number is not None
        why = ", ".join(reasons) if reasons else "no reason given"
        if kept >> number & 1:
            lines.append(f"kept {_NAMES[number]}: {why}")
        else:
            lines.append(f"do not have {_NAMES[number]}, needed by: {why}")
    lines.append(f"gave up {(permitted & ~kept).bit_count()} capabilities of {permitted.bit_count()}")
    return lines


def out_of_reach(path: Path) -> bool:
    """Whether our user could not read this file or folder, or get to it, without CAP_DAC_READ_SEARCH.

    Root without capabilities is a user like any other: what lies in a home folder (mode 0700 on Debian 12) is closed to
    it. What is not there is not out of reach. ACLs are not looked at: they only make the answer more careful.
    """
    try:
        real = path.resolve(strict=True)
        steps = [*((folder, 0o1) for folder in real.parents), (real, 0o5 if real.is_dir() else 0o4)]
        return any(not _lets(os.stat(step), bits) for step, bits in steps)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # even with what we have now; then let it be said by who opens it


def _lets(found: os.stat_result, bits: int) -> bool:
    if found.st_uid == os.geteuid():
        return found.st_mode >> 6 & bits == bits
    if found.st_gid == os.getegid() or found.st_gid in os.getgroups():
        return found.st_mode >> 3 & bits == bits
    return found.st_mode & bits == bits


def _capget() -> tuple[int, int, int]:
    """Effective, permitted and inheritable set of the calling thread."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    if _libc().capget(header, data) != 0:
        raise PrivilegeError(f"capget: {os.strerror(ctypes.get_errno())}")
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("=6I", data.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def _capset(effective: int, permitted: int, inheritable: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    sets = (effective, permitted, inheritable)
    words = [part & 0xFFFFFFFF for part in sets] + [part >> 32 for part in sets]
    if _libc().capset(header, ctypes.create_string_buffer(struct.pack("=6I", *words), 24)) != 0:
        raise PrivilegeError(f"capset: {os.strerror(ctypes.get_errno())}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
