"""What Debian's libaudit1 and libauparse0 print for a number, asked through ctypes: the names that ausearch -i shows.

auparse has no function that names a number, so a record that holds it is given to it and the field read back.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable

AUSOURCE_BUFFER = 3
MACHINES = {"i386": 0, "x86_64": 1, "ppc64": 3, "ppc": 4, "s390x": 5, "s390": 6, "arm": 8, "aarch64": 9}
"""libaudit's own numbers of machines (MACH_*, libaudit.h)."""
X86_64 = "c000003e"
I386 = "40000003"

_audit = ctypes.CDLL("libaudit.so.1")
_audit.audit_syscall_to_name.restype = _audit.audit_errno_to_name.restype = ctypes.c_char_p
_audit.audit_machine_to_name.restype = _audit.audit_flag_to_name.restype = ctypes.c_char_p
_auparse = ctypes.CDLL("libauparse.so.0")
_auparse.auparse_init.restype = ctypes.c_void_p
_auparse.auparse_init.argtypes = [ctypes.c_int, ctypes.c_char_p]
for _name in ("next_event", "first_record", "first_field", "next_field", "destroy"):
    getattr(_auparse, f"auparse_{_name}").argtypes = [ctypes.c_void_p]
for _name in ("get_field_name", "interpret_field"):
    getattr(_auparse, f"auparse_{_name}").argtypes = [ctypes.c_void_p]
    getattr(_auparse, f"auparse_{_name}").restype = ctypes.c_char_p


def interpreted(body: str, type_: str = "SYSCALL") -> dict[str, str]:
    """Every field of a record as auparse interprets it."""
    text = f"type={type_} msg=audit(1760500000.100:1): {body} end=1\n".encode()
    state = _auparse.auparse_init(AUSOURCE_BUFFER, text)
    out: dict[str, str] = {}
    if _auparse.auparse_next_event(state) > 0 and _auparse.auparse_first_record(state) > 0:
        _auparse.auparse_first_field(state)
        while True:
            value = _auparse.auparse_interpret_field(state)
            out[_auparse.auparse_get_field_name(state).decode()] = "" if value is None else value.decode("latin-1")
            if _auparse.auparse_next_field(state) <= 0:
                break
    _auparse.auparse_destroy(state)
    return out


def field(name: str, value: str, type_: str = "SYSCALL") -> str:
    """One field of a record that has only that."""
    return interpreted(f"{name}={value}", type_).get(name, "")


def argument(number: int, index: int, *, syscall: int, arch: str = X86_64, **others: int) -> str:
    """A system call's argument `index` with the value `number`; others: further arguments (a1=6)."""
    values = {"a0": 0, "a1": 0, "a2": 0, "a3": 0, **others, f"a{index}": number}
    body = " ".join(f"{name}={value:x}" for name, value in values.items())
    return interpreted(f"arch={arch} syscall={syscall} success=yes exit=0 {body}")[f"a{index}"]


def names(numbers: Iterable[int], ask: Callable[[int], str]) -> dict[int, str]:
    """What `ask` says for each number, where it knows it."""
    out: dict[int, str] = {}
    for number in numbers:
        name = ask(number)
        if re.fullmatch(r"(?!unknown)[A-Za-z~_][A-Za-z0-9_.+/-]*", name) and name not in ("UNKNOWN", "undefined"):
            out[number] = name
    return out


def bits(width: int, ask: Callable[[int], str], *, without: Iterable[str] = ()) -> dict[int, str]:
    """The name of each single bit of a set of flags. without: what is printed beside it, whatever the bit."""
    out: dict[int, str] = {}
    for bit in range(width):
        found = [part for part in re.split(r"[|,]", ask(1 << bit)) if part not in without and not part[:1].isdigit()]
        if len(found) == 1 and not found[0].startswith("unknown"):
            out[1 << bit] = found[0]
    return out


def errors(numbers: Iterable[int]) -> dict[int, str]:
    """Names of errno values."""
    found = {number: _audit.audit_errno_to_name(number) for number in numbers}
    return {number: name.decode() for number, name in found.items() if name}


def lists(numbers: Iterable[int]) -> dict[int, str]:
    """Names of the kernel's lists of rules."""
    found = {number: _audit.audit_flag_to_name(number) for number in numbers}
    return {number: name.decode() for number, name in found.items() if name}


def syscalls(machine: str) -> dict[int, str]:
    """The system calls of a machine that libaudit knows; {} for a machine it was not built for."""
    if machine not in MACHINES:
        return {}
    found = {number: _audit.audit_syscall_to_name(number, MACHINES[machine]) for number in range(1_200)}
    return {number: name.decode() for number, name in found.items() if name}


def machine(elf: int) -> str:
    """libaudit's name of an AUDIT_ARCH_* number; "" if it has none."""
    number = _audit.audit_elf_to_machine(ctypes.c_uint(elf))
    return _audit.audit_machine_to_name(number).decode() if number >= 0 else ""
