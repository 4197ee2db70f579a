"""The starter rules on the live kernel: attacks that really happen are recognised each time, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from audisp.detect.correlate import Finding
from tests.e2e import attacks
from tests.e2e.attacks import Network, Traces
from tests.e2e.daemons import Ours
from tests.e2e.recognising import AUDIT_RULES, Recogniser, load_audit_rules, severe, starter_rules
from tests.needs import needs

pytestmark = [
    needs("root", "auditd", "ip", "sshd", "ssh", "curl", "pkill", "perl", "openssl"),
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.usefixtures("audit"),
]

ROUNDS: Final = 5


@attrs.frozen
class Expected:
    """finding: the rule that must say it, once. holds: whether that agrees with the attack's traces. also: other severe
    rules, which say the same by other evidence."""

    finding: str
    holds: Callable[[Finding, Traces], bool]
    also: frozenset[str] = frozenset()


def by_pid(finding: Finding, traces: Traces) -> bool:
    """The process that the event names is the attacker's."""
    return f" pid={traces.pid} ".encode() in finding.event.raw


def by_address(finding: Finding, traces: Traces) -> bool:
    """The group is the attacker's address."""
    return dict(finding.group).get("addr") == traces.address.encode()


EXPECTED: Final = {
    "reverse_shell": Expected(
        "Reverse shell, a shell that has connected becomes interactive",
        by_pid,
        frozenset({"A network tool hands its connection to a shell"}),
    ),
    "suid_file": Expected("A SUID file is dropped where no programs are installed", by_pid),
    "log_wipe": Expected("A log of logins or of the system is emptied, removed or replaced", by_pid),
    "brute_force": Expected("Many failed logins from one address", by_address),
    "web_shell": Expected("A web server starts a shell", by_pid),
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Where all attacks of this module happen."""
    with attacks.network() as made:
        yield made


@pytest.mark.parametrize("name", attacks.ALL)
def test_seen_each_time(name: str, network: Network, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    load_audit_rules(AUDIT_RULES, tmp_path)
    with Ours(tmp_path / "ours") as ours:
        recogniser = Recogniser(ours.log, starter_rules())
        for number in range(ROUNDS):
            with attacks.account() as owner:
                recogniser.findings()
                # Each from another address, which has no past.
                with attacks.ALL[name](network, owner, attacks.FAR[number]) as traces:
                    found = severe(recogniser.findings())
            titles = [each.heading.title for each in found]
            assert titles.count(expected.finding) == 1, titles
            assert set(titles) <= {expected.finding} | expected.also, titles
            (finding,) = (each for each in found if each.heading.title == expected.finding)
            assert expected.holds(finding, traces), finding.event.raw
            stamp = finding.event.id
            assert traces.time - 1 <= stamp.seconds + stamp.millis / 1000, (traces, stamp)
        books = ours.source("netlink")
        assert books["lost_ranges"] == []


def test_a_guessed_password(network: Network, tmp_path: Path) -> None:
    """After the wrong passwords the right one: the address is told once more."""
    load_audit_rules(AUDIT_RULES, tmp_path)
    with Ours(tmp_path / "ours") as ours, attacks.account() as owner:
        recogniser = Recogniser(ours.log, starter_rules())
        recogniser.findings()
        address = attacks.FAR[-1]
        with attacks.brute_force(network, owner, address, guessed=True) as traces:
            found = severe(recogniser.findings())
    assert [each.heading.title for each in found] == [
        "Many failed logins from one address",
        "A password that was guessed, perhaps",
    ]
    assert all(by_address(each, traces) for each in found)
