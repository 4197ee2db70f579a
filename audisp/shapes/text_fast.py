"""text, a batch at once: what a system call's sentence is made of, found by one expression and remembered in halves.

The expression cuts each event where its repeating parts meet: the SYSCALL record without what differs each time, which
is one half of the sentence, and the records beside it without their stamp, which are its object. So an event that says
what others said costs two look-ups. What is new is asked of `audisp.shapes.normal_calls`, the way that one event goes
by itself; and what is not plainly of this form is left to it as a whole (tests/shapes/test_text_fast.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from audisp.event import NODE, STAMP, TYPE, Run, whole_runs
from audisp.parse.enriched import local_address
from audisp.parse.record import Record
from audisp.parse.sockaddr import ByteOrder
from audisp.shapes.normal import SCRIPTED, Call
from audisp.shapes.normal_calls import BYTES, LOCAL, NOTHING, OVERHEAD, Calls, Recall
from audisp.shapes.normal_values import Reader
from audisp.shapes.text_words import BARE, LONGEST_WORD, PAIR, Shown
from audisp.shapes.text_words import PROGRAM as PROGRAM_SHOWN

# Each class stops at the literal that follows it. Groups: up to the result; a result that is an error; from auid on.
_CALL: Final = (
    rb"(arch=[0-9a-f]++ syscall=[0-9]++ success=(?:yes|no)) exit=(-[0-9]++)?[0-9]*+ a0=[0-9a-f]++ a1=[0-9a-f]++"
    rb" a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ ppid=[0-9]++ pid=[0-9]++ (auid=[^\n]*+)\n"
)
"""A SYSCALL record as the kernel writes it (kernel/auditsc.c, audit_log_exit)."""


def _cut(node: bytes, again: bytes) -> re.Pattern[bytes]:
    """One match is one run, as of `audisp.event.RUN`. Groups: lines, node part, head; of an event that begins like a
    plain SYSCALL three parts of that and its SOCKADDR's value; the other lines. again: the node part, once found."""
    # Of what is in a SOCKADDR hardly anything comes twice, and of what follows it almost all: it has a group.
    address = rb"(?:" + again + rb"type=SOCKADDR msg=\3 (saddr=[0-9A-F]++)(?:\x1d[^\n]*+)?\n)?"
    rest = rb"((?:" + again + TYPE + rb"\3[^\n]*+\n)*)"
    return re.compile(rb"(" + node + TYPE + STAMP + rb"(?: " + _CALL + address + rb"|[^\n]*+\n)" + rest + rb")")


_RUN: Final = _cut(rb"()", rb"")
_NODE_RUN: Final = _cut(NODE, rb"\2")
GROUPS: Final = 8
"""Of a run that was cut."""
SYSCALL: Final = b"type=SYSCALL "

_WHO: Final = re.compile(
    rb"(auid=[0-9]++ uid=[0-9]++ gid=[0-9]++ euid=[0-9]++ suid=[0-9]++ fsuid=[0-9]++ egid=[0-9]++ sgid=[0-9]++"
    rb" fsgid=[0-9]++ tty=[!-~]++ ses=)[0-9]++ ([^\n]*+)"
)
"""A SYSCALL from auid on, cut around its session, which no sentence names."""
_NAMES: Final = re.compile(
    rb'comm=(?:"[^"]*+"|[0-9A-F]++|\(null\)) exe="([A-Za-z0-9_@%+:./-]{1,1024})"(?: subj=[!-~]++)?'
    rb' key=(?:"([A-Za-z0-9_@%+:./-]{1,1024})"|\(null\))(\x1d[^\n]*)?\Z'
)
"""Names that are words as they stand (`audisp.shapes.text_words.word`): the program and the key."""
_STRING: Final = rb'("[^"\n]*+"|[0-9A-F]++)'
_PATH: Final = (
    rb"type=PATH\n item=[0-9]++ name=%b inode=[0-9]++ dev=[0-9a-f:]++ mode=[0-7]{1,11} ouid=[0-9]++ ogid=[0-9]++"
    rb" rdev=[0-9a-f:]++(?: obj=[!-~]++)? nametype=%b(?:[ \x1d][^\n]*+)?\n"
)
_FILE: Final = re.compile(
    rb"(?:type=BPRM_FCAPS\n[^\n]*+\n)?(?:type=EXECVE\n ([^\n]*+)\n)?(?:type=CWD\n (cwd=[^\n]*+)\n)?(?:"
    + _PATH % (rb'(?:"[^"\n]*+"|[0-9A-F]++|\(null\))', rb"PARENT")
    + rb")*"
    + _PATH % (_STRING, rb"(?!PARENT)[A-Z]++")
    + rb"((?:type=PATH\n[^\n]*+\n)*)(?:type=PROCTITLE\n[^\n]*+\n)?(?:type=EOE\n[^\n]*+\n)?\Z"
)
"""Records beside a call that is about a file, in the kernel's order, with an LF in place of each stamp (`Halves.seen`).
Groups: EXECVE, CWD, the name of the first PATH that is no parent's, and what PATH records follow it."""
_NEW_NAME: Final = re.compile(_PATH % (_STRING, rb"CREATE") + rb"\Z")
"""The last PATH of a call that gave a file another name."""
_HARMLESS: Final = re.compile(
    rb"(?:type=(?:PATH|CWD|PROCTITLE|BPRM_FCAPS|EXECVE|EOE|MMAP|CAPSET|FD_PAIR)\n[^\n]*+\n)*\Z"
)
"""Records that say nothing of a call that is about no file."""
_ABSOLUTE: Final = re.compile(rb'"((?:/[A-Za-z0-9_@%+:-][A-Za-z0-9_@%+:.-]*+)+)"\Z')
"""A path that is shown as it stands: no part begins with a dot."""
_NUMBERED: Final = [b" a%d=" % number for number in range(1, 200)]
_COUNT: Final = re.compile(rb"argc=[0-9]++ a0=\Z")
_WORDS: Final = re.compile(rb"[A-Za-z0-9_@%+:./\n-]++\Z")
_SCRIPTED: Final = tuple(name.encode("ascii") for name in SCRIPTED)

