"""Rules and scores under events that are hostile in every key: addresses, accounts, sessions, processes, programs,
names, audit keys, arguments, nodes. Memory must be flat, tables within their bounds, and who is held must stay.

The attacker never repeats himself, but for one target that was blocked and one that goes on attacking in between.
"""

from __future__ import annotations

import gc
import os
import random
import time
from pathlib import Path
from typing import Final

from audisp.detect.correlate import MAX_GROUPS
from audisp.detect.detector import Detector
from audisp.detect.entities import EntityId
from audisp.detect.firstseen import MAX_GROUPS as MAX_USERS
from audisp.detect.firstseen import MAX_HOSTS
from audisp.detect.scores import Scores
from audisp.detect.trees import MAX_PROCESSES
from audisp.detect.weights import ScoreSettings
from audisp.event import Batch
from audisp.hids.load import translate
from audisp.parse.record import RecordReader
from tests.soak.result import Result
from tests.soak.steady import rss_kib

PER_BATCH: Final = 256
BEGIN: Final = 1_700_000_000
PER_SECOND: Final = 2_000
"""Events of a simulated second: 10 million take 83 minutes, in which much is forgotten, and not all."""
TENTHS: Final = 10
WARM: Final = 200_000
"""Events until every table is full: the slowest to fill is that of first-seen destinations, 16,384 at one in six."""
GROWTH_KIB: Final = 16 * 1024
"""What may be added from then on. Tables are full, but what stands in them still changes from short reasons to long
ones, and allocators are never quite flat; 16 MiB in 10 million events is 1.7 bytes for each, less than any key."""
HELD: Final = EntityId("address", "soak", "", "192.0.2.1")
ADDED_EVERY: Final = 5_000
"""Events between two failures of the target that goes on: twenty a minute at PER_SECOND."""
RULES: Final = r"""
title: Odd program
id: 6f2f3a5e-36e5-4c8e-9d43-0b2f0c2b7b01
logsource: {product: linux, category: process_creation}
detection:
    s: {Image|endswith: /evil}
    condition: s
level: high
tags: [attack.execution]
---
title: Word of an argument
id: 6f2f3a5e-36e5-4c8e-9d43-0b2f0c2b7b02
logsource: {product: linux, service: auditd}
detection:
    s: {type: EXECVE, a1|contains: xmrig}
    condition: s
level: medium
tags: [attack.impact]
---
title: Failed login
name: failed
id: 6f2f3a5e-36e5-4c8e-9d43-0b2f0c2b7b03
logsource: {product: linux, service: auditd}
detection:
    s: {type: USER_LOGIN, res: failed}
    condition: s
level: low
---
title: Failed logins
id: 6f2f3a5e-36e5-4c8e-9d43-0b2f0c2b7b04
correlation:
    type: event_count
    rules: failed
    group-by: addr
    timespan: 1h
    condition: {gte: 5}
level: high
"""


