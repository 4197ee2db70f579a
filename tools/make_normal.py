"""Write audisp/shapes/normal_tables.py: what auparse's normaliser says of each system call and each record type.

Nothing is copied from it: it is asked. Debian's libauparse0 (3.0.9) is given one made-up event after another through
ctypes, with a different value in each field, so that which field an answer comes from can be seen. What depends on more
than the type or the system call (which record comes first, what an operation is called) is in audisp/shapes/normal.py.

Usage: python tools/make_normal.py [--check]      (Debian 12 with libaudit1 and libauparse0; --check writes nothing)
"""

from __future__ import annotations

import ctypes
import sys
from collections import defaultdict
from pathlib import Path

import peer
from make_tables import mapping

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audisp.parse.types import NAME, NUMBER

TARGET = Path(__file__).resolve().parent.parent / "audisp" / "shapes" / "normal_tables.py"
ELF = {
    "x86_64": "c000003e", "i386": "40000003", "aarch64": "c00000b7", "arm": "40000028", "ppc64": "80000015",
    "ppc": "14", "s390x": "80000016", "s390": "16",
}  # fmt: skip
"""AUDIT_ARCH_* of the machines that libaudit1 was built for (linux/audit.h)."""

Event = list[tuple[str, str]]
Where = tuple[int, str, str]
"""Number of the record, name of the field, its interpretation."""

_lib = ctypes.CDLL("libauparse.so.0")
_lib.auparse_init.restype = ctypes.c_void_p
_lib.auparse_init.argtypes = [ctypes.c_int, ctypes.c_char_p]
_lib.auparse_normalize.argtypes = [ctypes.c_void_p, ctypes.c_int]
PLACES = ("session", "subject_primary", "subject_secondary", "object_primary", "object_secondary")
WORDS = ("get_event_kind", "subject_kind", "get_action", "object_kind", "how")
for _name in ("next_event", "get_record_num", "destroy", *(f"normalize_{place}" for place in PLACES)):
    getattr(_lib, f"auparse_{_name}").argtypes = [ctypes.c_void_p]
for _name in ("get_field_name", "interpret_field", *(f"normalize_{word}" for word in WORDS)):
    getattr(_lib, f"auparse_{_name}").argtypes = [ctypes.c_void_p]
    getattr(_lib, f"auparse_{_name}").restype = ctypes.c_char_p


class Answer:
    """What the normaliser says of one event. known: whether it says anything."""

    def __init__(self, event: Event) -> None:
        text = "".join(f"type={type_} msg=audit(1760500000.100:1): {body}\n" for type_, body in event).encode()
        state = _lib.auparse_init(peer.AUSOURCE_BUFFER, text)
        self.known = _lib.auparse_next_event(state) > 0 and _lib.auparse_normalize(state, 0) == 0
        self.places: dict[str, Where] = {}
        self.words: dict[str, str] = {}
        if self.known:
            for place in PLACES:
                if getattr(_lib, f"auparse_normalize_{place}")(state) == 1:
                    field = _lib.auparse_get_field_name(state).decode()
                    value = _lib.auparse_interpret_field(state)
                    self.places[place] = _lib.auparse_get_record_num(state), field, (value or b"").decode("latin-1")
            for word in WORDS:
                said = getattr(_lib, f"auparse_normalize_{word}")(state)
                self.words[word] = "" if said is None else said.decode("latin-1")
        _lib.auparse_destroy(state)


# ---- system calls ----

CWD = ("CWD", 'cwd="/w"')
TITLE = ("PROCTITLE", 'proctitle="title"')
ADDRESS = ("SOCKADDR", "saddr=02000050170203040000000000000000")


def _syscall(arch: str, number: int) -> tuple[str, str]:
    return "SYSCALL", (
        f"arch={arch} syscall={number} success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=0 ppid=11 pid=12 auid=1000 "
        'uid=1001 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts5 ses=77 comm="c" exe="/e" key="k"'
    )


def _path(item: int, mode: str) -> tuple[str, str]:
    return "PATH", f'item={item} name="/p{item}" inode=9{item} dev=fe:00 mode={mode} ouid=0 ogid=0 nametype=NORMAL'


def syscall_rule(arch: str, number: int, name: str) -> tuple[str, str, str] | None:
    """Action, kind of object, where the object is; None where the normaliser has nothing of its own to say.

    Where: ``N`` or ``N*`` is the first PATH that is no PARENT, from the event's record N on, with * if its mode says
    the kind; a field's name is that field of SYSCALL or SOCKADDR. How it was done is the system call where the action
    is followed by ``!``.
    """
    call = _syscall(arch, number)
    alone = Answer([call, TITLE])
    action = alone.words["get_action"]
    if action.startswith("triggered-"):
        return None
    kind = alone.words["object_kind"]
    if alone.words["how"] == name:
        action += "!"
    if "object_primary" in alone.places:
        return action, kind, alone.places["object_primary"][1]
    if action == "killed-pid":
        return action, kind, "opid"
    if "object_primary" in Answer([call, ADDRESS, TITLE]).places:
        return action, kind, "saddr"
    # Five names: what depends on there being many (symlink) is told from what does not.
    files = Answer([call, CWD, *[_path(item, "0100644") for item in range(5)], TITLE])
    if "object_primary" not in files.places:
        return action, kind, "-"
    place = str(files.places["object_primary"][0])
    folder = Answer([call, CWD, *[_path(item, "040755") for item in range(5)], TITLE])
    return action, kind, place + ("*" if folder.words["object_kind"] == "directory" else "")


