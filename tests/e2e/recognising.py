"""What the starter rules say of what the kernel writes, while it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from audisp.detect.correlate import Finding
from audisp.detect.detector import Detector
from audisp.detect.form import LEVELS, RuleSet
from audisp.event import as_batch
from audisp.hids.load import translate
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.e2e.attacks import Traces
from tests.e2e.stream import WORK_AUID, auditctl, wait_quiet
from tests.needs import ROOT

SIGMA: Final = ROOT / "conf" / "sigma.d"
RULES_D: Final = ROOT / "conf" / "rules.d"
AUDIT_RULES: Final = RULES_D / "30-audisp-hids.rules"
SEVERE: Final = LEVELS.index("high")
CLOCK_TICK: Final = 0.02
"""Seconds by which the kernel's stamp, which is a tick's, may be behind the clock."""
OURS: Final = f" auid={WORK_AUID} ".encode()
"""How the kernel marks records of an attack."""


def starter_rules() -> RuleSet:
    """conf/sigma.d, whoever owns the checkout."""
    return translate([(path.name, path.read_bytes()) for path in sorted(SIGMA.glob("*.yml"))])


def load_audit_rules(path: Path, folder: Path) -> None:
    """As an administrator does; from a copy, as auditctl wants its files to be root's."""
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o640)
    auditctl("-R", str(copy))


class Recogniser:
    """A log that grows, through the rules. It begins with what is in the log now."""

    def __init__(self, log: Path, rules: RuleSet) -> None:
        self.log = log
        self.detector = Detector(rules)
        self._at = 0
        self._assembler = Assembler("test", RecordReader(), recorded=True)

    def findings(self) -> list[Finding]:
        """What is found in the records of attacks since the last time, once the log is quiet."""
        wait_quiet(lambda: self.log.stat().st_size)
        with self.log.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._at += len(data)
        found: list[Finding] = []
        block = Block(data, data.count(b"\n"), "test", 0.0)
        for batch in (self._assembler.feed(block, 0.0), self._assembler.flush(0.0)):
            if batch is not None:
                found += self.detector.detect(as_batch(batch, self._assembler.reader))
        return [each for each in found if OURS in each.event.raw]


def severe(findings: list[Finding]) -> list[Finding]:
    """Those to which somebody would react."""
    return [each for each in findings if LEVELS.index(each.heading.level) >= SEVERE]


# ---- what of it is right ----


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
"""For each attack of `tests.e2e.attacks.ALL`."""


def wrong_with(name: str, findings: list[Finding], traces: Traces) -> str:
    """What is wrong with the severe findings of one attack; "" if they are what they must be."""
    expected = EXPECTED[name]
    titles = [each.heading.title for each in findings]
    meant = [each for each in findings if each.heading.title == expected.finding]
    if len(meant) != 1 or not set(titles) <= {expected.finding} | expected.also:
        return f"{name}: found was {titles}"
    if not expected.holds(meant[0], traces):
        return f"{name}: of somebody else than {traces}: {meant[0].event.raw!r}"
    stamp = meant[0].event.id
    if stamp.seconds + stamp.millis / 1000 < traces.time - CLOCK_TICK:
        return f"{name}: of an event before {traces.time}: {stamp}"
    return ""
