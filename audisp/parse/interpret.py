"""What a field says, in words, as `ausearch -i` has it: ``syscall=59`` is execve, ``exit=-2`` ENOENT(No such file ...).

Pure functions of a record's raw fields. Names of users and groups come from the caller, because they need files or a
network. What the record holds was chosen by whoever is watched: nothing here raises on any text, takes more than
linear time, or makes more than a small multiple of what came in. A value that is not what its field should hold stays
as it is; auparse takes ``uid=abc`` for root.

The text is not escaped: it can hold control characters, and surrogates for bytes that are not UTF-8. Before it goes to
a terminal it goes through `escape`, or ``terminal_safe``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from audisp.parse import interpret_numbers as show
from audisp.parse.arch import machine, syscall_name, uringop_name
from audisp.parse.fieldtypes import FieldType, field_type
from audisp.parse.interpret_args import RULES, Call, Id
from audisp.parse.interpret_names import as_int, error, flags, requests
from audisp.parse.interpret_names import names as table
from audisp.parse.interpret_text import escape, keys, text, title, typed
from audisp.parse.sockaddr import decode, render
from audisp.parse.values import from_text

__all__ = ["Names", "Nobody", "escape", "group_name", "interpret", "user_name"]

UNSET: Final = 0xFFFFFFFF
"""An id or a session that was never set: (uid_t) -1."""
MAX_REGISTER: Final = 16
"""Digits of a 64-bit register in hexadecimal; a longer value is no argument of a call."""

_DECIMAL: Final = re.compile(r"[0-9]{1,20}\Z")
_SIGNED: Final = re.compile(r"-?[0-9]{1,20}\Z")
_HEXADECIMAL: Final = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,16})\Z")
_OCTAL: Final = re.compile(r"[0-7]{1,22}\Z")


class Names(Protocol):
    """Names of users and groups. Neither may raise or block for long; None for a number that has no name."""

    def user(self, uid: int) -> str | None: ...

    def group(self, gid: int) -> str | None: ...


class Nobody:
    """Names where none can be known: the events are another host's, or translation is off."""

    def user(self, uid: int) -> str | None:
        """None."""
        return None

    def group(self, gid: int) -> str | None:
        """None."""
        return None


Look = Callable[[str, Mapping[str, str], Names], str | None]
"""Value, other fields, names; the text, or None: as it is."""


def interpret(record_type: str, name: str, value: str, context: Mapping[str, str], names: Names) -> str:
    """The text that `ausearch -i` prints for a field, before it escapes it.

    value: as it stands in the record, a latin-1 view of its bytes: digits not decoded, quotes included. context: the
    other raw fields of the same record: ``arch``, ``syscall``, ``a0`` to ``a3`` are looked at.
    """
    look = _LOOKS.get(field_type(record_type, name, value))
    shown = look(value, context, names) if look is not None else None
    return from_text(value) if shown is None else shown


def user_name(uid: int, names: Names) -> str:
    """A user: ``root``, ``unset``, the name, or ``unknown(N)``."""
    return _id_name(uid, names.user)


def group_name(gid: int, names: Names) -> str:
    """A group: ``root``, ``unset``, the name, or ``unknown(N)``."""
    return _id_name(gid, names.group)


def _id_name(number: int, ask: Callable[[int], str | None]) -> str:
    if number == 0:
        return "root"
    if number == UNSET:
        return "unset"
    return ask(number) or f"unknown({number})"


def _id(value: str) -> int | None:
    # What some tools print as -1 is unset as well; no other negative number is an id.
    if value == "-1":
        return UNSET
    number = _number(value, _DECIMAL)
    return number if number is not None and number <= UNSET else None


def _number(value: str, pattern: re.Pattern[str], base: int = 10) -> int | None:
    return int(value, base) if pattern.match(value) else None


def _hexadecimal(value: str) -> int | None:
    found = _HEXADECIMAL.match(value)
    return int(found[1], 16) if found else None


def _user(value: str, _: Mapping[str, str], names: Names) -> str | None:
    number = _id(value)
    return None if number is None else user_name(number, names)


def _group(value: str, _: Mapping[str, str], names: Names) -> str | None:
    number = _id(value)
    return None if number is None else group_name(number, names)


def _arch(value: str, _: Mapping[str, str], __: Names) -> str | None:
    found = machine(value)
    if found is not None:
        return found.name
    return f"unknown-elf-type({value})" if _hexadecimal(value) is not None else None


def _call_name(value: str, context: Mapping[str, str]) -> str | None:
    # A name where a number should be: somebody has interpreted it before.
    number = _number(value, _SIGNED)
    return syscall_name(context.get("arch", ""), number) if number is not None else None


def _syscall(value: str, context: Mapping[str, str], _: Names) -> str | None:
    name = _call_name(value, context)
    if name is None:
        known = machine(context.get("arch", ""))
        return f"unknown-syscall({value})" if known is not None and _SIGNED.match(value) else None
    if name in ("socketcall", "ipc"):
        number = _hexadecimal(context.get("a0", ""))
        inner = None if number is None else table(name).get(number)
        return f"{name}({inner})" if inner else name
    return name


def _argument(index: int) -> Look:
    def look(value: str, context: Mapping[str, str], names: Names) -> str | None:
        number = _hexadecimal(value)
        if number is None:
            return None
        name = _call_name(context.get("syscall", ""), context)
        rule = RULES.get(name or "", _NO_RULES).get(index)
        shown = None
        if rule is not None:
            registers = {each: _hexadecimal(context.get(f"a{each}", "")) for each in range(4)}
            others = {each: register for each, register in registers.items() if register is not None}
            shown = rule(Call(number, others, machine(context.get("arch", ""))))
        if isinstance(shown, Id):
            return user_name(shown.number, names) if shown.user else group_name(shown.number, names)
        if shown is not None:
            return shown
        return value if value[:2] in ("0x", "0X") else f"0x{value}"

    return look


