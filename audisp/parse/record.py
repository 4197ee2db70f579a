"""One record, taken apart on demand: its type, its fields, what the sender wrote inside ``msg='...'``, what auditd
appended behind 0x1D.

A `Record` is a view on the text of one line, and knows neither stamp nor node: those are the event's, and without them
two records that say the same are equal text, which is what makes parsing once and sharing possible (`RecordReader`).
Fields of different records are never merged, and inside one record the first of several with one name counts, so that
nothing that stands later, in a part that a user-space sender wrote, replaces what the kernel stamped.
"""

from __future__ import annotations

import re
from typing import Final

from audisp.parse import values
from audisp.parse.memo import Memo
from audisp.parse.types import type_number

SEPARATOR: Final = "\x1d"
"""Between a record's own text and what ENRICHED format appends (upstream.md 2.3)."""

# A token starts at a blank: without the look-behind a long word without "=" would be tried from each of its letters.
# Braces (``SADDR={ saddr_fam=local path=... }``, a path of at most 108 bytes) are searched for their end that far only.
_FIELD: Final = re.compile(r"(?<![^ ])([^ =\"']++)=(\"[^\"]*\"|\{[^}]{0,1024}\}|[^ ]*)")
_INNER: Final = re.compile(r"(?<![^ ])msg='")
_ADDRESS: Final = re.compile(r"(?<![^ ])SADDR=\{")
_OLD_LOGIN: Final = re.compile(r"(?<![^ ])(old|new) (auid|ses)=")
_AVC: Final = re.compile(r"avc: {1,2}(\w{1,32}) {1,2}(?:\{([^}]{0,1024}+)\}|null)")
_ARGUMENT: Final = re.compile(r"a([0-9]{1,7})(?:\[([0-9]{1,7})\])?\Z")
_TRAILING: Final = ",:'"


