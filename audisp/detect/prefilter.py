"""Which events a rule may be true of, found without taking any event apart.

All texts of all rules are looked for at once, in the lower-cased bytes of a whole batch (Aho-Corasick, one step per
byte). What the kernel encoded in hexadecimal digits is decoded and looked through as well: arguments, and those fields
in which a rule looks for text. So are arguments that came in pieces. The rest of the work, which is most of it, is done
for the few events in which something was found.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import attrs
from ahocorasick_rs import BytesAhoCorasick, Implementation

from audisp.detect.form import And, Is, Node, Not, Or, Rule
from audisp.detect.images import Images, image_of
from audisp.detect.literals import ARGUMENTS, CONNECTED, CREATED, PROCESS, RECORD_FIELDS, types_of, wanted_of
from audisp.detect.views import words_of
from audisp.event import Run
from audisp.parse import values
from audisp.parse.record import Record

MAX_NEEDLES: Final = 100_000
"""Texts of all rules: the automaton takes some 100 bytes for each character of one."""

_ARGUMENTS: Final = re.compile(rb"type=execve msg=audit\([^)\n]++\): ([^\n]*+)")
_ENCODED: Final = re.compile(rb"[ (](a[0-9]{1,7}+)=([0-9a-f]{2,}+)")
_PIECE: Final = re.compile(rb"[ (]a[0-9]{1,7}+\[")
_DIGITS: Final = re.compile(rb"[0-9a-f]{2,}+")
_SEPARATORS: Final = (b" ", b"'", b"(")
"""What stands before a field's name."""

Found = dict[int, int]
"""Rules that may be true, as bits, by the event's position in its batch."""


@attrs.frozen
class Scan:
    """What was found in a batch. starts: positions of events with arguments, in order. children: rules
    that may be true if their questions about the parent (`Prefilter.parents`) are, by position."""

    found: Found
    starts: list[int]
    children: Found
    watched: Found | None
    """Bits of the texts of `Prefilter.watched`, by position; None if there are none."""
    images: dict[int, bytes]
    """Programs' files in lower case, where they are seen without taking the event apart."""


def fields_of(node: Node) -> frozenset[str | None]:
    """The fields that a condition looks at; None among them if it has keywords."""
    if isinstance(node, Is):
        return frozenset({node.field})
    if isinstance(node, Not):
        return fields_of(node.part)
    assert isinstance(node, And | Or)
    return frozenset().union(*[fields_of(each) for each in node.parts])


def encoded_fields(rules: Sequence[Rule]) -> frozenset[str]:
    """The fields, arguments aside, that may be in hexadecimal digits and in which some rule looks for text."""
    found: set[str] = set()
    for rule in rules:
        fields = fields_of(rule.condition)
        if rule.source == "auditd":
            if None in fields and types_of(rule.condition) != ARGUMENTS:
                return values.STRINGS
            found |= {each for each in fields if each in values.STRINGS}
            if "name" in fields:
                found.add("cwd")
        else:
            found |= {RECORD_FIELDS[each] for each in fields if each in RECORD_FIELDS} - {"a"}
            found |= {"cwd", "name"} if rule.source == "file_event" else set()
    return frozenset(found)


