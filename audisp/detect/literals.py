"""Which texts must stand in an event's records, as the kernel wrote them, for a rule to be true of it.

From each condition one set of texts is drawn such that, wherever the condition holds, at least one of them occurs in
the records in lower case (*raw*), or in the side text that `audisp.detect.prefilter` makes of values that are encoded.
Of a conjunction the rarest set is taken, of a disjunction all; a negation gives none. What must be kept in mind:

- an argument with a blank, a quote or a letter beyond ASCII is in hexadecimal digits, so what is looked for in the raw
  text has none of these; and what is looked for in the joined command line may span arguments. Texts are cut there.
- a path may be put together of CWD and PATH at any of its slashes, and may have detours.
- a value stands in quotes or without, so a text that ends a value is tried with all that can follow one.

Too many hits cost time; a text that is missing here would cost a detection. When in doubt, a set is not drawn.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from audisp.detect.form import ANY, And, Is, Node, Not, Or, Regex, Rule, Text
from audisp.detect.regex_literals import required
from audisp.detect.values import literal
from audisp.detect.views import EXEC
from audisp.parse.arch import syscalls
from audisp.parse.tables_syscalls import SYSCALLS

BEHIND: Final = (b'"', b" ", b"\n", b"\r", b"\x1d", b",", b":", b"'", b")")
"""What can stand behind a value."""
BEFORE: Final = (b'="', b"=")
"""What can stand before one."""
DETOURS: Final = frozenset(
    {
        b"//",
        b"/./",
        b"/../",
        *(dots + behind for dots in (b"/.", b"/..") for behind in BEHIND),
        *(b"name" + before + dots for before in BEFORE for dots in (b"./", b"../")),
        *(b"name" + before + dots + behind for before in BEFORE for dots in (b".", b"..") for behind in BEHIND),
    }
)
"""How a path with a detour looks: what is in it is known only when it is put together."""
MAX_TEXTS: Final = 4_096
"""Of one rule. A rule with more is looked at for every event of its kind."""
SHORTEST: Final = 2
"""Characters of a text that is looked for without anything around it: one letter is in every record."""
KIND_SCORE: Final = 1.0
"""How rare a record's type is, compared with the length of a text. Better than nothing."""
COMMON_SCORE: Final = 0.5
"""How rare a text is that stands in FRAME."""
CALL_SCORE: Final = 3.0
"""How rare a system call is."""

FRAME: Final = (
    b"type=syscall msg=audit(1700000000.000:1): arch=c000003e syscall=257 success=yes exit=0 a0=ffffff9c a1=0 "
    b"items=1 ppid=1 pid=1 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=1 "
    b'comm="" exe="/usr/bin/" subj=unconfined key=(null) type=path name="" inode=1 dev=00:1c mode=0100755 ouid=0 '
    b"ogid=0 rdev=00:00 a2=0 a3=0 nametype=normal cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 type=cwd cwd= "
    b"type=proctitle proctitle=2f type=execve argc=1 saddr=0100 type=sockaddr"
)
"""What every second record says: a text that stands in it tells nothing."""

_PLAIN: Final = re.compile(rb"[!#-~]+")
"""What the kernel writes as it is (audit_string_contains_control in linux/kernel/audit.c): from 0x21 to 0x7e, no
quote."""
_PLAIN_WORD: Final = re.compile(rb"[!#-.0-<>-~]+")
"""The same in a text that is put together of names, values and paths."""