def _clean(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Old PAM messages put commas and brackets around fields: ``(hostname=?, addr=?, terminal=cron res=success)``."""
    out = []
    for name, value in items:
        name = name.lstrip("(")
        if value and value[0] != '"':
            if value[-1] in _TRAILING:
                value = value[:-1]
            if value[-1:] == ")" and value not in ("(null)", "(none)") and "(" not in value:
                value = value[:-1]
        if name:
            out.append((name, value))
    return out


def split_enrichment(body: str) -> tuple[str, str]:
    """A record's own text, and what auditd appended to it ("" if nothing).

    The kernel never writes 0x1D, so behind the first one stands what was appended; that may hold anything, as the path
    of a socket does, ``msg='`` and 0x1D included. Only who may send user messages can write 0x1D into one. The kernel
    closes such a message with a quote, and auditd appends behind that; no appended value ends with one. So where
    ``msg='`` comes first, what stands behind the last quote counts, and nothing if the text ends with it.
    """
    at = body.find(SEPARATOR)
    if at < 0:
        return body, ""
    if _INNER.search(body, 0, at) is None:
        return body[:at], body[at + 1 :]
    if body.endswith("'"):
        return body, ""
    at = body.rfind("'" + SEPARATOR)
    return (body, "") if at < 0 else (body[: at + 1], body[at + 2 :])


def split_address(added: str) -> tuple[str, str | None, str]:
    """What was appended, cut around the value of ``SADDR``; None and "" if it has none.

    A socket's path stands in it as it is, blanks and braces included: the value ends with the last brace.
    """
    at = _ADDRESS.search(added)
    if at is None:
        return added, None, ""
    end = added.rfind("}") + 1
    return (added, None, "") if end < at.end() else (added[: at.start()], added[at.end() - 1 : end], added[end:])


class Record:
    """One record. type: its name, as written. body: text (latin-1 view) behind ``msg=audit(...):``, no blank before.

    Immutable and shared between events and threads; what is parsed is parsed on first use.
    """

    __slots__ = ("_enriched", "_fields", "_inner", "_split", "body", "type")

    def __init__(self, type_: str, body: str) -> None:
        self.type = type_
        self.body = body
        self._split: tuple[str, str, str] | None = None
        self._fields: dict[str, str] | None = None
        self._inner: dict[str, str] | None = None
        self._enriched: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<Record {self.type} {self.body[:60]!r}>"

    @property
    def number(self) -> int:
        """The type's number; 0 if it has none."""
        return type_number(self.type.encode("latin-1"))

    def parts(self) -> tuple[str, str, str]:
        """Outer text, text inside ``msg='...'`` ("" if there is none), enrichment ("")."""
        found = self._split
        if found is None:
            own, added = split_enrichment(self.body)
            own = own.removesuffix("\r")
            at = _INNER.search(own)
            if at is None:
                found = own, "", added
            else:
                end = own.rfind("'", at.end())
                found = own[: at.start()], own[at.end() : end if end >= 0 else None], added
            self._split = found
        return found

    def outer_items(self) -> list[tuple[str, str]]:
        """All outer fields in order, raw, repeated names included."""
        text = self.parts()[0]
        if self.type == "LOGIN" and "old auid=" in text:
            # Kernels before 3.3: "old auid=4294967295 new auid=0"; what is new has the plain name since.
            text = _OLD_LOGIN.sub(lambda found: ("old-" if found[1] == "old" else "") + found[2] + "=", text)
        items = _FIELD.findall(text)
        if self.type in ("AVC", "USER_AVC", "1400", "1107"):
            items += _avc(text)
        return _clean(items) if " (" in text or ", " in text or ": " in text else items

    def inner_items(self) -> list[tuple[str, str]]:
        """All fields inside ``msg='...'`` in order, raw."""
        text = self.parts()[1]
        items = _FIELD.findall(text)
        if "avc: " in text:
            items += _avc(text)
        return _clean(items)

    @property
    def fields(self) -> dict[str, str]:
        """Raw values by name, of what the kernel stamped: everything before ``msg='``. Not to be changed."""
        found = self._fields
        if found is None:
            found = self._fields = dict(reversed(self.outer_items()))
        return found

    @property
    def inner(self) -> dict[str, str]:
        """Raw values by name, of what a user-space sender wrote inside ``msg='...'``. Not to be changed."""
        found = self._inner
        if found is None:
            found = self._inner = dict(reversed(self.inner_items())) if self.parts()[1] else {}
        return found

    @property
    def enriched(self) -> dict[str, str]:
        """Raw values by (upper case) name, of what ENRICHED format appended. Not to be changed."""
        found = self._enriched
        if found is None:
            before, address, behind = split_address(self.parts()[2])
            items = [*_FIELD.findall(before), *_FIELD.findall(behind)]
            if address is not None:
                items.append(("SADDR", address))
            found = self._enriched = dict(reversed(items))
        return found

    def raw(self, name: str) -> str | None:
        """The value as it stands in the record: the kernel's field, else the inner one. None if there is neither."""
        value = self.fields.get(name)
        return self.inner.get(name) if value is None else value

    def get(self, name: str) -> str | None:
        """The value decoded: quotes and hexadecimal digits of strings resolved; None if absent, ``(null)`` or ``?``."""
        value = self.raw(name)
        if value is None:
            return None
        if name in values.STRINGS or value[:1] == '"':
            return values.string(value)
        if self.type == "EXECVE" and _ARGUMENT.match(name):
            return values.argument(value)
        return None if value in ("(null)", "(none)", "?", "") else values.from_text(value)

    def integer(self, name: str, base: int = 10) -> int | None:
        """The value as a number; None if absent or none."""
        return values.number(self.raw(name), base)

    def added(self, name: str) -> str | None:
        """What ENRICHED format says of a field (``auid`` gives the account's name); None if it says nothing."""
        value = self.enriched.get(name.upper())
        return None if value is None else values.string(value)


def _avc(text: str) -> list[tuple[str, str]]:
    """The words of an SELinux AVC that have no names, as auparse names them: seresult, seperms (comma joined)."""
    found = _AVC.search(text)
    if found is None:
        return []
    perms = ",".join(found[2].split()) if found[2] is not None else "null"
    return [("seresult", found[1]), ("seperms", perms)]


def arguments(records: list[Record]) -> tuple[list[str], list[str]]:
    """The argument vector of an event's EXECVE records, decoded, and what is wrong with it, in words.

    An argument longer than one record stands in pieces ``aN[0]``, ``aN[1]`` that may be in several records, of which
    only the first has ``argc``; pieces are joined by their numbers, before decoding. What is missing is left out, never
    filled in. Memory is that of the records, whatever argc and the numbers say.
    """
    whole: dict[int, str] = {}
    pieces: dict[int, dict[int, str]] = {}
    count: int | None = None
    wrong: list[str] = []
    for record in records:
        for name, value in record.fields.items():
            if name[0] != "a":
                continue
            if name == "argc":
                count = values.number(value) if count is None else count
                continue
            found = _ARGUMENT.match(name)
            if found is None:
                continue
            index = int(found[1])
            if found[2] is None:
                whole.setdefault(index, value)
            else:
                pieces.setdefault(index, {}).setdefault(int(found[2]), value)
    out: list[str] = []
    for index in sorted(whole.keys() | pieces.keys()):
        if index in whole:
            out.append(values.argument(whole[index]))
            continue
        parts = pieces[index]
        numbers = sorted(parts)
        if numbers != list(range(len(numbers))):
            wrong.append(f"a{index} has not all its pieces")
        texts = [parts[each] for each in numbers]
        if all(values.is_hex(each) for each in texts):
            out.append(values.to_str(bytes.fromhex("".join(texts))))
        else:
            out.append(values.to_str(b"".join([values.unquote(each) for each in texts])))
    if count is not None and count != len(out):
        wrong.append(f"argc says {count}, there are {len(out)} arguments")
    return out, wrong


class RecordReader:
    """Makes records of stripped lines (``type=NAME FIELDS``, the ``msg=audit(...):`` taken out), each text once.

    Streams repeat themselves: the same working directory, the same program, the same title. Bounded in entries and in
    bytes, so that a sender who never repeats himself costs a miss each time and no memory. From any thread.
    """

    __slots__ = ("_memo",)

    def __init__(self) -> None:
        self._memo: Memo[Record] = Memo()

    def read(self, line: str) -> Record:
        """The record of a stripped line, as `Event.lines` gives them."""
        found = self._memo.get(line)
        if found is None:
            head, _, body = line.partition(" ")
            found = Record(head[5:], body.removesuffix("\r"))
            self._memo.put(line, found, len(line))
        return found