def _exit(value: str, _: Mapping[str, str], __: Names) -> str | None:
    number = _number(value, _SIGNED)
    return error(-number) if number is not None and number < 0 else None


def _decimal(render_number: Callable[[int], str | None]) -> Look:
    def look(value: str, _: Mapping[str, str], __: Names) -> str | None:
        number = _number(value, _DECIMAL)
        return None if number is None else render_number(number)

    return look


def _hex(render_number: Callable[[int], str | None]) -> Look:
    def look(value: str, _: Mapping[str, str], __: Names) -> str | None:
        number = _hexadecimal(value)
        return None if number is None else render_number(number)

    return look


def _octal(render_number: Callable[[int], str]) -> Look:
    def look(value: str, _: Mapping[str, str], __: Names) -> str | None:
        number = _number(value, _OCTAL, 8)
        return None if number is None else render_number(number)

    return look


def _string(render_text: Callable[[str], str]) -> Look:
    return lambda value, _, __: render_text(value)


def _known(name: str, unknown: str) -> Look:
    """A decimal number's name, else UNKNOWN(the number as it stands)."""

    def look(value: str, _: Mapping[str, str], __: Names) -> str | None:
        number = _number(value, _DECIMAL)
        return None if number is None else table(name).get(number) or f"{unknown}({value})"

    return look


def _words(**words: str) -> Look:
    """A few values that have words of their own."""
    return lambda value, _, __: words.get("_" + value)


_PERMISSIONS: Final = ((4, "read"), (2, "write"), (1, "exec"), (8, "attr"))


def _permissions(number: int) -> str | None:
    # 0 is a watch without a filter: all of them (audit_rule_fieldpair_data in libaudit).
    return ",".join([word for bit, word in _PERMISSIONS if number & bit or not number]) or None


def _path_flags(number: int) -> str:
    return flags(number, "path", join=",") or "none"


def _open_flags(value: str, context: Mapping[str, str], _: Names) -> str | None:
    number, arch = _hexadecimal(value), machine(context.get("arch", ""))
    return None if number is None else show.open_flags(number, arch.headers if arch else "x86")


def _mmap_flags(value: str, context: Mapping[str, str], _: Names) -> str | None:
    number, arch = _hexadecimal(value), machine(context.get("arch", ""))
    return None if number is None else show.mmap_flags(number, arch.headers if arch else "x86")


def _sockaddr(value: str, context: Mapping[str, str], _: Names) -> str | None:
    arch = machine(context.get("arch", ""))
    return render(decode(value, arch.byteorder if arch else None))


_NO_RULES: Final[Mapping[int, Callable[[Call], str | Id | None]]] = MappingProxyType({})

_T = FieldType
_LOOKS: Final[Mapping[FieldType, Look]] = MappingProxyType(
    {
        _T.UID: _user,
        _T.GID: _group,
        _T.SYSCALL: _syscall,
        _T.URING_OP: _decimal(uringop_name),
        _T.ARCH: _arch,
        _T.EXIT: _exit,
        _T.ERRNO: _decimal(error),
        _T.ESCAPED: _string(text),
        _T.ESCAPED_FILE: _string(text),
        _T.ESCAPED_KEY: _string(keys),
        _T.PROCTITLE: _string(title),
        _T.TTY_DATA: _string(typed),
        _T.PERM: _decimal(_permissions),
        _T.MODE: _octal(show.mode),
        _T.MODE_SHORT: _octal(show.mode_short),
        _T.SOCKADDR: _sockaddr,
        _T.FLAGS: _hex(_path_flags),
        _T.PROMISC: _decimal(lambda number: "yes" if number else "no"),
        _T.CAPABILITY: _known("capability", "unknown-capability"),
        _T.SUCCESS: _words(_0="no", _1="yes", _2="unset"),
        _T.A0: _argument(0),
        _T.A1: _argument(1),
        _T.A2: _argument(2),
        _T.A3: _argument(3),
        _T.SIGNAL: _known("signal", "unknown-signal"),
        _T.LIST: _known("list", "unknown-list"),
        _T.SESSION: lambda value, _, __: "unset" if _id(value) == UNSET else None,
        _T.CAP_BITMAP: _hex(show.capabilities),
        _T.NFPROTO: _known("nfproto", "unknown-netfilter-protocol"),
        _T.ICMPTYPE: _known("icmptype", "unknown-icmp-type"),
        _T.PROTOCOL: _decimal(lambda number: table("protocol").get(number) or "undefined protocol"),
        _T.PERSONALITY: _hex(show.personality),
        _T.SECCOMP: _hex(show.seccomp),
        _T.OFLAG: _open_flags,
        _T.MMAP: _mmap_flags,
        _T.HOOK: _known("hook", "unknown-hook"),
        _T.NETACTION: _known("netaction", "unknown-action"),
        _T.MACPROTO: _hex(lambda number: table("macproto").get(number) or "UNKNOWN"),
        _T.IOCTL_REQ: _hex(lambda number: requests().get(as_int(number)) or f"{as_int(number):#x}"),
        _T.FANOTIFY: _decimal(lambda number: table("fanotify").get(number) or "unknown"),
        _T.NLMCGRP: _words(_0="audit-none", _1="audit-netlink-multicast"),
        _T.RESOLVE: _hex(lambda number: flags(number, "resolve") or "0x0"),
        _T.TRUST: _words(_0="no", _1="yes", _2="unknown"),
        _T.FAN_TYPE: _words(_0="none", _1="rule_info"),
        _T.FAN_INFO: _hex(str),
    }
)
