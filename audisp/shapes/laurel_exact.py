"""laurel's JSON of records, read token by token: the path that understands everything, and says what the fast one must
say (`audisp.shapes.laurel_fast`).

A record's text is what laurel 0.5.1 takes it for, as its answers show (``docs/shapes/laurel.md``): tokens
``NAME=VALUE``, a value in quotes, in braces or of printable ASCII, blanks or 0x1D between. What is no token laurel
refuses together with its record; here the tokens are kept, and beside them the text itself as ``raw``, so that nothing
is lost. A name counts once in a record: two keys of one name in a JSON object are read differently by different
readers. What is different later goes to ``raw`` as well.

Texts are latin-1 views throughout, results are JSON text in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from audisp.parse.assemble import stands_alone
from audisp.parse.record import split_address, split_enrichment
from audisp.parse.types import type_name, type_number
from audisp.parse.values import STRINGS
from audisp.shapes.json_text import percent, percent_bytes, string
from audisp.shapes.laurel_fields import DECIMAL, DECIMAL_ENDS, HEXADECIMAL, OCTAL


@attrs.frozen
class Added:
    """JSON to add to an event. call: fields of SYSCALL, each with a comma before it. environment: EXECVE's ENV, "" for
    none. last: keys of the event, each with a comma before it."""

    call: str = ""
    environment: str = ""
    last: str = ""


NOTHING_ADDED: Final = Added()

Fragment = Callable[[str], "tuple[Key, str]"]
"""From a stripped line to its key and its object."""

OBJECT: Final = 0
"""One object: SYSCALL, EXECVE, CWD, PROCTITLE, and what is an event by itself."""
LIST: Final = 1
"""A list of objects."""
NOTHING: Final = 2
"""EOE."""

SYSCALL: Final = 1300
CWD: Final = 1307
EXECVE: Final = 1309
EOE: Final = 1320
PROCTITLE: Final = 1327
OBJECTS: Final = frozenset({SYSCALL, CWD, EXECVE, PROCTITLE})
"""Types of which an event has one object, beside those that are events by themselves."""

MAX_HOLES: Final = 64
"""Arguments that are missing are null, as long as there are no more of them than that; else they are left out. A number
that somebody makes up must not make a list of a million."""

RESERVED: Final = frozenset({"ID", "NODE", "CONTAINER_INFO", "REPEATED", "UNKNOWN"})
"""Keys of an event that are no type's."""
OURS: Final = frozenset({"ARGV", "ENV", "LABELS", "PID", "PPID", "SCRIPT", "SPAWNED_BY", "raw"})
"""Keys of a record that no field may take."""

_TYPE: Final = re.compile(r"[A-Z][A-Z0-9_]*\Z")
# Each class stops at what follows it, and a brace is given up at the next "={": no text is looked at twice.
_NAME: Final = r"[A-Za-z][A-Za-z0-9_-]*+(?:\[[0-9]{1,7}\])?"
_BARE: Final = r"[!#-&(-z|~]*+"
_TOKEN: Final = re.compile(rf"[ \x1d]*+({_NAME})=(\"[^\"]*+\"|'[^']*+'|\{{(?:[^}}=]|=(?!\{{))*\}}|{_BARE})(?![^ \x1d])")
_WORDS: Final = re.compile(r"(?: *+[A-Za-z,.:]++(?![^ ])){1,8}")
_PREFIX: Final = re.compile(r"(?:policy loaded|user|login|tty) (?=[a-z]+=)")
"""Words that kernels wrote before the fields of their records, and that say nothing."""
_MESSAGE: Final = re.compile(r"(?<![^ ])msg='")
_PIECE: Final = re.compile(r"a([0-9]{1,7})(?:\[([0-9]{1,7})\])?\Z")
_LENGTH: Final = re.compile(r"a[0-9]{1,7}_len\Z")
_ARGUMENT: Final = re.compile(r"a[0-9]{1,7}\Z")
_BRACED: Final = re.compile(rf"\{{ ?({_NAME}={_BARE}(?: {_NAME}={_BARE})*) ?\}}\Z")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,32}\Z")
_HEXADECIMAL: Final = re.compile(r"0*+([0-9A-Fa-f]{1,16})\Z|0++\Z")
_OCTAL: Final = re.compile(r"[0-7]{1,32}\Z")
_PAIRS: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+\Z")
_DIGITS: Final = re.compile(r"[0-9]*\Z")
_AVC: Final = re.compile(r"avc: {1,2}(denied|granted) {1,2}(?:\{([^{}]{0,1024})\}|null)(?: {1,2}for)?(?![^ ])")
_STAMP: Final = re.compile(r"([0-9]{1,20})\.([0-9]{1,3}):([0-9]{1,20})\Z")
_OLD_LOGIN: Final = re.compile(r"(?<![^ ])(old|new) (auid|ses)=")

