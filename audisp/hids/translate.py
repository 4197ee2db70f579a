"""From Sigma to our own form, by pySigma: a program of its own that reads rule files and writes one set of rules.

``python -I -m audisp.hids.translate`` reads ``[[name, bytes], ...]`` (msgpack) from standard input and writes what
`audisp.detect.form.encode` gives to standard output. It limits its own time, memory and files before it looks at a
rule, and gives up root's privileges: rules come from the Internet, and two parsers of some size read them. pySigma and
all that it imports live in this process alone.
"""

from __future__ import annotations

import difflib
import os
import resource
import sys
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]  # the package ships no types
import yaml
from sigma import conditions, exceptions, types
from sigma.correlations import SigmaCorrelationCondition, SigmaCorrelationRule
from sigma.rule import SigmaRule, SigmaYAMLLoader
from sigma.rule.base import check_alias_expansion

from audisp.detect import form
from audisp.detect.values import compile_regex
from audisp.errors import ParseError

CPU_SECONDS: Final = 120
"""The 248 files of SigmaHQ for Linux take one; all 4,000 of it some twenty."""
MEMORY: Final = 1 << 30
"""Bytes of address space. pySigma and its imports take 200 MiB of it before the first rule."""
NOBODY: Final = 65_534
"""uid and gid of the account that owns nothing."""
MAX_DOCUMENTS: Final = 1_000
"""In one file."""

# fmt: off
MODIFIERS: Final = frozenset({
    "contains", "startswith", "endswith", "all", "re", "i", "ignorecase", "m", "multiline", "s", "dotall", "cidr",
    "cased", "exists", "lt", "lte", "gt", "gte", "base64", "base64offset", "wide", "utf16", "utf16le", "utf16be",
    "windash",
})
"""Those whose result is one of our values. A modifier that is not here is refused, also if pySigma knows it: what is
not understood must not be taken for less than it says."""
# fmt: on
UNSEEN: Final = {
    "lt": "a number that stays low is nothing that happens",
    "lte": "a number that stays low is nothing that happens",
    "neq": "being unequal is true from the first event on",
}
"""Conditions of correlations that a stream cannot decide."""
FLAGS: Final = {"IGNORECASE": "i", "MULTILINE": "m", "DOTALL": "s"}
KEPT: Final = 500
"""Characters of a reason, a title or an author."""

WARM_UP: Final = b"""
title: warm up
id: 5f0d3c1e-0000-4000-8000-000000000000
logsource: {product: linux, service: auditd}
detection:
  a: {type: EXECVE, 'a0|re': 'x+', 'a1|cidr': 10.0.0.0/8, 'a2|contains': y}
  k: [z]
  condition: a and not 1 of k*
level: low
tags: [attack.execution, attack.t1059]
"""
"""Looked at before privileges are given up: what pySigma imports late must be readable."""


class NotOurs(Exception):
    """Why a document is no rule for us."""


