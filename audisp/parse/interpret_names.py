"""Names of numbers, and of the bits of a number, from the generated tables: taken apart when they are first needed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from audisp.parse.arch import unpack
from audisp.parse.tables_errors import ERRORS
from audisp.parse.tables_flags import FLAGS
from audisp.parse.tables_ioctl import REQUESTS
from audisp.parse.tables_names import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

_INT: Final = 0xFFFFFFFF

# The caches below are asked with names that stand in this package, never with what a record holds.


@functools.cache
def names(table: str) -> Mapping[int, str]:
    """One of the tables in tables_names. KeyError for no table."""
    return unpack(NAMES[table])


@functools.cache
def requests() -> Mapping[int, str]:
    """Requests of ioctl."""
    return unpack(REQUESTS["ioctl"])


@functools.cache
def errors() -> Mapping[int, tuple[str, str]]:
    """Name and text of errors, by their (positive) numbers."""
    lines = [line.split(" ", 2) for line in ERRORS.splitlines()]
    return {int(number): (name, text) for number, name, text in lines}


@functools.cache
def bits(table: str, headers: str = "x86") -> tuple[tuple[int, str], ...]:
    """Bits and their names in one of the tables in tables_flags. headers: `Arch.headers`, for which bits differ."""
    packed = FLAGS.get(f"{table}@{headers}") or FLAGS[table]
    return tuple((1 << bit, name) for bit, name in unpack(packed).items())


def flags(value: int, table: str, headers: str = "x86", first: str = "", join: str = "|") -> str:
    """The names of a number's bits; what has none stands at the end in hexadecimal.

    first: a name that stands before them (``O_RDONLY``). "" if the number is 0 and there is no such name.
    """
    shown = [first] if first else []
    rest = value
    for bit, name in bits(table, headers):
        if value & bit:
            shown.append(name)
            rest &= ~bit
    if rest:
        shown.append(f"{rest:#x}")
    return join.join(shown)


def error(number: int) -> str | None:
    """``ENOENT(No such file or directory)`` for 2; None for a number that is no error."""
    found = errors().get(number)
    return None if found is None else f"{found[0]}({found[1]})"


def as_int(value: int) -> int:
    """What a C int holds of a register: the lower 32 bits."""
    return value & _INT
