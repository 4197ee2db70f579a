"""Part `scale`: many hosts on one collector, each with a connection and a key of its own, derived from one master key.

One after the other: all connect at once; they are silent; they send a little, at different rates; each sends without
pause; the collector is killed under that little load and started again, and all come back. The hosts live in one
process (`crowd.py`), on the same processors as the collector, so that what both of them do bounds what is seen. No peer
stands beside it: auditd serves one connection after the other, and knows one key.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.figures import Run, each, median, percent, spread, table, worst
from tests.bench.pairs import START_LIMIT, Program, collector, free_port, listens, write_key
from tests.bench.place import program
from tests.bench.process import memory_mib, process_seconds, share_mib, wait_for
from tests.bench.setting import Setting

HOSTS: Final = 2_000
MANY: Final = 10_000
"""What a collector is made for; extrapolated to."""
IDLE_SECONDS: Final = 20.0
LOAD_SECONDS: Final = 10.0
RATES: Final = ((200, 10), (1_000, 10), (200, 200))
"""Frames a second of all hosts together, and records in each."""
FULL_RECORDS: Final = 100
BACK_SECONDS: Final = 60.0
START_SECONDS: Final = 60.0


def _crowd(folder: Path, master: Path, port: int, hosts: int) -> Program:
    return Program(
        [*program("crowd"), str(master), str(port), "0", str(hosts)],
        folder,
        "crowd",
        subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _ask(crowd: Program, *words: object) -> Run:
    """A command of `crowd.py`, and its answer. RuntimeError if there is none."""
    process = crowd.process
    assert process.stdin is not None
    if words:
        process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        process.stdin.flush()
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the crowd has ended: {crowd.said()}")
    found: Run = json.loads(line)
    return found


def _one(setting: Setting, hosts: int) -> dict[str, Run]:
    """One round: figures of each stage."""
    folder, port = setting.place.fresh("scale"), free_port()
    master = write_key(folder / "master", secrets.token_hex(32))
    clients = folder / "clients"
    clients.write_text("*.bench.example.com enabled match=suffix\n")
    clients.chmod(0o640)

    def started() -> Program:
        # Every host has the same address here, and all limits are defaults but the one of connections of one address.
        return collector(folder, port, tls_psk_master=master, tls_allowed_clients=clients, tcp_max_per_addr=65_535)

    seconds = LOAD_SECONDS * min(1.0, setting.scale)
    stages: dict[str, Run] = {}
    server = started()
    with server:
        wait_for("audisp-collector to listen", lambda: server.runs() and listens(port), START_LIMIT)
        with _crowd(folder, master, port, hosts) as crowd:
            _ask(crowd)
            empty, shared = memory_mib(server.pid, "VmRSS"), share_mib(server.pid)

            def with_cpu(*words: object) -> dict[str, float]:
                began, at = process_seconds(server.pid), time.monotonic()
                found = dict(_ask(crowd, *words))
                found["server"] = (process_seconds(server.pid) - began) / (time.monotonic() - at)
                found["spent"] = process_seconds(server.pid) - began
                return found | {"rss": memory_mib(server.pid, "VmRSS"), "pss": share_mib(server.pid)}

            stages["connect"] = with_cpu("connect")
            began = process_seconds(server.pid)
            time.sleep(IDLE_SECONDS * min(1.0, setting.scale))
            idle = (process_seconds(server.pid) - began) / (IDLE_SECONDS * min(1.0, setting.scale))
            rss, pss = memory_mib(server.pid, "VmRSS"), share_mib(server.pid)
            stages["idle"] = {
                "server": idle,
                "empty": empty,
                "rss": (rss - empty) * 1024 / hosts,
                "pss": (pss - shared) * 1024 / hosts,
            }
            for rate, records in RATES:
                stages[f"{rate} {records}"] = with_cpu("steady", rate, records, seconds)
            stages["full"] = with_cpu("full", FULL_RECORDS, seconds)
            # Killed in the middle of what they send; what was not acknowledged comes again.
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            gone = time.monotonic()
            server = started()
            with server:
                wait_for("audisp-collector to listen", lambda: server.runs() and listens(port), START_LIMIT)
                down, began = time.monotonic() - gone, process_seconds(server.pid)
                stages["back"] = {**_ask(crowd, "back", BACK_SECONDS), "down": down}
                stages["back"] = {**stages["back"], "spent": process_seconds(server.pid) - began}
                stages["after"] = with_cpu("steady", *RATES[0], seconds)
    return stages


def run(setting: Setting) -> str:
    """The tables of this part."""
    hosts = setting.sized(HOSTS, 20)
    rounds: list[dict[str, Run]] = []
    for number in range(setting.runs):
        rounds.append(_one(setting, hosts))
        for stage, found in rounds[-1].items():
            figures = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            setting.note(f"scale: round {number + 1}: {stage}: {figures}")

    def of(stage: str) -> list[Run]:
        return [each[stage] for each in rounds]

    return "\n".join((_storms(of, hosts), _loads(of, hosts), _many(of, hosts)))


Stages = Callable[[str], list[Run]]
"""The figures of one stage, of all rounds."""


def _storms(of: Stages, hosts: int) -> str:
    rows: list[list[float | str]] = []
    for stage, words in (("connect", "all connect at once"), ("back", "collector killed and started again")):
        runs = of(stage)
        down = median(runs, "down") if stage == "back" else 0.0
        rows.append(
            [
                words,
                each(runs, "welcomed"),
                median(runs, "seconds"),
                percent(spread(runs, "seconds")),
                down or "",
                f"{median(runs, 'p50'):.2f} / {median(runs, 'p99'):.2f}",
                each(runs, "failures"),
                median(runs, "spent") / hosts * 1e3,
            ]
        )
    head = (
        "storm",
        "hosts welcomed",
        "s until the last",
        "spread",
        "of that without a collector, s",
        "s until welcomed, p50 / p99",
        "attempts that failed",
        "collector's CPU ms per host",
    )
    return table(f"{hosts:,} hosts on one collector: connecting, runs: {len(of('connect'))}", head, rows)


def _loads(of: Stages, hosts: int) -> str:
    rows: list[list[float | str]] = [["silent", 0, 0, "", "", "", "", percent(median(of("idle"), "server")), ""]]
    stages = [f"{rate} {records}" for rate, records in RATES]
    words = [f"{rate:,} frames/s of {records} records" for rate, records in RATES]
    stages += ["full", "after"]
    words += [f"each host without pause, frames of {FULL_RECORDS}", f"after the storm: {words[0]}"]
    for stage, text in zip(stages, words, strict=True):
        runs = of(stage)
        rows.append(
            [
                text,
                round(median(runs, "rate")),
                round(median(runs, "frames")),
                percent(spread(runs, "rate")),
                f"{median(runs, 'p50') * 1e3:.0f} / {median(runs, 'p99') * 1e3:.0f}",
                percent(spread(runs, "p99")),
                worst(runs, "longest") * 1e3,
                f"{percent(median(runs, 'server'))} / {percent(median(runs, 'cpu'))}",
                worst(runs, "rss"),
            ]
        )
    head = (
        "load",
        "records/s",
        "frames/s",
        "spread",
        "ms until acknowledged, p50 / p99",
        "spread of p99",
        "longest ms",
        "a processor, collector / hosts",
        "collector's RSS MiB",
    )
    return table(f"{hosts:,} hosts on one collector: sending", head, rows)


def _many(of: Stages, hosts: int) -> str:
    """What a connection costs, and what MANY would, if all goes by their number."""
    idle, connect, small = of("idle"), of("connect"), of(f"{RATES[0][0]} {RATES[0][1]}")
    empty, rss, pss = median(idle, "empty"), median(idle, "rss"), median(idle, "pss")
    frame = (median(small, "server") - median(idle, "server")) / median(small, "frames")
    storm = median(connect, "seconds") / hosts * MANY
    rows: list[list[float | str]] = [
        ["KiB of one silent connection, RSS / PSS", f"{rss:.1f} / {pss:.1f}", percent(spread(idle, "rss"))],
        [f"MiB of RSS with {MANY:,} silent connections", empty + rss * MANY / 1024, "extrapolated"],
        [f"s until {MANY:,} are connected, hosts on the same processors", storm, "extrapolated"],
        [
            f"s of the collector's CPU for {MANY:,} handshakes",
            median(connect, "spent") / hosts * MANY,
            "extrapolated",
        ],
        [f"a processor for {MANY:,} silent hosts", percent(median(idle, "server") / hosts * MANY), "extrapolated"],
        ["collector's CPU ms per frame of 10 records", frame * 1e3, ""],
    ]
    return table(f"What {MANY:,} hosts would take", ("", "", "spread"), rows)
