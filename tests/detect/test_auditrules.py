"""Audit rules in both forms, and which of them a Sigma rule needs."""

from __future__ import annotations

import struct

import pytest

from audisp.detect.auditrules import AuditRule, parse_rule, parse_rules, unpack_rule
from audisp.detect.demand import Demand, demands_of, verdicts
from audisp.detect.form import And, Heading, Is, Node, Not, Or, Rule, Source, Text
from audisp.errors import ParseError
from audisp.sources.kernel import Control
from tests.needs import needs


def data_of(
    fields: list[tuple[int, int | str]], calls: set[int] | None = None, *, action: int = 2, flags: int = 4
) -> bytes:
    """A struct audit_rule_data as the kernel gives it."""
    mask = [0xFFFFFFFF] * 63 + [0] if calls is None else [0] * 64
    for number in calls or ():
        mask[number // 32] |= 1 << number % 32
    buffer = b"".join(value.encode() for _, value in fields if isinstance(value, str))
    values = [len(value) if isinstance(value, str) else value for _, value in fields]
    numbers = [field for field, _ in fields]
    empty = [0] * (64 - len(fields))
    body = struct.pack("=3I", flags, action, len(fields)) + struct.pack("=64I", *mask)
    for row in (numbers, values, [0x40000000] * len(fields)):
        body += struct.pack("=64I", *row, *empty)
    return body + struct.pack("=I", len(buffer)) + buffer


BOTH = [
    ("-a always,exit -F arch=b64 -S execve,execveat -k exec", data_of([(11, 0xC000003E), (210, "exec")], {59, 322})),
    ("-w /etc/shadow -p wa -k shadow", data_of([(105, "/etc/shadow"), (106, 10), (210, "shadow")])),
    ("-w /etc/audit/ -p wa", data_of([(107, "/etc/audit"), (106, 10)])),
    ("-a never,exit -F arch=b32 -S socket -F uid=33", data_of([(11, 0x40000003), (1, 33)], {359}, action=0)),
    ("-a always,exclude -F msgtype!=PATH", None),
    ("-a always,exit -F arch=b64 -S chmod -F a1&04000", data_of([(11, 0xC000003E), (201, 0o4000)], {90})),
]


@pytest.mark.parametrize(("line", "data"), BOTH)
def test_both_forms_are_one_rule(line: str, data: bytes | None) -> None:
    rule = parse_rule(line)
    assert rule is not None
    if data is not None:
        assert unpack_rule(data) == rule


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-a always,nosuch -S open", "no list of user, task, exit"),
        ("-w /x -p z", "permissions are of r, w, x and a"),
        ("-a always,exit -F uid", "no field, operator and value"),
        ("-a always,exit -F arch=z80", "no machine"),
        ("-a always,exit -X y", "'-X' is no option of a rule"),
        ("-w", "-w needs a value"),
        ("-w '/x", "No closing quotation"),
    ],
)
def test_a_line_that_is_none(line: str, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        parse_rule(line)
    assert parse_rules(f"-D\n-b 8192\n# -w /x\n{line}\n-w /y\n", "a.rules")[1][0].startswith("a.rules:4: ")
    assert len(parse_rules(f"-D\n{line}\n-w /y\n", "a.rules")[0]) == 1


def test_bytes_that_are_no_rule() -> None:
    with pytest.raises(ParseError, match="shorter than"):
        unpack_rule(b"\0" * 100)
    with pytest.raises(ParseError, match="65 fields"):
        unpack_rule(struct.pack("=3I", 4, 2, 65) + b"\0" * 1028)


def one(node: Node, source: Source = "auditd", *, definition: str = "", tags: tuple[str, ...] = ()) -> Rule:
    return Rule(Heading("i", "t", tags=tags, definition=definition), source, node)


def text(field: str, *parts: str | int) -> Is:
    return Is(field, Text(parts))


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        (one(text("Image", "/x"), "process_creation"), ["-a always,exit -F arch=b64 -S execve,execveat"]),
        (one(text("DestinationPort", "1"), "network_connection"), ["-a always,exit -F arch=b64 -S connect"]),
        (one(text("TargetFilename", "/etc/cron.d/", 0), "file_event"), ["-w /etc/cron.d/ -p wa"]),
        (one(And((text("type", "SYSCALL"), text("SYSCALL", "mknod")))), ["-a always,exit -F arch=b64 -S mknod"]),
        (one(And((text("type", "EXECVE"), text("a0", "x")))), ["-a always,exit -F arch=b64 -S execve,execveat"]),
        (one(And((text("type", "PATH"), text("name", "/etc/shells")))), ["-w /etc/shells -p wa"]),
        (
            one(And((text("type", "PATH"), text("name", "/etc/issue"))), tags=("attack.discovery",)),
            ["-w /etc/issue -p r"],
        ),
        (one(text("key", "susp")), ["a rule with -k susp"]),
        (one(Or((text("type", "ADD_USER"), text("type", "DEL_USER")))), []),
        (
            one(text("key", "k"), definition="Required:\n  auditctl -w /usr/bin/wget -p x -k k\n  -w nothing else"),
            ["-w /usr/bin/wget -p x -k k"],
        ),
        (
            one(And((text("type", "SYSCALL"), text("comm", "x"), Not(text("SYSCALL", "open"))))),
            ["-a always,exit -F arch=b64 -S execve,execveat"],
        ),
    ],
)
def test_what_a_rule_needs(rule: Rule, lines: list[str]) -> None:
    assert [each.line for each in demands_of(rule)] == lines