class Attacker:
    """Makes events. Everything in them is new, or one of very many."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.serial = 0

    def events(self, count: int) -> bytes:
        """So many, one after the other."""
        return b"".join([self._event() for _ in range(count)])

    def _event(self) -> bytes:
        chance = self.chance
        self.serial += 1
        at = self.serial
        node = b"node=n%x " % chance.getrandbits(16) if chance.random() < 0.05 else b""
        jump = chance.choice((-4_000, 90_000, 10**9)) if chance.random() < 0.001 else 0
        head = b"audit(%d.%03d:%d):" % (BEGIN + at // PER_SECOND + jump, at % 1_000, at)
        if not at % ADDED_EVERY:
            return self._login(b"", head, b"192.0.2.7", b'"bob"', 0)
        kind = chance.randrange(6)
        if kind < 2:
            uid = 0 if chance.random() < 0.8 else 1000
            return self._login(node, head, self._address(), self._name(), uid)
        return self._call(node, head, kind)

    def _address(self) -> bytes:
        bits = self.chance.getrandbits
        return self.chance.choice(
            (
                b"2001:db8:%x:%x::%x" % (bits(16), bits(16), bits(16)),
                b"::ffff:10.%d.%d.%d" % (bits(8), bits(8), bits(8)),
                b"10.%d.%d.%d" % (bits(8), bits(8), bits(8)),
                b";reboot",
                b"%d" % bits(60),
            )
        )

    def _name(self) -> bytes:
        bits = self.chance.getrandbits
        return self.chance.choice(
            (b'"u%x"' % bits(40), b'"-rf"', b'"root"', b"%040X" % bits(160), b'"' + b"a" * bits(7) + b'%x"' % bits(30))
        )

    def _login(self, node: bytes, head: bytes, addr: bytes, acct: bytes, uid: int) -> bytes:
        bits = self.chance.getrandbits
        type_ = self.chance.choice((b"USER_LOGIN", b"USER_LOGIN", b"USER_AUTH", b"USER_START", b"USER_END"))
        return (
            b'%btype=%b msg=%b pid=%d uid=%d auid=%d ses=%d msg=\'op=login acct=%b exe="/usr/sbin/sshd" hostname=? '
            b"addr=%b terminal=ssh res=%b'\n"
            % (
                node,
                type_,
                head,
                bits(20),
                uid,
                bits(32),
                bits(32),
                acct,
                addr,
                self.chance.choice((b"failed", b"success")),
            )
        )

    def _call(self, node: bytes, head: bytes, kind: int) -> bytes:
        chance, bits = self.chance, self.chance.getrandbits
        exe = b"/opt/%x/evil" % bits(30) if chance.random() < 0.2 else b"/%x/%b" % (bits(40), b"d" * bits(8))
        comm = b'"%x"' % bits(40) if chance.random() < 0.5 else b"%X" % bits(8 * 8) * 2
        key = chance.choice(
            (b"(null)", b'"ids-recon"', b'"ids-archive"', b'"k%x"' % bits(40), b"6964732D7265636F6E01%08X" % bits(32))
        )
        lines = [
            b"%btype=SYSCALL msg=%b arch=c000003e syscall=%d success=yes exit=0 a0=%x a1=0 a2=0 a3=0 items=2 ppid=%d "
            b"pid=%d auid=%d uid=%d gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=%d "
            b'comm=%b exe="%b" '
            b"key=%b\n"
            % (
                node,
                head,
                42 if kind == 2 else 59,
                bits(32),
                bits(22),
                bits(22),
                bits(32),
                bits(32),
                bits(32),
                comm,
                exe,
                key,
            )
        ]
        if kind == 2:
            lines.append(b"%btype=SOCKADDR msg=%b saddr=02000050%08X0000000000000000\n" % (node, head, bits(32)))
        elif kind == 3:
            lines.append(b'%btype=AVC msg=%b avc:  denied  { read } for  pid=1 comm="x" tclass=file\n' % (node, head))
        else:
            words = [
                b"%X" % bits(8 * 16) if at % 2 else b'"xmrig%x"' % bits(40) for at in range(chance.randrange(1, 6))
            ]
            arguments = b" ".join([b"a%d=%b" % pair for pair in enumerate(words)])
            lines.append(b"%btype=EXECVE msg=%b argc=%d %b\n" % (node, head, len(words), arguments))
        return b"".join(lines)


def _bounds(scores: Scores, detector: Detector, result: Result) -> None:
    """Nothing is larger than it may be."""
    settings = scores.settings
    for kind, table in scores.tables.items():
        result.check(len(table) <= settings.max_entities, f"{len(table):,} entities of kind {kind}")
    for what, pairs in scores.first.pairs.items():
        result.check(len(pairs) <= settings.max_pairs, f"{len(pairs):,} pairs of kind {what}")
        result.check(len(scores.first.groups[what]) <= MAX_USERS, f"users of kind {what}")
    result.check(len(scores.first.hosts) <= MAX_HOSTS, f"{len(scores.first.hosts):,} hosts")
    result.check(len(scores.trees) <= MAX_PROCESSES, f"{len(scores.trees):,} processes")
    result.check(len(detector.correlator) <= MAX_GROUPS, f"{len(detector.correlator):,} groups")


def hids(_: Path, seed: int, count: int) -> Result:
    """So many events; memory is looked at after each tenth."""
    result = Result("hids", seed)
    attacker, reader = Attacker(seed), RecordReader()
    rules = translate([("soak.yml", RULES.encode())])
    result.check(not rules.refused, f"refused: {rules.refused}")
    scores = Scores(ScoreSettings(learning=60, min_support=1))
    detector = Detector(rules, watched=scores.watched)
    # Longer than the run, also by the stamps of the future, which are not asked.
    result.check(scores.hold(HELD, BEGIN + 10**6), "the target could not be held")
    sizes: list[int] = []
    findings = reached = seen = 0
    goes_on = False
    began, spent = time.monotonic(), 0.0
    for tenth in range(1, TENTHS + 1):
        while seen < count * tenth // TENTHS:
            data = attacker.events(PER_BATCH)
            batch = Batch(data, data.count(b"\n"), "soak", 0.0, reader)
            before = time.process_time()
            found = detector.detect(batch)
            out = scores.feed(batch, found, detector.scan, now=BEGIN + attacker.serial // PER_SECOND)
            spent += time.process_time() - before
            seen += PER_BATCH
            findings += len(found)
            reached += len(out)
            goes_on = goes_on or any(each.kind == "address" and each.key == "192.0.2.7" for each in out)
        _bounds(scores, detector, result)
        gc.collect()
        sizes.append(rss_kib(os.getpid()))
    result.check(scores.tables["address"].get(HELD) is not None, "the held target was evicted")
    result.check(
        goes_on or seen < 40 * ADDED_EVERY, "who goes on attacking among all others never reached the threshold"
    )
    kept = scores.save()
    again = Scores(scores.settings)
    again.restore(kept)
    result.check(again.tables["address"].get(HELD) is not None, "the held target did not come back")
    warm = [size for at, size in enumerate(sizes, 1) if count * at // TENTHS >= WARM]
    if warm:
        result.check(max(warm) - warm[0] <= GROWTH_KIB, f"memory grew from {warm[0]:,} to {max(warm):,} KiB")
    result.figures |= {
        "events": f"{seen:,}",
        "findings": f"{findings:,}",
        "scores that reached a threshold": f"{reached:,}",
        "events per CPU second, matched and scored": f"{seen / max(spent, 0.001):,.0f}",
        "bytes that are kept": f"{len(kept):,}",
        "KiB after each tenth": " ".join(f"{size:,}" for size in sizes),
        "groups evicted": f"{detector.correlator.counts.groups_evicted:,}",
        "seconds": f"{time.monotonic() - began:.0f}",
    }
    result.figures |= {what: f"{number:,}" for what, number in scores.counted().items()}
    return result
