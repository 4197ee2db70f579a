"""Who knows all this and tries anyway: through the plugin to the reactor's own judgement, which is the real one."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from audisp.react.main import means_for
from audisp.react.request import Address, Kind, Outcome, Process, Request, Result
from tests.hids.watching import BAD, NETCAT, Watching, watching
from tests.needs import needs
from tests.react.playing import conf, playing

HIGH = ("high", "critical")
ALL = dict.fromkeys(Kind, HIGH)
LOGINS = BAD.replace("level: medium", "level: high")
SPARED = "203.0.113.7"
SETTINGS = conf(spare_addresses=(f"{SPARED}/32",), spare_accounts=("deploy",), act_on_root=False)


async def decided(tmp_path: Path, asked: Request, *, outside: bool = True) -> Result:
    """By a reactor that would really act."""
    with playing(SETTINGS, tmp_path / "reactor", means_for(SETTINGS), outside=outside) as played:
        return await played.reactor.handle(asked)


def of_kind(seen: Watching, kind: Kind) -> Request:
    """The first request of a rule, of this kind."""
    return next(each for each in seen.requests() if each.kind is kind and not each.rule.startswith("Score"))


@needs("root")
@pytest.mark.parametrize(
    ("addr", "reason"),
    [
        (f"::ffff:{SPARED}", "spared"),
        (f"::FFFF:{SPARED}", "spared"),
        ("2002:cb00:7107::1", "spared"),  # the same in 6to4
        ("64:ff9b::203.0.113.7", "spared"),  # and in NAT64
        (SPARED, "spared"),
        ("127.0.0.1", "spared"),
        ("::1", "spared"),
        ("0.0.0.0", "spared"),  # noqa: S104 - nothing is bound to it
        ("224.0.0.1", "spared"),
        (";reboot", "target"),
        ("203.0.113.7/0", "target"),
        ("0xcb007107", "target"),
        ("203.0.113.007", "target"),
        ("-j", "target"),
        ("fe80::1%eth0", "target"),
    ],
)
async def test_addresses_that_are_never_blocked(tmp_path: Path, addr: str, reason: str) -> None:
    async with watching(tmp_path, LOGINS, allowed=ALL) as seen:
        await seen.feed(seen.login(addr=addr, pid=os.getpid()))
        asked = of_kind(seen, Kind.BLOCK)
        assert asked.target == Address(addr)
    result = await decided(tmp_path, asked)
    assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, reason)


@needs("root")
@pytest.mark.parametrize(
    ("acct", "reason"),
    [
        ('"-rf"', "target"),
        ('"--help"', "target"),
        ('"root"', "spared"),
        ('"daemon"', "spared"),
        ('"deploy"', "target"),  # not in passwd here; and spared if it were
        (b"root\n".hex().upper(), "target"),
        (b"bob;reboot".hex().upper(), "target"),
        (b"../../etc/passwd".hex().upper(), "target"),
    ],
)
async def test_accounts_that_are_never_locked(tmp_path: Path, acct: str, reason: str) -> None:
    async with watching(tmp_path, LOGINS, allowed=ALL) as seen:
        await seen.feed(seen.login(acct=acct, pid=os.getpid()))
        asked = of_kind(seen, Kind.LOCK)
    result = await decided(tmp_path, asked)
    assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, reason)


@contextmanager
def in_a_container() -> Iterator[int]:
    """A process that is its own namespace's pid 1."""
    words = ["unshare", "--pid", "--fork", "/bin/sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()
        inside = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])
        try:
            yield inside
        finally:
            subprocess.run(["kill", "-9", str(inside)], check=True)


@needs("root")
async def test_root_in_a_container_can_send_a_login_for_anybody_and_nothing_happens(tmp_path: Path) -> None:
    with in_a_container() as pid:
        async with watching(tmp_path, LOGINS, allowed=ALL) as seen:
            await seen.feed(seen.login(addr="198.51.100.9", pid=pid))
            asked = of_kind(seen, Kind.BLOCK)
        with playing(SETTINGS, tmp_path / "reactor", means_for(SETTINGS)) as played:
            result = await played.reactor.handle(asked)
    assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, "sender")
    assert "container" in result.text