def test_what_its_author_narrowed_is_enough() -> None:
    line = "-a always,exit -F arch=b64 -S chmod -F a1&04000"
    (found,) = demands_of(one(text("SYSCALL", "chmod"), definition=line))
    assert verdicts([found], parse_rules(line, "x")[0])[0].narrowed == ()
    assert verdicts([found], parse_rules(line + " -F auid>=1000", "x")[0])[0].narrowed == ("auid",)
    (found,) = demands_of(one(text("Image", "/x"), "process_creation"))
    assert verdicts([found], parse_rules("-a always,exit -S execve -F success=1", "x")[0])[0].narrowed == ()


def test_a_file_anywhere_needs_the_calls() -> None:
    (found,) = demands_of(one(text("TargetFilename", 0, "/.ssh/id"), "file_event"))
    assert {"openat", "rename"} <= set(found.calls)


@pytest.mark.parametrize(
    ("demand", "rules", "met", "narrowed"),
    [
        (Demand("", calls=("execve",)), "-a always,exit -F arch=b64 -S execve", True, ()),
        (Demand("", calls=("execve",)), "-a always,exit -F arch=b64 -S 59", True, ()),
        (Demand("", calls=("execve",)), "-a always,exit -S all", True, ()),
        (Demand("", calls=("execve",)), "-a always,exit -F arch=b32 -S execve", False, ()),
        (Demand("", calls=("execve",)), "-a never,exit -F arch=b64 -S execve", False, ()),
        (Demand("", calls=("execve",)), "-a always,exit -F arch=b64 -S execve -F auid>=1000", True, ("auid",)),
        (Demand("", calls=("execve",)), "-w /usr/bin -p x", False, ()),
        (Demand("", watch="/etc/shadow", perms=frozenset("wa")), "-w /etc/ -p rwa", True, ()),
        (Demand("", watch="/etc/shadow", perms=frozenset("wa")), "-w /etc/shadow -p r", False, ()),
        (Demand("", watch="/etc/shadow", perms=frozenset("wa")), "-w /etc/shad -p wa", False, ()),
        (Demand("", calls=("execve",), narrowed=("success",)), "-a always,exit -S execve -F success=1", True, ()),
        (Demand("", calls=("execve",), narrowed=("a1",)), "-a always,exit -S execve -F a1&1 -F uid=0", True, ("uid",)),
        (Demand("", key="k"), "-w /x -p r -k k", True, ()),
        (Demand("", watch="/x", perms=frozenset("x"), key="k"), "-w /x -p x", False, ()),
    ],
)
def test_whether_it_is_there(demand: Demand, rules: str, met: bool, narrowed: tuple[str, ...]) -> None:
    loaded, wrong = parse_rules(rules, "x")
    assert not wrong
    (found,) = verdicts([demand], loaded)
    assert (found.met, found.narrowed) == (met, narrowed)


@needs("root", "audit")
def test_the_kernels_own_are_read() -> None:
    control = Control()
    try:
        raw = control.rules()
        assert control.count_rules() == len(raw)
    finally:
        control.close()
    assert all(isinstance(unpack_rule(each), AuditRule) for each in raw)