LONGEST: Final = 4_096
"""Bytes of the longest records beside a call that are remembered: those of an event with a dozen paths."""

KNOWN: Final = 0
"""The object is what stands beside the call."""
PROGRAM: Final = 1
"""The same, with arguments, and the program is not named again."""
ADDRESS: Final = 2
"""The object is the SOCKADDR's address."""
EXACT: Final = 3
"""Nothing is known but that such events go their way by themselves."""

Seen = tuple[bytes, bool, bytes]
"""What stands beside a call: the object; whether it is plain, and the object known; arguments, in brackets."""
_NOT_PLAIN: Final[Seen] = (b"", False, b"")
PIECE: Final = 48
"""Bytes that each piece of a text costs beside its own: an object's head and a pointer."""


class Beside(dict[tuple[bytes, ...], Seen]):
    """What stands beside calls of one kind, by its text, cut where the stamps were. place, pair: of `Said`. program:
    arguments are asked for."""

    __slots__ = ("pair", "place", "program")

    def __init__(self, place: int, *, pair: bool, program: bool) -> None:
        super().__init__()
        self.place, self.pair, self.program = place, pair, program


Entry = tuple[int, Beside, bytes, bytes, bytes, tuple[bytes, bytes, ByteOrder | None]]
"""A call: one of the forms above; what stands beside it; what comes before the object, what stands for one, what comes
after it; the same without the program, the program, the machine's byte order."""


def runs(data: bytes) -> list[Run] | None:
    """The runs of whole lines (`audisp.event.whole_runs`), cut; None if a line is no record."""
    return whole_runs(data, _RUN, _NODE_RUN)


def cut(run: Run) -> Run:
    """A run that was put together from several, cut."""
    found = (_NODE_RUN if run[1] else _RUN).match(run[0])
    return (*run[:3], b"", b"", b"", b"", b"") if found is None else found.groups(b"")


