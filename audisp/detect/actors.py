"""Who did it, as the kernel says; and of logins, what those who may speak for others say.

A record of user space has two parts. Before ``msg='`` stands who sent it, written by the kernel; behind it whatever the
sender likes. Session and account of the sender are taken from the first part only, and the second is believed only of
senders whose uid there is 0. The first part must be what the kernel writes, and nothing else: no second ``uid=`` finds
a place in it. A field of a record that the kernel itself wrote is taken as it is.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal, NamedTuple, TypeAlias

import attrs

from audisp.event import Event
from audisp.parse import values
from audisp.parse.arch import syscall_name
from audisp.parse.record import Record

UNSET: Final = 4_294_967_295
"""auid and ses of who never logged in."""
MAX_ACCOUNT: Final = 64
"""Characters of an account's name; useradd(8) takes 32, directories somewhat more. Longer ones are nobody's."""
MAX_ADDRESS: Final = 64
"""Characters of an address; the longest IPv6 address in IPv4's clothes has 45."""

_HEAD: Final = re.compile(
    r"(?:user )?pid=([0-9]{1,7}) uid=([0-9]{1,10}) auid=([0-9]{1,10}) ses=([0-9]{1,10})"
    r"(?: subj=[^' ]{1,512}(?: \([a-z]{1,16}\))?)?"
)
# AppArmor's labels end in the mode of the profile: subj=/usr/sbin/cupsd (enforce).
_BEFORE: Final = " msg='"
_START: Final = (
    rb"(?m)^(?:node=[^ \n]++ )?type=SYSCALL msg=audit\([^)\n]++\): arch=([0-9a-f]{1,8}+) syscall=([0-9]{1,10}+) "
)
_WHO: Final = rb"ppid=([0-9]{1,10}+) pid=([0-9]{1,10}+) auid=([0-9]{1,10}+) uid=([0-9]{1,10}+) "
_WHAT: Final = rb"comm=(?:\"[^\"\n]*+\"|[^ \n]*+) exe=(\"[^\"\n]*+\"|[^ \n]*+)"
_CALL: Final = re.compile(
    _START
    + rb"success=[a-z]++ exit=[^ \n]++ a0=[0-9a-f]++ a1=[0-9a-f]++ a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ "
    + _WHO
    + rb"gid=[0-9]++ euid=[0-9]++ suid=[0-9]++ fsuid=[0-9]++ egid=[0-9]++ sgid=[0-9]++ fsgid=[0-9]++ tty=[^ \n]++ "
    rb"ses=([0-9]{1,10}+) " + _WHAT
)
"""As every kernel of these ten years writes it; three times as fast as the next."""
_ANY_CALL: Final = re.compile(_START + rb"[^\n]*? " + _WHO + rb"[^\n]*? ses=([0-9]{1,10}+) " + _WHAT)
_AUID: Final = re.compile(rb"type=SYSCALL [^\n\x1d]*+\x1d[^\n]*?\bAUID=\"([^\"\n]*+)\"")
"""The name that ENRICHED format appended to the call."""
_OURS: Final = re.compile(rb"(?:node=[^ \n]++ )?type=[^ \n]++ msg=audit\([^)\n]++\): emitter=")
_FOUR: Final = (b"0200", b"0002")
_SIX: Final = (b"0A00", b"000A")
"""AF_INET and AF_INET6 in both orders of bytes."""
_FIRST_REGISTER: Final = re.compile(rb" a0=([0-9a-f]{1,16}+) ")

Sent: TypeAlias = Literal["LOGIN", "USER_LOGIN", "USER_AUTH", "USER_START", "USER_END", "USER_LOGOUT", "SYSTEM"]
_SENT: Final[dict[str, Sent]] = {
    "USER_LOGIN": "USER_LOGIN",
    "USER_AUTH": "USER_AUTH",
    "USER_START": "USER_START",
    "USER_END": "USER_END",
    "USER_LOGOUT": "USER_LOGOUT",
    "SYSTEM_BOOT": "SYSTEM",
    "SYSTEM_SHUTDOWN": "SYSTEM",
}


class Call(NamedTuple):
    """What a SYSCALL record says of its process, not taken apart further than needed."""

    arch: bytes
    number: bytes
    ppid: bytes
    pid: bytes
    auid: bytes
    uid: bytes
    ses: bytes
    exe: bytes
    """As written: in quotes, or in hexadecimal digits."""


@attrs.frozen
class Actor:
    """Unknown, and unset, is None."""

    pid: int | None
    ppid: int | None
    auid: int | None
    ses: int | None
    account: str | None = None
    """The name for auid that ENRICHED format brought."""


@attrs.frozen
class Said:
    """A record of user space by a sender who may speak for others: uid 0. what: its type; of the system's start and end
    SYSTEM; LOGIN is the kernel's own, of a session that begins. account: a name; number: of an account; both as the
    sender says. failed: None if it does not say."""

    what: Sent
    pid: int
    ses: int | None
    address: str | None
    account: str | None
    number: int | None
    failed: bool | None


def call_of(raw: bytes) -> Call | None:
    """Of an event's records the first SYSCALL."""
    found = _CALL.search(raw) or _ANY_CALL.search(raw)
    return None if found is None else Call._make(found.groups())


