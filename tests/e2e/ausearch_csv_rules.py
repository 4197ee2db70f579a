"""How our rows may differ from those of Debian's `ausearch --format csv` (3.0.9), case by case, each with its reason.

`explain` names the rule that accounts for a difference in one cell, or None: then it is a defect of ours, or a rule is
missing. The table in docs/shapes/csv.md has these names; tests/e2e/test_ausearch_csv.py holds them together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from audisp.event import Event
from audisp.parse.record import Record
from audisp.parse.types import NAME, type_number
from audisp.shapes.normal import OPERATIONS, compounds, rules
from audisp.shapes.normal_values import Reader
from tests.e2e.ausearch_rules import HostNames

Row = Mapping[str, str]
"""Cells by the name of their column."""
OBJECT: Final = ("OBJ_PRIME", "OBJ_SEC", "OBJ_KIND")
SUBJECT: Final = ("SUBJ_PRIME", "SUBJ_SEC", "SUBJ_KIND")
_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")


def as_ausearch(cell: str) -> str:
    """A cell of ours as ausearch writes it: no apostrophe before a formula, control characters in octal."""
    text = re.sub(r"\A'(?=[=+\-@'\t\r\\])", "", cell)
    return _ESCAPED.sub(lambda found: f"\\{int(found[1], 16):03o}" if int(found[1], 16) < 0x20 else found[0], text)


@attrs.frozen
class Difference:
    """One cell on which we differ; ours `as_ausearch`, theirs as it stands. first: the two whole rows."""

    column: str
    ours: str
    theirs: str
    event: Event
    our_row: Row
    their_row: Row

    @property
    def types(self) -> set[str]:
        """Types of the event's records."""
        return {record.type for record in self.event.records}

    def record(self, type_: str) -> Record | None:
        """The first record of a type, whether its name or its number stands there."""
        number = type_number(type_.encode())
        return next((each for each in self.event.records if each.number == number), None)

    @property
    def call(self) -> str:
        """The system call, "" if it is not known."""
        record = self.record("SYSCALL")
        return "" if record is None else Reader(HostNames()).call_name(record)


def _said(it: Difference) -> bool:
    """What we say stands in the event: a field of one of its records, as it is or decoded, or a part of a path."""
    if not it.ours or it.column in ("OBJ_KIND", "SUBJ_KIND", "EVENT_KIND", "ACTION", "RESULT"):
        return True
    reader = Reader(HostNames())
    values: set[str] = set()
    for record in it.event.records:
        for name, raw in [*record.outer_items(), *record.inner_items()]:
            values.add(raw)
            values.add(reader.value(record, name) or "")
            values.add(record.get(name) or "")
    tail = it.ours.rpartition("/")[2]
    return any(it.ours in value or (tail and tail in value) for value in values if value)


def _numeric_type(it: Difference) -> bool:
    first = it.event.records[0].type
    unknown = type_number(first.encode()) not in NAME
    return it.column == "EVENT" and not it.theirs and unknown


def _login(it: Difference) -> bool:
    return "LOGIN" in it.types and it.column == "HOW" and "SYSCALL" in it.types and not it.theirs


def _other_half(it: Difference) -> bool:
    return {"LOGIN", "SYSCALL"} <= it.types and it.their_row["EVENT"] == "SYSCALL" and it.our_row["EVENT"] == "LOGIN"


def _old_login(it: Difference) -> bool:
    record = it.record("LOGIN")
    return record is not None and "old auid=" in record.body and it.column in ("SESSION", *SUBJECT, *OBJECT, "RESULT")


def _filled(it: Difference) -> bool:
    nothing = it.theirs in ("", "unknown", "did-unknown") or (it.column == "OBJ_KIND" and not it.their_row["OBJ_PRIME"])
    return nothing and it.ours not in ("", "unknown") and _said(it)


def _unnormalised(it: Difference) -> bool:
    return not any(it.their_row[name] for name in ("EVENT_KIND", "ACTION", "OBJ_KIND"))


def _wrong_record(it: Difference) -> bool:
    """The field was looked for from the wrong record on: an AVC's, or one of SYSCALL's, stands there."""
    others = it.types & (compounds().keys() | {"MMAP"}) or it.call in ("kill", "tkill", "tgkill")
    module = it.their_row["ACTION"] == "loaded-kernel-module" and "KERN_MODULE" not in it.types
    return (bool(others) and it.column in (*OBJECT, "HOW", "RESULT") and _said(it)) or (
        module and it.column == "OBJ_PRIME" and not it.ours
    )


def _one_killed(it: Difference) -> bool:
    several = len(it.event.of("OBJ_PID")) > 1
    words = {it.ours, it.theirs} == {"killed-pid", "killed-list-of-pids"}
    return it.column == "ACTION" and words and it.ours == ("killed-list-of-pids" if several else "killed-pid")


