"""Values of a record in words, for the normaliser: what ENRICHED format brought along before what is looked up here."""

from __future__ import annotations

import re
from typing import Final

from audisp.parse import arch, sockaddr, values
from audisp.parse.fieldtypes import FieldType, field_type
from audisp.parse.interpret import interpret
from audisp.parse.record import Record
from audisp.shapes.shape import Names

_BROUGHT: Final = frozenset({FieldType.UID, FieldType.GID, FieldType.SYSCALL, FieldType.ARCH})
"""What ENRICHED format says of itself; its socket address is decoded again, because it is cut at a blank."""
_DOTS: Final = re.compile(r"(?:^|/)\.\.?(?:/|\Z)")


class Reader:
    """Reads fields of records. names: of this host's accounts."""

    __slots__ = ("names",)

    def __init__(self, names: Names) -> None:
        self.names = names

    def value(self, record: Record, name: str) -> str | None:
        """A field in words, as `ausearch -i` shows it but not escaped; None if it is not there."""
        raw = record.raw(name)
        if raw is None:
            return None
        if field_type(record.type, name, raw) in _BROUGHT:
            brought = record.added(name)
            if brought is not None and not brought.startswith("unknown-"):
                return brought
        if name == "key":
            return next(iter(values.keys(raw)), "")
        return interpret(record.type, name, raw, record.fields, self.names)

    def call_name(self, record: Record) -> str:
        """The system call of a SYSCALL record, the operation of URINGOP; "" if it is not known."""
        brought = record.added("uring_op" if record.type == "URINGOP" else "syscall")
        if brought is not None and not brought.startswith("unknown-"):
            return brought
        if record.type == "URINGOP":
            operation = record.integer("uring_op")
            return (None if operation is None else arch.uringop_name(operation)) or ""
        number = record.integer("syscall")
        return (None if number is None else arch.syscall_name(record.fields.get("arch", ""), number)) or ""

    def byteorder(self, record: Record) -> sockaddr.ByteOrder | None:
        """How the machine that made a system call writes numbers; None if it is not known."""
        machine = arch.machine(record.fields.get("arch", ""))
        return None if machine is None else machine.byteorder

    def result(self, record: Record) -> str | None:
        """The field that says how it ended: ``res``, of SELinux's decisions theirs, of seccomp's what it did."""
        if record.type == "SECCOMP":
            code = self.value(record, "code")
            return None if code is None else "yes" if code in ("allow", "log") else "no"
        value = record.raw("res")
        return record.raw("seresult") if value is None else value


def absolute(name: str, cwd: str | None) -> str:
    """The path that a name means in a folder, ``.`` and ``..`` taken out by their letters alone.

    A name that begins with a slash and has no ``..`` is left as it is; one without a folder too.
    """
    if name[:1] != "/":
        if cwd is None:
            return name
        name = f"{cwd}/{name}"
    elif "/.." not in name:
        return name
    if not _DOTS.search(name) and "//" not in name and name[-1] != "/":
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part and part != ".":
            parts.append(part)
    return "/" + "/".join(parts)
