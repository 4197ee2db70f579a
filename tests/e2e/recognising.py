"""What the starter rules say of what the kernel writes, while it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from audisp.detect.correlate import Finding
from audisp.detect.detector import Detector
from audisp.detect.form import LEVELS, RuleSet
from audisp.event import as_batch
from audisp.hids.load import translate
from audisp.parse.assemble import Assembler
from audisp.parse.record import RecordReader
from audisp.record import Block
from tests.e2e.stream import WORK_AUID, auditctl, wait_quiet
from tests.needs import ROOT

SIGMA: Final = ROOT / "conf" / "sigma.d"
RULES_D: Final = ROOT / "conf" / "rules.d"
AUDIT_RULES: Final = RULES_D / "30-audisp-hids.rules"
SEVERE: Final = LEVELS.index("high")
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
