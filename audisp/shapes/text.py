"""text: one English sentence per event, for people.

    At 14:03:21.482 on 2026-11-26 UTC, alice, acting as root, successfully executed /usr/bin/id (id -u), event 317

Who and what come from the normaliser (`audisp.shapes.normal`), the words are ours. What the audited wrote is one word
each, in quotes if it is not plain, with everything escaped that a terminal acts on, so that no name can pass for a part
of the sentence.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final

import attrs

from audisp.event import Event
from audisp.parse import values
from audisp.parse.interpret import interpret
from audisp.parse.memo import Memo
from audisp.parse.record import Record, arguments
from audisp.parse.values import from_text
from audisp.shapes.normal import SYSTEM, TRIGGERED, UNTRIGGERED, Call, Normal, Normaliser, rows
from audisp.shapes.normal_calls import Calls, single
from audisp.shapes.normal_values import Reader
from audisp.shapes.shape import ShapeSettings
from audisp.shapes.text_words import NOUNS, PREPOSITIONS, VERBS, peer, word

DECISIONS: Final = frozenset({"AVC", "USER_AVC", "1400", "1107"})
"""Records of what a security module decided."""
LONGEST_COMMAND: Final = 2_048
"""Characters of a command line from which on no further argument is shown."""
PAIRS: Final = frozenset({"renamed"})
"""Actions with a second object: what something is called afterwards."""
_UNKNOWN: Final = re.compile(r"unknown\(([0-9]{1,10})\)\Z")


@attrs.frozen
class Shown:
    """A call as the sentence has it. left: what comes before the object. nothing: stands for one that is not known.

    tail: what comes after it; right: the same without the program, how. program: the object is a program, and has
    arguments. pair: the second object is its new name.
    """

    left: str
    nothing: str
    tail: str
    right: str
    how: str
    program: bool
    pair: bool


class Text:
    """The shape."""

    name = "text"

    def __init__(self, settings: ShapeSettings) -> None:
        self._reader = Reader(settings.names)
        self._normaliser = Normaliser(self._reader)
        self._calls: Calls[Shown] = Calls(self._normaliser, self._call, word, peer, PAIRS)
        self._commands: Memo[str] = Memo()
        self._singles: Memo[str] = Memo()
        self._second = b""
        self._clock = self._day = ""
        self._node, self._host = b"", ""

    def render(self, event: Event) -> bytes:
        """The event's sentence; b"" for an EOE alone and for a line that belongs to no event."""
        return self.render_all((event,))[0]

    def render_all(self, events: Iterable[Event]) -> list[bytes]:
        """The sentences of several events: what `render` gives for each."""
        out = []
        read, commands = self._calls.read, self._commands.get
        for event in events:
            node, head = event.same
            if not head:
                out.append(b"")
                continue
            second, _, rest = head.partition(b".")
            if second != self._second:
                self._second = second
                self._clock = event.time.strftime("At %H:%M:%S.")
                self._day = event.time.strftime(" on %Y-%m-%d UTC, ")
            if node != self._node:
                self._node = node
                self._host = f"host {word(event.node)}, " if node else ""
            millis, _, serial = rest[:-2].decode("ascii").partition(":")
            found = read(event)
            if found is None:
                said = self._say(event)
                if not said:
                    out.append(b"")
                    continue
                line = f"{self._clock}{millis:0>3}{self._day}{self._host}{said}, event {serial}\n"
            else:
                shown, (object_, object2, _), execve = found
                right = shown.tail
                if shown.program:
                    if object_ == shown.how:
                        right = shown.right
                    object_ = object_ or shown.nothing
                    if execve is not None:
                        object_ = f"{object_} ({commands(execve) or self._command(execve)})"
                elif not object_:
                    object_ = shown.nothing
                elif shown.pair and object2:
                    object_ = f"{object_} to {object2}"
                line = f"{self._clock}{millis:0>3}{self._day}{self._host}{shown.left}{object_}{right}, event {serial}\n"
            out.append(line.encode())
        return out

    # ---- a plain system call ----

    def _call(self, call: Call, record: Record) -> Shown:
        rule = call.rule
        verbs = VERBS.get(rule.action, ("", ""))
        nothing = NOUNS.get(rule.kind, "")
        if rule in (TRIGGERED, UNTRIGGERED):
            verbs, nothing = ("called", "call"), ""
        left = f"{who(call.subject, call.acting)} {did(verbs, call.result)}"
        if rule in (TRIGGERED, UNTRIGGERED):
            left += f" {self._called(record, call)}"
        elif nothing or rule.field:
            left += " "
        failure = self._failure(record, call.result)
        key = f", key {word(call.key)}" if call.key else ""
        return Shown(
            left,
            nothing,
            failure + using(call.how) + key,
            failure + key,
            word(call.how),
            rule.action == "executed",
            rule.action in PAIRS,
        )

    def _called(self, record: Record, call: Call) -> str:
        """The system call, where nothing else is known."""
        return word(call.name) if call.name else f"the system call {word(record.get('syscall') or '?')}"

    def _failure(self, record: Record, result: str) -> str:
        """Why it failed, in brackets."""
        code = record.raw("exit")
        if result != "failed" or code is None or code[:1] != "-":
            return ""
        name, _, text = self._shown(record, "exit").partition("(")
        return f" ({word(name)}: {text[:-1]})" if text else f" ({word(code)})"

    def _shown(self, record: Record, name: str) -> str:
        return interpret(record.type, name, record.raw(name) or "", record.fields, self._reader.names)

    def _command(self, body: str) -> str:
        command = command_line(plain_arguments(body) or arguments([Record("EXECVE", body.removesuffix("\r"))])[0])
        self._commands.put(body, command, len(body) + len(command))
        return command

    # ---- anything else ----

    def _say(self, event: Event) -> str:
        key = single(event)
        if key is not None:
            said = self._singles.get(key)
            if said is not None:
                return said
        normal = self._normaliser.normal(event)
        said = "" if normal is None else self._sentence(event, normal)
        if key is not None:
            self._singles.put(key, said, len(key) + len(said))
        return said

    def _sentence(self, event: Event, normal: Normal) -> str:
        first = event.records[0]
        call = event.first("SYSCALL")
        said = None if call is None else self._normaliser.call(call)
        decision = next((each for each in event.records if each.type in DECISIONS), None)
        subject = normal.subject or (SYSTEM if normal.subject_kind == SYSTEM else "")
        object_ = account(normal.object) if normal.object else NOUNS.get(normal.object_kind, "")
        verbs, result = self._verbs(normal), normal.result
        if decision is not None:
            verbs, object_ = decided(decision, object_ if normal.object else "")
            subject, result = subject or decision.get("profile") or "", ""
        elif said is not None and call is not None and normal.action.startswith("triggered-"):
            verbs, object_ = ("called", "call"), self._called(call, said)
        elif normal.action == "did-unknown":
            object_, result = f"{word(first.type)} saying {word(from_text(first.body))}", ""
        elif normal.action == "sent-message":
            object_ = f"saying {word(from_text(first.parts()[1] or first.body))}"
        if normal.action == "executed" and event.argv:
            object_ += f" ({command_line(event.argv)})"
        if not object_ and verbs[0].rpartition(" ")[2] in PREPOSITIONS:
            object_ = "something"
        middle = f" {object_}" if object_ else ""
        failure = "" if call is None else self._failure(call, normal.result)
        way = f" with {word(normal.how)}" if normal.type == "ANOM_ABEND" and normal.how else using(normal.how)
        where = "" if normal.action == "sent-message" else source(first)
        keys = f", key {word(event.keys[0])}" if event.keys else ""
        return f"{who(subject, normal.acting)} {did(verbs, result)}{middle}{failure}{way}{where}{keys}"

    def _verbs(self, normal: Normal) -> tuple[str, str]:
        found = VERBS.get(normal.action)
        if found is not None:
            return found
        action = normal.action
        if action in table_actions():
            return action.replace("-", " "), f"do what is called {action}"
        return f"did {word(action)} to", f"do {word(action)} to"