PATHS: Final = frozenset({"name", "TargetFilename"})
ARGUMENTS: Final = frozenset({"execve"})
"""The type of the records that hold arguments, if a rule is for no others."""
FIRST_WORD: Final = "a0"
ANCHORED: Final = {"CommandLine": FIRST_WORD}
"""Fields of views that begin as a record's field does."""
IMAGE_SCORE: Final = 2.0
"""How much rarer a text is at the end of a program's file than anywhere, in characters."""
PARENT_SCORE: Final = 1.5
"""What a parent is worth: the last resort, as it has to be looked up."""
ANCHOR_SCORE: Final = 4.0
"""How much rarer a text is at one place than anywhere, in characters."""
UNANCHORED: Final = frozenset({"key", "old-auid", "old-ses", *PATHS})
"""Fields whose value may stand behind something else than their name: one of several, an old form, a folder."""
UNWRITTEN: Final = frozenset({"ARCH", "seresult", "seperms"})
"""Fields of records that are not written as NAME=VALUE: looked up, or words of a sentence."""
RECORD_FIELDS: Final = {"Image": "exe", "CurrentDirectory": "cwd", "CommandLine": "a", "TargetFilename": "name"}
"""Where the values of an event's views stand."""


@functools.cache
def call_numbers(name: str) -> frozenset[int]:
    """The numbers that a system call has on any machine."""
    found = set()
    for table in (*SYSCALLS, "x32"):
        found |= {number for number, each in syscalls(table).items() if each == name}
    return frozenset(found)


def _numbered(*names: str) -> frozenset[bytes]:
    return frozenset(
        b"syscall=%d" % number + behind for name in names for number in call_numbers(name) for behind in BEHIND
    )


CREATED: Final = frozenset({b"nametype=create", b'nametype="create'})
"""What every event has that makes a file."""
CONNECTED: Final = frozenset({b"type=sockaddr "})
"""What every event has that asks for a connection."""
PROCESS: Final = _numbered(*EXEC)
"""What every event has that starts a program, but for those with arguments, which are found otherwise."""


@attrs.frozen
class Needles:
    """What one of must be so. texts: of which one occurs; images: questions of which the program's file answers one
    with yes; parents: the same of the parent's file. score: how rare the most frequent of them is taken to be."""

    texts: frozenset[bytes]
    score: float
    images: tuple[Is, ...] = ()
    parents: tuple[Is, ...] = ()

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.texts) + len(self.images) + len(self.parents)


@attrs.frozen
class Wanted:
    """What a rule's events have: all of these that are not None, each answered by one of what it holds. text: of texts
    only; image and parent: of questions about one file only; mixed: any, where there is neither text nor image.

    All None: any event.
    """

    text: Needles | None = None
    image: Needles | None = None
    parent: Needles | None = None
    mixed: Needles | None = None


def wanted_of(rule: Rule) -> Wanted:
    """What is wanted of a rule's events; in the worst case a record of its kind, and nothing if it may be any."""
    types = types_of(rule.condition)
    drawn = [_draw(each, rule, types) for each in _conjuncts(rule.condition)]
    usable = [each for each in drawn if each is not None and each.size <= MAX_TEXTS]
    text = _best(each for each in usable if not each.images and not each.parents)
    image = _best(each for each in usable if not each.texts and not each.parents)
    parent = _best(each for each in usable if not each.texts and not each.images)
    kind = _kind(rule)
    if text is None or text.score < kind.score:
        text = None
    if text is None and image is None and parent is None:
        mixed = _best(usable)
        if mixed is not None and mixed.score > kind.score:
            return Wanted(mixed=mixed)
        return Wanted(text=kind) if kind.texts else Wanted()
    if text is None and image is None:
        # Parents are not looked up for each start: what the event itself must have comes first, as vague as it may be.
        return Wanted(parent=parent, mixed=_best(each for each in usable if not each.parents))
    return Wanted(text, image, parent)


def _conjuncts(node: Node) -> Iterator[Node]:
    """What must all be so."""
    if isinstance(node, And):
        for each in node.parts:
            yield from _conjuncts(each)
    else:
        yield node


def types_of(node: Node) -> frozenset[str] | None:
    """The types of record (lower case) that a condition can be true of; None for any."""
    if isinstance(node, Is):
        if node.field != "type" or not isinstance(node.value, Text):
            return None
        parts = node.value.parts
        whole = len(parts) == 1 and isinstance(parts[0], str)
        return frozenset({str(parts[0]).lower()}) if whole else None
    if isinstance(node, Not):
        return None
    found = [types_of(each) for each in node.parts]
    if isinstance(node, Or):
        return None if None in found else frozenset().union(*[each for each in found if each is not None])
    known = [each for each in found if each is not None]
    return frozenset.intersection(*known) if known else None


