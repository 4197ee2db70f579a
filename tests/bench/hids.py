"""Part `hids`: rules on events, on one core: SigmaHQ's rules for Linux, where the corpus is at hand.

Seconds are of CPU, which on a machine that others use says more than those on the wall; beside each stands the spread.
`naive` asks every rule of every view of each event that it could be for, as a matcher without an index does.
"""

from __future__ import annotations

import gc
import lzma
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from audisp.cli.cat import COLLECT
from audisp.cli.hids_test import replay
from audisp.detect.condition import compile_condition
from audisp.detect.detector import Detector
from audisp.detect.form import RuleSet
from audisp.detect.scores import Scores
from audisp.detect.views import EventViews
from audisp.event import Batch, Run, runs
from audisp.hids.load import load
from audisp.parse.record import RecordReader
from tests.bench.figures import table
from tests.bench.kernel import Unavailable
from tests.bench.setting import Setting
from tests.needs import CORPUS

EVENTS: Final = 20_000
"""Of each synthetic kind."""
NAIVE: Final = 2_000
"""Events that the naive matcher gets: it takes a second for them."""
PER_BATCH: Final = 256
"""Events of a batch, as a source's block of 256 KiB has them."""
PROGRAMS: Final = ("gcc", "make", "sort", "sed", "postgres", "node_exporter", "cc1", "tar-helper", "rsyslogd", "perl5")