_I64: Final = 1 << 63
_U64: Final = 1 << 64
_HEX_STRINGS: Final = STRINGS | {"saddr"}
"""Fields in which digits alone are an encoded string; in others ``42`` is a number, if laurel knows it or not."""

Items = list[tuple[str, str]]
"""Names and raw values, in order."""


@attrs.frozen(eq=False)
class Key:
    """What a record type is called in an event's object. named: "" or, of a type that cannot be a key, its name."""

    name: str
    kind: int
    number: int
    named: str = ""
    opens: str = attrs.field(init=False)
    """What stands before its first object, behind another key's."""
    closes: str = attrs.field(init=False)
    """What stands behind its last object."""

    @opens.default
    def _opens(self) -> str:
        return f',"{self.name}":[' if self.kind == LIST else f',"{self.name}":'

    @closes.default
    def _closes(self) -> str:
        return "]" if self.kind == LIST else ""


def key_of(type_: str) -> Key:
    """The key of a type, as the record writes it."""
    number = type_number(type_.encode("latin-1", "replace"))
    if number:
        kind = OBJECT if stands_alone(number) or number in OBJECTS else LIST
        return Key(type_name(number).decode("ascii"), NOTHING if number == EOE else kind, number)
    if _TYPE.match(type_) is None or type_ in RESERVED:
        return Key("UNKNOWN", LIST, 0, type_)
    return Key(type_, OBJECT, 0)


def tokens(text: str) -> tuple[Items, bool]:
    """The tokens of a text up to the first thing that is none, and whether there is such a thing: behind it anything
    may have been written by anybody. Words at the start are no tokens either, but old kernels put them there."""
    items: Items = []
    found = _WORDS.match(text)
    at = 0 if found is None else found.end()
    odd = at > 0
    while (found := _TOKEN.match(text, at)) is not None:
        items.append((found[1], found[2]))
        at = found.end()
    return items, odd or text[at:].strip(" \x1d") != ""


def items_of(type_: str, body: str) -> tuple[Items, bool]:
    """All tokens of a record's body, and whether there is anything else. The message of a user-space sender is one,
    from its quote to the last one: what it writes between is never a field."""
    prefix = _PREFIX.match(body)
    if prefix is not None:
        body = body[prefix.end() :]
    own, added = split_enrichment(body)
    found = _MESSAGE.search(own) if "msg='" in own else None
    if found is not None:
        end = own.rfind("'", found.end())
        message = own[found.end() : end if end >= 0 else None]
        behind = own[end + 1 :] if end >= 0 else "'"
        items, odd = tokens(own[: found.start()])
        more, odder = _added(added)
        return [*items, ("msg", f"'{message}'"), *more], odd or odder or behind.strip(" ") != ""
    if type_ == "LOGIN" and "old auid=" in own:
        # Kernels before 3.3: "old auid=4294967295 new auid=0"; what is new has the plain name since.
        own = _OLD_LOGIN.sub(lambda found: ("old-" if found[1] == "old" else "") + found[2] + "=", own)
    items, odd = tokens(own)
    more, odder = _added(added)
    return [*items, *more], odd or odder


def _added(added: str) -> tuple[Items, bool]:
    """The tokens that ENRICHED format appended. A socket's path is one value, whatever is in it."""
    before, address, behind = split_address(added)
    items, odd = tokens(before)
    if address is None:
        return items, odd
    more, odder = tokens(behind)
    return [*items, ("SADDR", address), *more], odd or odder


def number(name: str, value: str) -> str | None:
    """JSON of a field whose name says that it is a number; None if it is another."""
    if name in DECIMAL or name.endswith(DECIMAL_ENDS):
        if _DECIMAL.match(value) and -_I64 < int(value) < _I64:
            return str(int(value))
    elif name in HEXADECIMAL:
        return hexadecimal(value)
    elif name in OCTAL:
        if _OCTAL.match(value) and int(value, 8) < _U64:
            return f'"0o{int(value, 8):o}"'
    else:
        return None
    return string(value)


