"""``ecs``: one document per event, as auditbeat writes them, in the Elastic Common Schema (docs/shapes/ecs.md).

A document is text that is put together, not an object that is encoded: what repeats itself (who did it, which file,
which address, what it means) is made once and remembered by the text it was made of. What `Names` said while it was
made is asked again each time, for an account may be renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import attrs

from audisp.event import INCOMPLETE, LATE, NO_STAMP, Event
from audisp.parse import arch, values
from audisp.parse.memo import Memo
from audisp.parse.record import Record
from audisp.shapes import activity, activity_process
from audisp.shapes.activity import Leftovers, Meaning, Parts
from audisp.shapes.activity_text import quoted, written
from audisp.shapes.ecs_parts import (
    FRONT,
    PIECES,
    Asked,
    Items,
    Piece,
    Tail,
    arguments_of,
    piece,
    tail,
    user_object,
    words,
)
from audisp.shapes.shape import Nobody, ShapeSettings

ECS_VERSION: Final = "8.11.0"
"""The version of the schema that documents follow and name. Its extract is audisp/shapes/schema_ecs.json."""
MAX_LONG: Final = (1 << 63) - 1
"""Largest number that Elasticsearch takes for a ``long``. The kernel's serials have 32 bits."""

_FRONT: Final = frozenset({"arch", "exit", "items"})
_PROCESS: Final[Mapping[str, str]] = MappingProxyType({"comm": "name", "exe": "executable", "cwd": "working_directory"})
_INGRESS: Final = frozenset({"recvfrom", "recvmsg", "accept", "accept4"})
_EGRESS: Final = frozenset({"connect", "sendto", "sendmsg"})
_OUTCOMES: Final[Mapping[str, str]] = MappingProxyType({activity.FAILURE: "failure"})


@attrs.define
class _Draft:
    """A document on its way. All texts are JSON; "" is absent. call: the system call's name."""

    tail: Tail
    result: str
    data: dict[str, str]
    process: dict[str, str]
    call: str = ""
    meaning: Meaning = activity.NOTHING
    left: Leftovers = attrs.field(factory=Leftovers)
    paths: list[Piece] = attrs.field(factory=list)
    socket: Piece | None = None
    title: str = ""
    arguments: str = ""
    items: int = 0
    wrong: bool = False