class Connects:
    """Which calls ask for a connection; bounded by the tables of calls."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], str | None] = {}

    def ask(self, call: Call, raw: bytes) -> bool:
        """Whether this one does."""
        key = (call.arch, call.number)
        try:
            name = self._known[key]
        except KeyError:
            name = syscall_name(call.arch.decode(), int(call.number))
            if len(self._known) < 4_096:  # more than all machines' calls that deal with sockets
                self._known[key] = name
        if name == "connect":
            return True
        if name != "socketcall":
            return False
        register = _FIRST_REGISTER.search(raw)
        return register is not None and register[1] == b"3"  # linux/net.h: SYS_CONNECT


def destination_of(raw: bytes, head: bytes) -> bytes | None:
    """The address of an event's SOCKADDR record, in hexadecimal digits; None if it is none of the Internet with a port
    (struct sockaddr_in, sockaddr_in6). head: ``audit(SEC.MSEC:SERIAL):``."""
    # The kernel encodes whatever has a blank: this text stands in no field of its records.
    mark = b"type=SOCKADDR msg=%b saddr=" % head
    at = raw.find(mark)
    if at < 0:
        return None
    at += len(mark)
    digits = raw[at : at + 48].upper()
    family = digits[:4]
    found = digits[8:16] if family in _FOUR else digits[16:48] if family in _SIX else b""
    usable = len(found) in (8, 32) and digits[4:8] != b"0000" and found.isalnum()
    return found if usable and values.is_hex(found.decode()) else None


def path_of(written: bytes) -> bytes:
    """A path of a record; b"" for none."""
    if written[:1] == b'"':
        return written[1:-1]
    return b"" if written in (b"(null)", b"?") else values.unquote(written.decode("latin-1"))


def sender_of(record: Record) -> tuple[int, int, int, int] | None:
    """pid, uid, auid, ses as the kernel put them before ``msg='``; None if that is not what the kernel writes."""
    head, quote, _ = record.body.partition(_BEFORE)
    found = _HEAD.fullmatch(head) if quote else None
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]), int(found[4]))


def is_user_space(record: Record) -> bool:
    """Whether user space can send records of this type (linux/audit.h: AUDIT_USER, AUDIT_FIRST_USER_MSG and _MSG2).
    One whose type has no name or number here counts as such."""
    number = record.number
    return number in (0, 1005) or 1100 <= number < 1200 or 2100 <= number < 3000


def is_ours(raw: bytes) -> bool:
    """Whether an event was emitted by a plugin of ours. Nobody else can begin a record so: the kernel puts ``pid=``
    first."""
    return _OURS.match(raw) is not None


def actor_of(event: Event) -> Actor | None:
    """Who did what the event tells of; None if nobody trustworthy says."""
    call = call_of(event.raw)
    if call is not None:
        auid = _set(int(call.auid))
        found = None if auid is None else _AUID.search(event.raw)
        name = None if found is None else account(found[1].decode("utf-8", "surrogateescape"))
        return Actor(int(call.pid), int(call.ppid), auid, _set(int(call.ses)), name)
    record = event.subject
    if record is None:
        return None
    if is_user_space(record):
        sender = sender_of(record)
        return None if sender is None else Actor(sender[0], None, _set(sender[2]), _set(sender[3]))
    return Actor(
        record.integer("pid"), record.integer("ppid"), _set(_outer(record, "auid")), _set(_outer(record, "ses"))
    )


def said(event: Event) -> tuple[list[Said], int]:
    """What is to be believed of logins and of the system's start and end, and how many records are not."""
    found: list[Said] = []
    forged = 0
    for record in event.records:
        if record.type == "LOGIN":
            found.append(Said("LOGIN", 0, _set(_outer(record, "ses")), None, None, None, failed=None))
            continue
        what = _SENT.get(record.type)
        sender = None if what is None else sender_of(record)
        if what is None:
            continue
        if sender is None or sender[1] != 0:
            forged += 1
            continue
        inner = record.inner
        written = inner.get("acct")
        name = None if written is None else values.string(written)
        result = inner.get("res", inner.get("result", "")).lower()
        found.append(
            Said(
                what,
                sender[0],
                _set(sender[3]),
                address(inner.get("addr", "").strip('"')),
                None if name is None else account(name),
                values.number(inner.get("id")),
                True if result in ("failed", "0", "no") else False if result in ("success", "1", "yes") else None,
            )
        )
    return found, forged


def address(text: str) -> str | None:
    """As `ipaddress` writes it, IPv4 in IPv6's clothes as IPv4; None for what is none: a name, a zone, a command."""
    if not 2 <= len(text) <= MAX_ADDRESS or "%" in text:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return None if found.is_unspecified else str(found)


def account(name: str) -> str | None:
    """The name as it is; None for what can be nobody's: an option, a blank, nothing to be seen."""
    usable = 0 < len(name) <= MAX_ACCOUNT and name.isprintable() and not any(each in name for each in " :/,'\"")
    return name if usable and name[0] not in "-?(#" else None


def _outer(record: Record, name: str) -> int | None:
    return values.number(record.fields.get(name))


def _set(number: int | None) -> int | None:
    return None if number is None or not 0 <= number < UNSET else number
