"""A process that stores, and another that kills it again and again and looks whether what was acknowledged is there.

`python -m tests.collector.killing FOLDER SEED` is the first: it stores what a few hosts send, removes what is too
much, and writes to standard output what is on disk. `kill_again` is the second.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import attrs

from audisp.collector.chain import Verdict, verify
from audisp.collector.reading import Reader
from audisp.collector.store import Findings, Store
from tests.collector.stores import NANO, SECOND, Host, Tiny, message, record
from tests.needs import ROOT

HOSTS: Final = ("hog", "one", "two", "quiet")
PROGRAM: Final = "program"
"""Identity of a C program."""
POLICY: Final = Tiny(max_bytes=2 << 20, max_host_bytes=600_000, segment=100_000)


def write(folder: Path, seed: int) -> None:
    """Store until killed."""
    chance = random.Random(seed)
    with Store(folder, policy=POLICY) as store:
        found = attrs.asdict(store.findings)
        found = {name: count for name, count in found.items() if count and not name.startswith("torn")}
        print("start", *found or ["well"], flush=True)
        hosts = [Host(name) for name in HOSTS]
        for host in hosts:
            host.at = store.position(host.identity, host.spool) or host.at
        sequence = (store.recent(PROGRAM)[0] or 0) + 1
        while True:
            weights = (8, 3, 2, 0.2)
            items = [
                host.item(chance.randint(1, 40), size=chance.choice((0, 300)), node=chance.choice(("", "n")))
                for host, weight in zip(hosts, weights, strict=True)
                if chance.random() * 8 < weight
            ]
            if chance.random() < 0.5:
                store.append(message(PROGRAM, sequence))
                sequence += 1
            for item in items:
                assert store.append(item)
            done = store.commit()
            for each in done.durable:
                print("acked", each.key.identity, each.place.next, flush=True)
            if store.due(SECOND * NANO):
                store.retain(SECOND * NANO)


@attrs.define
class Seen:
    """What is known of the hosts from outside. acked: number up to which each was told that it is on disk. read: next
    number that a reader has to come by; position: where that reader is in the store."""

    acked: dict[str, int] = attrs.field(factory=dict)
    read: dict[str, int] = attrs.field(factory=dict)
    position: int = 0
    records: int = 0
    kills: int = 0
    dropped: int = 0
    problems: list[str] = attrs.field(factory=list)

    def check(self, holds: bool, problem: str) -> None:
        """Enter the problem unless it holds."""
        if not holds:
            self.problems.append(f"kill {self.kills}: {problem}")


def kill_again(folder: Path, seed: int, kills: int, longest: float) -> Seen:
    """Start the writer, kill it after at most `longest` seconds, look; so many times."""
    chance = random.Random(seed)
    seen = Seen()
    for _ in range(kills):
        seen.kills += 1
        command = [sys.executable, "-m", "tests.collector.killing", str(folder), str(chance.randrange(1 << 30))]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline().split()]
            time.sleep(chance.random() * longest)
            writer.send_signal(signal.SIGKILL)
            # The last line may be cut.
            said += [words for line in writer.stdout.read().splitlines() if len(words := line.split()) == 3]
        seen.check(writer.returncode == -signal.SIGKILL, f"the writer ended by itself: {writer.returncode}")
        seen.check(said[0] == ["start", "well"], f"found at open: {said[0]}")
        for _word, name, number in said[1:]:
            seen.acked[name] = int(number)
        _look(folder, seen)
        if chance.random() < 0.2:
            # Without its caches it is as good.
            for path in [*folder.glob("*.idx"), folder / "end"]:
                path.unlink(missing_ok=True)
    return seen


def _look(folder: Path, seen: Seen) -> None:
    report = verify(folder)
    seen.check(report.verdict <= Verdict.DROPPED, f"verify says {report.verdict}: {report}"[:2000])
    kept: dict[str, int] = {}
    with Store(folder, policy=POLICY) as store:
        findings = attrs.evolve(store.findings, torn=0, torn_bytes=0)
        seen.check(findings == Findings(), f"findings {store.findings}")
        for stream in store.streams():
            name = stream.key.identity
            kept[name] = stream.kept.next
            seen.check(stream.next >= seen.acked.get(name, 1), f"{name}: {stream.next}, acknowledged {seen.acked}")
            seen.acked[name] = stream.next
        seen.check(set(kept) >= set(seen.acked), f"of {set(seen.acked) - set(kept)} nothing is known")
        seen.dropped = sum(stream.dropped for stream in store.streams())
    with Reader(folder, start=seen.position) as reader:
        for chunk in reader:
            _take(seen, chunk.identity, chunk.data, kept)
        seen.position = reader.next
        seen.check(not reader.damage, f"{reader.damage} damaged stretches were read")
    for name, number in seen.acked.items():
        at = max(seen.read.get(name, 1), kept[name])
        seen.check(at == number, f"{name}: read up to {at}, stored up to {number}")


def _take(seen: Seen, name: str, data: bytes, kept: dict[str, int]) -> None:
    """Records of one frame: they go on where those before them ended, or where retention let them begin."""
    for line in data.splitlines(keepends=True):
        number = int(line.split(b")", 1)[0].rsplit(b":", 1)[1])
        expected = seen.read.get(name, 1)
        if number != expected:
            seen.check(expected < number and expected < kept[name], f"{name}: {number} where {expected} is next")
        sent = {record(number, SECOND, size, node) for size in (0, 300) for node in ("", "n")}
        seen.check(line in sent, f"{name}: {number} is not what was sent: {line!r:.200}")
        seen.read[name] = number + 1
        seen.records += 1


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