class Halves:
    """The two halves of sentences. call: what the shape makes of a SYSCALL record; command: of an EXECVE's body. For
    one thread at a time."""

    def __init__(
        self,
        reader: Reader,
        calls: Calls[Shown],
        call: Callable[[Call, Record], Shown],
        command: Callable[[bytes], str],
    ) -> None:
        self._reader, self._calls, self._call, self._command = reader, calls, call, command
        self.entries: Recall[Entry] = Recall()
        self._parts: Recall[Entry] = Recall()
        self._addresses: Recall[bytes] = Recall()
        self._beside: dict[tuple[int, bool, bool], Beside] = {}
        self._size = 0  # bytes of all that stands beside
        self._exact: Entry = (EXACT, Beside(0, pair=False, program=False), b"", b"", b"", (b"", b"", None))

    def forget(self) -> None:
        """An account's number may have another name now."""
        self.entries.forget()
        self._parts.forget()

    # ---- the call ----

    def entry(self, what: bytes, failed: bytes, tail: bytes) -> Entry:
        """A call that is new. The groups of the expression."""
        who = _WHO.match(tail)
        made = self._exact
        if who is not None:
            head = b"%b exit=%b" % (what, failed) if failed else what
            ids, rest = b" " + who[1], who[2]
            names = _NAMES.match(rest)
            made = self._named(head, ids, rest) if names is None else self._plain(head, ids, rest, names)
        return self.entries.keep(what + failed + tail, made)

    def _plain(self, head: bytes, ids: bytes, rest: bytes, names: re.Match[bytes]) -> Entry:
        """A call whose names are words as they stand."""
        exe, key, added = names.groups(b"")
        text = head + ids + added
        known = self._parts.get(text)
        if known is None:
            call, record = self._calls.by_parts(head, ids, (b"", b"", b"", added))
            rule = call.rule
            known = self._entry(
                self._call(call, record), rule.place or -1, rule.field == "saddr", self._reader.byteorder(record), ""
            )
            if known[0] != BARE and rule.field in ("comm", "exe", "key"):
                known = self._exact  # the object is one of the names
            self._parts.keep(text, known)
        form, beside, left, nothing, _, (failure, how, order) = known
        if form == EXACT or exe.startswith(_SCRIPTED):
            return self._named(head, ids, rest)
        how = how or exe
        key = b", key " + key if key else b""
        return form, beside, left, nothing, b"%b using %b%b" % (failure, how, key), (failure + key, how, order)

    def _named(self, head: bytes, ids: bytes, rest: bytes) -> Entry:
        """Any other call that was cut."""
        shown, place, is_address, _, order, target = self._calls.call(b"%b%b %b" % (head, ids, rest), head, ids, rest)
        return self._entry(shown, place, is_address, order, target[0])

    def _entry(self, shown: Shown, place: int, is_address: bool, order: ByteOrder | None, object_: str) -> Entry:
        """place, is_address, order: of `Said`. object_: what the record holds itself."""
        form, left, nothing, right, without, how = shown
        pair, program = form == PAIR, form == PROGRAM_SHOWN
        if form == BARE:
            place, is_address, object_ = -1, False, ""
        elif (object_ or is_address) and (pair or program):
            return self._exact  # there is no such rule
        found = self._beside.get((place, pair, program))
        if found is None:
            found = self._beside[place, pair, program] = Beside(place, pair=pair, program=program)
        return (
            ADDRESS if is_address else PROGRAM if program else KNOWN,
            found,
            left.encode(),
            (object_ or nothing).encode(),
            right.encode(),
            (without.encode(), how.encode(), order),
        )

    # ---- what stands beside it ----

    def seen(self, beside: Beside, pieces: tuple[bytes, ...], rest: bytes, skip: int, mark: int) -> Seen:
        """Records beside a call that are new. pieces: `rest`, cut at each `` msg=HEAD``. skip, mark: lengths of the
        node part and of the head."""
        body = b"\n".join(pieces)
        if rest.count(b"\n") != len(pieces) - 1:
            made = _NOT_PLAIN  # somebody wrote the event's own stamp into a value
        else:
            made = self._file(beside, body) or self._beside_of(beside, rest, skip, mark)
        if len(body) <= LONGEST:
            self._size += len(body) + PIECE * len(pieces) + len(made[0]) + len(made[2]) + OVERHEAD
            if self._size > BYTES:
                for each in self._beside.values():
                    each.clear()
                self._size = 0
            beside[pieces] = made
        return made

    def _file(self, beside: Beside, body: bytes) -> Seen | None:
        """What is beside a call in the kernel's order. None for any other."""
        if beside.place < 0:
            return (b"", True, b"") if _HARMLESS.match(body) and not beside.program else None
        found = _FILE.match(body)
        if found is None:
            return None
        execve, cwd, name, others = found.groups()
        if others and body.count(b"\n", 0, found.start(3)) < 2 * beside.place - 1:
            return None  # a later one may be meant
        plain = _ABSOLUTE.match(name)
        object_ = plain[1] if plain and len(name) <= LONGEST_WORD else self._calls.file(name, cwd).encode()
        if beside.pair:
            new = _NEW_NAME.match(others)
            if new is None:
                return None
            second = self._calls.file(new[1], cwd).encode()
            if object_ and second:
                object_ = b"%b to %b" % (object_, second)
        return object_, True, self._brackets(execve) if beside.program else b""

    def _beside_of(self, beside: Beside, rest: bytes, skip: int, mark: int) -> Seen:
        """Any other."""
        lines = rest.split(b"\n")
        lines.pop()
        found = self._calls.beside(lines, skip, mark, beside.place, pair=beside.pair)
        made = _NOT_PLAIN
        if found is not None and found[1] is None:
            target, _, execve = found
            object_, second, _ = target or NOTHING
            if beside.pair and object_ and second:
                object_ = f"{object_} to {second}"
            made = object_.encode(), True, self._brackets(execve) if beside.program else b""
        return made

    def _brackets(self, execve: bytes | None) -> bytes:
        """A program's arguments."""
        command = b"" if execve is None else _command(execve) or self._command(execve).encode()
        return b" (%b)" % command if command else b""

    def address(self, body: bytes, order: ByteOrder | None) -> bytes:
        """The address that the body of a SOCKADDR is."""
        if order == "little" and body.startswith(LOCAL):
            body = local_address(body)
            found = self._addresses.get(body)
            if found is None:
                found = self._addresses.keep(body, self._calls.address(body, order)[0].encode())
            return found
        return self._calls.address(body, order)[0].encode()


def _command(body: bytes) -> bytes | None:
    """A program's arguments from its EXECVE's body, if all of them are words as they stand."""
    if len(body) > LONGEST_WORD:
        return None
    pieces = body.split(b'"')
    words = pieces[1::2]
    if pieces[-1] or pieces[2:-1:2] != _NUMBERED[: len(words) - 1] or _COUNT.match(pieces[0]) is None:
        return None
    return b" ".join(words) if b"" not in words and _WORDS.match(b"\n".join(words)) else None
