"""text: one English sentence per event, for people.

    At 14:03:21.482 on 2026-11-26 UTC, alice, acting as root, successfully executed /usr/bin/id (id -u), event 317

Who and what come from the normaliser (`audisp.shapes.normal`), the words are ours. What the audited wrote is one word
each, in quotes if it is not plain, with everything escaped that a terminal acts on, so that no name can pass for a part
of the sentence.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

from audisp.event import Batch, Event, Run
from audisp.parse import values
from audisp.parse.interpret import interpret
from audisp.parse.record import Record, arguments
from audisp.parse.sockaddr import decode
from audisp.parse.values import from_text
from audisp.shapes.normal import SYSTEM, TRIGGERED, UNTRIGGERED, Call, Normal, Normaliser, compounds, rows
from audisp.shapes.normal_calls import ACCOUNTS, STALE, Calls, Recall, alone, changes_accounts, single
from audisp.shapes.normal_values import Reader, absolute
from audisp.shapes.shape import ShapeSettings
from audisp.shapes.text_fast import ADDRESS, EXACT, GROUPS, SYSCALL, Halves, cut, runs
from audisp.shapes.text_fast import PROGRAM as PROGRAM_FOUND
from audisp.shapes.text_words import BARE, NOUNS, PAIR, PLAIN, PREPOSITIONS, PROGRAM, VERBS, Shown, peer, word

DECISIONS: Final = frozenset({"AVC", "USER_AVC", "1400", "1107"})
"""Records of what a security module decided."""
LONGEST_COMMAND: Final = 2_048
"""Characters of a command line from which on no further argument is shown."""
PAIRS: Final = frozenset({"renamed"})
"""Actions with a second object: what something is called afterwards."""
_COLON: Final = ord(":")
_UNKNOWN: Final = re.compile(r"unknown\(([0-9]{1,10})\)\Z")


class Text:
    """The shape."""

    name = "text"

    def __init__(self, settings: ShapeSettings) -> None:
        self._reader = Reader(settings.names)
        self._normaliser = Normaliser(self._reader)
        self._calls: Calls[Shown] = Calls(self._normaliser, self._call, word, peer, PAIRS)
        self._commands: Recall[str] = Recall()
        self._singles: Recall[str] = Recall()
        self._halves = Halves(self._reader, self._calls, self._call, self._command_of)
        self._since = 0.0
        self._start = b"-", b"", b"", b"", 0
        """Of a batch: head up to its point, node part, what is said before and behind the milliseconds, their place."""
        self._second = b""
        self._clock = self._day = ""
        self._node, self._host = b"", ""

    def _forget(self) -> None:
        self._calls.forget()
        self._halves.forget()
        self._singles.forget()

    def _fresh(self, arrived: float) -> None:
        """Of what an account is called nobody is sure for long. arrived: the next event's, time.monotonic()."""
        if arrived - self._since > STALE:
            self._since = arrived
            self._forget()

    def render(self, event: Event) -> bytes:
        """The event's sentence; b"" for an EOE alone and for a line that belongs to no event."""
        return self.render_all((event,))[0]

    def render_all(self, events: Sequence[Event]) -> list[bytes]:
        """The sentences of several events: what `render` gives for each."""
        if events:
            self._fresh(events[0].arrived)
        return [*map(self._line, events)]

    def _line(self, event: Event) -> bytes:
        node, head = event.same
        if not head:
            return b""
        second, _, rest = head[6:-2].partition(b".")
        if second != self._second or node != self._node:
            self._turn(event, second)
        millis, _, serial = rest.decode("ascii").partition(":")
        if len(millis) != 3:
            millis = millis.zfill(3)
        said = self._said(event)
        return f"{self._clock}{millis}{self._day}{self._host}{said}, event {serial}\n".encode() if said else b""

    def _turn(self, event: Event, second: bytes) -> None:
        """What a sentence begins with, from this event on."""
        self._second, self._node = second, event.same[0]
        self._clock = event.time.strftime("At %H:%M:%S.")
        self._day = event.time.strftime(" on %Y-%m-%d UTC, ")
        self._host = f"host {word(event.node)}, " if self._node else ""

    def _said(self, event: Event) -> str:
        """The sentence without its beginning and its end; "" for none."""
        found = self._calls.read(event)
        if found is None:
            return self._say(event)
        shown, (object_, object2, _), execve, _ = found
        command = self._command_of(execve) if shown[0] == PROGRAM and execve is not None else ""
        return sentence(shown, object_, object2, command)

    # ---- a batch at once ----

    def runs(self, data: bytes) -> list[Run] | None:
        """The runs of a batch, as `render_batch` wants to have them found (`audisp.cli.cat`)."""
        return runs(data)

    def render_batch(self, batch: Batch) -> list[bytes]:
        """What `render` gives for each of the batch's events, several times as fast."""
        found = batch.found or runs(batch.data)
        if found is None:
            return self.render_all(batch.events)
        self._fresh(batch.arrived)
        halves = self._halves
        get, entry, seen, singles = halves.entries.get, halves.entry, halves.seen, self._singles.get
        out: list[bytes] = []
        put = out.append
        start, sender, clock, day, at = self._start
        for run in found:
            lines, node, head, what, failed, tail, saddr, rest = run if len(run) == GROUPS else cut(run)
            if not head.startswith(start) or node != sender:
                if not head:
                    put(b"")
                    continue
                at = head.index(b".") + 1
                start, sender = head[:at], node
                self._turn(self._event(run, batch), head[6 : at - 1])
                clock, day = self._clock.encode(), f"{self._day}{self._host}".encode()
                self._start = start, sender, clock, day, at
            # A plain call, in a stamp with three digits behind the point.
            if what and head[at + 3] == _COLON and lines.startswith(SYSCALL, len(node)):
                form, beside, left, nothing, right, more = get(what + failed + tail) or entry(what, failed, tail)
                if form == ADDRESS or (form != EXACT and not saddr):
                    pieces = tuple(rest.split(b" msg=" + head))
                    object_, plain, command = beside.get(pieces) or seen(beside, pieces, rest, len(node), len(head))
                    if plain:
                        if form == ADDRESS:
                            object_ = halves.address(saddr, more[2]) if saddr else b""
                        elif form == PROGRAM_FOUND:
                            right = command + (more[0] if object_ == more[1] else right)
                        millis, serial = head[at : at + 3], head[at + 4 : -2]
                        put(b"".join((clock, millis, day, left, object_ or nothing, right, b", event ", serial, b"\n")))
                        continue
            elif not rest and head[at + 3] == _COLON and not lines.startswith(ACCOUNTS, len(node)):
                said = singles(alone(lines, len(node), len(head)))
                if said is not None:
                    millis, serial = head[at : at + 3], head[at + 4 : -2]
                    put(b"".join((clock, millis, day, said.encode(), b", event ", serial, b"\n")) if said else b"")
                    continue
            put(self._line(self._event(run, batch)))
        return out

    def _event(self, run: Run, batch: Batch) -> Event:
        return Event(run[0], run[1], run[2], 0, batch.source, batch.arrived, batch.reader)

    # ---- a plain system call ----

    def _call(self, call: Call, record: Record) -> Shown:
        rule = call.rule
        form = PROGRAM if rule.action == "executed" else PAIR if rule.action in PAIRS else PLAIN
        nothing = NOUNS.get(rule.kind, "")
        subject = who(call.subject, call.acting)
        if rule is TRIGGERED or rule is UNTRIGGERED:
            form, nothing = BARE, ""
            left = f"{subject} {did(('called', 'call'), call.result)} {self._called(record, call)}"
        else:
            blank = " " if nothing or rule.field else ""
            left = f"{subject} {did(VERBS.get(rule.action, ('', '')), call.result)}{blank}"
        failure = self._failure(record, call.result)
        key = f", key {word(call.key)}" if call.key else ""
        how = word(call.how) if call.how else ""
        return form, left, nothing, f"{failure} using {how}{key}" if how else failure + key, failure + key, how

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

    def _command_of(self, body: bytes) -> str:
        known = self._commands.get(body)
        if known is not None:
            return known
        text = body.decode("latin-1").removesuffix("\r")
        command = command_line(plain_arguments(text) or arguments([Record("EXECVE", text)])[0])
        return self._commands.keep(body, command)

    # ---- anything else ----

    def _say(self, event: Event) -> str:
        if changes_accounts(event):
            self._forget()
            key = None
        else:
            key = single(event)
        if key is not None:
            said = self._singles.get(key)
            if said is not None:
                return said
        normal = self._normaliser.normal(event)
        said = "" if normal is None else self._sentence(event, normal)
        if key is not None:
            self._singles.keep(key, said)
        return said

    def _sentence(self, event: Event, normal: Normal) -> str:
        records = event.records
        record = event.first("SYSCALL")
        if record is not None and not any(each.type in compounds() or each.type == "LOGIN" for each in records):
            return self._of_call(event, normal, record)
        decision = next((each for each in records if each.type in DECISIONS), None)
        subject = normal.subject or (SYSTEM if normal.subject_kind == SYSTEM else "")
        object_ = account(normal.object) if normal.object else NOUNS.get(normal.object_kind, "")
        verbs, result = self._verbs(normal), normal.result
        if decision is not None:
            verbs, object_ = decided(decision, object_ if normal.object else "")
            subject, result = subject or decision.get("profile") or "", ""
        elif normal.action == "did-unknown":
            object_, result = f"{word(records[0].type)} saying {word(from_text(records[0].body))}", ""
        elif normal.action == "sent-message":
            object_ = f"saying {word(from_text(records[0].parts()[1] or records[0].body))}"
        if not object_ and verbs[0].rpartition(" ")[2] in PREPOSITIONS:
            object_ = "something"
        middle = f" {object_}" if object_ else ""
        failure = "" if record is None else self._failure(record, normal.result)
        way = f" with {word(normal.how)}" if normal.type == "ANOM_ABEND" and normal.how else using(normal.how)
        where = "" if normal.action == "sent-message" else source(records[0])
        keys = f", key {word(event.keys[0])}" if event.keys else ""
        return f"{who(subject, normal.acting)} {did(verbs, result)}{middle}{failure}{way}{where}{keys}"

    def _of_call(self, event: Event, normal: Normal, record: Record) -> str:
        """A system call beside which stands what the short way does not read."""
        call = self._normaliser.call(record)
        shown = self._call(call, record)
        object_ = word(normal.object) if normal.object else ""
        if call.rule.field == "saddr":
            address = event.get("SOCKADDR", "saddr")
            object_ = "" if address is None else peer(decode(address, self._reader.byteorder(record)))
        elif call.rule.field == "opid" and normal.object2:
            object_ += f" ({word(normal.object2)})"
        command = command_line(event.argv) if shown[0] == PROGRAM and event.first("EXECVE") else ""
        return sentence(shown, object_, renamed(event) if shown[0] == PAIR else "", command)

    def _verbs(self, normal: Normal) -> tuple[str, str]:
        found = VERBS.get(normal.action)
        if found is not None:
            return found
        action = normal.action
        if action in table_actions():
            return action.replace("-", " "), f"do what is called {action}"
        return f"did {word(action)} to", f"do {word(action)} to"


def sentence(shown: Shown, object_: str, object2: str, command: str) -> str:
    """A call and its object. command: line of arguments, "" for none."""
    form, left, nothing, right, without, how = shown
    if form == BARE:
        return f"{left}{right}"
    if form == PROGRAM and object_ == how:
        right = without
    elif form == PAIR and object_ and object2:
        object_ = f"{object_} to {object2}"
    object_ = object_ or nothing
    return f"{left}{object_} ({command}){right}" if command else f"{left}{object_}{right}"


def renamed(event: Event) -> str:
    """What a file is called now: the last PATH, if it is a new name."""
    last = event.of("PATH")[-1:]
    name = last[0].get("name") if last and last[0].fields.get("nametype") == "CREATE" else None
    return "" if name is None else word(absolute(name, event.cwd))


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
