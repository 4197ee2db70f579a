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
from audisp.parse.record import Record
from audisp.parse.sockaddr import ByteOrder, SockAddr, decode
from audisp.shapes.normal import Call, Normaliser, file_kind, is_parent
from audisp.shapes.normal_values import absolute

C = TypeVar("C")
V = TypeVar("V")

# Each class stops at the literal that follows it: what does not match is given up at its first wrong character.
_CUT: Final = re.compile(
    r" exit=(-[0-9]++)?[0-9]*+ a0=[0-9a-f]++ a1=[0-9a-f]++ a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ ppid=[0-9]++"
    r" pid=[0-9]++ auid="
)
"""What is cut out of a SYSCALL record (kernel/auditsc.c, audit_log_exit), and the name of the field after it. A result
that is an error is kept: it says why."""
_PATH: Final = re.compile(
    r'item=[0-9]++ name=("[^"]*+"|[0-9A-F]++|\(null\)) inode=([0-9]++) dev=[0-9a-f:]++ mode=([0-7]{1,11}) ouid=[0-9]++'
    r" ogid=[0-9]++ rdev=[0-9a-f:]++(?: obj=[!-~]++)? nametype=([A-Z]++)(?: |\x1d|\Z)"
)
"""A PATH record of the kernel's (audit_log_name); any other is taken apart field by field."""

STALE: Final = 10.0
"""Seconds, by the events' arrival, for which an account's name is taken from memory."""
ACCOUNTS: Final = (b"type=ADD_", b"type=DEL_", b"type=USER_MGMT ", b"type=GRP_MGMT ")
"""Records after which a number may have another name."""

IGNORED: Final = frozenset({"PROCT", "BPRM_", "EOE m", "MMAP ", "CAPSE", "FD_PA"})
"""Five characters of the types that say nothing of the object: PROCTITLE, BPRM_FCAPS, EOE, MMAP, CAPSET, FD_PAIR. No
type of `COMPOUNDS` begins like one of these."""
_SOCKADDR: Final = "SOCKADDR msg="
_EXECVE: Final = "EXECVE msg="
_SYSCALL: Final = "type=SYSCALL "
_LOCAL: Final = "saddr=0100"
"""AF_UNIX on a little-endian machine. Behind the NUL of its path stands whatever stood in the caller's memory."""

ENTRIES: Final = 8_192
"""Texts that a `Recall` holds before it forgets all of them."""
LONGEST: Final = 1_024
"""Characters of the longest text that it takes: with ENTRIES, and as much again for what is kept, 16 MiB at most."""


class Recall(dict[str, V]):
    """What was made of a text before. A plain dict, for its speed, that is emptied when it is full."""

    def keep(self, text: str, value: V) -> V:
        """Remember, and give back."""
        if len(text) <= LONGEST:
            if len(self) >= ENTRIES:
                self.clear()
            self[text] = value
        return value


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


_Place = tuple[str, str, str, Target | None]
"""A PATH record. Its name, raw, "" for a parent's; inode; kind; and the whole as an object if it needs no folder."""
_PARENT: Final[_Place] = ("", "", "", NOTHING)


class Calls(Generic[C]):
    """Reads events of the plain form.

    call: what the shape makes of a SYSCALL record. safe: how it writes a value; peer: a socket address. pairs: actions
    of which the last name, where it is a new one, is wanted as the second object. Used by one thread at a time.
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
        self._calls: Recall[_Said[C]] = Recall()
        self._paths: Recall[_Place] = Recall()
        self._names: Recall[str] = Recall()
        self._addresses: Recall[Target] = Recall()

    def forget(self) -> None:
        """An account's number may have another name now."""
        self._calls.clear()

    def read(self, event: Event) -> tuple[C, Target, str | None] | None:
        """What the shape made of the call, the object, and the body of EXECVE; None for an event of another form."""
        node, head = event.same
        lines = event.raw.decode("latin-1").split("\n")
        lines.pop()
        first = lines[0]
        skip, mark = len(node), len(head)
        at = first.find(" exit=")
        cut = _CUT.match(first, at)
        if cut is None or not first.startswith(_SYSCALL, skip) or not mark:
            return None
        # "type=SYSCALL msg=" and a blank behind the stamp; " auid=" belongs to what is kept.
        start = cut.end(1)
        text = first[skip + mark + 18 : at if start < 0 else start] + first[cut.end() - 6 :]
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
                    if found[0] and (chosen is None or at >= place):
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
            name, inode, kind, target = chosen
            target = target or (self._file(name, cwd), inode, kind)
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
        return self._calls.keep(text, said)

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
            place: _Place = _PARENT
        elif name.startswith(('"/', "2F", "(null)")):
            place = name, inode, kind, (self._file(name, None), inode, kind)
        else:
            place = name, inode, kind, None
        return self._paths.keep(body, place)

    def _file(self, name: str, cwd: str | None) -> str:
        """The path that a raw name means. cwd: the body of the CWD record."""
        key = name if cwd is None else f"{name}\n{cwd}"
        safe = self._names.get(key)
        if safe is None:
            decoded = values.string(name)
            folder = None if cwd is None else Record("CWD", cwd.removesuffix("\r")).get("cwd")
            safe = "" if decoded is None else self._safe(absolute(decoded, folder))
            self._names.keep(key, safe)
        return safe

    def _renamed(self, body: str | None, cwd: str | None) -> str:
        """The name of the last PATH record, if it is a new one."""
        if body is None or " nametype=CREATE" not in body:
            return ""
        name = (self._paths.get(body) or self._path(body))[0]
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
            self._addresses.keep(key, target)
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


def changes_accounts(event: Event) -> bool:
    """Whether an event says that an account or a group was changed."""
    return event.raw.startswith(ACCOUNTS, len(event.same[0]))
