"""The short way to normalise: what most events are is a system call with a few well-known records beside it.

A SYSCALL record is cut in two, without what differs each time (arguments, process numbers), and what is left has mostly
been seen before; so has the one record that is the object. So an event costs a few look-ups in bounded memories, and
`Normaliser` is asked for what is new alone. An event that is not plainly of this form is left to it as a whole. Both
ways give the same (tests/shapes/test_csv.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from audisp.event import Event
from audisp.parse import values
from audisp.parse.enriched import local_address
from audisp.parse.record import Record
from audisp.parse.sockaddr import ByteOrder, SockAddr, decode
from audisp.shapes.normal import Call, Normaliser, called, file_kind, is_parent
from audisp.shapes.normal_values import absolute

C = TypeVar("C")
V = TypeVar("V")

# Each class stops at the literal that follows it: what does not match is given up at its first wrong character.
_CUT: Final = re.compile(
    rb" exit=(-[0-9]++)?[0-9]*+ a0=[0-9a-f]++ a1=[0-9a-f]++ a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ ppid=[0-9]++"
    rb" pid=[0-9]++( auid=[0-9]++ uid=[0-9]++ gid=[0-9]++ euid=[0-9]++ suid=[0-9]++ fsuid=[0-9]++ egid=[0-9]++"
    rb" sgid=[0-9]++ fsgid=[0-9]++ tty=[!-~]++ ses=)([0-9]++) "
)
"""A SYSCALL record from its result to its session (kernel/auditsc.c, audit_log_exit). What of it differs each time is
left out of what is remembered; a result that is an error is kept, because it says why."""
_TAIL: Final = re.compile(
    rb'comm=("[^"]*+"|[0-9A-F]++|\(null\)) exe=("[^"]*+"|[0-9A-F]++|\(null\))(?: subj=[!-~]++)?'
    rb' key=("[^"]*+"|[0-9A-F]++|\(null\))(\x1d[^\n]*)?\Z'
)
"""What follows the session: names, key, and what ENRICHED format appended."""
_PATH: Final = re.compile(
    rb'item=[0-9]++ name=("[^"]*+"|[0-9A-F]++|\(null\)) inode=([0-9]++) dev=[0-9a-f:]++ mode=([0-7]{1,11})'
    rb" ouid=[0-9]++ ogid=[0-9]++ rdev=[0-9a-f:]++(?: obj=[!-~]++)? nametype=([A-Z]++)(?: |\x1d|\Z)"
)
"""A PATH record of the kernel's (audit_log_name); any other is taken apart field by field."""

STALE: Final = 10.0
"""Seconds, by the events' arrival, for which an account's name is taken from memory."""
ACCOUNTS: Final = (b"type=ADD_", b"type=DEL_", b"type=USER_MGMT ", b"type=GRP_MGMT ")
"""Records after which a number may have another name."""

IGNORED: Final = frozenset({b"PROCT", b"BPRM_", b"EOE m", b"MMAP ", b"CAPSE", b"FD_PA"})
"""Five bytes of the types that say nothing of the object: PROCTITLE, BPRM_FCAPS, EOE, MMAP, CAPSET, FD_PAIR. No type of
`COMPOUNDS` begins like one of these."""
_SOCKADDR: Final = b"SOCKADDR msg="
_EXECVE: Final = b"EXECVE msg="
_SYSCALL: Final = b"type=SYSCALL "
LOCAL: Final = b"saddr=0100"
"""AF_UNIX on a little-endian machine. Behind the NUL of its path stands whatever stood in the caller's memory."""
_ABSOLUTE: Final = (b'"/', b"2F", b"(null)")
"""How names begin that need no folder."""
_NO_SESSION: Final = b"4294967295"

BYTES: Final = 4 * 1024 * 1024
"""What a `Recall` holds before it forgets all of it: some 8,000 calls or files; a shape has eight of these."""
LONGEST: Final = 1_024
"""Bytes of the longest text that it takes: what is longer hardly ever comes twice."""
OVERHEAD: Final = 300
"""Bytes that an entry costs beside its text and what was made of that, which is about as long."""


class Recall(dict[bytes, V]):
    """What was made of a text before. A plain dict, for its speed, that is emptied when it is full."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def keep(self, text: bytes, value: V) -> V:
        """Remember, and give back."""
        if len(text) <= LONGEST:
            self.size += 2 * len(text) + OVERHEAD
            if self.size > BYTES:
                self.forget()
            self[text] = value
        return value

    def forget(self) -> None:
        """Everything."""
        self.clear()
        self.size = 0


Target = tuple[str, str, str]
"""An object and its second part, both made safe; its kind, "" where the rule's stands."""
NOTHING: Final[Target] = ("", "", "")