def hexadecimal(value: str) -> str:
    """JSON of digits, of at most 64 bits, or of whatever stands in their place."""
    found = _HEXADECIMAL.match(value)
    return string(value) if found is None else f'"0x{int(value, 16):x}"'


def holds_digits(name: str, value: str) -> bool:
    """Whether a value without quotes is an encoded string."""
    return _PAIRS.match(value) is not None and (name in _HEX_STRINGS or _DIGITS.match(value) is None)


def title(value: str) -> list[str]:
    """A process's title, cut as laurel cuts it: a NUL at which a piece would be empty begins the next one."""
    pieces, start = [], 0
    while True:
        end = value.find("\0", start)
        if end == start:
            end = value.find("\0", start + 1)
        if end < 0:
            break
        pieces.append(value[start:end])
        start = end + 1
    if start < len(value):
        pieces.append(value[start:])
    return pieces


class Exact:
    """Records as JSON. questions: a ``?`` without quotes is null, as in laurel 0.5; False: text, as in laurel 0.8."""

    __slots__ = ("_null",)

    def __init__(self, *, questions: bool = True) -> None:
        self._null = frozenset({"(null)", "?"} if questions else {"(null)"})

    def value(self, name: str, value: str) -> str:
        """JSON of one field's raw value."""
        first = value[:1]
        if first in ('"', "'"):
            return string(value[1:-1])
        if first == "{":
            found = _BRACED.match(value)
            return string(value if found is None else f"{{{found[1]}}}")
        if not value:
            return "null"
        known = number(name, value)
        return self.text(name, value) if known is None else known

    def text(self, name: str, value: str) -> str:
        """The same of a field that is no number."""
        if value in self._null:
            return "null"
        if holds_digits(name, value):
            return f'"{percent_bytes(bytes.fromhex(value))}"'
        return string(value)

    def line(self, line: str) -> tuple[Key, str]:
        """Key and object of a stripped line."""
        head, _, body = line.partition(" ")
        type_ = head[5:]
        key = key_of(type_)
        if key.kind == NOTHING:
            return key, ""
        return key, self.execve([body]) if key.number == EXECVE else self.record(key, type_, body)

    def record(self, key: Key, type_: str, body: str) -> str:
        """One record's object, of any type but EXECVE (see `execve`)."""
        body = body.removesuffix("\r")
        avc = _AVC.match(body) if body.startswith("avc:") else None
        items, odd = items_of(type_, body if avc is None else body[avc.end() :])
        out: dict[str, str] = {}
        if key.named:
            out["type"] = string(key.named)
        if key.number == SYSCALL:
            calls = [value for name, value in items if _ARGUMENT.match(name)]
            items = [each for each in items if not _ARGUMENT.match(each[0])]
            odd |= self._fill(out, items)
            out["ARGV"] = f"[{','.join([hexadecimal(value) for value in calls])}]"
        elif key.number == PROCTITLE and any(name == "proctitle" for name, _ in items):
            value = next(value for name, value in items if name == "proctitle")
            odd |= len(items) != 1
            out |= self._title(value)
        else:
            odd |= self._fill(out, items)
        if avc is not None and avc[1] not in out:
            out[avc[1]] = f"[{','.join(map(string, (avc[2] or '').split()))}]"
        if odd:
            out["raw"] = string(body)
        return object_of(out)

    def _fill(self, out: dict[str, str], items: Items) -> bool:
        """Put fields in; whether one had to be left out."""
        odd = False
        for name, value in items:
            text = self.value(name, value)
            if name in OURS or out.setdefault(name, text) != text:
                odd = True
        return odd

    def _title(self, value: str) -> dict[str, str]:
        if value[:1] in ('"', "'"):
            return {"ARGV": f"[{string(value[1:-1])}]"}
        if not value or value in self._null:
            return {"proctitle": "null"}
        if not holds_digits("proctitle", value):
            return {"ARGV": f"[{string(value)}]"}
        decoded = bytes.fromhex(value).decode("latin-1")
        return {"ARGV": f"[{','.join(map(string, title(decoded)))}]"}

    def execve(self, bodies: Iterable[str], environment: str = "") -> str:
        """The object of an event's EXECVE records together: an argument's pieces may be in several. environment: JSON
        of the variables that were asked for, or nothing."""
        out: dict[str, str] = {}
        whole: dict[int, str] = {}
        pieces: dict[int, dict[int, str]] = {}
        raw = []
        for text in bodies:
            body = text.removesuffix("\r")
            items, odd = items_of("EXECVE", body)
            fields = []
            for name, value in items:
                found = _PIECE.match(name)
                if found is None:
                    if not _LENGTH.match(name):
                        fields.append((name, value))
                elif found[2] is None:
                    odd |= whole.setdefault(int(found[1]), value) != value
                else:
                    odd |= pieces.setdefault(int(found[1]), {}).setdefault(int(found[2]), value) != value
            odd |= self._fill(out, fields)
            if odd:
                raw.append(body)
        out["ARGV"] = f"[{','.join(self._arguments(whole, pieces))}]"
        if environment:
            out["ENV"] = environment
        if raw:
            out["raw"] = string("\n".join(raw))
        return object_of(out)

    def _arguments(self, whole: dict[int, str], pieces: dict[int, dict[int, str]]) -> list[str]:
        numbers = sorted(whole.keys() | pieces.keys())
        if not numbers:
            return []
        out = {}
        for at in numbers:
            if at in whole:
                out[at] = self._argument(whole[at])
            else:
                parts = [pieces[at][each] for each in sorted(pieces[at])]
                if all(map(_PAIRS.match, parts)):
                    out[at] = f'"{percent_bytes(bytes.fromhex("".join(parts)))}"'
                else:
                    out[at] = f'"{percent("".join([_bytes(part) for part in parts]))}"'
        if numbers[-1] + 1 - len(numbers) > MAX_HOLES:
            return list(out.values())
        return [out.get(at, "null") for at in range(numbers[-1] + 1)]

    def _argument(self, value: str) -> str:
        if value[:1] in ('"', "'"):
            return string(value[1:-1])
        if not value or value in self._null:
            return "null"
        return f'"{percent_bytes(bytes.fromhex(value))}"' if _PAIRS.match(value) else string(value)


