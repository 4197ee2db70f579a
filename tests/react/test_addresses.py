"""Addresses: one form for each, what is never blocked, and real blocks in a network namespace of the test's own."""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import get_native_id
from typing import Any, Final

import attrs
import pytest

from audisp.react.accounts import Accounts
from audisp.react.addresses import UTMP, Surroundings, Unreadable, never, normal
from audisp.react.judge import Refused
from audisp.react.means_address import Block
from audisp.react.request import Address, Kind, Outcome
from tests.needs import needs
from tests.react.playing import HandClock, conf, playing, request

HOSTILE: Final = (
    ";reboot",
    "192.0.2.1;reboot",
    "192.0.2.1 }; flush ruleset",
    "192.0.2.1\nflush ruleset",
    "-rf",
    "",
    "?",
    "localhost",
    "192.0.2.0/24",
    "192.0.2",
    "192.0.2.256",
    "0xc0000201",
    "3221225985",
    "192.000.002.001",
    "fe80::1%eth0",
    "1" * 200,
    "::ffff:192.0.2.1%x",
    "٣.1.1.1",
    "192.0.2.1\0",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_address(text: str) -> None:
    assert normal(text) is None


@pytest.mark.parametrize("text", ["10.1.2.3", "::ffff:10.1.2.3", "::FFFF:0a01:0203", "0:0:0:0:0:ffff:a01:203"])
def test_one_address_has_one_form(text: str) -> None:
    assert normal(text) == ipaddress.ip_address("10.1.2.3")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",  # noqa: S104 - nothing is bound
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "169.254.1.1",
        "fe80::1",
        "::7f00:1",
        "2002:7f00:1::",
        "64:ff9b::127.0.0.1",
        "240.0.0.1",
    ],
)
def test_whose_address_is_nobody_s(text: str) -> None:
    address = normal(text)
    assert address is not None
    assert never(address)


@pytest.mark.parametrize("text", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "8.8.8.8", "fd00::1"])
def test_whose_address_may_be_somebody_s(text: str) -> None:
    address = normal(text)
    assert address is not None
    assert never(address) is None