def _kind(rule: Rule) -> Needles:
    """What every event has that the rule can be true of."""
    if rule.source == "file_event":
        return Needles(CREATED, KIND_SCORE)
    if rule.source == "network_connection":
        return Needles(CONNECTED, KIND_SCORE)
    if rule.source == "process_creation":
        return Needles(frozenset({b"type=execve ", *PROCESS}), KIND_SCORE)
    types = types_of(rule.condition)
    if types is None:
        return Needles(frozenset(), 0.0)
    return Needles(frozenset(b"type=%b " % each.encode("utf-8", "surrogatepass") for each in types), KIND_SCORE)


def _draw(node: Node, rule: Rule, types: frozenset[str] | None) -> Needles | None:
    """None: nothing can be said."""
    if isinstance(node, Is):
        return _of_value(node, rule, types)
    if isinstance(node, Not):
        return None
    found = [_draw(each, rule, types) for each in node.parts]
    if isinstance(node, And):
        known = [each for each in found if each is not None and each.size <= MAX_TEXTS]
        return max(known, key=lambda each: each.score, default=None)
    return _any_of(found)


def _of_value(node: Is, rule: Rule, types: frozenset[str] | None) -> Needles | None:
    field, value = node.field, node.value
    if rule.source != "auditd" and field == "Image" and isinstance(value, Text) and not value.cased:
        longest = max((len(each) for each in value.parts if isinstance(each, str)), default=0)
        return Needles(frozenset(), IMAGE_SCORE + longest, images=(node,))
    about_parent = field == "ParentCommandLine" or (
        field == "ParentImage" and isinstance(value, Text) and not value.cased
    )
    if rule.source != "auditd" and isinstance(value, Text) and about_parent:
        return Needles(frozenset(), PARENT_SCORE, parents=(node,))
    if isinstance(value, Regex):
        texts = required(value.pattern, value.flags)
        if texts is None or field is None or not _is_written(field, rule):
            return None
        return _any_of([_best(_cut(each, field)) for each in texts])
    if not isinstance(value, Text):
        return None
    if field == "DestinationPort":
        return _port(value)
    if field is not None and not _is_written(field, rule):
        return None
    parts = value.parts
    if not any(isinstance(each, str) for each in parts):
        return None
    if field is None:
        if rule.source == "network_connection":
            return None
        pattern = _PLAIN if rule.source == "process_creation" or types == ARGUMENTS else _PLAIN_WORD
        return _best([_inside(each) for part in parts if isinstance(part, str) for each in _pieces(part, pattern)])
    whole = len(parts) == 1
    first, last = parts[0], parts[-1]
    if rule.source == "auditd" and field == "type":
        return Needles(frozenset({b"type=%b " % literal(str(first), cased=False)}), KIND_SCORE) if whole else None
    if rule.source == "auditd" and field == "SYSCALL":
        return _call(str(first)) if whole else None
    choices: list[Needles | None] = []
    if field in ANCHORED:
        choices.append(_anchored(ANCHORED[field], first, last))
    elif rule.source == "auditd" and field not in UNANCHORED:
        choices.append(_anchored(field, first, last))
    for part in parts:
        if isinstance(part, str):
            choices += _cut(part, field)
    return _best(choices)


def _is_written(field: str, rule: Rule) -> bool:
    """Whether the field's value stands in the records as text."""
    if rule.source == "auditd":
        return field not in UNWRITTEN
    return field in RECORD_FIELDS


def _inside(text: bytes) -> Needles | None:
    if len(text) < SHORTEST:
        return None
    return Needles(frozenset({text}), COMMON_SCORE if text in FRAME else len(text))


def _best(choices: Iterable[Needles | None]) -> Needles | None:
    return max([each for each in choices if each is not None], key=lambda each: each.score, default=None)