class Ecs:
    """Events as ECS documents. See docs/shapes/ecs.md."""

    name = "ecs"

    def __init__(self, settings: ShapeSettings) -> None:
        self._names = settings.names
        self._fixed = isinstance(settings.names, Nobody)
        self._enrichment = settings.enrichment
        self._memo: Memo[Any] = Memo()
        self._second = ("", "")
        self._node = (b"", _host(settings.host))
        self._default_host = self._node[1]
        self._agent = written({"type": activity.PRODUCT, "version": activity.RELEASE})

    def render(self, event: Event) -> bytes:
        """One document. b"" for EOE alone."""
        if event.flags & NO_STAMP:
            return self._stray(event)
        parts = activity.part(event.records)
        if parts is None:
            return b""
        draft = self._who(parts)
        if parts.call is not None and parts.main is not parts.call:
            self._take(draft, parts.main, self._piece(parts.main))
        self._rest(draft, parts)
        return (self._document(event, parts, draft) + "\n").encode("ascii")

    # ---- what the records say ----

    def _who(self, parts: Parts) -> _Draft:
        """Begin with the record that says who: the system call's, else the main one."""
        record = parts.call or parts.main
        if record.type in PIECES:
            return _Draft(Tail(), activity.UNKNOWN, {}, {}, meaning=activity.of_record(record))
        found = FRONT.match(record.body) if record.type == "SYSCALL" else None
        draft = self._slowly(record) if found is None else self._quickly(found.groups())
        if draft.tail.left:
            draft.left.add(record.type, list(draft.tail.left))
        if parts.main is parts.call:
            draft.meaning = activity.of_call(draft.call[1:-1])
        else:
            draft.meaning = activity.of_record(parts.main)
        return draft

    def _quickly(self, said: tuple[str, ...]) -> _Draft:
        """Of a SYSCALL record as the kernel writes it."""
        arch_, number, success, exit_, a0, a1, a2, a3, items, ppid, pid, rest = said
        who = self._tail(rest)
        if arch_ == "c000003e":
            machine = '"x86_64"'
        else:
            machine = quoted(activity.arch_name(arch_))
        call = who.call or quoted(arch.syscall_name(arch_, int(number)) or number)
        data = {
            '"a0"': f'"{a0}"',
            '"a1"': f'"{a1}"',
            '"a2"': f'"{a2}"',
            '"a3"': f'"{a3}"',
            '"arch"': machine,
            '"exit"': f'"{activity.exit_name(exit_) if exit_[0] == "-" else exit_}"',
            '"syscall"': call,
        }
        data.update(who.data)
        process = {"pid": pid, "ppid": ppid}
        process.update(who.process)
        result = activity.SUCCESS if success == "yes" else activity.FAILURE
        return _Draft(who, result, data, process, call, items=int(items))

    def _tail(self, text: str) -> Tail:
        found = self._memo.get(text)
        if type(found) is Tail and (self._fixed or self._current(found.asked)):
            return found
        record = Record("SYSCALL", text)
        items = record.outer_items() + record.inner_items()
        made = tail("SYSCALL", items, record.enriched, self._names)
        free = words(record)
        if free:
            made = attrs.evolve(made, left=made.left + tuple(free))
        self._memo.put(text, made, 4 * len(text))
        return made

    def _slowly(self, record: Record) -> _Draft:
        """Of any record, field by field."""
        numbered = record.type in activity.NUMBERED
        number = "uring_op" if record.type == "URINGOP" else "syscall"
        front: dict[str, str] = {}
        items: Items = []
        again: Items = []
        for numbers, pairs in ((numbered, record.outer_items()), (False, record.inner_items())):
            for name, raw in pairs:
                if name in front:
                    again.append((name, values.from_text(raw)))
                elif name in activity.RESULTS or (numbers and (name == number or name in _FRONT)):
                    front[name] = raw
                else:
                    items.append((name, raw))
        who = tail(record.type, items, record.enriched, self._names)
        who = attrs.evolve(who, left=(*who.left, *again, *words(record)))
        draft = _Draft(who, activity.outcome(record), {}, dict(who.process))
        if numbered:
            self._front(draft, record, front)
        if draft.result == activity.UNKNOWN:
            for name in activity.RESULTS:
                if name in front:
                    draft.data[quoted(name)] = quoted(values.from_text(front[name]))
        draft.data |= dict(who.data)
        return draft

    def _front(self, draft: _Draft, record: Record, front: Mapping[str, str]) -> None:
        if "arch" in front:
            draft.data['"arch"'] = quoted(activity.arch_name(front["arch"]))
        if "exit" in front:
            draft.data['"exit"'] = quoted(activity.exit_name(values.from_text(front["exit"])))
        name = activity.call_name(record)
        if name is not None:
            draft.call = quoted(name)
            draft.data['"uring_op"' if record.type == "URINGOP" else '"syscall"'] = draft.call
        if "items" in front:
            number = activity.small(front["items"])
            if number is None:
                draft.data['"items"'] = quoted(values.from_text(front["items"]))
            else:
                draft.items = number

    def _piece(self, record: Record) -> Piece:
        found = self._memo.get(record.body)
        if (
            type(found) is Piece
            and found.type == record.type
            and (self._fixed or not found.asked or self._current(found.asked))
        ):
            return found
        made = piece(record, self._names)
        self._memo.put(record.body, made, 4 * len(record.body))
        return made

    def _current(self, asked: tuple[Asked, ...]) -> bool:
        """Whether the names of this host's accounts are what they were."""
        for each in asked:
            if (self._names.group(each.id) if each.group else self._names.user(each.id)) != each.name:
                return False
        return True

    def _take(self, draft: _Draft, record: Record, made: Piece) -> None:
        """A record's fields into ``auditd.data``; what finds its place taken is left over, unless it says the same."""
        data, process = draft.data, draft.process
        left = list(made.left)
        for (key, value), (name, plain) in zip(made.data, made.plain, strict=True):
            had = process.get(name)
            if had is not None and name not in data:
                had = had if had[0] == '"' else f'"{had}"'
            else:
                had = data.get(key)
            if had is None:
                data[key] = value
            elif had != value:
                left.append((name, plain))
        draft.left.add(record.type, left)

    def _rest(self, draft: _Draft, parts: Parts) -> None:
        arguments: list[Record] = []
        alone = parts.call is None and parts.main.type in PIECES
        for record in (parts.main, *parts.rest) if alone else parts.rest:
            type_ = record.type
            if type_ == "EXECVE":
                arguments.append(record)
                continue
            if type_ == "SOCKADDR" and draft.call and not draft.data.get('"arch"', "").startswith('"x86_64'):
                machine = arch.machine(parts.call.fields.get("arch", "")) if parts.call is not None else None
                made = piece(record, self._names, None if machine is None else machine.byteorder)
            else:
                made = self._piece(record)
            if type_ == "PATH":
                draft.paths.append(made)
            elif type_ == "CWD" and made.text and "cwd" not in draft.process:
                draft.process["cwd"] = made.text
            elif type_ == "PROCTITLE" and made.text and not draft.title:
                draft.title = made.text
            elif type_ == "SOCKADDR" and made.text and draft.socket is None:
                draft.socket = made
            elif made.text:
                had = {"CWD": draft.process.get("cwd"), "PROCTITLE": draft.title}.get(type_)
                if had != made.text:
                    draft.left.add(type_, list(made.plain))
            else:
                self._take(draft, record, made)
                continue
            if made.left:
                draft.left.add(type_, list(made.left))
        if arguments:
            made = self._piece(arguments[0]) if len(arguments) == 1 else arguments_of(arguments)
            draft.arguments = made.text
            draft.wrong = made.wrong
            self._take(draft, arguments[0], made)

    # ---- what they mean ----

    def _find(self, draft: _Draft, names: tuple[str, ...]) -> str:
        """The first of these fields that the event has, for the summary."""
        for name in names:
            found = draft.data.get(f'"{name}"')
            if found is None:
                found = draft.process.get(name)
                if found is not None and found[0] != '"':
                    found = f'"{found}"'
            if found is None and name in draft.tail.ids:
                found = quoted(draft.tail.names.get(name, draft.tail.ids[name]))
            if found is not None:
                return found
        return ""

    def _file(self, draft: _Draft) -> Piece | None:
        """The PATH that the event is about: the meaning's, or the first behind it that is not a folder on the way."""
        paths = draft.paths
        if not paths:
            return None
        at = draft.meaning.path if len(paths) > draft.meaning.path else 0
        return next((each for each in paths[at:] if not each.passed), paths[at])

    def _account(self, parts: Parts, draft: _Draft, source: str) -> tuple[str, str]:
        """Id and name of an account that the event is about, "" where unknown. source: see `activity.ROLES`."""
        meaning = draft.meaning
        fields = {"first": meaning.first, "second": meaning.second, "object": meaning.object}.get(source, (source,))
        for record in (parts.main, parts.call):
            if record is None:
                continue
            for field in fields:
                raw = record.raw(field)
                value = None if raw is None else activity.value(record.type, field, raw)
                if value is None or raw is None:
                    continue
                if field in ("acct", "grp"):
                    return "", value
                if value == "unset":
                    return "", ""
                if activity.small(raw) is None:
                    return "", value
                name = draft.tail.names.get(field) if record is (parts.call or parts.main) else None
                return value, name or self._name(record, field, raw, group=meaning.roles == "group") or ""
        return "", ""

    def _name(self, record: Record, field: str, raw: str, *, group: bool) -> str | None:
        said = record.added(field)
        if said is not None and said != "unset" and not said.startswith("unknown("):
            return said
        number = int(raw)
        return self._names.group(number) if group and field == "id" else self._names.user(number)

    def _roles(self, parts: Parts, draft: _Draft, out: dict[str, str]) -> None:
        """``user``, ``group`` and ``related``, of an event that is about an account."""
        roles = {role: self._account(parts, draft, source) for role, source in activity.ROLES[draft.meaning.roles]}
        who = draft.tail
        user = user_object(who.ids, who.names, who.selinux, roles)
        if user:
            out["user"] = written(user)
        for field, at in (("uid", user), ("euid", user.get("effective", {}))):
            if field in who.ids and isinstance(at, dict) and at.get("id") != who.ids[field]:
                shown = quoted(who.ids[field])
                if draft.data.setdefault(quoted(field), shown) != shown:
                    draft.left.add((parts.call or parts.main).type, [(field, who.ids[field])])
        group = dict(zip(("id", "name"), roles.get("group", ("", "")), strict=True))
        if any(group.values()):
            out["group"] = written({name: text for name, text in group.items() if text})
        related = list(dict.fromkeys([name for role, (_, name) in roles.items() if name and role != "group"]))
        if related:
            out["related"] = written({"user": related})

    def _source(self, parts: Parts, draft: _Draft, out: dict[str, str]) -> None:
        """Where a session came from."""
        raw = parts.main.raw("addr")
        said = None if raw is None else activity.value(parts.main.type, "addr", raw)
        if said is None:
            return
        draft.data.pop('"addr"', None)
        found = activity.address(said)
        out["source"] = written({"address": said} if found is None else {"ip": found})
        out["network"] = '{"direction":"ingress"}'

    def _ends(self, draft: _Draft, out: dict[str, str]) -> None:
        """``auditd.data.socket``, and whose end of the connection it is."""
        made = draft.socket
        if made is None:
            return
        draft.data['"socket"'] = made.text
        call = draft.call[1:-1]
        if call in _INGRESS:
            out["network"] = '{"direction":"ingress"}'
            if made.file:
                out["source"] = made.file
        elif call in _EGRESS:
            out["network"] = '{"direction":"egress"}'
            if made.file:
                out["destination"] = made.file

    def _head(self, parts: Parts, draft: _Draft) -> str:
        """``event``, and ``auditd`` up to its summary."""
        key = f"head {parts.main.type} {draft.call} {draft.result} {draft.meaning.action}"
        found = self._memo.get(key)
        if type(found) is str:
            return found
        meaning = draft.meaning
        also = activity.of_call(draft.call[1:-1]) if draft.call and parts.main is not parts.call else activity.NOTHING
        type_ = values.from_text(parts.main.type).lower()
        action = meaning.action or (draft.call[1:-1] if draft.call and parts.main is parts.call else type_)
        event: dict[str, object] = {"module": "auditd", "kind": meaning.kind}
        categories = list(dict.fromkeys(meaning.categories + also.categories))
        if categories:
            event["category"] = categories
            event["type"] = list(dict.fromkeys(meaning.types + also.types))
        event |= {"action": action, "outcome": _OUTCOMES.get(draft.result, draft.result)}
        made = written(event)
        self._memo.put(key, made, len(made))
        return made

    # ---- the document ----

    def _document(self, event: Event, parts: Parts, draft: _Draft) -> str:
        meaning, who, data = draft.meaning, draft.tail, draft.data
        out: dict[str, str] = {}
        first, second = who.first, who.second
        object_, detail, what, how = "", "", meaning.what, who.how
        if meaning.roles:
            self._roles(parts, draft, out)
        elif who.user:
            out["user"] = who.user
        if meaning.what in ("file", "filesystem"):
            file = self._file(draft)
            if file is not None:
                object_, what = file.name, file.kind or what
                out["file"] = file.file
        elif meaning.what == "socket" and draft.socket is not None:
            object_, detail = draft.socket.name, draft.socket.second
        if meaning.object:
            object_ = self._find(draft, meaning.object) or object_
        if meaning.detail:
            detail = self._find(draft, meaning.detail) or detail
        if meaning.first != ("auid",):
            first = self._find(draft, meaning.first) or first
        if meaning.second != ("uid",):
            second = self._find(draft, meaning.second) or second
        if meaning.how:
            how = self._find(draft, meaning.how) or how
        self._ends(draft, out)
        if meaning.source and "source" not in out:
            self._source(parts, draft, out)
        if draft.items > len(draft.paths):
            data['"items"'] = f'"{draft.items}"'
        errors = self._errors(event, draft)
        if errors:
            out["error"] = written({"message": errors})
        parent = f'{{"pid":{draft.process["ppid"]}}}' if "ppid" in draft.process else ""
        enrichment = ""
        known = activity_process.known(self._enrichment, event)
        if known is not None:
            parent, enrichment = self._known(known, draft, parent, out)
        process = self._process(draft, parent)
        if process:
            out["process"] = f"{{{process}}}"
        if who.tags:
            out["tags"] = who.tags
        summary = _summary(first, second, what, object_, detail, how)
        stamp, serial = self._time(event)
        pairs = ",".join([f"{key}:{value}" for key, value in data.items()])
        text = [
            f'{{"@timestamp":"{stamp}","agent":{self._agent},"ecs":{{"version":"{ECS_VERSION}"}}',
            f',"event":{self._head(parts, draft)},"service":{{"type":"auditd"}}{self._host(event)}',
            *[f',"{name}":{value}' for name, value in out.items()],
            f',"auditd":{{"message_type":{quoted(values.from_text(parts.main.type).lower())}{serial}',
            f',"session":{quoted(who.session)}' if who.session and who.session != "unset" else "",
            f',"result":"{draft.result}"',
            f',"summary":{summary}' if summary else "",
            f',"data":{{{pairs}}}' if pairs else "",
            f',"paths":[{",".join([each.text for each in draft.paths])}]' if draft.paths else "",
            f',"unmapped":{written(draft.left.all())}' if draft.left else "",
            enrichment,
            "}}",
        ]
        return "".join(text)

    def _process(self, draft: _Draft, parent: str) -> str:
        """The members of ``process``. parent: ``process.parent``."""
        of = draft.process
        members = []
        if "pid" in of:
            members.append(f'"pid":{of["pid"]}')
        if parent:
            members.append(f'"parent":{parent}')
        if draft.title:
            members.append(f'"title":{draft.title}')
        for field, name in _PROCESS.items():
            if field in of:
                members.append(f'"{name}":{of[field]}')
        if draft.arguments and draft.arguments != "[]":
            members.append(f'"args":{draft.arguments}')
        return ",".join(members)

    def _known(self, known: activity_process.Known, draft: _Draft, parent: str, out: dict[str, str]) -> tuple[str, str]:
        """``container``, and ``process.parent``, from what was found out; the rest is ``auditd.enrichment``."""
        container = activity_process.container(known)
        if container is not None:
            runtime = {} if container.runtime is None else {"runtime": container.runtime}
            out["container"] = written({"id": container.id} | runtime)
        found = activity_process.parent(known, activity.small(draft.process.get("ppid")))
        if found is not None:
            about: dict[str, object] = {"pid": found.pid}
            about |= {} if found.exe is None else {"executable": found.exe}
            about |= {} if found.comm is None else {"name": found.comm}
            about |= {} if found.argv is None else {"args": list(found.argv)}
            parent = written(about)
        rest = activity_process.rest(known)
        return parent, f',"enrichment":{written(rest)}' if rest else ""

    def _errors(self, event: Event, draft: _Draft) -> list[str]:
        """What is wrong with the event, in words."""
        lines = event.lines
        if (
            not draft.wrong
            and draft.items <= len(draft.paths)
            and not event.flags & (INCOMPLETE | LATE)
            and len(set(lines)) == len(lines)
        ):
            return []
        return list(event.problems)

    def _time(self, event: Event) -> tuple[str, str]:
        """``@timestamp``, and ``auditd.sequence`` as a member."""
        seconds, _, rest = event.same[1][6:-2].decode("ascii").partition(".")
        millis, _, serial = rest.partition(":")
        if self._second[0] != seconds:
            try:
                text = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
            except (OverflowError, OSError, ValueError):
                text = "9999-12-31T23:59:59"
            self._second = (seconds, text)
        number = int(serial)
        return f"{self._second[1]}.{millis:0>3}Z", f',"sequence":{number}' if number <= MAX_LONG else ""

    def _host(self, event: Event) -> str:
        node = event.same[0]
        if not node:
            return self._default_host
        if self._node[0] != node:
            self._node = (node, _host(event.node))
        return self._node[1]

    def _stray(self, event: Event) -> bytes:
        """A line that belongs to no event: its text, and that it is one. It has no time, so it gets the epoch's."""
        document = {
            "@timestamp": "1970-01-01T00:00:00.000Z",
            "ecs": {"version": ECS_VERSION},
            "event": {
                "module": "auditd",
                "kind": "pipeline_error",
                "original": values.from_text(event.raw.decode("latin-1").removesuffix("\n")),
            },
            "service": {"type": "auditd"},
            "error": {"message": ["the line is no audit record"]},
        }
        return (written(document) + "\n").encode("ascii")


def _host(name: str) -> str:
    """``host``, as a member behind others."""
    return f',"host":{written({"name": name, "hostname": name})}' if name else ""


def _summary(first: str, second: str, what: str, object_: str, detail: str, how: str) -> str:
    """``auditd.summary``; "" without anything to say. All but `what` are JSON."""
    actor = f'"primary":{first}' if first else ""
    if second:
        actor = f'{actor},"secondary":{second}' if actor else f'"secondary":{second}'
    members = [f'"actor":{{{actor}}}'] if actor else []
    about = [f'"type":"{what}"'] if what else []
    if object_:
        about.append(f'"primary":{object_}')
    if detail:
        about.append(f'"secondary":{detail}')
    if about:
        members.append(f'"object":{{{",".join(about)}}}')
    if how:
        members.append(f'"how":{how}')
    return f"{{{','.join(members)}}}" if members else ""
