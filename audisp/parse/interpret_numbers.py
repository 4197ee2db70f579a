"""Renderings of numbers that fields and arguments of system calls share, in auparse's words (upstream.md section 9).

Each takes a number and gives text. What auparse says of a number that it does not know (``unknown-family(0x40)``)
is part of its format, and kept.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from audisp.parse.interpret_names import as_int, flags, names

_FILE_TYPES: Final = MappingProxyType(
    {0o140000: "socket", 0o120000: "link", 0o100000: "file", 0o060000: "block", 0o040000: "dir", 0o020000: "character"}
    | {0o010000: "fifo"}
)
"""S_IFMT's values (linux/stat.h), by auparse's names."""
_SPECIAL: Final = ((0o4000, "suid"), (0o2000, "sgid"), (0o1000, "sticky"))

_ACCESS_MODE: Final = 3
_MAP_TYPE: Final = 0x0F
_MAP_HUGETLB: Final = 0x40000
_MAP_HUGE_SHIFT: Final = 26
_RESET_ON_FORK: Final = 0x40000000
_NO_RANDOMIZE: Final = 0x0040000
_MOUNT_MAGIC: Final = 0xC0ED0000
_ACTION: Final = 0xFFFF0000


def mode_short(value: int) -> str:
    """Permissions, as chmod takes them: ``suid,0755``."""
    return "".join(f"{name}," for bit, name in _SPECIAL if value & bit) + f"0{value & 0o777:03o}"


def mode(value: int) -> str:
    """Type and permissions, as stat has them: ``file,644``, ``dir,sticky,777``."""
    kind = value & 0o170000
    special = "".join(f"{name}," for bit, name in _SPECIAL if value & bit)
    return f"{_FILE_TYPES.get(kind) or f'{kind >> 12:03o}'},{special}{value & 0o777:03o}"


def open_flags(value: int, headers: str = "x86") -> str:
    """What open is asked for: ``O_WRONLY|O_CREAT``."""
    return flags(as_int(value), "open", headers, "" if value & _ACCESS_MODE else "O_RDONLY")


def mmap_flags(value: int, headers: str = "x86") -> str:
    """How memory is mapped. The six upper bits are the size of huge pages where there are some."""
    huge = ""
    if value & _MAP_HUGETLB and (size := value >> _MAP_HUGE_SHIFT & 0x3F):
        value &= ~(0x3F << _MAP_HUGE_SHIFT)
        huge = f"|{size}<<MAP_HUGE_SHIFT"
    return flags(value, "mmap", headers, "" if value & _MAP_TYPE else "MAP_FILE") + huge


def protection(value: int, headers: str = "x86") -> str:
    """What may be done with mapped memory."""
    return flags(value, "prot", headers) or "PROT_NONE"


def access(value: int) -> str:
    """What access asks for."""
    return flags(as_int(value), "access") or "F_OK"


def clone_flags(value: int) -> str:
    """What clone shares or makes anew, and behind it the signal that its end sends."""
    shown, signal_number = flags(as_int(value) & ~0xFF, "clone"), value & 0xFF
    if not signal_number:
        return shown or "0x0"
    name = names("signal").get(signal_number) or f"{signal_number:#x}"
    return f"{shown}|{name}" if shown else name


def mount_flags(value: int) -> str:
    """How a file system is mounted. Old callers put a magic number above the flags; it says nothing."""
    if value & _ACTION == _MOUNT_MAGIC:
        value &= ~_ACTION
    return flags(value, "mount") or "0x0"


def shm_flags(value: int) -> str:
    """Flags and permissions of shared memory: ``IPC_CREAT|0600``."""
    value = as_int(value)
    shown = flags(value & ~0o777, "shm")
    return f"{shown}|0{value & 0o777:03o}" if shown else f"0{value & 0o777:03o}"


def personality(value: int) -> str:
    """What a process is run as. The low byte says which, one bit above it is worth a word to auparse."""
    name = names("personality").get(value & 0xFF)
    if name is None:
        return f"unknown-personality({value:#x})"
    return f"{name}|~ADDR_NO_RANDOMIZE" if value & _NO_RANDOMIZE else name


def scheduler(value: int) -> str:
    """A policy of scheduling."""
    name = names("scheduler").get(value & 0x0F)
    if name is None:
        return f"unknown-scheduler-policy({value:#x})"
    return f"{name}|SCHED_RESET_ON_FORK" if value & _RESET_ON_FORK else name


def seccomp(value: int) -> str:
    """What seccomp did. The lower half is data for the tracer."""
    return names("seccomp").get(value & _ACTION) or f"unknown-seccomp-code({value:#x})"


def capabilities(value: int) -> str:
    """The capabilities of a set, comma joined; ``none`` if it is empty. Bits beyond the last one that exists are not
    shown: kernels before 6.3 set all 64 where everything is meant."""
    return ",".join([name for bit, name in names("capability").items() if value >> bit & 1]) or "none"


def named(value: int, table: str, unknown: str) -> str:
    """A number's name, or ``UNKNOWN(0xNUMBER)``."""
    return names(table).get(value) or f"{unknown}({value:#x})"
