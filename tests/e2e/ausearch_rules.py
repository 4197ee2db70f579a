"""How our reading of a field may differ from Debian's ausearch -i (3.0.9), case by case, each with its reason.

`explain` names the rule that accounts for a difference, or None: then it is a defect of ours, or a rule is missing.
The table in docs/formats/interpretation.md has these names; a test holds them together.
"""

from __future__ import annotations

import grp
import pwd
import re
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from audisp.parse.arch import machine, syscall_name
from audisp.parse.fieldtypes import FieldType, field_type
from audisp.parse.interpret import escape, interpret
from audisp.parse.values import from_text, number

_ARGUMENTS: Final = (FieldType.A0, FieldType.A1, FieldType.A2, FieldType.A3)
_IDS: Final = (FieldType.UID, FieldType.GID, *_ARGUMENTS)
_STRINGS: Final = (FieldType.ESCAPED, FieldType.ESCAPED_FILE, FieldType.ESCAPED_KEY, FieldType.PROCTITLE)
_SIGNED: Final = re.compile(r"-?[0-9]{1,20}\Z")
_UNSIGNED: Final = re.compile(r"[0-9]{1,20}\Z")
_OCTAL: Final = re.compile(r"[0-7]{1,22}\Z")
_HEX: Final = re.compile(r"(?:0[xX])?[0-9A-Fa-f]{1,16}\Z")
_SIGNED_KINDS: Final = (FieldType.EXIT, FieldType.SYSCALL)
# fmt: off
_HEX_KINDS: Final = (
    *_ARGUMENTS, FieldType.CAP_BITMAP, FieldType.PERSONALITY, FieldType.SECCOMP, FieldType.OFLAG, FieldType.MMAP,
    FieldType.MACPROTO, FieldType.IOCTL_REQ, FieldType.RESOLVE, FieldType.FLAGS, FieldType.ARCH, FieldType.FAN_INFO,
)
# fmt: on
_FEW_VALUES: Final = (FieldType.PERM, FieldType.NLMCGRP, FieldType.SUCCESS, FieldType.FANOTIFY)
_MEANS_SOMETHING_ELSE: Final = frozenset(
    {("clone", "a0"), ("clone", "a1"), ("clone", "a2"), ("fcntl", "a2"), ("fcntl64", "a2"), ("readlinkat", "a2")}
)
_CORRECTED: Final = frozenset({"IGPWR", "CLONE_STOPPED"})


VERSION: Final = "3.0.9"
"""Whose readings these are: Debian 12's. A later ausearch has other differences."""


def another_version() -> str | None:
    """Why the rules do not hold here; None if they do. ausearch must be there."""
    said = subprocess.run(["ausearch", "--version"], capture_output=True, text=True, check=False).stdout.split()
    return None if said[-1:] == [VERSION] else f"compared with ausearch {VERSION}; this is {said[-1:]}"


class HostNames:
    """Users and groups of this machine, as ausearch finds them."""

    def user(self, uid: int) -> str | None:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return None

    def group(self, gid: int) -> str | None:
        try:
            return grp.getgrgid(gid).gr_name
        except KeyError:
            return None


def shown(record: str, name: str, raw: str, context: Mapping[str, str]) -> str:
    """A field as we show it in tty mode, as a latin-1 view of its bytes."""
    text = escape(interpret(record, name, raw, context, HostNames()), "tty")
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


@attrs.frozen
class Difference:
    """One field on which we differ. raw: as in the record. ours, theirs: as shown, in tty mode, latin-1 views."""

    record: str
    name: str
    raw: str
    ours: str
    theirs: str
    context: Mapping[str, str]

    @property
    def kind(self) -> FieldType:
        """What the field holds."""
        return field_type(self.record, self.name, self.raw)

    @property
    def call(self) -> str:
        """The system call that the record is about, "" if it is about none."""
        found = number(self.context.get("syscall"))
        return syscall_name(self.context.get("arch", ""), found) or "" if found is not None else ""