@needs("root")
@pytest.mark.parametrize(
    "head",
    [
        "pid={pid} uid=33 auid=4294967295 ses=4294967295 msg='op=login pid={pid} uid=0 auid=0 ses=1",
        "pid={pid} uid=1000 auid=1000 ses=5 subj=x' pid={pid} uid=0 auid=0 ses=1 msg='op=login",
        "text=pid={pid} uid=0 auid=0 ses=1 msg='op=login",
    ],
)
async def test_what_a_sender_writes_is_not_who_he_is(tmp_path: Path, head: str) -> None:
    async with watching(tmp_path, LOGINS, allowed=ALL) as seen:
        text = f"type=USER_LOGIN msg=audit({seen.stamp()}): {head.format(pid=os.getpid())} "
        await seen.feed(f'{text}acct="bob" addr=198.51.100.9 res=failed\'\n')
        asked = [each for each in seen.requests() if each.kind is Kind.BLOCK]
    for each in asked:
        result = await decided(tmp_path, each)
        assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, "sender")


async def test_a_record_of_user_space_names_no_process_to_kill(tmp_path: Path) -> None:
    """Its pid is sshd's, sudo's or cron's; what looks like a SYSCALL record stands in a sender's text."""
    fake = "type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 pid=1 uid=0"
    async with watching(tmp_path, LOGINS, allowed=ALL) as seen:
        await seen.feed(seen.login(acct=f'"{fake}"', pid=os.getpid()))
        for each in seen.requests():
            assert not isinstance(each.target, Process)


@needs("root")
async def test_init_and_whoever_is_named_by_a_forged_number_are_not_killed(tmp_path: Path) -> None:
    # In a virtual machine of its own 2 may be nobody; on a host it is the father of the kernel's threads.
    two = "spared" if "2" in os.listdir("/proc") else None
    for pid, reason in ((1, "spared"), (2, two), (os.getpid(), "spared"), (4_194_303, None)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        async with watching(folder, NETCAT, allowed=ALL) as seen:
            await seen.feed(seen.exec(pid=pid))
            asked = [each for each in seen.requests() if each.kind is Kind.KILL]
        if reason is None:
            assert asked == [], "there is no such process, and none is guessed"
            continue
        result = await decided(folder, asked[0])
        assert (result.outcome, result.reason) == (Outcome.SUPPRESSED, reason)


@needs("root")
async def test_an_old_event_kills_nobody(tmp_path: Path) -> None:
    async with watching(tmp_path, NETCAT, allowed=ALL) as seen:
        await seen.feed(seen.exec(pid=os.getpid(), ago=120))
        asked = of_kind(seen, Kind.KILL)
    assert (await decided(tmp_path, asked)).reason in ("old", "late")
    # And one whose time a compromised matcher makes new is of a process that began after it, or is spared.
    fresh = attrs.evolve(asked, event_time=asked.event_time + 120_000, deadline=asked.deadline + 120_000)
    assert (await decided(tmp_path, fresh)).outcome is Outcome.SUPPRESSED


async def test_a_flood_of_addresses_fills_no_memory_and_asks_no_thousands_of_times(tmp_path: Path) -> None:
    async with watching(tmp_path, LOGINS, allowed={Kind.BLOCK: HIGH}, repeat_time=300) as seen:

        async def flood(first: int, last: int) -> None:
            for at in range(first, last, 500):
                texts = [
                    seen.login(addr=f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}", acct=f'"u{each}"')
                    for each in range(at, at + 500)
                ]
                await seen.feed(*texts)

        await flood(0, 6_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await flood(6_000, 16_000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 24 << 10, f"{grown} KiB"
        state = seen.delivery.state
        assert state is not None
        found = {name: int(value) for name, value in state().items() if value.isdigit()}
        asked = len(seen.requests())
        # As many as may be without an answer; the others are counted.
        assert asked <= 1_024
        assert found["requests_asked"] == asked
        assert found["requests_dropped"] + found["requests_asked"] >= 10_000
