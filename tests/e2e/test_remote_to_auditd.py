"""Our audisp-remote to Debian's auditd, over plain TCP: record by record, with the server killed in between."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from audisp.remote.rmw_session import SETTLE_EVERY
from tests.e2e.daemons import Auditd, Child, lines_of
from tests.e2e.remotes import Remote, free_port, numbered, numbers_in
from tests.e2e.stream import wait_for
from tests.needs import needs

pytestmark = [needs("root", "auditd"), pytest.mark.timeout(180, func_only=True)]

SEED: Final = 4_242


def forwarded(auditd: Auditd) -> list[bytes]:
    """What came from the sender: all but the server's own records."""
    return [line for line in lines_of(auditd.log) if b"type=DAEMON_" not in line[:80]]


def test_every_record_arrives_as_it_was(tmp_path: Path) -> None:
    port, count = free_port(), 5_000
    with Auditd(tmp_path / "auditd", listen=port) as auditd, Remote(tmp_path / "remote", port=port) as remote:
        data = numbered(1, count)
        remote.write(data)
        wait_for(lambda: len(forwarded(auditd)) >= count, "all have arrived")
        assert b"".join(line + b"\n" for line in forwarded(auditd)) == data
        wait_for(lambda: remote.fresh_state()["waiting"] == "0", "all are acknowledged")
        state = remote.fresh_state()
        assert (state["protocol"], state["transport_ok"], state["sent"]) == ("rmw", "yes", str(count))
        assert (state["lost"], state["oldest_age"]) == ("0", "none")


def test_eoe_stays_here_and_long_records_are_cut(tmp_path: Path) -> None:
    port = free_port()
    with Auditd(tmp_path / "auditd", listen=port) as auditd, Remote(tmp_path / "remote", port=port) as remote:
        stamp = b"msg=audit(1700000000.001:5): "
        long = b"type=USER_MSG " + stamp + b"y" * 12_000
        eoe = b"type=EOE " + stamp
        one, two = numbered(1, 2).splitlines()
        remote.write(b"\n".join([one, long, eoe, b"node=here " + eoe, two, b""]))
        wait_for(lambda: len(forwarded(auditd)) >= 3, "all have arrived")
        assert forwarded(auditd) == [one, long[:8_953], two]
        wait_for(lambda: remote.fresh_state()["waiting"] == "0", "all are settled")
        state = remote.fresh_state()
        assert (state["withheld"], state["cut"]) == ("2", "1")


def test_nothing_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    port, chance = free_port(), random.Random(SEED)
    auditd = Auditd(tmp_path / "auditd", listen=port)
    total = 0
    with Remote(tmp_path / "remote", port=port) as remote:
        for _ in range(6):
            with auditd:
                size = chance.randrange(1_000, 3_000)
                remote.write(numbered(total + 1, size))
                wanted = total + chance.randrange(1, size)
                total += size
                wait_for(lambda wanted=wanted: len(forwarded(auditd)) >= wanted, "some have arrived")  # type: ignore[misc]
                auditd.kill()
            remote.write(numbered(total + 1, 100))
            total += 100
            time.sleep(chance.random())
        with auditd:
            wait_for(lambda: remote.fresh_state()["waiting"] == "0", "all are acknowledged")
            wait_for(lambda: set(numbers_in(auditd.log.read_bytes())) == set(range(1, total + 1)), "all have arrived")
        found = numbers_in(auditd.log.read_bytes())
    # auditd writes a record and answers then: killed in between, it gets that record again.
    assert len(found) <= total + 6
    assert list(dict.fromkeys(found)) == list(range(1, total + 1))
    assert "Traceback" not in remote.said()


def test_what_waits_survives_kill_9(tmp_path: Path) -> None:
    port, count, kills = free_port(), 12_000, 3
    remote = Remote(tmp_path / "remote", port=port)
    with remote:
        remote.write(numbered(1, count))
        remote.await_accepted(count)
        remote.kill()
    with Auditd(tmp_path / "auditd", listen=port) as auditd:
        for _ in range(kills):
            wanted = len(forwarded(auditd)) + 500
            remote.start_idle()
            wait_for(lambda wanted=wanted: len(forwarded(auditd)) > wanted, "it sends")  # type: ignore[misc]
            remote.kill()
        with remote:
            wait_for(lambda: remote.fresh_state()["waiting"] == "0", "all are acknowledged")
        found = numbers_in(auditd.log.read_bytes())
    assert list(dict.fromkeys(found)) == list(range(1, count + 1))
    assert len(found) <= count + kills * (SETTLE_EVERY + 1)


def test_ends_with_its_input_when_all_is_sent(tmp_path: Path) -> None:
    port = free_port()
    remote = Remote(tmp_path / "remote", port=port)
    with Auditd(tmp_path / "auditd", listen=port) as auditd:
        with remote:
            remote.write(numbered(1, 1_000))
            remote.close_feed()
            assert remote.process is not None
            assert remote.process.wait(30) == 0
        assert numbers_in(auditd.log.read_bytes()) == list(range(1, 1_001))
        # And a regular file as input, which it waits for.
        path = tmp_path / "feed"
        path.write_bytes(numbered(1_001, 1_000))
        with open(path, "rb") as file:
            remote.start_on(file)
        assert remote.process.wait(30) == 0
        assert numbers_in(auditd.log.read_bytes()) == list(range(1, 2_001))


@pytest.mark.parametrize("form", ["string", "binary"])
def test_as_a_child_of_auditd(tmp_path: Path, form: str) -> None:
    """auditd A takes records over TCP and hands them to its child, ours, which sends them to auditd B."""
    here, there, count = free_port(), free_port(), 500
    remote = Remote(tmp_path / "remote", port=there)
    script = tmp_path / "audisp-remote"
    script.write_text(f"#!/bin/sh\nexec {' '.join(remote.argv)} 2>>'{remote.out}'\n")
    script.chmod(0o750)
    first = Remote(tmp_path / "first", port=here)
    with Auditd(tmp_path / "b", listen=there) as b:
        child = Child("remote", str(script), format=form)
        with Auditd(tmp_path / "a", [child], listen=here, distribute_network="yes"):
            wait_for(lambda: remote.state().get("transport_ok") == "yes", "the child is connected")
            with first:
                first.write(numbered(1, count))
                wait_for(lambda: numbers_in(b.log.read_bytes())[-1:] == [count], "all have come through")
        pid = int(remote.state()["pid"])
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it has ended with its parent")
        assert numbers_in(b.log.read_bytes()) == list(range(1, count + 1))
    assert "Traceback" not in remote.said()


def test_a_signal_from_a_stranger_does_not_end_it(tmp_path: Path) -> None:
    with Remote(tmp_path / "remote", port=free_port()) as remote:
        subprocess.run(["sh", "-c", f"kill -TERM {remote.pid}"], check=True)
        wait_for(lambda: "not our parent" in remote.said(), "it says so")
        assert remote.ended() is None
        assert remote.stop(signal.SIGTERM) == 0
