"""Which fields audit records can give, and so which rules can never be true.

A rule is read as if each question for a field that is never there were answered with no; if then nothing can make it
true, it is loaded, reported, and not asked. A rule that is only in part so is asked, and the part is reported.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Final

import attrs

from audisp.detect.form import Exists, Is, Node, Not, Null, Or, Rule, Source, Text
from audisp.detect.literals import types_of
from audisp.parse.types import type_number

_WHO: Final = ("Image", "CurrentDirectory", "User", "ProcessId", "ParentProcessId")
GIVEN: Final[dict[Source, tuple[str, ...]]] = {
    "process_creation": (*_WHO, "CommandLine", "ParentImage", "ParentCommandLine"),
    "file_event": (*_WHO, "TargetFilename"),
    "network_connection": (*_WHO, "DestinationIp", "DestinationPort", "DestinationIsIpv6", "Initiated"),
}
"""The fields of each view of an event. A record may have any."""
REASONS: Final = {
    "DestinationHostname": "a system call has an address, and no name",
    "LogonId": "Linux has audit sessions (ses), whose numbers say nothing about how somebody logged in",
    "LogonGuid": "Linux has no such thing",
    "IntegrityLevel": "Linux has no such thing",
    "OriginalFileName": "it is written in programs for Windows only",
    "Hashes": "the kernel does not read the file",
    "SourceIp": "connect(2) does not say where from",
    "SourcePort": "connect(2) does not say where from",
    "SourceHostname": "a system call has an address, and no name",
    "Protocol": "an address does not say which protocol",
}
"""Why a field cannot be had, where there is more to say than that it is not there."""


@attrs.frozen
class Judgement:
    """never: why the rule can never be true, "" if it can. parts: what in it is never true."""

    never: str
    parts: tuple[str, ...]


def judge(rule: Rule) -> Judgement:
    """What can be said of a rule before any event."""
    parts: dict[str, None] = {}

    def ask(node: Is) -> bool | None:
        reason = _impossible(node, rule)
        if reason is None:
            return None
        if isinstance(node.value, Null) or (isinstance(node.value, Exists) and not node.value.wanted):
            return True
        parts[reason] = None
        return False

    never = _fold(rule.condition, ask) is False or (rule.source == "auditd" and types_of(rule.condition) == frozenset())
    reasons = tuple(parts)
    if never:
        return Judgement("; ".join(reasons) or "it wants one record to be of two types", reasons)
    return Judgement("", reasons)


def _fold(node: Node, ask: Callable[[Is], bool | None]) -> bool | None:
    """Whether the condition is always true or never; None if that depends."""
    if isinstance(node, Is):
        return ask(node)
    if isinstance(node, Not):
        found = _fold(node.part, ask)
        return None if found is None else not found
    answers = [_fold(each, ask) for each in node.parts]
    decides = isinstance(node, Or)
    if decides in answers:
        return decides
    return None if None in answers else not decides


def _impossible(node: Is, rule: Rule) -> str | None:
    """Why no event can answer this question with yes."""
    field = node.field
    if rule.source != "auditd":
        if field is None or field in GIVEN[rule.source]:
            return None
        return f"{field} is not in {rule.source} of audit: {_why(field, GIVEN[rule.source])}"
    if field == "type" and isinstance(node.value, Text) and len(node.value.parts) == 1:
        name = str(node.value.parts[0]).upper()
        if not type_number(name.encode("utf-8", "surrogatepass")):
            return f"there is no record of type {name[:60]}"
    return None


def _why(field: str, given: tuple[str, ...]) -> str:
    reason = REASONS.get(field)
    if reason is not None:
        return reason
    near = difflib.get_close_matches(field, given, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(given)}"