Said = tuple[C, int, bool, bool, ByteOrder | None, Target]
"""A call: as the shape wants it; where its PATH is, as in `Rule`, -1 for nowhere; whether SOCKADDR is the object;
whether it has a second one; the machine's byte order; the object that the record holds itself."""
_Place = tuple[bytes, str, str, Target | None]
"""A PATH record. Its name, raw, b"" for a parent's; inode; kind; and the whole as an object if it needs no folder."""
_PARENT: Final[_Place] = (b"", "", "", NOTHING)


class Calls(Generic[C]):
    """Reads events of the plain form.

    call: what the shape makes of a SYSCALL record. safe: how it writes a value; peer: a socket address. pairs: actions
    of which the last name, where it is a new one, is wanted as the second object. Used by one thread at a time.
    """

    __slots__ = (
        "_addresses",
        "_calls",
        "_heads",
        "_ids",
        "_make_call",
        "_names",
        "_normaliser",
        "_pairs",
        "_paths",
        "_peer",
        "_safe",
    )

    def __init__(
        self,
        normaliser: Normaliser,
        call: Callable[[Call, Record], C],
        safe: Callable[[str], str],
        peer: Callable[[SockAddr], str],
        pairs: frozenset[str] = frozenset(),
    ) -> None:
        self._normaliser = normaliser
        self._make_call, self._safe, self._peer, self._pairs = call, safe, peer, pairs
        self._calls: Recall[Said[C]] = Recall()
        self._heads: Recall[tuple[Call, Record]] = Recall()
        self._ids: Recall[Call] = Recall()
        self._paths: Recall[_Place] = Recall()
        self._names: Recall[str] = Recall()
        self._addresses: Recall[Target] = Recall()

    def forget(self) -> None:
        """An account's number may have another name now."""
        self._calls.forget()
        self._ids.forget()

    def read(self, event: Event) -> tuple[C, Target, bytes | None, str] | None:
        """What the shape made of the call, the object, the body of EXECVE, the session; None for another event."""
        node, head = event.same
        lines = event.raw.split(b"\n")
        lines.pop()
        first = lines[0]
        skip, mark = len(node), len(head)
        at = first.find(b" exit=")
        cut = _CUT.match(first, at)
        if cut is None or not first.startswith(_SYSCALL, skip) or not mark:
            return None
        failed, ids, session = cut.groups()
        # "type=SYSCALL msg=", and a blank behind the stamp.
        what = first[skip + mark + 18 : cut.end(1) if failed else at]
        tail = first[cut.end() :]
        text = b"%b%b %b" % (what, ids, tail)
        shown, place, is_address, pair, order, target = self._calls.get(text) or self.call(text, what, ids, tail)
        seen = self.beside(lines[1:], skip, mark, place, pair=pair)
        if seen is None:
            return None
        file, address, execve = seen
        if file is not None:
            target = file
        elif address is not None and is_address:
            target = self.address(address, order)
        return shown, target, execve, "unset" if session == _NO_SESSION else session.decode("ascii")

    def beside(
        self, lines: list[bytes], skip: int, mark: int, place: int, *, pair: bool
    ) -> tuple[Target | None, bytes | None, bytes | None] | None:
        """What stands beside a SYSCALL record: the file that is its object, the body of SOCKADDR, that of EXECVE; None
        if there is a record that is not plain.

        lines: without the SYSCALL. skip, mark: lengths of the node part and of the head. place, pair: of `Said`.
        """
        chosen: _Place | None = None
        last = address = execve = cwd = None
        at, chosen_at = 0, -1
        for line in lines:
            at += 1
            code = line[skip + 5 : skip + 10]
            if code == b"PATH ":
                if chosen_at < place:
                    text = line[skip + mark + 15 :]
                    found = self._paths.get(text) or self._path(text)
                    if found[0] and (chosen is None or at >= place):
                        chosen, chosen_at = found, at
                if pair:
                    last = line[skip + mark + 15 :]
            elif code in IGNORED:
                continue
            elif code == b"CWD m":
                cwd = line[skip + mark + 14 :] if cwd is None else cwd
            elif code == b"SOCKA" and line.startswith(_SOCKADDR, skip + 5):
                address = line[skip + mark + 19 :] if address is None else address
            elif code == b"EXECV" and line.startswith(_EXECVE, skip + 5) and execve is None:
                execve = line[skip + mark + 17 :]
            else:
                return None
        if chosen is None:
            return None, address, execve
        name, inode, kind, known = chosen
        target = known or (self.file(name, cwd), inode, kind)
        if pair:
            target = target[0], self._renamed(last, cwd), target[2]
        return target, address, execve

    def call(self, text: bytes, head: bytes, ids: bytes, tail: bytes) -> Said[C]:
        """What a SYSCALL record that was cut says. text: its parts together."""
        names = _TAIL.match(tail)
        if names is None:
            record = Record("SYSCALL", _text(text))
            call = self._normaliser.call(record)
        else:
            call, record = self.by_parts(head, ids, names.groups())
        said = (
            self._make_call(call, record),
            call.rule.place or -1,
            call.rule.field == "saddr",
            call.rule.action in self._pairs,
            self._normaliser.reader.byteorder(record),
            (self._safe(call.object), "", "") if call.object else NOTHING,
        )
        return self._calls.keep(text, said)

    def by_parts(self, head: bytes, ids: bytes, names: Sequence[bytes | None]) -> tuple[Call, Record]:
        """A call whose program or key is new, but hardly what it does, and for whom. names: comm, exe, key as they are
        written, and what ENRICHED format appended."""
        comm, exe, key, added = [name or b"" for name in names]
        what = self._heads.get(head + added)
        if what is None:
            record = Record("SYSCALL", _text(head + added))
            what = self._heads.keep(head + added, (self._normaliser.call(record), record))
        by = self._ids.get(ids + added)
        if by is None:
            by = self._ids.keep(ids + added, self._normaliser.call(Record("SYSCALL", _text(ids + added))))
        call, record = what
        made = called(
            call.name, "", by.subject, by.acting, by.subject_kind, call.result, _shown(exe), _shown(comm), _keys(key)
        )
        return made, record

    def _path(self, body: bytes) -> _Place:
        found = _PATH.match(body)
        if found is not None:
            name, parent = found[1], found[4] == b"PARENT"
            inode, kind = found[2].decode("ascii"), file_kind(int(found[3], 8))
        else:
            record = Record("PATH", _text(body))
            name, parent = record.fields.get("name", "(null)").encode("latin-1"), is_parent(record)
            inode = self._safe(values.from_text(record.fields.get("inode", "")))
            kind = file_kind(record.integer("mode", 8))
        if parent:
            place: _Place = _PARENT
        elif name.startswith(_ABSOLUTE):
            place = name, inode, kind, (self.file(name, None), inode, kind)
        else:
            place = name, inode, kind, None
        return self._paths.keep(body, place)

    def file(self, name: bytes, cwd: bytes | None) -> str:
        """The path that a raw name means. cwd: the body of the CWD record."""
        if name.startswith(_ABSOLUTE):
            cwd = None
        key = name if cwd is None else b"%b\n%b" % (name, cwd)
        safe = self._names.get(key)
        if safe is None:
            decoded = values.string(name.decode("latin-1"))
            folder = None if cwd is None else Record("CWD", _text(cwd)).get("cwd")
            safe = "" if decoded is None else self._safe(absolute(decoded, folder))
            self._names.keep(key, safe)
        return safe

    def _renamed(self, body: bytes | None, cwd: bytes | None) -> str:
        """The name of the last PATH record, if it is a new one."""
        if body is None or b" nametype=CREATE" not in body:
            return ""
        name = (self._paths.get(body) or self._path(body))[0]
        return self.file(name, cwd) if name else ""

    def address(self, body: bytes, byteorder: ByteOrder | None) -> Target:
        """The object that the body of a SOCKADDR record is."""
        if body.startswith(LOCAL) and byteorder == "little":
            key = body = local_address(body)
        else:
            key = b"%b\n%b" % ((byteorder or "").encode("ascii"), body)
        target = self._addresses.get(key)
        if target is None:
            value = Record("SOCKADDR", _text(body)).fields.get("saddr")
            target = (self._peer(decode(value, byteorder)) if value is not None else "", "", "")
            self._addresses.keep(key, target)
        return target


