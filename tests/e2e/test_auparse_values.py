"""Values one by one against libauparse: every system call of two machines and every kind of field, with numbers chosen
at their edges. Where we differ from it, a rule says why (tests/e2e/ausearch_rules.py)."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from audisp.parse.arch import syscalls
from audisp.parse.fieldtypes import FIELD_TYPES, FieldType, field_type
from audisp.parse.types import NAME
from tests.e2e.ausearch_rules import Difference, another_version, explain, shown
from tests.needs import needs

pytestmark = needs("ausearch", "libauparse")


@pytest.fixture(autouse=True, scope="module")
def _version() -> None:
    if reason := another_version():
        pytest.skip(reason)


AUSOURCE_BUFFER: Final = 3
TTY: Final = 1


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libauparse.so.0")
    library.auparse_init.restype = ctypes.c_void_p
    library.auparse_init.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.auparse_set_escape_mode.argtypes = [ctypes.c_void_p, ctypes.c_int]
    for name in ("next_event", "first_record", "next_record", "first_field", "next_field", "destroy"):
        getattr(library, f"auparse_{name}").argtypes = [ctypes.c_void_p]
    for name in ("get_field_name", "interpret_field"):
        getattr(library, f"auparse_{name}").argtypes = [ctypes.c_void_p]
        getattr(library, f"auparse_{name}").restype = ctypes.c_char_p
    return library


def _interpreted(library: ctypes.CDLL, lines: list[str]) -> Iterator[dict[str, str]]:
    """The fields of each line, as auparse shows them in tty mode. Every line is an event."""
    state = library.auparse_init(AUSOURCE_BUFFER, "".join(lines).encode("latin-1"))
    library.auparse_set_escape_mode(state, TTY)
    while library.auparse_next_event(state) > 0:
        library.auparse_first_record(state)
        library.auparse_first_field(state)
        fields: dict[str, str] = {}
        while True:
            value = library.auparse_interpret_field(state)
            fields[library.auparse_get_field_name(state).decode()] = (value or b"").decode("latin-1")
            if library.auparse_next_field(state) <= 0:
                break
        yield fields
    library.auparse_destroy(state)


Asked = tuple[str, dict[str, str], tuple[str, ...]]
"""A record's type, its fields, and those to be compared."""


def _compare(asked: list[Asked]) -> Counter[str]:
    """Ask about records, and count the rules that were needed ("" where we agree)."""
    lines = []
    for serial, (record, fields, _) in enumerate(asked, 1):
        body = " ".join(f"{name}={value}" for name, value in fields.items())
        lines.append(f"type={record} msg=audit(1760500000.100:{serial}): {body} end=1\n")
    counted: Counter[str] = Counter()
    wrong = []
    answers = list(_interpreted(_library(), lines))
    assert len(answers) == len(asked)
    for (record, fields, names), answer in zip(asked, answers, strict=True):
        for name in names:
            ours, theirs = shown(record, name, fields[name], fields), answer.get(name, "")
            rule: str | None = ""
            if ours != theirs:
                difference = Difference(record, name, fields[name], ours, theirs, fields)
                rule = explain(difference)
                if rule is None:
                    wrong.append(difference)
            counted[rule or ""] += 1
    assert not wrong[:20]
    return counted


# fmt: off
REGISTERS: Final = (
    "0", "1", "2", "3", "5", "6", "8", "9", "f", "11", "15", "17", "18", "29", "40", "42", "1b6", "1ed", "241", "301",
    "401", "40000", "80000", "80001", "80241", "100000", "400000", "800000", "1200011", "10000000", "3d0f00", "8000",
    "107", "ff", "ffffff9c", "fffffff5", "ffffffff", "80000000", "ffffffffffffff9c", "ffffffffffffffff", "5401",
    "80045430", "c0ed0001", "4206", "59616d61", "7fffffffffffffff", "7ffe94103750", "zz", "0x5",
)
DECIMAL: Final = (
    "0", "1", "2", "3", "5", "7", "9", "11", "21", "30", "40", "41", "58", "64", "132", "255", "256", "1000", "65534",
    "4294967294", "4294967295", "4294967296", "-1", "-2", "-13", "-133", "-512", "-4095", "abc", "1x",
    "99999999999999999999999", "18446744073709551603",
)
HEXADECIMAL: Final = (
    "0", "1", "0x1", "0x22", "3fffffffff", "000001ffffffffff", "ffffffffffffffff", "0x50001", "8", "0x7ffc0000",
    "0x80000000", "40000", "400008", "0800", "86DD", "0100644", "040755", "0140777", "0104755", "01777", "5401",
    "0x80045430", "zz", "c000003e", "80000016", "40000003", "C000003E", "ffffffff",
)
STRING: Final = (
    '"/bin/cat"', "2F62696E", "(null)", "(none)", "?", "61206220", "C3A9", "C328", "1B5B41", "6C73002D6C61", "616",
    "zz", '""', "abcd", "plain", "7F", "C29B", "0A", "00616263", "610062", "6B310161",
)
SOCKET: Final = (
    "020001BBC00002010000000000000000", "0A0001BB0000000020010DB800000000000000000000000100000000", "02",
    "0A0000500000000000000000000000000000FFFFCB00710900000000", "01002F746D702F7800", "0100", "01000000", "01002F",
    "010000616200", "100000000000000000000000", "1000000034120000FF000000", "1000", "1100080003000000", "2800",
    "0000", "ZZ", "0900313233340000", "0200005001020304", "00020050C00002010000000000000000", "2D000000", "FF00",
    "0A000050000000000000000000000000000000000000000000000000", "0A00005000000000000000000000000000000000010203040000",
    "0A0000500000000000000000000000000000000001020304000000000000", "03008284989240406200000000000000",
    "0A00005000000000FE80000000000000000000000000000101000000", "0800000001000200030000000000000000000000",
)
STRINGS: Final = (
    FieldType.ESCAPED, FieldType.ESCAPED_FILE, FieldType.ESCAPED_KEY, FieldType.PROCTITLE, FieldType.TTY_DATA,
)
HOLDERS: Final = {
    "PATH": "name mode", "CONFIG_CHANGE": "list perm", "NETFILTER_PKT": "hook action proto icmptype macproto",
    "MMAP": "flags", "SOCKADDR": "saddr", "TTY": "data", "PROCTITLE": "proctitle", "SECCOMP": "code",
    "NETFILTER_CFG": "family", "FANOTIFY": "resp", "AVC": "ioctlcmd",
}
# fmt: on
"""Records in which fields stand; SYSCALL for the rest."""


