"""The short way to normalise: what most events are is a system call with a few well-known records beside it.

A SYSCALL record is cut in two, without what differs each time (arguments, process numbers), and what is left has mostly
been seen before; so has the one record that is the object. So an event costs a few look-ups in bounded memories, and
`Normaliser` is asked for what is new alone. An event that is not plainly of this form is left to it as a whole. Both
ways give the same (tests/shapes/test_csv.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import attrs

from audisp.event import Event
from audisp.parse import values
from audisp.parse.memo import Memo
from audisp.parse.record import Record
from audisp.parse.sockaddr import ByteOrder, SockAddr, decode
from audisp.shapes.normal import Call, Normaliser, file_kind, is_parent
from audisp.shapes.normal_values import absolute

C = TypeVar("C")

# Each class stops at the literal that follows it: what does not match is given up at its first wrong character.
_CUT: Final = re.compile(
    r" a0=[0-9a-f]++ a1=[0-9a-f]++ a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ ppid=[0-9]++ pid=[0-9]++ auid="
)
"""What is cut out of a SYSCALL record (kernel/auditsc.c, audit_log_exit), and the name of the field after it."""
_PATH: Final = re.compile(
    r'item=[0-9]++ name=("[^"]*+"|[0-9A-F]++|\(null\)) inode=([0-9]++) dev=[0-9a-f:]++ mode=([0-7]{1,11}) ouid=[0-9]++'
    r" ogid=[0-9]++ rdev=[0-9a-f:]++(?: obj=[!-~]++)? nametype=([A-Z]++)(?: |\x1d|\Z)"
)
"""A PATH record of the kernel's (audit_log_name); any other is taken apart field by field."""

IGNORED: Final = frozenset({"PROCT", "BPRM_", "EOE m", "MMAP ", "CAPSE", "FD_PA"})
"""Five characters of the types that say nothing of the object: PROCTITLE, BPRM_FCAPS, EOE, MMAP, CAPSET, FD_PAIR. No
type of `COMPOUNDS` begins like one of these."""
_SOCKADDR: Final = "SOCKADDR msg="
_EXECVE: Final = "EXECVE msg="
_SYSCALL: Final = "type=SYSCALL "
_LOCAL: Final = "saddr=0100"
"""AF_UNIX on a little-endian machine. Behind the NUL of its path stands whatever stood in the caller's memory."""

Target = tuple[str, str, str]
"""An object and its second part, both made safe; its kind, "" where the rule's stands."""
NOTHING: Final[Target] = ("", "", "")


@attrs.frozen
class _Said(Generic[C]):
    """A call as the shape wants it. place: as in `Rule`, -1 for 0. address: whether SOCKADDR is the object. own: the
    object that the record holds itself."""

    shown: C
    place: int
    address: bool
    pair: bool
    byteorder: ByteOrder | None
    own: Target


@attrs.frozen
class _Place:
    """A PATH record. target: what it is if its name needs no folder. name: raw, for one that does; "" for a parent."""

    name: str
    inode: str
    kind: str
    target: Target | None


