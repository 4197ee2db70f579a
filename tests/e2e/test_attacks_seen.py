"""The starter rules on the live kernel: attacks that really happen are recognised each time, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e import attacks
from tests.e2e.attacks import Network
from tests.e2e.daemons import Ours
from tests.e2e.recognising import (
    AUDIT_RULES,
    Recogniser,
    by_address,
    load_audit_rules,
    severe,
    starter_rules,
    wrong_with,
)
from tests.needs import needs

pytestmark = [
    needs("root", "auditd", *attacks.NEEDED),
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.usefixtures("audit"),
]

ROUNDS: Final = 3


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Where all attacks of this module happen."""
    with attacks.network() as made:
        yield made


@pytest.mark.parametrize("name", attacks.ALL)
def test_seen_each_time(name: str, network: Network, tmp_path: Path) -> None:
    load_audit_rules(AUDIT_RULES, tmp_path)
    with Ours(tmp_path / "ours") as ours:
        recogniser = Recogniser(ours.log, starter_rules())
        for number in range(ROUNDS):
            with attacks.account() as owner:
                recogniser.findings()
                # Each from another address, which has no past.
                with attacks.ALL[name](network, owner, attacks.FAR[number]) as traces:
                    found = severe(recogniser.findings())
            assert wrong_with(name, found, traces) == ""
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
