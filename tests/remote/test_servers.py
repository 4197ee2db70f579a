"""Which server is next, and after what wait; which network is home; what an action does."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import stat
from pathlib import Path
from typing import Any, get_args

import pytest

from audisp.config.network import networks
from audisp.dispatch.say import Voice
from audisp.remote import home, signals
from audisp.remote.actions import Brake, Kind, Notices, Programs
from audisp.remote.servers import Ladder
from audisp.remote.spoken import Spoken
from tests.e2e.stream import wait_for
from tests.needs import needs
from tests.remote.test_intake import conf


def test_waits_of_one_server() -> None:
    ladder = Ladder(1, 1, 30)
    assert [ladder.failed(0.0, 1.0) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert ladder.failed(0.0, 0.0) == 15
    ladder.useful()
    assert ladder.failed(0.0, 1.0) == 0


def test_servers_in_order() -> None:
    ladder = Ladder(3, 1, 30)
    found = []
    for _ in range(7):
        found.append(ladder.at)
        ladder.failed(0.0, 1.0)
    assert found == [0, 1, 2, 0, 1, 2, 0]
    ladder.restart()
    assert ladder.at == 0


@pytest.mark.parametrize(
    ("servers", "fails", "now", "given_up"),
    [(1, 2, 0, False), (1, 3, 0, True), (1, 1, 5, True), (2, 3, 0, False), (2, 6, 0, True), (2, 1, 9, False)],
)
def test_given_up(servers: int, fails: int, now: float, given_up: bool) -> None:
    ladder = Ladder(servers, 1, 30)
    for _ in range(fails):
        ladder.failed(0.0, 1.0)
    assert ladder.given_up(now, 3, 5) is given_up


def test_home() -> None:
    nets = networks(("10.20.0.0/16", "2001:db8:7::/48"))
    for address, at_home in (("10.20.3.4", True), ("10.21.0.1", False), ("2001:db8:7::1", True), ("::1", False)):
        assert home.is_home(nets, [ipaddress.ip_address(address)]) is at_home
    assert home.is_home((), [])
    assert not home.is_home(nets, [])


def test_our_addresses_are_those_of_the_kernel() -> None:
    found = home.addresses()
    assert ipaddress.ip_address("127.0.0.1") in found
    names = {line.split()[0] for line in Path("/proc/net/if_inet6").read_text().splitlines()}
    assert {each.packed.hex() for each in found if each.version == 6} == names


def test_servers_that_have_spoken_native_are_kept(tmp_path: Path) -> None:
    spoken = Spoken(tmp_path)
    assert "a:60" not in spoken
    for number in range(20):
        spoken.add(f"host{number}:60")
    again = Spoken(tmp_path)
    assert "host19:60" in again
    assert "host0:60" not in again
    assert stat.S_IMODE((tmp_path / "native-servers").stat().st_mode) == 0o600


class Log:
    """A voice that can be read."""

    def __init__(self) -> None:
        read, self.write = os.pipe()
        self.read = read
        os.set_blocking(read, False)
        self.voice = Voice("stderr", "remote", fd=self.write)

    def lines(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            return os.read(self.read, 1 << 16).decode().splitlines()
        return []

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


@pytest.fixture
def log() -> Any:
    found = Log()
    yield found
    found.close()


@pytest.mark.parametrize(
    ("action", "lines", "suspended", "stopped"),
    [
        ("ignore", 0, False, False),
        ("syslog", 1, False, False),
        ("warn_once", 1, False, False),
        ("warn_once_continue", 1, False, False),
        ("suspend", 2, True, False),
        ("stop", 1, False, True),
        ("reconnect", 1, False, False),
    ],
)
async def test_actions(log: Log, action: str, lines: int, suspended: bool, stopped: bool) -> None:
    brake = Brake()
    notices = Notices(conf(remote_ending_action=action), log.voice, brake)
    notices.occur("remote_ending", "it has ended")
    notices.occur("remote_ending", "it has ended")
    said = log.lines()
    assert len(said) == lines
    assert all("it has ended" in line or "suspended" in line for line in said)
    assert brake.suspended is suspended
    assert brake.holds is (suspended or stopped)
    notices.well()
    assert notices.counts == {"remote_ending": 2}
    assert notices.resume() is (suspended or stopped)


async def test_warned_again_once_a_record_has_arrived(log: Log) -> None:
    notices = Notices(conf(), log.voice, Brake())
    for _ in range(3):
        notices.occur("disk_full", "full")
    assert len(log.lines()) == 1
    notices.well()
    notices.occur("disk_full", "full")
    assert len(log.lines()) == 1


@needs("root")
async def test_exec_gets_the_message(tmp_path: Path, log: Log) -> None:
    out, program = tmp_path / "out", tmp_path / "program"
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$#" "$@" >{out}\n')
    program.chmod(0o750)
    notices = Notices(conf(generic_error_action=f"exec {program}"), log.voice, Brake())
    notices.occur("generic_error", "it's $HOME; rm -rf")
    wait_for(lambda: out.exists() and out.read_text() == "1|it's $HOME; rm -rf|", "it has run")
    program.chmod(0o777)
    notices = Notices(conf(), log.voice, Brake())
    assert not Programs(log.voice).act("exec", "again", path=str(program))
    assert any("has mode 0777; it must be 0750" in line for line in log.lines())


def test_every_kind_has_an_action() -> None:
    settings = conf()
    for kind in get_args(Kind):
        assert getattr(settings, f"{kind}_action").name


@pytest.mark.parametrize(
    ("number", "pid", "ends"), [("TERM", "parent", True), ("TERM", "1", False), ("INT", "1", True)]
)
def test_who_may_end_it(number: str, pid: str, ends: bool) -> None:
    sender = os.getppid() if pid == "parent" else 1 if os.getppid() != 1 else 2
    assert signals.Heard(getattr(signal, f"SIG{number}"), sender).ends is ends
