"""Machines and their system calls: what ``arch=c000003e`` and ``syscall=59`` mean.

The tables are written by tools/make_tables.py. They are packed text, and each is taken apart when it is first asked
for: a host sees one or two machines, not twelve.
"""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import attrs

from audisp.parse.tables_machines import MACHINES
from audisp.parse.tables_names import NAMES
from audisp.parse.tables_syscalls import SYSCALLS
from audisp.parse.values import number as to_number

if TYPE_CHECKING:
    from collections.abc import Mapping

X32_BIT: Final = 0x40000000
"""Set in the numbers of x32's system calls, whose arch is x86_64's (__X32_SYSCALL_BIT, asm/unistd.h)."""

_BITS_64: Final = 0x80000000
_LITTLE: Final = 0x40000000
_TABLES: Final = MappingProxyType({"ppc64le": "ppc64"})
# fmt: off
_HEADERS: Final = MappingProxyType({
    "i386": "x86", "x86_64": "x86", "ppc": "powerpc", "ppc64": "powerpc", "ppc64le": "powerpc", "s390": "s390x",
    "riscv64": "riscv", "riscv32": "riscv", "loongarch64": "loongarch", "loongarch32": "loongarch",
})
# fmt: on


@attrs.frozen
class Arch:
    """A machine. number: AUDIT_ARCH_* (linux/audit.h). name: as `ausearch -i` shows it.

    bits: of a word. byteorder: of its numbers in memory, as in a socket address. syscalls: name of its table of system
    calls, None if there is none. headers: the machine whose headers number its flags.
    """

    number: int
    name: str
    bits: Literal[32, 64]
    byteorder: Literal["little", "big"]
    syscalls: str | None
    headers: str


def _arch(number: int, name: str) -> Arch:
    table = _TABLES.get(name, name)
    return Arch(
        number,
        name,
        64 if number & _BITS_64 else 32,
        "little" if number & _LITTLE else "big",
        table if table in SYSCALLS else None,
        _HEADERS.get(name, name),
    )


_BY_NUMBER: Final = MappingProxyType({number: _arch(number, name) for number, name in MACHINES.items()})
_BY_TEXT: Final = MappingProxyType({f"{number:x}": arch for number, arch in _BY_NUMBER.items()})


def machine(arch_hex: str) -> Arch | None:
    """The machine of an ``arch`` field, as the kernel prints it or in upper case or with 0x; None if there is none."""
    found = _BY_TEXT.get(arch_hex)
    if found is not None:
        return found
    number = to_number(arch_hex, 16)
    return None if number is None else _BY_NUMBER.get(number)


def unpack(packed: str) -> Mapping[int, str]:
    """A packed table: names in order of their numbers, a number only before a name whose number does not follow."""
    table: dict[int, str] = {}
    index = 0
    for word in packed.split():
        number, colon, name = word.rpartition(":")
        if colon:
            index = int(number)
        table[index] = name
        index += 1
    return MappingProxyType(table)


@functools.cache  # asked with names of tables alone, never with what a record holds
def syscalls(table: str) -> Mapping[int, str]:
    """The system calls of one table (`Arch.syscalls`, or ``x32``) by their numbers. KeyError for no table."""
    return unpack(SYSCALLS[table])


def syscall_name(arch_hex: str, number: int) -> str | None:
    """The name of a system call; None where machine or number is unknown. x32's have bit 30 set on x86_64."""
    arch = _BY_TEXT.get(arch_hex) or machine(arch_hex)
    if arch is None or arch.syscalls is None:
        return None
    name = syscalls(arch.syscalls).get(number)
    if name is None and arch.name == "x86_64" and number & X32_BIT:
        return syscalls("x32").get(number)
    return name


@functools.cache
def _uringops() -> Mapping[int, str]:
    return unpack(NAMES["uring"])


def uringop_name(number: int) -> str | None:
    """The name of an io_uring operation (IORING_OP_*, linux/io_uring.h, in lower case); None if unknown."""
    return _uringops().get(number)