def _operation(it: Difference) -> bool:
    record = it.record("CONFIG_CHANGE")
    if record is None or "SYSCALL" not in it.types:
        return False
    op = (record.raw("op") or "").strip('"')
    if it.column == "ACTION":
        return it.ours == OPERATIONS.get(op, "changed-audit-configuration")
    return it.column in OBJECT and (it.ours in ("", "audit-config") or _said(it))


def _link(it: Difference) -> bool:
    return "ANOM_LINK" in it.types and it.column in ("ACTION", *OBJECT) and it.our_row["ACTION"].startswith("used-")


def _known_call(it: Difference) -> bool:
    """A system call that libaudit1 3.0.9 does not know, or of a machine that it was not built for."""
    return it.their_row["ACTION"].startswith(("triggered-", "checked-")) and it.call in rules()


def _dots(it: Difference) -> bool:
    names = [path.name or "" for path in it.event.paths]
    return it.column == "OBJ_PRIME" and any(re.search(r"(^|/)\.\.?(/|$)|//|/$", name) or not name for name in names)


def _no_name(it: Difference) -> bool:
    nameless = any(path.name is None for path in it.event.paths)
    return it.column == "OBJ_PRIME" and not it.ours and nameless and it.theirs.endswith(("(null)", "?"))


def _abstract(it: Difference) -> bool:
    leading = any((path.name or "").startswith("\0") for path in it.event.paths)
    return it.column == "OBJ_PRIME" and ("path=@" in it.ours or leading)


def _address(it: Difference) -> bool:
    return it.column == "OBJ_PRIME" and "saddr_fam=" in it.ours + it.theirs and "SOCKADDR" in it.types


def _unsigned(it: Difference) -> bool:
    return it.column in SUBJECT and any("unknown(-" in it.their_row[name] for name in SUBJECT)


def _no_number(it: Difference) -> bool:
    """An id that is no number is not root's."""
    record = it.event.records[0] if it.record("SYSCALL") is None else it.record("SYSCALL")
    assert record is not None
    ids = [record.raw(name) or "0" for name in ("auid", "uid", "id")]
    return it.column in SUBJECT and not all(re.fullmatch("[0-9]+|-1", each) for each in ids)


def _account(it: Difference) -> bool:
    return it.column == "SUBJ_KIND" and it.our_row["EVENT"] == "USER_LOGIN" and it.event.records[0].raw("id") is None


def _seccomp(it: Difference) -> bool:
    return it.column == "OBJ_PRIME" and it.our_row["EVENT"] == "SECCOMP" and it.theirs.startswith("unknown-syscall(")


def _uring(it: Difference) -> bool:
    return "URINGOP" in it.types and "SYSCALL" not in it.types


def _quotes(it: Difference) -> bool:
    """A value in quotes with a blank in it, which auparse cuts there."""
    text = "".join(record.body for record in it.event.records)
    return bool(it.theirs) and re.search(r'="[^"]*[ \']', text) is not None


def _inner(it: Difference) -> bool:
    """Fields that a user-space sender hid in a quoted value, which auparse takes for the record's own."""
    record = it.event.records[0]
    return record.parts()[1] != "" and re.search(r'="[^"]*[ \'][^"]*=', record.body) is not None


def _lower_bytes(it: Difference) -> bool:
    """Bytes that are no UTF-8, and DEL and C1 characters, which ausearch prints as they are."""
    return re.search(r"\\x[7-9a-f][0-9a-f]|\\u[0-9a-f]{4}", it.ours) is not None


def _long(it: Difference) -> bool:
    return it.ours.endswith("…") and it.theirs.startswith(it.ours[:-1])


_SUFFICES: Final[tuple[tuple[str, Callable[[Difference], bool]], ...]] = (
    ("not normalised", _unnormalised),
    ("types without a name", _numeric_type),
    ("login and its call", lambda it: _login(it) or _other_half(it)),
    ("old logins", _old_login),
    ("io_uring", _uring),
    ("killed", _one_killed),
    ("rules changed", _operation),
    ("links", _link),
    ("seccomp's call", _seccomp),
    ("not a number", _no_number),
    ("unsigned ids", _unsigned),
    ("accounts by name", _account),
    ("no name", _no_name),
    ("abstract names", _abstract),
    ("dots", _dots),
    ("later calls", _known_call),
    ("filled", _filled),
    ("wrong record", _wrong_record),
    ("hidden fields", _inner),
    ("brackets", lambda it: it.ours == it.theirs + ")"),
    ("quotes", _quotes),
    ("addresses", _address),
    ("escapes", _lower_bytes),
    ("long cells", _long),
)

RULES: Final = tuple(name for name, _ in _SUFFICES)
"""Every difference in a cell, by the name it has in the documentation."""


def explain(it: Difference) -> str | None:
    """The first rule that accounts for a difference; None if none does."""
    return next((name for name, holds in _SUFFICES if holds(it)), None)