def exec_events(count: int) -> list[Run]:
    """Starts of programs that no rule is about: six records each, no two alike."""
    found: list[Run] = []
    for at in range(count):
        head = b"audit(17%08d.%03d:%d):" % (at // 7, at % 1000, at)
        name = PROGRAMS[at % len(PROGRAMS)].encode()
        words = [name, b"-O2", b"src/module%d.c" % at, b"--out=build/%d.o" % at]
        lines = (
            b"type=SYSCALL msg=%b arch=c000003e syscall=59 success=yes exit=0 a0=55%010x a1=55%010x a2=55%010x a3=8 "
            b"items=2 ppid=%d pid=%d auid=1000 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 "
            b'fsgid=1000 tty=pts1 ses=7 comm="%b" exe="/usr/lib/build/%b" subj=unconfined key="exec"\n'
            % (head, at, at + 7, at + 9, 1000 + at % 900, 20000 + at, name, name),
            b"type=EXECVE msg=%b argc=4 " % head
            + b" ".join(b'a%d="%b"' % (number, word) for number, word in enumerate(words))
            + b"\n",
            b'type=CWD msg=%b cwd="/home/build/project"\n' % head,
            b'type=PATH msg=%b item=0 name="/usr/lib/build/%b" inode=%d dev=08:01 mode=0100755 ouid=0 ogid=0 '
            b"rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0\n" % (head, name, at),
            b'type=PATH msg=%b item=1 name="/lib64/ld-linux-x86-64.so.2" inode=7 dev=08:01 mode=0100755 ouid=0 ogid=0 '
            b"rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0\n" % head,
            b"type=PROCTITLE msg=%b proctitle=%b\n" % (head, b"\0".join(words).hex().upper().encode()),
        )
        found.append((b"".join(lines), b"", head))
    return found


def open_events(count: int) -> list[Run]:
    """Files opened for reading that no rule is about: three records each."""
    found: list[Run] = []
    for at in range(count):
        head = b"audit(17%08d.%03d:%d):" % (at // 7, at % 1000, at)
        lines = (
            b"type=SYSCALL msg=%b arch=c000003e syscall=257 success=yes exit=3 a0=ffffff9c a1=7f%010x a2=80000 a3=0 "
            b"items=1 ppid=%d pid=%d auid=1000 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 "
            b'fsgid=1000 tty=pts1 ses=7 comm="postgres" exe="/usr/lib/pg/postgres" subj=unconfined key=(null)\n'
            % (head, at, at % 900, 2000 + at % 5000),
            b'type=CWD msg=%b cwd="/srv/data"\n' % head,
            b'type=PATH msg=%b item=0 name="/srv/data/table%d" inode=%d dev=08:01 mode=0100600 ouid=26 ogid=26 '
            b"rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0\n" % (head, at, at),
        )
        found.append((b"".join(lines), b"", head))
    return found


def batches(found: list[Run]) -> list[Batch]:
    """As an assembler gives them; new ones each time, for nothing in them may be remembered."""
    reader = RecordReader()
    out = []
    for start in range(0, len(found), PER_BATCH):
        part = found[start : start + PER_BATCH]
        data = b"".join([run[0] for run in part])
        batch = Batch(data, data.count(b"\n"), "bench", 0.0, reader)
        batch.found = part
        out.append(batch)
    return out


def _clocked(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def matched(rules: RuleSet, found: list[Run]) -> float:
    """Seconds to match assembled events."""
    detector, ready = Detector(rules), batches(found)
    return _clocked(lambda: [detector.detect(each) for each in ready])


def scored(rules: RuleSet, found: list[Run]) -> float:
    """Seconds to match assembled events, and to score them and what was found."""
    scores = Scores()
    detector, ready = Detector(rules, watched=scores.watched), batches(found)
    return _clocked(lambda: [scores.feed(each, detector.detect(each), detector.scan) for each in ready])


def naive(rules: RuleSet, found: list[Run]) -> float:
    """Seconds of a matcher without index, types or prefilter."""
    asks = [(each.source, compile_condition(each.condition)) for each in rules.rules]
    ready = batches(found)

    def work() -> int:
        hits = 0
        for batch in ready:
            for event in batch.events:
                views = EventViews(event)
                records = [view for kind in views.lines for view in views.records(kind)]
                for source, ask in asks:
                    seen = records if source == "auditd" else views.of(source)
                    hits += any(ask(view) for view in seen)
        return hits

    return _clocked(work)


def whole(rules: RuleSet, path: Path, *, scoring: bool) -> float:
    """Seconds from a file to its findings: reading, assembling, views, matching; and to its scores."""
    scores = Scores() if scoring else None
    detector = Detector(rules, watched=() if scores is None else scores.watched)
    return _clocked(lambda: replay([str(path)], detector, lambda _: None, scores))


def run(setting: Setting) -> str:
    """One table. Raises Unavailable without the corpus."""
    if not (CORPUS / "sigma").is_dir():
        raise Unavailable(f"{CORPUS}/sigma is missing")
    gc.set_threshold(*COLLECT)  # as the command has it
    rules = load([CORPUS / "sigma"])
    count = setting.sized(EVENTS, PER_BATCH)
    log = setting.place.fresh("hids") / "mixed.log"
    with lzma.open(CORPUS / "mixed.log.xz") as file:
        log.write_bytes(file.read())
    mixed = runs(log.read_bytes())
    starts = [each for each in mixed if b"type=EXECVE " in each[0]]
    kinds: dict[str, list[Run]] = {
        "exec, synthetic (6 records)": exec_events(count),
        "open, synthetic (3 records)": open_events(count),
        "mixed.log, its starts of programs": starts,
        "mixed.log": mixed,
    }
    rows = []
    for name, found in kinds.items():
        setting.note(f"hids: {name}")
        rows.append(_row(f"{name}: matched", len(found), [matched(rules, found) for _ in range(setting.runs)]))
        rows.append(
            _row(f"{name}: matched and scored", len(found), [scored(rules, found) for _ in range(setting.runs)])
        )
        part = found[:: max(1, len(found) // NAIVE)]
        rows.append(_row(f"{name}: naive", len(part), [naive(rules, part) for _ in range(min(3, setting.runs))]))
    # One after the other, so that whoever else uses the machine hurts both.
    ways: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(setting.runs):
        for scoring, seconds in ways.items():
            seconds.append(whole(rules, log, scoring=scoring))
    rows.append(_row("mixed.log: file to findings", len(mixed), ways[False]))
    rows.append(_row("mixed.log: file to findings and scores", len(mixed), ways[True]))
    head = ["what", "events", "CPU s, median", "events/s per core, median [min..max]"]
    return table(f"hids: {len(rules.rules)} rules", head, rows)


def _row(name: str, events: int, seconds: list[float]) -> list[str]:
    middle = statistics.median(seconds)
    return [
        name,
        f"{events:,}",
        f"{middle:.2f}",
        f"{events / middle:,.0f} [{events / max(seconds):,.0f}..{events / min(seconds):,.0f}]",
    ]
