"""SigmaHQ's rules on the corpus: what must be found is, and nothing else; with and without prefilter alike."""

from __future__ import annotations

import csv
import lzma
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import pytest

from audisp.detect.correlate import Finding
from tests.detect.replaying import findings, sigma_rules
from tests.needs import CORPUS, needs

pytestmark = [needs("corpus"), pytest.mark.timeout(180)]

SERVICES: Final = {"sshd", "cron", "auth", "sudo", "syslog", "vsftpd", "clamav", "guacamole"}
MIXED_BYTES: Final = 2_000_000
"""Of mixed.log, compared without prefilter: its events repeat themselves every few megabytes."""
JUSTIFIED: Final = {
    "Local System Accounts Discovery - Linux": "the workload runs cat /etc/passwd, which is what the rule is for",
    "File and Directory Discovery - Linux": "the workload runs find, which is what the rule is for",
}
"""Rules that are true of events in mixed.log, and why that is right."""


def keys(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(each.heading.id, each.event.stamp, each.view) for each in found]


def rows(name: str) -> list[dict[str, str]]:
    with (CORPUS / name).open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_rule_loads_or_is_refused_with_its_reason() -> None:
    rules = sigma_rules()
    assert Counter(each.source for each in rules.rules) == {
        "process_creation": 144,
        "auditd": 54,
        "file_event": 18,
        "network_connection": 5,
    }
    assert len(rules.refused) == 27
    for each in rules.refused:
        service = each.reason.removeprefix("logsource: ").partition(":")[0].removeprefix("service ")
        assert service in SERVICES | {"no service"}, each.reason


def test_each_positive_fires_its_rule_and_no_other() -> None:
    found = defaultdict(set)
    for each in findings(sigma_rules(), CORPUS / "sigma_positive.log"):
        found[each.event.id.serial].add(each.heading.id)
    expected = rows("sigma_positive.tsv")
    assert len(expected) == 107
    allowed: dict[int, set[str]] = defaultdict(set)
    for row in expected:
        serial = int(row["serial"])
        assert row["rule_id"] in found[serial], row
        also = set(filter(None, row["also_fires"].split(",")))
        allowed[serial] |= {row["rule_id"], *also}
        # A rule about a parent has its start in the event before.
        allowed[serial - 1] |= also
    assert {serial: ids - allowed[serial] for serial, ids in found.items() if ids - allowed[serial]} == {}


def test_the_hits_in_public_logs_are_exactly_those() -> None:
    expected = Counter(
        (row["file"], row["rule_id"], f"{row['timestamp']}:{row['serial']}", row["view"])
        for row in rows("sigma_hits.tsv")
    )
    found: Counter[tuple[str, str, str, str]] = Counter()
    for path in sorted((CORPUS / "public").glob("*/*")):
        with_it = keys(findings(sigma_rules(), path))
        assert with_it == keys(findings(sigma_rules(), path, prefilter=False)), path
        found.update((str(path.relative_to(CORPUS)), *each) for each in with_it)
    assert found == expected


@pytest.mark.parametrize("name", ["nasty.log", "sigma_positive.log"])
def test_the_prefilter_changes_nothing(name: str) -> None:
    rules = sigma_rules()
    with_it = findings(rules, CORPUS / name)
    assert with_it
    assert keys(with_it) == keys(findings(rules, CORPUS / name, prefilter=False))


@pytest.mark.parametrize("name", ["mixed.log.xz", "mixed-enriched.log.xz"])
def test_in_a_mixed_log_only_what_is_justified(name: str, tmp_path: Path) -> None:
    rules = sigma_rules()
    found = findings(rules, CORPUS / name)
    assert {each.heading.title for each in found} == set(JUSTIFIED)
    part = tmp_path / "part.log"
    with lzma.open(CORPUS / name) as file:
        data = file.read(MIXED_BYTES)
    part.write_bytes(data[: data.rfind(b"\n") + 1])
    with_it = keys(findings(rules, part))
    assert with_it == keys(findings(rules, part, prefilter=False))
    assert with_it