def _call(arch: str, number: int, arguments: dict[str, str]) -> dict[str, str]:
    """A SYSCALL record's fields in the kernel's order; auparse looks for some of them in this order only."""
    before = {"arch": arch, "syscall": str(number), "success": "yes", "exit": "0"}
    return {**before, "a0": "0", "a1": "0", "a2": "0", "a3": "0", **arguments, "items": "0", "ppid": "1", "pid": "2"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("arch", "table"), [("c000003e", "x86_64"), ("40000003", "i386"), ("c00000b7", "aarch64")])
def test_arguments(arch: str, table: str) -> None:
    asked: list[Asked] = []
    arguments = ("a0", "a1", "a2", "a3")
    for number in syscalls(table):
        for value in REGISTERS:
            asked.append(("SYSCALL", _call(arch, number, dict.fromkeys(arguments, value)), ("syscall", *arguments)))
    agreed = _compare(asked)
    assert agreed[""] > 0.9 * agreed.total()


def _levels() -> list[dict[str, str]]:
    return [{"a1": f"{level:x}", "a2": f"{name:x}"} for level in (0, 1, 6, 17, 41, 263, 300) for name in range(130)]


def _options() -> list[dict[str, str]]:
    return [{"a0": f"{option:x}", "a1": f"{each:x}"} for option in range(70) for each in (0, 1, 9, 0x15, 0x29, 70)]


def _commands() -> list[dict[str, str]]:
    return [{"a1": f"{command:x}", "a2": f"{each:x}"} for command in range(20) for each in (0, 1, 2, 0x800)]


@pytest.mark.parametrize(
    ("call", "chosen"), [(54, _levels()), (157, _options()), (72, _commands())], ids=["setsockopt", "prctl", "fcntl"]
)
def test_arguments_that_depend_on_another(call: int, chosen: list[dict[str, str]]) -> None:
    asked: list[Asked] = [("SYSCALL", _call("c000003e", call, each), ("a0", "a1", "a2", "a3")) for each in chosen]
    agreed = _compare(asked)
    assert agreed[""] > 0.8 * agreed.total()


@pytest.mark.parametrize("name", sorted(FIELD_TYPES))
def test_fields(name: str) -> None:
    kind = FIELD_TYPES[name]
    values = {*DECIMAL, *HEXADECIMAL}
    if kind in STRINGS:
        values |= set(STRING)
    if name == "saddr":
        values |= set(SOCKET)
    if kind in (*STRINGS, FieldType.MAC_LABEL, FieldType.ADDR):
        values = {value for value in values if value[0] != "-"}
    record = next((record for record, theirs in HOLDERS.items() if name in theirs.split()), "SYSCALL")
    before = {} if name == "arch" else {"arch": "c000003e"}
    asked: list[Asked] = [(record, {**before, name: value}, (name,)) for value in sorted(values)]
    assert _compare(asked).total() == len(asked)


@pytest.mark.parametrize("value", ['"x"', "abc", "61", "0", "-1", "zz", "616"])
def test_field_types(value: str) -> None:
    """Every field name of the table and some others, in every type of record."""
    library = _library()
    library.auparse_interp_adjust_type.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p]
    others = ("acct", "argc", "a4", "a10", "a0_len", "a1[0]", "msg", "success", "tty", "pid", "cap_fe", "fe")
    names = [*FIELD_TYPES, *others]
    later = {"uring_op", "subj_trust", "obj_trust", "fan_type", "fan_info", "errno", "new_pa"}
    for number, record in NAME.items():
        for name in names:
            ours = field_type(record.decode(), name, value)
            theirs = library.auparse_interp_adjust_type(number, name.encode(), value.encode())
            assert ours == theirs or (name in later and theirs == 0), (record, name)
