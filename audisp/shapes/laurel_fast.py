"""laurel's JSON of records, by text: memories of what was rendered before, and on a miss one regular expression for
each common kind of record, whose parts are put between the pieces of its JSON (fast-parse.md, "What to build").

A template says what `audisp.shapes.laurel_exact` says, letter for letter, or None: then that one is asked. Its
expressions are the guard of the output. No byte of a value reaches the JSON unless it is in a class that needs no
escaping, or went through `json_text`; and what a number is taken for, JSON takes for a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from audisp.parse.types import NAME
from audisp.shapes.json_text import PLAIN, PLAIN_CLASS, percent, percent_bytes
from audisp.shapes.laurel_exact import (
    LIST,
    NOTHING,
    OURS,
    Exact,
    Key,
    items_of,
    key_of,
    tokens,
)
from audisp.shapes.laurel_recall import Recall

NUMBER: Final = "(?:0|[1-9][0-9]{0,17})"
"""A decimal as it may stand in JSON, of at most 18 digits, so that it fits 64 bits."""
_HEX: Final = "(0|[1-9a-f][0-9a-f]{0,15})"
_QUOTED: Final = f'"({PLAIN_CLASS}*+)"'
_BARE: Final = r"[!#-&(-z|~]++"

WHO: Final = ("auid", "uid", "gid", "euid", "suid", "fsuid", "egid", "sgid", "fsgid", "tty", "ses")
"""Fields of a SYSCALL that say who did it, in the kernel's order (audit_log_task_info, kernel/audit.c)."""
HEAD: Final = r"(arch=[^ \n]++ syscall=[^ \n]++(?: per=[^ \n]++)?(?: success=[^ \n]++ exit=[^ \n]++)?)"
CALL: Final = rf"{HEAD} a0={_HEX} a1={_HEX} a2={_HEX} a3={_HEX} items=({NUMBER}) ppid=({NUMBER}) pid=({NUMBER}) "
"""A SYSCALL record up to what says who it was (kernel/auditsc.c, audit_log_exit): 8 groups. What HEAD takes is
rendered from its own text, and is no field's value before."""
_CALL: Final = re.compile(CALL + r"([^\n]*+)\Z")
_WHO: Final = re.compile(
    rf"({' '.join([f'{name}=[^ ]++' for name in WHO])}) comm={_QUOTED} exe={_QUOTED}((?: [^\n]*+)?)\Z"
)
_PATH: Final = re.compile(
    rf"item=({NUMBER}) name=(?:{_QUOTED}|([0-9A-F]++)|\(null\))(?: inode=({NUMBER}))?((?: [^\n]*+)?)\Z"
)
_CWD: Final = re.compile(rf"cwd=(?:{_QUOTED}|([0-9A-F]++))\Z")
_TITLE: Final = re.compile(rf"proctitle=(?:{_QUOTED}|([0-9A-F]++))\Z")
_PLAIN_TITLE: Final = re.compile(r'[^\x00-\x1f"%+\\\x7f-\xff][^\x01-\x1f"%+\\\x7f-\xff]*\Z')
_COUNT: Final = re.compile(rf"argc=({NUMBER})\Z")
_ARGUMENT: Final = re.compile(rf'"{PLAIN_CLASS}*"\Z')
_SADDR: Final = re.compile(r"saddr=([0-9A-F]++)\Z")
_DIGITS: Final = re.compile(r"[0-9A-F]++\Z")
_USER: Final = re.compile(
    rf"pid=({NUMBER}) uid=({NUMBER}) auid=({NUMBER}) ses=({NUMBER})(?: subj=({_BARE}))? "
    r"msg='([^'\x1d]*+)'(?:\x1d([^']*+))?\Z"
)
_PAIRS: Final = re.compile(r"(?:[0-9A-F]{2})+\Z")
_LIKE_ARGUMENT: Final = re.compile(r"a[0-9]")

ADDRESSES: Final = ',"SOCKADDR":['
"""No text in a JSON string looks like this: its quotes would be escaped."""