class Calls(Generic[C]):
    """Reads events of the plain form.

    call: what the shape makes of a SYSCALL record. safe: how it writes a value; peer: a socket address. pairs: actions
    of which the last name, where it is a new one, is wanted as the second object. The memories are bounded (`Memo`).
    Used by one thread at a time.
    """

    __slots__ = (
        "_addresses",
        "_calls",
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
        self._calls: Memo[_Said[C]] = Memo()
        self._paths: Memo[_Place] = Memo()
        self._names: Memo[str] = Memo()
        self._addresses: Memo[Target] = Memo()

    def read(self, event: Event) -> tuple[C, Target, str | None] | None:
        """What the shape made of the call, the object, and the body of EXECVE; None for an event of another form."""
        node, head = event.same
        lines = event.raw.decode("latin-1").split("\n")
        lines.pop()
        first = lines[0]
        skip, mark = len(node), len(head)
        cut = _CUT.search(first)
        if cut is None or not first.startswith(_SYSCALL, skip) or not mark:
            return None
        # "type=SYSCALL msg=" and a blank behind the stamp; " auid=" belongs to what is kept.
        start, end = cut.span()
        text = first[skip + mark + 18 : start] + first[end - 6 :]
        said = self._calls.get(text) or self._call(text)
        place = said.place
        chosen: _Place | None = None
        last = None
        address = execve = cwd = None
        at, chosen_at = 0, -1
        for line in lines[1:]:
            at += 1
            code = line[skip + 5 : skip + 10]
            if code == "PATH ":
                if chosen_at < place:
                    text = line[skip + mark + 15 :]
                    found = self._paths.get(text) or self._path(text)
                    if found.name:
                        chosen, chosen_at = found, at
                elif said.pair:
                    last = line[skip + mark + 15 :]
            elif code in IGNORED:
                continue
            elif code == "CWD m":
                cwd = line[skip + mark + 14 :] if cwd is None else cwd
            elif code == "SOCKA" and line.startswith(_SOCKADDR, skip + 5):
                address = line[skip + mark + 19 :] if address is None else address
            elif code == "EXECV" and line.startswith(_EXECVE, skip + 5) and execve is None:
                execve = line[skip + mark + 17 :]
            else:
                return None
        if chosen is not None:
            target = chosen.target or (self._file(chosen.name, cwd), chosen.inode, chosen.kind)
            if said.pair:
                target = target[0], self._renamed(last, cwd), target[2]
        elif address is not None and said.address:
            target = self._address(address, said.byteorder)
        else:
            target = said.own
        return said.shown, target, execve

    def _call(self, text: str) -> _Said[C]:
        record = Record("SYSCALL", text.removesuffix("\r"))
        call = self._normaliser.call(record)
        said = _Said(
            self._make_call(call, record),
            call.rule.place or -1,
            call.rule.field == "saddr",
            call.rule.action in self._pairs,
            self._normaliser.reader.byteorder(record),
            (self._safe(call.object), "", "") if call.object else NOTHING,
        )
        self._calls.put(text, said, 2 * len(text))
        return said

    def _path(self, body: str) -> _Place:
        found = _PATH.match(body)
        if found is not None:
            name, inode, mode, nametype = found.groups()
            parent = nametype == "PARENT"
            kind = file_kind(int(mode, 8))
        else:
            record = Record("PATH", body.removesuffix("\r"))
            name, parent = record.fields.get("name", "(null)"), is_parent(record)
            inode = self._safe(values.from_text(record.fields.get("inode", "")))
            kind = file_kind(record.integer("mode", 8))
        if parent:
            place = _Place("", "", "", NOTHING)
        elif name.startswith(('"/', "2F", "(null)")):
            place = _Place(name, "", "", (self._file(name, None), inode, kind))
        else:
            place = _Place(name, inode, kind, None)
        self._paths.put(body, place, 2 * len(body))
        return place

    def _file(self, name: str, cwd: str | None) -> str:
        """The path that a raw name means. cwd: the body of the CWD record."""
        key = name if cwd is None else f"{name}\n{cwd}"
        safe = self._names.get(key)
        if safe is None:
            decoded = values.string(name)
            folder = None if cwd is None else Record("CWD", cwd.removesuffix("\r")).get("cwd")
            safe = self._safe("" if decoded is None else absolute(decoded, folder))
            self._names.put(key, safe, 2 * len(key))
        return safe

    def _renamed(self, body: str | None, cwd: str | None) -> str:
        """The name of the last PATH record, if it is a new one."""
        if body is None or " nametype=CREATE" not in body:
            return ""
        name = (self._paths.get(body) or self._path(body)).name
        return self._file(name, cwd) if name else ""

    def _address(self, body: str, byteorder: ByteOrder | None) -> Target:
        if body.startswith(_LOCAL) and byteorder == "little":
            end = body.find("00", len(_LOCAL) + 2)
            while end > 0 and end & 1:
                end = body.find("00", end + 1)
            body = body[:end] if end > 0 else body
            key = body
        else:
            key = f"{byteorder}\n{body}"
        target = self._addresses.get(key)
        if target is None:
            record = Record("SOCKADDR", body.removesuffix("\r"))
            value = record.fields.get("saddr")
            target = (self._peer(decode(value, byteorder)) if value is not None else "", "", "")
            self._addresses.put(key, target, 2 * len(key))
        return target


def single(event: Event) -> str | None:
    """What makes an event of one record what it is: type and body without the process's number. None for several.

    No row of `TYPES` names an object, or anything else, by ``pid``.
    """
    raw = event.raw
    if raw.count(b"\n") != 1:
        return None
    line = event.lines[0]
    head, _, body = line.partition(" ")
    if body.startswith("pid="):
        body = body.partition(" ")[2]
    return f"{head} {body}"