FIB: Final = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.0.0.0
        /24 link UNICAST
     |-- 10.0.0.7
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
"""
ROUTE: Final = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ROUTE6: Final = f"{'0' * 32} 00 {'0' * 32} 00 20010db8{'0' * 23}1 00000400 00000001 00000000 00000003 eth0\n"
INET6: Final = f"20010db8{'0' * 22}42 02 40 00 00 eth0\n"


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    net, run = tmp_path / "net", tmp_path / "run"
    (run / "systemd" / "sessions").mkdir(parents=True)
    net.mkdir()
    for name, text in (("fib_trie", FIB), ("route", ROUTE), ("ipv6_route", ROUTE6), ("if_inet6", INET6)):
        (net / name).write_text(text)
    entries = b"".join(
        UTMP.pack(kind, 1, b"pts/0", b"0", user, b"h", 0, 0, 1, 1, 1, ipaddress.ip_address(address).packed, b"")
        for kind, user, address in (
            (7, b"root", "203.0.113.1"),
            (7, b"adm1", "2001:db8:9::1"),
            (7, b"bob", "203.0.113.3"),
            (8, b"root", "203.0.113.4"),
        )
    )
    (run / "utmp").write_bytes(entries + b"torn")
    (run / "systemd" / "sessions" / "5").write_text("UID=0\nUSER=root\nREMOTE=1\nREMOTE_HOST=203.0.113.5\n")
    (run / "systemd" / "sessions" / "6").write_text("UID=1001\nUSER=bob\nREMOTE=1\nREMOTE_HOST=203.0.113.6\n")
    return Surroundings(net, run)


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/:/bin/sh\nadm1:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n")
    (etc / "group").write_text("sudo:x:27:adm1\nbob:x:1001:\n")
    return Accounts(etc)


def test_what_a_struct_utmp_measures() -> None:
    assert UTMP.size == 384
    assert struct.calcsize("<h2xi") == 8


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.7", "own"),
        ("::ffff:10.0.0.7", "own"),
        ("64:ff9b::10.0.0.7", "own"),
        ("2001:db8::42", "own"),
        ("10.0.0.1", "gateway"),
        ("::ffff:10.0.0.1", "gateway"),
        ("2001:db8::1", "gateway"),
        ("198.51.100.9", "spare_addresses"),
        ("::ffff:198.51.100.9", "spare_addresses"),
        ("::ffff:c633:6409", "spare_addresses"),
        ("64:ff9b::c633:6409", "spare_addresses"),
        ("2002:c633:6409::1", "spare_addresses"),
        ("2001:db8:5::9", "spare_addresses"),
        ("203.0.113.1", "admin"),
        ("::ffff:203.0.113.1", "admin"),
        ("2001:db8:9::1", "admin"),
        ("203.0.113.5", "admin"),
        ("127.0.0.1", "loopback"),
    ],
)
def test_what_is_spared(surroundings: Surroundings, accounts: Accounts, text: str, why: str) -> None:
    settings = conf(spare_addresses=("198.51.100.0/24", "2001:db8:5::/48"))
    means = Block(settings, accounts=accounts, surroundings=surroundings)
    with pytest.raises(Refused, match=why) as raised:
        means.prepare(request(Kind.BLOCK, Address(text)), HandClock()())
    assert raised.value.code == "spared"


@pytest.mark.parametrize("text", ["203.0.113.3", "203.0.113.4", "203.0.113.6", "10.0.0.8", "2001:db8::43"])
def test_what_is_not(surroundings: Surroundings, accounts: Accounts, text: str) -> None:
    means = Block(conf(), accounts=accounts, surroundings=surroundings)
    prepared = means.prepare(request(Kind.BLOCK, Address(text)), HandClock()())
    assert prepared.aim == {"address": text}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_targets_are_none(surroundings: Surroundings, accounts: Accounts, text: str) -> None:
    with pytest.raises(Refused) as raised:
        Block(conf(), accounts=accounts, surroundings=surroundings).prepare(
            request(Kind.BLOCK, Address(text)), HandClock()()
        )
    assert raised.value.code == "target"


def test_what_cannot_be_read_blocks_nobody(tmp_path: Path, accounts: Accounts) -> None:
    means = Block(conf(), accounts=accounts, surroundings=Surroundings(tmp_path / "none", tmp_path))
    with pytest.raises(Refused) as raised:
        means.prepare(request(Kind.BLOCK, Address("192.0.2.1")), HandClock()())
    assert raised.value.code == "unreadable"
    with pytest.raises(Unreadable):
        Surroundings(tmp_path / "none", tmp_path).gateways()


def test_the_configuration_can_shorten_and_nobody_can_lengthen(surroundings: Surroundings, accounts: Accounts) -> None:
    means = Block(conf(block_time=600), accounts=accounts, surroundings=surroundings)
    for asked, given in ((0, 600), (60, 60), (2**31, 600)):
        prepared = means.prepare(request(Kind.BLOCK, Address("192.0.2.1"), seconds=asked), HandClock()())
        assert prepared.seconds == given


CLONE_NEWNET: Final = 0x40000000


@pytest.fixture
def network(tmp_path: Path) -> Iterator[str]:
    """A network namespace of our own, for this thread and what it starts, with an address and a way out. A program that
    runs nft in it from whatever thread: those that trio keeps are still in the host's, which must not be touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        for words in (
            "link set lo up",
            "link add v0 type veth peer name v1",
            "addr add 10.99.0.7/24 dev v0",
            "link set v0 up",
            "link set v1 up",
            "route add default via 10.99.0.1",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        program = tmp_path / "nft"
        program.write_text(
            f'#!/bin/sh\nexec nsenter --net=/proc/{os.getpid()}/task/{get_native_id()}/ns/net nft "$@"\n'
        )
        program.chmod(0o755)
        yield str(program)
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def nft(*words: str) -> str:
    """What nft says, in the namespace of this thread."""
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout


def answered() -> bool:
    """Whether a connection from 10.99.0.7 comes about."""
    return subprocess.run(["python3", "-c", _CONNECT], check=False).returncode == 0


def listed(version: int = 4) -> dict[str, int]:
    """Blocked addresses, and the seconds that each has left."""
    found = json.loads(nft("-j", "list", "set", "inet", "audisp_hids", f"block{version}"))
    elements = next(each["set"] for each in found["nftables"] if "set" in each).get("elem", [])
    return {each["elem"]["val"]: each["elem"]["expires"] for each in elements}


def _settings(**given: Any) -> Any:
    return conf(block_time=600, spare_addresses=("198.51.100.0/24",), **given)


@needs("root", "nft")
async def test_a_block_in_the_kernel(network: str, tmp_path: Path) -> None:
    settings = _settings()
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft=network)}) as played:
        for text in ("192.0.2.66", "::ffff:192.0.2.67", "2001:db8::66"):
            result = await played.reactor.handle(request(Kind.BLOCK, Address(text)))
            assert (result.outcome, result.record_type) == (Outcome.DONE, 2214), result.text
            if text == "2001:db8::66":
                assert result.body.startswith(f"op=block-address act=3 daddr={text} time_out=10 reason=none ")
        assert {key: 500 <= left <= 600 for key, left in listed().items()} == {"192.0.2.66": True, "192.0.2.67": True}
        assert set(listed(6)) == {"2001:db8::66"}
        for text in ("10.99.0.7", "::ffff:10.99.0.1", "198.51.100.1", "::ffff:198.51.100.1", "127.0.0.1"):
            assert (await played.reactor.handle(request(Kind.BLOCK, Address(text)))).reason == "spared"
        undone = await played.reactor.undo(1)
        assert (undone.outcome, undone.record_type) == (Outcome.UNDONE, 2215)
        await played.reactor.undo(3)
        assert (set(listed()), listed(6)) == ({"192.0.2.67"}, {})
        chain = nft("list", "chain", "inet", "audisp_hids", "input")
        assert "hook input priority filter - 10; policy accept;" in chain
        assert chain.count("drop") == 2