_HEAD_FIELDS: Final = frozenset({"arch", "syscall", "per", "success", "exit"})
_CALL_FIELDS: Final = _HEAD_FIELDS | {"items", "ppid", "pid"} | OURS
_WHO_FIELDS: Final = frozenset(WHO)
_BEHIND_TAKEN: Final = _CALL_FIELDS | _WHO_FIELDS | {"comm", "exe"}
_PATH_FIELDS: Final = frozenset({"item", "name", "inode"}) | OURS
_USER_FIELDS: Final = frozenset({"pid", "uid", "auid", "ses", "subj", "msg"}) | OURS

_MESSAGES: Final = range(1100, 1200)
"""Types that user-space programs send through the kernel (AUDIT_FIRST_USER_MSG, linux/audit.h)."""
MAX_ARGUMENTS: Final = 256
"""Of an EXECVE that has a template; more are rare, and long anyway."""
_ARGUMENT_NAMES: Final = tuple(f"a{at}=" for at in range(MAX_ARGUMENTS))
MAX_KINDS: Final = 1_024
"""Types remembered: there are some 200, and somebody may make names up."""
REST_BYTES: Final = 8 * 1024 * 1024
"""Of one generation of the records that follow a SYSCALL, which are long and save most."""
PART_BYTES: Final = 512 * 1024
"""Of one generation of parts of records, of which there are some dozens. All memories together: 37 MiB at most."""

Entry = tuple[Key, str]
Template = Callable[[str], "str | None"]
Kind = tuple[Key, Template]