def _any_of(choices: list[Needles | None]) -> Needles | None:
    if not choices:
        return None
    texts: set[bytes] = set()
    images: list[Is] = []
    parents: list[Is] = []
    score = float("inf")
    for each in choices:
        if each is None:
            return None
        texts |= each.texts
        images += each.images
        parents += each.parents
        score = min(score, each.score)
    return Needles(frozenset(texts), score, tuple(images), tuple(parents))


def _cut(text: str, field: str) -> list[Needles | None]:
    """The pieces of a text that stand in the raw text as they are."""
    return _path(text) if field in PATHS else [_inside(each) for each in _pieces(text, _PLAIN)]


def _pieces(text: str, pattern: re.Pattern[bytes]) -> list[bytes]:
    found: list[bytes] = pattern.findall(literal(text, cased=False))
    return found


def _anchored(name: str, first: object, last: object) -> Needles | None:
    """The beginning or the end of a value, with what stands around it. name: as it is written in the records."""
    choices: list[Needles | None] = []
    if isinstance(first, str):
        data = literal(first, cased=False)
        head = _PLAIN.match(data)
        if head is not None:
            texts = {literal(name, cased=False) + before + head[0] for before in BEFORE}
            # Behind a blank another word begins; what is one argument with it is in digits, and in the side text.
            if (first is last and head.end() == len(data)) or (name == FIRST_WORD and data[head.end() :][:1] == b" "):
                texts = {text + behind for text in texts for behind in BEHIND}
            # One digit of a register is no rare thing, wherever it stands.
            choices.append(Needles(frozenset(texts), len(head[0]) + (ANCHOR_SCORE if len(head[0]) > 1 else 1.0)))
    if isinstance(last, str) and first is not last and name != FIRST_WORD:
        tail = _last_run(literal(last, cased=False))
        if tail:
            choices.append(Needles(frozenset(tail + behind for behind in BEHIND), len(tail) + ANCHOR_SCORE))
    return _best(choices)


def _last_run(data: bytes) -> bytes:
    """What the text ends with that the kernel writes as it is."""
    found: list[bytes] = _PLAIN.findall(data)
    return found[-1] if found and data.endswith(found[-1]) else b""


def _path(text: str) -> list[Needles | None]:
    """Pieces of a path, wherever it stands: in one name, or put together of a folder and a relative name at any of its
    slashes, or with a detour in it, which is another needle."""
    found: list[Needles | None] = []
    for piece in _pieces(text, _PLAIN):
        if len(piece) < SHORTEST:
            continue
        texts = {piece}
        at = piece.find(b"/")
        if at >= 0:
            texts |= DETOURS
        while at >= 0:
            folder, name = piece[:at], piece[at + 1 :]
            if name:
                texts.update(b"name" + before + name for before in BEFORE)
            elif folder:
                texts.update(folder + behind for behind in BEHIND)
            at = piece.find(b"/", at + 1)
        found.append(Needles(frozenset(texts), COMMON_SCORE if piece in FRAME else len(piece)))
    return found


def _call(name: str) -> Needles:
    """A system call by name, or by any number that it has."""
    texts = _numbered(name.lower())
    quoted = {b"syscall=" + literal(name, cased=False), b'syscall="' + literal(name, cased=False)}
    return Needles(frozenset(texts | quoted), CALL_SCORE)


def _port(value: Text) -> Needles | None:
    """A port as it stands behind a family (AF_INET is 2, AF_INET6 is 10) in either byte order."""
    if len(value.parts) != 1 or value.parts[0] == ANY or not str(value.parts[0]).isdecimal():
        return None
    port = int(str(value.parts[0]))
    if port > 0xFFFF or str(port) != value.parts[0]:
        return Needles(CONNECTED, KIND_SCORE)
    families = (b"0200", b"0a00", b"0002", b"000a")
    return Needles(frozenset(b"saddr=%b%04x" % (family, port) for family in families), 6.0)
