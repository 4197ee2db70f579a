"""Attacks that really happen, and whether the starter rules say so each time, and nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.e2e import attacks as real
from tests.e2e.daemons import Ours
from tests.e2e.recognising import AUDIT_RULES, Recogniser, load_audit_rules, severe, starter_rules, wrong_with
from tests.e2e.stream import borrowed, locked
from tests.needs import missing
from tests.soak.result import Result
from tests.soak.world import Failed


def attacks(folder: Path, seed: int, count: int) -> Result:
    """Each of the five attacks `count` times, each by a new account and from the next address."""
    result = Result("attacks", seed)
    with locked():
        lacking = missing("audit", "auditd", *real.NEEDED)
        if lacking:
            raise Failed(lacking)
        with borrowed(), real.network() as network:
            load_audit_rules(AUDIT_RULES, folder)
            with Ours(folder / "ours") as ours:
                recogniser = Recogniser(ours.log, starter_rules())
                for turn in range(count):
                    address = real.FAR[turn % len(real.FAR)]
                    for name, attack in real.ALL.items():
                        with real.account() as owner:
                            recogniser.findings()
                            with attack(network, owner, address) as traces:
                                problem = wrong_with(name, severe(recogniser.findings()), traces)
                        result.check(not problem, problem)
                        result.figures[name] = int(str(result.figures.get(name, 0))) + (not problem)
                result.check(ours.source("netlink")["lost_ranges"] == [], "records were lost")
    return result