def _parts(shown: str) -> list[str]:
    return [part for part in re.split(r"[|,]", shown) if part]


def _not_a_number(it: Difference) -> bool:
    """What is no number of the kind that the field holds stays as it is."""
    if it.kind in _STRINGS:
        return False
    if it.kind in _ARGUMENTS and number(it.context.get("syscall")) is None:
        return it.ours in (it.raw, f"0x{it.raw}")
    wanted = _SIGNED if it.kind in _SIGNED_KINDS else _HEX if it.kind in _HEX_KINDS else _UNSIGNED
    if it.kind in (FieldType.MODE, FieldType.MODE_SHORT):
        wanted = _OCTAL
    return not wanted.match(it.raw) and it.ours == from_text(it.raw)


def _flags(it: Difference) -> bool:
    """All that they show we show too (but for corrected names), in this order, and more between."""
    if it.kind not in (*_ARGUMENTS, FieldType.OFLAG, FieldType.MMAP, FieldType.RESOLVE, FieldType.FLAGS):
        return False
    ours, theirs = _parts(it.ours), [part for part in _parts(it.theirs) if part not in _CORRECTED]
    if theirs in (["PROT_NONE"], ["F_OK"], [f"0x{it.raw}"], ["0x0"], ["none"]):
        return len(ours) > 0 and ours[0] != it.raw
    mapped = [part for part in theirs if part != "MAP_UNINITIALIZED" or part in ours]
    rest = iter(ours)
    return len(ours) > len(mapped) - 1 and all(part in rest for part in mapped) and ours != theirs


def _elsewhere(it: Difference) -> bool:
    """A machine that libaudit was not built for, so that it takes the host's calls; or flags that have other bits."""
    arch = machine(it.context.get("arch", ""))
    if arch is None or arch.headers == "x86":
        return False
    if arch.syscalls is None or arch.syscalls.startswith(("riscv", "loongarch")):
        return it.kind in (FieldType.SYSCALL, *_ARGUMENTS)
    return it.kind in _ARGUMENTS and all(re.match("(?:__)?(?:O|MAP|PROT)_", each) for each in (it.ours, it.theirs))


def _wrong_argument(it: Difference) -> bool:
    here = (it.call, it.name)
    return here in _MEANS_SOMETHING_ELSE or (
        it.call in ("unshare", "setns") and it.theirs.split("|")[-1].startswith("SIG")
    )


def _ids(it: Difference) -> bool:
    return it.kind in _IDS and it.theirs.startswith("unknown(-") and it.ours[:8] != "unknown(-"


def _half(it: Difference) -> bool:
    odd = it.kind in (*_STRINGS, FieldType.TTY_DATA) and it.ours == it.raw
    return odd and re.match("[0-9A-Fa-f]+", it.raw) is not None


def _beyond(it: Difference) -> bool:
    return it.kind not in _HEX_KINDS and _UNSIGNED.match(it.raw) is not None and int(it.raw) > 0xFFFFFFFF


def _keys(it: Difference) -> bool:
    return it.kind is FieldType.ESCAPED_KEY and it.ours.replace(",", " key=") == it.theirs.strip()


def _one_key(it: Difference) -> bool:
    # libauparse makes a field of each key; asked for one, it gives one of them.
    return it.kind is FieldType.ESCAPED_KEY and it.theirs in it.ours.split(",")


def _later_call(it: Difference) -> bool:
    return it.kind is FieldType.SYSCALL and it.theirs.startswith("unknown-syscall(") and "unknown" not in it.ours


def _later_field(it: Difference) -> bool:
    return (it.kind >= FieldType.TRUST or it.name == "new_pa") and it.theirs == it.raw


def _kernel_error(it: Difference) -> bool:
    return it.theirs.startswith("(null)(Unknown error") and (it.ours == it.raw or it.ours[0] == "E")


def _order(it: Difference) -> bool:
    return it.kind is FieldType.SOCKADDR and it.theirs.startswith("unknown-family(") and it.raw.startswith("00")


