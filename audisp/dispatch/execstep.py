"""The exec step: sets what posix_spawn cannot, then becomes the program. Same pid from spawn to end.

Run by launch.py as ``python -I -S -E execstep.py SPEC -- PROGRAM ARGS``, never imported by the dispatcher. It uses the
standard library only: with -I and -S nothing else can be found, and nothing else should run as root here.

SPEC is JSON: ``user`` [uid, gid, [groups]], ``capabilities`` [numbers], ``nice``, ``memory_max`` (bytes).
On failure: one line on stderr, exit status 127 if the program does not exist, else 126.

memory_max is RLIMIT_DATA, not RLIMIT_AS. Since Linux 4.7 RLIMIT_DATA counts all private writable memory, that is
what a leak eats; RLIMIT_AS would also count address space that is only reserved, of which Go, Java and sanitizers take
gigabytes at start, and mapped libraries. Shared memory is not counted.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

# linux/prctl.h, linux/capability.h
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_BITS = 64
"""Two 32-bit words per set; the kernel answers EINVAL above its last one."""


def main(argv: list[str]) -> NoReturn:
    """Read SPEC, apply it, execute. Never returns."""
    if len(argv) < 4 or argv[2] != "--":
        fail(126, "exec step", "wants SPEC -- PROGRAM ARGS")
    program = argv[3]
    step = "SPEC"
    try:
        spec = json.loads(argv[1])
        step = "set up"
        apply(spec)
    except OSError as error:
        fail(126, program, f"{error.filename or step}: {error.strerror}")
    except (ValueError, TypeError, KeyError) as error:
        fail(126, program, f"{step}: {error}")
    reset_signals()
    try:
        os.execve(program, argv[3:], {})  # noqa: S606 - becoming that program is this file's purpose
    except FileNotFoundError as error:
        fail(127, program, str(error.strerror))
    except OSError as error:
        fail(126, program, str(error.strerror))


def fail(status: int, program: str, reason: str) -> NoReturn:
    """One line on stderr, then the end."""
    os.write(2, f"{program}: cannot be started: {reason}\n".encode("utf-8", "backslashreplace"))
    os._exit(status)


def apply(spec: dict[str, Any]) -> None:
    """Put the orders into force, those that need rights before the rights go. Raises OSError naming the key."""
    os.chdir("/")
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read(16)) < 0:
                file.write(b"0")
    except OSError:
        pass  # no /proc: the score stays; that is no reason not to run
    if "nice" in spec:
        named("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, spec["nice"]))
    if "memory_max" in spec:
        limit = spec["memory_max"]
        named("memory_max", lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))
    wanted = spec.get("capabilities")
    user = spec.get("user")
    if wanted is not None:
        named("capabilities", lambda: drop_bounding(set(wanted)))
    if user is not None:
        uid, gid, groups = user
        if wanted:
            named("capabilities", lambda: prctl(_PR_SET_KEEPCAPS, 1))
        named("user", lambda: become(uid, gid, groups))
        named("user", lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1))
    if wanted is not None:
        named("capabilities", lambda: set_capabilities(wanted))
    elif user is not None and os.getuid() != 0:
        named("capabilities", lambda: set_capabilities([]))


def named(key: str, act: Any) -> None:
    """Run `act`; an OSError then carries the key it failed for."""
    try:
        act()
    except OSError as error:
        raise OSError(error.errno, error.strerror, key) from error
    except ValueError as error:  # setrlimit above a hard limit
        raise OSError(0, str(error), key) from error


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Groups first, while we may; then the group, then the user; real, effective and saved."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise OSError(1, "the ids were not changed")


def drop_bounding(wanted: set[int]) -> None:
    """Leave only `wanted` in the bounding set, so that not even root's exec can bring more back."""
    for number in range(_CAPABILITY_BITS):
        if number in wanted:
            continue
        try:
            if prctl(_PR_CAPBSET_READ, number) == 0:
                continue
        except OSError:
            break  # the kernel's last capability is behind us
        prctl(_PR_CAPBSET_DROP, number)


def set_capabilities(wanted: list[int]) -> None:
    """Effective, permitted, inheritable and ambient become `wanted`. EPERM if one of them is not ours."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    mask = 0
    for number in wanted:
        mask |= 1 << number
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high), 24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    for number in wanted:
        # Without ambient ones a program that is not root's loses everything at exec.
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2) with all five words given, as the kernel checks the unused ones. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    result: int = libc.prctl(ctypes.c_int(option), *words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def reset_signals() -> None:
    """Python itself ignores SIGPIPE and SIGXFSZ; ignored signals stay ignored over exec."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) is not None:
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main(sys.argv)