@needs("root", "nft")
async def test_a_blocked_address_gets_no_answer(network: str, tmp_path: Path) -> None:
    """10.99.0.7 is this host's own, so it is blocked by hand: what counts here is that the set drops."""
    settings = _settings()
    means = Block(settings, nft=network)
    with playing(settings, tmp_path / "r", {Kind.BLOCK: means}) as played:
        await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.66")))
        act = attrs.evolve(played.reactor.books.acts[1], aim={"address": "10.99.0.7"})
        assert answered()
        await means.carry_out(act, request(Kind.BLOCK, Address("192.0.2.66")))
        assert not answered()
        await means.undo(act)
        assert answered()


_CONNECT: Final = """
import socket, sys
listener = socket.create_server(("10.99.0.7", 0))
try:
    socket.create_connection(listener.getsockname(), 0.5, source_address=("10.99.0.7", 0))
except TimeoutError:
    sys.exit(1)
"""


@needs("root", "nft")
async def test_blocks_come_back_after_a_reboot_with_the_time_left(network: str, tmp_path: Path) -> None:
    settings = _settings()
    clock = HandClock()
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft=network)}, clock=clock) as played:
        await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.66")))
        await played.reactor.handle(request(Kind.BLOCK, Address("2001:db8::66"), seconds=60))
    nft("delete", "table", "inet", "audisp_hids")
    clock.boot_id = "another boot"
    clock.wall_ahead = 100
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft=network)}, clock=clock) as played:
        await played.reactor.reconcile()
        assert [(told.kind, told.reason) for told in played.told] == [(Kind.BLOCK, "time_over")]
    assert {key: 400 <= left <= 500 for key, left in listed().items()} == {"192.0.2.66": True}
    assert listed(6) == {}


@needs("root", "nft")
async def test_a_flushed_ruleset_is_mended_at_the_next_start(network: str, tmp_path: Path) -> None:
    settings = _settings()
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft=network)}) as played:
        await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.66")))
    nft("flush", "ruleset")
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft=network)}) as played:
        await played.reactor.reconcile()
    assert set(listed()) == {"192.0.2.66"}


@needs("root", "nft")
async def test_killed_between_journal_and_block(network: str, tmp_path: Path) -> None:
    settings = _settings()
    means = Block(settings, nft=network)
    asked = request(Kind.BLOCK, Address("192.0.2.66"))
    with playing(settings, tmp_path / "r", {Kind.BLOCK: means}) as played:
        played.reactor.decide(asked)
        other = played.reactor.decide(request(Kind.BLOCK, Address("192.0.2.67")))
        await means.carry_out(other, asked)  # type: ignore[arg-type]
    with playing(settings, tmp_path / "r", {Kind.BLOCK: means}) as played:
        await played.reactor.reconcile()
        found = {told.act: (told.outcome, told.reason) for told in played.told}
    assert found == {1: (Outcome.UNDONE, "interrupted"), 2: (Outcome.DONE, "confirmed")}
    assert set(listed()) == {"192.0.2.67"}


@needs("root", "nft")
async def test_the_kernel_lets_it_expire_and_the_books_say_so(network: str, tmp_path: Path) -> None:
    settings = conf(block_time=1)
    clock = HandClock()
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft=network)}, clock=clock) as played:
        await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.66")))
        until = time.monotonic() + 10
        while listed() and time.monotonic() < until:
            time.sleep(0.1)  # noqa: ASYNC251 - the namespace is this thread's
        assert listed() == {}
        clock.ahead = 2
        await played.reactor.reconcile()
        assert [told.outcome for told in played.told] == [Outcome.UNDONE]


@needs("root", "nft")
async def test_without_nft_it_fails_and_says_so(network: str, tmp_path: Path) -> None:
    settings = _settings()
    with playing(settings, tmp_path / "r", {Kind.BLOCK: Block(settings, nft="/bin/false")}) as played:
        result = await played.reactor.handle(request(Kind.BLOCK, Address("192.0.2.66")))
    assert (result.outcome, result.record_type) == (Outcome.FAILED, 2214)
    assert result.body.endswith("res=failed")