@functools.cache
def table_actions() -> frozenset[str]:
    """Actions of the normaliser's tables: words that no record can change."""
    return frozenset(row.action for row in rows().values())


def account(name: str) -> str:
    """An account's name, or its number if it has none. Anything else is a word."""
    number = _UNKNOWN.match(name)
    return f"uid {number[1]}" if number else word(name)


def who(subject: str, acting: str) -> str:
    """``alice, acting as root,``. Whom nobody logged in for is the system; of whom nothing is known is somebody."""
    if acting == "unset":
        acting = ""
    if not subject:
        return account(acting) if acting else "somebody"
    name = "the system" if subject == SYSTEM else account(subject)
    return name if not acting or acting == subject else f"{name}, acting as {account(acting)},"


def did(verbs: tuple[str, str], result: str) -> str:
    """What was done or tried. result: of the normaliser; "" says neither."""
    if result == "failed":
        return f"failed to {verbs[1]}"
    return f"successfully {verbs[0]}" if result else verbs[0]


def using(how: str) -> str:
    """The program."""
    return f" using {word(how)}" if how else ""


def source(record: Record) -> str:
    """Where a user came from, of a record that says so."""
    for name in ("addr", "hostname"):
        value = record.inner.get(name)
        if value and value not in ("?", "(null)"):
            return f" from {word(from_text(value))}"
    return ""


def decided(record: Record, object_: str) -> tuple[tuple[str, str], str]:
    """What a security module decided: verbs, object."""
    name = next((found for found in (record.get("path"), record.get("name")) if found), None)
    object_ = object_ or (word(name) if name else "an object")
    fields = record.fields if "seresult" in record.fields else record.inner
    if "seresult" in fields:
        verb = f"was {word(fields['seresult'])} {word(fields.get('seperms', ''))} on"
    else:
        result = (record.get("apparmor") or record.get("action") or "refused or granted").lower()
        verb = f"was {word(result)} {word(record.get('operation') or record.get('requested') or 'access')} on"
    return (verb, verb), object_


def plain_arguments(body: str) -> list[str]:
    """The arguments of an EXECVE record that holds nothing but whole ones in order; [] for any other."""
    out = []
    for at, token in enumerate(body.split(" ")[1:]):
        name, _, value = token.partition("=")
        if name != f"a{at}" or len(value) < 2:
            return []
        if value[0] == '"' and value[-1] == '"':
            out.append(value[1:-1])
        elif values.is_hex(value):
            out.append(values.to_str(bytes.fromhex(value)))
        else:
            return []
    return out


def command_line(argv: list[str]) -> str:
    """Arguments as they would be typed, more or less: an argument that is not plain is in quotes."""
    words: list[str] = []
    size = 0
    for argument in argv:
        if size > LONGEST_COMMAND:
            words.append("…")
            break
        words.append(word(argument) if argument else '""')
        size += len(words[-1])
    return " ".join(words)
