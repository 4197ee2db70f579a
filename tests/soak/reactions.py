"""Attacks that really happen, told of by the plugin hids and acted on by the reactor, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.e2e import attacks as real
from tests.e2e.hids_host import HidsHost, Told, acts, blocked, hids_host, interpreter, runs, severe
from tests.e2e.recognising import AUDIT_RULES, load_audit_rules
from tests.e2e.stream import borrowed, locked, wait_for
from tests.needs import missing
from tests.soak.result import Result
from tests.soak.world import Failed

WITHIN: Final = 1.0
"""Seconds from an event's stamp to the record that tells of it (issue 5)."""
BLOCK: Final = 6
"""Seconds of a block: it must be over in time, and an account's next attack must not find it."""
REACTIONS: Final = """
dry_run = no
kill_process = high critical
block_address = high critical
network_namespace = /run/netns/{namespace}
block_time = {block}s
per_target = 100
per_hour = 1000
"""


def reactions(folder: Path, seed: int, count: int) -> Result:
    """Each of the five attacks `count` times: told of within a second, the process killed or the address blocked."""
    result = Result("reactions", seed)
    after: list[float] = []
    with locked():
        lacking = missing("audit", "auditd", "nft", *real.NEEDED)
        if lacking:
            raise Failed(lacking)
        with borrowed(), real.network() as network, interpreter() as python:
            load_audit_rules(AUDIT_RULES, folder)
            conf = REACTIONS.format(namespace=network.near, block=BLOCK)
            with hids_host(python, conf) as host:
                for turn in range(count):
                    for name in real.ALL:
                        told = _once(result, host, name, network, real.FAR[turn % len(real.FAR)])
                        if told is not None:
                            after.append(told.after)
                wait_for(lambda: not blocked(network.near), "the last block is over", 2 * BLOCK)
                wait_for(lambda: len(acts(host, 0, "undone")) == _blocks(host), "each block was undone")
                result.figures["acts"] = len(acts(host, 0, "done"))
                result.figures["blocks, each undone in time"] = _blocks(host)
                books = host.ours.source("netlink")
                result.check(books["lost_ranges"] == [], "records were lost")
    after.sort()
    if after:
        result.figures["ms from event to alert, median"] = round(after[len(after) // 2] * 1000)
        result.figures["ms from event to alert, worst"] = round(after[-1] * 1000)
    return result


def _blocks(host: HidsHost) -> int:
    return sum(each["reaction"] == "block_address" for each in acts(host, 0, "done"))


def _once(result: Result, host: HidsHost, name: str, network: real.Network, address: str) -> Told | None:
    since, before = len(host.objects()), len(host.told())
    try:
        with real.account() as owner, real.ALL[name](network, owner, address) as traces:
            wait_for(lambda: severe(host, since), f"{name} is told of")
            if name == "brute_force":
                wait_for(lambda: acts(host, since, "done"), f"{address} is blocked: {host.reactions(since)}")
            else:
                wait_for(lambda: not runs(traces), f"{name}: the process is ended: {host.reactions(since)}")
    except AssertionError as error:
        result.check(False, f"{name}: {error}")
        return None
    first = host.told()[before:][0]
    result.check(first.after < WITHIN, f"{name}: told of after {first.after:.3f} s")
    result.figures[name] = int(str(result.figures.get(name, 0))) + 1
    return first
