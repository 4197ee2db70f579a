"""The generated tables, and how they are taken apart."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.arch import X32_BIT, machine, syscall_name, syscalls, unpack, uringop_name
from audisp.parse.interpret_names import bits, error, errors, flags, names, requests
from audisp.parse.tables_errors import TTY_KEYS
from audisp.parse.tables_flags import FLAGS
from audisp.parse.tables_ioctl import REQUESTS
from audisp.parse.tables_machines import MACHINES
from audisp.parse.tables_names import NAMES
from audisp.parse.tables_syscalls import SYSCALLS

PACKED = {**SYSCALLS, **NAMES, **FLAGS, **REQUESTS}


def test_no_two_tables_have_one_name() -> None:
    assert len(PACKED) == len(SYSCALLS) + len(NAMES) + len(FLAGS) + len(REQUESTS)


@pytest.mark.parametrize("name", sorted(PACKED))
def test_tables_are_whole(name: str) -> None:
    table = unpack(PACKED[name])
    assert list(table) == sorted(table)
    assert len(table) == len(PACKED[name].split())
    assert all(re.fullmatch(r"[A-Za-z0-9_.+/-]+", each) for each in table.values())


@pytest.mark.parametrize(
    ("packed", "table"),
    [
        ("", {}),
        ("0:a b 7:c", {0: "a", 1: "b", 7: "c"}),
        ("3:a", {3: "a"}),
        ("1:a 2:b", {1: "a", 2: "b"}),
    ],
)
def test_unpack(packed: str, table: dict[int, str]) -> None:
    assert unpack(packed) == table


@given(st.dictionaries(st.integers(0, 1000), st.from_regex(r"[A-Za-z_]\w{0,9}", fullmatch=True)))
def test_every_table_can_be_packed(table: dict[int, str]) -> None:
    assert unpack(" ".join(f"{number}:{name}" for number, name in sorted(table.items()))) == table


def test_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        SYSCALLS["x86_64"] = ""  # type: ignore[index]
    with pytest.raises(TypeError):
        syscalls("x86_64")[0] = "write"  # type: ignore[index]


@pytest.mark.parametrize(
    ("arch", "name", "size", "order", "execve"),
    [
        ("c000003e", "x86_64", 64, "little", 59),
        ("40000003", "i386", 32, "little", 11),
        ("c00000b7", "aarch64", 64, "little", 221),
        ("40000028", "arm", 32, "little", 11),
        ("c0000015", "ppc64le", 64, "little", 11),
        ("80000015", "ppc64", 64, "big", 11),
        ("14", "ppc", 32, "big", 11),
        ("80000016", "s390x", 64, "big", 11),
        ("16", "s390", 32, "big", 11),
        ("c00000f3", "riscv64", 64, "little", 221),
        ("400000f3", "riscv32", 32, "little", 221),
        ("c0000102", "loongarch64", 64, "little", 221),
    ],
)
def test_machines(arch: str, name: str, size: int, order: str, execve: int) -> None:
    found = machine(arch)
    assert found is not None
    assert (found.name, found.bits, found.byteorder) == (name, size, order)
    assert syscall_name(arch, execve) == "execve"
    assert machine(arch.upper()) is machine("0x" + arch) is found


def test_machines_without_calls() -> None:
    found = machine("8")
    assert found is not None
    assert (found.name, found.syscalls) == ("mips", None)
    assert syscall_name("8", 4011) is None
    assert len({machine(f"{number:x}") for number in MACHINES}) == len(MACHINES)


@pytest.mark.parametrize("arch", ["", "zz", "x86_64", "-1", "c000003e0", "c000003", "f" * 10_000, "\xb2", "c0_00003e"])
def test_no_machine(arch: str) -> None:
    assert machine(arch) is None
    assert syscall_name(arch, 0) is None


def test_x32() -> None:
    assert syscall_name("c000003e", X32_BIT | 520) == "execve"
    assert syscall_name("c000003e", X32_BIT | 0) == "read"
    assert syscall_name("c000003e", 520) is None
    assert syscall_name("c00000b7", X32_BIT | 520) is None
    assert syscall_name("c000003e", X32_BIT | 9999) is None


@pytest.mark.parametrize("number", [-1, 9999, 2**64, -(2**64)])
def test_no_call(number: int) -> None:
    assert syscall_name("c000003e", number) is None
    assert uringop_name(number) is None


def test_later_calls_are_known_everywhere() -> None:
    """Linux numbers new calls alike on all machines since 5.1: what libaudit1 has not must be there as well."""
    for table in SYSCALLS:
        there = {name: number & ~X32_BIT for number, name in syscalls(table).items()}
        assert (there["clone3"], there["mseal"], there["file_getattr"]) == (435, 462, 468)


def test_errors() -> None:
    assert error(2) == "ENOENT(No such file or directory)"
    assert error(11) == "EAGAIN(Resource temporarily unavailable)"
    assert error(512) == "ERESTARTSYS(Unknown error 512)"
    assert error(0) is None
    assert {*range(1, 41), *range(42, 58), *range(59, 134)} <= errors().keys()


def test_names_and_bits() -> None:
    assert names("capability")[21] == "sys_admin"
    assert requests()[0x5401] == "TCGETS"
    assert uringop_name(0) == "nop"
    assert flags(0x42, "open") == "O_RDWR|O_CREAT"
    assert flags(0x4000, "open") == "O_DIRECT"
    assert flags(0x4000, "open", "aarch64") == flags(0x4000, "open", "powerpc") == "O_DIRECTORY"
    assert flags(0x4000, "open", "no such machine") == "O_DIRECT"
    assert flags(1 << 40, "open") == f"{1 << 40:#x}"
    assert flags(0, "open") == ""
    assert bits("access") == ((1, "X_OK"), (2, "W_OK"), (4, "R_OK"))


def test_keys_of_terminals() -> None:
    words = TTY_KEYS.split()
    known = dict(zip(words[::2], words[1::2], strict=True))
    assert len(known) * 2 == len(words)
    assert (known["0d"], known["1b5b41"], known["7f"]) == ("ret", "up", "backspace")


def test_a_table_is_taken_apart_when_it_is_needed() -> None:
    program = (
        "from audisp.parse import arch, interpret, interpret_names as tables\n"
        "print([each.cache_info().currsize for each in (arch.syscalls, tables.names, tables.errors, tables.bits)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 0, 0, 0]\n"


@pytest.mark.parametrize("name", ["errors", "flags", "ioctl", "machines", "names", "syscalls"])
def test_generated_files_say_where_they_come_from(name: str) -> None:
    said = importlib.import_module(f"audisp.parse.tables_{name}").__doc__ or ""
    assert "Written by tools/make_tables.py; do not edit." in said
    assert "Source: " in said