def _shown(value: bytes) -> str:
    """An untrusted string as the normaliser shows it: ``(null)`` as it is."""
    return values.to_str(values.unquote(value.decode("latin-1")))


def _keys(value: bytes) -> tuple[str, ...]:
    return values.keys(value.decode("latin-1"))


def _text(body: bytes) -> str:
    return body.decode("latin-1").removesuffix("\r")


def single(event: Event) -> bytes | None:
    """What makes an event of one record what it is: type and body without the process's number. None for several.

    No row of `TYPES` names an object, or anything else, by ``pid``.
    """
    if event.raw.count(b"\n") != 1:
        return None
    node, head = event.same
    return alone(event.raw, len(node), len(head))


def alone(raw: bytes, skip: int, mark: int) -> bytes:
    """The same of the one line of an event. skip, mark: lengths of its node part and of its head."""
    skip += 5
    end = raw.find(b" ", skip)
    # " msg=" and what follows the stamp: a blank, or nothing.
    at = end + 6 + mark
    if raw.startswith(b"pid=", at):
        at = raw.find(b" ", at)
    return raw[skip:end] + raw[at:]


def changes_accounts(event: Event) -> bool:
    """Whether an event says that an account or a group was changed."""
    return event.raw.startswith(ACCOUNTS, len(event.same[0]))
