"""Arguments of system calls: which of a0 to a3 are flags, modes, ids, and of what kind.

The pairs are auparse's (found by asking libauparse0 3.0.9 about every call and argument of seven machines); where it is
mistaken, the call's own definition in the kernel counts. ``docs/formats/interpretation.md`` lists these differences.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import attrs

from audisp.parse import interpret_numbers as show
from audisp.parse.interpret_names import as_int, flags, names, requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from audisp.parse.arch import Arch

O_CREAT: Final = 0o100
AT_FDCWD: Final = 0xFFFFFF9C
"""-100 in 32 bits (linux/fcntl.h)."""
CLONE_BACKWARDS: Final = frozenset({"s390", "s390x"})
"""Machines whose clone takes the stack first and the flags second (arch/s390/Kconfig, CLONE_BACKWARDS2)."""

PR_SET_PDEATHSIG: Final = 1
PR_CAPBSET: Final = frozenset({23, 24})
F_SETFD: Final = 2


@attrs.frozen
class Call:
    """What an argument stands in. value: of the argument. others: all arguments by index, where they are numbers.

    arch: the machine, None if it is not known.
    """

    value: int
    others: Mapping[int, int]
    arch: Arch | None

    @property
    def headers(self) -> str:
        """Whose headers number the flags."""
        return self.arch.headers if self.arch else "x86"


@attrs.frozen
class Id:
    """A user's (else a group's) number, which needs names that this module has not."""

    number: int
    user: bool


Shown = str | Id | None
"""Text; a number that is still to be named; None: as it is."""
Rule = Callable[[Call], Shown]


def _simple(render: Callable[[int], Shown]) -> Rule:
    return lambda call: render(call.value)


def _named(table: str, unknown: str, prefix: str = "0x") -> Rule:
    def rule(call: Call) -> Shown:
        return names(table).get(call.value) or f"{unknown}({prefix}{call.value:x})"

    return rule


def _named_int(table: str, unknown: str) -> Rule:
    def rule(call: Call) -> Shown:
        number = as_int(call.value)
        signed = number - (1 << 32) if number >> 31 else number
        return names(table).get(signed) or f"{unknown}({signed})"

    return rule


def _flagged(table: str) -> Rule:
    return lambda call: flags(as_int(call.value), table) or None


def _created(call: Call) -> Shown:
    """The mode of a file, which counts only where the flags before it say that it is to be made."""
    return show.mode_short(call.value) if call.others.get(1, 0) & O_CREAT else None


def _directory(call: Call) -> Shown:
    return "AT_FDCWD" if as_int(call.value) == AT_FDCWD else None


def _clone(index: int) -> Rule:
    def rule(call: Call) -> Shown:
        backwards = call.arch is not None and call.arch.name in CLONE_BACKWARDS
        return show.clone_flags(call.value) if index == int(backwards) else None

    return rule


def _namespaces(call: Call) -> Shown:
    return flags(as_int(call.value), "clone") or None


def _socket_type(call: Call) -> Shown:
    return names("socket_type").get(call.value & 0xFF) or f"unknown-type({call.value:x})"


def _level(call: Call) -> Shown:
    level = call.value
    found = names("socket_level").get(level) or names("protocol").get(level)
    return found or f"unknown-sockopt-level({level:#x})"


_OPTIONS: Final = MappingProxyType(
    {
        0: ("option_ip", "unknown-ipopt-name"),
        1: ("option_socket", "unknown-sockopt-name"),
        6: ("option_tcp", "unknown-tcpopt-name"),
        17: ("option_udp", "unknown-udpopt-name"),
        41: ("option_ipv6", "unknown-ip6opt-name"),
        263: ("option_packet", "unknown-pktopt-name"),
    }
)


def _option(call: Call) -> Shown:
    found = _OPTIONS.get(call.others.get(1, -1))
    return show.named(call.value, *found) if found else None


def _prctl(call: Call) -> Shown:
    option = call.others.get(0)
    if option == PR_SET_PDEATHSIG:
        return show.named(call.value, "signal", "unknown-signal")
    if option in PR_CAPBSET:
        return show.named(call.value, "capability", "unknown-capability")
    return None


def _fcntl(call: Call) -> Shown:
    return "FD_CLOEXEC" if call.others.get(1) == F_SETFD and call.value == 1 else None


def _exit(call: Call) -> Shown:
    return ("EXIT_SUCCESS", "EXIT_FAILURE")[call.value] if call.value < 2 else None


def _request(call: Call) -> Shown:
    request = as_int(call.value)
    return requests().get(request) or f"{request:#x}"


_open_flags: Final[Rule] = lambda call: show.open_flags(call.value, call.headers)  # noqa: E731
_user: Final[Rule] = lambda call: Id(as_int(call.value), True)  # noqa: E731
_group: Final[Rule] = lambda call: Id(as_int(call.value), False)  # noqa: E731
_mode: Final = _simple(show.mode_short)
_signal: Final = _named("signal", "unknown-signal")
_message: Final = _flagged("message")
_access: Final = _simple(show.access)
_limit: Final = _named("rlimit", "unknown-rlimit")

RULES: Final[Mapping[str, Mapping[int, Rule]]] = MappingProxyType(
    {
        "access": {1: _access},
        "bpf": {0: _named("bpf", "unknown-bpf-cmd", "")},
        "chmod": {1: _mode},
        "chown": {1: _user},
        "chown32": {1: _user},
        "clock_settime": {0: _named("clock", "unknown-clk_id")},
        "clone": {0: _clone(0), 1: _clone(1)},
        "creat": {1: _mode},
        "epoll_ctl": {1: _named_int("epoll", "unknown-epoll_ctl-operation")},
        "exit": {0: _exit},
        "exit_group": {0: _exit},
        "faccessat": {0: _directory, 2: _access},
        "faccessat2": {0: _directory, 2: _access},
        "fchmod": {1: _mode},
        "fchmodat": {0: _directory, 2: _mode},
        "fchmodat2": {0: _directory, 2: _mode},
        "fchownat": {0: _directory},
        "fcntl": {1: _named_int("fcntl", "unknown-fcntl-command"), 2: _fcntl},
        "fcntl64": {1: _named_int("fcntl", "unknown-fcntl-command"), 2: _fcntl},
        "futimesat": {0: _directory},
        "getrlimit": {0: _limit},
        "getsockopt": {1: _level, 2: _option},
        "ioctl": {1: _request},
        "kill": {1: _signal},
        "linkat": {0: _directory, 2: _directory},
        "lseek": {2: lambda call: names("whence").get(call.value & 0xFF) or f"unknown-whence({call.value:x})"},
        "mkdir": {1: _mode},
        "mkdirat": {0: _directory, 2: _mode},
        "mknod": {1: _simple(show.mode)},
        "mknodat": {0: _directory, 2: _mode},
        "mmap": {
            2: lambda call: show.protection(call.value, call.headers),
            3: lambda call: show.mmap_flags(call.value, call.headers),
        },
        "mount": {3: _simple(show.mount_flags)},
        "mprotect": {2: lambda call: show.protection(call.value, call.headers)},
        "mq_open": {1: _open_flags, 2: _created},
        "name_to_handle_at": {0: _directory},
        "newfstatat": {0: _directory},
        "open": {1: _open_flags, 2: _created},
        "open_by_handle_at": {2: _open_flags},
        "openat": {0: _directory, 2: _open_flags},
        "openat2": {0: _directory},
        "personality": {0: _simple(show.personality)},
        "prctl": {0: _named("prctl", "unknown-prctl-option"), 1: _prctl},
        "ptrace": {0: _named("ptrace", "unknown-ptrace")},
        "readlinkat": {0: _directory},
        "recv": {3: _message},
        "recvfrom": {3: _message},
        "recvmmsg": {3: _message},
        "recvmsg": {2: _message},
        "renameat": {0: _directory, 2: _directory},
        "renameat2": {0: _directory, 2: _directory},
        "rt_sigaction": {0: _signal},
        "sched_setscheduler": {1: _simple(show.scheduler)},
        "send": {3: _message},
        "sendmmsg": {3: _message},
        "sendmsg": {2: _message},
        "sendto": {3: _message},
        "setfsgid": {0: _group},
        "setfsuid": {0: _user},
        "setgid": {0: _group},
        "setns": {1: _namespaces},
        "setregid": {0: _group, 1: _group},
        "setresgid": {0: _group, 1: _group, 2: _group},
        "setresuid": {0: _user, 1: _user, 2: _user},
        "setreuid": {0: _user, 1: _user},
        "setrlimit": {0: _limit},
        "setsockopt": {1: _level, 2: _option},
        "setuid": {0: _user},
        "shmget": {2: _simple(show.shm_flags)},
        "socket": {
            0: _named("family", "unknown-family"),
            1: _socket_type,
            2: _named("protocol", "unknown-proto", ""),
        },
        "socketcall": {0: _named("socketcall", "unknown-socketcall", "")},
        "tgkill": {2: _signal},
        "tkill": {1: _signal},
        "umount2": {1: _flagged("umount")},
        "unlinkat": {0: _directory},
        "unshare": {0: _namespaces},
        "utimensat": {0: _directory},
    }
)
"""Calls, and the arguments of which something can be said."""
