"""One record in audisp-syslog's interpreted form: ``arch=x86_64 syscall=openat auid=alice ...``, field by field.

Made for one reader that has only records (the plugin `syslog` with ``args = interpret``); for events there are shapes.
What a sender wrote stands beside what the kernel said, as in the C program, whose manual page warns of that.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

import attrs

from audisp.parse.arch import machine
from audisp.parse.interpret import Names, escape, interpret
from audisp.parse.record import Record
from audisp.parse.sockaddr import decode

_LINE: Final = re.compile(
    rb"(?:node=[^ \n]+ )?type=([^ \n]+) msg=audit\(([0-9]{1,20})\.[0-9]{1,3}:[0-9]{1,20}\):([^\n]*)"
)


@attrs.frozen
class Interpreted:
    """One record: its type, its second, and its fields, each ``name=value`` with a blank behind it."""

    type: str
    second: int
    fields: str


def interpreted(line: bytes, names: Names) -> Interpreted | None:
    """The record of a line (LF or not); None for EOE, for one without fields, and for a line that is no record."""
    found = _LINE.match(line)
    if found is None:
        return None
    record = Record(found[1].decode("latin-1"), found[3].decode("latin-1").lstrip(" "))
    outer, inner = record.outer_items(), record.inner_items()
    if record.type == "EOE" or not (outer or inner):
        return None
    context = record.fields
    shown = [f"{name}={_value(record, name, value, context, names)} " for name, value in outer]
    shown += [f"{name}={_value(record, name, value, record.inner, names)} " for name, value in inner]
    return Interpreted(record.type, int(found[2]), "".join(shown))


def _value(record: Record, name: str, value: str, context: dict[str, str], names: Names) -> str:
    if name == "saddr":
        arch = machine(context.get("arch", ""))
        address = decode(value, None if arch is None else arch.byteorder)
        # The C program names the address, or where there is none the family.
        text = address.address or address.family or value
    else:
        added = record.enriched.get(name.upper())
        text = record.added(name) or value if added is not None else interpret(record.type, name, value, context, names)
        if record.type == "PATH" and name == "name" and text.startswith("/"):
            text = posixpath.normpath(text)
    return escape(text, "tty")
