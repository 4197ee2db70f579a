"""Socket addresses: every family of the hard lines, byte for byte; and any bytes at all."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audisp.parse.sockaddr import ByteOrder, SockAddr, decode, families, render

INET = "020001BBC00002010000000000000000"


@pytest.mark.parametrize(
    ("value", "expected", "shown"),
    [
        (INET, SockAddr("inet", 2, "192.0.2.1", 443), "{ saddr_fam=inet laddr=192.0.2.1 lport=443 }"),
        (INET.lower(), SockAddr("inet", 2, "192.0.2.1", 443), "{ saddr_fam=inet laddr=192.0.2.1 lport=443 }"),
        (
            "0A0001BB0000000020010DB800000000000000000000000100000000",
            SockAddr("inet6", 10, "2001:db8::1", 443),
            "{ saddr_fam=inet6 laddr=2001:db8::1 lport=443 }",
        ),
        (
            "0A0000500000000000000000000000000000FFFFCB00710902000000",
            SockAddr("inet6", 10, "::ffff:203.0.113.9", 80, scope=2),
            "{ saddr_fam=inet6 laddr=::ffff:203.0.113.9%2 lport=80 }",
        ),
        (
            "0A0000500000000000000000000000000000FFFFCB007109",  # without its scope
            SockAddr("inet6", 10, "::ffff:203.0.113.9", 80),
            "{ saddr_fam=inet6 laddr=::ffff:203.0.113.9 lport=80 }",
        ),
        (
            "01002F7661722F72756E2F782E736F636B00",
            SockAddr("local", 1, path=b"/var/run/x.sock"),
            "{ saddr_fam=local path=/var/run/x.sock }",
        ),
        ("01002F", SockAddr("local", 1, path=b"/"), "{ saddr_fam=local path=/ }"),
        (
            "010000616273747261637400",
            SockAddr("local", 1, path=b"abstract", abstract=True),
            "{ saddr_fam=local path=@abstract }",
        ),
        (
            "0100006100620000",
            SockAddr("local", 1, path=b"a\0b", abstract=True),
            "{ saddr_fam=local path=@a@b }",
        ),
        ("0100", SockAddr("local", 1, path=b""), "{ saddr_fam=local sockaddr len too short }"),
        ("01000000", SockAddr("local", 1, path=b""), "{ saddr_fam=local path= }"),
        ("0100C328", SockAddr("local", 1, path=b"\xc3("), "{ saddr_fam=local path=\udcc3( }"),
        ("01", SockAddr("local", 1, problem="too short"), "{ saddr_fam=local sockaddr len too short }"),
        (
            "100000000000000000000000",
            SockAddr("netlink", 16, details=(("pid", "0"), ("groups", "0x0"))),
            "{ saddr_fam=netlink nlnk-fam=16 nlnk-pid=0 }",
        ),
        (
            "1000000034120000FF000000",
            SockAddr("netlink", 16, details=(("pid", "4660"), ("groups", "0xff"))),
            "{ saddr_fam=netlink nlnk-fam=16 nlnk-pid=4660 }",
        ),
        ("10000000", SockAddr("netlink", 16, problem="too short"), "{ saddr_fam=netlink len too short }"),
        (
            "1100080003000000010006AABBCCDDEEFF0000",
            SockAddr(
                "packet",
                17,
                details=(("protocol", "0x0800"), ("ifindex", "3"), ("hardware", "bb:cc:dd:ee:ff:00:00")),
            ),
            "{ saddr_fam=packet (unsupported) }",
        ),
        ("11", SockAddr("packet", 17, problem="too short"), "{ saddr_fam=packet len too short }"),
        (
            "2800FFFF00000000FFFFFFFF0200000000000000",
            SockAddr("vsock", 40, details=(("cid", "4294967295"), ("port", "0"))),
            "{ saddr_fam=vsock (unsupported) }",
        ),
        ("28000000", SockAddr("vsock", 40, problem="too short"), "{ saddr_fam=vsock len too short }"),
        ("1F00000000000000", SockAddr("bluetooth", 31), "{ saddr_fam=bluetooth (unsupported) }"),
        (
            "2600736B6369706865720000000000000000000000000000636263286165732900",
            SockAddr("alg", 38, details=(("type", "skcipher"), ("name", "cbc(aes)"))),
            "{ saddr_fam=alg (unsupported) }",
        ),
        ("2600", SockAddr("alg", 38, problem="too short"), "{ saddr_fam=alg len too short }"),
        ("0300828498924060" + "62", SockAddr("ax25", 3, "ABLI 0-1"), "{ saddr_fam=ax25 call=ABLI 0-1 }"),
        ("03008284989240404" + "0", SockAddr("ax25", 3, "ABLI"), "{ saddr_fam=ax25 call=ABLI }"),
        ("0300", SockAddr("ax25", 3, problem="too short"), "{ saddr_fam=ax25 len too short }"),
        ("0900313233340000", SockAddr("x25", 9, "1234"), "{ saddr_fam=x25 laddr=1234 }"),
        ("0900", SockAddr("x25", 9, problem="too short"), "{ saddr_fam=x25 len too short }"),
        (
            "080000000100020003000000",
            SockAddr("atmpvc", 8, details=(("itf", "1"), ("vpi", "2"), ("vci", "3"))),
            "{ saddr_fam=atmpvc int=1 }",
        ),
        ("08000000", SockAddr("atmpvc", 8, problem="too short"), "{ saddr_fam=atmpvc len too short }"),
        ("02", SockAddr("inet", 2, problem="too short"), "{ saddr_fam=inet sockaddr len too short }"),
        ("0200", SockAddr("inet", 2, problem="too short"), "{ saddr_fam=inet sockaddr len too short }"),
        (INET[:-2], SockAddr("inet", 2, problem="too short"), "{ saddr_fam=inet sockaddr len too short }"),
        ("0A00", SockAddr("inet6", 10, problem="too short"), "{ saddr_fam=inet6 sockaddr6 len too short }"),
        ("0000", SockAddr("unspec", 0), "unknown-family(0)"),
        ("00", SockAddr("unspec", 0), "unknown-family(0)"),
        ("FF00", SockAddr("", 255, problem="unknown family"), "unknown-family(255)"),
        ("", SockAddr("", problem="not hexadecimal"), "malformed-host()"),
        ("ZZ", SockAddr("", problem="not hexadecimal"), "malformed-host(ZZ)"),
        ("020", SockAddr("", problem="not hexadecimal"), "malformed-host(020)"),
        ("02 00", SockAddr("", problem="not hexadecimal"), "malformed-host(02 00)"),
    ],
)
def test_families(value: str, expected: SockAddr, shown: str) -> None:
    found = decode(value)
    assert found.raw == value
    assert attrs_but_raw(found) == attrs_but_raw(expected)
    assert render(found) == shown


def attrs_but_raw(address: SockAddr) -> tuple[object, ...]:
    return (
        *(address.family, address.number, address.address, address.port, address.path, address.abstract),
        *(address.scope, address.details, address.problem),
    )


@pytest.mark.parametrize(
    ("value", "order", "family"),
    [
        ("00020050C00002010000000000000000", None, "inet"),
        ("00020050C00002010000000000000000", "big", "inet"),
        ("00020050C00002010000000000000000", "little", ""),
        (INET, None, "inet"),
        (INET, "big", ""),
        ("0010000000001234000000FF", "big", "netlink"),
    ],
)
def test_byte_order(value: str, order: ByteOrder | None, family: str) -> None:
    assert decode(value, order).family == family


def test_numbers_in_the_callers_byte_order() -> None:
    assert decode("0010000000001234000000FF", "big").details == (("pid", "4660"), ("groups", "0xff"))
    big = "000A00500000000000000000000000000000FFFFCB00710900000002"
    assert decode(big, "big").scope == 2


def test_a_long_path_ends_where_the_structure_does() -> None:
    assert decode("0100" + "41" * 4000).path == b"A" * 108


@given(st.integers(0, 65535), st.integers(0, 2**32 - 1))
def test_inet_as_the_system_writes_it(port: int, address: int) -> None:
    packed = address.to_bytes(4, "big")
    found = decode((struct.pack("<H", socket.AF_INET) + port.to_bytes(2, "big") + packed + bytes(8)).hex())
    assert (found.address, found.port) == (socket.inet_ntoa(packed), port)


@given(
    st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4).map(lambda tail: bytes(12) + tail))
)
def test_inet6_as_the_system_writes_it(packed: bytes) -> None:
    data = struct.pack("<H", socket.AF_INET6) + bytes(6) + packed + bytes(4)
    assert decode(data.hex()).address == socket.inet_ntop(socket.AF_INET6, packed)


ORDERS = st.sampled_from([None, "little", "big"])


@given(st.text(st.characters(max_codepoint=255)), ORDERS)
def test_any_text(value: str, order: ByteOrder | None) -> None:
    assert render(decode(value, order))


@given(st.sampled_from([*range(50), 255]), st.binary(max_size=160), ORDERS)
def test_any_bytes(family: int, data: bytes, order: ByteOrder | None) -> None:
    for head in (struct.pack("<H", family), struct.pack(">H", family), bytes([family])):
        found = decode((head + data).hex().upper(), order)
        shown = render(found)
        assert shown.startswith(("{ saddr_fam=", "unknown-family("))
        assert len(shown) < 4 * len(data) + 200
        shown.encode("utf-8", "surrogateescape")


def test_names_of_families() -> None:
    assert families()[socket.AF_UNIX] == "local"
    assert families()[socket.AF_INET6] == "inet6"
    assert 0 not in families()