def _bytes(part: str) -> str:
    """What a piece of an argument stands for."""
    if part[:1] in ('"', "'"):
        return part[1:-1]
    return bytes.fromhex(part).decode("latin-1") if _PAIRS.match(part) else part


def object_of(fields: dict[str, str]) -> str:
    """A JSON object of names, which need no escaping, and values, which are JSON."""
    return "{" + ",".join([f'"{name}":{text}' for name, text in fields.items()]) + "}"


def identity(stamp: str) -> str:
    """laurel's ID: seconds and serial without leading zeros, three digits of milliseconds. "" of no stamp."""
    found = _STAMP.match(stamp)
    return "" if found is None else f"{int(found[1])}.{int(found[2]):03d}:{int(found[3])}"


def event_text(
    opening: str, lines: Iterable[str], exact: Exact, fragment: Fragment | None = None, more: Added = NOTHING_ADDED
) -> str:
    """JSON of an event, "" if there is nothing in it. opening: its first keys and values.

    lines: stripped (`audisp.event.Event.lines`). fragment: gives key and object of a line, remembered; None for exact.
    more: what is known of the event's process.
    """
    read = fragment or exact.line
    texts: dict[str, list[str]] = {}
    keys: dict[str, Key] = {}
    programs: list[str] = []
    again: list[str] = []
    for line in lines:
        key, text = read(line)
        if key.kind == NOTHING:
            continue
        known = texts.get(key.name)
        if key.number == EXECVE:
            programs.append(line)
        if known is None:
            texts[key.name] = [text]
            keys[key.name] = key
        elif key.number == EXECVE:
            continue
        elif key.kind == LIST:
            known.append(text)
        elif text != known[0]:
            again.append(f'{{"{key.name}":{text}}}')
    if not texts:
        return ""
    if len(programs) > 1 or (programs and more.environment):
        bodies = [line.partition(" ")[2] for line in programs]
        texts["EXECVE"] = [exact.execve(bodies, more.environment)]
    last = ""
    if "SYSCALL" in texts:
        texts["SYSCALL"] = [f"{texts['SYSCALL'][0][:-1]}{more.call}}}"]
        last = more.last
    parts = [opening]
    for name, found in texts.items():
        parts.append(f"{keys[name].opens}{','.join(found)}{keys[name].closes}")
    if again:
        parts.append(f',"REPEATED":[{",".join(again)}]')
    return "{" + "".join(parts) + last + "}\n"
