"""The starter rules: each is true of what it is about and not of what looks like it, and has its audit rules."""

from __future__ import annotations

import functools
import re
import uuid
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
import yaml

from audisp.cli.hids_check import report_on
from audisp.detect.auditrules import AuditRule, parse_rules
from audisp.detect.form import Correlation, Rule, RuleSet
from tests.detect.replaying import findings, fired
from tests.e2e.recognising import AUDIT_RULES, RULES_D, SIGMA, starter_rules
from tests.needs import CORPUS, ROOT, needs

EVENTS: Final = Path(__file__).with_name("starter_events.log")
UPSTREAM_KEYS: Final = {"ids-recon", "ids-mkexec", "ids-archive", "ids-connections"}


@functools.cache
def rules() -> RuleSet:
    """conf/sigma.d, translated once."""
    return starter_rules()


def loud() -> list[Rule | Correlation]:
    """Those that are findings."""
    every: list[Rule | Correlation] = [*rules().rules, *rules().correlations]
    return [each for each in every if not each.silent]


def sections() -> list[tuple[str, str, str]]:
    """Sign, title and records of each part of the file."""
    parts = re.split(r"^# ([+-]) (.+)\n", EVENTS.read_text(), flags=re.M)
    return list(zip(parts[1::3], parts[2::3], (each.strip() + "\n" for each in parts[3::3]), strict=True))


def audit_rules(path: Path) -> list[AuditRule]:
    """A file of conf/rules.d, of which every line is understood."""
    found, wrong = parse_rules(path.read_text(), path.name)
    assert wrong == []
    return found


def test_all_are_loaded_and_have_what_they_need() -> None:
    report = report_on(rules(), audit_rules(AUDIT_RULES), "")
    assert report.refused == ()
    assert report.never == {}
    assert report.partly == {}
    assert report.verdicts is not None
    missing = [
        (rule.heading.title, verdict.demand.line, verdict.narrowed)
        for rule in report.rules.rules
        for verdict in report.verdicts[rule.heading.id]
        if not verdict.met or verdict.narrowed
    ]
    assert missing == []


def test_without_the_audit_rules_it_is_said() -> None:
    report = report_on(rules(), [], "")
    assert report.verdicts is not None
    silent = [rule.heading.title for rule in report.rules.rules if all(v.met for v in report.verdicts[rule.heading.id])]
    # What comes by itself: PAM's messages, and the kernel's of its own configuration.
    assert set(silent) == {
        "A failed login (part of a brute-force attack)",
        "Login by password (part of a brute-force attack)",
        "The kernel no longer audits",
        "An audit rule was removed",
    }


@pytest.mark.parametrize("path", sorted(SIGMA.glob("*.yml")), ids=lambda path: path.stem)
def test_each_says_who_and_what(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert uuid.UUID(document["id"]).version == 4
        assert document["author"] == "audisp"
        # What serves a correlation is no finding, and needs no more than that.
        if "(part of " in document["title"]:
            continue
        assert document["description"]
        assert document["falsepositives"]
        assert document["level"] in ("low", "medium", "high", "critical")
        assert all(re.fullmatch(r"attack\.(t\d{4}(\.\d{3})?|[a-z-]+)", tag) for tag in document["tags"])
        assert any(re.match(r"attack\.t\d", tag) for tag in document["tags"])


def test_parts_are_silent_and_nothing_else() -> None:
    every: list[Rule | Correlation] = [*rules().rules, *rules().correlations]
    for each in every:
        assert each.silent is ("(part of " in each.heading.title), each.heading.title


def test_each_has_both_kinds_of_events() -> None:
    titles = sorted(each.heading.title for each in loud())
    assert sorted({title for sign, title, _ in sections() if sign == "+"}) == titles
    assert sorted({title for sign, title, _ in sections() if sign == "-"}) == titles


@pytest.mark.parametrize(("sign", "title", "records"), sections())
def test_events(sign: str, title: str, records: str) -> None:
    found = fired(rules(), records)
    assert (title in found) is (sign == "+"), found
    if sign == "+":
        assert found.count(title) == 1


def test_the_order_of_the_files() -> None:
    """Of several rules that an event fits, the first one's key is noted: that of the scores must come first."""
    files = sorted(path.name for path in RULES_D.iterdir())
    assert files == ["20-audisp-ids.rules", "30-audisp-hids.rules"]
    assert {key for rule in audit_rules(RULES_D / files[0]) for key in rule.keys} == UPSTREAM_KEYS
    ours = {key for rule in audit_rules(RULES_D / files[1]) for key in rule.keys}
    assert all(key.startswith("hids-") for key in ours)


def test_the_page_has_them_all() -> None:
    page = (ROOT / "docs" / "starter-rules.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (low|medium|high|critical) \| ", page, re.M)
    assert sorted(rows) == sorted((each.heading.title, each.heading.level) for each in loud())


@needs("corpus")
@pytest.mark.parametrize("name", ["mixed.log.xz", "mixed-enriched.log.xz"])
def test_nothing_else_on_a_busy_machine(name: str) -> None:
    """docs/starter-rules.md says why these are right."""
    found = Counter(each.heading.title for each in findings(rules(), CORPUS / name))
    assert found == {"Many failed logins from one address": 6, "Many failed logins to one account": 5}
