"""Part `remote`: a recorded log from one host to another, until the last acknowledgement.

Debian's pair, audisp-remote and auditd over plain TCP, immediate and managed, beside ours over TLS-PSK with the spool
and the store synced before anything is acknowledged. Both read the same file through a pipe. Then ours through a relay,
a process of its own that holds each byte for a while: what is under way must not bound the rate.
"""

from __future__ import annotations

from typing import Final

from tests.bench.capture import RECORDS, Capture, capture
from tests.bench.figures import (
    Run,
    at_least,
    at_most,
    each,
    measure,
    median,
    percent,
    spread,
    table,
    times,
    worst,
)
from tests.bench.pairs import ours, theirs
from tests.bench.setting import Setting

RATE_GOAL: Final = 30.0
"""At least this many times the records/s of Debian's pair."""
CPU_GOAL: Final = 1 / 5
"""At most so much of its CPU per record, both ends together."""
AWAY_GOAL: Final = 0.9
"""At least so much of the rate that the same relay lets through when it holds nothing."""
AWAY_MS: Final = 20
"""Held each way."""
LONG: Final = 10
"""A second log of ours is so many times as long: half a second measures beginning and end as well, and the relay's
delay would be a part of it."""

PEER: Final = "audisp-remote and auditd, TCP"
OURS: Final = "ours, TLS-PSK, synced"
OURS_LONG: Final = f"ours, {LONG} times as long"
NEAR: Final = f"ours, {LONG} times as long, relay of 0 ms"
AWAY: Final = f"ours, {LONG} times as long, relay of {AWAY_MS} ms"

HEAD: Final = (
    "pair",
    "records",
    "records/s",
    "spread",
    "rate",
    "goal",
    "CPU s per million, sender + receiver",
    "spread ",
    "CPU",
    "goal ",
    "peak RSS MiB, sender / receiver",
    "missing",
)


def run(setting: Setting) -> str:
    """The table of this part, and last the line `ratio N`: our rate in terms of theirs, on the same file."""
    place = setting.place
    log = capture(place.folder, setting.sized(RECORDS, 5_000))
    longer = log.times(LONG)
    runs = measure(
        setting.runs,
        {
            PEER: lambda: theirs(place, log.path).figures(log.records),
            OURS: lambda: ours(place, log.path).figures(log.records),
            OURS_LONG: lambda: ours(place, longer.path).figures(longer.records),
            NEAR: lambda: ours(place, longer.path, 0).figures(longer.records),
            AWAY: lambda: ours(place, longer.path, AWAY_MS).figures(longer.records),
        },
        lambda text: setting.note(f"remote: {text}"),
    )
    rows = [_row(side, runs, log if side in (PEER, OURS) else longer) for side in runs]
    title = f"A capture ({log.name}) from host to host, runs: {setting.runs}"
    ratio = median(runs[OURS], "rate") / median(runs[PEER], "rate")
    return f"{table(title, HEAD, rows)}\nratio {ratio:.1f}"


def _row(side: str, runs: dict[str, list[Run]], log: Capture) -> list[float | str]:
    own, peer = runs[side], runs[PEER]
    rate, cpu = (median(own, name) / median(peer, name) for name in ("rate", "cpu"))
    if side is AWAY:
        rate = median(own, "rate") / median(runs[NEAR], "rate")
        shown, goal = f"{percent(rate)} of that with 0 ms", at_least(rate, AWAY_GOAL, f">= {percent(AWAY_GOAL)}")
    elif side in (OURS, OURS_LONG):
        shown, goal = times(rate), at_least(rate, RATE_GOAL, f">= {RATE_GOAL:g} x")
    else:
        shown, goal = "" if side is PEER else times(rate), ""
    return [
        side,
        log.records,
        round(median(own, "rate")),
        percent(spread(own, "rate")),
        shown,
        goal,
        f"{median(own, 'cpu'):.2f} = {median(own, 'sender'):.2f} + {median(own, 'receiver'):.2f}",
        percent(spread(own, "cpu")),
        "" if side is PEER else percent(cpu),
        at_most(cpu, CPU_GOAL, "<= 1/5") if side in (OURS, OURS_LONG) else "",
        f"{worst(own, 'sender peak'):.0f} / {worst(own, 'receiver peak'):.0f}",
        each(own, "missing"),
    ]