def syscalls() -> dict[str, str]:
    """Names of system calls by what is said of them."""
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    seen: set[str] = set()
    for machine, arch in ELF.items():
        for number, name in peer.syscalls(machine).items():
            if name in seen:
                continue
            seen.add(name)
            rule = syscall_rule(arch, number, name)
            if rule is not None:
                found[rule].append(name)
    return {" ".join(rule): " ".join(names) for rule, names in sorted(found.items())}


# ---- record types ----

# fmt: off
FIELDS = [
    "pid", "uid", "old-auid", "auid", "tty", "ses", "subj", "op", "acct", "id", "comm", "exe", "hostname", "addr",
    "terminal", "grp", "cmd", "data", "unit", "vm", "uuid", "resrc", "reason", "device", "name", "file", "path", "fp",
    "rport", "laddr", "lport", "sig", "arch", "syscall", "code", "key", "list", "dev", "prom", "old_prom", "table",
    "family", "entries", "feature", "old", "new", "audit_enabled", "audit_backlog_limit", "audit_pid", "prog-id",
    "profile", "operation", "scontext", "tcontext", "tclass", "bool", "val", "old_val", "enforcing", "old_enforcing",
    "nl-mcgrp", "cause", "printer", "title", "sw", "sw_type", "new-seuser", "new-role", "new-level", "ksize",
    "nlbl_domain", "unlbl_accept", "inode", "label", "new_gid", "seresult", "status", "range", "mac", "model", "bus",
    "default-context", "selected-context", "old-seuser", "old-role", "old-level", "img-ctx", "vm-ctx", "old-disk",
    "new-disk", "new_group", "root_dir", "key_enforce", "gpg_res", "format", "banners", "job", "uri", "user", "src",
    "dst", "spi", "cipher", "direction", "spid", "suid", "pfs", "ver",
    "res",
]
# fmt: on
"""Fields that a record may name an actor, an object or a way by, each before what is looked for after it."""
ORDERS = {
    "LOGIN": ["pid", "uid", "old-auid", "auid", "tty", "old-ses", "ses", "res"],
    "DAEMON": ["op", "ver", "format", "kernel", "auid", "pid", "uid", "ses", "subj", "res"],
    "ANOM_PROMISCUOUS": ["dev", "prom", "old_prom", "auid", "uid", "gid", "ses"],
}
"""Records that say who after what: auparse looks forward only (kernel/audit.c, net/core/dev.c; upstream.md 2.3)."""
NUMBERS = {"pid": 41, "uid": 3001, "old-auid": 3002, "auid": 3003, "ses": 44, "id": 3005, "new_gid": 3006, "sig": 11}
WHO = ("auid", "uid", "id", "old-auid", "acct", "scontext")


def _body(fields: list[str], **changed: str) -> str:
    values = {
        **{name: f"v-{name}" for name in FIELDS},
        **{name: str(number) for name, number in NUMBERS.items()},
        "exe": '"/e"', "res": "success", "key": '"v-key"', "arch": "c000003e", "syscall": "59", "acct": '"v-acct"',
        "nl-mcgrp": "1", "old-ses": "4", "gid": "5", "ver": "3", "format": "raw", "kernel": "6", **changed,
    }  # fmt: skip
    return " ".join(f"{name}={values[name]}" for name in fields)


def _fields(type_: str) -> list[str]:
    return list(ORDERS.get(type_) or ORDERS.get(type_.partition("_")[0], FIELDS))


def _chain(type_: str, place: str) -> list[str]:
    """The fields that a place is filled from, each where those before it are absent."""
    fields, found = _fields(type_), []
    while len(found) < 4:
        where = Answer([(type_, _body(fields))]).places.get(place)
        if where is None or where[1] not in fields:
            break
        found.append(where[1])
        fields.remove(where[1])
    return found


def _subject_kind(type_: str) -> str:
    """The field whose number decides what the subject is; a word in capitals that does not depend on any."""
    said = Answer([(type_, _body(_fields(type_)))]).words["subject_kind"]
    for name in WHO:
        if name in NUMBERS and Answer([(type_, _body(_fields(type_), **{name: "0"}))]).words["subject_kind"] != said:
            return name
    return said.upper() or "-"


def _how(type_: str) -> str:
    said = Answer([(type_, _body(_fields(type_)))]).words["how"]
    if said == "/e":
        return "exe"
    if said == "SIGSEGV":
        return "sig"
    return said.removeprefix("v-") if said.startswith("v-") else said.upper() or "-"


