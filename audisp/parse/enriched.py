"""Records in auditd's ENRICHED format: behind the record's own text the byte 0x1D, and what its numbers mean.

    type=PATH ... ouid=0 ogid=0 ...<0x1D>OUID="root" OGID="root"

What is added, in the order of the fields and under their names in capitals: users and groups (in quotes, or in
hexadecimal digits where a name holds a blank, a quote or anything else outside 0x21 to 0x7E), machine, system call and
socket address (as they are). auditd splits a record at blanks alone, whatever quotes there are, and so does this
(upstream.md 2.3; checked against auditd 3.0.9 by tests/e2e/test_enriched_form.py). Where it differs:

- an id that is no number gets nothing: auditd takes ``uid=abc`` for root;
- a number above 2147483647 without a name is ``unknown(4294967294)``, where auditd says ``unknown(-2)``;
- a system call is named in records of other types too; auditd knows the machine in SYSCALL alone;
- an abstract socket has a ``@`` before its name, and no socket's name can end the line.
"""

from __future__ import annotations

import re
from typing import Final

from audisp.parse.fieldtypes import FieldType, field_type
from audisp.parse.form import ENRICHMENT, MAX_LOG_LINE, MAX_NODE_LINE
from audisp.parse.interpret import Names, interpret

ENTRIES: Final = 4_096
"""Texts remembered of each kind; all are forgotten when it is reached. Ids have few combinations."""
LONGEST: Final = 1_024
"""Bytes of the longest text that is remembered: with ENTRIES, 4 MiB of a kind at most."""

STALE: Final = 10.0
"""Seconds for which a name is taken from memory: an account may be renamed without a record of it, and a directory
that was slow may know by now."""

_CALL: Final = re.compile(
    rb"(arch=[0-9a-f]++ syscall=[0-9]++)(?: success=(?:yes|no) exit=-?[0-9]++)? a0=[0-9a-f]++ a1=[0-9a-f]++"
    rb" a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ ppid=[0-9]++ pid=[0-9]++"
    rb"( auid=[0-9]++ uid=[0-9]++ gid=[0-9]++ euid=[0-9]++ suid=[0-9]++ fsuid=[0-9]++ egid=[0-9]++ sgid=[0-9]++"
    rb" fsgid=[0-9]++) "
)
"""A SYSCALL record up to its last id (kernel/auditsc.c, audit_log_exit)."""
_FILE: Final = re.compile(
    rb'item=[0-9]++ name=(?:"[^" ]*+"|[0-9A-F]++|\(null\)) inode=[0-9]++ dev=[0-9a-f:]++ mode=[0-7]++'
    rb"( ouid=[0-9]++ ogid=[0-9]++) rdev=[0-9a-f:]++(?: obj=[!-~]++)? nametype=[A-Z]++"
    rb"(?: cap_fp=[0-9a-f]++ cap_fi=[0-9a-f]++ cap_fe=[0-9]++ cap_fver=[0-9]++ cap_frootid=[0-9]++)? ?\Z"
)
"""A PATH record with an owner (audit_log_name)."""

_ADDED: Final = frozenset(
    {FieldType.UID, FieldType.GID, FieldType.SYSCALL, FieldType.URING_OP, FieldType.ARCH, FieldType.SOCKADDR}
)
_NAMES: Final = frozenset({"arch", "syscall", "uring_op", "saddr"})
"""Fields of these kinds whose names do not end with ``id``."""
_ID: Final = re.compile(r"-1\Z|[0-9]{1,10}\Z")
_MAX_ID: Final = 0xFFFFFFFF
_PLAIN: Final = re.compile(r"[!#-~]++\Z")
_QUIET: Final = frozenset({b"PROC", b"CWD ", b"EXEC"})
"""First letters of PROCTITLE, CWD and EXECVE: the kernel alone makes them, and they have no such field."""
_CHANGES: Final = frozenset({b"ADD_USER", b"ADD_GROUP", b"USER_MGMT", b"DEL_USER", b"DEL_GROUP", b"GRP_MGMT"})
"""Records around which auditd forgets what names it knew."""
_LOCAL_PATH: Final = len(b"saddr=0100")


