"""`audisp hids check`: which rules can be used, and which audit rules they need."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from audisp.config.files import MAX_FILE
from audisp.detect.auditrules import AuditRule, parse_rules, unpack_rule
from audisp.detect.demand import Verdict, demands_of, verdicts
from audisp.detect.fields import judge
from audisp.detect.form import Refused, Rule, RuleSet
from audisp.detect.matcher import compile_rules
from audisp.errors import ConfigError, ParseError, SourceError
from audisp.hids.load import load
from audisp.parse.form import terminal_safe
from audisp.sources.kernel import Control

OK: Final = 0
"""Exit status: every rule for audit records is loaded."""
REFUSED: Final = 1
"""Some are not."""
FOREIGN: Final = "logsource: "
"""How the reason begins for a rule that is for other logs: nothing is wrong with it."""


@attrs.frozen
class Report:
    """What there is to say. verdicts: by rule's id; None: it is not known which audit rules there are, `unknown` says
    why."""

    rules: RuleSet
    refused: tuple[Refused, ...]
    never: dict[str, str]
    partly: dict[str, tuple[str, ...]]
    verdicts: dict[str, list[Verdict]] | None
    unknown: str

    @property
    def usable(self) -> list[Rule]:
        """Rules that can fire."""
        without = set(self.never) | {each.id for each in self.refused}
        return [each for each in self.rules.rules if each.heading.id not in without]


def report_on(rules: RuleSet, loaded: Sequence[AuditRule] | None, unknown: str) -> Report:
    """Judge a set of rules. loaded: the audit rules; None if they are not known."""
    _, uncompiled = compile_rules(rules.rules)
    refused = list(rules.refused)
    for rule, reason in uncompiled:
        heading = rule.heading
        refused.append(Refused(heading.where, heading.line, heading.id, heading.title, reason))
    judged = {each.heading.id: judge(each) for each in rules.rules}
    return Report(
        rules,
        tuple(refused),
        {id_: each.never for id_, each in judged.items() if each.never},
        {id_: each.parts for id_, each in judged.items() if each.parts and not each.never},
        {each.heading.id: verdicts(demands_of(each), loaded or ()) for each in rules.rules},
        unknown if loaded is None else "",
    )


def kernel_rules() -> list[AuditRule]:
    """What the kernel has loaded. Raises SourceError or OSError; asking changes nothing."""
    control = Control()
    try:
        return [unpack_rule(each) for each in control.rules()]
    finally:
        control.close()


def file_rules(path: Path) -> list[AuditRule]:
    """A file of auditctl's lines. Raises ConfigError if it cannot be read; lines that are wrong are said on stderr."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"is longer than {MAX_FILE:,} bytes", path=path)
    rules, wrong = parse_rules(data.decode("utf-8", "surrogateescape"), str(path))
    for each in wrong:
        print(f"audisp hids check: {terminal_safe(each)}", file=sys.stderr)
    return rules


def check(paths: list[Path], audit_rules: Path | None, *, as_json: bool) -> int:
    """Print the report; returns the exit status. Raises ConfigError for rules that cannot be read."""
    rules = load(paths)
    loaded: list[AuditRule] | None = None
    unknown = ""
    try:
        loaded = kernel_rules() if audit_rules is None else file_rules(audit_rules)
    except (SourceError, ParseError) as error:
        unknown = str(error)
    except OSError as error:
        unknown = f"the kernel does not list its audit rules: {error.strerror}"
    report = report_on(rules, loaded, unknown)
    if as_json:
        print(json.dumps(as_object(report)))
    else:
        print("\n".join(terminal_safe(line) for line in lines_of(report)))
    ours = [each for each in report.refused if not each.reason.startswith(FOREIGN)]
    return REFUSED if ours else OK


def as_object(report: Report) -> dict[str, Any]:
    """The report for programs: `docs/hids.md` names the keys."""
    loaded = []
    for rule in report.rules.rules:
        heading = rule.heading
        each: dict[str, Any] = {
            "rule_id": heading.id,
            "title": heading.title,
            "level": heading.level,
            "source": rule.source,
            "rule": heading.where,
            "needs": [
                {"line": v.demand.line, "met": None if report.unknown else v.met, "narrowed": list(v.narrowed)}
                for v in (report.verdicts or {}).get(heading.id, ())
            ],
        }
        if heading.id in report.never:
            each["cannot_fire"] = report.never[heading.id]
        if heading.id in report.partly:
            each["never_true"] = list(report.partly[heading.id])
        loaded.append(each)
    return {
        "loaded": loaded,
        "correlations": [{"rule_id": e.heading.id, "title": e.heading.title} for e in report.rules.correlations],
        "refused": [
            {"rule": e.where, "line": e.line, "rule_id": e.id, "title": e.title, "reason": e.reason}
            for e in report.refused
        ],
        "audit_rules_unknown": report.unknown or None,
    }


def lines_of(report: Report) -> list[str]:
    """The report for people: what is wrong first, what is missing for whom, and a summary at the end."""
    lines = [f"{each.where}:{each.line}: refused: {each.reason}" for each in report.refused]
    headings = {each.heading.id: each.heading for each in report.rules.rules}
    for id_, reason in report.never.items():
        lines.append(f"{headings[id_].where}:{headings[id_].line}: loaded, cannot fire: {reason}")
    for id_, parts in report.partly.items():
        lines.append(f"{headings[id_].where}:{headings[id_].line}: loaded, never true in it: {'; '.join(parts)}")
    lines += _needs(report)
    silent = len(report.never)
    lines.append(
        f"{len(report.rules.rules)} rules and {len(report.rules.correlations)} correlations loaded, "
        f"{silent} of them cannot fire; {len(report.refused)} refused"
    )
    return lines


def _needs(report: Report) -> list[str]:
    """Each audit rule that is needed, with the Sigma rules that need it; the missing ones first."""
    wanted: dict[str, tuple[Verdict, list[str]]] = {}
    for rule in report.usable:
        for verdict in (report.verdicts or {}).get(rule.heading.id, ()):
            wanted.setdefault(verdict.demand.line, (verdict, []))[1].append(rule.heading.title)
    lines = []
    if report.unknown:
        lines.append(f"which audit rules are missing is not known: {report.unknown}")
    for line, (verdict, titles) in sorted(wanted.items(), key=lambda item: (item[1][0].met, -len(item[1][1]))):
        state = "needed" if report.unknown else "missing" if not verdict.met else "there"
        if verdict.narrowed:
            state += f", but only with {', '.join(verdict.narrowed)}"
        lines.append(f"audit rule {state}: {line}  ({_few(titles)})")
    return lines


def _few(titles: list[str]) -> str:
    rest = len(titles) - 3
    return "; ".join(titles[:3]) + (f"; and {rest} more" if rest > 0 else "")
