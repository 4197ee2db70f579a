"""csv: the columns of `ausearch --format csv`, one row per event.

Values are auparse's words (`audisp.shapes.normal`). The writing is stricter than ausearch's, which quotes nothing: a
cell with a comma, a quote or an end of line is quoted (RFC 4180), one that a spreadsheet would take for a formula gets
an apostrophe, and characters that a terminal acts on are escaped. Times are UTC.
"""

from __future__ import annotations

import re
from typing import Final

from audisp.event import Event
from audisp.parse.form import terminal_safe
from audisp.parse.record import Record
from audisp.parse.sockaddr import SockAddr, render
from audisp.shapes.normal import Call, Normal, Normaliser
from audisp.shapes.normal_calls import STALE, Calls, Recall, changes_accounts, single
from audisp.shapes.normal_values import Reader
from audisp.shapes.shape import ShapeSettings

COLUMNS: Final = (
    "NODE", "EVENT", "DATE", "TIME", "SERIAL_NUM", "EVENT_KIND", "SESSION", "SUBJ_PRIME", "SUBJ_SEC", "SUBJ_KIND",
    "ACTION", "RESULT", "OBJ_PRIME", "OBJ_SEC", "OBJ_KIND", "HOW",
)  # fmt: skip
"""ausearch's header (upstream.md 10; ausearch 3.0.9 of Debian 12 prints the same)."""
HEADER: Final = ",".join(COLUMNS).encode() + b"\n"
LONGEST_CELL: Final = 4_096
"""Characters of one cell: PATH_MAX. A command line can have two megabytes; no spreadsheet takes more than 32,767."""

_FORMULA: Final = re.compile(r"[=+\-@\t\r']")
"""What a cell begins with that a spreadsheet would run, and the apostrophe that keeps it from that: one more, so that
one can always be taken off."""
_QUOTED: Final = re.compile(r"[\",\r\n]")


def cell(text: str) -> str:
    """One cell. text: with surrogates for bytes that are not UTF-8."""
    if len(text) > LONGEST_CELL:
        text = text[: LONGEST_CELL - 1] + "…"
    elif text.isalnum() and text.isascii():
        return text
    guarded = "'" + text if _FORMULA.match(text) else text
    safe = terminal_safe(guarded)
    return '"' + safe.replace('"', '""') + '"' if _QUOTED.search(safe) else safe


class Csv:
    """The shape. `header` is the line that a file of it begins with; rows do not repeat it."""

    name = "csv"
    header = HEADER

    def __init__(self, settings: ShapeSettings) -> None:
        self._normaliser = Normaliser(Reader(settings.names))
        self._calls: Calls[tuple[str, str, bool, str]] = Calls(self._normaliser, _call_cells, cell, _address_cell)
        self._singles: Recall[tuple[str, str]] = Recall()
        self._since = 0.0
        self._second, self._date = "", ""
        self._node, self._node_cell = "", ""

    def _forget(self) -> None:
        self._calls.forget()
        self._singles.forget()

    def render(self, event: Event) -> bytes:
        """The event's row; b"" for an EOE alone and for a line that belongs to no event."""
        stamp = event.stamp
        if not stamp:
            return b""
        if event.arrived - self._since > STALE:
            self._since = event.arrived
            self._forget()
        second, _, rest = stamp.partition(".")
        if second != self._second:
            self._second, self._date = second, date_time(event)
        serial = rest[rest.index(":") + 1 :]
        node = event.node
        if node != self._node:
            self._node, self._node_cell = node, cell(node)
        found = self._calls.read(event)
        if found is not None:
            (left, kind, by_mode, how), (object_, object2, object_kind), _, session = found
            if by_mode and object_kind:
                kind = object_kind
            start = f"{self._node_cell},SYSCALL,{self._date},{serial},audit-rule,{session}"
            return f"{start},{left},{object_},{object2},{kind},{how}\n".encode()
        type_, rest = self._other(event)
        return f"{self._node_cell},{type_},{self._date},{serial},{rest}\n".encode() if type_ else b""

    def _other(self, event: Event) -> tuple[str, str]:
        """Type, and the cells from EVENT_KIND on, of an event that is no plain system call; "" if it has no row."""
        key = None
        if changes_accounts(event):
            self._forget()
        else:
            key = single(event)
        found = None if key is None else self._singles.get(key)
        if found is None:
            normal = self._normaliser.normal(event)
            found = ("", "") if normal is None else (cell(normal.type), cells(normal))
            if key is not None:
                self._singles.keep(key, found)
        return found


def date_time(event: Event) -> str:
    """The cells DATE and TIME as ausearch prints them in the C locale: ``11/26/26,14:03:21``."""
    return event.time.strftime("%m/%d/%y,%H:%M:%S")


def cells(normal: Normal) -> str:
    """The cells from EVENT_KIND on."""
    return ",".join(
        map(
            cell,
            (
                normal.kind,
                normal.session,
                normal.subject,
                normal.acting,
                normal.subject_kind,
                normal.action,
                normal.result,
                normal.object,
                normal.object2,
                normal.object_kind,
                normal.how,
            ),
        )
    )


def _call_cells(call: Call, _: Record) -> tuple[str, str, bool, str]:
    rule = call.rule
    left = (call.subject, call.acting, call.subject_kind, rule.action, call.result)
    return ",".join(map(cell, left)), rule.kind, rule.by_mode, cell(call.how)


def _address_cell(address: SockAddr) -> str:
    return cell(render(address))