class Enricher:
    """Adds to records. names: of this host's accounts. Used by one thread at a time.

    It remembers what it has found out, for STALE seconds and until an account is changed (`forget`).
    """

    __slots__ = ("_calls", "_names", "_others", "_owners", "_paths", "_since")

    def __init__(self, names: Names) -> None:
        self._names = names
        self._since = 0.0
        self._calls: dict[bytes, bytes] = {}
        self._paths: dict[bytes, bytes] = {}
        self._owners: dict[bytes, bytes] = {}
        self._others: dict[bytes, bytes] = {}

    def forget(self) -> None:
        """A number may have another name now. What `names` itself remembers is its own affair."""
        self._calls.clear()
        self._paths.clear()
        self._owners.clear()
        self._others.clear()

    def enrich(self, data: bytes, now: float = 0.0) -> bytes:
        """String form in, ENRICHED form out, line by line, a blank at a line's end left out. A line that is enriched
        already stays as it is. now: time.monotonic(); of what has no time, the same always."""
        if now - self._since > STALE:
            self._since = now
            self.forget()
        out: list[bytes] = []
        add = out.append
        calls, paths = self._calls.get, self._paths.get
        nodes = data.startswith(b"node=") or b"\nnode=" in data
        done = ENRICHMENT in data
        skip = 0
        for line in data.split(b"\n"):
            if nodes:
                skip = line.find(b" ") + 1 if line.startswith(b"node=") else 0
            if line[-1:] == b" ":
                line = line[:-1]
            code = line[skip + 5 : skip + 9]
            if code in _QUIET:
                add(line)
                continue
            at = line.find(b"): ") + 3
            if at < 3 or (done and ENRICHMENT in line and _is_enriched(line)):
                add(line)
                continue
            found = None
            if code == b"PATH":
                text = line[at:]
                found = paths(text)
                if found is None:
                    found = self._path(text)
            elif code == b"SYSC":
                cut = _CALL.match(line, at)
                if cut is not None and line.find(b"id=", cut.end()) < 0:
                    text = cut[1] + cut[2]
                    found = calls(text)
                    if found is None:
                        found = _remember(self._calls, text, self.added("SYSCALL", text.decode("ascii")))
            if found is None:
                found = self._other(line[skip + 5 : line.find(b" ", skip)], line[at:])
            whole = line + found
            if len(whole) > MAX_LOG_LINE:
                whole = (line[: MAX_NODE_LINE if skip else MAX_LOG_LINE] + found)[:MAX_NODE_LINE]
            add(whole)
        return b"\n".join(out)

    def _path(self, body: bytes) -> bytes:
        owner = _FILE.match(body)
        if owner is None:
            return _remember(self._paths, body, self.added("PATH", body.decode("latin-1")))
        ids = owner[1]
        found = self._owners.get(ids)
        if found is None:
            found = _remember(self._owners, ids, self.added("PATH", ids.decode("ascii")))
        return _remember(self._paths, body, found)

    def _other(self, type_: bytes, body: bytes) -> bytes:
        if type_ in _CHANGES:
            self.forget()
            return self.added(type_.decode("ascii"), body.decode("latin-1"))
        if body.startswith(b"pid="):  # it says nothing of what is added, and differs each time
            body = body[body.find(b" ") + 1 :]
        elif body.startswith(b"saddr=0100"):
            body = local_address(body)
        key = type_ + b" " + body
        found = self._others.get(key)
        if found is None:
            found = _remember(self._others, key, self.added(type_.decode("latin-1"), body.decode("latin-1")))
        return found

    def added(self, type_: str, body: str) -> bytes:
        """What is added to a record, with the 0x1D before it; b"" for nothing."""
        items: list[bytes] = []
        context: dict[str, str] = {}
        for token in body.split(" "):
            name, equals, value = token.partition("=")
            if name == "msg" and value[:1] == "'":
                name, equals, value = value[1:].partition("=")
            name = name.lstrip("(")
            if not equals or not value:
                continue
            value = value.rstrip(",:)'") if value[-1] in ",:)'" else value
            if not (name.endswith("id") or name in _NAMES):
                continue
            kind = field_type(type_, name, value)
            if kind not in _ADDED:
                continue
            if kind in (FieldType.ARCH, FieldType.SYSCALL):
                context.setdefault(name, value)
            shown = self._shown(type_, name, value, kind, context)
            if shown is not None:
                items.append(f"{name.upper()}=".encode("latin-1") + shown)
        return ENRICHMENT + b" ".join(items) if items else b""

    def _shown(self, type_: str, name: str, value: str, kind: FieldType, context: dict[str, str]) -> bytes | None:
        if kind in (FieldType.UID, FieldType.GID):
            value = value.strip('"')
            if not _ID.match(value) or int(value) > _MAX_ID:
                return None
            text = interpret(type_, name, value, context, self._names)
            data = text.encode("utf-8", "surrogateescape")
            return b'"%b"' % data if _PLAIN.match(text) else data.hex().upper().encode("ascii")
        text = interpret(type_, name, value, context, self._names)
        return text.encode("utf-8", "surrogateescape").replace(b"\n", b" ")


def enrich_lines(data: bytes, names: Names) -> bytes:
    """`Enricher.enrich` for once."""
    return Enricher(names).enrich(data)


def local_address(body: bytes) -> bytes:
    """``saddr=`` of a local socket without what stood in memory behind its path's end. Of little-endian machines."""
    end = body.find(b"00", _LOCAL_PATH + 2)
    while end > 0 and (end - _LOCAL_PATH) & 1:
        end = body.find(b"00", end + 1)
    return body[:end] if end > 0 and b" " not in body else body


def _is_enriched(line: bytes) -> bool:
    """Whether 0x1D is the format's. Who may send user messages can write it into one; the kernel closes such a message
    with a quote, and what the format adds never ends with one (`audisp.parse.record.split_enrichment`)."""
    return b" msg='" not in line or not line.endswith(b"'")


def _remember(memory: dict[bytes, bytes], key: bytes, value: bytes) -> bytes:
    if len(key) <= LONGEST:
        if len(memory) >= ENTRIES:
            memory.clear()
        memory[key] = value
    return value
