"""Names and numbers of record types."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest

from audisp.parse.types import NAME, NUMBER, type_name, type_number
from tests.needs import needs


def test_every_name_leads_back_to_its_number() -> None:
    assert len(NAME) > 190
    for number, name in NAME.items():
        assert type_name(number) == name
        assert type_number(name) == number
        assert type_number(name.lower()) == number
        assert NUMBER[name] == number


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"SYSCALL", 1300),
        (b"EOE", 1320),
        (b"LANDLOCK_ACCESS", 1423),
        (b"IPE_ACCESS", 1420),
        (b"UNKNOWN[1420]", 1420),
        (b"unknown[1420]", 1420),
        (b"1400", 1400),
        (b"UNKNOWN[65535]", 65535),
        (b"UNKNOWN[65536]", 0),
        (b"UNKNOWN[99999999999999999999]", 0),
        (b"UNKNOWN[]", 0),
        (b"UNKNOWN[12", 0),
        (b"UNKNOWN[-1]", 0),
        (b"UNKNOWN[1 ]", 0),
        (b"NONSENSE", 0),
        (b"", 0),
        (b"\xff\xfe", 0),
        (b"1400\n", 0),
    ],
)
def test_number_of_a_name(name: bytes, number: int) -> None:
    assert type_number(name) == number


def test_a_type_that_auditd_has_no_name_for() -> None:
    assert type_name(1420) == b"UNKNOWN[1420]"
    assert type_name(0) == b"UNKNOWN[0]"


@needs("auditd")
def test_debians_libaudit_says_the_same() -> None:
    library = ctypes.CDLL("libaudit.so.1")
    library.audit_msg_type_to_name.restype = ctypes.c_char_p
    library.audit_name_to_msg_type.argtypes = [ctypes.c_char_p]
    later = {1338, 1339, 1423, 1424}  # names that came after 3.0.9
    for number in range(1000, 3000):
        theirs = library.audit_msg_type_to_name(number)
        if number not in later:
            assert NAME.get(number) == theirs
        if theirs:
            assert library.audit_name_to_msg_type(theirs) == type_number(theirs)