class Fragments:
    """Pieces of laurel's JSON, remembered. For one thread at a time."""

    def __init__(self, exact: Exact) -> None:
        self.exact = exact
        self.heads: Recall[str] = Recall(PART_BYTES)
        self.tails: Recall[str] = Recall()
        self.rests: Recall[str] = Recall(REST_BYTES)
        self.lines: Recall[Entry] = Recall()
        self._who: Recall[str] = Recall(PART_BYTES)
        self._behind: Recall[str] = Recall(PART_BYTES)
        self._path_tails: Recall[str] = Recall(PART_BYTES)
        self._added: Recall[str] = Recall(PART_BYTES)
        self._others: Recall[Entry] = Recall()
        self.addresses: Recall[str] = Recall()
        self._get_who = self._who.young.get
        self._get_behind = self._behind.young.get
        self._get_path_tail = self._path_tails.young.get
        self._kinds: dict[str, Kind] = {}
        self._templates: dict[str, Template] = {
            "type=SYSCALL": self._call,
            "type=PATH": self._path,
            "type=CWD": self._cwd,
            "type=PROCTITLE": self._title,
            "type=EXECVE": self._execve,
            "type=SOCKADDR": self._saddr,
        }
        for number, name in NAME.items():
            if number in _MESSAGES:
                self._templates[f"type={name.decode()}"] = self._user

    # ---- whole lines ----

    def line(self, line: str) -> Entry:
        """Key and object of a stripped line: what `Exact.line` says."""
        recall = self.lines
        recall.asked(1)
        found = recall.young.get(line) or recall.find(line) if recall.awake else None
        if found is None:
            found = self._line(line)
            if recall.awake:
                recall.put(line, found, len(line) + len(found[1]))
        return found

    def _line(self, line: str) -> Entry:
        head, _, body = line.partition(" ")
        key, template = self._kinds.get(head) or self._kind(head)
        text = template(body)
        return self._other(line) if text is None else (key, text)

    def _other(self, line: str) -> Entry:
        """A line that no template knows. These are remembered always: token by token is slow."""
        recall = self._others
        found = recall.young.get(line) or recall.find(line)
        if found is None:
            found = self.exact.line(line)
            recall.put(line, found, len(line) + len(found[1]))
        return found

    def _kind(self, head: str) -> Kind:
        """Key and template for ``type=NAME``."""
        kinds = self._kinds
        if len(kinds) >= MAX_KINDS:
            kinds.clear()
        found = kinds[head] = key_of(head[5:]), self._templates.get(head, _no_template)
        return found

    def rest(self, body: str, node: int) -> str | None:
        """What follows a SYSCALL's object: the event's other records, each with its LF, as keys and objects, a comma
        before each key. node: characters of ``node=NAME `` in each line. None if they need more than to be put one
        after the other."""
        recall = self.rests
        found = recall.find(body) if recall.awake else None
        if found is None:
            found = self._rest(body, node)
            if found is not None and recall.awake:
                recall.put(body, found, len(body) + len(found))
        return found

    def address(self, saddr: str) -> str:
        """Key and objects of an event's only SOCKADDR, with a comma before them. saddr: what follows ``saddr=``."""
        recall = self.addresses
        found = recall.find(saddr) if recall.awake else None
        if found is None:
            if _DIGITS.match(saddr) is not None and not len(saddr) % 2:
                found = f'{ADDRESSES}{{"saddr":"{percent_bytes(bytes.fromhex(saddr))}"}}]'
            else:
                found = f"{ADDRESSES}{self._other(f'type=SOCKADDR saddr={saddr}')[1]}]"
            if recall.awake:
                recall.put(saddr, found, len(saddr) + len(found))
        return found

    def _rest(self, body: str, node: int) -> str | None:
        lines = body.split("\n")
        lines.pop()
        if node:
            lines = [line[node:] for line in lines]
        recall = self.lines
        recall.asked(len(lines))
        awake, get, kinds = recall.awake, recall.young.get, self._kinds
        parts: list[str] = []
        seen = {"SYSCALL"}
        last = close = ""
        for line in lines:
            entry = get(line) or recall.find(line) if awake else None
            if entry is not None:
                key, text = entry
            else:
                # As in `line`, without the calls: this is the way of a sender who never says anything twice.
                head, _, fields = line.partition(" ")
                key, template = kinds.get(head) or self._kind(head)
                found = template(fields)
                if found is None:
                    key, text = self._other(line)
                else:
                    text = found
                if awake:
                    recall.put(line, (key, text), len(line) + len(text))
            name = key.name
            if name == last:
                if key.kind != LIST:
                    return None
                parts.append("," + text)
            elif key.kind != NOTHING:
                if name in seen:
                    return None
                seen.add(name)
                parts.append(close + key.opens)
                parts.append(text)
                last, close = name, key.closes
        parts.append(close)
        return "".join(parts)

    # ---- parts of lines ----

    def head(self, head: str) -> str | None:
        """Fields of a SYSCALL up to its arguments."""
        recall = self.heads
        found = recall.find(head)
        if found is None:
            found = self._fields(head, _HEAD_FIELDS)
            if found is not None:
                found = found[1:]
                recall.put(head, found, len(head) + len(found))
        return found

    def tail(self, tail: str) -> str | None:
        """Fields of a SYSCALL from ``auid`` on, with a comma before each."""
        recall = self.tails
        found = recall.find(tail) if recall.awake else None
        if found is None:
            found = self._tail(tail)
            if found is not None and recall.awake:
                recall.put(tail, found, len(tail) + len(found))
        return found

    def _tail(self, tail: str) -> str | None:
        found = _WHO.match(tail)
        if found is not None:
            who, comm, exe, behind = found.groups()
            first = self._get_who(who) or self._part(who, self._who, _WHO_FIELDS)
            last = self._get_behind(behind) or self._part(behind, self._behind, None, _BEHIND_TAKEN)
            if first is not None and last is not None:
                return f'{first},"comm":"{comm}","exe":"{exe}"{last}'
        return self._fields(tail, None, _CALL_FIELDS)

    def _part(
        self, text: str, recall: Recall[str], allowed: frozenset[str] | None, taken: frozenset[str] = frozenset()
    ) -> str | None:
        found = recall.young.get(text)
        if found is None:
            found = recall.find(text)
            if found is None:
                found = self._fields(text, allowed, taken)
                if found is not None:
                    recall.put(text, found, len(text) + len(found))
        return found

    def _fields(self, text: str, allowed: frozenset[str] | None, taken: frozenset[str] = frozenset()) -> str | None:
        """Fields of a piece of a record that is cut between two tokens, with a comma before each. None if there is
        anything else in it, or a name twice, or one that is not allowed, or that another piece has."""
        items, odd = tokens(text)
        if "\x1d" in text and (items, odd) != items_of("", text):
            return None  # inside of quotes or braces, where no kernel writes it
        names = {name for name, _ in items}
        if odd or len(names) != len(items) or "msg='" in text or not taken.isdisjoint(names):
            return None
        if not (allowed is None or names <= allowed) or any(map(_LIKE_ARGUMENT.match, names)):
            return None
        value = self.exact.value
        return "".join([f',"{name}":{value(name, raw)}' for name, raw in items])

    # ---- templates: the body of a line, or None ----

    def _call(self, body: str) -> str | None:
        found = _CALL.match(body)
        if found is None:
            return None
        head, a0, a1, a2, a3, items, ppid, pid, behind = found.groups()
        first = self.heads.young.get(head) or self.head(head)
        last = self.tails.young.get(behind) or self.tail(behind)
        if first is None or last is None:
            return None
        return (
            f'{{{first},"items":{items},"ppid":{ppid},"pid":{pid}{last},"ARGV":["0x{a0}","0x{a1}","0x{a2}","0x{a3}"]}}'
        )

    def _path(self, body: str) -> str | None:
        found = _PATH.match(body)
        if found is None:
            return None
        item, plain, digits, inode, behind = found.groups()
        last = self._get_path_tail(behind)
        if last is None:
            last = self._part(behind, self._path_tails, None, _PATH_FIELDS)
            if last is None:
                return None
        if inode is not None:
            last = f',"inode":{inode}{last}'
        if plain is not None:
            return f'{{"item":{item},"name":"{plain}"{last}}}'
        if digits is None:
            return f'{{"item":{item},"name":null{last}}}'
        name = _decoded(digits)
        return None if name is None else f'{{"item":{item},"name":"{name}"{last}}}'

    def _cwd(self, body: str) -> str | None:
        found = _CWD.match(body)
        if found is None:
            return None
        text = found[1]
        if text is None:
            text = _decoded(found[2])
        return None if text is None else f'{{"cwd":"{text}"}}'

    def _title(self, body: str) -> str | None:
        found = _TITLE.match(body)
        if found is None:
            return None
        plain, digits = found.groups()
        if plain is not None:
            return f'{{"ARGV":["{plain}"]}}'
        if len(digits) % 2:
            return None
        text = bytes.fromhex(digits).decode("latin-1").removesuffix("\0")
        if "\0\0" in text or _PLAIN_TITLE.match(text) is None:
            return None
        text = text.replace("\0", '","')
        return f'{{"ARGV":["{text}"]}}'

    def _execve(self, body: str) -> str | None:
        words = body.split(" ")
        found = _COUNT.match(words[0])
        if found is None or not 1 < len(words) <= MAX_ARGUMENTS:
            return None
        texts = []
        for word, name in zip(words[1:], _ARGUMENT_NAMES, strict=False):
            if not word.startswith(name):
                return None
            value = word[len(name) :]
            if _ARGUMENT.match(value):
                texts.append(value)
            elif _PAIRS.match(value):
                texts.append(f'"{_decoded(value)}"')
            else:
                return None
        return f'{{"argc":{found[1]},"ARGV":[{",".join(texts)}]}}'

    def _saddr(self, body: str) -> str | None:
        found = _SADDR.match(body)
        if found is None or len(found[1]) % 2:
            return None
        return f'{{"saddr":"{percent_bytes(bytes.fromhex(found[1]))}"}}'

    def _user(self, body: str) -> str | None:
        found = _USER.match(body)
        if found is None:
            return None
        pid, uid, auid, ses, subj, message, added = found.groups()
        label = "" if subj is None else f',"subj":{self.exact.text("subj", subj)}'
        last: str | None = ""
        if added is not None:
            last = self._part(added, self._added, None, _USER_FIELDS)
        if last is None:
            return None
        return f'{{"pid":{pid},"uid":{uid},"auid":{auid},"ses":{ses}{label},"msg":"{percent(message)}"{last}}}'


def _no_template(body: str) -> str | None:
    return None


def _decoded(digits: str) -> str | None:
    """The inside of a JSON string that hexadecimal digits stand for; None if their number is odd."""
    if len(digits) % 2:
        return None
    text = bytes.fromhex(digits).decode("latin-1")
    return text if PLAIN.match(text) else percent(text)