def type_row(type_: str) -> str:
    """Event kind, action, kind of object, object, second object, subject, second subject, kind of subject, how.

    The last five are left out if they are USUAL.

    Of a field that is there only if another is not, the other comes first, and a comma between them. ``=op``: the word
    is what that field says. ``-``: nothing.
    """
    answer = Answer([(type_, _body(_fields(type_)))])
    action = answer.words["get_action"] or "-"
    places = {place: ",".join(_chain(type_, place)) or "-" for place in PLACES}
    row = " ".join(
        (
            answer.words["get_event_kind"],
            f"={action[2:]}" if action.startswith("v-") else action,
            answer.words["object_kind"],
            places["object_primary"],
            places["object_secondary"],
            places["subject_primary"],
            places["subject_secondary"],
            _subject_kind(type_),
            _how(type_),
        )
    )
    return row.removesuffix(USUAL)


def types() -> dict[str, str]:
    """Names of record types by what is said of them; without those of which the same is said as of an unknown one."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, number in sorted(NUMBER.items(), key=lambda item: item[1]):
        type_ = name.decode()
        if type_ not in ("SYSCALL", "EOE"):
            row = type_row(type_ if number in NAME else f"UNKNOWN[{number}]")
            if row != UNKNOWN:
                found[row].append(type_)
    return {row: " ".join(names) for row, names in sorted(found.items())}


USUAL = " - auid uid uid exe"
UNKNOWN = type_row("UNKNOWN[1999]")


def compounds() -> dict[str, str]:
    """Records that say what an event is about although it has a SYSCALL record, by action, kind of object, object."""
    found: dict[str, list[str]] = defaultdict(list)
    call = _syscall(ELF["x86_64"], 257)
    plain = Answer([call, CWD, _path(0, "0100644"), TITLE]).words["get_action"]
    fields = [name for name in FIELDS if name not in ("pid", "uid", "auid", "ses", "exe", "res")]
    for _, name in sorted(NAME.items()):
        type_ = name.decode()
        answer = Answer([(type_, _body(fields)), call, CWD, _path(0, "040755"), TITLE])
        action = answer.words.get("get_action", "")
        if type_ in ("SYSCALL", "LOGIN") or not action or action == plain or "subject_secondary" not in answer.places:
            continue  # auparse makes two events of what has a record that stands alone
        if Answer([(type_, _body(fields)), _syscall(ELF["x86_64"], 42), TITLE]).words["object_kind"] == "socket":
            other = Answer([(type_, _body(fields)), _syscall(ELF["x86_64"], 105), TITLE]).words["object_kind"]
            if other != "socket":
                found[f"{action} ^ ^"].append(type_)
                continue
        place = answer.places.get("object_primary")
        where = "-" if place is None else "path" if place[1] == "name" and type_ != "KERN_MODULE" else place[1]
        action = f"={action[2:]}" if action.startswith("v-") else action
        found[f"{action} {answer.words['object_kind']} {where}"].append(type_)
    return {row: " ".join(names) for row, names in sorted(found.items())}


def render() -> str:
    """The module."""
    return (
        '"""What auparse\'s normaliser says of system calls and record types. Written by tools/make_normal.py; do not '
        'edit.\n\nSource: libauparse0 3.0.9 (Debian), asked with one event for each.\n"""\n\n'
        "# ruff: noqa: E501 - a row is a row\n\nfrom __future__ import annotations\n\n"
        "from types import MappingProxyType\n"
        "from typing import TYPE_CHECKING, Final\n\nif TYPE_CHECKING:\n    from collections.abc import Mapping\n\n"
        + mapping(
            "SYSCALLS",
            "str, str",
            syscalls(),
            "Names of system calls, by action, kind of object, and where the object is: ``N`` is the first PATH that "
            "is no\nPARENT from the event's record N on, ``N*`` one whose mode says the kind, ``-`` nowhere, anything "
            "else the name of a\nfield. After an action with ``!``, how it was done is the system call.",
        )
        + "\n"
        + mapping(
            "COMPOUNDS",
            "str, str",
            compounds(),
            "Names of record types that say what an event with a SYSCALL record is about, by action, kind of object, "
            "object\n(``path``: the first PATH that is no PARENT). ``^``: as without that record.",
        )
        + "\n"
        + mapping(
            "TYPES",
            "str, str",
            types(),
            "Names of record types, by event kind, action, kind of object, object, second object, subject, second "
            "subject, kind of\nsubject, how; the last five are as in USUAL where there are but four. Fields by name, "
            "several with a comma: the first\nthat is there. ``=op``: the word that stands in that field. Capitals: "
            "that word itself, in small letters. ``-``: nothing.",
        )
        + f'\nUNKNOWN: Final = "{UNKNOWN}"\n"""The same of any other type."""\n'
        + f'USUAL: Final = "{USUAL}"\n"""Second object, subject, second subject, kind of subject, how."""\n'
    )


def main() -> int:
    text = render()
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text(encoding="utf-8") != text:
            print(f"{TARGET} differs from what its source says")
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
