"""The HIDS on the live kernel: attacks that really happen are told of within a second, and what reactions.conf allows
is done about them, and undone in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e import attacks
from tests.e2e.attacks import Network, Traces
from tests.e2e.hids_host import HidsHost, acts, blocked, hids_host, interpreter, runs, severe
from tests.e2e.recognising import AUDIT_RULES, load_audit_rules
from tests.e2e.stream import wait_for
from tests.needs import needs

pytestmark = [
    needs("root", "auditd", "nft", *attacks.NEEDED),
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.usefixtures("audit"),
]

ROUNDS: Final = 2
"""In `make soak` twenty."""
WITHIN: Final = 1.0
"""Seconds from an event's stamp to the record that tells of it."""
REACTIONS: Final = """
dry_run = no
kill_process = high critical
block_address = high critical
lock_account = critical
network_namespace = /run/netns/{namespace}
block_time = {block}
per_target = 100
per_hour = 1000
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with attacks.network() as made:
        yield made


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with interpreter() as found:
        yield found


def _once(host: HidsHost, name: str, network: Network, address: str) -> None:
    """One attack, told of and acted on."""
    since, before = len(host.objects()), len(host.told())
    with attacks.account() as owner, attacks.ALL[name](network, owner, address) as traces:
        wait_for(lambda: severe(host, since), f"{name} is told of")
        if name == "brute_force":
            # It may be blocked and free again before the last password is wrong; then that is what was said.
            wait_for(lambda: acts(host, since, "done") or address in blocked(network.near), f"{address} is blocked")
        else:
            wait_for(lambda: not runs(traces), f"{name}: the process is killed: {host.reactions(since)}")
    first = host.told()[before:][0]
    assert first.after < WITHIN, first
    wait_for(
        lambda: [each for each in host.reactions(since) if each["outcome"] == "done"], "it is said that it was done"
    )


@pytest.mark.parametrize("name", attacks.ALL)
def test_told_within_a_second_and_acted_on(name: str, network: Network, python: str, tmp_path: Path) -> None:
    load_audit_rules(AUDIT_RULES, tmp_path)
    conf = REACTIONS.format(namespace=network.near, block="5s")
    with hids_host(python, conf) as host:
        for number in range(ROUNDS):
            _once(host, name, network, attacks.FAR[number])
        if name == "brute_force":
            # The kernel lets it expire, and the reactor says so; who was never there was not touched.
            wait_for(lambda: not blocked(network.near), "the block is over")
            wait_for(lambda: len(acts(host, 0, "undone")) == len(acts(host, 0, "done")), "each has ended")
            assert {each["aim"]["address"] for each in host.journal() if each["kind"] == "block_address"} <= set(
                attacks.FAR
            )
        status = host.ours.plugin("hids")
        assert status["dropped"] == status["quarantined"] == 0
        host.ours.assert_balanced()


def test_what_is_spared_is_not_touched(network: Network, python: str, tmp_path: Path) -> None:
    load_audit_rules(AUDIT_RULES, tmp_path)
    address = attacks.FAR[10]
    conf = (
        REACTIONS.format(namespace=network.near, block="30s")
        + f"spare_addresses = {address}\nspare_programs = /usr/bin/bash\n"
    )
    with hids_host(python, conf) as host, attacks.account() as owner:
        with attacks.reverse_shell(network, owner, address) as traces:
            wait_for(lambda: [each for each in host.reactions() if each["reason"] == "spared"], "it is spared")
            time.sleep(0.3)
            assert runs(traces)
        since = len(host.objects())
        with attacks.brute_force(network, owner, address):
            wait_for(
                lambda: [each for each in host.reactions(since) if each["reaction"] == "block_address"],
                "something was decided",
            )
        assert blocked(network.near) == set()
        assert {each["outcome"] for each in host.reactions()} == {"suppressed"}
        assert [each for each in host.told("op=suppressed-block-address") if each.type == "RESP_ANOMALY"]


def test_dry_by_default(network: Network, python: str, tmp_path: Path) -> None:
    load_audit_rules(AUDIT_RULES, tmp_path)
    conf = REACTIONS.format(namespace=network.near, block="30s").replace("dry_run = no\n", "")
    with hids_host(python, conf) as host, attacks.account() as owner, attacks.web_shell(network, owner) as traces:
        wait_for(lambda: [each for each in host.reactions() if each["outcome"] == "dry_run"], "it would be done")
        time.sleep(0.3)
        assert runs(traces)
        assert {each["outcome"] for each in host.reactions()} <= {"dry_run", "suppressed"}
        assert [each for each in host.told("op=would-kill-process") if each.type == "RESP_ANOMALY"]


def test_undone_in_time_though_the_dispatcher_was_killed(network: Network, python: str, tmp_path: Path) -> None:
    load_audit_rules(AUDIT_RULES, tmp_path)
    conf = REACTIONS.format(namespace=network.near, block="30s")
    conf = conf.replace("kill_process = high critical", "freeze_process = high critical\nfreeze_time = 4s")
    with hids_host(python, conf) as host, attacks.account() as owner, attacks.suid_file(network, owner) as traces:
        wait_for(lambda: state_of(traces) == "T", "the process is stopped")
        stopped = time.monotonic()
        matcher = host.ours.plugin("hids")["pids"]
        host.ours.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in matcher), "the matcher dies with it")
        assert state_of(traces) == "T"
        wait_for(lambda: state_of(traces) == "S", "it goes on")
        assert 1.0 < time.monotonic() - stopped < 8.0
        assert [each["step"] for each in host.journal()] == ["undone"]
        # And the next dispatcher is none the worse for it.
        host.ours.start()
        wait_for(lambda: "rules" in host.status(), "it is up again")


def state_of(traces: Traces) -> str:
    return Path(f"/proc/{traces.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_our_own_acts_are_no_findings(network: Network, python: str, tmp_path: Path) -> None:
    """nft, and usermod, which writes /etc/shadow: what a person is told of, and we are not."""
    load_audit_rules(AUDIT_RULES, tmp_path)
    conf = REACTIONS.format(namespace=network.near, block="2s").replace(
        "lock_account = critical", "lock_account = high critical\nlock_time = 2s"
    )
    with hids_host(python, conf) as host, attacks.account() as owner:
        with attacks.brute_force(network, owner, attacks.FAR[20]):
            wait_for(lambda: len(acts(host, 0, "done")) == len(acts(host, 0, "undone")) > 0, "blocked, and free again")
        titles = set(severe(host, 0))
        assert not {each for each in titles if "failed logins" not in each and "Score of" not in each}, titles
