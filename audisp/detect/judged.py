"""What a rule's findings are worth: worked out once for each rule."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import attrs

from audisp.detect.correlate import Finding
from audisp.detect.form import MAX_RULES, Heading
from audisp.detect.prefilter import fields_of
from audisp.detect.weights import ScoreSettings

FIRM_LEVELS: Final = frozenset({"high", "critical"})
"""Levels whose findings may be part of what causes an act."""
TACTICS: Final = frozenset(
    {"reconnaissance", "resource-development", "initial-access", "execution", "persistence", "privilege-escalation"}
    | {"defense-evasion", "credential-access", "discovery", "lateral-movement", "collection", "command-and-control"}
    | {"exfiltration", "impact", "stealth", "defense-impairment"}
)
"""ATT&CK's for enterprises, as Sigma's tags have them. Other tags are no tactics, so that rules fill no table."""
MAX_REASON: Final = 100
"""Characters of a part of a reason, and twice that when some of them had to be written otherwise."""
MAX_ID: Final = 64
"""Characters of a rule's id: a UUID has 36. Of a longer one the hash."""
_ODD: Final = re.compile(r"[^ -~\xa1-\u02ff\u0370-\u1fff]")


@attrs.frozen
class Judged:
    """firm: whether it may be part of what causes an act. id: the rule's."""

    id: str
    weight: float
    firm: bool
    reason: str
    tactics: frozenset[str]


class Judges:
    """Remembers what it said, of as many rules as there may be."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._levels = settings.levels
        self._known: dict[int, tuple[Heading, Judged]] = {}

    def of(self, finding: Finding) -> Judged:
        """Of the rule behind a finding."""
        heading = finding.heading
        found = self._known.get(id(heading))
        if found is None:
            if len(self._known) > 2 * MAX_RULES:
                self._known.clear()
            # The heading is kept so that its address is not another's later.
            found = self._known[id(heading)] = (heading, self._judge(finding))
        return found[1]

    def _judge(self, finding: Finding) -> Judged:
        heading = finding.heading
        keyword = finding.hit is not None and None in fields_of(finding.hit.rule.condition)
        tags = (each.lower().replace("_", "-").removeprefix("attack.") for each in heading.tags)
        return Judged(
            heading.id
            if len(heading.id) <= MAX_ID
            else hashlib.blake2b(heading.id.encode(), digest_size=16).hexdigest(),
            self._levels.get(heading.level, 0),
            heading.level in FIRM_LEVELS and not keyword,
            f"{heading.level} rule, {shown(heading.title)}",
            frozenset(each for each in tags if each in TACTICS),
        )


def shown(text: str | bytes) -> str:
    """For a reason: cut, and nothing in it that steers a terminal or cannot be written as UTF-8."""
    given = text[:MAX_REASON]
    plain = given.decode("utf-8", "backslashreplace") if isinstance(given, bytes) else given
    return _ODD.sub(lambda found: ascii(found[0])[1:-1], plain)[: 2 * MAX_REASON]