class Translator:
    """One run. What it found is in its lists."""

    def __init__(self) -> None:
        self.rules: list[form.Rule] = []
        self.refused: list[form.Refused] = []
        self._correlations: list[tuple[form.Heading, SigmaCorrelationRule]] = []
        self._ids: dict[str, str] = {}
        """From id to the place of the document that has it."""

    def read(self, name: str, data: bytes) -> None:
        """All documents of one file."""
        try:
            loader = SigmaYAMLLoader(data.decode("utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            self._refuse(name, 1, {}, f"is no YAML in UTF-8: {_words(error)}")
            return
        line = 1
        documents = 0
        try:
            while loader.check_node():
                documents += 1
                if documents > MAX_DOCUMENTS:
                    raise NotOurs(f"more than {MAX_DOCUMENTS:,} documents")
                node = loader.get_node()
                assert node is not None  # check_node said so
                line = node.start_mark.line + 1
                self._document(name, line, loader.construct_document(node))
        except (yaml.YAMLError, NotOurs, ValueError, TypeError, RecursionError) as error:
            self._refuse(name, line, {}, f"is no YAML: {_words(error)}")
        finally:
            loader.dispose()

    def _document(self, name: str, line: int, given: object) -> None:
        if given is None:
            return
        if not isinstance(given, dict):
            self._refuse(name, line, {}, "is no map of keys and values")
            return
        try:
            # First of all: an alias of an alias of ... is small until somebody walks through it.
            check_alias_expansion(given)
            self._rule(name, line, given)
        except NotOurs as error:
            self._refuse(name, line, given, str(error))
        except (exceptions.SigmaError, ParseError) as error:
            self._refuse(name, line, given, _words(error))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            # pySigma believes the shape of what it reads.
            self._refuse(name, line, given, f"pySigma cannot read it: {type(error).__name__}: {_words(error)}")

    def _rule(self, name: str, line: int, given: dict[Any, Any]) -> None:
        if "action" in given:
            raise NotOurs("action: is no part of Sigma 2; write the documents out")
        if "filter" in given:
            raise NotOurs("filters for other rules are not applied here; put the exception into the rule")
        if "correlation" in given:
            correlation = SigmaCorrelationRule.from_dict(given)
            self._correlations.append((self._heading(correlation, name, line, ""), correlation))
            return
        source = _source(given.get("logsource"))
        _check_modifiers(given.get("detection"))
        rule = SigmaRule.from_dict(given)
        found = [_condition(each.parsed) for each in rule.detection.parsed_condition]
        condition = found[0] if len(found) == 1 else form.Or(tuple(found))
        form.unpack(form.pack(condition))  # as its reader will
        definition = given["logsource"].get("definition", "")
        heading = self._heading(rule, name, line, definition if isinstance(definition, str) else "")
        self.rules.append(form.Rule(heading, source, condition))

    def _heading(self, rule: SigmaRule | SigmaCorrelationRule, name: str, line: int, definition: str) -> form.Heading:
        id_ = str(rule.id) if rule.id else str(rule.name or f"{name}:{line}")
        if id_ in self._ids:
            raise NotOurs(f"has the id of {self._ids[id_]}: {id_}")
        self._ids[id_] = f"{name}:{line}"
        return form.Heading(
            id_,
            str(rule.title)[:KEPT],
            cast("form.Level", "informational" if rule.level is None else rule.level.name.lower()),
            name,
            line,
            str(rule.name or "")[:KEPT],
            str(rule.author or "")[:KEPT],
            tuple(f"{tag.namespace}.{tag.name}"[:KEPT] for tag in rule.tags[: form.MAX_LIST]),
            definition[: form.MAX_TEXT],
        )

    def _refuse(self, name: str, line: int, given: dict[Any, Any], reason: str) -> None:
        self.refused.append(
            form.Refused(
                name,
                line,
                str(given.get("id", ""))[:KEPT],
                str(given.get("title", ""))[:KEPT],
                reason[:KEPT] or "no reason",
            )
        )

    def finish(self) -> form.RuleSet:
        """The whole set, once all files were read: now correlations can be put together."""
        names = {each.heading.id: each.heading.id for each in self.rules}
        names |= {heading.id: heading.id for heading, _ in self._correlations}
        for heading in [each.heading for each in self.rules] + [heading for heading, _ in self._correlations]:
            if heading.name:
                names.setdefault(heading.name, heading.id)
        made: dict[str, form.Correlation] = {}
        silent: set[str] = set()
        left = list(self._correlations)
        usable = {each.heading.id for each in self.rules}
        while left:
            ready = [each for each in left if all(names.get(ref.reference) in usable for ref in each[1].rules or ())]
            if not ready:
                break
            for heading, rule in ready:
                left.remove((heading, rule))
                try:
                    made[heading.id] = _correlation(heading, rule, names)
                except (NotOurs, exceptions.SigmaError) as error:
                    self.refused.append(
                        form.Refused(heading.where, heading.line, heading.id, heading.title, _words(error)[:KEPT])
                    )
                    continue
                usable.add(heading.id)
                if not rule.generate:
                    silent.update(made[heading.id].rules)
        for heading, rule in left:
            missing = [ref.reference for ref in rule.rules or () if names.get(ref.reference) not in usable]
            near = difflib.get_close_matches(missing[0], names, 1)
            hint = f"; did you mean {near[0]}?" if near and near[0] != missing[0] else ""
            reason = f"correlation: rules: {missing[0]} is not there, was refused, or waits for this one{hint}"
            self.refused.append(form.Refused(heading.where, heading.line, heading.id, heading.title, reason[:KEPT]))
        return form.RuleSet(
            tuple(form.Rule(e.heading, e.source, e.condition, e.heading.id in silent) for e in self.rules),
            tuple(_with_silence(each, each.heading.id in silent) for each in made.values()),
            tuple(self.refused),
        )


def _with_silence(rule: form.Correlation, silent: bool) -> form.Correlation:
    return form.Correlation(
        rule.heading, rule.kind, rule.rules, rule.timespan, rule.group_by, rule.count, rule.fields, rule.aliases, silent
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _source(given: object) -> form.Source:
    """Which view a ``logsource`` means. Raises NotOurs."""
    if not isinstance(given, dict):
        raise NotOurs("logsource: is no map")
    product, category, service = (given.get(key) for key in ("product", "category", "service"))
    if product not in (None, "linux"):
        raise NotOurs(f"logsource: product {product}: audit records are linux's")
    if category in form.SOURCES[1:] and service in (None, "auditd"):
        return cast("form.Source", category)
    if category is None and service == "auditd":
        return "auditd"
    said = ", ".join(f"{key} {value}" for key, value in (("category", category), ("service", service)) if value)
    raise NotOurs(
        f"logsource: {said or 'no service'}: is not in audit records, which have service auditd, and category "
        "process_creation, file_event and network_connection"
    )


def _check_modifiers(detection: object) -> None:
    """Raises NotOurs for a modifier that we do not know."""
    if not isinstance(detection, dict):
        return
    if "timeframe" in detection:
        raise NotOurs("detection: timeframe: is no part of Sigma 2; write a correlation")
    waiting: list[object] = [value for key, value in detection.items() if key != "condition"]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            for key, value in each.items():
                waiting.append(value)
                field, *modifiers = str(key).split("|")
                for word in modifiers:
                    if word not in MODIFIERS:
                        near = difflib.get_close_matches(word, MODIFIERS, 1)
                        hint = f"; did you mean {near[0]}?" if near else ""
                        raise NotOurs(
                            f"detection: {field or 'keywords'}|{word}: modifier {word} is not known here{hint}"
                        )


def _condition(node: Any) -> form.Node:
    """A parsed condition of pySigma's as ours."""
    match node:
        case conditions.ConditionAND():
            return form.And(tuple(_condition(each) for each in node.args))
        case conditions.ConditionOR():
            return form.Or(tuple(_condition(each) for each in node.args))
        case conditions.ConditionNOT():
            return form.Not(_condition(node.args[0]))
        case conditions.ConditionFieldEqualsValueExpression():
            return _values(node.field, node.value)
        case conditions.ConditionValueExpression():
            return _values(None, node.value)
    raise NotOurs(f"condition: {type(node).__name__} is not known here")


def _values(field: str | None, value: Any) -> form.Node:
    if isinstance(value, types.SigmaExpansion):
        return form.Or(tuple(_values(field, each) for each in value.values))
    if field is not None and not isinstance(field, str):
        raise NotOurs(f"detection: {field!r} is no field's name")
    return form.Is(field, _value(field, value))


def _value(field: str | None, value: Any) -> form.Value:
    match value:
        case types.SigmaString():
            return _text(field, value)
        case types.SigmaTimestampPart():
            pass
        case types.SigmaNumber():
            return _plain(field, str(value.number))
        case types.SigmaBool():
            return _plain(field, "true" if value.boolean else "false")
        case types.SigmaRegularExpression():
            flags = "".join(sorted(FLAGS[flag.name] for flag in value.flags))
            compile_regex(str(value.regexp), flags)
            return form.Regex(str(value.regexp), flags)
        case types.SigmaCIDRExpression():
            return form.Network(value.cidr)
        case types.SigmaCompareExpression():
            return form.Compare(cast("form.Comparison", value.op.name.lower()), value.number.number)
        case types.SigmaExists():
            return form.Exists(bool(value))
        case types.SigmaNull():
            return form.Null()
    raise NotOurs(f"detection: {field or 'keywords'}: {type(value).__name__} is not known here")


def _text(field: str | None, value: types.SigmaString) -> form.Text:
    parts: list[form.Part] = []
    for part in value.s:
        if isinstance(part, str):
            if part:
                parts.append(part)
        elif part is types.SpecialChars.WILDCARD_MULTI:
            if not parts or parts[-1] != form.ANY:
                parts.append(form.ANY)
        elif part is types.SpecialChars.WILDCARD_SINGLE:
            parts.append(form.ONE)
        else:
            raise NotOurs(f"detection: {field or 'keywords'}: placeholders are not known here")
    if field is None:
        parts = _within(parts)
    return form.Text(tuple(parts), isinstance(value, types.SigmaCasedString))


def _plain(field: str | None, text: str) -> form.Text:
    return form.Text(tuple([text] if field is not None else _within([text])))


def _within(parts: list[form.Part]) -> list[form.Part]:
    """A keyword is looked for anywhere in the text."""
    if not parts or parts[0] != form.ANY:
        parts = [form.ANY, *parts]
    return parts if parts[-1] == form.ANY and len(parts) > 1 else [*parts, form.ANY]


def _correlation(heading: form.Heading, rule: SigmaCorrelationRule, names: dict[str, str]) -> form.Correlation:
    kind = rule.type.name.lower()
    if kind not in form.KINDS:
        raise NotOurs(f"correlation: type {kind}: known are {', '.join(form.KINDS)}")
    if not isinstance(rule.condition, SigmaCorrelationCondition):
        raise NotOurs("correlation: condition: expressions of rules are not known here")
    rules = tuple(dict.fromkeys(names[each.reference] for each in rule.rules or ()))
    count = len(rules)
    fields: tuple[str, ...] = ()
    if kind in ("event_count", "value_count"):
        op = rule.condition.op.name.lower()
        if op in UNSEEN:
            raise NotOurs(f"correlation: condition: {op}: {UNSEEN[op]}")
        if not isinstance(rule.condition.count, int):
            raise NotOurs("correlation: condition: not a whole number")
        count = rule.condition.count + (op == "gt")
        if not 1 <= count <= form.MAX_COUNT:
            raise NotOurs(f"correlation: condition: {count:,} is not from 1 to {form.MAX_COUNT:,}")
        named = rule.condition.fieldref
        fields = () if named is None or kind == "event_count" else (named,) if isinstance(named, str) else tuple(named)
    if not 1 <= rule.timespan.seconds <= form.MAX_TIMESPAN:
        raise NotOurs(f"correlation: timespan: {rule.timespan.spec} is more than a year")
    aliases = tuple(
        (alias.alias, tuple((names.get(ref.reference, ref.reference), field) for ref, field in alias.mapping.items()))
        for alias in rule.aliases
    )
    return form.Correlation(
        heading,
        cast("form.Kind", kind),
        rules,
        rule.timespan.seconds,
        tuple(rule.group_by or ()),
        count,
        fields,
        aliases,
    )


def confine() -> None:
    """Limits that cannot be taken back, and no privileges."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Translator().read("warm up", WARM_UP)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def main() -> int:
    """Standard input to standard output. Exit status 1: what came in is not what the other side writes."""
    confine()
    given = msgpack.unpackb(sys.stdin.buffer.read())
    translator = Translator()
    for name, data in given:
        translator.read(name, data)
    sys.stdout.buffer.write(form.encode(translator.finish()))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
