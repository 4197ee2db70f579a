"""The shipped audit rules on the live kernel: all of them can be loaded, and then check misses none."""

from __future__ import annotations

from pathlib import Path

import pytest

from audisp.cli.hids_check import kernel_rules, report_on
from audisp.detect.auditrules import parse_rules
from tests.e2e.recognising import AUDIT_RULES, RULES_D, load_audit_rules, starter_rules
from tests.e2e.stream import auditctl
from tests.needs import needs

pytestmark = [
    needs("root", "auditd"),
    pytest.mark.timeout(120, func_only=True),
    pytest.mark.usefixtures("audit"),
]


def listed() -> int:
    """How many rules the kernel has."""
    return sum(line.startswith("-") for line in auditctl("-l").splitlines())


def test_auditctl_takes_them(tmp_path: Path) -> None:
    count = 0
    for path in sorted(RULES_D.iterdir()):
        load_audit_rules(path, tmp_path)
        count += len(parse_rules(path.read_text(), path.name)[0])
        assert listed() == count


def test_the_kernel_has_what_the_starter_rules_need(tmp_path: Path) -> None:
    """As the kernel gives them back, which is not as they were written."""
    load_audit_rules(AUDIT_RULES, tmp_path)
    rules = starter_rules()
    report = report_on(rules, kernel_rules(), "")
    assert report.verdicts is not None
    lacking = [
        (verdict.demand.line, verdict.narrowed)
        for found in report.verdicts.values()
        for verdict in found
        if not verdict.met or verdict.narrowed
    ]
    assert lacking == []