def _scope(it: Difference) -> bool:
    ours, theirs = re.sub("%[0-9]+ ", " ", it.ours), re.sub("%[a-z0-9]+ ", " ", it.theirs)
    return it.kind is FieldType.SOCKADDR and ours == theirs


def _wrong_mount(it: Difference) -> bool:
    return (it.call, it.name) == ("mount", "a3") and it.raw.startswith("c0ed")


def _no_such_value(it: Difference) -> bool:
    masked = it.kind is FieldType.SECCOMP and it.ours.startswith("unknown-seccomp-code(")
    return masked or (it.kind in _FEW_VALUES and it.ours == it.raw)


_SUFFICES: Final[tuple[tuple[str, Callable[[Difference], bool]], ...]] = (
    ("not a number", _not_a_number),
    ("half a byte", _half),
    ("leading NUL", lambda it: it.kind in _STRINGS and it.raw.startswith("00")),
    ("inner NUL", lambda it: it.kind in _STRINGS and _plain(it.ours).startswith(f"{it.theirs}\\000")),
    ("several keys", lambda it: _keys(it) or _one_key(it)),
    ("unclosed quotes", lambda it: it.raw[0] == '"' and it.raw[1:][-1:] != '"' and not it.theirs.strip()),
    ("calls in other records", lambda it: it.kind is FieldType.SYSCALL and it.record != "SYSCALL"),
    ("bare keys", lambda it: it.kind is FieldType.ESCAPED_KEY and it.theirs == " " and it.raw[0] != '"'),
    ("control characters", lambda it: _plain(it.ours) == it.theirs),
    ("unsigned ids", _ids),
    ("beyond 32 bits", _beyond),
    ("session -1", lambda it: it.kind is FieldType.SESSION and it.raw == "-1" and it.ours == "unset"),
    ("name of a machine", lambda it: it.kind is FieldType.ARCH and it.theirs[:5] in ("unkno", "armeb")),
    ("later system calls", _later_call),
    ("later fields", _later_field),
    ("errors inside the kernel", _kernel_error),
    ("large numbers", lambda it: it.theirs.startswith("conversion error(") and len(it.raw) >= 16),
    ("abstract names", lambda it: "path=@" in it.ours and "path=" in it.theirs and it.raw.startswith("010000")),
    ("short addresses", lambda it: it.kind is FieldType.SOCKADDR and "too short" in it.theirs + it.ours),
    ("byte order", _order),
    ("scope", _scope),
    ("call signs", lambda it: it.kind is FieldType.SOCKADDR and it.ours.startswith("{ saddr_fam=ax25")),
    ("later names", lambda it: it.theirs.startswith(("unknown-", "undefined", "UNKNOWN")) or _raw_register(it)),
    ("arguments that mean something else", lambda it: _wrong_argument(it) or _wrong_mount(it)),
    ("flags left out", _flags),
    ("slips of the pen", lambda it: it.theirs in _CORRECTED),
    ("no such value", _no_such_value),
    ("another machine", _elsewhere),
    ("doubled 0x", lambda it: it.theirs == f"0x{it.raw}" and it.raw[:2].lower() == "0x"),
)

RULES: Final = tuple(name for name, _ in _SUFFICES)
"""Every difference there is, by the name it has in the documentation."""


def _raw_register(it: Difference) -> bool:
    return it.kind in (*_ARGUMENTS, FieldType.IOCTL_REQ) and it.theirs.lower() == f"0x{it.raw.lower().lstrip('0x')}"


def _plain(ours: str) -> str:
    # Undo what we escape beyond auparse: DEL, and the bytes of C1 controls.
    return re.sub(r"\\(177|[23][0-7][0-7])", lambda found: chr(int(found[1], 8)), ours)


def explain(it: Difference) -> str | None:
    """The first rule that accounts for a difference; None if none does."""
    return next((name for name, holds in _SUFFICES if holds(it)), None)