class Prefilter:
    """For a sequence of rules; rules are named by their places in it, and sets of rules are the bits of a number."""

    def __init__(self, rules: Sequence[Rule], *, watched: Sequence[tuple[bytes, int]] = ()) -> None:
        """watched: texts in lower case that somebody else looks for, each with his bits."""
        places: dict[bytes, int] = {}
        self.always = 0
        """Rules that may be true of anything."""
        images: list[tuple[int, Sequence[Is]]] = []
        parents: list[tuple[int, Sequence[Is]]] = []
        text = image = parent = mixed = 0
        for place, rule in enumerate(rules):
            wanted, bit = wanted_of(rule), 1 << place
            parts = [each for each in (wanted.text, wanted.image, wanted.parent, wanted.mixed) if each is not None]
            text |= bit if wanted.text else 0
            image |= bit if wanted.image else 0
            parent |= bit if wanted.parent else 0
            mixed |= bit if wanted.mixed else 0
            if not parts:
                self.always |= bit
            for each in parts:
                images.append((place, each.images))
                parents.append((place, each.parents))
                for needle in each.texts:
                    places[needle] = places.get(needle, 0) | bit
        if len(places) > MAX_NEEDLES:
            self.always = (1 << len(rules)) - 1
            places, text, image, parent, mixed = {}, 0, 0, 0, 0
        whole = (1 << len(rules)) - 1
        # A rule that wants several things wants each; what it does not want is granted.
        self._pure = text | image | parent
        self._no_text, self._no_image, self._no_parent = whole & ~text, whole & ~image, whole & ~parent
        self._mixed = mixed & ~parent
        self._no_both = whole & ~(mixed & parent)
        self._images = Images(images)
        self.parents = Images(parents)
        """What rules ask of the parent's file."""
        kinds = _kinds(rules)
        self._free = (1 << len(rules)) - 1 & ~(kinds.arguments | kinds.process | kinds.file | kinds.connection)
        self._started = kinds.arguments | kinds.process
        told = [
            *((text, kinds.process) for text in PROCESS),
            *((text, kinds.file) for text in CREATED),
            *((text, kinds.connection) for text in CONNECTED),
        ]
        marks = [
            before + name.encode() + b"=" + digit
            for name in sorted(encoded_fields(rules))
            for before in _SEPARATORS
            for digit in (b"0123456789abcdef"[at : at + 1] for at in range(16))
        ]
        self._rules = [*places.values(), *(mask for _, mask in told)]
        self._told, self._marks = len(places), len(places) + len(told)
        self.needles = len(places)
        """Texts that are looked for, of all rules."""
        self._theirs, self._bits = self._marks + len(marks), [bits for _, bits in watched]
        texts = [*places, *(text for text, _ in told), *marks, *(text for text, _ in watched)]
        # Twice as fast as the automaton that the library would choose for so many.
        self._automaton = BytesAhoCorasick(texts, implementation=Implementation.DFA)

    def scan(self, data: bytes, runs: Sequence[Run]) -> Scan:
        """data: a batch's; runs: the events in it, in order, which make up all of it."""
        ends = list(accumulate([len(run[0]) for run in runs]))
        found: Found = {}
        kinds: Found = {}
        watched: Found = {}
        side = _Side()
        low = data.lower()
        self._search(low, ends, None, found, kinds, watched, side)
        starts = _arguments(low, ends, side)
        if side.texts:
            # Their own text is not looked through for what is encoded: nothing is encoded twice.
            beside = b"".join(side.texts).lower()
            self._search(beside, list(accumulate(map(len, side.texts))), side.events, found, kinds, None, None)
        for at in starts:
            kinds[at] = kinds.get(at, 0) | self._started
        images, out = self._images, {}
        children: Found = {}
        seen: dict[int, bytes] = {}
        for at, allowed in kinds.items():
            # Of an event of no such kind nobody asks for the program by this way.
            program = image_of(low, ends[at - 1] if at else 0, ends[at])
            if program is None:
                meant = images.all
            else:
                meant = images.meant(program)
                seen[at] = program
            texts = found.pop(at, 0)
            allowed |= self._free
            pure = (texts | self._no_text) & (meant | self._no_image) & self._pure & allowed
            pure &= texts | meant | self._no_both
            mixed = (texts | meant) & self._mixed & allowed
            sure = pure & self._no_parent | mixed
            if sure:
                out[at] = sure
            # The rest is for who knows the parent.
            asking = (pure & ~self._no_parent | self._mixed & self.parents.all & ~mixed) & allowed
            if asking:
                children[at] = asking
        free = self._free & (self._no_image & self._no_parent & self._pure | self._mixed)
        for at, texts in found.items():
            if texts & free:
                out[at] = texts & free
        return Scan(out, starts, children, watched if self._bits else None, seen)

    def _search(
        self,
        low: bytes,
        ends: list[int],
        events: list[int] | None,
        found: Found,
        kinds: Found,
        watched: Found | None,
        side: _Side | None,
    ) -> None:
        """events: by position of a part, which event it is of; None: the parts are the events. side: where to put what
        is found to be encoded."""
        told, marks, theirs, rules = self._told, self._marks, self._theirs, self._rules
        event = at = first = last = 0
        for needle, start, end in self._automaton.find_matches_as_indexes(low, overlapping=True):
            # Matches come in order of their ends, so most are in the same event as the one before.
            if not first <= start < last:
                at = bisect_right(ends, start)
                first, last = ends[at - 1] if at else 0, ends[at]
                event = at if events is None else events[at]
            if needle < told:
                found[event] = found.get(event, 0) | rules[needle]
            elif needle < marks:
                kinds[event] = kinds.get(event, 0) | rules[needle]
            elif needle >= theirs:
                if watched is not None:
                    watched[event] = watched.get(event, 0) | self._bits[needle - theirs]
            elif side is not None:
                digits = _DIGITS.match(low, end - 1)
                if digits is not None and not len(digits[0]) & 1:
                    side.add(event, low[start + 1 : end - 1], bytes.fromhex(digits[0].decode("ascii")))


@attrs.frozen
class _Kinds:
    """Sets of rules that can be true of events of one kind only."""

    arguments: int
    process: int
    file: int
    connection: int


def _kinds(rules: Sequence[Rule]) -> _Kinds:
    masks = dict.fromkeys(("arguments", "process_creation", "file_event", "network_connection"), 0)
    for place, rule in enumerate(rules):
        kind: str = rule.source
        if kind == "auditd":
            if types_of(rule.condition) != ARGUMENTS:
                continue
            kind = "arguments"
        masks[kind] |= 1 << place
    return _Kinds(*masks.values())


class _Side:
    """Values that were encoded, written as if they had not been; each with the event that it is of."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.events: list[int] = []

    def add(self, event: int, name: bytes, value: bytes) -> None:
        """name: with what stands between it and the value, or without."""
        self.texts.append(b' %b="%b"\n' % (name.removesuffix(b"="), value))
        self.events.append(event)


def _arguments(low: bytes, ends: list[int], side: _Side) -> list[int]:
    """The events with arguments; what is encoded of these goes to the side. low: a batch in lower case, as digits may
    be."""
    starts: list[int] = []
    pieces: dict[int, None] = {}
    for match in _ARGUMENTS.finditer(low):
        event = bisect_right(ends, match.start())
        if not starts or starts[-1] != event:
            starts.append(event)
        body = b" " + match[1]
        if _PIECE.search(body) is not None:
            pieces[event] = None
            continue
        for name, digits in _ENCODED.findall(body):
            if not len(digits) & 1:
                side.add(event, name, bytes.fromhex(digits.decode("ascii")))
    for event in pieces:
        lines = low[ends[event - 1] if event else 0 : ends[event]]
        records = [Record("EXECVE", body.decode("latin-1")) for body in _ARGUMENTS.findall(lines)]
        for place, word in words_of(records).items():
            side.add(event, b"a%d" % place, word)
    return starts
